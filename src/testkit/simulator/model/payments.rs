//! Payouts and suspense, as the model knows them.

use super::invoices::record;
use super::{Asked, Model, Truth, Wrong, hash_of, not_lawful, parse, text, transfer_id, wrong};
use crate::ids::{MerchantId, PayoutId};
use crate::ledger::{Account, EventRecord};
use crate::lightning::{PaymentDirection, PaymentHash, PaymentState};
use crate::testkit::simulator::tally::Transition;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayoutStanding {
    Sending,
    Unknown,
    PaidOut,
    Failed,
}

impl PayoutStanding {
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::PaidOut | Self::Failed)
    }
}

pub(crate) struct KnownPayout {
    pub(crate) standing: PayoutStanding,
    pub(crate) hash: PaymentHash,
    pub(crate) amount_msat: i64,
    merchant: MerchantId,
    fee_msat: i64,
    route_msat: i64,
}

/// 1 % and 0.5 % with 10 sat: the terms that every merchant of a simulation has.
pub(super) fn share_of(amount_msat: i64, base_msat: i64, bps: i64) -> i64 {
    base_msat + (amount_msat * bps).div_euclid(10_000) + i64::from(amount_msat * bps % 10_000 > 0)
}

impl Model {
    pub(super) fn read_suspense(
        &mut self,
        event: &EventRecord,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        let (node, suspense) = (Account::node_channels(), Account::suspense());
        match event.kind.as_str() {
            "payment.unmatched" if event.object.contains(':') => self.unmatched_on_chain(event),
            "payment.unmatched" => {
                let arrived = record(truth, parse(&event.object)?, PaymentDirection::Inbound)
                    .filter(|record| record.state == PaymentState::Succeeded)
                    .and_then(|record| record.amount_msat);
                let Some(amount) = arrived else {
                    return wrong("only what arrived is booked", "not arrived");
                };
                self.books.post(node, suspense, amount);
                self.suspend(&event.object, amount)?;
                self.fire(Transition::PaymentUnmatched);
                Ok(())
            }
            "payment.unexpected" => {
                let left = record(truth, parse(&event.object)?, PaymentDirection::Outbound)
                    .filter(|record| record.state == PaymentState::Succeeded);
                let Some(left) = left else {
                    return wrong("only what left is booked", "not left");
                };
                let amount = left.amount_msat.unwrap_or(0) + left.fee_msat.unwrap_or(0);
                self.books.post(suspense, node, amount);
                self.suspend(&event.object, -amount)?;
                self.fire(Transition::PaymentUnexpected);
                Ok(())
            }
            "suspense.assigned" => {
                transfer_id(&event.object)?;
                let came_by = text(&event.body, "payment_hash");
                let came_by = came_by.or_else(|_| text(&event.body, "outpoint"))?;
                let Some(amount) = self.suspense.remove(came_by) else {
                    return wrong("nothing is done twice", "suspense assigned");
                };
                // The operator's own is the only one that a simulation assigns it to.
                self.books
                    .post(suspense, Account::operator_capital(), amount);
                self.assigned.insert(came_by.to_owned(), amount);
                self.fire(Transition::SuspenseAssigned);
                Ok(())
            }
            // The chain took it: whoever it was assigned to gives it back.
            "suspense.withdrawn" => {
                let came_by = text(&event.body, "outpoint")?;
                let Some(amount) = self.assigned.remove(came_by) else {
                    return wrong("nothing is done twice", "suspense withdrawn");
                };
                self.books
                    .post(Account::operator_capital(), suspense, amount);
                self.fire(Transition::SuspenseWithdrawn);
                Ok(())
            }
            _ => wrong("every event can be dealt with", format!("{event:?}")),
        }
    }

    /// What of a payment on chain is nobody's.
    fn unmatched_on_chain(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let Some(amount) = self.surplus.remove(&event.object) else {
            return wrong("only what arrived is booked", "not arrived");
        };
        let (wallet, suspense) = (Account::node_onchain(), Account::suspense());
        self.books.post(wallet, suspense, amount);
        self.suspense.insert(event.object.clone(), amount);
        self.fire(Transition::OnChainSurplus);
        Ok(())
    }

