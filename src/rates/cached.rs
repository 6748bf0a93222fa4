//! A source that is asked no more often than it likes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_channel::oneshot;
use serde::{Deserialize, Serialize};

use super::wait::within;
use super::{RateError, RateObservation, RatePair, RatePolicy, RateSource};
use crate::money::Currency;
use crate::ports::{Clock, Executor};

/// How a source is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachePolicy {
    /// The source is asked for one pair no more often than once in so many milliseconds, whether
    /// it answers or fails.
    pub refresh_ms: i64,
    /// How long the source is given, in milliseconds.
    pub timeout_ms: u64,
}

type Answer = Result<RateObservation, RateError>;

#[derive(Default)]
struct Entry {
    /// The newest good answer.
    latest: Option<RateObservation>,
    /// Why the last attempt gave none.
    failure: Option<RateError>,
    asked_at_ms: Option<i64>,
    /// Who waits for the fetch that runs; `None` when none does.
    waiting: Option<Vec<oneshot::Sender<Answer>>>,
}

struct Shared {
    source: Arc<dyn RateSource>,
    policy: CachePolicy,
    ages: RatePolicy,
    clock: Arc<dyn Clock>,
    executor: Arc<dyn Executor>,
    // One for each pair that is asked for: as many as there are currencies, at most.
    entries: Mutex<HashMap<RatePair, Entry>>,
}

/// Keeps the newest rate of a source. Whoever asks for one that is still fresh has it at once,
/// and it is fetched anew beside him once it is older than the interval. All who find none wait
/// for one fetch. A rate that is older than the policy's age is never served.
#[derive(Clone)]
pub struct CachedRates(Arc<Shared>);

impl CachedRates {
    /// Caches `source`; `ages` says how old a rate may be to be served.
    pub fn new(
        source: Arc<dyn RateSource>,
        policy: CachePolicy,
        ages: RatePolicy,
        clock: Arc<dyn Clock>,
        executor: Arc<dyn Executor>,
    ) -> Self {
        Self(Arc::new(Shared {
            source,
            policy,
            ages,
            clock,
            executor,
            entries: Mutex::default(),
        }))
    }
}

enum Next {
    Serve(Answer),
    Wait(oneshot::Receiver<Answer>),
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, HashMap<RatePair, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do for one caller, and whether a fetch must be started for it.
    fn next(&self, pair: RatePair, now_ms: i64) -> (Next, bool) {
        let mut entries = self.entries();
        let entry = entries.entry(pair).or_default();
        // A clock that was set back makes the source due: it cannot be told how long ago it was.
        let due = entry.asked_at_ms.is_none_or(|at_ms| {
            now_ms < at_ms || now_ms.saturating_sub(at_ms) >= self.policy.refresh_ms
        });
        let fresh = entry
            .latest
            .clone()
            .filter(|seen| self.ages.is_fresh(seen.observed_at_ms, now_ms));
        let start = due && entry.waiting.is_none();
        if start {
            entry.asked_at_ms = Some(now_ms);
            entry.waiting = Some(Vec::new());
        }
        if let Some(seen) = fresh {
            return (Next::Serve(Ok(seen)), start);
        }
        if let Some(waiting) = &mut entry.waiting {
            let (answer, answered) = oneshot::channel();
            waiting.push(answer);
            return (Next::Wait(answered), start);
        }
        // It was asked just now, and is not asked again so soon.
        let refusal = match (&entry.failure, &entry.latest) {
            (Some(error), _) => error.clone(),
            (None, Some(seen)) => self.ages.stale(pair.currency, seen.observed_at_ms),
            (None, None) => interrupted(),
        };
        (Next::Serve(Err(refusal)), false)
    }

    fn finish(&self, pair: RatePair, answer: Answer) {
        let now_ms = self.clock.now_ms();
        let answer = answer.and_then(|seen| {
            if self.ages.is_fresh(seen.observed_at_ms, now_ms) {
                Ok(seen)
            } else {
                Err(self.ages.stale(pair.currency, seen.observed_at_ms))
            }
        });
        let waiting = {
            let mut entries = self.entries();
            let entry = entries.entry(pair).or_default();
            match &answer {
                Ok(seen) => {
                    entry.failure = None;
                    // A source that goes back in time does not take a newer rate away, unless
                    // that one comes from a time that is still to come.
                    let newer = entry.latest.as_ref().is_some_and(|had| {
                        had.observed_at_ms > seen.observed_at_ms
                            && self.ages.is_fresh(had.observed_at_ms, now_ms)
                    });
                    if !newer {
                        entry.latest = Some(seen.clone());
                    }
                }
                Err(error) => entry.failure = Some(error.clone()),
            }
            entry.waiting.take()
        };
        for waiter in waiting.into_iter().flatten() {
            drop(waiter.send(answer.clone()));
        }
    }
}

fn interrupted() -> RateError {
    RateError::Unavailable {
        reason: "the fetch was interrupted".to_owned(),
    }
}

/// Ends a fetch also when its work is dropped or fails half-way: nobody waits for ever.
struct Fetch {
    shared: Arc<Shared>,
    pair: RatePair,
    answer: Option<Answer>,
}

impl Fetch {
    /// Keeps the answer; the drop that follows hands it on.
    fn answered(&mut self, answer: Answer) {
        self.answer = Some(answer);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let answer = self.answer.take().unwrap_or_else(|| Err(interrupted()));
        self.shared.finish(self.pair, answer);
    }
}

#[async_trait]
impl RateSource for CachedRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        self.pair(RatePair::bitcoin(currency)).await
    }

    async fn pair(&self, pair: RatePair) -> Result<RateObservation, RateError> {
        let shared = &self.0;
        let (next, start) = shared.next(pair, shared.clock.now_ms());
        if start {
            let mut fetch = Fetch {
                shared: shared.clone(),
                pair,
                answer: None,
            };
            shared.executor.spawn(Box::pin(async move {
                let shared = fetch.shared.clone();
                let work = shared.source.pair(pair);
                let timeout_ms = shared.policy.timeout_ms;
                fetch.answered(within(shared.executor.as_ref(), timeout_ms, work).await);
            }));
        }
        match next {
            Next::Serve(answer) => answer,
            Next::Wait(answered) => answered.await.unwrap_or_else(|_| Err(interrupted())),
        }
    }
}
