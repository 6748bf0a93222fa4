//! Invoices: what is asked for, and what came of it.
//!
//! The engine makes the payment hash of an invoice from a preimage that only it can derive. A
//! payment is therefore first seen as *claimable*: the engine decides, commits the money on hold,
//! claims, and books it when the node says that it arrived. What is not taken goes back at no
//! cost.

mod by_book;
mod by_hand;
mod by_lnurl;
mod chain_rules;
mod error;
mod facts;
mod given_address;
mod holding;
mod model;
mod moved;
mod on_chain;
mod options;
mod own_wallet;
mod payment;
mod policy;
mod rails;
mod refunded;
mod rules;
mod search;
mod sharing;
mod standing;
mod steps;
mod taking;

use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::access::Credential;
use crate::cards;
use crate::core::{Answer, Caller, CommandError, Core, Decision, Executed, Loaded, check_text};
use crate::ids::{InvoiceId, MerchantId};
use crate::ledger::Step;
use crate::money::Quote;
use crate::rates::price_in_msat;
use crate::settlement;

pub(crate) use by_book::{own_invoice, pay_by_book, proof};
pub use by_hand::{GiveUpInvoice, MarkInvoice};
pub(crate) use by_lnurl::{AskedByLnurl, released};
pub use error::InvoiceError;
pub use facts::{OnChainFact, OnChainPlace, Outpoint, ParseOutpointError};
pub use holding::{CancelInvoice, CaptureInvoice};
pub use model::{
    CreateInvoice, Custody, Invoice, InvoicePurpose, InvoiceState, LightningRail, OfferRail,
    OnChainRail, UnavailableRail,
};
pub use options::{
    ConfirmationTier, GivenAddress, InvoiceLine, InvoiceOptions, PaymentRules, SurplusTo,
};
pub use payment::{InvoiceFlags, InvoiceMark, InvoicePayment, InvoicePaymentState, MarkedAs, Rail};
pub use policy::{InvoicePolicy, SetInvoicePolicy};
pub(crate) use refunded::{RefundEntry, Refundable, refundable, with_refund, without_refund};
pub use search::{InvoiceFilter, InvoiceOwner, InvoicePosition, InvoiceResults};

