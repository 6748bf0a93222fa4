//! Waiting for what is on its way to be seen, or for what is seen to stand where it must.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::connection::{Failed, connect_writer, not_done};
use super::write::{CONFIRM, SETTLE};
use crate::store::StoreError;

/// Whoever commits has the head locked until it can be seen, also while it waits for a standby. Nothing
/// is written, and so nothing flushed.
const WAIT: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT 1 FROM head FOR UPDATE; ROLLBACK";

/// What a run makes sure of.
#[derive(Clone, Copy)]
enum Of {
    OnItsWay,
    Seen,
}

/// One at a time, on a connection of its own: while no standby answers all of them wait, and those
/// who only read are to have theirs. Whoever came before a run began is served by it.
#[derive(Clone)]
pub(super) struct Confirm {
    pool: Pool,
    patience: Duration,
    is_unsettled: Arc<AtomicBool>,
    /// How many have come.
    came: Arc<AtomicU64>,
    line: Arc<Mutex<Line>>,
}

#[derive(Default)]
struct Line {
    connection: Option<ClientWrapper>,
    /// Whoever came before this one was served, by what they asked for.
    served: [u64; 2],
}

impl Confirm {
    pub(super) fn new(pool: Pool, patience: Duration, is_unsettled: Arc<AtomicBool>) -> Self {
        Self {
            pool,
            patience,
            is_unsettled,
            came: Arc::default(),
            line: Arc::default(),
        }
    }

    /// Lets the connection go; to be called when the pool was closed.
    pub(super) fn close(&self) {
        // Whoever has it lets it go by itself.
        if let Ok(mut line) = self.line.try_lock() {
            line.connection = None;
        }
    }

    /// Makes sure of what can be seen.
    pub(super) async fn seen(self) -> Result<(), StoreError> {
        self.ask(Of::Seen).await
    }

    /// Waits for what is on its way to be seen, and makes sure against what comes later.
    pub(super) async fn on_its_way(self) -> Result<(), StoreError> {
        self.ask(Of::OnItsWay).await
    }

    async fn ask(self, of: Of) -> Result<(), StoreError> {
        let mine = self.came.fetch_add(1, Ordering::SeqCst);
        let patience = self.patience;
        let served = async move {
            let line = self.line.clone().lock_owned().await;
            if mine < line.served[of as usize] {
                return Ok(());
            }
            // Nobody's own: who came last and gives up first leaves no connection behind.
            let run = tokio::spawn(self.serve(line, of));
            run.await.unwrap_or(Err(Failed::Unknown))
        };
        let served = tokio::time::timeout(patience, served).await;
        served.map_or(Err(StoreError::OutcomeUnknown), |served| {
            served.map_err(StoreError::from)
        })
    }

    async fn serve(self, mut line: OwnedMutexGuard<Line>, of: Of) -> Result<(), Failed> {
        let came = self.came.load(Ordering::SeqCst);
        let sql = match (self.is_unsettled.load(Ordering::SeqCst), of) {
            (true, _) => SETTLE,
            (false, Of::Seen) => CONFIRM,
            (false, Of::OnItsWay) => WAIT,
        };
        let run = tokio::time::timeout(self.patience, self.run(&mut line, sql)).await;
        run.unwrap_or(Err(Failed::Unknown))?;
        line.served[of as usize] = came;
        Ok(())
    }

    async fn run(&self, line: &mut Line, sql: &str) -> Result<(), Failed> {
        loop {
            // In nobody's hands while it is waited on: one that is given up ends.
            let kept = line.connection.take();
            let kept = kept.filter(|kept| !kept.is_closed());
            let was_kept = kept.is_some();
            let connection = match kept {
                Some(kept) => kept,
                None => connect_writer(&self.pool).await?,
            };
            match connection.batch_execute(sql).await.map_err(not_done) {
                Ok(()) => {
                    line.connection = Some(connection).filter(|_| !self.pool.is_closed());
                    return Ok(());
                }
                // It was gone when it was asked.
                Err(Failed::Again(_)) if was_kept => {}
                Err(failed) => return Err(failed),
            }
        }
    }
}
