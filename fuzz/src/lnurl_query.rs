//! Whatever is asked at a card's web addresses is read or refused: no panic, and what was read is
//! the same however it was spelled.

use flashkit::cards::boltcard::TapUrl;
use flashkit::cards::lnurl::{LnurlEndpoint, LnurlQuery, encode};

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    // An address of any text is bech32 in lower case, or none.
    let lnurl = encode(text);
    assert_eq!(lnurl, lnurl.to_lowercase());
    assert!(lnurl.is_empty() || lnurl.starts_with("lnurl1"));

    let Ok(query) = LnurlQuery::parse(text) else {
        return false;
    };
    let endpoint = query.endpoint("boltcard");
    if let LnurlEndpoint::TopUp { address } = &endpoint {
        assert!(!address.is_empty() && !address.contains('/'));
    }
    for name in ["pr", "pin", "amount", "p"] {
        let upper = query.one(&name.to_uppercase());
        assert_eq!(query.one(name), upper);
    }
    // The tap in it says what it says by itself, and nothing else.
    let tap = query.tap();
    if let Ok(read) = TapUrl::parse(&tap) {
        let again = LnurlQuery::parse(&tap).expect("a URL that was made here");
        assert_eq!(TapUrl::parse(&again.tap()), Ok(read));
    }
    endpoint != LnurlEndpoint::Unknown
}
