//! A payment on chain: the transaction, its way up to its block, and the headers from there to one
//! that is known.

use bitcoin::address::NetworkUnchecked;
use bitcoin::block::Header;
use bitcoin::consensus::{Params, deserialize};
use bitcoin::{Address, Network, Transaction, TxMerkleNode, Txid};
use serde::{Deserialize, Serialize};

use super::{Proven, Unverified};
use crate::chain::{BlockId, MerkleBranch};
use crate::invoices::Outpoint;
use crate::receipts::model::{Receipt, ReceiptPayment};

/// The most headers of a proof: two weeks of blocks.
pub const MAX_HEADERS: usize = 2_016;
/// A transaction of this size can be read as two hashes of the tree above it, and the other way
/// round: an inner node could be shown as a transaction that was never made.
const AMBIGUOUS_SIZE: usize = 64;

/// What comes with a payment on chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnChainProof {
    /// The whole transaction, in hex.
    pub transaction: String,
    /// Which of its outputs paid.
    pub vout: u32,
    /// Where the transaction stands in its block, from 0.
    pub position: u32,
    /// What it is hashed together with on the way up, from the bottom: 64 hex digits each, as
    /// explorers write them.
    pub siblings: Vec<String>,
    /// The headers of 80 bytes, in hex: of the block that has it first, and each of the next ones
    /// up to one that is trusted; at most 2,016.
    pub headers: Vec<String>,
}

/// A payment on chain that is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenOnChain {
    /// The output.
    pub outpoint: Outpoint,
    /// What it has.
    pub amount_sat: i64,
    /// The block that has it.
    pub block: BlockId,
    /// How many blocks are upon it up to the last trusted one, itself counted.
    pub confirmations: u32,
}

pub(super) fn check(
    proven: &Proven,
    proof: &OnChainProof,
    trusted: &[BlockId],
) -> Result<ProvenOnChain, Unverified> {
    let wrong = |reason| Unverified::WrongTransaction { reason };
    let receipt = &proven.receipt;
    let bytes = hex::decode(&proof.transaction).map_err(|_| wrong("it cannot be read"))?;
    let transaction: Transaction = deserialize(&bytes).map_err(|_| wrong("it cannot be read"))?;
    if transaction.base_size() == AMBIGUOUS_SIZE {
        return Err(wrong("it could be an inner node of the tree"));
    }
    let txid = transaction.compute_txid();
    let outpoint = format!("{txid}:{}", proof.vout);
    let before = &proven.on_chain;
    let payment = receipt
        .payments
        .iter()
        .find(|payment| payment.reference == outpoint)
        .filter(|_| {
            before
                .iter()
                .all(|other| other.outpoint.to_string() != outpoint)
        })
        .ok_or_else(|| Unverified::NotItsPayment {
            reference: outpoint.clone(),
        })?;
    let amount_sat = check_output(receipt, payment, &transaction, proof.vout)?;
    let headers = headers(&proof.headers, network(receipt)?)?;
    check_path(txid, proof, headers.first())?;
    let (block, confirmations) = place(&headers, trusted)?;
    Ok(ProvenOnChain {
        outpoint: outpoint.parse().map_err(|_| wrong("it cannot be read"))?,
        amount_sat,
        block,
        confirmations,
    })
}

fn network(receipt: &Receipt) -> Result<Network, Unverified> {
    let reason = "it is of a network that is not known here";
    let unknown = Unverified::WrongTransaction { reason };
    receipt.network.parse().map_err(|_| unknown)
}

/// The output has what the receipt says, at the address that it names.
fn check_output(
    receipt: &Receipt,
    payment: &ReceiptPayment,
    transaction: &Transaction,
    vout: u32,
) -> Result<i64, Unverified> {
    let wrong = |reason| Unverified::WrongTransaction { reason };
    let at = usize::try_from(vout).unwrap_or(usize::MAX);
    let output = transaction.output.get(at);
    let output = output.ok_or(wrong("it has no such output"))?;
    let address = payment.address.as_deref().unwrap_or_default();
    let address: Address<NetworkUnchecked> = address
        .parse()
        .map_err(|_| wrong("the receipt names no address"))?;
    let address = address
        .require_network(network(receipt)?)
        .map_err(|_| wrong("the address is of another network"))?;
    if output.script_pubkey != address.script_pubkey() {
        return Err(wrong("it pays to another address"));
    }
    let amount_sat = i64::try_from(output.value.to_sat()).unwrap_or(i64::MAX);
    if amount_sat.checked_mul(1_000) != Some(payment.amount_msat) {
        return Err(wrong("it pays another amount"));
    }
    Ok(amount_sat)
}

/// Headers that each build on the one before, with the work that they claim.
fn headers(texts: &[String], network: Network) -> Result<Vec<Header>, Unverified> {
    let easiest = Params::new(network).max_attainable_target;
    if texts.len() > MAX_HEADERS {
        let reason = "there are too many";
        return Err(Unverified::WrongHeader {
            at: MAX_HEADERS,
            reason,
        });
    }
    let mut headers: Vec<Header> = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let wrong = |reason| Unverified::WrongHeader { at, reason };
        let mut bytes = [0; 80];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong("it is not 80 bytes in hex"))?;
        let header: Header = deserialize(&bytes).map_err(|_| wrong("it cannot be read"))?;
        if header.target() > easiest || header.validate_pow(header.target()).is_err() {
            return Err(wrong("it has too little work"));
        }
        let follows = headers
            .last()
            .is_none_or(|before| before.block_hash() == header.prev_blockhash);
        if !follows {
            return Err(wrong("it does not build on the one before"));
        }
        headers.push(header);
    }
    Ok(headers)
}

fn check_path(txid: Txid, proof: &OnChainProof, block: Option<&Header>) -> Result<(), Unverified> {
    let siblings: Result<Vec<TxMerkleNode>, _> =
        proof.siblings.iter().map(|text| text.parse()).collect();
    let branch = MerkleBranch {
        position: proof.position,
        siblings: siblings.map_err(|_| Unverified::WrongPath)?,
    };
    let block = block.ok_or(Unverified::UnknownChain)?;
    match branch.root(txid) {
        Some(root) if root == block.merkle_root => Ok(()),
        _ => Err(Unverified::WrongPath),
    }
}

/// The first header's block, and how many headers there are up to the last trusted one. A block
/// that is trusted vouches for those that it builds upon, and for none after it.
fn place(headers: &[Header], trusted: &[BlockId]) -> Result<(BlockId, u32), Unverified> {
    let known = headers.iter().enumerate().rev().find_map(|(at, header)| {
        let hash = header.block_hash();
        let block = trusted.iter().find(|block| block.hash == hash)?;
        let above = u32::try_from(at).ok()?;
        Some((block.height.checked_sub(above)?, above))
    });
    let (height, above) = known.ok_or(Unverified::UnknownChain)?;
    let first = headers.first().ok_or(Unverified::UnknownChain)?;
    let block = BlockId {
        height,
        hash: first.block_hash(),
    };
    Ok((block, above.saturating_add(1)))
}
