//! Reading an answer: JSON by pointers, numbers by their text. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fill;
use super::providers::{AnswerShape, Direction, PricePlace, TimeForm};
use crate::money::Rate;
use crate::rates::{RateError, RatePair};

/// The longest text that a number is read from.
const MAX_NUMBER: usize = 64;

/// The text of what stands at a JSON pointer (RFC 6901), or `None` where there is nothing.
///
/// # Errors
/// A reason: no JSON, a key that stands twice (which one would count?), or bytes after the end.
pub fn member<'a>(json: &'a [u8], pointer: &str) -> Result<Option<&'a RawValue>, &'static str> {
    let mut value: &'a RawValue = serde_json::from_slice(json).map_err(|_| "it is no JSON")?;
    for token in pointer.split('/').skip(1) {
        let key = token.replace("~1", "/").replace("~0", "~");
        let mut reader = serde_json::Deserializer::from_str(value.get());
        match (Step { key: &key }).deserialize(&mut reader) {
            Ok(Some(found)) => value = found,
            Ok(None) => return Ok(None),
            Err(_) => return Err("a key stands twice, or it is no JSON"),
        }
    }
    Ok(Some(value))
}

/// One step into an object or an array.
struct Step<'k> {
    key: &'k str,
}

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != self.key {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value()?).is_some() {
                return Err(serde::de::Error::custom("a key stands twice"));
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let wanted = self.key.parse::<usize>().ok();
        let (mut found, mut place) = (None, 0_usize);
        while let Some(value) = list.next_element::<&'de RawValue>()? {
            if wanted == Some(place) {
                found = Some(value);
            }
            place += 1;
        }
        Ok(found)
    }
}

/// The text of a JSON number, or of a string. Nothing else has one.
fn text(value: &RawValue) -> Option<String> {
    let raw = value.get();
    match raw.bytes().next() {
        Some(b'"') => String::deserialize(value).ok(),
        Some(b'-' | b'0'..=b'9') => Some(raw.to_owned()),
        _ => None,
    }
}

/// Reads a number exactly: digits, a point, an exponent. More than 28 significant digits, less
/// than zero, zero and everything that is no number are refused.
///
/// # Errors
/// A reason.
pub fn exact_rate(text: &str) -> Result<Rate, &'static str> {
    if text.len() > MAX_NUMBER {
        return Err("the number is too long");
    }
    if text.starts_with('-') {
        return Err("the number is below zero");
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
        None => (text, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return Err("it is no number"),
        Some(parts) => parts,
        None => (mantissa, ""),
    };
    let digits = [whole, fraction].concat();
    if whole.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is no number");
    }
    let significant = digits.trim_start_matches('0');
    let kept = significant.trim_end_matches('0');
    if kept.is_empty() {
        return Err("the number is zero");
    }
    // value = kept * 10^power; all lengths are below 64, so nothing here overflows.
    let length = |text: &str| i32::try_from(text.len()).unwrap_or(i32::MAX);
    let power = exponent - length(fraction) + (length(significant) - length(kept));
    plain(kept, power)
        .and_then(|text| text.parse().ok())
        .ok_or("the number has more digits than are held exactly")
}

fn read_exponent(text: &str) -> Result<i32, &'static str> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is no number");
    }
    let digits = digits.trim_start_matches('0');
    if digits.len() > 2 {
        return Err("the exponent is too large");
    }
    let value: i32 = format!("0{digits}")
        .parse()
        .map_err(|_| "it is no number")?;
    Ok(if text.starts_with('-') { -value } else { value })
}

/// `digits * 10^power` without an exponent.
fn plain(digits: &str, power: i32) -> Option<String> {
    let shift = usize::try_from(power.unsigned_abs()).ok()?;
    if power >= 0 {
        return Some([digits, &"0".repeat(shift)].concat());
    }
    if shift >= digits.len() {
        let zeros = "0".repeat(shift - digits.len());
        return Some(["0.", &zeros, digits].concat());
    }
    let (whole, fraction) = digits.split_at_checked(digits.len() - shift)?;
    Some([whole, ".", fraction].concat())
}

fn read_time(text: &str, form: TimeForm) -> Result<i64, &'static str> {
    let bad = "its time cannot be read";
    let whole = || {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let value = text.parse::<i64>().ok();
        value.filter(|_| digits).ok_or(bad)
    };
    match form {
        TimeForm::Milliseconds => whole(),
        TimeForm::Seconds => whole()?.checked_mul(1_000).ok_or(bad),
        TimeForm::Rfc3339 => text
            .parse::<jiff::Timestamp>()
            .map(jiff::Timestamp::as_millisecond)
            .map_err(|_| bad),
    }
}

/// The rate and, where the shape has one, the time (milliseconds since the epoch) in an answer.
///
/// # Errors
/// `rate.malformed_answer`.
pub fn read_answer(
    provider: &str,
    shape: &AnswerShape,
    pair: RatePair,
    json: &[u8],
) -> Result<(Rate, Option<i64>), RateError> {
    read(shape, pair, json).map_err(|reason| RateError::MalformedAnswer {
        provider: provider.to_owned(),
        reason,
    })
}

fn read(
    shape: &AnswerShape,
    pair: RatePair,
    json: &[u8],
) -> Result<(Rate, Option<i64>), &'static str> {
    let base = pair.base.to_string();
    let filled = |template: &str| fill(template, &base, pair.currency.code());
    if let Some(pointer) = &shape.no_errors_at {
        let errors = member(json, &filled(pointer))?.ok_or("it does not say whether it failed")?;
        let errors: Vec<IgnoredAny> =
            serde_json::from_str(errors.get()).map_err(|_| "its errors are no list")?;
        if !errors.is_empty() {
            return Err("it says that it failed");
        }
    }
    for (pointer, expected) in &shape.must_say {
        let said = member(json, &filled(pointer))?.and_then(text);
        if said.as_deref() != Some(filled(expected).as_str()) {
            return Err("it is about another pair");
        }
    }
    let mut price = None;
    for place in &shape.price {
        let found = read_price(place, json, &filled)?;
        if found.is_some() && price.is_some() {
            return Err("it has two prices");
        }
        price = price.or(found);
    }
    let mut rate = price.ok_or("there is no price where it should be")?;
    if shape.direction == Direction::BasePerCurrency {
        rate = rate.inverse().map_err(|_| "the price cannot be turned")?;
    }
    let time = shape.time.as_ref().map(|place| {
        let found = member(json, &filled(&place.pointer))?.and_then(text);
        read_time(&found.ok_or("it has no time")?, place.form)
    });
    Ok((rate, time.transpose()?))
}

fn read_price(
    place: &PricePlace,
    json: &[u8],
    filled: &impl Fn(&str) -> String,
) -> Result<Option<Rate>, &'static str> {
    let at = |pointer: &str| -> Result<Option<Rate>, &'static str> {
        let Some(found) = member(json, &filled(pointer))? else {
            return Ok(None);
        };
        let text = text(found).ok_or("the price is no number")?;
        exact_rate(&text).map(Some)
    };
    match place {
        PricePlace::At(pointer) => at(pointer),
        PricePlace::Between(bid, ask) => match (at(bid)?, at(ask)?) {
            (Some(bid), Some(ask)) => bid
                .midpoint(ask)
                .map(Some)
                .map_err(|_| "the price does not fit"),
            (None, None) => Ok(None),
            _ => Err("it has one side of the market alone"),
        },
    }
}
