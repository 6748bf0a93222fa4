//! A BOLT11 of somebody else that a card in a currency pays, while the rate moves.

use std::time::Duration;

use flashkit::Engine;
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{
    CardLimits, CardPayment, CardPaymentState, FeeBearer, PayWithCard, TopUpCard, WithdrawFromCard,
};
use flashkit::exchange::{ConversionRules, DriftBearer, RefundRate};
use flashkit::ids::CardPaymentId;
use flashkit::invoices::{CreateInvoice, InvoiceOptions, InvoicePurpose, InvoiceState};
use flashkit::ledger::Account;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::lightning::{
    Bolt11Details, InvoiceRequest, LightningNode, PaymentHash, PaymentState, Preimage,
};
use flashkit::money::{Asset, Price, Spread, SpreadSide};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::scene::{on_both_stores, told};
use crate::support::scripted::{Pay, ScriptedNode};
use crate::support::shop::HeldCard;
use crate::support::{key, until};
use crate::world::{Terms, World, currency, fiat, issue, msat};

on_both_stores! {
    the_operator_bears_the_drift_of_a_payment;
    the_card_bears_it_up_to_what_was_set_aside;
    what_fails_costs_nothing;
    what_is_not_known_stays_set_aside;
    a_stale_rate_refuses_before_and_never_after;
    the_exposure_has_its_cap;
    a_spread_is_put_on_top;
    limits_and_pins_are_in_the_unit;
    a_wallet_is_told_what_the_tap_can_spend_and_it_can;
    what_a_card_has_is_told_in_no_other_unit;
    an_invoice_of_this_engine_is_paid_in_the_books;
    another_card_in_its_currency_is_paid_the_price_at_no_rate;
    a_refund_goes_back_on_the_card_at_the_rate_of_its_program;
    a_holder_takes_all_of_it_home;
}

/// A card with J$10,000.00 and what the operator took for it; at 15 million a bitcoin.
const ALL: i64 = 1_000_000;
const BITCOIN: i64 = 70_000_000;
/// 10,000 sats and what the route may cost: 0.5 % and 10 sats.
const BILL: i64 = 10_000_000;
const MOST: i64 = 150_900;

struct Rail {
    world: World,
    node: ScriptedNode,
    network: SimulatedNetwork,
    payee: SimulatedNode,
    made: u64,
}

fn hash(bolt11: &str) -> PaymentHash {
    bolt11.parse::<Bolt11Details>().unwrap().payment_hash
}

fn preimage(number: u64) -> Preimage {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Preimage::new(bytes)
}

fn drift(drift: DriftBearer, hold_margin_bps: u32) -> Terms {
    Terms {
        rules: ConversionRules {
            drift,
            hold_margin_bps,
            ..ConversionRules::default()
        },
        fee_bearer: Some(FeeBearer::Card),
        ..Terms::default()
    }
}

impl Rail {
    async fn new(is_sqlite: bool, terms: Terms) -> Self {
        let mut rail = Self::empty(is_sqlite, terms).await;
        rail.world.fund(ALL, BITCOIN).await;
        rail
    }

    async fn empty(is_sqlite: bool, terms: Terms) -> Self {
        let (world, node, network) = World::with_node(is_sqlite, "15000000", terms).await;
        let payee = network.node(0);
        payee.start().await.unwrap();
        Self {
            world,
            node,
            network,
            payee,
            made: 0,
        }
    }

    async fn bill(&mut self, amount_msat: i64) -> String {
        self.made += 1;
        let request = InvoiceRequest {
            payment_hash: preimage(self.made).payment_hash(),
            amount_msat: (amount_msat > 0).then_some(amount_msat),
            description: "elsewhere".to_owned(),
            description_hash: None,
            expiry_seconds: 86_400,
        };
        self.payee.create_invoice(request).await.unwrap()
    }

    async fn take(&self) {
        let preimage = preimage(self.made);
        let hash = preimage.payment_hash();
        self.payee.claim(hash, preimage, 0).await.unwrap();
    }

