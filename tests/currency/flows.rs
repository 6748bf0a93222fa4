//! Charges, tabs and refunds of cards in a currency while the rate moves.

use std::time::Duration;

use flashkit::cards::{AutoTopUp, CardLimits, ChargeState, SetAutoTopUp, TopUpSource};
use flashkit::exchange::{ConversionRules, DriftBearer, PositionRate, RefundRate};
use flashkit::ledger::Account;
use flashkit::money::{Asset, QuoteSide, Spread, SpreadSide};

use crate::support::key;
use crate::support::scene::{on_both_stores, told};
use crate::support::shop;
use crate::world::{Terms, World, currency, fiat, issue, msat};

on_both_stores! {
    a_stale_rate_refuses_and_uses_nothing_up;
    a_card_is_filled_up_from_one_in_its_currency;
    the_operator_bears_the_drift;
    the_merchant_bears_the_drift;
    the_card_bears_the_drift;
    what_is_not_captured_comes_back_in_the_currency;
    a_refund_is_at_the_rate_of_the_charge_or_of_now;
    a_spread_is_booked_to_its_own_account;
    limits_and_balances_are_in_the_unit;
    a_side_of_the_market_is_asked_for_and_never_guessed;
    positions_are_shown_and_valued;
}

fn drift(drift: DriftBearer) -> Terms {
    Terms {
        rules: ConversionRules {
            drift,
            ..ConversionRules::default()
        },
        ..Terms::default()
    }
}

async fn world(is_sqlite: bool, terms: Terms) -> World {
    let mut world = World::new(is_sqlite, "JMD", "15000000", terms).await;
    world.fund(1_000_000, 70_000_000).await;
    world
}

async fn a_stale_rate_refuses_and_uses_nothing_up(is_sqlite: bool) {
    let mut world = world(is_sqlite, drift(DriftBearer::Merchant)).await;
    let tab = world.authorize("tab", fiat("JMD", 100_000)).await.unwrap();
    let before = world.books().await;
    world.clock.advance(Duration::from_millis(120_001));
    let tap = world.card.chip.tap();
    let price = fiat("JMD", 50_000);
    let refused = world.charge_tap("sale", tap.clone(), price).await;
    assert_eq!(refused.map(drop), Err("rate.stale"));
    // What was set aside stands meanwhile: the rate of then would be the choice of whoever waits.
    let refused = world.capture("capture", tab.id, fiat("JMD", 100_000)).await;
    assert_eq!(refused.map(drop), Err("rate.stale"));
    assert_eq!(world.books().await, before);
    let cards = world.engine.cards();
    let snapshot = cards.get(&world.card.holder, world.card.id).await;
    let money = snapshot.unwrap().money.clone().unwrap();
    assert_eq!((money.balance, money.value_msat), (900_000, None));
    // The same tap and the same keys, once there is a rate.
    world.rate("JMD", "15000000");
    world.charge_tap("sale", tap, price).await.unwrap();
    let captured = world.capture("capture", tab.id, fiat("JMD", 100_000)).await;
    assert_eq!(captured.unwrap().state, ChargeState::Captured);
    assert_eq!(world.on_card().await, 850_000);
    world.stop("stale").await;
}

/// A card in a currency is filled up from another one in the same, and from no other.
async fn a_card_is_filled_up_from_one_in_its_currency(is_sqlite: bool) {
    let world = world(is_sqlite, Terms::default()).await;
    let other = issue(
        &world.engine,
        world.unit,
        &Terms::default(),
        "04a39493cc8699",
    )
    .await;
    let dollars = currency("USD");
    let dollars = issue(&world.engine, dollars, &Terms::default(), "04a39493cc8700").await;
    let rule = |card, unit| SetAutoTopUp {
        key: key("rule"),
        card,
        rule: Some(AutoTopUp {
            unit: Asset::Fiat(unit),
            below: 20_000,
            to: 50_000,
            times_per_day: 1,
            from: TopUpSource::Card {
                card: world.card.id,
            },
        }),
        source: Some(world.card.holder.clone()),
    };
    let cards = world.engine.cards();
    let set = cards
        .set_auto_top_up(&dollars.holder, rule(dollars.id, currency("USD")))
        .await;
    assert_eq!(told(set).map(drop), Err("command.out_of_bounds"));
    let position = world.position().await;
    cards
        .set_auto_top_up(&other.holder, rule(other.id, world.unit))
        .await
        .unwrap();
    world.engine.run_due_jobs().await.unwrap();
    let unit = Asset::Fiat(world.unit);
    let filled = world.has(Account::card_balance_in(other.id, unit)).await;
    assert_eq!((world.on_card().await, filled), (950_000, 50_000));
    assert_eq!(world.position().await, position, "nothing is exchanged");
    let events = world.store.events(0, 1_000).await.unwrap();
    let event = events.iter().find(|event| event.kind == "card.topped_up");
    let body = &event.unwrap().body;
    assert_eq!(
        (body["amount"].as_i64(), body["balance"].as_i64()),
        (Some(50_000), Some(0))
    );
    assert_eq!(body["unit"], serde_json::to_value(unit).unwrap());
    world.stop("filled up").await;
}

