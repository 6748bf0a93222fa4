//! What the audit finds, and since when.
#![cfg(feature = "sqlite")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flashkit::Engine;
use flashkit::cards::CardLimits;
use flashkit::ids::{BatchId, CardId, TransferId};
use flashkit::ledger::{Account, Batch, JournalProblem, NewTransfer, Step, TransferKind};
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::lightning::{
    Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode, NodeBalances,
    PaymentHash, PaymentRecord, PaymentRequest, Preimage,
};
use flashkit::ports::{Clock, SystemClock};
use flashkit::reports::{Audit, Control, Untied};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use support::gated_store::{Busy, GatedStore};
use support::key;
use support::shop::{self, SAT, sat};

async fn audit(engine: &Engine) -> Audit {
    let reports = engine.reports();
    reports.audit(&engine.issuer()).await.unwrap().value
}

/// Says that money came into the channels, or went: nothing of it is true.
async fn book(engine: &Engine, name: &str, direction: CapitalDirection) {
    let command = BookCapital {
        key: key(name),
        account: CapitalAccount::Channels,
        direction,
        amount_msat: 1_000 * SAT,
        reason: name.to_owned(),
    };
    let treasury = engine.treasury();
    treasury
        .book_capital(&engine.issuer(), command)
        .await
        .unwrap();
}

async fn engine(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Engine {
    let node = SimulatedNetwork::new(clock.clone()).node(0);
    let builder = Engine::builder(store, shop::master()).lightning(Arc::new(node));
    let engine = builder
        .network("regtest")
        .clock(clock)
        .open()
        .await
        .unwrap();
    engine.start().await.unwrap();
    engine
}

/// A node that cannot be had, for one reason, and has some money.
struct AbsentNode {
    node: SimulatedNode,
    reason: LightningError,
}

#[async_trait]
impl LightningNode for AbsentNode {
    async fn start(&self) -> Result<(), LightningError> {
        Err(self.reason.clone())
    }

    async fn stop(&self) -> Result<(), LightningError> {
        self.node.stop().await
    }

    fn node_id(&self) -> String {
        self.node.node_id()
    }

    async fn create_invoice(&self, request: InvoiceRequest) -> Result<String, LightningError> {
        self.node.create_invoice(request).await
    }

    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        amount_msat: i64,
    ) -> Result<(), LightningError> {
        self.node.claim(payment_hash, preimage, amount_msat).await
    }

    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError> {
        self.node.fail(payment_hash).await
    }

    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        self.node.pay(request).await
    }

    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError> {
        self.node.payment(payment_hash).await
    }

    /// Of another time: what stands by knows nothing of now.
    async fn balances(&self) -> Result<NodeBalances, LightningError> {
        match self.reason {
            LightningError::HeldElsewhere { .. } => Ok(NodeBalances {
                channels_msat: 7,
                onchain_msat: 7,
                closing_msat: 7,
                inbound_capacity_msat: 7,
                outbound_capacity_msat: 7,
            }),
            _ => Err(self.reason.clone()),
        }
    }

    async fn next_event(&self) -> Result<LightningEvent, LightningError> {
        Err(self.reason.clone())
    }

    async fn acknowledge(&self) -> Result<(), LightningError> {
        Ok(())
    }
}

/// What arrives while the node is asked is no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_while_payments_arrive_and_leave_finds_nothing() {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let shop = shop::simulated(store.clone()).await;
    let card = shop::card(&shop.engine, shop::UID, CardLimits::default()).await;
    let (engine, customer) = (shop.engine.clone(), shop.customer.clone());
    let paying = tokio::spawn(async move {
        for number in 0..60 {
            shop::top_up(
                &engine,
                &customer,
                &card,
                &format!("t-{number}"),
                sat(1_000),
            )
            .await;
        }
    });
    let mut audits = 0;
    while !paying.is_finished() {
        let found = audit(&shop.engine).await;
        assert!(
            found.differences.is_empty() && found.is_balanced,
            "{found:?}"
        );
        audits += 1;
    }
    paying.await.unwrap();
    println!("{audits} audits");
    assert!(audits > 5, "{audits}");
    assert_eq!(events(store.as_ref()).await, [""; 0]);
    shop.engine.stop().await.unwrap();
}

