//! What is read from the tables, by readers and writer alike.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::state::{
    self, HOLD_COLUMNS, balance_from_row, chain_head, from_json, hold_from_row, json, named, parsed,
};
use super::{sql_limit, trees};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, ChainHead, CommitRow, Document, EventRecord, HoldChangeRow, HoldState,
    MOST_DUE_RELEASES, Standing, TransferRow, UsageWindow,
};
use crate::store::{DocumentPosition, DocumentQuery};

pub(super) fn document(
    connection: &Connection,
    collection: &str,
    id: String,
) -> Result<Option<Document>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT version, body FROM documents WHERE {}",
        trees::document_is(collection)
    ))?;
    let mut rows = statement.query([collection, &id])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    Ok(Some(Document {
        version: row.get(0)?,
        body: json(row, 1)?,
        id,
    }))
}

pub(super) fn balances(
    connection: &Connection,
    after: Option<Account>,
    limit: usize,
) -> Result<Vec<(Account, Balance)>> {
    let after = after.map(|account| account.to_string()).unwrap_or_default();
    connection
        .prepare_cached(&format!(
            "SELECT account, debits_posted, credits_posted, debits_pending, credits_pending
             FROM {} WHERE account > ?1 ORDER BY account LIMIT ?2",
            trees::ACCOUNTS
        ))?
        .query_map(
            params![after, i64::try_from(limit.max(1)).unwrap_or(i64::MAX)],
            |row| Ok((parsed(row, 0)?, balance_from_row(row, 1)?)),
        )?
        .collect()
}

/// The columns that [`transfer`] reads, of a transfer `t` with its accounts `d` and `c`.
macro_rules! select_transfers {
    ($($rest:literal),*) => {
        concat!(
            "SELECT t.position, t.id, t.at_ms, d.account, c.account, t.amount, t.kind,
                    t.reference, t.debit_balance_after, t.credit_balance_after,
                    t.commit_position, t.follows
             FROM transfers t JOIN accounts d ON d.id = t.debit
                  JOIN accounts c ON c.id = t.credit ",
            $($rest),*
        )
    };
}

fn transfer(row: &Row<'_>) -> Result<TransferRow> {
    let follows: Option<String> = row.get(11)?;
    Ok(TransferRow {
        position: row.get(0)?,
        commit: row.get(10)?,
        id: parsed(row, 1)?,
        follows: follows.map(|_| parsed(row, 11)).transpose()?,
        at_ms: row.get(2)?,
        debit: parsed(row, 3)?,
        credit: parsed(row, 4)?,
        amount: row.get(5)?,
        kind: named(row, 6)?,
        reference: row.get(7)?,
        debit_balance_after: row.get(8)?,
        credit_balance_after: row.get(9)?,
    })
}

pub(super) fn transfers(
    connection: &Connection,
    account: &Account,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<TransferRow>> {
    let before = before.unwrap_or(i64::MAX);
    connection
        .prepare_cached(&format!(
            select_transfers!(
                "JOIN account_transfers a ON a.position = t.position
                 WHERE a.account = (SELECT id FROM accounts WHERE {}) AND a.position < ?2
                 ORDER BY a.position DESC LIMIT ?3"
            ),
            trees::account_is(account)
        ))?
        .query_map(
            params![account.to_string(), before, sql_limit(limit)],
            transfer,
        )?
        .collect()
}

pub(super) fn transfer_by_id(
    connection: &Connection,
    id: TransferId,
) -> Result<Option<TransferRow>> {
    connection
        .prepare_cached(select_transfers!("WHERE t.id = ?1"))?
        .query_row([id.to_string()], transfer)
        .optional()
}

pub(super) fn reversed(connection: &Connection, id: TransferId) -> Result<i64> {
    connection
        .prepare_cached("SELECT coalesce((SELECT amount FROM reversals WHERE transfer = ?1), 0)")?
        .query_row([id.to_string()], |row| row.get(0))
}

pub(super) fn journal(
    connection: &Connection,
    after: i64,
    limit: usize,
) -> Result<Vec<TransferRow>> {
    connection
        .prepare_cached(select_transfers!(
            "WHERE t.position > ?1 ORDER BY t.position LIMIT ?2"
        ))?
        .query_map(params![after, sql_limit(limit)], transfer)?
        .collect()
}

/// The last transfer is found by its time, of which positions are a monotone function, and the
/// account's last one before it by its index: both in logarithmic time.
pub(super) fn balance_at(connection: &Connection, account: &Account, at_ms: i64) -> Result<i64> {
    let before = first_after(connection, at_ms)?;
    let last = transfers(connection, account, Some(before), 1)?;
    Ok(last.first().map_or(0, |row| row.balance_after(account)))
}

/// The position of the first transfer after a time; one after the last when there is none.
/// Positions have no gaps: what is refused writes none.
fn first_after(connection: &Connection, at_ms: i64) -> Result<i64> {
    let mut time = connection.prepare_cached("SELECT at_ms FROM transfers WHERE position = ?1")?;
    let (mut low, mut high): (i64, i64) = connection
        .prepare_cached("SELECT 1, coalesce(max(position), 0) + 1 FROM transfers")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    while low < high {
        let middle = low + (high - low) / 2;
        let at: i64 = time.query_row([middle], |row| row.get(0))?;
        if at <= at_ms {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// When the first of the account's open holds ends; `None` without any that ends.
pub(super) fn first_hold_end(connection: &Connection, account: &Account) -> Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT min(ends) FROM (
                 SELECT min(expires_at_ms) AS ends FROM holds
                     WHERE debit = ?1 AND expires_at_ms IS NOT NULL AND remaining > 0
                 UNION ALL
                 SELECT min(expires_at_ms) FROM holds
                     WHERE credit = ?1 AND expires_at_ms IS NOT NULL AND remaining > 0)",
        )?
        .query_row([account.to_string()], |row| row.get(0))
}

pub(super) fn due_holds(
    connection: &Connection,
    account: &Account,
    at_ms: i64,
    limit: i64,
) -> Result<Vec<HoldState>> {
    // Two indexes, and no account stands on both sides of a hold.
    let sql = format!(
        "SELECT * FROM (SELECT {HOLD_COLUMNS} FROM holds h
             WHERE h.debit = ?1 AND h.expires_at_ms <= ?2 AND h.expires_at_ms IS NOT NULL
                   AND h.remaining > 0 ORDER BY h.expires_at_ms, h.id LIMIT ?3)
         UNION ALL
         SELECT * FROM (SELECT {HOLD_COLUMNS} FROM holds h
             WHERE h.credit = ?1 AND h.expires_at_ms <= ?2 AND h.expires_at_ms IS NOT NULL
                   AND h.remaining > 0 ORDER BY h.expires_at_ms, h.id LIMIT ?3)
         ORDER BY 9, 1 LIMIT ?3"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![account.to_string(), at_ms, limit], |row| {
            hold_from_row(row, 0)
        })?
        .collect()
}

