//! A regtest chain for tests and examples: no daemon, no download, nothing to install.
//!
//! [`RegtestChain`] is a chain in this process, made of real blocks and transactions: real proof
//! of work at regtest's difficulty, witness commitments, scripts and signatures verified, coinbase
//! maturity, absolute and relative locks, a mempool with replacement, reorganisations. It is
//! served to nodes as Esplora over HTTP on loopback ([`RegtestChain::serve`]) and can be kept in
//! a folder ([`RegtestChain::open`]). [`Bitcoind`] is the same harness over a real `bitcoind`.
//! Both are a [`TestChain`], and [`from_env`] takes the real one where `BITCOIND_EXE` names it.
//!
//! What it is not: a node of a network. There are no peers, it does not compare rival chains, and
//! it runs only the policy it needs (weight, relay fee, replacement). A taproot output can be
//! spent by its key only; a script-path spend is refused, because the library that verifies
//! scripts (`libbitcoinconsensus` 25.1 without taproot) would let anybody have it.
//! The harness mines to a script that everybody can spend: see `fund`.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use flashkit::testkit::chain::{RegtestChain, TestChain};
//!
//! let chain = Arc::new(RegtestChain::in_memory()).serve().await?;
//! println!("a node can ask {}", chain.url());
//! chain.mine(101).await?;
//! assert_eq!(chain.height().await?, 101);
//! # Ok(())
//! # }
//! ```

mod bitcoind;
#[cfg(test)]
mod bitcoind_tests;
mod electrum_server;
mod error;
mod esplora;
mod esplora_json;
mod log;
mod mempool;
mod miner;
mod regtest;
mod rpc;
mod rpc_server;
mod rules;
mod state;
mod wallet;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub use bitcoind::Bitcoind;
pub use electrum_server::ElectrumServer;
pub use error::{BlockRefusal, ChainError, TxRefusal};
pub use esplora::EsploraServer;
pub use regtest::RegtestChain;
pub use rpc::RpcError;
pub use wallet::nobodys_address;

/// The environment variable that names a `bitcoind` executable.
pub const BITCOIND_EXE: &str = "BITCOIND_EXE";

/// Where a node finds the chain.
#[derive(Clone, PartialEq, Eq)]
pub enum ChainEndpoint {
    /// An Esplora server.
    Esplora {
        /// Its base, without a slash at the end.
        url: String,
    },
    /// A `bitcoind` with JSON-RPC.
    BitcoindRpc {
        /// Its host name or address.
        host: String,
        /// Its RPC port.
        port: u16,
        /// The RPC user.
        user: String,
        /// The RPC password.
        password: String,
    },
}

impl std::fmt::Debug for ChainEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Esplora { url } => f.debug_struct("Esplora").field("url", url).finish(),
            Self::BitcoindRpc { host, port, .. } => f
                .debug_struct("BitcoindRpc")
                .field("host", host)
                .field("port", port)
                .finish_non_exhaustive(),
        }
    }
}

/// One harness, two chains: what a test does to the world around a node.
#[async_trait]
pub trait TestChain: Send + Sync {
    /// Where a node finds the chain.
    fn source(&self) -> ChainEndpoint;

    /// Mines `blocks` blocks, the first with what waits in the mempool.
    ///
    /// # Errors
    /// Those of the log or of the RPC.
    async fn mine(&self, blocks: u32) -> Result<(), ChainError>;

    /// Pays `amount_sats` satoshis to a regtest address and returns the transaction's id; the
    /// payment waits in the mempool. Mines the first 101 blocks if the chain is younger.
    ///
    /// The coins are mature coinbases of the harness and its change. They are locked by the script
    /// `OP_TRUE`, which needs no key: fine on regtest, and useless anywhere else.
    ///
    /// # Errors
    /// [`ChainError::InvalidAddress`], [`ChainError::InsufficientFunds`] and those of the log or
    /// of the RPC.
    async fn fund(&self, address: &str, amount_sats: u64) -> Result<String, ChainError>;

    /// Replaces the last `depth` blocks by `depth + 1` empty ones. What they held waits in the
    /// mempool again as far as it is still valid.
    ///
    /// # Errors
    /// [`ChainError::ReorgTooDeep`] and those of the log or of the RPC.
    async fn reorg(&self, depth: u32) -> Result<(), ChainError>;

    /// The height of the tip; genesis is 0.
    ///
    /// # Errors
    /// Those of the log or of the RPC.
    async fn height(&self) -> Result<u32, ChainError>;

    /// The ids of the transactions that wait for a block.
    ///
    /// # Errors
    /// Those of the log or of the RPC.
    async fn mempool_txids(&self) -> Result<Vec<String>, ChainError>;
}

#[async_trait]
impl TestChain for EsploraServer {
    fn source(&self) -> ChainEndpoint {
        ChainEndpoint::Esplora { url: self.url() }
    }

    async fn mine(&self, blocks: u32) -> Result<(), ChainError> {
        self.chain().mine(blocks).map(|_| ())
    }

    async fn fund(&self, address: &str, amount_sats: u64) -> Result<String, ChainError> {
        let txid = self.chain().fund(address, amount_sats)?;
        Ok(txid.to_string())
    }

    async fn reorg(&self, depth: u32) -> Result<(), ChainError> {
        self.chain().reorg(depth)
    }

    async fn height(&self) -> Result<u32, ChainError> {
        self.chain().height()
    }

    async fn mempool_txids(&self) -> Result<Vec<String>, ChainError> {
        let txids = self.chain().mempool_txids()?;
        Ok(txids.iter().map(ToString::to_string).collect())
    }
}

/// The real `bitcoind` that the environment variable `BITCOIND_EXE` names, otherwise a chain in
/// this process. Must be called on a Tokio runtime.
///
/// # Errors
/// [`ChainError::Bind`], [`ChainError::BitcoindStart`], [`ChainError::BitcoindNotReady`].
pub async fn from_env() -> Result<Arc<dyn TestChain>, ChainError> {
    match std::env::var_os(BITCOIND_EXE).filter(|path| !path.is_empty()) {
        Some(executable) => Ok(Arc::new(Bitcoind::start(PathBuf::from(executable)).await?)),
        None => Ok(Arc::new(Arc::new(RegtestChain::in_memory()).serve().await?)),
    }
}
