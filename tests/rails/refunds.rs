//! Refunds of invoices: never more than was paid, counted while they are on their way, and done
//! once, whatever the node says.

use flashkit::cards::{CardLimits, PayWithCard};
use flashkit::ids::CardId;
use flashkit::invoices::{
    CaptureInvoice, Custody, Invoice, InvoiceOptions, InvoiceState, PaymentRules, SurplusTo,
};
use flashkit::ledger::{Account, Side};
use flashkit::lightning::{InvoiceRequest, LightningEvent, LightningNode, Preimage};
use flashkit::refunds::{
    AnswerRefund, CancelRefund, CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundOutcome,
    RefundState, RefundTo, ResolveRefund,
};
use flashkit::store::Store;

use crate::support::scripted::Pay;
use crate::support::shop::{self, HeldCard, SAT, jmd, sat};
use crate::support::{key, until};
use crate::traps::{GONE, Set, block, held, on_chain, set};

pub fn order(name: &str, invoice: &Invoice, to: RefundTo, amount: RefundAmount) -> CreateRefund {
    CreateRefund {
        key: key(name),
        invoice: invoice.id,
        to,
        amount,
        fee_bearer: RefundFeeBearer::default(),
        reason: "returned".to_owned(),
    }
}

pub fn bolt11(text: &str) -> RefundTo {
    RefundTo::Bolt11 {
        bolt11: text.to_owned(),
    }
}

fn bitcoin(sats: i64) -> RefundAmount {
    RefundAmount::Bitcoin {
        amount_msat: sats * SAT,
    }
}

impl Set {
    pub(crate) async fn refund(&self, command: CreateRefund) -> Result<Refund, &'static str> {
        let refunds = self.engine.refunds();
        let made = refunds.create(&self.engine.issuer(), command).await;
        made.map(|made| made.value).map_err(|error| error.code())
    }

    pub(crate) async fn refund_of(&self, refund: &Refund) -> Refund {
        let refunds = self.engine.refunds();
        let found = refunds.get(&self.engine.issuer(), refund.id).await;
        found.unwrap().value
    }

    pub(crate) async fn until_refund(&self, refund: &Refund, state: RefundState) -> Refund {
        until(&format!("{state:?}"), || async {
            self.refund_of(refund).await.state == state
        })
        .await;
        self.refund_of(refund).await
    }

    /// A sale that is paid over Lightning.
    async fn paid(&self, name: &str, sats: i64) -> Invoice {
        let sale = shop::sale(&self.engine, &self.merchant, name, sat(sats)).await;
        self.over_lightning(&sale, sats * SAT).await
    }

    /// An invoice of the customer's own wallet.
    async fn bill(&self, sats: i64) -> String {
        self.customer.invoice(sats * SAT, "refund").await.unwrap()
    }

    pub(crate) async fn available(&self, account: Account) -> i64 {
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.available(account.kind().side())).unwrap()
    }

    pub(crate) async fn resolve(
        &self,
        refund: &Refund,
        outcome: RefundOutcome,
    ) -> Result<Refund, &'static str> {
        let command = ResolveRefund {
            key: key(&format!("resolve/{}", refund.id)),
            refund: refund.id,
            outcome,
            reason: "asked the customer".to_owned(),
            despite_record: false,
        };
        let refunds = self.engine.refunds();
        let resolved = refunds.resolve(&self.engine.issuer(), command).await;
        resolved
            .map(|done| done.value)
            .map_err(|error| error.code())
    }

    async fn card(&self) -> HeldCard {
        shop::card(&self.engine, shop::UID, CardLimits::default()).await
    }
}

