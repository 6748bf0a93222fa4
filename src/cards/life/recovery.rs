//! Recovery codes: printed, kept in a drawer, and good once for a new holder's credential.
//!
//! A code is derived from the master secret, and in the books it is known by a keyed hash alone.
//! It acts as a credential that can do one thing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use super::LifeError;
use super::check_digit::{check_digit, is_right};
use super::model::{MakeRecoveryCode, RecoverHolder, Recovered, Recovery, RecoveryNumber};
use super::onward::current;
use crate::Error;
use crate::access::{AccessError, Credential, Role};
use crate::cards::{Card, CardError, CardState, Cards, load, rules};
use crate::core::{Answer, Core, Decision, Executed, IdempotencyKey, emit};
use crate::ids::CredentialId;
use crate::ledger::Step;

/// Crockford's: no I, L, O and U, so that none is read as another.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Of 5 bits each: 80 bits, and the check digit.
const SYMBOLS: usize = 17;
/// Whose wrong codes are counted together that come without a source.
const NO_SOURCE: &str = "recovery";

/// A recovery code: 16 letters and digits with a check digit, in groups. `Debug` does not show it;
/// [`reveal`](Self::reveal) does.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryCode(Zeroizing<String>);

impl RecoveryCode {
    fn from_bytes(bytes: &[u8; 10]) -> Self {
        let mut symbols = [0_u8; SYMBOLS];
        for (place, symbol) in symbols.iter_mut().take(SYMBOLS - 1).enumerate() {
            let mut value = 0;
            for bit in place * 5..place * 5 + 5 {
                let byte = bytes.get(bit / 8).copied().unwrap_or(0);
                value = value << 1 | byte >> (7 - bit % 8) & 1;
            }
            *symbol = value;
        }
        let [before @ .., last] = &mut symbols;
        *last = check_digit(before, 32);
        Self::spelled(&symbols)
    }

    fn spelled(symbols: &[u8; SYMBOLS]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(SYMBOLS + 4));
        for (place, symbol) in symbols.iter().enumerate() {
            if place > 0 && place % 4 == 0 {
                text.push('-');
            }
            let letter = ALPHABET.get(usize::from(*symbol)).copied();
            text.push(char::from(letter.unwrap_or(b'0')));
        }
        Self(text)
    }

    /// The text, to be printed: `ABCD-EFGH-JKMN-PQRS-T`.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// What somebody types means this symbol.
fn symbol(typed: u8) -> Option<u8> {
    let letter = match typed.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    let place = ALPHABET.iter().position(|known| *known == letter)?;
    u8::try_from(place).ok()
}

impl FromStr for RecoveryCode {
    type Err = LifeError;

    /// Reads a code as somebody types it: with or without dashes and spaces, in letters of either
    /// case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 100 {
            return Err(LifeError::BadRecoveryCode);
        }
        let mut symbols = [0_u8; SYMBOLS];
        let mut typed = text.bytes().filter(|byte| !matches!(byte, b'-' | b' '));
        for place in &mut symbols {
            let byte = typed.next().ok_or(LifeError::BadRecoveryCode)?;
            *place = symbol(byte).ok_or(LifeError::BadRecoveryCode)?;
        }
        if typed.next().is_some() || !is_right(&symbols, 32) {
            return Err(LifeError::BadRecoveryCode);
        }
        Ok(Self::spelled(&symbols))
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryCode(redacted)")
    }
}

impl Serialize for RecoveryCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.reveal())
    }
}

impl<'de> Deserialize<'de> for RecoveryCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The code with a number.
fn code(core: &Core, number: RecoveryNumber) -> RecoveryCode {
    let bytes = core.secrets.recovery_code(number.of, number.number);
    RecoveryCode::from_bytes(&bytes)
}

/// The id of the credential that a code is: its keyed hash.
fn credential_of(core: &Core, code: &RecoveryCode) -> CredentialId {
    let hash = core.secrets.recovery_hash(code.reveal());
    CredentialId::from_parts(0, *hash)
}

/// What is kept of a command with a code.
#[derive(Serialize)]
struct Asked<'a> {
    key: &'a IdempotencyKey,
}

/// The next code of a card and the step that makes it good.
fn next(core: &Core, card: &Card) -> Result<(RecoveryNumber, Step), Error> {
    let before = card.recovery.map_or(0, |recovery| recovery.number);
    let next = RecoveryNumber {
        of: card.id,
        number: before.saturating_add(1),
    };
    let id = credential_of(core, &code(core, next));
    let role = Role::Recovery { card: card.id };
    Ok((next, core.new_credential(id, role, "recovery")?))
}

/// Voids the code of a card, where it has one, and answers the number of one in its place that
/// nobody is shown: whoever has the old one may be whom the holder is to be rid of.
pub(super) async fn voided(
    core: &Core,
    card: &Card,
) -> Result<(Option<RecoveryNumber>, Vec<Step>), Error> {
    let Some(before) = card.recovery else {
        return Ok((None, Vec::new()));
    };
    let (number, made) = next(core, card)?;
    let gone = core
        .revoke(credential_of(core, &code(core, before)))
        .await?;
    Ok((Some(number), vec![gone, made]))
}

/// A card that somebody holds.
fn require_held(card: &Card) -> Result<(), CardError> {
    use CardState::{Issued, Replaced, Retired, Wiped};

    match card.state {
        Issued | Replaced | Retired | Wiped => Err(CardError::NotActive {
            card: card.id,
            state: card.state,
        }),
        _ => Ok(()),
    }
}

