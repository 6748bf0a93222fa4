//! Pure decisions about wallets: no I/O, no clock.

use std::collections::BTreeMap;

use bitcoin::{OutPoint, Transaction, Txid};

use super::model::{Coin, Keychain, SpentBy, Wallet, WalletAddress, WalletBalance, WalletOwner};
use super::{ADDRESSES, COINS, TRANSACTIONS, WALLETS, WalletError};
use crate::Error;
use crate::chain::{
    BlockId, Fact, KnownTransaction, Rival, Standing, View, confirmations, judge, standing,
};
use crate::core::{emit, put};
use crate::ids::WalletId;
use crate::ledger::Step;

/// From so many confirmations on, a coin is looked at rarely.
pub(super) const FINAL: u32 = 100;
const DAY_MS: i64 = 86_400_000;
/// The last number of an address that is not hardened.
const LAST_INDEX: u32 = 0x7fff_ffff;

pub(super) fn owner_key(owner: WalletOwner) -> String {
    match owner {
        WalletOwner::Operator => "operator".to_owned(),
        WalletOwner::Merchant { merchant } => merchant.to_string(),
    }
}

/// Sorts a wallet's addresses by their numbers.
pub(super) fn number_key(wallet: WalletId, keychain: Keychain, index: u32) -> String {
    let chain = match keychain {
        Keychain::External => 0,
        Keychain::Change => 1,
    };
    format!("{wallet}/{chain}/{index:010}")
}

pub(super) fn write_wallet(wallet: &Wallet, read_version: i64) -> Result<Step, Error> {
    let keys = vec![("owner", owner_key(wallet.owner))];
    put(WALLETS, wallet.id.to_string(), read_version, wallet, keys)
}

pub(super) fn write_address(
    address: &WalletAddress,
    read_version: i64,
    now_ms: i64,
) -> Result<Step, Error> {
    let heat = if address.hot_until_ms > now_ms {
        "hot"
    } else {
        "cold"
    };
    let keys = vec![
        (
            "number",
            number_key(address.wallet, address.keychain, address.index),
        ),
        ("watch", heat.to_owned()),
        ("address", address.address.clone()),
    ];
    put(
        ADDRESSES,
        address.script.clone(),
        read_version,
        address,
        keys,
    )
}

pub(super) fn write_coin(coin: &Coin, read_version: i64) -> Result<Step, Error> {
    let mut keys = vec![
        ("script", coin.script.clone()),
        (
            "transaction",
            coin.outpoint.split(':').next().unwrap_or("").to_owned(),
        ),
    ];
    if coin.is_unspent() {
        keys.push(("unspent", coin.wallet.to_string()));
    }
    if is_live(coin) {
        keys.push(("live", "live".to_owned()));
    }
    put(COINS, coin.outpoint.clone(), read_version, coin, keys)
}

/// True while it must be given to a source that reads blocks.
fn is_live(coin: &Coin) -> bool {
    let spent = coin.spent_by.as_ref();
    let is_settled = coin.confirmations >= FINAL && spent.is_some_and(|by| by.block.is_some());
    !is_settled || coin.untold
}

/// The block that has something in place of the transaction which made a coin: nothing that spends
/// the coin can then be in a block.
pub(super) fn lost_in(coin: &Coin) -> Option<BlockId> {
    match &coin.standing {
        Standing::Gone { rival } => rival.as_ref().and_then(|rival| rival.block),
        _ => None,
    }
}

pub(super) fn next_index(wallet: &Wallet, keychain: Keychain) -> u32 {
    // One descriptor for both: its numbers are of one row.
    match keychain {
        Keychain::External => wallet.next_external,
        Keychain::Change if wallet.external == wallet.change => wallet.next_external,
        Keychain::Change => wallet.next_change,
    }
}

/// The wallet once an address was given out.
pub(super) fn after_giving_out(
    wallet: &Wallet,
    address: &WalletAddress,
) -> Result<Wallet, WalletError> {
    if address.index > LAST_INDEX {
        return Err(WalletError::Exhausted);
    }
    let mut after = wallet.clone();
    let next = address.index.saturating_add(1);
    if address.keychain == Keychain::External || wallet.external == wallet.change {
        after.next_external = next;
    } else {
        after.next_change = next;
    }
    Ok(after)
}

pub(super) fn count(balance: &mut WalletBalance, coin: &Coin) {
    let sum = if coin.confirmations > 0 {
        &mut balance.confirmed_sat
    } else {
        &mut balance.waiting_sat
    };
    *sum = sum.saturating_add(coin.amount_sat);
    if coin.reserved_by.is_some() {
        balance.reserved_sat = balance.reserved_sat.saturating_add(coin.amount_sat);
    }
    balance.coins += 1;
}

/// The longest row of addresses without a payment before one that has one.
#[derive(Debug, Default)]
pub(super) struct Gap {
    row: u32,
    longest: u32,
}

