//! Virtual cards at a till: a number and a rotating code in the place of a tap.
//!
//! The code is that of RFC 6238 (TOTP, HMAC-SHA-256, eight digits, steps of 30 seconds). The step
//! takes the place of the chip's counter: a code is used up by what is charged with it, and one
//! before it cannot be used any more.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::LifeError;
use super::check_digit::{check_digit, is_right};
use crate::cards::CardError;
use crate::cards::boltcard::TapError;

/// How a number begins. ISO/IEC 7812-1 leaves the first digit 0 to ISO's own committee and to
/// industries that are not yet there: no payment scheme has it.
const PREFIX: [u8; 2] = [0, 0];
const DIGITS: usize = 16;
/// How long a code is shown.
pub(super) const STEP_MS: i64 = 30_000;
/// How many steps a clock may be off, and a person late.
const SKEW: i64 = 1;
/// How many steps ago, at most, a code was good that is called too old and not wrong: ten minutes.
const REMEMBERED: i64 = 20;
const CODE_DIGITS: usize = 8;
const CODES: u32 = 100_000_000;
/// What a virtual card's text begins with, where a chip's is a URL.
const VIRTUAL: &str = "virtual:";
/// What a bearer card's text begins with.
const BEARER: &str = "bearer:";

/// The number of a virtual card: 16 digits, the last of them a check digit. `Debug` shows the last
/// four.
#[derive(Clone, PartialEq, Eq)]
pub struct CardNumber([u8; DIGITS]);

impl CardNumber {
    /// The number with these digits behind the prefix.
    pub(super) fn from_seed(seed: u64) -> Self {
        let mut digits = [0; DIGITS];
        let mut rest = seed;
        for digit in digits.iter_mut().take(DIGITS - 1).skip(PREFIX.len()) {
            *digit = u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        for (digit, fixed) in digits.iter_mut().zip(PREFIX) {
            *digit = fixed;
        }
        let [before @ .., last] = &mut digits;
        *last = check_digit(before, 10);
        Self(digits)
    }
}

impl FromStr for CardNumber {
    type Err = LifeError;

    /// Reads a number, with or without spaces between its digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digits = [0; DIGITS];
        let mut typed = text.bytes().filter(|byte| *byte != b' ');
        for place in &mut digits {
            match typed.next() {
                Some(byte @ b'0'..=b'9') => *place = byte - b'0',
                _ => return Err(LifeError::BadCardNumber),
            }
        }
        if typed.next().is_some() || !digits.starts_with(&PREFIX) || !is_right(&digits, 10) {
            return Err(LifeError::BadCardNumber);
        }
        Ok(Self(digits))
    }
}

impl fmt::Display for CardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for digit in self.0 {
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for CardNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [.., a, b, c, d] = self.0;
        write!(f, "CardNumber(…{a}{b}{c}{d})")
    }
}

/// A virtual card as it is presented at a till. Its text goes where a chip's URL goes, in
/// [`ChargeCard::tap`](crate::cards::ChargeCard::tap) and its like. `Debug` does not show the
/// code.
#[derive(Clone, PartialEq, Eq)]
pub struct VirtualTap {
    pub(in crate::cards) number: CardNumber,
    code: u32,
}

