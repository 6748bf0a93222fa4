//! Invoices with their payments over Lightning and on chain, as the model knows them.

use serde_json::Value;

use super::card_payments::Booking;
use super::{Asked, Model, Truth, Wrong, hash_of, not_lawful, number, parse, text, wrong};
use crate::ids::InvoiceId;
use crate::ledger::{Account, EventRecord, Owner};
use crate::lightning::{PaymentDirection, PaymentHash, PaymentRecord, PaymentState};
use crate::testkit::simulator::chain::Place;
use crate::testkit::simulator::tally::Transition;

/// How long payments on chain are followed after an invoice's time.
const FOLLOWED_MS: i64 = 24 * 3_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvoiceStanding {
    New,
    Processing,
    Settled,
    Expired,
    Invalid,
}

/// What was said of an invoice's address when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnChainTerms {
    pub(crate) address: String,
    /// Its money is in the operator's wallet, and not in the merchant's own.
    pub(crate) is_operators: bool,
    pub(crate) confirmations: u32,
    /// Whoever the invoice is of has the surplus.
    pub(crate) tips: bool,
}

pub(crate) struct KnownInvoice {
    pub(crate) standing: InvoiceStanding,
    /// Of the last text to pay.
    pub(crate) hash: PaymentHash,
    pub(crate) bolt11: String,
    pub(crate) address: Option<String>,
    pub(crate) is_operators: bool,
    pub(crate) expires_at_ms: i64,
    pub(super) amount_msat: i64,
    confirmations: u32,
    pub(super) tips: bool,
    pub(super) is_given_up: bool,
    /// Its payment is set aside until somebody takes it.
    pub(super) is_hold: bool,
    pub(super) is_cancelled: bool,
    /// Somebody wants what is set aside.
    pub(super) is_captured: bool,
    pub(super) owner: Account,
    pub(super) payments: Vec<KnownPayment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Pending,
    Authorized,
    Returning,
    Settled,
    Void,
}

pub(super) struct KnownPayment {
    pub(super) reference: String,
    pub(super) is_on_chain: bool,
    /// When it was first known.
    pub(super) at_ms: i64,
    /// It comes from a card of the engine's.
    pub(super) is_book: bool,
    /// When what is set aside in the books is over.
    pub(super) held_until_ms: i64,
    pub(super) amount_msat: i64,
    pub(super) counted_msat: i64,
    pub(super) standing: Standing,
    /// Confirmations and the block.
    pub(super) written: (i64, Option<String>),
    pub(super) suspended: bool,
    pub(super) was_reorged: bool,
    pub(super) owed_fee_msat: i64,
    /// Whose account it went to, or is to go to.
    pub(super) credit: Account,
}

impl KnownPayment {
    fn is_live(&self) -> bool {
        !matches!(self.standing, Standing::Void | Standing::Returning)
    }

    fn is_open(&self) -> bool {
        use Standing::{Authorized, Pending, Returning};
        matches!(self.standing, Pending | Authorized | Returning)
    }

    /// What counts of it is decided.
    fn is_fixed(&self) -> bool {
        self.is_live() && (!self.is_on_chain || self.standing == Standing::Settled)
    }
}

impl KnownInvoice {
    fn counted_msat(&self) -> i64 {
        let live = self.payments.iter().filter(|it| it.is_live());
        live.map(|it| it.counted_msat).sum()
    }

    pub(crate) fn due_msat(&self) -> i64 {
        (self.amount_msat - self.counted_msat()).max(0)
    }

    pub(crate) fn is_processing(&self) -> bool {
        let mut payments = self.payments.iter();
        self.standing == InvoiceStanding::Processing || payments.any(KnownPayment::is_open)
    }

    /// Over Lightning, and with no more than this.
    pub(crate) fn is_payable(&self, most_msat: i64) -> bool {
        let is_new = self.standing == InvoiceStanding::New && !self.bolt11.is_empty();
        is_new && self.due_msat() <= most_msat
    }

    /// It can still be paid, or is being paid.
    pub(super) fn is_open(&self) -> bool {
        matches!(
            self.standing,
            InvoiceStanding::New | InvoiceStanding::Processing
        )
    }

    /// Something came for it, and all of that is its owner's.
    pub(super) fn is_refundable(&self) -> bool {
        self.address.is_none() && !self.is_open() && self.received_msat() > 0
    }

    /// What came for it and counts.
    pub(super) fn received_msat(&self) -> i64 {
        let mut sum = 0;
        for payment in &self.payments {
            if payment.standing == Standing::Settled {
                sum += payment.counted_msat;
            }
        }
        sum
    }

