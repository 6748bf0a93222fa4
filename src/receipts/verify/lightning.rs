//! A Lightning payment: its secret, and the text in which the node asked for it.

use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef};
use serde::{Deserialize, Serialize};

use super::{Proven, Unverified};
use crate::invoices::Rail;
use crate::lightning::{Bolt11Details, Preimage};
use crate::receipts::model::Receipt;

/// What comes with a Lightning payment. A payment by book, from a card or an account of the same
/// engine, has the same.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LightningProof {
    /// The text that was paid, which its node signed.
    pub bolt11: String,
    /// The secret that its payment let out: 64 hex digits.
    pub preimage: String,
}

impl std::fmt::Debug for LightningProof {
    // Whoever has the secret can say that it paid.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LightningProof").finish_non_exhaustive()
    }
}

/// A Lightning payment that is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenLightning {
    /// What it is known by: 64 hex digits.
    pub payment_hash: String,
    /// What of it is proven: what the node asked for, and no more than the receipt says. `None`
    /// where the text left the amount to whoever paid: then only the receipt says it.
    pub amount_msat: Option<i64>,
    /// The node that asked, 66 hex digits.
    pub payee_node_id: String,
}

pub(super) fn check(
    proven: &Proven,
    proof: &LightningProof,
    nodes: &[String],
) -> Result<ProvenLightning, Unverified> {
    let wrong = |reason| Unverified::WrongRequest { reason };
    let receipt = &proven.receipt;
    let details: Bolt11Details = proof
        .bolt11
        .parse()
        .map_err(|_| wrong("it cannot be read"))?;
    let payment_hash = details.payment_hash.to_string();
    let before = &proven.lightning;
    let payment = receipt.payments.iter().find(|payment| {
        let by_hash = matches!(payment.rail, Rail::Lightning | Rail::Book);
        by_hash && payment.reference == payment_hash
    });
    let payment = payment
        .filter(|_| {
            before
                .iter()
                .all(|other| other.payment_hash != payment_hash)
        })
        .ok_or_else(|| Unverified::NotItsPayment {
            reference: payment_hash.clone(),
        })?;
    if preimage(&proof.preimage)?.payment_hash() != details.payment_hash {
        return Err(Unverified::WrongPreimage);
    }
    if details.network != receipt.network {
        return Err(wrong("it is of another network"));
    }
    let payee_node_id = details.payee_node_id;
    if !nodes.is_empty() && !nodes.contains(&payee_node_id) {
        return Err(wrong("another node asks"));
    }
    check_description(receipt, &proof.bolt11)?;
    let more_msat = details.amount_msat.map_or(0, |asked_msat| {
        payment.amount_msat.saturating_sub(asked_msat)
    });
    if more_msat > receipt.overpaid_msat {
        return Err(wrong("it asks for less than was paid"));
    }
    Ok(ProvenLightning {
        payment_hash,
        amount_msat: details
            .amount_msat
            .map(|asked_msat| asked_msat.min(payment.amount_msat)),
        payee_node_id,
    })
}

fn preimage(text: &str) -> Result<Preimage, Unverified> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| Unverified::WrongPreimage)?;
    Ok(Preimage::new(bytes))
}

/// The node signed for what the receipt says was sold.
fn check_description(receipt: &Receipt, bolt11: &str) -> Result<(), Unverified> {
    let reason = "it is for something else";
    let wrong = Unverified::WrongRequest { reason };
    let invoice: Bolt11Invoice = bolt11.trim().parse().map_err(|_| wrong.clone())?;
    let fits = match invoice.description() {
        Bolt11InvoiceDescriptionRef::Direct(text) => {
            receipt.description_hash.is_none() && text.to_string() == receipt.description
        }
        Bolt11InvoiceDescriptionRef::Hash(hash) => {
            receipt.description_hash.as_deref() == Some(&hash.0.to_string())
        }
    };
    if fits { Ok(()) } else { Err(wrong) }
}
