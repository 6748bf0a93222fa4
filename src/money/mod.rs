//! Assets, amounts, prices and rates: integers and exact decimals, never floats.

mod asset;
mod error;
mod format;
mod price;
mod rate;
mod ratio;

pub use asset::{Asset, Currency};
pub use error::MoneyError;
pub use format::{currency_sign, format_minor, parse_minor};
pub use price::{
    ConsideredRate, Price, Quote, QuoteLeg, QuoteSide, QuoteSpread, Spread, SpreadSide,
    SpreadSplit, Verdict,
};
pub use rate::{Rate, Rounding};

/// All the bitcoin there will ever be, in msat; no amount is above it.
pub const MAX_MSAT: i64 = 21_000_000 * 100_000_000 * 1_000;
