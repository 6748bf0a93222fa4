//! The tables as the ledger sees them, within the writer's transaction.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;

use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, Commit, CommitPlace, HoldState, Json, NewHold,
    NewTransfer, Rows, TransferRow, UsageWindow,
};

use super::cache::Cache;
use super::key::Parts;
use super::known::Known;
use super::{reading, trees};

/// A file has one writer, so its commits are one chain.
const WRITER: &str = "sqlite";

pub(super) struct SqliteRows<'a> {
    pub(super) connection: &'a Connection,
    pub(super) known: Known,
    /// As long as the transaction has not written anything.
    pub(super) cache: Option<&'a Cache>,
}

type Result<T> = rusqlite::Result<T>;

impl Rows for SqliteRows<'_> {
    type Error = rusqlite::Error;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>> {
        let greatest = &mut self.known.greatest_batch;
        if greatest.is_none() {
            *greatest = greatest_id(self.connection, trees::GREATEST_BATCH)?;
        }
        if greatest.is_some_and(|greatest| batch > greatest) {
            return Ok(None);
        }
        self.connection
            .prepare_cached(&format!(
                "SELECT at_ms, coalesce(answer, (SELECT body FROM events
                                                WHERE events.position = answer_event))
                 FROM {} WHERE batch = ?1",
                trees::COMMITS
            ))?
            .query_row([batch.to_string()], commit_from_row)
            .optional()
    }

    fn commit_place(&mut self) -> Result<CommitPlace> {
        if let Some(place) = &self.known.place {
            return Ok(place.clone());
        }
        let last = self
            .connection
            .prepare_cached(
                "SELECT position, writer, sequence, hash FROM commits
                 WHERE position = (SELECT max(position) FROM commits)",
            )?
            .query_row([], |row| {
                let position: i64 = row.get(0)?;
                Ok(CommitPlace {
                    position: position.saturating_add(1),
                    head: chain_head(row, 1)?,
                })
            })
            .optional()?;
        let place = last.unwrap_or_else(|| CommitPlace {
            position: 1,
            head: ChainHead {
                writer: WRITER.to_owned(),
                sequence: 0,
                hash: ChainHash::GENESIS,
            },
        });
        self.known.place = Some(place.clone());
        Ok(place)
    }

    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>> {
        command(self.connection, scope)
    }

    fn balance(&mut self, account: &Account) -> Result<Balance> {
        let known = self.known.accounts.get(account);
        if let Some(balance) = known.and_then(|known| known.balance) {
            return Ok(balance);
        }
        let balance = balance(self.connection, account)?;
        self.known
            .account(account, |known| known.balance = Some(balance));
        Ok(balance)
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool> {
        let greatest = &mut self.known.greatest_transfer;
        if greatest.is_none() {
            *greatest = greatest_id(
                self.connection,
                "SELECT max(id) FROM (SELECT max(id) AS id FROM transfers
                                      UNION ALL SELECT max(id) FROM holds)",
            )?;
        }
        if greatest.is_some_and(|greatest| id > greatest) {
            return Ok(false);
        }
        self.connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM transfers WHERE id = ?1)
                     OR EXISTS (SELECT 1 FROM holds WHERE id = ?1)",
            )?
            .query_row([id.to_string()], |row| row.get(0))
    }

    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>> {
        reading::transfer_by_id(self.connection, id)
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>> {
        hold(self.connection, id)
    }

    fn due_holds(&mut self, account: &Account, at_ms: i64, limit: usize) -> Result<Vec<HoldState>> {
        let known = self.known.accounts.get(account);
        let earliest = match known.and_then(|known| known.no_hold_ends_before_ms) {
            Some(earliest) if earliest > at_ms => return Ok(Vec::new()),
            // Holds that have ended since may have been the earliest.
            _ => reading::first_hold_end(self.connection, account)?.unwrap_or(i64::MAX),
        };
        self.known.account(account, |known| {
            known.no_hold_ends_before_ms = Some(earliest);
        });
        if earliest > at_ms {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        reading::due_holds(self.connection, account, at_ms, limit)
    }

    fn reversed(&mut self, id: TransferId) -> Result<i64> {
        self.connection
            .prepare_cached(
                "SELECT coalesce((SELECT amount FROM reversals WHERE transfer = ?1), 0)",
            )?
            .query_row([id.to_string()], |row| row.get(0))
    }

    fn document_version(&mut self, collection: &'static str, id: &str) -> Result<i64> {
        let name: &dyn Parts = &[collection, id, ""];
        if let Some(version) = self.known.documents.get(name) {
            return Ok(version);
        }
        if let Some(version) = self.cache.and_then(|cache| cache.version(collection, id)) {
            return Ok(version);
        }
        let version = self
            .connection
            .prepare_cached(&format!(
                "SELECT version FROM documents WHERE {}",
                trees::document_is(collection)
            ))?
            .query_row([collection, id], |row| row.get(0))
            .optional()?;
        Ok(version.unwrap_or(0))
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>> {
        claim(self.connection, name)
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>> {
        match self.known.counters.get(name) {
            Some(value) => Ok(Some(value)),
            None => counter(self.connection, name),
        }
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64> {
        let key = (window.subject.clone(), window.start_ms);
        if let Some(used) = self.known.usage.get(&key) {
            return Ok(used);
        }
        usage(self.connection, window)
    }
}

/// The greatest id that `sql` finds; `None` in an empty table.
fn greatest_id<T>(connection: &Connection, sql: &str) -> Result<Option<T>>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let greatest: Option<String> = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    greatest
        .map(|id| id.parse().map_err(unreadable))
        .transpose()
}

pub(super) fn command(connection: &Connection, scope: &str) -> Result<Option<(String, Commit)>> {
    connection
        // Not the view: a commit whose command is missing must not be taken for none.
        .prepare_cached(&format!(
            "SELECT at_ms, coalesce(answer, (SELECT body FROM events
                                            WHERE events.position = answer_event)), fingerprint
             FROM commits WHERE {}",
            trees::command_is(scope)
        ))?
        .query_row([scope], |row| Ok((row.get(2)?, commit_from_row(row)?)))
        .optional()
}

pub(super) fn balance(connection: &Connection, account: &Account) -> Result<Balance> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT debits_posted, credits_posted, debits_pending, credits_pending
             FROM accounts WHERE {}",
            trees::account_is(account)
        ))?
        .query_row([account.to_string()], |row| balance_from_row(row, 0))
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) fn balance_from_row(row: &Row<'_>, first: usize) -> Result<Balance> {
    Ok(Balance {
        debits_posted: parsed(row, first)?,
        credits_posted: parsed(row, first + 1)?,
        debits_pending: row.get(first + 2)?,
        credits_pending: row.get(first + 3)?,
    })
}

