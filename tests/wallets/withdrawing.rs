//! A whole wallet to one address, by one command.

use std::sync::Arc;

use flashkit::ids::WalletId;
use flashkit::ledger::{Account, Side};
use flashkit::lightning::LightningNode;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::ports::SystemClock;
use flashkit::store::MemoryStore;
use flashkit::wallets::{
    NodeFunds, SpendState, WalletOwner, WalletSource, WithdrawEverything, Withdrawal, XpubKind,
};

use crate::racing::Slow;
use crate::scene::{Scene, Signer};
use crate::sources::{script, servers};
use crate::spending::fill;
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::{key, shop};
use flashkit::{Engine, Error};

impl Scene {
    async fn withdraw(
        &self,
        name: &str,
        wallet: WalletId,
        fee_sat_per_kvb: Option<u64>,
    ) -> Result<Withdrawal, Error> {
        let command = WithdrawEverything {
            key: key(name),
            wallet,
            address: script(9).1,
            fee_sat_per_kvb,
            max_coins: Some(2),
        };
        let wallets = self.engine.wallets();
        let answer = wallets.withdraw_everything(&self.issuer, command).await?;
        Ok(answer.value)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_own_wallet_is_emptied_by_one_command_and_the_books_know() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let slow = Arc::new(Slow::new(servers.sources[2].1.clone()));
    let scene = Scene::open(slow.clone()).await;
    let wallet = scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await;
    assert!(wallet.is_node && !wallet.external.contains("prv"));
    let nothing = scene.withdraw("too-early", wallet.id, Some(10_000)).await;
    assert_eq!(nothing.unwrap_err().code(), "wallet.insufficient_funds");
    // One of the coins costs more than it brings.
    let coins = [40_000, 50_000, 600, 60_000, 70_000, 80_000];
    fill(&scene, chain, wallet.id, &coins).await;
    // It is cut off after the first transaction, and goes on where it stopped.
    slow.say_fees(1);
    let cut_off = scene.withdraw("all", wallet.id, None).await;
    assert_eq!(cut_off.unwrap_err().code(), "chain.no_fee_rate");
    slow.say_fees(9);
    let sent = scene.withdraw("all", wallet.id, None).await.unwrap();
    assert_eq!(sent.spends.len(), 3);
    assert_eq!(sent.amount_sat + sent.fee_sat, 300_000);
    assert_eq!(sent.left_sat, 600);
    let account = Account::node_onchain();
    let on_hold = scene.store.balance(&account).await.unwrap().credits_pending;
    assert_eq!(on_hold, 300_000_000);
    chain.mine(1).unwrap();
    fill(&scene, chain, wallet.id, &[]).await;
    // What came since is not sent by a key that was answered.
    let more = scene.address(wallet.id, "more").await;
    chain.fund(&more.address, 90_000).unwrap();
    chain.mine(1).unwrap();
    scene.look().await;
    let again = scene.withdraw("all", wallet.id, None).await.unwrap();
    assert_eq!(again, sent);
    for spend in &sent.spends {
        assert_eq!(scene.state(*spend).await, SpendState::Confirmed);
    }
    let balance = scene.store.balance(&account).await.unwrap();
    assert_eq!(balance.credits_pending, 0);
    assert_eq!(balance.posted(Side::Debit), 90_600_000);
    let left = scene.coins(wallet.id).await;
    let left: u64 = left.iter().map(|coin| coin.amount_sat).sum();
    assert_eq!(left, 90_600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_merchants_own_wallet_every_transaction_waits_for_its_signers() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let owner = WalletOwner::Merchant {
        merchant: scene.merchant().await,
    };
    let signer = Signer::new(51);
    let wallet = scene.wallet(owner, signer.xpub(XpubKind::SegwitV0)).await;
    fill(&scene, chain, wallet.id, &[40_000, 50_000, 60_000]).await;
    let all = scene.withdraw("all", wallet.id, Some(2_000)).await.unwrap();
    assert_eq!((all.spends.len(), all.left_sat), (2, 0));
    for (number, id) in all.spends.iter().enumerate() {
        assert_eq!(scene.state(*id).await, SpendState::Prepared);
        let wallets = scene.engine.wallets();
        let spend = wallets.spend(&scene.issuer, *id).await.unwrap();
        let signed = signer.sign(&spend.psbt);
        let name = format!("sign-{number}");
        scene.submit(&name, *id, Some(signed)).await.unwrap();
    }
    chain.mine(1).unwrap();
    scene.look().await;
    assert_eq!(scene.coins(wallet.id).await, []);
}

/// What is left costs more than anybody may mean: that is no error, since the rest has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_cost_too_much_is_left_and_what_was_sent_is_told() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let wallet = scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await;
    let coins = [60_000_000, 60_000_000, 3_000_000, 3_000_000];
    fill(&scene, chain, wallet.id, &coins).await;
    let dear = Some(10_000_000);
    let sent = scene.withdraw("all", wallet.id, dear).await.unwrap();
    assert_eq!((sent.spends.len(), sent.left_sat), (1, 6_000_000));
    assert_eq!(sent.amount_sat + sent.fee_sat, 120_000_000);
    assert_eq!(scene.state(sent.spends[0]).await, SpendState::Broadcast);
    let again = scene.withdraw("all", wallet.id, dear).await.unwrap();
    assert_eq!(again, sent);
    // Of nothing but that it is one, and nothing is sent.
    let refused = scene.withdraw("rest", wallet.id, dear).await;
    assert_eq!(refused.unwrap_err().code(), "wallet.fee_too_high");
}

/// What the node has in channels and in its own wallet is in none of these: it is said how much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_has_elsewhere_is_told_and_not_sent() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let node = SimulatedNetwork::new(clock).node(5_000_000);
    let engine = Engine::builder(store.clone(), shop::master())
        .network("regtest")
        .chain(servers.sources[0].1.clone())
        .lightning(Arc::new(node.clone()))
        .open()
        .await
        .unwrap();
    let issuer = engine.issuer();
    let scene = Scene {
        store,
        engine,
        issuer,
    };
    let wallet = scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await
        .id;
    let fee = Some(2_000);
    fill(&scene, chain, wallet, &[40_000]).await;
    // It does not run: nobody knows what it has, and what there is goes all the same.
    let sent = scene.withdraw("stopped", wallet, fee).await.unwrap();
    assert_eq!((sent.spends.len(), sent.node), (1, None));
    scene.engine.start().await.unwrap();
    let address = scene.address(wallet, "more").await.address;
    chain.fund(&address, 40_000).unwrap();
    chain.mine(1).unwrap();
    scene.look().await;
    let sent = scene.withdraw("running", wallet, fee).await.unwrap();
    let has = NodeFunds {
        channels_msat: 5_000_000,
        closing_msat: 0,
        onchain_msat: 0,
    };
    assert_eq!((sent.spends.len(), sent.node), (1, Some(has)));
    assert_eq!(node.balances().await.unwrap().channels_msat, 5_000_000);
    scene.engine.stop().await.unwrap();
}

