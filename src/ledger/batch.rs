//! Everything that one decision changes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account::Account;
use super::json::Json;
use super::transfer::{NewHold, NewReversal, NewTransfer};
use crate::ids::{BatchId, TransferId};

/// A document as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id within its collection.
    pub id: String,
    /// Grows by one with every write, from 1.
    pub version: i64,
    /// The content.
    pub body: Json,
}

/// A document to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDocument {
    /// The collection.
    pub collection: &'static str,
    /// The id within the collection.
    pub id: String,
    /// The version that was read; 0 when there must be none yet.
    pub read_version: i64,
    /// The new content.
    pub body: Json,
    /// Under which keys it is found: `(index, key)`. All keys of the version before are dropped.
    pub index_keys: Vec<(&'static str, String)>,
}

/// An event to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened, dotted: `invoice.settled`.
    pub kind: &'static str,
    /// The object it happened to, by its id.
    pub object: String,
    /// The object as it stands after it.
    pub body: Json,
}

/// An event as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its place in the order of all events.
    pub position: i64,
    /// When it was committed.
    pub at_ms: i64,
    /// What happened.
    pub kind: String,
    /// The object it happened to.
    pub object: String,
    /// The object as it stood after it.
    pub body: Value,
}

/// A window of time in which usage is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageWindow {
    /// What is limited, for example `card_…/spent/day`.
    pub subject: String,
    /// When the window begins.
    pub start_ms: i64,
    /// When it is over; not a part of it.
    pub end_ms: i64,
}

/// A job that waits for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueJob {
    /// What is to be done, for example `invoice.expire`.
    pub kind: String,
    /// With which object.
    pub object: String,
    /// When.
    pub due_at_ms: i64,
}

/// One thing that a batch does, with its guard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Moves money now. Guards: floor and ceiling, holds counted.
    Transfer(NewTransfer),
    /// Moves as much as the guards of a transfer allow, up to its amount; when that is nothing,
    /// nothing. What moved is the amount of the row with the transfer's id.
    TransferUpTo(NewTransfer),
    /// Undoes a transfer. Guards: no more than what of it still stands; the floor, where nobody
    /// is named to owe the rest.
    Reverse(NewReversal),
    /// Sets money aside. Guards: as for a transfer.
    Hold(NewHold),
    /// Moves money that was set aside; what is then left of the hold is given back when
    /// `release_rest` is set. Guards: the hold is open, has not ended and has that much left.
    Capture {
        /// The hold.
        hold: TransferId,
        /// The id of the transfer.
        id: TransferId,
        /// More than zero.
        amount: i64,
        /// Gives the rest back.
        release_rest: bool,
    },
    /// Gives back what is left of a hold. Guard: the hold is open.
    Release {
        /// The hold.
        hold: TransferId,
    },
    /// Writes a document. Guard: it is at the version that was read.
    Put(NewDocument),
    /// Guard only: the document is at the version that was read.
    Require {
        /// The collection.
        collection: &'static str,
        /// The document.
        id: String,
        /// The version.
        version: i64,
    },
    /// Guard only: where an account stands after the steps before this one, holds counted.
    Within {
        /// The account.
        account: Account,
        /// What it must keep, whatever is set aside is taken; `None` for no bound.
        lowest: Option<i64>,
        /// What it may come to at most, whatever is on its way arrives; `None` for no bound.
        highest: Option<i64>,
    },
    /// Takes a name for ever. Guard: nobody has it.
    Claim {
        /// The name: a payment hash, an outpoint, a tap.
        name: String,
        /// Whoever takes it.
        by: String,
    },
    /// Moves a counter. Guard: strictly upwards.
    Advance {
        /// The counter.
        counter: String,
        /// Where to.
        to: i64,
    },
    /// Counts usage within a window. Guards: within the limit, and the commit within the window.
    Use {
        /// The window.
        window: UsageWindow,
        /// How much.
        amount: i64,
        /// The most that may be used within the window.
        limit: i64,
    },
    /// Gives usage back to the window it came from, never below zero.
    Unuse {
        /// The window.
        window: UsageWindow,
        /// How much.
        amount: i64,
    },
    /// Writes an event.
    Emit(NewEvent),
    /// Sets a job, or moves it: one job a kind and object.
    Due(DueJob),
    /// Takes a job away; a missing one is no error.
    Done {
        /// What was to be done.
        kind: &'static str,
        /// With which object.
        object: String,
    },
}

/// What makes a command exactly-once: the same key and request get the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRecord {
    /// Credential, operation and the caller's key, as one text.
    pub scope: String,
    /// The digest of the request.
    pub fingerprint: String,
    /// The answer, kept for whoever asks again.
    pub answer: Json,
}

/// Everything that one decision changes. It is committed whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// A new id; a batch submitted again under its id is not done twice.
    pub id: BatchId,
    /// Set for a command with an idempotency key.
    pub command: Option<CommandRecord>,
    /// In this order. Shared, since a batch is kept until its outcome is known.
    pub steps: Arc<Vec<Step>>,
}

/// A batch that stands in the books, as its caller gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// When it was committed; never decreases from one commit to the next.
    pub at_ms: i64,
    /// The answer of the command. Where `replayed` is set: the one given the first time.
    pub answer: Option<Json>,
    /// The command had been done before, and nothing was done now.
    pub replayed: bool,
}
