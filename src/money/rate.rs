//! Exact rates.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Currency, MAX_MSAT, MoneyError};

/// How a result that is not whole is made whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the next one above.
    Up,
    /// To the next one below.
    Down,
    /// To the nearest; exactly half goes to the even one.
    HalfEven,
}

/// The price of one bitcoin (or of one unit of another currency) in a currency's major unit: more
/// than zero, exact. A decimal where it is one, otherwise a ratio of two whole numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rate(Exact);

/// One value has one form: a ratio is in lowest terms, and never one that a decimal can hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exact {
    Decimal(Decimal),
    Ratio { numerator: u128, denominator: u128 },
}

/// The longest text that is looked at.
const MAX_LENGTH: usize = 30;
/// All the digits there may be but for zeros in front: what a decimal holds exactly.
const MAX_DIGITS: usize = 28;
/// One bitcoin.
const MSAT_PER_BTC: u128 = 100_000_000_000;

impl Rate {
    /// `numerator / denominator`, both above zero by construction.
    pub(super) fn parts(self) -> (u128, u128) {
        match self.0 {
            Exact::Decimal(value) => (value.mantissa().unsigned_abs(), power_of_ten(value.scale())),
            Exact::Ratio {
                numerator,
                denominator,
            } => (numerator, denominator),
        }
    }

    pub(super) fn from_decimal(value: Decimal) -> Self {
        Self(Exact::Decimal(value))
    }

    /// Of two numbers in lowest terms that no decimal can hold.
    pub(super) fn from_lowest_terms(numerator: u128, denominator: u128) -> Self {
        Self(Exact::Ratio {
            numerator,
            denominator,
        })
    }

    /// What an amount of the currency's minor unit is in msat.
    ///
    /// # Errors
    /// `money.not_positive` below zero, `money.overflow` above all the bitcoin there is.
    pub fn fiat_to_msat(
        self,
        currency: Currency,
        minor_units: i64,
        rounding: Rounding,
    ) -> Result<i64, MoneyError> {
        let minor = positive(minor_units)?;
        let (rate, per) = self.parts();
        // minor / 10^digits / rate bitcoin: both sides of the fraction are whole numbers.
        let numerator = Wide::product(&[minor, MSAT_PER_BTC, per]);
        let denominator = Wide::product(&[rate, power_of_ten(currency.minor_digits())]);
        in_msat(numerator.divide(&denominator, rounding)?)
    }

    /// What an amount of msat is in the currency's minor unit.
    ///
    /// # Errors
    /// `money.not_positive` below zero, `money.overflow`.
    pub fn msat_to_fiat(
        self,
        currency: Currency,
        amount_msat: i64,
        rounding: Rounding,
    ) -> Result<i64, MoneyError> {
        let msat = positive(amount_msat)?;
        let (rate, per) = self.parts();
        let numerator = Wide::product(&[msat, rate, power_of_ten(currency.minor_digits())]);
        let denominator = Wide::product(&[MSAT_PER_BTC, per]);
        let result = numerator.divide(&denominator, rounding)?;
        i64::try_from(result).map_err(|_| MoneyError::Overflow)
    }
}

fn positive(minor: i64) -> Result<u128, MoneyError> {
    u128::try_from(minor).map_err(|_| MoneyError::NotPositive { minor })
}

pub(super) fn power_of_ten(exponent: u32) -> u128 {
    // Scales are at most 28 and minor digits at most 4.
    10_u128.saturating_pow(exponent)
}

fn in_msat(result: u128) -> Result<i64, MoneyError> {
    let msat = i64::try_from(result).map_err(|_| MoneyError::Overflow)?;
    if msat > MAX_MSAT {
        Err(MoneyError::Overflow)
    } else {
        Ok(msat)
    }
}

impl FromStr for Rate {
    type Err = MoneyError;

