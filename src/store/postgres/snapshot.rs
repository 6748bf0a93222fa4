//! What a group reads: which rows its batches name, and those rows as they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use serde::de::DeserializeOwned;
use tokio_postgres::Row;

use super::connection::Param;
use crate::ids::{BatchId, TransferId};
use crate::ledger::{
    Account, Balance, Batch, Commit, HoldState, Json, NewHold, NewTransfer, Step, TransferKind,
    TransferRow, UsageWindow,
};
use crate::store::StoreError;

/// The rows that batches name. A hold's accounts come with the hold.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) batches: BTreeSet<BatchId>,
    pub(super) scopes: BTreeSet<String>,
    /// Of transfers and holds, which share their ids.
    pub(super) transfers: BTreeSet<TransferId>,
    pub(super) accounts: BTreeSet<Account>,
    /// Accounts of which the holds are wanted that end by themselves, and how many at most.
    pub(super) due: BTreeMap<Account, i64>,
    /// Up to when such a hold must have ended.
    pub(super) due_until_ms: i64,
    pub(super) documents: BTreeSet<(String, String)>,
    pub(super) claims: BTreeSet<String>,
    pub(super) counters: BTreeSet<String>,
    pub(super) usage: BTreeSet<(String, i64)>,
}

impl Keys {
    pub(super) fn add_batch(&mut self, batch: &Batch) {
        self.batches.insert(batch.id);
        if let Some(command) = &batch.command {
            self.scopes.insert(command.scope.clone());
        }
        for step in batch.steps.iter() {
            self.add_step(step);
        }
    }

    fn add_step(&mut self, step: &Step) {
        match step {
            Step::Transfer(transfer) | Step::TransferUpTo(transfer) => {
                self.add_transfer(transfer);
            }
            Step::Reverse(reversal) => {
                self.transfers.extend([reversal.id, reversal.of]);
                self.usage.extend(reversal.usage.iter().map(usage_key));
                if let Some(shortfall) = &reversal.shortfall {
                    self.transfers.insert(shortfall.id);
                    self.add_account(shortfall.receivable);
                }
            }
            Step::Hold(hold) => {
                self.add_transfer(&hold.transfer);
                self.usage.extend(hold.usage.iter().map(usage_key));
            }
            Step::Capture { hold, id, .. } => self.transfers.extend([*hold, *id]),
            Step::Release { hold } => {
                self.transfers.insert(*hold);
            }
            Step::Put(document) => {
                let collection = document.collection.to_owned();
                self.documents.insert((collection, document.id.clone()));
            }
            Step::Require { collection, id, .. } => {
                self.documents
                    .insert(((*collection).to_owned(), id.clone()));
            }
            Step::Within { account, .. } => {
                self.accounts.insert(*account);
                self.due.insert(*account, FIRST_DUE);
            }
            Step::Claim { name, .. } => {
                self.claims.insert(name.clone());
            }
            Step::Advance { counter, .. } => {
                self.counters.insert(counter.clone());
            }
            Step::Use { window, .. } | Step::Unuse { window, .. } => {
                self.usage.insert(usage_key(window));
            }
            Step::Emit(_) | Step::Due(_) | Step::Done { .. } => {}
        }
    }

    fn add_transfer(&mut self, transfer: &NewTransfer) {
        self.transfers.insert(transfer.id);
        self.add_account(transfer.debit);
        self.add_account(transfer.credit);
    }

