//! Whatever an Esplora server or a Bitcoin Core node answers is read or refused: no panic, and what
//! was read is what stands there.

use flashkit::chain::answers::{self, Placed};
use flashkit::chain::bitcoin::{BlockHash, Txid, consensus};
use flashkit::chain::{BlockId, ChainError};
use serde_json::{Value, json, value::RawValue};

pub fn run(data: &[u8]) -> bool {
    let mut read = [esplora(data), plain(data), bitcoind(data)];
    read.sort_unstable();
    read[2]
}

/// As a server writes it.
fn written((txid, block): &Placed) -> Value {
    let status = match block {
        Some(BlockId { height, hash }) => {
            json!({ "confirmed": true, "block_height": height, "block_hash": hash.to_string() })
        }
        None => json!({ "confirmed": false }),
    };
    json!({ "txid": txid.to_string(), "status": status })
}

fn esplora(data: &[u8]) -> bool {
    let mut read = false;
    if let Ok(page) = answers::esplora_history(data) {
        let text = Value::from_iter(page.iter().map(written)).to_string();
        assert_eq!(answers::esplora_history(text.as_bytes()), Ok(page));
        read = true;
    }
    if let Ok(listed) = answers::esplora_listed(data) {
        let text = written(&listed).to_string();
        assert_eq!(answers::esplora_listed(text.as_bytes()), Ok(listed));
        read = true;
    }
    if let Ok(Some(spend)) = answers::esplora_outspend(data) {
        let mut text = written(&spend);
        text["spent"] = true.into();
        let text = text.to_string();
        assert_eq!(answers::esplora_outspend(text.as_bytes()), Ok(Some(spend)));
        read = true;
    }
    for height in [0, 800_000, u32::MAX] {
        if let Ok(Some(branch)) = answers::esplora_proof(data, height) {
            let merkle: Vec<_> = branch.siblings.iter().map(ToString::to_string).collect();
            let proof = json!({ "block_height": height, "merkle": merkle, "pos": branch.position });
            let again = answers::esplora_proof(proof.to_string().as_bytes(), height);
            assert_eq!(again, Ok(Some(branch)));
            read = true;
        }
    }
    match answers::esplora_fee_rates(data) {
        Ok(rates) => {
            let rates = [
                rates.fast_sat_per_kvb,
                rates.normal_sat_per_kvb,
                rates.slow_sat_per_kvb,
            ];
            assert!(rates.iter().all(|rate| *rate > 0), "a rate of nothing");
            true
        }
        Err(ChainError::NoFeeRate | ChainError::BadAnswer { .. }) => read,
        Err(other) => panic!("{other}"),
    }
}

fn plain(data: &[u8]) -> bool {
    let height = answers::esplora_value::<u32>(data, "the tip");
    let hash = answers::esplora_value::<BlockHash>(data, "a block");
    if let Ok(hash) = &hash {
        let again = answers::esplora_value(hash.to_string().as_bytes(), "a block");
        assert_eq!(again, Ok(*hash));
    }
    let header = answers::esplora_header(data);
    if let Ok(header) = &header {
        let text = consensus::encode::serialize_hex(header);
        assert_eq!(answers::esplora_header(text.as_bytes()), Ok(*header));
    }
    let transaction = consensus::deserialize(data).ok();
    let txid = transaction.map(|it: flashkit::chain::bitcoin::Transaction| it.compute_txid());
    if let Some(txid) = txid {
        let read = answers::esplora_transaction(data, txid);
        assert_eq!(read.map(|read| read.compute_txid()), Ok(txid));
        let other = <Txid as flashkit::chain::bitcoin::hashes::Hash>::all_zeros();
        assert!(answers::esplora_transaction(data, other).is_err());
    }
    height.is_ok() || hash.is_ok() || header.is_ok() || txid.is_some()
}

fn bitcoind(data: &[u8]) -> bool {
    let result: Box<RawValue> = match answers::bitcoind_reply(data, "fuzz") {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => return true,
        Err(_) => return false,
    };
    if let Ok(tip) = answers::bitcoind_tip(&result) {
        let (blocks, hash) = (tip.height, tip.hash.to_string());
        let again = json!({ "result": { "blocks": blocks, "bestblockhash": hash } });
        let again = answers::bitcoind_reply(again.to_string().as_bytes(), "fuzz");
        let again = again.expect("a reply").expect("a result");
        assert_eq!(answers::bitcoind_tip(&again), Ok(tip));
    }
    if let Ok(rate) = answers::bitcoind_fee_rate(&result) {
        assert_ne!(rate, Some(0));
    }
    true
}
