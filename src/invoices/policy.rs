//! What a merchant wants done with payments that are not what was asked for.

use serde::{Deserialize, Serialize};

use super::Invoices;
use super::options::{PaymentRules, SurplusTo};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Decision, Executed, IdempotencyKey, Loaded, emit, put};
use crate::ids::MerchantId;
use crate::ledger::Step;
use crate::{cards, settlement};

const POLICIES: &str = "invoice_policy";

/// Sets the rules of a merchant's invoices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetInvoicePolicy {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The merchant.
    pub merchant: MerchantId,
    /// The rules, for invoices that are made from now on.
    pub rules: PaymentRules,
}

/// The rules of a merchant's invoices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoicePolicy {
    /// The merchant.
    pub merchant: MerchantId,
    /// The rules.
    pub rules: PaymentRules,
}

/// What was set for a merchant.
pub(super) async fn load(
    core: &Core,
    merchant: Option<MerchantId>,
) -> Result<Option<Loaded<InvoicePolicy>>, Error> {
    match merchant {
        Some(merchant) => core.load(POLICIES, &merchant.to_string()).await,
        None => Ok(None),
    }
}

/// Holds in the commit: the card that a surplus is to go on is there, and takes bitcoin.
pub(super) async fn guard_surplus(
    core: &Core,
    rules: &PaymentRules,
) -> Result<Option<Step>, Error> {
    let Some(SurplusTo::Card { card }) = rules.surplus else {
        return Ok(None);
    };
    let card = cards::load(core, card).await?;
    cards::require_bitcoin(&card.value)?;
    Ok(Some(cards::guard(&card)))
}

impl Invoices {
    /// Sets the rules of a merchant's invoices; those that exist keep theirs. Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `card.not_found`, `command.*`, `access.*`.
    pub async fn set_policy(
        &self,
        credential: &Credential,
        command: SetInvoicePolicy,
    ) -> Result<Answer<InvoicePolicy>, Error> {
        let (invoices, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &invoices.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                command.rules.check()?;
                let executed: Executed<InvoicePolicy> = core
                    .execute(
                        &caller,
                        "invoices.set_policy",
                        &command.key,
                        &command,
                        || invoices.decide_policy(&command),
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_policy(
        &self,
        command: &SetInvoicePolicy,
    ) -> Result<Decision<InvoicePolicy>, Error> {
        let (core, merchant) = (&self.core, command.merchant);
        let mut steps = vec![settlement::guard_merchant(core, merchant).await?];
        steps.extend(guard_surplus(core, &command.rules).await?);
        let before = load(core, Some(merchant)).await?;
        let version = before.map_or(0, |before| before.version);
        let answer = InvoicePolicy {
            merchant,
            rules: command.rules.clone(),
        };
        let id = merchant.to_string();
        steps.push(put(POLICIES, id.clone(), version, &answer, Vec::new())?);
        steps.push(emit("invoice_policy.set", id, &answer)?);
        Ok(Decision { steps, answer })
    }

    /// The rules of a merchant's invoices. The issuer, or one of its tills.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `access.*`.
    pub async fn policy(
        &self,
        credential: &Credential,
        merchant: MerchantId,
    ) -> Result<Answer<InvoicePolicy>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        settlement::guard_merchant(core, merchant).await?;
        let as_of_ms = core.clock.now_ms();
        let found = load(core, Some(merchant)).await?;
        let none = InvoicePolicy {
            merchant,
            rules: PaymentRules::NONE,
        };
        let value = found.map_or(none, |found| found.value);
        Ok(Answer { as_of_ms, value })
    }
}
