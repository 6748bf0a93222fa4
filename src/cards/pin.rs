//! PINs: asked for above an amount, counted when they are wrong, locked after three
//! (or as many as the card's program says).
//!
//! Kept is an Argon2id hash (RFC 9106) as a PHC string, under a key that is derived from the
//! master secret: a PIN has so few digits that whoever has a bare hash tries them all. It stands in
//! a document of its own, which no event and no answer shows.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use super::boltcard::TapUrl;
use super::charging::VerifiedTap;
use super::life::{LifeError, VirtualTap, owns, owns_or_issued};
use super::programs::{self, PinRules};
use super::{CardError, Cards, guard, load, taps};
use crate::Error;
use crate::access::Credential;
use crate::core::{
    Answer, Core, Decision, Executed, HashCost, IdempotencyKey, Loaded, Turn, Turns, emit, put,
};
use crate::ids::CardId;
use crate::ledger::Step;
use crate::store::StoreError;

const PINS: &str = "card_pin";
/// How many PINs are hashed at once, each in the memory of [`HashCost`].
const LANES: usize = 4;

/// Of Argon2id. It stands in every hash with what it costs, so that changing either breaks no PIN.
const PARALLELISM: u32 = 1;

/// The PIN of a card: 4 to 8 digits. `Debug` does not show it, and it is wiped when dropped.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Pin(PinText);

#[derive(Clone, PartialEq, Eq)]
struct PinText(Zeroizing<String>);

impl Serialize for PinText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for Pin {
    type Err = CardError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_pin = (4..=8).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
        if !is_pin {
            return Err(CardError::BadPin);
        }
        Ok(Self(PinText(Zeroizing::new(text.to_owned()))))
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(redacted)")
    }
}

impl Pin {
    pub(super) fn text(&self) -> &str {
        &self.0.0
    }

    /// What stands for it in the digest of a command: the digest is kept, and the PIN could be
    /// tried out with it.
    pub(super) fn blinded(&self, core: &Core) -> Self {
        Self(PinText(Zeroizing::new(core.secrets.blind(&self.0.0))))
    }
}

/// Sets a card's PIN, or changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCardPin {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// From now on.
    pub pin: Pin,
}

/// Lets a PIN be tried again that was wrong too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockCardPin {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// How the PIN of a card stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinStatus {
    /// The card.
    pub card: CardId,
    /// It has one.
    pub is_set: bool,
    /// It was wrong too often.
    pub is_locked: bool,
    /// How many more wrong ones there may be.
    pub attempts_left: u32,
}

/// A PIN as it is kept.
#[derive(Clone, Serialize, Deserialize)]
struct PinRecord {
    /// A PHC string.
    hash: String,
    /// The wrong attempts since it was last right, each blinded: a command that is sent again is
    /// one attempt.
    wrong: Vec<String>,
}

impl PinRecord {
    fn attempts_left(&self, rules: &PinRules) -> u32 {
        let wrong = u32::try_from(self.wrong.len()).unwrap_or(u32::MAX);
        rules.max_wrong.saturating_sub(wrong)
    }

    fn status(&self, card: CardId, rules: &PinRules) -> PinStatus {
        let attempts_left = self.attempts_left(rules);
        PinStatus {
            card,
            is_set: true,
            is_locked: attempts_left == 0,
            attempts_left,
        }
    }
}

fn write(card: CardId, read_version: i64, record: &PinRecord) -> Result<Step, Error> {
    put(PINS, card.to_string(), read_version, record, Vec::new())
}

/// The steps that give the card `to`, which has none, the PIN of the card `from` as it is in the
/// commit: neither one that is set nor a wrong one that is counted in between is lost.
pub(super) async fn carry(core: &Core, from: CardId, to: CardId) -> Result<Vec<Step>, Error> {
    let found = load_pin(core, from).await?;
    let mut steps = vec![Step::Require {
        collection: PINS,
        id: from.to_string(),
        version: found.as_ref().map_or(0, |found| found.version),
    }];
    if let Some(found) = found {
        steps.push(write(to, 0, &found.value)?);
    }
    Ok(steps)
}

async fn load_pin(core: &Core, card: CardId) -> Result<Option<Loaded<PinRecord>>, Error> {
    core.load(PINS, &card.to_string()).await
}

/// The rules for the PIN of a card.
async fn rules_of(core: &Core, card: CardId) -> Result<PinRules, Error> {
    let card = load(core, card).await?.value;
    let program = programs::of(core, &card).await?;
    Ok(program.map_or_else(PinRules::default, |program| program.value.terms.pin))
}

