//! The PSBTs that the fuzz target `wallet_texts` begins with, as they are made.

use flashkit::chain::bitcoin::absolute::LockTime;
use flashkit::chain::bitcoin::secp256k1::{Secp256k1, SecretKey};
use flashkit::chain::bitcoin::transaction::Version;
use flashkit::chain::bitcoin::{
    Amount, CompressedPublicKey, Network, OutPoint, PrivateKey, Psbt, ScriptBuf, Sequence,
    Transaction, TxIn, TxOut, Witness,
};
use flashkit::wallets::signed_transaction;

#[test]
fn the_corpus_has_a_psbt_and_its_signed_form() {
    let secp = Secp256k1::new();
    let key = PrivateKey::new(SecretKey::from_slice(&[5; 32]).unwrap(), Network::Regtest);
    let public = CompressedPublicKey::from_private_key(&secp, &key).unwrap();
    let ours = ScriptBuf::new_p2wpkh(&public.wpubkey_hash());
    let output = |sats| TxOut {
        value: Amount::from_sat(sats),
        script_pubkey: ours.clone(),
    };
    let before = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn::default()],
        output: vec![output(50_000)],
    };
    let spend = Transaction {
        input: vec![TxIn {
            previous_output: OutPoint::new(before.compute_txid(), 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![output(49_000)],
        ..before.clone()
    };
    let mut psbt = Psbt::from_unsigned_tx(spend).unwrap();
    psbt.inputs[0].witness_utxo = Some(output(50_000));
    psbt.inputs[0].non_witness_utxo = Some(before);
    let origin = (Default::default(), Default::default());
    psbt.inputs[0].bip32_derivation.insert(public.0, origin);
    let prepared = psbt.to_string();
    let named = flashkit::chain::bitcoin::PublicKey::from(public);
    let keys = std::collections::BTreeMap::from([(named, key)]);
    psbt.sign(&keys, &secp).unwrap();
    let signed = psbt.to_string();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/wallet_texts");
    if std::env::var_os("FLASHKIT_WRITE_CORPUS").is_some() {
        std::fs::write(folder.join("prepared"), &prepared).unwrap();
        std::fs::write(folder.join("signed"), &signed).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(folder.join("prepared")).unwrap(),
        prepared
    );
    assert_eq!(
        std::fs::read_to_string(folder.join("signed")).unwrap(),
        signed
    );
    signed_transaction(&prepared, &signed).unwrap();
    assert_eq!(
        signed_transaction(&prepared, &prepared).unwrap_err().code(),
        "wallet.not_signed"
    );
}
