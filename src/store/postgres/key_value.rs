//! What the node asks of its store.

use std::time::Duration;

use futures_channel::oneshot;

use super::PostgresStore;
use super::connection::Param;
use super::node_state::{EpochChange, NodeTask};
use super::reads::{NODE_KEYS, NODE_VALUE, value};
use crate::ports::BoxFuture;
use crate::store::{KeyPath, KeyValue, KeyValueWrite, NodeHolder, StoreError};

impl PostgresStore {
    fn change_epoch(&self, change: EpochChange) -> BoxFuture<'static, Result<u64, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let pushed = self.shared.node.push(NodeTask::Epoch { change, answer });
        Box::pin(async move {
            pushed?;
            answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }
}

impl KeyValue for PostgresStore {
    fn begin_epoch(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.change_epoch(EpochChange::Begin)
    }

    fn take_lease(
        &self,
        holder: NodeHolder,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.change_epoch(EpochChange::Take { holder, lasts })
    }

    fn renew_lease(
        &self,
        epoch: u64,
        lasts: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let renewed = self.change_epoch(EpochChange::Renew { epoch, lasts });
        Box::pin(async move { renewed.await.map(drop) })
    }

    fn release_lease(&self, epoch: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        let released = self.change_epoch(EpochChange::Release { epoch });
        Box::pin(async move { released.await.map(drop) })
    }

    fn write(
        &self,
        epoch: u64,
        change: KeyValueWrite,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let (answer, answered) = oneshot::channel();
        let pushed = self.shared.node.push(NodeTask::Write {
            epoch,
            change,
            answer,
        });
        Box::pin(async move {
            pushed?;
            answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }

    fn read(&self, path: KeyPath) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            let params: Vec<Param> = vec![
                Box::new(path.primary),
                Box::new(path.secondary),
                Box::new(path.key),
            ];
            let rows = store.rows(NODE_VALUE, params).await?;
            rows.first().map(|row| value(row, 0)).transpose()
        })
    }

    fn forget_channels(
        &self,
        instead: Vec<KeyValueWrite>,
    ) -> BoxFuture<'static, Result<bool, StoreError>> {
        let store = self.clone();
        Box::pin(async move { store.forget_channels_now(instead).await })
    }

    fn list(
        &self,
        primary: String,
        secondary: String,
    ) -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            let params: Vec<Param> = vec![Box::new(primary), Box::new(secondary)];
            let rows = store.rows(NODE_KEYS, params).await?;
            rows.iter().map(|row| value(row, 0)).collect()
        })
    }
}
