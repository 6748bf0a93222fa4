//! What tests and examples need and a product does not: nothing here is for real money.

pub mod chain;
pub mod clock;
pub mod faulty_store;
#[cfg(all(feature = "ldk", feature = "sqlite"))]
pub mod local_network;
pub mod simulator;
pub mod virtual_card;
pub mod virtual_chip;
pub mod wallet;
