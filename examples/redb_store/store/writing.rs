//! Everything that changes the tables, within a transaction of the writer's.

use std::time::Duration;

use flashkit::ledger::{Changes, CommitRow, DueJob, EventRecord, HoldState};
use flashkit::store::{KeyValueWrite, StoreError};
use redb::{ReadableTable, WriteTransaction};

use super::fault::{Fault, Result, corrupt};
use super::tables::*;

/// Writes what a group of batches changed.
pub fn write(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    write_commits(to, changes)?;
    write_money(to, changes)?;
    write_holds(to, changes)?;
    write_documents(to, changes)?;
    put_all(to, CLAIMS, named(&changes.claims))?;
    put_all(to, COUNTERS, named(&changes.counters))?;
    let usage = changes.usage.iter();
    put_all(to, USAGE, usage.map(|(key, used)| (key.clone(), used)))?;
    write_events(to, changes)?;
    write_due(to, changes)
}

type Column<T> = std::collections::BTreeMap<String, T>;

fn named<T>(rows: &Column<T>) -> impl Iterator<Item = (String, &T)> {
    rows.iter().map(|(name, row)| (name.clone(), row))
}

fn write_commits(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let rows = changes.commits.iter();
    put_all(to, COMMITS, rows.clone().map(|row| (row.position, row)))?;
    let batches = rows.map(|row| (row.batch.to_string(), row.position));
    put_all(to, BATCHES, batches)?;
    let commands = named(&changes.commands).map(|(scope, (fingerprint, commit))| {
        let done = DoneCommand {
            fingerprint: fingerprint.clone(),
            at_ms: commit.at_ms,
            answer: commit.answer.as_ref().map(ToString::to_string),
        };
        (scope, done)
    });
    put_all(to, COMMANDS, commands)
}

fn write_money(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let balances = changes.balances.iter();
    put_all(
        to,
        BALANCES,
        balances.map(|(of, row)| (of.to_string(), row)),
    )?;
    let reversed = changes.reversed.iter();
    put_all(
        to,
        REVERSED,
        reversed.map(|(id, row)| (id.to_string(), row)),
    )?;
    let rows = changes.transfers.iter();
    put_all(to, TRANSFERS, rows.clone().map(|row| (row.position, row)))?;
    let ids = rows.clone().map(|row| (row.id.to_string(), row.position));
    put_all(to, TRANSFER_IDS, ids)?;
    let sides = rows.flat_map(|row| [(row, row.debit), (row, row.credit)]);
    let of_account = sides.clone();
    let of_account = of_account.map(|(row, of)| ((of.to_string(), row.position), ()));
    put_all(to, ACCOUNT_TRANSFERS, of_account)?;
    let past = sides.map(|(row, of)| ((of.to_string(), row.at_ms), row.balance_after(&of)));
    put_all(to, PAST, past)
}

fn write_holds(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let holds = changes.holds.iter();
    put_all(to, HOLDS, holds.map(|(id, row)| (id.to_string(), row)))?;
    let rows = changes.hold_changes.iter();
    put_all(to, HOLD_CHANGES, rows.map(|row| (row.position, row)))?;
    let mut endings = to.open_table(ENDINGS)?;
    for HoldState { hold, remaining } in changes.holds.values() {
        let Some(end_ms) = hold.expires_at_ms else {
            continue;
        };
        for account in [hold.transfer.debit, hold.transfer.credit] {
            let ending = (account.to_string(), end_ms, hold.transfer.id.to_string());
            match remaining {
                0 => drop(endings.remove(ending)?),
                _ => put(&mut endings, ending, ())?,
            }
        }
    }
    Ok(())
}

fn write_documents(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut documents, mut index) = (to.open_table(DOCUMENTS)?, to.open_table(INDEX)?);
    for ((collection, id), (version, document)) in &changes.documents {
        let at = ((*collection).to_owned(), id.clone());
        let row = |(name, key)| ((*collection).to_owned(), name, key, id.clone());
        let before: Option<KeptDocument> = get(&documents, at.clone())?;
        for key in before.into_iter().flat_map(|before| before.keys) {
            index.remove(row(key))?;
        }
        let keys = document.index_keys.iter();
        let keys: Vec<_> = keys
            .map(|(name, key)| ((*name).to_owned(), key.clone()))
            .collect();
        for key in &keys {
            put(&mut index, row(key.clone()), ())?;
        }
        let (version, body) = (*version, document.body.clone());
        put(
            &mut documents,
            at,
            KeptDocument {
                version,
                body,
                keys,
            },
        )?;
    }
    Ok(())
}

