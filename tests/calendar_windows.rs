//! Windows of usage by the calendar: changes of the clock, and of the place.

use flashkit::ledger::{CalendarError, CalendarPeriod, CalendarZone};
use jiff::Timestamp;
use proptest::prelude::*;

const HOUR_MS: i64 = 3_600_000;
const PERIODS: [CalendarPeriod; 4] = [
    CalendarPeriod::Hour,
    CalendarPeriod::Day,
    CalendarPeriod::Week,
    CalendarPeriod::Month,
];
/// Places where cards are used, and places with unusual calendars: no midnight on some days, half
/// and quarter hours, a day that was left out.
const ZONES: [&str; 10] = [
    "America/Jamaica",
    "America/Cayman",
    "America/Port_of_Spain",
    "America/New_York",
    "America/Havana",
    "America/Asuncion",
    "Europe/London",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
];

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_millisecond()
}

fn zone(name: &str) -> CalendarZone<'_> {
    CalendarZone { name, before: None }
}

fn window(zone: CalendarZone<'_>, period: CalendarPeriod, at_ms: i64) -> (i64, i64) {
    let window = zone.window("card".to_owned(), period, at_ms).unwrap();
    (window.start_ms, window.end_ms)
}

#[track_caller]
fn expect(name: &str, period: CalendarPeriod, at: &str, from: &str, to: &str) {
    assert_eq!(window(zone(name), period, ms(at)), (ms(from), ms(to)));
}

#[test]
fn a_day_has_as_many_hours_as_the_clock_there_gives_it() {
    let day = CalendarPeriod::Day;
    // Jamaica is five hours behind all year.
    let (from, to) = ("2026-03-08T05:00:00Z", "2026-03-09T05:00:00Z");
    expect("America/Jamaica", day, "2026-03-08T12:00:00Z", from, to);
    // In New York the clock is set forward on that day, and back in November.
    let (from, to) = ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z");
    expect("America/New_York", day, "2026-03-08T12:00:00Z", from, to);
    let (from, to) = ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z");
    expect("America/New_York", day, "2026-11-01T12:00:00Z", from, to);
    // In Havana it is set forward at midnight: the day begins at one.
    let (from, to) = ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z");
    expect("America/Havana", day, "2026-03-08T12:00:00Z", from, to);
    // The last moment belongs to the day, the next does not.
    let (from, to) = ("2026-03-08T04:00:00Z", "2026-03-09T04:00:00Z");
    expect(
        "America/Port_of_Spain",
        day,
        "2026-03-09T03:59:59.999Z",
        from,
        to,
    );
    let (from, to) = ("2026-03-09T04:00:00Z", "2026-03-10T04:00:00Z");
    expect(
        "America/Port_of_Spain",
        day,
        "2026-03-09T04:00:00Z",
        from,
        to,
    );
}

#[test]
fn weeks_begin_on_monday_and_months_on_the_first() {
    let (from, to) = ("2026-11-16T05:00:00Z", "2026-11-23T05:00:00Z");
    expect(
        "America/Jamaica",
        CalendarPeriod::Week,
        "2026-11-23T04:59:59Z",
        from,
        to,
    );
    let (from, to) = ("2026-11-23T05:00:00Z", "2026-11-30T05:00:00Z");
    expect(
        "America/Jamaica",
        CalendarPeriod::Week,
        "2026-11-23T05:00:00Z",
        from,
        to,
    );
    let (from, to) = ("2028-02-01T05:00:00Z", "2028-03-01T05:00:00Z");
    expect(
        "America/Jamaica",
        CalendarPeriod::Month,
        "2028-02-29T12:00:00Z",
        from,
        to,
    );
    // The month in which the clock is set back is an hour longer.
    let (from, to) = ("2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z");
    expect(
        "America/New_York",
        CalendarPeriod::Month,
        "2026-11-23T12:00:00Z",
        from,
        to,
    );
}

#[test]
fn an_hour_that_comes_twice_is_two_hours() {
    let hour = CalendarPeriod::Hour;
    let first = window(zone("America/New_York"), hour, ms("2026-11-01T05:30:00Z"));
    let second = window(zone("America/New_York"), hour, ms("2026-11-01T06:30:00Z"));
    assert_eq!(first.1, second.0);
    let (from, to) = ("2026-06-01T12:00:00Z", "2026-06-01T13:00:00Z");
    expect("Asia/Kathmandu", hour, "2026-06-01T12:59:59.999Z", from, to);
}

#[test]
fn a_move_gives_no_limit_a_second_time() {
    let changed_at_ms = ms("2026-11-23T17:00:00Z");
    let moved = CalendarZone {
        name: "Pacific/Auckland",
        before: Some(("America/Jamaica", changed_at_ms)),
    };
    let day = CalendarPeriod::Day;
    // In Auckland it is the next day already, but the Jamaican day goes on to its end.
    let jamaican = (ms("2026-11-23T05:00:00Z"), ms("2026-11-24T05:00:00Z"));
    assert_eq!(window(moved, day, changed_at_ms), jamaican);
    assert_eq!(window(moved, day, jamaican.1 - 1), jamaican);
    // Then comes what is left of the day in Auckland, and then its days.
    let rest = (jamaican.1, ms("2026-11-24T11:00:00Z"));
    assert_eq!(window(moved, day, jamaican.1), rest);
    let next = (rest.1, ms("2026-11-25T11:00:00Z"));
    assert_eq!(window(moved, day, rest.1), next);
}

#[test]
fn what_is_no_zone_or_no_time_is_refused() {
    for name in ["", "Mars/Olympus", "UTC+5"] {
        let window = zone(name).window("card".to_owned(), CalendarPeriod::Day, 0);
        assert_eq!(window, Err(CalendarError::UnknownTimeZone), "{name}");
    }
    for at_ms in [i64::MIN, i64::MAX] {
        let window = zone("UTC").window("card".to_owned(), CalendarPeriod::Day, at_ms);
        assert_eq!(window, Err(CalendarError::OutOfRange));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Windows follow one another without a gap or an overlap, each holds its own moment, and none
    /// is longer than its name says, wherever and whenever someone has moved.
    #[test]
    fn windows_tile_the_time(
        at_ms in ms("2000-01-01T00:00:00Z")..ms("2060-01-01T00:00:00Z"),
        name in 0..ZONES.len(),
        before in 0..ZONES.len(),
        moved in any::<bool>(),
        ago_hours in 0_i64..3_000,
        period in 0..PERIODS.len(),
    ) {
        let changed_at_ms = at_ms - ago_hours * HOUR_MS;
        let zone = CalendarZone {
            name: ZONES[name],
            before: moved.then_some((ZONES[before], changed_at_ms)),
        };
        let (period, most_hours) = (PERIODS[period], [1, 25, 7 * 24 + 1, 31 * 24 + 1][period]);
        let (start_ms, end_ms) = window(zone, period, at_ms);
        prop_assert!(start_ms <= at_ms && at_ms < end_ms);
        prop_assert!(end_ms - start_ms <= most_hours * HOUR_MS);
        prop_assert_eq!(window(zone, period, start_ms), (start_ms, end_ms));
        prop_assert_eq!(window(zone, period, end_ms - 1), (start_ms, end_ms));
        prop_assert_eq!(window(zone, period, end_ms).0, end_ms);
        let before_it = window(zone, period, start_ms - 1);
        // Before the move the old zone was the only one, which this zone does not know.
        if !moved || start_ms > changed_at_ms {
            prop_assert_eq!(before_it.1, start_ms);
        }
    }
}
