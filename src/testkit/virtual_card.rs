//! A bolt card without the plastic: it taps as an NTAG 424 DNA does.
//!
//! Written from NXP's AN12196 on its own: it shares no code with the check in
//! [`cards::boltcard`](crate::cards::boltcard), so that each checks the other.

use aes::Aes128;
use aes::cipher::{BlockEncryptMut, KeyIvInit, block_padding::NoPadding};
use cmac::{Cmac, Mac};

use crate::cards::ProgrammingKeys;

/// The keys given to the card are not five times 32 hex digits, or its number not 14.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the card cannot be programmed with this")]
pub struct ProgrammingError;

/// A chip with its keys on it.
pub struct VirtualCard {
    uid: [u8; 7],
    piccdata_key: [u8; 16],
    signing_key: [u8; 16],
    url: String,
    counter: u32,
}

impl VirtualCard {
    /// Writes keys and URL on a chip, as a card programmer does.
    ///
    /// # Errors
    /// When `uid` is not 14 hex digits or a key not 32.
    pub fn program(uid: &str, keys: &ProgrammingKeys) -> Result<Self, ProgrammingError> {
        Ok(Self {
            uid: decode(uid)?,
            piccdata_key: decode(&keys.k1)?,
            signing_key: decode(&keys.k2)?,
            url: keys.lnurlw.clone(),
            counter: 0,
        })
    }

    /// How often it was tapped.
    pub fn counter(&self) -> u32 {
        self.counter
    }

    /// A chip that was tapped before; 24 bits.
    pub fn set_counter(&mut self, counter: u32) {
        self.counter = counter & 0x00ff_ffff;
    }

    /// Taps the card: its counter goes up, and it shows its URL with number and counter hidden
    /// and signed.
    pub fn tap(&mut self) -> String {
        self.set_counter(self.counter.wrapping_add(1));
        let counter = self.counter.to_le_bytes();
        let mut picc = [0_u8; 16];
        picc[0] = 0xc7;
        picc[1..8].copy_from_slice(&self.uid);
        picc[8..11].copy_from_slice(&counter[..3]);
        // The chip fills up with random bytes; these only need to differ from tap to tap.
        let filling = self.mac(&self.signing_key, &picc);
        picc[11..16].copy_from_slice(&filling[..5]);
        let cipher = cbc::Encryptor::<Aes128>::new(&self.piccdata_key.into(), &[0; 16].into());
        let hidden = cipher.encrypt_padded_vec_mut::<NoPadding>(&picc);

        let mut session = vec![0x3c, 0xc3, 0x00, 0x01, 0x00, 0x80];
        session.extend_from_slice(&self.uid);
        session.extend_from_slice(&counter[..3]);
        let session_key = self.mac(&self.signing_key, &session);
        let signature = self.mac(&session_key, &[]);
        let short: Vec<u8> = signature.iter().skip(1).step_by(2).copied().collect();
        format!(
            "{}?p={}&c={}",
            self.url,
            hex::encode_upper(hidden),
            hex::encode_upper(short)
        )
    }

    fn mac(&self, key: &[u8; 16], text: &[u8]) -> [u8; 16] {
        let mut mac = <Cmac<Aes128> as cmac::digest::KeyInit>::new(key.into());
        Mac::update(&mut mac, text);
        mac.finalize().into_bytes().into()
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], ProgrammingError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| ProgrammingError)?;
    Ok(bytes)
}
