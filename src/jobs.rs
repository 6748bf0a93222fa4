//! Work that waits for its time: picked up under a lease, so that a crash only delays it.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::cards::{self, Cards};
use crate::chain;
use crate::core::{Core, Sweep};
use crate::invoices::{self, Invoices};
use crate::ledger::{DueJob, Step};
use crate::lightning::LightningError;
use crate::receipts::{self, Receipts};
use crate::refunds::{self, Refunds};
use crate::settlement::{self, Settlement};
use crate::store::StoreError;
use crate::store::commit_time::MOST_AHEAD_MS;

/// The most jobs taken at once.
const MAX_JOBS: usize = 100;

/// The most answers forgotten at once.
const MAX_FORGOTTEN: usize = 1_000;

/// By which time a job is due.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    /// The clock's, as the invoices and rates of others are.
    Clock,
    /// That of the books, by which authorisations, cards and the money on them end.
    Books,
}

/// What an instance must have to do a job; others leave it alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Node,
    /// A source for the chain.
    Chain,
}

/// Every kind of job there is: one that is missing here is not done.
const KINDS: &[(&str, Time, Needs)] = &[
    (cards::EXPIRE_JOB, Time::Books, Needs::Nothing),
    (cards::EXPIRE_CARD_JOB, Time::Books, Needs::Nothing),
    (cards::BREAKAGE_JOB, Time::Books, Needs::Nothing),
    (invoices::HOLD_JOB, Time::Books, Needs::Nothing),
    (cards::LOW_BALANCE_JOB, Time::Clock, Needs::Nothing),
    (cards::AUTO_TOP_UP_JOB, Time::Clock, Needs::Nothing),
    (receipts::RECEIPT_JOB, Time::Clock, Needs::Nothing),
    (invoices::EXPIRE_JOB, Time::Clock, Needs::Nothing),
    (invoices::MONITOR_JOB, Time::Clock, Needs::Nothing),
    (invoices::RAIL_JOB, Time::Clock, Needs::Node),
    (invoices::CHECK_JOB, Time::Clock, Needs::Node),
    (settlement::CHECK_JOB, Time::Clock, Needs::Node),
    (cards::CHECK_JOB, Time::Clock, Needs::Node),
    (refunds::CHECK_JOB, Time::Clock, Needs::Node),
    (chain::DRAIN_JOB, Time::Clock, Needs::Node),
    (chain::WATCH_JOB, Time::Clock, Needs::Chain),
    (chain::BROADCAST_JOB, Time::Clock, Needs::Chain),
    (refunds::FOLLOW_JOB, Time::Clock, Needs::Chain),
];

/// How far the clock is behind the books before that is looked at.
const BEHIND_MS: i64 = 1_000;

/// How far the clock is behind the books before what it has put off is looked at: what two machines
/// differ by, or a clock is set by now and then, puts nothing off.
const PUT_OFF_MS: i64 = 60_000;

/// The most pages of jobs of one kind that are done then, from either end: those of another kind do
/// not wait for however many there are of it.
const MOST_PAGES: usize = 10;

/// The most pages of jobs of one kind that are gone through to its far end.
const MOST_TO_THE_END: usize = 500;

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

/// The kinds of which something is so.
fn kinds(is_so: impl Fn(Time, Needs) -> bool) -> Vec<&'static str> {
    let kinds = KINDS.iter().filter(|(_, time, needs)| is_so(*time, *needs));
    kinds.map(|(kind, ..)| *kind).collect()
}

/// Whether what a job needs is not here.
fn is_away(core: &Core, needs: Needs) -> bool {
    match needs {
        Needs::Nothing => false,
        Needs::Node => core.node_is_away(),
        Needs::Chain => core.chain.is_none() || !cfg!(feature = "chain"),
    }
}

/// Takes a page of what is due.
async fn take(core: &Core, due_by_ms: i64, except: &[&str]) -> Result<Vec<DueJob>, StoreError> {
    let lasts_ms = core.settings.job_lease_ms.max(0).unsigned_abs();
    let lasts = Duration::from_millis(lasts_ms);
    let leased = core.store.lease_due(due_by_ms, lasts, except, MAX_JOBS);
    leased.await
}

