//! What is decided of a drain, from what is seen.

use std::collections::BTreeMap;

use super::drain_model::{ChannelEnd, DrainSend, DrainState, DrainWait, DrainedChannel, NodeDrain};
use crate::ledger::{Account, AccountKind, Balance, Side};
use crate::lightning::{OnchainSend, OnchainWallet, OpenChannel};
use crate::money::Asset;

/// How long a peer is given that agreed to close a channel: then it is closed without it where that
/// may be, or asked again where it is not being closed.
pub(super) const FORCE_AFTER_MS: i64 = 600_000;
/// How long a node is given to see what it has sent before it sends the same again.
const SEND_AGAIN_MS: i64 = 600_000;
/// What a transaction of one to three coins takes in virtual bytes.
const SMALL_VBYTES: u64 = 300;
/// No wallet sends less than this.
const DUST_SATS: u64 = 546;
/// At the highest fee there is a transaction of one coin costs less: what is left where no fee is known.
const WORTH_NOTHING_MSAT: i64 = 200_000_000;

/// A node that refuses to send no more than this, in msat, has nothing left that is worth it.
pub(super) fn worth_nothing(fee_sat_per_kvb: Option<u64>) -> i64 {
    let Some(fee) = fee_sat_per_kvb else {
        return WORTH_NOTHING_MSAT;
    };
    let fee_sats = fee.saturating_mul(SMALL_VBYTES).div_ceil(1_000);
    let sats = fee_sats.saturating_add(DUST_SATS);
    i64::try_from(sats.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

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
        Some(at_ms) if now_ms.saturating_sub(at_ms) < FORCE_AFTER_MS => Ask::Nothing,
        Some(_) if force => Ask::Alone,
        // Nobody knows of it any more: the node died before it wrote it down.
        Some(_) if !channel.is_closing => Ask::Together,
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

/// What was sent, as the node has it now; `earlier` left it before. What gets a closed channel into
/// a block leaves the wallet as well, and sends nothing: the node has what it cost as its fee, or, where
/// it does not know that, as what it sent. It is none of the drain's before a block has it.
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
        let is_of_a_channel = send.fee_msat == 0 || send.amount_msat == 0;
        if is_of_a_channel && before.is_none() && !send.is_confirmed {
            continue;
        }
        let (amount_msat, fee_msat) = match is_of_a_channel {
            true => (0, all_msat),
            false => (send.amount_msat, send.fee_msat),
        };
        let after = DrainSend {
            txid: send.txid.clone(),
            of_msat: before.map_or(all_msat, |known| known.of_msat),
            amount_msat: Some(amount_msat),
            fee_msat: Some(fee_msat),
            is_confirmed: send.is_confirmed,
            is_gone: !send.is_confirmed && before.is_some_and(|known| known.is_gone),
            sent_at_ms: before.map_or(now_ms, |known| known.sent_at_ms),
        };
        match at.and_then(|at| sends.get_mut(at)) {
            Some(known) => *known = after,
            None => sends.push(after),
        }
    }
    sends
}

/// All of `known`, and of `seen` what is newer: what was sent is never forgotten for another one.
pub(super) fn merged(known: &[DrainSend], seen: &[DrainSend]) -> Vec<DrainSend> {
    let mut sends = known.to_vec();
    for send in seen {
        match sends.iter_mut().find(|known| known.txid == send.txid) {
            Some(known) => known.clone_from(send),
            None => sends.push(send.clone()),
        }
    }
    sends
}

/// Whether what can be sent is sent now. The wallet is last: what gets a channel into a block that is
/// closed alone is paid for out of it. And it is not sent while the node has not seen that it has
/// gone.
pub(super) fn sends_now(
    channels: &[DrainedChannel],
    sends: &[DrainSend],
    wallet: &OnchainWallet,
    now_ms: i64,
) -> bool {
    let needs_it = wallet.has_closings || channels.iter().any(is_open);
    let is_under_way = |send: &DrainSend| {
        let is_young = now_ms.saturating_sub(send.sent_at_ms) < SEND_AGAIN_MS;
        !send.is_confirmed && is_young && send.of_msat == wallet.spendable_msat
    };
    !needs_it && wallet.spendable_msat > 0 && !sends.iter().any(is_under_way)
}

/// A send that came back: the address is the node's own. It goes by what the node says, which knows
/// of its fee. What gets a channel into a block looks alike, and was to send no more than it cost.
pub(super) fn came_back(sends: &[DrainSend], seen: &[OnchainSend]) -> bool {
    let was_to_send = |of: &OnchainSend| {
        let mut sends = sends.iter();
        sends.any(|send| send.txid == of.txid && send.of_msat > of.fee_msat)
    };
    let mut seen = seen.iter();
    seen.any(|send| send.amount_msat == 0 && send.fee_msat > 0 && was_to_send(send))
}

