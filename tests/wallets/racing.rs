//! What happens while a round looks at the chain, and in which order it is told.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flashkit::Engine;
use flashkit::chain::bitcoin::block::Header;
use flashkit::chain::bitcoin::{Amount, BlockHash, Transaction, Txid};
use flashkit::chain::{BlockId, ChainError, ChainSource, FeeRates, MerkleBranch, View, Watch};
use flashkit::invoices::{CreateInvoice, InvoiceOptions, InvoicePurpose, InvoiceState, Rail};
use flashkit::ledger::{Account, Side};
use flashkit::lightning::Bolt11Details;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::ports::SystemClock;
use flashkit::store::MemoryStore;
use flashkit::wallets::{WalletOwner, WalletSource};

use crate::scene::Scene;
use crate::sources::servers;
use crate::support::scripted::ScriptedNode;
use crate::support::{key, shop};

type Meanwhile = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source that reads blocks, so slowly that something happens during its next look.
pub struct Slow {
    source: Arc<dyn ChainSource>,
    meanwhile: Mutex<Option<Meanwhile>>,
    /// How often it says what a transaction has to pay, before it knows no more.
    fees_left: Mutex<usize>,
    /// What that is.
    fast_sat_per_kvb: Mutex<u64>,
    refuses: AtomicBool,
    is_away: AtomicBool,
}

impl Slow {
    pub fn new(source: Arc<dyn ChainSource>) -> Self {
        Self {
            source,
            meanwhile: Mutex::default(),
            fees_left: Mutex::default(),
            fast_sat_per_kvb: Mutex::new(20_000),
            refuses: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
        }
    }

    pub fn say_fees(&self, times: usize) {
        *self.fees_left.lock().unwrap() = times;
    }

    /// Whether it takes no transaction from now on.
    pub fn set_refuses(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Whether it answers nothing from now on.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    fn there(&self) -> Result<&dyn ChainSource, ChainError> {
        if self.is_away.load(Ordering::SeqCst) {
            let reason = "it is away".to_owned();
            return Err(ChainError::Unreachable { reason });
        }
        Ok(&*self.source)
    }

    pub fn set_fast(&self, sat_per_kvb: u64) {
        *self.fast_sat_per_kvb.lock().unwrap() = sat_per_kvb;
    }
}

#[async_trait]
impl ChainSource for Slow {
    fn reads_blocks(&self) -> bool {
        self.source.reads_blocks()
    }

    async fn tip(&self) -> Result<BlockId, ChainError> {
        self.there()?.tip().await
    }

    async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        self.there()?.block_hash(height).await
    }

    async fn header(&self, block: BlockHash) -> Result<Option<Header>, ChainError> {
        self.there()?.header(block).await
    }

    async fn transaction(
        &self,
        txid: Txid,
        block: Option<BlockHash>,
    ) -> Result<Option<Transaction>, ChainError> {
        self.there()?.transaction(txid, block).await
    }

    async fn merkle_branch(
        &self,
        txid: Txid,
        block: BlockId,
    ) -> Result<Option<MerkleBranch>, ChainError> {
        self.there()?.merkle_branch(txid, block).await
    }

