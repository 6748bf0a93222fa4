//! Why a card was refused.

use super::boltcard::TapError;
use super::model::CardState;
use crate::ids::CardId;

/// A card was refused. Nothing was changed: no balance, no counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// The tap does not verify; the codes are the tap's own.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// No such card. `card.not_found`.
    #[error("there is no such card")]
    NotFound,
    /// The card is not in use. `card.frozen` when it was stopped, else `card.not_active`.
    #[error("the card {card} is not in use: {state:?}")]
    NotActive {
        /// The card.
        card: CardId,
        /// How it stands.
        state: CardState,
    },
    /// The tap, or a later one of this card, was used before. `card.tap_replayed`.
    #[error("this tap was used before: its counter is {counter}, the last one was {last}")]
    TapReplayed {
        /// The tap's counter.
        counter: i64,
        /// The counter that was used last.
        last: i64,
    },
    /// Not enough on the card. `card.insufficient_funds`.
    #[error("the card has {available_msat} msat to spend, {needed_msat} msat is needed")]
    InsufficientFunds {
        /// What it can spend.
        available_msat: i64,
        /// What was asked.
        needed_msat: i64,
    },
    /// A limit of the card. `card.limit_exceeded`.
    #[error("the card's limit {limit} is {limit_msat} msat, {used_msat} msat of it is used")]
    LimitExceeded {
        /// `per_tap`, `per_day`, `per_week` or `per_month`.
        limit: &'static str,
        /// The limit.
        limit_msat: i64,
        /// What was used of it before.
        used_msat: i64,
    },
    /// A card for this chip was made before. `card.already_issued`.
    #[error("this chip has a card already: {card}")]
    AlreadyIssued {
        /// The card.
        card: String,
    },
    /// The chip's number is not 14 hex digits. `card.bad_uid`.
    #[error("a chip's number is 14 hex digits")]
    BadUid,
    /// No such time zone. `card.unknown_time_zone`.
    #[error("there is no time zone of this name")]
    UnknownTimeZone,
    /// The card was used as often as it may be in this hour. `card.too_many_taps`.
    #[error("the card may pay {limit} times an hour")]
    TooManyTaps {
        /// How often it may.
        limit: i64,
    },
    /// The card's time zone was changed before, and the old one still counts for a week or a
    /// month. `card.zone_changed_lately`.
    #[error("the card's time zone was changed lately; it can be changed again from {until_ms} on")]
    ZoneChangedLately {
        /// When it can be changed again, milliseconds since the epoch.
        until_ms: i64,
    },
    /// The keys of a card that was handed over are not told. `card.keys_withheld`.
    #[error("the card {card} was handed over: its keys are not told any more")]
    KeysWithheld {
        /// The card.
        card: CardId,
    },
}

impl CardError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tap(error) => error.code(),
            Self::NotFound => "card.not_found",
            Self::NotActive {
                state: CardState::Frozen,
                ..
            } => "card.frozen",
            Self::NotActive { .. } => "card.not_active",
            Self::TapReplayed { .. } => "card.tap_replayed",
            Self::InsufficientFunds { .. } => "card.insufficient_funds",
            Self::LimitExceeded { .. } => "card.limit_exceeded",
            Self::AlreadyIssued { .. } => "card.already_issued",
            Self::BadUid => "card.bad_uid",
            Self::UnknownTimeZone => "card.unknown_time_zone",
            Self::TooManyTaps { .. } => "card.too_many_taps",
            Self::ZoneChangedLately { .. } => "card.zone_changed_lately",
            Self::KeysWithheld { .. } => "card.keys_withheld",
        }
    }
}
