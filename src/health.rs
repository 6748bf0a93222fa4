//! How the engine stands, for whoever has to be woken.

use serde::{Deserialize, Serialize};

use crate::core::Core;

/// What is wrong now. Everything here mends itself once its cause has gone, except where
/// [`since_ms`](Trouble::since_ms) is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The books are not written: commands are refused with this error.
    pub store: Option<Trouble>,
    /// The node's state is not written: its channels wait, or it has lost its place.
    pub node: Option<Trouble>,
}

impl Health {
    /// True when nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.store.is_none() && self.node.is_none()
    }

    pub(crate) fn of(core: &Core) -> Self {
        let store = core.store.trouble().map(|trouble| Trouble {
            code: trouble.error.code().to_owned(),
            detail: trouble.error.to_string(),
            since_ms: Some(trouble.since_ms),
            writes_waiting: 0,
        });
        let node = core.lightning.as_ref().and_then(|node| node.trouble());
        let node = node.map(|trouble| Trouble {
            code: trouble.error.code().to_owned(),
            detail: trouble.error.to_string(),
            since_ms: trouble.since_ms,
            writes_waiting: trouble.writes_waiting,
        });
        Self { store, node }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The code of the error: `store.full`, `store.moved`, `store.fenced`.
    pub code: String,
    /// For a person, in English.
    pub detail: String,
    /// Since when, milliseconds since the epoch; `None` where it is for good.
    pub since_ms: Option<i64>,
    /// How many writes wait and are tried again.
    pub writes_waiting: usize,
}
