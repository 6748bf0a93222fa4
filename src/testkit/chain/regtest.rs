//! The chain in this process.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::hashes::sha256;
use bitcoin::{Amount, Block, BlockHash, Transaction, Txid, Weight};

use super::error::{BlockRefusal, ChainError};
use super::log::{ChainLog, Record};
use super::mempool::Mempool;
use super::miner::make_block;
use super::rules::Scripts;
use super::state::{ChainState, script_hash};
use super::wallet::{self, OwnCoin};
use crate::ports::{Clock, SystemClock};

/// Leaves room in a block for header and coinbase, in weight units.
const BLOCK_ROOM: Weight = Weight::from_wu(3_900_000);
/// The height at which the first coinbase can be spent in the next block, with one to spare.
const FUNDED_HEIGHT: u32 = 101;

/// A regtest chain with its mempool and miner in this process.
///
/// Every call holds one lock and ends quickly, one flush to the disk included where the chain has
/// a folder; so they may be made from async code. [`RegtestChain::serve`] gives nodes access.
pub struct RegtestChain {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    withheld: Mutex<Withheld>,
}

/// What the servers of a chain do not tell. Nothing that outlives the process.
#[derive(Default)]
struct Withheld {
    histories: BTreeSet<sha256::Hash>,
    mempool: bool,
}

struct Inner {
    chain: ChainState,
    mempool: Mempool,
    log: Option<ChainLog>,
    /// A failed write leaves memory ahead of the disk: from then on nothing is told to anybody.
    broken: bool,
}

impl std::fmt::Debug for RegtestChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tip = self.read(|chain, _| (chain.height(), chain.tip_hash()));
        f.debug_tuple("RegtestChain").field(&tip).finish()
    }
}

impl RegtestChain {
    /// A new chain that ends with this value.
    pub fn in_memory() -> Self {
        Self {
            inner: Mutex::new(Inner::new(None)),
            clock: Arc::new(SystemClock),
            withheld: Mutex::default(),
        }
    }

    /// The chain that is kept in `folder` (file `chain.log`), or a new one. The process may be
    /// killed at any moment: whatever anybody was told is there at the next open.
    ///
    /// # Errors
    /// [`ChainError::LogIo`], [`ChainError::LogInUse`] while another value or process has the
    /// folder open, [`ChainError::LogDamaged`] when the file was changed by something else.
    pub fn open(folder: &Path) -> Result<Self, ChainError> {
        let (log, records) = ChainLog::open(folder)?;
        let mut inner = Inner::new(None);
        for (offset, record) in records {
            inner.replay(record).map_err(|_| log.unfit(offset))?;
        }
        inner.log = Some(log);
        Ok(Self {
            inner: Mutex::new(inner),
            clock: Arc::new(SystemClock),
            withheld: Mutex::default(),
        })
    }

    /// The same chain with block times from another clock. Times never decrease, and stay above
    /// the median of the last eleven blocks, whatever the clock says.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The servers of this chain refuse the history of an address from now on, or tell it again: as
    /// real ones refuse one that is too long.
    ///
    /// # Errors
    /// [`ChainError::InvalidAddress`].
    pub fn withhold_history(&self, address: &str, is_withheld: bool) -> Result<(), ChainError> {
        let hash = script_hash(&wallet::script_of(address)?);
        let histories = &mut self.withheld().histories;
        match is_withheld {
            true => histories.insert(hash),
            false => histories.remove(&hash),
        };
        Ok(())
    }

    /// The list of what waits in the mempool is refused by RPC from now on, or told again: as one
    /// that is longer than anybody reads.
    pub fn withhold_mempool(&self, is_withheld: bool) {
        self.withheld().mempool = is_withheld;
    }

    pub(super) fn is_history_withheld(&self, hash: &sha256::Hash) -> bool {
        self.withheld().histories.contains(hash)
    }

    pub(super) fn is_mempool_withheld(&self) -> bool {
        self.withheld().mempool
    }

    fn withheld(&self) -> MutexGuard<'_, Withheld> {
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mines `blocks` blocks, the first with the mempool. Returns their hashes.
    ///
    /// # Errors
    /// [`ChainError::LogIo`] and [`ChainError::LogBroken`].
    pub fn mine(&self, blocks: u32) -> Result<Vec<BlockHash>, ChainError> {
        let now = self.now_secs();
        self.usable()?.mine(blocks, now)
    }

    /// Checks a transaction as the next block would and takes it into the mempool. One that waits
    /// there already is answered with its id again.
    ///
    /// # Errors
    /// [`ChainError::Refused`], and the log's errors.
    pub fn submit(&self, tx: Transaction) -> Result<Txid, ChainError> {
        self.usable()?.submit(tx)
    }

