//! On-chain: sources, wallets, and what their scripts receive, on the chain in this process.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod corpus;
mod drain_ends;
mod draining;
mod facts;
mod inherited;
mod invoices;
mod labels;
mod old_wallets;
mod overlapping;
mod paid_before;
mod racing;
mod receipts;
mod receiving;
mod refund_fees;
mod refunded_points;
mod refunds;
mod reorgs;
mod scene;
mod sources;
mod spending;
mod unheard;
mod withdrawing;
