//! Forged taps, counted by where they come from.
//!
//! Kept in memory alone, by each engine: it slows somebody down who tries, and protects no money. A
//! restart, or another engine, gives them a few more attempts at a signature of 64 bits; to count in the
//! books would let anybody write to them (`docs/adr/0033`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::CardError;
use super::boltcard::TapError;
use super::life::LifeError;
use crate::Error;

/// How many from one source within [`WINDOW_MS`]; the next tap waits for its end.
const MAX_BAD: u32 = 10;
const WINDOW_MS: i64 = 60_000;
/// How many sources are told apart.
const MAX_SOURCES: usize = 4_096;
/// A longer name of a source is not told apart from others that begin alike.
const MAX_NAME: usize = 64;

/// What came from a source lately.
#[derive(Debug, Clone, Copy)]
struct Bad {
    since_ms: i64,
    count: u32,
}

impl Bad {
    /// How long until it counts no more.
    fn lasts_ms(self, now_ms: i64) -> i64 {
        let until_ms = self.since_ms.saturating_add(WINDOW_MS);
        // A clock that was set back must not lengthen it.
        until_ms.saturating_sub(now_ms).min(WINDOW_MS)
    }
}

/// The sources that forged taps came from lately.
#[derive(Clone, Default)]
pub(super) struct BadTaps(Arc<Mutex<BTreeMap<String, Bad>>>);

fn name(source: &str) -> String {
    source.chars().take(MAX_NAME).collect()
}

impl BadTaps {
    fn sources(&self) -> MutexGuard<'_, BTreeMap<String, Bad>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses any tap from a source that too many forged ones came from.
    pub(super) fn admit(&self, source: &str, now_ms: i64) -> Result<(), CardError> {
        match self.wait_ms(source, now_ms) {
            Some(retry_after_ms) => Err(CardError::TooManyBadTaps { retry_after_ms }),
            None => Ok(()),
        }
    }

    /// How long a source has to wait that too many bad ones came from.
    pub(super) fn wait_ms(&self, source: &str, now_ms: i64) -> Option<i64> {
        let bad = self.sources().get(&name(source)).copied()?;
        let wait_ms = bad.lasts_ms(now_ms);
        (bad.count >= MAX_BAD && wait_ms > 0).then_some(wait_ms)
    }

    /// Counts what came of a tap, where its signature was wrong.
    pub(super) fn count_if_bad<T>(&self, source: &str, now_ms: i64, tap: &Result<T, Error>) {
        use CardError::{Life, Tap};

        if let Err(Error::Card(Tap(TapError::WrongMac) | Life(LifeError::WrongCode { .. }))) = tap {
            self.count(source, now_ms);
        }
    }

    /// Counts a bad one.
    pub(super) fn count(&self, source: &str, now_ms: i64) {
        let mut sources = self.sources();
        let source = name(source);
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            make_room(&mut sources, now_ms);
        }
        let fresh = Bad {
            since_ms: now_ms,
            count: 0,
        };
        let bad = sources.entry(source).or_insert(fresh);
        if bad.lasts_ms(now_ms) <= 0 {
            *bad = fresh;
        }
        bad.count = bad.count.saturating_add(1);
    }
}

/// Forgets those that count no more, or, where all do, the one that will first.
fn make_room(sources: &mut BTreeMap<String, Bad>, now_ms: i64) {
    sources.retain(|_, bad| bad.lasts_ms(now_ms) > 0);
    if sources.len() < MAX_SOURCES {
        return;
    }
    let oldest = sources.iter().min_by_key(|(_, bad)| bad.since_ms);
    if let Some(oldest) = oldest.map(|(source, _)| source.clone()) {
        sources.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forged() -> Result<(), Error> {
        Err(CardError::from(TapError::WrongMac).into())
    }

    #[test]
    fn the_window_is_from_the_first_and_ends() {
        let taps = BadTaps::default();
        for number in 0..10 {
            assert_eq!(taps.admit("a", number), Ok(()));
            taps.count_if_bad("a", number, &forged());
        }
        let refused = |retry_after_ms| Err(CardError::TooManyBadTaps { retry_after_ms });
        assert_eq!(taps.admit("a", 10), refused(59_990));
        assert_eq!(taps.admit("b", 10), Ok(()), "somebody else");
        assert_eq!(taps.admit("a", 59_999), refused(1));
        assert_eq!(taps.admit("a", 60_000), Ok(()));
        taps.count_if_bad("a", 60_000, &forged());
        assert_eq!(taps.admit("a", 60_001), Ok(()), "counted from one again");
        // A clock that was set back makes it no longer than the window.
        for _ in 0..9 {
            taps.count_if_bad("a", 60_000, &forged());
        }
        assert_eq!(taps.admit("a", 0), refused(60_000));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes() {
        let taps = BadTaps::default();
        for number in 0..MAX_SOURCES + 100 {
            let at_ms = i64::try_from(number).unwrap();
            taps.count_if_bad(&format!("source {number}"), at_ms, &forged());
            assert!(taps.sources().len() <= MAX_SOURCES);
        }
        assert!(!taps.sources().contains_key("source 99"));
        assert!(taps.sources().contains_key("source 100"));
        let long = "x".repeat(1_000_000);
        taps.count_if_bad(&long, 5_000, &forged());
        assert!(taps.sources().keys().all(|name| name.len() <= MAX_NAME));
        // Those that count no more make room for all that come.
        taps.count_if_bad("late", 1_000_000, &forged());
        assert_eq!(taps.sources().len(), 1);
    }

    #[test]
    fn only_wrong_signatures_count() {
        let taps = BadTaps::default();
        let malformed = TapError::Malformed { reason: "test" };
        for error in [
            CardError::from(TapError::NotOurs),
            malformed.into(),
            CardError::NotFound,
        ] {
            taps.count_if_bad("a", 0, &Err::<(), _>(error.into()));
        }
        taps.count_if_bad("a", 0, &Ok(()));
        assert!(taps.sources().is_empty());
    }
}
