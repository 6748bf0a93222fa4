//! Whatever comes from outside is read or refused: no panic, and what was read is written and
//! read as the same again.
//!
//! Each target takes any bytes and answers whether they were read. `cargo fuzz run NAME` (with a
//! nightly compiler) searches without end; `tests/fuzz_targets.rs` of the crate runs all of them
//! on what is in `corpus` and on mutations of it, on any compiler.

pub mod bolt11;
#[cfg(feature = "chain")]
pub mod chain_answers;
pub mod chip_answers;
pub mod commands;
pub mod import_stream;
pub mod lightning_address;
pub mod lnurl_query;
pub mod money;
pub mod names;
#[cfg(feature = "postgres")]
pub mod postgres_config;
#[cfg(feature = "rates-http")]
pub mod rate_answer;
pub mod receipt_bundle;
pub mod stored_records;
pub mod tap_url;
#[cfg(feature = "chain")]
pub mod wallet_texts;

/// A target: its name, which is that of its folder in `corpus`, and what it does.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All that this build has.
pub const TARGETS: &[Target] = &[
    ("bolt11", bolt11::run),
    #[cfg(feature = "chain")]
    ("chain_answers", chain_answers::run),
    ("chip_answers", chip_answers::run),
    ("commands", commands::run),
    ("import_stream", import_stream::run),
    ("lightning_address", lightning_address::run),
    ("lnurl_query", lnurl_query::run),
    ("money", money::run),
    ("names", names::run),
    #[cfg(feature = "postgres")]
    ("postgres_config", postgres_config::run),
    #[cfg(feature = "rates-http")]
    ("rate_answer", rate_answer::run),
    ("receipt_bundle", receipt_bundle::run),
    ("stored_records", stored_records::run),
    ("tap_url", tap_url::run),
    #[cfg(feature = "chain")]
    ("wallet_texts", wallet_texts::run),
];
