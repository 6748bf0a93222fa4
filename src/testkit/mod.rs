//! What tests and examples need and a product does not: nothing here is for real money.

pub mod chain;
pub mod faulty_store;
pub mod virtual_card;
pub mod wallet;
