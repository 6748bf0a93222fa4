//! The contract of [`Store`] and [`KeyValue`], as code that runs against any of them.
//!
//! One function a promise: each takes a store that is still empty, uses it, and answers how the
//! promise is broken, if it is. [`check_all`] runs them all; whoever writes a store calls it from
//! a test.
//!
//! What a store promises beyond its own life is in [`check_reopening`], which opens the same place
//! again. What only a dying machine or a damaged file shows (that an answered commit is on the
//! disk and not in a cache, that what cannot be read is refused) is not in here: a store's own
//! tests kill its process and garble its file.

mod batches;
mod journal;
mod money;
mod node_state;
mod probe;
mod reading;
mod reopening;
mod trees;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{KeyValue, Store, StoreError};
use crate::ledger::Refusal;
use crate::testkit::clock::ManualClock;

pub use batches::{
    batch_is_done_once_under_its_id, claims_are_given_once, command_is_done_once,
    commit_time_never_decreases, concurrent_batches_see_each_other, counters_only_go_up,
    documents_change_only_at_the_version_read, refused_batch_leaves_nothing,
    usage_stays_within_its_window,
};
pub use journal::{
    answers_are_forgotten_and_keys_are_not, commits_are_a_chain,
    ended_holds_give_back_what_is_needed, released_holds_give_usage_back, the_past_can_be_asked,
    transfers_are_undone_once, transfers_up_to_an_amount_take_what_there_is,
};
pub use money::{
    accounts_stand_within_bounds, amounts_and_accounts_must_fit, capture_takes_part_of_a_hold,
    ceiling_counts_holds, expired_hold_can_only_be_released, floor_counts_holds, hold_ends_once,
    lifetime_totals_outgrow_an_amount, linked_transfers_go_together, release_gives_back,
    transfer_ids_are_used_once,
};
pub use node_state::{
    lease_is_taken_over_when_it_ends, node_values_are_listed_by_namespace,
    node_values_are_set_and_removed, node_writes_apply_in_call_order, older_epoch_is_fenced,
};
pub use reading::{
    balances_are_paged_in_order, closed_store_refuses, cursors_never_step_back,
    documents_are_found_by_index_range, documents_leave_the_keys_of_older_versions,
    events_are_in_order_without_late_gaps, events_wake_waiters, jobs_are_leased_once,
    pages_have_one_row_at_least_and_a_most, transfers_are_paged_newest_first,
};
pub use reopening::check_reopening;
pub use trees::check_tree;

/// What the clock of a [`FreshStore`] shows at first.
pub const FIRST_MS: i64 = 1_700_000_000_000;

/// An empty store, and the clock it takes its commit times from.
pub struct FreshStore {
    store: Arc<dyn Store>,
    key_value: Arc<dyn KeyValue>,
    clock: Arc<ManualClock>,
    last_id: AtomicU64,
}

impl FreshStore {
    /// `store` and `key_value` are one store, whose commit times come from `clock`.
    pub fn new(
        store: Arc<dyn Store>,
        key_value: Arc<dyn KeyValue>,
        clock: Arc<ManualClock>,
    ) -> Self {
        Self {
            store,
            key_value,
            clock,
            last_id: AtomicU64::new(0),
        }
    }

    fn number(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::SeqCst)
    }
}

/// A store does not keep its contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContractViolation {
    /// It answered something else.
    #[error("{promise}: {what}: expected {expected}, found {found}")]
    Broken {
        /// The promise, by the name of its function.
        promise: &'static str,
        /// What was looked at.
        what: &'static str,
        /// What should have been there.
        expected: String,
        /// What was there.
        found: String,
    },
    /// It refused what it should have done.
    #[error("{promise}: refused: {refusal}")]
    Refused {
        /// The promise, by the name of its function.
        promise: &'static str,
        /// Why it refused.
        #[source]
        refusal: Refusal,
    },
    /// It failed.
    #[error("{promise}: the store failed: {error}")]
    Failed {
        /// The promise, by the name of its function.
        promise: &'static str,
        /// How.
        #[source]
        error: StoreError,
    },
}

macro_rules! check_each {
    ($make:ident: $($promise:ident),* $(,)?) => {{
        let mut kept = Vec::new();
        $(
            let clock = Arc::new(ManualClock::at(FIRST_MS));
            let fresh = $make(clock).await.map_err(|error| ContractViolation::Failed {
                promise: stringify!($promise),
                error,
            })?;
            $promise(&fresh).await?;
            kept.push(stringify!($promise));
        )*
        Ok(kept)
    }};
}

/// Checks every promise, each on an empty store of its own that `make` makes on the given clock.
/// Answers the names of the promises that were kept, which is all of them.
///
/// # Errors
/// The first promise that is broken.
pub async fn check_all<F, Fut>(make: F) -> Result<Vec<&'static str>, ContractViolation>
where
    F: Fn(Arc<ManualClock>) -> Fut,
    Fut: Future<Output = Result<FreshStore, StoreError>>,
{
    check_each!(make:
        refused_batch_leaves_nothing,
        batch_is_done_once_under_its_id,
        command_is_done_once,
        concurrent_batches_see_each_other,
        commit_time_never_decreases,
        documents_change_only_at_the_version_read,
        claims_are_given_once,
        counters_only_go_up,
        usage_stays_within_its_window,
        amounts_and_accounts_must_fit,
        transfer_ids_are_used_once,
        floor_counts_holds,
        ceiling_counts_holds,
        accounts_stand_within_bounds,
        linked_transfers_go_together,
        capture_takes_part_of_a_hold,
        release_gives_back,
        hold_ends_once,
        expired_hold_can_only_be_released,
        lifetime_totals_outgrow_an_amount,
        ended_holds_give_back_what_is_needed,
        released_holds_give_usage_back,
        transfers_up_to_an_amount_take_what_there_is,
        transfers_are_undone_once,
        the_past_can_be_asked,
        commits_are_a_chain,
        answers_are_forgotten_and_keys_are_not,
        transfers_are_paged_newest_first,
        balances_are_paged_in_order,
        documents_are_found_by_index_range,
        documents_leave_the_keys_of_older_versions,
        pages_have_one_row_at_least_and_a_most,
        events_are_in_order_without_late_gaps,
        events_wake_waiters,
        cursors_never_step_back,
        jobs_are_leased_once,
        closed_store_refuses,
        node_values_are_set_and_removed,
        node_values_are_listed_by_namespace,
        node_writes_apply_in_call_order,
        older_epoch_is_fenced,
        lease_is_taken_over_when_it_ends,
    )
}
