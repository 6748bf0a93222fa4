//! Reward points: given by a sale in the sale's own commit, redeemed for money on the card.
//!
//! Points are never a promise without money behind it: when a sale earns them, their value moves
//! from the merchant's payable into the program's fund, and a redemption takes it from there.

mod budget;
mod error;
mod model;
mod refunded;
mod rules;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::cards;
use crate::core::{Answer, CommandError, Core, Decision, Executed, Loaded, check_text, emit, put};
use crate::exchange::{self, Moves};
use crate::ids::{CardId, ProgramId, RedemptionId, TransferId};
use crate::ledger::{Account, Refusal, Step};
use crate::money::{Asset, Currency, MoneyError, Rounding};
use crate::settlement::{self, Merchant};

pub use budget::{BudgetMove, MoveRewardBudget, RewardBudget, RewardBudgetMoved};
pub(crate) use budget::{is_empty, of_a_sale_elsewhere};
pub use error::RewardError;
pub use refunded::PointsBack;
pub(crate) use refunded::{give_again, set_aside, taken_back};
pub(crate) use rules::{Clawback, RewardPosting};

pub use model::{
    CreateProgram, PointsBalance, Program, RedeemPoints, Redemption, RedemptionConversion,
};

const PROGRAMS: &str = "program";
const MAX_BPS: u32 = 10_000;

/// The handle for reward points.
#[derive(Clone)]
pub struct Rewards {
    core: Arc<Core>,
}

