//! A group decided upon the tables, and written to them later: for a store that has a flush to
//! lose.

use super::MemoryStore;
use super::tables::Change;
use crate::ledger::{Changes, Group, LastPositions, State};
use crate::store::StoreError;
use crate::store::group_commit::CommitTask;

impl MemoryStore {
    /// Decides a group as of `at_ms`: what it changes, and nothing is changed yet. Nobody else may
    /// write before it is [written](Self::write_group) or forgotten.
    pub(crate) fn decide_group<'a>(
        &self,
        tasks: impl Iterator<Item = &'a mut CommitTask>,
        at_ms: i64,
    ) -> Result<Changes, StoreError> {
        let mut tables = self.lock()?;
        let last = LastPositions {
            transfer: last_position(tables.transfers.len()),
            hold_change: last_position(tables.hold_changes.len()),
        };
        let mut books = Group::new(Change::new(&mut tables), last);
        for task in tasks {
            let Ok(()) = task.decide(&mut books, at_ms);
        }
        Ok(books.finish().0)
    }

    /// Writes what a group changed, all at once.
    pub(crate) fn write_group(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut tables = self.lock()?;
        if let Some(last) = changes.commits.last() {
            tables.last_commit_ms = last.at_ms;
        }
        let Ok(()) = write(&mut Change::new(&mut tables), changes);
        drop(tables);
        self.committed.notify(usize::MAX);
        Ok(())
    }

    /// The time of the last commit.
    pub(crate) fn last_commit_ms(&self) -> Result<i64, StoreError> {
        Ok(self.lock()?.last_commit_ms)
    }
}

fn write<S: State>(state: &mut S, changes: &Changes) -> Result<(), S::Error> {
    for (scope, (fingerprint, commit)) in &changes.commands {
        state.put_command(scope, fingerprint, commit)?;
    }
    for row in &changes.commits {
        let command = row
            .scope
            .as_ref()
            .and_then(|scope| changes.commands.get(scope));
        let commit = crate::ledger::Commit {
            at_ms: row.at_ms,
            answer: command.and_then(|(_, commit)| commit.answer.clone()),
            replayed: false,
        };
        state.put_commit(row, &commit)?;
    }
    for (account, balance) in &changes.balances {
        state.put_balance(account, balance)?;
    }
    for row in &changes.transfers {
        state.append_transfer(row)?;
    }
    for (id, amount) in &changes.reversed {
        state.put_reversed(*id, *amount)?;
    }
    for hold in changes.holds.values() {
        state.put_hold(hold)?;
    }
    for row in &changes.hold_changes {
        state.append_hold_change(row)?;
    }
    for (version, document) in changes.documents.values() {
        state.put_document(document, *version)?;
    }
    for (name, by) in &changes.claims {
        state.put_claim(name, by)?;
    }
    for (name, value) in &changes.counters {
        state.put_counter(name, *value)?;
    }
    for ((subject, start_ms), (end_ms, used)) in &changes.usage {
        let window = crate::ledger::UsageWindow {
            subject: subject.clone(),
            start_ms: *start_ms,
            end_ms: *end_ms,
        };
        state.put_usage(&window, *used)?;
    }
    for (event, at_ms) in &changes.events {
        state.append_event(event, *at_ms)?;
    }
    for ((kind, object), due_at_ms) in &changes.due {
        match due_at_ms {
            Some(due_at_ms) => state.put_due(&crate::ledger::DueJob {
                kind: kind.clone(),
                object: object.clone(),
                due_at_ms: *due_at_ms,
            })?,
            None => state.remove_due(kind, object)?,
        }
    }
    Ok(())
}

fn last_position(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
