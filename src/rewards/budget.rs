//! What a merchant puts aside for points of sales whose money goes elsewhere.
//!
//! A till whose invoices are somebody else's brings its merchant nothing in these books, so that
//! there is nothing to give points of when a card has paid there. Its merchant puts money aside for
//! them: out of what it has here, be that a sale or an invoice that it has paid itself.

use serde::{Deserialize, Serialize};

use super::{Rewards, load, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Decision, Executed, IdempotencyKey, emit};
use crate::ids::{MerchantId, ProgramId, TransferId};
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::money::{MoneyError, Price};
use crate::settlement;

/// Which way money for points goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetMove {
    /// It is put aside, out of what the merchant has here.
    In,
    /// What is left of it is the merchant's again, to be paid out.
    Out,
}

/// Puts a merchant's money aside for the points of sales whose money goes elsewhere, or gives it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRewardBudget {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Whose.
    pub merchant: MerchantId,
    /// How much; more than zero.
    pub amount_msat: i64,
    /// Which way.
    pub direction: BudgetMove,
}

/// Money for points that was put aside, or given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardBudgetMoved {
    /// The transfer.
    pub transfer: TransferId,
    /// Whose.
    pub merchant: MerchantId,
    /// How much.
    pub amount_msat: i64,
    /// Which way.
    pub direction: BudgetMove,
}

/// What a merchant has put aside for points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardBudget {
    /// Whose.
    pub merchant: MerchantId,
    /// What is left of it.
    pub available_msat: i64,
}

impl Rewards {
    /// Puts a merchant's money aside for the points of sales whose money goes elsewhere, or gives
    /// what is left of it back, less what the merchant owes here. A merchant that earns nothing here
    /// pays an invoice of its own first.
    /// While it lasts, the points of such sales come out of it, and afterwards out of what the
    /// merchant has here; where neither covers them none are given, which the events
    /// `card.points_not_given` and `reward_budget.empty` tell. Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `ledger.insufficient_funds`, `money.not_positive`,
    /// `money.above_cap`, `command.*`, `access.*`.
    pub async fn move_budget(
        &self,
        credential: &Credential,
        command: MoveRewardBudget,
    ) -> Result<Answer<RewardBudgetMoved>, Error> {
        let (rewards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = rewards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let amount_msat = command.amount_msat;
                Price::Bitcoin { amount_msat }.validate()?;
                let operation = "rewards.move_budget";
                let executed: Executed<RewardBudgetMoved> = rewards
                    .core
                    .execute(&caller, operation, &command.key, &command, || {
                        rewards.decide_budget(&command)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_budget(
        &self,
        command: &MoveRewardBudget,
    ) -> Result<Decision<RewardBudgetMoved>, Error> {
        let MoveRewardBudget {
            merchant,
            amount_msat,
            direction,
            ..
        } = *command;
        let of = settlement::load_merchant(&self.core, merchant).await?;
        let payable = Account::merchant_payable(merchant);
        let budget = Account::reward_budget(merchant);
        let (debit, credit) = match direction {
            BudgetMove::In => (payable, budget),
            BudgetMove::Out => (budget, payable),
        };
        let answer = RewardBudgetMoved {
            transfer: self.core.new_id(TransferId::from_parts)?,
            merchant,
            amount_msat,
            direction,
        };
        let mut steps = vec![
            settlement::guard(&of),
            Step::Transfer(NewTransfer {
                id: answer.transfer,
                debit,
                credit,
                amount: amount_msat,
                kind: TransferKind::RewardBudget,
                reference: merchant.to_string(),
                credit_ceiling: None,
            }),
            emit("reward_budget.moved", merchant.to_string(), &answer)?,
        ];
        if direction == BudgetMove::Out {
            let id = self.core.new_id(TransferId::from_parts)?;
            let reference = merchant.to_string();
            steps.extend(settlement::recover(merchant, amount_msat, id, reference));
        }
        Ok(Decision { steps, answer })
    }

    /// What a merchant has put aside for points. A till of it, or the issuer.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `access.*`.
    pub async fn budget(
        &self,
        credential: &Credential,
        merchant: MerchantId,
    ) -> Result<Answer<RewardBudget>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = self.core.clock.now_ms();
        settlement::load_merchant(&self.core, merchant).await?;
        let available = has(&self.core, Account::reward_budget(merchant)).await?;
        let value = RewardBudget {
            merchant,
            available_msat: i64::try_from(available).map_err(|_| MoneyError::Overflow)?,
        };
        Ok(Answer { as_of_ms, value })
    }
}

async fn has(core: &Core, account: Account) -> Result<i128, Error> {
    let balance = core.balance(&account).await?;
    Ok(balance.available(account.kind().side()))
}

/// The points of a sale whose money went elsewhere: out of what was put aside for them, where that
/// covers them.
pub(crate) async fn of_a_sale_elsewhere(
    core: &Core,
    reward: rules::Accrual,
) -> Result<rules::Accrual, Error> {
    let budget = Account::reward_budget(reward.merchant);
    let covers = has(core, budget).await? >= i128::from(reward.value_msat);
    let from = if covers { budget } else { reward.from };
    Ok(rules::Accrual { from, ..reward })
}

/// True when neither what a merchant has put aside nor what it has here covers these points.
pub(crate) async fn is_empty(
    core: &Core,
    merchant: MerchantId,
    program: ProgramId,
    points: i64,
) -> Result<bool, Error> {
    let program = load(core, program).await?;
    let needed = i128::from(rules::value_of(&program.value, points)?);
    let budget = has(core, Account::reward_budget(merchant)).await?;
    let payable = has(core, Account::merchant_payable(merchant)).await?;
    Ok(budget < needed && payable < needed)
}
