//! The store built in: one SQLite file in write-ahead-log mode.
//!
//! Every commit is flushed before it is answered (`synchronous=FULL`, `fullfsync` where the
//! system has it). One thread writes and groups what waits into one flush; two threads read.

mod answers;
mod backup;
mod cache;
mod errors;
mod identity;
mod key;
mod known;
mod log;
mod moving;
mod node_state;
mod place;
mod reading;
mod schema;
mod seat;
mod state;
mod tasks;
mod trees;
mod write;
mod writer;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use rusqlite::{Connection, MAIN_DB, OpenFlags, params};

use self::cache::Cache;
use self::errors::{io_error, sql_error};
use self::known::Known;
use self::log::Log;
use self::place::Place;
use self::seat::{Seat, real_path};
use self::tasks::run_task;
use self::writer::{Bounds, Lane, Queue, Writer};
use super::group_commit::CommitTask;
use super::key_value::NodeLease;
use super::threads::{Readers, Stopped, StopsWhenDropped, spawn};
use super::{
    CommitClock, CommitError, DocumentPosition, DocumentQuery, MAX_PAGE, Store, StoreError,
    StoreTrouble, WriteHealth,
};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, Standing, TransferRow, UsageWindow,
};
use crate::ports::Clock;

/// How long somebody else's lock is waited for.
const BUSY: Duration = Duration::from_secs(5);
const READER_THREADS: usize = 2;
const STATEMENT_CACHE: usize = 96;

/// A store in one SQLite file. Clones share it; it closes when the last one is dropped or
/// [`close`](Store::close) is called.
///
/// Beside it lie `<file>.lock` and `<file>.node-<number>`: they belong to it. A file that was put
/// back is noticed, with or without those, and the node does not start on it. **A snapshot of the
/// whole volume that was put back is not**: then recover the node before it starts.
///
/// While it is open, and after a crash, `<file>-wal` and `<file>-shm` lie there too. What was
/// committed last is in `<file>-wal`: a copy of the file without it is no copy, unless the store was
/// closed. **Whoever puts a copy back removes the `-wal` and the `-shm` of what was there before**; a
/// log beside a file that it does not belong to is refused. Never remove any of these while the
/// engine runs. To copy a store that is open there is [`backup`](Self::backup).
///
/// Once the node was [handed over](super::NodeState::HandOver) nothing is committed here any more:
/// `store.handed_over`.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<Queue>,
    readers: Arc<Readers<Connection>>,
    cache: Cache,
    committed: Arc<Event>,
    stopped: Arc<Stopped>,
    location: PathBuf,
    place: Arc<Place>,
    health: Arc<WriteHealth>,
    /// It is not known whether the last write was made: what nobody reads now may come back.
    is_unsettled: Arc<AtomicBool>,
    /// What was found in the log may be lost yet.
    is_unflushed: Arc<AtomicBool>,
    times: Arc<CommitClock>,
    /// Why the node must not run on its state here, by what lies beside the file.
    stale: Mutex<Option<StoreError>>,
    /// Not in the file: nobody else has that open, and a holder of before is dead.
    lease: Arc<Mutex<NodeLease>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The threads finish what waits and end by themselves; nobody waits for them here.
        self.queue.close();
        self.readers.close();
    }
}

impl Shared {
    /// The books live elsewhere, for ever.
    fn note_handed_over(&self) {
        let now_ms = self.times.wall_ms();
        self.health.failed(StoreError::HandedOver, now_ms);
    }
}