    /// Plain decimal text: digits with at most one point between them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |reason| MoneyError::BadNumber { reason };
        if text.len() > MAX_LENGTH {
            return Err(bad("a rate has at most 28 digits"));
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(bad("a rate is digits with at most one point between them"));
        }
        let significant = text.trim_start_matches(['0', '.']);
        if significant.bytes().filter(u8::is_ascii_digit).count() > MAX_DIGITS {
            return Err(bad("a rate has at most 28 digits"));
        }
        let value = Decimal::from_str_exact(text).map_err(|_| bad("too many digits"))?;
        if value.is_zero() {
            Err(bad("a rate is above zero"))
        } else {
            Ok(Self::from_decimal(value))
        }
    }
}

impl fmt::Display for Rate {
    /// Plain decimal text, or `numerator/denominator` where no decimal of 28 digits is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Exact::Decimal(value) => value.fmt(f),
            Exact::Ratio {
                numerator,
                denominator,
            } => write!(f, "{numerator}/{denominator}"),
        }
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_stored(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A whole number of up to 320 bits, as base-2^32 digits, least first: the widest product is two
/// parts of rates and a number of basis points, 128 + 128 + 32 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wide([u32; 10]);

impl Wide {
    pub(super) fn product(factors: &[u128]) -> Self {
        let mut result = Self([0; 10]);
        result.0[0] = 1;
        for factor in factors {
            result = result.times(*factor);
        }
        result
    }

    fn times(&self, factor: u128) -> Self {
        let mut result = [0_u32; 10];
        for shift in 0..4 {
            let digit = u64::from(low_32(factor >> (32 * shift)));
            let mut carry = 0_u64;
            for place in 0..10 - shift {
                let sum =
                    u64::from(result[place + shift]) + u64::from(self.0[place]) * digit + carry;
                result[place + shift] = low_32(u128::from(sum));
                carry = sum >> 32;
            }
        }
        Self(result)
    }

    fn bit(&self, index: usize) -> bool {
        self.0[index / 32] >> (index % 32) & 1 == 1
    }

    /// Doubles, and adds a bit.
    fn push_bit(&mut self, bit: bool) {
        let mut carry = u32::from(bit);
        for digit in &mut self.0 {
            let next = *digit >> 31;
            *digit = *digit << 1 | carry;
            carry = next;
        }
    }

    pub(super) fn at_least(&self, other: &Self) -> bool {
        self.0.iter().rev().ge(other.0.iter().rev())
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (digit, take) in self.0.iter_mut().zip(other.0) {
            let (once, first) = digit.overflowing_sub(take);
            let (twice, second) = once.overflowing_sub(u32::from(borrow));
            *digit = twice;
            borrow = first || second;
        }
    }

    /// Long division, bit by bit: it is done once an invoice, and short enough to be checked by
    /// eye.
    fn divide(&self, divisor: &Self, rounding: Rounding) -> Result<u128, MoneyError> {
        let (mut quotient, mut rest) = (Self([0; 10]), Self([0; 10]));
        for index in (0..320).rev() {
            rest.push_bit(self.bit(index));
            let fits = rest.at_least(divisor);
            if fits {
                rest.subtract(divisor);
            }
            quotient.push_bit(fits);
        }
        if quotient.0[4..].iter().any(|digit| *digit != 0) {
            return Err(MoneyError::Overflow);
        }
        let whole = quotient.0[..4]
            .iter()
            .rev()
            .fold(0_u128, |number, digit| number << 32 | u128::from(*digit));
        let exact = rest == Self([0; 10]);
        let up = match rounding {
            Rounding::Up => !exact,
            Rounding::Down => false,
            Rounding::HalfEven => {
                rest.push_bit(false);
                if rest == *divisor {
                    whole % 2 == 1
                } else {
                    rest.at_least(divisor)
                }
            }
        };
        whole
            .checked_add(u128::from(up))
            .ok_or(MoneyError::Overflow)
    }
}

/// The lowest 32 bits.
fn low_32(number: u128) -> u32 {
    u32::try_from(number & u128::from(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn currency(code: &str) -> Currency {
        Currency::from_code(code).unwrap()
    }

    #[test]
    fn rates_are_plain_decimals_above_zero() {
        for text in [
            "1",
            "14500000.00",
            "0.00000001",
            "9999999999999999999999999999",
        ] {
            assert_eq!(rate(text).to_string(), text);
        }
        for text in [
            "",
            "0",
            "0.00",
            "-1",
            "+1",
            "1e5",
            "1,5",
            ".5",
            "5.",
            "1.2.3",
            "NaN",
            "inf",
            "１",
            "10000000000000000000000000000",
            "0.00000000000000000000000000001",
            " 1",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn conversions_known_by_hand() {
        let jmd = currency("JMD");
        // J$1,500.00 at J$15,000,000 a bitcoin is 0.0001 BTC.
        let msat = rate("15000000").fiat_to_msat(jmd, 150_000, Rounding::Up);
        assert_eq!(msat, Ok(10_000_000));
        // One yen (no minor digits) at 3 yen a bitcoin is a third of one.
        let third = |rounding| rate("3").fiat_to_msat(currency("JPY"), 1, rounding);
        assert_eq!(third(Rounding::Down), Ok(33_333_333_333));
        assert_eq!(third(Rounding::Up), Ok(33_333_333_334));
        assert_eq!(third(Rounding::HalfEven), Ok(33_333_333_333));
        // Halves go to the even one: 0.5 and 1.5 of a minor unit.
        let half = |msat| rate("1").msat_to_fiat(jmd, msat, Rounding::HalfEven);
        assert_eq!((half(500_000_000), half(1_500_000_000)), (Ok(0), Ok(2)));
        assert_eq!(
            rate("1")
                .fiat_to_msat(jmd, -1, Rounding::Up)
                .unwrap_err()
                .code(),
            "money.not_positive"
        );
        let huge = rate("0.000000000000000000000000001").fiat_to_msat(jmd, i64::MAX, Rounding::Up);
        assert_eq!(huge, Err(MoneyError::Overflow));
        let absurd = rate("9999999999999999999999999999").fiat_to_msat(jmd, i64::MAX, Rounding::Up);
        assert_eq!(absurd, Ok(1));
    }

    proptest! {
        /// Up and down enclose the exact value, checked by multiplying back.
        #[test]
        fn up_and_down_enclose_the_exact_value(
            minor in 1_i64..=10_000_000_000_000, whole in 1_u64..100_000_000, cents in 0_u32..100,
        ) {
            let rate = rate(&format!("{whole}.{cents:02}"));
            let rate_cents = u128::from(whole) * 100 + u128::from(cents);
            let usd = currency("USD");
            let (Ok(down), Ok(up), Ok(near)) = (
                rate.fiat_to_msat(usd, minor, Rounding::Down),
                rate.fiat_to_msat(usd, minor, Rounding::Up),
                rate.fiat_to_msat(usd, minor, Rounding::HalfEven),
            ) else { return Ok(()) };
            // minor / rate_cents = msat / MSAT_PER_BTC
            let exact = u128::try_from(minor).unwrap() * MSAT_PER_BTC;
            prop_assert!(u128::try_from(down).unwrap() * rate_cents <= exact);
            prop_assert!(u128::try_from(up).unwrap() * rate_cents >= exact);
            prop_assert!(up - down <= 1 && (down == near || up == near));
            let (below, above) = (
                exact - u128::try_from(down).unwrap() * rate_cents,
                u128::try_from(up).unwrap() * rate_cents - exact,
            );
            let lawful = match below.cmp(&above) {
                std::cmp::Ordering::Less => near == down,
                std::cmp::Ordering::Greater => near == up,
                std::cmp::Ordering::Equal => near % 2 == 0 || up == down,
            };
            prop_assert!(lawful);
        }
    }
}
