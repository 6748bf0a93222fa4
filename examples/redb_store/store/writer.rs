//! The one thread that writes: whatever waits when it looks is one transaction and one flush, and
//! is answered after it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use event_listener::Event;
use flashkit::ledger::{Batch, Commit, Group, Refusal};
use flashkit::ports::Clock;
use flashkit::store::{CommitError, StoreError, WriteHealth};
use futures_channel::oneshot;
use redb::{Database, WriteTransaction};

use super::tables::{self, Fault, Result, Snapshot};

/// The most of one kind that goes into one group.
const GROUP: usize = 1_024;
/// The most of one kind that may wait.
const QUEUE: usize = 65_536;

/// Anything but a batch that is to be written.
pub trait Change: Send {
    /// Within the transaction. A fault undoes the whole group.
    fn make(&mut self, to: &WriteTransaction, at_ms: i64) -> Result<()>;
    /// After the flush, or with what prevented it.
    fn answer(self: Box<Self>, outcome: std::result::Result<(), StoreError>);
}

/// A change that is a function.
pub struct Once<T, F> {
    change: Option<F>,
    made: Option<T>,
    answer: oneshot::Sender<std::result::Result<T, StoreError>>,
}

impl<T, F> Once<T, F> {
    pub fn new(
        change: F,
    ) -> (
        Self,
        oneshot::Receiver<std::result::Result<T, StoreError>>,
    ) {
        let (answer, answered) = oneshot::channel();
        let once = Self {
            change: Some(change),
            made: None,
            answer,
        };
        (once, answered)
    }
}

