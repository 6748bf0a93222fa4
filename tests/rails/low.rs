//! A low balance is told once each time it falls, whatever took it there.

use flashkit::cards::{
    AddFamilyCard, AuthorizeCard, AutoTopUp, CaptureCharge, CardLimits, CardPaymentState,
    ChargeAmount, ChargeCard, IssueCard, LossBearer, LowBalance, OfflineBook, OfflineKey,
    OfflineTerms, SetAutoTopUp, SetCardLimits, SetOfflineTerms, StoppedCard, TopUpSource,
    WithdrawFromCard,
};
use flashkit::ledger::TransferKind;
use flashkit::money::Asset;
use flashkit::ports::{Clock, SystemClock};
use flashkit::testkit::virtual_card::VirtualCard;

use crate::lnurl::withdraw;
use crate::set::{ON_CARD, Set};
use crate::support::shop::{self, SAT, sat};
use crate::support::{key, until};

const THRESHOLD: i64 = 10_000;

async fn lows(set: &Set) -> Vec<LowBalance> {
    let events = set.store.events(0, 1_000).await.unwrap();
    let low = events
        .into_iter()
        .filter(|event| event.kind == "card.low_balance");
    low.map(|event| serde_json::from_value(event.body).unwrap())
        .collect()
}

/// Waits until so many were told, and sees that it stays at that.
async fn told(set: &Set, count: usize) -> Option<LowBalance> {
    until("it was told", || async {
        set.engine.run_due_jobs().await.unwrap();
        lows(set).await.len() >= count
    })
    .await;
    for _ in 0..2 {
        set.engine.run_due_jobs().await.unwrap();
    }
    let mut lows = lows(set).await;
    assert_eq!(lows.len(), count, "{lows:?}");
    lows.pop()
}

/// Fills the card up to what it had at first.
async fn refill(set: &Set, name: &str) {
    let missing = ON_CARD - set.balance().await / SAT;
    shop::top_up(&set.engine, &set.customer, &set.card, name, sat(missing)).await;
    assert_eq!(set.balance().await, ON_CARD * SAT);
}

fn sale(name: &str, tap: String, sats: i64) -> ChargeCard {
    ChargeCard {
        key: key(name),
        tap,
        price: sat(sats),
        reference: name.to_owned(),
        pin: None,
    }
}

async fn offline(set: &mut Set, sats: i64) {
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let terms = OfflineTerms {
        per_tap_msat: ON_CARD * SAT,
        per_day_msat: ON_CARD * SAT,
        window_ms: 3_600_000,
        loss: LossBearer::Operator,
        stopped_card: StoppedCard::Loss,
    };
    let command = SetOfflineTerms {
        key: key("terms"),
        merchant: set.merchant.id,
        till: None,
        terms: Some(terms),
    };
    cards.set_offline_terms(&issuer, command).await.unwrap();
    let (secret, till) = (OfflineKey::new([5; 32]).unwrap(), &set.merchant.till);
    let command = secret.enroll(shop::id_of(till), key("enroll")).unwrap();
    let enrolled = cards.enroll_offline_key(till, command).await.unwrap();
    let mut book = OfflineBook::new(&enrolled).unwrap();
    let tap = set.card.chip.tap();
    book.accept(&tap, sats * SAT, "offline", SystemClock.now_ms())
        .unwrap();
    let envelope = book.envelope(&secret).unwrap().unwrap();
    let outcomes = cards.replay_offline(till, envelope).await.unwrap();
    assert_eq!(outcomes[0].paid_msat, sats * SAT);
}

