//! A node that misbehaves as told: on top of a simulated one, so the money is still counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flashkit::lightning::simulated::SimulatedNode;
use flashkit::lightning::{
    Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode, NodeBalances, Offer,
    OfferRequest, PaymentDirection, PaymentHash, PaymentRecord, PaymentRequest, PaymentState,
    Preimage,
};

/// What the next call of `pay` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pay {
    /// Sends, and says that it does not know.
    SendAndDoubt,
    /// Does not send, and says that it does not know.
    Doubt,
    /// Does not send, and says so.
    Refuse,
    /// Stands still until `resume`, and then sends.
    Pause,
}

#[derive(Clone)]
pub struct ScriptedNode {
    node: SimulatedNode,
    script: Arc<Mutex<VecDeque<Pay>>>,
    /// Events that come before those of the node; acknowledged on their own.
    injected: Arc<Mutex<VecDeque<LightningEvent>>>,
    last_was_injected: Arc<AtomicBool>,
    forgets: Arc<AtomicBool>,
    paused: Arc<tokio::sync::Notify>,
    asked: Arc<AtomicUsize>,
    pub sent: Arc<Mutex<Vec<String>>>,
    /// How many invoices were made.
    pub made: Arc<AtomicUsize>,
    /// The amounts that were claimed.
    pub claimed: Arc<Mutex<Vec<i64>>>,
    /// How many wait for an event now, and the most that ever did.
    listeners: Arc<(AtomicUsize, AtomicUsize)>,
    /// A record of a payment that the simulated node knows nothing of.
    remembered: Arc<Mutex<Option<PaymentRecord>>>,
    inbound_msat: Arc<AtomicI64>,
    height: Arc<Mutex<Option<u32>>>,
    /// What the liquidity provider keeps; `None` where there is no provider.
    skimmed_msat: Arc<Mutex<Option<i64>>>,
}

impl ScriptedNode {
    pub fn new(node: SimulatedNode) -> Self {
        Self {
            node,
            script: Arc::default(),
            injected: Arc::default(),
            last_was_injected: Arc::default(),
            forgets: Arc::default(),
            paused: Arc::default(),
            asked: Arc::default(),
            sent: Arc::default(),
            made: Arc::default(),
            claimed: Arc::default(),
            listeners: Arc::default(),
            remembered: Arc::default(),
            inbound_msat: Arc::new(AtomicI64::new(i64::MAX)),
            height: Arc::default(),
            skimmed_msat: Arc::default(),
        }
    }

    /// What its peers could send it from now on.
    pub fn set_inbound_msat(&self, inbound_msat: i64) {
        self.inbound_msat.store(inbound_msat, Ordering::SeqCst);
    }

    /// From now on a provider opens channels for payments, and keeps this of each.
    pub fn set_skimmed_msat(&self, skimmed_msat: i64) {
        *self.skimmed_msat.lock().unwrap() = Some(skimmed_msat);
    }

    /// The best block that it knows from now on.
    pub fn set_height(&self, height: Option<u32>) {
        *self.height.lock().unwrap() = height;
    }

    /// From now on the node has this record of a payment of its own.
    pub fn remember(&self, payment_hash: PaymentHash, state: PaymentState, amount_msat: i64) {
        *self.remembered.lock().unwrap() = Some(PaymentRecord {
            payment_hash,
            direction: PaymentDirection::Outbound,
            state,
            amount_msat: Some(amount_msat),
            fee_msat: None,
        });
    }

    pub fn script(&self, pay: impl IntoIterator<Item = Pay>) {
        self.script.lock().unwrap().extend(pay);
    }

    /// How often it was asked to pay.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// What stands still goes on.
    pub fn resume(&self) {
        self.paused.notify_one();
    }

    /// Forgets what else it was to do.
    pub fn unscript(&self) {
        self.script.lock().unwrap().clear();
    }

    /// From now on the node has no record of any payment, or has them again.
    pub fn forget(&self, forgets: bool) {
        self.forgets.store(forgets, Ordering::SeqCst);
    }

    /// The most that ever waited for an event at once.
    pub fn most_listeners(&self) -> usize {
        self.listeners.1.load(Ordering::SeqCst)
    }

    pub fn inject(&self, event: LightningEvent) {
        self.injected.lock().unwrap().push_back(event);
    }

    /// How many injected events wait.
    pub fn waiting(&self) -> usize {
        self.injected.lock().unwrap().len()
    }
}

