//! Several attempts at one payout: which failure ends it, and what a person can say.

mod support;

use std::sync::Arc;

use flashkit::Engine;
use flashkit::ledger::Account;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::lightning::{
    Bolt11Details, LightningEvent, LightningNode, PaymentHash, PaymentState,
};
use flashkit::ports::SystemClock;
use flashkit::settlement::{Payout, PayoutOutcome, PayoutState, RequestPayout, ResolvePayout};
use flashkit::store::MemoryStore;
use flashkit::testkit::wallet::Wallet;
use support::books::{expect, expect_sound};
use support::scripted::{Pay, ScriptedNode};
use support::shop::{self, Merchant, SAT, sat};
use support::{key, until};

/// A shop with 100,000 sat to pay out to a node that nobody looks after: what is sent to it stays
/// on its way until it is `woken`.
struct Set {
    engine: Engine,
    node: ScriptedNode,
    payee: Arc<Wallet>,
    merchant: Merchant,
}

async fn set() -> Set {
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let node = ScriptedNode::new(network.node(200_000 * SAT));
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = shop::engine_on(store, Some(Arc::new(node.clone()))).await;
    engine.start().await.unwrap();
    let merchant = shop::merchant(&engine, "Other").await;
    let payee: SimulatedNode = network.node(1_000_000 * SAT);
    payee.start().await.unwrap();
    let payee = Arc::new(Wallet::new(Arc::new(payee), None));
    let sale = shop::sale(&engine, &merchant, "sale", sat(100_000)).await;
    payee.send(&sale.bolt11).await.unwrap();
    shop::settled(&engine, &sale).await;
    Set {
        engine,
        node,
        payee,
        merchant,
    }
}