    async fn give_back(&self) {
        let hash = preimage(self.made).payment_hash();
        self.payee.fail(hash).await.unwrap();
    }

    async fn pay(&mut self, name: &str, bolt11: &str) -> Result<CardPayment, &'static str> {
        let command = PayWithCard {
            key: key(name),
            tap: self.world.card.chip.tap(),
            bolt11: bolt11.to_owned(),
            pin: None,
        };
        let (cards, till) = (self.world.engine.cards(), &self.world.merchant.till);
        told(cards.pay(till, command).await).map(|answer| answer.value)
    }

    async fn payment(&self, id: CardPaymentId) -> CardPayment {
        let engine: &Engine = &self.world.engine;
        let found = engine.cards().get_payment(&engine.issuer(), id).await;
        found.unwrap().value
    }

    async fn until_state(&self, id: CardPaymentId, state: CardPaymentState) -> CardPayment {
        until("the payment stands as it should", || async {
            self.payment(id).await.state == state
        })
        .await;
        self.payment(id).await
    }

    /// Pays 10,000 sats, lets the rate move, and has it arrive over a route of 7 sats.
    async fn arrives_at(&mut self, rate: Option<&str>) -> CardPayment {
        self.network.set_route_fee_msat(7_000);
        let bolt11 = self.bill(BILL).await;
        let payment = self.pay("pay", &bolt11).await.unwrap();
        match rate {
            Some(rate) => self.world.rate("JMD", rate),
            None => self
                .world
                .clock
                .advance(std::time::Duration::from_secs(200)),
        }
        self.take().await;
        self.until_state(payment.id, CardPaymentState::Succeeded)
            .await
    }

    /// What is on the card, and the positions in its currency and in bitcoin.
    async fn books(&self) -> [i64; 3] {
        let [card, _, position, bitcoin, _] = self.world.books().await;
        [card, position, bitcoin]
    }
}

fn paid(payment: &CardPayment) -> i64 {
    payment.conversion.as_ref().unwrap().amount
}

async fn the_operator_bears_the_drift_of_a_payment(is_sqlite: bool) {
    // A merchant cannot: its invoice says what it gets.
    for bearer in [DriftBearer::Operator, DriftBearer::Merchant] {
        let mut rail = Rail::new(is_sqlite, drift(bearer, 3_000)).await;
        let bolt11 = rail.bill(BILL).await;
        let payment = rail.pay("first", &bolt11).await.unwrap();
        let conversion = payment.conversion.clone().unwrap();
        assert_eq!((conversion.amount, conversion.set_aside), (MOST, MOST));
        assert_eq!(conversion.drift, DriftBearer::Operator);
        assert_eq!(rail.world.on_card().await, ALL - MOST);
        rail.give_back().await;
        rail.until_state(payment.id, CardPaymentState::Failed).await;
        let arrived = rail.arrives_at(Some("18750000")).await;
        // 10,007 sats at 15 million.
        assert_eq!(
            (paid(&arrived), arrived.route_fee_msat),
            (150_105, Some(7_000))
        );
        assert_eq!(arrived.conversion.unwrap().settled_quote, None);
        let books = [ALL - 150_105, 150_105 - ALL, BITCOIN - 10_007_000];
        assert_eq!(rail.books().await, books);
        rail.world.stop("operator").await;
    }
}

async fn the_card_bears_it_up_to_what_was_set_aside(is_sqlite: bool) {
    for (margin_bps, rate, pays) in [
        // 10,007 sats at 18.75 million are J$1,876.3125.
        (3_000, "18750000", 187_632),
        (1_000, "18750000", 165_990),
        (0, "18750000", MOST),
        (3_000, "12000000", 120_084),
    ] {
        let mut rail = Rail::new(is_sqlite, drift(DriftBearer::Card, margin_bps)).await;
        let arrived = rail.arrives_at(Some(rate)).await;
        assert_eq!(paid(&arrived), pays, "{margin_bps} {rate}");
        let settled = arrived.conversion.unwrap().settled_quote.unwrap();
        assert_eq!(settled.rate.to_string(), rate);
        let books = [ALL - pays, pays - ALL, BITCOIN - 10_007_000];
        assert_eq!(rail.books().await, books, "{margin_bps} {rate}");
        rail.world.stop("card").await;
    }
}

