//! Why there is no rate.

/// There is no rate to work with. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// No source knows the currency. `rate.unknown_currency`.
    #[error("there is no rate for {currency}")]
    UnknownCurrency {
        /// The currency.
        currency: String,
    },
    /// The newest rate is too old, or from the future. `rate.stale`, retryable.
    #[error("the rate for {currency} was observed at {observed_at_ms}")]
    Stale {
        /// The currency.
        currency: String,
        /// When it was observed.
        observed_at_ms: i64,
        /// How old it may be.
        max_age_ms: i64,
    },
    /// The source did not answer. `rate.unavailable`, retryable.
    #[error("the source of rates did not answer: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
}

impl RateError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCurrency { .. } => "rate.unknown_currency",
            Self::Stale { .. } => "rate.stale",
            Self::Unavailable { .. } => "rate.unavailable",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::UnknownCurrency { .. })
    }
}
