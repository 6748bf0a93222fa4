//! Pure decisions about cards: no I/O, no clock.

use jiff::tz::TimeZone;

use super::CARDS;
use super::error::CardError;
use super::life::{CardKind, LifeError, RetireTo};
use super::model::{Card, CardLimits, CardState, ExistingChip, LimitKind, ZoneBefore};
use crate::Error;
use crate::core::{CommandError, Loaded, check_text, put};
use crate::ledger::{AccountKind, CalendarPeriod, CalendarZone, Refusal, Step, UsageWindow};

/// Where a card's chip counter is kept: one a card and key version, since a re-programmed chip
/// counts from zero.
pub(super) fn counter_name(card: &Card) -> String {
    format!("{}/v{}", card.id, card.version)
}

/// Below every counter of a chip.
pub(super) const NO_COUNTER: i64 = -1;

/// The name by which one use of a chip is claimed for ever.
pub(super) fn tap_name(card: &Card, counter: i64) -> String {
    format!("tap/{}/{counter}", counter_name(card))
}

/// How far its counter stands above what was used: it was moved by one more when the card went back to
/// the issuer that had it before.
pub(super) fn ahead(card: &Card) -> i64 {
    i64::from(card.retired_to == Some(RetireTo::FormerIssuer))
}

/// The step that claims a tap for what it pays.
pub(super) fn claim_tap(card: &Card, counter: i64, by: String) -> Step {
    Step::Claim {
        name: tap_name(card, counter),
        by,
    }
}

/// Where it stands from which counter on every use was claimed by its name.
pub(super) fn claimed_from_name(card: &Card) -> String {
    format!("{}/claimed_from", counter_name(card))
}

/// The step that says so: uses of counters above it are all claimed.
pub(super) fn claimed_from(card: &Card, counter: i64) -> Step {
    Step::Advance {
        counter: claimed_from_name(card),
        to: counter,
    }
}

/// The steps that begin a chip's counting: what another server had used stays used.
pub(super) fn begin_counting(card: &Card, used: Option<u32>) -> Vec<Step> {
    let mut steps = vec![claimed_from(card, used.map_or(NO_COUNTER, i64::from))];
    steps.extend(used.map(|used| Step::Advance {
        counter: counter_name(card),
        to: used.into(),
    }));
    steps
}

/// The index of cards that were taken over, by the import.
pub(super) const BY_IMPORT: &str = "import";

pub(super) fn index_keys(card: &Card) -> Vec<(&'static str, String)> {
    use CardState::{Replaced, Retired, Wiped};

    let mut keys = vec![("any_chip", card.chip.clone())];
    // A chip that was reset can be another card, and so can one that came over a second time.
    let came_and_went = card.retired_to == Some(RetireTo::FormerIssuer);
    if card.state != Wiped && !came_and_went {
        keys.push(("chip", card.chip.clone()));
    }
    if let Some(main) = card.family_of
        && !matches!(card.state, Replaced | Retired | Wiped)
    {
        keys.push(("family", main.to_string()));
    }
    match card.kind {
        CardKind::BoltCard => {}
        CardKind::Virtual => keys.push(("kind", "virtual".to_owned())),
        CardKind::Bearer { .. } => keys.push(("kind", "bearer".to_owned())),
    }
    let import = card
        .import
        .filter(|_| !came_and_went || card.state != Replaced);
    keys.extend(import.map(|import| (BY_IMPORT, import.to_string())));
    keys
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
        ("per_tap", limits.per_tap),
        ("per_day", limits.per_day),
        ("per_week", limits.per_week),
        ("per_month", limits.per_month),
        ("low_balance", limits.low_balance),
        ("max_balance", limits.max_balance),
    ] {
        if limit.is_some_and(|limit| limit <= 0 || limit > crate::money::MAX_MSAT) {
            let bounds = "1 to 2,100,000,000,000,000,000";
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
    }
    if limits
        .taps_per_hour
        .is_some_and(|taps| !(1..=3_600).contains(&taps))
    {
        let (field, bounds) = ("taps_per_hour", "1 to 3,600");
        return Err(CommandError::OutOfBounds { field, bounds }.into());
    }
    let amounts = 0..=crate::money::MAX_MSAT;
    if limits
        .pin_above
        .is_some_and(|above| !amounts.contains(&above))
    {
        let (field, bounds) = ("pin_above", "0 to 2,100,000,000,000,000,000");
        return Err(CommandError::OutOfBounds { field, bounds }.into());
    }
    TimeZone::get(&limits.time_zone).map_err(|_| CardError::UnknownTimeZone)?;
    Ok(())
}

