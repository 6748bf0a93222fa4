//! Cards in a currency: which rate holds, who bears what it moves, and how far the operator goes.
#![cfg(feature = "sqlite")]

#[path = "../support/mod.rs"]
mod support;

mod flows;
mod model;
mod offline;
mod payments;
mod races;
mod receipts;
mod refunds;
mod top_ups;
mod vectors;
mod world;
