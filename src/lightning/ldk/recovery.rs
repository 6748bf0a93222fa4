//! A node whose channel state is lost, or may be old.
//!
//! What is kept of a channel, outside the state of channels, is its monitor as it was born: before
//! the first payment, without any HTLC, never written again. It says where the channel lives, who
//! the peer is and which of our keys it pays. For a recovery it is *sealed*: told that the channel
//! was closed and that nothing of it may be broadcast. LDK never gives a sealed monitor a
//! commitment to sign, not on the next start either, and without HTLCs nothing in it can time out.
//! So all it does is wait for the funding output to be spent and report what of that is ours.
//!
//! The node is then started without a channel manager. To a peer that speaks of a channel it does
//! not know, LDK answers as a node does that has lost its state, and the peer closes with its own
//! last commitment.

use std::io::Cursor;
use std::sync::Mutex;

use ldk_node::bitcoin::bip32::Xpriv;
use ldk_node::bitcoin::{BlockHash, Transaction};
use ldk_node::lightning::chain::chaininterface::{
    BroadcasterInterface, ConfirmationTarget, FeeEstimator,
};
use ldk_node::lightning::chain::channelmonitor::{ChannelMonitor, ChannelMonitorUpdate};
use ldk_node::lightning::sign::{InMemorySigner, KeysManager};
use ldk_node::lightning::util::logger::{Logger, Record};
use ldk_node::lightning::util::persist::{
    CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE, CHANNEL_MONITOR_PERSISTENCE_SECONDARY_NAMESPACE,
    MONITOR_UPDATING_PERSISTER_PREPEND_SENTINEL,
};
use ldk_node::lightning::util::ser::{Readable, ReadableArgs, Writeable};

use super::config::LdkConfig;
use super::records::refused;
use crate::lightning::{LightningError, LostChannel};
use crate::store::{KeyPath, KeyValue, KeyValueWrite, StoreError};

/// Where the monitors as they were born are kept.
const FACTS: &str = "channel_facts";

/// Where what is kept of the channel of a monitor lies; `None` for what is no monitor.
pub(super) fn facts_of(path: &KeyPath) -> Option<KeyPath> {
    let is_monitor = path.primary == CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE
        && path.secondary == CHANNEL_MONITOR_PERSISTENCE_SECONDARY_NAMESPACE;
    is_monitor.then(|| KeyPath {
        primary: FACTS.to_owned(),
        secondary: String::new(),
        key: path.key.clone(),
    })
}

/// Broadcasts nothing, and remembers that it should have.
#[derive(Default)]
struct Silent(Mutex<bool>);

impl BroadcasterInterface for Silent {
    fn broadcast_transactions(&self, _transactions: &[&Transaction]) {
        if let Ok(mut asked) = self.0.lock() {
            *asked = true;
        }
    }
}

impl FeeEstimator for Silent {
    fn get_est_sat_per_1000_weight(&self, _target: ConfirmationTarget) -> u32 {
        253
    }
}

