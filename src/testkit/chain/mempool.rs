//! Transactions that wait for a block.
//!
//! A transaction that spends what another one of the mempool spends replaces it when it pays
//! more: every transaction can be replaced, as in Bitcoin Core since version 28 (the fee rules of
//! BIP125 without its signalling). Otherwise it is refused. Limits on ancestors and descendants,
//! expiry and packages are not modelled.

use std::collections::{HashMap, HashSet};

use bitcoin::{Amount, OutPoint, Transaction, Txid, Weight};

use super::error::TxRefusal;
use super::rules::{self, Coin, Scripts};
use super::state::ChainState;

/// The most transactions that one replacement may evict (BIP125, rule 5).
const MAX_REPLACED: usize = 100;

/// A transaction and what it pays.
#[derive(Debug)]
struct Entry {
    tx: Transaction,
    fee: Amount,
}

/// The waiting transactions, each valid in the next block.
#[derive(Debug, Default)]
pub(super) struct Mempool {
    entries: HashMap<Txid, Entry>,
    /// In the order of arrival, so that parents stand before their children.
    order: Vec<Txid>,
    spenders: HashMap<OutPoint, (Txid, u32)>,
}

impl Mempool {
    pub(super) fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        self.entries.get(txid).map(|entry| &entry.tx)
    }

    /// The waiting transaction that spends an output, and the index of its input.
    pub(super) fn spender(&self, outpoint: &OutPoint) -> Option<(Txid, u32)> {
        self.spenders.get(outpoint).copied()
    }

    /// The waiting transactions, oldest first.
    pub(super) fn txids(&self) -> &[Txid] {
        &self.order
    }

    /// The waiting transactions, oldest first.
    pub(super) fn transactions(&self) -> impl DoubleEndedIterator<Item = &Transaction> {
        self.order.iter().filter_map(|txid| self.transaction(txid))
    }

    /// What fits into a block, parents first, and the fees it pays.
    pub(super) fn select(&self, limit: Weight) -> (Vec<Transaction>, Amount) {
        let mut chosen = Vec::new();
        let (mut weight, mut fees) = (Weight::ZERO, Amount::ZERO);
        for entry in self.order.iter().filter_map(|txid| self.entries.get(txid)) {
            let with = weight.checked_add(entry.tx.weight()).unwrap_or(Weight::MAX);
            // To stop here rather than to skip keeps a child from coming without its parent.
            if with > limit {
                break;
            }
            weight = with;
            fees = fees.checked_add(entry.fee).unwrap_or(fees);
            chosen.push(entry.tx.clone());
        }
        (chosen, fees)
    }

    /// Takes a transaction in, and evicts what it replaces. One that waits already is fine.
    pub(super) fn accept(
        &mut self,
        chain: &ChainState,
        tx: Transaction,
        scripts: Scripts,
    ) -> Result<Txid, TxRefusal> {
        let txid = tx.compute_txid();
        if self.entries.contains_key(&txid) {
            return Ok(txid);
        }
        if chain.transaction(&txid).is_some() {
            return Err(TxRefusal::AlreadyConfirmed);
        }
        rules::check_shape(&tx)?;
        let (direct, replaced) = self.conflicts(&tx);
        let coins = tx
            .input
            .iter()
            .map(|input| self.coin(chain, &input.previous_output, &replaced))
            .collect::<Result<Vec<Coin>, TxRefusal>>()?;
        let fee = rules::check_spend(&tx, &coins, chain.next(), scripts)?;
        let required = rules::relay_fee(&tx);
        if fee < required {
            return Err(TxRefusal::FeeBelowRelayMinimum {
                fee_sats: fee.to_sat(),
                required_sats: required.to_sat(),
            });
        }
        if let Some(outpoint) = direct.values().next() {
            self.check_replacement(&tx, fee, *outpoint, &direct, &replaced)?;
        }
        self.remove(&replaced);
        for (vin, input) in (0u32..).zip(&tx.input) {
            self.spenders.insert(input.previous_output, (txid, vin));
        }
        self.order.push(txid);
        self.entries.insert(txid, Entry { tx, fee });
        Ok(txid)
    }

    /// Starts over on a changed chain: first what came back from disconnected blocks, then what
    /// waited. What is confirmed or no longer valid falls out.
    pub(super) fn rebuild(&mut self, chain: &ChainState, returned: Vec<Transaction>) {
        let mut old = std::mem::take(self);
        let waiting = old.order.iter().filter_map(|txid| old.entries.remove(txid));
        let waiting: Vec<Transaction> = waiting.map(|entry| entry.tx).collect();
        for tx in returned.into_iter().chain(waiting) {
            // A refusal is the answer here: the transaction is not valid any more.
            let _refused = self.accept(chain, tx, Scripts::Known);
        }
    }

    /// The waiting transactions that spend the same outputs, each with such an output, and all
    /// that would go with them.
    fn conflicts(&self, tx: &Transaction) -> (HashMap<Txid, OutPoint>, HashSet<Txid>) {
        let direct: HashMap<Txid, OutPoint> = tx
            .input
            .iter()
            .filter_map(|input| {
                let (by, _) = self.spender(&input.previous_output)?;
                Some((by, input.previous_output))
            })
            .collect();
        let mut all: HashSet<Txid> = direct.keys().copied().collect();
        // Children stand after their parents, so one pass finds every descendant.
        for (txid, entry) in self.order.iter().filter_map(|txid| {
            let entry = self.entries.get(txid)?;
            Some((txid, entry))
        }) {
            let mut inputs = entry.tx.input.iter();
            if inputs.any(|input| all.contains(&input.previous_output.txid)) {
                all.insert(*txid);
            }
        }
        (direct, all)
    }

    fn coin(
        &self,
        chain: &ChainState,
        outpoint: &OutPoint,
        replaced: &HashSet<Txid>,
    ) -> Result<Coin, TxRefusal> {
        let Some(parent) = self.entries.get(&outpoint.txid) else {
            return chain.spendable(outpoint).cloned();
        };
        if replaced.contains(&outpoint.txid) {
            return Err(TxRefusal::ReplacementSpendsReplaced {
                outpoint: *outpoint,
            });
        }
        let index = usize::try_from(outpoint.vout).ok();
        let output = index.and_then(|index| parent.tx.output.get(index));
        let next = chain.next();
        output
            .map(|output| Coin {
                output: output.clone(),
                height: next.height,
                coinbase: false,
                time_before_secs: next.median_time_past_secs,
            })
            .ok_or(TxRefusal::MissingInput {
                outpoint: *outpoint,
            })
    }

    /// BIP125, rules 3 to 5, and that the replacement's fee rate is the higher one.
    fn check_replacement(
        &self,
        tx: &Transaction,
        fee: Amount,
        outpoint: OutPoint,
        direct: &HashMap<Txid, OutPoint>,
        replaced: &HashSet<Txid>,
    ) -> Result<(), TxRefusal> {
        if replaced.len() > MAX_REPLACED {
            return Err(TxRefusal::ReplacesTooMany {
                count: replaced.len(),
            });
        }
        let fee_of = |txid: &Txid| self.entries.get(txid).map_or(0, |entry| entry.fee.to_sat());
        let replaced_sats: u64 = replaced.iter().map(fee_of).sum();
        let size = rules::relay_fee(tx).to_sat();
        let mut required_sats = replaced_sats.saturating_add(size);
        for entry in direct.keys().filter_map(|txid| self.entries.get(txid)) {
            // The least whole fee whose rate is strictly above the other's.
            let other_size = u128::from(rules::relay_fee(&entry.tx).to_sat()).max(1);
            let product = u128::from(entry.fee.to_sat()) * u128::from(size);
            let above = u64::try_from(product / other_size).unwrap_or(u64::MAX);
            required_sats = required_sats.max(above.saturating_add(1));
        }
        if fee.to_sat() >= required_sats {
            return Ok(());
        }
        Err(TxRefusal::ReplacementUnderpays {
            outpoint,
            fee_sats: fee.to_sat(),
            required_sats,
        })
    }

    fn remove(&mut self, gone: &HashSet<Txid>) {
        self.order.retain(|txid| !gone.contains(txid));
        self.spenders.retain(|_, (by, _)| !gone.contains(by));
        self.entries.retain(|txid, _| !gone.contains(txid));
    }
}
