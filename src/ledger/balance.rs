//! The running totals of an account.

use serde::{Deserialize, Serialize};

use super::chart_of_accounts::Side;
use super::transfer::HoldState;

/// The running totals of one account, kept in the commit that changes them.
///
/// Posted totals only ever grow, so they are wider than an amount; what is pending is bounded by
/// the holds that are open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// All debits that were posted.
    pub debits_posted: i128,
    /// All credits that were posted.
    pub credits_posted: i128,
    /// Debits on hold.
    pub debits_pending: i64,
    /// Credits on hold.
    pub credits_pending: i64,
}

impl Balance {
    /// What is posted, counted towards the account's side.
    pub fn posted(&self, side: Side) -> i128 {
        match side {
            Side::Debit => self.debits_posted - self.credits_posted,
            Side::Credit => self.credits_posted - self.debits_posted,
        }
    }

    /// What is posted less everything on hold that would lower it: what can be spent.
    pub fn available(&self, side: Side) -> i128 {
        let leaving = match side {
            Side::Debit => self.credits_pending,
            Side::Credit => self.debits_pending,
        };
        self.posted(side) - i128::from(leaving)
    }

    /// What is posted and everything on hold that would raise it: the most it can become.
    pub fn highest(&self, side: Side) -> i128 {
        self.posted(side) + i128::from(self.incoming(side))
    }

    /// The totals of `account` as they are once `due`, holds on it that have ended, are given
    /// back: the next commit that needs the money does that.
    pub fn without(mut self, due: &[HoldState], account: &super::Account) -> Self {
        for hold in due {
            let transfer = &hold.hold.transfer;
            if transfer.debit == *account {
                self.debits_pending -= hold.remaining;
            }
            if transfer.credit == *account {
                self.credits_pending -= hold.remaining;
            }
        }
        self
    }

    /// What is on hold and would raise the balance.
    pub fn incoming(&self, side: Side) -> i64 {
        match side {
            Side::Debit => self.debits_pending,
            Side::Credit => self.credits_pending,
        }
    }
}