/// In one transaction, so that it is of one moment.
pub(super) fn standing(
    connection: &Connection,
    account: &Account,
    at_ms: i64,
    windows: &[UsageWindow],
) -> Result<Standing> {
    let transaction = connection.unchecked_transaction()?;
    let most = i64::try_from(MOST_DUE_RELEASES).unwrap_or(i64::MAX);
    let used = windows
        .iter()
        .map(|window| state::usage(&transaction, window));
    let standing = Standing {
        balance: state::balance(&transaction, account)?,
        ended: due_holds(&transaction, account, at_ms, most)?,
        used: used.collect::<Result<_>>()?,
    };
    transaction.commit()?;
    Ok(standing)
}

pub(super) fn hold_changes(
    connection: &Connection,
    after: i64,
    limit: usize,
) -> Result<Vec<HoldChangeRow>> {
    let sql = format!(
        "SELECT x.position, x.commit_position, x.change, x.amount, x.remaining, {HOLD_COLUMNS}
         FROM hold_changes x JOIN holds h ON h.id = x.hold
         WHERE x.position > ?1 ORDER BY x.position LIMIT ?2"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![after, sql_limit(limit)], |row| {
            Ok(HoldChangeRow {
                position: row.get(0)?,
                commit: row.get(1)?,
                hold: hold_from_row(row, 5)?.hold,
                change: named(row, 2)?,
                amount: row.get(3)?,
                remaining: row.get(4)?,
            })
        })?
        .collect()
}

pub(super) fn commits(connection: &Connection, after: i64, limit: usize) -> Result<Vec<CommitRow>> {
    connection
        .prepare_cached(
            "SELECT position, batch, at_ms, scope, writer, sequence, hash FROM commits
             WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?
        .query_map(params![after, sql_limit(limit)], |row| {
            let ChainHead {
                writer,
                sequence,
                hash,
            } = chain_head(row, 4)?;
            Ok(CommitRow {
                position: row.get(0)?,
                writer,
                sequence,
                batch: parsed(row, 1)?,
                at_ms: row.get(2)?,
                scope: row.get(3)?,
                hash,
            })
        })?
        .collect()
}

pub(super) fn chain_heads(connection: &Connection) -> Result<Vec<ChainHead>> {
    connection
        .prepare_cached(
            "SELECT writer, sequence, hash FROM commits ORDER BY position DESC LIMIT 1",
        )?
        .query_map([], |row| chain_head(row, 0))?
        .collect()
}

pub(super) fn events(
    connection: &Connection,
    after: i64,
    limit: usize,
) -> Result<Vec<EventRecord>> {
    connection
        .prepare_cached(
            "SELECT position, at_ms, kind, object, body FROM events
             WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?
        .query_map(params![after, sql_limit(limit)], |row| {
            Ok(EventRecord {
                position: row.get(0)?,
                at_ms: row.get(1)?,
                kind: row.get(2)?,
                object: row.get(3)?,
                body: from_json(&row.get::<_, String>(4)?)?,
            })
        })?
        .collect()
}

/// The end must be one of the index's: where it is only looked at row by row, whoever looks for
/// fewer than there is room for is shown everything behind them.
pub(super) fn documents(
    connection: &Connection,
    query: &DocumentQuery,
) -> Result<Vec<(DocumentPosition, Document)>> {
    let end = if query.to.is_some() {
        "k.key < ?5"
    } else {
        "?5 IS NULL"
    };
    let keys = trees::keys(query.collection, query.index);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT k.key, k.id, d.version, d.body FROM {keys} k
         JOIN documents d ON d.number = k.document
         WHERE k.collection = ?1 AND k.name = ?2 AND (k.key, k.id) > (?3, ?4) AND {end}
         ORDER BY k.key, k.id LIMIT ?6"
    ))?;
    // Ids are never empty, so `(from, "")` is before every document with that key.
    let first = DocumentPosition {
        key: query.from.clone(),
        id: String::new(),
    };
    let from = query
        .after
        .clone()
        .filter(|after| *after >= first)
        .unwrap_or(first);
    statement
        .query_map(
            params![
                query.collection,
                query.index,
                from.key,
                from.id,
                query.to,
                sql_limit(query.limit)
            ],
            |row| {
                let position = DocumentPosition {
                    key: row.get(0)?,
                    id: row.get(1)?,
                };
                let body = json(row, 3)?;
                let document = Document {
                    id: position.id.clone(),
                    version: row.get(2)?,
                    body,
                };
                Ok((position, document))
            },
        )?
        .collect()
}
