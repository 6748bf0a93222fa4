//! Where the old issuer had its counters in the end.

use std::collections::HashMap;

use super::model::{
    CardCounter, CounterReport, MovedCounter, RefusedRow, RowRefusal, SyncCounters,
};
use super::{CardImports, PIECE, check_rows, load, rules};
use crate::Error;
use crate::access::Credential;
use crate::cards::model::Card;
use crate::cards::rules::{self as card_rules, MAX_COUNTER};
use crate::cards::{CARDS, guard};
use crate::core::{Answer, Decision, Executed, Loaded, emit};
use crate::ids::{CardId, CardImportId};
use crate::ledger::Step;

impl CardImports {
    /// Moves the counters of cards that came over to where the old issuer had them in the end;
    /// never back. Issuer only.
    ///
    /// # Errors
    /// `card.import_not_found`, `command.out_of_bounds` above 1,000,000 rows, `command.*`,
    /// `access.*`. What of it was done before an error stays; the same call again does the rest.
    pub async fn sync_counters(
        &self,
        credential: &Credential,
        command: SyncCounters,
    ) -> Result<Answer<CounterReport>, Error> {
        let (imports, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &imports.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_rows(command.counters.len())?;
                load(core, command.import).await?;
                let mut report = Answer {
                    as_of_ms: core.clock.now_ms(),
                    value: CounterReport::default(),
                };
                for (number, rows) in command.counters.chunks(PIECE).enumerate() {
                    let first = number * PIECE;
                    let decide = || imports.decide_counters(command.import, first, rows);
                    let asked = (command.import, first, rows);
                    let done: Executed<CounterReport> = imports
                        .piece(
                            &caller,
                            "sync_counters",
                            &command.key,
                            first,
                            &asked,
                            decide,
                        )
                        .await?;
                    report.as_of_ms = done.answer.as_of_ms;
                    let more = done.answer.value;
                    report.value.rows += more.rows;
                    report.value.kept += more.kept;
                    report.value.moved.extend(more.moved);
                    report.value.refused.extend(more.refused);
                }
                Ok(report)
            })
            .await
    }

    async fn decide_counters(
        &self,
        import: CardImportId,
        first: usize,
        rows: &[CardCounter],
    ) -> Result<Decision<CounterReport>, Error> {
        let mut report = CounterReport {
            rows: rows.len(),
            ..CounterReport::default()
        };
        let (mut steps, mut moved) = (Vec::new(), HashMap::new());
        let mut begun = HashMap::new();
        for (offset, row) in rows.iter().enumerate() {
            let refused = match self.moved_card(import, row).await? {
                Ok(card) => {
                    let from = self.counter(&card.value, &moved).await?;
                    if row.counter > from {
                        moved.insert(card.value.id, row.counter);
                        let moved = move_counter(&card, from, row.counter, &mut steps)?;
                        report.moved.push(moved);
                        begun.insert(card.value.id, i64::from(row.counter));
                    } else {
                        report.kept += 1;
                        self.begin_at(&card, row.counter, &mut begun, &mut steps)
                            .await?;
                    }
                    continue;
                }
                Err(refusal) => refusal,
            };
            report.refused.push(RefusedRow {
                row: first + offset,
                id: Some(row.id.clone()),
                refusal: refused,
            });
        }
        Ok(Decision {
            steps,
            answer: report,
        })
    }

    /// The chip is further here than it was there, and what it did there is used all the same: a
    /// till that took one of those taps offline is not to be paid for it again.
    async fn begin_at(
        &self,
        card: &Loaded<Card>,
        counter: u32,
        begun: &mut HashMap<CardId, i64>,
        steps: &mut Vec<Step>,
    ) -> Result<(), Error> {
        let to = i64::from(counter);
        let here = match begun.get(&card.value.id) {
            Some(here) => *here,
            None => {
                let name = card_rules::claimed_from_name(&card.value);
                let stored = self.core.store.counter(&name).await?;
                stored.unwrap_or(card_rules::NO_COUNTER)
            }
        };
        if to > here {
            begun.insert(card.value.id, to);
            steps.push(guard(card));
            steps.push(card_rules::claimed_from(&card.value, to));
        }
        Ok(())
    }

    /// The card of a row.
    async fn moved_card(
        &self,
        import: CardImportId,
        row: &CardCounter,
    ) -> Result<Result<Loaded<Card>, RowRefusal>, Error> {
        if row.counter > MAX_COUNTER {
            return Ok(Err(RowRefusal::BadCounter));
        }
        let Some(chip) = rules::chip_id(&row.id) else {
            return Ok(Err(RowRefusal::BadId));
        };
        let found: Option<Loaded<Card>> = self.core.find(CARDS, "chip", &chip).await?;
        Ok(
            match found.filter(|card| card.value.import == Some(import)) {
                None => Err(RowRefusal::NotImported),
                Some(card) if card.value.version != row.version => Err(RowRefusal::OtherVersion {
                    version: card.value.version,
                }),
                Some(card) => Ok(card),
            },
        )
    }

    /// Where a counter stands, or is moved to by a row before.
    async fn counter(&self, card: &Card, moved: &HashMap<CardId, u32>) -> Result<u32, Error> {
        if let Some(moved) = moved.get(&card.id) {
            return Ok(*moved);
        }
        self.used_of(card).await
    }
}

fn move_counter(
    card: &Loaded<Card>,
    from: u32,
    to: u32,
    steps: &mut Vec<Step>,
) -> Result<MovedCounter, Error> {
    let id = card.value.id;
    let moved = MovedCounter { card: id, from, to };
    steps.push(guard(card));
    steps.push(Step::Advance {
        counter: card_rules::counter_name(&card.value),
        to: to.into(),
    });
    // What was used there is claimed by no name here.
    steps.push(card_rules::claimed_from(&card.value, to.into()));
    steps.push(emit("card.counter_synced", id.to_string(), &moved)?);
    Ok(moved)
}
