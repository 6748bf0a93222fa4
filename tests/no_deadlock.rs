//! One worker thread and a writer that never rests: the node and the store do not wait for each
//! other, and every payment comes through.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::Engine;
use flashkit::invoices::InvoiceState;
use flashkit::ledger::Account;
use flashkit::ports::SystemClock;
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::wallet::Wallet;
use support::books::expect_sound;
use support::deadline::Deadline;
use support::load::Load;
use support::shop::{self, Merchant, SAT, sat};
#[cfg(feature = "ldk")]
use support::until;

const LIMIT: Duration = Duration::from_secs(600);
const LOAD_TASKS: u64 = 200;

/// Sells `sales` times, all at once, while the load runs; then every account is what it must be.
async fn sell_under_load(
    engine: &Engine,
    store: Arc<dyn Store>,
    customer: &Arc<Wallet>,
    sales: usize,
) {
    let deadline = Arc::new(Deadline::after(LIMIT));
    let merchant = Arc::new(shop::merchant(engine, "Cookshop").await);
    let capital_before = balance(engine, Account::operator_capital()).await;
    let load = Load::on(&store, LOAD_TASKS);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..sales)
        .map(|number| {
            let (engine, merchant) = (engine.clone(), merchant.clone());
            let (customer, deadline) = (customer.clone(), deadline.clone());
            tokio::spawn(
                async move { sell(&engine, &merchant, &customer, &deadline, number).await },
            )
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let took = begun.elapsed();
    deadline.at("the load", "ending");
    let commits = load.end().await;
    deadline.done("the load");
    println!("{sales} sales in {took:?}, beside {commits} commits of the load");
    // Each of the load's tasks stood in the queue all the time, and came through many times.
    assert!(commits > 10 * LOAD_TASKS, "the writer rested: {commits}");

    let payable = balance(engine, Account::merchant_payable(merchant.id)).await;
    assert_eq!(
        payable,
        i128::try_from(sales).unwrap() * 1_000 * i128::from(SAT)
    );
    let capital = balance(engine, Account::operator_capital()).await;
    assert_eq!(capital - capital_before, Load::moved(commits));
    expect_sound(engine, "after the load").await;
}

/// One sale from the invoice to the books.
async fn sell(
    engine: &Engine,
    merchant: &Merchant,
    customer: &Wallet,
    deadline: &Deadline,
    number: usize,
) {
    let name = format!("sale {number}");
    deadline.at(&name, "making the invoice");
    let invoice = shop::sale(engine, merchant, &format!("sale-{number}"), sat(1_000)).await;
    deadline.at(&name, "paying");
    customer.pay(&invoice.bolt11).await.unwrap();
    deadline.at(&name, "being booked");
    loop {
        let found = engine.invoices().get(&merchant.till, invoice.id).await;
        if found.unwrap().state == InvoiceState::Settled {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    deadline.done(&name);
}

async fn balance(engine: &Engine, account: Account) -> i128 {
    let issuer = engine.issuer();
    let books = engine.reports().trial_balance(&issuer).await.unwrap();
    let line = books.lines.iter().find(|line| line.account == account);
    line.map_or(0, |line| line.balance)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_hundred_payments_on_a_simulated_node() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(file, Arc::new(SystemClock)).unwrap());
    let shop = shop::simulated(store.clone()).await;
    sell_under_load(&shop.engine, store, &shop.customer, 200).await;
    shop.engine.stop().await.unwrap();
}

/// The node keeps its state in the store that the load saturates.
#[cfg(feature = "ldk")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn twenty_payments_on_a_real_node() {
    use support::books::node_agrees;
    use support::real::RealShop;

    let folder = tempfile::tempdir().unwrap();
    let shop = RealShop::open(folder.path()).await;
    shop.book_capital().await;
    let store: Arc<dyn Store> = Arc::new(shop.store.clone());
    sell_under_load(&shop.engine, store, &shop.customer, 20).await;
    until("the node has what the books say", || {
        node_agrees(&shop.engine)
    })
    .await;
    shop.stop().await;
}

/// The host has one thread, and ldk-node writes down how far it has seen the chain, under a lock. What
/// it has to tell waits for that; the host, whose thread the write may need, does not.
#[cfg(feature = "ldk")]
#[tokio::test]
async fn the_host_goes_on_while_an_event_waits_for_a_write() {
    use flashkit::lightning::ldk::LdkNode;
    use flashkit::lightning::{InvoiceRequest, LightningEvent, LightningNode, Preimage};
    use flashkit::testkit::chain::{RegtestChain, TestChain};
    use flashkit::testkit::faulty_store::FaultyKeyValue;
    use flashkit::testkit::local_network::{self, LocalNode};

    let folder = tempfile::tempdir().unwrap();
    let chain = Arc::new(RegtestChain::in_memory()).serve().await.unwrap();
    let world = LocalNode::open(&folder.path().join("world.db"), [9; 64], chain.source()).unwrap();
    world.node.start().await.unwrap();
    let address = local_network::free_address().unwrap();
    let config = local_network::config([7; 64], chain.source(), &address);
    let state = FaultyKeyValue::new();
    let runtime = tokio::runtime::Handle::current();
    let clock = Arc::new(SystemClock);
    let node = LdkNode::new(config, Arc::new(state.clone()), clock, runtime).unwrap();
    node.start().await.unwrap();
    local_network::connect(&chain, &node, &address, &world.node, |_| {})
        .await
        .unwrap();
    let customer = Arc::new(Wallet::new(world.node.clone(), None));
    tokio::spawn(customer.clone().run());
    let request = InvoiceRequest {
        payment_hash: Preimage::new([3; 32]).payment_hash(),
        amount_msat: Some(5_000),
        description: "coffee".to_owned(),
        description_hash: None,
        expiry_seconds: 3_600,
    };
    let bolt11 = node.create_invoice(request).await.unwrap();
    customer.send(&bolt11).await.unwrap();
    let first = loop {
        match node.next_event().await.unwrap() {
            event @ LightningEvent::Claimable { .. } => break event,
            _ => node.acknowledge().await.unwrap(),
        }
    };

    let synced = state.applied().len();
    state.hold_answers();
    let is_held = async || {
        let applied = state.applied();
        applied[synced..]
            .iter()
            .any(|path| path.key == "node_metrics")
    };
    until("a sync is being written down", is_held).await;
    // Should the host's thread stand still, somebody else ends that.
    let (ends, held) = (Duration::from_secs(20), state.clone());
    std::thread::spawn(move || {
        std::thread::sleep(ends);
        held.release();
    });
    let waited = tokio::time::timeout(Duration::from_millis(500), node.next_event()).await;
    assert!(
        waited.is_err(),
        "it needed nothing that is being written, or kept the thread"
    );
    state.release();
    assert_eq!(node.next_event().await.unwrap(), first);
    node.stop().await.unwrap();
    world.node.stop().await.unwrap();
}
