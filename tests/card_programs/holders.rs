//! What a program says of limits is the most that a holder can set, and it holds for virtual cards.

use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{
    ActivateCard, AddFamilyCard, Card, CardLimits, CardProgramTerms, ChargeCard, IssueCard,
    IssueVirtualCard, PinRules, SetCardLimits, TopUpCard, VirtualTap,
};
use flashkit::exchange::SetPositionCap;
use flashkit::ids::{CardId, CardProgramId};
use flashkit::money::{Asset, Currency, Price};
use flashkit::ports::SystemClock;
use flashkit::store::MemoryStore;
use flashkit::testkit::virtual_card::VirtualCard;

use crate::rules::{issue, merchant, program};
use crate::support::key;
use crate::support::scene::{NOON, Scene, Told, on_both_stores, told};
use crate::support::shop::{self, HeldCard, SAT, jmd, sat};

on_both_stores! {
    a_holder_sets_less_than_the_program_says_and_not_more;
    a_virtual_card_is_of_its_program;
    a_virtual_card_has_its_programs_limits_and_merchants;
}

/// Every limit at once.
fn all(amount: i64) -> CardLimits {
    CardLimits {
        per_tap: Some(amount),
        per_day: Some(amount + 1),
        per_week: Some(amount + 2),
        per_month: Some(amount + 3),
        taps_per_hour: Some(amount / 10),
        pin_above: Some(amount + 4),
        max_balance: Some(amount + 5),
        low_balance: None,
        ..CardLimits::default()
    }
}

async fn set(engine: &Engine, holder: &HeldCard, card: CardId, limits: CardLimits) -> CardLimits {
    let command = SetCardLimits {
        key: key(&format!("{card}/{}", limits.per_tap.unwrap_or(0))),
        card,
        limits,
    };
    let cards = engine.cards();
    let set = cards.set_limits(&holder.holder, command).await.unwrap();
    let kept = cards.get(&holder.holder, holder.id).await.unwrap();
    if holder.id == card {
        assert_eq!(kept.limits, set.limits);
    }
    set.limits.clone()
}

async fn a_holder_sets_less_than_the_program_says_and_not_more(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let terms = CardProgramTerms {
        limits: all(1_000),
        ..CardProgramTerms::default()
    };
    let of = program(&engine, "bounded", terms).await;
    let card = issue(&engine, "04000000000001", CardLimits::default(), of).await;
    let zone = |limits: CardLimits| CardLimits {
        time_zone: "America/Jamaica".to_owned(),
        low_balance: Some(7_000),
        ..limits
    };
    // More, and no limit at all, is what the program says; less is less. The days of the holder's
    // own zone, and when the balance is called low, are the holder's business.
    let most = zone(all(1_000));
    for (asked, becomes) in [
        (zone(CardLimits::default()), &most),
        (zone(all(1_001)), &most),
        (zone(all(999)), &zone(all(999))),
        (zone(all(1_000)), &most),
    ] {
        assert_eq!(set(&engine, &card, card.id, asked).await, *becomes);
    }
    // A card of its family has no more either, from the first day on.
    let (cards, issuer, uid) = (engine.cards(), engine.issuer(), "04000000000003");
    let command = IssueCard {
        key: key("child"),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: all(5_000),
        program: Some(of),
    };
    let child = cards.issue(&issuer, command).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, uid).await.unwrap();
    let command = AddFamilyCard {
        key: key("family"),
        main: card.id,
        tap: VirtualCard::program(uid, &keys).unwrap().tap(),
        limits: all(2_000),
    };
    cards.add_to_family(&card.holder, command).await.unwrap();
    let limits = cards.get(&issuer, child).await.unwrap().limits.clone();
    assert_eq!(limits, all(1_000));
    let asked = set(&engine, &card, child, all(1_001)).await;
    assert_eq!(asked, all(1_000));
    // What the issuer has given one card is the most of that one, also after it was less.
    let more = issue(&engine, "04000000000002", all(5_000), of).await;
    for (asked, becomes) in [(10, 10), (6_000, 5_000), (4_000, 4_000)] {
        assert_eq!(
            set(&engine, &more, more.id, all(asked)).await,
            all(becomes),
            "{asked}"
        );
    }
    // Without a program whoever holds it decides.
    let free = CardLimits::default();
    assert_eq!(
        set(&engine, &scene.card, scene.card.id, all(9_000)).await,
        all(9_000)
    );
    assert_eq!(
        set(&engine, &scene.card, scene.card.id, free.clone()).await,
        free
    );
    scene.stop("bounded").await;
}

/// A virtual card of a program, handed over.
async fn virtual_card(
    engine: &Engine,
    of: CardProgramId,
    expires_at_ms: Option<i64>,
) -> (Card, Credential) {
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let command = IssueVirtualCard {
        key: key(&format!("virtual/{of}")),
        limits: CardLimits::default(),
        expires_at_ms,
        program: Some(of),
    };
    let card = cards.issue_virtual(&issuer, command).await.unwrap().value;
    let command = ActivateCard {
        key: key(&format!("hand over/{of}")),
        card: card.id,
    };
    let held = cards.activate(&issuer, command).await.unwrap();
    (held.card.clone(), held.holder.clone())
}

async fn tap(engine: &Engine, card: CardId, holder: &Credential) -> String {
    let cards = engine.cards();
    let shown = cards.virtual_details(holder, card).await.unwrap();
    VirtualTap::new(&shown.number, &shown.code)
        .unwrap()
        .to_string()
}

