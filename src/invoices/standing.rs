//! Where an invoice stands, worked out from its payments.

use super::model::{Invoice, InvoiceState, LightningRail, UnavailableRail};
use super::options::{PaymentRules, SurplusTo};
use super::payment::{InvoicePayment, InvoicePaymentState, MarkedAs, Rail};
use crate::ledger::Account;

impl InvoicePayment {
    /// It was taken over Lightning, and the money is not here yet.
    pub(super) fn is_being_claimed(&self) -> bool {
        self.rail != Rail::OnChain && self.state == InvoicePaymentState::Pending
    }

    /// It is set aside, and waits for a person.
    pub(super) fn is_authorized(&self) -> bool {
        self.state == InvoicePaymentState::Authorized
    }

    /// What counts of it is decided, whatever becomes of others.
    pub(super) fn is_fixed(&self) -> bool {
        self.is_live() && (self.rail != Rail::OnChain || self.state == InvoicePaymentState::Settled)
    }
}

/// Those of an invoice for which nothing was said.
static NO_RULES: PaymentRules = PaymentRules::NONE;

impl Invoice {
    /// What is done with a payment that is not what was asked for.
    pub fn rules(&self) -> &PaymentRules {
        self.options.rules.as_ref().unwrap_or(&NO_RULES)
    }

    pub(super) fn position(&self, reference: &str) -> Option<usize> {
        let is_it = |payment: &InvoicePayment| payment.reference == reference;
        self.payments.iter().position(is_it)
    }

    pub(super) fn payment(&self, reference: &str) -> Option<&InvoicePayment> {
        self.position(reference).map(|at| &self.payments[at])
    }

    /// Works out where the invoice stands, and what stands out about it.
    pub(super) fn stand(&mut self, now_ms: i64) {
        let sum = |of: &dyn Fn(&InvoicePayment) -> i64| {
            let live = self.payments.iter().filter(|payment| payment.is_live());
            live.fold(0_i64, |sum, payment| sum.saturating_add(of(payment)))
        };
        let settled = |payment: &InvoicePayment| match payment.state {
            InvoicePaymentState::Settled => payment.counted_msat,
            _ => 0,
        };
        let (counted_msat, received_msat) = (self.counted_msat(), sum(&settled));
        let surplus = |payment: &InvoicePayment| match payment.late && payment.suspended {
            true => 0,
            false => payment.surplus_msat(),
        };
        let late = |payment: &InvoicePayment| match payment.late {
            true => payment.amount_msat,
            false => 0,
        };
        let (overpaid_msat, late_msat) = (sum(&surplus), sum(&late));
        let missing_msat = self.amount_msat.saturating_sub(counted_msat).max(0);
        self.received_msat = received_msat;
        self.note_refund_due();
        let beyond_msat = self.beyond_price_msat(counted_msat);
        self.flags.overpaid_msat = overpaid_msat.saturating_add(beyond_msat);
        self.flags.late_msat = late_msat;
        self.flags.underpaid_msat = if counted_msat > 0 { missing_msat } else { 0 };
        self.state = self.standing(counted_msat, now_ms);
    }

    /// What counts beyond the price: where what was to go back did not, and was paid again meanwhile.
    /// The part of a sat is none.
    pub(super) fn beyond_price_msat(&self, counted_msat: i64) -> i64 {
        match counted_msat.saturating_sub(self.amount_msat) {
            beyond_msat @ 1_000.. if !self.is_open_amount() => beyond_msat,
            _ => 0,
        }
    }

    /// What of the surplus is to be paid back and was not: whatever was paid back was the surplus
    /// first.
    pub(super) fn note_refund_due(&mut self) {
        let came = self
            .payments
            .iter()
            .filter(|payment| payment.state == InvoicePaymentState::Settled && !payment.suspended);
        let beyond_msat = self.beyond_price_msat(self.kept(self.received_msat));
        let surplus_msat = came.fold(beyond_msat, |sum, payment| {
            sum.saturating_add(payment.surplus_msat())
        });
        self.refund_due_msat = match self.rules().surplus {
            Some(SurplusTo::Refund) => {
                let left_msat = surplus_msat.saturating_sub(self.flags.refund_covers_msat);
                left_msat.max(0)
            }
            _ => 0,
        };
    }

