//! Transfers: what is asked for and what is written down.

use serde::{Deserialize, Serialize};

use super::account::Account;
use super::batch::UsageWindow;
use crate::ids::TransferId;

/// An enum whose variants are stored by a name each, the one that serde has for it.
macro_rules! stored_by_name {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// The name it is stored by.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

stored_by_name! {
    /// Why money moved. Stored with the transfer by its name.
    #[non_exhaustive]
    TransferKind {
        /// The operator put money in or took it out.
        Capital = "capital",
        /// The node's money that came out of its channels into its wallet on chain.
        ChannelClosed = "channel_closed",
        /// A sale that was paid over Lightning.
        Sale = "sale",
        /// A card that was topped up.
        TopUp = "top_up",
        /// The money on a card that was taken over from another issuer.
        CardImport = "card_import",
        /// A contribution to a merchant.
        Contribution = "contribution",
        /// An invoice of the operator's own that was paid.
        OperatorReceipt = "operator_receipt",
        /// What was paid beyond what an invoice asked for.
        Surplus = "surplus",
        /// A sale that was paid with a card.
        Charge = "charge",
        /// A BOLT11 that was paid with the money of a card.
        CardPayment = "card_payment",
        /// Bitcoin set aside for points.
        RewardFunding = "reward_funding",
        /// A merchant's money put aside for points, or given back.
        RewardBudget = "reward_budget",
        /// Points given.
        PointsAccrual = "points_accrual",
        /// Points of a sale that was refunded.
        PointsClawback = "points_clawback",
        /// What was set aside for points of a sale that was refunded.
        RewardReturned = "reward_returned",
        /// Points handed back.
        PointsRedemption = "points_redemption",
        /// Bitcoin for points handed back.
        RedemptionCredit = "redemption_credit",
        /// A merchant's money on its way to the merchant.
        Payout = "payout",
        /// The operator's fee for a payout.
        PayoutFee = "payout_fee",
        /// What the route of a payout cost.
        RoutingFee = "routing_fee",
        /// What a liquidity provider kept of a payment for the channel it opened for it.
        LiquidityFee = "liquidity_fee",
        /// What a transaction on chain cost.
        ChainFee = "chain_fee",
        /// What the operator keeps of a sale that was paid to the merchant's own wallet.
        OwnWalletFee = "own_wallet_fee",
        /// Money that matches nothing.
        Unmatched = "unmatched",
        /// Money that matched nothing, given to whom it belongs.
        Assigned = "assigned",
        /// What the operator keeps of a conversion.
        Spread = "spread",
        /// Money of a sale or a top-up that goes back: of an invoice; of a charge at another rate
        /// than it came.
        Refund = "refund",
        /// All that was on a card, to the one that came in its place.
        Replacement = "replacement",
        /// All that was on a card, where it was asked for when the card was retired.
        Retirement = "retirement",
        /// All that was on a card that expired long ago.
        Breakage = "breakage",
        /// A card that was filled up from another one.
        AutoTopUp = "auto_top_up",
        /// A tap that was taken offline and that its card could not pay.
        OfflineLoss = "offline_loss",
        /// What somebody owed, out of what came in.
        Recovered = "recovered",
        /// Another transfer undone, in whole or in part.
        Reversal = "reversal",
    }
}

/// A transfer to be made at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewHold {
    /// What is set aside.
    pub transfer: NewTransfer,
    /// When the hold ends by itself; `None` where an external effect is behind it, since that
    /// can only be ended by its outcome.
    pub expires_at_ms: Option<i64>,
    /// The windows in which the amount was counted as used. What of the hold is not captured is
    /// given back to them.
    pub usage: Vec<UsageWindow>,
}

/// Undoes a transfer, in whole or in part: the same accounts, the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReversal {
    /// A new id.
    pub id: TransferId,
    /// The transfer to be undone.
    pub of: TransferId,
    /// How much of it; more than zero, and never more than what of it still stands.
    pub amount: i64,
    /// Who owes what the account cannot give back; `None` refuses what it cannot.
    pub shortfall: Option<Shortfall>,
    /// The windows in which the undone amount was counted as used: it is given back to them,
    /// whether or not they are over.
    pub usage: Vec<UsageWindow>,
}

/// Where the part of a reversal goes that the credited account has spent by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// A new id for the transfer of that part.
    pub id: TransferId,
    /// A receivable: an account that grows by debits, in the same asset.
    pub receivable: Account,
}

/// How a hold stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldState {
    /// The hold as it was made.
    pub hold: NewHold,
    /// What is still set aside; zero once it was captured or released.
    pub remaining: i64,
}

stored_by_name! {
    /// What became of a hold. Stored by its name.
    HoldChange {
        /// Money was set aside.
        Held = "held",
        /// Some of it moved.
        Captured = "captured",
        /// Some of it was given back.
        Released = "released",
        /// It ended by itself, and what was left was given back.
        Expired = "expired",
    }
}

/// A change of a hold as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldChangeRow {
    /// Its place in the order of all changes of holds.
    pub position: i64,
    /// The commit that did it, by its position.
    pub commit: i64,
    /// The hold as it was made.
    pub hold: NewHold,
    /// What was done.
    pub change: HoldChange,
    /// With how much of it.
    pub amount: i64,
    /// What is left of it.
    pub remaining: i64,
}

/// A transfer as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRow {
    /// Its place in the order of all transfers.
    pub position: i64,
    /// The commit that made it, by its position.
    pub commit: i64,
    /// Its id.
    pub id: TransferId,
    /// The hold it captured, or the transfer it undoes.
    pub follows: Option<TransferId>,
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

impl TransferRow {
    /// The balance after it of `account`, which must be one of its two.
    pub fn balance_after(&self, account: &Account) -> i64 {
        if self.debit == *account {
            self.debit_balance_after
        } else {
            self.credit_balance_after
        }
    }
}
