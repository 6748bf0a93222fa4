//! Bad input: a typed error with a stable code, and nothing changed.

mod support;

use std::sync::Arc;

use flashkit::cards::{CardLimits, ChargeCard, IssueCard, TopUpCard};
use flashkit::invoices::{CreateInvoice, InvoiceOptions, InvoicePurpose};
use flashkit::money::{Asset, Currency, MAX_MSAT, MoneyError, Price};
use flashkit::ports::{Clock, SystemClock};
use flashkit::rates::FixedRates;
use flashkit::rewards::RedeemPoints;
use flashkit::settlement::RequestPayout;
use flashkit::store::{MemoryStore, Store};
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::{Engine, Error, IdempotencyKey, MasterSecret};
use support::key;
use support::shop::{self, HeldCard, Merchant, Simulated, jmd, sat};

/// A shop whose card has 50,000 sat and 1,000 points on it.
struct Set {
    shop: Simulated,
    merchant: Merchant,
    card: HeldCard,
    store: MemoryStore,
}

async fn set() -> Set {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let shop = shop::simulated(Arc::new(store.clone())).await;
    let merchant = shop::merchant(&shop.engine, "Cookshop").await;
    let card = shop::card(&shop.engine, shop::UID, CardLimits::default()).await;
    shop::top_up(&shop.engine, &shop.customer, &card, "top-up", sat(50_000)).await;
    Set {
        shop,
        merchant,
        card,
        store,
    }
}

impl Set {
    fn engine(&self) -> &Engine {
        &self.shop.engine
    }

    /// Everything that a refused call could have changed: balances, counters by their effect,
    /// and events.
    async fn picture(&self) -> String {
        let issuer = self.engine().issuer();
        let books = self
            .engine()
            .reports()
            .trial_balance(&issuer)
            .await
            .unwrap();
        let events = self.store.events(0, 1_000).await.unwrap();
        format!("{:?} {events:?}", books.value)
    }

