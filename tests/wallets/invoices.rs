//! Invoices that are paid on chain, seen by our own watching of their addresses.

use std::sync::Arc;
use std::time::Duration;

use flashkit::ids::{BatchId, InvoiceId, MerchantId};
use flashkit::invoices::{
    ConfirmationTier, CreateInvoice, Custody, Invoice, InvoiceOptions, InvoicePurpose,
    InvoiceState, PaymentRules, Rail,
};
use flashkit::ledger::{Account, Batch, DueJob, Side, Step};
use flashkit::ports::{Clock, SystemClock};
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::chain::RegtestChain;
use flashkit::testkit::clock::ManualClock;
use flashkit::wallets::{WalletOwner, WalletSource, XpubKind};

use crate::scene::{Scene, Signer};
use crate::sources::{Servers, of, servers};
use crate::support::{key, shop};

impl Scene {
    pub(crate) async fn invoice(
        &self,
        name: &str,
        merchant: MerchantId,
        sats: i64,
        confirmations: u32,
    ) -> Invoice {
        let tier = ConfirmationTier {
            up_to_msat: i64::MAX,
            confirmations,
        };
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale { merchant },
            price: Some(shop::sat(sats)),
            description: name.to_owned(),
            expiry_seconds: 3_600,
            options: InvoiceOptions {
                rails: vec![Rail::OnChain],
                rules: Some(PaymentRules {
                    confirmations: vec![tier],
                    ..PaymentRules::NONE
                }),
                ..InvoiceOptions::default()
            },
        };
        self.engine
            .invoices()
            .create(&self.issuer, command)
            .await
            .unwrap()
            .value
    }

    pub(crate) async fn now(&self, invoice: InvoiceId) -> Invoice {
        self.engine
            .invoices()
            .get(&self.issuer, invoice)
            .await
            .unwrap()
            .value
    }

    pub(crate) async fn posted(&self, account: Account, side: Side) -> i128 {
        self.store.balance(&account).await.unwrap().posted(side)
    }
}

