//! Each turn of a card's life.

use std::sync::Arc;
use std::time::Duration;

use flashkit::cards::{
    AutoTopUp, BearerUnit, CaptureCharge, CardKind, CardLimits, CardState, IssueCard,
    IssueVirtualCard, MakeRecoveryCode, RecoverHolder, RefundCharge, RegisterBearerCard,
    ReleaseCharge, RenewHolder, RetireTo, SetAutoTopUp, SetCardExpiry, SetCardPin, TopUpCard,
    TopUpSource, UnlockCardCode, VirtualTap, WipeCard, WithdrawFromCard,
};
use flashkit::ledger::{Account, TransferKind};
use flashkit::money::Asset;
use flashkit::rewards::RedeemPoints;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Engine, Settings};

use crate::hands::{
    add, blank, charge, freeze, fund, lose, on_card, replace, retire, state, uid, unfreeze,
};
use crate::support::scene::{DAY, NOON, Scene, digits, on_both_stores, told};
use crate::support::shop::{self, SAT, sat};
use crate::support::{key, until};

on_both_stores! {
    a_lost_card_is_replaced_and_its_money_is_there;
    points_and_limits_go_along;
    a_card_expires_by_the_time_of_the_commit;
    a_chip_is_wiped_and_issued_again;
    a_card_is_retired_with_its_money_given_on;
    a_family_spends_one_balance;
    a_card_is_filled_up_by_rule;
    a_printed_code_gets_the_holder_back;
    a_virtual_card_pays_by_its_code;
    a_bearer_card_is_kept_beside;
}

async fn a_lost_card_is_replaced_and_its_money_is_there(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let paid = scene.charge("paid", 1_000).await.unwrap().id;
    let held = scene.authorize("held", 5_000).await.unwrap().id;
    let tab = scene.authorize("tab", 2_000).await.unwrap().id;
    let (engine, old, holder) = (
        scene.engine().clone(),
        scene.card.id,
        scene.card.holder.clone(),
    );
    let (cards, till) = (engine.cards(), scene.merchant.till.clone());
    let pin = SetCardPin {
        key: key("pin"),
        card: old,
        pin: digits("1234"),
    };
    cards.set_pin(&holder, pin).await.unwrap();
    // An invoice that somebody still has, and pays when the card is gone.
    let command = TopUpCard {
        key: key("late"),
        card: old,
        price: sat(700),
    };
    let late = cards.top_up(&holder, command).await.unwrap().value;

    assert_eq!(
        lose(&engine, &holder, "lost", old).await.unwrap().state,
        CardState::Lost
    );
    let tap = scene.card.chip.tap();
    assert_eq!(
        charge(&engine, &till, "thief", &tap, 1).await,
        Err("card.lost")
    );
    // For good: it cannot be unfrozen, and not be lost twice.
    assert_eq!(
        unfreeze(&engine, &holder, "found", old).await,
        Err("card.lost")
    );
    assert_eq!(lose(&engine, &holder, "again", old).await, Err("card.lost"));

    let (new, mut chip) = blank(&engine, 1).await;
    let tap = chip.tap();
    let answer = replace(&engine, &holder, "replace", old, &tap)
        .await
        .unwrap();
    assert_eq!(
        (answer.card.id, answer.card.state),
        (new, CardState::Active)
    );
    assert_eq!(
        (answer.card.replaces, answer.card.replacements),
        (Some(old), 1)
    );
    // The same again is the same answer, and the tap is used up.
    assert_eq!(
        replace(&engine, &holder, "replace", old, &tap)
            .await
            .unwrap(),
        answer
    );
    assert_eq!(
        charge(&engine, &till, "used", &tap, 1).await,
        Err("card.tap_replayed")
    );
    assert_eq!(on_card(&*scene.store, old).await, 0);
    assert_eq!(on_card(&*scene.store, new).await, 42_000);
    let rows = scene
        .store
        .transfers(&Account::card_balance(old), None, 100)
        .await
        .unwrap();
    let moved = rows
        .iter()
        .filter(|row| row.kind == TransferKind::Replacement);
    assert_eq!(
        moved.map(|row| row.amount / SAT).collect::<Vec<_>>(),
        [42_000],
        "one posting"
    );

    // What was on hold stays with its charge, and what is left of it lands on the new card.
    let command = CaptureCharge {
        key: key("capture"),
        charge: tab,
        amount: flashkit::cards::ChargeAmount::Bitcoin {
            amount_msat: 1_500 * SAT,
        },
    };
    cards.capture(&till, command).await.unwrap();
    assert_eq!(on_card(&*scene.store, new).await, 42_500);
    let command = ReleaseCharge {
        key: key("release"),
        charge: held,
    };
    cards.release(&till, command).await.unwrap();
    assert_eq!(on_card(&*scene.store, new).await, 47_500);
    let command = RefundCharge {
        key: key("refund"),
        charge: paid,
        amount: flashkit::cards::ChargeAmount::Bitcoin {
            amount_msat: 1_000 * SAT,
        },
    };
    cards.refund(&till, command).await.unwrap();
    assert_eq!(on_card(&*scene.store, new).await, 48_500);
    scene.shop.customer.pay(&late.bolt11).await.unwrap();
    shop::settled(&engine, &late).await;
    assert_eq!(on_card(&*scene.store, new).await, 49_200);
    assert_eq!(on_card(&*scene.store, old).await, 0);

    let mine = &answer.holder;
    assert!(cards.pin_status(mine, new).await.unwrap().is_set);
    let before = cards.history(mine, old, None, 100).await.unwrap();
    assert!(before.iter().any(|row| row.kind == TransferKind::Charge));
    assert_eq!(
        told(cards.history(&holder, new, None, 100).await),
        Err("access.not_allowed")
    );
    let tap = chip.tap();
    assert_eq!(charge(&engine, &till, "new", &tap, 200).await, Ok(200));
    assert_eq!(scene.seen("card.replaced").await, 1);
    scene.stop("replaced").await;
}

