//! What a group changed, as statements: one a table, each for all its rows.

use std::collections::HashMap;

use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::connection::Param;
use super::snapshot::{Snapshot, corrupt};
use super::state::Changes;
use crate::ledger::{Account, Balance, Commit};
use crate::store::StoreError;

/// The row that gives out positions, as it was when it was locked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) schema_version: i64,
    pub(super) last_commit_ms: i64,
    pub(super) commit_position: i64,
    pub(super) transfer_position: i64,
    pub(super) event_position: i64,
    pub(super) account_id: i64,
}

/// Locks the head. Every group begins with it, so that groups of all instances are done one
/// after another, and what is read after it cannot change before the commit.
pub(super) const LOCK_HEAD: &str = "
SELECT schema_version, last_commit_ms, commit_position, transfer_position, event_position,
       account_id
FROM head FOR UPDATE";

const MOVE_HEAD: &str = "
UPDATE head SET last_commit_ms = $1, commit_position = $2, transfer_position = $3,
                event_position = $4, account_id = $5";

impl Head {
    pub(super) fn from_row(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            schema_version: row.try_get(0)?,
            last_commit_ms: row.try_get(1)?,
            commit_position: row.try_get(2)?,
            transfer_position: row.try_get(3)?,
            event_position: row.try_get(4)?,
            account_id: row.try_get(5)?,
        })
    }
}

/// A statement and its values.
pub(super) struct Statement {
    pub(super) sql: &'static str,
    pub(super) params: Vec<Param>,
}

/// The statements of a group, in the order in which they must be done.
pub(super) fn statements(
    changes: &Changes,
    snapshot: &Snapshot,
    head: &Head,
    at_ms: i64,
) -> Result<Vec<Statement>, StoreError> {
    let mut writing = Writing {
        head: *head,
        statements: Vec::new(),
    };
    let ids = writing.accounts(changes, snapshot);
    writing.transfers(changes, &ids)?;
    writing.holds(changes)?;
    writing.documents(changes);
    writing.names(changes);
    writing.events(changes);
    writing.due(changes);
    writing.commits(changes);
    writing.head(at_ms);
    Ok(writing.statements)
}

struct Writing {
    head: Head,
    statements: Vec<Statement>,
}

/// One column of all rows.
fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Param
where
    Vec<T>: ToSql + Sync + Send + 'static,
{
    Box::new(rows.iter().map(value).collect::<Vec<T>>())
}

fn next(last: &mut i64) -> i64 {
    *last = last.saturating_add(1);
    *last
}

fn name_of<T: Serialize>(variant: &T) -> Result<String, StoreError> {
    match serde_json::to_value(variant).map_err(corrupt)? {
        serde_json::Value::String(name) => Ok(name),
        other => Ok(other.to_string()),
    }
}

impl Writing {
    /// Nothing is sent for a table of which no row changed.
    fn add<R>(&mut self, rows: &[R], sql: &'static str, params: impl FnOnce() -> Vec<Param>) {
        if !rows.is_empty() {
            let params = params();
            self.statements.push(Statement { sql, params });
        }
    }

    /// Answers the ids of the accounts that changed, among which are those of all transfers.
    fn accounts(&mut self, changes: &Changes, snapshot: &Snapshot) -> HashMap<Account, i64> {
        let mut ids = HashMap::new();
        let mut rows: Vec<(i64, Account, Balance)> = Vec::new();
        for (account, balance) in &changes.balances {
            let id = match snapshot.accounts.get(account) {
                Some(Some(row)) => row.id,
                _ => next(&mut self.head.account_id),
            };
            ids.insert(*account, id);
            rows.push((id, *account, *balance));
        }
        rows.sort_by_key(|row| row.0);
        self.add(&rows, PUT_ACCOUNTS, || {
            let shown = |row: &(i64, Account, Balance)| {
                i64::try_from(row.2.posted(row.1.kind().side())).ok()
            };
            vec![
                column(&rows, |row| row.0),
                column(&rows, |row| row.1.to_string()),
                column(&rows, |row| row.2.debits_posted.to_string()),
                column(&rows, |row| row.2.credits_posted.to_string()),
                column(&rows, |row| row.2.debits_pending),
                column(&rows, |row| row.2.credits_pending),
                column(&rows, shown),
            ]
        });
        ids
    }

