//! How the amounts of automatic top-ups are written: those of a card in bitcoin as they were before
//! there were others, with the unit in their names, so that whoever knew them reads them still.

use serde::{Deserialize, Serialize};

use super::model::{AutoTopUp, TopUpSource, TopUpWanted};
use crate::ids::CardId;
use crate::money::Asset;

/// An amount of bitcoin under one name, or of something else under another.
type Written = (Option<i64>, Option<i64>);

fn written(unit: Asset, amount: i64) -> Written {
    match unit {
        Asset::Btc => (Some(amount), None),
        _ => (None, Some(amount)),
    }
}

fn read(unit: Asset, written: Written, name: &str) -> Result<i64, String> {
    match (written, unit) {
        ((Some(msat), None), Asset::Btc) => Ok(msat),
        ((None, Some(amount)), _) => Ok(amount),
        ((None, None), _) => Err(format!("missing field `{name}`")),
        ((Some(_), _), _) => Err(format!("`{name}_msat` beside `{name}` or another unit")),
    }
}

fn unless_bitcoin(unit: Asset) -> Option<Asset> {
    Some(unit).filter(|unit| *unit != Asset::Btc)
}

#[derive(Serialize, Deserialize)]
pub(super) struct WrittenRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Asset>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    below_msat: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    below: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_msat: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<i64>,
    times_per_day: i64,
    from: TopUpSource,
}

impl From<AutoTopUp> for WrittenRule {
    fn from(rule: AutoTopUp) -> Self {
        let (below_msat, below) = written(rule.unit, rule.below);
        let (to_msat, to) = written(rule.unit, rule.to);
        Self {
            unit: unless_bitcoin(rule.unit),
            below_msat,
            below,
            to_msat,
            to,
            times_per_day: rule.times_per_day,
            from: rule.from,
        }
    }
}

impl TryFrom<WrittenRule> for AutoTopUp {
    type Error = String;

    fn try_from(rule: WrittenRule) -> Result<Self, String> {
        let unit = rule.unit.unwrap_or(Asset::Btc);
        Ok(Self {
            unit,
            below: read(unit, (rule.below_msat, rule.below), "below")?,
            to: read(unit, (rule.to_msat, rule.to), "to")?,
            times_per_day: rule.times_per_day,
            from: rule.from,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct WrittenWish {
    card: CardId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Asset>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount_msat: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    balance_msat: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    balance: Option<i64>,
}

impl From<TopUpWanted> for WrittenWish {
    fn from(wish: TopUpWanted) -> Self {
        let (amount_msat, amount) = written(wish.unit, wish.amount);
        let (balance_msat, balance) = written(wish.unit, wish.balance);
        Self {
            card: wish.card,
            unit: unless_bitcoin(wish.unit),
            amount_msat,
            amount,
            balance_msat,
            balance,
        }
    }
}

impl TryFrom<WrittenWish> for TopUpWanted {
    type Error = String;

    fn try_from(wish: WrittenWish) -> Result<Self, String> {
        let unit = wish.unit.unwrap_or(Asset::Btc);
        Ok(Self {
            card: wish.card,
            unit,
            amount: read(unit, (wish.amount_msat, wish.amount), "amount")?,
            balance: read(unit, (wish.balance_msat, wish.balance), "balance")?,
        })
    }
}