async fn points_and_limits_go_along(is_sqlite: bool) {
    let limits = CardLimits {
        per_day: Some(10_000 * SAT),
        ..CardLimits::default()
    };
    let mut scene = Scene::new(is_sqlite, limits).await;
    let program = shop::program(scene.engine(), scene.merchant.id).await;
    let earned = scene.charge("earn", 9_000).await.unwrap();
    assert_eq!(earned.points, 180);
    let engine = scene.engine().clone();
    let (new, mut chip) = blank(&engine, 1).await;
    let tap = chip.tap();
    let holder = &scene.card.holder;
    let answer = replace(&engine, holder, "replace", scene.card.id, &tap)
        .await
        .unwrap();
    let tap = chip.tap();
    let till = &scene.merchant.till;
    // The day's limit is the person's, and not the plastic's.
    assert_eq!(
        charge(&engine, till, "too much", &tap, 1_001).await,
        Err("card.limit_exceeded")
    );
    let points = engine
        .rewards()
        .points(&answer.holder, new, program)
        .await
        .unwrap();
    assert_eq!(points.points, 180);
    let command = RedeemPoints {
        key: key("redeem"),
        card: new,
        program,
        points: 80,
    };
    engine
        .rewards()
        .redeem(&answer.holder, command)
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, new).await, 41_080);
    // The points of the old card's sale go back with its refund.
    let command = RefundCharge {
        key: key("refund"),
        charge: earned.id,
        amount: flashkit::cards::ChargeAmount::Bitcoin {
            amount_msat: 9_000 * SAT,
        },
    };
    engine.cards().refund(till, command).await.unwrap();
    let points = engine
        .rewards()
        .points(&answer.holder, new, program)
        .await
        .unwrap();
    assert_eq!(points.points, 0);
    assert_eq!(on_card(&*scene.store, new).await, 50_000);
    scene.stop("points").await;
}

