//! Looking: from where, until the chain keeps still, and since when what is seen was there.

use std::collections::BTreeSet;

use bitcoin::{OutPoint, Transaction, Txid};

use super::model::Coin;
use crate::chain::{BlockId, ChainError, ChainSource, Standing, View, Watch};

/// How often a look is repeated when the chain changes under it.
const LOOKS: usize = 5;
/// The most transactions that are asked about for what they hand on.
const MAX_PARENTS: usize = 50;
/// How far back a source that reads blocks begins again after a reorganisation.
const REWIND: u32 = 100;

/// Where a source that reads blocks goes on: behind the last block that was read, or some blocks
/// before it where that one is in the best chain no more.
pub(super) async fn since(
    source: &dyn ChainSource,
    through: Option<BlockId>,
) -> Result<Option<BlockId>, ChainError> {
    let Some(through) = through else {
        return Ok(None);
    };
    if source.block_hash(through.height).await? == Some(through.hash) {
        return Ok(Some(through));
    }
    let tip = source.tip().await?;
    let height = through.height.min(tip.height).saturating_sub(REWIND);
    let hash = source.block_hash(height).await?.ok_or(ChainError::Moved)?;
    Ok(Some(BlockId { height, hash }))
}

/// How far a round has read for every script there is. An address that was given out during the
/// round is not among its scripts, and may be paid in a block that the round has read: so no further
/// than the tip was before the scripts were read; `None` where that is in the best chain no more.
pub(super) async fn read_through(
    source: &dyn ChainSource,
    begun: BlockId,
    through: BlockId,
) -> Result<Option<BlockId>, ChainError> {
    if source.block_hash(begun.height).await? != Some(begun.hash) {
        return Ok(None);
    }
    Ok(Some(if through.height < begun.height {
        through
    } else {
        begun
    }))
}

/// Looks until the chain keeps still, and sees to it that every block it names is in the best
/// chain: a server behind a proxy may be two.
pub(super) async fn look(source: &dyn ChainSource, watch: &Watch) -> Result<View, ChainError> {
    let mut looked = Err(ChainError::Moved);
    for _ in 0..LOOKS {
        looked = match source.look(watch).await {
            Ok(view) => proven(source, view).await,
            Err(error) => Err(error),
        };
        if looked != Err(ChainError::Moved) {
            break;
        }
    }
    looked
}

async fn proven(source: &dyn ChainSource, view: View) -> Result<View, ChainError> {
    let seen = view.seen.iter().filter_map(|seen| seen.block);
    let known = view.standing.iter().filter_map(|(_, block)| *block);
    let blocks: BTreeSet<BlockId> = seen.chain(known).collect();
    for block in blocks {
        if source.block_hash(block.height).await? != Some(block.hash) {
            return Err(ChainError::Moved);
        }
    }
    Ok(view)
}

/// Since when a coin is known to be, where nobody looked before: as long as its block says. What
/// was paid in time while the engine was down is in time. The word is the miner's, which consensus
/// keeps behind the median of the eleven blocks before it and within two hours of now.
pub(super) async fn known_since(source: &dyn ChainSource, coin: &Coin) -> Result<i64, ChainError> {
    let Standing::Confirmed { block } = coin.standing else {
        return Ok(i64::MAX);
    };
    let header = source.header_at(block.height).await?;
    let header = header.filter(|header| header.block_hash() == block.hash);
    let header = header.ok_or(ChainError::Moved)?;
    Ok(i64::from(header.time) * 1_000)
}

/// True of a waiting transaction that spends what waits itself: one that says of itself that it may be
/// replaced takes with it what spends it (BIP 125 calls that inherited). So it is where nobody says
/// that all it spends is in blocks.
pub(super) async fn inherits(source: &dyn ChainSource, transaction: &Transaction) -> bool {
    let parents = transaction.input.iter().map(|it| it.previous_output.txid);
    let parents: BTreeSet<Txid> = parents.collect();
    if parents.len() > MAX_PARENTS {
        return true;
    }
    for parent in parents {
        if source.waits(parent).await != Ok(Some(false)) {
            return true;
        }
    }
    false
}

/// The transaction that spends a coin, where it was seen just now.
pub(super) fn spending<'a>(coin: &Coin, view: &'a View) -> Option<&'a Transaction> {
    let by = coin.spent_by.as_ref()?;
    let mut seen = view.seen.iter().map(|seen| &seen.transaction);
    seen.find(|transaction| transaction.compute_txid().to_string() == by.txid)
}

pub(super) fn inputs_of(transaction: &Transaction) -> Vec<OutPoint> {
    let inputs = transaction.input.iter();
    inputs.map(|input| input.previous_output).collect()
}