/// The columns that [`hold_from_row`] reads.
pub(super) const HOLD_COLUMNS: &str = "h.id, h.debit, h.credit, h.amount, h.remaining, h.kind,
    h.reference, h.credit_ceiling, h.expires_at_ms, h.usage";

pub(super) fn hold(connection: &Connection, id: TransferId) -> Result<Option<HoldState>> {
    connection
        .prepare_cached(&format!(
            "SELECT {HOLD_COLUMNS} FROM holds h WHERE h.id = ?1"
        ))?
        .query_row([id.to_string()], |row| hold_from_row(row, 0))
        .optional()
}

pub(super) fn hold_from_row(row: &Row<'_>, first: usize) -> Result<HoldState> {
    let transfer = NewTransfer {
        id: parsed(row, first)?,
        debit: parsed(row, first + 1)?,
        credit: parsed(row, first + 2)?,
        amount: row.get(first + 3)?,
        kind: named(row, first + 5)?,
        reference: row.get(first + 6)?,
        credit_ceiling: row.get(first + 7)?,
    };
    let usage: Option<String> = row.get(first + 9)?;
    let hold = NewHold {
        transfer,
        expires_at_ms: row.get(first + 8)?,
        usage: usage.map_or(Ok(Vec::new()), |text| from_json(&text))?,
    };
    Ok(HoldState {
        hold,
        remaining: row.get(first + 4)?,
    })
}

pub(super) fn chain_head(row: &Row<'_>, first: usize) -> Result<ChainHead> {
    Ok(ChainHead {
        writer: row.get(first)?,
        sequence: row.get(first + 1)?,
        hash: ChainHash::new(row.get(first + 2)?),
    })
}

pub(super) fn claim(connection: &Connection, name: &str) -> Result<Option<String>> {
    connection
        .prepare_cached(&format!(
            "SELECT claimed_by FROM {} WHERE name = ?1",
            trees::claims(name)
        ))?
        .query_row([name], |row| row.get(0))
        .optional()
}

pub(super) fn counter(connection: &Connection, name: &str) -> Result<Option<i64>> {
    connection
        .prepare_cached(&format!(
            "SELECT value FROM {} WHERE name = ?1",
            trees::counters(name)
        ))?
        .query_row([name], |row| row.get(0))
        .optional()
}

pub(super) fn usage(connection: &Connection, window: &UsageWindow) -> Result<i64> {
    let used = connection
        .prepare_cached("SELECT used FROM usage WHERE subject = ?1 AND start_ms = ?2")?
        .query_row(params![window.subject, window.start_ms], |row| row.get(0))
        .optional()?;
    Ok(used.unwrap_or(0))
}

fn commit_from_row(row: &Row<'_>) -> Result<Commit> {
    let answer: Option<String> = row.get(1)?;
    let answer = answer.map(|text| Json::from_text(text).map_err(unreadable));
    let answer = answer.transpose()?;
    Ok(Commit {
        at_ms: row.get(0)?,
        answer,
        replayed: false,
    })
}

/// A column whose text has a `FromStr` of ours.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?.parse().map_err(unreadable)
}

/// A column that holds the serde name of a unit variant.
pub(super) fn named<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    let name: String = row.get(column)?;
    serde_json::from_value(serde_json::Value::String(name)).map_err(unreadable)
}

/// A column that is kept as it is.
pub(super) fn json(row: &Row<'_>, column: usize) -> Result<Json> {
    Json::from_text(row.get::<_, String>(column)?).map_err(unreadable)
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(unreadable)
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}
