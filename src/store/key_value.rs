//! Where a node keeps its state.

use std::time::Duration;

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

/// Who may run the node, as drawn at random by each instance when it begins: not two have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeHolder(pub u64);

/// The node's state, kept in the engine's own store.
///
/// # Contract
/// - At most one node runs on a store. Who runs it has a **lease** with an **epoch**: every write
///   carries its epoch, and a write with another one than the current is refused with
///   [`StoreError::Fenced`], so that a node which lost its place can never write stale state. The
///   epoch alone is the fence; the lease only says when the next instance may take over.
/// - [`take_lease`](Self::take_lease) begins an epoch, which ends every older one, unless another
///   holder's lease still lasts: then it is refused with [`StoreError::LeaseHeld`] and nothing
///   changes. [`begin_epoch`](Self::begin_epoch) asks nobody.
/// - Times are those of the store: of the database's server, or of the clock that the store takes
///   its commit times from where nobody else can have it open. Never those of a caller.
/// - A lease does not outlive what proves its holder dead: a store that one process at a time can
///   open forgets it when it is opened.
/// - [`write`](Self::write) queues the change **when it is called**: writes to one key apply in
///   call order, however the futures are polled. The future completes after the change is durable.
///   That holds for one as well whose outcome was not known: what is delivered after writes that
///   were called later changes nothing.
/// - Writes do not wait behind queued batches of the ledger, and a queue that is full of those
///   does not refuse them: see [`Lane`](super::group_commit::Lane).
/// - The future of `write` needs no async runtime: it may be blocked on from any thread. One that
///   is dropped is carried out all the same.
/// - A refused write changes nothing, and takes no other with it.
/// - What a node knows of its channels is poison when it is old. A store whose state can be copied,
///   put back or promoted notices that, and answers `begin_epoch` and `take_lease` with
///   [`StoreError::StaleNodeState`] until [`forget_channels`](Self::forget_channels). One that
///   cannot notice must say so to whoever would run a node on it.
/// - After [`Store::close`](super::Store::close) every call answers `store.closed`.
pub trait KeyValue: Send + Sync {
    /// Starts a new epoch and ends every older one, whoever has a lease: for a person who knows
    /// that the holder is gone for good. Returns the epoch to write with; the first is 1, and
    /// before it nothing can be written. It comes without a lease: whoever asks for one next gets
    /// it, unless it is renewed.
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>>;

    /// Starts a new epoch for `holder` and ends every older one, if no lease lasts, or if
    /// `holder` has it already. The lease lasts for `lasts` from now, by the store's clock.
    /// Returns the epoch to write with. An answer that was lost is asked for again.
    ///
    /// # Errors
    /// `store.lease_held`, `store.stale_node_state`.
    fn take_lease(
        &self,
        holder: NodeHolder,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<u64, StoreError>>;

    /// The lease of `epoch` lasts for `lasts` from now. One that has run out, and that nobody
    /// took, goes on.
    ///
    /// # Errors
    /// `store.fenced`, `store.stale_node_state`.
    fn renew_lease(
        &self,
        epoch: u64,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Gives the lease of `epoch` back: the next one may take it at once. To be called after the
    /// last write of the epoch.
    ///
    /// # Errors
    /// `store.fenced`: it has another holder already.
    fn release_lease(&self, epoch: u64) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Changes one value, of any size and any bytes. Durable when it is answered.
    ///
    /// # Errors
    /// `store.fenced`: the epoch is not the current one. `store.*`.
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

    /// The keys in exactly this pair of namespaces, in the order of their bytes.
    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>>;
}

/// A lease of the node as a store remembers it, and who may take it: the rule of
/// [`KeyValue::take_lease`], for every store alike. The default is nobody's, and has run out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLease {
    /// Who has it, as in [`NodeHolder`]; 0 for nobody.
    pub holder: u64,
    /// When it runs out, by the store's clock, milliseconds since the epoch.
    pub until_ms: i64,
}

impl NodeLease {
    /// A lease that lasts for `lasts` from `now_ms` on.
    pub fn new(holder: u64, now_ms: i64, lasts: Duration) -> Self {
        let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
        Self {
            holder,
            until_ms: now_ms.saturating_add(lasts_ms),
        }
    }

    /// Whether `holder` may take the node at `now_ms`: it has the lease itself, or nobody has one
    /// that lasts.
    ///
    /// # Errors
    /// `store.lease_held`, with how long it still lasts.
    pub fn check(self, holder: NodeHolder, now_ms: i64) -> Result<(), StoreError> {
        if self.holder == holder.0 {
            return Ok(());
        }
        self.check_free(now_ms)
    }

    /// Whether nobody has the node at `now_ms`.
    ///
    /// # Errors
    /// `store.lease_held`, with how long it still lasts.
    pub fn check_free(self, now_ms: i64) -> Result<(), StoreError> {
        let remaining_ms = self.until_ms.saturating_sub(now_ms);
        if remaining_ms <= 0 {
            return Ok(());
        }
        Err(StoreError::LeaseHeld { remaining_ms })
    }
}
