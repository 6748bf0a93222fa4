//! Spellings of a tap's URL that other standards make equal to the chip's own.

use std::borrow::Cow;

use super::TapError;
use crate::lnurl;

/// What may stand before a URL that is passed on.
const LIGHTNING: &str = "lightning:";

/// The URL of a text that may have it in bech32 (LUD-01), in either case.
pub(super) fn plain(text: &str) -> Result<Cow<'_, str>, TapError> {
    let text = text.trim();
    let text = match text.get(..LIGHTNING.len()) {
        Some(begin) if begin.eq_ignore_ascii_case(LIGHTNING) => &text[LIGHTNING.len()..],
        _ => text,
    };
    if !lnurl::is_encoded(text) {
        return Ok(Cow::Borrowed(text));
    }
    let url = lnurl::decode(text).ok_or(TapError::Malformed {
        reason: "no LNURL of LUD-01",
    })?;
    Ok(Cow::Owned(url))
}

/// Letters, digits and the hyphen are the same whether or not they are percent-encoded (RFC 3986,
/// section 6.2.2.2). Whatever else is encoded stays so: it is in no parameter of a tap.
pub(super) fn unescaped(query: &[u8]) -> Cow<'_, [u8]> {
    if !query.contains(&b'%') {
        return Cow::Borrowed(query);
    }
    let mut plain = Vec::with_capacity(query.len());
    let mut rest = query;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, behind @ ..]) => match encoded(*high, *low) {
                Some(byte) => {
                    plain.push(byte);
                    rest = behind;
                }
                None => plain.push(b'%'),
            },
            (byte, _) => plain.push(*byte),
        }
    }
    Cow::Owned(plain)
}

fn encoded(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
    (byte.is_ascii_alphanumeric() || byte == b'-').then_some(byte)
}
