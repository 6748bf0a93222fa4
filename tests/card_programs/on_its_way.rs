//! A payment on its way to a card whose import is rolled back.

use std::sync::Arc;

use flashkit::Engine;
use flashkit::access::{HostKey, HostKeys};
use flashkit::cards::{KeptCard, KeptReason, PayWithCard, RollBack};
use flashkit::invoices::{
    CancelInvoice, CaptureInvoice, CreateInvoice, InvoiceOptions, InvoicePurpose,
};
use flashkit::ledger::Account;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::ports::SystemClock;
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};

use crate::imports::{OldCard, World, rows, world_on};
use crate::rolled_back::chip;
use crate::support::key;
use crate::support::scene::{on_both_stores, told};
use crate::support::shop::{self, SAT, sat};
use crate::waiting::some_base;

on_both_stores! {
    what_money_is_on_its_way_to_stays;
}

/// A world with a node, whose invoices can be paid in the books.
async fn with_node(is_sqlite: bool) -> World {
    let folder = is_sqlite.then(|| tempfile::tempdir().unwrap());
    let clock = Arc::new(SystemClock);
    let store: Arc<dyn Store> = match &folder {
        Some(folder) => {
            let file = folder.path().join("books.db");
            Arc::new(SqliteStore::open(file, clock).unwrap())
        }
        None => Arc::new(MemoryStore::new(clock)),
    };
    let node = SimulatedNetwork::new(Arc::new(SystemClock)).node(0);
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let keys = HostKeys::new(HostKey::new([3; 32]));
    let builder = builder.host_keys(keys).lightning(Arc::new(node));
    let engine = builder.open().await.unwrap();
    engine.start().await.unwrap();
    world_on(store, engine, folder).await
}

/// A payment on its way to one card keeps that one, and none of the others.
async fn what_money_is_on_its_way_to_stays(is_sqlite: bool) {
    let world = with_node(is_sqlite).await;
    let (cards, issuer) = (world.engine.cards(), world.engine.issuer());
    let (invoices, till) = (world.engine.invoices(), &world.merchant.till);
    let mut base = some_base();
    world.take_over("base", &rows(&base)).await;
    let here = world.export().await;
    let id = |card: &OldCard| here[&chip(card)].card;
    let (payee, payer) = (id(&base[0]), id(&base[1]));
    let mut held = Vec::new();
    for name in ["captured", "cancelled"] {
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::TopUp { card: payee },
            price: Some(sat(3)),
            description: "Top-up".to_owned(),
            expiry_seconds: 600,
            options: InvoiceOptions {
                hold: true,
                ..InvoiceOptions::default()
            },
        };
        let invoice = invoices.create(till, command).await.unwrap();
        let command = PayWithCard {
            key: key(name),
            tap: base[1].chip.tap(),
            bolt11: invoice.bolt11.clone(),
            pin: None,
        };
        cards.pay(till, command).await.unwrap();
        held.push(invoice.id);
    }
    let roll_back = async |name: &str| {
        let command = RollBack {
            key: key(name),
            import: world.import,
            cards: None,
            after: None,
            limit: 200,
        };
        let imports = world.engine.cards().imports();
        told(imports.roll_back(&issuer, command).await)
    };
    let done = roll_back("first").await.unwrap().value;
    let kept = |card, reason| KeptCard { card, reason };
    let (pending_msat, held_msat) = (6 * SAT, 6 * SAT);
    let coming = kept(payee, KeptReason::MoneyComing { pending_msat });
    let on_hold = kept(payer, KeptReason::MoneyOnHold { held_msat });
    assert_eq!(done.kept.len(), 2);
    assert!(done.kept.contains(&coming), "{:?}", done.kept);
    assert!(done.kept.contains(&on_hold), "{:?}", done.kept);
    assert_eq!(done.returned.len(), base.len() - 2);
    // Once one has come and the other has gone back, both go.
    let capture = CaptureInvoice {
        key: key("capture"),
        invoice: held[0],
    };
    invoices.capture(&issuer, capture).await.unwrap();
    let cancel = CancelInvoice {
        key: key("cancel"),
        invoice: held[1],
    };
    invoices.cancel(&issuer, cancel).await.unwrap();
    let done = roll_back("second").await.unwrap().value;
    let mut came: Vec<_> = done.returned.iter().map(|row| row.balance_msat).collect();
    came.sort_unstable();
    let mut expected = [
        base[0].row.balance_msat + 3 * SAT,
        base[1].row.balance_msat - 3 * SAT,
    ];
    expected.sort_unstable();
    assert_eq!(came, expected);
    let account = Account::former_issuer();
    let balance = world.store.balance(&account).await.unwrap();
    assert_eq!(balance.posted(account.kind().side()), 0);
    world.stop("on its way").await;
}