/// A chip counts with 24 bits.
pub(super) const MAX_COUNTER: u32 = 0x00ff_ffff;

/// What is said of a chip that was written before.
pub(super) fn check_existing_chip(chip: Option<&ExistingChip>) -> Result<(), CommandError> {
    let Some(ExistingChip {
        pull_payment_id,
        counter,
        ..
    }) = chip
    else {
        return Ok(());
    };
    if let Some(id) = pull_payment_id {
        check_text("pull_payment_id", id, 100, "100 characters")?;
    }
    if *counter > MAX_COUNTER {
        let (field, bounds) = ("counter", "0 to 16,777,215");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(())
}

/// A limit on what a card does within a stretch of the calendar.
pub(super) struct UsageLimit {
    pub(super) kind: LimitKind,
    pub(super) window: UsageWindow,
    pub(super) limit: i64,
    /// Counts taps and not what they spend.
    pub(super) counts_taps: bool,
}

/// The limits that a card has, with their windows at `at_ms`.
pub(super) fn usage_limits(card: &Card, at_ms: i64) -> Result<Vec<UsageLimit>, CardError> {
    let CardLimits {
        per_day,
        per_week,
        per_month,
        taps_per_hour,
        ..
    } = &card.limits;
    let mut found = Vec::new();
    for (kind, limit) in [
        (LimitKind::PerDay, per_day),
        (LimitKind::PerWeek, per_week),
        (LimitKind::PerMonth, per_month),
        (LimitKind::TapsPerHour, taps_per_hour),
    ] {
        let Some(limit) = *limit else { continue };
        let (subject, period) = counted_as(kind);
        let subject = format!("{}/{subject}", card.line());
        let window = zone(card)
            .window(subject, period, at_ms)
            .map_err(|_| CardError::UnknownTimeZone)?;
        found.push(UsageLimit {
            window,
            kind,
            limit,
            counts_taps: kind == LimitKind::TapsPerHour,
        });
    }
    Ok(found)
}

fn counted_as(kind: LimitKind) -> (&'static str, CalendarPeriod) {
    match kind {
        LimitKind::PerDay => ("spent/day", CalendarPeriod::Day),
        LimitKind::PerWeek => ("spent/week", CalendarPeriod::Week),
        LimitKind::PerMonth => ("spent/month", CalendarPeriod::Month),
        LimitKind::TapsPerHour => ("taps/hour", CalendarPeriod::Hour),
    }
}

/// The steps that count `amount` towards the limits.
pub(super) fn count_usage(limits: Vec<UsageLimit>, amount: i64) -> impl Iterator<Item = Step> {
    limits.into_iter().map(move |limit| Step::Use {
        amount: if limit.counts_taps { 1 } else { amount },
        window: limit.window,
        limit: limit.limit,
    })
}

pub(super) fn zone(card: &Card) -> CalendarZone<'_> {
    let before = card.zone_before.as_ref();
    CalendarZone {
        name: &card.limits.time_zone,
        before: before.map(|before| (before.time_zone.as_str(), before.changed_at_ms)),
    }
}

/// The card with other limits. A time zone is kept until it counts for every limit: of two that
/// have not ended, none could be told apart.
pub(super) fn with_limits(card: &Card, limits: CardLimits, at_ms: i64) -> Result<Card, CardError> {
    let mut after = Card {
        limits,
        ..card.clone()
    };
    if after.limits.time_zone == card.limits.time_zone {
        return Ok(after);
    }
    if let Some(ZoneBefore {
        time_zone,
        changed_at_ms,
    }) = &card.zone_before
    {
        let old = CalendarZone {
            name: time_zone,
            before: None,
        };
        let month = old
            .window(String::new(), CalendarPeriod::Month, *changed_at_ms)
            .map_err(|_| CardError::UnknownTimeZone)?;
        // A week can reach into the next month.
        let until_ms = month.end_ms.saturating_add(WEEK_MS);
        if at_ms < until_ms {
            return Err(CardError::ZoneChangedLately { until_ms });
        }
    }
    after.zone_before = Some(ZoneBefore {
        time_zone: card.limits.time_zone.clone(),
        changed_at_ms: at_ms,
    });
    Ok(after)
}

