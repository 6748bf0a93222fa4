//! What a store keeps, as [`apply`](super::apply) sees it.
//!
//! A store says how its rows are read, [`Rows`]. What a batch changes is best gathered over them
//! in memory, by [`Group`](super::Group), and its [`Changes`](super::Changes) written when the
//! whole group was decided.
//!
//! The rows that are given to a store can be serialised with serde, and it may keep them so: what
//! one version wrote, every later one reads. Totals of accounts need integers of 128 bits. Not so
//! [`Commit`], of which only the parts are kept: an answer of JSON's `null` is not a missing one.

use super::account::Account;
use super::balance::Balance;
use super::batch::{Commit, DueJob, NewDocument, NewEvent, UsageWindow};
use super::journal::{CommitPlace, CommitRow};
use super::transfer::{HoldChangeRow, HoldState, TransferRow};
use crate::ids::{BatchId, TransferId};

/// The rows of a store, as they are within one open atomic change.
///
/// # Contract
/// All commits so far are in them, and nobody else changes them until what was decided upon them
/// was written: otherwise two batches could spend the same money. Under a
/// [`Group`](super::Group) they are as of the beginning of the group, since it remembers what its
/// batches change; without it they have what was written through [`State`] so far.
///
/// An error is the store's own, and ends the change: nothing of it may be written. What cannot be
/// read is an error, never a missing row: a claim that was not found could be given away twice.
pub trait Rows {
    /// What the store itself can fail with.
    type Error;
    /// The commit under this batch id, if it was done; its answer is that of its command, `None`
    /// where it has none or it was forgotten. `replayed` is not set.
    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>, Self::Error>;
    /// Where the commit that is being made will stand: after all commits, the first at 1, at the
    /// end of this writer's chain. A store with one writer at a time has one chain, under a name of
    /// its own choice that never changes.
    fn commit_place(&mut self) -> Result<CommitPlace, Self::Error>;
    /// The command under this scope: its fingerprint and how it was committed. Also one whose
    /// answer was forgotten.
    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>, Self::Error>;
    /// The totals of an account; all zero for one that was never used.
    fn balance(&mut self, account: &Account) -> Result<Balance, Self::Error>;
    /// True when a transfer or a hold has this id.
    fn transfer_exists(&mut self, id: TransferId) -> Result<bool, Self::Error>;
    /// A transfer that was posted.
    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>, Self::Error>;
    /// A hold, open or not.
    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>, Self::Error>;
    /// Open holds that debit or credit `account` and ended at or before `at_ms`, at most
    /// `limit`, those first that ended first (then by id).
    fn due_holds(
        &mut self,
        account: &Account,
        at_ms: i64,
        limit: usize,
    ) -> Result<Vec<HoldState>, Self::Error>;
    /// How much of a transfer was undone; 0 for nothing.
    fn reversed(&mut self, id: TransferId) -> Result<i64, Self::Error>;
    /// The version of a document; 0 when there is none.
    fn document_version(&mut self, collection: &'static str, id: &str) -> Result<i64, Self::Error>;
    /// Whoever has the name.
    fn claim(&mut self, name: &str) -> Result<Option<String>, Self::Error>;
    /// Where a counter stands.
    fn counter(&mut self, name: &str) -> Result<Option<i64>, Self::Error>;
    /// What was used within a window.
    fn usage(&mut self, window: &UsageWindow) -> Result<i64, Self::Error>;
}

/// The tables of a store, within one open atomic change.
///
/// These are plain reads and writes: every rule is in [`apply`](super::apply), so that all stores
/// have the same ones. A store undoes the whole change when `apply` answers an error.
pub trait State: Rows {
    /// Writes the commit down at its place; its writer's chain ends with it then.
    fn put_commit(&mut self, row: &CommitRow, commit: &Commit) -> Result<(), Self::Error>;
    /// Writes a command down.
    fn put_command(
        &mut self,
        scope: &str,
        fingerprint: &str,
        commit: &Commit,
    ) -> Result<(), Self::Error>;
    /// Sets the totals of an account.
    fn put_balance(&mut self, account: &Account, balance: &Balance) -> Result<(), Self::Error>;
    /// Appends a transfer; the store gives it its position.
    fn append_transfer(&mut self, row: &TransferRow) -> Result<(), Self::Error>;
    /// Writes a hold.
    fn put_hold(&mut self, hold: &HoldState) -> Result<(), Self::Error>;
    /// Appends what was done with a hold; the store gives it its position.
    fn append_hold_change(&mut self, row: &HoldChangeRow) -> Result<(), Self::Error>;
    /// Sets how much of a transfer was undone.
    fn put_reversed(&mut self, id: TransferId, amount: i64) -> Result<(), Self::Error>;
    /// Writes a document and its index keys at `version`.
    fn put_document(&mut self, document: &NewDocument, version: i64) -> Result<(), Self::Error>;
    /// Gives the name away.
    fn put_claim(&mut self, name: &str, by: &str) -> Result<(), Self::Error>;
    /// Moves a counter.
    fn put_counter(&mut self, name: &str, value: i64) -> Result<(), Self::Error>;
    /// Sets what was used within a window.
    fn put_usage(&mut self, window: &UsageWindow, used: i64) -> Result<(), Self::Error>;
    /// Appends an event; the store gives it its position.
    fn append_event(&mut self, event: &NewEvent, at_ms: i64) -> Result<(), Self::Error>;
    /// Sets a job; its lease, if any, ends.
    fn put_due(&mut self, job: &DueJob) -> Result<(), Self::Error>;
    /// Takes a job away.
    fn remove_due(&mut self, kind: &str, object: &str) -> Result<(), Self::Error>;
}
