//! Merchants, their tills, and paying them out.

mod category;
mod error;
mod model;
mod outgoing;
mod payouts;
mod rules;

use std::sync::Arc;

use crate::Error;
use crate::access::{CREDENTIALS, Credential, CredentialRecord, Role};
use crate::core::{Answer, Core, Decision, Executed, Loaded, check_text, emit, put};
use crate::ids::{CredentialId, MerchantId};
use crate::ledger::{Account, Step, TransferRow};
use crate::payments::Payments;

pub use category::MerchantCategory;
pub use error::SettlementError;
pub use model::{
    CreateMerchant, Merchant, MerchantBalance, PaidByBook, PairTill, PairedTill, Payout,
    PayoutOutcome, PayoutQuote, PayoutState, PayoutTerms, RequestPayout, ResolvePayout, RevokeTill,
    SetMerchantCategory, Till,
};
pub(crate) use payouts::{CHECK_JOB, PAYOUTS};
pub(crate) use rules::{max_route_fee, recover};

const MERCHANTS: &str = "merchant";

/// The handle for merchants and payouts.
#[derive(Clone)]
pub struct Settlement {
    core: Arc<Core>,
    payments: Payments,
}

impl Settlement {
    pub(crate) fn new(core: Arc<Core>, payments: Payments) -> Self {
        Self { core, payments }
    }

