//! What lies beside the file: the lock, so that one engine has it, and in the lock's file how
//! often the node has written.
//!
//! The number is written after each commit that has writes of the node in it, and not flushed:
//! it is never ahead of the file, and behind it only after a loss of power. A file with fewer
//! writes in it than the number says is an older one that was put back.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::io_error;
use crate::store::StoreError;

pub(super) struct Seat {
    file: File,
    folder: PathBuf,
    /// How often the node has written, as found at the start; `None` in a new seat.
    pub(super) found: Option<i64>,
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

impl Seat {
    /// Takes the seat, which is the operating system's lock, so that it ends with the process.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let mut name = database.as_os_str().to_owned();
        name.push(".lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&name)
            .map_err(io_error)?;
        match file.try_lock() {
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
        let found = text.trim().parse().ok();
        let folder = database.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Self {
            file,
            folder,
            found,
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
        writeln!(self.file, "{writes:020}")
    }
}
