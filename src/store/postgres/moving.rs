//! A database as a whole: written as a stream, taken from one, locked and unlocked.

use std::path::Path;

use async_trait::async_trait;
use bytes::BytesMut;
use deadpool_postgres::ClientWrapper;
use futures_channel::oneshot;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::connection::{Failed, Param, connect_writer, in_one_round_trip, not_done, prepared};
use super::node_state::{LEAVE, LEAVING, LOCK_FOR_CHANGE, MAKE_EPOCH, STANDING, lease_of, stale};
use super::reads::{CHAIN_HEADS, chain_head, value};
use super::{PostgresStore, schema};
use crate::ledger::ChainHead;
use crate::store::moving::{
    Cell, Dialect, Kind, Leave, Sink, Snapshot, TABLES, Table, arrive, depart, does_not_follow,
    insert, is_channel_state, is_shown, pieces, select, select_held,
};
use crate::store::{
    Arrival, ByteSource, KeyValueWrite, MoveError, NodeState, StoreAdmin, StoreError, StoreHealth,
};

/// Whether no node may ever run here.
pub(super) const HANDED_OVER: &str =
    "SELECT EXISTS (SELECT 1 FROM moves WHERE what = 'handed_over')";

/// How many rows are sent before the first answer is waited for.
const AT_ONCE: usize = 500;

/// A home that is nowhere: the node is locked.
const NOWHERE: &str = "
INSERT INTO settings (name, value) VALUES ('node_home', 0)
ON CONFLICT (name) DO UPDATE SET value = 0";

/// What was at home here leaves from here, and from no copy of it.
const LEFT_FROM_HERE: &str = "
INSERT INTO settings (name, value)
SELECT 'node_left_from', value FROM settings WHERE name = 'node_home'
ON CONFLICT (name) DO UPDATE SET value = excluded.value";

impl ToSql for Cell {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.as_slice().to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(kind)
    }

    to_sql_checked!();
}

fn cells(table: &Table, row: &Row) -> Result<Vec<Cell>, StoreError> {
    let cell = |(at, (_, kind)): (usize, &(&str, Kind))| {
        Ok(match kind {
            Kind::Integer => value::<Option<i64>>(row, at)?.map(Cell::Integer),
            Kind::Bytes => value::<Option<Vec<u8>>>(row, at)?.map(Cell::Bytes),
            Kind::Text | Kind::Json | Kind::Wide => {
                value::<Option<String>>(row, at)?.map(Cell::Text)
            }
        }
        .unwrap_or(Cell::Null))
    };
    table.columns.iter().enumerate().map(cell).collect()
}

/// A connection for transactions, the last of which ends with it.
struct Open(ClientWrapper);

impl Open {
    async fn connect(store: &PostgresStore) -> Result<Self, StoreError> {
        store.shared.check_open()?;
        let pool = store.shared.pool.clone();
        let connected = store.shared.runtime.spawn(async move {
            let connection = connect_writer(&pool).await?;
            // Of a pool it may be one that ended since.
            connection.batch_execute("").await.map_err(not_done)?;
            Ok::<_, Failed>(connection)
        });
        let connected = connected.await.map_err(|_| StoreError::Closed)?;
        Ok(Self(connected?))
    }

    async fn begin(store: &PostgresStore, sql: &'static str) -> Result<Self, StoreError> {
        let open = Self::connect(store).await?;
        open.run(sql).await?;
        Ok(open)
    }

    async fn rows(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.0.query(sql, params).await;
        Ok(rows.map_err(not_done)?)
    }

    async fn run(&self, sql: &str) -> Result<(), StoreError> {
        let done = self.0.batch_execute(sql).await;
        Ok(done.map_err(not_done)?)
    }
}

#[async_trait]
impl Snapshot for Open {
    async fn page(
        &self,
        table: &'static Table,
        after: Option<&[Cell]>,
    ) -> Result<Vec<Vec<Cell>>, StoreError> {
        let sql = select(table, Dialect::Postgres, after.is_none());
        let after = after.unwrap_or_default().iter();
        let params: Vec<&(dyn ToSql + Sync)> =
            after.map(|cell| cell as &(dyn ToSql + Sync)).collect();
        let rows = self.rows(&sql, &params).await?;
        rows.iter().map(|row| cells(table, row)).collect()
    }

    async fn held(&self, after: i64, to: i64) -> Result<Vec<Vec<Cell>>, StoreError> {
        let Some((_, holds)) = Table::find("holds") else {
            return Ok(Vec::new());
        };
        let sql = select_held(holds, Dialect::Postgres);
        let rows = self.rows(&sql, &[&after, &to]).await?;
        rows.iter().map(|row| cells(holds, row)).collect()
    }

