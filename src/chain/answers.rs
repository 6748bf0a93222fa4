//! What an Esplora server and a Bitcoin Core node answer, taken apart. Pure, and all of it comes from
//! outside: what cannot be read is `chain.bad_answer`, and nothing is taken for something else.

use std::collections::BTreeMap;
use std::str::FromStr;

use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize, deserialize_hex};
use bitcoin::{Transaction, TxMerkleNode, Txid};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{BlockId, ChainError, FeeRates, MerkleBranch};

/// A Bitcoin Core node that is still starting.
const WARMING_UP: i64 = -28;

/// A transaction and the block it is said to be in; `None` while it waits.
pub type Placed = (Txid, Option<BlockId>);

#[derive(Deserialize)]
struct Status {
    confirmed: bool,
    block_height: Option<u32>,
    block_hash: Option<String>,
}

impl Status {
    fn block(&self) -> Result<Option<BlockId>, ChainError> {
        let question = "the status of a transaction";
        match (self.confirmed, self.block_height, &self.block_hash) {
            (false, ..) => Ok(None),
            (true, Some(height), Some(hash)) => {
                let hash = parse(hash, question)?;
                Ok(Some(BlockId { height, hash }))
            }
            _ => Err(ChainError::BadAnswer { question }),
        }
    }
}

#[derive(Deserialize)]
struct Listed {
    txid: String,
    status: Status,
}

impl Listed {
    fn placed(&self, question: &'static str) -> Result<Placed, ChainError> {
        Ok((parse(&self.txid, question)?, self.status.block()?))
    }
}

#[derive(Deserialize)]
struct Outspend {
    spent: bool,
    txid: Option<String>,
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Proof {
    block_height: u32,
    merkle: Vec<String>,
    pos: u32,
}

fn parse<T: FromStr>(text: &str, question: &'static str) -> Result<T, ChainError> {
    let bad = ChainError::BadAnswer { question };
    text.trim().parse().map_err(|_| bad)
}

fn json<T: DeserializeOwned>(body: &[u8], question: &'static str) -> Result<T, ChainError> {
    serde_json::from_slice(body).map_err(|_| ChainError::BadAnswer { question })
}

fn text<'a>(body: &'a [u8], question: &'static str) -> Result<&'a str, ChainError> {
    std::str::from_utf8(body)
        .map(str::trim)
        .map_err(|_| ChainError::BadAnswer { question })
}

/// A number or a hash that stands alone.
///
/// # Errors
/// `chain.bad_answer`, as with all of these.
pub fn esplora_value<T: FromStr>(body: &[u8], question: &'static str) -> Result<T, ChainError> {
    parse(text(body, question)?, question)
}

/// A page of the history of a script.
///
/// # Errors
/// `chain.bad_answer`.
pub fn esplora_history(body: &[u8]) -> Result<Vec<Placed>, ChainError> {
    let question = "the history of a script";
    let page: Vec<Listed> = json(body, question)?;
    page.iter().map(|listed| listed.placed(question)).collect()
}

/// A transaction, as far as its place.
///
/// # Errors
/// `chain.bad_answer`.
pub fn esplora_listed(body: &[u8]) -> Result<Placed, ChainError> {
    let question = "a transaction";
    json::<Listed>(body, question)?.placed(question)
}

/// What spends an output, if anything does.
///
/// # Errors
/// `chain.bad_answer`.
pub fn esplora_outspend(body: &[u8]) -> Result<Option<Placed>, ChainError> {
    let question = "what spends an output";
    match json(body, question)? {
        Outspend {
            spent: true,
            txid: Some(by),
            status: Some(status),
        } => Ok(Some((parse(&by, question)?, status.block()?))),
        _ => Ok(None),
    }
}

/// A Merkle proof; `None` where it is of a block at another height.
///
/// # Errors
/// `chain.bad_answer`.
pub fn esplora_proof(body: &[u8], height: u32) -> Result<Option<MerkleBranch>, ChainError> {
    let question = "a Merkle proof";
    let proof: Proof = json(body, question)?;
    let siblings = proof.merkle.iter();
    let siblings = siblings.map(|node| parse::<TxMerkleNode>(node, question));
    let branch = MerkleBranch {
        position: proof.pos,
        siblings: siblings.collect::<Result<_, _>>()?,
    };
    Ok((proof.block_height == height).then_some(branch))
}

/// A header.
///
/// # Errors
/// `chain.bad_answer`.
pub fn esplora_header(body: &[u8]) -> Result<Header, ChainError> {
    let question = "a header";
    deserialize_hex(text(body, question)?).map_err(|_| ChainError::BadAnswer { question })
}

/// The transaction of this id.
///
/// # Errors
/// `chain.bad_answer`, also for another one.
pub fn esplora_transaction(body: &[u8], txid: Txid) -> Result<Transaction, ChainError> {
    let bad = ChainError::BadAnswer {
        question: "a transaction",
    };
    match deserialize::<Transaction>(body) {
        Ok(transaction) if transaction.compute_txid() == txid => Ok(transaction),
        _ => Err(bad),
    }
}

/// Fee rates out of estimates by how many blocks they are for.
///
/// # Errors
/// `chain.bad_answer`, `chain.no_fee_rate`.
pub fn esplora_fee_rates(body: &[u8]) -> Result<FeeRates, ChainError> {
    let rates: BTreeMap<String, Box<RawValue>> = json(body, "the estimates of fees")?;
    // The best estimate for so many blocks is that for as many or for fewer.
    let rate = |within: u32| {
        let known = rates.iter().filter_map(|(blocks, rate)| {
            let blocks: u32 = blocks.parse().ok()?;
            (blocks <= within).then_some((blocks, sat_per_kvb(rate.get(), 1_000)?))
        });
        known.max().map(|(_, rate)| rate)
    };
    match (rate(2), rate(6), rate(144)) {
        (Some(fast), Some(normal), Some(slow)) => Ok(FeeRates {
            fast_sat_per_kvb: fast,
            normal_sat_per_kvb: normal,
            slow_sat_per_kvb: slow,
        }),
        _ => Err(ChainError::NoFeeRate),
    }
}

/// Reads a decimal number and multiplies it, rounded up: a rate a little too low is one that is
/// not relayed. `None` for what is no number above zero.
pub fn sat_per_kvb(text: &str, factor: i64) -> Option<u64> {
    let text = text.trim();
    let number: Decimal = text
        .parse()
        .or_else(|_| Decimal::from_scientific(text))
        .ok()?;
    let rate = number.checked_mul(Decimal::from(factor))?.ceil();
    u64::try_from(rate).ok().filter(|rate| *rate > 0)
}

#[derive(Deserialize)]
struct Reply {
    result: Option<Box<RawValue>>,
    error: Option<RpcFault>,
}

/// What a Bitcoin Core node says instead of a result.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RpcFault {
    /// Its number, below zero.
    pub code: i64,
    /// For a person.
    #[serde(default)]
    pub message: String,
}

