//! What lies beside the file: the lock, so that one engine has it, and in the lock's file how
//! often the node has written.
//!
//! The number is written after each commit that has writes of the node in it, and not flushed:
//! it is never ahead of the file, and behind it only after a loss of power. A file with fewer
//! writes in it than the number says is an older one that was put back. Beside the number stands
//! which file the lock's is: one that was copied together with the database, and may be as old as
//! that, is another one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::io_error;
use crate::store::StoreError;

pub(super) struct Seat {
    file: File,
    folder: PathBuf,
    /// Which file this is, as long as nobody copies it.
    identity: String,
    /// How often the node has written, as found at the start; `None` in a new seat, and in a copy
    /// of one.
    pub(super) found: Option<i64>,
    /// Somebody had the seat before, or what it was copied from.
    pub(super) was_used: bool,
}

/// The file's number and when it was made, as far as the system tells: both stay when the file is
/// renamed or written to, and neither is another file's.
fn identity(file: &File) -> std::io::Result<String> {
    let metadata = file.metadata()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let number = 0;
    let made = metadata.created().ok();
    let made = made.and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok());
    let made = made.map_or(0, |made| made.as_nanos());
    Ok(format!("{number}-{made}"))
}

/// One name for a file, however it is reached.
pub(super) fn real_path(file: &Path) -> Result<PathBuf, StoreError> {
    if file.is_symlink() && !file.exists() {
        let reason = "the link leads nowhere".to_owned();
        return Err(StoreError::Io { reason });
    }
    if let Ok(real) = file.canonicalize() {
        return Ok(real);
    }
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new(".")).canonicalize();
    let name = file.file_name().unwrap_or_default();
    Ok(folder.map_err(io_error)?.join(name))
}

/// The lock's file of a database.
fn lock_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Makes the number that was written last survive a loss of power too. A failure is none, as in
/// [`Seat::note`].
pub(super) fn flush(database: &Path) {
    let file = OpenOptions::new().write(true).open(lock_of(database));
    drop(file.and_then(|file| file.sync_all()));
}

/// How often a seat that is taken is asked for again, and how long after: a second in all. A process
/// that is started anywhere in the host has its parent's files, and so the seat of a store that was
/// closed since, until it has become another program.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            locked => return locked,
        }
    }
    file.try_lock()
}

impl Seat {
    /// Takes the seat, which is the operating system's lock, so that it ends with the process.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(lock_of(database))
            .map_err(io_error)?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    location: database.display().to_string(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error(error)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io_error)?;
        let mut words = text.split_whitespace();
        let written: Option<i64> = words.next().and_then(|number| number.parse().ok());
        let identity = identity(&file).map_err(io_error)?;
        // Older versions wrote the number alone.
        let is_copied = words.next().is_some_and(|word| word != identity);
        let folder = database.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Self {
            file,
            folder,
            identity,
            found: written.filter(|_| !is_copied),
            was_used: written.is_some(),
        })
    }

    /// The first number in a new seat, flushed: without any number the node would not start.
    pub(super) fn begin(&mut self, writes: i64) -> Result<(), StoreError> {
        self.write(writes).map_err(io_error)?;
        self.file.sync_all().map_err(io_error)?;
        // The name as well, where the system lets a folder be flushed.
        drop(File::open(&self.folder).and_then(|folder| folder.sync_all()));
        Ok(())
    }

    /// Writes down how often the node has written. A failure is no error: the number is then
    /// behind, as after a loss of power.
    pub(super) fn note(&mut self, writes: i64) {
        drop(self.write(writes));
    }

    fn write(&mut self, writes: i64) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        writeln!(self.file, "{writes:020} {}", self.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_that_is_given_back_within_a_moment_is_waited_for() -> Result<(), StoreError> {
        let folder = tempfile::tempdir().map_err(io_error)?;
        let database = folder.path().join("books.db");
        let held = Seat::take(&database)?;
        let gives_back = std::thread::spawn(move || {
            std::thread::sleep(10 * PAUSE);
            drop(held);
        });
        Seat::take(&database)?;
        drop(gives_back.join());
        let _held = Seat::take(&database)?;
        let refused = Seat::take(&database).map(drop);
        assert!(matches!(refused, Err(StoreError::InUse { .. })));
        Ok(())
    }
}