    /// Pays `amount_sats` satoshis to a regtest address from the harness's coins, change back to
    /// itself. The payment waits in the mempool. Mines up to height 101 first if nothing is
    /// mature yet.
    ///
    /// # Errors
    /// [`ChainError::InvalidAddress`], [`ChainError::InsufficientFunds`],
    /// [`ChainError::Refused`] and the log's errors.
    pub fn fund(&self, address: &str, amount_sats: u64) -> Result<Txid, ChainError> {
        let script = wallet::script_of(address)?;
        let now = self.now_secs();
        let mut inner = self.usable()?;
        let height = inner.chain.height();
        if height < FUNDED_HEIGHT {
            inner.mine(FUNDED_HEIGHT - height, now)?;
        }
        let tx = wallet::pay(&inner.own_coins(), script, Amount::from_sat(amount_sats))?;
        inner.submit(tx)
    }

    /// Replaces the last `depth` blocks by `depth + 1` empty ones. Transactions of the replaced
    /// blocks wait in the mempool again as far as they are still valid.
    ///
    /// # Errors
    /// [`ChainError::ReorgTooDeep`] and the log's errors.
    pub fn reorg(&self, depth: u32) -> Result<(), ChainError> {
        let blocks = usize::try_from(depth).map_or(usize::MAX, |depth| depth.saturating_add(1));
        self.replace(depth, vec![Vec::new(); blocks])
    }

    /// Replaces the last `depth` blocks by one block for each item of `contents`, with these
    /// transactions in this order (their fees are burnt). The way to a reorganisation that
    /// confirms a double spend. The caller sees to it that the new chain is the longer one; nodes
    /// that ask this chain follow it either way.
    ///
    /// # Errors
    /// [`ChainError::ReorgTooDeep`], [`ChainError::BlockRefused`] with nothing changed, and the
    /// log's errors.
    pub fn replace(&self, depth: u32, contents: Vec<Vec<Transaction>>) -> Result<(), ChainError> {
        let now = self.now_secs();
        self.usable()?.replace(depth, contents, now)
    }

    /// The height of the tip; genesis is 0.
    ///
    /// # Errors
    /// [`ChainError::LogBroken`].
    pub fn height(&self) -> Result<u32, ChainError> {
        Ok(self.usable()?.chain.height())
    }

    /// The hash of the tip.
    ///
    /// # Errors
    /// [`ChainError::LogBroken`].
    pub fn tip_hash(&self) -> Result<BlockHash, ChainError> {
        Ok(self.usable()?.chain.tip_hash())
    }

    /// A block of the chain, or one that was replaced since this value was made.
    ///
    /// # Errors
    /// [`ChainError::LogBroken`].
    pub fn block(&self, hash: &BlockHash) -> Result<Option<Block>, ChainError> {
        self.read(|chain, _| chain.block(hash).cloned())
    }

    /// A transaction of the chain or the mempool.
    ///
    /// # Errors
    /// [`ChainError::LogBroken`].
    pub fn transaction(&self, txid: &Txid) -> Result<Option<Transaction>, ChainError> {
        self.read(|chain, mempool| {
            let confirmed = chain.transaction(txid).map(|(tx, _, _)| tx);
            confirmed.or_else(|| mempool.transaction(txid)).cloned()
        })
    }

    /// How many blocks confirm a transaction: 0 in the mempool, `None` where it is not known.
    ///
    /// # Errors
    /// [`ChainError::LogBroken`].
    pub fn confirmations(&self, txid: &Txid) -> Result<Option<u32>, ChainError> {
        self.read(|chain, mempool| match chain.transaction(txid) {
            Some((_, height, _)) => Some(chain.height().saturating_sub(height).saturating_add(1)),
            None => mempool.transaction(txid).map(|_| 0),
        })
    }

    /// The transactions of the mempool, oldest first.
    ///
    /// # Errors
    /// [`ChainError::LogBroken`].
    pub fn mempool_txids(&self) -> Result<Vec<Txid>, ChainError> {
        self.read(|_, mempool| mempool.txids().to_vec())
    }

    /// Reads chain and mempool as of one moment.
    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&ChainState, &Mempool) -> T,
    ) -> Result<T, ChainError> {
        let inner = self.usable()?;
        Ok(look(&inner.chain, &inner.mempool))
    }

    fn usable(&self) -> Result<MutexGuard<'_, Inner>, ChainError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.broken {
            return Err(ChainError::LogBroken);
        }
        Ok(inner)
    }

    fn now_secs(&self) -> u32 {
        u32::try_from(self.clock.now_ms() / 1_000).unwrap_or(0)
    }
}

impl Inner {
    fn new(log: Option<ChainLog>) -> Self {
        Self {
            chain: ChainState::new(),
            mempool: Mempool::default(),
            log,
            broken: false,
        }
    }

