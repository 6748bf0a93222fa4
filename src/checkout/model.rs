//! The records of a seller's addresses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::IdempotencyKey;
use crate::ids::{InvoiceId, MerchantId};

/// What an address asks of whoever pays to say of itself (LUD-18); each by whether it must.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PayerDataWanted {
    /// A name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<PayerField>,
    /// A public key, made for this payment: 66 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pubkey: Option<PayerField>,
    /// A Lightning address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<PayerField>,
    /// An e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<PayerField>,
    /// A key, with the proof that the payer has it: the signature of a challenge (LUD-04), which is
    /// good once and for an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<PayerField>,
}

/// One thing that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayerField {
    /// Nobody pays without it.
    pub mandatory: bool,
}

impl PayerDataWanted {
    /// True when nothing is asked for.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Those that are texts.
    pub(super) fn fields(&self) -> [(&'static str, Option<PayerField>); 4] {
        [
            ("name", self.name),
            ("pubkey", self.pubkey),
            ("identifier", self.identifier),
            ("email", self.email),
        ]
    }
}

/// What can be paid at an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayAddressTerms {
    /// The least that is taken at once; at least 1 sat.
    pub min_sendable_msat: i64,
    /// The most.
    pub max_sendable_msat: i64,
    /// What the payer reads: 1 to 200 characters.
    pub description: String,
    /// The same at length, in more than one line where that helps (LUD-20); at most 1,000
    /// characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub long_description: String,
    /// How many characters a payer may write (LUD-12): 0 to 500.
    #[serde(default)]
    pub comment_allowed: u32,
    /// What the payer is asked to say of itself (LUD-18).
    #[serde(default, skip_serializing_if = "PayerDataWanted::is_nothing")]
    pub payer_data: PayerDataWanted,
    /// How many invoices may be asked for in an hour, by all who pay together: 1 to 100,000.
    /// Anybody may ask, and each is written down.
    pub invoices_per_hour: u32,
    /// It takes nothing now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}

/// Opens an address, or sets its terms anew: `name@host`, with the host of
/// [`Settings::pay_url`](crate::Settings::pay_url).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPayAddress {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The name: 1 to 64 of `a` to `z`, digits, `-`, `_` and `.` (LUD-16). It is the seller's for
    /// ever.
    pub name: String,
    /// Who is paid; `None` for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// The terms.
    pub terms: PayAddressTerms,
}

/// A seller's address, which anybody can pay to as often as it likes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayAddress {
    /// The name before the `@`.
    pub name: String,
    /// Who is paid; `None` for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// The terms.
    pub terms: PayAddressTerms,
    /// One more with each change: an invoice is made on the terms that its payer was shown.
    pub revision: u32,
    /// The Lightning address (LUD-16): `cookshop@pay.example.com`.
    pub lightning_address: String,
    /// What it stands for: `https://pay.example.com/.well-known/lnurlp/cookshop`.
    pub url: String,
    /// The same as LUD-01 has it, for a QR code.
    pub lnurl: String,
}

/// What a payer said with a payment. It is kept by itself, so that it can be erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayerNote {
    /// The invoice.
    pub invoice: InvoiceId,
    /// What it wrote (LUD-12).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// What it said of itself (LUD-18). Nobody has checked any of it but `auth`: that is a key, 66
    /// hex digits, which the payer has proven to have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
}

impl PayerNote {
    pub(super) fn is_empty(&self) -> bool {
        self.comment.is_empty() && self.data.is_empty()
    }
}

/// Erases what a payer said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasePayerNote {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
}

/// What a payer said is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayerNoteErased {
    /// The invoice.
    pub invoice: InvoiceId,
}
