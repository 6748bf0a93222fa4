//! Which of two views of the chain is the later one.
//!
//! Two rounds may overlap, of two instances or behind a store that stalls, and a server behind a
//! proxy may be two of which one lags. What an older view has told after a newer one would take a
//! settled payment away. So a round says which tip it has seen before it tells anything, and tells
//! only while nobody has said another one. A tip among the last blocks that were seen before is older;
//! one on another branch is a reorganisation, however low it is.

use super::Wallets;
use crate::Error;
use crate::chain::{BlockId, ChainError, ChainSource};
use crate::core::{Core, LastBlocks, SeenTip};

/// How many of the last blocks are kept: a chain that is shorter by more comes through when it has
/// grown as high as the lowest of them.
const KEPT: usize = 6;
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

fn sight(known: &[BlockId], tip: BlockId) -> Sight {
    match (known.first(), known.last()) {
        (_, Some(last)) if *last == tip => Sight::Same,
        (Some(first), _) if tip.height < first.height || known.contains(&tip) => Sight::Older,
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
            match sight(&known.blocks, tip) {
                Sight::Same => return Ok(before),
                Sight::Older => break,
                Sight::Newer => {}
            }
            let after = LastBlocks {
                blocks: below(source, &known.blocks, tip).await?,
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
        let known = [block(8, 1), block(9, 1), block(10, 1)];
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
        assert_eq!(sight(&[], block(3, 1)), Sight::Newer);
    }
}
