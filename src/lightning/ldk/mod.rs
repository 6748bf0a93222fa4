//! ldk-node in this process: [`LdkNode`], with its state kept in the engine's own
//! [`KeyValue`](crate::store::KeyValue). The only place of the crate that names `ldk_node`.
//!
//! # What a host has to know
//! - The node lives on a small tokio runtime of its own: LDK persists under its locks, so while
//!   the store refuses a write, the threads that run LDK stand still. The host's do not.
//! - A write of the node's state never fails upwards: it is retried until the store takes it, and
//!   [`NodeHealth`] says so meanwhile. Stop the node before closing the store.
//! - The node runs under a lease ([`LdkConfig::lease`]), which it renews. One whose epoch ended, or
//!   whose lease was not renewed in time, is *fenced*: it is stopped, nothing more of it is
//!   written, and [`next_event`](super::LightningNode::next_event) answers
//!   [`LightningError::Displaced`](super::LightningError::Displaced). It may be started again, and
//!   then reads all of its state anew. A thread of it that was reading or writing its state stays
//!   parked until the process ends, because returning in any way would let a channel go on (see
//!   [`health`](NodeHealth)).
//! - What the fence cannot prevent: ldk-node broadcasts by itself, and has no hook before it. Its
//!   workers ask the fence whenever they wake up. A transaction that a worker was sending at the very
//!   moment when the process was paused, with one answer or none left to wait for, may leave. Were it
//!   one that closes a channel by force, the next holder may have revoked it meanwhile.
//! - ldk-node writes the channel monitor and the channel manager one after the other. A process
//!   killed in between finds its manager outdated when it starts again, and LDK then
//!   force-closes that channel; the books survive, the channel does not.

mod ahead;
mod balances;
mod closing;
mod config;
mod health;
mod kv;
mod lease;
mod node;
mod operator;
mod payments;
mod port;
mod records;
mod recovery;

pub use config::{LdkChainSource, LdkConfig, LdkNetwork, LdkSeed, LiquidityProvider};
pub use health::{NodeHealth, NodeHealthReport, StoreTrouble};
pub use node::LdkNode;
pub use operator::LdkChannel;
