//! For how long whoever is paid back, or out, can leave the money waiting.

use flashkit::Settings;
use flashkit::cards::CardLimits;
use flashkit::ids::InvoiceId;
use flashkit::refunds::{
    AnswerRefund, CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundState, RefundTo,
};
use flashkit::settlement::{Payout, PayoutState, RequestPayout};

use crate::set::{Set, settings};
use crate::support::scene::told;
use crate::support::shop::{self, SAT, sat};
use crate::support::{key, until};

const PAID: i64 = 20_000;

impl Set {
    async fn paid_sale(&self) -> InvoiceId {
        let sale = shop::sale(&self.engine, &self.merchant, "sale", sat(PAID)).await;
        self.customer.pay(&sale.bolt11).await.unwrap();
        shop::settled(&self.engine, &sale).await;
        sale.id
    }

    async fn pay_back(
        &self,
        name: &str,
        sale: InvoiceId,
        to: RefundTo,
    ) -> Result<Refund, &'static str> {
        let command = CreateRefund {
            key: key(name),
            invoice: sale,
            to,
            amount: RefundAmount::Bitcoin {
                amount_msat: 1_000 * SAT,
            },
            fee_bearer: RefundFeeBearer::Merchant,
            reason: String::new(),
        };
        let refunds = self.engine.refunds();
        told(refunds.create(&self.engine.issuer(), command).await).map(|made| made.value)
    }

    async fn pay_out(&self, name: &str, bolt11: &str) -> Result<Payout, &'static str> {
        let command = RequestPayout {
            key: key(name),
            merchant: self.merchant.id,
            bolt11: bolt11.to_owned(),
        };
        let settlement = self.engine.settlement();
        let issuer = self.engine.issuer();
        told(settlement.request_payout(&issuer, command).await).map(|made| made.value)
    }
}

fn to(bolt11: &str) -> RefundTo {
    RefundTo::Bolt11 {
        bolt11: bolt11.to_owned(),
    }
}

/// The last hop alone would lock it up for longer than may be: nothing is set aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_locks_a_merchants_money_up_too_long_is_refused_before_anything() {
    // One less than the last hop of these wallets.
    let settings = Settings {
        max_lock_blocks: 17,
        ..settings()
    };
    let set = Set::with(CardLimits::default(), settings).await;
    let sale = set.paid_sale().await;
    let bill = set.bill(1_000).await;
    let refused = set.pay_back("refund", sale, to(&bill)).await;
    assert_eq!(refused.unwrap_err(), "refund.locks_too_long");
    let refused = set.pay_out("payout", &bill).await;
    assert_eq!(refused.unwrap_err(), "settlement.locks_too_long");
    // By a Lightning address it is seen when the text comes, and another one can be fetched.
    let address = RefundTo::LightningAddress {
        address: "ann@example.com".to_owned(),
    };
    let asks = set.pay_back("by-mail", sale, address).await.unwrap();
    assert_eq!(asks.state, RefundState::Resolving);
    let answer = async |name: &str, asks: &Refund, body: String| {
        let command = AnswerRefund {
            key: key(name),
            refund: asks.id,
            asked: asks.ask.clone().unwrap(),
            body,
        };
        let refunds = set.engine.refunds();
        told(refunds.answer(&set.engine.issuer(), command).await).map(|made| made.value)
    };
    let terms = r#"{"tag":"payRequest","callback":"https://example.com/pay","minSendable":1000,
        "maxSendable":100000000,"metadata":"[[\"text/plain\",\"ann\"]]"}"#;
    let asks = answer("terms", &asks, terms.to_owned()).await.unwrap();
    let text = format!(r#"{{"pr":"{bill}","routes":[]}}"#);
    let refused = answer("text", &asks, text).await;
    assert_eq!(refused.unwrap_err(), "refund.locks_too_long");
    assert_eq!(set.payable().await, PAID * SAT);
    assert_eq!(set.node.sent.lock().unwrap().len(), 0);
    set.stop("refused").await;
}

/// All hops together lock it up for three days at most, which common wallets are within.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_of_a_refund_or_a_payout_locks_up_for_longer_than_three_days() {
    let most = Settings::default().max_lock_blocks;
    assert_eq!(most, 3 * 144);
    let set = Set::new(CardLimits::default()).await;
    let sale = set.paid_sale().await;
    // With the last hop's 18.
    set.network.set_route_lock_blocks(most - 17);
    let bill = set.bill(1_000).await;
    let refund = set.pay_back("refund-long", sale, to(&bill)).await.unwrap();
    assert_eq!(refund.state, RefundState::Failed);
    let bill = set.bill(1_000).await;
    let payout = set.pay_out("payout-long", &bill).await.unwrap();
    assert_eq!(payout.state, PayoutState::Failed);
    assert_eq!(set.payable().await, PAID * SAT);
    set.network.set_route_lock_blocks(most - 18);
    let bill = set.bill(1_000).await;
    let refund = set.pay_back("refund", sale, to(&bill)).await.unwrap();
    assert_eq!(refund.state, RefundState::Sending);
    let other = set.bill(1_000).await;
    let payout = set.pay_out("payout", &other).await.unwrap();
    assert_eq!(payout.state, PayoutState::Sending);
    set.take(&bill).await;
    set.take(&other).await;
    until("both have arrived", || async {
        let (refunds, settlement) = (set.engine.refunds(), set.engine.settlement());
        let issuer = set.engine.issuer();
        let refund = refunds.get(&issuer, refund.id).await.unwrap().value;
        let payout = settlement.payout(&issuer, payout.id).await.unwrap().value;
        (refund.state, payout.state) == (RefundState::Succeeded, PayoutState::PaidOut)
    })
    .await;
    set.stop("locked up").await;
}
