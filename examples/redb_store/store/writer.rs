//! The one thread that writes: what waits when it looks is one transaction and one flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use event_listener::Event;
use flashkit::ledger::Group;
use flashkit::store::group_commit::{self, CommitTask, Waiting};
use flashkit::store::{CommitClock, NodeLease, StoreError, WriteHealth};
use futures_channel::oneshot;
use redb::{Database, WriteTransaction};

use super::fault::{Fault, Result};
use super::snapshot::Snapshot;
use super::{tables, writing};

pub type Queue = group_commit::Queue<Task>;

pub enum Task {
    Batch(CommitTask),
    Other(Box<dyn Change>),
}

impl Waiting for Task {
    fn finish(self, outcome: std::result::Result<(), StoreError>) {
        match self {
            Self::Batch(batch) => batch.finish(outcome),
            Self::Other(change) => change.finish(outcome),
        }
    }
}

/// Anything but a batch.
pub trait Change: Send {
    /// Within the transaction. An error undoes the whole group.
    fn make(&mut self, open: &mut Open<'_>) -> Result<()>;
    /// After the flush, or with what prevented it.
    fn finish(self: Box<Self>, outcome: std::result::Result<(), StoreError>);
}

/// A transaction in the making.
pub struct Open<'a> {
    pub to: &'a WriteTransaction,
    pub at_ms: i64,
    /// One process at a time has the file, and a lease does not outlive its holder.
    pub lease: &'a mut NodeLease,
}

type Answer<T> = std::result::Result<T, StoreError>;

/// A change that is a function. What it refuses by itself takes nobody else's change with it.
pub struct Once<T, F> {
    change: Option<F>,
    made: Option<Answer<T>>,
    answer: oneshot::Sender<Answer<T>>,
}

impl<T, F> Once<T, F> {
    pub fn new(change: F) -> (Self, oneshot::Receiver<Answer<T>>) {
        let (answer, answered) = oneshot::channel();
        let once = Self {
            change: Some(change),
            made: None,
            answer,
        };
        (once, answered)
    }
}

impl<T: Send, F: FnOnce(&mut Open<'_>) -> Result<T> + Send> Change for Once<T, F> {
    fn make(&mut self, open: &mut Open<'_>) -> Result<()> {
        self.made = match self.change.take().map(|change| change(open)) {
            Some(Err(Fault(
                refused @ (StoreError::Fenced { .. } | StoreError::LeaseHeld { .. }),
            ))) => Some(Err(refused)),
            made => made.transpose()?.map(Ok),
        };
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: std::result::Result<(), StoreError>) {
        let made = self.made.unwrap_or(Err(StoreError::OutcomeUnknown));
        // Whoever asked may have gone away.
        drop(self.answer.send(outcome.and(made)));
    }
}

/// Whether the writer has ended; any number may wait for it.
#[derive(Default)]
pub struct Ended(AtomicBool, Event);

impl Ended {
    pub async fn wait(&self) {
        loop {
            let ended = self.1.listen();
            if self.0.load(Ordering::SeqCst) {
                return;
            }
            ended.await;
        }
    }
}

/// Says that nobody writes any more, however that came.
struct Ending(Arc<Queue>, Arc<Ended>, Arc<Event>);

impl Drop for Ending {
    fn drop(&mut self) {
        let Self(queue, ended, committed) = self;
        queue.abandon();
        ended.0.store(true, Ordering::SeqCst);
        ended.1.notify(usize::MAX);
        committed.notify(usize::MAX);
    }
}

/// Why a group was not written, or not known to be.
struct Failure {
    /// What whoever asked for it is told.
    answer: StoreError,
    cause: StoreError,
}

impl From<Fault> for Failure {
    fn from(Fault(cause): Fault) -> Self {
        let answer = cause.clone();
        Self { answer, cause }
    }
}

pub struct Writer {
    pub database: Arc<Database>,
    pub times: Arc<CommitClock>,
    pub queue: Arc<Queue>,
    pub ended: Arc<Ended>,
    pub committed: Arc<Event>,
    pub health: Arc<WriteHealth>,
    pub lease: NodeLease,
    /// Ends before the file is closed.
    pub reader: JoinHandle<()>,
}

impl Writer {
    pub fn run(mut self) {
        let (queue, ended) = (self.queue.clone(), self.ended.clone());
        let ending = Ending(queue, ended, self.committed.clone());
        while let Some(mut group) = self.queue.take() {
            let at_ms = self.times.next_ms();
            let outcome = self.write(&mut group.tasks, at_ms);
            match &outcome {
                Ok(any_batch) => self.times.written(at_ms, *any_batch),
                Err(failure) => {
                    self.times.failed(at_ms, &failure.answer);
                    self.health.failed(failure.cause.clone(), at_ms);
                }
            }
            group.finish(&outcome.map(drop).map_err(|failure| failure.answer));
            self.committed.notify(usize::MAX);
        }
        drop(self.reader.join());
        // Closes the file: whoever waits for the end may open it again.
        drop(self.database);
        drop(ending);
    }

    /// Answers whether any batch was written.
    fn write(&mut self, tasks: &mut [Task], at_ms: i64) -> std::result::Result<bool, Failure> {
        // Nobody else writes, so what is read here is what the transaction begins upon.
        let snapshot = Snapshot::new(&self.database)?;
        let last = snapshot.last_positions()?;
        let mut books = Group::new(snapshot, last);
        for task in tasks.iter_mut() {
            if let Task::Batch(batch) = task {
                batch.decide(&mut books, at_ms)?;
            }
        }
        let (changes, _) = books.finish();
        let has_others = tasks.iter().any(|task| matches!(task, Task::Other(_)));
        if changes.is_empty() && !has_others {
            return Ok(false);
        }
        let to = tables::begin(&self.database)?;
        writing::write(&to, &changes)?;
        let mut open = Open {
            to: &to,
            at_ms,
            lease: &mut self.lease,
        };
        for task in tasks {
            if let Task::Other(change) = task {
                change.make(&mut open)?;
            }
        }
        to.commit().map_err(|error| Failure {
            // The flush failed half-way: what was written may be there after the next open.
            answer: StoreError::OutcomeUnknown,
            cause: Fault::from(error).0,
        })?;
        self.health.wrote();
        Ok(!changes.is_empty())
    }
}
