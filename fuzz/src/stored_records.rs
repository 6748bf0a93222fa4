//! What stands in a file of books, written by a stranger or garbled by a disk: it is read, or
//! said to be damaged.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use flashkit::ids::{BatchId, CardId, TransferId};
use flashkit::ledger::{
    Account, Batch, CommandRecord, DueJob, NewDocument, NewEvent, NewHold, NewTransfer, Step,
    TransferKind, UsageWindow,
};
use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{DocumentQuery, Store, StoreError};
use futures_executor::block_on;
use rusqlite::Connection;
use rusqlite::types::Value;

/// Tables and their columns that are read back into more than text.
const CELLS: &[(&str, &str)] = &[
    ("accounts", "account"),
    ("accounts", "credits_posted"),
    ("accounts", "debits_pending"),
    ("accounts", "debits_posted"),
    ("commands", "answer"),
    ("commits", "at_ms"),
    ("commits", "batch"),
    ("commits", "hash"),
    ("commits", "scope"),
    ("commits", "sequence"),
    ("commits", "writer"),
    ("documents", "body"),
    ("documents", "version"),
    ("due", "due_at_ms"),
    ("due", "object"),
    ("events", "body"),
    ("events", "kind"),
    ("hold_changes", "amount"),
    ("hold_changes", "change"),
    ("holds", "credit"),
    ("holds", "debit"),
    ("holds", "expires_at_ms"),
    ("holds", "kind"),
    ("holds", "remaining"),
    ("holds", "usage"),
    ("transfers", "amount"),
    ("transfers", "debit_balance_after"),
    ("transfers", "follows"),
    ("transfers", "id"),
    ("transfers", "kind"),
    ("transfers", "reference"),
];

struct Books {
    store: SqliteStore,
    raw: Connection,
    folder: tempfile::TempDir,
}

pub fn run(data: &[u8]) -> bool {
    static BOOKS: OnceLock<Mutex<Books>> = OnceLock::new();
    let books = BOOKS.get_or_init(|| Mutex::new(Books::new()));
    let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((cell, value)) = data.split_first() else {
        return false;
    };
    let (table, column) = CELLS[usize::from(*cell) % CELLS.len()];
    books.with(table, column, value)
}

impl Books {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path());
        block_on(store.commit(batch())).expect("a commit");
        let raw = raw(&folder.path().join(FILE));
        Self { store, raw, folder }
    }

    /// Documents that were read before are not read again while the file is open.
    fn open_again(&mut self) {
        block_on(self.store.close()).expect("closed");
        self.store = open(self.folder.path());
    }

    /// Reads everything with this in one cell; `true` when all of it was read.
    fn with(&mut self, table: &str, column: &str, value: &[u8]) -> bool {
        let first = match table {
            "accounts" | "commits" | "events" | "hold_changes" | "transfers" => {
                format!("WHERE rowid = (SELECT min(rowid) FROM {table})")
            }
            _ => String::new(),
        };
        let before: Value = self
            .raw
            .query_row(
                &format!("SELECT {column} FROM {table} {first}"),
                [],
                |row| row.get(0),
            )
            .expect("a row");
        let update = format!("UPDATE {table} SET {column} = ?1 {first}");
        let value = match &before {
            Value::Integer(_) => {
                let mut bytes = [0; 8];
                let length = value.len().min(8);
                bytes[..length].copy_from_slice(&value[..length]);
                Value::Integer(i64::from_le_bytes(bytes))
            }
            Value::Blob(_) => Value::Blob(value.to_vec()),
            _ => match std::str::from_utf8(value) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => return false,
            },
        };
        // The tables have rules of their own, which hold for a stranger as well.
        if self.raw.execute(&update, [&value]).is_err() {
            return false;
        }
        if table == "documents" {
            self.open_again();
        }
        let read = block_on(read_all(&self.store));
        self.raw.execute(&update, [&before]).expect("as it was");
        if table == "documents" {
            self.open_again();
        }
        match read {
            Ok(()) => true,
            Err(StoreError::Corrupt { .. }) => false,
            Err(error) => panic!("{table}.{column}: {error:?}"),
        }
    }
}

const FILE: &str = "books.db";

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder.join(FILE), Arc::new(SystemClock)).expect("a store")
}

fn raw(file: &Path) -> Connection {
    let raw = Connection::open(file).expect("a connection");
    let lax = "PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; PRAGMA busy_timeout = 5000";
    raw.execute_batch(lax).expect("settings");
    raw
}

fn id(number: u8) -> TransferId {
    TransferId::from_parts(1, [number; 10])
}

fn card() -> Account {
    Account::card_balance(CardId::from_parts(1, [7; 10]))
}

/// One of each kind of step.
fn batch() -> Batch {
    let transfer = |number, debit, credit| NewTransfer {
        id: id(number),
        debit,
        credit,
        amount: 1_000,
        kind: TransferKind::TopUp,
        reference: "stored".to_owned(),
        credit_ceiling: None,
    };
    let window = UsageWindow {
        subject: "card".to_owned(),
        start_ms: 0,
        end_ms: i64::MAX,
    };
    let steps = vec![
        Step::Transfer(transfer(1, Account::node_channels(), card())),
        Step::Hold(NewHold {
            transfer: transfer(2, card(), Account::suspense()),
            expires_at_ms: Some(i64::MAX),
            usage: vec![window],
        }),
        Step::Put(NewDocument {
            collection: "thing",
            id: "one".to_owned(),
            read_version: 0,
            body: serde_json::json!({ "colour": "red" }).into(),
            index_keys: vec![("colour", "red".to_owned())],
        }),
        Step::Emit(NewEvent {
            kind: "thing.made",
            object: "one".to_owned(),
            body: serde_json::json!([1, "two"]).into(),
        }),
        Step::Due(DueJob {
            kind: "look".to_owned(),
            object: "one".to_owned(),
            due_at_ms: 1,
        }),
        Step::Advance {
            counter: "card".to_owned(),
            to: 3,
        },
    ];
    let command = CommandRecord {
        scope: "scope".to_owned(),
        fingerprint: "request".to_owned(),
        answer: serde_json::json!({ "answer": 42 }).into(),
    };
    Batch {
        id: BatchId::from_parts(1, [1; 10]),
        command: Some(command),
        steps: steps.into(),
    }
}

async fn read_all(store: &SqliteStore) -> Result<(), StoreError> {
    store.command("scope").await?;
    store.document("thing", "one").await?;
    let query = DocumentQuery {
        collection: "thing",
        index: "colour",
        from: String::new(),
        to: None,
        after: None,
        limit: 10,
    };
    store.documents(query).await?;
    store.balances(None, 10).await?;
    for account in [card(), Account::node_channels()] {
        store.balance(&account).await?;
        store.transfers(&account, None, 10).await?;
        store.balance_at(&account, i64::MAX).await?;
        store.standing(&account, i64::MAX, &[]).await?;
    }
    store.transfer(id(1)).await?;
    store.hold(id(2)).await?;
    store.commits(0, 10).await?;
    store.journal(0, 10).await?;
    store.hold_changes(0, 10).await?;
    store.chain_heads().await?;
    store.events(0, 10).await?;
    store.counter("card").await?;
    // At no time at all, so that nothing is leased.
    store.lease_due(i64::MIN, Duration::ZERO, &[], 10).await?;
    Ok(())
}
