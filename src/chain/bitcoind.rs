//! A Bitcoin Core node by its RPC. It has no index by script: blocks and mempool are read.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{Block, BlockHash, OutPoint, ScriptBuf, Transaction, Txid};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answers::{self, RpcFault};
use super::http::Http;
use super::looking::of_one_tip;
use super::{
    BlockId, ChainError, ChainSource, FeeRates, MerkleBranch, Missed, SeenTransaction, View, Watch,
};

/// The most blocks that one look reads.
const MAX_BLOCKS: u32 = 144;
/// The most waiting transactions that one look fetches; the others come with the next ones.
const MAX_FETCHED: usize = 5_000;

/// Not in the chain or the mempool, or no such block or height.
const NOT_FOUND: [i64; 2] = [-5, -8];
/// The node has it in a block, or in its mempool.
const KNOWN_ALREADY: i64 = -27;

/// Reads the chain from a Bitcoin Core node. Needs neither a wallet nor an index in it.
///
/// What waits in its mempool is fetched once each, and forgotten when it leaves. A transaction
/// that waited there before a script was watched is found when a block has it.
pub struct Bitcoind {
    url: String,
    user: String,
    password: String,
    http: Http,
    mempool: Mutex<Mempool>,
}

/// What was fetched from the mempool: a cache, and nothing that must outlive the process.
#[derive(Default)]
struct Mempool {
    looked_at: HashSet<Txid>,
    ours: HashMap<Txid, Transaction>,
}

impl std::fmt::Debug for Bitcoind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bitcoind")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// What of the watch a transaction can touch.
struct Wanted<'a> {
    scripts: HashSet<&'a ScriptBuf>,
    outpoints: HashSet<&'a OutPoint>,
}

impl<'a> Wanted<'a> {
    fn of(watch: &'a Watch) -> Self {
        let inputs = watch.known.iter().flat_map(|known| &known.inputs);
        Self {
            scripts: watch.scripts.iter().collect(),
            outpoints: watch.coins.iter().chain(inputs).collect(),
        }
    }

    fn has(&self, transaction: &Transaction, found: &HashSet<OutPoint>) -> bool {
        let mut outputs = transaction.output.iter();
        let mut inputs = transaction.input.iter().map(|input| input.previous_output);
        outputs.any(|output| self.scripts.contains(&output.script_pubkey))
            || inputs.any(|coin| self.outpoints.contains(&coin) || found.contains(&coin))
    }

    /// Coins that are ours by this transaction: whoever spends them concerns us as well.
    fn coins(&self, transaction: &Transaction) -> Vec<OutPoint> {
        let txid = transaction.compute_txid();
        let outputs = (0u32..).zip(&transaction.output);
        outputs
            .filter(|(_, output)| self.scripts.contains(&output.script_pubkey))
            .map(|(vout, _)| OutPoint { txid, vout })
            .collect()
    }
}

impl Bitcoind {
    /// A node by its address, for example `127.0.0.1` and 8332.
    ///
    /// # Errors
    /// `chain.unreachable` where no client can be built.
    pub fn new(host: &str, port: u16, user: &str, password: &str) -> Result<Self, ChainError> {
        Ok(Self {
            url: format!("http://{host}:{port}/"),
            user: user.to_owned(),
            password: password.to_owned(),
            http: Http::new()?,
            mempool: Mutex::default(),
        })
    }

    fn mempool(&self) -> MutexGuard<'_, Mempool> {
        self.mempool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn raw(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Result<Box<RawValue>, RpcFault>, ChainError> {
        let body = json!({ "jsonrpc": "1.0", "id": 0, "method": method, "params": params });
        let login = Some((self.user.as_str(), self.password.as_str()));
        let answer = self.http.post(&self.url, login, body.to_string()).await?;
        if matches!(answer.status, 401 | 403) {
            let reason = "it does not take the user and password".to_owned();
            return Err(ChainError::Unreachable { reason });
        }
        answers::bitcoind_reply(&answer.body, method)
    }

    /// `None` where the node does not have it.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Option<T>, ChainError> {
        let decode = |result: &RawValue| answers::bitcoind_result(result, method);
        self.read(method, params, decode).await
    }

