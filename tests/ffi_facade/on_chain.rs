//! Wallets on chain, their labels, and taking all that a node has to one address.

use std::sync::Arc;

use flashkit::ffi::{
    AddWalletRequest, ChannelEnd, DrainNodeRequest, DrainSend, DrainState, DrainWait,
    DrainedChannel, EndDrainRequest, Flashkit, ImportLabelsRequest, LightningConfig,
    NewAddressRequest, SimulatedLightning, WalletOwner, WalletSource,
};
use flashkit::ids::BatchId;
use flashkit::ledger::{Batch, NewDocument, Step};
use flashkit::ports::SystemClock;
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;

use crate::config;

fn id(prefix: &str) -> String {
    format!("{prefix}_{}", "0".repeat(32))
}

async fn open(path: &str, lightning: LightningConfig) -> (Arc<Flashkit>, String) {
    let kit = Flashkit::open(config(path, lightning)).await.unwrap();
    let issuer = kit.issuer_credential().unwrap();
    (kit, issuer)
}

/// Labels go in and out as lines, with whatever fields they have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_gives_addresses_and_keeps_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let (kit, issuer) = open(&path, LightningConfig::NoNode).await;
    let request = AddWalletRequest {
        idempotency_key: "add".into(),
        owner: WalletOwner::Operator,
        name: "Till".into(),
        source: WalletSource::Node,
        used_addresses: 0,
        birthday_height: None,
    };
    let wallet = kit.add_wallet(issuer.clone(), request).await.unwrap();
    assert!(
        wallet.is_node && wallet.external.starts_with("wpkh("),
        "{wallet:?}"
    );
    let listed = kit.list_wallets(issuer.clone(), WalletOwner::Operator, None, 10);
    let listed = listed.await.unwrap().wallets;
    let listed: Vec<_> = listed.iter().map(|wallet| &wallet.id).collect();
    assert_eq!(listed, [&wallet.id]);
    let of_none = WalletOwner::Merchant {
        merchant_id: id("mer"),
    };
    let none = kit.list_wallets(issuer.clone(), of_none, None, 10).await;
    assert_eq!(none.unwrap().wallets, []);
    let request = NewAddressRequest {
        idempotency_key: "address".into(),
        wallet_id: wallet.id.clone(),
        label: "counter".into(),
    };
    let address = kit.new_address(issuer.clone(), request).await.unwrap();
    assert!(address.address.starts_with("bcrt1q"), "{address:?}");
    assert_eq!((address.index, address.label.as_str()), (0, "counter"));
    let got = kit.get_wallet(issuer.clone(), wallet.id.clone()).await;
    assert_eq!(got.unwrap().next_external, 1);
    let balance = kit.wallet_balance(issuer.clone(), wallet.id.clone()).await;
    let balance = balance.unwrap();
    assert_eq!((balance.confirmed_sat, balance.addresses), (0, 1));

    let txid = "ab".repeat(32);
    let lines = [
        format!(
            r#"{{"type":"addr","ref":"{}","label":"door"}}"#,
            address.address
        ),
        format!(
            r#"{{"type":"tx","ref":"{txid}","label":"rent","origin":"wpkh([d34db33f/84'/0'/0'])","rate":{{"USD":1.5}}}}"#
        ),
        format!(r#"{{"type":"output","ref":"{txid}:1","spendable":false}}"#),
    ];
    let import = |name: &str, lines: String| ImportLabelsRequest {
        idempotency_key: name.to_owned(),
        wallet_id: wallet.id.clone(),
        lines,
    };
    let bad = import("bad", format!("{}\nno record\n", lines[0]));
    let error = kit.import_labels(issuer.clone(), bad).await.unwrap_err();
    assert_eq!(error.code(), "wallet.bad_label");
    assert!(error.to_string().contains('2'), "{error}");
    let export = async || {
        let exported = kit.export_labels(issuer.clone(), wallet.id.clone()).await;
        exported.unwrap()
    };
    assert!(export().await.contains("counter"));
    let good = import("good", lines.join("\n"));
    let done = kit.import_labels(issuer.clone(), good).await.unwrap();
    assert_eq!((done.taken, done.ignored), (1, 2));
    let exported = export().await;
    let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let exported: Vec<_> = exported.lines().map(read).collect();
    assert_eq!(exported.len(), 3, "{exported:?}");
    for line in &lines {
        assert!(
            exported.contains(&read(line)),
            "{line} is not in {exported:?}"
        );
    }
    kit.shutdown().await.unwrap();
}

