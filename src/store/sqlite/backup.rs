//! A copy of the books while they are written, and the full check of a file.

use std::path::{Path, PathBuf};

use futures_channel::oneshot;
use rusqlite::{Connection, OpenFlags, params};

use super::{SqliteStore, connect, io_error, log, schema, seat, spawn, sql_error};
use crate::store::StoreError;
use crate::store::moving::is_shown;

/// Stale wherever it is opened, also in the place it was taken from. Where the node has not written
/// yet it may do so later, and its channels are then in no copy of before.
pub(super) const LOCK_NODE: &str = "
INSERT INTO settings (name, value) VALUES ('node_writes', -1)
ON CONFLICT (name) DO UPDATE SET value = -1";

impl SqliteStore {
    /// Writes a copy of the books, as they are at one moment, to a new file; commits go on
    /// meanwhile. What the node knows of its channels is **not** in it: a node must never run on
    /// an older state of a channel. Where the copy is opened the books are whole, and the node
    /// does not start before it is [recovered](crate::Engine::recover), also where none had begun
    /// yet: it has the same seed, and may have begun since. An engine without a node needs nothing
    /// of that.
    ///
    /// # Errors
    /// `store.io` when there is a file already, `store.full`, `store.read_only`.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<(), StoreError> {
        let (from, to) = (self.location().to_owned(), to.as_ref().to_owned());
        on_a_thread("flashkit-backup", move || {
            if to.exists() {
                let reason = format!("{} exists already", to.display());
                return Err(StoreError::Io { reason });
            }
            let mut unfinished = to.clone().into_os_string();
            unfinished.push(".unfinished");
            let unfinished = PathBuf::from(unfinished);
            drop(std::fs::remove_file(&unfinished));
            let copied = copy(&from, &unfinished)
                .and_then(|()| std::fs::rename(&unfinished, &to).map_err(io_error));
            if copied.is_err() {
                drop(std::fs::remove_file(&unfinished));
            }
            seat::flush_names(&to);
            copied
        })
        .await
    }

    /// Reads the whole file and answers what SQLite finds wrong with it: nothing in a sound one.
    /// Opening a file checks less, so that it is quick.
    ///
    /// # Errors
    /// `store.io`, `store.corrupt` when it cannot even be read.
    pub async fn check_file(&self) -> Result<Vec<String>, StoreError> {
        let file = self.location().to_owned();
        on_a_thread("flashkit-check", move || {
            let connection = connect(&file, OpenFlags::empty())?;
            let mut found = lines(&connection, "PRAGMA integrity_check")?;
            found.retain(|line| line != "ok");
            found.extend(lines(&connection, "PRAGMA foreign_key_check")?);
            if found.is_empty() {
                found = wrong_in(&connection)?;
            }
            Ok(found)
        })
        .await
    }
}

/// What does not follow from other rows and should.
pub(super) fn wrong_in(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut found = lines(connection, schema::DERIVED_WRONGLY)?;
    found.extend(shown_wrongly(connection).map_err(sql_error)?);
    Ok(found)
}

/// Accounts that show another balance to people than their totals come to.
fn shown_wrongly(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT account, debits_posted, credits_posted, balance FROM accounts";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let account: String = row.get(0)?;
        let totals: [String; 2] = [row.get(1)?, row.get(2)?];
        if !is_shown(&account, &totals, row.get(3)?) {
            found.push(format!("accounts shows a wrong balance of {account}"));
        }
    }
    Ok(found)
}

fn lines(connection: &Connection, sql: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = connection.prepare(sql).map_err(sql_error)?;
    let rows = statement.query_map([], |row| row.get(0));
    rows.map_err(sql_error)?
        .collect::<Result<_, _>>()
        .map_err(sql_error)
}

/// One reading transaction, so that it is the state of one moment; flushed before it answers.
fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let source = connect(from, OpenFlags::empty())?;
    source
        .execute("VACUUM INTO ?1", params![to.to_string_lossy()])
        .map_err(sql_error)?;
    drop(source);
    let copy = connect(to, OpenFlags::empty())?;
    copy.execute_batch("PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON")
        .map_err(sql_error)?;
    // An older copy of the state of channels is poison, so it is in no backup.
    super::moving::drop_channel_state(&copy).map_err(sql_error)?;
    copy.execute_batch(LOCK_NODE).map_err(sql_error)?;
    // Nor is it the file that the log goes with.
    log::change_number(&copy).map_err(sql_error)?;
    copy.close().map_err(|(_, error)| sql_error(error))?;
    let file = std::fs::File::open(to).map_err(io_error)?;
    file.sync_all().map_err(io_error)
}

/// Long work on a thread of its own: readers and writer go on.
pub(super) async fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, answered) = oneshot::channel();
    spawn(name, move || drop(answer.send(work())))?;
    answered.await.unwrap_or(Err(StoreError::Closed))
}
