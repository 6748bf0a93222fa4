//! One transaction in the making.

use rusqlite::{Connection, Result};

use super::cache::Cache;
use super::known::Known;
use super::state::SqliteRows;
use super::write::write;
use crate::ledger::{Group, LastPositions, NewDocument};
use crate::store::group_commit::CommitTask;

/// A transaction of the writer: batches are decided in memory, upon one another, and written
/// together.
pub(super) struct Writing<'a> {
    connection: &'a Connection,
    /// What is known of documents, until the transaction writes some.
    cache: Option<&'a Cache>,
    group: Option<Group<SqliteRows<'a>>>,
    /// While no group is open.
    known: Known,
    /// When it is committed.
    at_ms: i64,
    any_batch: bool,
    documents: Vec<(i64, NewDocument)>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        cache: &'a Cache,
        known: Known,
        at_ms: i64,
    ) -> Self {
        Self {
            connection,
            cache: Some(cache),
            group: None,
            known,
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
                let (connection, mut known) = (self.connection, std::mem::take(&mut self.known));
                let last = match known.last {
                    Some(last) => last,
                    None => last_positions(connection)?,
                };
                known.last = Some(last);
                let cache = self.cache;
                let rows = SqliteRows {
                    connection,
                    known,
                    cache,
                };
                none.insert(Group::new(rows, last))
            }
        };
        task.decide(group, self.at_ms)
    }

    /// The tables, with all in them that was decided so far; and the time of the commit.
    pub(super) fn tables(&mut self) -> Result<(&'a Connection, i64)> {
        self.cache = None;
        if let Some(group) = self.group.take() {
            let (changes, rows) = group.finish();
            self.known = rows.known;
            self.any_batch |= !changes.is_empty();
            let accounts = write(self.connection, &changes, &self.known)?;
            self.known.written(&changes, &accounts);
            self.documents.extend(changes.documents.into_values());
        }
        Ok((self.connection, self.at_ms))
    }

    /// A change of the tables was made that is not followed.
    pub(super) fn forget(&mut self) {
        let data_version = self.known.data_version;
        self.known = Known {
            data_version,
            ..Known::default()
        };
    }

    /// What is known of the tables if all of it is committed.
    pub(super) fn take_known(&mut self) -> Known {
        std::mem::take(&mut self.known)
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
