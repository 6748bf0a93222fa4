//! The best chain: blocks, unspent outputs, and the indexes that Esplora answers from.

use std::collections::HashMap;

use bitcoin::block::Header;
use bitcoin::constants::genesis_block;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::script::Builder;
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, Network, OutPoint, Script, Target, Transaction, Txid,
    Weight,
};

use super::error::{BlockRefusal, TxRefusal};
use super::rules::{self, Coin, Position, Scripts};

/// The target of regtest, in the compact form of headers.
pub(super) const REGTEST_BITS: u32 = 0x207f_ffff;
/// Blocks between two halvings of the subsidy on regtest.
const HALVING_INTERVAL: u32 = 150;

/// A block of the best chain with what it takes to disconnect it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) block: Block,
    pub(super) hash: BlockHash,
    spent: Vec<(OutPoint, Coin)>,
}

/// The best chain, genesis included.
#[derive(Debug)]
pub(super) struct ChainState {
    links: Vec<Link>,
    heights: HashMap<BlockHash, u32>,
    stale: HashMap<BlockHash, Block>,
    coins: HashMap<OutPoint, Coin>,
    places: HashMap<Txid, (u32, usize)>,
    spenders: HashMap<OutPoint, (Txid, u32)>,
    histories: HashMap<sha256::Hash, Vec<Txid>>,
    connected_ever: u64,
}

impl ChainState {
    /// The genesis block of regtest alone. Its coinbase cannot be spent, by an old bug that
    /// became a rule.
    pub(super) fn new() -> Self {
        let block = genesis_block(Network::Regtest);
        let hash = block.block_hash();
        Self {
            places: block
                .txdata
                .iter()
                .enumerate()
                .map(|(index, tx)| (tx.compute_txid(), (0, index)))
                .collect(),
            links: vec![Link {
                block,
                hash,
                spent: Vec::new(),
            }],
            heights: HashMap::from([(hash, 0)]),
            stale: HashMap::new(),
            coins: HashMap::new(),
            spenders: HashMap::new(),
            histories: HashMap::new(),
            connected_ever: 0,
        }
    }

