//! What a bitcoin costs: the rate port and the sources built in.

mod error;
mod fixed;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::money::{Currency, Price, Quote, QuoteSide, Rate, Rounding};

pub use error::RateError;
pub use fixed::FixedRates;

/// A rate as a source gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateObservation {
    /// The price of one bitcoin in the currency.
    pub rate: Rate,
    /// Who said so.
    pub source: String,
    /// When the source observed it, milliseconds since the epoch.
    pub observed_at_ms: i64,
}

/// Says what a bitcoin costs. There is no fallback: a source that does not know answers an error.
#[async_trait]
pub trait RateSource: Send + Sync {
    /// The latest rate the source has for a currency.
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError>;
}

/// How old a rate may be, and how long a price made from it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatePolicy {
    /// A rate observed longer ago than this is refused.
    pub max_age_ms: i64,
    /// How far ahead of our clock a source may be; further, it is refused as well.
    pub max_ahead_ms: i64,
    /// How long a quote can be used.
    pub quote_validity_ms: i64,
}

impl Default for RatePolicy {
    /// Two minutes old, five seconds ahead, and good for ten minutes.
    fn default() -> Self {
        Self {
            max_age_ms: 120_000,
            max_ahead_ms: 5_000,
            quote_validity_ms: 600_000,
        }
    }
}

/// Turns an observation into a quote, or refuses it as stale.
pub(crate) fn quote(
    currency: Currency,
    observation: RateObservation,
    policy: RatePolicy,
    now_ms: i64,
) -> Result<Quote, RateError> {
    let age_ms = now_ms.saturating_sub(observation.observed_at_ms);
    if age_ms > policy.max_age_ms || age_ms < policy.max_ahead_ms.saturating_neg() {
        return Err(RateError::Stale {
            currency: currency.code().to_owned(),
            observed_at_ms: observation.observed_at_ms,
            max_age_ms: policy.max_age_ms,
        });
    }
    Ok(Quote {
        rate: observation.rate,
        currency,
        source: observation.source,
        observed_at_ms: observation.observed_at_ms,
        quoted_at_ms: now_ms,
        valid_until_ms: now_ms.saturating_add(policy.quote_validity_ms),
        // Up, so that whoever is owed never gets less than the price.
        rounding: Rounding::Up,
        side: QuoteSide::Mid,
    })
}

/// What a price comes to in msat, with the quote where one was needed.
pub(crate) async fn price_in_msat(
    source: &dyn RateSource,
    price: &Price,
    policy: RatePolicy,
    now_ms: i64,
) -> Result<(i64, Option<Quote>), crate::Error> {
    price.validate()?;
    match *price {
        Price::Bitcoin { amount_msat } => Ok((amount_msat, None)),
        Price::Fiat {
            currency,
            minor_units,
        } => {
            let quote = quote(currency, source.rate(currency).await?, policy, now_ms)?;
            let amount_msat = quote
                .rate
                .fiat_to_msat(currency, minor_units, quote.rounding)?;
            Price::Bitcoin { amount_msat }.validate()?;
            Ok((amount_msat, Some(quote)))
        }
    }
}
