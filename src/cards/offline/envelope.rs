//! The till's side: taps are numbered and chained as they are taken, and signed to be handed in.
//!
//! Nothing here needs an engine. Digests are tagged as BIP 340 has it; every text in one has its
//! length before it, so that no two records come to the same bytes.

use bitcoin::secp256k1::schnorr::Signature;
use bitcoin::secp256k1::{Keypair, Message, Secp256k1, XOnlyPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::model::{
    AcceptedOffline, EnrollOfflineKey, OfflineEnrolment, OfflineEnvelope, OfflineOutcome,
    OfflineState, OfflineTap, OfflineTerms,
};
use super::{DAY_MS, OfflineError};
use crate::cards::CardError;
use crate::cards::boltcard::TapUrl;
use crate::cards::charge_rules::positive;
use crate::core::{IdempotencyKey, check_text};
use crate::ids::CredentialId;
use crate::money::{MAX_MSAT, MoneyError};
use crate::{CommandError, Error};

/// The most taps in one envelope.
pub const OFFLINE_ENVELOPE_TAPS: usize = 100;
/// The longest tap that is looked at.
const MAX_TAP_LENGTH: usize = 2_048;
/// The most that a till keeps before it must hand in.
const MAX_WAITING: usize = 10_000;

type Hash = [u8; 32];

fn tagged(tag: &str, parts: &[&[u8]]) -> Hash {
    let tag = Sha256::digest(tag);
    let mut digest = Sha256::new_with_prefix(tag);
    digest.update(tag);
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// What stands before the first tap of a key.
pub(super) fn genesis(till: CredentialId, public_key: &str) -> String {
    let till = till.to_string();
    let parts = [till.as_bytes(), public_key.as_bytes()];
    hex::encode(tagged("flashkit/offline-first/1", &parts))
}

/// The digest of a tap, and so of all before it.
pub(super) fn digest(tap: &OfflineTap) -> String {
    let hash = tagged(
        "flashkit/offline-tap/1",
        &[
            &tap.sequence.to_be_bytes(),
            tap.tap.as_bytes(),
            &tap.amount_msat.to_be_bytes(),
            &tap.at_ms.to_be_bytes(),
            tap.reference.as_bytes(),
            tap.before.as_bytes(),
        ],
    );
    hex::encode(hash)
}

fn to_sign(envelope: &OfflineEnvelope) -> Hash {
    let till = envelope.till.to_string();
    let count = envelope.taps.len() as u64;
    let last = envelope.taps.last().map(digest).unwrap_or_default();
    tagged(
        "flashkit/offline-envelope/1",
        &[
            till.as_bytes(),
            envelope.public_key.as_bytes(),
            &count.to_be_bytes(),
            last.as_bytes(),
        ],
    )
}

fn to_prove(till: CredentialId, public_key: &str) -> Hash {
    let till = till.to_string();
    let parts = [till.as_bytes(), public_key.as_bytes()];
    tagged("flashkit/offline-enrolment/1", &parts)
}

fn verify(public_key: &str, hash: Hash, signature: &str) -> Result<(), OfflineError> {
    let key: XOnlyPublicKey = one_spelling(public_key)?;
    let mut bytes = [0; 64];
    hex::decode_to_slice(signature, &mut bytes).map_err(|_| OfflineError::BadSignature)?;
    let signature = Signature::from_slice(&bytes).map_err(|_| OfflineError::BadSignature)?;
    Secp256k1::verification_only()
        .verify_schnorr(&signature, &Message::from_digest(hash), &key)
        .map_err(|_| OfflineError::BadSignature)
}

/// One spelling a key, since taps are known by it.
fn one_spelling(public_key: &str) -> Result<XOnlyPublicKey, OfflineError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(public_key, &mut bytes).map_err(|_| OfflineError::BadKey)?;
    if hex::encode(bytes) != public_key {
        return Err(OfflineError::BadKey);
    }
    XOnlyPublicKey::from_slice(&bytes).map_err(|_| OfflineError::BadKey)
}

/// Checks that whoever registers a key has it.
pub(super) fn check_proof(till: CredentialId, command: &EnrollOfflineKey) -> Result<(), Error> {
    let hash = to_prove(till, &command.public_key);
    verify(&command.public_key, hash, &command.proof).map_err(refused)
}

pub(super) fn refused(error: OfflineError) -> Error {
    CardError::Offline(error).into()
}

/// Checks all of an envelope that can be told from it alone.
pub(super) fn check(envelope: &OfflineEnvelope) -> Result<(), Error> {
    let malformed = |reason| refused(OfflineError::Malformed { reason });
    if envelope.taps.is_empty() || envelope.taps.len() > OFFLINE_ENVELOPE_TAPS {
        return Err(malformed("it has no taps, or more than 100"));
    }
    for tap in &envelope.taps {
        if tap.tap.len() > MAX_TAP_LENGTH {
            return Err(malformed("a tap is longer than 2,048 characters"));
        }
        if tap.sequence == 0 || i64::try_from(tap.sequence).is_err() || tap.at_ms < 0 {
            return Err(malformed("a number or a time is out of its bounds"));
        }
        check_sale(tap.amount_msat, &tap.reference)?;
    }
    for pair in envelope.taps.windows(2) {
        let [before, after] = pair else { continue };
        if before.sequence.checked_add(1) != Some(after.sequence)
            || after.before != digest(before)
            || after.at_ms < before.at_ms
        {
            let sequence = after.sequence;
            return Err(refused(OfflineError::ChainBroken { sequence }));
        }
    }
    verify(&envelope.public_key, to_sign(envelope), &envelope.signature).map_err(refused)
}

fn check_sale(amount_msat: i64, reference: &str) -> Result<(), Error> {
    positive(amount_msat)?;
    if amount_msat > MAX_MSAT {
        return Err(MoneyError::Overflow.into());
    }
    Ok(check_text("reference", reference, 100, "100 characters")?)
}

/// The secret key that a till signs with. It is kept where the device keeps secrets; `Debug` does
/// not show it, and it is wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct OfflineKey([u8; 32]);

impl std::fmt::Debug for OfflineKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OfflineKey(redacted)")
    }
}

