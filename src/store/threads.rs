//! Threads of a store: those that read, so that no caller's thread waits for the disk, and the end
//! of the one that writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use event_listener::Event;
use futures_channel::oneshot;

use super::StoreError;
use super::group_commit::{Queue, Waiting};

pub(super) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let named = thread::Builder::new().name(name.to_owned());
    named.spawn(work).map_err(|error| StoreError::Io {
        reason: error.to_string(),
    })
}

type Read<C> = Box<dyn FnOnce(&C) + Send>;

/// The most reads that may wait.
const MAX_WAITING_READS: usize = 65_536;

struct Waits<C> {
    reads: VecDeque<Read<C>>,
    closing: bool,
}

/// What waits to be read, by threads that have a `C` to read from.
pub(super) struct Readers<C> {
    waiting: Mutex<Waits<C>>,
    changed: Condvar,
}

impl<C> Default for Readers<C> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waits {
                reads: VecDeque::new(),
                closing: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl<C> Readers<C> {
    fn lock(&self) -> MutexGuard<'_, Waits<C>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `query` on a reader's thread.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&C) -> Result<T, StoreError> + Send + 'static,
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
            waiting.reads.push_back(Box::new(move |from| {
                // The caller may have gone away; a read changes nothing, so nothing is lost.
                drop(answer.send(query(from)));
            }));
        }
        self.changed.notify_one();
        answered.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closing = true;
        waiting.reads.clear();
        drop(waiting);
        self.changed.notify_all();
    }

    /// The body of a reader's thread.
    pub(super) fn run(&self, from: &C) {
        while let Some(read) = self.take() {
            read(from);
        }
    }

    fn take(&self) -> Option<Read<C>> {
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
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Whether a writer has ended; any number may wait for it.
#[derive(Default)]
pub(super) struct Stopped {
    has_stopped: AtomicBool,
    changed: Event,
}

impl Stopped {
    pub(super) async fn wait(&self) {
        loop {
            let changed = self.changed.listen();
            if self.has_stopped.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }

    /// It has.
    pub(super) fn say(&self) {
        self.has_stopped.store(true, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
    }
}

/// Says that the writer has ended, however it did, and that nothing waits for it any more.
pub(super) struct StopsWhenDropped<T: Waiting> {
    pub(super) stopped: Arc<Stopped>,
    pub(super) queue: Arc<Queue<T>>,
}

impl<T: Waiting> Drop for StopsWhenDropped<T> {
    fn drop(&mut self) {
        self.queue.abandon();
        self.stopped.say();
    }
}

/// Runs a future to its end on this thread, which may block. It needs no runtime.
#[cfg(any(feature = "sqlite", feature = "ldk"))]
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = std::task::Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => thread::park(),
        }
    }
}

#[cfg(any(feature = "sqlite", feature = "ldk"))]
struct Unpark(thread::Thread);

#[cfg(any(feature = "sqlite", feature = "ldk"))]
impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
