//! Sending a payout: effect and outcome.
//!
//! What a node says of a payment is read with care:
//!
//! - A refusal means that *this call* sent nothing. Only when no earlier call can have been made
//!   (the first call, by the process that has just committed the intent) is it a failure.
//! - No record at the node proves nothing, since a node hands a payment to the network before it
//!   writes its record. The node is asked to send again instead: it is idempotent by payment
//!   hash, and answers that it knows the payment while it is on its way.
//! - A failure ends an attempt. Whether it ends the payout is in the count of attempts, which is
//!   committed before each one: see [`rules::after_failure`]. Sending and judging a failure
//!   exclude each other.

use super::model::{Payout, PayoutAttempts, PayoutState};
use super::rules::{self, AfterFailure};
use super::{CHECK_JOB, PAYOUTS, Settlement};
use crate::Error;
use crate::core::{Loaded, emit};
use crate::ids::{PayoutId, TransferId};
use crate::ledger::{Refusal, Step};
use crate::lightning::{
    Dispatch, PaymentDirection, PaymentHash, PaymentRecord, PaymentRequest, PaymentState,
};
use crate::treasury;

/// Whether an earlier call to the node can have been made for the same payout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// No: this process has just committed the intent.
    First,
    /// Perhaps.
    Again,
}

impl Settlement {
    async fn by_hash(&self, hash: PaymentHash) -> Result<Option<Loaded<Payout>>, Error> {
        self.core
            .find(PAYOUTS, "payment_hash", &hash.to_string())
            .await
    }

    /// Asks the node to send, and writes down what that proves.
    pub(super) async fn send(&self, id: PayoutId, attempt: Attempt) -> Result<(), Error> {
        let _one_at_a_time = self.sending.take().await;
        let payout = self.load_payout(id).await?.value;
        if payout.state.is_final() {
            return Ok(());
        }
        let before = payout.attempts;
        // A job may have come before the first attempt.
        let is_first = attempt == Attempt::First && payout.state == PayoutState::Sending;
        let attempt = if is_first && before == PayoutAttempts::default() {
            Attempt::First
        } else {
            Attempt::Again
        };
        if attempt == Attempt::Again && !self.note(id, before.begin()).await? {
            // It ended in between.
            return Ok(());
        }
        let request = PaymentRequest {
            bolt11: payout.bolt11.clone(),
            max_fee_msat: payout.max_route_fee_msat,
        };
        match (self.core.node()?.pay(request).await, attempt) {
            // The job that was set with the intent asks again, should the event not come.
            (Ok(Dispatch::Accepted | Dispatch::AlreadyKnown), Attempt::First) => Ok(()),
            (Ok(Dispatch::Accepted), Attempt::Again) => {
                self.note(id, before.accepted()).await.map(drop)
            }
            (Ok(Dispatch::AlreadyKnown), Attempt::Again) => {
                // Only a record of it says that the attempt it knows is the last one.
                let record = self.record(payout.payment_hash).await?;
                let is_recorded =
                    record.is_some_and(|record| record.state == PaymentState::Pending);
                let known = before.known(is_recorded);
                self.note(id, known).await.map(drop)
            }
            (Ok(Dispatch::Refused { reason }), Attempt::First) => {
                self.fail_unsent(id, &reason).await
            }
            (Ok(Dispatch::Refused { reason }), Attempt::Again) => {
                self.note(id, before).await?;
                self.doubt(id, &reason).await
            }
            (Err(error), _) => self.doubt(id, &error.to_string()).await,
        }
    }

    /// False when there was nothing to write down: the payout has ended, or it stands there.
    async fn note(&self, id: PayoutId, attempts: PayoutAttempts) -> Result<bool, Error> {
        let decide = || async { rules::note_attempts(&self.load_payout(id).await?, attempts) };
        Ok(self.core.settle(decide).await?.is_some())
    }

    async fn fail(&self, id: PayoutId, reason: &str) -> Result<(), Error> {
        let decide = || async { rules::failed(&self.load_payout(id).await?, reason) };
        self.core.settle(decide).await.map(drop)
    }

    /// The first call sent nothing. Should another instance have begun an attempt meanwhile (this
    /// one was paused, and lost the node), that proves nothing of it.
    async fn fail_unsent(&self, id: PayoutId, reason: &str) -> Result<(), Error> {
        let decide = || async {
            let payout = self.load_payout(id).await?;
            if payout.value.attempts != PayoutAttempts::default() {
                return Ok(None);
            }
            rules::failed(&payout, reason)
        };
        self.core.settle(decide).await.map(drop)
    }

    async fn doubt(&self, id: PayoutId, reason: &str) -> Result<(), Error> {
        let decide = || async {
            let payout = self.load_payout(id).await?;
            let check_at_ms = self.core.ask_again_at(payout.value.created_at_ms);
            rules::unknown(&payout, reason, check_at_ms)
        };
        self.core.settle(decide).await.map(drop)
    }

