//! Whose a card is when the commit is made, and what the credential of a card that was replaced
//! still sees.

use std::sync::Arc;
use std::time::Duration;

use flashkit::access::Credential;
use flashkit::cards::{
    AutoTopUp, CardLimits, CardReceiptOf, CardState, CardStatementQuery, ChargeCard, PayWithCard,
    RenewTopUpAddress, RetireTo, SetAutoTopUp, SetCardLimits, SetCardNote, SetCardPin, TopUpSource,
    UnlockCardCode, UnlockCardPin, WithdrawFromCard,
};
use flashkit::ids::{CardId, MerchantId};
use flashkit::money::Asset;
use flashkit::ports::SystemClock;
use flashkit::reports::{ExportFormat, StatementPeriod};
use flashkit::store::{MemoryStore, Store};
use flashkit::{Engine, Error};

use crate::hands::{add, blank, charge, freeze, fund, lose, replace, retire, unfreeze};
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::key;
use crate::support::scene::{Scene, digits, told};
use crate::support::shop::{self, SAT, sat};

/// What a call is done to.
struct Done {
    engine: Engine,
    by: Credential,
    card: CardId,
    merchant: MerchantId,
    bolt11: String,
    tap: String,
}

fn code<T>(answer: Result<T, Error>) -> Option<&'static str> {
    answer.err().map(|error| error.code())
}

async fn act(operation: &str, done: Done) -> Option<&'static str> {
    let Done {
        engine,
        by,
        card,
        merchant,
        bolt11,
        tap,
    } = done;
    let (cards, key) = (engine.cards(), key("late"));
    match operation {
        "cards.set_limits" => {
            let limits = CardLimits::default();
            code(
                cards
                    .set_limits(&by, SetCardLimits { key, card, limits })
                    .await,
            )
        }
        "cards.unfreeze" => unfreeze(&engine, &by, "late", card).await.err(),
        "cards.freeze" => freeze(&engine, &by, "late", card).await.err(),
        "cards.report_lost" => lose(&engine, &by, "late", card).await.err(),
        "cards.replace" => code(replace(&engine, &by, "late", card, &tap).await),
        "cards.retire" => {
            let to = RetireTo::Merchant { merchant };
            retire(&engine, &by, "late", card, to).await.err()
        }
        "cards.set_auto_top_up" => {
            let command = SetAutoTopUp {
                key,
                card,
                rule: Some(AutoTopUp {
                    unit: Asset::Btc,
                    below: SAT,
                    to: SAT,
                    from: TopUpSource::Outside,
                    times_per_day: 1,
                }),
                source: None,
            };
            code(cards.set_auto_top_up(&by, command).await)
        }
        "cards.unlock_code" => code(cards.unlock_code(&by, UnlockCardCode { key, card }).await),
        "cards.set_note" => {
            let note = Some("whose".to_owned());
            code(cards.set_note(&by, SetCardNote { key, card, note }).await)
        }
        "cards.set_pin" => {
            let pin = digits("1234");
            code(cards.set_pin(&by, SetCardPin { key, card, pin }).await)
        }
        "cards.unlock_pin" => code(cards.unlock_pin(&by, UnlockCardPin { key, card }).await),
        "cards.withdraw" => {
            let command = WithdrawFromCard {
                key,
                card,
                bolt11,
                amount_msat: None,
            };
            code(cards.withdraw(&by, command).await)
        }
        other => panic!("{other}"),
    }
}