/// A tab of J$1,000.00 and one of 10,000,000 msat; then a bitcoin costs a quarter more.
async fn tabs(world: &mut World) -> [flashkit::ids::ChargeId; 2] {
    let own = world.authorize("own", fiat("JMD", 100_000)).await.unwrap();
    let other = world.authorize("other", msat(10_000_000)).await.unwrap();
    assert_eq!(own.conversion.as_ref().unwrap().amount, 100_000);
    assert_eq!(other.conversion.as_ref().unwrap().amount, 150_000);
    world.rate("JMD", "18750000");
    [own.id, other.id]
}

async fn the_operator_bears_the_drift(is_sqlite: bool) {
    let mut world = world(is_sqlite, drift(DriftBearer::Operator)).await;
    let [own, other] = tabs(&mut world).await;
    let own = world
        .capture("c/own", own, fiat("JMD", 100_000))
        .await
        .unwrap();
    // At 15,000,000: as it was told.
    assert_eq!((own.on_card(), own.amount_msat), (100_000, 6_666_667));
    let other = world
        .capture("c/other", other, msat(10_000_000))
        .await
        .unwrap();
    assert_eq!((other.on_card(), other.amount_msat), (150_000, 10_000_000));
    assert!(other.conversion.clone().unwrap().settled_quote.is_none());
    let books = [750_000, 16_666_667, -750_000, 70_000_000 - 16_666_667, 0];
    assert_eq!(world.books().await, books);
    world.stop("operator").await;
}

async fn the_merchant_bears_the_drift(is_sqlite: bool) {
    let mut world = world(is_sqlite, drift(DriftBearer::Merchant)).await;
    let [own, other] = tabs(&mut world).await;
    let own = world
        .capture("c/own", own, fiat("JMD", 100_000))
        .await
        .unwrap();
    // J$1,000.00 at 18,750,000 is 5,333,333.3 msat, J$1,500.00 is 8,000,000.
    assert_eq!((own.on_card(), own.amount_msat), (100_000, 5_333_334));
    let settled = own.conversion.clone().unwrap().settled_quote.unwrap();
    assert_eq!(settled.rate.to_string(), "18750000");
    let other = world
        .capture("c/other", other, msat(10_000_000))
        .await
        .unwrap();
    assert_eq!((other.on_card(), other.amount_msat), (150_000, 8_000_000));
    let books = [750_000, 13_333_334, -750_000, 70_000_000 - 13_333_334, 0];
    assert_eq!(world.books().await, books);
    world.stop("merchant").await;
}

async fn the_card_bears_the_drift(is_sqlite: bool) {
    for (margin_bps, pays, sets_aside) in [(3_000, 187_500, 195_000), (1_000, 165_000, 165_000)] {
        let mut terms = drift(DriftBearer::Card);
        terms.rules.hold_margin_bps = margin_bps;
        let mut world = world(is_sqlite, terms).await;
        let [own, other] = tabs(&mut world).await;
        assert_eq!(world.on_card().await, 1_000_000 - 100_000 - sets_aside);
        // A price in the card's own currency is paid exactly: there it is the merchant's.
        let own = world
            .capture("c/own", own, fiat("JMD", 100_000))
            .await
            .unwrap();
        assert_eq!((own.on_card(), own.amount_msat), (100_000, 5_333_334));
        // 10,000,000 msat cost J$1,875.00 now; never more than was set aside is taken.
        let other = world
            .capture("c/other", other, msat(10_000_000))
            .await
            .unwrap();
        assert_eq!((other.on_card(), other.amount_msat), (pays, 10_000_000));
        assert_eq!(world.on_card().await, 900_000 - pays);
        world.stop("card").await;
    }
}

