//! What the engine makes of everything a node can say: late, twice, wrongly, or not at all.

mod support;

use std::sync::Arc;
use std::time::Duration;

use flashkit::Engine;
use flashkit::cards::{CardLimits, FreezeCard, TopUpCard};
use flashkit::invoices::{Invoice, InvoiceState};
use flashkit::ledger::Account;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::lightning::{Bolt11Details, LightningEvent, LightningNode, PaymentHash};
use flashkit::money::Currency;
use flashkit::ports::SystemClock;
use flashkit::settlement::{Payout, PayoutState, RequestPayout};
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::wallet::Wallet;
use support::books::expect;
use support::gated_store::{GatedStore, Pause};
use support::scripted::{Pay, ScriptedNode};
use support::shop::{self, HeldCard, Merchant, SAT, jmd, sat};
use support::{key, until};

/// A shop on a node that does as it is told, with 100,000 sat to pay out.
struct Set {
    engine: Engine,
    store: MemoryStore,
    node: ScriptedNode,
    customer: Arc<Wallet>,
    merchant: Merchant,
}

async fn set() -> Set {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let node = ScriptedNode::new(network.node(0));
    let engine = shop::engine_on(Arc::new(store.clone()), Some(Arc::new(node.clone()))).await;
    engine.start().await.unwrap();
    let customer = network.node(1_000_000 * SAT);
    customer.start().await.unwrap();
    let customer = Arc::new(Wallet::new(Arc::new(customer), None));
    tokio::spawn(customer.clone().run());
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let sale = shop::sale(&engine, &merchant, "sale", sat(100_000)).await;
    customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&engine, &sale).await;
    Set {
        engine,
        store,
        node,
        customer,
        merchant,
    }
}

impl Set {
    async fn request(&self, name: &str) -> (Payout, PaymentHash) {
        let bolt11 = self.customer.invoice(50_000 * SAT, name).await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let command = RequestPayout {
            key: key(name),
            merchant: self.merchant.id,
            bolt11,
        };
        let issuer = self.engine.issuer();
        let payout = self
            .engine
            .settlement()
            .request_payout(&issuer, command)
            .await
            .unwrap();
        (payout.value, hash)
    }

    async fn state(&self, payout: &Payout) -> PayoutState {
        let issuer = self.engine.issuer();
        self.engine
            .settlement()
            .payout(&issuer, payout.id)
            .await
            .unwrap()
            .state
    }

    async fn until_state(&self, payout: &Payout, wanted: PayoutState) {
        until(&format!("the payout is {wanted:?}"), || async {
            self.state(payout).await == wanted
        })
        .await;
    }

    async fn expect(&self, step: &str, lines: &[(Account, i64)]) {
        expect(&self.engine, step, lines).await;
    }

    fn payable(&self) -> Account {
        Account::merchant_payable(self.merchant.id)
    }

    fn as_before(&self) -> [(Account, i64); 2] {
        [
            (Account::node_channels(), 100_000 * SAT),
            (self.payable(), 100_000 * SAT),
        ]
    }

    fn as_paid_out(&self) -> [(Account, i64); 3] {
        [
            (Account::node_channels(), 50_000 * SAT),
            (self.payable(), 49_500 * SAT),
            (Account::fee_income(), 500 * SAT),
        ]
    }

    async fn events(&self, kind: &str) -> usize {
        let events = self.store.events(0, 1_000).await.unwrap();
        events.iter().filter(|event| event.kind == kind).count()
    }

