//! Labels as wallets exchange them (BIP 329): one JSON record a line.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::WalletError;

/// What BIP 329 has wallets keep of a label at least, in characters.
const MAX_LABEL: usize = 255;
/// The longest line that is kept, in bytes.
const MAX_LINE: usize = 4_096;
const MAX_KIND: usize = 32;
const MAX_REFERENCE: usize = 512;

/// One record (BIP 329). What it does not name it says nothing of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRecord {
    /// What it is of: `tx`, `addr`, `pubkey`, `input`, `output`, `xpub`, or a type that is not known.
    pub kind: String,
    /// Which: a txid, an address, a public key, `txid:vin`, `txid:vout`, or an extended public key.
    pub reference: String,
    /// What people say of it; an empty one takes the label away.
    pub label: Option<String>,
    /// Of a transaction the keys that it is of (`wpkh([d34db33f/84'/0'/0'])`).
    pub origin: Option<String>,
    /// Of an output whether a wallet may take it for its spends.
    pub spendable: Option<bool>,
    /// All other fields, each as its JSON.
    pub other: BTreeMap<String, String>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelFault {
    /// It is no JSON object.
    NoObject,
    /// It has no `type`, or none of 1 to 32 characters.
    BadType,
    /// It has no `ref`, or none of 1 to 512 characters.
    BadRef,
    /// `label` or `origin` is no text, or `spendable` neither true nor false.
    BadField,
    /// It is longer than 4,096 bytes.
    TooLong,
}

impl fmt::Display for LabelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoObject => "it is no JSON object",
            Self::BadType => "its type is missing, or not 1 to 32 characters",
            Self::BadRef => "its ref is missing, or not 1 to 512 characters",
            Self::BadField => "its label or origin is no text, or spendable not true or false",
            Self::TooLong => "it is longer than 4,096 bytes",
        })
    }
}

impl LabelRecord {
    /// Reads records, one a line; empty lines are none. Either all lines are records, or none is
    /// taken.
    ///
    /// # Errors
    /// `wallet.bad_label`, with the number of every line that is none.
    pub fn read(lines: &str) -> Result<Vec<Self>, WalletError> {
        let (mut records, mut bad) = (Vec::new(), Vec::new());
        for (line, text) in (1..).zip(lines.lines()) {
            if text.trim().is_empty() {
                continue;
            }
            match Self::read_line(text.trim()) {
                Ok(record) => records.push(record),
                Err(fault) => bad.push((line, fault)),
            }
        }
        match bad.first() {
            Some((line, fault)) => Err(WalletError::BadLabel {
                line: *line,
                fault: *fault,
                lines: bad.iter().map(|(line, _)| *line).collect(),
            }),
            None => Ok(records),
        }
    }

    /// Reads one line.
    pub(super) fn read_line(line: &str) -> Result<Self, LabelFault> {
        if line.len() > MAX_LINE {
            return Err(LabelFault::TooLong);
        }
        let record = Self::kept_line(line)?;
        // What cannot be given out again as a line that is read is none.
        match record.line().len() > MAX_LINE {
            true => Err(LabelFault::TooLong),
            false => Ok(record),
        }
    }

    /// Reads one line that was written here.
    pub(super) fn kept_line(line: &str) -> Result<Self, LabelFault> {
        let fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(line).map_err(|_| LabelFault::NoObject)?;
        let mut other: BTreeMap<String, String> = fields
            .into_iter()
            .map(|(name, value)| (name, value.get().to_owned()))
            .collect();
        let kind = text(other.remove("type"), MAX_KIND).ok_or(LabelFault::BadType)?;
        let reference = text(other.remove("ref"), MAX_REFERENCE).ok_or(LabelFault::BadRef)?;
        Ok(Self {
            kind,
            reference,
            label: field(other.remove("label"))?,
            origin: field(other.remove("origin"))?,
            spendable: field(other.remove("spendable"))?,
            other,
        })
    }

    /// Writes records, one a line.
    pub fn write(records: &[Self]) -> String {
        records.iter().map(|record| record.line() + "\n").collect()
    }

    pub(super) fn line(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let known = [
            ("type", Some(quoted(&self.kind))),
            ("ref", Some(quoted(&self.reference))),
            ("label", self.label.as_deref().map(quoted)),
            ("origin", self.origin.as_deref().map(quoted)),
            ("spendable", self.spendable.map(|yes| yes.to_string())),
        ];
        let known = known.into_iter();
        let known = known.filter_map(|(name, json)| Some((name.to_owned(), json?)));
        let fields = known.chain(self.other.clone());
        let fields = fields.map(|(name, json)| format!("{}:{json}", quoted(&name)));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    }

    /// What it says, over what was said before: a field that it does not name stays as it was. Where
    /// both are more than one line holds, those go that are not known here, and then all but whether
    /// it may be spent.
    pub(super) fn over(self, before: Self) -> Self {
        let known = Self {
            other: BTreeMap::new(),
            ..before.clone()
        };
        let [most, less] = [before, known].map(|before| self.clone().beside(before));
        match (most.line().len(), less.line().len()) {
            (..=MAX_LINE, _) => most,
            (_, ..=MAX_LINE) => less,
            _ => Self {
                spendable: less.spendable,
                ..self
            },
        }
    }

    fn beside(self, before: Self) -> Self {
        let mut other = before.other;
        other.extend(self.other);
        Self {
            kind: self.kind,
            reference: self.reference,
            label: self.label.or(before.label),
            origin: self.origin.or(before.origin),
            spendable: self.spendable.or(before.spendable),
            other,
        }
    }

    /// Its label as an address or a coin has it: without control characters, and cut.
    pub(super) fn short_label(&self) -> Option<String> {
        let label = self.label.as_ref()?;
        let shown = label.chars().filter(|c| !c.is_control());
        Some(shown.take(MAX_LABEL).collect())
    }
}

/// A text that is not empty.
fn text(json: Option<String>, most: usize) -> Option<String> {
    let text: String = serde_json::from_str(&json?).ok()?;
    (1..=most).contains(&text.chars().count()).then_some(text)
}

/// A field that may be missing; one that is null is.
fn field<T: serde::de::DeserializeOwned>(json: Option<String>) -> Result<Option<T>, LabelFault> {
    match json {
        Some(json) => serde_json::from_str(&json).map_err(|_| LabelFault::BadField),
        None => Ok(None),
    }
}
