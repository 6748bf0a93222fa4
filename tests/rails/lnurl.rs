//! LNURL as the tills, wallets and apps in the field speak it: shapes to the byte, and no lies.

use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{CardLimits, CardPaymentState, FreezeCard, SetCardPin};
use flashkit::lightning::PaymentState;
use flashkit::{CardPaymentSettings, Settings};
use serde_json::json;

use crate::set::{ON_CARD, Set, hash, settings};
use crate::support::scripted::Pay;
use crate::support::shop::{self, SAT};
use crate::support::{key, until};

/// The parameters of a tap, as a URL of the chip has them.
fn parameters(tap: &str) -> &str {
    tap.split_once('?').unwrap().1
}

/// `k1` of a tap.
fn k1(tap: &str) -> String {
    let value = |name: &str| {
        let mut pairs = parameters(tap)
            .split('&')
            .map(|pair| pair.split_once('=').unwrap());
        pairs
            .find(|(found, _)| *found == name)
            .unwrap()
            .1
            .to_owned()
    };
    format!("{}-{}", value("p"), value("c"))
}

/// The second call of LUD-03, as the tills in the field make it.
pub fn withdraw(tap: &str, bolt11: &str) -> String {
    let (parameters, k1) = (parameters(tap), k1(tap));
    format!("https://pay.example.com/boltcard?{parameters}&k1={k1}&pr={bolt11}")
}

fn ok() -> (u16, serde_json::Value) {
    (200, json!({"status": "OK"}))
}

