//! Money that comes on cards in a currency, and what the operator keeps of conversions.

use std::sync::Arc;
use std::time::Duration;

use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{CardLimits, ChargeCard, TopUpCard};
use flashkit::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, PaymentRules};
use flashkit::ledger::Account;
use flashkit::lightning::Bolt11Details;
use flashkit::money::{Price, QuoteSide, Spread, SpreadSide};
use flashkit::rewards::RedeemPoints;
use flashkit::testkit::wallet::Wallet;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::key;
use crate::support::scene::{Told, on_both_stores, told};
use crate::support::shop;
use crate::world::{Terms, World, fiat, msat};

on_both_stores! {
    a_top_up_is_exact_at_the_rate_of_its_invoice;
    what_anybody_sends_to_a_cards_address_goes_on_it_in_its_currency;
    what_is_kept_of_what_is_sent_to_an_address_is_on_top;
    nothing_is_asked_for_at_an_address_that_cannot_be_paid;
    sixty_four_top_ups_stay_within_the_cap;
    points_are_turned_into_the_currency;
    a_spread_of_invoices_and_bitcoin_cards_is_booked;
}

async fn top_up(world: &World, name: &str, price: Price) -> Told<Invoice> {
    let command = TopUpCard {
        key: key(name),
        card: world.card.id,
        price,
    };
    told(
        world
            .engine
            .cards()
            .top_up(&world.card.holder, command)
            .await,
    )
}

async fn a_top_up_is_exact_at_the_rate_of_its_invoice(is_sqlite: bool) {
    let terms = Terms {
        limits: CardLimits {
            max_balance: Some(200_000),
            ..CardLimits::default()
        },
        ..Terms::default()
    };
    let (world, customer) = World::online(is_sqlite, "15000000", terms).await;
    let other = top_up(&world, "bitcoin", msat(1_000)).await;
    assert_eq!(other.map(drop), Err("card.unit_mismatch"));
    let other = top_up(&world, "dollars", fiat("USD", 1_000)).await;
    assert_eq!(other.map(drop), Err("card.unit_mismatch"));
    let lenient = CreateInvoice {
        key: key("lenient"),
        purpose: InvoicePurpose::TopUp {
            card: world.card.id,
        },
        price: Some(fiat("JMD", 1_000)),
        description: "Top-up".to_owned(),
        expiry_seconds: 600,
        options: InvoiceOptions {
            rules: Some(PaymentRules {
                accept_under_per_mille: 10,
                ..PaymentRules::NONE
            }),
            ..InvoiceOptions::default()
        },
    };
    let (invoices, issuer) = (world.engine.invoices(), world.engine.issuer());
    let refused = told(invoices.create(&issuer, lenient).await);
    assert_eq!(refused.map(drop), Err("command.out_of_bounds"));

    // Nothing is opened without a cap: the payment goes back.
    let early = top_up(&world, "early", fiat("JMD", 150_000)).await.unwrap();
    assert!(customer.pay(&early.bolt11).await.is_err());
    assert_eq!(world.books().await, [0; 5]);
    world.cap("cap", 1_000_000).await;
    let invoice = top_up(&world, "exact", fiat("JMD", 150_001)).await.unwrap();
    // 10,000,066.67 msat.
    assert_eq!(invoice.amount_msat, 10_000_067);
    // Never longer than its quote holds.
    assert_eq!(invoice.expires_at_ms - invoice.created_at_ms, 600_000);
    world.rate("JMD", "5000000");
    customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(&world.engine, &invoice).await;
    let books = [150_001, 0, -150_001, 10_000_067, 0];
    assert_eq!(world.books().await, books);
    // The card's maximum is in its unit.
    let full = top_up(&world, "full", fiat("JMD", 50_000)).await.unwrap();
    assert!(customer.pay(&full.bolt11).await.is_err());
    assert_eq!(world.books().await, books);
    world.stop("topped up").await;
}

/// The card's own address, and what is answered there.
async fn address(world: &World) -> String {
    let cards = world.engine.cards();
    let found = cards.top_up_address(&world.card.holder, world.card.id);
    found.await.unwrap().url.clone()
}

async fn ask(world: &World, url: &str) -> (u16, Value) {
    let request = LnurlRequest {
        url: url.to_owned(),
        till: None,
        source: None,
    };
    let reply = world.engine.cards().answer(&request).await;
    (reply.status, serde_json::from_str(&reply.body).unwrap())
}

