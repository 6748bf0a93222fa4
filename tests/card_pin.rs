//! A card's PIN: asked for above an amount, counted when it is wrong, and kept to itself.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{CardLimits, ChargeCard, Pin, PinStatus, SetCardPin, UnlockCardPin};
use flashkit::ports::{BoxFuture, Executor, SystemClock, TokioExecutor};
use flashkit::store::MemoryStore;
use serde::Serialize;
use sha2::{Digest, Sha256};
use support::key;
use support::scene::{DAY, Scene, Told, digits, on_both_stores, told};
use support::shop::{self, SAT, sat};

const RIGHT: &str = "73018426";

/// Above 1,000 sats the PIN is asked for.
async fn scene(is_sqlite: bool) -> Scene {
    let limits = CardLimits {
        pin_above: Some(1_000 * SAT),
        ..CardLimits::default()
    };
    Scene::new(is_sqlite, limits).await
}

async fn with_pin(is_sqlite: bool) -> Scene {
    let scene = scene(is_sqlite).await;
    let set = set(&scene, &scene.card.holder, "set", RIGHT).await.unwrap();
    let expected = PinStatus {
        card: scene.card.id,
        is_set: true,
        is_locked: false,
        attempts_left: 3,
    };
    assert_eq!(set.value, expected);
    scene
}

async fn set(scene: &Scene, by: &Credential, name: &str, pin: &str) -> Told<PinStatus> {
    let command = SetCardPin {
        key: key(name),
        card: scene.card.id,
        pin: digits(pin),
    };
    told(scene.engine().cards().set_pin(by, command).await)
}

async fn unlock(scene: &Scene, by: &Credential, name: &str) -> Told<PinStatus> {
    let command = UnlockCardPin {
        key: key(name),
        card: scene.card.id,
    };
    told(scene.engine().cards().unlock_pin(by, command).await)
}

async fn left(scene: &Scene) -> u32 {
    let cards = scene.engine().cards();
    let status = cards.pin_status(&scene.card.holder, scene.card.id).await;
    status.unwrap().attempts_left
}

on_both_stores! {
    above_an_amount_the_pin_is_asked_for;
    a_wrong_pin_is_counted_and_the_tap_stays_good;
    three_wrong_ones_lock_the_pin;
    the_same_attempt_is_counted_once;
    many_guesses_at_once_are_three;
    what_is_done_is_not_tried_again;
    a_pin_is_nowhere_to_be_read;
}

async fn above_an_amount_the_pin_is_asked_for(is_sqlite: bool) {
    let mut scene = scene(is_sqlite).await;
    assert_eq!(scene.charge("none", 1_001).await, Err("card.pin_not_set"));
    let nobody = unlock(&scene, &scene.card.holder, "nothing").await;
    assert_eq!(nobody, Err("card.pin_not_set"));
    let issuer = scene.engine().issuer();
    for by in [&issuer, &scene.merchant.till] {
        let refused = set(&scene, by, "by-others", RIGHT).await;
        assert_eq!(refused, Err("access.not_allowed"));
    }
    let answer = set(&scene, &scene.card.holder, "set", RIGHT).await;
    let again = set(&scene, &scene.card.holder, "set", RIGHT).await;
    assert_eq!(answer, again, "the same command, the same answer");
    let other = set(&scene, &scene.card.holder, "set", "0000").await;
    assert_eq!(other, Err("command.key_reused"));

    assert_eq!(scene.charge("asked", 1_001).await, Err("card.pin_required"));
    assert_eq!(
        scene.authorize("asked", 1_001).await,
        Err("card.pin_required")
    );
    scene.charge("small", 1_000).await.unwrap();
    let tap = scene.card.chip.tap();
    let paid = scene.charge_tap("right", &tap, 1_001, Some(RIGHT)).await;
    paid.unwrap();
    let tap = scene.card.chip.tap();
    let held = scene.authorize_tap("right", &tap, 1_001, Some(RIGHT)).await;
    held.unwrap();
    // Who gives one is held to it.
    let tap = scene.card.chip.tap();
    let small = scene.charge_tap("small-wrong", &tap, 1, Some("0000")).await;
    assert_eq!(small, Err("card.wrong_pin"));
    let held = scene
        .authorize_tap("small-wrong", &tap, 1, Some("0001"))
        .await;
    assert_eq!(held, Err("card.wrong_pin"));
    assert_eq!(left(&scene).await, 1);
    // Changed by whoever holds the card, who knows nothing of the old one.
    set(&scene, &scene.card.holder, "change", "4711")
        .await
        .unwrap();
    assert_eq!(left(&scene).await, 3);
    let old = scene.charge_tap("old", &tap, 1_001, Some(RIGHT)).await;
    assert_eq!(old, Err("card.wrong_pin"));
    scene
        .charge_tap("new", &tap, 1_001, Some("4711"))
        .await
        .unwrap();
    scene.stop("asked").await;
}