fn address(invoice: &Invoice) -> String {
    invoice.on_chain.as_ref().unwrap().address.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_settled_by_its_confirmations_and_taken_back_by_a_reorg() {
    for at in 0..3 {
        let Servers {
            chain,
            sources,
            esplora: _kept,
            ..
        } = &servers().await;
        chain.mine(110).unwrap();
        let scene = Scene::open(sources[at].1.clone()).await;
        let merchant = scene.merchant().await;
        scene
            .wallet(WalletOwner::Operator, WalletSource::Node)
            .await;
        let first = scene.invoice("first", merchant, 80_000, 2).await;
        let second = scene.invoice("second", merchant, 70_000, 0).await;
        assert_ne!(address(&first), address(&second));
        assert_eq!(first.on_chain.as_ref().unwrap().custody, Custody::Operator);
        let text = first.bip21().unwrap();
        assert_eq!(
            text,
            format!("bitcoin:{}?amount=0.00080000", address(&first))
        );
        let txid = chain.fund(&address(&first), 80_000).unwrap();
        scene.look().await;
        assert_eq!(scene.now(first.id).await.state, InvoiceState::Processing);
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.now(first.id).await.state, InvoiceState::Processing);
        chain.mine(1).unwrap();
        scene.look().await;
        let settled = scene.now(first.id).await;
        assert_eq!(
            (settled.state, settled.received_msat),
            (InvoiceState::Settled, 80_000_000)
        );
        let payable = Account::merchant_payable(merchant);
        assert_eq!(scene.posted(payable, Side::Credit).await, 80_000_000);
        assert_eq!(
            scene.posted(Account::node_onchain(), Side::Debit).await,
            80_000_000
        );
        // Three blocks are no more, and another transaction has its coins: the merchant is not
        // owed what never came.
        chain.mine(1).unwrap();
        let mut rival = chain.transaction(&txid).unwrap().unwrap();
        rival.output.remove(0);
        chain
            .replace(3, vec![vec![rival], vec![], vec![], vec![]])
            .unwrap();
        scene.look().await;
        let gone = scene.now(first.id).await;
        assert_eq!(gone.flags.reorged_msat, 80_000_000, "{gone:?}");
        assert_ne!(gone.state, InvoiceState::Settled);
        assert_eq!(scene.posted(payable, Side::Credit).await, 0);
        assert_eq!(scene.posted(Account::node_onchain(), Side::Debit).await, 0);
        // One with no confirmations needed is settled at once, unless it may be replaced.
        let txid = chain.fund(&address(&second), 70_000).unwrap();
        let replaceable = chain
            .transaction(&txid)
            .unwrap()
            .unwrap()
            .is_explicitly_rbf();
        scene.look().await;
        let settled = scene.now(second.id).await.state == InvoiceState::Settled;
        assert_eq!(settled, !replaceable);
        chain.mine(1).unwrap();
        scene.look().await;
        assert_eq!(scene.now(second.id).await.state, InvoiceState::Settled);
        // A second payment to its address is nobody's yet: it waits for a person.
        chain.fund(&address(&second), 11_000).unwrap();
        chain.mine(1).unwrap();
        scene.look().await;
        let waits = scene
            .engine
            .treasury()
            .suspense(&scene.issuer, None, 10)
            .await
            .unwrap();
        assert_eq!(waits.value.len(), 1, "{waits:?}");
        assert_eq!(waits.value[0].amount_msat, 11_000_000);
        let on_chain = scene.posted(Account::node_onchain(), Side::Debit).await;
        assert_eq!(on_chain, 81_000_000);
        let said = scene
            .engine
            .wallets()
            .list(&scene.issuer, WalletOwner::Operator, None, 10)
            .await;
        let wallet = said.unwrap().value[0].id;
        let has = scene
            .engine
            .wallets()
            .balance(&scene.issuer, wallet)
            .await
            .unwrap();
        assert_eq!(i128::from(has.confirmed_sat) * 1_000, on_chain);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merchants_own_wallet_makes_no_payable_and_none_is_a_refusal() {
    let servers = servers().await;
    servers.chain.mine(110).unwrap();
    let scene = Scene::open(servers.sources[1].1.clone()).await;
    let merchant = scene.merchant().await;
    let command = CreateInvoice {
        key: key("none"),
        purpose: InvoicePurpose::Sale { merchant },
        price: Some(shop::sat(5_000)),
        description: String::new(),
        expiry_seconds: 600,
        options: InvoiceOptions {
            rails: vec![Rail::OnChain],
            ..InvoiceOptions::default()
        },
    };
    let refused = scene
        .engine
        .invoices()
        .create(&scene.issuer, command)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "chain.no_wallet");
    scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await;
    let own = Signer::new(61).xpub(XpubKind::SegwitV0);
    scene.wallet(WalletOwner::Merchant { merchant }, own).await;
    let invoice = scene.invoice("own", merchant, 60_000, 1).await;
    assert_eq!(
        invoice.on_chain.as_ref().unwrap().custody,
        Custody::Merchant
    );
    servers.chain.fund(&address(&invoice), 60_000).unwrap();
    servers.chain.mine(1).unwrap();
    // Nobody looked meanwhile: another engine finds it, over another source.
    servers.chain.mine(20).unwrap();
    let later = Scene::on(scene.store.clone(), servers.sources[0].1.clone()).await;
    later.look().await;
    let settled = later.now(invoice.id).await;
    assert_eq!(
        (settled.state, settled.received_msat),
        (InvoiceState::Settled, 60_000_000)
    );
    for account in [
        Account::merchant_payable(merchant),
        Account::node_onchain(),
        Account::suspense(),
    ] {
        assert_eq!(later.posted(account, Side::Credit).await, 0, "{account}");
    }
}

/// An invoice expires while the engine is down. What a block had before is in time, over every
/// source; what waits in the mempool afterwards, and what a block had later, is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_block_had_in_time_is_in_time_however_late_it_is_seen() {
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let servers = of(RegtestChain::in_memory().with_clock(clock.clone())).await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    for ((name, source), number) in servers.sources.iter().zip(70..) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let scene = Scene::at(store.clone(), source.clone(), clock.clone()).await;
        let merchant = scene.merchant().await;
        let keys = Signer::new(number).xpub(XpubKind::SegwitV0);
        scene.wallet(WalletOwner::Operator, keys).await;
        let mut made = Vec::new();
        for invoice in ["early", "edge", "late", "waiting"] {
            made.push(scene.invoice(invoice, merchant, 20_000, 1).await);
        }
        let [early, edge, late, waiting] = made.try_into().unwrap();
        drop(scene);
        let at = |ms: i64| clock.set(ms);
        for (invoice, ms) in [
            (&early, early.created_at_ms + 60_000),
            // To the second, as a header says it.
            (&edge, edge.expires_at_ms / 1_000 * 1_000 - 1_000),
            (&late, late.expires_at_ms + 1_000),
        ] {
            at(ms);
            chain.fund(&address(invoice), 20_000).unwrap();
            chain.mine(1).unwrap();
        }
        chain.fund(&address(&waiting), 20_000).unwrap();
        // More blocks than a server of headers is searched back for.
        at(late.expires_at_ms + 7_200_000);
        let scene = Scene::at(store, source.clone(), clock.clone()).await;
        // The job that ends its time may come first.
        scene.engine.run_due_jobs().await.unwrap();
        scene.look().await;
        for (invoice, is_late) in [(&early, false), (&edge, false), (&late, true)] {
            let now = scene.now(invoice.id).await;
            let found = (now.state, now.flags.late_msat > 0);
            let wanted = match is_late {
                false => (InvoiceState::Settled, false),
                true => (InvoiceState::Expired, true),
            };
            assert_eq!(found, wanted, "{name}: {now:?}");
        }
        let now = scene.now(waiting.id).await;
        assert!(now.flags.late_msat > 0, "{name}: first seen after its time");
        chain.mine(1).unwrap();
    }
}

