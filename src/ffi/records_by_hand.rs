//! Records of what only a person can decide.

use super::FlashError;
use crate::{cards, invoices, settlement, treasury};

/// What became of a payout, as a person says it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum PayoutOutcome {
    /// The merchant has it.
    PaidOut {
        /// What the route cost, where that is known.
        route_fee_msat: Option<i64>,
    },
    /// It never left, or came back.
    Failed,
}

/// Says what became of a payout that the node cannot tell about.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ResolvePayoutRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The payout.
    pub payout_id: String,
    /// What became of it.
    pub outcome: PayoutOutcome,
    /// How that is known; at most 200 characters.
    pub reason: String,
    /// Says `Failed` although the node's own record says otherwise: only for a record that is
    /// known to be wrong.
    #[uniffi(default = false)]
    pub despite_record: bool,
}

impl TryFrom<ResolvePayoutRequest> for settlement::ResolvePayout {
    type Error = FlashError;

    fn try_from(request: ResolvePayoutRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            payout: request.payout_id.parse()?,
            outcome: match request.outcome {
                PayoutOutcome::PaidOut { route_fee_msat } => {
                    settlement::PayoutOutcome::PaidOut { route_fee_msat }
                }
                PayoutOutcome::Failed => settlement::PayoutOutcome::Failed,
            },
            reason: request.reason,
            despite_record: request.despite_record,
        })
    }
}

/// Gives up on a payment that is being taken and does not arrive.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct GiveUpInvoiceRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The invoice.
    pub invoice_id: String,
    /// How it is known; at most 200 characters.
    pub reason: String,
}

impl TryFrom<GiveUpInvoiceRequest> for invoices::GiveUpInvoice {
    type Error = FlashError;

    fn try_from(request: GiveUpInvoiceRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            invoice: request.invoice_id.parse()?,
            reason: request.reason,
        })
    }
}

/// Takes a holder's credential away and makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct RenewHolderRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card.
    pub card_id: String,
}

impl TryFrom<RenewHolderRequest> for cards::RenewHolder {
    type Error = FlashError;

    fn try_from(request: RenewHolderRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
        })
    }
}

/// Whose an amount in suspense turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum SuspenseTarget {
    /// A card's.
    Card {
        /// The card.
        card_id: String,
    },
    /// A merchant's.
    Merchant {
        /// The merchant.
        merchant_id: String,
    },
    /// The operator's own.
    Operator,
}

impl TryFrom<SuspenseTarget> for treasury::SuspenseTarget {
    type Error = FlashError;

    fn try_from(target: SuspenseTarget) -> Result<Self, FlashError> {
        Ok(match target {
            SuspenseTarget::Card { card_id } => Self::Card {
                card: card_id.parse()?,
            },
            SuspenseTarget::Merchant { merchant_id } => Self::Merchant {
                merchant: merchant_id.parse()?,
            },
            SuspenseTarget::Operator => Self::Operator,
        })
    }
}

impl From<treasury::SuspenseTarget> for SuspenseTarget {
    fn from(target: treasury::SuspenseTarget) -> Self {
        match target {
            treasury::SuspenseTarget::Card { card } => Self::Card {
                card_id: card.to_string(),
            },
            treasury::SuspenseTarget::Merchant { merchant } => Self::Merchant {
                merchant_id: merchant.to_string(),
            },
            treasury::SuspenseTarget::Operator => Self::Operator,
        }
    }
}

/// One amount in suspense.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct SuspenseItem {
    /// Its id.
    pub id: String,
    /// The Lightning payment it came by, or went by.
    pub payment_hash: Option<String>,
    /// The output on chain that it came by: `txid:vout`.
    pub outpoint: Option<String>,
    /// What arrived and matches nothing; below zero what left and matches nothing.
    pub amount_msat: i64,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// Whose it turned out to be; nothing while it waits.
    pub assigned_to: Option<SuspenseTarget>,
    /// How that is known.
    pub reason: Option<String>,
}

impl From<treasury::SuspenseItem> for SuspenseItem {
    fn from(item: treasury::SuspenseItem) -> Self {
        Self {
            id: item.id.to_string(),
            payment_hash: item.payment_hash.map(|hash| hash.to_string()),
            outpoint: item.outpoint.map(|outpoint| outpoint.to_string()),
            amount_msat: item.amount_msat,
            since_ms: item.since_ms,
            assigned_to: item.assigned_to.map(Into::into),
            reason: item.reason,
        }
    }
}

/// Assigns an amount in suspense.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct AssignSuspenseRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The item.
    pub item_id: String,
    /// Whose it is. What left without reason is taken from there.
    pub to: SuspenseTarget,
    /// How that is known; at most 200 characters.
    pub reason: String,
}

impl TryFrom<AssignSuspenseRequest> for treasury::AssignSuspense {
    type Error = FlashError;

    fn try_from(request: AssignSuspenseRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            item: request.item_id.parse()?,
            to: request.to.try_into()?,
            reason: request.reason,
        })
    }
}
