//! A store in memory: for tests, and to read beside the contract. It forgets when it is dropped.

mod arriving;
mod departing;
#[cfg(feature = "testkit")]
mod group;
mod moving;
mod tables;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;

use self::tables::{Change, KeptDocument, Tables};
use super::key_value::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, NodeLease};
use super::{
    CommitClock, CommitError, DocumentPosition, DocumentQuery, MAX_PAGE, Store, StoreError,
    StoreTrouble,
};
use crate::ids::TransferId;
use crate::ledger::{
    Account, ApplyError, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob,
    EventRecord, HoldChangeRow, HoldState, Standing, TransferRow, UsageWindow, apply,
};
use crate::ports::{BoxFuture, Clock};

/// A store in memory.
#[derive(Clone)]
pub struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    clock: Arc<dyn Clock>,
    times: Arc<CommitClock>,
    committed: Arc<Event>,
}

impl MemoryStore {
    /// An empty store whose commit times come from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            tables: Arc::default(),
            times: Arc::new(CommitClock::new(clock.clone(), 0)),
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
        if tables.is_handed_over() {
            return Err(StoreError::HandedOver.into());
        }
        // Books may have been moved in, or a group of another's written.
        self.times.seen(tables.last_commit_ms);
        let at_ms = self.times.next_ms();
        let mut change = Change::new(&mut tables);
        match apply(&mut change, batch, at_ms) {
            Ok(commit) => {
                if !commit.replayed {
                    tables.last_commit_ms = at_ms;
                    self.times.written(at_ms, true);
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

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let commit = self.commit_now(&batch)?;
        self.committed.notify(usize::MAX);
        Ok(commit)
    }

    fn commit_time_ms(&self) -> i64 {
        self.times.now_ms()
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
            .take(limit.max(1))
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

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        Ok(self.lock()?.transfer(id))
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        let tables = self.lock()?;
        let up_to = tables.transfers.partition_point(|row| row.at_ms <= at_ms);
        let rows = tables.transfers.get(..up_to).unwrap_or_default();
        let last = rows
            .iter()
            .rfind(|row| row.debit == *account || row.credit == *account);
        Ok(last.map_or(0, |row| row.balance_after(account)))
    }

    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError> {
        Ok(self.lock()?.standing(account, at_ms, windows))
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        Ok(page(&self.lock()?.commits, after, limit))
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        Ok(page(&self.lock()?.transfers, after, limit))
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        Ok(page(&self.lock()?.hold_changes, after, limit))
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        let head = self.lock()?.head();
        Ok((head.sequence > 0).then_some(head).into_iter().collect())
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        let mut tables = self.lock()?;
        let mut forgotten = 0;
        while forgotten < limit {
            let Some(row) = tables.commits.get(tables.forgotten) else {
                break;
            };
            if row.at_ms >= before_ms {
                break;
            }
            let scope = row.scope.clone();
            tables.forgotten += 1;
            if let Some((_, commit)) = scope.and_then(|scope| tables.commands.get_mut(&scope)) {
                commit.answer = None;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        Ok(self.lock()?.holds.get(&id).cloned())
    }

    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError> {
        Ok(self.lock()?.reversed.get(&id).copied().unwrap_or(0))
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.lock()?.claims.get(name).cloned())
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        Ok(self.lock()?.counters.get(name).copied())
    }

    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError> {
        Ok(self.lock()?.used(window))
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        let events = page(&self.lock()?.events, after, limit);
        let positions = after.max(0).saturating_add(1)..;
        let events = positions.zip(events);
        events.map(|(position, event)| event.at(position)).collect()
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
        due_by_ms: i64,
        lasts: Duration,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let mut tables = self.lock()?;
        if tables.is_handed_over() {
            return Ok(Vec::new());
        }
        let now_ms = self.clock.now_ms();
        let lease_until_ms = add(now_ms, lasts);
        let mut ready: Vec<DueJob> = tables
            .due
            .iter()
            .filter(|((kind, _), _)| !except.contains(&kind.as_str()))
            .filter(|(_, (due_at_ms, leased_until_ms))| {
                let is_free = *leased_until_ms <= now_ms || *leased_until_ms > lease_until_ms;
                *due_at_ms <= due_by_ms && is_free
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

    fn trouble(&self) -> Option<StoreTrouble> {
        let tables = self.lock().ok()?;
        let trouble = StoreTrouble {
            error: StoreError::HandedOver,
            since_ms: tables.last_commit_ms,
        };
        tables.is_handed_over().then_some(trouble)
    }

    async fn close(&self) -> Result<(), StoreError> {
        if let Ok(mut tables) = self.lock() {
            tables.closed = true;
        }
        self.committed.notify(usize::MAX);
        Ok(())
    }
}

fn add(at_ms: i64, lasts: Duration) -> i64 {
    at_ms.saturating_add(i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX))
}

/// The rows after a position: they stand in order from 1, without gaps.
fn page<T: Clone>(rows: &[T], after: i64, limit: usize) -> Vec<T> {
    let from = usize::try_from(after).unwrap_or(0);
    let rows = rows.iter().skip(from);
    rows.take(limit.clamp(1, MAX_PAGE)).cloned().collect()
}

fn as_document(document: &KeptDocument) -> Document {
    Document {
        id: document.id.clone(),
        version: document.version,
        body: document.body.clone(),
    }
}

impl MemoryStore {
    fn write_now(&self, epoch: u64, change: KeyValueWrite) -> Result<(), StoreError> {
        let mut tables = self.lock()?;
        tables.check_epoch(epoch)?;
        match change {
            KeyValueWrite::Put { path, value } => tables.node.insert(path, value),
            KeyValueWrite::Remove { path } => tables.node.remove(&path),
        };
        Ok(())
    }
}

impl KeyValue for MemoryStore {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        let result = self.lock().and_then(|mut tables| {
            if let Some(locked) = &tables.node_locked {
                return Err(locked.clone());
            }
            tables.node_epoch += 1;
            tables.node_lease = NodeLease::default();
            Ok(tables.node_epoch)
        });
        Box::pin(std::future::ready(result))
    }

    fn take_lease(
        &self,
        holder: NodeHolder,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<u64, StoreError>> {
        let now_ms = self.clock.now_ms();
        let result = self.lock().and_then(|mut tables| {
            if let Some(locked) = &tables.node_locked {
                return Err(locked.clone());
            }
            tables.node_lease.check(holder, now_ms)?;
            tables.node_epoch += 1;
            tables.node_lease = NodeLease::new(holder.0, now_ms, lasts);
            Ok(tables.node_epoch)
        });
        Box::pin(std::future::ready(result))
    }

    fn renew_lease(
        &self,
        epoch: u64,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let now_ms = self.clock.now_ms();
        let result = self.lock().and_then(|mut tables| {
            tables.check_epoch(epoch)?;
            tables.node_lease = NodeLease::new(tables.node_lease.holder, now_ms, lasts);
            Ok(())
        });
        Box::pin(std::future::ready(result))
    }

    fn release_lease(&self, epoch: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        let result = self.lock().and_then(|mut tables| {
            tables.check_epoch(epoch)?;
            tables.node_lease = NodeLease::default();
            Ok(())
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

    fn forget_channels(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> BoxFuture<'static, Result<bool, StoreError>> {
        Box::pin(std::future::ready(self.forget_channels_now(instead)))
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
