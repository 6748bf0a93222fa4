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
}

impl InvoiceError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "invoice.not_found",
            Self::NotProcessing { .. } => "invoice.not_processing",
        }
    }
}
