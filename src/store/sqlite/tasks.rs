//! What the writer is asked to do.

use futures_channel::oneshot;
use rusqlite::Connection;

use super::writer::{Lane, Queue, Task};
use super::writing::Writing;
use crate::store::StoreError;

/// Any other change, as a function that can run again.
struct FunctionTask<T, F> {
    change: F,
    /// The writer need not read the books again after it.
    leaves_books: bool,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Task for FunctionTask<T, F>
where
    T: Send,
    F: FnMut(&Connection, i64) -> Result<T, rusqlite::Error> + Send,
{
    fn run(&mut self, writing: &mut Writing<'_>) -> Result<(), rusqlite::Error> {
        let (connection, at_ms) = writing.tables()?;
        self.result = Some((self.change)(connection, at_ms)?);
        if !self.leaves_books {
            writing.forget();
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, answer, .. } = *self;
        drop(answer.send(outcome.and_then(|()| result.ok_or(StoreError::OutcomeUnknown))));
    }
}

/// Queues a change **now** and returns what it will have answered. What is asked for in the node's
/// lane leaves the books alone.
pub(super) fn run_task<T: Send + 'static>(
    queue: &Queue,
    lane: Lane,
    change: impl FnMut(&Connection, i64) -> Result<T, rusqlite::Error> + Send + 'static,
) -> impl Future<Output = Result<T, StoreError>> + Send + 'static {
    push(queue, lane, lane == Lane::Node, change)
}

/// Waits for all batches that were queued before, and changes nothing.
pub(super) fn pass(queue: &Queue) -> impl Future<Output = Result<(), StoreError>> + Send + 'static {
    push(queue, Lane::Batches, true, |_, _| Ok(()))
}

fn push<T: Send + 'static>(
    queue: &Queue,
    lane: Lane,
    leaves_books: bool,
    change: impl FnMut(&Connection, i64) -> Result<T, rusqlite::Error> + Send + 'static,
) -> impl Future<Output = Result<T, StoreError>> + Send + 'static {
    let (answer, answered) = oneshot::channel();
    queue.push(
        lane,
        Box::new(FunctionTask {
            change,
            leaves_books,
            result: None,
            answer,
        }),
    );
    async move { answered.await.unwrap_or(Err(StoreError::OutcomeUnknown)) }
}
