//! The records of an invoice.

use serde::{Deserialize, Serialize};

use crate::core::IdempotencyKey;
use crate::ids::{CardId, InvoiceId, MerchantId, TransferId};
use crate::lightning::PaymentHash;
use crate::money::{Price, Quote};

/// What an invoice is for, and so whose money its payment becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum InvoicePurpose {
    /// A sale of a merchant.
    Sale {
        /// The merchant.
        merchant: MerchantId,
    },
    /// Money for a card.
    TopUp {
        /// The card.
        card: CardId,
    },
}

impl InvoicePurpose {
    /// The id of whose money it becomes.
    pub fn owner_id(&self) -> String {
        match self {
            Self::Sale { merchant } => merchant.to_string(),
            Self::TopUp { card } => card.to_string(),
        }
    }
}

/// Makes an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateInvoice {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What is to be paid. A price in a currency is turned into bitcoin at the rate of now,
    /// which is recorded.
    pub price: Price,
    /// What the payer reads; at most 200 characters, and 639 bytes (BOLT 11).
    pub description: String,
    /// How long it can be paid: 60 seconds to 7 days. With a price in a currency never longer
    /// than its quote holds.
    pub expiry_seconds: u32,
}

/// Gives up on a payment that is being taken and does not arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUpInvoice {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
    /// How it is known, for whoever reads the books; at most 200 characters.
    pub reason: String,
}

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceState {
    /// Waits to be paid.
    New,
    /// Its payment was accepted and is being taken; the money is on hold.
    Processing,
    /// Paid, and the money is booked.
    Settled,
    /// Its time is over; a payment that comes now goes back to its sender.
    Expired,
    /// What arrived is less than what was accepted; it is booked, and a person should look. Or
    /// nothing arrived, and a person gave up.
    Invalid,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// Its id.
    pub id: InvoiceId,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What was asked for.
    pub price: Price,
    /// What that is in bitcoin; exactly this is accepted.
    pub amount_msat: i64,
    /// The rate it was made at, where the price is in a currency.
    pub quote: Option<Quote>,
    /// What the payer reads.
    pub description: String,
    /// What its payment is known by in both nodes.
    pub payment_hash: PaymentHash,
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
    /// The hold of the payment that is being taken.
    pub hold: Option<TransferId>,
}
