//! A process with a node of its own killed at the worst moments: the outcome is exactly once.
//!
//! The engine and its node run in a process of their own; the chain and the world's node here. Each of the
//! moments is met three times: they are named, so that one more meets nothing new, and to start a node is
//! what takes the time. `FLASHKIT_KILL_ROUNDS` for more. That killing at any moment whatever loses
//! nothing is shown in `tests/crash`, by two hundred kills of an engine without a node.
#![cfg(feature = "ldk")]

mod cards;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flashkit::cards::CardLimits;
use flashkit::ledger::Account;
use flashkit::lightning::ldk::LdkNode;
use flashkit::lightning::{Bolt11Details, LightningNode};
use flashkit::reports::{Control, TrialBalanceLine};
use flashkit::testkit::chain::TestChain;
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::CapitalAccount;
use support::child::{EngineProcess, run_if_told};
use support::shop::{self, HeldCard, SAT};
use support::until;

/// How often each boundary is met, where nothing else is said.
const ROUNDS: usize = 3;

fn rounds(unless_told: usize) -> usize {
    let rounds = std::env::var("FLASHKIT_KILL_ROUNDS");
    rounds.map_or(unless_told, |rounds| rounds.parse().unwrap())
}

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
    /// The wallet at work: while there is none, what it is sent stays in flight.
    at_work: Option<tokio::task::JoinHandle<()>>,
    folder: tempfile::TempDir,
    payable: Account,
    /// A card with 50,000 sat.
    card: HeldCard,
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
        let at_work = Some(tokio::spawn(wallet.clone().run()));
        let (payable, card) = prepare(folder.path(), &*chain, &world.node, &wallet).await;
        let mut world = Self {
            chain,
            node: world.node,
            address: world.address,
            wallet,
            at_work,
            folder,
            payable,
            card,
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
        self.reach(boundary);
        self.kill();
    }

    fn reach(&mut self, boundary: &str) {
        let engine = self.engine.as_mut().unwrap();
        assert_eq!(engine.answer(), format!("at {boundary}"));
    }

    fn kill(&mut self) {
        self.engine.take().unwrap().kill();
        self.start_engine();
    }

    /// From now on the wallet lets whatever comes wait.
    async fn pause_wallet(&mut self) {
        if let Some(at_work) = self.at_work.take() {
            at_work.abort();
            let _ = at_work.await;
        }
    }

    fn resume_wallet(&mut self) {
        self.at_work = Some(tokio::spawn(self.wallet.clone().run()));
    }

    /// The merchant's account as the books have it.
    fn payable_line(&mut self) -> TrialBalanceLine {
        self.line(self.payable)
    }

    fn line(&mut self, account: Account) -> TrialBalanceLine {
        let lines: Vec<TrialBalanceLine> = serde_json::from_str(&self.ask("books")).unwrap();
        let mut lines = lines.into_iter();
        lines.find(|line| line.account == account).unwrap()
    }

    /// A payout is under way: the merchant's money is on hold, and neither spent nor free.
    fn expect_under_way(&mut self, order: &str, before: i128, held: i64) {
        let answer = self.ask(order);
        assert!(
            answer.ends_with("Sending") || answer.ends_with("Unknown"),
            "{order}: {answer}"
        );
        let line = self.payable_line();
        assert_eq!(line.balance, before, "{order}");
        assert_eq!(line.totals.debits_pending, held, "{order}");
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
            tokio::time::sleep(Duration::from_millis(20)).await;
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
        self.reach(boundary);
        let claimed = !["claimable-not-committed", "committed-not-claimed"].contains(&boundary);
        // Its own node writes as well before it knows.
        let patience = Duration::from_millis(if claimed { 30_000 } else { 100 });
        let paid = tokio::time::timeout(patience, self.wallet.sent(hash)).await;
        assert_eq!(paid.is_ok(), claimed, "{boundary}: the customer has paid");
        self.kill();
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
        let order = format!("payout {boundary}-{round} {bolt11}");
        let fee = sats * SAT / 100;
        let in_flight = boundary == "sent-not-recorded";
        if in_flight {
            self.pause_wallet().await;
        }
        self.engine.as_mut().unwrap().order(&order);
        if boundary == "paid-out-not-acknowledged" {
            // The command is answered first.
            assert!(self.engine.as_mut().unwrap().answer().starts_with("pay_"));
        }
        self.kill_at(boundary);
        self.connect();
        if in_flight {
            // The node has no record of it and the payment is on its way: asked again and again,
            // that is no failure.
            for _ in 0..3 {
                self.expect_under_way(&order, before, sats * SAT + fee);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            self.resume_wallet();
        }
        self.until_answer(&order, "PaidOut").await;
        let wallet = self.wallet.clone();
        until("the money arrived", || async {
            wallet.received_msat(hash) == sats * SAT
        })
        .await;
        let after = self.balance(self.payable);
        assert_eq!(
            before - after,
            i128::from(sats * SAT + fee),
            "{boundary}, round {round}"
        );
        self.until_answer("agrees", "true").await;
        assert_eq!(wallet.received_msat(hash), sats * SAT);
    }
}

