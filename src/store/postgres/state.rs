//! The tables as the ledger sees them: what was loaded, and over it what the group has changed.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use super::snapshot::{FIRST_DUE, Keys, Snapshot, usage_key};
use super::write::Head;
use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, Balance, ChainHead, Commit, CommitPlace, CommitRow, DueJob, HoldChangeRow, HoldState,
    NewDocument, NewEvent, State, TransferRow, UsageWindow,
};

/// The rows that batches have changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) commits: Vec<CommitRow>,
    pub(super) commit_of_batch: HashMap<BatchId, Commit>,
    pub(super) commands: HashMap<String, (String, Commit)>,
    pub(super) balances: HashMap<Account, Balance>,
    pub(super) transfers: Vec<TransferRow>,
    pub(super) transfer_of_id: HashMap<TransferId, TransferRow>,
    pub(super) reversed: HashMap<TransferId, i64>,
    pub(super) hold_changes: Vec<HoldChangeRow>,
    pub(super) holds: HashMap<TransferId, HoldState>,
    pub(super) documents: HashMap<(String, String), (i64, NewDocument)>,
    pub(super) claims: HashMap<String, String>,
    pub(super) counters: HashMap<String, i64>,
    /// The end of the window, and what was used in it.
    pub(super) usage: HashMap<(String, i64), (i64, i64)>,
    pub(super) events: Vec<(NewEvent, i64)>,
    /// By kind and object: when, or `None` for one that is done.
    pub(super) due: HashMap<(String, String), Option<i64>>,
}

impl Changes {
    fn absorb(&mut self, later: Self) {
        self.commits.extend(later.commits);
        self.commit_of_batch.extend(later.commit_of_batch);
        self.commands.extend(later.commands);
        self.balances.extend(later.balances);
        self.transfers.extend(later.transfers);
        self.transfer_of_id.extend(later.transfer_of_id);
        self.reversed.extend(later.reversed);
        self.hold_changes.extend(later.hold_changes);
        self.holds.extend(later.holds);
        self.documents.extend(later.documents);
        self.claims.extend(later.claims);
        self.counters.extend(later.counters);
        self.usage.extend(later.usage);
        self.events.extend(later.events);
        self.due.extend(later.due);
    }
}

/// The state within the group's transaction. One batch at a time is applied to it, and then
/// [kept](Self::keep) or [undone](Self::undo).
pub(super) struct GroupState<'a> {
    head: &'a Head,
    loaded: &'a Snapshot,
    group: Changes,
    batch: Changes,
    missing: Keys,
}

/// A row is needed that was not loaded. What was asked for is noted in the state.
#[derive(Debug)]
pub(super) struct NotLoaded;

impl<'a> GroupState<'a> {
    pub(super) fn new(head: &'a Head, loaded: &'a Snapshot) -> Self {
        Self {
            head,
            loaded,
            group: Changes::default(),
            batch: Changes::default(),
            missing: Keys::default(),
        }
    }

    pub(super) fn keep(&mut self) {
        self.group.absorb(std::mem::take(&mut self.batch));
    }

    pub(super) fn undo(&mut self) {
        self.batch = Changes::default();
    }

    /// What was changed, or what must be loaded before it can be known.
    pub(super) fn finish(self) -> Result<Changes, Box<Keys>> {
        if self.missing.is_empty() {
            Ok(self.group)
        } else {
            Err(Box::new(self.missing))
        }
    }

    fn miss_due<T>(&mut self, account: &Account, at_ms: i64, most: i64) -> Read<T> {
        self.missing.due.insert(*account, most);
        self.missing.due_until_ms = at_ms;
        Err(NotLoaded)
    }

    /// What was last written under the key, if anything was.
    fn written<K: Eq + Hash, V: Clone>(
        &self,
        table: impl Fn(&Changes) -> &HashMap<K, V>,
        key: &K,
    ) -> Option<V> {
        let written = table(&self.batch).get(key);
        written.or_else(|| table(&self.group).get(key)).cloned()
    }
}

/// The loaded row; `None` where it was not loaded.
fn loaded<K: Eq + Hash, V: Clone>(rows: &HashMap<K, Option<V>>, key: &K) -> Option<Option<V>> {
    rows.get(key).cloned()
}

