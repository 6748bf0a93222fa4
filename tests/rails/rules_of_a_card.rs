//! What a card's program and its holder's privacy mean for the invoices that it pays.

use flashkit::access::Credential;
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{
    ActivateCard, CardLimits, CardPaymentState, CardProgramTerms, CreateCardProgram, FeeBearer,
    IssueCard, IssueVirtualCard, PayWithCard, VirtualTap, WithdrawFromCard,
};
use flashkit::ids::CardId;
use flashkit::lightning::{InvoiceRequest, LightningNode, Preimage};
use flashkit::testkit::virtual_card::VirtualCard;
use serde_json::json;

use crate::lnurl::withdraw;
use crate::set::{ON_CARD, Set, settings};
use crate::support::books::expect_sound;
use crate::support::key;
use crate::support::scene::told;
use crate::support::shop::{self, HeldCard, SAT};

const OTHER: &str = "04a39493cc8699";

/// Another card, of a program, with 20,000 sats.
async fn card_of(set: &Set, terms: CardProgramTerms) -> HeldCard {
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let command = CreateCardProgram {
        key: key("program"),
        name: "Cards".to_owned(),
        terms,
    };
    let program = cards.programs().create(&issuer, command).await.unwrap().id;
    let command = IssueCard {
        key: key("issue"),
        uid: OTHER.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: Some(program),
    };
    let id = cards.issue(&issuer, command).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, OTHER).await.unwrap();
    let chip = VirtualCard::program(OTHER, &keys).unwrap();
    let command = ActivateCard {
        key: key("activate"),
        card: id,
    };
    let holder = cards.activate(&issuer, command).await.unwrap();
    let card = HeldCard {
        id,
        holder: holder.holder.clone(),
        chip,
    };
    shop::top_up(
        &set.engine,
        &set.customer,
        &card,
        "other",
        shop::sat(20_000),
    )
    .await;
    card
}

/// A card that is a number and a code, of a program, with 20,000 sats: the text that stands for its tap.
async fn virtual_card_of(set: &Set, terms: CardProgramTerms) -> (CardId, Credential, String) {
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let command = CreateCardProgram {
        key: key("virtual"),
        name: "Numbers".to_owned(),
        terms,
    };
    let program = cards.programs().create(&issuer, command).await.unwrap().id;
    let command = IssueVirtualCard {
        key: key("virtual"),
        limits: CardLimits::default(),
        expires_at_ms: None,
        program: Some(program),
    };
    let card = cards.issue_virtual(&issuer, command).await.unwrap().id;
    let command = ActivateCard {
        key: key("virtual"),
        card,
    };
    let held = cards.activate(&issuer, command).await.unwrap();
    shop::fund(&*set.store, 1, card, 20_000 * SAT).await;
    let shown = cards.virtual_details(&held.holder, card).await.unwrap();
    let tap = VirtualTap::new(&shown.number, &shown.code).unwrap();
    (card, held.holder.clone(), tap.to_string())
}

/// Who bears the route says the program of a virtual card as of any other, and where it pays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virtual_card_pays_elsewhere_as_its_program_says() {
    for (bearer, of_card, of_merchant) in [
        // As a card without a program.
        (None, 10_007, 0),
        (Some(FeeBearer::Card), 10_007, 0),
        (Some(FeeBearer::Merchant), 10_000, 7),
        (Some(FeeBearer::Operator), 10_000, 0),
    ] {
        let set = Set::new(CardLimits::default()).await;
        let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(1_000)).await;
        set.customer.pay(&sale.bolt11).await.unwrap();
        shop::settled(&set.engine, &sale).await;
        set.network.set_route_fee_msat(7 * SAT);
        let terms = CardProgramTerms {
            fee_bearer: bearer,
            merchants: vec![set.merchant.id],
            ..CardProgramTerms::default()
        };
        let (card, holder, tap) = virtual_card_of(&set, terms).await;
        let bill = set.bill(10_000).await;
        let cards = set.engine.cards();
        let elsewhere = shop::merchant(&set.engine, "Elsewhere").await.till;
        let refused = cards.pay(&elsewhere, pay("else", tap.clone(), &bill)).await;
        assert_eq!(told(refused).map(drop), Err("card.merchant_not_allowed"));
        let payment = cards.pay(&set.merchant.till, pay("pay", tap, &bill)).await;
        let payment = payment.unwrap().value;
        assert_eq!(payment.fee_bearer, bearer.unwrap_or(FeeBearer::Card));
        set.take(&bill).await;
        set.until_state(payment.id, CardPaymentState::Succeeded)
            .await;
        let left = cards.get(&holder, card).await.unwrap().balance_msat / SAT;
        let here = set.payable().await / SAT;
        assert_eq!(
            (20_000 - left, 1_000 - here),
            (of_card, of_merchant),
            "{bearer:?}"
        );
        engine_is_sound(set).await;
    }
}