    fn add_account(&mut self, account: Account) {
        self.accounts.insert(account);
        // Only an account with a floor needs what its ended holds give back.
        if account.kind().floor().is_some() {
            self.due.insert(account, FIRST_DUE);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
            && self.scopes.is_empty()
            && self.transfers.is_empty()
            && self.accounts.is_empty()
            && self.due.is_empty()
            && self.documents.is_empty()
            && self.claims.is_empty()
            && self.counters.is_empty()
            && self.usage.is_empty()
    }

    /// What is looked for and must not be there, in a group that was not loaded: of the transfers
    /// and holds those that `are_fresh`.
    pub(super) fn fresh_params(&self, are_fresh: impl Fn(TransferId) -> bool) -> [Param; 4] {
        let fresh = self.transfers.iter().filter(|id| are_fresh(**id));
        [
            texts(&self.batches),
            texts(&self.scopes),
            Box::new(fresh.map(ToString::to_string).collect::<Vec<_>>()),
            texts(&self.claims),
        ]
    }

    /// The values of [`LOAD`].
    pub(super) fn params(&self) -> Vec<Param> {
        let (collections, ids): (Vec<String>, Vec<String>) = self.documents.iter().cloned().unzip();
        let (subjects, starts): (Vec<String>, Vec<i64>) = self.usage.iter().cloned().unzip();
        let due: Vec<String> = self.due.keys().map(ToString::to_string).collect();
        let most: Vec<i64> = self.due.values().copied().collect();
        vec![
            texts(&self.batches),
            texts(&self.scopes),
            texts(&self.transfers),
            texts(&self.accounts),
            Box::new(collections),
            Box::new(ids),
            texts(&self.claims),
            texts(&self.counters),
            Box::new(subjects),
            Box::new(starts),
            Box::new(due),
            Box::new(most),
            Box::new(self.due_until_ms),
        ]
    }
}

fn texts<T: ToString>(keys: &BTreeSet<T>) -> Param {
    Box::new(keys.iter().map(ToString::to_string).collect::<Vec<_>>())
}

pub(super) fn usage_key(window: &UsageWindow) -> (String, i64) {
    (window.subject.clone(), window.start_ms)
}

/// How many ended holds of an account are loaded at first. Twice what a commit gives back at once,
/// so that a group rarely needs more.
pub(super) const FIRST_DUE: i64 = 128;

/// All rows of a group in one statement and one row, each column a JSON array of rows. Holds and
/// transfers bring their accounts with them, and holds the usage they would give back.
pub(super) const LOAD: &str = "
WITH due_holds AS (
         SELECT k.account, h.id FROM unnest($11::text[], $12::bigint[]) AS k (account, most),
         LATERAL (
             SELECT * FROM (SELECT id, expires_at_ms FROM holds
                  WHERE debit = k.account AND expires_at_ms <= $13 AND remaining > 0
                        AND expires_at_ms IS NOT NULL
                  ORDER BY expires_at_ms, id LIMIT k.most) AS debited
             UNION ALL
             SELECT * FROM (SELECT id, expires_at_ms FROM holds
                  WHERE credit = k.account AND expires_at_ms <= $13 AND remaining > 0
                        AND expires_at_ms IS NOT NULL
                  ORDER BY expires_at_ms, id LIMIT k.most) AS credited
             ORDER BY expires_at_ms, id LIMIT k.most) AS h),
     wanted_holds AS (
         SELECT * FROM holds
         WHERE id IN (SELECT unnest($3::text[]) UNION SELECT id FROM due_holds)),
     wanted_transfers AS (
         SELECT t.*, d.account AS debited, c.account AS credited FROM transfers t
         JOIN accounts d ON d.id = t.debit JOIN accounts c ON c.id = t.credit
         WHERE t.id = ANY ($3::text[]))
SELECT
    (SELECT json_agg(json_build_array(c.batch, c.at_ms, m.answer::text))::text
     FROM commits c LEFT JOIN commands m ON m.scope = c.scope WHERE c.batch = ANY ($1::text[])),
    (SELECT json_agg(json_build_array(scope, fingerprint, at_ms, answer::text))::text
     FROM commands WHERE scope = ANY ($2::text[])),
    (SELECT json_agg(json_build_object(
         'position', position, 'commit', commit_position, 'id', id, 'follows', follows,
         'at_ms', at_ms, 'debit', debited, 'credit', credited, 'amount', amount, 'kind', kind,
         'reference', reference, 'debit_balance_after', debit_balance_after,
         'credit_balance_after', credit_balance_after))::text
     FROM wanted_transfers),
    (SELECT json_agg(json_build_array(id, debit, credit, amount, remaining, kind, reference,
                                      credit_ceiling, expires_at_ms, usage))::text
     FROM wanted_holds),
    (SELECT json_agg(json_build_array(account, id, debits_posted::text, credits_posted::text,
                                      debits_pending, credits_pending))::text
     FROM accounts WHERE account IN (
         SELECT unnest($4::text[])
         UNION SELECT debit FROM wanted_holds UNION SELECT credit FROM wanted_holds
         UNION SELECT debited FROM wanted_transfers UNION SELECT credited FROM wanted_transfers)),
    (SELECT json_agg(json_build_array(d.collection, d.id, d.version))::text
     FROM unnest($5::text[], $6::text[]) AS k (collection, id)
          JOIN documents d ON d.collection = k.collection AND d.id = k.id),
    (SELECT json_agg(json_build_array(name, claimed_by))::text
     FROM claims WHERE name = ANY ($7::text[])),
    (SELECT json_agg(json_build_array(name, value))::text
     FROM counters WHERE name = ANY ($8::text[])),
    (SELECT json_agg(json_build_array(u.subject, u.start_ms, u.used))::text
     FROM (SELECT subject, start_ms FROM unnest($9::text[], $10::bigint[]) AS k (subject, start_ms)
           UNION
           SELECT given.value ->> 'subject', (given.value ->> 'start_ms')::bigint
           FROM wanted_holds, json_array_elements(usage) AS given) AS k
          JOIN usage u ON u.subject = k.subject AND u.start_ms = k.start_ms),
    (SELECT json_agg(json_build_array(transfer, amount))::text
     FROM reversals WHERE transfer = ANY ($3::text[])),
    (SELECT json_agg(json_build_array(account, id))::text FROM due_holds)";

/// An account's row.
#[derive(Debug, Clone, Copy)]
pub(super) struct AccountRow {
    pub(super) id: i64,
    pub(super) balance: Balance,
}

/// The open holds of an account that end by a time, all of them.
#[derive(Debug, Default)]
pub(super) struct DueHolds {
    pub(super) ids: BTreeSet<TransferId>,
    /// How many were asked for.
    pub(super) most: i64,
    /// Up to and with this time. Where there were more than were asked for, to before the end of
    /// the last one that was answered.
    pub(super) until_ms: i64,
}

impl DueHolds {
    /// Whether not all were answered that were asked for.
    pub(super) fn are_cut(&self) -> bool {
        i64::try_from(self.ids.len()).is_ok_and(|found| found >= self.most)
    }
}

/// Rows as they are while the head is locked. A key that is not in here was not asked for; one
/// that has no row has `None`.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) commits: HashMap<BatchId, Option<Commit>>,
    pub(super) commands: HashMap<String, Option<(String, Commit)>>,
    pub(super) transfers: HashMap<TransferId, Option<TransferRow>>,
    pub(super) reversed: HashMap<TransferId, Option<i64>>,
    pub(super) holds: HashMap<TransferId, Option<HoldState>>,
    pub(super) accounts: HashMap<Account, Option<AccountRow>>,
    pub(super) due: HashMap<Account, DueHolds>,
    pub(super) documents: HashMap<(String, String), Option<i64>>,
    pub(super) claims: HashMap<String, Option<String>>,
    pub(super) counters: HashMap<String, Option<i64>>,
    pub(super) usage: HashMap<(String, i64), Option<i64>>,
}