async fn a_virtual_card_is_of_its_program(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let bakery = merchant(&engine, "Bakery", Some("5462")).await;
    let terms = CardProgramTerms {
        limits: CardLimits {
            per_tap: Some(600 * SAT),
            ..CardLimits::default()
        },
        categories: vec!["5462".parse().unwrap()],
        pin: PinRules {
            above: Some(500 * SAT),
            ..PinRules::default()
        },
        valid_for_ms: Some(86_400_000),
        ..CardProgramTerms::default()
    };
    let of = program(&engine, "virtual", terms).await;
    let (card, holder) = virtual_card(&engine, of, Some(NOON + 2 * 86_400_000)).await;
    let until_ms = card.expires_at_ms.unwrap();
    assert!(until_ms <= NOON + 86_400_000 + 60_000, "{until_ms}");
    assert_eq!((card.program, card.unit), (Some(of), Asset::Btc));
    let long = CardProgramTerms {
        valid_for_ms: Some(30 * 86_400_000),
        ..CardProgramTerms::default()
    };
    let long = program(&engine, "long", long).await;
    let (short, _) = virtual_card(&engine, long, Some(NOON + 86_400_000)).await;
    assert_eq!(short.expires_at_ms, Some(NOON + 86_400_000), "the sooner");
    shop::fund(&*scene.store, 1, card.id, 5_000 * SAT).await;
    let charge = async |name: &str, till, sats| {
        charge(&engine, &scene, card.id, &holder, name, till, sats).await
    };
    let refused = Err("card.category_not_allowed");
    assert_eq!(
        charge("elsewhere", &scene.merchant.till, 100).await,
        refused
    );
    let refused = Err("card.pin_not_set");
    assert_eq!(charge("PIN", &bakery.till, 501).await, refused);
    assert_eq!(charge("right", &bakery.till, 500).await, Ok(500 * SAT));
    scene.stop("virtual").await;
}

/// Charges a virtual card with its next code.
async fn charge(
    engine: &Engine,
    scene: &Scene,
    card: CardId,
    holder: &Credential,
    name: &str,
    till: &Credential,
    sats: i64,
) -> Result<i64, &'static str> {
    scene.clock.advance(Duration::from_secs(60));
    let command = ChargeCard {
        key: key(name),
        tap: tap(engine, card, holder).await,
        price: sat(sats),
        reference: String::new(),
        pin: None,
    };
    let charged: Told<_> = told(engine.cards().charge(till, command).await);
    charged.map(|charge| charge.amount_msat)
}

/// Its limits are the program's from the first day on, and it pays at the program's merchants alone.
async fn a_virtual_card_has_its_programs_limits_and_merchants(is_sqlite: bool) {
    let scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let bakery = merchant(&engine, "Bakery", None).await;
    let terms = CardProgramTerms {
        limits: CardLimits {
            per_tap: Some(600 * SAT),
            per_day: Some(1_000 * SAT),
            ..CardLimits::default()
        },
        merchants: vec![bakery.id],
        ..CardProgramTerms::default()
    };
    let of = program(&engine, "limits", terms).await;
    let (card, holder) = virtual_card(&engine, of, None).await;
    shop::fund(&*scene.store, 1, card.id, 5_000 * SAT).await;
    for (name, till, sats, expected) in [
        (
            "elsewhere",
            &scene.merchant.till,
            100,
            Err("card.merchant_not_allowed"),
        ),
        ("much", &bakery.till, 601, Err("card.limit_exceeded")),
        ("right", &bakery.till, 600, Ok(600 * SAT)),
        ("day", &bakery.till, 401, Err("card.limit_exceeded")),
        ("rest", &bakery.till, 400, Ok(400 * SAT)),
    ] {
        let told = charge(&engine, &scene, card.id, &holder, name, till, sats).await;
        assert_eq!(told, expected, "{name}");
    }
    scene.stop("limits").await;
}

/// A balance in a currency goes by the program's unit here as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virtual_card_in_a_currency_pays_in_it() {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let shop = shop::simulated(store).await;
    let engine = &shop.engine;
    let merchant = shop::merchant(engine, "Cookshop").await;
    let unit = Asset::Fiat(Currency::from_code("JMD").unwrap());
    let terms = CardProgramTerms {
        unit,
        ..CardProgramTerms::default()
    };
    let of = program(engine, "dollars", terms).await;
    let command = SetPositionCap {
        key: key("cap"),
        currency: Currency::from_code("JMD").unwrap(),
        max_open: 1_000_000,
    };
    let exchange = engine.exchange();
    exchange
        .set_position_cap(&engine.issuer(), command)
        .await
        .unwrap();
    let (card, holder) = virtual_card(engine, of, None).await;
    assert_eq!(card.unit, unit);
    let command = TopUpCard {
        key: key("top-up"),
        card: card.id,
        price: jmd(100_000),
    };
    let cards = engine.cards();
    let invoice = cards.top_up(&holder, command).await.unwrap();
    shop.customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(engine, &invoice).await;
    let price: Price = jmd(40_000);
    let command = ChargeCard {
        key: key("charge"),
        tap: tap(engine, card.id, &holder).await,
        price,
        reference: String::new(),
        pin: None,
    };
    cards.charge(&merchant.till, command).await.unwrap();
    let left = cards.get(&holder, card.id).await.unwrap();
    assert_eq!(left.money.as_ref().unwrap().balance, 60_000);
    crate::support::books::expect_sound(engine, "a currency").await;
    engine.stop().await.unwrap();
}
