//! Lightning addresses (LUD-16, LUD-06) as data: what to ask, and what an answer says.
//!
//! Nothing is fetched here. All of it comes from strangers, and is refused with a reason.

use serde::Deserialize;

use super::RefundError;
use crate::lnurl;

/// More than any address or answer has.
const MAX_ADDRESS: usize = 320;
const MAX_BODY: usize = 65_536;
const MAX_CALLBACK: usize = 2_048;
const MAX_SAID: usize = 200;

/// Where a Lightning address is asked: LUD-16.
pub(super) fn first_question(address: &str) -> Result<String, RefundError> {
    let bad = |reason| Err(RefundError::BadAddress { reason });
    if address.len() > MAX_ADDRESS {
        return bad("more than 320 bytes");
    }
    let Some((name, host)) = address.split_once('@') else {
        return bad("it has no @");
    };
    let is_name = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'-' | b'_' | b'.' | b'+')
    };
    if name.is_empty() || !name.bytes().all(is_name) || name.bytes().all(|byte| byte == b'.') {
        return bad("its name has other than a-z, 0-9, -, _, . and +");
    }
    if !lnurl::is_host(host) {
        return bad("its host is no host");
    }
    Ok(format!(
        "{}://{host}/.well-known/lnurlp/{name}",
        lnurl::scheme(host)
    ))
}

/// What may be answered instead (LUD-01).
#[derive(Deserialize)]
struct Said {
    status: Option<String>,
    reason: Option<String>,
}

/// LUD-06, step 3.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PayRequest {
    tag: String,
    callback: String,
    min_sendable: i64,
    max_sendable: i64,
    #[serde(default)]
    metadata: String,
}

/// LUD-06, step 6.
#[derive(Deserialize)]
struct PayReply {
    pr: String,
}

fn parse<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, RefundError> {
    if body.len() > MAX_BODY {
        let reason = "more than 65,536 bytes".to_owned();
        return Err(RefundError::BadAnswer { reason });
    }
    if let Ok(Said {
        status: Some(status),
        reason,
    }) = serde_json::from_str(body)
        && status.eq_ignore_ascii_case("error")
    {
        let said = reason.unwrap_or_default();
        let plain = said.chars().filter(|letter| !letter.is_control());
        let reason = plain.take(MAX_SAID).collect();
        return Err(RefundError::BadAnswer { reason });
    }
    serde_json::from_str(body).map_err(|error| {
        let reason = format!("not what LUD-06 says: line {}", error.line());
        RefundError::BadAnswer { reason }
    })
}

/// Where the address is asked for an invoice of `sent_msat`: from its first answer.
pub(super) fn second_question(body: &str, sent_msat: i64) -> Result<String, RefundError> {
    let bad = |reason: &str| {
        let reason = reason.to_owned();
        Err(RefundError::BadAnswer { reason })
    };
    let request: PayRequest = parse(body)?;
    if request.tag != "payRequest" {
        return bad("its tag is not payRequest");
    }
    // What the payer would be shown: LUD-06 has it, and an answer without it is of something else.
    if request.metadata.is_empty() {
        return bad("it has no metadata");
    }
    let (min_msat, max_msat) = (request.min_sendable, request.max_sendable);
    if min_msat < 1 || max_msat < min_msat {
        return bad("its bounds are none");
    }
    if !(min_msat..=max_msat).contains(&sent_msat) {
        return Err(RefundError::AmountNotTaken {
            min_msat,
            max_msat,
            sent_msat,
        });
    }
    if !is_callback(&request.callback) {
        return bad("its callback is no https address");
    }
    let mark = if request.callback.contains('?') {
        '&'
    } else {
        '?'
    };
    Ok(format!("{}{mark}amount={sent_msat}", request.callback))
}

