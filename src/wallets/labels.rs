//! Labels of a wallet: what its user says of its transactions, addresses, keys and coins (BIP 329).
//!
//! They are the user's: also what is said of things that the wallet does not know, and fields that
//! it does not understand, are kept and given out again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::label_lines::LabelRecord;
use super::model::{Coin, ImportLabels, LabelsImported, WalletAddress};
use super::watching::corrupt;
use super::{ADDRESSES, COINS, WalletError, Wallets, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, CommandError, Decision, Executed, Loaded, emit, put};
use crate::ids::WalletId;
use crate::ledger::Step;
use crate::store::MAX_PAGE;

const LABELS: &str = "wallet_label";
const KEPT: &str = "wallet_labels_kept";
const MAX_LINES: usize = 1_000;
/// The most records that are kept for one wallet.
const MAX_KEPT: usize = 10_000;

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    wallet: WalletId,
    /// The line that says it.
    line: String,
}

/// How many records are kept for a wallet: written by every import, so that no two go on from the
/// same.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct KeptCount {
    records: usize,
}

impl Wallets {
    /// Takes labels in from another wallet (BIP 329). All types are kept, and fields that are not
    /// known, and what is said of things that the wallet does not have: up to 10,000 records. What a
    /// record does not name stays as it was; an empty label takes the label away. An output that is
    /// not `spendable` is taken by no new spend until a record says that it is.
    ///
    /// Where a line is no record nothing is taken in, and the refusal has the numbers of all such
    /// lines.
    ///
    /// # Errors
    /// `wallet.not_found`, `wallet.bad_label`, `wallet.too_many_labels`, `command.*`, `access.*`.
    pub async fn import_labels(
        &self,
        credential: &Credential,
        command: ImportLabels,
    ) -> Result<Answer<LabelsImported>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let (caller, _) = wallets.admitted(&credential, command.wallet).await?;
                let records = LabelRecord::read(&command.lines)?;
                if records.len() > MAX_LINES {
                    let (field, bounds) = ("lines", "1,000 records");
                    return Err(CommandError::OutOfBounds { field, bounds }.into());
                }
                let executed: Executed<LabelsImported> = wallets
                    .core
                    .execute(
                        &caller,
                        "wallets.import_labels",
                        &command.key,
                        &command,
                        || wallets.decide_import(command.wallet, &records),
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_import(
        &self,
        wallet: WalletId,
        records: &[LabelRecord],
    ) -> Result<Decision<LabelsImported>, Error> {
        // Of one thing the last record counts, over those before it; it is written once.
        let mut merged: BTreeMap<(&str, &str), LabelRecord> = BTreeMap::new();
        for record in records {
            let name = (record.kind.as_str(), record.reference.as_str());
            let record = match merged.remove(&name) {
                Some(before) => record.clone().over(before),
                None => record.clone(),
            };
            merged.insert(name, record);
        }
        let id = wallet.to_string();
        let count: Option<Loaded<KeptCount>> = self.core.load(KEPT, &id).await?;
        let version = count.as_ref().map_or(0, |count| count.version);
        let mut kept = count.map_or(0, |count| count.value.records);
        let (mut steps, mut taken, all) = (Vec::new(), 0, merged.len());
        for record in merged.into_values() {
            if let Some(step) = self.named(wallet, &record).await? {
                steps.push(step);
                taken += 1;
            }
            let (step, is_new) = self.kept(wallet, record).await?;
            steps.push(step);
            kept += usize::from(is_new);
        }
        if kept > MAX_KEPT {
            return Err(WalletError::TooManyLabels { most: MAX_KEPT }.into());
        }
        let count = KeptCount { records: kept };
        steps.push(put(KEPT, id, version, &count, Vec::new())?);
        let ignored = all - taken;
        let answer = LabelsImported { taken, ignored };
        steps.push(emit("wallet.labels_imported", wallet.to_string(), &answer)?);
        Ok(Decision { steps, answer })
    }

    /// The step that gives an address or a coin of the wallet the label, or leaves it the one that it
    /// has; `None` where the wallet has no such.
    async fn named(&self, wallet: WalletId, record: &LabelRecord) -> Result<Option<Step>, Error> {
        let (core, name) = (&self.core, &record.reference);
        let label = record.short_label();
        let step = match record.kind.as_str() {
            "addr" => {
                let found: Option<Loaded<WalletAddress>> =
                    core.find(ADDRESSES, "address", name).await?;
                let found = found.filter(|found| found.value.wallet == wallet);
                found.map(|Loaded { version, mut value }| {
                    value.label = label.unwrap_or(value.label);
                    rules::write_address(&value, version, core.clock.now_ms())
                })
            }
            "output" => {
                let found: Option<Loaded<Coin>> = core.load(COINS, name).await?;
                let found = found.filter(|found| found.value.wallet == wallet);
                found.map(|Loaded { version, mut value }| {
                    value.label = label.unwrap_or(value.label);
                    rules::write_coin(&value, version)
                })
            }
            _ => None,
        };
        step.transpose()
    }

    /// The step that keeps a record, and whether none was kept of its thing before.
    async fn kept(&self, wallet: WalletId, record: LabelRecord) -> Result<(Step, bool), Error> {
        let id = kept_id(wallet, &record);
        let found: Option<Loaded<Kept>> = self.core.load(LABELS, &id).await?;
        let version = found.as_ref().map_or(0, |found| found.version);
        let record = match found {
            Some(before) => record.over(before.value.record()?),
            None => record,
        };
        let mut keys = vec![("wallet", wallet.to_string())];
        if record.kind == "output" && record.spendable == Some(false) {
            keys.push(("frozen", wallet.to_string()));
        }
        let line = record.line();
        let step = put(LABELS, id, version, &Kept { wallet, line }, keys)?;
        Ok((step, version == 0))
    }

    /// The outputs that no new spend of a wallet may take, as its user says.
    pub(super) async fn frozen(&self, wallet: WalletId) -> Result<BTreeSet<String>, Error> {
        let records = self.records(wallet, "frozen").await?;
        Ok(records.into_iter().map(|record| record.reference).collect())
    }

    async fn records(
        &self,
        wallet: WalletId,
        index: &'static str,
    ) -> Result<Vec<LabelRecord>, Error> {
        let (key, mut after, mut records) = (wallet.to_string(), None, Vec::new());
        loop {
            let page: Vec<(String, Result<Kept, Error>)> = self
                .core
                .list_each(LABELS, index, &key, after, MAX_PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(records);
            };
            after = Some(last.clone());
            for (_, kept) in page {
                records.push(kept?.record()?);
            }
        }
    }

    /// The labels of a wallet, for another wallet (BIP 329): those of its addresses and unspent
    /// coins, and every record that was ever taken in.
    ///
    /// # Errors
    /// `wallet.not_found`, `access.*`.
    pub async fn export_labels(
        &self,
        credential: &Credential,
        wallet: WalletId,
    ) -> Result<Answer<String>, Error> {
        self.admitted(credential, wallet).await?;
        let as_of_ms = self.core.clock.now_ms();
        let mut records = BTreeMap::new();
        for record in self.records(wallet, "wallet").await? {
            records.insert((record.kind.clone(), record.reference.clone()), record);
        }
        let mut name = |kind: &str, reference: String, label: String| {
            if label.is_empty() {
                return;
            }
            let named = LabelRecord {
                kind: kind.to_owned(),
                reference,
                label: Some(label),
                origin: None,
                spendable: None,
                other: BTreeMap::new(),
            };
            let at = (named.kind.clone(), named.reference.clone());
            let record = match records.remove(&at) {
                // What is shown is all of the label, or the beginning of it.
                Some(kept) if kept.short_label() == named.label => kept,
                Some(kept) => named.over(kept),
                None => named,
            };
            records.insert(at, record);
        };
        let mut from = 0;
        loop {
            let page = self.addresses(credential, wallet, from, MAX_LINES).await?;
            let Some(last) = page.value.last() else { break };
            from = last.index.saturating_add(1);
            for address in page.value {
                name("addr", address.address, address.label);
            }
        }
        for (_, coin) in self.core.unspent(wallet).await? {
            name("output", coin.outpoint, coin.label);
        }
        let records: Vec<LabelRecord> = records.into_values().collect();
        let value = LabelRecord::write(&records);
        Ok(Answer { as_of_ms, value })
    }
}

impl Kept {
    fn record(&self) -> Result<LabelRecord, Error> {
        let record = LabelRecord::kept_line(&self.line);
        record.map_err(|_| corrupt("a label"))
    }
}

/// One record a thing; a reference may be longer than an id.
fn kept_id(wallet: WalletId, record: &LabelRecord) -> String {
    let digest = Sha256::new()
        .chain_update(record.kind.as_bytes())
        .chain_update([0])
        .chain_update(record.reference.as_bytes());
    format!("{wallet}/{}", hex::encode(digest.finalize()))
}
