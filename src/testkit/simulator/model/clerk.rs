//! The ledger alone: holds, captures, reversals and usage, as the model knows them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Books, Wrong, not_lawful, wrong};
use crate::ids::TransferId;
use crate::ledger::{Account, AccountKind};
use crate::testkit::simulator::tally::Transition;

/// What a clerk may do in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClerkStep {
    Move(Move),
    MoveUpTo(Move),
    Hold {
        of: Move,
        ends_ms: Option<i64>,
        /// Where what it holds was counted as used.
        counted: Option<Window>,
    },
    Capture {
        hold: TransferId,
        id: TransferId,
        amount: i64,
        release_rest: bool,
    },
    Release {
        hold: TransferId,
    },
    Undo {
        id: TransferId,
        of: TransferId,
        amount: i64,
        counted: Option<Window>,
        owing: Option<(TransferId, Account)>,
    },
    Use {
        window: Window,
        amount: i64,
        limit: i64,
    },
    GiveBack {
        window: Window,
        amount: i64,
    },
    Claim(i64),
    Advance(i64),
}

/// Money on its way between two accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) id: TransferId,
    pub(crate) debit: Account,
    pub(crate) credit: Account,
    pub(crate) amount: i64,
}

/// `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Window {
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
}

#[derive(Clone, Copy)]
pub(crate) struct ClerkHold {
    of: Move,
    pub(crate) left: i64,
    ends_ms: Option<i64>,
    counted: Option<Window>,
}

#[derive(Clone, Copy)]
pub(crate) struct ClerkTransfer {
    moved: Move,
    pub(crate) standing: i64,
}

/// The clerk's part of the model.
#[derive(Default)]
pub(crate) struct ClerkBooks {
    pub(crate) holds: BTreeMap<TransferId, ClerkHold>,
    pub(crate) transfers: BTreeMap<TransferId, ClerkTransfer>,
    used: BTreeMap<Window, i64>,
    claims: BTreeSet<i64>,
    pub(crate) counter: Option<i64>,
    /// Holds that ended by themselves: whoever releases one changes nothing any more.
    ended: BTreeSet<TransferId>,
}

impl ClerkBooks {
    pub(super) fn carry_out(
        &mut self,
        books: &mut Books,
        steps: &[ClerkStep],
        at_ms: i64,
    ) -> Result<Vec<Transition>, Wrong> {
        let mut fired = Vec::new();
        let moves = steps.iter().filter(|it| matches!(it, ClerkStep::Move(_)));
        if moves.count() > 1 {
            fired.push(Transition::Linked);
        }
        for step in steps {
            fired.extend(self.step(books, step, at_ms)?);
        }
        Ok(fired)
    }

