//! Checkout: what a seller shows to be paid by. Links and buttons for an invoice, and addresses
//! that make one for whoever wants to pay (LNURL-pay, a Lightning address), all as data: what a
//! page, a printed sign or an endpoint answers, and no page, printer or endpoint.

mod address;
mod answer;
mod button;
mod error;
mod escape;
mod link;
mod model;
mod payer_auth;
mod rules;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core};
use crate::ids::InvoiceId;
use crate::invoices;

pub use button::{ButtonStyle, ButtonTheme, PaymentButton, payment_button};
pub use error::CheckoutError;
pub use link::{PaymentLink, PaymentLinkState};
pub use model::{
    ErasePayerNote, PayAddress, PayAddressTerms, PayerDataWanted, PayerField, PayerNote,
    PayerNoteErased, SetPayAddress,
};

/// The handle for what a seller shows to be paid by.
#[derive(Clone)]
pub struct Checkout {
    core: Arc<Core>,
}

impl Checkout {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The link of an invoice as it stands now. The issuer, a till of the merchant, or the holder
    /// of the card that is topped up.
    ///
    /// # Errors
    /// `invoice.not_found`, `access.*`.
    pub async fn link(
        &self,
        credential: &Credential,
        invoice: InvoiceId,
    ) -> Result<Answer<PaymentLink>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        let found = invoices::load(core, invoice).await?.value;
        invoices::require_owner(&caller, found.purpose)?;
        let as_of_ms = core.clock.now_ms();
        let value = PaymentLink::of(&found, as_of_ms);
        Ok(Answer { as_of_ms, value })
    }
}
