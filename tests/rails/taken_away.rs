//! What was to go back, or went on to another card, before the chain took it away.

use std::sync::Arc;

use flashkit::cards::{CardLimits, IssueCard, ReplaceCard};
use flashkit::invoices::{
    CreateInvoice, Custody, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState, PaymentRules,
    Rail,
};
use flashkit::ledger::Account;
use flashkit::money::{Currency, Spread, SpreadSide};
use flashkit::rates::RatePolicy;
use flashkit::refunds::{
    AnswerRefund, CancelRefund, CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundState,
    RefundTo,
};
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Error, Settings};

use crate::refunds::order;
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::key;
use crate::support::shop::{self, HeldCard, SAT, jmd, sat};
use crate::traps::{GONE, Set, block, on_chain, set, set_on, set_with};

/// What the host of a Lightning address answers first.
const PAY_REQUEST: &str = r#"{"tag":"payRequest","callback":"https://x.com/cb","minSendable":1000,"maxSendable":90000000,"metadata":"[]"}"#;

/// What a sale of 150,000 comes to, in sats.
const PRICE: i64 = 10_000;

fn to_ann(name: &str, invoice: &Invoice, amount: RefundAmount) -> CreateRefund {
    let address = "ann@x.com".to_owned();
    order(
        name,
        invoice,
        RefundTo::LightningAddress { address },
        amount,
    )
}

fn answer(name: &str, refund: &Refund, body: &str) -> AnswerRefund {
    AnswerRefund {
        key: key(name),
        refund: refund.id,
        asked: refund.ask.clone().unwrap(),
        body: body.to_owned(),
    }
}

fn code<T>(told: Result<T, Error>) -> Result<T, &'static str> {
    told.map_err(|error| error.code())
}

impl Set {
    /// The merchant has 11,000 sats of another sale, and 10,000 of one that a block has.
    async fn two_sales(&self) -> Invoice {
        let other = self.sale("other", sat(11_000), PaymentRules::NONE).await;
        self.over_lightning(&other, 11_000 * SAT).await;
        let sale = self.sale("sale", jmd(150_000), PaymentRules::NONE).await;
        assert_eq!(sale.amount_msat, PRICE * SAT);
        self.chain(&sale, 1, PRICE, block(1)).await
    }

    /// A refund that has its first answer from whoever has the address.
    async fn asked(&self, command: CreateRefund) -> Refund {
        let refund = self.refund(command).await.unwrap();
        let first = answer("first", &refund, PAY_REQUEST);
        let refunds = self.engine.refunds();
        let issuer = self.engine.issuer();
        refunds.answer(&issuer, first).await.unwrap().value
    }

    async fn billed(&self, refund: &Refund) -> String {
        let bill = self.customer.invoice(refund.sent_msat, "refund").await;
        format!(r#"{{"pr":"{}","routes":[]}}"#, bill.unwrap())
    }

    async fn sats(&self, account: Account) -> i64 {
        self.available(account).await / SAT
    }
}

/// Whatever the amount was asked for as: what the chain took away meanwhile is not paid back out of
/// what the merchant has of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_when_the_address_answers_is_not_paid_back() {
    let minor_units = 150_000;
    let currency = Currency::from_code("JMD").unwrap();
    let amount_msat = PRICE * SAT;
    for amount in [
        RefundAmount::Everything,
        RefundAmount::Bitcoin { amount_msat },
        RefundAmount::RateThen { minor_units },
        RefundAmount::RateNow { minor_units: None },
        RefundAmount::Fiat {
            currency,
            minor_units,
        },
    ] {
        let set = set().await;
        let sale = set.two_sales().await;
        let refund = set.asked(to_ann("back", &sale, amount)).await;
        set.chain(&sale, 1, PRICE, GONE).await;
        let (refunds, issuer) = (set.engine.refunds(), set.engine.issuer());
        let reply = set.billed(&refund).await;
        let gone = refunds
            .answer(&issuer, answer("gone", &refund, &reply))
            .await;
        assert_eq!(
            code(gone).map(drop),
            Err("refund.exceeds_paid"),
            "{amount:?}"
        );
        assert_eq!(set.sats(set.payable()).await, 11_000, "{amount:?}");
        assert_eq!(set.node.sent.lock().unwrap().len(), 0);
        // When it is there again it goes back.
        set.chain(&sale, 1, PRICE, block(1)).await;
        let sent = refunds
            .answer(&issuer, answer("there", &refund, &reply))
            .await;
        set.until_refund(&sent.unwrap(), RefundState::Succeeded)
            .await;
        assert_eq!(set.sats(set.payable()).await, 11_000, "{amount:?}");
    }
}

