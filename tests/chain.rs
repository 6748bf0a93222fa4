//! The rules of the testkit's chain, its reorganisations, and what survives a kill.
#![cfg(feature = "testkit")]

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::key::{Keypair, Secp256k1, TapTweak};
use bitcoin::opcodes::{OP_TRUE, all::OP_CSV, all::OP_DROP};
use bitcoin::script::Builder;
use bitcoin::secp256k1::{All, Message, SecretKey};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::{
    Address, Amount, CompressedPublicKey, KnownHrp, Network, OutPoint, ScriptBuf, Sequence,
    Transaction, TxIn, TxOut, Txid, Witness, absolute, transaction,
};
use flashkit::testkit::chain::{BlockRefusal, ChainError, EsploraServer, RegtestChain, TxRefusal};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const COIN_SATS: u64 = 100_000;

struct Owner {
    secp: Secp256k1<All>,
    key: SecretKey,
}

impl Owner {
    fn new(seed: u8) -> Self {
        let key = SecretKey::from_slice(&[seed; 32]).unwrap();
        Self {
            secp: Secp256k1::new(),
            key,
        }
    }

    fn public(&self) -> CompressedPublicKey {
        CompressedPublicKey(self.key.public_key(&self.secp))
    }

    fn address(&self) -> Address {
        Address::p2wpkh(&self.public(), Network::Regtest)
    }

    fn taproot_address(&self) -> Address {
        let (internal, _) = self.key.x_only_public_key(&self.secp);
        Address::p2tr(&self.secp, internal, None, KnownHrp::Regtest)
    }

    /// Signs the only input of `tx`, which spends `spent`.
    fn sign(&self, tx: &mut Transaction, spent: &TxOut) {
        let mut cache = SighashCache::new(&*tx);
        let kind = EcdsaSighashType::All;
        let hash = cache
            .p2wpkh_signature_hash(0, &spent.script_pubkey, spent.value, kind)
            .unwrap();
        let signature = self.secp.sign_ecdsa(&Message::from(hash), &self.key);
        let signature = bitcoin::ecdsa::Signature {
            signature,
            sighash_type: kind,
        };
        tx.input[0].witness = Witness::p2wpkh(&signature, &self.public().0);
    }

    fn sign_taproot(&self, tx: &mut Transaction, spent: &TxOut) {
        let hash = SighashCache::new(&*tx)
            .taproot_key_spend_signature_hash(0, &Prevouts::All(&[spent]), TapSighashType::Default)
            .unwrap();
        let pair = Keypair::from_secret_key(&self.secp, &self.key).tap_tweak(&self.secp, None);
        let signature = self
            .secp
            .sign_schnorr_no_aux_rand(&Message::from(hash), &pair.to_keypair());
        tx.input[0].witness = Witness::from_slice(&[signature.as_ref()]);
    }
}

/// An unsigned transaction with one input and one output.
fn spend(outpoint: OutPoint, value_sats: u64, to: ScriptBuf) -> Transaction {
    Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: outpoint,
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            ..TxIn::default()
        }],
        output: vec![TxOut {
            value: Amount::from_sat(value_sats),
            script_pubkey: to,
        }],
    }
}

fn fund(chain: &RegtestChain, address: &Address) -> (OutPoint, TxOut) {
    let txid = chain.fund(&address.to_string(), COIN_SATS).unwrap();
    let tx = chain.transaction(&txid).unwrap().unwrap();
    (OutPoint { txid, vout: 0 }, tx.output[0].clone())
}

