//! The coins of the harness.
//!
//! They are locked by no key but by the script `OP_TRUE` behind a P2WSH address, which everybody
//! can spend: there is nothing to keep secret and nothing that could be used elsewhere by
//! mistake. Only regtest is that careless.

use std::str::FromStr;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::opcodes::OP_TRUE;
use bitcoin::opcodes::all::OP_RETURN;
use bitcoin::script::Builder;
use bitcoin::{
    Address, Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness,
    absolute, transaction,
};

use super::error::ChainError;

/// What the harness pays for its own transactions, in satoshis per virtual byte: twice the relay
/// minimum.
const FEE_RATE: u64 = 2;
/// A change output below this is left to the miner, in satoshis.
const DUST: u64 = 1_000;

/// A coin the harness can spend.
#[derive(Debug, Clone)]
pub(super) struct OwnCoin {
    pub(super) outpoint: OutPoint,
    pub(super) value: Amount,
}

fn open_script() -> ScriptBuf {
    Builder::new().push_opcode(OP_TRUE).into_script()
}

/// The output script that the harness mines to and takes change on.
pub(super) fn own_script() -> ScriptBuf {
    open_script().to_p2wsh()
}

/// The same as an address.
pub(super) fn own_address() -> Address {
    Address::p2wsh(&open_script(), Network::Regtest)
}

/// An address of regtest that nobody has the key of, always the same for a name.
pub fn nobodys_address(name: &str) -> String {
    // The hash of a script that ends at once.
    let script = Builder::new()
        .push_opcode(OP_RETURN)
        .push_slice(sha256::Hash::hash(name.as_bytes()).to_byte_array())
        .into_script();
    Address::p2wsh(&script, Network::Regtest).to_string()
}

/// Reads an address of regtest.
pub(super) fn script_of(address: &str) -> Result<ScriptBuf, ChainError> {
    Address::from_str(address)
        .ok()
        .and_then(|parsed| parsed.require_network(Network::Regtest).ok())
        .map(|checked| checked.script_pubkey())
        .ok_or_else(|| ChainError::InvalidAddress {
            address: address.to_owned(),
        })
}

/// Pays `amount` to `script` from as many of `coins` as it takes, in their order.
pub(super) fn pay(
    coins: &[OwnCoin],
    script: ScriptBuf,
    amount: Amount,
) -> Result<Transaction, ChainError> {
    let mut tx = Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: Vec::new(),
        output: vec![
            TxOut {
                value: amount,
                script_pubkey: script,
            },
            TxOut {
                value: Amount::ZERO,
                script_pubkey: own_script(),
            },
        ],
    };
    let mut available = Amount::ZERO;
    let mut needed = amount;
    for coin in coins {
        tx.input.push(TxIn {
            previous_output: coin.outpoint,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::from_slice(&[open_script().into_bytes()]),
        });
        available = available.checked_add(coin.value).unwrap_or(available);
        let size = u64::try_from(tx.vsize()).unwrap_or(u64::MAX);
        let fee = Amount::from_sat(size.saturating_mul(FEE_RATE));
        needed = amount.checked_add(fee).unwrap_or(Amount::MAX_MONEY);
        if let Some(change) = available.checked_sub(needed) {
            if change.to_sat() < DUST {
                tx.output.truncate(1);
            } else if let Some(output) = tx.output.get_mut(1) {
                output.value = change;
            }
            return Ok(tx);
        }
    }
    Err(ChainError::InsufficientFunds {
        available_sats: available.to_sat(),
        needed_sats: needed.to_sat(),
    })
}
