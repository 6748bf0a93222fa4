//! Books that somebody else wrote in: found, by the journal alone or by a head kept elsewhere.
#![cfg(feature = "sqlite")]

#[path = "support/postgres/steps.rs"]
mod steps;
mod support;

use std::path::Path;
use std::sync::Arc;

use flashkit::Engine;
use flashkit::cards::{CardLimits, ChargeCard};
use flashkit::ids::{BatchId, CardId, MerchantId, TransferId};
use flashkit::ledger::{
    Account, Batch, ChainHash, ChainHead, JournalProblem, NewHold, NewTransfer, Side, Step,
    TransferKind,
};
use flashkit::ports::{Clock, SystemClock};
use flashkit::reports::{HeadKey, JournalVerdict, SignedHeads, TrustedHeads};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{CommitError, MemoryStore, Store};
use support::gated_store::GatedStore;
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

/// Heads that the host has signed and kept.
fn signed(heads: &[ChainHead]) -> TrustedHeads {
    let key = HeadKey::new(&[7; 32]).unwrap();
    let signed = SignedHeads::sign(5, heads.to_vec(), &key);
    signed.verify(&key.public_key()).unwrap()
}

async fn verify(engine: &Engine, kept: &[ChainHead]) -> JournalVerdict {
    let reports = engine.reports();
    let kept = [signed(kept)];
    let verdict = reports.verify_journal(&engine.issuer(), &kept).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_from_the_journal_and_was_edited_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    let heads = books_of_steps(&sound).await;
    let moved = "UPDATE transfers SET at_ms = at_ms - 86400000 WHERE position = 7";
    let ended = "UPDATE holds SET remaining = amount WHERE id =
                 (SELECT id FROM holds WHERE remaining = 0 LIMIT 1)";
    let again = "DELETE FROM reversals WHERE transfer = (SELECT max(transfer) FROM reversals)";
    let more = "UPDATE reversals SET amount = amount + 1
                WHERE transfer = (SELECT max(transfer) FROM reversals)";
    let stray =
        "INSERT INTO transfers SELECT position + 1, commit_position + 1000, 'x' || id, follows,
                 at_ms, debit, credit, amount, kind, reference, debit_balance_after,
                 credit_balance_after FROM transfers ORDER BY position DESC LIMIT 1;
                 UPDATE transfers SET id = (SELECT substr(id, 1, length(id) - 4) || 'ffff'
                 FROM holds LIMIT 1) WHERE id LIKE 'x%'";
    let late =
        "INSERT INTO hold_changes SELECT position + 1, commit_position + 1000, hold, 'released',
                 1, 0 FROM hold_changes ORDER BY position DESC LIMIT 1";
    for edit in [moved, ended, again, more, stray, late] {
        let file = folder.path().join("edited.db");
        std::fs::copy(&sound, &file).unwrap();
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.execute_batch(edit).unwrap();
        assert!(connection.changes() > 0, "{edit}");
        connection.close().unwrap();
        let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
        let engine = shop::engine_on(Arc::new(store), None).await;
        let problems = verify(&engine, &heads).await.problems;
        let as_expected = match &problems[..] {
            [JournalProblem::CommitAltered { .. }] => edit == moved,
            [JournalProblem::HoldWrong { .. }] => edit == ended,
            [JournalProblem::ReversedWrong { .. }] => edit == again || edit == more,
            [JournalProblem::StrayRow { .. }] => edit == stray || edit == late,
            _ => false,
        };
        assert!(as_expected, "{edit}: {problems:?}");
        engine.stop().await.unwrap();
        for name in ["edited.db", "edited.db.lock"] {
            drop(std::fs::remove_file(folder.path().join(name)));
        }
    }
}

