//! The engine: its ports put together, its handles, and its life.

mod builder;
mod node_life;

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;

use crate::Error;
use crate::access::Credential;
use crate::cards::Cards;
use crate::checkout::Checkout;
use crate::core::{Core, MasterSecret, NodeStatus, Turns, emit};
use crate::events::Events;
use crate::exchange::Exchange;
use crate::health::{Health, Trouble};
use crate::invoices::Invoices;
use crate::jobs::{self, JobsRun};
use crate::lightning::{LightningError, LightningEvent, LightningNode, LostChannel};
use crate::payments::Payments;
use crate::ports::BoxFuture;
use crate::receipts::Receipts;
use crate::refunds::Refunds;
use crate::reports::Reports;
use crate::rewards::Rewards;
use crate::settlement::Settlement;
use crate::store::{Store, StoreError};
use crate::treasury::Treasury;
#[cfg(feature = "chain")]
use crate::wallets::Wallets;

pub use builder::EngineBuilder;

/// How often due jobs are looked for.
const JOBS_EVERY: Duration = Duration::from_millis(500);
/// How often health is looked at for those who wait for it to change.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The money engine: books, cards, points, payouts and the node behind them. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
    cards: Cards,
    invoices: Invoices,
    settlement: Settlement,
    refunds: Refunds,
    payments: Payments,
    life: Arc<Life>,
}

/// Whether the engine's own work runs.
#[derive(Default)]
struct Life {
    started: AtomicBool,
    stopping: AtomicBool,
    stopped: event_listener::Event,
    /// Who starts or stops the node.
    node: Turns,
    /// Who does what is due.
    jobs: Turns,
    /// By whose work it was: see [`Work`].
    last_problems: Mutex<[Option<Error>; 2]>,
}

/// The two kinds of the engine's own work.
#[derive(Debug, Clone, Copy)]
enum Work {
    Events,
    Jobs,
}

impl Engine {
    /// Begins to put an engine together on a store. `master` is the secret that everything
    /// secret is derived from; opened with another one, the books cannot be used.
    pub fn builder(store: Arc<dyn Store>, master: MasterSecret) -> EngineBuilder {
        EngineBuilder::new(store, master)
    }

    /// Invoices.
    pub fn invoices(&self) -> Invoices {
        self.invoices.clone()
    }

    /// Cards.
    pub fn cards(&self) -> Cards {
        self.cards.clone()
    }

    /// Wallets on chain.
    #[cfg(feature = "chain")]
    pub fn wallets(&self) -> Wallets {
        Wallets::new(self.core.clone(), self.invoices.clone())
    }

    /// Reward points.
    pub fn rewards(&self) -> Rewards {
        Rewards::new(self.core.clone())
    }

    /// Merchants and payouts.
    pub fn settlement(&self) -> Settlement {
        self.settlement.clone()
    }

    /// Refunds of invoices.
    pub fn refunds(&self) -> Refunds {
        self.refunds.clone()
    }

    /// Conversions, and what the operator has open in each currency.
    pub fn exchange(&self) -> Exchange {
        Exchange::new(self.core.clone())
    }

    /// The operator's own money.
    pub fn treasury(&self) -> Treasury {
        Treasury::new(self.core.clone())
    }

    /// Links, buttons and addresses to be paid by.
    pub fn checkout(&self) -> Checkout {
        Checkout::new(self.core.clone())
    }

    /// Receipts of what was paid.
    pub fn receipts(&self) -> Receipts {
        Receipts::new(self.core.clone())
    }

    /// Trial balance and audit.
    pub fn reports(&self) -> Reports {
        Reports::new(self.core.clone())
    }

    /// Events.
    pub fn events(&self) -> Events {
        Events::new(self.core.clone())
    }

    /// The issuer's credential: for whoever holds the master secret, which is the host.
    pub fn issuer(&self) -> Credential {
        self.core.token(self.core.issuer)
    }

    /// Starts the node, settles what was open when the engine last stopped, and begins to deal
    /// with the node's events and with due jobs. Without a node, only the jobs begin. Called
    /// again, it does nothing: a node's events have one reader.
    ///
    /// While another instance on the same books has the node, this one stands by, and takes over
    /// when the lease of that one has run out: see [`node_status`](Self::node_status).
    ///
    /// # Errors
    /// `lightning.start_failed`, `store.*`; it can be tried again. `store.closed` once it was
    /// stopped: open another one.
    pub async fn start(&self) -> Result<(), Error> {
        if self.is_stopping() {
            return Err(StoreError::Closed.into());
        }
        if self.life.started.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let begun = self.begin().await;
        if begun.is_err() {
            self.life.started.store(false, Ordering::SeqCst);
        }
        begun
    }

