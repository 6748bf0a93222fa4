//! What it costs to make a Lightning invoice through flashkit, against ldk-node alone with the
//! store that it brings along; and how long a payment takes that is decided on before it is claimed,
//! against one that ldk-node claims by itself.
//!
//! All of it on real nodes over the chain in this process, in slices of one run that take turns:
//! ratios of two slices of the same turn, and of all turns the median with its spread. Afterwards
//! the books and the nodes' records are checked; the exit code says whether they are right, never
//! how fast it was.
//!
//! `cargo bench --features testkit --bench invoice_creation` takes a minute; `-- --quick` a few
//! seconds.

#[path = "support/transfers.rs"]
mod transfers;

use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::access::Credential;
use flashkit::ids::MerchantId;
use flashkit::invoices::{CreateInvoice, InvoiceFilter, InvoiceOptions, InvoicePurpose, Rail};
use flashkit::ledger::{Account, Side};
use flashkit::lightning::ldk::LdkNode;
use flashkit::lightning::{InvoiceRequest, LightningNode, Preimage};
use flashkit::money::Price;
use flashkit::settlement::{CreateMerchant, PayoutTerms};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{KeyValue, Store};
use flashkit::testkit::chain::{ChainEndpoint, TestChain, from_env};
use flashkit::testkit::local_network::{self, LocalNode, RESERVE_SATS, free_address};
use flashkit::testkit::wallet::Wallet;
use flashkit::{Engine, IdempotencyKey, MasterSecret};
use ldk_node::bitcoin::Network;
use ldk_node::config::EsploraSyncConfig;
use ldk_node::lightning::io;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::lightning::util::persist::{KVStore, KVStoreSync};
use ldk_node::lightning_invoice::{Bolt11InvoiceDescription, Description};
use ldk_node::payment::{PaymentDirection, PaymentStatus};
use ldk_node::{Builder, Node};
use tokio::task::{JoinSet, block_in_place};
use transfers::{Done, numbered, spread};

/// How many ask at the same time.
const CALLERS: usize = 32;
const AMOUNT_MSAT: i64 = 20_000;
const EXPIRY_SECONDS: u32 = 3_600;

#[derive(Clone, Copy)]
struct Size {
    /// Turns of every contender.
    turns: usize,
    /// Invoices that each caller asks for in a turn, one after the other.
    each: usize,
    payments: usize,
}

const WHOLE: Size = Size {
    turns: 15,
    each: 8,
    payments: 40,
};
const QUICK: Size = Size {
    turns: 3,
    each: 4,
    payments: 5,
};

const CONTENDERS: [&str; 6] = [
    "ldk-node alone, its default store",
    "ldk-node alone, nothing kept: signing",
    "our node: signing and its record",
    "our room for it: what the channels take",
    "our decision and our commit",
    "a Lightning invoice through flashkit",
];
const BARE: usize = 0;
const SIGNING: usize = 1;
const RECORD: usize = 2;
const ROOM: usize = 3;
const COMMIT: usize = 4;
const WHOLE_OF_IT: usize = 5;

/// Keeps nothing: what is left of ldk-node's work is the invoice itself.
struct Nothing;

impl KVStoreSync for Nothing {
    fn read(&self, _: &str, _: &str, _: &str) -> Result<Vec<u8>, io::Error> {
        Err(io::Error::new(io::ErrorKind::NotFound, "nothing is kept"))
    }

    fn write(&self, _: &str, _: &str, _: &str, _: Vec<u8>) -> Result<(), io::Error> {
        Ok(())
    }

    fn remove(&self, _: &str, _: &str, _: &str, _: bool) -> Result<(), io::Error> {
        Ok(())
    }

