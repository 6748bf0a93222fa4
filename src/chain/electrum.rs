//! An Electrum server: an index by script over TCP or TLS, with a client that blocks.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bitcoin::block::Header;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{BlockHash, Script, ScriptBuf, Transaction, TxMerkleNode, Txid};
use electrum_client::{Client, ConfigBuilder, ElectrumApi, Error, GetHistoryRes, Param};
use futures_channel::oneshot;

use super::answers::{Placed, sat_per_kvb};
use super::looking::{Indexed, look_by_script, of_one_tip};
use super::{
    BlockId, ChainError, ChainSource, FeeRates, KnownTransaction, MerkleBranch, View, Watch,
};

/// The most questions that wait.
const MAX_WAITING: usize = 64;
/// How long one answer may take.
const TIME_LIMIT_SECONDS: u8 = 30;
/// The most inputs of a transaction that is gone which are looked up.
const MAX_INPUTS: usize = 50;

type Work = Box<dyn FnOnce(&mut Option<Client>, &str) + Send>;

/// Reads the chain from an Electrum server. Its connection is on a thread of its own, made when
/// it is first needed and again when it broke; the thread ends with this value.
pub struct Electrum {
    work: Mutex<Option<SyncSender<Work>>>,
}

impl std::fmt::Debug for Electrum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Electrum").finish_non_exhaustive()
    }
}

impl Electrum {
    /// A server by its address, for example `ssl://electrum.example.com:50002` or
    /// `tcp://127.0.0.1:50001`.
    ///
    /// # Errors
    /// `chain.unreachable` where the system gives no thread.
    pub fn new(url: &str) -> Result<Self, ChainError> {
        let (work, waiting): (SyncSender<Work>, Receiver<Work>) = sync_channel(MAX_WAITING);
        let url = url.to_owned();
        std::thread::Builder::new()
            .name("flashkit-electrum".to_owned())
            .spawn(move || {
                let mut client = None;
                while let Ok(work) = waiting.recv() {
                    work(&mut client, &url);
                }
            })
            .map_err(|_| unreachable("no thread for it"))?;
        Ok(Self {
            work: Mutex::new(Some(work)),
        })
    }

    /// Asks on the connection's thread, and waits without keeping a thread of the caller's busy.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, Error> + Send + 'static,
    ) -> Result<Result<T, Error>, ChainError> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |client, url| {
            drop(answer.send(on_connection(client, url, question)));
        });
        let sent = match &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(sender) => sender.try_send(work),
            None => Err(TrySendError::Disconnected(work)),
        };
        sent.map_err(|_| unreachable("too much waits for it"))?;
        answered
            .await
            .unwrap_or_else(|_| Err(unreachable("its thread ended")))
    }

    async fn get<T: Send + 'static>(
        &self,
        what: &'static str,
        question: impl FnOnce(&Client) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, ChainError> {
        let answer = self.ask(question).await?;
        answer.map_err(|_| ChainError::BadAnswer { question: what })
    }

    /// What the server lists of a script.
    async fn listed(&self, script: &Script) -> Result<Vec<GetHistoryRes>, ChainError> {
        let script = script.to_owned();
        let question = move |client: &Client| client.script_get_history(&script);
        self.get("the history of a script", question).await
    }
}

#[async_trait]
impl Indexed for Electrum {
    async fn history(&self, script: &Script) -> Result<Vec<Placed>, ChainError> {
        let mut places = Vec::new();
        for entry in self.listed(script).await? {
            // 0 and -1 are the mempool.
            let height = u32::try_from(entry.height).ok();
            let block = match height.filter(|height| *height > 0) {
                Some(height) => {
                    let hash = self.block_hash(height).await?.ok_or(ChainError::Moved)?;
                    Some(BlockId { height, hash })
                }
                None => None,
            };
            places.push((entry.tx_hash, block));
        }
        Ok(places)
    }

    /// There is no question for what spends an output but the history of its script. One that is
    /// not told is that of whoever paid: it says nothing of what is ours.
    async fn traces(&self, known: &KnownTransaction) -> Result<Vec<Placed>, ChainError> {
        let mut places = Vec::new();
        for input in known.inputs.iter().take(MAX_INPUTS) {
            let before = self.transaction(input.txid, None).await?;
            let vout = usize::try_from(input.vout).unwrap_or(usize::MAX);
            if let Some(output) = before.as_ref().and_then(|tx| tx.output.get(vout)) {
                match self.history(&output.script_pubkey).await {
                    Err(ChainError::BadAnswer { .. }) => {}
                    history => places.extend(history?),
                }
            }
        }
        Ok(places)
    }
}

fn on_connection<T>(
    client: &mut Option<Client>,
    url: &str,
    question: impl FnOnce(&Client) -> Result<T, Error>,
) -> Result<Result<T, Error>, ChainError> {
    if client.is_none() {
        let config = ConfigBuilder::new()
            .timeout(Some(TIME_LIMIT_SECONDS))
            .retry(1)
            .build();
        let connected = Client::from_config(url, config);
        *client = Some(connected.map_err(|_| unreachable("no connection"))?);
    }
    let Some(connected) = client else {
        return Err(unreachable("no connection"));
    };
    match question(connected) {
        Ok(answer) => Ok(Ok(answer)),
        Err(said @ Error::Protocol(_)) => Ok(Err(said)),
        Err(Error::AllAttemptsErrored(errors)) => match protocol_of(errors) {
            Some(said) => Ok(Err(said)),
            None => {
                *client = None;
                Err(unreachable("the connection broke"))
            }
        },
        // Whatever else it is, the next question begins on a new connection.
        Err(_) => {
            *client = None;
            Err(unreachable("the connection broke"))
        }
    }
}

