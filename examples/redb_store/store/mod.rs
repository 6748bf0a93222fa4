//! A store on redb: a tree of key and value in one file, with one writer and any number of
//! readers that never wait for it.
//!
//! It was written from the documentation of `flashkit::store` and `flashkit::ledger` alone, and
//! keeps `flashkit::store::contract`. What it has not: `StoreAdmin`, and a lock of the node on a
//! file that was copied. **A Lightning node must not run on a copy of the file.**

mod fault;
mod snapshot;
mod tables;
mod writer;
mod writing;

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
    HoldChangeRow, HoldState, MOST_DUE_RELEASES, Rows, Standing, TransferRow, UsageWindow,
};
use flashkit::ports::{BoxFuture, Clock};
use flashkit::store::group_commit::{Bounds, CommitTask, Lane};
use flashkit::store::{
    CommitClock, CommitError, DocumentPosition, DocumentQuery, KeyPath, KeyValue, KeyValueWrite,
    MAX_PAGE, NodeHolder, NodeLease, Store, StoreError, StoreTrouble, WriteHealth,
};
use futures_channel::oneshot;
use redb::Database;

use self::fault::Fault;
use self::snapshot::Snapshot;
use self::writer::{Ended, Once, Open, Queue, Task, Writer};

type Read = Box<dyn FnOnce(&Database) + Send>;
type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// The most questions that may wait for the reader.
const READS: usize = 4_096;

/// The books in one redb file.
pub struct RedbStore {
    queue: Arc<Queue>,
    /// `None` once it was closed.
    reads: Mutex<Option<SyncSender<Read>>>,
    ended: Arc<Ended>,
    committed: Arc<Event>,
    health: Arc<WriteHealth>,
    times: Arc<CommitClock>,
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

fn page_of(limit: usize) -> usize {
    limit.clamp(1, MAX_PAGE)
}

impl RedbStore {
    /// Opens the file, or makes it. Reads on the calling thread.
    ///
    /// # Errors
    /// `store.in_use` when another store has the file, `store.newer_schema`, `store.corrupt`,
    /// `store.read_only`, `store.io`.
    pub fn open(file: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let file = file.as_ref();
        let database = Database::create(file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
                location: file.display().to_string(),
            },
            other => Fault::from(other).0,
        })?;
        tables::prepare(&database).map_err(|Fault(error)| error)?;
        let last = Snapshot::new(&database).and_then(|books| books.last(tables::COMMITS));
        let last: Option<CommitRow> = last.map_err(|Fault(error)| error)?;
        let times = Arc::new(CommitClock::new(clock, last.map_or(0, |row| row.at_ms)));
        let database = Arc::new(database);
        let (reads, asked): (_, Receiver<Read>) = sync_channel(READS);
        let store = Self {
            queue: Arc::new(Queue::new(Bounds::default())),
            reads: Mutex::new(Some(reads)),
            ended: Arc::default(),
            committed: Arc::default(),
            health: Arc::default(),
            times: times.clone(),
        };
        let read_from = database.clone();
        let reader = spawn("redb-read", move || {
            asked.into_iter().for_each(|read| read(&read_from));
        })?;
        let writer = Writer {
            database,
            times,
            queue: store.queue.clone(),
            ended: store.ended.clone(),
            committed: store.committed.clone(),
            health: store.health.clone(),
            lease: NodeLease::default(),
            reader,
        };
        drop(spawn("redb-write", move || writer.run())?);
        Ok(store)
    }

    fn reads(&self) -> MutexGuard<'_, Option<SyncSender<Read>>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the reader: redb reads on the thread that asks, and no call here may block.
    fn ask<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Snapshot) -> fault::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        let read: Read = Box::new(move |database| {
            let seen = Snapshot::new(database).and_then(|mut books| look(&mut books));
            drop(answer.send(seen.map_err(|Fault(error)| error)));
        });
        let sent = match &*self.reads() {
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

    /// Queues a change **now**; it is answered after its flush.
    fn change<T: Send + 'static>(
        &self,
        lane: Lane,
        change: impl FnOnce(&mut Open<'_>) -> fault::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (change, answered) = Once::new(change);
        self.queue.push(lane, Task::Other(Box::new(change)));
        Box::pin(async move { answered.await.unwrap_or(Err(StoreError::OutcomeUnknown)) })
    }
}

/// What was taken in is still done, on the writer's thread.
impl Drop for RedbStore {
    fn drop(&mut self) {
        self.reads().take();
        self.queue.close();
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let (task, answered) = CommitTask::new(batch);
        self.queue.push(Lane::Batches, Task::Batch(task));
        answered.await
    }