fn why(untied: &[Untied]) -> Vec<(&str, i64, Option<i64>)> {
    let untied = untied.iter();
    untied
        .map(|it| (it.code.as_str(), it.booked_msat, it.since_ms))
        .collect()
}

/// An engine whose node is not here ties what is in the books, and says that it tied no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_tied_to_the_node_is_said() {
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let with_node = engine(store.clone(), clock.clone()).await;
    book(&with_node, "never-came", CapitalDirection::In).await;
    let found_ms = clock.now_ms();
    assert_eq!(audit(&with_node).await.untied, []);
    clock.advance(Duration::from_secs(60));

    let absent = |reason: LightningError| -> Arc<dyn LightningNode> {
        let node = SimulatedNetwork::new(clock.clone()).node(0);
        Arc::new(AbsentNode { node, reason })
    };
    let held = LightningError::HeldElsewhere { remaining_ms: 1 };
    let (away, none) = ("lightning.held_elsewhere", "lightning.no_node");
    for (elsewhere, node, code) in [
        (false, None, none),
        (true, None, away),
        (false, Some(absent(held)), away),
        (
            false,
            Some(absent(LightningError::NotRunning)),
            "lightning.not_running",
        ),
    ] {
        let mut builder = Engine::builder(store.clone(), shop::master()).network("regtest");
        if elsewhere {
            builder = builder.lightning_elsewhere();
        }
        if let Some(node) = node {
            builder = builder.lightning(node);
        }
        let engine = builder.clock(clock.clone()).open().await.unwrap();
        // One that is refused its start is audited as it is.
        drop(engine.start().await);
        let found = audit(&engine).await;
        assert_eq!(found.controls, []);
        // What an audit with the node has seen is not gone because this one cannot look.
        let expected = [(code, 1_000 * SAT, Some(found_ms)), (code, 0, None)];
        assert_eq!(why(&found.untied), expected);
        assert!(found.is_balanced && found.differences.is_empty());
    }
    assert_eq!(events(store.as_ref()).await, ["audit.difference_found"]);
    let controls = audit(&with_node).await.controls;
    assert_eq!(since(&controls), [Some(found_ms), None]);
}

fn since(controls: &[Control]) -> Vec<Option<i64>> {
    controls.iter().map(|control| control.since_ms).collect()
}

