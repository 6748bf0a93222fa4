//! Charges that are authorised first, captured, released or left, and charges that are refunded.

mod support;

use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{
    CaptureCharge, CardLimits, Charge, ChargeAmount, ChargeCard, ChargeState, FreezeCard,
    RefundCharge, ReleaseCharge,
};
use flashkit::ids::{BatchId, CardId, ChargeId, MerchantId, ProgramId};
use flashkit::ledger::{Account, Batch, NewDocument, Step};
use flashkit::ports::SystemClock;
use flashkit::rewards::RedeemPoints;
use flashkit::settlement::{PayoutState, RequestPayout};
use flashkit::store::MemoryStore;
use support::books::expect;
use support::scene::{DAY, NOON, Scene, Told, on_both_stores, told};
use support::shop::{self, HeldCard, SAT, sat};
use support::{key, until};

type Charged = Told<Charge>;

/// What is done to a charge by the merchant's till.
struct Tabs(Scene);

impl std::ops::Deref for Tabs {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.0
    }
}

impl std::ops::DerefMut for Tabs {
    fn deref_mut(&mut self) -> &mut Scene {
        &mut self.0
    }
}

async fn scene(is_sqlite: bool, limits: CardLimits) -> Tabs {
    Tabs(Scene::new(is_sqlite, limits).await)
}

impl Tabs {
    async fn capture(&self, name: &str, charge: ChargeId, sats: i64) -> Charged {
        capture(self.engine(), &self.merchant.till, name, charge, sats).await
    }

    async fn release(&self, name: &str, charge: ChargeId) -> Charged {
        release(self.engine(), &self.merchant.till, name, charge).await
    }

    async fn refund(&self, name: &str, charge: ChargeId, sats: i64) -> Charged {
        refund(self.engine(), &self.merchant.till, name, charge, sats).await
    }

    async fn get(&self, charge: ChargeId) -> Charge {
        let cards = self.engine().cards();
        let charge = cards.get_charge(&self.merchant.till, charge).await;
        charge.unwrap().value
    }

    /// The books, in sats and points.
    async fn expect(&self, step: &str, card: i64, payable: i64, points: Option<(ProgramId, i64)>) {
        let mut lines = vec![
            (Account::node_channels(), 50_000 * SAT),
            (Account::card_balance(self.card.id), card * SAT),
            (Account::merchant_payable(self.merchant.id), payable * SAT),
        ];
        if let Some((program, points)) = points {
            lines.push((Account::reward_fund(program), points * SAT));
            lines.push((Account::points_issued(program), points));
            lines.push((Account::points_balance(self.card.id, program), points));
        }
        lines.retain(|(_, amount)| *amount != 0);
        expect(self.engine(), step, &lines).await;
    }

    async fn stop(self, step: &str) {
        self.0.stop(step).await;
    }
}

async fn capture(
    engine: &Engine,
    by: &Credential,
    name: &str,
    charge: ChargeId,
    sats: i64,
) -> Charged {
    let command = CaptureCharge {
        key: key(name),
        charge,
        amount: ChargeAmount::Bitcoin {
            amount_msat: sats * SAT,
        },
    };
    told(engine.cards().capture(by, command).await)
}

async fn release(engine: &Engine, by: &Credential, name: &str, charge: ChargeId) -> Charged {
    let command = ReleaseCharge {
        key: key(name),
        charge,
    };
    told(engine.cards().release(by, command).await)
}

async fn refund(
    engine: &Engine,
    by: &Credential,
    name: &str,
    charge: ChargeId,
    sats: i64,
) -> Charged {
    let command = RefundCharge {
        key: key(name),
        charge,
        amount: ChargeAmount::Bitcoin {
            amount_msat: sats * SAT,
        },
    };
    told(engine.cards().refund(by, command).await)
}

fn a_day(sats: i64) -> CardLimits {
    CardLimits {
        per_day: Some(sats * SAT),
        ..CardLimits::default()
    }
}

on_both_stores! {
    a_part_is_captured_and_the_rest_given_back;
    what_is_released_is_as_if_it_had_never_been;
    nobody_captures_too_late;
    only_the_merchant_and_the_issuer_act_on_a_charge;
    a_card_frozen_since_pays_what_it_has_authorized;
    refunds_are_never_more_than_the_charge;
    redeemed_points_are_withheld;
    small_refunds_withhold_as_much_as_a_large_one;
    usage_goes_back_to_its_own_day;
    one_of_many_captures_and_releases_wins;
    many_refunds_at_once_stay_within_the_charge;
    points_that_are_redeemed_meanwhile_are_counted_once;
    a_charge_of_an_earlier_version_is_read;
}