/// Of two payments one vanishes: what is left of them is no more than goes back, whatever of the
/// invoice that is at the rate of now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_bitcoin_than_is_left_is_not_paid_back_at_the_rate_of_now() {
    let set = set().await;
    let other = set.sale("other", sat(11_000), PaymentRules::NONE).await;
    set.over_lightning(&other, 11_000 * SAT).await;
    let sale = set.sale("sale", jmd(150_000), PaymentRules::NONE).await;
    for output in [1, 2] {
        set.chain(&sale, output, PRICE / 2, block(1)).await;
    }
    // Bitcoin costs half as much: 4,000 sats of the invoice are 8,000 now.
    set.rate("7500000");
    let minor_units = Some(60_000);
    let amount = RefundAmount::RateNow { minor_units };
    let refund = set.asked(to_ann("back", &sale, amount)).await;
    let (covers, amount) = (refund.covers_msat / SAT, refund.amount_msat / SAT);
    assert_eq!((covers, amount), (4_000, 8_000));
    set.chain(&sale, 1, PRICE / 2, GONE).await;
    let reply = set.billed(&refund).await;
    let (refunds, issuer) = (set.engine.refunds(), set.engine.issuer());
    let sent = refunds.answer(&issuer, answer("sent", &refund, &reply));
    assert_eq!(code(sent.await).map(drop), Err("refund.exceeds_paid"));
    assert_eq!(set.sats(set.payable()).await, 16_000);
}

/// What came too late waits in suspense for a person: it is not there in the place of the price.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_of_the_price_is_not_covered_by_what_waits_in_suspense() {
    let set = set().await;
    let sale = set.two_sales().await;
    let amount_msat = PRICE * SAT;
    let amount = RefundAmount::Bitcoin { amount_msat };
    let refund = set.asked(to_ann("back", &sale, amount)).await;
    set.chain(&sale, 1, PRICE, GONE).await;
    set.pass(601);
    set.until(&sale, InvoiceState::Expired).await;
    set.chain(&sale, 2, PRICE, block(1)).await;
    let reply = set.billed(&refund).await;
    let (refunds, issuer) = (set.engine.refunds(), set.engine.issuer());
    let sent = refunds
        .answer(&issuer, answer("sent", &refund, &reply))
        .await;
    assert_eq!(code(sent).map(drop), Err("refund.exceeds_paid"));
    // Asked for anew, it is paid out of there.
    let command = CancelRefund {
        key: key("cancel"),
        refund: refund.id,
    };
    refunds.cancel(&issuer, command).await.unwrap();
    let refund = set.refund(to_ann("again", &sale, amount)).await.unwrap();
    let asks = refunds.answer(&issuer, answer("1", &refund, PAY_REQUEST));
    let asks = asks.await.unwrap().value;
    let sent = refunds.answer(&issuer, answer("2", &asks, &reply)).await;
    set.until_refund(&sent.unwrap(), RefundState::Succeeded)
        .await;
    assert_eq!(set.sats(set.payable()).await, 11_000);
    assert_eq!(set.sats(Account::suspense()).await, 0);
}

