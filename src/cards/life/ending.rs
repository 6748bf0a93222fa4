//! The end of a card: lost, replaced by another one, retired.

use super::model::{ReplaceCard, ReportLost, RetireCard, RetireTo};
use super::onward::{MAX_REPLACEMENTS, all_of, current};
use super::{AUTO_TOP_UP_JOB, BREAKAGE_JOB, EXPIRE_CARD_JOB, LifeError, family, may_stop, owns};
use crate::Error;
use crate::access::{Credential, Role};
use crate::cards::charging::VerifiedTap;
use crate::cards::programs::GivenTo;
use crate::cards::{
    Activation, Card, CardError, CardState, Cards, guard, load, load_active, low_balance, pin,
    programs, rules, taps,
};
use crate::core::{Answer, Caller, CommandError, Decision, Executed, Loaded, emit};
use crate::ids::{CardId, CredentialId, TransferId};
use crate::ledger::{Account, DueJob, NewTransfer, Refusal, Step, TransferKind};
use crate::settlement;

/// How often a retirement is decided again when the card's money moves under it.
const MAX_DECISIONS: usize = 8;

/// A card whose money can be given somewhere else.
fn require_endable(card: &Card) -> Result<(), CardError> {
    use CardState::{Active, Expired, Frozen, Lost};
    match card.state {
        Active | Frozen | Lost | Expired if card.kind.is_in_books() => Ok(()),
        _ if !card.kind.is_in_books() => Err(LifeError::Bearer { card: card.id }.into()),
        state => Err(CardError::NotActive {
            card: card.id,
            state,
        }),
    }
}

/// The jobs of a card that is out of use.
fn no_more_jobs(card: CardId) -> [Step; 3] {
    [EXPIRE_CARD_JOB, BREAKAGE_JOB, AUTO_TOP_UP_JOB].map(|kind| Step::Done {
        kind,
        object: card.to_string(),
    })
}

impl Cards {
    /// Says that a card is lost: no tap of it is taken from now on, and that is for good. Its
    /// money stays where it is until its holder withdraws it, or the card is replaced or retired. Its
    /// holder, of a family card the main card's as well, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `card.frozen` and others when it is neither active nor frozen,
    /// `command.*`, `access.*`.
    pub async fn report_lost(
        &self,
        credential: &Credential,
        command: ReportLost,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                let decide = || async {
                    let card = load(&cards.core, command.card).await?;
                    may_stop(&caller, &card.value)?;
                    let state = card.value.state;
                    if !matches!(state, CardState::Active | CardState::Frozen) {
                        let card = card.value.id;
                        return Err(CardError::NotActive { card, state }.into());
                    }
                    let answer = Card {
                        state: CardState::Lost,
                        stopped_at_ms: card
                            .value
                            .stopped_at_ms
                            .or(Some(cards.core.commit_time_ms())),
                        ..card.value
                    };
                    let steps = vec![
                        rules::write(&answer, card.version)?,
                        emit("card.lost", answer.id.to_string(), &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.report_lost";
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Puts a new card in the place of one that is in use, frozen, lost or expired. All that the
    /// old one has to spend goes to the new one in one posting; what is set aside for a charge
    /// stays with the charge, and what of it is given back later goes to the new card, as does
    /// whatever still comes to the old one. Limits with what is used of them, PIN, points, rules
    /// and family go along. Its holder, of a family card the main card's.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active` also of the main card, `card.not_blank` when the new one was
    /// handed over before, `card.replaced_too_often`, `card.bearer`, `card.tap_*`, `command.*`, `access.*`.
    pub async fn replace(
        &self,
        credential: &Credential,
        command: ReplaceCard,
    ) -> Result<Answer<Activation>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                let operation = "cards.replace";
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, operation, &command.key, &command, || {
                        cards.decide_replace(&caller, &command)
                    })
                    .await
                    .map_err(rules::refused)?;
                cards.activation(executed.answer)
            })
            .await
    }

