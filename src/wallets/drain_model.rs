//! The records of a node that is emptied.

use serde::{Deserialize, Serialize};

use super::model::is_false;
use crate::core::IdempotencyKey;
use crate::ids::{DrainId, SpendId};

/// Takes all that the node's keys hold to one address: what is in its channels, which are closed
/// for it, what is in its own wallet, and what is in the operator's wallets of the node's seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNode {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Where to: an address of one's own.
    pub address: String,
    /// The fee of what is sent to it, in satoshis for 1,000 virtual bytes, 1,000 to 1,000,000; what
    /// the node and the chain's server think right where it is left out. Another one for a drain
    /// that goes on holds for what is sent from then on, and for what the network refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_sat_per_kvb: Option<u64>,
    /// True where a channel that cannot be closed together with its peer is closed alone: at once if
    /// that is refused, or after ten minutes if it was agreed on and is not done. What is in it is
    /// then locked for a day or more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// True where the operator knows that this is what backs the balances of cards, merchants and
    /// rewards, and takes it all the same.
    #[serde(default, skip_serializing_if = "is_false")]
    pub even_if_owed: bool,
}

/// Ends a drain as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndDrain {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Which.
    pub drain: DrainId,
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainState {
    /// Channels are open, or what was in them is on its way.
    Closing,
    /// All is on chain, and on its way to the address.
    Sweeping,
    /// All has gone, and it is looked once more before it is booked.
    Settling,
    /// It is over, and booked.
    Done,
}

/// What a drain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainWait {
    /// Channels that are not closed: see [`DrainedChannel::refusal`].
    Channels,
    /// What comes out of closed channels.
    Closings,
    /// Blocks for what is on its way.
    Confirmations,
    /// Spends of the operator's wallets.
    Spends,
    /// The node, which refuses to send what it has: see [`NodeDrain::refusal`].
    Node,
    /// Lightning payments of which it is not known what became of them.
    Payments,
}

/// How a channel of a drain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelEnd {
    /// It could not be closed yet.
    Open,
    /// The peer was asked to close it.
    Asked,
    /// It was closed without the peer.
    Forced,
    /// It is open no more.
    Closed,
}

/// A channel that is closed by a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedChannel {
    /// What the node calls it.
    pub channel: String,
    /// The peer, 66 hex digits.
    pub peer_node_id: String,
    /// What was ours in it when it was last seen open.
    pub ours_msat: i64,
    /// How it stands.
    pub end: ChannelEnd,
    /// When the peer was asked, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at_ms: Option<i64>,
    /// Why it could not be closed, as the node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// What a drain sent out of the node's own wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainSend {
    /// The transaction.
    pub txid: String,
    /// What could be sent then, the fee included.
    pub of_msat: i64,
    /// What it sends, once the node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_msat: Option<i64>,
    /// What it costs, once the node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_msat: Option<i64>,
    /// A block has it.
    pub is_confirmed: bool,
    /// It can be in no block any more: what it would send has gone by others. It is not waited for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_gone: bool,
    /// When it was sent, or first seen, milliseconds since the epoch.
    pub sent_at_ms: i64,
}

impl DrainSend {
    /// True of what gets a closed channel into a block: it was to send no more than it costs. What it
    /// took out of the wallet is less where it spends of the channel as well (BOLT 3, anchors), and is
    /// among [`NodeDrain::closing_fees_msat`].
    pub(super) fn is_of_a_channel(&self) -> bool {
        self.amount_msat == Some(0) && self.fee_msat.is_some_and(|fee| self.of_msat <= fee)
    }
}

/// All that the node has, on its way to somebody's own wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDrain {
    /// Its id.
    pub id: DrainId,
    /// How far it is.
    pub state: DrainState,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<DrainWait>,
    /// Where all goes.
    pub address: String,
    /// The fee that was asked for, in satoshis for 1,000 virtual bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_sat_per_kvb: Option<u64>,
    /// Channels that cannot be closed together are closed alone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// What the node had in its channels when it was last looked.
    pub channels_msat: i64,
    /// What was on its way out of closed channels.
    pub closing_msat: i64,
    /// What the node's own wallet had.
    pub onchain_msat: i64,
    /// The channels.
    pub channels: Vec<DrainedChannel>,
    /// What was sent out of the node's own wallet.
    pub sends: Vec<DrainSend>,
    /// The spends that empty the operator's wallets of the node's seed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spends: Vec<SpendId>,
    /// Coins of the operator's wallets of the node's seed that a label (BIP 329) keeps back,
    /// `txid:vout`: they stay where they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// Why the node, a wallet or the network did not send what there is when it was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// What closing the channels cost, once it is done, with what the wallet paid to get them into
    /// blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing_fees_msat: Option<i64>,
    /// It was ended as it stood, by a command: what it had not sent is where it was.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_ended: bool,
    /// When it was begun, milliseconds since the epoch.
    pub started_at_ms: i64,
    /// When it was done, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at_ms: Option<i64>,
}

impl NodeDrain {
    /// What arrives at the address from the node's own wallet, as far as blocks have it; what the
    /// spends send is theirs to say.
    pub fn sent_msat(&self) -> i64 {
        let confirmed = self.sends.iter().filter(|send| send.is_confirmed);
        let amounts = confirmed.map(|send| send.amount_msat.unwrap_or(0));
        amounts.fold(0, i64::saturating_add)
    }

    /// What that cost.
    pub fn fees_msat(&self) -> i64 {
        let confirmed = self.sends.iter().filter(|send| send.is_confirmed);
        let confirmed = confirmed.filter(|send| !send.is_of_a_channel());
        let fees = confirmed.map(|send| send.fee_msat.unwrap_or(0));
        fees.fold(0, i64::saturating_add)
    }
}