async fn what_fails_costs_nothing(is_sqlite: bool) {
    let limits = CardLimits {
        per_day: Some(200_000),
        ..CardLimits::default()
    };
    let terms = Terms {
        limits,
        ..drift(DriftBearer::Card, 2_000)
    };
    let mut rail = Rail::new(is_sqlite, terms).await;
    rail.node.script([Pay::Refuse]);
    let bolt11 = rail.bill(BILL).await;
    let refused = rail.pay("refused", &bolt11).await.unwrap();
    assert_eq!(refused.state, CardPaymentState::Failed);
    assert_eq!(rail.books().await, [ALL, -ALL, BITCOIN]);
    let bolt11 = rail.bill(BILL).await;
    let payment = rail.pay("back", &bolt11).await.unwrap();
    // 150,900 and a fifth of it.
    assert_eq!(rail.world.on_card().await, ALL - 181_080);
    rail.world.rate("JMD", "18750000");
    rail.give_back().await;
    rail.until_state(payment.id, CardPaymentState::Failed).await;
    assert_eq!(rail.books().await, [ALL, -ALL, BITCOIN]);
    let cards = rail.world.engine.cards();
    let seen = cards.get(&rail.world.card.holder, rail.world.card.id).await;
    assert_eq!(seen.unwrap().usage[0].used, 0);
    rail.world.stop("failed").await;
}

async fn what_is_not_known_stays_set_aside(is_sqlite: bool) {
    let mut rail = Rail::new(is_sqlite, drift(DriftBearer::Operator, 0)).await;
    rail.node.script([Pay::SendAndDoubt]);
    let bolt11 = rail.bill(BILL).await;
    let payment = rail.pay("pay", &bolt11).await.unwrap();
    assert_eq!(payment.state, CardPaymentState::Unknown);
    assert_eq!(rail.world.on_card().await, ALL - MOST);
    rail.take().await;
    let arrived = rail
        .until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!(paid(&arrived), 150_000);
    assert_eq!(
        rail.books().await,
        [ALL - 150_000, 150_000 - ALL, BITCOIN - BILL]
    );
    rail.world.stop("known").await;
}

async fn a_stale_rate_refuses_before_and_never_after(is_sqlite: bool) {
    let mut rail = Rail::new(is_sqlite, drift(DriftBearer::Card, 3_000)).await;
    // It has left: that there is no rate any more keeps nothing open, and makes none up.
    let arrived = rail.arrives_at(None).await;
    assert_eq!(paid(&arrived), 150_105);
    assert_eq!(arrived.conversion.unwrap().settled_quote, None);
    let bolt11 = rail.bill(BILL).await;
    assert_eq!(rail.pay("stale", &bolt11).await.err(), Some("rate.stale"));
    let books = [ALL - 150_105, 150_105 - ALL, BITCOIN - 10_007_000];
    assert_eq!(rail.books().await, books);
    assert!(rail.payee.record(hash(&bolt11)).is_none());
    rail.world.stop("stale").await;
}

