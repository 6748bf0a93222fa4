//! A reader, chips and keys to test with.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use flashkit::cards::ProgrammingKeys;
use flashkit::cards::boltcard::{
    BoltcardKeys, IssuerKey, KeyDerivation, PiccData, TapError, TapUrl, decrypt_picc, verify_mac,
};
use flashkit::cards::programming::{CardPayload, CardProgrammer, CardTransport, ChipKeys};
use flashkit::ports::{Entropy, EntropyError};
use flashkit::testkit::virtual_chip::VirtualChip;

pub const UID: [u8; 7] = [0x04, 0xa3, 0x94, 0x93, 0xcc, 0x86, 0x80];
pub const URL: &str = "lnurlw://pay.example.com/boltcard";
pub const OTHER_URL: &str = "lnurlw://cards.example.org/some/other/path?shop=7";

/// Runs what never waits for anything.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a simulated chip answers at once"),
    }
}

/// Numbers that repeat from run to run, and never within one.
#[derive(Default)]
pub struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for byte in bytes {
            let drawn = self.0.fetch_add(1, Ordering::Relaxed);
            *byte = (drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
        Ok(())
    }
}

pub fn issuer() -> IssuerKey {
    IssuerKey::new([0x42; 16])
}

pub fn derived(uid: &[u8; 7], version: u32) -> BoltcardKeys {
    issuer().card_keys(uid, version, &KeyDerivation::Standard)
}

/// What an issuer answers for a chip.
pub fn answer(uid: &[u8; 7], version: u32, url: &str) -> ProgrammingKeys {
    let keys = derived(uid, version);
    ProgrammingKeys {
        lnurlw: url.to_owned(),
        version,
        k0: keys.k0.to_hex(),
        k1: keys.k1.to_hex(),
        k2: keys.k2.to_hex(),
        k3: keys.k3.to_hex(),
        k4: keys.k4.to_hex(),
    }
}

pub fn payload(version: u32) -> CardPayload {
    payload_at(version, URL)
}

pub fn payload_at(version: u32, url: &str) -> CardPayload {
    CardPayload::new(&hex::encode(UID), &answer(&UID, version, url)).unwrap()
}

pub fn keys(version: u32) -> ChipKeys {
    ChipKeys::new(derived(&UID, version), version)
}

/// The five keys of a version as bytes; 0 is the factory.
pub fn raw(version: u32) -> [[u8; 16]; 5] {
    if version == 0 {
        return [[0; 16]; 5];
    }
    let keys = derived(&UID, version);
    [&keys.k0, &keys.k1, &keys.k2, &keys.k3, &keys.k4].map(|key| {
        let mut bytes = [0; 16];
        hex::decode_to_slice(key.to_hex(), &mut bytes).unwrap();
        bytes
    })
}

pub fn programmer(transport: Arc<dyn CardTransport>) -> CardProgrammer {
    CardProgrammer::new(transport, Arc::new(Counting::default()))
}

pub fn blank() -> Arc<VirtualChip> {
    Arc::new(VirtualChip::new(UID, 7))
}

/// A chip that was made a card of this version.
pub fn card(version: u32) -> Arc<VirtualChip> {
    let chip = blank();
    run(programmer(chip.clone()).program(&payload(version))).unwrap();
    chip.power_on();
    chip
}

/// As a server checks a tap: the keys are those of the chip that `p` names, at a version.
pub fn verify(tap: &str, version: u32) -> Result<PiccData, TapError> {
    let tap = TapUrl::parse(tap)?;
    let picc = decrypt_picc(&issuer(), tap.p())?;
    verify_mac(&derived(&picc.uid, version), &picc, tap.c())?;
    Ok(picc)
}

/// Whether the chip is a finished card of this version that shows this URL.
pub fn assert_card(chip: &VirtualChip, version: u32, url: &str) {
    assert_eq!(chip.keys(), raw(version));
    assert_eq!(chip.key_versions(), [version as u8; 5]);
    let tap = chip.tap().unwrap();
    assert!(tap.starts_with(url), "{tap}");
    assert_eq!(verify(&tap, version).unwrap().uid, UID);
}

/// Whether the chip is as it came from the factory.
pub fn assert_blank(chip: &VirtualChip) {
    let fresh = VirtualChip::new(UID, 7);
    assert_eq!(chip.keys(), fresh.keys());
    assert_eq!(chip.key_versions(), fresh.key_versions());
    assert_eq!(chip.ndef_file(), fresh.ndef_file());
    assert_eq!(chip.ndef_settings(), fresh.ndef_settings());
}
