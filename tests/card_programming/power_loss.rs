//! The card is taken away after any frame of any operation; then the operation is run again.

use std::sync::Arc;

use flashkit::cards::programming::{CardProgrammer, ChipError, ChipKeys, TransportError};
use flashkit::testkit::virtual_chip::{PowerLoss, VirtualChip};

use crate::bench::*;

const LOST: Result<(), ChipError> = Err(ChipError::Transport(TransportError::Lost));

/// One operation, from a chip in some state.
struct Operation {
    name: &'static str,
    start: fn() -> Arc<VirtualChip>,
    run: fn(&CardProgrammer) -> Result<(), ChipError>,
    done: fn(&VirtualChip),
    /// How many master keys one run may try in vain.
    tried_in_vain: u32,
    /// The versions whose keys the chip may hold meanwhile; 0 is the factory.
    versions: &'static [u32],
}

fn wipe(programmer: &CardProgrammer, versions: &[u32]) -> Result<(), ChipError> {
    let sets: Vec<ChipKeys> = versions.iter().copied().map(keys).collect();
    run(programmer.wipe(&hex::encode(UID), &sets))
}

fn reprogram(
    programmer: &CardProgrammer,
    from: &[ChipKeys],
    version: u32,
    url: &str,
) -> Result<(), ChipError> {
    run(programmer.reprogram(from, &payload_at(version, url))).map(drop)
}

const OPERATIONS: [Operation; 6] = [
    Operation {
        name: "program",
        start: blank,
        run: |programmer| run(programmer.program(&payload(1))).map(drop),
        done: |chip| assert_card(chip, 1, URL),
        tried_in_vain: 1,
        versions: &[0, 1],
    },
    Operation {
        name: "re-key, same URL",
        start: || card(1),
        run: |programmer| reprogram(programmer, &[keys(1)], 2, URL),
        done: |chip| assert_card(chip, 2, URL),
        tried_in_vain: 1,
        versions: &[1, 2],
    },
    Operation {
        name: "re-key, other URL",
        start: || card(1),
        run: |programmer| reprogram(programmer, &[keys(1)], 2, OTHER_URL),
        done: |chip| assert_card(chip, 2, OTHER_URL),
        tried_in_vain: 1,
        versions: &[1, 2],
    },
    Operation {
        name: "re-key among older versions",
        start: || card(2),
        run: |programmer| reprogram(programmer, &[keys(3), keys(2), keys(1)], 4, OTHER_URL),
        done: |chip| assert_card(chip, 4, OTHER_URL),
        tried_in_vain: 3,
        versions: &[2, 4],
    },
    Operation {
        name: "wipe",
        start: || card(1),
        run: |programmer| wipe(programmer, &[1]),
        done: assert_blank,
        tried_in_vain: 1,
        versions: &[0, 1],
    },
    Operation {
        name: "wipe among older versions",
        start: || card(1),
        run: |programmer| wipe(programmer, &[3, 2, 1]),
        done: assert_blank,
        tried_in_vain: 3,
        versions: &[0, 1],
    },
];

const LOSSES: [PowerLoss; 3] = [PowerLoss::Before, PowerLoss::During, PowerLoss::After];

impl Operation {
    /// A chip on which the operation lost its power at this frame; `None` when it has fewer.
    fn torn(&self, frame: u64, when: PowerLoss) -> Option<Arc<VirtualChip>> {
        let chip = (self.start)();
        chip.lose_power(frame, when);
        let ended = (self.run)(&programmer(chip.clone()));
        if !chip.is_dead() {
            assert_eq!(ended, Ok(()));
            return None;
        }
        assert_eq!(ended, LOST, "{} {frame} {when:?}", self.name);
        self.assert_known(&chip);
        self.assert_no_torn_mirrors(&chip);
        chip.power_on();
        Some(chip)
    }

    /// Every key on the chip is of one of the versions.
    fn assert_known(&self, chip: &VirtualChip) {
        for (number, key) in chip.keys().iter().enumerate() {
            let known = self
                .versions
                .iter()
                .any(|version| raw(*version)[number] == *key);
            assert!(known, "{}: key {number}", self.name);
        }
    }

