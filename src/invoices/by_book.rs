//! An invoice of this engine that is paid from an account of this engine: nothing leaves it.
//!
//! The same must hold as of a payment over Lightning: it is judged by the same
//! [`transition`](super::rules::transition). One name, that of the payment hash, decides between
//! the two, so that whichever comes second finds it taken: a Lightning payment that comes later
//! goes back to its sender, at no cost.

use super::model::{Invoice, LightningRail};
use super::payment::Rail;
use super::rules::{self, Fact, Offer, Verdict};
use super::{INVOICES, InvoiceError, taking, upgraded};
use crate::Error;
use crate::core::{Core, Loaded};
use crate::ids::TransferId;
use crate::ledger::{Account, Step};
use crate::lightning::PaymentHash;

/// The invoice of this engine with this payment hash, if it is one of its own.
pub(crate) async fn own_invoice(
    core: &Core,
    hash: PaymentHash,
) -> Result<Option<Loaded<Invoice>>, Error> {
    let key = hash.to_string();
    let found = core.find(INVOICES, "payment_hash", &key).await?;
    Ok(found.map(upgraded))
}

/// The steps that pay `amount_msat` to an invoice of this engine from `payer`. A text with a
/// payment hash of ours can be made by anybody: it is the invoice that says what is enough.
///
/// # Errors
/// `invoice.not_payable`; `card.*` where it is for a card that cannot be topped up.
pub(crate) async fn pay_by_book(
    core: &Core,
    invoice: &Loaded<Invoice>,
    hash: PaymentHash,
    amount_msat: i64,
    payer: Account,
) -> Result<Vec<Step>, Error> {
    let refused = |reason| {
        let invoice = invoice.value.id;
        Err(InvoiceError::NotPayable { invoice, reason }.into())
    };
    // Its money would be set aside, and nothing would tell the payer what became of it.
    if invoice.value.options.hold {
        return refused("it is only paid over Lightning");
    }
    let offer = Fact::Offered(Offer {
        rail: Rail::Book,
        reference: hash.to_string(),
        amount_msat,
        blocks_left: None,
        deadline_height: None,
        skimmed_msat: 0,
    });
    let moment = taking::moment(core, &invoice.value).await;
    let outcome = rules::transition(&invoice.value, &offer, moment);
    match outcome.verdict {
        Verdict::Taken => {}
        Verdict::Refused(reason) => return refused(reason),
        Verdict::Claim | Verdict::Waits | Verdict::Unchanged => {
            return refused("another payment is being taken");
        }
    }
    let new_id = || core.new_id(TransferId::from_parts);
    let (_, steps) = taking::decide(core, invoice, outcome, Some(payer), &new_id).await?;
    Ok(steps)
}

/// The preimage of an invoice that is paid by book: what proves to its payer that it was.
pub(crate) fn proof(core: &Core, invoice: &Invoice, hash: PaymentHash) -> String {
    let is_it = |rail: &LightningRail| rail.payment_hash == hash;
    let at = invoice.lightning.iter().position(is_it).unwrap_or(0);
    hex::encode(core.secrets.preimage_at(invoice.id, at).expose())
}