    /// Recovers a node that [`start`](Self::start) refused with `lightning.stale_state`: the books
    /// were restored from a backup or imported, even before a node had begun with them, or their file
    /// or database was copied or promoted.
    /// All that is known here of the node's channels is thrown away, for ever, and the engine is
    /// started. The node then waits for the peers of its old channels, who close them, and sweeps
    /// what is ours to its own wallet; connect to those that do not come by themselves. What
    /// differs between the books and the node by then is shown by the audit, and booked by a
    /// person. Answers the channels that are to be closed. The event `node.recovering` has them
    /// before anything is thrown away, so that a process that is killed does not lose whom to
    /// connect to; `node.recovered` says that it is done.
    ///
    /// **Only when the node runs nowhere else, and its newest state is lost.**
    ///
    /// # Errors
    /// `lightning.refused`, where the node is not locked, or was handed over; `lightning.no_node`;
    /// those of [`start`](Self::start), which can be tried again by itself.
    pub async fn recover(&self) -> Result<Vec<LostChannel>, Error> {
        let node = self.core.node()?;
        let channels = node.lost_channels().await?;
        if !channels.is_empty() {
            let recovering = emit("node.recovering", node.node_id(), &channels)?;
            self.core.commit(vec![recovering]).await?;
        }
        let channels = node.recover().await?;
        let recovered = emit("node.recovered", node.node_id(), &channels)?;
        self.core.commit(vec![recovered]).await?;
        self.start().await?;
        Ok(channels)
    }

    async fn begin(&self) -> Result<(), Error> {
        if let Some(node) = &self.core.lightning {
            self.begin_node(node).await?;
        }
        #[cfg(feature = "chain")]
        self.wallets().go_on_watching().await?;
        let engine = self.clone();
        self.core
            .executor
            .spawn(Box::pin(async move { engine.work().await }));
        let engine = self.clone();
        self.core
            .executor
            .spawn(Box::pin(async move { engine.watch_store().await }));
        Ok(())
    }

    /// Stops the engine's own work and the node, and closes the store. Commands that were begun
    /// are finished or answered as unknown. Idempotent.
    ///
    /// # Errors
    /// `lightning.*`, `store.*`.
    pub async fn stop(&self) -> Result<(), Error> {
        self.life.stopping.store(true, Ordering::SeqCst);
        self.life.stopped.notify(usize::MAX);
        if let Some(node) = &self.core.lightning {
            self.end_node(node).await?;
        }
        Ok(self.core.store.close().await?)
    }

    /// Does the jobs that are due now, a hundred or so of them: for a host that did not
    /// [`start`](Self::start) the engine. What the engine, or another call, is at has its turn
    /// first: once this has answered, none of that is under way any more. It is done to its end
    /// although the caller goes away. Not to be called by a port that a job waits for.
    ///
    /// # Errors
    /// `store.*`.
    pub async fn run_due_jobs(&self) -> Result<JobsRun, Error> {
        let engine = self.clone();
        // Never in the caller's hands: one that is not polled any more would hold up everybody.
        let run = async move { engine.do_due_jobs().await };
        self.core.detached(run).await
    }

    async fn do_due_jobs(&self) -> Result<JobsRun, Error> {
        let _turn = self.life.jobs.take().await;
        let handles = jobs::Handles {
            cards: &self.cards,
            invoices: &self.invoices,
            settlement: &self.settlement,
            refunds: &self.refunds,
        };
        jobs::run_due(&self.core, handles).await
    }

    /// Whether the books and the node's state are written, and what prevents it otherwise. An
    /// engine that was started writes an event `store.recovered` once its store goes again, with
    /// the trouble that it had, unless it lasted less than half a second.
    pub fn health(&self) -> Health {
        Health::of(&self.core)
    }

    /// Waits until health is other than `seen`.
    pub async fn health_changed(&self, seen: &Health) -> Health {
        loop {
            let now = self.health();
            if now != *seen {
                return now;
            }
            self.core.executor.sleep(LOOK_EVERY).await;
        }
    }

    /// What last went wrong in the engine's own work, if anything did since it went right.
    pub fn last_problem(&self) -> Option<Error> {
        let last = self.last_problems();
        last.iter().flatten().next().cloned()
    }

    /// How the node stands here. When it was lost, and when it was taken over, the events say as
    /// well: `node.displaced`, `node.taken_over`.
    pub fn node_status(&self) -> NodeStatus {
        self.core.node_status()
    }

