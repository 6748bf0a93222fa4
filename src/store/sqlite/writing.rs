//! One transaction in the making.

use rusqlite::{Connection, Result};

use super::cache::Cache;
use super::known::Known;
use super::moving::handed_over;
use super::state::SqliteRows;
use super::write::write;
use crate::ledger::{Group, LastPositions, NewDocument};
use crate::store::StoreError;
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
        if self.group.is_none() && handed_over(self.connection)? {
            task.refuse(StoreError::HandedOver);
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::ids::BatchId;
    use crate::ledger::{Batch, Document, Step};
    use crate::store::group_commit::Waiting;
    use crate::store::sqlite::schema;

    const COLLECTION: &str = "thing";

    fn batch(number: u8, read_version: i64) -> Batch {
        Batch {
            id: BatchId::from_parts(1, [number; 10]),
            command: None,
            steps: vec![Step::Put(NewDocument {
                collection: COLLECTION,
                id: "one".to_owned(),
                read_version,
                body: serde_json::json!({ "number": number }).into(),
                index_keys: Vec::new(),
            })]
            .into(),
        }
    }

    /// What a batch comes to in a transaction; its changes are not written yet.
    fn decided(writing: &mut Writing<'_>, batch: Batch) -> Result<(), &'static str> {
        let (mut task, answered) = CommitTask::new(batch);
        writing.batch(&mut task).unwrap();
        task.finish(Ok(()));
        let mut context = Context::from_waker(Waker::noop());
        match pin!(answered).poll(&mut context) {
            Poll::Ready(Ok(_)) => Ok(()),
            Poll::Ready(Err(crate::store::CommitError::Refused(refusal))) => Err(refusal.code()),
            other => panic!("{other:?}"),
        }
    }

    /// What was read of documents before the transaction is how they stood then: once it has
    /// written some, and a change was made that nobody followed, the tables alone say how they
    /// stand.
    #[test]
    fn what_was_read_before_a_transaction_wrote_is_not_believed_in_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        let cache = Cache::default();
        let mut before = Writing::new(&connection, &cache, Known::default(), 1);
        assert_eq!(decided(&mut before, batch(1, 0)), Ok(()));
        before.tables().unwrap();
        let read = Document {
            id: "one".to_owned(),
            version: 1,
            body: serde_json::json!({ "number": 1 }).into(),
        };
        let read_at = cache.document(COLLECTION, "one").unwrap_err();
        cache.keep((COLLECTION, "one"), Some(&read), read_at);
        assert_eq!(cache.version(COLLECTION, "one"), Some(1));

        let mut writing = Writing::new(&connection, &cache, Known::default(), 2);
        assert_eq!(decided(&mut writing, batch(2, 1)), Ok(()));
        // As a task does that is no batch.
        writing.tables().unwrap();
        writing.forget();
        let late = decided(&mut writing, batch(3, 1));
        assert_eq!(late, Err("ledger.conflict"), "it would undo the second");
        assert_eq!(decided(&mut writing, batch(4, 2)), Ok(()));
    }
}
