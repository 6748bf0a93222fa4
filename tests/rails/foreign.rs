//! A BOLT11 of somebody else that a tapped card pays: every outcome, and what stands in the books.

use std::sync::Arc;

use flashkit::cards::{
    CardLimits, CardPaymentOutcome, CardPaymentState, ResolveCardPayment, SetCardPin,
};
use flashkit::ledger::Account;
use flashkit::lightning::{LightningEvent, LightningNode, PaymentState};
use flashkit::ports::SystemClock;
use flashkit::rewards::{BudgetMove, MoveRewardBudget};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};
use flashkit::{CardPaymentSettings, Settings};

use crate::set::{ON_CARD, Set, hash, open, settings};
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::scripted::{Pay, ScriptedNode};
use crate::support::shop::{self, SAT};
use crate::support::{key, until};

fn limits() -> CardLimits {
    CardLimits {
        per_day: Some(40_000 * SAT),
        ..CardLimits::default()
    }
}

const ALL: i64 = ON_CARD * SAT;
/// 10,000 sats, and what the route may cost: 0.5 % and 10 sats.
const SET_ASIDE: i64 = 10_060 * SAT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_succeeds_and_costs_what_the_route_did() {
    let mut set = Set::new(limits()).await;
    shop::program(&set.engine, set.merchant.id).await;
    // The merchant has money here, out of which the points are paid.
    let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(1_000)).await;
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
    set.network.set_route_fee_msat(7 * SAT);
    let bill = set.bill(10_000).await;
    let payment = set.pay("p", &bill).await.unwrap();
    assert_eq!(payment.state, CardPaymentState::Sending);
    assert_eq!((payment.max_route_fee_msat, payment.points), (60 * SAT, 0));
    assert_eq!(
        (set.balance().await, set.used().await),
        (ALL - SET_ASIDE, SET_ASIDE)
    );
    // Asked again with the same key: the same payment, and nothing is sent twice.
    assert_eq!(
        set.pay_tap("q", "lnurlw://x?p=0&c=0", &bill).await,
        Err("card.tap_malformed")
    );
    set.take(&bill).await;
    let paid = set
        .until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!(paid.route_fee_msat, Some(7 * SAT));
    let left = ALL - 10_007 * SAT;
    assert_eq!(
        (set.balance().await, set.used().await),
        (left, 10_007 * SAT)
    );
    // 2 % of the sale in points, out of what the merchant has here.
    assert_eq!((paid.points, set.payable().await), (200, 800 * SAT));
    let points = Account::points_balance(set.card.id, paid.program.unwrap());
    let points = set.store.balance(&points).await.unwrap();
    assert_eq!(points.available(flashkit::ledger::Side::Credit), 200);
    assert_eq!(set.node.sent.lock().unwrap().len(), 1);
    set.stop("succeeded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_that_the_merchant_cannot_pay_do_not_keep_success_from_being_recorded() {
    let mut set = Set::new(limits()).await;
    shop::program(&set.engine, set.merchant.id).await;
    let bill = set.bill(10_000).await;
    let payment = set.pay("p", &bill).await.unwrap();
    set.take(&bill).await;
    let paid = set
        .until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!((paid.points, set.balance().await), (0, ALL - 10_000 * SAT));
    // And it is said.
    assert_eq!(paid.points_not_given, 200);
    let events = set.store.events(0, 1_000).await.unwrap();
    let told = events
        .iter()
        .filter(|event| event.kind == "card.points_not_given")
        .map(|event| event.body["points_not_given"].as_i64());
    assert_eq!(told.collect::<Vec<_>>(), [Some(200)]);
    assert_eq!(set.engine.last_problem(), None);
    set.stop("no points").await;
}

