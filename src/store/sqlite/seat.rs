//! What lies beside the file: the lock, so that one engine has it, and a file whose **name** says
//! how often the node has written.
//!
//! That one is renamed after each commit that has writes of the node in it, and the new name is not
//! flushed: it is never ahead of the database, and behind it only after a loss of power. A database
//! with fewer writes in it than such a name says is an older one that was put back. In the file
//! stands which one it is: one that was copied together with the database, and may be as old as that,
//! is another one. So it is noticed too when a whole folder is copied back over what is there: either
//! the newest name stays beside the older one, or the older one's file was made anew. Times, owners
//! and attributes of the files say nothing here, because what starts a container may change them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::identity::identity;
use super::io_error;
use crate::store::StoreError;

pub(super) struct Seat {
    lock: File,
    /// The database, of whose name the others are made.
    database: PathBuf,
    /// The file with the newest name, where that is this database's own. It is locked as well: the
    /// other lock's file may be removed by whoever takes it for a stale one.
    own: Option<(PathBuf, File)>,
    /// Others by such a name, which are left of what was put back; the greatest last.
    others: Vec<(i64, PathBuf)>,
    /// The greatest of the others, locked where there was no own one.
    _held: Option<File>,
    /// How often the node has written, as found at the start; `None` in a new seat, and in a copy
    /// of one.
    pub(super) found: Option<i64>,
    /// How many writes are in the database, as far as anything was done about it here.
    seen: i64,
    /// Somebody had the seat before, or what it was copied from.
    pub(super) was_used: bool,
}

/// What the file says that was locked by every version before the number had a file of its own.
struct OldNumber {
    writes: Option<i64>,
    is_copied: bool,
}

impl OldNumber {
    fn of(text: &str, lock: &File) -> std::io::Result<Self> {
        let mut words = text.split_whitespace();
        let writes = words.next().and_then(|number| number.parse().ok());
        let identity = identity(lock, lock)?;
        // The oldest wrote the number alone.
        let is_copied = words.next().is_some_and(|word| word != identity);
        Ok(Self { writes, is_copied })
    }
}

fn beside(database: &Path, end: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// What the name of a file with a number begins with.
fn numbered(database: &Path) -> OsString {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".node-");
    name
}

fn number_in(name: &OsStr, begins: &OsStr) -> Option<i64> {
    let (name, begins) = (name.as_encoded_bytes(), begins.as_encoded_bytes());
    let digits = std::str::from_utf8(name.strip_prefix(begins)?).ok()?;
    let number: i64 = digits.parse().ok()?;
    // As it is written here, and in no other way.
    (number >= 0 && number.to_string() == digits).then_some(number)
}

/// All files with a number, the greatest last.
fn numbers(database: &Path) -> std::io::Result<Vec<(i64, PathBuf)>> {
    let begins = numbered(database);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder_of(database))? {
        let entry = entry?;
        if let Some(number) = number_in(&entry.file_name(), &begins) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn folder_of(file: &Path) -> &Path {
    let folder = file.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

pub(super) fn lock_path(database: &Path) -> PathBuf {
    beside(database, ".lock")
}

/// The file, and whether it says of itself that it is the one it is.
fn read_own(path: &Path, lock: &File) -> std::io::Result<(File, bool)> {
    // To be written to, where it may be: some systems want that of a file that is locked.
    let mut file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => File::open(path)?,
        opened => opened?,
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let is_original = text.trim_ascii_end() == identity(&file, lock)?.as_bytes();
    Ok((file, is_original))
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

/// Makes the number that was written last survive a loss of power too. A failure is none, as in
/// [`Seat::note`].
pub(super) fn flush(database: &Path) {
    for (_, path) in numbers(database).unwrap_or_default() {
        let file = OpenOptions::new().write(true).open(path);
        drop(file.and_then(|file| file.sync_all()));
    }
    flush_names(database);
}

/// So that a loss of power leaves the name that the file was given last, where the system lets a
/// folder be flushed.
pub(super) fn flush_names(file: &Path) {
    drop(File::open(folder_of(file)).and_then(|folder| folder.sync_all()));
}

/// How often a seat that is taken is asked for again, and how long after: a second in all. A process
/// that is started anywhere in the host has its parent's files, and so the seat of a store that was
/// closed since, until it has become another program.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match try_lock(file) {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            locked => return locked,
        }
    }
    try_lock(file)
}

