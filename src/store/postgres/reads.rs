//! What is read outside of a commit: one statement a question.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use super::PostgresStore;
use super::snapshot::{commit, corrupt};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, Json, NewHold, NewTransfer, Standing, TransferRow,
};
use crate::store::{DocumentPosition, StoreError};

type Read<T> = Result<T, StoreError>;

impl PostgresStore {
    /// What stands under a name, if anything does.
    pub(super) async fn value<T>(
        &self,
        sql: &'static str,
        name: String,
    ) -> Result<Option<T>, StoreError>
    where
        T: FromSqlOwned,
    {
        let rows = self.rows(sql, vec![Box::new(name)]).await?;
        rows.first().map(|row| value(row, 0)).transpose()
    }

    /// What stands under each of these.
    pub(super) async fn values<T>(
        &self,
        sql: &'static str,
        ids: &[TransferId],
    ) -> Result<Vec<T>, StoreError>
    where
        T: FromSqlOwned,
    {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let rows = self.rows(sql, vec![Box::new(ids)]).await?;
        rows.iter().map(|row| value(row, 0)).collect()
    }
}

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
        body: Json::from_text(value::<String>(row, 2)?).map_err(corrupt)?,
    })
}

macro_rules! documents {
    ($end:literal) => {
        concat!(
            "
SELECT k.id, d.version, d.body::text, k.key FROM document_keys k
JOIN documents d ON d.collection = k.collection AND d.id = k.id
WHERE k.collection = $1 AND k.name = $2 AND (k.key, k.id) > ($3, $4) AND ",
            $end,
            "
ORDER BY k.key, k.id LIMIT $6"
        )
    };
}

/// To the end of the index.
pub(super) const DOCUMENTS: &str = documents!("$5::text IS NULL");

/// To a key. A statement of its own, so that the end is the index's and not a look at every row.
pub(super) const DOCUMENTS_TO: &str = documents!("k.key < $5");

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
    Ok((parsed(row, 0)?, totals(row, 1)?))
}

fn totals(row: &Row, first: usize) -> Read<Balance> {
    Ok(Balance {
        debits_posted: parsed(row, first)?,
        credits_posted: parsed(row, first + 1)?,
        debits_pending: value(row, first + 2)?,
        credits_pending: value(row, first + 3)?,
    })
}

/// The columns that [`transfer`] reads, of a transfer `t` with its accounts `d` and `c`.
macro_rules! select_transfers {
    ($($rest:literal),*) => {
        concat!(
            "SELECT t.position, t.id, t.at_ms, d.account, c.account, t.amount, t.kind,
                    t.reference, t.debit_balance_after, t.credit_balance_after,
                    t.commit_position, t.follows
             FROM transfers t JOIN accounts d ON d.id = t.debit
                  JOIN accounts c ON c.id = t.credit ",
            $($rest),*
        )
    };
}

pub(super) const TRANSFERS: &str = select_transfers!(
    "WHERE t.position IN (
         (SELECT position FROM transfers
          WHERE debit = (SELECT id FROM accounts WHERE account = $1) AND position < $2
          ORDER BY position DESC LIMIT $3)
         UNION ALL
         (SELECT position FROM transfers
          WHERE credit = (SELECT id FROM accounts WHERE account = $1) AND position < $2
          ORDER BY position DESC LIMIT $3))
     ORDER BY t.position DESC LIMIT $3"
);

pub(super) const TRANSFER: &str = select_transfers!("WHERE t.id = $1");

pub(super) const JOURNAL: &str =
    select_transfers!("WHERE t.position > $1 ORDER BY t.position LIMIT $2");

