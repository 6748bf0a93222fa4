//! A receipt of a payment on chain, proven by its way to a block that the verifier knows.

use flashkit::chain::bitcoin::absolute::LockTime;
use flashkit::chain::bitcoin::consensus::encode::{deserialize, deserialize_hex, serialize_hex};
use flashkit::chain::bitcoin::hashes::{Hash, sha256};
use flashkit::chain::bitcoin::secp256k1::{Keypair, Message, Secp256k1};
use flashkit::chain::bitcoin::{Transaction, block::Header};
use flashkit::chain::{BlockId, ChainSource, MerkleBranch};
use flashkit::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, Rail};
use flashkit::receipts::{
    IssueReceipt, IssuedReceipt, OnChainProof, ProveReceipt, ReceiptBundle, ReceiptKind, Trust,
    Unverified, verify,
};
use flashkit::wallets::{WalletOwner, WalletSource};

use crate::scene::{Scene, Signer};
use crate::sources::{Servers, servers};
use crate::support::{key, shop};
use flashkit::wallets::XpubKind;

async fn ask(scene: &Scene, name: &str, merchant: flashkit::ids::MerchantId) -> Invoice {
    let command = CreateInvoice {
        key: key(name),
        purpose: InvoicePurpose::Sale { merchant },
        price: Some(shop::sat(80_000)),
        description: name.to_owned(),
        expiry_seconds: 3_600,
        options: InvoiceOptions {
            rails: vec![Rail::OnChain],
            ..InvoiceOptions::default()
        },
    };
    let invoices = scene.engine.invoices();
    invoices.create(&scene.issuer, command).await.unwrap().value
}

async fn print(scene: &Scene, name: &str, invoice: &Invoice) -> IssuedReceipt {
    let command = IssueReceipt {
        key: key(name),
        invoice: invoice.id,
    };
    let receipts = scene.engine.receipts();
    receipts.issue(&scene.issuer, command).await.unwrap().value
}

async fn prove(
    scene: &Scene,
    invoice: &IssuedReceipt,
    through_height: Option<u32>,
) -> Result<ReceiptBundle, &'static str> {
    let query = ProveReceipt {
        merchant: invoice.receipt.merchant,
        number: invoice.receipt.number,
        through_height,
    };
    let receipts = scene.engine.receipts();
    let answer = receipts.prove(&scene.issuer, query).await;
    answer
        .map(|answer| answer.value)
        .map_err(|error| error.code())
}

async fn block(source: &dyn ChainSource, height: u32) -> BlockId {
    let hash = source.block_hash(height).await.unwrap().unwrap();
    BlockId { height, hash }
}