/// Those who wait to have a PIN checked. Of one card they come one after another, so that nobody
/// tries many at once before the first is counted; and hashing takes no more memory than
/// so many of them. Engines on one database do not wait for each other: of each, one more guess
/// may be underway when the third wrong one is counted.
#[derive(Clone, Default)]
pub(super) struct PinLanes(Arc<[Turns; LANES]>);

impl PinLanes {
    async fn take(&self, number: u8) -> Turn {
        let [first, ..] = &*self.0;
        let lane = self.0.get(usize::from(number) % LANES);
        lane.unwrap_or(first).take().await
    }
}

fn hasher(key: &[u8; 32], cost: HashCost) -> Result<Argon2<'_>, Error> {
    let params = Params::new(cost.memory_kib, cost.passes, PARALLELISM, None);
    let params = params.map_err(|error| unusable(&error))?;
    Argon2::new_with_secret(key, Algorithm::Argon2id, Version::V0x13, params)
        .map_err(|error| unusable(&error))
}

fn unusable(error: &dyn fmt::Display) -> Error {
    let reason = format!("the hash of a PIN: {error}");
    StoreError::Corrupt { reason }.into()
}

/// The PHC string of a PIN.
async fn hash(core: &Core, pin: Pin) -> Result<String, Error> {
    let (key, cost) = (core.secrets.pin_key(), core.hash_cost);
    let mut salt = [0; 16];
    core.entropy.fill(&mut salt)?;
    core.blocking(move || {
        let salt = SaltString::encode_b64(&salt).map_err(|error| unusable(&error))?;
        let hashed = hasher(&key, cost)?.hash_password(pin.0.0.as_bytes(), &salt);
        let hashed = hashed.map_err(|error| unusable(&error))?;
        Ok(hashed.to_string())
    })
    .await?
}

/// True when a PHC string is that of the PIN; compared in constant time.
async fn is_right(core: &Core, pin: Pin, hash: String) -> Result<bool, Error> {
    let (key, cost) = (core.secrets.pin_key(), core.hash_cost);
    core.blocking(move || {
        let hash = PasswordHash::new(&hash).map_err(|error| unusable(&error))?;
        match hasher(&key, cost)?.verify_password(pin.0.0.as_bytes(), &hash) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::Password) => Ok(false),
            Err(error) => Err(unusable(&error)),
        }
    })
    .await?
}

/// The step that holds in the commit of what needs the PIN: nobody has tried in between. `None`
/// where none is needed and none was given.
pub(super) async fn check(
    core: &Core,
    tap: &VerifiedTap,
    amount: i64,
    pin: Option<&Pin>,
) -> Result<Option<Step>, Error> {
    let card = &tap.card.value;
    let own = card.limits.pin_above;
    let above = match &tap.program {
        Some(program) => program.value.pin_above(own),
        None => own,
    };
    let needed = above.filter(|above| amount > *above);
    if needed.is_none() && pin.is_none() {
        return Ok(None);
    }
    // A tap that was used before tries no PIN, and locks none.
    taps::require_unused(core, tap).await?;
    let card = card.id;
    let found = load_pin(core, card).await?;
    let Loaded { version, value } = found.ok_or(CardError::PinNotSet { card })?;
    let pin = match (pin, needed) {
        (Some(pin), _) => pin,
        (None, above) => {
            let above = above.unwrap_or(0);
            return Err(CardError::PinRequired { above }.into());
        }
    };
    let attempts_left = match tap.terms() {
        Some(terms) => value.attempts_left(&terms.pin),
        None => value.attempts_left(&PinRules::default()),
    };
    if attempts_left == 0 {
        return Err(CardError::PinLocked { card }.into());
    }
    if !is_right(core, pin.clone(), value.hash.clone()).await? {
        return Err(CardError::WrongPin {
            card,
            attempts_left,
        }
        .into());
    }
    if value.wrong.is_empty() {
        return Ok(Some(Step::Require {
            collection: PINS,
            id: card.to_string(),
            version,
        }));
    }
    let after = PinRecord {
        wrong: Vec::new(),
        ..value
    };
    write(card, version, &after).map(Some)
}

impl Cards {
    /// Waits until nobody else has a PIN of the tapped card checked, or a virtual card's code; not
    /// where neither is given.
    pub(super) async fn pin_turn(&self, tap: &str, pin: Option<&Pin>) -> Option<Turn> {
        if let Some(Ok(tap)) = VirtualTap::parse(tap) {
            return Some(self.pins.take(tap.last_digit()).await);
        }
        pin?;
        let tap = TapUrl::parse(tap).ok()?;
        // As where it is verified: a `p` may open with other keys than that of its card.
        let (_, picc) = self.card_of(tap.p(), |_, _| Ok(())).await.ok()?;
        let [.., last] = picc.uid;
        Some(self.pins.take(last).await)
    }

