//! Checks a journal: the chains of commits against each other and against heads that were kept
//! elsewhere, and every balance against the transfers that made it. Pure: rows are fed to it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::account::Account;
use super::balance::Balance;
use super::journal::{ChainHash, ChainHead, CommitDigest, CommitRow};
use super::transfer::{HoldChange, HoldChangeRow, TransferRow};
use crate::ids::TransferId;

/// Something that honest books never show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JournalProblem {
    /// The commit, or a transfer or change of a hold in it, is not as it was written.
    CommitAltered {
        /// The commit, by its position.
        commit: i64,
    },
    /// Commits are missing in a writer's chain.
    CommitsMissing {
        /// Whose chain.
        writer: String,
        /// After this one.
        after: i64,
        /// The next one that is there.
        found: i64,
    },
    /// A transfer or change of a hold that no commit made.
    StrayRow {
        /// The commit it names.
        commit: i64,
    },
    /// The balance that a transfer says to have left is not the sum of those before it.
    BalanceAfterWrong {
        /// The transfer.
        transfer: TransferId,
        /// The account.
        account: Account,
    },
    /// An account's totals are not the sums of what moved.
    TotalsWrong {
        /// The account.
        account: Account,
        /// What stands there.
        stored: Balance,
        /// What should.
        computed: Balance,
    },
    /// What is left of a hold is not what its changes come to.
    HoldWrong {
        /// The hold.
        hold: TransferId,
        /// What stands there; `None` where the hold itself is gone.
        stored: Option<i64>,
        /// What should.
        computed: i64,
    },
    /// What was undone of a transfer is not what its reversals come to.
    ReversedWrong {
        /// The transfer that was undone.
        transfer: TransferId,
        /// What stands there.
        stored: i64,
        /// What should.
        computed: i64,
    },
    /// A chain ends before the head that was kept.
    TailMissing {
        /// Whose chain.
        writer: String,
        /// How long it was.
        kept: i64,
        /// How long it is.
        found: i64,
    },
    /// A chain is not the one whose head was kept.
    OtherChain {
        /// Whose chain.
        writer: String,
        /// Where they differ at the latest.
        sequence: i64,
    },
    /// A whole chain is missing.
    ChainMissing {
        /// Whose.
        writer: String,
    },
}

/// A check in the making: rows are fed in the order of commits, then the accounts.
#[derive(Debug, Default)]
pub struct JournalCheck {
    /// By writer and place in its chain.
    kept: BTreeMap<String, BTreeMap<i64, Vec<ChainHash>>>,
    heads: BTreeMap<String, ChainHead>,
    balances: HashMap<Account, Balance>,
    last: Last,
    problems: Vec<JournalProblem>,
}

/// Where the journal stands: everything in it has positions from 1 without gaps.
#[derive(Debug, Default)]
struct Last {
    commit: i64,
    transfer: i64,
    hold_change: i64,
    at_ms: i64,
    /// Something is missing since: the next rows are taken where they are.
    has_gap: bool,
}

impl Last {
    /// Goes on to a commit and what it made. False where one of them does not come next.
    fn go_on(
        &mut self,
        commit: &CommitRow,
        transfers: &[TransferRow],
        hold_changes: &[HoldChangeRow],
    ) -> bool {
        let has_gap = std::mem::take(&mut self.has_gap);
        let mut follows = commit.at_ms >= self.at_ms;
        self.at_ms = commit.at_ms;
        let mut next = |last: &mut i64, position: i64| {
            follows &= has_gap || position == last.saturating_add(1);
            *last = position;
        };
        next(&mut self.commit, commit.position);
        for row in transfers {
            next(&mut self.transfer, row.position);
        }
        for row in hold_changes {
            next(&mut self.hold_change, row.position);
        }
        follows && transfers.iter().all(|row| row.at_ms == commit.at_ms)
    }
}

impl JournalCheck {
    /// A check against heads that were kept elsewhere; none to check the journal with itself.
    pub fn new(kept: &[ChainHead]) -> Self {
        let mut check = Self::default();
        for head in kept {
            let chain = check.kept.entry(head.writer.clone()).or_default();
            chain.entry(head.sequence).or_default().push(head.hash);
        }
        check
    }

