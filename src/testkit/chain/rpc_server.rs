//! The chain as the JSON-RPC of a `bitcoind` without a wallet: what a reader of blocks asks.
//!
//! Codes of errors are those of Bitcoin Core 25. Any user and password are taken.

use axum::extract::State;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{BlockHash, Transaction, Txid};
use serde_json::{Value, json};

use super::error::ChainError;
use super::esplora::Shared;
use super::esplora_json as shape;
use super::mempool::Mempool;
use super::regtest::RegtestChain;
use super::state::ChainState;

/// A method's result, or the code and words of its error.
type Outcome = Result<Value, (i64, String)>;

pub(super) async fn call(State(chain): Shared, body: String) -> String {
    let request: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    let method = request.get("method").and_then(Value::as_str).unwrap_or("");
    let none = Value::Null;
    let id = request.get("id").unwrap_or(&none);
    let params = request.get("params").unwrap_or(&none);
    let reply = match answer(&chain, method, params) {
        Ok(result) => json!({ "result": result, "error": null, "id": id }),
        Err((code, message)) => {
            json!({ "result": null, "error": { "code": code, "message": message }, "id": id })
        }
    };
    reply.to_string()
}

fn answer(chain: &RegtestChain, method: &str, params: &Value) -> Outcome {
    if method == "sendrawtransaction" {
        return send(chain, params);
    }
    if method == "getrawmempool" && chain.is_mempool_withheld() {
        return Err((-1, "too much waits".to_owned()));
    }
    chain
        .read(|chain, mempool| read(chain, mempool, method, params))
        .unwrap_or_else(|error| Err((-1, error.to_string())))
}

fn read(chain: &ChainState, mempool: &Mempool, method: &str, params: &Value) -> Outcome {
    match method {
        "getblockchaininfo" => Ok(json!({
            "chain": "regtest",
            "blocks": chain.height(),
            "bestblockhash": chain.tip_hash().to_string(),
        })),
        "getblockhash" => {
            let height = params.get(0).and_then(Value::as_u64);
            let height = height.and_then(|height| u32::try_from(height).ok());
            let link = height.and_then(|height| chain.link(height));
            let out_of_range = || (-8, "Block height out of range".to_owned());
            link.map(|link| json!(link.hash.to_string()))
                .ok_or_else(out_of_range)
        }
        "getblock" | "getblockheader" => {
            let block = hash(params, 0).and_then(|hash: BlockHash| chain.block(&hash));
            let block = block.ok_or_else(|| (-5, "Block not found".to_owned()))?;
            Ok(json!(match method {
                "getblock" => serialize_hex(block),
                _ => serialize_hex(&block.header),
            }))
        }
        "getrawmempool" => {
            let waiting = mempool.txids().iter().map(Txid::to_string);
            Ok(json!(waiting.collect::<Vec<_>>()))
        }
        "getmempoolentry" => {
            let waits = hash(params, 0).and_then(|txid: Txid| mempool.transaction(&txid));
            let unknown = || (-5, "Transaction not in mempool".to_owned());
            waits.map(|_| json!({})).ok_or_else(unknown)
        }
        "getrawtransaction" => {
            let unknown = || (-5, "No such mempool or blockchain transaction".to_owned());
            let txid: Txid = hash(params, 0).ok_or_else(unknown)?;
            // Without an index, only the mempool, or the block that is named.
            let found = match hash::<BlockHash>(params, 2) {
                Some(block) => {
                    let txs = chain.block(&block).map(|block| &block.txdata);
                    txs.and_then(|txs| txs.iter().find(|tx| tx.compute_txid() == txid))
                }
                None => shape::find(chain, mempool, &txid)
                    .filter(|_| mempool.transaction(&txid).is_some()),
            };
            Ok(json!(serialize_hex(found.ok_or_else(unknown)?)))
        }
        "estimatesmartfee" => {
            let rate: Option<Value> = serde_json::from_str("0.00002").ok();
            Ok(json!({ "feerate": rate, "blocks": params.get(0) }))
        }
        _ => Err((-32601, "Method not found".to_owned())),
    }
}

fn send(chain: &RegtestChain, params: &Value) -> Outcome {
    let undecodable = || (-22, "TX decode failed".to_owned());
    let raw = params.get(0).and_then(Value::as_str);
    let tx: Transaction = raw
        .and_then(|raw| deserialize_hex(raw).ok())
        .ok_or_else(undecodable)?;
    let txid = tx.compute_txid();
    let confirmed = chain.confirmations(&txid).ok().flatten();
    if confirmed.is_some_and(|confirmations| confirmations > 0) {
        return Err((-27, "Transaction already in block chain".to_owned()));
    }
    match chain.submit(tx) {
        Ok(txid) => Ok(json!(txid.to_string())),
        Err(ChainError::Refused(refusal)) => Err((-26, refusal.to_string())),
        Err(error) => Err((-1, error.to_string())),
    }
}

fn hash<T: std::str::FromStr>(params: &Value, at: usize) -> Option<T> {
    params.get(at)?.as_str()?.parse().ok()
}
