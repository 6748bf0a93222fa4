//! Every fuzz target, on its corpus and on mutations of it: `FLASHKIT_FUZZ_RUNS=1000000 cargo
//! test --test fuzz_targets` for longer, `cargo fuzz run NAME` without end.

#[allow(dead_code, reason = "cargo-fuzz takes them one by one")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use targets::{TARGETS, Target};

/// Mutations of a target. Those that are slow make fewer.
fn runs(name: &str) -> u64 {
    let wanted = std::env::var("FLASHKIT_FUZZ_RUNS").map(|text| text.parse().unwrap());
    wanted.unwrap_or(match name {
        "stored_records" => 3_000,
        "wallet_texts" => 2_000,
        "receipt_bundle" => 2_000,
        "bolt11" | "chip_answers" | "commands" | "import_stream" => 10_000,
        _ => 30_000,
    })
}

/// Knuth's MMIX generator: its upper bits are random enough here.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus().join(name))
        .unwrap_or_else(|error| panic!("no corpus for {name}: {error}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// What formats are sensitive to.
const WORDS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"9223372036854775807",
    b"9223372036854775808",
    b"1e400",
    b".",
    b"\"",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"\0",
    b"\xff",
    "\u{20bf}".as_bytes(),
    b"/",
    b":",
    b"?p=",
    b"&c=",
    b"_",
    b"1",
    b"%00",
    b"%",
];

fn mutated(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut data = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(data.len() + 1);
        match chance.below(8) {
            0 => data.truncate(at),
            1 => data.insert(at, u8::try_from(chance.below(256)).unwrap()),
            2 => drop(data.splice(at..at, WORDS[chance.below(WORDS.len())].iter().copied())),
            3 => {
                let end = at + chance.below(data.len() + 1 - at);
                data.drain(at..end);
            }
            4 => {
                let other = &seeds[chance.below(seeds.len())];
                let from = chance.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            5 => {
                let end = at + chance.below(data.len() + 1 - at);
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            _ if at < data.len() => data[at] ^= 1 << chance.below(8),
            _ => {}
        }
        data.truncate(4_096);
    }
    data
}

fn exercise((name, run): Target) {
    let (seeds, mut chance) = (seeds(name), Chance(0x5eed));
    let one = |data: &[u8]| {
        let caught = std::panic::catch_unwind(|| run(data));
        caught.unwrap_or_else(|_| panic!("{name} fails on {}", hex::encode(data)))
    };
    let from_corpus = seeds.iter().filter(|data| one(data)).count();
    let (mutations, mut read) = (runs(name), 0_u64);
    for _ in 0..mutations {
        read += u64::from(one(&mutated(&seeds, &mut chance)));
    }
    println!(
        "{name}: {from_corpus} of {} in the corpus were read, and {read} of {mutations} mutations",
        seeds.len()
    );
    assert!(from_corpus > 0, "{name}: nothing of the corpus is read");
    assert!(read > 0, "{name}: no mutation is read");
    assert!(read < mutations, "{name}: nothing is refused");
}

macro_rules! targets {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            let wanted = stringify!($name);
            if let Some(target) = TARGETS.iter().find(|(name, _)| *name == wanted) {
                exercise(*target);
            }
        }
    )*

        /// One test and one corpus a target, and one target of cargo-fuzz.
        #[test]
        fn no_target_is_left_out() {
            let tested = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let names = |folder: &Path| -> BTreeSet<String> {
                let entries = std::fs::read_dir(folder).unwrap();
                let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
                entries.map(|entry| stem(entry.unwrap().path())).collect()
            };
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            assert_eq!(tested, names(&fuzz.join("corpus")));
            assert_eq!(tested, names(&fuzz.join("fuzz_targets")));
            let built = TARGETS.iter().map(|(name, _)| (*name).to_owned());
            assert!(built.collect::<BTreeSet<_>>().is_subset(&tested));
        }
    };
}

targets!(
    bolt11,
    chain_answers,
    chip_answers,
    commands,
    import_stream,
    lightning_address,
    lnurl_query,
    money,
    names,
    postgres_config,
    rate_answer,
    receipt_bundle,
    stored_records,
    tap_url,
    wallet_texts
);
