//! The records of a sale that is paid with a card.

use serde::{Deserialize, Serialize};

use super::pin::Pin;
use crate::core::IdempotencyKey;
use crate::ids::{CardId, ChargeId, CredentialId, MerchantId, ProgramId, TransferId};
use crate::ledger::UsageWindow;
use crate::money::{Price, Quote};
use crate::rewards::RewardPosting;

/// Pays a sale with a tapped card.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What the chip gave: its whole URL.
    pub tap: String,
    /// What is to be paid.
    pub price: Price,
    /// The merchant's own name for the sale; at most 100 characters.
    pub reference: String,
    /// The card's PIN, where the amount needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

impl std::fmt::Debug for ChargeCard {
    // A tap that was not charged yet can be: it does not belong in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChargeCard")
            .field("key", &self.key)
            .field("price", &self.price)
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// Sets money of a tapped card aside for a sale that is not done yet: a tab.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizeCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What the chip gave: its whole URL.
    pub tap: String,
    /// What is to be set aside.
    pub price: Price,
    /// The merchant's own name for the sale; at most 100 characters.
    pub reference: String,
    /// The card's PIN, where the amount needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

impl std::fmt::Debug for AuthorizeCard {
    // As of a charge: the tap can still be used.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorizeCard")
            .field("key", &self.key)
            .field("price", &self.price)
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// Takes what was authorised, or less of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCharge {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The charge.
    pub charge: ChargeId,
    /// How much of it; the rest is given back.
    pub amount_msat: i64,
}

/// Gives back all that was authorised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseCharge {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The charge.
    pub charge: ChargeId,
}

/// Undoes a sale that was paid, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundCharge {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The charge.
    pub charge: ChargeId,
    /// How much of it; all refunds of a charge together are never more than it.
    pub amount_msat: i64,
}

/// How a charge stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChargeState {
    /// The money is set aside until it is captured, released, or its time is up.
    Authorized,
    /// Paid. What of it was refunded since stands beside it.
    #[default]
    Captured,
    /// The merchant gave it all back.
    Released,
    /// Nobody captured it in time, and it was given back.
    Expired,
}

/// A sale that is paid with a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Its id.
    pub id: ChargeId,
    /// The card.
    pub card: CardId,
    /// The merchant.
    pub merchant: MerchantId,
    /// The credential that charged.
    pub till: CredentialId,
    /// How it stands.
    #[serde(default)]
    pub state: ChargeState,
    /// What was asked for.
    pub price: Price,
    /// What that came to: what is set aside while it is authorised, what was paid once it is
    /// captured, and nothing of one that was released or expired.
    pub amount_msat: i64,
    /// What was authorised; `None` for one that was paid at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized_msat: Option<i64>,
    /// From when on an authorised one cannot be captured any more, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    /// What of `amount_msat` was refunded.
    #[serde(default)]
    pub refunded_msat: i64,
    /// What of `refunded_msat` did not go on the card again, because the points of the sale were
    /// turned into money there before.
    #[serde(default)]
    pub withheld_msat: i64,
    /// The rate, where the price is in a currency.
    pub quote: Option<Quote>,
    /// The merchant's own name for the sale.
    pub reference: String,
    /// The points program, where the merchant has one.
    pub program: Option<ProgramId>,
    /// The points that the card got.
    pub points: i64,
    /// The points of these that were taken back with refunds, those included that were turned
    /// into money and withheld.
    #[serde(default)]
    pub points_taken_back: i64,
}

/// A charge as it is kept: with what in the books is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChargeRecord {
    #[serde(flatten)]
    pub(super) charge: Charge,
    /// Not known of charges that were made before they could be refunded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) posting: Option<ChargePosting>,
}

/// What in the books is behind a charge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChargePosting {
    /// The money set aside, of one that was authorised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hold: Option<TransferId>,
    /// The payment, once it was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transfer: Option<TransferId>,
    /// The windows in which the amount was counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) usage: Vec<UsageWindow>,
    /// The points that it earned, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reward: Option<RewardPosting>,
    /// What of points that were taken back after they were turned into money could not be withheld
    /// yet, because the refund was less: the next one withholds it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) to_withhold_msat: i64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives it a reference"
)]
fn is_zero(amount_msat: &i64) -> bool {
    *amount_msat == 0
}
