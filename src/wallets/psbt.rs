//! Transactions to be signed: coins chosen, PSBTs made and taken back. Pure.

use std::str::FromStr;

use bdk_wallet::coin_selection::{
    BranchAndBoundCoinSelection, CoinSelectionAlgorithm, Excess, LargestFirstCoinSelection,
};
use bdk_wallet::miniscript::interpreter::{Interpreter, KeySigPair, SatisfiedConstraint};
use bdk_wallet::miniscript::psbt::PsbtExt;
use bdk_wallet::{Utxo, WeightedUtxo};
use bitcoin::hashes::{Hash, sha256};
use bitcoin::psbt::{Input, Psbt};
use bitcoin::secp256k1::Secp256k1;
use bitcoin::secp256k1::rand::{self, RngCore};
use bitcoin::sighash::{EcdsaSighashType, TapSighashType};
use bitcoin::{
    Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Weight, Witness,
    absolute, transaction,
};

use super::descriptor::Descriptors;
use super::error::WalletError;
use super::model::Keychain;
use crate::chain::ChainError;

/// No signer gives back more.
const MAX_PSBT: usize = 4_000_000;
/// A fee of more than this, and of more than a tenth of what is sent, is a mistake.
const HIGH_FEE_SAT: u64 = 1_000_000;
/// What a replacement has to pay more than what it replaces (BIP 125), for 1,000 vbytes.
pub(super) const RELAY_SAT_PER_KVB: u64 = 1_000;

/// A coin that can be spent.
#[derive(Debug, Clone)]
pub(super) struct Spendable {
    pub(super) outpoint: OutPoint,
    pub(super) keychain: Keychain,
    pub(super) index: u32,
    /// The transaction that it is an output of.
    pub(super) from: Transaction,
}

impl Spendable {
    fn output(&self) -> Option<&TxOut> {
        let vout = usize::try_from(self.outpoint.vout).ok()?;
        self.from.output.get(vout)
    }
}

/// What a transaction is to be.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) descriptors: &'a Descriptors,
    /// Coins that are spent in any case.
    pub(super) required: Vec<Spendable>,
    /// Coins that may be spent as well.
    pub(super) optional: Vec<Spendable>,
    /// To whom how much; for everything, one without an amount.
    pub(super) outputs: Vec<TxOut>,
    /// All of the required coins go to the one output.
    pub(super) is_everything: bool,
    /// Where change goes.
    pub(super) change: (ScriptBuf, Keychain, u32),
    pub(super) fee_sat_per_kvb: u64,
    pub(super) seed: [u8; 16],
}

/// A transaction that waits for its signatures.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) psbt: Psbt,
    pub(super) coins: Vec<OutPoint>,
    pub(super) fee_sat: u64,
    pub(super) change_sat: u64,
    /// What the outputs came to, change left out.
    pub(super) sent_sat: Vec<u64>,
}

/// Checks that the network relays an output.
pub(super) fn check_dust(output: &TxOut) -> Result<(), ChainError> {
    let minimum = output.script_pubkey.minimal_non_dust();
    if output.value < minimum {
        return Err(ChainError::Dust {
            amount_sat: output.value.to_sat(),
            minimum_sat: minimum.to_sat(),
        });
    }
    Ok(())
}

