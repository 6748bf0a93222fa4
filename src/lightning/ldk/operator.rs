//! What an operator asks of the node beside the port: channels, addresses, the chain.
//!
//! All answer [`LightningError::NotRunning`] before [`start`](crate::lightning::LightningNode::start),
//! [`LightningError::Refused`] when nothing was done, and [`LightningError::Unknown`] when it is
//! not known.

use std::str::FromStr;

use ldk_node::ChannelDetails;
use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;

use super::LdkNode;
use super::balances::ours_msat;
use super::closing::{close, user_channel_id};
use super::records::{node_error, payment_record, refused, signed, unsigned};
use crate::lightning::{LightningError, PaymentRecord};

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
        user_channel_id_text: &str,
        peer_node_id: &str,
        force: bool,
    ) -> Result<(), LightningError> {
        let (peer, id) = (
            node_key(peer_node_id)?,
            user_channel_id(user_channel_id_text)?,
        );
        self.call(move |node| {
            let channels = node.list_channels();
            let is_it = |c: &ChannelDetails| c.user_channel_id == id;
            if channels
                .iter()
                .any(|c| is_it(c) && c.counterparty_node_id != peer)
            {
                return Err(refused(format!("{peer} is not the peer of {}", id.0)));
            }
            close(node, id, force)
        })
        .await?
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
