//! A payout as a payment that leaves.

use async_trait::async_trait;

use super::{CHECK_JOB, PAYOUTS, Payout, PayoutOutcome, PayoutState, Settlement, SettlementError};
use crate::Error;
use crate::ids::PayoutId;
use crate::ledger::{Account, TransferKind};
use crate::payments::{Leaving, Outcome, Outgoing, Standing, Written};
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
            max_lock_blocks: self.max_lock_blocks,
            usage: Vec::new(),
            created_at_ms: self.created_at_ms,
            standing: self.state.into(),
            in_books: self.held_for.is_some(),
            attempts: self.attempts,
            holds: self.holds,
        }
    }

    fn written(&mut self) -> Written<'_> {
        Written {
            reason: &mut self.reason,
            route_fee_msat: &mut self.route_fee_msat,
            attempts: &mut self.attempts,
            by_book: &mut self.by_book,
        }
    }

    fn stands(&mut self, standing: Standing) {
        self.state = standing.into();
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
}
