//! What of an invoice can be paid back, and what refunds leave of it.

use super::model::{Custody, Invoice, InvoicePurpose, InvoiceState};
use super::options::SurplusTo;
use super::payment::{InvoicePayment, InvoicePaymentState, Rail};
use super::rules::{self, Fact};
use super::taking::{decide, moment};
use super::{on_chain, steps};
use crate::Error;
use crate::core::{Core, Loaded};
use crate::ids::TransferId;
use crate::ledger::Step;
use crate::treasury::{self, SuspenseItem, SuspenseTarget};

/// What came by the payments of an invoice, as far as it can be paid back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refundable {
    /// What whoever the invoice is of has got.
    pub(crate) owners_msat: i64,
    /// What of all is beyond what was due.
    pub(crate) surplus_msat: i64,
    /// What waits in suspense, and can be made the owner's.
    pub(crate) waiting: Vec<Loaded<SuspenseItem>>,
}

impl Refundable {
    /// What waits in suspense.
    pub(crate) fn waiting_msat(&self) -> i64 {
        let waiting = self.waiting.iter().map(|item| item.value.waiting_msat());
        waiting.fold(0, i64::saturating_add)
    }
}

/// To whom suspense is given whose invoice it came for.
fn owner_of(purpose: InvoicePurpose) -> SuspenseTarget {
    match purpose {
        InvoicePurpose::Sale { merchant } | InvoicePurpose::Contribution { merchant } => {
            SuspenseTarget::Merchant { merchant }
        }
        InvoicePurpose::TopUp { card } => SuspenseTarget::Card { card },
        InvoicePurpose::Plain => SuspenseTarget::Operator,
    }
}

/// What came by the settled payments of an invoice and is its owner's, or waits in suspense. What
/// went on another card as surplus, or was given to somebody else, cannot be paid back by it.
pub(crate) async fn refundable(core: &Core, invoice: &Invoice) -> Result<Refundable, Error> {
    let mut sum = Refundable {
        surplus_msat: invoice.beyond_price_msat(invoice.kept(invoice.received_msat)),
        ..Refundable::default()
    };
    let settled = |paid: &&InvoicePayment| paid.state == InvoicePaymentState::Settled;
    for paid in invoice.payments.iter().filter(settled) {
        sum.owners_msat = sum.owners_msat.saturating_add(paid.counted_msat);
        let surplus_msat = paid.surplus_msat();
        if surplus_msat <= 0 {
            continue;
        }
        let is_owners = match (is_in_own_wallet(invoice, paid), surplus_of(invoice, paid)) {
            (true, _) | (false, Some(SurplusTo::Tip | SurplusTo::Refund)) => true,
            (false, Some(SurplusTo::Card { .. })) => false,
            (false, None) => match suspended(core, paid).await? {
                Some(item) => {
                    let is_owners = item.value.assigned_to == Some(owner_of(invoice.purpose));
                    if !is_owners {
                        let refunded_msat = item.value.refunded_msat();
                        let here_msat = refunded_msat.saturating_add(item.value.waiting_msat());
                        sum.owners_msat = sum.owners_msat.saturating_add(refunded_msat);
                        sum.surplus_msat = sum.surplus_msat.saturating_add(here_msat);
                        if item.value.waiting_msat() > 0 {
                            sum.waiting.push(item);
                        }
                    }
                    is_owners
                }
                None => false,
            },
        };
        if is_owners {
            sum.owners_msat = sum.owners_msat.saturating_add(surplus_msat);
            sum.surplus_msat = sum.surplus_msat.saturating_add(surplus_msat);
        }
    }
    Ok(sum)
}

/// By their places, the payments whose surplus is not there to count towards the price any more: it
/// was given to somebody, is on another card, or was paid back. Nor is what a refund that waits for
/// its Lightning address is to pay back, which takes it when it is sent: until then none of what
/// waits in suspense counts. What refunds take elsewhere leaves it alone.
pub(super) async fn surplus_gone_on(core: &Core, invoice: &Invoice) -> Result<Vec<usize>, Error> {
    let covers_msat = invoice.flags.refund_covers_msat;
    let is_to_be_taken = invoice.flags.refund_to_take_msat > 0;
    let mut gone = Vec::new();
    for (at, paid) in invoice.payments.iter().enumerate() {
        let surplus_msat = paid.surplus_msat();
        if paid.state != InvoicePaymentState::Settled || surplus_msat <= 0 {
            continue;
        }
        let is_here = match (is_in_own_wallet(invoice, paid), surplus_of(invoice, paid)) {
            (false, Some(SurplusTo::Card { .. })) => false,
            (true, _) | (false, Some(SurplusTo::Tip | SurplusTo::Refund)) => covers_msat == 0,
            (false, None) => match suspended(core, paid).await? {
                Some(item) => !is_to_be_taken && item.value.waiting_msat() == surplus_msat,
                None => false,
            },
        };
        if !is_here {
            gone.push(at);
        }
    }
    Ok(gone)
}

