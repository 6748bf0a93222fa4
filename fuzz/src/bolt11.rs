//! The text of an invoice, as a merchant pastes it or a stranger sends it.

use flashkit::lightning::Bolt11Details;

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    // What was changed by chance has a wrong checksum: the decoder behind it is to be reached.
    let mended = with_checksum(text);
    read(text) | mended.is_some_and(|text| read(&text))
}

fn read(text: &str) -> bool {
    let Ok(read) = text.parse::<Bolt11Details>() else {
        return false;
    };
    assert!(read.amount_msat.is_none_or(|amount| amount >= 0));
    assert!(!read.network.is_empty());
    // BOLT 11 is bech32: it means the same in either case.
    let shouted = text.to_ascii_uppercase().parse::<Bolt11Details>();
    let whispered = text.to_ascii_lowercase().parse::<Bolt11Details>();
    let hashes = [shouted, whispered].map(|read| read.map(|read| read.payment_hash));
    assert!(hashes.iter().all(|hash| *hash == Ok(read.payment_hash)));
    true
}

const CHARACTERS: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// The text with the checksum of BIP 173 in place of its last six characters.
fn with_checksum(text: &str) -> Option<String> {
    let (prefix, data) = text.rsplit_once('1')?;
    let value = |character| {
        CHARACTERS
            .find(character)
            .and_then(|at| u8::try_from(at).ok())
    };
    let values: Vec<u8> = data.chars().map(value).collect::<Option<_>>()?;
    let kept = values.len().checked_sub(6)?;
    let mut all: Vec<u8> = prefix.bytes().map(|byte| byte >> 5).collect();
    all.push(0);
    all.extend(prefix.bytes().map(|byte| byte & 31));
    all.extend(&values[..kept]);
    all.extend([0; 6]);
    let checksum = polynomial(&all) ^ 1;
    let written = (0..6).map(|at| {
        let five_bits = checksum >> (5 * (5 - at)) & 31;
        char::from(CHARACTERS.as_bytes()[five_bits as usize])
    });
    Some(format!("{prefix}1{}", &data[..kept]) + &written.collect::<String>())
}

fn polynomial(values: &[u8]) -> u32 {
    const GENERATORS: [u32; 5] = [
        0x3b6a_57b2,
        0x2650_8e6d,
        0x1ea1_19fa,
        0x3d42_33dd,
        0x2a14_62b3,
    ];
    let mut sum = 1;
    for value in values {
        let top = sum >> 25;
        sum = (sum & 0x01ff_ffff) << 5 ^ u32::from(*value);
        for (bit, generator) in GENERATORS.iter().enumerate() {
            sum ^= if top >> bit & 1 == 1 { *generator } else { 0 };
        }
    }
    sum
}
