//! Hold invoices: their payment is set aside, and captured or given back later.
//!
//! Over Lightning nothing is claimed until it is captured, so that giving it back costs nothing.
//! It goes back by itself a margin of blocks before its deadline: a claim that comes too late is
//! none. By book it is a hold in the ledger.

use serde::{Deserialize, Serialize};

use super::model::Invoice;
use super::payment::{InvoicePaymentState, MarkedAs};
use super::rules::{self, Fact, Verdict};
use super::taking::{decide, moment};
use super::{HOLD_JOB, InvoiceError, Invoices, steps};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, IdempotencyKey};
use crate::ids::{InvoiceId, TransferId};
use crate::ledger::Step;

/// Takes what was set aside for a hold invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInvoice {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
}

/// Ends an invoice: what was set aside for it goes back to its sender, and it cannot be paid any
/// more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelInvoice {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
}

impl Invoices {
    /// Takes what was set aside for a hold invoice. The answer says `processing`; that the money
    /// is booked follows as an event. Whoever may make the invoice may capture it. What is within
    /// two blocks of its deadline is not taken any more: it goes back, since a claim could come
    /// too late. Over Lightning that is minutes after it came: see
    /// [`hold`](super::InvoiceOptions::hold).
    ///
    /// # Errors
    /// `invoice.not_found`, `invoice.not_authorized`, `invoice.capture_too_late`,
    /// `lightning.not_running` where the node that would know the best block is not here,
    /// `command.*`, `access.*`.
    pub async fn capture(
        &self,
        credential: &Credential,
        command: CaptureInvoice,
    ) -> Result<Answer<Invoice>, Error> {
        let (invoices, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = invoices.core.authenticate(&credential).await?;
                let found = invoices.require(command.invoice).await?;
                super::require_owner(&caller, found.value.purpose)?;
                let core = &invoices.core;
                let executed: Executed<Invoice> = core
                    .execute(&caller, "invoices.capture", &command.key, &command, || {
                        invoices.decide_capture(command.invoice)
                    })
                    .await?;
                // Whatever comes of it, the job that asks goes on.
                invoices.claim_captured(&executed.answer).await;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_capture(&self, id: InvoiceId) -> Result<Decision<Invoice>, Error> {
        let core = &self.core;
        let invoice = self.require(id).await?;
        require_authorized(&invoice.value)?;
        let mut payments = invoice.value.payments.iter();
        let has_deadline = payments.any(|paid| paid.claim_deadline_height.is_some());
        let height = match has_deadline {
            true => core.node()?.best_block_height().await?,
            false => None,
        };
        let moment = moment(core, &invoice.value).await;
        let outcome = rules::transition(&invoice.value, &Fact::Captured { height }, moment);
        if outcome.verdict != Verdict::Taken {
            return Err(InvoiceError::CaptureTooLate { invoice: id }.into());
        }
        let new_id = || core.new_id(TransferId::from_parts);
        let (answer, steps) = decide(core, &invoice, outcome, &new_id).await?;
        Ok(Decision { steps, answer })
    }

    async fn claim_captured(&self, invoice: &Invoice) {
        let Ok(node) = self.core.node() else { return };
        for payment in &invoice.payments {
            if let Some(hash) = payment.lightning_hash()
                && payment.state == InvoicePaymentState::Pending
            {
                let preimage = self.preimage_of(invoice, hash);
                drop(node.claim(hash, preimage, payment.claimable_msat()).await);
            }
        }
    }

    /// Ends an invoice that was not captured or paid: what was set aside goes back. Whoever may
    /// make the invoice may cancel it.
    ///
    /// # Errors
    /// `invoice.not_found`, `invoice.not_markable` when it is paid or being taken, `command.*`,
    /// `access.*`.
    pub async fn cancel(
        &self,
        credential: &Credential,
        command: CancelInvoice,
    ) -> Result<Answer<Invoice>, Error> {
        let (invoices, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = invoices.core.authenticate(&credential).await?;
                let found = invoices.require(command.invoice).await?;
                super::require_owner(&caller, found.value.purpose)?;
                let core = &invoices.core;
                let executed: Executed<Invoice> = core
                    .execute(&caller, "invoices.cancel", &command.key, &command, || {
                        invoices.decide_cancel(command.invoice)
                    })
                    .await?;
                invoices.return_cancelled(&executed.answer).await;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_cancel(&self, id: InvoiceId) -> Result<Decision<Invoice>, Error> {
        let invoice = self.require(id).await?;
        let is_paid =
            invoice.value.payments.iter().any(|payment| {
                payment.is_live() && payment.state != InvoicePaymentState::Authorized
            });
        if is_paid || invoice.value.flags.marked.is_some() {
            let (invoice, state) = (id, invoice.value.state);
            return Err(InvoiceError::NotMarkable { invoice, state }.into());
        }
        let fact = Fact::Marked {
            as_state: MarkedAs::Cancelled,
            reason: "",
        };
        self.decide_fact(&invoice, &fact).await
    }

    /// What was set aside and is to go back is given back at the node.
    pub(super) async fn return_cancelled(&self, invoice: &Invoice) {
        for payment in &invoice.payments {
            if let Some(hash) = payment.lightning_hash()
                && payment.state == InvoicePaymentState::Returning
            {
                // The job that asks goes on until it has.
                drop(self.give_back(invoice.id, hash).await);
            }
        }
    }

    /// The job that gives back what was set aside by book, when its time is over.
    pub(crate) async fn hold_over(&self, id: InvoiceId) -> Result<(), Error> {
        self.happen(id, &Fact::Due { height: None }).await?;
        let over = self.core.settle(|| async move {
            let found = self.load(id).await?;
            let waits = found.iter().flat_map(|found| &found.value.payments);
            let until_ms = waits
                .filter(|paid| paid.state == InvoicePaymentState::Authorized)
                .filter_map(|paid| paid.held_until_ms);
            let (kind, object) = (HOLD_JOB, id.to_string());
            let mut steps: Vec<Step> = found.iter().map(super::guard).collect();
            steps.push(match (until_ms.min(), &found) {
                (Some(at_ms), Some(found)) => steps::later(kind, &found.value, at_ms),
                _ => Step::Done { kind, object },
            });
            Ok(Some(steps))
        });
        over.await.map(drop)
    }

    /// What was set aside goes back while there is still time to.
    pub(super) async fn look_at_deadline(&self, invoice: &Invoice) -> Result<(), Error> {
        let height = self.core.node()?.best_block_height().await?;
        self.happen(invoice.id, &Fact::Due { height }).await?;
        let invoice = self.require(invoice.id).await?.value;
        self.return_cancelled(&invoice).await;
        Ok(())
    }
}

fn require_authorized(invoice: &Invoice) -> Result<(), InvoiceError> {
    let is_authorized = |state| state == InvoicePaymentState::Authorized;
    let mut states = invoice.payments.iter().map(|payment| payment.state);
    if states.any(is_authorized) {
        return Ok(());
    }
    let invoice = invoice.id;
    Err(InvoiceError::NotAuthorized { invoice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::InvoiceId;
    use crate::invoices::payment::{InvoicePayment, Rail};
    use crate::invoices::rules::Move;

    #[test]
    fn what_has_gone_back_is_one_payment_and_not_another_on_its_way() {
        let id = InvoiceId::from_parts(1, [0; 10]);
        let mut invoice: Invoice = serde_json::from_value(serde_json::json!({
            "id": id, "purpose": {"kind": "plain"}, "amount_msat": 1_000, "quote": null,
            "description": "", "payment_hash": "00".repeat(32), "bolt11": "", "state": "new",
            "created_at_ms": 0, "expires_at_ms": 1_000, "received_msat": 0,
        }))
        .unwrap();
        for reference in ["one", "two"] {
            let state = InvoicePaymentState::Returning;
            let reference = reference.to_owned();
            let paid = InvoicePayment::new(Rail::Lightning, reference, 1_000, state, 0);
            invoice.payments.push(paid);
        }
        let moment = rules::Moment {
            now_ms: 1,
            books_ms: 1,
            rate_moved_per_mille: None,
        };
        let returned = Fact::Returned {
            reference: "two".to_owned(),
        };
        let outcome = rules::transition(&invoice, &returned, moment);
        let states = outcome.after.payments.iter().map(|paid| paid.state);
        let expected = [InvoicePaymentState::Returning, InvoicePaymentState::Void];
        assert_eq!(states.collect::<Vec<_>>(), expected);
        assert_eq!(outcome.moves, [Move::Release(1)]);
    }
}
