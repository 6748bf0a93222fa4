//! A store in memory as a whole: written as a stream and taken from one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::MemoryStore;
use super::tables::{KeptDocument, Tables};
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, Commit, CommitRow, EventRecord, HoldChangeRow,
    TransferRow,
};
use crate::store::moving::{
    Cell, Sink, Snapshot, Table, arrive, depart, hold_from, is_channel_state, pieces,
};
use crate::store::{
    Arrival, ByteSource, DocumentPosition, KeyPath, KeyValueWrite, MoveError, NodeState,
    StoreAdmin, StoreError, StoreHealth,
};

/// Every table's rows, as a database has them, by their keys.
type AsRows = BTreeMap<&'static str, BTreeMap<Vec<OrderedCell>, Vec<Cell>>>;

/// A value in the order that databases have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum OrderedCell {
    Integer(i64),
    Text(String),
}

/// The store as it was.
struct Copied {
    rows: AsRows,
    heads: Vec<ChainHead>,
}

fn key_of(table: &Table, row: &[Cell]) -> Vec<OrderedCell> {
    let key = row.iter().take(table.key).map(|cell| match cell {
        Cell::Integer(number) => OrderedCell::Integer(*number),
        Cell::Text(text) => OrderedCell::Text(text.clone()),
        Cell::Null | Cell::Bytes(_) => OrderedCell::Text(String::new()),
    });
    key.collect()
}

/// Cells of a row, whatever they are made of.
macro_rules! cells {
    ($($value:expr),* $(,)?) => { vec![$(Cell::from($value)),*] };
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for Cell {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl<T> From<Option<T>> for Cell
where
    Self: From<T>,
{
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::from)
    }
}

impl Copied {
    fn new(tables: &Tables) -> Self {
        let mut copied = Self {
            rows: AsRows::new(),
            heads: (!tables.commits.is_empty())
                .then(|| tables.head())
                .into_iter()
                .collect(),
        };
        copied.journal(tables);
        copied.documents(tables);
        copied.names(tables);
        for (path, value) in &tables.node {
            let value = value.as_slice();
            let path = [&path.primary, &path.secondary, &path.key].map(String::as_str);
            copied.add("node_state", cells![path[0], path[1], path[2], value]);
        }
        copied
    }

    fn add(&mut self, name: &'static str, row: Vec<Cell>) {
        if let Some((_, table)) = Table::find(name) {
            let rows = self.rows.entry(name).or_default();
            rows.insert(key_of(table, &row), row);
        }
    }

    fn journal(&mut self, tables: &Tables) {
        let mut ids: HashMap<Account, i64> = HashMap::new();
        for (id, (account, balance)) in (1_i64..).zip(&tables.balances) {
            ids.insert(*account, id);
            let shown = i64::try_from(balance.posted(account.kind().side())).ok();
            let (debits, credits) = (balance.debits_posted, balance.credits_posted);
            let row = cells![
                id,
                account.to_string(),
                debits.to_string(),
                credits.to_string(),
                balance.debits_pending,
                balance.credits_pending,
                shown,
            ];
            self.add("accounts", row);
        }
        let id = |account: &Account| ids.get(account).copied();
        for row in &tables.commits {
            let hash = row.hash.as_bytes().as_slice();
            let scope = row.scope.clone();
            let (batch, writer) = (row.batch.to_string(), row.writer.clone());
            let row = cells![
                row.position,
                batch,
                row.at_ms,
                scope,
                writer,
                row.sequence,
                hash
            ];
            self.add("commits", row);
        }
        for row in &tables.transfers {
            let follows = row.follows.map(|id| id.to_string());
            let row = cells![
                row.position,
                row.commit,
                row.id.to_string(),
                follows,
                row.at_ms,
                id(&row.debit),
                id(&row.credit),
                row.amount,
                row.kind.as_str(),
                row.reference.as_str(),
                row.debit_balance_after,
                row.credit_balance_after,
            ];
            self.add("transfers", row);
        }
        for state in tables.holds.values() {
            let transfer = &state.hold.transfer;
            let usage = (!state.hold.usage.is_empty())
                .then(|| serde_json::to_string(&state.hold.usage).unwrap_or_default());
            let row = cells![
                transfer.id.to_string(),
                transfer.debit.to_string(),
                transfer.credit.to_string(),
                transfer.amount,
                state.remaining,
                transfer.kind.as_str(),
                transfer.reference.as_str(),
                transfer.credit_ceiling,
                state.hold.expires_at_ms,
                usage,
            ];
            self.add("holds", row);
        }
        for row in &tables.hold_changes {
            let hold = row.hold.transfer.id.to_string();
            let change = row.change.as_str();
            let row = cells![
                row.position,
                row.commit,
                hold,
                change,
                row.amount,
                row.remaining
            ];
            self.add("hold_changes", row);
        }
    }