fn to_card(card: CardId) -> RefundTo {
    RefundTo::Card { card }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_paid_back_once_and_the_invoice_says_so() {
    let set = set().await;
    let (sale, _) = (
        set.paid("sale", 10_000).await,
        set.paid("more", 5_000).await,
    );
    let bill = set.bill(10_000).await;
    let command = order("refund", &sale, bolt11(&bill), RefundAmount::Everything);
    let refund = set.refund(command.clone()).await.unwrap();
    let done = set.until_refund(&refund, RefundState::Succeeded).await;
    assert_eq!(
        (done.amount_msat, done.sent_msat, done.fee_msat),
        (10_000 * SAT, 10_000 * SAT, Some(0))
    );
    assert_eq!(set.refund(command).await, Ok(done.clone()), "the same key");
    let after = set.get(&sale).await;
    assert_eq!(after.state, InvoiceState::Settled);
    assert_eq!(
        (after.flags.refunded_msat, after.flags.refunding_msat),
        (10_000 * SAT, 0)
    );
    let events = set.events(&sale).await;
    assert_eq!(events[events.len() - 2..], ["refunding", "refunded"]);
    let again = order("again", &sale, bolt11(&set.bill(1).await), bitcoin(1));
    assert_eq!(set.refund(again).await, Err("refund.nothing_left"));
    set.expect(
        "what was paid back is gone",
        &[
            (Account::node_channels(), 5_000 * SAT),
            (set.payable(), 5_000 * SAT),
        ],
    )
    .await;
    let refunds = set.engine.refunds();
    let listed = refunds
        .list(&set.merchant.till, sale.id, None, 10)
        .await
        .unwrap();
    assert_eq!(listed.value, std::slice::from_ref(&done));
    let rest = refunds
        .list(&set.merchant.till, sale.id, Some(done.id), 10)
        .await;
    assert_eq!(rest.unwrap().value, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_counts_and_unknown_is_not_failed() {
    let set = set().await;
    let (sale, _) = (
        set.paid("sale", 10_000).await,
        set.paid("more", 5_000).await,
    );
    set.node.script([Pay::Doubt]);
    let first = order(
        "first",
        &sale,
        bolt11(&set.bill(7_000).await),
        bitcoin(7_000),
    );
    let first = set.refund(first).await.unwrap();
    assert_eq!(first.state, RefundState::Unknown);
    // 7,000 and the most that the route may cost, 45, are set aside.
    assert_eq!(set.available(set.payable()).await, 7_955 * SAT);
    let flags = set.get(&sale).await.flags;
    assert_eq!(
        (flags.refunding_msat, flags.refunded_msat),
        (7_000 * SAT, 0)
    );
    let too_much = order(
        "second",
        &sale,
        bolt11(&set.bill(3_001).await),
        bitcoin(3_001),
    );
    assert_eq!(set.refund(too_much).await, Err("refund.exceeds_paid"));
    let fits = order(
        "third",
        &sale,
        bolt11(&set.bill(3_000).await),
        bitcoin(3_000),
    );
    let fits = set.refund(fits).await.unwrap();
    set.until_refund(&fits, RefundState::Succeeded).await;
    let failed = set.resolve(&first, RefundOutcome::Failed).await.unwrap();
    assert_eq!(failed.state, RefundState::Failed);
    assert_eq!(set.available(set.payable()).await, 12_000 * SAT);
    let flags = set.get(&sale).await.flags;
    assert_eq!(
        (
            flags.refunding_msat,
            flags.refunded_msat,
            flags.refund_covers_msat
        ),
        (0, 3_000 * SAT, 3_000 * SAT)
    );
    let twice = set
        .resolve(&first, RefundOutcome::Succeeded { fee_msat: None })
        .await;
    assert_eq!(twice, Err("command.key_reused"));
    // The node says at once that it sends nothing: the money is the merchant's again.
    set.node.script([Pay::Refuse]);
    let refused = order(
        "fourth",
        &sale,
        bolt11(&set.bill(7_000).await),
        bitcoin(7_000),
    );
    let refused = set.refund(refused).await.unwrap();
    assert_eq!(refused.state, RefundState::Failed);
    assert_eq!(set.get(&sale).await.flags.refunding_msat, 0);
    let events = set.events(&sale).await;
    assert_eq!(events.last().unwrap(), "refund_ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_cannot_send_is_refused_before_anything_is_set_aside() {
    let set = set().await;
    let sale = set.paid("sale", 300_000).await;
    // The node has 100,000 sats.
    let bill = set.bill(150_000).await;
    let command = order("refund", &sale, bolt11(&bill), bitcoin(150_000));
    assert_eq!(
        set.refund(command).await,
        Err("refund.no_outbound_capacity")
    );
    let dear = order("by mail", &sale, address("ann@x.com"), bitcoin(150_000));
    assert_eq!(set.refund(dear).await, Err("refund.no_outbound_capacity"));
    assert_eq!(set.available(set.payable()).await, 300_000 * SAT);
    assert!(set.get(&sale).await.flags.is_none());
    assert_eq!(set.node.sent.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_then_the_rate_now_and_the_merchants_cap() {
    let set = set().await;
    let card = set.card().await;
    set.paid("more", 100_000).await;
    let sale = |name: &'static str, most: Option<u32>| {
        let options = InvoiceOptions {
            rules: Some(PaymentRules {
                refund_up_to_per_mille: most,
                ..PaymentRules::default()
            }),
            ..InvoiceOptions::default()
        };
        set.command(name, jmd(150_000), options)
    };
    let (one, two) = (
        set.make(sale("one", None)).await.unwrap(),
        set.make(sale("two", Some(2_000))).await.unwrap(),
    );
    for invoice in [&one, &two] {
        assert_eq!(invoice.amount_msat, 10_000 * SAT);
        set.over_lightning(invoice, invoice.amount_msat).await;
    }
    let then = RefundAmount::RateThen {
        minor_units: 30_000,
    };
    let refund = set
        .refund(order("then", &one, to_card(card.id), then))
        .await
        .unwrap();
    assert_eq!(
        (refund.amount_msat, refund.covers_msat),
        (2_000 * SAT, 2_000 * SAT)
    );
    // Bitcoin costs twice as much: half of the bitcoin for the same dollars.
    set.rate("30000000");
    let half = RefundAmount::RateNow {
        minor_units: Some(60_000),
    };
    let refund = set
        .refund(order("half", &one, to_card(card.id), half))
        .await
        .unwrap();
    assert_eq!(
        (refund.amount_msat, refund.covers_msat),
        (2_000 * SAT, 4_000 * SAT)
    );
    assert_eq!(refund.quote.unwrap().rate.to_string(), "30000000");
    let more = RefundAmount::RateNow {
        minor_units: Some(60_001),
    };
    let refused = set
        .refund(order("more", &one, to_card(card.id), more))
        .await;
    assert_eq!(refused, Err("refund.exceeds_paid"));
    // And then half as much: the rest would be 8,000 sats, and 6,000 are left of what was paid.
    set.rate("7500000");
    let rest = RefundAmount::RateNow { minor_units: None };
    let refused = set
        .refund(order("rest", &one, to_card(card.id), rest))
        .await;
    assert_eq!(refused, Err("refund.exceeds_cap"));
    // Where the merchant lets twice as much go, all of the dollars are paid back.
    let refund = set
        .refund(order("all", &two, to_card(card.id), rest))
        .await
        .unwrap();
    assert_eq!(
        (refund.amount_msat, refund.covers_msat),
        (20_000 * SAT, 10_000 * SAT)
    );
    let refused = set
        .refund(order("one more", &two, to_card(card.id), bitcoin(1)))
        .await;
    assert_eq!(refused, Err("refund.nothing_left"));
    let fiat = |code: &str, minor_units| RefundAmount::Fiat {
        currency: flashkit::money::Currency::from_code(code).unwrap(),
        minor_units,
    };
    let unknown = order("usd", &one, to_card(card.id), fiat("USD", 100));
    assert_eq!(set.refund(unknown).await, Err("rate.unknown_currency"));
    let dollars = order("jmd", &one, to_card(card.id), fiat("JMD", 15_000));
    let refund = set.refund(dollars).await.unwrap();
    assert_eq!(
        (refund.amount_msat, refund.covers_msat),
        (2_000 * SAT, 1_000 * SAT)
    );
    let plain = set.paid("plain", 1_000).await;
    let refused = set
        .refund(order("no rate", &plain, to_card(card.id), rest))
        .await;
    assert_eq!(refused, Err("refund.no_rate_then"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_bears_the_fee_is_set_aside_for_it() {
    let set = set().await;
    let (sale, _) = (
        set.paid("sale", 10_000).await,
        set.paid("more", 5_000).await,
    );
    let refunds = set.engine.refunds();
    let all = RefundAmount::Everything;
    let bearer = RefundFeeBearer::Customer;
    let quote = refunds
        .quote(&set.merchant.till, sale.id, all, bearer)
        .await
        .unwrap();
    // Half a percent and 10 sats.
    assert_eq!(
        (quote.max_fee_msat, quote.sent_msat),
        (60 * SAT, 9_940 * SAT)
    );
    let wrong = CreateRefund {
        fee_bearer: bearer,
        ..order("wrong", &sale, bolt11(&set.bill(10_000).await), all)
    };
    assert_eq!(set.refund(wrong).await, Err("refund.other_amount"));
    set.node.script([Pay::Doubt]);
    let command = CreateRefund {
        fee_bearer: bearer,
        ..order("right", &sale, bolt11(&set.bill(9_940).await), all)
    };
    let refund = set.refund(command).await.unwrap();
    assert_eq!(set.available(set.payable()).await, 5_000 * SAT);
    set.resolve(
        &refund,
        RefundOutcome::Succeeded {
            fee_msat: Some(20 * SAT),
        },
    )
    .await
    .unwrap();
    // What the route did not cost is the merchant's.
    assert_eq!(set.available(set.payable()).await, 5_040 * SAT);
    let other = set.paid("other", 1_000).await;
    set.node.script([Pay::Doubt]);
    let command = CreateRefund {
        fee_bearer: RefundFeeBearer::Operator,
        ..order("operator", &other, bolt11(&set.bill(1_000).await), all)
    };
    let refund = set.refund(command).await.unwrap();
    assert_eq!(set.available(set.payable()).await, 5_040 * SAT);
    set.resolve(
        &refund,
        RefundOutcome::Succeeded {
            fee_msat: Some(SAT),
        },
    )
    .await
    .unwrap();
    assert_eq!(set.available(Account::routing_fees()).await, SAT);
    let small = set.paid("small", 10).await;
    let command = CreateRefund {
        fee_bearer: bearer,
        ..order("small", &small, bolt11(&set.bill(10).await), all)
    };
    assert_eq!(set.refund(command).await, Err("refund.fee_takes_all"));
}

fn address(text: &str) -> RefundTo {
    RefundTo::LightningAddress {
        address: text.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lightning_address_is_asked_by_the_host() {
    let set = set().await;
    let (sale, _) = (
        set.paid("sale", 10_000).await,
        set.paid("more", 5_000).await,
    );
    let bad = order("bad", &sale, address("Ann@x.com"), bitcoin(6_000));
    assert_eq!(set.refund(bad).await, Err("refund.bad_address"));
    let command = order("mail", &sale, address("ann@x.com"), bitcoin(6_000));
    let refund = set.refund(command).await.unwrap();
    assert_eq!(refund.state, RefundState::Resolving);
    let first = refund.ask.clone().unwrap();
    assert_eq!(first, "https://x.com/.well-known/lnurlp/ann");
    // It counts, and nothing is set aside yet.
    let more = order("more", &sale, address("bob@x.com"), bitcoin(4_001));
    assert_eq!(set.refund(more).await, Err("refund.exceeds_paid"));
    assert_eq!(set.available(set.payable()).await, 15_000 * SAT);
    let answer = |name: &str, asked: &str, body: &str| AnswerRefund {
        key: key(name),
        refund: refund.id,
        asked: asked.to_owned(),
        body: body.to_owned(),
    };
    let refunds = set.engine.refunds();
    let till = &set.merchant.till;
    let request = r#"{"tag":"payRequest","callback":"https://x.com/cb?k=1","minSendable":1000,"maxSendable":9000000,"metadata":"[]"}"#;
    for (name, asked, body, code) in [
        (
            "e",
            first.as_str(),
            r#"{"status":"ERROR","reason":"no"}"#,
            "refund.bad_answer",
        ),
        ("o", "https://y.com", request, "refund.other_question"),
        (
            "s",
            &first,
            &request.replace("9000000", "5999999"),
            "refund.amount_not_taken",
        ),
    ] {
        let refused = refunds.answer(till, answer(name, asked, body)).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    let asks = refunds
        .answer(till, answer("1", &first, request))
        .await
        .unwrap();
    let second = asks.ask.clone().unwrap();
    assert_eq!(second, "https://x.com/cb?k=1&amount=6000000");
    let reply = |bill: &str| format!(r#"{{"pr":"{bill}","routes":[]}}"#);
    let other = reply(&set.bill(5_999).await);
    let refused = refunds.answer(till, answer("2", &second, &other)).await;
    assert_eq!(refused.unwrap_err().code(), "refund.other_amount");
    let right = answer("3", &second, &reply(&set.bill(6_000).await));
    let sent = refunds.answer(till, right.clone()).await.unwrap();
    let done = set.until_refund(&sent, RefundState::Succeeded).await;
    assert_eq!(refunds.answer(till, right).await.unwrap().value, done);
    assert_eq!(set.get(&sale).await.flags.refunded_msat, 6_000 * SAT);
    // One that is given up counts no more.
    let given_up = order("bob", &sale, address("bob@x.com"), bitcoin(4_000));
    let given_up = set.refund(given_up).await.unwrap();
    let command = CancelRefund {
        key: key("cancel"),
        refund: given_up.id,
    };
    let cancelled = refunds.cancel(till, command).await.unwrap();
    assert_eq!(cancelled.state, RefundState::Cancelled);
    let flags = set.get(&sale).await.flags;
    assert_eq!(
        (flags.refunding_msat, flags.refund_covers_msat),
        (0, 6_000 * SAT)
    );
}

/// What a price in a currency comes to is seldom whole sats, and servers of Lightning addresses take
/// nothing else. All of the invoice is paid back by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_sats_go_where_no_amount_is_asked_for() {
    let set = set().await;
    let (mut sales, refunds) = (Vec::new(), set.engine.refunds());
    for name in ["address", "open", "exact", "small"] {
        let command = set.command(name, jmd(100_000), InvoiceOptions::default());
        let invoice = set.make(command).await.unwrap();
        assert_eq!(invoice.amount_msat, 6_666_667);
        set.over_lightning(&invoice, invoice.amount_msat).await;
        sales.push(invoice);
    }
    let all = RefundAmount::Everything;
    let command = order("mail", &sales[0], address("ann@x.com"), all);
    let refund = set.refund(command).await.unwrap();
    let amounts = |refund: &Refund| (refund.sent_msat, refund.amount_msat, refund.covers_msat);
    assert_eq!(amounts(&refund), (6_666_000, 6_666_667, 6_666_667));
    let request = r#"{"tag":"payRequest","callback":"https://x.com/cb","minSendable":1000,"maxSendable":9000000,"metadata":"[]"}"#;
    let answer = |name: &str, asked: String, body: &str| AnswerRefund {
        key: key(name),
        refund: refund.id,
        asked,
        body: body.to_owned(),
    };
    let till = &set.merchant.till;
    let first = answer("1", refund.ask.clone().unwrap(), request);
    let second = refunds.answer(till, first).await.unwrap().ask.clone();
    let second = second.unwrap();
    assert_eq!(second, "https://x.com/cb?amount=6666000");
    let reply = format!(r#"{{"pr":"{}","routes":[]}}"#, set.bill(6_666).await);
    let sent = refunds.answer(till, answer("2", second, &reply)).await;
    set.until_refund(&sent.unwrap(), RefundState::Succeeded)
        .await;
    assert_eq!(set.get(&sales[0]).await.flags.refunded_msat, 6_666_667);
    // So it is with a text that leaves the amount to whoever pays; one that asks for all of it has
    // all of it.
    let bill = |amount_msat: Option<i64>, number: u8| InvoiceRequest {
        payment_hash: Preimage::new([number; 32]).payment_hash(),
        amount_msat,
        description: "refund".to_owned(),
        description_hash: None,
        expiry_seconds: 3_600,
    };
    set.node.script([Pay::Doubt, Pay::Doubt]);
    for (name, number, sale, asked, sent_msat) in [
        ("open", 1, &sales[1], None, 6_666_000),
        ("exact", 2, &sales[2], Some(6_666_667), 6_666_667),
    ] {
        let text = set.payer.create_invoice(bill(asked, number));
        let command = order(name, sale, bolt11(&text.await.unwrap()), all);
        let refund = set.refund(command).await.unwrap();
        assert_eq!(amounts(&refund), (sent_msat, 6_666_667, 6_666_667));
    }
    // What is left of all that is the merchant's.
    let left = 4 * 6_666_667 - 2 * 6_666_000 - 6_666_667;
    let most = 3 * refund.max_fee_msat;
    let has = set.available(set.payable()).await;
    assert!(has <= left && has >= left - most, "{has} of {left}");
    let less = RefundAmount::Bitcoin { amount_msat: 999 };
    let command = order("small", &sales[3], address("ann@x.com"), less);
    assert_eq!(set.refund(command).await, Err("refund.fee_takes_all"));
}

/// What the operator's money is spent on is not for a till to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_does_not_let_the_operator_bear_the_fee() {
    let set = set().await;
    let sale = set.paid("sale", 1_000).await;
    let all = RefundAmount::Everything;
    let command = CreateRefund {
        fee_bearer: RefundFeeBearer::Operator,
        ..order("operator", &sale, bolt11(&set.bill(1_000).await), all)
    };
    let refunds = set.engine.refunds();
    let refused = refunds.create(&set.merchant.till, command.clone()).await;
    assert_eq!(refused.unwrap_err().code(), "access.not_allowed");
    assert_eq!(set.get(&sale).await.flags.refunding_msat, 0);
    let made = refunds.create(&set.engine.issuer(), command).await;
    assert_eq!(made.unwrap().fee_bearer, RefundFeeBearer::Operator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surplus_and_late_money_goes_back_from_suspense_by_the_issuer() {
    let set = set().await;
    let card = set.card().await;
    let sale = set.sale("over", sat(1_000), PaymentRules::NONE).await;
    set.chain(&sale, 1, 1_500, block(1)).await;
    let till = &set.merchant.till;
    let refunds = set.engine.refunds();
    let by_till = order("till", &sale, to_card(card.id), RefundAmount::Surplus);
    let refused = refunds.create(till, by_till).await.unwrap_err();
    assert_eq!(refused.code(), "refund.nothing_left");
    let surplus = order("over", &sale, to_card(card.id), RefundAmount::Surplus);
    let refund = set.refund(surplus).await.unwrap();
    assert_eq!(
        (refund.amount_msat, refund.state),
        (500 * SAT, RefundState::Succeeded)
    );
    let lines = [
        (Account::node_onchain(), 1_500 * SAT),
        (set.payable(), 1_000 * SAT),
        (Account::card_balance(card.id), 500 * SAT),
    ];
    set.expect("the surplus is the customer's", &lines).await;
    let (treasury, issuer) = (set.engine.treasury(), set.engine.issuer());
    let waits = treasury.suspense(&issuer, None, 10).await;
    assert_eq!(waits.unwrap().value, []);
    // Too late, and nothing takes it: all of it goes back.
    let late = set.sale("late", sat(2_000), PaymentRules::NONE).await;
    set.pass(601);
    set.until(&late, InvoiceState::Expired).await;
    set.chain(&late, 2, 2_000, block(1)).await;
    let back = order("late", &late, to_card(card.id), RefundAmount::Everything);
    let refund = set.refund(back).await.unwrap();
    assert_eq!(refund.amount_msat, 2_000 * SAT);
    // Too little, and its time is over.
    let under = set.sale("under", sat(3_000), PaymentRules::NONE).await;
    set.chain(&under, 3, 700, block(1)).await;
    let open = order("open", &under, to_card(card.id), RefundAmount::Everything);
    assert_eq!(set.refund(open).await, Err("refund.invoice_open"));
    set.pass(601);
    set.until(&under, InvoiceState::Expired).await;
    let back = order("under", &under, to_card(card.id), RefundAmount::Everything);
    assert_eq!(set.refund(back).await.unwrap().amount_msat, 700 * SAT);
    set.expect(
        "only the sale is left",
        &[
            (Account::node_onchain(), 4_200 * SAT),
            (set.payable(), 1_000 * SAT),
            (Account::card_balance(card.id), 3_200 * SAT),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_surplus_that_is_to_go_back_is_due_until_it_has() {
    let set = set().await;
    let card = set.card().await;
    let rules = PaymentRules {
        surplus: Some(SurplusTo::Refund),
        ..PaymentRules::NONE
    };
    let sale = set.sale("over", sat(1_000), rules).await;
    let paid = set.over_lightning(&sale, 1_400 * SAT).await;
    assert_eq!(paid.refund_due_msat, 400 * SAT);
    let part = order("part", &sale, to_card(card.id), bitcoin(100));
    set.refund(part).await.unwrap();
    assert_eq!(set.get(&sale).await.refund_due_msat, 300 * SAT);
    let rest = order("rest", &sale, to_card(card.id), RefundAmount::Surplus);
    let refund = set.refund(rest).await.unwrap();
    assert_eq!(refund.amount_msat, 300 * SAT);
    let after = set.get(&sale).await;
    assert_eq!(
        (after.refund_due_msat, after.flags.overpaid_msat),
        (0, 400 * SAT)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refunded_and_then_reorged_away_is_owed() {
    let set = set().await;
    let card = set.card().await;
    let command = set.command("sale", sat(1_000), on_chain("sale", Custody::Operator));
    let sale = set.make(command).await.unwrap();
    set.chain(&sale, 1, 1_000, block(1)).await;
    let refund = order("refund", &sale, to_card(card.id), bitcoin(800));
    set.refund(refund).await.unwrap();
    let gone = set.chain(&sale, 1, 1_000, GONE).await;
    assert_eq!(
        (gone.flags.reorged_msat, gone.flags.refunded_msat),
        (1_000 * SAT, 800 * SAT)
    );
    set.expect(
        "the merchant owes what went back",
        &[
            (Account::merchant_receivable(set.merchant.id), 800 * SAT),
            (Account::card_balance(card.id), 800 * SAT),
        ],
    )
    .await;
    set.pass(601);
    set.until(&sale, InvoiceState::Expired).await;
    let more = order("more", &sale, to_card(card.id), bitcoin(1));
    assert_eq!(set.refund(more).await, Err("refund.nothing_left"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_top_up_goes_back_from_the_card_and_by_the_issuer_alone() {
    let set = set().await;
    let card = set.card().await;
    shop::top_up(&set.engine, &set.customer, &card, "top-up", sat(10_000)).await;
    let invoices = set.engine.invoices();
    let purpose = flashkit::invoices::InvoicePurpose::TopUp { card: card.id };
    let listed = invoices
        .list(&set.engine.issuer(), purpose, None, 1)
        .await
        .unwrap();
    let top_up = listed.value[0].clone();
    let own = order("own", &top_up, to_card(card.id), bitcoin(100));
    assert_eq!(set.refund(own).await, Err("refund.own_account"));
    let command = order(
        "back",
        &top_up,
        bolt11(&set.bill(4_000).await),
        bitcoin(4_000),
    );
    let by_till = set
        .engine
        .refunds()
        .create(&set.merchant.till, command.clone())
        .await;
    assert_eq!(by_till.unwrap_err().code(), "access.not_allowed");
    let refund = set.refund(command).await.unwrap();
    set.until_refund(&refund, RefundState::Succeeded).await;
    assert_eq!(
        set.available(Account::card_balance(card.id)).await,
        6_000 * SAT
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_go_back_with_the_sale_and_come_again_when_the_refund_fails() {
    let set = set().await;
    let program = shop::program(&set.engine, set.merchant.id).await;
    let mut card = set.card().await;
    shop::top_up(&set.engine, &set.customer, &card, "top-up", sat(50_000)).await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", sat(10_000)).await;
    let command = PayWithCard {
        key: key("pay"),
        tap: card.chip.tap(),
        bolt11: sale.bolt11.clone(),
        pin: None,
    };
    let cards = set.engine.cards();
    let paid = cards.pay(&set.merchant.till, command).await.unwrap();
    assert_eq!(paid.points, 200);
    let points = Account::points_balance(card.id, program);
    // The fund has the worth of the points, so that the merchant has 9,800 sats of the sale.
    assert_eq!(set.available(set.payable()).await, 9_800 * SAT);
    set.node.script([Pay::Refuse]);
    let fails = order(
        "fails",
        &sale,
        bolt11(&set.bill(5_000).await),
        bitcoin(5_000),
    );
    let refund = set.refund(fails).await.unwrap();
    assert_eq!(refund.state, RefundState::Failed);
    assert_eq!(set.available(points).await, 200);
    set.node.script([Pay::Doubt]);
    let waits = order(
        "waits",
        &sale,
        bolt11(&set.bill(2_500).await),
        bitcoin(2_500),
    );
    let waits = set.refund(waits).await.unwrap();
    assert_eq!(set.available(points).await, 150, "set aside");
    let half = order("half", &sale, to_card(card.id), bitcoin(2_500));
    set.refund(half).await.unwrap();
    assert_eq!(set.available(points).await, 100);
    set.resolve(&waits, RefundOutcome::Succeeded { fee_msat: None })
        .await
        .unwrap();
    let book = set.store.balance(&points).await.unwrap();
    assert_eq!(
        (book.posted(Side::Credit), book.available(Side::Credit)),
        (100, 100)
    );
    // 9,800, less 5,000 that went back, and 100 that were set aside for points.
    assert_eq!(set.available(set.payable()).await, 4_900 * SAT);
    // What was turned into money is withheld.
    let redeem = flashkit::rewards::RedeemPoints {
        key: key("redeem"),
        card: card.id,
        program,
        points: 100,
    };
    set.engine
        .rewards()
        .redeem(&card.holder, redeem)
        .await
        .unwrap();
    let rest = order("rest", &sale, to_card(card.id), RefundAmount::Everything);
    let rest = set.refund(rest).await.unwrap();
    assert_eq!(
        (rest.amount_msat, rest.withheld_msat, rest.sent_msat),
        (5_000 * SAT, 100 * SAT, 4_900 * SAT)
    );
    assert_eq!(set.available(set.payable()).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_of_this_engine_is_paid_back_in_the_books() {
    let set = set().await;
    let sale = set.paid("sale", 10_000).await;
    let other = shop::merchant(&set.engine, "Other").await;
    let bill = shop::sale(&set.engine, &other, "bill", sat(6_000)).await;
    let command = order("books", &sale, bolt11(&bill.bolt11), bitcoin(6_000));
    let refund = set.refund(command).await.unwrap();
    assert_eq!(refund.state, RefundState::Succeeded);
    assert_eq!(refund.by_book.unwrap().invoice, bill.id);
    assert_eq!(set.node.sent.lock().unwrap().len(), 0);
    let own = shop::sale(&set.engine, &set.merchant, "own", sat(100)).await;
    let command = order("own", &sale, bolt11(&own.bolt11), bitcoin(100));
    assert_eq!(set.refund(command).await, Err("refund.own_account"));
    let used = order("used", &sale, bolt11(&bill.bolt11), bitcoin(6_000));
    assert_eq!(set.refund(used).await, Err("refund.exceeds_paid"));
    set.expect(
        "moved in the books",
        &[
            (Account::node_channels(), 10_000 * SAT),
            (set.payable(), 4_000 * SAT),
            (Account::merchant_payable(other.id), 6_000 * SAT),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_to_a_hold_invoice_ends_with_it() {
    let mut set = set().await;
    let sale = set.paid("sale", 10_000).await;
    let shop_till = set.merchant.till.clone();
    let other = shop::merchant(&set.engine, "Other").await;
    let other_id = other.id;
    let own = std::mem::replace(&mut set.merchant, other);
    let (one, two) = (held(&set, "one").await, held(&set, "two").await);
    let till = std::mem::replace(&mut set.merchant, own).till;
    let capture = |invoice: &Invoice| CaptureInvoice {
        key: key(&format!("capture/{}", invoice.id)),
        invoice: invoice.id,
    };
    let first = order("one", &sale, bolt11(&one.bolt11), bitcoin(1_000));
    let first = set.refund(first).await.unwrap();
    assert_eq!(
        (first.state, first.held_for),
        (RefundState::Sending, Some(one.id))
    );
    assert_eq!(set.get(&one).await.state, InvoiceState::Processing);
    // The network comes too late: the name is taken.
    set.offer(&one, one.amount_msat, None).await;
    set.node.inject(LightningEvent::SendFailed {
        payment_hash: one.payment_hash,
        reason: "nothing was ever sent".to_owned(),
    });
    until("it is dealt with", || async { set.node.waiting() == 0 }).await;
    assert_eq!(set.refund_of(&first).await.state, RefundState::Sending);
    let told = set.store.events(0, 1_000).await.unwrap();
    let parked = told.iter().any(|event| event.kind == "node_event.parked");
    assert!(
        !parked,
        "what the node says of it is about nothing that is here"
    );
    let invoices = set.engine.invoices();
    let wrong = invoices.capture(&shop_till, capture(&one)).await;
    assert_eq!(wrong.unwrap_err().code(), "access.not_allowed");
    let taken = invoices.capture(&till, capture(&one)).await.unwrap();
    assert_eq!(taken.state, InvoiceState::Settled);
    let done = set.refund_of(&first).await;
    assert_eq!(done.state, RefundState::Succeeded);
    assert_eq!(done.by_book.unwrap().preimage.len(), 64);
    assert_eq!(set.get(&sale).await.flags.refunded_msat, 1_000 * SAT);
    // Nobody captures the other: it goes back by itself.
    let second = order("two", &sale, bolt11(&two.bolt11), bitcoin(1_000));
    let second = set.refund(second).await.unwrap();
    assert_eq!(set.get(&sale).await.flags.refunding_msat, 1_000 * SAT);
    set.pass(24 * 3_600 - 1);
    set.engine.run_due_jobs().await.unwrap();
    assert_eq!(set.refund_of(&second).await.state, RefundState::Sending);
    set.pass(1);
    let late = invoices.capture(&till, capture(&two)).await;
    assert_eq!(late.unwrap_err().code(), "invoice.capture_too_late");
    set.until_refund(&second, RefundState::Failed).await;
    assert_eq!(set.get(&sale).await.flags.refunding_msat, 0);
    set.expect(
        "one of two",
        &[
            (Account::node_channels(), 10_000 * SAT),
            (set.payable(), 9_000 * SAT),
            (Account::merchant_payable(other_id), 1_000 * SAT),
        ],
    )
    .await;
}
