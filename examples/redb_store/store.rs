//! A store on redb: a tree of keys and values in one file, with one writer and any number of
//! readers that never wait for it.
//!
//! It was written from the documentation of `flashkit::store::ordered`, and keeps
//! `flashkit::store::contract`. After an I/O error redb answers nothing but errors until its file is
//! opened again, so that an engine on it is stopped and opened anew. What it has not: `StoreAdmin`,
//! and a lock of the node on a file that was copied. **A Lightning node must not run on a copy.**

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use flashkit::ports::Clock;
use flashkit::store::StoreError;
use flashkit::store::ordered::{Order, OrderedStore, Rows, Tree, TreeChanges, View, WriteError};
use redb::{
    AccessGuard, Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase,
    TableDefinition, WriteTransaction,
};

/// The books in one redb file.
pub type RedbStore = OrderedStore<RedbTree>;

/// The one table of the file.
const BOOKS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("flashkit");

/// A row as redb shows it.
type Found<'a> = (
    AccessGuard<'a, &'static [u8]>,
    AccessGuard<'a, &'static [u8]>,
);

/// A redb file.
pub struct RedbTree(Database);

/// The file as of the last commit before it was looked at.
pub struct RedbView(ReadOnlyTable<&'static [u8], &'static [u8]>);

/// Opens the file, or makes it. Reads on the calling thread.
///
/// # Errors
/// `store.in_use` when another store has the file, `store.newer_schema`, `store.corrupt`,
/// `store.read_only`, `store.io`.
pub fn open(file: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<RedbStore, StoreError> {
    OrderedStore::open(RedbTree::open(file.as_ref())?, clock)
}

impl RedbTree {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// `store.in_use`, `store.corrupt`, `store.read_only`, `store.io`.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let database = Database::create(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
                location: file.display().to_string(),
            },
            other => fault(other),
        })?;
        let tree = Self(database);
        // There is no table to read from before the first write.
        let write = tree.begin()?;
        write.open_table(BOOKS).map_err(fault)?;
        write.commit().map_err(fault)?;
        Ok(tree)
    }

    /// A transaction whose commit is on the disk when it answers. In two phases: what stands in the
    /// file is in part what strangers sent, and redb's one phase relies on checksums alone.
    fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let mut write = self.0.begin_write().map_err(fault)?;
        write.set_durability(Durability::Immediate).map_err(fault)?;
        write.set_two_phase_commit(true);
        Ok(write)
    }

    /// The changes, in a transaction that is still to be committed.
    fn written(&self, changes: &TreeChanges) -> Result<WriteTransaction, StoreError> {
        let write = self.begin()?;
        let mut books = write.open_table(BOOKS).map_err(fault)?;
        for (key, value) in changes {
            match value {
                Some(value) => books.insert(key.as_slice(), value.as_slice()),
                None => books.remove(key.as_slice()),
            }
            .map_err(fault)?;
        }
        drop(books);
        Ok(write)
    }
}

impl Tree for RedbTree {
    type View<'a> = RedbView;

    fn view(&self) -> Result<RedbView, StoreError> {
        let read = self.0.begin_read().map_err(fault)?;
        Ok(RedbView(read.open_table(BOOKS).map_err(fault)?))
    }

    fn write(&self, changes: &TreeChanges) -> Result<(), WriteError> {
        let write = self.written(changes).map_err(WriteError::Undone)?;
        // A flush that fails half-way: what was written may be there after the next open.
        write
            .commit()
            .map_err(|error| WriteError::Unknown(fault(error)))
    }
}

impl View for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.0.get(key).map_err(fault)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn range(&self, keys: Range<&[u8]>, order: Order) -> Result<Rows<'_>, StoreError> {
        let found = self.0.range::<&[u8]>(keys).map_err(fault)?;
        let row = |row: Result<Found<'_>, _>| {
            let (key, value) = row.map_err(fault)?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        };
        Ok(match order {
            Order::Forwards => Box::new(found.map(row)),
            Order::Backwards => Box::new(found.rev().map(row)),
        })
    }
}

/// What a failure of redb means to whoever called the store.
fn fault(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    let reason = error.to_string();
    let kind = match &error {
        redb::Error::Io(error) => Some(error.kind()),
        _ => None,
    };
    match (error, kind) {
        (redb::Error::DatabaseClosed, _) => StoreError::Closed,
        (redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. }, _)
        | (_, Some(ErrorKind::InvalidData)) => StoreError::Corrupt { reason },
        (_, Some(ErrorKind::StorageFull)) => StoreError::Full,
        (_, Some(ErrorKind::PermissionDenied)) => StoreError::ReadOnly { reason },
        _ => StoreError::Io { reason },
    }
}