async fn a_part_is_captured_and_the_rest_given_back(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, a_day(10_000)).await;
    let program = shop::program(scene.engine(), scene.merchant.id).await;
    let tap = scene.card.chip.tap();
    let tab = scene.authorize_tap("tab", &tap, 6_000, None).await.unwrap();
    assert_eq!(tab.state, ChargeState::Authorized);
    assert_eq!(
        (tab.amount_msat, tab.authorized_msat),
        (6_000 * SAT, Some(6_000 * SAT))
    );
    assert_eq!((tab.points, tab.program), (0, None), "nothing was paid yet");
    assert_eq!(tab.expires_at_ms, Some(NOON + 24 * 3_600_000));
    assert_eq!(scene.balance().await, 44_000);
    // The tap is used up, and the limits are counted.
    let again = scene.authorize_tap("tab", &tap, 6_000, None).await;
    assert_eq!(
        again.as_ref(),
        Ok(&tab),
        "the same command, the same answer"
    );
    let other = scene.authorize_tap("other", &tap, 1, None).await;
    assert_eq!(other, Err("card.tap_replayed"));
    assert_eq!(
        scene.charge("over", 4_001).await,
        Err("card.limit_exceeded")
    );

    let over = scene.capture("too-much", tab.id, 6_001).await;
    assert_eq!(over, Err("card.capture_exceeds_hold"));
    for nothing in [0, -1] {
        let refused = scene.capture("nothing", tab.id, nothing).await;
        assert_eq!(refused, Err("money.not_positive"));
    }
    let paid = scene.capture("close", tab.id, 2_500).await.unwrap();
    assert_eq!(paid.state, ChargeState::Captured);
    assert_eq!(
        (paid.amount_msat, paid.authorized_msat),
        (2_500 * SAT, Some(6_000 * SAT))
    );
    assert_eq!((paid.points, paid.program), (50, Some(program)));
    assert_eq!(scene.get(tab.id).await, paid.value);
    scene
        .expect("captured", 47_500, 2_450, Some((program, 50)))
        .await;
    let again = scene.capture("close", tab.id, 2_500).await;
    assert_eq!(again, Ok(paid), "the same command, the same answer");
    for refused in [
        scene.capture("again", tab.id, 1).await,
        scene.release("late", tab.id).await,
    ] {
        assert_eq!(refused, Err("card.charge_not_open"));
    }
    // What was given back can be spent again today.
    assert_eq!(
        scene.charge("7501", 7_501).await,
        Err("card.limit_exceeded")
    );
    scene.charge("7500", 7_500).await.unwrap();
    assert_eq!(scene.balance().await, 40_000);
    scene.stop("a part").await;
}

async fn what_is_released_is_as_if_it_had_never_been(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, a_day(10_000)).await;
    let tab = scene.authorize("tab", 10_000).await.unwrap();
    let released = scene.release("release", tab.id).await.unwrap();
    assert_eq!(
        (released.state, released.amount_msat),
        (ChargeState::Released, 0)
    );
    assert_eq!(scene.get(tab.id).await, released.value);
    scene.expect("released", 50_000, 0, None).await;
    assert_eq!(scene.release("release", tab.id).await, Ok(released));
    let refused = scene.capture("capture", tab.id, 1).await;
    assert_eq!(refused, Err("card.charge_not_open"));
    let refused = scene.refund("refund", tab.id, 1).await;
    assert_eq!(refused, Err("card.charge_not_captured"));
    scene.charge("whole-day", 10_000).await.unwrap();
    scene.stop("released").await;
}

async fn nobody_captures_too_late(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardLimits::default()).await;
    let first = scene.authorize("first", 30_000).await.unwrap();
    let second = scene.authorize("second", 15_000).await.unwrap();
    assert_eq!(
        scene.charge("short", 5_001).await,
        Err("card.insufficient_funds")
    );
    scene.clock.advance(DAY - Duration::from_millis(1));
    scene.capture("in-time", first.id, 30_000).await.unwrap();
    scene.clock.advance(Duration::from_millis(1));
    // At once, whether or not a job has run.
    for refused in [
        scene.capture("late", second.id, 15_000).await,
        scene.release("late", second.id).await,
    ] {
        assert_eq!(refused, Err("card.authorization_expired"));
    }
    let seen = scene.get(second.id).await;
    assert_eq!((seen.state, seen.amount_msat), (ChargeState::Expired, 0));
    assert_eq!(scene.balance().await, 20_000);
    until("the job has run", || async {
        scene.seen("card.authorization_expired").await == 1
    })
    .await;
    scene.expect("expired", 20_000, 30_000, None).await;
    let late = scene.capture("later", second.id, 15_000).await;
    assert_eq!(late, Err("card.authorization_expired"));
    scene.charge("all", 20_000).await.unwrap();
    scene.stop("expired").await;
}

