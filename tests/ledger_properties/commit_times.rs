//! The time of the books against clocks that are set to anything.

use flashkit::store::commit_time::{BELIEVED_AFTER_MS, CommitTimes, MOST_AHEAD_MS, Moment};
use proptest::prelude::*;

const DAY_MS: i64 = 24 * 3_600_000;
const RIGHT_MS: i64 = 1_795_000_000_000;

/// What happens between two commits: so much time passes, and the clock is set anew or not.
#[derive(Debug, Clone)]
struct Turn {
    passed_ms: i64,
    off_by_ms: Option<i64>,
    /// Of another instance.
    is_by_other: bool,
}

fn turns(most_off_ms: i64) -> impl Strategy<Value = Vec<Turn>> {
    let passed = prop_oneof![0..20_i64, 0..90_000_i64, 0..3 * DAY_MS];
    let off = prop_oneof![
        8 => Just(None),
        1 => Just(Some(0)),
        2 => (-most_off_ms..=most_off_ms).prop_map(Some)
    ];
    let turn = (passed, off, prop::bool::weighted(0.2));
    let turn = turn.prop_map(|(passed_ms, off_by_ms, is_by_other)| Turn {
        passed_ms,
        off_by_ms,
        is_by_other,
    });
    prop::collection::vec(turn, 1..60)
}

struct World {
    times: CommitTimes,
    now: Moment,
    off_by_ms: i64,
    last_ms: i64,
}

impl World {
    fn new(last_ms: i64) -> Self {
        let now = Moment {
            wall_ms: RIGHT_MS,
            steady_ms: 77,
        };
        Self {
            times: CommitTimes::new(last_ms, now),
            now,
            off_by_ms: 0,
            last_ms,
        }
    }

    fn pass(&mut self, passed_ms: i64) {
        self.now.wall_ms += passed_ms;
        self.now.steady_ms += passed_ms;
    }

    fn set_off(&mut self, by_ms: i64) {
        self.now.wall_ms += by_ms - self.off_by_ms;
        self.off_by_ms = by_ms;
    }

    fn commit(&mut self) -> i64 {
        let at_ms = self.times.next(self.now);
        assert!(at_ms >= self.last_ms, "{at_ms} before {}", self.last_ms);
        self.times.written(at_ms);
        self.last_ms = at_ms;
        at_ms
    }

