//! Work that waits for its time: picked up under a lease, so that a crash only delays it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::cards::{self, Cards};
use crate::chain;
use crate::core::Core;
use crate::invoices::{self, Invoices};
use crate::ledger::{DueJob, Step};
use crate::lightning::LightningError;
use crate::receipts::{self, Receipts};
use crate::refunds::{self, Refunds};
use crate::settlement::{self, Settlement};
use crate::store::StoreError;

/// The most jobs taken at once.
const MAX_JOBS: usize = 100;

/// The most answers forgotten at once.
const MAX_FORGOTTEN: usize = 1_000;

/// What only the instance with the node can do: the others leave it alone.
const NODE_JOBS: &[&str] = &[
    invoices::CHECK_JOB,
    invoices::RAIL_JOB,
    settlement::CHECK_JOB,
    cards::CHECK_JOB,
    refunds::CHECK_JOB,
];

/// What only an instance with a source for the chain can do.
const CHAIN_JOBS: &[&str] = &[chain::WATCH_JOB, chain::BROADCAST_JOB, refunds::FOLLOW_JOB];

/// What is due by the clock, whatever the time of the books: all but what ends by that, which is
/// the time of an authorisation, of a card, and of the money on one.
const CLOCK_JOBS: &[&str] = &[
    cards::LOW_BALANCE_JOB,
    cards::CHECK_JOB,
    cards::AUTO_TOP_UP_JOB,
    receipts::RECEIPT_JOB,
    invoices::EXPIRE_JOB,
    invoices::CHECK_JOB,
    invoices::HOLD_JOB,
    invoices::MONITOR_JOB,
    invoices::RAIL_JOB,
    settlement::CHECK_JOB,
    refunds::CHECK_JOB,
    refunds::FOLLOW_JOB,
    chain::WATCH_JOB,
    chain::BROADCAST_JOB,
];

/// How far the clock is behind the books before that is looked at.
const BEHIND_MS: i64 = 1_000;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobsRun {
    /// How many jobs were done.
    pub done: usize,
    /// What failed; these jobs are tried again when their lease ends.
    pub failed: Vec<(String, Error)>,
}

/// Whoever does the work.
#[derive(Clone, Copy)]
pub(crate) struct Handles<'a> {
    pub(crate) cards: &'a Cards,
    pub(crate) invoices: &'a Invoices,
    pub(crate) settlement: &'a Settlement,
    pub(crate) refunds: &'a Refunds,
}

/// Does what is due now.
pub(crate) async fn run_due(core: &Arc<Core>, handles: Handles<'_>) -> Result<JobsRun, Error> {
    let (now_ms, books_ms) = (core.clock.now_ms(), core.commit_time_ms());
    if let Some(keep_ms) = core.settings.keep_answers_ms {
        let before_ms = books_ms.saturating_sub(keep_ms);
        core.store.forget_answers(before_ms, MAX_FORGOTTEN).await?;
    }
    let mut except = Vec::new();
    if core.node_is_away() {
        except.extend(NODE_JOBS);
    }
    // An instance that cannot ask the chain leaves it to one that can.
    if core.chain.is_none() || cfg!(not(feature = "chain")) {
        except.extend(CHAIN_JOBS);
    }
    let lasts_ms = core.settings.job_lease_ms.max(0).unsigned_abs();
    let lasts = Duration::from_millis(lasts_ms);
    let lease = |due_by_ms, except: Vec<&'static str>| async move {
        let leased = core.store.lease_due(due_by_ms, lasts, &except, MAX_JOBS);
        leased.await
    };
    let mut leased = lease(now_ms, except.clone()).await?;
    // The clock was set back: what ends by the time of the books has ended all the same.
    if books_ms.saturating_sub(now_ms) > BEHIND_MS {
        except.extend(CLOCK_JOBS);
        leased.extend(lease(books_ms, except).await?);
    }
    let mut run = JobsRun::default();
    for job in leased {
        match do_job(core, &job, handles).await {
            Ok(()) => run.done += 1,
            // The node was lost in between: whoever has it now gets the job at once.
            Err(Error::Lightning(LightningError::NotRunning)) if core.node_is_away() => {
                core.commit(vec![Step::Due(job)]).await?;
            }
            Err(error) => run
                .failed
                .push((format!("{} {}", job.kind, job.object), error)),
        }
    }
    Ok(run)
}

async fn do_job(core: &Arc<Core>, job: &DueJob, handles: Handles<'_>) -> Result<(), Error> {
    let Handles {
        cards,
        invoices,
        settlement,
        refunds,
    } = handles;
    match job.kind.as_str() {
        cards::EXPIRE_JOB => cards.expire_charge(object(job)?).await,
        cards::LOW_BALANCE_JOB => cards.tell_low_balance(&job.object).await,
        cards::CHECK_JOB => cards.check_payment(object(job)?).await,
        cards::EXPIRE_CARD_JOB | cards::BREAKAGE_JOB | cards::AUTO_TOP_UP_JOB => {
            cards.look_after(&job.kind, object(job)?).await
        }
        receipts::RECEIPT_JOB => Receipts::new(core.clone()).issue_owed(object(job)?).await,
        invoices::EXPIRE_JOB => invoices.expire(object(job)?).await,
        invoices::CHECK_JOB => invoices.check(object(job)?).await,
        invoices::HOLD_JOB => invoices.hold_over(object(job)?).await,
        invoices::MONITOR_JOB => invoices.stop_monitoring(object(job)?).await,
        invoices::RAIL_JOB => invoices.renew_rail(object(job)?).await,
        settlement::CHECK_JOB => settlement.check(object(job)?).await,
        refunds::CHECK_JOB => refunds.check(object(job)?).await,
        #[cfg(feature = "chain")]
        chain::WATCH_JOB => wallets_of(core, invoices).watch().await,
        #[cfg(feature = "chain")]
        refunds::FOLLOW_JOB => wallets_of(core, invoices).check_refund(object(job)?).await,
        #[cfg(feature = "chain")]
        chain::BROADCAST_JOB => wallets_of(core, invoices).broadcast(object(job)?).await,
        _ => Err(unreadable(job)),
    }
}

/// The object of a job, by its id.
fn object<T: FromStr>(job: &DueJob) -> Result<T, Error> {
    job.object.parse().map_err(|_| unreadable(job))
}

fn unreadable(job: &DueJob) -> Error {
    let reason = format!("no job {} {}", job.kind, job.object);
    StoreError::Corrupt { reason }.into()
}

#[cfg(feature = "chain")]
fn wallets_of(core: &Arc<Core>, invoices: &Invoices) -> crate::wallets::Wallets {
    crate::wallets::Wallets::new(core.clone(), invoices.clone())
}