async fn only_the_merchant_and_the_issuer_act_on_a_charge(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardLimits::default()).await;
    let tab = scene.authorize("tab", 1_000).await.unwrap().id;
    let other = shop::merchant(scene.engine(), "Rum-bar").await.till;
    let engine = scene.engine();
    for by in [&other, &scene.card.holder] {
        for refused in [
            capture(engine, by, "c", tab, 1_000).await,
            release(engine, by, "r", tab).await,
            refund(engine, by, "f", tab, 1_000).await,
        ] {
            assert_eq!(refused, Err("access.not_allowed"));
        }
    }
    let cards = engine.cards();
    let seen = cards.get_charge(&other, tab).await;
    assert_eq!(seen.unwrap_err().code(), "access.not_allowed");
    cards.get_charge(&scene.card.holder, tab).await.unwrap();
    let listed = cards
        .list_charges(&other, scene.merchant.id, None, 10)
        .await;
    assert_eq!(listed.unwrap_err().code(), "access.not_allowed");
    let listed = cards
        .list_charges(&scene.merchant.till, scene.merchant.id, None, 10)
        .await;
    assert_eq!(listed.unwrap().value.len(), 1);
    let none = ChargeId::from_parts(1, [1; 10]);
    assert_eq!(
        scene.capture("none", none, 1).await,
        Err("card.charge_not_found")
    );
    let issuer = engine.issuer();
    capture(engine, &issuer, "c", tab, 1_000).await.unwrap();
    refund(engine, &issuer, "f", tab, 1_000).await.unwrap();
    scene.expect("undone", 50_000, 0, None).await;
    scene.stop("who").await;
}

async fn a_card_frozen_since_pays_what_it_has_authorized(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardLimits::default()).await;
    let tab = scene.authorize("tab", 1_000).await.unwrap();
    let command = FreezeCard {
        key: key("freeze"),
        card: scene.card.id,
    };
    let cards = scene.engine().cards();
    cards.freeze(&scene.card.holder, command).await.unwrap();
    assert_eq!(scene.authorize("more", 1).await, Err("card.frozen"));
    scene.capture("close", tab.id, 1_000).await.unwrap();
    scene.expect("captured", 49_000, 1_000, None).await;
    scene.refund("back", tab.id, 400).await.unwrap();
    scene.expect("refunded", 49_400, 600, None).await;
    scene.stop("frozen").await;
}

async fn refunds_are_never_more_than_the_charge(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardLimits::default()).await;
    let program = shop::program(scene.engine(), scene.merchant.id).await;
    let charge = scene.charge("sale", 20_000).await.unwrap();
    scene
        .expect("paid", 30_000, 19_600, Some((program, 400)))
        .await;
    let first = scene.refund("first", charge.id, 5_030).await.unwrap();
    assert_eq!((first.refunded_msat, first.withheld_msat), (5_030 * SAT, 0));
    // 14,970 sats would have earned 299 points.
    assert_eq!((first.points, first.points_taken_back), (400, 101));
    scene
        .expect("refunded", 35_030, 14_671, Some((program, 299)))
        .await;
    assert_eq!(scene.refund("first", charge.id, 5_030).await, Ok(first));
    scene
        .expect("the same again", 35_030, 14_671, Some((program, 299)))
        .await;
    let over = scene.refund("over", charge.id, 14_971).await;
    assert_eq!(over, Err("card.refund_exceeds_charge"));
    assert_eq!(
        scene.refund("none", charge.id, 0).await,
        Err("money.not_positive")
    );
    let rest = scene.refund("rest", charge.id, 14_970).await.unwrap();
    assert_eq!(
        (rest.refunded_msat, rest.points_taken_back),
        (20_000 * SAT, 400)
    );
    scene.expect("undone", 50_000, 0, Some((program, 0))).await;
    let over = scene.refund("more", charge.id, 1).await;
    assert_eq!(over, Err("card.refund_exceeds_charge"));
    scene.stop("refunds").await;
}

async fn redeem(engine: &Engine, card: &HeldCard, program: ProgramId, points: i64) {
    let command = RedeemPoints {
        key: key(&format!("redeem-{points}")),
        card: card.id,
        program,
        points,
    };
    engine
        .rewards()
        .redeem(&card.holder, command)
        .await
        .unwrap();
}

