//! Transfers: what is asked for and what is written down.

use serde::{Deserialize, Serialize};

use super::account::Account;
use crate::ids::TransferId;

/// Why money moved. Stored with the transfer as its snake_case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TransferKind {
    /// The operator put money in or took it out.
    Capital,
    /// A sale that was paid over Lightning.
    Sale,
    /// A card that was topped up.
    TopUp,
    /// A sale that was paid with a card.
    Charge,
    /// Bitcoin set aside for points.
    RewardFunding,
    /// Points given.
    PointsAccrual,
    /// Points handed back.
    PointsRedemption,
    /// Bitcoin for points handed back.
    RedemptionCredit,
    /// A merchant's money on its way to the merchant.
    Payout,
    /// The operator's fee for a payout.
    PayoutFee,
    /// What the route of a payout cost.
    RoutingFee,
    /// Money that matches nothing.
    Unmatched,
}

/// A transfer to be made at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTransfer {
    /// A new id.
    pub id: TransferId,
    /// The account debited.
    pub debit: Account,
    /// The account credited, in the same asset.
    pub credit: Account,
    /// More than zero, in the asset's unit.
    pub amount: i64,
    /// Why.
    pub kind: TransferKind,
    /// The object it belongs to, by its id.
    pub reference: String,
    /// The most that the credited account may come to, holds counted; `None` for no limit.
    pub credit_ceiling: Option<i64>,
}

/// A transfer in two phases: the money is set aside now, moved by `Capture` or given back by
/// `Release`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHold {
    /// What is set aside.
    pub transfer: NewTransfer,
    /// When the hold ends by itself; `None` where an external effect is behind it, since that
    /// can only be ended by its outcome.
    pub expires_at_ms: Option<i64>,
}

/// How a hold stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldState {
    /// The hold as it was made.
    pub hold: NewHold,
    /// What is still set aside; zero once it was captured or released.
    pub remaining: i64,
}

/// A transfer as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRow {
    /// Its place in the order of all transfers.
    pub position: i64,
    /// Its id.
    pub id: TransferId,
    /// When it was committed, milliseconds since the epoch.
    pub at_ms: i64,
    /// The account debited.
    pub debit: Account,
    /// The account credited.
    pub credit: Account,
    /// More than zero, in the asset's unit.
    pub amount: i64,
    /// Why.
    pub kind: TransferKind,
    /// The object it belongs to.
    pub reference: String,
    /// The balance of the debited account after it, towards that account's side.
    pub debit_balance_after: i64,
    /// The balance of the credited account after it, towards that account's side.
    pub credit_balance_after: i64,
}
