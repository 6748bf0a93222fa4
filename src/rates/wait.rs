//! Waiting for several things, and never for ever.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::RateError;
use crate::ports::{BoxFuture, Executor};

/// The answer of `work`, or `rate.timed_out`; what is not done by then is dropped.
pub(super) async fn within<T>(
    executor: &dyn Executor,
    timeout_ms: u64,
    work: impl Future<Output = Result<T, RateError>> + Send,
) -> Result<T, RateError> {
    let mut work = Box::pin(work);
    let mut alarm = executor.sleep(Duration::from_millis(timeout_ms));
    poll_fn(move |context| {
        if let Poll::Ready(answer) = work.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        let over = alarm.as_mut().poll(context);
        over.map(|()| Err(RateError::TimedOut { timeout_ms }))
    })
    .await
}

/// Runs everything side by side; the answers stand in the order of the work.
pub(super) async fn together<T: Send + Unpin>(work: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut slots: Vec<(Option<BoxFuture<'_, T>>, Option<T>)> =
        work.into_iter().map(|work| (Some(work), None)).collect();
    poll_fn(|context| {
        let mut waiting = false;
        for (work, answer) in &mut slots {
            let Some(running) = work else { continue };
            match Pin::as_mut(running).poll(context) {
                Poll::Ready(value) => {
                    *answer = Some(value);
                    *work = None;
                }
                Poll::Pending => waiting = true,
            }
        }
        if waiting {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    slots.into_iter().filter_map(|(_, answer)| answer).collect()
}
