//! A payout as a payment that leaves.

use async_trait::async_trait;

use super::{
    CHECK_JOB, PAYOUTS, PaidByBook, Payout, PayoutOutcome, PayoutState, Settlement, SettlementError,
};
use crate::Error;
use crate::ids::PayoutId;
use crate::ledger::{Account, TransferKind};
use crate::lightning::PaymentHash;
use crate::payments::{Attempts, Change, Leaving, Outcome, Outgoing, Standing};
use crate::store::StoreError;

impl From<PayoutState> for Standing {
    fn from(state: PayoutState) -> Self {
        match state {
            PayoutState::Sending => Self::Sending,
            PayoutState::Unknown => Self::Unknown,
            PayoutState::PaidOut => Self::Succeeded,
            PayoutState::Failed => Self::Failed,
        }
    }
}

impl From<Standing> for PayoutState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Sending => Self::Sending,
            Standing::Unknown => Self::Unknown,
            Standing::Succeeded => Self::PaidOut,
            Standing::Failed => Self::Failed,
        }
    }
}

impl From<PayoutOutcome> for Outcome {
    fn from(outcome: PayoutOutcome) -> Self {
        match outcome {
            PayoutOutcome::PaidOut { route_fee_msat } => Self::Succeeded { route_fee_msat },
            PayoutOutcome::Failed => Self::Failed,
        }
    }
}

#[async_trait]
impl Outgoing for Payout {
    const COLLECTION: &'static str = PAYOUTS;
    const CHECK_JOB: &'static str = CHECK_JOB;

    fn leaving(&self) -> Leaving<'_> {
        Leaving {
            id: self.id.to_string(),
            payment_hash: self.payment_hash,
            bolt11: &self.bolt11,
            payer: Account::merchant_payable(self.merchant),
            exchanged: None,
            kind: TransferKind::Payout,
            amount_msat: self.amount_msat,
            fee: (TransferKind::PayoutFee, self.fee_msat),
            max_route_fee_msat: self.max_route_fee_msat,
            // The operator pays the route out of its fee.
            route_payer: None,
            max_lock_blocks: None,
            usage: Vec::new(),
            created_at_ms: self.created_at_ms,
            standing: self.state.into(),
            in_books: self.held_for.is_some(),
            attempts: self.attempts,
            holds: self.holds,
        }
    }

    fn changed(&self, change: Change) -> Self {
        Self {
            state: change.standing.into(),
            reason: change.reason,
            route_fee_msat: change.route_fee_msat,
            ..self.clone()
        }
    }

    fn with_attempts(&self, attempts: Attempts) -> Self {
        Self {
            attempts,
            ..self.clone()
        }
    }

    fn with_proof(self, proof: PaidByBook) -> Self {
        Self {
            by_book: Some(proof),
            ..self
        }
    }

    fn owner_keys(&self) -> Vec<(&'static str, String)> {
        vec![("merchant", self.merchant.to_string())]
    }

    fn event(&self) -> (&'static str, String) {
        let kind = match self.state {
            PayoutState::Sending => "payout.sending",
            PayoutState::Unknown => "payout.unknown",
            PayoutState::PaidOut => "payout.paid_out",
            PayoutState::Failed => "payout.failed",
        };
        (kind, self.id.to_string())
    }

    fn missing(id: &str) -> Error {
        match id.parse() {
            Ok(payout) => SettlementError::PayoutNotFound { payout }.into(),
            Err(_) => StoreError::Corrupt {
                reason: format!("no payout {id}"),
            }
            .into(),
        }
    }

    fn has_ended(&self) -> Error {
        SettlementError::PayoutFinal { payout: self.id }.into()
    }

    fn is_in_flight(&self) -> Error {
        SettlementError::PayoutInFlight { payout: self.id }.into()
    }
}

impl Settlement {
    /// The job that asks what became of a payout.
    pub(crate) async fn check(&self, id: PayoutId) -> Result<(), Error> {
        self.payments.check::<Payout>(&id.to_string()).await
    }

    /// After a start: every open payout is asked about.
    pub(crate) async fn reconcile(&self) -> Result<Option<Error>, Error> {
        self.payments.reconcile::<Payout>().await
    }

    /// The node says that a payment of ours arrived. False when it is no payout.
    pub(crate) async fn sent(&self, hash: PaymentHash, fee: Option<i64>) -> Result<bool, Error> {
        self.payments.sent::<Payout>(hash, fee).await
    }

    /// The node says that an attempt failed for good. False when it is no payout.
    pub(crate) async fn attempt_failed(
        &self,
        hash: PaymentHash,
        reason: &str,
    ) -> Result<bool, Error> {
        self.payments.attempt_failed::<Payout>(hash, reason).await
    }
}
