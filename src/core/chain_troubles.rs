//! What the watch of the chain cannot do at the moment: of this process, and nothing that must
//! outlive it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most that are remembered.
const MOST: usize = 100;

/// What cannot be looked at, or put to the invoices, by the address.
#[derive(Default)]
pub(crate) struct ChainTroubles(Mutex<BTreeMap<String, ChainTrouble>>);

#[derive(Debug, Clone)]
pub(crate) struct ChainTrouble {
    pub(crate) code: String,
    pub(crate) detail: String,
    pub(crate) since_ms: i64,
}

impl ChainTroubles {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, ChainTrouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was `looked_at` is well, unless it is among what is `wrong`: what, a code and a detail.
    #[cfg_attr(
        not(feature = "chain"),
        allow(dead_code, reason = "only wallets say so")
    )]
    pub(crate) fn note<'a>(
        &self,
        looked_at: impl Iterator<Item = &'a str>,
        wrong: &[(&str, &str, &str)],
        now_ms: i64,
    ) {
        let mut kept = self.kept();
        for name in looked_at {
            if wrong.iter().all(|(what, ..)| *what != name) {
                kept.remove(name);
            }
        }
        for (what, code, detail) in wrong {
            let known = kept.get(*what).map(|known| known.since_ms);
            if known.is_none() && kept.len() >= MOST {
                continue;
            }
            let trouble = ChainTrouble {
                code: (*code).to_owned(),
                detail: format!("{what}: {detail}"),
                since_ms: known.unwrap_or(now_ms),
            };
            kept.insert((*what).to_owned(), trouble);
        }
    }

    /// The one that has been there for the longest, and how many there are.
    pub(crate) fn first(&self) -> Option<(ChainTrouble, usize)> {
        let kept = self.kept();
        let first = kept.values().min_by_key(|trouble| trouble.since_ms);
        first.map(|first| (first.clone(), kept.len()))
    }
}
