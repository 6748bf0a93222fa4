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
    /// No source knows the price of one currency in the other. `rate.unknown_pair`.
    #[error("there is no rate for {base} in {currency}")]
    UnknownPair {
        /// What is priced.
        base: String,
        /// In what.
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
    /// The source has no rate of that side of the market. `rate.other_side`.
    #[error("the rate for {currency} is of another side of the market")]
    OtherSide {
        /// The currency.
        currency: String,
    },
    /// The operator's open position in the currency would go beyond its cap.
    /// `rate.position_cap_reached`.
    #[error("the operator's position in {currency} may come to {max_open} at most")]
    PositionCapReached {
        /// The currency.
        currency: String,
        /// How far it may go either way, in the minor unit; 0 where none was set.
        max_open: i64,
    },
    /// The source did not answer. `rate.unavailable`, retryable.
    #[error("the source of rates did not answer: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// The source did not answer in time. `rate.timed_out`, retryable.
    #[error("the source of rates did not answer within {timeout_ms} ms")]
    TimedOut {
        /// How long it was given.
        timeout_ms: u64,
    },
    /// Too few sources answered, or agreed. `rate.no_quorum`, retryable.
    #[error("{agreed} of {asked} sources agree on a rate for {currency}; {quorum} must")]
    NoQuorum {
        /// The currency.
        currency: String,
        /// How many sources were asked.
        asked: usize,
        /// How many gave a rate that is not stale.
        answered: usize,
        /// How many of these are no outliers.
        agreed: usize,
        /// How many must agree.
        quorum: usize,
    },
    /// The server refused. `rate.http_status`, retryable for 408, 425, 429 and from 500 on.
    /// Redirects (3xx) are not followed.
    #[error("the source {provider} answered with the status {status}")]
    HttpStatus {
        /// Which source.
        provider: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer is longer than is read. `rate.answer_too_large`.
    #[error("the answer is longer than {max_bytes} bytes")]
    AnswerTooLarge {
        /// How long it may be.
        max_bytes: usize,
    },
    /// The answer is not what the source's documentation says. `rate.malformed_answer`.
    #[error("the answer of {provider} cannot be used: {reason}")]
    MalformedAnswer {
        /// Which source.
        provider: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A source was set up in a way that cannot work. `rate.misconfigured`.
    #[error("the source of rates cannot work: {reason}")]
    Misconfigured {
        /// What is wrong.
        reason: &'static str,
    },
    /// The exact rate is too large to be held. `rate.inexact`.
    #[error("the exact rate for {currency} does not fit")]
    Inexact {
        /// The currency.
        currency: String,
    },
}

impl RateError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCurrency { .. } => "rate.unknown_currency",
            Self::UnknownPair { .. } => "rate.unknown_pair",
            Self::Stale { .. } => "rate.stale",
            Self::OtherSide { .. } => "rate.other_side",
            Self::PositionCapReached { .. } => "rate.position_cap_reached",
            Self::Unavailable { .. } => "rate.unavailable",
            Self::TimedOut { .. } => "rate.timed_out",
            Self::NoQuorum { .. } => "rate.no_quorum",
            Self::HttpStatus { .. } => "rate.http_status",
            Self::AnswerTooLarge { .. } => "rate.answer_too_large",
            Self::MalformedAnswer { .. } => "rate.malformed_answer",
            Self::Misconfigured { .. } => "rate.misconfigured",
            Self::Inexact { .. } => "rate.inexact",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Stale { .. }
            | Self::Unavailable { .. }
            | Self::TimedOut { .. }
            | Self::NoQuorum { .. } => true,
            Self::HttpStatus { status, .. } => matches!(status, 408 | 425 | 429) || *status >= 500,
            _ => false,
        }
    }
}