async fn a_wrong_pin_is_counted_and_the_tap_stays_good(is_sqlite: bool) {
    let mut scene = with_pin(is_sqlite).await;
    let tap = scene.card.chip.tap();
    let wrong = scene.charge_tap("sale", &tap, 2_000, Some("0000")).await;
    assert_eq!(wrong, Err("card.wrong_pin"));
    assert_eq!(
        (left(&scene).await, scene.seen("card.pin_wrong").await),
        (2, 1)
    );
    assert_eq!((scene.balance().await, scene.payable().await), (50_000, 0));
    // The same tap, and the same key: what was refused was not done.
    let paid = scene.charge_tap("sale", &tap, 2_000, Some(RIGHT)).await;
    paid.unwrap();
    assert_eq!(
        (scene.balance().await, scene.payable().await),
        (48_000, 2_000)
    );
    assert_eq!(left(&scene).await, 3, "a right one makes up for wrong ones");
    scene.stop("counted").await;
}

async fn three_wrong_ones_lock_the_pin(is_sqlite: bool) {
    let mut scene = with_pin(is_sqlite).await;
    let tap = scene.card.chip.tap();
    for (guess, attempts) in [("0000", 2), ("0001", 1), ("0002", 0)] {
        let wrong = scene.charge_tap(guess, &tap, 2_000, Some(guess)).await;
        assert_eq!(wrong, Err("card.wrong_pin"));
        assert_eq!(left(&scene).await, attempts);
    }
    let events = (
        scene.seen("card.pin_wrong").await,
        scene.seen("card.pin_locked").await,
    );
    assert_eq!(events, (3, 1));
    scene.clock.advance(DAY);
    let tap = scene.card.chip.tap();
    let locked = scene.charge_tap("right", &tap, 2_000, Some(RIGHT)).await;
    assert_eq!(locked, Err("card.pin_locked"));
    scene.charge_tap("small", &tap, 1_000, None).await.unwrap();
    let by_till = unlock(&scene, &scene.merchant.till, "till").await;
    assert_eq!(by_till, Err("access.not_allowed"));
    let unlocked = unlock(&scene, &scene.engine().issuer(), "issuer").await;
    assert_eq!(unlocked.unwrap().attempts_left, 3);
    let tap = scene.card.chip.tap();
    let wrong = scene.charge_tap("w", &tap, 2_000, Some("0000")).await;
    assert_eq!(wrong, Err("card.wrong_pin"));
    unlock(&scene, &scene.card.holder, "holder").await.unwrap();
    assert_eq!(left(&scene).await, 3);
    scene
        .charge_tap("right", &tap, 2_000, Some(RIGHT))
        .await
        .unwrap();
    scene.stop("locked").await;
}

async fn the_same_attempt_is_counted_once(is_sqlite: bool) {
    let mut scene = with_pin(is_sqlite).await;
    let tap = scene.card.chip.tap();
    for _ in 0..5 {
        let wrong = scene.charge_tap("lost", &tap, 2_000, Some("0000")).await;
        assert_eq!(wrong, Err("card.wrong_pin"));
        assert_eq!(left(&scene).await, 2);
    }
    let other = scene.charge_tap("other", &tap, 2_000, Some("0000")).await;
    assert_eq!((other, left(&scene).await), (Err("card.wrong_pin"), 1));
    scene.stop("once").await;
}

async fn many_guesses_at_once_are_three(is_sqlite: bool) {
    let mut scene = with_pin(is_sqlite).await;
    let mut tasks = tokio::task::JoinSet::new();
    for guess in 0..24 {
        let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
        let command = ChargeCard {
            key: key(&guess.to_string()),
            tap: scene.card.chip.tap(),
            price: sat(2_000),
            reference: String::new(),
            pin: Some(digits(&format!("{guess:04}"))),
        };
        tasks.spawn(async move { told(engine.cards().charge(&till, command).await) });
    }
    let outcomes = tasks.join_all().await;
    let count = |code| outcomes.iter().filter(|one| **one == Err(code)).count();
    assert_eq!((count("card.wrong_pin"), count("card.pin_locked")), (3, 21));
    assert_eq!(scene.seen("card.pin_wrong").await, 3);
    scene.stop("guesses").await;
}

async fn what_is_done_is_not_tried_again(is_sqlite: bool) {
    let mut scene = with_pin(is_sqlite).await;
    let tap = scene.card.chip.tap();
    let paid = scene.charge_tap("sale", &tap, 2_000, Some(RIGHT)).await;
    set(&scene, &scene.card.holder, "change", "4711")
        .await
        .unwrap();
    let again = scene.charge_tap("sale", &tap, 2_000, Some(RIGHT)).await;
    assert_eq!(again, paid, "the same command, the same answer");
    let reused = scene.charge_tap("sale", &tap, 2_000, Some("4711")).await;
    assert_eq!(reused, Err("command.key_reused"));
    // Somebody who has seen the tap locks nobody out with it.
    let seen = scene.charge_tap("seen", &tap, 2_000, Some("0000")).await;
    assert_eq!(seen, Err("card.tap_replayed"));
    assert_eq!(left(&scene).await, 3);
    scene.stop("done").await;
}