    async fn decide_replace(
        &self,
        caller: &Caller,
        command: &ReplaceCard,
    ) -> Result<Decision<Card>, Error> {
        let core = &self.core;
        let old = load(core, command.card).await?;
        owns(caller, &old.value)?;
        require_endable(&old.value)?;
        if old.value.replacements >= MAX_REPLACEMENTS {
            return Err(LifeError::ReplacedTooOften { card: old.value.id }.into());
        }
        let tap = self.blank(caller, &command.tap).await?;
        let holder = core.new_id(CredentialId::from_parts)?;
        let program = programs::of(core, &old.value).await?;
        let new = replacement(&old.value, &tap.card.value, holder);
        let new = super::expiry::valid_from(new, program.as_ref(), core.commit_time_ms());
        let after = Card {
            state: CardState::Replaced,
            stopped_at_ms: old.value.stopped_at_ms.or(Some(core.commit_time_ms())),
            replaced_by: Some(new.id),
            ..old.value.clone()
        };
        let mut steps = vec![
            rules::write(&after, old.version)?,
            rules::write(&new, tap.card.version)?,
            rules::advance(&tap.card.value, tap.counter),
            rules::claim_tap(&tap.card.value, tap.counter, new.id.to_string()),
            core.new_credential(holder, Role::Holder { card: new.id }, "holder")?,
        ];
        steps.extend(taps::guard(core, &tap).await?);
        steps.extend(program.as_ref().map(programs::guard));
        steps.extend(pin::carry(core, old.value.id, new.id).await?);
        steps.extend(super::expiry::look_then(&new));
        steps.extend(no_more_jobs(old.value.id));
        if old.value.family_of.is_none() {
            let transfer = core.new_id(TransferId::from_parts)?;
            let (from, to) = (old.value.balance_account(), new.balance_account());
            let kind = TransferKind::Replacement;
            steps.push(all_of(from, to, transfer, kind, old.value.id));
            // What its holder owes is owed from now on by what comes to the new one.
            let debt = core.new_id(TransferId::from_parts)?;
            let [owed, owes] = [old.value.id, new.id].map(Account::card_receivable);
            steps.push(all_of(owes, owed, debt, kind, old.value.id));
            steps.extend(family::moved(core, old.value.id, new.id).await?);
        }
        if let Some(main) = old.value.family_of {
            let main = load(core, main).await?;
            // What came to the new one would go where the main card's money went.
            if main.value.state == CardState::Retired {
                let (card, state) = (main.value.id, main.value.state);
                return Err(CardError::NotActive { card, state }.into());
            }
            steps.push(guard(&main));
            steps.extend(low_balance::begin(core, &new).await?);
        }
        // What was charged before is looked at again on the new card, should it run low there.
        steps.extend(super::auto_top_up::look(&new, core.clock.now_ms()));
        steps.push(emit("card.replaced", old.value.id.to_string(), &after)?);
        steps.push(emit("card.activated", new.id.to_string(), &new)?);
        Ok(Decision { steps, answer: new })
    }

    /// The card of a tap, which was not handed over yet.
    pub(super) async fn blank(&self, caller: &Caller, tap: &str) -> Result<VerifiedTap, Error> {
        let who = caller.id.to_string();
        let source = self.source.as_deref().unwrap_or(&who);
        let _turn = self.turn_to_look(Some(source), tap).await?;
        let tap = match self.verify_from(Some(source), tap).await {
            Ok(found) => found,
            // A virtual card's code is guessed here as well as by a look.
            Err(error) => return Err(self.count_if_wrong_look(tap, error).await?),
        };
        match tap.card.value.state {
            CardState::Issued => Ok(tap),
            state => {
                let card = tap.card.value.id;
                Err(LifeError::NotBlank { card, state }.into())
            }
        }
    }

