//! What a group of batches changes, gathered in memory over the rows of a store.
//!
//! A store that commits several batches at once reads its rows through a [`Group`], has it
//! [decide](Group::decide) one batch after another, and writes the [`Changes`] when all are
//! decided: a row that many batches change is written once, and one refused batch leaves no
//! trace, without a savepoint each.

use std::collections::BTreeMap;

use super::account::Account;
use super::apply::{ApplyError, apply};
use super::balance::Balance;
use super::batch::{Batch, Commit, DueJob, NewDocument, NewEvent, UsageWindow};
use super::journal::{ChainHead, CommitPlace, CommitRow};
use super::refusal::Refusal;
use super::state::{Rows, State};
use super::transfer::{HoldChangeRow, HoldState, TransferRow};
use crate::ids::{BatchId, TransferId};

/// The rows that batches have changed, as they are to be written: all of them in one atomic
/// change, or none. Rows that are appended stand in their order; of the others each key has its
/// last value, which takes the place of the one before.
#[derive(Debug, Default)]
pub struct Changes {
    /// Appended commits, with their positions. A commit is found by its batch.
    pub commits: Vec<CommitRow>,
    /// Commands by their scope: the fingerprint, and what was committed.
    pub commands: BTreeMap<String, (String, Commit)>,
    /// Totals of accounts.
    pub balances: BTreeMap<Account, Balance>,
    /// Appended transfers, with their positions. A transfer is found by its id, and is in the list
    /// of both its accounts.
    pub transfers: Vec<TransferRow>,
    /// How much was undone of a transfer.
    pub reversed: BTreeMap<TransferId, i64>,
    /// Appended changes of holds, with their positions.
    pub hold_changes: Vec<HoldChangeRow>,
    /// Holds by their id. One that ends by itself is due for both its accounts, as long as
    /// something remains of it.
    pub holds: BTreeMap<TransferId, HoldState>,
    /// Documents by collection and id, each with its new version. The keys of the version before
    /// are no longer in any index.
    pub documents: BTreeMap<(&'static str, String), (i64, NewDocument)>,
    /// Names, and who claimed them.
    pub claims: BTreeMap<String, String>,
    /// Where counters stand.
    pub counters: BTreeMap<String, i64>,
    /// By subject and start of the window: its end, and what was used in it.
    pub usage: BTreeMap<(String, i64), (i64, i64)>,
    /// Appended events, each with its time in milliseconds. The store gives them the positions
    /// after the last one.
    pub events: Vec<(NewEvent, i64)>,
    /// By kind and object: when the job is due, or `None` for one that is done and may be missing.
    /// Either way a lease that it had is over.
    pub due: BTreeMap<(String, String), Option<i64>>,
    batches: BTreeMap<BatchId, (i64, Option<String>)>,
    /// By their ids: the positions of the transfers.
    transfer_of_id: BTreeMap<TransferId, i64>,
}

impl Changes {
    /// True when there is nothing to write: every batch was refused, or had been done before.
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    fn absorb(&mut self, mut later: Self) {
        if self.is_empty() {
            // What is kept has a commit.
            *self = later;
            return;
        }
        self.commits.append(&mut later.commits);
        self.commands.extend(later.commands);
        self.balances.extend(later.balances);
        self.transfers.append(&mut later.transfers);
        self.reversed.extend(later.reversed);
        self.hold_changes.append(&mut later.hold_changes);
        self.holds.extend(later.holds);
        self.documents.extend(later.documents);
        self.claims.extend(later.claims);
        self.counters.extend(later.counters);
        self.usage.extend(later.usage);
        self.events.append(&mut later.events);
        self.due.extend(later.due);
        self.batches.extend(later.batches);
        self.transfer_of_id.extend(later.transfer_of_id);
    }

    fn transfer_at(&self, position: i64) -> Option<&TransferRow> {
        let first = self.transfers.first()?.position;
        let place = usize::try_from(position.checked_sub(first)?).ok()?;
        self.transfers.get(place)
    }
}

/// The last positions that a store has given out, 0 before the first; those of a group follow.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastPositions {
    /// Of a transfer.
    pub transfer: i64,
    /// Of a change of a hold.
    pub hold_change: i64,
}

/// The state of the books within a group. One batch at a time is [decided](Self::decide); or, by
/// whoever needs the two steps apart, [applied](apply) and then [kept](Self::keep) or
/// [undone](Self::undo).
#[derive(Debug)]
pub struct Group<R> {
    rows: R,
    last: LastPositions,
    group: Changes,
    batch: Changes,
}

impl<R: Rows> Group<R> {
    /// A group upon `rows`, which nobody else may change until its changes are written.
    pub fn new(rows: R, last: LastPositions) -> Self {
        let (group, batch) = (Changes::default(), Changes::default());
        Self {
            rows,
            last,
            group,
            batch,
        }
    }

