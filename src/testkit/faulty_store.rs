//! A node's state in memory, with faults on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use event_listener::Event;

use crate::ports::BoxFuture;
use crate::store::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, StoreError};

#[derive(Default)]
struct Inner {
    values: BTreeMap<KeyPath, Vec<u8>>,
    epoch: u64,
    /// How many of the next writes fail, and how.
    failing: Option<(usize, StoreError)>,
    held: bool,
    attempts: usize,
    applied: Vec<KeyPath>,
}

/// A [`KeyValue`] in memory whose writes can be made to fail, or to wait. A clone is the same
/// store.
#[derive(Clone, Default)]
pub struct FaultyKeyValue {
    inner: Arc<Mutex<Inner>>,
    released: Arc<Event>,
}

impl FaultyKeyValue {
    /// An empty one without faults.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next `count` writes fail with `error` and change nothing.
    pub fn fail_writes(&self, count: usize, error: StoreError) {
        self.lock().failing = Some((count, error));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.lock().failing = None;
        self.release();
    }

    /// Writes are made, but not answered, until [`release`](Self::release).
    pub fn hold_answers(&self) {
        self.lock().held = true;
    }

    /// Answers what was held.
    pub fn release(&self) {
        self.lock().held = false;
        self.released.notify(usize::MAX);
    }

    /// How many writes were tried, failed ones included.
    pub fn attempts(&self) -> usize {
        self.lock().attempts
    }

    /// The paths of all writes that were made, in order.
    pub fn applied(&self) -> Vec<KeyPath> {
        self.lock().applied.clone()
    }

    /// The value at a path.
    pub fn value(&self, primary: &str, secondary: &str, key: &str) -> Option<Vec<u8>> {
        let path = KeyPath {
            primary: primary.into(),
            secondary: secondary.into(),
            key: key.into(),
        };
        self.lock().values.get(&path).cloned()
    }

    /// A second store with the same content: what a disk holds when the process is killed now.
    pub fn snapshot(&self) -> Self {
        let inner = self.lock();
        let copy = Inner {
            values: inner.values.clone(),
            epoch: inner.epoch,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(copy)),
            released: Arc::default(),
        }
    }

    fn apply(&self, epoch: u64, change: KeyValueWrite) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.attempts += 1;
        if epoch < inner.epoch {
            return Err(StoreError::Fenced {
                given: epoch,
                current: inner.epoch,
            });
        }
        if let Some((count, error)) = inner.failing.clone() {
            if count > 0 {
                inner.failing = Some((count - 1, error.clone()));
                return Err(error);
            }
            inner.failing = None;
        }
        let path = match change {
            KeyValueWrite::Put { path, value } => {
                inner.values.insert(path.clone(), value);
                path
            }
            KeyValueWrite::Remove { path } => {
                inner.values.remove(&path);
                path
            }
        };
        inner.applied.push(path);
        Ok(())
    }
}

impl KeyValue for FaultyKeyValue {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        let mut inner = self.lock();
        inner.epoch += 1;
        let epoch = inner.epoch;
        Box::pin(async move { Ok(epoch) })
    }

    /// Nobody else wants it: a lease is given to whoever asks.
    fn take_lease(
        &self,
        _holder: NodeHolder,
        _lasts: Duration,
    ) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.begin_epoch()
    }

    fn renew_lease(
        &self,
        epoch: u64,
        _lasts: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let current = self.lock().epoch;
        let fenced = StoreError::Fenced {
            given: epoch,
            current,
        };
        let renewed = if epoch == current {
            Ok(())
        } else {
            Err(fenced)
        };
        Box::pin(async move { renewed })
    }

    fn release_lease(&self, epoch: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        self.renew_lease(epoch, Duration::ZERO)
    }

    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let result = self.apply(epoch, change);
        let store = self.clone();
        Box::pin(async move {
            loop {
                let released = store.released.listen();
                if !store.lock().held {
                    return result;
                }
                released.await;
            }
        })
    }

    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> {
        let value = self.lock().values.get(&path).cloned();
        Box::pin(std::future::poll_fn(move |_| {
            Poll::Ready(Ok(value.clone()))
        }))
    }

    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        let inner = self.lock();
        let keys = inner.values.keys();
        let keys = keys
            .filter(|path| path.primary == primary && path.secondary == secondary)
            .map(|path| path.key.clone())
            .collect();
        Box::pin(async move { Ok(keys) })
    }
}
