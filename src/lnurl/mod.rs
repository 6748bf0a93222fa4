//! LNURL as data: what is asked by a URL, and what is answered, without the web (LUD-01, 03, 06,
//! 12, 16, 18, 20, 21). Cards and sellers answer with the same shapes.

mod host;
mod pay;
mod query;

use std::fmt;

use bitcoin::bech32::primitives::decode::CheckedHrpstring;
use bitcoin::bech32::{self, Bech32, Hrp};
use serde::{Deserialize, Serialize};

pub(crate) use host::{is_host, scheme};
pub(crate) use pay::{
    NotWithin, PayReply, PayRequest, VerifyReply, asked_amount, description_hash,
};
pub use query::{LnurlQuery, MalformedQuery};

const JSON: &str = "application/json; charset=utf-8";

/// What the host answers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LnurlReply {
    /// The HTTP status.
    pub status: u16,
    /// The header `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl fmt::Debug for LnurlReply {
    // The body names a tap that can still pay: it does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LnurlReply")
            .field("status", &self.status)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

impl LnurlReply {
    pub(crate) fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned());
        Self {
            status,
            content_type: JSON.to_owned(),
            body,
        }
    }

    /// `ERROR`, with a reason for a person.
    pub(crate) fn error(reason: &str) -> Self {
        Self::json(
            400,
            &Status {
                status: "ERROR",
                reason: Some(reason),
                state: None,
            },
        )
    }

    /// There is nothing at this address.
    pub(crate) fn nothing_here() -> Self {
        Self {
            status: 404,
            ..Self::error("there is nothing here")
        }
    }

    pub(crate) fn ok() -> Self {
        Self::json(200, &Status::OK)
    }

    /// It may be in flight, or will be.
    pub(crate) fn pending() -> Self {
        Self::json(
            200,
            &Status {
                state: Some("pending"),
                ..Status::OK
            },
        )
    }
}

#[derive(Serialize)]
struct Status<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
}

impl Status<'static> {
    const OK: Self = Self {
        status: "OK",
        reason: None,
        state: None,
    };
}

/// Where addresses begin, with a scheme.
pub(crate) fn base(url: &str) -> String {
    let host = url.split('/').next().unwrap_or(url);
    format!("{}://{url}", scheme(host))
}

/// What a URL in bech32 begins with, by LUD-01.
const PREFIX: &str = "lnurl";

/// A URL as LUD-01 has it: bech32, in lower case. Empty for one that is too long to be shown.
pub fn encode(url: &str) -> String {
    Hrp::parse(PREFIX)
        .ok()
        .and_then(|hrp| bech32::encode_lower::<Bech32>(hrp, url.as_bytes()).ok())
        .unwrap_or_default()
}

/// Whether a text says of itself that it is a URL as LUD-01 has it, in either case.
pub(crate) fn is_encoded(text: &str) -> bool {
    let begin = text.split_once('1').map(|(prefix, _)| prefix);
    begin.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

/// The URL that a text has as LUD-01 has it, in either case.
pub(crate) fn decode(text: &str) -> Option<String> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    if checked.hrp().to_lowercase() != PREFIX {
        return None;
    }
    String::from_utf8(checked.byte_iter().collect()).ok()
}

#[cfg(test)]
mod tests {
    use bitcoin::bech32::Bech32m;

    use super::*;

    #[test]
    fn a_url_in_bech32_is_read_back_and_nothing_else_is() {
        let url = "https://pay.example/boltcards?p=AB&c=CD";
        let encoded = encode(url);
        for spelled in [encoded.clone(), encoded.to_uppercase()] {
            assert!(is_encoded(&spelled));
            assert_eq!(decode(&spelled).as_deref(), Some(url));
        }
        let with = |prefix| Hrp::parse(prefix).unwrap();
        let other = bech32::encode::<Bech32>(with("lnurlx"), url.as_bytes()).unwrap();
        let newer = bech32::encode::<Bech32m>(with(PREFIX), url.as_bytes()).unwrap();
        let damaged = encoded.replace(&encoded[10..12], "qq");
        for text in [&other, &newer, &damaged, url] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert!(!is_encoded(&other) && !is_encoded(url));
    }
}