/// A hold whose rest was edited is not given back a second time: more could be spent then than
/// there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_was_opened_again_by_hand_makes_no_money() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.db");
    let card = Account::card_balance(CardId::from_parts(1, [2; 10]));
    let shop = Account::merchant_payable(MerchantId::from_parts(1, [3; 10]));
    let transfer = |number: u8, debit, credit, amount| NewTransfer {
        id: TransferId::from_parts(1, [number; 10]),
        debit,
        credit,
        amount,
        kind: TransferKind::Charge,
        reference: String::new(),
        credit_ceiling: None,
    };
    let batch = |number: u8, steps: Vec<Step>| Batch {
        id: BatchId::from_parts(1, [number; 10]),
        command: None,
        steps: steps.into(),
    };
    let hold = |number, amount, expires_at_ms| {
        Step::Hold(NewHold {
            transfer: transfer(number, card, shop, amount),
            expires_at_ms,
            usage: Vec::new(),
        })
    };
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    let fund = Step::Transfer(transfer(1, Account::node_channels(), card, 150));
    let soon = SystemClock.now_ms() + 3_600_000;
    let capture = Step::Capture {
        hold: TransferId::from_parts(1, [2; 10]),
        id: TransferId::from_parts(1, [3; 10]),
        amount: 60,
        release_rest: true,
    };
    store
        .commit(batch(
            1,
            vec![fund, hold(2, 60, Some(soon)), capture, hold(4, 10, None)],
        ))
        .await
        .unwrap();
    store.close().await.unwrap();

    let connection = rusqlite::Connection::open(&file).unwrap();
    let edit = "UPDATE holds SET remaining = amount, expires_at_ms = 1 WHERE remaining = 0";
    assert_eq!(connection.execute(edit, []), Ok(1));
    connection.close().unwrap();
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).unwrap();
    // Of 150 are 60 gone and 10 on hold: more than 80 could be had only by giving 60 back twice.
    let spend = Step::Transfer(transfer(5, card, shop, 85));
    let refused = store.commit(batch(5, vec![spend])).await.unwrap_err();
    let CommitError::Refused(refusal) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.code(), "ledger.overflow");
    let balance = store.balance(&card).await.unwrap();
    assert_eq!(
        (balance.posted(Side::Credit), balance.debits_pending),
        (90, 10)
    );
    store.close().await.unwrap();
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
    // A store has one chain: without any commit of it, and without what they made.
    let journal = [
        "transfers",
        "hold_changes",
        "holds",
        "reversals",
        "accounts",
        "commits",
    ];
    let gone = journal
        .map(|table| format!("DELETE FROM {table}"))
        .join(";");
    assert_eq!(
        after(&gone, false).await,
        [],
        "nothing is left that could show it"
    );
    let writer = "sqlite".to_owned();
    assert_eq!(
        after(&gone, true).await,
        [JournalProblem::ChainMissing { writer }]
    );
    // Several heads of one chain were kept, and each of them counts; and a store with more writers
    // than one, as somebody may write, misses one of them.
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
    let earlier = |sequence, hash| ChainHead {
        writer: head.writer.clone(),
        sequence,
        hash,
    };
    let other = [
        earlier(head.sequence, ChainHash::GENESIS),
        earlier(3, ChainHash::GENESIS),
    ];
    let heads = [&other[..], std::slice::from_ref(head)].concat();
    let problems = verify(&engine, &heads).await.problems;
    let at = |sequence| JournalProblem::OtherChain {
        writer: head.writer.clone(),
        sequence,
    };
    assert_eq!(problems, [at(3), at(head.sequence)]);
}

/// What the check does not find, and why that is so.
const NOT_FOUND: [(&str, &str, &str); 5] = [
    (
        "commits",
        "fingerprint",
        "no money: the key answers `command.key_reused` from now on",
    ),
    (
        "commits",
        "answer",
        "what was answered, in which may be personal data: it can be forgotten",
    ),
    ("commits", "answer_event", "likewise"),
    (
        "holds",
        "credit_ceiling",
        "was looked at when the hold was made, and is not read again",
    ),
    (
        "holds",
        "usage",
        "where limits are given back; usage is not in the journal",
    ),
];

/// Books of every kind of row, made by steps without a shop.
async fn books_of_steps(file: &Path) -> Vec<ChainHead> {
    let store = SqliteStore::open(file, Arc::new(SystemClock)).unwrap();
    let mut steps = steps::Steps::new(11, 1_700_000_000_000);
    for _ in 0..100 {
        drop(store.commit(steps.batch()).await);
    }
    let heads = store.chain_heads().await.unwrap();
    store.close().await.unwrap();
    heads
}

/// Edits of one column in one row: a number is raised, of a text the last letter is another one
/// or the text that of another row.
fn edits(
    connection: &rusqlite::Connection,
    table: &str,
    column: &str,
    is_text: bool,
) -> Vec<String> {
    // Nulls are edited as well, but only where nothing else is there.
    let middle = format!(
        "(SELECT rowid_of FROM (SELECT ROW_NUMBER() OVER () AS n, {key} AS rowid_of FROM {table}
          WHERE {column} IS NOT NULL OR NOT EXISTS (SELECT 1 FROM {table} WHERE {column} IS NOT NULL))
          ORDER BY n LIMIT 1 OFFSET (SELECT count(*) / 2 FROM {table} WHERE {column} IS NOT NULL))",
        key = key_of(connection, table),
    );
    let row = format!("WHERE {} = {middle}", key_of(connection, table));
    let mut edits = Vec::new();
    if is_text {
        edits.push(format!(
            "UPDATE {table} SET {column} = substr(coalesce({column}, ''), 1,
                 max(length(coalesce({column}, '')) - 1, 0))
                 || CASE substr({column}, -1) WHEN '0' THEN '1' ELSE '0' END {row}"
        ));
        edits.push(format!(
            "UPDATE {table} SET {column} = (SELECT other.{column} FROM {table} other
                 WHERE other.{column} <> {table}.{column} LIMIT 1) {row}"
        ));
    } else {
        edits.push(format!(
            "UPDATE {table} SET {column} = coalesce({column}, 0) + 1 {row}"
        ));
        edits.push(format!(
            "UPDATE {table} SET {column} = coalesce({column}, 0) + 100000 {row}"
        ));
    }
    edits
}

