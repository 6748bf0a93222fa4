//! The node's state in the same database, on a connection of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Pool};
use futures_channel::oneshot;

use super::connection::{
    Failed, Param, connect_writer, in_one_round_trip, not_done, plain, prepared,
};
use super::queue::Taker;
use super::reads::{NODE_KEYS, NODE_VALUE, value};
use super::{PAUSE, PostgresStore};
use crate::ports::BoxFuture;
use crate::store::{KeyPath, KeyValue, KeyValueWrite, StoreError};

/// The most node writes that may wait. Far above what a node has in flight.
pub(super) const MAX_WAITING: usize = 262_144;
/// The most writes in one transaction.
const MAX_GROUP: usize = 1_024;

type Written = Result<(), StoreError>;

/// What the node wants done, in the order in which it asked.
pub(super) enum NodeTask {
    Begin(oneshot::Sender<Result<u64, StoreError>>),
    Write {
        epoch: u64,
        change: KeyValueWrite,
        answer: oneshot::Sender<Written>,
    },
}

pub(super) struct NodeWriter {
    pub(super) pool: Pool,
    pub(super) taker: Taker<NodeTask>,
    pub(super) patience: Duration,
    pub(super) connection: Option<ClientWrapper>,
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
                    NodeTask::Begin(answer) => {
                        self.write(group.take()).await;
                        drop(answer.send(self.begin().await));
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

    async fn begin(&mut self) -> Result<u64, StoreError> {
        // An epoch whose answer was lost is one that nobody uses.
        self.persevere(None).await
    }

    async fn write(&mut self, group: Option<Group>) {
        let Some(group) = group else { return };
        let given = group.epoch;
        // Setting the same values again changes nothing, so an unknown outcome is tried again.
        let written = match self.persevere(Some(&group)).await {
            Ok(current) if current == given && given != 0 => Ok(()),
            Ok(current) => Err(StoreError::Fenced { given, current }),
            Err(error) => Err(error),
        };
        for answer in group.answers {
            drop(answer.send(written.clone()));
        }
    }

    /// Writes a group, or begins an epoch; tries again while the database cannot be reached.
    /// Answers the current epoch.
    async fn persevere(&mut self, group: Option<&Group>) -> Result<u64, StoreError> {
        let patience = self.patience;
        let mut last = StoreError::OutcomeUnknown;
        let tries = async {
            loop {
                match self.attempt(group).await {
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

    async fn attempt(&mut self, group: Option<&Group>) -> Result<u64, Failed> {
        let connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => connect_writer(&self.pool).await?,
        };
        let current = match group {
            Some(group) => put_all(&connection, group.epoch, &group.values).await?,
            None => begin_epoch(&connection).await?,
        };
        self.connection = Some(connection);
        Ok(current)
    }
}

/// Where the state is: this database of this cluster on this timeline. A dump that was restored,
/// a copy, a recovery to a point in time and a promoted standby are somewhere else, and an epoch
/// does not begin there.
const BEGIN_EPOCH: &str = "
WITH here AS (
    SELECT hashtextextended(concat_ws('/', s.system_identifier, c.timeline_id, d.oid,
                                      current_schema()), 0) AS place
    FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d
    WHERE d.datname = current_database()
), home AS (
    INSERT INTO settings (name, value) SELECT 'node_home', place FROM here
    ON CONFLICT (name) DO UPDATE SET value = settings.value RETURNING value
)
INSERT INTO settings (name, value) SELECT 'node_epoch', 1 FROM here, home
WHERE here.place = home.value
ON CONFLICT (name) DO UPDATE SET value = settings.value + 1 RETURNING value";

/// Whether the node is at home here, or has none yet.
pub(super) const IS_HOME: &str = "
WITH here AS (
    SELECT hashtextextended(concat_ws('/', s.system_identifier, c.timeline_id, d.oid,
                                      current_schema()), 0) AS place
    FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d
    WHERE d.datname = current_database()
)
SELECT coalesce((SELECT value FROM settings WHERE name = 'node_home'), place) = place AS is_home
FROM here";

/// From now on the state is at home where it is.
pub(super) const TRUST: &str = "
DELETE FROM settings WHERE name = 'node_home'
    AND NOT EXISTS (SELECT 1 FROM moves WHERE what = 'handed_over')";

const COUNT_VALUES: &str = "SELECT count(*) FROM node_state";

async fn begin_epoch(connection: &ClientWrapper) -> Result<u64, Failed> {
    let sql = connection
        .prepare_cached(BEGIN_EPOCH)
        .await
        .map_err(not_done)?;
    if let Some(row) = connection.query_opt(&sql, &[]).await.map_err(not_done)? {
        return Ok(value::<i64>(&row, 0)?.cast_unsigned());
    }
    let sql = super::moving::HANDED_OVER;
    let handed_over = connection.query_one(sql, &[]).await.map_err(not_done)?;
    if value(&handed_over, 0)? {
        return Err(Failed::NotDone(StoreError::NodeHandedOver));
    }
    let row = connection.query_one(COUNT_VALUES, &[]).await;
    Err(Failed::NotDone(StoreError::StaleNodeState {
        found: value(&row.map_err(not_done)?, 0)?,
        expected: None,
    }))
}

/// Shared with other writes of the node, and against a new epoch.
const LOCK_EPOCH: &str = "SELECT value FROM settings WHERE name = 'node_epoch' FOR SHARE";

const PUT_VALUES: &str = "
INSERT INTO node_state (primary_namespace, secondary_namespace, key, value)
SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[])
WHERE (SELECT value FROM settings WHERE name = 'node_epoch') = $1
ON CONFLICT (primary_namespace, secondary_namespace, key) DO UPDATE SET value = excluded.value";

const DROP_VALUES: &str = "
DELETE FROM node_state
USING unnest($2::text[], $3::text[], $4::text[]) AS row (primary_namespace, secondary_namespace, key)
WHERE node_state.primary_namespace = row.primary_namespace
      AND node_state.secondary_namespace = row.secondary_namespace
      AND node_state.key = row.key
      AND (SELECT value FROM settings WHERE name = 'node_epoch') = $1";

/// Writes if the epoch is the current one, in one round trip. Answers the current one.
async fn put_all(
    connection: &ClientWrapper,
    epoch: u64,
    values: &BTreeMap<KeyPath, Option<Vec<u8>>>,
) -> Result<u64, Failed> {
    let prepare = |sql| connection.prepare_cached(sql);
    let lock = prepare(LOCK_EPOCH).await.map_err(not_done)?;
    let put = prepare(PUT_VALUES).await.map_err(not_done)?;
    let remove = prepare(DROP_VALUES).await.map_err(not_done)?;
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for (path, value) in values {
        match value {
            Some(value) => set.push((path, value)),
            None => removed.push(path),
        }
    }
    let mut put_params = params(epoch, set.iter().map(|(path, _)| *path));
    let values: Vec<Vec<u8>> = set.iter().map(|(_, value)| (*value).clone()).collect();
    put_params.push(Box::new(values));
    let remove_params = params(epoch, removed.iter().copied());
    let mut sent = vec![
        plain(
            connection,
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        ),
        prepared(connection, lock, &[]),
    ];
    if !set.is_empty() {
        sent.push(prepared(connection, put, &put_params));
    }
    if !removed.is_empty() {
        sent.push(prepared(connection, remove, &remove_params));
    }
    sent.push(plain(connection, "COMMIT"));
    let mut current = 0;
    for (at, answer) in in_one_round_trip(sent)
        .await
        .map_err(not_done)?
        .into_iter()
        .enumerate()
    {
        let rows = answer.map_err(not_done)?;
        if let (1, Some(row)) = (at, rows.first()) {
            current = value::<i64>(row, 0)?.cast_unsigned();
        }
    }
    Ok(current)
}

fn params<'a>(epoch: u64, paths: impl Iterator<Item = &'a KeyPath> + Clone) -> Vec<Param> {
    let column = |part: fn(&KeyPath) -> &String| -> Param {
        Box::new(paths.clone().map(part).cloned().collect::<Vec<_>>())
    };
    vec![
        Box::new(epoch.cast_signed()),
        column(|path| &path.primary),
        column(|path| &path.secondary),
        column(|path| &path.key),
    ]
}

impl KeyValue for PostgresStore {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let pushed = self.shared.node.push(NodeTask::Begin(answer));
        Box::pin(async move {
            pushed?;
            answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }

    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let (answer, answered) = oneshot::channel();
        let pushed = self.shared.node.push(NodeTask::Write {
            epoch,
            change,
            answer,
        });
        Box::pin(async move {
            pushed?;
            answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }

    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            let params: Vec<Param> = vec![
                Box::new(path.primary),
                Box::new(path.secondary),
                Box::new(path.key),
            ];
            let rows = store.rows(NODE_VALUE, params).await?;
            rows.first().map(|row| value(row, 0)).transpose()
        })
    }

    fn forget_channels(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> BoxFuture<'static, Result<bool, StoreError>> {
        let store = self.clone();
        Box::pin(async move { store.forget_channels_now(instead).await })
    }

    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            let params: Vec<Param> = vec![Box::new(primary), Box::new(secondary)];
            let rows = store.rows(NODE_KEYS, params).await?;
            rows.iter().map(|row| value(row, 0)).collect()
        })
    }
}
