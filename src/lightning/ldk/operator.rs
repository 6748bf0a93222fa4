//! What an operator asks of the node beside the port: channels, addresses, the chain.
//!
//! All answer [`LightningError::NotRunning`] before [`start`](crate::lightning::LightningNode::start),
//! [`LightningError::Refused`] when nothing was done, and [`LightningError::Unknown`] when it is
//! not known.

use std::str::FromStr;

use ldk_node::UserChannelId;
use ldk_node::bitcoin::address::NetworkUnchecked;
use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::bitcoin::{Address, FeeRate};
use ldk_node::lightning::ln::msgs::SocketAddress;

use super::LdkNode;
use super::balances::ours_msat;
use super::records::{node_error, payment_record, refused, signed, unsigned};
use crate::lightning::{LightningError, PaymentRecord};

/// Fees that somebody may mean: nothing asks back before they are paid.
const FEES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// A channel of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdkChannel {
    /// What both sides call it; changes once, when the channel gets its funding transaction.
    pub channel_id: String,
    /// What this node calls it for ever; [`LdkNode::close_channel`] takes it.
    pub user_channel_id: String,
    /// The peer, 66 hex digits.
    pub peer_node_id: String,
    /// `txid:vout`, once there is one.
    pub funding_outpoint: Option<String>,
    /// The whole channel.
    pub capacity_sats: i64,
    /// Ours in it, reserve included, payments in flight taken out.
    pub ours_msat: i64,
    /// What we could send, before fees.
    pub outbound_capacity_msat: i64,
    /// What the peer could send us.
    pub inbound_capacity_msat: i64,
    /// Opened by us.
    pub is_outbound: bool,
    /// The funding is confirmed and both sides said so.
    pub is_ready: bool,
    /// Ready, and the peer is connected.
    pub is_usable: bool,
}

pub(super) fn node_key(text: &str) -> Result<PublicKey, LightningError> {
    PublicKey::from_str(text).map_err(|_| refused(format!("{text} is no node id")))
}

pub(super) fn peer_address(text: &str) -> Result<SocketAddress, LightningError> {
    SocketAddress::from_str(text).map_err(|_| refused(format!("{text} is no host:port")))
}

impl LdkNode {
    /// Where peers may connect, as configured (`host:port`).
    pub fn listening_addresses(&self) -> Vec<String> {
        self.config().listening_addresses.clone()
    }

    /// A fresh address of the node's own on-chain wallet.
    pub async fn new_onchain_address(&self) -> Result<String, LightningError> {
        self.call(|node| node.onchain_payment().new_address())
            .await?
            .map(|address| address.to_string())
            .map_err(node_error)
    }

    /// Sends all that the node's own on-chain wallet has to an address, but for what it keeps there
    /// to get its part out of the channels that are open; of one without channels nothing is kept.
    /// The fee is in satoshis for 1,000 virtual bytes, 1,000 to 1,000,000, or what the node thinks
    /// right. Returns the transaction's id: it is broadcast, and in a block when the chain says so.
    ///
    /// The books are told by whoever asked, as of all that enters and leaves this wallet
    /// ([`book_capital`](crate::treasury::Treasury::book_capital)). Asked again where it is not
    /// known what came of it, it sends what is there then.
    pub async fn send_all_onchain(
        &self,
        address: &str,
        fee_sat_per_kvb: Option<u64>,
    ) -> Result<String, LightningError> {
        let found: Address<NetworkUnchecked> = address
            .parse()
            .map_err(|_| refused(format!("{address} is no address")))?;
        if fee_sat_per_kvb.is_some_and(|fee| !FEES.contains(&fee)) {
            return Err(refused("a fee is 1,000 to 1,000,000 sat per kvB"));
        }
        let fee = fee_sat_per_kvb.map(|fee| FeeRate::from_sat_per_kwu(fee.div_ceil(4)));
        // That it is of the node's network is looked at there.
        let address = found.assume_checked();
        self.call(move |node| {
            let wallet = node.onchain_payment();
            wallet.send_all_to_address(&address, true, fee)
        })
        .await?
        .map(|txid| txid.to_string())
        .map_err(node_error)
    }

