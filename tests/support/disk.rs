//! SQLite's files on a disk that fails when it is told to, and that knows what was flushed.
//!
//! It is a VFS of SQLite's (<https://sqlite.org/vfs.html>) around the system's own, registered as
//! the default one, so that the store under test needs to know nothing of it. Files outside the
//! folders that a [`Disk`] was made for are passed through.
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(non_snake_case, reason = "SQLite's names")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::ffi::{
    SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE, SQLITE_OK, SQLITE_READONLY, sqlite3_file,
    sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find, sqlite3_vfs_register,
};

/// What goes wrong, from now on and until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no room for more: a write gets as far as half of it.
    Full,
    /// Nothing may be written any more.
    ReadOnly,
    /// Writes fail.
    Write,
    /// Writes work, and flushing them does not.
    Flush,
}

impl Fault {
    fn of_write(self) -> Option<c_int> {
        match self {
            Self::Full => Some(SQLITE_FULL),
            Self::ReadOnly => Some(SQLITE_READONLY),
            Self::Write => Some(SQLITE_IOERR_WRITE),
            Self::Flush => None,
        }
    }
}

#[derive(Default)]
struct Inner {
    fault: Option<Fault>,
    refused: usize,
    /// Flushes of files with this ending wait.
    held: Option<String>,
    /// How many flushes were held so far, and how many of them may go on.
    arrived: usize,
    passed: usize,
    /// Every file as it was when it was last flushed, by its name.
    durable: BTreeMap<String, Vec<u8>>,
    flushes: BTreeMap<String, usize>,
}

/// The disk that a folder is on.
pub struct Disk {
    folder: PathBuf,
    /// A slow one: a flush takes at least so long, and what was flushed is not remembered.
    least_flush: Option<Duration>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());

impl Disk {
    /// Puts a folder on a disk of its own. Only files that are opened later are on it.
    pub fn under(folder: &Path) -> Arc<Self> {
        Self::of(folder, None)
    }

    /// Puts a folder on a slow disk.
    pub fn slow(folder: &Path, least_flush: Duration) -> Arc<Self> {
        Self::of(folder, Some(least_flush))
    }