impl OfflineKey {
    /// Takes 32 random bytes.
    ///
    /// # Errors
    /// `offline.bad_key` when they are no key: of random ones none is met.
    pub fn new(bytes: [u8; 32]) -> Result<Self, Error> {
        let key = Self(bytes);
        key.pair().map_err(refused)?;
        Ok(key)
    }

    fn pair(&self) -> Result<Keypair, OfflineError> {
        let context = Secp256k1::signing_only();
        Keypair::from_seckey_slice(&context, &self.0).map_err(|_| OfflineError::BadKey)
    }

    /// The public key, 64 hex digits.
    ///
    /// # Errors
    /// `offline.bad_key`, which [`new`](Self::new) has ruled out.
    pub fn public_key(&self) -> Result<String, Error> {
        let pair = self.pair().map_err(refused)?;
        Ok(hex::encode(pair.x_only_public_key().0.serialize()))
    }

    fn sign(&self, hash: Hash) -> Result<String, Error> {
        let pair = self.pair().map_err(refused)?;
        let message = Message::from_digest(hash);
        let signature = Secp256k1::signing_only().sign_schnorr_no_aux_rand(&message, &pair);
        Ok(hex::encode(signature.serialize()))
    }

    /// The command that registers it for a till, with the proof that the till has it.
    ///
    /// # Errors
    /// As for [`public_key`](Self::public_key).
    pub fn enroll(
        &self,
        till: CredentialId,
        key: IdempotencyKey,
    ) -> Result<EnrollOfflineKey, Error> {
        let public_key = self.public_key()?;
        let proof = self.sign(to_prove(till, &public_key))?;
        Ok(EnrollOfflineKey {
            key,
            public_key,
            proof,
        })
    }
}

/// What a till keeps while it is offline: a record, to be written down after each change of it and
/// before the goods are handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineBook {
    till: CredentialId,
    public_key: String,
    terms: OfflineTerms,
    last_sequence: u64,
    last_at_ms: i64,
    head: String,
    /// What was taken in the day of UTC in which the last one was.
    today_msat: i64,
    waiting: Vec<OfflineTap>,
}

impl OfflineBook {
    /// A new book of a key that was just registered: one a key, for ever.
    ///
    /// # Errors
    /// `offline.not_allowed` when the merchant may take nothing offline.
    pub fn new(enrolment: &OfflineEnrolment) -> Result<Self, Error> {
        let terms = enrolment.terms.ok_or(refused(OfflineError::NotAllowed))?;
        Ok(Self {
            till: enrolment.till,
            public_key: enrolment.public_key.clone(),
            terms,
            last_sequence: 0,
            last_at_ms: 0,
            head: genesis(enrolment.till, &enrolment.public_key),
            today_msat: 0,
            waiting: Vec::new(),
        })
    }

