//! Books that somebody else wrote in: found, by the journal alone or by a head kept elsewhere.
#![cfg(feature = "sqlite")]

mod support;

use std::path::Path;
use std::sync::Arc;

use flashkit::Engine;
use flashkit::cards::{AuthorizeCard, CaptureCharge, CardLimits, ChargeAmount, ChargeCard};
use flashkit::ledger::{ChainHash, ChainHead, JournalProblem};
use flashkit::ports::SystemClock;
use flashkit::reports::{HeadKey, JournalVerdict, SignedHeads};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store, StoreAdmin};
use support::shop::{self, HeldCard, Merchant, SAT, sat};
use support::{key, until};

/// Some business: sales, a card, charges, points.
async fn business(engine: &Engine) -> (Merchant, HeldCard) {
    let merchant = shop::merchant(engine, "Cookshop").await;
    shop::program(engine, merchant.id).await;
    let mut card = shop::card(engine, shop::UID, CardLimits::default()).await;
    let command = flashkit::treasury::BookCapital {
        key: key("capital"),
        account: flashkit::treasury::CapitalAccount::Channels,
        direction: flashkit::treasury::CapitalDirection::In,
        amount_msat: 1_000_000 * SAT,
        reason: "a start".to_owned(),
    };
    let treasury = engine.treasury();
    treasury
        .book_capital(&engine.issuer(), command)
        .await
        .unwrap();
    charge(engine, &merchant, &mut card, "refused")
        .await
        .unwrap_err();
    (merchant, card)
}

async fn charge(
    engine: &Engine,
    merchant: &Merchant,
    card: &mut HeldCard,
    name: &str,
) -> Result<i64, flashkit::Error> {
    let command = ChargeCard {
        key: key(name),
        tap: card.chip.tap(),
        price: sat(1_000),
        reference: name.to_owned(),
        pin: None,
    };
    let charged = engine.cards().charge(&merchant.till, command).await;
    charged.map(|charge| charge.points)
}

async fn verify(engine: &Engine, kept: &[ChainHead]) -> JournalVerdict {
    let reports = engine.reports();
    let verdict = reports.verify_journal(&engine.issuer(), kept).await;
    verdict.unwrap().value
}

/// Books in a file with a day's business on simulated Lightning; closed, and their head.
async fn closed_books(file: &Path) -> Vec<ChainHead> {
    let store = SqliteStore::open(file, Arc::new(SystemClock)).unwrap();
    let shop = shop::simulated(Arc::new(store)).await;
    let (merchant, mut card) = business(&shop.engine).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(50_000)).await;
    for number in 0..10 {
        let name = format!("charge-{number}");
        charge(&shop.engine, &merchant, &mut card, &name)
            .await
            .unwrap();
    }
    let verdict = verify(&shop.engine, &[]).await;
    assert_eq!(verdict.problems, []);
    assert!(verdict.commits > 20, "{}", verdict.commits);
    shop.engine.stop().await.unwrap();
    verdict.heads
}

/// What is found after somebody did this to the file.
async fn after(sql: &str, keep: bool) -> Vec<JournalProblem> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let heads = closed_books(&file).await;
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&file, Arc::new(SystemClock)).unwrap());
    let engine = shop::engine_on(store, None).await;
    let kept = if keep { heads } else { Vec::new() };
    let problems = verify(&engine, &kept).await.problems;
    engine.stop().await.unwrap();
    problems
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_transfer_is_found() {
    // All sums still fit.
    let problems = after(
        "UPDATE transfers SET reference = 'another sale' WHERE position = 3",
        false,
    )
    .await;
    assert!(
        matches!(problems[..], [JournalProblem::CommitAltered { .. }]),
        "{problems:?}"
    );
    let problems = after(
        "UPDATE transfers SET amount = amount + 1 WHERE position = 4",
        false,
    )
    .await;
    assert!(
        problems
            .iter()
            .any(|problem| matches!(problem, JournalProblem::CommitAltered { .. })),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|problem| matches!(problem, JournalProblem::BalanceAfterWrong { .. })),
        "{problems:?}"
    );
}

/// Its time says in which day it was, and is where the past is looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_time_and_a_transfer_of_no_commit_are_found() {
    let sql = "UPDATE transfers SET at_ms = at_ms - 86400000 WHERE position = 5";
    let problems = after(sql, false).await;
    assert!(
        matches!(problems[..], [JournalProblem::CommitAltered { .. }]),
        "{problems:?}"
    );
    let sql = "INSERT INTO transfers SELECT transfers.position + 1000, 1000000, 'tr_' || substr(batch, -32), NULL, at_ms, debit,
                   credit, amount, kind, reference, debit_balance_after, credit_balance_after
               FROM transfers, (SELECT batch FROM commits WHERE position = 1)
               WHERE transfers.position = 5";
    let problems = after(sql, true).await;
    let commit = 1_000_000;
    assert_eq!(problems, [JournalProblem::StrayRow { commit }]);
}

