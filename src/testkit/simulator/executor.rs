//! One thread, and a seed that says who is next.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::random::Random;
use crate::ports::{BoxFuture, Executor};

/// Runs tasks on the thread that calls [`step`](Self::step), one poll a step, in an order that
/// the seed chooses. Its time stands still until every task waits for it, and then jumps.
#[derive(Clone)]
pub(super) struct SeededExecutor {
    tasks: Arc<Mutex<Tasks>>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

struct Tasks {
    random: Random,
    waiting: BTreeMap<u64, BoxFuture<'static, ()>>,
    /// By the time they end, and in the order they were made.
    timers: BTreeMap<(u64, u64), Waker>,
    now_ms: u64,
    made: u64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// This task was polled.
    Polled { task: u64, ended: bool },
    /// All tasks waited for this time, in milliseconds since the beginning.
    Advanced { now_ms: u64 },
    /// There is nothing to do, ever.
    Nothing,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        lock(&self.ready).insert(self.task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SeededExecutor {
    pub(super) fn new(random: Random) -> Self {
        Self {
            tasks: Arc::new(Mutex::new(Tasks {
                random,
                waiting: BTreeMap::new(),
                timers: BTreeMap::new(),
                now_ms: 0,
                made: 0,
            })),
            ready: Arc::default(),
        }
    }

    /// Milliseconds since the beginning.
    pub(super) fn now_ms(&self) -> u64 {
        lock(&self.tasks).now_ms
    }

    /// Polls one task that is ready, or lets the time pass to the next timer.
    pub(super) fn step(&self) -> Step {
        loop {
            let ready = lock(&self.ready).len();
            if ready == 0 {
                return self.advance();
            }
            let mut tasks = lock(&self.tasks);
            let chosen = tasks.random.below(ready);
            let Some(task) = lock(&self.ready).iter().nth(chosen).copied() else {
                continue;
            };
            lock(&self.ready).remove(&task);
            // Woken after its end: nobody is there any more.
            let Some(mut work) = tasks.waiting.remove(&task) else {
                continue;
            };
            drop(tasks);
            let waker = Waker::from(Arc::new(TaskWaker {
                task,
                ready: self.ready.clone(),
            }));
            let ended = work
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready();
            if !ended {
                lock(&self.tasks).waiting.insert(task, work);
            }
            return Step::Polled { task, ended };
        }
    }

    fn advance(&self) -> Step {
        let mut tasks = lock(&self.tasks);
        let Some(((until_ms, _), _)) = tasks.timers.first_key_value() else {
            return Step::Nothing;
        };
        let now_ms = tasks.now_ms.max(*until_ms);
        tasks.now_ms = now_ms;
        // All that end now: whose turn it is then, the seed says.
        let later = tasks.timers.split_off(&(now_ms.saturating_add(1), 0));
        let ended = std::mem::replace(&mut tasks.timers, later);
        drop(tasks);
        ended.into_values().for_each(Waker::wake);
        Step::Advanced { now_ms }
    }

    /// Every task ends where it stands, and every timer: what a crash leaves of a process.
    pub(super) fn kill_all(&self) {
        loop {
            let mut tasks = lock(&self.tasks);
            let killed = (
                std::mem::take(&mut tasks.waiting),
                std::mem::take(&mut tasks.timers),
            );
            drop(tasks);
            if killed.0.is_empty() && killed.1.is_empty() {
                lock(&self.ready).clear();
                return;
            }
            // What they held may start something new as it goes.
            drop(killed);
        }
    }
}

impl Executor for SeededExecutor {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        let mut tasks = lock(&self.tasks);
        tasks.made += 1;
        let task = tasks.made;
        tasks.waiting.insert(task, work);
        lock(&self.ready).insert(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let lasts_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.now_ms().saturating_add(lasts_ms);
        Box::pin(Sleep {
            executor: self.clone(),
            until_ms,
            timer: None,
        })
    }
}

struct Sleep {
    executor: SeededExecutor,
    until_ms: u64,
    timer: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let tasks = self.executor.tasks.clone();
        let mut tasks = lock(&tasks);
        if tasks.now_ms >= self.until_ms {
            return Poll::Ready(());
        }
        let key = match self.timer {
            Some(key) => key,
            None => {
                tasks.made += 1;
                (self.until_ms, tasks.made)
            }
        };
        self.timer = Some(key);
        tasks.timers.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            lock(&self.executor.tasks).timers.remove(&key);
        }
    }
}

/// Lets the others go first.
pub(super) async fn pass() {
    let mut passed = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a future that never waits answers.
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
