//! Records of taking all that the node has to one address.

use super::FlashError;
use crate::Answer;
use crate::wallets;

/// Takes all that the node's keys hold to one address: the node's channels are closed, and what comes
/// out of them, what is in its own wallet, and what is in the operator's wallets of its seed is sent.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct DrainNodeRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// Where to: an address of one's own.
    pub address: String,
    /// The fee of what is sent to it, in satoshis for 1,000 virtual bytes, 1,000 to 1,000,000; what
    /// the node and the chain's server think right where it is absent. Another one for a drain that goes
    /// on holds for what is sent from then on, and for what the network refused.
    #[uniffi(default = None)]
    pub fee_sat_per_kvb: Option<u64>,
    /// True where a channel that cannot be closed together with its peer is closed alone: what is in it
    /// is then locked for a day or more.
    #[uniffi(default = false)]
    pub force: bool,
    /// True where the operator knows that this is what backs the balances of cards, merchants and
    /// rewards, and takes it all the same.
    #[uniffi(default = false)]
    pub even_if_owed: bool,
}

impl TryFrom<DrainNodeRequest> for wallets::DrainNode {
    type Error = FlashError;

    fn try_from(request: DrainNodeRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            address: request.address,
            fee_sat_per_kvb: request.fee_sat_per_kvb,
            force: request.force,
            even_if_owed: request.even_if_owed,
        })
    }
}

/// Ends a drain as it stands.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct EndDrainRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// Which.
    pub drain_id: String,
}

impl TryFrom<EndDrainRequest> for wallets::EndDrain {
    type Error = FlashError;

    fn try_from(request: EndDrainRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            drain: request.drain_id.parse()?,
        })
    }
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
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

impl From<wallets::DrainState> for DrainState {
    fn from(state: wallets::DrainState) -> Self {
        match state {
            wallets::DrainState::Closing => Self::Closing,
            wallets::DrainState::Sweeping => Self::Sweeping,
            wallets::DrainState::Settling => Self::Settling,
            wallets::DrainState::Done => Self::Done,
        }
    }
}

/// What a drain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum DrainWait {
    /// Channels that are not closed: see `refusal` of each.
    Channels,
    /// What comes out of closed channels.
    Closings,
    /// Blocks for what is on its way.
    Confirmations,
    /// Spends of the operator's wallets.
    Spends,
    /// The node, which refuses to send what it has: see `refusal` of the drain.
    Node,
    /// Lightning payments of which it is not known what became of them.
    Payments,
}

impl From<wallets::DrainWait> for DrainWait {
    fn from(wait: wallets::DrainWait) -> Self {
        match wait {
            wallets::DrainWait::Channels => Self::Channels,
            wallets::DrainWait::Closings => Self::Closings,
            wallets::DrainWait::Confirmations => Self::Confirmations,
            wallets::DrainWait::Spends => Self::Spends,
            wallets::DrainWait::Node => Self::Node,
            wallets::DrainWait::Payments => Self::Payments,
        }
    }
}

/// How a channel of a drain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
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

impl From<wallets::ChannelEnd> for ChannelEnd {
    fn from(end: wallets::ChannelEnd) -> Self {
        match end {
            wallets::ChannelEnd::Open => Self::Open,
            wallets::ChannelEnd::Asked => Self::Asked,
            wallets::ChannelEnd::Forced => Self::Forced,
            wallets::ChannelEnd::Closed => Self::Closed,
        }
    }
}

/// A channel that is closed by a drain.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct DrainedChannel {
    /// What the node calls it.
    pub channel_id: String,
    /// The peer, 66 hex digits.
    pub peer_node_id: String,
    /// What was ours in it when it was last seen open.
    pub ours_msat: i64,
    /// How it stands.
    pub end: ChannelEnd,
    /// When the peer was asked, milliseconds since the epoch.
    pub asked_at_ms: Option<i64>,
    /// Why it could not be closed, as the node says it.
    pub refusal: Option<String>,
}

impl From<wallets::DrainedChannel> for DrainedChannel {
    fn from(channel: wallets::DrainedChannel) -> Self {
        Self {
            channel_id: channel.channel,
            peer_node_id: channel.peer_node_id,
            ours_msat: channel.ours_msat,
            end: channel.end.into(),
            asked_at_ms: channel.asked_at_ms,
            refusal: channel.refusal,
        }
    }
}

