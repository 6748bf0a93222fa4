//! What a store's writing suffers from, for the host to see.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::StoreError;

/// A store does not take writes. What was asked of it was answered with errors, and nothing of
/// it is kept for later: it goes on as soon as it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreTrouble {
    /// What the last write failed with.
    pub error: StoreError,
    /// Since when writes fail, milliseconds since the epoch.
    pub since_ms: i64,
}

/// Whether the last write was made: what a store keeps to answer
/// [`trouble`](super::Store::trouble).
#[derive(Debug, Default)]
pub struct WriteHealth(Mutex<Option<StoreTrouble>>);

impl WriteHealth {
    fn lock(&self) -> MutexGuard<'_, Option<StoreTrouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write failed, at `now_ms`. After [`StoreError::HandedOver`] that stays, whatever else
    /// fails or is written.
    pub fn failed(&self, error: StoreError, now_ms: i64) {
        let mut trouble = self.lock();
        if is_for_ever(&trouble) {
            return;
        }
        let since_ms = trouble.as_ref().map_or(now_ms, |trouble| trouble.since_ms);
        *trouble = Some(StoreTrouble { error, since_ms });
    }

    /// Something was written. Not to be said of a write that had nothing to do, which a full disk
    /// takes as well.
    pub fn wrote(&self) {
        let mut trouble = self.lock();
        if !is_for_ever(&trouble) {
            *trouble = None;
        }
    }

    /// What the last write failed with, unless one was made since.
    pub fn trouble(&self) -> Option<StoreTrouble> {
        self.lock().clone()
    }
}

fn is_for_ever(trouble: &Option<StoreTrouble>) -> bool {
    let trouble = trouble.as_ref();
    trouble.is_some_and(|trouble| trouble.error == StoreError::HandedOver)
}
