//! Receipts with the card's balance: exact, and the same whenever they are printed again.

use flashkit::cards::{
    AuthorizeCard, CaptureCharge, CardLimits, CardReceipt, CardReceiptKind, CardReceiptLine,
    CardReceiptOf, ChargeAmount, PayWithCard, RefundCharge,
};
use flashkit::ids::{ChargeId, TransferId};
use flashkit::money::Asset;

use crate::hands::{blank, replace};
use crate::support::key;
use crate::support::scene::{Scene, told};
use crate::support::shop::{self, SAT, sat};

async fn receipt(scene: &Scene, of: CardReceiptOf) -> CardReceipt {
    let cards = scene.engine().cards();
    let found = cards.receipt(&scene.engine().issuer(), of).await;
    found.unwrap().value
}

async fn refund(scene: &Scene, name: &str, charge: ChargeId, sats: i64) {
    let command = RefundCharge {
        key: key(name),
        charge,
        amount: ChargeAmount::Bitcoin {
            amount_msat: sats * SAT,
        },
    };
    let cards = scene.engine().cards();
    cards.refund(&scene.merchant.till, command).await.unwrap();
}

fn paid(sats: i64) -> CardReceiptLine {
    CardReceiptLine::Paid {
        asset: Asset::Btc,
        amount: sats * SAT,
    }
}

fn received(sats: i64) -> CardReceiptLine {
    CardReceiptLine::Received {
        asset: Asset::Btc,
        amount: sats * SAT,
    }
}

