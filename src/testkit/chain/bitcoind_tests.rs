//! The harness over `bitcoind` against a small server that speaks its JSON-RPC, on a chain of our
//! own. It shows that client and funding work, not that a real `bitcoind` answers like this.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{BlockHash, Txid};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::rpc::{RpcClient, RpcError};
use super::*;

struct Fake {
    chain: RegtestChain,
    connections: AtomicUsize,
    /// Closes the connection after every so many answers, without saying so before.
    answers_per_connection: usize,
}

impl Fake {
    async fn start(answers_per_connection: usize) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fake = Arc::new(Self {
            chain: RegtestChain::in_memory(),
            connections: AtomicUsize::new(0),
            answers_per_connection,
        });
        let server = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                server.connections.fetch_add(1, Ordering::SeqCst);
                let server = Arc::clone(&server);
                tokio::spawn(async move { server.answer_all(stream).await });
            }
        });
        (fake, port)
    }

    async fn answer_all(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        for _ in 0..self.answers_per_connection {
            let (mut length, mut authorised) = (0, false);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                match line.trim().split_once(": ") {
                    Some(("Content-Length", value)) => length = value.parse().unwrap(),
                    // "flashkit:secret"
                    Some(("Authorization", value)) => {
                        authorised = value == "Basic Zmxhc2hraXQ6c2VjcmV0";
                    }
                    _ if line.trim().is_empty() => break,
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let call: Value = serde_json::from_slice(&body).unwrap();
            let (status, answer) = match self.answer(&call) {
                _ if !authorised => ("401 Unauthorized", String::new()),
                Ok(result) => (
                    "200 OK",
                    json!({"result": result, "error": null, "id": 0}).to_string(),
                ),
                Err(code) => (
                    "500 Internal Server Error",
                    json!({"result": null, "error": {"code": code, "message": "no"}, "id": 0})
                        .to_string(),
                ),
            };
            let length = answer.len();
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{answer}");
            stream.get_mut().write_all(text.as_bytes()).await.unwrap();
        }
    }

    fn answer(&self, call: &Value) -> Result<Value, i64> {
        let chain = &self.chain;
        let first = &call["params"][0];
        let text = first.as_str().unwrap_or("");
        match call["method"].as_str().unwrap() {
            "getblockcount" => Ok(json!(chain.height().unwrap())),
            "generatetoaddress" => {
                assert_eq!(call["params"][1], wallet::own_address().to_string());
                let blocks = u32::try_from(first.as_u64().unwrap()).unwrap();
                Ok(json!(chain.mine(blocks).unwrap().len()))
            }
            "getblockhash" => chain
                .read(|state, _| {
                    let height = u32::try_from(first.as_u64()?).ok()?;
                    state.link(height).map(|link| json!(link.hash.to_string()))
                })
                .unwrap()
                .ok_or(-8),
            "getblock" => {
                assert_eq!(call["params"][1], 0);
                let block = chain.block(&BlockHash::from_str(text).unwrap()).unwrap();
                Ok(json!(serialize_hex(&block.unwrap())))
            }
            "gettxout" => Ok(self.tx_out(text, &call["params"][1])),
            "scantxoutset" => Ok(self.scan()),
            "sendrawtransaction" => chain
                .submit(deserialize_hex(text).unwrap())
                .map(|txid| json!(txid.to_string()))
                .map_err(|_| -26),
            "getrawmempool" => Ok(json!(
                chain
                    .mempool_txids()
                    .unwrap()
                    .iter()
                    .map(Txid::to_string)
                    .collect::<Vec<_>>()
            )),
            "invalidateblock" => {
                let hash = BlockHash::from_str(text).unwrap();
                let height = chain
                    .read(|state, _| state.height_of(&hash))
                    .unwrap()
                    .unwrap();
                let depth = chain.height().unwrap() - height + 1;
                chain
                    .replace(depth, Vec::new())
                    .map(|()| Value::Null)
                    .map_err(|_| -1)
            }
            "generateblock" => {
                assert!(wallet::script_of(text).is_ok());
                chain
                    .replace(0, vec![Vec::new()])
                    .map(|()| json!({}))
                    .map_err(|_| -1)
            }
            _ => Err(-32601),
        }
    }

    fn tx_out(&self, txid: &str, vout: &Value) -> Value {
        let txid = Txid::from_str(txid).unwrap();
        let outpoint = bitcoin::OutPoint {
            txid,
            vout: u32::try_from(vout.as_u64().unwrap()).unwrap(),
        };
        let unspent = self.chain.read(|state, mempool| {
            let exists = state.coin(&outpoint).is_some() || mempool.transaction(&txid).is_some();
            exists && mempool.spender(&outpoint).is_none()
        });
        if unspent.unwrap() {
            json!({})
        } else {
            Value::Null
        }
    }

    fn scan(&self) -> Value {
        self.chain
            .read(|state, _| {
                let own = wallet::own_script();
                let coins = state
                    .coins()
                    .filter(|(_, coin)| coin.output.script_pubkey == own);
                let unspents: Vec<Value> = coins
                    .map(|(outpoint, coin)| {
                        json!({
                            "txid": outpoint.txid.to_string(), "vout": outpoint.vout,
                            "height": coin.height, "coinbase": coin.coinbase,
                        })
                    })
                    .collect();
                json!({ "height": state.height(), "unspents": unspents })
            })
            .unwrap()
    }
}