async fn a_card_expires_by_the_time_of_the_commit(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, card) = (scene.engine().clone(), scene.card.id);
    let end_ms = NOON + 86_400_000;
    let expiry = |name: &str, expires_at_ms| SetCardExpiry {
        key: key(name),
        card,
        expires_at_ms,
    };
    let (cards, issuer) = (engine.cards(), engine.issuer());
    assert_eq!(
        told(cards.set_expiry(&issuer, expiry("past", Some(NOON))).await),
        Err("command.out_of_bounds")
    );
    cards
        .set_expiry(&issuer, expiry("day", Some(end_ms)))
        .await
        .unwrap();
    scene.clock.advance(DAY - Duration::from_millis(10));
    scene.charge("in time", 1_000).await.unwrap();
    scene.clock.advance(Duration::from_millis(10));
    assert_eq!(scene.charge("late", 1).await, Err("card.expired"));
    let command = TopUpCard {
        key: key("late-top-up"),
        card,
        price: sat(1),
    };
    assert_eq!(
        told(cards.top_up(&scene.card.holder, command).await),
        Err("card.expired")
    );
    engine.run_due_jobs().await.unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(state(&engine, card).await, CardState::Expired);
    assert_eq!(scene.seen("card.expired").await, 1);
    assert_eq!(scene.charge("later", 1).await, Err("card.expired"));
    assert_eq!(
        told(cards.set_expiry(&issuer, expiry("extend", None)).await),
        Err("card.expired")
    );
    // The money is there for a new card.
    let (new, mut chip) = blank(&engine, 1).await;
    let tap = chip.tap();
    let holder = scene.card.holder.clone();
    replace(&engine, &holder, "replace", card, &tap)
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, new).await, 49_000);
    scene.stop("expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_asks_for_is_the_operators_by_rule_alone() {
    for (number, period) in [(1, None), (2, Some(30 * 86_400_000))] {
        let clock = Arc::new(ManualClock::at(NOON));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let settings = Settings {
            breakage_after_ms: period,
            ..Settings::default()
        };
        let builder = Engine::builder(store.clone(), shop::master()).settings(settings);
        let engine = builder
            .network("regtest")
            .clock(clock.clone())
            .open()
            .await
            .unwrap();
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let mut card = shop::card(&engine, &uid(number), CardLimits::default()).await;
        fund(&*store, u16::try_from(number).unwrap(), card.id, 10_000).await;
        let tap = card.chip.tap();
        let command = flashkit::cards::AuthorizeCard {
            key: key(&format!("tab-{number}")),
            tap,
            price: sat(4_000),
            reference: String::new(),
            pin: None,
        };
        engine
            .cards()
            .authorize(&merchant.till, command)
            .await
            .unwrap();
        let end_ms = flashkit::ports::Clock::now_ms(&*clock);
        let command = SetCardExpiry {
            key: key(&format!("expiry-{number}")),
            card: card.id,
            expires_at_ms: Some(end_ms + 60_000),
        };
        engine
            .cards()
            .set_expiry(&engine.issuer(), command)
            .await
            .unwrap();
        clock.advance(Duration::from_secs(60));
        engine.run_due_jobs().await.unwrap();
        let asked = retire(
            &engine,
            &card.holder,
            &format!("ask-{number}"),
            card.id,
            RetireTo::Breakage,
        )
        .await;
        assert_eq!(asked, Err("card.breakage_by_rule"));
        clock.advance(Duration::from_millis(30 * 86_400_000 - 1));
        engine.run_due_jobs().await.unwrap();
        assert_eq!(on_card(&*store, card.id).await, 10_000);
        clock.advance(Duration::from_millis(1));
        engine.run_due_jobs().await.unwrap();
        let (left, gone) = (
            on_card(&*store, card.id).await,
            crate::hands::has(&*store, Account::breakage(Asset::Btc)).await,
        );
        match period {
            None => assert_eq!((left, gone), (10_000, 0)),
            Some(_) => {
                assert_eq!((left, gone), (0, 10_000));
                assert_eq!(state(&engine, card.id).await, CardState::Retired);
            }
        }
        engine.stop().await.unwrap();
    }
}

