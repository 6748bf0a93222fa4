//! How the engine stands, for whoever has to be woken.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::core::Core;

/// What is wrong now. Everything here mends itself once its cause has gone, except where
/// [`since_ms`](Trouble::since_ms) is `None`, and but for `store.handed_over`: the books live in
/// another store, for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The books are not written: commands are refused with this error.
    pub store: Option<Trouble>,
    /// The node's state is not written: its channels wait, or it has lost its place.
    pub node: Option<Trouble>,
    /// The clock of this machine and the time of the books are more than a minute apart, so that one
    /// of them is wrong: `store.clock_behind`, the clock is behind the last commit; or
    /// `store.clock_ahead`, it has gone more than a day ahead at once and is not believed yet. The
    /// books are written all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Trouble>,
    /// An address that the chain's source does not tell of, or what came to it that could not be put
    /// to the invoices; or the mempool, which could not be read: `chain.bad_answer` for example. The
    /// others are watched all the same. Of several the one that has been there for the longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Trouble>,
}

/// How far the clock and the time of the books may be apart.
const APART_MS: i64 = 60_000;

impl Health {
    /// True when nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.store.is_none() && self.node.is_none() && self.clock.is_none() && self.chain.is_none()
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
        let clock = clock_trouble(core);
        let chain = core.chain_troubles.first().map(|(first, of)| Trouble {
            code: first.code,
            detail: match of {
                1 => first.detail,
                of => format!("{} (one of {of})", first.detail),
            },
            since_ms: Some(first.since_ms),
            writes_waiting: 0,
        });
        Self {
            store,
            node,
            clock,
            chain,
        }
    }
}

fn clock_trouble(core: &Core) -> Option<Trouble> {
    let (wall_ms, books_ms) = (core.clock.now_ms(), core.commit_time_ms());
    let since_ms = &core.apart_since_ms;
    if books_ms.abs_diff(wall_ms) <= APART_MS.unsigned_abs() {
        since_ms.store(0, Ordering::SeqCst);
        return None;
    }
    let before = since_ms.compare_exchange(0, books_ms, Ordering::SeqCst, Ordering::SeqCst);
    let (code, detail) = if wall_ms < books_ms {
        let detail = "the clock is behind the last commit: it is, or was, set wrongly";
        ("store.clock_behind", detail)
    } else {
        let detail = "the clock has gone far ahead at once: it is believed if it stays there";
        ("store.clock_ahead", detail)
    };
    Some(Trouble {
        code: code.to_owned(),
        detail: detail.to_owned(),
        since_ms: Some(before.err().unwrap_or(books_ms)),
        writes_waiting: 0,
    })
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
