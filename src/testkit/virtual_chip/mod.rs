//! An NTAG 424 DNA chip without the silicon, to be programmed, tapped, and torn from the reader.
//!
//! Written from the data sheet NT4H2421Gx. It shares no command builder, no session key and no
//! MAC code with the driver in [`cards::programming`](crate::cards::programming), so that each
//! checks the other. LRP, SetConfiguration, the originality signature and the file counters are
//! not simulated.

mod commands;
mod crypto;
mod files;
mod iso;
mod session;
mod status;

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::cards::programming::{CardTransport, TransportError};
use commands::Chip;

/// When the chip loses its power, seen from the frame it happens at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerLoss {
    /// The frame has no effect.
    Before,
    /// A write reaches half of its bytes; any other frame has no effect.
    During,
    /// The frame has its effect, but no answer comes.
    After,
}

/// A chip in the field of a reader.
pub struct VirtualChip {
    chip: Mutex<Chip>,
}

impl VirtualChip {
    /// A chip from the factory. The same `seed` makes the same random numbers.
    pub fn new(uid: [u8; 7], seed: u64) -> Self {
        Self {
            chip: Mutex::new(Chip::new(uid, seed)),
        }
    }

    fn chip(&self) -> MutexGuard<'_, Chip> {
        self.chip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the chip shows its number only to who has opened it.
    pub fn hide_uid(&self) {
        self.chip().hides_uid = true;
    }

    /// Takes the chip from the reader and back: sessions and selections are gone.
    pub fn power_on(&self) {
        self.chip().power_on();
    }

    /// Lets the chip lose its power at a frame from now, 1 for the next; it then stays silent
    /// until [`Self::power_on`].
    pub fn lose_power(&self, frame: u64, when: PowerLoss) {
        self.chip().power_loss = Some((frame, when));
    }

    /// Whether it has lost its power.
    pub fn is_dead(&self) -> bool {
        self.chip().dead
    }

    /// How many frames it has answered or begun.
    pub fn frames(&self) -> u64 {
        self.chip().frames
    }

    /// How many authentications have failed, ever.
    pub fn failed_authentications(&self) -> u32 {
        self.chip().failed
    }

    /// The five keys it holds.
    pub fn keys(&self) -> [[u8; 16]; 5] {
        self.chip().keys
    }

    /// The version bytes of its five keys.
    pub fn key_versions(&self) -> [u8; 5] {
        self.chip().versions
    }

    /// What stands in its NDEF file, without mirrors.
    pub fn ndef_file(&self) -> Vec<u8> {
        self.chip().files[1].content.clone()
    }

    /// What GetFileSettings would show of its NDEF file.
    pub fn ndef_settings(&self) -> Vec<u8> {
        self.chip().files[1].describe()
    }

    /// How often its NDEF file was read with its mirrors on, since they were set up.
    pub fn counter(&self) -> u32 {
        self.chip().files[1].reads
    }

    /// Sets how often its NDEF file was read; 24 bits.
    pub fn set_counter(&self, reads: u32) {
        self.chip().files[1].reads = reads & 0x00ff_ffff;
    }

    /// Taps the card on a phone, which reads it as an NFC Forum type 4 tag: the URL it shows, or
    /// `None` when it shows none.
    pub fn tap(&self) -> Option<String> {
        let mut chip = self.chip();
        chip.power_on();
        chip.iso(
            &[0xa4, 0x04, 0x00],
            &[0xd2, 0x76, 0x00, 0x00, 0x85, 0x01, 0x01],
        )?;
        let container = [0xe1, 0x03];
        chip.iso(&[0xa4, 0x00, 0x0c], &container)?;
        let container = chip.iso(&[0xb0, 0x00, 0x00, 0x0f], &[])?;
        let file = container.get(9..11)?.to_vec();
        chip.iso(&[0xa4, 0x00, 0x0c], &file)?;
        let length = chip.iso(&[0xb0, 0x00, 0x00, 0x02], &[])?;
        let message = chip.iso(&[0xb0, 0x00, 0x02, *length.get(1)?], &[])?;
        chip.power_on();
        match message.as_slice() {
            [0xd1, 0x01, size, b'U', 0x00, url @ ..] if usize::from(*size) == url.len() + 1 => {
                String::from_utf8(url.to_vec()).ok()
            }
            _ => None,
        }
    }
}

#[async_trait]
impl CardTransport for VirtualChip {
    async fn transceive(&self, command: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        self.chip().frame(&command).ok_or(TransportError::Lost)
    }
}
