//! The chain as Esplora over HTTP, on loopback only.
//!
//! Paths, shapes and status codes follow <https://github.com/Blockstream/esplora/blob/master/API.md>
//! as far as `esplora-client` 0.12 (that is: ldk-node and bdk) reads them: raw transactions and
//! blocks are bytes, headers and merkle blocks hexadecimal text, everything else JSON or plain
//! text. What is unknown is 404, what cannot be read or is refused is 400 with the reason as text.

use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::consensus::serialize;
use bitcoin::hashes::sha256;
use bitcoin::{BlockHash, MerkleBlock, OutPoint, Transaction, Txid};
use futures_channel::oneshot;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::ChainEndpoint;
use super::error::ChainError;
use super::esplora_json as shape;
use super::mempool::Mempool;
use super::regtest::RegtestChain;
use super::state::ChainState;
use crate::chain::MerkleBranch;

/// Blocks in an answer of `blocks`.
const BLOCKS_PAGE: u32 = 10;
/// Confirmed transactions in a page of a script's history.
const HISTORY_PAGE: usize = 25;
/// Waiting transactions in front of a script's history.
const MEMPOOL_PAGE: usize = 50;
/// The largest transaction that is read: four megabytes in hexadecimal digits, in bytes.
const BODY_LIMIT: usize = 8_000_000;

/// A running Esplora server. Dropping it stops the server and waits for nothing; connections in
/// use end with their request.
#[derive(Debug)]
pub struct EsploraServer {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    chain: Arc<RegtestChain>,
}

impl EsploraServer {
    /// Where to reach it: `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same chain as a `bitcoind` without a wallet would serve it, on the same port.
    pub fn rpc(&self) -> ChainEndpoint {
        ChainEndpoint::BitcoindRpc {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: "any".to_owned(),
            password: "any".to_owned(),
        }
    }

    /// The chain it serves.
    pub fn chain(&self) -> &Arc<RegtestChain> {
        &self.chain
    }

    /// Stops the server and waits until its port is free again.
    pub async fn stop(mut self) {
        self.stop.take();
        if let Some(task) = self.task.take() {
            // It cannot be cancelled, and that it ended is all that matters.
            let _ended = task.await;
        }
    }
}

impl RegtestChain {
    /// Serves this chain on a free loopback port. Must be called on a Tokio runtime, which then
    /// runs the server.
    ///
    /// # Errors
    /// [`ChainError::Bind`].
    pub async fn serve(self: Arc<Self>) -> Result<EsploraServer, ChainError> {
        self.serve_on(0).await
    }

    /// The same on a given port, so that a node restarted later finds the chain where it was.
    ///
    /// # Errors
    /// [`ChainError::Bind`], for instance while the port is in use.
    pub async fn serve_on(self: Arc<Self>, port: u16) -> Result<EsploraServer, ChainError> {
        let failed = |source| ChainError::Bind { port, source };
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?.port();
        let (stop, stopped) = oneshot::channel::<()>();
        let server =
            axum::serve(listener, router(Arc::clone(&self))).with_graceful_shutdown(async move {
                // Sent or dropped: both mean stop.
                let _either = stopped.await;
            });
        let task = tokio::spawn(async move {
            // Accepting goes on after errors of single connections; there is no other end.
            let _ended = server.await;
        });
        Ok(EsploraServer {
            port: bound,
            stop: Some(stop),
            task: Some(task),
            chain: self,
        })
    }
}

/// What a request is answered with.
enum Answer {
    Text(String),
    Json(Value),
    Bytes(Vec<u8>),
}

/// Why a request has no answer.
enum Failure {
    NotFound(&'static str),
    BadRequest(String),
    Unavailable(String),
}

type Reply = Result<Answer, Failure>;
pub(super) type Shared = State<Arc<RegtestChain>>;

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (kind, body) = match self {
            Answer::Text(text) => ("text/plain", text.into_bytes()),
            Answer::Json(value) => ("application/json", value.to_string().into_bytes()),
            Answer::Bytes(bytes) => ("application/octet-stream", bytes),
        };
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::NotFound(what) => {
                (StatusCode::NOT_FOUND, format!("{what} not found")).into_response()
            }
            Failure::BadRequest(why) => (StatusCode::BAD_REQUEST, why).into_response(),
            Failure::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        }
    }
}

