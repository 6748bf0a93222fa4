//! What a round could not do: left out, so that the others are not, and told.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{WalletAddress, WatchProblem};
use super::watching::{Cursor, Page};
use crate::Error;
use crate::chain::View;
use crate::core::Core;

/// The most that are told of a round.
const MOST: usize = 20;
/// What people call that which has no address.
const MEMPOOL: &str = "the mempool";

/// What went wrong in a round.
pub(super) struct Problems {
    found: Vec<WatchProblem>,
    is_mempool_read: bool,
}

impl Problems {
    /// What the source could not tell is taken off the page: nothing is concluded of it. Where the
    /// source stopped answering, the next round begins there.
    pub(super) fn of(view: &View, page: &mut Page, before: &Cursor) -> Self {
        let mut problems = Self {
            found: Vec::new(),
            is_mempool_read: view.missed.mempool.is_none(),
        };
        if let Some(error) = &view.missed.mempool {
            problems.push(None, &error.clone().into());
        }
        let unasked = view
            .missed
            .unasked
            .iter()
            .map(|script| script.to_hex_string());
        let unasked: BTreeSet<String> = unasked.collect();
        if !unasked.is_empty() {
            goes_on_behind(page, &unasked, before);
        }
        let failed = view.missed.scripts.iter();
        let failed: BTreeMap<String, _> = failed
            .map(|(script, error)| (script.to_hex_string(), error))
            .collect();
        page.addresses.retain(|address| {
            if let Some(error) = failed.get(&address.script) {
                problems.push(Some(&address.address), &(*error).clone().into());
                return false;
            }
            !unasked.contains(&address.script)
        });
        problems
    }

    pub(super) fn add(&mut self, address: &WalletAddress, error: &Error) {
        self.push(Some(&address.address), error);
    }

    fn push(&mut self, address: Option<&str>, error: &Error) {
        self.found.push(WatchProblem {
            address: address.map(str::to_owned),
            code: error.code().to_owned(),
            detail: error.detail(),
        });
    }

    /// Says it in the engine's health, until a later round could; answers the first of it.
    pub(super) fn told(mut self, core: &Core, looked_at: &[WalletAddress]) -> Vec<WatchProblem> {
        let looked_at = looked_at.iter().map(|address| address.address.as_str());
        let looked_at = looked_at.chain(self.is_mempool_read.then_some(MEMPOOL));
        let wrong = self.found.iter().map(|it| {
            let what = it.address.as_deref().unwrap_or(MEMPOOL);
            (what, it.code.as_str(), it.detail.as_str())
        });
        let wrong: Vec<_> = wrong.collect();
        core.chain_troubles
            .note(looked_at, &wrong, core.clock.now_ms());
        self.found.truncate(MOST);
        self.found
    }
}

/// Behind the last script that was asked for.
fn goes_on_behind(page: &mut Page, unasked: &BTreeSet<String>, before: &Cursor) {
    let hot = page.hot.min(page.addresses.len());
    let (hot, cold) = page.addresses.split_at(hot);
    let behind = |part: &[WalletAddress], before: &Option<String>| {
        let asked = part
            .iter()
            .take_while(|address| !unasked.contains(&address.script));
        let last = asked.last().map(|address| address.script.clone());
        last.or_else(|| before.clone())
    };
    let is_cut = |part: &[WalletAddress]| part.iter().any(|it| unasked.contains(&it.script));
    if is_cut(hot) {
        page.cursor.hot_after = behind(hot, &before.hot_after);
    }
    if is_cut(cold) {
        page.cursor.cold_after = behind(cold, &before.cold_after);
    }
}
