//! The chip's own arithmetic: CMAC, CBC and the session keys, written out from the bare cipher so
//! that nothing is shared with the driver it checks.

use aes::Aes128;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};

pub(super) type Block = [u8; 16];

pub(super) fn encrypt(key: &Block, block: &Block) -> Block {
    let mut block = (*block).into();
    Aes128::new(key.into()).encrypt_block(&mut block);
    block.into()
}

fn decrypt(key: &Block, block: &Block) -> Block {
    let mut block = (*block).into();
    Aes128::new(key.into()).decrypt_block(&mut block);
    block.into()
}

fn xor(left: &Block, right: &Block) -> Block {
    std::array::from_fn(|at| left[at] ^ right[at])
}

/// Whole blocks only: what is left over is dropped.
pub(super) fn cbc_encrypt(key: &Block, vector: Block, data: &[u8]) -> Vec<u8> {
    let mut previous = vector;
    let mut out = Vec::new();
    for block in data.as_chunks::<16>().0 {
        previous = encrypt(key, &xor(block, &previous));
        out.extend_from_slice(&previous);
    }
    out
}

/// Whole blocks only: what is left over is dropped.
pub(super) fn cbc_decrypt(key: &Block, vector: Block, data: &[u8]) -> Vec<u8> {
    let mut previous = vector;
    let mut out = Vec::new();
    for block in data.as_chunks::<16>().0 {
        out.extend_from_slice(&xor(&decrypt(key, block), &previous));
        previous = *block;
    }
    out
}

/// Multiplies by x in the field of 2^128 elements (RFC 4493 §2.3).
fn doubled(block: Block) -> Block {
    let number = u128::from_be_bytes(block);
    let carry = if number >> 127 == 1 { 0x87 } else { 0 };
    ((number << 1) ^ carry).to_be_bytes()
}

/// AES-CMAC (RFC 4493 §2.4).
pub(super) fn cmac(key: &Block, message: &[u8]) -> Block {
    let first = doubled(encrypt(key, &[0; 16]));
    let (head, last) = match message.len() {
        0 => (&[][..], &[][..]),
        length => message.split_at((length - 1) / 16 * 16),
    };
    let mut end = [0; 16];
    end[..last.len()].copy_from_slice(last);
    let subkey = if last.len() == 16 {
        first
    } else {
        end[last.len()] = 0x80;
        doubled(first)
    };
    let mut state = [0; 16];
    for block in head.as_chunks::<16>().0 {
        state = encrypt(key, &xor(&state, block));
    }
    encrypt(key, &xor(&state, &xor(&end, &subkey)))
}

/// The bytes 1, 3, 5 … 15 of a MAC.
pub(super) fn short(mac: &Block) -> [u8; 8] {
    std::array::from_fn(|at| mac[2 * at + 1])
}

pub(super) fn pad(data: &[u8]) -> Vec<u8> {
    let mut padded = data.to_vec();
    padded.push(0x80);
    while !padded.len().is_multiple_of(16) {
        padded.push(0);
    }
    padded
}

pub(super) fn unpad(mut data: Vec<u8>) -> Option<Vec<u8>> {
    let mut zeros = 0;
    while data.last() == Some(&0) && zeros < 15 {
        data.pop();
        zeros += 1;
    }
    (data.pop()? == 0x80).then_some(data)
}

/// The CRC of a new key: the remainder of IEEE 802.3, not complemented at the end.
pub(super) fn key_checksum(key: &Block) -> u32 {
    key.iter().fold(u32::MAX, |crc, byte| {
        let low = (crc ^ u32::from(*byte)) & 0xff;
        let entry = (0..8).fold(low, |entry, _| {
            if entry & 1 == 1 {
                (entry >> 1) ^ 0xedb8_8320
            } else {
                entry >> 1
            }
        });
        (crc >> 8) ^ entry
    })
}

/// The session keys for enciphering and signing (NT4H2421Gx §9.1.7), with the randoms written as
/// numbers: `RndA[15..14] || (RndA[13..8] ^ RndB[15..10]) || RndB[9..0] || RndA[7..0]`.
pub(super) fn session_keys(key: &Block, random_a: &Block, random_b: &Block) -> (Block, Block) {
    let (a, b) = (
        u128::from_be_bytes(*random_a),
        u128::from_be_bytes(*random_b),
    );
    let middle = ((a >> 64) ^ (b >> 80)) & 0xffff_ffff_ffff;
    let mut context = Vec::new();
    context.extend_from_slice(&a.to_be_bytes()[..2]);
    context.extend_from_slice(&middle.to_be_bytes()[10..]);
    context.extend_from_slice(&b.to_be_bytes()[6..]);
    context.extend_from_slice(&a.to_be_bytes()[8..]);
    let derive = |label: &[u8]| {
        let vector = [label, &[0x00, 0x01, 0x00, 0x80], &context].concat();
        cmac(key, &vector)
    };
    (derive(&[0xa5, 0x5a]), derive(&[0x5a, 0xa5]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array<const N: usize>(text: &str) -> [u8; N] {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).unwrap();
        bytes
    }

    /// RFC 4493 §4, all four examples.
    #[test]
    fn cmac_as_published() {
        let key = array("2b7e151628aed2a6abf7158809cf4f3c");
        let text = hex::decode(concat!(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
        ))
        .unwrap();
        for (length, mac) in [
            (0, "bb1d6929e95937287fa37d129b756746"),
            (16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (40, "dfa66747de9ae63030ca32611497c827"),
            (64, "51f0bebf7e3b9d92fc49741779363cfe"),
        ] {
            assert_eq!(hex::encode(cmac(&key, &text[..length])), mac, "{length}");
        }
    }

    /// AN12196 §5.14, and §5.16.1 for the checksum.
    #[test]
    fn session_keys_as_published() {
        let a = array("60BE759EDA560250AC57CDDC11743CF6");
        let b = array("6924E8D09722659A2E7DEC68E66312B8");
        let (enciphering, signing) = session_keys(&[0; 16], &a, &b);
        assert_eq!(enciphering, array("4CF3CB41A22583A61E89B158D252FC53"));
        assert_eq!(signing, array("5529860B2FC5FB6154B7F28361D30BF9"));
        let key = array("F3847D627727ED3BC9C4CC050489B966");
        assert_eq!(key_checksum(&key).to_le_bytes(), [0x78, 0x9d, 0xfa, 0xdc]);
    }

    #[test]
    fn padding_comes_off_as_it_went_on() {
        for length in 0..40 {
            let data = vec![7; length];
            assert_eq!(unpad(pad(&data)), Some(data));
        }
        assert_eq!(unpad(vec![0; 16]), None);
        assert_eq!(unpad(vec![0x81; 16]), None);
    }
}
