//! Pure decisions about points: no I/O, no clock.

use serde::{Deserialize, Serialize};

use super::model::{Program, Redemption, RedemptionConversion};
use crate::Error;
use crate::core::{Loaded, emit};
use crate::ids::{CardId, ProgramId, TransferId};
use crate::ledger::{Account, NewReversal, NewTransfer, Step, TransferKind};
use crate::money::{Asset, MoneyError};

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

/// The transfers that give the points of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RewardPosting {
    /// Sets their value aside.
    pub(crate) funding: TransferId,
    /// Gives them.
    pub(crate) points: TransferId,
}

/// Points that a sale earns; their steps belong in the sale's batch.
pub(crate) struct Accrual {
    pub(crate) program: ProgramId,
    pub(crate) points: i64,
    /// `None` for a sale too small for a whole point.
    pub(crate) posting: Option<RewardPosting>,
    pub(super) value_msat: i64,
    pub(super) guard: Step,
    pub(super) merchant: crate::ids::MerchantId,
    /// Whose money is behind them: of what the merchant has here, or has put aside.
    pub(super) from: Account,
    pub(super) card: CardId,
}

impl Accrual {
    /// The merchant sets the value of the points aside, and the card gets the points. A sale too
    /// small for a whole point moves nothing.
    pub(crate) fn steps(self, reference: &str) -> Vec<Step> {
        let mut steps = vec![self.guard];
        let Some(posting) = self.posting else {
            return steps;
        };
        steps.push(Step::Transfer(NewTransfer {
            id: posting.funding,
            debit: self.from,
            credit: Account::reward_fund(self.program),
            amount: self.value_msat,
            kind: TransferKind::RewardFunding,
            reference: reference.to_owned(),
            credit_ceiling: None,
        }));
        steps.push(Step::Transfer(NewTransfer {
            id: posting.points,
            debit: Account::points_issued(self.program),
            credit: Account::points_balance(self.card, self.program),
            amount: self.points,
            kind: TransferKind::PointsAccrual,
            reference: reference.to_owned(),
            credit_ceiling: None,
        }));
        steps
    }
}

/// Points of a sale that go back with a refund of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clawback {
    /// All of them.
    pub(crate) points: i64,
    /// What those are worth that the card has turned into money already.
    pub(crate) redeemed_msat: i64,
    /// Those that the card still has.
    at_hand: i64,
    at_hand_msat: i64,
}

/// What goes back of the points of a sale of which `standing_msat` is left: as many as what is
/// left would not have earned. The card has `available` points, and `standing_points` of the
/// sale were not taken back before.
pub(super) fn clawback(
    program: &Program,
    standing_msat: i64,
    standing_points: i64,
    available: i64,
) -> Result<Clawback, MoneyError> {
    let earned = points_for(program, standing_msat)?;
    let points = standing_points.saturating_sub(earned).max(0);
    let at_hand = points.min(available.max(0));
    Ok(Clawback {
        points,
        redeemed_msat: value_of(program, points - at_hand)?,
        at_hand,
        at_hand_msat: value_of(program, at_hand)?,
    })
}

impl Clawback {
    /// Those that the card still has, and what they are worth.
    pub(super) fn at_hand(&self) -> (i64, i64) {
        (self.at_hand, self.at_hand_msat)
    }

    /// The points come back, and what was set aside for them goes to the merchant again. `ids`
    /// are for the two reversals.
    pub(super) fn steps(
        &self,
        program: &Loaded<Program>,
        of: RewardPosting,
        ids: RewardPosting,
    ) -> Vec<Step> {
        let mut steps = vec![super::guard(program)];
        if self.at_hand == 0 {
            return steps;
        }
        let undo = |id, of, amount| {
            Step::Reverse(NewReversal {
                id,
                of,
                amount,
                shortfall: None,
                usage: Vec::new(),
            })
        };
        steps.push(undo(ids.points, of.points, self.at_hand));
        steps.push(undo(ids.funding, of.funding, self.at_hand_msat));
        steps
    }
}

/// The step that puts a currency on a card for what its points were worth.
pub(super) fn pay_in_currency(
    conversion: &RedemptionConversion,
    (credit, credit_ceiling): (Account, Option<i64>),
    id: TransferId,
    reference: String,
) -> Step {
    Step::Transfer(NewTransfer {
        id,
        debit: Account::exchange(Asset::Fiat(conversion.currency)),
        credit,
        amount: conversion.amount,
        kind: TransferKind::RedemptionCredit,
        reference,
        credit_ceiling,
    })
}

/// The points come back, and what was set aside for them goes on the card.
pub(super) fn redeem(
    redemption: &Redemption,
    points_id: TransferId,
    money_id: TransferId,
    points_of: CardId,
    (card_balance, card_ceiling): (Account, Option<i64>),
) -> Result<Vec<Step>, Error> {
    let Redemption { card, program, .. } = *redemption;
    let reference = redemption.id.to_string();
    Ok(vec![
        Step::Transfer(NewTransfer {
            id: points_id,
            debit: Account::points_balance(points_of, program),
            credit: Account::points_issued(program),
            amount: redemption.points,
            kind: TransferKind::PointsRedemption,
            reference: reference.clone(),
            credit_ceiling: None,
        }),
        Step::Transfer(NewTransfer {
            id: money_id,
            debit: Account::reward_fund(program),
            credit: card_balance,
            amount: redemption.amount_msat,
            kind: TransferKind::RedemptionCredit,
            reference,
            credit_ceiling: card_ceiling,
        }),
        emit("points.redeemed", card.to_string(), redemption)?,
    ])
}
