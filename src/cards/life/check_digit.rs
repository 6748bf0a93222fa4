//! Check digits: ISO/IEC 7812-1 (Luhn) for card numbers, and the same rule in another base for
//! codes of letters and digits. Every wrong digit and almost every swap of two neighbours shows.

/// The check digit behind `digits`, each below `base`, which is even.
pub(super) fn check_digit(digits: &[u8], base: u8) -> u8 {
    let base = u32::from(base);
    let mut sum = 0;
    for (place, digit) in digits.iter().rev().enumerate() {
        let digit = u32::from(*digit);
        sum += match place % 2 {
            0 => {
                let doubled = digit * 2;
                doubled / base + doubled % base
            }
            _ => digit,
        };
    }
    u8::try_from((base - sum % base) % base).unwrap_or(0)
}

/// True when the last digit is the check digit of those before it.
pub(super) fn is_right(digits: &[u8], base: u8) -> bool {
    match digits.split_last() {
        Some((last, before)) => check_digit(before, base) == *last,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example() {
        // ISO/IEC 7812-1, annex B.
        assert_eq!(check_digit(&[4, 9, 9, 2, 7, 3, 9, 8, 7, 1], 10), 6);
        assert_eq!(check_digit(&[7, 9, 9, 2, 7, 3, 9, 8, 7, 1], 10), 3);
    }

    #[test]
    fn every_wrong_digit_shows() {
        for base in [10_u8, 32] {
            let mut digits: Vec<u8> = (0..15).map(|place| place * 7 % base).collect();
            digits.push(check_digit(&digits, base));
            assert!(is_right(&digits, base));
            for place in 0..digits.len() {
                for other in (0..base).filter(|other| *other != digits[place]) {
                    let mut wrong = digits.clone();
                    wrong[place] = other;
                    assert!(!is_right(&wrong, base), "{base}: {other} at {place}");
                }
            }
        }
        assert!(!is_right(&[], 10));
    }
}
