//! The one thread that writes, and group commit.
//!
//! All that waits when the thread looks is done in one transaction and one flush. Batches are
//! decided in memory before they are written, so that one refused batch does not take the others
//! with it. The thread calls nothing outside the store: it can always finish, whatever waits for
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use event_listener::Event;
use rusqlite::Connection;

use super::cache::Cache;
use super::known::Known;
use super::log::Log;
use super::moving::last_commit_ms;
use super::place::Place;
use super::seat::Seat;
use super::writing::Writing;
use super::{node_state, schema, sql_error};
use crate::ledger::NewDocument;
use crate::store::group_commit::{self, CommitTask, Waiting};
use crate::store::threads::StopsWhenDropped;
use crate::store::{CommitClock, StoreError, WriteHealth};

pub(super) use crate::store::group_commit::{Bounds, Lane};

/// What waits for the writer.
pub(super) type Queue = group_commit::Queue<Box<dyn Task>>;
type Group = group_commit::Group<Box<dyn Task>>;

/// Work for the writer.
pub(super) trait Task: Send {
    /// Runs within the transaction. An error undoes the whole group.
    fn run(&mut self, writing: &mut Writing<'_>) -> Result<(), rusqlite::Error>;
    /// Called once, after the flush or with what prevented it.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

impl Waiting for Box<dyn Task> {
    fn finish(self, outcome: Result<(), StoreError>) {
        Task::finish(self, outcome);
    }
}

impl Task for CommitTask {
    fn run(&mut self, writing: &mut Writing<'_>) -> Result<(), rusqlite::Error> {
        writing.batch(self)
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        Waiting::finish(*self, outcome);
    }
}

/// What a transaction had in it.
struct Written {
    documents: Vec<(i64, NewDocument)>,
    /// Whether there was a batch among it.
    any_batch: bool,
    /// How often the node has written by now, where it did.
    node_writes: Option<i64>,
}

/// Why a transaction was not made, or not known to be.
struct Failure {
    /// What whoever asked for it is told.
    answer: StoreError,
    cause: StoreError,
}

impl Failure {
    fn unknown(cause: StoreError) -> Self {
        let answer = StoreError::OutcomeUnknown;
        Self { answer, cause }
    }

    /// Nothing was changed, and the reason may lie in what one task has read.
    fn is_of_a_row(&self) -> bool {
        matches!(self.answer, StoreError::Corrupt { .. })
    }
}

impl From<StoreError> for Failure {
    fn from(cause: StoreError) -> Self {
        let answer = cause.clone();
        Self { answer, cause }
    }
}

/// The writer's own things; they live on its thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) place: Arc<Place>,
    pub(super) health: Arc<WriteHealth>,
    /// It is not known whether the last write was made.
    pub(super) is_unsettled: Arc<AtomicBool>,
    pub(super) queue: Arc<Queue>,
    pub(super) cache: Cache,
    pub(super) known: Known,
    pub(super) log: Log,
    pub(super) times: Arc<CommitClock>,
    pub(super) committed: Arc<Event>,
    /// How often the node has written, as far as it was seen here.
    pub(super) node_writes: i64,
    /// Held until the last write is done: only then may another engine open the file.
    pub(super) seat: Seat,
    /// Their connections end before the writer's does, so that the writer's is the last one:
    /// whoever closed the store finds everything in the one file.
    pub(super) readers: Vec<JoinHandle<()>>,
    pub(super) stopped: StopsWhenDropped<Box<dyn Task>>,
}

impl Writer {
    pub(super) fn run(mut self) {
        while let Some(group) = self.queue.take() {
            let begun_ms = self.times.steady_ms();
            self.write(group);
            let ended_ms = self.times.steady_ms();
            self.queue.took(ended_ms.saturating_sub(begun_ms));
        }
        let Self {
            connection,
            seat,
            readers,
            stopped,
            committed,
            log,
            ..
        } = self;
        for reader in readers {
            drop(reader.join());
        }
        drop(log);
        // A failed close leaves the write-ahead log, which the next open reads.
        drop(connection.close());
        drop(seat);
        committed.notify(usize::MAX);
        drop(stopped);
    }

