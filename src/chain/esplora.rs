//! An Esplora server: an index by script over HTTP.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize, deserialize_hex, serialize_hex};
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, OutPoint, Script, Transaction, TxMerkleNode, Txid};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::http::{Answer, Http};
use super::looking::{fetch, of_one_tip};
use super::{
    BlockId, ChainError, ChainSource, FeeRates, KnownTransaction, MerkleBranch, View, Watch,
};

/// The most pages of one script's history that are read; a page has 25 transactions.
const MAX_PAGES: usize = 400;
/// The most inputs of a transaction that is gone which are looked up.
const MAX_INPUTS: usize = 50;

/// Reads the chain from an Esplora server.
#[derive(Debug, Clone)]
pub struct Esplora {
    base: String,
    http: Http,
}

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
                let hash = hash
                    .parse()
                    .map_err(|_| ChainError::BadAnswer { question })?;
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

impl Esplora {
    /// A server by its base, for example `https://esplora.example.com/api`.
    ///
    /// # Errors
    /// `chain.unreachable` where no client can be built.
    pub fn new(base_url: &str) -> Result<Self, ChainError> {
        Ok(Self {
            base: base_url.trim_end_matches('/').to_owned(),
            http: Http::new()?,
        })
    }

    /// `None` for what the server does not have.
    async fn ask(&self, path: &str) -> Result<Option<Answer>, ChainError> {
        let answer = self.http.get(&format!("{}{path}", self.base)).await?;
        match answer.status {
            200 => Ok(Some(answer)),
            404 => Ok(None),
            status => Err(ChainError::Unreachable {
                reason: format!("it answers with status {status}"),
            }),
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &'static str,
    ) -> Result<Option<T>, ChainError> {
        let Some(answer) = self.ask(path).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&answer.body)
            .map(Some)
            .map_err(|_| ChainError::BadAnswer { question })
    }

    /// The whole history of a script, waiting transactions first.
    async fn history(&self, script: &Script) -> Result<Vec<(Txid, Option<BlockId>)>, ChainError> {
        let question = "the history of a script";
        // The server's order of bytes is the hash's own, unlike that of a txid.
        let hash = sha256::Hash::hash(script.as_bytes());
        let mut path = format!("/scripthash/{hash}/txs");
        let mut all: Vec<(Txid, Option<BlockId>)> = Vec::new();
        for _ in 0..MAX_PAGES {
            let page: Vec<Listed> = self
                .json(&path, question)
                .await?
                .ok_or(ChainError::BadAnswer { question })?;
            let before = all.len();
            for listed in page {
                let txid = parse(&listed.txid, question)?;
                let block = listed.status.block()?;
                if all.iter().all(|(known, _)| *known != txid) {
                    all.push((txid, block));
                }
            }
            let last = all.iter().skip(before).rfind(|(_, block)| block.is_some());
            let Some((last, _)) = last else { break };
            path = format!("/scripthash/{hash}/txs/chain/{last}");
        }
        Ok(all)
    }

    /// What spends the coins of a transaction that is gone.
    async fn rivals(
        &self,
        known: &KnownTransaction,
        found: &mut BTreeMap<Txid, Option<BlockId>>,
    ) -> Result<(), ChainError> {
        let question = "what spends an output";
        for OutPoint { txid, vout } in known.inputs.iter().take(MAX_INPUTS) {
            let path = format!("/tx/{txid}/outspend/{vout}");
            let spend: Option<Outspend> = self.json(&path, question).await?;
            if let Some(Outspend {
                spent: true,
                txid: Some(by),
                status: Some(status),
            }) = spend
            {
                found.insert(parse(&by, question)?, status.block()?);
            }
        }
        Ok(())
    }

    async fn look_once(&self, watch: &Watch, tip: BlockId) -> Result<View, ChainError> {
        let mut found = BTreeMap::new();
        for script in &watch.scripts {
            found.extend(self.history(script).await?);
        }
        let mut standing = Vec::new();
        for known in &watch.known {
            if let Some(block) = found.remove(&known.txid) {
                standing.push((known.txid, block));
                continue;
            }
            let path = format!("/tx/{}", known.txid);
            match self.json::<Listed>(&path, "a transaction").await? {
                Some(listed) => standing.push((known.txid, listed.status.block()?)),
                None => self.rivals(known, &mut found).await?,
            }
        }
        let seen = fetch(self, found).await?;
        Ok(View {
            tip,
            through: tip,
            standing,
            seen,
        })
    }
}

