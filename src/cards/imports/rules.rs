//! Pure decisions about cards that come over: no I/O, no clock.

use std::collections::HashMap;

use super::model::{ImportReport, ImportedCard, RefusedRow, RowRefusal};
use crate::cards::boltcard::RingKey;
use crate::cards::rules::MAX_COUNTER;
use crate::core::check_text;
use crate::money::MAX_MSAT;

/// The keyed hash of a chip's number, in lower case; `None` for what is none.
pub(super) fn chip_id(text: &str) -> Option<String> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(hex::encode(bytes))
}

/// The chip of a row that makes sense by itself.
fn check(row: &ImportedCard, key: &RingKey) -> Result<String, RowRefusal> {
    let given = match &row.id {
        Some(id) => Some(chip_id(id).ok_or(RowRefusal::BadId)?),
        None => None,
    };
    let computed = match &row.uid {
        Some(uid) => {
            let uid = crate::cards::parse_uid(uid).map_err(|_| RowRefusal::BadId)?;
            Some(hex::encode(key.card_id_hash(&uid)))
        }
        None => None,
    };
    let chip = match (given, computed) {
        (Some(given), Some(computed)) if given != computed => return Err(RowRefusal::IdMismatch),
        (given, computed) => given.or(computed).ok_or(RowRefusal::BadId)?,
    };
    if row.counter > MAX_COUNTER {
        return Err(RowRefusal::BadCounter);
    }
    let id = row.pull_payment_id.as_deref().unwrap_or_default();
    check_text("pull_payment_id", id, 100, "").map_err(|_| RowRefusal::BadPullPaymentId)?;
    if !(0..=MAX_MSAT).contains(&row.balance_msat) {
        return Err(RowRefusal::BadBalance);
    }
    Ok(chip)
}

/// The chip of each row, or why it is refused whatever the books say.
pub(super) fn chips(rows: &[ImportedCard], key: &RingKey) -> Vec<Result<String, RowRefusal>> {
    let mut seen = HashMap::with_capacity(rows.len());
    let of = |(place, row)| {
        let chip = check(row, key)?;
        match seen.insert(chip.clone(), place) {
            Some(before) => {
                seen.insert(chip, before);
                Err(RowRefusal::Duplicate { row: before })
            }
            None => Ok(chip),
        }
    };
    rows.iter().enumerate().map(of).collect()
}

impl ImportReport {
    /// Counts a row of which it is known what becomes of it.
    pub(super) fn count(
        &mut self,
        place: usize,
        row: &ImportedCard,
        outcome: Result<(), RowRefusal>,
    ) {
        self.rows += 1;
        self.rows_msat = self.rows_msat.saturating_add(row.balance_msat);
        match outcome {
            Ok(()) => {
                self.cards += 1;
                self.cards_msat = self.cards_msat.saturating_add(row.balance_msat);
                self.counters += u64::from(row.counter);
            }
            Err(refusal) => self.refused.push(RefusedRow {
                row: place,
                id: row.id.clone(),
                refusal,
            }),
        }
    }

    /// With what came of more rows.
    pub(super) fn add(&mut self, more: Self) {
        self.rows += more.rows;
        self.rows_msat = self.rows_msat.saturating_add(more.rows_msat);
        self.cards += more.cards;
        self.cards_msat = self.cards_msat.saturating_add(more.cards_msat);
        self.counters += more.counters;
        self.refused.extend(more.refused);
    }
}