    /// Takes a merchant in. Issuer only.
    ///
    /// # Errors
    /// `command.*`, `access.*`.
    pub async fn create(
        &self,
        credential: &Credential,
        command: CreateMerchant,
    ) -> Result<Answer<Merchant>, Error> {
        let (settlement, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &settlement.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_text("name", &command.name, 100, "100 characters")?;
                rules::check_terms(&command.terms)?;
                let decide = || async {
                    let merchant = Merchant {
                        id: core.new_id(MerchantId::from_parts)?,
                        name: command.name.clone(),
                        terms: command.terms,
                        program: None,
                        category: command.category,
                        created_at_ms: core.clock.now_ms(),
                    };
                    let created = emit("merchant.created", merchant.id.to_string(), &merchant)?;
                    let steps = vec![write_merchant(&merchant, 0)?, created];
                    Ok(Decision {
                        steps,
                        answer: merchant,
                    })
                };
                let executed: Executed<Merchant> = core
                    .execute(&caller, "settlement.create", &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// Says what kind of shop a merchant is. Cards that pay only in some are judged by it in the
    /// commit of each sale: one that was decided before is decided again. Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `command.*`, `access.*`.
    pub async fn set_category(
        &self,
        credential: &Credential,
        command: SetMerchantCategory,
    ) -> Result<Answer<Merchant>, Error> {
        let (settlement, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &settlement.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let decide = || async {
                    let Loaded { version, value } = load_merchant(core, command.merchant).await?;
                    let answer = Merchant {
                        category: command.category,
                        ..value
                    };
                    let id = answer.id.to_string();
                    let steps = vec![
                        write_merchant(&answer, version)?,
                        emit("merchant.category_set", id, &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let operation = "settlement.set_category";
                let executed: Executed<Merchant> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// A merchant. The issuer, or one of its tills.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        merchant: MerchantId,
    ) -> Result<Answer<Merchant>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = self.core.clock.now_ms();
        Ok(Answer {
            as_of_ms,
            value: load_merchant(&self.core, merchant).await?.value,
        })
    }

    /// Gives a till its credential. Repeated with the same key it answers the same credential,
    /// which is nowhere kept. Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `command.*`, `access.*`.
    pub async fn pair_till(
        &self,
        credential: &Credential,
        command: PairTill,
    ) -> Result<Answer<PairedTill>, Error> {
        let (settlement, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &settlement.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_text("label", &command.label, 100, "100 characters")?;
                let decide = || async {
                    let merchant = load_merchant(core, command.merchant).await?;
                    let id = core.new_id(CredentialId::from_parts)?;
                    let role = Role::Till {
                        merchant: command.merchant,
                    };
                    let label = command.label.clone();
                    let till = Till {
                        id,
                        merchant: command.merchant,
                        label,
                        revoked: false,
                    };
                    let steps = vec![
                        guard(&merchant),
                        core.new_credential(id, role, &command.label)?,
                        emit("till.paired", id.to_string(), &till)?,
                    ];
                    Ok(Decision {
                        steps,
                        answer: till,
                    })
                };
                let executed: Executed<Till> = core
                    .execute(
                        &caller,
                        "settlement.pair_till",
                        &command.key,
                        &command,
                        decide,
                    )
                    .await?;
                let Answer {
                    as_of_ms,
                    value: till,
                } = executed.answer;
                let credential = core.token(till.id);
                Ok(Answer {
                    as_of_ms,
                    value: PairedTill { till, credential },
                })
            })
            .await
    }

    /// Takes a till's credential away; commands of it that were not committed yet are refused.
    /// Issuer only.
    ///
    /// # Errors
    /// `settlement.till_not_found`, `access.revoked` when it was before, `access.*`.
    pub async fn revoke_till(
        &self,
        credential: &Credential,
        command: RevokeTill,
    ) -> Result<Answer<Till>, Error> {
        let (settlement, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &settlement.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let executed: Executed<Till> = core
                    .execute(
                        &caller,
                        "settlement.revoke_till",
                        &command.key,
                        &command,
                        || settlement.decide_revoke(&command),
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_revoke(&self, command: &RevokeTill) -> Result<Decision<Till>, Error> {
        let id = command.till;
        let found: Option<Loaded<CredentialRecord>> =
            self.core.load(CREDENTIALS, &id.to_string()).await?;
        let missing = SettlementError::TillNotFound { till: id };
        let CredentialRecord { role, label, .. } = found.ok_or(missing.clone())?.value;
        let Role::Till { merchant } = role else {
            return Err(missing.into());
        };
        let till = Till {
            id,
            merchant,
            label,
            revoked: true,
        };
        let steps = vec![
            self.core.revoke(id).await?,
            emit("till.revoked", id.to_string(), &till)?,
        ];
        Ok(Decision {
            steps,
            answer: till,
        })
    }

    /// What a merchant is owed. The issuer, or one of its tills.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `access.*`.
    pub async fn balance(
        &self,
        credential: &Credential,
        merchant: MerchantId,
    ) -> Result<Answer<MerchantBalance>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        load_merchant(&self.core, merchant).await?;
        let as_of_ms = self.core.clock.now_ms();
        Ok(Answer {
            as_of_ms,
            value: self.balance_of(merchant).await?,
        })
    }

    async fn balance_of(&self, merchant: MerchantId) -> Result<MerchantBalance, Error> {
        let account = Account::merchant_payable(merchant);
        let side = account.kind().side();
        let balance = self.core.balance(&account).await?;
        let receivable = Account::merchant_receivable(merchant);
        let owed = self.core.balance(&receivable).await?;
        Ok(MerchantBalance {
            merchant,
            available_msat: i64::try_from(balance.available(side)).unwrap_or(i64::MAX),
            owed_msat: i64::try_from(balance.posted(side)).unwrap_or(i64::MAX),
            pending_msat: balance.incoming(side),
            receivable_msat: i64::try_from(owed.posted(receivable.kind().side()))
                .unwrap_or(i64::MAX),
        })
    }

    /// What moved on a merchant's account, newest first, before the position `before`; at most
    /// `limit` (1 to 1,000). The issuer, or one of its tills.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn history(
        &self,
        credential: &Credential,
        merchant: MerchantId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Answer<Vec<TransferRow>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = self.core.clock.now_ms();
        let account = Account::merchant_payable(merchant);
        let value = self.core.store.transfers(&account, before, limit).await?;
        Ok(Answer { as_of_ms, value })
    }
}

pub(crate) async fn load_merchant(
    core: &Core,
    merchant: MerchantId,
) -> Result<Loaded<Merchant>, Error> {
    core.load(MERCHANTS, &merchant.to_string())
        .await?
        .ok_or(SettlementError::MerchantNotFound { merchant }.into())
}

/// The step that writes a merchant.
pub(crate) fn write_merchant(merchant: &Merchant, read_version: i64) -> Result<Step, Error> {
    put(
        MERCHANTS,
        merchant.id.to_string(),
        read_version,
        merchant,
        Vec::new(),
    )
}

/// Holds in the commit: the merchant is as it was read.
pub(crate) fn guard(merchant: &Loaded<Merchant>) -> Step {
    let id = merchant.value.id.to_string();
    Step::Require {
        collection: MERCHANTS,
        id,
        version: merchant.version,
    }
}

/// Holds in the commit: the merchant is there, as it was read.
pub(crate) async fn guard_merchant(core: &Core, merchant: MerchantId) -> Result<Step, Error> {
    Ok(guard(&load_merchant(core, merchant).await?))
}
