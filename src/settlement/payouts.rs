//! Payouts over Lightning: intent, effect, outcome.
//!
//! The intent is committed with all its money on hold before the node is asked. What the node
//! then says is read with care:
//!
//! - A refusal means that *this call* sent nothing. Only when no earlier call can have been made
//!   (the first call, by the process that has just committed the intent) is it a failure.
//! - No record at the node proves nothing, since a node hands a payment to the network before it
//!   writes its record. The node is asked to send again instead: it is idempotent by payment
//!   hash, and answers that it knows the payment while it is on its way.
//! - A failure told as an event ends an attempt. It ends the payout unless a later attempt is
//!   on its way; therefore sending and judging a failure exclude each other.

use super::model::{Payout, PayoutHolds, PayoutQuote, PayoutState, RequestPayout};
use super::{Settlement, SettlementError, guard, load_merchant, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, Loaded, emit};
use crate::ids::{MerchantId, PayoutId, TransferId};
use crate::invoices::{self, Invoice};
use crate::ledger::{Account, AccountKind, NewTransfer, Refusal, Step, TransferKind};
use crate::lightning::{
    Bolt11Details, Dispatch, LightningError, PaymentHash, PaymentRequest, PaymentState,
};
use crate::money::Price;

pub(crate) const PAYOUTS: &str = "payout";
pub(crate) const CHECK_JOB: &str = "payout.check";

