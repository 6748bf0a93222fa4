//! What an NTAG 424 DNA chip says when it is tapped, and the keys behind it.
//!
//! Keys are derived as the bolt card specification's *Deterministic card keys* has it, in its own
//! form and in the form of an older server that mixed its pull payment's id in. A tap is checked
//! as NXP's application note AN12196 describes it (SUN with encrypted PICC data).

mod digits;
mod mac;
mod ring;
mod spelling;

use std::fmt;
use std::str::FromStr;

use aes::Aes128Dec;
use aes::cipher::{BlockDecrypt, KeyInit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use digits::bytes;
pub(super) use mac::cmac;
pub use ring::{IssuerKeyRing, Opened, RingKey};

/// The longest tap URL that is looked at.
const MAX_URL_LENGTH: usize = 2_048;
/// The first byte of PICC data with a 7-byte number and a counter (AN12196 §3.4).
const PICC_DATA_TAG: u8 = 0xc7;

/// A tap that does not verify. Nothing was changed, and nothing is said of what it should have
/// been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// The text is no tap URL. `card.tap_malformed`.
    #[error("this is no tap of a card: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The tap was made with keys of another issuer. `card.tap_not_ours`.
    #[error("this card was issued by somebody else")]
    NotOurs,
    /// The chip's signature is wrong. `card.tap_wrong_mac`.
    #[error("the card's signature is wrong")]
    WrongMac,
}

impl TapError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "card.tap_malformed",
            Self::NotOurs => "card.tap_not_ours",
            Self::WrongMac => "card.tap_wrong_mac",
        }
    }
}

/// An AES-128 key. `Debug` does not show it, and it is wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 16]);

impl Key {
    /// Takes the 16 bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The 32 lower-case hex digits, for a card programmer.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// How a card's own key comes from its issuer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyDerivation {
    /// As the public specification has it.
    Standard,
    /// As an older server had it: with the id of the card's pull payment behind the version.
    BtcPay {
        /// The id.
        pull_payment_id: String,
    },
}

/// The key from which all keys of an issuer's cards are derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerKey(Key);

/// The name of an issuer key, 16 hex digits: made from the key, and of no use for anything else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerKeyId([u8; 8]);

impl fmt::Display for IssuerKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for IssuerKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no name of an issuer key, or no issuer key: hex digits in lower case, 16 or 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("hex digits in lower case are expected, {digits} of them")]
pub struct NotHex {
    /// How many.
    pub digits: usize,
}

fn lower_hex<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    let mut bytes = [0; N];
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if is_lower => Ok(bytes),
        _ => Err(NotHex { digits: N * 2 }),
    }
}

impl FromStr for IssuerKeyId {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        lower_hex(text).map(Self)
    }
}

impl Serialize for IssuerKeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IssuerKeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// As 32 hex digits: for a command that brings it.
impl Serialize for IssuerKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(self.0.to_hex()))
    }
}

impl<'de> Deserialize<'de> for IssuerKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = lower_hex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self::new(bytes))
    }
}

impl IssuerKey {
    /// Takes the 16 bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(Key(bytes))
    }

    /// The name by which books and cards know the key.
    pub fn id(&self) -> IssuerKeyId {
        let [a, b, c, d, e, f, g, h, ..] = cmac(&self.0, [b"flashkit/issuer-key/name/1"]);
        IssuerKeyId([a, b, c, d, e, f, g, h])
    }

    pub(super) fn bytes(&self) -> &[u8; 16] {
        self.0.bytes()
    }

    fn piccdata_key(&self) -> Key {
        Key(cmac(&self.0, [&[0x2d, 0x00, 0x3f, 0x77]]))
    }

    /// The keyed hash by which a chip is known, so that its number need not be kept.
    pub fn card_id_hash(&self, uid: &[u8; 7]) -> [u8; 16] {
        cmac(&self.0, [&[0x2d, 0x00, 0x3f, 0x7b][..], uid])
    }

    /// The five keys of a chip at a version.
    pub fn card_keys(
        &self,
        uid: &[u8; 7],
        version: u32,
        derivation: &KeyDerivation,
    ) -> BoltcardKeys {
        let extra = match derivation {
            KeyDerivation::Standard => "",
            KeyDerivation::BtcPay { pull_payment_id } => pull_payment_id,
        };
        let version = version.to_le_bytes();
        let card_key = Key(cmac(
            &self.0,
            [
                &[0x2d, 0x00, 0x3f, 0x75][..],
                uid,
                &version,
                extra.as_bytes(),
            ],
        ));
        let derived = |tag: u8| Key(cmac(&card_key, [&[0x2d, 0x00, 0x3f, tag]]));
        BoltcardKeys {
            k0: derived(0x76),
            k1: self.piccdata_key(),
            k2: derived(0x78),
            k3: derived(0x79),
            k4: derived(0x7a),
        }
    }
}

