//! Forged taps are counted by where they come from, at every door that a tap comes in by.

use flashkit::cards::lnurl::{LnurlReply, LnurlRequest};
use flashkit::cards::{
    AddFamilyCard, AuthorizeCard, CardLimits, CardPaymentState, Cards, ChargeCard, LossBearer,
    OfflineBook, OfflineKey, OfflineTerms, PayWithCard, ReplaceCard, SetOfflineTerms, StoppedCard,
};
use flashkit::ports::{Clock, SystemClock};
use flashkit::{Answer, Error};

use crate::lnurl::withdraw;
use crate::set::Set;
use crate::support::key;
use crate::support::shop::{self, Merchant, SAT, sat};

const WRONG: &str = "card.tap_wrong_mac";
const WAIT: &str = "card.too_many_bad_taps";

/// The tap with another signature.
fn forge(tap: &str, number: u64) -> String {
    let (start, mac) = tap.split_at(tap.len() - 16);
    let mac = u64::from_str_radix(mac, 16).unwrap() ^ (number + 1);
    format!("{start}{mac:016X}")
}

fn code<T>(answer: Result<Answer<T>, Error>) -> &'static str {
    answer.err().map_or("", |error| error.code())
}

/// What an answer to a URL means.
fn meant(reply: &LnurlReply) -> &'static str {
    for (text, code) in [
        ("forged taps", WAIT),
        ("signature", WRONG),
        ("pending", "pending"),
    ] {
        if reply.body.contains(text) {
            return code;
        }
    }
    ""
}

/// What somebody with a tap asks for.
struct Asked<'a> {
    set: &'a Set,
    cards: Cards,
    till: Merchant,
    name: String,
    tap: String,
}

