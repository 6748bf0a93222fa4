//! Bolt card taps, seen from outside: a chip written from AN12196 on its own taps, the library
//! checks. Published vectors anchor the chip, so that the two cannot be wrong together.

use aes::Aes128;
use aes::cipher::{BlockDecrypt, KeyInit};
use flashkit::cards::ProgrammingKeys;
use flashkit::cards::boltcard::{
    self, BoltcardKeys, IssuerKey, KeyDerivation, PiccData, TapError, TapUrl,
};
use flashkit::testkit::virtual_card::VirtualCard;
use proptest::prelude::*;

const UID: [u8; 7] = [0x04, 0xa3, 0x94, 0x93, 0xcc, 0x86, 0x80];
const HIGHEST_COUNTER: u32 = 0x00ff_ffff;

fn issuer() -> IssuerKey {
    let mut bytes = [0; 16];
    bytes[15] = 1;
    IssuerKey::new(bytes)
}

fn programming(keys: &BoltcardKeys, version: u32) -> ProgrammingKeys {
    ProgrammingKeys {
        lnurlw: "lnurlw://pay.example.com/boltcard".to_owned(),
        version,
        k0: keys.k0.to_hex(),
        k1: keys.k1.to_hex(),
        k2: keys.k2.to_hex(),
        k3: keys.k3.to_hex(),
        k4: keys.k4.to_hex(),
    }
}

fn chip(uid: &[u8; 7], version: u32, derivation: &KeyDerivation) -> VirtualCard {
    let keys = programming(&issuer().card_keys(uid, version, derivation), version);
    VirtualCard::program(&hex::encode(uid), &keys).unwrap()
}

/// As a server does it: the keys are those of the chip that `p` names.
fn verify(p: &[u8; 16], c: &[u8; 8], version: u32) -> Result<PiccData, TapError> {
    let picc = boltcard::decrypt_picc(&issuer(), p)?;
    let keys = issuer().card_keys(&picc.uid, version, &KeyDerivation::Standard);
    boltcard::verify_mac(&keys, &picc, c)?;
    Ok(picc)
}

/// Each row is a published tap: its chip, K1, K2, counter, `p` and `c`. The first two are of the
/// bolt card specification's test vectors, the last is AN12196's SUN example.
const PUBLISHED: [(&str, &str, &str, u32, &str, &str); 3] = [
    (
        "04996c6a926980",
        "0c3b25d92b38ae443229dd59ad34b85d",
        "b45775776cb224c75bcde7ca3704e933",
        3,
        "4E2E289D945A66BB13377A728884E867",
        "E19CCB1FED8892CE",
    ),
    (
        "04996c6a926980",
        "0c3b25d92b38ae443229dd59ad34b85d",
        "b45775776cb224c75bcde7ca3704e933",
        5,
        "00F48C4F8E386DED06BCDC78FA92E2FE",
        "66B4826EA4C155B4",
    ),
    (
        "04de5f1eacc040",
        "00000000000000000000000000000000",
        "00000000000000000000000000000000",
        61,
        "EF963FF7828658A599F3041510671E88",
        "94EED9EE65337086",
    ),
];

fn open(k1: &str, p: &[u8; 16]) -> [u8; 16] {
    let mut key = [0; 16];
    hex::decode_to_slice(k1, &mut key).unwrap();
    let mut block = (*p).into();
    Aes128::new(&key.into()).decrypt_block(&mut block);
    block.into()
}

#[test]
fn the_virtual_chip_taps_as_the_published_chips_do() {
    for (uid, k1, k2, counter, p, c) in PUBLISHED {
        let unused = "00".repeat(16);
        let keys = ProgrammingKeys {
            lnurlw: "lnurlw://h/boltcard".to_owned(),
            version: 1,
            k0: unused.clone(),
            k1: k1.to_owned(),
            k2: k2.to_owned(),
            k3: unused.clone(),
            k4: unused,
        };
        let mut card = VirtualCard::program(uid, &keys).unwrap();
        card.set_counter(counter - 1);
        let tap = TapUrl::parse(&card.tap()).unwrap();
        assert_eq!(hex::encode_upper(tap.c()), c);
        // The last five bytes are the chip's own random filling; the rest must agree.
        let published = TapUrl::parse(&format!("lnurlw://h?p={p}&c={c}")).unwrap();
        let (ours, theirs) = (open(k1, tap.p()), open(k1, published.p()));
        assert_eq!(ours[..11], theirs[..11]);
        assert_eq!(ours[0], 0xc7);
    }
}

#[test]
fn a_thousand_taps_verify_and_no_two_look_alike() {
    let mut card = chip(&UID, 1, &KeyDerivation::Standard);
    let mut seen = std::collections::HashSet::new();
    for counter in 1..=1_000 {
        let text = card.tap();
        let tap = TapUrl::parse(&text).unwrap();
        assert_eq!(
            verify(tap.p(), tap.c(), 1),
            Ok(PiccData { uid: UID, counter })
        );
        assert!(
            seen.insert(*tap.p()) && seen.len() == counter as usize,
            "{text}"
        );
    }
}

