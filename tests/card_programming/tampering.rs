//! Answers that are not the chip's: the driver never panics, never takes one for the chip's, and
//! the next run with an honest reader ends right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use flashkit::cards::programming::{CardTransport, ChipError, TransportError};
use flashkit::testkit::virtual_chip::VirtualChip;
use proptest::prelude::*;

use crate::bench::*;

/// Makes an answer of another one, with some bytes of its own.
type Lie = fn(Vec<u8>, &[u8]) -> Vec<u8>;

/// A reader that changes one answer.
struct Lying {
    chip: Arc<VirtualChip>,
    frames: AtomicU64,
    at: u64,
    lie: Lie,
    with: Vec<u8>,
}

#[async_trait]
impl CardTransport for Lying {
    async fn transceive(&self, command: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let answer = self.chip.transceive(command).await?;
        let frame = self.frames.fetch_add(1, Ordering::Relaxed);
        Ok(if frame == self.at {
            (self.lie)(answer, &self.with)
        } else {
            answer
        })
    }
}

/// A reader that answers whatever was made up.
struct Nonsense {
    answers: Vec<Vec<u8>>,
    next: AtomicU64,
}

#[async_trait]
impl CardTransport for Nonsense {
    async fn transceive(&self, _: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        self.answers.get(next).cloned().ok_or(TransportError::Lost)
    }
}

const LIES: [Lie; 5] = [
    |_, with| with.to_vec(),
    |answer, with| [with, &answer].concat(),
    |answer, with| answer[..answer.len().saturating_sub(with.len())].to_vec(),
    |mut answer, with| {
        for (byte, with) in answer.iter_mut().zip(with) {
            *byte ^= with;
        }
        answer
    },
    |answer, with| {
        let at = answer.len().saturating_sub(2);
        [&answer[..at], &with[..with.len().min(2)]].concat()
    },
];

/// A card whose tap does not verify in the end is not handed over.
#[test]
fn the_tap_of_the_finished_card_is_a_lie() {
    let chip = card(1);
    let lying = |at: u64, byte: usize| {
        let mut with = vec![0; byte];
        with.push(0x01);
        let reader = Arc::new(Lying {
            chip: chip.clone(),
            frames: AtomicU64::new(0),
            at,
            lie: LIES[3],
            with,
        });
        run(programmer(reader).program(&payload(1)))
    };
    let before = chip.frames();
    run(programmer(chip.clone()).program(&payload(1))).unwrap();
    let last_but_one = chip.frames() - before - 2;
    let settled = chip.ndef_file();
    let text = String::from_utf8_lossy(&settled);
    for place in ["lnurlw", "?p=", "&c="].map(|place| text.find(place).unwrap() + 3) {
        assert_eq!(lying(last_but_one, place), Err(ChipError::CheckFailed));
    }
    assert_card(&chip, 1, URL);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn one_answer_is_a_lie(
        at in 0_u64..45,
        lie in 0..LIES.len(),
        with in prop::collection::vec(any::<u8>(), 0..40),
        rekeys in any::<bool>(),
    ) {
        let chip = if rekeys { card(1) } else { blank() };
        let reader = Arc::new(Lying {
            chip: chip.clone(),
            frames: AtomicU64::new(0),
            at,
            lie: LIES[lie],
            with,
        });
        let attempt = |transport: Arc<dyn CardTransport>| {
            let programmer = programmer(transport);
            if rekeys {
                run(programmer.reprogram(&[keys(1)], &payload_at(2, OTHER_URL)))
            } else {
                run(programmer.program(&payload_at(2, OTHER_URL)))
            }
        };
        let first = attempt(reader);
        for (number, key) in chip.keys().iter().enumerate() {
            let old = raw(u32::from(rekeys))[number];
            prop_assert!(*key == old || *key == raw(2)[number], "key {}", number);
        }
        if let Err(error) = &first {
            prop_assert!(error.code().starts_with("card.chip_"), "{}", error);
        }
        chip.power_on();
        let second = attempt(chip.clone());
        prop_assert!(second.is_ok(), "{:?} after {:?}", second, first);
        assert_card(&chip, 2, OTHER_URL);
    }

    #[test]
    fn every_answer_is_made_up(
        answers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
    ) {
        let reader = Arc::new(Nonsense { answers, next: AtomicU64::new(0) });
        prop_assert!(run(programmer(reader.clone()).program(&payload(1))).is_err());
        let read: Result<_, ChipError> = run(programmer(reader).read());
        prop_assert!(read.is_err());
    }
}
