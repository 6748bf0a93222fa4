//! Payments of invoices on chain, what the chain takes back of them, and what is owed for it.

use std::collections::BTreeMap;

use super::invoices::{KnownInvoice, Standing};
use super::payments::share_of;
use super::{Model, Truth, Wrong, not_lawful, wrong};
use crate::ledger::{Account, Owner};
use crate::testkit::simulator::tally::Transition;

impl Model {
    pub(super) fn on_chain(
        &mut self,
        invoice: &mut KnownInvoice,
        (at, is_new): (usize, bool),
        (to, written): (Standing, (i64, Option<String>)),
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        let payment = &invoice.payments[at];
        let Some(receipt) = truth.chain.receipts.get(&payment.reference) else {
            return not_lawful("a payment that nobody made");
        };
        let is_here = invoice.address.as_ref() == Some(&receipt.address);
        if !is_here || payment.amount_msat != receipt.amount_sat * 1_000 {
            return not_lawful("a payment of somebody else");
        }
        let late = receipt.first_known_ms >= invoice.expires_at_ms;
        let suspended = payment.suspended || (is_new && (late || invoice.is_given_up));
        let mut places = truth.chain.known(&payment.reference).into_iter().flatten();
        let is_true =
            places.any(|place| invoice.judge(suspended, place) == to && place.written() == written);
        if !is_true {
            return wrong(
                "the chain is believed as it is",
                format!("{to:?}, {written:?}"),
            );
        }
        if invoice.is_operators && payment.standing == Standing::Settled && to != Standing::Settled
        {
            // A hold may have ended there that no job has looked at yet: what it gave back is the
            // first that is taken.
            self.go_on(invoice.payments[at].credit);
        }
        let before = self.standing_of(invoice);
        let payment = &mut invoice.payments[at];
        payment.suspended = suspended;
        payment.written = written;
        let from = std::mem::replace(&mut payment.standing, to);
        if is_new && suspended {
            self.fired.push(Transition::OnChainLate);
        }
        if from == Standing::Settled && to != Standing::Settled {
            invoice.payments[at].was_reorged = true;
            self.fired.push(Transition::OnChainReorged);
            self.undo(invoice, at);
            self.count_others(invoice);
        }
        if from != Standing::Settled && to == Standing::Settled {
            self.book(invoice, at);
        }
        // What a merchant owes has what all that leaves it.
        for (owner, credit, came_msat) in std::mem::take(&mut self.debts) {
            self.net(owner, credit, came_msat);
        }
        if from == Standing::Settled && to != Standing::Settled {
            invoice.counts_what_is_there(&self.suspense)?;
            only_what_vanished_is_gone(before, self.standing_of(invoice))?;
        }
        self.fired.extend(match (from, to) {
            (Standing::Void, Standing::Pending) => Some(Transition::OnChainSeen),
            (Standing::Pending, Standing::Void) => Some(Transition::OnChainGone),
            _ => None,
        });
        Ok(())
    }

    /// How whoever an invoice is of stands; nobody in these books where it is paid elsewhere.
    fn standing_of(&self, invoice: &KnownInvoice) -> Option<OwnersStanding> {
        let owner = self.account_now(invoice.owner);
        let owes = owed_by(owner).filter(|_| invoice.is_operators)?;
        Some(OwnersStanding {
            has_msat: self.books.to_give(&owner).max(0),
            owes_msat: i64::try_from(self.books.sum(&owes).net).unwrap_or(0),
            came_msat: invoice.owners_msat(),
        })
    }

    fn book(&mut self, invoice: &mut KnownInvoice, at: usize) {
        let due_msat = invoice.amount_msat - invoice.fixed_msat(at);
        let (owner, tips, is_operators) = (invoice.owner, invoice.tips, invoice.is_operators);
        let payment = &mut invoice.payments[at];
        payment.counted_msat = if payment.suspended {
            0
        } else {
            payment.amount_msat.min(due_msat.max(0))
        };
        self.fired.push(if payment.was_reorged {
            Transition::OnChainBookedAgain
        } else {
            Transition::OnChainBooked
        });
        if !is_operators {
            // It was never the operator's: what is kept of it is owed, 1 %.
            let fee_msat = share_of(payment.counted_msat, 0, 100);
            payment.owed_fee_msat = fee_msat;
            if let Some(owes) = owed_by(owner).filter(|_| fee_msat > 0) {
                self.books.post(owes, Account::fee_income(), fee_msat);
            }
            self.fired.push(Transition::OnChainOfMerchant);
            return;
        }
        let wallet = Account::node_onchain();
        payment.credit = self.account_now(owner);
        let (credit, counted_msat) = (payment.credit, payment.counted_msat);
        let surplus_msat = payment.amount_msat - counted_msat;
        let mut came_msat = counted_msat;
        self.books.post(wallet, credit, counted_msat);
        if surplus_msat > 0 && tips && !payment.suspended {
            self.books.post(wallet, credit, surplus_msat);
            if counted_msat > 0 {
                came_msat += surplus_msat;
            }
            self.fired.push(Transition::OnChainTip);
        } else if surplus_msat > 0 {
            // It is told by an event of its own.
            let reference = payment.reference.clone();
            self.surplus.insert(reference, surplus_msat);
        }
        self.net_last(owner, credit, came_msat);
    }