/// What a drain sent out of the node's own wallet.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct DrainSend {
    /// The transaction.
    pub txid: String,
    /// What could be sent then, the fee included.
    pub of_msat: i64,
    /// What it sends, once the node says it.
    pub amount_msat: Option<i64>,
    /// What it costs, once the node says it.
    pub fee_msat: Option<i64>,
    /// A block has it.
    pub is_confirmed: bool,
    /// It can be in no block any more: what it would send has gone by others. It is not waited for.
    pub is_gone: bool,
    /// When it was sent, or first seen, milliseconds since the epoch.
    pub sent_at_ms: i64,
}

impl From<wallets::DrainSend> for DrainSend {
    fn from(send: wallets::DrainSend) -> Self {
        Self {
            txid: send.txid,
            of_msat: send.of_msat,
            amount_msat: send.amount_msat,
            fee_msat: send.fee_msat,
            is_confirmed: send.is_confirmed,
            is_gone: send.is_gone,
            sent_at_ms: send.sent_at_ms,
        }
    }
}

/// All that the node has, on its way to somebody's own wallet.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct NodeDrain {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub state: DrainState,
    /// What it waits for.
    pub waits_for: Vec<DrainWait>,
    /// Where all goes.
    pub address: String,
    /// The fee that was asked for, in satoshis for 1,000 virtual bytes.
    pub fee_sat_per_kvb: Option<u64>,
    /// Channels that cannot be closed together are closed alone.
    pub force: bool,
    /// What the node had in its channels when it was last looked.
    pub channels_msat: i64,
    /// What was on its way out of closed channels.
    pub closing_msat: i64,
    /// What the node's own wallet had.
    pub onchain_msat: i64,
    /// What arrives at the address from the node's own wallet, as far as blocks have it.
    pub sent_msat: i64,
    /// The channels.
    pub channels: Vec<DrainedChannel>,
    /// What was sent out of the node's own wallet.
    pub sends: Vec<DrainSend>,
    /// The spends that empty the operator's wallets of the node's seed.
    pub spend_ids: Vec<String>,
    /// Coins of the operator's wallets of the node's seed that a label (BIP 329) keeps back,
    /// `txid:vout`: they stay where they are.
    pub frozen: Vec<String>,
    /// Why the node, a wallet or the network did not send what there is when it was last asked.
    pub refusal: Option<String>,
    /// What closing the channels cost, once it is done.
    pub closing_fees_msat: Option<i64>,
    /// It was ended as it stood, by a command: what it had not sent is where it was.
    pub is_ended: bool,
    /// When it was begun, milliseconds since the epoch.
    pub started_at_ms: i64,
    /// When it was done, milliseconds since the epoch.
    pub done_at_ms: Option<i64>,
    /// As of when this is true, milliseconds since the epoch.
    pub as_of_ms: i64,
}

impl From<Answer<wallets::NodeDrain>> for NodeDrain {
    fn from(answer: Answer<wallets::NodeDrain>) -> Self {
        let Answer { as_of_ms, value } = answer;
        Self {
            id: value.id.to_string(),
            state: value.state.into(),
            sent_msat: value.sent_msat(),
            waits_for: value.waits_for.into_iter().map(Into::into).collect(),
            address: value.address,
            fee_sat_per_kvb: value.fee_sat_per_kvb,
            force: value.force,
            channels_msat: value.channels_msat,
            closing_msat: value.closing_msat,
            onchain_msat: value.onchain_msat,
            channels: value.channels.into_iter().map(Into::into).collect(),
            sends: value.sends.into_iter().map(Into::into).collect(),
            spend_ids: value.spends.iter().map(ToString::to_string).collect(),
            frozen: value.frozen,
            refusal: value.refusal,
            closing_fees_msat: value.closing_fees_msat,
            is_ended: value.is_ended,
            started_at_ms: value.started_at_ms,
            done_at_ms: value.done_at_ms,
            as_of_ms,
        }
    }
}

/// Drains, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct DrainPage {
    /// The drains; the last one's id asks for the next page.
    pub drains: Vec<NodeDrain>,
    /// When it was like this.
    pub as_of_ms: i64,
}

impl From<Answer<Vec<wallets::NodeDrain>>> for DrainPage {
    fn from(answer: Answer<Vec<wallets::NodeDrain>>) -> Self {
        let as_of_ms = answer.as_of_ms;
        let drains = answer.value.into_iter();
        let drains = drains.map(|value| Answer { as_of_ms, value }.into());
        Self {
            drains: drains.collect(),
            as_of_ms,
        }
    }
}