    /// The payments that came from cards of the engine's.
    pub(super) fn booked(&self) -> Vec<PaymentHash> {
        let booked = self.payments.iter();
        let booked = booked.filter(|it| it.is_book && it.standing == Standing::Settled);
        booked.filter_map(|it| it.reference.parse().ok()).collect()
    }

    pub(crate) fn is_of(&self, owner: Owner) -> bool {
        self.owner.owner() == owner
    }

    pub(crate) fn is_hold(&self) -> bool {
        self.is_hold
    }

    /// The payment over Lightning that is set aside.
    pub(crate) fn being_held(&self) -> Option<PaymentHash> {
        let mut payments = self.payments.iter();
        let held = payments.find(|it| !it.is_book && it.standing == Standing::Authorized);
        held.and_then(|it| it.reference.parse().ok())
    }

    pub(crate) fn is_set_aside(&self) -> bool {
        let mut payments = self.payments.iter();
        payments.any(|it| it.standing == Standing::Authorized)
    }

    pub(crate) fn waits_on_chain(&self) -> bool {
        let is_new = self.standing == InvoiceStanding::New;
        is_new && self.address.is_some()
    }

    /// The payment over Lightning that is being taken.
    pub(crate) fn being_claimed(&self) -> Option<PaymentHash> {
        let mut payments = self.payments.iter();
        let claimed = payments.find(|it| !it.is_on_chain && it.standing == Standing::Pending);
        claimed.and_then(|it| it.reference.parse().ok())
    }

    pub(super) fn fixed_msat(&self, but: usize) -> i64 {
        let fixed = self.payments.iter().enumerate();
        let fixed = fixed.filter(|(at, it)| it.is_fixed() && *at != but);
        fixed.map(|(_, it)| it.counted_msat).sum()
    }

    /// What counts of those that wait for confirmations, first come first served.
    fn share_pending(&mut self) {
        let mut due_msat = self.amount_msat - self.fixed_msat(usize::MAX);
        for payment in &mut self.payments {
            if payment.is_fixed() || !payment.is_on_chain {
                continue;
            }
            let takes = payment.is_live() && !payment.suspended;
            payment.counted_msat = if takes {
                payment.amount_msat.min(due_msat.max(0))
            } else {
                0
            };
            due_msat -= payment.counted_msat;
        }
    }

    /// How a payment stands at its place on the chain.
    pub(super) fn judge(&self, suspended: bool, place: Place) -> Standing {
        let needed = self.confirmations.max(u32::from(suspended));
        let enough = match place {
            Place::Mempool { replaceable } => needed == 0 && !replaceable,
            Place::Block { confirmations, .. } => confirmations >= needed,
            Place::Gone { .. } => return Standing::Void,
        };
        if enough {
            Standing::Settled
        } else {
            Standing::Pending
        }
    }

    /// Whether it may stand so.
    fn may_be(&self, standing: InvoiceStanding, latest_ms: i64) -> bool {
        use InvoiceStanding::{Expired, Invalid, New, Processing, Settled};
        if self.is_given_up || self.is_cancelled {
            return standing == Invalid;
        }
        let settled = self.payments.iter();
        let settled = settled.filter(|it| it.standing == Standing::Settled);
        let received_msat: i64 = settled.map(|it| it.counted_msat).sum();
        if received_msat >= self.amount_msat {
            return standing == Settled;
        }
        let (mut payments, followed_ms) = (self.payments.iter(), self.expires_at_ms + FOLLOWED_MS);
        let waits = payments.any(|it| it.is_on_chain && it.standing == Standing::Pending);
        match standing {
            Processing => self.counted_msat() >= self.amount_msat,
            Invalid => self.counted_msat() >= self.amount_msat && waits && latest_ms >= followed_ms,
            New => self.counted_msat() < self.amount_msat,
            Expired => self.counted_msat() < self.amount_msat && latest_ms >= self.expires_at_ms,
            Settled => false,
        }
    }
}

pub(super) fn record(
    truth: &Truth<'_>,
    hash: PaymentHash,
    wanted: PaymentDirection,
) -> Option<PaymentRecord> {
    truth
        .node
        .record(hash)
        .filter(|record| record.direction == wanted)
}

fn standing(body: &Value) -> Result<Standing, Wrong> {
    match text(body, "state")? {
        "pending" => Ok(Standing::Pending),
        "authorized" => Ok(Standing::Authorized),
        "returning" => Ok(Standing::Returning),
        "settled" => Ok(Standing::Settled),
        "void" => Ok(Standing::Void),
        other => wrong("every event can be read", other),
    }
}