    fn undo(&mut self, invoice: &mut KnownInvoice, at: usize) {
        let (owner, tips, is_operators) = (invoice.owner, invoice.tips, invoice.is_operators);
        let payment = &mut invoice.payments[at];
        if !is_operators {
            let fee_msat = std::mem::take(&mut payment.owed_fee_msat);
            self.books.post(Account::fee_income(), owner, fee_msat);
            self.net_last(owner, owner, fee_msat);
            return;
        }
        let counted_msat = payment.counted_msat;
        let surplus_msat = payment.amount_msat - counted_msat;
        // Of a card that was replaced since, the one in its place has it.
        let credit = self.account_now(payment.credit);
        let owes = owed_by(self.account_now(owner));
        self.take_back(credit, owes, counted_msat);
        if tips && !payment.suspended {
            self.take_back(credit, owes, surplus_msat);
        } else if surplus_msat > 0 {
            let (suspense, wallet) = (Account::suspense(), Account::node_onchain());
            self.books.post(suspense, wallet, surplus_msat);
            if self.suspense.remove(&payment.reference).is_some() {
                self.fired.push(Transition::SuspenseWithdrawn);
            }
        }
    }

    /// What was surplus beside a payment that vanished is the price now, of what was known earlier
    /// first; unless somebody was given it.
    fn count_others(&mut self, invoice: &mut KnownInvoice) {
        let mut order: Vec<usize> = (0..invoice.payments.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (&invoice.payments[*a], &invoice.payments[*b]);
            (a.at_ms, &a.reference).cmp(&(b.at_ms, &b.reference))
        });
        for at in order {
            let payment = &invoice.payments[at];
            let surplus_msat = payment.amount_msat - payment.counted_msat;
            let is_here = payment.is_on_chain && payment.standing == Standing::Settled;
            let due_msat = invoice.amount_msat - invoice.fixed_msat(at);
            let is_more = due_msat.min(payment.amount_msat) > payment.counted_msat;
            let in_suspense = invoice.is_operators && !invoice.tips;
            let is_given = in_suspense && !self.suspense.contains_key(&payment.reference);
            if !is_here || payment.suspended || surplus_msat <= 0 || is_given || !is_more {
                continue;
            }
            self.undo(invoice, at);
            self.book(invoice, at);
        }
    }

    /// What the chain took: from whoever has it, as far as that goes, and the rest is owed.
    fn take_back(&mut self, from: Account, owes: Option<Account>, amount_msat: i64) {
        let wallet = Account::node_onchain();
        let has_msat = self.books.to_give(&from).max(0).min(amount_msat);
        let owed_msat = amount_msat - has_msat;
        if has_msat > 0 {
            self.books.post(from, wallet, has_msat);
            self.fired.push(Transition::ReorgTakenBack);
        }
        if let Some(owes) = owes.filter(|_| owed_msat > 0) {
            self.books.post(owes, wallet, owed_msat);
            self.fired.push(Transition::ReorgOwed);
        }
    }

    /// The same, of a merchant once all else is done.
    fn net_last(&mut self, owner: Account, credit: Account, came_msat: i64) {
        match owner.owner() {
            Owner::Merchant(_) => self.debts.push((owner, credit, came_msat)),
            _ => self.net(owner, credit, came_msat),
        }
    }

    /// What is owed comes out of what came in.
    pub(super) fn net(&mut self, owner: Account, credit: Account, came_msat: i64) {
        let Some(owes) = owed_by(self.account_now(owner)) else {
            return;
        };
        let owed_msat = i64::try_from(self.books.sum(&owes).net).unwrap_or(0);
        let has_msat = self.books.to_give(&credit).max(0);
        let amount_msat = came_msat.min(owed_msat).min(has_msat);
        if amount_msat > 0 {
            self.books.post(credit, owes, amount_msat);
            self.fired.push(Transition::OwedNetted);
        }
    }
}

