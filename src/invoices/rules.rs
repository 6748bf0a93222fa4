//! Pure decisions about invoices: no I/O, no clock.
//!
//! [`transition`] is the whole state machine: from an invoice and one fact to the invoice as it
//! stands after it and to what moves. Where an invoice stands is worked out from its payments each
//! time, whatever order the facts come in. What counts of a payment that is booked is decided by what
//! was booked before it; when the chain takes that away, what is there of others counts in its place.

use super::facts::OnChainFact;
use super::model::{Invoice, InvoiceState};
use super::payment::{InvoiceMark, InvoicePayment, InvoicePaymentState, MarkedAs, Rail};
use super::sharing::share;
use crate::lightning::PaymentHash;
use crate::money::Quote;

/// The fewest blocks that a payment must still be claimable for: a claim that comes too late is
/// no claim. Wallets that add none to what LDK's texts ask for leave 3, and 2 a block behind.
const MIN_BLOCKS_LEFT: u32 = 2;
/// A payment that is set aside goes back when only so many blocks are left to claim it in, before
/// the node gives it back by itself. With more, those wallets could never pay.
const HOLD_MARGIN_BLOCKS: u32 = 2;

/// Why a payment that finds no place is refused.
pub(super) const TOO_MANY: &str = "more payments than an invoice can have";

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact<'a> {
    /// A payment waits that can still be given back.
    Offered(Offer),
    /// Money of a payment that was taken is ours.
    Arrived { reference: String, amount_msat: i64 },
    /// Money came by the invoice's offer, and is ours.
    PaidByOffer { reference: String, amount_msat: i64 },
    /// What is true of an output to the invoice's address, and by their places the payments whose
    /// surplus is not there to count any more.
    OnChain(&'a OnChainFact, &'a [usize]),
    /// A refund that waited is given up, and takes nothing: by their places, the payments whose
    /// surplus is not there to count all the same.
    RefundCancelled(&'a [usize]),
    /// The invoice's time is over, or the time in which its payments are followed.
    TimeOver,
    /// A person says what it is.
    Marked { as_state: MarkedAs, reason: &'a str },
    /// What was set aside is taken; the best block is known to be at this height.
    Captured { height: Option<u32> },
    /// What was set aside is to go back, since the best block is at this height: what has time
    /// left stays.
    Due { height: Option<u32> },
    /// The payment under this reference has gone back.
    Returned { reference: String },
}

/// A payment that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) rail: Rail,
    pub(super) reference: String,
    pub(super) amount_msat: i64,
    /// How many blocks it can still be claimed for, where that is known.
    pub(super) blocks_left: Option<u32>,
    /// The block from which on it cannot be claimed, where that is known.
    pub(super) deadline_height: Option<u32>,
    /// What of the amount a liquidity provider keeps.
    pub(super) skimmed_msat: i64,
    /// When it goes back by itself, by book: if it is to be set aside.
    pub(super) held_until_ms: Option<i64>,
}

/// When a fact is judged, and what the rate has done since the invoice was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) now_ms: i64,
    /// When a commit would be made: by that ends what is set aside in the books.
    pub(super) books_ms: i64,
    /// In thousandths of the invoice's rate, rounded up; `None` where it is not known.
    pub(super) rate_moved_per_mille: Option<u32>,
}

/// What becomes of a payment that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The fact changes nothing, or nothing is asked.
    Unchanged,
    /// It is the invoice's now.
    Taken,
    /// It was taken before: claim it (again).
    Claim,
    /// It was set aside before, and waits for a person.
    Waits,
    /// Give it back.
    Refused(&'static str),
}

/// Something that moves in the books, for one payment by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Move {
    /// Its name is taken.
    Claim(usize),
    /// Its money is set aside.
    Hold(usize),
    /// What was set aside for it is booked.
    Capture(usize),
    /// What was set aside for it is given back.
    Release(usize),
    /// It is booked, without having been set aside.
    Book(usize),
    /// What was booked for it is undone: what counted, and the surplus.
    Undo(usize, [i64; 2]),
    /// More arrived by it than was accepted.
    Suspend(usize, i64),
}

/// What a fact comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) after: Invoice,
    pub(super) moves: Vec<Move>,
    pub(super) verdict: Verdict,
}