    async fn heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        let rows = self.rows(CHAIN_HEADS, &[]).await?;
        rows.iter().map(chain_head).collect()
    }
}

/// Where rows are written, many at a time.
struct Into<'a> {
    open: &'a Open,
    table: Option<&'static Table>,
    waiting: Vec<Vec<Param>>,
}

impl Into<'_> {
    async fn flush(&mut self) -> Result<(), StoreError> {
        let (Some(table), rows) = (self.table, std::mem::take(&mut self.waiting)) else {
            return Ok(());
        };
        if rows.is_empty() {
            return Ok(());
        }
        let connection = &self.open.0;
        let sql = insert(table, Dialect::Postgres);
        let statement = connection.prepare_cached(&sql).await.map_err(not_done)?;
        let rows = rows
            .iter()
            .map(|row| prepared(connection, statement.clone(), row))
            .collect();
        for answer in in_one_round_trip(rows).await.map_err(not_done)? {
            answer.map_err(not_done)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for Into<'_> {
    async fn put(&mut self, table: &'static Table, row: Vec<Cell>) -> Result<(), StoreError> {
        let is_other = self.table.is_some_and(|other| other.name != table.name);
        if is_other || self.waiting.len() >= AT_ONCE {
            self.flush().await?;
        }
        self.table = Some(table);
        let row = row.into_iter().map(|cell| Box::new(cell) as Param);
        self.waiting.push(row.collect());
        Ok(())
    }
}

/// The row that gives out positions, as the tables have it.
const SET_HEAD: &str = "
UPDATE head SET
    last_commit_ms = coalesce((SELECT max(at_ms) FROM commits), 0),
    commit_position = coalesce((SELECT max(position) FROM commits), 0),
    transfer_position = coalesce((SELECT max(position) FROM transfers), 0),
    hold_change_position = coalesce((SELECT max(position) FROM hold_changes), 0),
    event_position = coalesce((SELECT max(position) FROM events), 0),
    account_id = coalesce((SELECT max(id) FROM accounts), 0);
UPDATE head SET chain_sequence = c.sequence, chain_hash = c.hash, chain_writer = c.writer
FROM (SELECT sequence, hash, writer FROM commits ORDER BY position DESC LIMIT 1) AS c";

/// Long work is not to be ended for being long. Whoever else imports or commits waits.
const BEGIN_IMPORT: &str = "
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL idle_in_transaction_session_timeout = 0;
SELECT 1 FROM head FOR UPDATE";

/// While the books are not empty nobody waits for long: whoever stops in the middle of it is ended
/// as anybody is.
const BEGIN_CHANGE: &str = "
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT 1 FROM head FOR UPDATE";

const BEGIN_EXPORT: &str = "
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL idle_in_transaction_session_timeout = 0;
SELECT 1 FROM head";

async fn import(
    open: &Open,
    source: &mut dyn ByteSource,
    kept: &[ChainHead],
) -> Result<Arrival, MoveError> {
    for table in TABLES {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", table.name);
        if !open.rows(&sql, &[]).await?.is_empty() {
            return Err(MoveError::NotEmpty);
        }
    }
    let mut sink = Into {
        open,
        table: None,
        waiting: Vec::new(),
    };
    let arrived = arrive(source, kept, &mut sink).await?;
    sink.flush().await?;
    open.run(SET_HEAD).await?;
    if let Some(wrong) = wrong_in(open).await?.into_iter().next() {
        return Err(does_not_follow(&arrived, wrong));
    }
    if !arrived.has_node_state {
        // Also where there was no node yet: it may have begun since, with the same seed.
        open.run(NOWHERE).await?;
    }
    let detail = format!("{} rows", arrived.rows);
    let sql = "INSERT INTO moves (what, detail) VALUES ('arrived', $1)";
    open.rows(sql, &[&detail]).await?;
    let committed = open.0.batch_execute("COMMIT").await;
    committed.map_err(|error| StoreError::from(super::connection::after_commit(error)))?;
    Ok(arrived)
}

#[async_trait]
impl StoreAdmin for PostgresStore {
    async fn verify(&self) -> Result<Vec<String>, StoreError> {
        // The database checks its pages itself; these are what its rows say about each other.
        wrong_in(&Open::begin(self, BEGIN_EXPORT).await?).await
    }

    async fn backup(&self, _to: &Path) -> Result<(), MoveError> {
        let what = "backup to a file: `export` leaves the channels out, and where a pg_dump of the \
                    whole schema is restored, its node is locked until it is recovered, unless it \
                    had not begun yet: then do not start it before it is";
        Err(MoveError::NotSupported { what })
    }

    async fn export(&self, node: NodeState) -> Result<Box<dyn ByteSource>, MoveError> {
        // Before anything is ended: where it cannot be had, nothing was.
        let open = Open::connect(self).await?;
        let leave = match node {
            NodeState::LeaveOut => None,
            NodeState::HandOver => Some(self.clone().leave(self.hand_over(&open).await?)),
        };
        open.run(BEGIN_EXPORT).await?;
        let (to, source) = pieces();
        let departing = async move { depart(&open, leave, &to).await };
        drop(self.shared.runtime.spawn(departing));
        Ok(source)
    }

    async fn import(
        &self,
        mut source: Box<dyn ByteSource>,
        kept: &[ChainHead],
    ) -> Result<Arrival, MoveError> {
        let open = Open::begin(self, BEGIN_IMPORT).await?;
        let kept = kept.to_vec();
        let (answer, answered) = oneshot::channel();
        // To its end, although the caller goes away: a dropped connection undoes it.
        drop(self.shared.runtime.spawn(async move {
            drop(answer.send(import(&open, source.as_mut(), &kept).await));
        }));
        let arrived = answered.await.unwrap_or(Err(StoreError::Closed.into()))?;
        self.shared.watch.committed.notify(usize::MAX);
        Ok(arrived)
    }

    async fn health(&self) -> Result<StoreHealth, StoreError> {
        let rows = self.rows(super::node_state::HEALTH, Vec::new()).await?;
        let row = rows.first().ok_or(StoreError::Closed)?;
        let node_locked = match (value(row, 2)?, value(row, 3)?) {
            (true, _) => Some(StoreError::NodeHandedOver),
            (_, false) => Some(StoreError::StaleNodeState {
                found: value(row, 4)?,
                expected: None,
            }),
            _ => None,
        };
        Ok(StoreHealth {
            schema_version: schema::version(value(row, 0)?).0,
            known_schema_version: schema::SCHEMA_VERSION,
            commits: value(row, 1)?,
            node_locked,
        })
    }
}

/// What the rows say about each other that is not so.
async fn wrong_in(open: &Open) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    for (what, sql) in CHECKS {
        if !open.rows(sql, &[]).await?.is_empty() {
            found.push((*what).to_owned());
        }
    }
    for row in open.rows(SHOWN, &[]).await? {
        let account: String = value(&row, 0)?;
        let totals = [value(&row, 1)?, value(&row, 2)?];
        if !is_shown(&account, &totals, value(&row, 3)?) {
            found.push(format!("a wrong balance of {account} is shown"));
        }
    }
    Ok(found)
}

