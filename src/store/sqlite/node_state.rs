//! The node's state in the same file, written in the same flushes.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::moving::handed_over;
use super::tasks::run_task;
use super::writer::Lane;
use super::{SqliteStore, lock};
use crate::ports::BoxFuture;
use crate::store::key_value::NodeLease;
use crate::store::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, StoreError};

impl KeyValue for SqliteStore {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        if let Some(stale) = lock(&self.shared.stale).clone() {
            return Box::pin(std::future::ready(Err(stale)));
        }
        let lease = self.shared.lease.clone();
        let begun = run_task(&self.shared.queue, Lane::Node, move |connection, _| {
            if let Some(locked) = locked(connection)? {
                return Ok(Err(locked));
            }
            *lock(&lease) = NodeLease::default();
            next_epoch(connection).map(Ok)
        });
        Box::pin(async move { begun.await? })
    }

    fn take_lease(
        &self,
        holder: NodeHolder,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<u64, StoreError>> {
        if let Some(stale) = lock(&self.shared.stale).clone() {
            return Box::pin(std::future::ready(Err(stale)));
        }
        let lease = self.shared.lease.clone();
        let taken = run_task(&self.shared.queue, Lane::Node, move |connection, at_ms| {
            if let Some(locked) = locked(connection)? {
                return Ok(Err(locked));
            }
            let mut lease = lock(&lease);
            if let Err(held) = lease.check(holder, at_ms) {
                return Ok(Err(held));
            }
            // Should the flush fail, the same holder asks again, or waits for itself no longer
            // than the lease lasts.
            *lease = NodeLease::new(holder.0, at_ms, lasts);
            next_epoch(connection).map(Ok)
        });
        Box::pin(async move { taken.await? })
    }

    fn renew_lease(
        &self,
        epoch: u64,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change_lease(epoch, move |lease, at_ms| {
            NodeLease::new(lease.holder, at_ms, lasts)
        })
    }

    fn release_lease(&self, epoch: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change_lease(epoch, |_, _| NodeLease::default())
    }

    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let written = run_task(&self.shared.queue, Lane::Node, move |connection, _| {
            if let Err(fenced) = check_epoch(connection, epoch)? {
                return Ok(Err(fenced));
            }
            put_or_remove(connection, &change)?;
            count_write(connection).map(Ok)
        });
        Box::pin(async move { written.await? })
    }

    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            store
                .read(move |connection| {
                    connection
                        .prepare_cached(
                            "SELECT value FROM node_state WHERE primary_namespace = ?1
                             AND secondary_namespace = ?2 AND key = ?3",
                        )?
                        .query_row([&path.primary, &path.secondary, &path.key], |row| {
                            row.get(0)
                        })
                        .optional()
                })
                .await
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
            store
                .read(move |connection| {
                    connection
                        .prepare_cached(
                            "SELECT key FROM node_state WHERE primary_namespace = ?1
                             AND secondary_namespace = ?2 ORDER BY key",
                        )?
                        .query_map([primary, secondary], |row| row.get(0))?
                        .collect()
                })
                .await
        })
    }
}

impl SqliteStore {
    /// Writes nothing to the file, and so costs no flush.
    fn change_lease(
        &self,
        epoch: u64,
        change: impl Fn(&NodeLease, i64) -> NodeLease + Send + 'static,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let lease = self.shared.lease.clone();
        let changed = run_task(&self.shared.queue, Lane::Node, move |connection, at_ms| {
            if let Err(fenced) = check_epoch(connection, epoch)? {
                return Ok(Err(fenced));
            }
            let mut lease = lock(&lease);
            *lease = change(&lease, at_ms);
            Ok(Ok(()))
        });
        Box::pin(async move { changed.await? })
    }
}

fn next_epoch(connection: &Connection) -> Result<u64, rusqlite::Error> {
    connection
        .query_row(
            "INSERT INTO settings (name, value) VALUES ('node_epoch', 1)
             ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
            [],
            |row| row.get::<_, i64>(0),
        )
        .map(i64::cast_unsigned)
}

fn check_epoch(
    connection: &Connection,
    given: u64,
) -> Result<Result<(), StoreError>, rusqlite::Error> {
    let current = current_epoch(connection)?;
    if given == 0 || current != given {
        return Ok(Err(StoreError::Fenced { given, current }));
    }
    Ok(Ok(()))
}

/// Why no node may run on what is in the file. To be asked by whoever writes: since the file was
/// opened books may have been moved in, or the node handed over, for somebody who went away.
pub(super) fn locked(connection: &Connection) -> Result<Option<StoreError>, rusqlite::Error> {
    if handed_over(connection)? {
        return Ok(Some(StoreError::NodeHandedOver));
    }
    let found = writes(connection)?;
    let stale = StoreError::StaleNodeState {
        found,
        expected: None,
    };
    Ok((found < 0).then_some(stale))
}

/// How often the node has written; less than 0 where it never may upon what is there.
pub(super) fn writes(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT coalesce((SELECT value FROM settings WHERE name = 'node_writes'), 0)",
        )?
        .query_row([], |row| row.get(0))
}

pub(super) fn count_write(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached(
            "INSERT INTO settings (name, value) VALUES ('node_writes', 1)
             ON CONFLICT (name) DO UPDATE SET value = value + 1",
        )?
        .execute([])
        .map(drop)
}

fn current_epoch(connection: &Connection) -> Result<u64, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT coalesce((SELECT value FROM settings WHERE name = 'node_epoch'), 0)",
        )?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}

pub(super) fn put_or_remove(
    connection: &Connection,
    change: &KeyValueWrite,
) -> Result<(), rusqlite::Error> {
    match change {
        KeyValueWrite::Put { path, value } => connection
            .prepare_cached(
                "INSERT INTO node_state (primary_namespace, secondary_namespace, key, value)
                 VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (primary_namespace, secondary_namespace, key)
                 DO UPDATE SET value = ?4",
            )?
            .execute(params![path.primary, path.secondary, path.key, value])
            .map(drop),
        KeyValueWrite::Remove { path } => connection
            .prepare_cached(
                "DELETE FROM node_state WHERE primary_namespace = ?1
                 AND secondary_namespace = ?2 AND key = ?3",
            )?
            .execute([&path.primary, &path.secondary, &path.key])
            .map(drop),
    }
}
