//! Records of how the engine stands.

use crate::{core, health, lightning};

/// What is wrong now.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Health {
    /// The books are not written: commands are refused with this error.
    pub store: Option<Trouble>,
    /// The node's state is not written: its channels wait, or it has lost its place.
    pub node: Option<Trouble>,
    /// The clock of this device and the time of the books are more than a minute apart:
    /// `store.clock_behind`, `store.clock_ahead`. The books are written all the same.
    pub clock: Option<Trouble>,
    /// An address that the chain's source does not tell of, what came to it that could not be put to
    /// the invoices, or the mempool, which could not be read: `chain.bad_answer` for example. The
    /// others are watched all the same. Of several the one that has been there for the longest.
    pub chain: Option<Trouble>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Trouble {
    /// The code of the error: `store.full`, `store.moved`, `store.fenced`.
    pub code: String,
    /// For a person, in English.
    pub detail: String,
    /// Since when, milliseconds since the epoch; absent where it is for good.
    pub since_ms: Option<i64>,
    /// How many writes wait and are tried again.
    pub writes_waiting: u64,
}

impl From<health::Health> for Health {
    fn from(health: health::Health) -> Self {
        Self {
            store: health.store.map(Into::into),
            node: health.node.map(Into::into),
            clock: health.clock.map(Into::into),
            chain: health.chain.map(Into::into),
        }
    }
}

impl From<health::Trouble> for Trouble {
    fn from(trouble: health::Trouble) -> Self {
        Self {
            code: trouble.code,
            detail: trouble.detail,
            since_ms: trouble.since_ms,
            writes_waiting: u64::try_from(trouble.writes_waiting).unwrap_or(u64::MAX),
        }
    }
}

/// How the node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum NodeStatus {
    /// The engine was opened without one.
    Absent,
    /// It was not started, or was stopped.
    Stopped,
    /// It runs here.
    Running,
    /// Another instance on the same books runs it.
    Standby,
    /// Its state may not be the newest there was, so that it does not run on it. The books work.
    Locked,
}

impl From<core::NodeStatus> for NodeStatus {
    fn from(status: core::NodeStatus) -> Self {
        match status {
            core::NodeStatus::None => Self::Absent,
            core::NodeStatus::Stopped => Self::Stopped,
            core::NodeStatus::Running => Self::Running,
            core::NodeStatus::Standby => Self::Standby,
            core::NodeStatus::Locked => Self::Locked,
        }
    }
}

/// A channel of a node that was recovered: its peer is to close it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct LostChannel {
    /// What both sides call it, 64 hex digits.
    pub channel_id: String,
    /// The peer to connect to, 66 hex digits.
    pub peer_node_id: String,
    /// `txid:vout` of the output that the channel lives on.
    pub funding_outpoint: String,
    /// The node watches for its close and sweeps what is ours.
    pub is_watched: bool,
}

impl From<lightning::LostChannel> for LostChannel {
    fn from(channel: lightning::LostChannel) -> Self {
        Self {
            channel_id: channel.channel_id,
            peer_node_id: channel.peer_node_id,
            funding_outpoint: channel.funding_outpoint,
            is_watched: channel.is_watched,
        }
    }
}