/// The holder of a main card decides about a card of the family, and the main card is replaced
/// before the commit: whoever holds the old one decides nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_changes_hands_before_the_commit_is_decided_about_again() {
    for operation in [
        "cards.set_limits",
        "cards.unfreeze",
        "cards.freeze",
        "cards.report_lost",
        "cards.replace",
        "cards.retire",
        "cards.set_auto_top_up",
        "cards.unlock_code",
        "cards.set_note",
        "cards.set_pin",
        "cards.unlock_pin",
        "cards.withdraw",
    ] {
        let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let pause = Arc::new(Pause::default());
        let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
        let shop = shop::simulated(store.clone()).await;
        let engine = shop.engine.clone();
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let main = shop::card(&engine, shop::UID, CardLimits::default()).await;
        fund(&*store, 1, main.id, 10_000).await;
        let (child, mut chip) = blank(&engine, 1).await;
        let (tap, limits) = (chip.tap(), CardLimits::default());
        let added = add(&engine, &main.holder, "child", main.id, &tap, limits).await;
        added.unwrap();
        match operation {
            "cards.unfreeze" => drop(freeze(&engine, &main.holder, "f", child).await.unwrap()),
            "cards.unlock_pin" => {
                let command = SetCardPin {
                    key: key("pin"),
                    card: child,
                    pin: digits("1234"),
                };
                engine.cards().set_pin(&main.holder, command).await.unwrap();
            }
            _ => {}
        }
        let done = Done {
            engine: engine.clone(),
            by: main.holder.clone(),
            card: child,
            merchant: merchant.id,
            bolt11: shop::sale(&engine, &merchant, "sale", sat(1_000))
                .await
                .bolt11
                .clone(),
            tap: blank(&engine, 2).await.1.tap(),
        };
        let before = state_of(&engine, child).await;
        pause.arm(operation);
        let late = tokio::spawn(async move { act(operation, done).await });
        pause.reached().await;
        let tap = blank(&engine, 3).await.1.tap();
        let replaced = replace(&engine, &main.holder, "main", main.id, &tap).await;
        pause.release();
        assert_eq!(
            late.await.unwrap(),
            Some("access.not_allowed"),
            "{operation}"
        );
        assert_eq!(state_of(&engine, child).await, before, "{operation}");
        // Whoever holds the new one does.
        let (name, now) = ("now", &replaced.unwrap().holder);
        freeze(&engine, now, name, child).await.err();
        unfreeze(&engine, now, name, child).await.unwrap();
        engine.stop().await.unwrap();
    }
}

/// What a holder is told stands: a PIN that is set while the card is being replaced is that of the
/// card in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_that_is_set_before_the_commit_of_a_replacement_goes_with_it() {
    for first in [None, Some("1234")] {
        let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let pause = Arc::new(Pause::default());
        let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
        let shop = shop::simulated(store.clone()).await;
        let engine = shop.engine.clone();
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let old = shop::card(&engine, shop::UID, CardLimits::default()).await;
        fund(&*store, 1, old.id, 10_000).await;
        let set = async |name: &str, pin: &str| {
            let (key, card, pin) = (key(name), old.id, digits(pin));
            let command = SetCardPin { key, card, pin };
            engine.cards().set_pin(&old.holder, command).await.unwrap();
        };
        if let Some(first) = first {
            set("first", first).await;
        }
        let (_, mut chip) = blank(&engine, 1).await;
        pause.arm("cards.replace");
        let (replacing, holder, tap) = (engine.clone(), old.holder.clone(), chip.tap());
        let replacing =
            tokio::spawn(async move { replace(&replacing, &holder, "new", old.id, &tap).await });
        pause.reached().await;
        set("second", "5678").await;
        pause.release();
        replacing.await.unwrap().unwrap();
        for (name, pin, expected) in [
            ("before", "1234", Err("card.wrong_pin")),
            ("now", "5678", Ok(())),
        ] {
            let command = ChargeCard {
                key: key(name),
                tap: chip.tap(),
                price: sat(1_000),
                reference: name.to_owned(),
                pin: Some(digits(pin)),
            };
            let charged = engine.cards().charge(&merchant.till, command).await;
            assert_eq!(told(charged).map(drop), expected, "{name}, {first:?}");
        }
        engine.stop().await.unwrap();
    }
}

async fn state_of(engine: &Engine, card: CardId) -> CardState {
    engine
        .cards()
        .get(&engine.issuer(), card)
        .await
        .unwrap()
        .state
}

