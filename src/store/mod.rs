//! Where the books are kept: the store port, its contract, and the stores built in.
//!
//! A store keeps plain tables and one promise: a [`Batch`] is committed whole or not at all, and
//! [`Store::commit`] answers only after the commit is durable. What a batch may do is decided by
//! [`ledger::Group`](crate::ledger::Group) for every store alike.
//!
//! Any engine of tables with atomic, durable changes can be one. One that keeps an ordered tree of
//! keys and values becomes a store by four functions: see [`ordered`]. What any store must keep is
//! said at [`Store`] and [`KeyValue`]; how its rows are read and written, at
//! [`Rows`](crate::ledger::Rows) and [`Changes`](crate::ledger::Changes); what stores with one
//! writer have in common is [`group_commit`]. The module `contract` (feature `testkit`) checks all of it against any store.
//! `docs/guide/write-a-store.md` goes through both.

mod admin;
pub mod commit_time;
#[cfg(feature = "testkit")]
pub mod contract;
mod error;
pub mod group_commit;
mod health;
mod key_value;
mod memory;
pub mod moving;
pub mod ordered;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod threads;

use std::time::Duration;

use async_trait::async_trait;

use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, Refusal, Standing, TransferRow, UsageWindow,
};

pub use admin::{Arrival, ByteSource, MoveError, NodeState, StoreAdmin, StoreHealth};
pub use commit_time::CommitClock;
pub use error::StoreError;
pub use health::{StoreTrouble, WriteHealth};
pub use key_value::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, NodeLease};
pub use memory::MemoryStore;
#[cfg(any(feature = "sqlite", feature = "ldk"))]
pub(crate) use threads::block_on;

/// A batch was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed; nothing was changed, except where the error says it is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which documents to list: those of a collection whose `index` key lies in `[from, to)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentQuery {
    /// The collection.
    pub collection: &'static str,
    /// The index.
    pub index: &'static str,
    /// The first key.
    pub from: String,
    /// The first key that is not wanted any more; `None` for no end.
    pub to: Option<String>,
    /// Continues after the document that the last page ended with.
    pub after: Option<DocumentPosition>,
    /// At most so many; at least 1, at most [`MAX_PAGE`].
    pub limit: usize,
}

impl DocumentQuery {
    /// The first documents under one key of an index. No key has a control character.
    pub fn under(collection: &'static str, index: &'static str, key: &str, limit: usize) -> Self {
        Self {
            collection,
            index,
            from: key.to_owned(),
            // Not U+0000, which PostgreSQL has in no text.
            to: Some(format!("{key}\u{1}")),
            after: None,
            limit,
        }
    }

    /// The key, where the query is for the first document under one.
    pub fn of_first_under(&self) -> Option<&str> {
        let Self {
            from,
            to,
            after,
            limit,
            ..
        } = self;
        let end = to.as_ref()?.strip_suffix('\u{1}')?;
        (end == from && after.is_none() && *limit == 1).then_some(end)
    }
}

/// Where a page of documents ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentPosition {
    /// The index key.
    pub key: String,
    /// The document's id.
    pub id: String,
}

/// The most rows in one page.
pub const MAX_PAGE: usize = 1_000;

/// The books.
///
/// # Contract
/// - **Whole.** `commit` is atomic and serialisable: every guard is checked against all commits
///   before it, and a batch that is refused, or that failed, changes nothing at all. The commit
///   time is that of [`CommitClock`]: the clock's, and never less than that of a commit before.
/// - **Durable.** What changes something is answered only after it would survive the end of the
///   process and of the machine. A failure that leaves open whether it would is
///   [`StoreError::OutcomeUnknown`], never another: it is resolved by the same batch again.
/// - **Once.** A batch whose id was committed, or whose command was, is not done again; it is
///   answered what it was answered then, with `replayed` set, for ever.
/// - **Seen.** Everything read after a commit was answered shows that commit. What one call reads is
///   of one moment: a batch is in it whole, or not at all.
/// - **In order.** Positions grow from 1 with the commits, and none appears below one that can be
///   seen: a reader that has seen position *n* has seen everything up to *n*.
/// - **In pages.** Every list takes a `limit`; less than 1 is 1, and more than [`MAX_PAGE`] is that,
///   but for [`balances`](Self::balances).
/// - **Anywhere.** No call needs a particular async runtime, and none blocks the thread it is called
///   on. A future that is dropped has either done nothing yet or is carried out all the same.
///   Dropping a store does not block either; what it had taken in may still be done.
/// - **Bounded.** What waits is bounded: beyond that, [`StoreError::Busy`].
///
/// # Errors
/// Any call may answer a [`StoreError`]; then nothing was changed, but for `store.outcome_unknown`.
/// After [`close`](Self::close) every call but that answers `store.closed`. What cannot have been
/// written by the store is `store.corrupt`, and is never read as something else, or as nothing.
///
/// # Texts
/// Texts are ordered by their bytes in UTF-8, whatever the language. No key of an index has a
/// control character. A text with U+0000 may be refused, since PostgreSQL has none.
#[async_trait]
pub trait Store: Send + Sync {
    /// Commits a batch, together with others that wait at the same time. It is submitted when the
    /// future is first polled.
    ///
    /// # Errors
    /// [`CommitError::Refused`] with the first guard that did not hold, in the order of the steps;
    /// nothing was changed, and the same batch may be submitted again. [`CommitError::Store`] with
    /// `store.busy`, `store.outcome_unknown`, `store.handed_over` and others.
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError>;

    /// When a commit would be made that is made now, milliseconds since the epoch, as far as the
    /// store can tell without asking anybody: what [`CommitClock::now_ms`] answers.
    fn commit_time_ms(&self) -> i64;

