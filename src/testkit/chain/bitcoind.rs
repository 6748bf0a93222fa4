//! The harness over a real `bitcoind`, with or without a wallet compiled in.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::constants::COINBASE_MATURITY;
use bitcoin::{Address, Amount, Block, Network, OutPoint, Txid, WitnessProgram, WitnessVersion};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::error::ChainError;
use super::rpc::{RpcClient, RpcError};
use super::wallet::{self, OwnCoin};
use super::{ChainEndpoint, TestChain};
use crate::ports::{Entropy, SystemEntropy};

const HOST: &str = "127.0.0.1";
const USER: &str = "flashkit";
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// The height from which the harness has a mature coinbase.
const FUNDED_HEIGHT: u32 = 101;
/// How many mature coinbases one payment looks at; the oldest come first and are worth the most.
const COINS_PER_PAYMENT: usize = 20;

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// A `bitcoind` on regtest in a folder of its own. Dropping it kills the process, waits for its
/// end and removes the folder.
pub struct Bitcoind {
    rpc: RpcClient,
    port: u16,
    password: String,
    process: Option<Process>,
    /// Change that waits in the mempool, where `scantxoutset` does not look.
    change: Mutex<Vec<OwnCoin>>,
    reorganised: AtomicU32,
}

struct Process {
    child: Child,
    folder: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about a process that is gone or a folder that stays.
        let _killed = self.child.kill();
        let _ended = self.child.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

impl Bitcoind {
    /// Starts `executable` on free loopback ports with a random password, in a temporary folder,
    /// and waits until it answers.
    ///
    /// # Errors
    /// [`ChainError::BitcoindStart`], [`ChainError::BitcoindNotReady`], [`ChainError::Bind`],
    /// [`ChainError::Entropy`].
    pub async fn start(executable: PathBuf) -> Result<Self, ChainError> {
        let failed = |source| ChainError::BitcoindStart {
            executable: executable.clone(),
            source,
        };
        let mut secret = [0u8; 16];
        SystemEntropy.fill(&mut secret)?;
        let password = hex::encode(secret);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("flashkit-bitcoind-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let port = free_port()?;
        let child = Command::new(&executable)
            .arg(format!("-datadir={}", folder.display()))
            .arg(format!("-rpcport={port}"))
            .arg(format!("-rpcuser={USER}"))
            .arg(format!("-rpcpassword={password}"))
            .args(["-regtest", "-server", "-listen=0", "-txindex=1"])
            .args(["-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1", "-rest"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut harness = Self::connect(port, password);
        harness.process = Some(Process { child, folder });
        match timeout(START_LIMIT, harness.until_ready()).await {
            Ok(ready) => ready.map(|()| harness),
            Err(_) => Err(ChainError::BitcoindNotReady {
                waited_secs: START_LIMIT.as_secs(),
            }),
        }
    }

    pub(super) fn connect(port: u16, password: String) -> Self {
        Self {
            rpc: RpcClient::new(HOST, port, USER, &password),
            port,
            password,
            process: None,
            change: Mutex::new(Vec::new()),
            reorganised: AtomicU32::new(0),
        }
    }

    async fn until_ready(&self) -> Result<(), ChainError> {
        loop {
            match self.rpc.call("getblockcount", json!([])).await {
                Ok(_) => return Ok(()),
                // Not listening yet, or listening and still warming up.
                Err(RpcError::Connection { .. } | RpcError::Refused { code: -28, .. }) => {}
                Err(error) => return Err(error.into()),
            }
            sleep(POLL).await;
        }
    }

    async fn text(&self, method: &'static str, params: Value) -> Result<String, ChainError> {
        let result = self.rpc.call(method, params).await?;
        let text = result.as_str().map(str::to_owned);
        text.ok_or(ChainError::BitcoindAnswer { method })
    }

    async fn block_hash(&self, height: u32) -> Result<String, ChainError> {
        self.text("getblockhash", json!([height])).await
    }

    /// The mature coins of the harness that no waiting transaction spends, oldest first.
    async fn own_coins(&self) -> Result<Vec<OwnCoin>, ChainError> {
        let method = "scantxoutset";
        let filter = format!("addr({})", wallet::own_address());
        let scan = self.rpc.call(method, json!(["start", [filter]])).await?;
        let odd = || ChainError::BitcoindAnswer { method };
        let tip = scan.get("height").and_then(Value::as_u64).ok_or_else(odd)?;
        let found = scan.get("unspents").and_then(Value::as_array);
        let mut places = Vec::new();
        for item in found.ok_or_else(odd)? {
            let outpoint = outpoint_of(item).ok_or_else(odd)?;
            let height = item.get("height").and_then(Value::as_u64).ok_or_else(odd)?;
            let coinbase = item.get("coinbase").and_then(Value::as_bool);
            let maturity = u64::from(COINBASE_MATURITY);
            // A node too old to say whether it is a coinbase: then take it for one.
            if !coinbase.unwrap_or(true) || height.saturating_add(maturity) <= tip + 1 {
                places.push((height, outpoint));
            }
        }
        places.sort_unstable();
        let mut coins = Vec::new();
        for (height, outpoint) in places {
            if coins.len() < COINS_PER_PAYMENT && self.is_unspent(&outpoint).await? {
                let value = self.value_of(height, &outpoint).await?;
                coins.push(OwnCoin { outpoint, value });
            }
        }
        Ok(coins)
    }

    /// Reads the amount from the block itself: in the JSON it is a decimal fraction of bitcoins.
    async fn value_of(&self, height: u64, outpoint: &OutPoint) -> Result<Amount, ChainError> {
        let hash = self.text("getblockhash", json!([height])).await?;
        let raw = self.text("getblock", json!([hash, 0])).await?;
        let value = deserialize_hex::<Block>(&raw).ok().and_then(|block| {
            let mut txs = block.txdata.iter();
            let tx = txs.find(|tx| tx.compute_txid() == outpoint.txid)?;
            let index = usize::try_from(outpoint.vout).ok()?;
            tx.output.get(index).map(|output| output.value)
        });
        value.ok_or(ChainError::BitcoindAnswer { method: "getblock" })
    }

    async fn is_unspent(&self, outpoint: &OutPoint) -> Result<bool, ChainError> {
        let params = json!([outpoint.txid.to_string(), outpoint.vout, true]);
        let found = self.rpc.call("gettxout", params).await?;
        Ok(!found.is_null())
    }
}

#[async_trait]
impl TestChain for Bitcoind {
    fn source(&self) -> ChainEndpoint {
        ChainEndpoint::BitcoindRpc {
            host: HOST.to_owned(),
            port: self.port,
            user: USER.to_owned(),
            password: self.password.clone(),
        }
    }

    async fn mine(&self, blocks: u32) -> Result<(), ChainError> {
        let address = wallet::own_address().to_string();
        let params = json!([blocks, address]);
        self.rpc.call("generatetoaddress", params).await?;
        Ok(())
    }

    async fn fund(&self, address: &str, amount_sats: u64) -> Result<String, ChainError> {
        let script = wallet::script_of(address)?;
        let height = self.height().await?;
        if height < FUNDED_HEIGHT {
            self.mine(FUNDED_HEIGHT - height).await?;
        }
        let mut change = self.change.lock().await;
        let mut coins = self.own_coins().await?;
        let known: Vec<OutPoint> = coins.iter().map(|coin| coin.outpoint).collect();
        for coin in change.iter().filter(|coin| !known.contains(&coin.outpoint)) {
            if self.is_unspent(&coin.outpoint).await? {
                coins.push(coin.clone());
            }
        }
        let tx = wallet::pay(&coins, script, Amount::from_sat(amount_sats))?;
        let params = json!([serialize_hex(&tx)]);
        let txid = self.text("sendrawtransaction", params).await?;
        let own = wallet::own_script();
        change.extend(
            super::rules::outputs_of(&tx)
                .filter(|(_, output)| output.script_pubkey == own)
                .map(|(outpoint, output)| OwnCoin {
                    outpoint,
                    value: output.value,
                }),
        );
        Ok(txid)
    }

    async fn reorg(&self, depth: u32) -> Result<(), ChainError> {
        let height = self.height().await?;
        if depth > height {
            return Err(ChainError::ReorgTooDeep { depth, height });
        }
        if depth > 0 {
            let first = self.block_hash(height - depth + 1).await?;
            self.rpc.call("invalidateblock", json!([first])).await?;
        }
        // Paid to an address never used before: an empty block made in the same second as the
        // one it replaces would otherwise be that very block, which is invalid now.
        let payout = json!(self.fresh_address()?.to_string());
        for _ in 0..=depth {
            self.rpc.call("generateblock", json!([payout, []])).await?;
        }
        Ok(())
    }

    async fn height(&self) -> Result<u32, ChainError> {
        let method = "getblockcount";
        let count = self.rpc.call(method, json!([])).await?;
        count
            .as_u64()
            .and_then(|height| u32::try_from(height).ok())
            .ok_or(ChainError::BitcoindAnswer { method })
    }

    async fn mempool_txids(&self) -> Result<Vec<String>, ChainError> {
        let method = "getrawmempool";
        let txids = self.rpc.call(method, json!([])).await?;
        serde_json::from_value(txids).map_err(|_| ChainError::BitcoindAnswer { method })
    }
}

impl Bitcoind {
    /// An address of which nobody has the key.
    fn fresh_address(&self) -> Result<Address, ChainError> {
        let number = self.reorganised.fetch_add(1, Ordering::Relaxed);
        let mut program = [0x66; 20];
        program[..4].copy_from_slice(&number.to_le_bytes());
        WitnessProgram::new(WitnessVersion::V0, &program)
            .map(|program| Address::from_witness_program(program, Network::Regtest))
            .map_err(|_| ChainError::InvalidAddress {
                address: number.to_string(),
            })
    }
}

fn outpoint_of(item: &Value) -> Option<OutPoint> {
    let txid = Txid::from_str(item.get("txid")?.as_str()?).ok()?;
    let vout = u32::try_from(item.get("vout")?.as_u64()?).ok()?;
    Some(OutPoint { txid, vout })
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, ChainError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| ChainError::Bind { port: 0, source })
}
