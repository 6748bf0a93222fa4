//! What the chain had before these books came to it: addresses that were paid, and money that is gone.

use std::sync::Arc;

use flashkit::chain::ChainSource;
use flashkit::invoices::InvoiceState;
use flashkit::ledger::{Account, Side};
use flashkit::wallets::{AddWallet, Wallet, WalletOwner, WalletSource, XpubKind};

use crate::racing::Slow;
use crate::scene::{Scene, Signer};
use crate::sources::servers;
use crate::spending::everything;
use crate::support::key;

impl Scene {
    /// A wallet of the operator's that was used elsewhere.
    async fn used(&self, source: WalletSource, used_addresses: u32, birthday: u32) -> Wallet {
        let command = AddWallet {
            key: key("used"),
            owner: WalletOwner::Operator,
            name: "from elsewhere".to_owned(),
            source,
            used_addresses,
            birthday_height: Some(birthday),
        };
        let added = self.engine.wallets().add(&self.issuer, command).await;
        added.unwrap().value
    }

    async fn suspense(&self) -> i128 {
        self.posted(Account::suspense(), Side::Credit).await
    }
}

/// Another program on the same keys has been paid at its first two addresses, and shows a third: the
/// first customer of these books is shown the one that nobody paid, and it is not settled by what
/// others paid. The same with the keys of a device that was lost, in new books.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_was_paid_elsewhere_is_never_given_out() {
    // The sources with an index by script.
    for at in [0, 2] {
        for keys in [Signer::new(41).xpub(XpubKind::SegwitV0), WalletSource::Node] {
            let servers = servers().await;
            let chain = &servers.chain;
            chain.mine(110).unwrap();
            let source = &servers.sources[at].1;
            let other = Scene::open(source.clone()).await;
            let wallet = other.wallet(WalletOwner::Operator, keys.clone()).await.id;
            for number in 0..2 {
                let address = other.address(wallet, &format!("old-{number}")).await;
                chain.fund(&address.address, 50_000).unwrap();
                chain.mine(1 - number).unwrap();
            }
            let third = other.address(wallet, "third").await;
            let scene = Scene::open(source.clone()).await;
            let merchant = scene.merchant().await;
            let wallet = scene.wallet(WalletOwner::Operator, keys).await.id;
            let invoice = scene.invoice("first", merchant, 50_000, 1).await;
            let shown = &invoice.on_chain.as_ref().unwrap().address;
            assert_eq!((shown, third.index), (&third.address, 2));
            scene.look().await;
            assert_eq!(scene.now(invoice.id).await.state, InvoiceState::New);
            // It is watched all the same, and is in what the wallet has.
            assert_eq!(scene.coins(wallet).await.len(), 2);
            let wallets = scene.engine.wallets();
            let known = wallets.addresses(&scene.issuer, wallet, 0, 10).await;
            let used = known.unwrap().value.into_iter().map(|it| it.is_used);
            assert_eq!(used.collect::<Vec<_>>(), [true, true, false]);
            chain.fund(shown, 50_000).unwrap();
            chain.mine(1).unwrap();
            scene.look().await;
            assert_eq!(scene.now(invoice.id).await.state, InvoiceState::Settled);
            assert_eq!(scene.address(wallet, "by hand").await.index, 3);
        }
    }
}

/// A source that reads blocks cannot say what was paid, and nobody said how many addresses were given out:
/// what a block had long before is not the invoice's, whatever the clock shows, and what comes then is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_payment_settles_no_invoice_where_the_address_is_given_out_again() {
    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let source = &servers.sources[1].1;
    assert!(source.reads_blocks());
    let keys = Signer::new(43).xpub(XpubKind::SegwitV0);
    let other = Scene::open(source.clone()).await;
    let theirs = other.wallet(WalletOwner::Operator, keys.clone()).await.id;
    let old = other.address(theirs, "old").await.address;
    chain.fund(&old, 50_000).unwrap();
    chain.mine(7).unwrap();
    let scene = Scene::open(source.clone()).await;
    let merchant = scene.merchant().await;
    scene.used(keys, 0, 100).await;
    let invoice = scene.invoice("first", merchant, 50_000, 1).await;
    assert_eq!(invoice.on_chain.as_ref().unwrap().address, old);
    scene.look().await;
    assert_eq!(scene.now(invoice.id).await.state, InvoiceState::New);
    chain.fund(&old, 50_000).unwrap();
    chain.mine(1).unwrap();
    scene.look().await;
    assert_eq!(scene.now(invoice.id).await.state, InvoiceState::Settled);
}

