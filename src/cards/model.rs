//! The records of a card.

use serde::{Deserialize, Serialize};

use super::boltcard::IssuerKeyId;
use super::life::{AutoTopUp, CardKind, RecoveryNumber, RetireTo};
use super::top_up_address::TopUpAddress;
use crate::access::Credential;
use crate::core::IdempotencyKey;
use crate::ids::{CardId, CardImportId, CardProgramId, ChargeId, CredentialId, TransferId};
use crate::ledger::{Account, TransferKind, TransferRow};
use crate::money::{Asset, Currency, Price, Quote};

/// What a card may do; `None` is no limit. Amounts are in the card's unit: msat, or the minor unit
/// of its currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardLimits {
    /// The most that one tap may spend.
    #[serde(alias = "per_tap_msat")]
    pub per_tap: Option<i64>,
    /// The most that one calendar day may spend.
    #[serde(alias = "per_day_msat")]
    pub per_day: Option<i64>,
    /// The most that one calendar week may spend, from Monday.
    #[serde(
        default,
        alias = "per_week_msat",
        skip_serializing_if = "Option::is_none"
    )]
    pub per_week: Option<i64>,
    /// The most that one calendar month may spend.
    #[serde(
        default,
        alias = "per_month_msat",
        skip_serializing_if = "Option::is_none"
    )]
    pub per_month: Option<i64>,
    /// How often the card may pay within one full hour of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taps_per_hour: Option<i64>,
    /// What one tap may spend without the card's PIN; 0 asks for it always.
    #[serde(
        default,
        alias = "pin_above_msat",
        skip_serializing_if = "Option::is_none"
    )]
    pub pin_above: Option<i64>,
    /// Not a limit: when the balance falls below it, whatever took it there, its holder is told, by
    /// the event `card.low_balance`.
    #[serde(
        default,
        alias = "low_balance_msat",
        skip_serializing_if = "Option::is_none"
    )]
    pub low_balance: Option<i64>,
    /// The most that may be on the card; a top-up above it goes back to its sender.
    #[serde(alias = "max_balance_msat")]
    pub max_balance: Option<i64>,
    /// Where the day begins: an IANA name, `America/Jamaica`.
    pub time_zone: String,
}

impl Default for CardLimits {
    fn default() -> Self {
        Self {
            per_tap: None,
            per_day: None,
            per_week: None,
            per_month: None,
            taps_per_hour: None,
            pin_above: None,
            low_balance: None,
            max_balance: None,
            time_zone: "UTC".to_owned(),
        }
    }
}

/// Makes a card for a chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The chip's own number: 7 bytes, 14 hex digits.
    pub uid: String,
    /// For a chip that an older server wrote; `None` for a new one.
    pub existing_chip: Option<ExistingChip>,
    /// What the card may do; by default what its program says.
    pub limits: CardLimits,
    /// The program that it is of, if it is to be of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<CardProgramId>,
}

/// Makes cards for many chips at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueCards {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The chips' own numbers, each 7 bytes, 14 hex digits; 1 to 500 of them.
    pub uids: Vec<String>,
    /// What the cards may do; by default what their program says.
    pub limits: CardLimits,
    /// The program that they are of, if they are to be of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<CardProgramId>,
}

/// What an older server wrote on a chip, so that the card keeps working without being written
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExistingChip {
    /// The id that the keys were derived with; `None` for the public specification's derivation.
    pub pull_payment_id: Option<String>,
    /// The version of the keys.
    pub version: u32,
    /// The last counter that was used there: taps up to it stay used. 0 for none.
    pub counter: u32,
    /// The issuer key that the chip's were derived with; `None` for the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_key: Option<IssuerKeyId>,
}

/// Hands a card over to whoever holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivateCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// Takes a holder's credential away and makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewHolder {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// Sets what a card may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCardLimits {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// All of its limits from now on. Another time zone counts from the end of each day, week and
    /// month in the old one.
    pub limits: CardLimits,
}

/// Freezes or unfreezes a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// Asks for an invoice whose payment goes on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopUpCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// What is to be paid. For a card in a currency it is in that currency, and goes on the card
    /// exactly.
    pub price: Price,
}

