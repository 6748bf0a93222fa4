//! What is left of a node whose channels were lost.

use serde::{Deserialize, Serialize};

/// A channel that a node had before its state was lost. Its peer closes it once it is connected,
/// and what was ours in it is then swept to the node's on-chain wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostChannel {
    /// What both sides call it, 64 hex digits.
    pub channel_id: String,
    /// The peer to connect to, 66 hex digits.
    pub peer_node_id: String,
    /// `txid:vout` of the output that the channel lives on.
    pub funding_outpoint: String,
    /// The node watches for its close and sweeps. Where it does not (the channel is older than
    /// the facts that are kept of channels), what was ours lies under a key of the node's seed
    /// once the peer has closed, and has to be swept by other tools.
    pub is_watched: bool,
}
