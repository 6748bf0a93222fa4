//! Taps that wait at tills which are offline while their cards go back to the server that had them, and
//! come over again: each is settled once, and none is its merchant's loss for that.

use std::sync::Arc;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{
    ExportedCard, LossBearer, OfflineBook, OfflineKey, OfflineOutcome, OfflineState, OfflineTerms,
    SetOfflineTerms, StoppedCard,
};
use flashkit::ports::{Clock, SystemClock};
use flashkit::store::{MemoryStore, Store};

use crate::imports::{OldCard, old_base, open_engine, rows, world, world_on};
use crate::rolled_back::{again, chip};
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::key;
use crate::support::scene::on_both_stores;
use crate::support::shop::{self, Merchant, SAT};

on_both_stores! {
    a_tap_that_waits_is_settled_once_wherever_its_card_is;
}

/// A till that takes taps offline.
struct Till {
    key: OfflineKey,
    book: OfflineBook,
    credential: Credential,
}

impl Till {
    async fn new(engine: &Engine, merchant: &Merchant, number: u8) -> Self {
        let terms = OfflineTerms {
            per_tap_msat: 100 * SAT,
            per_day_msat: 1_000 * SAT,
            window_ms: 3_600_000,
            loss: LossBearer::Operator,
            stopped_card: StoppedCard::Loss,
        };
        let command = SetOfflineTerms {
            key: key(&format!("terms/{number}")),
            merchant: merchant.id,
            till: None,
            terms: Some(terms),
        };
        let cards = engine.cards();
        cards
            .set_offline_terms(&engine.issuer(), command)
            .await
            .unwrap();
        let secret = OfflineKey::new([number; 32]).unwrap();
        let id = shop::id_of(&merchant.till);
        let command = secret.enroll(id, key("enroll")).unwrap();
        let enrolled = cards.enroll_offline_key(&merchant.till, command).await;
        Self {
            key: secret,
            book: OfflineBook::new(&enrolled.unwrap()).unwrap(),
            credential: merchant.till.clone(),
        }
    }

    fn take(&mut self, tap: &str) {
        let now_ms = SystemClock.now_ms();
        self.book.accept(tap, SAT, "offline", now_ms).unwrap();
    }

    /// Hands in what it has.
    async fn sync(&mut self, engine: &Engine) -> Vec<OfflineOutcome> {
        let envelope = self.book.envelope(&self.key).unwrap().unwrap();
        let cards = engine.cards();
        let outcomes = cards.replay_offline(&self.credential, envelope).await;
        let outcomes = outcomes.unwrap().value;
        self.book.settled(&outcomes);
        outcomes
    }

    /// Hands one tap in.
    async fn hand_in(&mut self, engine: &Engine, tap: &str) -> Short {
        self.take(tap);
        short(&self.sync(engine).await[0])
    }
}

/// How it stands, whose loss it is and why.
type Short = (OfflineState, Option<LossBearer>, Option<String>);

fn short(outcome: &OfflineOutcome) -> Short {
    let reason = outcome.reason.clone();
    (outcome.state, outcome.borne_by, reason)
}

fn paid() -> Short {
    (OfflineState::Paid, None, None)
}

fn lost(borne_by: LossBearer, reason: &str) -> Short {
    let reason = Some(reason.to_owned());
    (OfflineState::Unpaid, Some(borne_by), reason)
}

/// Those of an old base whose chips have some taps left, before and behind.
pub fn some_base() -> Vec<OldCard> {
    let base = old_base(12).into_iter().enumerate();
    let some = base.filter(|(number, _)| number % 4 >= 2);
    some.map(|(_, card)| card).collect()
}