    async fn succeed(&self, id: PayoutId, route_fee_msat: Option<i64>) -> Result<(), Error> {
        let new_id = || self.core.new_id(TransferId::from_parts);
        let decide =
            || async { rules::paid_out(&self.load_payout(id).await?, route_fee_msat, new_id) };
        self.core.settle(decide).await.map(drop)
    }

    pub(super) async fn record(&self, hash: PaymentHash) -> Result<Option<PaymentRecord>, Error> {
        let record = self.core.node()?.payment(hash).await?;
        Ok(record.filter(|record| record.direction == PaymentDirection::Outbound))
    }

    /// The job that asks what became of a payout.
    pub(crate) async fn check(&self, id: PayoutId) -> Result<(), Error> {
        let payout = self.load_payout(id).await?.value;
        if payout.state.is_final() {
            let done = Step::Done {
                kind: CHECK_JOB,
                object: id.to_string(),
            };
            return self.core.commit(vec![done]).await.map(drop);
        }
        match self.record(payout.payment_hash).await? {
            Some(record) if record.state == PaymentState::Succeeded => {
                self.succeed(id, record.fee_msat).await
            }
            Some(record) if record.state == PaymentState::Pending => Ok(()),
            // `Failed` proves nothing either: the node writes it for an attempt that it refused,
            // while an earlier one may be on its way. Only the event tells of an attempt's end.
            _ => self.send(id, Attempt::Again).await,
        }
    }

    /// After a start: every open payout is asked about. One that cannot be dealt with does not
    /// keep the others waiting; its job stays and tries again.
    pub(crate) async fn reconcile(&self) -> Result<Option<Error>, Error> {
        let (mut after, mut problem) = (None, None);
        loop {
            let page = self
                .core
                .list_each::<Payout>(PAYOUTS, "state", "open", after, 100)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(problem);
            };
            after = Some(last.clone());
            for (_, payout) in page {
                let checked = match payout {
                    Ok(payout) => self.check(payout.id).await,
                    Err(unreadable) => Err(unreadable),
                };
                problem = checked.err().or(problem);
            }
        }
    }

    /// The node says that a payment of ours arrived.
    pub(crate) async fn sent(&self, hash: PaymentHash, fee: Option<i64>) -> Result<(), Error> {
        let Some(payout) = self.by_hash(hash).await? else {
            return self.unexpected(hash, None, fee).await;
        };
        let id = payout.value.id;
        self.succeed(id, fee).await?;
        // Now it has ended. A person may have said that it failed, also while this was decided.
        let ended = self.load_payout(id).await?.value;
        if ended.state == PayoutState::Failed {
            return self.unexpected(hash, Some(ended), fee).await;
        }
        Ok(())
    }

    /// The node says that an attempt failed for good.
    pub(crate) async fn attempt_failed(
        &self,
        hash: PaymentHash,
        reason: &str,
    ) -> Result<(), Error> {
        let _one_at_a_time = self.sending.take().await;
        let Some(payout) = self.by_hash(hash).await? else {
            return Ok(());
        };
        let id = payout.value.id;
        let record = self.record(hash).await?;
        let state = record.as_ref().map(|record| record.state);
        match rules::after_failure(payout.value.attempts, state) {
            AfterFailure::Succeeded => {
                let fee_msat = record.and_then(|record| record.fee_msat);
                self.succeed(id, fee_msat).await
            }
            AfterFailure::Failed => self.fail(id, reason).await,
            AfterFailure::OnItsWay => Ok(()),
            AfterFailure::Doubt => self.doubt(id, reason).await,
        }
    }

    /// Money left the node and no open payout is behind it: it is booked against suspense, and
    /// waits for a person.
    async fn unexpected(
        &self,
        hash: PaymentHash,
        payout: Option<Payout>,
        fee_msat: Option<i64>,
    ) -> Result<(), Error> {
        let amount_msat = match &payout {
            Some(payout) => Some(payout.amount_msat),
            None => self
                .record(hash)
                .await?
                .and_then(|record| record.amount_msat),
        };
        let amount = amount_msat
            .unwrap_or(0)
            .saturating_add(fee_msat.unwrap_or(0));
        let booked = self
            .core
            .settle(|| async move {
                let id = self.core.new_id(TransferId::from_parts)?;
                let name = format!("unexpected/{hash}");
                let mut steps = vec![
                    Step::Claim {
                        name,
                        by: id.to_string(),
                    },
                    emit("payment.unexpected", hash.to_string(), &amount)?,
                ];
                if amount > 0 {
                    let at_ms = self.core.clock.now_ms();
                    steps.extend(treasury::suspend(id, -amount, hash, at_ms)?);
                }
                Ok(Some(steps))
            })
            .await;
        match booked {
            // Told a second time.
            Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => Ok(()),
            other => other.map(drop),
        }
    }
}