    fn suspend(&mut self, hash: &str, amount: i64) -> Result<(), Wrong> {
        if !self.done.insert(format!("suspense/{hash}")) {
            return wrong("nothing is done twice", "suspense");
        }
        self.suspense.insert(hash.to_owned(), amount);
        Ok(())
    }

    pub(super) fn read_payout(
        &mut self,
        event: &EventRecord,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        use PayoutStanding::{Failed, PaidOut, Sending, Unknown};
        let id: PayoutId = parse(&event.object)?;
        if event.kind == "payout.sending" {
            return self.payout_intended(id, event);
        }
        let Some(payout) = self.payouts.get_mut(&id) else {
            return not_lawful("a payout of nobody");
        };
        let before = payout.standing;
        let (to, transition) = match (event.kind.as_str(), before) {
            ("payout.unknown", Sending) => (Unknown, Transition::PayoutUnknown),
            ("payout.paid_out", Sending) => (PaidOut, Transition::PaidOut),
            ("payout.paid_out", Unknown) => (PaidOut, Transition::PaidOutAfterUnknown),
            ("payout.failed", Sending) => (Failed, Transition::PayoutFailed),
            ("payout.failed", Unknown) => (Failed, Transition::PayoutFailedAfterUnknown),
            _ => return not_lawful(format!("from {before:?}")),
        };
        payout.standing = to;
        let left = record(truth, payout.hash, PaymentDirection::Outbound);
        let state = left.as_ref().map(|record| record.state);
        let by_a_person = self.resolved.contains(&id);
        if to == PaidOut && state != Some(PaymentState::Succeeded) {
            return wrong("only what left is booked", "paid out, and it is not");
        }
        let may_have_left = matches!(state, Some(PaymentState::Succeeded | PaymentState::Pending));
        if to == Failed && may_have_left && !by_a_person {
            return wrong("unknown is never read as failed", format!("{state:?}"));
        }
        if to.is_final() && by_a_person {
            self.fired.push(Transition::PayoutResolved);
        }
        let cost = left.and_then(|record| record.fee_msat).unwrap_or(0);
        self.end_payout(id, to, cost);
        self.fire(transition);
        Ok(())
    }

    fn end_payout(&mut self, id: PayoutId, to: PayoutStanding, cost: i64) {
        let Some(payout) = self.payouts.get(&id).filter(|_| to.is_final()) else {
            return;
        };
        let parts = payout.parts();
        let moved = [payout.amount_msat, payout.fee_msat, cost];
        for ((debit, credit, held), moved) in parts.into_iter().zip(moved) {
            self.books.pend(debit, credit, -held);
            if to == PayoutStanding::PaidOut && moved > 0 {
                self.books.post(debit, credit, moved);
            }
        }
    }

    fn payout_intended(&mut self, id: PayoutId, event: &EventRecord) -> Result<(), Wrong> {
        let hash = hash_of(&event.body)?;
        let Asked::Payout {
            merchant,
            amount_msat,
        } = self.take(&format!("payout/{hash}"))?
        else {
            return wrong("nothing happens that nobody asked for", hash.to_string());
        };
        let payout = KnownPayout {
            standing: PayoutStanding::Sending,
            hash,
            amount_msat,
            merchant,
            fee_msat: share_of(amount_msat, 0, 100),
            route_msat: share_of(amount_msat, 10_000, 50),
        };
        let payable = Account::merchant_payable(merchant);
        if self.books.to_give(&payable) < amount_msat + payout.fee_msat {
            return not_lawful("more than the merchant is owed");
        }
        for (debit, credit, held) in payout.parts() {
            self.books.pend(debit, credit, held);
        }
        self.payouts.insert(id, payout);
        self.fire(Transition::PayoutSending);
        Ok(())
    }
}

impl KnownPayout {
    /// What is set aside: the amount, the fee, the route.
    fn parts(&self) -> [(Account, Account, i64); 3] {
        let (payable, node) = (
            Account::merchant_payable(self.merchant),
            Account::node_channels(),
        );
        [
            (payable, node, self.amount_msat),
            (payable, Account::fee_income(), self.fee_msat),
            (Account::routing_fees(), node, self.route_msat),
        ]
    }
}
