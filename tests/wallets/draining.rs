//! All that the node has, to an address of one's own, by one command.

use std::sync::Arc;
use std::time::Duration;

use flashkit::ids::{BatchId, CardId, DrainId, TransferId};
use flashkit::invoices::{CreateInvoice, InvoiceOptions, InvoicePurpose};
use flashkit::ledger::{Account, Batch, NewHold, NewTransfer, Step, TransferKind};
use flashkit::lightning::LightningNode;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::ports::Clock;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::treasury::CapitalAccount;
use flashkit::wallets::{
    ChannelEnd, DrainNode, DrainState, DrainWait, NodeDrain, SpendState, WalletOwner, WalletSource,
};
use flashkit::{Engine, Error, Settings};

use crate::scene::Scene;
use crate::sources::{script, servers};
use crate::spending::fill;
use crate::support::gated_store::GatedStore;
use crate::support::scripted::ScriptedNode;
use crate::support::{books, key, shop};

const NOW_MS: i64 = 1_800_000_000_000;
pub const IN_CHANNELS: i64 = 50_000_000;
pub const ON_CHAIN: i64 = 10_000_000;

/// A node with money in its channel and in its wallet, and what outlives an engine on it.
pub struct World {
    pub clock: Arc<ManualClock>,
    pub store: Arc<dyn Store>,
    pub node: SimulatedNode,
}

impl World {
    pub async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let node = SimulatedNetwork::new(clock.clone()).node(IN_CHANNELS);
        node.fund_onchain(ON_CHAIN);
        node.start().await.unwrap();
        let world = Self { clock, store, node };
        let engine = world.engine().await;
        shop::capital(&engine, CapitalAccount::Channels, "channels", IN_CHANNELS).await;
        shop::capital(&engine, CapitalAccount::Onchain, "onchain", ON_CHAIN).await;
        world
    }

    /// As after a restart: its jobs are done when the test says so.
    pub async fn engine(&self) -> Engine {
        self.engine_on(self.store.clone(), Arc::new(self.node.clone()))
            .await
    }

    async fn engine_on(&self, store: Arc<dyn Store>, node: Arc<dyn LightningNode>) -> Engine {
        let settings = Settings {
            chain_poll_ms: 0,
            job_lease_ms: 0,
            ..Settings::default()
        };
        Engine::builder(Arc::new(GatedStore::outliving(store)), shop::master())
            .network("regtest")
            .clock(self.clock.clone())
            .lightning(node)
            .settings(settings)
            .open()
            .await
            .unwrap()
    }
}

pub fn drain_to(name: &str, address: &str) -> DrainNode {
    DrainNode {
        key: key(name),
        address: address.to_owned(),
        fee_sat_per_kvb: None,
        force: false,
        even_if_owed: false,
    }
}

pub async fn drain(engine: &Engine, command: DrainNode) -> Result<NodeDrain, Error> {
    let (wallets, issuer) = (engine.wallets(), engine.issuer());
    Ok(wallets.drain_node(&issuer, command).await?.value)
}

pub async fn stands(engine: &Engine, id: DrainId) -> NodeDrain {
    let found = engine.wallets().drain(&engine.issuer(), id).await;
    found.unwrap().value
}

/// A round, and a block. All that differs can be explained, however far it is.
pub async fn round(engine: &Engine, node: &SimulatedNode, id: DrainId) -> NodeDrain {
    drop(engine.run_due_jobs().await);
    let audit = engine.reports().audit(&engine.issuer()).await.unwrap();
    assert!(audit.is_balanced && audit.untied.is_empty());
    for control in &audit.controls {
        assert!(control.is_explained(), "{control:?}");
    }
    node.mine();
    stands(engine, id).await
}

/// It ends after a bounded number of rounds.
pub async fn to_the_end(engine: &Engine, node: &SimulatedNode, id: DrainId) -> NodeDrain {
    for _ in 0..20 {
        let now = round(engine, node, id).await;
        if now.state == DrainState::Done {
            return now;
        }
    }
    panic!("it does not end: {:?}", stands(engine, id).await);
}