/// A card that was taken over with what is on it: paying with it is what opens a position.
async fn the_exposure_has_its_cap(is_sqlite: bool) {
    let mut rail = Rail::empty(is_sqlite, drift(DriftBearer::Card, 1_000)).await;
    rail.world.take_over(ALL).await;
    let bolt11 = rail.bill(BILL).await;
    for (name, cap) in [("none", 0), ("less", 165_989)] {
        rail.world.cap(name, cap).await;
        let refused = rail.pay(name, &bolt11).await;
        assert_eq!(refused.err(), Some("rate.position_cap_reached"));
        assert_eq!(rail.books().await, [ALL, 0, 0]);
    }
    // All that is set aside counts, until it is known what it came to.
    rail.world.cap("enough", 165_990).await;
    let payment = rail.pay("pay", &bolt11).await.unwrap();
    let second = rail.bill(1_000).await;
    let refused = rail.pay("second", &second).await;
    assert_eq!(refused.err(), Some("rate.position_cap_reached"));
    rail.made = 1;
    rail.take().await;
    rail.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!(rail.books().await, [ALL - 150_000, 150_000, -BILL]);
    rail.pay("now", &second).await.unwrap();
}

async fn a_spread_is_put_on_top(is_sqlite: bool) {
    let with = |side| Terms {
        spread: Some(Spread { bps: 200, side }),
        ..drift(DriftBearer::Operator, 0)
    };
    let mut rail = Rail::new(is_sqlite, with(SpreadSide::CustomerPays)).await;
    let arrived = rail.arrives_at(Some("15000000")).await;
    // 10,207,140 msat are J$1,531.071.
    assert_eq!(
        (paid(&arrived), rail.world.spread().await),
        (153_108, 200_140)
    );
    let left = BITCOIN - 10_007_000 - 200_140;
    assert_eq!(rail.books().await, [ALL - 153_108, 153_108 - ALL, left]);
    rail.world.stop("on top").await;
    // Nothing can be kept of what an invoice says.
    let mut rail = Rail::new(is_sqlite, with(SpreadSide::MerchantReceives)).await;
    let arrived = rail.arrives_at(Some("15000000")).await;
    assert_eq!((paid(&arrived), rail.world.spread().await), (150_105, 0));
    rail.world.stop("none").await;
}

async fn limits_and_pins_are_in_the_unit(is_sqlite: bool) {
    let terms = Terms {
        limits: CardLimits {
            per_tap: Some(MOST),
            per_day: Some(300_000),
            pin_above: Some(151_000),
            ..CardLimits::default()
        },
        ..drift(DriftBearer::Operator, 0)
    };
    let mut rail = Rail::new(is_sqlite, terms).await;
    // A msat more than costs J$1,510.00.
    let bolt11 = rail.bill(10_066_667).await;
    let above = rail.pay("pin", &bolt11).await;
    assert_eq!(above.err(), Some("card.pin_not_set"));
    // With its route a cent more than a tap may.
    let bolt11 = rail.bill(BILL + 1_000).await;
    let above = rail.pay("tap", &bolt11).await;
    assert_eq!(above.err(), Some("card.limit_exceeded"));
    let bolt11 = rail.bill(BILL).await;
    let payment = rail.pay("pay", &bolt11).await.unwrap();
    let used = async |rail: &Rail| {
        let cards = rail.world.engine.cards();
        let seen = cards.get(&rail.world.card.holder, rail.world.card.id).await;
        seen.unwrap().usage[0].used
    };
    assert_eq!(used(&rail).await, MOST);
    rail.take().await;
    rail.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    assert_eq!(used(&rail).await, 150_000);
    let bolt11 = rail.bill(BILL).await;
    let above = rail.pay("day", &bolt11).await;
    assert_eq!(above.err(), Some("card.limit_exceeded"));
    rail.world.stop("limits").await;
}