/// The invoice that a wallet gets for an amount.
async fn asked(world: &World, url: &str, amount_msat: i64) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    let (status, made) = ask(world, &format!("{url}{sign}amount={amount_msat}")).await;
    assert_eq!(status, 200, "{made}");
    let bolt11 = made["pr"].as_str().unwrap().to_owned();
    let details: Bolt11Details = bolt11.parse().unwrap();
    // LUD-06: exactly what was asked for.
    assert_eq!(details.amount_msat, Some(amount_msat));
    bolt11
}

async fn pay(customer: &Wallet, world: &World, url: &str, amount_msat: i64) {
    let bolt11 = asked(world, url, amount_msat).await;
    customer.pay(&bolt11).await.unwrap();
}

async fn what_anybody_sends_to_a_cards_address_goes_on_it_in_its_currency(is_sqlite: bool) {
    let terms = Terms {
        limits: CardLimits {
            max_balance: Some(300_000),
            ..CardLimits::default()
        },
        ..Terms::default()
    };
    let (mut world, customer) = World::online(is_sqlite, "15000000", terms).await;
    world.cap("cap", 1_000_000).await;
    let url = address(&world).await;
    let (status, offer) = ask(&world, &url).await;
    // 300,000 cents are 20,000,000 msat.
    let bounds = (&offer["minSendable"], &offer["maxSendable"]);
    assert_eq!((status, bounds), (200, (&json!(1_000), &json!(20_000_000))));
    // No longer than the rate holds.
    asked(&world, &url, 10_000_067).await;
    let purpose = InvoicePurpose::TopUp {
        card: world.card.id,
    };
    let (invoices, issuer) = (world.engine.invoices(), world.engine.issuer());
    let made = invoices.list(&issuer, purpose, None, 10).await.unwrap();
    assert_eq!(made[0].expires_at_ms - made[0].created_at_ms, 600_000);
    assert_eq!(made[0].price, Some(fiat("JMD", 150_001)));
    // 150,001.005 cents; the rate is that of when it was asked for.
    let bolt11 = asked(&world, &url, 10_000_067).await;
    world.rate("JMD", "5000000");
    customer.pay(&bolt11).await.unwrap();
    let is_on_card = async |cents: i64| {
        crate::support::until("it is on the card", || async {
            world.on_card().await == cents
        })
        .await;
    };
    is_on_card(150_001).await;
    assert_eq!(world.books().await, [150_001, 0, -150_001, 10_000_067, 0]);
    // By the `p` of a tap, as older apps have it: another one of the same card.
    world.rate("JMD", "15000000");
    let tap = world.card.chip.tap();
    let (_, p) = tap.split_once("?p=").unwrap();
    let by_tap = format!("https://localhost/boltcard/pay?p={}", &p[..32]);
    pay(&customer, &world, &by_tap, 1_000).await;
    let is_on_card = async |cents: i64| {
        crate::support::until("it is on the card", || async {
            world.on_card().await == cents
        })
        .await;
    };
    is_on_card(150_016).await;
    // Each of two fits, and both do not: the second goes back while it can.
    let mut bills = Vec::new();
    for _ in 0..2 {
        bills.push(asked(&world, &url, 6_000_000).await);
    }
    customer.pay(&bills[0]).await.unwrap();
    assert!(customer.pay(&bills[1]).await.is_err());
    is_on_card(240_016).await;
    assert_eq!(world.position().await, -240_016);
    world.stop("sent").await;
}

async fn what_is_kept_of_what_is_sent_to_an_address_is_on_top(is_sqlite: bool) {
    for (side, cents, kept_msat) in [
        (SpreadSide::CustomerPays, 150_000, 200_000),
        // What goes on the card is what was paid.
        (SpreadSide::MerchantReceives, 153_000, 0),
    ] {
        let spread = Some(Spread { bps: 200, side });
        let terms = Terms {
            spread,
            ..Terms::default()
        };
        let (world, customer) = World::online(is_sqlite, "15000000", terms).await;
        world.cap("cap", 1_000_000).await;
        let url = address(&world).await;
        pay(&customer, &world, &url, 10_200_000).await;
        crate::support::until("it is on the card", || async {
            world.on_card().await == cents
        })
        .await;
        let books = [cents, 0, -cents, 10_200_000 - kept_msat, kept_msat];
        assert_eq!(world.books().await, books);
        world.stop("kept").await;
    }
}

