//! Looking at a card by its tap: what is shown, and how long the tap is good for.

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flashkit::Engine;
use flashkit::cards::ChargeCard;
use flashkit::cards::{CardLimits, CardSnapshot, CardState, FreezeCard, LimitKind, LimitUsage};
use flashkit::ledger::{Account, TransferKind};
use flashkit::money::Currency;
use flashkit::rates::{FixedRates, RateError, RateObservation, RateSource};
use flashkit::testkit::clock::ManualClock;
use support::key;
use support::scene::{NOON, Scene, Told, on_both_stores, told};
use support::shop::{self, SAT, jmd};

async fn peek(scene: &Scene, tap: &str) -> Told<CardSnapshot> {
    told(scene.engine().cards().peek(tap).await)
}

on_both_stores! {
    a_look_shows_the_card_and_moves_nothing;
    a_tap_grows_old_from_the_first_look;
    a_later_tap_voids_earlier_ones;
    what_is_forged_voids_nothing;
    a_retry_gets_its_answer_from_an_old_tap;
    a_look_and_a_charge_have_one_order;
    a_look_between_decision_and_commit_counts;
    a_clock_that_was_set_back_makes_no_old_tap_good;
}

async fn a_look_shows_the_card_and_moves_nothing(is_sqlite: bool) {
    let limits = CardLimits {
        per_day: Some(30_000 * SAT),
        taps_per_hour: Some(40),
        ..CardLimits::default()
    };
    let mut scene = Scene::new(is_sqlite, limits.clone()).await;
    let tap = scene.card.chip.tap();
    let first = peek(&scene, &tap).await.unwrap();
    assert_eq!(
        (first.card, first.state),
        (scene.card.id, CardState::Active)
    );
    assert_eq!((first.balance_msat, first.pending_msat), (50_000 * SAT, 0));
    assert_eq!((first.as_of_ms, first.limits.clone()), (NOON, limits));
    let usage = |kind, limit, used, renews_at_ms| LimitUsage {
        kind,
        limit,
        used,
        renews_at_ms,
    };
    let (midnight, one) = (NOON + 12 * 3_600_000, NOON + 3_600_000);
    let nothing = [
        usage(LimitKind::PerDay, 30_000 * SAT, 0, midnight),
        usage(LimitKind::TapsPerHour, 40, 0, one),
    ];
    assert_eq!(first.usage, nothing);
    assert_eq!(first.history.len(), 1);
    assert_eq!(first.history[0].kind, TransferKind::TopUp);

    for number in 0..22 {
        scene
            .charge(&format!("sale-{number}"), 100 + number)
            .await
            .unwrap();
    }
    scene.authorize("tab", 5_000).await.unwrap();
    let spent = (0..22).map(|number| 100 + number).sum::<i64>();
    let tap = scene.card.chip.tap();
    let seen = peek(&scene, &tap).await.unwrap();
    assert_eq!(seen.balance_msat, (50_000 - spent - 5_000) * SAT);
    let used = [
        usage(
            LimitKind::PerDay,
            30_000 * SAT,
            (spent + 5_000) * SAT,
            midnight,
        ),
        usage(LimitKind::TapsPerHour, 40, 23, one),
    ];
    assert_eq!(seen.usage, used);
    // The first page, newest first, each with the balance after it.
    let amounts: Vec<i64> = seen.history.iter().map(|row| row.amount / SAT).collect();
    assert_eq!(
        amounts,
        (2..22).rev().map(|number| 100 + number).collect::<Vec<_>>()
    );
    let account = Account::card_balance(scene.card.id);
    assert_eq!(
        seen.history[0].balance_after(&account),
        (50_000 - spent) * SAT
    );
    // Again, and the same tap still pays.
    assert_eq!(peek(&scene, &tap).await, Ok(seen.clone()));
    let cards = scene.engine().cards();
    let held = cards.get(&scene.card.holder, scene.card.id).await.unwrap();
    assert_eq!(held, seen, "its holder sees the same");
    scene.charge_tap("seen", &tap, 1, None).await.unwrap();
    assert_eq!(peek(&scene, &tap).await, Err("card.tap_replayed"));
    let command = FreezeCard {
        key: key("freeze"),
        card: scene.card.id,
    };
    cards.freeze(&scene.card.holder, command).await.unwrap();
    let tap = scene.card.chip.tap();
    let frozen = peek(&scene, &tap).await.unwrap();
    assert_eq!(frozen.state, CardState::Frozen);
    scene.stop("a look").await;
}

async fn a_tap_grows_old_from_the_first_look(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let tap = scene.card.chip.tap();
    // Not from the tap itself: nobody has seen it yet.
    scene.clock.advance(Duration::from_secs(3_600));
    peek(&scene, &tap).await.unwrap();
    scene.clock.advance(Duration::from_secs(60));
    peek(&scene, &tap).await.unwrap();
    scene.clock.advance(Duration::from_millis(59_999));
    scene.charge_tap("in-time", &tap, 1, None).await.unwrap();

    let tap = scene.card.chip.tap();
    peek(&scene, &tap).await.unwrap();
    scene.clock.advance(Duration::from_secs(60));
    peek(&scene, &tap).await.unwrap();
    scene.clock.advance(Duration::from_secs(60));
    let stale = Err("card.tap_stale");
    assert_eq!(scene.charge_tap("late", &tap, 1, None).await, stale);
    assert_eq!(scene.authorize_tap("late", &tap, 1, None).await, stale);
    assert_eq!(peek(&scene, &tap).await, Err("card.tap_stale"));
    let tap = scene.card.chip.tap();
    scene.charge_tap("again", &tap, 1, None).await.unwrap();
    assert_eq!(scene.balance().await, 49_998);
    scene.stop("old").await;
}

