//! flashkit
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod lightning;
pub mod ports;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