    fn transfers(
        &mut self,
        changes: &Changes,
        ids: &HashMap<Account, i64>,
    ) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for transfer in &changes.transfers {
            let position = next(&mut self.head.transfer_position);
            rows.push((position, name_of(&transfer.kind)?, transfer));
        }
        let id = |account: &Account| ids.get(account).copied();
        self.add(&rows, ADD_TRANSFERS, || {
            vec![
                column(&rows, |row| row.0),
                column(&rows, |row| row.2.id.to_string()),
                column(&rows, |row| row.2.at_ms),
                column(&rows, |row| id(&row.2.debit)),
                column(&rows, |row| id(&row.2.credit)),
                column(&rows, |row| row.2.amount),
                column(&rows, |row| row.1.clone()),
                column(&rows, |row| row.2.reference.clone()),
                column(&rows, |row| row.2.debit_balance_after),
                column(&rows, |row| row.2.credit_balance_after),
            ]
        });
        Ok(())
    }

    fn holds(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for state in changes.holds.values() {
            let transfer = &state.hold.transfer;
            rows.push((transfer, name_of(&transfer.kind)?, state));
        }
        self.add(&rows, PUT_HOLDS, || {
            vec![
                column(&rows, |row| row.0.id.to_string()),
                column(&rows, |row| row.0.debit.to_string()),
                column(&rows, |row| row.0.credit.to_string()),
                column(&rows, |row| row.0.amount),
                column(&rows, |row| row.2.remaining),
                column(&rows, |row| row.1.clone()),
                column(&rows, |row| row.0.reference.clone()),
                column(&rows, |row| row.0.credit_ceiling),
                column(&rows, |row| row.2.hold.expires_at_ms),
            ]
        });
        Ok(())
    }

    fn documents(&mut self, changes: &Changes) {
        let rows: Vec<_> = changes.documents.values().collect();
        self.add(&rows, PUT_DOCUMENTS, || {
            vec![
                column(&rows, |row| row.1.collection.to_owned()),
                column(&rows, |row| row.1.id.clone()),
                column(&rows, |row| row.0),
                column(&rows, |row| row.1.body.to_string()),
            ]
        });
        // The keys of the version before, if there was one.
        let old: Vec<_> = rows.iter().filter(|row| row.0 > 1).collect();
        self.add(&old, DROP_DOCUMENT_KEYS, || {
            vec![
                column(&old, |row| row.1.collection.to_owned()),
                column(&old, |row| row.1.id.clone()),
            ]
        });
        let keys: Vec<_> = rows
            .iter()
            .flat_map(|(_, document)| document.index_keys.iter().map(move |key| (document, key)))
            .collect();
        self.add(&keys, ADD_DOCUMENT_KEYS, || {
            vec![
                column(&keys, |(document, _)| document.collection.to_owned()),
                column(&keys, |(_, key)| key.0.to_owned()),
                column(&keys, |(_, key)| key.1.clone()),
                column(&keys, |(document, _)| document.id.clone()),
            ]
        });
    }

    /// Claims, counters and usage.
    fn names(&mut self, changes: &Changes) {
        let rows: Vec<_> = changes.claims.iter().collect();
        self.add(&rows, ADD_CLAIMS, || {
            vec![
                column(&rows, |row| row.0.clone()),
                column(&rows, |row| row.1.clone()),
            ]
        });
        let rows: Vec<_> = changes.counters.iter().collect();
        self.add(&rows, PUT_COUNTERS, || {
            vec![
                column(&rows, |row| row.0.clone()),
                column(&rows, |row| *row.1),
            ]
        });
        let rows: Vec<_> = changes.usage.iter().collect();
        self.add(&rows, PUT_USAGE, || {
            vec![
                column(&rows, |row| row.0.0.clone()),
                column(&rows, |row| row.0.1),
                column(&rows, |row| row.1.0),
                column(&rows, |row| row.1.1),
            ]
        });
    }

    fn events(&mut self, changes: &Changes) {
        let mut rows = Vec::new();
        for (event, at_ms) in &changes.events {
            rows.push((next(&mut self.head.event_position), *at_ms, event));
        }
        self.add(&rows, ADD_EVENTS, || {
            vec![
                column(&rows, |row| row.0),
                column(&rows, |row| row.1),
                column(&rows, |row| row.2.kind.to_owned()),
                column(&rows, |row| row.2.object.clone()),
                column(&rows, |row| row.2.body.to_string()),
            ]
        });
    }

    fn due(&mut self, changes: &Changes) {
        let (mut set, mut done) = (Vec::new(), Vec::new());
        for ((kind, object), due_at_ms) in &changes.due {
            match due_at_ms {
                Some(due_at_ms) => set.push((kind, object, *due_at_ms)),
                None => done.push((kind, object)),
            }
        }
        self.add(&set, PUT_DUE, || {
            vec![
                column(&set, |row| row.0.clone()),
                column(&set, |row| row.1.clone()),
                column(&set, |row| row.2),
            ]
        });
        self.add(&done, DROP_DUE, || {
            vec![
                column(&done, |row| row.0.clone()),
                column(&done, |row| row.1.clone()),
            ]
        });
    }

    fn commits(&mut self, changes: &Changes) {
        let rows: Vec<_> = changes.commands.iter().collect();
        self.add(&rows, ADD_COMMANDS, || {
            let answer = |commit: &Commit| commit.answer.as_ref().map(ToString::to_string);
            vec![
                column(&rows, |row| row.0.clone()),
                column(&rows, |row| row.1.0.clone()),
                column(&rows, |row| row.1.1.at_ms),
                column(&rows, |row| answer(&row.1.1)),
            ]
        });
        let mut rows = Vec::new();
        for commit in &changes.commits {
            rows.push((next(&mut self.head.commit_position), commit));
        }
        self.add(&rows, ADD_COMMITS, || {
            vec![
                column(&rows, |row| row.0),
                column(&rows, |row| row.1.0.to_string()),
                column(&rows, |row| row.1.2.at_ms),
                column(&rows, |row| row.1.1.clone()),
            ]
        });
    }

    fn head(&mut self, at_ms: i64) {
        let head = self.head;
        self.add(&[()], MOVE_HEAD, || {
            vec![
                Box::new(at_ms),
                Box::new(head.commit_position),
                Box::new(head.transfer_position),
                Box::new(head.event_position),
                Box::new(head.account_id),
            ]
        });
    }
}

