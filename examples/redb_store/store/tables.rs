//! The tables of the file: what is read from them, and what a group of batches writes.
//!
//! Every value is JSON, whatever its row is, but for the node's own bytes. What a batch may do is
//! not decided here: [`Snapshot`] only says how rows are read, and the ledger does the rest.

use std::borrow::Borrow;
use std::ops::Bound;

use flashkit::ids::{BatchId, TransferId};
use flashkit::ledger::{
    Account, Balance, ChainHash, ChainHead, Changes, Commit, CommitPlace, CommitRow, Document,
    DueJob, EventRecord, HoldChangeRow, HoldState, LastPositions, Rows, TransferRow, UsageWindow,
};
use flashkit::store::{DocumentPosition, DocumentQuery, KeyPath, KeyValueWrite, MAX_PAGE};
use flashkit::store::StoreError;
use redb::{Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

type Table<K> = redb::TableDefinition<'static, K, &'static [u8]>;

const COMMITS: Table<i64> = Table::new("commits");
/// The position of a batch's commit.
const BATCHES: Table<&str> = Table::new("batches");
const COMMANDS: Table<&str> = Table::new("commands");
/// By the account's text, which is the order that they are listed in.
const BALANCES: Table<&str> = Table::new("balances");
const TRANSFERS: Table<i64> = Table::new("transfers");
const TRANSFER_IDS: Table<&str> = Table::new("transfer_ids");
const ACCOUNT_TRANSFERS: Table<(&str, i64)> = Table::new("account_transfers");
/// By account and time: the balance after the last transfer of that time. Looking back is one
/// search down the tree.
const PAST: Table<(&str, i64)> = Table::new("past");
const REVERSED: Table<&str> = Table::new("reversed");
const HOLDS: Table<&str> = Table::new("holds");
/// Open holds that end by themselves, by account, end and id.
const ENDINGS: Table<(&str, i64, &str)> = Table::new("endings");
const HOLD_CHANGES: Table<i64> = Table::new("hold_changes");
const DOCUMENTS: Table<(&str, &str)> = Table::new("documents");
/// By collection, index, key and id.
const INDEX: Table<(&str, &str, &str, &str)> = Table::new("index");
const CLAIMS: Table<&str> = Table::new("claims");
const COUNTERS: Table<&str> = Table::new("counters");
const USAGE: Table<(&str, i64)> = Table::new("usage");
const EVENTS: Table<i64> = Table::new("events");
/// When a job is due, by kind and object.
const DUE: Table<(&str, &str)> = Table::new("due");
/// Until when a job is leased, by its time, kind and object.
const DUE_TIMES: Table<(i64, &str, &str)> = Table::new("due_times");
const CURSORS: Table<&str> = Table::new("cursors");
const SETTINGS: Table<&str> = Table::new("settings");
const NODE: Table<(&str, &str, &str)> = Table::new("node");

const SCHEMA: &str = "schema";
const KNOWN_SCHEMA: i64 = 1;
/// Up to which commit answers were forgotten.
const FORGOTTEN: &str = "forgotten";
const EPOCH: &str = "node_epoch";
/// One process has the file, so its commits are one chain.
const WRITER: &str = "redb";

/// What a database's failure means to whoever called the store.
#[derive(Debug)]
pub struct Fault(pub StoreError);

pub type Result<T> = std::result::Result<T, Fault>;

impl<E> From<E> for Fault
where
    redb::Error: From<E>,
{
    fn from(error: E) -> Self {
        let error = redb::Error::from(error);
        let reason = error.to_string();
        Self(match error {
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse { location: reason },
            redb::Error::DatabaseClosed => StoreError::Closed,
            redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => {
                StoreError::Corrupt { reason }
            }
            redb::Error::Io(error) => match error.kind() {
                std::io::ErrorKind::StorageFull => StoreError::Full,
                std::io::ErrorKind::InvalidData => StoreError::Corrupt { reason },
                std::io::ErrorKind::PermissionDenied => StoreError::ReadOnly { reason },
                _ => StoreError::Io { reason },
            },
            _ => StoreError::Io { reason },
        })
    }
}

fn corrupt(error: impl std::fmt::Display) -> Fault {
    let reason = error.to_string();
    Fault(StoreError::Corrupt { reason })
}

fn decode<T: DeserializeOwned>(row: &[u8]) -> Result<T> {
    serde_json::from_slice(row).map_err(corrupt)
}

fn page_of(limit: usize) -> usize {
    limit.clamp(1, MAX_PAGE)
}

/// A command that was done. The answer is kept as text: a `null` that was answered is not one that
/// was forgotten.
#[derive(Serialize, Deserialize)]
struct DoneCommand {
    fingerprint: String,
    at_ms: i64,
    answer: Option<String>,
}

impl DoneCommand {
    fn commit(&self) -> Result<Commit> {
        let answer = self.answer.as_deref().map(serde_json::from_str);
        Ok(Commit {
            at_ms: self.at_ms,
            answer: answer.transpose().map_err(corrupt)?,
            replayed: false,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct KeptDocument {
    version: i64,
    body: serde_json::Value,
    /// Index and key.
    keys: Vec<(String, String)>,
}

impl KeptDocument {
    fn document(self, id: &str) -> Document {
        Document {
            id: id.to_owned(),
            version: self.version,
            body: self.body,
        }
    }
}

/// Makes the tables of a new file, and knows those of an old one.
pub fn prepare(database: &Database) -> Result<()> {
    let write = begin(database)?;
    let found = {
        let mut settings = write.open_table(SETTINGS)?;
        let found: Option<i64> = get(&settings, SCHEMA)?;
        put(&mut settings, SCHEMA, &found.unwrap_or(KNOWN_SCHEMA))?;
        found.unwrap_or(KNOWN_SCHEMA)
    };
    if found > KNOWN_SCHEMA {
        let known = KNOWN_SCHEMA;
        return Err(Fault(StoreError::NewerSchema { found, known }));
    }
    for table in [COMMITS, TRANSFERS, HOLD_CHANGES, EVENTS] {
        write.open_table(table)?;
    }
    for table in [BATCHES, COMMANDS, BALANCES, TRANSFER_IDS, REVERSED] {
        write.open_table(table)?;
    }
    for table in [HOLDS, CLAIMS, COUNTERS, CURSORS] {
        write.open_table(table)?;
    }
    for table in [ACCOUNT_TRANSFERS, PAST, USAGE] {
        write.open_table(table)?;
    }
    for table in [DOCUMENTS, DUE] {
        write.open_table(table)?;
    }
    write.open_table(ENDINGS)?;
    write.open_table(INDEX)?;
    write.open_table(DUE_TIMES)?;
    write.open_table(NODE)?;
    Ok(write.commit()?)
}

/// A transaction whose commit is on the disk when it answers. In two phases, since what stands in
/// the file is in part what strangers sent, and redb's one phase relies on checksums alone.
pub fn begin(database: &Database) -> Result<WriteTransaction> {
    let mut write = database.begin_write()?;
    write.set_durability(redb::Durability::Immediate)?;
    write.set_two_phase_commit(true);
    Ok(write)
}

fn get<'k, K: Key + 'static, T: DeserializeOwned>(
    table: &impl ReadableTable<K, &'static [u8]>,
    key: impl Borrow<K::SelfType<'k>>,
) -> Result<Option<T>> {
    let row = table.get(key)?;
    row.map(|row| decode(row.value())).transpose()
}

fn put<'k, K: Key + 'static>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: impl Borrow<K::SelfType<'k>>,
    row: &impl Serialize,
) -> Result<()> {
    let row = serde_json::to_vec(row).map_err(corrupt)?;
    table.insert(key, row.as_slice())?;
    Ok(())
}

fn last_key(table: &impl ReadableTable<i64, &'static [u8]>) -> Result<i64> {
    Ok(table.last()?.map_or(0, |(position, _)| position.value()))
}

/// The books as of the last commit before it was taken.
pub struct Snapshot(ReadTransaction);

impl Snapshot {
    pub fn new(database: &Database) -> Result<Self> {
        Ok(Self(database.begin_read()?))
    }

    fn get<'k, K: Key + 'static, T: DeserializeOwned>(
        &self,
        table: Table<K>,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<T>> {
        get(&self.0.open_table(table)?, key)
    }

    /// The rows after a position.
    fn page<T: DeserializeOwned>(
        &self,
        table: Table<i64>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<T>> {
        let table = self.0.open_table(table)?;
        let rows = table.range((Bound::Excluded(after), Bound::Unbounded))?;
        rows.take(page_of(limit))
            .map(|row| decode(row?.1.value()))
            .collect()
    }

    pub fn last_commit(&self) -> Result<Option<CommitRow>> {
        let commits = self.0.open_table(COMMITS)?;
        let last = commits.last()?;
        last.map(|(_, row)| decode(row.value())).transpose()
    }

    pub fn last_positions(&self) -> Result<LastPositions> {
        Ok(LastPositions {
            transfer: last_key(&self.0.open_table(TRANSFERS)?)?,
            hold_change: last_key(&self.0.open_table(HOLD_CHANGES)?)?,
        })
    }

    pub fn document(&self, collection: &str, id: &str) -> Result<Option<Document>> {
        let kept: Option<KeptDocument> = self.get(DOCUMENTS, (collection, id))?;
        Ok(kept.map(|kept| kept.document(id)))
    }

    pub fn documents(&self, query: &DocumentQuery) -> Result<Vec<(DocumentPosition, Document)>> {
        let (collection, index) = (query.collection, query.index);
        let from = (query.from.as_str(), "");
        let after = query.after.as_ref();
        let after = after.map(|after| (after.key.as_str(), after.id.as_str()));
        let start = match after {
            Some(after) if after >= from => {
                Bound::Excluded((collection, index, after.0, after.1))
            }
            _ => Bound::Included((collection, index, from.0, from.1)),
        };
        let rows = self.0.open_table(INDEX)?;
        let mut found = Vec::new();
        for row in rows.range((start, Bound::Unbounded))? {
            let (row, _) = row?;
            let (of, by, key, id) = row.value();
            let is_over = query.to.as_ref().is_some_and(|to| key >= to.as_str());
            if (of, by) != (collection, index) || is_over || found.len() == page_of(query.limit) {
                break;
            }
            if let Some(document) = self.document(collection, id)? {
                let (key, id) = (key.to_owned(), id.to_owned());
                found.push((DocumentPosition { key, id }, document));
            }
        }
        Ok(found)
    }

    pub fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>> {
        let after = after.map(|account| account.to_string());
        let start = after
            .as_deref()
            .map_or(Bound::Unbounded, |after| Bound::Excluded(after));
        let balances = self.0.open_table(BALANCES)?;
        let rows = balances.range::<&str>((start, Bound::Unbounded))?;
        rows.take(page_of(limit))
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
        let account = account.to_string();
        let (account, end) = (account.as_str(), before.unwrap_or(i64::MAX));
        let of_account = self.0.open_table(ACCOUNT_TRANSFERS)?;
        let transfers = self.0.open_table(TRANSFERS)?;
        let mut found = Vec::new();
        let rows = of_account.range((account, 0)..(account, end.max(0)))?;
        for row in rows.rev().take(page_of(limit)) {
            found.extend(get(&transfers, row?.0.value().1)?);
        }
        Ok(found)
    }

    pub fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64> {
        let account = account.to_string();
        let past = self.0.open_table(PAST)?;
        let mut rows = past.range((account.as_str(), i64::MIN)..=(account.as_str(), at_ms))?;
        match rows.next_back() {
            Some(row) => decode(row?.1.value()),
            None => Ok(0),
        }
    }

    pub fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>> {
        self.page(COMMITS, after, limit)
    }

    pub fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>> {
        self.page(TRANSFERS, after, limit)
    }

    pub fn hold_changes(&self, after: i64, limit: usize) -> Result<Vec<HoldChangeRow>> {
        self.page(HOLD_CHANGES, after, limit)
    }

    pub fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>> {
        self.page(EVENTS, after, limit)
    }

    pub fn chain_heads(&self) -> Result<Vec<ChainHead>> {
        let last = self.last_commit()?;
        Ok(last.into_iter().map(head_of).collect())
    }

    pub fn cursor(&self, name: &str) -> Result<i64> {
        Ok(self.get(CURSORS, name)?.unwrap_or(0))
    }

    pub fn node_value(&self, path: &KeyPath) -> Result<Option<Vec<u8>>> {
        let value = self.0.open_table(NODE)?.get(node_key(path))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    pub fn node_keys(&self, primary: &str, secondary: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for row in self.0.open_table(NODE)?.range((primary, secondary, "")..)? {
            let (row, _) = row?;
            let (outer, inner, key) = row.value();
            if (outer, inner) != (primary, secondary) {
                break;
            }
            keys.push(key.to_owned());
        }
        Ok(keys)
    }
}

fn head_of(last: CommitRow) -> ChainHead {
    ChainHead {
        writer: last.writer,
        sequence: last.sequence,
        hash: last.hash,
    }
}

fn node_key(path: &KeyPath) -> (&str, &str, &str) {
    (&path.primary, &path.secondary, &path.key)
}

impl Rows for Snapshot {
    type Error = Fault;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>> {
        let Some(position) = self.get::<_, i64>(BATCHES, batch.to_string().as_str())? else {
            return Ok(None);
        };
        let Some(row) = self.get::<_, CommitRow>(COMMITS, position)? else {
            return Err(corrupt("a batch without its commit"));
        };
        let command = match &row.scope {
            Some(scope) => self.command(scope)?,
            None => None,
        };
        let without_answer = Commit {
            at_ms: row.at_ms,
            answer: None,
            replayed: false,
        };
        Ok(Some(command.map_or(without_answer, |(_, commit)| commit)))
    }

    fn commit_place(&mut self) -> Result<CommitPlace> {
        let last = self.last_commit()?;
        Ok(CommitPlace {
            position: last.as_ref().map_or(1, |row| row.position + 1),
            head: last.map_or_else(
                || ChainHead {
                    writer: WRITER.to_owned(),
                    sequence: 0,
                    hash: ChainHash::GENESIS,
                },
                head_of,
            ),
        })
    }

    fn command(&mut self, scope: &str) -> Result<Option<(String, Commit)>> {
        let Some(done) = self.get::<_, DoneCommand>(COMMANDS, scope)? else {
            return Ok(None);
        };
        let commit = done.commit()?;
        Ok(Some((done.fingerprint, commit)))
    }

    fn balance(&mut self, account: &Account) -> Result<Balance> {
        let balance = self.get(BALANCES, account.to_string().as_str())?;
        Ok(balance.unwrap_or_default())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool> {
        Ok(self.transfer(id)?.is_some() || self.hold(id)?.is_some())
    }

    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>> {
        match self.get::<_, i64>(TRANSFER_IDS, id.to_string().as_str())? {
            Some(position) => self.get(TRANSFERS, position),
            None => Ok(None),
        }
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>> {
        self.get(HOLDS, id.to_string().as_str())
    }

    fn due_holds(&mut self, account: &Account, at_ms: i64, limit: usize) -> Result<Vec<HoldState>> {
        let account = account.to_string();
        let (endings, holds) = (self.0.open_table(ENDINGS)?, self.0.open_table(HOLDS)?);
        let mut due = Vec::new();
        for row in endings.range((account.as_str(), i64::MIN, "")..)? {
            let (row, _) = row?;
            let (of, end_ms, id) = row.value();
            if of != account || end_ms > at_ms || due.len() == limit {
                break;
            }
            due.extend(get::<&str, HoldState>(&holds, id)?);
        }
        Ok(due)
    }

    fn reversed(&mut self, id: TransferId) -> Result<i64> {
        let reversed = self.get(REVERSED, id.to_string().as_str())?;
        Ok(reversed.unwrap_or(0))
    }

    fn document_version(&mut self, collection: &'static str, id: &str) -> Result<i64> {
        let document = self.document(collection, id)?;
        Ok(document.map_or(0, |document| document.version))
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>> {
        self.get(CLAIMS, name)
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>> {
        self.get(COUNTERS, name)
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64> {
        let usage: Option<(i64, i64)> =
            self.get(USAGE, (window.subject.as_str(), window.start_ms))?;
        Ok(usage.map_or(0, |(_, used)| used))
    }
}

/// Writes what a group of batches changed.
pub fn write(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    write_commits(to, changes)?;
    write_money(to, changes)?;
    write_holds(to, changes)?;
    write_documents(to, changes)?;
    write_names(to, changes)?;
    write_events(to, changes)?;
    write_due(to, changes)
}

fn write_commits(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut commits, mut batches) = (to.open_table(COMMITS)?, to.open_table(BATCHES)?);
    for row in &changes.commits {
        put(&mut commits, row.position, row)?;
        put(&mut batches, row.batch.to_string().as_str(), &row.position)?;
    }
    let mut commands = to.open_table(COMMANDS)?;
    for (scope, (fingerprint, commit)) in &changes.commands {
        let done = DoneCommand {
            fingerprint: fingerprint.clone(),
            at_ms: commit.at_ms,
            answer: commit.answer.as_ref().map(ToString::to_string),
        };
        put(&mut commands, scope.as_str(), &done)?;
    }
    Ok(())
}

fn write_money(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let mut balances = to.open_table(BALANCES)?;
    for (account, balance) in &changes.balances {
        put(&mut balances, account.to_string().as_str(), balance)?;
    }
    let (mut transfers, mut ids) = (to.open_table(TRANSFERS)?, to.open_table(TRANSFER_IDS)?);
    let (mut of_account, mut past) = (to.open_table(ACCOUNT_TRANSFERS)?, to.open_table(PAST)?);
    for row in &changes.transfers {
        put(&mut transfers, row.position, row)?;
        put(&mut ids, row.id.to_string().as_str(), &row.position)?;
        for account in [row.debit, row.credit] {
            let (name, after) = (account.to_string(), row.balance_after(&account));
            put(&mut of_account, (name.as_str(), row.position), &())?;
            put(&mut past, (name.as_str(), row.at_ms), &after)?;
        }
    }
    let mut reversed = to.open_table(REVERSED)?;
    for (id, amount) in &changes.reversed {
        put(&mut reversed, id.to_string().as_str(), amount)?;
    }
    Ok(())
}

fn write_holds(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut holds, mut endings) = (to.open_table(HOLDS)?, to.open_table(ENDINGS)?);
    for (id, state) in &changes.holds {
        let id = id.to_string();
        put(&mut holds, id.as_str(), state)?;
        let Some(end_ms) = state.hold.expires_at_ms else {
            continue;
        };
        for account in [state.hold.transfer.debit, state.hold.transfer.credit] {
            let account = account.to_string();
            let ending = (account.as_str(), end_ms, id.as_str());
            if state.remaining > 0 {
                put(&mut endings, ending, &())?;
            } else {
                endings.remove(ending)?;
            }
        }
    }
    let mut hold_changes = to.open_table(HOLD_CHANGES)?;
    for row in &changes.hold_changes {
        put(&mut hold_changes, row.position, row)?;
    }
    Ok(())
}

fn write_documents(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut documents, mut index) = (to.open_table(DOCUMENTS)?, to.open_table(INDEX)?);
    for ((collection, id), (version, document)) in &changes.documents {
        let at = (*collection, id.as_str());
        if let Some(before) = get::<_, KeptDocument>(&documents, at)? {
            for (name, key) in &before.keys {
                index.remove((*collection, name.as_str(), key.as_str(), id.as_str()))?;
            }
        }
        for (name, key) in &document.index_keys {
            put(&mut index, (*collection, *name, key.as_str(), id.as_str()), &())?;
        }
        let keys = document.index_keys.iter();
        let kept = KeptDocument {
            version: *version,
            body: document.body.clone(),
            keys: keys
                .map(|(name, key)| ((*name).to_owned(), key.clone()))
                .collect(),
        };
        put(&mut documents, at, &kept)?;
    }
    Ok(())
}

fn write_names(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let mut claims = to.open_table(CLAIMS)?;
    for (name, by) in &changes.claims {
        put(&mut claims, name.as_str(), by)?;
    }
    let mut counters = to.open_table(COUNTERS)?;
    for (name, value) in &changes.counters {
        put(&mut counters, name.as_str(), value)?;
    }
    let mut usage = to.open_table(USAGE)?;
    for ((subject, start_ms), end_and_used) in &changes.usage {
        put(&mut usage, (subject.as_str(), *start_ms), end_and_used)?;
    }
    Ok(())
}

fn write_events(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let mut events = to.open_table(EVENTS)?;
    let last = last_key(&events)?;
    for (position, (event, at_ms)) in (last + 1..).zip(&changes.events) {
        let record = EventRecord {
            position,
            at_ms: *at_ms,
            kind: event.kind.to_owned(),
            object: event.object.clone(),
            body: event.body.clone(),
        };
        put(&mut events, position, &record)?;
    }
    Ok(())
}

fn write_due(to: &WriteTransaction, changes: &Changes) -> Result<()> {
    let (mut due, mut times) = (to.open_table(DUE)?, to.open_table(DUE_TIMES)?);
    for ((kind, object), due_at_ms) in &changes.due {
        let (kind, object) = (kind.as_str(), object.as_str());
        if let Some(before_ms) = get::<_, i64>(&due, (kind, object))? {
            times.remove((before_ms, kind, object))?;
            due.remove((kind, object))?;
        }
        if let Some(due_at_ms) = due_at_ms {
            put(&mut due, (kind, object), due_at_ms)?;
            // Nobody has a lease of a job that was set again.
            put(&mut times, (*due_at_ms, kind, object), &i64::MIN)?;
        }
    }
    Ok(())
}

pub fn forget_answers(to: &WriteTransaction, before_ms: i64, limit: usize) -> Result<usize> {
    let commits = to.open_table(COMMITS)?;
    let (mut commands, mut settings) = (to.open_table(COMMANDS)?, to.open_table(SETTINGS)?);
    let reached: i64 = get(&settings, FORGOTTEN)?.unwrap_or(0);
    let (mut last, mut forgotten) = (reached, 0);
    for row in commits.range(reached + 1..)? {
        let row: CommitRow = decode(row?.1.value())?;
        // Commit times never decrease: what comes after it is not older.
        if forgotten == limit || row.at_ms >= before_ms {
            break;
        }
        last = row.position;
        let Some(scope) = row.scope else { continue };
        if let Some(done) = get::<&str, DoneCommand>(&commands, scope.as_str())? {
            let answer = None;
            put(&mut commands, scope.as_str(), &DoneCommand { answer, ..done })?;
            forgotten += 1;
        }
    }
    put(&mut settings, FORGOTTEN, &last)?;
    Ok(forgotten)
}

pub fn acknowledge(to: &WriteTransaction, name: &str, position: i64) -> Result<()> {
    let mut cursors = to.open_table(CURSORS)?;
    let before = get(&cursors, name)?.unwrap_or(0);
    put(&mut cursors, name, &position.max(before))
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
    for row in times.range(..(now_ms.saturating_add(1), "", ""))? {
        let (key, until) = row?;
        let (due_at_ms, kind, object) = key.value();
        let until_ms: i64 = decode(until.value())?;
        let is_free = until_ms <= now_ms || until_ms > lease_until_ms;
        if is_free && !except.iter().any(|other| other == kind) {
            let (kind, object) = (kind.to_owned(), object.to_owned());
            taken.push(DueJob {
                kind,
                object,
                due_at_ms,
            });
        }
        if taken.len() == page_of(limit) {
            break;
        }
    }
    for job in &taken {
        let key = (job.due_at_ms, job.kind.as_str(), job.object.as_str());
        put(&mut times, key, &lease_until_ms)?;
    }
    Ok(taken)
}

pub fn next_epoch(to: &WriteTransaction) -> Result<u64> {
    let mut settings = to.open_table(SETTINGS)?;
    let epoch = get::<&str, u64>(&settings, EPOCH)?.unwrap_or(0) + 1;
    put(&mut settings, EPOCH, &epoch)?;
    Ok(epoch)
}

/// Whether the epoch is the current one. None has begun before the first.
pub fn check_epoch(
    to: &WriteTransaction,
    given: u64,
) -> Result<std::result::Result<(), StoreError>> {
    let current = get(&to.open_table(SETTINGS)?, EPOCH)?.unwrap_or(0);
    let is_current = given == current && given != 0;
    Ok(is_current
        .then_some(())
        .ok_or(StoreError::Fenced { given, current }))
}

pub fn write_node(to: &WriteTransaction, change: &KeyValueWrite) -> Result<()> {
    let mut node = to.open_table(NODE)?;
    match change {
        KeyValueWrite::Put { path, value } => node.insert(node_key(path), value.as_slice())?,
        KeyValueWrite::Remove { path } => node.remove(node_key(path))?,
    };
    Ok(())
}
