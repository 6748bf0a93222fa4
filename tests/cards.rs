//! Cards beyond the main job: chips of an older server, lost phones, limits, and clocks that jump.

mod support;

use std::sync::Arc;
use std::time::Duration;

use flashkit::access::Credential;
use flashkit::cards::{
    ActivateCard, CardLimits, ChargeCard, ExistingChip, FreezeCard, IssueCard, RenewHolder,
};
use flashkit::ids::CardId;
use flashkit::ports::{Clock, SystemClock};
use flashkit::store::MemoryStore;
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Engine, Error};
use support::key;
use support::shop::{self, SAT, sat};

async fn charge(
    engine: &Engine,
    till: &Credential,
    name: &str,
    tap: &str,
    sats: i64,
) -> Result<i64, &'static str> {
    let command = ChargeCard {
        key: key(name),
        tap: tap.to_owned(),
        price: sat(sats),
        reference: name.to_owned(),
        pin: None,
    };
    let charged = engine.cards().charge(till, command).await;
    charged
        .map(|charge| charge.amount_msat / SAT)
        .map_err(|error: Error| error.code())
}

/// A chip that an older server wrote, whose last tap there had the number 500.
async fn existing(engine: &Engine, version: u32, counter: u32) -> (CardId, VirtualCard) {
    let issuer = engine.issuer();
    let command = IssueCard {
        key: key("issue"),
        uid: shop::UID.to_owned(),
        existing_chip: Some(ExistingChip {
            pull_payment_id: Some("fUDXsnySxvb5LYZ1bSLiWzLjVuT".to_owned()),
            version,
            counter,
            issuer_key: None,
        }),
        limits: CardLimits::default(),
        program: None,
    };
    let card = engine.cards().issue(&issuer, command).await.unwrap().id;
    let cards = engine.cards();
    let keys = cards.programming_keys(&issuer, shop::UID).await.unwrap();
    let command = ActivateCard {
        key: key("activate"),
        card,
    };
    cards.activate(&issuer, command).await.unwrap();
    (card, VirtualCard::program(shop::UID, &keys).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taps_that_an_older_server_has_seen_stay_used() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let engine = &shop.engine;
    let merchant = shop::merchant(engine, "Cookshop").await;
    let (card, mut chip) = existing(engine, 0, 500).await;
    let command = flashkit::cards::TopUpCard {
        key: key("top-up"),
        card,
        price: sat(10_000),
    };
    let invoice = engine
        .cards()
        .top_up(&engine.issuer(), command)
        .await
        .unwrap()
        .value;
    shop.customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(engine, &invoice).await;
    for counter in [0, 16, 499] {
        chip.set_counter(counter);
        let (name, tap) = (format!("old-{counter}"), chip.tap());
        let charged = charge(engine, &merchant.till, &name, &tap, 1).await;
        assert_eq!(charged, Err("card.tap_replayed"), "the tap after {counter}");
        assert_eq!(
            engine.cards().peek(&tap).await.unwrap_err().code(),
            "card.tap_replayed"
        );
    }
    chip.set_counter(500);
    let tap = chip.tap();
    assert_eq!(charge(engine, &merchant.till, "new", &tap, 1).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_phone_can_do_nothing_once_its_credential_is_renewed() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let engine = &shop.engine;
    let card = shop::card(engine, shop::UID, CardLimits::default()).await;
    let cards = engine.cards();
    let freeze = |name: &str| FreezeCard {
        key: key(name),
        card: card.id,
    };
    cards.freeze(&card.holder, freeze("f")).await.unwrap();
    let renew = RenewHolder {
        key: key("renew"),
        card: card.id,
    };
    let refused = cards.renew_holder(&card.holder, renew.clone()).await;
    assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    let renewed = cards
        .renew_holder(&engine.issuer(), renew.clone())
        .await
        .unwrap();
    let again = cards.renew_holder(&engine.issuer(), renew).await.unwrap();
    assert_eq!(again, renewed, "the same command, the same credential");
    let lost = cards.unfreeze(&card.holder, freeze("u1")).await;
    assert_eq!(lost.unwrap_err().code(), "access.revoked");
    cards.unfreeze(&renewed.holder, freeze("u2")).await.unwrap();
}

/// A clock that was a year ahead when something was committed, and was then set right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumped_ahead_and_back_stops_no_card() {
    let now_ms = SystemClock.now_ms();
    let clock = Arc::new(ManualClock::at(now_ms));
    let store = MemoryStore::new(clock.clone());
    let shop::Simulated {
        engine, customer, ..
    } = shop::simulated_at(Arc::new(store.clone()), clock.clone()).await;
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let limits = CardLimits {
        per_day: Some(3_000 * SAT),
        ..CardLimits::default()
    };
    let mut card = shop::card(&engine, shop::UID, limits).await;
    shop::top_up(&engine, &customer, &card, "top-up", sat(50_000)).await;
    clock.advance(Duration::from_secs(365 * 24 * 3_600));
    shop::merchant(&engine, "Ahead").await;
    clock.set(now_ms + 60_000);
    let till = &merchant.till;
    let tap = card.chip.tap();
    assert_eq!(charge(&engine, till, "1", &tap, 2_000).await, Ok(2_000));
    // An engine that has seen none of that, on the same books.
    let builder = Engine::builder(Arc::new(store.clone()), shop::master()).network("regtest");
    let fresh = builder.clock(clock.clone()).open().await.unwrap();
    let tap = card.chip.tap();
    assert_eq!(
        charge(&fresh, till, "2", &tap, 2_000).await,
        Err("card.limit_exceeded"),
        "the same day, by the time of commits"
    );
    assert_eq!(charge(&fresh, till, "3", &tap, 1_000).await, Ok(1_000));
}

/// Cards with a daily limit, many taps at once: the limit holds to the sat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_taps_at_once_stay_within_the_days_limit() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let engine = &shop.engine;
    let merchant = shop::merchant(engine, "Cookshop").await;
    let limits = CardLimits {
        per_day: Some(10_000 * SAT),
        ..CardLimits::default()
    };
    let mut card = shop::card(engine, shop::UID, limits).await;
    shop::top_up(engine, &shop.customer, &card, "top-up", sat(50_000)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..32 {
        let (engine, till, tap) = (engine.clone(), merchant.till.clone(), card.chip.tap());
        tasks.spawn(async move { charge(&engine, &till, &number.to_string(), &tap, 1_000).await });
    }
    let outcomes = tasks.join_all().await;
    let charged = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    // Taps that lost the race to a later one are replays by then.
    assert!((1..=10).contains(&charged), "{outcomes:?}");
    let refused: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| outcome.err())
        .collect();
    assert!(
        refused
            .iter()
            .all(|code| ["card.tap_replayed", "card.limit_exceeded"].contains(code)),
        "{refused:?}"
    );
    let left = engine.cards().get(&card.holder, card.id).await.unwrap();
    let spent = 50_000 - left.balance_msat / SAT;
    assert_eq!(spent, i64::try_from(charged).unwrap() * 1_000);
}

/// A price in a currency can be paid for as long as its rate holds, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_ends_with_the_quote_of_its_price() {
    use flashkit::invoices::{CreateInvoice, InvoiceOptions, InvoicePurpose};

    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let engine = &shop.engine;
    let merchant = shop::merchant(engine, "Cookshop").await;
    let week: u32 = 7 * 24 * 3_600;
    for (name, price, lasts) in [
        ("fiat", shop::jmd(150_000), 600),
        ("sats", sat(1_000), i64::from(week)),
    ] {
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale {
                merchant: merchant.id,
            },
            price: Some(price),
            description: "Patties".to_owned(),
            expiry_seconds: week,
            options: InvoiceOptions::default(),
        };
        let invoice = engine
            .invoices()
            .create(&merchant.till, command)
            .await
            .unwrap();
        let details: flashkit::lightning::Bolt11Details = invoice.bolt11.parse().unwrap();
        assert_eq!(
            (invoice.expires_at_ms - invoice.created_at_ms) / 1_000,
            lasts
        );
        let text = (details.expires_at_ms - invoice.created_at_ms) / 1_000;
        assert!((lasts - 2..=lasts + 2).contains(&text), "{text}");
    }
}
