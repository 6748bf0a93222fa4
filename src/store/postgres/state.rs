//! The rows that were loaded, as the ledger sees them.

use std::collections::HashMap;
use std::hash::Hash;

use super::snapshot::{FIRST_DUE, Keys, Snapshot, usage_key};
use super::write::Head;
use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, Balance, Commit, CommitPlace, HoldState, Rows, TransferRow, UsageWindow,
};

/// What was loaded for the group's transaction, and what was asked for and is not among it.
pub(super) struct Loaded<'a> {
    head: &'a Head,
    rows: &'a Snapshot,
    missing: Keys,
}

/// A row is needed that was not loaded. What was asked for is noted.
#[derive(Debug)]
pub(super) struct NotLoaded;

impl<'a> Loaded<'a> {
    pub(super) fn new(head: &'a Head, rows: &'a Snapshot) -> Self {
        let missing = Keys::default();
        Self {
            head,
            rows,
            missing,
        }
    }

    /// What must be loaded before the batches can be decided.
    pub(super) fn into_missing(self) -> Keys {
        self.missing
    }

    fn miss_due<T>(&mut self, account: &Account, at_ms: i64, most: i64) -> Read<T> {
        self.missing.due.insert(*account, most);
        self.missing.due_until_ms = at_ms;
        Err(NotLoaded)
    }
}

/// The loaded row; `None` where it was not loaded.
fn loaded<K: Eq + Hash, V: Clone>(rows: &HashMap<K, Option<V>>, key: &K) -> Option<Option<V>> {
    rows.get(key).cloned()
}

/// Takes a row as it was loaded, or asks for it.
macro_rules! read {
    ($state:expr, $table:ident, $keys:ident, $key:expr) => {{
        let key = $key;
        match loaded(&$state.rows.$table, &key) {
            Some(row) => Ok(row),
            None => {
                $state.missing.$keys.insert(key);
                Err(NotLoaded)
            }
        }
    }};
}

type Read<T> = Result<T, NotLoaded>;

impl Rows for Loaded<'_> {
    type Error = NotLoaded;

    fn commit_of_batch(&mut self, batch: BatchId) -> Read<Option<Commit>> {
        read!(self, commits, batches, batch)
    }

    fn commit_place(&mut self) -> Read<CommitPlace> {
        Ok(CommitPlace {
            position: self.head.commit_position.saturating_add(1),
            head: self.head.chain(),
        })
    }

    fn command(&mut self, scope: &str) -> Read<Option<(String, Commit)>> {
        read!(self, commands, scopes, scope.to_owned())
    }

    fn balance(&mut self, account: &Account) -> Read<Balance> {
        let row = read!(self, accounts, accounts, *account)?;
        Ok(row.map(|row| row.balance).unwrap_or_default())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Read<bool> {
        Ok(self.transfer(id)?.is_some() || self.hold(id)?.is_some())
    }

    fn transfer(&mut self, id: TransferId) -> Read<Option<TransferRow>> {
        read!(self, transfers, transfers, id)
    }

    fn hold(&mut self, id: TransferId) -> Read<Option<HoldState>> {
        read!(self, holds, transfers, id)
    }

    fn due_holds(&mut self, account: &Account, at_ms: i64, limit: usize) -> Read<Vec<HoldState>> {
        let Some(loaded) = self.rows.due.get(account) else {
            return self.miss_due(account, at_ms, FIRST_DUE);
        };
        let mut due = Vec::new();
        for id in &loaded.ids {
            // Also those are known that end a little later.
            let state = self.hold(*id)?;
            due.extend(state.filter(|state| {
                let has_ended = state.hold.expires_at_ms.is_some_and(|at| at <= at_ms);
                has_ended && state.remaining > 0
            }));
        }
        if due.len() < limit && loaded.until_ms < at_ms {
            let most = if loaded.are_cut() {
                loaded.most.saturating_mul(2)
            } else {
                FIRST_DUE
            };
            return self.miss_due(account, at_ms, most);
        }
        due.sort_by_key(|state| (state.hold.expires_at_ms, state.hold.transfer.id));
        due.truncate(limit);
        Ok(due)
    }

    fn reversed(&mut self, id: TransferId) -> Read<i64> {
        let reversed = read!(self, reversed, transfers, id)?;
        Ok(reversed.unwrap_or(0))
    }

    fn document_version(&mut self, collection: &'static str, id: &str) -> Read<i64> {
        let key = (collection.to_owned(), id.to_owned());
        let version = read!(self, documents, documents, key)?;
        Ok(version.unwrap_or(0))
    }

    fn claim(&mut self, name: &str) -> Read<Option<String>> {
        read!(self, claims, claims, name.to_owned())
    }

    fn counter(&mut self, name: &str) -> Read<Option<i64>> {
        read!(self, counters, counters, name.to_owned())
    }

    fn usage(&mut self, window: &UsageWindow) -> Read<i64> {
        let used = read!(self, usage, usage, usage_key(window))?;
        Ok(used.unwrap_or(0))
    }
}
