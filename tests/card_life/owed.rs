//! What the chain takes back of a card that another one came in the place of.

use flashkit::Engine;
use flashkit::cards::CardLimits;
use flashkit::ids::CardId;
use flashkit::invoices::{
    CreateInvoice, Custody, GivenAddress, InvoiceOptions, InvoicePurpose, OnChainFact,
    OnChainPlace, Outpoint, Rail,
};
use flashkit::ledger::Account;
use flashkit::store::Store;
use flashkit::testkit::chain::nobodys_address;

use crate::hands::{blank, charge, on_card, replace};
use crate::support::key;
use crate::support::scene::{NOON, Scene, on_both_stores};
use crate::support::shop::{SAT, sat};

on_both_stores! {
    a_reorg_takes_back_what_a_replacement_carried_on;
    what_a_replaced_card_owes_is_paid_by_what_comes_to_the_new_one;
}

/// An invoice of a card's, to be paid at an address.
async fn address(engine: &Engine, card: CardId, name: &str, sats: i64) -> String {
    let command = CreateInvoice {
        key: key(name),
        purpose: InvoicePurpose::TopUp { card },
        price: Some(sat(sats)),
        description: name.to_owned(),
        expiry_seconds: 3_600,
        options: InvoiceOptions {
            rails: vec![Rail::OnChain],
            address: Some(GivenAddress {
                address: nobodys_address(name),
                custody: Custody::Operator,
            }),
            ..InvoiceOptions::default()
        },
    };
    let invoices = engine.invoices();
    let made = invoices.create(&engine.issuer(), command).await.unwrap();
    made.value.on_chain.unwrap().address
}

async fn tell(engine: &Engine, address: &str, output: u8, sats: i64, place: OnChainPlace) {
    let fact = OnChainFact {
        outpoint: Outpoint {
            txid: [output; 32],
            vout: 0,
        },
        amount_sat: sats,
        first_known_ms: NOON,
        place,
    };
    let (invoices, issuer) = (engine.invoices(), engine.issuer());
    let told = invoices.observe_on_chain(&issuer, address, &fact).await;
    assert!(told.unwrap());
}

fn block() -> OnChainPlace {
    OnChainPlace::Block {
        height: 100,
        hash: "b".repeat(64),
        confirmations: 1,
    }
}

fn gone() -> OnChainPlace {
    OnChainPlace::Gone { replaced_by: None }
}

/// What the holders of cards owe, in sats.
async fn owed<const N: usize>(store: &dyn Store, cards: [CardId; N]) -> [i64; N] {
    let mut owed = [0; N];
    for (owed, card) in owed.iter_mut().zip(cards) {
        let account = Account::card_receivable(card);
        let balance = store.balance(&account).await.unwrap();
        *owed = i64::try_from(balance.posted(account.kind().side())).unwrap() / SAT;
    }
    owed
}

async fn a_reorg_takes_back_what_a_replacement_carried_on(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, old) = (scene.engine().clone(), scene.card.id);
    let at = address(&engine, old, "paid before", 10_000).await;
    tell(&engine, &at, 1, 10_000, block()).await;
    let (new, mut chip) = blank(&engine, 1).await;
    let tap = chip.tap();
    let holder = &scene.card.holder;
    replace(&engine, holder, "replace", old, &tap)
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, new).await, 60_000);

    tell(&engine, &at, 1, 10_000, gone()).await;
    assert_eq!(on_card(&*scene.store, new).await, 50_000);
    assert_eq!(on_card(&*scene.store, old).await, 0);
    assert_eq!(owed(&*scene.store, [old, new]).await, [0, 0]);
    // There after all, it is where the card's money is by now.
    tell(&engine, &at, 1, 10_000, block()).await;
    assert_eq!(on_card(&*scene.store, new).await, 60_000);
    scene.stop("taken back from the card in its place").await;
}

async fn what_a_replaced_card_owes_is_paid_by_what_comes_to_the_new_one(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, old) = (scene.engine().clone(), scene.card.id);
    let at = address(&engine, old, "spent", 10_000).await;
    tell(&engine, &at, 1, 10_000, block()).await;
    let tap = scene.card.chip.tap();
    let till = scene.merchant.till.clone();
    charge(&engine, &till, "all of it", &tap, 58_000)
        .await
        .unwrap();
    tell(&engine, &at, 1, 10_000, gone()).await;
    assert_eq!(owed(&*scene.store, [old]).await, [8_000]);

    let (new, mut chip) = blank(&engine, 1).await;
    let tap = chip.tap();
    let holder = &scene.card.holder;
    replace(&engine, holder, "replace", old, &tap)
        .await
        .unwrap();
    assert_eq!(owed(&*scene.store, [old, new]).await, [0, 8_000]);
    let at = address(&engine, new, "later", 9_500).await;
    tell(&engine, &at, 2, 9_500, block()).await;
    assert_eq!(owed(&*scene.store, [old, new]).await, [0, 0]);
    assert_eq!(on_card(&*scene.store, new).await, 1_500);
    // What comes back pays nothing any more: nobody owes.
    let at = address(&engine, new, "once more", 1_000).await;
    tell(&engine, &at, 3, 1_000, block()).await;
    assert_eq!(on_card(&*scene.store, new).await, 2_500);
    scene.stop("what is owed went on").await;
}
