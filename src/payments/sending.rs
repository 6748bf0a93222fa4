//! Sending a payment: effect and outcome.
//!
//! What a node says of a payment is read with care:
//!
//! - A refusal means that *this call* sent nothing. Only when no earlier call can have been made
//!   is it a failure: the first call, by the process that has just committed the intent; or, where
//!   the node is in another instance, by the one that has just counted it as the first.
//! - No record at the node proves nothing, since a node hands a payment to the network before it
//!   writes its record. The node is asked to send again instead: it is idempotent by payment
//!   hash, and answers that it knows the payment while it is on its way.
//! - A failure ends an attempt. Whether it ends the payment is in the count of attempts, which is
//!   committed before each one: see [`rules::after_failure`]. Sending and judging a failure
//!   exclude each other.

use std::sync::Arc;

use super::model::{Attempts, Change, Leaving, Outcome, Outgoing, Standing};
use super::rules::{self, AfterFailure};
use crate::Error;
use crate::core::{Core, Decision, Loaded, Turns, emit};
use crate::ids::TransferId;
use crate::ledger::{AccountKind, Refusal, Step};
use crate::lightning::{
    Bolt11Details, Dispatch, PaymentDirection, PaymentHash, PaymentRecord, PaymentRequest,
    PaymentState,
};
use crate::treasury;

/// Whether an earlier call to the node can have been made for the same payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// No: this process has just committed the intent.
    First,
    /// Perhaps.
    Again,
}

/// How often more the points of a payment that arrived are decided: each time there was too little in one
/// place, others had moved it to another. A merchant that has nothing anywhere costs as many commits.
const POINTS_DECISIONS: usize = 4;

/// Whether what else belongs to a success is posted with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Besides {
    Posted,
    LeftOut,
}

/// What sends payments and finds out what became of them.
#[derive(Clone)]
pub(crate) struct Payments {
    pub(super) core: Arc<Core>,
    /// One at a time asks the node to send or decides what a failure means.
    pub(super) sending: Turns,
}