    /// Ends a card that is in use, frozen, lost or expired: all that it has to spend goes to
    /// another card or to a merchant, and so does what still comes to it. Of a program that names
    /// where its cards pay, to such a merchant or to another card of that program. Its holder, of a
    /// family card the main card's.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active` also of the other card, `card.has_family` while others
    /// spend its balance, `card.breakage_by_rule`, `card.payee_not_known` of a card of another
    /// program, `card.merchant_not_allowed`, `card.category_not_allowed`, `ledger.ceiling_reached` when
    /// the other card cannot have as much, `settlement.merchant_not_found`, `command.*`, `access.*`.
    pub async fn retire(
        &self,
        credential: &Credential,
        command: RetireCard,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                let mut tries = MAX_DECISIONS;
                loop {
                    tries -= 1;
                    let operation = "cards.retire";
                    let executed: Result<Executed<Card>, Error> = cards
                        .core
                        .execute(&caller, operation, &command.key, &command, || {
                            cards.decide_retire(&caller, &command)
                        })
                        .await;
                    match executed {
                        // Something was charged since its balance was read.
                        Err(Error::Ledger(Refusal::InsufficientFunds { .. })) if tries > 0 => {}
                        executed => return Ok(executed.map_err(rules::refused)?.answer),
                    }
                }
            })
            .await
    }

    async fn decide_retire(
        &self,
        caller: &Caller,
        command: &RetireCard,
    ) -> Result<Decision<Card>, Error> {
        let core = &self.core;
        let card = load(core, command.card).await?;
        owns(caller, &card.value)?;
        require_endable(&card.value)?;
        let mut steps = Vec::new();
        let own = card.value.balance_account();
        let (to, ceiling) = self.given_to(&card.value, command.to, &mut steps).await?;
        if to == own && card.value.family_of.is_none() {
            let (field, bounds) = ("to", "another card");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        if to.asset() != own.asset() {
            let (card, unit) = (card.value.id, card.value.unit);
            return Err(CardError::UnitMismatch { card, unit }.into());
        }
        family::require_none(core, card.value.id).await?;
        let answer = self.retired(&card, command.to, &mut steps)?;
        if card.value.family_of.is_none() {
            let available = core.balance(&own).await?.available(own.kind().side());
            let amount = i64::try_from(available).unwrap_or(i64::MAX);
            if amount > 0 {
                steps.push(Step::Transfer(NewTransfer {
                    id: core.new_id(TransferId::from_parts)?,
                    debit: own,
                    credit: to,
                    amount,
                    kind: TransferKind::Retirement,
                    reference: card.value.id.to_string(),
                    credit_ceiling: ceiling,
                }));
            }
            // What was given back to it since then.
            let rest = core.new_id(TransferId::from_parts)?;
            let kind = TransferKind::Retirement;
            steps.push(all_of(own, to, rest, kind, card.value.id));
        }
        Ok(Decision { steps, answer })
    }

    /// The account that the money of a card goes to, the most that may be there, and what holds in the
    /// commit of that.
    async fn given_to(
        &self,
        card: &Card,
        to: RetireTo,
        steps: &mut Vec<Step>,
    ) -> Result<(Account, Option<i64>), Error> {
        let core = &self.core;
        // A family card has no money to give.
        let gives = Some(card).filter(|card| card.family_of.is_none());
        Ok(match to {
            RetireTo::Card { card } => {
                let other = current(core, card).await?;
                let other = load_active(core, other.value.id).await?;
                let (ceiling, held) = programs::ceiling(core, &other.value).await?;
                if let Some(card) = gives {
                    steps
                        .extend(programs::may_give(core, card, GivenTo::Card(&other.value)).await?);
                }
                steps.push(guard(&other));
                steps.extend(held);
                (other.value.balance_account(), ceiling)
            }
            RetireTo::Merchant { merchant } => {
                let found = settlement::load_merchant(core, merchant).await?;
                if let Some(card) = gives {
                    let to = GivenTo::Merchant(&found.value);
                    steps.extend(programs::may_give(core, card, to).await?);
                }
                steps.push(settlement::guard(&found));
                (Account::merchant_payable(merchant), None)
            }
            RetireTo::Breakage => return Err(LifeError::BreakageByRule.into()),
            RetireTo::FormerIssuer => {
                let (field, bounds) = ("to", "a card or a merchant");
                return Err(CommandError::OutOfBounds { field, bounds }.into());
            }
        })
    }

    /// The card after its retirement, and the steps but for the money's.
    pub(in crate::cards) fn retired(
        &self,
        card: &Loaded<Card>,
        to: RetireTo,
        steps: &mut Vec<Step>,
    ) -> Result<Card, Error> {
        let id = card.value.id;
        let goes_back = to == RetireTo::FormerIssuer;
        let after = Card {
            state: CardState::Retired,
            stopped_at_ms: card
                .value
                .stopped_at_ms
                .or(Some(self.core.commit_time_ms())),
            retired_to: card.value.family_of.is_none().then_some(to),
            went_back_as: goes_back.then_some(card.value.state),
            auto_top_up: None,
            auto_top_up_by: None,
            ..card.value.clone()
        };
        steps.push(rules::write(&after, card.version)?);
        steps.extend(no_more_jobs(id));
        steps.push(emit("card.retired", id.to_string(), &after)?);
        Ok(after)
    }
}

/// The new card as it is handed over in the place of the old one.
fn replacement(old: &Card, blank: &Card, holder: CredentialId) -> Card {
    Card {
        state: CardState::Active,
        limits: old.limits.clone(),
        issued_with: old.issued_with.clone(),
        zone_before: old.zone_before.clone(),
        holder: Some(holder),
        program: old.program,
        unit: old.unit,
        replaces: Some(old.id),
        first: Some(old.line()),
        replacements: old.replacements + 1,
        family_of: old.family_of,
        has_family: old.has_family,
        auto_top_up: old.auto_top_up,
        auto_top_up_by: old.auto_top_up_by,
        recovery: old.recovery,
        ..blank.clone()
    }
}

/// The job that looks at a card at a time.
pub(in crate::cards) fn due(kind: &str, card: CardId, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: kind.to_owned(),
        object: card.to_string(),
        due_at_ms,
    })
}
