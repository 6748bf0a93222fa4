//! The last blocks of the best chain as they were seen: whoever tells of it what an older view has is
//! kept from it.

use serde::{Deserialize, Serialize};

use super::Core;
use super::documents::Loaded;
#[cfg(feature = "chain")]
use super::documents::put;
use crate::Error;
use crate::chain::{BlockId, ChainError};
use crate::ledger::Step;

const LAST_BLOCKS: &str = "chain_last_blocks";

/// The last blocks of the best chain, the tip last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastBlocks {
    pub(crate) blocks: Vec<BlockId>,
    /// When they were written down; 0 by an earlier version.
    #[serde(default)]
    pub(crate) seen_at_ms: i64,
}

/// A tip that was seen, and that no other one was seen after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeenTip {
    pub(super) version: i64,
}

impl Core {
    /// Empty where none was seen yet.
    pub(crate) async fn last_blocks(&self) -> Result<(LastBlocks, SeenTip), Error> {
        let found: Option<Loaded<LastBlocks>> = self.load(LAST_BLOCKS, LAST_BLOCKS).await?;
        let version = found.as_ref().map_or(0, |found| found.version);
        let blocks = found.map(|found| found.value).unwrap_or_default();
        Ok((blocks, SeenTip { version }))
    }

    /// The step that writes down the blocks over those that were seen before.
    #[cfg(feature = "chain")]
    pub(crate) fn write_last_blocks(blocks: &LastBlocks, before: SeenTip) -> Result<Step, Error> {
        let (id, keys) = (LAST_BLOCKS.to_owned(), Vec::new());
        put(LAST_BLOCKS, id, before.version, blocks, keys)
    }

    /// The guard by which nobody has seen another tip since: what was seen at this one is told still.
    ///
    /// # Errors
    /// `chain.moved`.
    pub(crate) async fn still_at(&self, tip: SeenTip) -> Result<Step, Error> {
        let (_, now) = self.last_blocks().await?;
        if now != tip {
            return Err(ChainError::Moved.into());
        }
        Ok(Step::Require {
            collection: LAST_BLOCKS,
            id: LAST_BLOCKS.to_owned(),
            version: tip.version,
        })
    }
}
