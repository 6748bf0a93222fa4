//! Several instances of the engine on one PostgreSQL: which of them has the node, and what becomes
//! of the books when the server itself is lost.

#[path = "support/postgres/mod.rs"]
#[allow(dead_code, reason = "the proxy and the steps are for another test")]
mod database;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use database::Cluster;
use flashkit::cards::CardLimits;
use flashkit::ledger::Account;
use flashkit::lightning::ldk::LdkNode;
use flashkit::lightning::{Bolt11Details, LightningNode, PaymentHash};
use flashkit::store::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, Store, StoreError};
use flashkit::testkit::chain::{EsploraServer, RegtestChain, TestChain};
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::CapitalAccount;
use support::instance::{Instance, LEASE, node_on, run_if_told, store_on};
use support::shop::{self, HeldCard, SAT, sat};
use support::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Not a test: the body of an instance's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instance_process() {
    run_if_told().await;
}

/// A way to the chain that counts what one instance broadcasts.
struct Road {
    url: String,
    broadcasts: Arc<AtomicUsize>,
}

impl Road {
    async fn to(esplora: &str) -> Self {
        let address = esplora.trim_start_matches("http://").trim_end_matches('/');
        let (address, path) = match address.split_once('/') {
            Some((address, path)) => (address.to_owned(), format!("/{path}")),
            None => (address.to_owned(), String::new()),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        let broadcasts = Arc::<AtomicUsize>::default();
        let counted = broadcasts.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&address).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
                        if bytes[..length].starts_with(b"POST ") {
                            counted.fetch_add(1, Ordering::SeqCst);
                        }
                        if to_server.write_all(&bytes[..length]).await.is_err() {
                            return;
                        }
                    }
                });
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
            }
        });
        Self { url, broadcasts }
    }

    fn broadcasts(&self) -> usize {
        self.broadcasts.load(Ordering::SeqCst)
    }
}

/// Of the instances of which one is paused: so long that no slow disk keeps the other one from
/// renewing it, after which the node would be the first one's again.
const LONG_LEASE: Duration = Duration::from_secs(15);

/// A database, a chain, and whom the merchant is paid by and pays out to.
struct World {
    cluster: Cluster,
    chain: EsploraServer,
    node: Arc<LdkNode>,
    address: String,
    wallet: Arc<Wallet>,
    card: HeldCard,
    _folder: tempfile::TempDir,
}

impl World {
    /// A channel, its capital booked, a merchant with 200,000 sat, a card with 50,000.
    async fn open() -> Option<Self> {
        let cluster = Cluster::start()?;
        let folder = tempfile::tempdir().unwrap();
        let chain = Arc::new(RegtestChain::in_memory()).serve().await.unwrap();
        let file = folder.path().join("world.db");
        let world = LocalNode::open(&file, [9; 64], chain.source()).unwrap();
        world.node.start().await.unwrap();
        let wallet = Arc::new(Wallet::new(world.node.clone(), None));
        tokio::spawn(wallet.clone().run());

        let store = store_on(&cluster.url(cluster.port, "sslmode=disable")).await;
        let (node, address) = node_on(&store, &chain.url(), LEASE);
        let engine = shop::engine_on(Arc::new(store), Some(node.clone())).await;
        engine.start().await.unwrap();
        local_network::connect(&chain, &node, &address, &world.node, |_| {})
            .await
            .unwrap();
        let has = node.balances().await.unwrap();
        let channels = CapitalAccount::Channels;
        shop::capital(&engine, channels, "channels", has.channels_msat).await;
        let onchain = CapitalAccount::Onchain;
        shop::capital(&engine, onchain, "onchain", has.onchain_msat).await;
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let sale = shop::sale(&engine, &merchant, "first", sat(200_000)).await;
        wallet.pay(&sale.bolt11).await.unwrap();
        shop::settled(&engine, &sale).await;
        let card = shop::card(&engine, shop::UID, CardLimits::default()).await;
        shop::top_up(&engine, &wallet, &card, "top-up", sat(50_000)).await;
        engine.stop().await.unwrap();
        Some(Self {
            cluster,
            chain,
            node: world.node,
            address: world.address,
            wallet,
            card,
            _folder: folder,
        })
    }

