//! How a seller's receipts are written, and the keys that they are signed with.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::error::ReceiptError;
use super::model::{
    IssuedReceipt, Receipt, ReceiptKey, ReceiptSettings, RotateReceiptKey, SellerReceipts,
    SetReceiptSettings,
};
use super::signing::SigningKey;
use super::{Receipts, series_key};
use crate::Error;
use crate::access::Credential;
use crate::core::{
    Answer, CommandError, Core, Decision, Executed, Loaded, check_text, emit, put, unreadable,
};
use crate::ids::MerchantId;
use crate::ledger::Step;
use crate::settlement;

const SETTINGS: &str = "receipt_settings";
const KEYS: &str = "receipt_keys";
/// All of them are in one document.
const ALL: &str = "all";
const MAX_LINES: usize = 8;
/// Clocks of instances on the same books differ: the key before still signs for as long on one
/// that is behind.
const CLOCKS_DIFFER_MS: i64 = 60_000;

#[derive(Default, Serialize, Deserialize)]
struct Keys {
    keys: Vec<ReceiptKey>,
}

/// What was set for a seller.
pub(super) async fn load(
    core: &Core,
    merchant: Option<MerchantId>,
) -> Result<Option<Loaded<SellerReceipts>>, Error> {
    core.load(SETTINGS, &series_key(merchant)).await
}

pub(super) fn zone(name: &str) -> Result<TimeZone, ReceiptError> {
    TimeZone::get(name).map_err(|_| ReceiptError::UnknownTimeZone {
        time_zone: name.chars().take(50).collect(),
    })
}

impl ReceiptSettings {
    fn check(&self) -> Result<(), Error> {
        zone(&self.time_zone)?;
        for (field, lines) in [("heading", &self.heading), ("footer", &self.footer)] {
            let bounds = "at most 8 lines of 100 characters";
            if lines.len() > MAX_LINES {
                return Err(CommandError::OutOfBounds { field, bounds }.into());
            }
            for line in lines {
                check_text(field, line, 100, bounds)?;
            }
        }
        check_text("tax_number", &self.tax_number, 50, "50 characters")?;
        Ok(())
    }
}

impl Receipts {
    /// Sets how the receipts of a seller are written; those that were issued stay as they are.
    /// From then on each of its sales is given a receipt when it is settled. Issuer only.
    ///
    /// # Errors
    /// `settlement.merchant_not_found`, `receipt.unknown_time_zone`, `command.*`, `access.*`.
    pub async fn set_settings(
        &self,
        credential: &Credential,
        command: SetReceiptSettings,
    ) -> Result<Answer<SellerReceipts>, Error> {
        let (receipts, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &receipts.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                command.settings.check()?;
                let merchant = command.merchant;
                let decide = || async {
                    let mut steps = Vec::new();
                    if let Some(merchant) = merchant {
                        steps.push(settlement::guard_merchant(core, merchant).await?);
                    }
                    let version = load(core, merchant).await?.map_or(0, |found| found.version);
                    let answer = SellerReceipts {
                        merchant,
                        settings: command.settings.clone(),
                    };
                    let id = series_key(merchant);
                    steps.push(put(SETTINGS, id.clone(), version, &answer, Vec::new())?);
                    steps.push(emit("receipt.settings_set", id, &answer)?);
                    Ok(Decision { steps, answer })
                };
                let operation = "receipts.set_settings";
                let executed: Executed<SellerReceipts> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// How the receipts of a seller are written; what counts where nothing was set, if nothing
    /// was. The issuer, or a till of the merchant.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn settings(
        &self,
        credential: &Credential,
        merchant: Option<MerchantId>,
    ) -> Result<Answer<SellerReceipts>, Error> {
        self.require_seller(credential, merchant).await?;
        let as_of_ms = self.core.clock.now_ms();
        let found = load(&self.core, merchant).await?;
        let none = SellerReceipts {
            merchant,
            settings: ReceiptSettings::default(),
        };
        let value = found.map_or(none, |found| found.value);
        Ok(Answer { as_of_ms, value })
    }

    /// The public keys that receipts are and were signed with, the first one first: to be shown
    /// where customers and auditors find them. Empty before the first receipt. Anybody may have
    /// them.
    ///
    /// # Errors
    /// `store.*`.
    pub async fn keys(&self) -> Result<Answer<Vec<ReceiptKey>>, Error> {
        let as_of_ms = self.core.clock.now_ms();
        let found = self.load_keys().await?;
        let value = found.map_or_else(Vec::new, |found| found.value.keys);
        Ok(Answer { as_of_ms, value })
    }

    /// Has receipts be signed with a new key from now on, and answers it. The one before stays
    /// published, for what it signed until then: it signs for at most another minute, on an
    /// instance whose clock is behind. Issuer only.
    ///
    /// # Errors
    /// `command.*`, `access.*`.
    pub async fn rotate_key(
        &self,
        credential: &Credential,
        command: RotateReceiptKey,
    ) -> Result<Answer<ReceiptKey>, Error> {
        let (receipts, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &receipts.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let decide = || async {
                    let found = receipts.load_keys().await?;
                    let (version, mut keys) = split(found);
                    let now_ms = core.clock.now_ms();
                    if let Some(last) = keys.keys.last_mut() {
                        last.until_ms = Some(now_ms.saturating_add(CLOCKS_DIFFER_MS));
                    }
                    let answer = receipts.next_key(&keys, now_ms)?;
                    keys.keys.push(answer.clone());
                    let steps = vec![
                        put(KEYS, ALL.to_owned(), version, &keys, Vec::new())?,
                        emit("receipt.key_rotated", answer.public_key.clone(), &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let operation = "receipts.rotate_key";
                let executed: Executed<ReceiptKey> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn load_keys(&self) -> Result<Option<Loaded<Keys>>, Error> {
        self.core.load(KEYS, ALL).await
    }

    fn signing_key(&self, generation: u32) -> Result<SigningKey, ReceiptError> {
        SigningKey::new(&self.core.secrets.receipt_key(generation))
    }

    fn next_key(&self, keys: &Keys, since_ms: i64) -> Result<ReceiptKey, ReceiptError> {
        let generation = keys.keys.last().map_or(0, |last| last.generation);
        let generation = generation.saturating_add(1);
        Ok(ReceiptKey {
            generation,
            public_key: self.signing_key(generation)?.public_key(),
            since_ms,
            until_ms: None,
        })
    }

    /// Signs a receipt with the key of now, which holds in the commit; the first one is made with
    /// the first receipt.
    pub(super) async fn sign(
        &self,
        receipt: Receipt,
        steps: &mut Vec<Step>,
    ) -> Result<IssuedReceipt, Error> {
        let (version, mut keys) = split(self.load_keys().await?);
        let generation = match keys.keys.last() {
            Some(last) => {
                steps.push(Step::Require {
                    collection: KEYS,
                    id: ALL.to_owned(),
                    version,
                });
                last.generation
            }
            None => {
                let first = self.next_key(&keys, receipt.issued_at_ms)?;
                let generation = first.generation;
                keys.keys.push(first);
                steps.push(put(KEYS, ALL.to_owned(), version, &keys, Vec::new())?);
                generation
            }
        };
        let body = serde_json::to_string(&receipt).map_err(unreadable)?;
        let signed = self.signing_key(generation)?.sign(&body);
        Ok(IssuedReceipt { receipt, signed })
    }
}

fn split(found: Option<Loaded<Keys>>) -> (i64, Keys) {
    found.map_or((0, Keys::default()), |found| (found.version, found.value))
}
