//! Sales that are paid with cards, and the PINs of cards.

use super::{FlashError, Price, Quote};
use crate::Answer;
use crate::cards;

/// Pays a sale with a tapped card.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct ChargeCardRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// What the chip gave: its whole URL.
    pub tap: String,
    /// What is to be paid.
    pub price: Price,
    /// The merchant's own name for the sale; at most 100 characters.
    pub reference: String,
    /// The card's PIN, 4 to 8 digits, where the amount needs one.
    #[uniffi(default = None)]
    pub pin: Option<String>,
    /// Where the tap comes from, as the host tells it apart: from a source of forged taps none is
    /// taken for a while. The till's credential without it.
    #[uniffi(default = None)]
    pub source: Option<String>,
}

impl TryFrom<ChargeCardRequest> for cards::ChargeCard {
    type Error = FlashError;

    fn try_from(request: ChargeCardRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            tap: request.tap,
            price: request.price.try_into()?,
            reference: request.reference,
            pin: request.pin.map(|pin| pin.parse()).transpose()?,
        })
    }
}

/// Sets money of a tapped card aside for a sale that is not done yet: a tab.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct AuthorizeCardRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// What the chip gave: its whole URL.
    pub tap: String,
    /// What is to be set aside.
    pub price: Price,
    /// The merchant's own name for the sale; at most 100 characters.
    pub reference: String,
    /// The card's PIN, 4 to 8 digits, where the amount needs one.
    #[uniffi(default = None)]
    pub pin: Option<String>,
    /// Where the tap comes from, as the host tells it apart: from a source of forged taps none is
    /// taken for a while. The till's credential without it.
    #[uniffi(default = None)]
    pub source: Option<String>,
}

impl TryFrom<AuthorizeCardRequest> for cards::AuthorizeCard {
    type Error = FlashError;

    fn try_from(request: AuthorizeCardRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            tap: request.tap,
            price: request.price.try_into()?,
            reference: request.reference,
            pin: request.pin.map(|pin| pin.parse()).transpose()?,
        })
    }
}

/// Takes what was authorised, or less of it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CaptureChargeRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The charge.
    pub charge_id: String,
    /// How much of it; the rest is given back.
    pub amount_msat: i64,
}

impl TryFrom<CaptureChargeRequest> for cards::CaptureCharge {
    type Error = FlashError;

    fn try_from(request: CaptureChargeRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            charge: request.charge_id.parse()?,
            amount: cards::ChargeAmount::Bitcoin {
                amount_msat: request.amount_msat,
            },
        })
    }
}

/// Gives back all that was authorised.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ReleaseChargeRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The charge.
    pub charge_id: String,
}

impl TryFrom<ReleaseChargeRequest> for cards::ReleaseCharge {
    type Error = FlashError;

    fn try_from(request: ReleaseChargeRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            charge: request.charge_id.parse()?,
        })
    }
}

/// Undoes a sale that was paid, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct RefundChargeRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The charge.
    pub charge_id: String,
    /// How much of it; all refunds of a charge together are never more than it.
    pub amount_msat: i64,
}

impl TryFrom<RefundChargeRequest> for cards::RefundCharge {
    type Error = FlashError;

    fn try_from(request: RefundChargeRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            charge: request.charge_id.parse()?,
            amount: cards::ChargeAmount::Bitcoin {
                amount_msat: request.amount_msat,
            },
        })
    }
}

/// How a charge stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum ChargeState {
    /// The money is set aside until it is captured, released, or its time is up.
    Authorized,
    /// Paid. What of it was refunded since stands beside it.
    Captured,
    /// The merchant gave it all back.
    Released,
    /// Nobody captured it in time, and it was given back.
    Expired,
}

impl From<cards::ChargeState> for ChargeState {
    fn from(state: cards::ChargeState) -> Self {
        match state {
            cards::ChargeState::Authorized => Self::Authorized,
            cards::ChargeState::Captured => Self::Captured,
            cards::ChargeState::Released => Self::Released,
            cards::ChargeState::Expired => Self::Expired,
        }
    }
}