async fn a_chip_is_wiped_and_issued_again(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, card) = (scene.engine().clone(), scene.card.id);
    let (cards, issuer, uid) = (engine.cards(), engine.issuer(), shop::UID);
    let code = |answer: Result<_, flashkit::Error>| answer.map_err(|error| error.code());
    let old_tap = scene.card.chip.tap();
    assert_eq!(
        code(cards.wipe_keys(&issuer, uid, None).await),
        Err("card.keys_withheld")
    );
    let wipe = |name: &str, card| WipeCard {
        key: key(name),
        card,
    };
    assert_eq!(
        told(cards.wipe(&issuer, wipe("early", card)).await),
        Err("card.not_active")
    );
    let to = RetireTo::Merchant {
        merchant: scene.merchant.id,
    };
    retire(&engine, &scene.card.holder, "retire", card, to)
        .await
        .unwrap();
    assert_eq!(
        (on_card(&*scene.store, card).await, scene.payable().await),
        (0, 50_000)
    );

    let first = cards.wipe_keys(&issuer, uid, None).await.unwrap();
    assert_eq!(
        first.iter().map(|keys| keys.version).collect::<Vec<_>>(),
        [1]
    );
    let again = |name: &str| IssueCard {
        key: key(name),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    assert_eq!(
        told(cards.issue(&issuer, again("too early")).await),
        Err("card.already_issued")
    );
    cards.wipe(&issuer, wipe("wiped", card)).await.unwrap();
    let second = cards.issue(&issuer, again("again")).await.unwrap();
    assert_eq!((second.version, second.state), (2, CardState::Issued));
    assert_eq!(
        told(cards.issue(&issuer, again("thrice")).await),
        Err("card.already_issued")
    );
    let keys = cards.programming_keys(&issuer, uid).await.unwrap();
    assert_ne!(keys.k2, first[0].k2);
    // The programmer lost power: which keys are on the chip, only a tap can tell. No version's
    // are lost.
    let both = cards.wipe_keys(&issuer, uid, None).await.unwrap();
    assert_eq!(
        both.iter().map(|keys| keys.version).collect::<Vec<_>>(),
        [2, 1]
    );
    let on_chip = cards.wipe_keys(&issuer, uid, Some(&old_tap)).await.unwrap();
    assert_eq!(on_chip, first);
    let mut chip = VirtualCard::program(uid, &keys).unwrap();
    let on_chip = cards
        .wipe_keys(&issuer, uid, Some(&chip.tap()))
        .await
        .unwrap();
    assert_eq!(on_chip, [keys]);
    let forged = old_tap.replace(&old_tap[old_tap.len() - 4..], "0000");
    assert_eq!(
        code(cards.wipe_keys(&issuer, uid, Some(&forged)).await),
        Err("card.tap_wrong_mac")
    );

    let command = flashkit::cards::ActivateCard {
        key: key("second"),
        card: second.id,
    };
    cards.activate(&issuer, command).await.unwrap();
    fund(&*scene.store, 1, second.id, 100).await;
    let till = &scene.merchant.till;
    // A tap from before the wipe is nobody's.
    assert_eq!(
        charge(&engine, till, "old", &old_tap, 1).await,
        Err("card.tap_wrong_mac")
    );
    assert_eq!(charge(&engine, till, "new", &chip.tap(), 1).await, Ok(1));
    assert_eq!(
        code(cards.wipe_keys(&issuer, uid, None).await),
        Err("card.keys_withheld")
    );
    scene.stop("wiped").await;
}

async fn a_card_is_retired_with_its_money_given_on(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let held = scene.authorize("held", 5_000).await.unwrap().id;
    let (engine, card, holder) = (
        scene.engine().clone(),
        scene.card.id,
        scene.card.holder.clone(),
    );
    let limits = CardLimits {
        max_balance: Some(44_000 * SAT),
        ..CardLimits::default()
    };
    let small = shop::card(&engine, &uid(1), limits).await.id;
    let other = shop::card(&engine, &uid(2), CardLimits::default()).await.id;
    let to = |card| RetireTo::Card { card };
    let refused = retire(&engine, &holder, "small", card, to(small)).await;
    assert_eq!(refused, Err("ledger.ceiling_reached"));
    assert_eq!(
        retire(&engine, &holder, "self", card, to(card)).await,
        Err("command.out_of_bounds")
    );
    assert_eq!(on_card(&*scene.store, card).await, 45_000);
    let answer = retire(&engine, &holder, "other", card, to(other))
        .await
        .unwrap();
    assert_eq!(
        (answer.state, answer.retired_to),
        (CardState::Retired, Some(to(other)))
    );
    assert_eq!(on_card(&*scene.store, other).await, 45_000);
    // The tab that nobody captures comes back after a day, and goes on.
    scene.clock.advance(DAY);
    engine.run_due_jobs().await.unwrap();
    let charge = engine.cards().get_charge(&holder, held).await.unwrap();
    assert_eq!(charge.amount_msat, 0);
    assert_eq!(on_card(&*scene.store, other).await, 50_000);
    assert_eq!(on_card(&*scene.store, card).await, 0);
    assert_eq!(scene.charge("gone", 1).await, Err("card.not_active"));
    assert_eq!(
        freeze(&engine, &holder, "freeze", card).await,
        Err("card.not_active")
    );
    scene.stop("retired").await;
}

