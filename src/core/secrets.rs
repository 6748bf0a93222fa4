//! Everything secret comes from one secret that the host keeps.
//!
//! Nothing secret is stored: the preimages of invoices, the tokens of credentials, the node's
//! seed and (unless the host brings one) the card issuer's key are derived when they are needed,
//! by HKDF-SHA256 (RFC 5869) with a label each.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::ids::{CardId, CredentialId, InvoiceId};
use crate::lightning::Preimage;

/// 32 random bytes that the host keeps where the system keeps secrets. Whoever has them has the
/// node's money; without them the books can be read but neither node nor cards work.
#[derive(Clone)]
pub struct MasterSecret {
    bytes: [u8; 32],
    /// What HKDF extracts of them, from which everything is expanded.
    extracted: [u8; 32],
}

impl MasterSecret {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        let (extracted, _) = Hkdf::<Sha256>::extract(None, &bytes);
        Self {
            bytes,
            extracted: extracted.into(),
        }
    }

    /// The bytes themselves: to be sealed, and for nothing else.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// 64 bytes of entropy for the node.
    pub fn node_entropy(&self) -> Zeroizing<[u8; 64]> {
        self.derive(&[b"flashkit/node-entropy/1"])
    }

    /// The key from which the keys of cards come, where the host does not bring its own, and it
    /// was never rotated.
    pub fn card_issuer_key(&self) -> Zeroizing<[u8; 16]> {
        self.derive(&[b"flashkit/card-issuer-key/1"])
    }

    fn derive<const N: usize>(&self, label: &[&[u8]]) -> Zeroizing<[u8; N]> {
        // The one way for the expansion to fail is to ask for more than 255 blocks; to begin it, a
        // key shorter than a hash.
        const { assert!(N <= 255 * 32, "HKDF-SHA256 gives at most 8,160 bytes") };
        let mut out = Zeroizing::new([0; N]);
        let expanded = Hkdf::<Sha256>::from_prk(&self.extracted)
            .is_ok_and(|key| key.expand_multi_info(label, out.as_mut_slice()).is_ok());
        debug_assert!(expanded);
        out
    }
}

impl fmt::Debug for MasterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterSecret(redacted)")
    }
}

impl Drop for MasterSecret {
    fn drop(&mut self) {
        self.bytes.zeroize();
        self.extracted.zeroize();
    }
}

/// The secrets as the services use them.
#[derive(Debug, Clone)]
pub(crate) struct Secrets(MasterSecret);

impl Secrets {
    pub(crate) fn new(master: MasterSecret) -> Self {
        Self(master)
    }

    /// The node's seed, of which the wallet on chain has an account of its own.
    #[cfg(feature = "chain")]
    pub(crate) fn node_entropy(&self) -> Zeroizing<[u8; 64]> {
        self.0.node_entropy()
    }

    pub(crate) fn preimage(&self, invoice: InvoiceId) -> Preimage {
        let id = invoice.to_string();
        Preimage::new(*self.0.derive(&[b"flashkit/preimage/1/", id.as_bytes()]))
    }

    /// The preimage of the text that an invoice asks for the rest by, counted from 0, which is the
    /// invoice's first.
    pub(crate) fn preimage_at(&self, invoice: InvoiceId, at: usize) -> Preimage {
        if at == 0 {
            return self.preimage(invoice);
        }
        let (id, at) = (invoice.to_string(), format!("/{at}"));
        let label: [&[u8]; 3] = [b"flashkit/preimage/1/", id.as_bytes(), at.as_bytes()];
        Preimage::new(*self.0.derive(&label))
    }

    pub(crate) fn credential(&self, credential: CredentialId) -> Zeroizing<[u8; 32]> {
        let id = credential.to_string();
        self.0.derive(&[b"flashkit/credential/1/", id.as_bytes()])
    }

    /// The issuer key of a generation: one more with each rotation, from 1.
    pub(crate) fn issuer_key(&self, generation: u32) -> Zeroizing<[u8; 16]> {
        let generation = generation.to_string();
        self.0
            .derive(&[b"flashkit/card-issuer-key/", generation.as_bytes()])
    }

    /// The key without which the hash of a card's PIN says nothing: a PIN has so few digits that
    /// its hash alone could be tried out.
    pub(crate) fn pin_key(&self) -> Zeroizing<[u8; 32]> {
        self.0.derive(&[b"flashkit/card-pin/1"])
    }

    /// The bytes of a printed recovery code of a card.
    pub(crate) fn recovery_code(&self, card: CardId, number: u32) -> Zeroizing<[u8; 10]> {
        let (id, number) = (card.to_string(), number.to_be_bytes());
        self.0
            .derive(&[b"flashkit/recovery-code/1/", id.as_bytes(), &number])
    }

    /// What a recovery code is known by: who has the books alone cannot tell whether a code is
    /// right.
    pub(crate) fn recovery_hash(&self, code: &str) -> Zeroizing<[u8; 10]> {
        self.0
            .derive(&[b"flashkit/recovery-hash/1/", code.as_bytes()])
    }

    /// What the number of a virtual card is made of.
    pub(crate) fn card_number(&self, card: CardId) -> Zeroizing<[u8; 8]> {
        let id = card.to_string();
        self.0.derive(&[b"flashkit/card-number/1/", id.as_bytes()])
    }

    /// The key of the rotating code of a virtual card.
    pub(crate) fn virtual_code(&self, card: CardId) -> Zeroizing<[u8; 32]> {
        let id = card.to_string();
        self.0.derive(&[b"flashkit/virtual-code/1/", id.as_bytes()])
    }

    /// The key that receipts are signed with: one more generation with each rotation, from 1.
    pub(crate) fn receipt_key(&self, generation: u32) -> Zeroizing<[u8; 32]> {
        let generation = generation.to_string();
        self.0
            .derive(&[b"flashkit/receipt-key/1/", generation.as_bytes()])
    }

    /// What stands in the place of something short and secret, a PIN, where two of it are only
    /// compared.
    pub(crate) fn blind(&self, text: &str) -> String {
        let bytes: Zeroizing<[u8; 16]> = self.0.derive(&[b"flashkit/blind/1/", text.as_bytes()]);
        hex::encode(*bytes)
    }

    /// What a request is known by, of its digest.
    pub(crate) fn fingerprint(&self, digest: &str) -> String {
        let label: [&[u8]; 2] = [b"flashkit/fingerprint/1/", digest.as_bytes()];
        hex::encode(*self.0.derive::<32>(&label))
    }

    /// What makes a number a challenge of this engine's for whoever pays to an address.
    pub(crate) fn payer_challenge(&self, address: &str, number: &[u8]) -> Zeroizing<[u8; 16]> {
        let label: [&[u8]; 4] = [
            b"flashkit/payer-challenge/1/",
            number,
            b"/",
            address.as_bytes(),
        ];
        self.0.derive(&label)
    }

    /// A digest by which books know the secret that they were made with.
    pub(crate) fn check(&self) -> String {
        let bytes: Zeroizing<[u8; 16]> = self.0.derive(&[b"flashkit/identity/1"]);
        hex::encode(*bytes)
    }

    /// The id of the issuer's credential: the same whenever this secret opens the books.
    pub(crate) fn issuer_credential(&self) -> CredentialId {
        let bytes: Zeroizing<[u8; 10]> = self.0.derive(&[b"flashkit/issuer-credential/1"]);
        CredentialId::from_parts(0, *bytes)
    }
}
