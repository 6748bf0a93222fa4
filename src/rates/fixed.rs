//! Rates that a person or another program sets.

use std::collections::HashMap;
use std::sync::RwLock;

use async_trait::async_trait;

use super::{RateError, RateObservation, RatePair, RateSource};
use crate::money::{Asset, Currency, QuoteSide, Rate};

/// A table of rates that the host fills. Empty until it does; a rate grows stale like any other.
#[derive(Debug, Default)]
pub struct FixedRates {
    table: RwLock<HashMap<RatePair, RateObservation>>,
    /// Those of one side of the market.
    sides: RwLock<HashMap<(Currency, QuoteSide), RateObservation>>,
}

impl FixedRates {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what one bitcoin costs in `currency`, as `source` observed it at `observed_at_ms`.
    pub fn set(&self, currency: Currency, rate: Rate, source: &str, observed_at_ms: i64) {
        self.set_pair(RatePair::bitcoin(currency), rate, source, observed_at_ms);
    }

    /// Sets what one bitcoin costs on one side of the market; [`set`](Self::set) is between both.
    pub fn set_side(
        &self,
        currency: Currency,
        side: QuoteSide,
        rate: Rate,
        source: &str,
        observed_at_ms: i64,
    ) {
        let observation = RateObservation {
            rate,
            source: source.to_owned(),
            observed_at_ms,
            side,
            legs: Vec::new(),
        };
        let mut sides = self
            .sides
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        sides.insert((currency, side), observation);
    }

    /// Sets what one unit of the pair's base costs in its currency.
    pub fn set_pair(&self, pair: RatePair, rate: Rate, source: &str, observed_at_ms: i64) {
        let observation = RateObservation {
            rate,
            source: source.to_owned(),
            observed_at_ms,
            side: QuoteSide::Mid,
            legs: Vec::new(),
        };
        let mut table = self
            .table
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        table.insert(pair, observation);
    }
}

#[async_trait]
impl RateSource for FixedRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        self.pair(RatePair::bitcoin(currency)).await
    }

    async fn on_side(
        &self,
        currency: Currency,
        side: QuoteSide,
    ) -> Result<RateObservation, RateError> {
        if side == QuoteSide::Mid {
            return self.rate(currency).await;
        }
        let sides = self
            .sides
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = sides.get(&(currency, side)).cloned();
        found.ok_or_else(|| RateError::OtherSide {
            currency: currency.code().to_owned(),
        })
    }

    /// One that was set the other way round is turned, exactly.
    async fn pair(&self, pair: RatePair) -> Result<RateObservation, RateError> {
        let table = self
            .table
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = table.get(&pair) {
            return Ok(found.clone());
        }
        let Asset::Fiat(base) = pair.base else {
            return Err(pair.unknown());
        };
        let turned = RatePair {
            base: Asset::Fiat(pair.currency),
            currency: base,
        };
        let mut found = table.get(&turned).cloned().ok_or_else(|| pair.unknown())?;
        found.rate = found.rate.inverse().map_err(|_| pair.unknown())?;
        Ok(found)
    }
}
