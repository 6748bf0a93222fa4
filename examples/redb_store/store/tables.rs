//! The tables of the file: how rows are read, and how what a group of batches changed is written.
//!
//! Every value is JSON, but for the node's own bytes. What a batch may do is not decided here:
//! [`Snapshot`] only says how rows are read, and the ledger does the rest.

use std::ops::Bound;

use flashkit::ids::{BatchId, TransferId};
use flashkit::ledger::{
    Account, Balance, ChainHash, ChainHead, Changes, Commit, CommitPlace, CommitRow, Document,
    DueJob, EventRecord, HoldState, LastPositions, Rows, TransferRow, UsageWindow,
};
use flashkit::store::{
    DocumentPosition, DocumentQuery, KeyPath, KeyValueWrite, MAX_PAGE, StoreError,
};
use redb::{Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
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
/// One process has the file, so its commits are one chain.
const WRITER: &str = "redb";

fn decode<T: DeserializeOwned>(row: &[u8]) -> Result<T> {
    serde_json::from_slice(row).map_err(corrupt)
}

fn get<K: OwnedKey, T: DeserializeOwned>(
    table: &impl ReadableTable<K, &'static [u8]>,
    key: K,
) -> Result<Option<T>> {
    let row = table.get(&key)?;
    row.map(|row| decode(row.value())).transpose()
}

fn put<K: OwnedKey>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: K,
    row: impl Serialize,
) -> Result<()> {
    let row = serde_json::to_vec(&row).map_err(corrupt)?;
    table.insert(&key, row.as_slice())?;
    Ok(())
}

fn put_all<K: OwnedKey, T: Serialize>(
    to: &WriteTransaction,
    table: Table<K>,
    rows: impl IntoIterator<Item = (K, T)>,
) -> Result<()> {
    let mut table = to.open_table(table)?;
    rows.into_iter()
        .try_for_each(|(key, row)| put(&mut table, key, row))
}

/// What another table points at.
fn there<T>(row: Option<T>) -> Result<T> {
    row.ok_or_else(|| corrupt("a row is missing"))
}

