//! What can go wrong in a store.

/// The store could not do what it was asked. Nothing was changed, except where
/// [`StoreError::OutcomeUnknown`] says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is held by another engine. `store.in_use`, retryable.
    #[error("another engine has this store open: {location}")]
    InUse {
        /// The file.
        location: String,
    },
    /// The file was written by a newer version of this library. `store.newer_schema`.
    #[error("the store has schema {found}, this version knows {known}")]
    NewerSchema {
        /// The schema in the file.
        found: i64,
        /// The newest schema this version knows.
        known: i64,
    },
    /// The file is not a store of ours, or is damaged. `store.corrupt`.
    #[error("the store is damaged or is no flashkit store: {reason}")]
    Corrupt {
        /// What was found.
        reason: String,
    },
    /// The store cannot be reached as it was asked to. `store.misconfigured`.
    #[error("the store's settings are wrong: {reason}")]
    Misconfigured {
        /// Which, and how.
        reason: String,
    },
    /// The disk is full. `store.full`, retryable.
    #[error("the disk is full")]
    Full,
    /// The file cannot be written. `store.read_only`.
    #[error("the store cannot be written: {reason}")]
    ReadOnly {
        /// What the system said.
        reason: String,
    },
    /// Another program has locked the file. `store.locked`, retryable.
    #[error("another program holds a lock on the store: {reason}")]
    Locked {
        /// What the database said.
        reason: String,
    },
    /// The file, or its log, is not any more where it was opened: it was removed, moved or
    /// replaced. What was written before is in the file that was opened. `store.moved`.
    #[error("the store was removed, moved or replaced: {location}")]
    Moved {
        /// Where it was opened.
        location: String,
    },
    /// The operating system or the database failed. `store.io`, retryable.
    #[error("the store failed: {reason}")]
    Io {
        /// What it said.
        reason: String,
    },
    /// Too many changes are waiting. `store.busy`, retryable.
    #[error("{waiting} changes are waiting to be written")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The store was closed. `store.closed`.
    #[error("the store is closed")]
    Closed,
    /// A newer epoch of the node exists: this one must stop. `store.fenced`.
    #[error("epoch {given} of the node has ended, the current one is {current}")]
    Fenced {
        /// The epoch of the write.
        given: u64,
        /// The epoch that holds.
        current: u64,
    },
    /// Another instance runs the node. `store.lease_held`, retryable.
    #[error("another instance has the node for {remaining_ms} ms more")]
    LeaseHeld {
        /// For how long, unless it renews its lease.
        remaining_ms: i64,
    },
    /// The lease of the node was not renewed in time: it must stop. `store.lease_ran_out`.
    #[error("the lease of the node's epoch {epoch} was not renewed in time")]
    LeaseRanOut {
        /// The epoch.
        epoch: u64,
    },
    /// The node's state here is not the newest there was: the file or database is a copy, was put
    /// back, or was promoted.
    /// A node that ran on it could lose all it has. `store.stale_node_state`.
    #[error("{found} writes of the node are in the file, and there were {}",
        .expected.map_or_else(|| "more, or it was moved".to_owned(), |n| n.to_string()))]
    StaleNodeState {
        /// How many of the node's writes (PostgreSQL: values) are in the store.
        found: i64,
        /// How many there were; `None` when what says so is missing beside the file.
        expected: Option<i64>,
    },
    /// The node's state was handed over to another store, and no node ever runs on this one again.
    /// `store.node_handed_over`.
    #[error("the node of this store was handed over to another one, for ever")]
    NodeHandedOver,
    /// The books were handed over to another store together with their node, and live there alone:
    /// nothing is committed here any more, for ever. `store.handed_over`.
    #[error("the books of this store were handed over to another one, for ever")]
    HandedOver,
    /// The writer went away before it answered: the change may or may not have been made. The
    /// same batch can be submitted again. `store.outcome_unknown`, retryable.
    #[error("it is not known whether the change was made")]
    OutcomeUnknown,
}

impl StoreError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "store.in_use",
            Self::NewerSchema { .. } => "store.newer_schema",
            Self::Corrupt { .. } => "store.corrupt",
            Self::Misconfigured { .. } => "store.misconfigured",
            Self::Full => "store.full",
            Self::ReadOnly { .. } => "store.read_only",
            Self::Locked { .. } => "store.locked",
            Self::Moved { .. } => "store.moved",
            Self::Io { .. } => "store.io",
            Self::Busy { .. } => "store.busy",
            Self::Closed => "store.closed",
            Self::Fenced { .. } => "store.fenced",
            Self::LeaseHeld { .. } => "store.lease_held",
            Self::LeaseRanOut { .. } => "store.lease_ran_out",
            Self::StaleNodeState { .. } => "store.stale_node_state",
            Self::NodeHandedOver => "store.node_handed_over",
            Self::HandedOver => "store.handed_over",
            Self::OutcomeUnknown => "store.outcome_unknown",
        }
    }

    /// What the failure of a wait behind a commit says of that commit: that it is not known, but for
    /// what kept the wait itself from beginning.
    pub(crate) fn of_waiting(self) -> Self {
        match self {
            Self::Busy { .. } | Self::Closed | Self::HandedOver => self,
            _ => Self::OutcomeUnknown,
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::InUse { .. }
                | Self::Full
                | Self::Locked { .. }
                | Self::Io { .. }
                | Self::Busy { .. }
                | Self::LeaseHeld { .. }
                | Self::OutcomeUnknown
        )
    }
}
