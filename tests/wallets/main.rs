//! On-chain: sources, wallets, and what their scripts receive, on the chain in this process.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod corpus;
mod draining;
mod facts;
mod invoices;
mod labels;
mod old_wallets;
mod racing;
mod receipts;
mod receiving;
mod refunded_points;
mod refunds;
mod reorgs;
mod scene;
mod sources;
mod spending;
mod withdrawing;
