//! On-chain: sources, wallets, and what their scripts receive, on the chain in this process.
//! `BITCOIND_EXE` runs what needs nothing but a [`TestChain`] on a real node as well.

mod facts;
mod sources;
