//! What is decided of a drain, from what is seen.

use std::collections::BTreeMap;

use super::drain_model::{ChannelEnd, DrainSend, DrainState, DrainWait, DrainedChannel, NodeDrain};
use crate::ledger::{Account, AccountKind, Balance, Side};
use crate::lightning::{OnchainSend, OpenChannel};
use crate::money::Asset;

/// How long a peer is given that agreed to close a channel, where it may be closed without it.
pub(super) const FORCE_AFTER_MS: i64 = 600_000;
/// How long a node is given to see what it has sent before it sends the same again.
const SEND_AGAIN_MS: i64 = 600_000;
/// What a transaction of one coin costs at the highest fee there is, and more: a node that refuses
/// to send less than this has nothing left that is worth it.
const WORTH_NOTHING_MSAT: i64 = 200_000_000;

/// What is owed of each asset: what the node's money backs.
pub(super) fn owed(balances: &[(Account, Balance)]) -> Vec<(Asset, i64)> {
    use AccountKind::{CardBalance, MerchantPayable, RewardBudget, RewardFund, Suspense};
    let mut owed: BTreeMap<Asset, i64> = BTreeMap::new();
    for (account, balance) in balances {
        let kinds = [
            CardBalance,
            MerchantPayable,
            RewardBudget,
            RewardFund,
            Suspense,
        ];
        let amount = i64::try_from(balance.posted(Side::Credit)).unwrap_or(i64::MAX);
        if kinds.contains(&account.kind()) && amount > 0 {
            let sum = owed.entry(account.asset()).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
    owed.into_iter().collect()
}

/// What is done about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Nothing,
    Together,
    Alone,
}

pub(super) fn ask(
    known: Option<&DrainedChannel>,
    channel: &OpenChannel,
    force: bool,
    now_ms: i64,
) -> Ask {
    let asked_at_ms = known.and_then(|known| known.asked_at_ms);
    match asked_at_ms {
        _ if known.is_some_and(|known| known.end == ChannelEnd::Forced) => Ask::Nothing,
        Some(at_ms) if force && now_ms.saturating_sub(at_ms) >= FORCE_AFTER_MS => Ask::Alone,
        Some(_) => Ask::Nothing,
        None if channel.is_closing => Ask::Nothing,
        None => Ask::Together,
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    Agreed,
    Alone,
    Refused(String),
}

/// The channels as they stand now.
pub(super) fn channels(
    known: &[DrainedChannel],
    open: &[(OpenChannel, Asked)],
    now_ms: i64,
) -> Vec<DrainedChannel> {
    let mut channels = known.to_vec();
    for channel in &mut channels {
        if open.iter().all(|(open, _)| open.channel != channel.channel) {
            (channel.end, channel.refusal) = (ChannelEnd::Closed, None);
        }
    }
    for (open, asked) in open {
        let at = channels
            .iter()
            .position(|known| known.channel == open.channel);
        let at = at.unwrap_or_else(|| {
            channels.push(DrainedChannel {
                channel: open.channel.clone(),
                peer_node_id: open.peer_node_id.clone(),
                ours_msat: open.ours_msat,
                end: ChannelEnd::Open,
                asked_at_ms: None,
                refusal: None,
            });
            channels.len() - 1
        });
        let Some(channel) = channels.get_mut(at) else {
            continue;
        };
        channel.ours_msat = open.ours_msat;
        match asked {
            // It was agreed on, and it was not written down any more.
            Asked::Nothing if open.is_closing && channel.asked_at_ms.is_none() => {
                (channel.end, channel.asked_at_ms) = (ChannelEnd::Asked, Some(now_ms));
            }
            Asked::Nothing => {}
            Asked::Agreed => {
                (channel.end, channel.refusal) = (ChannelEnd::Asked, None);
                channel.asked_at_ms = Some(now_ms);
            }
            Asked::Alone => (channel.end, channel.refusal) = (ChannelEnd::Forced, None),
            Asked::Refused(reason) => channel.refusal = Some(reason.clone()),
        }
    }
    channels
}

/// What was sent, as the node has it now; `earlier` left it before.
pub(super) fn sends(
    known: &[DrainSend],
    earlier: &[String],
    seen: &[OnchainSend],
    now_ms: i64,
) -> Vec<DrainSend> {
    let mut sends = known.to_vec();
    let mut seen: Vec<&OnchainSend> = seen.iter().collect();
    seen.retain(|send| !earlier.contains(&send.txid));
    seen.sort_by(|one, other| one.txid.cmp(&other.txid));
    for send in seen {
        let at = sends.iter().position(|known| known.txid == send.txid);
        let all_msat = send.amount_msat.saturating_add(send.fee_msat);
        let before = at.and_then(|at| sends.get(at));
        let after = DrainSend {
            txid: send.txid.clone(),
            of_msat: before.map_or(all_msat, |known| known.of_msat),
            amount_msat: Some(send.amount_msat),
            fee_msat: Some(send.fee_msat),
            is_confirmed: send.is_confirmed,
            sent_at_ms: before.map_or(now_ms, |known| known.sent_at_ms),
        };
        match at.and_then(|at| sends.get_mut(at)) {
            Some(known) => *known = after,
            None => sends.push(after),
        }
    }
    sends
}

/// Whether what can be sent is sent now: not while the node has not seen that it has gone.
pub(super) fn sends_now(sends: &[DrainSend], spendable_msat: i64, now_ms: i64) -> bool {
    let is_under_way = |send: &DrainSend| {
        let is_young = now_ms.saturating_sub(send.sent_at_ms) < SEND_AGAIN_MS;
        !send.is_confirmed && is_young && send.of_msat == spendable_msat
    };
    spendable_msat > 0 && !sends.iter().any(is_under_way)
}

/// What is seen of what is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) total_msat: i64,
    pub(super) spendable_msat: i64,
    /// Spends that are in no block.
    pub(super) spends: usize,
    /// Payments have money of the channels on hold.
    pub(super) has_payments: bool,
}

pub(super) fn waits_for(drain: &NodeDrain, left: Left) -> Vec<DrainWait> {
    let is_open = |channel: &DrainedChannel| channel.end != ChannelEnd::Closed;
    let has_open = drain.channels.iter().any(is_open);
    // Of open channels the node keeps something back.
    let waiting_msat = left.total_msat.saturating_sub(left.spendable_msat);
    let is_waiting = !has_open && waiting_msat > 0;
    let is_refused = drain.refusal.is_some() && left.spendable_msat > WORTH_NOTHING_MSAT;
    let is_unconfirmed = drain.sends.iter().any(|send| !send.is_confirmed);
    let waits = [
        (has_open, DrainWait::Channels),
        (
            drain.closing_msat > 0 || !has_open && drain.channels_msat > 0,
            DrainWait::Closings,
        ),
        (is_waiting || is_unconfirmed, DrainWait::Confirmations),
        (left.spends > 0, DrainWait::Spends),
        (is_refused, DrainWait::Node),
        (left.has_payments, DrainWait::Payments),
    ];
    let waits = waits.into_iter().filter(|(waits, _)| *waits);
    waits.map(|(_, what)| what).collect()
}

pub(super) fn state(waits_for: &[DrainWait]) -> DrainState {
    use DrainWait::{Channels, Closings, Payments};
    let is_closing = |wait: &DrainWait| matches!(wait, Channels | Closings);
    if waits_for.iter().any(is_closing) {
        DrainState::Closing
    } else if waits_for.iter().any(|wait| *wait != Payments) {
        DrainState::Sweeping
    } else {
        DrainState::Settling
    }
}

/// What is booked of a drain in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    /// Out of the channels into the wallet.
    pub(super) came_msat: i64,
    /// What that cost.
    pub(super) closing_fees_msat: i64,
}

/// The node had `booked_msat` in its channels by the books, and `had_msat` in its wallet or on its
/// way there when it was begun. What came out of the channels is what there was beside that: no more
/// than they had, since what else has come is not this drain's to explain.
pub(super) fn settled(
    drain: &NodeDrain,
    booked_msat: i64,
    had_msat: i64,
    left_msat: i64,
) -> Settled {
    let booked_msat = booked_msat.max(0);
    let gone_msat = drain.sent_msat().saturating_add(drain.fees_msat());
    let came_msat = gone_msat.saturating_add(left_msat).saturating_sub(had_msat);
    let came_msat = came_msat.clamp(0, booked_msat);
    Settled {
        came_msat,
        closing_fees_msat: booked_msat - came_msat,
    }
}