async fn a_later_tap_voids_earlier_ones(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (first, second) = (scene.card.chip.tap(), scene.card.chip.tap());
    peek(&scene, &first).await.unwrap();
    peek(&scene, &second).await.unwrap();
    let void = Err("card.tap_superseded");
    assert_eq!(scene.charge_tap("first", &first, 1, None).await, void);
    assert_eq!(scene.authorize_tap("first", &first, 1, None).await, void);
    assert_eq!(peek(&scene, &first).await, Err("card.tap_superseded"));
    scene.charge_tap("second", &second, 1, None).await.unwrap();
    // One that nobody has looked at is not void because of one before it.
    scene.charge("third", 1).await.unwrap();
    scene.stop("later").await;
}

async fn what_is_forged_voids_nothing(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (good, later) = (scene.card.chip.tap(), scene.card.chip.tap());
    let before = scene.store.events(0, 1_000).await.unwrap().len();
    let forged = format!("{}{}", &later[..later.len() - 2], "00");
    assert_ne!(forged, later);
    assert_eq!(peek(&scene, &forged).await, Err("card.tap_wrong_mac"));
    peek(&scene, &good).await.unwrap();
    scene.charge_tap("good", &good, 1, None).await.unwrap();
    let after = scene.store.events(0, 1_000).await.unwrap().len();
    assert_eq!(after - before, 1, "looking writes no events");
    scene.stop("forged").await;
}

async fn a_retry_gets_its_answer_from_an_old_tap(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let tap = scene.card.chip.tap();
    peek(&scene, &tap).await.unwrap();
    let paid = scene.charge_tap("sale", &tap, 7, None).await;
    let later = scene.card.chip.tap();
    peek(&scene, &later).await.unwrap();
    scene.clock.advance(Duration::from_secs(3_600));
    assert_eq!(scene.charge_tap("sale", &tap, 7, None).await, paid);
    assert!(paid.is_ok());
    scene.stop("a retry").await;
}

async fn a_look_and_a_charge_have_one_order(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let mut charged = 0;
    for round in 0..16 {
        let (first, second) = (scene.card.chip.tap(), scene.card.chip.tap());
        let engine = scene.engine().clone();
        let looking = tokio::spawn(async move { told(engine.cards().peek(&second).await) });
        match scene.charge_tap(&format!("{round}"), &first, 1, None).await {
            Ok(_) => charged += 1,
            Err(code) => assert_eq!(code, "card.tap_superseded"),
        }
        looking.await.unwrap().unwrap();
        let again = scene
            .charge_tap(&format!("{round}/again"), &first, 1, None)
            .await;
        assert_eq!(
            again,
            Err("card.tap_superseded"),
            "once it was seen, for ever"
        );
    }
    assert_eq!(scene.balance().await, 50_000 - charged);
    scene.stop("one order").await;
}

/// Rates that are told when the test says so.
struct HeldRates {
    table: FixedRates,
    asked: tokio::sync::Semaphore,
    told: tokio::sync::Semaphore,
}

#[async_trait]
impl RateSource for HeldRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        self.asked.add_permits(1);
        self.told.acquire().await.unwrap().forget();
        self.table.rate(currency).await
    }
}

async fn a_look_between_decision_and_commit_counts(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let rates = Arc::new(HeldRates {
        table: FixedRates::new(),
        asked: tokio::sync::Semaphore::new(0),
        told: tokio::sync::Semaphore::new(0),
    });
    let dollars = Currency::from_code("JMD").unwrap();
    let rate = "15000000.00".parse().unwrap();
    rates.table.set(dollars, rate, "test", NOON);
    let builder = Engine::builder(scene.store.clone(), shop::master()).network("regtest");
    let builder = builder.clock(scene.clock.clone()).rates(rates.clone());
    let engine = builder.open().await.unwrap();
    let command = ChargeCard {
        key: key("sale"),
        tap: scene.card.chip.tap(),
        price: jmd(150),
        reference: String::new(),
        pin: None,
    };
    let (cards, till) = (engine.cards(), scene.merchant.till.clone());
    let charging = tokio::spawn(async move { told(cards.charge(&till, command).await) });
    rates.asked.acquire().await.unwrap().forget();
    // The charge was found good, and waits for its rate.
    let later = scene.card.chip.tap();
    peek(&scene, &later).await.unwrap();
    rates.told.add_permits(2);
    let charged = charging.await.unwrap();
    assert_eq!(charged, Err("card.tap_superseded"));
    assert_eq!(scene.balance().await, 50_000);
    scene.stop("in between").await;
}

/// A process that begins anew does not know how late the last commit was: the commit does.
async fn a_clock_that_was_set_back_makes_no_old_tap_good(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let tap = scene.card.chip.tap();
    peek(&scene, &tap).await.unwrap();
    scene.clock.advance(Duration::from_secs(120));
    let command = FreezeCard {
        key: key("a commit at that time"),
        card: scene.card.id,
    };
    let (cards, holder) = (scene.engine().cards(), scene.card.holder.clone());
    cards.freeze(&holder, command.clone()).await.unwrap();
    cards.unfreeze(&holder, command).await.unwrap();

    let engine = Engine::builder(scene.store.clone(), shop::master())
        .network("regtest")
        .clock(Arc::new(ManualClock::at(NOON + 1_000)))
        .open();
    let engine = engine.await.unwrap();
    let command = ChargeCard {
        key: key("late"),
        tap,
        price: shop::sat(1),
        reference: "late".to_owned(),
        pin: None,
    };
    let charged = engine.cards().charge(&scene.merchant.till, command).await;
    assert_eq!(told(charged), Err("card.tap_stale"));
    scene.stop("a clock set back").await;
}
