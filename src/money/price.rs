//! Prices, and the rate that a price was turned into bitcoin at.

use serde::{Deserialize, Serialize};

use super::{Asset, Currency, MAX_MSAT, MoneyError, Rate, Rounding};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuoteSide {
    /// What a buyer of bitcoin pays.
    Ask,
    /// What a seller of bitcoin gets.
    Bid,
    /// Between the two.
    Mid,
}

/// What became of one source's answer when several were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Verdict {
    /// It is the rate that was taken.
    Chosen,
    /// It counted, and another one was the median.
    Used,
    /// It lay too far from the median of all.
    Outlier {
        /// How far it may lie from it, in basis points of it.
        max_distance_bps: u32,
    },
    /// It was too old, or from the future.
    Stale,
    /// The source gave no rate.
    Failed {
        /// The code of its error.
        code: String,
    },
}

/// What one of several sources said, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsideredRate {
    /// Which source.
    pub source: String,
    /// What it said, if anything.
    pub rate: Option<Rate>,
    /// When it observed that, milliseconds since the epoch.
    pub observed_at_ms: Option<i64>,
    /// What became of it.
    pub verdict: Verdict,
}

/// One step of the way from bitcoin to the currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteLeg {
    /// What is priced.
    pub base: Asset,
    /// In what.
    pub currency: Currency,
    /// The price of one whole unit of `base` in `currency`.
    pub rate: Rate,
    /// Who said so.
    pub source: String,
    /// When the source observed it, milliseconds since the epoch.
    pub observed_at_ms: i64,
    /// Which side of the market it is of.
    pub side: QuoteSide,
    /// What every source said, where several were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub considered: Vec<ConsideredRate>,
}

/// Who bears a spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpreadSide {
    /// The customer pays it on top of the price at the market's rate.
    CustomerPays,
    /// The customer pays the market's rate; the merchant receives that much less.
    MerchantReceives,
}

/// What the operator keeps of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// How much, in basis points of the amount at the market's rate; less than 10,000.
    pub bps: u32,
    /// Who bears it.
    pub side: SpreadSide,
}

/// The spread of a quote, and the rate without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteSpread {
    /// How much, in basis points.
    pub bps: u32,
    /// Who bears it.
    pub side: SpreadSide,
    /// The rate of the market, before the spread.
    pub market_rate: Rate,
}

/// How a payment divides under a spread. `merchant_msat + spread_msat` is what was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpreadSplit {
    /// What the merchant receives.
    pub merchant_msat: i64,
    /// What the operator keeps; rounded down.
    pub spread_msat: i64,
}

/// The rate at which a price was turned into bitcoin, kept with what was made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The price of one bitcoin that the amount was made with; a spread that the customer pays is
    /// in it.
    pub rate: Rate,
    /// In which currency.
    pub currency: Currency,
    /// Who said so.
    pub source: String,
    /// When the source observed it, milliseconds since the epoch; of several legs the oldest.
    pub observed_at_ms: i64,
    /// When it was used.
    pub quoted_at_ms: i64,
    /// Until when it holds.
    pub valid_until_ms: i64,
    /// How the result was rounded.
    pub rounding: Rounding,
    /// Which side of the market it is of.
    pub side: QuoteSide,
    /// Every step from bitcoin to the currency. Empty in quotes that were stored before legs were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<QuoteLeg>,
    /// What the operator keeps, where there is a spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<QuoteSpread>,
}

const WHOLE_BPS: i128 = 10_000;

impl Quote {
    /// Divides what a customer pays under this quote; without a spread all is the merchant's.
    ///
    /// # Errors
    /// `money.not_positive` for less than nothing.
    pub fn split(&self, paid_msat: i64) -> Result<SpreadSplit, MoneyError> {
        if paid_msat < 0 {
            return Err(MoneyError::NotPositive { minor: paid_msat });
        }
        let kept = self.spread.map_or(0, |spread| {
            let (paid, bps) = (i128::from(paid_msat), i128::from(spread.bps));
            match spread.side {
                // What was paid is the price and the spread on it.
                SpreadSide::CustomerPays => paid * bps / (WHOLE_BPS + bps),
                SpreadSide::MerchantReceives => paid * bps / WHOLE_BPS,
            }
        });
        let spread_msat = i64::try_from(kept).map_err(|_| MoneyError::Overflow)?;
        let merchant_msat = paid_msat
            .checked_sub(spread_msat)
            .filter(|rest| *rest >= 0)
            .ok_or(MoneyError::Overflow)?;
        Ok(SpreadSplit {
            merchant_msat,
            spread_msat,
        })
    }
}
