//! The seeds of the fuzz target `chip_answers`: whole runs, as the simulated chip answered them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use async_trait::async_trait;
use flashkit::cards::programming::{CardProgrammer, CardTransport, TransportError};
use flashkit::ports::{Entropy, EntropyError};
use flashkit::testkit::virtual_chip::VirtualChip;

use crate::bench::*;

/// A reader that writes down what the chip answers, each behind a byte with its length.
struct Recorder {
    chip: Arc<VirtualChip>,
    tape: Mutex<Vec<u8>>,
}

#[async_trait]
impl CardTransport for Recorder {
    async fn transceive(&self, command: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let answer = self.chip.transceive(command).await?;
        let mut tape = self.tape.lock().unwrap();
        tape.push(u8::try_from(answer.len()).unwrap());
        tape.extend_from_slice(&answer);
        Ok(answer)
    }
}

/// As in the fuzz target.
struct Constant;

impl Entropy for Constant {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        bytes.fill(0x13);
        Ok(())
    }
}

/// The seeds are what they say, so that the fuzzer begins with runs that go to their end. After a
/// change to the driver: `FLASHKIT_RECORD=1 cargo test --test card_programming recorded`.
#[test]
fn the_seeds_are_whole_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/chip_answers");
    type Attempt = fn(&CardProgrammer);
    let runs: [(&str, Arc<VirtualChip>, Attempt); 4] = [
        ("program", blank(), |programmer| {
            run(programmer.program(&payload(1))).unwrap();
        }),
        ("reprogram", card(1), |programmer| {
            run(programmer.reprogram(&[keys(1)], &payload(2))).unwrap();
        }),
        ("wipe", card(1), |programmer| {
            run(programmer.wipe(&hex::encode(UID), &[keys(1)])).unwrap();
        }),
        ("read", card(1), |programmer| {
            run(programmer.read()).unwrap();
        }),
    ];
    for (operation, (name, chip, attempt)) in (0_u8..).zip(runs) {
        let tape = Mutex::new(vec![operation]);
        let recorder = Arc::new(Recorder { chip, tape });
        attempt(&CardProgrammer::new(recorder.clone(), Arc::new(Constant)));
        let tape = recorder.tape.lock().unwrap();
        let seed = folder.join(name);
        if env::var_os("FLASHKIT_RECORD").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&seed, &*tape).unwrap();
        }
        assert_eq!(fs::read(&seed).unwrap(), *tape, "{name}");
    }
}
