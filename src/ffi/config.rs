//! How an engine is opened.

#[cfg(feature = "testkit")]
use std::sync::Arc;

use super::FlashError;
use crate::Settings;
use crate::money::{Currency, Rate};
use crate::rates::FixedRates;

/// The network whose invoices are made and paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Network {
    /// The real one.
    Bitcoin,
    /// Testnet 3.
    Testnet,
    /// The public signet.
    Signet,
    /// A chain of one's own.
    Regtest,
}

impl Network {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bitcoin => "bitcoin",
            Self::Testnet => "testnet",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
        }
    }
}

/// What one bitcoin costs in a currency.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct FixedRate {
    /// ISO 4217: `JMD`.
    pub currency: String,
    /// The price of one bitcoin in the currency's major unit, as plain decimal text:
    /// `15000000.00`.
    pub rate: String,
    /// Who said so.
    pub source: String,
    /// When the source observed it, milliseconds since the epoch. It grows stale by this.
    pub observed_at_ms: i64,
}

impl FixedRate {
    /// Puts the rate into the table; refused as a whole when a part of it is no rate.
    pub(super) fn put(&self, table: &FixedRates) -> Result<(), FlashError> {
        let currency = Currency::from_code(&self.currency)?;
        let rate: Rate = self.rate.parse()?;
        table.set(currency, rate, &self.source, self.observed_at_ms);
        Ok(())
    }
}

/// The node behind the engine.
#[derive(Clone, uniffi::Enum)]
pub enum LightningConfig {
    /// None: everything works that stays in the books.
    NoNode,
    /// The engine's node on a simulated network. Its money lives as long as the network does, so
    /// the engine finds it again when the same file is opened again.
    #[cfg(feature = "testkit")]
    Simulated {
        /// The network. The engine's [`Network`] must be `Regtest`.
        lightning: Arc<super::SimulatedLightning>,
    },
    /// A node of its own in this process; its state is kept in the engine's file and its seed is
    /// derived from the master secret.
    #[cfg(feature = "ldk")]
    Ldk {
        /// Where the chain is read.
        chain_source: super::ChainSource,
        /// Where peers may connect, as `host:port`; empty for a node that only connects outwards.
        listening_addresses: Vec<String>,
        /// Peers (66 hex digits) whose anchor channels need no on-chain reserve of ours.
        trusted_peers_no_reserve: Vec<String>,
        /// Where the node writes its log; nowhere without it.
        log_file: Option<String>,
    },
}

/// How an engine is opened. It holds a secret: keep it out of logs.
#[derive(Clone, uniffi::Record)]
pub struct FlashkitConfig {
    /// The file with the books; made when it is not there. One engine at a time.
    pub database_path: String,
    /// 32 random bytes that the host keeps where the system keeps secrets. The books know them:
    /// with others they do not open.
    pub master_secret: Vec<u8>,
    /// The network. The books know it as well.
    pub network: Network,
    /// The node.
    pub lightning: LightningConfig,
    /// The rates to begin with; more by `set_rate`.
    #[uniffi(default = [])]
    pub rates: Vec<FixedRate>,
    /// Where the taps of newly written cards point, without scheme: `pay.example.com/boltcard`.
    #[uniffi(default = None)]
    pub tap_url: Option<String>,
    /// A rate observed longer ago than this is refused; two minutes by default.
    #[uniffi(default = None)]
    pub rate_max_age_ms: Option<i64>,
    /// How long a quote can be used; ten minutes by default.
    #[uniffi(default = None)]
    pub quote_validity_ms: Option<i64>,
    /// How long what was authorised on a card is set aside for its merchant; a day by default.
    #[uniffi(default = None)]
    pub authorization_ms: Option<i64>,
    /// How long a tap can be charged after it was first looked at; two minutes by default.
    #[uniffi(default = None)]
    pub tap_valid_ms: Option<i64>,
    /// The issuer key of cards that exist already, 16 bytes; by default it is derived from the
    /// master secret.
    #[uniffi(default = None)]
    pub card_issuer_key: Option<Vec<u8>>,
    /// Lets the node run although its state here seems not to be the newest there was
    /// (`lightning.stale_state`). **Only for a file that was moved as it was, with its engine
    /// stopped, and is used nowhere else**: on an older copy the node can lose all it has.
    #[uniffi(default = false)]
    pub trust_node_state: bool,
}

impl FlashkitConfig {
    pub(super) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        if let Some(tap_url) = &self.tap_url {
            settings.tap_url.clone_from(tap_url);
        }
        if let Some(max_age_ms) = self.rate_max_age_ms {
            settings.rates.max_age_ms = max_age_ms;
        }
        if let Some(validity_ms) = self.quote_validity_ms {
            settings.rates.quote_validity_ms = validity_ms;
        }
        if let Some(authorization_ms) = self.authorization_ms {
            settings.authorization_ms = authorization_ms;
        }
        if let Some(tap_valid_ms) = self.tap_valid_ms {
            settings.tap_valid_ms = tap_valid_ms;
        }
        settings
    }
}

/// Takes bytes that must be exactly so many.
pub(super) fn sized<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], FlashError> {
    bytes.try_into().map_err(|_| {
        let detail = format!("{field} is {N} bytes, not {}", bytes.len());
        FlashError::invalid("config.wrong_length", detail)
    })
}
