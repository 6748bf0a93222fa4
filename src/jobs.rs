//! Work that waits for its time: picked up under a lease, so that a crash only delays it.

use crate::Error;
use crate::core::Core;
use crate::invoices::{self, Invoices};
use crate::ledger::{DueJob, Step};
use crate::lightning::LightningError;
use crate::settlement::{self, Settlement};

/// The most jobs taken at once.
const MAX_JOBS: usize = 100;

/// The most answers forgotten at once.
const MAX_FORGOTTEN: usize = 1_000;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobsRun {
    /// How many jobs were done.
    pub done: usize,
    /// What failed; these jobs are tried again when their lease ends.
    pub failed: Vec<(String, Error)>,
}

/// Does what is due now.
pub(crate) async fn run_due(
    core: &Core,
    invoices: &Invoices,
    settlement: &Settlement,
) -> Result<JobsRun, Error> {
    let now_ms = core.clock.now_ms();
    let lease_until_ms = now_ms.saturating_add(core.settings.job_lease_ms);
    if let Some(keep_ms) = core.settings.keep_answers_ms {
        let before_ms = now_ms.saturating_sub(keep_ms);
        core.store.forget_answers(before_ms, MAX_FORGOTTEN).await?;
    }
    let mut run = JobsRun::default();
    for job in core
        .store
        .lease_due(now_ms, lease_until_ms, MAX_JOBS)
        .await?
    {
        match do_job(&job, invoices, settlement).await {
            Ok(()) => run.done += 1,
            // Another engine on these books has the node: it gets the job soon.
            Err(Error::Lightning(LightningError::NoNode)) => {
                let due_at_ms = now_ms.saturating_add(core.settings.unknown_retry_ms);
                let again = DueJob { due_at_ms, ..job };
                core.commit(vec![Step::Due(again)]).await?;
            }
            Err(error) => run
                .failed
                .push((format!("{} {}", job.kind, job.object), error)),
        }
    }
    Ok(run)
}

async fn do_job(job: &DueJob, invoices: &Invoices, settlement: &Settlement) -> Result<(), Error> {
    let unreadable = || crate::store::StoreError::Corrupt {
        reason: format!("no job {} {}", job.kind, job.object),
    };
    match job.kind.as_str() {
        invoices::EXPIRE_JOB => {
            invoices
                .expire(job.object.parse().map_err(|_| unreadable())?)
                .await
        }
        invoices::CHECK_JOB => {
            invoices
                .check(job.object.parse().map_err(|_| unreadable())?)
                .await
        }
        settlement::CHECK_JOB => {
            settlement
                .check(job.object.parse().map_err(|_| unreadable())?)
                .await
        }
        _ => Err(unreadable().into()),
    }
}