/// The lock that the standard library takes where it takes any: on Android it has none.
#[cfg(unix)]
fn try_lock(file: &File) -> Result<(), TryLockError> {
    use rustix::fs::{FlockOperation, flock};
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => TryLockError::WouldBlock,
        error => TryLockError::Error(error.into()),
    })
}

#[cfg(not(unix))]
fn try_lock(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

fn take_lock(file: &File, database: &Path) -> Result<(), StoreError> {
    lock(file).map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::InUse {
            location: database.display().to_string(),
        },
        TryLockError::Error(error) => io_error(error),
    })
}

impl Seat {
    /// Takes the seat, which is the operating system's lock, so that it ends with the process.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(lock_path(database))
            .map_err(io_error)?;
        take_lock(&file, database)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io_error)?;
        let mut others = numbers(database).map_err(io_error)?;
        let was_used = !text.is_empty() || !others.is_empty();
        let (mut own, mut found, mut held) = (None, None, None);
        if let Some((number, newest)) = others.pop() {
            let (newest_file, is_original) = read_own(&newest, &file).map_err(io_error)?;
            // Whoever has it runs, although the other lock was removed under it.
            take_lock(&newest_file, database)?;
            if is_original {
                (own, found) = (Some((newest, newest_file)), Some(number));
            } else {
                others.push((number, newest));
                held = Some(newest_file);
            }
        } else {
            let old = OldNumber::of(&text, &file).map_err(io_error)?;
            found = old.writes.filter(|_| !old.is_copied);
        }
        Ok(Self {
            lock: file,
            database: database.to_owned(),
            own,
            others,
            _held: held,
            found,
            seen: 0,
            was_used,
        })
    }

    /// Whether a database with so many writes in it is not known to be the newest there was.
    fn is_stale(&self, writes: i64, has_commits: bool) -> bool {
        let others = self.others.last().map_or(0, |(number, _)| *number);
        match self.found {
            Some(expected) => expected > writes,
            // A file has its number before its first commit.
            None => writes != 0 || others > 0 || has_commits,
        }
    }

    /// Looks at a database with so many writes in it, and answers whether it is not known to be
    /// the newest there was. The first number of a new seat is flushed: without any the node would
    /// not start.
    pub(super) fn meet(&mut self, writes: i64, has_commits: bool) -> Result<bool, StoreError> {
        self.seen = writes;
        let is_stale = self.is_stale(writes, has_commits);
        if !is_stale && self.own.is_none() {
            let made = self.make(writes).map_err(io_error)?;
            self.own = Some(made);
        }
        Ok(is_stale)
    }

    /// Writes down how often the node has written, if it has. A failure is no error: the number is then
    /// behind, as after a loss of power.
    pub(super) fn note(&mut self, writes: i64) {
        if writes <= self.seen {
            return;
        }
        let to = self.named(writes);
        let renamed = match &self.own {
            Some((own, _)) => fs::rename(own, &to),
            None => Err(ErrorKind::NotFound.into()),
        };
        let named = match renamed {
            // None yet, or somebody has removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => self.make(writes).map(Some),
            other => other.map(|()| None),
        };
        let Ok(made) = named else { return };
        match (made, &mut self.own) {
            (None, Some((own, _))) => own.clone_from(&to),
            (made, own) => *own = made,
        }
        for (_, other) in self.others.drain(..) {
            if other != to {
                drop(fs::remove_file(other));
            }
        }
        self.seen = writes;
    }

    fn named(&self, writes: i64) -> PathBuf {
        beside(&self.database, &format!(".node-{writes}"))
    }

    /// A new file, which nothing that was copied is.
    fn make(&mut self, writes: i64) -> std::io::Result<(PathBuf, File)> {
        let unfinished = beside(&self.database, ".node-unfinished");
        drop(fs::remove_file(&unfinished));
        let mut file = File::create_new(&unfinished)?;
        try_lock(&file)?;
        let written = identity(&file, &self.lock)?;
        writeln!(file, "{written}")?;
        file.sync_all()?;
        let named = self.named(writes);
        fs::rename(&unfinished, &named)?;
        flush_names(&self.database);
        // What an older version has written here counts no more.
        self.lock.set_len(0)?;
        self.lock.seek(SeekFrom::Start(0))?;
        writeln!(self.lock, "used")?;
        self.lock.sync_all()?;
        let identity = identity(&file, &self.lock)?;
        if identity != written {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{identity}")?;
            file.sync_all()?;
        }
        Ok((named, file))
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
