//! What a node is made of.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ldk_node::bitcoin::Network;
use zeroize::Zeroize;

/// The network a node lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LdkNetwork {
    /// The real one.
    Bitcoin,
    /// Testnet 3.
    Testnet,
    /// The public signet.
    Signet,
    /// A chain of one's own.
    Regtest,
}

impl LdkNetwork {
    /// The name as [`Bolt11Details::network`](crate::lightning::Bolt11Details) spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bitcoin => "bitcoin",
            Self::Testnet => "testnet",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
        }
    }

    pub(super) fn to_bitcoin(self) -> Network {
        match self {
            Self::Bitcoin => Network::Bitcoin,
            Self::Testnet => Network::Testnet,
            Self::Signet => Network::Signet,
            Self::Regtest => Network::Regtest,
        }
    }
}

/// The 64 bytes all keys of the node come from. Its `Debug` says nothing and it is wiped when
/// dropped; the running node keeps a copy of its own.
#[derive(Clone)]
pub struct LdkSeed([u8; 64]);

impl LdkSeed {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    pub(super) fn expose(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for LdkSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LdkSeed(redacted)")
    }
}

impl Drop for LdkSeed {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Where the node reads the chain.
#[derive(Clone, PartialEq, Eq)]
pub enum LdkChainSource {
    /// An Esplora server.
    Esplora {
        /// Its base address, as `https://…/api`.
        url: String,
    },
    /// An Electrum server.
    Electrum {
        /// Its address, as `ssl://host:port` or `tcp://host:port`.
        url: String,
    },
    /// The RPC of a Bitcoin Core node.
    BitcoindRpc {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// The RPC user.
        user: String,
        /// The RPC password.
        password: String,
    },
}

impl fmt::Debug for LdkChainSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esplora { url } => f.debug_struct("Esplora").field("url", url).finish(),
            Self::Electrum { url } => f.debug_struct("Electrum").field("url", url).finish(),
            Self::BitcoindRpc { host, port, .. } => f
                .debug_struct("BitcoindRpc")
                .field("host", host)
                .field("port", port)
                .finish_non_exhaustive(),
        }
    }
}

/// A node that opens channels to ours just in time (LSPS2, bLIP 52).
#[derive(Clone, PartialEq, Eq)]
pub struct LiquidityProvider {
    /// Its key, 66 hex digits. It is trusted not to spend twice what it opens a channel with, which
    /// is used before it is confirmed, and to get a force close confirmed: a node that has no coins
    /// yet can take its channel.
    pub node_id: String,
    /// Where it is reached, as `host:port`.
    pub address: String,
    /// What it wants to hear from its customers, where it does.
    pub token: Option<String>,
}

impl fmt::Debug for LiquidityProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiquidityProvider")
            .field("node_id", &self.node_id)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct LdkConfig {
    /// The network.
    pub network: LdkNetwork,
    /// The seed.
    pub seed: LdkSeed,
    /// Where the chain is read.
    pub chain_source: LdkChainSource,
    /// Where peers may connect, as `host:port`; empty for a node that only connects outwards.
    pub listening_addresses: Vec<String>,
    /// Peers (66 hex digits) whose anchor channels need no on-chain reserve of ours: they are
    /// trusted to get a force close confirmed.
    pub trusted_peers_no_reserve: Vec<String>,
    /// Who opens a channel when a payment comes that no channel can carry.
    pub liquidity_provider: Option<LiquidityProvider>,
    /// Where ldk-node writes its log file; with `None` it writes to the `log` facade, which a
    /// host may leave silent.
    pub log_file: Option<PathBuf>,
    /// How often the wallets follow an Esplora or Electrum server, at least 10; `None` leaves it
    /// to [`LdkNode::sync`](super::LdkNode::sync). A Bitcoin Core node is polled every 2 seconds
    /// whatever this says.
    pub sync_interval_seconds: Option<u64>,
    /// For how long the node belongs to this instance unless it renews that, which it does four
    /// times within: where several instances share a database, the next one takes over that long
    /// after this one was killed. A shorter one costs the node its place when the database cannot
    /// be reached for four fifths of it. At least a second, at
    /// most an hour.
    pub lease: Duration,
}

impl LdkConfig {
    /// A node that listens nowhere, trusts nobody, writes no log file syncs every 10 seconds
    /// and has a lease of 15.
    pub fn new(network: LdkNetwork, seed: LdkSeed, chain_source: LdkChainSource) -> Self {
        Self {
            network,
            seed,
            chain_source,
            listening_addresses: Vec::new(),
            trusted_peers_no_reserve: Vec::new(),
            liquidity_provider: None,
            log_file: None,
            sync_interval_seconds: Some(10),
            lease: Duration::from_secs(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_says_no_secret() {
        let config = LdkConfig::new(
            LdkNetwork::Regtest,
            LdkSeed::new([7; 64]),
            LdkChainSource::BitcoindRpc {
                host: "h".into(),
                port: 1,
                user: "alice".into(),
                password: "hunter2".into(),
            },
        );
        let text = format!("{config:?}");
        assert!(text.contains("redacted"));
        assert!(!text.contains("hunter2") && !text.contains("alice") && !text.contains("7, 7"));
    }
}
