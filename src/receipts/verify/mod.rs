//! Checking a receipt without the engine that issued it, and without a network.
//!
//! A third party is handed a [`ReceiptBundle`] and brings what it [trusts](Trust). [`verify`] is
//! pure: it reads nothing else. There are three things to check, and each proves its own:
//!
//! | what | proves | does not prove |
//! |---|---|---|
//! | the **signature** | that whoever has the seller's key issued exactly this receipt | that anybody paid: the seller can sign what it likes, and can sign with a wrong date |
//! | the **preimage**, with the BOLT11 text | that the node named asked for this amount, for this description, and let the secret out that it gives for being paid: in the hands of whoever paid it is the proof of payment that Lightning has | who paid; in the hands of the *seller*, that it was paid at all, since the seller made the secret; what was paid where the text names no amount; that nothing was paid back |
//! | the **transaction** with its way to a block | that this output to the address on the receipt is in the chain that the verifier trusts, under so many blocks: nobody can make that up without doing their work | who paid; that the address is the seller's, beyond the seller's having signed it; that later blocks than the trusted one still build on it |
//!
//! None of them shows what came after: a [correction](super::ReceiptKind::Correction) is a receipt
//! of its own, and whoever needs the last word asks the seller for it. The public key must come
//! from where the seller publishes it: the one on the receipt says nothing.

mod lightning;
mod on_chain;

use serde::{Deserialize, Serialize};

use super::model::{Receipt, ReceiptKey};
use super::signing::Parts;
use crate::chain::BlockId;

pub use lightning::{LightningProof, ProvenLightning};
pub use on_chain::{MAX_HEADERS, OnChainProof, ProvenOnChain};

/// The most characters of a bundle; a receipt with its proofs has a few thousand.
const MAX_BUNDLE: usize = 1_048_576;
/// The most proofs of a kind: as many as an invoice has payments.
const MAX_PROOFS: usize = 100;
const VERSION: u32 = 1;

/// A receipt and what comes with it, as it is handed to a third party: JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptBundle {
    /// The receipt with its signature: [`signed`](super::IssuedReceipt::signed).
    pub receipt: String,
    /// Proofs of its Lightning payments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lightning: Vec<LightningProof>,
    /// Proofs of its payments on chain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_chain: Vec<OnChainProof>,
}

impl ReceiptBundle {
    /// Reads what somebody hands in. Nothing of it is checked yet: that is [`verify`]'s.
    ///
    /// # Errors
    /// `receipt.malformed`.
    pub fn from_text(text: &str) -> Result<Self, Unverified> {
        if text.len() > MAX_BUNDLE {
            let reason = "it is longer than any receipt";
            return Err(Unverified::Malformed { reason });
        }
        let reason = "it is no receipt with its proofs";
        serde_json::from_str(text).map_err(|_| Unverified::Malformed { reason })
    }

    /// The text that [`from_text`](Self::from_text) reads.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What whoever checks a receipt knows beforehand, and not from who hands it in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The seller's keys, as it publishes them.
    pub keys: Vec<ReceiptKey>,
    /// The seller's nodes, 66 hex digits each. Where there are none, any node will do, and which
    /// one it was is [told](ProvenLightning::payee_node_id).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Blocks of the best chain, from a node or a service that is trusted: those of the payments,
    /// or later ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockId>,
}

/// What was proven of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// What it says.
    pub receipt: Receipt,
    /// The key that signed it.
    pub key: ReceiptKey,
    /// Its Lightning payments of which the secret was handed in.
    pub lightning: Vec<ProvenLightning>,
    /// Its payments on chain of which the way to a trusted block was handed in.
    pub on_chain: Vec<ProvenOnChain>,
}

