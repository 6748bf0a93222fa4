//! Payouts over Lightning: asked for, looked at, and decided by a person where the node cannot.
//!
//! They leave by the mechanism of [`payments`](crate::payments).

use super::model::{
    Merchant, PaidByBook, Payout, PayoutQuote, PayoutState, RequestPayout, ResolvePayout,
};
use super::{Settlement, SettlementError, guard, load_merchant, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, Loaded};
use crate::ids::{MerchantId, PayoutId};
use crate::invoices::{self, Invoice};
use crate::ledger::{Account, AccountKind, Refusal};
use crate::lightning::{Bolt11Details, LightningError};
use crate::money::Price;
use crate::payments::{self, Attempt, Attempts, Holds, Said};

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

    /// Pays a merchant out to its own node. An invoice of this engine is paid in the books instead,
    /// at once and at no fee, by the rules of a Lightning payment. The answer says how the payout stands once the node
    /// was asked; the outcome follows as an event and in [`payout`](Self::payout). Where another
    /// instance has the node, the payout is `sending` and waits for it. Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `settlement.insufficient_balance`,
    /// `settlement.no_amount`, `settlement.invoice_expired`, `settlement.invoice_used`,
    /// `settlement.locks_too_long`,
    /// `settlement.own_invoice` when it is the merchant's own, `invoice.not_payable` and `card.*`
    /// for another one of this engine, `ledger.ceiling_reached` when it is for a card that gets
    /// too full, `lightning.bad_invoice`, `lightning.wrong_network`,
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
                if !core.lightning_elsewhere {
                    core.node()?;
                }
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
                if !executed.replayed && !core.node_is_away() {
                    settlement
                        .payments
                        .send::<Payout>(&id.to_string(), Attempt::First)
                        .await?;
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
        self.check_invoice(&invoice, now_ms)?;
        let amount_msat = invoice.amount_msat.ok_or(SettlementError::NoAmount)?;
        Price::Bitcoin { amount_msat }.validate()?;
        if let Some(own) = invoices::own_invoice(core, invoice.payment_hash).await? {
            return self.decide_by_book(command, &merchant, &invoice, own).await;
        }
        rules::check_lock(&invoice, core.settings.max_lock_blocks)?;
        let terms = merchant.value.terms;
        let fee_msat = rules::fee(&terms, amount_msat)?;
        let max_route_fee_msat = rules::max_route_fee(&terms, amount_msat)?;
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
            by_book: None,
            held_for: None,
            attempts: self.payments.first_attempts(),
            holds: Holds::new(core, fee_msat, max_route_fee_msat)?,
            max_lock_blocks: Some(core.settings.max_lock_blocks),
        };
        let mut steps = vec![guard(&merchant)];
        let check_at_ms = self.payments.first_check_at();
        steps.extend(payments::rules::intend(&payout, check_at_ms)?);
        Ok(Decision {
            steps,
            answer: payout,
        })
    }

    /// An invoice of this engine: the money moves in the books, and the payout is done. Neither a
    /// route nor the operator is paid for it.
    async fn decide_by_book(
        &self,
        command: &RequestPayout,
        merchant: &Loaded<Merchant>,
        asked: &Bolt11Details,
        invoice: Loaded<Invoice>,
    ) -> Result<Decision<Payout>, Error> {
        let core = &self.core;
        let payer = Account::merchant_payable(command.merchant);
        if invoice.value.purpose.account() == payer {
            return Err(SettlementError::OwnInvoice.into());
        }
        let amount_msat = asked.amount_msat.ok_or(SettlementError::NoAmount)?;
        // What a hold invoice sets aside is paid out when it is captured.
        let is_held = invoice.value.options.hold;
        let proof = || PaidByBook {
            invoice: invoice.value.id,
            preimage: invoices::proof(core, &invoice.value, asked.payment_hash),
        };
        let payout = Payout {
            id: core.new_id(PayoutId::from_parts)?,
            merchant: command.merchant,
            amount_msat,
            fee_msat: 0,
            max_route_fee_msat: 0,
            route_fee_msat: (!is_held).then_some(0),
            payment_hash: asked.payment_hash,
            bolt11: command.bolt11.clone(),
            state: match is_held {
                true => PayoutState::Sending,
                false => PayoutState::PaidOut,
            },
            reason: None,
            created_at_ms: core.clock.now_ms(),
            by_book: (!is_held).then(proof),
            held_for: is_held.then_some(invoice.value.id),
            attempts: Attempts::default(),
            holds: Holds::new(core, 0, 0)?,
            max_lock_blocks: None,
        };
        let mut steps = vec![guard(merchant)];
        let hash = asked.payment_hash;
        let paid = invoices::pay_by_book(core, &invoice, hash, amount_msat, payer).await?;
        steps.extend(paid.all());
        steps.extend(payments::rules::paid_by_book(&payout)?);
        Ok(Decision {
            steps,
            answer: payout,
        })
    }

    fn check_invoice(&self, invoice: &Bolt11Details, now_ms: i64) -> Result<(), Error> {
        let core = &self.core;
        if invoice.network != core.network {
            let (expected, found) = (core.network.clone(), invoice.network.clone());
            return Err(LightningError::WrongNetwork { expected, found }.into());
        }
        if now_ms >= invoice.expires_at_ms {
            let expired_at_ms = invoice.expires_at_ms;
            return Err(SettlementError::InvoiceExpired { expired_at_ms }.into());
        }
        Ok(())
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
        self.payments.load(&payout.to_string()).await
    }

    /// A person says what became of a payout that the node cannot tell about any more, after
    /// having asked whoever was to receive it. Should the node tell later that it arrived after
    /// all, that is booked against suspense. Issuer only.
    ///
    /// # Errors
    /// `settlement.payout_not_found`, `settlement.payout_final`, `settlement.payout_in_flight` when
    /// it is to be `failed` and the node's record says otherwise, `command.*`, `access.*`.
    pub async fn resolve_payout(
        &self,
        credential: &Credential,
        command: ResolvePayout,
    ) -> Result<Answer<Payout>, Error> {
        let (settlement, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let operation = ("settlement.resolve_payout", &command.key);
                let said = Said {
                    id: command.payout.to_string(),
                    outcome: command.outcome.into(),
                    reason: &command.reason,
                    asks_the_node: command.asks_the_node(),
                };
                let payments = &settlement.payments;
                payments.said(&credential, operation, &command, said).await
            })
            .await
    }
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
