//! What comes on the balance of a family, by whichever of its cards.

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{CardLimits, SetCardLimits, TopUpCard};
use flashkit::ids::CardId;

use crate::hands::{add, blank, freeze, unfreeze};
use crate::support::scene::{Scene, on_both_stores};
use crate::support::shop::{SAT, sat};
use crate::support::{key, until};

on_both_stores! {
    the_balance_of_a_family_is_bounded_by_whichever_card_it_comes;
}

/// What the address of a card answers.
async fn asked(engine: &Engine, by: &Credential, card: CardId) -> serde_json::Value {
    let address = engine.cards().top_up_address(by, card).await.unwrap();
    let request = LnurlRequest {
        url: address.url.clone(),
        till: None,
        source: None,
    };
    let reply = engine.cards().answer(&request).await;
    serde_json::from_str(&reply.body).unwrap()
}

async fn the_balance_of_a_family_is_bounded_by_whichever_card_it_comes(is_sqlite: bool) {
    let limits = |sats: Option<i64>| CardLimits {
        max_balance: sats.map(|sats| sats * SAT),
        ..CardLimits::default()
    };
    let scene = Scene::new(is_sqlite, limits(Some(60_000))).await;
    let (engine, main, parent) = (scene.engine(), scene.card.id, &scene.card.holder);
    let (child, mut chip) = blank(engine, 1).await;
    let member = add(engine, parent, "child", main, &chip.tap(), limits(None)).await;
    let kid = member.unwrap().holder.clone();
    let pay = async |name: &str, sats: i64| {
        let command = TopUpCard {
            key: key(name),
            card: child,
            price: sat(sats),
        };
        let invoice = engine.cards().top_up(&kid, command).await.unwrap();
        scene.shop.customer.pay(&invoice.bolt11).await.is_ok()
    };
    assert_eq!(
        asked(engine, &kid, child).await["maxSendable"],
        10_000 * SAT
    );
    assert!(!pay("too much", 10_001).await);
    assert!(pay("half", 5_000).await);
    until("it is there", || async { scene.balance().await == 55_000 }).await;
    // A stopped main card leaves the others what they do; and the lower of both bounds counts.
    freeze(engine, parent, "freeze", main).await.unwrap();
    let command = SetCardLimits {
        key: key("lower"),
        card: child,
        limits: limits(Some(57_000)),
    };
    engine.cards().set_limits(parent, command).await.unwrap();
    assert_eq!(asked(engine, &kid, child).await["maxSendable"], 2_000 * SAT);
    assert!(!pay("its own", 2_001).await);
    assert!(pay("rest", 2_000).await);
    until("it is full", || async { scene.balance().await == 57_000 }).await;
    assert_eq!(asked(engine, &kid, child).await["status"], "ERROR");
    unfreeze(engine, parent, "unfreeze", main).await.unwrap();
    assert_eq!(
        asked(engine, parent, main).await["maxSendable"],
        3_000 * SAT
    );
    // As the main card has it when the money comes, and not when it was asked for.
    let command = TopUpCard {
        key: key("late"),
        card: main,
        price: sat(3_000),
    };
    let late = engine.cards().top_up(parent, command).await.unwrap();
    let command = SetCardLimits {
        key: key("less"),
        card: main,
        limits: limits(Some(58_000)),
    };
    engine.cards().set_limits(parent, command).await.unwrap();
    assert!(scene.shop.customer.pay(&late.bolt11).await.is_err());
    scene.stop("family").await;
}
