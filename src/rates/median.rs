//! The median of several sources.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::wait::{together, within};
use super::{RateError, RateObservation, RatePair, RatePolicy, RateSource};
use crate::money::{ConsideredRate, Currency, QuoteLeg, QuoteSide, Rate, Verdict};
use crate::ports::{BoxFuture, Clock, Executor};

/// How the median of several sources is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MedianPolicy {
    /// How many sources must give a rate that is neither stale nor an outlier; more than half of
    /// them at least, so that a minority cannot set the rate.
    pub quorum: usize,
    /// A rate further from the median of all that answered, in basis points of it, is an outlier.
    pub max_distance_bps: u32,
    /// How long each source is given, in milliseconds. All are asked together.
    pub timeout_ms: u64,
    /// With an even number of rates there is no middle one, and none is made up: `Bid` and `Mid`
    /// take the lower of the two in the middle, `Ask` the upper. A price in a currency then asks
    /// for no less bitcoin than either says, so that the merchant is never short; `Ask` is for an
    /// operator who pays bitcoin out for currency.
    pub side: QuoteSide,
}

/// A source made of several.
pub struct MedianRates {
    sources: Vec<(String, Arc<dyn RateSource>)>,
    policy: MedianPolicy,
    ages: RatePolicy,
    clock: Arc<dyn Clock>,
    executor: Arc<dyn Executor>,
}

impl MedianRates {
    /// Asks `sources`, each with the name it is recorded under. `ages` says how old a rate may be
    /// to count.
    ///
    /// # Errors
    /// `rate.misconfigured` with more than 16 sources, a name twice, or a quorum that is not more
    /// than half of the sources and at most all.
    pub fn new(
        sources: Vec<(String, Arc<dyn RateSource>)>,
        policy: MedianPolicy,
        ages: RatePolicy,
        clock: Arc<dyn Clock>,
        executor: Arc<dyn Executor>,
    ) -> Result<Self, RateError> {
        let bad = |reason| Err(RateError::Misconfigured { reason });
        if sources.len() > 16 {
            return bad("a median is of 16 sources at most");
        }
        if policy.quorum > sources.len() || policy.quorum * 2 <= sources.len() {
            return bad("a quorum is more than half of the sources, and at most all");
        }
        let mut names: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) {
            return bad("two sources have the same name");
        }
        Ok(Self {
            sources,
            policy,
            ages,
            clock,
            executor,
        })
    }
}

/// What one source answered.
pub type SourceAnswer = (String, Result<RateObservation, RateError>);

/// The lower or the upper of the middle ones.
fn middle(sorted: &[Rate], side: QuoteSide) -> Option<Rate> {
    let last = sorted.len().checked_sub(1)?;
    let place = match side {
        QuoteSide::Ask => sorted.len() / 2,
        QuoteSide::Bid | QuoteSide::Mid => last / 2,
    };
    sorted.get(place).copied()
}

fn sorted(rates: impl Iterator<Item = Rate>) -> Vec<Rate> {
    let mut rates: Vec<Rate> = rates.collect();
    rates.sort_unstable();
    rates
}

