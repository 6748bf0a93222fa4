//! Drains that meet what goes wrong: what must not be sent yet, what is sent twice or never gets into
//! a block, and what is ended by hand.

use std::sync::Arc;
use std::time::Duration;

use flashkit::ids::WalletId;
use flashkit::lightning::LightningNode;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::ports::{Clock, SystemClock};
use flashkit::store::{MemoryStore, Store};
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::wallets::{
    DrainNode, DrainState, DrainWait, EndDrain, ImportLabels, NodeDrain, SpendState, WalletOwner,
    WalletSource,
};
use flashkit::{Engine, Settings};

use crate::draining::{
    IN_CHANNELS, ON_CHAIN, World, all_is_there, drain, drain_to, round, stands, to_the_end,
};
use crate::racing::Slow;
use crate::scene::Scene;
use crate::sources::{script, servers};
use crate::spending::fill;
use crate::support::{books, key, shop};

const FEE: i64 = 1_000_000;
const ELEVEN_MINUTES: Duration = Duration::from_secs(660);

async fn end(engine: &Engine, name: &str, id: flashkit::ids::DrainId) -> NodeDrain {
    let command = EndDrain {
        key: key(name),
        drain: id,
    };
    let ended = engine.wallets().end_drain(&engine.issuer(), command).await;
    ended.unwrap().value
}

/// The wallet pays for what gets a channel into a block that is closed alone: it is sent afterwards.
#[tokio::test]
async fn what_a_channel_that_is_closed_alone_needs_is_sent_last() {
    let world = World::new().await;
    let engine = world.engine().await;
    let home = script(9).1;
    world.node.set_peer_away(true);
    let command = DrainNode {
        force: true,
        ..drain_to("all", &home)
    };
    let begun = drain(&engine, command).await.unwrap();
    drop(engine.run_due_jobs().await);
    let now = stands(&engine, begun.id).await;
    assert!(now.waits_for.contains(&DrainWait::Closings));
    assert_eq!(world.node.sent_onchain(), []);
    let end = to_the_end(&engine, &world.node, begun.id).await;
    assert_eq!(world.node.sent_onchain().len(), 1);
    all_is_there(&world, &engine, &end, &home).await;
}

/// The command's own round and the job's are one after the other: nothing is sent twice.
#[tokio::test]
async fn a_command_and_its_job_send_once() {
    let world = World::new().await;
    let engine = world.engine().await;
    let home = script(9).1;
    let first = drain(&engine, drain_to("all", &home)).await.unwrap();
    to_the_end(&engine, &world.node, first.id).await;
    world.node.fund_onchain(5_000_000);
    shop::capital(&engine, CapitalAccount::Onchain, "later", 5_000_000).await;
    world.node.see_sends_late();
    let jobs = async {
        for _ in 0..200 {
            drop(engine.run_due_jobs().await);
            tokio::task::yield_now().await;
        }
    };
    let (begun, ()) = tokio::join!(drain(&engine, drain_to("later", &home)), jobs);
    assert_eq!(world.node.sent_twice(), 0);
    let end = to_the_end(&engine, &world.node, begun.unwrap().id).await;
    assert_eq!(end.sends.len(), 1);
    assert_eq!((end.sent_msat(), end.fees_msat()), (4_000_000, FEE));
    books::expect(&engine, "once", &[]).await;
}

/// All is sent, falls out of the mempools, and is in the wallet again.
async fn evicted(world: &World, engine: &Engine, home: &str) -> NodeDrain {
    let begun = drain(engine, drain_to("all", home)).await.unwrap();
    world.node.mine();
    drop(engine.run_due_jobs().await);
    assert_eq!(world.node.sent_onchain().len(), 1);
    world.node.evict();
    drop(engine.run_due_jobs().await);
    let now = stands(engine, begun.id).await;
    assert!(now.waits_for.contains(&DrainWait::Confirmations));
    now
}

#[tokio::test]
async fn what_no_block_will_have_is_sent_again_and_not_waited_for() {
    let world = World::new().await;
    let engine = world.engine().await;
    let home = script(9).1;
    let begun = evicted(&world, &engine, &home).await;
    world.clock.advance(ELEVEN_MINUTES);
    drop(engine.run_due_jobs().await);
    assert_eq!(world.node.sent_onchain().len(), 2);
    // The second one is in no block yet: neither is taken for gone.
    let now = stands(&engine, begun.id).await;
    assert!(now.sends.iter().all(|send| !send.is_gone));
    let end = to_the_end(&engine, &world.node, begun.id).await;
    let gone: Vec<bool> = end.sends.iter().map(|send| send.is_gone).collect();
    assert_eq!(gone, [true, false]);
    let all = IN_CHANNELS + ON_CHAIN;
    assert_eq!((end.sent_msat(), end.fees_msat()), (all - 2 * FEE, FEE));
    assert_eq!(end.closing_fees_msat, Some(FEE));
    books::expect(&engine, "all has gone", &[]).await;
    assert!(books::node_agrees(&engine).await);
}

