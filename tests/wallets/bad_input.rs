//! Wallets, addresses and amounts that are not to be had: typed refusals, and nothing changed.

use flashkit::wallets::{
    AddWallet, PrepareSpend, SpendOutput, SpendTarget, WalletOwner, WalletSource, XpubKind,
};

use crate::scene::{Scene, Signer};
use crate::sources::{script, servers};
use crate::support::key;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_foreign_and_senseless_keys_are_refused() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let signer = Signer::new(51);
    let account = signer.account("84'/1'/0'");
    let bare = account.split(']').nth(1).unwrap();
    let private = signer.private_account();
    let descriptor = |external: String| WalletSource::Descriptor {
        external,
        change: None,
    };
    let xpub = |xpub: &str| WalletSource::Xpub {
        xpub: xpub.to_owned(),
        script: None,
    };
    let main = "xpub6CUGRUonZSQ4TWtTMmzXdrXDtypWKiKrhko4egpiMZbpiaQL2jkwSB1icqYh2cfDfVxdx4df189oLKnC5fSwqPfgyP3hooxujYzAu3fDVmz";
    let zpub = "zpub6rFR7y4Q2AijBEqTUquhVz398htDFrtymD9xYYfG1m4wAcvPhXNfE3EfH1r1ADqtfSdVCToUG868RvUUkgDKf31mGDtKsAYz2oz2AGutZYs";
    for (number, (source, code)) in [
        (
            descriptor(format!("wpkh({private}/84'/1'/0'/0/*)")),
            "wallet.private_key",
        ),
        (
            descriptor(format!("wpkh({private}/0/*)")),
            "wallet.private_key",
        ),
        (xpub(&private), "wallet.private_key"),
        (
            descriptor(format!("wpkh({main}/0/*)")),
            "wallet.wrong_network",
        ),
        (xpub(main), "wallet.wrong_network"),
        (xpub(zpub), "wallet.wrong_network"),
        (
            descriptor(format!("wpkh({account})")),
            "wallet.bad_descriptor",
        ),
        (
            descriptor(format!("wpkh({account}/0/*')")),
            "wallet.bad_descriptor",
        ),
        (
            descriptor(format!("wpkh({account}/0/*)#aaaaaaaa")),
            "wallet.bad_descriptor",
        ),
        (
            descriptor(format!("pk({account}/0/*)")),
            "wallet.bad_descriptor",
        ),
        (
            descriptor(format!("wsh(multi(2,{account}/0/*,{account}/0/*))")),
            "wallet.bad_descriptor",
        ),
        (
            descriptor(format!("wpkh({account}/<0;1;2>/*)")),
            "wallet.bad_descriptor",
        ),
        (descriptor("wpkh()".to_owned()), "wallet.bad_descriptor"),
        (descriptor("x".repeat(100_000)), "wallet.bad_descriptor"),
        (xpub("tpub"), "wallet.bad_descriptor"),
        (xpub(&bare.replace('A', "B")), "wallet.bad_descriptor"),
    ]
    .into_iter()
    .enumerate()
    {
        let command = AddWallet {
            key: key(&format!("bad-{number}")),
            owner: WalletOwner::Operator,
            name: "bad".to_owned(),
            source: source.clone(),
            used_addresses: 0,
            birthday_height: None,
        };
        let refused = scene
            .engine
            .wallets()
            .add(&scene.issuer, command)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), code, "{source:?}");
        assert!(!refused.to_string().contains(&private), "{refused}");
    }
    let wallets = scene.engine.wallets();
    let none = wallets
        .list(&scene.issuer, WalletOwner::Operator, None, 10)
        .await
        .unwrap();
    assert!(none.value.is_empty());
    // The same addresses in other words are the same wallet.
    let wallet = scene
        .wallet(WalletOwner::Operator, signer.xpub(XpubKind::SegwitV0))
        .await;
    // So are those of its change, alone or the other way round.
    let merchant = scene.merchant().await;
    for (number, path) in ["<0;1>", "<1;0>", "0", "1", "<2;0>", "<1;2>"]
        .into_iter()
        .enumerate()
    {
        let twice = AddWallet {
            key: key(&format!("twice-{number}")),
            owner: WalletOwner::Merchant { merchant },
            name: "twice".to_owned(),
            source: descriptor(format!("wpkh({bare}/{path}/*)")),
            used_addresses: 0,
            birthday_height: None,
        };
        let refused = wallets.add(&scene.issuer, twice).await;
        let refused = refused.map_err(|error| error.code()).map(drop);
        assert_eq!(refused, Err("wallet.exists"), "{path}");
    }
    for (number, (address, amount_sat, code)) in [
        (script(9).1, 100, "chain.dust"),
        (
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4".to_owned(),
            1_000,
            "wallet.wrong_network",
        ),
        ("bcrt1qnothing".to_owned(), 1_000, "wallet.bad_address"),
        ("9".repeat(10_000), 1_000, "wallet.bad_address"),
        (script(9).1, 1_000, "wallet.insufficient_funds"),
        (script(9).1, u64::MAX, "wallet.insufficient_funds"),
    ]
    .into_iter()
    .enumerate()
    {
        let command = PrepareSpend {
            key: key(&format!("spend-{number}")),
            wallet: wallet.id,
            target: SpendTarget::Pay {
                outputs: vec![SpendOutput {
                    address,
                    amount_sat,
                }],
            },
            fee_sat_per_kvb: Some(1_000),
        };
        let refused = wallets
            .prepare_spend(&scene.issuer, command)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), code, "{number}");
    }
}