impl Settlement {
    /// What a payout of everything would come to now. The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `access.*`.
    pub async fn quote_payout(
        &self,
        credential: &Credential,
        merchant: MerchantId,
    ) -> Result<Answer<PayoutQuote>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = self.core.clock.now_ms();
        let terms = load_merchant(&self.core, merchant).await?.value.terms;
        let available_msat = self.balance_of(merchant).await?.available_msat;
        let (amount_msat, fee_msat) = rules::largest_payout(&terms, available_msat)?;
        Ok(Answer {
            as_of_ms,
            value: PayoutQuote {
                merchant,
                amount_msat,
                fee_msat,
            },
        })
    }

    /// Pays a merchant out to its own node. The answer says how the payout stands once the node
    /// was asked; the outcome follows as an event and in [`payout`](Self::payout). Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `settlement.insufficient_balance`,
    /// `settlement.no_amount`, `settlement.invoice_expired`, `settlement.invoice_used`,
    /// `settlement.own_invoice`, `lightning.bad_invoice`, `lightning.wrong_network`,
    /// `lightning.no_node`, `command.*`, `access.*`.
    pub async fn request_payout(
        &self,
        credential: &Credential,
        command: RequestPayout,
    ) -> Result<Answer<Payout>, Error> {
        let (settlement, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &settlement.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                core.node()?;
                let executed: Executed<Payout> = core
                    .execute(
                        &caller,
                        "settlement.request_payout",
                        &command.key,
                        &command,
                        || settlement.decide_payout(&command),
                    )
                    .await
                    .map_err(refused)?;
                let id = executed.answer.value.id;
                if !executed.replayed {
                    settlement.send(id, Attempt::First).await?;
                }
                let as_of_ms = core.clock.now_ms().max(executed.answer.as_of_ms);
                Ok(Answer {
                    as_of_ms,
                    value: settlement.load_payout(id).await?.value,
                })
            })
            .await
    }

    async fn decide_payout(&self, command: &RequestPayout) -> Result<Decision<Payout>, Error> {
        let core = &self.core;
        let merchant = load_merchant(core, command.merchant).await?;
        let invoice: Bolt11Details = command.bolt11.parse()?;
        let now_ms = core.clock.now_ms();
        self.check_invoice(&invoice, now_ms).await?;
        let amount_msat = invoice.amount_msat.ok_or(SettlementError::NoAmount)?;
        Price::Bitcoin { amount_msat }.validate()?;
        let terms = merchant.value.terms;
        let fee_msat = rules::fee(&terms, amount_msat)?;
        let max_route_fee_msat = rules::max_route_fee(&terms, amount_msat)?;
        let new_hold = || core.new_id(TransferId::from_parts);
        let payout = Payout {
            id: core.new_id(PayoutId::from_parts)?,
            merchant: command.merchant,
            amount_msat,
            fee_msat,
            max_route_fee_msat,
            route_fee_msat: None,
            payment_hash: invoice.payment_hash,
            bolt11: command.bolt11.clone(),
            state: PayoutState::Sending,
            reason: None,
            created_at_ms: now_ms,
            holds: PayoutHolds {
                amount: new_hold()?,
                fee: (fee_msat > 0).then(new_hold).transpose()?,
                route: (max_route_fee_msat > 0).then(new_hold).transpose()?,
            },
        };
        let mut steps = vec![guard(&merchant)];
        let check_at_ms = now_ms.saturating_add(core.settings.unknown_retry_ms);
        steps.extend(rules::intend(&payout, check_at_ms)?);
        Ok(Decision {
            steps,
            answer: payout,
        })
    }

    async fn check_invoice(&self, invoice: &Bolt11Details, now_ms: i64) -> Result<(), Error> {
        let core = &self.core;
        if invoice.network != core.network {
            let (expected, found) = (core.network.clone(), invoice.network.clone());
            return Err(LightningError::WrongNetwork { expected, found }.into());
        }
        if now_ms >= invoice.expires_at_ms {
            let expired_at_ms = invoice.expires_at_ms;
            return Err(SettlementError::InvoiceExpired { expired_at_ms }.into());
        }
        let hash = invoice.payment_hash.to_string();
        let own: Option<Loaded<Invoice>> =
            core.find(invoices::INVOICES, "payment_hash", &hash).await?;
        match own {
            Some(_) => Err(SettlementError::OwnInvoice.into()),
            None => Ok(()),
        }
    }

    /// A payout as it stands now. The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `settlement.payout_not_found`, `access.*`.
    pub async fn payout(
        &self,
        credential: &Credential,
        payout: PayoutId,
    ) -> Result<Answer<Payout>, Error> {
        let caller = self.core.authenticate(credential).await?;
        let as_of_ms = self.core.clock.now_ms();
        let value = self.load_payout(payout).await?.value;
        caller.require_seller(value.merchant)?;
        Ok(Answer { as_of_ms, value })
    }

    /// A merchant's payouts, oldest first, after the payout `after`; at most `limit` (1 to
    /// 1,000). The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn payouts(
        &self,
        credential: &Credential,
        merchant: MerchantId,
        after: Option<PayoutId>,
        limit: usize,
    ) -> Result<Answer<Vec<Payout>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = self.core.clock.now_ms();
        let after = after.map(|id| id.to_string());
        let value = self
            .core
            .list(PAYOUTS, "merchant", &merchant.to_string(), after, limit)
            .await?;
        Ok(Answer { as_of_ms, value })
    }

    async fn load_payout(&self, payout: PayoutId) -> Result<Loaded<Payout>, Error> {
        self.core
            .load(PAYOUTS, &payout.to_string())
            .await?
            .ok_or(SettlementError::PayoutNotFound { payout }.into())
    }

    async fn by_hash(&self, hash: PaymentHash) -> Result<Option<Loaded<Payout>>, Error> {
        self.core
            .find(PAYOUTS, "payment_hash", &hash.to_string())
            .await
    }

    /// Asks the node to send, and writes down what that proves.
    async fn send(&self, id: PayoutId, attempt: Attempt) -> Result<(), Error> {
        let _one_at_a_time = self.sending.lock().await;
        let payout = self.load_payout(id).await?.value;
        if payout.state.is_final() {
            return Ok(());
        }
        let request = PaymentRequest {
            bolt11: payout.bolt11.clone(),
            max_fee_msat: payout.max_route_fee_msat,
        };
        match (self.core.node()?.pay(request).await, attempt) {
            // The job that was set with the intent asks again, should the event not come.
            (Ok(Dispatch::Accepted | Dispatch::AlreadyKnown), _) => Ok(()),
            (Ok(Dispatch::Refused { reason }), Attempt::First) => self.fail(id, &reason).await,
            (Ok(Dispatch::Refused { reason }), Attempt::Again) => self.doubt(id, &reason).await,
            (Err(error), _) => self.doubt(id, &error.to_string()).await,
        }
    }

    async fn fail(&self, id: PayoutId, reason: &str) -> Result<(), Error> {
        let decide = || async { rules::failed(&self.load_payout(id).await?, reason) };
        self.core.settle(decide).await.map(drop)
    }

    async fn doubt(&self, id: PayoutId, reason: &str) -> Result<(), Error> {
        let decide = || async {
            let retry_ms = self.core.settings.unknown_retry_ms;
            let check_at_ms = self.core.clock.now_ms().saturating_add(retry_ms);
            rules::unknown(&self.load_payout(id).await?, reason, check_at_ms)
        };
        self.core.settle(decide).await.map(drop)
    }

    async fn succeed(&self, id: PayoutId, route_fee_msat: Option<i64>) -> Result<(), Error> {
        let new_id = || self.core.new_id(TransferId::from_parts);
        let decide =
            || async { rules::paid_out(&self.load_payout(id).await?, route_fee_msat, new_id) };
        self.core.settle(decide).await.map(drop)
    }

    /// The job that asks what became of a payout.
    pub(crate) async fn check(&self, id: PayoutId) -> Result<(), Error> {
        let payout = self.load_payout(id).await?.value;
        if payout.state.is_final() {
            let done = Step::Done {
                kind: CHECK_JOB,
                object: id.to_string(),
            };
            return self.core.commit(vec![done]).await.map(drop);
        }
        match self.core.node()?.payment(payout.payment_hash).await? {
            Some(record) if record.state == PaymentState::Succeeded => {
                self.succeed(id, record.fee_msat).await
            }
            Some(record) if record.state == PaymentState::Pending => Ok(()),
            _ => self.send(id, Attempt::Again).await,
        }
    }

    /// After a start: every open payout is asked about.
    pub(crate) async fn reconcile(&self) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page: Vec<Payout> = self.core.list(PAYOUTS, "state", "open", after, 100).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id.to_string());
            for payout in &page {
                self.check(payout.id).await?;
            }
        }
    }

    /// The node says that a payment of ours arrived.
    pub(crate) async fn sent(&self, hash: PaymentHash, fee: Option<i64>) -> Result<(), Error> {
        match self.by_hash(hash).await? {
            Some(payout) if payout.value.state != PayoutState::Failed => {
                self.succeed(payout.value.id, fee).await
            }
            payout => {
                self.unexpected(hash, payout.map(|payout| payout.value), fee)
                    .await
            }
        }
    }

    /// The node says that an attempt failed for good.
    pub(crate) async fn send_failed(&self, hash: PaymentHash, reason: &str) -> Result<(), Error> {
        let Some(payout) = self.by_hash(hash).await? else {
            return Ok(());
        };
        let _one_at_a_time = self.sending.lock().await;
        let state = self
            .core
            .node()?
            .payment(hash)
            .await?
            .map(|record| record.state);
        match state {
            // A later attempt is on its way: its own event will come.
            Some(PaymentState::Pending) => Ok(()),
            Some(PaymentState::Succeeded) => self.succeed(payout.value.id, None).await,
            Some(PaymentState::Failed) | None => self.fail(payout.value.id, reason).await,
        }
    }

    /// Money left the node and no open payout is behind it: it is booked against suspense, and
    /// waits for a person.
    async fn unexpected(
        &self,
        hash: PaymentHash,
        payout: Option<Payout>,
        fee_msat: Option<i64>,
    ) -> Result<(), Error> {
        let amount_msat = match &payout {
            Some(payout) => Some(payout.amount_msat),
            None => self
                .core
                .node()?
                .payment(hash)
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
                    steps.push(suspend(id, amount, hash));
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

/// Whether an earlier call to the node can have been made for the same payout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// No: this process has just committed the intent.
    First,
    /// Perhaps.
    Again,
}

fn suspend(id: TransferId, amount: i64, hash: PaymentHash) -> Step {
    Step::Transfer(NewTransfer {
        id,
        debit: Account::suspense(),
        credit: Account::node_channels(),
        amount,
        kind: TransferKind::Unmatched,
        reference: hash.to_string(),
        credit_ceiling: None,
    })
}

fn refused(error: Error) -> Error {
    match error {
        Error::Ledger(Refusal::InsufficientFunds {
            account,
            available,
            needed,
            ..
        }) if account.kind() == AccountKind::MerchantPayable => {
            SettlementError::InsufficientBalance {
                available_msat: available,
                needed_msat: needed,
            }
            .into()
        }
        Error::Ledger(Refusal::AlreadyClaimed { by, .. }) => {
            SettlementError::InvoiceUsed { by }.into()
        }
        other => other,
    }
}
