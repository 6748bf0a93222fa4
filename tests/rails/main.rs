//! The rails of a card and of a merchant: what leaves by the node, what stays in the books, and
//! what tills and wallets hear of it.

#![cfg(feature = "sqlite")]

mod away;
mod by_book;
mod checking;
mod checkout;
mod crowd;
mod doors;
mod edges;
mod foreign;
mod lnurl;
mod locked_up;
mod low;
mod machine;
mod meanwhile;
mod no_lies;
mod offers;
mod orders;
mod owed;
mod page;
mod partly_refunded;
mod payer_auth;
mod receipts;
mod refund_model;
mod refunds;
mod rules_of_a_card;
mod search;
#[path = "../support/searches.rs"]
mod searches;
mod set;
#[path = "../support/mod.rs"]
mod support;
mod suspense;
mod taken_away;
mod top_up;
mod traps;
mod withdrawal;