fn refusal(result: Result<Txid, ChainError>) -> TxRefusal {
    match result {
        Err(ChainError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn signed(owner: &Owner, coin: &(OutPoint, TxOut), value_sats: u64) -> Transaction {
    let mut tx = spend(coin.0, value_sats, owner.address().script_pubkey());
    owner.sign(&mut tx, &coin.1);
    tx
}

#[test]
fn a_coinbase_is_spendable_after_100_blocks() {
    let chain = RegtestChain::in_memory();
    let hash = chain.mine(1).unwrap()[0];
    let coinbase = chain.block(&hash).unwrap().unwrap().txdata[0].clone();
    let open = Builder::new().push_opcode(OP_TRUE).into_script();
    let outpoint = OutPoint {
        txid: coinbase.compute_txid(),
        vout: 0,
    };
    let mut tx = spend(
        outpoint,
        4_999_999_000,
        Owner::new(1).address().script_pubkey(),
    );
    tx.input[0].witness = Witness::from_slice(&[open.as_bytes()]);
    chain.mine(98).unwrap();
    assert_eq!(
        refusal(chain.submit(tx.clone())),
        TxRefusal::ImmatureCoinbase {
            outpoint,
            spendable_at_height: 101
        }
    );
    chain.mine(1).unwrap();
    chain.submit(tx).unwrap();
}

#[test]
fn a_double_spend_must_pay_more_and_a_confirmed_coin_is_gone() {
    let (chain, owner) = (RegtestChain::in_memory(), Owner::new(1));
    let coin = fund(&chain, &owner.address());
    let first = chain
        .submit(signed(&owner, &coin, COIN_SATS - 1_000))
        .unwrap();
    let change = chain.transaction(&first).unwrap().unwrap().output[0].clone();
    let child_coin = (
        OutPoint {
            txid: first,
            vout: 0,
        },
        change,
    );
    let child = chain
        .submit(signed(&owner, &child_coin, COIN_SATS - 2_000))
        .unwrap();
    let size = u64::try_from(signed(&owner, &coin, 1).vsize()).unwrap();
    // The fees of both, and its own size on top.
    let required = 2_000 + size;
    let low = signed(&owner, &coin, COIN_SATS - required + 1);
    assert_eq!(
        refusal(chain.submit(low)),
        TxRefusal::ReplacementUnderpays {
            outpoint: coin.0,
            fee_sats: required - 1,
            required_sats: required
        }
    );
    assert!(chain.mempool_txids().unwrap().contains(&child));
    let winner = chain
        .submit(signed(&owner, &coin, COIN_SATS - required))
        .unwrap();
    assert_eq!(chain.mempool_txids().unwrap(), [coin.0.txid, winner]);
    chain.mine(1).unwrap();
    assert_eq!(chain.confirmations(&winner).unwrap(), Some(1));
    assert_eq!(
        refusal(chain.submit(signed(&owner, &coin, COIN_SATS - 50_000))),
        TxRefusal::InputSpent {
            outpoint: coin.0,
            by: winner
        }
    );
}

#[test]
fn shapes_fees_and_amounts_are_checked() {
    let (chain, owner) = (RegtestChain::in_memory(), Owner::new(1));
    let coin = fund(&chain, &owner.address());
    assert!(matches!(
        refusal(chain.submit(signed(&owner, &coin, COIN_SATS - 50))),
        TxRefusal::FeeBelowRelayMinimum { fee_sats: 50, .. }
    ));
    assert!(matches!(
        refusal(chain.submit(signed(&owner, &coin, COIN_SATS + 1))),
        TxRefusal::OutputsExceedInputs { .. }
    ));
    let unknown = OutPoint {
        txid: Txid::all_zeros(),
        vout: 3,
    };
    assert_eq!(
        refusal(chain.submit(spend(unknown, 1, ScriptBuf::new()))),
        TxRefusal::MissingInput { outpoint: unknown }
    );
    let mut late = spend(coin.0, COIN_SATS - 1_000, ScriptBuf::new());
    let height = chain.height().unwrap();
    late.lock_time = absolute::LockTime::from_height(height + 1).unwrap();
    owner.sign(&mut late, &coin.1);
    assert_eq!(
        refusal(chain.submit(late.clone())),
        TxRefusal::NotFinal {
            lock_time: height + 1
        }
    );
    chain.mine(1).unwrap();
    chain.submit(late).unwrap();
    let wrong = chain.fund("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", 1);
    assert!(matches!(wrong, Err(ChainError::InvalidAddress { .. })));
    let much = chain.fund(&owner.address().to_string(), 900_000_000_000);
    assert!(matches!(much, Err(ChainError::InsufficientFunds { .. })));
}

#[test]
fn a_signature_must_fit_key_and_contents() {
    let (chain, owner, thief) = (RegtestChain::in_memory(), Owner::new(1), Owner::new(2));
    let coin = fund(&chain, &owner.address());
    let failed = TxRefusal::ScriptFailed { input: 0 };
    assert_eq!(
        refusal(chain.submit(signed(&thief, &coin, COIN_SATS - 1_000))),
        failed
    );
    let mut changed = signed(&owner, &coin, COIN_SATS - 1_000);
    changed.output[0].script_pubkey = thief.address().script_pubkey();
    assert_eq!(refusal(chain.submit(changed)), failed);
    chain
        .submit(signed(&owner, &coin, COIN_SATS - 1_000))
        .unwrap();
}

#[test]
fn taproot_is_spent_by_its_key_only() {
    let (chain, owner, thief) = (RegtestChain::in_memory(), Owner::new(1), Owner::new(2));
    let coin = fund(&chain, &owner.taproot_address());
    let failed = TxRefusal::ScriptFailed { input: 0 };
    let mut tx = spend(coin.0, COIN_SATS - 1_000, owner.address().script_pubkey());
    assert_eq!(refusal(chain.submit(tx.clone())), failed);
    thief.sign_taproot(&mut tx, &coin.1);
    assert_eq!(refusal(chain.submit(tx.clone())), failed);
    tx.input[0].witness = Witness::from_slice(&[vec![1], vec![0x51], vec![0xc0; 33]]);
    assert_eq!(
        refusal(chain.submit(tx.clone())),
        TxRefusal::TaprootScriptPath { input: 0 }
    );
    owner.sign_taproot(&mut tx, &coin.1);
    let mut changed = tx.clone();
    changed.output[0].value -= Amount::from_sat(1);
    assert_eq!(refusal(chain.submit(changed)), failed);
    chain.submit(tx).unwrap();
}

#[test]
fn a_relative_lock_holds_until_its_block() {
    let chain = RegtestChain::in_memory();
    let script = Builder::new()
        .push_int(10)
        .push_opcode(OP_CSV)
        .push_opcode(OP_DROP)
        .push_opcode(OP_TRUE)
        .into_script();
    let coin = fund(&chain, &Address::p2wsh(&script, Network::Regtest));
    chain.mine(1).unwrap();
    let mut tx = spend(
        coin.0,
        COIN_SATS - 1_000,
        Owner::new(1).address().script_pubkey(),
    );
    tx.input[0].witness = Witness::from_slice(&[script.as_bytes()]);
    tx.input[0].sequence = Sequence::from_height(9);
    // One confirmation: the coin is old enough for 9 blocks only after eight more.
    chain.mine(8).unwrap();
    assert_eq!(
        refusal(chain.submit(tx.clone())),
        TxRefusal::ScriptFailed { input: 0 }
    );
    tx.input[0].sequence = Sequence::from_height(10);
    assert_eq!(
        refusal(chain.submit(tx.clone())),
        TxRefusal::RelativeLockNotReached { input: 0 }
    );
    chain.mine(1).unwrap();
    chain.submit(tx).unwrap();
}

#[test]
fn a_reorganisation_returns_transactions_and_can_confirm_a_double_spend() {
    let (chain, owner) = (RegtestChain::in_memory(), Owner::new(1));
    let coin = fund(&chain, &owner.address());
    chain.mine(3).unwrap();
    let (height, tip) = (chain.height().unwrap(), chain.tip_hash().unwrap());
    chain.reorg(3).unwrap();
    assert_eq!(chain.height().unwrap(), height + 1);
    assert_ne!(chain.tip_hash().unwrap(), tip);
    assert_eq!(chain.mempool_txids().unwrap(), [coin.0.txid]);
    chain.mine(1).unwrap();
    assert_eq!(chain.confirmations(&coin.0.txid).unwrap(), Some(1));

    let first = chain
        .submit(signed(&owner, &coin, COIN_SATS - 1_000))
        .unwrap();
    chain.mine(1).unwrap();
    let rival = signed(&owner, &coin, COIN_SATS - 700);
    let rival_id = rival.compute_txid();
    // A block that holds both is refused, and nothing has changed.
    let both = vec![vec![rival.clone(), signed(&owner, &coin, COIN_SATS - 800)]];
    let tip = chain.tip_hash().unwrap();
    let refused = chain.replace(1, both);
    assert!(matches!(
        refused,
        Err(ChainError::BlockRefused(BlockRefusal::Transaction {
            refusal: TxRefusal::InputSpent { .. },
            ..
        }))
    ));
    assert_eq!(chain.tip_hash().unwrap(), tip);
    assert_eq!(chain.confirmations(&first).unwrap(), Some(1));
    chain.replace(1, vec![vec![rival], vec![]]).unwrap();
    assert_eq!(chain.confirmations(&rival_id).unwrap(), Some(2));
    assert_eq!(chain.confirmations(&first).unwrap(), None);
    assert_eq!(chain.mempool_txids().unwrap(), []);

    // Without the old coinbases nothing that came from them can wait.
    let height = chain.height().unwrap();
    chain.reorg(height).unwrap();
    assert_eq!(chain.height().unwrap(), height + 1);
    assert_eq!(chain.mempool_txids().unwrap(), []);
    assert!(matches!(
        chain.reorg(height + 2),
        Err(ChainError::ReorgTooDeep { .. })
    ));
}

fn log_of(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("chain.log")).unwrap()
}

/// What a chain tells: tip and mempool.
fn state(chain: &RegtestChain) -> (bitcoin::BlockHash, Vec<Txid>) {
    (chain.tip_hash().unwrap(), chain.mempool_txids().unwrap())
}

#[test]
fn a_kept_chain_goes_on_where_it_was() {
    let (folder, owner) = (tempfile::tempdir().unwrap(), Owner::new(1));
    let chain = RegtestChain::open(folder.path()).unwrap();
    let coin = fund(&chain, &owner.address());
    chain
        .submit(signed(&owner, &coin, COIN_SATS - 1_000))
        .unwrap();
    chain.mine(2).unwrap();
    chain.reorg(2).unwrap();
    chain
        .submit(signed(&owner, &coin, COIN_SATS - 5_000))
        .unwrap();
    let before = state(&chain);
    assert_eq!(before.1.len(), 2);
    assert!(matches!(
        RegtestChain::open(folder.path()),
        Err(ChainError::LogInUse { .. })
    ));
    drop(chain);
    let chain = RegtestChain::open(folder.path()).unwrap();
    assert_eq!(state(&chain), before);
    chain.mine(1).unwrap();
    assert_eq!(chain.confirmations(&before.1[1]).unwrap(), Some(1));
    drop(chain);
    let mut bytes = log_of(folder.path());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(folder.path().join("chain.log"), bytes).unwrap();
    let damaged = RegtestChain::open(folder.path());
    assert!(matches!(damaged, Err(ChainError::LogDamaged { .. })));
}

/// Opens every beginning of a log that ends within its last record, and goes on from there.
fn cut_everywhere(whole: &[u8], from: usize, expected: &(bitcoin::BlockHash, Vec<Txid>)) {
    for cut in from..whole.len() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("chain.log"), &whole[..cut]).unwrap();
        let chain = RegtestChain::open(folder.path()).unwrap();
        assert_eq!(state(&chain), *expected, "cut at {cut} of {}", whole.len());
        assert_eq!(log_of(folder.path()).len(), from.max(8));
        // Going on costs three flushes, so not after every cut.
        if cut % 8 != 0 {
            continue;
        }
        chain.mine(1).unwrap();
        let after = state(&chain);
        drop(chain);
        assert_eq!(state(&RegtestChain::open(folder.path()).unwrap()), after);
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let empty = state(&RegtestChain::in_memory());
    let mut start = 0;
    // The first round also tears the magic bytes of a new file.
    for round in 0..2 {
        let chain = RegtestChain::open(folder.path()).unwrap();
        let before = state(&chain);
        assert_eq!(before == empty, round == 0);
        chain.mine(1).unwrap();
        drop(chain);
        let whole = log_of(folder.path());
        cut_everywhere(&whole, start, &before);
        start = whole.len();
    }
    // A reorganisation is one record: never seen half done.
    let chain = RegtestChain::open(folder.path()).unwrap();
    let before = state(&chain);
    chain.reorg(2).unwrap();
    drop(chain);
    cut_everywhere(&log_of(folder.path()), start, &before);
    // A transaction of the mempool.
    let (folder, owner) = (tempfile::tempdir().unwrap(), Owner::new(1));
    let chain = RegtestChain::open(folder.path()).unwrap();
    chain.mine(101).unwrap();
    let (before, start) = (state(&chain), log_of(folder.path()).len());
    fund(&chain, &owner.address());
    drop(chain);
    cut_everywhere(&log_of(folder.path()), start, &before);
}

async fn request(server: &EsploraServer, head: &str, body: &str) -> (u16, Vec<u8>) {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    let length = body.len();
    let text = format!(
        "{head} HTTP/1.1\r\nHost: chain\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&bytes[9..12]).parse().unwrap();
    (status, bytes[split + 4..].to_vec())
}

async fn get(server: &EsploraServer, path: &str) -> (u16, Value) {
    let (status, body) = request(server, &format!("GET {path}"), "").await;
    let text = String::from_utf8_lossy(&body).into_owned();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

#[tokio::test]
async fn histories_page_and_what_is_unknown_is_not_found() {
    let chain = Arc::new(RegtestChain::in_memory());
    let owner = Owner::new(1);
    let coins: Vec<_> = (0..30).map(|_| fund(&chain, &owner.address())).collect();
    chain.mine(1).unwrap();
    let waiting = chain
        .submit(signed(&owner, &coins[7], COIN_SATS - 1_000))
        .unwrap();
    let server = Arc::clone(&chain).serve().await.unwrap();
    let hash = sha256::Hash::hash(owner.address().script_pubkey().as_bytes());
    let ids = |value: &Value| -> Vec<Txid> {
        let txs = value.as_array().unwrap().iter();
        txs.map(|tx| Txid::from_str(tx["txid"].as_str().unwrap()).unwrap())
            .collect()
    };
    let (_, first) = get(&server, &format!("/scripthash/{hash}/txs")).await;
    let mut seen = ids(&first);
    assert_eq!((seen.len(), seen[0]), (26, waiting));
    let (_, rest) = get(
        &server,
        &format!("/scripthash/{hash}/txs/chain/{}", seen[25]),
    )
    .await;
    seen.extend(ids(&rest));
    let newest_first: Vec<Txid> = coins.iter().rev().map(|coin| coin.0.txid).collect();
    assert_eq!(seen[1..], newest_first);
    let (_, end) = get(
        &server,
        &format!("/scripthash/{hash}/txs/chain/{}", seen[30]),
    )
    .await;
    assert_eq!(ids(&end), []);

    let path = format!("/tx/{}/outspend/0", coins[7].0.txid);
    let (_, spent) = get(&server, &path).await;
    assert_eq!(spent["txid"], waiting.to_string());
    assert_eq!(spent["status"]["confirmed"], false);
    let nowhere = "00".repeat(32);
    for (status, path) in [
        (404, format!("/tx/{nowhere}")),
        (404, format!("/tx/{nowhere}/raw")),
        (404, format!("/tx/{nowhere}/outspend/0")),
        (404, format!("/tx/{waiting}/merkleblock-proof")),
        (404, format!("/block/{nowhere}/header")),
        (404, "/block-height/4000000".to_owned()),
        (400, "/block-height/x".to_owned()),
        (400, "/tx/zz/status".to_owned()),
        (404, "/nothing".to_owned()),
    ] {
        assert_eq!(get(&server, &path).await.0, status, "{path}");
    }
    let (status, body) = request(&server, "POST /tx", "00").await;
    assert_eq!((status, body), (400, b"Transaction decode failed".to_vec()));
    let poor = bitcoin::consensus::encode::serialize_hex(&signed(&owner, &coins[8], COIN_SATS));
    let (status, body) = request(&server, "POST /tx", &poor).await;
    assert_eq!(status, 400);
    assert!(
        String::from_utf8_lossy(&body).contains("\"code\":-26"),
        "{body:?}"
    );

    let port = server.port();
    server.stop().await;
    let again = Arc::clone(&chain).serve_on(port).await.unwrap();
    assert_eq!(
        get(&again, "/blocks/tip/height").await,
        (200, Value::from(102))
    );
    assert!(matches!(
        chain.serve_on(port).await,
        Err(ChainError::Bind { .. })
    ));
}