fn router(chain: Arc<RegtestChain>) -> Router {
    Router::new()
        .route("/blocks", get(newest_blocks))
        .route("/blocks/{height}", get(blocks))
        .route("/blocks/tip/hash", get(tip_hash))
        .route("/blocks/tip/height", get(tip_height))
        .route("/block-height/{height}", get(block_hash))
        .route("/block/{hash}", get(block_info))
        .route("/block/{hash}/{part}", get(block_part))
        // What a bitcoind answers has no path.
        .route("/", post(super::rpc_server::call))
        .route("/tx", post(broadcast))
        .route("/tx/{txid}", get(tx_info))
        .route("/tx/{txid}/{part}", get(tx_part))
        .route("/tx/{txid}/outspend/{vout}", get(outspend))
        .route("/scripthash/{hash}/txs", get(history))
        .route("/scripthash/{hash}/txs/mempool", get(history_mempool))
        .route("/scripthash/{hash}/txs/chain", get(history_chain))
        .route("/scripthash/{hash}/txs/chain/{last}", get(history_after))
        .route("/scripthash/{hash}/utxo", get(unspent))
        .route("/mempool/txids", get(mempool_txids))
        .route("/fee-estimates", get(fee_estimates))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(chain)
}

fn parse<T: FromStr>(text: &str, what: &str) -> Result<T, Failure> {
    text.parse()
        .map_err(|_| Failure::BadRequest(format!("Invalid {what}: {text}")))
}

/// Answers from one moment of the chain; a chain that lost its log is unavailable.
fn look(
    chain: &RegtestChain,
    answer: impl FnOnce(&ChainState, &Mempool) -> Option<Answer>,
    what: &'static str,
) -> Reply {
    chain
        .read(answer)
        .map_err(|error| Failure::Unavailable(error.to_string()))?
        .ok_or(Failure::NotFound(what))
}

async fn newest_blocks(State(chain): Shared) -> Reply {
    look(
        &chain,
        |chain, _| Some(page_of_blocks(chain, chain.height())),
        "Block",
    )
}

async fn blocks(State(chain): Shared, Path(height): Path<String>) -> Reply {
    let height: u32 = parse(&height, "height")?;
    look(
        &chain,
        |chain, _| Some(page_of_blocks(chain, height)),
        "Block",
    )
}

fn page_of_blocks(chain: &ChainState, from: u32) -> Answer {
    let newest = from.min(chain.height());
    let oldest = newest.saturating_sub(BLOCKS_PAGE - 1);
    let infos = (oldest..=newest).rev();
    Answer::Json(
        infos
            .filter_map(|height| shape::block(chain, height))
            .collect(),
    )
}

async fn tip_hash(State(chain): Shared) -> Reply {
    look(
        &chain,
        |chain, _| Some(Answer::Text(chain.tip_hash().to_string())),
        "Block",
    )
}

async fn tip_height(State(chain): Shared) -> Reply {
    look(
        &chain,
        |chain, _| Some(Answer::Text(chain.height().to_string())),
        "Block",
    )
}

async fn block_hash(State(chain): Shared, Path(height): Path<String>) -> Reply {
    let height: u32 = parse(&height, "height")?;
    look(
        &chain,
        |chain, _| Some(Answer::Text(chain.link(height)?.hash.to_string())),
        "Block",
    )
}

async fn block_info(State(chain): Shared, Path(hash): Path<String>) -> Reply {
    let hash: BlockHash = parse(&hash, "hash")?;
    look(
        &chain,
        |chain, _| shape::block(chain, chain.height_of(&hash)?).map(Answer::Json),
        "Block",
    )
}

