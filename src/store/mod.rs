//! The store port.

mod error;
mod key_value;

pub use error::StoreError;
pub use key_value::{KeyPath, KeyValue, KeyValueWrite};