    async fn read<T>(
        &self,
        method: &'static str,
        params: Value,
        decode: impl FnOnce(&RawValue) -> Result<T, ChainError>,
    ) -> Result<Option<T>, ChainError> {
        match self.raw(method, params).await? {
            Ok(result) => decode(&result).map(Some),
            Err(fault) if NOT_FOUND.contains(&fault.code) => Ok(None),
            Err(_) => Err(ChainError::BadAnswer { question: method }),
        }
    }

    async fn hex<T: bitcoin::consensus::Decodable>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Option<T>, ChainError> {
        let Some(text) = self.ask::<String>(method, params).await? else {
            return Ok(None);
        };
        deserialize_hex(&text)
            .map(Some)
            .map_err(|_| ChainError::BadAnswer { question: method })
    }

    async fn block(&self, block: BlockHash) -> Result<Option<Block>, ChainError> {
        let found: Option<Block> = self.hex("getblock", json!([block.to_string(), 0])).await?;
        match found {
            Some(found) if found.block_hash() != block => {
                let question = "getblock";
                Err(ChainError::BadAnswer { question })
            }
            found => Ok(found),
        }
    }

    /// Reads blocks from behind `since` on; answers the last one that was read.
    async fn read_blocks(
        &self,
        since: BlockId,
        tip: BlockId,
        wanted: &Wanted<'_>,
        seen: &mut Vec<SeenTransaction>,
        coins: &mut HashSet<OutPoint>,
    ) -> Result<BlockId, ChainError> {
        let mut through = since;
        let last = tip.height.min(since.height.saturating_add(MAX_BLOCKS));
        for height in since.height.saturating_add(1)..=last {
            let hash = self.block_hash(height).await?.ok_or(ChainError::Moved)?;
            let block = self.block(hash).await?.ok_or(ChainError::Moved)?;
            if block.header.prev_blockhash != through.hash {
                return Err(ChainError::Moved);
            }
            through = BlockId { height, hash };
            for transaction in block.txdata {
                if wanted.has(&transaction, coins) {
                    coins.extend(wanted.coins(&transaction));
                    let block = Some(through);
                    seen.push(SeenTransaction { transaction, block });
                }
            }
        }
        Ok(through)
    }

    /// Brings the cache up to what waits now; answers all that waits, and why not all that is new was
    /// fetched where that is so.
    async fn read_mempool(
        &self,
        wanted: &Wanted<'_>,
        coins: &mut HashSet<OutPoint>,
    ) -> Result<(HashSet<Txid>, Option<ChainError>), ChainError> {
        let question = "getrawmempool";
        let listed: Vec<String> = self
            .ask(question, json!([]))
            .await?
            .ok_or(ChainError::BadAnswer { question })?;
        let waiting = listed.iter().map(|txid| txid.parse());
        let waiting: HashSet<Txid> = waiting
            .collect::<Result<_, _>>()
            .map_err(|_| ChainError::BadAnswer { question })?;
        let new: Vec<Txid> = {
            let mut cache = self.mempool();
            cache.looked_at.retain(|txid| waiting.contains(txid));
            cache.ours.retain(|txid, _| waiting.contains(txid));
            coins.extend(cache.ours.values().flat_map(|ours| wanted.coins(ours)));
            let new = waiting.difference(&cache.looked_at).copied();
            new.take(MAX_FETCHED).collect()
        };
        let (mut fetched, mut problem) = (Vec::new(), None);
        for txid in new {
            match self.transaction(txid, None).await {
                Ok(Some(transaction)) => {
                    coins.extend(wanted.coins(&transaction));
                    fetched.push((txid, transaction));
                }
                Ok(None) => {}
                // The next look goes on from here.
                Err(error) => {
                    problem = Some(error);
                    break;
                }
            }
        }
        let mut cache = self.mempool();
        for (txid, transaction) in fetched {
            cache.looked_at.insert(txid);
            if wanted.has(&transaction, coins) {
                cache.ours.insert(txid, transaction);
            }
        }
        Ok((waiting, problem))
    }