fn code(bundle: &ReceiptBundle, trust: &Trust) -> &'static str {
    verify(bundle, trust).map_or_else(|error| error.code(), |_| "proven")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_on_chain_is_proven_up_to_a_block_that_is_trusted() {
    let Servers {
        chain,
        sources,
        esplora: _kept,
        ..
    } = &servers().await;
    chain.mine(110).unwrap();
    let source = &sources[0].1;
    let scene = Scene::open(source.clone()).await;
    let merchant = scene.merchant().await;
    let owner = WalletOwner::Merchant { merchant };
    scene
        .wallet(owner, Signer::new(1).xpub(XpubKind::SegwitV0))
        .await;
    let (invoice, other) = (
        ask(&scene, "lunch", merchant).await,
        ask(&scene, "dinner", merchant).await,
    );
    let address = |invoice: &Invoice| invoice.on_chain.as_ref().unwrap().address.clone();
    // Several in the block, so that there is a way to go.
    for (invoice, times) in [(&invoice, 1), (&other, 1)] {
        for _ in 0..times {
            chain.fund(&address(invoice), 80_000).unwrap();
        }
    }
    for number in 5..9 {
        chain
            .fund(&crate::sources::script(number).1, 50_000)
            .unwrap();
    }
    chain.mine(4).unwrap();
    scene.look().await;
    let receipt = print(&scene, "lunch", &invoice).await;
    let dinner = print(&scene, "dinner", &other).await;
    let good = prove(&scene, &receipt, None).await.unwrap();
    let keys = scene.engine.receipts().keys().await.unwrap().value;
    let trust = |blocks: Vec<BlockId>| Trust {
        keys: keys.clone(),
        nodes: Vec::new(),
        blocks,
    };

    // The last block vouches for all before it; the payment's own for itself.
    let (first, last) = (
        block(source.as_ref(), 111).await,
        block(source.as_ref(), 114).await,
    );
    let proven = verify(&good, &trust(vec![last])).unwrap().on_chain;
    assert_eq!(
        (
            proven[0].amount_sat,
            proven[0].block,
            proven[0].confirmations
        ),
        (80_000, first, 4)
    );
    let proven = verify(&good, &trust(vec![first])).unwrap().on_chain;
    assert_eq!((proven[0].block, proven[0].confirmations), (first, 1));
    // One before it does not: anybody can build on that.
    let before = block(source.as_ref(), 110).await;
    assert_eq!(code(&good, &trust(vec![before])), "receipt.unknown_chain");
    assert_eq!(code(&good, &trust(Vec::new())), "receipt.unknown_chain");

    // Every source hands out the same.
    for (name, source) in sources {
        let scene = Scene::on(scene.store.clone(), source.clone()).await;
        assert_eq!(prove(&scene, &receipt, None).await.unwrap(), good, "{name}");
        let short = prove(&scene, &receipt, Some(112)).await.unwrap();
        assert_eq!(
            short.on_chain[0].headers,
            good.on_chain[0].headers[..2],
            "{name}"
        );
        for above in [110, 115] {
            let refused = prove(&scene, &receipt, Some(above)).await;
            assert_eq!(refused.unwrap_err(), "receipt.not_in_chain", "{name}");
        }
    }
    refuses(
        &good,
        &prove(&scene, &dinner, None).await.unwrap(),
        &trust(vec![last]),
    );
    // A seller that signs what its transaction does not pay.
    let says = |change: &dyn Fn(&mut serde_json::Value)| {
        let (receipt, key) = signed_anew(&good.receipt, change);
        let bundle = ReceiptBundle {
            receipt,
            ..good.clone()
        };
        let trust = Trust {
            keys: vec![key],
            ..trust(vec![last])
        };
        code(&bundle, &trust)
    };
    assert_eq!(says(&|_| {}), "proven");
    let forged = inner_node(&good);
    let names_it = |receipt: &mut serde_json::Value| {
        receipt["payments"][0]["reference"] = forged.0.clone().into();
    };
    let (receipt, key) = signed_anew(&good.receipt, &names_it);
    let bundle = ReceiptBundle {
        receipt,
        on_chain: vec![forged.1],
        ..good.clone()
    };
    let trust_forged = Trust {
        keys: vec![key],
        ..trust(vec![forged.2])
    };
    assert_eq!(code(&bundle, &trust_forged), "receipt.wrong_path");
    let elsewhere = address(&other);
    let to_another = |receipt: &mut serde_json::Value| {
        receipt["payments"][0]["address"] = elsewhere.clone().into();
    };
    assert_eq!(says(&to_another), "receipt.wrong_transaction");
    for amount_msat in [79_999_999_i64, 80_000_001, 1] {
        let another = |receipt: &mut serde_json::Value| {
            receipt["payments"][0]["amount_msat"] = amount_msat.into();
        };
        assert_eq!(says(&another), "receipt.wrong_transaction");
    }
    scene.engine.stop().await.unwrap();
}

/// A receipt that says something else, signed with a key of its own: the form is that of the guide.
fn signed_anew(
    receipt: &str,
    change: &dyn Fn(&mut serde_json::Value),
) -> (String, flashkit::receipts::ReceiptKey) {
    let secp = Secp256k1::new();
    let pair = Keypair::from_seckey_slice(&secp, &[7; 32]).unwrap();
    let mut lines = receipt.split('\n');
    let form = lines.next().unwrap();
    let mut body = serde_json::from_str(lines.next().unwrap()).unwrap();
    change(&mut body);
    let body = body.to_string();
    let tag = sha256::Hash::hash(b"flashkit/receipt/1");
    let signed = [tag.as_byte_array(), tag.as_byte_array(), body.as_bytes()].concat();
    let message = Message::from_digest(sha256::Hash::hash(&signed).to_byte_array());
    let signature = secp.sign_schnorr_no_aux_rand(&message, &pair);
    let public_key = pair.x_only_public_key().0.to_string();
    let key = flashkit::receipts::ReceiptKey {
        generation: 1,
        public_key: public_key.clone(),
        since_ms: 0,
        until_ms: None,
    };
    (format!("{form}\n{body}\n{public_key} {signature}"), key)
}

