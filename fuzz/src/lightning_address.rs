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
    if read.contains("://") {
        assert!(read.bytes().all(|byte| byte.is_ascii_graphic()), "{read}");
        assert!(
            read.starts_with("https://") || read.contains(".onion"),
            "{read}"
        );
    }
    true
}
