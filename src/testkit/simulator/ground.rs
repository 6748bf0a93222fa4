//! What the engine stands on in a simulation: time, randomness, faults, and the record of it all.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::bugs::PlantedBug;
use super::executor::{SeededExecutor, pass};
use super::random::Random;
use super::tally::{Fault, Tally, Transition};
use crate::ports::{BoxFuture, Clock, Entropy, EntropyError, Executor};

/// A day in November.
const BEGINNING_MS: i64 = 1_763_000_000_000;

/// How much goes wrong at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// Nothing.
    Calm,
    /// A little.
    Fair,
    /// Much.
    Storm,
}

/// Shared by everything in a simulation.
pub(super) struct Ground {
    pub(super) executor: SeededExecutor,
    /// What the clock shows beyond the time that passed.
    clock_ahead_ms: AtomicI64,
    latest_ms: AtomicI64,
    /// Of the best block.
    height: AtomicU32,
    inner: Mutex<Inner>,
}

struct Inner {
    faults: Random,
    entropy: Random,
    trace: Sha256,
    tally: Tally,
    weather: Weather,
    bug: Option<PlantedBug>,
    flushing: Flushing,
}

/// How far the writer is with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushing {
    Nothing,
    Decided,
    Flushed,
}

impl Ground {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            executor: SeededExecutor::new(Random::new(seed, "schedule")),
            clock_ahead_ms: AtomicI64::new(0),
            latest_ms: AtomicI64::new(0),
            height: AtomicU32::new(800_000),
            inner: Mutex::new(Inner {
                faults: Random::new(seed, "faults"),
                entropy: Random::new(seed, "entropy"),
                trace: Sha256::new(),
                tally: Tally::default(),
                weather: Weather::Calm,
                bug: None,
                flushing: Flushing::Nothing,
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the engine has this bug.
    pub(super) fn plant(&self, bug: Option<PlantedBug>) {
        self.inner().bug = bug;
    }

    pub(super) fn bug(&self) -> Option<PlantedBug> {
        self.inner().bug
    }

    pub(super) fn has(&self, bug: PlantedBug) -> bool {
        self.bug() == Some(bug)
    }

    /// Puts something on the record.
    pub(super) fn trace(&self, what: &str, number: u64) {
        let mut inner = self.inner();
        inner.trace.update(what);
        inner.trace.update(number.to_le_bytes());
    }

    /// The digest of the whole record.
    pub(super) fn digest(&self) -> String {
        hex::encode(self.inner().trace.clone().finalize())
    }

    pub(super) fn tally(&self) -> Tally {
        self.inner().tally.clone()
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    pub(super) fn set_flushing(&self, flushing: Flushing) {
        self.inner().flushing = flushing;
    }

    pub(super) fn flushing(&self) -> Flushing {
        self.inner().flushing
    }

    /// Whether this goes wrong now: so often in a thousand times in a storm, ten times more
    /// rarely in fair weather. Nothing is counted.
    pub(super) fn may(&self, per_mille: u64) -> bool {
        let mut inner = self.inner();
        match inner.weather {
            Weather::Calm => false,
            Weather::Fair => inner.faults.next() % 10_000 < per_mille,
            Weather::Storm => inner.faults.chance(per_mille),
        }
    }

    /// As [`may`](Self::may), and counted when it does.
    pub(super) fn strikes(&self, fault: Fault, per_mille: u64) -> bool {
        let strikes = self.may(per_mille);
        if strikes {
            self.struck(fault);
        }
        strikes
    }

    pub(super) fn struck(&self, fault: Fault) {
        self.trace("fault", fault as u64);
        self.inner().tally.fault(fault);
    }

    pub(super) fn went(&self, transition: Transition) {
        self.inner().tally.transition(transition);
    }

    /// A number by chance.
    pub(super) fn dice(&self) -> u64 {
        self.inner().faults.next()
    }

    /// A number in `[from, to]` by chance.
    pub(super) fn between(&self, from: i64, to: i64) -> i64 {
        self.inner().faults.between(from, to)
    }

    /// Takes a while, or only lets others go first.
    pub(super) async fn linger(&self, most_ms: i64) {
        match self.between(0, most_ms) {
            0 => pass().await,
            ms => self.sleep(Duration::from_millis(ms.unsigned_abs())).await,
        }
    }

    pub(super) fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.executor.sleep(duration)
    }

    /// The height of the best block that the node knows: a reorg that it sees is over at once.
    pub(super) fn height(&self) -> u32 {
        self.height.load(Ordering::SeqCst)
    }

    pub(super) fn find_block(&self) {
        self.height.fetch_add(1, Ordering::SeqCst);
    }

    /// The clock jumps.
    pub(super) fn jump_clock(&self, by_ms: i64) {
        self.clock_ahead_ms.fetch_add(by_ms, Ordering::SeqCst);
        self.trace("clock", by_ms.cast_unsigned());
    }

    /// Somebody was told that it is this time.
    pub(super) fn told(&self, at_ms: i64) {
        self.latest_ms.fetch_max(at_ms, Ordering::SeqCst);
    }

    /// The latest time that was ever shown.
    pub(super) fn latest_ms(&self) -> i64 {
        self.latest_ms.load(Ordering::SeqCst)
    }
}

impl Clock for Ground {
    fn now_ms(&self) -> i64 {
        let passed = i64::try_from(self.executor.now_ms()).unwrap_or(i64::MAX);
        let now_ms = BEGINNING_MS
            .saturating_add(passed)
            .saturating_add(self.clock_ahead_ms.load(Ordering::SeqCst));
        self.told(now_ms);
        now_ms
    }

    fn steady_ms(&self) -> i64 {
        i64::try_from(self.executor.now_ms()).unwrap_or(i64::MAX)
    }
}

impl Entropy for Ground {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        let mut inner = self.inner();
        for chunk in bytes.chunks_mut(8) {
            let drawn = inner.entropy.next().to_le_bytes();
            for (byte, drawn) in chunk.iter_mut().zip(drawn) {
                *byte = drawn;
            }
        }
        Ok(())
    }
}
