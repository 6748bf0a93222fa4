//! A file as a whole: written as a stream, taken from one, checked, locked and unlocked.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use futures_channel::oneshot;
use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OpenFlags, params, params_from_iter};

use super::backup::{LOCK_NODE, wrong_in};
use super::tasks::run_task;
use super::writer::Lane;
use super::{
    SqliteStore, connect, lock, node_state, reading, schema, seat, spawn, sql_error, trees,
};
use crate::ledger::ChainHead;
use crate::store::moving::{
    Cell, Dialect, Leave, Sink, Snapshot, TABLES, Table, arrive, depart, does_not_follow, insert,
    is_channel_state, pieces, select, select_held,
};
use crate::store::{
    Arrival, ByteSource, KeyValueWrite, MoveError, NodeState, StoreAdmin, StoreError, StoreHealth,
    block_on,
};

/// For how many writes of the node a recovery counts: no node makes as many.
const WRITES_OF_A_RECOVERY: i64 = 1 << 40;

/// When the last commit was; 0 before the first.
pub(super) fn last_commit_ms(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT coalesce((SELECT at_ms FROM commits
                          WHERE position = (SELECT max(position) FROM commits)), 0)",
        [],
        |row| row.get(0),
    )
}

pub(super) fn has_commits(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM commits WHERE position > 0)",
        [],
        |row| row.get(0),
    )
}

/// Whether the books and their node live elsewhere, for ever.
pub(super) fn handed_over(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM moves WHERE what = 'handed_over')")?
        .query_row([], |row| row.get(0))
}

/// Whether the one stream of a hand-over was whole, also one that an older version has made.
fn has_departed(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT coalesce((SELECT value FROM settings WHERE name = 'node_departed'), 1)";
    connection.query_row(sql, [], |row| row.get(0))
}

/// Takes away what the node knows of its channels.
pub(super) fn drop_channel_state(connection: &Connection) -> rusqlite::Result<()> {
    let keys: Vec<[String; 3]> = connection
        .prepare("SELECT primary_namespace, secondary_namespace, key FROM node_state")?
        .query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?
        .collect::<Result<_, _>>()?;
    let mut delete = connection.prepare(
        "DELETE FROM node_state
         WHERE primary_namespace = ?1 AND secondary_namespace = ?2 AND key = ?3",
    )?;
    for path in keys {
        if is_channel_state(&path[0], &path[1], &path[2]) {
            delete.execute(path)?;
        }
    }
    Ok(())
}

fn note_move(connection: &Connection, what: &str, detail: &str) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO moves (what, detail) VALUES (?1, ?2)",
            [what, detail],
        )
        .map(drop)
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

fn cell(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Cell> {
    Ok(match row.get(at)? {
        Value::Null => Cell::Null,
        Value::Integer(number) => Cell::Integer(number),
        Value::Text(text) => Cell::Text(text),
        Value::Blob(bytes) => Cell::Bytes(bytes),
        Value::Real(_) => {
            let kind = rusqlite::types::Type::Real;
            return Err(rusqlite::Error::InvalidColumnType(
                at,
                "a fraction".into(),
                kind,
            ));
        }
    })
}

/// A connection within a transaction.
struct Open(Mutex<Connection>);

impl Open {
    fn begin(file: &Path, sql: &str) -> Result<Self, StoreError> {
        let connection = connect(file, OpenFlags::empty())?;
        connection.execute_batch(sql).map_err(sql_error)?;
        Ok(Self(Mutex::new(connection)))
    }

    fn rows(&self, table: &Table, sql: &str, params: &[Cell]) -> rusqlite::Result<Vec<Vec<Cell>>> {
        let columns = table.columns.len();
        let connection = lock(&self.0);
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map(params_from_iter(params), |row| {
            (0..columns).map(|at| cell(row, at)).collect()
        })?;
        rows.collect()
    }
}

#[async_trait]
impl Snapshot for Open {
    async fn page(
        &self,
        table: &'static Table,
        after: Option<&[Cell]>,
    ) -> Result<Vec<Vec<Cell>>, StoreError> {
        let mut sql = select(table, Dialect::Sqlite, after.is_none());
        if table.name == "documents" {
            sql = sql.replacen("FROM documents", &format!("FROM {}", trees::DOCUMENTS), 1);
        }
        let rows = self.rows(table, &sql, after.unwrap_or_default());
        rows.map_err(sql_error)
    }

    async fn held(&self, after: i64, to: i64) -> Result<Vec<Vec<Cell>>, StoreError> {
        let Some((_, holds)) = Table::find("holds") else {
            return Ok(Vec::new());
        };
        let sql = select_held(holds, Dialect::Sqlite);
        let range = [Cell::Integer(after), Cell::Integer(to)];
        self.rows(holds, &sql, &range).map_err(sql_error)
    }

    async fn heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        reading::chain_heads(&lock(&self.0)).map_err(sql_error)
    }
}

