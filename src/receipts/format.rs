//! Amounts, rates and times as a shop's language writes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::language::{Label, Language};
use crate::money::{Asset, Currency, Rate, currency_sign};

/// Between groups of digits, and between a number and its unit: no line is broken there, and the
/// code pages of receipt printers have it (the narrow one they do not).
const NO_BREAK_SPACE: char = '\u{a0}';

/// How a language writes numbers: what stands between groups of three digits, and before the
/// fraction.
fn marks(language: Language) -> (char, char) {
    match language {
        Language::En | Language::Es => (',', '.'),
        Language::It => ('.', ','),
        Language::Fr | Language::Ht => (NO_BREAK_SPACE, ','),
    }
}

/// An amount in the asset's unit (msat, minor units, points) as people read it: `J$1,250.00`,
/// `1 250,00 J$`, `12,345 sat`. All digits of a currency's minor unit are there; the msat behind a
/// sat only where there are any.
pub fn format_amount(language: Language, asset: Asset, minor: i64) -> String {
    let (sign, digits) = match asset {
        Asset::Points(_) => return format_points(language, minor),
        Asset::Btc => ("sat", 3),
        Asset::Fiat(currency) => (sign(currency), currency.minor_digits()),
    };
    let unit = 10_u64.pow(digits);
    let (whole, rest) = (minor.unsigned_abs() / unit, minor.unsigned_abs() % unit);
    let (_, point) = marks(language);
    let minus = if minor < 0 { "-" } else { "" };
    let mut number = grouped(language, &whole.to_string());
    let hides_rest = digits == 0 || (asset == Asset::Btc && rest == 0);
    if !hides_rest {
        number.push(point);
        number.push_str(&format!("{rest:0width$}", width = digits as usize));
    }
    match asset {
        Asset::Fiat(_) => minus.to_owned() + &with_sign(language, sign, &number),
        _ => format!("{minus}{number}{NO_BREAK_SPACE}{sign}"),
    }
}

/// Points of whichever program: `1,234 points`.
pub(super) fn format_points(language: Language, points: i64) -> String {
    let minus = if points < 0 { "-" } else { "" };
    let number = grouped(language, &points.unsigned_abs().to_string());
    let unit = Label::Points.text(language);
    format!("{minus}{number}{NO_BREAK_SPACE}{unit}")
}

/// The price of one bitcoin: `1 BTC = J$15,400,000.00`. A fraction finer than the currency's minor
/// unit is kept to the last digit.
pub fn format_rate(language: Language, currency: Currency, rate: Rate) -> String {
    let text = rate.to_string();
    let one = format!("1{NO_BREAK_SPACE}BTC = ");
    // A ratio that no decimal equals is shown as it is: rounded it would be another rate.
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return format!("{one}{text}{NO_BREAK_SPACE}{}", currency.code());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let width = currency.minor_digits() as usize;
    let fraction = format!("{:0<width$}", fraction.trim_end_matches('0'));
    let mut number = grouped(language, whole);
    if !fraction.is_empty() {
        number.push(marks(language).1);
        number.push_str(&fraction);
    }
    one + &with_sign(language, sign(currency), &number)
}

fn sign(currency: Currency) -> &'static str {
    currency_sign(currency).unwrap_or(currency.code())
}

/// The sign of a currency before or behind its number.
fn with_sign(language: Language, sign: &str, number: &str) -> String {
    match language {
        // A code stands off; a sign does not.
        Language::En | Language::Es if sign.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            format!("{sign}{NO_BREAK_SPACE}{number}")
        }
        Language::En | Language::Es => format!("{sign}{number}"),
        Language::Fr | Language::It | Language::Ht => format!("{number}{NO_BREAK_SPACE}{sign}"),
    }
}

fn grouped(language: Language, digits: &str) -> String {
    let (mark, _) = marks(language);
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(mark);
        }
        text.push(digit);
    }
    text
}

