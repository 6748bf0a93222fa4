//! What becomes of the money on cards that expired, program by program; and what kind of shop a
//! merchant is when the commit is made.

use std::sync::Arc;
use std::time::Duration;

use flashkit::cards::{
    AddFamilyCard, BreakageRule, CardLimits, CardProgramTerms, CardState, ChargeCard, IssueCard,
    ReplaceCard, ReportLost, SetCardExpiry, UpdateCardProgram,
};
use flashkit::ids::{CardId, CardProgramId};
use flashkit::ledger::Account;
use flashkit::money::Asset;
use flashkit::ports::{Clock, SystemClock};
use flashkit::settlement::SetMerchantCategory;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Engine, Settings};

use crate::rules::{issue, merchant, program};
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::key;
use crate::support::scene::{NOON, told};
use crate::support::shop::{self, SAT, sat};

const DAY_MS: i64 = 86_400_000;

async fn available(store: &dyn Store, account: Account) -> i64 {
    let balance = store.balance(&account).await.unwrap();
    i64::try_from(balance.available(account.kind().side())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_says_when_money_breaks() {
    let clock = Arc::new(ManualClock::at(NOON));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let settings = Settings {
        breakage_after_ms: Some(10 * DAY_MS),
        ..Settings::default()
    };
    let builder = Engine::builder(store.clone(), shop::master()).settings(settings);
    let engine = builder
        .network("regtest")
        .clock(clock.clone())
        .open()
        .await
        .unwrap();
    let issuer = engine.issuer();
    let mut cards = Vec::new();
    // The day after which the money of each is the operator's.
    for (number, breakage, day) in [
        (1, BreakageRule::BySettings, Some(10)),
        (2, BreakageRule::Never, None),
        (
            3,
            BreakageRule::After {
                wait_ms: 5 * DAY_MS,
            },
            Some(5),
        ),
        (
            4,
            BreakageRule::After {
                wait_ms: 20 * DAY_MS,
            },
            Some(20),
        ),
    ] {
        let terms = CardProgramTerms {
            breakage,
            ..CardProgramTerms::default()
        };
        let of = program(&engine, &format!("p{number}"), terms).await;
        let uid = format!("0411223344{number:04}");
        let card = issue(&engine, &uid, CardLimits::default(), of).await;
        crate::support::shop::fund(&*store, number, card.id, 1_000 * SAT).await;
        let command = SetCardExpiry {
            key: key(&format!("e{number}")),
            card: card.id,
            expires_at_ms: Some(clock.now_ms() + 60_000),
        };
        engine.cards().set_expiry(&issuer, command).await.unwrap();
        cards.push((card.id, day));
    }
    clock.advance(Duration::from_secs(60));
    engine.run_due_jobs().await.unwrap();
    for day in 1..=25 {
        clock.advance(Duration::from_millis(DAY_MS.unsigned_abs()));
        let run = engine.run_due_jobs().await.unwrap();
        assert!(run.failed.is_empty(), "{:?}", run.failed);
        let mut broken = 0;
        for (card, when) in &cards {
            let is_over = when.is_some_and(|when| day >= when);
            let left = available(&*store, Account::card_balance(*card)).await;
            assert_eq!(left, if is_over { 0 } else { 1_000 * SAT }, "day {day}");
            let state = engine.cards().get(&issuer, *card).await.unwrap().state;
            let expected = if is_over {
                CardState::Retired
            } else {
                CardState::Expired
            };
            assert_eq!(state, expected);
            broken += i64::from(is_over) * 1_000 * SAT;
        }
        assert_eq!(
            available(&*store, Account::breakage(Asset::Btc)).await,
            broken
        );
    }
    for wait_ms in [0, DAY_MS - 1, i64::MAX] {
        let terms = CardProgramTerms {
            breakage: BreakageRule::After { wait_ms },
            ..CardProgramTerms::default()
        };
        let command = flashkit::cards::CreateCardProgram {
            key: key("bad"),
            name: "bad".to_owned(),
            terms,
        };
        let refused = engine.cards().programs().create(&issuer, command).await;
        assert_eq!(told(refused).map(drop), Err("command.out_of_bounds"));
    }
}

async fn at_noon() -> (Engine, Arc<dyn Store>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(NOON));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let engine = builder.clock(clock.clone()).open().await.unwrap();
    (engine, store, clock)
}

async fn expires(engine: &Engine, name: &str, card: CardId, at_ms: i64) {
    let command = SetCardExpiry {
        key: key(name),
        card,
        expires_at_ms: Some(at_ms),
    };
    let cards = engine.cards();
    cards.set_expiry(&engine.issuer(), command).await.unwrap();
}

/// Runs the jobs of so many days, day by day, and answers on which of them the card's money broke.
async fn broke_on(
    (engine, store, clock): &(Engine, Arc<dyn Store>, Arc<ManualClock>),
    card: CardId,
    days: std::ops::RangeInclusive<i64>,
) -> Option<i64> {
    for day in days {
        clock.advance(Duration::from_millis(DAY_MS.unsigned_abs()));
        let run = engine.run_due_jobs().await.unwrap();
        assert!(run.failed.is_empty(), "{:?}", run.failed);
        if available(&**store, Account::card_balance(card)).await == 0 {
            return Some(day);
        }
    }
    None
}

fn broken_after(days: i64) -> CardProgramTerms {
    CardProgramTerms {
        breakage: BreakageRule::After {
            wait_ms: days * DAY_MS,
        },
        ..CardProgramTerms::default()
    }
}

/// The chips of two cards that nobody has been handed.
async fn blank(engine: &Engine, program: CardProgramId) -> Vec<VirtualCard> {
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let mut chips = Vec::new();
    for uid in ["04112233440002", "04112233440003"] {
        let command = IssueCard {
            key: key(uid),
            uid: uid.to_owned(),
            existing_chip: None,
            limits: CardLimits::default(),
            program: Some(program),
        };
        cards.issue(&issuer, command).await.unwrap();
        let keys = cards.programming_keys(&issuer, uid).await.unwrap();
        chips.push(VirtualCard::program(uid, &keys).unwrap());
    }
    chips
}

/// Others spend the balance of a card that expired: its money waits until none of them can, and no
/// longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_money_of_a_family_breaks_once_none_of_it_can_spend() {
    for child_ends in [1, 50] {
        let world = at_noon().await;
        let (engine, store, clock) = &world;
        let of = program(engine, "family", broken_after(30)).await;
        let main = issue(engine, "04112233440001", CardLimits::default(), of).await;
        shop::fund(&**store, 1, main.id, 1_000 * SAT).await;
        let cards = engine.cards();
        let mut chips = blank(engine, of).await;
        let command = AddFamilyCard {
            key: key("child"),
            main: main.id,
            tap: chips[0].tap(),
            limits: CardLimits::default(),
        };
        let child = cards.add_to_family(&main.holder, command).await.unwrap();
        let child = child.card.id;
        expires(engine, "main", main.id, NOON + DAY_MS).await;
        expires(engine, "child", child, NOON + child_ends * DAY_MS).await;
        // Thirty days after the first, or when the last one ended, which is seen on the day after.
        let broke = broke_on(&world, main.id, 1..=60).await.unwrap();
        let expected = if child_ends == 1 { 31..=31 } else { 50..=51 };
        assert!(expected.contains(&broke), "{broke}");
        let breakage = available(&**store, Account::breakage(Asset::Btc)).await;
        assert_eq!(breakage, 1_000 * SAT);
        // Nothing comes to a card in the child's place any more: it would be the operator's.
        let command = ReplaceCard {
            key: key("replace"),
            card: child,
            tap: chips[1].tap(),
        };
        let refused = cards.replace(&main.holder, command).await;
        assert_eq!(told(refused).map(drop), Err("card.not_active"));
        assert!(clock.now_ms() > NOON);
    }
}