fn pending() -> (u16, serde_json::Value) {
    (200, json!({"status": "OK", "state": "pending"}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_says_what_the_tap_can_spend_and_uses_nothing_up() {
    let limits = CardLimits {
        per_tap: Some(30_000 * SAT),
        pin_above: Some(5_000 * SAT),
        ..CardLimits::default()
    };
    let mut set = Set::new(limits).await;
    let tap = set.card.chip.tap();
    let issuer = set.engine.issuer();
    let address = set
        .engine
        .cards()
        .top_up_address(&issuer, set.card.id)
        .await
        .unwrap();
    let host = "pay.example.com/boltcard";
    let pay_link = address.url.replace("https://", "lnurlp://");
    let parameters = parameters(&tap).to_owned();
    // 30,000 sats less what their route may cost: 0.5 % and 10 sats.
    let expected = format!(
        "{{\"tag\":\"withdrawRequest\",\"callback\":\"https://{host}?{parameters}\",\
         \"k1\":\"{}\",\"minWithdrawable\":1000,\"maxWithdrawable\":29840000,\
         \"currentBalance\":50000000,\"balanceCheck\":\"https://{host}?{parameters}\",\
         \"payLink\":\"{pay_link}\",\"defaultDescription\":\"Card payment\",\"pinLimit\":5000001}}",
        k1(&tap)
    );
    for url in [
        tap.clone(),
        format!("https://{host}?{parameters}"),
        format!("/boltcard?k1={}", k1(&tap)),
        tap.replace("lnurlw://", "LNURLW://").to_owned(),
    ] {
        let reply = set.ask(&url).await;
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (200, expected.as_str()),
            "{url}"
        );
    }
    // The tap is good still.
    let bill = set.bill(100).await;
    assert_eq!(set.json(&withdraw(&tap, &bill)).await, pending());
    set.take(&bill).await;
    until("it is paid", || async { set.has_arrived(&bill) }).await;
    // Used up, it offers nothing; neither does one of a card that is stopped.
    let (status, used) = set.json(&tap).await;
    assert_eq!((status, &used["status"]), (400, &json!("ERROR")));
    let freeze = FreezeCard {
        key: key("f"),
        card: set.card.id,
    };
    set.engine.cards().freeze(&issuer, freeze).await.unwrap();
    let tap = set.card.chip.tap();
    assert_eq!(set.json(&tap).await.0, 400);
    set.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_that_asks_again_hears_how_the_one_payment_stands() {
    let mut set = Set::new(CardLimits::default()).await;
    let (tap, bill) = (set.card.chip.tap(), set.bill(10_000).await);
    let url = withdraw(&tap, &bill);
    for _ in 0..3 {
        assert_eq!(set.json(&url).await, pending());
    }
    // So does another tap of it, of whatever card of ours: the invoice is on its way.
    let again = set.card.chip.tap();
    let mut other = shop::card(&set.engine, "04bbbbbbbbbbbb", CardLimits::default()).await;
    let others = other.chip.tap();
    assert_eq!(set.json(&withdraw(&again, &bill)).await, pending());
    assert_eq!(set.json(&withdraw(&others, &bill)).await, pending());
    set.take(&bill).await;
    until("it is paid", || async { set.json(&url).await == ok() }).await;
    assert_eq!(set.json(&withdraw(&others, &bill)).await, ok());
    assert_eq!(set.node.sent.lock().unwrap().len(), 1);
    assert_eq!(set.balance().await, (ON_CARD - 10_000) * SAT);
    // The tap that only asked was not used up; one that is forged hears nothing.
    let forged = withdraw(&again, &bill)
        .replace("c=", "c=0")
        .replace("-", "-0");
    assert_eq!(set.json(&forged).await.0, 400);
    let fresh = set.bill(10).await;
    assert_eq!(set.json(&withdraw(&again, &fresh)).await, pending());
    // And the first one pays nothing else.
    let (status, replayed) = set.json(&withdraw(&tap, &set.bill(1).await)).await;
    assert_eq!((status, &replayed["status"]), (400, &json!("ERROR")));
    set.take(&fresh).await;
    until("it is paid", || async { set.has_arrived(&fresh) }).await;
    set.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ok_is_said_within_the_wait_when_it_is_paid_by_then() {
    let patient = Settings {
        card_payments: CardPaymentSettings {
            wait_ms: 30_000,
            ..CardPaymentSettings::default()
        },
        ..settings()
    };
    let mut set = Set::with(CardLimits::default(), patient).await;
    let bill = set
        .payee
        .wallet_invoice(10_000 * SAT, "takes at once")
        .unwrap();
    let tap = set.card.chip.tap();
    assert_eq!(set.json(&withdraw(&tap, &bill)).await, ok());
    // Refused by the node at once: nothing is in flight, and nothing will be.
    set.node.script([Pay::Refuse]);
    let (tap, bill) = (set.card.chip.tap(), set.bill(1_000).await);
    let (status, refused) = set.json(&withdraw(&tap, &bill)).await;
    assert_eq!(status, 400);
    assert_eq!(
        refused,
        json!({"status": "ERROR", "reason": "the invoice could not be paid: no route"})
    );
    assert_eq!(set.balance().await, (ON_CARD - 10_000) * SAT);
    set.engine.stop().await.unwrap();
    // Not known: pending, although nothing was sent.
    let mut set = Set::new(CardLimits::default()).await;
    set.node.script([Pay::Doubt]);
    let (tap, bill) = (set.card.chip.tap(), set.bill(1_000).await);
    assert_eq!(set.json(&withdraw(&tap, &bill)).await, pending());
    until("it is on its way", || async {
        let record = set.payee.record(hash(&bill));
        record.is_some_and(|record| record.state == PaymentState::Pending)
    })
    .await;
    set.give_back(&bill).await;
    until("it failed", || async {
        set.json(&withdraw(&tap, &bill)).await.0 == 400
    })
    .await;
    assert_eq!(set.balance().await, ON_CARD * SAT);
    set.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tills_own_invoice_is_paid_in_the_books_with_points() {
    let mut set = Set::new(CardLimits::default()).await;
    shop::program(&set.engine, set.merchant.id).await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(ON_CARD)).await;
    let tap = set.card.chip.tap();
    // The whole balance: nothing is set aside for a route.
    assert_eq!(set.json(&withdraw(&tap, &sale.bolt11)).await, ok());
    assert_eq!(set.json(&withdraw(&tap, &sale.bolt11)).await, ok());
    assert_eq!(
        (set.balance().await, set.payable().await),
        (0, 49_000 * SAT)
    );
    let (cards, holder) = (set.engine.cards(), &set.card.holder);
    let paid = cards
        .list_payments(holder, set.card.id, None, 10)
        .await
        .unwrap();
    let [payment] = paid.value.as_slice() else {
        panic!("one payment: {paid:?}");
    };
    assert_eq!(
        (payment.state, payment.points),
        (CardPaymentState::Succeeded, 1_000)
    );
    assert_eq!(payment.merchant, Some(set.merchant.id));
    assert_eq!(
        payment.by_book.as_ref().map(|paid| paid.invoice),
        Some(sale.id)
    );
    assert!(set.node.sent.lock().unwrap().is_empty());
    set.stop("in the books").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasons_are_those_that_the_apps_look_for_and_a_pin_is_taken() {
    let limits = CardLimits {
        pin_above: Some(5_000 * SAT),
        ..CardLimits::default()
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
    let (tap, much) = (set.card.chip.tap(), set.bill(ON_CARD).await);
    let asks = withdraw(&tap, &much);
    for (url, expected) in [
        (format!("{asks}&pin=1234"), "not within bounds"),
        (asks.clone(), "PIN"),
        (format!("{asks}&pin=9999"), "PIN"),
        (format!("{asks}&pin=x"), "PIN"),
        (format!("{asks}&pr=lnbc1"), "twice"),
        (withdraw(&tap, ""), "invoice"),
        (withdraw(&tap, "lnbcrt1x"), "invoice"),
        ("https://pay.example.com/boltcard".to_owned(), "no"),
        ("https://pay.example.com/other".to_owned(), "nothing here"),
    ] {
        let (status, reply) = set.json(&url).await;
        assert!(matches!(status, 400 | 404), "{url}");
        assert_eq!(reply["status"], "ERROR", "{url}");
        let reason = reply["reason"].as_str().unwrap();
        assert!(reason.contains(expected), "{url}: {reason}");
    }
    let bill = set.bill(6_000).await;
    let url = format!("{}&pin=1234", withdraw(&tap, &bill));
    assert_eq!(set.json(&url).await, pending());
    set.take(&bill).await;
    until("it is paid", || async { set.json(&url).await == ok() }).await;
    set.stop("with a PIN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_with_a_credential_gives_its_merchants_points() {
    let mut set = Set::new(CardLimits::default()).await;
    shop::program(&set.engine, set.merchant.id).await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(1_000)).await;
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
    let bill = set
        .payee
        .wallet_invoice(10_000 * SAT, "takes at once")
        .unwrap();
    let tap = set.card.chip.tap();
    let request = |till| LnurlRequest {
        url: withdraw(&tap, &bill),
        till,
        source: None,
    };
    let cards = set.engine.cards();
    // A card's holder is no till.
    let refused = cards.answer(&request(Some(set.card.holder.clone()))).await;
    assert_eq!(refused.status, 400);
    let reply = cards
        .answer(&request(Some(set.merchant.till.clone())))
        .await;
    assert_eq!(reply.body, r#"{"status":"OK"}"#);
    // The same without it: the same payment.
    assert_eq!(
        cards.answer(&request(None)).await.body,
        r#"{"status":"OK"}"#
    );
    let paid = cards
        .list_payments(&set.card.holder, set.card.id, None, 10)
        .await
        .unwrap();
    assert_eq!((paid.value.len(), paid.value[0].points), (1, 200));
    set.stop("with points").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_tapped_pays_nothing_and_moves_no_counter() {
    let mut set = Set::new(CardLimits::default()).await;
    let bill = set.bill(10).await;
    let tap = set.card.chip.tap();
    let url = withdraw(&tap, &bill);
    let digits = b"0123456789abcdefABCDEF&=?-%+";
    let (begin, mut state) = (url.find("p=").unwrap(), 1_u64);
    let end = url.find("&pr=").unwrap();
    for _ in 0..400 {
        let mut below = |limit: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % limit
        };
        let mut bytes = url.clone().into_bytes();
        for _ in 0..=below(2) {
            let at = begin + 2 + below(end - begin - 2);
            bytes[at] = digits[below(digits.len())];
        }
        let mutated = String::from_utf8(bytes).unwrap();
        let same = |text: &str| text.to_ascii_lowercase();
        if same(&mutated) == same(&url) {
            continue;
        }
        let (status, reply) = set.json(&mutated).await;
        // What stands there twice and says the same, or is left out, does not matter.
        if status == 200 {
            let whole = mutated.contains(&k1(&tap)) || mutated.contains(parameters(&tap));
            assert!(whole, "{mutated}: {reply}");
            break;
        }
        assert_eq!(reply["status"], "ERROR", "{mutated}");
        assert_eq!(set.balance().await, ON_CARD * SAT);
    }
    let (status, _) = set.json(&url).await;
    assert_eq!(status, 200, "the tap is good still");
    set.engine.stop().await.unwrap();
}
