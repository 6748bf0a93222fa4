//! The adapter itself.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use futures_timer::Delay;
use ldk_node::bitcoin::bip32::{ChildNumber, Xpriv};
use ldk_node::bitcoin::secp256k1::Secp256k1;
use ldk_node::bitcoin::{Network, secp256k1::PublicKey};
use ldk_node::config::{
    AnchorChannelsConfig, BackgroundSyncConfig, Config, ElectrumSyncConfig, EsploraSyncConfig,
};
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::lightning_types::payment::{PaymentHash as LdkPaymentHash, PaymentPreimage};
use ldk_node::payment::PaymentDirection as LdkDirection;
use ldk_node::payment::PaymentStatus;
use ldk_node::tokio::runtime::{Builder as RuntimeBuilder, Handle, Runtime};
use ldk_node::tokio::sync::Mutex as AsyncMutex;
use ldk_node::{Builder, Node, NodeError};

use super::balances::node_balances;
use super::config::{LdkChainSource, LdkConfig};
use super::health::NodeHealth;
use super::kv::LdkStore;
use super::operator::{node_key, peer_address};
use super::records::{lightning_event, node_error, payment_record, refused, unknown, unsigned};
use super::recovery;
use crate::lightning::{
    Bolt11Details, Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode,
    LostChannel, NodeBalances, NodeTrouble, PaymentHash, PaymentRecord, PaymentRequest, Preimage,
};
use crate::ports::Clock;
use crate::store::{KeyValue, StoreError};

/// How long a stop waits for the writes of the node to end. ldk-node's own waits, about 35
/// seconds at the worst, come before.
const LAST_WRITES: Duration = Duration::from_secs(30);
const LAST_WRITES_POLL: Duration = Duration::from_millis(5);

/// A Lightning node in this process.
///
/// [`start`](LightningNode::start) begins a new epoch of the node's state, reads all of it and
/// runs; [`stop`](LightningNode::stop) ends that, and the next start reads it again. Dropping it
/// stops the node in the background.
pub struct LdkNode {
    shared: Arc<Shared>,
}

struct Shared {
    config: LdkConfig,
    state: Arc<dyn KeyValue>,
    runtime: Handle,
    health: Arc<NodeHealth>,
    node_id: PublicKey,
    listening: Vec<SocketAddress>,
    trusted: Vec<PublicKey>,
    /// One start or stop at a time.
    lifecycle: AsyncMutex<()>,
    seat: Mutex<Option<Running>>,
    /// The seat changed.
    moved: Event,
}

/// ldk-node's node and the runtime it lives on.
///
/// The runtime is its own, because LDK persists under its locks: while the store refuses a write,
/// every worker that meets such a lock stands still, and the host's must not.
struct NodeHandle {
    node: Option<Node>,
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
}

impl NodeHandle {
    fn stop(&self) -> Result<(), LightningError> {
        let Some(node) = &self.node else {
            return Ok(());
        };
        match catch_unwind(AssertUnwindSafe(|| node.stop())) {
            Ok(Ok(()) | Err(NodeError::NotRunning)) => Ok(()),
            Ok(Err(error)) => Err(unknown(error.to_string())),
            Err(_) => Err(unknown("ldk-node panicked while it stopped")),
        }
    }

    /// Ends every task of the node at its next pause, and waits for none.
    fn abandon(&self) {
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        // What was abandoned cannot be stopped any more, and ldk-node's drop, which stops it,
        // would hang or panic: it is leaked.
        let abandoned = lock(&self.runtime).is_none();
        if abandoned || self.stop().is_err() {
            std::mem::forget(self.node.take());
        }
        drop(self.node.take());
        self.abandon();
    }
}

#[derive(Clone)]
struct Running {
    node: Arc<NodeHandle>,
    store: LdkStore,
    /// True from `next_event` to `acknowledge`: ldk-node drops the head of its queue whether
    /// anybody saw it or not.
    delivered: Arc<Mutex<bool>>,
}

impl fmt::Debug for LdkNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdkNode")
            .field("node_id", &self.shared.node_id.to_string())
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start_failed(reason: impl Into<String>) -> LightningError {
    LightningError::StartFailed {
        reason: reason.into(),
    }
}