/// What no hash covers follows from rows that one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_follow_from_the_journal_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    closed_books(&file).await;
    let edit = |sql: &str| {
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
    };
    let found = async || {
        let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
        let found = store.verify().await.unwrap();
        store.close().await.unwrap();
        found
    };
    let sound: [&str; 0] = [];
    assert_eq!(found().await, sound);
    for (sql, undo, what) in [
        (
            "UPDATE holds SET remaining = amount WHERE remaining = 0",
            "UPDATE holds SET remaining = 0",
            "has another rest than its last change",
        ),
        (
            "INSERT INTO reversals SELECT id, 5 FROM transfers WHERE position = 5",
            "DELETE FROM reversals",
            "has another sum of reversals",
        ),
        (
            "UPDATE transfers SET at_ms = at_ms + 1 WHERE position = 5",
            "UPDATE transfers SET at_ms = at_ms - 1 WHERE position = 5",
            "has another time than its commit",
        ),
        (
            "UPDATE accounts SET balance = balance + 7 WHERE account LIKE 'card_balance/%'",
            "UPDATE accounts SET balance = balance - 7 WHERE account LIKE 'card_balance/%'",
            "has another balance than its totals",
        ),
    ] {
        edit(sql);
        let wrong = found().await;
        assert_eq!(wrong.len(), 1, "{what}: {wrong:?}");
        assert!(wrong[0].ends_with(what), "{what}: {wrong:?}");
        edit(undo);
        assert_eq!(found().await, sound, "{what}");
    }
}

/// A hold that was captured and is said to be open again, and over: nobody gets its money once
/// more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_somebody_opened_again_gives_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&file, Arc::new(SystemClock)).unwrap());
    let shop = shop::simulated(store).await;
    let (merchant, mut card) = business(&shop.engine).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(10_000)).await;
    let mut authorize = async |engine: &Engine, name: &str, sats: i64| {
        let command = AuthorizeCard {
            key: key(name),
            tap: card.chip.tap(),
            price: sat(sats),
            reference: name.to_owned(),
            pin: None,
        };
        let authorized = engine.cards().authorize(&merchant.till, command).await;
        authorized.map(|charge| charge.id)
    };
    let charge = authorize(&shop.engine, "one", 4_000).await.unwrap();
    let command = CaptureCharge {
        key: key("capture"),
        charge,
        amount: ChargeAmount::Bitcoin {
            amount_msat: 4_000 * SAT,
        },
    };
    let cards = shop.engine.cards();
    cards.capture(&merchant.till, command).await.unwrap();
    // Only where something is on hold, what is over is looked for.
    authorize(&shop.engine, "two", 1_000).await.unwrap();
    shop.engine.stop().await.unwrap();
    let connection = rusqlite::Connection::open(&file).unwrap();
    let sql = "UPDATE holds SET remaining = amount, expires_at_ms = 1 WHERE amount = 4000000";
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&file, Arc::new(SystemClock)).unwrap());
    let engine = shop::engine_on(store.clone(), None).await;
    let refused = authorize(&engine, "three", 5_001).await.unwrap_err();
    println!("{refused}");
    let account = flashkit::ledger::Account::card_balance(card.id);
    let balance = store.balance(&account).await.unwrap();
    assert_eq!(balance.debits_pending, 1_000 * SAT);
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_balance_is_found() {
    let problems = after(
        "UPDATE accounts SET credits_posted = CAST(credits_posted + 5000 AS TEXT)
         WHERE account LIKE 'card_balance/%'",
        false,
    )
    .await;
    assert!(
        matches!(problems[..], [JournalProblem::TotalsWrong { account, .. }]
            if account.to_string().starts_with("card_balance/")),
        "{problems:?}"
    );
    // Money on hold is a part of a balance.
    let problems = after(
        "UPDATE accounts SET debits_pending = 1 WHERE account LIKE 'card_balance/%'",
        false,
    )
    .await;
    assert_eq!(problems.len(), 1, "{problems:?}");
}

