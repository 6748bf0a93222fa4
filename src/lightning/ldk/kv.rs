//! ldk-node's persistence on our [`KeyValue`].
//!
//! # Why a write never fails
//! LDK panics, or stops for good, when a channel monitor cannot be persisted. A disk that is full
//! for a minute must not do that to the host, so every failed write is tried again until the
//! store takes it; the channel it belongs to waits meanwhile, as it would for a slow disk.
//!
//! # Why a retry cannot bring back an old value
//! Writes to a key get ascending versions, in call order, and are queued in that order because
//! the version is drawn and [`KeyValue::write`] is called under one lock. A failed write is
//! queued again (under the same lock) only while it is the newest of its key. Once a newer one
//! was queued, the older is never written again: it completes when a newer one is durable, which
//! is what LDK allows ("the first write then the second, or only ever the second").
//!
//! # Why a fenced write neither succeeds nor fails
//! Another instance runs this node, or may by now. If the write of a channel's state returned success, this
//! instance would sign and send on a state that nobody kept; if it returned failure, LDK would
//! panic inside its locks. And whatever it returned, a task of LDK's would go on upon a runtime that
//! has ended or is about to, and panic there at its next timer. So a thread that reads or writes is
//! parked for good, and an asynchronous write never completes: the channel hangs, nothing of it is
//! sent or broadcast, and the watcher in `node.rs` ends the runtime of the node with its
//! broadcaster and its connections. Who called ldk-node is answered when the fence falls.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_timer::Delay;
use ldk_node::lightning::io;
use ldk_node::lightning::util::persist::{KVStore, KVStoreSync};
use ldk_node::tokio::runtime::{Handle, RuntimeFlavor};
use ldk_node::tokio::task::block_in_place;

use super::ahead;
use super::health::NodeHealth;
use super::lease::{Fence, ends_run};
use super::recovery::facts_of;
use crate::ports::BoxFuture;
use crate::store::{KeyPath, KeyValue, KeyValueWrite, StoreError, block_on};

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

type Answer = Result<(), StoreError>;
type LdkFuture<T> = Pin<Box<dyn Future<Output = Result<T, io::Error>> + Send + 'static>>;

/// The writes of one key that have not completed.
#[derive(Default)]
struct Lane {
    newest: u64,
    durable: u64,
    open: usize,
}

struct Shared {
    state: Arc<dyn KeyValue>,
    epoch: u64,
    /// The host's, where retries go on while the node's own workers wait for them.
    runtime: Handle,
    health: Arc<NodeHealth>,
    fence: Arc<Fence>,
    lanes: Mutex<HashMap<KeyPath, Lane>>,
    /// The monitors of which is known that they are kept as they were born.
    facts: Mutex<HashSet<String>>,
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, HashMap<KeyPath, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_facts(&self) -> MutexGuard<'_, HashSet<String>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// ldk-node's store: our [`KeyValue`], under one epoch.
#[derive(Clone)]
pub(super) struct LdkStore(Arc<Shared>);

impl LdkStore {
    pub(super) fn new(
        state: Arc<dyn KeyValue>,
        epoch: u64,
        runtime: Handle,
        health: Arc<NodeHealth>,
        fence: Arc<Fence>,
    ) -> Self {
        Self(Arc::new(Shared {
            state,
            epoch,
            runtime,
            health,
            fence,
            lanes: Mutex::default(),
            facts: Mutex::default(),
        }))
    }

    /// True when no write is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.0.lanes().is_empty()
    }

    fn write_blocking(&self, change: KeyValueWrite) -> Result<(), io::Error> {
        let (write, first) = PendingWrite::queue(&self.0, change);
        self.on_this_thread(|| write.drive_blocking(first))
    }