/// What may be in no block for ever: nothing waits, and of all that there was there is less beside
/// what blocks have, and what is left, than it would have sent.
pub(super) fn is_gone(
    send: &DrainSend,
    sends: &[DrainSend],
    all_msat: i64,
    wallet: &OnchainWallet,
    now_ms: i64,
) -> bool {
    let rest_msat = rest_msat(sends, all_msat, wallet.total_msat);
    let is_old = now_ms.saturating_sub(send.sent_at_ms) >= SEND_AGAIN_MS;
    let nothing_waits = !wallet.has_closings && wallet.total_msat <= wallet.spendable_msat;
    !send.is_confirmed && is_old && nothing_waits && rest_msat.max(wallet.total_msat) < send.of_msat
}

/// What is sent, is in no block and may be in one: no more than there is beside what blocks have,
/// and what is left.
pub(super) fn under_way(sends: &[DrainSend], all_msat: i64, left_msat: i64) -> i64 {
    let rest_msat = rest_msat(sends, all_msat, left_msat);
    let waits = sends.iter().filter(|send| !send.is_confirmed);
    let waits = waits.filter(|send| !send.is_gone && send.of_msat <= rest_msat);
    waits.fold(0, |sum: i64, send| sum.saturating_add(send.of_msat))
}

fn rest_msat(sends: &[DrainSend], all_msat: i64, left_msat: i64) -> i64 {
    let confirmed = sends.iter().filter(|send| send.is_confirmed);
    let confirmed = confirmed.filter(|send| !send.is_of_a_channel());
    let amounts = confirmed.flat_map(|send| [send.amount_msat, send.fee_msat]);
    let amounts = amounts.map(|amount| amount.unwrap_or(0));
    let gone_msat = amounts.fold(0, i64::saturating_add);
    all_msat.saturating_sub(gone_msat).saturating_sub(left_msat)
}

fn is_open(channel: &DrainedChannel) -> bool {
    channel.end != ChannelEnd::Closed
}

/// What is seen of what is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) total_msat: i64,
    pub(super) spendable_msat: i64,
    /// What nobody would send.
    pub(super) worth_nothing_msat: i64,
    /// Something of closed channels is not settled.
    pub(super) has_closings: bool,
    /// The address is the node's own: nothing more is sent, and there is nothing to wait for.
    pub(super) came_back: bool,
    /// Coins of the operator's wallets wait for a block.
    pub(super) has_waiting_coins: bool,
    /// Spends that are in no block.
    pub(super) spends: usize,
    /// Payments have money of the channels on hold.
    pub(super) has_payments: bool,
}