/// Cards that were funded without a payment: the node has less than the books.
async fn engine_is_sound(set: Set) {
    expect_sound(&set.engine, "virtual").await;
    set.engine.stop().await.unwrap();
}

fn pay(name: &str, tap: String, bolt11: &str) -> PayWithCard {
    PayWithCard {
        key: key(name),
        tap,
        bolt11: bolt11.to_owned(),
        pin: None,
    }
}

/// Where no till took a tap, whoever is paid may be the card's holder, and the route the holder's own:
/// nobody else bears it, whatever the program says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_till_the_card_bears_the_route() {
    let terms: CardProgramTerms = serde_json::from_value(json!({})).unwrap();
    assert_eq!(terms.fee_bearer, None, "left out is as without a program");
    for bearer in [None, Some(FeeBearer::Merchant), Some(FeeBearer::Operator)] {
        let set = Set::new(CardLimits::default()).await;
        set.network.set_route_fee_msat(7 * SAT);
        let terms = CardProgramTerms {
            fee_bearer: bearer,
            ..CardProgramTerms::default()
        };
        let mut card = card_of(&set, terms).await;
        let cards = set.engine.cards();
        let quote = cards.quote_withdrawal(&card.holder, card.id).await.unwrap();
        assert!(quote.max_route_fee_msat > 10 * SAT, "{quote:?}");
        let home = set.bill(1_000).await;
        let command = WithdrawFromCard {
            key: key("home"),
            card: card.id,
            bolt11: home.clone(),
            amount_msat: None,
        };
        let payment = cards.withdraw(&card.holder, command).await.unwrap().value;
        assert_eq!(payment.fee_bearer, FeeBearer::Card, "{bearer:?}");
        set.take(&home).await;
        set.until_state(payment.id, CardPaymentState::Succeeded)
            .await;
        let tap = card.chip.tap();
        let (_, offer) = set.json(&tap).await;
        let most = offer["maxWithdrawable"].as_i64().unwrap();
        assert!(most < (20_000 - 1_007 - 90) * SAT, "{most}");
        let alone = set.bill(1_000).await;
        set.json(&withdraw(&tap, &alone)).await;
        set.take(&alone).await;
        let told = json!({"status": "OK"});
        crate::support::until("it is paid", || async {
            set.json(&withdraw(&tap, &alone)).await.1 == told
        })
        .await;
        let left = cards.get(&card.holder, card.id).await.unwrap().balance_msat;
        assert_eq!(left, (20_000 - 2 * 1_007) * SAT, "{bearer:?}");
        let fees = flashkit::ledger::Account::routing_fees();
        let fees = set.store.balance(&fees).await.unwrap();
        assert_eq!(fees.debits_posted, 0, "{bearer:?}");
        set.stop("the card bears it").await;
    }
}