const WEEK_MS: i64 = 7 * 24 * 3_600_000;

/// The steps that use a tap up for what it pays, `by`: the card is as it was read, its counter
/// moves, the tap is claimed by name for those that were taken offline, and the limits are
/// counted.
pub(super) fn use_tap(
    card: &Loaded<Card>,
    counter: i64,
    by: String,
    amount: i64,
    limits: Vec<UsageLimit>,
) -> Result<Vec<Step>, CardError> {
    if let Some(allowed) = card.value.limits.per_tap
        && amount > allowed
    {
        return Err(CardError::LimitExceeded {
            limit: "per_tap",
            allowed,
            used: 0,
        });
    }
    let mut steps = vec![
        super::guard(card),
        advance(&card.value, counter),
        claim_tap(&card.value, counter, by),
    ];
    // The commit is what must not come too late.
    if let Some(end_ms) = card.value.expires_at_ms {
        steps.push(Step::Use {
            window: UsageWindow {
                subject: format!("{}/valid", card.value.id),
                start_ms: 0,
                end_ms,
            },
            amount: 1,
            limit: i64::MAX,
        });
    }
    steps.extend(count_usage(limits, amount));
    Ok(steps)
}

/// The step that uses a tap up.
pub(super) fn advance(card: &Card, counter: i64) -> Step {
    Step::Advance {
        counter: counter_name(card),
        to: counter,
    }
}

/// The windows in which an amount is counted. A tap stays counted, whatever becomes of the money.
pub(super) fn amount_windows(limits: &[UsageLimit]) -> Vec<UsageWindow> {
    let of_amounts = limits.iter().filter(|limit| !limit.counts_taps);
    of_amounts.map(|limit| limit.window.clone()).collect()
}

/// What a refusal of the ledger means for a card.
pub(super) fn refused(error: Error) -> Error {
    let error = crate::exchange::refused(error);
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
        } if account.kind() == AccountKind::CardBalance => {
            let unit = account.asset();
            CardError::InsufficientFunds {
                available,
                needed,
                unit,
            }
            .into()
        }
        Refusal::UsageExceeded {
            subject,
            limit,
            used,
            ..
        } => limit_exceeded(&subject, limit, used).into(),
        Refusal::AlreadyClaimed { name, .. } if name.starts_with("tap/") => {
            let counter = name
                .rsplit_once('/')
                .and_then(|(_, text)| text.parse().ok());
            let (counter, last) = (counter.unwrap_or(0), counter.unwrap_or(0));
            CardError::TapReplayed { counter, last }.into()
        }
        Refusal::AlreadyClaimed { by, .. } => CardError::AlreadyIssued { card: by }.into(),
        other => other.into(),
    }
}

fn limit_exceeded(subject: &str, limit: i64, used: i64) -> CardError {
    let allowed = limit;
    let limit = match subject.split_once('/').map(|(_, what)| what) {
        Some("taps/hour") => return CardError::TooManyTaps { limit: allowed },
        Some("spent/week") => "per_week",
        Some("spent/month") => "per_month",
        _ => "per_day",
    };
    CardError::LimitExceeded {
        limit,
        allowed,
        used,
    }
}

/// A card whose time is not over.
pub(super) fn require_not_expired(card: &Card, at_ms: i64) -> Result<(), LifeError> {
    match card.expires_at_ms {
        Some(expired_at_ms) if expired_at_ms <= at_ms => Err(LifeError::Expired {
            card: card.id,
            expired_at_ms,
        }),
        _ => Ok(()),
    }
}

/// A card that can be used, and whose money is in these books.
pub(super) fn require_active(card: &Card, at_ms: i64) -> Result<(), CardError> {
    if !card.kind.is_in_books() {
        return Err(LifeError::Bearer { card: card.id }.into());
    }
    if matches!(card.state, CardState::Active | CardState::Frozen) {
        require_not_expired(card, at_ms)?;
    }
    match card.state {
        CardState::Active => Ok(()),
        state => Err(CardError::NotActive {
            card: card.id,
            state,
        }),
    }
}
