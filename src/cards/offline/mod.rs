//! Taps that a till takes while it is offline: an accepted risk, and it says so.
//!
//! The till numbers, chains and signs what it takes; the engine settles each tap once when it is
//! handed in. See `docs/adr` for what is claimed, and who bears what a card cannot pay.

mod envelope;
mod error;
mod model;
mod replay;
mod rules;

use serde::{Deserialize, Serialize};

pub use envelope::{OFFLINE_ENVELOPE_TAPS, OfflineBook, OfflineKey};
pub use error::OfflineError;
pub use model::{
    AcceptedOffline, EnrollOfflineKey, LossBearer, OfflineEnrolment, OfflineEnvelope,
    OfflineOutcome, OfflineState, OfflineTap, OfflineTerms, SetOfflineTerms, StoppedCard,
};

use super::Cards;
use crate::Error;
use crate::access::{CREDENTIALS, Credential, CredentialRecord, Role};
use crate::core::{Answer, Core, Decision, Executed, Loaded, emit, put};
use crate::ids::{CredentialId, MerchantId};
use crate::ledger::{Refusal, Step};
use crate::settlement::{self, SettlementError};
use envelope::refused;

pub(super) const DAY_MS: i64 = 24 * 3_600_000;
const TERMS: &str = "offline_terms";
const TILLS: &str = "offline_till";
const TAPS: &str = "offline_tap";
/// How many keys a till may register one after the other.
const MAX_KEYS: usize = 100;

/// The terms of a merchant or a till, by its id. They are kept when they are taken away.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TermsRecord {
    terms: Option<OfflineTerms>,
}

/// The keys of a till, the last one in use.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TillKeys {
    keys: Vec<TillKey>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct TillKey {
    public_key: String,
    retired_at_ms: Option<i64>,
}

impl TillKeys {
    fn current(&self) -> Option<&TillKey> {
        self.keys.last()
    }
}

/// The terms that hold for a till: its merchant's, and its own where it has some.
struct Terms {
    merchant: OfflineTerms,
    till: Option<OfflineTerms>,
    /// They hold in the commit.
    guards: Vec<Step>,
}

impl Terms {
    fn of_till(&self) -> OfflineTerms {
        self.till.unwrap_or(self.merchant)
    }
}

async fn load_terms(
    core: &Core,
    merchant: MerchantId,
    till: CredentialId,
) -> Result<Option<Terms>, Error> {
    let mut guards = Vec::new();
    let mut found = Vec::new();
    for id in [merchant.to_string(), till.to_string()] {
        let record: Option<Loaded<TermsRecord>> = core.load(TERMS, &id).await?;
        guards.push(Step::Require {
            collection: TERMS,
            id,
            version: record.as_ref().map_or(0, |record| record.version),
        });
        found.push(record.and_then(|record| record.value.terms));
    }
    let till = found.pop().flatten();
    let merchant = found.pop().flatten();
    Ok(merchant.map(|merchant| Terms {
        merchant,
        till,
        guards,
    }))
}

/// The merchant of a till, revoked or not.
async fn merchant_of(core: &Core, till: CredentialId) -> Result<MerchantId, Error> {
    let found: Option<Loaded<CredentialRecord>> = core.load(CREDENTIALS, &till.to_string()).await?;
    match found.map(|found| found.value.role) {
        Some(Role::Till { merchant }) => Ok(merchant),
        _ => Err(SettlementError::TillNotFound { till }.into()),
    }
}