/// A receipt, or what came with it, is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unverified {
    /// It cannot be read. `receipt.malformed`.
    #[error("this is no receipt: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What was signed is not this, or nothing was. `receipt.bad_signature`.
    #[error("the signature does not fit")]
    BadSignature,
    /// It is signed with a key that is not the seller's. `receipt.foreign_key`.
    #[error("it is signed with the key {public_key}, which is not trusted")]
    ForeignKey {
        /// Which.
        public_key: String,
    },
    /// It says that it was issued after its key was retired. `receipt.key_retired`.
    #[error("it was issued at {issued_at_ms}, when its key was no longer used")]
    KeyRetired {
        /// When it says that it was issued, milliseconds since the epoch.
        issued_at_ms: i64,
    },
    /// A proof is of a payment that the receipt does not have, or has been handed in before.
    /// `receipt.not_its_payment`.
    #[error("the receipt has no payment {reference} for this proof")]
    NotItsPayment {
        /// What the payment is known by.
        reference: String,
    },
    /// The BOLT11 text is not of this payment: its network, node, amount or description is another
    /// one. `receipt.wrong_request`.
    #[error("the BOLT11 text is not of this payment: {reason}")]
    WrongRequest {
        /// What is wrong.
        reason: &'static str,
    },
    /// The secret is not that of the payment hash: it may never have been paid.
    /// `receipt.wrong_preimage`.
    #[error("the preimage is not of this payment")]
    WrongPreimage,
    /// The transaction does not pay this to the address. `receipt.wrong_transaction`.
    #[error("the transaction is not this payment: {reason}")]
    WrongTransaction {
        /// What is wrong.
        reason: &'static str,
    },
    /// The transaction is not in the block that the headers begin with. `receipt.wrong_path`.
    #[error("the path does not lead from the transaction to the block")]
    WrongPath,
    /// A header is not the next one, or has too little work. `receipt.wrong_header`.
    #[error("header {at} is wrong: {reason}")]
    WrongHeader {
        /// Its place, from 0.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// None of the headers is one that is trusted. `receipt.unknown_chain`.
    #[error("none of the blocks is known")]
    UnknownChain,
}

impl Unverified {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "receipt.malformed",
            Self::BadSignature => "receipt.bad_signature",
            Self::ForeignKey { .. } => "receipt.foreign_key",
            Self::KeyRetired { .. } => "receipt.key_retired",
            Self::NotItsPayment { .. } => "receipt.not_its_payment",
            Self::WrongRequest { .. } => "receipt.wrong_request",
            Self::WrongPreimage => "receipt.wrong_preimage",
            Self::WrongTransaction { .. } => "receipt.wrong_transaction",
            Self::WrongPath => "receipt.wrong_path",
            Self::WrongHeader { .. } => "receipt.wrong_header",
            Self::UnknownChain => "receipt.unknown_chain",
        }
    }
}

/// Checks a receipt and everything that came with it; one thing that is wrong and nothing is
/// proven.
///
/// # Errors
/// [`Unverified`], with the first thing that is wrong.
pub fn verify(bundle: &ReceiptBundle, trust: &Trust) -> Result<Proven, Unverified> {
    let parts = Parts::of(&bundle.receipt)?;
    let key = trust
        .keys
        .iter()
        .find(|key| key.public_key == parts.public_key);
    let key = key.cloned().ok_or_else(|| Unverified::ForeignKey {
        public_key: parts.public_key.to_owned(),
    })?;
    parts.check_signature()?;
    let receipt = read(parts.body)?;
    let issued_at_ms = receipt.issued_at_ms;
    if key
        .until_ms
        .is_some_and(|until_ms| issued_at_ms >= until_ms)
    {
        return Err(Unverified::KeyRetired { issued_at_ms });
    }
    if bundle.lightning.len() > MAX_PROOFS || bundle.on_chain.len() > MAX_PROOFS {
        let reason = "it has more proofs than an invoice has payments";
        return Err(Unverified::Malformed { reason });
    }
    let mut proven = Proven {
        receipt,
        key,
        lightning: Vec::new(),
        on_chain: Vec::new(),
    };
    for proof in &bundle.lightning {
        let found = lightning::check(&proven, proof, &trust.nodes)?;
        proven.lightning.push(found);
    }
    for proof in &bundle.on_chain {
        let found = on_chain::check(&proven, proof, &trust.blocks)?;
        proven.on_chain.push(found);
    }
    Ok(proven)
}

/// The receipt in a body. One of a form that is not known yet is not guessed at.
pub(super) fn read(body: &str) -> Result<Receipt, Unverified> {
    let malformed = |reason| Unverified::Malformed { reason };
    let receipt: Receipt =
        serde_json::from_str(body).map_err(|_| malformed("what was signed is no receipt"))?;
    if receipt.version != VERSION {
        return Err(malformed("it is of a form that is not known here"));
    }
    Ok(receipt)
}
