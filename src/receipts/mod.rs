//! Receipts: what was paid, as a shop hands it over, in the shop's language.

mod format;
mod language;

pub use format::{format_amount, format_rate, format_time};
pub use language::{Label, Language, ParseLanguageError};