pub(super) fn transfer(row: &Row) -> Read<TransferRow> {
    let follows: Option<String> = value(row, 11)?;
    Ok(TransferRow {
        position: value(row, 0)?,
        commit: value(row, 10)?,
        id: parsed(row, 1)?,
        follows: follows.map(|_| parsed(row, 11)).transpose()?,
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

/// The position of the first transfer after a time; one after the last when there is none.
/// Positions have no gaps and times grow with them, so it is found by halves.
pub(super) const FIRST_AFTER: &str = "
WITH RECURSIVE search (low, high) AS (
    SELECT 1::bigint, transfer_position + 1 FROM head
    UNION ALL
    SELECT CASE WHEN t.at_ms <= $1 THEN s.middle + 1 ELSE s.low END,
           CASE WHEN t.at_ms <= $1 THEN s.high ELSE s.middle END
    FROM (SELECT low, high, (low + high) / 2 AS middle FROM search WHERE low < high) AS s
         JOIN transfers t ON t.position = s.middle)
SELECT low FROM search WHERE low >= high";

/// The columns that [`hold`] reads, of a hold `h`.
macro_rules! select_holds {
    ($first:literal, $rest:literal) => {
        concat!(
            $first,
            "h.id, h.debit, h.credit, h.amount, h.remaining, h.kind, h.reference,
             h.credit_ceiling, h.expires_at_ms, h.usage::text ",
            $rest
        )
    };
}

pub(super) const HOLD: &str = select_holds!("SELECT ", "FROM holds h WHERE h.id = $1");

/// One statement, so that it is of one moment: a row for each hold that has ended, or one without.
/// Two indexes, and no account stands on both sides of a hold.
pub(super) const STANDING: &str = select_holds!(
    "SELECT coalesce(a.debits_posted, 0)::text, coalesce(a.credits_posted, 0)::text,
            coalesce(a.debits_pending, 0), coalesce(a.credits_pending, 0),
            ARRAY(SELECT coalesce(u.used, 0)
                  FROM unnest($4::text[], $5::bigint[]) WITH ORDINALITY
                       AS w (subject, start_ms, place)
                       LEFT JOIN usage u ON u.subject = w.subject AND u.start_ms = w.start_ms
                  ORDER BY w.place), ",
    "FROM (SELECT 1) AS one LEFT JOIN accounts a ON a.account = $1
     LEFT JOIN holds h ON h.id IN (
         (SELECT id FROM holds WHERE debit = $1 AND expires_at_ms <= $2 AND remaining > 0
               AND expires_at_ms IS NOT NULL ORDER BY expires_at_ms, id LIMIT $3)
         UNION ALL
         (SELECT id FROM holds WHERE credit = $1 AND expires_at_ms <= $2 AND remaining > 0
               AND expires_at_ms IS NOT NULL ORDER BY expires_at_ms, id LIMIT $3))
     ORDER BY h.expires_at_ms, h.id LIMIT $3"
);

pub(super) fn standing(rows: &[Row]) -> Read<Standing> {
    let Some(first) = rows.first() else {
        return Err(StoreError::Corrupt {
            reason: "a question without an answer".to_owned(),
        });
    };
    let mut ended = Vec::new();
    for row in rows {
        if value::<Option<String>>(row, 5)?.is_some() {
            ended.push(hold_from(row, 5)?);
        }
    }
    Ok(Standing {
        balance: totals(first, 0)?,
        ended,
        used: value(first, 4)?,
    })
}

pub(super) const HOLD_CHANGES: &str = select_holds!(
    "SELECT x.position, x.commit_position, x.change, x.amount, x.remaining, ",
    "FROM hold_changes x JOIN holds h ON h.id = x.hold
     WHERE x.position > $1 ORDER BY x.position LIMIT $2"
);

pub(super) fn hold(row: &Row) -> Read<HoldState> {
    hold_from(row, 0)
}

fn hold_from(row: &Row, first: usize) -> Read<HoldState> {
    let transfer = NewTransfer {
        id: parsed(row, first)?,
        debit: parsed(row, first + 1)?,
        credit: parsed(row, first + 2)?,
        amount: value(row, first + 3)?,
        kind: named(row, first + 5)?,
        reference: value(row, first + 6)?,
        credit_ceiling: value(row, first + 7)?,
    };
    let usage: Option<String> = value(row, first + 9)?;
    let usage = usage.map(|text| serde_json::from_str(&text)).transpose();
    let hold = NewHold {
        transfer,
        expires_at_ms: value(row, first + 8)?,
        usage: usage.map_err(corrupt)?.unwrap_or_default(),
    };
    let remaining = value(row, first + 4)?;
    Ok(HoldState { hold, remaining })
}

pub(super) fn hold_change(row: &Row) -> Read<HoldChangeRow> {
    Ok(HoldChangeRow {
        position: value(row, 0)?,
        commit: value(row, 1)?,
        hold: hold_from(row, 5)?.hold,
        change: named(row, 2)?,
        amount: value(row, 3)?,
        remaining: value(row, 4)?,
    })
}

pub(super) const COMMITS: &str = "
SELECT position, batch, at_ms, scope, writer, sequence, hash FROM commits
WHERE position > $1 ORDER BY position LIMIT $2";

pub(super) fn commit_row(row: &Row) -> Read<CommitRow> {
    Ok(CommitRow {
        position: value(row, 0)?,
        batch: parsed(row, 1)?,
        at_ms: value(row, 2)?,
        scope: value(row, 3)?,
        writer: value(row, 4)?,
        sequence: value(row, 5)?,
        hash: chain_hash(row, 6)?,
    })
}

pub(super) const CHAIN_HEADS: &str =
    "SELECT writer, sequence, hash FROM commits ORDER BY position DESC LIMIT 1";

pub(super) fn chain_head(row: &Row) -> Read<ChainHead> {
    Ok(ChainHead {
        writer: value(row, 0)?,
        sequence: value(row, 1)?,
        hash: chain_hash(row, 2)?,
    })
}

pub(super) fn chain_hash(row: &Row, column: usize) -> Read<ChainHash> {
    let bytes: Vec<u8> = value(row, column)?;
    let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(corrupt)?;
    Ok(ChainHash::new(bytes))
}

/// Goes on from the oldest commit whose answer is still there. Times grow with positions, so the
/// end is found by halves.
pub(super) const FORGET_ANSWERS: &str = "
WITH RECURSIVE search (low, high) AS (
    SELECT 1::bigint, commit_position + 1 FROM head
    UNION ALL
    SELECT CASE WHEN c.at_ms < $1 THEN s.middle + 1 ELSE s.low END,
           CASE WHEN c.at_ms < $1 THEN s.high ELSE s.middle END
    FROM (SELECT low, high, (low + high) / 2 AS middle FROM search WHERE low < high) AS s
         JOIN commits c ON c.position = s.middle),
picked AS (
    SELECT position, scope FROM commits
    WHERE position > coalesce((SELECT value FROM settings WHERE name = 'answers_forgotten_to'), 0)
          AND position < (SELECT low FROM search WHERE low >= high) AND scope IS NOT NULL
    ORDER BY position LIMIT $2),
forgotten AS (
    UPDATE commands SET answer = NULL FROM picked WHERE commands.scope = picked.scope
    RETURNING 1),
reached AS (
    INSERT INTO settings (name, value)
    SELECT 'answers_forgotten_to', max(position) FROM picked HAVING max(position) IS NOT NULL
    ON CONFLICT (name) DO UPDATE SET value = greatest(settings.value, excluded.value))
SELECT count(*) FROM forgotten";

pub(super) const REVERSED: &str = "SELECT amount FROM reversals WHERE transfer = $1";

pub(super) const HOLDS_LEFT: &str = "
SELECT h.remaining FROM unnest($1::text[]) WITH ORDINALITY AS asked (id, place)
     LEFT JOIN holds h ON h.id = asked.id ORDER BY asked.place";

pub(super) const ALL_REVERSED: &str = "
SELECT coalesce(r.amount, 0) FROM unnest($1::text[]) WITH ORDINALITY AS asked (id, place)
     LEFT JOIN reversals r ON r.transfer = asked.id ORDER BY asked.place";

pub(super) const CLAIM: &str = "SELECT claimed_by FROM claims WHERE name = $1";

pub(super) const COUNTER: &str = "SELECT value FROM counters WHERE name = $1";

pub(super) const USAGE: &str = "SELECT used FROM usage WHERE subject = $1 AND start_ms = $2";

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

/// The time of the last commit.
pub(super) const LAST_COMMIT: &str = "SELECT last_commit_ms FROM head";

/// The position of the last event.
pub(super) const LAST_EVENT: &str = "SELECT event_position FROM head";

pub(super) const CURSOR: &str = "SELECT position FROM cursors WHERE name = $1";

pub(super) const ACKNOWLEDGE: &str = "
INSERT INTO cursors (name, position) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET position = greatest(cursors.position, excluded.position)";

/// What another instance is taking at this moment is passed over. Leases go by the server's clock:
/// those of the instances may differ. Whoever begins first may be served second, with the earlier
/// time: so a lease counts that lasts up to a second longer.
pub(super) const LEASE_DUE: &str = "
WITH clock AS MATERIALIZED (
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms),
ready AS (
    SELECT kind, object, clock.now_ms FROM due, clock
    WHERE due_at_ms <= $1 AND kind <> ALL ($4)
          AND EXISTS (SELECT 1 FROM head WHERE schema_version <= 9223372036853775807)
          AND (leased_until_ms <= clock.now_ms OR leased_until_ms - clock.now_ms
                  > least($2, 9000000000000000) + 1000)
    ORDER BY due_at_ms, kind, object LIMIT $3 FOR UPDATE OF due SKIP LOCKED)
UPDATE due SET leased_until_ms = ready.now_ms + least($2, 9000000000000000) FROM ready
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
