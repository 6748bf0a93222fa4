//! What stands in the NDEF file of a bolt card: a URL with room for the chip's mirrors.

use std::ops::Range;

use super::error::ChipError;
use super::settings::FileSettings;
use crate::cards::boltcard::TapUrl;

/// The size of the NDEF file.
pub(super) const FILE_SIZE: usize = 256;
/// Two bytes of length and five of a record's head go before the URL.
const HEAD: usize = 7;
const PICC_DIGITS: usize = 32;
const MAC_DIGITS: usize = 16;

/// A URL with places for `p` and `c`, as the NDEF file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    file: Vec<u8>,
    picc_offset: usize,
    mac_offset: usize,
}

impl UrlTemplate {
    /// Room for `p` and `c` behind `url`, which is `lnurlw://`, `https://` or `http://` and
    /// may have parameters of its own.
    ///
    /// # Errors
    /// `card.chip_bad_url`.
    pub fn new(url: &str) -> Result<Self, ChipError> {
        let bad = |reason| ChipError::BadUrl { reason };
        let schemes = ["lnurlw://", "https://", "http://"];
        let host = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
        let host = host.ok_or(bad("it is neither lnurlw:// nor http(s)://"))?;
        if host.is_empty() || host.starts_with(['/', '?']) {
            return Err(bad("it has no host"));
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("it has other characters than a URL's"));
        }
        if url.contains('#') {
            return Err(bad("it has a fragment"));
        }
        let mut text = url.to_owned();
        text.push(if url.contains('?') { '&' } else { '?' });
        text.push_str("p=");
        let picc_offset = HEAD + text.len();
        text.push_str(&"0".repeat(PICC_DIGITS));
        text.push_str("&c=");
        let mac_offset = HEAD + text.len();
        text.push_str(&"0".repeat(MAC_DIGITS));
        // Whoever reads the tap must find these two, and no others of their names.
        if TapUrl::parse(&text).is_err() {
            return Err(bad("it has a parameter p, c or k1"));
        }
        let (Ok(payload), true) = (u8::try_from(text.len() + 1), HEAD + text.len() <= FILE_SIZE)
        else {
            return Err(bad("it is too long"));
        };
        // The message's length, then one short record of the well-known type `U`, whose first
        // byte says that no part of the URL is abbreviated (NFC Forum, URI record).
        let mut file = vec![0x00, payload + 4, 0xd1, 0x01, payload, b'U', 0x00];
        file.extend_from_slice(text.as_bytes());
        file.resize(FILE_SIZE, 0);
        Ok(Self {
            file,
            picc_offset,
            mac_offset,
        })
    }

    /// The whole file.
    pub(super) fn file(&self) -> &[u8] {
        &self.file
    }

    /// How the file must stand.
    pub(super) fn settings(&self) -> FileSettings {
        let offset = |at: usize| u32::try_from(at).unwrap_or_default();
        FileSettings::bolt_card(offset(self.picc_offset), offset(self.mac_offset))
    }

    /// Where the chip writes.
    pub(super) fn mirrors(&self) -> [Range<usize>; 2] {
        [
            self.picc_offset..self.picc_offset + PICC_DIGITS,
            self.mac_offset..self.mac_offset + MAC_DIGITS,
        ]
    }
}

/// The URL in an NDEF file, when it holds one.
pub(super) fn url_in(file: &[u8]) -> Option<&str> {
    let (head, rest) = file.split_at_checked(HEAD)?;
    match head {
        [_, _, 0xd1, 0x01, length, b'U', 0x00] => {
            let url = rest.get(..usize::from(*length).checked_sub(1)?)?;
            std::str::from_utf8(url).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_room() {
        let template = UrlTemplate::new("lnurlw://pay.example.com/boltcard").unwrap();
        let text = url_in(template.file()).unwrap();
        assert_eq!(
            text,
            format!(
                "lnurlw://pay.example.com/boltcard?p={}&c={}",
                "0".repeat(32),
                "0".repeat(16)
            )
        );
        let [picc, mac] = template.mirrors();
        assert_eq!(&template.file()[picc.start - 2..picc.start], b"p=");
        assert_eq!(&template.file()[mac.start - 2..mac.start], b"c=");
        assert_eq!(usize::from(template.file()[1]) + 2, HEAD + text.len());
        let more = UrlTemplate::new("https://h/?x=1").unwrap();
        assert!(url_in(more.file()).unwrap().contains("?x=1&p=0"));
    }

    #[test]
    fn urls_that_cannot_be_put_on_a_chip() {
        for url in [
            "",
            "pay.example.com",
            "LNURLW://pay.example.com",
            "ftp://pay.example.com",
            "lnurlw://",
            "lnurlw://?x=1",
            "lnurlw://h/a b",
            "lnurlw://h/é",
            "lnurlw://h/#end",
            "lnurlw://h/?p=1",
            "lnurlw://h/?C=1",
            "lnurlw://h/?k1=1-2",
        ] {
            let code = UrlTemplate::new(url).unwrap_err().code();
            assert_eq!(code, "card.chip_bad_url", "{url}");
        }
        let longest = |length: usize| format!("lnurlw://h/{}", "x".repeat(length - 11));
        // 256 less the head, `?p=`, `&c=` and 48 digits.
        assert!(UrlTemplate::new(&longest(195)).is_ok());
        assert!(UrlTemplate::new(&longest(196)).is_err());
    }

    #[test]
    fn no_url_where_there_is_none() {
        for file in [&[][..], &[0; 7], &[0; 256], &[0, 9, 0xd1, 1, 0, b'U', 0]] {
            assert_eq!(url_in(file), None);
        }
        assert_eq!(url_in(&[0, 9, 0xd1, 1, 200, b'U', 0, b'x']), None);
    }
}