fn written(body: &Value) -> (i64, Option<String>) {
    let confirmations = body.get("confirmations").and_then(Value::as_i64);
    let block = body.get("block").and_then(Value::as_str);
    (confirmations.unwrap_or(0), block.map(str::to_owned))
}

impl Model {
    pub(super) fn read_invoice(
        &mut self,
        event: &EventRecord,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        use InvoiceStanding::{Expired, Invalid, New, Processing, Settled};
        let id: InvoiceId = parse(&event.object)?;
        if event.kind == "invoice.created" {
            return self.invoice_created(id, event);
        }
        let Some(mut invoice) = self.invoices.remove(&id) else {
            return not_lawful("an invoice of nobody");
        };
        let payments = event.body.get("payments").and_then(Value::as_array);
        let payments = payments.map(Vec::as_slice).unwrap_or_default();
        if payments.len() < invoice.payments.len() {
            return not_lawful("a payment is forgotten");
        }
        invoice.is_given_up |= event.kind == "invoice.given_up";
        if event.kind == "invoice.cancelled" {
            self.cancelled(id, &mut invoice)?;
        }
        for (at, body) in payments.iter().enumerate() {
            self.read_payment(&mut invoice, at, body, truth)?;
        }
        invoice.share_pending();
        invoice.bolt11 = text(&event.body, "bolt11")?.to_owned();
        let texts = event.body.get("lightning").and_then(Value::as_array);
        if let Some(last) = texts.and_then(|texts| texts.last()) {
            invoice.hash = hash_of(last)?;
        }
        let to = match text(&event.body, "state")? {
            "new" => New,
            "processing" => Processing,
            "settled" => Settled,
            "expired" => Expired,
            "invalid" => Invalid,
            other => return wrong("every event can be read", other),
        };
        let from = std::mem::replace(&mut invoice.standing, to);
        if !invoice.may_be(to, truth.latest_ms) {
            return not_lawful(format!("{to:?} after {from:?}"));
        }
        self.fired.extend(match (from, to) {
            _ if from == to => None,
            (New, Processing) => Some(Transition::InvoiceProcessing),
            (_, Settled) => Some(Transition::InvoiceSettled),
            (New, Expired) => Some(Transition::InvoiceExpired),
            (_, Invalid) if invoice.is_cancelled => Some(Transition::InvoiceCancelled),
            (_, Invalid) if invoice.is_given_up => Some(Transition::InvoiceGivenUp),
            (Settled, _) => Some(Transition::InvoiceUnsettled),
            (_, New) => Some(Transition::InvoiceReopened),
            _ => None,
        });
        self.invoices.insert(id, invoice);
        Ok(())
    }

    fn invoice_created(&mut self, id: InvoiceId, event: &EventRecord) -> Result<(), Wrong> {
        let name = text(&event.body, "description")?;
        let Asked::Invoice {
            owner,
            amount_msat,
            on_chain,
            is_hold,
        } = self.take(name)?
        else {
            return wrong("nothing happens that nobody asked for", name);
        };
        let known = KnownInvoice {
            standing: InvoiceStanding::New,
            hash: hash_of(&event.body)?,
            bolt11: text(&event.body, "bolt11")?.to_owned(),
            address: on_chain.as_ref().map(|it| it.address.clone()),
            is_operators: on_chain.as_ref().is_some_and(|it| it.is_operators),
            confirmations: on_chain.as_ref().map_or(1, |it| it.confirmations),
            tips: on_chain.is_some_and(|it| it.tips),
            amount_msat,
            expires_at_ms: number(&event.body, "expires_at_ms")?,
            is_given_up: false,
            is_hold,
            is_cancelled: false,
            is_captured: false,
            owner,
            payments: Vec::new(),
        };
        self.invoices.insert(id, known);
        self.fire(Transition::InvoiceCreated);
        Ok(())
    }

