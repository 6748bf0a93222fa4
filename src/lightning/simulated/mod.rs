//! A Lightning network without a network: nodes in this process that pay each other.
//!
//! For tests and bindings. Invoices are real BOLT11, and the nodes keep to the port's contract:
//! incoming payments wait to be claimed, events are repeated until they are acknowledged, and
//! paying is idempotent by payment hash. Money, invoices and events live as long as the network
//! does, so an engine can be stopped and opened again on its node.

mod closing;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey};
use event_listener::Event;
use lightning_invoice::{
    Bolt11InvoiceDescription, Currency, Description, InvoiceBuilder, PaymentSecret,
};
use sha2::{Digest, Sha256};

use super::{
    Bolt11Details, Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode,
    NodeBalances, Offer, OfferId, OfferRequest, OnchainWallet, OpenChannel, PaymentDirection,
    PaymentHash, PaymentRecord, PaymentRequest, PaymentState, Preimage,
};
use crate::ports::Clock;
use state::{Invoice, Node, Payment, SimulatedOffer, State, refused};

/// What the offers here begin with: real ones are signed texts that only a node can make.
const SIMULATED_OFFER: &str = "lno1simulated";

/// A network of simulated nodes.
#[derive(Clone)]
pub struct SimulatedNetwork {
    state: Arc<Mutex<State>>,
    changed: Arc<Event>,
    clock: Arc<dyn Clock>,
}

