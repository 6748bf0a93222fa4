//! The log that lets a chain outlive its process.
//!
//! A file of eight magic bytes and records. A record is the length of its payload (4 bytes,
//! little endian), the first eight bytes of the SHA-256 of length and payload, and the payload: a
//! kind byte and consensus-encoded data. Each is flushed to the disk before anybody is told of
//! what it says. A process killed while it writes leaves a beginning of the last record, which is
//! cut off at the next open; damage anywhere else is an error.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bitcoin::consensus::{Decodable, Encodable};
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Block, Transaction};

use super::error::ChainError;

const FILE_NAME: &str = "chain.log";
const MAGIC: &[u8; 8] = b"fkchain1";
/// Length and checksum.
const HEAD: usize = 12;

/// Something that happened to the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// The last `disconnected` blocks were taken off and `connected` put on, as one change.
    Blocks {
        disconnected: u32,
        connected: Vec<Block>,
    },
    /// A transaction entered the mempool.
    Transaction(Transaction),
}

/// An open log, positioned at its end and locked against other processes.
#[derive(Debug)]
pub(super) struct ChainLog {
    file: File,
    path: PathBuf,
}

impl ChainLog {
    /// Opens or creates the log of `folder` and reads what it holds, each record with its place.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<(u64, Record)>), ChainError> {
        let path = folder.join(FILE_NAME);
        let failed = |source| ChainError::LogIo {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ChainError::LogInUse { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (records, kept) = match read_all(&bytes) {
            Ok(read) => read,
            Err(offset) => {
                let offset = u64::try_from(offset).unwrap_or(u64::MAX);
                return Err(ChainError::LogDamaged { path, offset });
            }
        };
        prepare(&mut file, folder, kept).map_err(failed)?;
        Ok((Self { file, path }, records))
    }

    /// Writes a record and waits until the disk has it.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), ChainError> {
        let result = encode(record).and_then(|bytes| {
            self.file.write_all(&bytes)?;
            self.file.sync_data()
        });
        result.map_err(|source| ChainError::LogIo {
            path: self.path.clone(),
            source,
        })
    }

    /// The error for a record that can be read but does not fit the chain before it.
    pub(super) fn unfit(&self, offset: u64) -> ChainError {
        ChainError::LogDamaged {
            path: self.path.clone(),
            offset,
        }
    }
}

/// Cuts the torn tail off, or begins a new file.
fn prepare(file: &mut File, folder: &Path, kept: usize) -> io::Result<()> {
    let kept = u64::try_from(kept).unwrap_or(u64::MAX);
    file.set_len(kept)?;
    file.seek(SeekFrom::Start(kept))?;
    if kept == 0 {
        file.write_all(MAGIC)?;
    }
    file.sync_all()?;
    // The name of a new file is in the folder, which has to reach the disk as well.
    File::open(folder)?.sync_all()
}

/// Every whole record with its place, and how many bytes they take with the magic; or where damage begins.
fn read_all(bytes: &[u8]) -> Result<(Vec<(u64, Record)>, usize), usize> {
    if bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) {
        return Ok((Vec::new(), 0));
    }
    if !bytes.starts_with(MAGIC) {
        return Err(0);
    }
    let mut records = Vec::new();
    let mut offset = MAGIC.len();
    loop {
        let rest = bytes.get(offset..).unwrap_or(&[]);
        let Some((head, body)) = rest.split_at_checked(HEAD) else {
            return Ok((records, offset));
        };
        let (length_bytes, checksum) = head.split_at(4);
        let length = <[u8; 4]>::try_from(length_bytes)
            .ok()
            .and_then(|bytes| usize::try_from(u32::from_le_bytes(bytes)).ok())
            .ok_or(offset)?;
        let Some(payload) = body.get(..length) else {
            return Ok((records, offset));
        };
        if checksum != checksum_of(length_bytes, payload) {
            // At the very end it can be a record whose last pages never reached the disk.
            let last = body.len() == length;
            return if last {
                Ok((records, offset))
            } else {
                Err(offset)
            };
        }
        let place = u64::try_from(offset).unwrap_or(u64::MAX);
        records.push((place, decode(payload).ok_or(offset)?));
        offset = offset.saturating_add(HEAD).saturating_add(length);
    }
}

fn checksum_of(length_bytes: &[u8], payload: &[u8]) -> [u8; 8] {
    let digest = sha256::Hash::hash(&[length_bytes, payload].concat()).to_byte_array();
    let mut first = [0; 8];
    first.copy_from_slice(digest.split_at(8).0);
    first
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    let written = match record {
        Record::Blocks {
            disconnected,
            connected,
        } => {
            payload.push(0);
            payload.extend(disconnected.to_le_bytes());
            connected
                .iter()
                .try_for_each(|block| block.consensus_encode(&mut payload).map(|_| ()))
        }
        Record::Transaction(tx) => {
            payload.push(1);
            tx.consensus_encode(&mut payload).map(|_| ())
        }
    };
    written.map_err(|error| io::Error::other(error.to_string()))?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let length_bytes = length.to_le_bytes();
    let checksum = checksum_of(&length_bytes, &payload);
    Ok([
        length_bytes.as_slice(),
        checksum.as_slice(),
        payload.as_slice(),
    ]
    .concat())
}

fn decode(payload: &[u8]) -> Option<Record> {
    let (kind, mut rest) = payload.split_first()?;
    match kind {
        0 => {
            let (depth, blocks) = rest.split_at_checked(4)?;
            rest = blocks;
            let mut connected = Vec::new();
            while !rest.is_empty() {
                connected.push(Block::consensus_decode(&mut rest).ok()?);
            }
            let disconnected = u32::from_le_bytes(<[u8; 4]>::try_from(depth).ok()?);
            Some(Record::Blocks {
                disconnected,
                connected,
            })
        }
        1 => bitcoin::consensus::deserialize(rest)
            .ok()
            .map(Record::Transaction),
        _ => None,
    }
}
