//! Virtual cards, and bearer cards that are kept beside the others.

use serde::{Deserialize, Serialize};

use super::expiry::look_then;
use super::model::{CardKind, IssueVirtualCard, RegisterBearerCard, UnlockCardCode};
use super::presented::{CardNumber, STEP_MS, VirtualTap, code, spelled};
use super::{LifeError, owns};
use crate::Error;
use crate::access::Credential;
use crate::cards::charging::VerifiedTap;
use crate::cards::{
    CARDS, Card, CardError, CardLimits, CardState, Cards, FIRST_VERSION, guard, load, programs,
    rules, taps,
};
use crate::core::{Answer, CommandError, Core, Decision, Executed, Loaded, emit, put};
use crate::ids::CardId;
use crate::ledger::Step;

pub(super) const CODES: &str = "card_code";
/// How many wrong codes lock it.
const MAX_WRONG: usize = 5;
/// How many wrong codes of those that only look at it are taken in an hour, from everywhere.
const MAX_WRONG_LOOKS: usize = 10;
const HOUR_MS: i64 = 3_600_000;

/// A virtual card as whoever holds it sees it. `Debug` does not show the code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualCardDetails {
    /// The card.
    pub card: CardId,
    /// Its number: 16 digits, the last of them a check digit.
    pub number: String,
    /// From when on it cannot be used, milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
    /// The code of now: eight digits, good for one charge.
    pub code: String,
    /// When the next code is shown, milliseconds since the epoch.
    pub next_code_at_ms: i64,
}

impl std::fmt::Debug for VirtualCardDetails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualCardDetails")
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

/// The wrong codes since it was last unlocked or right.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct CodeRecord {
    /// Of whoever wanted to be paid with it. Blinded: a command that is sent again is one attempt.
    wrong: Vec<String>,
    /// Of whoever only looked at it, and needs nothing for that but its number: they are slowed down,
    /// and lock nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    looks: Vec<String>,
    /// When the first of those was.
    #[serde(default)]
    pub(super) looks_since_ms: i64,
}

impl CodeRecord {
    fn attempts_left(&self) -> u32 {
        u32::try_from(MAX_WRONG.saturating_sub(self.wrong.len())).unwrap_or(0)
    }

    pub(super) fn looks_left(&self) -> u32 {
        u32::try_from(MAX_WRONG_LOOKS.saturating_sub(self.looks.len())).unwrap_or(0)
    }

    /// How long those count that were wrong when they looked. A clock that was set back makes it no
    /// longer.
    pub(super) fn looks_last_ms(&self, now_ms: i64) -> i64 {
        let until_ms = self.looks_since_ms.saturating_add(HOUR_MS);
        until_ms.saturating_sub(now_ms).clamp(0, HOUR_MS)
    }

    /// Counts a wrong code of a look; false where it was counted before.
    pub(super) fn count_look(&mut self, attempt: &str, now_ms: i64) -> bool {
        if self.looks.is_empty() || self.looks_last_ms(now_ms) == 0 {
            self.looks.clear();
            self.looks_since_ms = now_ms;
        }
        let is_new = self.looks_left() > 0 && !self.looks.iter().any(|known| known == attempt);
        if is_new {
            self.looks.push(attempt.to_owned());
        }
        is_new
    }
}

pub(super) async fn load_code(core: &Core, card: CardId) -> Result<Loaded<CodeRecord>, Error> {
    let found = core.load(CODES, &card.to_string()).await?;
    Ok(found.unwrap_or(Loaded {
        version: 0,
        value: CodeRecord::default(),
    }))
}

fn number_of(core: &Core, card: CardId) -> CardNumber {
    CardNumber::from_seed(u64::from_be_bytes(*core.secrets.card_number(card)))
}

/// What a card is found by that is no chip: the keyed hash of its number, or of its public key.
pub(super) fn found_by(core: &Core, what: &str) -> String {
    core.secrets.blind(what)
}

/// Whoever has used the right code has put an end to the wrong ones: the step that says so in the
/// commit that uses it up.
pub(in crate::cards) async fn code_was_right(
    core: &Core,
    card: &Card,
) -> Result<Option<Step>, Error> {
    if card.kind != CardKind::Virtual {
        return Ok(None);
    }
    let Loaded { version, value } = load_code(core, card.id).await?;
    if value.wrong.is_empty() && value.looks.is_empty() {
        return Ok(None);
    }
    let (id, none) = (card.id.to_string(), CodeRecord::default());
    put(CODES, id, version, &none, Vec::new()).map(Some)
}

