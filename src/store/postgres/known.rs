//! What an instance knows of the tables without loading them, so that a group is one round trip.
//!
//! Whoever changes the books moves the head, and the head names the whole history: its hash is
//! chained from the first commit on. So as long as the head is where this instance left it, what
//! it has loaded or written is how the tables stand. A group is decided upon that; what is new to
//! it is guessed (an id is not there yet, a document is at the version that the batch has read);
//! and the database is told all of it as one guard, under the lock, before anything is written. A
//! guess that is wrong undoes the transaction, and the group is loaded and decided again.

use super::connection::Param;
use super::lately::Lately;
use super::snapshot::{AccountRow, Keys, Snapshot};
use super::write::{Head, Written};
use crate::ledger::{Batch, Changes, Step};

/// The most rows of a kind. With more, all are forgotten: the next loads bring back those in use.
const MOST: usize = 16_384;

/// Fails, with a division by zero, unless the head and all that was guessed are as they were
/// taken to be.
pub(super) const GUARD: &str = "
SELECT 1 / CASE WHEN
    EXISTS (SELECT 1 FROM head
            WHERE schema_version = $1 AND last_commit_ms = $2 AND commit_position = $3
                  AND transfer_position = $4 AND hold_change_position = $5
                  AND event_position = $6 AND account_id = $7 AND chain_sequence = $8
                  AND chain_hash = $9 AND chain_writer = $10)
    AND NOT EXISTS (SELECT 1 FROM commits WHERE batch = ANY ($11::text[]))
    AND NOT EXISTS (SELECT 1 FROM commands WHERE scope = ANY ($12::text[]))
    AND NOT EXISTS (SELECT 1 FROM transfers WHERE id = ANY ($13::text[]))
    AND NOT EXISTS (SELECT 1 FROM holds WHERE id = ANY ($13::text[]))
    AND NOT EXISTS (SELECT 1 FROM claims WHERE name = ANY ($14::text[]))
    AND NOT EXISTS (
        SELECT 1 FROM unnest($15::text[], $16::text[], $17::bigint[]) AS k (collection, id, version)
        WHERE k.version <> coalesce((SELECT d.version FROM documents d
                                     WHERE d.collection = k.collection AND d.id = k.id), 0))
THEN 1 ELSE 0 END";

/// What is known, and as of which head.
#[derive(Debug, Default)]
pub(super) struct Known {
    head: Option<Head>,
    rows: Snapshot,
    /// Old rows, which a group may name.
    lately: Lately,
    /// Documents among the rows that are only guessed, until the guard was kept.
    guessed: Vec<(String, String)>,
    /// Nobody else has committed since this instance last did, as far as it could see. With
    /// others at work, a guess is a round trip more.
    is_alone: bool,
}

/// What a group may be decided upon before anything was asked of the database.
pub(super) struct Guess<'a> {
    pub(super) head: &'a Head,
    pub(super) rows: &'a Snapshot,
    lately: &'a Lately,
    documents: Vec<(String, String, i64)>,
}

impl Known {
    /// What is known, with guesses at what is new in the batches; `None` where it must be loaded.
    pub(super) fn guess<'a>(&'a mut self, batches: &[Batch], keys: &Keys) -> Option<Guess<'a>> {
        let steps = || batches.iter().flat_map(|batch| batch.steps.iter());
        // What they undo or end is there, and must be read where it is not known.
        let can_guess = self.is_alone && self.lately.knows_what_is_named(batches);
        let head = self.head.as_ref().filter(|_| can_guess)?;
        let mut documents = Vec::new();
        for step in steps() {
            let (collection, id, version) = match step {
                Step::Put(document) => (document.collection, &document.id, document.read_version),
                Step::Require {
                    collection,
                    id,
                    version,
                } => (*collection, id, *version),
                _ => continue,
            };
            let key = (collection.to_owned(), id.clone());
            if self.rows.documents.contains_key(&key) {
                continue;
            }
            let row = (version != 0).then_some(version);
            self.rows.documents.insert(key.clone(), row);
            self.guessed.push(key.clone());
            documents.push((key.0, key.1, version));
        }
        self.lately.lend(keys, &mut self.rows);
        self.rows.note_fresh(keys);
        Some(Guess {
            head,
            rows: &self.rows,
            lately: &self.lately,
            documents,
        })
    }

    /// The guesses were not put to the test.
    pub(super) fn forget_guesses(&mut self) {
        for document in self.guessed.drain(..) {
            self.rows.documents.remove(&document);
        }
        self.rows.forget_fresh();
    }

    /// The head and the rows were loaded under the lock.
    pub(super) fn loaded(&mut self, head: &Head, rows: Snapshot) {
        self.is_alone = self.head.as_ref() == Some(head);
        if !self.is_alone {
            self.rows = Snapshot::default();
            self.lately = Lately::default();
        }
        self.head = Some(head.clone());
        self.lately.loaded(&rows);
        self.rows.absorb(rows);
        self.bound();
    }

    /// All of it was committed, upon what was known.
    pub(super) fn written(&mut self, changes: &Changes, written: &Written) {
        self.rows.forget_fresh();
        self.guessed.clear();
        self.lately.written(changes);
        for state in changes.holds.values() {
            self.rows.note_hold(state);
        }
        for (account, balance) in &changes.balances {
            if let Some(id) = written.accounts.get(account) {
                let (id, balance) = (*id, *balance);
                let row = Some(AccountRow { id, balance });
                self.rows.accounts.insert(*account, row);
            }
        }
        for ((collection, id), (version, _)) in &changes.documents {
            let key = ((*collection).to_owned(), id.clone());
            self.rows.documents.insert(key, Some(*version));
        }
        for (counter, value) in &changes.counters {
            self.rows.counters.insert(counter.clone(), Some(*value));
        }
        for (window, (_, used)) in &changes.usage {
            self.rows.usage.insert(window.clone(), Some(*used));
        }
        self.head = Some(written.head.clone());
        self.bound();
    }

    /// The head was moved by [`SETTLE`](super::write::SETTLE) after it was loaded.
    pub(super) fn settled(&mut self) {
        if let Some(head) = &mut self.head {
            head.account_id = head.account_id.saturating_add(1);
        }
    }

    /// Nobody else was at work, as far as could be seen.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// What became of the last group is not known, or what was guessed was wrong.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn bound(&mut self) {
        if self.rows.largest() > MOST {
            self.rows = Snapshot::default();
        }
    }
}

impl Guess<'_> {
    /// The values of [`GUARD`].
    pub(super) fn params(&self, keys: &Keys) -> Vec<Param> {
        let mut params = self.head.params();
        params.extend(keys.fresh_params(|id| !self.lately.has(id)));
        let column = |value: fn(&(String, String, i64)) -> &String| -> Param {
            Box::new(
                self.documents
                    .iter()
                    .map(value)
                    .cloned()
                    .collect::<Vec<_>>(),
            )
        };
        params.push(column(|document| &document.0));
        params.push(column(|document| &document.1));
        let versions: Vec<i64> = self.documents.iter().map(|document| document.2).collect();
        params.push(Box::new(versions));
        params
    }
}