async fn nothing_is_asked_for_at_an_address_that_cannot_be_paid(is_sqlite: bool) {
    let mut terms = Terms::default();
    terms.limits.max_balance = Some(1_000);
    terms.rules.top_up_side = Some(QuoteSide::Bid);
    let (world, customer) = World::online(is_sqlite, "15000000", terms).await;
    let url = address(&world).await;
    let refused = async |what: &str, amount: Option<i64>| {
        let amount = amount.map(|amount| format!("?amount={amount}"));
        let (status, reply) = ask(&world, &format!("{url}{}", amount.unwrap_or_default())).await;
        assert_eq!((status, &reply["status"]), (400, &json!("ERROR")), "{what}");
        reply["reason"].as_str().unwrap().to_owned()
    };
    // Neither without a rate of the side that the program says, nor where nothing can be opened.
    let reason = refused("no side", None).await;
    assert!(
        reason.contains("side") || reason.contains("bid"),
        "{reason}"
    );
    world.side("JMD", QuoteSide::Bid, "50000");
    let reason = refused("no cap", None).await;
    assert!(reason.contains("position"), "{reason}");
    // A cent is 20,000 msat. How much the cap leaves is told to nobody who asks.
    world.cap("cap", 10).await;
    let (_, offer) = ask(&world, &url).await;
    let bounds = (&offer["minSendable"], &offer["maxSendable"]);
    assert_eq!(bounds, (&json!(20_000), &json!(20_000_000)));
    for amount in [19_999, 20_000_001] {
        refused("out of bounds", Some(amount)).await;
    }
    let reason = refused("beyond the cap", Some(220_000)).await;
    assert!(reason.contains("position"), "{reason}");
    pay(&customer, &world, &url, 20_000).await;
    pay(&customer, &world, &url, 39_999).await;
    crate::support::until("they are on the card", || async {
        world.on_card().await == 2
    })
    .await;
    let (_, offer) = ask(&world, &url).await;
    assert_eq!(offer["maxSendable"], 998 * 20_000);
    // Asked for while there was a rate, and paid when there is none: the one that was told holds.
    let bolt11 = asked(&world, &url, 60_000).await;
    world.clock.advance(Duration::from_millis(120_001));
    refused("stale", None).await;
    refused("stale", Some(60_000)).await;
    customer.pay(&bolt11).await.unwrap();
    crate::support::until("it is on the card", || async { world.on_card().await == 5 }).await;
    // The more the card has, the less fits; and a full one says so.
    world.side("JMD", QuoteSide::Bid, "50000");
    world.cap("more", 100_000).await;
    let (_, offer) = ask(&world, &url).await;
    assert_eq!(offer["maxSendable"], 995 * 20_000);
    pay(&customer, &world, &url, 995 * 20_000).await;
    crate::support::until("it is full", || async { world.on_card().await == 1_000 }).await;
    let reason = refused("full", None).await;
    assert!(reason.contains("no more"), "{reason}");
    world.stop("asked").await;
}

async fn sixty_four_top_ups_stay_within_the_cap(is_sqlite: bool) {
    let mut terms = Terms::default();
    terms.rules.top_up_side = Some(QuoteSide::Bid);
    let (world, customer) = World::online(is_sqlite, "15000000", terms).await;
    let none = top_up(&world, "side", fiat("JMD", 1_000)).await;
    assert_eq!(none.map(drop), Err("rate.other_side"));
    world.side("JMD", QuoteSide::Bid, "10000000");
    world.cap("cap", 20_999).await;
    let mut invoices = Vec::new();
    for number in 0..64 {
        let name = format!("top-up/{number}");
        let invoice = top_up(&world, &name, fiat("JMD", 1_000)).await.unwrap();
        assert_eq!(invoice.amount_msat, 100_000);
        invoices.push(invoice);
    }
    let mut tasks = JoinSet::new();
    for invoice in invoices {
        let customer = customer.clone();
        tasks.spawn(async move { customer.pay(&invoice.bolt11).await.is_ok() });
    }
    let mut paid = 0;
    while let Some(is_paid) = tasks.join_next().await {
        paid += i64::from(is_paid.unwrap());
        assert!(world.position().await >= -20_999);
    }
    assert_eq!(paid, 20);
    let world = Arc::new(world);
    crate::support::until("all are booked", || {
        let world = world.clone();
        async move { world.on_card().await == 20_000 }
    })
    .await;
    assert_eq!(world.books().await, [20_000, 0, -20_000, 2_000_000, 0]);
    Arc::into_inner(world).unwrap().stop("64 top-ups").await;
}

