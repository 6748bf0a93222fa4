//! Cards.

use super::{FlashError, Price, Transfer};
use crate::Answer;
use crate::cards;

/// What a card may do; what is absent is no limit. Amounts are in the card's unit: msat, or the
/// minor unit of its currency.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CardLimits {
    /// The most that one tap may spend.
    #[uniffi(default = None)]
    pub per_tap: Option<i64>,
    /// The most that one calendar day may spend.
    #[uniffi(default = None)]
    pub per_day: Option<i64>,
    /// The most that one calendar week may spend, from Monday.
    #[uniffi(default = None)]
    pub per_week: Option<i64>,
    /// The most that one calendar month may spend.
    #[uniffi(default = None)]
    pub per_month: Option<i64>,
    /// How often the card may pay within one full hour of UTC.
    #[uniffi(default = None)]
    pub taps_per_hour: Option<i64>,
    /// What one tap may spend without the card's PIN; 0 asks for it always.
    #[uniffi(default = None)]
    pub pin_above: Option<i64>,
    /// Not a limit: when a charge brings the card below it, its holder is told, by the event
    /// `card.low_balance`.
    #[uniffi(default = None)]
    pub low_balance: Option<i64>,
    /// The most that may be on the card; a top-up above it goes back to its sender.
    #[uniffi(default = None)]
    pub max_balance: Option<i64>,
    /// Where the day begins: an IANA name, `America/Jamaica`.
    #[uniffi(default = "UTC")]
    pub time_zone: String,
}

impl From<CardLimits> for cards::CardLimits {
    fn from(limits: CardLimits) -> Self {
        Self {
            per_tap: limits.per_tap,
            per_day: limits.per_day,
            per_week: limits.per_week,
            per_month: limits.per_month,
            taps_per_hour: limits.taps_per_hour,
            pin_above: limits.pin_above,
            low_balance: limits.low_balance,
            max_balance: limits.max_balance,
            time_zone: limits.time_zone,
        }
    }
}

impl From<cards::CardLimits> for CardLimits {
    fn from(limits: cards::CardLimits) -> Self {
        Self {
            per_tap: limits.per_tap,
            per_day: limits.per_day,
            per_week: limits.per_week,
            per_month: limits.per_month,
            taps_per_hour: limits.taps_per_hour,
            pin_above: limits.pin_above,
            low_balance: limits.low_balance,
            max_balance: limits.max_balance,
            time_zone: limits.time_zone,
        }
    }
}

/// What an older server wrote on a chip, so that the card keeps working as it is.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ExistingChip {
    /// The id that the keys were derived with; absent for the public specification's derivation.
    pub pull_payment_id: Option<String>,
    /// The version of the keys.
    pub version: u32,
    /// The last counter that was used there: taps up to it stay used. 0 for none.
    pub counter: u32,
}

/// Makes a card for a chip.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct IssueCardRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The chip's own number: 14 hex digits.
    pub uid: String,
    /// What the card may do.
    pub limits: CardLimits,
    /// For a chip that an older server wrote; absent for a new one.
    #[uniffi(default = None)]
    pub existing_chip: Option<ExistingChip>,
}

impl TryFrom<IssueCardRequest> for cards::IssueCard {
    type Error = FlashError;

    fn try_from(request: IssueCardRequest) -> Result<Self, FlashError> {
        let existing = |chip: ExistingChip| cards::ExistingChip {
            pull_payment_id: chip.pull_payment_id,
            version: chip.version,
            counter: chip.counter,
            issuer_key: None,
        };
        Ok(Self {
            key: request.idempotency_key.parse()?,
            uid: request.uid,
            existing_chip: request.existing_chip.map(existing),
            limits: request.limits.into(),
            program: None,
        })
    }
}

/// Hands a card over to whoever holds it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ActivateCardRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card.
    pub card_id: String,
}

impl TryFrom<ActivateCardRequest> for cards::ActivateCard {
    type Error = FlashError;

    fn try_from(request: ActivateCardRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
        })
    }
}

/// Freezes or unfreezes a card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct FreezeCardRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card.
    pub card_id: String,
}

impl TryFrom<FreezeCardRequest> for cards::FreezeCard {
    type Error = FlashError;

    fn try_from(request: FreezeCardRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
        })
    }
}

/// Sets what a card may do.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct SetCardLimitsRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card.
    pub card_id: String,
    /// All of its limits from now on. Another time zone counts from the end of each day, week and
    /// month in the old one.
    pub limits: CardLimits,
}

impl TryFrom<SetCardLimitsRequest> for cards::SetCardLimits {
    type Error = FlashError;

    fn try_from(request: SetCardLimitsRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
            limits: request.limits.into(),
        })
    }
}

/// Asks for an invoice whose payment goes on a card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct TopUpCardRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card.
    pub card_id: String,
    /// What is to be paid.
    pub price: Price,
}

impl TryFrom<TopUpCardRequest> for cards::TopUpCard {
    type Error = FlashError;

    fn try_from(request: TopUpCardRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
            price: request.price.try_into()?,
        })
    }
}

/// How a card stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
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

