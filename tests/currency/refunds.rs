//! What was put on a card in a currency goes back out of it.

use std::sync::Arc;

use flashkit::cards::{CardLimits, TopUpCard};
use flashkit::exchange::SetPositionCap;
use flashkit::invoices::Invoice;
use flashkit::ledger::Account;
use flashkit::money::Asset;
use flashkit::refunds::{
    CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundState, RefundTo,
};
use flashkit::testkit::wallet::Wallet;

use crate::support::scene::{on_both_stores, told};
use crate::support::scripted::{Pay, ScriptedNode};
use crate::support::shop::HeldCard;
use crate::support::{key, shop, until};
use crate::world::{Terms, World, currency, fiat, issue};

on_both_stores! {
    what_was_put_on_a_card_goes_back_at_the_rate_that_was_asked_for;
}

impl World {
    async fn back(
        &self,
        name: &str,
        of: &Invoice,
        to: RefundTo,
        amount: RefundAmount,
    ) -> Result<Refund, &'static str> {
        let command = CreateRefund {
            key: key(name),
            invoice: of.id,
            to,
            amount,
            fee_bearer: RefundFeeBearer::Merchant,
            reason: String::new(),
        };
        let (refunds, issuer) = (self.engine.refunds(), self.engine.issuer());
        let made = told(refunds.create(&issuer, command).await)?.value;
        until("the refund has ended", || async {
            let now = refunds.get(&issuer, made.id).await.unwrap();
            now.state.is_final()
        })
        .await;
        Ok(refunds.get(&issuer, made.id).await.unwrap().value)
    }
}

async fn bill(customer: &Wallet, amount_msat: i64) -> RefundTo {
    let name = format!("{amount_msat}");
    let bolt11 = customer.invoice(amount_msat, &name).await.unwrap();
    RefundTo::Bolt11 { bolt11 }
}

/// A card in Jamaican dollars, with 1,500 of them put on for 10,000 sats.
async fn topped_up(is_sqlite: bool) -> (World, ScriptedNode, Arc<Wallet>, Invoice) {
    let (world, node, network) = World::with_node(is_sqlite, "15000000", Terms::default()).await;
    let payer = network.node(10_000_000_000);
    flashkit::lightning::LightningNode::start(&payer)
        .await
        .unwrap();
    let customer = Arc::new(Wallet::new(Arc::new(payer), None));
    tokio::spawn(customer.clone().run());
    world.cap("cap", 1_000_000).await;
    let command = TopUpCard {
        key: key("top-up"),
        card: world.card.id,
        price: fiat("JMD", 150_000),
    };
    let cards = world.engine.cards();
    let asked = cards.top_up(&world.card.holder, command).await;
    let invoice = told(asked).unwrap().value;
    customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(&world.engine, &invoice).await;
    (world, node, customer, invoice)
}

