//! Arithmetic on rates that loses nothing: what does not fit is refused, never rounded.

use std::cmp::Ordering;

use rust_decimal::Decimal;

use super::rate::{Wide, power_of_ten};
use super::{MoneyError, Rate};

/// What a decimal holds exactly.
const MAX_MANTISSA: u128 = (1 << 96) - 1;
const MAX_SCALE: u32 = 28;
/// One whole, in basis points.
const WHOLE_BPS: u128 = 10_000;

impl Rate {
    /// The exact rate `numerator / denominator`.
    ///
    /// # Errors
    /// `money.bad_number` where one of the two is zero.
    pub fn from_ratio(numerator: u128, denominator: u128) -> Result<Self, MoneyError> {
        if numerator == 0 || denominator == 0 {
            let reason = "a rate is above zero";
            return Err(MoneyError::BadNumber { reason });
        }
        let shared = common_divisor(numerator, denominator);
        let (numerator, denominator) = (numerator / shared, denominator / shared);
        Ok(as_decimal(numerator, denominator)
            .unwrap_or_else(|| Self::from_lowest_terms(numerator, denominator)))
    }

    /// Reads what `Display` writes: decimal text, or a ratio of whole numbers.
    pub(super) fn from_stored(text: &str) -> Result<Self, MoneyError> {
        let Some((numerator, denominator)) = text.split_once('/') else {
            return text.parse();
        };
        let whole = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let reason = "a ratio is two whole numbers of 128 bits";
            let bad = MoneyError::BadNumber { reason };
            if digits {
                part.parse::<u128>().map_err(|_| bad)
            } else {
                Err(bad)
            }
        };
        Self::from_ratio(whole(numerator)?, whole(denominator)?)
    }

    /// This rate after another: dollars a bitcoin times Jamaican dollars a dollar.
    ///
    /// # Errors
    /// `money.overflow` where the exact product does not fit two numbers of 128 bits.
    pub fn times(self, other: Self) -> Result<Self, MoneyError> {
        let ((a, b), (c, d)) = (self.lowest_terms(), other.lowest_terms());
        let (left, right) = (common_divisor(a, d), common_divisor(c, b));
        let product = |x: u128, y: u128| x.checked_mul(y).ok_or(MoneyError::Overflow);
        Self::from_ratio(product(a / left, c / right)?, product(b / right, d / left)?)
    }

    /// The same rate seen from the other side: dollars a Jamaican dollar.
    ///
    /// # Errors
    /// None in truth: both parts of a rate are above zero.
    pub fn inverse(self) -> Result<Self, MoneyError> {
        let (numerator, denominator) = self.parts();
        Self::from_ratio(denominator, numerator)
    }

    /// Exactly between two rates.
    ///
    /// # Errors
    /// `money.overflow` where it does not fit two numbers of 128 bits.
    pub fn midpoint(self, other: Self) -> Result<Self, MoneyError> {
        let ((a, b), (c, d)) = (self.lowest_terms(), other.lowest_terms());
        let shared = common_divisor(b, d);
        let sum = || {
            let left = a.checked_mul(d / shared)?;
            let right = c.checked_mul(b / shared)?;
            let below = (b / shared).checked_mul(d)?.checked_mul(2)?;
            Some((left.checked_add(right)?, below))
        };
        let (numerator, denominator) = sum().ok_or(MoneyError::Overflow)?;
        Self::from_ratio(numerator, denominator)
    }

    /// True when this rate lies further from `center` than `bps` basis points of `center`.
    pub fn is_further_than(self, center: Self, bps: u32) -> bool {
        let ((a, b), (c, d)) = (self.parts(), center.parts());
        let mut distance = Wide::product(&[a, d, WHOLE_BPS]);
        let whole = Wide::product(&[c, b, WHOLE_BPS]);
        if distance.at_least(&whole) {
            distance.subtract(&whole);
        } else {
            let mut other = whole;
            other.subtract(&distance);
            distance = other;
        }
        !Wide::product(&[c, b, u128::from(bps)]).at_least(&distance)
    }

    fn lowest_terms(self) -> (u128, u128) {
        let (numerator, denominator) = self.parts();
        let shared = common_divisor(numerator, denominator);
        (numerator / shared, denominator / shared)
    }
}

impl Ord for Rate {
    /// By value, exactly.
    fn cmp(&self, other: &Self) -> Ordering {
        if self == other {
            return Ordering::Equal;
        }
        let ((a, b), (c, d)) = (self.parts(), other.parts());
        if Wide::product(&[a, d]).at_least(&Wide::product(&[c, b])) {
            Ordering::Greater
        } else {
            Ordering::Less
        }
    }
}

impl PartialOrd for Rate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The decimal that equals a ratio in lowest terms, where there is one: its denominator has no
/// other factors than 2 and 5.
fn as_decimal(numerator: u128, denominator: u128) -> Option<Rate> {
    let scale = (0..=MAX_SCALE).find(|scale| power_of_ten(*scale).is_multiple_of(denominator))?;
    let mantissa = numerator.checked_mul(power_of_ten(scale) / denominator)?;
    if mantissa > MAX_MANTISSA {
        return None;
    }
    let mantissa = i128::try_from(mantissa).ok()?;
    let value = Decimal::try_from_i128_with_scale(mantissa, scale).ok()?;
    // Only what the text of a rate can say: one form for one value, also after a round trip.
    value.to_string().parse().ok()
}

fn common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
