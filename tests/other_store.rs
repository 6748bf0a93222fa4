//! A store that is not the crate's own: the one of `examples/redb_store`, which was written from
//! the documentation of the contract, keeps it.

#[path = "other_store/broken.rs"]
mod broken;
mod support;

#[path = "../examples/redb_store/store.rs"]
mod redb_store;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flashkit::cards::{CardLimits, ChargeCard};
use flashkit::ids::{BatchId, CardId, MerchantId, TransferId};
use flashkit::ledger::{
    Account, Batch, CommandRecord, DueJob, NewDocument, NewEvent, NewHold, NewTransfer, Step,
    TransferKind,
};
use flashkit::ports::SystemClock;
use flashkit::store::contract::{FIRST_MS, FreshStore, check_all, check_reopening, check_tree};
use flashkit::store::ordered::{CopiesAreNotNoticed, OrderedStore, Tree};
use flashkit::store::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, Store, StoreError};
use flashkit::testkit::clock::ManualClock;
use redb_store::{RedbStore, RedbTree};
use support::books::expect;
use support::key;
use support::shop::{self, SAT, sat};

/// Nobody copies these.
fn fresh<T: Tree>(store: Arc<OrderedStore<T>>, clock: Arc<ManualClock>) -> FreshStore {
    let node = Arc::new(store.node_state(CopiesAreNotNoticed));
    FreshStore::new(store, node, clock)
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU32::new(0);
    let kept = check_all(|clock| {
        let number = files.fetch_add(1, Ordering::SeqCst);
        let file = folder.path().join(format!("{number}.redb"));
        async move {
            let store = Arc::new(redb_store::open(&file, clock.clone())?);
            Ok(fresh(store, clock))
        }
    })
    .await;
    let kept = kept.unwrap_or_else(|violation| panic!("{violation}"));
    println!("{} promises kept: {}", kept.len(), kept.join(", "));
    assert!(kept.len() >= 41);

    let file = folder.path().join("tree.redb");
    check_tree(|| RedbTree::open(&file)).unwrap_or_else(|violation| panic!("{violation}"));
    let file = folder.path().join("reopened.redb");
    let reopened = check_reopening(|clock| {
        let file = file.clone();
        async move {
            let store = Arc::new(redb_store::open(&file, clock.clone())?);
            Ok(fresh(store, clock))
        }
    })
    .await;
    reopened.unwrap_or_else(|violation| panic!("{violation}"));
}

fn card() -> Account {
    Account::card_balance(CardId::from_parts(1, [1; 10]))
}

fn random(number: i64) -> [u8; 10] {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    random
}

/// Puts one msat on the card, and writes something of everything else.
fn numbered(number: i64) -> Batch {
    let transfer = |part: u64, debit, credit| NewTransfer {
        id: TransferId::from_parts(part, random(number)),
        debit,
        credit,
        amount: 1,
        kind: TransferKind::TopUp,
        reference: number.to_string(),
        credit_ceiling: None,
    };
    let merchant = Account::merchant_payable(MerchantId::from_parts(1, [1; 10]));
    let name = number.to_string();
    Batch {
        id: BatchId::from_parts(1, random(number)),
        command: Some(CommandRecord {
            scope: format!("somebody/fund/{number}"),
            fingerprint: "f".to_owned(),
            answer: serde_json::Value::Null.into(),
        }),
        steps: vec![
            Step::Transfer(transfer(1, Account::node_channels(), card())),
            Step::Hold(NewHold {
                transfer: transfer(2, card(), merchant),
                expires_at_ms: Some(FIRST_MS),
                usage: Vec::new(),
            }),
            Step::Put(NewDocument {
                collection: "thing",
                id: name.clone(),
                read_version: 0,
                body: serde_json::json!({ "number": number }).into(),
                index_keys: vec![("number", name.clone())],
            }),
            Step::Claim {
                name: name.clone(),
                by: "test".to_owned(),
            },
            Step::Emit(NewEvent {
                kind: "test.numbered",
                object: name.clone(),
                body: serde_json::json!(number).into(),
            }),
            Step::Due(DueJob {
                kind: "test".to_owned(),
                object: name,
                due_at_ms: FIRST_MS,
            }),
        ]
        .into(),
    }
}

