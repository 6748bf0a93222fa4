//! The adapter itself.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::Event;
use futures_timer::Delay;
use ldk_node::bitcoin::bip32::{ChildNumber, Xpriv};
use ldk_node::bitcoin::secp256k1::Secp256k1;
use ldk_node::bitcoin::{Network, secp256k1::PublicKey};
use ldk_node::config::{
    AnchorChannelsConfig, BackgroundSyncConfig, Config, ElectrumSyncConfig, EsploraSyncConfig,
};
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::tokio::runtime::{Handle, Runtime};
use ldk_node::tokio::sync::Mutex as AsyncMutex;
use ldk_node::{Builder, Node, NodeError};

use super::ahead;
use super::config::{LdkChainSource, LdkConfig};
use super::health::NodeHealth;
use super::kv::LdkStore;
use super::lease::{Fence, Moment, workers};
use super::operator::{node_key, peer_address};
use super::records::{refused, unknown};
use crate::lightning::LightningError;
use crate::ports::{Clock, Entropy, SystemEntropy};
use crate::store::{KeyValue, NodeHolder, StoreError, block_on};

/// How long a stop waits for the writes of the node to end. ldk-node's own waits, about 35
/// seconds at the worst, come before.
const LAST_WRITES: Duration = Duration::from_secs(30);
/// How long it waits for the tasks of the node to be dropped, which takes them a moment.
const LAST_TASKS: Duration = Duration::from_secs(5);
/// A lease that is shorter would end at every hiccup.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
/// After a longer one nobody would take over.
const LONGEST_LEASE: Duration = Duration::from_secs(3_600);
const LAST_WRITES_POLL: Duration = Duration::from_millis(5);

/// A Lightning node in this process.
///
/// [`start`](crate::lightning::LightningNode::start) takes the lease of the node's state, which begins a new epoch,
/// reads all of it and runs; [`stop`](crate::lightning::LightningNode::stop) ends that and gives the lease back, and
/// the next start reads it again. Dropping it stops the node in the background.
pub struct LdkNode {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    config: LdkConfig,
    pub(super) state: Arc<dyn KeyValue>,
    holder: NodeHolder,
    pub(super) runtime: Handle,
    pub(super) health: Arc<NodeHealth>,
    pub(super) node_id: PublicKey,
    listening: Vec<SocketAddress>,
    trusted: Vec<PublicKey>,
    pub(super) liquidity: Option<Liquidity>,
    /// One start or stop at a time.
    pub(super) lifecycle: AsyncMutex<()>,
    pub(super) seat: Mutex<Option<Running>>,
    /// The seat changed.
    pub(super) moved: Event,
}

/// Where channels come from just in time: who, where, and what is said there.
type Liquidity = (PublicKey, SocketAddress, Option<String>);

/// ldk-node's node and the runtime it lives on.
///
/// The runtime is its own, because LDK persists under its locks: while the store refuses a write,
/// every worker that meets such a lock stands still, and the host's must not.
pub(super) struct NodeHandle {
    pub(super) node: Option<Node>,
    runtime: Arc<Mutex<Option<Runtime>>>,
    fence: Arc<Fence>,
    handle: Handle,
}

impl NodeHandle {
    pub(super) fn stop(&self) -> Result<(), LightningError> {
        let Some(node) = &self.node else {
            return Ok(());
        };
        match catch_unwind(AssertUnwindSafe(|| node.stop())) {
            Ok(Ok(()) | Err(NodeError::NotRunning)) => Ok(()),
            Ok(Err(error)) => Err(unknown(error.to_string())),
            Err(_) => Err(unknown("ldk-node panicked while it stopped")),
        }
    }

    fn abandon(&self) {
        self.fence.abandon(&self.runtime);
    }

