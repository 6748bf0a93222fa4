//! What a group changed, as statements: one a table, each for all its rows.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use super::connection::Param;
use super::reads::{chain_hash, value};
use super::snapshot::{Snapshot, corrupt};
use crate::ledger::{Account, Balance, ChainHash, ChainHead, Changes, Commit};
use crate::store::StoreError;

/// The row that gives out positions, as it was when it was locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) schema_version: i64,
    pub(super) last_commit_ms: i64,
    pub(super) commit_position: i64,
    pub(super) transfer_position: i64,
    pub(super) hold_change_position: i64,
    pub(super) event_position: i64,
    pub(super) account_id: i64,
    pub(super) chain_sequence: i64,
    pub(super) chain_hash: ChainHash,
    /// Commits of all instances have one order, and so are one chain.
    pub(super) chain_writer: String,
}

/// Locks the head. Every group begins with it, so that groups of all instances are done one
/// after another, and what is read after it cannot change before the commit.
pub(super) const LOCK_HEAD: &str = "
SELECT schema_version, last_commit_ms, commit_position, transfer_position, hold_change_position,
       event_position, account_id, chain_sequence, chain_hash, chain_writer
FROM head FOR UPDATE";

/// Changes nothing, and its commit waits for the standbys as any does: once it is answered, all
/// that was visible before it stands where it must.
pub(super) const CONFIRM: &str = "UPDATE head SET id = id";

/// As [`CONFIRM`], and moves the head by an id that no account will have: a group in one round trip
/// that was given up, and whose bytes come to the server later, finds another head than its guard
/// names. What is answered after this has nothing done to it by what was sent before.
pub(super) const SETTLE: &str = "UPDATE head SET account_id = account_id + 1";

const MOVE_HEAD: &str = "
UPDATE head SET last_commit_ms = $1, commit_position = $2, transfer_position = $3,
                hold_change_position = $4, event_position = $5, account_id = $6,
                chain_sequence = $7, chain_hash = $8";

impl Head {
    pub(super) fn from_row(row: &tokio_postgres::Row) -> Result<Self, StoreError> {
        Ok(Self {
            schema_version: value(row, 0)?,
            last_commit_ms: value(row, 1)?,
            commit_position: value(row, 2)?,
            transfer_position: value(row, 3)?,
            hold_change_position: value(row, 4)?,
            event_position: value(row, 5)?,
            account_id: value(row, 6)?,
            chain_sequence: value(row, 7)?,
            chain_hash: chain_hash(row, 8)?,
            chain_writer: value(row, 9)?,
        })
    }

    /// The columns in the order of [`LOCK_HEAD`].
    pub(super) fn params(&self) -> Vec<Param> {
        vec![
            Box::new(self.schema_version),
            Box::new(self.last_commit_ms),
            Box::new(self.commit_position),
            Box::new(self.transfer_position),
            Box::new(self.hold_change_position),
            Box::new(self.event_position),
            Box::new(self.account_id),
            Box::new(self.chain_sequence),
            Box::new(self.chain_hash.as_bytes().to_vec()),
            Box::new(self.chain_writer.clone()),
        ]
    }

    /// The end of the chain before this group.
    pub(super) fn chain(&self) -> ChainHead {
        ChainHead {
            writer: self.chain_writer.clone(),
            sequence: self.chain_sequence,
            hash: self.chain_hash,
        }
    }
}

/// A statement and its values.
pub(super) struct Statement {
    pub(super) sql: &'static str,
    pub(super) params: Vec<Param>,
}

/// A group as it is to be written.
pub(super) struct Written {
    /// In the order in which they must be done.
    pub(super) statements: Vec<Statement>,
    /// What the head will be.
    pub(super) head: Head,
    /// The ids of the accounts that change.
    pub(super) accounts: HashMap<Account, i64>,
}