    pub(super) fn height(&self) -> u32 {
        u32::try_from(self.links.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    pub(super) fn link(&self, height: u32) -> Option<&Link> {
        self.links.get(usize::try_from(height).ok()?)
    }

    pub(super) fn tip_hash(&self) -> BlockHash {
        self.links
            .last()
            .map_or_else(BlockHash::all_zeros, |link| link.hash)
    }

    pub(super) fn tip_header(&self) -> Option<&Header> {
        self.links.last().map(|link| &link.block.header)
    }

    /// The height of a block of the best chain.
    pub(super) fn height_of(&self, hash: &BlockHash) -> Option<u32> {
        self.heights.get(hash).copied()
    }

    /// A block of the best chain or one that was disconnected.
    pub(super) fn block(&self, hash: &BlockHash) -> Option<&Block> {
        match self.height_of(hash) {
            Some(height) => self.link(height).map(|link| &link.block),
            None => self.stale.get(hash),
        }
    }

    /// A confirmed transaction with its height and its index in the block.
    pub(super) fn transaction(&self, txid: &Txid) -> Option<(&Transaction, u32, usize)> {
        let (height, index) = *self.places.get(txid)?;
        let tx = self.link(height)?.block.txdata.get(index)?;
        Some((tx, height, index))
    }

    pub(super) fn coin(&self, outpoint: &OutPoint) -> Option<&Coin> {
        self.coins.get(outpoint)
    }

    pub(super) fn coins(&self) -> impl Iterator<Item = (&OutPoint, &Coin)> {
        self.coins.iter()
    }

    /// The confirmed transaction that spends an output, and the index of its input.
    pub(super) fn spender(&self, outpoint: &OutPoint) -> Option<(Txid, u32)> {
        self.spenders.get(outpoint).copied()
    }

    /// The confirmed transactions that pay to or spend from a script, oldest first.
    pub(super) fn history(&self, script_hash: &sha256::Hash) -> &[Txid] {
        self.histories.get(script_hash).map_or(&[], Vec::as_slice)
    }

    /// A number that no block of this chain had before: without it an empty block made in the
    /// same second as the one it replaces would be that very block.
    pub(super) fn extra_nonce(&self) -> u64 {
        self.connected_ever
    }

    /// Where a transaction of the next block stands.
    pub(super) fn next(&self) -> Position {
        Position {
            height: self.height().saturating_add(1),
            median_time_past_secs: self.median_time_past(self.height()),
        }
    }

    /// The median of the times of the eleven blocks that end at `height`, in Unix seconds.
    pub(super) fn median_time_past(&self, height: u32) -> u32 {
        let end = usize::try_from(height).map_or(usize::MAX, |height| height.saturating_add(1));
        let mut times: Vec<u32> = self
            .links
            .iter()
            .take(end)
            .rev()
            .take(11)
            .map(|link| link.block.header.time)
            .collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(0)
    }

    /// The new money of a block.
    pub(super) fn subsidy(height: u32) -> Amount {
        let halvings = height / HALVING_INTERVAL;
        Amount::from_sat(5_000_000_000u64.checked_shr(halvings).unwrap_or(0))
    }

    /// Puts a block on the tip after checking everything about it. On refusal nothing changes.
    pub(super) fn connect(&mut self, block: Block, scripts: Scripts) -> Result<(), BlockRefusal> {
        let position = self.next();
        self.check_header(&block.header, position)?;
        check_contents(&block, position.height)?;
        let mut spent = Vec::new();
        let mut fees = Amount::ZERO;
        for (index, tx) in block.txdata.iter().enumerate() {
            let applied = self
                .check_in_block(tx, index, position, scripts)
                .map(|fee| fees = fees.checked_add(fee).unwrap_or(Amount::MAX_MONEY));
            if let Err(refusal) = applied {
                let txid = tx.compute_txid();
                self.unapply(block.txdata.get(..index).unwrap_or(&[]), spent);
                return Err(BlockRefusal::Transaction { txid, refusal });
            }
            self.apply(tx, index, position, &mut spent);
        }
        let paid = block
            .txdata
            .first()
            .and_then(|coinbase| rules::output_sum(coinbase).ok())
            .unwrap_or(Amount::MAX_MONEY);
        let allowed = Self::subsidy(position.height)
            .checked_add(fees)
            .unwrap_or(Amount::MAX_MONEY);
        if paid > allowed {
            self.unapply(&block.txdata, spent);
            return Err(BlockRefusal::CoinbaseOverpays {
                paid_sats: paid.to_sat(),
                allowed_sats: allowed.to_sat(),
            });
        }
        let hash = block.block_hash();
        self.heights.insert(hash, position.height);
        self.stale.remove(&hash);
        self.links.push(Link { block, hash, spent });
        self.connected_ever = self.connected_ever.saturating_add(1);
        Ok(())
    }

    /// Takes the tip off. The genesis block stays.
    pub(super) fn disconnect(&mut self) -> Option<Block> {
        if self.links.len() < 2 {
            return None;
        }
        let link = self.links.pop()?;
        self.heights.remove(&link.hash);
        self.unapply(&link.block.txdata, link.spent);
        self.stale.insert(link.hash, link.block.clone());
        Some(link.block)
    }

    fn check_header(&self, header: &Header, position: Position) -> Result<(), BlockRefusal> {
        if header.prev_blockhash != self.tip_hash() {
            return Err(BlockRefusal::NotOnTip {
                previous: header.prev_blockhash,
            });
        }
        let target = Target::from_compact(CompactTarget::from_consensus(REGTEST_BITS));
        if header.validate_pow(target).is_err() {
            return Err(BlockRefusal::ProofOfWork);
        }
        if header.time <= position.median_time_past_secs {
            return Err(BlockRefusal::TimeTooOld {
                time_secs: header.time,
                median_time_past_secs: position.median_time_past_secs,
            });
        }
        Ok(())
    }

    fn check_in_block(
        &self,
        tx: &Transaction,
        index: usize,
        position: Position,
        scripts: Scripts,
    ) -> Result<Amount, TxRefusal> {
        if index == 0 {
            return Ok(Amount::ZERO);
        }
        rules::check_shape(tx)?;
        let coins = tx
            .input
            .iter()
            .map(|input| self.spendable(&input.previous_output).cloned())
            .collect::<Result<Vec<Coin>, TxRefusal>>()?;
        rules::check_spend(tx, &coins, position, scripts)
    }

    /// The unspent output, or why there is none.
    pub(super) fn spendable(&self, outpoint: &OutPoint) -> Result<&Coin, TxRefusal> {
        match (self.coin(outpoint), self.spender(outpoint)) {
            (Some(coin), _) => Ok(coin),
            (None, Some((by, _))) => Err(TxRefusal::InputSpent {
                outpoint: *outpoint,
                by,
            }),
            (None, None) => Err(TxRefusal::MissingInput {
                outpoint: *outpoint,
            }),
        }
    }

    fn apply(
        &mut self,
        tx: &Transaction,
        index: usize,
        position: Position,
        spent: &mut Vec<(OutPoint, Coin)>,
    ) {
        let txid = tx.compute_txid();
        self.places.insert(txid, (position.height, index));
        for (vin, input) in (0u32..).zip(&tx.input) {
            if let Some(coin) = self.coins.remove(&input.previous_output) {
                self.remember(&coin.output.script_pubkey, txid);
                self.spenders.insert(input.previous_output, (txid, vin));
                spent.push((input.previous_output, coin));
            }
        }
        for (outpoint, output) in rules::outputs_of(tx) {
            self.remember(&output.script_pubkey, txid);
            if !output.script_pubkey.is_op_return() {
                let coin = Coin {
                    output: output.clone(),
                    height: position.height,
                    coinbase: index == 0,
                    time_before_secs: position.median_time_past_secs,
                };
                self.coins.insert(outpoint, coin);
            }
        }
    }

    fn unapply(&mut self, transactions: &[Transaction], spent: Vec<(OutPoint, Coin)>) {
        for (outpoint, coin) in spent {
            if let Some((txid, _)) = self.spenders.remove(&outpoint) {
                self.forget(&coin.output.script_pubkey, txid);
            }
            self.coins.insert(outpoint, coin);
        }
        // Last, because a block may spend what it made: the line above put that back too.
        for tx in transactions {
            self.places.remove(&tx.compute_txid());
            for (outpoint, output) in rules::outputs_of(tx) {
                self.coins.remove(&outpoint);
                self.forget(&output.script_pubkey, outpoint.txid);
            }
        }
    }

    fn remember(&mut self, script: &Script, txid: Txid) {
        let history = self.histories.entry(script_hash(script)).or_default();
        if history.last() != Some(&txid) {
            history.push(txid);
        }
    }

    fn forget(&mut self, script: &Script, txid: Txid) {
        if let Some(history) = self.histories.get_mut(&script_hash(script)) {
            history.retain(|known| *known != txid);
        }
    }
}

/// The name of a script in Electrum's and Esplora's protocols: the SHA-256 of its bytes.
pub(super) fn script_hash(script: &Script) -> sha256::Hash {
    sha256::Hash::hash(script.as_bytes())
}

/// What the coinbase's input script must start with (BIP34).
pub(super) fn height_prefix(height: u32) -> Vec<u8> {
    Builder::new()
        .push_int(i64::from(height))
        .into_script()
        .into_bytes()
}

fn check_contents(block: &Block, height: u32) -> Result<(), BlockRefusal> {
    if !block.check_merkle_root() || !block.check_witness_commitment() {
        return Err(BlockRefusal::Commitment);
    }
    if block.weight() > Weight::MAX_BLOCK {
        return Err(BlockRefusal::TooHeavy);
    }
    let names_height = block.txdata.first().is_some_and(|coinbase| {
        let script = coinbase.input.first().map(|input| &input.script_sig);
        coinbase.is_coinbase()
            && script.is_some_and(|script| {
                (2..=100).contains(&script.len())
                    && script.as_bytes().starts_with(&height_prefix(height))
            })
    });
    if names_height {
        Ok(())
    } else {
        Err(BlockRefusal::Coinbase)
    }
}
