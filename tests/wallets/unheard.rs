//! A source that does not tell of everything: what it does tell counts all the same.

use flashkit::chain::Standing;
use flashkit::ids::BatchId;
use flashkit::invoices::{Invoice, InvoiceState};
use flashkit::ledger::{Batch, Json, NewDocument, Step};
use flashkit::wallets::{AddWallet, WalletOwner, WalletSource, WatchRound, XpubKind};

use crate::scene::{Scene, Signer};
use crate::sources::{bitcoind, servers};
use crate::support::key;

impl Scene {
    async fn round(&self) -> WatchRound {
        let wallets = self.engine.wallets();
        wallets.look_now(&self.issuer).await.unwrap()
    }
}

fn address(invoice: &Invoice) -> &str {
    &invoice.on_chain.as_ref().unwrap().address
}

/// One script has a history that the server refuses: the others are seen, it is told which one, and
/// it is seen as well once the server tells of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_history_that_is_refused_keeps_nobody_from_being_seen() {
    for (at, code) in [(0, "chain.unreachable"), (2, "chain.bad_answer")] {
        let (servers, scene, merchant) = Scene::with_shop(at).await;
        let chain = &servers.chain;
        let mut invoices = Vec::new();
        for name in ["one", "two", "three"] {
            invoices.push(scene.invoice(name, merchant, 20_000, 1).await);
        }
        for invoice in &invoices {
            chain.fund(address(invoice), 20_000).unwrap();
        }
        // Seen while it waits: and what is withheld then is not taken for gone.
        scene.look().await;
        let refused = address(&invoices[1]).to_owned();
        chain.withhold_history(&refused, true).unwrap();
        chain.mine(1).unwrap();
        for _ in 0..2 {
            let round = scene.round().await;
            let [problem] = &round.problems[..] else {
                panic!("{round:?}");
            };
            let told = (problem.address.as_ref(), problem.code.as_str());
            assert_eq!(told, (Some(&refused), code));
            assert_eq!((round.scripts, round.left_out), (2, 0));
        }
        let mut states = Vec::new();
        for invoice in &invoices {
            states.push(scene.now(invoice.id).await.state);
        }
        use InvoiceState::{Processing, Settled};
        assert_eq!(states, [Settled, Processing, Settled]);
        let health = scene.engine.health();
        let trouble = health.chain.as_ref().unwrap();
        assert!(trouble.detail.contains(&refused), "{trouble:?}");
        assert!(!health.is_good() && trouble.code == code);
        chain.withhold_history(&refused, false).unwrap();
        assert_eq!(scene.round().await.problems, []);
        assert_eq!(scene.now(invoices[1].id).await.state, Settled);
        assert_eq!(scene.engine.health().chain, None);
    }
}

/// A server that stops answering is not asked any more, and the next round goes on from there; nor
/// does what is refused for ever keep later pages of scripts from their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_ever_holds_up_no_other_page() {
    for at in [0, 2] {
        let servers = servers().await;
        let chain = &servers.chain;
        chain.mine(110).unwrap();
        let scene = Scene::open(servers.sources[at].1.clone()).await;
        let command = AddWallet {
            key: key("wallet"),
            owner: WalletOwner::Operator,
            name: "of many addresses".to_owned(),
            source: Signer::new(51).xpub(XpubKind::SegwitV0),
            used_addresses: 40,
            birthday_height: None,
        };
        let wallets = scene.engine.wallets();
        let wallet = wallets.add(&scene.issuer, command).await.unwrap().id;
        let known = wallets.addresses(&scene.issuer, wallet, 0, 100).await;
        let mut known = known.unwrap().value;
        // In the order in which they are looked at, with those of change between them.
        known.sort_by(|a, b| a.script.cmp(&b.script));
        for refused in &known[..4] {
            chain.withhold_history(&refused.address, true).unwrap();
        }
        let last = known.last().unwrap();
        for paid in [&known[4], last] {
            chain.fund(&paid.address, 30_000).unwrap();
        }
        chain.mine(1).unwrap();
        let (mut problems, mut left_out) = (0, 0);
        // As many as it takes to come by everybody, and one more for each that is cut off.
        for _ in 0..6 {
            let round = scene.round().await;
            problems += round.problems.len();
            left_out += round.left_out;
        }
        let mut coins: Vec<_> = scene.coins(wallet).await;
        coins.sort_by(|a, b| a.script.cmp(&b.script));
        let seen: Vec<_> = coins.iter().map(|coin| &coin.address).collect();
        assert_eq!(seen, [&known[4].address, &last.address]);
        assert!(problems >= 4, "{problems}");
        // One that says no is there; one that says nothing may want to be left alone.
        let is_silent = at == 0;
        assert!(left_out == 0 || is_silent, "{left_out}");
    }
}