/// Chooses coins and makes the PSBT.
pub(super) fn build(order: Order<'_>) -> Result<Built, crate::Error> {
    if !order.is_everything {
        for output in &order.outputs {
            check_dust(output)?;
        }
    }
    let weights = order.weights()?;
    let rate = FeeRate::from_sat_per_kwu(order.fee_sat_per_kvb.div_ceil(4));
    let mut transaction = Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: Vec::new(),
        output: order.outputs.clone(),
    };
    // Counts of inputs and outputs of up to three bytes, and the marker of witnesses.
    let frame = transaction.weight() + Weight::from_wu(2 + 2 * 4 * 2);
    let frame_fee = fee(rate, frame)?;
    let (chosen, fee_sat, change_sat) = if order.is_everything {
        order.everything(rate, weights, frame_fee, &mut transaction)?
    } else {
        order.choose(rate, weights, frame_fee)?
    };
    // What comes back is not sent.
    let outputs = transaction.output.iter();
    let sent: u64 = outputs.map(|out| out.value.to_sat()).sum();
    if fee_sat > HIGH_FEE_SAT && fee_sat > sent / 10 {
        return Err(WalletError::FeeTooHigh { fee_sat }.into());
    }
    if change_sat > 0 {
        transaction.output.push(TxOut {
            value: Amount::from_sat(change_sat),
            script_pubkey: order.change.0.clone(),
        });
    }
    let count = transaction.output.len() - usize::from(change_sat > 0);
    let amounts = transaction.output.iter().take(count);
    let sent_sat = amounts.map(|output| output.value.to_sat()).collect();
    transaction.input = chosen
        .iter()
        .map(|coin| TxIn {
            previous_output: coin.outpoint,
            script_sig: ScriptBuf::new(),
            // So that its fee can be raised (BIP 125).
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        })
        .collect();
    let psbt = order.psbt(transaction, &chosen, (change_sat > 0).then_some(count))?;
    Ok(Built {
        psbt,
        coins: chosen.iter().map(|coin| coin.outpoint).collect(),
        fee_sat,
        change_sat,
        sent_sat,
    })
}

fn fee(rate: FeeRate, weight: Weight) -> Result<Amount, WalletError> {
    let fee_sat = u64::MAX;
    rate.fee_wu(weight)
        .ok_or(WalletError::FeeTooHigh { fee_sat })
}

/// What a signature weighs at most.
fn satisfaction(descriptors: &Descriptors, keychain: Keychain) -> Result<Weight, WalletError> {
    let weight = descriptors.of(keychain).max_weight_to_satisfy();
    weight.map_err(|_| WalletError::BadDescriptor {
        reason: "nothing can satisfy it".to_owned(),
    })
}

/// What it costs to spend a coin of a keychain, in satoshis.
pub(super) fn input_fee(
    descriptors: &Descriptors,
    keychain: Keychain,
    fee_sat_per_kvb: u64,
) -> Result<u64, WalletError> {
    let weight = TxIn::default().segwit_weight() + satisfaction(descriptors, keychain)?;
    let rate = FeeRate::from_sat_per_kwu(fee_sat_per_kvb.div_ceil(4));
    Ok(fee(rate, weight)?.to_sat())
}

