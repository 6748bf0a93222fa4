//! The port of the books.

use std::time::Duration;

use async_trait::async_trait;

use super::tree::Tree;
use super::writer::Task;
use super::{OrderedStore, tables, writing};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, Rows, Standing, TransferRow, UsageWindow,
};
use crate::store::group_commit::{CommitTask, Lane};
use crate::store::{
    CommitError, DocumentPosition, DocumentQuery, MAX_PAGE, Store, StoreError, StoreTrouble,
};

fn page_of(limit: usize) -> usize {
    limit.clamp(1, MAX_PAGE)
}

#[async_trait]
impl<T: Tree> Store for OrderedStore<T> {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let (task, answered) = CommitTask::new(batch);
        self.queue.push(Lane::Batches, Task::Batch(task));
        answered.await
    }

    fn commit_time_ms(&self) -> i64 {
        self.times.now_ms()
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let found = self.known_command(scope).await?;
        if found.is_some() {
            return Ok(found);
        }
        // Nobody may take it for undone while it is on its way to the disk: what comes after it in
        // the line waits for it.
        let settled = self.change(Lane::Batches, |_| Ok(())).await;
        settled.map_err(StoreError::of_waiting)?;
        self.known_command(scope).await
    }

    async fn known_command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let scope = scope.to_owned();
        self.ask(move |books| books.command(&scope)).await
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        let (collection, id) = (collection.to_owned(), id.to_owned());
        self.ask(move |books| books.document(&collection, &id))
            .await
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        self.ask(move |books| books.documents(&query)).await
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        let account = *account;
        self.ask(move |books| books.balance(&account)).await
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        self.ask(move |books| books.balances(after, limit.max(1)))
            .await
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        let account = *account;
        self.ask(move |books| books.transfers(&account, before, page_of(limit)))
            .await
    }

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        self.ask(move |books| books.transfer(id)).await
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        let account = *account;
        self.ask(move |books| books.balance_at(&account, at_ms))
            .await
    }

    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError> {
        let (account, windows) = (*account, windows.to_vec());
        self.ask(move |books| books.standing(&account, at_ms, &windows))
            .await
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        self.ask(move |books| books.page(&tables::COMMITS, after, page_of(limit)))
            .await
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        self.ask(move |books| books.page(&tables::TRANSFERS, after, page_of(limit)))
            .await
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        self.ask(move |books| books.page(&tables::HOLD_CHANGES, after, page_of(limit)))
            .await
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        self.ask(|books| books.chain_heads()).await
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        self.change(Lane::Batches, move |open| {
            writing::forget_answers(&mut open.to, before_ms, limit)
        })
        .await
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        self.ask(move |books| books.hold(id)).await
    }

    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError> {
        self.ask(move |books| books.reversed(id)).await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        let name = name.to_owned();
        self.ask(move |books| books.claim(&name)).await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let name = name.to_owned();
        self.ask(move |books| books.counter(&name)).await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError> {
        let window = window.clone();
        self.ask(move |books| books.usage(&window)).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        self.ask(move |books| books.page(&tables::EVENTS, after, page_of(limit)))
            .await
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        loop {
            // Listen first: a commit between the look and the wait must not be missed.
            let committed = self.committed.listen();
            if !self.events(position, 1).await?.is_empty() {
                return Ok(());
            }
            committed.await;
        }
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        let name = name.to_owned();
        let cursor = self.ask(move |books| books.get(&tables::CURSORS, &name));
        Ok(cursor.await?.unwrap_or(0))
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.change(Lane::Batches, move |open| {
            writing::acknowledge(&mut open.to, &name, position)
        })
        .await
    }

    async fn lease_due(
        &self,
        due_by_ms: i64,
        lasts: Duration,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let except: Vec<_> = except.iter().map(|kind| (*kind).to_owned()).collect();
        let times = self.times.clone();
        self.change(Lane::Batches, move |open| {
            let (now_ms, limit) = (times.wall_ms(), page_of(limit));
            writing::lease_due(&mut open.to, now_ms, (due_by_ms, lasts), &except, limit)
        })
        .await
    }

    fn trouble(&self) -> Option<StoreTrouble> {
        self.health.trouble()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.queue.close();
        self.readers.close();
        self.stopped.wait().await;
        Ok(())
    }
}