/// A moment in a time zone, to the minute, with what the zone was then: `26 Nov 2026, 10:05
/// UTC-05:00`. The month is spelled, so that nobody takes it for the day. A moment that no
/// calendar has is written in milliseconds.
pub fn format_time(language: Language, zone: &TimeZone, at_ms: i64) -> String {
    let Ok(moment) = Timestamp::from_millisecond(at_ms) else {
        return format!("{at_ms}{NO_BREAK_SPACE}ms");
    };
    let local = moment.to_zoned(zone.clone());
    let seconds = local.offset().seconds();
    let (hours, minutes) = (seconds.abs() / 3_600, seconds.abs() / 60 % 60);
    let ahead = if seconds < 0 { '-' } else { '+' };
    format!(
        "{} {} {}, {:02}:{:02} UTC{ahead}{hours:02}:{minutes:02}",
        local.day(),
        language.month(local.month()),
        local.year(),
        local.hour(),
        local.minute(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ProgramId;

    fn fiat(code: &str) -> Asset {
        Asset::Fiat(Currency::from_code(code).unwrap())
    }

    /// As people see it: a space is a space.
    fn seen(text: String) -> String {
        text.replace(NO_BREAK_SPACE, " ")
    }

    #[test]
    fn every_language_writes_amounts_its_own_way() {
        use Language::{En, Es, Fr, Ht, It};
        let points = Asset::Points(ProgramId::from_parts(1, [0; 10]));
        for (language, asset, minor, text) in [
            (En, fiat("JMD"), 125_000, "J$1,250.00"),
            (Es, fiat("JMD"), 125_000, "J$1,250.00"),
            (Fr, fiat("JMD"), 125_000, "1 250,00 J$"),
            (It, fiat("JMD"), 125_000, "1.250,00 J$"),
            (Ht, fiat("JMD"), 125_000, "1 250,00 J$"),
            (En, fiat("KYD"), 5, "CI$0.05"),
            (Fr, fiat("KYD"), 99_999_905, "999 999,05 CI$"),
            (Es, fiat("TTD"), -123_456_789, "-TT$1,234,567.89"),
            (It, fiat("TTD"), -123_456_789, "-1.234.567,89 TT$"),
            (En, fiat("USD"), 100, "US$1.00"),
            (Ht, fiat("USD"), 100_000, "1 000,00 US$"),
            (En, fiat("EUR"), 123_456, "€1,234.56"),
            (It, fiat("EUR"), 123_456, "1.234,56 €"),
            (Fr, fiat("EUR"), 123_456, "1 234,56 €"),
            (Ht, fiat("HTG"), 123_456, "1 234,56 HTG"),
            (En, fiat("HTG"), 123_456, "HTG 1,234.56"),
            (En, fiat("JPY"), 1_000, "JPY 1,000"),
            (It, fiat("KWD"), 1_234, "1,234 KWD"),
            (En, Asset::Btc, 12_345_000, "12,345 sat"),
            (It, Asset::Btc, 12_345_678, "12.345,678 sat"),
            (Fr, Asset::Btc, 1, "0,001 sat"),
            (Ht, Asset::Btc, i64::MIN, "-9 223 372 036 854 775,808 sat"),
            (Es, points, 1_234, "1,234 puntos"),
            (Ht, points, 40, "40 pwen"),
        ] {
            assert_eq!(seen(format_amount(language, asset, minor)), text);
        }
    }

    #[test]
    fn a_rate_loses_no_digit() {
        let jmd = Currency::from_code("JMD").unwrap();
        for (language, rate, text) in [
            (Language::En, "15400000", "1 BTC = J$15,400,000.00"),
            (Language::It, "15400000.5", "1 BTC = 15.400.000,50 J$"),
            (
                Language::Fr,
                "15400000.12345",
                "1 BTC = 15 400 000,12345 J$",
            ),
        ] {
            assert_eq!(
                seen(format_rate(language, jmd, rate.parse().unwrap())),
                text
            );
        }
        let third = Rate::from_ratio(100, 3).unwrap();
        assert_eq!(
            seen(format_rate(Language::En, jmd, third)),
            "1 BTC = 100/3 JMD"
        );
    }

    #[test]
    fn a_moment_is_written_in_its_zone() {
        let zone = |name| TimeZone::get(name).unwrap();
        let at_ms = 1_795_705_521_000;
        for (language, name, text) in [
            (
                Language::En,
                "America/Jamaica",
                "26 Nov 2026, 10:05 UTC-05:00",
            ),
            (
                Language::Es,
                "America/Santo_Domingo",
                "26 nov 2026, 11:05 UTC-04:00",
            ),
            (
                Language::Fr,
                "Europe/Paris",
                "26 nov. 2026, 16:05 UTC+01:00",
            ),
            (Language::It, "Asia/Kolkata", "26 nov 2026, 20:35 UTC+05:30"),
            (
                Language::Ht,
                "America/Port-au-Prince",
                "26 nov 2026, 10:05 UTC-05:00",
            ),
        ] {
            assert_eq!(format_time(language, &zone(name), at_ms), text);
        }
        // Haiti has summer time, Jamaica has none.
        let july_ms = 1_783_000_000_000;
        let haiti = format_time(Language::Ht, &zone("America/Port-au-Prince"), july_ms);
        assert_eq!(haiti, "2 jiy 2026, 09:46 UTC-04:00");
        assert!(format_time(Language::En, &TimeZone::UTC, i64::MAX).ends_with("ms"));
    }
}