impl VirtualTap {
    /// Of a number and the code that is shown beside it, as they are typed in.
    ///
    /// # Errors
    /// `card.bad_card_number`, `card.tap_malformed` when the code is not eight digits.
    pub fn new(number: &str, code: &str) -> Result<Self, CardError> {
        let malformed = TapError::Malformed {
            reason: "a code is eight digits",
        };
        if code.len() != CODE_DIGITS || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed.into());
        }
        Ok(Self {
            number: number.parse()?,
            code: code.parse().map_err(|_| malformed)?,
        })
    }

    /// Which of those who wait is checked with which.
    pub(in crate::cards) fn last_digit(&self) -> u8 {
        let [.., last] = self.number.0;
        last
    }

    /// Reads the text of a virtual card; `None` when it is no such text.
    pub(in crate::cards) fn parse(text: &str) -> Option<Result<Self, CardError>> {
        let rest = text.strip_prefix(VIRTUAL)?;
        Some(match rest.split_once(':') {
            Some((number, code)) => Self::new(number, code),
            None => Err(TapError::Malformed {
                reason: "a number and a code",
            }
            .into()),
        })
    }

    /// The step whose code it is, among those around `at_ms`.
    pub(in crate::cards) fn step(&self, secret: &[u8; 32], at_ms: i64) -> Option<i64> {
        let now = at_ms.max(0) / STEP_MS;
        self.among(secret, now - SKEW..=now + SKEW)
    }

    /// Until when it was good, of a code that was shown not long before `at_ms`.
    pub(super) fn was_good_until_ms(&self, secret: &[u8; 32], at_ms: i64) -> Option<i64> {
        let now = at_ms.max(0) / STEP_MS;
        let step = self.among(secret, now - REMEMBERED..=now - SKEW - 1)?;
        Some((step + SKEW + 1).saturating_mul(STEP_MS))
    }

    /// True of the code of this step.
    pub(super) fn is_of(&self, secret: &[u8; 32], step: i64) -> bool {
        self.among(secret, step..=step).is_some()
    }

    /// The last of these steps whose code it is. All of them are looked at, in constant time.
    fn among(&self, secret: &[u8; 32], steps: RangeInclusive<i64>) -> Option<i64> {
        let mut found = None;
        for step in steps {
            let is_same: bool = code(secret, step)
                .to_be_bytes()
                .ct_eq(&self.code.to_be_bytes())
                .into();
            if is_same && step >= 0 {
                found = Some(step);
            }
        }
        found
    }
}

impl fmt::Display for VirtualTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VIRTUAL}{}:{}", self.number, spelled(self.code))
    }
}

impl fmt::Debug for VirtualTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualTap")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// The public key of a bearer card, from the text that stands for its tap; `None` when it is no
/// such text.
pub(in crate::cards) fn bearer(text: &str) -> Option<&str> {
    text.strip_prefix(BEARER)
}

/// The eight digits of a code.
pub(super) fn spelled(code: u32) -> String {
    format!("{code:0width$}", width = CODE_DIGITS)
}

/// The code of a step (RFC 4226 §5.3, RFC 6238 §4.2).
pub(super) fn code(secret: &[u8; 32], step: i64) -> u32 {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return CODES;
    };
    mac.update(&step.to_be_bytes());
    let hash = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
    let offset = usize::from(hash[31] & 0x0f);
    let mut number = [0; 4];
    for (to, from) in number.iter_mut().zip(hash.iter().skip(offset)) {
        *to = *from;
    }
    (u32::from_be_bytes(number) & 0x7fff_ffff) % CODES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, the lines of SHA-256.
    #[test]
    fn the_published_codes() {
        let secret = *b"12345678901234567890123456789012";
        for (seconds, expected) in [
            (59, 46_119_246),
            (1_111_111_109, 68_084_774),
            (1_111_111_111, 67_062_674),
            (1_234_567_890, 91_819_424),
            (2_000_000_000, 90_698_825),
            (20_000_000_000, 77_737_706),
        ] {
            assert_eq!(code(&secret, seconds / 30), expected, "{seconds}");
        }
    }

    #[test]
    fn a_code_is_good_for_its_step_and_the_two_beside_it() {
        let secret = [9; 32];
        let number = CardNumber::from_seed(1).to_string();
        let tap = VirtualTap::new(&number, &spelled(code(&secret, 100))).unwrap();
        for (step, found) in [
            (98, None),
            (99, Some(100)),
            (100, Some(100)),
            (101, Some(100)),
            (102, None),
        ] {
            assert_eq!(tap.step(&secret, step * STEP_MS), found, "{step}");
        }
        assert_eq!(tap.step(&[8; 32], 100 * STEP_MS), None);
        assert_eq!(VirtualTap::parse(&tap.to_string()), Some(Ok(tap.clone())));
        assert!(!format!("{tap:?}").contains(&spelled(code(&secret, 100))));
    }

    #[test]
    fn a_number_is_read_with_spaces_and_only_with_its_check_digit() {
        let number = CardNumber::from_seed(9_876_543_210_123);
        let text = number.to_string();
        assert!(text.len() == 16 && text.starts_with("00"));
        let spaced = format!("{} {} {}", &text[..4], &text[4..8], &text[8..]);
        assert_eq!(spaced.parse().as_ref(), Ok(&number));
        let scheme = "4111111111111111";
        for wrong in [
            scheme,
            "",
            &text[..15],
            "0000000000000001",
            "000000000000000é",
        ] {
            assert_eq!(wrong.parse::<CardNumber>(), Err(LifeError::BadCardNumber));
        }
    }
}