fn parse<T: std::str::FromStr>(text: &str, question: &'static str) -> Result<T, ChainError> {
    text.trim()
        .parse()
        .map_err(|_| ChainError::BadAnswer { question })
}

#[async_trait]
impl ChainSource for Esplora {
    async fn tip(&self) -> Result<BlockId, ChainError> {
        let question = "the tip";
        let answer = self.ask("/blocks/tip/height").await?;
        let answer = answer.ok_or(ChainError::BadAnswer { question })?;
        let height = parse(answer.text(question)?, question)?;
        let hash = self.block_hash(height).await?.ok_or(ChainError::Moved)?;
        Ok(BlockId { height, hash })
    }

    async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        let question = "the hash of a block";
        match self.ask(&format!("/block-height/{height}")).await? {
            Some(answer) => parse(answer.text(question)?, question).map(Some),
            None => Ok(None),
        }
    }

    async fn header(&self, block: BlockHash) -> Result<Option<Header>, ChainError> {
        let question = "a header";
        match self.ask(&format!("/block/{block}/header")).await? {
            Some(answer) => deserialize_hex(answer.text(question)?)
                .map(Some)
                .map_err(|_| ChainError::BadAnswer { question }),
            None => Ok(None),
        }
    }

    async fn transaction(
        &self,
        txid: Txid,
        _block: Option<BlockHash>,
    ) -> Result<Option<Transaction>, ChainError> {
        let question = "a transaction";
        let Some(answer) = self.ask(&format!("/tx/{txid}/raw")).await? else {
            return Ok(None);
        };
        let transaction: Transaction =
            deserialize(&answer.body).map_err(|_| ChainError::BadAnswer { question })?;
        if transaction.compute_txid() == txid {
            Ok(Some(transaction))
        } else {
            Err(ChainError::BadAnswer { question })
        }
    }

    async fn merkle_branch(
        &self,
        txid: Txid,
        block: BlockId,
    ) -> Result<Option<MerkleBranch>, ChainError> {
        let question = "a Merkle proof";
        let path = format!("/tx/{txid}/merkle-proof");
        let Some(proof) = self.json::<Proof>(&path, question).await? else {
            return Ok(None);
        };
        let siblings = proof
            .merkle
            .iter()
            .map(|node| parse::<TxMerkleNode>(node, question));
        let branch = MerkleBranch {
            position: proof.pos,
            siblings: siblings.collect::<Result<_, _>>()?,
        };
        Ok((proof.block_height == block.height).then_some(branch))
    }

    async fn look(&self, watch: &Watch) -> Result<View, ChainError> {
        let tip = self.tip().await?;
        of_one_tip(self, self.look_once(watch, tip).await?).await
    }

    async fn broadcast(&self, transaction: &Transaction) -> Result<(), ChainError> {
        let url = format!("{}/tx", self.base);
        let answer = self
            .http
            .post(&url, None, serialize_hex(transaction))
            .await?;
        if answer.is_ok() {
            return Ok(());
        }
        if answer.status >= 500 {
            return Err(ChainError::Unreachable {
                reason: format!("it answers with status {}", answer.status),
            });
        }
        // It may be in a block already: the server's node then says no.
        if self
            .transaction(transaction.compute_txid(), None)
            .await?
            .is_some()
        {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&answer.body);
        Err(ChainError::TransactionRefused {
            reason: reason
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect(),
        })
    }

    async fn fee_rates(&self) -> Result<FeeRates, ChainError> {
        let question = "the estimates of fees";
        let rates: BTreeMap<String, Box<RawValue>> = self
            .json("/fee-estimates", question)
            .await?
            .ok_or(ChainError::BadAnswer { question })?;
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
}

/// Reads a decimal number and multiplies it, rounded up: a rate a little too low is one that is
/// not relayed.
pub(super) fn sat_per_kvb(text: &str, factor: i64) -> Option<u64> {
    let text = text.trim();
    let number: Decimal = text
        .parse()
        .or_else(|_| Decimal::from_scientific(text))
        .ok()?;
    let rate = number.checked_mul(Decimal::from(factor))?.ceil();
    u64::try_from(rate).ok().filter(|rate| *rate > 0)
}