impl From<cards::CardState> for CardState {
    fn from(state: cards::CardState) -> Self {
        match state {
            cards::CardState::Issued => Self::Issued,
            cards::CardState::Active => Self::Active,
            cards::CardState::Frozen => Self::Frozen,
            cards::CardState::Lost => Self::Lost,
            cards::CardState::Expired => Self::Expired,
            cards::CardState::Replaced => Self::Replaced,
            cards::CardState::Retired => Self::Retired,
            cards::CardState::Wiped => Self::Wiped,
        }
    }
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Card {
    /// Its id.
    pub id: String,
    /// The chip, as the keyed hash of its number.
    pub chip: String,
    /// The version of the chip's keys.
    pub version: u32,
    /// For a card that an older server wrote.
    pub pull_payment_id: Option<String>,
    /// How it stands.
    pub state: CardState,
    /// What it may do.
    pub limits: CardLimits,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// The id of its holder's credential, from activation on.
    pub holder_id: Option<String>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<cards::Card>> for Card {
    fn from(answer: Answer<cards::Card>) -> Self {
        let Answer {
            as_of_ms,
            value: card,
        } = answer;
        Self {
            id: card.id.to_string(),
            chip: card.chip,
            version: card.version,
            pull_payment_id: card.pull_payment_id,
            state: card.state.into(),
            limits: card.limits.into(),
            created_at_ms: card.created_at_ms,
            holder_id: card.holder.map(|id| id.to_string()),
            as_of_ms,
        }
    }
}

/// What a card programmer needs to write a chip. Secret.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
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

impl From<cards::ProgrammingKeys> for ProgrammingKeys {
    fn from(keys: cards::ProgrammingKeys) -> Self {
        Self {
            lnurlw: keys.lnurlw,
            version: keys.version,
            k0: keys.k0,
            k1: keys.k1,
            k2: keys.k2,
            k3: keys.k3,
            k4: keys.k4,
        }
    }
}

impl From<ProgrammingKeys> for cards::ProgrammingKeys {
    fn from(keys: ProgrammingKeys) -> Self {
        Self {
            lnurlw: keys.lnurlw,
            version: keys.version,
            k0: keys.k0,
            k1: keys.k1,
            k2: keys.k2,
            k3: keys.k3,
            k4: keys.k4,
        }
    }
}

/// A card that was handed over.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct Activation {
    /// The card.
    pub card: Card,
    /// The credential for whoever holds it. Secret.
    pub holder_credential: String,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<cards::Activation>> for Activation {
    fn from(answer: Answer<cards::Activation>) -> Self {
        let as_of_ms = answer.as_of_ms;
        let value = answer.value.card;
        Self {
            card: Answer { as_of_ms, value }.into(),
            holder_credential: answer.value.holder.reveal().to_owned(),
            as_of_ms,
        }
    }
}

/// A limit that is counted within a stretch of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum LimitKind {
    /// What one calendar day may spend.
    PerDay,
    /// What one calendar week may spend.
    PerWeek,
    /// What one calendar month may spend.
    PerMonth,
    /// How often the card may pay within an hour.
    TapsPerHour,
}

impl From<cards::LimitKind> for LimitKind {
    fn from(kind: cards::LimitKind) -> Self {
        match kind {
            cards::LimitKind::PerDay => Self::PerDay,
            cards::LimitKind::PerWeek => Self::PerWeek,
            cards::LimitKind::PerMonth => Self::PerMonth,
            cards::LimitKind::TapsPerHour => Self::TapsPerHour,
        }
    }
}

/// What is used of a limit.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct LimitUsage {
    /// Which.
    pub kind: LimitKind,
    /// The limit: millisatoshis, or taps.
    pub limit: i64,
    /// What is used of it.
    pub used: i64,
    /// When it is all there again, milliseconds since the epoch.
    pub renews_at_ms: i64,
}

impl From<cards::LimitUsage> for LimitUsage {
    fn from(usage: cards::LimitUsage) -> Self {
        Self {
            kind: usage.kind.into(),
            limit: usage.limit,
            used: usage.used,
            renews_at_ms: usage.renews_at_ms,
        }
    }
}

/// How a card stands and what is on it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CardSnapshot {
    /// The card.
    pub card_id: String,
    /// How it stands.
    pub state: CardState,
    /// What it can spend.
    pub balance_msat: i64,
    /// Money on its way to the card, not yet spendable.
    pub pending_msat: i64,
    /// What it may do.
    pub limits: CardLimits,
    /// What is used of those limits that count within a day, a week, a month or an hour.
    pub usage: Vec<LimitUsage>,
    /// What moved on it last, newest first; at most 20.
    pub history: Vec<Transfer>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<cards::CardSnapshot>> for CardSnapshot {
    fn from(answer: Answer<cards::CardSnapshot>) -> Self {
        let Answer {
            as_of_ms,
            value: snapshot,
        } = answer;
        Self {
            card_id: snapshot.card.to_string(),
            state: snapshot.state.into(),
            balance_msat: snapshot.balance_msat,
            pending_msat: snapshot.pending_msat,
            limits: snapshot.limits.into(),
            usage: snapshot.usage.into_iter().map(LimitUsage::from).collect(),
            history: snapshot.history.into_iter().map(Transfer::from).collect(),
            as_of_ms,
        }
    }
}
