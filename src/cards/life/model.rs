//! The records of a card's life.

use serde::{Deserialize, Serialize};

use super::written::{WrittenRule, WrittenWish};
use crate::access::Credential;
use crate::cards::{Card, CardLimits};
use crate::core::IdempotencyKey;
use crate::ids::{CardId, CardProgramId, MerchantId};
use crate::money::Asset;

/// What a card is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CardKind {
    /// A bolt card: an NTAG 424 DNA chip, with its balance in these books.
    #[default]
    BoltCard,
    /// A number and a rotating code, with its balance in these books.
    Virtual,
    /// A chip that carries its money itself, kept beside the others: its balance is the chip's,
    /// and never in these books.
    Bearer {
        /// What its money is counted in.
        unit: BearerUnit,
    },
}

impl CardKind {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde gives it a reference"
    )]
    pub(crate) fn is_bolt_card(&self) -> bool {
        *self == Self::BoltCard
    }

    /// Its balance is in these books.
    pub(crate) fn is_in_books(self) -> bool {
        !matches!(self, Self::Bearer { .. })
    }
}

/// What the money on a bearer card is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BearerUnit {
    /// Satoshis.
    Sat,
    /// Cents of the US dollar.
    UsdCent,
}

/// Where the money of a retired card goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RetireTo {
    /// On another card.
    Card {
        /// The card.
        card: CardId,
    },
    /// To a merchant, as what it is owed.
    Merchant {
        /// The merchant.
        merchant: MerchantId,
    },
    /// To the operator, by rule alone: nobody can ask for it.
    Breakage,
    /// Back to the issuer that had the card before, by
    /// [`CardImports::roll_back`](crate::cards::CardImports::roll_back) alone.
    FormerIssuer,
}

/// Which recovery code of a card is good: the one with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryNumber {
    /// The card that it was made for: this one, or one that this one replaced.
    pub of: CardId,
    /// From 1.
    pub number: u32,
}

/// Says that a card is lost: its chip is never taken again, and its money waits for a
/// replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLost {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// Puts a new card in the place of an old one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The old card.
    pub card: CardId,
    /// A tap of the new one, which shows that it is at hand: the chip's whole URL. It was issued,
    /// and not yet activated.
    pub tap: String,
}

/// Makes a card of the family of another one: it spends that one's balance, within limits of its
/// own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddFamilyCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The main card, whose balance it is.
    pub main: CardId,
    /// A tap of the new one, which shows that it is at hand: the chip's whole URL. It was issued,
    /// and not yet activated.
    pub tap: String,
    /// What the new one may do.
    pub limits: CardLimits,
}

macro_rules! debug_without_tap {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl std::fmt::Debug for $name {
            // The tap can still be used: it does not belong in a log.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    )*};
}

debug_without_tap! {
    ReplaceCard { key, card }
    AddFamilyCard { key, main, limits }
}

/// Ends a card, and gives its money somewhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// Where its money goes; what still comes later goes there as well.
    pub to: RetireTo,
}

/// Sets until when a card can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCardExpiry {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// From when on it cannot, milliseconds since the epoch; `None` for never.
    pub expires_at_ms: Option<i64>,
}

/// Says that a chip was reset: it is blank again, and can be issued as a new card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WipeCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card that it was.
    pub card: CardId,
}

/// Where an automatic top-up comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TopUpSource {
    /// Another card in these books.
    Card {
        /// The card.
        card: CardId,
    },
    /// Somewhere else: the event `card.top_up_wanted` asks for it.
    Outside,
}

/// Fills a card up when it runs low. In JSON the amounts of a card in bitcoin are `below_msat` and
/// `to_msat`, with no `unit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenRule", into = "WrittenRule")]
pub struct AutoTopUp {
    /// What the amounts are in: the unit of the card.
    pub unit: Asset,
    /// It runs low below this, what is set aside not counted, in the unit: msat for bitcoin.
    pub below: i64,
    /// It is filled up to this, in the same unit, and never above the most that may be on it.
    pub to: i64,
    /// How often within a day of the card's time zone: 1 to 100.
    pub times_per_day: i64,
    /// Where the money comes from.
    pub from: TopUpSource,
}

/// Sets how a card is filled up, or that it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAutoTopUp {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// From now on; `None` for not at all.
    pub rule: Option<AutoTopUp>,
    /// The credential of whoever holds the card that the money comes from, if it is a card: by
    /// it they agree.
    pub source: Option<Credential>,
}

/// A card that runs low and could not be filled up here: the events `card.top_up_wanted`, where
/// the money comes from outside, and `card.top_up_failed`, where it should have come from a card. In
/// JSON the amounts of a card in bitcoin are `amount_msat` and `balance_msat`, with no `unit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenWish", into = "WrittenWish")]
pub struct TopUpWanted {
    /// The card.
    pub card: CardId,
    /// What the amounts are in.
    pub unit: Asset,
    /// What would fill it up, in the minor unit.
    pub amount: i64,
    /// What it has to spend.
    pub balance: i64,
}

/// Sets the note of a card, or erases it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCardNote {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// At most 200 characters; `None` erases what was there.
    pub note: Option<String>,
}

impl std::fmt::Debug for SetCardNote {
    // It may be somebody's name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetCardNote")
            .field("key", &self.key)
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

/// What is told of a card's note in answers that are kept: not the note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardNoteSet {
    /// The card.
    pub card: CardId,
    /// It has one.
    pub has_note: bool,
}

/// Makes a card that is a number and a rotating code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueVirtualCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What the card may do.
    pub limits: CardLimits,
    /// From when on it cannot be used, milliseconds since the epoch; `None` for never. Of a program
    /// whose cards are valid for a while, whichever comes first.
    pub expires_at_ms: Option<i64>,
    /// The program that it is of, which also says what its balance is in; `None` of one that goes by
    /// the engine's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<CardProgramId>,
}

/// Lets the code of a virtual card be tried again that was wrong too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockCardCode {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// Keeps a card in the list that carries its money itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterBearerCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The key that the card shows of itself: 66 hex digits, a compressed point of secp256k1.
    /// Only its keyed hash is kept.
    pub public_key: String,
    /// What its money is counted in.
    pub unit: BearerUnit,
}

/// Makes a recovery code for whoever holds a card; the one before is void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeRecoveryCode {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// A recovery code and its card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The card.
    pub card: Card,
    /// To be printed: it is not kept here.
    pub code: super::RecoveryCode,
}

/// Gets a holder's credential back by a recovery code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverHolder {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What was printed.
    pub code: super::RecoveryCode,
}

/// A credential that was got back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The card: where the code's own was replaced, the one in its place.
    pub card: Card,
    /// The holder's new credential; the one before is void.
    pub holder: Credential,
    /// The code for the next time; the one that was used is void.
    pub code: super::RecoveryCode,
}
