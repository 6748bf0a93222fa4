//! Labels in and out (BIP 329): the user's, whatever the wallet knows of what they are of.

use flashkit::Error;
use flashkit::ids::WalletId;
use flashkit::wallets::{
    ImportLabels, LabelFault, LabelRecord, LabelsImported, PrepareSpend, SpendTarget, WalletError,
    WalletOwner, XpubKind,
};

use crate::scene::{Scene, Signer};
use crate::sources::{script, servers};
use crate::spending::fill;
use crate::support::key;

impl Scene {
    async fn import(
        &self,
        name: &str,
        wallet: WalletId,
        lines: &str,
    ) -> Result<LabelsImported, Error> {
        let command = ImportLabels {
            key: key(name),
            wallet,
            lines: lines.to_owned(),
        };
        let wallets = self.engine.wallets();
        Ok(wallets.import_labels(&self.issuer, command).await?.value)
    }

    async fn labels(&self, wallet: WalletId) -> Vec<LabelRecord> {
        let wallets = self.engine.wallets();
        let written = wallets.export_labels(&self.issuer, wallet).await.unwrap();
        LabelRecord::read(&written.value).unwrap()
    }

    async fn label(&self, wallet: WalletId, kind: &str, reference: &str) -> LabelRecord {
        let records = self.labels(wallet).await;
        let is_it = |record: &&LabelRecord| record.kind == kind && record.reference == reference;
        records.iter().find(is_it).unwrap().clone()
    }
}

/// The examples of the BIP itself, and fields that nobody knows.
const OTHERS: &str = r#"{"type":"tx","ref":"f91d0a8a78462bc59398f2c5d7a84fcff491c26ba54c4833478b202796c8aafd","label":"Transaction","origin":"wpkh([d34db33f/84'/0'/0'])"}
{"type":"addr","ref":"bc1q34aq5drpuwy3wgl9lhup9892qp6svr8ldzyy7c","label":"Address"}
{"type":"pubkey","ref":"0283409659355b6d1cc3c32decd5d561abaac86c37a353b52895a5e6c196d6f448","label":"Public Key"}
{"type":"input","ref":"f91d0a8a78462bc59398f2c5d7a84fcff491c26ba54c4833478b202796c8aafd:0","label":"Input"}
{"type":"output","ref":"f91d0a8a78462bc59398f2c5d7a84fcff491c26ba54c4833478b202796c8aafd:1","label":"Output","spendable":false}
{"type":"xpub","ref":"xpub661MyMwAqRbcFtXgS5sYJABqqG9YLmC4Q1Rdap9gSE8NqtwybGhePY2gZ29ESFjqJoCu1Rupje8YtGqsefD265TMg7usUDFdp6W1EGMcet8","label":"Extended Public Key"}
{"type":"tx","ref":"f546156d9044844e02b181026a1a407abfca62e7ea1159f87bbeaa77b4286c74","label":"Account #1 Transaction","origin":"wpkh([d34db33f/84'/0'/1'])","height":800000,"rate":{"USD":105620.00,"EUR":1e2},"number":123456789012345678901234567890.10}
{"type":"something","ref":"new","label":"of a later version","spendable":true}
"#;

