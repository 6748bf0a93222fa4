//! The tables as the ledger sees them, within the writer's transaction.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;

use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, Commit, CommitPlace, CommitRow, DueJob, HoldChangeRow,
    HoldState, NewDocument, NewEvent, NewHold, NewTransfer, State, TransferRow, UsageWindow,
};

use super::reading;

/// A file has one writer, so its commits are one chain.
const WRITER: &str = "sqlite";

pub(super) struct SqliteState<'a>(pub(super) &'a Connection);

type Result<T> = rusqlite::Result<T>;

impl State for SqliteState<'_> {
    type Error = rusqlite::Error;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>> {
        self.0
            .prepare_cached(
                "SELECT commits.at_ms, commands.answer FROM commits
                 LEFT JOIN commands ON commands.scope = commits.scope WHERE batch = ?1",
            )?
            .query_row([batch.to_string()], commit_from_row)
            .optional()
    }

    fn commit_place(&mut self) -> Result<CommitPlace> {
        let last = self
            .0
            .prepare_cached(
                "SELECT position, writer, sequence, hash FROM commits
                 ORDER BY position DESC LIMIT 1",
            )?
            .query_row([], |row| {
                let position: i64 = row.get(0)?;
                Ok(CommitPlace {
                    position: position.saturating_add(1),
                    head: chain_head(row, 1)?,
                })
            })
            .optional()?;
        Ok(last.unwrap_or_else(|| CommitPlace {
            position: 1,
            head: ChainHead {
                writer: WRITER.to_owned(),
                sequence: 0,
                hash: ChainHash::GENESIS,
            },
        }))
    }

    fn put_commit(&mut self, row: &CommitRow, _commit: &Commit) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO commits (position, batch, at_ms, scope, writer, sequence, hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                row.position,
                row.batch.to_string(),
                row.at_ms,
                row.scope,
                row.writer,
                row.sequence,
                row.hash.as_bytes(),
            ])?;
        Ok(())
    }

    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>> {
        command(self.0, scope)
    }

    fn put_command(&mut self, scope: &str, fingerprint: &str, commit: &Commit) -> Result<()> {
        let answer = commit.answer.as_ref().map(ToString::to_string);
        self.0
            .prepare_cached(
                "INSERT INTO commands (scope, fingerprint, at_ms, answer)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![scope, fingerprint, commit.at_ms, answer])?;
        Ok(())
    }

    fn balance(&mut self, account: &Account) -> Result<Balance> {
        balance(self.0, account)
    }

    fn put_balance(&mut self, account: &Account, balance: &Balance) -> Result<()> {
        let shown = i64::try_from(balance.posted(account.kind().side())).ok();
        self.0
            .prepare_cached(
                "INSERT INTO accounts (account, debits_posted, credits_posted, debits_pending,
                                       credits_pending, balance)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (account) DO UPDATE SET debits_posted = ?2, credits_posted = ?3,
                     debits_pending = ?4, credits_pending = ?5, balance = ?6",
            )?
            .execute(params![
                account.to_string(),
                balance.debits_posted.to_string(),
                balance.credits_posted.to_string(),
                balance.debits_pending,
                balance.credits_pending,
                shown,
            ])?;
        Ok(())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool> {
        self.0
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM transfers WHERE id = ?1)
                     OR EXISTS (SELECT 1 FROM holds WHERE id = ?1)",
            )?
            .query_row([id.to_string()], |row| row.get(0))
    }

    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>> {
        reading::transfer_by_id(self.0, id)
    }

    fn append_transfer(&mut self, row: &TransferRow) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO transfers (commit_position, id, follows, at_ms, debit, credit, amount,
                                        kind, reference, debit_balance_after,
                                        credit_balance_after)
                 VALUES (?1, ?2, ?3, ?4, (SELECT id FROM accounts WHERE account = ?5),
                         (SELECT id FROM accounts WHERE account = ?6), ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                row.commit,
                row.id.to_string(),
                row.follows.map(|id| id.to_string()),
                row.at_ms,
                row.debit.to_string(),
                row.credit.to_string(),
                row.amount,
                row.kind.as_str(),
                row.reference,
                row.debit_balance_after,
                row.credit_balance_after,
            ])?;
        Ok(())
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>> {
        hold(self.0, id)
    }

    fn put_hold(&mut self, state: &HoldState) -> Result<()> {
        let NewHold {
            transfer,
            expires_at_ms,
            usage,
        } = &state.hold;
        let usage = (!usage.is_empty())
            .then(|| serde_json::to_string(usage))
            .transpose()
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        self.0
            .prepare_cached(
                "INSERT INTO holds (id, debit, credit, amount, remaining, kind, reference,
                                    credit_ceiling, expires_at_ms, usage)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (id) DO UPDATE SET remaining = ?5",
            )?
            .execute(params![
                transfer.id.to_string(),
                transfer.debit.to_string(),
                transfer.credit.to_string(),
                transfer.amount,
                state.remaining,
                transfer.kind.as_str(),
                transfer.reference,
                transfer.credit_ceiling,
                expires_at_ms,
                usage,
            ])?;
        Ok(())
    }

    fn due_holds(&mut self, account: &Account, at_ms: i64, limit: usize) -> Result<Vec<HoldState>> {
        reading::due_holds(self.0, account, at_ms, limit)
    }

    fn append_hold_change(&mut self, row: &HoldChangeRow) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO hold_changes (commit_position, hold, change, amount, remaining)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                row.commit,
                row.hold.transfer.id.to_string(),
                row.change.as_str(),
                row.amount,
                row.remaining,
            ])?;
        Ok(())
    }

    fn reversed(&mut self, id: TransferId) -> Result<i64> {
        self.0
            .prepare_cached(
                "SELECT coalesce((SELECT amount FROM reversals WHERE transfer = ?1), 0)",
            )?
            .query_row([id.to_string()], |row| row.get(0))
    }

    fn put_reversed(&mut self, id: TransferId, amount: i64) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO reversals (transfer, amount) VALUES (?1, ?2)
                 ON CONFLICT (transfer) DO UPDATE SET amount = ?2",
            )?
            .execute(params![id.to_string(), amount])?;
        Ok(())
    }

    fn document_version(&mut self, collection: &str, id: &str) -> Result<i64> {
        let version = self
            .0
            .prepare_cached("SELECT version FROM documents WHERE collection = ?1 AND id = ?2")?
            .query_row([collection, id], |row| row.get(0))
            .optional()?;
        Ok(version.unwrap_or(0))
    }

    fn put_document(&mut self, document: &NewDocument, version: i64) -> Result<()> {
        let NewDocument {
            collection,
            id,
            body,
            index_keys,
            ..
        } = document;
        self.0
            .prepare_cached(
                "INSERT INTO documents (collection, id, version, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (collection, id) DO UPDATE SET version = ?3, body = ?4",
            )?
            .execute(params![collection, id, version, body.to_string()])?;
        if version > 1 {
            self.0
                .prepare_cached("DELETE FROM document_keys WHERE collection = ?1 AND id = ?2")?
                .execute(params![collection, id])?;
        }
        let mut insert = self.0.prepare_cached(
            "INSERT OR IGNORE INTO document_keys (collection, name, key, id)
             VALUES (?1, ?2, ?3, ?4)",
        )?;
        for (name, key) in index_keys {
            insert.execute(params![collection, name, key, id])?;
        }
        Ok(())
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>> {
        claim(self.0, name)
    }

    fn put_claim(&mut self, name: &str, by: &str) -> Result<()> {
        self.0
            .prepare_cached("INSERT INTO claims (name, claimed_by) VALUES (?1, ?2)")?
            .execute([name, by])?;
        Ok(())
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>> {
        counter(self.0, name)
    }

    fn put_counter(&mut self, name: &str, value: i64) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO counters (name, value) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = ?2",
            )?
            .execute(params![name, value])?;
        Ok(())
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64> {
        let used = self
            .0
            .prepare_cached("SELECT used FROM usage WHERE subject = ?1 AND start_ms = ?2")?
            .query_row(params![window.subject, window.start_ms], |row| row.get(0))
            .optional()?;
        Ok(used.unwrap_or(0))
    }

    fn put_usage(&mut self, window: &UsageWindow, used: i64) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO usage (subject, start_ms, end_ms, used) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (subject, start_ms) DO UPDATE SET used = ?4",
            )?
            .execute(params![
                window.subject,
                window.start_ms,
                window.end_ms,
                used
            ])?;
        Ok(())
    }

    fn append_event(&mut self, event: &NewEvent, at_ms: i64) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO events (at_ms, kind, object, body) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                at_ms,
                event.kind,
                event.object,
                event.body.to_string()
            ])?;
        Ok(())
    }

    fn put_due(&mut self, job: &DueJob) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO due (kind, object, due_at_ms, leased_until_ms)
                 VALUES (?1, ?2, ?3, 0)
                 ON CONFLICT (kind, object) DO UPDATE SET due_at_ms = ?3, leased_until_ms = 0",
            )?
            .execute(params![job.kind, job.object, job.due_at_ms])?;
        Ok(())
    }

    fn remove_due(&mut self, kind: &str, object: &str) -> Result<()> {
        self.0
            .prepare_cached("DELETE FROM due WHERE kind = ?1 AND object = ?2")?
            .execute([kind, object])?;
        Ok(())
    }
}

pub(super) fn command(connection: &Connection, scope: &str) -> Result<Option<(String, Commit)>> {
    connection
        .prepare_cached("SELECT at_ms, answer, fingerprint FROM commands WHERE scope = ?1")?
        .query_row([scope], |row| Ok((row.get(2)?, commit_from_row(row)?)))
        .optional()
}

pub(super) fn balance(connection: &Connection, account: &Account) -> Result<Balance> {
    let found = connection
        .prepare_cached(
            "SELECT debits_posted, credits_posted, debits_pending, credits_pending
             FROM accounts WHERE account = ?1",
        )?
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
        .prepare_cached("SELECT claimed_by FROM claims WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

pub(super) fn counter(connection: &Connection, name: &str) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT value FROM counters WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

fn commit_from_row(row: &Row<'_>) -> Result<Commit> {
    let answer: Option<String> = row.get(1)?;
    let answer = answer.map(|text| from_json(&text)).transpose()?;
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

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(unreadable)
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}