/// A payment that nobody made, below a transaction of 64 bytes that a block has: the first half of
/// which is the hash of the payment. The block is a good one, and so is every hash on the way.
fn inner_node(good: &ReceiptBundle) -> (String, OnChainProof, BlockId) {
    let mut never: Transaction = deserialize_hex(&good.on_chain[0].transaction).unwrap();
    let txid = loop {
        let next = never.lock_time.to_consensus_u32() + 1;
        never.lock_time = LockTime::from_consensus(next);
        let txid = never.compute_txid().to_byte_array();
        // One input.
        if txid[4] == 1 {
            break txid;
        }
    };
    let mut half = [0; 32];
    // No script, any sequence, one output with four bytes of script.
    (half[14], half[23]) = (1, 4);
    let pair = [txid, half].concat();
    let there: Transaction = deserialize(&pair).unwrap();
    assert_eq!(there.base_size(), 64);
    let other = good.on_chain[0].siblings[0].clone();
    let branch = MerkleBranch {
        position: 0,
        siblings: vec![other.parse().unwrap()],
    };
    let mut header: Header = deserialize_hex(&good.on_chain[0].headers[0]).unwrap();
    header.merkle_root = branch.root(there.compute_txid()).unwrap();
    while header.validate_pow(header.target()).is_err() {
        header.nonce = header.nonce.wrapping_add(1);
    }
    let mut half_as_written = half;
    half_as_written.reverse();
    let proof = OnChainProof {
        transaction: serialize_hex(&never),
        vout: good.on_chain[0].vout,
        position: 0,
        siblings: vec![hex::encode(half_as_written), other],
        headers: vec![serialize_hex(&header)],
    };
    let block = BlockId {
        height: 111,
        hash: header.block_hash(),
    };
    let outpoint = format!("{}:{}", never.compute_txid(), proof.vout);
    (outpoint, proof, block)
}

