//! Which of a card's web addresses is asked for.

use crate::lnurl::LnurlQuery;

/// What of a card's web addresses is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LnurlEndpoint {
    /// LNURL-withdraw.
    Withdraw,
    /// The page with the balance.
    Balance,
    /// LNURL-pay of an address.
    TopUp {
        /// Which.
        address: String,
    },
    /// LNURL-pay of the card that a tap's `p` is of.
    TopUpByTap,
    /// None of them.
    Unknown,
}

impl LnurlQuery {
    /// Which of the addresses it is, where those begin at `path`: `boltcard`. All in upper case, as
    /// a QR code has it, it is the same.
    pub fn endpoint(&self, path: &str) -> LnurlEndpoint {
        let asked = self.path().trim_start_matches('/');
        let path = path.trim_matches('/');
        let is_loud = !asked.bytes().any(|byte| byte.is_ascii_lowercase());
        let (lower, lower_path) = (asked.to_ascii_lowercase(), path.to_ascii_lowercase());
        let (asked, path) = match is_loud {
            true => (lower.as_str(), lower_path.as_str()),
            false => (asked, path),
        };
        let Some(rest) = asked.strip_prefix(path) else {
            return LnurlEndpoint::Unknown;
        };
        match rest {
            "" => LnurlEndpoint::Withdraw,
            "s/balance" => LnurlEndpoint::Balance,
            "/pay" | "/top-up" => LnurlEndpoint::TopUpByTap,
            other => match other.strip_prefix("/top-up/") {
                Some(address) if !address.is_empty() && !address.contains('/') => {
                    LnurlEndpoint::TopUp {
                        address: address.to_owned(),
                    }
                }
                _ => LnurlEndpoint::Unknown,
            },
        }
    }

    /// What the chip gave, as a URL of its own: `p` and `c`, or `k1`.
    pub fn tap(&self) -> String {
        let of_the_tap = |name: &str| {
            ["p", "c", "k1"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
        };
        let pairs = self.pairs().iter().filter(|(name, _)| of_the_tap(name));
        let pairs = pairs.map(|(name, value)| format!("{name}={value}"));
        format!("https://tap?{}", pairs.collect::<Vec<_>>().join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> LnurlEndpoint {
        LnurlQuery::parse(url).unwrap().endpoint("boltcard")
    }

    #[test]
    fn every_address_is_told_from_the_others() {
        let top_up = |address: &str| LnurlEndpoint::TopUp {
            address: address.to_owned(),
        };
        for (url, expected) in [
            ("https://h/boltcard?p=1&c=2", LnurlEndpoint::Withdraw),
            ("lnurlw://h:8080/boltcard?p=1&c=2", LnurlEndpoint::Withdraw),
            ("/boltcard/?k1=1-2", LnurlEndpoint::Withdraw),
            (
                "https://h/boltcards/balance?p=1&c=2",
                LnurlEndpoint::Balance,
            ),
            ("https://h/boltcard/pay?p=1", LnurlEndpoint::TopUpByTap),
            ("https://h/boltcard/top-up?p=1", LnurlEndpoint::TopUpByTap),
            ("https://h/boltcard/top-up/ab12?amount=5", top_up("ab12")),
            ("https://h/boltcard/top-up/ab12/x", LnurlEndpoint::Unknown),
            ("LNURLW://H/BOLTCARD?P=1&C=2", LnurlEndpoint::Withdraw),
            (
                "HTTPS://H/BOLTCARDS/BALANCE?P=1&C=2",
                LnurlEndpoint::Balance,
            ),
            ("HTTPS://H/BOLTCARD/TOP-UP/AB12", top_up("ab12")),
            ("https://h/BoltCard?p=1&c=2", LnurlEndpoint::Unknown),
            ("https://h/boltcardx", LnurlEndpoint::Unknown),
            ("https://h/", LnurlEndpoint::Unknown),
            ("https://h", LnurlEndpoint::Unknown),
        ] {
            assert_eq!(endpoint(url), expected, "{url}");
        }
        assert!(LnurlQuery::parse("boltcard").is_err());
        assert!(LnurlQuery::parse(&format!("/{}", "a".repeat(20_000))).is_err());
    }

    #[test]
    fn parameters_are_decoded_and_do_not_contradict_each_other() {
        let query = LnurlQuery::parse("/boltcard?pr=ln%62c&PR=lnbc&a=1&a=2&k1=0a-0b").unwrap();
        assert_eq!(query.one("pr"), Ok(Some("lnbc")));
        assert!(query.one("a").is_err());
        assert_eq!(query.one("pin"), Ok(None));
        assert_eq!(query.tap(), "https://tap?k1=0a-0b");
    }
}
