//! What an open engine keeps in memory, without the node: the measure is taken in a process of its
//! own, from what the system says is private to it.
#![cfg(all(target_os = "linux", feature = "sqlite"))]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::cards::{CardLimits, IssueCard};
use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{DocumentQuery, MAX_PAGE, Store};
use support::{key, shop};
use tokio::task::JoinSet;

const CARDS: u64 = 10_000;
const MOST_BYTES: u64 = 20_000_000;
/// Which file the process measures.
const FILE: &str = "FLASHKIT_IDLE_FILE";

fn store(file: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(file, Arc::new(SystemClock)).unwrap())
}

async fn issue(engine: Engine, number: u64) {
    let command = IssueCard {
        key: key(&format!("issue/{number}")),
        uid: format!("04{number:012x}"),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let issuer = engine.issuer();
    engine.cards().issue(&issuer, command).await.unwrap();
}

async fn issue_all(file: &Path) {
    let engine = shop::engine_on(store(file), None).await;
    let mut work = JoinSet::new();
    for number in 0..CARDS {
        if work.len() == 200 {
            work.join_next().await.unwrap().unwrap();
        }
        work.spawn(issue(engine.clone(), number));
    }
    while let Some(issued) = work.join_next().await {
        issued.unwrap();
    }
    engine.stop().await.unwrap();
}

/// What no other process shares with this one, in bytes.
fn private_bytes() -> u64 {
    let told = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let of = |name: &str| -> u64 {
        let line = told.lines().find_map(|line| line.strip_prefix(name));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse::<u64>().unwrap() * 1_024
    };
    of("Private_Clean:") + of("Private_Dirty:")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_engine_takes_less_than_20_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    issue_all(&file).await;
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["process", "--exact", "--nocapture"])
        .env(FILE, &file)
        .status();
    assert!(ended.unwrap().success(), "the process did not keep to it");
}

/// Not a test of its own: the process that is measured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let Some(file) = std::env::var_os(FILE) else {
        return;
    };
    let before = private_bytes();
    let store = store(Path::new(&file));
    let engine = shop::engine_on(store.clone(), None).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = private_bytes() - before;
    let cards = read_all(&*store).await;
    let used = private_bytes() - before;
    println!("idle {idle} bytes; {used} after all of {cards} cards were read");
    assert_eq!(cards, CARDS);
    assert!(idle < MOST_BYTES && used < MOST_BYTES);
    engine.stop().await.unwrap();
}

/// Every card once, as its own document and its balance: what is kept of them is bounded.
async fn read_all(store: &dyn Store) -> u64 {
    let (mut seen, mut after) = (0, None);
    loop {
        let query = DocumentQuery {
            collection: "card",
            index: "chip",
            from: String::new(),
            to: None,
            after: after.clone(),
            limit: MAX_PAGE,
        };
        let page = store.documents(query).await.unwrap();
        let Some((position, _)) = page.last() else {
            return seen;
        };
        after = Some(position.clone());
        for (_, document) in page {
            let card = store.document("card", &document.id).await.unwrap();
            let card: flashkit::ids::CardId = card.unwrap().id.parse().unwrap();
            let account = flashkit::ledger::Account::card_balance(card);
            store.balance(&account).await.unwrap();
            seen += 1;
        }
    }
}
