//! Rates that a person or another program sets.

use std::collections::HashMap;
use std::sync::RwLock;

use async_trait::async_trait;

use super::{RateError, RateObservation, RateSource};
use crate::money::{Currency, Rate};

/// A table of rates that the host fills. Empty until it does; a rate grows stale like any other.
#[derive(Debug, Default)]
pub struct FixedRates {
    table: RwLock<HashMap<Currency, RateObservation>>,
}

impl FixedRates {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what one bitcoin costs in `currency`, as `source` observed it at `observed_at_ms`.
    pub fn set(&self, currency: Currency, rate: Rate, source: &str, observed_at_ms: i64) {
        let observation = RateObservation {
            rate,
            source: source.to_owned(),
            observed_at_ms,
        };
        let mut table = self
            .table
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        table.insert(currency, observation);
    }
}

#[async_trait]
impl RateSource for FixedRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        let table = self
            .table
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = table.get(&currency).cloned();
        found.ok_or_else(|| RateError::UnknownCurrency {
            currency: currency.code().to_owned(),
        })
    }
}
