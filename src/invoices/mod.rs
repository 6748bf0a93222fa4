//! Invoices: what is asked for, and what came of it.
//!
//! The engine makes the payment hash of an invoice from a preimage that only it can derive. A
//! payment is therefore first seen as *claimable*: the engine decides, commits the money on hold,
//! claims, and books it when the node says that it arrived. What is not taken goes back at no
//! cost.

mod error;
mod model;
mod rules;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::cards::{self, Card};
use crate::core::{
    Answer, Caller, CommandError, Core, Decision, Executed, Loaded, check_text, emit,
};
use crate::ids::{InvoiceId, TransferId};
use crate::ledger::Step;
use crate::lightning::{InvoiceRequest, LightningError, PaymentHash, PaymentState};
use crate::rates::price_in_msat;
use crate::settlement;

pub use error::InvoiceError;
pub use model::{CreateInvoice, Invoice, InvoicePurpose, InvoiceState};
use rules::Incoming;
pub(crate) use rules::payment_claim;

pub(crate) const INVOICES: &str = "invoice";
pub(crate) const EXPIRE_JOB: &str = "invoice.expire";

const MAX_DESCRIPTION: usize = 200;
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
                invoices.check(&caller, &command).await?;
                let executed: Executed<Invoice> = invoices
                    .core
                    .execute(&caller, "invoices.create", &command.key, &command, || {
                        invoices.decide_create(&command)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn check(&self, caller: &Caller, command: &CreateInvoice) -> Result<(), Error> {
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
        let id = core.new_id(InvoiceId::from_parts)?;
        let payment_hash = core.secrets.preimage(id).payment_hash();
        // Made before the commit: without one nobody learns of it, and it cannot be claimed.
        let bolt11 = core
            .node()?
            .create_invoice(InvoiceRequest {
                payment_hash,
                amount_msat: Some(amount_msat),
                description: command.description.clone(),
                expiry_seconds: command.expiry_seconds,
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
            expires_at_ms: now_ms.saturating_add(i64::from(command.expiry_seconds) * 1_000),
            received_msat: 0,
            hold: None,
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

    async fn load(&self, id: InvoiceId) -> Result<Option<Loaded<Invoice>>, Error> {
        self.core.load(INVOICES, &id.to_string()).await
    }

    async fn by_hash(&self, hash: PaymentHash) -> Result<Option<Loaded<Invoice>>, Error> {
        self.core
            .find(INVOICES, "payment_hash", &hash.to_string())
            .await
    }

    /// A payment waits: decide, commit, then claim or give it back. Called again for the same
    /// payment, it comes to the same end.
    pub(crate) async fn claimable(&self, hash: PaymentHash, amount_msat: i64) -> Result<(), Error> {
        let accepted = self
            .core
            .settle(|| async move {
                let Some(invoice) = self.by_hash(hash).await? else {
                    return Ok(None);
                };
                let now_ms = self.core.clock.now_ms();
                if rules::incoming(&invoice.value, amount_msat, now_ms) != Incoming::Accept {
                    return Ok(None);
                }
                self.accept(&invoice).await
            })
            .await;
        match accepted {
            Ok(_) => {}
            // A guard said no (the card is full, the hash is taken by book): it goes back.
            Err(Error::Ledger(refusal)) if !refusal.should_decide_again() => {}
            Err(Error::Card(_)) => {}
            Err(error) => return Err(error),
        }
        // What stands in the books now says what is done with the payment.
        let node = self.core.node()?;
        match self.by_hash(hash).await? {
            Some(Loaded { value, .. }) if value.state == InvoiceState::Processing => {
                node.claim(hash, self.core.secrets.preimage(value.id), amount_msat)
                    .await?;
            }
            _ => match node.fail(hash).await {
                // The node knows nothing of it: there is nothing to give back.
                Ok(()) | Err(LightningError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }

    async fn accept(&self, invoice: &Loaded<Invoice>) -> Result<Option<Vec<Step>>, Error> {
        let hold = self.core.new_id(TransferId::from_parts)?;
        let mut ceiling = None;
        let mut steps = Vec::new();
        if let InvoicePurpose::TopUp { card } = invoice.value.purpose {
            let card: Loaded<Card> = cards::load_active(&self.core, card).await?;
            ceiling = card.value.limits.max_balance_msat;
            steps.push(cards::guard(&card));
        }
        steps.extend(rules::accept(invoice, hold, ceiling)?);
        Ok(Some(steps))
    }

    /// Money arrived: book it where it belongs, or in suspense.
    pub(crate) async fn received(&self, hash: PaymentHash, amount_msat: i64) -> Result<(), Error> {
        let booked = self
            .core
            .settle(|| async move {
                let id = self.core.new_id(TransferId::from_parts)?;
                let surplus = self.core.new_id(TransferId::from_parts)?;
                match self.by_hash(hash).await? {
                    Some(invoice) if rules::was_accepted(&invoice.value) => {
                        rules::received(&invoice, amount_msat, id, surplus)
                    }
                    _ => Ok(Some(vec![
                        Step::Claim {
                            name: payment_claim(hash),
                            by: id.to_string(),
                        },
                        rules::unmatched(id, amount_msat, hash.to_string()),
                        emit("payment.unmatched", hash.to_string(), &amount_msat)?,
                    ])),
                }
            })
            .await;
        match booked {
            // Told a second time.
            Err(Error::Ledger(crate::ledger::Refusal::AlreadyClaimed { .. })) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The job that ends an invoice's time.
    pub(crate) async fn expire(&self, id: InvoiceId) -> Result<(), Error> {
        self.core
            .settle(|| async move {
                let now_ms = self.core.clock.now_ms();
                match self.load(id).await? {
                    Some(invoice) => rules::expire(&invoice, now_ms).map(Some),
                    None => Ok(Some(vec![Step::Done {
                        kind: EXPIRE_JOB,
                        object: id.to_string(),
                    }])),
                }
            })
            .await
            .map(drop)
    }

    /// After a start: a payment that was being taken is claimed again, and booked if the node
    /// has it. Events that wait in the node's queue say the same; whichever comes second changes
    /// nothing.
    pub(crate) async fn reconcile(&self) -> Result<(), Error> {
        let node = self.core.node()?;
        let mut after = None;
        loop {
            let state = rules::state_key(InvoiceState::Processing);
            let page: Vec<Invoice> = self.core.list(INVOICES, "state", state, after, 100).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id.to_string());
            for invoice in &page {
                let (hash, amount_msat) = (invoice.payment_hash, invoice.amount_msat);
                match node.payment(hash).await? {
                    Some(record) if record.state == PaymentState::Succeeded => {
                        self.received(hash, record.amount_msat.unwrap_or(amount_msat))
                            .await?;
                    }
                    _ => {
                        let preimage = self.core.secrets.preimage(invoice.id);
                        node.claim(hash, preimage, amount_msat).await?;
                    }
                }
            }
        }
    }
}
