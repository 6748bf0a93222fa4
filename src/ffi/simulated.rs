//! What the tests of bindings need: a Lightning network, a wallet and a card, all in this
//! process. Nothing here is for real money.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{EngineEvent, EventListener, FlashError, ProgrammingKeys, runtime};
use crate::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use crate::lightning::{LightningError, LightningNode};
use crate::ports::SystemClock;
use crate::testkit::virtual_card::VirtualCard;
use crate::testkit::wallet::{Wallet, WalletError};

/// How long a payment is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A Lightning network in this process: engines and wallets on it pay each other.
#[derive(uniffi::Object)]
pub struct SimulatedLightning {
    network: SimulatedNetwork,
    /// The nodes of engines, by their file.
    engines: Mutex<HashMap<String, SimulatedNode>>,
}

#[uniffi::export]
impl SimulatedLightning {
    /// An empty network.
    #[uniffi::constructor]
    #[allow(
        clippy::new_without_default,
        reason = "a constructor of the bindings; Rust has the network itself"
    )]
    pub fn new() -> Self {
        Self {
            network: SimulatedNetwork::new(Arc::new(SystemClock)),
            engines: Mutex::default(),
        }
    }

    /// A wallet with money, on this network: a customer, or a merchant's own node.
    pub async fn wallet(&self, balance_msat: i64) -> Result<Arc<SimulatedWallet>, FlashError> {
        let node = self.network.node(balance_msat);
        node.start().await?;
        let wallet = Arc::new(Wallet::new(Arc::new(node.clone()), None));
        let work = runtime::handle()?.spawn(wallet.clone().run());
        Ok(Arc::new(SimulatedWallet { node, wallet, work }))
    }

    /// What every route costs from now on.
    pub fn set_route_fee_msat(&self, fee_msat: i64) {
        self.network.set_route_fee_msat(fee_msat);
    }

    /// Calls a listener with a made-up event, as the engine would, and answers what came of it:
    /// `Internal` with `ffi.callback` for a listener that throws anything but a `FlashError`.
    pub async fn try_listener(&self, listener: Arc<dyn EventListener>) -> Result<(), FlashError> {
        let event = EngineEvent {
            position: 0,
            at_ms: 0,
            kind: "test".to_owned(),
            object_id: String::new(),
            body_json: "null".to_owned(),
        };
        runtime::run_blocking(move || listener.on_event(event)).await
    }
}

impl SimulatedLightning {
    /// The node of the engine on this file: a new one without money, or the one it had.
    pub(super) fn node_of(&self, file: &str) -> SimulatedNode {
        let mut engines = lock(&self.engines);
        let node = engines
            .entry(file.to_owned())
            .or_insert_with(|| self.network.node(0));
        node.clone()
    }
}

/// A wallet on the simulated network.
#[derive(uniffi::Object)]
pub struct SimulatedWallet {
    node: SimulatedNode,
    wallet: Arc<Wallet>,
    work: JoinHandle<()>,
}

#[uniffi::export]
impl SimulatedWallet {
    /// Pays an invoice and waits until it is paid, at most half a minute.
    ///
    /// Errors: `lightning.refused` when the payment came back, `lightning.bad_invoice`,
    /// `lightning.unknown` after half a minute.
    pub async fn pay(&self, bolt11: String) -> Result<(), FlashError> {
        let wallet = self.wallet.clone();
        runtime::run(async move {
            match tokio::time::timeout(PATIENCE, wallet.pay(&bolt11)).await {
                Ok(paid) => Ok(paid.map(drop)?),
                Err(_) => Err(LightningError::Unknown {
                    reason: "nobody took the payment in time".to_owned(),
                }
                .into()),
            }
        })
        .await
    }

    /// An invoice of the wallet's own, which it takes by itself.
    ///
    /// Errors: `lightning.refused`.
    pub fn invoice(&self, amount_msat: i64, label: String) -> Result<String, FlashError> {
        Ok(self.node.wallet_invoice(amount_msat, &label)?)
    }

    /// What the wallet has.
    pub fn balance_msat(&self) -> i64 {
        self.node.balance_msat()
    }
}

impl Drop for SimulatedWallet {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl From<WalletError> for FlashError {
    fn from(error: WalletError) -> Self {
        match error {
            WalletError::Lightning(error) => error.into(),
            WalletError::Failed { reason } => LightningError::Refused { reason }.into(),
            WalletError::Preimage { reason } => Self::internal("testkit.preimage", reason),
        }
    }
}

/// A bolt card without the plastic.
#[derive(uniffi::Object)]
pub struct VirtualBoltCard {
    card: Mutex<VirtualCard>,
}

#[uniffi::export]
impl VirtualBoltCard {
    /// Writes keys and URL on a chip whose number is `uid` (14 hex digits).
    ///
    /// Errors: `testkit.programming`.
    #[uniffi::constructor]
    pub fn program(uid: String, keys: ProgrammingKeys) -> Result<Self, FlashError> {
        let card = VirtualCard::program(&uid, &keys.into())
            .map_err(|error| FlashError::invalid("testkit.programming", error.to_string()))?;
        Ok(Self {
            card: Mutex::new(card),
        })
    }

    /// Taps the card: its counter goes up, and it shows its URL.
    pub fn tap(&self) -> String {
        lock(&self.card).tap()
    }

    /// How often it was tapped.
    pub fn counter(&self) -> u32 {
        lock(&self.card).counter()
    }
}
