//! Money that comes on cards in a currency, and what the operator keeps of conversions.

use std::sync::Arc;

use flashkit::cards::{CardLimits, ChargeCard, TopUpCard};
use flashkit::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, PaymentRules};
use flashkit::ledger::Account;
use flashkit::money::{Price, QuoteSide, Spread, SpreadSide};
use flashkit::rewards::RedeemPoints;
use tokio::task::JoinSet;

use crate::support::key;
use crate::support::scene::{Told, on_both_stores, told};
use crate::support::shop;
use crate::world::{Terms, World, fiat, msat};

on_both_stores! {
    a_top_up_is_exact_at_the_rate_of_its_invoice;
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
