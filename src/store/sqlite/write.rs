//! What a group changed, written to the tables: each table in turn, its rows in their order, so
//! that the pages of one index are visited once.

use std::collections::{BTreeSet, HashMap};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, params};

use super::known::Known;
use super::state::from_json;
use super::trees;
use crate::ledger::{Account, Changes, HoldState, Json, NewDocument};

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
    let events = events(connection, changes)?;
    due(connection, changes)?;
    commits(connection, changes, &events)?;
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
        let row = match known.accounts.get(account).and_then(|known| known.row) {
            Some(row) => Some(row),
            None => connection
                .prepare_cached(&format!(
                    "SELECT id FROM accounts WHERE {}",
                    trees::account_is(account)
                ))?
                .query_row([account.to_string()], |row| row.get(0))
                .optional()?,
        };
        // An upsert would make SQLite look for transfers that refer to the account.
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
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .insert(params![
                    account.to_string(),
                    debits,
                    credits,
                    debits_pending,
                    credits_pending,
                    shown
                ])?,
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
    )?;
    let mut of_accounts: Vec<(i64, i64)> = Vec::new();
    for row in &changes.transfers {
        let sides = [row.debit, row.credit];
        let sides = sides.iter().filter_map(|account| accounts.get(account));
        of_accounts.extend(sides.map(|account| (*account, row.position)));
    }
    of_accounts.sort_unstable();
    statement(
        connection,
        of_accounts.iter(),
        "INSERT INTO account_transfers (account, position) VALUES (?1, ?2)",
        |statement, (account, position)| statement.execute([account, position]).map(drop),
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
                .map_err(unwritable)?;
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
    for (version, document) in changes.documents.values() {
        let keys: BTreeSet<(&str, &str)> = document
            .index_keys
            .iter()
            .map(|(name, key)| (*name, key.as_str()))
            .collect();
        let (number, before) = put_document(connection, *version, document, &keys)?;
        document_keys(connection, document, number, &before, &keys)?;
    }
    Ok(())
}

/// Writes a document. Answers its number, and the keys of the version before.
fn put_document(
    connection: &Connection,
    version: i64,
    document: &NewDocument,
    keys: &BTreeSet<(&str, &str)>,
) -> Result<(i64, BTreeSet<(String, String)>)> {
    let NewDocument {
        collection,
        id,
        body,
        ..
    } = document;
    let body = body.as_str();
    let keys = (!keys.is_empty()).then(|| serde_json::to_string(keys));
    let keys = keys.transpose().map_err(unwritable)?;
    // One that is made and changed in the same group is not there yet.
    let before: Option<(i64, Option<String>)> = match version {
        ..=1 => None,
        _ => connection
            .prepare_cached(&format!(
                "SELECT number, keys FROM documents WHERE {}",
                trees::document_is(collection)
            ))?
            .query_row([collection, id.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?,
    };
    let Some((number, before)) = before else {
        connection
            .prepare_cached(
                "INSERT INTO documents (collection, id, version, body, keys)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![collection, id, version, body, keys])?;
        return Ok((connection.last_insert_rowid(), BTreeSet::new()));
    };
    connection
        .prepare_cached(
            "UPDATE documents SET version = ?2, body = ?3, keys = ?4 WHERE number = ?1",
        )?
        .execute(params![number, version, body, keys])?;
    let before = before.map_or(Ok(BTreeSet::new()), |keys| from_json(&keys))?;
    Ok((number, before))
}

/// Most changes of a document leave its keys as they are.
fn document_keys(
    connection: &Connection,
    document: &NewDocument,
    number: i64,
    before: &BTreeSet<(String, String)>,
    keys: &BTreeSet<(&str, &str)>,
) -> Result<()> {
    let (collection, id) = (document.collection, &document.id);
    for (name, key) in before {
        if !keys.contains(&(name.as_str(), key.as_str())) {
            connection
                .prepare_cached(&format!(
                    "DELETE FROM {} WHERE collection = ?1 AND name = ?2 AND key = ?3 AND id = ?4",
                    trees::keys(collection, name)
                ))?
                .execute(params![collection, name, key, id])?;
        }
    }
    for (name, key) in keys {
        if !before.contains(&((*name).to_owned(), (*key).to_owned())) {
            connection
                .prepare_cached(&format!(
                    "INSERT INTO {} (collection, name, key, id, document)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    trees::keys(collection, name)
                ))?
                .execute(params![collection, name, key, id, number])?;
        }
    }
    Ok(())
}

/// Claims and counters.
fn names(connection: &Connection, changes: &Changes) -> Result<()> {
    for (name, by) in &changes.claims {
        connection
            .prepare_cached(&format!(
                "INSERT INTO {} (name, claimed_by) VALUES (?1, ?2)",
                trees::claims(name)
            ))?
            .execute([name, by])?;
    }
    for (name, value) in &changes.counters {
        connection
            .prepare_cached(&format!(
                "INSERT INTO {} (name, value) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = ?2",
                trees::counters(name)
            ))?
            .execute(params![name, value])?;
    }
    Ok(())
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

/// Answers where the events stand, by what they say.
fn events<'a>(connection: &Connection, changes: &'a Changes) -> Result<HashMap<&'a str, i64>> {
    let mut positions = HashMap::with_capacity(changes.events.len());
    statement(
        connection,
        changes.events.iter(),
        "INSERT INTO events (at_ms, kind, object, body) VALUES (?1, ?2, ?3, ?4)",
        |statement, (event, at_ms)| {
            let body = event.body.as_str();
            let position = statement.insert(params![at_ms, event.kind, event.object, body])?;
            positions.insert(body, position);
            Ok(())
        },
    )?;
    Ok(positions)
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

/// Commits with their commands. An answer that an event says as well is written as its position.
fn commits(connection: &Connection, changes: &Changes, events: &HashMap<&str, i64>) -> Result<()> {
    statement(
        connection,
        changes.commits.iter(),
        "INSERT INTO commits (position, batch, at_ms, scope, writer, sequence, hash, fingerprint,
                              answer, answer_event)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        |statement, row| {
            let command = row
                .scope
                .as_ref()
                .and_then(|scope| changes.commands.get(scope));
            let answer = command.and_then(|(_, commit)| commit.answer.as_ref());
            let answer = answer.map(Json::as_str);
            let event = answer.and_then(|answer| events.get(answer));
            statement.execute(params![
                row.position,
                row.batch.to_string(),
                row.at_ms,
                row.scope,
                row.writer,
                row.sequence,
                row.hash.as_bytes(),
                command.map(|(fingerprint, _)| fingerprint),
                answer.filter(|_| event.is_none()),
                event,
            ])?;
            Ok(())
        },
    )
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}
