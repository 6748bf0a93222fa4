//! A store with gates before the commits that deal with a node's event, and before a read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flashkit::ids::TransferId;
use flashkit::ledger::{
    Account, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, Standing, Step, TransferRow, UsageWindow,
};
use flashkit::store::{CommitError, DocumentPosition, DocumentQuery, Store, StoreError};
use tokio::sync::Notify;

use super::gate::Gate;

pub struct GatedStore {
    store: Arc<dyn Store>,
    gate: Option<Arc<Gate>>,
    pause: Arc<Pause>,
    /// How many commits it makes before it makes none any more.
    commits_left: Option<AtomicUsize>,
    busy: Option<Busy>,
    /// How often a hold, or what was undone of a transfer, was asked for alone.
    asked_alone: AtomicUsize,
}

/// What others do while an account is read.
pub struct Busy {
    /// Committed before balances are read: nothing where it answers `None`.
    pub next: Box<dyn Fn() -> Option<Batch> + Send + Sync>,
    /// An account whose row somebody has edited, and by how much its debits are off.
    pub edited: Option<(Account, i128)>,
}

impl Busy {
    async fn go_on(&self, store: &Arc<dyn Store>) {
        if let Some(batch) = (self.next)() {
            store.commit(batch).await.unwrap();
        }
    }

    fn read(&self, account: Account, balance: &mut Balance) {
        if let Some((edited, by)) = self.edited
            && edited == account
        {
            balance.debits_posted += by;
        }
    }
}

/// Holds up the first commit of an operation, of a kind of job, or that writes to a collection, until it
/// is let go; or a read.
#[derive(Default)]
pub struct Pause {
    operation: Mutex<Option<String>>,
    /// A document's collection and id, and how many reads of it are let by.
    read: Mutex<Option<(String, String, usize)>>,
    reached: Notify,
    released: Notify,
}

impl Pause {
    pub fn arm(&self, operation: &str) {
        *self.operation.lock().unwrap() = Some(format!("/{operation}/"));
    }

    /// The read of a document is held up before which there were `after` others.
    pub fn arm_read(&self, collection: &str, id: &str, after: usize) {
        let armed = (collection.to_owned(), id.to_owned(), after);
        *self.read.lock().unwrap() = Some(armed);
    }

    async fn hold_up_read(&self, collection: &str, id: &str) {
        let is_it = {
            let mut armed = self.read.lock().unwrap();
            let is_it = armed.take_if(|(of, it, left)| {
                let is_it = of == collection && it == id;
                let is_last = is_it && *left == 0;
                *left -= usize::from(is_it && !is_last);
                is_last
            });
            is_it.is_some()
        };
        if is_it {
            self.reached.notify_one();
            self.released.notified().await;
        }
    }

    /// Waits until it is held up.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    pub fn release(&self) {
        self.released.notify_one();
    }

    async fn hold_up(&self, batch: &Batch) {
        let is_it = {
            let mut armed = self.operation.lock().unwrap();
            let scope = batch.command.as_ref().map(|command| command.scope.clone());
            let jobs = batch.steps.iter().filter_map(|step| match step {
                Step::Done { kind, .. } => Some(format!("/{kind}/")),
                Step::Put(document) => Some(format!("/{}/", document.collection)),
                _ => None,
            });
            let mut names = scope.into_iter().chain(jobs);
            let mut is_it = |operation: &str| names.any(|name| name.contains(operation));
            armed.take_if(|operation| is_it(operation)).is_some()
        };
        if is_it {
            self.reached.notify_one();
            self.released.notified().await;
        }
    }
}

impl GatedStore {
    pub fn new(store: Arc<dyn Store>, gate: Arc<Gate>) -> Self {
        Self {
            gate: Some(gate),
            ..Self::outliving(store)
        }
    }

    /// With nothing but a pause.
    pub fn pausing(store: Arc<dyn Store>, pause: Arc<Pause>) -> Self {
        Self {
            gate: Some(Arc::default()),
            pause,
            ..Self::outliving(store)
        }
    }

