//! Holds and transfers of before, so that a group which names them need not load them: what this
//! instance has written or loaded lately, as it stands while nobody else has written since.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::snapshot::{Keys, Snapshot};
use crate::ids::TransferId;
use crate::ledger::{Batch, Changes, HoldState, Step, TransferRow};

/// The most holds. With more, all are forgotten.
const MOST_HOLDS: usize = 16_384;
/// The most transfers: the oldest go.
const MOST_TRANSFERS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Lately {
    /// Open ones.
    holds: HashMap<TransferId, HoldState>,
    /// Each with how much of it was undone.
    transfers: HashMap<TransferId, (TransferRow, i64)>,
    /// In the order in which they came to be known.
    order: VecDeque<TransferId>,
}

impl Lately {
    /// Whether every hold that the batches end and every transfer that they undo is known, or is
    /// made by the batches themselves.
    pub(super) fn knows_what_is_named(&self, batches: &[Batch]) -> bool {
        let mut made = BTreeSet::new();
        for step in batches.iter().flat_map(|batch| batch.steps.iter()) {
            let is_known = match step {
                Step::Capture { hold, id, .. } => {
                    made.insert(*id);
                    self.holds.contains_key(hold) || made.contains(hold)
                }
                Step::Release { hold } => self.holds.contains_key(hold) || made.contains(hold),
                Step::Reverse(reversal) => {
                    made.insert(reversal.id);
                    self.transfers.contains_key(&reversal.of) || made.contains(&reversal.of)
                }
                Step::Transfer(transfer) | Step::TransferUpTo(transfer) => {
                    made.insert(transfer.id);
                    true
                }
                Step::Hold(hold) => {
                    made.insert(hold.transfer.id);
                    true
                }
                _ => true,
            };
            if !is_known {
                return false;
            }
        }
        true
    }

    /// Whether a hold or a transfer has this id, as far as is known.
    pub(super) fn has(&self, id: TransferId) -> bool {
        self.holds.contains_key(&id) || self.transfers.contains_key(&id)
    }

    /// Puts among `rows` what `keys` name, and the holds of their accounts that end soon.
    pub(super) fn lend(&self, keys: &Keys, rows: &mut Snapshot) {
        let mut accounts: BTreeSet<_> = keys.due.keys().copied().collect();
        for id in &keys.transfers {
            if let Some(state) = self.holds.get(id) {
                let transfer = &state.hold.transfer;
                accounts.extend([transfer.debit, transfer.credit]);
                rows.holds.insert(*id, Some(state.clone()));
            }
            if let Some((row, undone)) = self.transfers.get(id) {
                accounts.extend([row.debit, row.credit]);
                rows.transfers.insert(*id, Some(row.clone()));
                rows.reversed.insert(*id, Some(*undone));
            }
        }
        let ending = accounts.iter().filter_map(|account| rows.due.get(account));
        for id in ending.flat_map(|due| &due.ids) {
            if let Some(state) = self.holds.get(id) {
                rows.holds.insert(*id, Some(state.clone()));
            }
        }
    }

    /// Rows that were loaded.
    pub(super) fn loaded(&mut self, rows: &Snapshot) {
        for state in rows.holds.values().flatten() {
            self.hold(state);
        }
        for row in rows.transfers.values().flatten() {
            let undone = rows.reversed.get(&row.id).copied().flatten();
            self.transfer(row, undone.unwrap_or(0));
        }
        self.bound();
    }

    /// What was committed.
    pub(super) fn written(&mut self, changes: &Changes) {
        for state in changes.holds.values() {
            self.hold(state);
        }
        for row in &changes.transfers {
            self.transfer(row, 0);
        }
        for (id, undone) in &changes.reversed {
            if let Some(known) = self.transfers.get_mut(id) {
                known.1 = *undone;
            }
        }
        self.bound();
    }

    fn hold(&mut self, state: &HoldState) {
        let id = state.hold.transfer.id;
        if state.remaining > 0 {
            self.holds.insert(id, state.clone());
        } else {
            self.holds.remove(&id);
        }
    }

    fn transfer(&mut self, row: &TransferRow, undone: i64) {
        let known = (row.clone(), undone);
        if self.transfers.insert(row.id, known).is_none() {
            self.order.push_back(row.id);
        }
    }

    fn bound(&mut self) {
        if self.holds.len() > MOST_HOLDS {
            self.holds.clear();
        }
        while self.order.len() > MOST_TRANSFERS {
            if let Some(oldest) = self.order.pop_front() {
                self.transfers.remove(&oldest);
            }
        }
    }
}
