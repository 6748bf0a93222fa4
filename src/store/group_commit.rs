//! Group commit: whatever waits when the writer looks is done in one atomic change and one flush,
//! and answered after it.
//!
//! This is what every store with one writer has in common, and nothing of it knows where a change
//! is kept. The thread that writes SQLite runs it, and so does the simulator, and whoever writes a
//! store of this kind may. The writer's turn is always the same:
//!
//! 1. [take](Queue::take) a group;
//! 2. begin an atomic change of the store, and let each [`CommitTask`] be
//!    [decided](CommitTask::decide) upon one [`ledger::Group`], at the
//!    [next](super::CommitClock::next_ms) time of the store's clock;
//! 3. write the [`Changes`](ledger::Changes) of that group, and make them durable;
//! 4. [finish](Group::finish) the group with what came of it: only now anybody is answered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use event_listener::Event;
use futures_channel::oneshot;

use super::{CommitError, StoreError};
use crate::ledger::{self, Batch, Commit, Rows};

/// How long a writer waits for further tasks: a small part of what a flush takes.
const PAUSE: Duration = Duration::from_micros(40);
/// From which turn on it waits for further ones although only one came the last time: the wait is
/// then a small part of it, and whoever comes in that time is not a whole turn late.
const LONG_TURN_MS: i64 = 3;
/// How often at most, while more and more arrive.
const MOST_PAUSES: usize = 16;

/// Which queue a task waits in. Node writes go first, and a full queue of batches does not
/// block them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// For changes of the node's state.
    Node,
    /// For everything else.
    Batches,
}

/// How much is done at once, and how much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most tasks in one group: bounds how long the first of them waits.
    pub group: usize,
    /// The most batches that may wait; further ones are refused as busy.
    pub batches: usize,
    /// The most node writes that may wait. Far above what a node has in flight.
    pub node_writes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            group: 1_024,
            batches: 65_536,
            node_writes: 262_144,
        }
    }
}

/// Work for a writer.
pub trait Waiting: Send {
    /// Called once, after the flush or with what prevented it. It must not block.
    fn finish(self, outcome: Result<(), StoreError>);
}

struct Lanes<T> {
    node: VecDeque<T>,
    batches: VecDeque<T>,
    closing: bool,
    /// How many tasks the last group had.
    last_group: usize,
    /// What its turn took, where the taker tells that.
    last_turn_ms: i64,
    /// The taker sleeps until it is told of a task.
    is_waiting: bool,
}

impl<T> Lanes<T> {
    /// Whether to wait for further batches is worth it.
    fn may_come_together(&self) -> bool {
        self.last_group > 1 || self.last_turn_ms >= LONG_TURN_MS
    }
}

/// What is done in one atomic change.
pub struct Group<T> {
    /// The node's first, each lane in the order in which it was filled.
    pub tasks: Vec<T>,
    /// Whether any came from [`Lane::Node`].
    pub has_node_writes: bool,
}

impl<T: Waiting> Group<T> {
    /// A group for each task, in their order: for a taker whose group as a whole was refused.
    pub fn one_by_one(self) -> impl Iterator<Item = Self> {
        let has_node_writes = self.has_node_writes;
        self.tasks.into_iter().map(move |task| Self {
            tasks: vec![task],
            has_node_writes,
        })
    }

    /// Tells everybody who waits for it what became of it: after the flush.
    pub fn finish(self, outcome: &Result<(), StoreError>) {
        for task in self.tasks {
            task.finish(outcome.clone());
        }
    }
}

/// A bounded queue of two lanes, with one taker.
pub struct Queue<T> {
    lanes: Mutex<Lanes<T>>,
    /// For a taker that has a thread of its own.
    changed: Condvar,
    /// For one that has not.
    arrived: Event,
    bounds: Bounds,
}

