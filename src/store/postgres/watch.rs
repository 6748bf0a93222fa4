//! Who waits for events, and the look whether another instance has written some.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use event_listener::Event;

use super::reads::{LAST_EVENT, value};
use super::run;

/// How long an event of another instance may go unseen, while somebody waits for it.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Watch {
    /// Told of every commit of this instance, and of events of others.
    pub(super) committed: Event,
    waiters: AtomicUsize,
    changed: Event,
    closed: AtomicBool,
}

/// Somebody who waits.
pub(super) struct Waiting<'a>(&'a Watch);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watch {
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
        Waiting(self)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
        self.committed.notify(usize::MAX);
    }

    /// Looks at the database while somebody waits: plain SQL, which every pooler and every
    /// compatible engine passes on.
    pub(super) async fn run(self: Arc<Self>, pool: Pool) {
        let mut last = 0_i64;
        loop {
            let changed = self.changed.listen();
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            if self.waiters.load(Ordering::SeqCst) == 0 {
                changed.await;
                continue;
            }
            let rows = run(&pool, LAST_EVENT, &[]).await;
            let position = rows.ok().and_then(|rows| value(rows.first()?, 0).ok());
            if let Some(position) = position
                && position != last
            {
                last = position;
                self.committed.notify(usize::MAX);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
