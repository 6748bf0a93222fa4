//! Labels as wallets exchange them: BIP 329, one JSON record a line.

use serde::{Deserialize, Serialize};

use super::model::{Coin, ImportLabels, LabelsImported, WalletAddress};
use super::{ADDRESSES, COINS, WalletError, Wallets, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, CommandError, Decision, Executed, Loaded, emit};
use crate::ids::WalletId;

const MAX_LINES: usize = 1_000;
/// What BIP 329 has wallets keep at least.
const MAX_LABEL: usize = 255;

/// One label (BIP 329).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRecord {
    /// What it is of: `addr` and `output` are the ones that are kept.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which: an address, or `txid:vout`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// What people say of it; longer ones than 255 characters are cut.
    #[serde(default)]
    pub label: String,
}

/// The same as somebody wrote it.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "ref")]
    reference: String,
    label: Option<String>,
}

impl LabelRecord {
    /// Reads records, one a line; empty lines are none. Fields that are not known are passed over,
    /// and so are records without a label: they say something else of what they are of, which
    /// keeps the label that it has. An empty one takes it away.
    ///
    /// # Errors
    /// `wallet.bad_label`, with the number of the line.
    pub fn read(lines: &str) -> Result<Vec<Self>, WalletError> {
        let mut records = Vec::new();
        for (at, line) in lines.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let line: Line =
                serde_json::from_str(line).map_err(|_| WalletError::BadLabel { line: at + 1 })?;
            let Some(label) = line.label else { continue };
            let label = label.chars().filter(|c| !c.is_control());
            records.push(Self {
                kind: line.kind,
                reference: line.reference,
                label: label.take(MAX_LABEL).collect(),
            });
        }
        Ok(records)
    }

    /// Writes records, one a line.
    pub fn write(records: &[Self]) -> String {
        let lines = records.iter().filter_map(|record| {
            let line = serde_json::to_string(record).ok()?;
            Some(line + "\n")
        });
        lines.collect()
    }
}

impl Wallets {
    /// Takes the labels of a wallet's addresses and coins from another wallet (BIP 329). What it
    /// does not have is passed over and counted.
    ///
    /// # Errors
    /// `wallet.not_found`, `wallet.bad_label`, `command.*`, `access.*`.
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
        let (mut steps, mut taken) = (Vec::new(), 0);
        // The last label of one thing is the one that counts, and it is written once.
        let mut seen = std::collections::BTreeSet::new();
        for record in records.iter().rev() {
            if !seen.insert((&record.kind, &record.reference)) {
                continue;
            }
            let step = match record.kind.as_str() {
                "addr" => {
                    let found: Option<Loaded<WalletAddress>> = self
                        .core
                        .find(ADDRESSES, "address", &record.reference)
                        .await?;
                    let found = found.filter(|found| found.value.wallet == wallet);
                    found.map(|found| {
                        let label = record.label.clone();
                        let after = WalletAddress {
                            label,
                            ..found.value
                        };
                        let now_ms = self.core.clock.now_ms();
                        rules::write_address(&after, found.version, now_ms)
                    })
                }
                "output" => {
                    let found: Option<Loaded<Coin>> =
                        self.core.load(COINS, &record.reference).await?;
                    let found = found.filter(|found| found.value.wallet == wallet);
                    found.map(|found| {
                        let label = record.label.clone();
                        let after = Coin {
                            label,
                            ..found.value
                        };
                        rules::write_coin(&after, found.version)
                    })
                }
                _ => None,
            };
            if let Some(step) = step {
                steps.push(step?);
                taken += 1;
            }
        }
        let answer = LabelsImported {
            taken,
            ignored: records.len() - taken,
        };
        steps.push(emit("wallet.labels_imported", wallet.to_string(), &answer)?);
        Ok(Decision { steps, answer })
    }

    /// The labels of a wallet's addresses and unspent coins, for another wallet (BIP 329).
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
        let (mut records, mut from) = (Vec::new(), 0);
        loop {
            let page = self.addresses(credential, wallet, from, MAX_LINES).await?;
            let Some(last) = page.value.last() else { break };
            from = last.index.saturating_add(1);
            let labelled = page
                .value
                .iter()
                .filter(|address| !address.label.is_empty());
            records.extend(labelled.map(|address| LabelRecord {
                kind: "addr".to_owned(),
                reference: address.address.clone(),
                label: address.label.clone(),
            }));
        }
        for (_, coin) in self.core.unspent(wallet).await? {
            if !coin.label.is_empty() {
                records.push(LabelRecord {
                    kind: "output".to_owned(),
                    reference: coin.outpoint,
                    label: coin.label,
                });
            }
        }
        let value = LabelRecord::write(&records);
        Ok(Answer { as_of_ms, value })
    }
}