    fn read_payment(
        &mut self,
        invoice: &mut KnownInvoice,
        at: usize,
        body: &Value,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        let (reference, is_on_chain) =
            (text(body, "reference")?, text(body, "rail")? == "on_chain");
        let (to, written) = (standing(body)?, written(body));
        let is_new = at >= invoice.payments.len();
        if is_new {
            let payment = KnownPayment {
                reference: reference.to_owned(),
                is_on_chain,
                at_ms: number(body, "at_ms")?,
                is_book: text(body, "rail")? == "book",
                held_until_ms: body
                    .get("held_until_ms")
                    .and_then(Value::as_i64)
                    .unwrap_or(0),
                amount_msat: number(body, "amount_msat")?,
                counted_msat: 0,
                standing: Standing::Void,
                written: written.clone(),
                suspended: false,
                was_reorged: false,
                owed_fee_msat: 0,
                credit: invoice.owner,
            };
            if !self.done.insert(format!("payment/{reference}")) {
                return wrong("nothing is done twice", "a payment");
            }
            invoice.payments.push(payment);
        }
        let known = &invoice.payments[at];
        if known.reference != reference {
            return not_lawful("another payment in its place");
        }
        if !is_new && known.standing == to && known.written == written {
            return Ok(());
        }
        if is_on_chain {
            self.on_chain(invoice, (at, is_new), (to, written), truth)
        } else {
            self.over_lightning(invoice, at, to, truth)
        }
    }

    /// A payment is taken, or set aside: the exact one, in time, and there is room for it.
    pub(super) fn accept(&mut self, invoice: &mut KnownInvoice, at: usize) -> Result<(), Wrong> {
        let (due_msat, was, tips) = (invoice.due_msat(), invoice.standing, invoice.tips);
        let payment = &mut invoice.payments[at];
        let (credit, amount_msat) = (payment.credit, payment.amount_msat);
        let is_enough = amount_msat == due_msat || (tips && amount_msat > due_msat);
        if was != InvoiceStanding::New || due_msat == 0 || !is_enough {
            return not_lawful(format!("{due_msat} msat were due, and it was {was:?}"));
        }
        if let Owner::Card(card) = credit.owner() {
            self.require_room(card, amount_msat)?;
        }
        payment.credit = self.account_now(credit);
        payment.counted_msat = due_msat;
        Ok(())
    }

    /// One from a card of the engine's: which is told next.
    pub(super) fn book_of_card(&mut self, invoice: &KnownInvoice, at: usize) {
        let payment = &invoice.payments[at];
        self.booking = Some(Booking {
            reference: payment.reference.clone(),
            amount_msat: payment.amount_msat,
            counted_msat: payment.counted_msat,
            owner: invoice.owner,
            credit: payment.credit,
        });
    }

    fn over_lightning(
        &mut self,
        invoice: &mut KnownInvoice,
        at: usize,
        to: Standing,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        let (node, is_hold) = (Account::node_channels(), invoice.is_hold);
        // How it stood is judged before it stands otherwise.
        let is_new = invoice.payments[at].standing == Standing::Void
            && matches!(
                to,
                Standing::Pending | Standing::Authorized | Standing::Settled
            );
        let (reference, amount_msat) = {
            let payment = &invoice.payments[at];
            (payment.reference.clone(), payment.amount_msat)
        };
        let arrived = record(truth, parse(&reference)?, PaymentDirection::Inbound);
        if is_new {
            let is_book = invoice.payments[at].is_book;
            let offered = arrived.as_ref().and_then(|record| record.amount_msat);
            if !is_book && offered != Some(amount_msat) {
                return not_lawful("a payment that nobody made");
            }
            if is_hold != (to == Standing::Authorized) {
                return not_lawful(format!("{to:?} at once"));
            }
            self.accept(invoice, at)?;
        }
        let payment = &mut invoice.payments[at];
        let (is_book, credit) = (payment.is_book, payment.credit);
        let from = std::mem::replace(&mut payment.standing, to);
        match (from, to) {
            (Standing::Void, Standing::Pending) => {
                self.books.pend(node, credit, amount_msat);
            }
            (Standing::Void, Standing::Settled) if is_book => {
                match self.is_paid_by_refund(&reference, (credit, amount_msat))? {
                    true => self.net(invoice.owner, credit, invoice.payments[at].counted_msat),
                    false => self.book_of_card(invoice, at),
                }
            }
            (Standing::Authorized | Standing::Returning, _) | (_, Standing::Authorized) => {
                self.set_aside(invoice, at, from, truth)?;
            }
            (Standing::Pending, Standing::Settled) => {
                if arrived.is_none_or(|record| record.state != PaymentState::Succeeded) {
                    return wrong("only what arrived is booked", "not arrived");
                }
                self.books.pend(node, credit, -amount_msat);
                self.books.post(node, credit, amount_msat);
                let counted_msat = payment.counted_msat;
                self.net(invoice.owner, credit, counted_msat);
                self.go_on(credit);
            }
            (Standing::Pending, Standing::Void) => {
                self.books.pend(node, credit, -amount_msat);
            }
            _ => return not_lawful(format!("from {from:?} to {to:?}")),
        }
        Ok(())
    }
}
