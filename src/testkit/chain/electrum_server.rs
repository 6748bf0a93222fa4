//! The chain as an Electrum server (protocol 1.4) over TCP on loopback: one JSON a line.

use std::sync::Arc;

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::sha256;
use bitcoin::{Transaction, Txid};
use futures_channel::oneshot;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::error::ChainError;
use super::esplora_json as shape;
use super::mempool::Mempool;
use super::regtest::RegtestChain;
use super::state::ChainState;
use crate::chain::MerkleBranch;

/// A running Electrum server. Dropping it stops it; connections end with their client.
#[derive(Debug)]
pub struct ElectrumServer {
    port: u16,
    _stop: oneshot::Sender<()>,
}

impl ElectrumServer {
    /// Where to reach it: `tcp://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }
}

impl RegtestChain {
    /// Serves this chain to Electrum clients on a free loopback port. Must be called on a Tokio
    /// runtime, which then runs the server.
    ///
    /// # Errors
    /// [`ChainError::Bind`].
    pub async fn serve_electrum(self: Arc<Self>) -> Result<ElectrumServer, ChainError> {
        let failed = |source| ChainError::Bind { port: 0, source };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let (stop, mut stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut stopped => return,
                    taken = listener.accept() => {
                        if let Ok((stream, _)) = taken {
                            tokio::spawn(serve(self.clone(), stream));
                        }
                    }
                }
            }
        });
        Ok(ElectrumServer { port, _stop: stop })
    }
}

async fn serve(chain: Arc<RegtestChain>, stream: TcpStream) {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        let none = Value::Null;
        let id = request.get("id").unwrap_or(&none);
        let method = request.get("method").and_then(Value::as_str).unwrap_or("");
        let params = request.get("params").unwrap_or(&none);
        let reply = match answer(&chain, method, params) {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(message) => {
                let error = json!({ "code": 1, "message": message });
                json!({ "jsonrpc": "2.0", "id": id, "error": error })
            }
        };
        let line = format!("{reply}\n");
        if writing.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(chain: &RegtestChain, method: &str, params: &Value) -> Result<Value, String> {
    if method == "blockchain.transaction.broadcast" {
        let raw = params.get(0).and_then(Value::as_str).unwrap_or("");
        let tx: Transaction = deserialize_hex(raw).map_err(|error| error.to_string())?;
        let txid = chain.submit(tx).map_err(|error| error.to_string())?;
        return Ok(json!(txid.to_string()));
    }
    if method == "blockchain.scripthash.get_history"
        && script_hash(params).is_some_and(|hash| chain.is_history_withheld(&hash))
    {
        return Err("history too large".to_owned());
    }
    chain
        .read(|chain, mempool| read(chain, mempool, method, params))
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("{method}: not found"))
}

fn read(chain: &ChainState, mempool: &Mempool, method: &str, params: &Value) -> Option<Value> {
    let text = |at: usize| params.get(at).and_then(Value::as_str);
    let height = |at: usize| u32::try_from(params.get(at)?.as_u64()?).ok();
    match method {
        "server.version" => Some(json!(["flashkit", "1.4"])),
        "server.ping" => Some(Value::Null),
        "blockchain.headers.subscribe" => Some(json!({
            "height": chain.height(),
            "hex": serialize_hex(chain.tip_header()?),
        })),
        "blockchain.block.header" => {
            let link = chain.link(height(0)?)?;
            Some(json!(serialize_hex(&link.block.header)))
        }
        "blockchain.scripthash.get_history" => {
            let hash = script_hash(params)?;
            Some(history(chain, mempool, &hash))
        }
        "blockchain.transaction.get" => {
            let txid: Txid = text(0)?.parse().ok()?;
            let tx = shape::find(chain, mempool, &txid)?;
            Some(json!(serialize_hex(tx)))
        }
        "blockchain.transaction.get_merkle" => {
            let txid: Txid = text(0)?.parse().ok()?;
            let link = chain.link(height(1)?)?;
            let txs = link.block.txdata.iter();
            let txids: Vec<Txid> = txs.map(Transaction::compute_txid).collect();
            let at = txids.iter().position(|found| *found == txid)?;
            let branch = MerkleBranch::of(&txids, at)?;
            let nodes = branch.siblings.iter().map(ToString::to_string);
            Some(json!({
                "block_height": height(1)?,
                "pos": branch.position,
                "merkle": nodes.collect::<Vec<_>>(),
            }))
        }
        "blockchain.estimatefee" => serde_json::from_str("0.00002").ok(),
        _ => None,
    }
}

/// The script that is asked for, whose hash is written the other way round.
fn script_hash(params: &Value) -> Option<sha256::Hash> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(params.get(0)?.as_str()?, &mut bytes).ok()?;
    bytes.reverse();
    hex::encode(bytes).parse().ok()
}

fn history(chain: &ChainState, mempool: &Mempool, hash: &sha256::Hash) -> Value {
    let confirmed = chain.history(hash).iter().filter_map(|txid| {
        let (_, height, _) = chain.transaction(txid)?;
        Some(json!({ "tx_hash": txid.to_string(), "height": height }))
    });
    let waiting = mempool
        .transactions()
        .filter(|tx| shape::touches(chain, mempool, tx, hash))
        .map(|tx| json!({ "tx_hash": tx.compute_txid().to_string(), "height": 0, "fee": 0 }));
    confirmed.chain(waiting).collect()
}
