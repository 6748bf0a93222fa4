//! A payer's proof that it has a key (LUD-18's `auth`): a signature, as LUD-04 has wallets make it,
//! of a challenge of ours.
//!
//! A challenge is its time, a random number, and a code that only this engine can make of both and
//! of the address. So nothing is kept until somebody pays, when it is claimed for ever: it is good
//! once, and for an hour.

use bitcoin::secp256k1::ecdsa::Signature;
use bitcoin::secp256k1::{Message, PublicKey, Secp256k1};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::CheckoutError;
use super::model::PayerDataWanted;
use crate::core::Secrets;

/// How long a payer may take to say yes.
const LASTS_MS: i64 = 3_600_000;

/// What a payer is shown of what is asked for.
#[derive(Serialize)]
pub(super) struct PayerDataShown {
    #[serde(flatten)]
    texts: PayerDataWanted,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<AuthShown>,
}

#[derive(Serialize)]
struct AuthShown {
    mandatory: bool,
    k1: String,
}

impl PayerDataShown {
    /// With the challenge that is to be signed, where a proof is asked for.
    pub(super) fn new(wanted: &PayerDataWanted, k1: [u8; 32]) -> Self {
        let auth = wanted.auth.map(|field| AuthShown {
            mandatory: field.mandatory,
            k1: hex::encode(k1),
        });
        let texts = PayerDataWanted {
            auth: None,
            ..*wanted
        };
        Self { texts, auth }
    }
}

/// What a payer proves that it has a key by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PayerAuth {
    key: String,
    k1: String,
    sig: String,
}

/// A proof that is right.
#[derive(Debug)]
pub(super) struct Proven {
    /// The key: 66 hex digits.
    pub(super) key: String,
    /// What the challenge is claimed by.
    pub(super) claim: String,
}

/// The challenge for whoever looks at an address now.
pub(super) fn challenge(
    secrets: &Secrets,
    address: &str,
    now_ms: i64,
    random: [u8; 8],
) -> [u8; 32] {
    let mut challenge = [0; 32];
    challenge[..8].copy_from_slice(&now_ms.to_be_bytes());
    challenge[8..16].copy_from_slice(&random);
    let code = secrets.payer_challenge(address, &challenge[..16]);
    challenge[16..].copy_from_slice(code.as_slice());
    challenge
}

/// Looks whether the challenge is one of this address, not too old, and signed with the key.
pub(super) fn check(
    secrets: &Secrets,
    address: &str,
    now_ms: i64,
    auth: &PayerAuth,
) -> Result<Proven, CheckoutError> {
    let bad = |reason| CheckoutError::BadPayerData { reason };
    let mut k1 = [0; 32];
    hex::decode_to_slice(&auth.k1, &mut k1).map_err(|_| bad("the challenge is not ours"))?;
    let (number, code) = k1.split_at(16);
    let expected = secrets.payer_challenge(address, number);
    if !bool::from(expected.as_slice().ct_eq(code)) {
        return Err(bad("the challenge is not ours"));
    }
    let mut made_at_ms = [0; 8];
    made_at_ms.copy_from_slice(&number[..8]);
    let age_ms = now_ms.checked_sub(i64::from_be_bytes(made_at_ms));
    if !age_ms.is_some_and(|age_ms| (0..=LASTS_MS).contains(&age_ms)) {
        return Err(bad("the challenge is too old: look at the address again"));
    }
    let wrong = |_| bad("the challenge is not signed with the key");
    let mut compressed = [0; 33];
    hex::decode_to_slice(&auth.key, &mut compressed)
        .map_err(|_| bad("the challenge is not signed with the key"))?;
    let key = PublicKey::from_slice(&compressed).map_err(wrong)?;
    let signature =
        hex::decode(&auth.sig).map_err(|_| bad("the challenge is not signed with the key"))?;
    let mut signature = Signature::from_der(&signature).map_err(wrong)?;
    // Some wallets' libraries leave it as it comes; both stand for the same.
    signature.normalize_s();
    Secp256k1::verification_only()
        .verify_ecdsa(&Message::from_digest(k1), &signature, &key)
        .map_err(wrong)?;
    Ok(Proven {
        key: key.to_string(),
        claim: format!("payer_auth/{}", hex::encode(k1)),
    })
}