/// The money is about to break since none of the family can spend it, and before the commit a lost
/// card of it is replaced: the new one can, and the money stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_card_that_is_replaced_meanwhile_keeps_the_money() {
    let clock = Arc::new(ManualClock::at(NOON));
    let memory = Arc::new(MemoryStore::new(clock.clone()));
    let pause = Arc::new(Pause::default());
    let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let engine = builder.clock(clock.clone()).open().await.unwrap();
    let of = program(&engine, "family", broken_after(30)).await;
    let main = issue(&engine, "04112233440001", CardLimits::default(), of).await;
    shop::fund(&*store, 1, main.id, 1_000 * SAT).await;
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let mut chips = blank(&engine, of).await;
    let command = AddFamilyCard {
        key: key("child"),
        main: main.id,
        tap: chips[0].tap(),
        limits: CardLimits::default(),
    };
    let child = cards.add_to_family(&main.holder, command).await.unwrap();
    let command = ReportLost {
        key: key("lost"),
        card: child.card.id,
    };
    cards.report_lost(&issuer, command).await.unwrap();
    expires(&engine, "main", main.id, NOON + DAY_MS).await;
    let day = Duration::from_millis(DAY_MS.unsigned_abs());
    clock.advance(day);
    engine.run_due_jobs().await.unwrap();
    clock.advance(day * 31);
    pause.arm("card.breakage");
    let jobs = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.run_due_jobs().await.unwrap() })
    };
    pause.reached().await;
    let command = ReplaceCard {
        key: key("replace"),
        card: child.card.id,
        tap: chips[1].tap(),
    };
    let new = cards.replace(&main.holder, command).await.unwrap();
    pause.release();
    assert!(jobs.await.unwrap().failed.is_empty());
    let left = available(&*store, Account::card_balance(main.id)).await;
    assert_eq!(left, 1_000 * SAT);
    let found = cards.get(&issuer, main.id).await.unwrap();
    assert_eq!(found.state, CardState::Expired);
    let found = cards.get(&issuer, new.card.id).await.unwrap();
    assert_eq!(found.state, CardState::Active);
}

