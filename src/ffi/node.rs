//! The app's own node: what its owner asks of it beside the engine.

use std::path::PathBuf;
use std::sync::Arc;

use super::config::{FlashkitConfig, LightningConfig, Network};
use super::{FlashError, Flashkit, runtime};
use crate::MasterSecret;
#[cfg(feature = "chain")]
use crate::chain;
use crate::lightning::ldk::{LdkChainSource, LdkChannel, LdkConfig, LdkNetwork, LdkNode, LdkSeed};
use crate::lightning::{LightningError, LightningNode};
use crate::ports::SystemClock;
use crate::store::sqlite::SqliteStore;

/// Where a node reads the chain, and where wallets on chain are watched.
#[derive(Clone, uniffi::Enum)]
pub enum ChainSource {
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

impl From<ChainSource> for LdkChainSource {
    fn from(source: ChainSource) -> Self {
        match source {
            ChainSource::Esplora { url } => Self::Esplora { url },
            ChainSource::Electrum { url } => Self::Electrum { url },
            ChainSource::BitcoindRpc {
                host,
                port,
                user,
                password,
            } => Self::BitcoindRpc {
                host,
                port,
                user,
                password,
            },
        }
    }
}

impl From<Network> for LdkNetwork {
    fn from(network: Network) -> Self {
        match network {
            Network::Bitcoin => Self::Bitcoin,
            Network::Testnet => Self::Testnet,
            Network::Signet => Self::Signet,
            Network::Regtest => Self::Regtest,
        }
    }
}

/// Makes the node of a configuration, on the engine's own file.
pub(super) fn open(
    config: &FlashkitConfig,
    master: &MasterSecret,
    store: SqliteStore,
) -> Result<LdkNode, FlashError> {
    let LightningConfig::Ldk {
        chain_source,
        listening_addresses,
        trusted_peers_no_reserve,
        log_file,
    } = &config.lightning
    else {
        return Err(LightningError::NoNode.into());
    };
    let seed = LdkSeed::new(*master.node_entropy());
    let mut node = LdkConfig::new(config.network.into(), seed, chain_source.clone().into());
    node.listening_addresses.clone_from(listening_addresses);
    node.trusted_peers_no_reserve
        .clone_from(trusted_peers_no_reserve);
    node.log_file = log_file.as_ref().map(PathBuf::from);
    let clock = Arc::new(SystemClock);
    Ok(LdkNode::new(
        node,
        Arc::new(store),
        clock,
        runtime::handle()?,
    )?)
}

/// What watches the wallets on chain of a configuration: whatever its node reads.
#[cfg(feature = "chain")]
pub(super) fn chain(
    config: &FlashkitConfig,
) -> Result<Option<Arc<dyn chain::ChainSource>>, FlashError> {
    let LightningConfig::Ldk { chain_source, .. } = &config.lightning else {
        return Ok(None);
    };
    Ok(Some(match chain_source {
        ChainSource::Esplora { url } => Arc::new(chain::Esplora::new(url)?),
        ChainSource::Electrum { url } => Arc::new(chain::Electrum::new(url)?),
        ChainSource::BitcoindRpc {
            host,
            port,
            user,
            password,
        } => Arc::new(chain::Bitcoind::new(host, *port, user, password)?),
    }))
}

/// A channel of the node.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct NodeChannel {
    /// What both sides call it; changes once, when the channel gets its funding transaction.
    pub channel_id: String,
    /// What this node calls it for ever.
    pub user_channel_id: String,
    /// The peer, 66 hex digits.
    pub peer_node_id: String,
    /// `txid:vout`, once there is one.
    pub funding_outpoint: Option<String>,
    /// The whole channel.
    pub capacity_sats: i64,
    /// Ours in it.
    pub ours_msat: i64,
    /// What we could send, before fees.
    pub outbound_capacity_msat: i64,
    /// What the peer could send us.
    pub inbound_capacity_msat: i64,
    /// Opened by us.
    pub is_outbound: bool,
    /// The funding is confirmed and both sides said so.
    pub is_ready: bool,
    /// Ready, and the peer is connected.
    pub is_usable: bool,
}

impl From<LdkChannel> for NodeChannel {
    fn from(channel: LdkChannel) -> Self {
        Self {
            channel_id: channel.channel_id,
            user_channel_id: channel.user_channel_id,
            peer_node_id: channel.peer_node_id,
            funding_outpoint: channel.funding_outpoint,
            capacity_sats: channel.capacity_sats,
            ours_msat: channel.ours_msat,
            outbound_capacity_msat: channel.outbound_capacity_msat,
            inbound_capacity_msat: channel.inbound_capacity_msat,
            is_outbound: channel.is_outbound,
            is_ready: channel.is_ready,
            is_usable: channel.is_usable,
        }
    }
}

impl Flashkit {
    fn ldk(&self) -> Result<Arc<LdkNode>, FlashError> {
        self.ldk
            .clone()
            .ok_or_else(|| LightningError::NoNode.into())
    }
}

/// These answer `lightning.no_node` unless the engine was opened with a node of its own.
#[uniffi::export]
impl Flashkit {
    /// The node's public key, 66 hex digits.
    pub fn node_id(&self) -> Result<String, FlashError> {
        Ok(self.ldk()?.node_id())
    }

    /// A fresh address of the node's own on-chain wallet.
    pub async fn node_new_address(&self) -> Result<String, FlashError> {
        let node = self.ldk()?;
        self.with_engine(|_| async move { Ok(node.new_onchain_address().await?) })
            .await
    }

    /// Connects to a peer and remembers it.
    pub async fn node_connect(&self, node_id: String, address: String) -> Result<(), FlashError> {
        let node = self.ldk()?;
        self.with_engine(|_| async move { Ok(node.connect(&node_id, &address).await?) })
            .await
    }

    /// Opens an unannounced channel; answers its `user_channel_id`.
    pub async fn node_open_channel(
        &self,
        node_id: String,
        address: String,
        amount_sats: i64,
    ) -> Result<String, FlashError> {
        let node = self.ldk()?;
        self.with_engine(|_| async move {
            Ok(node
                .open_channel(&node_id, &address, amount_sats, None)
                .await?)
        })
        .await
    }

    /// Closes a channel, together with the peer or (`force`) by broadcasting the own last state,
    /// after which our part is locked for a day or more.
    pub async fn node_close_channel(
        &self,
        user_channel_id: String,
        peer_node_id: String,
        force: bool,
    ) -> Result<(), FlashError> {
        let node = self.ldk()?;
        self.with_engine(|_| async move {
            Ok(node
                .close_channel(&user_channel_id, &peer_node_id, force)
                .await?)
        })
        .await
    }

    /// All channels, those being opened included.
    pub async fn node_channels(&self) -> Result<Vec<NodeChannel>, FlashError> {
        let node = self.ldk()?;
        self.with_engine(|_| async move {
            let channels = node.channels().await?;
            Ok(channels.into_iter().map(NodeChannel::from).collect())
        })
        .await
    }

    /// Follows the chain now instead of at the next interval.
    pub async fn node_sync(&self) -> Result<(), FlashError> {
        let node = self.ldk()?;
        self.with_engine(|_| async move { Ok(node.sync().await?) })
            .await
    }
}
