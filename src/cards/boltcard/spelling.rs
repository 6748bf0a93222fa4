//! Spellings of a tap's URL that other standards make equal to the chip's own.

use std::borrow::Cow;

use bitcoin::bech32;

use super::TapError;

/// What a URL begins with that stands there as LUD-01 has it, and what may stand before that.
const LNURL: &str = "lnurl1";
const LIGHTNING: &str = "lightning:";

fn begins(text: &str, with: &str) -> bool {
    text.get(..with.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(with))
}

/// The URL of a text that may have it in bech32 (LUD-01), in either case.
pub(super) fn plain(text: &str) -> Result<Cow<'_, str>, TapError> {
    let text = text.trim();
    let text = match begins(text, LIGHTNING) {
        true => text.get(LIGHTNING.len()..).unwrap_or_default(),
        false => text,
    };
    if !begins(text, LNURL) {
        return Ok(Cow::Borrowed(text));
    }
    let malformed = TapError::Malformed {
        reason: "no LNURL of LUD-01",
    };
    let (_, bytes) = bech32::decode(text).map_err(|_| malformed)?;
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| malformed)
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