    /// Counts a wrong PIN, in a commit of its own, before anybody learns that it was wrong.
    /// `attempt` names the command and the PIN.
    pub(super) async fn count_if_wrong<T>(
        &self,
        attempt: &str,
        outcome: Result<T, Error>,
    ) -> Result<T, Error> {
        let card = match outcome {
            Err(Error::Card(CardError::WrongPin { card, .. })) => card,
            Err(Error::Card(CardError::Life(LifeError::WrongCode { card, .. }))) => {
                return Err(self.count_wrong_code(card, attempt).await?);
            }
            outcome => return outcome,
        };
        let core = &self.core;
        let attempt = &core.secrets.blind(attempt);
        core.settle(|| async move {
            let Some(Loaded { version, mut value }) = load_pin(core, card).await? else {
                return Ok(None);
            };
            let rules = rules_of(core, card).await?;
            if value.wrong.contains(attempt) || value.attempts_left(&rules) == 0 {
                return Ok(None);
            }
            value.wrong.push(attempt.clone());
            let status = value.status(card, &rules);
            let mut steps = vec![
                write(card, version, &value)?,
                emit("card.pin_wrong", card.to_string(), &status)?,
            ];
            if status.is_locked {
                steps.push(emit("card.pin_locked", card.to_string(), &status)?);
            }
            Ok(Some(steps))
        })
        .await?;
        let found = load_pin(core, card).await?;
        let rules = rules_of(core, card).await?;
        let attempts_left = found.map_or(0, |found| found.value.attempts_left(&rules));
        Err(CardError::WrongPin {
            card,
            attempts_left,
        }
        .into())
    }

    /// Sets a card's PIN, or changes it, and forgets the wrong attempts. From which amount on it
    /// is asked for say the card's limits. Its holder alone; of a family card the main card's.
    ///
    /// # Errors
    /// `card.not_found`, `command.*`, `access.*`.
    pub async fn set_pin(
        &self,
        credential: &Credential,
        command: SetCardPin,
    ) -> Result<Answer<PinStatus>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let card = command.card;
                cards.require_owner(&caller, card).await?;
                let asked = SetCardPin {
                    pin: command.pin.blinded(core),
                    ..command.clone()
                };
                let _turn = cards.pins.take(0).await;
                let (hash, caller) = (&hash(core, command.pin).await?, &caller);
                let decide = || async move {
                    let owned = load(core, card).await?;
                    owns(caller, &owned.value)?;
                    let rules = rules_of(core, card).await?;
                    let found = load_pin(core, card).await?;
                    let version = found.map_or(0, |found| found.version);
                    let record = PinRecord {
                        hash: hash.clone(),
                        wrong: Vec::new(),
                    };
                    let answer = record.status(card, &rules);
                    let steps = vec![
                        guard(&owned),
                        write(card, version, &record)?,
                        emit("card.pin_set", card.to_string(), &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let executed: Executed<PinStatus> = core
                    .execute(caller, "cards.set_pin", &command.key, &asked, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Lets a PIN be tried again that was wrong too often. The card's holder, of a family card the
    /// main card's, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `card.pin_not_set`, `command.*`, `access.*`.
    pub async fn unlock_pin(
        &self,
        credential: &Credential,
        command: UnlockCardPin,
    ) -> Result<Answer<PinStatus>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let (card, caller) = (command.card, &caller);
                let decide = || async move {
                    let owned = load(core, card).await?;
                    owns_or_issued(caller, &owned.value)?;
                    let found = load_pin(core, card).await?;
                    let Loaded { version, mut value } =
                        found.ok_or(CardError::PinNotSet { card })?;
                    value.wrong.clear();
                    let answer = value.status(card, &rules_of(core, card).await?);
                    let steps = vec![
                        guard(&owned),
                        write(card, version, &value)?,
                        emit("card.pin_unlocked", card.to_string(), &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let executed: Executed<PinStatus> = core
                    .execute(caller, "cards.unlock_pin", &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// How the PIN of a card stands. Its holder, or the issuer.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn pin_status(
        &self,
        credential: &Credential,
        card: CardId,
    ) -> Result<Answer<PinStatus>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer_or_holder(card)?;
        let as_of_ms = self.core.clock.now_ms();
        let none = PinStatus {
            card,
            is_set: false,
            is_locked: false,
            attempts_left: 0,
        };
        let found = load_pin(&self.core, card).await?;
        let value = match found {
            Some(found) => found.value.status(card, &rules_of(&self.core, card).await?),
            None => none,
        };
        Ok(Answer { as_of_ms, value })
    }
}
