//! The records of a points program.

use serde::{Deserialize, Serialize};

use crate::core::IdempotencyKey;
use crate::ids::{CardId, MerchantId, ProgramId, RedemptionId};
use crate::money::{Currency, Quote};

/// Makes a points program that a merchant pays for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateProgram {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Whose sales earn the points, and who pays for them.
    pub merchant: MerchantId,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// How much of a sale goes into points: 1 to 10,000 hundredths of a percent.
    pub earn_bps: u32,
    /// What a point is worth when it is redeemed; set aside in bitcoin when it is given.
    pub point_value_msat: i64,
}

/// A points program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its id.
    pub id: ProgramId,
    /// Whose sales earn the points, and who pays for them.
    pub merchant: MerchantId,
    /// What people call it.
    pub name: String,
    /// How much of a sale goes into points.
    pub earn_bps: u32,
    /// What a point is worth.
    pub point_value_msat: i64,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
}

/// Turns points into money on the card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeemPoints {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card that has them.
    pub card: CardId,
    /// The program.
    pub program: ProgramId,
    /// How many; more than zero.
    pub points: i64,
}

/// Points that were turned into money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// Its id.
    pub id: RedemptionId,
    /// The card.
    pub card: CardId,
    /// The program.
    pub program: ProgramId,
    /// How many points.
    pub points: i64,
    /// What they were worth, now on the card.
    pub amount_msat: i64,
    /// What of a currency went on the card for that, where the card is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<RedemptionConversion>,
}

/// What went on a card in a currency for its points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedemptionConversion {
    /// The card's currency.
    pub currency: Currency,
    /// How much, in its minor unit; rounded down.
    pub amount: i64,
    /// The rate.
    pub quote: Quote,
}

/// The points on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsBalance {
    /// The card.
    pub card: CardId,
    /// The program.
    pub program: ProgramId,
    /// How many.
    pub points: i64,
    /// What they are worth.
    pub value_msat: i64,
}
