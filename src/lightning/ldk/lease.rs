//! The lease of one run of the node: renewed while it lasts, and the fence once it is lost.
//!
//! Everything of a run asks its own [`Fence`]. It falls when the store says that the epoch has
//! ended, and, without asking anybody, when the lease was not renewed in time by this machine's
//! monotonic clock: after a pause of the process, or while the database cannot be reached. It
//! falls a fifth of the lease before that ends in the store, so that the node is silent when the
//! next one starts.
//!
//! While a machine is suspended its monotonic clock may stand still. So the fence falls as well
//! when the clock port and the monotonic clock do not agree on how long the last renewal is ago:
//! that is looked at every [`WATCH`], and whenever the fence is asked. A clock that was set
//! anew fells it too, which costs a start of the node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};
use futures_timer::Delay;

use ldk_node::tokio::runtime::{Builder as RuntimeBuilder, Runtime};

use super::health::NodeHealth;
use crate::store::{KeyValue, StoreError};

/// How far the two clocks may be apart since the last renewal.
const APART: Duration = Duration::from_secs(1);
/// How often they are compared.
const WATCH: Duration = Duration::from_millis(200);
/// How often a worker looks whether it may leave.
const REST: Duration = Duration::from_millis(20);

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    monotonic: Instant,
    wall_ms: i64,
}

impl Moment {
    /// This one, by the clock that the node's health has.
    pub(super) fn now(health: &NodeHealth) -> Self {
        Self {
            monotonic: Instant::now(),
            wall_ms: health.now_ms(),
        }
    }

    /// The clocks went differently since another moment.
    fn is_apart_from(&self, then: &Self) -> bool {
        let elapsed = self.monotonic.saturating_duration_since(then.monotonic);
        let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        let shown = self.wall_ms.saturating_sub(then.wall_ms);
        u128::from(shown.abs_diff(elapsed)) > APART.as_millis()
    }
}

/// How much of a lease its holder uses.
fn own_part(lasts: Duration) -> Duration {
    lasts.saturating_sub(lasts / 5)
}

struct State {
    /// When the lease was last asked for.
    asked_at: Moment,
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
    /// The runtime of the run was told to end.
    is_abandoned: AtomicBool,
    /// Its tasks are dropped.
    has_left: AtomicBool,
}

/// A task that lasts as long as the others of a run.
struct Stays(Arc<Fence>);

impl Drop for Stays {
    fn drop(&mut self) {
        self.0.has_left.store(true, Ordering::SeqCst);
        self.0.changed.notify(usize::MAX);
    }
}