fn write_events(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let last = last_key(&to.open_table(EVENTS)?)?;
    let mut rows = Vec::new();
    for (position, (event, at_ms)) in (last + 1..).zip(&changes.events) {
        let record = EventRecord {
            position,
            at_ms: *at_ms,
            kind: event.kind.to_owned(),
            object: event.object.clone(),
            body: event.body.read().map_err(corrupt)?,
        };
        rows.push((position, record));
    }
    put_all(to, EVENTS, rows)
}

fn write_due(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut due, mut times) = (to.open_table(DUE)?, to.open_table(DUE_TIMES)?);
    for (job, due_at_ms) in &changes.due {
        let at = |at_ms| (at_ms, job.0.clone(), job.1.clone());
        if let Some(before_ms) = get(&due, job.clone())? {
            times.remove(at(before_ms))?;
            due.remove(job)?;
        }
        if let Some(due_at_ms) = *due_at_ms {
            put(&mut due, job.clone(), due_at_ms)?;
            // Nobody has a lease of a job that was set again.
            put(&mut times, at(due_at_ms), i64::MIN)?;
        }
    }
    Ok(())
}

pub fn forget_answers(to: &WriteTransaction, before_ms: i64, limit: usize) -> Result<usize> {
    let commits = to.open_table(COMMITS)?;
    let (mut commands, mut settings) = (to.open_table(COMMANDS)?, to.open_table(SETTINGS)?);
    let mut reached: i64 = get(&settings, "forgotten_to".to_owned())?.unwrap_or(0);
    let mut forgotten = 0;
    for row in commits.range(reached + 1..)? {
        let row: CommitRow = decode(row?.1.value())?;
        // Commit times never decrease: nothing older comes after it.
        if forgotten == limit || row.at_ms >= before_ms {
            break;
        }
        reached = row.position;
        let Some(scope) = row.scope else { continue };
        if let Some(mut done) = get::<_, DoneCommand>(&commands, scope.clone())? {
            done.answer = None;
            put(&mut commands, scope, done)?;
            forgotten += 1;
        }
    }
    put(&mut settings, "forgotten_to".to_owned(), reached)?;
    Ok(forgotten)
}

pub fn acknowledge(to: &WriteTransaction, name: String, position: i64) -> Result<()> {
    let mut cursors = to.open_table(CURSORS)?;
    let before = get(&cursors, name.clone())?.unwrap_or(0);
    put(&mut cursors, name, position.max(before))
}

pub fn lease_due(
    to: &WriteTransaction,
    now_ms: i64,
    (due_by_ms, lasts): (i64, Duration),
    except: &[String],
    limit: usize,
) -> Result<Vec<DueJob>> {
    let mut times = to.open_table(DUE_TIMES)?;
    let mut taken = Vec::new();
    let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
    let lease_until_ms = now_ms.saturating_add(lasts_ms);
    let end = (due_by_ms.saturating_add(1), String::new(), String::new());
    for row in times.range(..end)? {
        let (job, until) = row?;
        let ((due_at_ms, kind, object), until_ms) = (job.value(), decode::<i64>(until.value())?);
        let is_free = until_ms <= now_ms || until_ms > lease_until_ms;
        if is_free && !except.contains(&kind) && taken.len() < limit {
            taken.push(DueJob {
                kind,
                object,
                due_at_ms,
            });
        }
    }
    for job in &taken {
        let at = (job.due_at_ms, job.kind.clone(), job.object.clone());
        put(&mut times, at, lease_until_ms)?;
    }
    Ok(taken)
}

const EPOCH: &str = "node_epoch";

pub fn next_epoch(to: &WriteTransaction) -> Result<u64> {
    let mut settings = to.open_table(SETTINGS)?;
    let epoch = get(&settings, EPOCH.to_owned())?.unwrap_or(0) + 1;
    put(&mut settings, EPOCH.to_owned(), epoch)?;
    Ok(epoch)
}

/// Refuses any epoch but the current one. None has begun before the first.
pub fn check_epoch(to: &WriteTransaction, given: u64) -> Result<()> {
    let current = get(&to.open_table(SETTINGS)?, EPOCH.to_owned())?.unwrap_or(0);
    if given == current && given != 0 {
        return Ok(());
    }
    Err(Fault(StoreError::Fenced { given, current }))
}

pub fn write_node(to: &WriteTransaction, change: &KeyValueWrite) -> Result<()> {
    let mut node = to.open_table(NODE)?;
    match change {
        KeyValueWrite::Put { path, value } => node.insert(node_key(path), value.as_slice())?,
        KeyValueWrite::Remove { path } => node.remove(node_key(path))?,
    };
    Ok(())
}
