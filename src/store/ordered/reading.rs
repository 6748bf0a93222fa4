//! The books as of one moment. What a batch may do is not decided here: this only says how rows
//! are read, and the ledger does the rest.

use serde::de::DeserializeOwned;

use super::tables::*;
use super::tree::{Order, View};
use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, Commit, CommitPlace, CommitRow, Document, HoldState,
    Json, LastPositions, MOST_DUE_RELEASES, Rows, Standing, TransferRow, UsageWindow,
};
use crate::store::{DocumentPosition, DocumentQuery, KeyPath, MAX_PAGE, StoreError};

/// One process has the tree, so its commits are one chain.
const WRITER: &str = "ordered";

type Result<T> = std::result::Result<T, StoreError>;

/// The books as they stand in a view.
pub(super) struct Books<'a>(pub(super) &'a dyn View);

impl Books<'_> {
    pub(super) fn get<V: DeserializeOwned>(
        &self,
        table: &Table<V>,
        key: impl super::keys::Part,
    ) -> Result<Option<V>> {
        get(self.0, table, key)
    }

    /// The rows after a position.
    pub(super) fn page<V: DeserializeOwned>(
        &self,
        table: &Table<V>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<V>> {
        let found = rows(self.0, table.after(after), Order::Forwards)?;
        found.take(limit).map(|row| decode(&row?.1)).collect()
    }

    pub(super) fn last_positions(&self) -> Result<LastPositions> {
        Ok(LastPositions {
            transfer: last_position(self.0, &TRANSFERS)?,
            hold_change: last_position(self.0, &HOLD_CHANGES)?,
        })
    }

    pub(super) fn last_commit(&self) -> Result<Option<CommitRow>> {
        last(self.0, &COMMITS)
    }

    pub(super) fn document(&self, collection: &str, id: &str) -> Result<Option<Document>> {
        let kept = self.get(&DOCUMENTS, (collection, id))?;
        Ok(kept.map(|kept| Document {
            id: id.to_owned(),
            version: kept.version,
            body: kept.body,
        }))
    }

    pub(super) fn documents(
        &self,
        query: &DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>> {
        let (collection, index) = (query.collection, query.index);
        let mut keys = INDEX.under((collection, index));
        keys.start = match &query.after {
            Some(after) if after.key >= query.from => {
                INDEX
                    .after((collection, index, &after.key, &after.id))
                    .start
            }
            _ => INDEX.key((collection, index, &query.from)),
        };
        if let Some(to) = &query.to {
            keys.end = INDEX.key((collection, index, to));
        }
        let found = rows(self.0, keys, Order::Forwards)?;
        found
            .take(query.limit.clamp(1, MAX_PAGE))
            .map(|row| {
                let parts = INDEX.parts::<(String, String, String, String)>(&row?.0)?;
                let (_, _, key, id) = parts;
                let document = there(self.document(collection, &id)?)?;
                Ok((DocumentPosition { key, id }, document))
            })
            .collect()
    }

    pub(super) fn balances(
        &self,
        after: Option<Account>,
        most: usize,
    ) -> Result<Vec<(Account, Balance)>> {
        let keys = match after {
            Some(account) => BALANCES.after(account.to_string()),
            None => BALANCES.under(()),
        };
        let found = rows(self.0, keys, Order::Forwards)?;
        found
            .take(most)
            .map(|row| {
                let (key, balance) = row?;
                let account = BALANCES.parts::<String>(&key)?;
                Ok((account.parse().map_err(corrupt)?, decode(&balance)?))
            })
            .collect()
    }

    pub(super) fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>> {
        let account = account.to_string();
        let mut keys = ACCOUNT_TRANSFERS.under(&account);
        if let Some(before) = before {
            keys.end = ACCOUNT_TRANSFERS.key((&account, before));
        }
        let found = rows(self.0, keys, Order::Backwards)?;
        found
            .take(limit)
            .map(|row| {
                let (_, position) = ACCOUNT_TRANSFERS.parts::<(String, i64)>(&row?.0)?;
                there(self.get(&TRANSFERS, position)?)
            })
            .collect()
    }

    pub(super) fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64> {
        let account = account.to_string();
        let mut keys = PAST.under(&account);
        keys.end = PAST.under((&account, at_ms)).end;
        match rows(self.0, keys, Order::Backwards)?.next() {
            None => Ok(0),
            Some(last) => decode(&last?.1),
        }
    }

    pub(super) fn standing(
        &mut self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing> {
        Ok(Standing {
            balance: self.balance(account)?,
            ended: self.due_holds(account, at_ms, MOST_DUE_RELEASES)?,
            used: windows
                .iter()
                .map(|window| self.usage(window))
                .collect::<Result<_>>()?,
        })
    }

    pub(super) fn chain_heads(&self) -> Result<Vec<ChainHead>> {
        Ok(self.last_commit()?.into_iter().map(head_of).collect())
    }

    pub(super) fn node_value(&self, path: &KeyPath) -> Result<Option<Vec<u8>>> {
        self.0.get(&node_key(path))
    }

    pub(super) fn node_keys(&self, primary: &str, secondary: &str) -> Result<Vec<String>> {
        let found = rows(self.0, NODE.under((primary, secondary)), Order::Forwards)?;
        found
            .map(|row| {
                let (_, _, key) = NODE.parts::<(String, String, String)>(&row?.0)?;
                Ok(key)
            })
            .collect()
    }
}

pub(super) fn node_key(path: &KeyPath) -> Vec<u8> {
    NODE.key((&path.primary, &path.secondary, &path.key))
}

fn head_of(last: CommitRow) -> ChainHead {
    ChainHead {
        writer: last.writer,
        sequence: last.sequence,
        hash: last.hash,
    }
}

impl Rows for Books<'_> {
    type Error = StoreError;

    fn commit_of_batch(&mut self, batch: BatchId) -> Result<Option<Commit>> {
        let Some(position) = self.get(&BATCHES, batch.to_string())? else {
            return Ok(None);
        };
        let row = there(self.get(&COMMITS, position)?)?;
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
        let last = self.last_commit()?;
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
        let Some(done) = self.get(&COMMANDS, scope)? else {
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
        let balance = self.get(&BALANCES, account.to_string())?;
        Ok(balance.unwrap_or_default())
    }

    fn transfer_exists(&mut self, id: TransferId) -> Result<bool> {
        let is_posted = self.get(&TRANSFER_IDS, id.to_string())?.is_some();
        Ok(is_posted || self.hold(id)?.is_some())
    }

    fn transfer(&mut self, id: TransferId) -> Result<Option<TransferRow>> {
        match self.get(&TRANSFER_IDS, id.to_string())? {
            Some(position) => there(self.get(&TRANSFERS, position)?).map(Some),
            None => Ok(None),
        }
    }

    fn hold(&mut self, id: TransferId) -> Result<Option<HoldState>> {
        self.get(&HOLDS, id.to_string())
    }

    fn due_holds(&mut self, account: &Account, at_ms: i64, limit: usize) -> Result<Vec<HoldState>> {
        let account = account.to_string();
        let mut keys = ENDINGS.under(&account);
        keys.end = ENDINGS.under((&account, at_ms)).end;
        let found = rows(self.0, keys, Order::Forwards)?;
        found
            .take(limit)
            .map(|row| {
                let (_, _, id) = ENDINGS.parts::<(String, i64, String)>(&row?.0)?;
                there(self.get(&HOLDS, id)?)
            })
            .collect()
    }

    fn reversed(&mut self, id: TransferId) -> Result<i64> {
        Ok(self.get(&REVERSED, id.to_string())?.unwrap_or(0))
    }

    fn document_version(&mut self, collection: &'static str, id: &str) -> Result<i64> {
        let document = self.document(collection, id)?;
        Ok(document.map_or(0, |document| document.version))
    }

    fn claim(&mut self, name: &str) -> Result<Option<String>> {
        self.get(&CLAIMS, name)
    }

    fn counter(&mut self, name: &str) -> Result<Option<i64>> {
        self.get(&COUNTERS, name)
    }

    fn usage(&mut self, window: &UsageWindow) -> Result<i64> {
        let end_and_used = self.get(&USAGE, (&window.subject, window.start_ms))?;
        Ok(end_and_used.map_or(0, |(_, used)| used))
    }
}
