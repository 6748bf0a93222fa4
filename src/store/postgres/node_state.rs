//! The node's state in the same database, on a connection of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Pool};
use futures_channel::oneshot;
use tokio_postgres::Row;

use super::PAUSE;
use super::connection::{
    Failed, Param, after_commit, connect_writer, in_one_round_trip, not_done, plain, prepared,
};
use super::queue::Taker;
use super::reads::value;
use crate::store::key_value::NodeLease;
use crate::store::{KeyPath, KeyValueWrite, NodeHolder, StoreError};

/// The most node writes that may wait. Far above what a node has in flight.
pub(super) const MAX_WAITING: usize = 262_144;
/// The most writes in one transaction.
const MAX_GROUP: usize = 1_024;

type Written = Result<(), StoreError>;

/// What the node wants done, in the order in which it asked.
pub(super) enum NodeTask {
    Epoch {
        change: EpochChange,
        answer: oneshot::Sender<Result<u64, StoreError>>,
    },
    Write {
        epoch: u64,
        change: KeyValueWrite,
        answer: oneshot::Sender<Written>,
    },
}

/// What becomes of the epoch and its lease.
#[derive(Debug, Clone, Copy)]
pub(super) enum EpochChange {
    Begin,
    Take { holder: NodeHolder, lasts: Duration },
    Renew { epoch: u64, lasts: Duration },
    Release { epoch: u64 },
}

pub(super) struct NodeWriter {
    pub(super) pool: Pool,
    pub(super) taker: Taker<NodeTask>,
    pub(super) patience: Duration,
    pub(super) connection: Option<ClientWrapper>,
    /// The number of the connection, and the epoch for whose writes it was drawn.
    pub(super) numbered: Option<(u64, i64)>,
}

/// What is done in one transaction.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Values(&'a Group),
    Epoch(EpochChange),
}

/// Writes of one epoch: what each path comes to, and who waits for it.
struct Group {
    epoch: u64,
    values: BTreeMap<KeyPath, Option<Vec<u8>>>,
    answers: Vec<oneshot::Sender<Written>>,
}

impl NodeWriter {
    pub(super) async fn run(mut self) {
        while let Some(tasks) = self.taker.queue.take(MAX_GROUP).await {
            let mut group: Option<Group> = None;
            for task in tasks {
                match task {
                    NodeTask::Epoch { change, answer } => {
                        self.write(group.take()).await;
                        // An epoch whose answer was lost is one that nobody uses, and the lease
                        // is its holder's: each of these may be done twice.
                        drop(answer.send(self.persevere(Wanted::Epoch(change)).await));
                    }
                    NodeTask::Write {
                        epoch,
                        change,
                        answer,
                    } => {
                        if group.as_ref().is_some_and(|group| group.epoch != epoch) {
                            self.write(group.take()).await;
                        }
                        let group = group.get_or_insert_with(|| Group {
                            epoch,
                            values: BTreeMap::new(),
                            answers: Vec::new(),
                        });
                        match change {
                            KeyValueWrite::Put { path, value } => {
                                group.values.insert(path, Some(value))
                            }
                            KeyValueWrite::Remove { path } => group.values.insert(path, None),
                        };
                        group.answers.push(answer);
                    }
                }
            }
            self.write(group).await;
        }
    }

    async fn write(&mut self, group: Option<Group>) {
        let Some(group) = group else { return };
        let given = group.epoch;
        // Setting the same values again changes nothing, so an unknown outcome is tried again.
        let written = match self.persevere(Wanted::Values(&group)).await {
            Ok(current) if current == given && given != 0 => Ok(()),
            Ok(current) => Err(StoreError::Fenced { given, current }),
            Err(error) => Err(error),
        };
        for answer in group.answers {
            drop(answer.send(written.clone()));
        }
    }

