//! Forged taps are slowed down, and a holder is told when a card runs low.

mod support;

use std::time::Duration;

use flashkit::Error;
use flashkit::cards::{
    CaptureCharge, CardError, CardLimits, ChargeAmount, ChargeCard, LowBalance, RefundCharge,
    SetCardLimits,
};
use flashkit::ids::{CardId, ChargeId};
use flashkit::ledger::TransferKind;
use support::scene::{Scene, on_both_stores, told};
use support::shop::{self, SAT, sat};
use support::{key, until};

on_both_stores! {
    a_source_of_forged_taps_waits;
    a_till_of_forged_taps_waits;
    a_holder_is_told_when_a_charge_crosses_the_threshold;
    charges_at_once_cross_the_threshold_once;
}

/// The tap with another signature.
fn forge(tap: &str, number: u32) -> String {
    let (start, mac) = tap.split_at(tap.len() - 16);
    let mac = u64::from_str_radix(mac, 16).unwrap() ^ u64::from(number + 1);
    format!("{start}{mac:016X}")
}

async fn a_source_of_forged_taps_waits(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let cards = scene.engine().cards();
    let (here, there) = (
        cards.from_source("203.0.113.7"),
        cards.from_source("203.0.113.8"),
    );
    let tap = scene.card.chip.tap();
    for number in 0..10 {
        let refused = here.peek(&forge(&tap, number)).await.unwrap_err();
        assert_eq!(refused.code(), "card.tap_wrong_mac", "{number}");
    }
    // Now even a good one waits; from elsewhere it does not.
    scene.clock.advance(Duration::from_secs(20));
    let refused = here.peek(&tap).await.unwrap_err();
    let expected = CardError::TooManyBadTaps {
        retry_after_ms: 40_000,
    };
    assert_eq!(refused, Error::Card(expected));
    assert_eq!(refused.code(), "card.too_many_bad_taps");
    assert!(refused.is_retryable());
    there.peek(&tap).await.unwrap();
    scene.clock.advance(Duration::from_millis(39_999));
    assert_eq!(told(here.peek(&tap).await), Err("card.too_many_bad_taps"));
    scene.clock.advance(Duration::from_millis(1));
    here.peek(&tap).await.unwrap();
    // A host that names no source is not held up.
    for number in 0..30 {
        let refused = told(cards.peek(&forge(&tap, number)).await);
        assert_eq!(refused, Err("card.tap_wrong_mac"));
    }
    scene.stop("forged").await;
}

async fn a_till_of_forged_taps_waits(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let other = shop::merchant(scene.engine(), "Rum-bar").await.till;
    for number in 0..10 {
        let forged = forge(&scene.card.chip.tap(), number);
        let name = format!("forged-{number}");
        let refused = match number % 2 {
            0 => scene.charge_tap(&name, &forged, 1, None).await,
            _ => scene.authorize_tap(&name, &forged, 1, None).await,
        };
        assert_eq!(refused, Err("card.tap_wrong_mac"));
    }
    let tap = scene.card.chip.tap();
    let waits = scene.charge_tap("good", &tap, 1, None).await;
    assert_eq!(waits, Err("card.too_many_bad_taps"));
    assert_eq!((scene.balance().await, scene.payable().await), (50_000, 0));
    // Another till takes it, and this one when it has waited: the tap was not used up.
    let tap = scene.card.chip.tap();
    let command = ChargeCard {
        key: key("elsewhere"),
        tap,
        price: sat(1),
        reference: String::new(),
        pin: None,
    };
    let cards = scene.engine().cards();
    cards.charge(&other, command).await.unwrap();
    let tap = scene.card.chip.tap();
    scene.clock.advance(Duration::from_secs(60));
    scene.charge_tap("good", &tap, 1, None).await.unwrap();
    scene.stop("a till").await;
}

/// What the holder was told.
async fn lows(scene: &Scene) -> Vec<(CardId, Option<ChargeId>, i64, i64)> {
    let events = scene.store.events(0, 1_000).await.unwrap();
    let low = events
        .into_iter()
        .filter(|event| event.kind == "card.low_balance");
    low.map(|event| {
        assert_eq!(event.object, scene.card.id.to_string());
        let low: LowBalance = serde_json::from_value(event.body).unwrap();
        assert_eq!(low.kind, TransferKind::Charge);
        (low.card, low.charge, low.balance, low.threshold)
    })
    .collect()
}

