//! What a request is known by, by this version and by those before it.
//!
//! A command that was sent before an update and is sent again after it is the same command, and has
//! the same answer. It is known by a digest of its text: so where a field of a command is written in
//! another way than before, [`EARLIER`] says how it was written.

use std::iter;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Core, Secrets, unreadable};
use crate::Error;

/// Fields that had another name when commands were first kept: `(now, then)`, and the colon tells a
/// name from a text that looks like one, in which a quotation mark has a backslash before it. In every
/// command, whose text is digested with the names of then.
const RENAMED: &[(&str, &str)] = &[
    ("\"per_tap\":", "\"per_tap_msat\":"),
    ("\"per_day\":", "\"per_day_msat\":"),
    ("\"per_week\":", "\"per_week_msat\":"),
    ("\"per_month\":", "\"per_month_msat\":"),
    ("\"pin_above\":", "\"pin_above_msat\":"),
    ("\"low_balance\":", "\"low_balance_msat\":"),
    ("\"max_balance\":", "\"max_balance_msat\":"),
];

/// How a command is written otherwise than by the version before.
struct Change {
    operations: &'static [&'static str],
    /// Fields that had another name: `(now, then)`.
    renamed: &'static [(&'static str, &'static str)],
    /// A field that says nothing now where nothing is said of it, and said this then.
    filled_in: Option<FilledIn>,
}

struct FilledIn {
    field: &'static str,
    value: &'static str,
    /// The field behind it, which is always written.
    before: &'static str,
}

/// The changes, the last one first: each is made to the text as the one above it leaves it.
const EARLIER: &[Change] = &[
    Change {
        operations: &["card_programs.create", "card_programs.update"],
        renamed: &[],
        filled_in: Some(FilledIn {
            field: "\"fee_bearer\":",
            value: "\"operator\"",
            before: "\"valid_for_ms\":",
        }),
    },
    // For one morning the amounts of a rule for a card in bitcoin had no unit.
    Change {
        operations: &["cards.set_auto_top_up"],
        renamed: &[
            ("\"below_msat\":", "\"below\":"),
            ("\"to_msat\":", "\"to\":"),
        ],
        filled_in: None,
    },
];

impl Change {
    /// The text as the version before wrote it.
    fn undone(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (now, then) in self.renamed {
            text = text.replace(now, then);
        }
        match &self.filled_in {
            Some(it) if !text.contains(it.field) => {
                let FilledIn {
                    field,
                    value,
                    before,
                } = it;
                text.replacen(before, &format!("{field}{value},{before}"), 1)
            }
            _ => text,
        }
    }

    /// The text says itself what was filled in before where it was not said.
    fn is_said(&self, text: &str) -> bool {
        let filled_in = self.filled_in.as_ref();
        filled_in.is_some_and(|it| text.contains(it.field))
    }
}

fn changes(operation: &'static str) -> impl Iterator<Item = &'static Change> {
    let changes = EARLIER.iter();
    changes.filter(move |change| change.operations.contains(&operation))
}

/// What a request is known by.
pub(super) struct Fingerprint {
    /// The digest that is kept: under a key of the engine's, because a request may have little in it
    /// that is not known, the number of a chip, and whoever had a bare digest would find it by trying.
    pub(super) kept: String,
    /// The bare digests of its text and of those that it had before, the last one first.
    plain: Vec<String>,
}

impl Fingerprint {
    fn new(secrets: &Secrets, operation: &'static str, mut text: String) -> Self {
        // Limits of a card are always whole, so that the first of them says whether there are any.
        if RENAMED.first().is_some_and(|(now, _)| text.contains(now)) {
            for (now, then) in RENAMED {
                text = text.replace(now, then);
            }
        }
        let earlier = changes(operation).scan(text.clone(), |text, change| {
            *text = change.undone(text);
            Some(text.clone())
        });
        let plain = iter::once(text.clone()).chain(earlier);
        let plain: Vec<String> = plain.map(|text| digest(&text)).collect();
        // Before, to say it and not to say it was the same; now it is not.
        let kept = match changes(operation).any(|change| change.is_said(&text)) {
            true => digest(&format!("said {text}")),
            false => digest(&text),
        };
        let kept = secrets.fingerprint(&kept);
        Self { kept, plain }
    }

    /// A command that was kept under this digest, by this version or one before, is this one.
    pub(super) fn is(&self, known: &str, secrets: &Secrets) -> bool {
        let mut plain = self.plain.iter();
        // An early version kept the bare digest.
        known == self.kept
            || plain.any(|plain| known == plain || known == secrets.fingerprint(plain))
    }
}

fn digest(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

impl Core {
    pub(super) fn fingerprint(
        &self,
        operation: &'static str,
        command: &impl Serialize,
    ) -> Result<Fingerprint, Error> {
        let text = serde_json::to_string(command).map_err(unreadable)?;
        Ok(Fingerprint::new(&self.secrets, operation, text))
    }
}
