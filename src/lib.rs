//! flashkit: an embeddable money engine. Lightning invoices, prepaid NFC cards, reward points
//! and merchant settlement, on one double-entry ledger.
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod access;
pub mod cards;
pub mod chain;
pub mod checkout;
mod core;
mod engine;
mod error;
pub mod events;
pub mod exchange;
#[cfg(feature = "ffi")]
pub mod ffi;
mod health;
pub mod ids;
pub mod invoices;
mod jobs;
pub mod ledger;
pub mod lightning;
pub mod lnurl;
pub mod money;
mod payments;
pub mod ports;
pub mod rates;
pub mod receipts;
pub mod refunds;
pub mod reports;
pub mod rewards;
pub mod settlement;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod treasury;
#[cfg(feature = "chain")]
pub mod wallets;

#[cfg(feature = "ffi")]
#[doc(hidden)]
pub use ffi::UniFfiTag;

pub use core::{
    Answer, CardPaymentSettings, CommandError, IdempotencyKey, MasterSecret, NodeStatus, Settings,
};
pub use engine::{Engine, EngineBuilder};
pub use error::Error;
pub use health::{Health, Trouble};
pub use jobs::JobsRun;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The guide for whoever is handed a receipt, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide/check-a-receipt.md")]
struct CheckAReceipt;

/// The guide for whoever writes a store, compiled and run.
#[cfg(all(doctest, feature = "testkit"))]
#[doc = include_str!("../docs/guide/write-a-store.md")]
struct WriteAStore;
