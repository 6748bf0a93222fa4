//! An engine on a real node, and the world on another.

use std::path::Path;
use std::sync::Arc;

use flashkit::Engine;
use flashkit::lightning::LightningNode;
use flashkit::lightning::ldk::LdkNode;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::chain::{self, TestChain};
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::CapitalAccount;

use super::shop;

/// Everything of the shop that is real.
pub struct RealShop {
    pub chain: Arc<dyn TestChain>,
    pub engine: Engine,
    /// The books and the node's state.
    pub store: SqliteStore,
    pub node: Arc<LdkNode>,
    pub world: Arc<LdkNode>,
    pub customer: Arc<Wallet>,
}

impl RealShop {
    pub async fn open(folder: &Path) -> Self {
        let chain = chain::from_env().await.unwrap();
        let operator = LocalNode::open(
            &folder.join("books.db"),
            *shop::master().node_entropy(),
            chain.source(),
        )
        .unwrap();
        let world = LocalNode::open(&folder.join("world.db"), [9; 64], chain.source()).unwrap();
        let store = Arc::new(operator.store.clone());
        let engine = shop::engine_on(store, Some(operator.node.clone())).await;
        engine.start().await.unwrap();
        world.node.start().await.unwrap();
        local_network::connect(
            &*chain,
            &operator.node,
            &operator.address,
            &world.node,
            |_| {},
        )
        .await
        .unwrap();
        let customer = Arc::new(Wallet::new(world.node.clone(), None));
        tokio::spawn(customer.clone().run());
        Self {
            chain,
            engine,
            store: operator.store,
            node: operator.node,
            world: world.node,
            customer,
        }
    }

    /// The operator says what it has put in: what its node has before any business.
    pub async fn book_capital(&self) -> (i64, i64) {
        let has = self.node.balances().await.unwrap();
        let (channels, onchain) = (has.channels_msat, has.onchain_msat);
        shop::capital(&self.engine, CapitalAccount::Channels, "channels", channels).await;
        shop::capital(&self.engine, CapitalAccount::Onchain, "onchain", onchain).await;
        (channels, onchain)
    }

    pub async fn stop(self) {
        self.engine.stop().await.unwrap();
        self.world.stop().await.unwrap();
    }
}