    async fn look(&self, watch: &Watch) -> Result<View, ChainError> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        self.there()?.look(watch).await
    }

    async fn broadcast(&self, transaction: &Transaction) -> Result<(), ChainError> {
        if self.refuses.load(Ordering::SeqCst) {
            let reason = "too little".to_owned();
            return Err(ChainError::TransactionRefused { reason });
        }
        self.there()?.broadcast(transaction).await
    }

    async fn fee_rates(&self) -> Result<FeeRates, ChainError> {
        let mut left = self.fees_left.lock().unwrap();
        *left = left.checked_sub(1).ok_or(ChainError::NoFeeRate)?;
        let fast_sat_per_kvb = *self.fast_sat_per_kvb.lock().unwrap();
        Ok(FeeRates {
            fast_sat_per_kvb,
            normal_sat_per_kvb: fast_sat_per_kvb / 2,
            slow_sat_per_kvb: fast_sat_per_kvb / 20,
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_given_out_and_paid_during_a_round_is_seen() {
    // With a reorganisation of what the round began with, and without.
    for reorganised in [false, true] {
        let servers = servers().await;
        let chain = servers.chain.clone();
        chain.mine(110).unwrap();
        let slow = Arc::new(Slow::new(servers.sources[1].1.clone()));
        let scene = Arc::new(Scene::open(slow.clone()).await);
        let merchant = scene.merchant().await;
        scene
            .wallet(WalletOwner::Operator, WalletSource::Node)
            .await;
        let before = scene.invoice("before", merchant, 70_000, 1).await;
        scene.look().await;
        let made = Arc::new(Mutex::new(None));
        let (during, paid) = (scene.clone(), made.clone());
        *slow.meanwhile.lock().unwrap() = Some(Box::pin(async move {
            let invoice = during.invoice("during", merchant, 80_000, 1).await;
            let address = invoice.on_chain.as_ref().unwrap().address.clone();
            let txid = chain.fund(&address, 80_000).unwrap();
            let payment = chain.transaction(&txid).unwrap().unwrap();
            if reorganised {
                // In the place of a block that the round has begun with.
                chain
                    .replace(2, vec![vec![payment], vec![], vec![]])
                    .unwrap();
            } else {
                chain.mine(1).unwrap();
            }
            *paid.lock().unwrap() = Some(invoice.id);
        }));
        // The round that it happens in, which may come to nothing, and the next.
        let round = scene.engine.wallets().look_now(&scene.issuer).await;
        assert!(round.is_ok() || reorganised, "{round:?}");
        scene.look().await;
        let during = made.lock().unwrap().take().unwrap();
        let now = scene.now(during).await;
        assert_eq!(now.state, InvoiceState::Settled, "{reorganised}: {now:#?}");
        let payable = Account::merchant_payable(merchant);
        assert_eq!(scene.posted(payable, Side::Credit).await, 80_000_000);
        assert_eq!(scene.now(before.id).await.state, InvoiceState::New);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reorg_takes_away_is_told_before_what_takes_its_place() {
    for at in 0..3 {
        let (servers, scene, merchant) = Scene::with_shop(at).await;
        let chain = &servers.chain;
        let invoice = scene.invoice("order", merchant, 80_000, 1).await;
        let address = &invoice.on_chain.as_ref().unwrap().address;
        let first = chain.fund(address, 80_000).unwrap();
        let first = chain.transaction(&first).unwrap().unwrap();
        scene.look().await;
        // The same payment at a higher fee, which comes behind the first in the order of names.
        let mut second = first.clone();
        let change = second.output[1].value.to_sat();
        let mut fees = (20..1_000).map(|fee| fee * 1_000);
        while second.compute_txid().to_string() <= first.compute_txid().to_string() {
            let fee = fees.next().unwrap();
            second.output[1].value = Amount::from_sat(change - fee);
        }
        chain.submit(second).unwrap();
        scene.look().await;
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.now(invoice.id).await.state, InvoiceState::Settled);
        // Another block has the first one in its stead.
        chain.replace(1, vec![vec![first], vec![]]).unwrap();
        scene.look().await;
        let now = scene.now(invoice.id).await;
        assert_eq!(now.state, InvoiceState::Settled, "{now:#?}");
        let payable = Account::merchant_payable(merchant);
        assert_eq!(scene.posted(payable, Side::Credit).await, 80_000_000);
        assert_eq!(scene.posted(Account::suspense(), Side::Credit).await, 0);
    }
}

/// Everybody takes the next address of one wallet, and most have to decide again: what the node made
/// for them is used then, and nothing is left at the node that no invoice has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_the_race_for_an_address_asks_the_node_for_no_second_text() {
    const CALLERS: usize = 24;
    let servers = servers().await;
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let node = ScriptedNode::new(SimulatedNetwork::new(clock).node(0));
    let engine = Engine::builder(store.clone(), shop::master())
        .network("regtest")
        .chain(servers.sources[0].1.clone())
        .lightning(Arc::new(node.clone()))
        .open()
        .await
        .unwrap();
    engine.start().await.unwrap();
    let issuer = engine.issuer();
    let scene = Scene {
        store,
        engine,
        issuer,
    };
    let merchant = scene.merchant().await;
    scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let (invoices, issuer) = (scene.engine.invoices(), scene.issuer.clone());
        let command = CreateInvoice {
            key: key(&format!("caller-{number}")),
            purpose: InvoicePurpose::Sale { merchant },
            price: Some(shop::sat(70_000)),
            description: "lunch".to_owned(),
            expiry_seconds: 600,
            options: InvoiceOptions {
                rails: vec![Rail::Lightning, Rail::OnChain],
                ..InvoiceOptions::default()
            },
        };
        callers.spawn(async move { invoices.create(&issuer, command).await.unwrap().value });
    }
    let made = callers.join_all().await;
    let rails = made.iter().map(|it| it.on_chain.as_ref().unwrap());
    let addresses: BTreeSet<_> = rails.map(|rail| &rail.address).collect();
    let hashes: BTreeSet<_> = made.iter().map(|it| it.payment_hash).collect();
    assert_eq!((addresses.len(), hashes.len()), (CALLERS, CALLERS));
    assert_eq!(node.made.load(Ordering::SeqCst), CALLERS);
    for invoice in &made {
        let text: Bolt11Details = invoice.bolt11.parse().unwrap();
        assert_eq!(text.payment_hash, invoice.payment_hash);
        assert_eq!(&scene.now(invoice.id).await, invoice);
    }
    scene.engine.stop().await.unwrap();
}
