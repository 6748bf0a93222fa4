//! What can go wrong on the chain, each case with the numbers that explain it.

use std::io;
use std::path::PathBuf;

use bitcoin::{BlockHash, OutPoint, Txid};

use super::rpc::RpcError;

/// Why a transaction was not taken into the mempool or a block. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxRefusal {
    /// It has no inputs or no outputs.
    #[error("a transaction needs at least one input and one output")]
    Empty,
    /// It is heavier than a node relays (400 000 weight units).
    #[error("the transaction weighs {weight} units, more than {limit}")]
    TooHeavy {
        /// Its weight, in weight units.
        weight: u64,
        /// The most that is relayed, in weight units.
        limit: u64,
    },
    /// A coinbase came by itself: only a block can hold one, as its first transaction.
    #[error("a coinbase is only valid as the first transaction of a block")]
    Coinbase,
    /// It spends the same output twice.
    #[error("the transaction spends {outpoint} twice")]
    DuplicateInput {
        /// The output named twice.
        outpoint: OutPoint,
    },
    /// The outputs sum to more money than can exist.
    #[error("an amount or a sum of amounts is out of range")]
    AmountOutOfRange,
    /// An output it spends is not known.
    #[error("the output {outpoint} does not exist")]
    MissingInput {
        /// The output that was not found.
        outpoint: OutPoint,
    },
    /// An output it spends was spent by a transaction that is in the chain.
    #[error("the output {outpoint} was spent by {by}, which is in the chain")]
    InputSpent {
        /// The output.
        outpoint: OutPoint,
        /// The transaction that spent it.
        by: Txid,
    },
    /// It spends a coinbase that is younger than 100 blocks.
    #[error("the coinbase output {outpoint} can be spent from height {spendable_at_height} on")]
    ImmatureCoinbase {
        /// The coinbase output.
        outpoint: OutPoint,
        /// The first height of a block that may spend it.
        spendable_at_height: u32,
    },
    /// It creates more money than it spends.
    #[error("the outputs ({outputs_sats} sats) exceed the inputs ({inputs_sats} sats)")]
    OutputsExceedInputs {
        /// The sum of what it spends, in satoshis.
        inputs_sats: u64,
        /// The sum of what it creates, in satoshis.
        outputs_sats: u64,
    },
    /// Its `nLockTime` is not reached by the next block.
    #[error("the lock time {lock_time} is not reached yet")]
    NotFinal {
        /// The lock time: a height below 500 000 000, Unix seconds from there on.
        lock_time: u32,
    },
    /// The relative lock (BIP68) of an input is not reached by the next block.
    #[error("the relative lock of input {input} is not reached yet")]
    RelativeLockNotReached {
        /// The index of the input.
        input: usize,
    },
    /// A script or signature did not verify.
    #[error("input {input} does not satisfy the script it spends")]
    ScriptFailed {
        /// The index of the input.
        input: usize,
    },
    /// An input spends a taproot output by a script, which this chain cannot verify.
    #[error("input {input} spends taproot by script, which this chain cannot verify")]
    TaprootScriptPath {
        /// The index of the input.
        input: usize,
    },
    /// It pays less than one satoshi per virtual byte.
    #[error("the fee of {fee_sats} sats is below the relay minimum of {required_sats} sats")]
    FeeBelowRelayMinimum {
        /// What it pays, in satoshis.
        fee_sats: u64,
        /// The least it must pay, in satoshis.
        required_sats: u64,
    },
    /// It conflicts with transactions of the mempool without paying more than they do.
    #[error("a replacement must pay at least {required_sats} sats, not {fee_sats} sats")]
    ReplacementUnderpays {
        /// One output both want to spend.
        outpoint: OutPoint,
        /// What it pays, in satoshis.
        fee_sats: u64,
        /// The least it must pay to replace them, in satoshis.
        required_sats: u64,
    },
    /// It spends an output of a transaction that it would replace.
    #[error("a replacement cannot spend {outpoint}, an output of what it replaces")]
    ReplacementSpendsReplaced {
        /// The output.
        outpoint: OutPoint,
    },
    /// It would evict more than 100 transactions.
    #[error("a replacement cannot evict {count} transactions")]
    ReplacesTooMany {
        /// How many it would evict.
        count: usize,
    },
    /// It is in the chain already.
    #[error("the transaction is in the chain already")]
    AlreadyConfirmed,
}

