//! Refunds of what waits in suspense and of what was not settled: only what is sent leaves suspense,
//! and what went back counts no more.

use flashkit::invoices::{Custody, Invoice, InvoiceState, PaymentRules};
use flashkit::ledger::Account;
use flashkit::refunds::{AnswerRefund, CancelRefund, Refund, RefundAmount, RefundState, RefundTo};
use flashkit::treasury::{AssignSuspense, SuspenseItem, SuspenseTarget};

use crate::refunds::{bolt11, order};
use crate::support::key;
use crate::support::scripted::Pay;
use crate::support::shop::{SAT, sat};
use crate::traps::{GONE, Set, block, on_chain, set};

/// What the host of a Lightning address answers first.
const PAY_REQUEST: &str = r#"{"tag":"payRequest","callback":"https://x.com/cb","minSendable":1000,"maxSendable":90000000,"metadata":"[]"}"#;

fn bitcoin(sats: i64) -> RefundAmount {
    RefundAmount::Bitcoin {
        amount_msat: sats * SAT,
    }
}

fn at_an_address() -> RefundTo {
    RefundTo::LightningAddress {
        address: "ann@x.com".to_owned(),
    }
}

impl Set {
    /// A sale of 10,000 sats that was paid twice on chain, beside 1,000 sats that the merchant has.
    async fn paid_twice(&self) -> Invoice {
        let fees = self.sale("fees", sat(1_000), PaymentRules::NONE).await;
        self.over_lightning(&fees, 1_000 * SAT).await;
        let options = on_chain("sale", Custody::Operator);
        let sale = self.make(self.command("sale", sat(10_000), options)).await;
        let sale = sale.unwrap();
        self.chain(&sale, 1, 10_000, block(1)).await;
        self.chain(&sale, 2, 10_000, block(1)).await;
        assert_eq!(self.where_it_is().await, (11_000, 10_000));
        sale
    }

    /// A sale that 2,000 sats come for when its time is over: they wait in suspense.
    async fn late(&self) -> Invoice {
        let late = self.sale("late", sat(2_000), PaymentRules::NONE).await;
        self.pass(601);
        self.until(&late, InvoiceState::Expired).await;
        self.chain(&late, 2, 2_000, block(1)).await
    }

    async fn waits(&self) -> Vec<SuspenseItem> {
        let treasury = self.engine.treasury();
        let found = treasury.suspense(&self.engine.issuer(), None, 10).await;
        found.unwrap().value
    }

    /// What the merchant can be paid, and what waits in suspense, in sats.
    async fn where_it_is(&self) -> (i64, i64) {
        let payable = self.available(self.payable()).await;
        let suspense = self.available(Account::suspense()).await;
        (payable / SAT, suspense / SAT)
    }

    async fn answered(&self, refund: &Refund, name: &str, asked: &str, body: String) -> Refund {
        let command = AnswerRefund {
            key: key(name),
            refund: refund.id,
            asked: asked.to_owned(),
            body,
        };
        let refunds = self.engine.refunds();
        let answered = refunds.answer(&self.engine.issuer(), command).await;
        answered.unwrap().value
    }