    fn documents(&mut self, tables: &Tables) {
        for ((collection, id), document) in &tables.documents {
            let body = document.body.to_string();
            let row = cells![collection.as_str(), id.as_str(), document.version, body];
            self.add("documents", row);
        }
        for (collection, index, position) in tables.index.keys() {
            let (key, id) = (position.key.as_str(), position.id.as_str());
            let row = cells![collection.as_str(), index.as_str(), key, id];
            self.add("document_keys", row);
        }
    }

    fn names(&mut self, tables: &Tables) {
        for (scope, (fingerprint, commit)) in &tables.commands {
            let answer = commit.answer.as_ref().map(ToString::to_string);
            let row = cells![scope.as_str(), fingerprint.as_str(), commit.at_ms, answer];
            self.add("commands", row);
        }
        for (id, amount) in &tables.reversed {
            self.add("reversals", cells![id.to_string(), *amount]);
        }
        for (name, by) in &tables.claims {
            self.add("claims", cells![name.as_str(), by.as_str()]);
        }
        for (name, value) in &tables.counters {
            self.add("counters", cells![name.as_str(), *value]);
        }
        for ((subject, start_ms), (end_ms, used)) in &tables.usage {
            self.add("usage", cells![subject.as_str(), *start_ms, *end_ms, *used]);
        }
        for event in &tables.events {
            let (kind, object) = (event.kind.as_str(), event.object.as_str());
            let row = cells![
                event.position,
                event.at_ms,
                kind,
                object,
                event.body.to_string()
            ];
            self.add("events", row);
        }
        for ((kind, object), (due_at_ms, leased_until_ms)) in &tables.due {
            let row = cells![kind.as_str(), object.as_str(), *due_at_ms, *leased_until_ms];
            self.add("due", row);
        }
        for (name, position) in &tables.cursors {
            self.add("cursors", cells![name.as_str(), *position]);
        }
        let forgotten = i64::try_from(tables.forgotten).unwrap_or(i64::MAX);
        if forgotten > 0 {
            self.add("settings", cells!["answers_forgotten_to", forgotten]);
        }
        if tables.node_epoch > 0 {
            let epoch = tables.node_epoch.cast_signed();
            self.add("settings", cells!["node_epoch", epoch]);
        }
    }
}

#[async_trait]
impl Snapshot for Copied {
    async fn page(
        &self,
        table: &'static Table,
        after: Option<&[Cell]>,
    ) -> Result<Vec<Vec<Cell>>, StoreError> {
        let Some(rows) = self.rows.get(table.name) else {
            return Ok(Vec::new());
        };
        let after = after.map(|row| key_of(table, row));
        let rows = rows
            .iter()
            .skip_while(|(key, _)| after.as_ref().is_some_and(|after| *key <= after));
        Ok(rows.map(|(_, row)| row.clone()).collect())
    }

    async fn held(&self, after: i64, to: i64) -> Result<Vec<Vec<Cell>>, StoreError> {
        let (changes, holds) = (self.rows.get("hold_changes"), self.rows.get("holds"));
        let (Some(changes), Some(holds)) = (changes, holds) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for row in changes.values() {
            if let [
                Cell::Integer(position),
                _,
                Cell::Text(id),
                Cell::Text(change),
                ..,
            ] = row.as_slice()
                && (after + 1..=to).contains(position)
                && change == "held"
            {
                found.extend(holds.get(&vec![OrderedCell::Text(id.clone())]).cloned());
            }
        }
        Ok(found)
    }

    async fn heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        Ok(self.heads.clone())
    }
}

/// Tables in the making.
#[derive(Default)]
struct Into {
    tables: Tables,
    accounts: HashMap<i64, Account>,
}

/// Taken out of a row from its front.
struct Values(std::vec::IntoIter<Cell>);

fn corrupt(reason: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        reason: reason.to_string(),
    }
}

impl Values {
    fn integer(&mut self) -> Result<i64, StoreError> {
        match self.0.next() {
            Some(Cell::Integer(number)) => Ok(number),
            _ => Err(corrupt("no number")),
        }
    }

    fn text(&mut self) -> Result<String, StoreError> {
        self.maybe_text()?.ok_or_else(|| corrupt("no text"))
    }

    fn maybe_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.0.next() {
            Some(Cell::Text(text)) => Ok(Some(text)),
            Some(Cell::Null) => Ok(None),
            _ => Err(corrupt("no text")),
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.0.next() {
            Some(Cell::Bytes(bytes)) => Ok(bytes),
            _ => Err(corrupt("no bytes")),
        }
    }

    fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, StoreError>
    where
        T::Err: std::fmt::Display,
    {
        self.text()?.parse().map_err(corrupt)
    }

