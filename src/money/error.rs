//! What can be wrong with money.

/// An amount, a rate or a currency that cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoneyError {
    /// No such currency (ISO 4217). `money.unknown_currency`.
    #[error("there is no currency {code}")]
    UnknownCurrency {
        /// What was given, cut to 10 characters.
        code: String,
    },
    /// The text names no asset. `money.unknown_asset`.
    #[error("there is no asset {asset}")]
    UnknownAsset {
        /// What was given, cut to 50 characters.
        asset: String,
    },
    /// The text is not a plain decimal number that fits. `money.bad_number`.
    #[error("this is not a number that can be used: {reason}")]
    BadNumber {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Zero or less. `money.not_positive`.
    #[error("an amount must be more than zero, not {minor}")]
    NotPositive {
        /// What was given.
        minor: i64,
    },
    /// More than all the bitcoin there will ever be. `money.above_cap`.
    #[error("an amount may be {cap} at most, not {minor}")]
    AboveCap {
        /// What was given.
        minor: i64,
        /// The most there can be.
        cap: i64,
    },
    /// The result does not fit. `money.overflow`.
    #[error("the result is too large")]
    Overflow,
}

impl MoneyError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCurrency { .. } => "money.unknown_currency",
            Self::UnknownAsset { .. } => "money.unknown_asset",
            Self::BadNumber { .. } => "money.bad_number",
            Self::NotPositive { .. } => "money.not_positive",
            Self::AboveCap { .. } => "money.above_cap",
            Self::Overflow => "money.overflow",
        }
    }
}
