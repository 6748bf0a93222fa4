//! Rates over another currency: bitcoin in dollars, and dollars in Jamaican dollars.

use std::sync::Arc;

use async_trait::async_trait;

use super::{RateError, RateObservation, RatePair, RateSource};
use crate::money::{Asset, Currency};

/// Prices a bitcoin in a currency by way of another one. The product is exact, every leg is
/// recorded, and the oldest leg says how old the whole is.
#[derive(Clone)]
pub struct CrossRates {
    bitcoin: Arc<dyn RateSource>,
    currencies: Arc<dyn RateSource>,
    via: Currency,
}

impl CrossRates {
    /// Bitcoin in `via` as `bitcoin` says, and `via` in the currency as `currencies` says
    /// ([`RateSource::pair`]). For `via` itself only `bitcoin` is asked.
    pub fn new(
        bitcoin: Arc<dyn RateSource>,
        currencies: Arc<dyn RateSource>,
        via: Currency,
    ) -> Self {
        Self {
            bitcoin,
            currencies,
            via,
        }
    }
}

/// One observation after the other. Pure.
///
/// # Errors
/// `rate.inexact` where the exact product does not fit.
pub fn cross(
    currency: Currency,
    via: Currency,
    first: RateObservation,
    second: RateObservation,
) -> Result<RateObservation, RateError> {
    let inexact = |_| RateError::Inexact {
        currency: currency.code().to_owned(),
    };
    let rate = first.rate.times(second.rate).map_err(inexact)?;
    let side = if first.side == second.side {
        first.side
    } else {
        crate::money::QuoteSide::Mid
    };
    let source = format!("{}*{}", first.source, second.source);
    let observed_at_ms = first.observed_at_ms.min(second.observed_at_ms);
    let mut legs = first.into_legs(RatePair::bitcoin(via));
    legs.extend(second.into_legs(RatePair {
        base: Asset::Fiat(via),
        currency,
    }));
    Ok(RateObservation {
        rate,
        source,
        observed_at_ms,
        side,
        legs,
    })
}

#[async_trait]
impl RateSource for CrossRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        let first = self.bitcoin.rate(self.via).await?;
        if currency == self.via {
            return Ok(first);
        }
        let base = Asset::Fiat(self.via);
        let second = self.currencies.pair(RatePair { base, currency }).await?;
        cross(currency, self.via, first, second)
    }

    async fn pair(&self, pair: RatePair) -> Result<RateObservation, RateError> {
        match pair.base {
            Asset::Btc => self.rate(pair.currency).await,
            _ => self.currencies.pair(pair).await,
        }
    }
}
