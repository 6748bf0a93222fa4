//! Prices and quotes.

use super::FlashError;
use crate::money::{self, Currency};

/// What something costs.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum Price {
    /// In bitcoin.
    Bitcoin {
        /// How much.
        amount_msat: i64,
    },
    /// In a national currency.
    Fiat {
        /// ISO 4217: `JMD`.
        currency: String,
        /// How much, in the currency's minor unit: 150,000 for J$1,500.00.
        minor_units: i64,
    },
}

impl From<money::Price> for Price {
    fn from(price: money::Price) -> Self {
        match price {
            money::Price::Bitcoin { amount_msat } => Self::Bitcoin { amount_msat },
            money::Price::Fiat {
                currency,
                minor_units,
            } => Self::Fiat {
                currency: currency.code().to_owned(),
                minor_units,
            },
        }
    }
}

impl TryFrom<Price> for money::Price {
    type Error = FlashError;

    fn try_from(price: Price) -> Result<Self, FlashError> {
        Ok(match price {
            Price::Bitcoin { amount_msat } => Self::Bitcoin { amount_msat },
            Price::Fiat {
                currency,
                minor_units,
            } => Self::Fiat {
                currency: Currency::from_code(&currency)?,
                minor_units,
            },
        })
    }
}

/// How a result that is not whole was made whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Rounding {
    /// To the next one above.
    Up,
    /// To the next one below.
    Down,
    /// To the nearest; exactly half goes to the even one.
    HalfEven,
}

/// Which side of the market a rate is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum QuoteSide {
    /// What a buyer of bitcoin pays.
    Ask,
    /// What a seller of bitcoin gets.
    Bid,
    /// Between the two.
    Mid,
}

/// The rate at which a price was turned into bitcoin.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Quote {
    /// The price of one bitcoin in the currency's major unit: plain decimal text, or
    /// `numerator/denominator` where no decimal is exact (cross rates, spreads).
    pub rate: String,
    /// ISO 4217.
    pub currency: String,
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

impl From<money::Quote> for Quote {
    fn from(quote: money::Quote) -> Self {
        Self {
            rate: quote.rate.to_string(),
            currency: quote.currency.code().to_owned(),
            source: quote.source,
            observed_at_ms: quote.observed_at_ms,
            quoted_at_ms: quote.quoted_at_ms,
            valid_until_ms: quote.valid_until_ms,
            rounding: match quote.rounding {
                money::Rounding::Up => Rounding::Up,
                money::Rounding::Down => Rounding::Down,
                money::Rounding::HalfEven => Rounding::HalfEven,
            },
            side: match quote.side {
                money::QuoteSide::Ask => QuoteSide::Ask,
                money::QuoteSide::Bid => QuoteSide::Bid,
                money::QuoteSide::Mid => QuoteSide::Mid,
            },
        }
    }
}