impl SimulatedNetwork {
    /// An empty network whose invoices expire by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Arc::default(),
            changed: Arc::new(Event::new()),
            clock,
        }
    }

    /// A new node with money in its channels.
    pub fn node(&self, balance_msat: i64) -> SimulatedNode {
        let mut state = self.lock();
        let index = state.nodes.len();
        state.nodes.push(Node {
            balance_msat,
            ..Node::default()
        });
        drop(state);
        let label = index.to_be_bytes();
        let key = Sha256::new()
            .chain_update(b"simulated node")
            .chain_update(label)
            .finalize();
        SimulatedNode {
            network: self.clone(),
            index,
            key: key.into(),
        }
    }

    /// What every route costs from now on.
    pub fn set_route_fee_msat(&self, fee_msat: i64) {
        self.lock().route_fee_msat = fee_msat;
    }

    /// For how many blocks every route locks the money up from now on, the last hop left out.
    pub fn set_route_lock_blocks(&self, blocks: u32) {
        self.lock().route_lock_blocks = blocks;
    }

    /// What all nodes have together, payments on their way included: it never changes but for
    /// route fees, which leave the network.
    pub fn total_msat(&self) -> i64 {
        let state = self.lock();
        let held: i64 = state.nodes.iter().map(|node| node.balance_msat).sum();
        let on_their_way: i64 = state
            .nodes
            .iter()
            .flat_map(|node| node.outbound.values())
            .filter(|payment| payment.state == PaymentState::Pending)
            .map(|payment| payment.amount_msat + payment.fee_msat)
            .sum();
        held + on_their_way
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A simulated node. Clones are the same node.
#[derive(Clone)]
pub struct SimulatedNode {
    network: SimulatedNetwork,
    index: usize,
    key: [u8; 32],
}

impl SimulatedNode {
    fn change<T>(&self, change: impl FnOnce(&mut State, usize) -> T) -> T {
        let result = change(&mut self.network.lock(), self.index);
        self.network.changed.notify(usize::MAX);
        result
    }

    fn running(&self) -> Result<(), LightningError> {
        let running = self.network.lock().nodes[self.index].running;
        if running {
            Ok(())
        } else {
            Err(LightningError::NotRunning)
        }
    }

    fn secret_key(&self) -> Result<SecretKey, LightningError> {
        SecretKey::from_slice(&self.key).map_err(|error| LightningError::StartFailed {
            reason: error.to_string(),
        })
    }

    fn sign(&self, request: &InvoiceRequest) -> Result<String, LightningError> {
        let refused = |reason: String| LightningError::Refused { reason };
        let (secp, key) = (Secp256k1::new(), self.secret_key()?);
        let now_ms = self.network.clock.now_ms().max(0).cast_unsigned();
        let description = match request.description_hash {
            Some(hash) => {
                let hash = sha256::Hash::from_byte_array(hash);
                Bolt11InvoiceDescription::Hash(lightning_invoice::Sha256(hash))
            }
            None => Bolt11InvoiceDescription::Direct(
                Description::new(request.description.clone())
                    .map_err(|error| refused(error.to_string()))?,
            ),
        };
        let mut builder = InvoiceBuilder::new(Currency::Regtest)
            .invoice_description(description)
            .payment_hash(sha256::Hash::from_byte_array(request.payment_hash.0))
            .payment_secret(PaymentSecret(request.payment_hash.0))
            .duration_since_epoch(Duration::from_millis(now_ms))
            .expiry_time(Duration::from_secs(request.expiry_seconds.into()))
            .min_final_cltv_expiry_delta(18);
        if let Some(amount_msat) = request.amount_msat {
            let amount_msat =
                u64::try_from(amount_msat).map_err(|_| refused("a negative amount".to_owned()))?;
            builder = builder.amount_milli_satoshis(amount_msat);
        }
        builder
            .build_signed(|hash| secp.sign_ecdsa_recoverable(hash, &key))
            .map(|invoice| invoice.to_string())
            .map_err(|error| refused(error.to_string()))
    }

    fn add_invoice(
        &self,
        request: &InvoiceRequest,
        preimage: Option<Preimage>,
    ) -> Result<String, LightningError> {
        let bolt11 = self.sign(request)?;
        self.change(|state, payee| {
            state
                .invoices
                .insert(request.payment_hash, Invoice { payee, preimage });
        });
        Ok(bolt11)
    }

    /// An invoice of the node's own, which it takes by itself: for the wallets of customers and
    /// merchants.
    ///
    /// # Errors
    /// `lightning.refused`.
    pub fn wallet_invoice(&self, amount_msat: i64, label: &str) -> Result<String, LightningError> {
        let made = self.network.lock().invoices.len().to_be_bytes();
        let preimage = Preimage::new(
            Sha256::new()
                .chain_update(self.key)
                .chain_update(made)
                .finalize()
                .into(),
        );
        let request = InvoiceRequest {
            payment_hash: preimage.payment_hash(),
            amount_msat: Some(amount_msat),
            description: label.to_owned(),
            description_hash: None,
            expiry_seconds: 3_600,
        };
        self.add_invoice(&request, Some(preimage))
    }

    /// Pays an offer, as the wallet of a customer does: any number of times, and more than it asks
    /// for if one likes.
    pub fn pay_offer(&self, text: &str, amount_msat: i64) -> Dispatch {
        let id = text.strip_prefix(SIMULATED_OFFER).map(str::parse);
        let Some(Ok(id)) = id else {
            return refused("this is not an offer of this network");
        };
        let now_ms = self.network.clock.now_ms();
        self.change(|state, payer| state.pay_offer(payer, id, amount_msat, now_ms))
    }

    /// The record of a payment, whether or not the node runs.
    pub fn record(&self, payment_hash: PaymentHash) -> Option<PaymentRecord> {
        let state = self.network.lock();
        let node = &state.nodes[self.index];
        let found = |payments: &HashMap<PaymentHash, Payment>, direction| {
            payments.get(&payment_hash).map(|payment| PaymentRecord {
                payment_hash,
                direction,
                state: payment.state,
                amount_msat: Some(payment.amount_msat),
                fee_msat: (direction == PaymentDirection::Outbound).then_some(payment.fee_msat),
            })
        };
        found(&node.outbound, PaymentDirection::Outbound)
            .or_else(|| found(&node.inbound, PaymentDirection::Inbound))
    }

    /// What the node has in its channels.
    pub fn balance_msat(&self) -> i64 {
        self.network.lock().nodes[self.index].balance_msat
    }
}

#[async_trait]
impl LightningNode for SimulatedNode {
    async fn start(&self) -> Result<(), LightningError> {
        self.change(|state, index| state.nodes[index].running = true);
        Ok(())
    }

    async fn stop(&self) -> Result<(), LightningError> {
        self.change(|state, index| state.nodes[index].running = false);
        Ok(())
    }

    fn node_id(&self) -> String {
        match self.secret_key() {
            Ok(key) => PublicKey::from_secret_key(&Secp256k1::new(), &key).to_string(),
            Err(_) => String::new(),
        }
    }

    async fn create_invoice(&self, request: InvoiceRequest) -> Result<String, LightningError> {
        self.running()?;
        self.add_invoice(&request, None)
    }

    async fn create_offer(&self, request: OfferRequest) -> Result<Offer, LightningError> {
        self.running()?;
        let lasts_ms = i64::from(request.expiry_seconds) * 1_000;
        let offer = SimulatedOffer {
            payee: self.index,
            amount_msat: request.amount_msat,
            expires_at_ms: self.network.clock.now_ms().saturating_add(lasts_ms),
        };
        Ok(self.change(|state, _| {
            let drawn = Sha256::new()
                .chain_update(b"offer")
                .chain_update(self.key)
                .chain_update(state.offers.len().to_be_bytes());
            let id = OfferId(drawn.finalize().into());
            state.offers.insert(id, offer);
            let text = format!("{SIMULATED_OFFER}{id}");
            Offer { id, text }
        }))
    }

    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        _amount_msat: i64,
    ) -> Result<(), LightningError> {
        self.running()?;
        if preimage.payment_hash() != payment_hash {
            return Err(LightningError::Refused {
                reason: "another preimage".to_owned(),
            });
        }
        self.change(|state, payee| state.settle(payee, payment_hash));
        Ok(())
    }

    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError> {
        self.running()?;
        self.change(|state, payee| state.give_back(payee, payment_hash));
        Ok(())
    }

    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        self.running()?;
        let invoice: Bolt11Details = request.bolt11.parse()?;
        let refused = |reason: &str| {
            Ok(Dispatch::Refused {
                reason: reason.to_owned(),
            })
        };
        let Some(amount_msat) = invoice.amount_msat.or(request.amount_msat) else {
            return refused("no amount");
        };
        let known = self.network.lock().nodes[self.index]
            .outbound
            .contains_key(&invoice.payment_hash);
        if !known && self.network.clock.now_ms() >= invoice.expires_at_ms {
            return refused("the invoice expired");
        }
        let lock_blocks = self.network.lock().route_lock_blocks + invoice.min_final_lock_blocks;
        if !known
            && request
                .max_lock_blocks
                .is_some_and(|most| lock_blocks > most)
        {
            return refused("the route locks the money up for too long");
        }
        let (hash, max_fee_msat) = (invoice.payment_hash, request.max_fee_msat);
        Ok(self.change(|state, payer| state.pay(payer, hash, amount_msat, max_fee_msat)))
    }

    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError> {
        self.running()?;
        Ok(self.record(payment_hash))
    }

    async fn balances(&self) -> Result<NodeBalances, LightningError> {
        self.running()?;
        let state = self.network.lock();
        let node = &state.nodes[self.index];
        Ok(NodeBalances {
            channels_msat: node.balance_msat,
            onchain_msat: node.onchain_msat,
            closing_msat: node.closing_msat,
            inbound_capacity_msat: if node.is_closed { 0 } else { i64::MAX },
            outbound_capacity_msat: node.balance_msat,
        })
    }

    async fn open_channels(&self) -> Result<Vec<OpenChannel>, LightningError> {
        self.running()?;
        Ok(self.channel().into_iter().collect())
    }

    async fn close_open_channel(&self, channel: &str, force: bool) -> Result<(), LightningError> {
        self.running()?;
        self.close(channel, force)
    }

    async fn onchain_wallet(&self) -> Result<OnchainWallet, LightningError> {
        self.running()?;
        Ok(self.looked().await)
    }

    async fn send_all_onchain(
        &self,
        address: &str,
        _fee_sat_per_kvb: Option<u64>,
    ) -> Result<String, LightningError> {
        self.running()?;
        self.send_all(address)
    }

    async fn next_event(&self) -> Result<LightningEvent, LightningError> {
        loop {
            let changed = self.network.changed.listen();
            self.running()?;
            let head = self.network.lock().nodes[self.index]
                .events
                .front()
                .cloned();
            match head {
                Some(event) => return Ok(event),
                None => changed.await,
            }
        }
    }

    async fn acknowledge(&self) -> Result<(), LightningError> {
        self.change(|state, index| state.nodes[index].events.pop_front());
        Ok(())
    }
}
