//! Amounts as people write them.

use super::{Asset, Currency, MoneyError};

/// The sign by which people know a currency, where it says which one: `J$`, and never `$`.
pub fn currency_sign(currency: Currency) -> Option<&'static str> {
    Some(match currency.code() {
        "JMD" => "J$",
        "USD" => "US$",
        "KYD" => "CI$",
        "TTD" => "TT$",
        "EUR" => "€",
        "GBP" => "£",
        _ => return None,
    })
}

/// How an asset's amounts are written: a sign before, a unit after, and the digits behind the
/// point.
fn style(asset: Asset) -> (String, &'static str, u32) {
    match asset {
        // People count sats; the msat behind them are shown only where there are any.
        Asset::Btc => (String::new(), " sat", 3),
        Asset::Points(_) => (String::new(), " points", 0),
        Asset::Fiat(currency) => {
            let sign = match currency_sign(currency) {
                Some(sign) => sign.to_owned(),
                None => format!("{} ", currency.code()),
            };
            (sign, "", currency.minor_digits())
        }
    }
}

/// `J$1,250.00`, `12,345 sat`, `12,345.678 sat`, `40 points`.
pub fn format_minor(asset: Asset, minor: i64) -> String {
    let (sign, unit, digits) = style(asset);
    let unit_size = 10_u64.pow(digits);
    let (whole, rest) = (
        minor.unsigned_abs() / unit_size,
        minor.unsigned_abs() % unit_size,
    );
    let minus = if minor < 0 { "-" } else { "" };
    let fraction = match asset {
        Asset::Btc if rest == 0 => String::new(),
        _ if digits == 0 => String::new(),
        _ => format!(".{rest:0width$}", width = digits as usize),
    };
    format!("{minus}{sign}{}{fraction}{unit}", grouped(whole))
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Reads an amount in the major unit (`1250.5` dollars, sats with up to 3 digits behind the
/// point), exactly: plain digits with at most one point between them.
///
/// # Errors
/// `money.bad_number` for anything else, and for more digits than the asset has.
pub fn parse_minor(asset: Asset, text: &str) -> Result<i64, MoneyError> {
    let bad = |reason| MoneyError::BadNumber { reason };
    let (_, _, digits) = style(asset);
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return Err(bad("there is nothing behind the point")),
        Some((whole, fraction)) => (whole, fraction),
        None => (text, ""),
    };
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 19 || !plain(whole) || !plain(fraction) {
        return Err(bad(
            "an amount is digits with at most one point between them",
        ));
    }
    let width = digits as usize;
    if fraction.len() > width {
        return Err(bad("more digits behind the point than the asset has"));
    }
    let padded = format!("{whole}{fraction:0<width$}");
    padded.parse().map_err(|_| bad("the amount is too large"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Currency;

    fn fiat(code: &str) -> Asset {
        Asset::Fiat(Currency::from_code(code).unwrap())
    }

    #[test]
    fn amounts_as_people_write_them() {
        for (asset, minor, text) in [
            (fiat("JMD"), 125_000, "J$1,250.00"),
            (fiat("KYD"), 5, "CI$0.05"),
            (fiat("TTD"), -123_456_789, "-TT$1,234,567.89"),
            (fiat("JPY"), 1_000, "JPY 1,000"),
            (fiat("KWD"), 1_234, "KWD 1.234"),
            (Asset::Btc, 12_345_000, "12,345 sat"),
            (Asset::Btc, 12_345_678, "12,345.678 sat"),
            (Asset::Btc, i64::MIN, "-9,223,372,036,854,775.808 sat"),
        ] {
            assert_eq!(format_minor(asset, minor), text);
        }
    }

    #[test]
    fn only_plain_numbers_that_fit_are_read() {
        assert_eq!(parse_minor(fiat("JMD"), "1250.5"), Ok(125_050));
        assert_eq!(parse_minor(fiat("JPY"), "1250"), Ok(1_250));
        assert_eq!(parse_minor(Asset::Btc, "21"), Ok(21_000));
        for text in [
            "",
            ".5",
            "5.",
            "1,250",
            "-1",
            "+1",
            "1e3",
            "1.005",
            "99999999999999999999",
            "٣",
        ] {
            assert!(parse_minor(fiat("JMD"), text).is_err(), "{text}");
        }
        assert!(parse_minor(fiat("JPY"), "1.5").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(minor in 0..=i64::MAX) {
            let text = format_minor(fiat("JMD"), minor).replace(',', "");
            prop_assert_eq!(parse_minor(fiat("JMD"), text.trim_start_matches("J$")), Ok(minor));
        }
    }
}
