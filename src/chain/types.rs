//! What is asked of the chain, and what it answers.

use std::collections::BTreeSet;

use bitcoin::consensus::deserialize;
use bitcoin::hashes::{Hash, HashEngine, sha256d};
use bitcoin::{BlockHash, OutPoint, ScriptBuf, Transaction, TxMerkleNode, Txid};
use serde::{Deserialize, Serialize};

use super::ChainError;

/// A block by its place and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// Genesis is 0.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

/// A block as it is written in a record: the hash in hex, in the order in which people see it.
#[derive(Serialize, Deserialize)]
struct BlockText {
    height: u32,
    hash: String,
}

impl Serialize for BlockId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (height, hash) = (self.height, self.hash.to_string());
        BlockText { height, hash }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BlockId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let BlockText { height, hash } = BlockText::deserialize(deserializer)?;
        let hash = hash.parse().map_err(serde::de::Error::custom)?;
        Ok(Self { height, hash })
    }
}

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Scripts that are ours.
    pub scripts: Vec<ScriptBuf>,
    /// Coins of ours that nothing had spent.
    pub coins: Vec<OutPoint>,
    /// Transactions that were seen before and of which it matters what became.
    pub known: Vec<KnownTransaction>,
    /// The last block that was read before, which the caller has seen in the best chain. A source
    /// with an index by script may ignore it; one that reads blocks begins behind it, or with
    /// the tip where there is none.
    pub since: Option<BlockId>,
}

/// A transaction that was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTransaction {
    /// Its id.
    pub txid: Txid,
    /// What it spends.
    pub inputs: Vec<OutPoint>,
    /// The block it was last seen in.
    pub block: Option<BlockId>,
}

/// A transaction that concerns the watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenTransaction {
    /// The whole of it.
    pub transaction: Transaction,
    /// The block that has it; `None` while it waits in the mempool.
    pub block: Option<BlockId>,
}

/// What the chain looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The last block of the best chain.
    pub tip: BlockId,
    /// The last block that was read: the tip, or one before it where there is more than one look
    /// reads. What is in none of the blocks up to here, and not in the mempool, may be in a later
    /// one.
    pub through: BlockId,
    /// The known transactions that are still there, and where. One that is in a block up to
    /// `through`, or in the mempool, is named here or among the seen.
    pub standing: Vec<(Txid, Option<BlockId>)>,
    /// Everything else that was found.
    pub seen: Vec<SeenTransaction>,
    /// What the source could not tell.
    pub missed: Missed,
}

/// What a look could not tell of: it is neither there nor gone. One script that a server refuses to
/// speak of, however it came to that, keeps nobody from seeing the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// Scripts whose history the source did not get, and why not.
    pub scripts: Vec<(ScriptBuf, ChainError)>,
    /// Scripts that were not asked for any more, because the source stopped answering.
    pub unasked: Vec<ScriptBuf>,
    /// Known transactions of which it is not known what became.
    pub transactions: BTreeSet<Txid>,
    /// Why not all that waits in the mempool was read.
    pub mempool: Option<ChainError>,
}

impl View {
    /// True when everything up to the tip was read.
    pub fn is_complete(&self) -> bool {
        self.through == self.tip
    }
}

/// What a transaction has to pay, in satoshis for a thousand virtual bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeeRates {
    /// To be in one of the next two blocks.
    pub fast_sat_per_kvb: u64,
    /// To be in a block within the hour.
    pub normal_sat_per_kvb: u64,
    /// To be in a block within the day.
    pub slow_sat_per_kvb: u64,
}

/// The way from a transaction to the Merkle root in its block's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerkleBranch {
    /// Where the transaction stands in the block, from zero.
    pub position: u32,
    /// What it is hashed together with, from the bottom to the top.
    pub siblings: Vec<TxMerkleNode>,
}

impl MerkleBranch {
    /// The branch of a block's transaction.
    pub fn of(txids: &[Txid], position: usize) -> Option<Self> {
        txids.get(position)?;
        let mut row: Vec<TxMerkleNode> = txids.iter().map(|txid| (*txid).into()).collect();
        let (mut at, mut siblings) = (position, Vec::new());
        while row.len() > 1 {
            // The last of an odd row stands beside itself.
            let last = row.last().copied()?;
            siblings.push(row.get(at ^ 1).copied().unwrap_or(last));
            row = row
                .chunks(2)
                .filter_map(|pair| {
                    let left = pair.first()?;
                    Some(parent(*left, pair.get(1).copied().unwrap_or(*left)))
                })
                .collect();
            at /= 2;
        }
        let position = u32::try_from(position).ok()?;
        Some(Self { position, siblings })
    }

    /// The root that the branch leads to from `txid`: it proves that the block has the
    /// transaction when it is the one in the block's header. `None` for a branch that cannot be
    /// one, since a block has less than 2^32 transactions; and for one on which two hashes side
    /// by side can be read as a transaction of 64 bytes. That may be what the block has, made so
    /// that its halves name what was never paid: what is below it is proven by nothing. By chance
    /// it is once in a thousand million pairs.
    pub fn root(&self, txid: Txid) -> Option<TxMerkleNode> {
        let depth = u32::try_from(self.siblings.len()).ok()?;
        if depth > 31 || self.position >> depth != 0 {
            return None;
        }
        let (mut node, mut at) = (TxMerkleNode::from(txid), self.position);
        for sibling in &self.siblings {
            let (left, right) = if at & 1 == 0 {
                (node, *sibling)
            } else {
                (*sibling, node)
            };
            if is_transaction(left, right) {
                return None;
            }
            node = parent(left, right);
            at >>= 1;
        }
        Some(node)
    }
}

fn is_transaction(left: TxMerkleNode, right: TxMerkleNode) -> bool {
    let pair = [left.to_byte_array(), right.to_byte_array()].concat();
    deserialize::<Transaction>(&pair).is_ok()
}

fn parent(left: TxMerkleNode, right: TxMerkleNode) -> TxMerkleNode {
    let mut engine = sha256d::Hash::engine();
    engine.input(left.as_byte_array());
    engine.input(right.as_byte_array());
    TxMerkleNode::from_raw_hash(sha256d::Hash::from_engine(engine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_branch_leads_to_the_root_that_bitcoin_computes() {
        for count in 1..=17_u8 {
            let txids: Vec<Txid> = (0..count).map(|n| Txid::from_byte_array([n; 32])).collect();
            let hashes = txids.iter().map(|txid| TxMerkleNode::from(*txid));
            let root = bitcoin::merkle_tree::calculate_root(hashes).unwrap();
            for (at, txid) in txids.iter().enumerate() {
                let branch = MerkleBranch::of(&txids, at).unwrap();
                assert_eq!(branch.root(*txid), Some(root), "{at} of {count}");
                let other = Txid::from_byte_array([99; 32]);
                assert_ne!(branch.root(other), Some(root));
            }
        }
        let beyond = MerkleBranch {
            position: 2,
            siblings: vec![TxMerkleNode::all_zeros()],
        };
        assert_eq!(beyond.root(Txid::all_zeros()), None);
        assert_eq!(MerkleBranch::of(&[], 0), None);
        // No block has so many transactions.
        for (depth, leads) in [(31, true), (32, false), (64, false)] {
            let deep = MerkleBranch {
                position: 0,
                siblings: vec![TxMerkleNode::all_zeros(); depth],
            };
            assert_eq!(deep.root(Txid::all_zeros()).is_some(), leads, "{depth}");
        }
    }
}