fn balance(sats: i64) -> CardReceiptLine {
    CardReceiptLine::Balance {
        asset: Asset::Btc,
        amount: sats * SAT,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_says_the_same_whatever_happened_since() {
    let mut scene = Scene::new(true, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let (cards, till) = (engine.cards(), scene.merchant.till.clone());
    shop::program(&engine, scene.merchant.id).await;
    let price = |sats| CardReceiptLine::Price { price: sat(sats) };
    let points = |points| CardReceiptLine::Points { points };

    let rows = cards
        .history(&scene.card.holder, scene.card.id, None, 9)
        .await;
    let top_up = CardReceiptOf::Transfer {
        card: scene.card.id,
        transfer: rows.unwrap()[0].id,
    };
    let sale = scene.charge("sale", 10_000).await.unwrap().id;
    let command = AuthorizeCard {
        key: key("tab"),
        tap: scene.card.chip.tap(),
        price: sat(5_000),
        reference: "tab".to_owned(),
        pin: None,
    };
    let tab = cards.authorize(&till, command).await.unwrap().id;
    let open = cards
        .receipt(&till, CardReceiptOf::Charge { charge: tab })
        .await;
    assert_eq!(told(open), Err("card.charge_not_captured"));
    // What is set aside is still on it.
    let next = scene.charge("next", 1_000).await.unwrap().id;
    let command = CaptureCharge {
        key: key("close"),
        charge: tab,
        amount: ChargeAmount::Bitcoin {
            amount_msat: 4_000 * SAT,
        },
    };
    cards.capture(&till, command).await.unwrap();
    refund(&scene, "back", sale, 2_000).await;
    let bill = shop::sale(&engine, &scene.merchant, "bill", sat(3_000)).await;
    let command = PayWithCard {
        key: key("pay"),
        tap: scene.card.chip.tap(),
        bolt11: bill.bolt11.clone(),
        pin: None,
    };
    let payment = cards.pay(&till, command).await.unwrap().id;

    let expected = [
        (
            top_up,
            CardReceiptKind::TopUp,
            vec![received(50_000), balance(50_000)],
        ),
        (
            CardReceiptOf::Charge { charge: sale },
            CardReceiptKind::Charge,
            vec![price(10_000), paid(10_000), points(200), balance(40_000)],
        ),
        (
            CardReceiptOf::Charge { charge: next },
            CardReceiptKind::Charge,
            vec![price(1_000), paid(1_000), points(20), balance(39_000)],
        ),
        (
            CardReceiptOf::Charge { charge: tab },
            CardReceiptKind::Charge,
            vec![price(5_000), paid(4_000), points(80), balance(35_000)],
        ),
        (
            CardReceiptOf::Refund {
                charge: sale,
                number: 1,
            },
            CardReceiptKind::Refund,
            vec![received(2_000), points(-40), balance(37_000)],
        ),
        (
            CardReceiptOf::Payment { payment },
            CardReceiptKind::Payment,
            vec![paid(3_000), points(60), balance(34_000)],
        ),
    ];
    let mut first = Vec::new();
    for (of, kind, lines) in &expected {
        let printed = receipt(&scene, *of).await;
        assert_eq!((printed.kind, &printed.lines), (*kind, lines), "{of:?}");
        assert_eq!(printed.card, scene.card.id);
        first.push(printed);
    }
    assert_eq!(first[1].number, sale.to_string());
    assert_eq!(first[4].number, format!("{sale}/1"));
    assert_eq!(
        (first[1].reference.as_str(), first[1].merchant),
        ("table 4", Some(scene.merchant.id))
    );
    for of in [
        CardReceiptOf::Refund {
            charge: sale,
            number: 2,
        },
        CardReceiptOf::Refund {
            charge: sale,
            number: 0,
        },
        CardReceiptOf::Transfer {
            card: scene.card.id,
            transfer: TransferId::from_parts(1, [1; 10]),
        },
    ] {
        let none = cards.receipt(&engine.issuer(), of).await;
        assert_eq!(told(none), Err("card.receipt_not_found"), "{of:?}");
    }

    // Refunded again, the card replaced, and a refund that goes on to the new one.
    refund(&scene, "again", sale, 1_000).await;
    let (new, mut chip) = blank(&engine, 1).await;
    let holder = scene.card.holder.clone();
    let replaced = replace(&engine, &holder, "new", scene.card.id, &chip.tap()).await;
    let holder = replaced.unwrap().holder.clone();
    refund(&scene, "late", sale, 500).await;
    for (printed, (of, ..)) in first.iter().zip(&expected) {
        assert_eq!(receipt(&scene, *of).await, *printed, "{of:?}");
        let again = cards.receipt(&holder, *of).await.unwrap().value;
        assert_eq!(again, *printed, "to whoever holds the new one");
    }
    let late = receipt(
        &scene,
        CardReceiptOf::Refund {
            charge: sale,
            number: 3,
        },
    )
    .await;
    assert_eq!(late.lines, [received(500), points(-10), balance(35_500)]);
    let on_it = cards.get(&holder, new).await.unwrap().balance_msat;
    assert_eq!(late.balance(), Some((Asset::Btc, on_it)));
    // The till prints its own, and no other's.
    cards
        .receipt(&till, CardReceiptOf::Charge { charge: sale })
        .await
        .unwrap();
    let other = shop::merchant(&engine, "Bakery").await.till;
    let theirs = cards
        .receipt(&other, CardReceiptOf::Charge { charge: sale })
        .await;
    assert_eq!(told(theirs), Err("access.not_allowed"));
    assert_eq!(
        told(cards.receipt(&till, top_up).await),
        Err("access.not_allowed")
    );
    scene.card.id = new;
    scene.card.holder = holder;
    scene.stop("receipts").await;
}

/// What was withheld stands on the receipt, and no balance where nothing came on the card.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_is_withheld_moves_nothing_on_the_card() {
    let mut scene = Scene::new(false, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let program = shop::program(&engine, scene.merchant.id).await;
    let sale = scene.charge("sale", 1_000).await.unwrap().id;
    let command = flashkit::rewards::RedeemPoints {
        key: key("redeem"),
        card: scene.card.id,
        program,
        points: 20,
    };
    engine
        .rewards()
        .redeem(&scene.card.holder, command)
        .await
        .unwrap();
    // Ten points in the hundred are gone: the first sats of the refunds are withheld for them.
    for (name, sats) in [("one", 1), ("rest", 999)] {
        refund(&scene, name, sale, sats).await;
    }
    let one = receipt(
        &scene,
        CardReceiptOf::Refund {
            charge: sale,
            number: 1,
        },
    )
    .await;
    let withheld = CardReceiptLine::Withheld { amount_msat: SAT };
    assert!(one.lines.contains(&withheld), "{:?}", one.lines);
    assert_eq!(one.balance(), None);
    let rest = receipt(
        &scene,
        CardReceiptOf::Refund {
            charge: sale,
            number: 2,
        },
    )
    .await;
    let withheld = CardReceiptLine::Withheld {
        amount_msat: 19 * SAT,
    };
    assert!(rest.lines.contains(&withheld), "{:?}", rest.lines);
    assert_eq!(
        rest.balance(),
        Some((Asset::Btc, scene.balance().await * SAT))
    );
    scene.stop("withheld").await;
}
