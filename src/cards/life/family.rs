//! Family cards: several cards that spend one balance, each within limits of its own.

use super::LifeError;
use super::model::AddFamilyCard;
use crate::Error;
use crate::access::{Credential, Role};
use crate::cards::{
    Activation, CARDS, Card, CardState, Cards, guard, load, load_active, low_balance, programs,
    rules, taps,
};
use crate::core::{Answer, Caller, Core, Decision, Executed, emit};
use crate::ids::{CardId, CredentialId};
use crate::ledger::Step;

/// How many cards can spend the balance of another one.
const MAX_FAMILY: usize = 20;

/// The cards that spend the balance of `main`, those out of use not among them.
pub(in crate::cards) async fn members(core: &Core, main: CardId) -> Result<Vec<Card>, Error> {
    // Those out of use are in the index no more.
    core.list(CARDS, "family", &main.to_string(), None, MAX_FAMILY)
        .await
}

/// Refuses a card whose balance others spend.
pub(in crate::cards) async fn require_none(core: &Core, main: CardId) -> Result<(), Error> {
    if members(core, main).await?.is_empty() {
        return Ok(());
    }
    Err(LifeError::HasFamily { card: main }.into())
}

/// The guards by which none of those that spend the balance of `main` can any more; `None` where one
/// still can, or will be able to. One more of them is seen by the main card's own version.
pub(super) async fn none_can_spend(core: &Core, main: CardId) -> Result<Option<Vec<Step>>, Error> {
    let (at_ms, mut guards) = (core.commit_time_ms(), Vec::new());
    for member in members(core, main).await? {
        let member = load(core, member.id).await?;
        let is_held = matches!(member.value.state, CardState::Active | CardState::Frozen);
        if is_held && rules::require_not_expired(&member.value, at_ms).is_ok() {
            return Ok(None);
        }
        guards.push(guard(&member));
    }
    Ok(Some(guards))
}

/// The steps that have the family of `old` spend the balance of `new`, which replaced it.
pub(super) async fn moved(core: &Core, old: CardId, new: CardId) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for member in members(core, old).await? {
        let member = load(core, member.id).await?;
        let after = Card {
            family_of: Some(new),
            ..member.value
        };
        steps.push(rules::write(&after, member.version)?);
    }
    Ok(steps)
}

impl Cards {
    /// Makes a card of the family of another one, and hands it over: it spends the main card's
    /// balance, within limits of its own. Whoever holds the new one can stop it and look at it;
    /// what else is decided about it is the main card's holder's. The main card's holder, with
    /// the new card at hand.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active`, `card.frozen`, `card.expired`, `card.not_blank`,
    /// `card.family_of_family` when the main card is a family card itself, `card.family_full`,
    /// `card.tap_*`, `command.*`, `access.*`.
    pub async fn add_to_family(
        &self,
        credential: &Credential,
        command: AddFamilyCard,
    ) -> Result<Answer<Activation>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_holder(command.main)?;
                rules::check_limits(&command.limits)?;
                let operation = "cards.add_to_family";
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, operation, &command.key, &command, || {
                        cards.decide_add(&caller, &command)
                    })
                    .await
                    .map_err(rules::refused)?;
                cards.activation(executed.answer)
            })
            .await
    }

    async fn decide_add(
        &self,
        caller: &Caller,
        command: &AddFamilyCard,
    ) -> Result<Decision<Card>, Error> {
        let core = &self.core;
        let main = load_active(core, command.main).await?;
        if main.value.family_of.is_some() {
            return Err(LifeError::FamilyOfFamily {
                card: main.value.id,
            }
            .into());
        }
        if members(core, main.value.id).await?.len() >= MAX_FAMILY {
            return Err(LifeError::FamilyFull {
                card: main.value.id,
            }
            .into());
        }
        let tap = self.blank(caller, &command.tap).await?;
        let holder = core.new_id(CredentialId::from_parts)?;
        let program = programs::of(core, &main.value).await?;
        let after = Card {
            state: CardState::Active,
            limits: match &program {
                Some(program) => program.value.limits_of_family(&command.limits),
                None => command.limits.clone(),
            },
            issued_with: None,
            holder: Some(holder),
            family_of: Some(main.value.id),
            program: main.value.program,
            unit: main.value.unit,
            ..tap.card.value.clone()
        };
        let after = super::expiry::valid_from(after, program.as_ref(), core.commit_time_ms());
        let with_family = Card {
            has_family: true,
            ..main.value
        };
        // The main card is written whether or not that is new: of two that come to be the last one that fits in,
        // the second is decided again.
        let mut steps = vec![
            rules::write(&with_family, main.version)?,
            rules::write(&after, tap.card.version)?,
            rules::advance(&tap.card.value, tap.counter),
            rules::claim_tap(&tap.card.value, tap.counter, after.id.to_string()),
            core.new_credential(holder, Role::Holder { card: after.id }, "holder")?,
        ];
        steps.extend(taps::guard(core, &tap).await?);
        steps.extend(program.as_ref().map(programs::guard));
        steps.extend(super::expiry::look_then(&after));
        steps.extend(low_balance::begin(core, &after).await?);
        steps.push(emit("card.activated", after.id.to_string(), &after)?);
        Ok(Decision {
            steps,
            answer: after,
        })
    }

    /// The cards that spend the balance of a card, oldest first. Its holder, or the issuer.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn family(
        &self,
        credential: &Credential,
        main: CardId,
    ) -> Result<Answer<Vec<Card>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer_or_holder(main)?;
        let as_of_ms = self.core.clock.now_ms();
        let value = members(&self.core, main).await?;
        Ok(Answer { as_of_ms, value })
    }
}
