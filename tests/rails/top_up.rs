//! Topping a card up: its own address, stable until it is taken away, and the older apps' form.

use std::sync::atomic::Ordering;

use flashkit::Settings;
use flashkit::cards::{
    ActivateCard, CardLimits, IssueCard, RenewTopUpAddress, ReplaceCard, TopUpAddress, WipeCard,
};
use flashkit::checkout::{PayAddressTerms, PayerDataWanted, SetPayAddress};
use flashkit::invoices::InvoiceState;
use flashkit::lightning::PaymentState;
use flashkit::testkit::virtual_card::VirtualCard;
use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::set::{ON_CARD, Set, hash, settings};
use crate::support::shop::{self, SAT};
use crate::support::{key, until};

async fn address(set: &Set) -> TopUpAddress {
    let cards = set.engine.cards();
    let found = cards.top_up_address(&set.card.holder, set.card.id).await;
    found.unwrap().value
}

async fn renew(set: &Set, name: &str) -> TopUpAddress {
    let command = RenewTopUpAddress {
        key: key(name),
        card: set.card.id,
    };
    let cards = set.engine.cards();
    let renewed = cards.renew_top_up_address(&set.card.holder, command).await;
    renewed.unwrap().value
}

/// What an LNURL stands for, by LUD-01.
fn decoded(lnurl: &str) -> String {
    let (hrp, data) = bitcoin::bech32::decode(lnurl).unwrap();
    assert_eq!(hrp.to_string(), "lnurl");
    String::from_utf8(data).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_pays_a_card_at_its_address_with_exactly_what_it_said() {
    let limits = CardLimits {
        max_balance: Some(60_000 * SAT),
        ..CardLimits::default()
    };
    let set = Set::new(limits).await;
    let address = address(&set).await;
    assert_eq!(decoded(&address.lnurl), address.url);
    assert!(
        address
            .url
            .starts_with("https://pay.example.com/boltcard/top-up/")
    );
    let reply = set.ask(&address.url).await;
    let expected = format!(
        "{{\"tag\":\"payRequest\",\"minSendable\":1000,\"maxSendable\":10000000,\
         \"metadata\":\"[[\\\"text/plain\\\",\\\"Card top-up\\\"]]\",\"callback\":\"{}\",\
         \"commentAllowed\":0}}",
        address.url
    );
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, expected.as_str())
    );
    // To the msat.
    let (status, made) = set.json(&format!("{}?amount=1234567", address.url)).await;
    assert_eq!((status, &made["routes"]), (200, &json!([])));
    let bolt11 = made["pr"].as_str().unwrap();
    let invoice: Bolt11Invoice = bolt11.parse().unwrap();
    assert_eq!(invoice.amount_milli_satoshis(), Some(1_234_567));
    let Bolt11InvoiceDescriptionRef::Hash(shown) = invoice.description() else {
        panic!("the hash of what was shown");
    };
    let (_, offer) = set.json(&address.url).await;
    let metadata = offer["metadata"].as_str().unwrap();
    assert_eq!(shown.0.to_string(), hex::encode(Sha256::digest(metadata)));
    set.customer.pay(bolt11).await.unwrap();
    until("it is on the card", || async {
        set.balance().await == ON_CARD * SAT + 1_234_567
    })
    .await;
    for amount in ["999", "8765434", "0", "-1", "x", "9223372036854775808", ""] {
        let (status, reply) = set.json(&format!("{}?amount={amount}", address.url)).await;
        assert_eq!(
            (status, &reply["status"]),
            (400, &json!("ERROR")),
            "{amount}"
        );
    }
    set.stop("topped up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_too_much_goes_back_while_it_can() {
    let limits = CardLimits {
        max_balance: Some(60_000 * SAT),
        ..CardLimits::default()
    };
    let set = Set::new(limits).await;
    let address = address(&set).await;
    // Each fits by itself, and both do not.
    let mut bills = Vec::new();
    for _ in 0..2 {
        let (_, made) = set.json(&format!("{}?amount=6000000", address.url)).await;
        bills.push(made["pr"].as_str().unwrap().to_owned());
    }
    set.customer.pay(&bills[0]).await.unwrap();
    assert!(set.customer.pay(&bills[1]).await.is_err());
    until("it is on the card", || async {
        set.balance().await == 56_000 * SAT
    })
    .await;
    // And a card that is full says so.
    let (_, made) = set.json(&format!("{}?amount=4000000", address.url)).await;
    set.customer
        .pay(made["pr"].as_str().unwrap())
        .await
        .unwrap();
    until("it is full", || async {
        set.balance().await == 60_000 * SAT
    })
    .await;
    assert_eq!(set.json(&address.url).await.0, 400);
    set.stop("too much").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_was_taken_away_takes_nothing_any_more() {
    let mut set = Set::new(CardLimits::default()).await;
    let old = address(&set).await;
    assert_eq!(address(&set).await, old);
    let tap = set.card.chip.tap();
    set.json(&tap).await;
    assert_eq!(address(&set).await, old, "the same after every tap");
    let (_, made) = set.json(&format!("{}?amount=1000000", old.url)).await;
    let bolt11 = made["pr"].as_str().unwrap().to_owned();
    let new = renew(&set, "renew").await;
    assert_ne!(new, old);
    assert_eq!(
        (renew(&set, "renew").await, address(&set).await),
        (new.clone(), new.clone())
    );
    for url in [old.url.clone(), format!("{}?amount=1000000", old.url)] {
        let (status, reply) = set.json(&url).await;
        assert_eq!((status, &reply["status"]), (400, &json!("ERROR")), "{url}");
    }
    // An invoice of before: over the network it goes back, and by book it is refused.
    assert!(set.customer.pay(&bolt11).await.is_err());
    let record = set.node_record(&bolt11);
    assert_eq!(record, Some(PaymentState::Failed));
    assert_eq!(set.balance().await, ON_CARD * SAT);
    let invoices = set.store.documents(flashkit::store::DocumentQuery::under(
        "invoice",
        "payment_hash",
        &hash(&bolt11).to_string(),
        1,
    ));
    let (_, document) = invoices.await.unwrap().pop().unwrap();
    let body: serde_json::Value = document.body.read().unwrap();
    assert_eq!(
        body["state"],
        serde_json::to_value(InvoiceState::New).unwrap()
    );
    // The new one goes.
    let (_, made) = set.json(&format!("{}?amount=1000000", new.url)).await;
    set.customer
        .pay(made["pr"].as_str().unwrap())
        .await
        .unwrap();
    until("it is on the card", || async {
        set.balance().await == (ON_CARD + 1_000) * SAT
    })
    .await;
    // Neither a till nor a stranger may look it up or renew it.
    let cards = set.engine.cards();
    let refused = cards.top_up_address(&set.merchant.till, set.card.id).await;
    assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    set.stop("taken away").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_apps_top_up_by_the_p_of_any_tap() {
    let mut set = Set::new(CardLimits::default()).await;
    let first = set.card.chip.tap();
    let (parameters, used) = (first.split_once('?').unwrap().1, set.bill(10).await);
    let p = parameters.split('&').next().unwrap();
    set.pay_tap("used", &first, &used).await.unwrap();
    set.take(&used).await;
    // Also of a tap that was used up, and of two taps of one card: the card is the same.
    let second = set.card.chip.tap();
    let other_p = second
        .split_once('?')
        .unwrap()
        .1
        .split('&')
        .next()
        .unwrap()
        .to_owned();
    for (path, p) in [("pay", p), ("top-up", p), ("pay", other_p.as_str())] {
        let url = format!("https://pay.example.com/boltcard/{path}?{p}");
        let (status, offer) = set.json(&url).await;
        assert_eq!(
            (status, &offer["tag"]),
            (200, &json!("payRequest")),
            "{url}"
        );
        assert_eq!(
            offer["callback"],
            format!("https://pay.example.com/boltcard/pay?{p}")
        );
        let callback = offer["callback"].as_str().unwrap();
        let (_, made) = set.json(&format!("{callback}&amount=1000000")).await;
        set.customer
            .pay(made["pr"].as_str().unwrap())
            .await
            .unwrap();
    }
    until("all of it is on the card", || async {
        set.balance().await == (ON_CARD - 10 + 3_000) * SAT
    })
    .await;
    // The tap whose p it was is good still.
    let bill = set.payee.wallet_invoice(SAT, "small").unwrap();
    set.pay_tap("second", &second, &bill).await.unwrap();
    for url in [
        "https://pay.example.com/boltcard/pay",
        "https://pay.example.com/boltcard/pay?p=00",
        "https://pay.example.com/boltcard/pay?p=00000000000000000000000000000000",
        "https://pay.example.com/boltcard/top-up/00",
    ] {
        assert_eq!(set.json(url).await.0, 400, "{url}");
    }
    set.stop("topped up").await;
}

/// The app of somebody whose card was replaced keeps the page of a tap: when the chip is somebody else's
/// card by then, nothing paid there is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chip_that_was_issued_twice_is_topped_up_at_its_own_address_alone() {
    let mut set = Set::new(CardLimits::default()).await;
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let by_tap = |tap: &str| {
        let parameters = tap.split_once('?').unwrap().1;
        let p = parameters.split('&').next().unwrap();
        format!("https://pay.example.com/boltcard/pay?{p}")
    };
    let kept = by_tap(&set.card.chip.tap());
    let own = address(&set).await.url;
    assert_eq!(set.json(&kept).await.0, 200);
    let issue = |name: &str, uid: &str| IssueCard {
        key: key(name),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let other = "04a39493cc8699";
    let new = cards.issue(&issuer, issue("new", other)).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, other).await.unwrap();
    let mut chip = VirtualCard::program(other, &keys).unwrap();
    let command = ReplaceCard {
        key: key("replace"),
        card: set.card.id,
        tap: chip.tap(),
    };
    cards.replace(&set.card.holder, command).await.unwrap();
    // The card in its place is topped up there, while the chip is nobody else's.
    assert_eq!(set.json(&kept).await.0, 200);
    let command = WipeCard {
        key: key("wipe"),
        card: set.card.id,
    };
    cards.wipe(&issuer, command).await.unwrap();
    let again = issue("again", shop::UID);
    let theirs = cards.issue(&issuer, again).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, shop::UID).await.unwrap();
    let mut second = VirtualCard::program(shop::UID, &keys).unwrap();
    let command = ActivateCard {
        key: key("theirs"),
        card: theirs,
    };
    cards.activate(&issuer, command).await.unwrap();
    for url in [
        kept.clone(),
        format!("{kept}&amount=1000000"),
        by_tap(&second.tap()),
    ] {
        let (status, told) = set.json(&url).await;
        assert_eq!((status, &told["status"]), (400, &json!("ERROR")), "{url}");
        let reason = told["reason"].as_str().unwrap();
        assert_eq!(reason, "no card is topped up at this address");
    }
    // Each card's own address leads to it.
    let theirs_at = cards
        .top_up_address(&issuer, theirs)
        .await
        .unwrap()
        .url
        .clone();
    for (url, card, before) in [(own, new, ON_CARD), (theirs_at, theirs, 0)] {
        let (_, made) = set.json(&format!("{url}?amount=1000000")).await;
        let bolt11 = made["pr"].as_str().unwrap();
        set.customer.pay(bolt11).await.unwrap();
        until("it is on the card", || async {
            let seen = cards.get(&issuer, card).await.unwrap();
            seen.balance_msat == (before + 1_000) * SAT
        })
        .await;
    }
    set.stop("issued twice").await;
}

