//! Chips that are reset, to be issued again. No key that was ever on a chip is lost with it: the
//! keys of every version can be derived, and are told once the chip is out of use, so that a
//! reset that stopped half-way can be finished.

use super::model::WipeCard;
use crate::Error;
use crate::access::Credential;
use crate::cards::boltcard::{Opened, PiccData, TapError, TapUrl};
use crate::cards::{
    CARDS, Card, CardError, CardState, Cards, ExistingChip, FIRST_VERSION, ProgrammingKeys, load,
    parse_uid, rules,
};
use crate::core::{Answer, Decision, Executed, Loaded, emit};
use crate::store::MAX_PAGE;

/// The keys of such a card are told to nobody.
fn is_in_use(card: &Card) -> bool {
    use CardState::{Active, Expired, Frozen};

    matches!(card.state, Active | Frozen | Expired) || card.is_with_former_issuer()
}

/// The key version of a new card, and the name that its chip is taken by: once for ever, and once
/// more each time that it was reset. `past` are the cards that the chip ever was, of whatever issuer key:
/// each key has versions of its own.
fn next_version(
    chip: &str,
    past: &[Card],
    existing: Option<&ExistingChip>,
) -> Result<(u32, String), CardError> {
    if let Some(card) = past.iter().find(|card| card.state != CardState::Wiped) {
        let card = card.id.to_string();
        return Err(CardError::AlreadyIssued { card });
    }
    let of_key = past.iter().filter(|card| card.chip == chip);
    let last = of_key.map(|card| card.version).max();
    let next = last.map_or(FIRST_VERSION, |last| last.saturating_add(1));
    let version = match existing {
        // A version that was on the chip before would take its old taps again.
        Some(chip) if last.is_none() || chip.version >= next => chip.version,
        _ => next,
    };
    let claim = match last {
        None => format!("chip/{chip}"),
        Some(_) => format!("chip/{chip}/v{version}"),
    };
    Ok((version, claim))
}

/// Whether the keys of a card, one of those that its chip ever was, have signed a tap.
fn has_signed(opened: &Opened<'_>, card: &Card, tap: &TapUrl) -> bool {
    let form = card.pull_payment_id.as_deref();
    let signed = opened.key.verify(&opened.picc, card.version, form, tap);
    signed.is_ok()
}

impl Cards {
    pub(in crate::cards) async fn next_version(
        &self,
        uid: &[u8; 7],
        chip: &str,
        existing: Option<&ExistingChip>,
    ) -> Result<(u32, String), Error> {
        let past = self.all_of_chip(uid).await?;
        Ok(next_version(chip, &past, existing)?)
    }

    /// Every card that a chip ever was, of whatever issuer key, the newest first.
    pub(crate) async fn all_of_chip(&self, uid: &[u8; 7]) -> Result<Vec<Card>, Error> {
        let issuer_keys = self.issuer_keys.state();
        let mut found = Vec::new();
        for key in issuer_keys.ring.keys() {
            let chip = hex::encode(key.card_id_hash(uid));
            found.extend(self.all_of_hash(&chip).await?);
        }
        Ok(found)
    }

    /// As [`all_of_chip`](Self::all_of_chip), of one issuer key, by the hash that it makes.
    pub(in crate::cards) async fn all_of_hash(&self, chip: &str) -> Result<Vec<Card>, Error> {
        let mut found: Vec<Card> = Vec::new();
        // Cards that were written by an earlier version are under the first alone.
        for index in ["chip", "any_chip"] {
            let cards = self.core.list(CARDS, index, chip, None, MAX_PAGE).await?;
            for card in cards {
                let card: Card = card;
                if found.iter().all(|known| known.id != card.id) {
                    found.push(card);
                }
            }
        }
        found.sort_by_key(|card| std::cmp::Reverse((card.version, card.id)));
        Ok(found)
    }

