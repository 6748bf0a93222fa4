//! Points of a sale whose refund may take its time: set aside when it is asked for, and taken back
//! or given again when it ends.

use serde::{Deserialize, Serialize};

use super::{RewardedSale, guard, load, rules};
use crate::Error;
use crate::core::Core;
use crate::ids::{CardId, CardPaymentId, MerchantId, ProgramId, TransferId};
use crate::ledger::{Account, NewHold, NewTransfer, Step, TransferKind};
use crate::money::MoneyError;

/// Points that go back with a refund of the sale that earned them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsBack {
    /// The payment of the card that earned them.
    pub payment: CardPaymentId,
    /// The card that has them.
    pub card: CardId,
    /// Their program.
    pub program: ProgramId,
    /// How many go back.
    pub points: i64,
    /// What those of them are worth that were turned into money already.
    pub redeemed_msat: i64,
    /// How many of them the card still had.
    pub(crate) at_hand: i64,
    /// What those are worth.
    pub(crate) value_msat: i64,
    /// The hold of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold: Option<TransferId>,
}

/// What of a sale's points goes back with a refund of it, and the steps that set it aside beside
/// `others`.
pub(crate) async fn set_aside(
    core: &Core,
    sale: &RewardedSale,
    others: &[PointsBack],
    (payment, reference): (CardPaymentId, &str),
) -> Result<(PointsBack, Vec<Step>), Error> {
    let program = load(core, sale.program).await?;
    let account = Account::points_balance(sale.card, sale.program);
    let balance = core.balance(&account).await?;
    let available = balance.available(account.kind().side());
    // Set aside in the same commit, for another payment of the same sale.
    let same = |other: &&PointsBack| other.card == sale.card && other.program == sale.program;
    let taken: i64 = others.iter().filter(same).map(|other| other.at_hand).sum();
    let available = available.saturating_sub(i128::from(taken));
    let back = rules::clawback(
        &program.value,
        sale.standing_msat,
        sale.standing_points,
        i64::try_from(available).map_err(|_| MoneyError::Overflow)?,
    )?;
    let (at_hand, value_msat) = back.at_hand();
    let mut steps = vec![guard(&program)];
    let mut hold = None;
    if at_hand > 0 {
        let id = core.new_id(TransferId::from_parts)?;
        hold = Some(id);
        // No timeout: only what became of the refund can end it.
        steps.push(Step::Hold(NewHold {
            transfer: NewTransfer {
                id,
                debit: account,
                credit: Account::points_issued(sale.program),
                amount: at_hand,
                kind: TransferKind::PointsClawback,
                reference: reference.to_owned(),
                credit_ceiling: None,
            },
            expires_at_ms: None,
            usage: Vec::new(),
        }));
    }
    let back = PointsBack {
        payment,
        card: sale.card,
        program: sale.program,
        points: back.points,
        redeemed_msat: back.redeemed_msat,
        at_hand,
        value_msat,
        hold,
    };
    Ok((back, steps))
}

/// The refund arrived: the points are taken back, and what was set aside for them is the
/// merchant's again.
pub(crate) fn taken_back(
    core: &Core,
    back: &PointsBack,
    merchant: MerchantId,
    reference: &str,
) -> Result<Vec<Step>, Error> {
    let Some(hold) = back.hold else {
        return Ok(Vec::new());
    };
    Ok(vec![
        Step::Capture {
            hold,
            id: core.new_id(TransferId::from_parts)?,
            amount: back.at_hand,
            release_rest: true,
        },
        Step::Transfer(NewTransfer {
            id: core.new_id(TransferId::from_parts)?,
            debit: Account::reward_fund(back.program),
            credit: Account::merchant_payable(merchant),
            amount: back.value_msat,
            kind: TransferKind::RewardReturned,
            reference: reference.to_owned(),
            credit_ceiling: None,
        }),
    ])
}

/// The refund came to nothing: the card has its points again.
pub(crate) fn give_again(back: &PointsBack) -> Option<Step> {
    back.hold.map(|hold| Step::Release { hold })
}
