//! The independent model: it takes nothing of the engine but ids and accounts, and has its own
//! table of what each kind of account may do.

use std::collections::{BTreeMap, BTreeSet};

use flashkit::ids::{CardId, MerchantId, ProgramId, TransferId};
use flashkit::ledger::Account;

/// The accounts that take part, as the model knows them: whether they grow by debits, and their
/// floor.
pub fn accounts() -> Vec<(Account, bool, Option<i128>)> {
    let card = |number| CardId::from_parts(1, [number; 10]);
    let merchant = MerchantId::from_parts(1, [1; 10]);
    let program = ProgramId::from_parts(1, [1; 10]);
    vec![
        (Account::node_channels(), true, None),
        (Account::operator_capital(), false, None),
        (Account::card_balance(card(1)), false, Some(0)),
        (Account::card_balance(card(2)), false, Some(0)),
        (Account::merchant_payable(merchant), false, Some(0)),
        (Account::fee_income(), false, Some(0)),
        (Account::routing_fees(), true, None),
        (Account::merchant_receivable(merchant), true, Some(0)),
        (Account::card_receivable(card(1)), true, Some(0)),
        (Account::points_issued(program), true, Some(0)),
        (Account::points_balance(card(1), program), false, Some(0)),
        (Account::points_balance(card(2), program), false, Some(0)),
    ]
}

/// How many accounts there are, and where those of points begin.
pub const ACCOUNTS: usize = 12;
pub const POINTS_FROM: usize = 9;
/// The receivables among them.
pub const RECEIVABLES: [usize; 2] = [7, 8];

/// What the model keeps of an account: debits and credits, posted and pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub debits: i128,
    pub credits: i128,
    pub debits_pending: i128,
    pub credits_pending: i128,
}

#[derive(Debug, Clone)]
pub struct ModelHold {
    debit: usize,
    credit: usize,
    pub left: i128,
    ends_ms: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct ModelTransfer {
    debit: usize,
    credit: usize,
    pub standing: i128,
}

/// The independent model.
#[derive(Debug, Clone, Default)]
pub struct Model {
    totals: BTreeMap<usize, Totals>,
    pub holds: BTreeMap<TransferId, ModelHold>,
    pub transfers: BTreeMap<TransferId, ModelTransfer>,
    ids: BTreeSet<TransferId>,
    pub last_ms: i64,
}

/// Of several things that are wrong with a step the one that is to be answered.
const FIRST_TO_LAST: [&str; 12] = [
    "ledger.not_positive",
    "ledger.accounts_do_not_fit",
    "ledger.duplicate_id",
    "ledger.transfer_not_found",
    "ledger.reversal_exceeded",
    "ledger.hold_not_open",
    "ledger.hold_expired",
    "ledger.hold_exceeded",
    "ledger.insufficient_funds",
    "ledger.ceiling_reached",
    "ledger.out_of_bounds",
    "ledger.overflow",
];

fn first_of(wrong: Vec<&'static str>) -> Result<(), &'static str> {
    let place = |code: &&str| FIRST_TO_LAST.iter().position(|other| other == code);
    match wrong.into_iter().min_by_key(|code| place(code).unwrap()) {
        Some(code) => Err(code),
        None => Ok(()),
    }
}

/// A step with the ids that the test chose for it.
#[derive(Debug, Clone)]
pub enum Order {
    Transfer {
        id: TransferId,
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
        how: How,
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
    Reverse {
        id: TransferId,
        of: TransferId,
        amount: i64,
        shortfall: Option<(TransferId, usize)>,
    },
    Within {
        account: usize,
        lowest: Option<i64>,
        highest: Option<i64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Now,
    UpTo,
    Hold { ends_ms: Option<i64> },
}

impl Model {
    pub fn of(&self, account: usize) -> Totals {
        self.totals.get(&account).copied().unwrap_or_default()
    }

    /// The balance as the account grows, what it may lose, and the most it may become.
    pub fn balance(&self, account: usize) -> (i128, i128, i128) {
        let totals = self.of(account);
        if accounts()[account].1 {
            let balance = totals.debits - totals.credits;
            let (spendable, most) = (
                balance - totals.credits_pending,
                balance + totals.debits_pending,
            );
            (balance, spendable, most)
        } else {
            let balance = totals.credits - totals.debits;
            let (spendable, most) = (
                balance - totals.debits_pending,
                balance + totals.credits_pending,
            );
            (balance, spendable, most)
        }
    }

    /// The whole batch, or the reason why nothing of it.
    pub fn batch(&mut self, now_ms: i64, orders: &[Order]) -> Result<(), &'static str> {
        let mut after = self.clone();
        after.last_ms = after.last_ms.max(now_ms);
        for order in orders {
            after.order(order)?;
        }
        *self = after;
        Ok(())
    }

    fn order(&mut self, order: &Order) -> Result<(), &'static str> {
        match *order {
            Order::Transfer {
                id,
                debit,
                credit,
                amount,
                ceiling,
                how,
            } => self.transfer(id, (debit, credit), amount, ceiling, how),
            Order::Capture {
                hold: id_of_hold,
                id,
                amount,
                release_rest,
            } => self.capture(id_of_hold, id, amount, release_rest),
            Order::Release { hold: id } => {
                let hold = self.open(id)?;
                self.set_aside(hold.debit, hold.credit, -hold.left)?;
                self.lower(id, hold.left);
                Ok(())
            }
            Order::Reverse {
                id,
                of,
                amount,
                shortfall,
            } => self.reverse(id, of, amount, shortfall),
            Order::Within {
                account,
                lowest,
                highest,
            } => self.within(account, lowest, highest),
        }
    }

    /// Whatever is set aside is gone for the lower bound, and arrives for the upper one; what has
    /// ended is neither.
    fn within(
        &mut self,
        account: usize,
        lowest: Option<i64>,
        highest: Option<i64>,
    ) -> Result<(), &'static str> {
        self.end_due(account);
        let (_, spendable, most) = self.balance(account);
        let keeps = lowest.is_none_or(|lowest| spendable >= lowest.into());
        let fits = highest.is_none_or(|highest| most <= highest.into());
        if keeps && fits {
            Ok(())
        } else {
            Err("ledger.out_of_bounds")
        }
    }

    fn capture(
        &mut self,
        id_of_hold: TransferId,
        id: TransferId,
        amount: i64,
        release_rest: bool,
    ) -> Result<(), &'static str> {
        let mut wrong = Vec::new();
        let hold = self.open(id_of_hold);
        if amount < 1 {
            wrong.push("ledger.not_positive");
        }
        if self.ids.contains(&id) {
            wrong.push("ledger.duplicate_id");
        }
        let whole = i128::from(amount);
        match &hold {
            Err(code) => wrong.push(code),
            Ok(hold) => {
                if hold.ends_ms.is_some_and(|ends_ms| self.last_ms >= ends_ms) {
                    wrong.push("ledger.hold_expired");
                }
                if whole > hold.left {
                    wrong.push("ledger.hold_exceeded");
                }
            }
        }
        first_of(wrong)?;
        let hold = hold?;
        self.ids.insert(id);
        let gone = if release_rest { hold.left } else { whole };
        self.set_aside(hold.debit, hold.credit, -gone)?;
        self.post(id, hold.debit, hold.credit, whole)?;
        self.lower(id_of_hold, gone);
        Ok(())
    }