/// A card that can pay at certain merchants pays nobody who is not known here, and those it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_of_certain_merchants_pays_nobody_who_is_not_known() {
    let set = Set::new(CardLimits::default()).await;
    let terms = CardProgramTerms {
        merchants: vec![set.merchant.id],
        ..CardProgramTerms::default()
    };
    let mut card = card_of(&set, terms).await;
    let bill = set.bill(1_000).await;
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let refused = cards
        .pay(&issuer, pay("alone", card.chip.tap(), &bill))
        .await;
    assert_eq!(told(refused).map(drop), Err("card.payee_not_known"));
    let elsewhere = shop::merchant(&set.engine, "Elsewhere").await.till;
    let refused = cards
        .pay(&elsewhere, pay("else", card.chip.tap(), &bill))
        .await;
    assert_eq!(told(refused).map(drop), Err("card.merchant_not_allowed"));
    let command = pay("here", card.chip.tap(), &bill);
    let payment = cards.pay(&set.merchant.till, command).await.unwrap().value;
    set.take(&bill).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    set.stop("certain merchants").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_merchant_bears_the_route_it_comes_off_what_it_has_here() {
    let set = Set::new(CardLimits::default()).await;
    let terms = CardProgramTerms {
        fee_bearer: Some(FeeBearer::Merchant),
        ..CardProgramTerms::default()
    };
    let mut card = card_of(&set, terms).await;
    let cards = set.engine.cards();
    let till = &set.merchant.till;
    let bill = set.bill(10_000).await;
    let refused = cards
        .pay(till, pay("nothing", card.chip.tap(), &bill))
        .await;
    assert_eq!(told(refused).map(drop), Err("card.route_not_covered"));
    let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(1_000)).await;
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
    set.network.set_route_fee_msat(7 * SAT);
    let payment = cards.pay(till, pay("pay", card.chip.tap(), &bill)).await;
    let payment = payment.unwrap().value;
    // 0.5 % and 10 sats.
    assert_eq!(set.payable().await, 940 * SAT);
    set.take(&bill).await;
    set.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    let seen = cards.get(&card.holder, card.id).await.unwrap();
    assert_eq!(
        (set.payable().await, seen.balance_msat),
        (993 * SAT, 10_000 * SAT)
    );
    set.stop("the merchant bears it").await;
}

/// A merchant whose tills are elsewhere has nothing here: it may owe the routes, up to a bound, and
/// what it earns here later pays for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merchant_that_has_nothing_here_may_owe_the_route() {
    let set = Set::new(CardLimits::default()).await;
    let terms = CardProgramTerms {
        fee_bearer: Some(FeeBearer::Merchant),
        // The most that two routes of 0.5 % and 10 sats of a 1,000 may cost.
        route_owed_up_to_msat: Some(30 * SAT),
        ..CardProgramTerms::default()
    };
    let mut card = card_of(&set, terms).await;
    set.network.set_route_fee_msat(7 * SAT);
    let (cards, till) = (set.engine.cards(), &set.merchant.till);
    let owes = async || {
        let account = flashkit::ledger::Account::merchant_receivable(set.merchant.id);
        let balance = set.store.balance(&account).await.unwrap();
        i64::try_from(balance.highest(account.kind().side())).unwrap()
    };
    let mut bills = Vec::new();
    for name in ["1", "2", "3"] {
        let bill = set.bill(1_000).await;
        let paid = cards.pay(till, pay(name, card.chip.tap(), &bill)).await;
        match name {
            "3" => assert_eq!(told(paid).map(drop), Err("card.route_not_covered")),
            _ => bills.push((bill, paid.unwrap().value.id)),
        }
    }
    assert_eq!((owes().await, set.payable().await), (30 * SAT, 0));
    // What the route cost is owed, and nothing of one that came back.
    let [(arrives, first), (fails, second)] = &bills[..] else {
        panic!("{bills:?}");
    };
    set.take(arrives).await;
    set.give_back(fails).await;
    set.until_state(*first, CardPaymentState::Succeeded).await;
    set.until_state(*second, CardPaymentState::Failed).await;
    assert_eq!((owes().await, set.payable().await), (7 * SAT, 0));
    let seen = cards.get(&card.holder, card.id).await.unwrap();
    assert_eq!(seen.balance_msat, 19_000 * SAT);
    let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(1_000)).await;
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
    assert_eq!((owes().await, set.payable().await), (0, 993 * SAT));
    set.stop("owed").await;
}