impl World {
    /// What the node has less what the books say, in channels and on chain.
    fn differences(&mut self) -> (i64, i64) {
        let controls: Vec<Control> = serde_json::from_str(&self.ask("audit")).unwrap();
        let of = |account: Account| {
            let control = controls.iter().find(|control| control.account == account);
            control.unwrap().difference_msat
        };
        (of(Account::node_channels()), of(Account::node_onchain()))
    }

    async fn mine(&mut self, blocks: u32) {
        self.chain.mine(blocks).await.unwrap();
        assert_eq!(self.ask("sync"), "synced");
        self.node.sync().await.unwrap();
    }

    /// The process is killed between two of the node's own writes: the channel monitor has the
    /// payment, the channel manager and the payment's record do not. LDK closes the channel then,
    /// and what became of the payment is known once the chain has decided.
    ///
    /// When it `arrives`, the world has taken the payment before the process is killed: the node
    /// had the preimage in its monitor, and nothing else of it.
    async fn payout_torn(&mut self, round: usize, arrives: bool) {
        let before = self.balance(self.payable);
        let (sats, name) = (20_000, format!("torn-{round}"));
        let bolt11 = self.wallet.invoice(sats * SAT, &name).await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        if !arrives {
            self.pause_wallet().await;
        }
        let (held, order) = (sats * SAT * 101 / 100, format!("payout {name} {bolt11}"));
        // Where it arrives, the event of it waits for the record, and the manager for the event.
        let boundary = if arrives { "sent-not-recorded" } else { "torn" };
        assert_eq!(self.ask(&format!("arm {boundary}")), "armed");
        self.engine.as_mut().unwrap().order(&order);
        if arrives {
            let wallet = self.wallet.clone();
            until("it arrived", || async {
                wallet.received_msat(hash) == sats * SAT
            })
            .await;
        }
        self.kill_at(boundary);

        // Until the chain has decided, the money is on hold and nobody's.
        let mut blocks = 0;
        let answer = loop {
            let answer = self.ask(&order);
            if answer.ends_with("PaidOut") || answer.ends_with("Failed") {
                break answer;
            }
            if !arrives {
                self.expect_under_way(&order, before, held);
            }
            assert!(blocks < 1_200, "undecided after {blocks} blocks: {answer}");
            let step = if blocks < 12 { 1 } else { 12 };
            self.mine(step).await;
            blocks += step;
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        println!("torn, round {round}: {answer} after {blocks} blocks");
        let received = self.wallet.received_msat(hash);
        let line = self.payable_line();
        assert_eq!(answer.ends_with("PaidOut"), arrives, "{answer}");
        // That there is no channel, and no record, was no reason to give the money back.
        assert!(
            arrives || blocks >= 6,
            "decided before the chain was: {answer}"
        );
        if arrives {
            assert_eq!((received, before - line.balance), (sats * SAT, held.into()));
        } else {
            assert_eq!((received, line.balance), (0, before));
        }
        assert_eq!(line.totals.debits_pending, 0);
        // Where it arrived, the manager may have been written in time after all.
        let closed = self.ask("channels") == "0";
        assert!(closed || arrives, "the channel was not torn");
        println!("torn, round {round}: the channel was closed: {closed}");
        if closed {
            self.settle_the_closed_channel(&name).await;
            self.reopen(&name).await;
        } else {
            self.connect();
            self.until_answer("agrees", "true").await;
        }
        // And it stays so.
        if !arrives {
            self.resume_wallet();
        }
        assert_eq!(self.ask(&order), answer);
        assert_eq!(self.wallet.received_msat(hash), received);
    }

    /// What was in the channel comes back on chain, less the chain's fees: the audit shows it on
    /// both control accounts until the operator books it.
    async fn settle_the_closed_channel(&mut self, name: &str) {
        // A day of blocks until a closed channel's outputs can be swept, and some more.
        for _ in 0..15 {
            self.mine(12).await;
        }
        let mut last = (0, 0);
        for _ in 0..20 {
            self.mine(12).await;
            let now = self.differences();
            if now == last && now.0 != 0 {
                break;
            }
            last = now;
        }
        let (channels, onchain) = last;
        let fees = -(channels + onchain);
        println!("{name}: {channels} msat in channels, {onchain} on chain, fees {fees}");
        assert!(channels < 0 && onchain > 0, "{last:?}");
        assert!((1..40_000 * SAT).contains(&fees), "{last:?}");
        let closed = format!("capital channels {name}-closed {channels}");
        assert_eq!(self.ask(&closed), "booked");
        let swept = format!("capital onchain {name}-swept {onchain}");
        assert_eq!(self.ask(&swept), "booked");
        self.until_answer("agrees", "true").await;
    }

    /// A new channel in place of a closed one; what the world pushes is the operator's capital.
    async fn reopen(&mut self, name: &str) {
        let (node_id, address) = (self.ask("node-id"), self.ask("address"));
        let push_msat = local_network::CAPITAL_SATS * SAT;
        let size = local_network::CHANNEL_SATS / 2;
        let opened = self
            .node
            .open_channel(&node_id, &address, size, Some(push_msat));
        opened.await.unwrap();
        let chain = self.chain.clone();
        until("the funding transaction", || async {
            !chain.mempool_txids().await.unwrap().is_empty()
        })
        .await;
        self.mine(6).await;
        self.connect();
        assert_eq!(
            self.ask(&format!("capital channels {name}-opened {push_msat}")),
            "booked"
        );
        self.until_answer("agrees", "true").await;
    }
}

/// What is done once, in this process: the channel, the capital, the merchant and its money.
async fn prepare(
    folder: &Path,
    chain: &dyn TestChain,
    world: &LdkNode,
    wallet: &Wallet,
) -> (Account, HeldCard) {
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
    let card = shop::card(&engine, shop::UID, CardLimits::default()).await;
    shop::top_up(&engine, wallet, &card, "top-up", shop::sat(50_000)).await;
    engine.stop().await.unwrap();
    (Account::merchant_payable(merchant.id), card)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_killed_at_every_boundary_are_booked_once() {
    let mut world = World::open().await;
    for boundary in [
        "claimable-not-committed",
        "committed-not-claimed",
        "claimed-not-acknowledged",
        "received-not-booked",
        "booked-not-acknowledged",
    ] {
        for round in 0..rounds(ROUNDS) {
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
        for round in 0..rounds(ROUNDS) {
            world.payout_killed_at(boundary, round).await;
        }
    }
    world.engine.take().unwrap().stop();
    world.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payouts_killed_between_the_nodes_own_writes_lose_nothing() {
    let mut world = World::open().await;
    for (round, arrives) in [(0, true), (1, false), (2, true), (3, false)] {
        world.payout_torn(round, arrives).await;
    }
    world.engine.take().unwrap().stop();
    world.node.stop().await.unwrap();
}