/// How a card stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardState {
    /// Made, not handed over: its keys can be read to program the chip.
    Issued,
    /// In use.
    Active,
    /// Stopped by its holder or the issuer.
    Frozen,
    /// Lost, and never used again; its money waits for a replacement.
    Lost,
    /// Its time is over; its money waits for a replacement.
    Expired,
    /// Another card came in its place, and has its money.
    Replaced,
    /// Ended; its money was given somewhere else.
    Retired,
    /// Its chip was reset, and can be issued as a new card.
    Wiped,
}

/// The time zone that a card had before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneBefore {
    /// Its IANA name.
    pub time_zone: String,
    /// When it was changed, milliseconds since the epoch.
    pub changed_at_ms: i64,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Its id.
    pub id: CardId,
    /// The chip, as the keyed hash of its number: the number itself is not kept.
    pub chip: String,
    /// The version of the chip's keys; a re-programmed chip has a new one.
    pub version: u32,
    /// For a card that an older server wrote.
    pub pull_payment_id: Option<String>,
    /// How it stands.
    pub state: CardState,
    /// What it may do.
    pub limits: CardLimits,
    /// The time zone before the one in `limits`, if that was ever changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_before: Option<ZoneBefore>,
    /// Since when it cannot be used, milliseconds since the epoch; `None` while it can be, and
    /// where it was stopped by an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at_ms: Option<i64>,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// The credential of whoever holds it, from activation on.
    pub holder: Option<CredentialId>,
    /// The program that it is of; `None` of one that goes by the engine's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<CardProgramId>,
    /// What it was issued with, where that is not what its program says: the most that its holder
    /// can set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_with: Option<CardLimits>,
    /// The issuer key that its chip's keys come from; `None` of one that was made before there
    /// were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_key: Option<IssuerKeyId>,
    /// The import that it came over with from another issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<CardImportId>,
    /// What its balance and its limits are in: bitcoin, or a currency. Its program says so when it
    /// is issued, and it never changes.
    #[serde(default = "bitcoin", skip_serializing_if = "is_bitcoin")]
    pub unit: Asset,
    /// What it is.
    #[serde(default, skip_serializing_if = "CardKind::is_bolt_card")]
    pub kind: CardKind,
    /// From when on it cannot be used, milliseconds since the epoch; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    /// The card that came in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<CardId>,
    /// The card in whose place it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<CardId>,
    /// The first card of those that came in each other's place, where it is another one: points
    /// and what is used of the limits are counted under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<CardId>,
    /// How many cards were before it in its place.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replacements: u32,
    /// The main card of its family, whose balance it spends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family_of: Option<CardId>,
    /// Other cards spend its balance, or did.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_family: bool,
    /// Where its money went when it was retired, and where goes what still comes to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_to: Option<RetireTo>,
    /// How it stood when it went back to the issuer that had it before: so it stands again if it comes
    /// over again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub went_back_as: Option<CardState>,
    /// How it is filled up when it runs low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_top_up: Option<AutoTopUp>,
    /// Whose credential agreed that another card fills it up: without it, nothing is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_top_up_by: Option<CredentialId>,
    /// Which recovery code of its holder is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryNumber>,
}

pub(super) fn bitcoin() -> Asset {
    Asset::Btc
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives it a reference"
)]
pub(super) fn is_bitcoin(unit: &Asset) -> bool {
    *unit == Asset::Btc
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives it a reference"
)]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives it a reference"
)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Card {
    /// The account that the card spends from and is topped up to. Nothing else says so.
    pub fn balance_account(&self) -> Account {
        Account::card_balance_in(self.family_of.unwrap_or(self.id), self.unit)
    }

    /// A card that nothing is known of but its id.
    pub(super) fn blank(id: CardId) -> Self {
        Self {
            id,
            chip: String::new(),
            version: 0,
            pull_payment_id: None,
            state: CardState::Issued,
            limits: CardLimits::default(),
            zone_before: None,
            stopped_at_ms: None,
            created_at_ms: 0,
            holder: None,
            program: None,
            issued_with: None,
            issuer_key: None,
            import: None,
            kind: CardKind::BoltCard,
            expires_at_ms: None,
            replaced_by: None,
            replaces: None,
            first: None,
            replacements: 0,
            family_of: None,
            has_family: false,
            retired_to: None,
            went_back_as: None,
            auto_top_up: None,
            auto_top_up_by: None,
            recovery: None,
            unit: Asset::Btc,
        }
    }

    /// True while the issuer that had the card before has it again: its chip is in use there.
    pub(crate) fn is_with_former_issuer(&self) -> bool {
        self.state == CardState::Retired && self.retired_to == Some(RetireTo::FormerIssuer)
    }

    /// The id under which points and what is used of its limits are counted: that of the first
    /// card of those that came in each other's place.
    pub fn line(&self) -> CardId {
        self.first.unwrap_or(self.id)
    }
}

