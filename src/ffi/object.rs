//! The engine as an object: opened, started, shut down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use super::config::{FixedRate, FlashkitConfig, LightningConfig, sized};
use super::{FlashError, JobsReport, Problem, runtime};
use crate::access::Credential;
use crate::cards::boltcard::IssuerKey;
use crate::lightning::LightningNode;
use crate::ports::{SystemClock, TokioExecutor};
use crate::rates::FixedRates;
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::{Engine, MasterSecret};

/// The version of this library.
#[uniffi::export]
pub fn flashkit_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// The money engine on one file.
///
/// Its calls run on threads of the library and to their end, also when the app stops waiting.
#[derive(uniffi::Object)]
pub struct Flashkit {
    pub(super) engine: Engine,
    rates: Arc<FixedRates>,
    #[cfg(feature = "ldk")]
    pub(super) ldk: Option<Arc<crate::lightning::ldk::LdkNode>>,
    stopped: AtomicBool,
    /// One shutdown at a time; true once one went through.
    closed: Arc<async_lock::Mutex<bool>>,
    pub(super) delivery: Mutex<Option<JoinHandle<()>>>,
}

/// The node of a configuration.
#[derive(Default)]
struct Node {
    lightning: Option<Arc<dyn LightningNode>>,
    #[cfg(feature = "ldk")]
    ldk: Option<Arc<crate::lightning::ldk::LdkNode>>,
}

#[uniffi::export]
impl Flashkit {
    /// Opens the books, or makes new ones. Nothing runs yet: see `start`.
    ///
    /// Errors: `store.*`, `access.other_secret`, `access.other_network`, `config.wrong_length`,
    /// `money.*` for a rate that is none, `lightning.*`.
    #[uniffi::constructor]
    pub async fn open(config: FlashkitConfig) -> Result<Arc<Self>, FlashError> {
        runtime::run(Self::open_here(config)).await.map(Arc::new)
    }

    /// Starts the node, settles what was open, and begins to deal with payments and due work.
    /// Called again, it does nothing.
    ///
    /// Errors: `lightning.start_failed`, `store.*`; it can be tried again.
    pub async fn start(&self) -> Result<(), FlashError> {
        self.with_engine(|engine| async move { Ok(engine.start().await?) })
            .await
    }

    /// Stops the node and closes the file. Calls that were begun come to their end or answer that
    /// it is not known; later calls answer `Unavailable` with `store.closed`. Idempotent.
    ///
    /// Errors: `lightning.*`, `store.*`; it can be tried again.
    pub async fn shutdown(&self) -> Result<(), FlashError> {
        self.stopped.store(true, Ordering::SeqCst);
        self.end_delivery();
        let (engine, closed) = (self.engine.clone(), self.closed.clone());
        runtime::run(async move {
            let mut closed = closed.lock().await;
            if !*closed {
                engine.stop().await?;
                *closed = true;
            }
            Ok(())
        })
        .await
    }

    /// The issuer's credential. Whoever has it may do everything.
    pub fn issuer_credential(&self) -> Result<String, FlashError> {
        self.check_open()?;
        Ok(self.engine.issuer().reveal().to_owned())
    }

    /// Sets what one bitcoin costs in a currency, from now on. There is no other source of rates.
    ///
    /// Errors: `money.unknown_currency`, `money.bad_number`, `money.not_positive`.
    pub fn set_rate(&self, rate: FixedRate) -> Result<(), FlashError> {
        self.check_open()?;
        rate.put(&self.rates)
    }

    /// Does the work that is due now: for an app that was woken for a moment and did not `start`.
    ///
    /// Errors: `store.*`.
    pub async fn run_due_jobs(&self) -> Result<JobsReport, FlashError> {
        self.with_engine(|engine| async move { Ok(engine.run_due_jobs().await?.into()) })
            .await
    }

    /// What last went wrong in the engine's own work, if anything did since it went right.
    pub fn last_problem(&self) -> Option<Problem> {
        self.engine.last_problem().map(Problem::from)
    }
}