impl Gap {
    pub(super) fn pass(&mut self, is_used: bool) {
        if is_used {
            self.longest = self.longest.max(self.row);
            self.row = 0;
        } else {
            self.row = self.row.saturating_add(1);
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.longest.saturating_add(1)
    }
}

/// A coin with what happened to it, and whether anything about it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) coin: Coin,
    pub(super) facts: Vec<Fact>,
    /// The transaction of a coin that was not known.
    pub(super) new: Option<Transaction>,
    /// What spends it is other than before.
    pub(super) spent: bool,
}

/// What the known transactions that are still there spend. They are not among the seen ones, and
/// may spend coins that something else had spent before.
pub(super) fn known_spends(known: &[KnownTransaction], view: &View) -> BTreeMap<OutPoint, SpentBy> {
    let mut spends: BTreeMap<OutPoint, SpentBy> = BTreeMap::new();
    let inputs: BTreeMap<Txid, &Vec<OutPoint>> = known
        .iter()
        .map(|known| (known.txid, &known.inputs))
        .collect();
    for (txid, block) in &view.standing {
        for input in inputs.get(txid).into_iter().copied().flatten() {
            let by = SpentBy {
                txid: txid.to_string(),
                block: *block,
            };
            let other = spends.get(input);
            if block.is_some() || other.is_none_or(|other| other.block.is_none()) {
                spends.insert(*input, by);
            }
        }
    }
    spends
}

/// What became of the coins of one address. `known` are its coins with their transactions, and
/// `spends` what [`known_spends`] says.
pub(super) fn observe(
    address: &WalletAddress,
    known: &[(Coin, KnownTransaction)],
    spends: &BTreeMap<OutPoint, SpentBy>,
    view: &View,
    now_ms: i64,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (coin, transaction) in known {
        let Some(now) = standing(transaction, view) else {
            continue;
        };
        let now = with_rival(now, transaction, spends);
        let facts = judge(Some(&coin.standing), &now);
        let spent_by = spender(coin, spends, view);
        let after = Coin {
            confirmations: depth(&now, view),
            standing: now,
            spent_by,
            ..coin.clone()
        };
        if after != *coin || coin.untold {
            changes.push(Change {
                spent: after.spent_by != coin.spent_by,
                coin: after,
                facts,
                new: None,
            });
        }
    }
    changes.extend(found_at(address, known, spends, view, now_ms));
    // What is there no more makes room for what came in its place: told the other way round, that
    // would be more than was asked for.
    changes.sort_by_key(|change| match change.coin.standing {
        Standing::Gone { .. } => 0,
        Standing::Waiting => 1,
        Standing::Confirmed { .. } => 2,
    });
    changes
}

/// What took the place of one that is gone is known itself from the second look on, and not among
/// what is seen.
fn with_rival(
    now: Standing,
    gone: &KnownTransaction,
    spends: &BTreeMap<OutPoint, SpentBy>,
) -> Standing {
    if now != (Standing::Gone { rival: None }) {
        return now;
    }
    let rivals = gone.inputs.iter().filter_map(|input| spends.get(input));
    let rivals = rivals.filter(|by| by.txid != gone.txid.to_string());
    let rival = rivals.max_by_key(|by| by.block.is_some()).map(|by| Rival {
        txid: by.txid.clone(),
        block: by.block,
    });
    Standing::Gone { rival }
}

/// The coins of an address that were not known.
fn found_at(
    address: &WalletAddress,
    known: &[(Coin, KnownTransaction)],
    spends: &BTreeMap<OutPoint, SpentBy>,
    view: &View,
    now_ms: i64,
) -> impl Iterator<Item = Change> {
    let mut found: BTreeMap<String, Change> = BTreeMap::new();
    for seen in &view.seen {
        let txid = seen.transaction.compute_txid();
        for (vout, output) in (0u32..).zip(&seen.transaction.output) {
            let outpoint = OutPoint { txid, vout }.to_string();
            let is_ours = output.script_pubkey.to_hex_string() == address.script;
            if !is_ours || known.iter().any(|(coin, _)| coin.outpoint == outpoint) {
                continue;
            }
            let now = match seen.block {
                Some(block) => Standing::Confirmed { block },
                None => Standing::Waiting,
            };
            let mut coin = Coin {
                outpoint: outpoint.clone(),
                wallet: address.wallet,
                address: address.address.clone(),
                script: address.script.clone(),
                keychain: address.keychain,
                index: address.index,
                amount_sat: output.value.to_sat(),
                confirmations: depth(&now, view),
                standing: now.clone(),
                replaceable: seen.transaction.is_explicitly_rbf(),
                spent_by: None,
                reserved_by: None,
                label: String::new(),
                first_seen_ms: now_ms,
                predates: false,
                untold: false,
            };
            coin.spent_by = spender(&coin, spends, view);
            let change = Change {
                spent: coin.spent_by.is_some(),
                coin,
                facts: judge(None, &now),
                new: Some(seen.transaction.clone()),
            };
            found.insert(outpoint, change);
        }
    }
    found.into_values()
}