async fn a_family_spends_one_balance(is_sqlite: bool) {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, main, parent) = (
        scene.engine().clone(),
        scene.card.id,
        scene.card.holder.clone(),
    );
    let till = scene.merchant.till.clone();
    let (child, mut chip) = blank(&engine, 1).await;
    let limits = CardLimits {
        per_day: Some(3_000 * SAT),
        ..CardLimits::default()
    };
    let answer = add(&engine, &parent, "child", main, &chip.tap(), limits)
        .await
        .unwrap();
    let kid = answer.holder.clone();
    assert_eq!((answer.card.id, answer.card.family_of), (child, Some(main)));
    assert_eq!(
        charge(&engine, &till, "kid", &chip.tap(), 1_000).await,
        Ok(1_000)
    );
    assert_eq!(
        charge(&engine, &till, "much", &chip.tap(), 2_001).await,
        Err("card.limit_exceeded")
    );
    assert_eq!(scene.balance().await, 49_000);
    assert_eq!(
        engine.cards().get(&kid, child).await.unwrap().balance_msat,
        49_000 * SAT
    );
    // Limits and PIN would not hold for it: taking the balance home is its owner's alone.
    let home = WithdrawFromCard {
        key: key("home"),
        card: child,
        bolt11: scene
            .shop
            .customer
            .invoice(1_000 * SAT, "home")
            .await
            .unwrap(),
        amount_msat: None,
    };
    let taken = engine.cards().withdraw(&kid, home).await;
    assert_eq!(told(taken), Err("access.not_allowed"));
    // Each has its own life.
    freeze(&engine, &kid, "f1", child).await.unwrap();
    assert_eq!(
        charge(&engine, &till, "frozen", &chip.tap(), 1).await,
        Err("card.frozen")
    );
    scene.charge("parent", 1_000).await.unwrap();
    assert_eq!(
        unfreeze(&engine, &kid, "u1", child).await,
        Err("access.not_allowed")
    );
    unfreeze(&engine, &parent, "u2", child).await.unwrap();
    freeze(&engine, &parent, "f2", main).await.unwrap();
    assert_eq!(
        charge(&engine, &till, "kid-2", &chip.tap(), 500).await,
        Ok(500)
    );
    let to = RetireTo::Merchant {
        merchant: scene.merchant.id,
    };
    assert_eq!(
        retire(&engine, &parent, "r", main, to).await,
        Err("card.has_family")
    );
    let grand = blank(&engine, 2).await.1.tap();
    let refused = add(
        &engine,
        &kid,
        "grandchild",
        child,
        &grand,
        CardLimits::default(),
    )
    .await;
    assert_eq!(told(refused), Err("card.family_of_family"));

    // The main card is replaced: the child spends on, from the same balance.
    let (next, mut plastic) = blank(&engine, 3).await;
    let answer = replace(&engine, &parent, "rep", main, &plastic.tap())
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, next).await, 47_500);
    assert_eq!(
        charge(&engine, &till, "kid-3", &chip.tap(), 500).await,
        Ok(500)
    );
    assert_eq!(
        charge(&engine, &till, "next", &plastic.tap(), 1_000).await,
        Ok(1_000)
    );
    assert_eq!(on_card(&*scene.store, next).await, 46_000);
    let members = engine
        .cards()
        .family(&answer.holder, next)
        .await
        .unwrap()
        .value;
    assert_eq!(
        members.iter().map(|card| card.id).collect::<Vec<_>>(),
        [child]
    );
    // And the child's is: no money moves.
    let (child_2, mut chip_2) = blank(&engine, 4).await;
    assert_eq!(
        told(replace(&engine, &kid, "rk", child, &chip_2.tap()).await),
        Err("access.not_allowed")
    );
    replace(&engine, &answer.holder, "rc", child, &chip_2.tap())
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, next).await, 46_000);
    assert_eq!(
        charge(&engine, &till, "old kid", &chip.tap(), 1).await,
        Err("card.not_active")
    );
    assert_eq!(
        charge(&engine, &till, "kid-4", &chip_2.tap(), 1_001).await,
        Err("card.limit_exceeded")
    );
    assert_eq!(
        charge(&engine, &till, "kid-5", &chip_2.tap(), 1_000).await,
        Ok(1_000)
    );
    retire(&engine, &answer.holder, "rt", child_2, to)
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, next).await, 45_000);
    retire(&engine, &answer.holder, "rm", next, to)
        .await
        .unwrap();
    assert_eq!(on_card(&*scene.store, next).await, 0);
    scene.stop("family").await;
}

