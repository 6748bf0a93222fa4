//! All that an engine's real node has, to an address of one's own, by one command.

use std::time::Instant;

use flashkit::rates::FixedRates;
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::wallets::{DrainNode, DrainState, NodeDrain};
use flashkit::{Engine, IdempotencyKey, MasterSecret, Settings};

use super::*;

fn key(text: &str) -> IdempotencyKey {
    text.parse().unwrap()
}

/// Everything that differs can be explained.
async fn explained(engine: &Engine) {
    let audit = engine.reports().audit(&engine.issuer()).await.unwrap();
    let mut controls = audit.controls.iter();
    let is_explained = controls.all(|control| control.is_explained());
    assert!(
        audit.is_balanced && audit.untied.is_empty() && is_explained,
        "{audit:?}"
    );
}

async fn until_done(engine: &Engine, chain: &dyn TestChain, begun: &NodeDrain) -> NodeDrain {
    let started = Instant::now();
    loop {
        let found = engine.wallets().drain(&engine.issuer(), begun.id).await;
        let now = found.unwrap().value;
        if now.state == DrainState::Done {
            return now;
        }
        assert!(started.elapsed() < PATIENCE, "it does not end: {now:?}");
        drop(engine.run_due_jobs().await);
        chain.mine(1).await.unwrap();
    }
}

#[test]
fn all_that_an_engines_node_has_goes_home_by_one_command() {
    run(async {
        let chain = chain::from_env().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (ours, world) = (folder.path().join("ours"), folder.path().join("world"));
        let master = MasterSecret::new([7; 32]);
        let node = LocalNode::open(&ours, *master.node_entropy(), chain.source()).unwrap();
        let world = LocalNode::open(&world, [9; 64], chain.source()).unwrap();
        let engine = Engine::builder(Arc::new(node.store.clone()), master)
            .network("regtest")
            .rates(Arc::new(FixedRates::new()))
            .lightning(node.node.clone())
            .settings(Settings {
                chain_poll_ms: 0,
                ..Settings::default()
            })
            .open()
            .await
            .unwrap();
        node.node.start().await.unwrap();
        world.node.start().await.unwrap();
        local_network::connect(&*chain, &node.node, &node.address, &world.node, |_| {})
            .await
            .unwrap();
        let (wallets, issuer) = (engine.wallets(), engine.issuer());
        let has = node.node.balances().await.unwrap();
        let (channels, onchain) = (has.channels_msat, has.onchain_msat);
        assert!(channels > 0 && onchain > 0);
        let home = chain::nobodys_address("home");
        let drain = DrainNode {
            key: key("all"),
            address: home.clone(),
            fee_sat_per_kvb: Some(2_000),
            force: false,
            even_if_owed: false,
        };
        let unbooked = wallets.drain_node(&issuer, drain.clone()).await;
        assert_eq!(unbooked.unwrap_err().code(), "wallet.books_differ");
        for (account, amount_msat) in [
            (CapitalAccount::Channels, channels),
            (CapitalAccount::Onchain, onchain),
        ] {
            let booked = BookCapital {
                key: key(&format!("{account:?}")),
                account,
                direction: CapitalDirection::In,
                amount_msat,
                reason: "what there is".to_owned(),
            };
            engine
                .treasury()
                .book_capital(&issuer, booked)
                .await
                .unwrap();
        }
        let begun = wallets.drain_node(&issuer, drain).await.unwrap().value;
        explained(&engine).await;
        let end = until_done(&engine, &*chain, &begun).await;
        let has = node.node.balances().await.unwrap();
        assert_eq!((has.channels_msat, has.closing_msat), (0, 0));
        let closing_fees = end.closing_fees_msat.unwrap();
        assert!((0..2_000_000).contains(&closing_fees), "{closing_fees}");
        let all = end.sent_msat() + end.fees_msat() + closing_fees + has.onchain_msat;
        assert_eq!(all, channels + onchain);
        assert!(has.onchain_msat < 1_000_000);
        let audit = engine.reports().audit(&issuer).await.unwrap();
        assert!(audit.is_balanced && audit.differences.is_empty());
        assert!(
            audit
                .controls
                .iter()
                .all(|control| { control.difference_msat == 0 && control.outgoing_msat == 0 })
        );
        node.node.stop().await.unwrap();
        world.node.stop().await.unwrap();
    });
}
