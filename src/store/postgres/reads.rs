//! What is read outside of a commit: one statement a question.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use super::snapshot::{commit, corrupt};
use crate::ledger::{
    Account, Balance, Commit, Document, DueJob, EventRecord, HoldState, NewHold, NewTransfer,
    TransferRow,
};
use crate::store::{DocumentPosition, StoreError};

type Read<T> = Result<T, StoreError>;

pub(super) const COMMAND: &str =
    "SELECT fingerprint, at_ms, answer::text FROM commands WHERE scope = $1";

pub(super) fn command(row: &Row) -> Read<(String, Commit)> {
    Ok((value(row, 0)?, commit(value(row, 1)?, value(row, 2)?)?))
}

pub(super) const DOCUMENT: &str =
    "SELECT id, version, body::text FROM documents WHERE collection = $1 AND id = $2";

pub(super) fn document(row: &Row) -> Read<Document> {
    Ok(Document {
        id: value(row, 0)?,
        version: value(row, 1)?,
        body: json(row, 2)?,
    })
}

pub(super) const DOCUMENTS: &str = "
SELECT k.id, d.version, d.body::text, k.key FROM document_keys k
JOIN documents d ON d.collection = k.collection AND d.id = k.id
WHERE k.collection = $1 AND k.name = $2 AND (k.key, k.id) > ($3, $4)
      AND ($5::text IS NULL OR k.key < $5)
ORDER BY k.key, k.id LIMIT $6";

pub(super) fn found_document(row: &Row) -> Read<(DocumentPosition, Document)> {
    let document = document(row)?;
    let position = DocumentPosition {
        key: value(row, 3)?,
        id: document.id.clone(),
    };
    Ok((position, document))
}

pub(super) const BALANCE: &str = "
SELECT account, debits_posted::text, credits_posted::text, debits_pending, credits_pending
FROM accounts WHERE account = $1";

pub(super) const BALANCES: &str = "
SELECT account, debits_posted::text, credits_posted::text, debits_pending, credits_pending
FROM accounts WHERE account > $1 ORDER BY account LIMIT $2";

pub(super) fn balance(row: &Row) -> Read<(Account, Balance)> {
    let balance = Balance {
        debits_posted: parsed(row, 1)?,
        credits_posted: parsed(row, 2)?,
        debits_pending: value(row, 3)?,
        credits_pending: value(row, 4)?,
    };
    Ok((parsed(row, 0)?, balance))
}

pub(super) const TRANSFERS: &str = "
WITH wanted AS (SELECT id FROM accounts WHERE account = $1),
     positions AS (
         (SELECT position FROM transfers
          WHERE debit = (SELECT id FROM wanted) AND position < $2
          ORDER BY position DESC LIMIT $3)
         UNION ALL
         (SELECT position FROM transfers
          WHERE credit = (SELECT id FROM wanted) AND position < $2
          ORDER BY position DESC LIMIT $3)
     )
SELECT t.position, t.id, t.at_ms, d.account, c.account, t.amount, t.kind, t.reference,
       t.debit_balance_after, t.credit_balance_after
FROM positions JOIN transfers t ON t.position = positions.position
     JOIN accounts d ON d.id = t.debit JOIN accounts c ON c.id = t.credit
ORDER BY t.position DESC LIMIT $3";

pub(super) fn transfer(row: &Row) -> Read<TransferRow> {
    Ok(TransferRow {
        position: value(row, 0)?,
        id: parsed(row, 1)?,
        at_ms: value(row, 2)?,
        debit: parsed(row, 3)?,
        credit: parsed(row, 4)?,
        amount: value(row, 5)?,
        kind: named(row, 6)?,
        reference: value(row, 7)?,
        debit_balance_after: value(row, 8)?,
        credit_balance_after: value(row, 9)?,
    })
}

pub(super) const HOLD: &str = "
SELECT id, debit, credit, amount, remaining, kind, reference, credit_ceiling, expires_at_ms
FROM holds WHERE id = $1";

pub(super) fn hold(row: &Row) -> Read<HoldState> {
    let transfer = NewTransfer {
        id: parsed(row, 0)?,
        debit: parsed(row, 1)?,
        credit: parsed(row, 2)?,
        amount: value(row, 3)?,
        kind: named(row, 5)?,
        reference: value(row, 6)?,
        credit_ceiling: value(row, 7)?,
    };
    let hold = NewHold {
        transfer,
        expires_at_ms: value(row, 8)?,
    };
    let remaining = value(row, 4)?;
    Ok(HoldState { hold, remaining })
}

pub(super) const CLAIM: &str = "SELECT claimed_by FROM claims WHERE name = $1";

pub(super) const COUNTER: &str = "SELECT value FROM counters WHERE name = $1";

pub(super) const EVENTS: &str = "
SELECT position, at_ms, kind, object, body::text FROM events
WHERE position > $1 ORDER BY position LIMIT $2";

pub(super) fn event(row: &Row) -> Read<EventRecord> {
    Ok(EventRecord {
        position: value(row, 0)?,
        at_ms: value(row, 1)?,
        kind: value(row, 2)?,
        object: value(row, 3)?,
        body: json(row, 4)?,
    })
}

/// The position of the last event.
pub(super) const LAST_EVENT: &str = "SELECT event_position FROM head";

pub(super) const CURSOR: &str = "SELECT position FROM cursors WHERE name = $1";

pub(super) const ACKNOWLEDGE: &str = "
INSERT INTO cursors (name, position) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET position = greatest(cursors.position, excluded.position)";

/// What another instance is taking at this moment is passed over.
pub(super) const LEASE_DUE: &str = "
WITH ready AS (
    SELECT kind, object FROM due WHERE due_at_ms <= $1 AND leased_until_ms <= $1
    ORDER BY due_at_ms, kind, object LIMIT $3 FOR UPDATE SKIP LOCKED)
UPDATE due SET leased_until_ms = $2 FROM ready
WHERE due.kind = ready.kind AND due.object = ready.object
RETURNING due.kind, due.object, due.due_at_ms";

pub(super) fn job(row: &Row) -> Read<DueJob> {
    Ok(DueJob {
        kind: value(row, 0)?,
        object: value(row, 1)?,
        due_at_ms: value(row, 2)?,
    })
}

pub(super) const NODE_VALUE: &str = "
SELECT value FROM node_state
WHERE primary_namespace = $1 AND secondary_namespace = $2 AND key = $3";

pub(super) const NODE_KEYS: &str = "
SELECT key FROM node_state WHERE primary_namespace = $1 AND secondary_namespace = $2
ORDER BY key";

pub(super) fn value<T: FromSqlOwned>(row: &Row, column: usize) -> Read<T> {
    row.try_get(column).map_err(corrupt)
}

/// A column whose text has a `FromStr` of ours.
fn parsed<T>(row: &Row, column: usize) -> Read<T>
where
    T: FromStr,
    T::Err: std::error::Error,
{
    value::<String>(row, column)?.parse().map_err(corrupt)
}

/// A column that holds the serde name of a unit variant.
fn named<T: DeserializeOwned>(row: &Row, column: usize) -> Read<T> {
    serde_json::from_value(serde_json::Value::String(value(row, column)?)).map_err(corrupt)
}

fn json<T: DeserializeOwned>(row: &Row, column: usize) -> Read<T> {
    serde_json::from_str(&value::<String>(row, column)?).map_err(corrupt)
}