/// The node's key as LDK derives it (`KeysManager::new`): the first hardened child of the seed
/// that ldk-node derives from the 64 bytes. Checked against the node at every start.
fn derive_node_id(config: &LdkConfig) -> Result<PublicKey, LightningError> {
    let bad_seed = |_| start_failed("no key can be derived from this seed");
    let network = config.network.to_bitcoin();
    let secp = Secp256k1::new();
    let seed = Xpriv::new_master(network, config.seed.expose())
        .map_err(bad_seed)?
        .private_key
        .secret_bytes();
    let master = Xpriv::new_master(Network::Testnet, &seed).map_err(bad_seed)?;
    let secret = master
        .derive_priv(&secp, &ChildNumber::Hardened { index: 0 })
        .map_err(bad_seed)?;
    Ok(secret.private_key.public_key(&secp))
}

impl LdkNode {
    /// A node that is not started yet. Retries and timers run on `runtime`, which may be of any
    /// kind and has to outlive the node; ldk-node itself gets two threads of its own.
    ///
    /// # Errors
    /// [`LightningError::StartFailed`] for a seed without a key, [`LightningError::Refused`] for an address or node id that is none.
    pub fn new(
        config: LdkConfig,
        state: Arc<dyn KeyValue>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
    ) -> Result<Self, LightningError> {
        let addresses = config.listening_addresses.iter();
        let listening = addresses
            .map(|text| peer_address(text))
            .collect::<Result<_, _>>()?;
        let peers = config.trusted_peers_no_reserve.iter();
        let trusted = peers.map(|text| node_key(text)).collect::<Result<_, _>>()?;
        Ok(Self {
            shared: Arc::new(Shared {
                node_id: derive_node_id(&config)?,
                config,
                state,
                runtime,
                health: Arc::new(NodeHealth::new(clock)),
                listening,
                trusted,
                lifecycle: AsyncMutex::new(()),
                seat: Mutex::new(None),
                moved: Event::new(),
            }),
        })
    }

    /// How the node's storage is doing. May be kept and read at any time.
    pub fn health(&self) -> Arc<NodeHealth> {
        Arc::clone(&self.shared.health)
    }

    pub(super) fn config(&self) -> &LdkConfig {
        &self.shared.config
    }

    /// Runs a call of ldk-node on a thread that may block. It runs to its end although the
    /// caller goes away.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, LightningError> {
        let node = self.shared.running()?.node;
        // On the node's runtime: ldk-node leaves connections to the runtime it is called on.
        let handle = node.handle.clone();
        let task = handle.spawn_blocking(move || match &node.node {
            Some(node) => Ok(work(node)),
            None => Err(LightningError::NotRunning),
        });
        ldk_node::tokio::select! {
            done = task => done.map_err(|error| unknown(error.to_string()))?,
            // A call may be caught behind a parked thread.
            () = self.shared.health.fenced() => Err(unknown("the node lost its place")),
        }
    }
}

impl Shared {
    fn running(&self) -> Result<Running, LightningError> {
        if self.health.is_fenced() {
            return Err(LightningError::NotRunning);
        }
        lock(&self.seat).clone().ok_or(LightningError::NotRunning)
    }