/// The keys on a chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoltcardKeys {
    /// The master key.
    pub k0: Key,
    /// Hides number and counter; the same on all cards of an issuer.
    pub k1: Key,
    /// Signs.
    pub k2: Key,
    /// Not used by taps.
    pub k3: Key,
    /// Not used by taps.
    pub k4: Key,
}

/// The two parameters of a tap: `p` hides the chip's number and counter, `c` signs them.
#[derive(Clone, PartialEq, Eq)]
pub struct TapUrl {
    p: [u8; 16],
    c: [u8; 8],
}

impl fmt::Debug for TapUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TapUrl(redacted)")
    }
}

impl TapUrl {
    /// Reads any spelling of a tap: `lnurlw://`, `https://` or `http://` in any case, or the whole as
    /// bech32 (LUD-01), with or without `lightning:`; parameters in any order and among others,
    /// percent-encoded or not, hex digits in either case, and `k1=p-c` in place of the two.
    ///
    /// # Errors
    /// `card.tap_malformed`.
    pub fn parse(text: &str) -> Result<Self, TapError> {
        let malformed = |reason| TapError::Malformed { reason };
        if text.len() > MAX_URL_LENGTH {
            return Err(malformed("longer than 2,048 characters"));
        }
        let text = spelling::plain(text)?;
        let (scheme, rest) = split(text.as_bytes(), b':').ok_or(malformed("no scheme"))?;
        let rest = rest.strip_prefix(b"//").ok_or(malformed("no scheme"))?;
        let known: [&[u8]; 3] = [b"lnurlw", b"https", b"http"];
        if !known.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(malformed("another scheme"));
        }
        let (_, query) = split(rest, b'?').ok_or(malformed("no parameters"))?;
        let query = split(query, b'#').map_or(query, |(query, _)| query);
        let query = spelling::unescaped(query);
        let (mut p, mut c) = (None, None);
        let pairs = query.split(|byte| *byte == b'&');
        for (name, value) in pairs.filter_map(|pair| split(pair, b'=')) {
            match name {
                b"p" | b"P" => set_once(&mut p, value)?,
                b"c" | b"C" => set_once(&mut c, value)?,
                b"k1" | b"K1" => {
                    if let Some((left, right)) = split(value, b'-') {
                        set_once(&mut p, left)?;
                        set_once(&mut c, right)?;
                    }
                }
                _ => {}
            }
        }
        let (p, c) = (p.ok_or(malformed("no p"))?, c.ok_or(malformed("no c"))?);
        Ok(Self {
            p: bytes(p)?,
            c: bytes(c)?,
        })
    }

    /// What hides the chip's number and counter.
    pub fn p(&self) -> &[u8; 16] {
        &self.p
    }

    /// The signature.
    pub fn c(&self) -> &[u8; 8] {
        &self.c
    }
}

/// What stands before and behind the first of a byte.
#[inline]
fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|byte| *byte == at)?;
    Some((&text[..place], &text[place + 1..]))
}