/// A command that was done. Its answer is kept as text: a `null` that was answered is not an
/// answer that was forgotten.
#[derive(Serialize, Deserialize)]
struct DoneCommand {
    fingerprint: String,
    at_ms: i64,
    answer: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptDocument {
    version: i64,
    body: serde_json::Value,
    /// Index and key.
    keys: Vec<(String, String)>,
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

/// The books as of the last commit before it was taken.
pub struct Snapshot(ReadTransaction);

impl Snapshot {
    pub fn new(database: &Database) -> Result<Self> {
        Ok(Self(database.begin_read()?))
    }

    pub fn get<K: OwnedKey, T: DeserializeOwned>(
        &self,
        table: Table<K>,
        key: K,
    ) -> Result<Option<T>> {
        get(&self.0.open_table(table)?, key)
    }

    /// The rows after a position.
    pub fn page<T: DeserializeOwned>(
        &self,
        table: Table<i64>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<T>> {
        let table = self.0.open_table(table)?;
        let rows = table.range::<i64>((Bound::Excluded(after), Bound::Unbounded))?;
        rows.take(limit).map(|row| decode(row?.1.value())).collect()
    }

    pub fn last<T: DeserializeOwned>(&self, table: Table<i64>) -> Result<Option<T>> {
        let table = self.0.open_table(table)?;
        let last = table.last()?;
        last.map(|(_, row)| decode(row.value())).transpose()
    }

    pub fn last_positions(&self) -> Result<LastPositions> {
        Ok(LastPositions {
            transfer: last_key(&self.0.open_table(TRANSFERS)?)?,
            hold_change: last_key(&self.0.open_table(HOLD_CHANGES)?)?,
        })
    }

    pub fn document(&self, collection: &str, id: &str) -> Result<Option<Document>> {
        let key = (collection.to_owned(), id.to_owned());
        let kept: Option<KeptDocument> = self.get(DOCUMENTS, key)?;
        Ok(kept.map(|kept| Document {
            id: id.to_owned(),
            version: kept.version,
            body: kept.body,
        }))
    }

    pub fn documents(&self, query: &DocumentQuery) -> Result<Vec<(DocumentPosition, Document)>> {
        let at = |key: &str, id: &str| {
            let (collection, index) = (query.collection.to_owned(), query.index.to_owned());
            (collection, index, key.to_owned(), id.to_owned())
        };
        let from = Bound::Included(at(&query.from, ""));
        let start = match &query.after {
            Some(after) if after.key >= query.from => Bound::Excluded(at(&after.key, &after.id)),
            _ => from,
        };
        let rows = self.0.open_table(INDEX)?;
        let mut found = Vec::new();
        for row in rows.range((start, Bound::Unbounded))? {
            let (collection, index, key, id) = row?.0.value();
            let is_over = query.to.as_ref().is_some_and(|to| key >= *to);
            let is_other = collection != query.collection || index != query.index;
            if is_other || is_over || found.len() == query.limit.clamp(1, MAX_PAGE) {
                break;
            }
            let document = there(self.document(&collection, &id)?)?;
            found.push((DocumentPosition { key, id }, document));
        }
        Ok(found)
    }

    pub fn balances(&self, after: Option<Account>, most: usize) -> Result<Vec<(Account, Balance)>> {
        let after = after.map(|account| Bound::Excluded(account.to_string()));
        let balances = self.0.open_table(BALANCES)?;
        let rows = balances.range((after.unwrap_or(Bound::Unbounded), Bound::Unbounded))?;
        rows.take(most)
            .map(|row| {
                let (account, balance) = row?;
                let account = account.value().parse().map_err(corrupt)?;
                Ok((account, decode(balance.value())?))
            })
            .collect()
    }

    pub fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>> {
        let of_account = self.0.open_table(ACCOUNT_TRANSFERS)?;
        let transfers = self.0.open_table(TRANSFERS)?;
        let (from, to) = (account.to_string(), account.to_string());
        let rows = of_account.range((from, 0)..(to, before.unwrap_or(i64::MAX).max(0)))?;
        let mut found = Vec::new();
        for row in rows.rev().take(limit) {
            found.push(there(get(&transfers, row?.0.value().1)?)?);
        }
        Ok(found)
    }

    pub fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64> {
        let past = self.0.open_table(PAST)?;
        let (from, to) = (account.to_string(), account.to_string());
        let mut rows = past.range((from, i64::MIN)..=(to, at_ms))?;
        let last = rows.next_back().transpose()?;
        last.map_or(Ok(0), |(_, row)| decode(row.value()))
    }

    pub fn chain_heads(&self) -> Result<Vec<ChainHead>> {
        Ok(self.last(COMMITS)?.into_iter().map(head_of).collect())
    }

    pub fn node_value(&self, path: &KeyPath) -> Result<Option<Vec<u8>>> {
        let value = self.0.open_table(NODE)?.get(node_key(path))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    pub fn node_keys(&self, primary: &str, secondary: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let first = (primary.to_owned(), secondary.to_owned(), String::new());
        for row in self.0.open_table(NODE)?.range(first..)? {
            let (outer, inner, key) = row?.0.value();
            if outer != primary || inner != secondary {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

fn last_key(table: &impl ReadableTable<i64, &'static [u8]>) -> Result<i64> {
    Ok(table.last()?.map_or(0, |(position, _)| position.value()))
}

fn head_of(last: CommitRow) -> ChainHead {
    ChainHead {
        writer: last.writer,
        sequence: last.sequence,
        hash: last.hash,
    }
}

fn node_key(path: &KeyPath) -> (String, String, String) {
    let KeyPath {
        primary,
        secondary,
        key,
    } = path.clone();
    (primary, secondary, key)
}

impl Rows for Snapshot {
    type Error = Fault;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>> {
        let Some(position) = self.get(BATCHES, batch.to_string())? else {
            return Ok(None);
        };
        let row: CommitRow = there(self.get(COMMITS, position)?)?;
        let command = match &row.scope {
            Some(scope) => self.command(scope)?,
            None => None,
        };
        Ok(Some(Commit {
            at_ms: row.at_ms,
            answer: command.and_then(|(_, commit)| commit.answer),
            replayed: false,
        }))
    }

    fn commit_place(&mut self) -> Result<CommitPlace> {
        let last: Option<CommitRow> = self.last(COMMITS)?;
        let begin = || ChainHead {
            writer: WRITER.to_owned(),
            sequence: 0,
            hash: ChainHash::GENESIS,
        };
        Ok(CommitPlace {
            position: last.as_ref().map_or(1, |row| row.position + 1),
            head: last.map_or_else(begin, head_of),
        })
    }

    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>> {
        let Some(done) = self.get::<_, DoneCommand>(COMMANDS, scope.to_owned())? else {
            return Ok(None);
        };
        let answer = done.answer.as_deref().map(serde_json::from_str).transpose();
        let commit = Commit {
            at_ms: done.at_ms,
            answer: answer.map_err(corrupt)?,
            replayed: false,
        };
        Ok(Some((done.fingerprint, commit)))
    }

    fn balance(&mut self, account: &Account) -> Result<Balance> {
        let balance = self.get(BALANCES, account.to_string())?;
        Ok(balance.unwrap_or_default())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool> {
        Ok(self.transfer(id)?.is_some() || self.hold(id)?.is_some())
    }

    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>> {
        match self.get(TRANSFER_IDS, id.to_string())? {
            Some(position) => there(self.get(TRANSFERS, position)?).map(Some),
            None => Ok(None),
        }
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>> {
        self.get(HOLDS, id.to_string())
    }

    fn due_holds(&mut self, account: &Account, at_ms: i64, limit: usize) -> Result<Vec<HoldState>> {
        let (endings, holds) = (self.0.open_table(ENDINGS)?, self.0.open_table(HOLDS)?);
        let mut due = Vec::new();
        let account = account.to_string();
        for row in endings.range((account.clone(), i64::MIN, String::new())..)? {
            let (of, end_ms, id) = row?.0.value();
            if of != account || end_ms > at_ms || due.len() == limit {
                break;
            }
            due.push(there(get(&holds, id)?)?);
        }
        Ok(due)
    }

    fn reversed(&mut self, id: TransferId) -> Result<i64> {
        Ok(self.get(REVERSED, id.to_string())?.unwrap_or(0))
    }

    fn document_version(&mut self, collection: &'static str, id: &str) -> Result<i64> {
        let document = self.document(collection, id)?;
        Ok(document.map_or(0, |document| document.version))
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>> {
        self.get(CLAIMS, name.to_owned())
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>> {
        self.get(COUNTERS, name.to_owned())
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64> {
        let end_and_used = self.get(USAGE, (window.subject.clone(), window.start_ms))?;
        Ok(end_and_used.map_or(0, |(_, used): (i64, i64)| used))
    }
}

/// Writes what a group of batches changed.
pub fn write(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    write_commits(to, changes)?;
    write_money(to, changes)?;
    write_holds(to, changes)?;
    write_documents(to, changes)?;
    put_all(to, CLAIMS, named(&changes.claims))?;
    put_all(to, COUNTERS, named(&changes.counters))?;
    let usage = changes.usage.iter();
    put_all(to, USAGE, usage.map(|(key, used)| (key.clone(), used)))?;
    write_events(to, changes)?;
    write_due(to, changes)
}

type Column<T> = std::collections::BTreeMap<String, T>;

fn named<T>(rows: &Column<T>) -> impl Iterator<Item = (String, &T)> {
    rows.iter().map(|(name, row)| (name.clone(), row))
}

fn write_commits(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let rows = changes.commits.iter();
    put_all(to, COMMITS, rows.clone().map(|row| (row.position, row)))?;
    let batches = rows.map(|row| (row.batch.to_string(), row.position));
    put_all(to, BATCHES, batches)?;
    let commands = named(&changes.commands).map(|(scope, (fingerprint, commit))| {
        let done = DoneCommand {
            fingerprint: fingerprint.clone(),
            at_ms: commit.at_ms,
            answer: commit.answer.as_ref().map(ToString::to_string),
        };
        (scope, done)
    });
    put_all(to, COMMANDS, commands)
}

fn write_money(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let balances = changes.balances.iter();
    put_all(
        to,
        BALANCES,
        balances.map(|(of, row)| (of.to_string(), row)),
    )?;
    let reversed = changes.reversed.iter();
    put_all(
        to,
        REVERSED,
        reversed.map(|(id, row)| (id.to_string(), row)),
    )?;
    let rows = changes.transfers.iter();
    put_all(to, TRANSFERS, rows.clone().map(|row| (row.position, row)))?;
    let ids = rows.clone().map(|row| (row.id.to_string(), row.position));
    put_all(to, TRANSFER_IDS, ids)?;
    let sides = rows.flat_map(|row| [(row, row.debit), (row, row.credit)]);
    let of_account = sides.clone();
    let of_account = of_account.map(|(row, of)| ((of.to_string(), row.position), ()));
    put_all(to, ACCOUNT_TRANSFERS, of_account)?;
    let past = sides.map(|(row, of)| ((of.to_string(), row.at_ms), row.balance_after(&of)));
    put_all(to, PAST, past)
}

fn write_holds(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let holds = changes.holds.iter();
    put_all(to, HOLDS, holds.map(|(id, row)| (id.to_string(), row)))?;
    let rows = changes.hold_changes.iter();
    put_all(to, HOLD_CHANGES, rows.map(|row| (row.position, row)))?;
    let mut endings = to.open_table(ENDINGS)?;
    for HoldState { hold, remaining } in changes.holds.values() {
        let Some(end_ms) = hold.expires_at_ms else {
            continue;
        };
        for account in [hold.transfer.debit, hold.transfer.credit] {
            let ending = (account.to_string(), end_ms, hold.transfer.id.to_string());
            match remaining {
                0 => drop(endings.remove(ending)?),
                _ => put(&mut endings, ending, ())?,
            }
        }
    }
    Ok(())
}

fn write_documents(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut documents, mut index) = (to.open_table(DOCUMENTS)?, to.open_table(INDEX)?);
    for ((collection, id), (version, document)) in &changes.documents {
        let at = ((*collection).to_owned(), id.clone());
        let row = |(name, key)| ((*collection).to_owned(), name, key, id.clone());
        let before: Option<KeptDocument> = get(&documents, at.clone())?;
        for key in before.into_iter().flat_map(|before| before.keys) {
            index.remove(row(key))?;
        }
        let keys = document.index_keys.iter();
        let keys: Vec<_> = keys
            .map(|(name, key)| ((*name).to_owned(), key.clone()))
            .collect();
        for key in &keys {
            put(&mut index, row(key.clone()), ())?;
        }
        let (version, body) = (*version, document.body.clone());
        put(
            &mut documents,
            at,
            KeptDocument {
                version,
                body,
                keys,
            },
        )?;
    }
    Ok(())
}

fn write_events(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let last = last_key(&to.open_table(EVENTS)?)?;
    let rows = (last + 1..).zip(&changes.events);
    let rows = rows.map(|(position, (event, at_ms))| {
        let record = EventRecord {
            position,
            at_ms: *at_ms,
            kind: event.kind.to_owned(),
            object: event.object.clone(),
            body: event.body.clone(),
        };
        (position, record)
    });
    put_all(to, EVENTS, rows)
}

fn write_due(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut due, mut times) = (to.open_table(DUE)?, to.open_table(DUE_TIMES)?);
    for (job, due_at_ms) in &changes.due {
        let at = |at_ms| (at_ms, job.0.clone(), job.1.clone());
        if let Some(before_ms) = get(&due, job.clone())? {
            times.remove(at(before_ms))?;
            due.remove(job)?;
        }
        if let Some(due_at_ms) = *due_at_ms {
            put(&mut due, job.clone(), due_at_ms)?;
            // Nobody has a lease of a job that was set again.
            put(&mut times, at(due_at_ms), i64::MIN)?;
        }
    }
    Ok(())
}

pub fn forget_answers(to: &WriteTransaction, before_ms: i64, limit: usize) -> Result<usize> {
    let commits = to.open_table(COMMITS)?;
    let (mut commands, mut settings) = (to.open_table(COMMANDS)?, to.open_table(SETTINGS)?);
    let mut reached: i64 = get(&settings, "forgotten_to".to_owned())?.unwrap_or(0);
    let mut forgotten = 0;
    for row in commits.range(reached + 1..)? {
        let row: CommitRow = decode(row?.1.value())?;
        // Commit times never decrease: nothing older comes after it.
        if forgotten == limit || row.at_ms >= before_ms {
            break;
        }
        reached = row.position;
        let Some(scope) = row.scope else { continue };
        if let Some(mut done) = get::<_, DoneCommand>(&commands, scope.clone())? {
            done.answer = None;
            put(&mut commands, scope, done)?;
            forgotten += 1;
        }
    }
    put(&mut settings, "forgotten_to".to_owned(), reached)?;
    Ok(forgotten)
}

pub fn acknowledge(to: &WriteTransaction, name: String, position: i64) -> Result<()> {
    let mut cursors = to.open_table(CURSORS)?;
    let before = get(&cursors, name.clone())?.unwrap_or(0);
    put(&mut cursors, name, position.max(before))
}

pub fn lease_due(
    to: &WriteTransaction,
    now_ms: i64,
    lease_until_ms: i64,
    except: &[String],
    limit: usize,
) -> Result<Vec<DueJob>> {
    let mut times = to.open_table(DUE_TIMES)?;
    let mut taken = Vec::new();
    let end = (now_ms.saturating_add(1), String::new(), String::new());
    for row in times.range(..end)? {
        let (job, until) = row?;
        let ((due_at_ms, kind, object), until_ms) = (job.value(), decode::<i64>(until.value())?);
        let is_free = until_ms <= now_ms || until_ms > lease_until_ms;
        if is_free && !except.contains(&kind) && taken.len() < limit {
            taken.push(DueJob {
                kind,
                object,
                due_at_ms,
            });
        }
    }
    for job in &taken {
        let at = (job.due_at_ms, job.kind.clone(), job.object.clone());
        put(&mut times, at, lease_until_ms)?;
    }
    Ok(taken)
}

const EPOCH: &str = "node_epoch";

pub fn next_epoch(to: &WriteTransaction) -> Result<u64> {
    let mut settings = to.open_table(SETTINGS)?;
    let epoch = get(&settings, EPOCH.to_owned())?.unwrap_or(0) + 1;
    put(&mut settings, EPOCH.to_owned(), epoch)?;
    Ok(epoch)
}

/// Refuses any epoch but the current one. None has begun before the first.
pub fn check_epoch(to: &WriteTransaction, given: u64) -> Result<()> {
    let current = get(&to.open_table(SETTINGS)?, EPOCH.to_owned())?.unwrap_or(0);
    if given == current && given != 0 {
        return Ok(());
    }
    Err(Fault(StoreError::Fenced { given, current }))
}

pub fn write_node(to: &WriteTransaction, change: &KeyValueWrite) -> Result<()> {
    let mut node = to.open_table(NODE)?;
    match change {
        KeyValueWrite::Put { path, value } => node.insert(node_key(path), value.as_slice())?,
        KeyValueWrite::Remove { path } => node.remove(node_key(path))?,
    };
    Ok(())
}
