//! Two real Lightning nodes with a channel between them, on a chain in this process.
//!
//! One node is the operator's; the other is the world: the customer's wallet and the merchant's
//! own node. Every step looks first whether it was done before, so that a process killed at any
//! moment goes on where it was.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::chain::{ChainEndpoint, ChainError, TestChain};
use crate::lightning::ldk::{LdkChainSource, LdkConfig, LdkNetwork, LdkNode, LdkSeed};
use crate::lightning::{LightningError, LightningNode};
use crate::ports::SystemClock;
use crate::store::sqlite::SqliteStore;
use crate::store::{KeyValue, StoreError};

/// The channel's size.
pub const CHANNEL_SATS: i64 = 5_000_000;
/// What the world gives the operator when it opens the channel: the operator's capital.
pub const CAPITAL_SATS: i64 = 500_000;
/// What the operator has on chain, as the reserve of its channel.
pub const RESERVE_SATS: u64 = 100_000;

/// The network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A node.
    #[error(transparent)]
    Lightning(#[from] LightningError),
    /// A node's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No port or no runtime to be had.
    #[error("this machine said no: {reason}")]
    Machine {
        /// What it said.
        reason: String,
    },
    /// It did not happen in time.
    #[error("waited in vain: {what}")]
    TimedOut {
        /// For what.
        what: &'static str,
    },
}

/// A node and the store that it shares with an engine.
pub struct LocalNode {
    /// The store.
    pub store: SqliteStore,
    /// The node.
    pub node: Arc<LdkNode>,
    /// Where the other one connects.
    pub address: String,
}

/// Where a node reads this chain.
pub fn chain_source(endpoint: ChainEndpoint) -> LdkChainSource {
    match endpoint {
        ChainEndpoint::Esplora { url } => LdkChainSource::Esplora { url },
        ChainEndpoint::BitcoindRpc {
            host,
            port,
            user,
            password,
        } => LdkChainSource::BitcoindRpc {
            host,
            port,
            user,
            password,
        },
    }
}

/// A port that is free now.
///
/// # Errors
/// When the machine has none.
pub fn free_address() -> Result<String, NetworkError> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.to_string())
        .map_err(|error| NetworkError::Machine {
            reason: error.to_string(),
        })
}

/// A node's configuration on a test chain.
pub fn config(seed: [u8; 64], endpoint: ChainEndpoint, address: &str) -> LdkConfig {
    let source = chain_source(endpoint);
    let mut config = LdkConfig::new(LdkNetwork::Regtest, LdkSeed::new(seed), source);
    config.listening_addresses = vec![address.to_owned()];
    config
}

impl LocalNode {
    /// Opens a node whose state lies in `file`; it is not started.
    ///
    /// # Errors
    /// When the file, the port or the node says no.
    pub fn open(
        file: &Path,
        seed: [u8; 64],
        endpoint: ChainEndpoint,
    ) -> Result<Self, NetworkError> {
        let clock = Arc::new(SystemClock);
        let store = SqliteStore::open(file, clock.clone())?;
        let address = free_address()?;
        let state: Arc<dyn KeyValue> = Arc::new(store.clone());
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|error| NetworkError::Machine {
                reason: error.to_string(),
            })?;
        let node = Arc::new(LdkNode::new(
            config(seed, endpoint, &address),
            state,
            clock,
            runtime,
        )?);
        Ok(Self {
            store,
            node,
            address,
        })
    }
}

/// Gives both nodes money and a channel between them, unless they have them already.
/// `progress` is told what is being done.
///
/// # Errors
/// When chain or nodes say no, or something does not happen within a minute.
pub async fn connect(
    chain: &dyn TestChain,
    operator: &LdkNode,
    operator_address: &str,
    world: &LdkNode,
    mut progress: impl FnMut(&str),
) -> Result<(), NetworkError> {
    let both = [operator, world];
    if chain.height().await? < 101 {
        progress("mining the first 101 blocks");
        chain.mine(101).await?;
    }
    sync(&both).await?;
    if world.channels().await?.is_empty() {
        progress("giving both nodes coins");
        // What an interrupted run gave may wait for its block still.
        if !chain.mempool_txids().await?.is_empty() {
            mine(chain, &both).await?;
        }
        give(chain, operator, RESERVE_SATS, RESERVE_SATS).await?;
        let world_sats = u64::try_from(CHANNEL_SATS).unwrap_or(0);
        // A channel whose opening was killed may be forgotten, and its coins be on their way back.
        give(chain, world, world_sats + RESERVE_SATS, world_sats * 2).await?;
        mine(chain, &both).await?;
        progress("opening a channel");
        let push_msat = CAPITAL_SATS * 1_000;
        world
            .open_channel(
                &operator.node_id(),
                operator_address,
                CHANNEL_SATS,
                Some(push_msat),
            )
            .await?;
        wait("the channel's funding transaction", async || {
            Ok(!chain.mempool_txids().await?.is_empty())
        })
        .await?;
        chain.mine(6).await?;
    } else {
        world.connect(&operator.node_id(), operator_address).await?;
    }
    progress("waiting for the channel");
    let mut rounds = 0;
    wait("a usable channel", async || {
        sync(&both).await?;
        rounds += 1;
        // A channel whose opening was interrupted may lack blocks.
        if rounds % 20 == 0 {
            chain.mine(6).await?;
        }
        let (ours, theirs) = (operator.channels().await?, world.channels().await?);
        Ok(ours.iter().any(|c| c.is_usable) && theirs.iter().any(|c| c.is_usable))
    })
    .await
}

/// Both nodes read the chain up to its tip.
///
/// # Errors
/// When a node says no.
pub async fn sync(nodes: &[&LdkNode]) -> Result<(), LightningError> {
    for node in nodes {
        node.sync().await?;
    }
    Ok(())
}

async fn mine(chain: &dyn TestChain, nodes: &[&LdkNode]) -> Result<(), NetworkError> {
    chain.mine(6).await?;
    Ok(sync(nodes).await?)
}

/// Sends `sats` to a node that can spend less than `needed_sats`.
async fn give(
    chain: &dyn TestChain,
    node: &LdkNode,
    needed_sats: u64,
    sats: u64,
) -> Result<(), NetworkError> {
    let needed_msat = i64::try_from(needed_sats * 1_000).unwrap_or(i64::MAX);
    if node.onchain_wallet().await?.spendable_msat < needed_msat {
        chain.fund(&node.new_onchain_address().await?, sats).await?;
    }
    Ok(())
}

async fn wait(
    what: &'static str,
    mut ask: impl AsyncFnMut() -> Result<bool, NetworkError>,
) -> Result<(), NetworkError> {
    for _ in 0..600 {
        if ask().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(NetworkError::TimedOut { what })
}