/// From an invoice and a fact to the invoice after it.
pub(super) fn transition(invoice: &Invoice, fact: &Fact<'_>, moment: Moment) -> Outcome {
    let mut next = Outcome {
        after: invoice.clone(),
        moves: Vec::new(),
        verdict: Verdict::Unchanged,
    };
    match fact {
        Fact::Offered(offer) => next.offered(offer, moment),
        Fact::Arrived {
            reference,
            amount_msat,
        } => next.arrived(reference, *amount_msat),
        Fact::PaidByOffer {
            reference,
            amount_msat,
        } => next.paid_by_offer(reference, *amount_msat, moment),
        Fact::OnChain(fact, gone_on) => next.on_chain(fact, gone_on, moment),
        Fact::RefundCancelled(gone_on) => next.share_again(gone_on),
        Fact::TimeOver => {}
        Fact::Marked { as_state, reason } => next.marked(*as_state, reason, moment),
        Fact::Captured { height } => next.captured(*height, moment),
        Fact::Due { height } => next.given_back(|payment| is_due(payment, *height, moment)),
        Fact::Returned { reference } => next.returned(reference),
    }
    let is_news = next.after != *invoice || matches!(fact, Fact::TimeOver);
    if is_news {
        next.after.stand(moment.now_ms);
    }
    next
}

impl Outcome {
    fn offered(&mut self, offer: &Offer, moment: Moment) {
        if let Some(known) = self.after.payment(&offer.reference) {
            self.verdict = judge_again(known, offer.amount_msat);
            return;
        }
        let late = moment.now_ms >= self.after.expires_at_ms;
        match judge(&self.after, offer, moment) {
            Err(reason) => self.verdict = Verdict::Refused(reason),
            Ok(counted_msat) => {
                let state = match (self.after.options.hold, offer.rail) {
                    (true, _) => InvoicePaymentState::Authorized,
                    // Nothing is waited for: it moves in the same commit.
                    (false, Rail::Book) => InvoicePaymentState::Settled,
                    (false, _) => InvoicePaymentState::Pending,
                };
                let at = self.after.payments.len();
                self.after.payments.push(InvoicePayment {
                    counted_msat,
                    late,
                    skimmed_msat: offer.skimmed_msat,
                    claim_deadline_height: offer
                        .deadline_height
                        .filter(|_| self.after.options.hold),
                    held_until_ms: offer.held_until_ms.filter(|_| self.after.options.hold),
                    ..InvoicePayment::new(
                        offer.rail,
                        offer.reference.clone(),
                        offer.amount_msat,
                        state,
                        moment.now_ms,
                    )
                });
                let moved = match state {
                    InvoicePaymentState::Settled => Move::Book(at),
                    _ => Move::Hold(at),
                };
                self.moves = vec![Move::Claim(at), moved];
                self.verdict = Verdict::Taken;
            }
        }
    }

    fn arrived(&mut self, reference: &str, amount_msat: i64) {
        use InvoicePaymentState::{Authorized, Pending, Settled};
        let position = self.after.position(reference);
        let Some(at) = position else { return };
        let payment = &mut self.after.payments[at];
        if !matches!(payment.state, Pending | Authorized) {
            return;
        }
        payment.state = Settled;
        let amount_msat = amount_msat.saturating_add(payment.skimmed_msat);
        payment.short_msat = payment.amount_msat.saturating_sub(amount_msat).max(0);
        let more_msat = amount_msat.saturating_sub(payment.amount_msat);
        payment.amount_msat = payment.amount_msat.min(amount_msat);
        payment.counted_msat = payment.counted_msat.min(amount_msat);
        self.moves.push(Move::Capture(at));
        if more_msat > 0 {
            self.moves.push(Move::Suspend(at, more_msat));
        }
        self.verdict = Verdict::Taken;
    }

    fn paid_by_offer(&mut self, reference: &str, amount_msat: i64, moment: Moment) {
        if self.after.position(reference).is_some() {
            return;
        }
        if !self.after.has_place(Rail::Bolt12, amount_msat, true) {
            self.verdict = Verdict::Refused(TOO_MANY);
            return;
        }
        let (rail, reference) = (Rail::Bolt12, reference.to_owned());
        let at = self.first_seen(rail, reference, amount_msat, moment.now_ms, moment);
        self.after.payments[at].state = InvoicePaymentState::Settled;
        self.after.share_settled(at);
        self.after.share_pending();
        self.moves.push(Move::Book(at));
        self.verdict = Verdict::Taken;
    }

