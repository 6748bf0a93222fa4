//! What the node holds, exact to the msat wherever LDK lets it be known.

use std::collections::HashSet;

use ldk_node::bitcoin::hashes::Hash;
use ldk_node::lightning::chain::channelmonitor::BalanceSource;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::ln::types::ChannelId;
use ldk_node::payment::{ConfirmationStatus, PaymentDirection, PaymentKind};
use ldk_node::{BalanceDetails, ChannelDetails, LightningBalance, Node, PendingSweepBalance};

use super::records::signed;
use crate::lightning::NodeBalances;

/// BOLT 3: the funder of an anchor channel puts 330 sat into each of two anchor outputs.
const ANCHORS_MSAT: u64 = 2 * 330 * 1_000;

/// Reads all balances; `mempool_has_records` says whether an unconfirmed transaction to the
/// wallet is known by a payment record (Esplora, Electrum) or has none until it is mined
/// (Bitcoin Core).
pub(super) fn node_balances(node: &Node, mempool_has_records: bool) -> NodeBalances {
    let channels = node.list_channels();
    let details = node.list_balances();
    let mut balances = NodeBalances {
        channels_msat: 0,
        onchain_msat: signed(details.total_onchain_balance_sats.saturating_mul(1_000)),
        closing_msat: 0,
        inbound_capacity_msat: 0,
        outbound_capacity_msat: 0,
    };
    let mut open = HashSet::new();
    // A channel without a funding transaction is still only talked about: the money is in the
    // wallet.
    for channel in channels.iter().filter(|c| c.funding_txo.is_some()) {
        open.insert(channel.channel_id);
        balances.channels_msat += signed(ours_msat(channel, &details));
        if channel.is_usable {
            balances.inbound_capacity_msat += signed(channel.inbound_capacity_msat);
            balances.outbound_capacity_msat += signed(channel.outbound_capacity_msat);
        }
    }
    let closings = details.lightning_balances.iter();
    let sweeps = &details.pending_balances_from_channel_closures;
    let swept = |in_wallet: bool| {
        let sweeps = sweeps.iter();
        let sats = sweeps.filter_map(|sweep| sweep_sats(sweep, node, mempool_has_records));
        sats.filter(|(_, is_in_wallet)| *is_in_wallet == in_wallet)
            .map(|(sats, _)| sats)
            .sum::<u64>()
    };
    let closed: u64 = closings.clone().filter_map(|b| closed_sats(b, &open)).sum();
    let poor = closed > 0 && is_below_reserve(&details) && mempool_has_records;
    let known = poor.then(|| unconfirmed_sats(node));
    let waiting = waiting_sats(&details, known).saturating_sub(swept(true));
    let closing_sats = closings.filter_map(closing_sats).sum::<u64>()
        + closed.saturating_sub(waiting)
        + swept(false);
    balances.closing_msat = signed(closing_sats.saturating_mul(1_000));
    balances
}

/// Whether a channel that is open no more has something that is not settled: its commitment may have
/// to be bumped, and its HTLCs pay for themselves out of the wallet, also those of which it is not
/// known whose they are. The output of a cooperative close that a block has needs nothing more.
/// What was closed alone is swept into the wallet in the end, which is waited for as well: whoever
/// sends the wallet away then sends it once.
pub(super) fn has_closings(channels: &[ChannelDetails], details: &BalanceDetails) -> bool {
    let mut sweeps = details.pending_balances_from_channel_closures.iter();
    if sweeps.any(|it| {
        !matches!(
            it,
            PendingSweepBalance::AwaitingThresholdConfirmations { .. }
        )
    }) {
        return true;
    }
    let is_open = |id: &ChannelId| channels.iter().any(|channel| channel.channel_id == *id);
    details.lightning_balances.iter().any(|balance| {
        let id = match balance {
            LightningBalance::ClaimableAwaitingConfirmations {
                source: BalanceSource::CoopClose,
                ..
            } => return false,
            LightningBalance::ClaimableOnChannelClose { channel_id, .. }
            | LightningBalance::ClaimableAwaitingConfirmations { channel_id, .. }
            | LightningBalance::ContentiousClaimable { channel_id, .. }
            | LightningBalance::CounterpartyRevokedOutputClaimable { channel_id, .. }
            | LightningBalance::MaybeTimeoutClaimableHTLC { channel_id, .. }
            | LightningBalance::MaybePreimageClaimableHTLC { channel_id, .. } => channel_id,
        };
        !is_open(id)
    })
}

