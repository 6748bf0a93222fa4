//! What an operator does with a whole store: check it, copy it, move it.

use std::path::Path;

use async_trait::async_trait;

use super::StoreError;
use crate::ledger::{ChainHead, JournalProblem};
use crate::ports::BoxFuture;

/// Bytes that come in pieces, in order: what [`StoreAdmin::export`] gives and
/// [`StoreAdmin::import`] takes.
///
/// # Contract
/// After `None` or an error nothing more comes. Dropping it ends whatever makes it.
pub trait ByteSource: Send {
    /// The next piece, of any length; `None` at the end.
    fn next_piece(&mut self) -> BoxFuture<'_, Result<Option<Vec<u8>>, MoveError>>;
}

/// Whether the node's channels go with the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// They stay: where the stream arrives, the node is locked until it is recovered.
    LeaveOut,
    /// They go, and the store they come from is at its end: it never runs a node again, and its
    /// books take no commit any more (`store.handed_over`), from any instance and after any start.
    /// That is written, for ever, before the first byte of the stream; what was acknowledged before
    /// is in it. Stop the engine first: while its node has a lease nothing is handed over.
    ///
    /// Whatever fails before the last line of a stream was taken, the export itself or the way of the
    /// stream, is done again with another export of the same store, where it was: only one stream
    /// there ever is gets its last line, and without that it arrives nowhere. That one must then
    /// arrive exactly once; if it is lost, the channels are left to a recovery from the seed, and
    /// the books to an export without them. So write it to a file that is kept until it has arrived,
    /// and keep the process and the store open until then: who ends in the moment between the commit
    /// that lets the last line go and the line itself has lost it.
    HandOver,
}

/// How a store is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreHealth {
    /// The schema of the tables; 0 where there are none.
    pub schema_version: i64,
    /// The newest schema this version knows.
    pub known_schema_version: i64,
    /// How many commits there are.
    pub commits: i64,
    /// Why the node must not run on its state here, if it must not. With `store.node_handed_over`
    /// the books are closed as well.
    pub node_locked: Option<StoreError>,
}

/// A store was not moved, copied or checked. Where nothing else is said, nothing was changed; a store
/// whose [hand-over](NodeState::HandOver) failed may be at its end all the same, and is exported
/// again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The store failed. The codes of [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is something in the store already. `move.not_empty`.
    #[error("the store is not empty")]
    NotEmpty,
    /// The stream is of a kind that this version does not know. `move.other_format`.
    #[error("the stream is no export this version can read: {reason}")]
    OtherFormat {
        /// What was found.
        reason: String,
    },
    /// The stream ends before its end. `move.truncated`.
    #[error("the stream ends after {lines} lines, before its end")]
    Truncated {
        /// How many whole lines there were.
        lines: u64,
    },
    /// A line is not what may stand there. `move.bad_line`.
    #[error("line {line} of the stream: {reason}")]
    BadLine {
        /// Which, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The lines are not those that were written. `move.altered`.
    #[error("the stream was altered: its lines do not give the digest at its end")]
    Altered,
    /// The books in the stream do not hold together, or are not those whose heads were kept.
    /// `move.journal`.
    #[error("the journal in the stream shows {} problems, first {:?}", .problems.len(), .problems.first())]
    Journal {
        /// What was found.
        problems: Vec<JournalProblem>,
    },
    /// The source of the bytes failed. `move.source`.
    #[error("the stream could not be read or written: {reason}")]
    Source {
        /// What it said.
        reason: String,
    },
    /// This store knows no such thing. `move.not_supported`.
    #[error("this store has no {what}")]
    NotSupported {
        /// What was asked for.
        what: &'static str,
    },
}

impl MoveError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::NotEmpty => "move.not_empty",
            Self::OtherFormat { .. } => "move.other_format",
            Self::Truncated { .. } => "move.truncated",
            Self::BadLine { .. } => "move.bad_line",
            Self::Altered => "move.altered",
            Self::Journal { .. } => "move.journal",
            Self::Source { .. } => "move.source",
            Self::NotSupported { .. } => "move.not_supported",
        }
    }
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// How many rows.
    pub rows: u64,
    /// How many of them were commits.
    pub commits: i64,
    /// The ends of the chains, as verified.
    pub heads: Vec<ChainHead>,
    /// The node's channels came too.
    pub has_node_state: bool,
}

/// A whole store at a time.
///
/// # Contract
/// - `export` is the state of one moment, and commits go on meanwhile, except after a
///   [`NodeState::HandOver`]: then every commit that was acknowledged is in the stream, and every
///   further one is refused with `store.handed_over`. What is there can be read, and no job is given
///   out. It is the stream that is described in [`moving`](super::moving).
/// - `import` takes a stream into an **empty** store, in one transaction: it arrives whole, with
///   every hash of the journal recomputed, or the store stays empty, also after a crash.
/// - What the node knows of its channels is in no backup and no export, except where
///   [`NodeState::HandOver`] says so. What was imported without it opens with the node locked,
///   until [`Engine::recover`](crate::Engine::recover): also where there was no node yet, since it
///   may have begun in the meantime with the same seed. An engine without a node needs none of that.
#[async_trait]
pub trait StoreAdmin: Send + Sync {
    /// Checks the tables as the database sees them, and answers what is wrong with them: nothing
    /// in a sound store. The journal is checked by
    /// [`Reports::verify_journal`](crate::reports::Reports::verify_journal).
    ///
    /// # Errors
    /// `store.*` when they cannot even be read.
    async fn verify(&self) -> Result<Vec<String>, StoreError>;

    /// Writes a copy of the books to a new file, without what the node knows of its channels.
    ///
    /// # Errors
    /// `move.not_supported` where the database has its own tools for that; `store.*`.
    async fn backup(&self, to: &Path) -> Result<(), MoveError>;

    /// All there is, as a stream.
    ///
    /// # Errors
    /// `store.*`; of a [`NodeState::HandOver`] `store.lease_held` while a node runs,
    /// `store.stale_node_state` where it may not, and `store.node_handed_over` once a stream of it
    /// had its last line. One that is beside another and comes to its end later fails with that in
    /// place of its last line.
    async fn export(&self, node: NodeState) -> Result<Box<dyn ByteSource>, MoveError>;

    /// Takes a stream in. `kept` are ends of chains that were kept elsewhere, or none: with
    /// them, a stream that someone has written anew is noticed as well.
    ///
    /// # Errors
    /// `move.*`, `store.*`; the store is then as empty as before.
    async fn import(
        &self,
        source: Box<dyn ByteSource>,
        kept: &[ChainHead],
    ) -> Result<Arrival, MoveError>;

    /// How the store is doing.
    ///
    /// # Errors
    /// `store.*` when it cannot be asked.
    async fn health(&self) -> Result<StoreHealth, StoreError>;
}