async fn a_wallet_is_told_what_the_tap_can_spend_and_it_can(is_sqlite: bool) {
    let terms = Terms {
        limits: CardLimits {
            pin_above: Some(500_000),
            ..CardLimits::default()
        },
        ..drift(DriftBearer::Card, 1_000)
    };
    let mut rail = Rail::new(is_sqlite, terms).await;
    let ask = async |rail: &Rail, url: String| {
        let request = LnurlRequest {
            url,
            till: None,
            source: None,
        };
        let reply = rail.world.engine.cards().answer(&request).await;
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        body
    };
    let tap = rail.world.card.chip.tap();
    let offer = ask(&rail, tap.clone()).await;
    // J$10,000.00 less a tenth that is set aside with it, less the route: whole sats. And what
    // costs more than J$5,000.00 needs the PIN.
    assert_eq!(offer["maxWithdrawable"], 60_294_000, "{offer}");
    assert_eq!(offer["pinLimit"], 33_333_334, "{offer}");
    let (parameters, k1) = (
        tap.split_once('?').unwrap().1,
        offer["k1"].as_str().unwrap(),
    );
    let bolt11 = rail.bill(30_000_000).await;
    let url = format!("https://x.example/boltcard?{parameters}&k1={k1}&pr={bolt11}");
    let told = ask(&rail, url).await;
    assert_eq!(
        (&told["status"], &told["state"]),
        (&"OK".into(), &"pending".into())
    );
    rail.give_back().await;
    let tap = rail.world.card.chip.tap();
    let parameters = tap.split_once('?').unwrap().1;
    until("it came back", || async {
        rail.world.on_card().await == ALL
    })
    .await;
    // There is no rate: nothing is begun.
    rail.world
        .clock
        .advance(std::time::Duration::from_secs(200));
    let told = ask(&rail, format!("https://x.example/boltcard?{parameters}")).await;
    assert_eq!(told["status"], "ERROR", "{told}");
    let bolt11 = rail.bill(30_000_000).await;
    let url = format!("https://x.example/boltcard?{parameters}&k1=0&pr={bolt11}");
    let told = ask(&rail, url).await;
    assert_eq!(told["status"], "ERROR", "{told}");
    assert_eq!(rail.books().await, [ALL, -ALL, BITCOIN]);
    rail.world.stop("told").await;
}

/// J$10,000.00 are not a thousand sats.
async fn what_a_card_has_is_told_in_no_other_unit(is_sqlite: bool) {
    let mut rail = Rail::new(is_sqlite, drift(DriftBearer::Operator, 0)).await;
    let bolt11 = rail.bill(80_000_000).await;
    let tap = rail.world.card.chip.tap();
    let request = LnurlRequest {
        url: format!("{}&k1=0&pr={bolt11}", tap.replace("lnurlw://", "https://")),
        till: None,
        source: None,
    };
    let reply = rail.world.engine.cards().answer(&request).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("not within bounds"), "{}", reply.body);
    assert!(!reply.body.contains("sats"), "{}", reply.body);
    rail.world.stop("no other unit").await;
}

async fn an_invoice_of_this_engine_is_paid_in_the_books(is_sqlite: bool) {
    let terms = Terms {
        spread: Some(Spread {
            bps: 200,
            side: SpreadSide::CustomerPays,
        }),
        ..drift(DriftBearer::Card, 3_000)
    };
    let mut rail = Rail::new(is_sqlite, terms).await;
    let make = async |rail: &Rail, name: &str, purpose, price: Price| {
        let command = CreateInvoice {
            key: key(name),
            purpose,
            price: Some(price),
            description: name.to_owned(),
            expiry_seconds: 600,
            options: InvoiceOptions::default(),
        };
        let engine = &rail.world.engine;
        let made = engine.invoices().create(&engine.issuer(), command).await;
        made.unwrap().bolt11.clone()
    };
    let merchant = rail.world.merchant.id;
    let sale = make(&rail, "sale", InvoicePurpose::Sale { merchant }, msat(BILL)).await;
    let payment = rail.pay("pay", &sale).await.unwrap();
    assert_eq!(payment.state, CardPaymentState::Succeeded);
    assert!(payment.by_book.is_some());
    // 10,200,000 msat at 15 million; it is paid at once, and nothing more is set aside for it.
    assert_eq!(paid(&payment), 153_000);
    assert_eq!(payment.conversion.as_ref().unwrap().set_aside, 153_000);
    let books = [
        ALL - 153_000,
        BILL,
        153_000 - ALL,
        BITCOIN - 10_200_000,
        200_000,
    ];
    assert_eq!(rail.world.books().await, books);
    assert!(rail.node.sent.lock().unwrap().is_empty());
    // Its own top-up it cannot pay.
    let card = rail.world.card.id;
    let price = crate::world::fiat("JMD", 1_000);
    let own = make(&rail, "own", InvoicePurpose::TopUp { card }, price).await;
    assert_eq!(rail.pay("own", &own).await.err(), Some("card.own_invoice"));
    rail.world.stop("by book").await;
}

