//! Which file a file is, so that a copy of it is another one.

use std::fs::{File, Metadata};
use std::time::UNIX_EPOCH;

/// The file's number and when it was made: both stay when the file is renamed or written to, and
/// neither is another file's. Where the system does not tell when it was made, when the lock's file
/// beside it was last changed stands in for that: no copy can have it, and the lock's file is never
/// written to again nor renamed.
pub(super) fn identity(file: &File, lock: &File) -> std::io::Result<String> {
    let metadata = file.metadata()?;
    told(&metadata, made_nanos(file, &metadata), &lock.metadata()?)
}

#[cfg(unix)]
fn told(file: &Metadata, made_nanos: Option<u128>, lock: &Metadata) -> std::io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let number = file.ino();
    Ok(match made_nanos {
        Some(made) => format!("{number}-{made}"),
        None => {
            let (seconds, nanos) = (lock.ctime(), lock.ctime_nsec());
            format!("{number}-lock-{}-{seconds}.{nanos:09}", lock.ino())
        }
    })
}

#[cfg(not(unix))]
fn told(_: &Metadata, made_nanos: Option<u128>, _: &Metadata) -> std::io::Result<String> {
    let made = made_nanos.ok_or(std::io::ErrorKind::Unsupported)?;
    Ok(format!("0-{made}"))
}

fn made_nanos(file: &File, metadata: &Metadata) -> Option<u128> {
    let made = metadata.created().ok();
    let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    let nanos = made.map(|made| made.as_nanos()).or_else(|| asked(file));
    nanos.filter(|nanos| *nanos > 0)
}

/// The standard library asks with one C library alone. Not on Android: before its version 11 it ends
/// a process that asks.
#[cfg(target_os = "linux")]
fn asked(file: &File) -> Option<u128> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let told = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let is_told = StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::BTIME);
    let seconds = u128::try_from(told.stx_btime.tv_sec).ok()?;
    is_told.then(|| seconds * 1_000_000_000 + u128::from(told.stx_btime.tv_nsec))
}

#[cfg(not(target_os = "linux"))]
fn asked(_: &File) -> Option<u128> {
    None
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// One C library or the other: the same file.
    #[cfg(target_os = "linux")]
    #[test]
    fn when_a_file_was_made_is_asked_of_the_system_itself() -> std::io::Result<()> {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR"))?;
        let made = file.metadata()?.created().ok();
        let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        assert_eq!(asked(&file), made.map(|made| made.as_nanos()));
        Ok(())
    }

    /// The file of a copy may have the number that the original's had. What is beside it was changed
    /// since, as that of every copy was.
    #[test]
    fn a_number_alone_is_no_identity() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let [path, renamed, lock] =
            ["node-1", "node-2", "lock"].map(|name| folder.path().join(name));
        let (file, held) = (File::create(&path)?, File::create(&lock)?);
        let told = || told(&file.metadata()?, None, &held.metadata()?);
        let original = told()?;
        fs::rename(&path, &renamed)?;
        fs::write(&renamed, &original)?;
        assert_eq!(told()?, original, "renamed and written to");
        let changed = |lock: &Metadata| (lock.ctime(), lock.ctime_nsec());
        let before = changed(&held.metadata()?);
        // As often as the clock of the file system needs.
        while changed(&held.metadata()?) == before {
            fs::set_permissions(&lock, fs::Permissions::from_mode(0o600))?;
        }
        assert_ne!(told()?, original, "a copy");
        Ok(())
    }
}
