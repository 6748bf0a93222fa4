//! Card programs: the rules that many cards have in common.
//!
//! A card is of a program from the day it is issued, or of none; then it goes by the engine's
//! [`Settings`](crate::Settings). What a program says holds for its cards at once: whoever charges
//! one requires, in the commit, the program as it was read.

mod model;
mod rules;

use std::sync::Arc;

use super::CardError;
use super::model::{Card, CardLimits};
use crate::Error;
use crate::access::Credential;
use crate::cards;
use crate::core::{Answer, Core, Decision, Executed, Loaded, emit, put};
use crate::exchange::ConversionRules;
use crate::ids::{CardProgramId, ProgramId};
use crate::ledger::Step;
use crate::money::Asset;
use crate::settlement::Merchant;

pub use model::{
    BreakageRule, CardProgram, CardProgramTerms, CreateCardProgram, FeeBearer, PinRules,
    UpdateCardProgram,
};
pub(super) use rules::within_bounds;

const CARD_PROGRAMS: &str = "card_program";
/// The index under which all of them stand.
const ALL: &str = "all";

/// The handle for card programs.
#[derive(Clone)]
pub struct CardPrograms {
    core: Arc<Core>,
}

impl CardPrograms {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Makes a program. Issuer only.
    ///
    /// # Errors
    /// `command.out_of_bounds`, `card.unknown_time_zone`, `command.*`, `access.*`.
    pub async fn create(
        &self,
        credential: &Credential,
        command: CreateCardProgram,
    ) -> Result<Answer<CardProgram>, Error> {
        let (core, credential) = (self.core.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                rules::check(&command.name, &command.terms)?;
                let decide = || async {
                    let program = CardProgram {
                        id: core.new_id(CardProgramId::from_parts)?,
                        name: command.name.clone(),
                        terms: command.terms.clone(),
                        created_at_ms: core.clock.now_ms(),
                    };
                    let steps = steps("card_program.created", &program, 0)?;
                    let answer = program;
                    Ok(Decision { steps, answer })
                };
                let operation = "card_programs.create";
                let executed: Executed<CardProgram> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Changes a program: name and rules, not the unit of its cards' balances. It holds for the
    /// cards that it has as well, but for the limits that they were issued with. Issuer only.
    ///
    /// # Errors
    /// `card.program_not_found`, `card.program_unit_fixed`, `command.out_of_bounds`,
    /// `card.unknown_time_zone`, `command.*`, `access.*`.
    pub async fn update(
        &self,
        credential: &Credential,
        command: UpdateCardProgram,
    ) -> Result<Answer<CardProgram>, Error> {
        let (core, credential) = (self.core.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                rules::check(&command.name, &command.terms)?;
                let decide = || async {
                    let Loaded { version, value } = load(&core, command.program).await?;
                    let (name, terms) = (command.name.clone(), command.terms.clone());
                    let answer = rules::updated(value, name, terms)?;
                    let steps = steps("card_program.updated", &answer, version)?;
                    Ok(Decision { steps, answer })
                };
                let operation = "card_programs.update";
                let executed: Executed<CardProgram> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// A program. Issuer only.
    ///
    /// # Errors
    /// `card.program_not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        program: CardProgramId,
    ) -> Result<Answer<CardProgram>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let value = load(&self.core, program).await?.value;
        Ok(Answer { as_of_ms, value })
    }

    /// Programs, oldest first, after the program `after`; at most `limit` (1 to 1,000). Issuer
    /// only.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list(
        &self,
        credential: &Credential,
        after: Option<CardProgramId>,
        limit: usize,
    ) -> Result<Answer<Vec<CardProgram>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let after = after.map(|id| id.to_string());
        let listed = self.core.list(CARD_PROGRAMS, ALL, ALL, after, limit);
        let value = listed.await?;
        Ok(Answer { as_of_ms, value })
    }
}

/// The steps that write a program.
fn steps(
    event: &'static str,
    program: &CardProgram,
    read_version: i64,
) -> Result<Vec<Step>, Error> {
    let (id, keys) = (program.id.to_string(), vec![(ALL, ALL.to_owned())]);
    Ok(vec![
        put(CARD_PROGRAMS, id.clone(), read_version, program, keys)?,
        emit(event, id, program)?,
    ])
}