/// How far the clock is behind the books.
fn behind_ms(core: &Core) -> i64 {
    let now_ms = core.clock.now_ms();
    core.commit_time_ms().saturating_sub(now_ms)
}

/// Takes what is due now.
async fn lease(core: &Core) -> Result<Vec<DueJob>, StoreError> {
    let (now_ms, books_ms) = (core.clock.now_ms(), core.commit_time_ms());
    let away = |needs| is_away(core, needs);
    let all = kinds(|_, needs| away(needs));
    // A clock that is not believed makes nothing due. One that is not the store's own may differ from
    // it by less.
    let is_ahead = now_ms.saturating_sub(books_ms) > MOST_AHEAD_MS;
    let mut leased = take(core, if is_ahead { books_ms } else { now_ms }, &all).await?;
    if behind_ms(core) > BEHIND_MS {
        // The clock was set back: what ends by the time of the books has ended all the same.
        let books = kinds(|time, needs| away(needs) || time == Time::Clock);
        leased.extend(take(core, books_ms, &books).await?);
    }
    Ok(leased)
}

/// Takes what a clock that was ahead may have put off, of one kind: all that goes by it. Each of them
/// asks, or looks, and sets itself anew. Where there are very many, those that are due first and those
/// that are due last, where a clock that was far ahead has put them; what is between is leased
/// meanwhile, and is further to one end the next time.
async fn put_off(core: &Core, kind: &str) -> Result<Vec<DueJob>, StoreError> {
    let others: Vec<&str> = KINDS
        .iter()
        .map(|(other, ..)| *other)
        .filter(|other| *other != kind)
        .collect();
    let (mut first, mut last) = (Vec::new(), VecDeque::new());
    for number in 0..MOST_TO_THE_END {
        let page = take(core, i64::MAX, &others).await?;
        if page.is_empty() {
            break;
        }
        if number < MOST_PAGES {
            first.extend(page);
        } else {
            last.push_back(page);
            if last.len() > MOST_PAGES {
                last.pop_front();
            }
        }
    }
    first.extend(last.into_iter().flatten());
    Ok(first)
}

/// Does what is due now.
pub(crate) async fn run_due(core: &Arc<Core>, handles: Handles<'_>) -> Result<JobsRun, Error> {
    if let Some(keep_ms) = core.settings.keep_answers_ms {
        let before_ms = core.commit_time_ms().saturating_sub(keep_ms);
        core.store.forget_answers(before_ms, MAX_FORGOTTEN).await?;
    }
    let mut run = JobsRun::default();
    do_all(core, lease(core).await?, handles, &mut run).await?;
    if behind_ms(core) <= PUT_OFF_MS {
        core.sweeps.ended();
        return Ok(run);
    }
    let sweep = Sweep {
        at_ms: core.clock.steady_ms(),
        without_node: core.node_is_away(),
    };
    if core.sweeps.is_due(sweep) {
        for kind in kinds(|time, needs| time == Time::Clock && !is_away(core, needs)) {
            do_all(core, put_off(core, kind).await?, handles, &mut run).await?;
        }
        core.sweeps.made(sweep);
    }
    Ok(run)
}

async fn do_all(
    core: &Arc<Core>,
    jobs: Vec<DueJob>,
    handles: Handles<'_>,
    run: &mut JobsRun,
) -> Result<(), Error> {
    for job in jobs {
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
    Ok(())
}

async fn do_job(core: &Arc<Core>, job: &DueJob, handles: Handles<'_>) -> Result<(), Error> {
    let Handles {
        cards,
        invoices,
        settlement,
        refunds,
    } = handles;
    // Nor would it be known by which time it is due, and who can do it.
    if !KINDS.iter().any(|(kind, ..)| *kind == job.kind) {
        return Err(unreadable(job));
    }
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
        chain::DRAIN_JOB => {
            let wallets = wallets_of(core, invoices);
            wallets.go_on_draining(object(job)?).await
        }
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