    /// The command under this scope, if it was done: its fingerprint and its commit, with
    /// `replayed` not set. The answer is `None` only once it was
    /// [forgotten](Self::forget_answers); JSON's `null` is an answer like any other.
    ///
    /// `None` is answered only where no commit that was begun before can still make it: what is on
    /// its way to the disk, or to a standby, is waited for, as `store.outcome_unknown` where that
    /// takes too long. Whoever reads it may tell a caller that nothing was done.
    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError>;

    /// As [`command`](Self::command), but nothing is waited for: what is found was done, and `None`
    /// says nothing. For whoever looks only to be spared the work.
    async fn known_command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        self.command(scope).await
    }

    /// A document at its last version, or `None`.
    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError>;

    /// Documents by an index, in the order of its keys and then of the documents' ids. A document
    /// stands there once for each key that its last version has in the index.
    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError>;

    /// The totals of an account; all zero for one that was never used.
    async fn balance(&self, account: &Account) -> Result<Balance, StoreError>;

    /// All accounts that were ever used, in the order of their text, after `after`: also those
    /// that are empty again, or that only a hold has named. Whatever one call answers stood so at
    /// one moment, and only `limit` bounds it, not [`MAX_PAGE`]: `usize::MAX` gives all accounts
    /// as they are between two commits.
    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError>;

    /// An account's transfers, newest first, before the position `before` if there is one.
    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError>;

    /// A transfer that was posted.
    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError>;

    /// What was posted to an account up to and with `at_ms`, towards the account's side: the
    /// balance after its last transfer by then, and 0 where there is none. Takes a time that grows
    /// with the logarithm of the number of transfers.
    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError>;

    /// How an account stands: its totals, its open holds (those that debit it and those that
    /// credit it) which ended at or before `at_ms`, and what was used within each of `windows`. Of
    /// the holds those that ended first, then by id, as many as one commit gives back:
    /// [`MOST_DUE_RELEASES`](crate::ledger::MOST_DUE_RELEASES). They still stand in the totals and
    /// in what was used, until a commit that needs it gives them back.
    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError>;

    /// All commits after a position, in order.
    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError>;

    /// All transfers after a position, in order: those of one commit stand together, commits in
    /// the order of their positions.
    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError>;

    /// All changes of holds after a position, in order, as in [`journal`](Self::journal).
    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError>;

    /// The end of every writer's chain, by the name of the writer; none of a store without
    /// commits.
    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError>;

    /// Forgets the answers of commands that were committed before `before_ms`, at most `limit`
    /// of them, oldest first; answers how many. The keys stay taken, so that nothing is done
    /// twice: whoever asks with one again learns that its answer was forgotten. One that was
    /// forgotten is not counted again. A store may look at a part of the commits alone, so that
    /// nobody waits long, and goes on there when it is asked again.
    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError>;

    /// A hold, open or not.
    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError>;

    /// How much of a transfer was undone; 0 where nothing was, also of one that is not there.
    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError>;

    /// What is left of each of these holds, in their order; `None` of one that is not there. At most
    /// [`MAX_PAGE`] are asked for at once.
    async fn holds_left(&self, ids: &[TransferId]) -> Result<Vec<Option<i64>>, StoreError> {
        let mut left = Vec::with_capacity(ids.len());
        for id in ids {
            left.push(self.hold(*id).await?.map(|hold| hold.remaining));
        }
        Ok(left)
    }

    /// As [`reversed`](Self::reversed), of each of these transfers, in their order. At most
    /// [`MAX_PAGE`] are asked for at once.
    async fn all_reversed(&self, ids: &[TransferId]) -> Result<Vec<i64>, StoreError> {
        let mut reversed = Vec::with_capacity(ids.len());
        for id in ids {
            reversed.push(self.reversed(*id).await?);
        }
        Ok(reversed)
    }

    /// Who claimed a name.
    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Where a counter stands; `None` when it never moved.
    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError>;

    /// How much was used within a window, told by its subject and start; 0 where nothing was.
    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError>;

    /// Events after a position, in order: those of one batch stand together, as it emitted them.
    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError>;

    /// Waits until there is an event after `position`; at once where there is one. One that is
    /// written between the look and the wait is not missed.
    ///
    /// # Errors
    /// `store.closed` also when the store is closed meanwhile.
    async fn event_after(&self, position: i64) -> Result<(), StoreError>;

    /// How far a named reader has acknowledged; 0 for a new one.
    async fn cursor(&self, name: &str) -> Result<i64, StoreError>;

    /// Moves a named reader forward; a position behind it changes nothing, and is no error.
    /// Durable like a commit.
    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError>;

    /// Takes jobs that are due by `due_by_ms` and not leased, those first that are due first, then
    /// by kind and object, and leases them for so long as `lasts`: nobody else gets them before.
    /// After it they can be taken again, until a batch has them done. A job that is set again loses
    /// its lease. Leases go by one clock for all who share the books: the database server's where
    /// there is one, and otherwise the one that the store takes its commit times from. One that
    /// would last longer than `lasts` was given by a clock that was ahead, and does not count; where
    /// several can look at the clock at once, by more than a second. Jobs
    /// of the kinds in `except` are left to others, and do not count towards `limit`.
    async fn lease_due(
        &self,
        due_by_ms: i64,
        lasts: Duration,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError>;

    /// What writing suffers from, while it does: set when a write fails, and taken back by the
    /// next one that is made. `None` also of a store that cannot tell. [`WriteHealth`] keeps it.
    fn trouble(&self) -> Option<StoreTrouble> {
        None
    }

    /// Finishes all that was submitted and closes the store: when it has answered, the same place
    /// can be opened again. Idempotent; calls after it answer [`StoreError::Closed`], and whoever
    /// waits for an event is told so.
    async fn close(&self) -> Result<(), StoreError>;
}