/// What has come to the wallet and is in no block. The output of a cooperative close is among it as
/// soon as its transaction is seen, and is told by the channel's monitor until it is in a block: of
/// that it is counted once. Whatever else comes in that while is not, until its block.
/// `known` is what the records have as waiting, where the wallet has less than the reserve: what of
/// the reserve is in blocks is not told then.
fn waiting_sats(details: &BalanceDetails, known: Option<u64>) -> u64 {
    let total = details.total_onchain_balance_sats;
    let sure = details
        .spendable_onchain_balance_sats
        .saturating_add(details.total_anchor_channels_reserve_sats);
    let least = total.saturating_sub(sure);
    known.map_or(least, |known| known.clamp(least, total))
}

/// All that the wallet has in blocks is kept for the channels, and it may be less than they need.
fn is_below_reserve(details: &BalanceDetails) -> bool {
    details.spendable_onchain_balance_sats == 0 && details.total_anchor_channels_reserve_sats > 0
}

/// What the records have as on its way to the wallet.
fn unconfirmed_sats(node: &Node) -> u64 {
    let waits = node.list_payments_with_filter(|payment| {
        let status = match &payment.kind {
            PaymentKind::Onchain { status, .. } => status,
            _ => return false,
        };
        payment.direction == PaymentDirection::Inbound
            && matches!(status, ConfirmationStatus::Unconfirmed)
    });
    let msat = waits.iter().filter_map(|payment| payment.amount_msat);
    msat.sum::<u64>() / 1_000
}

/// What the channels can take in now, without what else the node has: its wallet is counted anew
/// each time, coin by coin.
pub(super) fn inbound_capacity_msat(node: &Node) -> i64 {
    let channels = node.list_channels();
    let usable = channels
        .iter()
        .filter(|channel| channel.funding_txo.is_some() && channel.is_usable);
    usable
        .map(|channel| signed(channel.inbound_capacity_msat))
        .sum()
}

/// What is ours in an open channel, reserve and anchors included, our payments in flight taken
/// out. A payment to us counts once the fulfilled HTLC is irrevocably gone, which is a round trip
/// after [`LightningEvent::Received`](crate::lightning::LightningEvent::Received).
///
/// LDK (`get_available_balances_for_scope`, lightning 0.2.7) computes
/// `outbound_capacity = to_self - our HTLCs - anchors if we funded - the reserve we must keep`,
/// never below zero. Above zero the sum is therefore undone exactly. At zero the peer's side says
/// it: whatever of the channel is not the peer's is ours. That is exact while no HTLC is in
/// flight; otherwise the monitor's figure in whole satoshis has to do.
pub(super) fn ours_msat(channel: &ChannelDetails, details: &BalanceDetails) -> u64 {
    let value_msat = channel.channel_value_sats.saturating_mul(1_000);
    let reserve_msat = channel
        .unspendable_punishment_reserve
        .unwrap_or(0)
        .saturating_mul(1_000);
    let theirs_msat = channel.inbound_capacity_msat.saturating_add(
        channel
            .counterparty_unspendable_punishment_reserve
            .saturating_mul(1_000),
    );
    if channel.outbound_capacity_msat > 0 {
        let ours_msat = channel.outbound_capacity_msat + reserve_msat;
        // The record does not say what type the channel is. The anchors are missing on both
        // sides, so a rest smaller than they are proves that there are none, provided that the
        // peer's side is known; anything else is taken for them, because this adapter always
        // offers anchors.
        let rest_msat = value_msat.saturating_sub(ours_msat.saturating_add(theirs_msat));
        let anchors = rest_msat >= ANCHORS_MSAT || channel.inbound_capacity_msat == 0;
        return if channel.is_outbound && anchors {
            ours_msat + ANCHORS_MSAT
        } else {
            ours_msat
        };
    }
    let monitor = monitor_balance(channel.channel_id, details);
    let rest_msat = value_msat.saturating_sub(theirs_msat);
    match monitor {
        // Ours are the anchors too, if we funded: the rest needs no correction.
        Some(monitor) if monitor.no_htlcs && channel.is_outbound => rest_msat,
        // The peer funded, and its anchors are missing from its side: the monitor's whole
        // satoshis tell with or without.
        Some(monitor) if monitor.no_htlcs && channel.inbound_capacity_msat > 0 => {
            if rest_msat / 1_000 == monitor.amount_sats || rest_msat < ANCHORS_MSAT {
                rest_msat
            } else {
                rest_msat - ANCHORS_MSAT
            }
        }
        Some(monitor) => monitor.amount_sats.saturating_mul(1_000),
        None => 0,
    }
}