    async fn start(self: Arc<Self>) -> Result<(), LightningError> {
        let _one_at_a_time = self.lifecycle.lock().await;
        if self.health.is_fenced() {
            return Err(start_failed("this node lost its place to another one"));
        }
        if lock(&self.seat).is_some() {
            return Ok(());
        }
        let epoch = self.state.begin_epoch().await;
        let epoch = epoch.map_err(|error| match error {
            StoreError::StaleNodeState { .. } => LightningError::StaleState {
                reason: error.to_string(),
            },
            other => start_failed(other.to_string()),
        })?;
        let store = LdkStore::new(
            Arc::clone(&self.state),
            epoch,
            self.runtime.clone(),
            Arc::clone(&self.health),
        );
        let runtime = RuntimeBuilder::new_multi_thread()
            .worker_threads(2)
            .thread_name("ldk")
            .enable_all()
            .build()
            .map_err(|error| start_failed(error.to_string()))?;
        let handle = runtime.handle().clone();
        let mut starting = NodeHandle {
            node: None,
            runtime: Mutex::new(Some(runtime)),
            handle: handle.clone(),
        };
        let shared = Arc::clone(&self);
        let starting = handle.spawn_blocking(move || {
            let node = shared.build(&store, starting.handle.clone())?;
            let node = starting.node.insert(node);
            if node.node_id() != shared.node_id {
                return Err(start_failed("the node has another key than its seed"));
            }
            node.start()
                .map_err(|error| start_failed(error.to_string()))?;
            *lock(&shared.seat) = Some(Running {
                node: Arc::new(starting),
                store,
                delivered: Arc::default(),
            });
            Ok(())
        });
        let started = starting.await;
        started.map_err(|error| start_failed(error.to_string()))??;
        self.moved.notify(usize::MAX);
        self.watch_fence();
        Ok(())
    }

    /// Stops the node once it is fenced. Holds no strong reference meanwhile: a node that is
    /// dropped goes away.
    fn watch_fence(self: &Arc<Self>) {
        let (weak, health) = (Arc::downgrade(self), Arc::clone(&self.health));
        self.runtime.spawn(async move {
            health.fenced().await;
            if let Some(shared) = weak.upgrade() {
                // It says whether all ended; a fenced node is out of use either way.
                let _ = shared.stop().await;
            }
        });
    }

    async fn stop(self: Arc<Self>) -> Result<(), LightningError> {
        let _one_at_a_time = self.lifecycle.lock().await;
        let Some(running) = lock(&self.seat).take() else {
            return Ok(());
        };
        self.moved.notify(usize::MAX);
        let Running { node, store, .. } = running;
        let handle = node.handle.clone();
        let stopping = Arc::clone(&node);
        let stopping = handle.spawn_blocking(move || stopping.stop());
        let stopped = ldk_node::tokio::select! {
            stopped = stopping => stopped.map_err(|error| unknown(error.to_string()))?,
            // Its threads may be parked (see `kv.rs`), so nothing is waited for.
            () = self.health.fenced() => Ok(()),
        };
        node.abandon();
        if self.health.is_fenced() {
            return Ok(());
        }
        stopped?;
        let mut waited = Duration::ZERO;
        while !store.is_idle() {
            if waited >= LAST_WRITES {
                return Err(unknown("the store still refuses the node's last writes"));
            }
            Delay::new(LAST_WRITES_POLL).await;
            waited += LAST_WRITES_POLL;
        }
        Ok(())
    }

    fn build(&self, store: &LdkStore, runtime: Handle) -> Result<Node, LightningError> {
        let mut builder = Builder::from_config(Config {
            network: self.config.network.to_bitcoin(),
            listening_addresses: (!self.listening.is_empty()).then(|| self.listening.clone()),
            anchor_channels_config: Some(AnchorChannelsConfig {
                trusted_peers_no_reserve: self.trusted.clone(),
                ..AnchorChannelsConfig::default()
            }),
            ..Config::default()
        });
        builder.set_entropy_seed_bytes(*self.config.seed.expose());
        builder.set_runtime(runtime);
        let background = self
            .config
            .sync_interval_seconds
            .map(|seconds| BackgroundSyncConfig {
                onchain_wallet_sync_interval_secs: seconds,
                lightning_wallet_sync_interval_secs: seconds,
                ..BackgroundSyncConfig::default()
            });
        match self.config.chain_source.clone() {
            LdkChainSource::Esplora { url } => builder.set_chain_source_esplora(
                url,
                Some(EsploraSyncConfig {
                    background_sync_config: background,
                }),
            ),
            LdkChainSource::Electrum { url } => builder.set_chain_source_electrum(
                url,
                Some(ElectrumSyncConfig {
                    background_sync_config: background,
                }),
            ),
            LdkChainSource::BitcoindRpc {
                host,
                port,
                user,
                password,
            } => builder.set_chain_source_bitcoind_rpc(host, port, user, password),
        };
        match &self.config.log_file {
            Some(file) => {
                let file = file.to_string_lossy().into_owned();
                builder.set_filesystem_logger(Some(file), None)
            }
            None => builder.set_log_facade_logger(),
        };
        let built = builder.build_with_store(Arc::new(store.clone()));
        built.map_err(|error| start_failed(error.to_string()))
    }