/// A merchant whose till is elsewhere puts money aside for its points: they come out of that, until
/// it is empty, and it is told then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_come_out_of_what_the_merchant_has_put_aside() {
    let mut set = Set::new(limits()).await;
    let program = shop::program(&set.engine, set.merchant.id).await;
    let (rewards, issuer) = (set.engine.rewards(), set.engine.issuer());
    let (merchant, till) = (set.merchant.id, set.merchant.till.clone());
    let order = |name: &str, sats: i64, direction| MoveRewardBudget {
        key: key(name),
        merchant,
        amount_msat: sats * SAT,
        direction,
    };
    // It pays an invoice of its own, and puts that aside: the till reads it, and moves nothing.
    let sale = shop::sale(&set.engine, &set.merchant, "own", shop::sat(300)).await;
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
    for (name, by, sats, code) in [
        ("till", &till, 300, "access.not_allowed"),
        ("much", &issuer, 301, "ledger.insufficient_funds"),
        ("none", &issuer, 0, "money.not_positive"),
    ] {
        let refused = rewards.move_budget(by, order(name, sats, BudgetMove::In));
        assert_eq!(refused.await.unwrap_err().code(), code, "{name}");
    }
    let aside = order("aside", 300, BudgetMove::In);
    let moved = rewards.move_budget(&issuer, aside.clone()).await.unwrap();
    let again = rewards.move_budget(&issuer, aside).await.unwrap();
    assert_eq!(again.value, moved.value);
    let left = async || {
        rewards
            .budget(&till, merchant)
            .await
            .unwrap()
            .available_msat
            / SAT
    };
    assert_eq!((left().await, set.payable().await), (300, 0));
    // Two in a hundred of each sale.
    for (name, points, then) in [("first", 200, 100), ("second", 0, 100)] {
        let bill = set.bill(10_000).await;
        let payment = set.pay(name, &bill).await.unwrap();
        set.take(&bill).await;
        let paid = set
            .until_state(payment.id, CardPaymentState::Succeeded)
            .await;
        assert_eq!((paid.points, paid.points_not_given), (points, 200 - points));
        assert_eq!((left().await, set.payable().await), (then, 0), "{name}");
    }
    let on_card = rewards.points(&issuer, set.card.id, program).await.unwrap();
    assert_eq!((on_card.points, on_card.value_msat), (200, 200 * SAT));
    let events = set.store.events(0, 1_000).await.unwrap();
    let empty = events.iter().filter(|it| it.kind == "reward_budget.empty");
    let of: Vec<&str> = empty.map(|event| event.object.as_str()).collect();
    assert_eq!(of, [merchant.to_string()]);
    // What is left is the merchant's again.
    let back = order("back", 100, BudgetMove::Out);
    rewards.move_budget(&issuer, back).await.unwrap();
    assert_eq!((left().await, set.payable().await), (0, 100 * SAT));
    set.stop("put aside").await;
}

/// A person says that it arrived, where the node cannot: the points are given as if the node had, as
/// far as the merchant has put aside for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_that_it_arrived_gives_the_points_that_there_is_money_for() {
    for (aside, points) in [(300, 200), (100, 0)] {
        let mut set = Set::new(limits()).await;
        shop::program(&set.engine, set.merchant.id).await;
        let (rewards, issuer) = (set.engine.rewards(), set.engine.issuer());
        let sale = shop::sale(&set.engine, &set.merchant, "own", shop::sat(aside)).await;
        set.customer.pay(&sale.bolt11).await.unwrap();
        shop::settled(&set.engine, &sale).await;
        let order = MoveRewardBudget {
            key: key("aside"),
            merchant: set.merchant.id,
            amount_msat: aside * SAT,
            direction: BudgetMove::In,
        };
        rewards.move_budget(&issuer, order).await.unwrap();
        set.node.script([Pay::SendAndDoubt]);
        let bill = set.bill(10_000).await;
        let payment = set.pay("p", &bill).await.unwrap();
        until("it is on its way", || async {
            set.payee.record(hash(&bill)).is_some()
        })
        .await;
        let resolve = |name: &str| ResolveCardPayment {
            key: key(name),
            payment: payment.id,
            outcome: CardPaymentOutcome::Succeeded {
                route_fee_msat: Some(0),
            },
            reason: "the shop was asked".to_owned(),
            despite_record: true,
        };
        let cards = set.engine.cards();
        let said = cards.resolve_payment(&issuer, resolve("said")).await;
        let said = said.unwrap().value;
        assert_eq!(said.state, CardPaymentState::Succeeded);
        assert_eq!((said.points, said.points_not_given), (points, 200 - points));
        let again = cards.resolve_payment(&issuer, resolve("said")).await;
        assert_eq!(again.unwrap().value, said, "once");
        let budget = rewards.budget(&issuer, set.merchant.id).await.unwrap();
        assert_eq!(budget.available_msat, (aside - points) * SAT);
        let twice = cards.resolve_payment(&issuer, resolve("twice")).await;
        assert_eq!(twice.unwrap_err().code(), "card.payment_final");
        set.take(&bill).await;
        until("it has arrived", || async { set.has_arrived(&bill) }).await;
        set.stop("said").await;
    }
}

