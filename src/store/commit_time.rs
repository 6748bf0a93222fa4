//! When commits are made: by the clock, as long as that can be right.
//!
//! Limits, holds and taps go by the time of commits, and that never decreases. So a clock that was
//! once far ahead must neither stop the time of the books until it catches up, nor take them along
//! in the blink in which it is wrong. And a clock that was set right must be believed, by however
//! much that moves it. [`CommitTimes`] has the rule, [`CommitClock`] is what a store keeps.
//! `docs/adr/0029` says why it is this one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use crate::ports::Clock;

/// How far the clock may go ahead of the time that has passed since the last commit: a day. So long
/// may a machine sleep whose steady clock sleeps as well.
pub const MOST_AHEAD_MS: i64 = 24 * 3_600_000;
/// How long a clock that has gone further ahead must stay there to be believed: ten minutes.
pub const BELIEVED_AFTER_MS: i64 = 600_000;
/// While the clock is behind the books, their time goes slower than the time that passes, by one
/// part in so many: so they meet in the end.
const SLOWER_BY: i64 = 8;

/// What two clocks of one machine show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, milliseconds since the epoch. It may jump in either direction.
    pub wall_ms: i64,
    /// What has passed since some moment, in milliseconds. It is never set.
    pub steady_ms: i64,
}

impl Moment {
    /// This one. The time of day is read on both sides of the other one: whoever was put to sleep
    /// between the two would take what it slept for a jump.
    pub fn now(clock: &dyn Clock) -> Self {
        let mut wall_ms = clock.now_ms();
        for _ in 0..3 {
            let (steady_ms, again_ms) = (clock.steady_ms(), clock.now_ms());
            if again_ms == wall_ms {
                return Self { wall_ms, steady_ms };
            }
            wall_ms = again_ms;
        }
        let steady_ms = clock.steady_ms();
        Self { wall_ms, steady_ms }
    }
}

/// The time of a commit that was made, or could be: what later ones are measured from.
#[derive(Debug, Clone, Copy)]
struct Measured {
    at_ms: i64,
    steady_ms: i64,
}

/// The times of commits, one after the other: a pure rule upon what is shown by the clocks.
///
/// - No commit is before one that was made.
/// - It is at the time of day that the clock shows, where none of the following holds.
/// - While the clock is behind, the time of the books goes on with the time that passes, seven
///   eighths as fast: what was to last a day ends, and the clock catches up.
/// - A clock that runs ahead of the time that has passed by more than [`MOST_AHEAD_MS`] is believed
///   once it has been there for [`BELIEVED_AFTER_MS`]; until then commits are made at the time that
///   has passed. That is measured from the last commit, and before the first one from what the clock
///   showed when the books were opened: how long they had lain there nobody can tell.
#[derive(Debug, Clone, Copy)]
pub struct CommitTimes {
    /// The time of the last commit.
    last_ms: i64,
    from: Measured,
    /// What the clocks showed when the books were opened.
    opened: Moment,
    /// False until a commit was made since the books were opened, here or by somebody else: how
    /// long ago the last one is cannot be told then.
    has_committed: bool,
    /// What [`next`](Self::next) has answered last, if time is to be measured from there.
    proposed: Option<Measured>,
    /// Since when the clock is too far ahead, by the steady clock.
    ahead_since_ms: Option<i64>,
}

impl CommitTimes {
    /// Begins with books whose last commit was at `last_ms`, 0 without any, at the moment in which
    /// they are opened.
    pub fn new(last_ms: i64, now: Moment) -> Self {
        Self {
            last_ms,
            from: Measured {
                at_ms: last_ms,
                steady_ms: now.steady_ms,
            },
            opened: now,
            has_committed: false,
            proposed: None,
            ahead_since_ms: None,
        }
    }

    /// What time it is by all that has passed, and by what the books go on at least.
    fn measured(&self, now: Moment) -> (i64, i64) {
        let Measured { at_ms, steady_ms } = self.from;
        let passed_ms = now.steady_ms.saturating_sub(steady_ms).max(0);
        let slower_ms = passed_ms - passed_ms / SLOWER_BY;
        (
            at_ms.saturating_add(passed_ms),
            at_ms.saturating_add(slower_ms),
        )
    }