async fn what_is_not_captured_comes_back_in_the_currency(is_sqlite: bool) {
    let mut world = world(is_sqlite, Terms::default()).await;
    let [own, other] = tabs(&mut world).await;
    let too_much = world.capture("more", own, fiat("JMD", 100_001)).await;
    assert_eq!(too_much.map(drop), Err("card.capture_exceeds_hold"));
    let other_unit = world.capture("unit", own, msat(1_000)).await;
    assert_eq!(other_unit.map(drop), Err("card.unit_mismatch"));
    // A third of it: 2,222,222.3 msat of 6,666,667.
    let part = world
        .capture("part", own, fiat("JMD", 33_333))
        .await
        .unwrap();
    assert_eq!((part.on_card(), part.amount_msat), (33_333, 2_222_201));
    let released = world.release("release", other).await.unwrap();
    assert_eq!((released.on_card(), released.amount_msat), (0, 0));
    let third = world.authorize("third", fiat("JMD", 10_000)).await.unwrap();
    world.clock.advance(Duration::from_secs(25 * 3_600));
    let late = world.capture("late", third.id, fiat("JMD", 10_000)).await;
    assert_eq!(late.map(drop), Err("card.authorization_expired"));
    world.engine.run_due_jobs().await.unwrap();
    let books = [966_667, 2_222_201, -966_667, 70_000_000 - 2_222_201, 0];
    assert_eq!(world.books().await, books);
    world.stop("not captured").await;
}

async fn a_refund_is_at_the_rate_of_the_charge_or_of_now(is_sqlite: bool) {
    for refund_at in [RefundRate::Charge, RefundRate::Now] {
        let mut terms = Terms::default();
        terms.rules.refund_at = refund_at;
        let mut world = world(is_sqlite, terms).await;
        let sale = world.charge("sale", fiat("JMD", 100_000)).await.unwrap().id;
        world.charge("more", fiat("JMD", 200_000)).await.unwrap();
        let had = world.payable().await;
        assert_eq!(had, 6_666_667 + 13_333_334);
        world.rate("JMD", "12000000");
        // Without a cap the operator owes nothing more.
        let refused = world.refund("early", sale, fiat("JMD", 33_333)).await;
        assert_eq!(refused.map(drop), Err("rate.position_cap_reached"));
        assert_eq!(world.position().await, -700_000);
        world.cap("cap", 800_000).await;
        let other_unit = world.refund("unit", sale, msat(1)).await;
        assert_eq!(other_unit.map(drop), Err("card.unit_mismatch"));
        for (name, part) in [("1", 33_333), ("2", 33_333), ("3", 33_334)] {
            world.refund(name, sale, fiat("JMD", part)).await.unwrap();
        }
        let more = world.refund("4", sale, fiat("JMD", 1)).await;
        assert_eq!(more.map(drop), Err("card.refund_exceeds_charge"));
        let gave = match refund_at {
            // All of it and not a msat more, in however many parts.
            RefundRate::Charge => 6_666_667,
            // 2,777,750 twice and 2,777,833.3.
            RefundRate::Now => 8_333_334,
        };
        let books = [800_000, had - gave, -800_000, 70_000_000 - had + gave, 0];
        assert_eq!(world.books().await, books, "{refund_at:?}");
        world.stop("refunded").await;
    }
}

async fn a_spread_is_booked_to_its_own_account(is_sqlite: bool) {
    let with = |side| Terms {
        spread: Some(Spread { bps: 200, side }),
        ..Terms::default()
    };
    // The merchant gets 2 % less of what the card pays, whatever the price is in.
    let mut world = world(is_sqlite, with(SpreadSide::MerchantReceives)).await;
    world.cap("cap", 10_000_000).await;
    let sale = world.charge("own", fiat("JMD", 150_000)).await.unwrap();
    assert_eq!((sale.on_card(), sale.amount_msat), (150_000, 10_000_000));
    assert_eq!(
        (world.payable().await, world.spread().await),
        (9_800_000, 200_000)
    );
    world
        .refund("half", sale.id, fiat("JMD", 75_000))
        .await
        .unwrap();
    assert_eq!(
        (world.payable().await, world.spread().await),
        (4_900_000, 100_000)
    );
    world
        .refund("rest", sale.id, fiat("JMD", 75_000))
        .await
        .unwrap();
    let books = [1_000_000, 0, -1_000_000, 70_000_000, 0];
    assert_eq!(world.books().await, books);
    world.stop("merchant's").await;

    // The customer pays 2 % more for bitcoin, and a price in the card's own currency exactly.
    let mut world = self::world(is_sqlite, with(SpreadSide::CustomerPays)).await;
    let sale = world.charge("own", fiat("JMD", 150_000)).await.unwrap();
    assert_eq!((sale.on_card(), sale.amount_msat), (150_000, 10_000_000));
    assert_eq!(
        (world.payable().await, world.spread().await),
        (10_000_000, 0)
    );
    let tab = world.authorize("tab", msat(10_000_000)).await.unwrap();
    assert_eq!((tab.on_card(), tab.amount_msat), (153_000, 10_200_000));
    world
        .capture("tab", tab.id, msat(10_000_000))
        .await
        .unwrap();
    assert_eq!(
        (world.payable().await, world.spread().await),
        (20_000_000, 200_000)
    );
    assert_eq!(world.bitcoin().await, 70_000_000 - 20_200_000);
    world.stop("customer's").await;
}