    /// Connects to a peer and remembers it: the node reconnects by itself, also after a restart.
    pub async fn connect(&self, node_id: &str, address: &str) -> Result<(), LightningError> {
        let (key, address) = (node_key(node_id)?, peer_address(address)?);
        self.call(move |node| node.connect(key, address, true))
            .await?
            .map_err(node_error)
    }

    /// Opens an unannounced channel of `amount_sats`, of which `push_msat` are given to the peer
    /// for nothing. Returns its `user_channel_id`. That it got anywhere is said by
    /// [`ChannelChanged`](crate::lightning::LightningEvent::ChannelChanged).
    pub async fn open_channel(
        &self,
        node_id: &str,
        address: &str,
        amount_sats: i64,
        push_msat: Option<i64>,
    ) -> Result<String, LightningError> {
        let (key, address) = (node_key(node_id)?, peer_address(address)?);
        let amount_sats = unsigned(amount_sats)?;
        let push_msat = push_msat.map(unsigned).transpose()?;
        self.call(move |node| node.open_channel(key, address, amount_sats, push_msat, None))
            .await?
            .map(|id| id.0.to_string())
            .map_err(node_error)
    }

    /// Closes a channel, together with the peer or (`force`) by broadcasting the own last state,
    /// after which our part is locked for a day or more.
    pub async fn close_channel(
        &self,
        user_channel_id: &str,
        peer_node_id: &str,
        force: bool,
    ) -> Result<(), LightningError> {
        let peer = node_key(peer_node_id)?;
        let id: u128 = user_channel_id
            .parse()
            .map_err(|_| refused(format!("{user_channel_id} is no channel of ours")))?;
        let id = UserChannelId(id);
        let closed = self
            .call(move |node| {
                // ldk-node answers Ok for a channel that does not exist.
                if !node.list_channels().iter().any(|c| c.user_channel_id == id) {
                    return None;
                }
                Some(if force {
                    node.force_close_channel(&id, peer, None)
                } else {
                    node.close_channel(&id, peer)
                })
            })
            .await?;
        match closed {
            None => Err(refused(format!("no channel {user_channel_id}"))),
            Some(result) => result.map_err(node_error),
        }
    }

    /// All channels, those being opened included.
    pub async fn channels(&self) -> Result<Vec<LdkChannel>, LightningError> {
        self.call(|node| {
            let balances = node.list_balances();
            let channels = node.list_channels();
            channels
                .iter()
                .map(|channel| LdkChannel {
                    channel_id: channel.channel_id.to_string(),
                    user_channel_id: channel.user_channel_id.0.to_string(),
                    peer_node_id: channel.counterparty_node_id.to_string(),
                    funding_outpoint: channel.funding_txo.map(|outpoint| outpoint.to_string()),
                    capacity_sats: signed(channel.channel_value_sats),
                    ours_msat: signed(ours_msat(channel, &balances)),
                    outbound_capacity_msat: signed(channel.outbound_capacity_msat),
                    inbound_capacity_msat: signed(channel.inbound_capacity_msat),
                    is_outbound: channel.is_outbound,
                    is_ready: channel.is_channel_ready,
                    is_usable: channel.is_usable,
                })
                .collect()
        })
        .await
    }

    /// Follows the chain now, at least to where its tip is at this moment, instead of at the
    /// next interval.
    pub async fn sync(&self) -> Result<(), LightningError> {
        // ldk-node joins a call to a sync that is under way, which may have begun before the
        // newest block. The second one began after this call.
        self.call(|node| node.sync_wallets().and_then(|()| node.sync_wallets()))
            .await?
            .map_err(node_error)
    }

    /// Every Lightning payment the node has a record of, invoices that wait included, in no
    /// order.
    pub async fn list_payments(&self) -> Result<Vec<PaymentRecord>, LightningError> {
        self.call(|node| {
            let payments = node.list_payments();
            payments.iter().filter_map(payment_record).collect()
        })
        .await
    }
}
