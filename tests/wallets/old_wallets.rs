//! Wallets as they were added before their change was claimed.

use std::sync::Arc;

use flashkit::ids::{BatchId, WalletId};
use flashkit::ledger::{Batch, NewDocument, Step};
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};
use flashkit::wallets::{AddWallet, WalletOwner, WalletSource};

use crate::scene::{Scene, Signer};
use crate::sources::servers;
use crate::support::key;

fn chain_of(signer: &Signer, path: &str) -> WalletSource {
    WalletSource::Descriptor {
        external: format!("wpkh({}/{path}/*)", signer.account("84'/1'/0'")),
        change: None,
    }
}

/// A wallet as an earlier version wrote it: found by its first address, and by nothing else.
async fn as_before(store: &dyn Store, scene: &Scene, wallet: WalletId, external: &str) {
    let id = wallet.to_string();
    let document = scene.store.document("wallet", &id).await.unwrap();
    let written = NewDocument {
        collection: "wallet",
        id: id.clone(),
        read_version: 0,
        body: document.unwrap().body,
        index_keys: vec![("owner", "operator".to_owned())],
    };
    let claim = Step::Claim {
        name: format!("wallet/{external}"),
        by: id,
    };
    let batch = Batch {
        id: BatchId::from_parts(1, [1; 10]),
        command: None,
        steps: vec![Step::Put(written), claim].into(),
    };
    store.commit(batch).await.unwrap();
}

async fn add(scene: &Scene, name: &str, source: WalletSource) -> Result<WalletId, &'static str> {
    let command = AddWallet {
        key: key(name),
        owner: WalletOwner::Operator,
        name: name.to_owned(),
        source,
        used_addresses: 0,
        birthday_height: None,
    };
    let added = scene.engine.wallets().add(&scene.issuer, command).await;
    added
        .map(|wallet| wallet.value.id)
        .map_err(|error| error.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_change_of_a_wallet_from_before_is_no_other_wallet() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let source = servers.sources[0].1.clone();
    let scene = Scene::open(source.clone()).await;
    let signer = Signer::new(61);
    let whole = chain_of(&signer, "<0;1>");
    let wallet = scene.wallet(WalletOwner::Operator, whole).await.id;
    let first = scene.address(wallet, "first").await.script;
    for is_started in [false, true] {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        as_before(store.as_ref(), &scene, wallet, &first).await;
        let later = Scene::on(store, source.clone()).await;
        if is_started {
            later.engine.start().await.unwrap();
        }
        let change = add(&later, "change", chain_of(&signer, "1")).await;
        assert_eq!(change, Err("wallet.exists"));
        let round = add(&later, "round", chain_of(&signer, "<2;1>")).await;
        assert_eq!(round, Err("wallet.exists"));
        // What shares nothing with it is added, and its change is claimed as well.
        let other = add(&later, "other", chain_of(&signer, "<3;4>")).await;
        assert!(other.is_ok_and(|other| other != wallet));
        let change = add(&later, "other-change", chain_of(&signer, "4")).await;
        assert_eq!(change, Err("wallet.exists"));
        later.engine.stop().await.unwrap();
    }
}
