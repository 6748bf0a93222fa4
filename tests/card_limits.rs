//! What a card may do within a day, a week, a month and an hour, where it is used.

mod support;

use std::sync::Arc;

use flashkit::access::Credential;
use flashkit::cards::{CardLimits, ChargeCard, SetCardLimits};
use flashkit::store::MemoryStore;
use flashkit::testkit::clock::ManualClock;
use support::key;
use support::shop::{self, SAT, sat};

fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// A card with money in a shop whose clock is the test's.
struct Scene {
    shop: shop::Simulated,
    clock: Arc<ManualClock>,
    till: Credential,
    card: shop::HeldCard,
    charges: usize,
}

async fn scene(at: &str, limits: CardLimits) -> Scene {
    // The money came long before.
    let clock = Arc::new(ManualClock::at(ms("2026-01-01T12:00:00Z")));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let shop = shop::simulated_at(store, clock.clone()).await;
    let till = shop::merchant(&shop.engine, "Cookshop").await.till;
    let card = shop::card(&shop.engine, shop::UID, limits).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(50_000)).await;
    clock.set(ms(at));
    Scene {
        shop,
        clock,
        till,
        card,
        charges: 0,
    }
}

impl Scene {
    /// Charges the card at a time.
    async fn charge(&mut self, at: &str, sats: i64) -> Result<(), &'static str> {
        self.clock.set(ms(at));
        self.charges += 1;
        let command = ChargeCard {
            key: key(&format!("charge-{}", self.charges)),
            tap: self.card.chip.tap(),
            price: sat(sats),
            reference: String::new(),
            pin: None,
        };
        let cards = self.shop.engine.cards();
        let charged = cards.charge(&self.till, command).await;
        charged.map(drop).map_err(|error| error.code())
    }

    async fn set(&self, name: &str, limits: CardLimits) -> Result<(), &'static str> {
        let command = SetCardLimits {
            key: key(name),
            card: self.card.id,
            limits,
        };
        let cards = self.shop.engine.cards();
        let set = cards.set_limits(&self.card.holder, command).await;
        set.map(drop).map_err(|error| error.code())
    }
}

fn in_jamaica() -> CardLimits {
    CardLimits {
        time_zone: "America/Jamaica".to_owned(),
        ..CardLimits::default()
    }
}