    fn commit_time_ms(&self) -> i64 {
        self.times.now_ms()
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let scope = scope.to_owned();
        self.ask(move |books| books.command(&scope)).await
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        let (collection, id) = (collection.to_owned(), id.to_owned());
        self.ask(move |books| books.document(&collection, &id))
            .await
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        self.ask(move |books| books.documents(&query)).await
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        let account = *account;
        self.ask(move |books| books.balance(&account)).await
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        self.ask(move |books| books.balances(after, limit.max(1)))
            .await
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        let account = *account;
        self.ask(move |books| books.transfers(&account, before, page_of(limit)))
            .await
    }

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        self.ask(move |books| books.transfer(id)).await
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        let account = *account;
        self.ask(move |books| books.balance_at(&account, at_ms))
            .await
    }

    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError> {
        let (account, windows) = (*account, windows.to_vec());
        self.ask(move |books| {
            Ok(Standing {
                balance: books.balance(&account)?,
                ended: books.due_holds(&account, at_ms, MOST_DUE_RELEASES)?,
                used: windows
                    .iter()
                    .map(|window| books.usage(window))
                    .collect::<fault::Result<_>>()?,
            })
        })
        .await
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        self.ask(move |books| books.page(tables::COMMITS, after, page_of(limit)))
            .await
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        self.ask(move |books| books.page(tables::TRANSFERS, after, page_of(limit)))
            .await
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        self.ask(move |books| books.page(tables::HOLD_CHANGES, after, page_of(limit)))
            .await
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        self.ask(|books| books.chain_heads()).await
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        self.change(Lane::Batches, move |open| {
            writing::forget_answers(open.to, before_ms, limit)
        })
        .await
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        self.ask(move |books| books.hold(id)).await
    }

    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError> {
        self.ask(move |books| books.reversed(id)).await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        let name = name.to_owned();
        self.ask(move |books| books.claim(&name)).await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let name = name.to_owned();
        self.ask(move |books| books.counter(&name)).await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError> {
        let window = window.clone();
        self.ask(move |books| books.usage(&window)).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        self.ask(move |books| books.page(tables::EVENTS, after, page_of(limit)))
            .await
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
        let cursor = self.ask(move |books| books.get(tables::CURSORS, name));
        Ok(cursor.await?.unwrap_or(0))
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.change(Lane::Batches, move |open| {
            writing::acknowledge(open.to, name, position)
        })
        .await
    }

    async fn lease_due(
        &self,
        due_by_ms: i64,
        lasts: Duration,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let except: Vec<_> = except.iter().map(|kind| (*kind).to_owned()).collect();
        let times = self.times.clone();
        self.change(Lane::Batches, move |open| {
            let now_ms = times.wall_ms();
            writing::lease_due(open.to, now_ms, (due_by_ms, lasts), &except, page_of(limit))
        })
        .await
    }

    fn trouble(&self) -> Option<StoreTrouble> {
        self.health.trouble()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.reads().take();
        self.queue.close();
        self.ended.wait().await;
        Ok(())
    }
}

impl KeyValue for RedbStore {
    fn begin_epoch(&self) -> Answer<u64> {
        self.change(Lane::Node, |open| {
            *open.lease = NodeLease::default();
            writing::next_epoch(open.to)
        })
    }

    fn take_lease(&self, holder: NodeHolder, lasts: Duration) -> Answer<u64> {
        self.change(Lane::Node, move |open| {
            open.lease.check(holder, open.at_ms).map_err(Fault)?;
            *open.lease = NodeLease::new(holder.0, open.at_ms, lasts);
            writing::next_epoch(open.to)
        })
    }

    fn renew_lease(&self, epoch: u64, lasts: Duration) -> Answer<()> {
        self.change(Lane::Node, move |open| {
            writing::check_epoch(open.to, epoch)?;
            *open.lease = NodeLease::new(open.lease.holder, open.at_ms, lasts);
            Ok(())
        })
    }

    fn release_lease(&self, epoch: u64) -> Answer<()> {
        self.change(Lane::Node, move |open| {
            writing::check_epoch(open.to, epoch)?;
            *open.lease = NodeLease::default();
            Ok(())
        })
    }

    fn write(&self, epoch: u64, change: KeyValueWrite) -> Answer<()> {
        self.change(Lane::Node, move |open| {
            writing::check_epoch(open.to, epoch)?;
            writing::write_node(open.to, &change)
        })
    }

    fn read(&self, path: KeyPath) -> Answer<Option<Vec<u8>>> {
        self.ask(move |books| books.node_value(&path))
    }

    fn list(&self, primary: String, secondary: String) -> Answer<Vec<String>> {
        self.ask(move |books| books.node_keys(&primary, &secondary))
    }
}
