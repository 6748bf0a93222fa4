//! Whoever holds a card is told when a charge brings it below a threshold.
//!
//! What is on the card after a charge is known once it is committed, not when it is decided: two
//! charges at once may cross the threshold together, and neither by itself. So the charge sets a
//! job, which reads in the books what each transfer left, and tells it once.

use super::charge_model::Charge;
use super::model::{Card, LowBalance};
use super::{Cards, charge_rules, load};
use crate::Error;
use crate::core::emit;
use crate::ids::ChargeId;
use crate::ledger::{DueJob, Refusal, Step};

/// The job that looks what a charge has left on its card.
pub(crate) const LOW_BALANCE_JOB: &str = "card.low_balance";

/// The job, of a card whose holder wants to be told.
pub(super) fn look(card: &Card, charge: &Charge, at_ms: i64) -> Option<Step> {
    card.limits.low_balance.map(|_| {
        Step::Due(DueJob {
            kind: LOW_BALANCE_JOB.to_owned(),
            object: charge.id.to_string(),
            due_at_ms: at_ms,
        })
    })
}

/// True when taking `amount` and leaving `after` crossed the threshold.
fn crossed(after: i64, amount: i64, threshold: i64) -> bool {
    after < threshold && after.saturating_add(amount) >= threshold
}

impl Cards {
    /// Tells of a charge that brought its card below the threshold.
    pub(crate) async fn tell_low_balance(&self, id: ChargeId) -> Result<(), Error> {
        let done = Step::Done {
            kind: LOW_BALANCE_JOB,
            object: id.to_string(),
        };
        let mut steps = vec![done.clone()];
        if let Some(low) = self.low_balance(id).await? {
            // Two instances may have the job at once, when its lease has run out under one.
            steps.push(Step::Claim {
                name: format!("low_balance/{id}"),
                by: id.to_string(),
            });
            steps.push(emit("card.low_balance", low.card.to_string(), &low)?);
        }
        match self.core.commit(steps).await {
            Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => {
                self.core.commit(vec![done]).await.map(drop)
            }
            committed => committed.map(drop),
        }
    }

    async fn low_balance(&self, id: ChargeId) -> Result<Option<LowBalance>, Error> {
        let record = self.load_charge(id).await?.value;
        let Some(transfer) = charge_rules::payment(&record) else {
            return Ok(None);
        };
        let Some(paid) = self.core.store.transfer(transfer).await? else {
            return Ok(None);
        };
        let card = load(&self.core, record.charge.card).await?.value;
        let Some(threshold) = card.limits.low_balance else {
            return Ok(None);
        };
        let balance = paid.balance_after(&card.balance_account());
        if !crossed(balance, paid.amount, threshold) {
            return Ok(None);
        }
        Ok(Some(LowBalance {
            card: card.id,
            charge: id,
            unit: card.unit,
            balance,
            threshold,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_crossed_once_on_the_way_down() {
        for (after, amount, is_crossed) in [
            (1_000, 1, false),
            (999, 1, true),
            (999, 500, true),
            (998, 1, false),
            (0, 1_000, true),
            (0, 999, false),
        ] {
            assert_eq!(
                crossed(after, amount, 1_000),
                is_crossed,
                "{after} {amount}"
            );
        }
    }
}
