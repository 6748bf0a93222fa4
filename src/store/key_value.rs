//! Where a node keeps its state.

use crate::ports::BoxFuture;

use super::StoreError;

/// Where a value is kept: two namespaces and a key, as LDK has them. Each part is at most 120
/// ASCII characters; the namespaces may be empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath {
    /// The outer namespace.
    pub primary: String,
    /// The inner namespace.
    pub secondary: String,
    /// The key.
    pub key: String,
}

/// A change to the node's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyValueWrite {
    /// Sets a value.
    Put {
        /// Where.
        path: KeyPath,
        /// The new value.
        value: Vec<u8>,
    },
    /// Takes a value away; a missing one is no error.
    Remove {
        /// Where.
        path: KeyPath,
    },
}

/// The node's state, kept in the engine's own store.
///
/// # Contract
/// - At most one node runs on a store. [`begin_epoch`](Self::begin_epoch) makes the caller that
///   one: every write carries its epoch, and a write with an older epoch is refused with
///   [`StoreError::Fenced`], so that a node which lost its place can never write stale state.
/// - [`write`](Self::write) queues the change **when it is called**: writes to one key apply in
///   call order, however the futures are polled. The future completes after the change is durable.
/// - Writes do not wait behind queued batches of the ledger.
/// - The future of `write` needs no async runtime: it may be blocked on from any thread.
pub trait KeyValue: Send + Sync {
    /// Starts a new epoch and ends every older one. Returns the epoch to write with; the first
    /// is 1, and before it nothing can be written.
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>>;

    /// Changes one value.
    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>>;

    /// The value at `path`, as of all writes that completed before.
    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>>;

    /// Throws away everything the node knows of its channels, puts `instead` in its place, and
    /// makes a locked node startable, all in one commit: the first step of a recovery. What stays
    /// is the on-chain wallet, the sweeper, the peers and what is kept of channels outside their
    /// state. Answers `false`, and changes nothing, where the node is not locked.
    ///
    /// # Errors
    /// `store.node_handed_over`: the node lives elsewhere, for ever. `store.misconfigured` from a
    /// store that never locks its node. `store.*`.
    fn forget_channels(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> BoxFuture<'static, Result<bool, StoreError>> {
        drop(instead);
        let reason = "this store never locks its node".to_owned();
        Box::pin(std::future::ready(Err(StoreError::Misconfigured {
            reason,
        })))
    }

    /// The keys in a namespace, in order.
    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>>;
}
