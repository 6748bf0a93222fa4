//! What a program says holds for its cards, at once and in the commit.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flashkit::Engine;
use flashkit::cards::{
    ActivateCard, AddFamilyCard, CardLimits, CardProgram, CardProgramTerms, ChargeAmount,
    ChargeCard, CreateCardProgram, IssueCard, PinRules, SetCardLimits, SetCardPin,
    UpdateCardProgram,
};
use flashkit::ids::CardProgramId;
use flashkit::money::{Asset, Currency};
use flashkit::rates::{FixedRates, RateError, RateObservation, RateSource};
use flashkit::settlement::{CreateMerchant, PairTill, PayoutTerms};
use flashkit::testkit::virtual_card::VirtualCard;

use crate::support::key;
use crate::support::scene::{NOON, Scene, Told, digits, on_both_stores, told};
use crate::support::shop::{self, HeldCard, Merchant, SAT, jmd, sat};

const UID: &str = "04112233445566";

on_both_stores! {
    a_card_pays_only_where_its_program_says;
    what_a_program_forbids_meanwhile_is_decided_again;
    a_program_has_its_own_times;
    a_program_has_its_own_pin_rules;
    nothing_goes_on_a_card_above_its_programs_maximum;
    a_program_has_its_own_points_and_limits;
    programs_are_the_issuers_and_stay_in_their_bounds;
}

pub async fn program(engine: &Engine, name: &str, terms: CardProgramTerms) -> CardProgramId {
    let (key, name) = (key(name), name.to_owned());
    let command = CreateCardProgram { key, name, terms };
    let programs = engine.cards().programs();
    programs.create(&engine.issuer(), command).await.unwrap().id
}

async fn update(scene: &Scene, name: &str, of: &HeldCard, terms: CardProgramTerms) {
    let (cards, issuer) = (scene.engine().cards(), scene.engine().issuer());
    let events = scene.store.events(0, 1_000).await.unwrap();
    let issued = events
        .iter()
        .find(|event| event.object == of.id.to_string());
    let program = issued.unwrap().body["program"].as_str().unwrap();
    let command = UpdateCardProgram {
        key: key(name),
        program: program.parse().unwrap(),
        name: name.to_owned(),
        terms,
    };
    cards.programs().update(&issuer, command).await.unwrap();
}

pub async fn issue(engine: &Engine, uid: &str, limits: CardLimits, of: CardProgramId) -> HeldCard {
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let command = IssueCard {
        key: key(&format!("issue/{uid}")),
        uid: uid.to_owned(),
        existing_chip: None,
        limits,
        program: Some(of),
    };
    let card = cards.issue(&issuer, command).await.unwrap();
    assert_eq!(card.program, Some(of));
    let keys = cards.programming_keys(&issuer, uid).await.unwrap();
    let command = ActivateCard {
        key: key(&format!("activate/{uid}")),
        card: card.id,
    };
    let holder = cards.activate(&issuer, command).await.unwrap();
    HeldCard {
        id: card.id,
        holder: holder.holder.clone(),
        chip: VirtualCard::program(uid, &keys).unwrap(),
    }
}

/// A shop whose card, with 50,000 sats, is of a program.
async fn scene(is_sqlite: bool, terms: CardProgramTerms) -> Scene {
    let mut scene = Scene::new(is_sqlite, CardLimits::default()).await;
    let of = program(scene.engine(), "program", terms).await;
    scene.card = issue(scene.engine(), UID, CardLimits::default(), of).await;
    let Scene { shop, card, .. } = &scene;
    shop::top_up(
        &shop.engine,
        &shop.customer,
        card,
        "program/top-up",
        sat(50_000),
    )
    .await;
    scene
}

pub async fn merchant(engine: &Engine, name: &str, category: Option<&str>) -> Merchant {
    let issuer = engine.issuer();
    let command = CreateMerchant {
        key: key(name),
        name: name.to_owned(),
        terms: PayoutTerms::default(),
        category: category.map(|text| text.parse().unwrap()),
    };
    let settlement = engine.settlement();
    let id = settlement.create(&issuer, command).await.unwrap().id;
    let command = PairTill {
        key: key(name),
        merchant: id,
        label: "1".to_owned(),
    };
    let till = settlement.pair_till(&issuer, command).await.unwrap();
    let till = till.credential.clone();
    Merchant { id, till }
}

