//! What it costs to find the card of a tap among many issuer keys, and to verify the tap.
//!
//! Beside each stands the bare work in the same run, slice by slice in turn: the AES blocks and
//! CMACs that the specification asks for, done with the crates alone. Printed are the median of
//! the ratios of neighbouring slices, with its spread, and absolute times; what is judged is only
//! that every tap was found and verified, and no other.
//!
//! `cargo bench --bench taps`; `-- --quick` for a tenth of it.

use std::hint::black_box;
use std::time::Instant;

use aes::cipher::{BlockDecrypt, KeyInit};
use aes::{Aes128Dec, Aes128Enc};
use cmac::{Cmac, Mac};
use flashkit::cards::ProgrammingKeys;
use flashkit::cards::boltcard::{IssuerKey, IssuerKeyRing, KeyDerivation, TapUrl};
use flashkit::testkit::virtual_card::VirtualCard;

const CARDS: u32 = 1_000;
const KEYS: u16 = 1_000;

fn issuer(number: u16) -> IssuerKey {
    let [high, low] = number.to_be_bytes();
    IssuerKey::new([high, low, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
}

/// A tap of a card whose keys come from an issuer's.
fn tap(issuer: &IssuerKey, number: u32) -> String {
    let [a, b, c, d] = number.to_be_bytes();
    let uid = [4, 0, 0, a, b, c, d];
    let keys = issuer.card_keys(&uid, 1, &KeyDerivation::Standard);
    let keys = ProgrammingKeys {
        lnurlw: "lnurlw://pay.example.com/boltcard".to_owned(),
        version: 1,
        k0: keys.k0.to_hex(),
        k1: keys.k1.to_hex(),
        k2: keys.k2.to_hex(),
        k3: keys.k3.to_hex(),
        k4: keys.k4.to_hex(),
    };
    let chip = VirtualCard::program(&hex::encode(uid), &keys);
    chip.map_or_else(|error| panic!("{error}"), |mut chip| chip.tap())
}

/// From the text of a tap to a verified counter, as an engine does it but for its card's record.
fn verify(ring: &IssuerKeyRing, text: &str) -> bool {
    let Ok(tap) = TapUrl::parse(text) else {
        return false;
    };
    ring.open(tap.p()).any(|opened| {
        black_box(opened.key.card_id_hash(&opened.picc.uid));
        opened.key.verify(&opened.picc, 1, None, &tap).is_ok()
    })
}

/// The AES and CMAC of one verification, with the crates alone: one block decrypted, two CMACs
/// under the issuer's ready key, three under keys that come up on the way.
struct Bare {
    opener: Aes128Dec,
    issuer: Cmac<Aes128Enc>,
}

impl Bare {
    fn new() -> Self {
        Self {
            opener: Aes128Dec::new(&[7; 16].into()),
            issuer: <Cmac<Aes128Enc> as KeyInit>::new(&[7; 16].into()),
        }
    }

    fn work(&self, seed: u8) -> [u8; 16] {
        let mut block = [seed; 16].into();
        self.opener.decrypt_block(&mut block);
        let finish = |mut mac: Cmac<Aes128Enc>, text: &[u8]| -> [u8; 16] {
            mac.update(text);
            mac.finalize().into_bytes().into()
        };
        black_box(finish(self.issuer.clone(), &block[..11]));
        let mut key = finish(self.issuer.clone(), &block[..15]);
        for length in [4, 16, 0] {
            key = finish(
                <Cmac<Aes128Enc> as KeyInit>::new(&key.into()),
                &block[..length],
            );
        }
        key
    }
}

/// The same block decrypted with every key.
fn bare_search(openers: &[Aes128Dec], p: &[u8; 16]) -> usize {
    let tagged = openers.iter().filter(|opener| {
        let mut block = (*p).into();
        opener.decrypt_block(&mut block);
        block[0] == 0xc7
    });
    tagged.count()
}

/// Median and quartiles, of values in any order.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

/// Two works in turn, slice by slice; prints what each takes, and their ratio.
fn compare(
    name: &str,
    slices: usize,
    each: usize,
    mut ours: impl FnMut(usize),
    mut bare: impl FnMut(usize),
) -> f64 {
    let (mut times, mut bares, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for slice in 0..slices {
        let begun = Instant::now();
        (0..each).for_each(|number| ours(slice * each + number));
        let time = begun.elapsed().as_secs_f64() / each as f64;
        let begun = Instant::now();
        (0..each).for_each(|number| bare(slice * each + number));
        let bare_time = begun.elapsed().as_secs_f64() / each as f64;
        times.push(time);
        bares.push(bare_time);
        ratios.push(time / bare_time);
    }
    let [low, ratio, high] = spread(ratios);
    let [best, time, _] = spread(times);
    let [_, bare_time, _] = spread(bares);
    println!(
        "  {name:44} {:9.0} ns ({:.2} M a second; best quarter {:.0} ns), bare {:.0} ns, x{ratio:.2} ({low:.2} to {high:.2})",
        time * 1e9,
        1e-6 / time,
        best * 1e9,
        bare_time * 1e9,
    );
    time
}

fn main() {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let slices = if is_quick { 21 } else { 201 };
    let taps: Vec<String> = (0..CARDS).map(|number| tap(&issuer(0), number)).collect();
    let one = IssuerKeyRing::new([issuer(0)]);
    let of_others = IssuerKeyRing::new([issuer(1)]);
    let right = taps.iter().filter(|text| verify(&one, text)).count();
    let wrong = taps.iter().filter(|text| verify(&of_others, text)).count();
    assert_eq!((right, wrong), (taps.len(), 0), "taps verified");

    println!("one core, {slices} slices in turn, median:");
    let bare = Bare::new();
    let time = compare(
        "a tap verified, from its text",
        slices,
        1_000,
        |number| {
            black_box(verify(&one, &taps[number % taps.len()]));
        },
        |number| {
            black_box(bare.work(u8::try_from(number % 251).unwrap_or(0)));
        },
    );
    println!("    a million a second: {}", time <= 1e-6);

    let many = IssuerKeyRing::new((0..KEYS).map(issuer));
    let openers: Vec<Aes128Dec> = (0..KEYS)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let mut key = [9; 16];
            key[..2].copy_from_slice(&[high, low]);
            Aes128Dec::new(&key.into())
        })
        .collect();
    for (name, of) in [("first", 0), ("last", KEYS - 1), ("absent", KEYS)] {
        let texts: Vec<String> = (0..100).map(|number| tap(&issuer(of), number)).collect();
        let found = texts.iter().filter(|text| verify(&many, text)).count();
        assert_eq!(found, if of == KEYS { 0 } else { texts.len() }, "{name}");
        let parsed: Vec<TapUrl> = texts.iter().flat_map(|text| TapUrl::parse(text)).collect();
        let search = |number: usize| {
            let tap = &parsed[number % parsed.len()];
            for opened in many.open(tap.p()) {
                black_box(opened.key.card_id_hash(&opened.picc.uid));
            }
        };
        let bare = |number: usize| {
            black_box(bare_search(&openers, parsed[number % parsed.len()].p()));
        };
        let name = format!("a card sought among {KEYS} keys, {name}");
        let time = compare(&name, slices, 20, search, bare);
        println!("    within 50 us: {}", time <= 50e-6);
    }
}