/// What is refused to whoever may not read a card.
async fn assert_blind(engine: &Engine, by: &Credential, card: CardId) {
    let cards = engine.cards();
    let seen = cards.get(by, card).await.unwrap().value;
    assert!(
        matches!(seen.state, CardState::Replaced | CardState::Retired),
        "that it is out of use it is told"
    );
    assert_eq!((seen.balance_msat, seen.pending_msat), (0, 0));
    assert!(seen.history.is_empty() && seen.usage.is_empty() && seen.top_up.is_none());
    let query = CardStatementQuery {
        card,
        period: StatementPeriod::Between {
            from_ms: 0,
            to_ms: i64::MAX / 2,
        },
    };
    let csv = ExportFormat::Csv;
    for refused in [
        code(cards.history(by, card, None, 10).await),
        code(cards.list_payments(by, card, None, 10).await),
        code(cards.statement(by, &query).await),
        code(cards.statement_rows(by, &query, None, 10).await),
        code(cards.export_statement(by, &query, csv, None, 10).await),
    ] {
        assert_eq!(refused, Some("access.not_allowed"));
    }
    let command = RenewTopUpAddress {
        key: key("renew"),
        card,
    };
    let renewed = cards.renew_top_up_address(by, command).await;
    assert_eq!(code(renewed), Some("access.not_allowed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_credential_of_a_card_that_was_replaced_reads_nothing_of_what_comes_after() {
    let limits = CardLimits {
        per_day: Some(40_000 * SAT),
        ..CardLimits::default()
    };
    let mut scene = Scene::new(true, limits.clone()).await;
    let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
    let (main, parent) = (scene.card.id, scene.card.holder.clone());
    let cards = engine.cards();
    let (child, mut chip) = blank(&engine, 1).await;
    let added = add(&engine, &parent, "child", main, &chip.tap(), limits.clone()).await;
    let kid = added.unwrap().holder.clone();
    charge(&engine, &till, "kid", &chip.tap(), 1_000)
        .await
        .unwrap();
    let before = cards.history(&kid, child, None, 10).await.unwrap();
    assert_eq!(before.len(), 2);
    // The child's card is replaced, and the family goes on.
    let (next, mut new_chip) = blank(&engine, 2).await;
    let replaced = replace(&engine, &parent, "lost", child, &new_chip.tap()).await;
    let new_kid = replaced.unwrap().holder.clone();
    scene.charge("parent", 2_000).await.unwrap();
    charge(&engine, &till, "new", &new_chip.tap(), 3_000)
        .await
        .unwrap();
    assert_blind(&engine, &kid, child).await;
    // Nor does the old plastic tell, nor does the old credential read the new card.
    let shown = cards.peek(&chip.tap()).await.unwrap().value;
    assert_eq!((shown.state, shown.balance_msat), (CardState::Replaced, 0));
    assert!(shown.history.is_empty() && shown.usage.is_empty());
    for refused in [
        code(cards.get(&kid, next).await),
        code(cards.history(&kid, next, None, 10).await),
    ] {
        assert_eq!(refused, Some("access.not_allowed"));
    }
    // The new one's reads both, what was before included.
    for card in [child, next] {
        let rows = cards.history(&new_kid, card, None, 10).await.unwrap();
        let amounts: Vec<i64> = rows.iter().map(|row| row.amount / SAT).collect();
        assert_eq!(amounts, [3_000, 2_000, 1_000, 50_000]);
    }
    let seen = cards.get(&new_kid, next).await.unwrap();
    assert_eq!((seen.balance_msat, seen.history.len()), (44_000 * SAT, 4));
    // So it is with the main card, and with one of three in a row; the sale that it paid is read
    // by the last of them.
    let sale = scene.charge("sale", 500).await.unwrap().id;
    let mut holders = vec![(main, parent)];
    for number in [3, 4] {
        let (last, by) = holders.last().unwrap().clone();
        let (id, mut chip) = blank(&engine, number).await;
        let name = format!("main-{number}");
        let replaced = replace(&engine, &by, &name, last, &chip.tap()).await;
        holders.push((id, replaced.unwrap().holder.clone()));
    }
    let (newest, owner) = holders.pop().unwrap();
    let of = CardReceiptOf::Charge { charge: sale };
    for (card, by) in &holders {
        assert_blind(&engine, by, *card).await;
        let receipt = cards.receipt(by, of).await;
        assert_eq!(code(receipt), Some("access.not_allowed"));
        cards.history(&owner, *card, None, 10).await.unwrap();
    }
    let receipt = cards.receipt(&owner, of).await.unwrap();
    assert_eq!(receipt.balance(), Some((Asset::Btc, 43_500 * SAT)));
    assert_eq!(
        cards.get(&owner, newest).await.unwrap().balance_msat,
        43_500 * SAT
    );
    // A card that was taken out of the family sees it no more.
    let to = RetireTo::Merchant {
        merchant: scene.merchant.id,
    };
    retire(&engine, &owner, "out", next, to).await.unwrap();
    assert_blind(&engine, &new_kid, next).await;
    scene.card.id = newest;
    scene.card.holder = owner;
    scene.stop("replaced").await;
}

/// Payments and charges are read as the history is: by whoever holds the card in the place of the one
/// that paid, by the main card's holder of a family card, and not by the old credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replaced_card_has_paid_is_read_with_the_one_in_its_place() {
    let mut scene = Scene::new(false, CardLimits::default()).await;
    let (engine, till) = (scene.engine().clone(), scene.merchant.till.clone());
    let (main, parent) = (scene.card.id, scene.card.holder.clone());
    let cards = engine.cards();
    let (child, mut chip) = blank(&engine, 1).await;
    let limits = CardLimits::default();
    let added = add(&engine, &parent, "child", main, &chip.tap(), limits).await;
    let kid = added.unwrap().holder.clone();
    let sale = scene.charge("sale", 500).await.unwrap().id;
    let bill = shop::sale(&engine, &scene.merchant, "bill", sat(1_000)).await;
    let command = PayWithCard {
        key: key("bill"),
        tap: chip.tap(),
        bolt11: bill.bolt11.clone(),
        pin: None,
    };
    let payment = cards.pay(&till, command).await.unwrap().id;
    let reads = async |by: &Credential| {
        let listed = cards.list_payments(by, child, None, 10).await;
        let listed = listed.map(|found| assert_eq!(found.len(), 1));
        [code(listed), code(cards.get_payment(by, payment).await)]
    };
    let refused = Some("access.not_allowed");
    assert_eq!(reads(&kid).await, [None; 2]);
    assert_eq!(reads(&parent).await, [None; 2]);
    assert_eq!(code(cards.get_charge(&kid, sale).await), refused);

    let (_, mut new_chip) = blank(&engine, 2).await;
    let replaced = replace(&engine, &parent, "lost", child, &new_chip.tap()).await;
    let new_kid = replaced.unwrap().holder.clone();
    assert_eq!(reads(&kid).await, [refused; 2]);
    assert_eq!(reads(&new_kid).await, [None; 2]);
    let (newest, mut chip) = blank(&engine, 3).await;
    let replaced = replace(&engine, &parent, "main", main, &chip.tap()).await;
    let owner = replaced.unwrap().holder.clone();
    assert_eq!(code(cards.get_charge(&parent, sale).await), refused);
    assert_eq!(code(cards.get_charge(&owner, sale).await), None);
    assert_eq!(reads(&parent).await, [refused; 2]);
    scene.card.id = newest;
    scene.card.holder = owner;
    scene.stop("payments").await;
}

/// A card is looked at, and before the look is committed a sale leaves it low, whose own look would
/// end with the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_while_a_card_is_looked_at_is_not_overlooked() {
    let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let pause = Arc::new(Pause::default());
    let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
    let builder = Engine::builder(store.clone(), shop::master());
    let engine = builder.network("regtest").open().await.unwrap();
    let till = shop::merchant(&engine, "Cookshop").await.till;
    let mut card = shop::card(&engine, shop::UID, CardLimits::default()).await;
    let source = shop::card(&engine, &crate::hands::uid(9), CardLimits::default()).await;
    fund(&*store, 1, card.id, 50_000).await;
    fund(&*store, 2, source.id, 50_000).await;
    let command = SetAutoTopUp {
        key: key("rule"),
        card: card.id,
        rule: Some(AutoTopUp {
            unit: Asset::Btc,
            below: 10_000 * SAT,
            to: 20_000 * SAT,
            from: TopUpSource::Card { card: source.id },
            times_per_day: 5,
        }),
        source: Some(source.holder.clone()),
    };
    engine
        .cards()
        .set_auto_top_up(&card.holder, command)
        .await
        .unwrap();
    charge(&engine, &till, "one", &card.chip.tap(), 30_000)
        .await
        .unwrap();
    pause.arm("card.auto_top_up");
    let looking = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.run_due_jobs().await.unwrap() })
    };
    pause.reached().await;
    charge(&engine, &till, "two", &card.chip.tap(), 15_000)
        .await
        .unwrap();
    // Whoever asks meanwhile is answered when the look is over, and so when all that was due is done.
    let mut asking = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.run_due_jobs().await.unwrap() })
    };
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut asking).await;
    assert!(early.is_err(), "answered before what was due was done");
    pause.release();
    looking.await.unwrap();
    asking.await.unwrap();
    assert_eq!(crate::hands::on_card(&*store, card.id).await, 20_000);
    assert_eq!(crate::hands::on_card(&*store, source.id).await, 35_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_shows_where_to_top_up_and_of_a_lost_card_nothing_of_its_money() {
    let mut scene = Scene::new(false, CardLimits::default()).await;
    let (engine, card) = (scene.engine().clone(), scene.card.id);
    let cards = engine.cards();
    let tap = scene.card.chip.tap();
    // A look by id makes nothing; the first tap makes the address, and it stays.
    let untouched = cards.get(&scene.card.holder, card).await.unwrap();
    assert_eq!(untouched.top_up, None);
    let shown = cards.peek(&tap).await.unwrap().value;
    assert_eq!(shown.balance_msat, 50_000 * SAT);
    let address = cards.top_up_address(&scene.card.holder, card).await;
    assert_eq!(shown.top_up, Some(address.unwrap().value));
    let known = cards.get(&scene.card.holder, card).await.unwrap();
    assert_eq!(known.top_up, shown.top_up);
    lose(&engine, &engine.issuer(), "lost", card).await.unwrap();
    let found = cards.peek(&scene.card.chip.tap()).await.unwrap().value;
    assert_eq!((found.state, found.balance_msat), (CardState::Lost, 0));
    assert!(found.history.is_empty() && found.top_up.is_none());
    // Its holder sees it: it waits for the card in its place.
    let owned = cards.get(&scene.card.holder, card).await.unwrap();
    assert_eq!(owned.balance_msat, 50_000 * SAT);
    assert_eq!(
        told(cards.history(&scene.card.holder, card, None, 9).await)
            .unwrap()
            .len(),
        1
    );
    scene.stop("lost").await;
}

/// Whoever has seen a blank card's tap on a screen makes it nobody's: it grows old and is void behind a
/// later one, as it would be for a charge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_tap_of_a_blank_card_takes_no_place() {
    let scene = Scene::new(false, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let (card, holder) = (scene.card.id, scene.card.holder.clone());
    let (_, mut chip) = blank(&engine, 1).await;
    let limits = CardLimits::default();
    let refused = async |name: &str, tap: &str| {
        let added = add(&engine, &holder, name, card, tap, limits.clone()).await;
        let replaced = replace(&engine, &holder, name, card, tap).await;
        (told(added).map(drop), told(replaced).map(drop))
    };
    let old = chip.tap();
    engine.cards().peek(&old).await.unwrap();
    scene.clock.advance(Duration::from_secs(120));
    let stale = Err("card.tap_stale");
    assert_eq!(refused("old", &old).await, (stale, stale));
    let (before, later) = (chip.tap(), chip.tap());
    engine.cards().peek(&later).await.unwrap();
    let superseded = Err("card.tap_superseded");
    assert_eq!(refused("before", &before).await, (superseded, superseded));
    let replaced = replace(&engine, &holder, "later", card, &later).await;
    // Where people send money to the old one is the new one's holder's business.
    let (new, cards) = (replaced.unwrap().holder.clone(), engine.cards());
    let address = cards.top_up_address(&new, card).await.unwrap().url.clone();
    let told = code(cards.top_up_address(&holder, card).await);
    assert_eq!(told, Some("access.not_allowed"));
    assert_blind(&engine, &holder, card).await;
    let command = RenewTopUpAddress {
        key: key("revoked"),
        card,
    };
    let renewed = cards.renew_top_up_address(&new, command).await.unwrap();
    assert_ne!(renewed.url, address);
    scene.stop("old taps").await;
}