/// A card in the same currency asks for a price in it: that goes from card to card, whatever the market
/// says meanwhile, and the operator exchanges nothing.
async fn another_card_in_its_currency_is_paid_the_price_at_no_rate(is_sqlite: bool) {
    let terms = Terms {
        limits: CardLimits {
            per_tap: Some(150_001),
            max_balance: Some(160_000),
            ..CardLimits::default()
        },
        spread: Some(Spread {
            bps: 200,
            side: SpreadSide::CustomerPays,
        }),
        ..drift(DriftBearer::Card, 3_000)
    };
    let mut rail = Rail::new(is_sqlite, terms.clone()).await;
    let (engine, unit) = (rail.world.engine.clone(), rail.world.unit);
    let other = issue(&engine, unit, &terms, "04a39493cc8699").await;
    let dollars = issue(&engine, currency("USD"), &terms, "04a39493cc8700").await;
    rail.world.rate("USD", "100000");
    let top_up = async |name: &str, card: &HeldCard, price: Price| {
        let command = TopUpCard {
            key: key(name),
            card: card.id,
            price,
        };
        let made = engine.cards().top_up(&card.holder, command).await;
        made.unwrap().value
    };
    let made = top_up("price", &other, fiat("JMD", 150_001)).await;
    let more = top_up("more", &other, fiat("JMD", 150_002)).await;
    let next = top_up("next", &other, fiat("JMD", 10_000)).await;
    let foreign = top_up("foreign", &dollars, fiat("USD", 100)).await;
    // From one currency into another nobody has said at which rates.
    let refused = rail.pay("foreign", &foreign.bolt11).await;
    assert_eq!(refused.err(), Some("card.other_unit"));
    // A bitcoin costs a third; then nobody says any more what it costs.
    rail.world.rate("JMD", "5000000");
    rail.world.clock.advance(Duration::from_secs(300));
    let stale = rail.bill(1_000).await;
    assert_eq!(rail.pay("stale", &stale).await.err(), Some("rate.stale"));
    let refused = rail.pay("limit", &more.bolt11).await;
    assert_eq!(refused.err(), Some("card.limit_exceeded"));
    let payment = rail.pay("pay", &made.bolt11).await.unwrap();
    assert_eq!(payment.state, CardPaymentState::Succeeded);
    assert!(payment.by_book.is_some());
    assert_eq!(paid(&payment), 150_001);
    let books = [ALL - 150_001, 0, -ALL, BITCOIN, 0];
    assert_eq!(rail.world.books().await, books);
    let on_other = Account::card_balance_in(other.id, Asset::Fiat(unit));
    assert_eq!(rail.world.has(on_other).await, 150_001);
    let settled = engine.invoices().get(&other.holder, made.id).await.unwrap();
    assert_eq!(settled.state, InvoiceState::Settled);
    // Its proof is that of any other payment.
    let proof = payment.by_book.unwrap().preimage;
    let bytes: [u8; 32] = hex::decode(proof).unwrap().try_into().unwrap();
    assert_eq!(Preimage::new(bytes).payment_hash(), made.payment_hash);
    // A second time nobody is charged, and no more goes on it than may be there.
    let again = rail.pay("again", &made.bolt11).await;
    assert_eq!(again.err(), Some("invoice.not_payable"));
    let full = rail.pay("next", &next.bolt11).await;
    assert_eq!(full.err(), Some("ledger.ceiling_reached"));
    assert_eq!(rail.world.books().await, books);
    rail.world.stop("same currency").await;
}

