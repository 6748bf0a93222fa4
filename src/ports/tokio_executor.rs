//! Work on a tokio runtime.

use std::time::Duration;

use super::{BoxFuture, Executor};

/// Runs work on a tokio runtime that the host owns.
#[derive(Debug, Clone)]
pub struct TokioExecutor {
    runtime: tokio::runtime::Handle,
}

impl TokioExecutor {
    /// Work goes to `runtime`; it must outlive the engine.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { runtime }
    }

    /// The runtime this code runs in, or `None` outside of one.
    pub fn current() -> Option<Self> {
        tokio::runtime::Handle::try_current().ok().map(Self::new)
    }

    /// The runtime that work goes to.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }
}

impl Executor for TokioExecutor {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        drop(self.runtime.spawn(work));
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        drop(self.runtime.spawn_blocking(work));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // Not tokio's own timer, which panics in a runtime that was built without one.
        Box::pin(futures_timer::Delay::new(duration))
    }
}