/// A rule that changes after cards have expired holds for them, within thirty days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_comes_after_the_cards_have_expired_holds_for_them() {
    let never = CardProgramTerms {
        breakage: BreakageRule::Never,
        ..CardProgramTerms::default()
    };
    for before in [
        never.clone(),
        CardProgramTerms::default(),
        broken_after(900),
    ] {
        let world = at_noon().await;
        let (engine, store, _) = &world;
        let of = program(engine, "late", before).await;
        let card = issue(engine, "04112233440001", CardLimits::default(), of).await;
        shop::fund(&**store, 1, card.id, 1_000 * SAT).await;
        expires(engine, "expires", card.id, NOON + DAY_MS).await;
        assert_eq!(broke_on(&world, card.id, 1..=70).await, None);
        let command = UpdateCardProgram {
            key: key("rule"),
            program: of,
            name: "late".to_owned(),
            terms: broken_after(5),
        };
        let programs = engine.cards().programs();
        programs.update(&engine.issuer(), command).await.unwrap();
        let broke = broke_on(&world, card.id, 1..=30).await;
        assert!(broke.is_some());
    }
}

/// A sale is decided, and before its commit the shop becomes another kind of shop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_is_of_the_kind_that_it_is_when_the_sale_is_committed() {
    for operation in ["cards.charge", "cards.authorize"] {
        let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let pause = Arc::new(Pause::default());
        let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
        let builder = Engine::builder(store.clone(), shop::master());
        let engine = builder.network("regtest").open().await.unwrap();
        let terms = CardProgramTerms {
            categories: vec!["5814".parse().unwrap()],
            ..CardProgramTerms::default()
        };
        let of = program(&engine, "food", terms).await;
        let mut card = issue(&engine, "04112233445577", CardLimits::default(), of).await;
        crate::support::shop::fund(&*store, 1, card.id, 1_000 * SAT).await;
        let patties = merchant(&engine, "Patties", Some("5814")).await;
        let is_charge = operation == "cards.charge";
        let sell = |name: &str, tap: String| {
            let (cards, till) = (engine.cards(), patties.till.clone());
            let command = ChargeCard {
                key: key(name),
                tap,
                price: sat(10),
                reference: String::new(),
                pin: None,
            };
            async move {
                if is_charge {
                    return told(cards.charge(&till, command).await).map(drop);
                }
                let ChargeCard {
                    key,
                    tap,
                    price,
                    reference,
                    pin,
                } = command;
                let command = flashkit::cards::AuthorizeCard {
                    key,
                    tap,
                    price,
                    reference,
                    pin,
                };
                told(cards.authorize(&till, command).await).map(drop)
            }
        };
        let tap = card.chip.tap();
        pause.arm(operation);
        let sold = tokio::spawn(sell("late", tap.clone()));
        pause.reached().await;
        for (name, category) in [("books", Some("5942")), ("none", None)] {
            let command = SetMerchantCategory {
                key: key(name),
                merchant: patties.id,
                category: category.map(|code| code.parse().unwrap()),
            };
            let settlement = engine.settlement();
            let refused = settlement
                .set_category(&patties.till, command.clone())
                .await;
            assert_eq!(told(refused).map(drop), Err("access.not_allowed"));
            let after = settlement
                .set_category(&engine.issuer(), command)
                .await
                .unwrap();
            assert_eq!(
                after.category.map(|code| code.to_string()).as_deref(),
                category
            );
        }
        pause.release();
        assert_eq!(
            sold.await.unwrap(),
            Err("card.category_not_allowed"),
            "{operation}"
        );
        // The tap was not used up, and pays once the shop is what the card pays for.
        let command = SetMerchantCategory {
            key: key("food-again"),
            merchant: patties.id,
            category: Some("5814".parse().unwrap()),
        };
        engine
            .settlement()
            .set_category(&engine.issuer(), command)
            .await
            .unwrap();
        sell("again", tap).await.unwrap();
    }
}
