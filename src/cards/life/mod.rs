//! The life of a card: handed over, frozen, lost, replaced, expired, wiped, retired; and whose it
//! is at any time.

mod auto_top_up;
mod check_digit;
mod ending;
mod error;
mod expiry;
mod family;
mod looks;
mod model;
mod note;
mod onward;
mod owner;
mod presented;
mod recovery;
mod virtual_card;
mod wiping;
mod written;

use super::model::{
    ActivateCard, Activation, Card, CardState, FreezeCard, RenewHolder, SetCardLimits,
};
use super::{CardError, Cards, load, low_balance, programs, rules};
use crate::Error;
use crate::access::{Credential, Role};
use crate::core::{Answer, Decision, Executed, emit};
use crate::ids::CredentialId;

pub use error::LifeError;
pub(in crate::cards) use expiry::{look_then, valid_from};
pub use model::{
    AddFamilyCard, AutoTopUp, BearerUnit, CardKind, CardNoteSet, IssueVirtualCard,
    MakeRecoveryCode, RecoverHolder, Recovered, Recovery, RecoveryNumber, RegisterBearerCard,
    ReplaceCard, ReportLost, RetireCard, RetireTo, SetAutoTopUp, SetCardExpiry, SetCardNote,
    TopUpSource, TopUpWanted, UnlockCardCode, WipeCard,
};
pub(crate) use onward::{
    account_now, back_from, current, onward, onward_from, onward_from_hold, onward_to_hold,
};
pub(in crate::cards) use owner::{
    may_stop, owns, owns_or_issued, reads_nothing, require_reader, require_reader_or_main,
};
pub use presented::{CardNumber, VirtualTap};
pub use recovery::RecoveryCode;
pub use virtual_card::VirtualCardDetails;

pub(super) use auto_top_up::look as look_for_top_up;
pub(in crate::cards) use ending::due;
pub(in crate::cards) use family::{members, require_none};
pub(in crate::cards) use looks::LookLanes;
pub(super) use presented::bearer;
pub(in crate::cards) use virtual_card::code_was_right;

/// The job that tells that a card has expired.
pub(crate) const EXPIRE_CARD_JOB: &str = "card.expire";
/// The job that gives the operator what nobody asked for.
pub(crate) const BREAKAGE_JOB: &str = "card.breakage";
/// The job that fills a card up.
pub(crate) const AUTO_TOP_UP_JOB: &str = "card.auto_top_up";

