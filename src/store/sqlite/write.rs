//! What a group changed, written to the tables: each table in turn, its rows in their order, so
//! that the pages of one index are visited once.

use std::collections::HashMap;

use rusqlite::{CachedStatement, Connection, Result, params};

use super::known::Known;
use crate::ledger::{Account, Changes, HoldState, NewDocument};

/// Writes all of it, within the writer's transaction. Answers where the accounts stand that
/// changed.
pub(super) fn write(
    connection: &Connection,
    changes: &Changes,
    known: &Known,
) -> Result<HashMap<Account, i64>> {
    let accounts = accounts(connection, changes, known)?;
    transfers(connection, changes, &accounts)?;
    reversals(connection, changes)?;
    holds(connection, changes)?;
    hold_changes(connection, changes)?;
    documents(connection, changes)?;
    names(connection, changes)?;
    usage(connection, changes)?;
    events(connection, changes)?;
    due(connection, changes)?;
    commands(connection, changes)?;
    commits(connection, changes)?;
    Ok(accounts)
}

/// The statement, unless there is nothing to be done with it.
fn statement<'a, T>(
    connection: &'a Connection,
    mut rows: impl ExactSizeIterator<Item = T>,
    sql: &str,
    mut each: impl FnMut(&mut CachedStatement<'a>, T) -> Result<()>,
) -> Result<()> {
    if rows.len() == 0 {
        return Ok(());
    }
    let mut statement = connection.prepare_cached(sql)?;
    rows.try_for_each(|row| each(&mut statement, row))
}

/// Answers the row ids of the accounts that changed, among which are those of all transfers.
fn accounts(
    connection: &Connection,
    changes: &Changes,
    known: &Known,
) -> Result<HashMap<Account, i64>> {
    let mut ids = HashMap::with_capacity(changes.balances.len());
    for (account, balance) in &changes.balances {
        let shown = i64::try_from(balance.posted(account.kind().side())).ok();
        let (debits, credits) = (
            balance.debits_posted.to_string(),
            balance.credits_posted.to_string(),
        );
        let (debits_pending, credits_pending) = (balance.debits_pending, balance.credits_pending);
        let row = known.accounts.get(account).and_then(|known| known.row);
        let id = match row {
            Some(id) => {
                connection
                    .prepare_cached(
                        "UPDATE accounts SET debits_posted = ?2, credits_posted = ?3,
                             debits_pending = ?4, credits_pending = ?5, balance = ?6
                         WHERE id = ?1",
                    )?
                    .execute(params![
                        id,
                        debits,
                        credits,
                        debits_pending,
                        credits_pending,
                        shown
                    ])?;
                id
            }
            None => connection
                .prepare_cached(
                    "INSERT INTO accounts (account, debits_posted, credits_posted,
                                           debits_pending, credits_pending, balance)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (account) DO UPDATE SET debits_posted = ?2,
                         credits_posted = ?3, debits_pending = ?4, credits_pending = ?5,
                         balance = ?6
                     RETURNING id",
                )?
                .query_row(
                    params![
                        account.to_string(),
                        debits,
                        credits,
                        debits_pending,
                        credits_pending,
                        shown
                    ],
                    |row| row.get(0),
                )?,
        };
        ids.insert(*account, id);
    }
    Ok(ids)
}

fn transfers(
    connection: &Connection,
    changes: &Changes,
    accounts: &HashMap<Account, i64>,
) -> Result<()> {
    statement(
        connection,
        changes.transfers.iter(),
        "INSERT INTO transfers (position, commit_position, id, follows, at_ms, debit, credit,
                                amount, kind, reference, debit_balance_after,
                                credit_balance_after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        |statement, row| {
            statement.execute(params![
                row.position,
                row.commit,
                row.id.to_string(),
                row.follows.map(|id| id.to_string()),
                row.at_ms,
                accounts.get(&row.debit),
                accounts.get(&row.credit),
                row.amount,
                row.kind.as_str(),
                row.reference,
                row.debit_balance_after,
                row.credit_balance_after,
            ])?;
            Ok(())
        },
    )
}

fn reversals(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.reversed.iter(),
        "INSERT INTO reversals (transfer, amount) VALUES (?1, ?2)
         ON CONFLICT (transfer) DO UPDATE SET amount = ?2",
        |statement, (id, amount)| statement.execute(params![id.to_string(), amount]).map(drop),
    )
}

