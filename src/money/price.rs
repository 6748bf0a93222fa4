//! Prices, and the rate that a price was turned into bitcoin at.

use serde::{Deserialize, Serialize};

use super::{Currency, MAX_MSAT, MoneyError, Rate, Rounding};

/// What something costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Price {
    /// In bitcoin.
    Bitcoin {
        /// How much.
        amount_msat: i64,
    },
    /// In a national currency.
    Fiat {
        /// Which.
        currency: Currency,
        /// How much, in its minor unit: 150,000 for J$1,500.00.
        minor_units: i64,
    },
}

impl Price {
    /// More than zero, and in bitcoin no more than there is.
    ///
    /// # Errors
    /// `money.not_positive`, `money.above_cap`.
    pub fn validate(&self) -> Result<(), MoneyError> {
        let (minor, cap) = match *self {
            Self::Bitcoin { amount_msat } => (amount_msat, MAX_MSAT),
            Self::Fiat { minor_units, .. } => (minor_units, i64::MAX),
        };
        if minor <= 0 {
            return Err(MoneyError::NotPositive { minor });
        }
        if minor > cap {
            return Err(MoneyError::AboveCap { minor, cap });
        }
        Ok(())
    }
}

/// Which side of the market a rate is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuoteSide {
    /// What a buyer of bitcoin pays.
    Ask,
    /// What a seller of bitcoin gets.
    Bid,
    /// Between the two.
    Mid,
}

/// The rate at which a price was turned into bitcoin, kept with what was made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The price of one bitcoin.
    pub rate: Rate,
    /// In which currency.
    pub currency: Currency,
    /// Who said so.
    pub source: String,
    /// When the source observed it, milliseconds since the epoch.
    pub observed_at_ms: i64,
    /// When it was used.
    pub quoted_at_ms: i64,
    /// Until when it holds.
    pub valid_until_ms: i64,
    /// How the result was rounded.
    pub rounding: Rounding,
    /// Which side of the market it is of.
    pub side: QuoteSide,
}
