//! Sums by account.

use std::collections::{BTreeMap, BTreeSet};

use super::{Wrong, wrong};
use crate::ledger::{Account, Balance, HoldState};

/// Debits less credits, and what is on hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(super) net: i128,
    pub(super) debits_pending: i128,
    pub(super) credits_pending: i128,
}

impl Sum {
    /// What stands in the books, without the holds that have ended by now.
    fn stored(stored: Balance, due: &[HoldState], account: &Account) -> Self {
        let stored = stored.without(due, account);
        Self {
            net: stored.debits_posted - stored.credits_posted,
            debits_pending: stored.debits_pending.into(),
            credits_pending: stored.credits_pending.into(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            net: self.net + other.net,
            debits_pending: self.debits_pending + other.debits_pending,
            credits_pending: self.credits_pending + other.credits_pending,
        }
    }
}

/// The model's own sums.
#[derive(Default)]
pub(crate) struct Books {
    sums: BTreeMap<Account, Sum>,
    touched: BTreeSet<Account>,
}

impl Books {
    pub(super) fn sum(&self, account: &Account) -> Sum {
        self.sums.get(account).copied().unwrap_or_default()
    }

    fn change(&mut self, account: Account, change: impl FnOnce(&mut Sum)) {
        change(self.sums.entry(account).or_default());
        self.touched.insert(account);
    }

    /// Money moves.
    pub(super) fn post(&mut self, debit: Account, credit: Account, amount: i64) {
        self.change(debit, |sum| sum.net += i128::from(amount));
        self.change(credit, |sum| sum.net -= i128::from(amount));
    }

    /// Money is set aside; below zero it is not any more.
    pub(super) fn pend(&mut self, debit: Account, credit: Account, amount: i64) {
        self.change(debit, |sum| sum.debits_pending += i128::from(amount));
        self.change(credit, |sum| sum.credits_pending += i128::from(amount));
    }

    /// What an account that grows by credits has to give.
    pub(crate) fn to_give(&self, account: &Account) -> i64 {
        let Sum {
            net,
            debits_pending,
            ..
        } = self.sum(account);
        i64::try_from(-net - debits_pending).unwrap_or(0)
    }

    /// What an account that grows by credits can come to.
    pub(super) fn highest(&self, account: &Account) -> i128 {
        let Sum {
            net,
            credits_pending,
            ..
        } = self.sum(account);
        credits_pending - net
    }

    /// The accounts that were touched since the last time.
    pub(crate) fn touched(&mut self) -> BTreeSet<Account> {
        std::mem::take(&mut self.touched)
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.sums.keys()
    }

    /// Compares one account with what stands in the books; `due` are the holds on it that have
    /// ended by now.
    pub(crate) fn compare(
        &self,
        account: &Account,
        stored: Balance,
        due: &[HoldState],
    ) -> Result<(), Wrong> {
        let found = Sum::stored(stored, due, account);
        let expected = self.sum(account);
        if found == expected {
            return Ok(());
        }
        wrong(
            "the model and the books agree",
            format!("{account}: {found:?} in the books, {expected:?} in the model"),
        )
    }

    /// Whether accounts have together what they should have, whichever of them has it.
    pub(crate) fn have_together(&self, line: &[(Account, Balance, Vec<HoldState>)]) -> bool {
        let found = line
            .iter()
            .map(|(it, stored, due)| Sum::stored(*stored, due, it));
        let expected = line.iter().map(|(it, ..)| self.sum(it));
        found.fold(Sum::default(), Sum::and) == expected.fold(Sum::default(), Sum::and)
    }

    /// Debits less credits of all accounts of each asset, and of what is on hold.
    pub(crate) fn conserved(&self) -> Result<(), Wrong> {
        let mut totals: BTreeMap<_, (i128, i128)> = BTreeMap::new();
        for (account, sum) in &self.sums {
            let total = totals.entry(account.asset()).or_default();
            total.0 += sum.net;
            total.1 += sum.debits_pending - sum.credits_pending;
        }
        match totals.into_iter().find(|(_, total)| *total != (0, 0)) {
            Some((asset, total)) => wrong("money is conserved", format!("{asset}: {total:?}")),
            None => Ok(()),
        }
    }
}