    /// The time of a commit that is made now.
    pub fn next(&mut self, now: Moment) -> i64 {
        let (mut passed_by_ms, slower_ms) = self.measured(now);
        if !self.has_committed {
            let passed_ms = now.steady_ms.saturating_sub(self.opened.steady_ms).max(0);
            let shown_then = self.opened.wall_ms.saturating_add(passed_ms);
            passed_by_ms = passed_by_ms.max(shown_then);
        }
        let is_ahead = now.wall_ms.saturating_sub(passed_by_ms) > MOST_AHEAD_MS;
        // New books take nobody along.
        let is_new = !self.has_committed && self.last_ms == 0;
        self.ahead_since_ms = match self.ahead_since_ms {
            _ if !is_ahead || is_new => None,
            None => Some(now.steady_ms),
            since => since,
        };
        let is_believed = self
            .ahead_since_ms
            .is_none_or(|since| now.steady_ms.saturating_sub(since) >= BELIEVED_AFTER_MS);
        let shown = if is_believed {
            now.wall_ms
        } else {
            passed_by_ms
        };
        let at_ms = shown.max(slower_ms).max(self.last_ms);
        // While the clock is behind, measured from one place: parts of a millisecond add up.
        self.proposed = (at_ms == shown).then_some(Measured {
            at_ms,
            steady_ms: now.steady_ms,
        });
        at_ms
    }

    /// Something was committed at `at_ms`, which [`next`](Self::next) had answered last.
    pub fn written(&mut self, at_ms: i64) {
        self.last_ms = self.last_ms.max(at_ms);
        self.has_committed = true;
        if let Some(proposed) = self.proposed.take_if(|proposed| proposed.at_ms == at_ms) {
            self.from = proposed;
        }
    }

    /// Somebody else has committed at `last_ms`, not after this moment.
    pub fn seen(&mut self, last_ms: i64, now: Moment) {
        let (_, slower_ms) = self.measured(now);
        // In books that were empty it may have come with them, from long ago.
        self.has_committed |= self.last_ms > 0 && last_ms > self.last_ms;
        self.last_ms = self.last_ms.max(last_ms);
        if last_ms > slower_ms {
            self.from = Measured {
                at_ms: last_ms,
                steady_ms: now.steady_ms,
            };
        }
    }
}

/// The clock that commits are made by: one for all who ask a store.
pub struct CommitClock {
    clock: Arc<dyn Clock>,
    times: Mutex<CommitTimes>,
}

impl CommitClock {
    /// For books whose last commit was at `last_ms`, 0 without any.
    pub fn new(clock: Arc<dyn Clock>, last_ms: i64) -> Self {
        let times = Mutex::new(CommitTimes::new(last_ms, Moment::now(&*clock)));
        Self { clock, times }
    }

    fn times(&self) -> MutexGuard<'_, CommitTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of day, as the clock shows it.
    pub fn wall_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// What has passed since some moment, by the clock that is never set.
    pub fn steady_ms(&self) -> i64 {
        self.clock.steady_ms()
    }

    /// When a commit would be made that is made now: what a store answers as its
    /// [`commit_time_ms`](super::Store::commit_time_ms).
    pub fn now_ms(&self) -> i64 {
        let mut times = self.times();
        let proposed = times.proposed;
        let at_ms = times.next(Moment::now(&*self.clock));
        // The writer's own stands until it has written.
        times.proposed = proposed;
        at_ms
    }

    /// The time of the commit, or of the group of them, that is made now by the one who writes.
    pub fn next_ms(&self) -> i64 {
        self.times().next(Moment::now(&*self.clock))
    }

    /// The group of `at_ms` was written. What was refused has no time, so that it is the same
    /// after the next open.
    pub fn written(&self, at_ms: i64, any_batch: bool) {
        if any_batch {
            self.times().written(at_ms);
        }
    }

    /// The group of `at_ms` failed with `answer`. It may have been made after all, and then
    /// nothing is made before it.
    pub fn failed(&self, at_ms: i64, answer: &StoreError) {
        self.written(at_ms, *answer == StoreError::OutcomeUnknown);
    }

    /// Somebody else has committed at `last_ms`.
    pub fn seen(&self, last_ms: i64) {
        self.times().seen(last_ms, Moment::now(&*self.clock));
    }
}