/// The statements of a group.
pub(super) fn statements(
    changes: &Changes,
    snapshot: &Snapshot,
    head: &Head,
    at_ms: i64,
) -> Result<Written, StoreError> {
    let mut writing = Writing {
        head: head.clone(),
        statements: Vec::new(),
    };
    let ids = writing.accounts(changes, snapshot);
    writing.transfers(changes, &ids);
    writing.holds(changes)?;
    writing.hold_changes(changes);
    writing.documents(changes);
    writing.names(changes);
    writing.events(changes);
    writing.due(changes);
    writing.commits(changes);
    writing.head(at_ms);
    let Writing { head, statements } = writing;
    Ok(Written {
        statements,
        head,
        accounts: ids,
    })
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

    fn transfers(&mut self, changes: &Changes, ids: &HashMap<Account, i64>) {
        let rows = &changes.transfers;
        if let Some(last) = rows.last() {
            self.head.transfer_position = last.position;
        }
        let id = |account: &Account| ids.get(account).copied();
        self.add(rows, ADD_TRANSFERS, || {
            vec![
                column(rows, |row| row.position),
                column(rows, |row| row.commit),
                column(rows, |row| row.id.to_string()),
                column(rows, |row| row.follows.map(|id| id.to_string())),
                column(rows, |row| row.at_ms),
                column(rows, |row| id(&row.debit)),
                column(rows, |row| id(&row.credit)),
                column(rows, |row| row.amount),
                column(rows, |row| row.kind.as_str().to_owned()),
                column(rows, |row| row.reference.clone()),
                column(rows, |row| row.debit_balance_after),
                column(rows, |row| row.credit_balance_after),
            ]
        });
        let rows: Vec<_> = changes.reversed.iter().collect();
        self.add(&rows, PUT_REVERSALS, || {
            vec![
                column(&rows, |row| row.0.to_string()),
                column(&rows, |row| *row.1),
            ]
        });
    }

    fn holds(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for state in changes.holds.values() {
            let usage = match state.hold.usage.as_slice() {
                [] => None,
                usage => Some(serde_json::to_string(usage).map_err(corrupt)?),
            };
            rows.push((&state.hold.transfer, usage, state));
        }
        self.add(&rows, PUT_HOLDS, || {
            vec![
                column(&rows, |row| row.0.id.to_string()),
                column(&rows, |row| row.0.debit.to_string()),
                column(&rows, |row| row.0.credit.to_string()),
                column(&rows, |row| row.0.amount),
                column(&rows, |row| row.2.remaining),
                column(&rows, |row| row.0.kind.as_str().to_owned()),
                column(&rows, |row| row.0.reference.clone()),
                column(&rows, |row| row.0.credit_ceiling),
                column(&rows, |row| row.2.hold.expires_at_ms),
                column(&rows, |row| row.1.clone()),
            ]
        });
        Ok(())
    }

    fn hold_changes(&mut self, changes: &Changes) {
        let rows = &changes.hold_changes;
        if let Some(last) = rows.last() {
            self.head.hold_change_position = last.position;
        }
        self.add(rows, ADD_HOLD_CHANGES, || {
            vec![
                column(rows, |row| row.position),
                column(rows, |row| row.commit),
                column(rows, |row| row.hold.transfer.id.to_string()),
                column(rows, |row| row.change.as_str().to_owned()),
                column(rows, |row| row.amount),
                column(rows, |row| row.remaining),
            ]
        });
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
        let rows = &changes.commits;
        if let Some(last) = rows.last() {
            self.head.commit_position = last.position;
            self.head.chain_sequence = last.sequence;
            self.head.chain_hash = last.hash;
        }
        self.add(rows, ADD_COMMITS, || {
            vec![
                column(rows, |row| row.position),
                column(rows, |row| row.batch.to_string()),
                column(rows, |row| row.at_ms),
                column(rows, |row| row.scope.clone()),
                column(rows, |row| row.writer.clone()),
                column(rows, |row| row.sequence),
                column(rows, |row| row.hash.as_bytes().to_vec()),
            ]
        });
    }

    fn head(&mut self, at_ms: i64) {
        self.head.last_commit_ms = at_ms;
        let head = self.head.clone();
        self.add(&[()], MOVE_HEAD, || {
            vec![
                Box::new(at_ms),
                Box::new(head.commit_position),
                Box::new(head.transfer_position),
                Box::new(head.hold_change_position),
                Box::new(head.event_position),
                Box::new(head.account_id),
                Box::new(head.chain_sequence),
                Box::new(head.chain_hash.as_bytes().to_vec()),
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
INSERT INTO transfers (position, commit_position, id, follows, at_ms, debit, credit, amount, kind,
                       reference, debit_balance_after, credit_balance_after)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[],
                     $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], $10::text[],
                     $11::bigint[], $12::bigint[])";

const PUT_REVERSALS: &str = "
INSERT INTO reversals (transfer, amount) SELECT * FROM unnest($1::text[], $2::bigint[])
ON CONFLICT (transfer) DO UPDATE SET amount = excluded.amount";

const PUT_HOLDS: &str = "
INSERT INTO holds (id, debit, credit, amount, remaining, kind, reference, credit_ceiling,
                   expires_at_ms, usage)
SELECT id, debit, credit, amount, remaining, kind, reference, credit_ceiling, expires_at_ms,
       usage::json
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
            $8::bigint[], $9::bigint[], $10::text[])
     AS row (id, debit, credit, amount, remaining, kind, reference, credit_ceiling, expires_at_ms,
             usage)
ON CONFLICT (id) DO UPDATE SET remaining = excluded.remaining";

const ADD_HOLD_CHANGES: &str = "
INSERT INTO hold_changes (position, commit_position, hold, change, amount, remaining)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[],
                     $6::bigint[])";

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
INSERT INTO commits (position, batch, at_ms, scope, writer, sequence, hash)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[],
                     $7::bytea[])";