/// Anybody who has the address can ask: whoever asks too often has nothing made, not at the node
/// either, and the others' addresses are not touched by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_gives_out_so_many_invoices_in_an_hour() {
    let few = Settings {
        top_up_invoices_per_hour: 3,
        ..settings()
    };
    let set = Set::with(CardLimits::default(), few).await;
    let url = format!("{}?amount=1000", address(&set).await.url);
    let before = set.node.made.load(Ordering::SeqCst);
    let mut given = 0;
    for _ in 0..20 {
        let (status, reply) = set.json(&url).await;
        if status == 200 {
            given += 1;
        } else {
            let reason = reply["reason"].as_str().unwrap();
            assert!(reason.contains("too many invoices"), "{reason}");
        }
    }
    // Six, where an hour begins meanwhile.
    assert!((3..=6).contains(&given), "{given}");
    let made = set.node.made.load(Ordering::SeqCst) - before;
    assert_eq!(made, given);
    let other = shop::card(&set.engine, "04aabbccddee80", CardLimits::default()).await;
    let cards = set.engine.cards();
    let other = cards.top_up_address(&other.holder, other.id).await.unwrap();
    let (status, _) = set.json(&format!("{}?amount=1000", other.value.url)).await;
    assert_eq!(status, 200);
    set.engine.stop().await.unwrap();
}