const SHOWN: &str =
    "SELECT account, debits_posted::text, credits_posted::text, balance FROM accounts";

/// What must find no row.
const CHECKS: &[(&str, &str)] = &[
    (
        "a transfer names an account that is not there",
        "SELECT 1 FROM transfers t WHERE NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = t.debit)
             OR NOT EXISTS (SELECT 1 FROM accounts a WHERE a.id = t.credit) LIMIT 1",
    ),
    (
        "a change names a hold that is not there",
        "SELECT 1 FROM hold_changes x
         WHERE NOT EXISTS (SELECT 1 FROM holds h WHERE h.id = x.hold) LIMIT 1",
    ),
    (
        "a document's key leads nowhere",
        "SELECT 1 FROM document_keys k WHERE NOT EXISTS (SELECT 1 FROM documents d
             WHERE d.collection = k.collection AND d.id = k.id) LIMIT 1",
    ),
    (
        "of a hold something else is left than its changes say",
        "SELECT 1 FROM holds h LEFT JOIN (SELECT DISTINCT ON (hold) hold, remaining
             FROM hold_changes ORDER BY hold, position DESC) x ON x.hold = h.id
         WHERE h.remaining IS DISTINCT FROM x.remaining LIMIT 1",
    ),
    (
        "something else was undone than the transfers say",
        "SELECT 1 FROM reversals r FULL JOIN (SELECT follows, sum(amount) AS amount
             FROM transfers WHERE kind = 'reversal' GROUP BY follows) t ON t.follows = r.transfer
         WHERE r.amount IS DISTINCT FROM t.amount LIMIT 1",
    ),
    (
        "a commit's command is missing, or a command's commit, or there are two",
        "SELECT 1 FROM (SELECT scope, at_ms FROM commits WHERE scope IS NOT NULL
                        UNION ALL SELECT scope, at_ms FROM commands) AS said
         GROUP BY scope, at_ms HAVING count(*) <> 2
         UNION ALL
         SELECT 1 FROM commits WHERE scope IS NOT NULL GROUP BY scope HAVING count(*) > 1
         LIMIT 1",
    ),
    (
        "the head is not that of the commits",
        "SELECT 1 FROM head WHERE commit_position <>
             (SELECT coalesce(max(position), 0) FROM commits)
             OR transfer_position <> (SELECT coalesce(max(position), 0) FROM transfers)",
    ),
];

