//! The store built in: one SQLite file in write-ahead-log mode.
//!
//! Every commit is flushed before it is answered (`synchronous=FULL`, `fullfsync` where the
//! system has it). One thread writes and groups what waits into one flush; two threads read.

mod node_state;
mod readers;
mod schema;
mod state;
mod tasks;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use self::readers::Readers;
use self::state::{balance_from_row, from_json, named, parsed};
use self::tasks::{CommitTask, run_task};
use self::writer::{Lane, Queue, Stopped, StopsWhenDropped, Writer};
use super::{CommitError, DocumentPosition, DocumentQuery, MAX_PAGE, Store, StoreError};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, Batch, Commit, Document, DueJob, EventRecord, HoldState, TransferRow,
};
use crate::ports::Clock;

const READER_THREADS: usize = 2;
const STATEMENT_CACHE: usize = 64;

/// A store in one SQLite file. Clones share it; it closes when the last one is dropped or
/// [`close`](Store::close) is called.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<Queue>,
    readers: Arc<Readers>,
    committed: Arc<Event>,
    stopped: Arc<Stopped>,
    location: PathBuf,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The threads finish what waits and end by themselves; nobody waits for them here.
        self.queue.close();
        self.readers.close();
    }
}

impl SqliteStore {
    /// Opens the store in `file`, or makes a new one there. Commit times come from `clock`.
    ///
    /// This reads and checks the file on the calling thread; in async code call it from a thread
    /// that may block.
    ///
    /// # Errors
    /// `store.in_use` when another engine has the file, `store.newer_schema`, `store.corrupt`,
    /// `store.read_only`, `store.io`. The file is not changed by a refusal.
    pub fn open(file: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let file = file.as_ref();
        let lock = lock_file(file)?;
        let mut connection = connect(file, OpenFlags::SQLITE_OPEN_CREATE)?;
        schema::prepare(&mut connection, file)?;
        harden(&connection)?;
        let last_commit_ms = connection
            .query_row(
                "SELECT coalesce((SELECT at_ms FROM commits ORDER BY position DESC LIMIT 1), 0)",
                [],
                |row| row.get(0),
            )
            .map_err(sql_error)?;

        let shared = Arc::new(Shared {
            queue: Arc::new(Queue::new()),
            readers: Arc::default(),
            committed: Arc::new(Event::new()),
            stopped: Arc::default(),
            location: file.to_owned(),
        });
        let mut threads = Vec::new();
        for _ in 0..READER_THREADS {
            let (readers, reader) = (shared.readers.clone(), connect(file, OpenFlags::empty())?);
            threads.push(spawn("flashkit-read", move || readers.run(&reader))?);
        }
        let writer = Writer {
            connection,
            queue: shared.queue.clone(),
            clock,
            last_commit_ms,
            committed: shared.committed.clone(),
            lock,
            readers: threads,
            stopped: StopsWhenDropped(shared.stopped.clone()),
        };
        drop(spawn("flashkit-write", move || writer.run())?);
        Ok(Self { shared })
    }

    /// The file.
    pub fn location(&self) -> &Path {
        &self.shared.location
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.readers.read(query).await
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnMut(&Connection, i64) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        run_task(&self.shared.queue, Lane::Batches, change).await
    }
}

fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StoreError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| StoreError::Io {
            reason: error.to_string(),
        })
}

/// One engine a file: the lock is the operating system's, so it ends with the process.
fn lock_file(file: &Path) -> Result<File, StoreError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(io_error)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            location: file.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(io_error(error)),
    }
}

fn connect(file: &Path, more: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(file, flags).map_err(sql_error)?;
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(sql_error)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(connection)
}

/// Only after the file is known to be ours: these settings write to it.
fn harden(connection: &Connection) -> Result<(), StoreError> {
    for (name, value) in [
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
        ("fullfsync", "ON"),
        ("checkpoint_fullfsync", "ON"),
        ("foreign_keys", "ON"),
    ] {
        connection
            .pragma_update(None, name, value)
            .map_err(sql_error)?;
    }
    Ok(())
}

fn io_error(error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly {
                reason: error.to_string(),
            }
        }
        std::io::ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Io {
            reason: error.to_string(),
        },
    }
}