impl Cards {
    /// Says what a merchant, or one of its tills, may take offline; nothing, until it is said.
    /// Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `settlement.till_not_found`, `command.*`, `access.*`.
    pub async fn set_offline_terms(
        &self,
        credential: &Credential,
        command: SetOfflineTerms,
    ) -> Result<Answer<Option<OfflineTerms>>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                rules::check_terms(command.terms.as_ref())?;
                let decide = || cards.decide_offline_terms(&command);
                let executed: Executed<Option<OfflineTerms>> = core
                    .execute(
                        &caller,
                        "cards.set_offline_terms",
                        &command.key,
                        &command,
                        decide,
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_offline_terms(
        &self,
        command: &SetOfflineTerms,
    ) -> Result<Decision<Option<OfflineTerms>>, Error> {
        let core = &self.core;
        let SetOfflineTerms {
            merchant,
            till,
            terms,
            ..
        } = *command;
        let merchant_guard = settlement::guard_merchant(core, merchant).await?;
        let id = match till {
            Some(till) if merchant_of(core, till).await? == merchant => till.to_string(),
            Some(till) => return Err(SettlementError::TillNotFound { till }.into()),
            None => merchant.to_string(),
        };
        let before: Option<Loaded<TermsRecord>> = core.load(TERMS, &id).await?;
        let version = before.map_or(0, |before| before.version);
        let after = TermsRecord { terms };
        let steps = vec![
            merchant_guard,
            put(TERMS, id.clone(), version, &after, Vec::new())?,
            emit("offline.terms_set", id, command)?,
        ];
        Ok(Decision {
            steps,
            answer: terms,
        })
    }

    /// Registers the key with which the calling till signs what it takes offline. The key before
    /// it is retired: what it signed can still be handed in, where it was taken before. Tills
    /// only.
    ///
    /// # Errors
    /// `offline.bad_key`, `offline.bad_signature`, `offline.key_taken`, `offline.too_many_keys`,
    /// `command.*`, `access.*`.
    pub async fn enroll_offline_key(
        &self,
        credential: &Credential,
        command: EnrollOfflineKey,
    ) -> Result<Answer<OfflineEnrolment>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let merchant = caller.require_till()?;
                envelope::check_proof(caller.id, &command)?;
                let decide = || cards.decide_enroll(caller.id, merchant, &command);
                let executed: Result<Executed<OfflineEnrolment>, Error> = core
                    .execute(
                        &caller,
                        "cards.enroll_offline_key",
                        &command.key,
                        &command,
                        decide,
                    )
                    .await;
                match executed {
                    Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => {
                        Err(refused(OfflineError::KeyTaken))
                    }
                    executed => Ok(executed?.answer),
                }
            })
            .await
    }

    async fn decide_enroll(
        &self,
        till: CredentialId,
        merchant: MerchantId,
        command: &EnrollOfflineKey,
    ) -> Result<Decision<OfflineEnrolment>, Error> {
        let core = &self.core;
        let id = till.to_string();
        let before: Option<Loaded<TillKeys>> = core.load(TILLS, &id).await?;
        let version = before.as_ref().map_or(0, |before| before.version);
        let mut after = before.map(|before| before.value).unwrap_or_default();
        let terms = load_terms(core, merchant, till).await?;
        let answer = OfflineEnrolment {
            till,
            merchant,
            public_key: command.public_key.clone(),
            terms: terms.map(|terms| terms.of_till()),
        };
        let is_it = |key: &TillKey| key.public_key == command.public_key;
        if after.current().is_some_and(is_it) {
            let steps = Vec::new();
            return Ok(Decision { steps, answer });
        }
        if after.keys.len() >= MAX_KEYS {
            let most = MAX_KEYS;
            return Err(refused(OfflineError::TooManyKeys { most }));
        }
        if let Some(last) = after.keys.last_mut() {
            last.retired_at_ms = Some(core.commit_time_ms());
        }
        after.keys.push(TillKey {
            public_key: command.public_key.clone(),
            retired_at_ms: None,
        });
        let steps = vec![
            Step::Claim {
                name: format!("offline_key/{}", command.public_key),
                by: id.clone(),
            },
            put(TILLS, id.clone(), version, &after, Vec::new())?,
            emit("offline.key_enrolled", id, &answer)?,
        ];
        Ok(Decision { steps, answer })
    }

    /// The key of a till and what it may take offline, as it stands now. The till, or the issuer.
    ///
    /// # Errors
    /// `offline.unknown_key` when it has registered none, `settlement.till_not_found`, `access.*`.
    pub async fn offline_enrolment(
        &self,
        credential: &Credential,
        till: CredentialId,
    ) -> Result<Answer<OfflineEnrolment>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        let merchant = merchant_of(core, till).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = core.clock.now_ms();
        let keys: Option<Loaded<TillKeys>> = core.load(TILLS, &till.to_string()).await?;
        let keys = keys.ok_or(refused(OfflineError::UnknownKey))?.value;
        let current = keys.current().ok_or(refused(OfflineError::UnknownKey))?;
        let terms = load_terms(core, merchant, till).await?;
        let value = OfflineEnrolment {
            till,
            merchant,
            public_key: current.public_key.clone(),
            terms: terms.map(|terms| terms.of_till()),
        };
        Ok(Answer { as_of_ms, value })
    }

    /// What became of a merchant's taps that were taken offline, key by key and in the order of
    /// their numbers, after the outcome `after` ([`OfflineOutcome::id`]); at most `limit` (1 to
    /// 1,000). A till of the merchant, or the issuer.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list_offline(
        &self,
        credential: &Credential,
        merchant: MerchantId,
        after: Option<String>,
        limit: usize,
    ) -> Result<Answer<Vec<OfflineOutcome>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = self.core.clock.now_ms();
        let records: Vec<rules::TapRecord> = self
            .core
            .list(TAPS, "merchant", &merchant.to_string(), after, limit)
            .await?;
        let value = records.into_iter().map(|record| record.outcome).collect();
        Ok(Answer { as_of_ms, value })
    }
}
