//! Giving up all that the node has: its channels, and its own wallet on chain.

use std::str::FromStr;

use ldk_node::bitcoin::address::NetworkUnchecked;
use ldk_node::bitcoin::{Address, FeeRate};
use ldk_node::payment::{ConfirmationStatus, PaymentDetails, PaymentDirection, PaymentKind};
use ldk_node::{ChannelDetails, Node, UserChannelId};

use super::balances::{has_closings, ours_msat};
use super::records::{node_error, refused, signed};
use crate::lightning::{LightningError, OnchainSend, OnchainWallet, OpenChannel};

/// Fees that somebody may mean: nothing asks back before they are paid.
const FEES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// What is open: of a channel without a funding transaction the money is in the wallet.
pub(super) fn open_channels(node: &Node) -> Vec<OpenChannel> {
    let balances = node.list_balances();
    let channels = node.list_channels();
    let funded = channels.iter().filter(|c| c.funding_txo.is_some());
    funded
        .map(|channel| OpenChannel {
            channel: channel.user_channel_id.0.to_string(),
            peer_node_id: channel.counterparty_node_id.to_string(),
            ours_msat: signed(ours_msat(channel, &balances)),
            is_closing: is_closing(channel),
        })
        .collect()
}

/// The record does not say it. LDK (`ChannelDetails::from_channel`, lightning 0.2.7) has a channel
/// not ready before its funding is deep enough, and from a shutdown on.
fn is_closing(channel: &ChannelDetails) -> bool {
    let deep = channel.confirmations >= channel.confirmations_required;
    deep && channel.confirmations.is_some() && !channel.is_channel_ready
}

pub(super) fn user_channel_id(text: &str) -> Result<UserChannelId, LightningError> {
    let id = u128::from_str(text).map_err(|_| refused(format!("{text} is no channel of ours")));
    id.map(UserChannelId)
}

pub(super) fn close(node: &Node, id: UserChannelId, force: bool) -> Result<(), LightningError> {
    // ldk-node answers Ok for a channel that does not exist.
    let channels = node.list_channels();
    let Some(channel) = channels.iter().find(|c| c.user_channel_id == id) else {
        return Err(refused(format!("no channel {}", id.0)));
    };
    let peer = channel.counterparty_node_id;
    if force {
        return node
            .force_close_channel(&id, peer, None)
            .map_err(node_error);
    }
    let known = node.list_peers().into_iter().find(|p| p.node_id == peer);
    node.close_channel(&id, peer).map_err(node_error)?;
    // With its last channel ldk-node forgets the peer, and after a restart it would not be asked
    // for its signature any more.
    if let Some(peer) = known.filter(|peer| peer.is_persisted) {
        let _ = node.connect(peer.node_id, peer.address, true);
    }
    Ok(())
}

pub(super) fn onchain_wallet(node: &Node) -> Result<OnchainWallet, LightningError> {
    // ldk-node joins a call to a sync that is under way; the second one began after this call.
    node.sync_wallets()
        .and_then(|()| node.sync_wallets())
        .map_err(node_error)?;
    let channels = node.list_channels();
    let balances = node.list_balances();
    Ok(OnchainWallet {
        total_msat: signed(balances.total_onchain_balance_sats.saturating_mul(1_000)),
        spendable_msat: signed(
            balances
                .spendable_onchain_balance_sats
                .saturating_mul(1_000),
        ),
        has_closings: has_closings(&channels, &balances),
        sends: node.list_payments().iter().filter_map(send).collect(),
    })
}

fn send(details: &PaymentDetails) -> Option<OnchainSend> {
    let PaymentKind::Onchain { txid, status } = &details.kind else {
        return None;
    };
    if details.direction == PaymentDirection::Inbound {
        return None;
    }
    Some(OnchainSend {
        txid: txid.to_string(),
        amount_msat: signed(details.amount_msat.unwrap_or(0)),
        fee_msat: signed(details.fee_paid_msat.unwrap_or(0)),
        is_confirmed: matches!(status, ConfirmationStatus::Confirmed { .. }),
    })
}

/// An address and a fee as ldk-node takes them. That the address is of the node's network is looked
/// at there.
pub(super) fn checked(
    address: &str,
    fee_sat_per_kvb: Option<u64>,
) -> Result<(Address, Option<FeeRate>), LightningError> {
    let found: Address<NetworkUnchecked> = address
        .parse()
        .map_err(|_| refused(format!("{address} is no address")))?;
    if fee_sat_per_kvb.is_some_and(|fee| !FEES.contains(&fee)) {
        return Err(refused("a fee is 1,000 to 1,000,000 sat per kvB"));
    }
    let fee = fee_sat_per_kvb.map(|fee| FeeRate::from_sat_per_kwu(fee.div_ceil(4)));
    Ok((found.assume_checked(), fee))
}