type HoldRow = (
    TransferId,
    Account,
    Account,
    i64,
    i64,
    TransferKind,
    String,
    Option<i64>,
    Option<i64>,
    Option<Vec<UsageWindow>>,
);

impl Snapshot {
    /// Adds what [`LOAD`] answered for `keys`.
    pub(super) fn add(&mut self, keys: &Keys, row: &Row) -> Result<(), StoreError> {
        for (batch, at_ms, answer) in rows::<(BatchId, i64, Option<String>)>(row, 0)? {
            let commit = commit(at_ms, answer)?;
            self.commits.insert(batch, Some(commit));
        }
        for (scope, fingerprint, at_ms, answer) in
            rows::<(String, String, i64, Option<String>)>(row, 1)?
        {
            let commit = commit(at_ms, answer)?;
            self.commands.insert(scope, Some((fingerprint, commit)));
        }
        self.add_money(row)?;
        for (collection, id, version) in rows::<(String, String, i64)>(row, 5)? {
            self.documents.insert((collection, id), Some(version));
        }
        for (name, by) in rows::<(String, String)>(row, 6)? {
            self.claims.insert(name, Some(by));
        }
        for (name, value) in rows::<(String, i64)>(row, 7)? {
            self.counters.insert(name, Some(value));
        }
        for (subject, start_ms, used) in rows::<(String, i64, i64)>(row, 8)? {
            self.usage.insert((subject, start_ms), Some(used));
        }
        for (account, most) in &keys.due {
            let due = DueHolds {
                ids: BTreeSet::new(),
                most: *most,
                until_ms: keys.due_until_ms,
            };
            self.due.insert(*account, due);
        }
        for (account, id) in rows::<(Account, TransferId)>(row, 10)? {
            self.due.entry(account).or_default().ids.insert(id);
        }
        self.note_cut(keys);
        self.note_absent(keys);
        Ok(())
    }

    fn add_money(&mut self, row: &Row) -> Result<(), StoreError> {
        for transfer in rows::<TransferRow>(row, 2)? {
            self.transfers.insert(transfer.id, Some(transfer));
        }
        for (transfer, amount) in rows::<(TransferId, i64)>(row, 9)? {
            self.reversed.insert(transfer, Some(amount));
        }
        for hold in rows::<HoldRow>(row, 3)? {
            let hold = hold_state(hold);
            // The same statement has looked for all that the hold names.
            for window in &hold.hold.usage {
                self.usage.entry(usage_key(window)).or_default();
            }
            self.holds.insert(hold.hold.transfer.id, Some(hold));
        }
        for (account, id, debits, credits, debits_pending, credits_pending) in
            rows::<(Account, i64, String, String, i64, i64)>(row, 4)?
        {
            let balance = Balance {
                debits_posted: debits.parse().map_err(corrupt)?,
                credits_posted: credits.parse().map_err(corrupt)?,
                debits_pending,
                credits_pending,
            };
            self.accounts
                .insert(account, Some(AccountRow { id, balance }));
        }
        Ok(())
    }

