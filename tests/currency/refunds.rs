//! What was put on a card in a currency goes back out of it.

use std::sync::Arc;

use flashkit::cards::{CardLimits, TopUpCard};
use flashkit::invoices::Invoice;
use flashkit::ledger::Account;
use flashkit::refunds::{
    CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundState, RefundTo,
};
use flashkit::testkit::wallet::Wallet;

use crate::support::scene::{on_both_stores, told};
use crate::support::scripted::Pay;
use crate::support::{key, shop, until};
use crate::world::{Terms, World, fiat};

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

async fn what_was_put_on_a_card_goes_back_at_the_rate_that_was_asked_for(is_sqlite: bool) {
    let (mut world, node, network) =
        World::with_node(is_sqlite, "15000000", Terms::default()).await;
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
    let invoice = told(
        world
            .engine
            .cards()
            .top_up(&world.card.holder, command)
            .await,
    )
    .unwrap();
    customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(&world.engine, &invoice).await;
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