    fn of(folder: &Path, least_flush: Option<Duration>) -> Arc<Self> {
        static REGISTERED: OnceLock<()> = OnceLock::new();
        REGISTERED.get_or_init(register);
        let disk = Arc::new(Self {
            folder: folder.canonicalize().unwrap(),
            least_flush,
            inner: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        disks.push(disk.clone());
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fail(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    pub fn heal(&self) {
        self.lock().fault = None;
    }

    /// How many writes and flushes failed so far.
    pub fn refused(&self) -> usize {
        self.lock().refused
    }

    /// From now on flushes of files whose name ends so wait: they are neither done nor answered.
    pub fn hold_flushes(&self, ending: &str) {
        self.lock().held = Some(ending.to_owned());
    }

    pub fn release_flushes(&self) {
        self.lock().held = None;
        self.changed.notify_all();
    }

    /// One of the held flushes goes on.
    pub fn let_one_flush_go(&self) {
        self.lock().passed += 1;
        self.changed.notify_all();
    }

    /// Waits until a flush is held.
    pub fn until_flush_waits(&self) {
        let inner = self.lock();
        let patience = Duration::from_secs(30);
        let waited = self
            .changed
            .wait_timeout_while(inner, patience, |inner| inner.arrived == inner.passed);
        let (inner, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(inner);
        assert!(!timeout.timed_out(), "nothing is flushed");
    }

    /// What a loss of power now would leave, if nothing that was not flushed reached the disk.
    pub fn durable(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().durable.clone()
    }

    /// What of the folder is on the disk before anything is flushed there: not what is read, which
    /// may be in the memory of the system alone.
    pub fn had(&self, durable: BTreeMap<String, Vec<u8>>) {
        self.lock().durable = durable;
    }

    /// How often a file was flushed.
    pub fn flushes(&self, name: &str) -> usize {
        self.lock().flushes.get(name).copied().unwrap_or(0)
    }

    fn before_write(&self) -> Result<(), (Fault, c_int)> {
        let mut inner = self.lock();
        let Some((fault, code)) = inner.fault.and_then(|f| Some((f, f.of_write()?))) else {
            return Ok(());
        };
        inner.refused += 1;
        Err((fault, code))
    }

    fn before_flush(&self, name: &str) -> Result<(), c_int> {
        let mut inner = self.lock();
        let is_held = |inner: &Inner| inner.held.as_ref().is_some_and(|end| name.ends_with(end));
        if is_held(&inner) {
            let mine = inner.arrived;
            inner.arrived += 1;
            self.changed.notify_all();
            while is_held(&inner) && inner.passed <= mine {
                let woken = self.changed.wait(inner);
                inner = woken.unwrap_or_else(PoisonError::into_inner);
            }
            inner.passed = inner.passed.max(mine + 1);
        }
        if inner.fault == Some(Fault::Flush) {
            inner.refused += 1;
            return Err(SQLITE_IOERR_FSYNC);
        }
        Ok(())
    }

    fn flushed(&self, path: &Path, name: &str, took: Duration) {
        if let Some(least) = self.least_flush {
            std::thread::sleep(least.saturating_sub(took));
            return;
        }
        let content = fs::read(path).unwrap_or_default();
        let mut inner = self.lock();
        inner.durable.insert(name.to_owned(), content);
        *inner.flushes.entry(name.to_owned()).or_default() += 1;
    }
}

/// A file on one of the disks, or on none; the system's own file follows it in memory.
#[repr(C)]
struct File {
    base: sqlite3_file,
    at: *mut Place,
}

struct Place {
    disk: Arc<Disk>,
    path: PathBuf,
    name: String,
}

fn place(path: *const c_char) -> Option<Place> {
    if path.is_null() {
        return None;
    }
    // SAFETY: SQLite gives a text that ends in a zero.
    let path = PathBuf::from(unsafe { CStr::from_ptr(path) }.to_str().ok()?);
    let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = disks
        .iter()
        .find(|disk| path.parent() == Some(&disk.folder))?;
    let name = path.file_name()?.to_str()?.to_owned();
    Some(Place {
        disk: disk.clone(),
        path,
        name,
    })
}

unsafe fn real(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: `szOsFile` has room for both, one behind the other.
    unsafe { file.cast::<File>().add(1).cast() }
}

unsafe fn at<'a>(file: *mut sqlite3_file) -> Option<&'a Place> {
    // SAFETY: set by `open`, and valid until `xClose`.
    unsafe { (*file.cast::<File>()).at.as_ref() }
}

unsafe fn system() -> *mut sqlite3_vfs {
    struct System(*mut sqlite3_vfs);
    // SAFETY: SQLite's own VFS is static and may be used from any thread.
    unsafe impl Send for System {}
    unsafe impl Sync for System {}
    static SYSTEM: OnceLock<System> = OnceLock::new();
    SYSTEM
        .get_or_init(|| System(unsafe { sqlite3_vfs_find(std::ptr::null()) }))
        .0
}

fn register() {
    // SAFETY: a copy of the system's VFS with another name, another way to open files and room
    // for our part of a file. It is never freed.
    unsafe {
        let mut vfs = *system();
        vfs.zName = c"flashkit-test-disk".as_ptr();
        vfs.pNext = std::ptr::null_mut();
        vfs.szOsFile += c_int::try_from(size_of::<File>()).unwrap();
        vfs.xOpen = Some(open);
        let vfs = Box::leak(Box::new(vfs));
        assert_eq!(sqlite3_vfs_register(vfs, 1), SQLITE_OK);
    }
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are SQLite's, and go to the VFS they were made for.
    unsafe {
        let ours = file.cast::<File>();
        (*ours).base.pMethods = std::ptr::null();
        (*ours).at = std::ptr::null_mut();
        let opened = (*system()).xOpen.unwrap()(system(), path, real(file), flags, out);
        if opened == SQLITE_OK {
            (*ours).base.pMethods = &raw const METHODS;
            if let Some(place) = place(path) {
                (*ours).at = Box::into_raw(Box::new(place));
            }
        }
        opened
    }
}

unsafe extern "C" fn xClose(file: *mut sqlite3_file) -> c_int {
    // SAFETY: nothing uses the file after this.
    unsafe {
        let at = (*file.cast::<File>()).at;
        if !at.is_null() {
            drop(Box::from_raw(at));
        }
        (*(*real(file)).pMethods).xClose.unwrap()(real(file))
    }
}

unsafe extern "C" fn xWrite(
    file: *mut sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: as SQLite calls it, with no more data than it gave.
    unsafe {
        let write = (*(*real(file)).pMethods).xWrite.unwrap();
        match at(file).map_or(Ok(()), |place| place.disk.before_write()) {
            Ok(()) => write(real(file), data, amount, offset),
            Err((fault, code)) => {
                if fault == Fault::Full {
                    write(real(file), data, amount / 2, offset);
                }
                code
            }
        }
    }
}

unsafe extern "C" fn xSync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as SQLite calls it.
    unsafe {
        let place = at(file);
        if let Some(Err(code)) = place.map(|place| place.disk.before_flush(&place.name)) {
            return code;
        }
        let begun = Instant::now();
        let flushed = (*(*real(file)).pMethods).xSync.unwrap()(real(file), flags);
        if let Some(place) = place
            && flushed == SQLITE_OK
        {
            place
                .disk
                .flushed(&place.path, &place.name, begun.elapsed());
        }
        flushed
    }
}

macro_rules! passed_through {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $answer:ty)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut sqlite3_file, $($argument: $type),*) $(-> $answer)? {
            // SAFETY: as SQLite calls it.
            unsafe { (*(*real(file)).pMethods).$name.unwrap()(real(file), $($argument),*) }
        }
    )*};
}

passed_through! {
    xRead(into: *mut c_void, amount: c_int, offset: sqlite3_int64) -> c_int;
    xTruncate(size: sqlite3_int64) -> c_int;
    xFileSize(size: *mut sqlite3_int64) -> c_int;
    xLock(level: c_int) -> c_int;
    xUnlock(level: c_int) -> c_int;
    xCheckReservedLock(answer: *mut c_int) -> c_int;
    xFileControl(operation: c_int, argument: *mut c_void) -> c_int;
    xSectorSize() -> c_int;
    xDeviceCharacteristics() -> c_int;
    xShmMap(page: c_int, size: c_int, extend: c_int, into: *mut *mut c_void) -> c_int;
    xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    xShmBarrier();
    xShmUnmap(delete: c_int) -> c_int;
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(xClose),
    xRead: Some(xRead),
    xWrite: Some(xWrite),
    xTruncate: Some(xTruncate),
    xSync: Some(xSync),
    xFileSize: Some(xFileSize),
    xLock: Some(xLock),
    xUnlock: Some(xUnlock),
    xCheckReservedLock: Some(xCheckReservedLock),
    xFileControl: Some(xFileControl),
    xSectorSize: Some(xSectorSize),
    xDeviceCharacteristics: Some(xDeviceCharacteristics),
    xShmMap: Some(xShmMap),
    xShmLock: Some(xShmLock),
    xShmBarrier: Some(xShmBarrier),
    xShmUnmap: Some(xShmUnmap),
    xFetch: None,
    xUnfetch: None,
};
