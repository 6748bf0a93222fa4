//! The tables of a store in memory, as the ledger sees them: every change can be undone.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, Commit, CommitPlace, CommitRow, DueJob, EventRecord,
    HoldChangeRow, HoldState, Json, MOST_DUE_RELEASES, NewDocument, NewEvent, Rows, Standing,
    State, TransferRow, UsageWindow,
};
use crate::store::key_value::NodeLease;
use crate::store::{DocumentPosition, KeyPath, StoreError};

#[derive(Default)]
pub(super) struct Tables {
    pub(super) last_commit_ms: i64,
    pub(super) commits: Vec<CommitRow>,
    /// Where in `commits` a batch is.
    pub(super) batches: HashMap<BatchId, usize>,
    /// The commits before this one have no answer any more.
    pub(super) forgotten: usize,
    pub(super) commands: HashMap<String, (String, Commit)>,
    pub(super) balances: BTreeMap<Account, Balance>,
    pub(super) transfers: Vec<TransferRow>,
    /// Where in `transfers` a transfer is.
    pub(super) transfer_ids: HashMap<TransferId, usize>,
    pub(super) reversed: HashMap<TransferId, i64>,
    pub(super) holds: BTreeMap<TransferId, HoldState>,
    pub(super) hold_changes: Vec<HoldChangeRow>,
    pub(super) documents: HashMap<(String, String), KeptDocument>,
    pub(super) index: BTreeMap<(String, String, DocumentPosition), ()>,
    pub(super) claims: HashMap<String, String>,
    pub(super) counters: HashMap<String, i64>,
    /// By subject and start: the end, and what was used.
    pub(super) usage: HashMap<(String, i64), (i64, i64)>,
    pub(super) events: Vec<KeptEvent>,
    pub(super) due: HashMap<(String, String), (i64, i64)>,
    pub(super) cursors: HashMap<String, i64>,
    pub(super) node: BTreeMap<KeyPath, Vec<u8>>,
    pub(super) node_epoch: u64,
    pub(super) node_lease: NodeLease,
    /// Why no node may run here.
    pub(super) node_locked: Option<StoreError>,
    /// The stream of a hand-over was whole: there is no other.
    pub(super) has_departed: bool,
    pub(super) closed: bool,
}

impl Tables {
    /// The books live elsewhere, for ever.
    pub(super) fn is_handed_over(&self) -> bool {
        self.node_locked == Some(StoreError::NodeHandedOver)
    }
}

/// An event as it stands, at its place in the list.
#[derive(Debug, Clone)]
pub(super) struct KeptEvent {
    pub(super) at_ms: i64,
    pub(super) kind: String,
    pub(super) object: String,
    pub(super) body: Json,
}

impl KeptEvent {
    pub(super) fn at(self, position: i64) -> Result<EventRecord, StoreError> {
        let Self {
            at_ms,
            kind,
            object,
            body,
        } = self;
        let body = body.read().map_err(|error| StoreError::Corrupt {
            reason: error.to_string(),
        })?;
        Ok(EventRecord {
            position,
            at_ms,
            kind,
            object,
            body,
        })
    }
}

/// A document as it stands.
#[derive(Debug, Clone)]
pub(super) struct KeptDocument {
    pub(super) id: String,
    pub(super) version: i64,
    pub(super) body: Json,
    /// Index and key.
    pub(super) index_keys: Vec<(String, String)>,
}

impl Tables {
    pub(super) fn check_epoch(&self, given: u64) -> Result<(), StoreError> {
        let current = self.node_epoch;
        if given == 0 || given != current {
            return Err(StoreError::Fenced { given, current });
        }
        Ok(())
    }

    /// The end of the one chain.
    pub(super) fn head(&self) -> ChainHead {
        let last = self.commits.last();
        ChainHead {
            writer: last.map_or(WRITER, |row| &row.writer).to_owned(),
            sequence: last.map_or(0, |row| row.sequence),
            hash: last.map_or(ChainHash::GENESIS, |row| row.hash),
        }
    }

    pub(super) fn transfer(&self, id: TransferId) -> Option<TransferRow> {
        let at = *self.transfer_ids.get(&id)?;
        self.transfers.get(at).cloned()
    }

    pub(super) fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Standing {
        let used = windows.iter().map(|window| self.used(window));
        Standing {
            balance: self.balances.get(account).copied().unwrap_or_default(),
            ended: self.due_holds(account, at_ms, MOST_DUE_RELEASES),
            used: used.collect(),
        }
    }