struct MonitorBalance {
    amount_sats: u64,
    no_htlcs: bool,
}

fn monitor_balance(channel_id: ChannelId, details: &BalanceDetails) -> Option<MonitorBalance> {
    let mut found: Option<MonitorBalance> = None;
    let mut visible_htlcs = false;
    for balance in &details.lightning_balances {
        match balance {
            LightningBalance::ClaimableOnChannelClose {
                channel_id: id,
                amount_satoshis,
                transaction_fee_satoshis,
                outbound_payment_htlc_rounded_msat,
                outbound_forwarded_htlc_rounded_msat,
                inbound_claiming_htlc_rounded_msat,
                inbound_htlc_rounded_msat,
                ..
            } if *id == channel_id => {
                let dust_msat = outbound_payment_htlc_rounded_msat
                    + outbound_forwarded_htlc_rounded_msat
                    + inbound_claiming_htlc_rounded_msat
                    + inbound_htlc_rounded_msat;
                found = Some(MonitorBalance {
                    amount_sats: amount_satoshis.saturating_add(*transaction_fee_satoshis),
                    no_htlcs: dust_msat == 0,
                });
            }
            LightningBalance::MaybeTimeoutClaimableHTLC { channel_id: id, .. }
            | LightningBalance::MaybePreimageClaimableHTLC { channel_id: id, .. }
                if *id == channel_id =>
            {
                visible_htlcs = true;
            }
            _ => {}
        }
    }
    found.map(|balance| MonitorBalance {
        no_htlcs: balance.no_htlcs && !visible_htlcs,
        ..balance
    })
}

/// What is ours of a channel whose closing transaction is in no block yet, in whole satoshis.
fn closed_sats(balance: &LightningBalance, open: &HashSet<ChannelId>) -> Option<u64> {
    match balance {
        LightningBalance::ClaimableOnChannelClose {
            channel_id,
            amount_satoshis,
            ..
        } => (!open.contains(channel_id)).then_some(*amount_satoshis),
        _ => None,
    }
}

/// What a channel that was closed in a block still owes us, in whole satoshis and before the fees
/// of getting it. HTLCs whose outcome is open (`Maybe…`) are not ours: the engine has them in
/// flight.
fn closing_sats(balance: &LightningBalance) -> Option<u64> {
    match balance {
        LightningBalance::ClaimableOnChannelClose { .. } => None,
        // The output of a cooperative close is the wallet's own, and counted there from its
        // first confirmation on.
        LightningBalance::ClaimableAwaitingConfirmations {
            source: BalanceSource::CoopClose,
            ..
        } => None,
        LightningBalance::ClaimableAwaitingConfirmations {
            amount_satoshis, ..
        }
        | LightningBalance::ContentiousClaimable {
            amount_satoshis, ..
        }
        | LightningBalance::CounterpartyRevokedOutputClaimable {
            amount_satoshis, ..
        } => Some(*amount_satoshis),
        LightningBalance::MaybeTimeoutClaimableHTLC { .. }
        | LightningBalance::MaybePreimageClaimableHTLC { .. } => None,
    }
}