const PUT_ACCOUNTS: &str = "
INSERT INTO accounts (id, account, debits_posted, credits_posted, debits_pending,
                      credits_pending, balance)
SELECT id, account, debits::numeric, credits::numeric, debits_pending, credits_pending, balance
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
            $7::bigint[])
     AS row (id, account, debits, credits, debits_pending, credits_pending, balance)
ON CONFLICT (id) DO UPDATE SET
    debits_posted = excluded.debits_posted, credits_posted = excluded.credits_posted,
    debits_pending = excluded.debits_pending, credits_pending = excluded.credits_pending,
    balance = excluded.balance";

const ADD_TRANSFERS: &str = "
INSERT INTO transfers (position, id, at_ms, debit, credit, amount, kind, reference,
                       debit_balance_after, credit_balance_after)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
                     $6::bigint[], $7::text[], $8::text[], $9::bigint[], $10::bigint[])";

const PUT_HOLDS: &str = "
INSERT INTO holds (id, debit, credit, amount, remaining, kind, reference, credit_ceiling,
                   expires_at_ms)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[],
                     $7::text[], $8::bigint[], $9::bigint[])
ON CONFLICT (id) DO UPDATE SET remaining = excluded.remaining";

const PUT_DOCUMENTS: &str = "
INSERT INTO documents (collection, id, version, body)
SELECT collection, id, version, body::json
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
     AS row (collection, id, version, body)
ON CONFLICT (collection, id) DO UPDATE SET version = excluded.version, body = excluded.body";

const DROP_DOCUMENT_KEYS: &str = "
DELETE FROM document_keys USING unnest($1::text[], $2::text[]) AS row (collection, id)
WHERE document_keys.collection = row.collection AND document_keys.id = row.id";

const ADD_DOCUMENT_KEYS: &str = "
INSERT INTO document_keys (collection, name, key, id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT DO NOTHING";

const ADD_CLAIMS: &str = "
INSERT INTO claims (name, claimed_by) SELECT * FROM unnest($1::text[], $2::text[])";

const PUT_COUNTERS: &str = "
INSERT INTO counters (name, value) SELECT * FROM unnest($1::text[], $2::bigint[])
ON CONFLICT (name) DO UPDATE SET value = excluded.value";

const PUT_USAGE: &str = "
INSERT INTO usage (subject, start_ms, end_ms, used)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
ON CONFLICT (subject, start_ms) DO UPDATE SET used = excluded.used";

const ADD_EVENTS: &str = "
INSERT INTO events (position, at_ms, kind, object, body)
SELECT position, at_ms, kind, object, body::json
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
     AS row (position, at_ms, kind, object, body)";

const PUT_DUE: &str = "
INSERT INTO due (kind, object, due_at_ms, leased_until_ms)
SELECT kind, object, due_at_ms, 0
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS row (kind, object, due_at_ms)
ON CONFLICT (kind, object) DO UPDATE SET due_at_ms = excluded.due_at_ms, leased_until_ms = 0";

const DROP_DUE: &str = "
DELETE FROM due USING unnest($1::text[], $2::text[]) AS row (kind, object)
WHERE due.kind = row.kind AND due.object = row.object";

const ADD_COMMANDS: &str = "
INSERT INTO commands (scope, fingerprint, at_ms, answer)
SELECT scope, fingerprint, at_ms, answer::json
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
     AS row (scope, fingerprint, at_ms, answer)";

const ADD_COMMITS: &str = "
INSERT INTO commits (position, batch, at_ms, scope)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[])";