    fn instance(&self, esplora: &str, lease: Duration) -> Instance {
        let database = self.cluster.url(self.cluster.port, "sslmode=disable");
        Instance::start_with(&database, Some(esplora), lease)
    }

    /// Connects an instance's node with the world's.
    fn connect(&self, instance: &mut Instance) {
        let order = format!("connect {} {}", self.node.node_id(), self.address);
        instance.until(&order, "connected");
    }

    /// The first instance, which has the node, and a second one that would have it.
    async fn two_instances(&self, lease: Duration) -> [(Instance, Road); 2] {
        let roads = [
            Road::to(&self.chain.url()).await,
            Road::to(&self.chain.url()).await,
        ];
        let [first_road, second_road] = roads;
        let begun = Instant::now();
        let mut first = self.instance(&first_road.url, lease);
        assert_eq!(first.ask("status"), "Running");
        println!(
            "given back: the next instance has the node after {:?}",
            begun.elapsed()
        );
        self.connect(&mut first);
        let mut second = self.instance(&second_road.url, lease);
        assert_eq!(second.ask("status"), "Standby");
        assert_eq!(second.ask("balances"), "lightning.not_running");
        [(first, first_road), (second, second_road)]
    }

    /// Asks `instance` for a payout of `sats`, which it queues.
    async fn queue(&self, instance: &mut Instance, name: &str, sats: i64) -> QueuedPayout {
        let bolt11 = self.wallet.invoice(sats * SAT, name).await.unwrap();
        let details: Bolt11Details = bolt11.parse().unwrap();
        let answer = instance.ask(&format!("payout {name} {bolt11}"));
        let (id, state) = answer.split_once(' ').unwrap();
        assert_eq!(state, "Sending");
        QueuedPayout {
            id: id.to_owned(),
            hash: details.payment_hash,
            amount_msat: sats * SAT,
        }
    }

    /// The payout arrives, once, and whoever is asked knows.
    async fn arrives(&self, instance: &mut Instance, payout: &QueuedPayout) {
        let QueuedPayout {
            id,
            hash,
            amount_msat,
        } = payout;
        instance.until(&format!("paid-out {id}"), "PaidOut");
        // Whoever pays knows it by the secret: the other side's own record comes a moment later.
        until("it is with the wallet", async || {
            self.wallet.received_msat(*hash) == *amount_msat
        })
        .await;
    }

    fn charge(&mut self, instance: &mut Instance, name: &str) {
        let tap = self.card.chip.tap();
        let charged = instance.ask(&format!("charge {name} {tap}"));
        assert_eq!(charged, (1_000 * SAT).to_string());
    }

    async fn epoch(&self) -> i64 {
        let raw = self.cluster.raw().await;
        let epoch = "SELECT value FROM flashkit.settings WHERE name = 'node_epoch'";
        raw.query_one(epoch, &[]).await.unwrap().get(0)
    }
}