/// What is on its way from a closed channel into the wallet, and whether it is in the wallet's sum
/// already.
fn sweep_sats(
    sweep: &PendingSweepBalance,
    node: &Node,
    mempool_has_records: bool,
) -> Option<(u64, bool)> {
    match sweep {
        PendingSweepBalance::PendingBroadcast {
            amount_satoshis, ..
        } => Some((*amount_satoshis, false)),
        PendingSweepBalance::BroadcastAwaitingConfirmation {
            amount_satoshis,
            latest_spending_txid,
            ..
        } => {
            let id = PaymentId(latest_spending_txid.to_byte_array());
            let in_wallet = !mempool_has_records || node.payment(&id).is_some();
            Some((*amount_satoshis, in_wallet))
        }
        // In the wallet; LDK keeps the entry for 4,032 blocks more.
        PendingSweepBalance::AwaitingThresholdConfirmations { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use ldk_node::bitcoin::{BlockHash, Txid};

    use super::*;

    /// Of a wallet that has less in blocks than open channels need, what waits is told by the records:
    /// by the sums alone a part of it would be taken for what is in blocks.
    #[test]
    fn what_waits_is_told_apart_in_a_wallet_that_has_less_than_the_reserve() {
        let wallet = |total, spendable, reserve| BalanceDetails {
            total_onchain_balance_sats: total,
            spendable_onchain_balance_sats: spendable,
            total_anchor_channels_reserve_sats: reserve,
            total_lightning_balance_sats: 0,
            lightning_balances: Vec::new(),
            pending_balances_from_channel_closures: Vec::new(),
        };
        // 10,000 in blocks, and 100,000 that a channel which was closed sends.
        let poor = wallet(110_000, 0, 25_000);
        assert!(is_below_reserve(&poor));
        assert_eq!(waiting_sats(&poor, Some(100_000)), 100_000);
        // A record of what will never be in a block is no more than there is.
        assert_eq!(waiting_sats(&poor, Some(900_000)), 110_000);
        assert_eq!(waiting_sats(&poor, Some(0)), 85_000);
        let rich = wallet(150_000, 25_000, 25_000);
        assert!(!is_below_reserve(&rich));
        assert_eq!(waiting_sats(&rich, None), 100_000);
    }

    /// What was closed alone is not settled before its sweep is in a block.
    #[test]
    fn a_sweep_that_no_block_has_is_a_closing() {
        let sweeps = |sweep| BalanceDetails {
            total_onchain_balance_sats: 100_000,
            spendable_onchain_balance_sats: 100_000,
            total_anchor_channels_reserve_sats: 0,
            total_lightning_balance_sats: 0,
            lightning_balances: Vec::new(),
            pending_balances_from_channel_closures: vec![sweep],
        };
        let (channel_id, amount_satoshis) = (None, 499_459);
        let latest_spending_txid = Txid::all_zeros();
        let made = PendingSweepBalance::PendingBroadcast {
            channel_id,
            amount_satoshis,
        };
        let sent = PendingSweepBalance::BroadcastAwaitingConfirmation {
            channel_id,
            latest_broadcast_height: 1,
            latest_spending_txid,
            amount_satoshis,
        };
        let in_block = PendingSweepBalance::AwaitingThresholdConfirmations {
            channel_id,
            latest_spending_txid,
            confirmation_hash: BlockHash::all_zeros(),
            confirmation_height: 2,
            amount_satoshis,
        };
        for (sweep, expected) in [(made, true), (sent, true), (in_block, false)] {
            assert_eq!(has_closings(&[], &sweeps(sweep)), expected);
        }
    }
}
