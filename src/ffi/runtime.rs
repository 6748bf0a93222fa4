//! Where the engines of a process run.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

use super::FlashError;

/// One for all engines, made when it is first needed and never torn down: tearing a runtime down
/// waits for its threads, and a drop must not wait. It holds threads, and nothing about money.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// The runtime; not the one the app calls on, which may be none.
pub(super) fn handle() -> Result<Handle, FlashError> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = runtime.as_ref() {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flashkit")
        .enable_time()
        .build()
        .map_err(|error| FlashError::internal("ffi.runtime", error.to_string()))?;
    let handle = made.handle().clone();
    *runtime = Some(made);
    Ok(handle)
}

/// Runs `work` to its end although the caller goes away; a panic in it is an error.
pub(super) async fn run<T: Send + 'static>(
    work: impl Future<Output = Result<T, FlashError>> + Send + 'static,
) -> Result<T, FlashError> {
    finished(handle()?.spawn(work).await)
}

/// Runs work that may block its thread.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FlashError> + Send + 'static,
) -> Result<T, FlashError> {
    finished(handle()?.spawn_blocking(work).await)
}

fn finished<T>(
    joined: Result<Result<T, FlashError>, tokio::task::JoinError>,
) -> Result<T, FlashError> {
    joined.unwrap_or_else(|error| Err(FlashError::internal("ffi.panic", error.to_string())))
}
