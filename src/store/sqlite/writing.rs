//! One transaction in the making.

use rusqlite::{Connection, Result};

use super::state::SqliteRows;
use super::write::write;
use crate::ledger::{Group, LastPositions, NewDocument};
use crate::store::group_commit::CommitTask;

/// A transaction of the writer: batches are decided in memory, upon one another, and written
/// together.
pub(super) struct Writing<'a> {
    connection: &'a Connection,
    group: Option<Group<SqliteRows<'a>>>,
    /// When it is committed.
    at_ms: i64,
    any_batch: bool,
    documents: Vec<(i64, NewDocument)>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(connection: &'a Connection, at_ms: i64) -> Self {
        Self {
            connection,
            group: None,
            at_ms,
            any_batch: false,
            documents: Vec::new(),
        }
    }

    /// Carries out a batch, upon those before it.
    pub(super) fn batch(&mut self, task: &mut CommitTask) -> Result<()> {
        let group = match &mut self.group {
            Some(group) => group,
            none => {
                let last = last_positions(self.connection)?;
                none.insert(Group::new(SqliteRows(self.connection), last))
            }
        };
        task.decide(group, self.at_ms)
    }

    /// The tables, with all in them that was decided so far; and the time of the commit.
    pub(super) fn tables(&mut self) -> Result<(&'a Connection, i64)> {
        if let Some(group) = self.group.take() {
            let (changes, _) = group.finish();
            self.any_batch |= !changes.is_empty();
            write(self.connection, &changes)?;
            self.documents.extend(changes.documents.into_values());
        }
        Ok((self.connection, self.at_ms))
    }

    /// Whether any batch changed anything.
    pub(super) fn any_batch(&self) -> bool {
        self.any_batch
    }

    /// The documents that were written, with their versions.
    pub(super) fn take_documents(&mut self) -> Vec<(i64, NewDocument)> {
        std::mem::take(&mut self.documents)
    }
}

fn last_positions(connection: &Connection) -> Result<LastPositions> {
    connection
        .prepare_cached(
            "SELECT coalesce((SELECT max(position) FROM transfers), 0),
                    coalesce((SELECT max(position) FROM hold_changes), 0)",
        )?
        .query_row([], |row| {
            Ok(LastPositions {
                transfer: row.get(0)?,
                hold_change: row.get(1)?,
            })
        })
}
