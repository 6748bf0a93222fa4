//! Cards that are filled up when they run low.
//!
//! As with the low-balance event, what a charge leaves is known once it is committed: the charge
//! sets a job, which reads the balance and fills it up in a commit of its own. The rule's record
//! is written by that commit, so that of two instances with the same job one decides again.

use serde::{Deserialize, Serialize};

use super::model::{AutoTopUp, SetAutoTopUp, TopUpSource, TopUpWanted};
use super::onward::current;
use super::{AUTO_TOP_UP_JOB, ending::due, owns};
use crate::Error;
use crate::access::Credential;
use crate::cards::programs::GivenTo;
use crate::cards::{Card, Cards, guard, load, low_balance, programs, rules};
use crate::core::{Answer, Caller, CommandError, Core, Decision, Executed, Loaded, emit, put};
use crate::ids::{CardId, TransferId};
use crate::ledger::{
    Account, CalendarPeriod, NewTransfer, Refusal, Step, TransferKind, UsageWindow,
};
use crate::money::MAX_MSAT;

const TOP_UPS: &str = "card_auto_top_up";
/// How often a card is looked at again while it is spent.
const MAX_DECISIONS: usize = 32;

/// How often a card was filled up.
#[derive(Default, Serialize, Deserialize)]
struct TopUps {
    times: u64,
}

/// What is to be done about a card that runs low.
struct Wanted {
    card: Loaded<Card>,
    rule: AutoTopUp,
    balance: i64,
    amount: i64,
    ceiling: i64,
}

/// The job that looks whether a card runs low: its own, and the main card's of its family.
pub(in crate::cards) fn look(card: &Card, at_ms: i64) -> Vec<Step> {
    let mut steps = Vec::new();
    if card.auto_top_up.is_some() {
        steps.push(due(AUTO_TOP_UP_JOB, card.id, at_ms));
    }
    steps.extend(card.family_of.map(|main| due(AUTO_TOP_UP_JOB, main, at_ms)));
    steps
}

