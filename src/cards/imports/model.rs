//! The records of cards that are taken over from another issuer.

use serde::{Deserialize, Serialize};

use crate::cards::boltcard::IssuerKeyId;
use crate::cards::{CardLimits, CardState};
use crate::core::IdempotencyKey;
use crate::ids::{CardId, CardImportId, CardProgramId};

/// Begins to take over the cards of another issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateCardImport {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// The issuer key of all of its cards, which is here: see
    /// [`Cards::import_issuer_key`](crate::cards::Cards::import_issuer_key).
    pub issuer_key: IssuerKeyId,
    /// What the cards may do; by default what their program says.
    pub limits: CardLimits,
    /// The program that they are of, if they are to be of one: its unit is bitcoin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<CardProgramId>,
}

/// Cards that are taken over from another issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardImport {
    /// Its id.
    pub id: CardImportId,
    /// What people call it.
    pub name: String,
    /// The issuer key of all of its cards.
    pub issuer_key: IssuerKeyId,
    /// What its cards may do.
    pub limits: CardLimits,
    /// The program that they are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<CardProgramId>,
    /// How many cards came over so far.
    pub cards: i64,
    /// What was booked on them so far.
    pub balance_msat: i64,
    /// How many cards went back to their former issuer so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub returned: i64,
    /// What went back with them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub returned_msat: i64,
    /// When it was begun, milliseconds since the epoch.
    pub created_at_ms: i64,
}

/// A card as another issuer had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedCard {
    /// The chip, as the keyed hash of its number under the issuer key: 32 hex digits. `None` where
    /// `uid` is given; where both are, they must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The chip's own number, 14 hex digits. It is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The version of the chip's keys.
    pub version: u32,
    /// The last counter that was used there; 0 for none.
    pub counter: u32,
    /// The id that the keys were derived with; `None` for the public specification's derivation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_payment_id: Option<String>,
    /// What was on it.
    pub balance_msat: i64,
}

/// Takes cards over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOver {
    /// Made by the caller before the call; at most 100 characters. After a crash the same call
    /// with the same key goes on where it stopped.
    pub key: IdempotencyKey,
    /// The import that the cards are of.
    pub import: CardImportId,
    /// The caller states that the old issuer takes no taps of these cards any more: two servers
    /// would spend one balance twice.
    pub old_issuer_is_frozen: bool,
    /// The cards.
    pub cards: Vec<ImportedCard>,
}

/// Why a row is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum RowRefusal {
    /// There is neither a hash of 32 hex digits nor a number of 14.
    BadId,
    /// The number's hash under the issuer key is not the row's.
    IdMismatch,
    /// A chip counts to 16,777,215.
    BadCounter,
    /// The pull payment's id has more than 100 characters.
    BadPullPaymentId,
    /// Less than nothing, or more bitcoin than there can be.
    BadBalance,
    /// The same chip stands in a row before.
    Duplicate {
        /// Which, from 0.
        row: usize,
    },
    /// There is a card for this chip here.
    AlreadyIssued {
        /// Which.
        card: String,
    },
    /// There is no such card of this import here.
    NotImported,
    /// The card's keys are of another version here.
    OtherVersion {
        /// Which.
        version: u32,
    },
}

/// A row that is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Which, from 0.
    pub row: usize,
    /// Its id, as far as it has one.
    pub id: Option<String>,
    /// Why.
    pub refusal: RowRefusal,
}

/// What is, or would be, taken over, beside what was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// How many rows were given.
    pub rows: usize,
    /// What they add up to, at most `i64::MAX`.
    pub rows_msat: i64,
    /// How many cards came over, or would.
    pub cards: usize,
    /// What is booked on them, or would be.
    pub cards_msat: i64,
    /// The sum of their counters.
    pub counters: u64,
    /// Those that do not, each with its reason.
    pub refused: Vec<RefusedRow>,
}

impl ImportReport {
    /// True when all that was given comes over.
    pub fn is_clean(&self) -> bool {
        self.refused.is_empty() && self.cards == self.rows && self.cards_msat == self.rows_msat
    }
}

/// The last counter of a card at another issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardCounter {
    /// The chip, as the keyed hash of its number: 32 hex digits.
    pub id: String,
    /// The version of its keys.
    pub version: u32,
    /// The last counter that was used.
    pub counter: u32,
}

/// Moves counters to where the old issuer had them in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncCounters {
    /// Made by the caller before the call; at most 100 characters. After a crash the same call
    /// with the same key goes on where it stopped.
    pub key: IdempotencyKey,
    /// The import that the cards are of.
    pub import: CardImportId,
    /// The counters.
    pub counters: Vec<CardCounter>,
}

/// A counter that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedCounter {
    /// The card.
    pub card: CardId,
    /// Where it stood.
    pub from: u32,
    /// Where it stands.
    pub to: u32,
}

/// What came of a counter sync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterReport {
    /// How many rows were given.
    pub rows: usize,
    /// Counters that were behind. The old issuer has taken taps of these cards after its rows were
    /// exported: their balances are to be compared.
    pub moved: Vec<MovedCounter>,
    /// How many stood there already, or beyond.
    pub kept: usize,
    /// Those that are no cards of the import, each with its reason.
    pub refused: Vec<RefusedRow>,
}

/// A card as it stands here, for the old issuer to go on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedCard {
    /// The card here: the cursor of the next page.
    pub card: CardId,
    /// The chip, as the keyed hash of its number under the issuer key: 32 hex digits.
    pub id: String,
    /// The version of its keys.
    pub version: u32,
    /// The last counter that was used, here or there.
    pub counter: u32,
    /// The id that its keys were derived with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_payment_id: Option<String>,
    /// What is on it, what is set aside included.
    pub balance_msat: i64,
    /// What of that is set aside for sales that are not done.
    pub held_msat: i64,
    /// How it stands.
    pub state: CardState,
}

/// Gives cards back to the issuer that had them before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollBack {
    /// Made by the caller before the call: one for each page. The same key gives the same rows.
    pub key: IdempotencyKey,
    /// The import that the cards are of.
    pub import: CardImportId,
    /// Only these, at most 200; `None` for all, a page at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cards: Option<Vec<CardId>>,
    /// The page after this card: the [`last`](RollBackReport::last) of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<CardId>,
    /// How many cards are looked at: 1 to 200.
    pub limit: u32,
}

/// Cards that went back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollBackReport {
    /// The rows for the former issuer to go on with: each with the balance that it has again, and
    /// the last counter that was used. No tap of them is taken here any more.
    pub returned: Vec<ExportedCard>,
    /// What all of them had, in msat.
    pub returned_msat: i64,
    /// Those that stay, each with its reason.
    pub kept: Vec<KeptCard>,
    /// The last card that was looked at; `None` when there was none: it is done.
    pub last: Option<CardId>,
}

/// A card that does not go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptCard {
    /// Which.
    pub card: CardId,
    /// Why.
    pub reason: KeptReason,
}

/// Why a card does not go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum KeptReason {
    /// It is no card of this import.
    NotImported,
    /// It is out of use here: went back before, or its money went on to another card.
    OutOfUse {
        /// How it stands.
        state: CardState,
    },
    /// Something of it is set aside for sales or payments that are not done: they come first.
    MoneyOnHold {
        /// How much.
        held_msat: i64,
    },
    /// Something is set aside for it that has not arrived: it comes, or goes back to its sender, first.
    MoneyComing {
        /// How much.
        pending_msat: i64,
    },
    /// Other cards spend its balance, or it spends another's: the others are retired first.
    HasFamily,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}
