//! What can go wrong between the engine and a node.

/// A call to the node failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LightningError {
    /// The node was not started, or was stopped. `lightning.not_running`, retryable.
    #[error("the Lightning node is not running")]
    NotRunning,
    /// The engine was built without a node. `lightning.no_node`.
    #[error("this engine has no Lightning node")]
    NoNode,
    /// The text is not a BOLT11 invoice. `lightning.bad_invoice`.
    #[error("this is not a BOLT11 invoice: {reason}")]
    BadInvoice {
        /// What the parser said.
        reason: String,
    },
    /// The invoice belongs to another network. `lightning.wrong_network`.
    #[error("the invoice is for {found}, the node is on {expected}")]
    WrongNetwork {
        /// The node's network.
        expected: String,
        /// The invoice's network.
        found: String,
    },
    /// The node refused the request before anything happened. `lightning.refused`.
    #[error("the node refused: {reason}")]
    Refused {
        /// What the node said.
        reason: String,
    },
    /// What the peers could send us now is less than what is asked for.
    /// `lightning.no_inbound_capacity`, retryable: a channel may be opened, or a peer come back.
    #[error("the channels can take in {available_msat} msat, and {asked_msat} msat are asked for")]
    NoInboundCapacity {
        /// What is asked for.
        asked_msat: i64,
        /// What the channels that can be used now could take in.
        available_msat: i64,
    },
    /// The node has no liquidity provider that opens channels just in time.
    /// `lightning.no_liquidity_provider`.
    #[error("the node has no liquidity provider")]
    NoLiquidityProvider,
    /// The node could not be built or started. `lightning.start_failed`, retryable.
    #[error("the node did not start: {reason}")]
    StartFailed {
        /// What the node said.
        reason: String,
    },
    /// Another instance on the same books runs the node. `lightning.held_elsewhere`, retryable: it
    /// can be had once that one stopped, or did not renew its lease.
    #[error("another instance has the node for {remaining_ms} ms more")]
    HeldElsewhere {
        /// For how long, unless it renews its lease.
        remaining_ms: i64,
    },
    /// The node lost its place to another instance, or could not renew its lease; it was stopped,
    /// and may be started again. `lightning.displaced`.
    #[error("the node lost its place: {reason}")]
    Displaced {
        /// What the store said.
        reason: String,
    },
    /// The node's state is not the newest there was, so that running on it could lose all it has;
    /// or it was handed over to another store, and no node runs here again.
    /// `lightning.stale_state`.
    #[error("the node's state is stale: {reason}")]
    StaleState {
        /// What the store said.
        reason: String,
    },
    /// This kind of node cannot be asked that. `lightning.unsupported`.
    #[error("this kind of node cannot be asked {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The node gives up its channels and all it has: nothing is made any more that would be paid
    /// through them. `lightning.draining`.
    #[error("the node gives up its channels")]
    Draining,
    /// It is not known whether the call had its effect. Ask again. `lightning.unknown`, retryable.
    #[error("it is not known whether the node did this: {reason}")]
    Unknown {
        /// What the node said.
        reason: String,
    },
}

impl LightningError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRunning => "lightning.not_running",
            Self::NoNode => "lightning.no_node",
            Self::BadInvoice { .. } => "lightning.bad_invoice",
            Self::WrongNetwork { .. } => "lightning.wrong_network",
            Self::Refused { .. } => "lightning.refused",
            Self::NoInboundCapacity { .. } => "lightning.no_inbound_capacity",
            Self::NoLiquidityProvider => "lightning.no_liquidity_provider",
            Self::HeldElsewhere { .. } => "lightning.held_elsewhere",
            Self::Displaced { .. } => "lightning.displaced",
            Self::StaleState { .. } => "lightning.stale_state",
            Self::StartFailed { .. } => "lightning.start_failed",
            Self::Unsupported { .. } => "lightning.unsupported",
            Self::Draining => "lightning.draining",
            Self::Unknown { .. } => "lightning.unknown",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotRunning
                | Self::StartFailed { .. }
                | Self::NoInboundCapacity { .. }
                | Self::HeldElsewhere { .. }
                | Self::Unknown { .. }
        )
    }
}