/// Takes a row as it was written, or else as it was loaded, or else asks for it.
macro_rules! read {
    ($state:expr, $written:ident, $loaded:ident, $keys:ident, $key:expr) => {{
        let key = $key;
        match $state.written(|changes| &changes.$written, &key) {
            Some(row) => Ok(Some(row)),
            None => match loaded(&$state.loaded.$loaded, &key) {
                Some(row) => Ok(row),
                None => {
                    $state.missing.$keys.insert(key);
                    Err(NotLoaded)
                }
            },
        }
    }};
}

/// The position that comes after `before` others after `last`.
fn after(last: i64, before: usize) -> i64 {
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    last.saturating_add(before).saturating_add(1)
}

type Read<T> = Result<T, NotLoaded>;

impl State for GroupState<'_> {
    type Error = NotLoaded;

    fn commit_of_batch(&mut self, batch: BatchId) -> Read<Option<Commit>> {
        read!(self, commit_of_batch, commits, batches, batch)
    }

    fn commit_place(&mut self) -> Read<CommitPlace> {
        let last = self.batch.commits.last().or(self.group.commits.last());
        let (position, head) = match last {
            Some(row) => {
                let head = ChainHead {
                    writer: row.writer.clone(),
                    sequence: row.sequence,
                    hash: row.hash,
                };
                (row.position, head)
            }
            None => (self.head.commit_position, self.head.chain()),
        };
        let position = position.saturating_add(1);
        Ok(CommitPlace { position, head })
    }

    fn put_commit(&mut self, row: &CommitRow, commit: &Commit) -> Read<()> {
        self.batch.commits.push(row.clone());
        self.batch.commit_of_batch.insert(row.batch, commit.clone());
        Ok(())
    }

    fn command(&mut self, scope: &str) -> Read<Option<(String, Commit)>> {
        read!(self, commands, commands, scopes, scope.to_owned())
    }

    fn put_command(&mut self, scope: &str, fingerprint: &str, commit: &Commit) -> Read<()> {
        let command = (fingerprint.to_owned(), commit.clone());
        self.batch.commands.insert(scope.to_owned(), command);
        Ok(())
    }

    fn balance(&mut self, account: &Account) -> Read<Balance> {
        if let Some(balance) = self.written(|changes| &changes.balances, account) {
            return Ok(balance);
        }
        match loaded(&self.loaded.accounts, account) {
            Some(row) => Ok(row.map(|row| row.balance).unwrap_or_default()),
            None => {
                self.missing.accounts.insert(*account);
                Err(NotLoaded)
            }
        }
    }

    fn put_balance(&mut self, account: &Account, balance: &Balance) -> Read<()> {
        self.batch.balances.insert(*account, *balance);
        Ok(())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Read<bool> {
        Ok(self.transfer(id)?.is_some() || self.hold(id)?.is_some())
    }

    fn transfer(&mut self, id: TransferId) -> Read<Option<TransferRow>> {
        read!(self, transfer_of_id, transfers, transfers, id)
    }

    fn append_transfer(&mut self, row: &TransferRow) -> Read<()> {
        let before = self.group.transfers.len() + self.batch.transfers.len();
        let position = after(self.head.transfer_position, before);
        let row = TransferRow {
            position,
            ..row.clone()
        };
        self.batch.transfer_of_id.insert(row.id, row.clone());
        self.batch.transfers.push(row);
        Ok(())
    }

    fn hold(&mut self, id: TransferId) -> Read<Option<HoldState>> {
        read!(self, holds, holds, transfers, id)
    }

    fn put_hold(&mut self, hold: &HoldState) -> Read<()> {
        self.batch.holds.insert(hold.hold.transfer.id, hold.clone());
        Ok(())
    }

    fn due_holds(&mut self, account: &Account, at_ms: i64, limit: usize) -> Read<Vec<HoldState>> {
        let loaded = self.loaded.due.get(account);
        let Some(loaded) = loaded.filter(|due| due.until_ms >= at_ms) else {
            return self.miss_due(account, at_ms, FIRST_DUE);
        };
        // What the group has changed since, and what it has not.
        let changed = [&self.group, &self.batch];
        let mut ids: BTreeSet<TransferId> = loaded.ids.iter().copied().collect();
        ids.extend(changed.iter().flat_map(|changes| changes.holds.keys()));
        let mut due = Vec::new();
        for id in ids {
            let Some(state) = self.hold(id)? else {
                continue;
            };
            let transfer = &state.hold.transfer;
            let ended = state.hold.expires_at_ms.is_some_and(|at| at <= at_ms);
            let touches = transfer.debit == *account || transfer.credit == *account;
            if ended && touches && state.remaining > 0 {
                due.push(state);
            }
        }
        if due.len() < limit && !loaded.are_all() {
            let most = loaded.most.saturating_mul(2);
            return self.miss_due(account, at_ms, most);
        }
        due.sort_by_key(|state| (state.hold.expires_at_ms, state.hold.transfer.id));
        due.truncate(limit);
        Ok(due)
    }

    fn append_hold_change(&mut self, row: &HoldChangeRow) -> Read<()> {
        let before = self.group.hold_changes.len() + self.batch.hold_changes.len();
        let position = after(self.head.hold_change_position, before);
        self.batch.hold_changes.push(HoldChangeRow {
            position,
            ..row.clone()
        });
        Ok(())
    }

    fn reversed(&mut self, id: TransferId) -> Read<i64> {
        let reversed = read!(self, reversed, reversed, transfers, id)?;
        Ok(reversed.unwrap_or(0))
    }

    fn put_reversed(&mut self, id: TransferId, amount: i64) -> Read<()> {
        self.batch.reversed.insert(id, amount);
        Ok(())
    }

    fn document_version(&mut self, collection: &str, id: &str) -> Read<i64> {
        let key = (collection.to_owned(), id.to_owned());
        let written = self.written(|changes| &changes.documents, &key);
        if let Some((version, _)) = written {
            return Ok(version);
        }
        match loaded(&self.loaded.documents, &key) {
            Some(version) => Ok(version.unwrap_or(0)),
            None => {
                self.missing.documents.insert(key);
                Err(NotLoaded)
            }
        }
    }

    fn put_document(&mut self, document: &NewDocument, version: i64) -> Read<()> {
        let key = (document.collection.to_owned(), document.id.clone());
        self.batch
            .documents
            .insert(key, (version, document.clone()));
        Ok(())
    }

    fn claim(&mut self, name: &str) -> Read<Option<String>> {
        read!(self, claims, claims, claims, name.to_owned())
    }

    fn put_claim(&mut self, name: &str, by: &str) -> Read<()> {
        self.batch.claims.insert(name.to_owned(), by.to_owned());
        Ok(())
    }

    fn counter(&mut self, name: &str) -> Read<Option<i64>> {
        read!(self, counters, counters, counters, name.to_owned())
    }

    fn put_counter(&mut self, name: &str, value: i64) -> Read<()> {
        self.batch.counters.insert(name.to_owned(), value);
        Ok(())
    }

    fn usage(&mut self, window: &UsageWindow) -> Read<i64> {
        let key = usage_key(window);
        if let Some((_, used)) = self.written(|changes| &changes.usage, &key) {
            return Ok(used);
        }
        match loaded(&self.loaded.usage, &key) {
            Some(used) => Ok(used.unwrap_or(0)),
            None => {
                self.missing.usage.insert(key);
                Err(NotLoaded)
            }
        }
    }

    fn put_usage(&mut self, window: &UsageWindow, used: i64) -> Read<()> {
        let usage = (window.end_ms, used);
        self.batch.usage.insert(usage_key(window), usage);
        Ok(())
    }

    fn append_event(&mut self, event: &NewEvent, at_ms: i64) -> Read<()> {
        self.batch.events.push((event.clone(), at_ms));
        Ok(())
    }

    fn put_due(&mut self, job: &DueJob) -> Read<()> {
        let key = (job.kind.clone(), job.object.clone());
        self.batch.due.insert(key, Some(job.due_at_ms));
        Ok(())
    }

    fn remove_due(&mut self, kind: &str, object: &str) -> Read<()> {
        self.batch
            .due
            .insert((kind.to_owned(), object.to_owned()), None);
        Ok(())
    }
}
