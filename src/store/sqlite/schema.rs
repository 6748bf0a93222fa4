//! The tables, and how a file is recognised.

use rusqlite::{Connection, OptionalExtension};

use super::sql_error;
use crate::store::StoreError;

/// Marks the file as ours: "FLSH" in the header of the file (`file` and SQLite tools show it).
const APPLICATION_ID: i64 = 0x464c_5348;

/// The schema this version writes.
pub(super) const SCHEMA_VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE commits (
    position INTEGER PRIMARY KEY,
    batch TEXT NOT NULL UNIQUE,
    at_ms INTEGER NOT NULL,
    scope TEXT
) STRICT;
CREATE TABLE commands (
    scope TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    answer TEXT
) STRICT, WITHOUT ROWID;
-- Lifetime totals can outgrow 64 bits, so they are decimal text; `balance` is for people.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL UNIQUE,
    debits_posted TEXT NOT NULL,
    credits_posted TEXT NOT NULL,
    debits_pending INTEGER NOT NULL,
    credits_pending INTEGER NOT NULL,
    balance INTEGER
) STRICT;
CREATE TABLE transfers (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at_ms INTEGER NOT NULL,
    debit INTEGER NOT NULL REFERENCES accounts (id),
    credit INTEGER NOT NULL REFERENCES accounts (id),
    amount INTEGER NOT NULL CHECK (amount > 0),
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    debit_balance_after INTEGER NOT NULL,
    credit_balance_after INTEGER NOT NULL
) STRICT;
CREATE INDEX transfers_by_debit ON transfers (debit, position);
CREATE INDEX transfers_by_credit ON transfers (credit, position);
CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    debit TEXT NOT NULL,
    credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    remaining INTEGER NOT NULL CHECK (remaining >= 0),
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    credit_ceiling INTEGER,
    expires_at_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE documents (
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (collection, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE document_keys (
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (collection, name, key, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX document_keys_by_document ON document_keys (collection, id);
CREATE TABLE claims (name TEXT PRIMARY KEY, claimed_by TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE usage (
    subject TEXT NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (subject, start_ms)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE TABLE due (
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    due_at_ms INTEGER NOT NULL,
    leased_until_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, object)
) STRICT, WITHOUT ROWID;
CREATE INDEX due_by_time ON due (due_at_ms);
CREATE TABLE cursors (name TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE node_state (
    primary_namespace TEXT NOT NULL,
    secondary_namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (primary_namespace, secondary_namespace, key)
) STRICT, WITHOUT ROWID;
";

/// Makes the tables in a new file, or checks that an old one is ours and sound.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    let application_id = number(connection, "PRAGMA application_id")?;
    let found = number(connection, "PRAGMA user_version")?;
    let objects = number(connection, "SELECT count(*) FROM sqlite_schema")?;
    if application_id == 0 && found == 0 && objects == 0 {
        return create(connection);
    }
    if application_id != APPLICATION_ID {
        let reason = "the file belongs to another program".to_owned();
        return Err(StoreError::Corrupt { reason });
    }
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema {
            found,
            known: SCHEMA_VERSION,
        });
    }
    let verdict: Option<String> = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .optional()
        .map_err(sql_error)?;
    match verdict {
        Some(verdict) if verdict == "ok" => Ok(()),
        Some(reason) => Err(StoreError::Corrupt { reason }),
        None => Err(StoreError::Corrupt {
            reason: "the check gave no answer".into(),
        }),
    }
}

fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction().map_err(sql_error)?;
    transaction.execute_batch(TABLES).map_err(sql_error)?;
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(sql_error)?;
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(sql_error)?;
    transaction.commit().map_err(sql_error)
}

fn number(connection: &Connection, sql: &str) -> Result<i64, StoreError> {
    connection
        .query_row(sql, [], |row| row.get(0))
        .map_err(sql_error)
}