/// Everything is at the address, what it cost is booked, and nothing is left.
pub async fn all_is_there(world: &World, engine: &Engine, end: &NodeDrain, home: &str) {
    let sent = world.node.sent_onchain();
    assert!(sent.iter().all(|(_, to)| to == home));
    let amount: i64 = sent.iter().map(|(send, _)| send.amount_msat).sum();
    let fees: i64 = sent.iter().map(|(send, _)| send.fee_msat).sum();
    assert_eq!(amount + fees + 1_000_000, IN_CHANNELS + ON_CHAIN);
    assert_eq!((end.sent_msat(), end.fees_msat()), (amount, fees));
    assert_eq!(end.closing_fees_msat, Some(1_000_000));
    books::expect(engine, "all has gone", &[]).await;
    assert!(books::node_agrees(engine).await);
    let capital = Account::operator_capital();
    let rows = world.store.transfers(&capital, None, 100).await.unwrap();
    let of = |kind| {
        let rows = rows.iter().filter(|row| row.kind == kind);
        rows.filter(|row| row.debit == capital)
            .map(|row| row.amount)
            .sum::<i64>()
    };
    assert_eq!(of(TransferKind::ChainFee), fees + 1_000_000);
    assert_eq!(of(TransferKind::Capital), amount);
}

/// Wherever it dies, also between what it did and what it wrote down of it, the next one goes on.
#[tokio::test]
async fn it_ends_the_same_wherever_the_process_dies() {
    let home = script(9).1;
    for commits in 0.. {
        let world = World::new().await;
        let store = Arc::new(GatedStore::dying(world.store.clone(), commits));
        let node = Arc::new(world.node.clone());
        let first = world.engine_on(store.clone(), node).await;
        let begun = drain(&first, drain_to("all", &home)).await;
        for _ in 0..10 {
            drop(first.run_due_jobs().await);
            world.node.mine();
        }
        drop(first);
        let engine = world.engine().await;
        let again = drain(&engine, drain_to("all", &home)).await.unwrap();
        if let Ok(begun) = begun {
            assert_eq!(begun, again);
        }
        let end = to_the_end(&engine, &world.node, again.id).await;
        all_is_there(&world, &engine, &end, &home).await;
        if !store.is_dead() {
            assert!(commits > 8, "{commits} commits are all of it");
            return;
        }
    }
}

#[tokio::test]
async fn its_progress_is_told_and_rails_say_why_they_cannot_be_made() {
    let world = World::new().await;
    let engine = world.engine().await;
    let home = script(9).1;
    world.node.set_peer_away(true);
    let begun = drain(&engine, drain_to("all", &home)).await.unwrap();
    assert_eq!(begun.state, DrainState::Closing);
    let now = round(&engine, &world.node, begun.id).await;
    assert!(now.waits_for.contains(&DrainWait::Channels));
    assert_eq!(now.channels[0].end, ChannelEnd::Open);
    assert_eq!(now.channels[0].refusal.as_deref(), Some("the peer is away"));
    assert_eq!(now.channels[0].ours_msat, IN_CHANNELS);
    // The wallet is last.
    assert_eq!(world.node.sent_onchain(), []);
    world.node.set_peer_away(false);
    drop(engine.run_due_jobs().await);
    let now = stands(&engine, begun.id).await;
    assert!(now.waits_for.contains(&DrainWait::Closings));
    let invoice = async |name: &str| {
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Plain,
            price: Some(shop::sat(10)),
            description: String::new(),
            expiry_seconds: 600,
            options: InvoiceOptions::default(),
        };
        let made = engine.invoices().create(&engine.issuer(), command).await;
        made.map(drop).unwrap_err().code()
    };
    assert_eq!(invoice("during").await, "lightning.draining");
    let end = to_the_end(&engine, &world.node, begun.id).await;
    all_is_there(&world, &engine, &end, &home).await;
    assert_eq!(invoice("after").await, "lightning.no_inbound_capacity");
    let events = world.store.events(0, 1_000).await.unwrap();
    let told = events.iter().map(|event| event.kind.as_str());
    let told: Vec<&str> = told.filter(|kind| kind.starts_with("node.drain")).collect();
    assert_eq!(told.first(), Some(&"node.drain_started"));
    assert_eq!(told.last(), Some(&"node.drain_done"));
    let count = |kind| told.iter().filter(|told| **told == kind).count();
    assert_eq!(
        (count("node.drain_started"), count("node.drain_done")),
        (1, 1)
    );
    let all = engine.wallets().drains(&engine.issuer(), None, 10).await;
    assert_eq!(all.unwrap().value, [end]);
}

