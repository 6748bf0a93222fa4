//! All that an engine's real node has, to an address of one's own, by one command.

use std::time::Instant;

use flashkit::rates::FixedRates;
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::wallets::{ChannelEnd, DrainNode, DrainState, DrainWait, NodeDrain};
use flashkit::{Engine, IdempotencyKey, MasterSecret, Settings};

use super::*;

/// For how long LDK has what is ours of a channel that we close alone wait, and some blocks more.
const LOCKED_BLOCKS: u32 = 150;

fn key(text: &str) -> IdempotencyKey {
    text.parse().unwrap()
}

/// An engine with a node, and another node that has a channel to it.
struct Pair {
    chain: Arc<dyn TestChain>,
    engine: Engine,
    node: LocalNode,
    world: LocalNode,
    /// What the node has in its channel, and beside it.
    had: (i64, i64),
    _folder: tempfile::TempDir,
}

impl Pair {
    async fn open() -> Self {
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
        let has = node.node.balances().await.unwrap();
        let had = (has.channels_msat, has.onchain_msat);
        assert!(had.0 > 0 && had.1 > 0);
        Self {
            chain,
            engine,
            node,
            world,
            had,
            _folder: folder,
        }
    }

    /// What the node has is in the books.
    async fn book(&self) {
        for (account, amount_msat) in [
            (CapitalAccount::Channels, self.had.0),
            (CapitalAccount::Onchain, self.had.1),
        ] {
            let booked = BookCapital {
                key: key(&format!("{account:?}")),
                account,
                direction: CapitalDirection::In,
                amount_msat,
                reason: "what there is".to_owned(),
            };
            let (treasury, issuer) = (self.engine.treasury(), self.engine.issuer());
            treasury.book_capital(&issuer, booked).await.unwrap();
        }
    }

    /// Everything that differs can be explained.
    async fn explained(&self) {
        let (reports, issuer) = (self.engine.reports(), self.engine.issuer());
        let audit = reports.audit(&issuer).await.unwrap();
        let mut controls = audit.controls.iter();
        let is_explained = controls.all(|control| control.is_explained());
        assert!(
            audit.is_balanced && audit.untied.is_empty() && is_explained,
            "{audit:?}"
        );
    }

    async fn stands(&self, begun: &NodeDrain) -> NodeDrain {
        let wallets = self.engine.wallets();
        let found = wallets.drain(&self.engine.issuer(), begun.id).await;
        found.unwrap().value
    }

    /// A round of it, and how it stands then.
    async fn round(&self, begun: &NodeDrain) -> NodeDrain {
        drop(self.engine.run_due_jobs().await);
        self.explained().await;
        self.stands(begun).await
    }

    async fn until_done(&self, begun: &NodeDrain) -> NodeDrain {
        let started = Instant::now();
        loop {
            let now = self.stands(begun).await;
            if now.state == DrainState::Done {
                return now;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end: {now:?}");
            drop(self.engine.run_due_jobs().await);
            self.chain.mine(1).await.unwrap();
        }
    }

    /// All is at the address, what it cost is booked, and the books are what the node has.
    async fn all_is_booked(&self, end: &NodeDrain) {
        let has = self.node.node.balances().await.unwrap();
        assert_eq!((has.channels_msat, has.closing_msat), (0, 0));
        let closing_fees = end.closing_fees_msat.unwrap();
        assert!((0..2_000_000).contains(&closing_fees), "{closing_fees}");
        let all = end.sent_msat() + end.fees_msat() + closing_fees + has.onchain_msat;
        assert_eq!(all, self.had.0 + self.had.1, "{end:?} {has:?}");
        assert!(has.onchain_msat < 1_000_000);
        let (reports, issuer) = (self.engine.reports(), self.engine.issuer());
        let audit = reports.audit(&issuer).await.unwrap();
        assert!(audit.is_balanced && audit.differences.is_empty());
        let mut controls = audit.controls.iter();
        let is_tied = controls.all(|it| it.difference_msat == 0 && it.outgoing_msat == 0);
        assert!(is_tied, "{audit:?}");
    }
}

fn all_to(home: &str, force: bool) -> DrainNode {
    DrainNode {
        key: key("all"),
        address: home.to_owned(),
        fee_sat_per_kvb: Some(2_000),
        force,
        even_if_owed: false,
    }
}

#[test]
fn all_that_an_engines_node_has_goes_home_by_one_command() {
    run(async {
        let pair = Pair::open().await;
        let (wallets, issuer) = (pair.engine.wallets(), pair.engine.issuer());
        let drain = all_to(&chain::nobodys_address("home"), false);
        let unbooked = wallets.drain_node(&issuer, drain.clone()).await;
        assert_eq!(unbooked.unwrap_err().code(), "wallet.books_differ");
        pair.book().await;
        let begun = wallets.drain_node(&issuer, drain).await.unwrap().value;
        pair.explained().await;
        let end = pair.until_done(&begun).await;
        pair.all_is_booked(&end).await;
        pair.node.node.stop().await.unwrap();
        pair.world.node.stop().await.unwrap();
    });
}

/// The peer is gone for good: the channel is closed alone. What it takes to get it into a block, and
/// what is in it into the wallet, stays in the wallet until that is done; the wallet is sent last.
#[test]
fn a_channel_whose_peer_is_gone_is_closed_alone_and_the_wallet_is_last() {
    run(async {
        let pair = Pair::open().await;
        pair.book().await;
        pair.world.node.stop().await.unwrap();
        let node = &pair.node.node;
        until("it is seen that the peer is gone", async || {
            let channels = node.channels().await.unwrap();
            channels.iter().all(|channel| !channel.is_usable)
        })
        .await;
        let (wallets, issuer) = (pair.engine.wallets(), pair.engine.issuer());
        let drain = all_to(&chain::nobodys_address("home"), true);
        let begun = wallets.drain_node(&issuer, drain).await.unwrap().value;
        until("the commitment is in the mempool", async || {
            !pair.chain.mempool_txids().await.unwrap().is_empty()
        })
        .await;
        let now = pair.round(&begun).await;
        let ends: Vec<_> = now.channels.iter().map(|channel| channel.end).collect();
        assert_eq!(ends, [ChannelEnd::Closed]);
        // In a block, and locked for a day; then out of it, into the wallet.
        let started = Instant::now();
        for blocks in [1, LOCKED_BLOCKS].into_iter().chain(std::iter::repeat(1)) {
            assert!(
                started.elapsed() < PATIENCE,
                "{:?}",
                pair.stands(&begun).await
            );
            let before = node.balances().await.unwrap();
            let now = pair.round(&begun).await;
            if !now.waits_for.contains(&DrainWait::Closings) {
                break;
            }
            // What it cost to get the channel into a block may have left it, and nothing else.
            assert!(
                now.sends.iter().all(|send| send.amount_msat == Some(0)),
                "{now:?}"
            );
            assert!(before.onchain_msat + 5_000_000 > pair.had.1, "{before:?}");
            assert_eq!(now.state, DrainState::Closing);
            pair.chain.mine(blocks).await.unwrap();
        }
        let end = pair.until_done(&begun).await;
        // Once, unless the node was seen just when it had the sweep still to make.
        let sent = end.sends.iter().filter(|send| send.amount_msat != Some(0));
        assert!((1..=2).contains(&sent.count()), "{end:?}");
        pair.all_is_booked(&end).await;
        pair.node.node.stop().await.unwrap();
    });
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