    /// Writes down a payment that cannot be given back.
    pub(super) fn first_seen(
        &mut self,
        rail: Rail,
        reference: String,
        amount_msat: i64,
        first_ms: i64,
        moment: Moment,
    ) -> usize {
        let at = self.after.payments.len();
        let late = first_ms >= self.after.expires_at_ms;
        let suspended =
            self.after.flags.marked.is_some() || (late && !takes_late(&self.after, moment));
        let state = InvoicePaymentState::Void;
        self.after.payments.push(InvoicePayment {
            late,
            suspended,
            ..InvoicePayment::new(rail, reference, amount_msat, state, first_ms)
        });
        self.moves.push(Move::Claim(at));
        at
    }

    fn marked(&mut self, as_state: MarkedAs, reason: &str, moment: Moment) {
        let missing_msat = self.after.due_msat();
        match as_state {
            MarkedAs::GivenUp => self.give_up(),
            // Nobody waits for what is set aside: taken as well, it would be paid twice.
            MarkedAs::Cancelled | MarkedAs::Settled | MarkedAs::Invalid => {
                self.given_back(|_| true);
            }
        }
        self.after.flags.marked = Some(InvoiceMark {
            as_state,
            reason: reason.to_owned(),
            missing_msat,
            at_ms: moment.now_ms,
        });
        self.verdict = Verdict::Taken;
    }

    /// What is being claimed and never arrives.
    fn give_up(&mut self) {
        for (at, payment) in self.after.payments.iter_mut().enumerate() {
            if payment.is_being_claimed() {
                payment.state = InvoicePaymentState::Void;
                self.moves.push(Move::Release(at));
            }
        }
    }

    /// What is set aside is taken: claimed over Lightning, moved at once by book. One whose time is
    /// nearly up is not: a claim that comes too late is none.
    fn captured(&mut self, height: Option<u32>, moment: Moment) {
        for (at, payment) in self.after.payments.iter_mut().enumerate() {
            if payment.state != InvoicePaymentState::Authorized {
                continue;
            }
            if is_due(payment, height, moment) {
                self.verdict = Verdict::Refused("too close to its deadline");
                continue;
            }
            payment.state = InvoicePaymentState::Pending;
            if payment.rail == Rail::Book {
                payment.state = InvoicePaymentState::Settled;
                self.moves.push(Move::Capture(at));
            }
            self.verdict = Verdict::Taken;
        }
    }

    /// What is set aside, and is to, goes back.
    fn given_back(&mut self, is_to: impl Fn(&InvoicePayment) -> bool) {
        for (at, payment) in self.after.payments.iter_mut().enumerate() {
            if payment.state != InvoicePaymentState::Authorized || !is_to(payment) {
                continue;
            }
            payment.state = InvoicePaymentState::Returning;
            if payment.rail == Rail::Book {
                payment.state = InvoicePaymentState::Void;
                self.moves.push(Move::Release(at));
            }
            self.verdict = Verdict::Taken;
        }
    }

    fn returned(&mut self, reference: &str) {
        let Some(at) = self.after.position(reference) else {
            return;
        };
        let payment = &mut self.after.payments[at];
        if payment.state == InvoicePaymentState::Returning {
            payment.state = InvoicePaymentState::Void;
            self.moves.push(Move::Release(at));
            self.verdict = Verdict::Taken;
        }
    }
}

/// True when a payment that is set aside goes back rather than being taken: only so many blocks
/// are left to claim it in, or, by book, its time is over.
fn is_due(payment: &InvoicePayment, height: Option<u32>, moment: Moment) -> bool {
    let too_high = |deadline: u32| {
        height.is_some_and(|height| height.saturating_add(HOLD_MARGIN_BLOCKS) >= deadline)
    };
    payment.claim_deadline_height.is_some_and(too_high)
        || payment
            .held_until_ms
            .is_some_and(|until_ms| moment.books_ms >= until_ms)
}

/// A payment that was offered before is offered again.
fn judge_again(known: &InvoicePayment, amount_msat: i64) -> Verdict {
    use InvoicePaymentState::{Authorized, Pending, Returning, Settled, Void};
    match known.state {
        Pending if known.amount_msat == amount_msat => Verdict::Claim,
        Authorized if known.amount_msat == amount_msat => Verdict::Waits,
        Pending | Authorized => Verdict::Refused("another payment is being taken"),
        Settled => Verdict::Refused("already paid"),
        Returning | Void => Verdict::Refused("given back"),
    }
}

