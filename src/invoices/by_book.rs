//! An invoice of this engine that is paid from an account of this engine: nothing leaves it.
//!
//! The same must hold as of a payment over Lightning: it is judged by the same
//! [`transition`](super::rules::transition). One name, that of the payment hash, decides between
//! the two, so that whichever comes second finds it taken: a Lightning payment that comes later
//! goes back to its sender, at no cost.

use super::model::{Invoice, LightningRail};
use super::moved::Moved;
use super::payment::Rail;
use super::rules::{self, Fact, Move, Offer, Verdict};
use super::{INVOICES, InvoiceError, taking, upgraded};
use crate::Error;
use crate::core::{Core, Loaded};
use crate::ids::TransferId;
use crate::ledger::{Account, Step};
use crate::lightning::PaymentHash;
use crate::money::Asset;
use crate::payments::ended_in_books;
use crate::settlement::PaidByBook;

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
) -> Result<Moved, Error> {
    let refused = |reason| {
        let invoice = invoice.value.id;
        Err(InvoiceError::NotPayable { invoice, reason }.into())
    };
    // Over the network the route's deadline ends it, and in the books the engine's own time.
    let books_ms = core.commit_time_ms();
    let held_until_ms = books_ms.saturating_add(core.settings.authorization_ms);
    let offer = Fact::Offered(Offer {
        rail: Rail::Book,
        reference: hash.to_string(),
        amount_msat,
        blocks_left: None,
        deadline_height: None,
        skimmed_msat: 0,
        held_until_ms: Some(held_until_ms),
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
    // What is too much of a price in a currency nobody has.
    let paid = outcome.after.payments.last();
    if payer.asset() != Asset::Btc && paid.is_none_or(|paid| paid.surplus_msat() > 0) {
        return refused("more than it asks for, which has no price");
    }
    let new_id = || core.new_id(TransferId::from_parts);
    let (_, moved) = taking::decide_of(core, invoice, outcome, Some(payer), &new_id).await?;
    Ok(moved)
}

/// The steps by which those end whose money was set aside by book for an invoice: those of what an
/// outcome captures succeed and have their proof, those of what it gives back fail.
pub(super) async fn payers_end(
    core: &Core,
    invoice: &Invoice,
    moves: &[Move],
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for step in moves {
        let (at, is_captured) = match step {
            Move::Capture(at) => (*at, true),
            Move::Release(at) => (*at, false),
            _ => continue,
        };
        let paid = &invoice.payments[at];
        if paid.rail != Rail::Book {
            continue;
        }
        let Ok(hash) = paid.reference.parse() else {
            continue;
        };
        let proof = is_captured.then(|| PaidByBook {
            invoice: invoice.id,
            preimage: proof(core, invoice, hash),
        });
        steps.extend(ended_in_books(core, hash, proof).await?);
    }
    Ok(steps)
}

/// The preimage of an invoice that is paid by book: what proves to its payer that it was.
pub(crate) fn proof(core: &Core, invoice: &Invoice, hash: PaymentHash) -> String {
    let is_it = |rail: &LightningRail| rail.payment_hash == hash;
    let at = invoice.lightning.iter().position(is_it).unwrap_or(0);
    hex::encode(core.secrets.preimage_at(invoice.id, at).expose())
}
