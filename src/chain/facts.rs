//! What happened to an output, from what was known of it and what the chain says now. Pure.

use std::collections::BTreeSet;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use super::types::{BlockId, KnownTransaction, View};

/// How the transaction of an output stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "standing")]
pub enum Standing {
    /// It waits in the mempool.
    Waiting,
    /// A block of the best chain has it.
    Confirmed {
        /// Which.
        block: BlockId,
    },
    /// Neither.
    Gone {
        /// What spends its coins instead, where that is known.
        rival: Option<Rival>,
    },
}

/// A transaction that spends a coin of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rival {
    /// Its id, in hex.
    pub txid: String,
    /// The block that has it; `None` while it waits in the mempool.
    pub block: Option<BlockId>,
}

/// What happened to an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fact")]
pub enum Fact {
    /// It was seen for the first time: in the mempool, or in a block at once.
    Seen,
    /// A block has it.
    Confirmed {
        /// Which.
        block: BlockId,
    },
    /// The block that had it is in the best chain no more.
    ReorgedOut {
        /// Which.
        block: BlockId,
    },
    /// It was gone and is there again.
    Returned,
    /// It left the mempool because another transaction, which is not in a block, spends its coins.
    Replaced {
        /// By which.
        by: Rival,
    },
    /// A block has another transaction that spends its coins.
    DoubleSpent {
        /// By which.
        by: Rival,
    },
    /// It left the mempool, and nothing is known to spend its coins: it may come back.
    Dropped,
}

/// How many blocks confirm what stands like this: 0 in the mempool, `None` when it is gone.
pub fn confirmations(standing: &Standing, tip: BlockId) -> Option<u32> {
    match standing {
        Standing::Waiting => Some(0),
        Standing::Confirmed { block } => {
            Some(tip.height.saturating_sub(block.height).saturating_add(1))
        }
        Standing::Gone { .. } => None,
    }
}

/// How a transaction stands by what the chain says now; `None` when that cannot be told yet,
/// because not all blocks were read, or the source could not say.
pub fn standing(known: &KnownTransaction, view: &View) -> Option<Standing> {
    let places = view
        .standing
        .iter()
        .filter(|(txid, _)| *txid == known.txid)
        .map(|(_, block)| *block)
        .chain(
            view.seen
                .iter()
                .filter(|seen| seen.transaction.compute_txid() == known.txid)
                .map(|seen| seen.block),
        );
    // In a block outweighs in the mempool: two parts of an answer may be a moment apart.
    match places.max() {
        Some(Some(block)) => return Some(Standing::Confirmed { block }),
        Some(None) => return Some(Standing::Waiting),
        None => {}
    }
    let inputs: BTreeSet<_> = known.inputs.iter().collect();
    let rivals = view.seen.iter().filter(|seen| {
        let mut spends = seen.transaction.input.iter();
        spends.any(|input| inputs.contains(&input.previous_output))
    });
    let rival = rivals
        .map(|seen| Rival {
            txid: seen.transaction.compute_txid().to_string(),
            block: seen.block,
        })
        .max_by_key(|rival| rival.block.is_some());
    let is_told = view.is_complete() && !view.missed.transactions.contains(&known.txid);
    (rival.is_some() || is_told).then_some(Standing::Gone { rival })
}

/// What happened between two looks, in the order in which it happened; nothing when nothing did.
pub fn judge(before: Option<&Standing>, now: &Standing) -> Vec<Fact> {
    use Standing::{Confirmed, Gone, Waiting};
    let mut facts = Vec::new();
    match before {
        None => facts.push(Fact::Seen),
        Some(before) if before == now => return facts,
        Some(Confirmed { block }) => facts.push(Fact::ReorgedOut { block: *block }),
        Some(Gone { .. }) if !matches!(now, Gone { .. }) => facts.push(Fact::Returned),
        Some(Waiting | Gone { .. }) => {}
    }
    match now {
        Waiting => {}
        Confirmed { block } => facts.push(Fact::Confirmed { block: *block }),
        Gone { rival: None } => facts.push(Fact::Dropped),
        Gone { rival: Some(by) } if by.block.is_some() => {
            facts.push(Fact::DoubleSpent { by: by.clone() });
        }
        Gone { rival: Some(by) } => facts.push(Fact::Replaced { by: by.clone() }),
    }
    facts
}

impl Rival {
    /// The id as such; `None` for a record that was written by something else.
    pub fn id(&self) -> Option<Txid> {
        self.txid.parse().ok()
    }
}
