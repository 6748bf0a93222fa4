//! Pure decisions about card programs: no I/O, no clock.

use super::model::{BreakageRule, CardProgram, CardProgramTerms};
use crate::Error;
use crate::cards::{Card, CardError, CardLimits, CardPaymentError};
use crate::core::{CommandError, check_text};
use crate::money::{Asset, MAX_MSAT};
use crate::settlement::Merchant;

/// So many merchants and categories a program can name.
const MOST_NAMED: usize = 1_000;
const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// More than any card lives.
const LONGEST_MS: i64 = 100 * 366 * DAY_MS;

fn within(
    value: Option<i64>,
    least: i64,
    most: i64,
    field: &'static str,
    bounds: &'static str,
) -> Result<(), CommandError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(CommandError::OutOfBounds { field, bounds })
        }
        _ => Ok(()),
    }
}

/// A name and rules that make sense.
pub(super) fn check(name: &str, terms: &CardProgramTerms) -> Result<(), Error> {
    check_text("name", name, 100, "100 characters")?;
    crate::cards::rules::check_limits(&terms.limits)?;
    if matches!(terms.unit, Asset::Points(_)) {
        let (field, bounds) = ("unit", "bitcoin or a currency");
        return Err(CommandError::OutOfBounds { field, bounds }.into());
    }
    let (field, bounds) = ("max_balance_minor_units", "1 to 2,100,000,000,000,000,000");
    within(terms.max_balance_minor_units, 1, MAX_MSAT, field, bounds)?;
    let margin = Some(i64::from(terms.conversion.hold_margin_bps));
    let (field, bounds) = ("conversion.hold_margin_bps", "0 to 10,000");
    within(margin, 0, 10_000, field, bounds)?;
    let (field, bounds) = ("valid_for_ms", "1 day to 100 years");
    within(terms.valid_for_ms, DAY_MS, LONGEST_MS, field, bounds)?;
    let (field, bounds) = ("tap_valid_ms", "1 second to 1 day");
    within(terms.tap_valid_ms, SECOND_MS, DAY_MS, field, bounds)?;
    let (field, bounds) = ("pin.above", "0 to 2,100,000,000,000,000,000");
    within(terms.pin.above, 0, MAX_MSAT, field, bounds)?;
    let (field, bounds) = ("pin.max_wrong", "1 to 10");
    within(Some(terms.pin.max_wrong.into()), 1, 10, field, bounds)?;
    let (field, bounds) = ("offline_window_ms", "1 minute to 31 days");
    within(
        terms.offline_window_ms,
        MINUTE_MS,
        31 * DAY_MS,
        field,
        bounds,
    )?;
    let (field, bounds) = ("authorization_ms", "1 minute to 31 days");
    within(
        terms.authorization_ms,
        MINUTE_MS,
        31 * DAY_MS,
        field,
        bounds,
    )?;
    let (field, bounds) = ("route_owed_up_to_msat", "1 msat to 21 million bitcoin");
    within(terms.route_owed_up_to_msat, 1, MAX_MSAT, field, bounds)?;
    let (field, bounds) = ("max_lock_blocks", "1 to 2,016");
    within(
        terms.max_lock_blocks.map(i64::from),
        1,
        2_016,
        field,
        bounds,
    )?;
    if let BreakageRule::After { wait_ms } = terms.breakage {
        let (field, bounds) = ("breakage.wait_ms", "1 day to 100 years");
        within(Some(wait_ms), DAY_MS, LONGEST_MS, field, bounds)?;
    }
    for (field, named) in [
        ("merchants", terms.merchants.len()),
        ("categories", terms.categories.len()),
    ] {
        if named > MOST_NAMED {
            let bounds = "at most 1,000";
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
    }
    Ok(())
}

/// A changed program: cards have balances in its unit.
pub(super) fn updated(
    before: CardProgram,
    name: String,
    terms: CardProgramTerms,
) -> Result<CardProgram, CardError> {
    if before.terms.unit != terms.unit {
        return Err(CardError::ProgramUnitFixed {
            program: before.id,
            unit: before.terms.unit,
        });
    }
    Ok(CardProgram {
        name,
        terms,
        ..before
    })
}

impl CardProgram {
    /// Whether its cards can pay at a merchant. Each list that is not empty must have it.
    pub(crate) fn check_merchant(&self, merchant: &Merchant) -> Result<(), CardError> {
        let CardProgramTerms {
            merchants,
            categories,
            ..
        } = &self.terms;
        if !merchants.is_empty() && !merchants.contains(&merchant.id) {
            return Err(CardError::MerchantNotAllowed {
                program: self.id,
                merchant: merchant.id,
            });
        }
        let is_of_them = |category| categories.contains(&category);
        if !categories.is_empty() && !merchant.category.is_some_and(is_of_them) {
            return Err(CardError::CategoryNotAllowed {
                program: self.id,
                category: merchant.category,
            });
        }
        Ok(())
    }

    /// Whether the money of its cards can be given to another card: to one of its own, or to any
    /// where it can be spent anywhere.
    pub(crate) fn check_card(&self, other: &Card) -> Result<(), CardError> {
        let CardProgramTerms {
            merchants,
            categories,
            ..
        } = &self.terms;
        let is_for_anywhere = merchants.is_empty() && categories.is_empty();
        if is_for_anywhere || other.program == Some(self.id) {
            return Ok(());
        }
        Err(CardPaymentError::PayeeNotKnown.into())
    }

    /// What a family card may do whose holder asks for `asked`: no more than the program says.
    pub(crate) fn limits_of_family(&self, asked: &CardLimits) -> CardLimits {
        let own = &self.terms.limits;
        within_bounds(limits_for(own, asked), own)
    }

    /// What a card may do whose holder asks for `asked`: of each limit no more than the program
    /// says, or than the issuer has given it, whichever is more.
    pub(crate) fn limits_of_holder(&self, card: &Card, asked: CardLimits) -> CardLimits {
        let mut most = higher_of(self.terms.limits.clone(), &card.limits);
        if let Some(issued_with) = &card.issued_with {
            most = higher_of(most, issued_with);
        }
        within_bounds(asked, &most)
    }

    /// The most that may be on a card, where its own limits say `own`.
    pub(crate) fn ceiling(&self, own: Option<i64>) -> Option<i64> {
        lower(own, self.terms.max_balance_minor_units)
    }

    /// How long after a card expired its money becomes the operator's, where the engine's settings
    /// say `usual`; `None` for never.
    pub(crate) fn breakage_after_ms(&self, usual: Option<i64>) -> Option<i64> {
        match self.terms.breakage {
            BreakageRule::BySettings => usual,
            BreakageRule::Never => None,
            BreakageRule::After { wait_ms } => Some(wait_ms),
        }
    }

    /// From which amount on a card asks for its PIN, where its own limits say `own`.
    pub(crate) fn pin_above(&self, own: Option<i64>) -> Option<i64> {
        lower(own, self.terms.pin.above)
    }
}

/// What a card may do that is issued with `asked`, of a program that says `own`: of each limit that
/// is not asked for, what the program says.
pub(super) fn limits_for(own: &CardLimits, asked: &CardLimits) -> CardLimits {
    let has_zone = asked.time_zone != CardLimits::default().time_zone;
    let zone = if has_zone { asked } else { own };
    CardLimits {
        per_tap: asked.per_tap.or(own.per_tap),
        per_day: asked.per_day.or(own.per_day),
        per_week: asked.per_week.or(own.per_week),
        per_month: asked.per_month.or(own.per_month),
        taps_per_hour: asked.taps_per_hour.or(own.taps_per_hour),
        pin_above: asked.pin_above.or(own.pin_above),
        low_balance: asked.low_balance.or(own.low_balance),
        max_balance: asked.max_balance.or(own.max_balance),
        time_zone: zone.time_zone.clone(),
    }
}

/// The lower of each two limits. When the balance is called low, and where the days begin, lets
/// nobody spend more.
pub(in crate::cards) fn within_bounds(asked: CardLimits, most: &CardLimits) -> CardLimits {
    CardLimits {
        per_tap: lower(asked.per_tap, most.per_tap),
        per_day: lower(asked.per_day, most.per_day),
        per_week: lower(asked.per_week, most.per_week),
        per_month: lower(asked.per_month, most.per_month),
        taps_per_hour: lower(asked.taps_per_hour, most.taps_per_hour),
        pin_above: lower(asked.pin_above, most.pin_above),
        max_balance: lower(asked.max_balance, most.max_balance),
        low_balance: asked.low_balance,
        time_zone: asked.time_zone,
    }
}

/// The higher of each two limits.
fn higher_of(one: CardLimits, other: &CardLimits) -> CardLimits {
    CardLimits {
        per_tap: higher(one.per_tap, other.per_tap),
        per_day: higher(one.per_day, other.per_day),
        per_week: higher(one.per_week, other.per_week),
        per_month: higher(one.per_month, other.per_month),
        taps_per_hour: higher(one.taps_per_hour, other.taps_per_hour),
        pin_above: higher(one.pin_above, other.pin_above),
        max_balance: higher(one.max_balance, other.max_balance),
        ..one
    }
}

/// The lower of two limits, where none is no limit.
fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// The higher of two limits, where none is no limit.
fn higher<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    Some(one?.max(other?))
}