fn is_in_own_wallet(invoice: &Invoice, paid: &InvoicePayment) -> bool {
    let custody = invoice.on_chain.as_ref().map(|rail| rail.custody);
    paid.rail == Rail::OnChain && custody == Some(Custody::Merchant)
}

fn surplus_of(invoice: &Invoice, paid: &InvoicePayment) -> Option<SurplusTo> {
    invoice.rules().surplus.filter(|_| !paid.suspended)
}

async fn suspended(
    core: &Core,
    paid: &InvoicePayment,
) -> Result<Option<Loaded<SuspenseItem>>, Error> {
    match paid.transfers.surplus {
        Some(item) => treasury::item(core, item).await,
        None => Ok(None),
    }
}

/// By how much a refund changes what is written of its invoice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RefundEntry {
    pub(crate) refunding_msat: i64,
    pub(crate) refunded_msat: i64,
    pub(crate) covers_msat: i64,
    /// What of that was to count towards the price, of an invoice that is not settled.
    pub(crate) uncounted_msat: i64,
    /// What of the surplus in suspense it is to take, once it knows where to.
    pub(crate) to_take_msat: i64,
}

/// An invoice with what a refund changes of it; where it stands is its payments' to say.
fn entered(invoice: &Invoice, entry: RefundEntry) -> Invoice {
    let mut after = invoice.clone();
    let flags = &mut after.flags;
    let add = |to: &mut i64, more: i64| *to = to.saturating_add(more).max(0);
    add(&mut flags.refunding_msat, entry.refunding_msat);
    add(&mut flags.refunded_msat, entry.refunded_msat);
    add(&mut flags.refund_covers_msat, entry.covers_msat);
    add(&mut flags.uncounted_msat, entry.uncounted_msat);
    add(&mut flags.refund_to_take_msat, entry.to_take_msat);
    // It tells of itself.
    after.note_refund_due();
    after
}

/// The steps that write an invoice of which a refund that waited was given up: what that was to take
/// counts in the place of a price that vanished meanwhile, as it would have without the refund.
pub(crate) async fn without_refund(
    core: &Core,
    invoice: &Loaded<Invoice>,
    entry: RefundEntry,
) -> Result<Vec<Step>, Error> {
    let left = Loaded {
        version: invoice.version,
        value: entered(&invoice.value, entry),
    };
    let moment = moment(core, &left.value).await;
    let mut gone_on = surplus_gone_on(core, &left.value).await?;
    loop {
        let fact = Fact::RefundCancelled(&gone_on);
        let outcome = rules::transition(&left.value, &fact, moment);
        if outcome.moves.is_empty() {
            let now_ms = core.clock.now_ms();
            return Ok(with_refund(invoice, entry, now_ms)?.to_vec());
        }
        let withdrawn = on_chain::withdrawn(core, &left.value, &outcome).await?;
        // What was given to somebody between the two looks is not taken from there.
        let now = surplus_gone_on(core, &left.value).await?;
        if now == gone_on {
            let new_id = || core.new_id(TransferId::from_parts);
            let (_, mut steps) = decide(core, &left, outcome, &new_id).await?;
            steps.extend(withdrawn);
            return Ok(steps);
        }
        gone_on = now;
    }
}

/// The steps that write an invoice with what a refund changes of it.
pub(crate) fn with_refund(
    invoice: &Loaded<Invoice>,
    entry: RefundEntry,
    now_ms: i64,
) -> Result<[Step; 2], Error> {
    let mut after = entered(&invoice.value, entry);
    if entry.uncounted_msat != 0 {
        after.stand(now_ms);
    }
    let is_settled = |invoice: &Invoice| invoice.state == InvoiceState::Settled;
    let event = match entry {
        // The rest came while a part was on its way back, and that did not arrive.
        _ if is_settled(&after) && !is_settled(&invoice.value) => "invoice.settled",
        RefundEntry { refunded_msat, .. } if refunded_msat > 0 => "invoice.refunded",
        RefundEntry { refunding_msat, .. } if refunding_msat > 0 => "invoice.refunding",
        // It is known where one goes that waited.
        RefundEntry {
            refunding_msat: 0, ..
        } if entry.to_take_msat < 0 => "invoice.refunding",
        _ => "invoice.refund_ended",
    };
    steps::write(invoice, &mut after, event)
}
