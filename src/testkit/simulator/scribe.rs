//! A stand-in for a real node's state: small writes, one after the other, in the lane of their own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::executor::at_once;
use super::ground::Ground;
use super::model::{Wrong, wrong};
use super::store::SimulatedStore;
use super::tally::Transition;
use crate::store::{KeyPath, KeyValue, KeyValueWrite, MemoryStore, StoreError};

fn path() -> KeyPath {
    KeyPath {
        primary: "simulated".to_owned(),
        secondary: "node".to_owned(),
        key: "written".to_owned(),
    }
}

/// How often the node has written, as it stands on the disk.
fn written(disk: &MemoryStore) -> u64 {
    let found = at_once(KeyValue::read(disk, path())).and_then(Result::ok);
    let bytes: Option<[u8; 8]> = found.flatten().and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// What the node knows of its writes, whatever becomes of the process.
#[derive(Default)]
pub(super) struct Scribe {
    /// The last one that was answered.
    acknowledged: AtomicU64,
    seen: AtomicU64,
    failed: AtomicBool,
    why: Mutex<String>,
}

impl Scribe {
    fn fail(&self, why: impl ToString) {
        self.failed.store(true, Ordering::SeqCst);
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why.to_string();
    }

    /// Writes as long as the process lives.
    pub(super) async fn write_on(self: Arc<Self>, ground: Arc<Ground>, store: SimulatedStore) {
        let Some(epoch) = begin(&ground, &store).await else {
            return;
        };
        loop {
            ground.linger(3_000).await;
            let next = match store.on_disk(written).await {
                Ok(before) => before + 1,
                Err(StoreError::Closed) => return,
                Err(_) => continue,
            };
            match store.write_node(epoch, put(next)).await {
                Ok(()) => {
                    self.acknowledged.fetch_max(next, Ordering::SeqCst);
                    ground.went(Transition::NodeWrote);
                }
                Err(StoreError::Closed) => return,
                Err(error @ (StoreError::Busy { .. } | StoreError::Fenced { .. })) => {
                    return self.fail(error);
                }
                Err(_) => {}
            }
            if ground.may(30) {
                // A process that was paused, and knows nothing of the one after it.
                match store.write_node(epoch.saturating_sub(1), put(0)).await {
                    Ok(()) => return self.fail("a write of an epoch that has ended"),
                    Err(StoreError::Fenced { .. }) => ground.went(Transition::NodeFenced),
                    Err(_) => {}
                }
            }
        }
    }

    /// What was answered is there, and what waited for batches was not kept waiting.
    pub(super) fn check(&self, disk: &MemoryStore) -> Result<(), Wrong> {
        if self.failed.load(Ordering::SeqCst) {
            let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
            return wrong("the node can write", why.clone());
        }
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        if self.seen.swap(acknowledged, Ordering::SeqCst) == acknowledged {
            return Ok(());
        }
        let written = written(disk);
        if written < acknowledged {
            let detail = format!("the node's write {acknowledged}, {written} on the disk");
            return wrong("no acknowledged commit is lost", detail);
        }
        Ok(())
    }
}

async fn begin(ground: &Ground, store: &SimulatedStore) -> Option<u64> {
    loop {
        match store.begin_node().await {
            Ok(epoch) => return Some(epoch),
            Err(StoreError::Closed) => return None,
            Err(_) => ground.linger(100).await,
        }
    }
}

fn put(number: u64) -> KeyValueWrite {
    KeyValueWrite::Put {
        path: path(),
        value: number.to_le_bytes().to_vec(),
    }
}
