//! The running totals of an account.

use serde::{Deserialize, Serialize};

use super::account::Account;
use super::batch::UsageWindow;
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
    pub fn without(mut self, due: &[HoldState], account: &Account) -> Self {
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

/// The most holds that one commit gives back of an account, when they have ended and it needs what
/// they set aside.
pub const MOST_DUE_RELEASES: usize = 4_096;

/// How an account stands at one moment, by what a store has written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The totals, with everything that is on hold.
    pub balance: Balance,
    /// The open holds on the account that have ended, at most [`MOST_DUE_RELEASES`] of them.
    pub ended: Vec<HoldState>,
    /// What was used within each of the windows that were asked for, in their order.
    pub used: Vec<i64>,
}

impl Standing {
    /// The totals of `account`, and what is used within each of `windows`, as the next commit that
    /// debits the account finds them: it first gives back the holds that have ended.
    pub fn given_back(self, account: &Account, windows: &[UsageWindow]) -> (Balance, Vec<i64>) {
        let Self {
            balance,
            ended,
            used,
        } = self;
        let back = |window: &UsageWindow| {
            let windows = ended.iter().flat_map(|state| {
                let windows = state.hold.usage.iter();
                windows.map(|window| (window, state.remaining))
            });
            let same = windows
                .filter(|(of, _)| (&of.subject, of.start_ms) == (&window.subject, window.start_ms));
            same.fold(0, |sum: i64, (_, rest)| sum.saturating_add(rest))
        };
        let used = used.iter().zip(windows);
        let used = used.map(|(used, window)| used.saturating_sub(back(window)).max(0));
        let used = used.collect();
        (balance.without(&ended, account), used)
    }
}