/// A card pays a sale of 10,000 sats at 15 million, and half of it goes back at 18 million.
async fn a_refund_goes_back_on_the_card_at_the_rate_of_its_program(is_sqlite: bool) {
    use flashkit::refunds::{CreateRefund, Refund, RefundAmount, RefundTo};
    for (refund_at, on_card) in [(RefundRate::Charge, 75_000), (RefundRate::Now, 90_000)] {
        let mut terms = drift(DriftBearer::Card, 3_000);
        terms.rules.refund_at = refund_at;
        let mut rail = Rail::new(is_sqlite, terms).await;
        let merchant = rail.world.merchant.id;
        let (engine, issuer) = (rail.world.engine.clone(), rail.world.engine.issuer());
        let command = CreateInvoice {
            key: key("sale"),
            purpose: InvoicePurpose::Sale { merchant },
            price: Some(msat(BILL)),
            description: "sale".to_owned(),
            expiry_seconds: 600,
            options: InvoiceOptions::default(),
        };
        let sale = engine.invoices().create(&issuer, command).await.unwrap();
        rail.pay("pay", &sale.bolt11).await.unwrap();
        rail.world.rate("JMD", "18000000");
        rail.world.cap("open", 2 * ALL).await;
        let card = rail.world.card.id;
        let refund = async |name: &str, amount: RefundAmount| {
            let command = CreateRefund {
                key: key(name),
                invoice: sale.id,
                to: RefundTo::Card { card },
                amount,
                fee_bearer: flashkit::refunds::RefundFeeBearer::default(),
                reason: String::new(),
            };
            let made = engine.refunds().create(&issuer, command).await;
            made.map(|made| made.value).map_err(|error| error.code())
        };
        let card_got = |refund: &Refund| refund.on_card.as_ref().unwrap().amount;
        let [card_had, _, position, bitcoin, _] = rail.world.books().await;
        let amount_msat = BILL / 2;
        let half = refund("half", RefundAmount::Bitcoin { amount_msat })
            .await
            .unwrap();
        assert_eq!(card_got(&half), on_card);
        let after = [
            card_had + on_card,
            BILL / 2,
            position - on_card,
            bitcoin + BILL / 2,
            0,
        ];
        assert_eq!(rail.world.books().await, after);
        // What is asked for in the card's currency goes on it exactly, whatever its program says.
        let currency = crate::world::currency("JMD");
        let minor_units = 36_001;
        let asked = RefundAmount::Fiat {
            currency,
            minor_units,
        };
        let exact = refund("exact", asked).await.unwrap();
        // 36,001 cents at 18 million, and never a msat more.
        assert_eq!((card_got(&exact), exact.amount_msat), (36_001, 2_000_055));
        // The operator owes no more of the currency than it may.
        rail.world.cap("cap", 0).await;
        let capped = refund("capped", RefundAmount::Everything).await;
        assert_eq!(capped.map(drop), Err("rate.position_cap_reached"));
        rail.world.stop("refunded").await;
    }
}

async fn a_holder_takes_all_of_it_home(is_sqlite: bool) {
    let mut rail = Rail::new(is_sqlite, drift(DriftBearer::Card, 500)).await;
    let bolt11 = rail.bill(0).await;
    let (engine, holder) = (rail.world.engine.clone(), rail.world.card.holder.clone());
    let quote = engine
        .cards()
        .quote_withdrawal(&holder, rail.world.card.id)
        .await
        .unwrap();
    let command = WithdrawFromCard {
        key: key("home"),
        card: rail.world.card.id,
        bolt11: bolt11.clone(),
        amount_msat: None,
    };
    let payment = engine
        .cards()
        .withdraw(&holder, command)
        .await
        .unwrap()
        .value;
    assert_eq!(payment.amount_msat, quote.amount_msat);
    // Not a sat more could have been sent.
    let more_msat = payment.amount_msat + 1_000 + payment.max_route_fee_msat + 5;
    let more = i128::from(more_msat) * 15_000_000 * 105 / 100 / 1_000_000_000;
    assert!(more >= i128::from(ALL), "{more}");
    rail.take().await;
    rail.until_state(payment.id, CardPaymentState::Succeeded)
        .await;
    let record = rail.payee.record(hash(&bolt11)).unwrap();
    assert_eq!(record.state, PaymentState::Succeeded);
    rail.world.stop("home").await;
}