/// Every tap's `p` is an address that nobody can revoke: the operator can end them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_addresses_that_taps_are_can_be_ended() {
    for top_up_by_tap in [true, false] {
        let with = Settings {
            top_up_by_tap,
            ..settings()
        };
        let mut set = Set::with(CardLimits::default(), with).await;
        let tap = set.card.chip.tap();
        let (_, parameters) = tap.split_once('?').unwrap();
        let expected = if top_up_by_tap { 200 } else { 400 };
        for path in ["pay", "top-up"] {
            let url = format!("https://pay.example.com/boltcard/{path}?{parameters}");
            let (status, reply) = set.json(&url).await;
            assert_eq!(status, expected, "{reply}");
        }
        // Its own can be asked either way.
        assert_eq!(set.json(&address(&set).await.url).await.0, 200);
        set.stop("ended").await;
    }
}

/// Whoever asks needs no credential: that the channels cannot take it in is said, and not how much
/// they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_not_told_how_much_the_node_can_take_in() {
    let set = Set::new(CardLimits::default()).await;
    let command = SetPayAddress {
        key: key("address"),
        name: "ivy".to_owned(),
        merchant: Some(set.merchant.id),
        terms: PayAddressTerms {
            min_sendable_msat: 1_000,
            max_sendable_msat: 5_000_000,
            description: "patties".to_owned(),
            long_description: String::new(),
            comment_allowed: 0,
            payer_data: PayerDataWanted::default(),
            invoices_per_hour: 100,
            closed: false,
        },
    };
    let (checkout, issuer) = (set.engine.checkout(), set.engine.issuer());
    checkout.set_address(&issuer, command).await.unwrap();
    set.node.set_inbound_msat(123_457);
    let url = address(&set).await.url;
    let of_card = set.ask(&format!("{url}?amount=1000000")).await;
    let of_seller = checkout
        .answer("/.well-known/lnurlp/ivy/pay?revision=1&amount=1000000")
        .await;
    for reply in [of_card, of_seller] {
        assert_eq!(reply.status, 400);
        let told: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        let reason = told["reason"].as_str().unwrap();
        assert!(reason.contains("lightning.no_inbound_capacity"), "{reason}");
        assert!(!reason.contains("123"), "{reason}");
    }
}