/// Wherever it stands, it can be ended: what blocks have is booked, and the next one goes on.
#[tokio::test]
async fn a_drain_is_ended_as_it_stands() {
    let home = script(9).1;
    // Its peer never comes back; or what it sent fell out of the mempools.
    for is_away in [true, false] {
        let world = World::new().await;
        let engine = world.engine().await;
        world.node.set_peer_away(is_away);
        let begun = match is_away {
            true => drain(&engine, drain_to("all", &home)).await.unwrap(),
            false => evicted(&world, &engine, &home).await,
        };
        let ended = end(&engine, "end", begun.id).await;
        assert!(ended.is_ended && ended.state == DrainState::Done);
        assert_eq!(ended.closing_fees_msat, Some(if is_away { 0 } else { FEE }));
        assert_eq!(end(&engine, "end", begun.id).await, ended);
        assert_eq!(end(&engine, "again", begun.id).await, ended);
        drop(engine.run_due_jobs().await);
        assert_eq!(stands(&engine, begun.id).await, ended);
        assert!(books::node_agrees(&engine).await);
        let events = world.store.events(0, 1_000).await.unwrap();
        let told = events.iter().filter(|it| it.kind == "node.drain_ended");
        assert_eq!(told.count(), 1);
        // Nothing is on hold, and another address is not refused.
        world.node.set_peer_away(false);
        let elsewhere = script(8).1;
        let next = drain(&engine, drain_to("next", &elsewhere)).await.unwrap();
        assert_ne!(next.id, begun.id);
        to_the_end(&engine, &world.node, next.id).await;
        books::expect(&engine, "all has gone", &[]).await;
        assert!(books::node_agrees(&engine).await);
    }
}

/// What is on its way when it is ended is not booked: it is a difference until somebody books it.
#[tokio::test]
async fn what_is_on_its_way_at_the_end_is_booked_by_hand() {
    let world = World::new().await;
    let engine = world.engine().await;
    let begun = drain(&engine, drain_to("all", &script(9).1)).await.unwrap();
    world.node.mine();
    drop(engine.run_due_jobs().await);
    let merchant = shop::merchant(&engine, "cookshop").await;
    let command = EndDrain {
        key: key("till"),
        drain: begun.id,
    };
    let refused = engine.wallets().end_drain(&merchant.till, command).await;
    assert!(refused.unwrap_err().code().starts_with("access."));
    let ended = end(&engine, "end", begun.id).await;
    assert_eq!((ended.sent_msat(), ended.closing_fees_msat), (0, Some(FEE)));
    assert!(!books::node_agrees(&engine).await);
    world.node.mine();
    let out = BookCapital {
        key: key("out"),
        account: CapitalAccount::Onchain,
        direction: CapitalDirection::Out,
        amount_msat: IN_CHANNELS + ON_CHAIN - FEE,
        reason: "what the drain sent".to_owned(),
    };
    let treasury = engine.treasury();
    treasury.book_capital(&engine.issuer(), out).await.unwrap();
    assert!(books::node_agrees(&engine).await);
}

/// An address of the node's own wallet is in no books: it is known when what was sent comes back.
#[tokio::test]
async fn what_comes_back_to_the_node_is_not_sent_again() {
    let world = World::new().await;
    let engine = world.engine().await;
    let own = script(7).1;
    world.node.set_own_address(&own);
    let begun = drain(&engine, drain_to("own", &own)).await.unwrap();
    let end = to_the_end(&engine, &world.node, begun.id).await;
    assert_eq!(world.node.sent_onchain().len(), 1);
    assert!(end.refusal.unwrap().starts_with("wallet.own_address"));
    assert_eq!(end.onchain_msat, IN_CHANNELS + ON_CHAIN - 2 * FEE);
    assert!(books::node_agrees(&engine).await);
}

/// An engine with a node, on a chain, with a wallet of the node's seed.
async fn of_a_seed(
    source: Arc<dyn flashkit::chain::ChainSource>,
) -> (Scene, SimulatedNode, WalletId) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let node = SimulatedNetwork::new(clock).node(0);
    node.start().await.unwrap();
    let engine = Engine::builder(store.clone(), shop::master())
        .network("regtest")
        .chain(source)
        .lightning(Arc::new(node.clone()))
        .settings(Settings {
            chain_poll_ms: 0,
            ..Settings::default()
        })
        .open()
        .await
        .unwrap();
    let issuer = engine.issuer();
    let scene = Scene {
        store,
        engine,
        issuer,
    };
    let (owner, source) = (WalletOwner::Operator, WalletSource::Node);
    let wallet = scene.wallet(owner, source).await.id;
    (scene, node, wallet)
}