/// The last charge is taken out, without a trace in the file.
const CUT: &str = "
    CREATE TEMP TABLE cut AS SELECT commit_position AS at FROM transfers
        WHERE kind = 'charge' ORDER BY position DESC LIMIT 1;
    UPDATE accounts SET
        debits_posted = CAST(debits_posted - (SELECT coalesce(sum(amount), 0) FROM transfers
            WHERE debit = accounts.id AND commit_position >= (SELECT at FROM cut)) AS TEXT),
        credits_posted = CAST(credits_posted - (SELECT coalesce(sum(amount), 0) FROM transfers
            WHERE credit = accounts.id AND commit_position >= (SELECT at FROM cut)) AS TEXT);
    DELETE FROM account_transfers WHERE position IN (
        SELECT position FROM transfers WHERE commit_position >= (SELECT at FROM cut));
    DELETE FROM transfers WHERE commit_position >= (SELECT at FROM cut);
    DELETE FROM commits WHERE position >= (SELECT at FROM cut);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_tail_is_found_by_the_head_that_was_kept() {
    assert_eq!(
        after(CUT, false).await,
        [],
        "the file alone does not show it"
    );
    let problems = after(CUT, true).await;
    assert!(
        matches!(problems[..], [JournalProblem::TailMissing { kept, found, .. }] if found < kept),
        "{problems:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_commits_and_chains_are_found() {
    let problems = after(
        "DELETE FROM commits WHERE position = (SELECT min(commit_position) FROM transfers)",
        true,
    )
    .await;
    let is_stray = |problem: &JournalProblem| matches!(problem, JournalProblem::StrayRow { .. });
    assert!(problems.iter().any(is_stray), "{problems:?}");
    let is_gap =
        |problem: &JournalProblem| matches!(problem, JournalProblem::CommitsMissing { .. });
    assert!(problems.iter().any(is_gap), "{problems:?}");
    // A second writer that once was there; and a chain that is another one.
    let engine = shop::engine_on(Arc::new(MemoryStore::new(Arc::new(SystemClock))), None).await;
    business(&engine).await;
    let [head] = &verify(&engine, &[]).await.heads[..] else {
        panic!("one writer has one head");
    };
    let gone = ChainHead {
        writer: "instance 2".to_owned(),
        ..head.clone()
    };
    let problems = verify(&engine, &[head.clone(), gone]).await.problems;
    let writer = "instance 2".to_owned();
    assert_eq!(problems, [JournalProblem::ChainMissing { writer }]);
    let other = ChainHead {
        hash: ChainHash::GENESIS,
        ..head.clone()
    };
    let problems = verify(&engine, &[other]).await.problems;
    assert!(matches!(problems[..], [JournalProblem::OtherChain { .. }]));
}

/// While tills sell, the check reads books that change under it and finds nothing wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_while_money_moves_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    let shop = shop::simulated(Arc::new(store)).await;
    let (merchant, mut card) = business(&shop.engine).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(500_000)).await;
    let engine = shop.engine.clone();
    let selling = tokio::spawn(async move {
        for number in 0..300 {
            let name = format!("charge-{number}");
            charge(&engine, &merchant, &mut card, &name).await.unwrap();
        }
    });
    until("everything is sold", || async {
        assert_eq!(verify(&shop.engine, &[]).await.problems, []);
        selling.is_finished()
    })
    .await;
    selling.await.unwrap();
    assert_eq!(verify(&shop.engine, &[]).await.problems, []);
}

#[test]
fn signed_heads_are_this_keys_and_nothing_else() {
    let key = HeadKey::new(&[7; 32]).unwrap();
    let other = HeadKey::new(&[8; 32]).unwrap();
    assert!(HeadKey::new(&[0; 32]).is_none());
    assert!(!format!("{key:?}").contains("07"));
    let head = ChainHead {
        writer: "sqlite".to_owned(),
        sequence: 12,
        hash: ChainHash::new([3; 32]),
    };
    let signed = SignedHeads::sign(5, vec![head], &key);
    let text = serde_json::to_string(&signed).unwrap();
    let read: SignedHeads = serde_json::from_str(&text).unwrap();
    assert_eq!(read.verify(&key.public_key()), Ok(()));
    let bad = |signed: &SignedHeads, public_key: &str| {
        signed.verify(public_key).unwrap_err().code() == "report.bad_signature"
    };
    assert!(bad(&read, &other.public_key()));
    assert!(bad(&read, "no key"));
    let later = SignedHeads {
        at_ms: 6,
        ..read.clone()
    };
    assert!(bad(&later, &key.public_key()));
    let mut longer = read.clone();
    longer.heads[0].sequence = 13;
    assert!(bad(&longer, &key.public_key()));
    let mut cut = read;
    cut.heads.clear();
    assert!(bad(&cut, &key.public_key()));
}