/// Waits until every charge was looked at.
async fn looked(scene: &Scene) -> Vec<(CardId, Option<ChargeId>, i64, i64)> {
    let due = || async {
        let now_ms = flashkit::ports::Clock::now_ms(&*scene.clock);
        let run = scene.engine().run_due_jobs().await.unwrap();
        assert!(run.failed.is_empty(), "{:?}", run.failed);
        // Past all leases there is nothing left to be done.
        let far_ms = now_ms + 3_600_000;
        let left = scene
            .store
            .lease_due(far_ms - 1, Duration::ZERO, &[], 100)
            .await;
        left.unwrap().is_empty()
    };
    until("every charge was looked at", due).await;
    lows(scene).await
}

async fn a_holder_is_told_when_a_charge_crosses_the_threshold(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let set = |name: &str, threshold: Option<i64>| SetCardLimits {
        key: key(name),
        card: scene.card.id,
        limits: CardLimits {
            low_balance: threshold,
            ..CardLimits::default()
        },
    };
    let (first, second) = (set("set", Some(10_000 * SAT)), set("none", None));
    let bad = set("bad", Some(0));
    let (cards, holder) = (scene.engine().cards(), scene.card.holder.clone());
    let refused = cards.set_limits(&holder, bad).await.unwrap_err();
    assert_eq!(refused.code(), "command.out_of_bounds");
    let refused = cards.set_limits(&scene.merchant.till, first.clone()).await;
    assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    cards.set_limits(&holder, first).await.unwrap();

    scene.charge("to-10,000", 40_000).await.unwrap();
    assert_eq!(looked(&scene).await, [], "it is not below");
    let crossing = scene.charge("to-9,999", 1).await.unwrap();
    let card = scene.card.id;
    let below = |charge, sats: i64| (card, Some(charge), sats * SAT, 10_000 * SAT);
    let mut told = vec![below(crossing.id, 9_999)];
    assert_eq!(looked(&scene).await, told);
    scene.charge("further", 1_000).await.unwrap();
    assert_eq!(looked(&scene).await, told, "once on the way down");
    // Up again, and down by a tab that is captured.
    let command = RefundCharge {
        key: key("refund"),
        charge: crossing.id,
        amount: ChargeAmount::Bitcoin { amount_msat: SAT },
    };
    cards.refund(&scene.merchant.till, command).await.unwrap();
    let sale = scene.charge("up", 2_000).await.unwrap();
    let command = RefundCharge {
        key: key("up"),
        charge: sale.id,
        amount: ChargeAmount::Bitcoin {
            amount_msat: 2_000 * SAT,
        },
    };
    cards.refund(&scene.merchant.till, command).await.unwrap();
    shop::top_up(
        scene.engine(),
        &scene.shop.customer,
        &scene.card,
        "more",
        sat(5_000),
    )
    .await;
    let tab = scene.authorize("tab", 14_000).await.unwrap();
    assert_eq!(looked(&scene).await, told, "nothing was charged yet");
    let command = CaptureCharge {
        key: key("close"),
        charge: tab.id,
        amount: ChargeAmount::Bitcoin {
            amount_msat: 6_000 * SAT,
        },
    };
    cards.capture(&scene.merchant.till, command).await.unwrap();
    told.push(below(tab.id, 8_000));
    assert_eq!(looked(&scene).await, told);
    cards.set_limits(&holder, second).await.unwrap();
    scene.charge("all", 8_000).await.unwrap();
    assert_eq!(looked(&scene).await, told, "nobody wants to know");
    scene.stop("low").await;
}

async fn charges_at_once_cross_the_threshold_once(is_sqlite: bool) {
    let limits = CardLimits {
        low_balance: Some(45_500 * SAT),
        ..CardLimits::default()
    };
    let mut scene = Scene::new(is_sqlite, limits).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
        let command = ChargeCard {
            key: key(&number.to_string()),
            tap: scene.card.chip.tap(),
            price: sat(1_000),
            reference: String::new(),
            pin: None,
        };
        tasks.spawn(async move { told(engine.cards().charge(&till, command).await) });
    }
    let charged = tasks
        .join_all()
        .await
        .iter()
        .filter(|one| one.is_ok())
        .count();
    // Some were overtaken by a later tap: more, until it is below for certain.
    for number in charged..10 {
        scene
            .charge(&format!("more-{number}"), 1_000)
            .await
            .unwrap();
    }
    let told = looked(&scene).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].2, 45_000 * SAT);
    scene.stop("at once").await;
}