    /// The chip mirrors nothing into a text that is only half there.
    fn assert_no_torn_mirrors(&self, chip: &VirtualChip) {
        let mirrors = chip.ndef_settings()[1] & 0x40 != 0;
        let other = (self.start)();
        let before = other.ndef_file();
        (self.run)(&programmer(other.clone())).unwrap();
        let whole = [before, other.ndef_file()].contains(&chip.ndef_file());
        assert!(!mirrors || whole, "{}", self.name);
    }

    fn finish(&self, chip: &Arc<VirtualChip>) {
        let before = chip.failed_authentications();
        (self.run)(&programmer(chip.clone())).unwrap();
        let failed = chip.failed_authentications() - before;
        assert!(failed <= self.tried_in_vain, "{}: {failed}", self.name);
        (self.done)(chip);
    }
}

#[test]
fn power_lost_once_at_any_frame() {
    for operation in &OPERATIONS {
        for when in LOSSES {
            let mut frames = 0;
            while let Some(chip) = operation.torn(frames + 1, when) {
                frames += 1;
                operation.finish(&chip);
            }
            println!("{} {when:?}: {frames} frames", operation.name);
            assert!(frames > 15, "{}", operation.name);
        }
    }
}

#[test]
fn power_lost_twice_at_any_two_frames() {
    for operation in &OPERATIONS[..5] {
        let mut first = 1;
        while let Some(chip) = operation.torn(first, LOSSES[first as usize % 3]) {
            drop(chip);
            for second in 1.. {
                let when = LOSSES[(first + second) as usize % 3];
                let chip = operation.torn(first, LOSSES[first as usize % 3]).unwrap();
                chip.lose_power(second, when);
                let ended = (operation.run)(&programmer(chip.clone()));
                if !chip.is_dead() {
                    assert_eq!(ended, Ok(()));
                    break;
                }
                assert_eq!(ended, LOST);
                operation.assert_known(&chip);
                chip.power_on();
                operation.finish(&chip);
            }
            first += 1;
        }
    }
}

/// Losing power at every frame in turn, as a card held badly does: each run gets a little further
/// or starts over, and the last one ends right.
#[test]
fn power_lost_again_and_again() {
    for operation in &OPERATIONS {
        let chip = (operation.start)();
        let mut runs = 0;
        for frame in 1.. {
            chip.lose_power(frame, LOSSES[frame as usize % 3]);
            let ended = (operation.run)(&programmer(chip.clone()));
            operation.assert_known(&chip);
            if !chip.is_dead() {
                assert_eq!(ended, Ok(()));
                break;
            }
            assert_eq!(ended, LOST);
            chip.power_on();
            runs += 1;
        }
        assert!(runs > 10, "{}", operation.name);
        (operation.done)(&chip);
    }
}

/// Whoever gives up on an operation can always do another one.
#[test]
fn another_operation_after_power_was_lost() {
    for (operation, versions) in [
        (&OPERATIONS[0], &[1][..]),
        (&OPERATIONS[1], &[2, 1]),
        (&OPERATIONS[2], &[2, 1]),
        (&OPERATIONS[3], &[4, 2]),
    ] {
        for when in LOSSES {
            for frame in 1.. {
                let Some(chip) = operation.torn(frame, when) else {
                    break;
                };
                wipe(&programmer(chip.clone()), versions).unwrap();
                assert_blank(&chip);
            }
        }
    }
    let from = [ChipKeys::factory(), keys(1)];
    for operation in [&OPERATIONS[0], &OPERATIONS[4]] {
        for when in LOSSES {
            for frame in 1.. {
                let Some(chip) = operation.torn(frame, when) else {
                    break;
                };
                reprogram(&programmer(chip.clone()), &from, 5, OTHER_URL).unwrap();
                assert_card(&chip, 5, OTHER_URL);
            }
        }
    }
}
