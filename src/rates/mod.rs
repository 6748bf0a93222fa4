//! What a bitcoin costs: the rate port and the sources built in.

mod cached;
mod cross;
mod error;
mod fixed;
#[cfg(feature = "rates-http")]
pub mod http;
mod median;
mod wait;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::money::{
    Asset, Currency, Price, Quote, QuoteLeg, QuoteSide, QuoteSpread, Rate, Rounding, Spread,
    SpreadSide,
};

pub use cached::{CachePolicy, CachedRates};
pub use cross::{CrossRates, cross};
pub use error::RateError;
pub use fixed::FixedRates;
pub use median::{MedianPolicy, MedianRates, SourceAnswer, median};

/// What is priced, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RatePair {
    /// What is priced: bitcoin, or another currency.
    pub base: Asset,
    /// In what.
    pub currency: Currency,
}

impl RatePair {
    /// Bitcoin in a currency.
    pub fn bitcoin(currency: Currency) -> Self {
        let base = Asset::Btc;
        Self { base, currency }
    }

    /// The refusal of a source that does not know the pair.
    pub fn unknown(self) -> RateError {
        let currency = self.currency.code().to_owned();
        match self.base {
            Asset::Btc => RateError::UnknownCurrency { currency },
            base => RateError::UnknownPair {
                base: base.to_string(),
                currency,
            },
        }
    }
}

/// A rate as a source gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateObservation {
    /// The price of one bitcoin, or of one unit of the base, in the currency.
    pub rate: Rate,
    /// Who said so.
    pub source: String,
    /// When the source observed it, milliseconds since the epoch; of several legs the oldest.
    pub observed_at_ms: i64,
    /// Which side of the market it is of.
    pub side: QuoteSide,
    /// The steps it was made of; empty where this is the only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<QuoteLeg>,
}

impl RateObservation {
    /// The steps, of which there is always at least one.
    pub fn into_legs(self, pair: RatePair) -> Vec<QuoteLeg> {
        if !self.legs.is_empty() {
            return self.legs;
        }
        vec![QuoteLeg {
            base: pair.base,
            currency: pair.currency,
            rate: self.rate,
            source: self.source,
            observed_at_ms: self.observed_at_ms,
            side: self.side,
            considered: Vec::new(),
        }]
    }
}

/// Says what a bitcoin costs. There is no fallback: a source that does not know answers an error.
#[async_trait]
pub trait RateSource: Send + Sync {
    /// The latest rate the source has for a currency.
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError>;

    /// The latest price of one whole unit of the pair's base in its currency. A source of bitcoin
    /// prices alone refuses every other base (`rate.unknown_pair`).
    async fn pair(&self, pair: RatePair) -> Result<RateObservation, RateError> {
        match pair.base {
            Asset::Btc => self.rate(pair.currency).await,
            _ => Err(pair.unknown()),
        }
    }

    /// The latest rate of one side of the market. A source of one side refuses the other
    /// (`rate.other_side`).
    async fn on_side(
        &self,
        currency: Currency,
        side: QuoteSide,
    ) -> Result<RateObservation, RateError> {
        let seen = self.rate(currency).await?;
        if seen.side == side {
            return Ok(seen);
        }
        Err(RateError::OtherSide {
            currency: currency.code().to_owned(),
        })
    }
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
    /// What the operator keeps of a conversion; nothing by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

impl RatePolicy {
    /// True when a rate of that time may be used now.
    pub fn is_fresh(&self, observed_at_ms: i64, now_ms: i64) -> bool {
        let age_ms = now_ms.saturating_sub(observed_at_ms);
        age_ms <= self.max_age_ms && age_ms >= self.max_ahead_ms.saturating_neg()
    }