async fn events(store: &dyn Store) -> Vec<String> {
    let events = store.events(0, 1_000).await.unwrap();
    let kinds = events.into_iter().map(|event| event.kind);
    kinds.filter(|kind| kind.starts_with("audit.")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_with_the_node_gets_older_until_it_is_gone() {
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let engine = engine(store.clone(), clock.clone()).await;
    assert_eq!(since(&audit(&engine).await.controls), [None, None]);
    assert_eq!(events(store.as_ref()).await, [""; 0]);

    book(&engine, "never-came", CapitalDirection::In).await;
    let first_ms = clock.now_ms();
    assert_eq!(
        since(&audit(&engine).await.controls),
        [Some(first_ms), None]
    );
    clock.advance(Duration::from_secs(3_600));
    let controls = audit(&engine).await.controls;
    assert_eq!(since(&controls), [Some(first_ms), None], "an hour old");
    assert_eq!(controls[0].difference_msat, -1_000 * SAT);
    assert_eq!(events(store.as_ref()).await, ["audit.difference_found"]);

    book(&engine, "a-mistake", CapitalDirection::Out).await;
    assert_eq!(since(&audit(&engine).await.controls), [None, None]);
    book(&engine, "once-more", CapitalDirection::In).await;
    let again_ms = clock.now_ms();
    assert_eq!(
        since(&audit(&engine).await.controls),
        [Some(again_ms), None]
    );
    assert_eq!(
        events(store.as_ref()).await,
        [
            "audit.difference_found",
            "audit.difference_gone",
            "audit.difference_found"
        ]
    );
}

/// What an audit says of books in which somebody did this; each `?1` is the time of the second of
/// three transfers. Answers it with that time, and with the one at which the audit was done.
async fn after(sql: &str) -> (Audit, i64, i64) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let store = Arc::new(SqliteStore::open(&file, clock.clone()).unwrap());
    let honest = engine(store.clone(), clock.clone()).await;
    let mut times = Vec::new();
    for (name, direction) in [
        ("1", CapitalDirection::In),
        ("2", CapitalDirection::In),
        ("3", CapitalDirection::Out),
    ] {
        clock.advance(Duration::from_secs(60));
        times.push(clock.now_ms());
        book(&honest, name, direction).await;
    }
    assert_eq!(audit(&honest).await.differences, []);
    honest.stop().await.unwrap();
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
    clock.advance(Duration::from_secs(60));
    let store = Arc::new(SqliteStore::open(&file, clock.clone()).unwrap());
    let edited = engine(store, clock.clone()).await;
    let audited_ms = clock.now_ms();
    audit(&edited).await;
    clock.advance(Duration::from_secs(60));
    let found = audit(&edited).await;
    edited.stop().await.unwrap();
    (found, times[1], audited_ms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_balance_is_as_old_as_the_audit_that_saw_it() {
    let sql = "UPDATE accounts SET debits_posted = '5000000'
               WHERE account LIKE 'node_channels/%'";
    let (found, _, audited_ms) = after(sql).await;
    assert_eq!(found.differences.len(), 1, "{found:?}");
    let difference = &found.differences[0];
    assert_eq!(difference.account.to_string(), "node_channels/operator/BTC");
    assert_eq!(difference.stored.debits_posted, 5_000 * 1_000);
    assert_eq!(difference.computed.debits_posted, 2_000 * 1_000);
    assert_eq!(difference.since_ms, audited_ms);
    assert!(!found.is_balanced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_transfer_is_as_old_as_it_is() {
    let sql = "UPDATE transfers SET amount = amount + 1 WHERE position = 2";
    let (found, edited_ms, _) = after(sql).await;
    // Both accounts have less than their transfers come to, from that one on.
    assert_eq!(found.differences.len(), 2, "{found:?}");
    for difference in &found.differences {
        assert_eq!(difference.since_ms, edited_ms, "{difference:?}");
    }
    assert!(found.is_balanced, "by the totals that are kept");
}

/// More accounts than fit into one page, and money that moves all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_books_balance_at_every_moment() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let file = SqliteStore::open(folder.path().join("books.db"), clock.clone()).unwrap();
    let stores: [Arc<dyn Store>; 2] = [Arc::new(MemoryStore::new(clock)), Arc::new(file)];
    for store in stores {
        let funds = (0..ACCOUNTS).map(|number| transfer(number, Account::node_channels()));
        store.commit(batch(0, funds.collect())).await.unwrap();
        let engine = shop::engine_on(store.clone(), None).await;
        let (moving, number) = (store.clone(), Arc::new(AtomicU64::new(ACCOUNTS)));
        let (stop, count) = (Arc::new(AtomicBool::new(false)), number.clone());
        let ended = stop.clone();
        let load = tokio::spawn(async move {
            while !ended.load(Ordering::SeqCst) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let step = transfer(number, card((number * 7) % ACCOUNTS));
                moving.commit(batch(number, vec![step])).await.unwrap();
            }
        });
        // Until enough has moved between the looks, however slow the disk is.
        let mut looks = 0;
        while looks < 50 || number.load(Ordering::SeqCst) <= ACCOUNTS + 50 {
            assert!(!load.is_finished(), "the load ended before the looks did");
            let books = engine.reports().trial_balance(&engine.issuer()).await;
            let books = books.unwrap().value;
            assert!(books.is_balanced(), "{:?}", books.totals);
            assert!(books.lines.len() > usize::try_from(ACCOUNTS).unwrap());
            looks += 1;
        }
        stop.store(true, Ordering::SeqCst);
        load.await.unwrap();
        engine.stop().await.unwrap();
    }
}

/// Books in which three cards have money and the first one's row was edited by so much, while
/// `moving` is charged before each look at an account as long as `next` says so.
async fn busy(
    edited_by: i128,
    moving: Account,
    next: impl Fn() -> bool + Send + Sync + 'static,
) -> (Engine, Arc<dyn Store>) {
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let funds = (0..3).map(|number| transfer(number, Account::node_channels()));
    store.commit(batch(0, funds.collect())).await.unwrap();
    let count = AtomicU64::new(ACCOUNTS);
    let others = Busy {
        next: Box::new(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            next().then(|| batch(number, vec![charge(number, moving)]))
        }),
        edited: Some((card(0), edited_by)),
    };
    let read: Arc<dyn Store> = Arc::new(GatedStore::busy(store.clone(), others));
    (engine(read, clock).await, store)
}

/// Of 10, as all others.
fn charge(number: u64, from: Account) -> Step {
    let Step::Transfer(of_one) = transfer(number, from) else {
        unreachable!()
    };
    Step::Transfer(NewTransfer {
        amount: 10,
        ..of_one
    })
}

/// The accounts whose totals are wrong by a check of the journal, each with by how much its debits
/// are off, and those of which it is not known.
async fn wrong(engine: &Engine) -> (Vec<(Account, i128)>, Vec<Account>) {
    let reports = engine.reports();
    let verdict = reports.verify_journal(&engine.issuer(), &[]).await;
    let verdict = verdict.unwrap().value;
    let wrong = verdict.problems.iter().map(|problem| match problem {
        JournalProblem::TotalsWrong {
            account,
            stored,
            computed,
        } => (*account, stored.debits_posted - computed.debits_posted),
        other => panic!("{other:?}"),
    });
    (wrong.collect(), verdict.unsettled)
}

/// A row is edited, and there is no moment at which nothing is committed.
#[tokio::test]
async fn an_edited_balance_is_found_while_others_move() {
    for moving in [card(1), card(0)] {
        let (engine, _store) = busy(-7, moving, || true).await;
        let (found, unsettled) = wrong(&engine).await;
        assert_eq!(found.len(), 1, "{moving}: {found:?}");
        assert_eq!(found[0].0, card(0), "{moving}");
        if moving == card(1) {
            // Nothing came between, so that it is known to the unit.
            assert_eq!(found[0].1, -7);
        }
        assert!(!unsettled.contains(&card(0)), "{moving}");
        let found = audit(&engine).await;
        assert_eq!(found.differences.len(), 1, "{moving}: {found:?}");
        assert_eq!(found.differences[0].account, card(0));
    }
}

/// What is off by just as much as each charge may be a charge that came in between: of that account
/// it is not known, and what an audit before has seen is not gone.
#[tokio::test]
async fn what_an_audit_cannot_tell_is_said_and_is_not_gone() {
    let is_busy = Arc::new(AtomicBool::new(false));
    let next = is_busy.clone();
    let (engine, store) = busy(-10, card(0), move || next.load(Ordering::SeqCst)).await;
    let found = audit(&engine).await;
    assert_eq!(found.differences.len(), 1, "{found:?}");
    assert_eq!(found.unsettled, []);
    let seen = events(store.as_ref()).await;
    is_busy.store(true, Ordering::SeqCst);
    let found = audit(&engine).await;
    assert_eq!(found.differences, []);
    assert!(found.unsettled.contains(&card(0)), "{found:?}");
    assert_eq!(events(store.as_ref()).await, seen);
}

/// The charges pause now and then, and whatever is off by just one of them is found then.
#[tokio::test]
async fn an_account_is_settled_at_a_look_at_which_it_rests() {
    for edited_by in [-10, 0, 10] {
        let looks = AtomicU64::new(0);
        let moves = move || looks.fetch_add(1, Ordering::SeqCst) % 8 < 4;
        let (engine, _store) = busy(edited_by, card(0), moves).await;
        let wanted: Vec<_> = (edited_by != 0)
            .then_some((card(0), edited_by))
            .into_iter()
            .collect();
        assert_eq!(wrong(&engine).await, (wanted, Vec::new()), "{edited_by}");
    }
}

const ACCOUNTS: u64 = 1_500;

fn random(number: u64) -> [u8; 10] {
    let mut random = [9; 10];
    random[..8].copy_from_slice(&number.to_be_bytes());
    random
}

fn card(number: u64) -> Account {
    Account::card_balance(CardId::from_parts(1, random(number)))
}

/// From an account to the card of the number.
fn transfer(number: u64, debit: Account) -> Step {
    let (amount, credit) = if number < ACCOUNTS {
        (1_000_000, card(number))
    } else {
        (1, Account::fee_income())
    };
    Step::Transfer(NewTransfer {
        id: TransferId::from_parts(1, random(number)),
        debit,
        credit,
        amount,
        kind: TransferKind::Capital,
        reference: String::new(),
        credit_ceiling: None,
    })
}

fn batch(number: u64, steps: Vec<Step>) -> Batch {
    let (id, command) = (BatchId::from_parts(1, random(number)), None);
    Batch {
        id,
        command,
        steps: steps.into(),
    }
}
