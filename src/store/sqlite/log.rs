//! The log beside the file, `<file>-wal`: that it is this file's own, that what is found in it was
//! flushed, and when it is written back.
//!
//! SQLite knows no pairing of a log with its file: it plays any sound log into any file. So a number
//! stands in the settings that is another one after each time the log may begin anew, and beside it the
//! one before. The file alone has one of the two, or the log belongs to another file.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{BUSY, connect, io_error, sql_error};
use crate::store::StoreError;

/// After how many pages the log is written back, with two more flushes: the longer it is, the more
/// often a page has changed in it that is then written once. Eight megabytes.
const LOG_PAGES: u64 = 4_000;

/// The log's own head, and that of each page in it (<https://sqlite.org/fileformat2.html#walformat>).
const HEAD_BYTES: u64 = 32;
const PAGE_HEAD_BYTES: u64 = 24;

/// What stands in both heads, and is another one whenever the log begins anew.
type Salt = [u8; 8];

/// In place of a number where there is none. All take up the same room.
const NO_NUMBER: i64 = 1 << 62;

/// Another number, and the one before beside it. As large as [`NO_NUMBER`] at least, so that the row
/// stays where it is on its page.
const CHANGE_NUMBER: &str = "
INSERT INTO settings (name, value) SELECT 'log_number_before',
    coalesce((SELECT value FROM settings WHERE name = 'log_number'), 1 << 62)
    WHERE true ON CONFLICT (name) DO UPDATE SET value = excluded.value;
INSERT INTO settings (name, value) VALUES ('log_number', (random() & ((1 << 62) - 1)) | (1 << 62))
    ON CONFLICT (name) DO UPDATE SET value = excluded.value;";

const NUMBER: &str = "SELECT value FROM settings WHERE name = 'log_number'";
const NUMBER_BEFORE: &str = "SELECT value FROM settings WHERE name = 'log_number_before'";

/// Gives the file a number that no log goes with: in the first transaction of one, and in a copy.
pub(super) fn change_number(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(CHANGE_NUMBER)
}

/// The same for a copy that nobody has open.
pub(super) fn set_apart(copy: &Path) -> Result<(), StoreError> {
    let copy = connect(copy, OpenFlags::empty())?;
    copy.pragma_update(None, "synchronous", "EXTRA")
        .map_err(sql_error)?;
    change_number(&copy).map_err(sql_error)?;
    copy.close().map_err(|(_, error)| sql_error(error))
}

pub(super) fn path(file: &Path) -> PathBuf {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

pub(super) fn is_there(file: &Path) -> bool {
    fs::metadata(path(file)).is_ok_and(|log| log.len() > 0)
}

fn number(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    let found = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(NO_NUMBER))
}

fn foreign(file: &Path) -> StoreError {
    let (log, file) = (path(file), file.display());
    let log = log.display();
    let reason = format!(
        "{log} is the log of another file than {file}: an older or a newer copy was put in its \
         place. Put back the file that the log belongs to, or, for the books as they are in \
         this copy, move the log away. Nothing was changed"
    );
    StoreError::Corrupt { reason }
}

/// Before the first read, which removes the log of an empty file.
pub(super) fn check_not_orphaned(file: &Path) -> Result<(), StoreError> {
    let is_empty = fs::metadata(file).is_ok_and(|file| file.len() == 0);
    if is_empty && is_there(file) {
        return Err(foreign(file));
    }
    Ok(())
}

