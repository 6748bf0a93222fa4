//! What the engine does not decide by itself: the time, randomness, and how to run work.
//!
//! Everything else in the crate is deterministic, so an engine built on manual ports replays a
//! run exactly. The adapters of this machine are [`SystemClock`], [`SystemEntropy`] and
//! [`TokioExecutor`].

mod system;
mod tokio_executor;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use system::{SystemClock, SystemEntropy};
pub use tokio_executor::TokioExecutor;

/// An owned future that can be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch. May jump in either direction: whoever needs an order
    /// takes the store's commit time, which never decreases.
    fn now_ms(&self) -> i64;

    /// What has passed since some moment, in milliseconds: never less than before, whatever the
    /// clock is set to, and with the time that the machine slept, as far as it can tell. By
    /// default the operating system's.
    fn steady_ms(&self) -> i64 {
        system::steady_ms()
    }
}

/// The machine has no randomness to give. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the source of randomness failed: {reason}")]
pub struct EntropyError {
    /// What the source said.
    pub reason: String,
}

/// Gives unpredictable bytes: ids are made of them.
pub trait Entropy: Send + Sync {
    /// Fills the whole of `bytes`, or fails.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError>;
}

/// Runs work beside the caller and waits for time to pass.
pub trait Executor: Send + Sync {
    /// Starts `work` and does not wait for it. It runs to its end although the caller goes away.
    fn spawn(&self, work: BoxFuture<'static, ()>);

    /// Starts `work`, which keeps a thread busy for many milliseconds, where that holds up nobody
    /// else. By default it is spawned like all other work: right for an executor of one thread.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.spawn(Box::pin(async move { work() }));
    }

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}