/// What a card programmer needs to write a chip. Secret; answered to the issuer alone, and only
/// until the card is activated.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammingKeys {
    /// The URL that the chip shows, without its parameters.
    pub lnurlw: String,
    /// The version of the keys.
    pub version: u32,
    /// Key 0, the chip's master key: 32 hex digits, like the others.
    pub k0: String,
    /// Key 1, which hides the chip's number and counter.
    pub k1: String,
    /// Key 2, which signs a tap.
    pub k2: String,
    /// Key 3.
    pub k3: String,
    /// Key 4.
    pub k4: String,
}

impl std::fmt::Debug for ProgrammingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgrammingKeys")
            .field("lnurlw", &self.lnurlw)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A card that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The card.
    pub card: Card,
    /// The credential for whoever holds it.
    pub holder: Credential,
}

/// A limit that is counted within a stretch of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// [`CardLimits::per_day`].
    PerDay,
    /// [`CardLimits::per_week`].
    PerWeek,
    /// [`CardLimits::per_month`].
    PerMonth,
    /// [`CardLimits::taps_per_hour`].
    TapsPerHour,
}

/// What is used of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitUsage {
    /// Which.
    pub kind: LimitKind,
    /// The limit: millisatoshis, or taps.
    pub limit: i64,
    /// What is used of it, what is set aside included. More than the limit where that was lowered
    /// since.
    pub used: i64,
    /// When it is all there again, milliseconds since the epoch.
    pub renews_at_ms: i64,
}

/// A card whose balance fell below what its holder wants to be told of: the event
/// `card.low_balance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LowBalance {
    /// The card.
    pub card: CardId,
    /// The charge, where it was one that took it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge: Option<ChargeId>,
    /// Why the money went.
    pub kind: TransferKind,
    /// The transfer.
    pub transfer: TransferId,
    /// The object that the transfer belongs to.
    pub reference: String,
    /// What the card is in.
    #[serde(default = "bitcoin", skip_serializing_if = "is_bitcoin")]
    pub unit: Asset,
    /// What was on the card after it, what is set aside included.
    #[serde(alias = "balance_msat")]
    pub balance: i64,
    /// The threshold, [`CardLimits::low_balance`].
    #[serde(alias = "threshold_msat")]
    pub threshold: i64,
}

/// What is on a card whose unit is a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrencyBalance {
    /// Which.
    pub currency: Currency,
    /// What it can spend, in the currency's minor unit.
    pub balance: i64,
    /// Money on its way to the card, not yet spendable.
    pub pending: i64,
    /// What `balance` is worth in bitcoin, rounded down; `None` where there is no fresh rate.
    pub value_msat: Option<i64>,
    /// The rate of that.
    pub quote: Option<Quote>,
}

/// What a tap shows without using it up. Of a card that was lost, and of one in whose place another
/// came, nothing of its money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardSnapshot {
    /// The card.
    pub card: CardId,
    /// How it stands.
    pub state: CardState,
    /// What it is.
    #[serde(default, skip_serializing_if = "CardKind::is_bolt_card")]
    pub kind: CardKind,
    /// What it can spend, where its unit is bitcoin; 0 of a card in a currency, see `money`.
    /// Nothing of a card that carries its money itself: that is the chip's to say.
    pub balance_msat: i64,
    /// Money on its way to the card, not yet spendable; 0 of a card in a currency, see `money`.
    pub pending_msat: i64,
    /// What is on a card whose unit is a currency; `None` of one in bitcoin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<CurrencyBalance>,
    /// What it may do.
    pub limits: CardLimits,
    /// What is used of those limits that count within a day, a week, a month or an hour.
    #[serde(default)]
    pub usage: Vec<LimitUsage>,
    /// What moved on it last, newest first; at most 20. More by
    /// [`Cards::history`](super::Cards::history), to its holder.
    #[serde(default)]
    pub history: Vec<TransferRow>,
    /// Where anybody can top it up, until its holder takes the address away; `None` of a card
    /// whose money is not shown, and before the first tap or
    /// [`Cards::top_up_address`](super::Cards::top_up_address) asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_up: Option<TopUpAddress>,
}
