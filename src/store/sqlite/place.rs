//! Whether the files are still where they were opened.
//!
//! A file that is removed or replaced while it is open goes on taking writes, which nobody will
//! ever find. So before every transaction, and again before it is answered, the file and its log
//! are looked for under their names. The lock is too: whoever removes it lets another engine in.

use std::fs;
use std::path::{Path, PathBuf};

use super::{io_error, log, seat};
use crate::store::StoreError;

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    number: u64,
}

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            number: found.ino(),
        })
    }

    /// Elsewhere an open file cannot be taken away.
    #[cfg(not(unix))]
    fn of(path: &Path) -> std::io::Result<Self> {
        fs::metadata(path).map(|_| Self {})
    }
}

/// The file, its log and its lock as they were opened.
pub(super) struct Place {
    files: [(PathBuf, Identity); 3],
}

impl Place {
    /// To be asked when all of them are open.
    pub(super) fn of(file: &Path) -> Result<Self, StoreError> {
        let found = |path: PathBuf| {
            let identity = Identity::of(&path).map_err(io_error)?;
            Ok::<_, StoreError>((path, identity))
        };
        Ok(Self {
            files: [
                found(file.to_owned())?,
                found(log::path(file))?,
                found(seat::lock_path(file))?,
            ],
        })
    }

    /// # Errors
    /// `store.moved` when a file is not there any more, or is another one.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (path, identity) in &self.files {
            if !Identity::of(path).is_ok_and(|found| found == *identity) {
                let location = path.display().to_string();
                return Err(StoreError::Moved { location });
            }
        }
        Ok(())
    }
}
