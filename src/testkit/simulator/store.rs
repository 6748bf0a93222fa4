//! The store of a simulation: reads from the disk, and writes through the group commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::executor::{at_once, pass};
use super::ground::Ground;
use super::tally::Fault;
use super::writer::{Work, WriteQueue, Writer, bounds, changed};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, Standing, TransferRow, UsageWindow,
};
use crate::ports::Executor;
use crate::store::group_commit::{CommitTask, Lane};
use crate::store::{
    CommitClock, CommitError, DocumentPosition, DocumentQuery, KeyValue, KeyValueWrite,
    MemoryStore, Store, StoreError,
};

/// A store upon a disk that outlives it.
#[derive(Clone)]
pub(super) struct SimulatedStore {
    ground: Arc<Ground>,
    disk: MemoryStore,
    queue: Arc<WriteQueue>,
    times: Arc<CommitClock>,
    stopped: Arc<event_listener::Event>,
    closed: Arc<AtomicBool>,
}

impl SimulatedStore {
    /// Opens the store and begins to write.
    pub(super) fn open(ground: &Arc<Ground>, disk: &MemoryStore) -> Self {
        let store = Self {
            ground: ground.clone(),
            disk: disk.clone(),
            queue: Arc::new(WriteQueue::new(bounds())),
            times: Arc::new(CommitClock::new(
                ground.clone(),
                disk.last_commit_ms().unwrap_or(0),
            )),
            stopped: Arc::default(),
            closed: Arc::default(),
        };
        let writer = Writer {
            ground: ground.clone(),
            disk: disk.clone(),
            queue: store.queue.clone(),
            times: store.times.clone(),
            stopped: store.stopped.clone(),
        };
        ground.executor.spawn(Box::pin(writer.run()));
        store
    }

    /// The node begins: whatever ran before is fenced off.
    pub(super) async fn begin_node(&self) -> Result<u64, StoreError> {
        changed(&self.queue, Lane::Node, |disk| {
            at_once(KeyValue::begin_epoch(disk)).unwrap_or(Err(StoreError::Closed))
        })
        .await?
    }

    /// A write of the node's state.
    pub(super) async fn write_node(
        &self,
        epoch: u64,
        write: KeyValueWrite,
    ) -> Result<(), StoreError> {
        changed(&self.queue, Lane::Node, move |disk| {
            at_once(KeyValue::write(disk, epoch, write.clone())).unwrap_or(Ok(()))
        })
        .await?
    }

    /// What stands on the disk.
    pub(super) async fn on_disk<T>(
        &self,
        read: impl FnOnce(&MemoryStore) -> T,
    ) -> Result<T, StoreError> {
        Ok(read(self.look().await?))
    }

    /// Before a read: others may come first, and it may fail.
    async fn look(&self) -> Result<&MemoryStore, StoreError> {
        if self.ground.dice().is_multiple_of(4) {
            pass().await;
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        if self.ground.strikes(Fault::ReadFailed, 8) {
            let reason = "simulated".to_owned();
            return Err(StoreError::Io { reason });
        }
        Ok(&self.disk)
    }
}

#[async_trait]
impl Store for SimulatedStore {
    async fn commit(&self, mut batch: Batch) -> Result<Commit, CommitError> {
        if let Some(bug) = self.ground.bug() {
            bug.distort(&mut batch, self.ground.dice());
        }
        let (task, answered) = CommitTask::new(batch);
        self.queue.push(Lane::Batches, Work::Commit(task));
        let answer = answered.await;
        if matches!(answer, Err(CommitError::Store(StoreError::Busy { .. }))) {
            self.ground.struck(Fault::StoreBusy);
        }
        answer
    }

    fn commit_time_ms(&self) -> i64 {
        let at_ms = self.times.now_ms();
        self.ground.told(at_ms);
        at_ms
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let found = self.known_command(scope).await?;
        if found.is_some() {
            return Ok(found);
        }
        // As the real ones: whatever is on its way comes first.
        let settled = changed(&self.queue, Lane::Batches, |_| ()).await;
        settled.map_err(StoreError::of_waiting)?;
        self.known_command(scope).await
    }

    async fn known_command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        self.look().await?.command(scope).await
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        self.look().await?.document(collection, id).await
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        self.look().await?.documents(query).await
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        self.look().await?.balance(account).await
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        self.look().await?.balances(after, limit).await
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        self.look().await?.transfers(account, before, limit).await
    }

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        self.look().await?.transfer(id).await
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        self.look().await?.balance_at(account, at_ms).await
    }

    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError> {
        self.look().await?.standing(account, at_ms, windows).await
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        self.look().await?.commits(after, limit).await
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        self.look().await?.journal(after, limit).await
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        self.look().await?.hold_changes(after, limit).await
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        self.look().await?.chain_heads().await
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        changed(&self.queue, Lane::Batches, move |disk| {
            at_once(disk.forget_answers(before_ms, limit)).unwrap_or(Ok(0))
        })
        .await?
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        self.look().await?.hold(id).await
    }

    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError> {
        self.look().await?.reversed(id).await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.look().await?.claim(name).await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.look().await?.counter(name).await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError> {
        self.look().await?.usage(window).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        self.look().await?.events(after, limit).await
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        self.look().await?.event_after(position).await
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        self.look().await?.cursor(name).await
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let name = name.to_owned();
        changed(&self.queue, Lane::Batches, move |disk| {
            at_once(disk.acknowledge(&name, position)).unwrap_or(Ok(()))
        })
        .await?
    }

    async fn lease_due(
        &self,
        due_by_ms: i64,
        lasts: Duration,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let except: Vec<String> = except.iter().map(|kind| (*kind).to_owned()).collect();
        changed(&self.queue, Lane::Batches, move |disk| {
            let except: Vec<&str> = except.iter().map(String::as_str).collect();
            at_once(disk.lease_due(due_by_ms, lasts, &except, limit)).unwrap_or(Ok(Vec::new()))
        })
        .await?
    }

    async fn close(&self) -> Result<(), StoreError> {
        if !self.closed.swap(true, Ordering::SeqCst) {
            let stopped = self.stopped.listen();
            self.queue.close();
            stopped.await;
        }
        Ok(())
    }
}
