//! Why a merchant or a payout was refused.

use crate::ids::{CredentialId, MerchantId, PayoutId};

/// A merchant, a till or a payout was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettlementError {
    /// No such merchant. `settlement.merchant_not_found`.
    #[error("there is no merchant {merchant}")]
    MerchantNotFound {
        /// Which.
        merchant: MerchantId,
    },
    /// A category is four digits. `settlement.bad_category`.
    #[error("a merchant's category is four digits")]
    BadCategory,
    /// No such till. `settlement.till_not_found`.
    #[error("there is no till {till}")]
    TillNotFound {
        /// Which.
        till: CredentialId,
    },
    /// No such payout. `settlement.payout_not_found`.
    #[error("there is no payout {payout}")]
    PayoutNotFound {
        /// Which.
        payout: PayoutId,
    },
    /// What became of the payout is known, so nobody can say otherwise.
    /// `settlement.payout_final`.
    #[error("the payout {payout} has ended")]
    PayoutFinal {
        /// Which.
        payout: PayoutId,
    },
    /// The node's record says that the payout is on its way, or arrived.
    /// `settlement.payout_in_flight`.
    #[error("the node's record of the payout {payout} says that it has not failed")]
    PayoutInFlight {
        /// Which.
        payout: PayoutId,
    },
    /// The merchant's balance does not cover amount and fee. `settlement.insufficient_balance`.
    #[error("the merchant has {available_msat} msat, {needed_msat} msat is needed")]
    InsufficientBalance {
        /// What can be paid out.
        available_msat: i64,
        /// What was asked, and the fee.
        needed_msat: i64,
    },
    /// The invoice has no amount. `settlement.no_amount`.
    #[error("the invoice has no amount in it")]
    NoAmount,
    /// The invoice's time is over. `settlement.invoice_expired`.
    #[error("the invoice expired at {expired_at_ms}")]
    InvoiceExpired {
        /// When.
        expired_at_ms: i64,
    },
    /// The invoice was paid, or tried, by a payout before. `settlement.invoice_used`.
    #[error("the invoice was used by {by}")]
    InvoiceUsed {
        /// The payout.
        by: String,
    },
    /// A route to the invoice can lock the money up for too long. `settlement.locks_too_long`.
    #[error("the invoice can lock the money up for {blocks} blocks, at most {most_blocks} may be")]
    LocksTooLong {
        /// For how many blocks its last hop alone can.
        blocks: u32,
        /// For how many it may: [`Settings::max_lock_blocks`](crate::Settings::max_lock_blocks).
        most_blocks: u32,
    },
    /// The invoice is the merchant's own, in this engine. `settlement.own_invoice`.
    #[error("the invoice is for the merchant itself, in this engine")]
    OwnInvoice,
}

impl SettlementError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MerchantNotFound { .. } => "settlement.merchant_not_found",
            Self::BadCategory => "settlement.bad_category",
            Self::TillNotFound { .. } => "settlement.till_not_found",
            Self::PayoutNotFound { .. } => "settlement.payout_not_found",
            Self::PayoutFinal { .. } => "settlement.payout_final",
            Self::PayoutInFlight { .. } => "settlement.payout_in_flight",
            Self::InsufficientBalance { .. } => "settlement.insufficient_balance",
            Self::NoAmount => "settlement.no_amount",
            Self::InvoiceExpired { .. } => "settlement.invoice_expired",
            Self::InvoiceUsed { .. } => "settlement.invoice_used",
            Self::LocksTooLong { .. } => "settlement.locks_too_long",
            Self::OwnInvoice => "settlement.own_invoice",
        }
    }
}