/// Another card that is filled up from this one.
async fn drawn_on(set: &Set) {
    let other = shop::card(&set.engine, "04cccccccccccc", CardLimits::default()).await;
    let command = SetAutoTopUp {
        key: key("rule"),
        card: other.id,
        rule: Some(AutoTopUp {
            unit: Asset::Btc,
            below: SAT,
            to: 45_000 * SAT,
            from: TopUpSource::Card { card: set.card.id },
            times_per_day: 1,
        }),
        source: Some(set.card.holder.clone()),
    };
    let cards = set.engine.cards();
    cards.set_auto_top_up(&other.holder, command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_takes_a_card_below_its_threshold_is_told_once() {
    let limits = CardLimits {
        low_balance: Some(THRESHOLD * SAT),
        ..CardLimits::default()
    };
    let mut set = Set::new(limits).await;
    let (engine, till, holder) = (
        set.engine.clone(),
        set.merchant.till.clone(),
        set.card.holder.clone(),
    );
    let cards = engine.cards();
    let ways = [
        ("charge", TransferKind::Charge, 5_000),
        ("capture", TransferKind::Charge, 5_000),
        ("offline", TransferKind::Charge, 5_000),
        ("own bolt11", TransferKind::Sale, 5_000),
        ("foreign bolt11", TransferKind::CardPayment, 5_000),
        ("lnurl", TransferKind::CardPayment, 5_000),
        ("withdrawal", TransferKind::CardPayment, 5_000),
        ("drawn on", TransferKind::AutoTopUp, 5_000),
    ];
    for (place, (way, kind, left)) in ways.into_iter().enumerate() {
        let (name, tap) = (way.replace(' ', "-"), set.card.chip.tap());
        match way {
            "charge" => drop(cards.charge(&till, sale(&name, tap, 45_000)).await.unwrap()),
            "capture" => {
                let command = AuthorizeCard {
                    key: key(&name),
                    tap,
                    price: sat(45_000),
                    reference: String::new(),
                    pin: None,
                };
                let tab = cards.authorize(&till, command).await.unwrap().id;
                // What is set aside is not gone.
                told(&set, place).await;
                let command = CaptureCharge {
                    key: key(&name),
                    charge: tab,
                    amount: ChargeAmount::Bitcoin {
                        amount_msat: 45_000 * SAT,
                    },
                };
                cards.capture(&till, command).await.unwrap();
            }
            "offline" => offline(&mut set, 45_000).await,
            "own bolt11" => {
                let other = shop::merchant(&engine, "Other").await;
                let bill = shop::sale(&engine, &other, "own", sat(45_000)).await;
                set.pay_tap(&name, &tap, &bill.bolt11).await.unwrap();
            }
            "foreign bolt11" => {
                // One that comes back takes nothing.
                let (bill, other) = (set.bill(45_000).await, set.card.chip.tap());
                let failed = set.pay_tap("fails", &tap, &bill).await.unwrap();
                set.give_back(&bill).await;
                set.until_state(failed.id, CardPaymentState::Failed).await;
                told(&set, place).await;
                let bill = set.bill(45_000).await;
                set.pay_tap(&name, &other, &bill).await.unwrap();
                told(&set, place).await;
                set.take(&bill).await;
            }
            "lnurl" => {
                let bill = set.bill(45_000).await;
                set.ask(&withdraw(&tap, &bill)).await;
                set.take(&bill).await;
            }
            "withdrawal" => {
                let bill = set.bill(45_000).await;
                let command = WithdrawFromCard {
                    key: key(&name),
                    card: set.card.id,
                    bolt11: bill.clone(),
                    amount_msat: None,
                };
                cards.withdraw(&holder, command).await.unwrap();
                set.take(&bill).await;
            }
            "drawn on" => drawn_on(&set).await,
            other => panic!("{other}"),
        }
        let low = told(&set, place + 1).await.unwrap();
        assert_eq!((low.card, low.kind), (set.card.id, kind), "{way}");
        assert_eq!(
            (low.balance, low.threshold),
            (left * SAT, THRESHOLD * SAT),
            "{way}"
        );
        assert_eq!(low.charge.is_some(), kind == TransferKind::Charge, "{way}");
        // Further down it is not told again, and up again neither.
        let further = sale(&format!("more/{name}"), set.card.chip.tap(), 1_000);
        cards.charge(&till, further).await.unwrap();
        told(&set, place + 1).await;
        refill(&set, &format!("refill/{name}")).await;
        told(&set, place + 1).await;
    }
    set.stop("low").await;
}

/// A family has one balance and a threshold each; what went before a threshold was set is not
/// told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_card_of_a_family_has_a_threshold_of_its_own() {
    let mut set = Set::new(CardLimits::default()).await;
    let (engine, till, holder) = (
        set.engine.clone(),
        set.merchant.till.clone(),
        set.card.holder.clone(),
    );
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let uid = "04dddddddddddd";
    let command = IssueCard {
        key: key("child"),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let child = cards.issue(&issuer, command).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, uid).await.unwrap();
    let mut chip = VirtualCard::program(uid, &keys).unwrap();
    let low = |sats: i64| CardLimits {
        low_balance: Some(sats * SAT),
        ..CardLimits::default()
    };
    // Down to 30,000 and up again, before anybody wants to know.
    for (name, sats) in [("before", 20_000), ("before-2", 5_000)] {
        let tap = set.card.chip.tap();
        cards.charge(&till, sale(name, tap, sats)).await.unwrap();
    }
    refill(&set, "up").await;
    let command = AddFamilyCard {
        key: key("add"),
        main: set.card.id,
        tap: chip.tap(),
        limits: low(40_000),
    };
    cards.add_to_family(&holder, command).await.unwrap();
    told(&set, 0).await;
    // The main card's sale takes the child's card below its threshold; it has none itself.
    let tap = set.card.chip.tap();
    cards
        .charge(&till, sale("main", tap, 15_000))
        .await
        .unwrap();
    assert_eq!(told(&set, 1).await.unwrap().card, child);
    let limits = |name: &str, card, limits| SetCardLimits {
        key: key(name),
        card,
        limits,
    };
    let main = limits("main", set.card.id, low(30_000));
    cards.set_limits(&holder, main).await.unwrap();
    let none = limits("none", child, CardLimits::default());
    cards.set_limits(&holder, none).await.unwrap();
    told(&set, 1).await;
    // Nor has the child's card one any more, whose sale takes the main card below its own.
    cards
        .charge(&till, sale("child", chip.tap(), 10_000))
        .await
        .unwrap();
    let of_main = told(&set, 2).await.unwrap();
    assert_eq!((of_main.card, of_main.balance), (set.card.id, 25_000 * SAT));
    let again = limits("again", child, low(40_000));
    cards.set_limits(&holder, again).await.unwrap();
    told(&set, 2).await;
    // One sale that crosses both tells both.
    refill(&set, "again").await;
    cards
        .charge(&till, sale("both", chip.tap(), 45_000))
        .await
        .unwrap();
    told(&set, 4).await;
    let both: Vec<_> = lows(&set).await[2..].iter().map(|low| low.card).collect();
    assert!(both.contains(&child) && both.contains(&set.card.id));
    set.stop("family").await;
}