/// What an SQLite failure means to a caller.
fn sql_error(error: rusqlite::Error) -> StoreError {
    let reason = error.to_string();
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull => StoreError::Full,
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreError::ReadOnly { reason },
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt { reason },
            _ => StoreError::Io { reason },
        },
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
            StoreError::Corrupt { reason }
        }
        _ => StoreError::Io { reason },
    }
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1)
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let (task, answered) = CommitTask::new(batch);
        self.shared.queue.push(Lane::Batches, Box::new(task));
        answered.await.map_err(|_| StoreError::OutcomeUnknown)?
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let scope = scope.to_owned();
        self.read(move |connection| state::command(connection, &scope))
            .await
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        let (collection, id) = (collection.to_owned(), id.to_owned());
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT version, body FROM documents WHERE collection = ?1 AND id = ?2",
            )?;
            let mut rows = statement.query([&collection, &id])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            let body = from_json(&row.get::<_, String>(1)?)?;
            Ok(Some(Document {
                id,
                version: row.get(0)?,
                body,
            }))
        })
        .await
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        self.read(move |connection| documents(connection, &query))
            .await
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        let account = *account;
        self.read(move |connection| state::balance(connection, &account))
            .await
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT account, debits_posted, credits_posted, debits_pending, credits_pending
                 FROM accounts WHERE account > ?1 ORDER BY account LIMIT ?2",
            )?;
            let after = after.map(|account| account.to_string()).unwrap_or_default();
            statement
                .query_map(params![after, sql_limit(limit)], |row| {
                    Ok((parsed(row, 0)?, balance_from_row(row, 1)?))
                })?
                .collect()
        })
        .await
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        let account = account.to_string();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(TRANSFERS_OF_ACCOUNT)?;
            let before = before.unwrap_or(i64::MAX);
            statement
                .query_map(params![account, before, sql_limit(limit)], transfer)?
                .collect()
        })
        .await
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        self.read(move |connection| state::hold(connection, id))
            .await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        let name = name.to_owned();
        self.read(move |connection| state::claim(connection, &name))
            .await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let name = name.to_owned();
        self.read(move |connection| state::counter(connection, &name))
            .await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT position, at_ms, kind, object, body FROM events
                     WHERE position > ?1 ORDER BY position LIMIT ?2",
                )?
                .query_map(params![after, sql_limit(limit)], |row| {
                    Ok(EventRecord {
                        position: row.get(0)?,
                        at_ms: row.get(1)?,
                        kind: row.get(2)?,
                        object: row.get(3)?,
                        body: from_json(&row.get::<_, String>(4)?)?,
                    })
                })?
                .collect()
        })
        .await
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        loop {
            // Listen first: a commit between the look and the wait must not be missed.
            let committed = self.shared.committed.listen();
            if !self.events(position, 1).await?.is_empty() {
                return Ok(());
            }
            committed.await;
        }
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        let name = name.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT coalesce((SELECT position FROM cursors WHERE name = ?1), 0)",
                )?
                .query_row([name], |row| row.get(0))
        })
        .await
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.write(move |connection, _| {
            connection
                .prepare_cached(
                    "INSERT INTO cursors (name, position) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET position = max(position, ?2)",
                )?
                .execute(params![name, position])
                .map(drop)
        })
        .await
    }

    async fn lease_due(
        &self,
        now_ms: i64,
        lease_until_ms: i64,
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        self.write(move |connection, _| {
            let mut jobs: Vec<DueJob> = connection
                .prepare_cached(LEASE_DUE)?
                .query_map(params![now_ms, lease_until_ms, sql_limit(limit)], |row| {
                    Ok(DueJob {
                        kind: row.get(0)?,
                        object: row.get(1)?,
                        due_at_ms: row.get(2)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            // The rows of RETURNING come in no particular order.
            jobs.sort_by(|left, right| {
                (left.due_at_ms, &left.kind, &left.object).cmp(&(
                    right.due_at_ms,
                    &right.kind,
                    &right.object,
                ))
            });
            Ok(jobs)
        })
        .await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.readers.close();
        self.shared.queue.close();
        self.shared.stopped.wait().await;
        Ok(())
    }
}

const TRANSFERS_OF_ACCOUNT: &str = "
WITH wanted AS (SELECT id FROM accounts WHERE account = ?1),
     rows AS (
         SELECT * FROM (SELECT position FROM transfers
                        WHERE debit = (SELECT id FROM wanted) AND position < ?2
                        ORDER BY position DESC LIMIT ?3)
         UNION ALL
         SELECT * FROM (SELECT position FROM transfers
                        WHERE credit = (SELECT id FROM wanted) AND position < ?2
                        ORDER BY position DESC LIMIT ?3)
     )
SELECT t.position, t.id, t.at_ms, d.account, c.account, t.amount, t.kind, t.reference,
       t.debit_balance_after, t.credit_balance_after
FROM rows JOIN transfers t ON t.position = rows.position
     JOIN accounts d ON d.id = t.debit JOIN accounts c ON c.id = t.credit
ORDER BY t.position DESC LIMIT ?3";

const LEASE_DUE: &str = "
UPDATE due SET leased_until_ms = ?2
WHERE (kind, object) IN (
    SELECT kind, object FROM due WHERE due_at_ms <= ?1 AND leased_until_ms <= ?1
    ORDER BY due_at_ms, kind, object LIMIT ?3)
RETURNING kind, object, due_at_ms";

fn transfer(row: &rusqlite::Row<'_>) -> Result<TransferRow, rusqlite::Error> {
    Ok(TransferRow {
        position: row.get(0)?,
        id: parsed(row, 1)?,
        at_ms: row.get(2)?,
        debit: parsed(row, 3)?,
        credit: parsed(row, 4)?,
        amount: row.get(5)?,
        kind: named(row, 6)?,
        reference: row.get(7)?,
        debit_balance_after: row.get(8)?,
        credit_balance_after: row.get(9)?,
    })
}

fn documents(
    connection: &Connection,
    query: &DocumentQuery,
) -> Result<Vec<(DocumentPosition, Document)>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT k.key, k.id, d.version, d.body FROM document_keys k
         JOIN documents d ON d.collection = k.collection AND d.id = k.id
         WHERE k.collection = ?1 AND k.name = ?2 AND (k.key, k.id) > (?3, ?4)
               AND (?5 IS NULL OR k.key < ?5)
         ORDER BY k.key, k.id LIMIT ?6",
    )?;
    // Ids are never empty, so `(from, "")` is before every document with that key.
    let first = DocumentPosition {
        key: query.from.clone(),
        id: String::new(),
    };
    let from = query
        .after
        .clone()
        .filter(|after| *after >= first)
        .unwrap_or(first);
    statement
        .query_map(
            params![
                query.collection,
                query.index,
                from.key,
                from.id,
                query.to,
                sql_limit(query.limit)
            ],
            |row| {
                let position = DocumentPosition {
                    key: row.get(0)?,
                    id: row.get(1)?,
                };
                let body = from_json(&row.get::<_, String>(3)?)?;
                let document = Document {
                    id: position.id.clone(),
                    version: row.get(2)?,
                    body,
                };
                Ok((position, document))
            },
        )?
        .collect()
}
