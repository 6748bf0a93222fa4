//! The records of conversions.

use serde::{Deserialize, Serialize};

use crate::core::IdempotencyKey;
use crate::money::{Asset, Currency, QuoteSide, Rate};

/// Which rate an authorised charge of a card in a currency is settled at, and so who bears what the
/// rate has moved between the authorisation and the capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftBearer {
    /// The operator: the rate of the authorisation holds for both. The card pays what it was told,
    /// and the merchant gets the bitcoin it was told.
    #[default]
    Operator,
    /// The merchant: the rate of the capture. The card pays what it was told, and the merchant
    /// gets the bitcoin that this buys then.
    Merchant,
    /// The card: the rate of the capture. The merchant gets the bitcoin it was told, and the card
    /// pays what that costs then, up to what was set aside; what is beyond that is the operator's.
    /// A price in the card's own currency is paid exactly, and there the merchant bears it.
    Card,
}

/// Which rate a refund of a charge is made at. What goes back on the card is the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundRate {
    /// That of the charge: the merchant gives back the bitcoin it got, and the operator bears what
    /// the rate has moved since.
    #[default]
    Charge,
    /// That of now: the merchant gives the bitcoin that buys it back now.
    Now,
}

/// How cards whose unit is a currency are converted. What is left out of the JSON is as by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConversionRules {
    /// Which rate a capture is settled at, and who bears the drift.
    pub drift: DriftBearer,
    /// How much more than what it comes to is set aside where the card bears the drift of a price
    /// in another unit, in basis points of it; 0 to 10,000.
    pub hold_margin_bps: u32,
    /// Which rate a refund is made at.
    pub refund_at: RefundRate,
    /// Which side of the market a charge is made at; `None` takes the one that the source has.
    pub charge_side: Option<QuoteSide>,
    /// Which side of the market money is put on a card at; `None` takes the one that the source
    /// has.
    pub top_up_side: Option<QuoteSide>,
}

/// Sets how far the operator's open position in a currency may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPositionCap {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Which currency.
    pub currency: Currency,
    /// How much of it the operator may owe, or have, by conversions: in its minor unit.
    pub max_open: i64,
}

/// How far the operator's open position in a currency may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionCap {
    /// Which currency.
    pub currency: Currency,
    /// How much of it the operator may owe, or have, by conversions: in its minor unit.
    pub max_open: i64,
    /// When it was set, milliseconds since the epoch.
    pub changed_at_ms: i64,
}

/// A rate to value a position at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionRate {
    /// Which currency.
    pub currency: Currency,
    /// The price of one bitcoin in it.
    pub rate: Rate,
}

/// The operator's open position in one asset: what conversions brought of it, less what they took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPosition {
    /// Of what.
    pub asset: Asset,
    /// How much, in the asset's unit; below zero the operator owes it.
    pub amount: i64,
    /// The least it can become by what is on hold.
    pub lowest: i64,
    /// The most it can become by what is on hold.
    pub highest: i64,
    /// How far it may go either way; `None` of bitcoin, which follows the currencies.
    pub max_open: Option<i64>,
    /// The rate it is valued at; `None` of bitcoin, and where there is none.
    pub rate: Option<Rate>,
    /// What it is worth at that rate; rounded towards zero.
    pub value_msat: Option<i64>,
}