async fn end_here(open: &Open) -> Result<(), StoreError> {
    open.run(MAKE_EPOCH).await?;
    open.run(LOCK_FOR_CHANGE).await?;
    let rows = open.rows(STANDING, &[]).await?;
    let row = rows.first().ok_or(StoreError::Closed)?;
    if !value::<bool>(row, 1)? {
        return Err(stale(&open.0).await.into());
    }
    // A node that runs may still act, on what is about to leave.
    lease_of(row)?.check_free(value(row, 4)?)?;
    open.run(LEFT_FROM_HERE).await?;
    open.run(NOWHERE).await?;
    open.run(schema::HAND_OVER).await?;
    let sql = "UPDATE settings SET value = value + 1 WHERE name = 'node_epoch';
               INSERT INTO moves (what, detail) VALUES ('handed_over', '')";
    open.run(sql).await
}

impl PostgresStore {
    /// Ends the node here, and the books, for ever, before anything of them leaves. They may be ended
    /// already, as long as no stream of them was whole. Answers the number of the next one.
    async fn hand_over(&self, open: &Open) -> Result<i64, StoreError> {
        // Whoever commits waits for the head, and whoever wants the node for its epoch.
        open.run(BEGIN_CHANGE).await?;
        let rows = open.rows(LEAVING, &[]).await?;
        let row = rows.first().ok_or(StoreError::Closed)?;
        match (value(row, 1)?, value(row, 2)?) {
            (false, _) => end_here(open).await?,
            (true, true) => {}
            (true, false) => return Err(StoreError::NodeHandedOver),
        }
        let committed = open.0.batch_execute("COMMIT").await;
        committed.map_err(|error| StoreError::from(super::connection::after_commit(error)))?;
        self.shared.note_handed_over();
        value(row, 0)
    }

    fn leave(self, stream: i64) -> Leave {
        Box::pin(async move {
            // Whichever has left stays so: this may be asked again.
            let rows = self.rows(LEAVE, vec![Box::new(stream)]).await?;
            let left = rows.first().map(|row| value::<i64>(row, 0)).transpose()?;
            if left == Some(stream) {
                Ok(())
            } else {
                Err(StoreError::NodeHandedOver)
            }
        })
    }

    pub(super) async fn forget_channels_now(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> Result<bool, StoreError> {
        let open = Open::begin(self, BEGIN_CHANGE).await?;
        if open.is_true(HANDED_OVER).await? {
            return Err(StoreError::NodeHandedOver);
        }
        if open.is_true(super::node_state::IS_HOME).await? {
            return Ok(false);
        }
        let sql = "SELECT primary_namespace, secondary_namespace, key FROM node_state";
        for row in open.rows(sql, &[]).await? {
            let path: [String; 3] = [value(&row, 0)?, value(&row, 1)?, value(&row, 2)?];
            if is_channel_state(&path[0], &path[1], &path[2]) {
                open.remove(&path).await?;
            }
        }
        for change in instead {
            let (KeyValueWrite::Put { path, .. } | KeyValueWrite::Remove { path }) = &change;
            let path = [&path.primary, &path.secondary, &path.key].map(Clone::clone);
            open.remove(&path).await?;
            if let KeyValueWrite::Put { value, .. } = &change {
                let sql = "INSERT INTO node_state VALUES ($1, $2, $3, $4)";
                let [primary, secondary, key] = &path;
                open.rows(sql, &[primary, secondary, key, value]).await?;
            }
        }
        open.run(
            "DELETE FROM settings WHERE name IN ('node_home', 'node_home_written_by');
             UPDATE settings SET value = value + 1 WHERE name = 'node_epoch';
             INSERT INTO moves (what, detail) VALUES ('channels_forgotten', '');
             COMMIT",
        )
        .await?;
        Ok(true)
    }
}

impl Open {
    async fn is_true(&self, sql: &str) -> Result<bool, StoreError> {
        let rows = self.rows(sql, &[]).await?;
        let answer = rows.first().map(|row| value(row, 0)).transpose()?;
        Ok(answer.unwrap_or(false))
    }

    async fn remove(&self, path: &[String; 3]) -> Result<(), StoreError> {
        let sql = "DELETE FROM node_state WHERE primary_namespace = $1
                   AND secondary_namespace = $2 AND key = $3";
        let [primary, secondary, key] = path;
        self.rows(sql, &[primary, secondary, key]).await.map(drop)
    }
}