/// The chain takes it away while the answer is decided: the commit sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_while_an_answer_is_decided_is_not_paid_back() {
    let pause = Arc::new(Pause::default());
    let set = set_on(Settings::default(), |store| {
        Arc::new(GatedStore::pausing(Arc::new(store), pause.clone()))
    })
    .await;
    let sale = set.two_sales().await;
    let amount_msat = PRICE * SAT;
    let amount = RefundAmount::Bitcoin { amount_msat };
    let refund = set.asked(to_ann("back", &sale, amount)).await;
    let reply = set.billed(&refund).await;
    let (refunds, issuer) = (set.engine.refunds(), set.engine.issuer());
    pause.arm("refunds.answer");
    let command = answer("race", &refund, &reply);
    let racing = tokio::spawn(async move { refunds.answer(&issuer, command).await });
    pause.reached().await;
    set.chain(&sale, 1, PRICE, GONE).await;
    pause.release();
    let told = racing.await.unwrap();
    assert_eq!(code(told).map(drop), Err("refund.exceeds_paid"));
    assert_eq!(set.sats(set.payable()).await, 11_000);
    assert_eq!(set.node.sent.lock().unwrap().len(), 0);
}

/// Whereto the issuer's refund goes is the issuer's to say: of what waits in suspense, and where the
/// operator bears what it costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_does_not_answer_for_what_is_the_issuers_to_pay_back() {
    let set = set().await;
    let other = set.sale("other", sat(1_000), PaymentRules::NONE).await;
    set.over_lightning(&other, 1_000 * SAT).await;
    let late = set.sale("late", sat(2_000), PaymentRules::NONE).await;
    set.pass(601);
    set.until(&late, InvoiceState::Expired).await;
    set.chain(&late, 2, 2_000, block(1)).await;
    let (refunds, issuer) = (set.engine.refunds(), set.engine.issuer());
    let till = &set.merchant.till;
    let suspense = to_ann("late", &late, RefundAmount::Everything);
    let costs = CreateRefund {
        fee_bearer: RefundFeeBearer::Operator,
        ..to_ann("costs", &other, RefundAmount::Everything)
    };
    for (name, command) in [("late", suspense), ("costs", costs)] {
        let refund = set.refund(command).await.unwrap();
        let told = |step: &str, refund: &Refund, body: &str| {
            answer(&format!("{name}/{step}"), refund, body)
        };
        let first = told("first", &refund, PAY_REQUEST);
        let by_till = refunds.answer(till, first.clone()).await;
        assert_eq!(code(by_till).map(drop), Err("access.not_allowed"));
        let asks = refunds.answer(&issuer, first).await.unwrap().value;
        let reply = set.billed(&refund).await;
        let second = told("second", &asks, &reply);
        let by_till = refunds.answer(till, second.clone()).await;
        assert_eq!(code(by_till).map(drop), Err("access.not_allowed"));
        let command = CancelRefund {
            key: key(&format!("{name}/cancel")),
            refund: refund.id,
        };
        let by_till = refunds.cancel(till, command).await;
        assert_eq!(code(by_till).map(drop), Err("access.not_allowed"));
        let sent = refunds.answer(&issuer, second).await.unwrap();
        set.until_refund(&sent, RefundState::Succeeded).await;
    }
}

/// For a till there is nothing in suspense: its own refund of the sale leaves what waits there alone,
/// also when its address answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_refund_of_a_till_takes_nothing_out_of_suspense() {
    let set = set().await;
    let sale = set.two_sales().await;
    set.chain(&sale, 2, 3_000, block(1)).await;
    assert_eq!(set.sats(Account::suspense()).await, 3_000);
    let (refunds, till) = (set.engine.refunds(), &set.merchant.till);
    let command = to_ann("till", &sale, RefundAmount::Everything);
    let refund = refunds.create(till, command).await.unwrap().value;
    assert_eq!(refund.amount_msat, PRICE * SAT);
    let asks = refunds.answer(till, answer("1", &refund, PAY_REQUEST));
    let asks = asks.await.unwrap().value;
    let reply = set.billed(&refund).await;
    let sent = refunds.answer(till, answer("2", &asks, &reply)).await;
    set.until_refund(&sent.unwrap(), RefundState::Succeeded)
        .await;
    assert_eq!(set.sats(Account::suspense()).await, 3_000);
    assert_eq!(set.sats(set.payable()).await, 11_000);
}

