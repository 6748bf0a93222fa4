//! A simulated node's one channel to the network, and its own wallet on chain.

use super::SimulatedNode;
use super::state::Node;
use crate::lightning::{LightningError, OnchainSend, OnchainWallet, OpenChannel, PaymentState};

/// What it costs to close the channel, and to send what came out of it.
const FEE_MSAT: i64 = 1_000_000;
/// What no transaction sends.
const DUST_MSAT: i64 = 1_000_000;
const CHANNEL: &str = "1";

impl SimulatedNode {
    /// Whether the peer is away from now on: then the channel cannot be closed together.
    pub fn set_peer_away(&self, is_away: bool) {
        self.change(|state, index| state.nodes[index].peer_is_away = is_away);
    }

    /// Money comes to the node's own wallet, and is in a block.
    pub fn fund_onchain(&self, amount_msat: i64) {
        self.change(|state, index| state.nodes[index].onchain_msat += amount_msat);
    }

    /// The next thing that is sent on chain is sent, and the node says that it does not know.
    pub fn doubt_next_send(&self) {
        self.change(|state, index| state.nodes[index].doubts_send = true);
    }

    /// A block has all that waited for one: what came out of the channel is in the wallet.
    pub fn mine(&self) {
        self.change(|state, index| {
            let node = &mut state.nodes[index];
            node.onchain_msat += std::mem::take(&mut node.closing_msat);
            for send in &mut node.sends {
                send.is_confirmed = true;
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
            Ok(())
        })
    }

    pub(super) fn wallet(&self) -> OnchainWallet {
        let state = self.network.lock();
        let node = &state.nodes[self.index];
        OnchainWallet {
            total_msat: node.onchain_msat,
            spendable_msat: node.onchain_msat,
            sends: node.sends.clone(),
        }
    }

    pub(super) fn send_all(&self, address: &str) -> Result<String, LightningError> {
        self.change(|state, index| {
            let node = &mut state.nodes[index];
            if node.onchain_msat < FEE_MSAT + DUST_MSAT {
                return refused("there is nothing to send");
            }
            let txid = format!("{:064x}", node.sends.len() + 1);
            node.sends.push(OnchainSend {
                txid: txid.clone(),
                amount_msat: std::mem::take(&mut node.onchain_msat) - FEE_MSAT,
                fee_msat: FEE_MSAT,
                is_confirmed: false,
            });
            node.sent_to.push(address.to_owned());
            if std::mem::take(&mut node.doubts_send) {
                let reason = "simulated".to_owned();
                return Err(LightningError::Unknown { reason });
            }
            Ok(txid)
        })
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
