//! What is put on a chip.

use super::error::ChipError;
use super::template::UrlTemplate;
use crate::cards::ProgrammingKeys;
use crate::cards::boltcard::{BoltcardKeys, Key};

/// The five keys of a chip with the version byte that is written beside each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipKeys {
    pub(super) keys: BoltcardKeys,
    pub(super) version: u8,
}

impl ChipKeys {
    /// The keys of a card's `version`, of which the chip keeps the lowest byte.
    pub fn new(keys: BoltcardKeys, version: u32) -> Self {
        let [version, ..] = version.to_le_bytes();
        Self { keys, version }
    }

    /// The keys of a chip from the factory: all zero.
    pub fn factory() -> Self {
        let zero = || Key::new([0; 16]);
        let keys = BoltcardKeys {
            k0: zero(),
            k1: zero(),
            k2: zero(),
            k3: zero(),
            k4: zero(),
        };
        Self { keys, version: 0 }
    }

    /// The keys that [`Cards::programming_keys`](crate::cards::Cards::programming_keys) or an
    /// older server answers.
    ///
    /// # Errors
    /// `card.chip_bad_keys`.
    pub fn parse(keys: &ProgrammingKeys) -> Result<Self, ChipError> {
        let key = |text: &str| {
            let mut bytes = [0; 16];
            hex::decode_to_slice(text, &mut bytes).map_err(|_| ChipError::BadKeys)?;
            Ok::<_, ChipError>(Key::new(bytes))
        };
        let parsed = BoltcardKeys {
            k0: key(&keys.k0)?,
            k1: key(&keys.k1)?,
            k2: key(&keys.k2)?,
            k3: key(&keys.k3)?,
            k4: key(&keys.k4)?,
        };
        Ok(Self::new(parsed, keys.version))
    }

    /// The key of a number, 0 to 4.
    pub(super) fn key(&self, number: u8) -> &Key {
        match number {
            0 => &self.keys.k0,
            1 => &self.keys.k1,
            2 => &self.keys.k2,
            3 => &self.keys.k3,
            _ => &self.keys.k4,
        }
    }
}

/// Everything that makes a chip a card: its number, the URL it shows, and its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardPayload {
    pub(super) uid: [u8; 7],
    pub(super) template: UrlTemplate,
    pub(super) keys: ChipKeys,
}

impl CardPayload {
    /// For the chip with the number `uid`, 14 hex digits: what
    /// [`Cards::programming_keys`](crate::cards::Cards::programming_keys) answered for it.
    ///
    /// # Errors
    /// `card.bad_uid`, `card.chip_bad_keys`, `card.chip_bad_url`.
    pub fn new(uid: &str, keys: &ProgrammingKeys) -> Result<Self, ChipError> {
        Ok(Self {
            uid: parse_uid(uid)?,
            template: UrlTemplate::new(&keys.lnurlw)?,
            keys: ChipKeys::parse(keys)?,
        })
    }
}

pub(super) fn parse_uid(text: &str) -> Result<[u8; 7], ChipError> {
    let mut uid = [0; 7];
    hex::decode_to_slice(text, &mut uid).map_err(|_| ChipError::BadUid)?;
    Ok(uid)
}