    fn named<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        serde_json::from_value(Value::String(self.text()?)).map_err(corrupt)
    }

    fn json(&mut self) -> Result<Value, StoreError> {
        serde_json::from_str(&self.text()?).map_err(corrupt)
    }
}

#[async_trait]
impl Sink for Into {
    async fn put(&mut self, table: &'static Table, row: Vec<Cell>) -> Result<(), StoreError> {
        match table.name {
            "accounts" | "commits" | "transfers" | "holds" | "hold_changes" => {
                self.journal(table.name, row)
            }
            _ => self.other(table.name, Values(row.into_iter())),
        }
    }
}

impl Into {
    fn account(&self, id: i64) -> Result<Account, StoreError> {
        let account = self.accounts.get(&id).copied();
        account.ok_or_else(|| corrupt("no such account"))
    }

    fn journal(&mut self, table: &str, row: Vec<Cell>) -> Result<(), StoreError> {
        if table == "holds" {
            let state = hold_from(&row).map_err(corrupt)?;
            self.tables.holds.insert(state.hold.transfer.id, state);
            return Ok(());
        }
        let mut row = Values(row.into_iter());
        match table {
            "accounts" => {
                let (id, account) = (row.integer()?, row.parsed()?);
                let balance = Balance {
                    debits_posted: row.parsed()?,
                    credits_posted: row.parsed()?,
                    debits_pending: row.integer()?,
                    credits_pending: row.integer()?,
                };
                self.accounts.insert(id, account);
                self.tables.balances.insert(account, balance);
            }
            "commits" => {
                let commit = CommitRow {
                    position: row.integer()?,
                    batch: row.parsed()?,
                    at_ms: row.integer()?,
                    scope: row.maybe_text()?,
                    writer: row.text()?,
                    sequence: row.integer()?,
                    hash: ChainHash::new(
                        <[u8; 32]>::try_from(row.bytes()?.as_slice()).map_err(corrupt)?,
                    ),
                };
                self.tables.last_commit_ms = commit.at_ms;
                let at = self.tables.commits.len();
                self.tables.batches.insert(commit.batch, at);
                self.tables.commits.push(commit);
            }
            "transfers" => {
                let transfer = TransferRow {
                    position: row.integer()?,
                    commit: row.integer()?,
                    id: row.parsed()?,
                    follows: row
                        .maybe_text()?
                        .map(|id| id.parse())
                        .transpose()
                        .map_err(corrupt)?,
                    at_ms: row.integer()?,
                    debit: row.integer().and_then(|id| self.account(id))?,
                    credit: row.integer().and_then(|id| self.account(id))?,
                    amount: row.integer()?,
                    kind: row.named()?,
                    reference: row.text()?,
                    debit_balance_after: row.integer()?,
                    credit_balance_after: row.integer()?,
                };
                let at = self.tables.transfers.len();
                self.tables.transfer_ids.insert(transfer.id, at);
                self.tables.transfers.push(transfer);
            }
            _ => {
                let (position, commit, id) = (row.integer()?, row.integer()?, row.parsed()?);
                let hold = self.tables.holds.get(&id).map(|state| state.hold.clone());
                self.tables.hold_changes.push(HoldChangeRow {
                    position,
                    commit,
                    hold: hold.ok_or_else(|| corrupt("no such hold"))?,
                    change: row.named()?,
                    amount: row.integer()?,
                    remaining: row.integer()?,
                });
            }
        }
        Ok(())
    }

