//! Work that waits for a writer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::Event;

use crate::store::StoreError;
use crate::store::threads::Stopped;

/// How often the others are let run first, while more and more arrive.
const MOST_PAUSES: usize = 16;

struct Waiting<T> {
    tasks: VecDeque<T>,
    closing: bool,
    /// How many were taken last.
    last_taken: usize,
}

/// A bounded queue with one taker.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Event,
    most: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                tasks: VecDeque::new(),
                closing: false,
                last_taken: 0,
            }),
            changed: Event::new(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, task: T) -> Result<(), StoreError> {
        let mut waiting = self.lock();
        if waiting.closing {
            return Err(StoreError::Closed);
        }
        if waiting.tasks.len() >= self.most {
            let waiting = waiting.tasks.len();
            return Err(StoreError::Busy { waiting });
        }
        waiting.tasks.push_back(task);
        drop(waiting);
        self.changed.notify(1);
        Ok(())
    }

    /// No more is taken in; what waits is still done.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify(usize::MAX);
    }

    /// Drops what waits: nobody is left to do it.
    pub(super) fn abandon(&self) {
        self.close();
        let tasks = std::mem::take(&mut self.lock().tasks);
        drop(tasks);
    }

    /// Lets those who were answered together come again together: the first of them would have a
    /// transaction for itself, and all others wait for the next. Whoever is alone never waits.
    async fn gather(&self, most: usize) {
        let mut before = 0;
        for _ in 0..MOST_PAUSES {
            {
                let waiting = self.lock();
                let arrived = waiting.tasks.len();
                if waiting.last_taken < 2 || arrived == before || arrived >= most {
                    return;
                }
                before = arrived;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for work, and takes at most `most` of it; `None` once the queue is closed and empty.
    pub(super) async fn take(&self, most: usize) -> Option<Vec<T>> {
        loop {
            let changed = self.changed.listen();
            self.gather(most).await;
            {
                let mut waiting = self.lock();
                if !waiting.tasks.is_empty() {
                    let most = waiting.tasks.len().min(most);
                    waiting.last_taken = most;
                    return Some(waiting.tasks.drain(..most).collect());
                }
                if waiting.closing {
                    return None;
                }
            }
            changed.await;
        }
    }
}

/// The taker of a queue. When it goes away, however it does, nothing waits for it any longer.
pub(super) struct Taker<T> {
    pub(super) queue: Arc<Queue<T>>,
    pub(super) stopped: Arc<Stopped>,
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.queue.abandon();
        self.stopped.say();
    }
}