fn holds(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.holds.values(),
        "INSERT INTO holds (id, debit, credit, amount, remaining, kind, reference,
                            credit_ceiling, expires_at_ms, usage)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT (id) DO UPDATE SET remaining = ?5",
        |statement, HoldState { hold, remaining }| {
            let transfer = &hold.transfer;
            let usage = (!hold.usage.is_empty())
                .then(|| serde_json::to_string(&hold.usage))
                .transpose()
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            statement.execute(params![
                transfer.id.to_string(),
                transfer.debit.to_string(),
                transfer.credit.to_string(),
                transfer.amount,
                remaining,
                transfer.kind.as_str(),
                transfer.reference,
                transfer.credit_ceiling,
                hold.expires_at_ms,
                usage,
            ])?;
            Ok(())
        },
    )
}

fn hold_changes(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.hold_changes.iter(),
        "INSERT INTO hold_changes (position, commit_position, hold, change, amount, remaining)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        |statement, row| {
            statement.execute(params![
                row.position,
                row.commit,
                row.hold.transfer.id.to_string(),
                row.change.as_str(),
                row.amount,
                row.remaining,
            ])?;
            Ok(())
        },
    )
}

fn documents(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.documents.values(),
        "INSERT INTO documents (collection, id, version, body) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (collection, id) DO UPDATE SET version = ?3, body = ?4",
        |statement, (version, document)| {
            let NewDocument {
                collection,
                id,
                body,
                ..
            } = document;
            statement.execute(params![collection, id, version, body.to_string()])?;
            Ok(())
        },
    )?;
    for (version, document) in changes.documents.values() {
        let (collection, id) = (document.collection, &document.id);
        if *version > 1 {
            connection
                .prepare_cached("DELETE FROM document_keys WHERE collection = ?1 AND id = ?2")?
                .execute(params![collection, id])?;
        }
        statement(
            connection,
            document.index_keys.iter(),
            "INSERT OR IGNORE INTO document_keys (collection, name, key, id)
             VALUES (?1, ?2, ?3, ?4)",
            |statement, (name, key)| {
                statement.execute(params![collection, name, key, id])?;
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Claims and counters.
fn names(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.claims.iter(),
        "INSERT INTO claims (name, claimed_by) VALUES (?1, ?2)",
        |statement, (name, by)| statement.execute([name, by]).map(drop),
    )?;
    statement(
        connection,
        changes.counters.iter(),
        "INSERT INTO counters (name, value) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET value = ?2",
        |statement, (name, value)| statement.execute(params![name, value]).map(drop),
    )
}

fn usage(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.usage.iter(),
        "INSERT INTO usage (subject, start_ms, end_ms, used) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (subject, start_ms) DO UPDATE SET used = ?4",
        |statement, ((subject, start_ms), (end_ms, used))| {
            statement.execute(params![subject, start_ms, end_ms, used])?;
            Ok(())
        },
    )
}

fn events(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.events.iter(),
        "INSERT INTO events (at_ms, kind, object, body) VALUES (?1, ?2, ?3, ?4)",
        |statement, (event, at_ms)| {
            statement.execute(params![
                at_ms,
                event.kind,
                event.object,
                event.body.to_string()
            ])?;
            Ok(())
        },
    )
}

fn due(connection: &Connection, changes: &Changes) -> Result<()> {
    for ((kind, object), due_at_ms) in &changes.due {
        match due_at_ms {
            Some(due_at_ms) => connection
                .prepare_cached(
                    "INSERT INTO due (kind, object, due_at_ms, leased_until_ms)
                     VALUES (?1, ?2, ?3, 0)
                     ON CONFLICT (kind, object)
                         DO UPDATE SET due_at_ms = ?3, leased_until_ms = 0",
                )?
                .execute(params![kind, object, due_at_ms])?,
            None => connection
                .prepare_cached("DELETE FROM due WHERE kind = ?1 AND object = ?2")?
                .execute([kind, object])?,
        };
    }
    Ok(())
}

fn commands(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.commands.iter(),
        "INSERT INTO commands (scope, fingerprint, at_ms, answer) VALUES (?1, ?2, ?3, ?4)",
        |statement, (scope, (fingerprint, commit))| {
            let answer = commit.answer.as_ref().map(ToString::to_string);
            statement.execute(params![scope, fingerprint, commit.at_ms, answer])?;
            Ok(())
        },
    )
}

fn commits(connection: &Connection, changes: &Changes) -> Result<()> {
    statement(
        connection,
        changes.commits.iter(),
        "INSERT INTO commits (position, batch, at_ms, scope, writer, sequence, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        |statement, row| {
            statement.execute(params![
                row.position,
                row.batch.to_string(),
                row.at_ms,
                row.scope,
                row.writer,
                row.sequence,
                row.hash.as_bytes(),
            ])?;
            Ok(())
        },
    )
}