async fn what_was_put_on_a_card_goes_back_at_the_rate_that_was_asked_for(is_sqlite: bool) {
    let (mut world, node, customer, invoice) = topped_up(is_sqlite).await;
    let full = [150_000, 0, -150_000, 10_000_000, 0];
    assert_eq!(world.books().await, full);
    world.rate("JMD", "5000000");

    // What does not arrive is on the card again; and on chain nothing goes.
    let (amount_msat, minor_units) = (3_333_333, 50_000);
    let then = RefundAmount::RateThen { minor_units };
    node.script([Pay::Refuse]);
    let to = bill(&customer, amount_msat).await;
    let failed = world.back("fails", &invoice, to, then).await.unwrap();
    assert_eq!(failed.state, RefundState::Failed);
    assert!(
        failed.off_card.unwrap().amount > minor_units,
        "with its fee"
    );
    let to = RefundTo::OnChain {
        address: flashkit::testkit::chain::nobodys_address("home"),
        fee_sat_per_kvb: None,
    };
    let refused = world.back("chain", &invoice, to, then).await;
    assert_eq!(refused.map(drop), Err("refund.card_in_currency"));
    assert_eq!(world.books().await, full);

    // A third at the rate then, which is a third of what was put on.
    let to = bill(&customer, amount_msat).await;
    let third = world.back("third", &invoice, to, then).await.unwrap();
    assert_eq!(third.state, RefundState::Succeeded, "{third:?}");
    assert_eq!(
        (third.amount_msat, third.off_card.unwrap().amount),
        (amount_msat, minor_units)
    );
    assert_eq!(world.books().await, [100_000, 0, -100_000, 6_666_667, 0]);
    // 300 dollars at the rate of now, at which they are three times as much.
    let now = RefundAmount::RateNow {
        minor_units: Some(30_000),
    };
    let to = bill(&customer, 6_000_000).await;
    let dear = world.back("now", &invoice, to, now).await.unwrap();
    assert_eq!(
        (dear.state, dear.covers_msat),
        (RefundState::Succeeded, 2_000_000)
    );
    assert_eq!(world.books().await, [70_000, 0, -70_000, 666_667, 0]);
    // To a card in bitcoin.
    let other = shop::card(&world.engine, "04c39493c21d90", CardLimits::default()).await;
    let amount = RefundAmount::Bitcoin {
        amount_msat: 200_000,
    };
    let to = RefundTo::Card { card: other.id };
    world.back("to-card", &invoice, to, amount).await.unwrap();
    assert_eq!(world.books().await, [67_000, 0, -67_000, 466_667, 0]);
    assert_eq!(world.has(Account::card_balance(other.id)).await, 200_000);
    // Never more than the card has.
    world.charge("lunch", fiat("JMD", 65_000)).await.unwrap();
    let before = world.books().await;
    let to = bill(&customer, 466_667).await;
    let refused = world
        .back("all", &invoice, to, RefundAmount::Everything)
        .await;
    assert_eq!(refused.map(drop), Err("refund.insufficient_on_card"));
    assert_eq!(world.books().await, before);
    let amount = RefundAmount::Bitcoin {
        amount_msat: 100_000,
    };
    let to = bill(&customer, 100_000).await;
    world.back("rest", &invoice, to, amount).await.unwrap();
    assert_eq!(world.on_card().await, 500);
    world.stop("paid back").await;
}

/// From one card in a currency to another one there is the rate of now or none; and what another
/// currency comes to now says nothing of what the card had for it then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_cards_in_currencies_nothing_goes_at_two_rates() {
    let (world, _node, customer, invoice) = topped_up(false).await;
    let second = issue(
        &world.engine,
        world.unit,
        &Terms::default(),
        "04c39493c21d90",
    )
    .await;
    let third = issue(
        &world.engine,
        currency("USD"),
        &Terms::default(),
        "04d39493c21d90",
    )
    .await;
    world.rate("JMD", "5000000");
    world.rate("USD", "30000");
    let exchange = world.engine.exchange();
    let command = SetPositionCap {
        key: key("cap-usd"),
        currency: currency("USD"),
        max_open: 1_000_000,
    };
    let issuer = world.engine.issuer();
    exchange.set_position_cap(&issuer, command).await.unwrap();
    let before = world.books().await;
    let to = |card: &HeldCard| RefundTo::Card { card: card.id };
    let now = RefundAmount::RateNow {
        minor_units: Some(30_000),
    };
    let dollars = RefundAmount::Fiat {
        currency: currency("USD"),
        minor_units: 100,
    };
    let then = RefundAmount::RateThen {
        minor_units: 30_000,
    };
    let some = RefundAmount::Bitcoin {
        amount_msat: 1_000_000,
    };
    let everything = RefundAmount::Everything;
    let elsewhere = bill(&customer, 3_333_000).await;
    for (name, to, amount) in [
        ("everything", to(&second), everything),
        ("some", to(&second), some),
        ("then", to(&second), then),
        ("other-unit", to(&third), everything),
        ("other-unit-now", to(&third), now),
        ("third-currency", to(&second), dollars),
        ("third-unit", to(&third), dollars),
        ("third-elsewhere", elsewhere, dollars),
    ] {
        let refused = world.back(name, &invoice, to, amount).await;
        assert_eq!(refused.map(drop), Err("refund.card_in_currency"), "{name}");
        assert_eq!(world.books().await, before, "{name}");
    }
    // At the rate of now the one has what the other pays.
    let made = world.back("now", &invoice, to(&second), now).await.unwrap();
    assert_eq!(made.state, RefundState::Succeeded);
    let [card, payable, position, bitcoin, spread] = before;
    let after = [card - 30_000, payable, position, bitcoin, spread];
    assert_eq!(world.books().await, after);
    let unit = Asset::Fiat(world.unit);
    let came = Account::card_balance_in(second.id, unit);
    assert_eq!(world.has(came).await, 30_000);
    world.stop("at one rate").await;
}
