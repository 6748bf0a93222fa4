//! An Esplora server: an index by script over HTTP.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bitcoin::block::Header;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, OutPoint, Script, Transaction, Txid};

use super::answers;
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

    /// As [`ask`](Self::ask), and taken apart.
    async fn read<T>(
        &self,
        path: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, ChainError>,
    ) -> Result<Option<T>, ChainError> {
        let answer = self.ask(path).await?;
        answer.map(|answer| decode(&answer.body)).transpose()
    }

    /// The whole history of a script, waiting transactions first.
    async fn history(&self, script: &Script) -> Result<Vec<(Txid, Option<BlockId>)>, ChainError> {
        let question = "the history of a script";
        // The server's order of bytes is the hash's own, unlike that of a txid.
        let hash = sha256::Hash::hash(script.as_bytes());
        let mut path = format!("/scripthash/{hash}/txs");
        let mut all: Vec<(Txid, Option<BlockId>)> = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.read(&path, answers::esplora_history).await?;
            let page = page.ok_or(ChainError::BadAnswer { question })?;
            let before = all.len();
            for (txid, block) in page {
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
        for OutPoint { txid, vout } in known.inputs.iter().take(MAX_INPUTS) {
            let path = format!("/tx/{txid}/outspend/{vout}");
            let spend = self.read(&path, answers::esplora_outspend).await?;
            found.extend(spend.flatten());
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
            match self.read(&path, answers::esplora_listed).await? {
                Some((_, block)) => standing.push((known.txid, block)),
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

#[async_trait]
impl ChainSource for Esplora {
    async fn tip(&self) -> Result<BlockId, ChainError> {
        let question = "the tip";
        let decode = |body: &[u8]| answers::esplora_value(body, question);
        let height = self.read("/blocks/tip/height", decode).await?;
        let height = height.ok_or(ChainError::BadAnswer { question })?;
        let hash = self.block_hash(height).await?.ok_or(ChainError::Moved)?;
        Ok(BlockId { height, hash })
    }

    async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        let decode = |body: &[u8]| answers::esplora_value(body, "the hash of a block");
        let path = format!("/block-height/{height}");
        self.read(&path, decode).await
    }

    async fn header(&self, block: BlockHash) -> Result<Option<Header>, ChainError> {
        let path = format!("/block/{block}/header");
        self.read(&path, answers::esplora_header).await
    }

    async fn transaction(
        &self,
        txid: Txid,
        _block: Option<BlockHash>,
    ) -> Result<Option<Transaction>, ChainError> {
        let decode = |body: &[u8]| answers::esplora_transaction(body, txid);
        self.read(&format!("/tx/{txid}/raw"), decode).await
    }

    async fn merkle_branch(
        &self,
        txid: Txid,
        block: BlockId,
    ) -> Result<Option<MerkleBranch>, ChainError> {
        let path = format!("/tx/{txid}/merkle-proof");
        let decode = |body: &[u8]| answers::esplora_proof(body, block.height);
        Ok(self.read(&path, decode).await?.flatten())
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
        let rates = self
            .read("/fee-estimates", answers::esplora_fee_rates)
            .await?;
        rates.ok_or(ChainError::BadAnswer { question })
    }
}