async fn redeemed_points_are_withheld(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, a_day(20_000)).await;
    let program = shop::program(scene.engine(), scene.merchant.id).await;
    let charge = scene.charge("sale", 20_000).await.unwrap();
    redeem(scene.engine(), &scene.card, program, 350).await;
    scene
        .expect("redeemed", 30_350, 19_600, Some((program, 50)))
        .await;
    // 200 points go back, of which the card has 50.
    let half = scene.refund("half", charge.id, 10_000).await.unwrap();
    assert_eq!(
        (half.withheld_msat, half.points_taken_back),
        (150 * SAT, 200)
    );
    scene
        .expect("half", 40_200, 9_800, Some((program, 0)))
        .await;
    let rest = scene.refund("rest", charge.id, 10_000).await.unwrap();
    assert_eq!(
        (rest.withheld_msat, rest.points_taken_back),
        (350 * SAT, 400)
    );
    scene.expect("undone", 50_000, 0, Some((program, 0))).await;
    // The whole sale was undone, and so was what it counted for.
    scene.charge("whole-day", 20_000).await.unwrap();
    scene.stop("withheld").await;
}

async fn small_refunds_withhold_as_much_as_a_large_one(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, a_day(20_000)).await;
    let program = shop::program(scene.engine(), scene.merchant.id).await;
    let charge = scene.charge("sale", 20_000).await.unwrap();
    redeem(scene.engine(), &scene.card, program, 400).await;
    // The first takes a whole point back, worth a sat.
    let mut withheld = Vec::new();
    for (name, amount_msat) in [("one", 1), ("ten", 10), ("rest", 20_000 * SAT - 11)] {
        let command = RefundCharge {
            key: key(name),
            charge: charge.id,
            amount: ChargeAmount::Bitcoin { amount_msat },
        };
        let cards = scene.engine().cards();
        let refunded = cards.refund(&scene.merchant.till, command).await.unwrap();
        withheld.push((refunded.withheld_msat, refunded.points_taken_back));
    }
    assert_eq!(withheld, [(1, 1), (11, 1), (400 * SAT, 400)]);
    scene.expect("undone", 50_000, 0, Some((program, 0))).await;
    scene.charge("whole-day", 20_000).await.unwrap();
    scene.stop("small refunds").await;
}

async fn usage_goes_back_to_its_own_day(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, a_day(1_000)).await;
    let charge = scene.charge("today", 1_000).await.unwrap();
    scene.refund("half", charge.id, 500).await.unwrap();
    assert_eq!(scene.charge("over", 501).await, Err("card.limit_exceeded"));
    scene.charge("half-again", 500).await.unwrap();
    scene.clock.advance(DAY);
    scene.charge("tomorrow", 1_000).await.unwrap();
    scene.refund("late", charge.id, 500).await.unwrap();
    let over = scene.charge("none-left", 1).await;
    assert_eq!(over, Err("card.limit_exceeded"), "it was yesterday's");
    scene.stop("days").await;
}

async fn one_of_many_captures_and_releases_wins(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, a_day(1_000)).await;
    for round in 0..4 {
        let before = scene.balance().await;
        let tab = scene
            .authorize(&format!("tab-{round}"), 100)
            .await
            .unwrap()
            .id;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..32 {
            let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
            tasks.spawn(async move {
                let name = format!("{round}/{task}");
                match (task + round) % 2 {
                    0 => capture(&engine, &till, &name, tab, 70).await,
                    _ => release(&engine, &till, &name, tab).await,
                }
            });
        }
        let outcomes = tasks.join_all().await;
        let won: Vec<_> = outcomes
            .iter()
            .filter_map(|one| one.as_ref().ok())
            .collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        let lost = outcomes.iter().filter_map(|one| one.as_ref().err());
        for code in lost {
            assert_eq!(*code, "card.charge_not_open");
        }
        let paid = if won[0].state == ChargeState::Captured {
            70
        } else {
            0
        };
        assert_eq!(scene.balance().await, before - paid);
    }
    scene.stop("one wins").await;
}

async fn many_refunds_at_once_stay_within_the_charge(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, a_day(1_000)).await;
    let program = shop::program(scene.engine(), scene.merchant.id).await;
    let charge = scene.charge("sale", 1_000).await.unwrap().id;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
        let name = task.to_string();
        tasks.spawn(async move { refund(&engine, &till, &name, charge, 100).await });
    }
    let outcomes = tasks.join_all().await;
    let done = outcomes.iter().filter(|one| one.is_ok()).count();
    assert_eq!(done, 10, "{outcomes:?}");
    let refused = outcomes.iter().filter_map(|one| one.as_ref().err());
    for code in refused {
        assert_eq!(*code, "card.refund_exceeds_charge");
    }
    scene.expect("undone", 50_000, 0, Some((program, 0))).await;
    scene.stop("many refunds").await;
}