/// The same parameter may stand there twice only with the same value.
fn set_once<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), TapError> {
    match place {
        Some(before) if !before.eq_ignore_ascii_case(value) => Err(TapError::Malformed {
            reason: "a parameter stands there twice",
        }),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

/// What a chip says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PiccData {
    /// The chip's number.
    pub uid: [u8; 7],
    /// How often it was tapped, 24 bits.
    pub counter: u32,
}

/// Opens `p` with the key that all cards of an issuer share.
///
/// # Errors
/// `card.tap_not_ours` when what comes out does not begin as PICC data does.
pub fn decrypt_picc(issuer: &IssuerKey, p: &[u8; 16]) -> Result<PiccData, TapError> {
    open_picc(&issuer.piccdata_key(), p)
}

/// Opens `p` with the chip's own key 1.
pub(super) fn open_picc(piccdata_key: &Key, p: &[u8; 16]) -> Result<PiccData, TapError> {
    let cipher = Aes128Dec::new((&piccdata_key.0).into());
    let mut block = (*p).into();
    // One block in CBC mode with a zero vector is the bare cipher.
    cipher.decrypt_block(&mut block);
    let block: [u8; 16] = block.into();
    match block {
        [PICC_DATA_TAG, ..] => Ok(picc_data(&block)),
        _ => Err(TapError::NotOurs),
    }
}

/// What stands behind the tag.
fn picc_data(block: &[u8; 16]) -> PiccData {
    let [_, u0, u1, u2, u3, u4, u5, u6, c0, c1, c2, ..] = *block;
    PiccData {
        uid: [u0, u1, u2, u3, u4, u5, u6],
        counter: u32::from_le_bytes([c0, c1, c2, 0]),
    }
}

/// Checks the chip's signature, in constant time.
///
/// # Errors
/// `card.tap_wrong_mac`.
pub fn verify_mac(keys: &BoltcardKeys, picc: &PiccData, c: &[u8; 8]) -> Result<(), TapError> {
    verify_signature(&keys.k2, picc, c)
}

fn verify_signature(signing_key: &Key, picc: &PiccData, c: &[u8; 8]) -> Result<(), TapError> {
    let [c0, c1, c2, _] = picc.counter.to_le_bytes();
    let session = [
        &[0x3c, 0xc3, 0x00, 0x01, 0x00, 0x80][..],
        &picc.uid,
        &[c0, c1, c2],
    ];
    let session_key = Key(cmac(signing_key, session));
    let full = cmac(&session_key, []);
    // The signature is every second byte, from the second on.
    let mut expected = [0; 8];
    for (byte, pair) in expected.iter_mut().zip(full.chunks_exact(2)) {
        *byte = pair[1];
    }
    if expected.ct_eq(c).into() {
        Ok(())
    } else {
        Err(TapError::WrongMac)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "04a39493cc8680";

    fn array<const N: usize>(text: &str) -> [u8; N] {
        bytes(text.as_bytes()).unwrap()
    }

    fn issuer() -> IssuerKey {
        IssuerKey::new(array("00000000000000000000000000000001"))
    }

    fn hexes(keys: &BoltcardKeys) -> [String; 5] {
        [&keys.k0, &keys.k1, &keys.k2, &keys.k3, &keys.k4].map(Key::to_hex)
    }

    #[test]
    fn keys_of_the_published_vectors() {
        let uid = array(UID);
        let standard = issuer().card_keys(&uid, 1, &KeyDerivation::Standard);
        assert_eq!(
            hexes(&standard),
            [
                "a29119fcb48e737d1591d3489557e49b",
                "55da174c9608993dc27bb3f30a4a7314",
                "f4b404be700ab285e333e32348fa3d3b",
                "73610ba4afe45b55319691cb9489142f",
                "addd03e52964369be7f2967736b7bdb5",
            ]
        );
        assert_eq!(
            hex::encode(issuer().card_id_hash(&uid)),
            "e07ce1279d980ecb892a81924b67bf18"
        );
        let pull_payment_id = "fUDXsnySxvb5LYZ1bSLiWzLjVuT".to_owned();
        let older = issuer().card_keys(&uid, 0, &KeyDerivation::BtcPay { pull_payment_id });
        assert_eq!(
            hexes(&older),
            [
                "e622d4fc92a6301df15bed3727224469",
                "55da174c9608993dc27bb3f30a4a7314",
                "25d693f1453fe1e8f4abe069c9d03210",
                "88b13ea6a150330a4f662b5ee3690b40",
                "8b1fc0c5cebc21e60323daee2ebe1df7",
            ]
        );
    }

    /// The specification gives the two tap keys themselves, so they are put in place here.
    #[test]
    fn taps_of_the_published_vectors() {
        for (p, c, counter) in [
            ("4E2E289D945A66BB13377A728884E867", "E19CCB1FED8892CE", 3),
            ("00F48C4F8E386DED06BCDC78FA92E2FE", "66B4826EA4C155B4", 5),
        ] {
            let cipher = Aes128Dec::new(&array::<16>("0c3b25d92b38ae443229dd59ad34b85d").into());
            let mut block = array::<16>(p).into();
            cipher.decrypt_block(&mut block);
            assert_eq!(hex::encode(&block[..8]), "c704996c6a926980");
            assert_eq!(block[8], counter);
            let mut keys = issuer().card_keys(&array(UID), 1, &KeyDerivation::Standard);
            keys.k2 = Key(array("b45775776cb224c75bcde7ca3704e933"));
            let picc = PiccData {
                uid: array("04996c6a926980"),
                counter: counter.into(),
            };
            assert_eq!(verify_mac(&keys, &picc, &array(c)), Ok(()));
            let later = PiccData {
                counter: picc.counter + 1,
                ..picc
            };
            assert_eq!(
                verify_mac(&keys, &later, &array(c)),
                Err(TapError::WrongMac)
            );
        }
    }

    #[test]
    fn every_spelling_of_a_tap() {
        let (p, c) = ("4e2e289d945a66bb13377a728884e867", "e19ccb1fed8892ce");
        let plain = TapUrl::parse(&format!("lnurlw://h/boltcard?p={p}&c={c}")).unwrap();
        for text in [
            format!(
                "LNURLW://H/BOLTCARD?P={}&C={}",
                p.to_uppercase(),
                c.to_uppercase()
            ),
            format!("https://h/boltcard?c={c}&x=1&p={p}"),
            format!("http://h?k1={p}-{c}"),
            format!("https://h/boltcard?p={p}&c={c}&k1={p}-{c}&pr=lnbc1#end"),
            format!("  lnurlw://h/boltcard?p={p}&c={c}\n"),
        ] {
            assert_eq!(TapUrl::parse(&text), Ok(plain.clone()), "{text}");
        }
        for text in [
            String::new(),
            "lnurlw://".to_owned(),
            format!("ftp://h?p={p}&c={c}"),
            format!("lnurlw://h?p={p}"),
            format!("lnurlw://h?p={p}&c={}", &c[1..]),
            format!("lnurlw://h?p={p}&c={c}0"),
            format!("lnurlw://h?p={p}&c={c}&c=0000000000000000"),
            format!("lnurlw://h?p={}&c={c}", "é".repeat(16)),
            format!("lnurlw://h?{}p={p}&c={c}", "x=1&".repeat(1_000)),
        ] {
            assert_eq!(
                TapUrl::parse(&text).unwrap_err().code(),
                "card.tap_malformed",
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_secret_in_a_debug_print() {
        let keys = issuer().card_keys(&array(UID), 1, &KeyDerivation::Standard);
        let print = format!("{:?} {keys:?}", issuer());
        for secret in hexes(&keys) {
            assert!(!print.contains(&secret));
        }
        assert!(print.contains("redacted"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}", p in "[0-9a-f%é]{30,34}") {
            let _ = TapUrl::parse(&text);
            let _ = TapUrl::parse(&format!("lnurlw://h?p={p}&c={text}"));
        }
    }
}