    /// Of an account with more holds than were asked for all are known that end before the last.
    fn note_cut(&mut self, keys: &Keys) {
        for account in keys.due.keys() {
            let Some(due) = self.due.get_mut(account).filter(|due| due.are_cut()) else {
                continue;
            };
            let ends = due.ids.iter().filter_map(|id| self.holds.get(id)?.as_ref());
            let last = ends.filter_map(|state| state.hold.expires_at_ms).max();
            due.until_ms = last.map_or(i64::MIN, |last| last.saturating_sub(1));
        }
    }

    /// A hold is now so.
    pub(super) fn note_hold(&mut self, state: &HoldState) {
        let HoldState { hold, remaining } = state;
        let Some(end_ms) = hold.expires_at_ms else {
            return;
        };
        for account in [hold.transfer.debit, hold.transfer.credit] {
            let Some(due) = self.due.get_mut(&account) else {
                continue;
            };
            if *remaining > 0 && end_ms <= due.until_ms {
                due.ids.insert(hold.transfer.id);
            } else {
                due.ids.remove(&hold.transfer.id);
            }
        }
    }

    /// Takes what can be there only once as not there yet.
    pub(super) fn note_fresh(&mut self, keys: &Keys) {
        absent(&mut self.commits, &keys.batches);
        absent(&mut self.commands, &keys.scopes);
        absent(&mut self.transfers, &keys.transfers);
        absent(&mut self.holds, &keys.transfers);
        absent(&mut self.reversed, &keys.transfers);
        absent(&mut self.claims, &keys.claims);
    }

    /// Keeps of a group what a later one may need: the rows that change, and which holds end soon.
    /// What can be there only once is new in every group.
    pub(super) fn forget_fresh(&mut self) {
        self.commits.clear();
        self.commands.clear();
        self.transfers.clear();
        self.reversed.clear();
        self.holds.clear();
        self.claims.clear();
    }

    /// Adds rows of the same moment.
    pub(super) fn absorb(&mut self, rows: Self) {
        self.forget_fresh();
        self.accounts.extend(rows.accounts);
        self.documents.extend(rows.documents);
        self.counters.extend(rows.counters);
        self.usage.extend(rows.usage);
        self.due.extend(rows.due);
    }

    /// How many rows there are of the kind with most.
    pub(super) fn largest(&self) -> usize {
        let kept = [
            self.accounts.len(),
            self.documents.len(),
            self.counters.len(),
            self.usage.len(),
            self.due.len(),
        ];
        kept.into_iter().max().unwrap_or(0)
    }

    /// What was asked for and not found is not there.
    fn note_absent(&mut self, keys: &Keys) {
        absent(&mut self.commits, &keys.batches);
        absent(&mut self.commands, &keys.scopes);
        absent(&mut self.transfers, &keys.transfers);
        absent(&mut self.holds, &keys.transfers);
        absent(&mut self.reversed, &keys.transfers);
        absent(&mut self.accounts, &keys.accounts);
        absent(&mut self.documents, &keys.documents);
        absent(&mut self.claims, &keys.claims);
        absent(&mut self.counters, &keys.counters);
        absent(&mut self.usage, &keys.usage);
    }
}

fn absent<K: Clone + Eq + Hash, V>(rows: &mut HashMap<K, Option<V>>, keys: &BTreeSet<K>) {
    for key in keys {
        rows.entry(key.clone()).or_default();
    }
}

fn rows<T: DeserializeOwned>(row: &Row, column: usize) -> Result<Vec<T>, StoreError> {
    match row.try_get::<_, Option<&str>>(column).map_err(corrupt)? {
        Some(text) => serde_json::from_str(text).map_err(corrupt),
        None => Ok(Vec::new()),
    }
}

pub(super) fn commit(at_ms: i64, answer: Option<String>) -> Result<Commit, StoreError> {
    let answer = answer.map(Json::from_text);
    Ok(Commit {
        at_ms,
        answer: answer.transpose().map_err(corrupt)?,
        replayed: false,
    })
}

fn hold_state(row: HoldRow) -> HoldState {
    let (
        id,
        debit,
        credit,
        amount,
        remaining,
        kind,
        reference,
        credit_ceiling,
        expires_at_ms,
        usage,
    ) = row;
    let transfer = NewTransfer {
        id,
        debit,
        credit,
        amount,
        kind,
        reference,
        credit_ceiling,
    };
    let hold = NewHold {
        transfer,
        expires_at_ms,
        usage: usage.unwrap_or_default(),
    };
    HoldState { hold, remaining }
}

/// A row that is not what was written.
pub(super) fn corrupt(error: impl std::error::Error) -> StoreError {
    StoreError::Corrupt {
        reason: error.to_string(),
    }
}