/// One who waits for an event, until it is dropped.
struct Listening(Arc<(AtomicUsize, AtomicUsize)>);

impl Listening {
    fn new(listeners: &Arc<(AtomicUsize, AtomicUsize)>) -> Self {
        let now = listeners.0.fetch_add(1, Ordering::SeqCst) + 1;
        listeners.1.fetch_max(now, Ordering::SeqCst);
        Self(listeners.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl LightningNode for ScriptedNode {
    async fn start(&self) -> Result<(), LightningError> {
        self.node.start().await
    }

    async fn stop(&self) -> Result<(), LightningError> {
        self.node.stop().await
    }

    fn node_id(&self) -> String {
        self.node.node_id()
    }

    async fn create_invoice(&self, request: InvoiceRequest) -> Result<String, LightningError> {
        self.made.fetch_add(1, Ordering::SeqCst);
        self.node.create_invoice(request).await
    }

    async fn create_offer(&self, request: OfferRequest) -> Result<Offer, LightningError> {
        self.node.create_offer(request).await
    }

    async fn create_just_in_time_invoice(
        &self,
        request: InvoiceRequest,
        max_fee_msat: i64,
    ) -> Result<String, LightningError> {
        let asked = *self.skimmed_msat.lock().unwrap();
        let asked = asked.ok_or(LightningError::NoLiquidityProvider)?;
        if asked > max_fee_msat {
            let reason = "the provider asks for more".to_owned();
            return Err(LightningError::Refused { reason });
        }
        self.node.create_invoice(request).await
    }

    async fn skimmed_fee_msat(&self, _: PaymentHash) -> Result<i64, LightningError> {
        Ok(self.skimmed_msat.lock().unwrap().unwrap_or(0))
    }

    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        amount_msat: i64,
    ) -> Result<(), LightningError> {
        self.claimed.lock().unwrap().push(amount_msat);
        self.node.claim(payment_hash, preimage, amount_msat).await
    }

    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError> {
        self.node.fail(payment_hash).await
    }

    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        let unknown = || LightningError::Unknown {
            reason: "the line went dead".to_owned(),
        };
        self.asked.fetch_add(1, Ordering::SeqCst);
        let next = self.script.lock().unwrap().pop_front();
        if !matches!(next, Some(Pay::Doubt | Pay::Refuse)) {
            self.sent.lock().unwrap().push(request.bolt11.clone());
        }
        match next {
            None => self.node.pay(request).await,
            Some(Pay::Pause) => {
                self.paused.notified().await;
                self.node.pay(request).await
            }
            Some(Pay::SendAndDoubt) => {
                self.node.pay(request).await?;
                Err(unknown())
            }
            Some(Pay::Doubt) => Err(unknown()),
            Some(Pay::Refuse) => Ok(Dispatch::Refused {
                reason: "no route".to_owned(),
            }),
        }
    }

    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError> {
        if self.forgets.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let remembered = self.remembered.lock().unwrap().clone();
        if let Some(record) = remembered.filter(|record| record.payment_hash == payment_hash) {
            return Ok(Some(record));
        }
        self.node.payment(payment_hash).await
    }

    async fn balances(&self) -> Result<NodeBalances, LightningError> {
        Ok(NodeBalances {
            inbound_capacity_msat: self.inbound_msat.load(Ordering::SeqCst),
            ..self.node.balances().await?
        })
    }

    async fn best_block_height(&self) -> Result<Option<u32>, LightningError> {
        Ok(*self.height.lock().unwrap())
    }

    async fn next_event(&self) -> Result<LightningEvent, LightningError> {
        let _listening = Listening::new(&self.listeners);
        loop {
            if let Some(event) = self.injected.lock().unwrap().front().cloned() {
                self.last_was_injected.store(true, Ordering::SeqCst);
                return Ok(event);
            }
            tokio::select! {
                event = self.node.next_event() => {
                    self.last_was_injected.store(false, Ordering::SeqCst);
                    return event;
                }
                () = tokio::time::sleep(std::time::Duration::from_millis(5)) => {}
            }
        }
    }

    async fn acknowledge(&self) -> Result<(), LightningError> {
        if self.last_was_injected.load(Ordering::SeqCst) {
            self.injected.lock().unwrap().pop_front();
            return Ok(());
        }
        self.node.acknowledge().await
    }
}