/// All that a drain says comes across.
const DRAIN: &str = r#"{"id":"ID","state":"sweeping","waits_for":["closings","confirmations"],"address":"bcrt1qaddress","fee_sat_per_kvb":2500,"force":true,"channels_msat":1,"closing_msat":2,"onchain_msat":3,"channels":[{"channel":"one","peer_node_id":"peer","ours_msat":4,"end":"asked","asked_at_ms":5,"refusal":"later"}],"sends":[{"txid":"aa","of_msat":9,"amount_msat":6,"fee_msat":3,"is_confirmed":true,"sent_at_ms":7},{"txid":"bb","of_msat":8,"is_confirmed":false,"is_gone":true,"sent_at_ms":8}],"spends":["SPEND"],"frozen":["cc:1"],"refusal":"no","closing_fees_msat":10,"started_at_ms":11,"earlier":[],"had_msat":0,"out_of_channels":null,"out_of_books":null,"quiet_rounds":0}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_drain_is_comes_across() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let (drain, spend) = (id("drain"), id("spd"));
    let text = DRAIN.replace("ID", &drain).replace("SPEND", &spend);
    let body: serde_json::Value = serde_json::from_str(&text).unwrap();
    let store = SqliteStore::open(&path, Arc::new(SystemClock)).unwrap();
    let put = Step::Put(NewDocument {
        collection: "node_drain",
        id: drain.clone(),
        read_version: 0,
        body: body.into(),
        index_keys: vec![("all", "all".to_owned())],
    });
    let batch = Batch {
        id: BatchId::from_parts(1, [1; 10]),
        command: None,
        steps: vec![put].into(),
    };
    store.commit(batch).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let (kit, issuer) = open(&path, LightningConfig::NoNode).await;
    let got = kit.get_drain(issuer.clone(), drain.clone()).await.unwrap();
    assert_eq!(got.state, DrainState::Sweeping);
    assert_eq!(
        got.waits_for,
        [DrainWait::Closings, DrainWait::Confirmations]
    );
    assert_eq!((got.fee_sat_per_kvb, got.force), (Some(2_500), true));
    let has = [got.channels_msat, got.closing_msat, got.onchain_msat];
    assert_eq!((has, got.sent_msat), ([1, 2, 3], 6));
    let channel = DrainedChannel {
        channel_id: "one".into(),
        peer_node_id: "peer".into(),
        ours_msat: 4,
        end: ChannelEnd::Asked,
        asked_at_ms: Some(5),
        refusal: Some("later".into()),
    };
    assert_eq!(got.channels, [channel]);
    let gone = DrainSend {
        txid: "bb".into(),
        of_msat: 8,
        amount_msat: None,
        fee_msat: None,
        is_confirmed: false,
        is_gone: true,
        sent_at_ms: 8,
    };
    assert_eq!((got.sends.len(), &got.sends[1]), (2, &gone));
    assert!(got.sends[0].is_confirmed);
    assert_eq!(
        (&got.spend_ids, &got.frozen),
        (&vec![spend], &vec!["cc:1".to_owned()])
    );
    assert_eq!(
        (got.refusal.as_deref(), got.closing_fees_msat),
        (Some("no"), Some(10))
    );
    assert_eq!(
        (got.is_ended, got.started_at_ms, got.done_at_ms),
        (false, 11, None)
    );
    let listed = kit.list_drains(issuer.clone(), None, 10).await.unwrap();
    assert_eq!(listed.drains.len(), 1);
    let after = kit.list_drains(issuer.clone(), Some(drain), 10).await;
    assert_eq!(after.unwrap().drains, []);
    let unknown = kit.get_drain(issuer.clone(), format!("drain_{}", "1".repeat(32)));
    assert_eq!(unknown.await.unwrap_err().code(), "wallet.drain_not_found");
    let request = DrainNodeRequest {
        idempotency_key: "no node".replace(' ', "-"),
        address: "elsewhere".into(),
        fee_sat_per_kvb: None,
        force: false,
        even_if_owed: false,
    };
    let error = kit.drain_node(issuer, request).await.unwrap_err();
    assert_eq!(error.code(), "wallet.bad_address");
    kit.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_the_drain_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books.db").to_str().unwrap().to_owned();
    let lightning = LightningConfig::Simulated {
        lightning: Arc::new(SimulatedLightning::new()),
    };
    let (kit, issuer) = open(&path, lightning).await;
    kit.start().await.unwrap();
    let request = DrainNodeRequest {
        idempotency_key: "drain".into(),
        address: "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080".into(),
        fee_sat_per_kvb: Some(2_000),
        force: true,
        even_if_owed: false,
    };
    let begun = kit
        .drain_node(issuer.clone(), request.clone())
        .await
        .unwrap();
    assert_eq!((begun.fee_sat_per_kvb, begun.force), (Some(2_000), true));
    let again = kit.drain_node(issuer.clone(), request).await.unwrap();
    assert_eq!(again.id, begun.id);
    let end = |drain_id: String| EndDrainRequest {
        idempotency_key: "end".into(),
        drain_id,
    };
    let unknown = kit.end_drain(issuer.clone(), end(id("drain"))).await;
    assert_eq!(unknown.unwrap_err().code(), "wallet.drain_not_found");
    // It may be done by itself meanwhile: either way it is over.
    let ended = kit.end_drain(issuer.clone(), end(begun.id.clone())).await;
    let ended = ended.unwrap();
    assert_eq!((&ended.id, ended.state), (&begun.id, DrainState::Done));
    assert!(ended.done_at_ms.is_some());
    let got = kit.get_drain(issuer, begun.id).await.unwrap();
    assert_eq!(got.state, DrainState::Done);
    kit.shutdown().await.unwrap();
}

#[test]
fn what_the_chain_does_not_tell_is_in_the_health() {
    let trouble = flashkit::Trouble {
        code: "chain.bad_answer".to_owned(),
        detail: "bcrt1q: too long".to_owned(),
        since_ms: Some(5),
        writes_waiting: 0,
    };
    let health = flashkit::Health {
        chain: Some(trouble),
        ..flashkit::Health::default()
    };
    let health = flashkit::ffi::Health::from(health);
    let chain = health.chain.unwrap();
    assert_eq!(
        (chain.code.as_str(), chain.since_ms),
        ("chain.bad_answer", Some(5))
    );
    assert_eq!(
        (health.store, health.node, health.clock),
        (None, None, None)
    );
}