    /// Runs blocking work; a runtime's worker hands its other tasks over first. What comes of it
    /// reaches nobody once the fence is down.
    fn on_this_thread<T>(&self, work: impl FnOnce() -> T) -> T {
        let work = || {
            let done = work();
            while self.0.fence.is_down() {
                thread::park();
            }
            done
        };
        match Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
                block_in_place(work)
            }
            _ => work(),
        }
    }

    fn write_async(&self, change: KeyValueWrite) -> LdkFuture<()> {
        let (write, first) = PendingWrite::queue(&self.0, change);
        // A task of its own: a caller that goes away must not take the retries with it, because
        // an older write of the same key may be waiting for this one.
        let task = self.0.runtime.spawn(write.drive(first));
        Box::pin(async move {
            match task.await {
                Ok(()) => Ok(()),
                // The runtime is going down: whether it was written is not known.
                Err(_) => std::future::pending().await,
            }
        })
    }

    /// Keeps a monitor as it was born, before it is written for the first time.
    fn keep_facts(&self, path: &KeyPath, value: &[u8]) {
        let Some(facts) = facts_of(path) else { return };
        let is_new = self.0.known_facts().insert(facts.key.clone());
        if !is_new {
            return;
        }
        // As a write does it: the monitor is not written before.
        let is_kept = self.on_this_thread(|| {
            let (health, mut failures) = (&self.0.health, 0_u32);
            let mut is_kept = false;
            while !self.0.fence.is_down() {
                match block_on(self.0.state.read(facts.clone())) {
                    Ok(kept) => {
                        is_kept = kept.is_some();
                        break;
                    }
                    Err(error) => {
                        health.write_failed(error, failures == 0);
                        failures = failures.saturating_add(1);
                        thread::sleep(delay(failures));
                    }
                }
            }
            if failures > 0 {
                health.write_recovered();
            }
            is_kept
        });
        if !is_kept {
            let value = value.to_vec();
            let put = KeyValueWrite::Put { path: facts, value };
            drop(self.write_blocking(put));
        }
    }

    fn read_future(&self, path: KeyPath) -> LdkFuture<Vec<u8>> {
        let future = self.0.state.read(path);
        Box::pin(async move {
            match future.await {
                Ok(Some(value)) => Ok(value),
                Ok(None) => Err(io::Error::new(io::ErrorKind::NotFound, "no such key")),
                Err(error) => Err(io_error(&error)),
            }
        })
    }

    fn list_future(&self, primary: &str, secondary: &str) -> LdkFuture<Vec<String>> {
        let future = self.0.state.list(primary.into(), secondary.into());
        Box::pin(async move { future.await.map_err(|error| io_error(&error)) })
    }
}

fn io_error(error: &StoreError) -> io::Error {
    io::Error::new(io::ErrorKind::Other, error.to_string())
}

fn path(primary: &str, secondary: &str, key: &str) -> KeyPath {
    KeyPath {
        primary: primary.into(),
        secondary: secondary.into(),
        key: key.into(),
    }
}

/// What is to be done about a write now.
enum Step {
    Done,
    Fenced,
    Wait(Duration),
}

/// A write that LDK waits for.
struct PendingWrite {
    shared: Arc<Shared>,
    change: KeyValueWrite,
    version: u64,
    failures: u32,
}

impl PendingWrite {
    fn queue(
        shared: &Arc<Shared>,
        change: KeyValueWrite,
    ) -> (Self, Option<BoxFuture<'static, Answer>>) {
        let mut write = Self {
            shared: Arc::clone(shared),
            change,
            version: 0,
            failures: 0,
        };
        let mut lanes = shared.lanes();
        let lane = lanes.entry(write.path().clone()).or_default();
        lane.newest += 1;
        lane.open += 1;
        write.version = lane.newest;
        let first = (!shared.fence.is_down()).then(|| write.submit());
        drop(lanes);
        (write, first)
    }

    fn path(&self) -> &KeyPath {
        match &self.change {
            KeyValueWrite::Put { path, .. } | KeyValueWrite::Remove { path } => path,
        }
    }

    /// To be called under the lanes' lock, which is what keeps versions and queue in one order.
    fn submit(&self) -> BoxFuture<'static, Answer> {
        self.shared
            .state
            .write(self.shared.epoch, self.change.clone())
    }

    fn settle(&mut self, answer: Answer) -> Step {
        match answer {
            Ok(()) => {
                if let Some(lane) = self.shared.lanes().get_mut(self.path()) {
                    lane.durable = lane.durable.max(self.version);
                }
                Step::Done
            }
            Err(error) if ends_run(&error) => {
                self.shared.fence.fall(error);
                Step::Fenced
            }
            Err(error) => {
                self.shared.health.write_failed(error, self.failures == 0);
                self.failures = self.failures.saturating_add(1);
                Step::Wait(delay(self.failures))
            }
        }
    }

    /// After a pause: the write again if it is still the newest of its key.
    fn again(&self) -> Result<BoxFuture<'static, Answer>, Step> {
        if self.shared.fence.is_down() {
            return Err(Step::Fenced);
        }
        let lanes = self.shared.lanes();
        match lanes.get(self.path()) {
            Some(lane) if lane.durable >= self.version => Err(Step::Done),
            Some(lane) if lane.newest > self.version => Err(Step::Wait(FIRST_RETRY)),
            _ => Ok(self.submit()),
        }
    }

    async fn drive(mut self, first: Option<BoxFuture<'static, Answer>>) {
        let mut step = match first {
            Some(first) => self.settle(first.await),
            None => Step::Fenced,
        };
        loop {
            match step {
                Step::Done => return,
                Step::Fenced => {
                    drop(self);
                    return std::future::pending().await;
                }
                Step::Wait(pause) => Delay::new(pause).await,
            }
            step = match self.again() {
                Ok(future) => self.settle(future.await),
                Err(step) => step,
            };
        }
    }

    fn drive_blocking(
        mut self,
        first: Option<BoxFuture<'static, Answer>>,
    ) -> Result<(), io::Error> {
        let mut step = match first {
            Some(first) => self.settle(block_on(first)),
            None => Step::Fenced,
        };
        loop {
            match step {
                Step::Done => return Ok(()),
                Step::Fenced => return Err(fenced()),
                Step::Wait(pause) => thread::sleep(pause),
            }
            step = match self.again() {
                Ok(future) => self.settle(block_on(future)),
                Err(step) => step,
            };
        }
    }
}

