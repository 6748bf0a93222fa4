//! Invoices: what is asked for, and what came of it.
//!
//! The engine makes the payment hash of an invoice from a preimage that only it can derive. A
//! payment is therefore first seen as *claimable*: the engine decides, commits the money on hold,
//! claims, and books it when the node says that it arrived. What is not taken goes back at no
//! cost.

mod by_book;
mod by_lnurl;
mod error;
mod model;
mod rules;
mod taking;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::cards;
use crate::core::{Answer, Caller, CommandError, Core, Decision, Executed, Loaded, check_text};
use crate::ids::InvoiceId;
use crate::lightning::InvoiceRequest;
use crate::rates::price_in_msat;
use crate::settlement;

pub(crate) use by_book::{own_invoice, pay_by_book, proof};
pub(crate) use by_lnurl::top_up_by_lnurl;
pub use error::InvoiceError;
pub use model::{CreateInvoice, GiveUpInvoice, Invoice, InvoicePurpose, InvoiceState};

pub(crate) const INVOICES: &str = "invoice";
pub(crate) const EXPIRE_JOB: &str = "invoice.expire";
pub(crate) const CHECK_JOB: &str = "invoice.check";

const MAX_DESCRIPTION: usize = 200;
/// What fits into a BOLT 11 text.
const MAX_DESCRIPTION_BYTES: usize = 639;
const EXPIRY_SECONDS: std::ops::RangeInclusive<u32> = 60..=7 * 24 * 3_600;

/// The handle for invoices.
#[derive(Clone)]
pub struct Invoices {
    core: Arc<Core>,
}

impl Invoices {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Makes an invoice.
    ///
    /// A sale is made by the issuer or a till of the merchant; a top-up by the issuer, the holder
    /// or any till.
    ///
    /// # Errors
    /// `access.*`, `money.*`, `rate.*`, `command.*`, `lightning.not_running`,
    /// `settlement.merchant_not_found`, `card.not_found`, `card.not_active`.
    pub async fn create(
        &self,
        credential: &Credential,
        command: CreateInvoice,
    ) -> Result<Answer<Invoice>, Error> {
        let (invoices, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = invoices.core.authenticate(&credential).await?;
                invoices.check_command(&caller, &command).await?;
                let executed: Executed<Invoice> = invoices
                    .core
                    .execute_new(&caller, "invoices.create", &command.key, &command, || {
                        invoices.decide_create(&command)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn check_command(&self, caller: &Caller, command: &CreateInvoice) -> Result<(), Error> {
        match command.purpose {
            InvoicePurpose::Sale { merchant } => caller.require_seller(merchant)?,
            InvoicePurpose::TopUp { card } => {
                if caller.require_till().is_err() {
                    caller.require_issuer_or_holder(card)?;
                }
            }
        }
        check_text(
            "description",
            &command.description,
            MAX_DESCRIPTION,
            "200 characters",
        )?;
        if command.description.len() > MAX_DESCRIPTION_BYTES {
            let (field, bounds) = ("description", "639 bytes");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        if !EXPIRY_SECONDS.contains(&command.expiry_seconds) {
            let (field, bounds) = ("expiry_seconds", "60 seconds to 7 days");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        Ok(())
    }

    async fn decide_create(&self, command: &CreateInvoice) -> Result<Decision<Invoice>, Error> {
        let core = &self.core;
        let owner = match command.purpose {
            InvoicePurpose::Sale { merchant } => settlement::guard_merchant(core, merchant).await?,
            InvoicePurpose::TopUp { card } => cards::guard_active(core, card).await?,
        };
        let now_ms = core.clock.now_ms();
        let (amount_msat, quote) = price_in_msat(
            core.rates.as_ref(),
            &command.price,
            core.settings.rates,
            now_ms,
        )
        .await?;
        let expiry_seconds = rules::expiry(command.expiry_seconds, quote.as_ref(), now_ms);
        let id = core.new_id(InvoiceId::from_parts)?;
        let payment_hash = core.secrets.preimage(id).payment_hash();
        // Made before the commit: without one nobody learns of it, and it cannot be claimed.
        let bolt11 = core
            .node()?
            .create_invoice(InvoiceRequest {
                payment_hash,
                amount_msat: Some(amount_msat),
                description: command.description.clone(),
                description_hash: None,
                expiry_seconds,
            })
            .await?;
        let invoice = Invoice {
            id,
            purpose: command.purpose,
            price: command.price,
            amount_msat,
            quote,
            description: command.description.clone(),
            payment_hash,
            bolt11,
            state: InvoiceState::New,
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(i64::from(expiry_seconds) * 1_000),
            received_msat: 0,
            hold: None,
            top_up_address: None,
        };
        let mut steps = vec![owner];
        steps.extend(rules::create(&invoice)?);
        Ok(Decision {
            steps,
            answer: invoice,
        })
    }

    /// An invoice as it stands now.
    ///
    /// # Errors
    /// `invoice.not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        invoice: InvoiceId,
    ) -> Result<Answer<Invoice>, Error> {
        let caller = self.core.authenticate(credential).await?;
        let as_of_ms = self.core.clock.now_ms();
        let found = self
            .load(invoice)
            .await?
            .ok_or(InvoiceError::NotFound { invoice })?;
        match found.value.purpose {
            InvoicePurpose::Sale { merchant } => caller.require_seller(merchant)?,
            InvoicePurpose::TopUp { card } => caller
                .require_issuer_or_holder(card)
                .or_else(|error| caller.require_till().map(drop).map_err(|_| error))?,
        }
        Ok(Answer {
            as_of_ms,
            value: found.value,
        })
    }

    /// The invoices of one merchant or for one card, oldest first, after the invoice `after`; at
    /// most `limit` (1 to 1,000).
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list(
        &self,
        credential: &Credential,
        purpose: InvoicePurpose,
        after: Option<InvoiceId>,
        limit: usize,
    ) -> Result<Answer<Vec<Invoice>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        match purpose {
            InvoicePurpose::Sale { merchant } => caller.require_seller(merchant)?,
            InvoicePurpose::TopUp { card } => caller.require_issuer_or_holder(card)?,
        }
        let as_of_ms = self.core.clock.now_ms();
        let after = after.map(|id| id.to_string());
        let value = self
            .core
            .list(INVOICES, "owner", &purpose.owner_id(), after, limit)
            .await?;
        Ok(Answer { as_of_ms, value })
    }

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
                    let invoice = command.invoice;
                    let found = invoices.load(invoice).await?;
                    rules::give_up(&found.ok_or(InvoiceError::NotFound { invoice })?)
                };
                let executed: Executed<Invoice> = invoices
                    .core
                    .execute(&caller, "invoices.give_up", &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn load(&self, id: InvoiceId) -> Result<Option<Loaded<Invoice>>, Error> {
        self.core.load(INVOICES, &id.to_string()).await
    }
}