async fn points_that_are_redeemed_meanwhile_are_counted_once(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardLimits::default()).await;
    let program = shop::program(scene.engine(), scene.merchant.id).await;
    for round in 0..8 {
        let charge = scene
            .charge(&format!("sale-{round}"), 5_000)
            .await
            .unwrap()
            .id;
        let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
        let refunding = tokio::spawn(async move {
            refund(&engine, &till, &format!("refund-{round}"), charge, 5_000).await
        });
        let command = RedeemPoints {
            key: key(&format!("redeem/{round}")),
            card: scene.card.id,
            program,
            points: 60,
        };
        let rewards = scene.engine().rewards();
        let redeemed = rewards.redeem(&scene.card.holder, command).await;
        if let Err(error) = redeemed {
            assert_eq!(error.code(), "reward.insufficient_points");
        }
        refunding.await.unwrap().unwrap();
        scene.expect("undone", 50_000, 0, Some((program, 0))).await;
    }
    scene.stop("meanwhile").await;
}

async fn a_charge_of_an_earlier_version_is_read(is_sqlite: bool) {
    let scene = scene(is_sqlite, CardLimits::default()).await;
    let id = ChargeId::from_parts(1, [1; 10]);
    let (card, merchant): (CardId, MerchantId) = (scene.card.id, scene.merchant.id);
    let body = serde_json::json!({
        "id": id, "card": card, "merchant": merchant,
        "till": "cred_00000000000070008000000000000000",
        "price": { "kind": "bitcoin", "amount_msat": 7_000 }, "amount_msat": 7_000,
        "quote": null, "reference": "old", "program": null, "points": 0,
    });
    let row = NewDocument {
        collection: "charge",
        id: id.to_string(),
        read_version: 0,
        body: body.into(),
        index_keys: vec![
            ("card", card.to_string()),
            ("merchant", merchant.to_string()),
        ],
    };
    let batch = Batch {
        id: BatchId::from_parts(1, [1; 10]),
        command: None,
        steps: vec![Step::Put(row)].into(),
    };
    scene.store.commit(batch).await.unwrap();
    let charge = scene.get(id).await;
    assert_eq!(
        (charge.state, charge.amount_msat),
        (ChargeState::Captured, 7_000)
    );
    assert_eq!((charge.refunded_msat, charge.authorized_msat), (0, None));
    assert_eq!(scene.capture("c", id, 7).await, Err("card.charge_not_open"));
    let refused = scene.refund("r", id, 7).await;
    assert_eq!(refused, Err("card.charge_not_refundable"));
    scene.stop("an old row").await;
}

/// A merchant that was paid out has nothing here to refund with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merchant_that_was_paid_out_cannot_refund() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let merchant = shop::merchant(engine, "Cookshop").await;
    let mut card = shop::card(engine, shop::UID, CardLimits::default()).await;
    shop::top_up(engine, &shop.customer, &card, "top-up", sat(50_000)).await;
    let command = ChargeCard {
        key: key("sale"),
        tap: card.chip.tap(),
        price: sat(20_000),
        reference: String::new(),
        pin: None,
    };
    let charge = engine
        .cards()
        .charge(&merchant.till, command)
        .await
        .unwrap();
    let settlement = engine.settlement();
    let quote = settlement
        .quote_payout(&merchant.till, merchant.id)
        .await
        .unwrap();
    let bolt11 = shop
        .customer
        .invoice(quote.amount_msat, "payout")
        .await
        .unwrap();
    let command = RequestPayout {
        key: key("payout"),
        merchant: merchant.id,
        bolt11,
    };
    let payout = settlement
        .request_payout(&issuer, command)
        .await
        .unwrap()
        .id;
    until("the merchant is paid out", || async {
        let payout = settlement.payout(&issuer, payout).await.unwrap();
        payout.state == PayoutState::PaidOut
    })
    .await;
    let refused = refund(engine, &merchant.till, "refund", charge.id, 20_000).await;
    assert_eq!(refused, Err("card.refund_not_covered"));
    let seen = engine.cards().get_charge(&issuer, charge.id).await.unwrap();
    assert_eq!(seen.refunded_msat, 0, "nothing was changed");
    engine.stop().await.unwrap();
}