impl Order<'_> {
    /// What a signature of each keychain weighs at most.
    fn weights(&self) -> Result<[Weight; 2], WalletError> {
        let of = |keychain| satisfaction(self.descriptors, keychain);
        Ok([of(Keychain::External)?, of(Keychain::Change)?])
    }

    fn everything(
        &self,
        rate: FeeRate,
        weights: [Weight; 2],
        frame_fee: Amount,
        transaction: &mut Transaction,
    ) -> Result<(Vec<Spendable>, u64, u64), crate::Error> {
        let coins = self.required.clone();
        let (mut sum, mut fees) = (0_u64, frame_fee.to_sat());
        for coin in &coins {
            let value = coin.output().map_or(0, |output| output.value.to_sat());
            let weight = TxIn::default().segwit_weight() + weight_of(weights, coin.keychain);
            sum = sum.saturating_add(value);
            fees = fees.saturating_add(fee(rate, weight)?.to_sat());
        }
        let left = sum.checked_sub(fees).filter(|left| *left > 0);
        let left = left.ok_or(WalletError::InsufficientFunds {
            needed_sat: fees.saturating_add(1),
            available_sat: sum,
        })?;
        if let Some(output) = transaction.output.first_mut() {
            output.value = Amount::from_sat(left);
            check_dust(output)?;
        }
        Ok((coins, fees, 0))
    }

    fn choose(
        &self,
        rate: FeeRate,
        weights: [Weight; 2],
        frame_fee: Amount,
    ) -> Result<(Vec<Spendable>, u64, u64), crate::Error> {
        let sent: Amount = self.outputs.iter().map(|output| output.value).sum();
        let weighted = |coins: &[Spendable]| -> Vec<WeightedUtxo> {
            let of = |coin: &Spendable| {
                let input = Input {
                    witness_utxo: coin.output().cloned(),
                    ..Input::default()
                };
                input.witness_utxo.is_some().then(|| WeightedUtxo {
                    satisfaction_weight: weight_of(weights, coin.keychain),
                    utxo: Utxo::Foreign {
                        outpoint: coin.outpoint,
                        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                        psbt_input: Box::new(input),
                    },
                })
            };
            coins.iter().filter_map(of).collect()
        };
        let change_bytes = 9 + u64::try_from(self.change.0.len()).unwrap_or(0);
        let algorithm = BranchAndBoundCoinSelection::new(change_bytes, LargestFirstCoinSelection);
        let mut random = Seeded(self.seed, 0);
        let target = sent.checked_add(frame_fee).unwrap_or(Amount::MAX);
        let selected = algorithm
            .coin_select(
                weighted(&self.required),
                weighted(&self.optional),
                rate,
                target,
                &self.change.0,
                &mut random,
            )
            .map_err(|short| WalletError::InsufficientFunds {
                needed_sat: short.needed.to_sat(),
                available_sat: short.available.to_sat(),
            })?;
        let change_sat = match selected.excess {
            Excess::Change { amount, .. } => amount.to_sat(),
            Excess::NoChange { .. } => 0,
        };
        let chosen: Vec<Spendable> = selected
            .selected
            .iter()
            .filter_map(|utxo| {
                let mut all = self.required.iter().chain(&self.optional);
                all.find(|coin| coin.outpoint == utxo.outpoint()).cloned()
            })
            .collect();
        let inputs: u64 = selected.selected_amount().to_sat();
        let fee_sat = inputs
            .saturating_sub(sent.to_sat())
            .saturating_sub(change_sat);
        Ok((chosen, fee_sat, change_sat))
    }

    /// What signers need to know: where the coins come from, whose keys they take, and which
    /// output is change.
    fn psbt(
        &self,
        transaction: Transaction,
        chosen: &[Spendable],
        change_at: Option<usize>,
    ) -> Result<Psbt, WalletError> {
        let bad = || WalletError::BadPsbt;
        let mut psbt = Psbt::from_unsigned_tx(transaction).map_err(|_| bad())?;
        for (at, coin) in chosen.iter().enumerate() {
            let definite = self.descriptors.at(coin.keychain, coin.index)?;
            let input = psbt.inputs.get_mut(at).ok_or_else(bad)?;
            if definite.desc_type().segwit_version().is_some() {
                input.witness_utxo = coin.output().cloned();
            }
            // A signer of version 0 wants the whole, to be sure of the amounts.
            if !self.descriptors.is_taproot() {
                input.non_witness_utxo = Some(coin.from.clone());
            }
            psbt.update_input_with_descriptor(at, &definite)
                .map_err(|_| bad())?;
        }
        if let Some(at) = change_at {
            let (_, keychain, index) = &self.change;
            let definite = self.descriptors.at(*keychain, *index)?;
            psbt.update_output_with_descriptor(at, &definite)
                .map_err(|_| bad())?;
        }
        Ok(psbt)
    }
}

fn weight_of(weights: [Weight; 2], keychain: Keychain) -> Weight {
    let [external, change] = weights;
    match keychain {
        Keychain::External => external,
        Keychain::Change => change,
    }
}

/// The least fee of what takes the place of another transaction.
pub(super) fn least_replacement(fee_sat: u64, vbytes: u64) -> u64 {
    let relay = vbytes.saturating_mul(RELAY_SAT_PER_KVB).div_ceil(1_000);
    fee_sat.saturating_add(relay)
}

/// Reads a PSBT in base64.
pub(super) fn parse(text: &str) -> Result<Psbt, WalletError> {
    if text.len() > MAX_PSBT {
        return Err(WalletError::BadPsbt);
    }
    Psbt::from_str(text.trim()).map_err(|_| WalletError::BadPsbt)
}

