//! The records of Esplora's JSON.

use bitcoin::hashes::sha256;
use bitcoin::{BlockHash, OutPoint, Script, Transaction, TxOut, Txid};
use serde_json::{Value, json};

use super::mempool::Mempool;
use super::rules::outputs_of;
use super::state::{ChainState, script_hash};

/// A confirmed or waiting transaction.
pub(super) fn find<'a>(
    chain: &'a ChainState,
    mempool: &'a Mempool,
    txid: &Txid,
) -> Option<&'a Transaction> {
    let confirmed = chain.transaction(txid).map(|(tx, _, _)| tx);
    confirmed.or_else(|| mempool.transaction(txid))
}

fn output<'a>(
    chain: &'a ChainState,
    mempool: &'a Mempool,
    outpoint: &OutPoint,
) -> Option<&'a TxOut> {
    let index = usize::try_from(outpoint.vout).ok()?;
    find(chain, mempool, &outpoint.txid)?.output.get(index)
}

/// Whether a transaction pays to or spends from a script.
pub(super) fn touches(
    chain: &ChainState,
    mempool: &Mempool,
    tx: &Transaction,
    hash: &sha256::Hash,
) -> bool {
    let is_it = |script: &Script| script_hash(script) == *hash;
    tx.output.iter().any(|output| is_it(&output.script_pubkey))
        || tx.input.iter().any(|input| {
            output(chain, mempool, &input.previous_output)
                .is_some_and(|spent| is_it(&spent.script_pubkey))
        })
}

pub(super) fn block(chain: &ChainState, height: u32) -> Option<Value> {
    let link = chain.link(height)?;
    let header = &link.block.header;
    let previous = (height > 0).then(|| header.prev_blockhash.to_string());
    Some(json!({
        "id": link.hash.to_string(),
        "height": height,
        "version": header.version.to_consensus(),
        "timestamp": header.time,
        "tx_count": link.block.txdata.len(),
        "size": link.block.total_size(),
        "weight": link.block.weight().to_wu(),
        "merkle_root": header.merkle_root.to_string(),
        "previousblockhash": previous,
        "mediantime": chain.median_time_past(height),
        "nonce": header.nonce,
        "bits": header.bits.to_consensus(),
        "difficulty": 0,
    }))
}

pub(super) fn block_status(chain: &ChainState, hash: &BlockHash) -> Value {
    let Some(height) = chain.height_of(hash) else {
        return json!({ "in_best_chain": false });
    };
    let next = height.checked_add(1).and_then(|next| chain.link(next));
    json!({
        "in_best_chain": true,
        "height": height,
        "next_best": next.map(|link| link.hash.to_string()),
    })
}

pub(super) fn tx_status(chain: &ChainState, txid: &Txid) -> Value {
    let place = chain.transaction(txid);
    let Some((height, link)) = place.and_then(|(_, height, _)| Some((height, chain.link(height)?)))
    else {
        return json!({ "confirmed": false });
    };
    json!({
        "confirmed": true,
        "block_height": height,
        "block_hash": link.hash.to_string(),
        "block_time": link.block.header.time,
    })
}

pub(super) fn tx(chain: &ChainState, mempool: &Mempool, txid: &Txid) -> Option<Value> {
    let tx = find(chain, mempool, txid)?;
    let is_coinbase = tx.is_coinbase();
    let mut spent_sats = 0u64;
    let mut inputs = Vec::new();
    for input in &tx.input {
        let prevout = output(chain, mempool, &input.previous_output);
        spent_sats = spent_sats.saturating_add(prevout.map_or(0, |out| out.value.to_sat()));
        let witness: Vec<String> = input.witness.iter().map(hex::encode).collect();
        inputs.push(json!({
            "txid": input.previous_output.txid.to_string(),
            "vout": input.previous_output.vout,
            "prevout": prevout.map(output_json),
            "scriptsig": input.script_sig.to_hex_string(),
            "witness": witness,
            "sequence": input.sequence.to_consensus_u32(),
            "is_coinbase": is_coinbase,
        }));
    }
    let created_sats: u64 = tx.output.iter().map(|out| out.value.to_sat()).sum();
    Some(json!({
        "txid": txid.to_string(),
        "version": tx.version.0,
        "locktime": tx.lock_time.to_consensus_u32(),
        "vin": inputs,
        "vout": tx.output.iter().map(output_json).collect::<Vec<_>>(),
        "size": tx.total_size(),
        "weight": tx.weight().to_wu(),
        "fee": spent_sats.saturating_sub(created_sats),
        "status": tx_status(chain, txid),
    }))
}

fn output_json(output: &TxOut) -> Value {
    json!({
        "scriptpubkey": output.script_pubkey.to_hex_string(),
        "value": output.value.to_sat(),
    })
}

pub(super) fn outspend(chain: &ChainState, mempool: &Mempool, outpoint: &OutPoint) -> Value {
    let spender = chain.spender(outpoint);
    match spender.or_else(|| mempool.spender(outpoint)) {
        None => json!({ "spent": false }),
        Some((txid, vin)) => json!({
            "spent": true,
            "txid": txid.to_string(),
            "vin": vin,
            "status": tx_status(chain, &txid),
        }),
    }
}

/// The outputs of a script that nothing spends, not even a waiting transaction.
pub(super) fn unspent(chain: &ChainState, mempool: &Mempool, hash: &sha256::Hash) -> Value {
    let confirmed = chain.history(hash).iter();
    let confirmed = confirmed.filter_map(|txid| chain.transaction(txid).map(|(tx, _, _)| tx));
    confirmed
        .chain(mempool.transactions())
        .flat_map(outputs_of)
        .filter(|(outpoint, output)| {
            let spent = chain.spender(outpoint).is_some() || mempool.spender(outpoint).is_some();
            !spent && script_hash(&output.script_pubkey) == *hash
        })
        .map(|(outpoint, output)| {
            json!({
                "txid": outpoint.txid.to_string(),
                "vout": outpoint.vout,
                "value": output.value.to_sat(),
                "status": tx_status(chain, &outpoint.txid),
            })
        })
        .collect()
}