    /// The holds that have ended by now.
    pub(super) fn end_holds(&mut self, books: &mut Books, at_ms: i64) -> usize {
        let ended: Vec<TransferId> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.ends_ms.is_some_and(|ends_ms| ends_ms <= at_ms))
            .map(|(id, _)| *id)
            .collect();
        for id in &ended {
            if let Some(hold) = self.holds.remove(id) {
                self.give_back(books, &hold);
                self.ended.insert(*id);
            }
        }
        ended.len()
    }

    fn give_back(&mut self, books: &mut Books, hold: &ClerkHold) {
        books.pend(hold.of.debit, hold.of.credit, -hold.left);
        if let Some(window) = hold.counted {
            self.unuse(window, hold.left);
        }
    }

    /// The books never go below zero, and give back what has ended only when somebody asks: this
    /// is the least that they can have counted.
    fn unuse(&mut self, window: Window, amount: i64) {
        *self.used.entry(window).or_default() -= amount;
    }

    fn post(&mut self, books: &mut Books, moved: Move) {
        books.post(moved.debit, moved.credit, moved.amount);
        let standing = moved.amount;
        self.transfers
            .insert(moved.id, ClerkTransfer { moved, standing });
    }

    fn hold(&mut self, books: &mut Books, hold: ClerkHold) -> Result<(), Wrong> {
        require_funds(books, &hold.of)?;
        books.pend(hold.of.debit, hold.of.credit, hold.of.amount);
        // One that ends before it was made is given back by whoever needs it.
        self.holds.insert(hold.of.id, hold);
        Ok(())
    }

    fn count(&mut self, window: Window, amount: i64, limit: i64) -> Result<(), Wrong> {
        let used = self.used.entry(window).or_default();
        *used += amount;
        if *used > limit {
            return not_lawful(format!("used {used} of {limit}"));
        }
        Ok(())
    }

    fn claim(&mut self, name: i64) -> Result<(), Wrong> {
        if !self.claims.insert(name) {
            return not_lawful(format!("{name} claimed twice"));
        }
        Ok(())
    }

    fn advance(&mut self, to: i64) -> Result<(), Wrong> {
        if self.counter.is_some_and(|counter| to <= counter) {
            return not_lawful(format!("counter {to} after {:?}", self.counter));
        }
        self.counter = Some(to);
        Ok(())
    }

    fn release(&mut self, books: &mut Books, hold: TransferId) -> Result<(), Wrong> {
        match self.holds.remove(&hold) {
            Some(hold) => self.give_back(books, &hold),
            None if self.ended.remove(&hold) => {}
            None => return not_lawful("a hold that is not open"),
        }
        Ok(())
    }

    fn step(
        &mut self,
        books: &mut Books,
        step: &ClerkStep,
        at_ms: i64,
    ) -> Result<Vec<Transition>, Wrong> {
        Ok(vec![match *step {
            ClerkStep::Move(moved) => {
                require_funds(books, &moved)?;
                self.post(books, moved);
                Transition::Transfer
            }
            ClerkStep::MoveUpTo(moved) => {
                let amount = moved.amount.min(to_give(books, &moved));
                if amount > 0 {
                    self.post(books, Move { amount, ..moved });
                }
                Transition::TransferUpTo
            }
            ClerkStep::Hold {
                of,
                ends_ms,
                counted,
            } => {
                let hold = ClerkHold {
                    of,
                    left: of.amount,
                    ends_ms,
                    counted,
                };
                self.hold(books, hold)?;
                Transition::Held
            }
            ClerkStep::Capture {
                hold,
                id,
                amount,
                release_rest,
            } => return self.capture(books, hold, id, amount, release_rest),
            ClerkStep::Release { hold } => {
                self.release(books, hold)?;
                Transition::Released
            }
            ClerkStep::Undo { .. } => return self.undo(books, step),
            ClerkStep::Use {
                window,
                amount,
                limit,
            } => {
                if at_ms < window.start_ms || at_ms >= window.end_ms {
                    return not_lawful("outside of its window");
                }
                self.count(window, amount, limit)?;
                Transition::Used
            }
            ClerkStep::GiveBack { window, amount } => {
                self.unuse(window, amount);
                Transition::GivenBack
            }
            ClerkStep::Claim(name) => {
                self.claim(name)?;
                return Ok(Vec::new());
            }
            ClerkStep::Advance(to) => {
                self.advance(to)?;
                return Ok(Vec::new());
            }
        }])
    }

    fn capture(
        &mut self,
        books: &mut Books,
        id: TransferId,
        as_id: TransferId,
        amount: i64,
        release_rest: bool,
    ) -> Result<Vec<Transition>, Wrong> {
        let Some(mut hold) = self.holds.remove(&id) else {
            return not_lawful("a hold that is not open, or has ended");
        };
        if amount > hold.left {
            return not_lawful("more than the hold has left");
        }
        books.pend(hold.of.debit, hold.of.credit, -amount);
        hold.left -= amount;
        let moved = Move {
            id: as_id,
            amount,
            ..hold.of
        };
        self.post(books, moved);
        if hold.left > 0 && release_rest {
            self.give_back(books, &hold);
            return Ok(vec![Transition::Captured]);
        }
        if hold.left > 0 {
            self.holds.insert(id, hold);
            return Ok(vec![Transition::CapturedInPart]);
        }
        Ok(vec![Transition::Captured])
    }

    fn undo(&mut self, books: &mut Books, step: &ClerkStep) -> Result<Vec<Transition>, Wrong> {
        let ClerkStep::Undo {
            id,
            of,
            amount,
            counted,
            owing,
        } = *step
        else {
            return Ok(Vec::new());
        };
        let Some(undone) = self.transfers.get_mut(&of) else {
            return wrong("every step is lawful at its moment", "nothing to undo");
        };
        if amount > undone.standing {
            return not_lawful("more undone than there is");
        }
        undone.standing -= amount;
        let back = Move {
            id,
            debit: undone.moved.credit,
            credit: undone.moved.debit,
            amount,
        };
        let mut fired = vec![Transition::Reversed];
        let from_account = match owing {
            Some(_) => amount.min(to_give(books, &back)),
            None => amount,
        };
        if from_account > 0 {
            let back = Move {
                amount: from_account,
                ..back
            };
            require_funds(books, &back)?;
            self.post(books, back);
        }
        if let Some((id, receivable)) = owing
            && amount > from_account
        {
            let owed = Move {
                id,
                debit: receivable,
                credit: back.credit,
                amount: amount - from_account,
            };
            self.post(books, owed);
            fired.push(Transition::ReversedOwing);
        }
        if let Some(window) = counted {
            self.unuse(window, amount);
            fired.push(Transition::GivenBack);
        }
        Ok(fired)
    }
}

/// What may be debited. The operator's capital records facts and has no floor, and a receivable
/// grows by debits.
fn to_give(books: &Books, moved: &Move) -> i64 {
    let grows = moved.debit.kind() == AccountKind::CardReceivable;
    if grows || moved.debit == Account::operator_capital() {
        return i64::MAX;
    }
    books.to_give(&moved.debit).max(0)
}

fn require_funds(books: &Books, moved: &Move) -> Result<(), Wrong> {
    let to_give = to_give(books, moved);
    let is_owed = moved.credit.kind() == AccountKind::CardReceivable;
    if is_owed && books.sum(&moved.credit).net < i128::from(moved.amount) {
        return not_lawful(format!("{} is not owed", moved.amount));
    }
    if moved.amount > to_give {
        let debit = moved.debit;
        return not_lawful(format!("{} of {to_give} from {debit}", moved.amount));
    }
    Ok(())
}
