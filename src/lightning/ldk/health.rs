//! How the node's storage is doing, for the host to read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lightning::NodeTrouble;
use crate::ports::Clock;
use crate::store::StoreError;

/// The store refuses writes of the node; they are being retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreTrouble {
    /// What the store said last.
    pub error: StoreError,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// How many writes of the node wait.
    pub writes_waiting: usize,
}

/// How a node's storage is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeHealthReport {
    /// Set while writes fail; the node waits and goes on by itself once the store heals.
    pub store_trouble: Option<StoreTrouble>,
    /// Set once the node lost its place: another epoch of it began, or its lease could not be
    /// renewed in time. Until it is started again.
    pub fenced: Option<StoreError>,
}

impl NodeHealthReport {
    /// True when the store takes the node's writes and the node still has its place.
    pub fn is_good(&self) -> bool {
        self.store_trouble.is_none() && self.fenced.is_none()
    }
}

/// The health of one node, shared by the node and its host.
pub struct NodeHealth {
    clock: Arc<dyn Clock>,
    report: Mutex<NodeHealthReport>,
}

impl NodeHealth {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            report: Mutex::default(),
        }
    }

    /// The time of day.
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// How it stands now.
    pub fn report(&self) -> NodeHealthReport {
        self.lock().clone()
    }

    /// The worse of what is wrong.
    pub(super) fn trouble(&self) -> Option<NodeTrouble> {
        let NodeHealthReport {
            store_trouble,
            fenced,
        } = self.report();
        if let Some(error) = fenced {
            return Some(NodeTrouble {
                error,
                since_ms: None,
                writes_waiting: 0,
            });
        }
        store_trouble.map(|trouble| NodeTrouble {
            error: trouble.error,
            since_ms: Some(trouble.since_ms),
            writes_waiting: trouble.writes_waiting,
        })
    }

    fn lock(&self) -> MutexGuard<'_, NodeHealthReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write failed; `first` when it is the first failure of that write.
    pub(super) fn write_failed(&self, error: StoreError, first: bool) {
        let since_ms = self.clock.now_ms();
        let mut report = self.lock();
        let trouble = report.store_trouble.get_or_insert(StoreTrouble {
            error: error.clone(),
            since_ms,
            writes_waiting: 0,
        });
        trouble.error = error;
        trouble.writes_waiting += usize::from(first);
    }

    /// A write that had failed is settled.
    pub(super) fn write_recovered(&self) {
        let mut report = self.lock();
        if let Some(trouble) = &mut report.store_trouble {
            trouble.writes_waiting = trouble.writes_waiting.saturating_sub(1);
            if trouble.writes_waiting == 0 {
                report.store_trouble = None;
            }
        }
    }

    pub(super) fn set_fenced(&self, error: Option<StoreError>) {
        self.lock().fenced = error;
    }
}

impl std::fmt::Debug for NodeHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NodeHealth").field(&self.report()).finish()
    }
}