impl Set {
    async fn request(&self) -> (Payout, PaymentHash) {
        let bolt11 = self.payee.invoice(50_000 * SAT, "slow").await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let command = RequestPayout {
            key: key("p"),
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

    async fn payout(&self, payout: &Payout) -> Payout {
        let issuer = self.engine.issuer();
        let found = self.engine.settlement().payout(&issuer, payout.id).await;
        found.unwrap().value
    }

    async fn tell_failure(&self, hash: PaymentHash) {
        self.node.inject(LightningEvent::SendFailed {
            payment_hash: hash,
            reason: "no route".to_owned(),
        });
        until("the event is dealt with", || async {
            self.node.waiting() == 0
        })
        .await;
    }

    /// Waits until the node was asked to send this often.
    async fn until_sent(&self, times: usize) {
        until("the node was asked again", || async {
            self.node.sent.lock().unwrap().len() >= times
        })
        .await;
    }

    async fn until_state(&self, payout: &Payout, state: PayoutState) {
        until("the payout is in its last state", || async {
            self.payout(payout).await.state == state
        })
        .await;
    }

    async fn resolve(&self, name: &str, payout: &Payout, outcome: PayoutOutcome) -> String {
        let command = ResolvePayout {
            key: key(name),
            payout: payout.id,
            outcome,
            reason: "the merchant was asked".to_owned(),
            despite_record: false,
        };
        let issuer = self.engine.issuer();
        match self
            .engine
            .settlement()
            .resolve_payout(&issuer, command)
            .await
        {
            Ok(payout) => format!("{:?}", payout.state),
            Err(error) => error.code().to_owned(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_not_believed_while_a_later_attempt_is_on_its_way() {
    let set = set().await;
    // The first attempt is lost before it is sent, so that there is a second one.
    set.node.script([Pay::Doubt]);
    let (payout, hash) = set.request().await;
    assert_eq!(payout.state, PayoutState::Unknown);
    set.until_sent(1).await;
    set.tell_failure(hash).await;
    assert!(!set.payout(&payout).await.state.is_final());
    // Now the payee wakes up and takes it.
    tokio::spawn(set.payee.clone().run());
    set.until_state(&payout, PayoutState::PaidOut).await;
    expect_sound(&set.engine, "paid out after all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_failure_of_the_only_attempt_ends_it_whatever_the_record_says() {
    let set = set().await;
    let (payout, hash) = set.request().await;
    // The node wrote its record after it had told the failure: it says `pending` for ever.
    set.tell_failure(hash).await;
    set.until_state(&payout, PayoutState::Failed).await;
    expect_sound(&set.engine, "the money is the merchant's again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_not_believed_while_the_answer_to_a_later_attempt_is_lost() {
    let set = set().await;
    set.node.forget(true);
    // The second attempt is on its way, and nobody wrote that down.
    set.node.script([Pay::Doubt, Pay::SendAndDoubt]);
    let (payout, hash) = set.request().await;
    set.until_sent(1).await;
    set.tell_failure(hash).await;
    assert_eq!(set.payout(&payout).await.state, PayoutState::Unknown);
    set.node.forget(false);
    tokio::spawn(set.payee.clone().run());
    set.until_state(&payout, PayoutState::PaidOut).await;
    let balance = set.engine.settlement();
    let balance = balance.balance(&set.engine.issuer(), set.merchant.id).await;
    // 50,000 and the fee of 1 % left.
    assert_eq!(balance.unwrap().available_msat, 49_500 * SAT);
    expect_sound(&set.engine, "paid once").await;
}

/// The merchant says that nothing came, while it is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_cannot_end_what_the_node_knows_to_be_on_its_way() {
    let set = set().await;
    let (payout, _) = set.request().await;
    let failed = PayoutOutcome::Failed;
    let refused = set.resolve("1", &payout, failed).await;
    assert_eq!(refused, "settlement.payout_in_flight");
    for route_fee_msat in [-1, payout.max_route_fee_msat + 1] {
        let arrived = PayoutOutcome::PaidOut {
            route_fee_msat: Some(route_fee_msat),
        };
        let refused = set.resolve("2", &payout, arrived).await;
        assert_eq!(refused, "command.out_of_bounds");
    }
    tokio::spawn(set.payee.clone().run());
    set.until_state(&payout, PayoutState::PaidOut).await;
    expect_sound(&set.engine, "paid once").await;
}

/// A node that refuses a later attempt writes a record that says `failed`, while the first one may
/// be on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_says_failed_is_not_believed_without_the_event() {
    let set = set().await;
    let refused = std::iter::repeat_n(Pay::Refuse, 1_000);
    set.node
        .script([Pay::SendAndDoubt].into_iter().chain(refused));
    let (payout, hash) = set.request().await;
    set.node.remember(hash, PaymentState::Failed, 50_000 * SAT);
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(set.payout(&payout).await.state, PayoutState::Unknown);
    tokio::spawn(set.payee.clone().run());
    set.until_state(&payout, PayoutState::PaidOut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_says_what_the_node_cannot() {
    let set = set().await;
    set.node.forget(true);
    set.node.script([Pay::Doubt; 1_000]);
    let (payout, hash) = set.request().await;
    assert_eq!(payout.state, PayoutState::Unknown);
    assert_eq!(
        set.resolve("1", &payout, PayoutOutcome::Failed).await,
        "Failed"
    );
    let arrived = PayoutOutcome::PaidOut {
        route_fee_msat: None,
    };
    assert_eq!(
        set.resolve("1", &payout, PayoutOutcome::Failed).await,
        "Failed"
    );
    assert_eq!(
        set.resolve("2", &payout, arrived).await,
        "settlement.payout_final"
    );
    let reason = set.payout(&payout).await.reason;
    assert_eq!(reason.as_deref(), Some("the merchant was asked"));
    // The person was wrong: the money left, and is looked for in suspense.
    set.node.inject(LightningEvent::Sent {
        payment_hash: hash,
        fee_msat: Some(0),
    });
    let sent = 50_000 * SAT;
    until("the event is dealt with", || async {
        set.node.waiting() == 0
    })
    .await;
    let lines = [
        (Account::node_channels(), 100_000 * SAT - sent),
        (Account::merchant_payable(set.merchant.id), 100_000 * SAT),
        (Account::suspense(), -sent),
    ];
    expect(&set.engine, "what left is in suspense", &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_says_that_it_arrived() {
    let set = set().await;
    set.node.forget(true);
    set.node.script([Pay::Doubt; 1_000]);
    let (payout, _) = set.request().await;
    let arrived = PayoutOutcome::PaidOut {
        route_fee_msat: Some(7_000),
    };
    assert_eq!(set.resolve("1", &payout, arrived).await, "PaidOut");
    let lines = [
        (Account::node_channels(), 50_000 * SAT - 7_000),
        (Account::merchant_payable(set.merchant.id), 49_500 * SAT),
        (Account::fee_income(), 500 * SAT),
        (Account::routing_fees(), 7_000),
    ];
    expect(&set.engine, "as the person said", &lines).await;
}
