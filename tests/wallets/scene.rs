//! An engine on a chain, and a signer who has the keys.

use std::sync::Arc;

use flashkit::access::Credential;
use flashkit::chain::ChainSource;
use flashkit::chain::bitcoin::bip32::{DerivationPath, Xpriv, Xpub};
use flashkit::chain::bitcoin::secp256k1::Secp256k1;
use flashkit::chain::bitcoin::{Network, Psbt};
use flashkit::ids::{MerchantId, WalletId};
use flashkit::ports::{Clock, SystemClock};
use flashkit::store::{MemoryStore, Store};
use flashkit::wallets::{
    AddWallet, Coin, NewAddress, Wallet, WalletAddress, WalletOwner, WalletSource, XpubKind,
};
use flashkit::{Engine, Settings};

use crate::sources::{Servers, servers};
use crate::support::{key, shop};

pub struct Scene {
    pub store: Arc<dyn Store>,
    pub engine: Engine,
    pub issuer: Credential,
}

impl Scene {
    pub async fn open(source: Arc<dyn ChainSource>) -> Self {
        Self::on(Arc::new(MemoryStore::new(Arc::new(SystemClock))), source).await
    }

    /// As after a restart.
    pub async fn on(store: Arc<dyn Store>, source: Arc<dyn ChainSource>) -> Self {
        Self::at(store, source, Arc::new(SystemClock)).await
    }

    /// At the time of a clock.
    pub async fn at(
        store: Arc<dyn Store>,
        source: Arc<dyn ChainSource>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let engine = Engine::builder(store.clone(), shop::master())
            .network("regtest")
            .rates(shop::rates())
            .chain(source)
            .clock(clock)
            .settings(Settings {
                chain_poll_ms: 0,
                ..Settings::default()
            })
            .open()
            .await
            .unwrap();
        let issuer = engine.issuer();
        Self {
            store,
            engine,
            issuer,
        }
    }

    /// A merchant whose sales come to a wallet of the node's seed, on a chain that is watched by the
    /// source at `at`.
    pub async fn with_shop(at: usize) -> (Servers, Self, MerchantId) {
        let servers = servers().await;
        servers.chain.mine(110).unwrap();
        let scene = Self::open(servers.sources[at].1.clone()).await;
        let merchant = scene.merchant().await;
        scene
            .wallet(WalletOwner::Operator, WalletSource::Node)
            .await;
        (servers, scene, merchant)
    }

    pub async fn merchant(&self) -> MerchantId {
        let command = flashkit::settlement::CreateMerchant {
            key: key("merchant"),
            name: "cookshop".to_owned(),
            terms: flashkit::settlement::PayoutTerms::default(),
            category: None,
        };
        let settlement = self.engine.settlement();
        settlement
            .create(&self.issuer, command)
            .await
            .unwrap()
            .value
            .id
    }

    pub async fn wallet(&self, owner: WalletOwner, source: WalletSource) -> Wallet {
        let name: String = format!("wallet-{source:?}").replace(' ', "_");
        let command = AddWallet {
            key: key(&name.chars().take(60).collect::<String>()),
            owner,
            name: "till".to_owned(),
            source,
            used_addresses: 0,
            birthday_height: None,
        };
        let added = self.engine.wallets().add(&self.issuer, command).await;
        added.unwrap().value
    }

    pub async fn address(&self, wallet: WalletId, name: &str) -> WalletAddress {
        let command = NewAddress {
            key: key(name),
            wallet,
            label: name.to_owned(),
        };
        let wallets = self.engine.wallets();
        wallets
            .new_address(&self.issuer, command)
            .await
            .unwrap()
            .value
    }

    pub async fn look(&self) {
        while !self
            .engine
            .wallets()
            .look_now(&self.issuer)
            .await
            .unwrap()
            .is_complete
        {}
    }

    pub async fn coins(&self, wallet: WalletId) -> Vec<Coin> {
        let wallets = self.engine.wallets();
        wallets
            .coins(&self.issuer, wallet, None, 100)
            .await
            .unwrap()
            .value
    }

    /// The kinds of a wallet's events after a position, and where they end.
    pub async fn told(&self, after: i64) -> (Vec<String>, i64) {
        let events = self.store.events(after, 1_000).await.unwrap();
        let end = events.last().map_or(after, |event| event.position);
        let kinds = events.into_iter().map(|event| event.kind);
        (
            kinds.filter(|kind| kind.starts_with("wallet.")).collect(),
            end,
        )
    }
}

/// A signer with its keys in software, where a hardware wallet would be.
pub struct Signer {
    master: Xpriv,
}

impl Signer {
    pub fn new(number: u8) -> Self {
        let master = Xpriv::new_master(Network::Regtest, &[number; 32]).unwrap();
        Self { master }
    }

    /// What it shows to whoever wants to watch: an account's public key with its origin.
    pub fn account(&self, path: &str) -> String {
        let secp = Secp256k1::new();
        let steps: DerivationPath = path.parse().unwrap();
        let account = self.master.derive_priv(&secp, &steps).unwrap();
        let xpub = Xpub::from_priv(&secp, &account);
        format!("[{}/{path}]{xpub}", self.master.fingerprint(&secp))
    }

    pub fn private_account(&self) -> String {
        self.master.to_string()
    }

    pub fn xpub(&self, script: XpubKind) -> WalletSource {
        let purpose = match script {
            XpubKind::Legacy => 44,
            XpubKind::NestedSegwit => 49,
            XpubKind::SegwitV0 => 84,
            XpubKind::Taproot => 86,
        };
        WalletSource::Xpub {
            xpub: self.account(&format!("{purpose}'/1'/0'")),
            script: Some(script),
        }
    }

    pub fn sign(&self, psbt: &str) -> String {
        let mut psbt: Psbt = psbt.parse().unwrap();
        psbt.sign(&self.master, &Secp256k1::new()).unwrap();
        psbt.to_string()
    }
}