/// How long to wait after so many failures in a row.
fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_RETRY
        .saturating_mul(1 << doublings)
        .min(LONGEST_RETRY)
}

fn fenced() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "another epoch of this node began",
    )
}

impl Drop for PendingWrite {
    fn drop(&mut self) {
        if self.failures > 0 {
            self.shared.health.write_recovered();
        }
        let mut lanes = self.shared.lanes();
        if let Some(lane) = lanes.get_mut(self.path()) {
            lane.open -= 1;
            // Versions may start again: nobody is left who could compare with the old ones.
            if lane.open == 0 {
                lanes.remove(self.path());
            }
        }
    }
}

impl KVStoreSync for LdkStore {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> Result<Vec<u8>, io::Error> {
        let future = self.read_future(path(primary, secondary, key));
        self.on_this_thread(|| block_on(future))
    }

    fn write(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), io::Error> {
        let path = path(primary, secondary, key);
        if ahead::is_queued(primary) {
            ahead::queue(self.write_async(KeyValueWrite::Put { path, value }));
            return Ok(());
        }
        self.keep_facts(&path, &value);
        self.write_blocking(KeyValueWrite::Put { path, value })
    }

    fn remove(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        lazy: bool,
    ) -> Result<(), io::Error> {
        let path = path(primary, secondary, key);
        if let Some(facts) = facts_of(&path) {
            // The channel is closed, and everything of it has come home.
            drop(self.write_async(KeyValueWrite::Remove { path: facts }));
        }
        let change = KeyValueWrite::Remove { path };
        if lazy {
            drop(self.write_async(change));
            return Ok(());
        }
        self.write_blocking(change)
    }

    fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, io::Error> {
        let future = self.list_future(primary, secondary);
        self.on_this_thread(|| block_on(future))
    }
}

impl KVStore for LdkStore {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> LdkFuture<Vec<u8>> {
        self.read_future(path(primary, secondary, key))
    }

    fn write(&self, primary: &str, secondary: &str, key: &str, value: Vec<u8>) -> LdkFuture<()> {
        let path = path(primary, secondary, key);
        self.write_async(KeyValueWrite::Put { path, value })
    }

    fn remove(&self, primary: &str, secondary: &str, key: &str, lazy: bool) -> LdkFuture<()> {
        let path = path(primary, secondary, key);
        let written = self.write_async(KeyValueWrite::Remove { path });
        if lazy {
            return Box::pin(async { Ok(()) });
        }
        written
    }

