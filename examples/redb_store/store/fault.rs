//! What a failure of redb means to whoever called the store.

use std::io::ErrorKind;

use flashkit::store::StoreError;

#[derive(Debug)]
pub struct Fault(pub StoreError);

pub type Result<T> = std::result::Result<T, Fault>;

impl<E> From<E> for Fault
where
    redb::Error: From<E>,
{
    fn from(error: E) -> Self {
        let error = redb::Error::from(error);
        let reason = error.to_string();
        let kind = match &error {
            redb::Error::Io(error) => Some(error.kind()),
            _ => None,
        };
        Self(match (error, kind) {
            (redb::Error::DatabaseClosed, _) => StoreError::Closed,
            (redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. }, _)
            | (_, Some(ErrorKind::InvalidData)) => StoreError::Corrupt { reason },
            (_, Some(ErrorKind::StorageFull)) => StoreError::Full,
            (_, Some(ErrorKind::PermissionDenied)) => StoreError::ReadOnly { reason },
            _ => StoreError::Io { reason },
        })
    }
}

/// What stands in the file cannot have been written by this store.
pub fn corrupt(error: impl std::fmt::Display) -> Fault {
    let reason = error.to_string();
    Fault(StoreError::Corrupt { reason })
}