    /// Decides a batch as of `at_ms`, upon those of the group that were kept before it: with every
    /// guard, and without a trace of one that is refused. `at_ms` must not be less than that of
    /// any commit before. The answer is to be given only when the [`Changes`] of the whole group
    /// are durable, a refusal included, which was decided upon them.
    ///
    /// # Errors
    /// What reading the rows failed with. The batch has no trace then either.
    pub fn decide(
        &mut self,
        batch: &Batch,
        at_ms: i64,
    ) -> Result<Result<Commit, Refusal>, R::Error> {
        match apply(self, batch, at_ms) {
            Ok(commit) => {
                self.keep();
                Ok(Ok(commit))
            }
            Err(ApplyError::Refused(refusal)) => {
                self.undo();
                Ok(Err(refusal))
            }
            Err(ApplyError::Store(error)) => {
                self.undo();
                Err(error)
            }
        }
    }

    /// Keeps what the batch at hand has changed.
    pub fn keep(&mut self) {
        self.group.absorb(std::mem::take(&mut self.batch));
    }

    /// Forgets what the batch at hand has changed.
    pub fn undo(&mut self) {
        self.batch = Changes::default();
    }

    /// What the batches that were kept have changed, and the rows.
    pub fn finish(self) -> (Changes, R) {
        (self.group, self.rows)
    }

    /// What was last written under the key, if anything was.
    fn written<K: Ord + 'static, V: 'static>(
        &self,
        table: impl Fn(&Changes) -> &BTreeMap<K, V>,
        key: &K,
    ) -> Option<&V> {
        let written = table(&self.batch).get(key);
        written.or_else(|| table(&self.group).get(key))
    }
}

/// The position that comes after `before` others after `last`.
fn after(last: i64, before: usize) -> i64 {
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    last.saturating_add(before).saturating_add(1)
}

fn usage_key(window: &UsageWindow) -> (String, i64) {
    (window.subject.clone(), window.start_ms)
}

impl<R: Rows> Rows for Group<R> {
    type Error = R::Error;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>, R::Error> {
        let Some((at_ms, scope)) = self.written(|changes| &changes.batches, &batch) else {
            return self.rows.commit_of_batch(batch);
        };
        let command = scope
            .as_ref()
            .and_then(|scope| self.written(|changes| &changes.commands, scope));
        Ok(Some(Commit {
            at_ms: *at_ms,
            answer: command.and_then(|(_, commit)| commit.answer.clone()),
            replayed: false,
        }))
    }

    fn commit_place(&mut self) -> Result<CommitPlace, R::Error> {
        let last = self.batch.commits.last().or(self.group.commits.last());
        let Some(row) = last else {
            return self.rows.commit_place();
        };
        Ok(CommitPlace {
            position: row.position.saturating_add(1),
            head: ChainHead {
                writer: row.writer.clone(),
                sequence: row.sequence,
                hash: row.hash,
            },
        })
    }

    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>, R::Error> {
        let written = [&self.batch, &self.group]
            .into_iter()
            .find_map(|changes| changes.commands.get(scope));
        match written {
            Some(command) => Ok(Some(command.clone())),
            None => self.rows.command(scope),
        }
    }