/// A source that reads blocks cannot say what was paid: there a person says how many addresses were
/// given out. What they had received, and spent, is no money of these books; what comes to them is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_wallet_had_before_it_was_added_is_no_receipt() {
    for at in 0..3 {
        let servers = servers().await;
        let chain = &servers.chain;
        chain.mine(110).unwrap();
        let (source, signer) = (&servers.sources[at].1, Signer::new(42));
        let keys = signer.xpub(XpubKind::SegwitV0);
        let other = Scene::open(source.clone()).await;
        let theirs = other.wallet(WalletOwner::Operator, keys.clone()).await.id;
        let mut addresses = Vec::new();
        for number in 0..3 {
            let address = other.address(theirs, &format!("old-{number}")).await;
            addresses.push(address.address);
        }
        // The first is spent, the second is still there.
        chain.fund(&addresses[0], 60_000).unwrap();
        chain.mine(1).unwrap();
        other.look().await;
        let spend = async |name: &str| {
            let spend = other.prepare(name, theirs, everything()).await.unwrap();
            let signed = Some(signer.sign(&spend.psbt));
            other.submit(name, spend.id, signed).await.unwrap();
            chain.mine(1).unwrap();
            other.look().await;
        };
        spend("before").await;
        chain.fund(&addresses[1], 50_000).unwrap();
        chain.mine(1).unwrap();
        let scene = Scene::open(source.clone()).await;
        let wallet = scene.used(keys, 3, 100).await;
        assert_eq!(wallet.next_external, 3);
        scene.look().await;
        let sats = async || {
            let coins = scene.coins(wallet.id).await;
            coins.iter().map(|coin| coin.amount_sat).collect::<Vec<_>>()
        };
        assert_eq!((sats().await, scene.suspense().await), (vec![50_000], 0));
        // Nor is what came and went while nobody looked.
        chain.fund(&addresses[2], 40_000).unwrap();
        chain.mine(1).unwrap();
        other.look().await;
        spend("meanwhile").await;
        scene.look().await;
        assert_eq!((sats().await, scene.suspense().await), (vec![], 0));
        // What comes from now on is money that waits for a person.
        chain.fund(&addresses[0], 30_000).unwrap();
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.suspense().await, 30_000_000);
        assert_eq!(scene.address(wallet.id, "next").await.index, 3);
    }
}

/// The chain's server is away: a merchant's wallet is added all the same where nothing is missed by
/// that, and serves once it is back. One that reads blocks has to know from where on, for the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_is_added_while_the_chains_server_is_away() {
    for at in 0..3 {
        let servers = servers().await;
        let chain = &servers.chain;
        chain.mine(110).unwrap();
        let slow = Arc::new(Slow::new(servers.sources[at].1.clone()));
        let scene = Scene::open(slow.clone()).await;
        let merchant = scene.merchant().await;
        let owner = WalletOwner::Merchant { merchant };
        if slow.reads_blocks() {
            slow.set_away(true);
            let command = AddWallet {
                key: key("first"),
                owner,
                name: String::new(),
                source: Signer::new(44).xpub(XpubKind::SegwitV0),
                used_addresses: 0,
                birthday_height: None,
            };
            let refused = scene.engine.wallets().add(&scene.issuer, command).await;
            assert_eq!(refused.unwrap_err().code(), "chain.unreachable");
            slow.set_away(false);
            let first = Signer::new(45).xpub(XpubKind::SegwitV0);
            scene.wallet(WalletOwner::Operator, first).await;
            scene.look().await;
        }
        slow.set_away(true);
        let keys = Signer::new(44).xpub(XpubKind::SegwitV0);
        let added = scene.wallet(owner, keys).await;
        assert_eq!(added.added_at_height.is_some(), slow.reads_blocks());
        slow.set_away(false);
        let invoice = scene.invoice("first", merchant, 50_000, 1).await;
        let shown = &invoice.on_chain.as_ref().unwrap().address;
        chain.fund(shown, 50_000).unwrap();
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.now(invoice.id).await.state, InvoiceState::Settled);
        assert_eq!(scene.coins(added.id).await.len(), 1);
    }
}