    fn has_mempool_records(&self) -> bool {
        !matches!(self.config.chain_source, LdkChainSource::BitcoindRpc { .. })
    }
}

impl Drop for LdkNode {
    fn drop(&mut self) {
        let Some(running) = lock(&self.shared.seat).take() else {
            return;
        };
        self.shared.moved.notify(usize::MAX);
        // A thread of its own, because stopping blocks, and the runtime may be on its way out.
        let node = Arc::clone(&running.node);
        let spawned = std::thread::Builder::new()
            .name("ldk-stop".into())
            .spawn(move || {
                // It says whether it could be stopped; nobody is left to tell.
                let _ = node.stop();
            });
        if spawned.is_err() {
            // Dropping it would stop it here, and block.
            std::mem::forget(running);
        }
    }
}

fn ldk_hash(hash: PaymentHash) -> LdkPaymentHash {
    LdkPaymentHash(hash.0)
}

fn create_invoice(node: &Node, request: &InvoiceRequest) -> Result<String, LightningError> {
    let description = Description::new(request.description.clone())
        .map_err(|error| refused(error.to_string()))?;
    let description = Bolt11InvoiceDescription::Direct(description);
    let (hash, expiry) = (ldk_hash(request.payment_hash), request.expiry_seconds);
    // ldk-node would put a record of its own over the one that exists.
    if let Some(record) = node.payment(&PaymentId(hash.0))
        && (record.direction == LdkDirection::Outbound || record.status == PaymentStatus::Succeeded)
    {
        return Err(refused("this payment hash was used already"));
    }
    let payments = node.bolt11_payment();
    let invoice = match request.amount_msat {
        Some(amount_msat) => {
            payments.receive_for_hash(unsigned(amount_msat)?, &description, expiry, hash)
        }
        None => payments.receive_variable_amount_for_hash(&description, expiry, hash),
    };
    invoice
        .map(|invoice| invoice.to_string())
        .map_err(node_error)
}

fn fail(node: &Node, hash: LdkPaymentHash) -> Result<(), LightningError> {
    match node.payment(&PaymentId(hash.0)) {
        Some(record) if record.direction == LdkDirection::Inbound => {
            // Failing what succeeded would change nothing but the record, and that to a lie.
            if record.status == PaymentStatus::Succeeded {
                return Ok(());
            }
            node.bolt11_payment()
                .fail_for_hash(hash)
                .map_err(node_error)
        }
        _ => Err(refused("no invoice has this payment hash")),
    }
}

fn claim(
    node: &Node,
    hash: LdkPaymentHash,
    preimage: &Preimage,
    amount_msat: u64,
) -> Result<(), LightningError> {
    match node.payment(&PaymentId(hash.0)) {
        Some(record) if record.direction == LdkDirection::Inbound => {
            let preimage = PaymentPreimage(*preimage.expose());
            node.bolt11_payment()
                .claim_for_hash(hash, amount_msat, preimage)
                .map_err(node_error)
        }
        _ => Err(refused("no invoice has this payment hash")),
    }
}

fn pay(
    node: &Node,
    invoice: &Bolt11Invoice,
    max_fee_msat: u64,
) -> Result<Dispatch, LightningError> {
    let refused = |reason: String| Ok(Dispatch::Refused { reason });
    let id = PaymentId(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash()));
    // ldk-node answers DuplicatePayment for it, which would be taken for a payment under way.
    let record = node.payment(&id);
    if record.is_some_and(|record| record.direction == LdkDirection::Inbound) {
        return refused("the invoice is this node's own".into());
    }
    let route = RouteParametersConfig {
        max_total_routing_fee_msat: Some(max_fee_msat),
        ..RouteParametersConfig::default()
    };
    match node.bolt11_payment().send(invoice, Some(route)) {
        Ok(_) => Ok(Dispatch::Accepted),
        Err(NodeError::DuplicatePayment) => Ok(Dispatch::AlreadyKnown),
        Err(NodeError::NotRunning) => Err(LightningError::NotRunning),
        Err(error @ (NodeError::PaymentSendingFailed | NodeError::InvalidInvoice)) => {
            refused(error.to_string())
        }
        // The HTLC may be out already: the record is written after it.
        Err(error) => Err(unknown(error.to_string())),
    }
}

