//! The text by which a credential is presented.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::AccessError;
use crate::ids::CredentialId;

const PREFIX: &str = "flashkit_";

/// A credential: a secret text that its owner keeps like a password. `Debug` does not show it;
/// [`reveal`](Self::reveal) does.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(Zeroizing<String>);

impl Credential {
    pub(super) fn new(id: CredentialId, secret: &[u8; 32]) -> Self {
        Self(Zeroizing::new(format!(
            "{PREFIX}{id}_{}",
            hex::encode(secret)
        )))
    }

    /// The text, to be kept by its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn parts(&self) -> Option<(CredentialId, Zeroizing<[u8; 32]>)> {
        let (id, secret) = self.0.strip_prefix(PREFIX)?.rsplit_once('_')?;
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(secret, bytes.as_mut_slice()).ok()?;
        Some((id.parse().ok()?, bytes))
    }
}

/// Compares in constant time.
pub(super) fn same(left: &[u8; 32], right: &[u8; 32]) -> bool {
    left.ct_eq(right).into()
}

impl FromStr for Credential {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let credential = Self(Zeroizing::new(text.to_owned()));
        credential.parts().ok_or(AccessError::Unknown)?;
        Ok(credential)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

impl Serialize for Credential {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.reveal())
    }
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
