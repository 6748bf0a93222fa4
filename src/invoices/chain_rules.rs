//! Pure decisions about payments on chain: each stands as the place of its output says.

use super::facts::{OnChainFact, OnChainPlace};
use super::model::Invoice;
use super::payment::{InvoicePaymentState, Rail};
use super::rules::{Moment, Move, Outcome, TOO_MANY, Verdict};

/// How much older than the invoice an output must be where nobody knows the height at which its
/// address was given out: the clock of a device may be hours off, and the time of a block is its miner's
/// word.
const CLOCKS_APART_MS: i64 = 24 * 3_600_000;

/// Why what came before the invoice was made is not its own.
const OLDER: &str = "it was there before the invoice was made";

/// Confirmations beyond this are not written down.
const FOLLOWED_CONFIRMATIONS: u32 = 6;

impl Outcome {
    pub(super) fn on_chain(&mut self, fact: &OnChainFact, gone_on: &[usize], moment: Moment) {
        let reference = fact.outpoint.to_string();
        let amount_msat = fact.amount_sat.saturating_mul(1_000);
        let is_here = matches!(fact.place, OnChainPlace::Block { .. });
        let at = match self.after.position(&reference) {
            Some(at) => at,
            None if matches!(fact.place, OnChainPlace::Gone { .. }) => return,
            // The address had been given out by something else, or before the books were restored.
            None if is_older(&self.after, fact) => {
                self.verdict = Verdict::Refused(OLDER);
                return;
            }
            None if !self.after.has_place(Rail::OnChain, amount_msat, is_here) => {
                self.verdict = Verdict::Refused(TOO_MANY);
                return;
            }
            None => {
                let first_ms = fact.first_known_ms;
                self.first_seen(Rail::OnChain, reference, amount_msat, first_ms, moment)
            }
        };
        let to = self.note_place(at, &fact.place);
        self.verdict = Verdict::Taken;
        self.go(at, to);
        self.look_at_waiting();
        if self.moves.iter().any(|it| matches!(it, Move::Undo(..))) {
            self.share_again(gone_on);
        }
        self.after.share_pending();
    }

    /// What is surplus beside a payment that is no more counts in its place.
    pub(super) fn share_again(&mut self, gone_on: &[usize]) {
        for (at, booked) in self.after.share_again(gone_on) {
            self.moves.extend([Move::Undo(at, booked), Move::Book(at)]);
        }
    }

    /// Writes down where it is; answers how it stands there. What was settled stays that while it
    /// is no less confirmed, also when more came meanwhile and all of it together needs more.
    fn note_place(&mut self, at: usize, place: &OnChainPlace) -> InvoicePaymentState {
        use InvoicePaymentState::{Settled, Void};
        let payment = &mut self.after.payments[at];
        let had = payment.confirmations;
        payment.leave_block();
        (payment.replaced_by, payment.replaceable) = (None, None);
        match place {
            OnChainPlace::Mempool { replaceable } => payment.replaceable = Some(*replaceable),
            OnChainPlace::Block {
                height,
                hash,
                confirmations,
            } => {
                payment.confirmations = (*confirmations).min(FOLLOWED_CONFIRMATIONS);
                (payment.block, payment.block_height) = (Some(hash.clone()), Some(*height));
            }
            OnChainPlace::Gone { replaced_by } => {
                payment.replaced_by.clone_from(replaced_by);
                return Void;
            }
        }
        let is_less = payment.confirmations < had || payment.replaceable == Some(true);
        if payment.state == Settled && !is_less {
            return Settled;
        }
        self.standing_of(at)
    }

    /// How a payment stands with the confirmations that it has.
    fn standing_of(&self, at: usize) -> InvoicePaymentState {
        let payment = &self.after.payments[at];
        let needed = self.after.confirmations_needed(at);
        let is_final = payment.replaceable == Some(false);
        let is_enough = payment.confirmations >= needed;
        if is_enough && (payment.confirmations > 0 || is_final) {
            InvoicePaymentState::Settled
        } else {
            InvoicePaymentState::Pending
        }
    }

    /// Where others are gone, what is left may need fewer confirmations.
    fn look_at_waiting(&mut self) {
        for at in self.after.in_order() {
            let payment = &self.after.payments[at];
            let waits = payment.state == InvoicePaymentState::Pending;
            if waits && payment.rail == Rail::OnChain {
                let to = self.standing_of(at);
                self.go(at, to);
            }
        }
    }

    /// Brings a payment on chain to where it stands now.
    fn go(&mut self, at: usize, to: InvoicePaymentState) {
        use InvoicePaymentState::Settled;
        let from = std::mem::replace(&mut self.after.payments[at].state, to);
        if from == to {
            return;
        }
        if from == Settled {
            let payment = &self.after.payments[at];
            let lost_msat = payment.amount_msat;
            // As it was booked: what counts of it is about to be worked out anew.
            let booked = [payment.counted_msat, payment.surplus_msat()];
            self.moves.push(Move::Undo(at, booked));
            let flags = &mut self.after.flags;
            flags.reorged_msat = flags.reorged_msat.saturating_add(lost_msat);
        }
        if to == Settled {
            self.after.share_settled(at);
            self.moves.push(Move::Book(at));
        }
    }
}

/// True of an output that was there before anybody could be shown the invoice: nobody paid it by
/// that. The chain's height says it, whatever any clock was set to; a few blocks may be made anew.
fn is_older(invoice: &Invoice, fact: &OnChainFact) -> bool {
    let given = invoice.on_chain.as_ref().and_then(|it| it.given_at_height);
    match (given, &fact.place) {
        (Some(given), OnChainPlace::Block { height, .. }) => {
            height.saturating_add(FOLLOWED_CONFIRMATIONS) <= given
        }
        (Some(_), _) => false,
        (None, _) => fact.first_known_ms.saturating_add(CLOCKS_APART_MS) < invoice.created_at_ms,
    }
}
