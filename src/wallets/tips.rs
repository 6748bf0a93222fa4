//! Which of two views of the chain is the later one.
//!
//! Two rounds may overlap, of two instances or behind a store that stalls, and a server behind a
//! proxy may be two of which one lags. What an older view has told after a newer one would take a
//! settled payment away. So a round says which tip it has seen before it tells anything, and tells
//! only while nobody has said another one. A tip among the last blocks that were seen before is older;
//! one on another branch is a reorganisation, however low it is. After hours without another block
//! a tip is believed that was made just now: what was seen last may have been another chain's, of a
//! server that was asked by mistake. That of a node that reads its chain anew was made long ago.

use super::Wallets;
use crate::Error;
use crate::chain::{BlockId, ChainError, ChainSource};
use crate::core::{Core, LastBlocks, SeenTip};

/// How many of the last blocks are kept: a chain that is shorter by more comes through when it has
/// grown as high as the lowest of them.
const KEPT: usize = 6;
/// For how long a tip is older that is lower than those that were seen. So long no half of a server
/// lags, and so long without a block no chain is but one that nobody mines.
const OLDER_MS: i64 = 3 * 3_600_000;
/// How often it is written down anew when others do at the same time.
const TRIES: usize = 5;

/// How a tip stands to the blocks that were seen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// It is the last of them.
    Same,
    /// It is one before it, or lower than all that are kept.
    Older,
    /// It is above them, or on another branch.
    Newer,
}

fn sight(known: &LastBlocks, tip: BlockId) -> Sight {
    let blocks = &known.blocks;
    match (blocks.first(), blocks.last()) {
        (_, Some(last)) if *last == tip => Sight::Same,
        (Some(first), _) if tip.height < first.height || blocks.contains(&tip) => Sight::Older,
        _ => Sight::Newer,
    }
}

impl Wallets {
    /// Writes down the tip of a view that is about to be told.
    ///
    /// # Errors
    /// `chain.moved` for a view of an older tip, or of one that is in the best chain no more.
    pub(super) async fn seen_tip(
        &self,
        source: &dyn ChainSource,
        tip: BlockId,
    ) -> Result<SeenTip, Error> {
        for _ in 0..TRIES {
            let (known, before) = self.core.last_blocks().await?;
            let now_ms = self.core.clock.now_ms();
            match sight(&known, tip) {
                Sight::Same => return Ok(before),
                Sight::Older if !is_forgotten(source, &known, tip, now_ms).await? => break,
                Sight::Older | Sight::Newer => {}
            }
            let after = LastBlocks {
                blocks: below(source, &known.blocks, tip).await?,
                seen_at_ms: now_ms,
            };
            let step = Core::write_last_blocks(&after, before)?;
            match self.core.commit(vec![step]).await {
                Err(Error::Ledger(refusal)) if refusal.should_decide_again() => {}
                other => drop(other?),
            }
        }
        Err(ChainError::Moved.into())
    }
}

/// Whether what was seen last is no measure any more: nobody has seen a block for hours but this one,
/// and it was made within them.
async fn is_forgotten(
    source: &dyn ChainSource,
    known: &LastBlocks,
    tip: BlockId,
    now_ms: i64,
) -> Result<bool, ChainError> {
    if now_ms.saturating_sub(known.seen_at_ms) <= OLDER_MS {
        return Ok(false);
    }
    let header = source.header(tip.hash).await?;
    let made_ms = header.map_or(0, |header| i64::from(header.time).saturating_mul(1_000));
    Ok(now_ms.saturating_sub(made_ms) <= OLDER_MS)
}

/// The last blocks up to a tip by the source, which judges what is in the best chain; it is asked down
/// to the first one that was known.
async fn below(
    source: &dyn ChainSource,
    known: &[BlockId],
    tip: BlockId,
) -> Result<Vec<BlockId>, ChainError> {
    let mut blocks = Vec::new();
    let kept = u32::try_from(KEPT).unwrap_or(u32::MAX);
    let lowest = tip.height.saturating_sub(kept.saturating_sub(1));
    for height in (lowest..=tip.height).rev() {
        let hash = source.block_hash(height).await?.ok_or(ChainError::Moved)?;
        let block = BlockId { height, hash };
        if height == tip.height && block != tip {
            return Err(ChainError::Moved);
        }
        if let Some(at) = known.iter().position(|known| *known == block) {
            let rest = known.iter().take(at.saturating_add(1)).rev();
            blocks.extend(rest.take(KEPT.saturating_sub(blocks.len())));
            break;
        }
        blocks.push(block);
    }
    blocks.reverse();
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use bitcoin::BlockHash;
    use bitcoin::hashes::Hash;

    use super::*;

    fn block(height: u32, branch: u8) -> BlockId {
        let hash = BlockHash::from_byte_array([branch; 32]);
        BlockId { height, hash }
    }

    #[test]
    fn an_ancestor_is_older_and_another_branch_is_not() {
        let known = LastBlocks {
            blocks: vec![block(8, 1), block(9, 1), block(10, 1)],
            seen_at_ms: 1_000,
        };
        for (tip, expected) in [
            (block(10, 1), Sight::Same),
            (block(11, 1), Sight::Newer),
            (block(9, 1), Sight::Older),
            (block(8, 1), Sight::Older),
            (block(7, 1), Sight::Older),
            // Shorter, and another one.
            (block(9, 2), Sight::Newer),
            (block(8, 2), Sight::Newer),
            (block(10, 2), Sight::Newer),
        ] {
            assert_eq!(sight(&known, tip), expected, "{tip:?}");
        }
        assert_eq!(sight(&LastBlocks::default(), block(3, 1)), Sight::Newer);
    }
}