async fn a_card_pays_only_where_its_program_says(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardProgramTerms::default()).await;
    scene.charge("first", 1_000).await.unwrap();

    let food = CardProgramTerms {
        categories: vec!["5812".parse().unwrap(), "5814".parse().unwrap()],
        ..CardProgramTerms::default()
    };
    update(&scene, "food", &scene.card, food.clone()).await;
    let tap = scene.card.chip.tap();
    let refused = Err("card.category_not_allowed");
    assert_eq!(scene.charge_tap("c1", &tap, 1_000, None).await, refused);
    assert_eq!(scene.authorize_tap("a1", &tap, 1_000, None).await, refused);
    let [cookshop, bookshop] = [("Patties", "5814"), ("Books", "5942")];
    let engine = scene.engine().clone();
    let cookshop = merchant(&engine, cookshop.0, Some(cookshop.1)).await;
    let bookshop = merchant(&engine, bookshop.0, Some(bookshop.1)).await;
    let own = std::mem::replace(&mut scene.merchant, bookshop);
    assert_eq!(scene.charge_tap("c2", &tap, 1_000, None).await, refused);
    let bookshop = std::mem::replace(&mut scene.merchant, cookshop);
    // The tap was not used up.
    scene.charge_tap("c3", &tap, 1_000, None).await.unwrap();

    let both = CardProgramTerms {
        merchants: vec![bookshop.id, own.id],
        ..food
    };
    update(&scene, "both", &scene.card, both.clone()).await;
    let tap = scene.card.chip.tap();
    let refused = Err("card.merchant_not_allowed");
    assert_eq!(scene.charge_tap("c4", &tap, 1_000, None).await, refused);
    assert_eq!(scene.authorize_tap("a2", &tap, 1_000, None).await, refused);
    scene.merchant = bookshop;
    let refused = Err("card.category_not_allowed");
    assert_eq!(scene.charge_tap("c5", &tap, 1_000, None).await, refused);
    let merchants_alone = CardProgramTerms {
        categories: Vec::new(),
        ..both
    };
    update(&scene, "merchants", &scene.card, merchants_alone).await;
    scene.authorize_tap("a3", &tap, 1_000, None).await.unwrap();
    assert_eq!(scene.balance().await, 47_000);
    scene.stop("where it pays").await;
}

/// Rates that are told when the test says so.
struct HeldRates {
    table: FixedRates,
    asked: tokio::sync::Semaphore,
    told: tokio::sync::Semaphore,
}

#[async_trait]
impl RateSource for HeldRates {
    async fn rate(&self, currency: Currency) -> Result<RateObservation, RateError> {
        self.asked.add_permits(1);
        self.told.acquire().await.unwrap().forget();
        self.table.rate(currency).await
    }
}

async fn what_a_program_forbids_meanwhile_is_decided_again(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardProgramTerms::default()).await;
    let rates = Arc::new(HeldRates {
        table: FixedRates::new(),
        asked: tokio::sync::Semaphore::new(0),
        told: tokio::sync::Semaphore::new(0),
    });
    let dollars = Currency::from_code("JMD").unwrap();
    let rate = "15000000.00".parse().unwrap();
    rates.table.set(dollars, rate, "test", NOON);
    let builder = Engine::builder(scene.store.clone(), shop::master()).network("regtest");
    let builder = builder.clock(scene.clock.clone()).rates(rates.clone());
    let engine = builder.open().await.unwrap();
    let command = ChargeCard {
        key: key("sale"),
        tap: scene.card.chip.tap(),
        price: jmd(150),
        reference: String::new(),
        pin: None,
    };
    let (cards, till) = (engine.cards(), scene.merchant.till.clone());
    let charging = tokio::spawn(async move { told(cards.charge(&till, command).await) });
    rates.asked.acquire().await.unwrap().forget();
    // The charge was found good, and waits for its rate.
    let nowhere = CardProgramTerms {
        categories: vec!["0742".parse().unwrap()],
        ..CardProgramTerms::default()
    };
    update(&scene, "nowhere", &scene.card, nowhere).await;
    rates.told.add_permits(2);
    let charged = charging.await.unwrap();
    assert_eq!(charged, Err("card.category_not_allowed"));
    assert_eq!(scene.balance().await, 50_000);
    scene.stop("in between").await;
}

