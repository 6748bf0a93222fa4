//! Spends whose blocks come and go, and what the books have of them each time: a spend is booked
//! while a block has it, on hold while it is on its way, and its coins are free when it lost.

use std::sync::Arc;

use flashkit::Engine;
use flashkit::chain::bitcoin::consensus::encode::deserialize_hex;
use flashkit::chain::bitcoin::{Transaction, Txid};
use flashkit::ids::WalletId;
use flashkit::ledger::{Account, Side};
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::ports::SystemClock;
use flashkit::reports::Control;
use flashkit::testkit::chain::RegtestChain;
use flashkit::wallets::{BumpSpend, CancelSpend, Spend, SpendState, WalletOwner, XpubKind};

use crate::scene::{Scene, Signer};
use crate::sources::{Servers, servers};
use crate::spending::{everything, fill, pay};
use crate::support::{key, shop};

/// An operator's wallet with coins of these amounts, on the first source.
async fn begin(servers: &Servers, number: u8, coins: &[u64]) -> (Scene, Signer, WalletId) {
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let signer = Signer::new(number);
    let keys = signer.xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    fill(&scene, &servers.chain, wallet, coins).await;
    (scene, signer, wallet)
}

impl Scene {
    async fn again(&self, spend: &Spend) -> Spend {
        let found = self.engine.wallets().spend(&self.issuer, spend.id).await;
        found.unwrap().value
    }

    async fn cancel(&self, spend: &Spend) {
        let command = CancelSpend {
            key: key(&format!("cancel-{}", spend.id)),
            spend: spend.id,
        };
        let wallets = self.engine.wallets();
        wallets.cancel_spend(&self.issuer, command).await.unwrap();
    }

    /// What is booked on chain and what of it is on hold, in sats; and what the wallet has in
    /// blocks, which is the same once nothing is on its way.
    async fn books(&self, wallet: WalletId) -> (i128, i64, u64) {
        let account = Account::node_onchain();
        let balance = self.store.balance(&account).await.unwrap();
        let has = self.engine.wallets().balance(&self.issuer, wallet).await;
        let booked = balance.posted(Side::Debit) / 1_000;
        let on_hold = balance.credits_pending / 1_000;
        (booked, on_hold, has.unwrap().value.confirmed_sat)
    }

    /// The books are what the wallet has in blocks, and nothing is on hold.
    async fn tied(&self, wallet: WalletId, sats: u64) {
        assert_eq!(self.books(wallet).await, (i128::from(sats), 0, sats));
    }

    /// The amounts of the coins that a new spend may take.
    async fn free(&self, wallet: WalletId) -> Vec<u64> {
        let coins = self.coins(wallet).await;
        let free = coins.iter().filter(|coin| coin.reserved_by.is_none());
        let mut free: Vec<u64> = free.map(|coin| coin.amount_sat).collect();
        free.sort_unstable();
        free
    }
}

fn transaction(spend: &Spend) -> Transaction {
    deserialize_hex(spend.transaction.as_ref().unwrap()).unwrap()
}

fn leaves(spend: &Spend) -> u64 {
    spend.fee_sat
        + spend
            .outputs
            .iter()
            .map(|output| output.amount_sat)
            .sum::<u64>()
}

/// The last `depth` blocks make room for one more, the last of which has these transactions.
fn blocks(chain: &RegtestChain, depth: u32, last: &[Transaction]) {
    let mut contents = vec![Vec::new(); usize::try_from(depth).unwrap()];
    contents.push(last.to_vec());
    chain.replace(depth, contents).unwrap();
}

