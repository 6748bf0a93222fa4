//! What a card programmer app reads: the JSON of a chip's keys, and the links that open the app.
//!
//! Names and spelling are those that the Bolt Card apps and BTCPay Server's issuing page have
//! (`LNURLW`, `K0` to `K4` in capital hex; `boltcard://program`, `boltcard://reset`: the bolt card
//! specification's *Deep links*).

use serde::Serialize;
use zeroize::Zeroizing;

use super::model::ProgrammingKeys;

#[derive(Serialize)]
struct ProgrammerJson<'a> {
    #[serde(rename = "LNURLW")]
    lnurlw: &'a str,
    #[serde(rename = "Version")]
    version: u32,
    #[serde(rename = "K0")]
    k0: &'a str,
    #[serde(rename = "K1")]
    k1: &'a str,
    #[serde(rename = "K2")]
    k2: &'a str,
    #[serde(rename = "K3")]
    k3: &'a str,
    #[serde(rename = "K4")]
    k4: &'a str,
}

impl ProgrammingKeys {
    /// The answer that a card programmer app expects from the URL of a
    /// [`program_link`]. Secret, as the keys are.
    pub fn to_programmer_json(&self) -> Zeroizing<String> {
        let upper = |key: &String| Zeroizing::new(key.to_ascii_uppercase());
        let [k0, k1, k2, k3, k4] = [&self.k0, &self.k1, &self.k2, &self.k3, &self.k4].map(upper);
        let json = ProgrammerJson {
            lnurlw: &self.lnurlw,
            version: self.version,
            k0: &k0,
            k1: &k1,
            k2: &k2,
            k3: &k3,
            k4: &k4,
        };
        // A record of texts and a number always can be written.
        Zeroizing::new(serde_json::to_string(&json).unwrap_or_default())
    }
}

/// The link that has a card programmer app ask `url` for a chip's keys and write them: it posts
/// `{"UID": "04…"}` there. The answer is [`ProgrammingKeys::to_programmer_json`]; who may ask is
/// the host's to check.
pub fn program_link(url: &str) -> String {
    format!("boltcard://program?url={}", escaped(url))
}

/// The link that has a card programmer app ask `url` for a chip's keys, and blank the chip.
pub fn reset_link(url: &str) -> String {
    format!("boltcard://reset?url={}", escaped(url))
}

/// As a part of a URL (RFC 3986: all but the unreserved characters).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_apps_have_it() {
        let keys = ProgrammingKeys {
            lnurlw: "lnurlw://pay.example.com/boltcard".to_owned(),
            version: 1,
            k0: "a29119fcb48e737d1591d3489557e49b".to_owned(),
            k1: "55da174c9608993dc27bb3f30a4a7314".to_owned(),
            k2: "f4b404be700ab285e333e32348fa3d3b".to_owned(),
            k3: "73610ba4afe45b55319691cb9489142f".to_owned(),
            k4: "addd03e52964369be7f2967736b7bdb5".to_owned(),
        };
        assert_eq!(
            *keys.to_programmer_json(),
            r#"{"LNURLW":"lnurlw://pay.example.com/boltcard","Version":1,"K0":"A29119FCB48E737D1591D3489557E49B","K1":"55DA174C9608993DC27BB3F30A4A7314","K2":"F4B404BE700AB285E333E32348FA3D3B","K3":"73610BA4AFE45B55319691CB9489142F","K4":"ADDD03E52964369BE7F2967736B7BDB5"}"#
        );
        assert_eq!(
            program_link("https://pay.example.com/keys?batch=1&onExisting=UpdateVersion"),
            "boltcard://program?url=https%3A%2F%2Fpay.example.com%2Fkeys%3Fbatch%3D1%26onExisting%3DUpdateVersion"
        );
        assert!(reset_link("https://h/").starts_with("boltcard://reset?url=https%3A"));
    }
}