async fn a_program_has_its_own_times(is_sqlite: bool) {
    let terms = CardProgramTerms {
        tap_valid_ms: Some(10_000),
        authorization_ms: Some(60_000),
        ..CardProgramTerms::default()
    };
    let mut scene = scene(is_sqlite, terms).await;
    let cards = scene.engine().cards();
    let (young, old) = (scene.card.chip.tap(), scene.card.chip.tap());
    cards.peek(&young).await.unwrap();
    scene.clock.advance(Duration::from_millis(9_999));
    let tab = scene.authorize_tap("young", &young, 1, None).await.unwrap();
    assert_eq!(tab.expires_at_ms, Some(NOON + 9_999 + 60_000));
    cards.peek(&old).await.unwrap();
    scene.clock.advance(Duration::from_secs(10));
    let stale = Err("card.tap_stale");
    assert_eq!(scene.charge_tap("old", &old, 1, None).await, stale);
    assert_eq!(
        told(cards.peek(&old).await).map(drop),
        Err("card.tap_stale")
    );
    scene.stop("times").await;
}

async fn a_program_has_its_own_pin_rules(is_sqlite: bool) {
    let terms = CardProgramTerms {
        pin: PinRules {
            above: Some(1_000 * SAT),
            max_wrong: 1,
        },
        ..CardProgramTerms::default()
    };
    let mut scene = scene(is_sqlite, terms.clone()).await;
    let (cards, holder) = (scene.engine().cards(), scene.card.holder.clone());
    let command = SetCardPin {
        key: key("pin"),
        card: scene.card.id,
        pin: digits("1234"),
    };
    let status = cards.set_pin(&holder, command).await.unwrap();
    assert_eq!(status.attempts_left, 1);
    // Whoever holds it can ask for it sooner, not later.
    for (above, sats, refused) in [
        (None, 1_001, true),
        (Some(2_000), 1_001, true),
        (Some(500), 501, true),
        (None, 1_000, false),
    ] {
        let command = SetCardLimits {
            key: key(&format!("limits/{above:?}/{sats}")),
            card: scene.card.id,
            limits: CardLimits {
                pin_above: above.map(|above| above * SAT),
                ..CardLimits::default()
            },
        };
        cards.set_limits(&holder, command).await.unwrap();
        let charged = scene.charge(&format!("{above:?}/{sats}"), sats).await;
        match refused {
            true => assert_eq!(charged, Err("card.pin_required")),
            false => drop(charged.unwrap()),
        }
    }
    let tap = scene.card.chip.tap();
    let wrong = scene.charge_tap("wrong", &tap, 2_000, Some("9999")).await;
    assert_eq!(wrong, Err("card.wrong_pin"));
    let locked = scene.charge_tap("right", &tap, 2_000, Some("1234")).await;
    assert_eq!(locked, Err("card.pin_locked"), "one wrong one is all");
    let patient = CardProgramTerms {
        pin: PinRules {
            max_wrong: 5,
            ..terms.pin
        },
        ..terms
    };
    update(&scene, "patient", &scene.card, patient).await;
    let status = cards.pin_status(&holder, scene.card.id).await.unwrap();
    assert_eq!((status.is_locked, status.attempts_left), (false, 4));
    scene
        .charge_tap("now", &tap, 2_000, Some("1234"))
        .await
        .unwrap();
    scene.stop("PIN rules").await;
}

async fn nothing_goes_on_a_card_above_its_programs_maximum(is_sqlite: bool) {
    let scene = scene(is_sqlite, CardProgramTerms::default()).await;
    let lower = CardProgramTerms {
        max_balance_minor_units: Some(60_000 * SAT),
        ..CardProgramTerms::default()
    };
    update(&scene, "lower", &scene.card, lower).await;
    let (cards, holder) = (scene.engine().cards(), &scene.card.holder);
    // Its holder's own limits do not help.
    let command = SetCardLimits {
        key: key("much"),
        card: scene.card.id,
        limits: CardLimits {
            max_balance: Some(1_000_000 * SAT),
            ..CardLimits::default()
        },
    };
    cards.set_limits(holder, command).await.unwrap();
    for (name, sats, fits) in [("above", 10_001, false), ("just", 10_000, true)] {
        let command = flashkit::cards::TopUpCard {
            key: key(name),
            card: scene.card.id,
            price: sat(sats),
        };
        let invoice = cards.top_up(holder, command).await.unwrap();
        let paid = scene.shop.customer.pay(&invoice.bolt11).await;
        assert_eq!(paid.is_ok(), fits, "{name}");
        if fits {
            shop::settled(scene.engine(), &invoice).await;
        }
    }
    assert_eq!(scene.balance().await, 60_000);
    scene.stop("maximum").await;
}

