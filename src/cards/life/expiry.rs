//! Cards that can be used until a time, and what becomes of the money on them afterwards.
//!
//! Whether a card has expired is decided by the time of the commit; the job only tells it.

use super::ending::due;
use super::model::{CardKind, RetireTo, SetCardExpiry};
use super::onward::all_of;
use super::{AUTO_TOP_UP_JOB, BREAKAGE_JOB, EXPIRE_CARD_JOB, family};
use crate::Error;
use crate::access::Credential;
use crate::cards::programs::CardProgram;
use crate::cards::{Card, CardError, CardState, Cards, load, programs, rules};
use crate::core::{Answer, CommandError, Decision, Executed, Loaded, emit};
use crate::ids::{CardId, TransferId};
use crate::ledger::{Account, Step, TransferKind};

const DAY_MS: i64 = 24 * 3_600_000;
/// The rule for the money of a card that expired may change: so often it is looked at.
const LOOK_EVERY_MS: i64 = 30 * DAY_MS;

/// When an expired card is looked at next, whose money waits for `wait_ms`, or for ever.
fn next_look_ms(wait_ms: Option<i64>, expired_at_ms: i64, now_ms: i64) -> i64 {
    let at_ms = wait_ms.map(|wait_ms| expired_at_ms.saturating_add(wait_ms));
    let latest_ms = now_ms.saturating_add(LOOK_EVERY_MS);
    at_ms.map_or(latest_ms, |at_ms| at_ms.min(latest_ms))
}

/// The card, valid from now on for as long as its program says; a virtual one not beyond what it
/// was made for.
pub(in crate::cards) fn valid_from(
    card: Card,
    program: Option<&Loaded<CardProgram>>,
    at_ms: i64,
) -> Card {
    let valid_for_ms = program.and_then(|program| program.value.terms.valid_for_ms);
    let until_ms = valid_for_ms.map(|valid_for_ms| at_ms.saturating_add(valid_for_ms));
    let expires_at_ms = match card.kind {
        CardKind::Virtual => until_ms.into_iter().chain(card.expires_at_ms).min(),
        _ => until_ms.or(card.expires_at_ms),
    };
    Card {
        expires_at_ms,
        ..card
    }
}

/// The job that tells that a card has expired.
pub(in crate::cards) fn look_then(card: &Card) -> Option<Step> {
    let at_ms = card.expires_at_ms?;
    Some(due(EXPIRE_CARD_JOB, card.id, at_ms))
}

