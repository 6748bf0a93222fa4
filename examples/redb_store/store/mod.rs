//! A store on redb: a tree of key and value in one file, with one writer and any number of
//! readers that never wait for it.
//!
//! It was written from the documentation of `flashkit::store` and `flashkit::ledger` alone, and
//! keeps `flashkit::store::contract`. What it has not: `StoreAdmin`, and a lock of the node on a
//! file that was copied. **A Lightning node must not run on a copy of the file.**

mod tables;
mod writer;

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use flashkit::ids::TransferId;
use flashkit::ledger::{
    Account, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, Rows, TransferRow,
};
use flashkit::ports::{BoxFuture, Clock};
use flashkit::store::{
    CommitError, DocumentPosition, DocumentQuery, KeyPath, KeyValue, KeyValueWrite, MAX_PAGE,
    NodeHolder, NodeLease, Store, StoreError, StoreTrouble, WriteHealth,
};
use futures_channel::oneshot;
use redb::{Database, WriteTransaction};

use self::tables::{Fault, Snapshot};
use self::writer::{Once, Queue, WaitingBatch, Writer};

type Read = Box<dyn FnOnce(&Database) + Send>;

/// The most questions that may wait for the reader.
const READS: usize = 4_096;

/// The books in one redb file.
pub struct RedbStore {
    queue: Arc<Queue>,
    /// `None` once it was closed.
    reads: Mutex<Option<SyncSender<Read>>>,
    committed: Arc<Event>,
    health: Arc<WriteHealth>,
    /// One process at a time has the file, and a lease does not outlive its holder.
    lease: Arc<Mutex<NodeLease>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let named = thread::Builder::new().name(name.to_owned());
    named.spawn(work).map_err(|error| StoreError::Io {
        reason: error.to_string(),
    })
}

impl RedbStore {
    /// Opens the file, or makes it. Reads on the calling thread.
    ///
    /// # Errors
    /// `store.in_use` when another store has the file, `store.newer_schema`, `store.corrupt`,
    /// `store.read_only`, `store.io`.
    pub fn open(file: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let database = Database::create(file).map_err(|error| Fault::from(error).0)?;
        tables::prepare(&database).map_err(|Fault(error)| error)?;
        let database = Arc::new(database);
        let (reads, asked): (_, Receiver<Read>) = sync_channel(READS);
        let store = Self {
            queue: Arc::default(),
            reads: Mutex::new(Some(reads)),
            committed: Arc::new(Event::new()),
            health: Arc::default(),
            lease: Arc::default(),
        };
        let read_from = database.clone();
        let reader = spawn("redb-read", move || {
            for read in asked {
                read(&read_from);
            }
        })?;
        let writer = Writer {
            database,
            clock,
            queue: store.queue.clone(),
            committed: store.committed.clone(),
            health: store.health.clone(),
            reader,
        };
        drop(spawn("redb-write", move || writer.run())?);
        Ok(store)
    }

    /// Asks the reader: redb reads on the thread that asks, and no call here may block.
    fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Snapshot) -> tables::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let read: Read = Box::new(move |database| {
            let seen = Snapshot::new(database).and_then(|mut snapshot| look(&mut snapshot));
            drop(answer.send(seen.map_err(|Fault(error)| error)));
        });
        let sent = match &*lock(&self.reads) {
            None => Err(StoreError::Closed),
            Some(reads) => reads.try_send(read).map_err(|refused| match refused {
                TrySendError::Full(_) => StoreError::Busy { waiting: READS },
                TrySendError::Disconnected(_) => StoreError::Closed,
            }),
        };
        Box::pin(async move {
            sent?;
            answered.await.unwrap_or(Err(StoreError::Closed))
        })
    }

    /// Queues a change **now**, and answers after its flush.
    fn change<T: Send + 'static>(
        &self,
        of_node: bool,
        change: impl FnOnce(&WriteTransaction, i64) -> tables::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (change, answered) = Once::new(change);
        let change: Box<dyn writer::Change> = Box::new(change);
        let queued = self.queue.push(change, |waiting| match of_node {
            true => &mut waiting.node,
            false => &mut waiting.changes,
        });
        Box::pin(async move {
            queued?;
            answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }

    /// A change of the node's, which the ledger cannot keep waiting, and its own refusal.
    fn change_node<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction, i64) -> tables::Result<Result<T, StoreError>>
        + Send
        + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let changed = self.change(true, change);
        Box::pin(async move { changed.await? })
    }

    fn change_lease(
        &self,
        epoch: u64,
        change: impl FnOnce(&mut NodeLease, i64) + Send + 'static,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let lease = self.lease.clone();
        self.change_node(move |to, at_ms| {
            let checked = tables::check_epoch(to, epoch)?;
            if checked.is_ok() {
                change(&mut lock(&lease), at_ms);
            }
            Ok(checked)
        })
    }
}

