//! A store on any engine that keeps an ordered tree of keys and values: LMDB, RocksDB, redb and
//! whatever else has one atomic, durable write and reads of one moment.
//!
//! Everything a store has to do is done here: which tables there are and how their keys lie in the
//! tree, the queue and the one writer with its group commit, the threads that read, leases and the
//! fence of the node. An engine implements [`Tree`] and [`View`], four functions, and
//! [`OrderedStore`] is the store on it. `examples/redb_store` is such an engine, and
//! `docs/adr/0030` says why a tree is all that is asked for.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::ops::Range;
//! use std::sync::{Arc, RwLock};
//!
//! use flashkit::ports::SystemClock;
//! use flashkit::store::ordered::{Order, OrderedStore, Rows, Tree, TreeChanges, View, WriteError};
//! use flashkit::store::{Store, StoreError};
//!
//! /// A tree that is lost with the process: to show what is asked for.
//! #[derive(Default)]
//! struct InMemory(RwLock<Arc<BTreeMap<Vec<u8>, Vec<u8>>>>);
//!
//! struct Seen(Arc<BTreeMap<Vec<u8>, Vec<u8>>>);
//!
//! impl Tree for InMemory {
//!     type View<'a> = Seen;
//!
//!     fn view(&self) -> Result<Seen, StoreError> {
//!         Ok(Seen(self.0.read().map_err(|_| StoreError::Closed)?.clone()))
//!     }
//!
//!     fn write(&self, changes: &TreeChanges) -> Result<(), WriteError> {
//!         let poisoned = |_| WriteError::Undone(StoreError::Closed);
//!         let mut rows = self.0.write().map_err(poisoned)?;
//!         let rows = Arc::make_mut(&mut rows);
//!         for (key, value) in changes {
//!             match value {
//!                 Some(value) => rows.insert(key.clone(), value.clone()),
//!                 None => rows.remove(key),
//!             };
//!         }
//!         Ok(())
//!     }
//! }
//!
//! impl View for Seen {
//!     fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
//!         Ok(self.0.get(key).cloned())
//!     }
//!
//!     fn range(&self, keys: Range<&[u8]>, order: Order) -> Result<Rows<'_>, StoreError> {
//!         let rows = self.0.range(keys.start.to_vec()..keys.end.to_vec());
//!         let rows = rows.map(|(key, value)| Ok((key.clone(), value.clone())));
//!         Ok(match order {
//!             Order::Forwards => Box::new(rows),
//!             Order::Backwards => Box::new(rows.rev()),
//!         })
//!     }
//! }
//!
//! let store = OrderedStore::open(InMemory::default(), Arc::new(SystemClock))?;
//! let commits = futures_executor::block_on(store.commits(0, 10))?;
//! assert!(commits.is_empty());
//! # Ok::<(), StoreError>(())
//! ```

mod books;
mod draft;
mod keys;
mod node;
mod reading;
mod tables;
mod tree;
mod writer;
mod writing;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use event_listener::Event;

use self::reading::Books;
use self::writer::{Function, Open, Queue, Task, Writer};
use super::group_commit::{Bounds, Lane};
use super::threads::{Readers, Stopped, StopsWhenDropped, spawn};
use super::{CommitClock, NodeLease, StoreError, WriteHealth};
use crate::ports::{BoxFuture, Clock};

pub use node::{CopiesAreNotNoticed, NodeState};
pub use tree::{Order, Row, Rows, Tree, TreeChanges, View, WriteError};

const READER_THREADS: usize = 2;

/// A store on a [`Tree`]. It closes when it is dropped or [closed](super::Store::close): the tree
/// is dropped by the last of its threads then.
///
/// It cannot notice that the place was copied or put back, has no
/// [`StoreAdmin`](super::StoreAdmin), and seals nothing: whoever reads the place reads the books
/// and the node's keys. It is the books alone: for a node's state beside them see
/// [`node_state`](Self::node_state).
pub struct OrderedStore<T: Tree> {
    queue: Arc<Queue>,
    readers: Arc<Readers<T>>,
    stopped: Arc<Stopped>,
    committed: Arc<Event>,
    health: Arc<WriteHealth>,
    times: Arc<CommitClock>,
}

/// A thread that reads has ended. If not because the store was closed, it failed in the engine, and
/// nobody must wait for an answer of it.
struct ReaderEnds<T>(Arc<Readers<T>>);

impl<T> Drop for ReaderEnds<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T: Tree> OrderedStore<T> {
    /// The store on `tree`, which is empty or was one before. Commit times come from `clock`. Reads
    /// on the calling thread.
    ///
    /// # Errors
    /// `store.newer_schema`, `store.corrupt`, and what the tree answers.
    pub fn open(tree: T, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        tables::prepare(&tree)?;
        let last = Books(&tree.view()?).last_commit()?;
        let times = CommitClock::new(clock, last.map_or(0, |row| row.at_ms));
        let tree = Arc::new(tree);
        let store = Self {
            queue: Arc::new(Queue::new(Bounds::default())),
            readers: Arc::default(),
            stopped: Arc::default(),
            committed: Arc::default(),
            health: Arc::default(),
            times: Arc::new(times),
        };
        let mut threads = Vec::new();
        for _ in 0..READER_THREADS {
            let (tree, readers) = (tree.clone(), ReaderEnds(store.readers.clone()));
            threads.push(spawn("flashkit-read", move || readers.0.run(&*tree))?);
        }
        let writer = Writer {
            tree,
            queue: store.queue.clone(),
            health: store.health.clone(),
            times: store.times.clone(),
            committed: store.committed.clone(),
            lease: NodeLease::default(),
            is_unsettled: false,
            readers: store.readers.clone(),
            threads,
            _stopped: StopsWhenDropped {
                stopped: store.stopped.clone(),
                queue: store.queue.clone(),
            },
        };
        drop(spawn("flashkit-write", move || writer.run())?);
        Ok(store)
    }

    /// Asks a thread that reads: an engine reads on the thread that asks, and no call may block.
    fn ask<A: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Books<'_>) -> Result<A, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<A, StoreError>> {
        let readers = self.readers.clone();
        Box::pin(async move {
            // A damaged page makes some engines panic: that is whose read it is, and nobody else's.
            let read = readers.read(move |tree: &T| {
                unless_it_panics(|| look(&mut Books(&tree.view()?)))
                    .unwrap_or_else(|panicked| Err(panicked))
            });
            read.await
        })
    }

    /// Queues a change **now**; it is answered after its flush.
    fn change<A: Send + 'static>(
        &self,
        lane: Lane,
        change: impl FnMut(&mut Open<'_>) -> Result<A, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<A, StoreError>> {
        let (change, answered) = Function::new(change);
        self.queue.push(lane, Task::Other(Box::new(change)));
        Box::pin(async move { answered.await.unwrap_or(Err(StoreError::OutcomeUnknown)) })
    }
}

/// What an engine answers, or that it panicked.
fn unless_it_panics<A>(call: impl FnOnce() -> A) -> Result<A, StoreError> {
    // Nothing is shared with what is called but the engine, which says what it does then.
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| tables::corrupt("the engine panicked"))
}

/// What was taken in is still done, on the writer's thread.
impl<T: Tree> Drop for OrderedStore<T> {
    fn drop(&mut self) {
        self.queue.close();
        self.readers.close();
    }
}
