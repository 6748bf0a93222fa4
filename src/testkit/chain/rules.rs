//! The rules a transaction must obey, in a block and on its own.
//!
//! Scripts are run by `libbitcoinconsensus` (Bitcoin Core 25.1) with P2SH, DERSIG, NULLDUMMY,
//! CLTV, CSV and segwit. That library knows no taproot and would let anybody spend a taproot
//! output, so the signature of a key-path spend (BIP341) is verified here and a script-path spend
//! is refused. Policy beyond consensus is only: weight, relay fee and the rules of replacement.

use std::collections::HashSet;

use bitcoin::absolute::LockTime;
use bitcoin::consensus::{serialize, verify_script};
use bitcoin::constants::COINBASE_MATURITY;
use bitcoin::key::Secp256k1;
use bitcoin::secp256k1::{Message, XOnlyPublicKey};
use bitcoin::sighash::{Annex, Prevouts, SighashCache};
use bitcoin::{Amount, OutPoint, Transaction, TxOut, relative, taproot};

use super::error::TxRefusal;

/// The heaviest transaction that is relayed, in weight units (`MAX_STANDARD_TX_WEIGHT`).
const MAX_TX_WEIGHT: u64 = 400_000;

/// An unspent output and where it was made.
#[derive(Debug, Clone)]
pub(super) struct Coin {
    /// The output.
    pub(super) output: TxOut,
    /// The height of its block; that of the next block while it is in the mempool.
    pub(super) height: u32,
    /// Whether a coinbase made it.
    pub(super) coinbase: bool,
    /// The median time past of the block before its own, in Unix seconds (BIP68).
    pub(super) time_before_secs: u32,
}

/// The block a transaction wants to be in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The height of that block.
    pub(super) height: u32,
    /// The median time past of the block before it, in Unix seconds (BIP113).
    pub(super) median_time_past_secs: u32,
}

/// Whether scripts are to be run, or were already for the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scripts {
    /// Run them.
    Verify,
    /// They were run before. What they say about a transaction never changes, because the
    /// transaction names the transactions whose outputs it spends by their contents.
    Known,
}

/// Checks what a transaction says by itself.
pub(super) fn check_shape(tx: &Transaction) -> Result<(), TxRefusal> {
    if tx.input.is_empty() || tx.output.is_empty() {
        return Err(TxRefusal::Empty);
    }
    if tx.is_coinbase() {
        return Err(TxRefusal::Coinbase);
    }
    let weight = tx.weight().to_wu();
    if weight > MAX_TX_WEIGHT {
        return Err(TxRefusal::TooHeavy {
            weight,
            limit: MAX_TX_WEIGHT,
        });
    }
    let mut seen = HashSet::new();
    for input in &tx.input {
        if input.previous_output.is_null() {
            return Err(TxRefusal::Coinbase);
        }
        if !seen.insert(input.previous_output) {
            return Err(TxRefusal::DuplicateInput {
                outpoint: input.previous_output,
            });
        }
    }
    output_sum(tx).map(|_| ())
}

