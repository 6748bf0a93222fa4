//! The records of receipts.

use serde::{Deserialize, Serialize};

use super::language::Language;
use super::lines::ReceiptLine;
use crate::core::IdempotencyKey;
use crate::ids::{InvoiceId, MerchantId};
use crate::invoices::Rail;
use crate::money::{Currency, Price, Rate};

/// How the receipts of a seller are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiptSettings {
    /// The language.
    pub language: Language,
    /// Whose time stands on them: an IANA name, `America/Jamaica`.
    pub time_zone: String,
    /// Who sells: the name, then the address; at most 8 lines of 100 characters. Where there is
    /// none, the merchant's name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heading: Vec<String>,
    /// The number under which the tax office knows the seller; at most 50 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tax_number: String,
    /// What stands at the end; at most 8 lines of 100 characters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub footer: Vec<String>,
}

impl Default for ReceiptSettings {
    /// English, in UTC.
    fn default() -> Self {
        Self {
            language: Language::En,
            time_zone: "UTC".to_owned(),
            heading: Vec::new(),
            tax_number: String::new(),
            footer: Vec::new(),
        }
    }
}

/// Sets how the receipts of a seller are written, and has each of its sales be given one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReceiptSettings {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The merchant; `None` for what the operator itself sells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// What is set.
    pub settings: ReceiptSettings,
}

/// How the receipts of a seller are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SellerReceipts {
    /// The merchant; `None` for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// What was set.
    pub settings: ReceiptSettings,
}

/// Issues the receipt of an invoice, or answers the one that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueReceipt {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
}

/// Has receipts be signed with a new key from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateReceiptKey {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
}

/// A key that receipts are signed with, as it is published: whoever wants to check receipts takes
/// it from where the seller shows it, and never from a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptKey {
    /// One more with each rotation, from 1.
    pub generation: u32,
    /// The public key (BIP 340): 64 hex digits.
    pub public_key: String,
    /// From when on it signs, milliseconds since the epoch.
    pub since_ms: i64,
    /// From when on it signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

/// What kind of receipt it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ReceiptKind {
    /// The first one.
    Sale,
    /// What became of it since: refunded, or taken away by the chain. It has a number of its own,
    /// and the earlier one stays as it is.
    Correction {
        /// The number of the one before.
        corrects: u64,
    },
}

/// The rate of a price in a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRate {
    /// The price of one bitcoin.
    pub rate: Rate,
    /// In which currency.
    pub currency: Currency,
    /// Who said so.
    pub source: String,
    /// When the source observed it, milliseconds since the epoch.
    pub observed_at_ms: i64,
}

/// A payment that was booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPayment {
    /// How it came.
    pub rail: Rail,
    /// What it is known by: its payment hash, or its outpoint `txid:vout`.
    pub reference: String,
    /// What was paid.
    pub amount_msat: i64,
    /// When it was first known, milliseconds since the epoch.
    pub at_ms: i64,
    /// The address that was paid to, on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// A receipt: what was sold and what was paid, in fields for programs and in lines for a printer.
///
/// It is issued once and never changes: names, language, settings and the invoice may, and what is
/// printed again is still what was printed first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The form of this record: 1.
    pub version: u32,
    /// Its number: one more than the seller's last, from 1, without a gap.
    pub number: u64,
    /// What kind it is.
    #[serde(flatten)]
    pub kind: ReceiptKind,
    /// The seller; `None` for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// The invoice that was paid.
    pub invoice: InvoiceId,
    /// The network that it was paid on: `bitcoin`.
    pub network: String,
    /// When it was issued, milliseconds since the epoch.
    pub issued_at_ms: i64,
    /// The language of its lines.
    pub language: Language,
    /// The time zone of its lines.
    pub time_zone: String,
    /// What the seller calls the order.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub order_reference: String,
    /// What the payer read.
    pub description: String,
    /// SHA-256 of what the payer was shown in the place of the description: 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description_hash: Option<String>,
    /// What was asked for; `None` where whoever paid chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What that was in bitcoin; zero where whoever paid chose.
    pub amount_msat: i64,
    /// The tax of all lines, in the minor unit of the price.
    #[serde(default)]
    pub tax_minor: i64,
    /// The tip, in the same unit.
    #[serde(default)]
    pub tip_minor: i64,
    /// The rate, where the price is in a currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<ReceiptRate>,
    /// The payments that were booked when it was issued.
    pub payments: Vec<ReceiptPayment>,
    /// What was paid beyond the price.
    #[serde(default)]
    pub overpaid_msat: i64,
    /// What was not paid of the price, and was not asked for.
    #[serde(default)]
    pub underpaid_msat: i64,
    /// What was paid back until then.
    #[serde(default)]
    pub refunded_msat: i64,
    /// What the chain took away until then.
    #[serde(default)]
    pub reorged_msat: i64,
    /// When a person said that it is paid, by something that is known from elsewhere, milliseconds
    /// since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked_paid_at_ms: Option<i64>,
    /// What is printed.
    pub lines: Vec<ReceiptLine>,
}

/// A receipt as it is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedReceipt {
    /// What it says.
    pub receipt: Receipt,
    /// The same with its signature, as a third party checks it: see [`verify`](super::verify).
    pub signed: String,
}
