//! Secure messaging between a reader and an authenticated NTAG 424 DNA (NT4H2421Gx §9.1).

use aes::Aes128;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{Block, BlockDecryptMut, BlockEncrypt, BlockEncryptMut, KeyInit, KeyIvInit};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::cards::boltcard::{Key, cmac};

/// A block of AES.
const BLOCK: usize = 16;
/// A truncated MAC.
const MAC: usize = 8;

/// How a command and its answer are protected (NT4H2421Gx §9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommMode {
    /// Not at all.
    Plain,
    /// Signed.
    Mac,
    /// Enciphered and signed.
    Full,
}

/// Why an answer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unprotected {
    /// Too short for a signature, or not whole blocks.
    Length,
    /// The signature is wrong.
    Mac,
    /// What was deciphered does not end as a padded text does.
    Padding,
}

/// An authenticated session: its two keys, the transaction identifier and the command counter.
#[derive(Debug)]
pub(super) struct Session {
    enciphering: Key,
    signing: Key,
    transaction: [u8; 4],
    counter: u16,
    /// The number of the key that was authenticated with.
    pub(super) key_number: u8,
}

impl Session {
    /// The session after an authentication: `transaction` and `counter` are new after
    /// AuthenticateEV2First and carried on by AuthenticateEV2NonFirst (NT4H2421Gx §9.1.5 to §9.1.7).
    pub(super) fn new(
        key: &Key,
        key_number: u8,
        random_a: &[u8; 16],
        random_b: &[u8; 16],
        transaction: [u8; 4],
        counter: u16,
    ) -> Self {
        let mut mixed = Zeroizing::new([0; 6]);
        for (byte, (a, b)) in mixed.iter_mut().zip(random_a[2..8].iter().zip(random_b)) {
            *byte = a ^ b;
        }
        let derive = |label: [u8; 2]| {
            let vector: [&[u8]; 6] = [
                &label,
                &[0x00, 0x01, 0x00, 0x80],
                &random_a[..2],
                &*mixed,
                &random_b[6..],
                &random_a[8..],
            ];
            Key::new(cmac(key, vector))
        };
        Self {
            enciphering: derive([0xa5, 0x5a]),
            signing: derive([0x5a, 0xa5]),
            transaction,
            counter,
            key_number,
        }
    }

    pub(super) fn transaction(&self) -> [u8; 4] {
        self.transaction
    }

    pub(super) fn counter(&self) -> u16 {
        self.counter
    }

    /// Counts a command. A plain one counts as well: AN12196 §5.15 sends one between two signed
    /// ones.
    pub(super) fn count(&mut self) {
        self.counter = self.counter.wrapping_add(1);
    }

    /// The data field of a command: `header` in clear, `data` protected.
    pub(super) fn protect(&self, mode: CommMode, code: u8, header: &[u8], data: &[u8]) -> Vec<u8> {
        let mut field = header.to_vec();
        match mode {
            CommMode::Full if !data.is_empty() => field.extend(self.encipher(data)),
            _ => field.extend_from_slice(data),
        }
        if mode != CommMode::Plain {
            let mac = self.mac(code, &field);
            field.extend_from_slice(&mac);
        }
        field
    }