/// A reply to the call `method`.
///
/// # Errors
/// `chain.bad_answer`; `chain.unreachable` of a node that is still starting.
pub fn bitcoind_reply(
    body: &[u8],
    method: &'static str,
) -> Result<Result<Box<RawValue>, RpcFault>, ChainError> {
    match json(body, method)? {
        Reply {
            error: Some(fault), ..
        } if fault.code == WARMING_UP => Err(ChainError::Unreachable {
            reason: "it is still starting".to_owned(),
        }),
        Reply {
            error: Some(fault), ..
        } => Ok(Err(fault)),
        Reply {
            result: Some(result),
            ..
        } => Ok(Ok(result)),
        Reply { .. } => Err(ChainError::BadAnswer { question: method }),
    }
}

/// The result of the call `method`, as JSON.
///
/// # Errors
/// `chain.bad_answer`.
pub fn bitcoind_result<T: DeserializeOwned>(
    result: &RawValue,
    method: &'static str,
) -> Result<T, ChainError> {
    json(result.get().as_bytes(), method)
}

#[derive(Deserialize)]
struct ChainInfo {
    blocks: u32,
    bestblockhash: String,
}

/// The tip, out of the result of `getblockchaininfo`.
///
/// # Errors
/// `chain.bad_answer`.
pub fn bitcoind_tip(result: &RawValue) -> Result<BlockId, ChainError> {
    let question = "getblockchaininfo";
    let info: ChainInfo = bitcoind_result(result, question)?;
    Ok(BlockId {
        height: info.blocks,
        hash: parse(&info.bestblockhash, question)?,
    })
}

#[derive(Deserialize)]
struct FeeEstimate {
    feerate: Option<Box<RawValue>>,
}

/// A fee rate, out of the result of `estimatesmartfee`; `None` where the node has no estimate.
///
/// # Errors
/// `chain.bad_answer`.
pub fn bitcoind_fee_rate(result: &RawValue) -> Result<Option<u64>, ChainError> {
    let estimate: FeeEstimate = bitcoind_result(result, "estimatesmartfee")?;
    // Bitcoins for a thousand virtual bytes.
    let rate = estimate.feerate;
    Ok(rate.and_then(|rate| sat_per_kvb(rate.get(), 100_000_000)))
}
