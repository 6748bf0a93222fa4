//! Boundaries at which a process can be stopped for ever, to be killed there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flashkit::lightning::{
    Bolt11Details, Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode,
    NodeBalances, PaymentHash, PaymentRecord, PaymentRequest, PaymentState, Preimage,
};
use flashkit::ports::BoxFuture;
use flashkit::store::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, StoreError};

/// How long nothing of a node's must have been under way before it counts as having written all.
const QUIET: Duration = Duration::from_millis(200);

/// Where a process can be stopped.
///
/// A node that is killed between its writes of one change loses its channel: LDK closes a channel
/// whose monitor is ahead of its manager. That is a matter of its own, with a test of its own; at
/// a *quiet* boundary the node is therefore given the time to write what it has begun. That other
/// matter is the boundary `torn`: from the payment on, the manager is not written any more.
pub struct Gate {
    armed: Mutex<Option<String>>,
    /// The payment whose record is about to be written.
    paying: Mutex<Option<String>>,
    writes: Mutex<Writes>,
    /// The quiet boundary that was reached.
    reached: Mutex<Option<String>>,
    /// How often the engine was told that a payment is on its way.
    on_its_way: AtomicUsize,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            armed: Mutex::default(),
            paying: Mutex::default(),
            writes: Mutex::default(),
            reached: Mutex::default(),
            on_its_way: AtomicUsize::new(0),
        }
    }
}

struct Writes {
    under_way: usize,
    last: Instant,
}

impl Default for Writes {
    fn default() -> Self {
        let (under_way, last) = (0, Instant::now());
        Self { under_way, last }
    }
}

/// A write of the node's, until it is dropped.
struct Write(Arc<Gate>);

impl Write {
    fn begin(gate: Arc<Gate>) -> Self {
        gate.writes.lock().unwrap().under_way += 1;
        Self(gate)
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let mut writes = self.0.writes.lock().unwrap();
        writes.under_way -= 1;
        writes.last = Instant::now();
    }
}

impl Gate {
    fn is_quiet(&self) -> bool {
        let writes = self.writes.lock().unwrap();
        writes.under_way == 0 && writes.last.elapsed() > QUIET
    }

    pub fn arm(&self, boundary: &str) {
        *self.armed.lock().unwrap() = Some(boundary.to_owned());
    }

    pub fn times_on_its_way(&self) -> usize {
        self.on_its_way.load(Ordering::SeqCst)
    }

    fn is_armed(&self, boundary: &str) -> bool {
        self.armed.lock().unwrap().as_deref() == Some(boundary)
    }

    /// Goes on, or (if it was armed) says so and never returns.
    async fn reach(&self, boundary: &str) {
        if self.is_armed(boundary) {
            println!("@ at {boundary}");
            std::future::pending::<()>().await;
        }
    }

    /// As `reach`, but says so only once the node is quiet.
    pub async fn reach_quietly(&self, boundary: &str) {
        if self.is_armed(boundary) {
            *self.reached.lock().unwrap() = Some(boundary.to_owned());
            std::future::pending::<()>().await;
        }
    }

    /// Says when a quiet boundary was reached; to be run beside everything else.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let reached = self.reached.lock().unwrap().clone();
            if let (true, Some(boundary)) = (self.is_quiet(), reached) {
                println!("@ at {boundary}");
                return;
            }
        }
    }
}

/// A node with gates between the engine and it.
pub struct GatedNode {
    node: Arc<dyn LightningNode>,
    gate: Arc<Gate>,
    last: Mutex<Option<&'static str>>,
}

impl GatedNode {
    pub fn new(node: Arc<dyn LightningNode>, gate: Arc<Gate>) -> Self {
        Self {
            node,
            gate,
            last: Mutex::new(None),
        }
    }
}

#[async_trait]
impl LightningNode for GatedNode {
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
        self.node.create_invoice(request).await
    }

    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        amount_msat: i64,
    ) -> Result<(), LightningError> {
        self.gate.reach_quietly("committed-not-claimed").await;
        self.node.claim(payment_hash, preimage, amount_msat).await
    }

    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError> {
        self.node.fail(payment_hash).await
    }

    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        self.gate.reach_quietly("intended-not-sent").await;
        let invoice: Bolt11Details = request.bolt11.parse()?;
        *self.gate.paying.lock().unwrap() = Some(invoice.payment_hash.to_string());
        self.node.pay(request).await
    }

    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError> {
        let record = self.node.payment(payment_hash).await?;
        let state = record.as_ref().map(|record| record.state);
        if state == Some(PaymentState::Pending) {
            self.gate.on_its_way.fetch_add(1, Ordering::SeqCst);
            self.gate.reach_quietly("on-its-way").await;
        }
        Ok(record)
    }

    async fn balances(&self) -> Result<NodeBalances, LightningError> {
        self.node.balances().await
    }

    async fn next_event(&self) -> Result<LightningEvent, LightningError> {
        let event = self.node.next_event().await?;
        let last = match &event {
            LightningEvent::Claimable { .. } => Some("claimed-not-acknowledged"),
            LightningEvent::Received { .. } => Some("booked-not-acknowledged"),
            LightningEvent::Sent { .. } => Some("paid-out-not-acknowledged"),
            _ => None,
        };
        *self.last.lock().unwrap() = last;
        Ok(event)
    }

    async fn acknowledge(&self) -> Result<(), LightningError> {
        let last = *self.last.lock().unwrap();
        if let Some(boundary) = last {
            self.gate.reach_quietly(boundary).await;
        }
        self.node.acknowledge().await
    }
}

/// A node's state with a gate before the record of a payment.
pub struct GatedState {
    state: Arc<dyn KeyValue>,
    gate: Arc<Gate>,
}

impl GatedState {
    pub fn new(state: Arc<dyn KeyValue>, gate: Arc<Gate>) -> Self {
        Self { state, gate }
    }

    fn is_record(&self, path: &KeyPath) -> bool {
        let paying = self.gate.paying.lock().unwrap();
        path.primary == "payments" && paying.as_ref() == Some(&path.key)
    }
}

impl KeyValue for GatedState {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.state.begin_epoch()
    }

    fn take_lease(
        &self,
        holder: NodeHolder,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.state.take_lease(holder, lasts)
    }

    fn renew_lease(
        &self,
        epoch: u64,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.state.renew_lease(epoch, lasts)
    }

    fn release_lease(&self, epoch: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        self.state.release_lease(epoch)
    }

    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let gate = self.gate.clone();
        if let KeyValueWrite::Put { path, .. } = &change
            && gate.is_armed("torn")
            && gate.paying.lock().unwrap().is_some()
            && path.key == "manager"
        {
            return Box::pin(std::future::pending());
        }
        if let KeyValueWrite::Put { path, .. } = &change
            && self.is_record(path)
        {
            // The node has handed the payment over; of its record there is nothing.
            if gate.is_armed("sent-not-recorded") {
                return Box::pin(async move {
                    gate.reach_quietly("sent-not-recorded").await;
                    Ok(())
                });
            }
            if gate.is_armed("torn") {
                return Box::pin(async move {
                    gate.reach("torn").await;
                    Ok(())
                });
            }
        }
        let (write, done) = (Write::begin(gate), self.state.write(epoch, change));
        Box::pin(async move {
            let written = done.await;
            drop(write);
            written
        })
    }

    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> {
        self.state.read(path)
    }

    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        self.state.list(primary, secondary)
    }
}