impl Payments {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            sending: Turns::default(),
        }
    }

    pub(crate) async fn load<P: Outgoing>(&self, id: &str) -> Result<Loaded<P>, Error> {
        let found = self.core.load(P::COLLECTION, id).await?;
        found.ok_or_else(|| P::missing(id))
    }

    pub(crate) async fn by_hash<P: Outgoing>(
        &self,
        hash: PaymentHash,
    ) -> Result<Option<Loaded<P>>, Error> {
        self.core
            .find(P::COLLECTION, "payment_hash", &hash.to_string())
            .await
    }

    /// When the node is to be asked first about what is intended now. Where another instance has
    /// the node, that one sends it when it looks for due jobs.
    pub(crate) fn first_check_at(&self) -> i64 {
        let now_ms = self.core.clock.now_ms();
        if self.core.node_is_away() {
            now_ms
        } else {
            now_ms.saturating_add(self.core.settings.unknown_retry_ms)
        }
    }

    /// What is written down of attempts with what is intended now. Where another instance has the
    /// node, none follows at once.
    pub(crate) fn first_attempts(&self) -> Attempts {
        if self.core.node_is_away() {
            Attempts::none()
        } else {
            Attempts::default()
        }
    }

    /// Asks the node to send, and writes down what that proves.
    pub(crate) async fn send<P: Outgoing>(&self, id: &str, attempt: Attempt) -> Result<(), Error> {
        let _one_at_a_time = self.sending.take().await;
        let payment = self.load::<P>(id).await?.value;
        let leaving = payment.leaving();
        if leaving.standing.is_final() || leaving.in_books {
            return Ok(());
        }
        let before = leaving.attempts;
        // A job may have come before the first attempt.
        let is_first = attempt == Attempt::First && leaving.standing == Standing::Sending;
        let attempt = if is_first && before == Attempts::default() {
            Attempt::First
        } else {
            Attempt::Again
        };
        if before == Attempts::none() && self.peers_are_away(&leaving).await? {
            return self
                .doubt::<P>(id, "the node's peers are not here yet")
                .await;
        }
        let begun = match attempt {
            Attempt::First => before,
            Attempt::Again => before.begin(),
        };
        if attempt == Attempt::Again && !self.note::<P>(id, before, begun).await? {
            // It ended in between, or another instance has begun one.
            return Ok(());
        }
        let has_amount = leaving
            .bolt11
            .parse::<Bolt11Details>()?
            .amount_msat
            .is_some();
        let request = PaymentRequest {
            bolt11: leaving.bolt11.to_owned(),
            amount_msat: (!has_amount).then_some(leaving.amount_msat),
            max_fee_msat: leaving.max_route_fee_msat,
            max_lock_blocks: leaving.max_lock_blocks,
        };
        match (self.core.node()?.pay(request).await, attempt) {
            // The job that was set with the intent asks again, should the event not come.
            (Ok(Dispatch::Accepted | Dispatch::AlreadyKnown), Attempt::First) => Ok(()),
            (Ok(Dispatch::Accepted), Attempt::Again) => {
                let accepted = before.accepted();
                self.note::<P>(id, begun, accepted).await.map(drop)
            }
            (Ok(Dispatch::AlreadyKnown), Attempt::Again) => {
                // Only a record of it says that the attempt it knows is the last one.
                let record = self.record(leaving.payment_hash).await?;
                let is_recorded =
                    record.is_some_and(|record| record.state == PaymentState::Pending);
                let known = before.known(is_recorded);
                self.note::<P>(id, begun, known).await.map(drop)
            }
            (Ok(Dispatch::Refused { reason }), _) if begun.begun <= 1 => {
                self.fail_unsent::<P>(id, begun, &reason).await
            }
            (Ok(Dispatch::Refused { reason }), _) => {
                self.note::<P>(id, begun, before).await?;
                self.doubt::<P>(id, &reason).await
            }
            (Err(error), _) => self.doubt::<P>(id, &error.to_string()).await,
        }
    }

    /// True while the node has the money in channels that cannot be used now. One that has just
    /// taken the place of another would refuse what it can send a moment later.
    async fn peers_are_away(&self, leaving: &Leaving<'_>) -> Result<bool, Error> {
        let balances = self.core.node()?.balances().await?;
        let needed_msat = leaving.amount_msat;
        Ok(balances.outbound_capacity_msat < needed_msat && balances.channels_msat >= needed_msat)
    }

    /// False when there was nothing to write down: the payment has ended, or its attempts are no
    /// more as they were `before`.
    async fn note<P: Outgoing>(
        &self,
        id: &str,
        before: Attempts,
        after: Attempts,
    ) -> Result<bool, Error> {
        let decide = || async { rules::note_attempts(&self.load::<P>(id).await?, before, after) };
        Ok(self.core.settle(decide).await?.is_some())
    }

    async fn fail<P: Outgoing>(&self, id: &str, reason: &str) -> Result<(), Error> {
        let decide = || async {
            let payment = self.load::<P>(id).await?;
            let besides = payment
                .value
                .when_ended(&self.core, Standing::Failed)
                .await?;
            rules::failed(&payment, reason, besides)
        };
        self.core.settle(decide).await.map(drop)
    }

    /// The first call sent nothing. Should another instance have begun an attempt meanwhile (this
    /// one was paused, and lost the node), that proves nothing of it.
    async fn fail_unsent<P: Outgoing>(
        &self,
        id: &str,
        begun: Attempts,
        reason: &str,
    ) -> Result<(), Error> {
        let decide = || async {
            let payment = self.load::<P>(id).await?;
            if payment.value.leaving().attempts != begun {
                return Ok(None);
            }
            let besides = payment
                .value
                .when_ended(&self.core, Standing::Failed)
                .await?;
            rules::failed(&payment, reason, besides)
        };
        self.core.settle(decide).await.map(drop)
    }

    async fn doubt<P: Outgoing>(&self, id: &str, reason: &str) -> Result<(), Error> {
        let decide = || async {
            let payment = self.load::<P>(id).await?;
            let since_ms = payment.value.leaving().created_at_ms;
            rules::unknown(&payment, reason, self.core.ask_again_at(since_ms))
        };
        self.core.settle(decide).await.map(drop)
    }

    async fn succeed<P: Outgoing>(
        &self,
        id: &str,
        route_fee_msat: Option<i64>,
    ) -> Result<(), Error> {
        with_or_without(|besides| self.record_success::<P>(id, route_fee_msat, besides)).await
    }

    async fn record_success<P: Outgoing>(
        &self,
        id: &str,
        route_fee_msat: Option<i64>,
        besides: Besides,
    ) -> Result<(), Error> {
        let decide = || async {
            let payment = self.load::<P>(id).await?;
            if payment.value.leaving().standing.is_final() {
                return Ok(None);
            }
            let (_, steps) = self
                .arrived(&payment, route_fee_msat, None, besides)
                .await?;
            Ok(Some(steps))
        };
        self.core.settle(decide).await.map(drop)
    }

    async fn arrived<P: Outgoing>(
        &self,
        payment: &Loaded<P>,
        route_fee_msat: Option<i64>,
        reason: Option<String>,
        besides: Besides,
    ) -> Result<(P, Vec<Step>), Error> {
        let after = payment.value.changed(Change {
            standing: Standing::Succeeded,
            reason,
            route_fee_msat,
        });
        let (after, mut exchanged) = after.exchanged(&self.core).await?;
        let (after, besides) = match besides {
            Besides::Posted => after.when_succeeded(&self.core).await?,
            Besides::LeftOut => after.left_out(&self.core).await?,
        };
        exchanged.extend(besides);
        let mut besides = exchanged;
        let ended = payment.value.when_ended(&self.core, Standing::Succeeded);
        besides.extend(ended.await?);
        let new_id = || self.core.new_id(TransferId::from_parts);
        let steps = rules::arrived(payment, &after, route_fee_msat, besides, new_id)?;
        Ok((after, steps))
    }

    /// A person says what became of it. `asks_the_node` when that must not contradict the node's
    /// record; `besides` when what else belongs to it is posted. Nothing may be sent meanwhile.
    pub(super) async fn resolve<P: Outgoing>(
        &self,
        id: &str,
        outcome: Outcome,
        reason: &str,
        (asks_the_node, besides): (bool, Besides),
    ) -> Result<Decision<P>, Error> {
        let payment = self.load::<P>(id).await?;
        let hash = payment.value.leaving().payment_hash;
        // Where the node is elsewhere nobody can be asked, and nothing is taken for granted.
        let record = if asks_the_node {
            self.record(hash).await?.map(|record| record.state)
        } else {
            None
        };
        rules::check_resolve(&payment.value, outcome, record)?;
        let reason = Some(reason.to_owned());
        let (answer, steps) = match outcome {
            Outcome::Succeeded { route_fee_msat } => {
                self.arrived(&payment, route_fee_msat, reason, besides)
                    .await?
            }
            Outcome::Failed => {
                let besides = payment
                    .value
                    .when_ended(&self.core, Standing::Failed)
                    .await?;
                rules::came_back(&payment, reason, besides)?
            }
        };
        Ok(Decision { steps, answer })
    }

    async fn record(&self, hash: PaymentHash) -> Result<Option<PaymentRecord>, Error> {
        let record = self.core.node()?.payment(hash).await?;
        Ok(record.filter(|record| record.direction == PaymentDirection::Outbound))
    }

    /// The job that asks what became of a payment.
    pub(crate) async fn check<P: Outgoing>(&self, id: &str) -> Result<(), Error> {
        let payment = self.load::<P>(id).await?.value;
        let leaving = payment.leaving();
        if leaving.standing.is_final() || leaving.in_books {
            let done = rules::check_no_more::<P>(id.to_owned());
            return self.core.commit(vec![done]).await.map(drop);
        }
        match self.record(leaving.payment_hash).await? {
            Some(record) if record.state == PaymentState::Succeeded => {
                self.succeed::<P>(id, record.fee_msat).await
            }
            Some(record) if record.state == PaymentState::Pending => Ok(()),
            // `Failed` proves nothing either: the node writes it for an attempt that it refused,
            // while an earlier one may be on its way. Only the event tells of an attempt's end.
            _ => self.send::<P>(id, Attempt::Again).await,
        }
    }

    /// After a start: every open payment is asked about. One that cannot be dealt with does not
    /// keep the others waiting; its job stays and tries again.
    pub(crate) async fn reconcile<P: Outgoing>(&self) -> Result<Option<Error>, Error> {
        let (mut after, mut problem) = (None, None);
        loop {
            let page = self
                .core
                .list_each::<P>(P::COLLECTION, "state", "open", after, 100)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(problem);
            };
            after = Some(last.clone());
            for (id, payment) in page {
                let checked = match payment {
                    Ok(_) => self.check::<P>(&id).await,
                    Err(unreadable) => Err(unreadable),
                };
                problem = checked.err().or(problem);
            }
        }
    }

    /// The node says that a payment of ours arrived. False when there is none of this kind.
    pub(super) async fn sent<P: Outgoing>(
        &self,
        hash: PaymentHash,
        fee_msat: Option<i64>,
    ) -> Result<bool, Error> {
        let found = self.by_hash::<P>(hash).await?;
        let Some(payment) = found.filter(|payment| !payment.value.leaving().in_books) else {
            return Ok(false);
        };
        let id = payment.value.leaving().id;
        self.succeed::<P>(&id, fee_msat).await?;
        // Now it has ended. A person may have said that it failed, also while this was decided.
        let ended = self.load::<P>(&id).await?.value;
        let ended = ended.leaving();
        if ended.standing == Standing::Failed {
            self.unexpected(hash, Some(ended.amount_msat), fee_msat)
                .await?;
        }
        Ok(true)
    }

    /// The node says that an attempt failed for good. False when there is no payment of this kind.
    pub(super) async fn attempt_failed<P: Outgoing>(
        &self,
        hash: PaymentHash,
        reason: &str,
    ) -> Result<bool, Error> {
        let _one_at_a_time = self.sending.take().await;
        let found = self.by_hash::<P>(hash).await?;
        let Some(payment) = found.filter(|payment| !payment.value.leaving().in_books) else {
            return Ok(false);
        };
        let leaving = payment.value.leaving();
        let id = leaving.id;
        let record = self.record(hash).await?;
        let state = record.as_ref().map(|record| record.state);
        match rules::after_failure(leaving.attempts, state) {
            AfterFailure::Succeeded => {
                let fee_msat = record.and_then(|record| record.fee_msat);
                self.succeed::<P>(&id, fee_msat).await?;
            }
            AfterFailure::Failed => self.fail::<P>(&id, reason).await?,
            AfterFailure::OnItsWay => {}
            AfterFailure::Doubt => self.doubt::<P>(&id, reason).await?,
        }
        Ok(true)
    }

    /// Money left the node and no open payment is behind it: it is booked against suspense, and
    /// waits for a person.
    pub(super) async fn unexpected(
        &self,
        hash: PaymentHash,
        amount_msat: Option<i64>,
        fee_msat: Option<i64>,
    ) -> Result<(), Error> {
        let amount_msat = match amount_msat {
            Some(known) => Some(known),
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

/// Has a success recorded by `record` with what else is posted for it, or, where that is refused,
/// without: that it arrived is true all the same.
pub(super) async fn with_or_without<T, F, Fut>(record: F) -> Result<T, Error>
where
    F: Fn(Besides) -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut recorded = record(Besides::Posted).await;
    // Where others moved the money of the points in between, it may be elsewhere.
    for _ in 0..POINTS_DECISIONS {
        if !recorded.as_ref().is_err_and(lacks_points) {
            break;
        }
        recorded = record(Besides::Posted).await;
    }
    match recorded {
        Err(error) if is_refused(&error) => record(Besides::LeftOut).await,
        recorded => recorded,
    }
}

/// True where the points were to come out of what a merchant put aside, or has here, and there is not
/// enough in it.
fn lacks_points(error: &Error) -> bool {
    match error {
        Error::Ledger(Refusal::InsufficientFunds { account, .. }) => matches!(
            account.kind(),
            AccountKind::RewardBudget | AccountKind::MerchantPayable
        ),
        _ => false,
    }
}

/// True of what would be refused the next time as well.
fn is_refused(error: &Error) -> bool {
    match error {
        Error::Ledger(refusal) => !refusal.should_decide_again(),
        Error::Reward(_) | Error::Settlement(_) | Error::Card(_) | Error::Money(_) => true,
        _ => false,
    }
}