    /// The next commit, with what it made.
    pub fn commit(
        &mut self,
        commit: &CommitRow,
        transfers: &[TransferRow],
        hold_changes: &[HoldChangeRow],
    ) {
        let mut digest = CommitDigest::default();
        for row in transfers {
            digest.transfer(row);
            self.transfer(row);
        }
        for row in hold_changes {
            digest.hold_change(row);
            self.hold_change(row);
        }
        let before = self.heads.get(&commit.writer);
        let previous = before.map_or(ChainHash::GENESIS, |head| head.hash);
        let after = before.map_or(0, |head| head.sequence);
        let is_missing = commit.sequence != after.saturating_add(1);
        self.last.has_gap |= is_missing;
        let is_in_place = self.last.go_on(commit, transfers, hold_changes);
        if is_missing {
            self.problems.push(JournalProblem::CommitsMissing {
                writer: commit.writer.clone(),
                after,
                found: commit.sequence,
            });
        } else if digest.seal(previous, commit) != commit.hash || !is_in_place {
            let commit = commit.position;
            self.problems.push(JournalProblem::CommitAltered { commit });
        }
        let kept = self.kept.get(&commit.writer);
        let kept = kept.and_then(|chain| chain.get(&commit.sequence));
        if kept.is_some_and(|kept| kept.iter().any(|hash| *hash != commit.hash)) {
            self.problems.push(JournalProblem::OtherChain {
                writer: commit.writer.clone(),
                sequence: commit.sequence,
            });
        }
        let head = ChainHead {
            writer: commit.writer.clone(),
            sequence: commit.sequence,
            hash: commit.hash,
        };
        self.heads.insert(commit.writer.clone(), head);
    }

    /// A row whose commit is not there.
    pub fn stray(&mut self, commit: i64) {
        self.last.has_gap = true;
        self.problems.push(JournalProblem::StrayRow { commit });
    }

    fn transfer(&mut self, row: &TransferRow) {
        for (account, after) in [
            (row.debit, row.debit_balance_after),
            (row.credit, row.credit_balance_after),
        ] {
            let balance = self.balances.entry(account).or_default();
            if account == row.debit {
                balance.debits_posted += i128::from(row.amount);
            } else {
                balance.credits_posted += i128::from(row.amount);
            }
            if balance.posted(account.kind().side()) != i128::from(after) {
                self.problems.push(JournalProblem::BalanceAfterWrong {
                    transfer: row.id,
                    account,
                });
            }
        }
    }

    fn hold_change(&mut self, row: &HoldChangeRow) {
        let amount = match row.change {
            HoldChange::Held => row.amount,
            HoldChange::Captured | HoldChange::Released | HoldChange::Expired => {
                row.amount.saturating_neg()
            }
        };
        let transfer = &row.hold.transfer;
        let debit = self.balances.entry(transfer.debit).or_default();
        debit.debits_pending = debit.debits_pending.saturating_add(amount);
        let credit = self.balances.entry(transfer.credit).or_default();
        credit.credits_pending = credit.credits_pending.saturating_add(amount);
    }

    /// The accounts whose totals, as they stand in the store, are not what was fed; and those
    /// that the store does not have.
    pub fn accounts_that_differ(&self, stored: &[(Account, Balance)]) -> Vec<Account> {
        let stored: HashMap<_, _> = stored.iter().copied().collect();
        let mut differ: Vec<Account> = self
            .balances
            .keys()
            .chain(stored.keys())
            .filter(|account| {
                self.computed(account) != stored.get(account).copied().unwrap_or_default()
            })
            .copied()
            .collect();
        differ.sort_unstable();
        differ.dedup();
        differ
    }

    /// The totals of an account by what was fed.
    pub fn computed(&self, account: &Account) -> Balance {
        self.balances.get(account).copied().unwrap_or_default()
    }

    /// An account as it stands in the store.
    pub fn account(&mut self, account: Account, stored: Balance) {
        let computed = self.computed(&account);
        if computed != stored {
            self.problems.push(JournalProblem::TotalsWrong {
                account,
                stored,
                computed,
            });
        }
    }

    /// Something else that was found beside the rows that were fed.
    pub fn found(&mut self, problem: JournalProblem) {
        self.problems.push(problem);
    }

    /// What was found: nothing in honest books. Also the ends of the chains.
    pub fn finish(mut self) -> (Vec<JournalProblem>, Vec<ChainHead>) {
        for (writer, chain) in &self.kept {
            let (writer, longest) = (writer.clone(), chain.keys().next_back());
            match (self.heads.get(&writer), longest) {
                (None, _) => self.problems.push(JournalProblem::ChainMissing { writer }),
                (Some(head), Some(kept)) if head.sequence < *kept => {
                    self.problems.push(JournalProblem::TailMissing {
                        writer,
                        kept: *kept,
                        found: head.sequence,
                    });
                }
                _ => {}
            }
        }
        (self.problems, self.heads.into_values().collect())
    }
}