/// Where rows are written.
struct Into<'a> {
    open: &'a Open,
    statements: HashMap<&'static str, String>,
}

#[async_trait]
impl Sink for Into<'_> {
    async fn put(&mut self, table: &'static Table, row: Vec<Cell>) -> Result<(), StoreError> {
        let sql = self
            .statements
            .entry(table.name)
            .or_insert_with(|| insert(table, Dialect::Sqlite));
        let connection = lock(&self.open.0);
        let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
        let done = statement.execute(params_from_iter(&row));
        done.map(drop).map_err(sql_error)
    }
}

fn check_empty(connection: &Connection) -> Result<(), MoveError> {
    for table in TABLES {
        // What is written down of the log is nothing of the books.
        let of_the_log = if table.name == "settings" {
            " WHERE name NOT IN ('log_number', 'log_number_before')"
        } else {
            ""
        };
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {}{of_the_log})", table.name);
        let has_rows: bool = connection
            .query_row(&sql, [], |row| row.get(0))
            .map_err(sql_error)?;
        if has_rows {
            return Err(MoveError::NotEmpty);
        }
    }
    Ok(())
}

/// Takes all of the stream in, or nothing.
fn import(
    file: &Path,
    source: &mut dyn ByteSource,
    kept: &[ChainHead],
) -> Result<Arrival, MoveError> {
    let open = Open::begin(
        file,
        "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; BEGIN IMMEDIATE",
    )?;
    check_empty(&lock(&open.0))?;
    let statements = HashMap::new();
    let mut sink = Into {
        open: &open,
        statements,
    };
    // Whatever fails ends the connection, and with it the transaction.
    let arrived = block_on(arrive(source, kept, &mut sink))?;
    let connection = lock(&open.0);
    connection
        .execute_batch(schema::DERIVED)
        .map_err(sql_error)?;
    if let Some(wrong) = wrong_in(&connection)?.into_iter().next() {
        return Err(does_not_follow(&arrived, wrong));
    }
    if arrived.has_node_state {
        // A seat without writes is at 0: one is enough to be the newest.
        node_state::count_write(&connection).map_err(sql_error)?;
    } else {
        // Also where there was no node yet: it may have begun since, with the same seed.
        connection.execute(LOCK_NODE, []).map_err(sql_error)?;
    }
    note_move(&connection, "arrived", &format!("{} rows", arrived.rows))
        .and_then(|()| connection.execute_batch("COMMIT"))
        .map_err(sql_error)?;
    Ok(arrived)
}

/// A snapshot of the file, after the store that is `leaving` was handed over. What a snapshot needs
/// is there before anything is ended: where it cannot be had, nothing was.
fn begin_export(file: &Path, leaving: Option<&SqliteStore>) -> Result<Open, StoreError> {
    let connection = connect(file, OpenFlags::empty())?;
    // The log is opened by the first read.
    last_commit_ms(&connection).map_err(sql_error)?;
    if let Some(store) = leaving {
        block_on(store.hand_over())?;
        seat::flush(file);
    }
    connection.execute_batch("BEGIN").map_err(sql_error)?;
    // The moment is that of the first read.
    last_commit_ms(&connection).map_err(sql_error)?;
    Ok(Open(Mutex::new(connection)))
}

#[async_trait]
impl StoreAdmin for SqliteStore {
    async fn verify(&self) -> Result<Vec<String>, StoreError> {
        self.check_file().await
    }

    async fn backup(&self, to: &Path) -> Result<(), MoveError> {
        Ok(SqliteStore::backup(self, to).await?)
    }

    async fn export(&self, node: NodeState) -> Result<Box<dyn ByteSource>, MoveError> {
        let file = self.location().to_owned();
        let leaving = (node == NodeState::HandOver).then(|| self.clone());
        let (to, source) = pieces();
        let (begun, has_begun) = oneshot::channel();
        drop(spawn("flashkit-export", move || {
            match begin_export(&file, leaving.as_ref()) {
                Err(error) => drop(begun.send(Err(error))),
                Ok(open) => {
                    drop(begun.send(Ok(())));
                    block_on(depart(&open, leaving.map(SqliteStore::leave), &to));
                }
            }
        })?);
        has_begun.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(source)
    }