impl<T: Waiting> Queue<T> {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            lanes: Mutex::new(Lanes {
                node: VecDeque::new(),
                batches: VecDeque::new(),
                closing: false,
                last_group: 0,
                last_turn_ms: 0,
                is_waiting: false,
            }),
            changed: Condvar::new(),
            arrived: Event::new(),
            bounds,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes<T>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.notify_all();
        self.arrived.notify(usize::MAX);
    }

    /// Queues a task, or finishes it at once with the reason why not: `store.busy`,
    /// `store.closed`.
    pub fn push(&self, lane: Lane, task: T) {
        let mut lanes = self.lock();
        let closing = lanes.closing;
        let (queue, most) = match lane {
            Lane::Node => (&mut lanes.node, self.bounds.node_writes),
            Lane::Batches => (&mut lanes.batches, self.bounds.batches),
        };
        let refusal = if closing {
            StoreError::Closed
        } else if queue.len() >= most {
            StoreError::Busy {
                waiting: queue.len(),
            }
        } else {
            queue.push_back(task);
            let is_waiting = std::mem::take(&mut lanes.is_waiting);
            drop(lanes);
            if is_waiting {
                self.changed.notify_all();
            }
            self.arrived.notify(usize::MAX);
            return;
        };
        drop(lanes);
        task.finish(Err(refusal));
    }

    /// No more tasks are taken in; those that wait are still done.
    pub fn close(&self) {
        self.lock().closing = true;
        self.notify();
    }

    /// No more tasks are taken in, and those that wait are never done: nobody is left to do them.
    pub fn abandon(&self) {
        let mut lanes = self.lock();
        lanes.closing = true;
        let (node, batches) = (
            std::mem::take(&mut lanes.node),
            std::mem::take(&mut lanes.batches),
        );
        drop(lanes);
        for task in node.into_iter().chain(batches) {
            task.finish(Err(StoreError::Closed));
        }
    }

    /// What the turn of the last group took, by a clock that is never set: for [`take`](Self::take),
    /// which may wait a moment for further tasks where that is a small part of a turn.
    pub fn took(&self, turn_ms: i64) {
        self.lock().last_turn_ms = turn_ms;
    }

    /// Waits for work; `None` once the queue is closed and empty. Blocks the thread.
    pub fn take(&self) -> Option<Group<T>> {
        let mut lanes = self.lock();
        loop {
            if !lanes.batches.is_empty() && lanes.may_come_together() {
                lanes = self.gather(lanes);
            }
            if let Some(group) = self.group(&mut lanes) {
                return Some(group);
            }
            if lanes.closing {
                return None;
            }
            lanes.is_waiting = true;
            lanes = self
                .changed
                .wait(lanes)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until no more tasks arrive, for a moment at most. Those who were answered together
    /// come again together, and without this the first of them would have a flush for itself while
    /// all others wait for the next. A caller who is alone waits here only where that is a small
    /// part of his turn, and the node never.
    fn gather<'a>(&'a self, mut lanes: MutexGuard<'a, Lanes<T>>) -> MutexGuard<'a, Lanes<T>> {
        for _ in 0..MOST_PAUSES {
            let before = lanes.batches.len();
            let is_full = before >= self.bounds.group;
            if is_full || lanes.closing || !lanes.node.is_empty() {
                break;
            }
            drop(lanes);
            std::thread::sleep(PAUSE);
            lanes = self.lock();
            if lanes.batches.len() == before {
                break;
            }
        }
        lanes
    }

    /// As [`take`](Self::take), for a writer without a thread of its own: with nothing to take,
    /// what to wait for, or `None` once the queue is closed and empty.
    #[cfg(feature = "testkit")]
    pub(crate) fn take_or_listen(&self) -> Result<Group<T>, Option<event_listener::EventListener>> {
        let arrived = self.arrived.listen();
        let mut lanes = self.lock();
        match self.group(&mut lanes) {
            Some(group) => Ok(group),
            None if lanes.closing => Err(None),
            None => Err(Some(arrived)),
        }
    }

    /// The next group, if anything waits: all that fits, the node's writes first.
    fn group(&self, lanes: &mut Lanes<T>) -> Option<Group<T>> {
        if lanes.node.is_empty() && lanes.batches.is_empty() {
            return None;
        }
        let from_node = lanes.node.len().min(self.bounds.group);
        let mut tasks: Vec<_> = lanes.node.drain(..from_node).collect();
        let from_batches = lanes.batches.len().min(self.bounds.group - from_node);
        tasks.extend(lanes.batches.drain(..from_batches));
        lanes.last_group = tasks.len();
        Some(Group {
            tasks,
            has_node_writes: from_node > 0,
        })
    }
}

/// A batch of the ledger that waits for its commit.
pub struct CommitTask {
    batch: Batch,
    result: Option<Result<Commit, CommitError>>,
    answer: oneshot::Sender<Result<Commit, CommitError>>,
}

/// What a [`CommitTask`] is answered. A task that was dropped without an answer is answered
/// `store.outcome_unknown`.
#[derive(Debug)]
pub struct CommitAnswer(oneshot::Receiver<Result<Commit, CommitError>>);

impl Future for CommitAnswer {
    type Output = Result<Commit, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = Pin::new(&mut self.0).poll(context);
        answered.map(|answer| answer.unwrap_or(Err(StoreError::OutcomeUnknown.into())))
    }
}

impl CommitTask {
    /// The task, and what it will have answered.
    pub fn new(batch: Batch) -> (Self, CommitAnswer) {
        let (answer, answered) = oneshot::channel();
        let task = Self {
            batch,
            result: None,
            answer,
        };
        (task, CommitAnswer(answered))
    }

    /// Decides the batch upon those of the group before it: a refused one leaves no trace.
    ///
    /// # Errors
    /// The store's own.
    pub fn decide<R: Rows>(
        &mut self,
        books: &mut ledger::Group<R>,
        at_ms: i64,
    ) -> Result<(), R::Error> {
        let decided = books.decide(&self.batch, at_ms)?;
        self.result = Some(decided.map_err(CommitError::from));
        Ok(())
    }

    /// Does not decide the batch: the store takes none, and nothing of it is done.
    pub fn refuse(&mut self, error: StoreError) {
        self.result = Some(Err(error.into()));
    }
}

impl Waiting for CommitTask {
    fn finish(self, outcome: Result<(), StoreError>) {
        let result = match (outcome, self.result) {
            (Ok(()), Some(result)) => result,
            (Err(error), _) => Err(error.into()),
            (Ok(()), None) => Err(StoreError::OutcomeUnknown.into()),
        };
        // A caller that went away finds its commit by asking again.
        drop(self.answer.send(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Waiting for Nothing {
        fn finish(self, _outcome: Result<(), StoreError>) {}
    }

    /// A caller who is alone waits for nobody where that costs more than it can bring.
    #[test]
    fn a_writer_waits_for_more_where_more_may_come_or_a_turn_is_long() {
        for (group, turn_ms, waits) in [(1, 0, false), (1, 2, false), (1, 3, true), (2, 0, true)] {
            let queue = Queue::new(Bounds::default());
            for _ in 0..group {
                queue.push(Lane::Batches, Nothing);
            }
            assert!(!queue.lock().may_come_together(), "nothing was taken yet");
            assert_eq!(queue.take().map(|group| group.tasks.len()), Some(group));
            queue.took(turn_ms);
            assert_eq!(
                queue.lock().may_come_together(),
                waits,
                "{group} in {turn_ms} ms"
            );
        }
    }
}