#[cfg(test)]
mod tests {
    use bitcoin::secp256k1::SecretKey;

    use super::*;
    use crate::MasterSecret;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn secrets() -> Secrets {
        Secrets::new(MasterSecret::new([7; 32]))
    }

    fn signed(k1: [u8; 32]) -> PayerAuth {
        let key = SecretKey::from_slice(&[5; 32]).unwrap();
        let signature = Secp256k1::new().sign_ecdsa(&Message::from_digest(k1), &key);
        PayerAuth {
            key: key.public_key(&Secp256k1::new()).to_string(),
            k1: hex::encode(k1),
            sig: hex::encode(signature.serialize_der()),
        }
    }

    #[test]
    fn only_a_fresh_challenge_of_the_address_that_the_key_signed_is_taken() {
        let secrets = secrets();
        let k1 = challenge(&secrets, "ivy", NOW_MS, [1; 8]);
        let auth = signed(k1);
        let looked = |address: &str, now_ms, auth: &PayerAuth| {
            check(&secrets, address, now_ms, auth).map(|proven| proven.key)
        };
        assert_eq!(looked("ivy", NOW_MS, &auth), Ok(auth.key.clone()));
        assert_eq!(
            looked("ivy", NOW_MS + LASTS_MS, &auth),
            Ok(auth.key.clone())
        );
        let upper = PayerAuth {
            k1: auth.k1.to_uppercase(),
            key: auth.key.to_uppercase(),
            sig: auth.sig.to_uppercase(),
        };
        let (one, same) = (
            check(&secrets, "ivy", NOW_MS, &auth),
            check(&secrets, "ivy", NOW_MS, &upper),
        );
        assert_eq!(one.unwrap().claim, same.unwrap().claim, "good twice");

        let refused =
            |address, now_ms, auth: &PayerAuth| looked(address, now_ms, auth).unwrap_err();
        refused("ivy2", NOW_MS, &auth);
        refused("ivy", NOW_MS + LASTS_MS + 1, &auth);
        refused("ivy", NOW_MS - 1, &auth);
        refused("ivy", i64::MIN, &auth);
        let foreign = challenge(
            &Secrets::new(MasterSecret::new([8; 32])),
            "ivy",
            NOW_MS,
            [1; 8],
        );
        refused("ivy", NOW_MS, &signed(foreign));
        for byte in 0..32 {
            let mut other = k1;
            other[byte] ^= 1;
            refused("ivy", NOW_MS, &signed(other));
        }
        let other_key = SecretKey::from_slice(&[6; 32]).unwrap();
        let key = other_key.public_key(&Secp256k1::new()).to_string();
        refused(
            "ivy",
            NOW_MS,
            &PayerAuth {
                key,
                ..auth.clone()
            },
        );
        let again = challenge(&secrets, "ivy", NOW_MS, [2; 8]);
        let sig = signed(again).sig;
        refused(
            "ivy",
            NOW_MS,
            &PayerAuth {
                sig,
                ..auth.clone()
            },
        );
        for text in ["", "00", "zz", &"0".repeat(66)] {
            let text = text.to_owned();
            refused(
                "ivy",
                NOW_MS,
                &PayerAuth {
                    key: text.clone(),
                    ..auth.clone()
                },
            );
            refused(
                "ivy",
                NOW_MS,
                &PayerAuth {
                    sig: text.clone(),
                    ..auth.clone()
                },
            );
            refused(
                "ivy",
                NOW_MS,
                &PayerAuth {
                    k1: text,
                    ..auth.clone()
                },
            );
        }
    }
}
