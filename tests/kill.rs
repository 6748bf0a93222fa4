//! A process killed at the worst moments, ten times each: the outcome is exactly once.
//!
//! The engine and its node run in a process of their own; the chain and the world's node here.
#![cfg(feature = "ldk")]

mod support;

use std::path::Path;
use std::sync::Arc;

use flashkit::ledger::Account;
use flashkit::lightning::ldk::LdkNode;
use flashkit::lightning::{Bolt11Details, LightningNode};
use flashkit::reports::TrialBalanceLine;
use flashkit::testkit::chain::TestChain;
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::CapitalAccount;
use support::child::{EngineProcess, run_if_told};
use support::shop::{self, SAT};
use support::until;

const ROUNDS: usize = 10;

/// Not a test: the body of the engine's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_process() {
    run_if_told().await;
}

/// What does not die.
struct World {
    chain: Arc<dyn TestChain>,
    node: Arc<LdkNode>,
    address: String,
    wallet: Arc<Wallet>,
    folder: tempfile::TempDir,
    payable: Account,
    engine: Option<EngineProcess>,
}

impl World {
    /// Two nodes with a channel, capital booked, a merchant with 200,000 sat.
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let chain = flashkit::testkit::chain::from_env().await.unwrap();
        let world =
            LocalNode::open(&folder.path().join("world.db"), [9; 64], chain.source()).unwrap();
        world.node.start().await.unwrap();
        let wallet = Arc::new(Wallet::new(world.node.clone(), None));
        tokio::spawn(wallet.clone().run());
        let payable = prepare(folder.path(), &*chain, &world.node, &wallet).await;
        let mut world = Self {
            chain,
            node: world.node,
            address: world.address,
            wallet,
            folder,
            payable,
            engine: None,
        };
        world.start_engine();
        world.connect();
        world
    }

    fn start_engine(&mut self) {
        let engine = EngineProcess::start(self.folder.path(), &self.chain.source());
        self.engine = Some(engine);
    }

    fn connect(&mut self) {
        let order = format!("connect {} {}", self.node.node_id(), self.address);
        assert_eq!(self.ask(&order), "connected");
    }

    fn ask(&mut self, order: &str) -> String {
        self.engine.as_mut().unwrap().ask(order)
    }

    /// Waits until the engine stands at the boundary, kills it there, and starts it again.
    fn kill_at(&mut self, boundary: &str) {
        let mut engine = self.engine.take().unwrap();
        assert_eq!(engine.answer(), format!("at {boundary}"));
        engine.kill();
        self.start_engine();
    }

    fn balance(&mut self, account: Account) -> i128 {
        let lines: Vec<TrialBalanceLine> = serde_json::from_str(&self.ask("books")).unwrap();
        lines
            .iter()
            .find(|line| line.account == account)
            .map_or(0, |line| line.balance)
    }

    async fn until_answer(&mut self, order: &str, wanted: &str) {
        for _ in 0..1_500 {
            let answer = self.ask(order);
            if answer.ends_with(wanted) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{order}: never {wanted}, but {}", self.ask(order));
    }

    /// A sale whose process is killed at `boundary`; afterwards it is booked once.
    async fn sale_killed_at(&mut self, boundary: &str, round: usize) {
        println!("{boundary}, round {round}");
        let before = self.balance(self.payable);
        let sats = 1_000 + i64::try_from(round).unwrap();
        let sale = format!("sale {boundary}-{round} {sats}");
        let made = self.ask(&sale);
        let (id, bolt11) = made.split_once(' ').unwrap();
        assert_eq!(self.ask(&format!("arm {boundary}")), "armed");
        let hash = self.wallet.send(bolt11).await.unwrap();
        self.kill_at(boundary);
        self.connect();
        self.until_answer(&format!("invoice {id}"), "Settled").await;
        self.wallet.sent(hash).await.unwrap();
        let after = self.balance(self.payable);
        assert_eq!(
            after - before,
            i128::from(sats * SAT),
            "{boundary}, round {round}"
        );
        // The command that made the invoice still answers with it.
        assert_eq!(self.ask(&sale), made.replace("New", "Settled"));
        self.until_answer("agrees", "true").await;
    }

    /// A payout whose process is killed at `boundary`; afterwards it was paid out once.
    async fn payout_killed_at(&mut self, boundary: &str, round: usize) {
        println!("{boundary}, round {round}");
        let before = self.balance(self.payable);
        let sats = 1_000 + i64::try_from(round).unwrap();
        let bolt11 = self.wallet.invoice(sats * SAT, boundary).await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        assert_eq!(self.ask(&format!("arm {boundary}")), "armed");
        // With nothing coming back, the node can write all it knows of a payment on its way.
        self.wallet.hold(boundary == "sent-not-recorded");
        let order = format!("payout {boundary}-{round} {bolt11}");
        self.engine.as_mut().unwrap().order(&order);
        if boundary == "paid-out-not-acknowledged" {
            // The command is answered first.
            assert!(self.engine.as_mut().unwrap().answer().starts_with("pay_"));
        }
        self.kill_at(boundary);
        self.connect();
        self.wallet.hold(false);
        self.until_answer(&order, "PaidOut").await;
        let wallet = self.wallet.clone();
        until("the money arrived", || async {
            wallet.received_msat(hash) == sats * SAT
        })
        .await;
        let after = self.balance(self.payable);
        let fee = sats * SAT / 100;
        assert_eq!(
            before - after,
            i128::from(sats * SAT + fee),
            "{boundary}, round {round}"
        );
        self.until_answer("agrees", "true").await;
        assert_eq!(wallet.received_msat(hash), sats * SAT);
    }
}

/// What is done once, in this process: the channel, the capital, the merchant and its money.
async fn prepare(
    folder: &Path,
    chain: &dyn TestChain,
    world: &LdkNode,
    wallet: &Wallet,
) -> Account {
    let file = folder.join("books.db");
    let operator = LocalNode::open(&file, *shop::master().node_entropy(), chain.source()).unwrap();
    let store = Arc::new(operator.store.clone());
    let engine = shop::engine_on(store, Some(operator.node.clone())).await;
    engine.start().await.unwrap();
    local_network::connect(chain, &operator.node, &operator.address, world, |_| {})
        .await
        .unwrap();
    let has = operator.node.balances().await.unwrap();
    shop::capital(
        &engine,
        CapitalAccount::Channels,
        "channels",
        has.channels_msat,
    )
    .await;
    shop::capital(
        &engine,
        CapitalAccount::Onchain,
        "onchain",
        has.onchain_msat,
    )
    .await;
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let sale = shop::sale(&engine, &merchant, "first", shop::sat(200_000)).await;
    wallet.pay(&sale.bolt11).await.unwrap();
    shop::settled(&engine, &sale).await;
    engine.stop().await.unwrap();
    Account::merchant_payable(merchant.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_killed_at_every_boundary_are_booked_once() {
    let mut world = World::open().await;
    for boundary in [
        "claimable-not-committed",
        "committed-not-claimed",
        "claimed-not-acknowledged",
        "booked-not-acknowledged",
    ] {
        for round in 0..ROUNDS {
            world.sale_killed_at(boundary, round).await;
        }
    }
    world.engine.take().unwrap().stop();
    world.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payouts_killed_at_every_boundary_are_paid_once() {
    let mut world = World::open().await;
    for boundary in [
        "intended-not-sent",
        "sent-not-recorded",
        "paid-out-not-acknowledged",
    ] {
        for round in 0..ROUNDS {
            world.payout_killed_at(boundary, round).await;
        }
    }
    world.engine.take().unwrap().stop();
    world.node.stop().await.unwrap();
}
