//! Wrong codes of a virtual card: what ends them, and what whoever knows its number alone can do. And
//! cards that are filled up: a card in another one's place has no second day's worth.

use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{AutoTopUp, CardLimits, SetAutoTopUp, TopUpSource, VirtualTap};
use flashkit::ids::CardId;
use flashkit::money::Asset;
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};

use crate::hands::{blank, charge, fund, on_card, replace, uid};
use crate::support::deadline::Deadline;
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::key;
use crate::support::scene::{NOON, Scene, on_both_stores, told};
use crate::support::shop::{self, SAT};

on_both_stores! {
    a_right_code_ends_the_wrong_ones;
    whoever_knows_the_number_alone_locks_nothing;
    a_code_that_was_looked_at_in_time_is_good_as_long_as_a_tap;
    a_card_in_anothers_place_is_filled_up_no_more_often;
    a_clock_that_was_wrong_once_uses_up_no_code_to_come;
}

async fn right(engine: &Engine, card: CardId, holder: &Credential) -> String {
    let cards = engine.cards();
    let shown = cards.virtual_details(holder, card).await.unwrap();
    let tap = VirtualTap::new(&shown.number, &shown.code);
    tap.unwrap().to_string()
}

/// A code that it is not, another one for each number.
fn wrong(right: &str, number: u32) -> String {
    let (before, code) = right.rsplit_once(':').unwrap();
    let code = (code.parse::<u32>().unwrap() + 7 * (number + 1)) % 100_000_000;
    format!("{before}:{code:08}")
}

async fn a_right_code_ends_the_wrong_ones(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
    let (card, holder) = shop::virtual_card(&engine, &*scene.store).await;
    // Years of mistyping, four at a time: the code that pays ends them.
    for round in 0..3 {
        scene.clock.advance(Duration::from_secs(120));
        let good = right(&engine, card, &holder).await;
        for number in 0..4 {
            let (name, bad) = (format!("{round}/{number}"), wrong(&good, number));
            let told = charge(&engine, &till, &name, &bad, 1).await;
            assert_eq!(told, Err("card.wrong_code"), "{name}");
        }
        let paid = charge(&engine, &till, &format!("{round}"), &good, 1).await;
        assert_eq!(paid, Ok(1), "{round}");
    }
    // A right one that pays nothing ends nothing.
    scene.clock.advance(Duration::from_secs(120));
    let good = right(&engine, card, &holder).await;
    for number in 0..4 {
        let bad = wrong(&good, number);
        let _ = charge(&engine, &till, &format!("more/{number}"), &bad, 1).await;
    }
    let much = charge(&engine, &till, "much", &good, 5_000).await;
    assert_eq!(much, Err("card.insufficient_funds"));
    let fifth = charge(&engine, &till, "fifth", &wrong(&good, 4), 1).await;
    assert_eq!(fifth, Err("card.wrong_code"));
    let locked = charge(&engine, &till, "locked", &good, 1).await;
    assert_eq!(locked, Err("card.code_locked"));
    scene.stop("right").await;
}

/// Codes go by the time of the books, whether a clock that is ahead is believed or not: once it is set
/// right, the card is as good as before.
async fn a_clock_that_was_wrong_once_uses_up_no_code_to_come(is_sqlite: bool) {
    for hours in [6, 48] {
        let scene = Scene::new(is_sqlite, CardLimits::default()).await;
        let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
        let (card, holder) = shop::virtual_card(&engine, &*scene.store).await;
        let good = right(&engine, card, &holder).await;
        assert_eq!(charge(&engine, &till, "before", &good, 1).await, Ok(1));
        scene.clock.advance(Duration::from_secs(60));
        scene.clock.jump(NOON + 60_000 + hours * 3_600_000);
        let ahead = right(&engine, card, &holder).await;
        assert_eq!(charge(&engine, &till, "ahead", &ahead, 1).await, Ok(1));
        scene.clock.jump(NOON + 60_000);
        scene.clock.advance(Duration::from_secs(60));
        let shown = engine.cards().virtual_details(&holder, card).await.unwrap();
        let left_ms = shown.next_code_at_ms - shown.as_of_ms;
        assert!((1..=30_000).contains(&left_ms), "{left_ms}");
        let good = right(&engine, card, &holder).await;
        assert_eq!(
            charge(&engine, &till, "after", &good, 1).await,
            Ok(1),
            "{hours}"
        );
        scene.stop("wrong once").await;
    }
}

/// A cashier takes as long as for any other card; and whoever is too late with a right code has guessed
/// nothing.
async fn a_code_that_was_looked_at_in_time_is_good_as_long_as_a_tap(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
    let (card, holder) = shop::virtual_card(&engine, &*scene.store).await;
    let cards = engine.cards();
    // More of them than wrong ones lock it.
    for number in 0..7 {
        let good = right(&engine, card, &holder).await;
        cards.peek(&good).await.unwrap();
        scene.clock.advance(Duration::from_secs(119));
        let (name, twice) = (format!("{number}"), format!("{number}/twice"));
        assert_eq!(charge(&engine, &till, &name, &good, 10).await, Ok(10));
        let used = charge(&engine, &till, &twice, &good, 10).await;
        assert_eq!(used, Err("card.tap_replayed"), "{name}");
        scene.clock.advance(Duration::from_secs(61));
    }
    for number in 0..12 {
        let good = right(&engine, card, &holder).await;
        if number % 2 == 0 {
            cards.peek(&good).await.unwrap();
        }
        scene.clock.advance(Duration::from_secs(120));
        let late = charge(&engine, &till, &format!("late/{number}"), &good, 10).await;
        assert_eq!(late, Err("card.tap_stale"), "{number}");
        let looked = told(cards.peek(&good).await).map(drop);
        assert_eq!(looked, Err("card.tap_stale"), "{number}");
    }
    assert_eq!(scene.seen("card.code_wrong").await, 0);
    // Of a later one that was looked at before it, it is behind.
    let first = right(&engine, card, &holder).await;
    scene.clock.advance(Duration::from_secs(30));
    let second = right(&engine, card, &holder).await;
    cards.peek(&second).await.unwrap();
    let behind = charge(&engine, &till, "behind", &first, 10).await;
    assert_eq!(behind, Err("card.tap_superseded"));
    // What was shown more than ten minutes ago is as wrong as any other.
    scene.clock.advance(Duration::from_secs(660));
    let old = charge(&engine, &till, "old", &first, 10).await;
    assert_eq!(old, Err("card.wrong_code"));
    assert_eq!(scene.seen("card.code_wrong").await, 1);
    scene.stop("in time").await;
}

