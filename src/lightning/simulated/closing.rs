//! A simulated node's one channel to the network, and its own wallet on chain.

use std::task::Poll;

use super::SimulatedNode;
use super::state::Node;
use crate::lightning::{LightningError, OnchainSend, OnchainWallet, OpenChannel, PaymentState};

/// What it costs to close the channel, and to send what came out of it.
const FEE_MSAT: i64 = 1_000_000;
/// What no transaction sends.
const DUST_MSAT: i64 = 1_000_000;
const CHANNEL: &str = "1";
/// How often others come in between while it looks at the chain.
const SLOW_TURNS: u32 = 64;

impl SimulatedNode {
    /// Whether the peer is away from now on: then the channel cannot be closed together.
    pub fn set_peer_away(&self, is_away: bool) {
        self.change(|state, index| state.nodes[index].peer_is_away = is_away);
    }

    /// Money comes to the node's own wallet, and is in a block.
    pub fn fund_onchain(&self, amount_msat: i64) {
        self.change(|state, index| {
            let node = &mut state.nodes[index];
            node.onchain_msat += amount_msat;
            node.is_stranded = false;
        });
    }

    /// An address of the node's own wallet: what is sent there comes back.
    pub fn set_own_address(&self, address: &str) {
        let own = Some(address.to_owned());
        self.change(|state, index| state.nodes[index].own_address = own);
    }

    /// From now on the node sees what it has sent by its next look at the chain only, as a real one
    /// does, and a look takes a while: who looked before may send the same coins again.
    pub fn see_sends_late(&self) {
        self.change(|state, index| state.nodes[index].sees_late = true);
    }

    /// How often it was told to send what it had sent and not seen: no network takes that.
    pub fn sent_twice(&self) -> u64 {
        self.network.lock().nodes[self.index].sent_twice
    }

    /// What it has sent and no block has falls out of every mempool: its coins are in the wallet
    /// again, and its records stay.
    pub fn evict(&self) {
        self.change(|state, index| {
            let node = &mut state.nodes[index];
            see(node);
            for send in node.sends.iter().filter(|send| !send.is_confirmed) {
                if !node.evicted.contains(&send.txid) {
                    node.evicted.push(send.txid.clone());
                    node.onchain_msat += send.amount_msat + send.fee_msat;
                }
            }
        });
    }

    /// The next thing that is sent on chain is sent, and the node says that it does not know.
    pub fn doubt_next_send(&self) {
        self.change(|state, index| state.nodes[index].doubts_send = true);
    }

    /// A block has all that waited for one: what came out of the channel is in the wallet. What was
    /// closed alone is not where the wallet was sent away, which pays for it.
    pub fn mine(&self) {
        self.change(|state, index| {
            let node = &mut state.nodes[index];
            see(node);
            if !node.is_stranded {
                node.onchain_msat += std::mem::take(&mut node.closing_msat);
                node.needs_wallet = false;
            }
            for send in &mut node.sends {
                send.is_confirmed = !node.evicted.contains(&send.txid);
            }
        });
    }

    /// Every transaction that sent something on chain, oldest first, and where to.
    pub fn sent_onchain(&self) -> Vec<(OnchainSend, String)> {
        let state = self.network.lock();
        let node = &state.nodes[self.index];
        let to = node.sent_to.iter().cloned();
        node.sends.iter().cloned().zip(to).collect()
    }

    pub(super) fn channel(&self) -> Option<OpenChannel> {
        let state = self.network.lock();
        let node = &state.nodes[self.index];
        (!node.is_closed).then(|| OpenChannel {
            channel: CHANNEL.to_owned(),
            peer_node_id: "02".repeat(33),
            ours_msat: node.balance_msat,
            is_closing: false,
        })
    }

    pub(super) fn close(&self, channel: &str, force: bool) -> Result<(), LightningError> {
        self.change(|state, index| {
            let node = &mut state.nodes[index];
            if channel != CHANNEL || node.is_closed {
                return refused("no such channel");
            }
            if node.peer_is_away && !force {
                return refused("the peer is away");
            }
            if is_busy(node) {
                return refused("payments are on their way");
            }
            node.is_closed = true;
            let comes_msat = std::mem::take(&mut node.balance_msat) - FEE_MSAT;
            node.closing_msat += comes_msat.max(0);
            node.needs_wallet = force;
            Ok(())
        })
    }

    pub(super) async fn looked(&self) -> OnchainWallet {
        let (wallet, is_slow) = self.change(|state, index| {
            let node = &mut state.nodes[index];
            see(node);
            let wallet = OnchainWallet {
                total_msat: node.onchain_msat,
                spendable_msat: node.onchain_msat,
                has_closings: node.closing_msat > 0,
                sends: node.sends.clone(),
            };
            (wallet, node.sees_late)
        });
        let mut turns_left = if is_slow { SLOW_TURNS } else { 0 };
        std::future::poll_fn(|context| {
            if turns_left == 0 {
                return Poll::Ready(());
            }
            turns_left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        wallet
    }

    pub(super) fn send_all(&self, address: &str) -> Result<String, LightningError> {
        self.change(|state, index| {
            let node = &mut state.nodes[index];
            if node.onchain_msat < FEE_MSAT + DUST_MSAT {
                return refused("there is nothing to send");
            }
            if node.unseen.is_some() {
                node.sent_twice += 1;
                return Ok(format!("{:064x}", u64::MAX - node.sent_twice));
            }
            let txid = format!("{:064x}", node.sends.len() + 1);
            let comes_back = node.own_address.as_deref() == Some(address);
            let amount_msat = if comes_back {
                0
            } else {
                node.onchain_msat - FEE_MSAT
            };
            let sent = OnchainSend {
                txid: txid.clone(),
                amount_msat,
                fee_msat: FEE_MSAT,
                is_confirmed: false,
            };
            node.is_stranded |= node.needs_wallet;
            node.unseen = Some((sent, address.to_owned()));
            if !node.sees_late {
                see(node);
            }
            if std::mem::take(&mut node.doubts_send) {
                let reason = "simulated".to_owned();
                return Err(LightningError::Unknown { reason });
            }
            Ok(txid)
        })
    }
}

/// What was sent is out of the wallet.
fn see(node: &mut Node) {
    if let Some((sent, to)) = node.unseen.take() {
        node.onchain_msat -= sent.amount_msat + sent.fee_msat;
        node.sends.push(sent);
        node.sent_to.push(to);
    }
}

fn is_busy(node: &Node) -> bool {
    let payments = node.outbound.values().chain(node.inbound.values());
    payments
        .into_iter()
        .any(|payment| payment.state == PaymentState::Pending)
}

fn refused<T>(reason: &str) -> Result<T, LightningError> {
    let reason = reason.to_owned();
    Err(LightningError::Refused { reason })
}
