//! Waiting for what is on its way to be seen, or for what is seen to stand where it must.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::sync::Mutex;

use super::connection::{Failed, connect_writer, not_done};
use super::write::{CONFIRM, SETTLE};
use crate::store::StoreError;

/// Whoever commits has the head locked until it can be seen, also while it waits for a standby. Nothing
/// is written, and so nothing flushed.
const WAIT: &str = "BEGIN; SELECT 1 FROM head FOR UPDATE; ROLLBACK";

/// One at a time, on a connection of its own: while no standby answers all of them wait, and those
/// who only read are to have theirs.
#[derive(Clone)]
pub(super) struct Confirm {
    pub(super) pool: Pool,
    pub(super) patience: Duration,
    pub(super) is_unsettled: Arc<AtomicBool>,
    pub(super) connection: Arc<Mutex<Option<ClientWrapper>>>,
}

impl Confirm {
    /// Makes sure of what can be seen.
    pub(super) async fn seen(self) -> Result<(), StoreError> {
        let sql = self.settling().unwrap_or(CONFIRM);
        self.run(sql).await
    }

    /// Waits for what is on its way to be seen, and makes sure against what comes later.
    pub(super) async fn on_its_way(self) -> Result<(), StoreError> {
        let sql = self.settling().unwrap_or(WAIT);
        self.run(sql).await
    }

    fn settling(&self) -> Option<&'static str> {
        self.is_unsettled.load(Ordering::SeqCst).then_some(SETTLE)
    }

    async fn run(self, sql: &'static str) -> Result<(), StoreError> {
        let tried = async {
            let mut place = self.connection.lock().await;
            let mut was_used = true;
            loop {
                // In nobody's hands while it is waited on: one that is given up ends.
                let connection = match place.take().filter(|kept| !kept.is_closed()) {
                    Some(kept) => kept,
                    None => {
                        was_used = false;
                        connect_writer(&self.pool).await?
                    }
                };
                match connection.batch_execute(sql).await.map_err(not_done) {
                    Ok(()) => {
                        *place = Some(connection);
                        return Ok(());
                    }
                    // It was gone when it was asked.
                    Err(Failed::Again(_)) if was_used => {}
                    Err(failed) => return Err(failed),
                }
            }
        };
        let tried = tokio::time::timeout(self.patience, tried).await;
        tried.map_or(Err(StoreError::OutcomeUnknown), |tried| {
            tried.map_err(StoreError::from)
        })
    }
}
