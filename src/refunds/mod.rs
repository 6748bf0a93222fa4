//! Refunds: what was paid of an invoice goes back, in whole or in part, once.
//!
//! A refund is bounded by what came in bitcoin: what is on its way counts, so that two at once
//! never pay back more than was paid. It leaves by the mechanism of
//! `payments`: the intent is committed with all its money on hold, the most
//! that it may cost included, before the node is asked; an outcome that is not known is never
//! read as failed.
//!
//! The money is that of whoever the invoice is of. Points that the sale earned go back with it.

mod address;
mod drafting;
mod error;
#[cfg(feature = "chain")]
mod following;
mod going;
mod model;
mod off_card;
mod on_chain;
mod outgoing;
mod rules;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Executed, Loaded, check_text};
use crate::ids::{InvoiceId, RefundId};
use crate::invoices;
use crate::payments::{Attempt, Payments, Said};

#[cfg(feature = "testkit")]
pub use address::fuzz as fuzz_address;
pub use error::RefundError;
#[cfg(feature = "chain")]
pub(crate) use following::{OnChain, ask_at, asked, follow};
pub use model::{
    AnswerRefund, CancelRefund, CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundOffCard,
    RefundOnCard, RefundOutcome, RefundQuote, RefundState, RefundTo, ResolveRefund,
};

const REFUNDS: &str = "refund";
/// How often a refund is decided again when the card's points are turned into money under it.
const MAX_DECISIONS: usize = 8;
/// The job that asks what became of a refund.
pub(crate) const CHECK_JOB: &str = "refund.check";
/// The job that asks the chain what became of a refund that nobody waits for any more.
pub(crate) const FOLLOW_JOB: &str = "refund.follow";

/// The handle for refunds.
#[derive(Clone)]
pub struct Refunds {
    core: Arc<Core>,
    payments: Payments,
}

impl Refunds {
    pub(crate) fn new(core: Arc<Core>, payments: Payments) -> Self {
        Self { core, payments }
    }