    async fn charge(&self, name: &str, tap: &str, price: Price) -> Result<(), Error> {
        let command = ChargeCard {
            key: key(name),
            tap: tap.to_owned(),
            price,
            reference: String::new(),
            pin: None,
        };
        self.engine()
            .cards()
            .charge(&self.merchant.till, command)
            .await
            .map(drop)
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    let error = result.unwrap_err();
    assert!(!error.detail().is_empty());
    error.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taps_that_do_not_verify_change_nothing() {
    let mut set = set().await;
    let before = set.picture().await;
    let tap = set.card.chip.tap();
    let (url, c) = tap.split_once("&c=").unwrap();
    let forged = format!("{url}&c={:016X}", u64::from_str_radix(c, 16).unwrap() ^ 1);
    let foreign = "lnurlw://h?p=00000000000000000000000000000000&c=0000000000000000";
    let cases = [
        ("", "card.tap_malformed"),
        ("lnurlw://localhost/boltcard", "card.tap_malformed"),
        (&tap[..tap.len() - 1], "card.tap_malformed"),
        (&"x".repeat(100_000), "card.tap_malformed"),
        (foreign, "card.tap_not_ours"),
        (&forged, "card.tap_wrong_mac"),
    ];
    for (number, (text, expected)) in cases.into_iter().enumerate() {
        assert_eq!(
            code(set.charge(&format!("c{number}"), text, sat(1)).await),
            expected,
            "{text}"
        );
        assert_eq!(
            code(set.engine().cards().peek(text).await),
            expected,
            "{text}"
        );
    }
    assert_eq!(set.picture().await, before);
    // The tap itself was not used up by any of it.
    set.charge("good", &tap, sat(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amounts_that_cannot_be() {
    let mut set = set().await;
    let before = set.picture().await;
    let tap = set.card.chip.tap();
    let msat = |amount_msat| Price::Bitcoin { amount_msat };
    let cases = [
        (msat(0), "money.not_positive"),
        (msat(-1), "money.not_positive"),
        (msat(i64::MIN), "money.not_positive"),
        (msat(MAX_MSAT + 1), "money.above_cap"),
        (msat(i64::MAX), "money.above_cap"),
        (jmd(0), "money.not_positive"),
        (jmd(-150_000), "money.not_positive"),
        (jmd(i64::MAX), "money.overflow"),
    ];
    for (number, (price, expected)) in cases.into_iter().enumerate() {
        let name = format!("a{number}");
        assert_eq!(
            code(set.charge(&name, &tap, price).await),
            expected,
            "{price:?}"
        );
        let command = CreateInvoice {
            key: key(&name),
            purpose: InvoicePurpose::Sale {
                merchant: set.merchant.id,
            },
            price: Some(price),
            description: String::new(),
            expiry_seconds: 600,
            options: InvoiceOptions::default(),
        };
        let made = set
            .engine()
            .invoices()
            .create(&set.merchant.till, command)
            .await;
        assert_eq!(code(made), expected, "{price:?}");
        let command = TopUpCard {
            key: key(&name),
            card: set.card.id,
            price,
        };
        assert_eq!(
            code(set.engine().cards().top_up(&set.card.holder, command).await),
            expected
        );
    }
    for (amount_msat, expected) in [
        (0, "money.not_positive"),
        (-5, "money.not_positive"),
        (i64::MAX, "money.above_cap"),
    ] {
        let command = BookCapital {
            key: key("capital"),
            account: CapitalAccount::Onchain,
            direction: CapitalDirection::In,
            amount_msat,
            reason: String::new(),
        };
        let issuer = set.engine().issuer();
        assert_eq!(
            code(set.engine().treasury().book_capital(&issuer, command).await),
            expected
        );
    }
    // More than there is on the card is no bad input, but refused all the same.
    assert_eq!(
        code(set.charge("more", &tap, sat(50_001)).await),
        "card.insufficient_funds"
    );
    assert_eq!(set.picture().await, before);
    set.charge("good", &tap, sat(50_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assets_that_do_not_exist() {
    assert_eq!(
        "DOGE".parse::<Asset>().unwrap_err().code(),
        "money.unknown_asset"
    );
    assert_eq!(
        Currency::from_code("jmd").unwrap_err().code(),
        "money.unknown_currency"
    );
    let unknown: Result<Price, _> =
        serde_json::from_str(r#"{"kind":"fiat","currency":"XXX","minor_units":1}"#);
    let unknown = unknown.unwrap_err().to_string();
    let text = MoneyError::UnknownCurrency {
        code: "XXX".to_owned(),
    }
    .to_string();
    assert!(unknown.starts_with(&text), "{unknown}");

    // A currency that exists, and no rate for it; then one that is too old.
    let set = set().await;
    let before = set.picture().await;
    let euro = Price::Fiat {
        currency: Currency::from_code("EUR").unwrap(),
        minor_units: 100,
    };
    let command = TopUpCard {
        key: key("euro"),
        card: set.card.id,
        price: euro,
    };
    let made = set.engine().cards().top_up(&set.card.holder, command).await;
    assert_eq!(code(made), "rate.unknown_currency");
    assert_eq!(set.picture().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_that_is_too_old_or_from_the_future_is_refused() {
    let rates = Arc::new(FixedRates::new());
    let store = MemoryStore::new(Arc::new(SystemClock));
    let engine = Engine::builder(Arc::new(store), shop::master())
        .rates(rates.clone())
        .open()
        .await
        .unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let currency = Currency::from_code("JMD").unwrap();
    for (age_ms, expected) in [
        (120_001 + 60_000, "rate.stale"),
        (-60_000, "rate.stale"),
        // Fresh: it gets as far as the node that is not there.
        (0, "lightning.no_node"),
    ] {
        let observed_at_ms = SystemClock.now_ms() - age_ms;
        rates.set(
            currency,
            "15000000".parse().unwrap(),
            "test",
            observed_at_ms,
        );
        let command = CreateInvoice {
            key: key("sale"),
            purpose: InvoicePurpose::Sale {
                merchant: merchant.id,
            },
            price: Some(jmd(100)),
            description: String::new(),
            expiry_seconds: 600,
            options: InvoiceOptions::default(),
        };
        assert_eq!(
            code(engine.invoices().create(&merchant.till, command).await),
            expected
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_numbers_out_of_bounds() {
    let set = set().await;
    let before = set.picture().await;
    let (engine, issuer) = (set.engine(), set.engine().issuer());
    for text in ["", " ", "a b", "é", "\n", &"k".repeat(129)] {
        let refused = text.parse::<IdempotencyKey>().unwrap_err();
        assert_eq!(refused.code(), "command.bad_key", "{text:?}");
    }
    let invoice = |description: &str, expiry_seconds| CreateInvoice {
        key: key("i"),
        purpose: InvoicePurpose::Sale {
            merchant: set.merchant.id,
        },
        price: Some(sat(1)),
        description: description.to_owned(),
        expiry_seconds,
        options: InvoiceOptions::default(),
    };
    for command in [
        invoice(&"x".repeat(201), 600),
        invoice("a\u{0}b", 600),
        invoice("", 59),
        invoice("", u32::MAX),
    ] {
        let made = engine.invoices().create(&set.merchant.till, command).await;
        assert_eq!(code(made), "command.out_of_bounds");
    }
    let issue = |uid: &str, limits| IssueCard {
        key: key("card"),
        uid: uid.to_owned(),
        existing_chip: None,
        limits,
        program: None,
    };
    let zone = CardLimits {
        time_zone: "Mars/Olympus".to_owned(),
        ..CardLimits::default()
    };
    let negative = CardLimits {
        per_tap: Some(-1),
        ..CardLimits::default()
    };
    for (command, expected) in [
        (issue("04", CardLimits::default()), "card.bad_uid"),
        (
            issue("zz0102030405060708", CardLimits::default()),
            "card.bad_uid",
        ),
        (issue("04aaaaaaaaaaaa", zone), "card.unknown_time_zone"),
        (issue("04aaaaaaaaaaaa", negative), "command.out_of_bounds"),
        (
            issue(shop::UID, CardLimits::default()),
            "card.already_issued",
        ),
    ] {
        assert_eq!(code(engine.cards().issue(&issuer, command).await), expected);
    }
    assert_eq!(set.picture().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payouts_to_invoices_that_cannot_be_paid() {
    let set = set().await;
    let (engine, issuer) = (set.engine(), set.engine().issuer());
    let own = shop::sale(engine, &set.merchant, "own", sat(10))
        .await
        .bolt11;
    let too_much = set
        .shop
        .customer
        .invoice(1_000_000_000, "much")
        .await
        .unwrap();
    // The example of BOLT 11, on the main network.
    let mainnet = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
    let before = set.picture().await;
    for (bolt11, expected) in [
        (String::new(), "lightning.bad_invoice"),
        ("lnbcrt1nonsense".to_owned(), "lightning.bad_invoice"),
        ("l".repeat(100_000), "lightning.bad_invoice"),
        (mainnet.to_owned(), "lightning.wrong_network"),
        (own, "settlement.own_invoice"),
        (too_much, "settlement.insufficient_balance"),
    ] {
        let command = RequestPayout {
            key: key("payout"),
            merchant: set.merchant.id,
            bolt11: bolt11.clone(),
        };
        let asked = engine.settlement().request_payout(&issuer, command).await;
        assert_eq!(code(asked), expected, "{bolt11:.40}");
    }
    assert_eq!(set.picture().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_credential_gets_nowhere() {
    let mut set = set().await;
    let engine = set.engine().clone();
    let issuer = engine.issuer();
    let other = shop::merchant(&engine, "Other").await;
    let stranger = shop::card(&engine, "04bbbbbbbbbbbb", CardLimits::default()).await;
    let program = shop::program(&engine, other.id).await;
    let before = set.picture().await;
    let tap = set.card.chip.tap();
    let charge = |name: &str| ChargeCard {
        key: key(name),
        tap: tap.clone(),
        price: sat(1),
        reference: String::new(),
        pin: None,
    };
    // A tap proves that the card is there, not who holds it; and only a till charges.
    for credential in [&issuer, &set.card.holder] {
        let charged = engine.cards().charge(credential, charge("x")).await;
        assert_eq!(code(charged), "access.not_allowed");
    }
    let read = engine
        .settlement()
        .balance(&other.till, set.merchant.id)
        .await;
    assert_eq!(code(read), "access.not_allowed");
    let read = engine.cards().get(&stranger.holder, set.card.id).await;
    assert_eq!(code(read), "access.not_allowed");
    let keys = engine
        .cards()
        .programming_keys(&set.merchant.till, shop::UID)
        .await;
    assert_eq!(code(keys), "access.not_allowed");
    let keys = engine.cards().programming_keys(&issuer, shop::UID).await;
    assert_eq!(code(keys), "card.keys_withheld");
    let command = RedeemPoints {
        key: key("r"),
        card: set.card.id,
        program,
        points: 1,
    };
    let redeemed = engine
        .rewards()
        .redeem(&stranger.holder, command.clone())
        .await;
    assert_eq!(code(redeemed), "access.not_allowed");
    let redeemed = engine.rewards().redeem(&set.card.holder, command).await;
    assert_eq!(code(redeemed), "reward.insufficient_points");
    // Another engine's credential, and one with a digit changed.
    let mut text = set.card.holder.reveal().to_owned();
    let last = if text.pop() == Some('0') { '1' } else { '0' };
    text.push(last);
    let forged = text.parse().unwrap();
    assert_eq!(
        code(engine.cards().get(&forged, set.card.id).await),
        "access.unknown"
    );
    assert_eq!(set.picture().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_open_with_their_own_secret_and_network_alone() {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let open = async |secret: u8, network: &str| {
        Engine::builder(store.clone(), MasterSecret::new([secret; 32]))
            .network(network)
            .open()
            .await
    };
    let issuer = open(1, "regtest").await.unwrap().issuer();
    let events = store.events(0, 10).await.unwrap().len();
    assert_eq!(
        code(open(2, "regtest").await.map(drop)),
        "access.other_secret"
    );
    assert_eq!(
        code(open(1, "bitcoin").await.map(drop)),
        "access.other_network"
    );
    assert_eq!(store.events(0, 10).await.unwrap().len(), events);
    assert_eq!(open(1, "regtest").await.unwrap().issuer(), issuer);
}