    /// Tries again while the database cannot be reached. Answers the current epoch.
    async fn persevere(&mut self, wanted: Wanted<'_>) -> Result<u64, StoreError> {
        let patience = self.patience;
        let mut last = StoreError::OutcomeUnknown;
        let tries = async {
            loop {
                match self.attempt(wanted).await {
                    Err(Failed::NotDone(error)) => return Err(error),
                    Err(failed) => last = failed.into(),
                    Ok(current) => return Ok(current),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let done = tokio::time::timeout(patience, tries).await;
        done.unwrap_or(Err(last))
    }

    async fn attempt(&mut self, wanted: Wanted<'_>) -> Result<u64, Failed> {
        let connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => {
                self.numbered = None;
                connect_writer(&self.pool).await?
            }
        };
        // Whatever fails on the way takes the connection with it, and so its transaction.
        let current = match wanted {
            Wanted::Values(group) => {
                let number = match self.numbered {
                    Some((epoch, number)) if epoch == group.epoch => number,
                    _ => draw_number(&connection, group.epoch).await?,
                };
                self.numbered = Some((group.epoch, number));
                put_all(&connection, group, number).await?
            }
            Wanted::Epoch(change) => change_epoch(&connection, change).await?,
        };
        self.connection = Some(connection);
        Ok(current)
    }
}

/// Where the state is: this database of this cluster on this timeline. A dump that was restored
/// elsewhere, a copy, a recovery to a point in time and a promoted standby are somewhere else: neither an
/// epoch begins there, nor does one go on that began elsewhere. The timeline is that of the log's
/// end; what `pg_control_checkpoint` says is the one before until a checkpoint after a promotion.
macro_rules! place {
    () => {
        "(SELECT hashtextextended(concat_ws('/', s.system_identifier,
              ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int,
              d.oid, current_schema()), 0)
          FROM pg_control_system() s, pg_database d WHERE d.datname = current_database())"
    };
}