/// So many invoices that are monitored for a month.
async fn wait_in_a_month(store: &dyn Store, now_ms: i64, invoices: u64) {
    let due = |number: u64| {
        let mut random = [0x77; 10];
        random[..8].copy_from_slice(&number.to_be_bytes());
        Step::Due(DueJob {
            kind: "invoice.monitor".to_owned(),
            object: InvoiceId::from_parts(2, random).to_string(),
            due_at_ms: now_ms + 30 * 86_400_000,
        })
    };
    let batch = Batch {
        id: BatchId::from_parts(2, [0x77; 10]),
        command: None,
        steps: (0..invoices).map(due).collect::<Vec<_>>().into(),
    };
    store.commit(batch).await.unwrap();
}

/// A clock that was years ahead for a while puts nothing off until then: not while it is not
/// believed, and once it was, all is looked at when it is set back, or after a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_watched_is_looked_at_whatever_the_clock_was() {
    const FAR_MS: i64 = 4 * 365 * 86_400_000;
    let begun_ms = SystemClock.now_ms();
    let clock = Arc::new(ManualClock::at(begun_ms));
    let servers = of(RegtestChain::in_memory().with_clock(clock.clone())).await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let source = &servers.sources[0].1;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let mut scene = Scene::at(store.clone(), source.clone(), clock.clone()).await;
    let merchant = scene.merchant().await;
    let keys = Signer::new(91).xpub(XpubKind::SegwitV0);
    scene.wallet(WalletOwner::Operator, keys).await;
    scene.look().await;
    for (number, believed, starts) in [(1, false, false), (2, true, false), (3, true, true)] {
        let right_ms = clock.now_ms() + 20_000;
        clock.set(right_ms);
        clock.jump(right_ms + FAR_MS);
        scene.engine.run_due_jobs().await.unwrap();
        // Another look in the time that is not believed, with a round in it.
        for _ in 0..if believed { 12 } else { 1 } {
            clock.advance(Duration::from_secs(60));
            scene.engine.run_due_jobs().await.unwrap();
        }
        let is_ahead = store.commit_time_ms() > right_ms + FAR_MS;
        assert_eq!(is_ahead, believed);
        clock.jump(right_ms + 800_000);
        if starts {
            // However many jobs of another kind are due before.
            wait_in_a_month(&*store, clock.now_ms(), 2_001).await;
            scene = Scene::at(store.clone(), source.clone(), clock.clone()).await;
        }
        let key = format!("sale {number}");
        let invoice = scene.invoice(&key, merchant, 20_000, 1).await;
        chain.fund(&address(&invoice), 20_000).unwrap();
        chain.mine(1).unwrap();
        scene.engine.run_due_jobs().await.unwrap();
        clock.set(right_ms + 820_000);
        scene.engine.run_due_jobs().await.unwrap();
        let state = scene.now(invoice.id).await.state;
        assert_eq!(state, InvoiceState::Settled, "{number}");
    }
    scene.engine.stop().await.unwrap();
}