async fn limits_and_balances_are_in_the_unit(is_sqlite: bool) {
    let terms = Terms {
        limits: CardLimits {
            per_tap: Some(200_000),
            per_day: Some(300_000),
            low_balance: Some(850_000),
            ..CardLimits::default()
        },
        ..Terms::default()
    };
    let mut world = world(is_sqlite, terms).await;
    let program = shop::program(&world.engine, world.merchant.id).await;
    let above = world.charge("tap", fiat("JMD", 200_001)).await;
    assert_eq!(above.map(drop), Err("card.limit_exceeded"));
    let sale = world.charge("1", fiat("JMD", 200_000)).await.unwrap();
    // 13,333,334 msat at 2 %: 266 points of a sat.
    assert_eq!(sale.points, 266);
    let above = world.charge("day", fiat("JMD", 100_001)).await;
    assert_eq!(above.map(drop), Err("card.limit_exceeded"));
    world.charge("2", fiat("JMD", 100_000)).await.unwrap();
    let more = world.charge("3", msat(1_000_000_000)).await;
    assert_eq!(more.map(drop), Err("card.limit_exceeded"));
    world.engine.run_due_jobs().await.unwrap();
    let events = world.store.events(0, 1_000).await.unwrap();
    let low: Vec<_> = events
        .iter()
        .filter(|event| event.kind == "card.low_balance")
        .collect();
    assert_eq!(low.len(), 1);
    assert_eq!(
        (&low[0].body["balance"], &low[0].body["unit"]),
        (&800_000.into(), &"JMD".into())
    );
    let cards = world.engine.cards();
    let seen = cards.get(&world.card.holder, world.card.id).await.unwrap();
    assert_eq!((seen.balance_msat, seen.pending_msat), (0, 0));
    let money = seen.money.clone().unwrap();
    assert_eq!((money.currency, money.balance), (world.unit, 700_000));
    assert_eq!(money.value_msat, Some(46_666_666));
    assert_eq!(seen.usage[0].used, 300_000);
    assert_eq!(seen.history[0].amount, 100_000);
    let points = world
        .has(Account::points_balance(world.card.id, program))
        .await;
    assert_eq!(points, 266 + 133);
    world.stop("limits").await;
}

async fn a_side_of_the_market_is_asked_for_and_never_guessed(is_sqlite: bool) {
    let mut terms = Terms::default();
    terms.rules.charge_side = Some(QuoteSide::Ask);
    let mut world = world(is_sqlite, terms).await;
    let none = world.charge("none", fiat("JMD", 150_000)).await;
    assert_eq!(none.map(drop), Err("rate.other_side"));
    world.side("JMD", QuoteSide::Bid, "14000000");
    let other = world.charge("other", fiat("JMD", 150_000)).await;
    assert_eq!(other.map(drop), Err("rate.other_side"));
    world.side("JMD", QuoteSide::Ask, "16000000");
    let sale = world.charge("ask", fiat("JMD", 160_000)).await.unwrap();
    assert_eq!(sale.amount_msat, 10_000_000);
    let quote = sale.conversion.clone().unwrap().quote;
    assert_eq!(
        (quote.side, quote.legs[0].side),
        (QuoteSide::Ask, QuoteSide::Ask)
    );
    world.stop("side").await;
}

async fn positions_are_shown_and_valued(is_sqlite: bool) {
    let mut world = world(is_sqlite, Terms::default()).await;
    world.cap("cap", 5_000_000).await;
    world.authorize("tab", fiat("JMD", 250_000)).await.unwrap();
    let (exchange, issuer) = (world.engine.exchange(), world.engine.issuer());
    let at = [PositionRate {
        currency: currency("JMD"),
        rate: "20000000".parse().unwrap(),
    }];
    let positions = exchange.positions(&issuer, &at).await.unwrap();
    assert_eq!(positions.len(), 2);
    let (bitcoin, jmd) = (&positions[0], &positions[1]);
    assert_eq!((bitcoin.asset, bitcoin.amount), (Asset::Btc, 70_000_000));
    assert_eq!(
        (jmd.amount, jmd.lowest, jmd.highest),
        (-1_000_000, -1_000_000, -750_000)
    );
    assert_eq!(
        (jmd.max_open, jmd.value_msat),
        (Some(5_000_000), Some(-50_000_000))
    );
    let positions = exchange.positions(&issuer, &[]).await.unwrap();
    assert_eq!(positions[1].value_msat, Some(-66_666_666));
    world.clock.advance(Duration::from_secs(3_600));
    let positions = exchange.positions(&issuer, &[]).await.unwrap();
    assert_eq!((positions[1].rate, positions[1].value_msat), (None, None));
    let denied = exchange.positions(&world.merchant.till, &[]).await;
    assert_eq!(denied.unwrap_err().code(), "access.not_allowed");
    world.stop("positions").await;
}
