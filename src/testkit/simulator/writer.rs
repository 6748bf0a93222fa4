//! The one that writes: the group commit of the real stores, on a disk that can be lost.

use std::sync::Arc;
use std::time::Duration;

use super::bugs::PlantedBug;
use super::executor::pass;
use super::ground::{Flushing, Ground};
use super::tally::{Fault, Transition};
use crate::ledger::Changes;
use crate::ports::Clock;
use crate::store::group_commit::{Bounds, CommitTask, Group, Lane, Queue, Waiting};
use crate::store::{CommitClock, MemoryStore, StoreError};

/// What waits for the writer.
pub(super) enum Work {
    Commit(CommitTask),
    Change(Box<dyn Change>),
}

/// A change that is no batch.
pub(super) trait Change: Send {
    /// Makes it on the disk.
    fn make(&mut self, disk: &MemoryStore);
    /// Called once, after the flush or with what prevented it.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

impl Waiting for Work {
    fn finish(self, outcome: Result<(), StoreError>) {
        match self {
            Self::Commit(task) => task.finish(outcome),
            Self::Change(change) => change.finish(outcome),
        }
    }
}

pub(super) type WriteQueue = Queue<Work>;

/// So few that a store is sometimes busy.
pub(super) fn bounds() -> Bounds {
    Bounds {
        group: 4,
        batches: 7,
        node_writes: 4,
    }
}

/// What is done with a group.
enum Fate {
    Written,
    Failed(StoreError),
    /// Written, and nobody is told.
    WrittenUnknown,
    NotWrittenUnknown,
}

/// The writer of one process.
pub(super) struct Writer {
    pub(super) ground: Arc<Ground>,
    /// What outlives the process: changed by a flush alone.
    pub(super) disk: MemoryStore,
    pub(super) queue: Arc<WriteQueue>,
    pub(super) times: Arc<CommitClock>,
    pub(super) stopped: Arc<event_listener::Event>,
}

impl Writer {
    /// Writes until the queue is closed and empty.
    pub(super) async fn run(self) {
        loop {
            match self.queue.take_or_listen() {
                Ok(group) => self.write(group).await,
                Err(Some(arrived)) => arrived.await,
                Err(None) => break,
            }
        }
        self.stopped.notify(usize::MAX);
    }

    async fn write(&self, mut group: Group<Work>) {
        let ground = &self.ground;
        let at_ms = self.commit_time();
        let tasks = group.tasks.iter_mut().filter_map(|work| match work {
            Work::Commit(task) => Some(task),
            Work::Change(_) => None,
        });
        let mut changes = match self.disk.decide_group(tasks, at_ms) {
            Ok(changes) => changes,
            Err(error) => return group.finish(&Err(error)),
        };
        if changes.commits.len() > 1 {
            ground.went(Transition::Grouped);
        }
        if ground.has(PlantedBug::LosesABatch) && ground.dice().is_multiple_of(60) {
            changes = Changes::default();
        }
        let fate = self.fate();
        ground.set_flushing(Flushing::Decided);
        let early = ground.has(PlantedBug::AcknowledgesBeforeFlush);
        let mut group = Some(group);
        if early && let Some(group) = group.take() {
            group.finish(&Ok(()));
        }
        self.flush().await;
        let outcome = match fate {
            Fate::Written | Fate::WrittenUnknown => {
                let written = self.disk.write_group(&changes);
                for work in group.iter_mut().flat_map(|group| &mut group.tasks) {
                    if let Work::Change(change) = work {
                        change.make(&self.disk);
                    }
                }
                ground.set_flushing(Flushing::Flushed);
                // Between the flush and the answers anything can happen.
                pass().await;
                match fate {
                    Fate::Written => written,
                    _ => Err(StoreError::OutcomeUnknown),
                }
            }
            Fate::Failed(error) => Err(error),
            Fate::NotWrittenUnknown => Err(StoreError::OutcomeUnknown),
        };
        match &outcome {
            Ok(()) => self.times.written(at_ms, !changes.is_empty()),
            Err(error) => self.times.failed(at_ms, error),
        }
        self.record(&changes, at_ms, &outcome);
        if let Some(group) = group {
            group.finish(&outcome);
        }
        ground.set_flushing(Flushing::Nothing);
    }

    fn commit_time(&self) -> i64 {
        if self.ground.has(PlantedBug::LetsTimeGoBack) {
            return self.ground.now_ms();
        }
        self.times.next_ms()
    }

    fn fate(&self) -> Fate {
        let ground = &self.ground;
        if ground.strikes(Fault::CommitFailed, 60) {
            return Fate::Failed(match ground.dice() % 3 {
                0 => StoreError::Full,
                1 => StoreError::Locked {
                    reason: "simulated".to_owned(),
                },
                _ => StoreError::Io {
                    reason: "simulated".to_owned(),
                },
            });
        }
        if ground.strikes(Fault::AnswerLost, 50) {
            return Fate::WrittenUnknown;
        }
        if ground.strikes(Fault::OutcomeUnknown, 30) {
            return Fate::NotWrittenUnknown;
        }
        Fate::Written
    }

    async fn flush(&self) {
        if self.ground.strikes(Fault::SlowFlush, 20) {
            let ms = self.ground.between(50, 1_500).unsigned_abs();
            return self.ground.sleep(Duration::from_millis(ms)).await;
        }
        self.ground.linger(2).await;
    }

    fn record(&self, changes: &Changes, at_ms: i64, outcome: &Result<(), StoreError>) {
        let ground = &self.ground;
        ground.trace("group", at_ms.cast_unsigned());
        ground.trace("outcome", u64::from(outcome.is_ok()));
        for commit in &changes.commits {
            ground.trace(&commit.hash.to_string(), commit.position.cast_unsigned());
        }
    }
}

/// Queues a change and waits for what came of it.
pub(super) async fn changed<T: Send + 'static>(
    queue: &WriteQueue,
    lane: Lane,
    make: impl FnMut(&MemoryStore) -> T + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, answered) = futures_channel::oneshot::channel();
    let change = FunctionChange {
        make,
        made: None,
        answer,
    };
    queue.push(lane, Work::Change(Box::new(change)));
    answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
}

struct FunctionChange<T, F> {
    make: F,
    made: Option<T>,
    answer: futures_channel::oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&MemoryStore) -> T + Send> Change for FunctionChange<T, F> {
    fn make(&mut self, disk: &MemoryStore) {
        self.made = Some((self.make)(disk));
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { made, answer, .. } = *self;
        drop(answer.send(outcome.and_then(|()| made.ok_or(StoreError::OutcomeUnknown))));
    }
}