const OVER: Result<(), &str> = Err("card.limit_exceeded");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_weeks_and_months_end_where_the_card_is_used() {
    let limits = CardLimits {
        per_day: Some(100 * SAT),
        per_week: Some(250 * SAT),
        per_month: Some(300 * SAT),
        ..in_jamaica()
    };
    // A Sunday evening: the week ends at midnight in Kingston, five hours after the one of UTC.
    let mut scene = scene("2026-11-22T20:00:00Z", limits).await;
    assert_eq!(scene.charge("2026-11-22T20:00:00Z", 60).await, Ok(()));
    assert_eq!(scene.charge("2026-11-23T04:59:59Z", 41).await, OVER);
    assert_eq!(scene.charge("2026-11-23T04:59:59Z", 40).await, Ok(()));
    // Monday to Wednesday, and on Wednesday the week's limit.
    for day in ["2026-11-23T05:00:00Z", "2026-11-24T15:00:00Z"] {
        assert_eq!(scene.charge(day, 100).await, Ok(()));
    }
    // 300 since Sunday: the month's.
    assert_eq!(scene.charge("2026-11-25T15:00:00Z", 1).await, OVER);
    assert_eq!(scene.charge("2026-12-01T04:59:59Z", 1).await, OVER);
    // Tuesday: a new month, but the week of Monday the 30th.
    assert_eq!(scene.charge("2026-12-01T05:00:00Z", 100).await, Ok(()));
    assert_eq!(scene.charge("2026-12-02T05:00:00Z", 100).await, Ok(()));
    assert_eq!(scene.charge("2026-12-03T05:00:00Z", 51).await, OVER);
    assert_eq!(scene.charge("2026-12-03T05:00:00Z", 50).await, Ok(()));
    assert_eq!(scene.charge("2026-12-07T04:59:59Z", 1).await, OVER);
    assert_eq!(scene.charge("2026-12-07T05:00:00Z", 50).await, Ok(()));
    assert_eq!(
        scene.charge("2026-12-07T05:00:01Z", 1).await,
        OVER,
        "300 in December"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_taps_an_hour_and_no_more() {
    let limits = CardLimits {
        taps_per_hour: Some(2),
        ..in_jamaica()
    };
    let mut scene = scene("2026-11-23T12:00:00Z", limits).await;
    assert_eq!(scene.charge("2026-11-23T12:10:00Z", 7).await, Ok(()));
    assert_eq!(scene.charge("2026-11-23T12:20:00Z", 7).await, Ok(()));
    let refused = scene.charge("2026-11-23T12:59:59Z", 7).await;
    assert_eq!(refused, Err("card.too_many_taps"));
    assert_eq!(scene.charge("2026-11-23T13:00:00Z", 7).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_moves_gets_no_day_twice() {
    let limits = CardLimits {
        per_day: Some(100 * SAT),
        ..in_jamaica()
    };
    let mut scene = scene("2026-11-23T16:00:00Z", limits.clone()).await;
    assert_eq!(scene.charge("2026-11-23T16:00:00Z", 100).await, Ok(()));
    let auckland = CardLimits {
        time_zone: "Pacific/Auckland".to_owned(),
        ..limits.clone()
    };
    scene.set("move", auckland.clone()).await.unwrap();
    scene.set("move", auckland).await.expect("the same command");
    // Tuesday in Auckland, and still Monday in Kingston.
    assert_eq!(scene.charge("2026-11-24T04:59:59Z", 1).await, OVER);
    assert_eq!(scene.charge("2026-11-24T05:00:00Z", 100).await, Ok(()));
    assert_eq!(scene.charge("2026-11-24T10:59:59Z", 1).await, OVER);
    assert_eq!(scene.charge("2026-11-24T11:00:00Z", 100).await, Ok(()));
    // Nor by moving back and forth.
    let back = scene.set("back", limits.clone()).await;
    assert_eq!(back, Err("card.zone_changed_lately"));
    scene.clock.set(ms("2026-12-08T05:00:00Z"));
    assert_eq!(scene.set("later", limits).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_the_holders_and_checked() {
    let mut scene = scene("2026-11-23T16:00:00Z", in_jamaica()).await;
    let command = SetCardLimits {
        key: key("issuer"),
        card: scene.card.id,
        limits: in_jamaica(),
    };
    for credential in [scene.shop.engine.issuer(), scene.till.clone()] {
        let cards = scene.shop.engine.cards();
        let refused = cards.set_limits(&credential, command.clone()).await;
        assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    }
    for (name, limits, code) in [
        (
            "zone",
            CardLimits {
                time_zone: "Mars/Olympus".into(),
                ..in_jamaica()
            },
            "card.unknown_time_zone",
        ),
        (
            "week",
            CardLimits {
                per_week: Some(0),
                ..in_jamaica()
            },
            "command.out_of_bounds",
        ),
        (
            "month",
            CardLimits {
                per_month: Some(-1),
                ..in_jamaica()
            },
            "command.out_of_bounds",
        ),
        (
            "taps",
            CardLimits {
                taps_per_hour: Some(0),
                ..in_jamaica()
            },
            "command.out_of_bounds",
        ),
    ] {
        assert_eq!(scene.set(name, limits).await, Err(code), "{name}");
    }
    let per_tap = CardLimits {
        per_tap: Some(5 * SAT),
        ..in_jamaica()
    };
    assert_eq!(scene.set("tap", per_tap).await, Ok(()));
    assert_eq!(scene.charge("2026-11-23T16:00:00Z", 6).await, OVER);
}
