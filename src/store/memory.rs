//! A store in memory: for tests, and to read beside the contract. It forgets when it is dropped.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use event_listener::Event;

use super::key_value::{KeyPath, KeyValue, KeyValueWrite};
use super::{CommitError, DocumentPosition, DocumentQuery, MAX_PAGE, Store, StoreError};
use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, ApplyError, Balance, Batch, Commit, Document, DueJob, EventRecord, HoldState,
    NewDocument, NewEvent, State, TransferRow, UsageWindow, apply,
};
use crate::ports::{BoxFuture, Clock};

#[derive(Default)]
struct Tables {
    last_commit_ms: i64,
    commits: HashMap<BatchId, Commit>,
    commands: HashMap<String, (String, Commit)>,
    balances: BTreeMap<Account, Balance>,
    transfers: Vec<TransferRow>,
    transfer_ids: HashMap<TransferId, ()>,
    holds: HashMap<TransferId, HoldState>,
    documents: HashMap<(String, String), (i64, NewDocument)>,
    index: BTreeMap<(String, String, DocumentPosition), ()>,
    claims: HashMap<String, String>,
    counters: HashMap<String, i64>,
    usage: HashMap<(String, i64), i64>,
    events: Vec<EventRecord>,
    due: HashMap<(String, String), (i64, i64)>,
    cursors: HashMap<String, i64>,
    node: BTreeMap<KeyPath, Vec<u8>>,
    node_epoch: u64,
    closed: bool,
}

/// A store in memory.
#[derive(Clone)]
pub struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    clock: Arc<dyn Clock>,
    committed: Arc<Event>,
}

impl MemoryStore {
    /// An empty store whose commit times come from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            tables: Arc::default(),
            clock,
            committed: Arc::new(Event::new()),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        // A panic elsewhere cannot leave a half-made change: changes are undone before the lock
        // is given back, and a change that panicked was never answered.
        let tables = self
            .tables
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if tables.closed {
            Err(StoreError::Closed)
        } else {
            Ok(tables)
        }
    }

    fn commit_now(&self, batch: &Batch) -> Result<Commit, CommitError> {
        let mut tables = self.lock()?;
        let at_ms = self.clock.now_ms().max(tables.last_commit_ms);
        let mut change = Change {
            tables: &mut tables,
            undo: Vec::new(),
        };
        match apply(&mut change, batch, at_ms) {
            Ok(commit) => {
                if !commit.replayed {
                    tables.last_commit_ms = at_ms;
                }
                Ok(commit)
            }
            Err(error) => {
                change.undo_all();
                match error {
                    ApplyError::Refused(refusal) => Err(refusal.into()),
                    ApplyError::Store(never) => match never {},
                }
            }
        }
    }
}

type Undo = Box<dyn FnOnce(&mut Tables)>;

/// One change in the making, with the way back.
struct Change<'a> {
    tables: &'a mut Tables,
    undo: Vec<Undo>,
}

impl Change<'_> {
    fn undo_all(mut self) {
        while let Some(undo) = self.undo.pop() {
            undo(self.tables);
        }
    }
}

/// Sets a row of a table and remembers what stood there.
macro_rules! set {
    ($change:expr, $table:ident, $key:expr, $value:expr) => {{
        let key = $key;
        let before = $change.tables.$table.insert(key.clone(), $value);
        $change.undo.push(Box::new(move |tables| {
            match before {
                Some(value) => tables.$table.insert(key, value),
                None => tables.$table.remove(&key),
            };
        }));
    }};
}

/// Takes a row out of a table and remembers it.
macro_rules! unset {
    ($change:expr, $table:ident, $key:expr) => {{
        let key = $key;
        if let Some(value) = $change.tables.$table.remove(&key) {
            $change.undo.push(Box::new(move |tables| {
                tables.$table.insert(key, value);
            }));
        }
    }};
}

