//! The chart of accounts: every kind of account there is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The side on which an account grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What the operator has, and what it has spent: assets and expenses.
    Debit,
    /// What the operator owes or has earned: liabilities, capital and income.
    Credit,
}

/// Whose account it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// The operator's own; one account an asset.
    Operator,
    /// One account a card.
    Card,
    /// One account a merchant.
    Merchant,
    /// One account a points program.
    Program,
}

macro_rules! chart {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $side:ident, $owner:ident, $floor:expr;)*) => {
        /// A kind of account. An account is not created: it *is* its kind, owner and asset.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AccountKind { $($(#[$doc])* $name,)* }

        impl AccountKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in a stored account.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The side on which the account grows; its balance is counted towards that side.
            pub fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }

            /// Whose it is.
            pub fn owner_kind(self) -> OwnerKind {
                match self { $(Self::$name => OwnerKind::$owner,)* }
            }

            /// The balance below which no transfer may bring it, holds counted. `None` for an
            /// account that records facts: what happened outside is never refused.
            pub fn floor(self) -> Option<i64> {
                match self { $(Self::$name => $floor,)* }
            }
        }

        impl FromStr for AccountKind {
            type Err = UnknownAccountKind;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($text => Ok(Self::$name),)* _ => Err(UnknownAccountKind) }
            }
        }
    };
}

/// The text names no kind of account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such kind of account")]
pub struct UnknownAccountKind;

chart! {
    /// Control account: ours in the node's channels. Tied to the node by the audit.
    NodeChannels = "node_channels", Debit, Operator, None;
    /// Control account: ours on chain in the node's wallet, closing channels included, and in the
    /// operator's own wallets. Tied to both by the audit.
    NodeOnchain = "node_onchain", Debit, Operator, None;
    /// What the operator put into the node, and what channels and chain cost it.
    OperatorCapital = "operator_capital", Credit, Operator, None;
    /// What the operator owes a merchant.
    MerchantPayable = "merchant_payable", Credit, Merchant, Some(0);
    /// What a merchant owes the operator: a credit that vanished after it was paid out.
    MerchantReceivable = "merchant_receivable", Debit, Merchant, Some(0);
    /// What whoever holds a card owes the operator: a credit that vanished after it was spent.
    CardReceivable = "card_receivable", Debit, Card, Some(0);
    /// What an issuer that cards were taken over from still has of the money on them: the operator
    /// books it as capital out when it comes.
    FormerIssuer = "former_issuer", Debit, Operator, None;
    /// What the operator owes whoever holds a card.
    CardBalance = "card_balance", Credit, Card, Some(0);
    /// Bitcoin set aside for the points of a program that are out.
    RewardFund = "reward_fund", Credit, Program, Some(0);
    /// What a merchant has put aside for points of sales whose money goes elsewhere.
    RewardBudget = "reward_budget", Credit, Merchant, Some(0);
    /// Points of a program that were ever given, less those that came back.
    PointsIssued = "points_issued", Debit, Program, Some(0);
    /// Points that a card has.
    PointsBalance = "points_balance", Credit, Card, Some(0);
    /// What the operator earned by fees.
    FeeIncome = "fee_income", Credit, Operator, Some(0);
    /// What was on cards that expired long ago and that nobody asked for.
    Breakage = "breakage", Credit, Operator, Some(0);
    /// What the operator paid for routes.
    RoutingFees = "routing_fees", Debit, Operator, None;
    /// What the operator earned by the spread of conversions.
    SpreadIncome = "spread_income", Credit, Operator, Some(0);
    /// The operator's open position in an asset: what conversions brought of it, less what they
    /// took. Below zero the operator owes it. How far it may go is said by whoever converts.
    Exchange = "exchange", Credit, Operator, None;
    /// What the operator lost by taps that its tills took offline and that their cards could not
    /// pay.
    OfflineLoss = "offline_loss", Debit, Operator, None;
    /// What a merchant lost by taps that it took offline and that nobody pays: a note, with
    /// `unpaid_sales` on its other side, that the operator owes nothing of.
    MerchantOfflineLoss = "merchant_offline_loss", Debit, Merchant, Some(0);
    /// Sales of a merchant that nobody pays.
    UnpaidSales = "unpaid_sales", Credit, Merchant, Some(0);
    /// Money that arrived and matches nothing; it waits for a person.
    Suspense = "suspense", Credit, Operator, None;
}

impl fmt::Display for AccountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
