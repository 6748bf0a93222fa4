//! What the failures of others mean to a caller.

use rusqlite::ErrorCode;

use crate::store::StoreError;

pub(super) fn io_error(error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly {
                reason: error.to_string(),
            }
        }
        std::io::ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Io {
            reason: error.to_string(),
        },
    }
}

/// What an SQLite failure means to a caller.
pub(super) fn sql_error(error: rusqlite::Error) -> StoreError {
    let reason = error.to_string();
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull => StoreError::Full,
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Locked { reason },
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreError::ReadOnly { reason },
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt { reason },
            _ => StoreError::Io { reason },
        },
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
            StoreError::Corrupt { reason }
        }
        _ => StoreError::Io { reason },
    }
}