async fn a_card_is_filled_up_by_rule(is_sqlite: bool) {
    let limits = CardLimits {
        max_balance: Some(58_000 * SAT),
        ..CardLimits::default()
    };
    let mut scene = Scene::new(is_sqlite, limits).await;
    let (engine, card, holder) = (
        scene.engine().clone(),
        scene.card.id,
        scene.card.holder.clone(),
    );
    let purse = shop::card(&engine, &uid(1), CardLimits::default()).await;
    fund(&*scene.store, 1, purse.id, 30_000).await;
    let rule = |from| AutoTopUp {
        unit: Asset::Btc,
        below: 40_000 * SAT,
        to: 60_000 * SAT,
        times_per_day: 2,
        from,
    };
    let set = |name: &str, from, source| SetAutoTopUp {
        key: key(name),
        card,
        rule: Some(rule(from)),
        source,
    };
    let from = TopUpSource::Card { card: purse.id };
    let cards = engine.cards();
    // Nobody draws on a card whose holder has not agreed.
    assert_eq!(
        told(
            cards
                .set_auto_top_up(&holder, set("thief", from, None))
                .await
        ),
        Err("access.not_allowed")
    );
    let agreed = set("agreed", from, Some(purse.holder.clone()));
    cards.set_auto_top_up(&holder, agreed).await.unwrap();
    scene.charge("little", 9_999).await.unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(scene.balance().await, 40_001);
    scene.charge("below", 2).await.unwrap();
    engine.run_due_jobs().await.unwrap();
    engine.run_due_jobs().await.unwrap();
    // Up to the most that may be on it, once.
    assert_eq!(
        (
            scene.balance().await,
            on_card(&*scene.store, purse.id).await
        ),
        (58_000, 11_999)
    );
    // The purse has not enough: nothing moves, and it is told.
    scene.charge("again", 20_000).await.unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(
        (
            scene.balance().await,
            on_card(&*scene.store, purse.id).await
        ),
        (38_000, 11_999)
    );
    assert_eq!(
        (
            scene.seen("card.topped_up").await,
            scene.seen("card.top_up_failed").await
        ),
        (1, 1)
    );
    // Twice a day.
    fund(&*scene.store, 2, purse.id, 30_000).await;
    scene.charge("third", 1).await.unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(scene.balance().await, 37_999);
    scene.clock.advance(DAY);
    scene.charge("next day", 1).await.unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(scene.balance().await, 58_000);
    // From outside: an app is asked for it.
    cards
        .set_auto_top_up(&holder, set("outside", TopUpSource::Outside, None))
        .await
        .unwrap();
    scene.charge("outside", 30_000).await.unwrap();
    // The engine looks for due jobs as well: it may have taken this one.
    until("the app is asked", || async {
        engine.run_due_jobs().await.unwrap();
        scene.seen("card.top_up_wanted").await > 0
    })
    .await;
    let events = scene.store.events(0, 1_000).await.unwrap();
    let wanted: Vec<_> = events
        .iter()
        .filter(|event| event.kind == "card.top_up_wanted")
        .collect();
    assert_eq!(wanted.len(), 1);
    assert_eq!(wanted[0].body["amount_msat"], 30_000 * SAT);
    // Whoever agreed has the purse no more: the agreement went with the credential.
    scene.clock.advance(DAY);
    let agreed = set("agreed again", from, Some(purse.holder.clone()));
    cards.set_auto_top_up(&holder, agreed).await.unwrap();
    let renew = RenewHolder {
        key: key("renew"),
        card: purse.id,
    };
    let issuer = engine.issuer();
    cards.renew_holder(&issuer, renew).await.unwrap();
    engine.run_due_jobs().await.unwrap();
    assert_eq!(scene.balance().await, 28_000);
    assert_eq!(scene.seen("card.top_up_failed").await, 2);
    scene.stop("filled up").await;
}