/// A part is to go back, and all of the price comes meanwhile. When the part is not sent after all,
/// the merchant has it beside the price, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_does_not_go_back_is_too_much_beside_the_price() {
    let set = set().await;
    let rules = PaymentRules {
        accept_late_within_per_mille: Some(0),
        ..PaymentRules::NONE
    };
    let sale = set.sale("sale", sat(10_000), rules).await;
    set.chain(&sale, 1, 4_000, block(1)).await;
    set.pass(601);
    set.until(&sale, InvoiceState::Expired).await;
    let back = to_ann("back", &sale, RefundAmount::Everything);
    let back = set.refund(back).await.unwrap();
    let paid = set.chain(&sale, 2, 10_000, block(1)).await;
    assert_eq!(
        (paid.state, paid.flags.overpaid_msat),
        (InvoiceState::Settled, 0)
    );
    let (refunds, issuer) = (set.engine.refunds(), set.engine.issuer());
    let command = CancelRefund {
        key: key("cancel"),
        refund: back.id,
    };
    refunds.cancel(&issuer, command).await.unwrap();
    let over = set.get(&sale).await;
    assert_eq!(
        (over.state, over.flags.overpaid_msat),
        (InvoiceState::Settled, 4_000 * SAT)
    );
    assert_eq!(set.sats(set.payable()).await, 14_000);
    let bearer = RefundFeeBearer::Merchant;
    let quote = refunds.quote(&issuer, sale.id, RefundAmount::Surplus, bearer);
    assert_eq!(quote.await.unwrap().amount_msat, 4_000 * SAT);
}

/// The operator's share of a top-up comes back to the card that was topped up, which is out of use:
/// from there it goes on to the card in its place, which gave all of the top-up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_top_up_that_vanishes_is_left_on_a_card_that_was_replaced() {
    let settings = Settings {
        rates: RatePolicy {
            spread: Some(Spread {
                bps: 150,
                side: SpreadSide::CustomerPays,
            }),
            ..Settings::default().rates
        },
        ..Settings::default()
    };
    let set = set_with(settings).await;
    let old = shop::card(&set.engine, shop::UID, CardLimits::default()).await;
    let purpose = InvoicePurpose::TopUp { card: old.id };
    let options = InvoiceOptions {
        rails: vec![Rail::OnChain],
        ..on_chain("top-up", Custody::Operator)
    };
    let command = CreateInvoice {
        purpose,
        ..set.command("top-up", jmd(150_000), options)
    };
    let top_up = set.make(command).await.unwrap();
    assert_eq!(top_up.amount_msat, 10_150 * SAT);
    let sats = 10_150;
    set.chain(&top_up, 1, sats, block(1)).await;
    assert_eq!(set.sats(Account::spread_income()).await, 150);
    let new = replaced(&set, &old).await;
    shop::top_up(&set.engine, &set.customer, &new, "own", sat(5_000)).await;
    let on_cards = async || {
        let [old, new] = [old.id, new.id].map(Account::card_balance);
        (set.sats(old).await, set.sats(new).await)
    };
    assert_eq!(on_cards().await, (0, 15_000));
    for _ in 0..2 {
        set.chain(&top_up, 1, sats, GONE).await;
        assert_eq!(on_cards().await, (0, 5_000));
        assert_eq!(set.sats(Account::spread_income()).await, 0);
        set.chain(&top_up, 1, sats, block(1)).await;
        assert_eq!(on_cards().await, (0, 15_000));
    }
}

/// A card in the place of another.
async fn replaced(set: &Set, old: &HeldCard) -> HeldCard {
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let uid = "04a39493cc8681";
    let command = IssueCard {
        key: key("new"),
        uid: uid.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let id = cards.issue(&issuer, command).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, uid).await.unwrap();
    let mut chip = VirtualCard::program(uid, &keys).unwrap();
    let command = ReplaceCard {
        key: key("replace"),
        card: old.id,
        tap: chip.tap(),
    };
    let activation = cards.replace(&old.holder, command).await.unwrap();
    let holder = activation.holder.clone();
    HeldCard { id, holder, chip }
}
