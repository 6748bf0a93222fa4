//! An invoice of this engine that is paid from an account of this engine: nothing leaves it.
//!
//! The same must hold as of a payment over Lightning: the invoice waits, its time is not over,
//! and the amount is the exact one. `Claim(payment_hash)` decides between the two, so that
//! whichever comes second finds the name taken: a Lightning payment that comes later goes back
//! to its sender, at no cost.

use super::model::{Invoice, InvoicePurpose};
use super::rules::{self, Incoming};
use super::{INVOICES, InvoiceError};
use crate::Error;
use crate::cards;
use crate::core::{Core, Loaded};
use crate::ids::TransferId;
use crate::ledger::{Account, Step};
use crate::lightning::{Bolt11Details, PaymentHash, Preimage};

/// The invoice of this engine with this payment hash, if it is one of its own.
pub(crate) async fn own_invoice(
    core: &Core,
    hash: PaymentHash,
) -> Result<Option<Loaded<Invoice>>, Error> {
    core.find(INVOICES, "payment_hash", &hash.to_string()).await
}

/// The steps that pay an invoice of this engine from `payer` by the transfer `id`.
///
/// # Errors
/// `invoice.not_payable`; `card.*` where it is for a card that cannot be topped up.
pub(crate) async fn pay_by_book(
    core: &Core,
    invoice: &Loaded<Invoice>,
    asked: &Bolt11Details,
    payer: Account,
    id: TransferId,
) -> Result<Vec<Step>, Error> {
    // A text with our payment hash can be made by anybody: what counts is what was asked for.
    let amount_msat = asked.amount_msat.unwrap_or(0);
    let now_ms = core.clock.now_ms();
    let reason = match rules::incoming(&invoice.value, amount_msat, None, now_ms) {
        Incoming::Accept => None,
        Incoming::Claim => Some("another payment is being taken"),
        Incoming::Refuse(reason) => Some(reason),
    };
    if let Some(reason) = reason {
        let invoice = invoice.value.id;
        return Err(InvoiceError::NotPayable { invoice, reason }.into());
    }
    let mut ceiling = None;
    let mut steps = Vec::new();
    if let InvoicePurpose::TopUp { card } = invoice.value.purpose {
        let address = invoice.value.top_up_address.as_deref();
        (ceiling, steps) = cards::admit_top_up(core, card, address).await?;
    }
    steps.extend(rules::paid_by_book(invoice, payer, id, ceiling)?);
    Ok(steps)
}

/// The preimage of an invoice that is paid by book: what proves to its payer that it was.
pub(crate) fn proof(core: &Core, invoice: &Invoice) -> String {
    let preimage: Preimage = core.secrets.preimage(invoice.id);
    hex::encode(preimage.expose())
}
