//! Rounds that overlap, and a server that lags: what an older view has takes nothing away, and a
//! reorganisation does, however short it is.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flashkit::chain::bitcoin::block::Header;
use flashkit::chain::bitcoin::{BlockHash, Transaction, Txid};
use flashkit::chain::{BlockId, ChainError, ChainSource, FeeRates, MerkleBranch, View, Watch};
use flashkit::invoices::{Invoice, InvoiceState};
use flashkit::ledger::{Account, Side};
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};
use flashkit::wallets::{WalletOwner, WalletSource};

use crate::scene::Scene;
use crate::sources::servers;
use crate::support::gated_store::{GatedStore, Pause};

/// A server behind a proxy, whose other half may lag: what that one has seen last.
struct Lagging {
    source: Arc<dyn ChainSource>,
    /// What was answered last.
    last: Mutex<Option<View>>,
    /// What is answered from now on.
    old: Mutex<Option<View>>,
}

impl Lagging {
    fn new(source: Arc<dyn ChainSource>) -> Self {
        Self {
            source,
            last: Mutex::default(),
            old: Mutex::default(),
        }
    }

    /// What was seen last is what is answered until it is set right.
    fn fall_behind(&self) -> View {
        self.last.lock().unwrap().clone().unwrap()
    }

    fn set(&self, old: Option<View>) {
        *self.old.lock().unwrap() = old;
    }

    fn height(&self) -> u32 {
        let old = self.old.lock().unwrap();
        old.as_ref().map_or(u32::MAX, |old| old.tip.height)
    }
}

#[async_trait]
impl ChainSource for Lagging {
    async fn tip(&self) -> Result<BlockId, ChainError> {
        let old = self.old.lock().unwrap().as_ref().map(|old| old.tip);
        match old {
            Some(tip) => Ok(tip),
            None => self.source.tip().await,
        }
    }

    async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        if height > self.height() {
            return Ok(None);
        }
        self.source.block_hash(height).await
    }

    async fn header(&self, block: BlockHash) -> Result<Option<Header>, ChainError> {
        self.source.header(block).await
    }

    async fn transaction(
        &self,
        txid: Txid,
        block: Option<BlockHash>,
    ) -> Result<Option<Transaction>, ChainError> {
        self.source.transaction(txid, block).await
    }

    async fn merkle_branch(
        &self,
        txid: Txid,
        block: BlockId,
    ) -> Result<Option<MerkleBranch>, ChainError> {
        self.source.merkle_branch(txid, block).await
    }

    async fn look(&self, watch: &Watch) -> Result<View, ChainError> {
        let old = self.old.lock().unwrap().clone();
        if let Some(old) = old {
            return Ok(old);
        }
        let view = self.source.look(watch).await?;
        *self.last.lock().unwrap() = Some(view.clone());
        Ok(view)
    }

    async fn broadcast(&self, transaction: &Transaction) -> Result<(), ChainError> {
        self.source.broadcast(transaction).await
    }

    async fn fee_rates(&self) -> Result<FeeRates, ChainError> {
        self.source.fee_rates().await
    }
}

fn address(invoice: &Invoice) -> &str {
    &invoice.on_chain.as_ref().unwrap().address
}

/// Of two instances on one store the first has looked before a block came, and is held up before it
/// tells; the second tells what the block has. What the first has to tell is not told any more,
/// wherever it was held up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_view_has_is_not_told_after_a_newer_one() {
    for (at, held_up_at) in [(0, "invoice"), (1, "invoice"), (2, "wallet_coin")] {
        let servers = servers().await;
        let chain = &servers.chain;
        chain.mine(110).unwrap();
        let source = &servers.sources[at].1;
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let pause = Arc::new(Pause::default());
        let held_up = Arc::new(GatedStore::pausing(memory.clone(), pause.clone()));
        let first = Arc::new(Scene::on(held_up, source.clone()).await);
        let second = Scene::on(memory, source.clone()).await;
        let merchant = second.merchant().await;
        let wallet = second
            .wallet(WalletOwner::Operator, WalletSource::Node)
            .await
            .id;
        let invoice = second.invoice("order", merchant, 80_000, 1).await;
        second.look().await;
        chain.fund(address(&invoice), 80_000).unwrap();
        pause.arm(held_up_at);
        let round = {
            let first = first.clone();
            tokio::spawn(async move { first.engine.wallets().look_now(&first.issuer).await })
        };
        pause.reached().await;
        chain.mine(1).unwrap();
        second.look().await;
        let settled = second.now(invoice.id).await;
        assert_eq!(settled.state, InvoiceState::Settled, "{held_up_at}");
        pause.release();
        assert_eq!(round.await.unwrap().unwrap_err().code(), "chain.moved");
        for scene in [&*first, &second] {
            assert_eq!(scene.now(invoice.id).await, settled, "{held_up_at}");
            assert_eq!(scene.coins(wallet).await[0].confirmations, 1);
            scene.look().await;
        }
        assert_eq!(second.now(invoice.id).await, settled);
        let payable = Account::merchant_payable(merchant);
        assert_eq!(second.posted(payable, Side::Credit).await, 80_000_000);
    }
}

/// A half of a server that lags is not believed when it says that a payment is in no block; a chain
/// that is shorter, and another one, is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lags_takes_nothing_away_and_a_shorter_chain_does() {
    for at in [0, 2] {
        let servers = servers().await;
        let chain = &servers.chain;
        chain.mine(110).unwrap();
        let lagging = Arc::new(Lagging::new(servers.sources[at].1.clone()));
        let scene = Scene::open(lagging.clone()).await;
        let merchant = scene.merchant().await;
        let source = WalletSource::Node;
        scene.wallet(WalletOwner::Operator, source).await;
        let invoice = scene.invoice("order", merchant, 80_000, 1).await;
        let txid = chain.fund(address(&invoice), 80_000).unwrap();
        scene.look().await;
        // It is among those that are known by the next look.
        let mut behind = lagging.fall_behind();
        behind.standing = vec![(txid, None)];
        behind.seen.clear();
        chain.mine(3).unwrap();
        scene.look().await;
        let settled = scene.now(invoice.id).await;
        assert_eq!(settled.state, InvoiceState::Settled);
        lagging.set(Some(behind));
        for _ in 0..2 {
            let round = scene.engine.wallets().look_now(&scene.issuer).await;
            assert_eq!(round.unwrap_err().code(), "chain.moved");
            assert_eq!(scene.now(invoice.id).await, settled);
        }
        lagging.set(None);
        scene.look().await;
        assert_eq!(scene.now(invoice.id).await, settled);
        // Two blocks without it in the place of three.
        chain.replace(3, vec![vec![], vec![]]).unwrap();
        scene.look().await;
        let gone = scene.now(invoice.id).await;
        let found = (gone.state, gone.flags.reorged_msat);
        assert_eq!(found, (InvoiceState::Processing, 80_000_000));
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.now(invoice.id).await.state, InvoiceState::Settled);
    }
}