fn key_of(connection: &rusqlite::Connection, table: &str) -> String {
    let sql = "SELECT name FROM pragma_table_info(?1) WHERE pk = 1";
    connection
        .query_row(sql, [table], |row| row.get(0))
        .unwrap()
}

/// Every column of the tables of the journal, and of those that follow from it, is edited in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_any_column_is_found_or_it_is_said_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.db");
    let heads = books_of_steps(&sound).await;
    let connection = rusqlite::Connection::open(&sound).unwrap();
    let mut all = Vec::new();
    for table in [
        "commits",
        "transfers",
        "holds",
        "hold_changes",
        "accounts",
        "reversals",
    ] {
        let mut columns = connection
            .prepare("SELECT name, type FROM pragma_table_info(?1)")
            .unwrap();
        let columns: Vec<(String, String)> = columns
            .query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (column, kind) in columns {
            let found = |edit: String| (table, column.clone(), edit);
            if kind == "BLOB" {
                let edit = format!("UPDATE {table} SET {column} = zeroblob(32) WHERE position = 9");
                all.push(found(edit));
            } else {
                let edits = edits(&connection, table, &column, kind == "TEXT");
                all.extend(edits.into_iter().map(found));
            }
        }
        // A row of it that is gone.
        let key = key_of(&connection, table);
        let row = format!("(SELECT max({key}) FROM {table})");
        let edit = format!("DELETE FROM {table} WHERE {key} = {row}");
        all.push((table, "(the whole row)".to_owned(), edit));
    }
    connection.close().unwrap();

    let (mut tried, mut missed) = (0, Vec::new());
    for (table, column, edit) in all {
        let file = folder.path().join("edited.db");
        std::fs::copy(&sound, &file).unwrap();
        let connection = rusqlite::Connection::open(&file).unwrap();
        // A unique index may be in the way of an edit; then it was none.
        let was_edited = connection.execute(&edit, []).is_ok_and(|rows| rows == 1);
        connection.close().unwrap();
        if was_edited {
            tried += 1;
            if !is_noticed(&file, &heads).await {
                missed.push((table, column));
            }
        }
        for name in ["edited.db", "edited.db.lock"] {
            drop(std::fs::remove_file(folder.path().join(name)));
        }
    }
    println!("{tried} edits, not found: {missed:?}");
    assert!(tried > 70, "{tried}");
    missed.dedup();
    let mut expected: Vec<_> = NOT_FOUND
        .map(|(table, column, _)| (table, column.to_owned()))
        .to_vec();
    expected.sort();
    missed.sort();
    assert_eq!(missed, expected);
}

async fn is_noticed(file: &Path, kept: &[ChainHead]) -> bool {
    let Ok(store) = SqliteStore::open(file, Arc::new(SystemClock)) else {
        return true;
    };
    // What cannot even be read is noticed. The journal is the dearer check.
    if store.check_file().await.is_ok_and(|found| found.is_empty()) {
        let engine = shop::engine_on(Arc::new(store), None).await;
        let verdict = engine
            .reports()
            .verify_journal(&engine.issuer(), &[signed(kept)])
            .await;
        engine.stop().await.unwrap();
        return verdict.map_or(true, |verdict| !verdict.problems.is_empty());
    }
    store.close().await.unwrap();
    true
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

/// However many holds there ever were, they are asked for many at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_asks_for_no_hold_alone() {
    let books: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let store = Arc::new(GatedStore::outliving(books));
    let shop = shop::simulated(store.clone()).await;
    let (merchant, card) = business(&shop.engine).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(5_000)).await;
    for number in 0..3 {
        let name = format!("sale-{number}");
        let sale = shop::sale(&shop.engine, &merchant, &name, sat(700)).await;
        shop.customer.pay(&sale.bolt11).await.unwrap();
        shop::settled(&shop.engine, &sale).await;
    }
    shop.engine.stop().await.unwrap();
    assert!(store.hold_changes(0, 100).await.unwrap().len() > 4);
    let engine = shop::engine_on(store.clone(), None).await;
    let before = store.asked_alone();
    assert_eq!(verify(&engine, &[]).await.problems, []);
    assert_eq!(store.asked_alone(), before);
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
    let trusted = read.verify(&key.public_key()).unwrap();
    assert_eq!(trusted.heads(), read.heads);
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