#[tokio::test]
async fn two_at_once_are_one_and_another_address_is_refused() {
    let world = World::new().await;
    let engine = world.engine().await;
    let (home, elsewhere) = (script(9).1, script(8).1);
    let (one, same, other) = tokio::join!(
        drain(&engine, drain_to("all", &home)),
        drain(&engine, drain_to("all", &home)),
        drain(&engine, drain_to("all-again", &home)),
    );
    let id = one.unwrap().id;
    assert_eq!((same.unwrap().id, other.unwrap().id), (id, id));
    // One address may be spelled in capitals.
    let capitals = drain(&engine, drain_to("capitals", &home.to_uppercase())).await;
    assert_eq!(capitals.unwrap().id, id);
    let refused = drain(&engine, drain_to("elsewhere", &elsewhere)).await;
    assert_eq!(refused.unwrap_err().code(), "wallet.draining");
    let end = to_the_end(&engine, &world.node, id).await;
    all_is_there(&world, &engine, &end, &home).await;
    // What comes later is another one's.
    world.node.fund_onchain(5_000_000);
    shop::capital(&engine, CapitalAccount::Onchain, "later", 5_000_000).await;
    let later = drain(&engine, drain_to("later", &elsewhere)).await.unwrap();
    assert_ne!(later.id, id);
    let end = to_the_end(&engine, &world.node, later.id).await;
    assert_eq!((end.sent_msat(), end.fees_msat()), (4_000_000, 1_000_000));
    assert_eq!(end.closing_fees_msat, Some(0));
    books::expect(&engine, "that as well", &[]).await;
}

/// With force a channel whose peer is away is closed alone; without it, it waits for the peer.
#[tokio::test]
async fn force_is_used_only_where_it_is_asked_for() {
    let world = World::new().await;
    let engine = world.engine().await;
    let home = script(9).1;
    world.node.set_peer_away(true);
    let begun = drain(&engine, drain_to("all", &home)).await.unwrap();
    world.clock.advance(Duration::from_secs(86_400));
    for _ in 0..3 {
        let now = round(&engine, &world.node, begun.id).await;
        assert_eq!(now.channels[0].end, ChannelEnd::Open);
    }
    let command = DrainNode {
        force: true,
        ..drain_to("by-force", &home)
    };
    let joined = drain(&engine, command).await.unwrap();
    assert!(joined.id == begun.id && joined.force);
    let end = to_the_end(&engine, &world.node, begun.id).await;
    all_is_there(&world, &engine, &end, &home).await;
}

/// The node has sent, and does not know: what it sent is found among its records, and counted once.
#[tokio::test]
async fn what_is_not_known_to_be_sent_is_looked_up() {
    let world = World::new().await;
    let engine = world.engine().await;
    let home = script(9).1;
    world.node.doubt_next_send();
    let begun = drain(&engine, drain_to("all", &home)).await.unwrap();
    assert_eq!(stands(&engine, begun.id).await.sends, []);
    let end = to_the_end(&engine, &world.node, begun.id).await;
    assert_eq!(end.sends.len(), 1);
    all_is_there(&world, &engine, &end, &home).await;
}

#[tokio::test]
async fn what_must_not_go_is_refused() {
    let world = World::new().await;
    let engine = world.engine().await;
    let home = script(9).1;
    let code = async |name: &str, address: &str| {
        let refused = drain(&engine, drain_to(name, address)).await;
        refused.unwrap_err().code()
    };
    assert_eq!(code("no-address", "nothing").await, "wallet.bad_address");
    let foreign = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";
    assert_eq!(code("foreign", foreign).await, "wallet.wrong_network");
    for fee in [0, 999, 1_000_001] {
        let command = DrainNode {
            fee_sat_per_kvb: Some(fee),
            ..drain_to("fee", &home)
        };
        let refused = drain(&engine, command).await.unwrap_err();
        assert_eq!(refused.code(), "command.out_of_bounds");
    }
    let merchant = shop::merchant(&engine, "cookshop").await;
    let wallets = engine.wallets();
    let refused = wallets.drain_node(&merchant.till, drain_to("till", &home));
    assert!(refused.await.unwrap_err().code().starts_with("access."));
    // What a person has not booked would be lost among the fees.
    world.node.fund_onchain(1);
    assert_eq!(code("differs", &home).await, "wallet.books_differ");
    shop::capital(&engine, CapitalAccount::Onchain, "one", 1).await;
    // Of a card there is money in the node, and the node's own.
    let card = CardId::from_parts(1, [1; 10]);
    shop::capital(&engine, CapitalAccount::Channels, "less", 1).await;
    shop::fund(world.store.as_ref(), 1, card, 7_000).await;
    let refused = drain(&engine, drain_to("owed", &home)).await.unwrap_err();
    assert_eq!(refused.code(), "wallet.owed");
    assert!(
        refused.detail().contains("7000 msat"),
        "{}",
        refused.detail()
    );
    assert_eq!(world.node.sent_onchain(), []);
    assert_eq!(world.node.balance_msat(), IN_CHANNELS);
    // A node that cannot be asked says so.
    let other = World::new().await;
    let node = Arc::new(ScriptedNode::new(other.node.clone()));
    let engine = other.engine_on(other.store.clone(), node).await;
    let refused = drain(&engine, drain_to("unable", &home)).await;
    assert_eq!(refused.unwrap_err().code(), "lightning.unsupported");
}