/// A sale that is paid with a card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Charge {
    /// Its id.
    pub id: String,
    /// The card.
    pub card_id: String,
    /// The merchant.
    pub merchant_id: String,
    /// The id of the credential that charged.
    pub till_id: String,
    /// How it stands.
    pub state: ChargeState,
    /// What was asked for.
    pub price: Price,
    /// What that came to: what is set aside while it is authorised, what was paid once it is
    /// captured, and nothing of one that was released or expired.
    pub amount_msat: i64,
    /// What was authorised; absent from one that was paid at once.
    pub authorized_msat: Option<i64>,
    /// From when on an authorised one cannot be captured any more, milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
    /// What of `amount_msat` was refunded.
    pub refunded_msat: i64,
    /// What of `refunded_msat` did not go on the card again, because the points of the sale were
    /// turned into money there before.
    pub withheld_msat: i64,
    /// The rate, where the price is in a currency.
    pub quote: Option<Quote>,
    /// The merchant's own name for the sale.
    pub reference: String,
    /// The points program, where the merchant has one.
    pub program_id: Option<String>,
    /// The points that the card got.
    pub points: i64,
    /// The points of these that were taken back with refunds.
    pub points_taken_back: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<cards::Charge>> for Charge {
    fn from(answer: Answer<cards::Charge>) -> Self {
        let Answer {
            as_of_ms,
            value: charge,
        } = answer;
        Self {
            id: charge.id.to_string(),
            card_id: charge.card.to_string(),
            merchant_id: charge.merchant.to_string(),
            till_id: charge.till.to_string(),
            state: charge.state.into(),
            price: charge.price.into(),
            amount_msat: charge.amount_msat,
            authorized_msat: charge.authorized_msat,
            expires_at_ms: charge.expires_at_ms,
            refunded_msat: charge.refunded_msat,
            withheld_msat: charge.withheld_msat,
            quote: charge.quote.map(Quote::from),
            reference: charge.reference,
            program_id: charge.program.map(|id| id.to_string()),
            points: charge.points,
            points_taken_back: charge.points_taken_back,
            as_of_ms,
        }
    }
}

/// Charges, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ChargePage {
    /// The charges; the last one's id asks for the next page.
    pub charges: Vec<Charge>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<Vec<cards::Charge>>> for ChargePage {
    fn from(answer: Answer<Vec<cards::Charge>>) -> Self {
        let as_of_ms = answer.as_of_ms;
        let charges = answer.value.into_iter();
        let charges = charges.map(|value| Answer { as_of_ms, value }.into());
        Self {
            charges: charges.collect(),
            as_of_ms,
        }
    }
}

/// Sets a card's PIN, or changes it. Secret.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct SetCardPinRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card.
    pub card_id: String,
    /// From now on: 4 to 8 digits.
    pub pin: String,
}

impl TryFrom<SetCardPinRequest> for cards::SetCardPin {
    type Error = FlashError;

    fn try_from(request: SetCardPinRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
            pin: request.pin.parse()?,
        })
    }
}

/// Lets a PIN be tried again that was wrong too often.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct UnlockCardPinRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card.
    pub card_id: String,
}

impl TryFrom<UnlockCardPinRequest> for cards::UnlockCardPin {
    type Error = FlashError;

    fn try_from(request: UnlockCardPinRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
        })
    }
}

/// How the PIN of a card stands.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CardPinStatus {
    /// The card.
    pub card_id: String,
    /// It has one.
    pub is_set: bool,
    /// It was wrong too often.
    pub is_locked: bool,
    /// How many more wrong ones there may be.
    pub attempts_left: u32,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<cards::PinStatus>> for CardPinStatus {
    fn from(answer: Answer<cards::PinStatus>) -> Self {
        let status = answer.value;
        Self {
            card_id: status.card.to_string(),
            is_set: status.is_set,
            is_locked: status.is_locked,
            attempts_left: status.attempts_left,
            as_of_ms: answer.as_of_ms,
        }
    }
}
