//! Taps of a card in a currency that a till took offline: the rate is that of the replay.

use std::time::Duration;

use flashkit::access::Credential;
use flashkit::cards::{
    CardLimits, LossBearer, OfflineBook, OfflineEnvelope, OfflineKey, OfflineOutcome, OfflineState,
    OfflineTerms, SetOfflineTerms, StoppedCard,
};
use flashkit::ids::{BatchId, ChargeId, TransferId};
use flashkit::ledger::{Account, Batch, NewTransfer, Step, TransferKind};
use flashkit::money::{Spread, SpreadSide};
use flashkit::ports::Clock;

use crate::support::key;
use crate::support::scene::{on_both_stores, told};
use crate::support::shop::{self, SAT};
use crate::world::{Terms, World, fiat};

on_both_stores! {
    the_rate_is_that_of_the_replay;
    without_a_rate_a_tap_waits_and_keeps_no_other_waiting;
    a_shortfall_is_counted_in_the_unit;
    limits_and_the_pin_are_in_the_unit_at_the_replay;
    beyond_the_cap_a_tap_waits;
}

const DAY_MS: i64 = 24 * 3_600_000;

fn terms() -> Terms {
    Terms {
        offline_window_ms: Some(3 * DAY_MS),
        ..Terms::default()
    }
}

struct Till {
    credential: Credential,
    key: OfflineKey,
    book: OfflineBook,
}

async fn till(world: &World, loss: LossBearer) -> Till {
    let (cards, merchant) = (world.engine.cards(), &world.merchant);
    let command = SetOfflineTerms {
        key: key("terms"),
        merchant: merchant.id,
        till: None,
        terms: Some(OfflineTerms {
            per_tap_msat: 100_000 * SAT,
            per_day_msat: 600_000 * SAT,
            window_ms: 3 * DAY_MS,
            loss,
            stopped_card: StoppedCard::Loss,
        }),
    };
    let issuer = world.engine.issuer();
    cards.set_offline_terms(&issuer, command).await.unwrap();
    let secret = OfflineKey::new([5; 32]).unwrap();
    let command = secret.enroll(shop::id_of(&merchant.till), key("enroll"));
    let enrolled = cards.enroll_offline_key(&merchant.till, command.unwrap());
    let book = OfflineBook::new(&enrolled.await.unwrap()).unwrap();
    Till {
        credential: merchant.till.clone(),
        key: secret,
        book,
    }
}

impl Till {
    fn take(&mut self, world: &mut World, sats: i64) {
        let tap = world.card.chip.tap();
        self.take_tap(world, &tap, sats);
    }

    fn take_tap(&mut self, world: &World, tap: &str, sats: i64) {
        let (name, now_ms) = (format!("{sats}"), world.clock.now_ms());
        self.book.accept(tap, sats * SAT, &name, now_ms).unwrap();
    }

    fn envelope(&self) -> OfflineEnvelope {
        self.book.envelope(&self.key).unwrap().unwrap()
    }

    async fn hand_in(&self, world: &World) -> Result<Vec<OfflineOutcome>, &'static str> {
        let cards = world.engine.cards();
        let replayed = cards.replay_offline(&self.credential, self.envelope());
        told(replayed.await).map(|answer| answer.value)
    }
}

async fn charge(world: &World, id: ChargeId) -> flashkit::cards::Charge {
    let cards = world.engine.cards();
    let found = cards.get_charge(&world.engine.issuer(), id).await;
    found.unwrap().value
}

async fn the_rate_is_that_of_the_replay(is_sqlite: bool) {
    let mut world = World::new(is_sqlite, "JMD", "15000000", terms()).await;
    world.fund(1_000_000, 70_000_000).await;
    world.cap("cap", 2_000_000).await;
    let mut till = till(&world, LossBearer::Merchant).await;
    till.take(&mut world, 10_000);
    world.clock.advance(Duration::from_secs(3_600));
    world.rate("JMD", "18750000");
    let outcomes = till.hand_in(&world).await.unwrap();
    assert_eq!(outcomes[0].state, OfflineState::Paid);
    let paid = charge(&world, outcomes[0].charge.unwrap()).await;
    // The merchant gets what it signed for, and the card pays what that costs now.
    assert_eq!((paid.on_card(), paid.amount_msat), (187_500, 10_000_000));
    let conversion = paid.conversion.unwrap();
    assert_eq!(conversion.quote.rate.to_string(), "18750000");
    let books = [812_500, 10_000_000, -812_500, 60_000_000, 0];
    assert_eq!(world.books().await, books);
    // At another rate it is the same tap.
    world.rate("JMD", "15000000");
    assert_eq!(till.hand_in(&world).await.unwrap(), outcomes);
    assert_eq!(world.books().await, books);
    let refund = world.refund("back", paid.id, fiat("JMD", 187_500)).await;
    refund.unwrap();
    assert_eq!(
        world.books().await,
        [1_000_000, 0, -1_000_000, 70_000_000, 0]
    );
    world.stop("replayed").await;
}

