//! A clock that moves when it is told to.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::ports::Clock;

/// A clock that stands still until it is moved, in either direction.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
    /// The latest time that it has shown after time had passed.
    latest_ms: AtomicI64,
    steady_ms: AtomicI64,
}

impl ManualClock {
    /// A clock that shows `now_ms`, milliseconds since the epoch.
    pub fn at(now_ms: i64) -> Self {
        Self {
            now_ms: AtomicI64::new(now_ms),
            latest_ms: AtomicI64::new(now_ms),
            steady_ms: AtomicI64::new(0),
        }
    }

    /// Shows another time from now on: one that is later than all before after that time has
    /// passed, and any other one because the clock was set.
    pub fn set(&self, now_ms: i64) {
        let before_ms = self.latest_ms.fetch_max(now_ms, Ordering::SeqCst);
        let passed_ms = now_ms.saturating_sub(before_ms).max(0);
        self.steady_ms.fetch_add(passed_ms, Ordering::SeqCst);
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }

    /// Shows another time from now on, although no time has passed: somebody has set the clock.
    pub fn jump(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }

    /// Moves forward.
    pub fn advance(&self, duration: Duration) {
        let by = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.now_ms.fetch_add(by, Ordering::SeqCst);
        let now_ms = before_ms.saturating_add(by);
        self.latest_ms.fetch_max(now_ms, Ordering::SeqCst);
        self.steady_ms.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn steady_ms(&self) -> i64 {
        self.steady_ms.load(Ordering::SeqCst)
    }
}