    async fn until_dealt_with(&self) {
        until("the event is dealt with", || async {
            self.node.waiting() == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_refusal_is_a_failure_and_the_money_is_the_merchants_again() {
    let set = set().await;
    set.node.script([Pay::Refuse]);
    let (payout, _) = set.request("p").await;
    assert_eq!(payout.state, PayoutState::Failed);
    assert_eq!(payout.reason.as_deref(), Some("no route"));
    set.expect("refused", &set.as_before()).await;
    // The invoice was used: another command for it is refused, so it cannot be paid twice.
    let command = RequestPayout {
        key: key("q"),
        merchant: set.merchant.id,
        bolt11: payout.bolt11,
    };
    let issuer = set.engine.issuer();
    let again = set
        .engine
        .settlement()
        .request_payout(&issuer, command)
        .await
        .unwrap_err();
    assert_eq!(again.code(), "settlement.invoice_used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sent_but_not_known_is_found_out_and_never_sent_twice() {
    let set = set().await;
    set.node.script([Pay::SendAndDoubt]);
    let (payout, hash) = set.request("p").await;
    set.until_state(&payout, PayoutState::PaidOut).await;
    set.expect("found out", &set.as_paid_out()).await;
    assert_eq!(set.customer.received_msat(hash), 50_000 * SAT);
    assert_eq!(set.node.sent.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_stays_unknown_with_its_money_on_hold_until_the_node_knows() {
    let set = set().await;
    set.node.forget(true);
    // Asked four times: neither doubt nor a refusal of a later attempt is a failure.
    set.node
        .script([Pay::Doubt, Pay::Refuse, Pay::Doubt, Pay::Refuse]);
    let (payout, hash) = set.request("p").await;
    assert_eq!(payout.state, PayoutState::Unknown);
    let balance = set
        .engine
        .settlement()
        .balance(&set.merchant.till, set.merchant.id)
        .await
        .unwrap();
    assert_eq!(
        (balance.owed_msat, balance.available_msat),
        (100_000 * SAT, 49_500 * SAT)
    );
    assert_eq!(set.events("payout.unknown").await, 1);
    // The fifth attempt is sent.
    set.until_state(&payout, PayoutState::PaidOut).await;
    set.expect("sent at last", &set.as_paid_out()).await;
    until("it arrived", || async {
        set.customer.received_msat(hash) == 50_000 * SAT
    })
    .await;
    assert_eq!(set.events("payout.failed").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_told_twice_or_late_change_nothing() {
    let set = set().await;
    let (payout, hash) = set.request("p").await;
    set.until_state(&payout, PayoutState::PaidOut).await;
    let failed = LightningEvent::SendFailed {
        payment_hash: hash,
        reason: "late".to_owned(),
    };
    for event in [
        LightningEvent::Sent {
            payment_hash: hash,
            fee_msat: Some(7),
        },
        failed.clone(),
        LightningEvent::Sent {
            payment_hash: hash,
            fee_msat: None,
        },
    ] {
        set.node.inject(event);
    }
    set.until_dealt_with().await;
    set.expect("told again", &set.as_paid_out()).await;
    // The node has forgotten, and says that it failed: the books know better.
    set.node.forget(true);
    set.node.inject(failed);
    set.until_dealt_with().await;
    set.expect("told wrongly", &set.as_paid_out()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_that_matches_nothing_waits_in_suspense() {
    let set = set().await;
    let (received, sent) = (PaymentHash([1; 32]), PaymentHash([2; 32]));
    for _ in 0..3 {
        set.node.inject(LightningEvent::Received {
            payment_hash: received,
            amount_msat: 7_000,
        });
    }
    set.until_dealt_with().await;
    let [channels, payable] = set.as_before();
    let lines = [
        (channels.0, channels.1 + 7_000),
        payable,
        (Account::suspense(), 7_000),
    ];
    set.expect("received", &lines).await;
    assert_eq!(set.events("payment.unmatched").await, 1);
    // A payment left that nobody here asked for: the event is there, with nothing made up.
    set.node.inject(LightningEvent::Sent {
        payment_hash: sent,
        fee_msat: None,
    });
    set.until_dealt_with().await;
    assert_eq!(set.events("payment.unexpected").await, 1);
    set.expect("sent", &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payout_that_failed_and_then_arrived_is_booked_against_suspense() {
    let set = set().await;
    set.node.script([Pay::Refuse]);
    let (payout, hash) = set.request("p").await;
    assert_eq!(payout.state, PayoutState::Failed);
    for _ in 0..2 {
        set.node.inject(LightningEvent::Sent {
            payment_hash: hash,
            fee_msat: Some(1_000),
        });
    }
    set.until_dealt_with().await;
    let [channels, payable] = set.as_before();
    let gone = 50_000 * SAT + 1_000;
    let lines = [
        (channels.0, channels.1 - gone),
        payable,
        (Account::suspense(), -gone),
    ];
    set.expect("arrived after all", &lines).await;
    assert_eq!(set.events("payment.unexpected").await, 1);
}

/// The invoice as it stands.
async fn invoice(engine: &Engine, id: flashkit::ids::InvoiceId) -> Invoice {
    engine
        .invoices()
        .get(&engine.issuer(), id)
        .await
        .unwrap()
        .value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_told_twice_is_booked_once() {
    let set = set().await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale-2", sat(1_000)).await;
    let (payment_hash, amount_msat) = (sale.payment_hash, sale.amount_msat);
    let hash = set.customer.pay(&sale.bolt11).await.unwrap();
    assert_eq!(hash, payment_hash);
    shop::settled(&set.engine, &sale).await;
    for event in [
        LightningEvent::Claimable {
            blocks_left: None,
            payment_hash,
            amount_msat,
        },
        LightningEvent::Received {
            payment_hash,
            amount_msat,
        },
        LightningEvent::Received {
            payment_hash,
            amount_msat,
        },
        LightningEvent::Claimable {
            blocks_left: None,
            payment_hash,
            amount_msat,
        },
    ] {
        set.node.inject(event);
    }
    set.until_dealt_with().await;
    let [channels, payable] = set.as_before();
    let lines = [
        (channels.0, channels.1 + 1_000 * SAT),
        (payable.0, payable.1 + 1_000 * SAT),
    ];
    set.expect("told twice", &lines).await;
    assert_eq!(set.events("invoice.settled").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_that_do_not_fit_go_back() {
    let set = set().await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale-2", sat(1_000)).await;
    // Too little and too much, as if the payer's node had changed the amount.
    for amount_msat in [999 * SAT, 1_001 * SAT] {
        let payment_hash = sale.payment_hash;
        set.node.inject(LightningEvent::Claimable {
            blocks_left: None,
            payment_hash,
            amount_msat,
        });
        set.until_dealt_with().await;
        assert_eq!(invoice(&set.engine, sale.id).await.state, InvoiceState::New);
    }
    set.expect("neither was taken", &set.as_before()).await;
    // The right amount is still welcome.
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_top_up_of_a_full_or_frozen_card_goes_back() {
    let set = set().await;
    let limits = CardLimits {
        max_balance: Some(60_000 * SAT),
        ..CardLimits::default()
    };
    let card = shop::card(&set.engine, shop::UID, limits).await;
    let top_up = async |card: &HeldCard, name: &str| {
        let command = TopUpCard {
            key: key(name),
            card: card.id,
            price: sat(40_000),
        };
        set.engine
            .cards()
            .top_up(&card.holder, command)
            .await
            .unwrap()
            .value
    };
    let (first, second, third) = (
        top_up(&card, "1").await,
        top_up(&card, "2").await,
        top_up(&card, "3").await,
    );
    set.customer.pay(&first.bolt11).await.unwrap();
    shop::settled(&set.engine, &first).await;
    assert!(
        set.customer.pay(&second.bolt11).await.is_err(),
        "the card is full"
    );
    let command = FreezeCard {
        key: key("freeze"),
        card: card.id,
    };
    set.engine
        .cards()
        .freeze(&card.holder, command.clone())
        .await
        .unwrap();
    assert!(
        set.customer.pay(&third.bolt11).await.is_err(),
        "the card is frozen"
    );
    let balance = Account::card_balance(card.id);
    let [channels, payable] = set.as_before();
    let lines = [
        (channels.0, channels.1 + 40_000 * SAT),
        payable,
        (balance, 40_000 * SAT),
    ];
    set.expect("only the first", &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_expires_and_a_late_payment_goes_back() {
    let clock = Arc::new(flashkit::testkit::clock::ManualClock::at(
        flashkit::ports::Clock::now_ms(&SystemClock),
    ));
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let node = network.node(0);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let engine = Engine::builder(store, shop::master())
        .lightning(Arc::new(node))
        .network("regtest")
        .clock(clock.clone())
        .open()
        .await
        .unwrap();
    engine.start().await.unwrap();
    let customer = network.node(1_000_000 * SAT);
    customer.start().await.unwrap();
    let customer = Arc::new(Wallet::new(Arc::new(customer), None));
    tokio::spawn(customer.clone().run());
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let sale = shop::sale(&engine, &merchant, "sale", sat(1_000)).await;
    clock.advance(Duration::from_secs(601));
    // Whether the job has run or not: time is up.
    assert!(customer.pay(&sale.bolt11).await.is_err());
    until("the invoice is expired", || async {
        invoice(&engine, sale.id).await.state == InvoiceState::Expired
    })
    .await;
    expect(&engine, "nothing moved", &[]).await;
}

/// The first call has its rate and is on its way into the books when rates go stale. Whoever asks
/// again meanwhile is not told that nothing was done: it waits, and gets the first one's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_call_is_not_refused_while_the_first_goes_on() {
    let pause = Arc::new(Pause::default());
    let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let rates = shop::rates();
    let engine = Engine::builder(
        Arc::new(GatedStore::pausing(memory, pause.clone())),
        shop::master(),
    );
    let engine = engine.lightning(Arc::new(network.node(0)));
    let engine = engine.network("regtest").rates(rates.clone());
    let engine = engine.open().await.unwrap();
    engine.start().await.unwrap();
    let merchant = Arc::new(shop::merchant(&engine, "Cookshop").await);
    let ask = || {
        let (engine, merchant) = (engine.clone(), merchant.clone());
        tokio::spawn(async move { shop::sale(&engine, &merchant, "lunch", jmd(15_000)).await })
    };
    pause.arm("invoices.create");
    let first = ask();
    pause.reached().await;
    rates.set(
        Currency::from_code("JMD").unwrap(),
        "1".parse().unwrap(),
        "long ago",
        0,
    );
    let second = ask();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!second.is_finished(), "{:?}", second.await);
    pause.release();
    assert_eq!(first.await.unwrap(), second.await.unwrap());
    engine.stop().await.unwrap();
}