/// What the outputs of a transaction sum to.
pub(super) fn output_sum(tx: &Transaction) -> Result<Amount, TxRefusal> {
    sum(tx.output.iter().map(|output| output.value))
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Result<Amount, TxRefusal> {
    let mut total = Amount::ZERO;
    for amount in amounts {
        total = total
            .checked_add(amount)
            .filter(|total| *total <= Amount::MAX_MONEY && amount <= Amount::MAX_MONEY)
            .ok_or(TxRefusal::AmountOutOfRange)?;
    }
    Ok(total)
}

/// Checks a transaction against the outputs it spends (`coins`, one per input, in order) and
/// returns its fee.
pub(super) fn check_spend(
    tx: &Transaction,
    coins: &[Coin],
    position: Position,
    scripts: Scripts,
) -> Result<Amount, TxRefusal> {
    check_lock_time(tx, position)?;
    check_coins(tx, coins, position)?;
    let inputs = sum(coins.iter().map(|coin| coin.output.value))?;
    let outputs = output_sum(tx)?;
    let fee = inputs
        .checked_sub(outputs)
        .ok_or(TxRefusal::OutputsExceedInputs {
            inputs_sats: inputs.to_sat(),
            outputs_sats: outputs.to_sat(),
        })?;
    if scripts == Scripts::Verify {
        check_scripts(tx, coins)?;
    }
    Ok(fee)
}

/// `nLockTime` against height and median time past (BIP113); the lock is below, not at.
fn check_lock_time(tx: &Transaction, position: Position) -> Result<(), TxRefusal> {
    let reached = match tx.lock_time {
        LockTime::Blocks(height) => height.to_consensus_u32() < position.height,
        LockTime::Seconds(time) => time.to_consensus_u32() < position.median_time_past_secs,
    };
    let disabled = tx.lock_time == LockTime::ZERO || !tx.is_lock_time_enabled();
    if reached || disabled {
        return Ok(());
    }
    Err(TxRefusal::NotFinal {
        lock_time: tx.lock_time.to_consensus_u32(),
    })
}

/// Coinbase maturity and relative locks (BIP68).
fn check_coins(tx: &Transaction, coins: &[Coin], position: Position) -> Result<(), TxRefusal> {
    // The version is a signed number of which the rules look at the bits.
    let relative_locks = tx.version.0.cast_unsigned() >= 2;
    for (index, (input, coin)) in tx.input.iter().zip(coins).enumerate() {
        let spendable_at_height = coin.height.saturating_add(COINBASE_MATURITY);
        if coin.coinbase && position.height < spendable_at_height {
            return Err(TxRefusal::ImmatureCoinbase {
                outpoint: input.previous_output,
                spendable_at_height,
            });
        }
        let Some(lock) = input.sequence.to_relative_lock_time() else {
            continue;
        };
        let reached = match lock {
            relative::LockTime::Blocks(blocks) => {
                coin.height.saturating_add(u32::from(blocks.value())) <= position.height
            }
            relative::LockTime::Time(time) => {
                let seconds = u32::from(time.value()) * 512;
                coin.time_before_secs.saturating_add(seconds) <= position.median_time_past_secs
            }
        };
        if relative_locks && !reached {
            return Err(TxRefusal::RelativeLockNotReached { input: index });
        }
    }
    Ok(())
}

fn check_scripts(tx: &Transaction, coins: &[Coin]) -> Result<(), TxRefusal> {
    let bytes = serialize(tx);
    let outputs: Vec<&TxOut> = coins.iter().map(|coin| &coin.output).collect();
    for (index, output) in outputs.iter().enumerate() {
        if output.script_pubkey.is_p2tr() {
            check_taproot(tx, index, &outputs)?;
        } else {
            verify_script(&output.script_pubkey, index, output.value, &bytes)
                .map_err(|_| TxRefusal::ScriptFailed { input: index })?;
        }
    }
    Ok(())
}

/// Verifies a key-path spend of a taproot output (BIP341), refuses a script-path spend.
fn check_taproot(tx: &Transaction, index: usize, outputs: &[&TxOut]) -> Result<(), TxRefusal> {
    let failed = TxRefusal::ScriptFailed { input: index };
    let (Some(input), Some(output)) = (tx.input.get(index), outputs.get(index)) else {
        return Err(failed);
    };
    let mut stack: Vec<&[u8]> = input.witness.iter().collect();
    let annex_bytes = match stack.last() {
        Some(last) if stack.len() >= 2 && last.first() == Some(&0x50) => stack.pop(),
        _ => None,
    };
    let signature = match stack.as_slice() {
        [signature] if input.script_sig.is_empty() => *signature,
        [] | [_] => return Err(failed),
        _ => return Err(TxRefusal::TaprootScriptPath { input: index }),
    };
    let annex = match annex_bytes.map(Annex::new).transpose() {
        Ok(annex) => annex,
        Err(_) => return Err(failed),
    };
    let valid = (|| {
        let signature = taproot::Signature::from_slice(signature).ok()?;
        let key = XOnlyPublicKey::from_slice(output.script_pubkey.as_bytes().get(2..)?).ok()?;
        let hash = SighashCache::new(tx)
            .taproot_signature_hash(
                index,
                &Prevouts::All(outputs),
                annex,
                None,
                signature.sighash_type,
            )
            .ok()?;
        Secp256k1::verification_only()
            .verify_schnorr(&signature.signature, &Message::from(hash), &key)
            .ok()
    })();
    valid.ok_or(failed)
}

/// The least fee that is relayed, in satoshis: one per virtual byte.
pub(super) fn relay_fee(tx: &Transaction) -> Amount {
    Amount::from_sat(u64::try_from(tx.vsize()).unwrap_or(u64::MAX))
}

/// The outputs of a transaction with their names.
pub(super) fn outputs_of(tx: &Transaction) -> impl Iterator<Item = (OutPoint, &TxOut)> {
    let txid = tx.compute_txid();
    (0u32..)
        .zip(&tx.output)
        .map(move |(vout, output)| (OutPoint { txid, vout }, output))
}