/// Headers and contents of blocks that were replaced stay readable, as they do on a real server.
async fn block_part(State(chain): Shared, Path((hash, part)): Path<(String, String)>) -> Reply {
    let hash: BlockHash = parse(&hash, "hash")?;
    look(
        &chain,
        |chain, _| match part.as_str() {
            "status" => Some(Answer::Json(shape::block_status(chain, &hash))),
            "header" => Some(Answer::Text(serialize_hex(&chain.block(&hash)?.header))),
            "raw" => Some(Answer::Bytes(serialize(chain.block(&hash)?))),
            "txids" => {
                let txs = &chain.block(&hash)?.txdata;
                let txids = txs.iter().map(|tx| tx.compute_txid().to_string());
                Some(Answer::Json(txids.collect()))
            }
            _ => None,
        },
        "Block",
    )
}

async fn broadcast(State(chain): Shared, body: String) -> Reply {
    let tx: Transaction = deserialize_hex(body.trim())
        .map_err(|_| Failure::BadRequest("Transaction decode failed".to_owned()))?;
    match chain.submit(tx) {
        Ok(txid) => Ok(Answer::Text(txid.to_string())),
        // The shape in which a real server hands on bitcoind's refusal.
        Err(ChainError::Refused(refusal)) => {
            let error = json!({ "code": -26, "message": refusal.to_string() });
            Err(Failure::BadRequest(format!(
                "sendrawtransaction RPC error: {error}"
            )))
        }
        Err(error) => Err(Failure::Unavailable(error.to_string())),
    }
}

async fn tx_info(State(chain): Shared, Path(txid): Path<String>) -> Reply {
    let txid: Txid = parse(&txid, "txid")?;
    look(
        &chain,
        |chain, mempool| shape::tx(chain, mempool, &txid).map(Answer::Json),
        "Transaction",
    )
}

async fn tx_part(State(chain): Shared, Path((txid, part)): Path<(String, String)>) -> Reply {
    let txid: Txid = parse(&txid, "txid")?;
    look(
        &chain,
        |chain, mempool| {
            let tx = shape::find(chain, mempool, &txid);
            match part.as_str() {
                // An unknown transaction is an unconfirmed one here, as on a real server.
                "status" => Some(Answer::Json(shape::tx_status(chain, &txid))),
                "raw" => Some(Answer::Bytes(serialize(tx?))),
                "hex" => Some(Answer::Text(serialize_hex(tx?))),
                "merkle-proof" => merkle_proof(chain, &txid),
                "merkleblock-proof" => merkle_block(chain, &txid),
                "outspends" => {
                    let vouts = (0u32..).take(tx?.output.len());
                    let spends =
                        vouts.map(|vout| shape::outspend(chain, mempool, &OutPoint { txid, vout }));
                    Some(Answer::Json(spends.collect()))
                }
                _ => None,
            }
        },
        "Transaction",
    )
}

fn merkle_proof(chain: &ChainState, txid: &Txid) -> Option<Answer> {
    let (_, height, at) = chain.transaction(txid)?;
    let block = &chain.link(height)?.block;
    let txids: Vec<Txid> = block.txdata.iter().map(Transaction::compute_txid).collect();
    let branch = MerkleBranch::of(&txids, at)?;
    let siblings = branch.siblings.iter().map(ToString::to_string);
    Some(Answer::Json(json!({
        "block_height": height,
        "merkle": siblings.collect::<Vec<_>>(),
        "pos": branch.position,
    })))
}

fn merkle_block(chain: &ChainState, txid: &Txid) -> Option<Answer> {
    let (_, height, _) = chain.transaction(txid)?;
    let block = &chain.link(height)?.block;
    let proof = MerkleBlock::from_block_with_predicate(block, |candidate| candidate == txid);
    Some(Answer::Text(serialize_hex(&proof)))
}