    fn list(&self, _: &str, _: &str) -> Result<Vec<String>, io::Error> {
        Ok(Vec::new())
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, io::Error>> + Send + 'static>>;

impl KVStore for Nothing {
    fn read(&self, _: &str, _: &str, _: &str) -> Answer<Vec<u8>> {
        let missing = io::Error::new(io::ErrorKind::NotFound, "nothing is kept");
        Box::pin(std::future::ready(Err(missing)))
    }

    fn write(&self, _: &str, _: &str, _: &str, _: Vec<u8>) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove(&self, _: &str, _: &str, _: &str, _: bool) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn list(&self, _: &str, _: &str) -> Answer<Vec<String>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

/// ldk-node as it comes.
fn builder(chain: &dyn TestChain, folder: &Path, address: &str) -> Done<Builder> {
    let mut builder = Builder::new();
    builder.set_network(Network::Regtest);
    builder.set_storage_dir_path(folder.display().to_string());
    // The log goes where ours goes: nowhere.
    builder.set_log_facade_logger();
    builder.set_listening_addresses(vec![
        SocketAddress::from_str(address).map_err(|error| format!("{error:?}"))?,
    ])?;
    match chain.source() {
        ChainEndpoint::Esplora { url } => {
            let config = EsploraSyncConfig {
                background_sync_config: None,
            };
            builder.set_chain_source_esplora(url, Some(config));
        }
        ChainEndpoint::BitcoindRpc {
            host,
            port,
            user,
            password,
        } => {
            builder.set_chain_source_bitcoind_rpc(host, port, user, password);
        }
    }
    Ok(builder)
}

/// All that takes part.
struct Field {
    engine: Engine,
    store: SqliteStore,
    node: Arc<LdkNode>,
    merchant: MerchantId,
    world: Arc<LdkNode>,
    customer: Arc<Wallet>,
    bare: Arc<Node>,
    signer: Arc<Node>,
    issuer: Credential,
    /// How many invoices and preimages were asked for, so that each gets a number of its own.
    asked: u64,
    /// Records of what was there before: coins that arrived.
    records_before: usize,
}

fn key(text: String) -> Done<IdempotencyKey> {
    Ok(text.parse()?)
}

fn receive(node: &Node) -> Done<String> {
    let text = Description::new("patty and coco bread".to_owned());
    let text = Bolt11InvoiceDescription::Direct(text.map_err(|error| format!("{error:?}"))?);
    let amount_msat = AMOUNT_MSAT.unsigned_abs();
    let invoice = node
        .bolt11_payment()
        .receive(amount_msat, &text, EXPIRY_SECONDS)?;
    Ok(invoice.to_string())
}

impl Field {
    async fn open(folder: &Path) -> Done<Self> {
        let chain = from_env().await?;
        let master = MasterSecret::new([7; 32]);
        let seed = *master.node_entropy();
        let operator = LocalNode::open(&folder.join("books.db"), seed, chain.source())?;
        let world = LocalNode::open(&folder.join("world.db"), [9; 64], chain.source())?;
        let store = operator.store.clone();
        let engine = Engine::builder(Arc::new(store.clone()), master).network("regtest");
        let engine = engine.lightning(operator.node.clone()).open().await?;
        engine.start().await?;
        world.node.start().await?;
        let (node, world) = (operator.node, world.node);
        local_network::connect(&*chain, &node, &operator.address, &world, |_| {}).await?;
        let bare = Arc::new(bare(&*chain, &folder.join("bare"), &world).await?);
        let nowhere = builder(&*chain, &folder.join("signer"), &free_address()?)?;
        let signer = block_in_place(|| nowhere.build_with_store(Arc::new(Nothing)))?;
        let customer = Arc::new(Wallet::new(world.clone(), None));
        tokio::spawn(customer.clone().run());
        let issuer = engine.issuer();
        let create = CreateMerchant {
            key: key("merchant".to_owned())?,
            name: "Cookshop".to_owned(),
            terms: PayoutTerms::default(),
            category: None,
        };
        let merchant = engine.settlement().create(&issuer, create).await?.id;
        let records_before = store.list("payments".to_owned(), String::new()).await?;
        Ok(Self {
            records_before: records_before.len(),
            engine,
            store,
            node,
            merchant,
            world,
            customer,
            bare,
            signer: Arc::new(signer),
            issuer,
            asked: 0,
        })
    }

    fn command(&mut self, rails: Vec<Rail>) -> Done<CreateInvoice> {
        self.asked += 1;
        Ok(CreateInvoice {
            key: key(format!("invoice/{:012}", self.asked))?,
            purpose: InvoicePurpose::Sale {
                merchant: self.merchant,
            },
            price: Some(Price::Bitcoin {
                amount_msat: AMOUNT_MSAT,
            }),
            description: "patty and coco bread".to_owned(),
            expiry_seconds: EXPIRY_SECONDS,
            options: InvoiceOptions {
                rails,
                ..InvoiceOptions::default()
            },
        })
    }

    fn request(&mut self) -> InvoiceRequest {
        self.asked += 1;
        let mut preimage = [3; 32];
        preimage[..10].copy_from_slice(&numbered(self.asked));
        InvoiceRequest {
            payment_hash: Preimage::new(preimage).payment_hash(),
            amount_msat: Some(AMOUNT_MSAT),
            description: "patty and coco bread".to_owned(),
            description_hash: None,
            expiry_seconds: EXPIRY_SECONDS,
        }
    }

    /// The work of one caller in one turn.
    fn work(&mut self, contender: usize, each: usize) -> Done<BoxedWork> {
        match contender {
            BARE | SIGNING => {
                let node = [&self.bare, &self.signer][contender].clone();
                Ok(Box::pin(async move {
                    let all = move || (0..each).try_for_each(|_| receive(&node).map(drop));
                    tokio::task::spawn_blocking(all).await?
                }))
            }
            RECORD => {
                let node = self.node.clone();
                let requests: Vec<_> = (0..each).map(|_| self.request()).collect();
                Ok(Box::pin(async move {
                    for request in requests {
                        node.create_invoice(request).await?;
                    }
                    Ok(())
                }))
            }
            ROOM => {
                let node = self.node.clone();
                Ok(Box::pin(async move {
                    for _ in 0..each {
                        node.inbound_capacity_msat().await?;
                    }
                    Ok(())
                }))
            }
            _ => {
                let rail = if contender == COMMIT {
                    Rail::Book
                } else {
                    Rail::Lightning
                };
                let commands: Done<Vec<_>> = (0..each).map(|_| self.command(vec![rail])).collect();
                let (commands, issuer) = (commands?, self.issuer.clone());
                let invoices = self.engine.invoices();
                Ok(Box::pin(async move {
                    for command in commands {
                        invoices.create(&issuer, command).await?;
                    }
                    Ok(())
                }))
            }
        }
    }

    /// So many callers at once: milliseconds for each invoice.
    async fn slice(&mut self, contender: usize, callers: usize, each: usize) -> Done<f64> {
        let works: Done<Vec<_>> = (0..callers).map(|_| self.work(contender, each)).collect();
        let begun = Instant::now();
        let mut running = JoinSet::new();
        for work in works? {
            running.spawn(work);
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(begun.elapsed().as_secs_f64() * 1_000.0 / (callers * each) as f64)
    }

    async fn creation(&mut self, size: Size) -> Done {
        let each = size.each;
        let mut times = CONTENDERS.map(|_| Vec::new());
        for _ in 0..size.turns {
            for (contender, times) in times.iter_mut().enumerate() {
                times.push(self.slice(contender, CALLERS, each).await?);
            }
        }
        println!(
            "{CALLERS} callers at once, {each} invoices each, {} turns:",
            size.turns
        );
        for (name, times) in CONTENDERS.iter().zip(&times) {
            let (median, low, high) = spread(times.clone());
            println!("  {name:42} {median:.3} ms an invoice ({low:.3} to {high:.3})");
        }
        let pairs = times[BARE].iter().zip(&times[WHOLE_OF_IT]);
        let (median, low, high) = spread(pairs.map(|(bare, ours)| bare / ours).collect());
        println!(
            "  flashkit makes x{median:.2} as many as ldk-node alone ({low:.2} to {high:.2})\n"
        );
        let mut alone = CONTENDERS.map(|_| Vec::new());
        for _ in 0..size.turns {
            for (contender, times) in alone.iter_mut().enumerate() {
                times.push(self.slice(contender, 1, each).await?);
            }
        }
        let [bare, signing, record, room, commit, whole] = alone.map(|times| spread(times).0);
        println!(
            "one caller, {whole:.3} ms an invoice (ldk-node alone {bare:.3}): signing {signing:.3}, \
             the node's record {:.3}, the channels' room {room:.3}, decision and commit {commit:.3}\n",
            record - signing,
        );
        Ok(())
    }

    async fn pay(&self, bolt11: &str) -> Done<f64> {
        let begun = Instant::now();
        let hash = self.customer.send(bolt11).await?;
        self.customer.sent(hash).await?;
        Ok(begun.elapsed().as_secs_f64() * 1_000.0)
    }

    async fn latency(&mut self, payments: usize) -> Done {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..payments {
            let command = self.command(vec![Rail::Lightning])?;
            let invoice = self.engine.invoices().create(&self.issuer, command).await?;
            ours.push(self.pay(&invoice.bolt11).await?);
            let bolt11 = block_in_place(|| receive(&self.bare))?;
            theirs.push(self.pay(&bolt11).await?);
            block_in_place(|| drain(&self.bare))?;
        }
        let pairs = ours.iter().zip(&theirs).map(|(ours, theirs)| ours - theirs);
        let (more, fewest, most) = spread(pairs.collect());
        let [(ours, ..), (theirs, ..)] = [ours, theirs].map(spread);
        println!(
            "{payments} payments in turn, until the payer has the proof: {ours:.1} ms decided on and \
             then claimed, {theirs:.1} ms claimed by ldk-node itself; {more:+.1} ms in the same turn \
             ({fewest:+.1} to {most:+.1})"
        );
        Ok(())
    }

    /// Every invoice is in the books and every record in the store, and what was paid arrived.
    async fn is_whole(&self, made: usize, recorded: usize, payments: usize) -> Done<bool> {
        let (invoices, mut after, mut found) = (self.engine.invoices(), None, 0);
        loop {
            let all = InvoiceFilter::default();
            let page = invoices.search(&self.issuer, &all, after, 1_000).await?;
            found += page.invoices.len();
            after = page.value.next;
            if after.is_none() {
                break;
            }
        }
        let records = self
            .store
            .list("payments".to_owned(), String::new())
            .await?;
        let records = records.len() - self.records_before;
        let account = Account::merchant_payable(self.merchant);
        let mut waited = Duration::ZERO;
        let paid = i128::from(AMOUNT_MSAT) * i128::try_from(payments)?;
        // The last one is booked when the node says so, a little after its payer knows.
        let mut owed = 0;
        while owed != paid && waited < Duration::from_secs(10) {
            owed = self.store.balance(&account).await?.posted(Side::Credit);
            tokio::time::sleep(Duration::from_millis(10)).await;
            waited += Duration::from_millis(10);
        }
        let taken = self.bare.list_payments_with_filter(|payment| {
            payment.direction == PaymentDirection::Inbound
                && payment.status == PaymentStatus::Succeeded
                && payment.amount_msat == Some(AMOUNT_MSAT.unsigned_abs())
        });
        println!(
            "{found} invoices of {made}, {records} records of {recorded}, {owed} msat of {paid} for the \
             merchant, {} payments of {payments} at ldk-node",
            taken.len(),
        );
        Ok(found == made && records == recorded && owed == paid && taken.len() == payments)
    }

    async fn stop(self) -> Done {
        self.engine.stop().await?;
        self.world.stop().await?;
        block_in_place(|| self.bare.stop())?;
        Ok(())
    }
}

type BoxedWork = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What happened is not looked at; it would be kept for ever.
fn drain(node: &Node) -> Done {
    while node.next_event().is_some() {
        node.event_handled()?;
    }
    Ok(())
}

/// ldk-node with its default store and a channel of the world's.
async fn bare(chain: &dyn TestChain, folder: &Path, world: &LdkNode) -> Done<Node> {
    let address = free_address()?;
    let node = builder(chain, folder, &address)?;
    let node = block_in_place(|| -> Done<Node> {
        let node = node.build()?;
        node.start()?;
        Ok(node)
    })?;
    let coins = node.onchain_payment().new_address()?;
    chain.fund(&coins.to_string(), RESERVE_SATS).await?;
    chain.mine(6).await?;
    block_in_place(|| node.sync_wallets())?;
    world.sync().await?;
    let id = node.node_id().to_string();
    world
        .open_channel(&id, &address, 4_000_000, Some(500_000_000))
        .await?;
    for _ in 0..600 {
        if !chain.mempool_txids().await?.is_empty() {
            chain.mine(6).await?;
        }
        block_in_place(|| node.sync_wallets().map_err(|error| error.to_string()))?;
        world.sync().await?;
        let is_usable = node.list_channels().iter().any(|channel| channel.is_usable);
        let channels = world.channels().await?;
        if is_usable && channels.iter().filter(|channel| channel.is_usable).count() == 2 {
            block_in_place(|| drain(&node))?;
            return Ok(node);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the channel of the bare node is not usable".into())
}

async fn run(folder: &Path, size: Size) -> Done<bool> {
    let mut field = Field::open(folder).await?;
    field.creation(size).await?;
    field.latency(size.payments).await?;
    let slices = size.turns * size.each * (CALLERS + 1);
    let made = slices * 2 + size.payments;
    let recorded = slices * 2 + size.payments;
    let is_whole = field.is_whole(made, recorded, size.payments).await?;
    field.stop().await?;
    Ok(is_whole)
}

fn main() -> Done {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let size = if is_quick { QUICK } else { WHOLE };
    // Beside the build: a temporary folder may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    if runtime.block_on(run(folder.path(), size))? {
        Ok(())
    } else {
        Err("something that was made or paid is missing".into())
    }
}
