//! Whatever a phone sends as a tap is read or refused: no panic, and nothing that a stranger made
//! up verifies.

use flashkit::cards::boltcard::{IssuerKey, KeyDerivation, TapUrl, decrypt_picc, verify_mac};

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(tap) = TapUrl::parse(text) else {
        return false;
    };
    // What was read does not depend on how it was spelled.
    let (p, c) = (hex(tap.p()), hex(tap.c()));
    assert_eq!(
        TapUrl::parse(&format!("LNURLW://h?C={c}&P={p}")).as_ref(),
        Ok(&tap)
    );

    let issuer = IssuerKey::new([7; 16]);
    let Ok(picc) = decrypt_picc(&issuer, tap.p()) else {
        return true;
    };
    assert!(picc.counter < 1 << 24);
    let keys = issuer.card_keys(&picc.uid, 1, &KeyDerivation::Standard);
    // 64 bits are not guessed: should this ever fire, the check is broken.
    assert!(verify_mac(&keys, &picc, tap.c()).is_err());
    true
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