/// The mempool of a node is too long to be read: its blocks are read, and nothing that waited there
/// is taken for gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mempool_that_is_not_told_keeps_no_block_from_being_read() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[1].1.clone()).await;
    let merchant = scene.merchant().await;
    let source = WalletSource::Node;
    let wallet = scene.wallet(WalletOwner::Operator, source).await.id;
    let paid = scene.invoice("paid", merchant, 20_000, 1).await;
    chain.fund(address(&paid), 20_000).unwrap();
    chain.mine(1).unwrap();
    let waits = scene.address(wallet, "waits").await;
    chain.fund(&waits.address, 30_000).unwrap();
    scene.look().await;
    let standing = async |scene: &Scene| {
        let coins = scene.coins(wallet).await;
        let coin = coins.iter().find(|coin| coin.amount_sat == 30_000);
        coin.unwrap().standing.clone()
    };
    assert_eq!(standing(&scene).await, Standing::Waiting);
    // Another process, that has never read it.
    let source = bitcoind(servers.esplora.rpc());
    let scene = Scene::on(scene.store.clone(), source).await;
    let next = scene.invoice("next", merchant, 25_000, 1).await;
    chain.withhold_mempool(true);
    let paying = chain.fund(address(&next), 25_000).unwrap();
    let paying = chain.transaction(&paying).unwrap().unwrap();
    // A block with it, and without what waits.
    chain.replace(0, vec![vec![paying]]).unwrap();
    let round = scene.round().await;
    let [problem] = &round.problems[..] else {
        panic!("{round:?}");
    };
    assert_eq!(problem.address, None);
    assert_eq!(scene.now(next.id).await.state, InvoiceState::Settled);
    assert_eq!(standing(&scene).await, Standing::Waiting);
    let trouble = scene.engine.health().chain.unwrap();
    assert!(trouble.detail.starts_with("the mempool"), "{trouble:?}");
    chain.withhold_mempool(false);
    assert_eq!(scene.round().await.problems, []);
    assert_eq!(scene.engine.health().chain, None);
}

/// What came cannot be put to one invoice, whose row nobody can read: the others are settled, a source
/// that reads blocks goes on, and it is put to that one as soon as it can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_told_now_is_told_later() {
    for at in 0..3 {
        let (servers, scene, merchant) = Scene::with_shop(at).await;
        let chain = &servers.chain;
        let broken = scene.invoice("broken", merchant, 20_000, 1).await;
        let whole = scene.invoice("whole", merchant, 30_000, 1).await;
        let id = broken.id.to_string();
        let row = scene.store.document("invoice", &id).await.unwrap().unwrap();
        let mut batches = 0_u8;
        let mut write = async |body: Json| {
            let now = scene.store.document("invoice", &id).await.unwrap().unwrap();
            batches += 1;
            let steps = vec![Step::Put(NewDocument {
                collection: "invoice",
                id: id.clone(),
                read_version: now.version,
                body,
                index_keys: vec![("address", address(&broken).to_owned())],
            })];
            let batch = Batch {
                id: BatchId::from_parts(1, [batches; 10]),
                command: None,
                steps: steps.into(),
            };
            scene.store.commit(batch).await.unwrap();
        };
        write(Json::of(&"nothing").unwrap()).await;
        chain.fund(address(&broken), 20_000).unwrap();
        chain.fund(address(&whole), 30_000).unwrap();
        chain.mine(1).unwrap();
        for _ in 0..2 {
            let round = scene.round().await;
            let [problem] = &round.problems[..] else {
                panic!("{round:?}");
            };
            assert_eq!(problem.address.as_deref(), Some(address(&broken)));
        }
        let state = scene.now(whole.id).await.state;
        assert_eq!(state, InvoiceState::Settled, "{at}");
        // Many blocks later.
        chain.mine(150).unwrap();
        scene.look().await;
        write(row.body.clone()).await;
        assert_eq!(scene.round().await.problems, []);
        let state = scene.now(broken.id).await.state;
        assert_eq!(state, InvoiceState::Settled, "{at}");
    }
}
