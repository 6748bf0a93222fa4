//! Invoices.

use super::{FlashError, Price, Quote};
use crate::Answer;
use crate::invoices;

/// What an invoice is for, and so whose money its payment becomes.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum InvoicePurpose {
    /// A sale of a merchant.
    Sale {
        /// The merchant.
        merchant_id: String,
    },
    /// Money for a card.
    TopUp {
        /// The card.
        card_id: String,
    },
    /// A contribution to a merchant, for which nothing is sold.
    Contribution {
        /// The merchant.
        merchant_id: String,
    },
    /// The operator's own: no merchant's and no card's.
    Plain,
}

impl TryFrom<InvoicePurpose> for invoices::InvoicePurpose {
    type Error = FlashError;

    fn try_from(purpose: InvoicePurpose) -> Result<Self, FlashError> {
        Ok(match purpose {
            InvoicePurpose::Sale { merchant_id } => Self::Sale {
                merchant: merchant_id.parse()?,
            },
            InvoicePurpose::TopUp { card_id } => Self::TopUp {
                card: card_id.parse()?,
            },
            InvoicePurpose::Contribution { merchant_id } => Self::Contribution {
                merchant: merchant_id.parse()?,
            },
            InvoicePurpose::Plain => Self::Plain,
        })
    }
}

impl From<invoices::InvoicePurpose> for InvoicePurpose {
    fn from(purpose: invoices::InvoicePurpose) -> Self {
        match purpose {
            invoices::InvoicePurpose::Sale { merchant } => Self::Sale {
                merchant_id: merchant.to_string(),
            },
            invoices::InvoicePurpose::TopUp { card } => Self::TopUp {
                card_id: card.to_string(),
            },
            invoices::InvoicePurpose::Contribution { merchant } => Self::Contribution {
                merchant_id: merchant.to_string(),
            },
            invoices::InvoicePurpose::Plain => Self::Plain,
        }
    }
}

/// Makes an invoice.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CreateInvoiceRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What is to be paid.
    pub price: Price,
    /// What the payer reads; at most 200 characters.
    pub description: String,
    /// How long it can be paid: 60 seconds to 7 days.
    #[uniffi(default = 3600)]
    pub expiry_seconds: u32,
}

impl TryFrom<CreateInvoiceRequest> for invoices::CreateInvoice {
    type Error = FlashError;

    fn try_from(request: CreateInvoiceRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            purpose: request.purpose.try_into()?,
            price: Some(request.price.try_into()?),
            description: request.description,
            expiry_seconds: request.expiry_seconds,
            options: invoices::InvoiceOptions::default(),
        })
    }
}

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum InvoiceState {
    /// Waits to be paid.
    New,
    /// Its payment was accepted and is being taken; the money is on hold.
    Processing,
    /// Paid, and the money is booked.
    Settled,
    /// Its time is over; a payment that comes now goes back to its sender.
    Expired,
    /// What arrived is less than what was accepted; it is booked, and a person should look.
    Invalid,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Invoice {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What was asked for; nothing where whoever pays chooses.
    pub price: Option<Price>,
    /// What that is in bitcoin; zero where whoever pays chooses.
    pub amount_msat: i64,
    /// The rate it was made at, where the price is in a currency.
    pub quote: Option<Quote>,
    /// What the payer reads.
    pub description: String,
    /// What its payment is known by in both nodes: 64 hex digits.
    pub payment_hash: String,
    /// The text to pay: BOLT11.
    pub bolt11: String,
    /// Where it stands.
    pub state: InvoiceState,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// From when on it cannot be paid.
    pub expires_at_ms: i64,
    /// What was booked.
    pub received_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<invoices::Invoice>> for Invoice {
    fn from(answer: Answer<invoices::Invoice>) -> Self {
        let Answer {
            as_of_ms,
            value: invoice,
        } = answer;
        Self {
            id: invoice.id.to_string(),
            purpose: invoice.purpose.into(),
            price: invoice.price.map(Price::from),
            amount_msat: invoice.amount_msat,
            quote: invoice.quote.map(Quote::from),
            description: invoice.description,
            payment_hash: invoice.payment_hash.to_string(),
            bolt11: invoice.bolt11,
            state: match invoice.state {
                invoices::InvoiceState::New => InvoiceState::New,
                invoices::InvoiceState::Processing => InvoiceState::Processing,
                invoices::InvoiceState::Settled => InvoiceState::Settled,
                invoices::InvoiceState::Expired => InvoiceState::Expired,
                invoices::InvoiceState::Invalid => InvoiceState::Invalid,
            },
            created_at_ms: invoice.created_at_ms,
            expires_at_ms: invoice.expires_at_ms,
            received_msat: invoice.received_msat,
            as_of_ms,
        }
    }
}

/// Invoices, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct InvoicePage {
    /// The invoices; the last one's id asks for the next page.
    pub invoices: Vec<Invoice>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<Vec<invoices::Invoice>>> for InvoicePage {
    fn from(answer: Answer<Vec<invoices::Invoice>>) -> Self {
        let as_of_ms = answer.as_of_ms;
        let invoices = answer.value.into_iter();
        let invoices = invoices.map(|value| Answer { as_of_ms, value }.into());
        Self {
            invoices: invoices.collect(),
            as_of_ms,
        }
    }
}