impl Cards {
    /// Hands a card over: it can be used from now on, and its holder gets a credential. Issuer
    /// only.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active` when it was activated before, `access.*`.
    pub async fn activate(
        &self,
        credential: &Credential,
        command: ActivateCard,
    ) -> Result<Answer<Activation>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, "cards.activate", &command.key, &command, || {
                        cards.decide_activate(&command)
                    })
                    .await?;
                cards.activation(executed.answer)
            })
            .await
    }

    /// The answer with the holder's credential, which is derived and never kept.
    fn activation(&self, answer: Answer<Card>) -> Result<Answer<Activation>, Error> {
        let Answer {
            as_of_ms,
            value: card,
        } = answer;
        let id = card.holder.ok_or(CardError::NotFound)?;
        let holder = self.core.token(id);
        Ok(Answer {
            as_of_ms,
            value: Activation { card, holder },
        })
    }

    async fn decide_activate(&self, command: &ActivateCard) -> Result<Decision<Card>, Error> {
        let card = load(&self.core, command.card).await?;
        let state = card.value.state;
        if state != CardState::Issued {
            return Err(CardError::NotActive {
                card: card.value.id,
                state,
            }
            .into());
        }
        let holder = self.core.new_id(CredentialId::from_parts)?;
        let program = programs::of(&self.core, &card.value).await?;
        let at_ms = self.core.commit_time_ms();
        rules::require_not_expired(&card.value, at_ms)?;
        let after = Card {
            state: CardState::Active,
            holder: Some(holder),
            ..card.value
        };
        let after = expiry::valid_from(after, program.as_ref(), at_ms);
        let role = Role::Holder { card: after.id };
        let mut steps = vec![
            rules::write(&after, card.version)?,
            self.core.new_credential(holder, role, "holder")?,
            emit("card.activated", after.id.to_string(), &after)?,
        ];
        steps.extend(program.as_ref().map(programs::guard));
        steps.extend(expiry::look_then(&after));
        Ok(Decision {
            steps,
            answer: after,
        })
    }

    /// For a holder whose phone is lost: the old credential is refused from now on, and a new one
    /// is made. Issuer only, who must know whom it gives it to.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active` when it was never activated, `access.*`.
    pub async fn renew_holder(
        &self,
        credential: &Credential,
        command: RenewHolder,
    ) -> Result<Answer<Activation>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let executed: Executed<Card> = cards
                    .core
                    .execute(
                        &caller,
                        "cards.renew_holder",
                        &command.key,
                        &command,
                        || cards.decide_renew(&command),
                    )
                    .await?;
                cards.activation(executed.answer)
            })
            .await
    }

    async fn decide_renew(&self, command: &RenewHolder) -> Result<Decision<Card>, Error> {
        let card = load(&self.core, command.card).await?;
        let Some(old) = card.value.holder else {
            let (card, state) = (card.value.id, card.value.state);
            return Err(CardError::NotActive { card, state }.into());
        };
        let holder = self.core.new_id(CredentialId::from_parts)?;
        let (recovery, voided) = recovery::voided(&self.core, &card.value).await?;
        let after = Card {
            holder: Some(holder),
            recovery,
            ..card.value
        };
        let role = Role::Holder { card: after.id };
        let mut steps = vec![
            self.core.revoke(old).await?,
            rules::write(&after, card.version)?,
            self.core.new_credential(holder, role, "holder")?,
            emit("card.holder_renewed", after.id.to_string(), &after)?,
        ];
        steps.extend(voided);
        Ok(Decision {
            steps,
            answer: after,
        })
    }

    /// Sets what a card may do. Its holder alone; of a family card the main card's. Of a card of a
    /// program each limit is at most what the program says, or what the issuer has given that card:
    /// what is asked for above that, or not at all, is that. The answer says what it has come to.
    ///
    /// # Errors
    /// `card.not_found`, `card.unknown_time_zone`, `card.zone_changed_lately`,
    /// `command.out_of_bounds`, `access.*`.
    pub async fn set_limits(
        &self,
        credential: &Credential,
        command: SetCardLimits,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                rules::check_limits(&command.limits)?;
                let decide = || async {
                    let card = load(&cards.core, command.card).await?;
                    owns(&caller, &card.value)?;
                    let at_ms = cards.core.commit_time_ms();
                    let program = programs::of(&cards.core, &card.value).await?;
                    let asked = command.limits.clone();
                    let limits = match &program {
                        Some(program) => program.value.limits_of_holder(&card.value, asked),
                        None => asked,
                    };
                    let after = rules::with_limits(&card.value, limits, at_ms)?;
                    let mut steps = vec![
                        rules::write(&after, card.version)?,
                        emit("card.limits_set", after.id.to_string(), &after)?,
                    ];
                    steps.extend(program.as_ref().map(programs::guard));
                    if card.value.limits.low_balance.is_none() {
                        steps.extend(low_balance::begin(&cards.core, &after).await?);
                    }
                    Ok(Decision {
                        steps,
                        answer: after,
                    })
                };
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, "cards.set_limits", &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Stops a card at once. Its holder, of a family card the main card's as well, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active`, `card.frozen` when it is already, `access.*`.
    pub async fn freeze(
        &self,
        credential: &Credential,
        command: FreezeCard,
    ) -> Result<Answer<Card>, Error> {
        let (from, to) = (CardState::Active, CardState::Frozen);
        self.change_state(credential, command, "cards.freeze", from, to, "card.frozen")
            .await
    }

    /// Lets a frozen card be used again. Its holder alone; of a family card the main card's.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active`, `access.*`.
    pub async fn unfreeze(
        &self,
        credential: &Credential,
        command: FreezeCard,
    ) -> Result<Answer<Card>, Error> {
        let (from, to) = (CardState::Frozen, CardState::Active);
        self.change_state(
            credential,
            command,
            "cards.unfreeze",
            from,
            to,
            "card.unfrozen",
        )
        .await
    }

    async fn change_state(
        &self,
        credential: &Credential,
        command: FreezeCard,
        operation: &'static str,
        from: CardState,
        to: CardState,
        event: &'static str,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                let decide = || async {
                    let card = load(&cards.core, command.card).await?;
                    match to {
                        CardState::Frozen => may_stop(&caller, &card.value)?,
                        _ => owns(&caller, &card.value)?,
                    }
                    if card.value.state != from {
                        let (card, state) = (card.value.id, card.value.state);
                        return Err(CardError::NotActive { card, state }.into());
                    }
                    let after = Card {
                        state: to,
                        stopped_at_ms: match to {
                            CardState::Active => None,
                            _ => Some(cards.core.commit_time_ms()),
                        },
                        ..card.value
                    };
                    let steps = vec![
                        rules::write(&after, card.version)?,
                        emit(event, after.id.to_string(), &after)?,
                    ];
                    Ok(Decision {
                        steps,
                        answer: after,
                    })
                };
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }
}