    fn balance(&mut self, account: &Account) -> Result<Balance, R::Error> {
        match self.written(|changes| &changes.balances, account) {
            Some(balance) => Ok(*balance),
            None => self.rows.balance(account),
        }
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool, R::Error> {
        let is_written = self
            .written(|changes| &changes.transfer_of_id, &id)
            .is_some()
            || self.written(|changes| &changes.holds, &id).is_some();
        if is_written {
            return Ok(true);
        }
        self.rows.transfer_exists(id)
    }

    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>, R::Error> {
        let position = self.written(|changes| &changes.transfer_of_id, &id);
        let row = position.and_then(|position| {
            let written = [&self.batch, &self.group].into_iter();
            written
                .clone()
                .find_map(|changes| changes.transfer_at(*position))
        });
        match row {
            Some(row) => Ok(Some(row.clone())),
            None => self.rows.transfer(id),
        }
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>, R::Error> {
        match self.written(|changes| &changes.holds, &id) {
            Some(state) => Ok(Some(state.clone())),
            None => self.rows.hold(id),
        }
    }

    fn due_holds(
        &mut self,
        account: &Account,
        at_ms: i64,
        limit: usize,
    ) -> Result<Vec<HoldState>, R::Error> {
        let touches = |state: &HoldState| {
            let transfer = &state.hold.transfer;
            transfer.debit == *account || transfer.credit == *account
        };
        let mut changed: BTreeMap<TransferId, HoldState> = BTreeMap::new();
        for changes in [&self.group, &self.batch] {
            let of_account = changes.holds.iter().filter(|(_, state)| touches(state));
            changed.extend(of_account.map(|(id, state)| (*id, state.clone())));
        }
        // So many more that, without the changed ones, there are still enough.
        let wanted = limit.saturating_add(changed.len());
        let mut due = self.rows.due_holds(account, at_ms, wanted)?;
        due.retain(|state| !changed.contains_key(&state.hold.transfer.id));
        due.extend(changed.into_values().filter(|state| {
            let ended = state.hold.expires_at_ms.is_some_and(|at| at <= at_ms);
            ended && state.remaining > 0
        }));
        due.sort_by_key(|state| (state.hold.expires_at_ms, state.hold.transfer.id));
        due.truncate(limit);
        Ok(due)
    }

    fn reversed(&mut self, id: TransferId) -> Result<i64, R::Error> {
        match self.written(|changes| &changes.reversed, &id) {
            Some(amount) => Ok(*amount),
            None => self.rows.reversed(id),
        }
    }

    fn document_version(&mut self, collection: &'static str, id: &str) -> Result<i64, R::Error> {
        // Most batches write what no other of the group has read.
        if self.group.documents.is_empty() && self.batch.documents.is_empty() {
            return self.rows.document_version(collection, id);
        }
        let key = (collection, id.to_owned());
        match self.written(|changes| &changes.documents, &key) {
            Some((version, _)) => Ok(*version),
            None => self.rows.document_version(collection, id),
        }
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>, R::Error> {
        let written = [&self.batch, &self.group]
            .into_iter()
            .find_map(|changes| changes.claims.get(name));
        match written {
            Some(by) => Ok(Some(by.clone())),
            None => self.rows.claim(name),
        }
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>, R::Error> {
        let written = [&self.batch, &self.group]
            .into_iter()
            .find_map(|changes| changes.counters.get(name));
        match written {
            Some(value) => Ok(Some(*value)),
            None => self.rows.counter(name),
        }
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64, R::Error> {
        match self.written(|changes| &changes.usage, &usage_key(window)) {
            Some((_, used)) => Ok(*used),
            None => self.rows.usage(window),
        }
    }
}

impl<R: Rows> State for Group<R> {
    fn put_commit(&mut self, row: &CommitRow, commit: &Commit) -> Result<(), R::Error> {
        let done = (commit.at_ms, row.scope.clone());
        self.batch.batches.insert(row.batch, done);
        self.batch.commits.push(row.clone());
        Ok(())
    }

    fn put_command(
        &mut self,
        scope: &str,
        fingerprint: &str,
        commit: &Commit,
    ) -> Result<(), R::Error> {
        let command = (fingerprint.to_owned(), commit.clone());
        self.batch.commands.insert(scope.to_owned(), command);
        Ok(())
    }

    fn put_balance(&mut self, account: &Account, balance: &Balance) -> Result<(), R::Error> {
        self.batch.balances.insert(*account, *balance);
        Ok(())
    }

    fn append_transfer(&mut self, row: &TransferRow) -> Result<(), R::Error> {
        let before = self.group.transfers.len() + self.batch.transfers.len();
        let row = TransferRow {
            position: after(self.last.transfer, before),
            ..row.clone()
        };
        self.batch.transfer_of_id.insert(row.id, row.position);
        self.batch.transfers.push(row);
        Ok(())
    }

    fn put_hold(&mut self, hold: &HoldState) -> Result<(), R::Error> {
        self.batch.holds.insert(hold.hold.transfer.id, hold.clone());
        Ok(())
    }

    fn append_hold_change(&mut self, row: &HoldChangeRow) -> Result<(), R::Error> {
        let before = self.group.hold_changes.len() + self.batch.hold_changes.len();
        self.batch.hold_changes.push(HoldChangeRow {
            position: after(self.last.hold_change, before),
            ..row.clone()
        });
        Ok(())
    }

    fn put_reversed(&mut self, id: TransferId, amount: i64) -> Result<(), R::Error> {
        self.batch.reversed.insert(id, amount);
        Ok(())
    }

    fn put_document(&mut self, document: &NewDocument, version: i64) -> Result<(), R::Error> {
        let key = (document.collection, document.id.clone());
        self.batch
            .documents
            .insert(key, (version, document.clone()));
        Ok(())
    }

    fn put_claim(&mut self, name: &str, by: &str) -> Result<(), R::Error> {
        self.batch.claims.insert(name.to_owned(), by.to_owned());
        Ok(())
    }

    fn put_counter(&mut self, name: &str, value: i64) -> Result<(), R::Error> {
        self.batch.counters.insert(name.to_owned(), value);
        Ok(())
    }

    fn put_usage(&mut self, window: &UsageWindow, used: i64) -> Result<(), R::Error> {
        let usage = (window.end_ms, used);
        self.batch.usage.insert(usage_key(window), usage);
        Ok(())
    }

    fn append_event(&mut self, event: &NewEvent, at_ms: i64) -> Result<(), R::Error> {
        self.batch.events.push((event.clone(), at_ms));
        Ok(())
    }

    fn put_due(&mut self, job: &DueJob) -> Result<(), R::Error> {
        let key = (job.kind.clone(), job.object.clone());
        self.batch.due.insert(key, Some(job.due_at_ms));
        Ok(())
    }

    fn remove_due(&mut self, kind: &str, object: &str) -> Result<(), R::Error> {
        self.batch
            .due
            .insert((kind.to_owned(), object.to_owned()), None);
        Ok(())
    }
}