    /// Without gates, and not closed by an engine that stops: the next one finds it as it was.
    pub fn outliving(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            gate: None,
            pause: Arc::default(),
            commits_left: None,
            busy: None,
            asked_alone: AtomicUsize::new(0),
        }
    }

    /// Others are at it.
    pub fn busy(store: Arc<dyn Store>, busy: Busy) -> Self {
        Self {
            busy: Some(busy),
            ..Self::outliving(store)
        }
    }

    /// As of a process that dies: after so many commits nothing is written any more.
    pub fn dying(store: Arc<dyn Store>, commits: usize) -> Self {
        Self {
            commits_left: Some(AtomicUsize::new(commits)),
            ..Self::outliving(store)
        }
    }

    pub fn asked_alone(&self) -> usize {
        self.asked_alone.load(Ordering::SeqCst)
    }

    pub fn is_dead(&self) -> bool {
        let left = self.commits_left.as_ref();
        left.is_some_and(|left| left.load(Ordering::SeqCst) == 0)
    }
}

#[async_trait]
impl Store for GatedStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        if let Some(left) = &self.commits_left {
            let one_less = |left: usize| left.checked_sub(1);
            let lives = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            lives.map_err(|_| StoreError::Closed)?;
        }
        self.pause.hold_up(&batch).await;
        // No caller is behind it: an incoming payment is being accepted, or booked.
        if let (Some(gate), None) = (&self.gate, &batch.command) {
            for step in batch.steps.iter() {
                match step {
                    Step::Hold(_) => gate.reach_quietly("claimable-not-committed").await,
                    Step::Capture { .. } => gate.reach_quietly("received-not-booked").await,
                    _ => {}
                }
            }
        }
        self.store.commit(batch).await
    }

    fn commit_time_ms(&self) -> i64 {
        self.store.commit_time_ms()
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        self.store.command(scope).await
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        self.pause.hold_up_read(collection, id).await;
        self.store.document(collection, id).await
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        self.store.documents(query).await
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        let Some(busy) = &self.busy else {
            return self.store.balance(account).await;
        };
        busy.go_on(&self.store).await;
        let mut balance = self.store.balance(account).await?;
        busy.read(*account, &mut balance);
        Ok(balance)
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        let Some(busy) = &self.busy else {
            return self.store.balances(after, limit).await;
        };
        busy.go_on(&self.store).await;
        let mut page = self.store.balances(after, limit).await?;
        for (account, balance) in &mut page {
            busy.read(*account, balance);
        }
        Ok(page)
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        self.store.transfers(account, before, limit).await
    }

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        self.store.transfer(id).await
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        self.store.balance_at(account, at_ms).await
    }

    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError> {
        self.store.standing(account, at_ms, windows).await
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        self.store.commits(after, limit).await
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        self.store.journal(after, limit).await
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        self.store.hold_changes(after, limit).await
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        self.store.chain_heads().await
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        self.store.forget_answers(before_ms, limit).await
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        self.asked_alone.fetch_add(1, Ordering::SeqCst);
        self.store.hold(id).await
    }

    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError> {
        self.asked_alone.fetch_add(1, Ordering::SeqCst);
        self.store.reversed(id).await
    }

    async fn holds_left(&self, ids: &[TransferId]) -> Result<Vec<Option<i64>>, StoreError> {
        self.store.holds_left(ids).await
    }

    async fn all_reversed(&self, ids: &[TransferId]) -> Result<Vec<i64>, StoreError> {
        self.store.all_reversed(ids).await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.store.claim(name).await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.store.counter(name).await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError> {
        self.store.usage(window).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        self.store.events(after, limit).await
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        self.store.event_after(position).await
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        self.store.cursor(name).await
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        self.store.acknowledge(name, position).await
    }

    async fn lease_due(
        &self,
        due_by_ms: i64,
        lasts: Duration,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let leased = self.store.lease_due(due_by_ms, lasts, except, limit);
        leased.await
    }

    async fn close(&self) -> Result<(), StoreError> {
        match self.gate {
            Some(_) => self.store.close().await,
            None => Ok(()),
        }
    }
}
