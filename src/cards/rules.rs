//! Pure decisions about cards: no I/O, no clock.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::error::CardError;
use super::model::{Card, CardLimits, CardState, Charge};
use super::{CARDS, CHARGES};
use crate::Error;
use crate::core::{CommandError, Loaded, emit, put};
use crate::ids::TransferId;
use crate::ledger::{Account, AccountKind, NewTransfer, Refusal, Step, TransferKind, UsageWindow};

/// Where a card's chip counter is kept: one a card and key version, since a re-programmed chip
/// counts from zero.
pub(super) fn counter_name(card: &Card) -> String {
    format!("{}/v{}", card.id, card.version)
}

pub(super) fn index_keys(card: &Card) -> Vec<(&'static str, String)> {
    vec![("chip", card.chip.clone())]
}

/// The step that writes a card.
pub(super) fn write(card: &Card, read_version: i64) -> Result<Step, Error> {
    put(
        CARDS,
        card.id.to_string(),
        read_version,
        card,
        index_keys(card),
    )
}

/// Limits that make sense: positive amounts and a time zone that exists.
pub(super) fn check_limits(limits: &CardLimits) -> Result<(), Error> {
    for (field, limit) in [
        ("per_tap_msat", limits.per_tap_msat),
        ("per_day_msat", limits.per_day_msat),
        ("max_balance_msat", limits.max_balance_msat),
    ] {
        if limit.is_some_and(|limit| limit <= 0 || limit > crate::money::MAX_MSAT) {
            let bounds = "1 msat to 21 million bitcoin";
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
    }
    TimeZone::get(&limits.time_zone).map_err(|_| CardError::UnknownTimeZone)?;
    Ok(())
}

/// The calendar day of `now_ms` where the card is used. Its length follows the zone's changes of
/// the clock.
pub(super) fn day(card: &Card, now_ms: i64) -> Result<UsageWindow, Error> {
    let unknown = |_| Error::Card(CardError::UnknownTimeZone);
    let zone = TimeZone::get(&card.limits.time_zone).map_err(unknown)?;
    let now = Timestamp::from_millisecond(now_ms)
        .map_err(unknown)?
        .to_zoned(zone);
    let start = now.start_of_day().map_err(unknown)?;
    let end = start
        .checked_add(1.day())
        .and_then(|next| next.start_of_day())
        .map_err(unknown)?;
    Ok(UsageWindow {
        subject: format!("{}/spent/day", card.id),
        start_ms: start.timestamp().as_millisecond(),
        end_ms: end.timestamp().as_millisecond(),
    })
}

/// The steps of a charge: the tap is used up, the limits are counted and the money moves, or
/// nothing does. The reward's steps are added by its own rules.
pub(super) fn charge(
    card: &Loaded<Card>,
    charge: &Charge,
    counter: i64,
    transfer: TransferId,
    now_ms: i64,
) -> Result<Vec<Step>, Error> {
    let Card { limits, .. } = &card.value;
    if let Some(limit_msat) = limits.per_tap_msat
        && charge.amount_msat > limit_msat
    {
        let limit = "per_tap";
        return Err(CardError::LimitExceeded {
            limit,
            limit_msat,
            used_msat: 0,
        }
        .into());
    }
    let mut steps = vec![
        super::guard(card),
        Step::Advance {
            counter: counter_name(&card.value),
            to: counter,
        },
    ];
    if let Some(limit) = limits.per_day_msat {
        let window = day(&card.value, now_ms)?;
        steps.push(Step::Use {
            window,
            amount: charge.amount_msat,
            limit,
        });
    }
    let id = charge.id.to_string();
    steps.push(Step::Transfer(NewTransfer {
        id: transfer,
        debit: Account::card_balance(charge.card),
        credit: Account::merchant_payable(charge.merchant),
        amount: charge.amount_msat,
        kind: TransferKind::Charge,
        reference: id.clone(),
        credit_ceiling: None,
    }));
    let keys = vec![
        ("card", charge.card.to_string()),
        ("merchant", charge.merchant.to_string()),
    ];
    steps.push(put(CHARGES, id, 0, charge, keys)?);
    steps.push(emit("card.charged", charge.card.to_string(), charge)?);
    Ok(steps)
}

/// What a refusal of the ledger means for a card.
pub(super) fn refused(error: Error) -> Error {
    let Error::Ledger(refusal) = error else {
        return error;
    };
    match refusal {
        Refusal::CounterNotAdvanced { current, given, .. } => CardError::TapReplayed {
            counter: given,
            last: current,
        }
        .into(),
        Refusal::InsufficientFunds {
            account,
            available,
            needed,
            ..
        } if account.kind() == AccountKind::CardBalance => CardError::InsufficientFunds {
            available_msat: available,
            needed_msat: needed,
        }
        .into(),
        Refusal::UsageExceeded { limit, used, .. } => CardError::LimitExceeded {
            limit: "per_day",
            limit_msat: limit,
            used_msat: used,
        }
        .into(),
        Refusal::AlreadyClaimed { by, .. } => CardError::AlreadyIssued { card: by }.into(),
        other => other.into(),
    }
}

/// A card that can be used.
pub(super) fn require_active(card: &Card) -> Result<(), CardError> {
    match card.state {
        CardState::Active => Ok(()),
        state => Err(CardError::NotActive {
            card: card.id,
            state,
        }),
    }
}