async fn knock(door: &str, asked: Asked<'_>) -> &'static str {
    let Asked {
        set,
        cards,
        till,
        name,
        tap,
    } = asked;
    let (key, price, reference, pin) = (key(&name), sat(1), String::new(), None);
    let (holder, card) = (&set.card.holder, set.card.id);
    let ask = |url: String, till| LnurlRequest {
        url,
        till,
        source: None,
    };
    match door {
        "peek" => code(cards.peek(&tap).await),
        "charge" => {
            let command = ChargeCard {
                key,
                tap,
                price,
                reference,
                pin,
            };
            code(cards.charge(&till.till, command).await)
        }
        "authorize" => {
            let command = AuthorizeCard {
                key,
                tap,
                price,
                reference,
                pin,
            };
            code(cards.authorize(&till.till, command).await)
        }
        "pay" => {
            let bolt11 = shop::sale(&set.engine, &till, &name, sat(1))
                .await
                .bolt11
                .clone();
            let command = PayWithCard {
                key,
                tap,
                bolt11,
                pin,
            };
            code(cards.pay(&till.till, command).await)
        }
        "replace" => code(cards.replace(holder, ReplaceCard { key, card, tap }).await),
        "add to family" => {
            let (main, limits) = (card, CardLimits::default());
            let command = AddFamilyCard {
                key,
                main,
                tap,
                limits,
            };
            code(cards.add_to_family(holder, command).await)
        }
        "lnurl" => meant(&cards.answer(&ask(tap, None)).await),
        "balance page" => {
            let url = tap.replace("/boltcard?", "/boltcards/balance?");
            meant(&cards.answer(&ask(url, None)).await)
        }
        "lnurl withdraw" => {
            let bill = set.bill(1).await;
            meant(&cards.answer(&ask(withdraw(&tap, &bill), None)).await)
        }
        "lnurl withdraw at a till" => {
            let bill = set.bill(1).await;
            let request = ask(withdraw(&tap, &bill), Some(till.till.clone()));
            meant(&cards.answer(&request).await)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_taps_are_counted_at_every_door() {
    let mut set = Set::new(CardLimits::default()).await;
    // What a till does is counted under its credential, where the host names no source.
    for (door, by_source) in [
        ("peek", true),
        ("charge", true),
        ("charge", false),
        ("authorize", false),
        ("pay", true),
        ("pay", false),
        ("replace", true),
        ("add to family", true),
        ("lnurl", true),
        ("balance page", true),
        ("lnurl withdraw", true),
        ("lnurl withdraw at a till", false),
    ] {
        let name = format!("{door}/{by_source}").replace(' ', "-");
        let source = |name: &str| match by_source {
            true => set.engine.cards().from_source(name),
            false => set.engine.cards(),
        };
        let (here, till) = (source(&name), shop::merchant(&set.engine, &name).await);
        let elsewhere = (
            source("elsewhere"),
            shop::merchant(&set.engine, &format!("{name}/2")).await,
        );
        let good = set.card.chip.tap();
        for number in 0..11 {
            let last = number == 10;
            let asked = Asked {
                set: &set,
                cards: here.clone(),
                till: Merchant {
                    id: till.id,
                    till: till.till.clone(),
                },
                name: format!("{name}/{number}"),
                tap: if last {
                    good.clone()
                } else {
                    forge(&good, number)
                },
            };
            let expected = if last { WAIT } else { WRONG };
            assert_eq!(knock(door, asked).await, expected, "{name} {number}");
        }
        // From elsewhere the good one is taken.
        let (cards, till) = elsewhere;
        let asked = Asked {
            set: &set,
            cards,
            till,
            name: format!("{name}/elsewhere"),
            tap: good,
        };
        let answer = knock(door, asked).await;
        assert!(![WAIT, WRONG].contains(&answer), "{name}: {answer}");
    }
    set.engine.stop().await.unwrap();
}

/// A `p` alone has no signature: what is counted is that it is no card's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_top_up_by_any_taps_p_counts_what_is_no_cards() {
    let mut set = Set::new(CardLimits::default()).await;
    let here = set.engine.cards().from_source("203.0.113.9");
    let tap = set.card.chip.tap();
    let (_, p) = tap.split_once("?p=").unwrap();
    let url = |p: &str| LnurlRequest {
        url: format!("https://pay.example.com/boltcard/pay?p={p}"),
        till: None,
        source: None,
    };
    let good = url(&p[..32]);
    assert!(here.answer(&good).await.body.contains("payRequest"));
    for number in 0..10 {
        let reply = here.answer(&url(&format!("{number:032x}"))).await;
        assert_eq!(reply.status, 400, "{number}");
    }
    assert_eq!(meant(&here.answer(&good).await), WAIT);
    let there = set.engine.cards().from_source("203.0.113.10");
    assert!(there.answer(&good).await.body.contains("payRequest"));
    set.engine.stop().await.unwrap();
}

/// Asking how a payment stands tells nobody whether a signature is right, and what is on its way
/// is never said to have failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_about_a_payment_is_no_way_to_try_signatures() {
    let mut set = Set::new(CardLimits::default()).await;
    let (tap, bill) = (set.card.chip.tap(), set.bill(1_000).await);
    let cards = set.engine.cards().from_source("203.0.113.11");
    let ask = |tap: &str| LnurlRequest {
        url: withdraw(tap, &bill),
        till: None,
        source: None,
    };
    assert_eq!(meant(&cards.answer(&ask(&tap)).await), "pending");
    for number in 0..10 {
        let reply = cards.answer(&ask(&forge(&tap, number))).await;
        assert_eq!(meant(&reply), "pending", "{number}");
    }
    // Counted: a tap of another invoice waits, and this payment is still on its way.
    let other = set.bill(1_000).await;
    let fresh = set.card.chip.tap();
    let request = LnurlRequest {
        url: withdraw(&fresh, &other),
        till: None,
        source: None,
    };
    assert_eq!(meant(&cards.answer(&request).await), WAIT);
    assert_eq!(meant(&cards.answer(&ask(&tap)).await), "pending");
    set.take(&bill).await;
    crate::support::until("it is paid", || async { set.has_arrived(&bill) }).await;
    set.engine.stop().await.unwrap();
}

/// The answer was lost, and the chip was written again before the till asks once more: what has
/// arrived is not told to have failed, and what came back is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_arrived_is_no_error_whatever_became_of_the_chip() {
    let mut set = Set::new(CardLimits::default()).await;
    for (name, arrives, status) in [("arrives", true, "OK"), ("back", false, "ERROR")] {
        let (bill, tap) = (set.bill(1_000).await, set.card.chip.tap());
        let payment = set.pay_tap(name, &tap, &bill).await.unwrap().id;
        let state = if arrives {
            set.take(&bill).await;
            CardPaymentState::Succeeded
        } else {
            set.give_back(&bill).await;
            CardPaymentState::Failed
        };
        set.until_state(payment, state).await;
        let told = set.json(&withdraw(&forge(&tap, 0), &bill)).await.1;
        assert_eq!(told["status"], status, "{told}");
        // Nor is it to whoever has to wait.
        let here = set.engine.cards().from_source(name);
        let ask = |tap: &str| LnurlRequest {
            url: withdraw(tap, &bill),
            till: None,
            source: None,
        };
        for number in 0..10 {
            here.answer(&ask(&forge(&tap, number))).await;
        }
        assert_eq!(meant(&here.answer(&ask(&tap)).await), "pending");
    }
    set.stop("written again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_that_hands_in_forged_taps_waits() {
    let mut set = Set::new(CardLimits::default()).await;
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let terms = OfflineTerms {
        per_tap_msat: 1_000 * SAT,
        per_day_msat: 100_000 * SAT,
        window_ms: 3_600_000,
        loss: LossBearer::Merchant,
        stopped_card: StoppedCard::Loss,
    };
    let command = SetOfflineTerms {
        key: key("terms"),
        merchant: set.merchant.id,
        till: None,
        terms: Some(terms),
    };
    cards.set_offline_terms(&issuer, command).await.unwrap();
    let (secret, till) = (OfflineKey::new([5; 32]).unwrap(), set.merchant.till.clone());
    let command = secret.enroll(shop::id_of(&till), key("enroll")).unwrap();
    let enrolled = cards.enroll_offline_key(&till, command).await.unwrap();
    let mut book = OfflineBook::new(&enrolled).unwrap();
    for number in 0..11 {
        let tap = forge(&set.card.chip.tap(), number);
        book.accept(&tap, SAT, "forged", SystemClock.now_ms())
            .unwrap();
    }
    let envelope = book.envelope(&secret).unwrap().unwrap();
    let refused = cards.replay_offline(&till, envelope).await;
    assert_eq!(refused.unwrap_err().code(), WAIT);
    // The ten before it stay settled, as the merchant's loss; and the till charges nothing now.
    let outcomes = cards.list_offline(&till, set.merchant.id, None, 100).await;
    assert_eq!(outcomes.unwrap().len(), 10);
    let command = ChargeCard {
        key: key("now"),
        tap: set.card.chip.tap(),
        price: sat(1),
        reference: String::new(),
        pin: None,
    };
    assert_eq!(code(cards.charge(&till, command).await), WAIT);
    set.engine.stop().await.unwrap();
}

/// A host that answers for many says with each request where it came from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_says_where_it_came_from() {
    let mut set = Set::new(CardLimits::default()).await;
    let (cards, tap) = (set.engine.cards(), set.card.chip.tap());
    let ask = |url: String, source: &str| LnurlRequest {
        url,
        till: None,
        source: Some(source.to_owned()),
    };
    let left_out: LnurlRequest =
        serde_json::from_value(serde_json::json!({"url": "x", "till": null})).unwrap();
    assert_eq!(left_out.source, None);
    for number in 0..10 {
        let reply = cards.answer(&ask(forge(&tap, number), "203.0.113.9")).await;
        assert_eq!(reply.status, 400, "{number}");
    }
    let waits = cards.answer(&ask(tap.clone(), "203.0.113.9")).await;
    assert_eq!(meant(&waits), WAIT);
    let elsewhere = cards.answer(&ask(tap, "203.0.113.10")).await;
    assert!(
        elsewhere.body.contains("withdrawRequest"),
        "{}",
        elsewhere.body
    );
    set.stop("from where").await;
}