/// Everything that can be another than it is, of a proof that is good.
fn refuses(good: &ReceiptBundle, other: &ReceiptBundle, trust: &Trust) {
    assert_eq!(code(good, trust), "proven");
    let with = |change: &dyn Fn(&mut OnChainProof)| {
        let mut changed = good.clone();
        change(&mut changed.on_chain[0]);
        code(&changed, trust)
    };
    let theirs = &other.on_chain[0];
    // Another transaction, its place, its way, its output.
    assert_eq!(
        with(&|proof| *proof = theirs.clone()),
        "receipt.not_its_payment"
    );
    assert_eq!(
        with(&|proof| proof.position = theirs.position),
        "receipt.wrong_path"
    );
    assert_eq!(
        with(&|proof| proof.siblings.clone_from(&theirs.siblings)),
        "receipt.wrong_path"
    );
    assert_eq!(
        with(&|proof| drop(proof.siblings.pop())),
        "receipt.wrong_path"
    );
    assert_eq!(
        with(&|proof| proof.siblings[0] = "00".to_owned()),
        "receipt.wrong_path"
    );
    assert_eq!(with(&|proof| proof.vout += 1), "receipt.not_its_payment");
    assert_eq!(
        with(&|proof| proof.transaction.push('0')),
        "receipt.wrong_transaction"
    );
    let mut more: Transaction = deserialize_hex(&good.on_chain[0].transaction).unwrap();
    more.output[0].value = flashkit::chain::bitcoin::Amount::from_sat(1);
    let more = serialize_hex(&more);
    assert_eq!(
        with(&|proof| proof.transaction.clone_from(&more)),
        "receipt.not_its_payment"
    );
    // One that could as well be two hashes of the tree.
    let ambiguous = format!(
        "0200000001{}00ffffffff01{}0400000000{}",
        "00".repeat(36),
        "00".repeat(8),
        "00".repeat(4)
    );
    assert_eq!(ambiguous.len(), 128);
    let told = with(&|proof| proof.transaction.clone_from(&ambiguous));
    assert_eq!(told, "receipt.wrong_transaction");
    // Headers: none, one left out, one without work, one of another network's ease, one changed.
    assert_eq!(
        with(&|proof| proof.headers.clear()),
        "receipt.unknown_chain"
    );
    assert_eq!(
        with(&|proof| drop(proof.headers.remove(1))),
        "receipt.wrong_header"
    );
    assert_eq!(
        with(&|proof| drop(proof.headers.remove(0))),
        "receipt.wrong_path"
    );
    assert_eq!(
        with(&|proof| proof.headers.truncate(3)),
        "receipt.unknown_chain"
    );
    assert_eq!(
        with(&|proof| proof.headers[0].truncate(159)),
        "receipt.wrong_header"
    );
    assert_eq!(
        with(&|proof| proof.headers = vec![proof.headers[0].clone(); 2_017]),
        "receipt.wrong_header"
    );
    for at in 0..good.on_chain[0].headers.len() {
        let header: Header = deserialize_hex(&good.on_chain[0].headers[at]).unwrap();
        let mut unworked = header;
        while unworked.validate_pow(unworked.target()).is_ok() {
            unworked.nonce = unworked.nonce.wrapping_add(1);
        }
        let unworked = serialize_hex(&unworked);
        let told = with(&|proof| proof.headers[at].clone_from(&unworked));
        assert_eq!(told, "receipt.wrong_header", "{at}");
        let mut easier = header;
        easier.bits = flashkit::chain::bitcoin::CompactTarget::from_consensus(0x217f_ffff);
        let easier = serialize_hex(&easier);
        let told = with(&|proof| proof.headers[at].clone_from(&easier));
        assert_eq!(told, "receipt.wrong_header", "{at}");
    }
    // Every byte of the last header, which alone is known.
    let last = good.on_chain[0].headers.len() - 1;
    let mut bytes = hex::decode(&good.on_chain[0].headers[last]).unwrap();
    for at in 0..80 {
        bytes[at] ^= 1;
        let changed = hex::encode(&bytes);
        assert_ne!(
            with(&|proof| proof.headers[last].clone_from(&changed)),
            "proven",
            "{at}"
        );
        bytes[at] ^= 1;
    }
    // The other's receipt with this payment's proof.
    let swapped = ReceiptBundle {
        receipt: other.receipt.clone(),
        ..good.clone()
    };
    assert_eq!(code(&swapped, trust), "receipt.not_its_payment");
    let twice = ReceiptBundle {
        on_chain: vec![good.on_chain[0].clone(), good.on_chain[0].clone()],
        ..good.clone()
    };
    assert!(matches!(
        verify(&twice, trust),
        Err(Unverified::NotItsPayment { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_chain_took_away_is_corrected_and_no_longer_proven() {
    let Servers {
        chain,
        sources,
        esplora: _kept,
        ..
    } = &servers().await;
    chain.mine(110).unwrap();
    let scene = Scene::open(sources[0].1.clone()).await;
    let merchant = scene.merchant().await;
    scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await;
    let invoice = ask(&scene, "lunch", merchant).await;
    let address = invoice.on_chain.as_ref().unwrap().address.clone();
    let txid = chain.fund(&address, 80_000).unwrap();
    chain.mine(1).unwrap();
    scene.look().await;
    let first = print(&scene, "first", &invoice).await;
    assert!(prove(&scene, &first, None).await.is_ok());
    let mut rival = chain.transaction(&txid).unwrap().unwrap();
    rival.output.remove(0);
    chain.replace(1, vec![vec![rival], vec![]]).unwrap();
    scene.look().await;
    let second = print(&scene, "second", &invoice).await;
    assert_eq!(second.receipt.kind, ReceiptKind::Correction { corrects: 1 });
    assert_eq!(second.receipt.payments, []);
    assert_eq!(second.receipt.reorged_msat, 80_000_000);
    let reversed = second.receipt.lines.last().unwrap();
    assert_eq!(reversed.label, "Reversed");
    assert_eq!(reversed.value.replace('\u{a0}', " "), "-80,000 sat");
    assert_eq!(
        prove(&scene, &first, None).await.unwrap_err(),
        "receipt.not_in_chain"
    );
    scene.engine.stop().await.unwrap();
}
