//! Many issuer keys at once, and the one that made a tap among them.
//!
//! Each key's schedules are made once, so that a tap is tried with a thousand keys in the time that
//! it takes to read a page of a file.

use aes::Aes128Dec;
use aes::cipher::{BlockDecrypt, KeyInit};

use super::mac::{Prf, cmac};
use super::{IssuerKey, IssuerKeyId, Key, PICC_DATA_TAG, PiccData, TapError, TapUrl};
use super::{picc_data, verify_signature};

/// The first byte of the number of every chip of the maker's (ISO/IEC 14443-3, NXP).
const MAKER: u8 = 0x04;

/// An issuer key, ready for work.
pub struct RingKey {
    id: IssuerKeyId,
    key: IssuerKey,
    prf: Prf,
}

impl RingKey {
    fn new(key: IssuerKey) -> Self {
        Self {
            id: key.id(),
            prf: Prf::new(&key.0),
            key,
        }
    }

    /// The key's name, which is no secret.
    pub fn id(&self) -> IssuerKeyId {
        self.id
    }

    /// The key itself.
    pub fn key(&self) -> &IssuerKey {
        &self.key
    }

    /// As [`IssuerKey::card_id_hash`].
    pub fn card_id_hash(&self, uid: &[u8; 7]) -> [u8; 16] {
        self.prf.mac([&[0x2d, 0x00, 0x3f, 0x7b][..], uid])
    }

    /// Key 2 of a chip, which signs its taps; `pull_payment_id` where an older server's derivation
    /// mixed one in.
    fn signing_key(&self, uid: &[u8; 7], version: u32, pull_payment_id: Option<&str>) -> Key {
        let extra = pull_payment_id.unwrap_or_default().as_bytes();
        let parts = [
            &[0x2d, 0x00, 0x3f, 0x75][..],
            uid,
            &version.to_le_bytes(),
            extra,
        ];
        let card_key = Key(self.prf.mac(parts));
        Key(cmac(&card_key, [&[0x2d, 0x00, 0x3f, 0x78]]))
    }

    /// Checks the signature of a tap of a chip at a version, in constant time.
    ///
    /// # Errors
    /// `card.tap_wrong_mac`.
    pub fn verify(
        &self,
        picc: &PiccData,
        version: u32,
        pull_payment_id: Option<&str>,
        tap: &TapUrl,
    ) -> Result<(), TapError> {
        let signing_key = self.signing_key(&picc.uid, version, pull_payment_id);
        verify_signature(&signing_key, picc, tap.c())
    }
}

/// What a tap may say, opened with one key of a ring.
#[derive(Clone, Copy)]
pub struct Opened<'a> {
    /// The key.
    pub key: &'a RingKey,
    /// What came out.
    pub picc: PiccData,
}

/// Issuer keys, ready for taps of cards of any of them.
#[derive(Default)]
pub struct IssuerKeyRing {
    keys: Vec<RingKey>,
    /// Beside each other, because every tap is tried with all of them.
    openers: Vec<Aes128Dec>,
}

impl IssuerKeyRing {
    /// A ring of keys, the one first that is tried first. A key that is there twice counts once.
    pub fn new(keys: impl IntoIterator<Item = IssuerKey>) -> Self {
        let mut ring = Self::default();
        for key in keys {
            let key = RingKey::new(key);
            if ring.key(key.id).is_none() {
                let piccdata_key = key.key.piccdata_key();
                ring.openers
                    .push(Aes128Dec::new(piccdata_key.bytes().into()));
                ring.keys.push(key);
            }
        }
        ring
    }

    /// All of them, in their order.
    pub fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    /// The key of a name.
    pub fn key(&self, id: IssuerKeyId) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// What `p` may say: with one foreign key in 256 it looks right by chance, so that whoever has
    /// the card's record decides. What looks like a chip's number comes first.
    pub fn open(&self, p: &[u8; 16]) -> impl Iterator<Item = Opened<'_>> {
        // Nearly always one: it needs no list.
        let (mut first, mut others) = (None, Vec::new());
        for (opener, key) in self.openers.iter().zip(&self.keys) {
            let mut block = (*p).into();
            // One block in CBC mode with a zero vector is the bare cipher.
            opener.decrypt_block(&mut block);
            let block: [u8; 16] = block.into();
            if let [PICC_DATA_TAG, ..] = block {
                let picc = picc_data(&block);
                match first.replace(Opened { key, picc }) {
                    None => {}
                    Some(before) => others.push(before),
                }
            }
        }
        if !others.is_empty() {
            others.extend(first.take());
            others.sort_by_key(|opened| opened.picc.uid.first() != Some(&MAKER));
        }
        first.into_iter().chain(others)
    }
}

impl std::fmt::Debug for IssuerKeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids = self.keys.iter().map(|key| key.id);
        f.debug_list().entries(ids).finish()
    }
}
