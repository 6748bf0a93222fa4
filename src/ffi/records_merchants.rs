//! Merchants, tills, payouts and points.

use super::FlashError;
use crate::Answer;
use crate::{rewards, settlement};

/// What a payout costs the merchant, and what its route may cost the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct PayoutTerms {
    /// The fixed part of the operator's fee.
    #[uniffi(default = 0)]
    pub fee_base_msat: i64,
    /// The proportional part, in hundredths of a percent of what is paid out; 0 to 10,000.
    #[uniffi(default = 100)]
    pub fee_bps: u32,
    /// The fixed part of what the route may cost. The operator pays the route out of its fee.
    #[uniffi(default = 10000)]
    pub route_base_msat: i64,
    /// The proportional part, in hundredths of a percent; 0 to 10,000.
    #[uniffi(default = 50)]
    pub route_bps: u32,
}

impl From<PayoutTerms> for settlement::PayoutTerms {
    fn from(terms: PayoutTerms) -> Self {
        Self {
            fee_base_msat: terms.fee_base_msat,
            fee_bps: terms.fee_bps,
            route_base_msat: terms.route_base_msat,
            route_bps: terms.route_bps,
            own_wallet_bps: None,
        }
    }
}

impl From<settlement::PayoutTerms> for PayoutTerms {
    fn from(terms: settlement::PayoutTerms) -> Self {
        Self {
            fee_base_msat: terms.fee_base_msat,
            fee_bps: terms.fee_bps,
            route_base_msat: terms.route_base_msat,
            route_bps: terms.route_bps,
        }
    }
}

/// Takes a merchant in.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CreateMerchantRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// What its payouts cost.
    pub terms: PayoutTerms,
}

impl TryFrom<CreateMerchantRequest> for settlement::CreateMerchant {
    type Error = FlashError;

    fn try_from(request: CreateMerchantRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            name: request.name,
            terms: request.terms.into(),
            category: None,
        })
    }
}

/// A merchant.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Merchant {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What its payouts cost.
    pub terms: PayoutTerms,
    /// Its points program, if it has one.
    pub program_id: Option<String>,
    /// When it was taken in, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<settlement::Merchant>> for Merchant {
    fn from(answer: Answer<settlement::Merchant>) -> Self {
        let Answer {
            as_of_ms,
            value: merchant,
        } = answer;
        Self {
            id: merchant.id.to_string(),
            name: merchant.name,
            terms: merchant.terms.into(),
            program_id: merchant.program.map(|id| id.to_string()),
            created_at_ms: merchant.created_at_ms,
            as_of_ms,
        }
    }
}

/// Gives a till its credential.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PairTillRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The merchant it sells for.
    pub merchant_id: String,
    /// Which till it is; at most 100 characters.
    pub label: String,
}

impl TryFrom<PairTillRequest> for settlement::PairTill {
    type Error = FlashError;

    fn try_from(request: PairTillRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            merchant: request.merchant_id.parse()?,
            label: request.label,
        })
    }
}

/// Takes a till's credential away.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct RevokeTillRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The till.
    pub till_id: String,
}

impl TryFrom<RevokeTillRequest> for settlement::RevokeTill {
    type Error = FlashError;

    fn try_from(request: RevokeTillRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            till: request.till_id.parse()?,
        })
    }
}

