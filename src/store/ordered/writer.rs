//! The one thread that writes: what waits when it looks is one write of the tree, and one flush.

use std::sync::Arc;
use std::thread::JoinHandle;

use event_listener::Event;
use futures_channel::oneshot;

use super::draft::Draft;
use super::reading::Books;
use super::tree::{Tree, WriteError};
use super::{tables, unless_it_panics, writing};
use crate::ledger::{Changes, Group};
use crate::store::group_commit::{self, CommitTask, Waiting};
use crate::store::threads::{Readers, StopsWhenDropped};
use crate::store::{CommitClock, NodeLease, StoreError, WriteHealth};

pub(super) type Queue = group_commit::Queue<Task>;

pub(super) enum Task {
    Batch(CommitTask),
    Other(Box<dyn Change>),
}

impl Waiting for Task {
    fn finish(self, outcome: Result<(), StoreError>) {
        match self {
            Self::Batch(batch) => batch.finish(outcome),
            Self::Other(change) => change.finish(outcome),
        }
    }
}

/// Anything but a batch.
pub(super) trait Change: Send {
    /// Within the draft; perhaps again in another one. An error undoes the whole group.
    fn make(&mut self, open: &mut Open<'_>) -> Result<(), StoreError>;
    /// After the flush, or with what prevented it.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// A write in the making.
pub(super) struct Open<'a> {
    pub(super) to: Draft<'a>,
    pub(super) at_ms: i64,
    /// One process at a time has the tree, and a lease does not outlive its holder.
    pub(super) lease: NodeLease,
}

type Answer<T> = Result<T, StoreError>;

/// A change that is a function. What it refuses by itself takes nobody else's change with it.
pub(super) struct Function<T, F> {
    change: F,
    made: Option<Answer<T>>,
    answer: oneshot::Sender<Answer<T>>,
}

impl<T, F> Function<T, F> {
    pub(super) fn new(change: F) -> (Self, oneshot::Receiver<Answer<T>>) {
        let (answer, answered) = oneshot::channel();
        let function = Self {
            change,
            made: None,
            answer,
        };
        (function, answered)
    }
}

impl<T: Send, F: FnMut(&mut Open<'_>) -> Answer<T> + Send> Change for Function<T, F> {
    fn make(&mut self, open: &mut Open<'_>) -> Result<(), StoreError> {
        self.made = Some(match (self.change)(open) {
            Err(refused @ (StoreError::Fenced { .. } | StoreError::LeaseHeld { .. })) => {
                Err(refused)
            }
            made => Ok(made?),
        });
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        let made = self.made.unwrap_or(Err(StoreError::OutcomeUnknown));
        // Whoever asked may have gone away.
        drop(self.answer.send(outcome.and(made)));
    }
}

/// What a write had in it.
struct Written {
    any_batch: bool,
    anything: bool,
    lease: NodeLease,
}

/// The writer's own things; they live on its thread.
pub(super) struct Writer<T: Tree> {
    pub(super) tree: Arc<T>,
    pub(super) queue: Arc<Queue>,
    pub(super) health: Arc<WriteHealth>,
    pub(super) times: Arc<CommitClock>,
    pub(super) committed: Arc<Event>,
    pub(super) lease: NodeLease,
    /// It is not known whether the last write was made.
    pub(super) is_unsettled: bool,
    pub(super) readers: Arc<Readers<T>>,
    /// They end before the tree is closed.
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Dropped last: the place can be opened again then.
    pub(super) _stopped: StopsWhenDropped<Task>,
}

impl<T: Tree> Writer<T> {
    pub(super) fn run(mut self) {
        while let Some(group) = self.queue.take() {
            let begun_ms = self.times.steady_ms();
            self.write(group);
            let ended_ms = self.times.steady_ms();
            self.queue.took(ended_ms.saturating_sub(begun_ms));
        }
    }

