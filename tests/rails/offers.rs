//! BOLT12 offers, which the node takes by itself, and channels that are opened just in time.

use flashkit::checkout::PaymentLinkState;
use flashkit::invoices::{
    CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState, PaymentRules, Rail,
    SurplusTo,
};
use flashkit::ledger::Account;
use flashkit::lightning::{Dispatch, LightningEvent, PaymentHash};

use super::traps::{Set, set};
use crate::support::shop::{SAT, sat};
use crate::support::until;

fn by_offer() -> InvoiceOptions {
    InvoiceOptions {
        rails: vec![Rail::Lightning, Rail::Bolt12],
        ..InvoiceOptions::default()
    }
}

async fn pay(set: &Set, invoice: &Invoice, sats: i64) {
    let text = &invoice.offer.as_ref().unwrap().text;
    let before = set.get(invoice).await.payments.len();
    assert_eq!(set.payer.pay_offer(text, sats * SAT), Dispatch::Accepted);
    until("it is booked", || async {
        set.get(invoice).await.payments.len() == before + 1
    })
    .await;
}

async fn suspended(set: &Set) -> Vec<(i64, Option<PaymentHash>)> {
    let (issuer, treasury) = (set.engine.issuer(), set.engine.treasury());
    let waiting = treasury.suspense(&issuer, None, 10).await.unwrap();
    let items = waiting.value.into_iter();
    let mut found: Vec<_> = items
        .map(|item| (item.amount_msat / SAT, item.payment_hash))
        .collect();
    // Two of one millisecond have no order.
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_settles_its_invoice_once_and_what_else_comes_by_it_waits_for_a_person() {
    let set = set().await;
    let invoice = set.make(set.command("offer", sat(1_000), by_offer())).await;
    let invoice = invoice.unwrap();
    let offer = invoice.offer.clone().unwrap();
    assert_eq!(offer.amount_msat, Some(1_000 * SAT));
    assert!(offer.text.starts_with("lno1"));
    pay(&set, &invoice, 1_000).await;
    let paid = set.get(&invoice).await;
    assert_eq!(paid.state, InvoiceState::Settled);
    assert_eq!(paid.payments[0].rail, Rail::Bolt12);
    // The node may tell it twice.
    set.node.inject(LightningEvent::OfferPaid {
        offer: offer.id,
        payment_hash: paid.payments[0].reference.parse().unwrap(),
        amount_msat: 1_000 * SAT,
    });
    until("it is dealt with", || async { set.node.waiting() == 0 }).await;
    assert_eq!(set.get(&invoice).await, paid);
    pay(&set, &invoice, 1_200).await;
    let twice = set.get(&invoice).await;
    assert_eq!(twice.state, InvoiceState::Settled);
    assert_eq!(twice.flags.overpaid_msat, 1_200 * SAT);
    let second = twice.payments[1].reference.parse().unwrap();
    assert_eq!(suspended(&set).await, [(1_200, Some(second))]);
    set.expect(
        "an offer paid twice",
        &[
            (Account::node_channels(), 2_200 * SAT),
            (set.payable(), 1_000 * SAT),
            (Account::suspense(), 1_200 * SAT),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surplus_by_an_offer_goes_where_the_rules_say_and_lightning_asks_for_the_rest() {
    let set = set().await;
    let rules = PaymentRules {
        ask_for_rest: true,
        surplus: Some(SurplusTo::Tip),
        ..PaymentRules::NONE
    };
    let options = InvoiceOptions {
        rules: Some(rules),
        ..by_offer()
    };
    let invoice = set
        .make(set.command("tip", sat(1_000), options))
        .await
        .unwrap();
    set.over_lightning(&invoice, 400 * SAT).await;
    until("the rest is asked for", || async {
        set.engine.run_due_jobs().await.unwrap();
        set.get(&invoice).await.lightning.len() == 2
    })
    .await;
    pay(&set, &invoice, 1_000).await;
    let paid = set.get(&invoice).await;
    assert_eq!(
        (paid.state, paid.received_msat, paid.flags.overpaid_msat),
        (InvoiceState::Settled, 1_000 * SAT, 400 * SAT)
    );
    set.expect(
        "a part over Lightning and too much by the offer",
        &[
            (Account::node_channels(), 1_400 * SAT),
            (set.payable(), 1_400 * SAT),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_late_or_by_an_offer_that_nobody_made_is_in_suspense() {
    let set = set().await;
    let made = set.make(set.command("late", sat(1_000), by_offer())).await;
    let invoice = made.unwrap();
    let offer = invoice.offer.as_ref().unwrap().id;
    set.pass(601);
    // The invoice was asked for in time, and its payment took its time.
    set.node.inject(LightningEvent::OfferPaid {
        offer,
        payment_hash: PaymentHash([3; 32]),
        amount_msat: 1_000 * SAT,
    });
    let mut other = offer;
    other.0[0] ^= 1;
    set.node.inject(LightningEvent::OfferPaid {
        offer: other,
        payment_hash: PaymentHash([4; 32]),
        amount_msat: 7 * SAT,
    });
    until("it is dealt with", || async { set.node.waiting() == 0 }).await;
    let late = set.get(&invoice).await;
    assert_eq!(late.state, InvoiceState::Expired);
    assert_eq!(late.flags.late_msat, 1_000 * SAT);
    let expected = [
        (7, Some(PaymentHash([4; 32]))),
        (1_000, Some(PaymentHash([3; 32]))),
    ];
    assert_eq!(suspended(&set).await, expected);
    set.expect(
        "late, and by no offer of ours",
        &[
            (Account::node_channels(), 1_007 * SAT),
            (Account::suspense(), 1_007 * SAT),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_offer_takes_what_the_payer_chooses() {
    let set = set().await;
    let command = CreateInvoice {
        price: None,
        purpose: InvoicePurpose::Plain,
        ..set.command("open", sat(1), by_offer())
    };
    let invoice = set.make(command).await.unwrap();
    pay(&set, &invoice, 321).await;
    let paid = set.get(&invoice).await;
    assert_eq!(
        (paid.state, paid.received_msat),
        (InvoiceState::Settled, 321 * SAT)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_liquidity_provider_keeps_is_a_cost_and_no_underpayment() {
    let set = set().await;
    set.node.set_inbound_msat(0);
    let asked = |name: &str, most| {
        let options = InvoiceOptions {
            just_in_time_max_fee_msat: most,
            ..InvoiceOptions::default()
        };
        set.command(name, sat(1_000), options)
    };
    let none = set.make(asked("none", None)).await;
    assert_eq!(none.unwrap_err(), "lightning.no_inbound_capacity");
    let nobody = set.make(asked("nobody", Some(10 * SAT))).await;
    assert_eq!(nobody.unwrap_err(), "lightning.no_liquidity_provider");
    set.node.set_skimmed_msat(10 * SAT);
    let dear = set.make(asked("dear", Some(9 * SAT))).await;
    assert_eq!(dear.unwrap_err(), "lightning.refused");
    let free = set.make(asked("free", Some(0))).await;
    assert_eq!(free.unwrap_err(), "command.out_of_bounds");
    let invoice = set.make(asked("opened", Some(10 * SAT))).await.unwrap();
    assert!(invoice.lightning[0].just_in_time);
    let paid = set.over_lightning(&invoice, 990 * SAT).await;
    assert_eq!(*set.node.claimed.lock().unwrap(), [990 * SAT]);
    assert_eq!(
        (paid.state, paid.received_msat, paid.flags.underpaid_msat),
        (InvoiceState::Settled, 1_000 * SAT, 0)
    );
    let payment = &paid.payments[0];
    assert_eq!(
        (payment.amount_msat, payment.skimmed_msat),
        (1_000 * SAT, 10 * SAT)
    );
    set.expect(
        "a channel was opened for it",
        &[
            (Account::node_channels(), 990 * SAT),
            (Account::routing_fees(), 10 * SAT),
            (set.payable(), 1_000 * SAT),
        ],
    )
    .await;
    // Where a channel has room, none is opened, and too little is too little.
    set.node.set_inbound_msat(i64::MAX);
    let direct = set.make(asked("direct", Some(10 * SAT))).await.unwrap();
    assert!(!direct.lightning[0].just_in_time);
    let short = set.offer(&direct, 990 * SAT, None).await;
    assert_eq!(short.payments, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_alone_is_what_a_link_is_opened_by() {
    let set = set().await;
    let options = InvoiceOptions {
        rails: vec![Rail::Bolt12],
        ..InvoiceOptions::default()
    };
    let invoice = set.make(set.command("alone", sat(1_000), options)).await;
    let invoice = invoice.unwrap();
    let checkout = set.engine.checkout();
    let link = checkout.link(&set.merchant.till, invoice.id).await;
    let link = link.unwrap().value;
    let offer = &invoice.offer.as_ref().unwrap().text;
    let uri = format!("bitcoin:?amount=0.00001000&lno={offer}");
    assert_eq!(link.state, PaymentLinkState::Payable);
    assert_eq!((link.uri, link.lightning_uri), (Some(uri), None));
    // Where there is a text that every wallet knows, it is that.
    let both = set.make(set.command("both", sat(1_000), by_offer())).await;
    let both = both.unwrap();
    let link = checkout.link(&set.merchant.till, both.id).await;
    let uri = format!("lightning:{}", both.bolt11);
    assert_eq!(link.unwrap().value.uri, Some(uri));
}
