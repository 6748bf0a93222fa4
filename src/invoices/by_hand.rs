//! What a person says of an invoice.

use serde::{Deserialize, Serialize};

use super::model::{Invoice, InvoiceState};
use super::payment::{InvoicePayment, MarkedAs};
use super::rules::{self, Fact, Verdict};
use super::taking::{decide, moment};
use super::{InvoiceError, Invoices};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, IdempotencyKey, Loaded, check_text};
use crate::ids::{InvoiceId, TransferId};

/// Gives up on a payment that is being taken and does not arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUpInvoice {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
    /// How it is known, for whoever reads the books; at most 200 characters.
    pub reason: String,
}

/// Says that an invoice is settled or invalid, whatever was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkInvoice {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
    /// Settled, invalid or cancelled; an invoice is given up by a call of its own.
    pub as_state: MarkedAs,
    /// How it is known, for whoever reads the books; at most 200 characters.
    pub reason: String,
}

impl Invoices {
    /// Gives up on a payment that is being taken (`processing`) and does not arrive: its sender
    /// has the money back, because the claim came too late. The hold ends. Should the money
    /// arrive after all, it goes to suspense. Issuer only.
    ///
    /// # Errors
    /// `invoice.not_found`, `invoice.not_processing`, `command.*`, `access.*`.
    pub async fn give_up(
        &self,
        credential: &Credential,
        command: GiveUpInvoice,
    ) -> Result<Answer<Invoice>, Error> {
        let (invoices, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = invoices.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_text("reason", &command.reason, 200, "200 characters")?;
                if invoices.core.lightning.is_some()
                    && let Some(found) = invoices.load(command.invoice).await?
                {
                    // What arrived after all is the invoice's.
                    invoices.book_if_arrived(&found.value).await?;
                }
                let decide = || async {
                    let invoice = invoices.require(command.invoice).await?;
                    let payments = &invoice.value.payments;
                    if !payments.iter().any(InvoicePayment::is_being_claimed) {
                        let (invoice, state) = (command.invoice, invoice.value.state);
                        return Err(InvoiceError::NotProcessing { invoice, state }.into());
                    }
                    let fact = Fact::Marked {
                        as_state: MarkedAs::GivenUp,
                        reason: &command.reason,
                    };
                    invoices.decide_fact(&invoice, &fact).await
                };
                let core = &invoices.core;
                let executed: Executed<Invoice> = core
                    .execute(&caller, "invoices.give_up", &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Says that an invoice is settled (paid in cash, or by a payment that is known from
    /// elsewhere) or invalid or cancelled. No money moves, and what else stands out about the
    /// invoice stays as it is; what is set aside for it goes back, what is being taken is taken to
    /// its end, and what comes from now on goes back, or to suspense. It can be said again, otherwise. Issuer only.
    ///
    /// # Errors
    /// `invoice.not_found`; `invoice.not_markable`: one that its payments settled is neither, one
    /// that is being paid is not cancelled; `command.*`, `access.*`.
    pub async fn mark(
        &self,
        credential: &Credential,
        command: MarkInvoice,
    ) -> Result<Answer<Invoice>, Error> {
        let (invoices, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = invoices.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_text("reason", &command.reason, 200, "200 characters")?;
                let decide = || async {
                    let invoice = invoices.require(command.invoice).await?;
                    if !is_markable(&invoice.value, command.as_state) {
                        let (invoice, state) = (command.invoice, invoice.value.state);
                        return Err(InvoiceError::NotMarkable { invoice, state }.into());
                    }
                    let fact = Fact::Marked {
                        as_state: command.as_state,
                        reason: &command.reason,
                    };
                    invoices.decide_fact(&invoice, &fact).await
                };
                let core = &invoices.core;
                let executed: Executed<Invoice> = core
                    .execute(&caller, "invoices.mark", &command.key, &command, decide)
                    .await?;
                invoices.return_cancelled(&executed.answer).await;
                Ok(executed.answer)
            })
            .await
    }

    /// What a command's fact comes to.
    pub(super) async fn decide_fact(
        &self,
        invoice: &Loaded<Invoice>,
        fact: &Fact<'_>,
    ) -> Result<Decision<Invoice>, Error> {
        let core = &self.core;
        let moment = moment(core, &invoice.value).await;
        let outcome = rules::transition(&invoice.value, fact, moment);
        if outcome.verdict != Verdict::Taken {
            let (invoice, state) = (invoice.value.id, invoice.value.state);
            return Err(InvoiceError::NotProcessing { invoice, state }.into());
        }
        let new_id = || core.new_id(TransferId::from_parts);
        let (answer, steps) = decide(core, invoice, outcome, &new_id).await?;
        Ok(Decision { steps, answer })
    }
}

fn is_markable(invoice: &Invoice, as_state: MarkedAs) -> bool {
    let marked = invoice.flags.marked.as_ref().map(|mark| mark.as_state);
    let by_payments = invoice.state == InvoiceState::Settled && marked.is_none();
    let is_paid = invoice.payments.iter().any(InvoicePayment::is_live);
    match as_state {
        MarkedAs::Settled => invoice.state != InvoiceState::Settled,
        MarkedAs::Invalid => !by_payments && marked != Some(MarkedAs::Invalid),
        MarkedAs::Cancelled => {
            let waits = matches!(invoice.state, InvoiceState::New | InvoiceState::Expired);
            waits && !is_paid
        }
        MarkedAs::GivenUp => false,
    }
}
