//! What the nodes have between them, and how money moves.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

use crate::lightning::{
    Dispatch, LightningEvent, OfferId, OnchainSend, PaymentHash, PaymentState, Preimage,
};

#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: Vec<Node>,
    /// Every invoice that was made, by its hash.
    pub(super) invoices: HashMap<PaymentHash, Invoice>,
    pub(super) offers: HashMap<OfferId, SimulatedOffer>,
    /// By offers, each under a hash of its own.
    pub(super) offers_paid: u64,
    pub(super) route_fee_msat: i64,
    pub(super) route_lock_blocks: u32,
}

pub(super) struct Invoice {
    pub(super) payee: usize,
    /// Known to the node itself: it takes the payment at once, as a wallet does.
    pub(super) preimage: Option<Preimage>,
}

#[derive(Clone, Copy)]
pub(super) struct SimulatedOffer {
    pub(super) payee: usize,
    pub(super) amount_msat: Option<i64>,
    pub(super) expires_at_ms: i64,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) balance_msat: i64,
    pub(super) running: bool,
    pub(super) events: VecDeque<LightningEvent>,
    pub(super) outbound: HashMap<PaymentHash, Payment>,
    pub(super) inbound: HashMap<PaymentHash, Payment>,
    /// It has no channel any more, and so no part in payments.
    pub(super) is_closed: bool,
    pub(super) peer_is_away: bool,
    pub(super) closing_msat: i64,
    pub(super) onchain_msat: i64,
    pub(super) sends: Vec<OnchainSend>,
    /// Where each of them went.
    pub(super) sent_to: Vec<String>,
    pub(super) doubts_send: bool,
    /// A channel is closed alone, and the wallet pays for what gets it into a block.
    pub(super) needs_wallet: bool,
    /// The wallet could not.
    pub(super) is_stranded: bool,
    /// Its own address that somebody knows.
    pub(super) own_address: Option<String>,
    /// It sees what it sent by the next look only.
    pub(super) sees_late: bool,
    /// What it has not seen yet, and where to.
    pub(super) unseen: Option<(OnchainSend, String)>,
    /// How often it sent the same coins again.
    pub(super) sent_twice: u64,
    /// What fell out of the mempools.
    pub(super) evicted: Vec<String>,
}

#[derive(Clone, Copy)]
pub(super) struct Payment {
    pub(super) counterparty: usize,
    pub(super) amount_msat: i64,
    pub(super) fee_msat: i64,
    pub(super) state: PaymentState,
}

impl State {
    pub(super) fn settle(&mut self, payee: usize, hash: PaymentHash) {
        let Some(inbound) = self.nodes[payee].inbound.get_mut(&hash) else {
            return;
        };
        if inbound.state != PaymentState::Pending {
            return;
        }
        inbound.state = PaymentState::Succeeded;
        let Payment {
            counterparty: payer,
            amount_msat,
            ..
        } = *inbound;
        let node = &mut self.nodes[payee];
        node.balance_msat += amount_msat;
        node.events.push_back(LightningEvent::Received {
            payment_hash: hash,
            amount_msat,
        });
        let node = &mut self.nodes[payer];
        let Some(outbound) = node.outbound.get_mut(&hash) else {
            return;
        };
        outbound.state = PaymentState::Succeeded;
        let fee_msat = Some(outbound.fee_msat);
        node.events.push_back(LightningEvent::Sent {
            payment_hash: hash,
            fee_msat,
        });
    }

    pub(super) fn give_back(&mut self, payee: usize, hash: PaymentHash) {
        let Some(inbound) = self.nodes[payee].inbound.get_mut(&hash) else {
            return;
        };
        if inbound.state != PaymentState::Pending {
            return;
        }
        inbound.state = PaymentState::Failed;
        let payer = inbound.counterparty;
        let node = &mut self.nodes[payer];
        let Some(outbound) = node.outbound.get_mut(&hash) else {
            return;
        };
        outbound.state = PaymentState::Failed;
        node.balance_msat += outbound.amount_msat + outbound.fee_msat;
        let reason = "the recipient refused".to_owned();
        node.events.push_back(LightningEvent::SendFailed {
            payment_hash: hash,
            reason,
        });
    }

    pub(super) fn pay(
        &mut self,
        payer: usize,
        hash: PaymentHash,
        amount_msat: i64,
        max_fee_msat: i64,
    ) -> Dispatch {
        if let Some(payment) = self.nodes[payer].outbound.get(&hash)
            && payment.state != PaymentState::Failed
        {
            return Dispatch::AlreadyKnown;
        }
        let Some(Invoice { payee, preimage }) = self.invoices.get(&hash) else {
            return refused("no route");
        };
        let (payee, takes_at_once) = (*payee, preimage.is_some());
        let fee_msat = self.route_fee_msat;
        if payee == payer {
            return refused("a node cannot pay itself");
        }
        if self.nodes[payee].is_closed || self.nodes[payer].is_closed {
            return refused("no route");
        }
        if fee_msat > max_fee_msat {
            return refused("the route costs too much");
        }
        let taken = self.nodes[payee]
            .inbound
            .get(&hash)
            .map(|payment| payment.state);
        if matches!(taken, Some(PaymentState::Pending | PaymentState::Succeeded)) {
            return refused("paid already");
        }
        let node = &mut self.nodes[payer];
        if node.balance_msat < amount_msat + fee_msat {
            return refused("not enough in the channels");
        }
        node.balance_msat -= amount_msat + fee_msat;
        let pending = |counterparty| Payment {
            counterparty,
            amount_msat,
            fee_msat,
            state: PaymentState::Pending,
        };
        node.outbound.insert(hash, pending(payee));
        self.nodes[payee].inbound.insert(hash, pending(payer));
        if takes_at_once {
            self.settle(payee, hash);
        } else {
            let claimable = LightningEvent::Claimable {
                blocks_left: None,
                payment_hash: hash,
                amount_msat,
            };
            self.nodes[payee].events.push_back(claimable);
        }
        Dispatch::Accepted
    }

    pub(super) fn pay_offer(
        &mut self,
        payer: usize,
        id: OfferId,
        amount_msat: i64,
        now_ms: i64,
    ) -> Dispatch {
        let Some(offer) = self.offers.get(&id).copied() else {
            return refused("no route");
        };
        if now_ms >= offer.expires_at_ms {
            return refused("the offer expired");
        }
        if offer.amount_msat.is_some_and(|asked| amount_msat < asked) || amount_msat < 1 {
            return refused("less than the offer asks for");
        }
        self.offers_paid += 1;
        let drawn = Sha256::new()
            .chain_update(id.0)
            .chain_update(self.offers_paid.to_be_bytes());
        let hash = PaymentHash(drawn.finalize().into());
        let (payee, preimage) = (offer.payee, Some(Preimage::new(hash.0)));
        self.invoices.insert(hash, Invoice { payee, preimage });
        let sent = self.pay(payer, hash, amount_msat, i64::MAX);
        // It says by what it was paid in the place of what any wallet says.
        if sent == Dispatch::Accepted
            && let Some(told) = self.nodes[payee].events.back_mut()
        {
            *told = LightningEvent::OfferPaid {
                offer: id,
                payment_hash: hash,
                amount_msat,
            };
        }
        sent
    }
}

pub(super) fn refused(reason: &str) -> Dispatch {
    Dispatch::Refused {
        reason: reason.to_owned(),
    }
}