/// What was taken in is still done, on the writer's thread.
impl Drop for RedbStore {
    fn drop(&mut self) {
        lock(&self.reads).take();
        self.queue.close();
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let (answer, answered) = oneshot::channel();
        let waiting = WaitingBatch { batch, answer };
        self.queue.push(waiting, |waiting| &mut waiting.batches)?;
        let answered = answered.await;
        answered.unwrap_or(Err(StoreError::OutcomeUnknown.into()))
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let scope = scope.to_owned();
        self.read(move |books| books.command(&scope)).await
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        let (collection, id) = (collection.to_owned(), id.to_owned());
        self.read(move |books| books.document(&collection, &id))
            .await
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        self.read(move |books| books.documents(&query)).await
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        let account = *account;
        self.read(move |books| books.balance(&account)).await
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        self.read(move |books| books.balances(after, limit)).await
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        let account = *account;
        self.read(move |books| books.transfers(&account, before, limit))
            .await
    }

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        self.read(move |books| books.transfer(id)).await
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        let account = *account;
        self.read(move |books| books.balance_at(&account, at_ms))
            .await
    }

    async fn due_holds(
        &self,
        account: &Account,
        at_ms: i64,
        limit: usize,
    ) -> Result<Vec<HoldState>, StoreError> {
        let (account, limit) = (*account, limit.clamp(1, MAX_PAGE));
        self.read(move |books| books.due_holds(&account, at_ms, limit))
            .await
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        self.read(move |books| books.commits(after, limit)).await
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        self.read(move |books| books.journal(after, limit)).await
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        self.read(move |books| books.hold_changes(after, limit))
            .await
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        self.read(|books| books.chain_heads()).await
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        let forget = move |to: &_, _| tables::forget_answers(to, before_ms, limit);
        self.change(false, forget).await
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        self.read(move |books| books.hold(id)).await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        let name = name.to_owned();
        self.read(move |books| books.claim(&name)).await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let name = name.to_owned();
        self.read(move |books| books.counter(&name)).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        self.read(move |books| books.events(after, limit)).await
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        loop {
            // Listen first: a commit between the look and the wait must not be missed.
            let committed = self.committed.listen();
            if !self.events(position, 1).await?.is_empty() {
                return Ok(());
            }
            committed.await;
        }
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        let name = name.to_owned();
        self.read(move |books| books.cursor(&name)).await
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let name = name.to_owned();
        let acknowledge = move |to: &_, _| tables::acknowledge(to, &name, position);
        self.change(false, acknowledge).await
    }

    async fn lease_due(
        &self,
        now_ms: i64,
        lease_until_ms: i64,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let except: Vec<_> = except.iter().map(|kind| (*kind).to_owned()).collect();
        let lease =
            move |to: &_, _| tables::lease_due(to, now_ms, lease_until_ms, &except, limit);
        self.change(false, lease).await
    }

    fn trouble(&self) -> Option<StoreTrouble> {
        self.health.trouble()
    }

    async fn close(&self) -> Result<(), StoreError> {
        lock(&self.reads).take();
        self.queue.close();
        self.queue.wait_for_end().await;
        Ok(())
    }
}

impl KeyValue for RedbStore {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        let lease = self.lease.clone();
        self.change_node(move |to, _| {
            *lock(&lease) = NodeLease::default();
            tables::next_epoch(to).map(Ok)
        })
    }

    fn take_lease(
        &self,
        holder: NodeHolder,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<u64, StoreError>> {
        let lease = self.lease.clone();
        self.change_node(move |to, at_ms| {
            let mut lease = lock(&lease);
            if let Err(held) = lease.check(holder, at_ms) {
                return Ok(Err(held));
            }
            *lease = NodeLease::new(holder.0, at_ms, lasts);
            tables::next_epoch(to).map(Ok)
        })
    }

    fn renew_lease(
        &self,
        epoch: u64,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change_lease(epoch, move |lease, at_ms| {
            *lease = NodeLease::new(lease.holder, at_ms, lasts);
        })
    }

    fn release_lease(&self, epoch: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change_lease(epoch, |lease, _| *lease = NodeLease::default())
    }

    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change_node(move |to, _| {
            let checked = tables::check_epoch(to, epoch)?;
            if checked.is_ok() {
                tables::write_node(to, &change)?;
            }
            Ok(checked)
        })
    }

    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> {
        RedbStore::read(self, move |books| books.node_value(&path))
    }

    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        RedbStore::read(self, move |books| books.node_keys(&primary, &secondary))
    }
}
