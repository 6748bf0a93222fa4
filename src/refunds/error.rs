//! What can be wrong with a refund.

use super::RefundState;
use crate::ids::{InvoiceId, RefundId};
use crate::money::Asset;

/// A refund could not be made, found or changed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefundError {
    /// No such refund. `refund.not_found`.
    #[error("there is no refund {refund}")]
    NotFound {
        /// Which.
        refund: RefundId,
    },
    /// Nothing was paid that could be paid back, or all of it was. `refund.nothing_left`.
    #[error("nothing of the invoice {invoice} is left to be paid back")]
    NothingLeft {
        /// The invoice.
        invoice: InvoiceId,
    },
    /// The invoice can still be paid: it is to be settled, expired or cancelled first.
    /// `refund.invoice_open`.
    #[error("the invoice {invoice} can still be paid")]
    InvoiceOpen {
        /// The invoice.
        invoice: InvoiceId,
    },
    /// More than is left of what was paid. `refund.exceeds_paid`.
    #[error("{asked_msat} msat are asked for, and {left_msat} msat are left to be paid back")]
    ExceedsPaid {
        /// What can still be paid back.
        left_msat: i64,
        /// What was asked for.
        asked_msat: i64,
    },
    /// At the rate of now it would be more than the merchant lets go. `refund.exceeds_cap`.
    #[error("at this rate {asked_msat} msat, and the cap leaves {left_msat} msat")]
    ExceedsCap {
        /// What the cap leaves.
        left_msat: i64,
        /// What it would come to.
        asked_msat: i64,
    },
    /// The invoice has no price in a currency, so that there is no rate then.
    /// `refund.no_rate_then`.
    #[error("the invoice {invoice} is not priced in a currency")]
    NoRateThen {
        /// The invoice.
        invoice: InvoiceId,
    },
    /// What was paid is on a card in a currency, and cannot go this way: on chain, for a hold
    /// invoice, or to an invoice of another such card. `refund.card_in_currency`.
    #[error("the card of the invoice {invoice} is in a currency: that cannot go this way")]
    CardInCurrency {
        /// The invoice.
        invoice: InvoiceId,
    },
    /// The card has not as much, in its minor unit. `refund.insufficient_on_card`.
    #[error("{needed} are needed of the card, and it has {available}, in minor units of {unit}")]
    InsufficientOnCard {
        /// The card's unit.
        unit: Asset,
        /// What it has.
        available: i64,
        /// What is needed with what the route may cost.
        needed: i64,
    },
    /// What it costs takes all of it. `refund.fee_takes_all`.
    #[error("of {amount_msat} msat nothing is left after {fee_msat} msat of fees and points")]
    FeeTakesAll {
        /// What is to be paid back.
        amount_msat: i64,
        /// What comes off.
        fee_msat: i64,
    },
    /// The BOLT11 asks for another amount. `refund.other_amount`.
    #[error("the invoice to be paid asks for {asked_msat} msat, the refund comes to {sent_msat}")]
    OtherAmount {
        /// What it asks for.
        asked_msat: i64,
        /// What the refund comes to.
        sent_msat: i64,
    },
    /// The BOLT11 has expired. `refund.invoice_expired`.
    #[error("the invoice to be paid expired")]
    InvoiceExpired {
        /// When, milliseconds since the epoch.
        expired_at_ms: i64,
    },
    /// A route to the BOLT11 can lock the money up for too long. `refund.locks_too_long`.
    #[error("the invoice can lock the money up for {blocks} blocks, at most {most_blocks} may be")]
    LocksTooLong {
        /// For how many blocks its last hop alone can.
        blocks: u32,
        /// For how many it may: [`Settings::max_lock_blocks`](crate::Settings::max_lock_blocks).
        most_blocks: u32,
    },
    /// Something else pays, or paid, the BOLT11. `refund.invoice_used`.
    #[error("the invoice to be paid is paid by {by}")]
    InvoiceUsed {
        /// What pays it.
        by: String,
    },
    /// It would go to whom it comes from. `refund.own_account`.
    #[error("the refund would go to whom it comes from")]
    OwnAccount,
    /// Whoever the invoice is of has too little. `refund.insufficient_balance`.
    #[error("{needed_msat} msat are needed, {available_msat} msat are there")]
    InsufficientBalance {
        /// What can be taken.
        available_msat: i64,
        /// What is needed, the most that it may cost included.
        needed_msat: i64,
    },
    /// The node's channels cannot send that much now. `refund.no_outbound_capacity`.
    #[error("the channels can send {available_msat} msat, and {needed_msat} msat are needed")]
    NoOutboundCapacity {
        /// What the channels can send.
        available_msat: i64,
        /// What is needed, the most that it may cost included.
        needed_msat: i64,
    },
    /// The text is no Lightning address (LUD-16). `refund.bad_address`.
    #[error("this is no Lightning address: {reason}")]
    BadAddress {
        /// What is wrong.
        reason: &'static str,
    },
    /// The Lightning address answered what cannot be used, or refused. `refund.bad_answer`.
    #[error("the address answered what cannot be used: {reason}")]
    BadAnswer {
        /// What is wrong, or what it said.
        reason: String,
    },
    /// The Lightning address does not take this amount. `refund.amount_not_taken`.
    #[error("the address takes {min_msat} to {max_msat} msat, the refund comes to {sent_msat}")]
    AmountNotTaken {
        /// The least.
        min_msat: i64,
        /// The most.
        max_msat: i64,
        /// What would be sent.
        sent_msat: i64,
    },
    /// The rate of now that it was made at holds no more: it is cancelled and made again.
    /// `refund.quote_expired`.
    #[error("the rate of the refund {refund} holds no more")]
    QuoteExpired {
        /// Which.
        refund: RefundId,
    },
    /// It asks for something else now. `refund.other_question`.
    #[error("the refund {refund} does not ask for that")]
    OtherQuestion {
        /// Which.
        refund: RefundId,
    },
    /// Where it stands, this cannot be done. `refund.wrong_state`.
    #[error("the refund {refund} is {state:?}")]
    WrongState {
        /// Which.
        refund: RefundId,
        /// Where it stands.
        state: RefundState,
    },
    /// The node's record says that it is on its way or arrived. `refund.in_flight`.
    #[error("the node's record says that the refund {refund} has not failed")]
    InFlight {
        /// Which.
        refund: RefundId,
    },
}

