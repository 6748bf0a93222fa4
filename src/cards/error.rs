//! Why a card was refused.

use super::boltcard::{IssuerKeyId, TapError};
use super::charge_model::ChargeState;
use super::life::LifeError;
use super::model::CardState;
use super::offline::OfflineError;
use super::payment_error::CardPaymentError;
use crate::ids::{CardId, CardImportId, CardProgramId, ChargeId, MerchantId};
use crate::money::Asset;
use crate::settlement::MerchantCategory;

/// A card was refused. Nothing was changed, no balance and no counter, but that a wrong PIN is
/// counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// The tap does not verify; the codes are the tap's own.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A payment of the card, or money for it; the codes are its own.
    #[error(transparent)]
    Payment(#[from] CardPaymentError),
    /// A step of its life; the codes are [`LifeError`]'s own.
    #[error(transparent)]
    Life(#[from] LifeError),
    /// What a till took offline; the codes are its own.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// No such card. `card.not_found`.
    #[error("there is no such card")]
    NotFound,
    /// The card is not in use. `card.frozen` when it was stopped, `card.lost`, `card.expired`, else
    /// `card.not_active`.
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
    /// The tap was looked at too long ago to be used. `card.tap_stale`.
    #[error("this tap could be used until {until_ms}: the card is to be tapped again")]
    TapStale {
        /// Until when it could, milliseconds since the epoch.
        until_ms: i64,
    },
    /// A later tap of this card was looked at. `card.tap_superseded`.
    #[error("this tap is number {counter} of the card, and number {seen} was seen")]
    TapSuperseded {
        /// The tap's counter.
        counter: i64,
        /// The later one's.
        seen: i64,
    },
    /// Too many taps with a wrong signature came from this source. `card.too_many_bad_taps`,
    /// retryable.
    #[error("too many forged taps came from here; {retry_after_ms} ms to wait")]
    TooManyBadTaps {
        /// When taps from there are looked at again, in milliseconds.
        retry_after_ms: i64,
    },
    /// Not enough on the card. `card.insufficient_funds`.
    #[error("the card has {available} to spend, {needed} is needed")]
    InsufficientFunds {
        /// What it can spend, in the card's unit.
        available: i64,
        /// What was asked.
        needed: i64,
        /// The card's unit.
        unit: Asset,
    },
    /// A limit of the card. `card.limit_exceeded`.
    #[error("the card's limit {limit} is {allowed}, {used} of it is used")]
    LimitExceeded {
        /// `per_tap`, `per_day`, `per_week` or `per_month`.
        limit: &'static str,
        /// The limit, in the card's unit.
        allowed: i64,
        /// What was used of it before.
        used: i64,
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
    /// No such card program. `card.program_not_found`.
    #[error("there is no card program {program}")]
    ProgramNotFound {
        /// Which.
        program: CardProgramId,
    },
    /// The cards of the program have balances in its unit. `card.program_unit_fixed`.
    #[error("the balances of the cards of {program} are in {unit}, and stay so")]
    ProgramUnitFixed {
        /// Which.
        program: CardProgramId,
        /// Its unit.
        unit: Asset,
    },
    /// The card's program does not name this merchant. `card.merchant_not_allowed`.
    #[error("cards of {program} do not pay at {merchant}")]
    MerchantNotAllowed {
        /// The program.
        program: CardProgramId,
        /// The merchant.
        merchant: MerchantId,
    },
    /// The card's program does not name this kind of shop. `card.category_not_allowed`.
    #[error("cards of {program} do not pay at shops of this kind")]
    CategoryNotAllowed {
        /// The program.
        program: CardProgramId,
        /// The merchant's category, if it has one.
        category: Option<MerchantCategory>,
    },
    /// The engine does not have this issuer key: the host gives it no more, or it is sealed with
    /// a key that the engine was not given. `card.issuer_key_missing`.
    #[error("the issuer key {issuer_key} is not here")]
    IssuerKeyMissing {
        /// Its name.
        issuer_key: IssuerKeyId,
    },
    /// No such import of cards. `card.import_not_found`.
    #[error("there is no import {import}")]
    ImportNotFound {
        /// Which.
        import: CardImportId,
    },
    /// The caller does not state that the old issuer takes no taps any more: one balance would be
    /// spent twice. `card.old_issuer_not_frozen`.
    #[error("the old issuer is to be frozen before its cards are taken over")]
    OldIssuerNotFrozen,
    /// The engine was built without a key of the host's, and so can seal nothing.
    /// `card.no_host_key`.
    #[error("the engine was given no key to seal issuer keys with")]
    NoHostKey,
    /// The keys of a card that was handed over are not told. `card.keys_withheld`.
    #[error("the card {card} was handed over: its keys are not told any more")]
    KeysWithheld {
        /// The card.
        card: CardId,
    },
    /// No such charge. `card.charge_not_found`.
    #[error("there is no charge {charge}")]
    ChargeNotFound {
        /// Which.
        charge: ChargeId,
    },
    /// The charge was captured, released, or never authorised. `card.charge_not_open`.
    #[error("the charge {charge} cannot be captured or released: {state:?}")]
    ChargeNotOpen {
        /// Which.
        charge: ChargeId,
        /// How it stands.
        state: ChargeState,
    },
    /// The charge was not captured in time, and the card has its money again.
    /// `card.authorization_expired`.
    #[error("the charge {charge} could be captured until {expired_at_ms}")]
    AuthorizationExpired {
        /// Which.
        charge: ChargeId,
        /// From when on it could not be captured, milliseconds since the epoch.
        expired_at_ms: i64,
    },
    /// More was to be captured than was authorised. `card.capture_exceeds_hold`.
    #[error("{held} was authorised, {asked} was to be captured")]
    CaptureExceedsHold {
        /// What was authorised.
        held: i64,
        /// What was asked.
        asked: i64,
    },
    /// The charge was not paid, so that nothing of it can be refunded.
    /// `card.charge_not_captured`.
    #[error("the charge {charge} was not paid: {state:?}")]
    ChargeNotCaptured {
        /// Which.
        charge: ChargeId,
        /// How it stands.
        state: ChargeState,
    },
    /// More was to be refunded than is left of the charge. `card.refund_exceeds_charge`.
    #[error("{standing} of the charge can be refunded, {asked} was asked")]
    RefundExceedsCharge {
        /// What was not refunded yet.
        standing: i64,
        /// What was asked.
        asked: i64,
    },
    /// The merchant's money here does not suffice for the refund. `card.refund_not_covered`.
    #[error("the merchant has {available_msat} msat here, the refund needs {needed_msat} msat")]
    RefundNotCovered {
        /// What the merchant has.
        available_msat: i64,
        /// What the refund takes.
        needed_msat: i64,
    },
    /// The charge was made by an earlier version, and what in the books is behind it was not
    /// kept. `card.charge_not_refundable`.
    #[error("the charge {charge} was made before charges could be refunded")]
    ChargeNotRefundable {
        /// Which.
        charge: ChargeId,
    },
    /// There is no such refund, payment or transfer that a receipt could be of, or not yet.
    /// `card.receipt_not_found`.
    #[error("there is nothing that this receipt could be of")]
    ReceiptNotFound,
    /// The amount is not in the unit of the card. `card.unit_mismatch`.
    #[error("the card {card} is in {unit}")]
    UnitMismatch {
        /// The card.
        card: CardId,
        /// What it is in.
        unit: Asset,
    },
    /// A PIN is 4 to 8 digits. `card.bad_pin`.
    #[error("a PIN is 4 to 8 digits")]
    BadPin,
    /// The amount needs the card's PIN, and none was given. `card.pin_required`.
    #[error("above {above} the card asks for its PIN")]
    PinRequired {
        /// What can be spent without.
        above: i64,
    },
    /// A PIN was given or is needed, and the card has none. `card.pin_not_set`.
    #[error("the card {card} has no PIN")]
    PinNotSet {
        /// The card.
        card: CardId,
    },
    /// The PIN is wrong, and that was counted. The tap was not used up. `card.wrong_pin`.
    #[error("the PIN of the card {card} is another one; {attempts_left} more attempts")]
    WrongPin {
        /// The card.
        card: CardId,
        /// How many more wrong ones there may be.
        attempts_left: u32,
    },
    /// The PIN was wrong too often; the holder or the issuer unlocks it. `card.pin_locked`.
    #[error("the PIN of the card {card} was wrong too often")]
    PinLocked {
        /// The card.
        card: CardId,
    },
}

impl CardError {
    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TooManyBadTaps { .. } => true,
            Self::Payment(error) => error.is_retryable(),
            Self::Life(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tap(error) => error.code(),
            Self::Payment(error) => error.code(),
            Self::Life(error) => error.code(),
            Self::Offline(error) => error.code(),
            Self::NotFound => "card.not_found",
            Self::NotActive {
                state: CardState::Frozen,
                ..
            } => "card.frozen",
            Self::NotActive {
                state: CardState::Lost,
                ..
            } => "card.lost",
            Self::NotActive {
                state: CardState::Expired,
                ..
            } => "card.expired",
            Self::NotActive { .. } => "card.not_active",
            Self::TapReplayed { .. } => "card.tap_replayed",
            Self::TooManyBadTaps { .. } => "card.too_many_bad_taps",
            Self::TapStale { .. } => "card.tap_stale",
            Self::TapSuperseded { .. } => "card.tap_superseded",
            Self::InsufficientFunds { .. } => "card.insufficient_funds",
            Self::LimitExceeded { .. } => "card.limit_exceeded",
            Self::AlreadyIssued { .. } => "card.already_issued",
            Self::BadUid => "card.bad_uid",
            Self::UnknownTimeZone => "card.unknown_time_zone",
            Self::TooManyTaps { .. } => "card.too_many_taps",
            Self::ZoneChangedLately { .. } => "card.zone_changed_lately",
            Self::ProgramNotFound { .. } => "card.program_not_found",
            Self::ProgramUnitFixed { .. } => "card.program_unit_fixed",
            Self::MerchantNotAllowed { .. } => "card.merchant_not_allowed",
            Self::CategoryNotAllowed { .. } => "card.category_not_allowed",
            Self::IssuerKeyMissing { .. } => "card.issuer_key_missing",
            Self::ImportNotFound { .. } => "card.import_not_found",
            Self::OldIssuerNotFrozen => "card.old_issuer_not_frozen",
            Self::NoHostKey => "card.no_host_key",
            Self::KeysWithheld { .. } => "card.keys_withheld",
            Self::ChargeNotFound { .. } => "card.charge_not_found",
            Self::ChargeNotOpen { .. } => "card.charge_not_open",
            Self::AuthorizationExpired { .. } => "card.authorization_expired",
            Self::CaptureExceedsHold { .. } => "card.capture_exceeds_hold",
            Self::ChargeNotCaptured { .. } => "card.charge_not_captured",
            Self::RefundExceedsCharge { .. } => "card.refund_exceeds_charge",
            Self::RefundNotCovered { .. } => "card.refund_not_covered",
            Self::ChargeNotRefundable { .. } => "card.charge_not_refundable",
            Self::ReceiptNotFound => "card.receipt_not_found",
            Self::UnitMismatch { .. } => "card.unit_mismatch",
            Self::BadPin => "card.bad_pin",
            Self::PinRequired { .. } => "card.pin_required",
            Self::PinNotSet { .. } => "card.pin_not_set",
            Self::WrongPin { .. } => "card.wrong_pin",
            Self::PinLocked { .. } => "card.pin_locked",
        }
    }
}