/// A card that is new, of a kind other than a chip's.
fn new_card(core: &Core, id: CardId, kind: CardKind, chip: String, limits: &CardLimits) -> Card {
    Card {
        id,
        chip,
        version: FIRST_VERSION,
        pull_payment_id: None,
        state: CardState::Issued,
        limits: limits.clone(),
        created_at_ms: core.clock.now_ms(),
        holder: None,
        program: None,
        kind,
        ..Card::blank(id)
    }
}

fn issue(card: &Card) -> Result<Vec<Step>, Error> {
    let id = card.id.to_string();
    let mut steps = vec![
        Step::Claim {
            name: format!("chip/{}", card.chip),
            by: id.clone(),
        },
        rules::write(card, 0)?,
        emit("card.issued", id, card)?,
    ];
    steps.extend(rules::begin_counting(card, None));
    steps.extend(look_then(card));
    Ok(steps)
}

impl Cards {
    /// Makes a card that is a number and a rotating code; it is activated as any other. At a till
    /// it is a [`VirtualTap`] in the place of a tap, under the same limits and the rules of its
    /// program. Issuer only.
    ///
    /// # Errors
    /// `card.program_not_found`, `card.unknown_time_zone`, `command.*`, `access.*`.
    pub async fn issue_virtual(
        &self,
        credential: &Credential,
        command: IssueVirtualCard,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                rules::check_limits(&command.limits)?;
                let decide = || async {
                    let program = match command.program {
                        Some(program) => Some(programs::load(core, program).await?),
                        None => None,
                    };
                    let of = programs::terms_of_a_new_card(program.as_ref(), &command.limits);
                    let id = core.new_id(CardId::from_parts)?;
                    let chip = found_by(core, &number_of(core, id).to_string());
                    let answer = Card {
                        expires_at_ms: command.expires_at_ms,
                        program: command.program,
                        unit: of.unit,
                        issued_with: of.issued_with,
                        ..new_card(core, id, CardKind::Virtual, chip, &of.limits)
                    };
                    rules::require_not_expired(&answer, core.commit_time_ms())?;
                    let mut steps = issue(&answer)?;
                    steps.extend(program.as_ref().map(programs::guard));
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.issue_virtual";
                let executed: Executed<Card> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await
                    .map_err(rules::refused)?;
                Ok(executed.answer)
            })
            .await
    }

    /// Keeps a card in the list that carries its money itself. Its balance is the chip's and
    /// never in these books, so that it cannot be charged here. Issuer only.
    ///
    /// # Errors
    /// `card.already_issued`, `command.out_of_bounds` when the key is not 66 hex digits,
    /// `command.*`, `access.*`.
    pub async fn register_bearer(
        &self,
        credential: &Credential,
        command: RegisterBearerCard,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let chip = bearer_chip(core, &command.public_key)?;
                let kind = CardKind::Bearer { unit: command.unit };
                let decide = || async {
                    let id = core.new_id(CardId::from_parts)?;
                    let limits = CardLimits::default();
                    let answer = new_card(core, id, kind, chip.clone(), &limits);
                    let steps = issue(&answer)?;
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.register_bearer";
                let executed: Executed<Card> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await
                    .map_err(rules::refused)?;
                Ok(executed.answer)
            })
            .await
    }

    /// The cards that are no bolt cards, oldest first, after the card `after`: the virtual ones,
    /// or those that carry their money themselves; at most `limit` (1 to 1,000). Issuer only.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list_beside(
        &self,
        credential: &Credential,
        is_bearer: bool,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Answer<Vec<Card>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let key = if is_bearer { "bearer" } else { "virtual" };
        let after = after.map(|id| id.to_string());
        let value = self.core.list(CARDS, "kind", key, after, limit).await?;
        Ok(Answer { as_of_ms, value })
    }

    /// The number of a virtual card and its code of now. Its holder.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_virtual`, `access.*`.
    pub async fn virtual_details(
        &self,
        credential: &Credential,
        card: CardId,
    ) -> Result<Answer<VirtualCardDetails>, Error> {
        let core = &self.core;
        core.authenticate(credential).await?.require_holder(card)?;
        // As codes are checked: a clock that was wrong once uses up none that is still to come.
        let as_of_ms = core.commit_time_ms();
        let found = load(core, card).await?.value;
        if found.kind != CardKind::Virtual {
            return Err(LifeError::NotVirtual { card }.into());
        }
        let step = as_of_ms.max(0) / STEP_MS;
        let value = VirtualCardDetails {
            card,
            number: number_of(core, card).to_string(),
            expires_at_ms: found.expires_at_ms,
            code: spelled(code(&core.secrets.virtual_code(card), step)),
            next_code_at_ms: step.saturating_add(1).saturating_mul(STEP_MS),
        };
        Ok(Answer { as_of_ms, value })
    }

    /// Finds a virtual card and checks its code.
    pub(in crate::cards) async fn verify_virtual(
        &self,
        tap: &VirtualTap,
    ) -> Result<VerifiedTap, Error> {
        let core = &self.core;
        let chip = found_by(core, &tap.number.to_string());
        let card: Option<Loaded<Card>> = core.find(CARDS, "chip", &chip).await?;
        let card = card.ok_or(CardError::NotFound)?;
        let id = card.value.id;
        let wrong = load_code(core, id).await?.value;
        if wrong.attempts_left() == 0 {
            return Err(LifeError::CodeLocked { card: id }.into());
        }
        let secret = core.secrets.virtual_code(id);
        let now_ms = core.commit_time_ms();
        let counter = match tap.step(&secret, now_ms) {
            Some(counter) => counter,
            None => self.of_before(tap, &card.value, &secret, now_ms).await?,
        };
        let program = programs::of(core, &card.value).await?;
        Ok(VerifiedTap {
            card,
            program,
            counter,
        })
    }

    /// The step of a code that was shown before: one that was looked at in time, which is good for as
    /// long as any tap. Of another one that was right lately whoever typed it was too late, and guessed
    /// nothing; any other is wrong.
    async fn of_before(
        &self,
        tap: &VirtualTap,
        card: &Card,
        secret: &[u8; 32],
        now_ms: i64,
    ) -> Result<i64, Error> {
        let seen = taps::last_seen(&self.core, card).await?;
        if let Some(step) = seen.filter(|step| tap.is_of(secret, *step)) {
            return Ok(step);
        }
        if let Some(until_ms) = tap.was_good_until_ms(secret, now_ms) {
            return Err(CardError::TapStale { until_ms }.into());
        }
        let attempts_left = load_code(&self.core, card.id).await?.value.attempts_left();
        Err(LifeError::WrongCode {
            card: card.id,
            attempts_left,
        }
        .into())
    }

    /// Refuses a card that carries its money itself.
    pub(in crate::cards) async fn refuse_bearer(&self, public_key: &str) -> Error {
        let chip = match bearer_chip(&self.core, public_key) {
            Ok(chip) => chip,
            Err(error) => return error.into(),
        };
        match self.core.find::<Card>(CARDS, "chip", &chip).await {
            Ok(Some(found)) => LifeError::Bearer {
                card: found.value.id,
            }
            .into(),
            Ok(None) => CardError::NotFound.into(),
            Err(error) => error,
        }
    }

    /// Counts a wrong code, in a commit of its own, before anybody learns that it was wrong.
    /// `attempt` names the command.
    pub(in crate::cards) async fn count_wrong_code(
        &self,
        card: CardId,
        attempt: &str,
    ) -> Result<Error, Error> {
        let core = &self.core;
        let attempt = &core.secrets.blind(attempt);
        core.settle(|| async move {
            let Loaded { version, mut value } = load_code(core, card).await?;
            if value.wrong.contains(attempt) || value.attempts_left() == 0 {
                return Ok(None);
            }
            value.wrong.push(attempt.clone());
            let left = value.attempts_left();
            let id = card.to_string();
            let mut steps = vec![
                put(CODES, id.clone(), version, &value, Vec::new())?,
                emit("card.code_wrong", id.clone(), &left)?,
            ];
            if left == 0 {
                steps.push(emit("card.code_locked", id, &left)?);
            }
            Ok(Some(steps))
        })
        .await?;
        let attempts_left = load_code(core, card).await?.value.attempts_left();
        Ok(LifeError::WrongCode {
            card,
            attempts_left,
        }
        .into())
    }

    /// Lets the code of a virtual card be tried again that was wrong too often. Its holder, of a
    /// family card the main card's.
    ///
    /// # Errors
    /// `card.not_found`, `command.*`, `access.*`.
    pub async fn unlock_code(
        &self,
        credential: &Credential,
        command: UnlockCardCode,
    ) -> Result<Answer<CardId>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let (answer, caller) = (command.card, &caller);
                let decide = || async move {
                    let card = load(core, answer).await?;
                    owns(caller, &card.value)?;
                    let version = load_code(core, answer).await?.version;
                    let (id, none) = (answer.to_string(), CodeRecord::default());
                    let steps = vec![
                        guard(&card),
                        put(CODES, id.clone(), version, &none, Vec::new())?,
                        emit("card.code_unlocked", id, &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.unlock_code";
                let executed: Executed<CardId> = core
                    .execute(caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }
}

fn bearer_chip(core: &Core, public_key: &str) -> Result<String, CommandError> {
    let mut point = [0_u8; 33];
    let is_point = hex::decode_to_slice(public_key, &mut point).is_ok();
    if !is_point || !matches!(point, [2 | 3, ..]) {
        let (field, bounds) = ("public_key", "66 hex digits of a compressed point");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(found_by(core, &hex::encode(point)))
}
