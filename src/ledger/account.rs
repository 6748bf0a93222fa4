//! What an account is: its kind, its owner and its asset.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chart_of_accounts::AccountKind;
use crate::ids::{CardId, MerchantId, ProgramId};
use crate::money::Asset;

/// Whose account it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The operator.
    Operator,
    /// A card.
    Card(CardId),
    /// A merchant.
    Merchant(MerchantId),
    /// A points program.
    Program(ProgramId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Card(id) => id.fmt(f),
            Self::Merchant(id) => id.fmt(f),
            Self::Program(id) => id.fmt(f),
        }
    }
}

/// An account. As text `kind/owner/asset`, for example `card_balance/card_0190…/BTC`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    kind: AccountKind,
    owner: Owner,
    asset: Asset,
}

impl Account {
    fn operator(kind: AccountKind, asset: Asset) -> Self {
        Self {
            kind,
            owner: Owner::Operator,
            asset,
        }
    }

    /// Ours in the node's channels.
    pub fn node_channels() -> Self {
        Self::operator(AccountKind::NodeChannels, Asset::Btc)
    }

    /// Ours on chain in the node's wallet.
    pub fn node_onchain() -> Self {
        Self::operator(AccountKind::NodeOnchain, Asset::Btc)
    }

    /// What the operator put in.
    pub fn operator_capital() -> Self {
        Self::operator(AccountKind::OperatorCapital, Asset::Btc)
    }

    /// Fees earned.
    pub fn fee_income() -> Self {
        Self::operator(AccountKind::FeeIncome, Asset::Btc)
    }

    /// Money of cards in `unit` that nobody asked for.
    pub fn breakage(unit: Asset) -> Self {
        Self::operator(AccountKind::Breakage, unit)
    }

    /// Fees paid for routes.
    pub fn routing_fees() -> Self {
        Self::operator(AccountKind::RoutingFees, Asset::Btc)
    }

    /// Earned by spreads.
    pub fn spread_income() -> Self {
        Self::operator(AccountKind::SpreadIncome, Asset::Btc)
    }

    /// The operator's open position in an asset.
    pub fn exchange(asset: Asset) -> Self {
        Self::operator(AccountKind::Exchange, asset)
    }

    /// Money that matches nothing.
    pub fn suspense() -> Self {
        Self::operator(AccountKind::Suspense, Asset::Btc)
    }

    /// What the operator lost by taps that were taken offline.
    pub fn offline_loss() -> Self {
        Self::operator(AccountKind::OfflineLoss, Asset::Btc)
    }

    /// What a merchant lost by taps that it took offline.
    pub fn merchant_offline_loss(merchant: MerchantId) -> Self {
        Self::merchant(AccountKind::MerchantOfflineLoss, merchant)
    }

    /// Sales of a merchant that nobody pays.
    pub fn unpaid_sales(merchant: MerchantId) -> Self {
        Self::merchant(AccountKind::UnpaidSales, merchant)
    }

    fn merchant(kind: AccountKind, merchant: MerchantId) -> Self {
        Self {
            kind,
            owner: Owner::Merchant(merchant),
            asset: Asset::Btc,
        }
    }

    /// What a former issuer still has of the money on cards that were taken over.
    pub fn former_issuer() -> Self {
        Self::operator(AccountKind::FormerIssuer, Asset::Btc)
    }

    /// What a merchant is owed.
    pub fn merchant_payable(merchant: MerchantId) -> Self {
        Self {
            kind: AccountKind::MerchantPayable,
            owner: Owner::Merchant(merchant),
            asset: Asset::Btc,
        }
    }

    /// What a merchant owes.
    pub fn merchant_receivable(merchant: MerchantId) -> Self {
        Self {
            kind: AccountKind::MerchantReceivable,
            owner: Owner::Merchant(merchant),
            asset: Asset::Btc,
        }
    }

    /// What whoever holds a card owes.
    pub fn card_receivable(card: CardId) -> Self {
        Self {
            kind: AccountKind::CardReceivable,
            owner: Owner::Card(card),
            asset: Asset::Btc,
        }
    }

    /// The bitcoin on a card.
    pub fn card_balance(card: CardId) -> Self {
        Self::card_balance_in(card, Asset::Btc)
    }

    /// The money on a card whose unit is `asset`.
    pub fn card_balance_in(card: CardId, asset: Asset) -> Self {
        Self {
            kind: AccountKind::CardBalance,
            owner: Owner::Card(card),
            asset,
        }
    }

    /// The points on a card.
    pub fn points_balance(card: CardId, program: ProgramId) -> Self {
        Self {
            kind: AccountKind::PointsBalance,
            owner: Owner::Card(card),
            asset: Asset::Points(program),
        }
    }

    /// The points of a program that are out.
    pub fn points_issued(program: ProgramId) -> Self {
        Self {
            kind: AccountKind::PointsIssued,
            owner: Owner::Program(program),
            asset: Asset::Points(program),
        }
    }

    /// What a merchant has put aside for points.
    pub fn reward_budget(merchant: MerchantId) -> Self {
        Self {
            kind: AccountKind::RewardBudget,
            owner: Owner::Merchant(merchant),
            asset: Asset::Btc,
        }
    }

    /// The bitcoin behind a program's points.
    pub fn reward_fund(program: ProgramId) -> Self {
        Self {
            kind: AccountKind::RewardFund,
            owner: Owner::Program(program),
            asset: Asset::Btc,
        }
    }

    /// The kind.
    pub fn kind(&self) -> AccountKind {
        self.kind
    }

    /// The owner.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The asset.
    pub fn asset(&self) -> Asset {
        self.asset
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.owner, self.asset)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `kind/owner/asset`, or the owner does not fit the kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this names no account: {text}")]
pub struct ParseAccountError {
    /// What was given, cut to 100 characters.
    pub text: String,
}

impl FromStr for Account {
    type Err = ParseAccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseAccountError {
            text: text.chars().take(100).collect(),
        })
    }
}

fn parse(text: &str) -> Option<Account> {
    use super::chart_of_accounts::OwnerKind;

    let mut parts = text.splitn(3, '/');
    let kind: AccountKind = parts.next()?.parse().ok()?;
    let owner = parts.next()?;
    let asset = parts.next()?.parse().ok()?;
    let owner = match kind.owner_kind() {
        OwnerKind::Operator => (owner == "operator").then_some(Owner::Operator)?,
        OwnerKind::Card => Owner::Card(owner.parse().ok()?),
        OwnerKind::Merchant => Owner::Merchant(owner.parse().ok()?),
        OwnerKind::Program => Owner::Program(owner.parse().ok()?),
    };
    Some(Account { kind, owner, asset })
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
