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
    /// The hash of the description is not 64 hex digits. `invoice.bad_description_hash`.
    #[error("the hash of a description is 64 hex digits")]
    BadDescriptionHash,
    /// The text is no Bitcoin address. `invoice.bad_address`.
    #[error("the text is no Bitcoin address")]
    BadAddress,
    /// The address is of another network. `invoice.wrong_network`.
    #[error("the address is not of the network `{expected}`")]
    WrongNetwork {
        /// The network of this engine.
        expected: String,
    },
    /// The lines and the tip do not come to the price. `invoice.lines_do_not_add_up`.
    #[error("the lines come to {sum}, the price is {asked}")]
    LinesDoNotAddUp {
        /// What they come to, in the minor unit of the price.
        sum: i128,
        /// What the price is; -1 where there is none.
        asked: i128,
    },
    /// The amount is too small for an output that is relayed. `chain.dust`.
    #[error("{amount_sat} sat are too little for the chain: at least {least_sat}")]
    Dust {
        /// What is asked for.
        amount_sat: i64,
        /// The least that goes.
        least_sat: i64,
    },
    /// Nothing is set aside for the invoice. `invoice.not_authorized`.
    #[error("nothing is set aside for the invoice {invoice}")]
    NotAuthorized {
        /// Which.
        invoice: InvoiceId,
    },
    /// What is set aside for the invoice cannot be taken any more: it is so close to its deadline
    /// that a claim could come too late, and goes back. `invoice.capture_too_late`.
    #[error("what is set aside for the invoice {invoice} is too close to its deadline")]
    CaptureTooLate {
        /// Which.
        invoice: InvoiceId,
    },
    /// Where it stands, it cannot be said to be that. `invoice.not_markable`.
    #[error("the invoice {invoice} is {state:?}")]
    NotMarkable {
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
            Self::NotPayable { .. } => "invoice.not_payable",
            Self::BadDescriptionHash => "invoice.bad_description_hash",
            Self::BadAddress => "invoice.bad_address",
            Self::WrongNetwork { .. } => "invoice.wrong_network",
            Self::LinesDoNotAddUp { .. } => "invoice.lines_do_not_add_up",
            Self::Dust { .. } => "chain.dust",
            Self::NotAuthorized { .. } => "invoice.not_authorized",
            Self::CaptureTooLate { .. } => "invoice.capture_too_late",
            Self::NotMarkable { .. } => "invoice.not_markable",
        }
    }
}