    /// The card that has signed a tap, in use or not: of those with the same keys the newest.
    pub(in crate::cards) async fn signed_before(
        &self,
        tap: &str,
    ) -> Result<Option<(Loaded<Card>, PiccData)>, Error> {
        let Ok(tap) = TapUrl::parse(tap) else {
            return Ok(None);
        };
        let issuer_keys = self.issuer_keys.state();
        for opened in issuer_keys.ring.open(tap.p()) {
            let chip = hex::encode(opened.key.card_id_hash(&opened.picc.uid));
            let all = self.all_of_hash(&chip).await?;
            if let Some(card) = all.iter().find(|card| has_signed(&opened, card, &tap)) {
                return Ok(Some((load(&self.core, card.id).await?, opened.picc)));
            }
        }
        Ok(None)
    }

    /// The keys to reset a chip with that is out of use (lost, replaced, retired, wiped, or never
    /// handed over): those of every version that was ever written on it, the newest first. With
    /// a tap of the chip only those that signed it: these are on the chip. Issuer only.
    ///
    /// # Errors
    /// `card.not_found`, `card.keys_withheld` while the chip is in use, `card.bad_uid`,
    /// `card.tap_malformed`, `card.tap_not_ours`, `card.tap_wrong_mac` when no version signed the
    /// tap, `access.*`.
    pub async fn wipe_keys(
        &self,
        credential: &Credential,
        uid: &str,
        tap: Option<&str>,
    ) -> Result<Vec<ProgrammingKeys>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        let uid = parse_uid(uid)?;
        self.issuer_keys.refresh(&self.core).await?;
        let found = self.all_of_chip(&uid).await?;
        if found.is_empty() {
            return Err(CardError::NotFound.into());
        }
        if let Some(card) = found.iter().find(|card| is_in_use(card)) {
            return Err(CardError::KeysWithheld { card: card.id }.into());
        }
        let told = |cards: &mut dyn Iterator<Item = &Card>| {
            let told: Result<Vec<_>, CardError> = cards.map(|card| self.told(card, &uid)).collect();
            Ok(told?)
        };
        let Some(tap) = tap else {
            return told(&mut found.iter());
        };
        let tap = TapUrl::parse(tap).map_err(CardError::from)?;
        let issuer_keys = self.issuer_keys.state();
        let opened: Vec<Opened<'_>> = issuer_keys.ring.open(tap.p()).collect();
        if opened.is_empty() {
            return Err(CardError::from(TapError::NotOurs).into());
        }
        let is_on_chip = |card: &&Card| {
            opened.iter().any(|opened| {
                opened.picc.uid == uid
                    && hex::encode(opened.key.card_id_hash(&uid)) == card.chip
                    && has_signed(opened, card, &tap)
            })
        };
        let signed: Vec<&Card> = found.iter().filter(is_on_chip).collect();
        if signed.is_empty() {
            return Err(CardError::from(TapError::WrongMac).into());
        }
        told(&mut signed.into_iter())
    }

    /// Says that a chip was reset: it is blank again, and can be issued as a new card, whose keys
    /// are of the next version. Of a card that was replaced or retired, or never handed over; not
    /// of one that is with its former issuer again.
    /// Issuer only.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active` in any other state, `command.*`, `access.*`.
    pub async fn wipe(
        &self,
        credential: &Credential,
        command: WipeCard,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let decide = || async {
                    use CardState::{Issued, Replaced, Retired};

                    let card = load(&cards.core, command.card).await?;
                    let state = card.value.state;
                    let is_there = card.value.is_with_former_issuer();
                    if !matches!(state, Issued | Replaced | Retired) || is_there {
                        let card = card.value.id;
                        return Err(CardError::NotActive { card, state }.into());
                    }
                    let answer = Card {
                        state: CardState::Wiped,
                        ..card.value
                    };
                    let steps = vec![
                        rules::write(&answer, card.version)?,
                        emit("card.wiped", answer.id.to_string(), &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let operation = "cards.wipe";
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }
}