/// How the owner of an invoice stands.
#[derive(Clone, Copy)]
struct OwnersStanding {
    has_msat: i64,
    owes_msat: i64,
    /// What came to it by the invoice.
    came_msat: i64,
}

/// Whatever was undone and booked for it, and in whichever order: the owner has as much less as it
/// was credited with less, and owes no more than what it has not. What was spent is not there to be
/// spent a second time, with a debt beside it.
fn only_what_vanished_is_gone(
    before: Option<OwnersStanding>,
    after: Option<OwnersStanding>,
) -> Result<(), Wrong> {
    let (Some(before), Some(after)) = (before, after) else {
        return Ok(());
    };
    let worth_msat = |it: OwnersStanding| it.has_msat - it.owes_msat;
    let lost_msat = before.came_msat - after.came_msat;
    if worth_msat(before) - worth_msat(after) != lost_msat {
        let detail = format!("{lost_msat} msat vanished");
        return wrong("only what vanished is gone", detail);
    }
    let both_msat = |it: OwnersStanding| it.has_msat.min(it.owes_msat);
    if both_msat(after) > both_msat(before) {
        let (has_msat, owes_msat) = (after.has_msat, after.owes_msat);
        let detail = format!("{has_msat} msat to spend, {owes_msat} msat owed");
        return wrong("nothing is given twice", detail);
    }
    Ok(())
}

impl KnownInvoice {
    /// What came by it to whoever it is of.
    fn owners_msat(&self) -> i64 {
        let here = self.payments.iter();
        let here = here.filter(|it| it.standing == Standing::Settled && !it.suspended);
        here.map(|it| match self.tips && it.is_on_chain {
            true => it.amount_msat,
            false => it.counted_msat,
        })
        .sum()
    }

    /// As much counts as is there for it, and no more than the price: but for what of it somebody
    /// was given.
    fn counts_what_is_there(&self, waiting: &BTreeMap<String, i64>) -> Result<(), Wrong> {
        let (mut there_msat, mut counts_msat) = (0, self.fixed_msat(usize::MAX));
        for payment in &self.payments {
            let is_settled = payment.standing == Standing::Settled;
            let is_here =
                self.tips || !self.is_operators || waiting.contains_key(&payment.reference);
            if payment.is_on_chain && is_settled && !payment.suspended && is_here {
                there_msat += payment.amount_msat;
                counts_msat -= payment.counted_msat;
            }
        }
        // What else counts is decided.
        let left_msat = (self.amount_msat - counts_msat).max(0);
        let counts_msat = self.fixed_msat(usize::MAX) - counts_msat;
        if counts_msat != there_msat.min(left_msat) {
            let detail = format!("{counts_msat} of {there_msat} msat, {left_msat} to pay");
            return wrong("what is there counts", detail);
        }
        Ok(())
    }
}

fn owed_by(owner: Account) -> Option<Account> {
    match owner.owner() {
        Owner::Card(card) => Some(Account::card_receivable(card)),
        Owner::Merchant(merchant) => Some(Account::merchant_receivable(merchant)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(has_msat: i64, owes_msat: i64, came_msat: i64) -> Option<OwnersStanding> {
        Some(OwnersStanding {
            has_msat,
            owes_msat,
            came_msat,
        })
    }

    #[test]
    fn what_was_spent_is_not_given_again_with_a_debt_beside_it() {
        let check = |before, after| only_what_vanished_is_gone(before, after);
        // 1,000 vanish beside a surplus of 50,000, when all of it was spent.
        let spent = standing(0, 0, 51_000);
        assert_eq!(check(spent, standing(0, 1_000, 50_000)), Ok(()));
        let twice = check(spent, standing(49_000, 50_000, 50_000)).unwrap_err();
        assert_eq!(twice.check, "nothing is given twice");
        // Nothing of it was spent, and some of it.
        let has = standing(51_000, 0, 51_000);
        assert_eq!(check(has, standing(50_000, 0, 50_000)), Ok(()));
        let some = standing(400, 0, 51_000);
        assert_eq!(check(some, standing(0, 600, 50_000)), Ok(()));
        for (has_msat, owes_msat) in [(50_001, 0), (49_999, 0), (51_000, 0), (50_000, 1_000)] {
            let other = check(has, standing(has_msat, owes_msat, 50_000)).unwrap_err();
            assert_eq!(other.check, "only what vanished is gone");
        }
        // What was owed before beside what was on hold then may stand there still.
        let held = standing(5_000, 3_000, 2_000);
        assert_eq!(check(held, standing(3_000, 3_000, 0)), Ok(()));
        assert_eq!(check(held, standing(1_000, 1_000, 0)), Ok(()));
        assert!(check(held, standing(4_000, 4_000, 0)).is_err());
    }
}