impl SqliteStore {
    /// Opens the store in `file`, or makes a new one there. Commit times come from `clock`.
    ///
    /// This reads and checks the file on the calling thread; in async code call it from a thread
    /// that may block.
    ///
    /// # Errors
    /// `store.in_use` when another engine has the file and keeps it for a second,
    /// `store.newer_schema`, `store.corrupt`, `store.read_only`, `store.locked`, `store.io`. The file
    /// is not changed by a refusal.
    pub fn open(file: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let file = real_path(file.as_ref())?;
        let file = file.as_path();
        let mut seat = Seat::take(file)?;
        let mut connection = connect(file, OpenFlags::SQLITE_OPEN_CREATE)?;
        let unflushed = schema::prepare(&mut connection, file, seat.was_used)?;
        harden(&connection)?;
        if seat.was_used && unflushed.is_none() {
            log::begin_numbers(&connection);
        }
        let node_writes = node_state::writes(&connection).map_err(sql_error)?;
        let stale = why_stale(&connection, &mut seat, node_writes)?;
        let is_handed_over = moving::handed_over(&connection).map_err(sql_error)?;
        let last_commit_ms = moving::last_commit_ms(&connection).map_err(sql_error)?;

        let shared = Arc::new(Shared {
            queue: Arc::new(Queue::new(Bounds::default())),
            readers: Arc::default(),
            cache: Cache::default(),
            committed: Arc::new(Event::new()),
            stopped: Arc::default(),
            location: file.to_owned(),
            place: Arc::new(Place::of(file)?),
            health: Arc::default(),
            is_unsettled: Arc::default(),
            is_unflushed: Arc::new(AtomicBool::new(unflushed.is_some())),
            times: Arc::new(CommitClock::new(clock, last_commit_ms)),
            stale: Mutex::new(stale),
            lease: Arc::default(),
        });
        if is_handed_over {
            shared.note_handed_over();
        } else if let Some(cause) = unflushed {
            shared.health.failed(cause, shared.times.wall_ms());
        }
        let log = Log::new(&connection, file, shared.is_unflushed.clone())?;
        let mut threads = Vec::new();
        for _ in 0..READER_THREADS {
            let (readers, reader) = (shared.readers.clone(), connect(file, OpenFlags::empty())?);
            threads.push(spawn("flashkit-read", move || readers.run(&reader))?);
        }
        let writer = Writer {
            connection,
            place: shared.place.clone(),
            health: shared.health.clone(),
            is_unsettled: shared.is_unsettled.clone(),
            queue: shared.queue.clone(),
            cache: shared.cache.clone(),
            known: Known::default(),
            log,
            times: shared.times.clone(),
            committed: shared.committed.clone(),
            node_writes,
            seat,
            readers: threads,
            stopped: StopsWhenDropped {
                stopped: shared.stopped.clone(),
                queue: shared.queue.clone(),
            },
        };
        drop(spawn("flashkit-write", move || writer.run())?);
        Ok(Self { shared })
    }

    /// The file.
    pub fn location(&self) -> &Path {
        &self.shared.location
    }

    /// Lets the node run on its state here although it seems not to be the newest there was.
    ///
    /// **Only for a file that was moved as it was, with its engine stopped**, and is not used
    /// anywhere else any more. On an older copy the node would publish states of its channels
    /// that were revoked, and its peers may then take all that is in them. The books are not
    /// affected by this.
    pub fn trust_node_state(&self) {
        *lock(&self.shared.stale) = None;
    }

    /// Whether nothing that can be read, or found by the next start, may be lost, or come back.
    fn is_known(&self) -> bool {
        !self.shared.is_unsettled.load(Ordering::SeqCst)
            && !self.shared.is_unflushed.load(Ordering::SeqCst)
    }

    async fn read_command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let scope = scope.to_owned();
        let found = self
            .read(move |connection| state::command(connection, &scope))
            .await?;
        // Whoever asks takes what is found for done for ever. After the end it is not asked.
        self.shared.place.check()?;
        Ok(found)
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let query = move |connection: &Connection| query(connection).map_err(sql_error);
        self.shared.readers.read(query).await
    }

    /// Waits for all that was queued before.
    async fn pass(&self) -> Result<(), StoreError> {
        tasks::pass(&self.shared.queue).await
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnMut(&Connection, i64) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        run_task(&self.shared.queue, Lane::Batches, change).await
    }
}