/// One that does not come back the same has lost something: every field is compared as text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_user_says_is_kept_and_given_out_again() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let keys = Signer::new(31).xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    let taken = scene.import("others", wallet, OTHERS).await.unwrap();
    assert_eq!((taken.taken, taken.ignored), (0, 8));
    let mut expected = LabelRecord::read(OTHERS).unwrap();
    let mut found = scene.labels(wallet).await;
    let order = |record: &LabelRecord| (record.kind.clone(), record.reference.clone());
    expected.sort_by_key(order);
    found.sort_by_key(order);
    assert_eq!(found, expected);
    let rate = &scene.label(wallet, "tx", &expected[5].reference).await;
    assert!(rate.other["rate"].contains("105620.00"), "{rate:?}");
    // Of a thing of the wallet's the label is shown as well, and cut.
    let address = scene.address(wallet, "table").await.address;
    let long = "é".repeat(300);
    let line = format!(r#"{{"type":"addr","ref":"{address}","label":"{long}","x":[1, 2]}}"#);
    let taken = scene.import("long", wallet, &line).await.unwrap();
    assert_eq!((taken.taken, taken.ignored), (1, 0));
    let wallets = scene.engine.wallets();
    let shown = wallets.addresses(&scene.issuer, wallet, 0, 10).await;
    assert_eq!(shown.unwrap()[0].label, "é".repeat(255));
    let kept = scene.label(wallet, "addr", &address).await;
    assert_eq!((kept.label.as_ref(), kept.other.len()), (Some(&long), 1));
    // What goes out goes in, and changes nothing.
    let before = wallets.export_labels(&scene.issuer, wallet).await.unwrap();
    scene.import("again", wallet, &before.value).await.unwrap();
    let after = wallets.export_labels(&scene.issuer, wallet).await.unwrap();
    assert_eq!(after.value, before.value);
    // A record that names no label takes none away, and one that is empty does.
    for (name, line, expected) in [
        ("silent", r#""y":null"#, Some(long.as_str())),
        ("null", r#""label":null"#, Some(long.as_str())),
        ("empty", r#""label":"""#, Some("")),
    ] {
        let line = format!(r#"{{"type":"addr","ref":"{address}",{line}}}"#);
        scene.import(name, wallet, &line).await.unwrap();
        let kept = scene.label(wallet, "addr", &address).await;
        assert_eq!(kept.label.as_deref(), expected, "{name}");
        assert_eq!(kept.other["x"], "[1, 2]", "{name}");
    }
    let shown = wallets.addresses(&scene.issuer, wallet, 0, 10).await;
    assert_eq!(shown.unwrap()[0].label, "");
}

/// Whoever keeps a coin back finds it there after everything was sent, and can let it go again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_is_not_spendable_is_taken_by_no_spend() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let keys = Signer::new(32).xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    fill(&scene, chain, wallet, &[40_000, 50_000]).await;
    let coins = scene.coins(wallet).await;
    let kept = coins.iter().find(|coin| coin.amount_sat == 50_000).unwrap();
    let spendable = async |name: &str, yes: bool| {
        let line = format!(
            r#"{{"type":"output","ref":"{}","spendable":{yes}}}"#,
            kept.outpoint
        );
        scene.import(name, wallet, &line).await.unwrap();
    };
    let all = async |name: &str| {
        let command = PrepareSpend {
            key: key(name),
            wallet,
            target: SpendTarget::Everything {
                address: script(9).1,
            },
            fee_sat_per_kvb: Some(2_000),
        };
        let wallets = scene.engine.wallets();
        wallets.prepare_spend(&scene.issuer, command).await
    };
    spendable("frozen", false).await;
    // Something else that is said of it changes nothing about that.
    let label = format!(
        r#"{{"type":"output","ref":"{}","label":"rent"}}"#,
        kept.outpoint
    );
    scene.import("label", wallet, &label).await.unwrap();
    let spend = all("all").await.unwrap();
    assert_eq!(spend.coins.len(), 1);
    assert!(!spend.coins.contains(&kept.outpoint));
    assert_eq!(
        all("rest").await.unwrap_err().code(),
        "wallet.insufficient_funds"
    );
    let record = scene.label(wallet, "output", &kept.outpoint).await;
    assert_eq!(
        (record.label.as_deref(), record.spendable),
        (Some("rent"), Some(false))
    );
    spendable("free", true).await;
    let spent = all("free-all").await.unwrap();
    assert_eq!(spent.coins, std::slice::from_ref(&kept.outpoint));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lines_are_named_and_nothing_of_them_goes_in() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let keys = Signer::new(33).xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    let good = r#"{"type":"tx","ref":"00","label":"good"}"#;
    let long = format!(
        r#"{{"type":"tx","ref":"00","label":"{}"}}"#,
        "x".repeat(5_000)
    );
    for (line, fault) in [
        ("nothing", LabelFault::NoObject),
        (r#"["type"]"#, LabelFault::NoObject),
        (r#"{"ref":"00"}"#, LabelFault::BadType),
        (r#"{"type":7,"ref":"00"}"#, LabelFault::BadType),
        (r#"{"type":"tx"}"#, LabelFault::BadRef),
        (r#"{"type":"tx","ref":""}"#, LabelFault::BadRef),
        (
            r#"{"type":"tx","ref":"00","label":7}"#,
            LabelFault::BadField,
        ),
        (
            r#"{"type":"output","ref":"00:0","spendable":"no"}"#,
            LabelFault::BadField,
        ),
        (long.as_str(), LabelFault::TooLong),
    ] {
        let lines = format!("{good}\n\n{line}\n{good}\nnothing\n");
        let refused = scene.import("bad", wallet, &lines).await.unwrap_err();
        assert_eq!(refused.code(), "wallet.bad_label");
        let Error::Wallet(WalletError::BadLabel {
            line,
            fault: found,
            lines,
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!((line, found, lines), (3, fault, vec![3, 5]));
    }
    assert_eq!(scene.labels(wallet).await, []);
    // So many at once, and so many in all.
    let many = |from: usize, to: usize| -> String {
        let line = |at: usize| format!("{{\"type\":\"tx\",\"ref\":\"{at}\"}}\n");
        (from..to).map(line).collect()
    };
    let refused = scene.import("many", wallet, &many(0, 1_001)).await;
    assert_eq!(refused.unwrap_err().code(), "command.out_of_bounds");
    for thousand in 0..10 {
        let lines = many(thousand * 1_000, (thousand + 1) * 1_000);
        let name = format!("thousand-{thousand}");
        scene.import(&name, wallet, &lines).await.unwrap();
    }
    let refused = scene
        .import("one-more", wallet, &many(10_000, 10_001))
        .await;
    assert_eq!(refused.unwrap_err().code(), "wallet.too_many_labels");
    // What is kept can be said anew.
    scene.import("anew", wallet, &many(0, 10)).await.unwrap();
    assert_eq!(scene.labels(wallet).await.len(), 10_000);
}

/// What is said of a thing again and again stays one line that can be read: what is not known gives way, and
/// that an output is not to be spent does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_imports_make_a_record_that_cannot_be_read() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let keys = Signer::new(32).xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    let reference = format!("{}:0", "ab".repeat(32));
    let long = "x".repeat(3_900);
    let line = |field: &str| format!(r#"{{"type":"output","ref":"{reference}",{field}}}"#);
    let says = |field: &str| line(&format!(r#""{field}":"{long}""#));
    let first = line(r#""spendable":false,"label":"rent""#);
    let together = [first, says("a"), says("b")].join("\n");
    scene.import("one", wallet, &together).await.unwrap();
    let found = scene.label(wallet, "output", &reference).await;
    assert_eq!(found.label.as_deref(), Some("rent"));
    assert_eq!(found.other.keys().collect::<Vec<_>>(), ["b"]);
    for (name, field) in [("two", "c"), ("three", "label"), ("four", "d")] {
        scene.import(name, wallet, &says(field)).await.unwrap();
        let found = scene.label(wallet, "output", &reference).await;
        assert_eq!(found.spendable, Some(false), "{name}");
        let said = found.other.keys().map(String::as_str).collect::<Vec<_>>();
        let expected: &[&str] = if field == "label" { &[] } else { &[field] };
        assert_eq!(said, expected, "{name}");
    }
}