    /// Other terms, as the engine has told them since.
    pub fn set_terms(&mut self, terms: OfflineTerms) {
        self.terms = terms;
    }

    /// Takes a tap, at the risk of whoever the terms say: **accepted offline, not paid**. A till
    /// has no keys, so that it cannot tell a card from a picture of one.
    ///
    /// # Errors
    /// `card.tap_malformed`, `offline.tap_twice`, `offline.over_tap_limit`,
    /// `offline.over_day_limit`, `money.*`, `command.out_of_bounds`. Nothing was taken then.
    pub fn accept(
        &mut self,
        tap: &str,
        amount_msat: i64,
        reference: &str,
        now_ms: i64,
    ) -> Result<AcceptedOffline, Error> {
        check_sale(amount_msat, reference)?;
        let url = TapUrl::parse(tap).map_err(CardError::from)?;
        let same = |waiting: &OfflineTap| TapUrl::parse(&waiting.tap).as_ref() == Ok(&url);
        if self.waiting.iter().any(same) {
            return Err(refused(OfflineError::TapTwice));
        }
        if self.waiting.len() >= MAX_WAITING {
            let (field, bounds) = ("waiting", "10,000 taps");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        // A clock that was set back makes no new day.
        let at_ms = now_ms.max(self.last_at_ms);
        let today_msat = self.room_today(amount_msat, at_ms)?;
        let taken = OfflineTap {
            sequence: self.last_sequence.saturating_add(1),
            tap: tap.to_owned(),
            amount_msat,
            at_ms,
            reference: reference.to_owned(),
            before: self.head.clone(),
        };
        self.head = digest(&taken);
        (self.last_sequence, self.last_at_ms) = (taken.sequence, at_ms);
        self.today_msat = today_msat;
        let accepted = AcceptedOffline {
            sequence: taken.sequence,
            state: OfflineState::AcceptedNotPaid,
            amount_msat,
            at_ms,
        };
        self.waiting.push(taken);
        Ok(accepted)
    }

    /// What the day comes to with it.
    fn room_today(&self, amount_msat: i64, at_ms: i64) -> Result<i64, Error> {
        let OfflineTerms {
            per_tap_msat,
            per_day_msat,
            ..
        } = self.terms;
        if amount_msat > per_tap_msat {
            let limit_msat = per_tap_msat;
            return Err(refused(OfflineError::OverTapLimit { limit_msat }));
        }
        let before = match at_ms / DAY_MS == self.last_at_ms / DAY_MS {
            true => self.today_msat,
            false => 0,
        };
        let after = before.saturating_add(amount_msat);
        if after > per_day_msat {
            let limit_msat = per_day_msat;
            return Err(refused(OfflineError::OverDayLimit { limit_msat }));
        }
        Ok(after)
    }

    /// What waits to be handed in, oldest first.
    pub fn waiting(&self) -> &[OfflineTap] {
        &self.waiting
    }

    /// The next envelope to hand in; `None` when nothing waits.
    ///
    /// # Errors
    /// `offline.bad_key` when it is not the key of this book.
    pub fn envelope(&self, key: &OfflineKey) -> Result<Option<OfflineEnvelope>, Error> {
        if key.public_key()? != self.public_key {
            return Err(refused(OfflineError::BadKey));
        }
        if self.waiting.is_empty() {
            return Ok(None);
        }
        let first = self.waiting.iter().take(OFFLINE_ENVELOPE_TAPS);
        let mut envelope = OfflineEnvelope {
            till: self.till,
            public_key: self.public_key.clone(),
            taps: first.cloned().collect(),
            signature: String::new(),
        };
        envelope.signature = key.sign(to_sign(&envelope))?;
        Ok(Some(envelope))
    }

    /// Forgets those that the engine has settled, whatever came of them. Where none waits any more,
    /// the book goes on from the time that the engine has judged the last one by: a clock that was
    /// ahead once dates no tap after it.
    pub fn settled(&mut self, outcomes: &[OfflineOutcome]) {
        let of_this_key = format!("{}/", self.public_key);
        self.waiting.retain(|tap| {
            let is_it = |outcome: &OfflineOutcome| {
                outcome.sequence == tap.sequence && outcome.id.starts_with(&of_this_key)
            };
            !outcomes.iter().any(is_it)
        });
        let judged_at_ms = outcomes.iter().map(|outcome| outcome.at_ms).max();
        if let (true, Some(at_ms)) = (self.waiting.is_empty(), judged_at_ms) {
            self.last_at_ms = self.last_at_ms.min(at_ms);
        }
    }
}
