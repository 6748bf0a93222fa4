//! An invoice of this engine that is paid from an account of this engine: nothing leaves it.
//!
//! The same must hold as of a payment over Lightning: the invoice waits, its time is not over,
//! and the amount is one that its rules take. `Claim(payment_hash)` decides between the two, so
//! that whichever comes second finds the name taken: a Lightning payment that comes later goes
//! back to its sender, at no cost.

use std::sync::atomic::{AtomicBool, Ordering};

use super::model::{Invoice, LightningRail};
use super::payment::Rail;
use super::rules::{self, Fact, Offer, Verdict};
use super::taking::{decide, moment};
use super::{INVOICES, InvoiceError};
use crate::Error;
use crate::core::{Core, Loaded};
use crate::ids::TransferId;
use crate::ledger::{Account, Step};
use crate::lightning::{Bolt11Details, PaymentHash, Preimage};

/// The invoice of this engine with this payment hash, if it is one of its own.
pub(crate) async fn own_invoice(
    core: &Core,
    hash: PaymentHash,
) -> Result<Option<Loaded<Invoice>>, Error> {
    let found = core
        .find(INVOICES, "payment_hash", &hash.to_string())
        .await?;
    Ok(found.map(super::upgraded))
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
    let fact = Fact::Offered(Offer {
        rail: Rail::Book,
        reference: asked.payment_hash.to_string(),
        amount_msat: asked.amount_msat.unwrap_or(0),
        blocks_left: None,
        deadline_height: None,
    });
    let refused = |reason| InvoiceError::NotPayable {
        invoice: invoice.value.id,
        reason,
    };
    // Its payer would have the proof at once, and whoever asked could still give it back.
    if invoice.value.options.hold {
        return Err(refused("what is only set aside is not paid out").into());
    }
    let moment = moment(core, &invoice.value).await;
    let outcome = rules::transition(&invoice.value, &fact, moment);
    match outcome.verdict {
        Verdict::Taken => {}
        Verdict::Refused(reason) => return Err(refused(reason).into()),
        _ => return Err(refused("another payment is being taken").into()),
    }
    let is_used = AtomicBool::new(false);
    let new_id = || match is_used.swap(true, Ordering::Relaxed) {
        false => Ok(id),
        true => core.new_id(TransferId::from_parts),
    };
    let (_, steps) = decide(core, invoice, outcome, Some(payer), &new_id).await?;
    Ok(steps)
}

/// The preimage of a hash of an invoice that is paid by book: what proves to its payer that it
/// was.
pub(crate) fn proof(core: &Core, invoice: &Invoice, hash: PaymentHash) -> String {
    let is_it = |rail: &LightningRail| rail.payment_hash == hash;
    let at = invoice.lightning.iter().position(is_it).unwrap_or(0);
    let preimage: Preimage = core.secrets.preimage_at(invoice.id, at);
    hex::encode(preimage.expose())
}