async fn without_a_rate_a_tap_waits_and_keeps_no_other_waiting(is_sqlite: bool) {
    let mut world = World::new(is_sqlite, "JMD", "15000000", terms()).await;
    world.fund(1_000_000, 70_000_000).await;
    let mut other = shop::card(&world.engine, "04a39493cc8699", CardLimits::default()).await;
    let step = Step::Transfer(NewTransfer {
        id: TransferId::from_parts(1, [99; 10]),
        debit: Account::node_channels(),
        credit: Account::card_balance(other.id),
        amount: 50_000 * SAT,
        kind: TransferKind::TopUp,
        reference: "top-up".to_owned(),
        credit_ceiling: None,
    });
    let batch = Batch {
        id: BatchId::from_parts(1, [99; 10]),
        command: None,
        steps: vec![step].into(),
    };
    world.store.commit(batch).await.unwrap();
    let mut till = till(&world, LossBearer::Merchant).await;
    till.take(&mut world, 10_000);
    till.take_tap(&world, &other.chip.tap(), 4_000);
    world.clock.advance(Duration::from_secs(3_600));
    for _ in 0..2 {
        assert_eq!(till.hand_in(&world).await.err(), Some("rate.stale"));
        let books = [1_000_000, 4_000_000, -1_000_000, 70_000_000, 0];
        assert_eq!(world.books().await, books);
    }
    world.rate("JMD", "15000000");
    let outcomes = till.hand_in(&world).await.unwrap();
    let states: Vec<_> = outcomes.iter().map(|outcome| outcome.state).collect();
    assert_eq!(states, [OfflineState::Paid; 2]);
    assert_eq!(
        world.books().await,
        [850_000, 14_000_000, -850_000, 60_000_000, 0]
    );
    world.stop("waited").await;
}

async fn a_shortfall_is_counted_in_the_unit(is_sqlite: bool) {
    // What the card pays, what the merchant gets of 10,000 sats, and the spread.
    for (bps, got_msat, spread_msat) in [(0, 6_666_666, 0), (200, 6_535_947, 130_718)] {
        let spread = (bps > 0).then_some(Spread {
            bps,
            side: SpreadSide::CustomerPays,
        });
        let mut world = World::new(is_sqlite, "JMD", "15000000", Terms { spread, ..terms() }).await;
        world.fund(100_000, 70_000_000).await;
        let mut till = till(&world, LossBearer::Operator).await;
        till.take(&mut world, 10_000);
        till.take(&mut world, 1_000);
        let outcomes = till.hand_in(&world).await.unwrap();
        assert_eq!(outcomes[0].state, OfflineState::PaidInPart);
        assert_eq!(outcomes[0].paid_msat, got_msat);
        assert_eq!(
            outcomes[0].reason.as_deref(),
            Some("card.insufficient_funds")
        );
        assert_eq!(
            (outcomes[1].state, outcomes[1].loss_msat),
            (OfflineState::Unpaid, 1_000_000)
        );
        // The merchant is paid whole, the rest by the operator.
        let left = 70_000_000 - got_msat - spread_msat;
        assert_eq!(world.books().await, [0, 11_000_000, 0, left, spread_msat]);
        let lost = world.has(Account::offline_loss()).await;
        assert_eq!(lost, 11_000_000 - got_msat);
        world.stop("shortfall").await;
    }
}

async fn limits_and_the_pin_are_in_the_unit_at_the_replay(is_sqlite: bool) {
    let limits = CardLimits {
        per_tap: Some(200_000),
        per_day: Some(330_000),
        pin_above: Some(160_000),
        ..CardLimits::default()
    };
    let mut world = World::new(is_sqlite, "JMD", "15000000", Terms { limits, ..terms() }).await;
    world.fund(1_000_000, 70_000_000).await;
    let mut till = till(&world, LossBearer::Merchant).await;
    for sats in [15_000, 10_600, 10_700, 10_000, 2_000] {
        till.take(&mut world, sats);
    }
    let outcomes = till.hand_in(&world).await.unwrap();
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| (outcome.paid_msat / SAT, outcome.reason.as_deref()))
        .collect();
    let expected = [
        // J$2,250.00, and more than J$1,600.00 needs the PIN.
        (0, Some("card.pin_required")),
        (10_600, None),
        // J$1,605.00.
        (0, Some("card.pin_required")),
        // J$1,590.00 and J$1,500.00 are of one day, and J$300.00 are too much for it.
        (10_000, None),
        (0, Some("card.limit_exceeded")),
    ];
    assert_eq!(told, expected);
    assert_eq!(world.on_card().await, 1_000_000 - 159_000 - 150_000);
    world.stop("limits").await;
}

async fn beyond_the_cap_a_tap_waits(is_sqlite: bool) {
    let mut world = World::new(is_sqlite, "JMD", "15000000", terms()).await;
    world.take_over(1_000_000).await;
    world.cap("cap", 149_999).await;
    let mut till = till(&world, LossBearer::Merchant).await;
    till.take(&mut world, 10_000);
    let waits = till.hand_in(&world).await;
    assert_eq!(waits.err(), Some("rate.position_cap_reached"));
    assert_eq!(world.books().await, [1_000_000, 0, 0, 0, 0]);
    world.cap("more", 150_000).await;
    let outcomes = till.hand_in(&world).await.unwrap();
    assert_eq!(outcomes[0].state, OfflineState::Paid);
    let books = [850_000, 10_000_000, 150_000, -10_000_000, 0];
    assert_eq!(world.books().await, books);
    world.stop("cap").await;
}