    fn turn(&mut self, turn: &Turn) -> i64 {
        self.pass(turn.passed_ms);
        if let Some(by_ms) = turn.off_by_ms {
            self.set_off(by_ms);
        }
        if turn.is_by_other {
            // One whose clock is a little ahead, as ours would be there.
            self.last_ms = self.last_ms.max(self.times.next(self.now) + 3);
            self.times.seen(self.last_ms, self.now);
        }
        self.commit()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever the clock is set to: no commit is before another, none is further ahead than the
    /// clock ever was, time goes on while it passes, and never much faster.
    #[test]
    fn the_time_of_the_books_goes_on(turns in turns(4_000 * DAY_MS), last in 0..2 * RIGHT_MS) {
        let mut world = World::new(last);
        let (mut latest_ms, mut is_first) = (last, true);
        for turn in &turns {
            let before_ms = world.last_ms;
            let at_ms = world.turn(turn);
            latest_ms = latest_ms.max(world.now.wall_ms);
            // Beyond what was ever shown only where the clock was set back: by what has passed.
            latest_ms += if turn.is_by_other { 3 } else { 0 };
            let is_behind = world.now.wall_ms < at_ms;
            if is_behind {
                latest_ms = latest_ms.max(before_ms + turn.passed_ms + 3);
            }
            prop_assert!(at_ms <= latest_ms, "{at_ms} after {latest_ms}");
            let least_ms = turn.passed_ms - turn.passed_ms / 8 - 1;
            // How long the last commit was ago when the books were opened, nobody knows.
            prop_assert!(is_first || at_ms - before_ms >= least_ms.min(turn.passed_ms), "it stood");
            is_first = false;
        }
    }

    /// A clock that is right in the end is believed: at once, or in ten minutes; and books that were
    /// taken ahead wait for it at an eighth of the time that passes.
    #[test]
    fn a_clock_that_was_set_right_is_believed(turns in turns(4_000 * DAY_MS), step in 1..300_000_i64) {
        let mut world = World::new(0);
        for turn in &turns {
            world.turn(turn);
        }
        world.set_off(0);
        let ahead_ms = (world.commit() - world.now.wall_ms).max(0);
        let (mut passed_ms, wait_ms) = (0, (8 * (ahead_ms + 8)).max(BELIEVED_AFTER_MS));
        // As many commits as there are, and then one when it is due.
        for _ in 0..40 {
            world.pass(step);
            passed_ms += step;
            world.commit();
        }
        world.pass((wait_ms - passed_ms).max(0));
        prop_assert_eq!(world.commit(), world.now.wall_ms);
    }

    /// Nor does one that has committed nothing yet take along the books that others write.
    #[test]
    fn a_wrong_clock_takes_nobody_along(
        far in MOST_AHEAD_MS + 1..4_000 * DAY_MS,
        passed in 1..100_000_i64,
    ) {
        let mut world = World::new(RIGHT_MS - DAY_MS);
        world.pass(passed);
        let others_ms = world.now.wall_ms;
        world.set_off(far);
        world.last_ms = others_ms;
        world.times.seen(others_ms, world.now);
        prop_assert_eq!(world.commit(), others_ms);
    }

    /// Nor does one that went wrong after the books were opened, before anything was committed; and
    /// new books begin when the clock says.
    #[test]
    fn a_clock_that_goes_wrong_before_the_first_commit_leaves_no_trace(
        lay in 1..4_000 * DAY_MS,
        far in MOST_AHEAD_MS + 1..4_000 * DAY_MS,
        passed in 0..3 * DAY_MS,
    ) {
        let mut world = World::new(RIGHT_MS - lay);
        world.pass(passed);
        world.set_off(far);
        prop_assert_eq!(world.commit(), RIGHT_MS + passed);
        world.set_off(0);
        prop_assert_eq!(world.commit(), RIGHT_MS + passed);
        let mut world = World::new(0);
        world.set_off(far);
        prop_assert_eq!(world.commit(), RIGHT_MS + far);
    }

    /// A clock that is far ahead for less than ten minutes leaves no trace.
    #[test]
    fn a_clock_that_was_wrong_for_a_moment_is_not_followed(
        far in MOST_AHEAD_MS + 1..4_000 * DAY_MS,
        steps in prop::collection::vec(1..100_000_i64, 1..20),
    ) {
        let mut world = World::new(0);
        world.commit();
        world.set_off(far);
        let mut stayed_ms = 0;
        for step in steps {
            let right_ms = world.now.wall_ms - far;
            prop_assert_eq!(world.commit(), right_ms);
            if stayed_ms + step >= BELIEVED_AFTER_MS {
                break;
            }
            stayed_ms += step;
            world.pass(step);
        }
        world.set_off(0);
        world.pass(1);
        prop_assert_eq!(world.commit(), world.now.wall_ms);
    }
}

/// A look proposes nothing, and what was refused has no time.
#[test]
fn what_was_not_written_has_no_time() {
    let mut world = World::new(0);
    world.commit();
    world.set_off(DAY_MS / 2);
    assert_eq!(world.times.next(world.now), RIGHT_MS + DAY_MS / 2);
    world.set_off(0);
    assert_eq!(world.commit(), RIGHT_MS);
    // Commits every millisecond while the clock is an hour behind: an eighth of one is not lost.
    world.set_off(3_600_000);
    let ahead_ms = world.commit();
    world.set_off(0);
    for _ in 0..8_000 {
        world.pass(1);
        world.commit();
    }
    assert_eq!(world.last_ms, ahead_ms + 7_000);
}
