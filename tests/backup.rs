//! Copies of the books while they are written, old answers, and the past.
#![cfg(feature = "sqlite")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use flashkit::Settings;
use flashkit::cards::{CardLimits, ChargeCard};
use flashkit::ledger::{Account, Side};
use flashkit::ports::{Clock, SystemClock};
use flashkit::reports::{HeadKey, SignedHeads};
use flashkit::settlement::CreateMerchant;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{KeyPath, KeyValue, KeyValueWrite, MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use support::key;
use support::shop::{self, SAT, sat};

fn node_value(primary: &str, name: &str) -> KeyValueWrite {
    KeyValueWrite::Put {
        path: path(primary, name),
        value: vec![1; 3],
    }
}

fn path(primary: &str, name: &str) -> KeyPath {
    KeyPath {
        primary: primary.to_owned(),
        secondary: String::new(),
        key: name.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_whole_while_tills_sell_and_has_no_channels_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let store = SqliteStore::open(file("books.db"), Arc::new(SystemClock)).unwrap();
    let epoch = store.begin_epoch().await.unwrap();
    for (primary, name) in [("monitors", "channel"), ("", "manager"), ("peers", "all")] {
        let change = node_value(primary, name);
        store.write(epoch, change).await.unwrap();
    }
    let shop = shop::simulated(Arc::new(store.clone())).await;
    let merchant = shop::merchant(&shop.engine, "Cookshop").await;
    let mut card = shop::card(&shop.engine, shop::UID, CardLimits::default()).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(500_000)).await;
    let (engine, till) = (shop.engine.clone(), merchant.till.clone());
    let selling = tokio::spawn(async move {
        for number in 0..200 {
            let command = ChargeCard {
                key: key(&format!("charge-{number}")),
                tap: card.chip.tap(),
                price: sat(100),
                reference: "lunch".to_owned(),
                pin: None,
            };
            engine.cards().charge(&till, command).await.unwrap();
        }
    });
    let mut copies = 0;
    while !selling.is_finished() || copies < 2 {
        store.backup(file(&format!("{copies}.db"))).await.unwrap();
        copies += 1;
    }
    selling.await.unwrap();
    let again = store.backup(file("0.db")).await.unwrap_err();
    assert_eq!(again.code(), "store.io");
    assert_eq!(store.check_file().await, Ok(Vec::new()));
    let newest = shop.engine.reports();
    let newest = newest
        .verify_journal(&shop.engine.issuer(), &[])
        .await
        .unwrap();
    shop.engine.stop().await.unwrap();

    let mut lengths = Vec::new();
    for number in 0..copies {
        let copy = SqliteStore::open(file(&format!("{number}.db")), Arc::new(SystemClock)).unwrap();
        assert_eq!(copy.check_file().await, Ok(Vec::new()));
        // The node does not run on it, and there is nothing of its channels to run on.
        let refused = copy.begin_epoch().await.unwrap_err();
        assert_eq!(refused.code(), "store.stale_node_state");
        assert_eq!(copy.read(path("monitors", "channel")).await, Ok(None));
        assert_eq!(copy.read(path("", "manager")).await, Ok(None));
        assert!(copy.read(path("peers", "all")).await.unwrap().is_some());
        let engine = shop::engine_on(Arc::new(copy), None).await;
        let reports = engine.reports();
        let verdict = reports.verify_journal(&engine.issuer(), &[]).await.unwrap();
        assert_eq!(verdict.problems, []);
        lengths.push(verdict.commits);
        // Against the newest head it is what it is: older.
        let key = HeadKey::new(&[7; 32]).unwrap();
        let kept = SignedHeads::sign(5, newest.heads.clone(), &key);
        let kept = kept.verify(&key.public_key()).unwrap();
        let verdict = reports
            .verify_journal(&engine.issuer(), &[kept])
            .await
            .unwrap();
        assert!(verdict.problems.len() <= 1, "{:?}", verdict.problems);
        engine.stop().await.unwrap();
    }
    // Put back where it was taken from, beside the lock that counts the node's writes.
    std::fs::copy(file("0.db"), file("books.db")).unwrap();
    let in_place = SqliteStore::open(file("books.db"), Arc::new(SystemClock)).unwrap();
    let refused = in_place.begin_epoch().await.unwrap_err();
    assert_eq!(refused.code(), "store.stale_node_state");
    in_place.close().await.unwrap();
    assert!(lengths.is_sorted(), "{lengths:?}");
    assert!(lengths.last() <= Some(&newest.commits));
}

/// The backup is of the day before the node was first started, and it has the seed of the node that
/// has channels since.
#[tokio::test]
async fn a_backup_from_before_the_node_began_does_not_begin_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let open = |name: &str| SqliteStore::open(file(name), Arc::new(SystemClock)).unwrap();
    let store = open("books.db");
    store.backup(file("copy.db")).await.unwrap();
    let epoch = store.begin_epoch().await.unwrap();
    let change = node_value("monitors", "channel");
    store.write(epoch, change).await.unwrap();

    for _ in 0..2 {
        let copy = open("copy.db");
        let refused = copy.begin_epoch().await.unwrap_err();
        assert_eq!(refused.code(), "store.stale_node_state");
        copy.trust_node_state();
        let refused = copy.begin_epoch().await.unwrap_err();
        assert_eq!(refused.code(), "store.stale_node_state", "nothing to trust");
        // Without a node nobody learns of it.
        let engine = shop::engine_on(Arc::new(copy), None).await;
        shop::merchant(&engine, "Cookshop").await;
        engine.stop().await.unwrap();
    }
    let copy = open("copy.db");
    assert_eq!(copy.forget_channels(Vec::new()).await, Ok(true));
    copy.begin_epoch().await.unwrap();
    copy.close().await.unwrap();
    open("copy.db").begin_epoch().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_answer_is_forgotten_and_the_command_is_still_done_once() {
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let settings = Settings {
        keep_answers_ms: Some(86_400_000),
        ..Settings::default()
    };
    let engine = flashkit::Engine::builder(store.clone(), shop::master())
        .clock(clock.clone())
        .settings(settings)
        .open()
        .await
        .unwrap();
    let command = CreateMerchant {
        key: key("merchant"),
        name: "Cookshop".to_owned(),
        terms: flashkit::settlement::PayoutTerms::default(),
        category: None,
    };
    let issuer = engine.issuer();
    let settlement = engine.settlement();
    let first = settlement.create(&issuer, command.clone()).await.unwrap();
    let till = shop::merchant(&engine, "Barber").await.till;
    let mut card = shop::card(&engine, shop::UID, CardLimits::default()).await;
    shop::fund(&*store, 1, card.id, 1_000 * SAT).await;
    let charge = ChargeCard {
        key: key("charge"),
        tap: card.chip.tap(),
        price: sat(100),
        reference: "lunch".to_owned(),
        pin: None,
    };
    let charged = engine.cards().charge(&till, charge.clone()).await.unwrap();
    clock.advance(Duration::from_secs(86_400 - 1));
    engine.run_due_jobs().await.unwrap();
    let again = settlement.create(&issuer, command.clone()).await.unwrap();
    assert_eq!(again, first);
    let again = engine.cards().charge(&till, charge.clone()).await.unwrap();
    assert_eq!(again, charged);
    clock.advance(Duration::from_secs(2));
    engine.run_due_jobs().await.unwrap();
    let late = settlement.create(&issuer, command.clone()).await;
    assert_eq!(late.unwrap_err().code(), "command.answer_forgotten");
    let other = CreateMerchant {
        name: "Another".to_owned(),
        ..command
    };
    let reused = settlement.create(&issuer, other).await;
    assert_eq!(reused.unwrap_err().code(), "command.key_reused");
    // And money moves once, by its key and, under any other one, by what it claimed.
    let late = engine.cards().charge(&till, charge.clone()).await;
    assert_eq!(late.unwrap_err().code(), "command.answer_forgotten");
    let other = ChargeCard {
        key: key("another"),
        ..charge
    };
    let late = engine.cards().charge(&till, other).await;
    assert_eq!(late.unwrap_err().code(), "card.tap_replayed");
    let held = store.balance(&Account::card_balance(card.id)).await;
    assert_eq!(held.unwrap().posted(Side::Credit), i128::from(900 * SAT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_as_it_was() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let card = shop::card(engine, shop::UID, CardLimits::default()).await;
    let before_ms = SystemClock.now_ms();
    tokio::time::sleep(Duration::from_millis(5)).await;
    shop::top_up(engine, &shop.customer, &card, "top-up", sat(500)).await;
    let account = Account::card_balance(card.id);
    let reports = engine.reports();
    let at = async |at_ms: i64| {
        reports
            .balance_at(&issuer, account, at_ms)
            .await
            .unwrap()
            .value
    };
    assert_eq!(at(before_ms).await, 0);
    assert_eq!(at(SystemClock.now_ms()).await, 500 * SAT);
    let refused = reports.balance_at(&card.holder, account, before_ms).await;
    assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
}

/// A reader of events that was further than the books are, which came back from a backup: it does not
/// stand beyond their end, where it would miss what happens next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_does_not_go_on_beyond_the_end_of_restored_books() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let store = SqliteStore::open(file("books.db"), Arc::new(SystemClock)).unwrap();
    let engine = shop::engine_on(Arc::new(store.clone()), None).await;
    shop::merchant(&engine, "Cookshop").await;
    store.backup(file("morning.db")).await.unwrap();
    shop::merchant(&engine, "Barber").await;
    let all = engine.events().next(&engine.issuer(), "printer", 100).await;
    let last = all.unwrap().last().unwrap().position;
    engine.stop().await.unwrap();

    let store = SqliteStore::open(file("morning.db"), Arc::new(SystemClock)).unwrap();
    let engine = shop::engine_on(Arc::new(store), None).await;
    let (events, issuer) = (engine.events(), engine.issuer());
    let refused = events.acknowledge(&issuer, "printer", last).await;
    assert_eq!(refused.unwrap_err().code(), "command.out_of_bounds");
    let page = events.next(&issuer, "printer", 100).await.unwrap();
    let here = page.last().unwrap().position;
    assert!(here < last);
    for position in [here, 0] {
        events
            .acknowledge(&issuer, "printer", position)
            .await
            .unwrap();
    }
    shop::merchant(&engine, "Hardware").await;
    let page = events.next(&issuer, "printer", 100).await.unwrap();
    assert!(page.iter().any(|event| event.kind == "merchant.created"));
    engine.stop().await.unwrap();
}
