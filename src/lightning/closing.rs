//! What a node that gives up all it has tells of it: its open channels, and its wallet on chain.

use serde::{Deserialize, Serialize};

/// A channel that is open: its funding transaction is made, and neither side has closed it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenChannel {
    /// What this node calls it for ever.
    pub channel: String,
    /// The peer, 66 hex digits.
    pub peer_node_id: String,
    /// Ours in it, reserve included, payments in flight taken out.
    pub ours_msat: i64,
    /// Closing was agreed on; it is open until that is done.
    pub is_closing: bool,
}

/// What left the node's own wallet on chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnchainSend {
    /// The transaction.
    pub txid: String,
    /// What it sent, without the fee.
    pub amount_msat: i64,
    /// What it cost.
    pub fee_msat: i64,
    /// A block has it.
    pub is_confirmed: bool,
}

/// The node's own wallet on chain, as [`NodeBalances::onchain_msat`](super::NodeBalances) counts
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnchainWallet {
    /// All of it.
    pub total_msat: i64,
    /// What can be sent now: not what waits for a block, nor what open channels need.
    pub spendable_msat: i64,
    /// Something of a channel that is closed is not settled in blocks: what gets it there may have
    /// to be paid for out of this wallet.
    #[serde(default)]
    pub has_closings: bool,
    /// Every transaction that ever left it and that the node has a record of, in no order.
    pub sends: Vec<OnchainSend>,
}