    fn last_problems(&self) -> MutexGuard<'_, [Option<Error>; 2]> {
        let last = self.life.last_problems.lock();
        last.unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, work: Work, problem: Option<Error>) {
        let [events, jobs] = &mut *self.last_problems();
        match work {
            Work::Events => *events = problem,
            Work::Jobs => *jobs = problem,
        }
    }

    fn is_stopping(&self) -> bool {
        self.life.stopping.load(Ordering::SeqCst)
    }

    /// Waits, or returns at once when the engine stops.
    async fn pause(&self, duration: Duration) {
        let stopped = self.life.stopped.listen();
        if !self.is_stopping() {
            let sleep = self.core.executor.sleep(duration);
            first_of(sleep, Box::pin(stopped)).await;
        }
    }

    /// While the store is in trouble nobody may ask anything of it, and then nothing would tell
    /// that it goes again. So it is asked, to write down the trouble that it had.
    async fn watch_store(&self) {
        let mut had: Option<Trouble> = None;
        while !self.is_stopping() {
            had = self.health().store.or(had);
            if let Some(trouble) = &had
                && self.try_store(trouble).await.is_ok()
            {
                had = None;
            }
            self.pause(JOBS_EVERY).await;
        }
    }

    async fn try_store(&self, trouble: &Trouble) -> Result<(), Error> {
        let recovered = emit("store.recovered", self.core.network.clone(), trouble)?;
        self.core.commit(vec![recovered]).await.map(drop)
    }

    async fn work(&self) {
        while !self.is_stopping() {
            match self.do_due_jobs().await {
                Ok(run) => match run.failed.into_iter().next() {
                    Some((_, error)) => self.note(Work::Jobs, Some(error)),
                    None if run.done > 0 => self.note(Work::Jobs, None),
                    None => {}
                },
                Err(error) => self.note(Work::Jobs, Some(error)),
            }
            self.pause(JOBS_EVERY).await;
        }
    }

    /// Deals with one event and acknowledges it **after** the commit: an event that could not be
    /// dealt with is returned again. One that never can be is written into the books' own events
    /// for a person, and does not keep the others waiting.
    async fn deal_with_next(&self, node: &dyn LightningNode) -> Result<(), Error> {
        let event = node.next_event().await?;
        match self.deal_with(&event).await {
            Err(error) if is_about_the_event(&error) => {
                let body = ParkedEvent {
                    event: format!("{event:?}"),
                    code: error.code().to_owned(),
                    detail: error.detail(),
                };
                let parked = emit("node_event.parked", self.core.network.clone(), &body)?;
                self.core.commit(vec![parked]).await?;
            }
            dealt => dealt?,
        }
        node.acknowledge()
            .await
            .map_err(|error: LightningError| error.into())
    }

    async fn deal_with(&self, event: &LightningEvent) -> Result<(), Error> {
        match event {
            LightningEvent::Claimable {
                payment_hash,
                amount_msat,
                blocks_left,
            } => {
                self.invoices
                    .claimable(*payment_hash, *amount_msat, *blocks_left)
                    .await
            }
            LightningEvent::Received {
                payment_hash,
                amount_msat,
            } => self.invoices.received(*payment_hash, *amount_msat).await,
            LightningEvent::OfferPaid {
                offer,
                payment_hash,
                amount_msat,
            } => {
                let (offer, hash) = (*offer, *payment_hash);
                self.invoices.offer_paid(offer, hash, *amount_msat).await
            }
            LightningEvent::Sent {
                payment_hash,
                fee_msat,
            } => self.payments.arrived_there(*payment_hash, *fee_msat).await,
            LightningEvent::SendFailed {
                payment_hash,
                reason,
            } => self.payments.failed_there(*payment_hash, reason).await,
            LightningEvent::ChannelChanged { .. } | LightningEvent::Other { .. } => Ok(()),
        }
    }
}

/// What the node told and the engine cannot deal with.
#[derive(Debug, Serialize)]
struct ParkedEvent {
    event: String,
    code: String,
    detail: String,
}

/// True when the event itself, or what the books have on it, is the trouble: it would be the same
/// the next time. Whatever may pass (the store, the node, other commands) is not.
fn is_about_the_event(error: &Error) -> bool {
    match error {
        Error::Store(StoreError::Corrupt { .. })
        | Error::Lightning(LightningError::Refused { .. }) => true,
        Error::Ledger(refusal) => !refusal.should_decide_again(),
        Error::Money(_) | Error::Card(_) | Error::Invoice(_) | Error::Settlement(_) => true,
        Error::Refund(_) => true,
        _ => false,
    }
}

/// Which of two futures was first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Left,
    Right,
}

/// Completes when the first of two futures does.
async fn first_of(mut left: BoxFuture<'static, ()>, mut right: BoxFuture<'static, ()>) -> Which {
    poll_fn(|context| {
        if left.as_mut().poll(context).is_ready() {
            Poll::Ready(Which::Left)
        } else if right.as_mut().poll(context).is_ready() {
            Poll::Ready(Which::Right)
        } else {
            Poll::Pending
        }
    })
    .await
}
