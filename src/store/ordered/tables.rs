//! The tables within the one tree: a byte for each, then the key. Every value is JSON, but for the
//! node's own bytes.

use std::marker::PhantomData;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::keys::{OwnedPart, Part, after, after_all};
use super::tree::{Order, Rows, Tree, View, WriteError};
use crate::ledger::{Balance, CommitRow, EventRecord, HoldChangeRow, HoldState, Json, TransferRow};
use crate::store::StoreError;

/// A table, and what its rows are.
pub(super) struct Table<V> {
    tag: u8,
    rows: PhantomData<fn() -> V>,
}

impl<V> Table<V> {
    const fn new(tag: u8) -> Self {
        let rows = PhantomData;
        Self { tag, rows }
    }

    /// The whole key, or the beginning of those that begin alike.
    pub(super) fn key(&self, parts: impl Part) -> Vec<u8> {
        let mut key = vec![self.tag];
        parts.push(&mut key);
        key
    }

    /// The keys that begin so.
    pub(super) fn under(&self, parts: impl Part) -> Range<Vec<u8>> {
        let start = self.key(parts);
        start.clone()..after_all(start)
    }

    /// The keys after this one.
    pub(super) fn after(&self, parts: impl Part) -> Range<Vec<u8>> {
        after(self.key(parts))..self.under(()).end
    }

    /// What the key of a row of this table says.
    pub(super) fn parts<K: OwnedPart>(&self, key: &[u8]) -> Result<K, StoreError> {
        let mut left = key.get(1..).unwrap_or_default();
        match K::take(&mut left) {
            Some(parts) if left.is_empty() => Ok(parts),
            _ => Err(corrupt("a key is no key")),
        }
    }
}

/// What one schema has must stay: a table that is no longer needed keeps its byte.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $tag:literal: $row:ty;)*) => {
        $($(#[$doc])* pub(super) const $name: Table<$row> = Table::new($tag);)*
    };
}

tables! {
    SETTINGS = 1: i64;
    COMMITS = 2: CommitRow;
    /// The position of a batch's commit.
    BATCHES = 3: i64;
    /// By scope.
    COMMANDS = 4: DoneCommand;
    /// By the account's text, in whose order they are listed.
    BALANCES = 5: Balance;
    TRANSFERS = 6: TransferRow;
    /// The position of a transfer.
    TRANSFER_IDS = 7: i64;
    /// By account and position.
    ACCOUNT_TRANSFERS = 8: ();
    /// By account and time, the balance after the last transfer of that time: to look back is one
    /// search down the tree.
    PAST = 9: i64;
    REVERSED = 10: i64;
    HOLDS = 11: HoldState;
    /// Open holds that end by themselves, by account, end and id.
    ENDINGS = 12: ();
    HOLD_CHANGES = 13: HoldChangeRow;
    /// By collection and id.
    DOCUMENTS = 14: KeptDocument;
    /// By collection, index, key and id.
    INDEX = 15: ();
    CLAIMS = 16: String;
    COUNTERS = 17: i64;
    /// By subject and start of the window: its end, and what was used.
    USAGE = 18: (i64, i64);
    EVENTS = 19: EventRecord;
    /// When a job is due, by kind and object.
    DUE = 20: i64;
    /// Until when a job is leased, by its time, kind and object.
    DUE_TIMES = 21: i64;
    CURSORS = 22: i64;
    /// The node's values, as they are.
    NODE = 23: Vec<u8>;
}

/// A command that was done. Its answer is kept as text: a `null` that was answered is not an
/// answer that was forgotten.
#[derive(Serialize, Deserialize)]
pub(super) struct DoneCommand {
    pub(super) fingerprint: String,
    pub(super) at_ms: i64,
    pub(super) answer: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct KeptDocument {
    pub(super) version: i64,
    pub(super) body: Json,
    /// Index and key.
    pub(super) keys: Vec<(String, String)>,
}

/// What stands there cannot have been written by this store.
pub(super) fn corrupt(reason: impl std::fmt::Display) -> StoreError {
    let reason = reason.to_string();
    StoreError::Corrupt { reason }
}

/// What another table points at.
pub(super) fn there<T>(row: Option<T>) -> Result<T, StoreError> {
    row.ok_or_else(|| corrupt("a row is missing"))
}

pub(super) fn decode<V: DeserializeOwned>(row: &[u8]) -> Result<V, StoreError> {
    serde_json::from_slice(row).map_err(corrupt)
}

pub(super) fn get<V: DeserializeOwned>(
    view: &dyn View,
    table: &Table<V>,
    key: impl Part,
) -> Result<Option<V>, StoreError> {
    let row = view.get(&table.key(key))?;
    row.map(|row| decode(&row)).transpose()
}

/// The rows of a range, which may be empty or the wrong way round.
pub(super) fn rows(
    view: &dyn View,
    keys: Range<Vec<u8>>,
    order: Order,
) -> Result<Rows<'_>, StoreError> {
    if keys.start >= keys.end {
        return Ok(Box::new(std::iter::empty()));
    }
    view.range(&keys.start..&keys.end, order)
}

/// The last row of a table.
pub(super) fn last<V: DeserializeOwned>(
    view: &dyn View,
    table: &Table<V>,
) -> Result<Option<V>, StoreError> {
    let row = rows(view, table.under(()), Order::Backwards)?.next();
    row.map(|row| decode(&row?.1)).transpose()
}

/// The last position in a table whose keys are positions; 0 where there is none. The row itself is
/// not read: one that is damaged stops nobody who comes after it.
pub(super) fn last_position<V>(view: &dyn View, table: &Table<V>) -> Result<i64, StoreError> {
    let row = rows(view, table.under(()), Order::Backwards)?.next();
    row.map_or(Ok(0), |row| table.parts(&row?.0))
}

const KNOWN_SCHEMA: i64 = 1;

/// Knows a store of before, and begins a new one.
pub(super) fn prepare(tree: &impl Tree) -> Result<(), StoreError> {
    let view = tree.view()?;
    if let Some(found) = get(&view, &SETTINGS, "schema")? {
        let known = KNOWN_SCHEMA;
        return match found {
            KNOWN_SCHEMA => Ok(()),
            _ if found > known => Err(StoreError::NewerSchema { found, known }),
            _ => Err(corrupt(format!("there is no schema {found}"))),
        };
    }
    // No key of anybody's is likely to be after so many.
    let all = vec![0]..vec![0xff; 64];
    if rows(&view, all, Order::Forwards)?.next().is_some() {
        return Err(corrupt("somebody else's keys are in it"));
    }
    let mut begun = Draft::new(&view);
    settle(&mut begun)?;
    tree.write(&begun.finish())
        .map_err(|(WriteError::Undone(error) | WriteError::Unknown(error))| error)
}

/// Writes what every store has: there is then something to be flushed.
pub(super) fn settle(to: &mut Draft<'_>) -> Result<(), StoreError> {
    to.put(&SETTINGS, "schema", &KNOWN_SCHEMA)
}