/// Why the node must not run on its state in this file, by what lies beside it.
fn why_stale(
    connection: &Connection,
    seat: &mut Seat,
    node_writes: i64,
) -> Result<Option<StoreError>, StoreError> {
    let has_commits = moving::has_commits(connection).map_err(sql_error)?;
    let is_stale = seat.meet(node_writes, has_commits)?;
    Ok(is_stale.then_some(StoreError::StaleNodeState {
        found: node_writes,
        expected: seat.found,
    }))
}

fn connect(file: &Path, more: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(file, flags).map_err(sql_error)?;
    // SQLite opens a file all the same that it may only read, and never tries again to write.
    if connection.is_readonly(MAIN_DB).map_err(sql_error)? {
        let reason = format!("{} may not be written", file.display());
        return Err(StoreError::ReadOnly { reason });
    }
    connection.busy_timeout(BUSY).map_err(sql_error)?;
    // The writer writes the log back, and nobody else: it has to know of it.
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .map_err(sql_error)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(connection)
}

/// Only after the file is known to be ours: these settings write to it.
fn harden(connection: &Connection) -> Result<(), StoreError> {
    for (name, value) in [("journal_mode", "WAL"), ("foreign_keys", "ON")] {
        connection
            .pragma_update(None, name, value)
            .map_err(sql_error)?;
    }
    log::flush_fully(connection)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1)
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let (task, answered) = CommitTask::new(batch);
        self.shared.queue.push(Lane::Batches, Box::new(task));
        let answer = answered.await;
        if answer == Err(CommitError::Store(StoreError::HandedOver)) {
            self.shared.note_handed_over();
        }
        answer
    }

    fn commit_time_ms(&self) -> i64 {
        self.shared.times.now_ms()
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        // What the log had in it when it was opened may not have been flushed: it is not taken for
        // done either, before it was.
        if !self.shared.is_unflushed.load(Ordering::SeqCst) {
            let found = self.read_command(scope).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        // Nor may anybody take it for undone while it is on its way to the disk, or while the next
        // start could find it in the log. What comes after it in the line settles both; alone it
        // writes nothing, and so costs no flush.
        match self.pass().await {
            Err(error @ (StoreError::Busy { .. } | StoreError::Closed)) => return Err(error),
            // The writer is gone, whatever it was at.
            Err(StoreError::OutcomeUnknown) => return Err(StoreError::OutcomeUnknown),
            Err(_) if !self.is_known() => return Err(StoreError::OutcomeUnknown),
            // Its turn came, so that nothing of ours is on its way.
            Err(_) | Ok(()) => {}
        }
        self.read_command(scope).await
    }

    async fn known_command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        match self.is_known() {
            true => self.read_command(scope).await,
            false => self.command(scope).await,
        }
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        let cache = &self.shared.cache;
        let read_at = match cache.document(collection, id) {
            Ok(known) => return Ok(known),
            Err(read_at) => read_at,
        };
        let (asked, named) = (collection.to_owned(), id.to_owned());
        let found = self
            .read(move |connection| reading::document(connection, &asked, named))
            .await?;
        cache.keep((collection, id), found.as_ref(), read_at);
        Ok(found)
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        let cache = &self.shared.cache;
        let read_at = match cache.first(&query) {
            Ok(found) => return Ok(vec![found]),
            Err(read_at) => read_at,
        };
        let asked = query.clone();
        let found = self
            .read(move |connection| reading::documents(connection, &asked))
            .await?;
        if let Some((_, document)) = found.first() {
            cache.keep_first(&query, document, read_at);
        }
        Ok(found)
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        let account = *account;
        self.read(move |connection| state::balance(connection, &account))
            .await
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        self.read(move |connection| reading::balances(connection, after, limit))
            .await
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        let account = *account;
        self.read(move |connection| reading::transfers(connection, &account, before, limit))
            .await
    }

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        self.read(move |connection| reading::transfer_by_id(connection, id))
            .await
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        let account = *account;
        self.read(move |connection| reading::balance_at(connection, &account, at_ms))
            .await
    }

    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError> {
        let (account, windows) = (*account, windows.to_vec());
        self.read(move |connection| reading::standing(connection, &account, at_ms, &windows))
            .await
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        self.read(move |connection| reading::commits(connection, after, limit))
            .await
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        self.read(move |connection| reading::journal(connection, after, limit))
            .await
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        self.read(move |connection| reading::hold_changes(connection, after, limit))
            .await
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        self.read(reading::chain_heads).await
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        self.write(move |connection, _| answers::forget(connection, before_ms, limit))
            .await
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        self.read(move |connection| state::hold(connection, id))
            .await
    }

    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError> {
        self.read(move |connection| reading::reversed(connection, id))
            .await
    }

    async fn holds_left(&self, ids: &[TransferId]) -> Result<Vec<Option<i64>>, StoreError> {
        let ids = ids.to_vec();
        let left = move |connection: &Connection, id| {
            let hold = state::hold(connection, id)?;
            Ok(hold.map(|hold| hold.remaining))
        };
        self.read(move |connection| ids.into_iter().map(|id| left(connection, id)).collect())
            .await
    }

    async fn all_reversed(&self, ids: &[TransferId]) -> Result<Vec<i64>, StoreError> {
        let ids = ids.to_vec();
        self.read(move |connection| {
            let reversed = |id| reading::reversed(connection, id);
            ids.into_iter().map(reversed).collect()
        })
        .await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        let name = name.to_owned();
        self.read(move |connection| state::claim(connection, &name))
            .await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let name = name.to_owned();
        self.read(move |connection| state::counter(connection, &name))
            .await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError> {
        let window = window.clone();
        self.read(move |connection| state::usage(connection, &window))
            .await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        self.read(move |connection| reading::events(connection, after, limit))
            .await
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        loop {
            // Listen first: a commit between the look and the wait must not be missed.
            let committed = self.shared.committed.listen();
            if !self.events(position, 1).await?.is_empty() {
                return Ok(());
            }
            committed.await;
        }
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        let name = name.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT coalesce((SELECT position FROM cursors WHERE name = ?1), 0)",
                )?
                .query_row([name], |row| row.get(0))
        })
        .await
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.write(move |connection, _| {
            connection
                .prepare_cached(
                    "INSERT INTO cursors (name, position) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET position = max(position, ?2)",
                )?
                .execute(params![name, position])
                .map(drop)
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
        let except = serde_json::Value::from(except).to_string();
        let times = self.shared.times.clone();
        let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
        self.write(move |connection, _| {
            if moving::handed_over(connection)? {
                return Ok(Vec::new());
            }
            let now_ms = times.wall_ms();
            let until_ms = now_ms.saturating_add(lasts_ms);
            let mut jobs: Vec<DueJob> = connection
                .prepare_cached(LEASE_DUE)?
                .query_map(
                    params![now_ms, until_ms, sql_limit(limit), except, due_by_ms],
                    |row| {
                        Ok(DueJob {
                            kind: row.get(0)?,
                            object: row.get(1)?,
                            due_at_ms: row.get(2)?,
                        })
                    },
                )?
                .collect::<Result<_, _>>()?;
            // The rows of RETURNING come in no particular order.
            jobs.sort_by(|left, right| {
                (left.due_at_ms, &left.kind, &left.object).cmp(&(
                    right.due_at_ms,
                    &right.kind,
                    &right.object,
                ))
            });
            Ok(jobs)
        })
        .await
    }

    fn trouble(&self) -> Option<StoreTrouble> {
        self.shared.health.trouble()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.readers.close();
        self.shared.queue.close();
        self.shared.stopped.wait().await;
        Ok(())
    }
}

const LEASE_DUE: &str = "
UPDATE due SET leased_until_ms = ?2
WHERE (kind, object) IN (
    SELECT kind, object FROM due
    WHERE due_at_ms <= ?5 AND (leased_until_ms <= ?1 OR leased_until_ms > ?2)
          AND kind NOT IN (SELECT value FROM json_each(?4))
    ORDER BY due_at_ms, kind, object LIMIT ?3)
RETURNING kind, object, due_at_ms";
