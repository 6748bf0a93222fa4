//! What can be wrong with an invoice.

use super::InvoiceState;
use crate::ids::InvoiceId;

/// An invoice could not be made or found. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvoiceError {
    /// No such invoice. `invoice.not_found`.
    #[error("there is no invoice {invoice}")]
    NotFound {
        /// Which.
        invoice: InvoiceId,
    },
    /// No payment of the invoice is being taken. `invoice.not_processing`.
    #[error("the invoice {invoice} is {state:?}")]
    NotProcessing {
        /// Which.
        invoice: InvoiceId,
        /// Where it stands.
        state: InvoiceState,
    },
    /// The invoice cannot be paid from an account of this engine, as it could not be over
    /// Lightning: it is paid, its time is over, or the amount is another one.
    /// `invoice.not_payable`.
    #[error("the invoice {invoice} cannot be paid: {reason}")]
    NotPayable {
        /// Which.
        invoice: InvoiceId,
        /// Why.
        reason: &'static str,
    },
}

impl InvoiceError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "invoice.not_found",
            Self::NotProcessing { .. } => "invoice.not_processing",
            Self::NotPayable { .. } => "invoice.not_payable",
        }
    }
}