#[async_trait]
impl LightningNode for LdkNode {
    async fn start(&self) -> Result<(), LightningError> {
        let task = self.shared.runtime.spawn(Arc::clone(&self.shared).start());
        task.await
            .map_err(|error| start_failed(error.to_string()))?
    }

    async fn stop(&self) -> Result<(), LightningError> {
        let task = self.shared.runtime.spawn(Arc::clone(&self.shared).stop());
        task.await.map_err(|error| unknown(error.to_string()))?
    }

    fn trouble(&self) -> Option<NodeTrouble> {
        self.shared.health.trouble()
    }

    fn node_id(&self) -> String {
        self.shared.node_id.to_string()
    }

    async fn create_invoice(&self, request: InvoiceRequest) -> Result<String, LightningError> {
        self.call(move |node| create_invoice(node, &request))
            .await?
    }

    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        amount_msat: i64,
    ) -> Result<(), LightningError> {
        let amount_msat = unsigned(amount_msat)?;
        self.call(move |node| claim(node, ldk_hash(payment_hash), &preimage, amount_msat))
            .await?
    }

    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError> {
        self.call(move |node| fail(node, ldk_hash(payment_hash)))
            .await?
    }

    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        let details: Bolt11Details = request.bolt11.parse()?;
        let expected = self.config().network.name();
        if details.network != expected {
            return Err(LightningError::WrongNetwork {
                expected: expected.into(),
                found: details.network,
            });
        }
        let refusal = |reason: &str| {
            Ok(Dispatch::Refused {
                reason: reason.into(),
            })
        };
        if details.amount_msat.is_none() {
            return refusal("the invoice has no amount");
        }
        let Ok(max_fee_msat) = u64::try_from(request.max_fee_msat) else {
            return refusal("the fee limit is negative");
        };
        let invoice = Bolt11Invoice::from_str(request.bolt11.trim()).map_err(|error| {
            LightningError::BadInvoice {
                reason: error.to_string(),
            }
        })?;
        self.call(move |node| pay(node, &invoice, max_fee_msat))
            .await?
    }

    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError> {
        self.call(move |node| {
            let details = node.payment(&PaymentId(payment_hash.0))?;
            payment_record(&details)
        })
        .await
    }

    async fn balances(&self) -> Result<NodeBalances, LightningError> {
        let mempool_has_records = self.shared.has_mempool_records();
        self.call(move |node| node_balances(node, mempool_has_records))
            .await
    }

    async fn next_event(&self) -> Result<LightningEvent, LightningError> {
        let moved = self.shared.moved.listen();
        let running = self.shared.running()?;
        let Some(node) = &running.node.node else {
            return Err(LightningError::NotRunning);
        };
        ldk_node::tokio::select! {
            event = node.next_event_async() => {
                *lock(&running.delivered) = true;
                let height = node.status().current_best_block.height;
                Ok(lightning_event(event, height))
            }
            () = moved => Err(LightningError::NotRunning),
            () = self.shared.health.fenced() => Err(LightningError::NotRunning),
        }
    }

    async fn recover(&self) -> Result<Vec<LostChannel>, LightningError> {
        let _one_at_a_time = self.shared.lifecycle.lock().await;
        if lock(&self.shared.seat).is_some() {
            return Err(refused("the node runs"));
        }
        recovery::recover(self.config(), self.shared.state.as_ref()).await
    }

    async fn acknowledge(&self) -> Result<(), LightningError> {
        let running = self.shared.running()?;
        if !std::mem::take(&mut *lock(&running.delivered)) {
            return Err(refused("no event was delivered since the last one"));
        }
        self.call(|node| node.event_handled())
            .await?
            .map_err(node_error)
    }
}