/// Any amounts, routes, margins and rates: what the card pays and what the operator is left with,
/// by arithmetic of its own.
#[test]
fn any_payment_comes_to_what_the_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 10,
        failure_persistence: None,
        ..Config::default()
    });
    let bearers = prop_oneof![
        Just(DriftBearer::Operator),
        Just(DriftBearer::Merchant),
        Just(DriftBearer::Card)
    ];
    let any = (
        (bearers, 0_u32..3_000, any::<bool>(), 0_u32..500),
        (1_i64..40_000_000, 0_i64..9_000),
        (
            10_000_000_i64..20_000_000,
            10_000_000_i64..20_000_000,
            any::<bool>(),
        ),
    );
    runner
        .run(&any, |(rules, sent, rates)| {
            runtime.block_on(beside_the_model(rules, sent, rates));
            Ok(())
        })
        .unwrap();
}

async fn beside_the_model(
    (bearer, margin, bears_route, bps): (DriftBearer, u32, bool, u32),
    (amount, route): (i64, i64),
    (before, after, arrives): (i64, i64, bool),
) {
    let terms = Terms {
        spread: Some(Spread {
            bps,
            side: SpreadSide::CustomerPays,
        }),
        fee_bearer: Some(match bears_route {
            true => FeeBearer::Card,
            false => FeeBearer::Operator,
        }),
        ..drift(bearer, margin)
    };
    let mut rail = Rail::new(false, terms).await;
    rail.world.rate("JMD", &before.to_string());
    rail.network.set_route_fee_msat(route);
    let bolt11 = rail.bill(amount).await;
    let payment = rail.pay("pay", &bolt11).await.unwrap();
    let up = |numerator: i128, denominator: i128| (numerator + denominator - 1) / denominator;
    let (wide, bps) = (i128::from(amount), i128::from(bps));
    let on_card = |whole: i128, rate: i64| up(whole * i128::from(rate), 1_000_000_000);
    let with_spread = |bare: i128| bare + bare * bps / 10_000;
    let most_route = if bears_route {
        10_000 + up(wide * 50, 10_000)
    } else {
        0
    };
    let drifts = bearer == DriftBearer::Card;
    let margin = if drifts { i128::from(margin) } else { 0 };
    let held = up(
        on_card(with_spread(wide + most_route), before) * (10_000 + margin),
        10_000,
    );
    assert_eq!(i128::from(ALL - rail.world.on_card().await), held);
    rail.world.rate("JMD", &after.to_string());
    let (mut on_it, mut left, mut kept) = (0, 0, 0);
    if arrives {
        rail.take().await;
        rail.until_state(payment.id, CardPaymentState::Succeeded)
            .await;
        let bare = wide + if bears_route { i128::from(route) } else { 0 };
        let rate = if drifts { after } else { before };
        on_it = on_card(with_spread(bare), rate).min(held);
        left = with_spread(bare);
        kept = left - bare;
    } else {
        rail.give_back().await;
        rail.until_state(payment.id, CardPaymentState::Failed).await;
    }
    let [card, _, position, bitcoin, spread] = rail.world.books().await.map(i128::from);
    let (all, had) = (i128::from(ALL), i128::from(BITCOIN));
    assert_eq!(
        [card, position, bitcoin, spread],
        [all - on_it, on_it - all, had - left, kept]
    );
    rail.world.stop("beside the model").await;
}