    fn list(&self, primary: &str, secondary: &str) -> LdkFuture<Vec<String>> {
        self.list_future(primary, secondary)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::Moment;
    use super::*;
    use crate::ports::SystemClock;
    use crate::testkit::faulty_store::FaultyKeyValue;
    use ldk_node::tokio;

    async fn store(state: &FaultyKeyValue) -> LdkStore {
        let epoch = state.begin_epoch().await.expect("epoch");
        let health = Arc::new(NodeHealth::new(Arc::new(SystemClock)));
        let long = Duration::from_secs(3_600);
        let fence = Fence::new(epoch, Moment::now(&health), long, Arc::clone(&health));
        let (state, fence) = (Arc::new(state.clone()), Arc::new(fence));
        LdkStore::new(state, epoch, Handle::current(), health, fence)
    }

    fn put(store: &LdkStore, value: u8) -> LdkFuture<()> {
        KVStore::write(store, "p", "s", "k", vec![value])
    }

    const FULL: StoreError = StoreError::Full;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failing_write_waits_and_health_says_so() {
        let state = FaultyKeyValue::new();
        let store = store(&state).await;
        state.fail_writes(usize::MAX, FULL);
        let mut written = put(&store, 1);
        let early = timeout(Duration::from_millis(150), &mut written).await;
        assert!(early.is_err(), "it answered although nothing was written");
        let trouble = store.0.health.report().store_trouble.expect("trouble");
        assert_eq!((trouble.error, trouble.writes_waiting), (FULL, 1));
        assert!(trouble.since_ms > 0);
        state.heal();
        written.await.expect("written");
        assert_eq!(state.value("p", "s", "k"), Some(vec![1]));
        while !store.is_idle() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(store.0.health.report().is_good());
    }

    /// The first write fails once, the second succeeds at once: the retry of the first must not
    /// come after it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_retry_never_brings_back_an_older_value() {
        for round in 0..20_u8 {
            let state = FaultyKeyValue::new();
            let store = store(&state).await;
            state.fail_writes(1, FULL);
            let older = put(&store, round);
            let newer = put(&store, round + 100);
            newer.await.expect("newer");
            older.await.expect("older");
            sleep(Duration::from_millis(5)).await;
            assert_eq!(state.value("p", "s", "k"), Some(vec![round + 100]));
            assert_eq!(state.applied().len(), 1, "the older was written as well");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_write_is_done_only_when_a_newer_one_is_durable() {
        let state = FaultyKeyValue::new();
        let store = store(&state).await;
        state.fail_writes(usize::MAX, FULL);
        let mut older = put(&store, 1);
        let newer = put(&store, 2);
        // The caller of the newer goes away: its retries must go on.
        drop(newer);
        let early = timeout(Duration::from_millis(100), &mut older).await;
        assert!(early.is_err());
        state.heal();
        older.await.expect("older");
        assert_eq!(state.value("p", "s", "k"), Some(vec![2]));
    }

    /// Many writers and faults at random places; the last call of each key wins.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_last_write_of_a_key_wins_under_faults() {
        let state = FaultyKeyValue::new();
        let store = store(&state).await;
        let mut all = Vec::new();
        for number in 0..200_u32 {
            if number % 3 == 0 {
                state.fail_writes(2, StoreError::OutcomeUnknown);
            }
            let key = format!("k{}", number % 4);
            let value = number.to_be_bytes().to_vec();
            all.push(KVStore::write(&store, "p", "s", &key, value));
        }
        state.fail_writes(0, FULL);
        for written in all {
            written.await.expect("written");
        }
        for key in 0..4_u32 {
            let value = state.value("p", "s", &format!("k{key}"));
            assert_eq!(value, Some((196 + key).to_be_bytes().to_vec()));
        }
        assert!(state.applied().len() < state.attempts());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn blocking_writes_wait_on_workers_and_on_plain_threads() {
        let state = FaultyKeyValue::new();
        let store = store(&state).await;
        state.fail_writes(3, FULL);
        KVStoreSync::write(&store, "p", "s", "k", vec![1]).expect("on a worker");
        let plain = store.clone();
        state.fail_writes(3, FULL);
        let thread = thread::spawn(move || KVStoreSync::write(&plain, "p", "s", "k", vec![2]));
        thread.join().expect("thread").expect("on a plain thread");
        assert_eq!(KVStoreSync::read(&store, "p", "s", "k").expect("read"), [2]);
        KVStoreSync::remove(&store, "p", "s", "k", true).expect("removed");
        while !store.is_idle() {
            sleep(Duration::from_millis(1)).await;
        }
        let missing = KVStoreSync::read(&store, "p", "s", "k").expect_err("missing");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_fenced_write_never_says_ok() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let state = FaultyKeyValue::new();
            let store = store(&state).await;
            state.begin_epoch().await.expect("another epoch");
            let waiting = timeout(Duration::from_millis(100), put(&store, 1)).await;
            assert!(waiting.is_err());
            assert!(store.0.fence.is_down());
            assert!(store.0.health.report().fenced.is_some());
            let attempts = state.attempts();
            let threads = ["payments", "monitors"].map(|primary| {
                let parked = store.clone();
                thread::spawn(move || KVStoreSync::write(&parked, primary, "", "k", vec![1]))
            });
            sleep(Duration::from_millis(100)).await;
            assert!(
                threads.iter().all(|thread| !thread.is_finished()),
                "one came back"
            );
            assert_eq!(state.attempts(), attempts, "a fenced node wrote again");
            assert!(state.applied().is_empty());
        });
        runtime.shutdown_background();
    }

    use ldk_node::tokio::time::{sleep, timeout};
}