async fn a_printed_code_gets_the_holder_back(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, card, lost) = (
        scene.engine().clone(),
        scene.card.id,
        scene.card.holder.clone(),
    );
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let make = |name: &str| MakeRecoveryCode {
        key: key(name),
        card,
    };
    let first = cards
        .make_recovery_code(&issuer, make("first"))
        .await
        .unwrap();
    let second = cards
        .make_recovery_code(&lost, make("second"))
        .await
        .unwrap();
    assert_eq!(
        cards
            .make_recovery_code(&lost, make("second"))
            .await
            .unwrap(),
        second
    );
    let recover = |name: &str, code: &flashkit::cards::RecoveryCode| RecoverHolder {
        key: key(name),
        code: code.clone(),
    };
    let there = cards.from_source("a phone");
    let void = told(there.recover(recover("void", &first.code)).await);
    assert_eq!(void, Err("card.wrong_recovery_code"));
    let answer = there.recover(recover("good", &second.code)).await.unwrap();
    assert_eq!(answer.card.id, card);
    // The answer was lost on the way: the same again. Used by somebody else, it is void.
    assert_eq!(
        there.recover(recover("good", &second.code)).await.unwrap(),
        answer
    );
    let used = told(there.recover(recover("used", &second.code)).await);
    assert_eq!(used, Err("card.wrong_recovery_code"));
    let mine = &answer.holder;
    assert_eq!(
        freeze(&engine, &lost, "finder", card).await,
        Err("access.revoked")
    );
    freeze(&engine, mine, "mine", card).await.unwrap();
    // Phone and card are lost: the code first, then a new card. The next code is the new card's.
    let (new, mut chip) = blank(&engine, 1).await;
    replace(&engine, mine, "replace", card, &chip.tap())
        .await
        .unwrap();
    let again = there.recover(recover("third", &answer.code)).await.unwrap();
    assert_eq!(again.card.id, new);
    unfreeze(&engine, &again.holder, "no", new)
        .await
        .unwrap_err();
    // A holder that the issuer renewed is rid of whoever made the code before.
    let renew = RenewHolder {
        key: key("renew"),
        card: new,
    };
    let renewed = cards.renew_holder(&issuer, renew).await.unwrap();
    let elsewhere = cards.from_source("elsewhere");
    let thief = told(elsewhere.recover(recover("thief", &again.code)).await);
    assert_eq!(thief, Err("card.wrong_recovery_code"));
    let made = MakeRecoveryCode {
        key: key("made"),
        card: new,
    };
    let again = cards
        .make_recovery_code(&renewed.holder, made)
        .await
        .unwrap();
    // Guessing is slowed down.
    let guess = "0000-0000-0000-0000-0".parse().unwrap();
    for number in 0..8 {
        let refused = told(
            there
                .recover(recover(&format!("guess-{number}"), &guess))
                .await,
        );
        assert_eq!(refused, Err("card.wrong_recovery_code"), "{number}");
    }
    let refused = told(there.recover(recover("slow", &again.code)).await);
    assert_eq!(refused, Err("card.too_many_wrong_codes"));
    scene.clock.advance(Duration::from_secs(60));
    there.recover(recover("slow", &again.code)).await.unwrap();
    scene.stop("recovered").await;
}