impl<T: Send, F: FnOnce(&WriteTransaction, i64) -> Result<T> + Send> Change for Once<T, F> {
    fn make(&mut self, to: &WriteTransaction, at_ms: i64) -> Result<()> {
        if let Some(change) = self.change.take() {
            self.made = Some(change(to, at_ms)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: std::result::Result<(), StoreError>) {
        let Self { made, answer, .. } = *self;
        // Whoever asked may have gone away.
        drop(answer.send(outcome.and_then(|()| made.ok_or(StoreError::OutcomeUnknown))));
    }
}

pub struct WaitingBatch {
    pub batch: Batch,
    pub answer: oneshot::Sender<std::result::Result<Commit, CommitError>>,
}

/// What waits. The node's writes have a queue of their own, so that batches cannot keep them
/// waiting.
#[derive(Default)]
pub struct Waiting {
    pub node: VecDeque<Box<dyn Change>>,
    pub batches: VecDeque<WaitingBatch>,
    pub changes: VecDeque<Box<dyn Change>>,
    closing: bool,
}

#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    has_stopped: AtomicBool,
    stopped: Event,
}

fn first_of<T>(queue: &mut VecDeque<T>) -> Vec<T> {
    queue.drain(..queue.len().min(GROUP)).collect()
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push<T>(
        &self,
        task: T,
        lane: impl FnOnce(&mut Waiting) -> &mut VecDeque<T>,
    ) -> std::result::Result<(), StoreError> {
        let mut waiting = self.lock();
        if waiting.closing {
            return Err(StoreError::Closed);
        }
        let lane = lane(&mut waiting);
        if lane.len() >= QUEUE {
            let waiting = lane.len();
            return Err(StoreError::Busy { waiting });
        }
        lane.push_back(task);
        self.arrived.notify_one();
        Ok(())
    }

    /// No more is taken in; what waits is still done.
    pub fn close(&self) {
        self.lock().closing = true;
        self.arrived.notify_one();
    }

    pub async fn wait_for_end(&self) {
        loop {
            let stopped = self.stopped.listen();
            if self.has_stopped.load(Ordering::SeqCst) {
                return;
            }
            stopped.await;
        }
    }

    /// Blocks until there is something to do; `None` at the end.
    fn take(&self) -> Option<Taken> {
        let mut waiting = self.lock();
        loop {
            let taken = Taken {
                node: first_of(&mut waiting.node),
                batches: first_of(&mut waiting.batches),
                changes: first_of(&mut waiting.changes),
            };
            if !taken.is_empty() {
                return Some(taken);
            }
            if waiting.closing {
                return None;
            }
            let woken = self.arrived.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What is done in one transaction.
struct Taken {
    node: Vec<Box<dyn Change>>,
    batches: Vec<WaitingBatch>,
    changes: Vec<Box<dyn Change>>,
}

type Decided = Vec<std::result::Result<Commit, Refusal>>;

impl Taken {
    fn is_empty(&self) -> bool {
        self.node.is_empty() && self.batches.is_empty() && self.changes.is_empty()
    }

    fn answer(self, outcome: std::result::Result<Decided, StoreError>) {
        for change in self.node.into_iter().chain(self.changes) {
            change.answer(outcome.as_ref().map(drop).map_err(Clone::clone));
        }
        let mut decided = outcome.map(Vec::into_iter);
        for batch in self.batches {
            let answer = match &mut decided {
                Ok(decided) => match decided.next() {
                    Some(answer) => answer.map_err(CommitError::from),
                    None => Err(StoreError::OutcomeUnknown.into()),
                },
                Err(error) => Err(error.clone().into()),
            };
            drop(batch.answer.send(answer));
        }
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
    pub clock: Arc<dyn Clock>,
    pub queue: Arc<Queue>,
    pub committed: Arc<Event>,
    pub health: Arc<WriteHealth>,
    /// Ends before the file is closed.
    pub reader: JoinHandle<()>,
}

/// Says that nobody writes any more, however that came.
struct Ending(Arc<Queue>, Arc<Event>);

impl Drop for Ending {
    fn drop(&mut self) {
        let Self(queue, committed) = self;
        queue.close();
        // Nothing waits here but after a panic: then whoever waits does not know.
        *queue.lock() = Waiting {
            closing: true,
            ..Waiting::default()
        };
        queue.has_stopped.store(true, Ordering::SeqCst);
        queue.stopped.notify(usize::MAX);
        committed.notify(usize::MAX);
    }
}

impl Writer {
    pub fn run(self) {
        let ending = Ending(self.queue.clone(), self.committed.clone());
        while let Some(mut taken) = self.queue.take() {
            let outcome = self.write(&mut taken);
            if let Err(failure) = &outcome {
                let now_ms = self.clock.now_ms();
                self.health.failed(failure.cause.clone(), now_ms);
            }
            taken.answer(outcome.map_err(|failure| failure.answer));
            self.committed.notify(usize::MAX);
        }
        let Self {
            database, reader, ..
        } = self;
        drop(reader.join());
        // Closes the file: whoever waits for the end may open it again.
        drop(database);
        drop(ending);
    }

    fn write(&self, taken: &mut Taken) -> std::result::Result<Decided, Failure> {
        // Nobody else writes, so what is read here is what the transaction begins upon.
        let snapshot = Snapshot::new(&self.database)?;
        let last_ms = snapshot.last_commit()?.map_or(0, |row| row.at_ms);
        let at_ms = self.clock.now_ms().max(last_ms);
        let last = snapshot.last_positions()?;
        let mut books = Group::new(snapshot, last);
        let mut decided = Vec::with_capacity(taken.batches.len());
        for waiting in &taken.batches {
            decided.push(books.decide(&waiting.batch, at_ms)?);
        }
        let (changes, _) = books.finish();
        if changes.is_empty() && taken.node.is_empty() && taken.changes.is_empty() {
            return Ok(decided);
        }
        let to = tables::begin(&self.database)?;
        for change in &mut taken.node {
            change.make(&to, at_ms)?;
        }
        tables::write(&to, &changes)?;
        for change in &mut taken.changes {
            change.make(&to, at_ms)?;
        }
        to.commit().map_err(|error| Failure {
            // The flush failed half-way: what was written may be there after the next open.
            answer: StoreError::OutcomeUnknown,
            cause: Fault::from(error).0,
        })?;
        self.health.wrote();
        Ok(decided)
    }
}
