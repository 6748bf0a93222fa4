//! The chain of commits: each one's hash covers the one before, so that a row that was changed
//! afterwards, or a tail that is missing, shows against a head that was kept elsewhere.
//!
//! What is covered is the money: every transfer with the balances after it, every change of a
//! hold, and which command they were made for. Documents and events are not, so that personal
//! data in them can be erased.

use std::fmt::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::transfer::{HoldChangeRow, NewHold, NewTransfer, TransferRow};
use crate::ids::BatchId;

/// A SHA-256 hash in a chain of commits. As text 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash([u8; 32]);

impl ChainHash {
    /// What stands before the first commit of a chain.
    pub const GENESIS: Self = Self([0; 32]);

    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 hex digits")]
pub struct ParseChainHashError;

impl FromStr for ChainHash {
    type Err = ParseChainHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseChainHashError)?;
        Ok(Self(bytes))
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The end of a writer's chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChainHead {
    /// Whose chain it is: a store has one for each instance that ever wrote to it.
    pub writer: String,
    /// How many commits the chain has.
    pub sequence: i64,
    /// The hash of the last of them.
    pub hash: ChainHash,
}

impl PartialOrd for ChainHash {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ChainHash {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// Where the commit that is being made will stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPlace {
    /// Its place in the order of all commits.
    pub position: i64,
    /// The end of its writer's chain before it; sequence 0 and [`ChainHash::GENESIS`] for the
    /// first.
    pub head: ChainHead,
}

/// A commit as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRow {
    /// Its place in the order of all commits.
    pub position: i64,
    /// Whose chain it is in.
    pub writer: String,
    /// Its place in that chain, from 1.
    pub sequence: i64,
    /// The batch.
    pub batch: BatchId,
    /// When it was committed.
    pub at_ms: i64,
    /// The scope of its command, where there is one.
    pub scope: Option<String>,
    /// The hash over all of it and the commit before it in the chain.
    pub hash: ChainHash,
}

/// The hash of a commit in the making, or of one that is checked.
#[derive(Clone)]
pub struct CommitDigest {
    transfers: Sha256,
    hold_changes: Sha256,
    /// What is printed to be hashed, in one place.
    printed: String,
}

impl Default for CommitDigest {
    fn default() -> Self {
        Self {
            transfers: Sha256::new_with_prefix(b"flashkit/transfers/1"),
            hold_changes: Sha256::new_with_prefix(b"flashkit/hold-changes/1"),
            printed: String::new(),
        }
    }
}

impl CommitDigest {
    /// Adds a transfer. The order counts.
    pub fn transfer(&mut self, row: &TransferRow) {
        let (digest, printed) = (&mut self.transfers, &mut self.printed);
        shown(digest, printed, row.id);
        match row.follows {
            Some(id) => shown(digest, printed, id),
            None => text(digest, ""),
        }
        shown(digest, printed, row.debit);
        shown(digest, printed, row.credit);
        number(digest, row.amount);
        text(digest, row.kind.as_str());
        text(digest, &row.reference);
        number(digest, row.debit_balance_after);
        number(digest, row.credit_balance_after);
    }

    /// Adds a change of a hold. The order counts.
    pub fn hold_change(&mut self, row: &HoldChangeRow) {
        let NewHold {
            transfer:
                NewTransfer {
                    id,
                    debit,
                    credit,
                    amount,
                    kind,
                    reference,
                    ..
                },
            expires_at_ms,
            ..
        } = &row.hold;
        let (digest, printed) = (&mut self.hold_changes, &mut self.printed);
        shown(digest, printed, id);
        shown(digest, printed, debit);
        shown(digest, printed, credit);
        number(digest, *amount);
        text(digest, kind.as_str());
        text(digest, reference);
        number(digest, expires_at_ms.unwrap_or(i64::MAX));
        text(digest, row.change.as_str());
        number(digest, row.amount);
        number(digest, row.remaining);
    }

    /// The hash of the commit that made these, after `previous`. The row's own hash is not read.
    pub fn seal(mut self, previous: ChainHash, commit: &CommitRow) -> ChainHash {
        let mut digest = Sha256::new_with_prefix(b"flashkit/commit/1");
        digest.update(previous.0);
        text(&mut digest, &commit.writer);
        number(&mut digest, commit.sequence);
        shown(&mut digest, &mut self.printed, commit.batch);
        number(&mut digest, commit.at_ms);
        text(&mut digest, commit.scope.as_deref().unwrap_or_default());
        digest.update(self.transfers.finalize());
        digest.update(self.hold_changes.finalize());
        ChainHash(digest.finalize().into())
    }
}

/// Prints it into `printed`, which has room from the time before.
fn shown(digest: &mut Sha256, printed: &mut String, what: impl fmt::Display) {
    printed.clear();
    // A text takes whatever is written to it.
    let _always = write!(printed, "{what}");
    text(digest, printed);
}

/// With its length first: no two lists of fields give the same bytes.
fn text(digest: &mut Sha256, text: &str) {
    digest.update((text.len() as u64).to_le_bytes());
    digest.update(text);
}

fn number(digest: &mut Sha256, number: i64) {
    digest.update(number.to_le_bytes());
}
