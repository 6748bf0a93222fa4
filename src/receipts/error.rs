//! What can be wrong with a receipt.

use crate::ids::InvoiceId;

/// A receipt could not be issued or found. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The invoice is not paid, so that there is nothing to confirm. `receipt.not_settled`.
    #[error("the invoice {invoice} is not settled")]
    NotSettled {
        /// Which.
        invoice: InvoiceId,
    },
    /// The seller has no receipt of that number, or the invoice none. `receipt.not_found`.
    #[error("there is no such receipt")]
    NotFound,
    /// The name is not one of the IANA time zones. `receipt.unknown_time_zone`.
    #[error("there is no time zone {time_zone}")]
    UnknownTimeZone {
        /// What was given, at most 50 characters of it.
        time_zone: String,
    },
    /// What the chain says of a payment is not what the receipt says: it has been reorganised
    /// since, or its block is above the one that was asked for. `receipt.not_in_chain`.
    #[error("the chain does not have the payment {reference} of receipt {number}")]
    NotInChain {
        /// The receipt's number.
        number: u64,
        /// The payment's outpoint.
        reference: String,
    },
    /// The secret gives no key, which nobody will ever see. `receipt.no_key`.
    #[error("no key could be derived for receipts")]
    NoKey,
}

impl ReceiptError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSettled { .. } => "receipt.not_settled",
            Self::NotFound => "receipt.not_found",
            Self::UnknownTimeZone { .. } => "receipt.unknown_time_zone",
            Self::NotInChain { .. } => "receipt.not_in_chain",
            Self::NoKey => "receipt.no_key",
        }
    }
}