/// Decides about a payment while it costs nothing to give it back: only the exact amount, in time,
/// to an invoice that waits, is taken, unless a rule of the merchant says otherwise. Answers what
/// of it counts.
fn judge(invoice: &Invoice, offer: &Offer, moment: Moment) -> Result<i64, &'static str> {
    match invoice.state {
        InvoiceState::Settled | InvoiceState::Invalid => return Err("already paid"),
        InvoiceState::Processing => return Err("another payment is being taken"),
        InvoiceState::New | InvoiceState::Expired => {}
    }
    if offer.amount_msat <= 0 {
        return Err("nothing");
    }
    let margin = if invoice.options.hold {
        HOLD_MARGIN_BLOCKS + 1
    } else {
        MIN_BLOCKS_LEFT
    };
    let late = moment.now_ms >= invoice.expires_at_ms || invoice.state == InvoiceState::Expired;
    if late && !takes_late(invoice, moment) {
        return Err("expired");
    }
    if offer.blocks_left.is_some_and(|blocks| blocks < margin) {
        return Err("too close to its deadline");
    }
    if !invoice.has_place(offer.rail, offer.amount_msat, true) {
        return Err(TOO_MANY);
    }
    if invoice.is_open_amount() {
        return Ok(offer.amount_msat);
    }
    let due_msat = invoice.due_msat();
    let counted_msat = share(due_msat, offer.amount_msat);
    let rules = invoice.rules();
    if counted_msat < offer.amount_msat && (rules.surplus.is_none() || invoice.options.hold) {
        return Err("too much");
    }
    if counted_msat < due_msat {
        let missing_msat = due_msat.saturating_sub(counted_msat);
        let enough = missing_msat <= rules.allowance_msat(invoice.amount_msat);
        if invoice.options.hold || !(enough || rules.ask_for_rest) {
            return Err("too little");
        }
    }
    Ok(counted_msat)
}

/// True when the merchant takes late payments, and the rate has not moved too far.
fn takes_late(invoice: &Invoice, moment: Moment) -> bool {
    let Some(most) = invoice.rules().accept_late_within_per_mille else {
        return false;
    };
    if invoice.quote.is_none() {
        return true;
    }
    moment
        .rate_moved_per_mille
        .is_some_and(|moved| moved <= most)
}

/// The name under which a payment hash is taken once for ever.
pub(crate) fn payment_claim(payment_hash: PaymentHash) -> String {
    claim_name(Rail::Lightning, &payment_hash.to_string())
}

/// The name under which a payment is taken once for ever.
pub(super) fn claim_name(rail: Rail, reference: &str) -> String {
    match rail {
        Rail::OnChain => format!("outpoint/{reference}"),
        Rail::Lightning | Rail::Book | Rail::Bolt12 => format!("payment/{reference}"),
    }
}

pub(super) fn state_key(state: InvoiceState) -> &'static str {
    match state {
        InvoiceState::New => "new",
        InvoiceState::Processing => "processing",
        InvoiceState::Settled => "settled",
        InvoiceState::Expired => "expired",
        InvoiceState::Invalid => "invalid",
    }
}

/// How long an invoice can be paid: as asked, but not longer than the quote of its price holds.
pub(super) fn expiry(asked_seconds: u32, quote: Option<&Quote>, now_ms: i64) -> u32 {
    let Some(quote) = quote else {
        return asked_seconds;
    };
    let holds_seconds = quote.valid_until_ms.saturating_sub(now_ms) / 1_000;
    u32::try_from(holds_seconds.max(1)).map_or(asked_seconds, |holds| holds.min(asked_seconds))
}

/// What money that arrives under a payment hash is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    /// What was accepted: it is booked.
    Accepted,
    /// Told a second time.
    Known,
    /// No invoice waits for it. It is taken once, under this name.
    Unmatched {
        /// The name to claim.
        claim: String,
    },
}

/// Judges money that is ours by now.
pub(super) fn arrival(hash: PaymentHash, invoice: Option<&Invoice>) -> Arrival {
    use InvoicePaymentState::{Authorized, Pending, Returning, Settled, Void};
    let claim = payment_claim(hash);
    let known = invoice.and_then(|invoice| invoice.payment(&hash.to_string()));
    match known.map(|payment| payment.state) {
        Some(Pending | Authorized) => Arrival::Accepted,
        Some(Settled) => Arrival::Known,
        // It was given up or given back; the name of its payment is the invoice's own.
        Some(Void | Returning) => Arrival::Unmatched {
            claim: format!("{claim}/given-up"),
        },
        None => Arrival::Unmatched { claim },
    }
}