async fn whoever_knows_the_number_alone_locks_nothing(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
    let (card, holder) = shop::virtual_card(&engine, &*scene.store).await;
    let cards = engine.cards();
    let look = async |tap: &str| told(cards.peek(tap).await).map(|seen| seen.balance_msat);
    let good = right(&engine, card, &holder).await;
    for number in 0..10 {
        // A screen that asks again and again with the same has tried once.
        for _ in 0..2 {
            let told = look(&wrong(&good, number)).await;
            let refused = "card.too_many_wrong_codes";
            let expected = ["card.wrong_code", refused];
            assert!(expected.contains(&told.unwrap_err()), "{number}");
        }
        if number == 8 {
            assert_eq!(look(&good).await, Ok(1_000 * SAT), "nine are not ten");
        }
    }
    // Nobody guesses any further by looking, also not right; nor by holding up another card.
    let refused = Err("card.too_many_wrong_codes");
    assert_eq!(look(&good).await, refused);
    let stolen = replace(&engine, &scene.card.holder, "stolen", scene.card.id, &good).await;
    assert_eq!(told(stolen).map(drop), Err("card.too_many_wrong_codes"));
    assert_eq!(scene.seen("card.looks_refused").await, 1);
    // Who has the code pays all the while, and can look again after that.
    assert_eq!(charge(&engine, &till, "pays", &good, 100).await, Ok(100));
    scene.clock.advance(Duration::from_secs(60));
    let good = right(&engine, card, &holder).await;
    assert_eq!(look(&good).await, Ok(900 * SAT));
    // Without that, an hour later.
    for number in 0..10 {
        let _ = look(&wrong(&good, number)).await;
    }
    assert_eq!(look(&good).await, refused);
    scene.clock.advance(Duration::from_secs(3_600));
    let good = right(&engine, card, &holder).await;
    assert_eq!(look(&good).await, Ok(900 * SAT));
    scene.stop("looked at").await;
}

/// A look that takes its time keeps nobody waiting who pays with the same card.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_pays_waits_behind_no_look() {
    let deadline = Deadline::after(Duration::from_secs(180));
    let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let pause = Arc::new(Pause::default());
    let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
    let builder = Engine::builder(store.clone(), shop::master());
    let engine = builder.network("regtest").open().await.unwrap();
    let till = shop::merchant(&engine, "Cookshop").await.till;
    let (card, holder) = shop::virtual_card(&engine, &*store).await;
    let good = right(&engine, card, &holder).await;
    pause.arm("card_code");
    let looking = {
        let (engine, bad) = (engine.clone(), wrong(&good, 0));
        tokio::spawn(async move { told(engine.cards().peek(&bad).await).map(drop) })
    };
    pause.reached().await;
    deadline.at("charge", "behind a look");
    assert_eq!(charge(&engine, &till, "pays", &good, 100).await, Ok(100));
    deadline.done("charge");
    pause.release();
    assert_eq!(looking.await.unwrap(), Err("card.wrong_code"));
    engine.stop().await.unwrap();
}

async fn a_card_in_anothers_place_is_filled_up_no_more_often(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let purse = shop::card(&engine, &uid(1), CardLimits::default()).await;
    fund(&*scene.store, 1, purse.id, 30_000).await;
    let command = SetAutoTopUp {
        key: key("rule"),
        card: scene.card.id,
        rule: Some(AutoTopUp {
            unit: Asset::Btc,
            below: 50_000 * SAT,
            to: 50_000 * SAT,
            times_per_day: 1,
            from: TopUpSource::Card { card: purse.id },
        }),
        source: Some(purse.holder.clone()),
    };
    let (cards, holder) = (engine.cards(), scene.card.holder.clone());
    cards.set_auto_top_up(&holder, command).await.unwrap();
    scene.charge("first", 1_000).await.unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(scene.balance().await, 50_000);
    let (new, mut chip) = blank(&engine, 2).await;
    let tap = chip.tap();
    let held = replace(&engine, &holder, "replace", scene.card.id, &tap).await;
    assert_eq!(held.unwrap().card.id, new);
    let (till, tap) = (scene.merchant.till.clone(), chip.tap());
    let paid = charge(&engine, &till, "second", &tap, 1_000).await;
    assert_eq!(paid, Ok(1_000));
    engine.run_due_jobs().await.unwrap();
    assert_eq!(on_card(&*scene.store, new).await, 49_000);
    assert_eq!(on_card(&*scene.store, purse.id).await, 29_000);
    scene.stop("filled up").await;
}