/// # Errors
/// `store.corrupt` where the log is not the file's own.
pub(super) fn check_pair(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    if !is_there(file) {
        return Ok(());
    }
    // A page of it may be torn while the log is written back; the log has that page then.
    let Ok(alone) = number_alone(file) else {
        return Ok(());
    };
    for sql in [NUMBER, NUMBER_BEFORE] {
        match number(connection, sql).map_err(sql_error) {
            Ok(number) if number == alone => return Ok(()),
            // The file can be read, and with the log it cannot.
            Ok(_) | Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(foreign(file))
}

/// What stands in the file, whatever is in the log.
fn number_alone(file: &Path) -> rusqlite::Result<i64> {
    use std::fmt::Write as _;
    let mut uri = "file:".to_owned();
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => drop(write!(uri, "%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let alone = Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    number(&alone, NUMBER)
}

/// Makes what is in the log survive a loss of power, which whoever wrote it may not have come to.
/// Then it is written back, for which there may be no room yet. Answers whether the log is empty.
///
/// A flush that failed may have left pages that are in the memory of the system and will never reach
/// the disk. So all of the log is written once more, as it is, before that is flushed.
pub(super) fn settle(connection: &Connection, file: &Path) -> Result<bool, StoreError> {
    if !is_there(file) {
        return Ok(true);
    }
    flush_fully(connection)?;
    // So that nobody else writes to it meanwhile, or lets it begin anew.
    connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(sql_error)?;
    let written = write_once_more(&path(file)).map_err(io_error);
    connection.execute_batch("ROLLBACK").map_err(sql_error)?;
    written?;
    // Who reads it is not waited for: it is flushed, and written back later.
    connection.busy_timeout(Duration::ZERO).map_err(sql_error)?;
    let is_written_back = write_back(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    connection.busy_timeout(BUSY).map_err(sql_error)?;
    match is_written_back {
        // It is flushed where it is, and may go on to grow.
        Err(StoreError::Full) => Ok(false),
        other => other,
    }
}

/// Gives a file a number that has none, before there is a log again: so that the first one after an
/// update is not taken for that of every file of before. What fails here leaves it so.
pub(super) fn begin_numbers(connection: &Connection) {
    let has_none = |sql| number(connection, sql) == Ok(NO_NUMBER);
    if has_none(NUMBER) && change_number(connection).is_err() {
        return;
    }
    // Written back, so that the next log has this number before its own.
    if has_none(NUMBER_BEFORE) {
        drop(write_back(connection, "PRAGMA wal_checkpoint(TRUNCATE)"));
    }
}

/// Answers whether all of it was, and whoever reads it needs it no more.
fn write_back(connection: &Connection, sql: &str) -> Result<bool, StoreError> {
    let done: rusqlite::Result<(i64, i64, i64)> =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let (is_busy, pages, written_back) = done.map_err(sql_error)?;
    Ok(is_busy == 0 && pages == written_back)
}

fn write_once_more(log: &Path) -> std::io::Result<()> {
    let mut log = File::options().read(true).write(true).open(log)?;
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        log.seek(SeekFrom::Start(at))?;
        let length = log.read(&mut piece)?;
        let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else {
            return log.sync_all();
        };
        log.seek(SeekFrom::Start(at))?;
        log.write_all(read)?;
        at += length as u64;
    }
}

/// What a flush is. Nothing is written to the file by this.
pub(super) fn flush_fully(connection: &Connection) -> Result<(), StoreError> {
    for name in ["synchronous", "fullfsync", "checkpoint_fullfsync"] {
        let value = if name == "synchronous" { "FULL" } else { "ON" };
        connection
            .pragma_update(None, name, value)
            .map_err(sql_error)?;
    }
    Ok(())
}

/// The writer's log.
pub(super) struct Log {
    file: PathBuf,
    log: File,
    /// Where the head of the page stands with which the log is long enough.
    long_at: u64,
    salt: Option<Salt>,
    /// All of it is in the file, so that the next transaction may let it begin anew.
    may_begin: bool,
    /// What was found in it was not flushed yet: nobody is told of it that it is done.
    is_unflushed: Arc<AtomicBool>,
}

impl Log {
    pub(super) fn new(
        connection: &Connection,
        file: &Path,
        is_unflushed: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let page_bytes = connection.query_row("PRAGMA page_size", [], |row| row.get(0));
        let page_bytes: u32 = page_bytes.map_err(sql_error)?;
        Ok(Self {
            file: file.to_owned(),
            log: File::open(path(file)).map_err(io_error)?,
            long_at: HEAD_BYTES + (LOG_PAGES - 1) * (PAGE_HEAD_BYTES + u64::from(page_bytes)),
            salt: None,
            may_begin: !is_there(file),
            is_unflushed,
        })
    }

    /// Before anything else is written, or answered. Answers whether something was flushed.
    pub(super) fn begin(&mut self, connection: &Connection) -> Result<bool, StoreError> {
        if !self.is_unflushed.load(Ordering::SeqCst) {
            return Ok(false);
        }
        self.may_begin = settle(connection, &self.file)?;
        self.is_unflushed.store(false, Ordering::SeqCst);
        Ok(true)
    }

    /// How much was changed so far, where it will be asked.
    pub(super) fn count(&self, connection: &Connection) -> rusqlite::Result<Option<i64>> {
        let count = || connection.query_row("SELECT total_changes()", [], |row| row.get(0));
        self.may_begin.then(count).transpose()
    }

    /// Writes another number into a transaction that writes anything, where it may be the log's first.
    /// Answers whether it did.
    pub(super) fn before_commit(
        &self,
        connection: &Connection,
        counted: Option<i64>,
        writes_more: bool,
    ) -> rusqlite::Result<bool> {
        let writes = writes_more || self.count(connection)? > counted;
        if !self.may_begin || !writes {
            return Ok(false);
        }
        change_number(connection).map(|()| true)
    }

    /// After a commit that succeeded.
    pub(super) fn committed(&mut self, has_changed_number: bool) {
        if has_changed_number {
            self.may_begin = false;
        }
        let Ok(salt) = self.salt_at(16) else {
            if has_changed_number {
                self.salt = None;
            }
            return;
        };
        // Somebody else had written all of it back.
        if self.salt.is_some_and(|before| before != salt) && !has_changed_number {
            self.may_begin = true;
        }
        self.salt = Some(salt);
    }

    /// Writes the log back when it is long enough. What fails here is tried again after the next
    /// commit.
    pub(super) fn write_back(&mut self, connection: &Connection) {
        let is_long = self.salt.is_some() && self.salt_at(self.long_at + 8).ok() == self.salt;
        if is_long && write_back(connection, "PRAGMA wal_checkpoint(PASSIVE)") == Ok(true) {
            self.may_begin = true;
        }
    }

    fn salt_at(&mut self, place: u64) -> std::io::Result<Salt> {
        let mut salt = Salt::default();
        self.log.seek(SeekFrom::Start(place))?;
        self.log.read_exact(&mut salt)?;
        Ok(salt)
    }
}