    async fn look_once(&self, watch: &Watch, tip: BlockId) -> Result<View, ChainError> {
        let wanted = Wanted::of(watch);
        let (mut seen, mut coins) = (Vec::new(), HashSet::new());
        let since = watch.since.unwrap_or(tip);
        let through = self
            .read_blocks(since, tip, &wanted, &mut seen, &mut coins)
            .await?;
        let mut missed = Missed::default();
        // The blocks count, whatever is with the mempool.
        let waiting = match self.read_mempool(&wanted, &mut coins).await {
            Ok((waiting, problem)) => {
                missed.mempool = problem;
                Some(waiting)
            }
            Err(error) => {
                missed.mempool = Some(error);
                None
            }
        };
        let mut standing = Vec::new();
        for known in &watch.known {
            let waits = waiting.as_ref().map(|all| all.contains(&known.txid));
            if waits == Some(true) {
                standing.push((known.txid, None));
            } else if let Some(block) = known.block
                && self.block_hash(block.height).await? == Some(block.hash)
            {
                standing.push((known.txid, Some(block)));
            } else if waits.is_none() {
                missed.transactions.insert(known.txid);
            }
        }
        let cache = self.mempool();
        let ours = cache.ours.values().filter(|ours| wanted.has(ours, &coins));
        seen.extend(ours.map(|transaction| SeenTransaction {
            transaction: transaction.clone(),
            block: None,
        }));
        drop(cache);
        Ok(View {
            tip,
            through,
            standing,
            seen,
            missed,
        })
    }
}

#[async_trait]
impl ChainSource for Bitcoind {
    fn reads_blocks(&self) -> bool {
        true
    }

    async fn tip(&self) -> Result<BlockId, ChainError> {
        let question = "getblockchaininfo";
        let tip = self
            .read(question, json!([]), answers::bitcoind_tip)
            .await?;
        tip.ok_or(ChainError::BadAnswer { question })
    }

    async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        let question = "getblockhash";
        let hash: Option<String> = self.ask(question, json!([height])).await?;
        hash.map(|hash| hash.parse().map_err(|_| ChainError::BadAnswer { question }))
            .transpose()
    }

    async fn header(&self, block: BlockHash) -> Result<Option<Header>, ChainError> {
        self.hex("getblockheader", json!([block.to_string(), false]))
            .await
    }

    async fn transaction(
        &self,
        txid: Txid,
        block: Option<BlockHash>,
    ) -> Result<Option<Transaction>, ChainError> {
        let question = "getrawtransaction";
        let params = match block {
            Some(block) => json!([txid.to_string(), false, block.to_string()]),
            None => json!([txid.to_string(), false]),
        };
        match self.hex::<Transaction>(question, params).await? {
            Some(found) if found.compute_txid() != txid => Err(ChainError::BadAnswer { question }),
            found => Ok(found),
        }
    }

    async fn merkle_branch(
        &self,
        txid: Txid,
        block: BlockId,
    ) -> Result<Option<MerkleBranch>, ChainError> {
        let Some(block) = self.block(block.hash).await? else {
            return Ok(None);
        };
        let txids: Vec<Txid> = block.txdata.iter().map(Transaction::compute_txid).collect();
        let position = txids.iter().position(|found| *found == txid);
        Ok(position.and_then(|position| MerkleBranch::of(&txids, position)))
    }

    async fn look(&self, watch: &Watch) -> Result<View, ChainError> {
        let tip = self.tip().await?;
        of_one_tip(self, self.look_once(watch, tip).await?).await
    }

    async fn waits(&self, txid: Txid) -> Result<Option<bool>, ChainError> {
        let entry: Option<Value> = self
            .ask("getmempoolentry", json!([txid.to_string()]))
            .await?;
        Ok(Some(entry.is_some()))
    }

    async fn broadcast(&self, transaction: &Transaction) -> Result<(), ChainError> {
        let params = json!([serialize_hex(transaction)]);
        match self.raw("sendrawtransaction", params).await? {
            Ok(_) => Ok(()),
            Err(fault) if fault.code == KNOWN_ALREADY => Ok(()),
            Err(fault) => {
                let message = fault.message.chars();
                let reason = message.filter(|c| !c.is_control()).take(200).collect();
                Err(ChainError::TransactionRefused { reason })
            }
        }
    }

    async fn fee_rates(&self) -> Result<FeeRates, ChainError> {
        let mut rates = [0; 3];
        for (rate, blocks) in rates.iter_mut().zip([2, 6, 144]) {
            let (method, decode) = ("estimatesmartfee", answers::bitcoind_fee_rate);
            let estimate = self.read(method, json!([blocks]), decode).await?;
            *rate = estimate.flatten().ok_or(ChainError::NoFeeRate)?;
        }
        let [fast, normal, slow] = rates;
        Ok(FeeRates {
            fast_sat_per_kvb: fast,
            normal_sat_per_kvb: normal,
            slow_sat_per_kvb: slow,
        })
    }
}