async fn a_tap_that_waits_is_settled_once_wherever_its_card_is(is_sqlite: bool) {
    let world = world(is_sqlite).await;
    let engine = &world.engine;
    let mut base = some_base();
    world.take_over("base", &rows(&base)).await;
    let bakery = shop::merchant(engine, "Bakery").await;
    let mut one = Till::new(engine, &world.merchant, 1).await;
    let mut two = Till::new(engine, &bakery, 2).await;
    let waiting: Vec<String> = base.iter_mut().map(|card| card.chip.tap()).collect();
    // Of two the chip went on before it went back.
    for place in [1, 2] {
        let tap = base[place].chip.tap();
        world.charge(&format!("on/{place}"), tap, 1).await.unwrap();
    }
    let back = world.all_back("back").await;
    assert_eq!(back.len(), base.len());

    // Handed in while the card is away: by the terms, and once.
    let not_active = lost(LossBearer::Operator, "card.not_active");
    let replayed = lost(LossBearer::Merchant, "card.tap_replayed");
    for place in [0, 1] {
        assert_eq!(one.hand_in(engine, &waiting[place]).await, not_active);
        assert_eq!(two.hand_in(engine, &waiting[place]).await, replayed);
    }
    // More of them than would be taken for somebody who tries: they are genuine.
    for _ in 0..12 {
        one.take(&base[4].chip.tap());
    }
    for outcome in one.sync(engine).await {
        assert_eq!(short(&outcome), not_active);
    }
    let at_counter = base[4].chip.counter();

    // They come over again, one of them from further on.
    let row = |card: &OldCard| -> &ExportedCard { &back[&chip(card)] };
    let mut second: Vec<_> = base.iter().map(|card| again(row(card))).collect();
    second[3].counter += 3;
    world.take_over("second", &second).await;
    // What was handed in stays used, at a till that is online and at others.
    for place in [0, 1] {
        let (name, tap) = (format!("again/{place}"), waiting[place].clone());
        let online = world.charge(&name, tap, 1).await;
        assert_eq!(online, Err("card.tap_replayed"), "{place}");
        assert_eq!(two.hand_in(engine, &waiting[place]).await, replayed);
    }
    assert_eq!(world.export().await[&chip(&base[4])].counter, at_counter);
    // What was not pays now, although the chip was further already, and once.
    for place in [2, 4] {
        assert_eq!(one.hand_in(engine, &waiting[place]).await, paid());
        assert_eq!(two.hand_in(engine, &waiting[place]).await, replayed);
    }
    // Whether the other server has used it, nobody knows.
    assert_eq!(one.hand_in(engine, &waiting[3]).await, replayed);
    for (place, card) in base.iter_mut().enumerate() {
        if place == 3 {
            card.chip.set_counter(second[3].counter);
        }
        let name = format!("next/{place}");
        world.charge(&name, card.chip.tap(), 1).await.unwrap();
    }
    // And over once more: what is claimed stays so.
    world.all_back("back again").await;
    for place in [0, 1, 2, 3, 4] {
        assert_eq!(
            two.hand_in(engine, &waiting[place]).await,
            replayed,
            "{place}"
        );
    }
    world.stop("waiting").await;
}

/// What is claimed of a card in the moment in which it comes over again is used on the card that it then is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_claimed_while_a_card_comes_over_again_is_used_on_it() {
    let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let pause = Arc::new(Pause::default());
    let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
    let engine = open_engine(&store).await;
    let world = world_on(store, engine.clone(), None).await;
    let mut base = some_base();
    world.take_over("base", &rows(&base)).await;
    let mut one = Till::new(&engine, &world.merchant, 1).await;
    let tap = base[0].chip.tap();
    let back = world.all_back("back").await;
    let second: Vec<_> = back.values().map(again).collect();
    pause.arm("card_imports.cut_over");
    let (late, command) = (engine.clone(), world.cut_over("second", &second));
    let late = tokio::spawn(async move {
        let imports = late.cards().imports();
        imports.cut_over(&late.issuer(), command).await
    });
    pause.reached().await;
    let not_active = lost(LossBearer::Operator, "card.not_active");
    assert_eq!(one.hand_in(&engine, &tap).await, not_active);
    pause.release();
    assert!(late.await.unwrap().unwrap().is_clean());
    let again = world.charge("again", tap.clone(), 1).await;
    assert_eq!(again, Err("card.tap_replayed"));
    let replayed = lost(LossBearer::Merchant, "card.tap_replayed");
    assert_eq!(one.hand_in(&engine, &tap).await, replayed);
    world.stop("meanwhile").await;
}