    fn stale(&self, currency: Currency, observed_at_ms: i64) -> RateError {
        RateError::Stale {
            currency: currency.code().to_owned(),
            observed_at_ms,
            max_age_ms: self.max_age_ms,
        }
    }
}

impl Default for RatePolicy {
    /// Two minutes old, five seconds ahead, and good for ten minutes.
    fn default() -> Self {
        Self {
            max_age_ms: 120_000,
            max_ahead_ms: 5_000,
            quote_validity_ms: 600_000,
            spread: None,
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
    // Each leg on its own: none hides behind another, whatever the source says of the whole.
    let legs = observation.legs.iter().map(|leg| leg.observed_at_ms);
    for observed_at_ms in legs.chain([observation.observed_at_ms]) {
        if !policy.is_fresh(observed_at_ms, now_ms) {
            return Err(policy.stale(currency, observed_at_ms));
        }
    }
    let (rate, spread) = with_spread(currency, observation.rate, policy.spread)?;
    Ok(Quote {
        rate,
        currency,
        source: observation.source.clone(),
        observed_at_ms: observation.observed_at_ms,
        quoted_at_ms: now_ms,
        valid_until_ms: now_ms.saturating_add(policy.quote_validity_ms),
        // Up, so that whoever is owed never gets less than the price.
        rounding: Rounding::Up,
        side: observation.side,
        legs: observation.into_legs(RatePair::bitcoin(currency)),
        spread,
    })
}

/// The rate that amounts are made with. A spread that the customer pays makes the price dearer by
/// exactly its basis points: fewer of the currency for a bitcoin. One that the merchant bears
/// leaves it as it is.
fn with_spread(
    currency: Currency,
    market_rate: Rate,
    spread: Option<Spread>,
) -> Result<(Rate, Option<QuoteSpread>), RateError> {
    let Some(Spread { bps, side }) = spread.filter(|spread| spread.bps > 0) else {
        return Ok((market_rate, None));
    };
    if bps >= 10_000 {
        let reason = "a spread is less than 10,000 basis points";
        return Err(RateError::Misconfigured { reason });
    }
    let rate = match side {
        SpreadSide::MerchantReceives => market_rate,
        SpreadSide::CustomerPays => Rate::from_ratio(10_000, 10_000 + u128::from(bps))
            .and_then(|factor| market_rate.times(factor))
            .map_err(|_| RateError::Inexact {
                currency: currency.code().to_owned(),
            })?,
    };
    let recorded = QuoteSpread {
        bps,
        side,
        market_rate,
    };
    Ok((rate, Some(recorded)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str, at_ms: i64) -> RateObservation {
        RateObservation {
            rate: text.parse().unwrap(),
            source: "test".to_owned(),
            observed_at_ms: at_ms,
            side: QuoteSide::Bid,
            legs: Vec::new(),
        }
    }

    #[test]
    fn the_oldest_leg_decides_and_every_leg_is_kept() {
        let (usd, jmd) = (
            Currency::from_code("USD").unwrap(),
            Currency::from_code("JMD").unwrap(),
        );
        let policy = RatePolicy::default();
        let at = |old| cross(jmd, usd, seen("100", 1_000_000), seen("160", old)).unwrap();
        let kept = quote(jmd, at(880_000), policy, 1_000_000).unwrap();
        assert_eq!((kept.legs.len(), kept.observed_at_ms), (2, 880_000));
        assert_eq!(
            (kept.rate, kept.side),
            ("16000".parse().unwrap(), QuoteSide::Bid)
        );
        let refused = quote(jmd, at(879_999), policy, 1_000_000).unwrap_err();
        assert_eq!(refused.code(), "rate.stale");
        // A source that makes its whole look younger than a leg is not believed.
        let mut lying = at(879_999);
        lying.observed_at_ms = 1_000_000;
        assert_eq!(
            quote(jmd, lying, policy, 1_000_000).unwrap_err().code(),
            "rate.stale"
        );
        let ahead = quote(jmd, at(1_005_001), policy, 1_000_000).unwrap_err();
        assert_eq!(ahead.code(), "rate.stale");
        let direct = quote(usd, seen("100", 1_000_000), policy, 1_000_000).unwrap();
        assert_eq!(direct.legs.len(), 1);
    }

    #[test]
    fn a_spread_is_exact_recorded_and_borne_by_whom_it_says() {
        let usd = Currency::from_code("USD").unwrap();
        let quoted = |bps, side| {
            let policy = RatePolicy {
                spread: Some(Spread { bps, side }),
                ..RatePolicy::default()
            };
            quote(usd, seen("100000", 1_000), policy, 1_000)
        };
        let msat = |quote: &Quote| {
            quote
                .rate
                .fiat_to_msat(usd, 10_000, quote.rounding)
                .unwrap()
        };
        // $100.00 at $100,000 is 0.001 BTC; 1.5 % on top for the customer.
        let pays = quoted(150, SpreadSide::CustomerPays).unwrap();
        assert_eq!(msat(&pays), 101_500_000);
        let split = pays.split(101_500_000).unwrap();
        assert_eq!(
            (split.merchant_msat, split.spread_msat),
            (100_000_000, 1_500_000)
        );
        let bears = quoted(150, SpreadSide::MerchantReceives).unwrap();
        assert_eq!(msat(&bears), 100_000_000);
        let split = bears.split(100_000_000).unwrap();
        assert_eq!(
            (split.merchant_msat, split.spread_msat),
            (98_500_000, 1_500_000)
        );
        let market = bears.spread.unwrap().market_rate;
        assert_eq!(
            (market, pays.spread.unwrap().market_rate),
            (bears.rate, market)
        );
        assert_eq!(quoted(0, SpreadSide::CustomerPays).unwrap().spread, None);
        let absurd = quoted(10_000, SpreadSide::MerchantReceives).unwrap_err();
        assert_eq!(absurd.code(), "rate.misconfigured");
        let text = serde_json::to_string(&pays).unwrap();
        assert_eq!(serde_json::from_str::<Quote>(&text).unwrap(), pays);
    }
}
