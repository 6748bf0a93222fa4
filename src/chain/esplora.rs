//! An Esplora server: an index by script over HTTP.

use async_trait::async_trait;
use bitcoin::block::Header;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, OutPoint, Script, ScriptBuf, Transaction, Txid};

use super::answers::{self, Placed};
use super::http::{Answer, Http};
use super::looking::{Indexed, look_by_script, of_one_tip};
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
}

#[async_trait]
impl Indexed for Esplora {
    /// Waiting transactions first.
    async fn history(&self, script: &Script) -> Result<Vec<Placed>, ChainError> {
        let question = "the history of a script";
        let mut path = history_of(script);
        let mut all: Vec<Placed> = Vec::new();
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
            path = format!("{}/chain/{last}", history_of(script));
        }
        Ok(all)
    }

    async fn traces(&self, known: &KnownTransaction) -> Result<Vec<Placed>, ChainError> {
        let path = format!("/tx/{}", known.txid);
        if let Some(placed) = self.read(&path, answers::esplora_listed).await? {
            return Ok(vec![placed]);
        }
        let mut spends = Vec::new();
        for OutPoint { txid, vout } in known.inputs.iter().take(MAX_INPUTS) {
            let path = format!("/tx/{txid}/outspend/{vout}");
            let spend = self.read(&path, answers::esplora_outspend).await?;
            spends.extend(spend.flatten());
        }
        Ok(spends)
    }
}

fn history_of(script: &Script) -> String {
    // The server's order of bytes is the hash's own, unlike that of a txid.
    let hash = sha256::Hash::hash(script.as_bytes());
    format!("/scripthash/{hash}/txs")
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
        of_one_tip(self, look_by_script(self, watch, tip).await?).await
    }

    async fn was_paid(&self, script: &ScriptBuf) -> Result<Option<bool>, ChainError> {
        let question = "the history of a script";
        let path = history_of(script);
        let page = self.read(&path, answers::esplora_history).await?;
        let page = page.ok_or(ChainError::BadAnswer { question })?;
        Ok(Some(!page.is_empty()))
    }

    async fn waits(&self, txid: Txid) -> Result<Option<bool>, ChainError> {
        let path = format!("/tx/{txid}");
        let found = self.read(&path, answers::esplora_listed).await?;
        Ok(found.map(|(_, block)| block.is_none()))
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
        // Only this is what its node says of the transaction: any other is the server's own trouble,
        // such as too many questions.
        if answer.status != 400 {
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
