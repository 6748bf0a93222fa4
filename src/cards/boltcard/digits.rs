//! Hex as a tap has it, in either case.

use super::TapError;

/// What a hex digit is worth; of anything else more than fifteen. The digits of a tap are as good as
/// random: whatever branches on each of them takes as long as all the ciphers.
const DIGITS: [u8; 256] = {
    let (mut digits, mut value) = ([0xff; 256], 0);
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

pub(super) fn bytes<const N: usize>(text: &[u8]) -> Result<[u8; N], TapError> {
    let (mut bytes, mut digits) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        digits |= high | low;
        *byte = high << 4 | low;
    }
    if text.len() != 2 * N || digits > 15 {
        return Err(TapError::Malformed {
            reason: "a parameter is not hex of the right length",
        });
    }
    Ok(bytes)
}