async fn outspend(State(chain): Shared, Path((txid, vout)): Path<(String, String)>) -> Reply {
    let txid: Txid = parse(&txid, "txid")?;
    let vout: u32 = parse(&vout, "vout")?;
    look(
        &chain,
        |chain, mempool| {
            let outputs = &shape::find(chain, mempool, &txid)?.output;
            outputs.get(usize::try_from(vout).ok()?)?;
            let outpoint = OutPoint { txid, vout };
            Some(Answer::Json(shape::outspend(chain, mempool, &outpoint)))
        },
        "Output",
    )
}

async fn history(State(chain): Shared, Path(hash): Path<String>) -> Reply {
    let hash: sha256::Hash = parse(&hash, "script hash")?;
    if chain.is_history_withheld(&hash) {
        return Err(Failure::Unavailable("too many transactions".to_owned()));
    }
    look(
        &chain,
        |chain, mempool| {
            let mut txs = waiting(chain, mempool, &hash);
            txs.extend(confirmed(chain, mempool, &hash, None));
            Some(Answer::Json(Value::Array(txs)))
        },
        "Script",
    )
}

async fn history_mempool(State(chain): Shared, Path(hash): Path<String>) -> Reply {
    let hash: sha256::Hash = parse(&hash, "script hash")?;
    look(
        &chain,
        |chain, mempool| Some(Answer::Json(Value::Array(waiting(chain, mempool, &hash)))),
        "Script",
    )
}

async fn history_chain(State(chain): Shared, Path(hash): Path<String>) -> Reply {
    page_of_history(&chain, &hash, None)
}

async fn history_after(State(chain): Shared, Path((hash, last)): Path<(String, String)>) -> Reply {
    page_of_history(&chain, &hash, Some(parse(&last, "txid")?))
}

fn page_of_history(chain: &RegtestChain, hash: &str, last: Option<Txid>) -> Reply {
    let hash: sha256::Hash = parse(hash, "script hash")?;
    look(
        chain,
        |chain, mempool| {
            let txs = confirmed(chain, mempool, &hash, last);
            Some(Answer::Json(Value::Array(txs)))
        },
        "Script",
    )
}

/// The waiting transactions of a script, newest first.
fn waiting(chain: &ChainState, mempool: &Mempool, hash: &sha256::Hash) -> Vec<Value> {
    mempool
        .transactions()
        .rev()
        .filter(|tx| shape::touches(chain, mempool, tx, hash))
        .take(MEMPOOL_PAGE)
        .filter_map(|tx| shape::tx(chain, mempool, &tx.compute_txid()))
        .collect()
}

/// A page of the confirmed transactions of a script, newest first, after `last`. Nothing comes
/// after a transaction that is not among them.
fn confirmed(
    chain: &ChainState,
    mempool: &Mempool,
    hash: &sha256::Hash,
    last: Option<Txid>,
) -> Vec<Value> {
    let history = chain.history(hash);
    let end = match last {
        None => history.len(),
        Some(last) => history.iter().position(|txid| *txid == last).unwrap_or(0),
    };
    let newest_first = history.get(..end).unwrap_or(&[]).iter().rev();
    newest_first
        .take(HISTORY_PAGE)
        .filter_map(|txid| shape::tx(chain, mempool, txid))
        .collect()
}

async fn unspent(State(chain): Shared, Path(hash): Path<String>) -> Reply {
    let hash: sha256::Hash = parse(&hash, "script hash")?;
    look(
        &chain,
        |chain, mempool| Some(Answer::Json(shape::unspent(chain, mempool, &hash))),
        "Script",
    )
}

async fn mempool_txids(State(chain): Shared) -> Reply {
    look(
        &chain,
        |_, mempool| {
            let txids = mempool.txids().iter().map(Txid::to_string);
            Some(Answer::Json(txids.collect()))
        },
        "Mempool",
    )
}

/// Satoshis per virtual byte for a confirmation within so many blocks. Constant: every block has
/// room for everything, so there is nothing to estimate.
async fn fee_estimates() -> Reply {
    Ok(Answer::Json(
        json!({ "1": 5, "3": 4, "6": 3, "12": 2, "144": 1, "1008": 1 }),
    ))
}