#[tokio::test]
async fn calls_share_a_connection_and_outlive_its_end() {
    let (fake, port) = Fake::start(2).await;
    let rpc = RpcClient::new("127.0.0.1", port, "flashkit", "secret");
    for _ in 0..2 {
        assert_eq!(rpc.call("getblockcount", json!([])).await.unwrap(), 0);
    }
    assert_eq!(fake.connections.load(Ordering::SeqCst), 1);
    let refused = rpc.call("nonsense", json!([])).await;
    assert!(matches!(
        refused,
        Err(RpcError::Refused {
            method: "nonsense",
            code: -32601,
            ..
        })
    ));
    assert_eq!(fake.connections.load(Ordering::SeqCst), 2);
    let stranger = RpcClient::new("127.0.0.1", port, "flashkit", "wrong");
    let refused = stranger.call("getblockcount", json!([])).await;
    assert!(matches!(refused, Err(RpcError::NotRpc { status: 401, .. })));
    let nobody = RpcClient::new("127.0.0.1", 1, "", "");
    let refused = nobody.call("getblockcount", json!([])).await;
    assert!(matches!(refused, Err(RpcError::Connection { .. })));
}

#[tokio::test]
async fn a_walletless_bitcoind_funds_mines_and_reorganises() {
    let (fake, port) = Fake::start(usize::MAX).await;
    let harness = Bitcoind::connect(port, "secret".to_owned());
    let foreign = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
    // The second payment can only come from the change of the first: nothing else is mature.
    let mut paid = Vec::new();
    for _ in 0..3 {
        paid.push(harness.fund(foreign, 70_000).await.unwrap());
    }
    assert_eq!(harness.height().await.unwrap(), 101);
    assert_eq!(harness.mempool_txids().await.unwrap(), paid);
    harness.mine(1).await.unwrap();
    assert!(harness.mempool_txids().await.unwrap().is_empty());
    harness.reorg(1).await.unwrap();
    assert_eq!(harness.height().await.unwrap(), 103);
    assert_eq!(harness.mempool_txids().await.unwrap(), paid);
    harness.fund(foreign, 70_000).await.unwrap();
    let too_deep = harness.reorg(500).await;
    assert!(matches!(
        too_deep,
        Err(ChainError::ReorgTooDeep {
            depth: 500,
            height: 103
        })
    ));
    assert_eq!(fake.connections.load(Ordering::SeqCst), 1);
}