impl RefundError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "refund.not_found",
            Self::NothingLeft { .. } => "refund.nothing_left",
            Self::InvoiceOpen { .. } => "refund.invoice_open",
            Self::ExceedsPaid { .. } => "refund.exceeds_paid",
            Self::ExceedsCap { .. } => "refund.exceeds_cap",
            Self::NoRateThen { .. } => "refund.no_rate_then",
            Self::CardInCurrency { .. } => "refund.card_in_currency",
            Self::InsufficientOnCard { .. } => "refund.insufficient_on_card",
            Self::FeeTakesAll { .. } => "refund.fee_takes_all",
            Self::OtherAmount { .. } => "refund.other_amount",
            Self::InvoiceExpired { .. } => "refund.invoice_expired",
            Self::LocksTooLong { .. } => "refund.locks_too_long",
            Self::InvoiceUsed { .. } => "refund.invoice_used",
            Self::OwnAccount => "refund.own_account",
            Self::InsufficientBalance { .. } => "refund.insufficient_balance",
            Self::NoOutboundCapacity { .. } => "refund.no_outbound_capacity",
            Self::BadAddress { .. } => "refund.bad_address",
            Self::BadAnswer { .. } => "refund.bad_answer",
            Self::AmountNotTaken { .. } => "refund.amount_not_taken",
            Self::QuoteExpired { .. } => "refund.quote_expired",
            Self::OtherQuestion { .. } => "refund.other_question",
            Self::WrongState { .. } => "refund.wrong_state",
            Self::InFlight { .. } => "refund.in_flight",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoOutboundCapacity { .. })
    }
}
