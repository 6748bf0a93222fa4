//! The records of taps that a till takes while it is offline.

use serde::{Deserialize, Serialize};

use crate::core::IdempotencyKey;
use crate::ids::{CardId, ChargeId, CredentialId, MerchantId};

/// Who bears what a card cannot pay of a genuine tap. What a till did wrong (a forged tap, one
/// that was used before, more than its limits) is always its merchant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossBearer {
    /// The merchant: the sale is not paid.
    Merchant,
    /// The operator: the merchant is paid, out of the account `offline_loss`.
    Operator,
}

/// Who pays a tap of a card that was stopped after it, when it is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedCard {
    /// It is a loss: whoever stopped the card loses nothing any more, and trusts no till's clock.
    Loss,
    /// The card, where the till dates the tap before it was stopped; of one that was replaced since,
    /// the card in its place. Of one that was retired since, whose money is no card's any more, it is
    /// a loss.
    Pays,
}

/// What a merchant or one till may take offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineTerms {
    /// The most that one tap may come to.
    pub per_tap_msat: i64,
    /// The most that the taps of one day of UTC may come to, by the till's time.
    pub per_day_msat: i64,
    /// How long after it was taken a tap can be replayed, in milliseconds.
    pub window_ms: i64,
    /// Who bears what a card cannot pay.
    pub loss: LossBearer,
    /// Who pays a tap of a card that was stopped since.
    pub stopped_card: StoppedCard,
}

/// Says what a merchant, or one of its tills, may take offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetOfflineTerms {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The merchant.
    pub merchant: MerchantId,
    /// One of its tills, which then has these limits besides those of all tills together; `None`
    /// for the merchant.
    pub till: Option<CredentialId>,
    /// The terms; `None` for none: a merchant then takes nothing offline, and a till what its
    /// merchant may.
    pub terms: Option<OfflineTerms>,
}

/// Registers the key with which a till signs what it takes offline. A till has one key at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollOfflineKey {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The public key, 64 hex digits (BIP 340).
    pub public_key: String,
    /// That the till has the secret key: see [`OfflineKey::enroll`](super::OfflineKey::enroll).
    pub proof: String,
}

/// A till that may take taps offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineEnrolment {
    /// The till.
    pub till: CredentialId,
    /// Its merchant.
    pub merchant: MerchantId,
    /// The key that it signs with.
    pub public_key: String,
    /// What it may take; `None` when its merchant may take nothing.
    pub terms: Option<OfflineTerms>,
}

/// A tap that a till took offline.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineTap {
    /// Its number, from 1 for each key.
    pub sequence: u64,
    /// What the chip gave: its whole URL.
    pub tap: String,
    /// What is to be paid.
    pub amount_msat: i64,
    /// When it was taken, by the till's clock, milliseconds since the epoch.
    pub at_ms: i64,
    /// The merchant's own name for the sale; at most 100 characters.
    pub reference: String,
    /// The digest of the tap before it, 64 hex digits; of the till and its key for the first.
    pub before: String,
}

impl std::fmt::Debug for OfflineTap {
    // The tap can be charged until it is replayed: it does not belong in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfflineTap")
            .field("sequence", &self.sequence)
            .field("amount_msat", &self.amount_msat)
            .field("at_ms", &self.at_ms)
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// Taps that follow each other, signed by the till that took them. It needs no idempotency key:
/// each tap in it is settled once by its key and number, however often and in whatever order
/// envelopes come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineEnvelope {
    /// The till.
    pub till: CredentialId,
    /// The key that signed.
    pub public_key: String,
    /// 1 to [`OFFLINE_ENVELOPE_TAPS`](super::OFFLINE_ENVELOPE_TAPS) taps.
    pub taps: Vec<OfflineTap>,
    /// The signature, 128 hex digits (BIP 340).
    pub signature: String,
}

/// What a till says to a tap that it takes offline. It has not been checked: a till has no keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedOffline {
    /// Its number.
    pub sequence: u64,
    /// Always [`OfflineState::AcceptedNotPaid`].
    pub state: OfflineState,
    /// What was taken.
    pub amount_msat: i64,
    /// When, by the till's clock, milliseconds since the epoch.
    pub at_ms: i64,
}

/// How a tap stands that was taken offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfflineState {
    /// Taken, and not replayed yet: it may never be paid.
    #[serde(rename = "accepted_offline_not_paid")]
    AcceptedNotPaid,
    /// The card paid it.
    #[serde(rename = "paid")]
    Paid,
    /// The card paid a part of it.
    #[serde(rename = "paid_in_part")]
    PaidInPart,
    /// The card paid nothing of it.
    #[serde(rename = "unpaid")]
    Unpaid,
}

impl std::fmt::Display for OfflineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AcceptedNotPaid => "accepted offline, not paid",
            Self::Paid => "paid",
            Self::PaidInPart => "paid in part",
            Self::Unpaid => "not paid",
        })
    }
}

/// What became of a tap that was taken offline. Also the event `offline.paid`, or `offline.unpaid`
/// where the card did not pay all of it, of the merchant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineOutcome {
    /// Its place: the key and the number, in the order of numbers.
    pub id: String,
    /// The till.
    pub till: CredentialId,
    /// Its merchant.
    pub merchant: MerchantId,
    /// The tap's number.
    pub sequence: u64,
    /// When it was taken, by the till's clock, milliseconds since the epoch.
    pub at_ms: i64,
    /// The merchant's own name for the sale.
    pub reference: String,
    /// What was to be paid.
    pub amount_msat: i64,
    /// How it stands.
    pub state: OfflineState,
    /// The card, where the tap is of one.
    pub card: Option<CardId>,
    /// The charge, where the card paid.
    pub charge: Option<ChargeId>,
    /// What the card paid.
    pub paid_msat: i64,
    /// What it did not pay.
    pub loss_msat: i64,
    /// Who bears that.
    pub borne_by: Option<LossBearer>,
    /// Why, as an error's code.
    pub reason: Option<String>,
}
