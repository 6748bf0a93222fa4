//! The tables of the file. Every value is JSON, but for the node's own bytes.

use flashkit::ledger::Json;
use flashkit::store::{KeyPath, StoreError};
use redb::{Database, Key, ReadableTable, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Result, corrupt};

pub type Table<K> = redb::TableDefinition<'static, K, &'static [u8]>;

/// Keys that own what they are made of.
pub trait OwnedKey: Key + for<'a> redb::Value<SelfType<'a> = Self> + 'static {}
impl<K: Key + for<'a> redb::Value<SelfType<'a> = K> + 'static> OwnedKey for K {}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $key:ty;)*) => {
        $($(#[$doc])* pub const $name: Table<$key> = Table::new(stringify!($name));)*

        fn make_tables(to: &WriteTransaction) -> Result<()> {
            $(to.open_table($name)?;)*
            Ok(())
        }
    };
}

tables! {
    COMMITS: i64;
    /// The position of a batch's commit.
    BATCHES: String;
    /// By scope.
    COMMANDS: String;
    /// By the account's text, in whose order they are listed.
    BALANCES: String;
    TRANSFERS: i64;
    TRANSFER_IDS: String;
    ACCOUNT_TRANSFERS: (String, i64);
    /// By account and time, the balance after the last transfer of that time: to look back is one
    /// search down the tree.
    PAST: (String, i64);
    REVERSED: String;
    HOLDS: String;
    /// Open holds that end by themselves, by account, end and id.
    ENDINGS: (String, i64, String);
    HOLD_CHANGES: i64;
    /// By collection and id.
    DOCUMENTS: (String, String);
    /// By collection, index, key and id.
    INDEX: (String, String, String, String);
    CLAIMS: String;
    COUNTERS: String;
    /// By subject and start of the window: its end, and what was used.
    USAGE: (String, i64);
    EVENTS: i64;
    /// When a job is due, by kind and object.
    DUE: (String, String);
    /// Until when a job is leased, by its time, kind and object.
    DUE_TIMES: (i64, String, String);
    CURSORS: String;
    SETTINGS: String;
    /// The node's values, as they are.
    NODE: (String, String, String);
}

const KNOWN_SCHEMA: i64 = 1;

pub fn decode<T: DeserializeOwned>(row: &[u8]) -> Result<T> {
    serde_json::from_slice(row).map_err(corrupt)
}

pub fn get<K: OwnedKey, T: DeserializeOwned>(
    table: &impl ReadableTable<K, &'static [u8]>,
    key: K,
) -> Result<Option<T>> {
    let row = table.get(&key)?;
    row.map(|row| decode(row.value())).transpose()
}

pub fn put<K: OwnedKey>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: K,
    row: impl Serialize,
) -> Result<()> {
    let row = serde_json::to_vec(&row).map_err(corrupt)?;
    table.insert(&key, row.as_slice())?;
    Ok(())
}

pub fn put_all<K: OwnedKey, T: Serialize>(
    to: &WriteTransaction,
    table: Table<K>,
    rows: impl IntoIterator<Item = (K, T)>,
) -> Result<()> {
    let mut table = to.open_table(table)?;
    rows.into_iter()
        .try_for_each(|(key, row)| put(&mut table, key, row))
}

/// What another table points at.
pub fn there<T>(row: Option<T>) -> Result<T> {
    row.ok_or_else(|| corrupt("a row is missing"))
}

/// A command that was done. Its answer is kept as text: a `null` that was answered is not an
/// answer that was forgotten.
#[derive(Serialize, Deserialize)]
pub struct DoneCommand {
    pub fingerprint: String,
    pub at_ms: i64,
    pub answer: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct KeptDocument {
    pub version: i64,
    pub body: Json,
    /// Index and key.
    pub keys: Vec<(String, String)>,
}

/// A transaction whose commit is on the disk when it answers. In two phases: what stands in the
/// file is in part what strangers sent, and redb's one phase relies on checksums alone.
pub fn begin(database: &Database) -> Result<WriteTransaction> {
    let mut write = database.begin_write()?;
    write.set_durability(redb::Durability::Immediate)?;
    write.set_two_phase_commit(true);
    Ok(write)
}

/// Makes the tables of a new file, and knows those of an old one.
pub fn prepare(database: &Database) -> Result<()> {
    let write = begin(database)?;
    let found = get(&write.open_table(SETTINGS)?, "schema".to_owned())?;
    let (found, known) = (found.unwrap_or(KNOWN_SCHEMA), KNOWN_SCHEMA);
    if found > known {
        return Err(Fault(StoreError::NewerSchema { found, known }));
    }
    make_tables(&write)?;
    put_all(&write, SETTINGS, [("schema".to_owned(), known)])?;
    Ok(write.commit()?)
}

pub fn last_key(table: &impl ReadableTable<i64, &'static [u8]>) -> Result<i64> {
    Ok(table.last()?.map_or(0, |(position, _)| position.value()))
}

pub fn node_key(path: &KeyPath) -> (String, String, String) {
    let KeyPath {
        primary,
        secondary,
        key,
    } = path.clone();
    (primary, secondary, key)
}