async fn a_virtual_card_pays_by_its_code(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let command = IssueVirtualCard {
        key: key("virtual"),
        limits: CardLimits {
            per_tap: Some(500 * SAT),
            ..CardLimits::default()
        },
        expires_at_ms: Some(NOON + 86_400_000),
        program: None,
    };
    let card = cards.issue_virtual(&issuer, command).await.unwrap();
    assert_eq!(
        (card.kind, card.state),
        (CardKind::Virtual, CardState::Issued)
    );
    let command = flashkit::cards::ActivateCard {
        key: key("hand over"),
        card: card.id,
    };
    let holder = cards
        .activate(&issuer, command)
        .await
        .unwrap()
        .holder
        .clone();
    fund(&*scene.store, 1, card.id, 1_000).await;
    let details = || async { cards.virtual_details(&holder, card.id).await.unwrap().value };
    let tap = |number: &str, code: &str| VirtualTap::new(number, code).unwrap().to_string();
    let shown = details().await;
    let good = tap(&shown.number, &shown.code);
    assert_eq!(cards.peek(&good).await.unwrap().balance_msat, 1_000 * SAT);
    assert_eq!(
        charge(&engine, &till, "limit", &good, 501).await,
        Err("card.limit_exceeded")
    );
    assert_eq!(charge(&engine, &till, "good", &good, 200).await, Ok(200));
    assert_eq!(
        charge(&engine, &till, "good", &good, 200).await,
        Ok(200),
        "the same again"
    );
    assert_eq!(
        charge(&engine, &till, "twice", &good, 200).await,
        Err("card.tap_replayed")
    );
    scene.clock.advance(Duration::from_secs(30));
    let next = details().await;
    assert_eq!(
        charge(&engine, &till, "next", &tap(&next.number, &next.code), 100).await,
        Ok(100)
    );
    // A code of hours ago is as wrong as any: five of them lock it, however often each is sent.
    scene.clock.advance(Duration::from_secs(7_200));
    for number in 0..5 {
        for _ in 0..2 {
            let old = &tap(&next.number, &next.code);
            let told = charge(&engine, &till, &format!("old-{number}"), old, 1).await;
            let locked = if number == 4 {
                "card.code_locked"
            } else {
                "card.wrong_code"
            };
            assert!(
                told == Err("card.wrong_code") || told == Err(locked),
                "{told:?}"
            );
        }
    }
    let now = details().await;
    let right = tap(&now.number, &now.code);
    assert_eq!(
        charge(&engine, &till, "locked", &right, 1).await,
        Err("card.code_locked")
    );
    assert_eq!(scene.seen("card.code_wrong").await, 5);
    let unlock = UnlockCardCode {
        key: key("unlock"),
        card: card.id,
    };
    cards.unlock_code(&holder, unlock).await.unwrap();
    assert_eq!(charge(&engine, &till, "unlocked", &right, 1).await, Ok(1));
    let unknown = tap("0000000000000000", "00000000");
    assert_eq!(
        charge(&engine, &till, "unknown", &unknown, 1).await,
        Err("card.not_found")
    );
    scene.clock.advance(DAY);
    let last = details().await;
    let late = tap(&last.number, &last.code);
    assert_eq!(
        charge(&engine, &till, "late", &late, 1).await,
        Err("card.expired")
    );
    assert_eq!(on_card(&*scene.store, card.id).await, 699);
    scene.stop("virtual").await;
}

async fn a_bearer_card_is_kept_beside(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let public_key = format!("02{}", "5a".repeat(32));
    let register = |name: &str, public_key: &str| RegisterBearerCard {
        key: key(name),
        public_key: public_key.to_owned(),
        unit: BearerUnit::UsdCent,
    };
    assert_eq!(
        told(cards.register_bearer(&issuer, register("bad", "02")).await),
        Err("command.out_of_bounds")
    );
    let card = cards
        .register_bearer(&issuer, register("good", &public_key))
        .await
        .unwrap();
    let twice = cards
        .register_bearer(&issuer, register("twice", &public_key))
        .await;
    assert_eq!(told(twice), Err("card.already_issued"));
    let command = flashkit::cards::ActivateCard {
        key: key("hand over"),
        card: card.id,
    };
    let holder = cards
        .activate(&issuer, command)
        .await
        .unwrap()
        .holder
        .clone();
    let listed = cards
        .list_beside(&issuer, true, None, 100)
        .await
        .unwrap()
        .value;
    assert_eq!(
        listed.iter().map(|card| card.id).collect::<Vec<_>>(),
        [card.id]
    );
    assert_eq!(
        listed[0].kind,
        CardKind::Bearer {
            unit: BearerUnit::UsdCent
        }
    );
    let tap = format!("bearer:{public_key}");
    assert_eq!(
        charge(&engine, &till, "charge", &tap, 1).await,
        Err("card.bearer")
    );
    let command = TopUpCard {
        key: key("top-up"),
        card: card.id,
        price: sat(1),
    };
    assert_eq!(
        told(cards.top_up(&holder, command).await),
        Err("card.bearer")
    );
    let to = RetireTo::Merchant {
        merchant: scene.merchant.id,
    };
    assert_eq!(
        retire(&engine, &holder, "retire", card.id, to).await,
        Err("card.bearer")
    );
    let seen = cards.get(&holder, card.id).await.unwrap();
    assert_eq!((seen.kind, seen.balance_msat), (listed[0].kind, 0));
    scene.stop("bearer").await;
}