/// A transaction of the same keys that the books know nothing of.
async fn foreign(servers: &Servers, number: u8, coins: usize, sats: u64) -> Transaction {
    let scene = Scene::open(servers.sources[0].1.clone()).await;
    let signer = Signer::new(number);
    let keys = signer.xpub(XpubKind::SegwitV0);
    let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
    for coin in 0..coins {
        scene.address(wallet, &format!("fill-{coin}")).await;
    }
    scene.look().await;
    let spend = scene.prepare("foreign", wallet, pay(sats)).await.unwrap();
    assert_eq!(spend.coins.len(), 1, "it spends one of the coins");
    let signed = signer.sign(&spend.psbt);
    let signed = flashkit::wallets::signed_transaction(&spend.psbt, &signed);
    deserialize_hex(&signed.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_spend_frees_the_other_coins_and_a_reorg_turns_it_round_and_back() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let (scene, signer, wallet) = begin(&servers, 51, &[50_000, 60_000]).await;
    scene.tied(wallet, 110_000).await;
    let rival = foreign(&servers, 51, 2, 30_000).await;
    let spend = scene.prepare("one", wallet, pay(80_000)).await.unwrap();
    assert_eq!((spend.coins.len(), scene.free(wallet).await), (2, vec![]));
    let signed = Some(signer.sign(&spend.psbt));
    scene.submit("one", spend.id, signed).await.unwrap();
    let out = i64::try_from(leaves(&spend)).unwrap();
    let ours = transaction(&scene.again(&spend).await);
    for round in 0..2 {
        // Another transaction has one of its coins: the other one can be spent again.
        blocks(chain, round, std::slice::from_ref(&rival));
        scene.look().await;
        assert_eq!(scene.again(&spend).await.state, SpendState::Replaced);
        let (booked, on_hold, _) = scene.books(wallet).await;
        // What left by a transaction that nobody here made is for a person to say.
        assert_eq!((booked, on_hold), (110_000, 0), "round {round}");
        let left = scene.free(wallet).await;
        assert_eq!(left.len(), 2, "one coin and the rival's change: {left:?}");
        let again = scene
            .prepare(&format!("again{round}"), wallet, pay(20_000))
            .await
            .unwrap();
        scene.cancel(&again).await;
        // That block is no more, and the spend is in one.
        blocks(chain, 1, std::slice::from_ref(&ours));
        scene.look().await;
        assert_eq!(scene.again(&spend).await.state, SpendState::Confirmed);
        scene.tied(wallet, spend.change_sat).await;
        // It is on its way again, then back.
        chain.reorg(1).unwrap();
        scene.look().await;
        assert_eq!(scene.again(&spend).await.state, SpendState::Broadcast);
        let (booked, on_hold, _) = scene.books(wallet).await;
        assert_eq!((booked, on_hold), (110_000, out), "round {round}");
        chain.mine(1).unwrap();
        scene.look().await;
        scene.tied(wallet, spend.change_sat).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_of_two_replacements_a_block_has_is_booked_and_the_other_lets_go() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let (scene, signer, wallet) = begin(&servers, 52, &[50_000, 60_000]).await;
    // Its change is too little for a higher fee, so that the replacement takes another coin.
    let first = scene.prepare("first", wallet, pay(59_000)).await.unwrap();
    let submit = async |name: &str, spend: &Spend| {
        let signed = Some(signer.sign(&spend.psbt));
        scene.submit(name, spend.id, signed).await.unwrap()
    };
    submit("first", &first).await;
    let command = BumpSpend {
        key: key("bump"),
        spend: first.id,
        fee_sat_per_kvb: 20_000,
    };
    let wallets = scene.engine.wallets();
    let second = wallets
        .bump_spend(&scene.issuer, command)
        .await
        .unwrap()
        .value;
    assert_eq!((first.coins.len(), second.coins.len()), (1, 2));
    submit("second", &second).await;
    let (_, on_hold, _) = scene.books(wallet).await;
    let both = i64::try_from(leaves(&first) + leaves(&second)).unwrap();
    assert_eq!(on_hold, both, "either may be");
    let [one, two] = [&first, &second];
    let (one, two) = (scene.again(one).await, scene.again(two).await);
    for depth in [0, 1] {
        blocks(chain, depth, &[transaction(&one)]);
        scene.look().await;
        assert_eq!(
            scene.again(&one).await.state,
            SpendState::Confirmed,
            "{depth}"
        );
        assert_eq!(scene.again(&two).await.state, SpendState::Replaced);
        scene.tied(wallet, 110_000 - leaves(&one)).await;
        assert!(scene.free(wallet).await.contains(&50_000), "let go");
        blocks(chain, 1, &[transaction(&two)]);
        scene.look().await;
        assert_eq!(scene.again(&two).await.state, SpendState::Confirmed);
        assert_eq!(scene.again(&one).await.state, SpendState::Replaced);
        scene.tied(wallet, 110_000 - leaves(&two)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_spend_of_two_replacements_ends_both() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let (scene, signer, wallet) = begin(&servers, 53, &[50_000, 60_000]).await;
    let rival = foreign(&servers, 53, 2, 55_000).await;
    let first = scene.prepare("first", wallet, pay(80_000)).await.unwrap();
    let signed = Some(signer.sign(&first.psbt));
    scene.submit("first", first.id, signed).await.unwrap();
    let command = BumpSpend {
        key: key("bump"),
        spend: first.id,
        fee_sat_per_kvb: 9_000,
    };
    let wallets = scene.engine.wallets();
    let second = wallets
        .bump_spend(&scene.issuer, command)
        .await
        .unwrap()
        .value;
    blocks(chain, 0, &[rival]);
    scene.look().await;
    for spend in [&first, &second] {
        assert_eq!(scene.again(spend).await.state, SpendState::Replaced);
    }
    assert_eq!(scene.books(wallet).await.1, 0);
    assert!(scene.free(wallet).await.contains(&50_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_and_cancelled_is_booked_when_a_block_has_it_all_the_same() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let (scene, signer, wallet) = begin(&servers, 54, &[60_000]).await;
    let rival = foreign(&servers, 54, 1, 30_000).await;
    let spend = scene.prepare("one", wallet, everything()).await.unwrap();
    // The network has another one with as much of a fee.
    chain.submit(rival.clone()).unwrap();
    let signed = Some(signer.sign(&spend.psbt));
    scene.submit("one", spend.id, signed).await.unwrap();
    assert_eq!(scene.again(&spend).await.state, SpendState::Refused);
    scene.cancel(&spend).await;
    assert_eq!(scene.books(wallet).await, (60_000, 0, 60_000));
    let ours = transaction(&scene.again(&spend).await);
    for depth in [0, 1] {
        blocks(chain, depth, std::slice::from_ref(&ours));
        scene.look().await;
        assert_eq!(
            scene.again(&spend).await.state,
            SpendState::Confirmed,
            "{depth}"
        );
        scene.tied(wallet, 0).await;
        blocks(chain, 1, std::slice::from_ref(&rival));
        scene.look().await;
        assert_eq!(scene.again(&spend).await.state, SpendState::Replaced);
        let (booked, on_hold, _) = scene.books(wallet).await;
        assert_eq!((booked, on_hold), (60_000, 0));
    }
    // Two prepared alike have one transaction, and it is booked once.
    let (scene, signer, wallet) = begin(&servers, 55, &[60_000]).await;
    let one = scene.prepare("one", wallet, everything()).await.unwrap();
    scene.cancel(&one).await;
    let two = scene.prepare("two", wallet, everything()).await.unwrap();
    let signed = Some(signer.sign(&two.psbt));
    scene.submit("two", two.id, signed).await.unwrap();
    chain.mine(1).unwrap();
    scene.look().await;
    assert_eq!(scene.again(&two).await.state, SpendState::Confirmed);
    assert_eq!(scene.again(&one).await.state, SpendState::Cancelled);
    scene.tied(wallet, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_that_matches_nothing_goes_with_its_block_spent_or_not() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    for at in 0..3 {
        let scene = Scene::open(servers.sources[at].1.clone()).await;
        let signer = Signer::new(56 + u8::try_from(at).unwrap());
        let keys = signer.xpub(XpubKind::Taproot);
        let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
        let address = scene.address(wallet, "one").await.address;
        let txid: Txid = chain.fund(&address, 40_000).unwrap();
        let receipt = chain.transaction(&txid).unwrap().unwrap();
        chain.mine(1).unwrap();
        scene.look().await;
        scene.tied(wallet, 40_000).await;
        // It is spent, and the spend is in a block.
        let spend = scene.prepare("all", wallet, everything()).await.unwrap();
        let signed = Some(signer.sign(&spend.psbt));
        scene.submit("all", spend.id, signed).await.unwrap();
        chain.mine(1).unwrap();
        scene.look().await;
        scene.tied(wallet, 0).await;
        // Both blocks are no more, and both transactions wait.
        chain.reorg(2).unwrap();
        scene.look().await;
        assert_eq!(scene.books(wallet).await, (0, 40_000, 0), "{at}");
        let suspense = async || {
            let balance = scene.store.balance(&Account::suspense()).await.unwrap();
            balance.posted(Side::Credit)
        };
        assert_eq!(suspense().await, 0);
        // The receipt alone is in a block, then the spend as well.
        blocks(chain, 0, &[receipt]);
        scene.look().await;
        assert_eq!(scene.books(wallet).await, (40_000, 40_000, 0));
        chain.mine(1).unwrap();
        scene.look().await;
        scene.tied(wallet, 0).await;
        let treasury = scene.engine.treasury();
        let waits = treasury.suspense(&scene.issuer, None, 9).await.unwrap();
        let waits: Vec<i64> = waits.value.iter().map(|item| item.amount_msat).collect();
        assert_eq!((waits, suspense().await), (vec![40_000_000], 40_000_000));
    }
}

/// The books of what the operator's own wallets have are tied to what their coins are worth: also
/// when somebody else with the keys takes some of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_ties_the_books_to_the_coins_of_watched_wallets() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let (scene, signer, wallet) = begin(&servers, 60, &[50_000, 60_000]).await;
    let node = SimulatedNetwork::new(Arc::new(SystemClock)).node(0);
    let builder = Engine::builder(scene.store.clone(), shop::master()).network("regtest");
    let auditor = builder.lightning(Arc::new(node)).open().await.unwrap();
    auditor.start().await.unwrap();
    let audit = async || {
        let audit = auditor
            .reports()
            .audit(&auditor.issuer())
            .await
            .unwrap()
            .value;
        assert!(audit.is_balanced && audit.differences.is_empty());
        let is_it = |control: &&Control| control.account == Account::node_onchain();
        audit.controls.iter().find(is_it).cloned().unwrap()
    };
    let tied = audit().await;
    assert_eq!(
        (tied.booked_msat, tied.actual_msat),
        (110_000_000, 110_000_000)
    );
    assert_eq!(tied.since_ms, None);
    let spend = scene.prepare("one", wallet, pay(55_000)).await.unwrap();
    let signed = Some(signer.sign(&spend.psbt));
    scene.submit("one", spend.id, signed).await.unwrap();
    scene.look().await;
    let on_its_way = audit().await;
    assert!(on_its_way.is_explained(), "{on_its_way:?}");
    chain.mine(1).unwrap();
    scene.look().await;
    let tied = audit().await;
    assert_eq!((tied.difference_msat, tied.since_ms), (0, None), "{tied:?}");
    // Whoever else has the keys takes a coin of 50,000 for 30,000: a person has to say so.
    let rival = foreign(&servers, 60, 2, 30_000).await;
    let kept: u64 = rival
        .output
        .iter()
        .map(|output| output.value.to_sat())
        .sum::<u64>()
        - 30_000;
    blocks(chain, 0, &[rival]);
    scene.look().await;
    let differs = audit().await;
    assert!(differs.since_ms.is_some(), "{differs:?}");
    // Its change went to an address that these books have given out as well.
    let gone = differs.difference_msat;
    assert!(gone == -50_000_000 || gone == i64::try_from(kept * 1_000).unwrap() - 50_000_000);
}