impl Fence {
    /// For an epoch whose lease was asked for at `asked_at`.
    pub(super) fn new(
        epoch: u64,
        asked_at: Moment,
        lasts: Duration,
        health: Arc<NodeHealth>,
    ) -> Self {
        health.set_fenced(None);
        Self {
            epoch,
            state: Mutex::new(State {
                asked_at,
                // A time that no clock can show never comes.
                until: asked_at.monotonic.checked_add(own_part(lasts)),
                ended: false,
                lost: None,
            }),
            changed: Event::new(),
            health,
            is_abandoned: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
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
        let now = Moment::now(&self.health);
        let has_left = state.until.is_none_or(|until| now.monotonic < until);
        let in_time = state.ended || (has_left && !now.is_apart_from(&state.asked_at));
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

    /// Ends every task of the run at its next pause, and waits for none.
    pub(super) fn abandon(&self, runtime: &Mutex<Option<Runtime>>) {
        let taken = runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(runtime) = taken {
            runtime.shutdown_background();
        }
        self.is_abandoned.store(true, Ordering::SeqCst);
    }

    /// Keeps a worker that may do nothing more until its runtime was told to end: then it leaves, and
    /// the tasks with their connections are dropped.
    fn rest(&self) {
        while !self.is_abandoned.load(Ordering::SeqCst) && self.is_down() {
            thread::sleep(REST);
        }
    }

    fn extend(&self, asked_at: Moment, lasts: Duration) {
        let mut state = self.state();
        state.asked_at = asked_at;
        state.until = asked_at.monotonic.checked_add(own_part(lasts));
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

    /// Completes once the tasks of the run are dropped, with their connections: by a worker that leaves.
    pub(super) async fn gone(&self) {
        self.wait(|fence| fence.has_left.load(Ordering::SeqCst))
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

    /// Completes once this run may do nothing more, or has ended; looks at the clocks meanwhile.
    async fn watch(&self) {
        while !self.is_down() && !self.state().ended {
            Delay::new(WATCH).await;
        }
    }

    /// Renews the lease until the run is over, one way or the other.
    pub(super) async fn keep(self: Arc<Self>, state: Arc<dyn KeyValue>, lasts: Duration) {
        // Several tries fit into the holder's part.
        let pause = lasts / 4;
        loop {
            ldk_node::tokio::select! {
                () = Delay::new(pause.min(self.left())) => {}
                () = self.watch() => return,
                () = self.over() => return,
            }
            // Before anybody is asked: a process that was paused may act no more.
            if self.is_down() {
                return;
            }
            let asked_at = Moment::now(&self.health);
            ldk_node::tokio::select! {
                renewed = state.renew_lease(self.epoch, lasts) => match renewed {
                    Ok(()) => self.extend(asked_at, lasts),
                    Err(error) if ends_run(&error) => return self.fall(error),
                    // Asked again while there is time.
                    Err(_) => {}
                },
                () = Delay::new(self.left()) => {}
                () = self.watch() => return,
                () = self.over() => return,
            }
        }
    }
}

/// The runtime of a run. A worker that wakes up asks the fence before it goes on with any task of
/// the node: after a pause of the process nobody has to be quicker than the node, which may have an
/// answer of the chain in its hands. Once told to end, it does one step of one task at most.
pub(super) fn workers(fence: &Arc<Fence>) -> std::io::Result<Runtime> {
    let (fence, stays) = (Arc::clone(fence), Stays(Arc::clone(fence)));
    let runtime = RuntimeBuilder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ldk")
        .enable_all()
        .on_thread_unpark(move || fence.rest())
        // A worker looks whether it is to end before each step, and not before each sixty-first.
        .event_interval(1)
        .build()?;
    runtime.spawn(async move {
        let _stays = stays;
        std::future::pending::<()>().await;
    });
    Ok(runtime)
}

/// True for what no later try can mend: the epoch is not the current one, or not of this database,
/// or the node lives elsewhere.
pub(super) fn ends_run(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Fenced { .. } | StoreError::StaleNodeState { .. } | StoreError::NodeHandedOver
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;
    use std::sync::mpsc::RecvTimeoutError;

    use ldk_node::tokio::{self, time::timeout};

    use super::*;
    use crate::ports::{BoxFuture, Clock, SystemClock};
    use crate::store::{KeyPath, KeyValueWrite, NodeHolder};
    use crate::testkit::faulty_store::FaultyKeyValue;

    type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

    /// A store that is asked for a renewal, and refuses it or never answers.
    struct NeverRenews(FaultyKeyValue, Arc<Event>, Option<StoreError>);

    impl KeyValue for NeverRenews {
        fn begin_epoch(&self) -> Answer<u64> {
            self.0.begin_epoch()
        }

        fn take_lease(&self, holder: NodeHolder, lasts: Duration) -> Answer<u64> {
            self.0.take_lease(holder, lasts)
        }

        fn renew_lease(&self, _epoch: u64, _lasts: Duration) -> Answer<()> {
            self.1.notify(usize::MAX);
            match self.2.clone() {
                Some(refused) => Box::pin(std::future::ready(Err(refused))),
                None => Box::pin(std::future::pending()),
            }
        }

        fn release_lease(&self, epoch: u64) -> Answer<()> {
            self.0.release_lease(epoch)
        }

        fn write(&self, epoch: u64, change: KeyValueWrite) -> Answer<()> {
            self.0.write(epoch, change)
        }

        fn read(&self, path: KeyPath) -> Answer<Option<Vec<u8>>> {
            self.0.read(path)
        }

        fn list(&self, primary: String, secondary: String) -> Answer<Vec<String>> {
            self.0.list(primary, secondary)
        }
    }

    /// The time of day, as it is shown after the machine slept or somebody set the clock.
    #[derive(Default)]
    struct Shifted(AtomicI64);

    impl Clock for Shifted {
        fn now_ms(&self) -> i64 {
            SystemClock.now_ms() + self.0.load(Ordering::SeqCst)
        }
    }

    /// The monotonic clock stands still over a suspension: the lease seems to have an hour left,
    /// and the next renewal is a quarter of an hour away.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_machine_that_slept_is_noticed_before_the_next_renewal() {
        let hour = Duration::from_secs(3_600);
        for (shift_ms, falls) in [(700, false), (3_600_000, true), (-5_000, true)] {
            let clock = Arc::new(Shifted::default());
            let health = Arc::new(NodeHealth::new(Arc::<Shifted>::clone(&clock)));
            let state = FaultyKeyValue::new();
            let epoch = state.begin_epoch().await.expect("epoch");
            let asked_at = Moment::now(&health);
            let fence = Arc::new(Fence::new(epoch, asked_at, hour, Arc::clone(&health)));
            let keeping = Arc::clone(&fence).keep(Arc::new(state), hour);
            let keeping = tokio::spawn(keeping);
            let fallen = fence.changed.listen();
            clock.0.store(shift_ms, Ordering::SeqCst);
            if falls {
                // Nobody asks the fence: it falls by itself.
                timeout(Duration::from_secs(10), fallen)
                    .await
                    .expect("it stands");
                let lost = fence.state().lost.clone();
                assert_eq!(lost, Some(StoreError::LeaseRanOut { epoch }));
                keeping.await.expect("keeping");
            } else {
                assert!(!fence.is_down());
                fence.end();
                keeping.await.expect("keeping");
            }
        }
    }

    /// What the node waited for comes after it lost its place, and nobody has told it yet. When its
    /// runtime ends, its tasks do.
    #[test]
    fn a_run_that_lost_its_place_goes_on_with_nothing() {
        for (shift_ms, goes_on) in [(0, true), (3_600_000, false)] {
            let clock = Arc::new(Shifted::default());
            let health = Arc::new(NodeHealth::new(Arc::<Shifted>::clone(&clock)));
            let (asked_at, hour) = (Moment::now(&health), Duration::from_secs(3_600));
            let fence = Arc::new(Fence::new(1, asked_at, hour, health));
            let runtime = workers(&fence).expect("runtime");
            let (begun, has_begun) = std::sync::mpsc::channel();
            let (answer, answered) = tokio::sync::oneshot::channel::<()>();
            let (act, acted) = std::sync::mpsc::channel();
            let acts = act.clone();
            runtime.spawn(async move {
                begun.send(()).expect("begun");
                answered.await.expect("answer");
                acts.send(()).expect("act");
            });
            runtime.spawn(async move {
                let _held = act;
                std::future::pending::<()>().await;
            });
            has_begun.recv().expect("begun");
            // Until the workers have nothing to do any more.
            let metrics = runtime.metrics();
            while (0..metrics.num_workers())
                .any(|at| metrics.worker_park_unpark_count(at).is_multiple_of(2))
            {
                thread::sleep(Duration::from_millis(1));
            }
            clock.0.store(shift_ms, Ordering::SeqCst);
            answer.send(()).expect("answer");
            let patience = Duration::from_secs(if goes_on { 60 } else { 1 });
            assert_eq!(acted.recv_timeout(patience).is_ok(), goes_on);
            fence.abandon(&Mutex::new(Some(runtime)));
            let minute = Duration::from_secs(60);
            let patient = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            patient.expect("runtime").block_on(async {
                timeout(minute, fence.gone())
                    .await
                    .expect("nothing was dropped");
            });
            while let Ok(()) = acted.recv_timeout(Duration::from_secs(60)) {}
            let all_ended = acted.recv_timeout(Duration::ZERO);
            assert_eq!(all_ended, Err(RecvTimeoutError::Disconnected));
        }
    }

    /// The machine sleeps while the store is being asked for the renewal, with an hour left.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_machine_that_slept_is_noticed_while_a_renewal_is_not_answered() {
        let hour = Duration::from_secs(3_600);
        let clock = Arc::new(Shifted::default());
        let health = Arc::new(NodeHealth::new(Arc::<Shifted>::clone(&clock)));
        let asked = Arc::new(Event::new());
        let state = NeverRenews(FaultyKeyValue::new(), Arc::clone(&asked), None);
        let epoch = state.begin_epoch().await.expect("epoch");
        let asked_at = Moment::now(&health);
        let fence = Arc::new(Fence::new(epoch, asked_at, hour, health));
        let (is_asked, fallen) = (asked.listen(), fence.changed.listen());
        let keeping = Arc::clone(&fence).keep(Arc::new(state), Duration::ZERO);
        let keeping = tokio::spawn(keeping);
        is_asked.await;
        clock.0.store(3_600_000, Ordering::SeqCst);
        timeout(Duration::from_secs(10), fallen)
            .await
            .expect("it stands");
        keeping.await.expect("keeping");
    }

    /// The node was handed over by another instance while an hour of its lease is left.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_was_handed_over_is_silent_at_the_next_renewal() {
        let hour = Duration::from_secs(3_600);
        let health = Arc::new(NodeHealth::new(Arc::<Shifted>::default()));
        let gone = StoreError::NodeHandedOver;
        let asked = Arc::new(Event::new());
        let state = NeverRenews(
            FaultyKeyValue::new(),
            Arc::clone(&asked),
            Some(gone.clone()),
        );
        let epoch = state.begin_epoch().await.expect("epoch");
        let asked_at = Moment::now(&health);
        let fence = Arc::new(Fence::new(epoch, asked_at, hour, health));
        let keeping = Arc::clone(&fence).keep(Arc::new(state), Duration::ZERO);
        timeout(Duration::from_secs(10), keeping)
            .await
            .expect("it is asked again and again");
        assert_eq!(fence.state().lost, Some(gone));
    }
}
