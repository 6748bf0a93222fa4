//! Hold invoices: their payment is set aside, and captured or given back later.
//!
//! Over Lightning nothing is claimed until it is captured, so that giving it back costs nothing.
//! It goes back by itself a margin of blocks before its deadline: a claim that comes too late is
//! none. By book it is a hold in the ledger.

use serde::{Deserialize, Serialize};

use super::model::Invoice;
use super::payment::{InvoicePaymentState, MarkedAs};
use super::rules::{Fact, HOLD_MARGIN_BLOCKS};
use super::{InvoiceError, Invoices};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, IdempotencyKey};
use crate::ids::InvoiceId;

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
    /// is booked follows as an event. Whoever may make the invoice may capture it.
    ///
    /// # Errors
    /// `invoice.not_found`, `invoice.not_authorized`, `command.*`, `access.*`.
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
                let decide = || async {
                    let invoice = invoices.require(command.invoice).await?;
                    require_authorized(&invoice.value)?;
                    invoices.decide_fact(&invoice, &Fact::Captured).await
                };
                let core = &invoices.core;
                let executed: Executed<Invoice> = core
                    .execute(&caller, "invoices.capture", &command.key, &command, decide)
                    .await?;
                // Whatever comes of it, the job that asks goes on.
                invoices.claim_captured(&executed.answer).await;
                Ok(executed.answer)
            })
            .await
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

    async fn return_cancelled(&self, invoice: &Invoice) {
        for payment in &invoice.payments {
            if let Some(hash) = payment.lightning_hash()
                && payment.state == InvoicePaymentState::Returning
            {
                // The job that asks goes on until it has.
                drop(self.give_back(invoice.id, hash).await);
            }
        }
    }

    /// What was set aside goes back while there is still time to.
    pub(super) async fn look_at_deadline(
        &self,
        invoice: &Invoice,
        deadline_height: Option<u32>,
    ) -> Result<(), Error> {
        let height = self.core.node()?.best_block_height().await?;
        let (Some(deadline), Some(height)) = (deadline_height, height) else {
            return Ok(());
        };
        if height.saturating_add(HOLD_MARGIN_BLOCKS) < deadline {
            return Ok(());
        }
        self.happen(invoice.id, &Fact::GivenBack).await?;
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