    fn transfer(
        &mut self,
        id: TransferId,
        (debit, credit): (usize, usize),
        amount: i64,
        ceiling: Option<i64>,
        how: How,
    ) -> Result<(), &'static str> {
        let mut wrong = self.misfits(id, debit, credit, amount);
        if how == How::UpTo {
            first_of(wrong)?;
            let ceiling = ceiling.filter(|_| !accounts()[credit].1);
            let room = self.room(debit, accounts()[debit].1, None);
            let room = room.min(self.room(credit, !accounts()[credit].1, ceiling));
            let amount = i128::from(amount).min(room);
            if amount < 1 {
                return Ok(());
            }
            self.ids.insert(id);
            return self.post(id, debit, credit, amount);
        }
        if wrong.is_empty() {
            wrong = self.lacks(debit, credit, amount, ceiling);
        }
        first_of(wrong)?;
        self.ids.insert(id);
        let left = i128::from(amount);
        let How::Hold { ends_ms } = how else {
            return self.post(id, debit, credit, left);
        };
        let hold = ModelHold {
            debit,
            credit,
            left,
            ends_ms,
        };
        self.holds.insert(id, hold);
        self.set_aside(debit, credit, left)
    }

    fn reverse(
        &mut self,
        id: TransferId,
        of: TransferId,
        amount: i64,
        shortfall: Option<(TransferId, usize)>,
    ) -> Result<(), &'static str> {
        let whole = i128::from(amount);
        let Some(undone) = self.transfers.get(&of).cloned() else {
            let mut wrong = vec!["ledger.transfer_not_found"];
            if amount < 1 {
                wrong.push("ledger.not_positive");
            }
            if self.ids.contains(&id) {
                wrong.push("ledger.duplicate_id");
            }
            return first_of(wrong);
        };
        let (debit, credit) = (undone.credit, undone.debit);
        let mut wrong = self.misfits(id, debit, credit, amount);
        if let Some((rest_id, receivable)) = shortfall {
            wrong.extend(self.misfits(rest_id, receivable, credit, amount));
            if !accounts()[receivable].1 {
                wrong.push("ledger.accounts_do_not_fit");
            }
            if rest_id == id {
                wrong.push("ledger.duplicate_id");
            }
        }
        if whole > undone.standing {
            wrong.push("ledger.reversal_exceeded");
        }
        first_of(wrong)?;
        let taken = match shortfall {
            None => whole,
            Some(_) => {
                let room = self.room(debit, accounts()[debit].1, None);
                whole.min(room).max(0)
            }
        };
        if taken > 0 {
            let part = i64::try_from(taken).unwrap();
            first_of(self.lacks(debit, credit, part, None))?;
            self.ids.insert(id);
            self.post(id, debit, credit, taken)?;
        }
        if let Some((rest_id, receivable)) = shortfall
            && taken < whole
        {
            let rest = i64::try_from(whole - taken).unwrap();
            first_of(self.lacks(receivable, credit, rest, None))?;
            self.ids.insert(rest_id);
            self.post(rest_id, receivable, credit, rest.into())?;
        }
        self.transfers
            .entry(of)
            .and_modify(|row| row.standing -= whole);
        Ok(())
    }

    /// How much an account may grow or shrink.
    fn room(&mut self, account: usize, grows: bool, ceiling: Option<i64>) -> i128 {
        if grows {
            if ceiling.is_some() {
                self.end_due(account);
            }
            let most = self.balance(account).2;
            return i128::from(ceiling.unwrap_or(i64::MAX)) - most;
        }
        let Some(floor) = accounts()[account].2 else {
            return i128::MAX;
        };
        self.end_due(account);
        self.balance(account).1 - floor
    }

    /// Holds that ended by now give back what an account is about to need.
    fn end_due(&mut self, account: usize) {
        let due: Vec<_> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.ends_ms.is_some_and(|ends_ms| ends_ms <= self.last_ms))
            .filter(|(_, hold)| hold.debit == account || hold.credit == account)
            .map(|(id, hold)| (*id, hold.clone()))
            .collect();
        for (id, hold) in due {
            self.set_aside(hold.debit, hold.credit, -hold.left).unwrap();
            self.lower(id, hold.left);
        }
    }

    /// All that is wrong with a transfer in itself.
    fn misfits(
        &self,
        id: TransferId,
        debit: usize,
        credit: usize,
        amount: i64,
    ) -> Vec<&'static str> {
        let mut wrong = Vec::new();
        if self.ids.contains(&id) {
            wrong.push("ledger.duplicate_id");
        }
        if debit == credit || (debit < POINTS_FROM) != (credit < POINTS_FROM) {
            wrong.push("ledger.accounts_do_not_fit");
        }
        if amount < 1 {
            wrong.push("ledger.not_positive");
        }
        wrong
    }

    /// All that the two accounts lack for it.
    fn lacks(
        &mut self,
        debit: usize,
        credit: usize,
        amount: i64,
        ceiling: Option<i64>,
    ) -> Vec<&'static str> {
        let ceiling = ceiling.filter(|_| !accounts()[credit].1);
        let amount = i128::from(amount);
        let mut wrong = Vec::new();
        // A debit makes an account of the debit side grow and any other shrink. Whatever shrinks
        // comes first, and then what has a ceiling: both give back holds that have ended, and with
        // them room elsewhere.
        let mut changes = [
            (debit, accounts()[debit].1, None),
            (credit, !accounts()[credit].1, ceiling),
        ];
        changes.sort_by_key(|(_, grows, ceiling)| (*grows, ceiling.is_none()));
        for (account, grows, ceiling) in changes {
            if !grows && self.room(account, false, None) < amount {
                wrong.push("ledger.insufficient_funds");
            }
            if grows && ceiling.is_some() && self.room(account, true, ceiling) < amount {
                wrong.push("ledger.ceiling_reached");
            }
            if grows && self.room(account, true, None) < amount {
                wrong.push("ledger.overflow");
            }
        }
        wrong
    }

    fn post(
        &mut self,
        id: TransferId,
        debit: usize,
        credit: usize,
        amount: i128,
    ) -> Result<(), &'static str> {
        let row = ModelTransfer {
            debit,
            credit,
            standing: amount,
        };
        self.transfers.insert(id, row);
        self.totals.entry(debit).or_default().debits += amount;
        self.totals.entry(credit).or_default().credits += amount;
        for account in [debit, credit] {
            i64::try_from(self.balance(account).0).map_err(|_| "ledger.overflow")?;
        }
        Ok(())
    }

    fn set_aside(&mut self, debit: usize, credit: usize, amount: i128) -> Result<(), &'static str> {
        let debited = self.totals.entry(debit).or_default();
        debited.debits_pending += amount;
        i64::try_from(debited.debits_pending).map_err(|_| "ledger.overflow")?;
        let credited = self.totals.entry(credit).or_default();
        credited.credits_pending += amount;
        i64::try_from(credited.credits_pending).map_err(|_| "ledger.overflow")?;
        Ok(())
    }

    fn open(&self, id: TransferId) -> Result<ModelHold, &'static str> {
        let hold = self.holds.get(&id).filter(|hold| hold.left > 0);
        hold.cloned().ok_or("ledger.hold_not_open")
    }

    fn lower(&mut self, id: TransferId, by: i128) {
        if let Some(hold) = self.holds.get_mut(&id) {
            hold.left -= by;
        }
    }
}