/// Why a block was not connected. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockRefusal {
    /// It does not build on the tip.
    #[error("the block builds on {previous}, not on the tip")]
    NotOnTip {
        /// The block it builds on.
        previous: BlockHash,
    },
    /// The proof of work is missing or for another target than regtest's `0x207fffff`.
    #[error("the proof of work does not hold")]
    ProofOfWork,
    /// Its time is not after the median of the last eleven blocks.
    #[error("the time {time_secs} is not after the median time past {median_time_past_secs}")]
    TimeTooOld {
        /// Its time, in Unix seconds.
        time_secs: u32,
        /// The median time past, in Unix seconds.
        median_time_past_secs: u32,
    },
    /// The merkle root or the witness commitment does not cover the transactions.
    #[error("the block does not commit to its transactions")]
    Commitment,
    /// The first transaction is no coinbase, or it does not start with the height (BIP34).
    #[error("the coinbase is missing or does not name the height")]
    Coinbase,
    /// The coinbase pays more than subsidy and fees.
    #[error("the coinbase pays {paid_sats} sats, more than {allowed_sats} sats")]
    CoinbaseOverpays {
        /// What it pays, in satoshis.
        paid_sats: u64,
        /// Subsidy and fees, in satoshis.
        allowed_sats: u64,
    },
    /// The block is heavier than 4 000 000 weight units.
    #[error("the block is too heavy")]
    TooHeavy,
    /// One of its transactions is not valid there.
    #[error("transaction {txid}: {refusal}")]
    Transaction {
        /// The transaction.
        txid: Txid,
        /// What is wrong with it.
        refusal: TxRefusal,
    },
}

/// Why the harness could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A transaction was refused.
    #[error("the transaction was refused: {0}")]
    Refused(#[from] TxRefusal),
    /// A block was refused.
    #[error("the block was refused: {0}")]
    BlockRefused(#[from] BlockRefusal),
    /// Not an address, or one of another network than regtest.
    #[error("{address} is not a regtest address")]
    InvalidAddress {
        /// What was given.
        address: String,
    },
    /// The harness has not enough mature coins.
    #[error("the harness has {available_sats} sats to spend, {needed_sats} sats are needed")]
    InsufficientFunds {
        /// What its spendable coins sum to, in satoshis.
        available_sats: u64,
        /// The amount and its fee, in satoshis.
        needed_sats: u64,
    },
    /// A reorganisation cannot go below the genesis block.
    #[error("cannot replace {depth} blocks of a chain of height {height}")]
    ReorgTooDeep {
        /// How many blocks were to be replaced.
        depth: u32,
        /// The height of the chain.
        height: u32,
    },
    /// The log could not be read or written.
    #[error("the chain log {path}: {source}")]
    LogIo {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("the chain log {path} is in use by another process")]
    LogInUse {
        /// The file.
        path: PathBuf,
    },
    /// The log is damaged before its end, which a crash cannot do.
    #[error("the chain log {path} is damaged at byte {offset}")]
    LogDamaged {
        /// The file.
        path: PathBuf,
        /// Where the unreadable record starts.
        offset: u64,
    },
    /// An earlier write to the log failed, so the chain serves nobody until it is opened again.
    #[error("an earlier write to the chain log failed; open the chain again")]
    LogBroken,
    /// The loopback port could not be bound.
    #[error("cannot listen on 127.0.0.1:{port}: {source}")]
    Bind {
        /// The port; 0 means any.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// `bitcoind` could not be started.
    #[error("cannot start {executable}: {source}")]
    BitcoindStart {
        /// What was started.
        executable: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `bitcoind` was started and did not answer in time.
    #[error("bitcoind did not answer within {waited_secs} s")]
    BitcoindNotReady {
        /// How long was waited, in seconds.
        waited_secs: u64,
    },
    /// `bitcoind` answered something that the harness cannot read.
    #[error("bitcoind answered {method} in an unknown shape")]
    BitcoindAnswer {
        /// The method that was called.
        method: &'static str,
    },
    /// A call to `bitcoind` failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The machine has no randomness for a password.
    #[error(transparent)]
    Entropy(#[from] crate::ports::EntropyError),
}
