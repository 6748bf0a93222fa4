//! The signature of a receipt, and the text that carries both.
//!
//! Three lines, each ended by the next and the last by the end: the name of the form; the receipt
//! as JSON; and the public key and the signature (BIP 340) in hex, with a space between. What is
//! signed are the bytes of the second line, under a tag of its own (BIP 340's tagged hash), so
//! that nothing that is signed with the key for another purpose can pass for a receipt.

use bitcoin::secp256k1::schnorr::Signature;
use bitcoin::secp256k1::{Keypair, Message, Secp256k1, SecretKey, XOnlyPublicKey};
use sha2::{Digest, Sha256};

use super::error::ReceiptError;
use super::verify::Unverified;

const FORM: &str = "flashkit receipt 1";
const TAG: &[u8] = b"flashkit/receipt/1";

/// A key that signs.
pub(super) struct SigningKey(Keypair);

impl SigningKey {
    /// From what the master secret gives.
    pub(super) fn new(bytes: &[u8; 32]) -> Result<Self, ReceiptError> {
        let secret = SecretKey::from_slice(bytes).map_err(|_| ReceiptError::NoKey)?;
        let pair = Keypair::from_secret_key(&Secp256k1::signing_only(), &secret);
        Ok(Self(pair))
    }

    /// 64 hex digits.
    pub(super) fn public_key(&self) -> String {
        self.0.x_only_public_key().0.to_string()
    }

    /// The text of a receipt. The same receipt always gives the same text: nothing random goes
    /// into the signature, as BIP 340 has it.
    pub(super) fn sign(&self, body: &str) -> String {
        let secp = Secp256k1::signing_only();
        let signature = secp.sign_schnorr_no_aux_rand(&message(body), &self.0);
        let signature = hex::encode(signature.serialize());
        format!("{FORM}\n{body}\n{} {signature}", self.public_key())
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

fn message(body: &str) -> Message {
    let tag = Sha256::digest(TAG);
    let mut hash = Sha256::new();
    hash.update(tag);
    hash.update(tag);
    hash.update(body.as_bytes());
    Message::from_digest(hash.finalize().into())
}

/// The parts of a text, of which nothing is believed yet.
pub(super) struct Parts<'a> {
    pub(super) body: &'a str,
    pub(super) public_key: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    /// One way to write each receipt, and no other.
    pub(super) fn of(text: &'a str) -> Result<Self, Unverified> {
        let malformed = |reason| Unverified::Malformed { reason };
        let rest = text
            .strip_prefix(FORM)
            .and_then(|rest| rest.strip_prefix('\n'));
        let rest = rest.ok_or(malformed("it does not begin as a receipt"))?;
        let (body, keys) = rest
            .split_once('\n')
            .ok_or(malformed("it has no signature"))?;
        let (public_key, signature) = keys
            .split_once(' ')
            .ok_or(malformed("it has no signature"))?;
        let is_hex = |text: &str, length| {
            let lower = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            text.len() == length && text.bytes().all(lower)
        };
        if !is_hex(public_key, 64) || !is_hex(signature, 128) {
            return Err(malformed("its key and signature are not lower-case hex"));
        }
        Ok(Self {
            body,
            public_key,
            signature,
        })
    }

    /// Checks that whoever has the key of this text signed its body.
    pub(super) fn check_signature(&self) -> Result<(), Unverified> {
        let mut signature = [0; 64];
        hex::decode_to_slice(self.signature, &mut signature)
            .map_err(|_| Unverified::BadSignature)?;
        let signature = Signature::from_slice(&signature).map_err(|_| Unverified::BadSignature)?;
        let key: XOnlyPublicKey = self
            .public_key
            .parse()
            .map_err(|_| Unverified::BadSignature)?;
        Secp256k1::verification_only()
            .verify_schnorr(&signature, &message(self.body), &key)
            .map_err(|_| Unverified::BadSignature)
    }
}