    pub(super) fn used(&self, window: &UsageWindow) -> i64 {
        let key = (window.subject.clone(), window.start_ms);
        self.usage.get(&key).map_or(0, |(_, used)| *used)
    }

    fn due_holds(&self, account: &Account, at_ms: i64, limit: usize) -> Vec<HoldState> {
        let mut due: Vec<_> = self
            .holds
            .values()
            .filter(|state| {
                let transfer = &state.hold.transfer;
                let ended = state.hold.expires_at_ms.is_some_and(|at| at <= at_ms);
                let touches = transfer.debit == *account || transfer.credit == *account;
                ended && touches && state.remaining > 0
            })
            .cloned()
            .collect();
        due.sort_by_key(|state| (state.hold.expires_at_ms, state.hold.transfer.id));
        due.truncate(limit);
        due
    }
}

/// The one that writes.
const WRITER: &str = "memory";

type Undo = Box<dyn FnOnce(&mut Tables)>;

/// One change in the making, with the way back.
pub(super) struct Change<'a> {
    tables: &'a mut Tables,
    undo: Vec<Undo>,
}

impl<'a> Change<'a> {
    pub(super) fn new(tables: &'a mut Tables) -> Self {
        Self {
            tables,
            undo: Vec::new(),
        }
    }

    pub(super) fn undo_all(mut self) {
        while let Some(undo) = self.undo.pop() {
            undo(self.tables);
        }
    }
}

/// Sets a row of a table and remembers what stood there.
macro_rules! set {
    ($change:expr, $table:ident, $key:expr, $value:expr) => {{
        let key = $key;
        let before = $change.tables.$table.insert(key.clone(), $value);
        $change.undo.push(Box::new(move |tables| {
            match before {
                Some(value) => tables.$table.insert(key, value),
                None => tables.$table.remove(&key),
            };
        }));
    }};
}

/// Takes a row out of a table and remembers it.
macro_rules! unset {
    ($change:expr, $table:ident, $key:expr) => {{
        let key = $key;
        if let Some(value) = $change.tables.$table.remove(&key) {
            $change.undo.push(Box::new(move |tables| {
                tables.$table.insert(key, value);
            }));
        }
    }};
}

