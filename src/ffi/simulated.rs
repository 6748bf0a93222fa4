//! For tests of the bindings: a simulated Lightning network, a wallet on it, and a virtual card.

use std::sync::{Arc, Mutex, PoisonError};

use super::{FlashError, Flashkit, FlashkitConfig, ProgrammingKeys};
use crate::lightning::LightningNode;
use crate::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use crate::ports::SystemClock;
use crate::testkit::virtual_card::VirtualCard;
use crate::testkit::wallet::Wallet;

/// The operator's node on a simulated network; lives as long as the app's object.
#[derive(uniffi::Object)]
pub struct SimulatedLightning {
    network: SimulatedNetwork,
    node: SimulatedNode,
}

#[uniffi::export(async_runtime = "tokio")]
impl SimulatedLightning {
    /// A new network with the operator's node on it, which has nothing in its channels.
    #[uniffi::constructor]
    pub fn create() -> Arc<Self> {
        let network = SimulatedNetwork::new(Arc::new(SystemClock));
        let node = network.node(0);
        Arc::new(Self { network, node })
    }

    /// A wallet of somebody else, with money.
    pub async fn wallet(&self, balance_msat: i64) -> Result<Arc<SimulatedWallet>, FlashError> {
        let node = self.network.node(balance_msat);
        node.start().await?;
        let wallet = Arc::new(Wallet::new(Arc::new(node.clone()), None));
        let runtime = super::runtime()?;
        drop(runtime.spawn(wallet.clone().run()));
        Ok(Arc::new(SimulatedWallet {
            node,
            wallet,
            runtime: Mutex::new(Some(runtime)),
        }))
    }
}

#[uniffi::export(async_runtime = "tokio")]
impl Flashkit {
    /// Opens the books with a simulated node.
    #[uniffi::constructor]
    pub async fn open_simulated(
        config: FlashkitConfig,
        node: Arc<SimulatedLightning>,
    ) -> Result<Arc<Self>, FlashError> {
        Self::open_with(config, Some(Arc::new(node.node.clone()))).await
    }
}

/// A customer's wallet, or a merchant's own node.
#[derive(uniffi::Object)]
pub struct SimulatedWallet {
    node: SimulatedNode,
    wallet: Arc<Wallet>,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
}

impl Drop for SimulatedWallet {
    fn drop(&mut self) {
        let runtime = self
            .runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

fn failed(error: &crate::testkit::wallet::WalletError) -> FlashError {
    FlashError::new("lightning.refused", error.to_string(), false)
}

#[uniffi::export(async_runtime = "tokio")]
impl SimulatedWallet {
    /// Pays, and waits until it is paid.
    pub async fn pay(&self, bolt11: String) -> Result<(), FlashError> {
        self.wallet
            .pay(&bolt11)
            .await
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// An invoice of the wallet's own.
    pub async fn invoice(&self, amount_msat: i64, label: String) -> Result<String, FlashError> {
        self.wallet
            .invoice(amount_msat, &label)
            .await
            .map_err(|error| failed(&error))
    }

    /// What it has.
    pub fn balance_msat(&self) -> i64 {
        self.node.balance_msat()
    }

    /// Fails as only a bug does, so that an app can test how it takes that.
    pub fn fail_internally(&self) -> Result<(), FlashError> {
        Err(FlashError::new(
            "listener.failed",
            "asked to fail".to_owned(),
            false,
        ))
    }
}

/// A bolt card without the plastic.
#[derive(uniffi::Object)]
pub struct VirtualBoltCard {
    card: Mutex<VirtualCard>,
}

#[uniffi::export]
impl VirtualBoltCard {
    /// Writes keys on a chip.
    #[uniffi::constructor]
    pub fn program(uid: String, keys: ProgrammingKeys) -> Result<Arc<Self>, FlashError> {
        let ProgrammingKeys {
            lnurlw,
            version,
            k0,
            k1,
            k2,
            k3,
            k4,
        } = keys;
        let keys = crate::cards::ProgrammingKeys {
            lnurlw,
            version,
            k0,
            k1,
            k2,
            k3,
            k4,
        };
        let card = VirtualCard::program(&uid, &keys)
            .map_err(|error| FlashError::new("card.bad_uid", error.to_string(), false))?;
        Ok(Arc::new(Self {
            card: Mutex::new(card),
        }))
    }

    /// Taps the card.
    pub fn tap(&self) -> String {
        self.card
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tap()
    }

    /// How often it was tapped.
    pub fn counter(&self) -> u32 {
        self.card
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .counter()
    }
}