impl Cards {
    /// Sets until when a card can be used, while it has not expired. Issuer only.
    ///
    /// # Errors
    /// `card.not_found`, `card.expired`, `card.not_active` when it is out of use,
    /// `command.out_of_bounds` when the time is over already, `command.*`, `access.*`.
    pub async fn set_expiry(
        &self,
        credential: &Credential,
        command: SetCardExpiry,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let operation = "cards.set_expiry";
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, operation, &command.key, &command, || {
                        cards.decide_expiry(&command)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_expiry(&self, command: &SetCardExpiry) -> Result<Decision<Card>, Error> {
        use CardState::{Active, Frozen, Issued};

        let card = load(&self.core, command.card).await?;
        let (id, state, at_ms) = (card.value.id, card.value.state, self.core.commit_time_ms());
        rules::require_not_expired(&card.value, at_ms)?;
        if !matches!(state, Issued | Active | Frozen) {
            return Err(CardError::NotActive { card: id, state }.into());
        }
        if command
            .expires_at_ms
            .is_some_and(|until_ms| until_ms <= at_ms)
        {
            let (field, bounds) = ("expires_at_ms", "later than now");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        let answer = Card {
            expires_at_ms: command.expires_at_ms,
            ..card.value
        };
        let job = look_then(&answer).unwrap_or(Step::Done {
            kind: EXPIRE_CARD_JOB,
            object: id.to_string(),
        });
        let steps = vec![
            rules::write(&answer, card.version)?,
            job,
            emit("card.expiry_set", id.to_string(), &answer)?,
        ];
        Ok(Decision { steps, answer })
    }

    /// Does what is due with a card.
    pub(crate) async fn look_after(&self, job: &str, card: CardId) -> Result<(), Error> {
        match job {
            EXPIRE_CARD_JOB => self.tell_expired(card).await,
            BREAKAGE_JOB => self.break_card(card).await,
            AUTO_TOP_UP_JOB => self.fill_up(card).await,
            _ => Ok(()),
        }
    }

    async fn tell_expired(&self, id: CardId) -> Result<(), Error> {
        let core = &self.core;
        core.settle(|| async move {
            let card = load(core, id).await?;
            let done = Step::Done {
                kind: EXPIRE_CARD_JOB,
                object: id.to_string(),
            };
            let Some(at_ms) = card.value.expires_at_ms else {
                return Ok(Some(vec![done]));
            };
            if core.commit_time_ms() < at_ms {
                return Ok(Some(vec![due(EXPIRE_CARD_JOB, id, at_ms)]));
            }
            let state = match card.value.state {
                CardState::Issued | CardState::Active | CardState::Frozen => CardState::Expired,
                // It stays lost, and its money waits no longer than that of another one.
                CardState::Lost => CardState::Lost,
                _ => return Ok(Some(vec![done])),
            };
            let after = Card {
                state,
                stopped_at_ms: card.value.stopped_at_ms.or(Some(at_ms)),
                ..card.value
            };
            let (wait_ms, held) = programs::breakage_after_ms(core, &after).await?;
            let look_ms = next_look_ms(wait_ms, at_ms, core.commit_time_ms());
            let mut steps = vec![
                done,
                rules::write(&after, card.version)?,
                emit("card.expired", id.to_string(), &after)?,
                due(BREAKAGE_JOB, id, look_ms),
            ];
            steps.extend(held);
            Ok(Some(steps))
        })
        .await
        .map(drop)
    }

    /// The money of a card that expired long ago and that nobody asked for becomes the
    /// operator's, where its program or the engine's settings say so by now, and once none of its
    /// family can spend it.
    async fn break_card(&self, id: CardId) -> Result<(), Error> {
        let core = &self.core;
        core.settle(|| async move {
            let card = load(core, id).await?;
            let out = matches!(card.value.state, CardState::Expired | CardState::Lost);
            // What came to a card that had expired elsewhere waits from then on.
            let came_at_ms = card.value.created_at_ms;
            let expired_at_ms = card.value.expires_at_ms.filter(|_| out);
            let expired_at_ms = expired_at_ms.map(|at_ms| at_ms.max(came_at_ms));
            // Of a family card the money is not its own.
            let Some(expired_at_ms) = expired_at_ms.filter(|_| card.value.family_of.is_none())
            else {
                return Ok(Some(vec![Step::Done {
                    kind: BREAKAGE_JOB,
                    object: id.to_string(),
                }]));
            };
            let now_ms = core.commit_time_ms();
            let (wait_ms, held) = programs::breakage_after_ms(core, &card.value).await?;
            let at_ms = wait_ms.map(|wait_ms| expired_at_ms.saturating_add(wait_ms));
            if at_ms.is_none_or(|at_ms| now_ms < at_ms) {
                let look_ms = next_look_ms(wait_ms, expired_at_ms, now_ms);
                return Ok(Some(vec![due(BREAKAGE_JOB, id, look_ms)]));
            }
            let Some(mut steps) = family::none_can_spend(core, id).await? else {
                let look_ms = now_ms.saturating_add(DAY_MS);
                return Ok(Some(vec![due(BREAKAGE_JOB, id, look_ms)]));
            };
            steps.extend(held);
            self.retired(&card, RetireTo::Breakage, &mut steps)?;
            let transfer = core.new_id(TransferId::from_parts)?;
            let (from, kind) = (card.value.balance_account(), TransferKind::Breakage);
            steps.push(all_of(
                from,
                Account::breakage(card.value.unit),
                transfer,
                kind,
                id,
            ));
            Ok(Some(steps))
        })
        .await
        .map(drop)
    }
}