/// The budget is emptied between the decision and its commit: what the merchant has here pays for the
/// points, as it would have without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_are_not_lost_to_whoever_moves_the_budget_first() {
    for direction in [BudgetMove::Out, BudgetMove::In] {
        let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let pause = Arc::new(Pause::default());
        let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
        let mut set = Set::on(store, limits(), settings()).await;
        shop::program(&set.engine, set.merchant.id).await;
        let (rewards, issuer) = (set.engine.rewards(), set.engine.issuer());
        let sale = shop::sale(&set.engine, &set.merchant, "own", shop::sat(200)).await;
        set.customer.pay(&sale.bolt11).await.unwrap();
        shop::settled(&set.engine, &sale).await;
        // All that the merchant has is in one place, and then in the other.
        let all_msat = set.payable().await;
        assert!(all_msat >= 200 * SAT, "{all_msat}");
        let merchant = set.merchant.id;
        let order = |name: &str, direction| MoveRewardBudget {
            key: key(name),
            merchant,
            amount_msat: all_msat,
            direction,
        };
        if direction == BudgetMove::Out {
            let aside = order("in", BudgetMove::In);
            rewards.move_budget(&issuer, aside).await.unwrap();
        }
        let bill = set.bill(10_000).await;
        let payment = set.pay("p", &bill).await.unwrap();
        pause.arm("card_payment");
        set.take(&bill).await;
        pause.reached().await;
        let moved = order("moved", direction);
        rewards.move_budget(&issuer, moved).await.unwrap();
        pause.release();
        let paid = set
            .until_state(payment.id, CardPaymentState::Succeeded)
            .await;
        assert_eq!((paid.points, paid.points_not_given), (200, 0));
        let left = match direction {
            BudgetMove::Out => all_msat - 200 * SAT,
            BudgetMove::In => 0,
        };
        assert_eq!(set.payable().await, left);
        set.stop("moved").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_fails_and_everything_comes_back() {
    let mut set = Set::new(limits()).await;
    // On its way, and given back by the other wallet.
    let bill = set.bill(10_000).await;
    let payment = set.pay("p", &bill).await.unwrap();
    set.give_back(&bill).await;
    let failed = set.until_state(payment.id, CardPaymentState::Failed).await;
    assert_eq!(failed.reason.as_deref(), Some("the recipient refused"));
    assert_eq!((set.balance().await, set.used().await), (ALL, 0));
    // Not sent at all, and said so.
    set.node.script([Pay::Refuse]);
    let bill = set.bill(10_000).await;
    let payment = set.pay("q", &bill).await.unwrap();
    assert_eq!(payment.state, CardPaymentState::Failed);
    assert_eq!((set.balance().await, set.used().await), (ALL, 0));
    // What failed is not tried again: a late success of it could not be told from a second one.
    assert_eq!(set.pay("r", &bill).await, Err("card.invoice_used"));
    set.stop("failed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_is_neither_and_becomes_what_it_was() {
    for (what, script, takes) in [
        ("sent and arrived", Pay::SendAndDoubt, true),
        ("sent and gave back", Pay::SendAndDoubt, false),
        ("not sent, then arrived", Pay::Doubt, true),
        ("not sent, then gave back", Pay::Doubt, false),
    ] {
        let mut set = Set::new(limits()).await;
        set.node.script([script]);
        let bill = set.bill(10_000).await;
        let payment = set.pay("p", &bill).await.unwrap();
        assert_eq!(payment.state, CardPaymentState::Unknown, "{what}");
        assert_eq!(
            set.balance().await,
            ALL - SET_ASIDE,
            "{what}: still set aside"
        );
        // The engine asks again, until it is on its way.
        until("it is on its way", || async {
            let record = set.payee.record(hash(&bill));
            record.is_some_and(|record| record.state == PaymentState::Pending)
        })
        .await;
        let (state, left) = if takes {
            set.take(&bill).await;
            (CardPaymentState::Succeeded, ALL - 10_000 * SAT)
        } else {
            set.give_back(&bill).await;
            (CardPaymentState::Failed, ALL)
        };
        set.until_state(payment.id, state).await;
        assert_eq!(set.balance().await, left, "{what}");
        assert_eq!(set.has_arrived(&bill), takes, "{what}");
        set.stop(what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stops_between_intent_and_effect_goes_on_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let books = || -> Arc<dyn Store> {
        let file = folder.path().join("books.db");
        Arc::new(SqliteStore::open(file, Arc::new(SystemClock)).unwrap())
    };
    let mut set = Set::on(books(), limits(), settings()).await;
    set.node.script([Pay::Doubt]);
    let bill = set.bill(10_000).await;
    let payment = set.pay("p", &bill).await.unwrap();
    set.engine.stop().await.unwrap();
    assert!(set.payee.record(hash(&bill)).is_none(), "nothing was sent");
    set.store = books();
    set.engine = open(set.store.clone(), set.node.clone(), settings()).await;
    until("it is on its way", || async {
        set.payee.record(hash(&bill)).is_some()
    })
    .await;
    set.take(&bill).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!(set.balance().await, ALL - 10_000 * SAT);
    set.stop("opened again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_uses_nothing_up() {
    let limits = CardLimits {
        per_tap: Some(20_000 * SAT),
        pin_above: Some(15_000 * SAT),
        ..limits()
    };
    let mut set = Set::new(limits).await;
    let pin = SetCardPin {
        key: key("pin"),
        card: set.card.id,
        pin: "1234".parse().unwrap(),
    };
    set.engine
        .cards()
        .set_pin(&set.card.holder, pin)
        .await
        .unwrap();
    let tap = set.card.chip.tap();
    let mut other = shop::card(&set.engine, "04bbbbbbbbbbbb", CardLimits::default()).await;
    let others = other.chip.tap();
    let (fits, too_much, over_tap, asks_pin, open_amount) = (
        set.bill(10_000).await,
        set.bill(60_000).await,
        set.bill(19_950).await,
        set.bill(15_001).await,
        set.bill(0).await,
    );
    for (name, tap, bill, expected) in [
        ("empty", &others, &fits, "card.insufficient_funds"),
        ("much", &tap, &too_much, "card.pin_required"),
        ("pin", &tap, &asks_pin, "card.pin_required"),
        ("open", &tap, &open_amount, "card.no_amount"),
        ("none", &tap, &"lnbc1".to_owned(), "lightning.bad_invoice"),
    ] {
        assert_eq!(set.pay_tap(name, tap, bill).await, Err(expected), "{name}");
    }
    // With what the route may cost it is above the limit of a tap.
    let command = flashkit::cards::PayWithCard {
        key: key("over"),
        tap: tap.clone(),
        bolt11: over_tap,
        pin: Some("1234".parse().unwrap()),
    };
    let refused = set.engine.cards().pay(&set.merchant.till, command).await;
    assert_eq!(refused.unwrap_err().code(), "card.limit_exceeded");
    assert_eq!((set.balance().await, set.used().await), (ALL, 0));
    // The tap is good still; once it is used it is not.
    set.pay_tap("fits", &tap, &fits).await.unwrap();
    let another = set.bill(10).await;
    assert_eq!(
        set.pay_tap("again", &tap, &another).await,
        Err("card.tap_replayed")
    );
    assert_eq!(set.node.sent.lock().unwrap().len(), 1);
    set.take(&fits).await;
    set.stop("refused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_is_not_locked_up_by_invoices_that_wait() {
    let settings = Settings {
        card_payments: CardPaymentSettings {
            max_in_flight: 2,
            max_lock_blocks: 100,
            ..settings().card_payments
        },
        ..settings()
    };
    let mut set = Set::with(limits(), settings).await;
    let (first, second, third) = (
        set.bill(100).await,
        set.bill(100).await,
        set.bill(100).await,
    );
    let payment = set.pay("1", &first).await.unwrap();
    set.pay("2", &second).await.unwrap();
    let tap = set.card.chip.tap();
    assert_eq!(
        set.pay_tap("3", &tap, &third).await,
        Err("card.too_many_in_flight")
    );
    // One ends, however it does: the same tap can pay.
    set.give_back(&first).await;
    set.until_state(payment.id, CardPaymentState::Failed).await;
    let payment = set.pay_tap("3", &tap, &third).await.unwrap();
    set.take(&second).await;
    set.take(&third).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    // A route that locks the money up for 101 blocks is not taken: 83 and the last hop's 18.
    set.network.set_route_lock_blocks(83);
    let bill = set.bill(100).await;
    let locked = set.pay("4", &bill).await.unwrap();
    assert_eq!(locked.state, CardPaymentState::Failed);
    set.network.set_route_lock_blocks(82);
    let bill = set.bill(100).await;
    let payment = set.pay("5", &bill).await.unwrap();
    assert_eq!(payment.state, CardPaymentState::Sending);
    set.take(&bill).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    set.stop("not locked up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_whose_last_hop_locks_too_long_is_refused_before_anything() {
    let settings = Settings {
        card_payments: CardPaymentSettings {
            max_lock_blocks: 17,
            ..settings().card_payments
        },
        ..settings()
    };
    let mut set = Set::with(limits(), settings).await;
    let bill = set.bill(100).await;
    assert_eq!(set.pay("p", &bill).await, Err("card.locks_too_long"));
    set.stop("refused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_operator_bears_the_route_the_card_pays_the_amount_alone() {
    let settings = Settings {
        card_payments: CardPaymentSettings {
            card_bears_route: false,
            ..settings().card_payments
        },
        ..settings()
    };
    let mut set = Set::with(CardLimits::default(), settings).await;
    set.network.set_route_fee_msat(3 * SAT);
    // Money of the operator's for the route.
    let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(1_000)).await;
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
    let bill = set.bill(ON_CARD).await;
    let payment = set.pay("p", &bill).await.unwrap();
    assert_eq!(
        (payment.state, set.balance().await),
        (CardPaymentState::Sending, 0)
    );
    set.take(&bill).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    let fees = set.store.balance(&Account::routing_fees()).await.unwrap();
    assert_eq!(
        fees.posted(flashkit::ledger::Side::Debit),
        i128::from(3 * SAT)
    );
    set.stop("borne").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tills_with_one_tap_pay_one_invoice_once() {
    let mut set = Set::new(limits()).await;
    let tap = set.card.chip.tap();
    let set = Arc::new(set);
    let mut bills = Vec::new();
    for _ in 0..16 {
        bills.push(set.bill(100).await);
    }
    let mut running = Vec::new();
    for (index, bill) in bills.iter().cloned().enumerate() {
        let (set, tap) = (set.clone(), tap.clone());
        running.push(tokio::spawn(async move {
            set.pay_tap(&format!("p{index}"), &tap, &bill).await
        }));
    }
    let mut begun = 0;
    for (running, bill) in running.into_iter().zip(&bills) {
        match running.await.unwrap() {
            Ok(payment) => {
                begun += 1;
                set.take(bill).await;
                set.until_state(payment.id, CardPaymentState::Succeeded)
                    .await;
            }
            Err(code) => assert_eq!(code, "card.tap_replayed"),
        }
    }
    assert_eq!((begun, set.balance().await), (1, ALL - 100 * SAT));
    Arc::into_inner(set).unwrap().stop("one of them").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_says_what_the_node_cannot_and_what_comes_late_is_in_suspense() {
    let mut set = Set::new(limits()).await;
    set.node.script([Pay::SendAndDoubt]);
    let bill = set.bill(10_000).await;
    let payment = set.pay("p", &bill).await.unwrap();
    let resolve = |name: &str, despite_record| ResolveCardPayment {
        key: key(name),
        payment: payment.id,
        outcome: CardPaymentOutcome::Failed,
        reason: "the shop was asked".to_owned(),
        despite_record,
    };
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    until("it is on its way", || async {
        set.payee.record(hash(&bill)).is_some()
    })
    .await;
    let refused = cards.resolve_payment(&issuer, resolve("1", false)).await;
    assert_eq!(refused.unwrap_err().code(), "card.payment_in_flight");
    let failed = cards
        .resolve_payment(&issuer, resolve("2", true))
        .await
        .unwrap();
    assert_eq!(
        (failed.state, set.balance().await),
        (CardPaymentState::Failed, ALL)
    );
    let refused = cards.resolve_payment(&issuer, resolve("3", true)).await;
    assert_eq!(refused.unwrap_err().code(), "card.payment_final");
    set.take(&bill).await;
    until("it is in suspense", || async {
        let suspense = set.store.balance(&Account::suspense()).await.unwrap();
        suspense.debits_posted == i128::from(10_000 * SAT)
    })
    .await;
    set.stop("late").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_the_node_and_nobody_asked_for_is_nobodys_payment() {
    let set = Set::new(limits()).await;
    let node: &ScriptedNode = &set.node;
    let bill = set.bill(5).await;
    node.remember(hash(&bill), PaymentState::Succeeded, 5 * SAT);
    node.inject(LightningEvent::Sent {
        payment_hash: hash(&bill),
        fee_msat: Some(1),
    });
    until("it is in suspense", || async {
        let suspense = set.store.balance(&Account::suspense()).await.unwrap();
        suspense.debits_posted == i128::from(5 * SAT + 1)
    })
    .await;
    assert_eq!(set.balance().await, ALL);
    assert_eq!(node.node_id().len(), 66);
}