async fn a_program_has_its_own_points_and_limits(is_sqlite: bool) {
    let mut scene = scene(is_sqlite, CardProgramTerms::default()).await;
    let engine = scene.engine().clone();
    let sponsor = merchant(&engine, "Sponsor", None).await;
    let shared = shop::program(&engine, sponsor.id).await;
    let with_shared = CardProgramTerms {
        reward_program: Some(shared),
        limits: CardLimits {
            per_tap: Some(2_000 * SAT),
            ..CardLimits::default()
        },
        ..CardProgramTerms::default()
    };
    update(&scene, "shared", &scene.card, with_shared).await;
    // A merchant that gives none gives none of others.
    let none = scene.charge("none", 3_000).await.unwrap();
    assert_eq!((none.program, none.points), (None, 0));
    let own = shop::program(&engine, scene.merchant.id).await;
    let charged = scene.charge("points", 3_000).await.unwrap();
    assert_eq!((charged.program, charged.points), (Some(shared), 60));
    let tab = scene.authorize("tab", 3_000).await.unwrap();
    let command = flashkit::cards::CaptureCharge {
        key: key("tab"),
        charge: tab.id,
        amount: ChargeAmount::Bitcoin {
            amount_msat: 3_000 * SAT,
        },
    };
    let captured = engine.cards().capture(&scene.merchant.till, command).await;
    assert_eq!(captured.unwrap().program, Some(shared));
    let rewards = engine.rewards();
    for (program, points) in [(shared, 120), (own, 0)] {
        let found = rewards
            .points(&engine.issuer(), scene.card.id, program)
            .await;
        assert_eq!(found.unwrap().points, points);
    }
    // Points are paid for where they were earned: 2 % of two sales.
    assert_eq!(scene.payable().await, 9_000 - 120);

    // The limits are those of cards that are issued from now on; what one gets of its own, be it the
    // time zone alone, takes none of the others away.
    let of = engine
        .cards()
        .programs()
        .list(&engine.issuer(), None, 1)
        .await
        .unwrap()[0]
        .id;
    let own = CardLimits {
        per_day: Some(1),
        time_zone: "America/Jamaica".to_owned(),
        ..CardLimits::default()
    };
    let card = issue(&engine, "04000000000001", own.clone(), of).await;
    let other = issue(&engine, "04000000000002", CardLimits::default(), of).await;
    let cards = engine.cards();
    let both = CardLimits {
        per_tap: Some(2_000 * SAT),
        ..own
    };
    assert_eq!(cards.get(&card.holder, card.id).await.unwrap().limits, both);
    let limits = cards
        .get(&other.holder, other.id)
        .await
        .unwrap()
        .limits
        .clone();
    assert_eq!(limits.per_tap, Some(2_000 * SAT));
    // And so of one that comes to a card of the program as family.
    let (issuer, uid) = (engine.issuer(), "04000000000003");
    let command = IssueCard {
        key: key("child"),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: Some(of),
    };
    let child = cards.issue(&issuer, command).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, uid).await.unwrap();
    let command = AddFamilyCard {
        key: key("family"),
        main: other.id,
        tap: VirtualCard::program(uid, &keys).unwrap().tap(),
        limits: CardLimits::default(),
    };
    cards.add_to_family(&other.holder, command).await.unwrap();
    let limits = cards.get(&issuer, child).await.unwrap().limits.clone();
    assert_eq!(limits.per_tap, Some(2_000 * SAT));
    scene.stop("points").await;
}