impl State for Change<'_> {
    type Error = Infallible;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>, Infallible> {
        Ok(self.tables.commits.get(&batch).cloned())
    }

    fn put_commit(
        &mut self,
        batch: BatchId,
        _scope: Option<&str>,
        commit: &Commit,
    ) -> Result<(), Infallible> {
        set!(self, commits, batch, commit.clone());
        Ok(())
    }

    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>, Infallible> {
        Ok(self.tables.commands.get(scope).cloned())
    }

    fn put_command(
        &mut self,
        scope: &str,
        fingerprint: &str,
        commit: &Commit,
    ) -> Result<(), Infallible> {
        set!(
            self,
            commands,
            scope.to_owned(),
            (fingerprint.to_owned(), commit.clone())
        );
        Ok(())
    }

    fn balance(&mut self, account: &Account) -> Result<Balance, Infallible> {
        Ok(self
            .tables
            .balances
            .get(account)
            .copied()
            .unwrap_or_default())
    }

    fn put_balance(&mut self, account: &Account, balance: &Balance) -> Result<(), Infallible> {
        set!(self, balances, *account, *balance);
        Ok(())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool, Infallible> {
        Ok(self.tables.transfer_ids.contains_key(&id) || self.tables.holds.contains_key(&id))
    }

    fn append_transfer(&mut self, row: &TransferRow) -> Result<(), Infallible> {
        let position = next_position(self.tables.transfers.len());
        set!(self, transfer_ids, row.id, ());
        self.tables.transfers.push(TransferRow {
            position,
            ..row.clone()
        });
        self.undo.push(Box::new(|tables| {
            tables.transfers.pop();
        }));
        Ok(())
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>, Infallible> {
        Ok(self.tables.holds.get(&id).cloned())
    }

    fn put_hold(&mut self, hold: &HoldState) -> Result<(), Infallible> {
        set!(self, holds, hold.hold.transfer.id, hold.clone());
        Ok(())
    }

    fn document_version(&mut self, collection: &str, id: &str) -> Result<i64, Infallible> {
        let key = (collection.to_owned(), id.to_owned());
        Ok(self
            .tables
            .documents
            .get(&key)
            .map_or(0, |(version, _)| *version))
    }

    fn put_document(&mut self, document: &NewDocument, version: i64) -> Result<(), Infallible> {
        let key = (document.collection.to_owned(), document.id.clone());
        if let Some((_, before)) = self.tables.documents.get(&key).cloned() {
            for index_key in index_rows(&before) {
                unset!(self, index, index_key);
            }
        }
        for index_key in index_rows(document) {
            set!(self, index, index_key, ());
        }
        set!(self, documents, key, (version, document.clone()));
        Ok(())
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>, Infallible> {
        Ok(self.tables.claims.get(name).cloned())
    }

    fn put_claim(&mut self, name: &str, by: &str) -> Result<(), Infallible> {
        set!(self, claims, name.to_owned(), by.to_owned());
        Ok(())
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>, Infallible> {
        Ok(self.tables.counters.get(name).copied())
    }

    fn put_counter(&mut self, name: &str, value: i64) -> Result<(), Infallible> {
        set!(self, counters, name.to_owned(), value);
        Ok(())
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64, Infallible> {
        let key = (window.subject.clone(), window.start_ms);
        Ok(self.tables.usage.get(&key).copied().unwrap_or(0))
    }

    fn put_usage(&mut self, window: &UsageWindow, used: i64) -> Result<(), Infallible> {
        set!(self, usage, (window.subject.clone(), window.start_ms), used);
        Ok(())
    }

    fn append_event(&mut self, event: &NewEvent, at_ms: i64) -> Result<(), Infallible> {
        self.tables.events.push(EventRecord {
            position: next_position(self.tables.events.len()),
            at_ms,
            kind: event.kind.to_owned(),
            object: event.object.clone(),
            body: event.body.clone(),
        });
        self.undo.push(Box::new(|tables| {
            tables.events.pop();
        }));
        Ok(())
    }

    fn put_due(&mut self, job: &DueJob) -> Result<(), Infallible> {
        set!(
            self,
            due,
            (job.kind.clone(), job.object.clone()),
            (job.due_at_ms, 0)
        );
        Ok(())
    }

    fn remove_due(&mut self, kind: &str, object: &str) -> Result<(), Infallible> {
        unset!(self, due, (kind.to_owned(), object.to_owned()));
        Ok(())
    }
}

fn next_position(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX).saturating_add(1)
}

fn index_rows(document: &NewDocument) -> Vec<(String, String, DocumentPosition)> {
    document
        .index_keys
        .iter()
        .map(|(index, key)| {
            let position = DocumentPosition {
                key: key.clone(),
                id: document.id.clone(),
            };
            (
                document.collection.to_owned(),
                (*index).to_owned(),
                position,
            )
        })
        .collect()
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let commit = self.commit_now(&batch)?;
        self.committed.notify(usize::MAX);
        Ok(commit)
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        Ok(self.lock()?.commands.get(scope).cloned())
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        let key = (collection.to_owned(), id.to_owned());
        Ok(self.lock()?.documents.get(&key).map(as_document))
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        let tables = self.lock()?;
        let first = DocumentPosition {
            key: query.from.clone(),
            id: String::new(),
        };
        let from = match &query.after {
            Some(after) if *after >= first => after.clone(),
            _ => first,
        };
        let start = (query.collection.to_owned(), query.index.to_owned(), from);
        let rows = tables
            .index
            .range(start..)
            .map(|(row, ())| row)
            .take_while(|(collection, index, position)| {
                collection == query.collection
                    && index == query.index
                    && query.to.as_ref().is_none_or(|to| position.key < *to)
            })
            .filter(|(_, _, position)| query.after.as_ref() != Some(position))
            .take(query.limit.clamp(1, MAX_PAGE));
        let mut found = Vec::new();
        for (collection, _, position) in rows {
            let key = (collection.clone(), position.id.clone());
            if let Some(document) = tables.documents.get(&key) {
                found.push((position.clone(), as_document(document)));
            }
        }
        Ok(found)
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        Ok(self
            .lock()?
            .balances
            .get(account)
            .copied()
            .unwrap_or_default())
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        // In the order of the accounts' text, as every store has it.
        let mut rows: Vec<(String, Account, Balance)> = self
            .lock()?
            .balances
            .iter()
            .map(|(account, balance)| (account.to_string(), *account, *balance))
            .collect();
        rows.sort_by(|left, right| left.0.cmp(&right.0));
        let after = after.map(|account| account.to_string());
        Ok(rows
            .into_iter()
            .filter(|(text, ..)| after.as_ref().is_none_or(|after| text > after))
            .take(limit.clamp(1, MAX_PAGE))
            .map(|(_, account, balance)| (account, balance))
            .collect())
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        Ok(self
            .lock()?
            .transfers
            .iter()
            .rev()
            .filter(|row| before.is_none_or(|before| row.position < before))
            .filter(|row| row.debit == *account || row.credit == *account)
            .take(limit.clamp(1, MAX_PAGE))
            .cloned()
            .collect())
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        Ok(self.lock()?.holds.get(&id).cloned())
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.lock()?.claims.get(name).cloned())
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        Ok(self.lock()?.counters.get(name).copied())
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        Ok(self
            .lock()?
            .events
            .iter()
            .filter(|event| event.position > after)
            .take(limit.clamp(1, MAX_PAGE))
            .cloned()
            .collect())
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        loop {
            let committed = self.committed.listen();
            if !self.events(position, 1).await?.is_empty() {
                return Ok(());
            }
            committed.await;
        }
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        Ok(self.lock()?.cursors.get(name).copied().unwrap_or(0))
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let mut tables = self.lock()?;
        let cursor = tables.cursors.entry(name.to_owned()).or_insert(0);
        *cursor = position.max(*cursor);
        Ok(())
    }

    async fn lease_due(
        &self,
        now_ms: i64,
        lease_until_ms: i64,
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let mut tables = self.lock()?;
        let mut ready: Vec<DueJob> = tables
            .due
            .iter()
            .filter(|(_, (due_at_ms, leased_until_ms))| {
                *due_at_ms <= now_ms && *leased_until_ms <= now_ms
            })
            .map(|((kind, object), (due_at_ms, _))| DueJob {
                kind: kind.clone(),
                object: object.clone(),
                due_at_ms: *due_at_ms,
            })
            .collect();
        ready.sort_by(|left, right| {
            (left.due_at_ms, &left.kind, &left.object).cmp(&(
                right.due_at_ms,
                &right.kind,
                &right.object,
            ))
        });
        ready.truncate(limit.clamp(1, MAX_PAGE));
        for job in &ready {
            if let Some(row) = tables.due.get_mut(&(job.kind.clone(), job.object.clone())) {
                row.1 = lease_until_ms;
            }
        }
        Ok(ready)
    }

    async fn close(&self) -> Result<(), StoreError> {
        if let Ok(mut tables) = self.lock() {
            tables.closed = true;
        }
        self.committed.notify(usize::MAX);
        Ok(())
    }
}

fn as_document((version, document): &(i64, NewDocument)) -> Document {
    Document {
        id: document.id.clone(),
        version: *version,
        body: document.body.clone(),
    }
}

impl MemoryStore {
    fn write_now(&self, epoch: u64, change: KeyValueWrite) -> Result<(), StoreError> {
        let mut tables = self.lock()?;
        if epoch == 0 || epoch != tables.node_epoch {
            let current = tables.node_epoch;
            return Err(StoreError::Fenced {
                given: epoch,
                current,
            });
        }
        match change {
            KeyValueWrite::Put { path, value } => tables.node.insert(path, value),
            KeyValueWrite::Remove { path } => tables.node.remove(&path),
        };
        Ok(())
    }
}

impl KeyValue for MemoryStore {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        let result = self.lock().map(|mut tables| {
            tables.node_epoch += 1;
            tables.node_epoch
        });
        Box::pin(std::future::ready(result))
    }

    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(std::future::ready(self.write_now(epoch, change)))
    }

    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> {
        let result = self.lock().map(|tables| tables.node.get(&path).cloned());
        Box::pin(std::future::ready(result))
    }

    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        let result = self.lock().map(|tables| {
            tables
                .node
                .keys()
                .filter(|path| path.primary == primary && path.secondary == secondary)
                .map(|path| path.key.clone())
                .collect()
        });
        Box::pin(std::future::ready(result))
    }
}
