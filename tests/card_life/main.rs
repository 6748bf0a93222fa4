//! The life of a card: lost, replaced, expired, wiped, retired; its family, its holder's recovery
//! code, its virtual and bearer kin; and who may do what.

mod codes;
mod desk;
mod family_balance;
mod hands;
mod model;
mod owed;
mod owner;
mod private;
mod receipts;
mod story;
#[path = "../support/mod.rs"]
mod support;
mod taken_home;
mod who;