    fn write(&mut self, mut group: Group) {
        let begun = self.begin();
        // Not before it is known what others have written.
        let at_ms = self.times.next_ms();
        let has_flushed = matches!(begun, Ok(true));
        let outcome = match begun {
            Ok(_) => self.commit(&mut group, at_ms),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &outcome
            && failure.is_of_a_row()
            && group.tasks.len() > 1
        {
            // One that meets a damaged row does not take the others with it.
            drop(self.connection.execute_batch("ROLLBACK"));
            return group.one_by_one().for_each(|alone| self.write(alone));
        }
        match &outcome {
            Ok(written) => {
                let has_settled = self.is_unsettled.swap(false, Ordering::SeqCst);
                self.times.written(at_ms, written.any_batch);
                self.cache.written(&written.documents);
                let before = self.node_writes;
                if let Some(node_writes) = written.node_writes {
                    self.seat.note(node_writes);
                    self.node_writes = node_writes;
                }
                // A transaction with nothing in it writes nothing, on a full disk as well: that a
                // lease was renewed says nothing of the disk.
                let has_settled = has_settled || has_flushed;
                if written.any_batch || self.node_writes != before || has_settled {
                    self.health.wrote();
                }
            }
            // A failed statement may have ended the transaction already; then this fails too.
            Err(failure) => {
                self.cache.clear();
                if failure.answer == StoreError::OutcomeUnknown {
                    self.is_unsettled.store(true, Ordering::SeqCst);
                }
                self.times.failed(at_ms, &failure.answer);
                drop(self.connection.execute_batch("ROLLBACK"));
                let now_ms = self.times.wall_ms();
                self.health.failed(failure.cause.clone(), now_ms);
            }
        }
        let has_written = outcome.is_ok();
        group.finish(&outcome.map(drop).map_err(|failure| failure.answer));
        self.committed.notify(usize::MAX);
        if has_written {
            self.log.write_back(&self.connection);
        }
    }

    /// From here on nobody else writes; what others have written since the last group is not known,
    /// but for when: books may have been moved in, by somebody who did not wait for it.
    /// Answers whether something of before was flushed.
    fn begin(&mut self) -> Result<bool, Failure> {
        self.place.check()?;
        // What is asked for may stand in the log, and be lost yet.
        let flushed = self.log.begin(&self.connection);
        let has_flushed = flushed.map_err(Failure::unknown)?;
        let data_version = begin(&self.connection).map_err(sql_error)?;
        if self.known.data_version != Some(data_version) {
            self.known = Known::default();
            self.cache.clear();
            let last_ms = last_commit_ms(&self.connection).map_err(sql_error)?;
            self.times.seen(last_ms);
        }
        self.known.data_version = Some(data_version);
        Ok(has_flushed)
    }

    fn commit(&mut self, group: &mut Group, at_ms: i64) -> Result<Written, Failure> {
        let connection = &self.connection;
        // A failure leaves nothing known.
        let known = std::mem::take(&mut self.known);
        let mut writing = Writing::new(connection, &self.cache, known, at_ms);
        let counted = self.log.count(connection).map_err(sql_error)?;
        run_all(&mut writing, &mut group.tasks).map_err(sql_error)?;
        let is_unsettled = self.is_unsettled.load(Ordering::SeqCst);
        let numbered = self.log.before_commit(connection, counted, is_unsettled);
        let numbered = numbered.map_err(sql_error)?;
        if is_unsettled {
            // The frames of a flush that failed lie behind the log's end, where the next start would
            // find them; this is written over them, whatever else there is to be written. Only
            // when it was flushed anybody is told that something was refused.
            schema::write_again(connection).map_err(sql_error)?;
        }
        let node_writes = group
            .has_node_writes
            .then(|| node_state::writes(connection))
            .transpose()
            .map_err(sql_error)?;
        let committed = connection
            .prepare_cached("COMMIT")
            .and_then(|mut commit| commit.execute([]));
        if committed.is_ok() {
            self.log.committed(numbered);
        }
        match committed {
            // It was written, and it may be into a file that nobody can open any more.
            Ok(_) => match self.place.check() {
                Ok(()) => {
                    self.known = writing.take_known();
                    Ok(Written {
                        documents: writing.take_documents(),
                        any_batch: writing.any_batch(),
                        node_writes,
                    })
                }
                Err(cause) => Err(Failure::unknown(cause)),
            },
            Err(error) => match sql_error(error) {
                // The flush failed half-way: the frames may be in the log and come back at the
                // next open.
                cause @ StoreError::Io { .. } => Err(Failure::unknown(cause)),
                other => Err(other.into()),
            },
        }
    }
}

/// Answers what changes when somebody else has written.
fn begin(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut version = connection.prepare_cached("PRAGMA data_version")?;
    version.query_row([], |row| row.get(0))
}

fn run_all(writing: &mut Writing<'_>, group: &mut [Box<dyn Task>]) -> rusqlite::Result<()> {
    for task in group.iter_mut() {
        task.run(writing)?;
    }
    writing.tables().map(drop)
}
