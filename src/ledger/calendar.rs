//! Windows of usage by the calendar of a place.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use super::batch::UsageWindow;

/// A stretch of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarPeriod {
    /// From one full hour of UTC to the next, in every zone: hours are time that passes, and one
    /// that a clock shows twice is two.
    Hour,
    /// From midnight, or the first moment of the day where there is none, to the next.
    Day,
    /// From the first moment of a Monday to that of the next (ISO 8601).
    Week,
    /// From the first moment of a month to that of the next.
    Month,
}

/// No window can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The name is not one of the IANA time zones.
    #[error("there is no such time zone")]
    UnknownTimeZone,
    /// The time is out of the calendar's range.
    #[error("the time is out of the calendar's range")]
    OutOfRange,
}

/// Where someone's day begins: a time zone, and the one before it.
///
/// A change of the zone counts from the end of the window in which it was made: until then the old
/// zone's window goes on, so that moving gives nobody a limit a second time, and windows of one
/// subject never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CalendarZone<'a> {
    /// The IANA name, `America/Jamaica`.
    pub name: &'a str,
    /// The zone before, and when it was changed, milliseconds since the epoch.
    pub before: Option<(&'a str, i64)>,
}

impl CalendarZone<'_> {
    /// The window of a subject in which a moment falls, as a [start, end) whose length follows the
    /// changes of the clock there.
    ///
    /// # Errors
    /// When a name is no time zone.
    pub fn window(
        &self,
        subject: String,
        period: CalendarPeriod,
        at_ms: i64,
    ) -> Result<UsageWindow, CalendarError> {
        let (mut start_ms, end_ms) = stretch(self.name, period, at_ms)?;
        if let Some((before, changed_at_ms)) = self.before {
            let (old_start_ms, old_end_ms) = stretch(before, period, changed_at_ms)?;
            if at_ms < old_end_ms {
                return Ok(UsageWindow {
                    subject,
                    start_ms: old_start_ms,
                    end_ms: old_end_ms,
                });
            }
            start_ms = start_ms.max(old_end_ms);
        }
        Ok(UsageWindow {
            subject,
            start_ms,
            end_ms,
        })
    }
}

const HOUR_MS: i64 = 3_600_000;

/// The first moment of the period, and the first after it.
fn stretch(zone: &str, period: CalendarPeriod, at_ms: i64) -> Result<(i64, i64), CalendarError> {
    let zone = TimeZone::get(zone).map_err(|_| CalendarError::UnknownTimeZone)?;
    bounds(period, at_ms, zone).map_err(|_| CalendarError::OutOfRange)
}

fn bounds(period: CalendarPeriod, at_ms: i64, zone: TimeZone) -> Result<(i64, i64), jiff::Error> {
    let now = Timestamp::from_millisecond(at_ms)?.to_zoned(zone);
    let ms = |zoned: &Zoned| zoned.timestamp().as_millisecond();
    let today = now.date();
    let (first, next) = match period {
        CalendarPeriod::Hour => {
            let start_ms = at_ms - at_ms.rem_euclid(HOUR_MS);
            return Ok((start_ms, start_ms + HOUR_MS));
        }
        CalendarPeriod::Day => (today, today.checked_add(1.day())?),
        CalendarPeriod::Week => {
            let since_monday = today.weekday().since(Weekday::Monday);
            let monday = today.checked_sub(i64::from(since_monday).days())?;
            (monday, monday.checked_add(1.week())?)
        }
        CalendarPeriod::Month => {
            let first = today.first_of_month();
            (first, first.checked_add(1.month())?)
        }
    };
    let zone = now.time_zone();
    // Where midnight does not exist, because the clock is set forward then, the day begins with
    // the first moment after it.
    let (first, next) = (
        first.to_zoned(zone.clone())?.start_of_day()?,
        next.to_zoned(zone.clone())?.start_of_day()?,
    );
    Ok((ms(&first), ms(&next)))
}