/// Takes a signed PSBT back: it is that of `ours`, every signature is there and fits, and signs
/// all of the transaction.
pub(super) fn finish(ours: &Psbt, signed: Psbt) -> Result<Transaction, WalletError> {
    if ours.unsigned_tx != signed.unsigned_tx {
        return Err(WalletError::ForeignPsbt);
    }
    for input in &signed.inputs {
        let all = |kind| kind == EcdsaSighashType::All;
        let ecdsa = input.partial_sigs.values().all(|sig| all(sig.sighash_type));
        let whole = [TapSighashType::Default, TapSighashType::All];
        let mut taproot = input
            .tap_key_sig
            .iter()
            .chain(input.tap_script_sigs.values());
        if !ecdsa || !taproot.all(|sig| whole.contains(&sig.sighash_type)) {
            let reason = "a signature does not sign all of it".to_owned();
            return Err(WalletError::NotSigned { reason });
        }
    }
    // Ours is what counts: of theirs only the signatures are taken.
    let mut whole = ours.clone();
    for (mine, theirs) in whole.inputs.iter_mut().zip(signed.inputs) {
        mine.partial_sigs = theirs.partial_sigs;
        mine.tap_key_sig = theirs.tap_key_sig;
        mine.tap_script_sigs = theirs.tap_script_sigs;
        mine.final_script_sig = theirs.final_script_sig;
        mine.final_script_witness = theirs.final_script_witness;
    }
    let secp = Secp256k1::verification_only();
    if whole.inputs.iter().any(|input| !is_final(input)) {
        whole
            .finalize_mut(&secp)
            .map_err(|errors| WalletError::NotSigned {
                reason: errors.first().map_or_else(String::new, ToString::to_string),
            })?;
    }
    // Checks every signature, also where a signer had finished it.
    let transaction = PsbtExt::extract(&whole, &secp).map_err(|error| WalletError::NotSigned {
        reason: error.to_string(),
    })?;
    check_all_is_signed(&whole, &transaction)?;
    Ok(transaction)
}

/// What satisfies the inputs signs all of the transaction: of an input that a signer has finished
/// nothing else says so, and a signature that leaves the outputs open lets anybody have the coins.
fn check_all_is_signed(psbt: &Psbt, transaction: &Transaction) -> Result<(), WalletError> {
    let not = |reason: String| WalletError::NotSigned { reason };
    let lock_time = transaction.lock_time;
    for (input, spent) in transaction.input.iter().zip(psbt.iter_funding_utxos()) {
        let spent = spent.map_err(|error| not(error.to_string()))?;
        let (script_sig, witness) = (&input.script_sig, &input.witness);
        let script = &spent.script_pubkey;
        let ran = Interpreter::from_txdata(script, script_sig, witness, input.sequence, lock_time);
        let ran = ran.map_err(|error| not(error.to_string()))?;
        for satisfied in ran.iter_assume_sigs() {
            let signature = match satisfied.map_err(|error| not(error.to_string()))? {
                SatisfiedConstraint::PublicKey { key_sig }
                | SatisfiedConstraint::PublicKeyHash { key_sig, .. } => key_sig,
                _ => continue,
            };
            let is_whole = match signature {
                KeySigPair::Ecdsa(_, signature) => signature.sighash_type == EcdsaSighashType::All,
                KeySigPair::Schnorr(_, signature) => matches!(
                    signature.sighash_type,
                    TapSighashType::Default | TapSighashType::All
                ),
            };
            if !is_whole {
                return Err(not("a signature does not sign all of it".to_owned()));
            }
        }
    }
    Ok(())
}

/// Checks a signed PSBT against the one that was prepared, as
/// [`Wallets::submit_spend`](super::Wallets::submit_spend) does, and answers the transaction in
/// hex: for whoever wants to see it before.
///
/// # Errors
/// `wallet.bad_psbt`, `wallet.foreign_psbt`, `wallet.not_signed`.
pub fn signed_transaction(prepared: &str, signed: &str) -> Result<String, WalletError> {
    let transaction = finish(&parse(prepared)?, parse(signed)?)?;
    Ok(bitcoin::consensus::encode::serialize_hex(&transaction))
}

fn is_final(input: &Input) -> bool {
    input.final_script_witness.is_some() || input.final_script_sig.is_some()
}

/// Numbers from a seed, so that a run can be repeated.
struct Seeded([u8; 16], u64);

impl RngCore for Seeded {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for piece in dest.chunks_mut(32) {
            self.1 = self.1.wrapping_add(1);
            let block = [self.0.as_slice(), &self.1.to_le_bytes()].concat();
            let hash = sha256::Hash::hash(&block).to_byte_array();
            piece.copy_from_slice(hash.get(..piece.len()).unwrap_or(&hash));
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}