    fn mine(&mut self, blocks: u32, now_secs: u32) -> Result<Vec<BlockHash>, ChainError> {
        let mut connected = Vec::new();
        let mut outcome = Ok(());
        for _ in 0..blocks {
            let (transactions, fees) = self.mempool.select(BLOCK_ROOM);
            let payout = wallet::own_script();
            let block = make_block(&self.chain, transactions, fees, payout, now_secs);
            // What the mempool holds was verified when it came in.
            outcome = self.chain.connect(block.clone(), Scripts::Known);
            if outcome.is_err() {
                break;
            }
            self.mempool.rebuild(&self.chain, Vec::new());
            connected.push(block);
        }
        let hashes = connected.iter().map(Block::block_hash).collect();
        // Even after a refusal: what was connected before it is part of the chain.
        self.keep(&Record::Blocks {
            disconnected: 0,
            connected,
        })?;
        outcome?;
        Ok(hashes)
    }

    fn submit(&mut self, tx: Transaction) -> Result<Txid, ChainError> {
        let known = self.mempool.transaction(&tx.compute_txid()).is_some();
        let txid = self
            .mempool
            .accept(&self.chain, tx.clone(), Scripts::Verify)?;
        if !known {
            self.keep(&Record::Transaction(tx))?;
        }
        Ok(txid)
    }

    fn replace(
        &mut self,
        depth: u32,
        contents: Vec<Vec<Transaction>>,
        now_secs: u32,
    ) -> Result<(), ChainError> {
        let old = self.disconnect(depth)?;
        let mut connected = Vec::new();
        for transactions in contents {
            let payout = wallet::own_script();
            let block = make_block(&self.chain, transactions, Amount::ZERO, payout, now_secs);
            if let Err(refusal) = self.chain.connect(block.clone(), Scripts::Verify) {
                self.undo(connected.len(), old)?;
                return Err(refusal.into());
            }
            connected.push(block);
        }
        self.mempool.rebuild(&self.chain, returned(old));
        self.keep(&Record::Blocks {
            disconnected: depth,
            connected,
        })
    }

    /// Takes the last `depth` blocks off; the oldest of them comes first.
    fn disconnect(&mut self, depth: u32) -> Result<Vec<Block>, ChainError> {
        let height = self.chain.height();
        if depth > height {
            return Err(ChainError::ReorgTooDeep { depth, height });
        }
        let mut old: Vec<Block> = (0..depth).filter_map(|_| self.chain.disconnect()).collect();
        old.reverse();
        Ok(old)
    }

    fn undo(&mut self, connected: usize, old: Vec<Block>) -> Result<(), BlockRefusal> {
        for _ in 0..connected {
            self.chain.disconnect();
        }
        old.into_iter()
            .try_for_each(|block| self.chain.connect(block, Scripts::Known))
    }

    fn replay(&mut self, record: Record) -> Result<(), ChainError> {
        match record {
            Record::Transaction(tx) => {
                self.mempool.accept(&self.chain, tx, Scripts::Verify)?;
            }
            Record::Blocks {
                disconnected,
                connected,
            } => {
                let old = self.disconnect(disconnected)?;
                let mut back = returned(old);
                for block in connected {
                    self.chain.connect(block, Scripts::Verify)?;
                    // Step by step where blocks were mined, at the end of a reorganisation: the
                    // mempool must come out as it did the first time.
                    if disconnected == 0 {
                        self.mempool.rebuild(&self.chain, std::mem::take(&mut back));
                    }
                }
                self.mempool.rebuild(&self.chain, back);
            }
        }
        Ok(())
    }

    fn keep(&mut self, record: &Record) -> Result<(), ChainError> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        log.append(record).inspect_err(|_| self.broken = true)
    }

    /// What the harness can spend: its mature confirmed coins, then its waiting change.
    fn own_coins(&self) -> Vec<OwnCoin> {
        let script = wallet::own_script();
        let next_height = self.chain.next().height;
        let mut confirmed: Vec<(u32, OwnCoin)> = self
            .chain
            .coins()
            .filter(|(outpoint, coin)| {
                let mature = !coin.coinbase
                    || coin
                        .height
                        .saturating_add(bitcoin::constants::COINBASE_MATURITY)
                        <= next_height;
                coin.output.script_pubkey == script
                    && mature
                    && self.mempool.spender(outpoint).is_none()
            })
            .map(|(outpoint, coin)| {
                let own = OwnCoin {
                    outpoint: *outpoint,
                    value: coin.output.value,
                };
                (coin.height, own)
            })
            .collect();
        // The map has no order of its own: without one, two equal runs would differ.
        confirmed.sort_by_key(|(height, coin)| (*height, coin.outpoint));
        let waiting = self.mempool.transactions().flat_map(|tx| {
            super::rules::outputs_of(tx)
                .filter(|(outpoint, output)| {
                    output.script_pubkey == script && self.mempool.spender(outpoint).is_none()
                })
                .map(|(outpoint, output)| OwnCoin {
                    outpoint,
                    value: output.value,
                })
                .collect::<Vec<_>>()
        });
        let confirmed = confirmed.into_iter().map(|(_, coin)| coin);
        confirmed.chain(waiting).collect()
    }
}

/// The transactions of disconnected blocks that can wait again.
fn returned(blocks: Vec<Block>) -> Vec<Transaction> {
    blocks
        .into_iter()
        .flat_map(|block| block.txdata.into_iter().skip(1))
        .collect()
}