    fn other(&mut self, table: &str, mut row: Values) -> Result<(), StoreError> {
        let tables = &mut self.tables;
        match table {
            "commands" => {
                let (scope, fingerprint, at_ms) = (row.text()?, row.text()?, row.integer()?);
                let answer = row.maybe_text()?;
                let answer = answer.map(|text| serde_json::from_str(&text)).transpose();
                let commit = Commit {
                    at_ms,
                    answer: answer.map_err(corrupt)?,
                    replayed: false,
                };
                tables.commands.insert(scope, (fingerprint, commit));
            }
            "reversals" => {
                tables.reversed.insert(row.parsed()?, row.integer()?);
            }
            "documents" => {
                let (collection, id) = (row.text()?, row.text()?);
                let document = KeptDocument {
                    id: id.clone(),
                    version: row.integer()?,
                    body: row.json()?,
                    index_keys: Vec::new(),
                };
                tables.documents.insert((collection, id), document);
            }
            "document_keys" => {
                let (collection, name) = (row.text()?, row.text()?);
                let (key, id) = (row.text()?, row.text()?);
                if let Some(document) = tables.documents.get_mut(&(collection.clone(), id.clone()))
                {
                    document.index_keys.push((name.clone(), key.clone()));
                }
                let position = DocumentPosition { key, id };
                tables.index.insert((collection, name, position), ());
            }
            "claims" => {
                tables.claims.insert(row.text()?, row.text()?);
            }
            "counters" => {
                tables.counters.insert(row.text()?, row.integer()?);
            }
            "usage" => {
                let key = (row.text()?, row.integer()?);
                tables.usage.insert(key, (row.integer()?, row.integer()?));
            }
            "events" => tables.events.push(EventRecord {
                position: row.integer()?,
                at_ms: row.integer()?,
                kind: row.text()?,
                object: row.text()?,
                body: row.json()?,
            }),
            "due" => {
                let key = (row.text()?, row.text()?);
                tables.due.insert(key, (row.integer()?, row.integer()?));
            }
            "cursors" => {
                tables.cursors.insert(row.text()?, row.integer()?);
            }
            "settings" => {
                let (name, value) = (row.text()?, row.integer()?);
                if name == "node_epoch" {
                    tables.node_epoch = value.cast_unsigned();
                } else {
                    tables.forgotten = usize::try_from(value).unwrap_or(0);
                }
            }
            _ => {
                let path = KeyPath {
                    primary: row.text()?,
                    secondary: row.text()?,
                    key: row.text()?,
                };
                tables.node.insert(path, row.bytes()?);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl StoreAdmin for MemoryStore {
    async fn verify(&self) -> Result<Vec<String>, StoreError> {
        self.lock().map(|_| Vec::new())
    }

    async fn backup(&self, _to: &Path) -> Result<(), MoveError> {
        let what = "files";
        Err(MoveError::NotSupported { what })
    }

    async fn export(&self, node: NodeState) -> Result<Box<dyn ByteSource>, MoveError> {
        let copied = {
            let mut tables = self.lock()?;
            if node == NodeState::HandOver {
                if let Some(locked) = &tables.node_locked {
                    return Err(locked.clone().into());
                }
                tables.node_epoch += 1;
                tables.node_locked = Some(StoreError::NodeHandedOver);
            }
            Copied::new(&tables)
        };
        Ok(Box::new(Written::new(copied, node)))
    }

    async fn import(
        &self,
        mut source: Box<dyn ByteSource>,
        kept: &[ChainHead],
    ) -> Result<Arrival, MoveError> {
        let mut sink = Into::default();
        let arrived = arrive(source.as_mut(), kept, &mut sink).await?;
        let mut new = sink.tables;
        if arrived.had_node && !arrived.arrival.has_node_state {
            new.node_locked = Some(StoreError::StaleNodeState {
                found: -1,
                expected: None,
            });
        }
        let mut tables = self.lock()?;
        if !Copied::new(&tables).rows.is_empty() {
            return Err(MoveError::NotEmpty);
        }
        *tables = new;
        drop(tables);
        self.committed.notify(usize::MAX);
        Ok(arrived.arrival)
    }

    async fn health(&self) -> Result<StoreHealth, StoreError> {
        let tables = self.lock()?;
        Ok(StoreHealth {
            schema_version: 0,
            known_schema_version: 0,
            commits: i64::try_from(tables.commits.len()).unwrap_or(i64::MAX),
            node_locked: tables.node_locked.clone(),
        })
    }
}

impl MemoryStore {
    pub(super) fn forget_channels_now(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> Result<bool, StoreError> {
        let mut tables = self.lock()?;
        match tables.node_locked.clone() {
            None => return Ok(false),
            Some(StoreError::StaleNodeState { .. }) => {}
            Some(other) => return Err(other),
        }
        let is_old = |path: &KeyPath| is_channel_state(&path.primary, &path.secondary, &path.key);
        tables.node.retain(|path, _| !is_old(path));
        for change in instead {
            match change {
                KeyValueWrite::Put { path, value } => tables.node.insert(path, value),
                KeyValueWrite::Remove { path } => tables.node.remove(&path),
            };
        }
        tables.node_locked = None;
        Ok(true)
    }
}

/// The stream of a copy: written while it is read, on whatever thread reads it.
struct Written {
    source: Box<dyn ByteSource>,
    writing: Option<crate::ports::BoxFuture<'static, ()>>,
}

impl Written {
    fn new(copied: Copied, node: NodeState) -> Self {
        let (to, source) = pieces();
        let writing = Box::pin(async move { depart(&copied, node, &to).await });
        Self {
            source,
            writing: Some(writing),
        }
    }
}

impl ByteSource for Written {
    fn next_piece(&mut self) -> crate::ports::BoxFuture<'_, Result<Option<Vec<u8>>, MoveError>> {
        Box::pin(async move {
            let mut taking = self.source.next_piece();
            std::future::poll_fn(|context| {
                if let Some(writing) = &mut self.writing
                    && writing.as_mut().poll(context).is_ready()
                {
                    self.writing = None;
                }
                taking.as_mut().poll(context)
            })
            .await
        })
    }
}
