//! The books as of one moment. What a batch may do is not decided here: this only says how rows
//! are read, and the ledger does the rest.

use std::ops::Bound;

use flashkit::ids::{BatchId, TransferId};
use flashkit::ledger::{
    Account, Balance, ChainHash, ChainHead, Commit, CommitPlace, CommitRow, Document, HoldState,
    Json, LastPositions, Rows, TransferRow, UsageWindow,
};
use flashkit::store::{DocumentPosition, DocumentQuery, KeyPath, MAX_PAGE};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use serde::de::DeserializeOwned;

use super::fault::{Fault, Result, corrupt};
use super::tables::*;

/// One process has the file, so its commits are one chain.
const WRITER: &str = "redb";

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

fn head_of(last: CommitRow) -> ChainHead {
    ChainHead {
        writer: last.writer,
        sequence: last.sequence,
        hash: last.hash,
    }
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
        let answer = done.answer.map(Json::from_text).transpose();
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
