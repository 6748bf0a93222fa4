//! Threads that read, so that no caller's thread waits for the disk.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use futures_channel::oneshot;
use rusqlite::Connection;

use super::sql_error;
use crate::store::StoreError;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The most reads that may wait.
const MAX_WAITING_READS: usize = 65_536;

#[derive(Default)]
struct Waiting {
    reads: VecDeque<Read>,
    closing: bool,
}

#[derive(Default)]
pub(super) struct Readers {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs `query` on a reader's connection.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.closing {
                return Err(StoreError::Closed);
            }
            if waiting.reads.len() >= MAX_WAITING_READS {
                return Err(StoreError::Busy {
                    waiting: waiting.reads.len(),
                });
            }
            waiting.reads.push_back(Box::new(move |connection| {
                // The caller may have gone away; a read changes nothing, so nothing is lost.
                drop(answer.send(query(connection)));
            }));
        }
        self.changed.notify_one();
        answered
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(sql_error)
    }

    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closing = true;
        waiting.reads.clear();
        drop(waiting);
        self.changed.notify_all();
    }

    /// The body of a reader's thread.
    pub(super) fn run(&self, connection: &Connection) {
        while let Some(read) = self.take() {
            read(connection);
        }
    }

    fn take(&self) -> Option<Read> {
        let mut waiting = self.lock();
        loop {
            if let Some(read) = waiting.reads.pop_front() {
                return Some(read);
            }
            if waiting.closing {
                return None;
            }
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}
