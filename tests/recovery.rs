//! Yesterday's backup is restored on real nodes, and no sat is lost.
#![cfg(all(feature = "ldk", feature = "sqlite"))]

mod support;

use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::cards::{CardLimits, ChargeCard};
use flashkit::ledger::Account;
use flashkit::lightning::LightningNode;
use flashkit::lightning::ldk::LdkNode;
use flashkit::settlement::{PayoutState, RequestPayout};
use flashkit::testkit::chain::TestChain;
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use support::books::{expect_sound, node_agrees};
use support::real::RealShop;
use support::shop::{self, SAT, sat};
use support::{key, until};

async fn sell(
    engine: &Engine,
    customer: &Wallet,
    merchant: &shop::Merchant,
    name: &str,
    sats: i64,
) {
    let invoice = shop::sale(engine, merchant, name, sat(sats)).await;
    let paid = customer.pay(&invoice.bolt11).await;
    paid.unwrap_or_else(|error| panic!("{name}: {error}"));
    shop::settled(engine, &invoice).await;
}

/// Mines and follows the chain until it is so.
async fn mine_until(
    what: &str,
    chain: &dyn TestChain,
    nodes: &[&LdkNode],
    mut ask: impl AsyncFnMut() -> bool,
) {
    for _ in 0..200 {
        local_network::sync(nodes).await.unwrap();
        if ask().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        chain.mine(1).await.unwrap();
    }
    panic!("waited in vain: {what}");
}

/// What lies in channels or on its way out of them, and what on chain.
async fn has(node: &LdkNode) -> (i64, i64) {
    let balances = node.balances().await.unwrap();
    let in_channels = balances.channels_msat + balances.closing_msat;
    (in_channels, balances.onchain_msat)
}