/// True where the state is in the place of this name; `$or` where no place is known. A dump that is restored in
/// place comes to the same place; but its rows are written anew, by another transaction than the
/// one whose number stands in the row itself.
macro_rules! is_in {
    ($place:literal, $or:literal) => {
        concat!(
            "(coalesce((SELECT value FROM settings WHERE name = '",
            $place,
            "') = ",
            place!(),
            ", ",
            $or,
            ")
              AND coalesce((SELECT xmin::text::bigint = value & 4294967295 FROM settings
                            WHERE name = 'node_home_written_by'), ",
            $or,
            "))"
        )
    };
}

/// True where the state is at home, or has no home yet.
macro_rules! at_home {
    () => {
        is_in!("node_home", "true")
    };
}

/// True where the state was handed over, and in no copy of it.
macro_rules! left_from_here {
    () => {
        is_in!("node_left_from", "false")
    };
}

/// Whether the node is at home here, or has none yet.
pub(super) const IS_HOME: &str = concat!("SELECT ", at_home!(), " AS is_home");

/// How the store is doing.
pub(super) const HEALTH: &str = concat!(
    "SELECT schema_version, commit_position,
            EXISTS (SELECT 1 FROM moves WHERE what = 'handed_over'), ",
    at_home!(),
    ", (SELECT count(*) FROM node_state) FROM head"
);

/// From now on the state is at home where it is.
pub(super) const TRUST: &str = "
DELETE FROM settings WHERE name IN ('node_home', 'node_home_written_by')
    AND NOT EXISTS (SELECT 1 FROM moves WHERE what = 'handed_over')";

/// The number of this transaction, which no other has, whether books were handed over, and whether
/// a stream of them may still come from here.
pub(super) const LEAVING: &str = concat!(
    "SELECT pg_current_xact_id()::text::bigint,
            EXISTS (SELECT 1 FROM moves WHERE what = 'handed_over'), ",
    left_from_here!(),
    " AND NOT EXISTS (SELECT 1 FROM settings WHERE name = 'node_departed')"
);

/// Answers which stream has left: the first that asks, for ever. Nothing where it may not.
pub(super) const LEAVE: &str = concat!(
    "INSERT INTO settings (name, value) SELECT 'node_departed', $1::bigint WHERE ",
    left_from_here!(),
    " ON CONFLICT (name) DO UPDATE SET value = settings.value RETURNING value"
);

const COUNT_VALUES: &str = "SELECT count(*) FROM node_state";

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

pub(super) const MAKE_EPOCH: &str = concat!(
    "INSERT INTO settings (name, value) VALUES ('node_epoch', 0), ('node_home', ",
    place!(),
    "), ('node_home_written_by', pg_current_xact_id()::text::bigint), ('node_connection', 0)
     ON CONFLICT (name) DO NOTHING"
);

/// Against writes of the node, which share it, and against whoever else wants the node.
pub(super) const LOCK_FOR_CHANGE: &str =
    "SELECT value FROM settings WHERE name = 'node_epoch' FOR UPDATE";

/// The time is the server's.
pub(super) const STANDING: &str = concat!(
    "SELECT coalesce((SELECT value FROM settings WHERE name = 'node_epoch'), 0), ",
    at_home!(),
    ", coalesce((SELECT value FROM settings WHERE name = 'node_holder'), 0),
       coalesce((SELECT value FROM settings WHERE name = 'node_lease_until'), 0),
       floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
);

/// Where all stands as it was read. After the lock, so that it sees what the one before did.
const SET_LEASE: &str = concat!(
    "INSERT INTO settings (name, value)
     SELECT * FROM (VALUES ('node_epoch', $1::bigint), ('node_holder', $2::bigint),
                           ('node_lease_until', $3::bigint)) AS new (name, value)
     WHERE (SELECT value FROM settings WHERE name = 'node_epoch') = $4::bigint
       AND coalesce((SELECT value FROM settings WHERE name = 'node_holder'), 0) = $5::bigint
       AND coalesce((SELECT value FROM settings WHERE name = 'node_lease_until'), 0) = $6::bigint
       AND ",
    at_home!(),
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value RETURNING value"
);

async fn query(
    connection: &ClientWrapper,
    sql: &'static str,
    params: &[Param],
) -> Result<Vec<Row>, Failed> {
    let sql = connection.prepare_cached(sql).await.map_err(not_done)?;
    let rows = prepared(connection, sql, params).await;
    rows.map_err(not_done)
}

/// Of a row of [`STANDING`].
pub(super) fn lease_of(row: &Row) -> Result<NodeLease, StoreError> {
    Ok(NodeLease {
        holder: value::<i64>(row, 2)?.cast_unsigned(),
        until_ms: value(row, 3)?,
    })
}

/// Decides by what can be read without a lock, so that whoever stands by, or stops at this moment,
/// holds nobody up, and changes it in one round trip if it is still so.
async fn change_epoch(connection: &ClientWrapper, change: EpochChange) -> Result<u64, Failed> {
    loop {
        let rows = query(connection, STANDING, &[]).await?;
        let row = rows.first().ok_or_else(no_epoch)?;
        let current = value::<i64>(row, 0)?.cast_unsigned();
        let lease = lease_of(row)?;
        if !value::<bool>(row, 1)? {
            return Err(stale(connection).await);
        }
        let decided = decide(change, current, lease, value(row, 4)?);
        let (epoch, new) = decided.map_err(Failed::NotDone)?;
        if set_lease(connection, (epoch, new), (current, lease)).await? {
            return Ok(epoch);
        }
    }
}

/// Answers whether it was as it was read.
async fn set_lease(
    connection: &ClientWrapper,
    new: (u64, NodeLease),
    read: (u64, NodeLease),
) -> Result<bool, Failed> {
    let prepare = |sql| connection.prepare_cached(sql);
    let make = prepare(MAKE_EPOCH).await.map_err(not_done)?;
    let lock = prepare(LOCK_FOR_CHANGE).await.map_err(not_done)?;
    let set = prepare(SET_LEASE).await.map_err(not_done)?;
    let mut params: Vec<Param> = Vec::new();
    for (epoch, lease) in [new, read] {
        params.push(Box::new(epoch.cast_signed()));
        params.push(Box::new(lease.holder.cast_signed()));
        params.push(Box::new(lease.until_ms));
    }
    let sent = vec![
        plain(connection, BEGIN),
        prepared(connection, make, &[]),
        prepared(connection, lock, &[]),
        prepared(connection, set, &params),
        plain(connection, "COMMIT"),
    ];
    let mut is_set = false;
    let answers = in_one_round_trip(sent).await.map_err(after_commit)?;
    for (at, answer) in answers.into_iter().enumerate() {
        let rows = answer.map_err(after_commit)?;
        is_set |= at == 3 && !rows.is_empty();
    }
    Ok(is_set)
}

/// The next epoch and its lease.
fn decide(
    change: EpochChange,
    current: u64,
    lease: NodeLease,
    now_ms: i64,
) -> Result<(u64, NodeLease), StoreError> {
    match change {
        EpochChange::Begin => Ok((current + 1, NodeLease::default())),
        EpochChange::Take { holder, lasts } => {
            lease.check(holder, now_ms)?;
            Ok((current + 1, NodeLease::new(holder.0, now_ms, lasts)))
        }
        EpochChange::Renew { epoch: given, .. } | EpochChange::Release { epoch: given }
            if given == 0 || given != current =>
        {
            Err(StoreError::Fenced { given, current })
        }
        EpochChange::Renew { lasts, .. } => {
            Ok((current, NodeLease::new(lease.holder, now_ms, lasts)))
        }
        EpochChange::Release { .. } => Ok((current, NodeLease::default())),
    }
}

fn no_epoch() -> Failed {
    Failed::NotDone(StoreError::Corrupt {
        reason: "the node's epoch has no row".to_owned(),
    })
}

/// The state is not at home: whatever transaction there is ends with its connection.
pub(super) async fn stale(connection: &ClientWrapper) -> Failed {
    let handed_over = query(connection, super::moving::HANDED_OVER, &[]).await;
    if let Ok(rows) = handed_over
        && rows.first().is_some_and(|row| value(row, 0) == Ok(true))
    {
        return Failed::NotDone(StoreError::NodeHandedOver);
    }
    let found = query(connection, COUNT_VALUES, &[]).await;
    let found = found.and_then(|rows| match rows.first() {
        Some(row) => value(row, 0).map_err(Failed::from),
        None => Ok(0),
    });
    match found {
        Ok(found) => Failed::NotDone(StoreError::StaleNodeState {
            found,
            expected: None,
        }),
        Err(failed) => failed,
    }
}

/// A connection that was given up may still come to the server: what was written to it is delivered
/// whenever the network is well again, in the same epoch, and would put an older state over a newer
/// one. So each connection that writes has a number, as far as its epoch is the current one, and the
/// writes of one with an earlier number are none. The epoch is locked: the writes before are over.
const DRAW_NUMBER: &str = "
INSERT INTO settings (name, value) VALUES ('node_connection', 1)
ON CONFLICT (name) DO UPDATE SET value = settings.value + CASE
    WHEN (SELECT e.value FROM settings e WHERE e.name = 'node_epoch') = $1 THEN 1 ELSE 0 END
RETURNING value";

async fn draw_number(connection: &ClientWrapper, epoch: u64) -> Result<i64, Failed> {
    let prepare = |sql| connection.prepare_cached(sql);
    let lock = prepare(LOCK_FOR_CHANGE).await.map_err(not_done)?;
    let draw = prepare(DRAW_NUMBER).await.map_err(not_done)?;
    let params: Vec<Param> = vec![Box::new(epoch.cast_signed())];
    let sent = vec![
        plain(connection, BEGIN),
        prepared(connection, lock, &[]),
        prepared(connection, draw, &params),
        plain(connection, "COMMIT"),
    ];
    let mut number = None;
    for answer in in_one_round_trip(sent).await.map_err(not_done)? {
        if let Some(row) = answer.map_err(not_done)?.first() {
            number = Some(value(row, 0)?);
        }
    }
    number.ok_or_else(no_epoch)
}

/// Shared with other writes of the node, and against a new epoch and a new connection.
const LOCK_EPOCH: &str = concat!(
    "SELECT e.value, ",
    at_home!(),
    ", c.value
     FROM settings e, settings c WHERE e.name = 'node_epoch' AND c.name = 'node_connection'
     FOR SHARE OF e, c"
);

/// Whether what is written belongs to the current epoch and comes by its last connection.
macro_rules! is_current {
    () => {
        concat!(
            "(SELECT value FROM settings WHERE name = 'node_epoch') = $1
             AND (SELECT value FROM settings WHERE name = 'node_connection') = $2 AND ",
            at_home!()
        )
    };
}

const PUT_VALUES: &str = concat!(
    "INSERT INTO node_state (primary_namespace, secondary_namespace, key, value)
     SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::bytea[]) WHERE ",
    is_current!(),
    " ON CONFLICT (primary_namespace, secondary_namespace, key) DO UPDATE SET value = excluded.value"
);