/// The digest by which a command would be known if its PIN stood in it.
fn digest(command: &impl Serialize) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(command).unwrap()))
}

async fn a_pin_is_nowhere_to_be_read(is_sqlite: bool) {
    let mut scene = with_pin(is_sqlite).await;
    let tap = scene.card.chip.tap();
    let command = ChargeCard {
        key: key("sale"),
        tap: tap.clone(),
        price: sat(2_000),
        reference: "table 4".to_owned(),
        pin: Some(digits(RIGHT)),
    };
    let setting = SetCardPin {
        key: key("set"),
        card: scene.card.id,
        pin: digits(RIGHT),
    };
    let print = format!("{command:?} {setting:?} {:?}", digits(RIGHT));
    assert!(!print.contains(RIGHT) && print.contains("redacted"));
    let wrong = scene.charge_tap("w", &tap, 2_000, Some("91827364")).await;
    assert_eq!(wrong, Err("card.wrong_pin"));
    let paid = scene.charge_tap("sale", &tap, 2_000, Some(RIGHT)).await;
    let answer = serde_json::to_string(&paid.unwrap()).unwrap();
    // A digest over the PIN and what is known beside it would tell it at once.
    let (holder, till) = (&scene.card.holder, &scene.merchant.till);
    for (by, operation, known) in [
        (holder, "cards.set_pin/set", digest(&setting)),
        (till, "cards.charge/sale", digest(&command)),
    ] {
        let id = by.reveal().strip_prefix("flashkit_").unwrap();
        let (id, _) = id.rsplit_once('_').unwrap();
        let kept = scene.store.command(&format!("{id}/{operation}")).await;
        let (fingerprint, _) = kept.unwrap().expect("the command was done");
        assert_ne!(fingerprint, known, "{operation}");
    }
    let events = scene.store.events(0, 1_000).await.unwrap();
    let mut written = format!("{events:?} {answer}").into_bytes();
    let id = scene.card.id.to_string();
    let document = scene.store.document("card_pin", &id).await.unwrap();
    let kept = document.unwrap().body.to_string();
    assert!(kept.contains("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
    assert!(!String::from_utf8_lossy(&written).contains("argon2"));
    if let Some(folder) = &scene.folder {
        for file in std::fs::read_dir(folder.path()).unwrap() {
            written.extend(std::fs::read(file.unwrap().path()).unwrap());
        }
        assert!(written.len() > 50_000, "the books were not read");
    }
    for pin in [RIGHT, "91827364"] {
        let mut places = written.windows(pin.len());
        assert!(!places.any(|place| place == pin.as_bytes()));
    }
    scene.stop("nowhere").await;
}

#[test]
fn a_pin_is_four_to_eight_digits() {
    for text in [
        "",
        "123",
        "123456789",
        "12a4",
        "12 4",
        "+123",
        "-1234",
        "١٢٣٤",
    ] {
        let refused = text.parse::<Pin>().unwrap_err();
        assert_eq!(refused.code(), "card.bad_pin", "{text}");
        let json = serde_json::to_string(text).unwrap();
        assert!(serde_json::from_str::<Pin>(&json).is_err(), "{text}");
    }
    for text in ["1234", "00000000"] {
        let pin = text.parse::<Pin>().unwrap();
        let json = serde_json::to_string(&pin).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Pin>(&json).unwrap(), pin);
    }
}

/// Counts what keeps a thread busy.
struct Counting {
    tokio: TokioExecutor,
    blocking: AtomicUsize,
}

impl Executor for Counting {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        self.tokio.spawn(work);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.blocking.fetch_add(1, Ordering::SeqCst);
        self.tokio.spawn_blocking(work);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.tokio.sleep(duration)
    }
}

/// A PIN takes tens of milliseconds and 19 MiB: not on the thread that serves everybody else.
#[tokio::test]
async fn a_pin_is_hashed_where_it_holds_up_nobody() {
    let executor = Arc::new(Counting {
        tokio: TokioExecutor::current().unwrap(),
        blocking: AtomicUsize::new(0),
    });
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let builder = Engine::builder(store, shop::master()).network("regtest");
    let engine = builder.executor(executor.clone()).open().await.unwrap();
    let mut card = shop::card(&engine, shop::UID, CardLimits::default()).await;
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let command = SetCardPin {
        key: key("set"),
        card: card.id,
        pin: digits(RIGHT),
    };
    engine.cards().set_pin(&card.holder, command).await.unwrap();
    assert_eq!(executor.blocking.load(Ordering::SeqCst), 1);
    let command = ChargeCard {
        key: key("sale"),
        tap: card.chip.tap(),
        price: sat(1),
        reference: String::new(),
        pin: Some(digits(RIGHT)),
    };
    let charged = engine.cards().charge(&merchant.till, command).await;
    assert_eq!(charged.unwrap_err().code(), "card.insufficient_funds");
    assert_eq!(executor.blocking.load(Ordering::SeqCst), 2);
}
