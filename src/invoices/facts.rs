//! What is told of payments on chain: the records that the chain's watcher and the invoices meet
//! at.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One output of a transaction. As text `txid:vout`, the way explorers write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outpoint {
    /// The transaction's id as it is written, most significant byte first.
    pub txid: [u8; 32],
    /// Which of its outputs.
    pub vout: u32,
}

/// The text is not `txid:vout`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an outpoint is 64 hex digits, a colon and a number")]
pub struct ParseOutpointError;

impl fmt::Display for Outpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", hex::encode(self.txid), self.vout)
    }
}

impl fmt::Debug for Outpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Outpoint {
    type Err = ParseOutpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, vout) = text.split_once(':').ok_or(ParseOutpointError)?;
        let mut txid = [0; 32];
        hex::decode_to_slice(id, &mut txid).map_err(|_| ParseOutpointError)?;
        let is_number = !vout.is_empty() && vout.bytes().all(|byte| byte.is_ascii_digit());
        let vout = vout.parse().ok().filter(|_| is_number);
        let vout = vout.ok_or(ParseOutpointError)?;
        Ok(Self { txid, vout })
    }
}

impl Serialize for Outpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Outpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is true of one output to an address of an invoice, as far as the chain's watcher knows.
///
/// It is the whole truth of now and no difference to before: told twice, or after any other, it
/// comes to the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnChainFact {
    /// The output.
    pub outpoint: Outpoint,
    /// What it has.
    pub amount_sat: i64,
    /// When it was first known to be: seen in the mempool, or the time in its block's header where
    /// that is before; milliseconds since the epoch. This decides whether it is late, so that a
    /// payment which a block had in time is in time, however long nobody looked. One that was in
    /// no block yet when the engine came back is as old as it was first seen. Where the engine does not
    /// watch the chain itself it decides as well whether it was paid for this invoice at all: what is
    /// more than a day older was not.
    pub first_known_ms: i64,
    /// Where it is now.
    pub place: OnChainPlace,
}

/// Where a transaction is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum OnChainPlace {
    /// In the mempool, for the first time or again after its block was reorged away.
    Mempool {
        /// It says that it may be replaced (BIP 125): such a one never settles unconfirmed.
        replaceable: bool,
    },
    /// In a block of the best chain.
    Block {
        /// The block's height.
        height: u32,
        /// The block, 64 hex digits.
        hash: String,
        /// How many blocks are upon it, itself counted: at least 1.
        confirmations: u32,
    },
    /// In neither: replaced, double-spent, or forgotten by every mempool. It may come back.
    Gone {
        /// The transaction that took its inputs, 64 hex digits, where one is known.
        replaced_by: Option<String>,
    },
}
