//! Everything that changes the tables, within a draft of the writer's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::draft::Draft;
use super::reading::node_key;
use super::tables::*;
use super::tree::Order;
use crate::ledger::{Changes, DueJob, EventRecord, HoldState};
use crate::store::{KeyValueWrite, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

/// The most commits that are looked at in one turn of the writer: most may have no answer.
const MOST_COMMITS: usize = 10_000;

/// Writes what a group of batches changed.
pub(super) fn write(to: &mut Draft<'_>, changes: &Changes) -> Result<()> {
    write_commits(to, changes)?;
    write_money(to, changes)?;
    write_holds(to, changes)?;
    write_documents(to, changes)?;
    write_named(to, &CLAIMS, &changes.claims)?;
    write_named(to, &COUNTERS, &changes.counters)?;
    for ((subject, start_ms), end_and_used) in &changes.usage {
        to.put(&USAGE, (subject, *start_ms), end_and_used)?;
    }
    write_events(to, changes)?;
    write_due(to, changes)
}

fn write_named<V: serde::Serialize>(
    to: &mut Draft<'_>,
    table: &Table<V>,
    rows: &BTreeMap<String, V>,
) -> Result<()> {
    rows.iter()
        .try_for_each(|(name, row)| to.put(table, name, row))
}

fn write_commits(to: &mut Draft<'_>, changes: &Changes) -> Result<()> {
    for row in &changes.commits {
        to.put(&COMMITS, row.position, row)?;
        to.put(&BATCHES, row.batch.to_string(), &row.position)?;
    }
    for (scope, (fingerprint, commit)) in &changes.commands {
        let done = DoneCommand {
            fingerprint: fingerprint.clone(),
            at_ms: commit.at_ms,
            answer: commit.answer.as_ref().map(ToString::to_string),
        };
        to.put(&COMMANDS, scope, &done)?;
    }
    Ok(())
}

fn write_money(to: &mut Draft<'_>, changes: &Changes) -> Result<()> {
    for (account, balance) in &changes.balances {
        to.put(&BALANCES, account.to_string(), balance)?;
    }
    for (id, amount) in &changes.reversed {
        to.put(&REVERSED, id.to_string(), amount)?;
    }
    for row in &changes.transfers {
        to.put(&TRANSFERS, row.position, row)?;
        to.put(&TRANSFER_IDS, row.id.to_string(), &row.position)?;
        for account in [row.debit, row.credit] {
            let of = account.to_string();
            to.put(&ACCOUNT_TRANSFERS, (&of, row.position), &())?;
            to.put(&PAST, (&of, row.at_ms), &row.balance_after(&account))?;
        }
    }
    Ok(())
}

fn write_holds(to: &mut Draft<'_>, changes: &Changes) -> Result<()> {
    for row in &changes.hold_changes {
        to.put(&HOLD_CHANGES, row.position, row)?;
    }
    for (id, state) in &changes.holds {
        to.put(&HOLDS, id.to_string(), state)?;
        let HoldState { hold, remaining } = state;
        let Some(end_ms) = hold.expires_at_ms else {
            continue;
        };
        for account in [hold.transfer.debit, hold.transfer.credit] {
            let ending = (account.to_string(), end_ms, id.to_string());
            match remaining {
                0 => to.remove(ENDINGS.key(ending)),
                _ => to.put(&ENDINGS, ending, &())?,
            }
        }
    }
    Ok(())
}

fn write_documents(to: &mut Draft<'_>, changes: &Changes) -> Result<()> {
    for ((collection, id), (version, document)) in &changes.documents {
        let before = get(to, &DOCUMENTS, (*collection, id))?;
        for (index, key) in before.into_iter().flat_map(|before| before.keys) {
            to.remove(INDEX.key((*collection, index, key, id)));
        }
        for (index, key) in &document.index_keys {
            to.put(&INDEX, (*collection, *index, key, id), &())?;
        }
        let keys = document.index_keys.iter();
        let kept = KeptDocument {
            version: *version,
            body: document.body.clone(),
            keys: keys
                .map(|(index, key)| ((*index).to_owned(), key.clone()))
                .collect(),
        };
        to.put(&DOCUMENTS, (*collection, id), &kept)?;
    }
    Ok(())
}

fn write_events(to: &mut Draft<'_>, changes: &Changes) -> Result<()> {
    let last = last_position(to, &EVENTS)?;
    for (position, (event, at_ms)) in (last + 1..).zip(&changes.events) {
        let record = EventRecord {
            position,
            at_ms: *at_ms,
            kind: event.kind.to_owned(),
            object: event.object.clone(),
            body: event.body.read().map_err(corrupt)?,
        };
        to.put(&EVENTS, position, &record)?;
    }
    Ok(())
}

fn write_due(to: &mut Draft<'_>, changes: &Changes) -> Result<()> {
    for ((kind, object), due_at_ms) in &changes.due {
        if let Some(before_ms) = get(to, &DUE, (kind, object))? {
            to.remove(DUE_TIMES.key((before_ms, kind, object)));
            to.remove(DUE.key((kind, object)));
        }
        if let Some(due_at_ms) = due_at_ms {
            to.put(&DUE, (kind, object), due_at_ms)?;
            // Nobody has a lease of a job that was set again.
            to.put(&DUE_TIMES, (*due_at_ms, kind, object), &i64::MIN)?;
        }
    }
    Ok(())
}

const FORGOTTEN: &str = "forgotten_to";

pub(super) fn forget_answers(to: &mut Draft<'_>, before_ms: i64, limit: usize) -> Result<usize> {
    let before = get(to, &SETTINGS, FORGOTTEN)?.unwrap_or(0);
    let (mut reached, mut scopes) = (before, Vec::new());
    for row in rows(to, COMMITS.after(before), Order::Forwards)?.take(MOST_COMMITS) {
        let row: crate::ledger::CommitRow = decode(&row?.1)?;
        // Commit times never decrease: nothing older comes after it.
        if scopes.len() == limit || row.at_ms >= before_ms {
            break;
        }
        reached = row.position;
        scopes.extend(row.scope);
    }
    for scope in &scopes {
        let mut done = there(get(to, &COMMANDS, scope)?)?;
        done.answer = None;
        to.put(&COMMANDS, scope, &done)?;
    }
    // Asked often and with nothing to forget mostly: then nothing is written, and flushed.
    if reached > before {
        to.put(&SETTINGS, FORGOTTEN, &reached)?;
    }
    Ok(scopes.len())
}

pub(super) fn acknowledge(to: &mut Draft<'_>, name: &str, position: i64) -> Result<()> {
    let before = get(to, &CURSORS, name)?.unwrap_or(0);
    if position > before {
        to.put(&CURSORS, name, &position)?;
    }
    Ok(())
}

pub(super) fn lease_due(
    to: &mut Draft<'_>,
    now_ms: i64,
    (due_by_ms, lasts): (i64, Duration),
    except: &[String],
    limit: usize,
) -> Result<Vec<DueJob>> {
    let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
    let lease_until_ms = now_ms.saturating_add(lasts_ms);
    let mut keys = DUE_TIMES.under(());
    keys.end = DUE_TIMES.under(due_by_ms).end;
    let mut taken = Vec::new();
    for row in rows(to, keys, Order::Forwards)? {
        let (key, until) = row?;
        let (due_at_ms, kind, object) = DUE_TIMES.parts::<(i64, String, String)>(&key)?;
        let until_ms: i64 = decode(&until)?;
        let is_free = until_ms <= now_ms || until_ms > lease_until_ms;
        if is_free && !except.contains(&kind) {
            taken.push(DueJob {
                kind,
                object,
                due_at_ms,
            });
        }
        if taken.len() == limit {
            break;
        }
    }
    for job in &taken {
        let at = (job.due_at_ms, &job.kind, &job.object);
        to.put(&DUE_TIMES, at, &lease_until_ms)?;
    }
    Ok(taken)
}

const EPOCH: &str = "node_epoch";

fn epoch(to: &Draft<'_>) -> Result<u64> {
    let epoch = get(to, &SETTINGS, EPOCH)?.unwrap_or(0);
    u64::try_from(epoch).map_err(corrupt)
}

pub(super) fn next_epoch(to: &mut Draft<'_>) -> Result<u64> {
    let next = epoch(to)?.saturating_add(1);
    to.put(&SETTINGS, EPOCH, &next.cast_signed())?;
    Ok(next)
}

/// Refuses any epoch but the current one. None has begun before the first.
pub(super) fn check_epoch(to: &Draft<'_>, given: u64) -> Result<()> {
    let current = epoch(to)?;
    if given == current && given != 0 {
        return Ok(());
    }
    Err(StoreError::Fenced { given, current })
}

pub(super) fn write_node(to: &mut Draft<'_>, change: &KeyValueWrite) {
    match change {
        KeyValueWrite::Put { path, value } => to.put_bytes(node_key(path), value.clone()),
        KeyValueWrite::Remove { path } => to.remove(node_key(path)),
    }
}
