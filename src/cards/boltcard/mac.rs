//! AES-128-CMAC (NIST SP 800-38B), as the keys and the signatures of cards need it.
//!
//! A tap takes five of them over a block each. A general CMAC with its buffer, which makes its two
//! subkeys anew for every message, took twice as long as the cipher itself.

use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128Enc, Block};
use zeroize::Zeroize;

use super::Key;

/// A key ready for any number of messages.
#[derive(Clone)]
pub(super) struct Prf {
    cipher: Aes128Enc,
    /// Goes into a last block that is full.
    full: u128,
    /// Goes into a last block that is padded.
    padded: u128,
}

impl Prf {
    #[inline]
    pub(super) fn new(key: &Key) -> Self {
        let mut prf = Self {
            cipher: Aes128Enc::new(key.bytes().into()),
            full: 0,
            padded: 0,
        };
        prf.full = doubled(prf.encrypt(0));
        prf.padded = doubled(prf.full);
        prf
    }

    #[inline]
    fn encrypt(&self, block: u128) -> u128 {
        let mut block = Block::from(block.to_be_bytes());
        self.cipher.encrypt_block(&mut block);
        u128::from_be_bytes(block.into())
    }

    /// The MAC of the parts, one behind the other.
    #[inline]
    pub(super) fn mac<const N: usize>(&self, parts: [&[u8]; N]) -> [u8; 16] {
        let (mut state, mut block, mut length) = (0, [0; 16], 0);
        for mut part in parts {
            while !part.is_empty() {
                if length == block.len() {
                    state = self.encrypt(state ^ u128::from_be_bytes(block));
                    length = 0;
                }
                let (now, rest) = part.split_at(part.len().min(block.len() - length));
                block[length..length + now.len()].copy_from_slice(now);
                length += now.len();
                part = rest;
            }
        }
        let subkey = if length == block.len() {
            self.full
        } else {
            block[length..].fill(0);
            block[length] = 0x80;
            self.padded
        };
        let last = u128::from_be_bytes(block);
        self.encrypt(state ^ last ^ subkey).to_be_bytes()
    }
}

impl Drop for Prf {
    fn drop(&mut self) {
        self.full.zeroize();
        self.padded.zeroize();
    }
}

/// Times x in the field of 2^128 elements, in constant time.
#[inline]
fn doubled(value: u128) -> u128 {
    (value << 1) ^ ((value >> 127).wrapping_neg() & 0x87)
}

/// The MAC of the parts under a key that is needed once.
#[inline]
pub(in crate::cards) fn cmac<const N: usize>(key: &Key, parts: [&[u8]; N]) -> [u8; 16] {
    Prf::new(key).mac(parts)
}

#[cfg(test)]
mod tests {
    use cmac::{Cmac, Mac};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any key and any message, in any parts: what the crate of that name makes of it.
        #[test]
        fn as_another_implementation_has_it(
            key in any::<[u8; 16]>(),
            one in prop::collection::vec(any::<u8>(), 0..40),
            two in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut other = <Cmac<Aes128Enc> as KeyInit>::new(&key.into());
            other.update(&one);
            other.update(&two);
            let other: [u8; 16] = other.finalize().into_bytes().into();
            prop_assert_eq!(cmac(&Key::new(key), [&one, &two]), other);
        }
    }

    #[test]
    fn as_published() {
        // RFC 4493, section 4.
        let bytes = |text: &str| hex::decode(text).unwrap();
        let key = Key::new(
            bytes("2b7e151628aed2a6abf7158809cf4f3c")
                .try_into()
                .unwrap(),
        );
        let text = bytes(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        for (length, mac) in [
            (0, "bb1d6929e95937287fa37d129b756746"),
            (16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (40, "dfa66747de9ae63030ca32611497c827"),
            (64, "51f0bebf7e3b9d92fc49741779363cfe"),
        ] {
            let made = cmac(&key, [&text[..length]]);
            assert_eq!(hex::encode(made), mac, "{length}");
        }
    }
}