pub(crate) const INVOICES: &str = "invoice";
pub(crate) const EXPIRE_JOB: &str = "invoice.expire";
pub(crate) const CHECK_JOB: &str = "invoice.check";
pub(crate) const HOLD_JOB: &str = "invoice.hold";
pub(crate) const MONITOR_JOB: &str = "invoice.monitor";
pub(crate) const RAIL_JOB: &str = "invoice.rail";

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
    /// A sale or a contribution is made by the issuer or a till of the merchant; a top-up by the
    /// issuer, the holder or any till; a plain one by the issuer.
    ///
    /// # Errors
    /// `access.*`, `money.*`, `rate.*`, `command.*`, `settlement.merchant_not_found`,
    /// `card.not_found`, `card.not_active`, `invoice.lines_do_not_add_up`. Where no rail can be
    /// made, why the first one cannot: `lightning.not_running`,
    /// `lightning.no_inbound_capacity`, `chain.*`.
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
                let tried = Mutex::default();
                let executed: Executed<Invoice> = invoices
                    .core
                    .execute_new(&caller, "invoices.create", &command.key, &command, || {
                        invoices.decide_create(&command, &tried)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn check_command(&self, caller: &Caller, command: &CreateInvoice) -> Result<(), Error> {
        match command.purpose {
            InvoicePurpose::Sale { merchant } | InvoicePurpose::Contribution { merchant } => {
                caller.require_seller(merchant)?;
            }
            InvoicePurpose::TopUp { card } => {
                if caller.require_till().is_err() {
                    caller.require_issuer_or_holder(card)?;
                }
            }
            InvoicePurpose::Plain => caller.require_issuer()?,
        }
        let text = &command.description;
        check_text("description", text, MAX_DESCRIPTION, "200 characters")?;
        if text.len() > MAX_DESCRIPTION_BYTES {
            let (field, bounds) = ("description", "639 bytes");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        if !EXPIRY_SECONDS.contains(&command.expiry_seconds) {
            let (field, bounds) = ("expiry_seconds", "60 seconds to 7 days");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        // Whoever sells may not soften the rules that the operator set for the merchant, nor say
        // where the operator's money is to go, or what it is spent on.
        let options = &command.options;
        let costs = options.just_in_time_max_fee_msat.is_some();
        if options.rules.is_some() || options.address.is_some() || costs {
            caller.require_issuer()?;
        }
        let network = &self.core.network;
        command.options.check(command.price.as_ref(), network)
    }

    /// Decided again where another took the address, it is the invoice that was `tried` before:
    /// what the node made for that is not left behind.
    async fn decide_create(
        &self,
        command: &CreateInvoice,
        tried: &Mutex<Option<Invoice>>,
    ) -> Result<Decision<Invoice>, Error> {
        let core = &self.core;
        let mut steps = self.guard_owner(command.purpose).await?;
        let now_ms = core.clock.now_ms();
        let (amount_msat, quote) = self.priced(command).await?;
        let expiry_seconds = rules::expiry(command.expiry_seconds, quote.as_ref(), now_ms);
        let id = core.new_id(InvoiceId::from_parts)?;
        let mut options = command.options.clone();
        match &options.rules {
            Some(rules) => steps.extend(policy::guard_surplus(core, rules).await?),
            None => options.rules = self.rules_of(command.purpose.merchant()).await?,
        }
        let mut invoice = Invoice {
            id,
            purpose: command.purpose,
            price: command.price,
            amount_msat,
            quote,
            description: command.description.clone(),
            payment_hash: core.secrets.preimage(id).payment_hash(),
            bolt11: String::new(),
            state: InvoiceState::New,
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(i64::from(expiry_seconds) * 1_000),
            received_msat: 0,
            options,
            flags: InvoiceFlags::default(),
            payments: Vec::new(),
            lightning: Vec::new(),
            offer: None,
            on_chain: None,
            unavailable: Vec::new(),
            refund_due_msat: 0,
            sequence: 1,
            hold: None,
            top_up_address: None,
            pay_address: None,
            description_hash: None,
        };
        let before = tried.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(before) = before.filter(|before| before.amount_msat == amount_msat) {
            invoice.take_over(before);
        }
        // Made before the commit: without one nobody learns of them, and they cannot be claimed.
        steps.extend(self.make_rails(&mut invoice, expiry_seconds).await?);
        *tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(invoice.clone());
        steps.extend(steps::create(&invoice)?);
        Ok(Decision {
            steps,
            answer: invoice,
        })
    }

    /// What the price comes to, at the rate of now. A card in a currency is paid for exactly and at
    /// once: no rule that takes another amount, and no rail on which the rate runs away.
    async fn priced(&self, command: &CreateInvoice) -> Result<(i64, Option<Quote>), Error> {
        let (core, price) = (&self.core, command.price.as_ref());
        if let InvoicePurpose::TopUp { card } = command.purpose
            && let Some((amount_msat, quote)) = cards::top_up_in_currency(core, card, price).await?
        {
            let is_at_once = |rail: &Rail| matches!(rail, Rail::Lightning | Rail::Book);
            if command.options.rules.is_some() || !command.options.rails.iter().all(is_at_once) {
                let bounds = "lightning or book and no rules, for a card in a currency";
                let field = "options";
                return Err(CommandError::OutOfBounds { field, bounds }.into());
            }
            return Ok((amount_msat, Some(quote)));
        }
        match price {
            Some(price) => {
                let (rates, policy) = (core.rates.as_ref(), core.settings.rates);
                price_in_msat(rates, price, policy, core.clock.now_ms()).await
            }
            None => Ok((0, None)),
        }
    }

    /// Holds in the commit: whoever the invoice is of can be paid.
    async fn guard_owner(&self, purpose: InvoicePurpose) -> Result<Vec<Step>, Error> {
        Ok(match purpose {
            InvoicePurpose::Sale { merchant } | InvoicePurpose::Contribution { merchant } => {
                vec![settlement::guard_merchant(&self.core, merchant).await?]
            }
            InvoicePurpose::TopUp { card } => vec![cards::guard_active(&self.core, card).await?],
            InvoicePurpose::Plain => Vec::new(),
        })
    }

    /// What the merchant's rules are now.
    async fn rules_of(&self, merchant: Option<MerchantId>) -> Result<Option<PaymentRules>, Error> {
        let policy = policy::load(&self.core, merchant).await?;
        let rules = policy.map(|policy| policy.value.rules);
        Ok(rules.filter(|rules| *rules != PaymentRules::NONE))
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
            InvoicePurpose::TopUp { card } => caller
                .require_issuer_or_holder(card)
                .or_else(|error| caller.require_till().map(drop).map_err(|_| error))?,
            purpose => require_owner(&caller, purpose)?,
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
        require_owner(&caller, purpose)?;
        let as_of_ms = self.core.clock.now_ms();
        let after = after.map(|id| id.to_string());
        let found: Vec<Invoice> = self
            .core
            .list(INVOICES, "owner", &purpose.owner_id(), after, limit)
            .await?;
        let value = found.into_iter().map(Invoice::upgraded).collect();
        Ok(Answer { as_of_ms, value })
    }

    async fn load(&self, id: InvoiceId) -> Result<Option<Loaded<Invoice>>, Error> {
        let found = self.core.load(INVOICES, &id.to_string()).await?;
        Ok(found.map(upgraded))
    }

    async fn require(&self, invoice: InvoiceId) -> Result<Loaded<Invoice>, Error> {
        load(&self.core, invoice).await
    }
}

/// An invoice, as it was read.
pub(crate) async fn load(core: &Core, invoice: InvoiceId) -> Result<Loaded<Invoice>, Error> {
    let found = core.load(INVOICES, &invoice.to_string()).await?;
    let found = found.ok_or(InvoiceError::NotFound { invoice })?;
    Ok(upgraded(found))
}

/// Holds in the commit: the invoice is as it was read.
pub(crate) fn guard(invoice: &Loaded<Invoice>) -> Step {
    Step::Require {
        collection: INVOICES,
        id: invoice.value.id.to_string(),
        version: invoice.version,
    }
}

/// What was written before payments were records is read as if it were written now.
pub(crate) fn upgraded(found: Loaded<Invoice>) -> Loaded<Invoice> {
    Loaded {
        version: found.version,
        value: found.value.upgraded(),
    }
}

/// Whoever may see an invoice.
pub(crate) fn require_owner(caller: &Caller, purpose: InvoicePurpose) -> Result<(), Error> {
    match purpose {
        InvoicePurpose::Sale { merchant } | InvoicePurpose::Contribution { merchant } => {
            caller.require_seller(merchant)?;
        }
        InvoicePurpose::TopUp { card } => caller.require_issuer_or_holder(card)?,
        InvoicePurpose::Plain => caller.require_issuer()?,
    }
    Ok(())
}
