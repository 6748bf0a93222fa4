//! Why a payment of a card, or money for one, was refused.

use super::error::CardError;
use crate::Error;
use crate::ids::{CardId, CardPaymentId};

/// A payment of a card, or money for one, was refused. Nothing was changed, no balance and no
/// counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardPaymentError {
    /// No such payment. `card.payment_not_found`.
    #[error("there is no payment {payment}")]
    PaymentNotFound {
        /// Which.
        payment: CardPaymentId,
    },
    /// What became of the payment is known, so nobody can say otherwise. `card.payment_final`.
    #[error("the payment {payment} has ended")]
    PaymentFinal {
        /// Which.
        payment: CardPaymentId,
    },
    /// The node's record says that the payment is on its way, or arrived.
    /// `card.payment_in_flight`.
    #[error("the node's record of the payment {payment} says that it has not failed")]
    PaymentInFlight {
        /// Which.
        payment: CardPaymentId,
    },
    /// The invoice has no amount. `card.no_amount`.
    #[error("the invoice has no amount in it")]
    NoAmount,
    /// An amount was given, and the invoice has another one. `card.other_amount`.
    #[error("the invoice asks for another amount")]
    OtherAmount,
    /// The invoice's time is over. `card.invoice_expired`.
    #[error("the invoice expired at {expired_at_ms}")]
    InvoiceExpired {
        /// When.
        expired_at_ms: i64,
    },
    /// The invoice was paid, or tried, before: a new one is to be made. `card.invoice_used`.
    #[error("the invoice was used by {by}")]
    InvoiceUsed {
        /// What paid it, or tried to.
        by: String,
    },
    /// The invoice is the card's own, in this engine. `card.own_invoice`.
    #[error("the invoice is for the card itself")]
    OwnInvoice,
    /// Too many payments of the card are on their way. `card.too_many_in_flight`, retryable.
    #[error("{limit} payments of the card are on their way: no more at once")]
    TooManyInFlight {
        /// How many may be.
        limit: i64,
    },
    /// A route to the invoice can lock the money up for too long. `card.locks_too_long`.
    #[error("the invoice can lock the money up for {blocks} blocks, at most {most_blocks} may be")]
    LocksTooLong {
        /// For how many blocks its last hop alone can.
        blocks: u32,
        /// For how many it may be, the whole route counted.
        most_blocks: u32,
    },
    /// The merchant bears the route, and has too little here for it. `card.route_not_covered`.
    #[error("the merchant has {available_msat} msat here, the route may cost {needed_msat} msat")]
    RouteNotCovered {
        /// What the merchant has.
        available_msat: i64,
        /// What the route may cost.
        needed_msat: i64,
    },
    /// The card's program says where it can pay, and who is paid is not known.
    /// `card.payee_not_known`.
    #[error("the card can pay at certain merchants alone, and this is none of them")]
    PayeeNotKnown,
    /// The balance of the card is not bitcoin. `card.other_unit`.
    #[error("the card's balance is not bitcoin")]
    OtherUnit,
    /// Nothing is topped up at this address. `card.top_up_address_unknown`.
    #[error("no card is topped up at this address")]
    TopUpAddressUnknown,
    /// The address was taken away. `card.top_up_address_revoked`.
    #[error("nothing is taken at this address any more")]
    TopUpAddressRevoked,
    /// No more may be on the card. `card.full`.
    #[error("the card {card} can have no more")]
    Full {
        /// Which.
        card: CardId,
    },
    /// The amount is none, or less or more than is taken. `card.amount_not_within_bounds`.
    #[error("the amount is not within bounds: {min_msat} to {max_msat} msat")]
    AmountNotWithinBounds {
        /// The least.
        min_msat: i64,
        /// The most.
        max_msat: i64,
    },
}

impl CardPaymentError {
    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TooManyInFlight { .. })
    }

    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::PaymentNotFound { .. } => "card.payment_not_found",
            Self::PaymentFinal { .. } => "card.payment_final",
            Self::PaymentInFlight { .. } => "card.payment_in_flight",
            Self::NoAmount => "card.no_amount",
            Self::OtherAmount => "card.other_amount",
            Self::InvoiceExpired { .. } => "card.invoice_expired",
            Self::InvoiceUsed { .. } => "card.invoice_used",
            Self::OwnInvoice => "card.own_invoice",
            Self::TooManyInFlight { .. } => "card.too_many_in_flight",
            Self::LocksTooLong { .. } => "card.locks_too_long",
            Self::RouteNotCovered { .. } => "card.route_not_covered",
            Self::PayeeNotKnown => "card.payee_not_known",
            Self::OtherUnit => "card.other_unit",
            Self::TopUpAddressUnknown => "card.top_up_address_unknown",
            Self::TopUpAddressRevoked => "card.top_up_address_revoked",
            Self::Full { .. } => "card.full",
            Self::AmountNotWithinBounds { .. } => "card.amount_not_within_bounds",
        }
    }
}

impl From<CardPaymentError> for Error {
    fn from(error: CardPaymentError) -> Self {
        CardError::from(error).into()
    }
}
