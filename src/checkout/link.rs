//! What a payer is shown of an invoice: how to pay it, or why it cannot be paid.

use serde::{Deserialize, Serialize};

use crate::ids::InvoiceId;
use crate::invoices::{Invoice, InvoiceState};
use crate::lnurl;
use crate::money::Price;

/// Whether anything is to be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentLinkState {
    /// It can be paid now.
    Payable,
    /// It was paid.
    Paid,
    /// A payment is on its way: nothing is to be paid now.
    Processing,
    /// Its time is over.
    Expired,
    /// It cannot be paid: somebody said so, or what came was too little; or no rail is there.
    NotPayable,
}

/// What a link or a button is made of. Only one that can be paid has anything to pay by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentLink {
    /// The invoice; `None` for an address, which makes one for each payment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoice: Option<InvoiceId>,
    /// Whether anything is to be paid.
    pub state: PaymentLinkState,
    /// What is sold.
    pub description: String,
    /// What it costs; `None` where whoever pays chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What is still to be paid; `None` where whoever pays chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_msat: Option<i64>,
    /// Until when, milliseconds since the epoch; `None` for an address, which stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    /// What a wallet opens and a QR code shows: BIP 21 with every rail there is, or
    /// `lightning:` where there is no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// `lightning:` alone, for wallets that know no BIP 21.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lightning_uri: Option<String>,
}

impl PaymentLink {
    /// The link of an invoice as it stands at a time.
    pub fn of(invoice: &Invoice, now_ms: i64) -> Self {
        let mut link = Self {
            invoice: Some(invoice.id),
            state: state(invoice, now_ms),
            description: invoice.description.clone(),
            price: invoice.price,
            due_msat: (!invoice.is_open_amount()).then(|| invoice.due_msat()),
            expires_at_ms: Some(invoice.expires_at_ms),
            uri: None,
            lightning_uri: None,
        };
        if link.state != PaymentLinkState::Payable {
            return link;
        }
        // A text of before a part was paid asks for too much.
        let lightning = invoice.payable_rail();
        link.lightning_uri = lightning.map(|rail| format!("lightning:{}", rail.bolt11));
        link.uri = invoice.bip21().or(link.lightning_uri.clone());
        if link.uri.is_none() {
            link.state = PaymentLinkState::NotPayable;
        }
        link
    }

    /// The link of an LNURL-pay address: whoever pays chooses how much, as often as it likes.
    pub fn of_address(url: &str, description: &str) -> Self {
        let lnurl = lnurl::encode(url);
        let uri = (!lnurl.is_empty()).then(|| format!("lightning:{lnurl}"));
        Self {
            invoice: None,
            state: match uri {
                Some(_) => PaymentLinkState::Payable,
                None => PaymentLinkState::NotPayable,
            },
            description: description.to_owned(),
            price: None,
            due_msat: None,
            expires_at_ms: None,
            lightning_uri: uri.clone(),
            uri,
        }
    }

    /// What a QR code of the link has in it. A text in which capitals and small letters are the
    /// same is put in capitals, of which a code has room for nearly twice as many.
    pub fn qr_text(&self) -> Option<String> {
        let uri = self.uri.as_ref()?;
        let one_case = uri.starts_with("lightning:");
        Some(if one_case {
            uri.to_uppercase()
        } else {
            uri.clone()
        })
    }
}

fn state(invoice: &Invoice, now_ms: i64) -> PaymentLinkState {
    match invoice.state {
        InvoiceState::Settled => PaymentLinkState::Paid,
        InvoiceState::Processing => PaymentLinkState::Processing,
        InvoiceState::Invalid => PaymentLinkState::NotPayable,
        InvoiceState::Expired => PaymentLinkState::Expired,
        // The job that says so may not have run yet.
        InvoiceState::New if now_ms >= invoice.expires_at_ms => PaymentLinkState::Expired,
        InvoiceState::New => PaymentLinkState::Payable,
    }
}