pub(crate) async fn load(
    core: &Core,
    program: CardProgramId,
) -> Result<Loaded<CardProgram>, Error> {
    core.load(CARD_PROGRAMS, &program.to_string())
        .await?
        .ok_or(CardError::ProgramNotFound { program }.into())
}

/// The program of a card, if it is of one.
pub(crate) async fn of(core: &Core, card: &Card) -> Result<Option<Loaded<CardProgram>>, Error> {
    match card.program {
        Some(program) => load(core, program).await.map(Some),
        None => Ok(None),
    }
}

/// What a new card has of its program.
pub(crate) struct OfProgram {
    pub(crate) limits: CardLimits,
    pub(crate) issued_with: Option<CardLimits>,
    pub(crate) unit: Asset,
}

/// What a card has of its program that is issued with the limits `asked`.
pub(crate) fn terms_of_a_new_card(
    program: Option<&Loaded<CardProgram>>,
    asked: &CardLimits,
) -> OfProgram {
    let Some(CardProgram { terms, .. }) = program.map(|program| &program.value) else {
        return OfProgram {
            limits: asked.clone(),
            issued_with: None,
            unit: Asset::Btc,
        };
    };
    let limits = rules::limits_for(&terms.limits, asked);
    OfProgram {
        issued_with: (limits != terms.limits).then(|| limits.clone()),
        limits,
        unit: terms.unit,
    }
}

/// Holds in the commit: the program is as it was read.
pub(crate) fn guard(program: &Loaded<CardProgram>) -> Step {
    Step::Require {
        collection: CARD_PROGRAMS,
        id: program.value.id.to_string(),
        version: program.version,
    }
}

/// Whom the money of a card goes to that is given away and not spent.
#[derive(Clone, Copy)]
pub(crate) enum GivenTo<'a> {
    /// Another card.
    Card(&'a Card),
    /// A merchant.
    Merchant(&'a Merchant),
}

/// What holds in the commit that gives the money of a card away: the rules for where it may be spent
/// are no others for that.
pub(crate) async fn may_give(
    core: &Core,
    from: &Card,
    to: GivenTo<'_>,
) -> Result<Option<Step>, Error> {
    let Some(program) = of(core, from).await? else {
        return Ok(None);
    };
    match to {
        GivenTo::Card(card) => program.value.check_card(card)?,
        GivenTo::Merchant(merchant) => program.value.check_merchant(merchant)?,
    }
    Ok(Some(guard(&program)))
}

/// The most that may be on a card, and what then holds in the commit: its program, if it is of
/// one, is as it was read. By a family card the money goes on the main card, which has a most of its
/// own.
pub(crate) async fn ceiling(core: &Core, card: &Card) -> Result<(Option<i64>, Vec<Step>), Error> {
    let (mut most, mut held) = own_ceiling(core, card).await?;
    if let Some(main) = card.family_of {
        let main = cards::load(core, main).await?;
        let (of_main, more) = own_ceiling(core, &main.value).await?;
        most = most.into_iter().chain(of_main).min();
        held.push(cards::guard(&main));
        held.extend(more);
    }
    Ok((most, held))
}

async fn own_ceiling(core: &Core, card: &Card) -> Result<(Option<i64>, Vec<Step>), Error> {
    let own = card.limits.max_balance;
    Ok(match of(core, card).await? {
        Some(program) => (program.value.ceiling(own), vec![guard(&program)]),
        None => (own, Vec::new()),
    })
}

/// How long after a card expired its money becomes the operator's, and what then holds in the
/// commit.
pub(crate) async fn breakage_after_ms(
    core: &Core,
    card: &Card,
) -> Result<(Option<i64>, Option<Step>), Error> {
    let usual = core.settings.breakage_after_ms;
    Ok(match of(core, card).await? {
        Some(program) => {
            let wait_ms = program.value.breakage_after_ms(usual);
            (wait_ms, Some(guard(&program)))
        }
        None => (usual, None),
    })
}

/// How the cards are converted.
pub(crate) fn conversion(program: Option<&Loaded<CardProgram>>) -> ConversionRules {
    let terms = program.map(|program| program.value.terms.conversion);
    terms.unwrap_or_default()
}

/// The points program whose points the cards earn in the place of a merchant's own.
pub(crate) fn shared_reward(program: Option<&Loaded<CardProgram>>) -> Option<ProgramId> {
    program.and_then(|program| program.value.terms.reward_program)
}
