//! ldk-node in this process: [`LdkNode`], with its state kept in the engine's own
//! [`KeyValue`](crate::store::KeyValue). The only place of the crate that names `ldk_node`.
//!
//! # What a host has to know
//! - The node lives on a small tokio runtime of its own: LDK persists under its locks, so while
//!   the store refuses a write, the threads that run LDK stand still. The host's do not.
//! - A write of the node's state never fails upwards: it is retried until the store takes it, and
//!   [`NodeHealth`] says so meanwhile. Stop the node before closing the store.
//! - A node whose epoch ended is *fenced*: it is stopped, answers
//!   [`LightningError::NotRunning`](super::LightningError::NotRunning), and never starts again.
//!   A thread of it that was about to persist channel state stays parked until the process ends,
//!   because returning from that write in any way would let the channel go on (see
//!   [`health`](NodeHealth)).
//! - ldk-node writes the channel monitor and the channel manager one after the other. A process
//!   killed in between finds its manager outdated when it starts again, and LDK then
//!   force-closes that channel; the books survive, the channel does not.

mod balances;
mod config;
mod health;
mod kv;
mod node;
mod operator;
mod records;
mod recovery;

pub use config::{LdkChainSource, LdkConfig, LdkNetwork, LdkSeed};
pub use health::{NodeHealth, NodeHealthReport, StoreTrouble};
pub use node::LdkNode;
pub use operator::LdkChannel;
