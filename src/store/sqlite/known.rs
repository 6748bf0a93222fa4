//! What the writer knows of the tables without reading them.
//!
//! The file has one writer, so what it has read or written is how the tables stand, until a change
//! that it did not follow ([`Known::default`] then), a transaction that fails, or another
//! connection's (an import, a person at a prompt). A few thousand rows are kept; of ids only the
//! greatest, since new ones are made in the order of time.

use std::collections::HashMap;
use std::hash::Hash;

use super::key::Key;
use crate::ids::{BatchId, TransferId};
use crate::ledger::{Account, Balance, ChainHead, Changes, CommitPlace, LastPositions};

/// The most rows of each kind.
const MOST: usize = 4_096;

/// What is known of an account.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KnownAccount {
    pub(super) balance: Option<Balance>,
    /// Where it stands in its table.
    pub(super) row: Option<i64>,
    /// No open hold of it ends before this.
    pub(super) no_hold_ends_before_ms: Option<i64>,
}

/// The rows of one kind.
#[derive(Debug)]
pub(super) struct Few<K, V>(HashMap<K, V>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Copy> Few<K, V> {
    pub(super) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key).copied()
    }

    /// With too many, all are forgotten: the next reads bring back those in use.
    pub(super) fn put(&mut self, key: K, value: V) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(key, value);
    }
}

/// What is known of the tables.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// SQLite's own count of what other connections have changed.
    pub(super) data_version: Option<i64>,
    pub(super) place: Option<CommitPlace>,
    pub(super) last: Option<LastPositions>,
    pub(super) accounts: Few<Account, KnownAccount>,
    /// By collection and id.
    pub(super) documents: Few<Key, i64>,
    pub(super) counters: Few<String, i64>,
    /// By subject and start of the window.
    pub(super) usage: Few<(String, i64), i64>,
    /// No batch has a greater id.
    pub(super) greatest_batch: Option<BatchId>,
    /// No transfer and no hold has a greater id.
    pub(super) greatest_transfer: Option<TransferId>,
}

impl Known {
    /// Changes what is known of an account.
    pub(super) fn account(&mut self, account: &Account, change: impl FnOnce(&mut KnownAccount)) {
        let mut known = self.accounts.get(account).unwrap_or_default();
        change(&mut known);
        self.accounts.put(*account, known);
    }

    /// What was written to the tables.
    pub(super) fn written(&mut self, changes: &Changes, rows: &HashMap<Account, i64>) {
        let Some(last) = changes.commits.last() else {
            return;
        };
        self.place = Some(CommitPlace {
            position: last.position.saturating_add(1),
            head: ChainHead {
                writer: last.writer.clone(),
                sequence: last.sequence,
                hash: last.hash,
            },
        });
        if let Some(positions) = &mut self.last {
            let transfer = changes.transfers.last().map(|row| row.position);
            let hold_change = changes.hold_changes.last().map(|row| row.position);
            positions.transfer = transfer.unwrap_or(positions.transfer);
            positions.hold_change = hold_change.unwrap_or(positions.hold_change);
        }
        for (account, balance) in &changes.balances {
            self.account(account, |known| {
                known.balance = Some(*balance);
                known.row = rows.get(account).copied().or(known.row);
            });
        }
        for state in changes.holds.values() {
            let Some(ends_ms) = state.hold.expires_at_ms else {
                continue;
            };
            for account in [state.hold.transfer.debit, state.hold.transfer.credit] {
                self.account(&account, |known| {
                    let earliest = &mut known.no_hold_ends_before_ms;
                    *earliest = earliest.map(|earliest| earliest.min(ends_ms));
                });
            }
        }
        for ((collection, id), (version, _)) in &changes.documents {
            self.documents.put([*collection, id, ""].into(), *version);
        }
        for (counter, value) in &changes.counters {
            self.counters.put(counter.clone(), *value);
        }
        for ((subject, start_ms), (_, used)) in &changes.usage {
            self.usage.put((subject.clone(), *start_ms), *used);
        }
        let batches = changes.commits.iter().map(|row| row.batch).max();
        self.greatest_batch = self
            .greatest_batch
            .max(batches.filter(|_| self.greatest_batch.is_some()));
        let transfers = changes.transfers.iter().map(|row| row.id);
        let transfers = transfers.chain(changes.holds.keys().copied()).max();
        self.greatest_transfer = self
            .greatest_transfer
            .max(transfers.filter(|_| self.greatest_transfer.is_some()));
    }
}