/// Takes the median of what the sources answered. Pure.
///
/// Stale rates do not count. Of the others the median is taken, what lies further from it than
/// `max_distance_bps` is an outlier, and of the rest, if that is a quorum, the median is the rate.
///
/// # Errors
/// `rate.no_quorum`; `rate.unknown_currency` when that is all that every source says.
pub fn median(
    pair: RatePair,
    answers: Vec<SourceAnswer>,
    policy: MedianPolicy,
    ages: RatePolicy,
    now_ms: i64,
) -> Result<RateObservation, RateError> {
    let asked = answers.len();
    let unknown = answers.iter().all(|(_, answer)| {
        matches!(
            answer,
            Err(RateError::UnknownCurrency { .. } | RateError::UnknownPair { .. })
        )
    });
    if unknown {
        return Err(pair.unknown());
    }
    let fresh = |seen: &RateObservation| ages.is_fresh(seen.observed_at_ms, now_ms);
    let good = || {
        answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().ok())
    };
    let counted = sorted(good().filter(|seen| fresh(seen)).map(|seen| seen.rate));
    let center = middle(&counted, policy.side);
    let far = |rate: Rate| {
        center.is_none_or(|center| rate.is_further_than(center, policy.max_distance_bps))
    };
    let agreed = sorted(counted.iter().copied().filter(|rate| !far(*rate)));
    let rate = middle(&agreed, policy.side)
        .filter(|_| agreed.len() >= policy.quorum)
        .ok_or_else(|| RateError::NoQuorum {
            currency: pair.currency.code().to_owned(),
            asked,
            answered: counted.len(),
            agreed: agreed.len(),
            quorum: policy.quorum,
        })?;
    // The oldest rate that counted: the choice rests on all of them.
    let observed_at_ms = good()
        .filter(|seen| fresh(seen) && !far(seen.rate))
        .map(|seen| seen.observed_at_ms)
        .min()
        .unwrap_or(now_ms);
    let mut chosen = false;
    let mut is_the_one = |candidate| {
        let first = candidate == rate && !chosen;
        chosen |= first;
        first
    };
    let considered = answers
        .iter()
        .map(|(name, answer)| considered(name, answer, fresh, far, &mut is_the_one, policy))
        .collect();
    Ok(observation(pair, rate, observed_at_ms, policy, considered))
}

fn observation(
    pair: RatePair,
    rate: Rate,
    observed_at_ms: i64,
    policy: MedianPolicy,
    considered: Vec<ConsideredRate>,
) -> RateObservation {
    let leg = QuoteLeg {
        base: pair.base,
        currency: pair.currency,
        rate,
        source: "median".to_owned(),
        observed_at_ms,
        side: policy.side,
        considered,
    };
    RateObservation {
        rate,
        source: leg.source.clone(),
        observed_at_ms,
        side: policy.side,
        legs: vec![leg],
    }
}

fn considered(
    name: &str,
    answer: &Result<RateObservation, RateError>,
    fresh: impl Fn(&RateObservation) -> bool,
    far: impl Fn(Rate) -> bool,
    mut is_the_one: impl FnMut(Rate) -> bool,
    policy: MedianPolicy,
) -> ConsideredRate {
    let verdict = match answer {
        Err(error) => Verdict::Failed {
            code: error.code().to_owned(),
        },
        Ok(seen) if !fresh(seen) => Verdict::Stale,
        Ok(seen) if far(seen.rate) => Verdict::Outlier {
            max_distance_bps: policy.max_distance_bps,
        },
        Ok(seen) if is_the_one(seen.rate) => Verdict::Chosen,
        Ok(_) => Verdict::Used,
    };
    let seen = answer.as_ref().ok();
    ConsideredRate {
        source: name.to_owned(),
        rate: seen.map(|seen| seen.rate),
        observed_at_ms: seen.map(|seen| seen.observed_at_ms),
        verdict,
    }
}

#[async_trait]
impl RateSource for MedianRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        self.pair(RatePair::bitcoin(currency)).await
    }

    async fn pair(&self, pair: RatePair) -> Result<RateObservation, RateError> {
        let ask = |source: &Arc<dyn RateSource>| -> BoxFuture<'_, _> {
            let (source, executor) = (source.clone(), self.executor.clone());
            let timeout_ms = self.policy.timeout_ms;
            Box::pin(async move {
                within(executor.as_ref(), timeout_ms, async move {
                    source.pair(pair).await
                })
                .await
            })
        };
        let work = self.sources.iter().map(|(_, source)| ask(source)).collect();
        let answers = together(work).await;
        let names = self.sources.iter().map(|(name, _)| name.clone());
        let answers = names.zip(answers).collect();
        median(pair, answers, self.policy, self.ages, self.clock.now_ms())
    }
}