/// What other standards say is the same URL is the same tap; and no other spelling is one.
#[test]
fn a_tap_is_read_however_its_url_is_spelled() {
    let mut card = chip(&UID, 1, &KeyDerivation::Standard);
    let text = card.tap();
    let tap = TapUrl::parse(&text).unwrap();
    let (p, c) = (hex::encode(tap.p()), hex::encode(tap.c()));
    let (loud_p, loud_c) = (p.to_uppercase(), c.to_uppercase());
    let escape =
        |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let (hidden_p, hidden_c) = (escape(&p), escape(&c).to_lowercase());
    let lnurl = flashkit::cards::lnurl::encode(&format!("https://h/boltcard?p={p}&c={c}"));
    assert!(lnurl.starts_with("lnurl1"));
    for same in [
        format!("LNURLW://H/BOLTCARD?P={loud_p}&C={loud_c}"),
        format!("lnurlw://h/boltcard?c={c}&p={loud_p}"),
        format!("https://h/boltcard?x=1&p={p}&y&z==&c={c}&p={loud_p}#p=0"),
        format!("http://h?k1={p}-{c}"),
        format!("http://h?K1={p}%2d{c}&p={p}"),
        format!("lnurlw://h/boltcard?p={hidden_p}&c={hidden_c}"),
        format!("lnurlw://h/boltcard?%70={p}&%43={c}"),
        format!("lnurlw://h/boltcard?p={p}&c={c}&x=%ZZ%4&y=%"),
        format!("  {text}\n"),
        lnurl.clone(),
        lnurl.to_uppercase(),
        format!("lightning:{lnurl}"),
        format!("LIGHTNING:{}", lnurl.to_uppercase()),
    ] {
        assert_eq!(TapUrl::parse(&same).as_ref(), Ok(&tap), "{same}");
    }
    let other = "0".repeat(16);
    let (first, last) = lnurl.split_at(lnurl.len() - 1);
    let wrong = if last == "q" { "p" } else { "q" };
    let of_another_kind = flashkit::cards::lnurl::encode("ftp://h/boltcard?p=1");
    for none in [
        // Two values of one name, be it hidden; and a name or a value that only looks alike.
        format!("lnurlw://h?p={p}&c={c}&c={other}"),
        format!("lnurlw://h?p={p}&c={c}&%63={other}"),
        format!("lnurlw://h?p={p}&c={c}&k1={p}-{other}"),
        format!("lnurlw://h?p={p}%26c={c}"),
        format!("lnurlw://h?p={p}%00&c={c}"),
        format!("lnurlw://h?p={p}&c={c}%20"),
        format!("lnurlw://h?p%3d{p}&c={c}"),
        format!("lnurlw://h/p={p}&c={c}"),
        format!("ftp://h?p={p}&c={c}"),
        format!("{first}{wrong}"),
        of_another_kind,
        format!("lightning:lightning:{lnurl}"),
        "lnurl1".to_owned(),
        "lightning:".to_owned(),
        "lnurl1é".to_owned(),
    ] {
        let refused = TapUrl::parse(&none);
        assert!(matches!(refused, Err(TapError::Malformed { .. })), "{none}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut card = chip(&UID, 1, &KeyDerivation::Standard);
    for _ in 0..200 {
        let tap = TapUrl::parse(&card.tap()).unwrap();
        for bit in 0..128 {
            let mut p = *tap.p();
            p[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&p, tap.c(), 1).is_err(), "bit {bit} of p");
        }
        for bit in 0..64 {
            let mut c = *tap.c();
            c[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                verify(tap.p(), &c, 1),
                Err(TapError::WrongMac),
                "bit {bit} of c"
            );
        }
    }
}

#[test]
fn a_tap_of_other_keys_is_refused() {
    let mut older = chip(&UID, 1, &KeyDerivation::Standard);
    let tap = TapUrl::parse(&older.tap()).unwrap();
    assert_eq!(verify(tap.p(), tap.c(), 2), Err(TapError::WrongMac));

    let pull_payment_id = "fUDXsnySxvb5LYZ1bSLiWzLjVuT".to_owned();
    let mut other = chip(&UID, 1, &KeyDerivation::BtcPay { pull_payment_id });
    let tap = TapUrl::parse(&other.tap()).unwrap();
    assert_eq!(verify(tap.p(), tap.c(), 1), Err(TapError::WrongMac));

    // One foreign key in 256 happens to yield the tag; the signature is then what refuses.
    let refused = (2..=255_u8).filter(|byte| {
        boltcard::decrypt_picc(&IssuerKey::new([*byte; 16]), tap.p()) == Err(TapError::NotOurs)
    });
    assert!(refused.count() > 240);
}

#[test]
fn the_signature_of_one_tap_does_not_serve_another() {
    let mut card = chip(&UID, 1, &KeyDerivation::Standard);
    let first = TapUrl::parse(&card.tap()).unwrap();
    let second = TapUrl::parse(&card.tap()).unwrap();
    assert_eq!(verify(second.p(), first.c(), 1), Err(TapError::WrongMac));
}

proptest! {
    #[test]
    fn any_chip_and_counter_verify(
        uid: [u8; 7], counter in 0..HIGHEST_COUNTER, version: u32,
    ) {
        let mut card = chip(&uid, version, &KeyDerivation::Standard);
        card.set_counter(counter);
        let tap = TapUrl::parse(&card.tap()).unwrap();
        let picc = PiccData { uid, counter: counter + 1 };
        prop_assert_eq!(verify(tap.p(), tap.c(), version), Ok(picc));
    }

    #[test]
    fn any_text_is_read_or_refused(
        text in "\\PC{0,300}",
        nearly in "(?i)(lightning:)?(lnurlw|lnurl1|https?)(://)?[a-z./]{0,9}\\?([pck1]{1,2}=[0-9a-fé%&=#-]{0,33}&){0,4}",
    ) {
        for text in [text, nearly] {
            if let Ok(tap) = TapUrl::parse(&text) {
                let _ = verify(tap.p(), tap.c(), 1);
                let print = format!("{tap:?}").to_lowercase();
                prop_assert!(!print.contains(&hex::encode(tap.p())));
            }
        }
    }
}