impl Logger for Silent {
    fn log(&self, _record: Record<'_>) {}
}

/// The keys as ldk-node has them.
fn keys(config: &LdkConfig) -> Result<KeysManager, LightningError> {
    let seed = Xpriv::new_master(config.network.to_bitcoin(), config.seed.expose())
        .map_err(|_| refused("no key can be derived from this seed"))?;
    // The time only makes the keys of new channels unlike those of others; none is made here.
    Ok(KeysManager::new(
        &seed.private_key.secret_bytes(),
        0,
        0,
        true,
    ))
}

/// The update that seals: one step, closed and not to be broadcast. LDK has no constructor for
/// it, so it is read from the bytes that LDK itself writes for it.
fn sealing(monitor: &ChannelMonitor<InMemorySigner>) -> Option<ChannelMonitorUpdate> {
    let next = monitor.get_latest_update_id().checked_add(1)?;
    let mut bytes = vec![1, 1];
    bytes.extend(next.to_be_bytes());
    bytes.extend(1_u64.to_be_bytes());
    // `ChannelForceClosed`, with 3 bytes of fields: number 0, of length 1, is false.
    bytes.extend([4, 3, 0, 1, 0]);
    // 34 bytes of fields: number 3, of length 32, is the channel.
    bytes.extend([34, 3, 32]);
    bytes.extend(monitor.channel_id().0);
    ChannelMonitorUpdate::read(&mut Cursor::new(bytes)).ok()
}

/// What a monitor comes to: the channel, and the sealed monitor where it can be sealed.
fn seal(bytes: &[u8], keys: &KeysManager) -> Option<(LostChannel, Option<Vec<u8>>)> {
    let prefix = MONITOR_UPDATING_PERSISTER_PREPEND_SENTINEL;
    let inner = bytes.strip_prefix(prefix).unwrap_or(bytes);
    let (_, monitor) =
        <(BlockHash, ChannelMonitor<InMemorySigner>)>::read(&mut Cursor::new(inner), (keys, keys))
            .ok()?;
    let mut channel = LostChannel {
        channel_id: monitor.channel_id().to_string(),
        peer_node_id: monitor.get_counterparty_node_id().to_string(),
        funding_outpoint: monitor
            .get_funding_txo()
            .into_bitcoin_outpoint()
            .to_string(),
        is_watched: false,
    };
    // One that has lived may hold HTLCs, for whose sake LDK would broadcast an old state.
    if monitor.get_latest_update_id() != 0 {
        return Some((channel, None));
    }
    let silent = Silent::default();
    let sealed = sealing(&monitor).is_some_and(|update| {
        monitor
            .update_monitor(&update, &&silent, &&silent, &&silent)
            .is_ok()
    });
    let asked = silent.0.lock().map_or(true, |asked| *asked);
    if !sealed || asked || monitor.get_latest_update_id() != 1 {
        return Some((channel, None));
    }
    channel.is_watched = true;
    Some((channel, Some([prefix, &monitor.encode()].concat())))
}

/// ldk-node archives what seems to be empty, and a channel that was born with nothing of ours in
/// it seems so until it is closed. This says that it was just done, at a height that never comes.
fn never_archive() -> KeyValueWrite {
    let mut value = vec![6, 10, 4];
    value.extend(4_000_000_000_u32.to_be_bytes());
    KeyValueWrite::Put {
        path: KeyPath {
            primary: String::new(),
            secondary: String::new(),
            key: "node_metrics".to_owned(),
        },
        value,
    }
}

/// Puts sealed monitors in the place of all channel state, and makes a locked node startable.
/// Answers the channels.
pub(super) async fn recover(
    config: &LdkConfig,
    state: &dyn KeyValue,
) -> Result<Vec<LostChannel>, LightningError> {
    let (channels, mut instead) = lost(config, state).await?;
    instead.push(never_archive());
    match state.forget_channels(instead).await.map_err(failed)? {
        true => Ok(channels),
        false => Err(refused(
            "the node's state is not locked: there is nothing to recover",
        )),
    }
}

/// The channels there were, and the sealed monitors of those that can be watched.
pub(super) async fn lost(
    config: &LdkConfig,
    state: &dyn KeyValue,
) -> Result<(Vec<LostChannel>, Vec<KeyValueWrite>), LightningError> {
    let keys = keys(config)?;
    let (mut channels, mut instead) = (Vec::new(), Vec::new());
    for key in state
        .list(FACTS.to_owned(), String::new())
        .await
        .map_err(failed)?
    {
        let path = |primary: &str| KeyPath {
            primary: primary.to_owned(),
            secondary: String::new(),
            key: key.clone(),
        };
        let Some(value) = state.read(path(FACTS)).await.map_err(failed)? else {
            continue;
        };
        let Some((channel, sealed)) = seal(&value, &keys) else {
            return Err(refused(format!(
                "what is kept of channel {key} cannot be read"
            )));
        };
        channels.push(channel);
        if let Some(value) = sealed {
            let path = path(CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE);
            instead.push(KeyValueWrite::Put { path, value });
        }
    }
    Ok((channels, instead))
}

fn failed(error: StoreError) -> LightningError {
    refused(error.to_string())
}
