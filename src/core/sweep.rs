//! When to look at what a clock that was far ahead has put off.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often it is looked at while the clock is behind the books: another instance may have had the
/// wrong time for longer.
const EVERY_MS: i64 = 600_000;

/// One look at all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// By the steady clock.
    pub(crate) at_ms: i64,
    /// The node's jobs are left to whoever has it.
    pub(crate) without_node: bool,
}

impl Sweep {
    /// Whether `now` it is time for another one.
    fn is_over(self, now: Self) -> bool {
        let passed_ms = now.at_ms.saturating_sub(self.at_ms);
        passed_ms >= EVERY_MS || (self.without_node && !now.without_node)
    }
}

/// The last one since the clock is behind, if there was any.
#[derive(Default)]
pub(crate) struct Sweeps(Mutex<Option<Sweep>>);

impl Sweeps {
    fn last(&self) -> MutexGuard<'_, Option<Sweep>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_due(&self, now: Sweep) -> bool {
        self.last().is_none_or(|last| last.is_over(now))
    }

    /// All of it was looked at.
    pub(crate) fn made(&self, sweep: Sweep) {
        *self.last() = Some(sweep);
    }

    /// The clock is behind no more.
    pub(crate) fn ended(&self) {
        *self.last() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_off_is_looked_at_again_while_the_clock_is_behind() {
        let now = |at_ms, without_node| Sweep {
            at_ms,
            without_node,
        };
        let sweeps = Sweeps::default();
        assert!(sweeps.is_due(now(1_000, false)));
        sweeps.made(now(1_000, false));
        assert!(!sweeps.is_due(now(1_000, false)));
        assert!(!sweeps.is_due(now(600_999, true)));
        assert!(sweeps.is_due(now(601_000, false)));
        sweeps.ended();
        assert!(sweeps.is_due(now(1_001, false)));
        // Whoever gets the node has its jobs as well.
        sweeps.made(now(1_000, true));
        assert!(!sweeps.is_due(now(1_001, true)));
        assert!(sweeps.is_due(now(1_001, false)));
    }
}
