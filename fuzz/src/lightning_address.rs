//! A Lightning address and what it answers are read or refused: no panic, and what the host is told
//! to fetch is an address of one line.

use flashkit::refunds::fuzz_address;

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Some(read) = fuzz_address(text) else {
        return false;
    };
    // An invoice is any text until it is parsed; what is to be fetched is an address.
    let body: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let invoice = body.as_ref().and_then(|body| body["pr"].as_str());
    if invoice != Some(read.as_str()) {
        assert!(read.bytes().all(|byte| byte.is_ascii_graphic()), "{read}");
        assert!(
            read.starts_with("https://") || read.contains(".onion"),
            "{read}"
        );
    }
    true
}
