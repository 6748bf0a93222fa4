//! The chain as the engine asks it: what pays to its scripts and what spends its coins.
//!
//! A [`ChainSource`] answers what *is*; what that means for an output that was seen before is told
//! by the pure [`judge`]. Nothing here trusts the records of a Lightning node's own wallet, which
//! keep payments that a reorganisation took away.

#[cfg(feature = "chain")]
pub mod answers;
#[cfg(feature = "chain")]
mod bitcoind;
#[cfg(feature = "chain")]
mod electrum;
mod error;
#[cfg(feature = "chain")]
mod esplora;
mod facts;
#[cfg(feature = "chain")]
mod http;
#[cfg(feature = "chain")]
mod looking;
mod types;

use async_trait::async_trait;
pub use bitcoin;
use bitcoin::block::Header;
use bitcoin::{BlockHash, ScriptBuf, Transaction, Txid};

#[cfg(feature = "chain")]
pub use bitcoind::Bitcoind;
#[cfg(feature = "chain")]
pub use electrum::Electrum;
pub use error::ChainError;
#[cfg(feature = "chain")]
pub use esplora::Esplora;
pub use facts::{Fact, Rival, Standing, confirmations, judge, standing};
pub use types::{
    BlockId, FeeRates, KnownTransaction, MerkleBranch, Missed, SeenTransaction, View, Watch,
};

/// The job that looks at the chain, and the one that broadcasts a spend.
pub(crate) const WATCH_JOB: &str = "chain.watch";
pub(crate) const BROADCAST_JOB: &str = "chain.broadcast";
pub(crate) const DRAIN_JOB: &str = "chain.drain_node";

/// Where the engine reads the chain and hands transactions in.
///
/// # Contract
/// - What one [`look`](Self::look) answers is of one tip: a chain that changes under it is
///   [`ChainError::Moved`].
/// - A transaction with a block was found in that block; without one it waits in the mempool.
/// - No call blocks the thread it is made on.
#[async_trait]
pub trait ChainSource: Send + Sync {
    /// True for a source that finds the payments of all scripts in one pass over the blocks, so
    /// that it must be given all scripts at once; false for one with an index by script.
    fn reads_blocks(&self) -> bool {
        false
    }

    /// The last block of the best chain.
    ///
    /// # Errors
    /// `chain.unreachable`, `chain.bad_answer`, as with every call here.
    async fn tip(&self) -> Result<BlockId, ChainError>;

    /// The hash of the best chain's block at a height; `None` above the tip.
    async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError>;

    /// The header of a block.
    async fn header(&self, block: BlockHash) -> Result<Option<Header>, ChainError>;

    /// The header of the best chain's block at a height; `None` above the tip.
    async fn header_at(&self, height: u32) -> Result<Option<Header>, ChainError> {
        match self.block_hash(height).await? {
            Some(block) => self.header(block).await,
            None => Ok(None),
        }
    }

    /// A transaction; `block` says where to find it, for a source without an index of them.
    async fn transaction(
        &self,
        txid: Txid,
        block: Option<BlockHash>,
    ) -> Result<Option<Transaction>, ChainError>;

    /// The way from a transaction to the Merkle root of its block's header; `None` where the
    /// block does not have it.
    async fn merkle_branch(
        &self,
        txid: Txid,
        block: BlockId,
    ) -> Result<Option<MerkleBranch>, ChainError>;

    /// Everything that pays to a script of the watch, spends one of its coins, or spends what a
    /// known transaction spends; and what became of the known transactions. What of that cannot be
    /// told is in [`View::missed`], and everything else is told.
    ///
    /// # Errors
    /// `chain.moved`, to be tried again at once, and those of every call.
    async fn look(&self, watch: &Watch) -> Result<View, ChainError>;

    /// Whether anything ever paid to a script; `None` where there is no index by script to say it.
    async fn was_paid(&self, script: &ScriptBuf) -> Result<Option<bool>, ChainError> {
        if self.reads_blocks() {
            return Ok(None);
        }
        let watch = Watch {
            scripts: vec![script.clone()],
            ..Watch::default()
        };
        let view = self.look(&watch).await?;
        match view.missed.scripts.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(Some(!view.seen.is_empty())),
        }
    }

    /// Whether a transaction waits in the mempool, of which another one spends that does; `None` where
    /// that is not told.
    async fn waits(&self, _txid: Txid) -> Result<Option<bool>, ChainError> {
        Ok(None)
    }

    /// Hands a transaction in. One that the network has already is no error.
    ///
    /// # Errors
    /// `chain.transaction_refused`; with `chain.unreachable` it may have been taken.
    async fn broadcast(&self, transaction: &Transaction) -> Result<(), ChainError>;

    /// What a transaction has to pay.
    ///
    /// # Errors
    /// `chain.no_fee_rate`.
    async fn fee_rates(&self) -> Result<FeeRates, ChainError>;
}