/// What the server itself said, where it did.
fn protocol_of(errors: Vec<Error>) -> Option<Error> {
    errors
        .into_iter()
        .find(|error| matches!(error, Error::Protocol(_)))
}

fn unreachable(reason: &str) -> ChainError {
    ChainError::Unreachable {
        reason: reason.to_owned(),
    }
}

#[async_trait]
impl ChainSource for Electrum {
    async fn tip(&self) -> Result<BlockId, ChainError> {
        let question = "the tip";
        let tip = self
            .get(question, |client| client.block_headers_subscribe())
            .await?;
        let height = u32::try_from(tip.height).map_err(|_| ChainError::BadAnswer { question })?;
        let hash = tip.header.block_hash();
        Ok(BlockId { height, hash })
    }

    async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        let at = usize::try_from(height).unwrap_or(usize::MAX);
        let header = self.ask(move |client| client.block_header(at)).await?;
        Ok(header.ok().map(|header| header.block_hash()))
    }

    /// The protocol finds headers by height alone: the last ones of the chain are searched.
    async fn header(&self, block: BlockHash) -> Result<Option<Header>, ChainError> {
        const SEARCHED: u32 = 288;
        let tip = self.tip().await?.height;
        for height in (tip.saturating_sub(SEARCHED)..=tip).rev() {
            let at = usize::try_from(height).unwrap_or(usize::MAX);
            let header = self
                .get("a header", move |client| client.block_header(at))
                .await?;
            if header.block_hash() == block {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    async fn header_at(&self, height: u32) -> Result<Option<Header>, ChainError> {
        if height > self.tip().await?.height {
            return Ok(None);
        }
        let at = usize::try_from(height).unwrap_or(usize::MAX);
        let header = self.get("a header", move |client| client.block_header(at));
        header.await.map(Some)
    }

    async fn transaction(
        &self,
        txid: Txid,
        _block: Option<BlockHash>,
    ) -> Result<Option<Transaction>, ChainError> {
        let question = "a transaction";
        match self
            .ask(move |client| client.transaction_get(&txid))
            .await?
        {
            Ok(found) if found.compute_txid() == txid => Ok(Some(found)),
            Ok(_) => Err(ChainError::BadAnswer { question }),
            Err(_) => Ok(None),
        }
    }

    async fn merkle_branch(
        &self,
        txid: Txid,
        block: BlockId,
    ) -> Result<Option<MerkleBranch>, ChainError> {
        let question = "a Merkle proof";
        let at = usize::try_from(block.height).unwrap_or(usize::MAX);
        let Ok(proof) = self
            .ask(move |client| client.transaction_get_merkle(&txid, at))
            .await?
        else {
            return Ok(None);
        };
        let position = u32::try_from(proof.pos).map_err(|_| ChainError::BadAnswer { question })?;
        let nodes = proof.merkle.iter().map(|node| {
            // The client leaves them in the order in which people see them.
            hex::encode(node)
                .parse::<TxMerkleNode>()
                .map_err(|_| ChainError::BadAnswer { question })
        });
        let siblings = nodes.collect::<Result<_, _>>()?;
        Ok(Some(MerkleBranch { position, siblings }))
    }

    async fn look(&self, watch: &Watch) -> Result<View, ChainError> {
        let tip = self.tip().await?;
        of_one_tip(self, look_by_script(self, watch, tip).await?).await
    }

    async fn was_paid(&self, script: &ScriptBuf) -> Result<Option<bool>, ChainError> {
        let listed = self.listed(script).await?;
        Ok(Some(!listed.is_empty()))
    }

    /// Only the history of one of its scripts says where a transaction is.
    async fn waits(&self, txid: Txid) -> Result<Option<bool>, ChainError> {
        let Some(found) = self.transaction(txid, None).await? else {
            return Ok(None);
        };
        let mut scripts = found.output.iter().map(|output| &output.script_pubkey);
        let Some(script) = scripts.find(|script| !script.is_op_return()) else {
            return Ok(None);
        };
        let listed = self.listed(script).await?;
        let entry = listed.iter().find(|entry| entry.tx_hash == txid);
        Ok(entry.map(|entry| entry.height <= 0))
    }

    async fn broadcast(&self, transaction: &Transaction) -> Result<(), ChainError> {
        let raw = serialize_hex(transaction);
        let taken = self
            .ask(move |client| {
                client.raw_call("blockchain.transaction.broadcast", [Param::String(raw)])
            })
            .await?;
        let Err(refused) = taken else { return Ok(()) };
        if self
            .transaction(transaction.compute_txid(), None)
            .await?
            .is_some()
        {
            return Ok(());
        }
        let reason = refused.to_string();
        Err(ChainError::TransactionRefused {
            reason: reason
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect(),
        })
    }

    async fn fee_rates(&self) -> Result<FeeRates, ChainError> {
        let mut rates = [0; 3];
        for (rate, blocks) in rates.iter_mut().zip([2_usize, 6, 144]) {
            // Asked raw: the client's own answer is a binary fraction. -1 is no estimate.
            let estimate = self
                .get("the estimates of fees", move |client| {
                    client.raw_call("blockchain.estimatefee", [Param::Usize(blocks)])
                })
                .await?;
            *rate = sat_per_kvb(&estimate.to_string(), 100_000_000).ok_or(ChainError::NoFeeRate)?;
        }
        let [fast, normal, slow] = rates;
        Ok(FeeRates {
            fast_sat_per_kvb: fast,
            normal_sat_per_kvb: normal,
            slow_sat_per_kvb: slow,
        })
    }
}
