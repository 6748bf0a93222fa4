//! The lease of one run of the node: renewed while it lasts, and the fence once it is lost.
//!
//! Everything of a run asks its own [`Fence`]. It falls when the store says that the epoch has
//! ended, and, without asking anybody, when the lease was not renewed in time by this machine's
//! monotonic clock: after a pause of the process, or while the database cannot be reached. It
//! falls a fifth of the lease before that ends in the store, so that the node is silent when the
//! next one starts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};
use futures_timer::Delay;

use super::health::NodeHealth;
use crate::store::{KeyValue, StoreError};

/// How much of a lease its holder uses.
fn own_part(lasts: Duration) -> Duration {
    lasts.saturating_sub(lasts / 5)
}

struct State {
    /// When the lease ends as its holder sees it.
    until: Option<Instant>,
    /// The run ended as it should.
    ended: bool,
    lost: Option<StoreError>,
}

/// Whether a run of the node may still act.
pub(super) struct Fence {
    epoch: u64,
    state: Mutex<State>,
    changed: Event,
    health: Arc<NodeHealth>,
}

impl Fence {
    /// For an epoch whose lease was asked for at `asked_at`.
    pub(super) fn new(
        epoch: u64,
        asked_at: Instant,
        lasts: Duration,
        health: Arc<NodeHealth>,
    ) -> Self {
        health.set_fenced(None);
        Self {
            epoch,
            state: Mutex::new(State {
                // A time that no clock can show never comes.
                until: asked_at.checked_add(own_part(lasts)),
                ended: false,
                lost: None,
            }),
            changed: Event::new(),
            health,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once this run may do nothing more.
    pub(super) fn is_down(&self) -> bool {
        let state = self.state();
        if state.lost.is_some() {
            return true;
        }
        let in_time = state.ended || state.until.is_none_or(|until| Instant::now() < until);
        drop(state);
        if !in_time {
            self.fall(StoreError::LeaseRanOut { epoch: self.epoch });
        }
        !in_time
    }

    /// The run lost its place. Only the first reason counts.
    pub(super) fn fall(&self, error: StoreError) {
        let mut state = self.state();
        if state.lost.is_none() {
            state.lost = Some(error.clone());
            drop(state);
            self.health.set_fenced(Some(error));
            self.changed.notify(usize::MAX);
        }
    }

    /// Nothing of the run is left.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify(usize::MAX);
    }

    fn extend(&self, asked_at: Instant, lasts: Duration) {
        self.state().until = asked_at.checked_add(own_part(lasts));
    }

    /// How long the holder may still act without a renewal.
    fn left(&self) -> Duration {
        let until = self.state().until;
        until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Completes once this run may do nothing more.
    pub(super) async fn down(&self) {
        self.wait(Self::is_down).await;
    }

    /// Completes once the run has ended, one way or the other.
    pub(super) async fn over(&self) {
        self.wait(|fence| fence.is_down() || fence.state().ended)
            .await;
    }

    async fn wait(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let listener: EventListener = self.changed.listen();
            if is_so(self) {
                return;
            }
            listener.await;
        }
    }

    /// Renews the lease until the run is over, one way or the other.
    pub(super) async fn keep(self: Arc<Self>, state: Arc<dyn KeyValue>, lasts: Duration) {
        // Several tries fit into the holder's part.
        let pause = lasts / 4;
        loop {
            ldk_node::tokio::select! {
                () = Delay::new(pause.min(self.left())) => {}
                () = self.over() => return,
            }
            // Before anybody is asked: a process that was paused may act no more.
            if self.is_down() {
                return;
            }
            let asked_at = Instant::now();
            ldk_node::tokio::select! {
                renewed = state.renew_lease(self.epoch, lasts) => match renewed {
                    Ok(()) => self.extend(asked_at, lasts),
                    Err(error) if ends_run(&error) => return self.fall(error),
                    // Asked again while there is time.
                    Err(_) => {}
                },
                () = Delay::new(self.left()) => {}
                () = self.over() => return,
            }
        }
    }
}

/// True for what no later try can mend: the epoch is not the current one, or not of this database.
pub(super) fn ends_run(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Fenced { .. } | StoreError::StaleNodeState { .. }
    )
}