    fn standing(&self, counted_msat: i64, now_ms: i64) -> InvoiceState {
        if let Some(mark) = &self.flags.marked {
            return match mark.as_state {
                MarkedAs::Settled => InvoiceState::Settled,
                MarkedAs::Invalid | MarkedAs::Cancelled | MarkedAs::GivenUp => {
                    InvoiceState::Invalid
                }
            };
        }
        let allowance_msat = self.rules().allowance_msat(self.amount_msat);
        let enough_msat = self.amount_msat.saturating_sub(allowance_msat).max(1);
        let waits = |payment: &&InvoicePayment| {
            payment.is_live() && payment.state != InvoicePaymentState::Settled
        };
        let mut waiting = self.payments.iter().filter(waits).peekable();
        // Where whoever pays chooses, nobody can say before the last has come whether it is all.
        let all_here = !self.is_open_amount() || waiting.peek().is_none();
        if self.kept(self.received_msat) >= enough_msat && all_here {
            return InvoiceState::Settled;
        }
        if self.payments.iter().any(|payment| payment.short_msat > 0) {
            return InvoiceState::Invalid;
        }
        if counted_msat >= enough_msat {
            let on_chain = waiting.any(|payment| payment.rail == Rail::OnChain);
            return if on_chain && now_ms >= self.monitored_until_ms() {
                InvoiceState::Invalid
            } else {
                InvoiceState::Processing
            };
        }
        if now_ms >= self.expires_at_ms {
            InvoiceState::Expired
        } else {
            InvoiceState::New
        }
    }

    /// The kind of the event that tells of it, which was `before`.
    pub(super) fn event(&self, before: &Self) -> &'static str {
        if self.flags.marked != before.flags.marked {
            return match self.flags.marked.as_ref().map(|mark| mark.as_state) {
                Some(MarkedAs::GivenUp) => "invoice.given_up",
                Some(MarkedAs::Cancelled) => "invoice.cancelled",
                _ => "invoice.marked",
            };
        }
        if self.flags.reorged_msat > before.flags.reorged_msat {
            return "invoice.reorged";
        }
        if self.flags.refunded_msat > before.flags.refunded_msat {
            return "invoice.refunded";
        }
        if self.state == before.state {
            return "invoice.updated";
        }
        let authorized = self.payments.iter().any(InvoicePayment::is_authorized);
        match self.state {
            InvoiceState::New => "invoice.reopened",
            InvoiceState::Processing if authorized => "invoice.authorized",
            InvoiceState::Processing => "invoice.processing",
            InvoiceState::Settled => "invoice.settled",
            InvoiceState::Expired => "invoice.expired",
            InvoiceState::Invalid => "invoice.invalid",
        }
    }

    /// The account that surplus goes to.
    pub(super) fn surplus_account(&self) -> Account {
        match self.rules().surplus {
            Some(SurplusTo::Tip | SurplusTo::Refund) => self.purpose.account(),
            Some(SurplusTo::Card { card }) => Account::card_balance(card),
            None => Account::suspense(),
        }
    }

    /// True where a BOLT11 text asks for what is due: there was one, or there was no room for all of it,
    /// of which a rest may find room.
    pub(super) fn wants_lightning(&self) -> bool {
        let had_no_room = |rail: &UnavailableRail| {
            let codes = ["lightning.no_inbound_capacity", "lightning.draining"];
            rail.rail == Rail::Lightning && codes.contains(&rail.code.as_str())
        };
        !self.lightning.is_empty() || self.unavailable.iter().any(had_no_room)
    }

    /// The BOLT11 text that asks for exactly what is due, if it can still be paid.
    pub(crate) fn payable_rail(&self) -> Option<&LightningRail> {
        let due_msat = (!self.is_open_amount()).then(|| self.due_msat());
        self.lightning
            .last()
            .filter(|rail| rail.amount_msat == due_msat)
            .filter(|rail| self.payment(&rail.payment_hash.to_string()).is_none())
    }
}
