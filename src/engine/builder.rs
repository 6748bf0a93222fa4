//! Putting an engine together.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};

use super::Engine;
use crate::Error;
use crate::access::HostKeys;
use crate::cards::boltcard::IssuerKey;
use crate::cards::{Cards, IssuerKeys};
use crate::chain::ChainSource;
use crate::core::{
    ChainTroubles, CommandError, Core, HashCost, MasterSecret, NamedTurns, Secrets, Settings,
    Sweeps, Turns,
};
use crate::invoices::Invoices;
use crate::lightning::LightningNode;
use crate::payments::Payments;
use crate::ports::{Clock, Entropy, Executor, SystemClock, SystemEntropy, TokioExecutor};
use crate::rates::{FixedRates, RateSource};
use crate::refunds::Refunds;
use crate::settlement::Settlement;
use crate::store::Store;

/// Puts an engine together. Only the store and the master secret must be given.
pub struct EngineBuilder {
    store: Arc<dyn Store>,
    master: MasterSecret,
    card_issuer_key: Option<IssuerKey>,
    host_keys: Option<HostKeys>,
    lightning: Option<Arc<dyn LightningNode>>,
    lightning_elsewhere: bool,
    network: String,
    chain: Option<Arc<dyn ChainSource>>,
    rates: Arc<dyn RateSource>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    executor: Option<Arc<dyn Executor>>,
    settings: Settings,
    hash_cost: HashCost,
}

impl EngineBuilder {
    pub(super) fn new(store: Arc<dyn Store>, master: MasterSecret) -> Self {
        Self {
            store,
            master,
            card_issuer_key: None,
            host_keys: None,
            lightning: None,
            lightning_elsewhere: false,
            network: "bitcoin".to_owned(),
            chain: None,
            rates: Arc::new(FixedRates::new()),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            executor: None,
            settings: Settings::default(),
            hash_cost: HashCost::default(),
        }
    }

    /// The node that sends and receives. Without one, everything works that stays in the books.
    pub fn lightning(mut self, node: Arc<dyn LightningNode>) -> Self {
        self.lightning = Some(node);
        self
    }

    /// Another instance on the same books has the node: payouts are taken in here and wait for
    /// that one to send them. Instances that may take the node over need none of this: they are
    /// given the node like the first, and wait for its lease.
    pub fn lightning_elsewhere(mut self) -> Self {
        self.lightning_elsewhere = true;
        self
    }

    /// The network whose invoices are paid: `bitcoin` (the default), `testnet`, `signet` or
    /// `regtest`.
    pub fn network(mut self, network: &str) -> Self {
        network.clone_into(&mut self.network);
        self
    }

    /// Where the chain is read, for wallets and payments on chain. Without one, addresses are
    /// given out and nothing is seen to arrive.
    pub fn chain(mut self, source: Arc<dyn ChainSource>) -> Self {
        self.chain = Some(source);
        self
    }

    /// Where rates come from; by default an empty table, which refuses every currency.
    pub fn rates(mut self, rates: Arc<dyn RateSource>) -> Self {
        self.rates = rates;
        self
    }

    /// The issuer key of cards that exist already, and of new ones until it is rotated; by default
    /// it is derived from the master secret.
    pub fn card_issuer_key(mut self, key: IssuerKey) -> Self {
        self.card_issuer_key = Some(key);
        self
    }

    /// The key of the host's that imported issuer keys are sealed with in the store: see
    /// [`Cards::import_issuer_key`]. Without it they are neither taken in nor read.
    pub fn host_keys(mut self, keys: HostKeys) -> Self {
        self.host_keys = Some(keys);
        self
    }

    /// The clock; by default the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The randomness; by default the system's.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Where work runs; by default the tokio runtime that [`open`](Self::open) is called in.
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = Some(executor);
        self
    }

    /// How old a rate may be, where taps point, and so on.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// PINs are hashed so that nobody waits for it: for thousands of them in a simulation, and no
    /// others.
    #[cfg(feature = "testkit")]
    pub(crate) fn quick_hashes(mut self) -> Self {
        self.hash_cost = HashCost {
            memory_kib: 8,
            passes: 1,
        };
        self
    }

    /// Opens the engine on its store. The node is not started yet: see [`Engine::start`].
    ///
    /// # Errors
    /// `access.other_secret` and `access.other_network` when the books were made with others;
    /// `store.*`; `command.no_executor` when there is no executor and no tokio runtime.
    pub async fn open(self) -> Result<Engine, Error> {
        let executor: Arc<dyn Executor> = match self.executor {
            Some(executor) => executor,
            None => Arc::new(TokioExecutor::current().ok_or(CommandError::NoExecutor)?),
        };
        let secrets = Secrets::new(self.master);
        let core = Arc::new(Core {
            store: self.store,
            lightning: self.lightning,
            lightning_elsewhere: self.lightning_elsewhere,
            node_status: Mutex::default(),
            network: self.network,
            chain: self.chain,
            rates: self.rates,
            clock: self.clock,
            entropy: self.entropy,
            executor,
            issuer: secrets.issuer_credential(),
            secrets,
            hash_cost: self.hash_cost,
            settings: self.settings,
            apart_since_ms: AtomicI64::new(0),
            sweeps: Sweeps::default(),
            command_turns: NamedTurns::default(),
            receipt_turns: Turns::default(),
            drain_turns: Turns::default(),
            chain_troubles: ChainTroubles::default(),
        });
        core.check_identity().await?;
        core.ensure_issuer().await?;
        let issuer_keys = IssuerKeys::open(&core, self.card_issuer_key, self.host_keys).await?;
        let payments = Payments::new(core.clone());
        Ok(Engine {
            cards: Cards::new(core.clone(), Arc::new(issuer_keys), payments.clone()),
            invoices: Invoices::new(core.clone()),
            settlement: Settlement::new(core.clone(), payments.clone()),
            refunds: Refunds::new(core.clone(), payments.clone()),
            payments,
            life: Arc::default(),
            core,
        })
    }
}
