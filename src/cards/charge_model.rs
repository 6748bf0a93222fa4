//! The records of a sale that is paid with a card.

use serde::{Deserialize, Serialize};

use super::pin::Pin;
use crate::core::IdempotencyKey;
use crate::exchange::DriftBearer;
use crate::ids::{CardId, ChargeId, CredentialId, MerchantId, ProgramId, TransferId};
use crate::ledger::UsageWindow;
use crate::money::{Asset, Currency, Price, Quote};
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

/// Both ask the same of a tap, and have the same form: so has the digest of what was asked.
impl From<AuthorizeCard> for ChargeCard {
    fn from(asked: AuthorizeCard) -> Self {
        let AuthorizeCard {
            key,
            tap,
            price,
            reference,
            pin,
        } = asked;
        Self {
            key,
            tap,
            price,
            reference,
            pin,
        }
    }
}

/// How much of a charge. In JSON its fields stand beside the others of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ChargeAmount {
    /// In bitcoin.
    Bitcoin {
        /// How much.
        amount_msat: i64,
    },
    /// In a currency.
    Fiat {
        /// Which.
        currency: Currency,
        /// How much, in its minor unit.
        minor_units: i64,
    },
}

impl ChargeAmount {
    pub(super) fn asset(self) -> Asset {
        match self {
            Self::Bitcoin { .. } => Asset::Btc,
            Self::Fiat { currency, .. } => Asset::Fiat(currency),
        }
    }

    /// How much, in the unit of its asset.
    pub(super) fn units(self) -> i64 {
        match self {
            Self::Bitcoin { amount_msat } => amount_msat,
            Self::Fiat { minor_units, .. } => minor_units,
        }
    }
}

impl From<Price> for ChargeAmount {
    fn from(price: Price) -> Self {
        match price {
            Price::Bitcoin { amount_msat } => Self::Bitcoin { amount_msat },
            Price::Fiat {
                currency,
                minor_units,
            } => Self::Fiat {
                currency,
                minor_units,
            },
        }
    }
}

/// Takes what was authorised, or less of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCharge {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The charge.
    pub charge: ChargeId,
    /// How much of it, in the unit of the card, or in what the price of a card in a currency is in;
    /// the rest is given back.
    #[serde(flatten)]
    pub amount: ChargeAmount,
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
    /// How much of it, in the unit of the card; all refunds of a charge together are never more
    /// than it.
    #[serde(flatten)]
    pub amount: ChargeAmount,
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
    /// What the card pays, where its unit is a currency: `amount_msat` is then what the operator
    /// pays for it to the merchant, its spread included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<ChargeConversion>,
}

impl Charge {
    /// What the card is in.
    pub fn unit(&self) -> Asset {
        let conversion = self.conversion.as_ref();
        conversion.map_or(Asset::Btc, |conversion| Asset::Fiat(conversion.currency))
    }

    /// What the card pays, in its unit.
    pub fn on_card(&self) -> i64 {
        let conversion = self.conversion.as_ref();
        conversion.map_or(self.amount_msat, |conversion| conversion.amount)
    }

    /// What is set aside of the card's money, in its unit.
    pub(super) fn set_aside(&self) -> i64 {
        let conversion = self.conversion.as_ref();
        let set_aside = conversion.and_then(|conversion| conversion.set_aside);
        set_aside.unwrap_or(self.on_card())
    }

    /// The quote that the operator's spread is in, where there is one.
    pub(super) fn spread_quote(&self) -> Option<&Quote> {
        let of_card = self.conversion.as_ref().map(|conversion| &conversion.quote);
        self.quote.as_ref().or(of_card)
    }
}

/// What a card in a currency pays for a charge: two transfers in one commit, from the card to the
/// operator in its currency, and from the operator to the merchant in bitcoin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeConversion {
    /// The card's currency.
    pub currency: Currency,
    /// What the card pays, in its minor unit: what it was told while it is authorised, what it
    /// paid once it is captured, and nothing of one that was released or expired.
    pub amount: i64,
    /// What was set aside, with the margin of the card's program; `None` for one that was paid at
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<i64>,
    /// What of `amount` was refunded.
    #[serde(default)]
    pub refunded: i64,
    /// Who bears what the rate moves until the capture, as the program said when it was authorised.
    #[serde(default)]
    pub drift: DriftBearer,
    /// The rate between bitcoin and the card's currency when it was charged or authorised.
    pub quote: Quote,
    /// The rate that the capture was settled at, where that was the one of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_quote: Option<Quote>,
    /// The rate of the last refund, where that was the one of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_quote: Option<Quote>,
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
    /// What the merchant gets from the operator, where the card is in a currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bitcoin: Option<TransferId>,
    /// What the operator keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spread: Option<TransferId>,
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
    /// What came back of it, refund by refund.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refunds: Vec<RefundPosting>,
}

/// What in the books is behind a refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RefundPosting {
    /// What came on the card; `None` where all of it was withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transfer: Option<TransferId>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) withheld_msat: i64,
    /// The points that were taken back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) points: i64,
    /// The rate, where that was the one of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quote: Option<Quote>,
    /// When it was decided, milliseconds since the epoch.
    pub(super) refunded_at_ms: i64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives it a reference"
)]
fn is_zero(amount_msat: &i64) -> bool {
    *amount_msat == 0
}