    fn write(&mut self, mut group: group_commit::Group<Task>) {
        let at_ms = self.times.next_ms();
        let outcome = self.commit(&mut group, at_ms);
        let undone = match &outcome {
            Err(WriteError::Undone(error)) => Some(error),
            _ => None,
        };
        let is_of_one = |error: &StoreError| {
            matches!(
                error,
                StoreError::Corrupt { .. } | StoreError::Misconfigured { .. }
            )
        };
        if undone.is_some_and(is_of_one) && group.tasks.len() > 1 {
            // One that meets a damaged row, or has a key that the engine cannot take, does not take
            // the others with it.
            return group.one_by_one().for_each(|alone| self.write(alone));
        }
        self.is_unsettled = match &outcome {
            Ok(written) => self.is_unsettled && !written.anything,
            Err(WriteError::Undone(_)) => self.is_unsettled,
            Err(WriteError::Unknown(_)) => true,
        };
        let outcome = match outcome {
            Ok(written) => {
                self.lease = written.lease;
                self.times.written(at_ms, written.any_batch);
                if written.anything {
                    self.health.wrote();
                }
                Ok(())
            }
            Err(failed) => {
                let (answer, cause) = match failed {
                    WriteError::Undone(cause) => (cause.clone(), cause),
                    WriteError::Unknown(cause) => (StoreError::OutcomeUnknown, cause),
                };
                self.times.failed(at_ms, &answer);
                // What an engine cannot take is no trouble of the engine's.
                if !matches!(cause, StoreError::Misconfigured { .. }) {
                    self.health.failed(cause, self.times.wall_ms());
                }
                Err(answer)
            }
        };
        group.finish(&outcome);
        self.committed.notify(usize::MAX);
    }

    fn commit(
        &self,
        group: &mut group_commit::Group<Task>,
        at_ms: i64,
    ) -> Result<Written, WriteError> {
        let drafted = unless_it_panics(|| self.draft(group, at_ms));
        let (written, changes) = drafted
            .and_then(|drafted| drafted)
            .map_err(WriteError::Undone)?;
        if written.anything {
            let outcome = unless_it_panics(|| self.tree.write(&changes));
            outcome.unwrap_or_else(|panicked| Err(WriteError::Unknown(panicked)))?;
        }
        Ok(written)
    }

    /// Nobody else writes, so what is read here is what the write finds.
    fn draft(
        &self,
        group: &mut group_commit::Group<Task>,
        at_ms: i64,
    ) -> Result<(Written, super::TreeChanges), StoreError> {
        let view = self.tree.view()?;
        let changes = decided(group, Books(&view), at_ms)?;
        let mut open = Open {
            to: Draft::new(&view),
            at_ms,
            lease: self.lease,
        };
        if !changes.is_empty() {
            writing::write(&mut open.to, &changes)?;
        }
        for task in &mut group.tasks {
            if let Task::Other(change) = task {
                change.make(&mut open)?;
            }
        }
        if self.is_unsettled {
            // What is asked for again was perhaps made, and is answered when a write was flushed.
            tables::settle(&mut open.to)?;
        }
        let Open { to, lease, .. } = open;
        let drafted = to.finish();
        let written = Written {
            any_batch: !changes.is_empty(),
            anything: !drafted.is_empty(),
            lease,
        };
        Ok((written, drafted))
    }
}

/// What the batches of a group come to. Without one nothing of the books is looked at: the node's
/// writes go on whatever stands there.
fn decided(
    group: &mut group_commit::Group<Task>,
    books: Books<'_>,
    at_ms: i64,
) -> Result<Changes, StoreError> {
    let mut batches = group.tasks.iter_mut().filter_map(|task| match task {
        Task::Batch(batch) => Some(batch),
        Task::Other(_) => None,
    });
    let Some(first) = batches.next() else {
        return Ok(Changes::default());
    };
    let last = books.last_positions()?;
    let mut books = Group::new(books, last);
    first.decide(&mut books, at_ms)?;
    for batch in batches {
        batch.decide(&mut books, at_ms)?;
    }
    Ok(books.finish().0)
}

/// However the thread ends: nobody is left to write, and whoever waits is told so when the place
/// can be opened again.
impl<T: Tree> Drop for Writer<T> {
    fn drop(&mut self) {
        self.readers.close();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
        self.committed.notify(usize::MAX);
    }
}