async fn points_are_turned_into_the_currency(is_sqlite: bool) {
    let mut world = World::new(is_sqlite, "JMD", "15000000", Terms::default()).await;
    world.fund(1_000_000, 70_000_000).await;
    world.cap("cap", 1_000_000).await;
    let program = shop::program(&world.engine, world.merchant.id).await;
    world.charge("sale", fiat("JMD", 150_000)).await.unwrap();
    let redeem = |name: &str| RedeemPoints {
        key: key(name),
        card: world.card.id,
        program,
        points: 111,
    };
    let rewards = world.engine.rewards();
    world.rate("JMD", "12345678.90");
    // 111,000 msat are 1,370.37… cents.
    let done = rewards
        .redeem(&world.card.holder, redeem("points"))
        .await
        .unwrap();
    let conversion = done.conversion.clone().unwrap();
    assert_eq!((done.amount_msat, conversion.amount), (111_000, 1_370));
    let again = rewards
        .redeem(&world.card.holder, redeem("points"))
        .await
        .unwrap();
    assert_eq!(again, done);
    let fund = world.has(Account::reward_fund(program)).await;
    assert_eq!(fund, 200_000 - 111_000);
    let books = [851_370, 9_800_000, -851_370, 60_111_000, 0];
    assert_eq!(world.books().await, books);
    world.stop("points").await;
}

async fn a_spread_of_invoices_and_bitcoin_cards_is_booked(is_sqlite: bool) {
    let terms = Terms {
        spread: Some(Spread {
            bps: 200,
            side: SpreadSide::CustomerPays,
        }),
        ..Terms::default()
    };
    let (world, customer) = World::online(is_sqlite, "15000000", terms).await;
    world.cap("cap", 1_000_000).await;
    let invoice = top_up(&world, "own", fiat("JMD", 150_000)).await.unwrap();
    assert_eq!(invoice.amount_msat, 10_200_000);
    customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(&world.engine, &invoice).await;
    assert_eq!(
        world.books().await,
        [150_000, 0, -150_000, 10_000_000, 200_000]
    );
    // A sale over Lightning: the merchant gets the price at the market's rate.
    let sale = shop::sale(&world.engine, &world.merchant, "sale", fiat("JMD", 150_000)).await;
    customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&world.engine, &sale).await;
    assert_eq!(
        (world.payable().await, world.spread().await),
        (10_000_000, 400_000)
    );
    // A card in bitcoin, topped up and charged at prices in the currency.
    let mut card = shop::card(&world.engine, "04112233445566", CardLimits::default()).await;
    shop::top_up(
        &world.engine,
        &customer,
        &card,
        "other",
        fiat("JMD", 300_000),
    )
    .await;
    let balance = Account::card_balance(card.id);
    assert_eq!(
        (world.has(balance).await, world.spread().await),
        (20_000_000, 800_000)
    );
    let command = ChargeCard {
        key: key("charge"),
        tap: card.chip.tap(),
        price: fiat("JMD", 150_000),
        reference: "table 4".to_owned(),
        pin: None,
    };
    let cards = world.engine.cards();
    let charge = cards.charge(&world.merchant.till, command).await.unwrap();
    assert_eq!(
        (charge.amount_msat, world.has(balance).await),
        (10_200_000, 9_800_000)
    );
    assert_eq!(
        (world.payable().await, world.spread().await),
        (20_000_000, 1_000_000)
    );
    for (name, part) in [("half", 5_100_000), ("rest", 5_100_000)] {
        world.refund(name, charge.id, msat(part)).await.unwrap();
    }
    assert_eq!(
        (world.has(balance).await, world.payable().await),
        (20_000_000, 10_000_000)
    );
    assert_eq!(world.spread().await, 800_000);
    world.stop("spread").await;
}