const DROP_VALUES: &str = concat!(
    "DELETE FROM node_state
     USING unnest($3::text[], $4::text[], $5::text[]) AS row (primary_namespace, secondary_namespace, key)
     WHERE node_state.primary_namespace = row.primary_namespace
           AND node_state.secondary_namespace = row.secondary_namespace
           AND node_state.key = row.key AND ",
    is_current!()
);

/// Writes if the epoch is the current one, the connection the last one and the state at home, in
/// one round trip. Answers the current epoch.
async fn put_all(connection: &ClientWrapper, group: &Group, number: i64) -> Result<u64, Failed> {
    let prepare = |sql| connection.prepare_cached(sql);
    let lock = prepare(LOCK_EPOCH).await.map_err(not_done)?;
    let put = prepare(PUT_VALUES).await.map_err(not_done)?;
    let remove = prepare(DROP_VALUES).await.map_err(not_done)?;
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for (path, value) in &group.values {
        match value {
            Some(value) => set.push((path, value)),
            None => removed.push(path),
        }
    }
    let mut put_params = params(group, number, set.iter().map(|(path, _)| *path));
    let values: Vec<Vec<u8>> = set.iter().map(|(_, value)| (*value).clone()).collect();
    put_params.push(Box::new(values));
    let remove_params = params(group, number, removed.iter().copied());
    let mut sent = vec![plain(connection, BEGIN), prepared(connection, lock, &[])];
    if !set.is_empty() {
        sent.push(prepared(connection, put, &put_params));
    }
    if !removed.is_empty() {
        sent.push(prepared(connection, remove, &remove_params));
    }
    sent.push(plain(connection, "COMMIT"));
    let (mut current, mut is_at_home, mut last) = (0, true, number);
    let answers = in_one_round_trip(sent).await.map_err(not_done)?;
    for (at, answer) in answers.into_iter().enumerate() {
        let rows = answer.map_err(not_done)?;
        if let (1, Some(row)) = (at, rows.first()) {
            current = value::<i64>(row, 0)?.cast_unsigned();
            is_at_home = value(row, 1)?;
            last = value(row, 2)?;
        }
    }
    if !is_at_home {
        return Err(stale(connection).await);
    }
    if current == group.epoch && last != number {
        // Nothing was written: another connection has drawn a number since, and this one is over.
        return Err(Failed::Again(StoreError::OutcomeUnknown));
    }
    Ok(current)
}

fn params<'a>(
    group: &Group,
    number: i64,
    paths: impl Iterator<Item = &'a KeyPath> + Clone,
) -> Vec<Param> {
    let column = |part: fn(&KeyPath) -> &String| -> Param {
        Box::new(paths.clone().map(part).cloned().collect::<Vec<_>>())
    };
    vec![
        Box::new(group.epoch.cast_signed()),
        Box::new(number),
        column(|path| &path.primary),
        column(|path| &path.secondary),
        column(|path| &path.key),
    ]
}