/// A caller that heard nothing asks another instance again while the first call is still at it: the
/// one that finds nothing left to send is answered what the other has sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_command_at_the_same_time_sends_everything_once() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let pause = Arc::new(Pause::default());
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let held_up = Arc::new(GatedStore::pausing(store.clone(), pause.clone()));
    let scene = Arc::new(Scene::on(held_up, servers.sources[0].1.clone()).await);
    let other = Scene::on(store, servers.sources[0].1.clone()).await;
    let wallet = scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await
        .id;
    let coins = [40_000, 50_000, 60_000, 70_000, 80_000];
    fill(&scene, chain, wallet, &coins).await;
    // Who may, whose it is, and then what to send first: there it is held up.
    pause.arm_read("wallet", &wallet.to_string(), 2);
    let late = {
        let scene = scene.clone();
        tokio::spawn(async move { scene.withdraw("all", wallet, Some(2_000)).await })
    };
    pause.reached().await;
    let sent = other.withdraw("all", wallet, Some(2_000)).await.unwrap();
    assert_eq!((sent.spends.len(), sent.left_sat), (3, 0));
    assert_eq!(sent.amount_sat + sent.fee_sat, 300_000);
    pause.release();
    assert_eq!(late.await.unwrap().unwrap(), sent);
    let balance = scene.store.balance(&Account::node_onchain()).await.unwrap();
    assert_eq!(balance.credits_pending, 300_000_000);
    chain.mine(1).unwrap();
    scene.look().await;
    assert_eq!(scene.coins(wallet).await, []);
}
