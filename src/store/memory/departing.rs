//! A store in memory as rows, as databases have them.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;

use super::tables::Tables;
use crate::ledger::{Account, ChainHead};
use crate::store::StoreError;
use crate::store::moving::{Cell, Snapshot, Table};

/// Every table's rows, as a database has them, by their keys.
pub(super) type AsRows = BTreeMap<&'static str, BTreeMap<Vec<OrderedCell>, Vec<Cell>>>;

/// A value in the order that databases have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OrderedCell {
    Integer(i64),
    Text(String),
}

/// The store as it was.
pub(super) struct Copied {
    pub(super) rows: AsRows,
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
    pub(super) fn new(tables: &Tables) -> Self {
        let mut copied = Self {
            rows: AsRows::new(),
            heads: (!tables.commits.is_empty())
                .then(|| tables.head())
                .into_iter()
                .collect(),
        };
        copied.journal(tables);
        copied.holds(tables);
        copied.documents(tables);
        copied.names(tables);
        copied.events(tables);
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
    }

    fn holds(&mut self, tables: &Tables) {
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
        let forgotten = i64::try_from(tables.forgotten).unwrap_or(i64::MAX);
        if forgotten > 0 {
            self.add("settings", cells!["answers_forgotten_to", forgotten]);
        }
        if tables.node_epoch > 0 {
            let epoch = tables.node_epoch.cast_signed();
            self.add("settings", cells!["node_epoch", epoch]);
        }
    }

    fn events(&mut self, tables: &Tables) {
        for (position, event) in (1_i64..).zip(&tables.events) {
            let (kind, object) = (event.kind.as_str(), event.object.as_str());
            let row = cells![position, event.at_ms, kind, object, event.body.to_string()];
            self.add("events", row);
        }
        for ((kind, object), (due_at_ms, leased_until_ms)) in &tables.due {
            let row = cells![kind.as_str(), object.as_str(), *due_at_ms, *leased_until_ms];
            self.add("due", row);
        }
        for (name, position) in &tables.cursors {
            self.add("cursors", cells![name.as_str(), *position]);
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