impl Cards {
    /// Makes a recovery code for whoever holds a card, to be printed: whoever has lost the phone
    /// gets a new credential by it. The one before is void. Its holder, or the issuer at the
    /// hand-over.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active`, `command.*`, `access.*`.
    pub async fn make_recovery_code(
        &self,
        credential: &Credential,
        command: MakeRecoveryCode,
    ) -> Result<Answer<Recovery>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer_or_holder(command.card)?;
                let decide = || async {
                    let card = load(core, command.card).await?;
                    require_held(&card.value)?;
                    let (number, made) = next(core, &card.value)?;
                    let mut steps = Vec::new();
                    if let Some(before) = card.value.recovery {
                        let id = credential_of(core, &code(core, before));
                        steps.push(core.revoke(id).await?);
                    }
                    let answer = Card {
                        recovery: Some(number),
                        ..card.value
                    };
                    steps.push(made);
                    steps.push(rules::write(&answer, card.version)?);
                    let id = answer.id.to_string();
                    steps.push(emit("card.recovery_code_made", id, &answer)?);
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.make_recovery_code";
                let executed: Executed<Card> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                let Answer { as_of_ms, value } = executed.answer;
                let code = cards.code_of(&value)?;
                let value = Recovery { card: value, code };
                Ok(Answer { as_of_ms, value })
            })
            .await
    }

    fn code_of(&self, card: &Card) -> Result<RecoveryCode, Error> {
        let number = card.recovery.ok_or(CardError::NotFound)?;
        Ok(code(&self.core, number))
    }

    /// Gets the holder's credential back by a recovery code: the credential before is refused
    /// from now on, and so is the code; there is a new one of each. Where the code's card was
    /// replaced, of the card in its place. Needs no other credential. From a source of too many
    /// wrong codes none is taken for a while, see [`from_source`](Self::from_source); without
    /// one, all that come without one are counted together.
    ///
    /// # Errors
    /// `card.wrong_recovery_code`, also of one that was used, `card.too_many_wrong_codes`,
    /// `card.not_active` when the card is out of use, `command.*`.
    pub async fn recover(&self, command: RecoverHolder) -> Result<Answer<Recovered>, Error> {
        let cards = self.clone();
        self.core
            .detached(async move {
                let core = &cards.core;
                let source = cards.source.as_deref().unwrap_or(NO_SOURCE);
                let now_ms = core.clock.now_ms();
                if let Some(retry_after_ms) = cards.bad_codes.wait_ms(source, now_ms) {
                    return Err(LifeError::TooManyWrongCodes { retry_after_ms }.into());
                }
                let recovered = cards.recover_with(&command).await;
                let wrong = CardError::Life(LifeError::WrongRecoveryCode);
                if recovered.as_ref().err() == Some(&Error::Card(wrong)) {
                    cards.bad_codes.count(source, now_ms);
                }
                recovered
            })
            .await
    }

    async fn recover_with(&self, command: &RecoverHolder) -> Result<Answer<Recovered>, Error> {
        let core = &self.core;
        let id = credential_of(core, &command.code);
        // A code that was used still has its answer, for whoever asks with the same key.
        let caller = match core.admit_even_revoked(id).await {
            Ok(caller) => caller,
            Err(Error::Access(AccessError::Unknown)) => {
                return Err(LifeError::WrongRecoveryCode.into());
            }
            Err(error) => return Err(error),
        };
        let Role::Recovery { card } = caller.role else {
            return Err(LifeError::WrongRecoveryCode.into());
        };
        let asked = Asked { key: &command.key };
        let decide = || async {
            let card = current(core, card).await?;
            require_held(&card.value)?;
            let mut steps = vec![match core.revoke(id).await {
                Err(Error::Access(AccessError::Revoked { .. })) => {
                    return Err(LifeError::WrongRecoveryCode.into());
                }
                revoked => revoked?,
            }];
            if let Some(old) = card.value.holder {
                steps.push(core.revoke(old).await?);
            }
            let holder = core.new_id(CredentialId::from_parts)?;
            let (number, made) = next(core, &card.value)?;
            let answer = Card {
                holder: Some(holder),
                recovery: Some(number),
                ..card.value
            };
            let role = Role::Holder { card: answer.id };
            steps.push(core.new_credential(holder, role, "holder")?);
            steps.push(made);
            steps.push(rules::write(&answer, card.version)?);
            let id = answer.id.to_string();
            steps.push(emit("card.holder_recovered", id, &answer)?);
            Ok(Decision { steps, answer })
        };
        let operation = "cards.recover";
        let executed: Executed<Card> = core
            .execute(&caller, operation, &command.key, &asked, decide)
            .await?;
        let code = self.code_of(&executed.answer.value)?;
        let Answer { as_of_ms, value } = self.activation(executed.answer)?;
        let value = Recovered {
            card: value.card,
            holder: value.holder,
            code,
        };
        Ok(Answer { as_of_ms, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = RecoveryCode::from_bytes(&[0xff, 0, 0x5a, 1, 2, 3, 4, 5, 6, 0x77]);
        let text = code.reveal().to_owned();
        assert_eq!(text.len(), 21);
        let lower = text.to_lowercase().replace('-', " ");
        let misread = text.replace('0', "o").replace('1', "L");
        for typed in [text.as_str(), &lower, &misread] {
            assert_eq!(typed.parse::<RecoveryCode>().as_ref(), Ok(&code), "{typed}");
        }
        let cut = &text[..20];
        let long = format!("{text}0");
        for typed in ["", "U", cut, &long, "é"] {
            let read = typed.parse::<RecoveryCode>();
            assert_eq!(read, Err(LifeError::BadRecoveryCode), "{typed}");
        }
        assert!(!format!("{code:?}").contains(&text[..4]));
    }
}