    /// Stops it, or abandons it once the fence is down: its threads may be parked (see `kv.rs`), and it
    /// does nothing more, not even what belongs to a stop.
    async fn end(self: Arc<Self>) -> Result<(), LightningError> {
        if !self.fence.is_down() {
            let node = Arc::clone(&self);
            let stopping = self.handle.spawn_blocking(move || node.stop());
            ldk_node::tokio::select! {
                stopped = stopping => {
                    return stopped.map_err(|error| unknown(error.to_string()))?;
                }
                () = self.fence.down() => {}
            }
        }
        self.abandon();
        Ok(())
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
pub(super) struct Running {
    pub(super) node: Arc<NodeHandle>,
    store: LdkStore,
    epoch: u64,
    pub(super) fence: Arc<Fence>,
    /// True from `next_event` to `acknowledge`: ldk-node drops the head of its queue whether
    /// anybody saw it or not.
    pub(super) delivered: Arc<Mutex<bool>>,
}

impl fmt::Debug for LdkNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdkNode")
            .field("node_id", &self.shared.node_id.to_string())
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn start_failed(reason: impl Into<String>) -> LightningError {
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
        let mut drawn = [0; 8];
        let filled = SystemEntropy.fill(&mut drawn);
        filled.map_err(|error| start_failed(error.to_string()))?;
        let peers = config.trusted_peers_no_reserve.iter();
        let mut trusted = peers
            .map(|text| node_key(text))
            .collect::<Result<Vec<_>, _>>()?;
        let liquidity = match &config.liquidity_provider {
            Some(provider) => Some((
                node_key(&provider.node_id)?,
                peer_address(&provider.address)?,
                provider.token.clone(),
            )),
            None => None,
        };
        trusted.extend(liquidity.iter().map(|(node_id, ..)| *node_id));
        Ok(Self {
            shared: Arc::new(Shared {
                holder: NodeHolder(u64::from_ne_bytes(drawn)),
                node_id: derive_node_id(&config)?,
                config,
                state,
                runtime,
                health: Arc::new(NodeHealth::new(clock)),
                listening,
                trusted,
                liquidity,
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

    /// Under the lock of the lifecycle.
    pub(super) fn refuse_while_it_runs(&self) -> Result<(), LightningError> {
        // A run that lost its place may not be cleared yet.
        match self.shared.running() {
            Ok(_) => Err(refused("the node runs")),
            Err(_) => Ok(()),
        }
    }

    /// Runs a call of ldk-node on a thread that may block. It runs to its end although the
    /// caller goes away.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, LightningError> {
        self.shared.running()?.call(work).await
    }

    /// As [`call`](Self::call), for a call that writes records of payments: those are waited for
    /// when it has left the locks of ldk-node, and before it is answered.
    pub(super) async fn call_with_records<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, LightningError> {
        let running = self.shared.running()?;
        let called = running.call(move |node| ahead::queueing(|| work(node)));
        let (done, records) = called.await?;
        for record in records {
            ldk_node::tokio::select! {
                written = record => written.map_err(|error| unknown(error.to_string()))?,
                () = running.fence.down() => return Err(unknown("the node lost its place")),
            }
        }
        Ok(done)
    }
}

impl Running {
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, LightningError> {
        let node = Arc::clone(&self.node);
        // On the node's runtime: ldk-node leaves connections to the runtime it is called on.
        let handle = node.handle.clone();
        let task = handle.spawn_blocking(move || match &node.node {
            Some(node) => Ok(work(node)),
            None => Err(LightningError::NotRunning),
        });
        ldk_node::tokio::select! {
            done = task => done.map_err(|error| unknown(error.to_string()))?,
            // A call may be caught behind a parked thread.
            () = self.fence.down() => Err(unknown("the node lost its place")),
        }
    }
}

impl Shared {
    pub(super) fn running(&self) -> Result<Running, LightningError> {
        let running = lock(&self.seat).clone();
        running
            .filter(|running| !running.fence.is_down())
            .ok_or(LightningError::NotRunning)
    }

    /// Why there is no event: the node lost its place, or does not run.
    pub(super) fn no_event(&self) -> LightningError {
        match self.health.report().fenced {
            Some(error) => LightningError::Displaced {
                reason: error.to_string(),
            },
            None => LightningError::NotRunning,
        }
    }

    pub(super) async fn start(self: Arc<Self>) -> Result<(), LightningError> {
        let _one_at_a_time = self.lifecycle.lock().await;
        // What a run that lost its place left behind.
        let last = lock(&self.seat).clone();
        if let Some(last) = last {
            if !last.fence.is_down() {
                return Ok(());
            }
            self.clear(last).await?;
        }
        let (asked_at, lasts) = (Moment::now(&self.health), self.config.lease);
        let lasts = lasts.clamp(SHORTEST_LEASE, LONGEST_LEASE);
        let epoch = self.state.take_lease(self.holder, lasts).await;
        let epoch = epoch.map_err(|error| match error {
            StoreError::StaleNodeState { .. } | StoreError::NodeHandedOver => {
                LightningError::StaleState {
                    reason: error.to_string(),
                }
            }
            StoreError::LeaseHeld { remaining_ms } => {
                LightningError::HeldElsewhere { remaining_ms }
            }
            other => start_failed(other.to_string()),
        })?;
        let health = Arc::clone(&self.health);
        let fence = Arc::new(Fence::new(epoch, asked_at, lasts, health));
        let keeping = Arc::clone(&fence).keep(Arc::clone(&self.state), lasts);
        self.runtime.spawn(keeping);
        let started = Arc::clone(&self).run(epoch, Arc::clone(&fence)).await;
        if started.is_err() {
            let is_lost = fence.is_down();
            fence.end();
            // The next one need not wait for it; if this fails, it does. Of a run that lost its place
            // something may still be at work.
            if !is_lost {
                drop(self.state.release_lease(epoch).await);
            }
            return started;
        }
        self.moved.notify(usize::MAX);
        self.watch_fence(fence);
        Ok(())
    }

    async fn run(self: Arc<Self>, epoch: u64, fence: Arc<Fence>) -> Result<(), LightningError> {
        let store = LdkStore::new(
            Arc::clone(&self.state),
            epoch,
            self.runtime.clone(),
            Arc::clone(&self.health),
            Arc::clone(&fence),
        );
        let runtime = workers(&fence).map_err(|error| start_failed(error.to_string()))?;
        let handle = runtime.handle().clone();
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let mut starting = NodeHandle {
            node: None,
            runtime: Arc::clone(&runtime),
            fence: Arc::clone(&fence),
            handle: handle.clone(),
        };
        let (shared, place) = (Arc::clone(&self), Arc::clone(&fence));
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
                epoch,
                fence,
                delivered: Arc::default(),
            });
            Ok(())
        });
        ldk_node::tokio::select! {
            started = starting => started.map_err(|error| start_failed(error.to_string()))?,
            () = place.down() => {
                place.abandon(&runtime);
                Err(start_failed("the node lost its place while it started"))
            }
        }
    }

    /// Stops the node once it is fenced. Holds no strong reference meanwhile: a node that is
    /// dropped goes away.
    fn watch_fence(self: &Arc<Self>, fence: Arc<Fence>) {
        let weak = Arc::downgrade(self);
        self.runtime.spawn(async move {
            fence.over().await;
            if let Some(shared) = weak.upgrade()
                && fence.is_down()
            {
                let _one_at_a_time = shared.lifecycle.lock().await;
                let last = lock(&shared.seat).clone();
                if let Some(last) = last.filter(|last| Arc::ptr_eq(&last.fence, &fence)) {
                    // It says whether all ended; a fenced run is out of use either way.
                    let _ = shared.clear(last).await;
                }
            }
        });
    }

    pub(super) async fn stop(self: Arc<Self>) -> Result<(), LightningError> {
        let _one_at_a_time = self.lifecycle.lock().await;
        let last = lock(&self.seat).clone();
        match last {
            Some(running) => self.clear(running).await,
            None => Ok(()),
        }
    }

    /// Ends a run; under the lock of the lifecycle.
    async fn clear(&self, running: Running) -> Result<(), LightningError> {
        lock(&self.seat).take();
        self.moved.notify(usize::MAX);
        let Running {
            node,
            store,
            epoch,
            fence,
            ..
        } = running;
        let stopped = Arc::clone(&node).end().await;
        node.abandon();
        // Whoever starts it again listens at the same addresses.
        ldk_node::tokio::select! {
            () = fence.gone() => {}
            () = Delay::new(LAST_TASKS) => {}
        }
        let mut waited = Duration::ZERO;
        while stopped.is_ok() && !store.is_idle() && !fence.is_down() {
            if waited >= LAST_WRITES {
                fence.end();
                return Err(unknown("the store still refuses the node's last writes"));
            }
            Delay::new(LAST_WRITES_POLL).await;
            waited += LAST_WRITES_POLL;
        }
        if fence.is_down() {
            return Ok(());
        }
        // Without a renewal it runs out, should it not be known whether all of the node ended.
        fence.end();
        stopped?;
        // If this fails, the next one waits until it has run out.
        drop(self.state.release_lease(epoch).await);
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
        if let Some((node_id, address, token)) = self.liquidity.clone() {
            builder.set_liquidity_source_lsps2(node_id, address, token);
        }
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

    pub(super) fn has_mempool_records(&self) -> bool {
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
        let (node, fence) = (Arc::clone(&running.node), Arc::clone(&running.fence));
        let (state, epoch) = (Arc::clone(&self.shared.state), running.epoch);
        let spawned = std::thread::Builder::new()
            .name("ldk-stop".into())
            .spawn(move || {
                let stopped = block_on(node.end());
                fence.end();
                // Nobody is left to tell; a lease that is not given back runs out.
                if stopped.is_ok() && !fence.is_down() {
                    drop(block_on(state.release_lease(epoch)));
                }
            });
        if spawned.is_err() {
            // Dropping it would stop it here, and block.
            std::mem::forget(running);
        }
    }
}