impl Flashkit {
    async fn open_here(config: FlashkitConfig) -> Result<Self, FlashError> {
        let master = MasterSecret::new(sized("master_secret", &config.master_secret)?);
        let rates = Arc::new(FixedRates::new());
        for rate in &config.rates {
            rate.put(&rates)?;
        }
        let issuer_key = match &config.card_issuer_key {
            Some(bytes) => Some(IssuerKey::new(sized("card_issuer_key", bytes)?)),
            None => None,
        };
        let path = config.database_path.clone();
        let store =
            runtime::run_blocking(move || Ok(SqliteStore::open(path, Arc::new(SystemClock))?))
                .await?;
        if config.trust_node_state {
            store.trust_node_state();
        }
        let node = open_node(&config, &master, &store).await?;
        let mut builder = Engine::builder(Arc::new(store), master)
            .network(config.network.name())
            .rates(rates.clone())
            .settings(config.settings())
            .executor(Arc::new(TokioExecutor::new(runtime::handle()?)));
        if let Some(lightning) = node.lightning {
            builder = builder.lightning(lightning);
        }
        #[cfg(all(feature = "ldk", feature = "chain"))]
        if let Some(chain) = super::node::chain(&config)? {
            builder = builder.chain(chain);
        }
        if let Some(key) = issuer_key {
            builder = builder.card_issuer_key(key);
        }
        Ok(Self {
            engine: builder.open().await?,
            rates,
            #[cfg(feature = "ldk")]
            ldk: node.ldk,
            stopped: AtomicBool::new(false),
            closed: Arc::default(),
            delivery: Mutex::default(),
        })
    }

    fn check_open(&self) -> Result<(), FlashError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(StoreError::Closed.into());
        }
        Ok(())
    }

    /// Runs a call on the library's own threads.
    pub(super) async fn with_engine<T, Fut>(
        &self,
        call: impl FnOnce(Engine) -> Fut,
    ) -> Result<T, FlashError>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, FlashError>> + Send + 'static,
    {
        self.check_open()?;
        runtime::run(call(self.engine.clone())).await
    }

    /// As [`with_engine`](Self::with_engine), for whoever holds the credential.
    pub(super) async fn call<T, Fut>(
        &self,
        credential: String,
        call: impl FnOnce(Engine, Credential) -> Fut,
    ) -> Result<T, FlashError>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, FlashError>> + Send + 'static,
    {
        let credential: Credential = credential.parse()?;
        self.with_engine(|engine| call(engine, credential)).await
    }

    pub(super) fn delivery(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end_delivery(&self) {
        if let Some(task) = self.delivery().take() {
            task.abort();
        }
    }
}

impl Drop for Flashkit {
    /// An engine that was not shut down is stopped behind the app's back; nobody waits.
    fn drop(&mut self) {
        self.end_delivery();
        if !self.stopped.load(Ordering::SeqCst)
            && let Ok(runtime) = runtime::handle()
        {
            let engine = self.engine.clone();
            drop(runtime.spawn(async move { drop(engine.stop().await) }));
        }
    }
}

#[cfg_attr(
    not(feature = "ldk"),
    allow(unused_variables, reason = "only a real node needs secret and store")
)]
async fn open_node(
    config: &FlashkitConfig,
    master: &MasterSecret,
    store: &SqliteStore,
) -> Result<Node, FlashError> {
    match &config.lightning {
        LightningConfig::NoNode => Ok(Node::default()),
        #[cfg(feature = "testkit")]
        LightningConfig::Simulated { lightning } => Ok(Node {
            lightning: Some(Arc::new(lightning.node_of(&config.database_path))),
            #[cfg(feature = "ldk")]
            ldk: None,
        }),
        #[cfg(feature = "ldk")]
        LightningConfig::Ldk { .. } => {
            let (config, master, store) = (config.clone(), master.clone(), store.clone());
            let node =
                runtime::run_blocking(move || super::node::open(&config, &master, store)).await?;
            let node = Arc::new(node);
            Ok(Node {
                lightning: Some(node.clone()),
                ldk: Some(node),
            })
        }
    }
}