/// Over TLS, or to an onion service; without a user, a fragment or an amount of its own.
fn is_callback(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let host = rest.split(['/', '?']).next().unwrap_or(rest);
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let has_amount = query.split('&').any(|part| part.starts_with("amount="));
    let is_safe = scheme == "https" || scheme == lnurl::scheme(host);
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    text.len() <= MAX_CALLBACK
        && is_safe
        && plain
        && !has_amount
        && lnurl::is_host(&host.to_ascii_lowercase())
}

/// The BOLT11 of the address's second answer.
pub(super) fn invoice_of(body: &str) -> Result<String, RefundError> {
    Ok(parse::<PayReply>(body)?.pr)
}

/// Reads what anybody may have written, for the fuzzer.
#[cfg(feature = "testkit")]
#[doc(hidden)]
pub fn fuzz(text: &str) -> Option<String> {
    let asked = first_question(text).ok();
    let second = second_question(text, 1_000).ok();
    let invoice = invoice_of(text).ok();
    asked.or(second).or(invoice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_asked_where_lud_16_says() {
        for (address, url) in [
            (
                "ann@pay.example.com",
                "https://pay.example.com/.well-known/lnurlp/ann",
            ),
            (
                "a.b-c_d+e@x.com:8443",
                "https://x.com:8443/.well-known/lnurlp/a.b-c_d+e",
            ),
            ("ann@abc.onion", "http://abc.onion/.well-known/lnurlp/ann"),
        ] {
            assert_eq!(first_question(address).as_deref(), Ok(url));
        }
        for bad in [
            "",
            "ann",
            "@x.com",
            "ann@",
            "Ann@x.com",
            "ann@x.com/..",
            "ann@x..com",
            "..@x.com",
            "ann@x.com:0",
            "ann@x.com:70000",
            "ann@-x.com",
            "ann@user@x.com",
            "a/b@x.com",
            "ann@x.com?q",
        ] {
            assert!(first_question(bad).is_err(), "{bad}");
        }
    }

    fn request(callback: &str, least: &str, most: &str) -> String {
        format!(
            r#"{{"tag":"payRequest","callback":"{callback}","minSendable":{least},"maxSendable":{most},"metadata":"[]"}}"#
        )
    }

    #[test]
    fn an_answer_is_taken_as_lud_06_says_or_refused() {
        let asked = |text: &str| second_question(text, 5_000);
        assert_eq!(
            asked(&request("https://x.com/cb", "1000", "9000")).as_deref(),
            Ok("https://x.com/cb?amount=5000")
        );
        assert_eq!(
            asked(&request("https://x.com/cb?id=1", "5000", "5000")).as_deref(),
            Ok("https://x.com/cb?id=1&amount=5000")
        );
        for (callback, least, most) in [
            ("http://x.com/cb", "1", "9000"),
            ("https://user@x.com/cb", "1", "9000"),
            ("https://x.com/cb?amount=1", "1", "9000"),
            ("https://x.com/cb#", "1", "9000"),
            ("javascript://x", "1", "9000"),
            ("https://x.com/cb", "5001", "9000"),
            ("https://x.com/cb", "1", "4999"),
            ("https://x.com/cb", "0", "9000"),
            ("https://x.com/cb", "1.5", "9000"),
            ("https://x.com/cb", "1", "99999999999999999999"),
        ] {
            let answer = asked(&request(callback, least, most));
            assert!(answer.is_err(), "{callback} {least} {most}: {answer:?}");
        }
        let said = asked(r#"{"status":"ERROR","reason":"no \u0007such name"}"#);
        assert_eq!(
            said,
            Err(RefundError::BadAnswer {
                reason: "no such name".to_owned()
            })
        );
        assert_eq!(
            invoice_of(r#"{"pr":"lnbc1","routes":[]}"#).as_deref(),
            Ok("lnbc1")
        );
        assert!(invoice_of(r#"{"status":"error"}"#).is_err());
        assert!(invoice_of(&format!(r#"{{"pr":"{}"}}"#, "x".repeat(MAX_BODY))).is_err());
    }
}
