//! Pure decisions about points: no I/O, no clock.

use super::model::{Program, Redemption};
use crate::Error;
use crate::core::{Core, emit};
use crate::ids::{CardId, ProgramId, TransferId};
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::money::MoneyError;

/// How many points a sale earns, rounded down to whole points.
pub(crate) fn points_for(program: &Program, amount_msat: i64) -> Result<i64, MoneyError> {
    let per_point = i128::from(program.point_value_msat) * 10_000;
    let earned = i128::from(amount_msat) * i128::from(program.earn_bps);
    i64::try_from(earned.checked_div(per_point).unwrap_or(0)).map_err(|_| MoneyError::Overflow)
}

/// What points are worth.
pub(crate) fn value_of(program: &Program, points: i64) -> Result<i64, MoneyError> {
    points
        .checked_mul(program.point_value_msat)
        .ok_or(MoneyError::Overflow)
}

/// Points that a sale earns; their steps belong in the sale's batch.
pub(crate) struct Accrual {
    pub(crate) program: ProgramId,
    pub(crate) points: i64,
    pub(super) value_msat: i64,
    pub(super) guard: Step,
    pub(super) merchant: crate::ids::MerchantId,
    pub(super) card: CardId,
}

impl Accrual {
    /// The merchant sets the value of the points aside, and the card gets the points. A sale too
    /// small for a whole point moves nothing.
    pub(crate) fn steps(self, core: &Core, reference: &str) -> Result<Vec<Step>, Error> {
        let mut steps = vec![self.guard];
        if self.points == 0 {
            return Ok(steps);
        }
        steps.push(Step::Transfer(NewTransfer {
            id: core.new_id(TransferId::from_parts)?,
            debit: Account::merchant_payable(self.merchant),
            credit: Account::reward_fund(self.program),
            amount: self.value_msat,
            kind: TransferKind::RewardFunding,
            reference: reference.to_owned(),
            credit_ceiling: None,
        }));
        steps.push(Step::Transfer(NewTransfer {
            id: core.new_id(TransferId::from_parts)?,
            debit: Account::points_issued(self.program),
            credit: Account::points_balance(self.card, self.program),
            amount: self.points,
            kind: TransferKind::PointsAccrual,
            reference: reference.to_owned(),
            credit_ceiling: None,
        }));
        Ok(steps)
    }
}

/// The points come back, and what was set aside for them goes on the card.
pub(super) fn redeem(
    redemption: &Redemption,
    points_id: TransferId,
    money_id: TransferId,
    card_ceiling: Option<i64>,
) -> Result<Vec<Step>, Error> {
    let Redemption { card, program, .. } = *redemption;
    let reference = redemption.id.to_string();
    Ok(vec![
        Step::Transfer(NewTransfer {
            id: points_id,
            debit: Account::points_balance(card, program),
            credit: Account::points_issued(program),
            amount: redemption.points,
            kind: TransferKind::PointsRedemption,
            reference: reference.clone(),
            credit_ceiling: None,
        }),
        Step::Transfer(NewTransfer {
            id: money_id,
            debit: Account::reward_fund(program),
            credit: Account::card_balance(card),
            amount: redemption.amount_msat,
            kind: TransferKind::RedemptionCredit,
            reference,
            credit_ceiling: card_ceiling,
        }),
        emit("points.redeemed", card.to_string(), redemption)?,
    ])
}
