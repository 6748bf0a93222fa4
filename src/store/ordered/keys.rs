//! Keys of several parts as bytes that are ordered as the parts are.
//!
//! A number is its eight bytes, the greatest first, with the sign turned round. A text is its bytes
//! and two zeros; a zero in it is followed by 0xff, so that no text's end looks like another's
//! middle, and the shorter one comes first.

/// Something that a key is made of.
pub(super) trait Part {
    /// Appends it.
    fn push(&self, key: &mut Vec<u8>);
}

/// A part that can be read again.
pub(super) trait OwnedPart: Sized {
    /// Takes it from the front of what is left of a key; `None` where no such part is.
    fn take(key: &mut &[u8]) -> Option<Self>;
}

const SIGN: u64 = 1 << 63;

impl Part for i64 {
    fn push(&self, key: &mut Vec<u8>) {
        key.extend((self.cast_unsigned() ^ SIGN).to_be_bytes());
    }
}

impl OwnedPart for i64 {
    fn take(key: &mut &[u8]) -> Option<Self> {
        let (number, rest) = key.split_first_chunk()?;
        *key = rest;
        Some((u64::from_be_bytes(*number) ^ SIGN).cast_signed())
    }
}

impl Part for str {
    fn push(&self, key: &mut Vec<u8>) {
        for byte in self.bytes() {
            key.push(byte);
            if byte == 0 {
                key.push(0xff);
            }
        }
        key.extend([0, 0]);
    }
}

impl Part for String {
    fn push(&self, key: &mut Vec<u8>) {
        self.as_str().push(key);
    }
}

impl OwnedPart for String {
    fn take(key: &mut &[u8]) -> Option<Self> {
        let (mut text, mut rest) = (Vec::new(), *key);
        loop {
            match *rest {
                [0, 0, ref after @ ..] => {
                    *key = after;
                    return Self::from_utf8(text).ok();
                }
                [0, 0xff, ref after @ ..] => {
                    text.push(0);
                    rest = after;
                }
                [byte, ref after @ ..] if byte != 0 => {
                    text.push(byte);
                    rest = after;
                }
                _ => return None,
            }
        }
    }
}

impl<T: Part + ?Sized> Part for &T {
    fn push(&self, key: &mut Vec<u8>) {
        (**self).push(key);
    }
}

macro_rules! parts {
    ($($part:ident),*) => {
        impl<$($part: Part),*> Part for ($($part,)*) {
            #[allow(non_snake_case, unused_variables)]
            fn push(&self, key: &mut Vec<u8>) {
                let ($($part,)*) = self;
                $($part.push(key);)*
            }
        }

        impl<$($part: OwnedPart),*> OwnedPart for ($($part,)*) {
            #[allow(unused_variables)]
            fn take(key: &mut &[u8]) -> Option<Self> {
                Some(($($part::take(key)?,)*))
            }
        }
    };
}

parts!();
parts!(A, B);
parts!(A, B, C);
parts!(A, B, C, D);

/// The first key after all those that begin with `start`, which is not all 0xff.
pub(super) fn after_all(mut start: Vec<u8>) -> Vec<u8> {
    while let Some(last) = start.pop() {
        if let Some(next) = last.checked_add(1) {
            start.push(next);
            break;
        }
    }
    start
}

/// The first key after this one.
pub(super) fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(part: &impl Part) -> Vec<u8> {
        let mut key = Vec::new();
        part.push(&mut key);
        key
    }

    /// Few characters, so that many texts begin alike, and the ones that are treated apart.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[\0\u{1}ab\u{ff}]{0,4}", ".{0,8}"]
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![-2_i64..3, any::<i64>(), Just(i64::MIN), Just(i64::MAX)]
    }

    fn key() -> impl Strategy<Value = (String, i64, String)> {
        (text(), number(), text())
    }

    proptest! {
        #[test]
        fn bytes_are_ordered_as_the_parts_are(one in key(), other in key()) {
            prop_assert_eq!(bytes(&one).cmp(&bytes(&other)), one.cmp(&other));
        }

        #[test]
        fn what_was_written_is_read(whole in key()) {
            let written = bytes(&whole);
            let mut left = written.as_slice();
            prop_assert_eq!(OwnedPart::take(&mut left), Some(whole));
            prop_assert!(left.is_empty());
            let mut cut = &written[..written.len() - 1];
            prop_assert_eq!(<(String, i64, String)>::take(&mut cut), None);
        }

        #[test]
        fn any_bytes_can_be_looked_at(bytes in any::<Vec<u8>>()) {
            let mut left = bytes.as_slice();
            drop(<(String, i64)>::take(&mut left));
        }

        #[test]
        fn what_begins_alike_is_one_range(start in text(), number in number(), other in key()) {
            let end = after_all(bytes(&(start.as_str(), number)));
            let begins_so = other.0 == start && other.1 == number;
            let whole = bytes(&other);
            let is_within = whole >= bytes(&(&start, number)) && whole < end;
            prop_assert_eq!(is_within, begins_so);
        }
    }
}