/// True of a coin that is found now and is no receipt of these books, unless an invoice waits for
/// it: the wallet had it when it was added, or it is gone again.
pub(super) fn predates(wallet: &Wallet, coin: &Coin) -> bool {
    let had = match (&coin.standing, wallet.added_at_height) {
        (Standing::Confirmed { block }, Some(height)) => height >= block.height,
        // The server was away: the block's time says it, and clocks may be a day apart.
        (Standing::Confirmed { .. }, None) => {
            coin.first_seen_ms.saturating_add(DAY_MS) < wallet.created_at_ms
        }
        _ => false,
    };
    had || coin.spent_by.as_ref().is_some_and(|by| by.block.is_some())
}

fn depth(standing: &Standing, view: &View) -> u32 {
    confirmations(standing, view.tip).unwrap_or(0).min(FINAL)
}

/// What spends a coin by what is seen now. A source that reads blocks tells of a block once: what
/// was in a block stays so until all blocks were read again without it, which is what happens
/// when its block is no more (the cursor goes back).
fn spender(coin: &Coin, spends: &BTreeMap<OutPoint, SpentBy>, view: &View) -> Option<SpentBy> {
    let seen = view.seen.iter().filter(|seen| {
        let mut inputs = seen.transaction.input.iter();
        inputs.any(|input| input.previous_output.to_string() == coin.outpoint)
    });
    let seen = seen.map(|seen| SpentBy {
        txid: seen.transaction.compute_txid().to_string(),
        block: seen.block,
    });
    let outpoint: Option<OutPoint> = coin.outpoint.parse().ok();
    let known = outpoint.and_then(|outpoint| spends.get(&outpoint)).cloned();
    if let Some(by) = known
        .into_iter()
        .chain(seen)
        .max_by_key(|by| by.block.is_some())
    {
        return Some(by);
    }
    let before = coin.spent_by.clone()?;
    let there = view
        .standing
        .iter()
        .find(|(txid, _)| txid.to_string() == before.txid);
    match there {
        Some((_, block)) => Some(SpentBy {
            block: *block,
            ..before
        }),
        None if view.is_complete() && !is_untold(&before, view) => None,
        None => Some(before),
    }
}

fn is_untold(by: &SpentBy, view: &View) -> bool {
    let mut untold = view.missed.transactions.iter();
    untold.any(|txid| txid.to_string() == by.txid)
}

/// The steps that write down what happened to one coin.
pub(super) fn write(change: &Change, read_version: i64) -> Result<Vec<Step>, Error> {
    let coin = &change.coin;
    let mut steps = vec![write_coin(coin, read_version)?];
    for fact in &change.facts {
        let kind = match fact {
            Fact::Seen => "wallet.received",
            Fact::Confirmed { .. } => "wallet.confirmed",
            Fact::ReorgedOut { .. } => "wallet.reorged_out",
            Fact::Returned => "wallet.returned",
            Fact::Replaced { .. } => "wallet.replaced",
            Fact::DoubleSpent { .. } => "wallet.double_spent",
            Fact::Dropped => "wallet.dropped",
        };
        steps.push(emit(kind, coin.wallet.to_string(), coin)?);
    }
    if change.spent {
        let kind = match coin.spent_by {
            Some(_) => "wallet.spent",
            None => "wallet.unspent",
        };
        steps.push(emit(kind, coin.wallet.to_string(), coin)?);
    }
    Ok(steps)
}

/// The step that keeps a transaction: what it spends tells of double spends, and signers want it.
pub(super) fn keep(transaction: &Transaction, read_version: i64) -> Result<Step, Error> {
    let hex = bitcoin::consensus::encode::serialize_hex(transaction);
    let txid = transaction.compute_txid().to_string();
    put(TRANSACTIONS, txid, read_version, &hex, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_wallet_had_is_told_by_heights_or_else_by_days() {
        let mut wallet: Wallet = serde_json::from_str(
            r#"{"id":"wal_01890000000070008000000000000000","owner":{"kind":"operator"},"name":"",
            "is_node":false,"external":"","change":"","next_external":0,"next_change":0,
            "created_at_ms":1000000000,"added_at_height":100}"#,
        )
        .unwrap();
        let coin = |height: u32, first_seen_ms: i64| -> Coin {
            let zeros = "0".repeat(64);
            serde_json::from_value(serde_json::json!({
                "outpoint": format!("{zeros}:0"), "wallet": wallet.id, "address": "", "script": "",
                "keychain": "external", "index": 0, "amount_sat": 1, "confirmations": 1,
                "standing": "confirmed", "block": {"height": height, "hash": zeros},
                "first_seen_ms": first_seen_ms,
            }))
            .unwrap()
        };
        // The time of a block is of no account where the height is known.
        let (old, new) = (coin(100, i64::MAX), coin(101, 0));
        let (days_before, hours_before) = (coin(99, 900_000_000), coin(99, 990_000_000));
        assert!(predates(&wallet, &old) && !predates(&wallet, &new));
        wallet.added_at_height = None;
        assert!(predates(&wallet, &days_before) && !predates(&wallet, &hours_before));
    }
}
