//! Two instances on one store: one takes payments in, and the other has the node.

use flashkit::Engine;
use flashkit::cards::{CardLimits, CardPaymentState, PayWithCard};
use flashkit::ids::{CardPaymentId, PayoutId};
use flashkit::lightning::{LightningNode, PaymentState};
use flashkit::settlement::{PayoutState, RequestPayout};

use crate::set::{ON_CARD, Set, hash, open, settings};
use crate::support::scripted::{Pay, ScriptedNode};
use crate::support::shop::{self, SAT};
use crate::support::{key, until};

const ALL: i64 = ON_CARD * SAT;

/// The instance without the node, and the set, whose engine has it. The merchant has 100,000 sats.
struct Two {
    away: Engine,
    set: Set,
}

async fn two() -> Two {
    let set = Set::new(CardLimits::default()).await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", shop::sat(100_000)).await;
    set.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&set.engine, &sale).await;
    let away = Engine::builder(set.store.clone(), shop::master())
        .network("regtest")
        .rates(shop::rates())
        .settings(settings())
        .lightning_elsewhere()
        .open()
        .await
        .unwrap();
    Two { away, set }
}

/// Either kind of payment.
#[derive(Debug, Clone, Copy)]
enum Id {
    Card(CardPaymentId),
    Payout(PayoutId),
}

impl Two {
    /// Both kinds are asked for where the node is not, one after the other.
    async fn ask(&mut self, is_payout: bool, bolt11: &str) -> Id {
        if is_payout {
            let command = RequestPayout {
                key: key("payout"),
                merchant: self.set.merchant.id,
                bolt11: bolt11.to_owned(),
            };
            let (settlement, issuer) = (self.away.settlement(), self.away.issuer());
            let payout = settlement.request_payout(&issuer, command).await.unwrap();
            return Id::Payout(payout.value.id);
        }
        let command = PayWithCard {
            key: key("pay"),
            tap: self.set.card.chip.tap(),
            bolt11: bolt11.to_owned(),
            pin: None,
        };
        let cards = self.away.cards();
        let payment = cards.pay(&self.set.merchant.till, command).await.unwrap();
        Id::Card(payment.value.id)
    }

    async fn state(&self, id: Id) -> CardPaymentState {
        match id {
            Id::Card(id) => self.set.payment(id).await.state,
            Id::Payout(id) => {
                let (settlement, issuer) = (self.away.settlement(), self.away.issuer());
                let payout = settlement.payout(&issuer, id).await.unwrap();
                match payout.value.state {
                    PayoutState::Sending => CardPaymentState::Sending,
                    PayoutState::Unknown => CardPaymentState::Unknown,
                    PayoutState::PaidOut => CardPaymentState::Succeeded,
                    PayoutState::Failed => CardPaymentState::Failed,
                }
            }
        }
    }

    async fn until_state(&self, id: Id, state: CardPaymentState) {
        until("it stands as it should", || async {
            self.state(id).await == state
        })
        .await;
    }

    async fn until_on_its_way(&self, bolt11: &str) {
        until("it is on its way", || async {
            let record = self.set.payee.record(hash(bolt11));
            record.is_some_and(|record| record.state == PaymentState::Pending)
        })
        .await;
    }

    /// What the card and the merchant have.
    async fn has(&self) -> (i64, i64) {
        (self.set.balance().await, self.set.payable().await)
    }

    /// The store is both's, and closed with the one that has the node.
    async fn stop(self, step: &str) {
        self.set.stop(step).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_surely_did_not_send_fails() {
    for is_payout in [false, true] {
        let mut two = two().await;
        let node = two.set.node.clone();
        node.script([Pay::Refuse]);
        let bill = two.set.bill(10_000).await;
        let id = two.ask(is_payout, &bill).await;
        two.until_state(id, CardPaymentState::Failed).await;
        assert_eq!(two.has().await, (ALL, 100_000 * SAT), "{id:?}");
        assert_eq!((node.asked(), node.sent.lock().unwrap().len()), (1, 0));
        two.stop("failed").await;
    }
}

/// The first attempt may have been sent: that the node refuses every other one proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_may_have_sent_does_not_fail() {
    let mut cases = tokio::task::JoinSet::new();
    for is_payout in [false, true] {
        for first in [Pay::Doubt, Pay::SendAndDoubt] {
            cases.spawn(does_not_fail(is_payout, first));
        }
    }
    cases.join_all().await;
}

async fn does_not_fail(is_payout: bool, first: Pay) {
    let mut two = two().await;
    let node = two.set.node.clone();
    node.forget(true);
    let refused = std::iter::repeat_n(Pay::Refuse, 1_000);
    node.script([first].into_iter().chain(refused));
    let bill = two.set.bill(10_000).await;
    let id = two.ask(is_payout, &bill).await;
    until("it was asked for again", || async { node.asked() >= 3 }).await;
    assert_eq!(two.state(id).await, CardPaymentState::Unknown, "{id:?}");
    node.unscript();
    node.forget(false);
    two.until_on_its_way(&bill).await;
    two.set.take(&bill).await;
    two.until_state(id, CardPaymentState::Succeeded).await;
    assert!(two.set.has_arrived(&bill));
    two.stop("arrived").await;
}

/// The instance with the node stands still when it has counted its attempt, and another one gets
/// the node, which refuses: the first may still send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_another_instance_has_begun_is_not_read_as_none() {
    let mut cases = tokio::task::JoinSet::new();
    for is_payout in [false, true] {
        cases.spawn(is_not_read_as_none(is_payout));
    }
    cases.join_all().await;
}

async fn is_not_read_as_none(is_payout: bool) {
    let mut two = two().await;
    let node = two.set.node.clone();
    node.forget(true);
    node.script([Pay::Pause]);
    let bill = two.set.bill(10_000).await;
    let id = two.ask(is_payout, &bill).await;
    until("it is asked", || async { node.asked() == 1 }).await;
    let other = ScriptedNode::new(two.set.network.node(0));
    other.start().await.unwrap();
    other.script([Pay::Refuse; 1_000]);
    let third = open(two.set.store.clone(), other.clone(), settings()).await;
    until("the other asks again", || async { other.asked() >= 1 }).await;
    until("it is not known", || async {
        two.state(id).await == CardPaymentState::Unknown
    })
    .await;
    drop(third);
    node.forget(false);
    node.resume();
    two.until_on_its_way(&bill).await;
    two.set.take(&bill).await;
    two.until_state(id, CardPaymentState::Succeeded).await;
    assert_eq!(node.asked(), 1, "{id:?}");
    two.stop("arrived once").await;
}
