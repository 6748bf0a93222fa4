//! What a receipt is handed to a third party with.

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{BlockHash, Txid};
use serde::{Deserialize, Serialize};

use super::error::ReceiptError;
use super::model::{IssuedReceipt, ReceiptPayment};
use super::verify::{LightningProof, MAX_HEADERS, OnChainProof, ReceiptBundle};
use super::{Receipts, receipt_id};
use crate::Error;
use crate::access::Credential;
use crate::chain::{BlockId, ChainError, ChainSource};
use crate::core::{Answer, CommandError, Loaded};
use crate::ids::MerchantId;
use crate::invoices::{self, Invoice, Outpoint, Rail};
use crate::lightning::PaymentHash;

/// Asks for a receipt with the proofs of its payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveReceipt {
    /// The seller; `None` for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// The receipt's number.
    pub number: u64,
    /// The block up to which headers are given, where there are payments on chain: one that
    /// whoever checks it trusts. The last one there is, where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through_height: Option<u32>,
}

impl Receipts {
    /// A receipt with the proofs of its payments, for a third party: the secrets of those over
    /// Lightning and by book, and for those on chain the transaction, its way to its block, and the
    /// headers from there. Whoever is given the secret of a payment can say that it paid: it is the
    /// payer's to hand on. The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `receipt.not_found`; `receipt.not_in_chain` for a payment that the chain does not have (any
    /// more), or only above `through_height`; `chain.*`, also where there is no chain to ask;
    /// `command.out_of_bounds` for more than 2,016 headers; `access.*`.
    pub async fn prove(
        &self,
        credential: &Credential,
        query: ProveReceipt,
    ) -> Result<Answer<ReceiptBundle>, Error> {
        let core = &self.core;
        self.require_seller(credential, query.merchant).await?;
        let as_of_ms = core.clock.now_ms();
        let id = receipt_id(query.merchant, query.number);
        let found: Option<Loaded<super::Stored>> = core.load(super::RECEIPTS, &id).await?;
        let issued = super::issued(found.ok_or(ReceiptError::NotFound)?.value)?;
        let invoice = invoices::load(core, issued.receipt.invoice).await?.value;
        let mut value = ReceiptBundle {
            receipt: issued.signed.clone(),
            lightning: Vec::new(),
            on_chain: Vec::new(),
        };
        for payment in &issued.receipt.payments {
            match payment.rail {
                Rail::Lightning | Rail::Book => {
                    value.lightning.extend(self.secret_of(&invoice, payment));
                }
                Rail::OnChain => {
                    let proof = self.path_of(&issued, payment, query.through_height).await?;
                    value.on_chain.push(proof);
                }
                // The offer's own invoice is not kept.
                Rail::Bolt12 => {}
            }
        }
        Ok(Answer { as_of_ms, value })
    }

    /// Only of a payment that is on a receipt, and so was booked. One by book of an invoice without
    /// a text has nothing that a node signed.
    fn secret_of(&self, invoice: &Invoice, payment: &ReceiptPayment) -> Option<LightningProof> {
        let hash: PaymentHash = payment.reference.parse().ok()?;
        let rail = invoice
            .lightning
            .iter()
            .find(|rail| rail.payment_hash == hash)?;
        Some(LightningProof {
            bolt11: rail.bolt11.clone(),
            preimage: invoices::proof(&self.core, invoice, hash),
        })
    }

    async fn path_of(
        &self,
        issued: &IssuedReceipt,
        payment: &ReceiptPayment,
        through: Option<u32>,
    ) -> Result<OnChainProof, Error> {
        let missing = || ReceiptError::NotInChain {
            number: issued.receipt.number,
            reference: payment.reference.clone(),
        };
        let source = self.core.chain()?;
        let outpoint: Outpoint = payment.reference.parse().map_err(|_| missing())?;
        let txid: Txid = hex::encode(outpoint.txid).parse().map_err(|_| missing())?;
        let invoice = invoices::load(&self.core, issued.receipt.invoice).await?;
        let mut known = invoice.value.payments.iter();
        let known = known.find(|known| known.reference == payment.reference);
        let block = known.and_then(|known| {
            let hash: BlockHash = known.block.as_ref()?.parse().ok()?;
            let height = known.block_height?;
            Some(BlockId { height, hash })
        });
        let block = block.ok_or_else(missing)?;
        let hash = block.hash;
        let transaction = source.transaction(txid, Some(hash)).await?;
        let transaction = transaction.ok_or_else(missing)?;
        let branch = source.merkle_branch(txid, block).await?;
        let branch = branch.ok_or_else(missing)?;
        let headers = headers(source.as_ref(), block, through).await?;
        Ok(OnChainProof {
            transaction: serialize_hex(&transaction),
            vout: outpoint.vout,
            position: branch.position,
            siblings: branch.siblings.iter().map(ToString::to_string).collect(),
            headers: headers.ok_or_else(missing)?,
        })
    }
}

/// The headers from a block on: up to the one that was asked for, or the last there is. `None` for
/// a block that is not (any more) in the best chain, or lies above the one that was asked for.
async fn headers(
    source: &dyn ChainSource,
    block: BlockId,
    through: Option<u32>,
) -> Result<Option<Vec<String>>, Error> {
    let most = u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX);
    let tip = source.tip().await?.height;
    let last = match through {
        Some(through) if through.saturating_sub(block.height) >= most => {
            let (field, bounds) = ("through_height", "2,016 blocks from the payment's");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        Some(through) if through > tip => return Ok(None),
        Some(through) => through,
        None => tip.min(block.height.saturating_add(most - 1)),
    };
    if last < block.height {
        return Ok(None);
    }
    let (mut headers, mut before) = (Vec::new(), None);
    for height in block.height..=last {
        let Some(header) = source.header_at(height).await? else {
            return Err(ChainError::Moved.into());
        };
        let hash = header.block_hash();
        match before {
            None if hash != block.hash => return Ok(None),
            Some(before) if header.prev_blockhash != before => {
                return Err(ChainError::Moved.into());
            }
            _ => {}
        }
        before = Some(hash);
        headers.push(serialize_hex(&header));
    }
    Ok(Some(headers))
}
