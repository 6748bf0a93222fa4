//! The rails of a card and of a merchant: what leaves by the node, and what stays in the books.

mod by_book;
mod machine;
#[path = "../support/mod.rs"]
mod support;
mod traps;
