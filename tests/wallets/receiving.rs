//! What a wallet's scripts receive, over every source.

use std::sync::Arc;

use flashkit::chain::bitcoin::{ScriptBuf, Transaction};
use flashkit::chain::{ChainSource, Standing};
use flashkit::testkit::chain::RegtestChain;
use flashkit::wallets::{WalletOwner, XpubKind};

use crate::scene::{Scene, Signer};
use crate::sources::{Servers, servers};

/// The same on every source: its own chain for each.
async fn on_every_source<F, Fut>(run: F)
where
    F: Fn(Arc<RegtestChain>, Arc<dyn ChainSource>) -> Fut,
    Fut: Future<Output = ()>,
{
    for at in 0..3 {
        let Servers {
            chain,
            sources,
            esplora: _kept,
            ..
        } = &servers().await;
        chain.mine(110).unwrap();
        let (name, source) = &sources[at];
        println!("on {name}");
        run(chain.clone(), source.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_is_followed_from_the_mempool_through_a_reorg_and_back() {
    on_every_source(|chain, source| async move {
        let scene = Scene::open(source).await;
        let source = Signer::new(1).xpub(XpubKind::SegwitV0);
        let wallet = scene.wallet(WalletOwner::Operator, source).await.id;
        let address = scene.address(wallet, "first").await;
        let (_, mut at) = scene.told(0).await;
        let mut expect = async |kinds: &[&str]| {
            scene.look().await;
            let (told, end) = scene.told(at).await;
            at = end;
            assert_eq!(told, kinds);
            // Looked at again, nothing happened.
            scene.look().await;
            assert_eq!(scene.told(at).await.0, Vec::<String>::new());
        };
        expect(&[]).await;
        chain.fund(&address.address, 70_000).unwrap();
        expect(&["wallet.received"]).await;
        assert_eq!(scene.coins(wallet).await[0].standing, Standing::Waiting);
        chain.mine(1).unwrap();
        expect(&["wallet.confirmed"]).await;
        for depth in 2..=6 {
            chain.mine(1).unwrap();
            expect(&[]).await;
            assert_eq!(scene.coins(wallet).await[0].confirmations, depth);
        }
        chain.reorg(6).unwrap();
        expect(&["wallet.reorged_out"]).await;
        let [coin] = &scene.coins(wallet).await[..] else {
            panic!()
        };
        assert_eq!(
            (&coin.standing, coin.confirmations),
            (&Standing::Waiting, 0)
        );
        chain.mine(3).unwrap();
        expect(&["wallet.confirmed"]).await;
        let balance = scene
            .engine
            .wallets()
            .balance(&scene.issuer, wallet)
            .await
            .unwrap();
        assert_eq!((balance.confirmed_sat, balance.waiting_sat), (70_000, 0));
        assert_eq!(
            (balance.coins, balance.gap_limit, balance.addresses),
            (1, 1, 1)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_double_spent_and_paid_while_nobody_looked() {
    on_every_source(|chain, source| async move {
        let scene = Scene::open(source.clone()).await;
        let keys = Signer::new(2).xpub(XpubKind::Taproot);
        let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
        let first = scene.address(wallet, "first").await;
        let second = scene.address(wallet, "second").await;
        scene.look().await;
        let txid = chain.fund(&first.address, 50_000).unwrap();
        scene.look().await;
        let (_, at) = scene.told(0).await;
        // A replacement pays somebody else, at a higher fee.
        let paid = chain.transaction(&txid).unwrap().unwrap();
        let rival = elsewhere(&paid, 10_000);
        chain.submit(rival.clone()).unwrap();
        scene.look().await;
        assert_eq!(scene.told(at).await.0, ["wallet.replaced"]);
        assert_eq!(scene.coins(wallet).await, []);
        chain.mine(1).unwrap();
        scene.look().await;
        let (told, at) = scene.told(at).await;
        assert_eq!(told, ["wallet.replaced", "wallet.double_spent"]);
        // A block has the first one instead, after a reorganisation: it is back.
        chain.replace(1, vec![vec![paid.clone()], vec![]]).unwrap();
        scene.look().await;
        let (told, _) = scene.told(at).await;
        assert_eq!(told, ["wallet.returned", "wallet.confirmed"]);
        assert_eq!(scene.coins(wallet).await[0].confirmations, 2);
        // Days later, another engine on the same books.
        chain.fund(&second.address, 40_000).unwrap();
        chain.mine(1).unwrap();
        chain.mine(200).unwrap();
        let later = Scene::on(scene.store.clone(), source).await;
        later.look().await;
        let coins = later.coins(wallet).await;
        let mut found: Vec<_> = coins
            .iter()
            .map(|coin| (coin.amount_sat, coin.confirmations))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(40_000, 100), (50_000, 100)]);
    })
    .await;
}

/// The same inputs to a script of nobody's, for `fee_sat` more.
fn elsewhere(paid: &Transaction, fee_sat: u64) -> Transaction {
    let mut rival = paid.clone();
    rival.output.truncate(1);
    rival.output[0].script_pubkey =
        ScriptBuf::new_p2wpkh(&flashkit::chain::bitcoin::WPubkeyHash::from_raw_hash(
            flashkit::chain::bitcoin::hashes::Hash::all_zeros(),
        ));
    rival.output[0].value = flashkit::chain::bitcoin::Amount::from_sat(50_000 - fee_sat);
    rival
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gap_hides_a_payment_and_the_gap_limit_is_said() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let keys = Signer::new(3).xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    let mut last = None;
    for number in 0..45 {
        last = Some(scene.address(wallet, &format!("address-{number}")).await);
    }
    let last = last.unwrap();
    assert_eq!(last.index, 44);
    servers.chain.fund(&last.address, 30_000).unwrap();
    servers.chain.mine(1).unwrap();
    scene.look().await;
    let wallets = scene.engine.wallets();
    let balance = wallets.balance(&scene.issuer, wallet).await.unwrap();
    assert_eq!(
        (balance.confirmed_sat, balance.gap_limit, balance.addresses),
        (30_000, 45, 45)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_watches_and_goes_on_after_a_source_that_failed() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[1].1.clone()).await;
    let keys = Signer::new(4).xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    let address = scene.address(wallet, "one").await;
    servers.chain.fund(&address.address, 30_000).unwrap();
    // A source that is away is no end of it: the job stays, and the next one does it.
    let away = Arc::new(flashkit::chain::Esplora::new("http://127.0.0.1:1").unwrap());
    let cut_off = Scene::on(scene.store.clone(), away).await;
    let run = cut_off.engine.run_due_jobs().await.unwrap();
    assert_eq!(run.failed.len(), 1, "{run:?}");
    assert_eq!(run.failed[0].1.code(), "chain.unreachable");
    scene.engine.run_due_jobs().await.unwrap();
    assert_eq!(scene.coins(wallet).await.len(), 1);
    // An engine without a source leaves the job to the others.
    let store = scene.store.clone();
    let without = flashkit::Engine::builder(store, crate::support::shop::master());
    let without = without.network("regtest").open().await.unwrap();
    let run = without.run_due_jobs().await.unwrap();
    assert_eq!((run.done, run.failed.len()), (0, 0));
}

/// What needs nothing but mining and reorganising, also on a real node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorg_of_three_blocks_on_the_chain_that_there_is() {
    use flashkit::testkit::chain::{ChainEndpoint, from_env};

    let chain = from_env().await.unwrap();
    chain.mine(110).await.unwrap();
    let source: Arc<dyn ChainSource> = match chain.source() {
        ChainEndpoint::Esplora { url } => Arc::new(flashkit::chain::Esplora::new(&url).unwrap()),
        endpoint => crate::sources::bitcoind(endpoint),
    };
    let scene = Scene::open(source).await;
    let keys = Signer::new(5).xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    let address = scene.address(wallet, "one").await;
    chain.fund(&address.address, 25_000).await.unwrap();
    let expect = async |confirmations: u32| {
        scene.look().await;
        assert_eq!(scene.coins(wallet).await[0].confirmations, confirmations);
    };
    expect(0).await;
    chain.mine(3).await.unwrap();
    expect(3).await;
    chain.reorg(3).await.unwrap();
    expect(0).await;
    chain.mine(1).await.unwrap();
    expect(1).await;
}