pub(super) fn waits_for(drain: &NodeDrain, left: Left) -> Vec<DrainWait> {
    let has_open = drain.channels.iter().any(is_open);
    // Of open channels the node keeps something back.
    let waiting_msat = left.total_msat.saturating_sub(left.spendable_msat);
    let is_waiting = !has_open && waiting_msat > 0;
    let is_worth_it = left.spendable_msat > left.worth_nothing_msat;
    let is_refused = drain.refusal.is_some() && is_worth_it && !left.came_back;
    let is_under_way = |send: &DrainSend| !send.is_confirmed && !send.is_gone;
    let is_unconfirmed = drain.sends.iter().any(is_under_way) || left.has_waiting_coins;
    let is_closing = left.has_closings || drain.closing_msat > 0;
    let waits = [
        (has_open, DrainWait::Channels),
        (
            is_closing || !has_open && drain.channels_msat > 0,
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
    /// What it cost the wallet beside: to get channels into blocks that had less in them.
    pub(super) wallet_fees_msat: i64,
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
    let more_msat = gone_msat.saturating_add(left_msat).saturating_sub(had_msat);
    let came_msat = more_msat.clamp(0, booked_msat);
    let of_channels = drain.sends.iter().filter(|send| send.is_confirmed);
    let of_channels = of_channels.filter(|send| send.is_of_a_channel());
    let costs = of_channels.filter_map(|send| send.fee_msat);
    let most_msat = costs.fold(0, i64::saturating_add);
    Settled {
        came_msat,
        closing_fees_msat: booked_msat - came_msat,
        wallet_fees_msat: more_msat.saturating_neg().clamp(0, most_msat),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_does_not_close_is_asked_again_after_a_while() {
        let open = |is_closing| OpenChannel {
            channel: "1".to_owned(),
            peer_node_id: String::new(),
            ours_msat: 1,
            is_closing,
        };
        let asked = channels(&[], &[(open(false), Asked::Agreed)], 1_000);
        let known = asked.first();
        let (soon, later) = (1_000 + FORCE_AFTER_MS - 1, 1_000 + FORCE_AFTER_MS);
        for (is_closing, force, now_ms, expected) in [
            (false, false, soon, Ask::Nothing),
            (false, true, soon, Ask::Nothing),
            (false, false, later, Ask::Together),
            (true, false, later, Ask::Nothing),
            (true, true, later, Ask::Alone),
            (false, true, later, Ask::Alone),
        ] {
            let found = ask(known, &open(is_closing), force, now_ms);
            assert_eq!(found, expected, "{is_closing} {force} {now_ms}");
        }
    }

    #[test]
    fn what_gets_a_channel_into_a_block_is_a_fee_once_a_block_has_it() {
        let bump = |is_confirmed| OnchainSend {
            txid: "00".to_owned(),
            amount_msat: 2_000,
            fee_msat: 0,
            is_confirmed,
        };
        assert_eq!(sends(&[], &[], &[bump(false)], 1), []);
        let found = sends(&[], &[], &[bump(true)], 1);
        let costs: Vec<_> = found.iter().map(|s| (s.amount_msat, s.fee_msat)).collect();
        assert_eq!(costs, [(Some(0), Some(2_000))]);
        // Where the node knows its fee it is no different, and it is nothing that came back.
        let known = |is_confirmed| OnchainSend {
            amount_msat: 0,
            fee_msat: 2_330,
            ..bump(is_confirmed)
        };
        assert_eq!(sends(&[], &[], &[known(false)], 1), []);
        assert!(!came_back(&found, &[known(true)]));
        let found = sends(&[], &[], &[known(true)], 1);
        assert_eq!(found.first().and_then(|send| send.fee_msat), Some(2_330));
        assert!(!came_back(&found, &[known(true)]));
        let ours = |send: &DrainSend| DrainSend {
            of_msat: 600_000,
            ..send.clone()
        };
        let ours: Vec<_> = found.iter().map(ours).collect();
        assert!(came_back(&ours, &[known(true)]));
    }

    /// A node with 100,000 in its wallet pays 630 for what gets its channel into a block, 330 of which
    /// the channel's anchor brings.
    #[test]
    fn what_gets_a_channel_into_a_block_is_of_what_closing_cost() {
        let bump = OnchainSend {
            txid: "00".to_owned(),
            amount_msat: 0,
            fee_msat: 630,
            is_confirmed: true,
        };
        let mut drain = refused();
        drain.sends = sends(&[], &[], &[bump], 1);
        // Of 500,000 in the channel, and of 100.
        for (channel, sent, expected) in [
            (500_000, 599_459, (499_459, 541, 0)),
            (100, 99_650, (0, 100, 350)),
        ] {
            drain.sends.truncate(1);
            drain.sends.push(DrainSend {
                txid: "01".to_owned(),
                of_msat: sent,
                amount_msat: Some(sent - 379),
                fee_msat: Some(379),
                is_confirmed: true,
                is_gone: false,
                sent_at_ms: 1,
            });
            let settled = settled(&drain, channel, 100_000, 0);
            let came = (settled.came_msat, settled.closing_fees_msat);
            assert_eq!((came.0, came.1, settled.wallet_fees_msat), expected);
            assert_eq!(drain.fees_msat(), 379);
            // All of it is booked.
            assert_eq!(100_000 + came.0 - settled.wallet_fees_msat, sent);
            assert_eq!(under_way(&drain.sends, channel + 100_000, 0), 0);
        }
    }

    fn refused() -> NodeDrain {
        let text = r#"{"id":"drain_01890000000070008000000000000000","state":"sweeping",
            "address":"","channels_msat":0,"closing_msat":0,"onchain_msat":0,"channels":[],
            "sends":[],"refusal":"no","started_at_ms":1}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_the_node_refuses_is_left_behind_only_where_it_is_worth_nothing() {
        // By the fee that is asked for, or by the highest where none is known.
        assert_eq!(worth_nothing(Some(5_000)), (1_500 + 546) * 1_000);
        assert_eq!(worth_nothing(Some(1)), 547_000);
        assert_eq!(worth_nothing(None), WORTH_NOTHING_MSAT);
        let drain = refused();
        for (spendable_msat, expected) in [(2_046_000, vec![]), (2_047_000, vec![DrainWait::Node])]
        {
            let left = Left {
                total_msat: spendable_msat,
                spendable_msat,
                worth_nothing_msat: worth_nothing(Some(5_000)),
                has_closings: false,
                came_back: false,
                has_waiting_coins: false,
                spends: 0,
                has_payments: false,
            };
            assert_eq!(waits_for(&drain, left), expected);
        }
    }
}