async fn adjust(
    engine: &Engine,
    account: CapitalAccount,
    name: &str,
    direction: CapitalDirection,
    amount_msat: i64,
) {
    let command = BookCapital {
        key: key(name),
        account,
        direction,
        amount_msat,
        reason: "the channels were closed in a recovery".to_owned(),
    };
    let treasury = engine.treasury();
    treasury
        .book_capital(&engine.issuer(), command)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn yesterdays_backup_is_recovered_and_no_sat_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let real = RealShop::open(folder.path()).await;
    real.book_capital().await;
    let (engine, customer) = (&real.engine, &real.customer);
    // A second channel, born with nothing of ours in it.
    let operator = (
        real.node.node_id(),
        real.node.listening_addresses()[0].clone(),
    );
    let world = &real.world;
    let open = world.open_channel(&operator.0, &operator.1, 2_000_000, None);
    open.await.unwrap();
    until("the second channel's funding", || async {
        !real.chain.mempool_txids().await.unwrap().is_empty()
    })
    .await;
    real.chain.mine(6).await.unwrap();
    until("the second channel", || async {
        local_network::sync(&[&real.node, world]).await.unwrap();
        let channels = world.channels().await.unwrap();
        channels.iter().filter(|channel| channel.is_usable).count() == 2
    })
    .await;
    let merchant = shop::merchant(engine, "Cookshop").await;
    let mut card = shop::card(engine, shop::UID, CardLimits::default()).await;
    shop::top_up(engine, customer, &card, "top-up", sat(20_000)).await;
    sell(engine, customer, &merchant, "before", 30_000).await;
    let backup = folder.path().join("yesterday.db");
    real.store.backup(&backup).await.unwrap();

    // Since then money came in and went out: in the old state more would be ours, and less.
    sell(engine, customer, &merchant, "since-1", 111_111).await;
    sell(engine, customer, &merchant, "since-2", 22_222).await;
    for number in 3..9 {
        let name = format!("since-{number}");
        sell(engine, customer, &merchant, &name, 30_000).await;
    }
    for channel in real.node.channels().await.unwrap() {
        assert!(channel.ours_msat > 50_000 * SAT, "{channel:?}");
    }
    let settlement = engine.settlement();
    let quote = settlement.quote_payout(&merchant.till, merchant.id);
    let quote = quote.await.unwrap();
    let bolt11 = customer.invoice(quote.amount_msat, "payout").await.unwrap();
    let command = RequestPayout {
        key: key("payout"),
        merchant: merchant.id,
        bolt11,
    };
    let issuer = engine.issuer();
    let payout = settlement.request_payout(&issuer, command).await.unwrap();
    until("the merchant is paid out", || async {
        let payout = settlement.payout(&issuer, payout.id).await.unwrap();
        payout.state == PayoutState::PaidOut
    })
    .await;
    until("the books agree with the node", || node_agrees(engine)).await;
    let (in_channels, onchain) = has(&real.node).await;
    let worlds = has(&real.world).await;
    let world_address = real.world.listening_addresses()[0].clone();
    engine.stop().await.unwrap();
    let RealShop { chain, world, .. } = real;

    // The books are there at once, and the node is locked.
    let endpoint = chain.source();
    let restored = LocalNode::open(&backup, *shop::master().node_entropy(), endpoint).unwrap();
    let node = restored.node.clone();
    let engine = shop::engine_on(Arc::new(restored.store.clone()), Some(node.clone())).await;
    let refused = engine.start().await.unwrap_err();
    assert_eq!(refused.code(), "lightning.stale_state");
    let command = ChargeCard {
        key: key("charge"),
        tap: card.chip.tap(),
        price: sat(1_000),
        reference: "lunch".to_owned(),
        pin: None,
    };
    engine
        .cards()
        .charge(&merchant.till, command)
        .await
        .unwrap();
    expect_sound(&engine, "while the node is locked").await;

    let channels = engine.recover().await.unwrap();
    assert_eq!(channels.len(), 2, "{channels:?}");
    for channel in &channels {
        assert!(channel.is_watched, "{channel:?}");
        assert_eq!(channel.peer_node_id, world.node_id());
    }
    // A process that is killed in the middle does not lose whom to connect to.
    let (events, issuer) = (engine.events(), engine.issuer());
    let told = events.next(&issuer, "watcher", 1_000).await.unwrap();
    let of = |kind: &str| told.iter().find(|event| event.kind == kind);
    let (before, after) = (of("node.recovering"), of("node.recovered"));
    let (before, after) = (before.unwrap(), after.unwrap());
    assert!(before.position < after.position);
    assert_eq!(before.body, serde_json::to_value(&channels).unwrap());
    assert_eq!(after.body, before.body);
    // Nothing of ours goes out before the peer closes, however often the node is started and
    // however many blocks go by.
    world.stop().await.unwrap();
    for _ in 0..3 {
        chain.mine(7).await.unwrap();
        node.sync().await.unwrap();
        node.stop().await.unwrap();
        node.start().await.unwrap();
        node.sync().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(chain.mempool_txids().await.unwrap(), Vec::<String>::new());
    }
    world.start().await.unwrap();
    let channel = &channels[0];
    node.connect(&channel.peer_node_id, &world_address)
        .await
        .unwrap();
    let (ours, theirs) = (node.clone(), world.clone());
    until("the peer has closed", || {
        let (chain, world) = (chain.clone(), world.clone());
        async move {
            world.channels().await.unwrap().is_empty()
                && chain.mempool_txids().await.unwrap().len() >= 2
        }
    })
    .await;
    // Started again in the middle of it, it broadcasts nothing of its own either.
    node.stop().await.unwrap();
    node.start().await.unwrap();
    let nodes = [ours.as_ref(), theirs.as_ref()];
    mine_until("all of ours is on chain", &*chain, &nodes, async || {
        let (_, now) = has(&ours).await;
        now > onchain + in_channels - 10_000 * SAT
    })
    .await;
    chain.mine(6).await.unwrap();
    local_network::sync(&nodes).await.unwrap();

    let (_, now) = has(&ours).await;
    let lost = onchain + in_channels - now;
    println!("in channels {in_channels}, on chain {onchain}, now on chain {now}: fees {lost} msat");
    // What the channel held to the sat, less the fees of the sweeps.
    assert!((0..2_000 * SAT).contains(&lost), "{lost}");
    mine_until("all of theirs is on chain", &*chain, &nodes, async || {
        let (_, now) = has(&theirs).await;
        now > worlds.1 + worlds.0 - 50_000 * SAT
    })
    .await;
    let lost = worlds.0 + worlds.1 - has(&theirs).await.1;
    println!("the peer had {worlds:?}, and paid {lost} msat of fees");
    assert!((0..50_000 * SAT).contains(&lost), "{lost}");

    // The audit says by how much the books, which are yesterday's, differ from the node.
    let audit = engine.reports().audit(&engine.issuer()).await.unwrap();
    assert!(audit.is_balanced);
    println!("{:?}", audit.controls);
    for control in &audit.controls {
        let difference = control.difference_msat;
        if difference == 0 {
            continue;
        }
        let account = if control.account == Account::node_channels() {
            CapitalAccount::Channels
        } else {
            CapitalAccount::Onchain
        };
        let direction = if difference > 0 {
            CapitalDirection::In
        } else {
            CapitalDirection::Out
        };
        let name = format!("recovery-{account:?}");
        adjust(&engine, account, &name, direction, difference.abs()).await;
    }
    expect_sound(&engine, "after the recovery").await;
    assert!(node_agrees(&engine).await);
    // A second recovery is refused: the node is not locked any more.
    assert_eq!(
        engine.recover().await.unwrap_err().code(),
        "lightning.refused"
    );
    engine.stop().await.unwrap();
    world.stop().await.unwrap();
}