/// Who says so takes what backs the balances: they are owed all the same.
#[tokio::test]
async fn what_is_owed_stays_owed() {
    let world = World::new().await;
    let engine = world.engine().await;
    let (home, card) = (script(9).1, CardId::from_parts(1, [1; 10]));
    world.node.fund_onchain(7_000);
    let topped_up = NewTransfer {
        id: TransferId::from_parts(4, [4; 10]),
        debit: Account::node_onchain(),
        credit: Account::card_balance(card),
        amount: 7_000,
        kind: TransferKind::TopUp,
        reference: "from outside".to_owned(),
        credit_ceiling: None,
    };
    // A payment is on its way of which nobody knows what became.
    let hold = TransferId::from_parts(5, [5; 10]);
    let on_its_way = NewTransfer {
        id: hold,
        debit: Account::card_balance(card),
        credit: Account::node_channels(),
        amount: 3_000,
        ..topped_up.clone()
    };
    let held = NewHold {
        transfer: on_its_way,
        expires_at_ms: None,
        usage: Vec::new(),
    };
    let steps = vec![Step::Transfer(topped_up), Step::Hold(held)];
    let commit = async |number: u8, steps: Vec<Step>| {
        let batch = Batch {
            id: BatchId::from_parts(4, [number; 10]),
            command: None,
            steps: steps.into(),
        };
        world.store.commit(batch).await.unwrap();
    };
    commit(1, steps).await;
    let command = DrainNode {
        even_if_owed: true,
        ..drain_to("all", &home)
    };
    let begun = drain(&engine, command).await.unwrap();
    for _ in 0..8 {
        round(&engine, &world.node, begun.id).await;
    }
    let now = stands(&engine, begun.id).await;
    assert_eq!(now.state, DrainState::Settling);
    assert_eq!(now.waits_for, [DrainWait::Payments]);
    commit(2, vec![Step::Release { hold }]).await;
    to_the_end(&engine, &world.node, begun.id).await;
    let owed = [(Account::card_balance(card), 7_000)];
    let capital = (Account::operator_capital(), -7_000);
    books::expect(&engine, "owed", &[owed[0], capital]).await;
    assert!(books::node_agrees(&engine).await);
}

/// What the operator's wallets of the node's seed have goes as well, and is not sent to themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wallets_of_the_nodes_seed_are_emptied_as_well() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(flashkit::ports::SystemClock);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let node = SimulatedNetwork::new(clock).node(IN_CHANNELS);
    node.start().await.unwrap();
    let engine = Engine::builder(store.clone(), shop::master())
        .network("regtest")
        .chain(servers.sources[0].1.clone())
        .lightning(Arc::new(node.clone()))
        .settings(Settings {
            chain_poll_ms: 0,
            ..Settings::default()
        })
        .open()
        .await
        .unwrap();
    shop::capital(&engine, CapitalAccount::Channels, "channels", IN_CHANNELS).await;
    let issuer = engine.issuer();
    let scene = Scene {
        store,
        engine: engine.clone(),
        issuer,
    };
    let wallet = scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await
        .id;
    fill(&scene, chain, wallet, &[40_000, 50_000]).await;
    let home = script(9).1;
    let all = |name: &str, address: &str| DrainNode {
        fee_sat_per_kvb: Some(2_000),
        even_if_owed: true,
        ..drain_to(name, address)
    };
    let own = scene.address(wallet, "own").await.address;
    let refused = drain(&engine, all("own", &own)).await;
    assert_eq!(refused.unwrap_err().code(), "wallet.own_address");
    let begun = drain(&engine, all("all", &home)).await.unwrap();
    let now = stands(&engine, begun.id).await;
    assert_eq!(now.spends.len(), 1);
    assert_eq!(scene.state(now.spends[0]).await, SpendState::Broadcast);
    node.mine();
    for _ in 0..6 {
        round(&engine, &node, begun.id).await;
    }
    let now = stands(&engine, begun.id).await;
    assert_eq!(now.waits_for, [DrainWait::Spends]);
    chain.mine(1).unwrap();
    scene.look().await;
    let end = to_the_end(&engine, &node, begun.id).await;
    assert_eq!(scene.state(end.spends[0]).await, SpendState::Confirmed);
    assert_eq!(scene.coins(wallet).await, []);
    assert!(books::node_agrees(&engine).await);
}