impl Rewards {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Makes a points program; the merchant's card sales earn points from now on. Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `reward.merchant_has_program`, `command.*`, `access.*`.
    pub async fn create(
        &self,
        credential: &Credential,
        command: CreateProgram,
    ) -> Result<Answer<Program>, Error> {
        let (rewards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = rewards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_program(&command)?;
                let executed: Executed<Program> = rewards
                    .core
                    .execute(&caller, "rewards.create", &command.key, &command, || {
                        rewards.decide_create(&command)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_create(&self, command: &CreateProgram) -> Result<Decision<Program>, Error> {
        let merchant = settlement::load_merchant(&self.core, command.merchant).await?;
        if let Some(program) = merchant.value.program {
            return Err(RewardError::MerchantHasProgram { program }.into());
        }
        let program = Program {
            id: self.core.new_id(ProgramId::from_parts)?,
            merchant: command.merchant,
            name: command.name.clone(),
            earn_bps: command.earn_bps,
            point_value_msat: command.point_value_msat,
            created_at_ms: self.core.clock.now_ms(),
        };
        let id = program.id.to_string();
        let after = Merchant {
            program: Some(program.id),
            ..merchant.value
        };
        let steps = vec![
            put(PROGRAMS, id.clone(), 0, &program, Vec::new())?,
            settlement::write_merchant(&after, merchant.version)?,
            emit("program.created", id, &program)?,
        ];
        Ok(Decision {
            steps,
            answer: program,
        })
    }

    /// A program.
    ///
    /// # Errors
    /// `reward.program_not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        program: ProgramId,
    ) -> Result<Answer<Program>, Error> {
        self.core.authenticate(credential).await?;
        let as_of_ms = self.core.clock.now_ms();
        Ok(Answer {
            as_of_ms,
            value: load(&self.core, program).await?.value,
        })
    }

    /// The points on a card. Its holder, the issuer, or any till.
    ///
    /// # Errors
    /// `reward.program_not_found`, `card.not_found`, `access.*`.
    pub async fn points(
        &self,
        credential: &Credential,
        card: CardId,
        program: ProgramId,
    ) -> Result<Answer<PointsBalance>, Error> {
        let caller = self.core.authenticate(credential).await?;
        if caller.require_till().is_err() {
            caller.require_issuer_or_holder(card)?;
        }
        let as_of_ms = self.core.clock.now_ms();
        let program = load(&self.core, program).await?.value;
        let line = cards::load(&self.core, card).await?.value.line();
        let account = Account::points_balance(line, program.id);
        let balance = self.core.balance(&account).await?;
        let points = i64::try_from(balance.available(account.kind().side()))
            .map_err(|_| MoneyError::Overflow)?;
        let value_msat = rules::value_of(&program, points)?;
        let value = PointsBalance {
            card,
            program: program.id,
            points,
            value_msat,
        };
        Ok(Answer { as_of_ms, value })
    }

    /// Turns points into money on the card that has them. Its holder, or the issuer.
    ///
    /// # Errors
    /// `reward.program_not_found`, `reward.insufficient_points`, `card.frozen`,
    /// `money.not_positive`, `access.*`.
    pub async fn redeem(
        &self,
        credential: &Credential,
        command: RedeemPoints,
    ) -> Result<Answer<Redemption>, Error> {
        let (rewards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = rewards.core.authenticate(&credential).await?;
                caller.require_issuer_or_holder(command.card)?;
                if command.points <= 0 {
                    return Err(MoneyError::NotPositive {
                        minor: command.points,
                    }
                    .into());
                }
                let executed: Executed<Redemption> = rewards
                    .core
                    .execute(&caller, "rewards.redeem", &command.key, &command, || {
                        rewards.decide_redeem(&command)
                    })
                    .await
                    .map_err(refused)?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_redeem(&self, command: &RedeemPoints) -> Result<Decision<Redemption>, Error> {
        let core = &self.core;
        let card = cards::load_active(core, command.card).await?;
        let program = load(core, command.program).await?;
        let mut redemption = Redemption {
            id: core.new_id(RedemptionId::from_parts)?,
            card: command.card,
            program: command.program,
            points: command.points,
            amount_msat: rules::value_of(&program.value, command.points)?,
            conversion: None,
        };
        let (points, money) = (
            core.new_id(TransferId::from_parts)?,
            core.new_id(TransferId::from_parts)?,
        );
        let mut steps = vec![cards::guard(&card), guard(&program)];
        let (ceiling, held) = cards::programs::ceiling(core, &card.value).await?;
        steps.extend(held);
        let points_of = card.value.line();
        let mut to = (card.value.balance_account(), ceiling);
        if let Asset::Fiat(currency) = card.value.unit {
            let conversion = self.converted(currency, redemption.amount_msat).await?;
            let id = core.new_id(TransferId::from_parts)?;
            let reference = redemption.id.to_string();
            let paid = rules::pay_in_currency(&conversion, to, id, reference);
            redemption.conversion = Some(conversion);
            to = (Account::exchange(Asset::Btc), None);
            steps.extend(rules::redeem(&redemption, points, money, points_of, to)?);
            steps.push(paid);
            steps.extend(exchange::within_cap(core, currency, Moves::Down).await?);
        } else {
            steps.extend(rules::redeem(&redemption, points, money, points_of, to)?);
        }
        Ok(Decision {
            steps,
            answer: redemption,
        })
    }
}

impl Rewards {
    /// What bitcoin comes to on a card in a currency now; rounded down.
    async fn converted(
        &self,
        currency: Currency,
        amount_msat: i64,
    ) -> Result<RedemptionConversion, Error> {
        let quote = exchange::quote(&self.core, currency, None).await?;
        let rate = quote.rate;
        let amount = rate.msat_to_fiat(currency, amount_msat, Rounding::Down)?;
        if amount == 0 {
            return Err(MoneyError::NotPositive { minor: amount }.into());
        }
        Ok(RedemptionConversion {
            currency,
            amount,
            quote,
        })
    }
}

fn check_program(command: &CreateProgram) -> Result<(), Error> {
    check_text("name", &command.name, 100, "100 characters")?;
    if command.earn_bps == 0 || command.earn_bps > MAX_BPS {
        let (field, bounds) = ("earn_bps", "1 to 10,000");
        return Err(CommandError::OutOfBounds { field, bounds }.into());
    }
    if command.point_value_msat <= 0 || command.point_value_msat > crate::money::MAX_MSAT {
        let (field, bounds) = ("point_value_msat", "1 msat to 21 million bitcoin");
        return Err(CommandError::OutOfBounds { field, bounds }.into());
    }
    Ok(())
}

fn refused(error: Error) -> Error {
    match exchange::refused(error) {
        // The points are the first thing taken; the fund behind them always has their value.
        Error::Ledger(Refusal::InsufficientFunds {
            account,
            available,
            needed,
            ..
        }) if matches!(account.asset(), crate::money::Asset::Points(_)) => {
            RewardError::InsufficientPoints { available, needed }.into()
        }
        other => other,
    }
}

async fn load(core: &Core, program: ProgramId) -> Result<Loaded<Program>, Error> {
    core.load(PROGRAMS, &program.to_string())
        .await?
        .ok_or(RewardError::ProgramNotFound { program }.into())
}

fn guard(program: &Loaded<Program>) -> Step {
    let id = program.value.id.to_string();
    Step::Require {
        collection: PROGRAMS,
        id,
        version: program.version,
    }
}

/// What a sale of this merchant earns a card; `None` where the merchant has no program. `shared`
/// is the program whose points the card earns in the place of the merchant's own.
pub(crate) async fn accrual(
    core: &Core,
    merchant: &Merchant,
    shared: Option<ProgramId>,
    card: CardId,
    amount_msat: i64,
) -> Result<Option<rules::Accrual>, Error> {
    let Some(program) = merchant.program else {
        return Ok(None);
    };
    let program = load(core, shared.unwrap_or(program)).await?;
    let points = rules::points_for(&program.value, amount_msat)?;
    let posting = match points {
        0 => None,
        _ => Some(new_posting(core)?),
    };
    Ok(Some(rules::Accrual {
        program: program.value.id,
        points,
        posting,
        value_msat: rules::value_of(&program.value, points)?,
        guard: guard(&program),
        merchant: merchant.id,
        from: Account::merchant_payable(merchant.id),
        card,
    }))
}

fn new_posting(core: &Core) -> Result<RewardPosting, Error> {
    Ok(RewardPosting {
        funding: core.new_id(TransferId::from_parts)?,
        points: core.new_id(TransferId::from_parts)?,
    })
}

/// A sale whose points may have to go back.
pub(crate) struct RewardedSale {
    pub(crate) program: ProgramId,
    pub(crate) card: CardId,
    pub(crate) posting: RewardPosting,
    /// What is left of the sale after the refund.
    pub(crate) standing_msat: i64,
    /// The points of it that were not taken back before.
    pub(crate) standing_points: i64,
}

/// What of a sale's points goes back with a refund, and the steps that do it. They do not hold
/// when the card's points are turned into money in between: the ledger then says that they do not
/// suffice, and it is to be decided again.
pub(crate) async fn clawback(
    core: &Core,
    sale: &RewardedSale,
) -> Result<(Clawback, Vec<Step>), Error> {
    let program = load(core, sale.program).await?;
    let account = Account::points_balance(sale.card, sale.program);
    let balance = core.balance(&account).await?;
    let available = balance.available(account.kind().side());
    let clawback = rules::clawback(
        &program.value,
        sale.standing_msat,
        sale.standing_points,
        i64::try_from(available).map_err(|_| MoneyError::Overflow)?,
    )?;
    let steps = clawback.steps(&program, sale.posting, new_posting(core)?);
    Ok((clawback, steps))
}