/// The seat of a store that was dropped is free once its last write is done.
async fn open_again(file: &Path, clock: &Arc<ManualClock>) -> RedbStore {
    let begun = Instant::now();
    loop {
        match redb_store::open(file, clock.clone()) {
            Err(StoreError::InUse { .. }) if begun.elapsed() < Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

async fn has_all(store: &impl Store, numbers: i64) {
    let balance = store.balance(&card()).await.unwrap();
    assert_eq!(balance.credits_posted, i128::from(numbers));
    assert_eq!(store.commits(0, 1_000).await.unwrap().len() as i64, numbers);
    assert_eq!(store.journal(0, 1_000).await.unwrap().len() as i64, numbers);
    assert_eq!(store.events(0, 1_000).await.unwrap().len() as i64, numbers);
    for number in 0..numbers {
        let name = number.to_string();
        let document = store.document("thing", &name).await.unwrap().unwrap();
        let body: serde_json::Value = document.body.read().unwrap();
        assert_eq!(body["number"], number);
        assert_eq!(store.claim(&name).await.unwrap().as_deref(), Some("test"));
        let again = store.commit(numbered(number)).await.unwrap();
        assert!(again.replayed, "{number}");
        assert_eq!(again.answer, Some(serde_json::Value::Null.into()));
    }
}

/// A file as a killed process leaves it is one that was copied from under a living one: what was
/// acknowledged by then is in it.
#[tokio::test]
async fn what_was_acknowledged_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.redb");
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = Arc::new(redb_store::open(&file, clock.clone()).unwrap());
    let node = store.node_state(CopiesAreNotNoticed);
    let epoch = node.begin_epoch().await.unwrap();
    let path = |key: &str| KeyPath {
        primary: "monitors".to_owned(),
        secondary: String::new(),
        key: key.to_owned(),
    };
    for number in 0..40 {
        clock.set(FIRST_MS + number);
        store.commit(numbered(number)).await.unwrap();
        let (at, value) = (path("last"), number.to_be_bytes().to_vec());
        let change = KeyValueWrite::Put { path: at, value };
        node.write(epoch, change).await.unwrap();
        store.acknowledge("reader", number).await.unwrap();
        if number % 8 == 7 {
            let copy = folder.path().join(format!("killed-{number}.redb"));
            std::fs::copy(&file, &copy).unwrap();
            let killed = Arc::new(redb_store::open(&copy, clock.clone()).unwrap());
            has_all(&*killed, number + 1).await;
            assert_eq!(killed.cursor("reader").await.unwrap(), number);
            let state = killed.node_state(CopiesAreNotNoticed);
            let value = state.read(path("last")).await.unwrap();
            assert_eq!(value, Some(number.to_be_bytes().to_vec()));
            killed.close().await.unwrap();
        }
    }
    let refused = redb_store::open(&file, clock.clone()).map(drop);
    assert_eq!(refused.unwrap_err().code(), "store.in_use");

    // A lease does not outlive its holder; the time of the commits, the chain and the fence do.
    node.take_lease(NodeHolder(1), Duration::from_secs(3_600))
        .await
        .unwrap();
    let head = store.chain_heads().await.unwrap();
    drop((store, node));
    clock.set(0);
    let store = Arc::new(open_again(&file, &clock).await);
    let node = store.node_state(CopiesAreNotNoticed);
    has_all(&*store, 40).await;
    assert_eq!(store.chain_heads().await.unwrap(), head);
    let next = store.commit(numbered(40)).await.unwrap();
    assert_eq!(next.at_ms, FIRST_MS + 39);
    let stale = KeyValueWrite::Remove { path: path("last") };
    let stale = node.write(epoch, stale).await.unwrap_err();
    assert_eq!(stale.code(), "store.fenced");
    let taken = node.take_lease(NodeHolder(2), Duration::ZERO).await;
    assert!(taken.unwrap() > epoch + 1);
    store.close().await.unwrap();
}

/// What was submitted before the store was dropped is still done, and the drop does not wait.
#[tokio::test]
async fn what_was_submitted_is_done_although_the_store_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.redb");
    let clock = Arc::new(ManualClock::at(FIRST_MS));
    let store = Arc::new(redb_store::open(&file, clock.clone()).unwrap());
    let node = store.node_state(CopiesAreNotNoticed);
    let epoch = node.begin_epoch().await.unwrap();
    let writes: Vec<_> = (0_u8..100)
        .map(|number| {
            let path = KeyPath {
                primary: String::new(),
                secondary: String::new(),
                key: number.to_string(),
            };
            let value = vec![number];
            node.write(epoch, KeyValueWrite::Put { path, value })
        })
        .collect();
    drop((store, node));
    for write in writes {
        write.await.unwrap();
    }
    let store = Arc::new(open_again(&file, &clock).await);
    let node = store.node_state(CopiesAreNotNoticed);
    let keys = node.list(String::new(), String::new()).await.unwrap();
    assert_eq!(keys.len(), 100);
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.redb");
    std::fs::write(&file, [0x5a; 8_192]).unwrap();
    let refused = redb_store::open(&file, Arc::new(SystemClock)).map(drop);
    assert_eq!(refused.unwrap_err().code(), "store.corrupt");
}

/// The main job on an engine: a top-up over Lightning, a tap, a charge; killed, opened again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_runs_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.redb");
    let store = redb_store::open(&file, Arc::new(SystemClock)).unwrap();
    let world = shop::simulated(Arc::new(store)).await;
    let merchant = shop::merchant(&world.engine, "Cookshop").await;
    let program = shop::program(&world.engine, merchant.id).await;
    let mut card = shop::card(&world.engine, shop::UID, CardLimits::default()).await;
    shop::top_up(&world.engine, &world.customer, &card, "top-up", sat(50_000)).await;
    let command = ChargeCard {
        key: key("charge"),
        tap: card.chip.tap(),
        price: sat(20_000),
        reference: "table 4".to_owned(),
        pin: None,
    };
    let cards = world.engine.cards();
    let charged = cards.charge(&merchant.till, command.clone()).await.unwrap();
    let lines = [
        (Account::node_channels(), 50_000 * SAT),
        (Account::card_balance(card.id), 30_000 * SAT),
        (Account::merchant_payable(merchant.id), 19_600 * SAT),
        (Account::reward_fund(program), 400 * SAT),
        (Account::points_issued(program), 400),
        (Account::points_balance(card.id, program), 400),
    ];
    expect(&world.engine, "charged", &lines).await;
    let problems = world.engine.reports();
    let problems = problems.verify_journal(&world.engine.issuer(), &[]).await;
    assert!(problems.unwrap().problems.is_empty());
    world.engine.stop().await.unwrap();

    let store = redb_store::open(&file, Arc::new(SystemClock)).unwrap();
    let engine = shop::engine_on(Arc::new(store), None).await;
    expect(&engine, "opened again", &lines).await;
    let again = engine.cards().charge(&merchant.till, command.clone()).await;
    assert_eq!(again.unwrap(), charged);
    let other = ChargeCard {
        key: key("another"),
        ..command
    };
    let replayed = engine.cards().charge(&merchant.till, other).await;
    assert_eq!(replayed.unwrap_err().code(), "card.tap_replayed");
    expect(&engine, "the tap again", &lines).await;
    engine.stop().await.unwrap();
}