    /// What the host of a Lightning address answers with an invoice of the customer's wallet.
    async fn reply(&self, sats: i64) -> String {
        let bill = self.customer.invoice(sats * SAT, "refund").await.unwrap();
        format!(r#"{{"pr":"{bill}","routes":[]}}"#)
    }

    async fn elsewhere(&self, sats: i64) -> RefundTo {
        bolt11(&self.customer.invoice(sats * SAT, "refund").await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_a_refund_sends_leaves_suspense() {
    let set = set().await;
    set.over_lightning(
        &set.sale("fees", sat(1_000), PaymentRules::NONE).await,
        1_000 * SAT,
    )
    .await;
    let late = set.late().await;
    assert_eq!(set.where_it_is().await, (1_000, 2_000));
    // One that fails leaves all of it there.
    set.node.script([Pay::Refuse]);
    let to = set.elsewhere(1_500).await;
    let refused = set
        .refund(order("refused", &late, to, bitcoin(1_500)))
        .await;
    assert_eq!(refused.unwrap().state, RefundState::Failed);
    assert_eq!(set.where_it_is().await, (1_000, 2_000));
    // While it is not known nobody else gets it.
    set.node.script([Pay::Doubt]);
    let to = set.elsewhere(500).await;
    let doubt = set.refund(order("doubt", &late, to, bitcoin(500))).await;
    let doubt = doubt.unwrap();
    assert_eq!(doubt.state, RefundState::Unknown);
    assert_eq!(set.where_it_is().await.1, 1_500);
    let one = set.waits().await.remove(0);
    assert_eq!(
        (one.waiting_msat(), one.amount_msat),
        (1_500 * SAT, 2_000 * SAT)
    );
    // The rest of it can be assigned, and no more than the rest.
    let command = AssignSuspense {
        key: key("assign"),
        item: one.id,
        to: SuspenseTarget::Operator,
        reason: "nobody's".to_owned(),
    };
    let treasury = set.engine.treasury();
    let issuer = set.engine.issuer();
    treasury.assign_suspense(&issuer, command).await.unwrap();
    assert_eq!(set.where_it_is().await.1, 0);
    set.resolve(
        &doubt,
        flashkit::refunds::RefundOutcome::Succeeded { fee_msat: Some(0) },
    )
    .await
    .unwrap();
    assert_eq!(set.where_it_is().await, (1_000, 0));
    let more = set.elsewhere(1).await;
    let more = set.refund(order("more", &late, more, bitcoin(1))).await;
    assert_eq!(more, Err("refund.nothing_left"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_lightning_address_stays_in_suspense_until_it_is_sent() {
    let set = set().await;
    set.over_lightning(
        &set.sale("fees", sat(1_000), PaymentRules::NONE).await,
        1_000 * SAT,
    )
    .await;
    let late = set.late().await;
    let address = || RefundTo::LightningAddress {
        address: "ann@x.com".to_owned(),
    };
    let first = order("first", &late, address(), RefundAmount::Everything);
    let first = set.refund(first).await.unwrap();
    assert_eq!(first.state, RefundState::Resolving);
    assert_eq!(set.where_it_is().await, (1_000, 2_000));
    let refunds = set.engine.refunds();
    let issuer = set.engine.issuer();
    let command = CancelRefund {
        key: key("cancel"),
        refund: first.id,
    };
    refunds.cancel(&issuer, command).await.unwrap();
    assert_eq!(set.where_it_is().await, (1_000, 2_000));
    let second = order("second", &late, address(), bitcoin(700));
    let second = set.refund(second).await.unwrap();
    let asked = second.ask.clone().unwrap();
    let asks = set.answered(&second, "1", &asked, PAY_REQUEST.to_owned());
    let asked = asks.await.ask.unwrap();
    assert_eq!(set.where_it_is().await, (1_000, 2_000));
    let reply = set.reply(700).await;
    let sent = set.answered(&second, "2", &asked, reply).await;
    set.until_refund(&sent, RefundState::Succeeded).await;
    assert_eq!(set.where_it_is().await, (1_000, 1_300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_paid_back_out_of_suspense_and_is_reorged_away_is_owed() {
    let set = set().await;
    let late = set.late().await;
    let to = set.elsewhere(700).await;
    let order = order("part", &late, to, bitcoin(700));
    let fee = flashkit::refunds::RefundFeeBearer::Operator;
    let order = flashkit::refunds::CreateRefund {
        fee_bearer: fee,
        ..order
    };
    let part = set.refund(order).await.unwrap();
    set.until_refund(&part, RefundState::Succeeded).await;
    assert_eq!(set.where_it_is().await, (0, 1_300));
    set.chain(&late, 2, 2_000, GONE).await;
    assert_eq!(set.where_it_is().await, (0, 0));
    let owed = Account::merchant_receivable(set.merchant.id);
    assert_eq!(set.available(owed).await, 700 * SAT);
}

/// A part comes, goes back, and the rest comes: that is not the price.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_back_does_not_count_towards_the_price() {
    let set = set().await;
    set.over_lightning(
        &set.sale("fees", sat(1_000), PaymentRules::NONE).await,
        1_000 * SAT,
    )
    .await;
    let options = on_chain("sale", Custody::Operator);
    let rules = PaymentRules {
        accept_late_within_per_mille: Some(0),
        ..options.rules.clone().unwrap_or(PaymentRules::NONE)
    };
    let options = flashkit::invoices::InvoiceOptions {
        rules: Some(rules),
        ..options
    };
    let sale = set.make(set.command("sale", sat(10_000), options)).await;
    let sale = sale.unwrap();
    set.chain(&sale, 1, 4_000, block(1)).await;
    set.pass(601);
    set.until(&sale, InvoiceState::Expired).await;
    set.node.script([Pay::Doubt]);
    let to = set.elsewhere(4_000).await;
    let back = set
        .refund(order("back", &sale, to, RefundAmount::Everything))
        .await;
    let back = back.unwrap();
    let rest = set.chain(&sale, 2, 6_000, block(1)).await;
    assert_eq!(rest.state, InvoiceState::Expired, "{rest:?}");
    assert_eq!(
        (rest.flags.underpaid_msat, rest.due_msat()),
        (4_000 * SAT, 4_000 * SAT)
    );
    // What was to go back did not arrive: it counts again.
    set.resolve(&back, flashkit::refunds::RefundOutcome::Failed)
        .await
        .unwrap();
    let all = set.get(&sale).await;
    assert_eq!(
        (all.state, all.flags.uncounted_msat),
        (InvoiceState::Settled, 0)
    );
    assert_eq!(set.events(&sale).await.last().unwrap(), "settled");
}

/// What a refund that waits for its Lightning address is to pay back does not count towards the
/// price when that vanishes: it is the customer's, and the goods are not paid for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surplus_that_waits_for_a_lightning_address_does_not_count_when_the_price_vanishes() {
    let set = set().await;
    let sale = set.paid_twice().await;
    let command = order("back", &sale, at_an_address(), RefundAmount::Surplus);
    let back = set.refund(command).await.unwrap();
    assert_eq!(back.state, RefundState::Resolving);
    let unpaid = set.chain(&sale, 1, 10_000, GONE).await;
    assert_eq!(
        (unpaid.state, unpaid.due_msat()),
        (InvoiceState::New, 10_000 * SAT),
        "{unpaid:?}"
    );
    assert_eq!(set.where_it_is().await, (1_000, 10_000));
    // It goes back, and nothing of the merchant's with it.
    let asked = back.ask.clone().unwrap();
    let asked = set.answered(&back, "1", &asked, PAY_REQUEST.to_owned());
    let asked = asked.await.ask.unwrap();
    let reply = set.reply(10_000).await;
    let sent = set.answered(&back, "2", &asked, reply).await;
    set.until_refund(&sent, RefundState::Succeeded).await;
    assert_eq!(set.where_it_is().await, (1_000, 0));
    assert_eq!(set.get(&sale).await.state, InvoiceState::New);
    // The price comes again.
    let paid = set.chain(&sale, 1, 10_000, block(1)).await;
    assert_eq!(paid.state, InvoiceState::Settled);
    assert_eq!(set.where_it_is().await, (11_000, 0));
}

/// A refund that took nothing out of suspense leaves what waits there alone, and so does one that was
/// cancelled: it counts in the place of a price that vanishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surplus_that_no_refund_takes_counts_when_the_price_vanishes() {
    for is_cancelled in [false, true] {
        let set = set().await;
        let sale = set.paid_twice().await;
        let payable = if is_cancelled {
            let command = order("back", &sale, at_an_address(), RefundAmount::Surplus);
            let back = set.refund(command).await.unwrap();
            assert_eq!(set.get(&sale).await.flags.refund_to_take_msat, 10_000 * SAT);
            let command = CancelRefund {
                key: key("cancel"),
                refund: back.id,
            };
            let refunds = set.engine.refunds();
            refunds.cancel(&set.engine.issuer(), command).await.unwrap();
            11_000
        } else {
            let to = set.elsewhere(100).await;
            let back = set.refund(order("back", &sale, to, bitcoin(100))).await;
            set.until_refund(&back.unwrap(), RefundState::Succeeded)
                .await;
            10_900
        };
        assert_eq!(set.where_it_is().await, (payable, 10_000));
        let paid = set.chain(&sale, 1, 10_000, GONE).await;
        assert_eq!(paid.flags.refund_to_take_msat, 0);
        assert_eq!(paid.state, InvoiceState::Settled, "{paid:?}");
        assert_eq!(set.where_it_is().await, (payable, 0));
    }
}

/// Who gives such a refund up after the price has vanished leaves what it was to take where it counts:
/// in the same commit, as it would have counted if there had been no refund.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cancelled_refund_does_not_take_counts_for_a_price_that_vanished() {
    let set = set().await;
    let sale = set.paid_twice().await;
    let command = order("back", &sale, at_an_address(), RefundAmount::Surplus);
    let back = set.refund(command).await.unwrap();
    let unpaid = set.chain(&sale, 1, 10_000, GONE).await;
    assert_eq!(unpaid.state, InvoiceState::New);
    assert_eq!(set.where_it_is().await, (1_000, 10_000));
    let command = CancelRefund {
        key: key("cancel"),
        refund: back.id,
    };
    let refunds = set.engine.refunds();
    let issuer = set.engine.issuer();
    for _ in 0..2 {
        let cancelled = refunds.cancel(&issuer, command.clone()).await.unwrap();
        assert_eq!(cancelled.state, RefundState::Cancelled);
        let paid = set.get(&sale).await;
        assert_eq!((paid.state, paid.due_msat()), (InvoiceState::Settled, 0));
        assert_eq!(
            (paid.flags.refunding_msat, paid.flags.refund_to_take_msat),
            (0, 0)
        );
        assert_eq!(set.where_it_is().await, (11_000, 0));
        assert_eq!(set.waits().await, []);
    }
    assert_eq!(set.events(&sale).await.last().unwrap(), "settled");
    // The price comes again, beside it: that is surplus now.
    let paid = set.chain(&sale, 1, 10_000, block(1)).await;
    assert_eq!(paid.flags.overpaid_msat, 10_000 * SAT);
    assert_eq!(set.where_it_is().await, (11_000, 10_000));
}