fn check(rule: &AutoTopUp) -> Result<(), CommandError> {
    let amounts = 1..=MAX_MSAT;
    if !amounts.contains(&rule.below) || !amounts.contains(&rule.to) {
        let (field, bounds) = ("below", "1 to 2,100,000,000,000,000,000");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    if rule.to < rule.below {
        let (field, bounds) = ("to", "not less than below");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    if !(1..=100).contains(&rule.times_per_day) {
        let (field, bounds) = ("times_per_day", "1 to 100");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(())
}

/// Holds in the commit: the card is not low once it was looked at.
fn at_least(account: Account, below: i64) -> Step {
    Step::Within {
        account,
        lowest: Some(below),
        highest: None,
    }
}

fn window(card: &Card, at_ms: i64) -> Result<UsageWindow, Error> {
    // A card in its place has no second day's worth.
    let subject = format!("{}/auto_top_up/day", card.line());
    rules::zone(card)
        .window(subject, CalendarPeriod::Day, at_ms)
        .map_err(|_| crate::cards::CardError::UnknownTimeZone.into())
}

impl Cards {
    /// Sets how a card is filled up when it runs low, or that it is not. Its holder, of a family
    /// card the main card's; where the money comes from another card, with the credential of
    /// whoever holds that one, which is of the same program where its program names where its cards
    /// pay.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active`, `card.payee_not_known` of a card of another program,
    /// `command.out_of_bounds`, `command.*`, `access.*`.
    pub async fn set_auto_top_up(
        &self,
        credential: &Credential,
        command: SetAutoTopUp,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let mut agreed = None;
                if let Some(rule) = &command.rule {
                    check(rule)?;
                    if let TopUpSource::Card { card } = rule.from {
                        let by = command.source.as_ref().unwrap_or(&credential);
                        let by = core.authenticate(by).await?;
                        agreed = Some((card, by));
                    }
                }
                let (cards, command, agreed, caller) = (&cards, &command, &agreed, &caller);
                let decide = || async move {
                    let card = load(core, command.card).await?;
                    owns(caller, &card.value)?;
                    rules::require_active(&card.value, core.commit_time_ms())?;
                    if command
                        .rule
                        .is_some_and(|rule| rule.unit != card.value.unit)
                    {
                        let (field, bounds) = ("unit", "the unit of the card");
                        return Err(CommandError::OutOfBounds { field, bounds }.into());
                    }
                    let mut steps = Vec::new();
                    if let Some((source, by)) = agreed {
                        steps.extend(cards.agree(&card.value, *source, by).await?);
                    }
                    let answer = Card {
                        auto_top_up: command.rule,
                        auto_top_up_by: agreed.as_ref().map(|(_, by)| by.id),
                        ..card.value
                    };
                    steps.push(rules::write(&answer, card.version)?);
                    steps.extend(look(&answer, core.clock.now_ms()));
                    steps.push(emit(
                        "card.auto_top_up_set",
                        answer.id.to_string(),
                        &answer,
                    )?);
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.set_auto_top_up";
                let executed: Executed<Card> = core
                    .execute(caller, operation, &command.key, command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Another card with a balance of its own, of the same kind of money, and what holds in the
    /// commit: whoever agrees still decides about that card.
    async fn agree(&self, card: &Card, source: CardId, by: &Caller) -> Result<Vec<Step>, Error> {
        let source = load(&self.core, source).await?;
        owns(by, &source.value)?;
        rules::require_active(&source.value, self.core.commit_time_ms())?;
        let (from, to) = (source.value.balance_account(), card.balance_account());
        if from == to || from.asset() != to.asset() {
            let (field, bounds) = ("from", "another card with the same kind of money");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        let mut steps = vec![by.guard.clone(), guard(&source)];
        let to = GivenTo::Card(card);
        steps.extend(programs::may_give(&self.core, &source.value, to).await?);
        Ok(steps)
    }

    /// The job that fills a card up.
    pub(super) async fn fill_up(&self, id: CardId) -> Result<(), Error> {
        let mut tries = MAX_DECISIONS;
        let filled = loop {
            tries -= 1;
            match self.core.settle(|| self.decide_fill(id)).await {
                // A sale came in between, whose own look would be done with this one.
                Err(Error::Ledger(Refusal::OutOfBounds { .. })) if tries > 0 => {}
                filled => break filled,
            }
        };
        match filled {
            // As often as it may be in a day.
            Err(Error::Ledger(Refusal::UsageExceeded { .. })) => {
                let done = Step::Done {
                    kind: AUTO_TOP_UP_JOB,
                    object: id.to_string(),
                };
                self.core.commit(vec![done]).await.map(drop)
            }
            filled => filled.map(drop),
        }
    }

    async fn decide_fill(&self, id: CardId) -> Result<Option<Vec<Step>>, Error> {
        let core = &self.core;
        let mut steps = vec![Step::Done {
            kind: AUTO_TOP_UP_JOB,
            object: id.to_string(),
        }];
        let Some(wanted) = self.runs_low(id, &mut steps).await? else {
            return Ok(Some(steps));
        };
        let record: Option<Loaded<TopUps>> = core.load(TOP_UPS, &id.to_string()).await?;
        let (version, times) = record.map_or((0, 0), |found| (found.version, found.value.times));
        let record = TopUps {
            times: times.saturating_add(1),
        };
        steps.push(put(TOP_UPS, id.to_string(), version, &record, Vec::new())?);
        steps.push(guard(&wanted.card));
        steps.push(Step::Use {
            window: window(&wanted.card.value, core.commit_time_ms())?,
            amount: 1,
            limit: wanted.rule.times_per_day,
        });
        let told = TopUpWanted {
            card: id,
            unit: wanted.card.value.unit,
            amount: wanted.amount,
            balance: wanted.balance,
        };
        match wanted.rule.from {
            TopUpSource::Outside => {
                steps.push(emit("card.top_up_wanted", id.to_string(), &told)?);
            }
            TopUpSource::Card { card } => match self.draw_on(card, &wanted).await? {
                Some(drawn) => {
                    steps.extend(drawn);
                    steps.push(emit("card.topped_up", id.to_string(), &told)?);
                }
                None => steps.push(emit("card.top_up_failed", id.to_string(), &told)?),
            },
        }
        Ok(Some(steps))
    }

    /// What a card needs, if it is in use, has a rule and runs low.
    async fn runs_low(&self, id: CardId, steps: &mut Vec<Step>) -> Result<Option<Wanted>, Error> {
        let core = &self.core;
        let card = load(core, id).await?;
        let Some(rule) = card.value.auto_top_up else {
            return Ok(None);
        };
        if rules::require_active(&card.value, core.commit_time_ms()).is_err() {
            return Ok(None);
        }
        let account = card.value.balance_account();
        let balance = core.balance(&account).await?;
        let available = balance.available(account.kind().side());
        let balance = i64::try_from(available).unwrap_or(i64::MAX);
        if balance >= rule.below {
            steps.push(at_least(account, rule.below));
            return Ok(None);
        }
        let (most, held) = programs::ceiling(core, &card.value).await?;
        steps.extend(held);
        let ceiling = most.map_or(rule.to, |most| most.min(rule.to));
        let amount = ceiling.saturating_sub(balance);
        Ok((amount > 0).then_some(Wanted {
            card,
            rule,
            balance,
            amount,
            ceiling,
        }))
    }

    /// The steps that take what is wanted from another card; `None` when it is out of use or has
    /// not enough.
    async fn draw_on(&self, source: CardId, wanted: &Wanted) -> Result<Option<Vec<Step>>, Error> {
        let core: &Core = &self.core;
        let source = current(core, source).await?;
        if rules::require_active(&source.value, core.commit_time_ms()).is_err() {
            return Ok(None);
        }
        // Whoever agreed still decides about the card: it was neither recovered nor replaced since.
        let owner = load(core, source.value.family_of.unwrap_or(source.value.id)).await?;
        let agreed = wanted.card.value.auto_top_up_by;
        let Some(by) = agreed.filter(|by| owner.value.holder == Some(*by)) else {
            return Ok(None);
        };
        let by = match core.admit(by).await {
            Ok(caller) => caller,
            Err(Error::Access(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The programs may say otherwise by now.
        let to = GivenTo::Card(&wanted.card.value);
        let may_give = match programs::may_give(core, &source.value, to).await {
            Ok(held) => held,
            Err(Error::Card(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let from = source.value.balance_account();
        let to = wanted.card.value.balance_account();
        let balance = core.balance(&from).await?;
        let has = balance.available(from.kind().side());
        if from == to || has < i128::from(wanted.amount) {
            return Ok(None);
        }
        // Should the source be spent at the same moment, what is left of it; should the card be
        // filled at the same moment, what it then lacks.
        let id = core.new_id(TransferId::from_parts)?;
        let transfer = Step::TransferUpTo(NewTransfer {
            id,
            debit: from,
            credit: to,
            amount: wanted.amount,
            kind: TransferKind::AutoTopUp,
            reference: wanted.card.value.id.to_string(),
            credit_ceiling: Some(wanted.ceiling),
        });
        let mut steps = vec![by.guard, guard(&owner), guard(&source), transfer];
        steps.extend(may_give);
        if wanted.ceiling >= wanted.rule.below {
            steps.push(at_least(to, wanted.rule.below));
        }
        // It may run low itself now.
        steps.extend(low_balance::look(&source.value, id, core.clock.now_ms()));
        Ok(Some(steps))
    }
}