impl Rows for Change<'_> {
    type Error = Infallible;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>, Infallible> {
        let Some(&at) = self.tables.batches.get(&batch) else {
            return Ok(None);
        };
        Ok(self.tables.commits.get(at).map(|row| Commit {
            at_ms: row.at_ms,
            answer: row
                .scope
                .as_ref()
                .and_then(|scope| self.tables.commands.get(scope))
                .and_then(|(_, commit)| commit.answer.clone()),
            replayed: false,
        }))
    }

    fn commit_place(&mut self) -> Result<CommitPlace, Infallible> {
        Ok(CommitPlace {
            position: next_position(self.tables.commits.len()),
            head: self.tables.head(),
        })
    }

    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>, Infallible> {
        Ok(self.tables.commands.get(scope).cloned())
    }

    fn balance(&mut self, account: &Account) -> Result<Balance, Infallible> {
        Ok(self
            .tables
            .balances
            .get(account)
            .copied()
            .unwrap_or_default())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool, Infallible> {
        Ok(self.tables.transfer_ids.contains_key(&id) || self.tables.holds.contains_key(&id))
    }

    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>, Infallible> {
        Ok(self.tables.transfer(id))
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>, Infallible> {
        Ok(self.tables.holds.get(&id).cloned())
    }

    fn due_holds(
        &mut self,
        account: &Account,
        at_ms: i64,
        limit: usize,
    ) -> Result<Vec<HoldState>, Infallible> {
        Ok(self.tables.due_holds(account, at_ms, limit))
    }

    fn reversed(&mut self, id: TransferId) -> Result<i64, Infallible> {
        Ok(self.tables.reversed.get(&id).copied().unwrap_or(0))
    }

    fn document_version(&mut self, collection: &'static str, id: &str) -> Result<i64, Infallible> {
        let key = (collection.to_owned(), id.to_owned());
        Ok(self
            .tables
            .documents
            .get(&key)
            .map_or(0, |document| document.version))
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>, Infallible> {
        Ok(self.tables.claims.get(name).cloned())
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>, Infallible> {
        Ok(self.tables.counters.get(name).copied())
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64, Infallible> {
        let key = (window.subject.clone(), window.start_ms);
        Ok(self.tables.usage.get(&key).map_or(0, |(_, used)| *used))
    }
}

impl State for Change<'_> {
    fn put_commit(&mut self, row: &CommitRow, _commit: &Commit) -> Result<(), Infallible> {
        set!(self, batches, row.batch, self.tables.commits.len());
        self.tables.commits.push(row.clone());
        self.undo.push(Box::new(|tables| {
            tables.commits.pop();
        }));
        Ok(())
    }

    fn put_command(
        &mut self,
        scope: &str,
        fingerprint: &str,
        commit: &Commit,
    ) -> Result<(), Infallible> {
        set!(
            self,
            commands,
            scope.to_owned(),
            (fingerprint.to_owned(), commit.clone())
        );
        Ok(())
    }

    fn put_balance(&mut self, account: &Account, balance: &Balance) -> Result<(), Infallible> {
        set!(self, balances, *account, *balance);
        Ok(())
    }

    fn append_transfer(&mut self, row: &TransferRow) -> Result<(), Infallible> {
        let position = next_position(self.tables.transfers.len());
        set!(self, transfer_ids, row.id, self.tables.transfers.len());
        self.tables.transfers.push(TransferRow {
            position,
            ..row.clone()
        });
        self.undo.push(Box::new(|tables| {
            tables.transfers.pop();
        }));
        Ok(())
    }

    fn put_hold(&mut self, hold: &HoldState) -> Result<(), Infallible> {
        set!(self, holds, hold.hold.transfer.id, hold.clone());
        Ok(())
    }

    fn append_hold_change(&mut self, row: &HoldChangeRow) -> Result<(), Infallible> {
        self.tables.hold_changes.push(HoldChangeRow {
            position: next_position(self.tables.hold_changes.len()),
            ..row.clone()
        });
        self.undo.push(Box::new(|tables| {
            tables.hold_changes.pop();
        }));
        Ok(())
    }

    fn put_reversed(&mut self, id: TransferId, amount: i64) -> Result<(), Infallible> {
        set!(self, reversed, id, amount);
        Ok(())
    }

    fn put_document(&mut self, document: &NewDocument, version: i64) -> Result<(), Infallible> {
        let key = (document.collection.to_owned(), document.id.clone());
        if let Some(before) = self.tables.documents.get(&key).cloned() {
            for index_key in index_rows(document.collection, &before) {
                unset!(self, index, index_key);
            }
        }
        let index_keys = document.index_keys.iter();
        let kept = KeptDocument {
            id: document.id.clone(),
            version,
            body: document.body.clone(),
            index_keys: index_keys
                .map(|(index, key)| ((*index).to_owned(), key.clone()))
                .collect(),
        };
        for index_key in index_rows(document.collection, &kept) {
            set!(self, index, index_key, ());
        }
        set!(self, documents, key, kept);
        Ok(())
    }

    fn put_claim(&mut self, name: &str, by: &str) -> Result<(), Infallible> {
        set!(self, claims, name.to_owned(), by.to_owned());
        Ok(())
    }

    fn put_counter(&mut self, name: &str, value: i64) -> Result<(), Infallible> {
        set!(self, counters, name.to_owned(), value);
        Ok(())
    }

    fn put_usage(&mut self, window: &UsageWindow, used: i64) -> Result<(), Infallible> {
        let key = (window.subject.clone(), window.start_ms);
        set!(self, usage, key, (window.end_ms, used));
        Ok(())
    }

    fn append_event(&mut self, event: &NewEvent, at_ms: i64) -> Result<(), Infallible> {
        self.tables.events.push(KeptEvent {
            at_ms,
            kind: event.kind.to_owned(),
            object: event.object.clone(),
            body: event.body.clone(),
        });
        self.undo.push(Box::new(|tables| {
            tables.events.pop();
        }));
        Ok(())
    }

    fn put_due(&mut self, job: &DueJob) -> Result<(), Infallible> {
        set!(
            self,
            due,
            (job.kind.clone(), job.object.clone()),
            (job.due_at_ms, 0)
        );
        Ok(())
    }

    fn remove_due(&mut self, kind: &str, object: &str) -> Result<(), Infallible> {
        unset!(self, due, (kind.to_owned(), object.to_owned()));
        Ok(())
    }
}

fn next_position(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX).saturating_add(1)
}

fn index_rows(
    collection: &str,
    document: &KeptDocument,
) -> Vec<(String, String, DocumentPosition)> {
    document
        .index_keys
        .iter()
        .map(|(index, key)| {
            let position = DocumentPosition {
                key: key.clone(),
                id: document.id.clone(),
            };
            (collection.to_owned(), index.clone(), position)
        })
        .collect()
}