fn at_fee(name: &str, address: &str, fee: u64) -> DrainNode {
    DrainNode {
        fee_sat_per_kvb: Some(fee),
        even_if_owed: true,
        ..drain_to(name, address)
    }
}

/// A spend that the network refuses is tried again, and made anew for another fee.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_network_refuses_is_not_left_behind() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let source = Arc::new(Slow::new(servers.sources[0].1.clone()));
    let (scene, node, wallet) = of_a_seed(source.clone()).await;
    let engine = &scene.engine;
    fill(&scene, chain, wallet, &[40_000]).await;
    source.set_refuses(true);
    let home = script(9).1;
    let begun = drain(engine, at_fee("all", &home, 1_000)).await.unwrap();
    for _ in 0..6 {
        round(engine, &node, begun.id).await;
    }
    let now = stands(engine, begun.id).await;
    assert_eq!(now.waits_for, [DrainWait::Spends]);
    assert_eq!(now.refusal.as_deref(), Some("too little"));
    let joined = drain(engine, at_fee("dearer", &home, 3_000)).await.unwrap();
    assert_eq!(joined.id, begun.id);
    let now = stands(engine, begun.id).await;
    assert_eq!(scene.state(now.spends[0]).await, SpendState::Cancelled);
    assert_eq!(scene.state(now.spends[1]).await, SpendState::Refused);
    source.set_refuses(false);
    round(engine, &node, begun.id).await;
    assert_eq!(scene.state(now.spends[1]).await, SpendState::Broadcast);
    chain.mine(1).unwrap();
    scene.look().await;
    let end = to_the_end(engine, &node, begun.id).await;
    assert_eq!(scene.state(end.spends[1]).await, SpendState::Confirmed);
    assert_eq!(end.spends.len(), 2);
    assert_eq!(scene.coins(wallet).await, []);
}

/// A coin in no block is waited for, and one that a label keeps back is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coins_that_wait_for_a_block_are_waited_for() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let (scene, node, wallet) = of_a_seed(servers.sources[0].1.clone()).await;
    let engine = &scene.engine;
    fill(&scene, chain, wallet, &[40_000]).await;
    let kept = scene.coins(wallet).await[0].outpoint.clone();
    let lines = format!(r#"{{"type":"output","ref":"{kept}","spendable":false}}"#);
    let command = ImportLabels {
        key: key("labels"),
        wallet,
        lines,
    };
    let wallets = engine.wallets();
    wallets.import_labels(&scene.issuer, command).await.unwrap();
    let late = scene.address(wallet, "late").await.address;
    chain.fund(&late, 50_000).unwrap();
    scene.look().await;
    let home = script(9).1;
    let begun = drain(engine, at_fee("all", &home, 2_000)).await.unwrap();
    for _ in 0..6 {
        round(engine, &node, begun.id).await;
    }
    let now = stands(engine, begun.id).await;
    assert_eq!(now.waits_for, [DrainWait::Confirmations]);
    assert_eq!((now.spends.len(), &now.frozen), (0, &vec![kept.clone()]));
    chain.mine(1).unwrap();
    scene.look().await;
    round(engine, &node, begun.id).await;
    chain.mine(1).unwrap();
    scene.look().await;
    let end = to_the_end(engine, &node, begun.id).await;
    assert_eq!((end.spends.len(), &end.frozen), (1, &vec![kept.clone()]));
    let left = scene.coins(wallet).await;
    assert!(left.iter().all(|coin| coin.outpoint == kept) && left.len() == 1);
}

/// The books have a wallet of the node's seed, and the engine asks no chain any more: what is in that
/// wallet stays, which is told, and keeps the rest from nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_chain_can_send_is_told_and_not_waited_for() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let scene = Scene::on(store.clone(), servers.sources[0].1.clone()).await;
    let wallet = scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await
        .id;
    fill(&scene, &servers.chain, wallet, &[40_000]).await;
    let node = SimulatedNetwork::new(clock).node(IN_CHANNELS);
    node.start().await.unwrap();
    let engine = Engine::builder(store, shop::master())
        .network("regtest")
        .lightning(Arc::new(node.clone()))
        .settings(Settings {
            chain_poll_ms: 0,
            ..Settings::default()
        })
        .open()
        .await
        .unwrap();
    shop::capital(&engine, CapitalAccount::Channels, "channels", IN_CHANNELS).await;
    let command = DrainNode {
        even_if_owed: true,
        ..drain_to("all", &script(9).1)
    };
    let begun = drain(&engine, command).await.unwrap();
    let end = to_the_end(&engine, &node, begun.id).await;
    let refusal = end.refusal.as_deref().unwrap_or_default();
    assert!(refusal.contains("chain.not_configured"), "{refusal}");
    assert_eq!(
        (end.spends.len(), end.sent_msat()),
        (0, IN_CHANNELS - 2 * FEE)
    );
    assert_eq!(scene.coins(wallet).await.len(), 1);
}