/// A till, without its credential.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Till {
    /// The id of its credential.
    pub id: String,
    /// The merchant it sells for.
    pub merchant_id: String,
    /// Which till it is.
    pub label: String,
    /// True once its credential was taken away.
    pub revoked: bool,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<settlement::Till>> for Till {
    fn from(answer: Answer<settlement::Till>) -> Self {
        Self {
            id: answer.id.to_string(),
            merchant_id: answer.merchant.to_string(),
            label: answer.label.clone(),
            revoked: answer.revoked,
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// A till that was paired.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct PairedTill {
    /// The till.
    pub till: Till,
    /// Its credential, to be kept on the till. Secret.
    pub credential: String,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<settlement::PairedTill>> for PairedTill {
    fn from(answer: Answer<settlement::PairedTill>) -> Self {
        let as_of_ms = answer.as_of_ms;
        let value = answer.value.till;
        Self {
            till: Answer { as_of_ms, value }.into(),
            credential: answer.value.credential.reveal().to_owned(),
            as_of_ms,
        }
    }
}

/// What a merchant is owed.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct MerchantBalance {
    /// The merchant.
    pub merchant_id: String,
    /// What can be paid out.
    pub available_msat: i64,
    /// What is owed, payouts on their way included.
    pub owed_msat: i64,
    /// Sales that are being taken.
    pub pending_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<settlement::MerchantBalance>> for MerchantBalance {
    fn from(answer: Answer<settlement::MerchantBalance>) -> Self {
        Self {
            merchant_id: answer.merchant.to_string(),
            available_msat: answer.available_msat,
            owed_msat: answer.owed_msat,
            pending_msat: answer.pending_msat,
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// What a payout of everything comes to.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PayoutQuote {
    /// The merchant.
    pub merchant_id: String,
    /// What the merchant's own node should ask for, in its invoice.
    pub amount_msat: i64,
    /// What the operator keeps.
    pub fee_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<settlement::PayoutQuote>> for PayoutQuote {
    fn from(answer: Answer<settlement::PayoutQuote>) -> Self {
        Self {
            merchant_id: answer.merchant.to_string(),
            amount_msat: answer.amount_msat,
            fee_msat: answer.fee_msat,
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// Pays a merchant out to its own node.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct RequestPayoutRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The merchant.
    pub merchant_id: String,
    /// An invoice of the merchant's own node, with an amount in it.
    pub bolt11: String,
}

impl TryFrom<RequestPayoutRequest> for settlement::RequestPayout {
    type Error = FlashError;

    fn try_from(request: RequestPayoutRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            merchant: request.merchant_id.parse()?,
            bolt11: request.bolt11,
        })
    }
}

/// How a payout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum PayoutState {
    /// Its money is on hold and the node has been asked, or is about to be.
    Sending,
    /// Whether it was sent is not known. The money stays on hold and the node is asked again.
    Unknown,
    /// The merchant has it.
    PaidOut,
    /// It failed for good: nothing is in flight and the money is the merchant's again.
    Failed,
}

/// A payout.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Payout {
    /// Its id.
    pub id: String,
    /// The merchant.
    pub merchant_id: String,
    /// What is sent.
    pub amount_msat: i64,
    /// What the operator keeps.
    pub fee_msat: i64,
    /// What the route may cost.
    pub max_route_fee_msat: i64,
    /// What the route cost, once it was paid out and the node knows it.
    pub route_fee_msat: Option<i64>,
    /// What the payment is known by in both nodes: 64 hex digits.
    pub payment_hash: String,
    /// The invoice that is paid.
    pub bolt11: String,
    /// How it stands.
    pub state: PayoutState,
    /// Why it failed, or what is not known, as the node said it.
    pub reason: Option<String>,
    /// When it was asked for, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<settlement::Payout>> for Payout {
    fn from(answer: Answer<settlement::Payout>) -> Self {
        let Answer {
            as_of_ms,
            value: payout,
        } = answer;
        Self {
            id: payout.id.to_string(),
            merchant_id: payout.merchant.to_string(),
            amount_msat: payout.amount_msat,
            fee_msat: payout.fee_msat,
            max_route_fee_msat: payout.max_route_fee_msat,
            route_fee_msat: payout.route_fee_msat,
            payment_hash: payout.payment_hash.to_string(),
            bolt11: payout.bolt11,
            state: match payout.state {
                settlement::PayoutState::Sending => PayoutState::Sending,
                settlement::PayoutState::Unknown => PayoutState::Unknown,
                settlement::PayoutState::PaidOut => PayoutState::PaidOut,
                settlement::PayoutState::Failed => PayoutState::Failed,
            },
            reason: payout.reason,
            created_at_ms: payout.created_at_ms,
            as_of_ms,
        }
    }
}

/// Payouts, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PayoutPage {
    /// The payouts; the last one's id asks for the next page.
    pub payouts: Vec<Payout>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<Vec<settlement::Payout>>> for PayoutPage {
    fn from(answer: Answer<Vec<settlement::Payout>>) -> Self {
        let as_of_ms = answer.as_of_ms;
        let payouts = answer.value.into_iter();
        let payouts = payouts.map(|value| Answer { as_of_ms, value }.into());
        Self {
            payouts: payouts.collect(),
            as_of_ms,
        }
    }
}

/// Makes a points program that a merchant pays for.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CreatePointsProgramRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// Whose sales earn the points, and who pays for them.
    pub merchant_id: String,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// How much of a sale goes into points: 1 to 10,000 hundredths of a percent.
    pub earn_bps: u32,
    /// What a point is worth when it is redeemed; set aside in bitcoin when it is given.
    pub point_value_msat: i64,
}

impl TryFrom<CreatePointsProgramRequest> for rewards::CreateProgram {
    type Error = FlashError;

    fn try_from(request: CreatePointsProgramRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            merchant: request.merchant_id.parse()?,
            name: request.name,
            earn_bps: request.earn_bps,
            point_value_msat: request.point_value_msat,
        })
    }
}

/// A points program.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PointsProgram {
    /// Its id.
    pub id: String,
    /// Whose sales earn the points, and who pays for them.
    pub merchant_id: String,
    /// What people call it.
    pub name: String,
    /// How much of a sale goes into points, in hundredths of a percent.
    pub earn_bps: u32,
    /// What a point is worth.
    pub point_value_msat: i64,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<rewards::Program>> for PointsProgram {
    fn from(answer: Answer<rewards::Program>) -> Self {
        let Answer {
            as_of_ms,
            value: program,
        } = answer;
        Self {
            id: program.id.to_string(),
            merchant_id: program.merchant.to_string(),
            name: program.name,
            earn_bps: program.earn_bps,
            point_value_msat: program.point_value_msat,
            created_at_ms: program.created_at_ms,
            as_of_ms,
        }
    }
}

/// The points on a card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PointsBalance {
    /// The card.
    pub card_id: String,
    /// The program.
    pub program_id: String,
    /// How many.
    pub points: i64,
    /// What they are worth.
    pub value_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<rewards::PointsBalance>> for PointsBalance {
    fn from(answer: Answer<rewards::PointsBalance>) -> Self {
        Self {
            card_id: answer.card.to_string(),
            program_id: answer.program.to_string(),
            points: answer.points,
            value_msat: answer.value_msat,
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// Turns points into money on the card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct RedeemPointsRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The card that has them.
    pub card_id: String,
    /// The program.
    pub program_id: String,
    /// How many; more than zero.
    pub points: i64,
}

impl TryFrom<RedeemPointsRequest> for rewards::RedeemPoints {
    type Error = FlashError;

    fn try_from(request: RedeemPointsRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            card: request.card_id.parse()?,
            program: request.program_id.parse()?,
            points: request.points,
        })
    }
}

/// Points that were turned into money.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Redemption {
    /// Its id.
    pub id: String,
    /// The card.
    pub card_id: String,
    /// The program.
    pub program_id: String,
    /// How many points.
    pub points: i64,
    /// What they were worth, now on the card.
    pub amount_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<rewards::Redemption>> for Redemption {
    fn from(answer: Answer<rewards::Redemption>) -> Self {
        Self {
            id: answer.id.to_string(),
            card_id: answer.card.to_string(),
            program_id: answer.program.to_string(),
            points: answer.points,
            amount_msat: answer.amount_msat,
            as_of_ms: answer.as_of_ms,
        }
    }
}