async fn programs_are_the_issuers_and_stay_in_their_bounds(is_sqlite: bool) {
    let scene = scene(is_sqlite, CardProgramTerms::default()).await;
    let (cards, issuer) = (scene.engine().cards(), scene.engine().issuer());
    let programs = cards.programs();
    let first = programs.list(&issuer, None, 10).await.unwrap()[0].clone();
    let create = |name: &str, terms: CardProgramTerms| CreateCardProgram {
        key: key(&format!("bounds/{name}")),
        name: name.to_owned(),
        terms,
    };
    let change = |name: &str, terms: CardProgramTerms| UpdateCardProgram {
        key: key(&format!("bounds/{name}")),
        program: first.id,
        name: name.to_owned(),
        terms,
    };
    let own = CardProgramTerms::default;
    for other in [&scene.merchant.till, &scene.card.holder] {
        let refused = Err("access.not_allowed");
        let made: Told<CardProgram> = told(programs.create(other, create("x", own())).await);
        assert_eq!(made, refused);
        assert_eq!(
            told(programs.update(other, change("x", own())).await),
            refused
        );
        assert_eq!(told(programs.get(other, first.id).await), refused);
        let listed = told(programs.list(other, None, 1).await).map(drop);
        assert_eq!(listed, Err("access.not_allowed"));
    }
    let dollars = Asset::Fiat(Currency::from_code("JMD").unwrap());
    let in_dollars = CardProgramTerms {
        unit: dollars,
        ..own()
    };
    let refused = told(
        programs
            .update(&issuer, change("unit", in_dollars.clone()))
            .await,
    );
    assert_eq!(refused, Err("card.program_unit_fixed"));
    let points = shop::program(scene.engine(), scene.merchant.id).await;
    for (name, terms) in [
        (
            "points",
            CardProgramTerms {
                unit: Asset::Points(points),
                ..own()
            },
        ),
        (
            "tap",
            CardProgramTerms {
                tap_valid_ms: Some(999),
                ..own()
            },
        ),
        (
            "valid",
            CardProgramTerms {
                valid_for_ms: Some(0),
                ..own()
            },
        ),
        (
            "offline",
            CardProgramTerms {
                offline_window_ms: Some(-1),
                ..own()
            },
        ),
        (
            "tab",
            CardProgramTerms {
                authorization_ms: Some(i64::MAX),
                ..own()
            },
        ),
        (
            "most",
            CardProgramTerms {
                max_balance_minor_units: Some(0),
                ..own()
            },
        ),
        (
            "wrong",
            CardProgramTerms {
                pin: PinRules {
                    max_wrong: 0,
                    ..PinRules::default()
                },
                ..own()
            },
        ),
        (
            "above",
            CardProgramTerms {
                pin: PinRules {
                    above: Some(-1),
                    ..PinRules::default()
                },
                ..own()
            },
        ),
        (
            "many",
            CardProgramTerms {
                merchants: vec![scene.merchant.id; 1_001],
                ..own()
            },
        ),
    ] {
        let out = Err("command.out_of_bounds");
        assert_eq!(
            told(programs.create(&issuer, create(name, terms.clone())).await),
            out,
            "{name}"
        );
        assert_eq!(
            told(programs.update(&issuer, change(name, terms)).await),
            out,
            "{name}"
        );
    }
    for name in ["b", "c"] {
        // Ids sort by their time.
        scene.clock.advance(Duration::from_millis(1));
        let made = programs
            .create(&issuer, create(name, in_dollars.clone()))
            .await
            .unwrap();
        let again = programs
            .create(&issuer, create(name, in_dollars.clone()))
            .await
            .unwrap();
        assert_eq!(made, again);
        assert_eq!(
            made.value,
            programs.get(&issuer, made.id).await.unwrap().value
        );
    }
    let page = programs.list(&issuer, Some(first.id), 1).await.unwrap();
    assert_eq!((page.len(), page[0].name.as_str()), (1, "b"));
    let rest = programs.list(&issuer, Some(page[0].id), 10).await.unwrap();
    assert_eq!((rest.len(), rest[0].terms.unit), (1, dollars));
    let missing = IssueCard {
        key: key("missing"),
        uid: "04000000000003".to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: Some(CardProgramId::from_parts(1, [1; 10])),
    };
    let refused = told(cards.issue(&issuer, missing).await).map(drop);
    assert_eq!(refused, Err("card.program_not_found"));
    scene.stop("bounds").await;
}