    /// What an answer says, once its signature is checked. The command must have been counted.
    pub(super) fn unprotect(
        &self,
        mode: CommMode,
        field: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unprotected> {
        if mode == CommMode::Plain {
            return Ok(Zeroizing::new(field.to_vec()));
        }
        let at = field.len().checked_sub(MAC).ok_or(Unprotected::Length)?;
        let (data, mac) = field.split_at(at);
        // An answer is only looked at when the chip said 00, which is what is signed.
        if !bool::from(self.mac(0x00, data).ct_eq(mac)) {
            return Err(Unprotected::Mac);
        }
        if mode == CommMode::Full && !data.is_empty() {
            return self.decipher(data);
        }
        Ok(Zeroizing::new(data.to_vec()))
    }

    fn mac(&self, first: u8, field: &[u8]) -> [u8; MAC] {
        let counter = self.counter.to_le_bytes();
        truncate(&cmac(
            &self.signing,
            [&[first], &counter, &self.transaction, field],
        ))
    }

    fn initial_vector(&self, label: [u8; 2]) -> Block<Aes128> {
        let mut vector = Block::<Aes128>::default();
        vector[..2].copy_from_slice(&label);
        vector[2..6].copy_from_slice(&self.transaction);
        vector[6..8].copy_from_slice(&self.counter.to_le_bytes());
        Aes128::new(self.enciphering.bytes().into()).encrypt_block(&mut vector);
        vector
    }

    /// Pads as ISO/IEC 9797-1 method 2 and enciphers.
    fn encipher(&self, data: &[u8]) -> Vec<u8> {
        let whole = (data.len() + 1).next_multiple_of(BLOCK);
        // In one piece, as a vector that grows leaves its content behind.
        let mut padded = Zeroizing::new(Vec::with_capacity(whole));
        padded.extend_from_slice(data);
        padded.push(0x80);
        padded.resize(whole, 0);
        let vector = self.initial_vector([0xa5, 0x5a]);
        cbc::Encryptor::<Aes128>::new(self.enciphering.bytes().into(), &vector)
            .encrypt_padded_vec_mut::<NoPadding>(&padded)
    }

    fn decipher(&self, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unprotected> {
        let vector = self.initial_vector([0x5a, 0xa5]);
        let plain = cbc::Decryptor::<Aes128>::new(self.enciphering.bytes().into(), &vector)
            .decrypt_padded_vec_mut::<NoPadding>(data)
            .map_err(|_| Unprotected::Length)?;
        let mut plain = Zeroizing::new(plain);
        let end = plain.iter().rposition(|byte| *byte != 0);
        match end {
            Some(end) if plain[end] == 0x80 && plain.len() - end <= BLOCK => {
                plain.truncate(end);
                Ok(plain)
            }
            _ => Err(Unprotected::Padding),
        }
    }
}

/// Every second byte of a MAC, from the second on (NT4H2421Gx §9.1.3).
fn truncate(mac: &[u8; 16]) -> [u8; MAC] {
    let mut truncated = [0; MAC];
    for (byte, pair) in truncated.iter_mut().zip(mac.chunks_exact(2)) {
        *byte = pair[1];
    }
    truncated
}

/// Enciphers whole blocks in CBC mode under a zero vector, as the authentication does.
pub(super) fn encipher_blocks(key: &Key, data: &[u8]) -> Vec<u8> {
    cbc::Encryptor::<Aes128>::new(key.bytes().into(), &Block::<Aes128>::default())
        .encrypt_padded_vec_mut::<NoPadding>(data)
}

/// Deciphers whole blocks in CBC mode under a zero vector; `None` when they are not whole.
pub(super) fn decipher_blocks(key: &Key, data: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    cbc::Decryptor::<Aes128>::new(key.bytes().into(), &Block::<Aes128>::default())
        .decrypt_padded_vec_mut::<NoPadding>(data)
        .ok()
        .map(Zeroizing::new)
}

/// The CRC-32 of IEEE 802.3 without its last complement, lowest byte first: the CRC32NK of
/// NT4H2421Gx table 63, in the spelling of AN12196 §5.16.1.
pub(super) fn crc32(data: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let reduced = if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            crc = (crc >> 1) ^ reduced;
        }
    }
    crc.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn array<const N: usize>(text: &str) -> [u8; N] {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).unwrap();
        bytes
    }

    fn session(enciphering: &str, signing: &str, transaction: &str, counter: u16) -> Session {
        Session {
            enciphering: Key::new(array(enciphering)),
            signing: Key::new(array(signing)),
            transaction: array(transaction),
            counter,
            key_number: 0,
        }
    }

    fn sent(session: &Session, mode: CommMode, code: u8, header: &str, data: &str) -> String {
        let (header, data) = (hex::decode(header).unwrap(), hex::decode(data).unwrap());
        hex::encode_upper(session.protect(mode, code, &header, &data))
    }

    /// AN12196 §4.3 (in revision 1.x §5.3): GetFileSettings of file 2, signed.
    #[test]
    fn a_signed_command_as_published() {
        let unused = "00".repeat(16);
        let mut session = session(&unused, "8248134A386E86EB7FAF54A52E536CB6", "7A21085E", 0);
        assert_eq!(
            sent(&session, CommMode::Mac, 0xf5, "02", ""),
            "026597A457C8CD442C"
        );
        session.count();
        let answer = "0040EEEE000100D1FE001F00004400004400002000006A00002A474282E7A47986";
        let said = session
            .unprotect(CommMode::Mac, &hex::decode(answer).unwrap())
            .unwrap();
        assert_eq!(
            hex::encode_upper(&*said),
            "0040EEEE000100D1FE001F00004400004400002000006A0000"
        );
    }

    /// AN12196 §6.3 (in revision 1.x §7.3): GetCardUID, its answer enciphered.
    #[test]
    fn an_enciphered_answer_as_published() {
        let mut session = session(
            "2B4D963C014DC36F24F69A50A394F875",
            "379D32130CE61705DD5FD8C36B95D764",
            "DF055522",
            0,
        );
        assert_eq!(
            sent(&session, CommMode::Full, 0x51, "", ""),
            "8E2C155ADDA99BE3"
        );
        session.count();
        let answer = "70756055688505B52A5E26E59E329CD6595F672298EA41B7";
        let answer = hex::decode(answer).unwrap();
        let said = session.unprotect(CommMode::Full, &answer).unwrap();
        assert_eq!(hex::encode_upper(&*said), "04958CAA5C5E80");
        for bit in 0..answer.len() * 8 {
            let mut forged = answer.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                session.unprotect(CommMode::Full, &forged),
                Err(Unprotected::Mac)
            );
        }
    }

    /// AN12196 §5.16.1, step 7.
    #[test]
    fn the_checksum_of_a_new_key_as_published() {
        let key: [u8; 16] = array("F3847D627727ED3BC9C4CC050489B966");
        assert_eq!(crc32(&key), [0x78, 0x9d, 0xfa, 0xdc]);
    }

    proptest! {
        /// Whoever holds the session keys may still send anything: it is read or refused.
        #[test]
        fn any_signed_answer_is_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..80)) {
            let key = "0F".repeat(16);
            let session = session(&key, &key, "01020304", 7);
            let mut field = data.clone();
            field.extend_from_slice(&session.mac(0x00, &data));
            for mode in [CommMode::Plain, CommMode::Mac, CommMode::Full] {
                let _ = session.unprotect(mode, &field);
            }
            prop_assert!(session.unprotect(CommMode::Mac, &data).is_err());
        }
    }
}