    /// What a refund would come to now. Whoever may ask for it.
    ///
    /// # Errors
    /// Those of [`create`](Self::create) about the invoice and the amount.
    pub async fn quote(
        &self,
        credential: &Credential,
        invoice: InvoiceId,
        amount: RefundAmount,
        fee_bearer: RefundFeeBearer,
    ) -> Result<Answer<RefundQuote>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        let as_of_ms = core.clock.now_ms();
        let found = invoices::load(core, invoice).await?.value;
        drafting::admit(&caller, found.purpose)?;
        let reckoned = self.reckon(&caller, &found, amount).await?;
        let due = reckoned.due;
        let max_fee_msat = self.max_fee_msat(found.purpose, due.amount_msat).await?;
        let value = RefundQuote {
            invoice,
            received_msat: reckoned.paid.received_msat,
            refunded_msat: reckoned.paid.sent_msat,
            covered_msat: reckoned.paid.covered_msat,
            amount_msat: due.amount_msat,
            sent_msat: drafting::sent_of(&due, fee_bearer, max_fee_msat)?,
            max_fee_msat,
            quote: due.quote,
        };
        Ok(Answer { as_of_ms, value })
    }

    /// Pays an invoice back, in whole or in part: to a BOLT11, a Lightning address, an address on
    /// chain or a card. Of a merchant's invoice whoever sells for it, otherwise the issuer; what of it waits in suspense
    /// is the issuer's alone to pay back. To a BOLT11 of this engine and to a card it is done at
    /// once; otherwise the outcome follows as an event and in [`get`](Self::get).
    ///
    /// What was put on a card in a currency is taken off it in that currency, at the rate of the
    /// invoice, or where the rate of now is asked for at that one; never more than the card has.
    /// It goes over Lightning, to an invoice of this engine or to another card, and not on chain.
    ///
    /// That the operator bears what it costs, the issuer alone says; and so it is with a fee on chain
    /// above what the next two blocks take. One of more than 50,000 sat and a tenth of what is sent is
    /// refused where the issuer has not said which fee (`wallet.fee_too_high`).
    ///
    /// To a Lightning address, and to a BOLT11 without an amount, go whole sats, rounded down: most
    /// servers take nothing else. What is left of the last one stays with whoever pays back.
    ///
    /// The operator's spread of the sale stays the operator's. A refund of what the chain takes
    /// away later is the merchant's loss: it is owed, and taken out of what comes in next.
    ///
    /// # Errors
    /// `invoice.not_found`; `refund.invoice_open`, `refund.nothing_left`, `refund.exceeds_paid`,
    /// `refund.exceeds_cap`, `refund.no_rate_then`, `refund.fee_takes_all`,
    /// `refund.card_in_currency`, `rate.*` of the amount; `refund.other_amount`,
    /// `refund.invoice_expired`, `refund.locks_too_long`, `refund.invoice_used`, `refund.own_account`,
    /// `refund.bad_address`, `refund.no_outbound_capacity`, `rate.position_cap_reached`, `invoice.not_payable`,
    /// `lightning.bad_invoice`, `lightning.wrong_network`, `lightning.no_node`, `card.not_found`,
    /// `card.unit_mismatch`, `ledger.ceiling_reached`, `chain.*`, `wallet.*` of where it goes;
    /// `refund.insufficient_balance`, `refund.insufficient_on_card`, `command.*`, `access.*`.
    pub async fn create(
        &self,
        credential: &Credential,
        command: CreateRefund,
    ) -> Result<Answer<Refund>, Error> {
        let (refunds, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &refunds.core;
                let caller = core.authenticate(&credential).await?;
                check_text("reason", &command.reason, 200, "200 characters")?;
                let mut tries = MAX_DECISIONS;
                loop {
                    tries -= 1;
                    let executed: Result<Executed<Refund>, Error> = core
                        .execute(&caller, "refunds.create", &command.key, &command, || {
                            refunds.decide_create(&caller, &command)
                        })
                        .await;
                    match executed {
                        Ok(executed) => return refunds.dispatched(executed).await,
                        Err(error) if tries > 0 && rules::points_went(&error) => {}
                        Err(error) => return Err(rules::refused(error)),
                    }
                }
            })
            .await
    }

    /// Has the node send what was just intended, and says how it stands.
    async fn dispatched(&self, executed: Executed<Refund>) -> Result<Answer<Refund>, Error> {
        let core = &self.core;
        let refund = executed.answer.value;
        let id = refund.id.to_string();
        if let Some(spend) = refund.spend.filter(|_| !executed.replayed) {
            self.sign(spend).await;
        }
        let by_node = refund.payment_hash.is_some() && refund.held_for.is_none();
        let is_sent = refund.state == RefundState::Sending && by_node;
        if is_sent && !executed.replayed && !core.node_is_away() {
            self.payments.send::<Refund>(&id, Attempt::First).await?;
        }
        Ok(Answer {
            as_of_ms: core.clock.now_ms().max(executed.answer.as_of_ms),
            value: self.require(refund.id).await?.value,
        })
    }

    /// Takes what the host fetched for a refund to a Lightning address, from where
    /// [`Refund::ask`] said. After the first answer it says what is to be fetched next; after the
    /// second it is sent. A refused answer changes nothing: the same may be fetched again.
    ///
    /// Whoever may ask for it: where it takes what waits in suspense, or the operator bears what it
    /// costs, that is the issuer. What the chain took away since it was asked for, or somebody else
    /// has got, is not sent (`refund.exceeds_paid`).
    ///
    /// # Errors
    /// `refund.not_found`, `refund.wrong_state`, `refund.other_question`, `refund.bad_answer`,
    /// `refund.amount_not_taken`, `refund.quote_expired`, `refund.exceeds_paid`, those of a BOLT11 of
    /// [`create`](Self::create), `access.*`.
    pub async fn answer(
        &self,
        credential: &Credential,
        command: AnswerRefund,
    ) -> Result<Answer<Refund>, Error> {
        let (refunds, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &refunds.core;
                let caller = core.authenticate(&credential).await?;
                let found = refunds.require(command.refund).await?;
                drafting::admit(&caller, found.value.purpose)?;
                let executed: Executed<Refund> = core
                    .execute(&caller, "refunds.answer", &command.key, &command, || {
                        refunds.decide_answer(&caller, &command)
                    })
                    .await
                    .map_err(rules::refused)?;
                refunds.dispatched(executed).await
            })
            .await
    }

    /// Gives up a refund to a Lightning address that was not sent. Whoever may
    /// [answer](Self::answer) it.
    ///
    /// # Errors
    /// `refund.not_found`, `refund.wrong_state`, `command.*`, `access.*`.
    pub async fn cancel(
        &self,
        credential: &Credential,
        command: CancelRefund,
    ) -> Result<Answer<Refund>, Error> {
        let (refunds, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &refunds.core;
                let caller = core.authenticate(&credential).await?;
                let found = refunds.require(command.refund).await?;
                drafting::admit(&caller, found.value.purpose)?;
                let executed: Executed<Refund> = core
                    .execute(&caller, "refunds.cancel", &command.key, &command, || {
                        refunds.decide_cancel(&caller, &command)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// A person says what became of a refund that the node cannot tell about any more. Should the
    /// node tell later that it arrived after all, that is booked against suspense. Issuer only.
    ///
    /// Of one on chain a person says only that it failed, once its spend was given up: that nobody
    /// has signed it. Should a block have it after all, it is booked as the refund's.
    ///
    /// # Errors
    /// `refund.not_found`, `refund.wrong_state` when it has ended, `refund.in_flight` when it is
    /// to be `failed` and the node's record says otherwise, or when it is on its way on chain,
    /// `command.*`, `access.*`.
    pub async fn resolve(
        &self,
        credential: &Credential,
        command: ResolveRefund,
    ) -> Result<Answer<Refund>, Error> {
        let (refunds, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let operation = ("refunds.resolve", &command.key);
                let payments = &refunds.payments;
                let id = command.refund.to_string();
                let found: Option<Loaded<Refund>> = refunds.core.load(REFUNDS, &id).await?;
                if found.is_some_and(|found| found.value.spend.is_some()) {
                    let decide = || refunds.resolve_on_chain(&command);
                    let reason = &command.reason;
                    let said = payments.by_word(&credential, operation, &command, reason, decide);
                    return said.await;
                }
                let said = Said {
                    id,
                    outcome: command.outcome.into(),
                    reason: &command.reason,
                    asks_the_node: command.asks_the_node(),
                };
                payments.said(&credential, operation, &command, said).await
            })
            .await
    }

    /// A refund as it stands now. Whoever may ask for it.
    ///
    /// # Errors
    /// `refund.not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        refund: RefundId,
    ) -> Result<Answer<Refund>, Error> {
        let caller = self.core.authenticate(credential).await?;
        let as_of_ms = self.core.clock.now_ms();
        let value = self.require(refund).await?.value;
        drafting::admit(&caller, value.purpose)?;
        Ok(Answer { as_of_ms, value })
    }

    /// The refunds of an invoice, oldest first, after the refund `after`; at most `limit` (1 to
    /// 1,000). Whoever may ask for one.
    ///
    /// # Errors
    /// `invoice.not_found`, `access.*`.
    pub async fn list(
        &self,
        credential: &Credential,
        invoice: InvoiceId,
        after: Option<RefundId>,
        limit: usize,
    ) -> Result<Answer<Vec<Refund>>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        let found = invoices::load(core, invoice).await?.value;
        drafting::admit(&caller, found.purpose)?;
        let as_of_ms = core.clock.now_ms();
        let (key, after) = (invoice.to_string(), after.map(|id| id.to_string()));
        let value = core.list(REFUNDS, "invoice", &key, after, limit).await?;
        Ok(Answer { as_of_ms, value })
    }

    async fn require(&self, refund: RefundId) -> Result<Loaded<Refund>, Error> {
        let found = self.core.load(REFUNDS, &refund.to_string()).await?;
        Ok(found.ok_or(RefundError::NotFound { refund })?)
    }
}

/// What the node and the jobs say of refunds.
impl Refunds {
    /// The job that asks what became of a refund.
    pub(crate) async fn check(&self, id: RefundId) -> Result<(), Error> {
        self.payments.check::<Refund>(&id.to_string()).await
    }

    /// After a start: every open refund is asked about.
    pub(crate) async fn reconcile(&self) -> Result<Option<Error>, Error> {
        self.payments.reconcile::<Refund>().await
    }
}