struct QueuedPayout {
    id: String,
    hash: PaymentHash,
    amount_msat: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_instance_takes_the_node_over_when_its_holder_is_killed() {
    let Some(mut world) = World::open().await else {
        return;
    };
    let [(first, _), (mut second, _)] = world.two_instances(LEASE).await;
    // One that has no node answers what stays in the books; what it queues, the holder sends.
    world.charge(&mut second, "charge-1");
    let payout = world.queue(&mut second, "payout-1", 10_000).await;
    world.arrives(&mut second, &payout).await;
    // Nothing of the node is half written.
    tokio::time::sleep(Duration::from_millis(1_500)).await;

    first.kill();
    world.charge(&mut second, "charge-2");
    let payout = world.queue(&mut second, "payout-2", 20_000).await;
    assert_ne!(second.ask(&format!("paid-out {}", payout.id)), "PaidOut");
    let waited = second.until("status", "Running");
    println!("taken over {waited:?} after the holder was killed, with a lease of {LEASE:?}");
    world.connect(&mut second);
    world.arrives(&mut second, &payout).await;
    second.until("agrees", "true");
    second.stop();
    world.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_paused_writes_and_broadcasts_nothing_more() {
    let Some(mut world) = World::open().await else {
        return;
    };
    let [(mut first, road), (mut second, second_road)] = world.two_instances(LONG_LEASE).await;
    let epoch = world.epoch().await;
    let written = format!("write {epoch}");
    assert_eq!(first.ask(&written), "written");
    tokio::time::sleep(Duration::from_millis(1_500)).await;

    first.pause();
    let broadcasts = road.broadcasts();
    world.charge(&mut second, "charge-1");
    let payout = world.queue(&mut second, "payout-1", 10_000).await;
    let waited = second.until("status", "Running");
    println!("taken over {waited:?} after the holder was paused, with a lease of {LONG_LEASE:?}");
    world.connect(&mut second);
    world.arrives(&mut second, &payout).await;
    // New blocks, so that a node which went on would have something to do.
    world.chain.mine(6).await.unwrap();

    first.resume();
    assert_eq!(first.ask("balances"), "lightning.not_running");
    assert_eq!(first.ask(&written), "store.fenced");
    first.until("status", "Standby");
    assert_eq!(first.ask("fenced"), "store.lease_ran_out");
    // It is an instance like any other now: what it queues, the other one sends.
    world.charge(&mut first, "charge-2");
    let payout = world.queue(&mut first, "payout-2", 20_000).await;
    world.arrives(&mut first, &payout).await;
    // Longer than a node waits before it looks at the chain again.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(road.broadcasts(), broadcasts, "it broadcast");
    assert_eq!(world.epoch().await, epoch + 1);
    second.until("agrees", "true");

    // And the node comes back to it when the other one stops.
    println!("broadcasts of the other one: {}", second_road.broadcasts());
    second.stop();
    let waited = first.until("status", "Running");
    println!("given back: it has the node after {waited:?}");
    world.connect(&mut first);
    first.until("agrees", "true");
    first.stop();
    world.node.stop().await.unwrap();
}

/// A payment of the holder is on its way when it is paused, and times out meanwhile. Whoever has
/// the node closes the channel by force; the old holder, which would do the same, does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_paused_closes_no_channel() {
    let Some(world) = World::open().await else {
        return;
    };
    let [(mut first, road), (mut second, second_road)] = world.two_instances(LONG_LEASE).await;
    world.wallet.hold(true);
    let payout = world.queue(&mut first, "payout-1", 10_000).await;
    let wallet = &world.wallet;
    until("it is on its way", async || wallet.is_holding()).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    first.pause();
    second.until("status", "Running");
    world.connect(&mut second);
    let epoch = world.epoch().await;
    // Nobody is left who could give the payment back.
    world.node.stop().await.unwrap();
    for _ in 0..12 {
        world.chain.mine(100).await.unwrap();
    }
    first.resume();
    let begun = Instant::now();
    while second_road.broadcasts() == 0 {
        // Had it lost its lease, the old one would be the holder again, and lawfully close it.
        assert_eq!(world.epoch().await, epoch);
        assert!(begun.elapsed() < Duration::from_secs(60), "it never closed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Longer than a node waits before it looks at the chain again.
    tokio::time::sleep(Duration::from_secs(12)).await;
    println!(
        "broadcasts of the old holder: {}, of the new one: {}",
        road.broadcasts(),
        second_road.broadcasts()
    );
    assert_eq!(world.epoch().await, epoch);
    assert_eq!(first.ask("status"), "Standby");
    assert_eq!(road.broadcasts(), 0);
    let asked = format!("paid-out {}", payout.id);
    assert_ne!(second.ask(&asked), "PaidOut");
    first.stop();
    second.stop();
}

/// Milliseconds since the epoch.
fn now_ms() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_millis()
}

/// The times at which an instance was answered, up to where `is_last` says so.
fn acknowledged(instance: &Instance, mut is_last: impl FnMut(u128) -> bool) -> Vec<u128> {
    let mut times = Vec::new();
    loop {
        let answer = instance.answer();
        let time = answer.strip_prefix("acknowledged ").unwrap();
        times.push(time.parse().unwrap());
        if times.last().copied().is_some_and(&mut is_last) {
            return times;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_has_every_commit_that_was_answered() {
    let Some(primary) = Cluster::start() else {
        return;
    };
    let standby = primary.standby();
    primary.wait_for_standby().await;
    let database = primary.url_with(&standby);
    let mut instances = [
        Instance::start(&database, None),
        Instance::start(&database, None),
    ];
    for (instance, name) in instances.iter_mut().zip(["first", "second"]) {
        instance.order(&format!("load {name}"));
    }
    // Until each of them commits, however slow the disks are.
    let began: [usize; 2] = instances.each_ref().map(|instance| {
        let mut count = 0;
        acknowledged(instance, |_| {
            count += 1;
            count == 20
        })
        .len()
    });
    let killed_ms = now_ms();
    primary.crash();
    standby.promote();
    let promoted_ms = now_ms();
    let mut counted = Vec::new();
    for (instance, began) in instances.iter_mut().zip(began) {
        let times = acknowledged(instance, |time| time > promoted_ms + 1_000);
        let before = began + times.iter().filter(|time| **time < killed_ms).count();
        let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
        let pause_ms = pauses.max().unwrap();
        println!(
            "{before} commits before, {} after; promoted in {} ms, the load stood still for \
             {pause_ms} ms",
            began + times.len() - before,
            promoted_ms - killed_ms,
        );
        assert!(pause_ms < 10_000);
        instance.order("halt");
        let mut answer = instance.answer();
        while answer.starts_with("acknowledged ") {
            answer = instance.answer();
        }
        let count = answer.strip_prefix("halted ").unwrap();
        counted.push(count.parse::<i64>().unwrap());
    }
    // Every key was answered in the end, and each is one msat.
    let store = store_on(&database).await;
    let booked = store.balance(&Account::node_onchain()).await.unwrap();
    assert_eq!(
        booked.debits_posted,
        i128::from(counted.iter().sum::<i64>())
    );
    let engine = shop::engine_on(Arc::new(store), None).await;
    support::books::expect_sound(&engine, "after the promotion").await;
    for instance in instances {
        instance.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_is_locked_on_a_standby_that_may_lack_something() {
    let Some(primary) = Cluster::start() else {
        return;
    };
    let chain = Arc::new(RegtestChain::in_memory()).serve().await.unwrap();
    let standby = primary.standby();
    let database = primary.url_with(&standby);
    let store = store_on(&database).await;
    let put = |value: u8| KeyValueWrite::Put {
        path: KeyPath {
            primary: "monitors".to_owned(),
            secondary: String::new(),
            key: "channel".to_owned(),
        },
        value: vec![value],
    };
    let holder = NodeHolder(1);
    let epoch = store.take_lease(holder, LEASE).await.unwrap();
    store.write(epoch, put(1)).await.unwrap();
    primary.standby_has_all().await;
    standby.stop();
    // What the standby never sees.
    store.write(epoch, put(2)).await.unwrap();
    let engine = shop::engine_on(Arc::new(store.clone()), None).await;
    let onchain = CapitalAccount::Onchain;
    shop::capital(&engine, onchain, "lost", 1).await;
    primary.crash();
    standby.go_on();
    standby.promote();

    // A node that still runs may not go on, and none may begin.
    let stale = StoreError::StaleNodeState {
        found: 1,
        expected: None,
    };
    assert_eq!(store.write(epoch, put(3)).await, Err(stale.clone()));
    let renewed = store.renew_lease(epoch, LEASE).await;
    assert_eq!(renewed, Err(stale.clone()));
    let taken = store.take_lease(holder, LEASE).await;
    assert_eq!(taken, Err(stale));
    let (node, _) = node_on(&store, &chain.url(), LEASE);
    let locked = shop::engine_on(Arc::new(store.clone()), Some(node)).await;
    let started = locked.start().await.unwrap_err();
    assert_eq!(started.code(), "lightning.stale_state");
    // The books go on.
    shop::capital(&engine, onchain, "after", 5).await;
    let booked = store.balance(&Account::node_onchain()).await.unwrap();
    assert_eq!(booked.debits_posted, 5);
    store.trust_node_state().await.unwrap();
    store.take_lease(holder, LEASE).await.unwrap();
}