    async fn import(
        &self,
        mut source: Box<dyn ByteSource>,
        kept: &[ChainHead],
    ) -> Result<Arrival, MoveError> {
        let (file, kept) = (self.location().to_owned(), kept.to_vec());
        let (answer, answered) = oneshot::channel();
        drop(spawn("flashkit-import", move || {
            drop(answer.send(import(&file, source.as_mut(), &kept)));
        })?);
        let arrived = answered.await.unwrap_or(Err(StoreError::Closed.into()))?;
        let last_ms = self.read(last_commit_ms).await?;
        self.shared.times.seen(last_ms);
        self.shared.cache.clear();
        self.shared.committed.notify(usize::MAX);
        Ok(arrived)
    }

    async fn health(&self) -> Result<StoreHealth, StoreError> {
        let known = lock(&self.shared.stale).clone();
        let (schema_version, commits, node_locked) = self
            .read(|connection| {
                let locked = node_state::locked(connection)?;
                let sql = "SELECT coalesce(max(position), 0) FROM commits";
                let version = "SELECT user_version FROM pragma_user_version";
                let version = connection.query_row(version, [], |row| row.get(0))?;
                let commits = connection.query_row(sql, [], |row| row.get(0))?;
                Ok((version, commits, locked))
            })
            .await?;
        Ok(StoreHealth {
            schema_version,
            known_schema_version: schema::SCHEMA_VERSION,
            commits,
            node_locked: node_locked.or(known),
        })
    }
}

impl SqliteStore {
    pub(super) async fn forget_channels_now(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> Result<bool, StoreError> {
        let known = lock(&self.shared.stale).clone();
        let forgotten = run_task(&self.shared.queue, Lane::Node, move |connection, _| {
            let locked = node_state::locked(connection)?.or_else(|| known.clone());
            match locked {
                None => return Ok(Ok(false)),
                Some(StoreError::StaleNodeState { .. }) => {}
                Some(other) => return Ok(Err(other)),
            }
            let expected = match &known {
                Some(StoreError::StaleNodeState { expected, .. }) => expected.unwrap_or(0),
                _ => 0,
            };
            // More than there ever were, so that this file is the newest from now on: also beside
            // one that is found again, and that had gone on from here.
            let writes = node_state::writes(connection)?.max(expected).max(0);
            drop_channel_state(connection)?;
            for change in &instead {
                node_state::put_or_remove(connection, change)?;
            }
            note_move(connection, "channels_forgotten", "")?;
            connection.execute(
                "INSERT INTO settings (name, value) VALUES ('node_writes', ?1)
                 ON CONFLICT (name) DO UPDATE SET value = ?1",
                params![writes.saturating_add(WRITES_OF_A_RECOVERY)],
            )?;
            Ok(Ok(true))
        })
        .await??;
        if forgotten {
            *lock(&self.shared.stale) = None;
        }
        Ok(forgotten)
    }

    /// Ends the node here, and the books, for ever, before anything of them leaves. They may be ended
    /// already, as long as no stream of them was whole.
    async fn hand_over(&self) -> Result<(), StoreError> {
        if let Some(stale) = lock(&self.shared.stale).clone() {
            return Err(stale);
        }
        let lease = self.shared.lease.clone();
        // The task also looks into the file: that is what everybody else goes by from then on.
        run_task(&self.shared.queue, Lane::Node, move |connection, at_ms| {
            if let Some(locked) = node_state::locked(connection)? {
                let may_leave = locked == StoreError::NodeHandedOver
                    && !has_departed(connection)?
                    && node_state::writes(connection)? >= 0;
                return Ok(if may_leave { Ok(()) } else { Err(locked) });
            }
            // A node that runs may still act, on what is about to leave.
            if let Err(held) = lock(&lease).check_free(at_ms) {
                return Ok(Err(held));
            }
            // An epoch without a lease ends too.
            connection.execute(
                "UPDATE settings SET value = value + 1 WHERE name = 'node_epoch'",
                [],
            )?;
            // A file from before this is an older one, as after any other write of the node.
            node_state::count_write(connection)?;
            connection.execute(
                "INSERT INTO settings (name, value) VALUES ('node_departed', 0)
                 ON CONFLICT (name) DO UPDATE SET value = 0",
                [],
            )?;
            note_move(connection, "handed_over", "").map(Ok)
        })
        .await??;
        self.shared.note_handed_over();
        Ok(())
    }

    fn leave(self) -> Leave {
        Box::pin(async move {
            run_task(&self.shared.queue, Lane::Node, |connection, _| {
                if has_departed(connection)? {
                    return Ok(Err(StoreError::NodeHandedOver));
                }
                let sql = "UPDATE settings SET value = 1 WHERE name = 'node_departed'";
                connection.execute(sql, [])?;
                // A file from before this is an older one: no stream comes out of it.
                node_state::count_write(connection).map(Ok)
            })
            .await??;
            seat::flush(self.location());
            Ok(())
        })
    }
}
