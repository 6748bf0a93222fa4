//! Rows of a stream, as tables in memory.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::tables::{KeptDocument, KeptEvent, Tables};
use crate::ledger::{
    Account, Balance, ChainHash, Commit, CommitRow, HoldChangeRow, Json, TransferRow,
};
use crate::store::moving::{Cell, Sink, Table, hold_from};
use crate::store::{DocumentPosition, KeyPath, StoreError};

/// Tables in the making.
#[derive(Default)]
pub(super) struct Into {
    pub(super) tables: Tables,
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

    fn json(&mut self) -> Result<Json, StoreError> {
        Json::from_text(self.text()?).map_err(corrupt)
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
            "transfers" => return self.transfer(row),
            "hold_changes" => return self.hold_change(row),
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
            _ => {
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
        }
        Ok(())
    }

    fn transfer(&mut self, mut row: Values) -> Result<(), StoreError> {
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
        Ok(())
    }

    fn hold_change(&mut self, mut row: Values) -> Result<(), StoreError> {
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
        Ok(())
    }

    fn other(&mut self, table: &str, mut row: Values) -> Result<(), StoreError> {
        let tables = &mut self.tables;
        match table {
            "commands" => {
                let (scope, fingerprint, at_ms) = (row.text()?, row.text()?, row.integer()?);
                let answer = row.maybe_text()?;
                let answer = answer.map(Json::from_text).transpose();
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
            _ => return self.name(table, row),
        }
        Ok(())
    }

    fn name(&mut self, table: &str, mut row: Values) -> Result<(), StoreError> {
        let tables = &mut self.tables;
        match table {
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
            "events" => {
                // They come in their order, from 1 and without gaps.
                row.integer()?;
                tables.events.push(KeptEvent {
                    at_ms: row.integer()?,
                    kind: row.text()?,
                    object: row.text()?,
                    body: row.json()?,
                });
            }
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