/// How long a payment may lock money up is less than two days, enough for what LND asks for of the
/// last hop and two more like it; a program says another number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_says_how_long_money_may_be_locked_up() {
    let mut set = Set::new(CardLimits::default()).await;
    let most = flashkit::CardPaymentSettings::default().max_lock_blocks;
    assert!((3 * 80..288).contains(&most), "{most}");
    let terms = CardProgramTerms {
        max_lock_blocks: Some(280),
        ..CardProgramTerms::default()
    };
    let mut card = card_of(&set, terms).await;
    // With the last hop's 18.
    set.network.set_route_lock_blocks(262);
    let bill = set.bill(1_000).await;
    let usual = set.pay("usual", &bill).await.unwrap();
    assert_eq!(usual.state, CardPaymentState::Failed);
    let cards = set.engine.cards();
    for (name, blocks, state) in [
        ("fits", 262, CardPaymentState::Sending),
        ("longer", 263, CardPaymentState::Failed),
    ] {
        set.network.set_route_lock_blocks(blocks);
        let bill = set.bill(1_000).await;
        let command = pay(name, card.chip.tap(), &bill);
        let payment = cards.pay(&set.merchant.till, command).await.unwrap();
        assert_eq!(payment.state, state, "{name}");
        if state == CardPaymentState::Sending {
            set.take(&bill).await;
            set.until_state(payment.id, CardPaymentState::Succeeded)
                .await;
        }
    }
    set.stop("locked up").await;
}

/// What a holder sends to a wallet of their own, another card's tap is told nothing of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holders_own_payment_is_told_to_no_other_card() {
    let mut set = Set::new(CardLimits::default()).await;
    let mut other = card_of(&set, CardProgramTerms::default()).await;
    let pending = json!({"status": "OK", "state": "pending"});
    for (name, arrives) in [("home", true), ("back", false)] {
        let bolt11 = set.bill(1_000).await;
        let command = WithdrawFromCard {
            key: key(name),
            card: set.card.id,
            bolt11: bolt11.clone(),
            amount_msat: None,
        };
        let holder = set.card.holder.clone();
        let payment = set.engine.cards().withdraw(&holder, command).await;
        let id = payment.unwrap().value.id;
        let state = if arrives {
            set.take(&bolt11).await;
            CardPaymentState::Succeeded
        } else {
            set.give_back(&bolt11).await;
            CardPaymentState::Failed
        };
        set.until_state(id, state).await;
        let others = withdraw(&other.chip.tap(), &bolt11);
        assert_eq!(set.json(&others).await, (200, pending.clone()), "{name}");
        let own = withdraw(&set.card.chip.tap(), &bolt11);
        let told = set.json(&own).await.1;
        let status = if arrives { "OK" } else { "ERROR" };
        assert_eq!((&told["status"], told.get("state")), (&status.into(), None));
    }
    let spent = 1_000 * SAT;
    assert_eq!(set.balance().await, ON_CARD * SAT - spent);
    set.stop("told to nobody").await;
}

/// Expired for this engine, whatever its node thinks: refused before anything is set aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_invoice_is_refused_before_anything() {
    let mut set = Set::new(CardLimits::default()).await;
    let request = InvoiceRequest {
        payment_hash: Preimage::new([3; 32]).payment_hash(),
        amount_msat: Some(1_000 * SAT),
        description: "gone".to_owned(),
        description_hash: None,
        expiry_seconds: 0,
    };
    let bolt11 = set.payee.create_invoice(request).await.unwrap();
    assert_eq!(
        set.pay("gone", &bolt11).await.err(),
        Some("card.invoice_expired")
    );
    assert_eq!(set.balance().await, ON_CARD * SAT);
    assert!(set.node.asked() == 0);
    set.stop("expired").await;
}

/// A store that cannot be asked may have taken it: the till is not told `ERROR`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_cannot_tell_is_pending() {
    let mut set = Set::with(CardLimits::default(), settings()).await;
    let bolt11 = set.bill(1_000).await;
    let url = withdraw(&set.card.chip.tap(), &bolt11);
    let engine = set.engine.clone();
    set.stop("before").await;
    let request = LnurlRequest { url, till: None };
    let reply = engine.cards().answer(&request).await;
    let told: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(told, json!({"status": "OK", "state": "pending"}));
}
