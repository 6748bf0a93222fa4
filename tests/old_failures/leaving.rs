//! Money that leaves: what is not known is neither paid nor failed.

use flashkit::lightning::{LightningEvent, PaymentState};
use flashkit::settlement::PayoutState;

use crate::stage::Stage;
use crate::support::scripted::Pay;
use crate::support::shop::{self, SAT, sat};
use crate::support::until;

/// A merchant that has 10,000 sats.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    let sale = shop::sale(&stage.engine, &stage.merchant, "sale", sat(10_000)).await;
    stage.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(&stage.engine, &sale).await;
    stage
}

async fn state(stage: &Stage, payout: flashkit::ids::PayoutId) -> PayoutState {
    let settlement = stage.engine.settlement();
    let payout = settlement.payout(&stage.engine.issuer(), payout).await;
    payout.unwrap().state
}

/// P5. A payment that was handed to the node is not paid, and its money stays on hold.
///
/// Back when `Accepted` is read as paid: in `payments/sending.rs`, `send`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_sent_is_read_as_paid() {
    let stage = stage().await;
    stage.customer.hold(true);
    let (payout, _) = stage.payout("p", 5_000).await;
    assert_eq!(payout.state, PayoutState::Sending);
    for _ in 0..3 {
        stage.engine.run_due_jobs().await.unwrap();
    }
    assert_ne!(state(&stage, payout.id).await, PayoutState::PaidOut);
    assert_eq!(stage.happened("payout.paid_out").await, 0);
    // With the fee of 1 %, which is on hold as well.
    assert_eq!(stage.payable().await, 4_950 * SAT);
    stage.customer.hold(false);
    until("it is paid out", || async {
        state(&stage, payout.id).await == PayoutState::PaidOut
    })
    .await;
    assert_eq!(stage.payable().await, 4_950 * SAT);
    stage.stop().await;
}

/// P6. What was not sent is not paid: the money is the merchant's again.
///
/// Back when `Refused` is read as paid: in `payments/sending.rs`, `send`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_paid_without_paying() {
    let stage = stage().await;
    stage.node.script([Pay::Refuse]);
    let (payout, hash) = stage.payout("p", 5_000).await;
    assert_eq!(payout.state, PayoutState::Failed);
    assert_eq!(stage.customer.received_msat(hash), 0);
    assert_eq!(stage.payable().await, 10_000 * SAT);
    assert_eq!(stage.happened("payout.paid_out").await, 0);
    stage.stop().await;
}

/// P7. The node knows nothing of it, or cannot be asked: that proves nothing, either way.
///
/// Back when an error of the node is read as paid: in `payments/sending.rs`, `send`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_unknown_is_assumed_to_be_completed() {
    let stage = stage().await;
    stage.node.forget(true);
    stage.node.script([Pay::Doubt]);
    let (payout, hash) = stage.payout("p", 5_000).await;
    for _ in 0..3 {
        stage.engine.run_due_jobs().await.unwrap();
        assert_eq!(state(&stage, payout.id).await, PayoutState::Unknown);
    }
    assert_eq!(stage.payable().await, 4_950 * SAT);
    // A payment that nobody has asked for changes nothing of it.
    stage.node.forget(false);
    stage
        .node
        .remember(hash, PaymentState::Pending, 5_000 * SAT);
    stage.engine.run_due_jobs().await.unwrap();
    assert_ne!(state(&stage, payout.id).await, PayoutState::PaidOut);
    let reason = "no route".to_owned();
    stage
        .tell(LightningEvent::SendFailed {
            payment_hash: flashkit::lightning::PaymentHash([1; 32]),
            reason,
        })
        .await;
    assert_ne!(state(&stage, payout.id).await, PayoutState::Failed);
    stage.engine.stop().await.unwrap();
}
