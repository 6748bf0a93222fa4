//! A store in a PostgreSQL database, which several engines may share.
//!
//! What waits in one instance is one transaction: in one round trip while no other instance writes,
//! and in two otherwise. Each begins by locking one row, the head, which gives out commit times and the positions of commits, transfers
//! and events. So the groups of all instances are done one after another: every guard is checked
//! against all commits before it, times and positions grow in the order of the commits, and
//! nobody can see a position while an earlier one is still open. An instance that stops in the
//! middle loses its transaction, and the lock, after [`PostgresConfig::stall`].
//!
//! The server must be reached directly or through a pooler that keeps sessions. `tokio-postgres`
//! writes the values of its statements to the log at the level `debug`: leave that off.

mod config;
mod confirm;
mod connection;
mod copying;
mod group;
mod key_value;
mod known;
mod lately;
mod moving;
mod node_state;
mod notices;
mod queue;
mod reads;
mod schema;
mod snapshot;
mod state;
mod tls;
mod watch;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use futures_channel::oneshot;
use tokio::runtime::Handle;
use tokio_postgres::Row;

use self::confirm::Confirm;
use self::connection::{Failed, Param, connect, not_done};
use self::group::{CommitTask, GroupWriter};
use self::known::Known;
use self::node_state::{NodeTask, NodeWriter};
use self::queue::{Queue, Taker};
use self::watch::Watch;
use super::threads::Stopped;
use super::{
    CommitClock, CommitError, DocumentPosition, DocumentQuery, MAX_PAGE, Store, StoreError,
    StoreTrouble, WriteHealth,
};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, Batch, ChainHead, Commit, CommitRow, Document, DueJob, EventRecord,
    HoldChangeRow, HoldState, MOST_DUE_RELEASES, Standing, TransferRow, UsageWindow,
};
use crate::ports::Clock;

pub use config::PostgresConfig;

/// A store in a PostgreSQL database. Clones share it; it closes when the last one is dropped or
/// [`close`](Store::close) is called. Calls may be made from any runtime, or none: the work is
/// done on the one that it was connected in.
///
/// A dump that was restored, a copy of the database, a recovery to a point in time and a standby
/// that was promoted are noticed, and the node does not start on them. **The server's files put
/// back as a whole, by a snapshot of the volume or a cold copy, are not**, nor is a dump from
/// before the node first began: then recover the node before it starts.
///
/// Once the node was [handed over](super::NodeState::HandOver) no instance commits anything here any
/// more: `store.handed_over`.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Handle,
    pool: Pool,
    patience: Duration,
    closed: AtomicBool,
    batches: Arc<Queue<CommitTask>>,
    node: Arc<Queue<NodeTask>>,
    writers: [Arc<Stopped>; 2],
    watch: Arc<Watch>,
    health: Arc<WriteHealth>,
    times: Arc<CommitClock>,
    confirm: Confirm,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The writers finish what waits and end by themselves; nobody waits for them here.
        self.shut();
    }
}

impl Shared {
    fn shut(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.batches.close();
        self.node.close();
        self.watch.close();
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            Err(StoreError::Closed)
        } else {
            Ok(())
        }
    }

    /// The books live elsewhere, for ever.
    fn note_handed_over(&self) {
        let now_ms = self.times.wall_ms();
        self.health.failed(StoreError::HandedOver, now_ms);
    }
}

impl PostgresStore {
    /// Connects to the database, and makes or migrates the tables in it. Commit times come from
    /// `clock`, or from the database's last commit where that is later. To be called within a
    /// tokio runtime that outlives the store.
    ///
    /// Before tables are migrated they are copied, in the same transaction, to the schema
    /// `<schema>_schema_<version>`, without what the node knows of its channels. Where this user
    /// may make no schema, one by this name has to be there, and be empty. The copy is never
    /// read, and stays until somebody drops it: what is erased from the books is not from it.
    ///
    /// # Errors
    /// `store.misconfigured` (the connection string, the name of the schema, who may come in, no
    /// runtime), `store.newer_schema`, `store.corrupt` (the schema belongs to another program),
    /// `store.read_only`, `store.io`.
    pub async fn connect(
        config: PostgresConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let runtime = Handle::try_current().map_err(|error| StoreError::Misconfigured {
            reason: error.to_string(),
        })?;
        let pool = connection::pool(&config)?;
        let first = connect(&pool).await?;
        schema::prepare(&first, &config.schema).await?;
        let last = first.query_one(reads::LAST_COMMIT, &[]).await;
        let last_ms = reads::value(&last.map_err(not_done)?, 0)?;
        let handed_over = first.query_one(schema::IS_HANDED_OVER, &[]).await;
        let is_handed_over = reads::value(&handed_over.map_err(not_done)?, 0)?;
        drop(first);

        // A process that ended leaves what it had sent to the network.
        let is_unsettled = Arc::new(AtomicBool::new(true));
        let shared = Arc::new(Shared {
            runtime,
            pool: pool.clone(),
            patience: config.patience,
            closed: AtomicBool::new(false),
            batches: Arc::new(Queue::new(group::MAX_WAITING)),
            node: Arc::new(Queue::new(node_state::MAX_WAITING)),
            writers: Default::default(),
            watch: Arc::default(),
            health: Arc::default(),
            times: Arc::new(CommitClock::new(clock, last_ms)),
            confirm: Confirm::new(pool.clone(), config.patience, is_unsettled.clone()),
        });
        if is_handed_over {
            shared.note_handed_over();
        }
        let [group_stopped, node_stopped] = shared.writers.clone();
        let writer = GroupWriter {
            pool: pool.clone(),
            taker: Taker {
                queue: shared.batches.clone(),
                stopped: group_stopped,
            },
            times: shared.times.clone(),
            watch: shared.watch.clone(),
            health: shared.health.clone(),
            patience: config.patience,
            connection: None,
            known: Known::default(),
            is_committing: false,
            is_unsettled,
        };
        drop(shared.runtime.spawn(writer.run()));
        let writer = NodeWriter {
            pool: pool.clone(),
            taker: Taker {
                queue: shared.node.clone(),
                stopped: node_stopped,
            },
            patience: config.patience,
            connection: None,
            numbered: None,
        };
        drop(shared.runtime.spawn(writer.run()));
        drop(shared.runtime.spawn(shared.watch.clone().run(pool)));
        Ok(Self { shared })
    }

    /// Lets the node run on its state here although the database is not the one it last ran on:
    /// it was restored, copied, or promoted.
    ///
    /// **Only after a move without any loss**, with the node stopped before it and running
    /// nowhere else since. On an older copy the node would publish states of its channels that
    /// were revoked, and its peers may then take all that is in them. The books are not affected
    /// by this.
    ///
    /// # Errors
    /// `store.io`.
    pub async fn trust_node_state(&self) -> Result<(), StoreError> {
        self.rows(node_state::TRUST, Vec::new()).await.map(drop)
    }

    /// Runs one statement on a connection of the pool. One that fails because its connection is
    /// gone runs again: it must be one that may.
    async fn rows(&self, sql: &'static str, params: Vec<Param>) -> Result<Vec<Row>, StoreError> {
        self.shared.check_open()?;
        let (pool, patience) = (self.shared.pool.clone(), self.shared.patience);
        let rows = self.shared.runtime.spawn(async move {
            let mut last = StoreError::Io {
                reason: "the database did not answer in time".to_owned(),
            };
            let tries = async {
                loop {
                    match run(&pool, sql, &params).await {
                        Err(Failed::Again(error)) => last = error,
                        other => return other.map_err(StoreError::from),
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            };
            let rows = tokio::time::timeout(patience, tries).await;
            rows.unwrap_or(Err(last))
        });
        rows.await.unwrap_or(Err(StoreError::Closed))
    }
}

const PAUSE: Duration = Duration::from_millis(50);

async fn run(pool: &Pool, sql: &'static str, params: &[Param]) -> Result<Vec<Row>, Failed> {
    let connection = connect(pool).await?;
    let statement = connection.prepare_cached(sql).await.map_err(not_done)?;
    connection::prepared(&connection, statement, params)
        .await
        .map_err(not_done)
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1)
}

fn page(after: i64, limit: usize) -> Vec<Param> {
    vec![Box::new(after), Box::new(sql_limit(limit))]
}

#[async_trait]
impl Store for PostgresStore {
    async fn commit(&self, batch: Batch) -> Result<Commit, CommitError> {
        let (answer, answered) = oneshot::channel();
        self.shared.batches.push(CommitTask { batch, answer })?;
        answered.await.map_err(|_| StoreError::OutcomeUnknown)?
    }

    fn commit_time_ms(&self) -> i64 {
        self.shared.times.now_ms()
    }

    async fn command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let found = self.known_command(scope).await?;
        if found.is_some() {
            return Ok(found);
        }
        // And what is not found for undone: a commit that waits for a standby has the head locked
        // until it can be seen, and one that is still on its way finds another head.
        let confirm = self.shared.confirm.clone();
        let waited = self.shared.runtime.spawn(confirm.on_its_way());
        let waited = waited.await.unwrap_or(Err(StoreError::Closed));
        waited.map_err(StoreError::of_waiting)?;
        self.known_command(scope).await
    }

    async fn known_command(&self, scope: &str) -> Result<Option<(String, Commit)>, StoreError> {
        let scope: Vec<Param> = vec![Box::new(scope.to_owned())];
        let rows = self.rows(reads::COMMAND, scope).await?;
        if !rows.is_empty() {
            // Whoever asks takes what is found for done for ever.
            let confirm = self.shared.confirm.clone();
            let confirmed = self.shared.runtime.spawn(confirm.seen());
            confirmed.await.unwrap_or(Err(StoreError::Closed))?;
        }
        rows.first().map(reads::command).transpose()
    }

    async fn document(&self, collection: &str, id: &str) -> Result<Option<Document>, StoreError> {
        let params: Vec<Param> = vec![Box::new(collection.to_owned()), Box::new(id.to_owned())];
        let rows = self.rows(reads::DOCUMENT, params).await?;
        rows.first().map(reads::document).transpose()
    }

    async fn documents(
        &self,
        query: DocumentQuery,
    ) -> Result<Vec<(DocumentPosition, Document)>, StoreError> {
        // Ids are never empty, so `(from, "")` is before every document with that key.
        let first = DocumentPosition {
            key: query.from,
            id: String::new(),
        };
        let from = query.after.filter(|after| *after >= first).unwrap_or(first);
        let sql = if query.to.is_some() {
            reads::DOCUMENTS_TO
        } else {
            reads::DOCUMENTS
        };
        let params: Vec<Param> = vec![
            Box::new(query.collection),
            Box::new(query.index),
            Box::new(from.key),
            Box::new(from.id),
            Box::new(query.to),
            Box::new(sql_limit(query.limit)),
        ];
        let rows = self.rows(sql, params).await?;
        rows.iter().map(reads::found_document).collect()
    }

    async fn balance(&self, account: &Account) -> Result<Balance, StoreError> {
        let rows = self
            .rows(reads::BALANCE, vec![Box::new(account.to_string())])
            .await?;
        let balance = rows.first().map(reads::balance).transpose()?;
        Ok(balance.map(|(_, balance)| balance).unwrap_or_default())
    }

    async fn balances(
        &self,
        after: Option<Account>,
        limit: usize,
    ) -> Result<Vec<(Account, Balance)>, StoreError> {
        let after = after.map(|account| account.to_string()).unwrap_or_default();
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let params: Vec<Param> = vec![Box::new(after), Box::new(limit)];
        let rows = self.rows(reads::BALANCES, params).await?;
        rows.iter().map(reads::balance).collect()
    }

    async fn transfers(
        &self,
        account: &Account,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TransferRow>, StoreError> {
        let params: Vec<Param> = vec![
            Box::new(account.to_string()),
            Box::new(before.unwrap_or(i64::MAX)),
            Box::new(sql_limit(limit)),
        ];
        let rows = self.rows(reads::TRANSFERS, params).await?;
        rows.iter().map(reads::transfer).collect()
    }

    async fn transfer(&self, id: TransferId) -> Result<Option<TransferRow>, StoreError> {
        let rows = self
            .rows(reads::TRANSFER, vec![Box::new(id.to_string())])
            .await?;
        rows.first().map(reads::transfer).transpose()
    }

    async fn balance_at(&self, account: &Account, at_ms: i64) -> Result<i64, StoreError> {
        let rows = self.rows(reads::FIRST_AFTER, vec![Box::new(at_ms)]).await?;
        let before = rows.first().map(|row| reads::value(row, 0)).transpose()?;
        let last = self.transfers(account, before, 1).await?;
        Ok(last.first().map_or(0, |row| row.balance_after(account)))
    }

    async fn standing(
        &self,
        account: &Account,
        at_ms: i64,
        windows: &[UsageWindow],
    ) -> Result<Standing, StoreError> {
        let (subjects, starts): (Vec<_>, Vec<_>) = windows
            .iter()
            .map(|window| (window.subject.clone(), window.start_ms))
            .unzip();
        let params: Vec<Param> = vec![
            Box::new(account.to_string()),
            Box::new(at_ms),
            Box::new(i64::try_from(MOST_DUE_RELEASES).unwrap_or(i64::MAX)),
            Box::new(subjects),
            Box::new(starts),
        ];
        reads::standing(&self.rows(reads::STANDING, params).await?)
    }

    async fn commits(&self, after: i64, limit: usize) -> Result<Vec<CommitRow>, StoreError> {
        let rows = self.rows(reads::COMMITS, page(after, limit)).await?;
        rows.iter().map(reads::commit_row).collect()
    }

    async fn journal(&self, after: i64, limit: usize) -> Result<Vec<TransferRow>, StoreError> {
        let rows = self.rows(reads::JOURNAL, page(after, limit)).await?;
        rows.iter().map(reads::transfer).collect()
    }

    async fn hold_changes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HoldChangeRow>, StoreError> {
        let rows = self.rows(reads::HOLD_CHANGES, page(after, limit)).await?;
        rows.iter().map(reads::hold_change).collect()
    }

    async fn chain_heads(&self) -> Result<Vec<ChainHead>, StoreError> {
        let rows = self.rows(reads::CHAIN_HEADS, Vec::new()).await?;
        rows.iter().map(reads::chain_head).collect()
    }

    async fn forget_answers(&self, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params: Vec<Param> = vec![Box::new(before_ms), Box::new(limit)];
        let rows = self.rows(reads::FORGET_ANSWERS, params).await?;
        let forgotten: Option<i64> = rows.first().map(|row| reads::value(row, 0)).transpose()?;
        Ok(usize::try_from(forgotten.unwrap_or(0)).unwrap_or(0))
    }

    async fn hold(&self, id: TransferId) -> Result<Option<HoldState>, StoreError> {
        let rows = self
            .rows(reads::HOLD, vec![Box::new(id.to_string())])
            .await?;
        rows.first().map(reads::hold).transpose()
    }

    async fn reversed(&self, id: TransferId) -> Result<i64, StoreError> {
        let reversed = self.value(reads::REVERSED, id.to_string()).await?;
        Ok(reversed.unwrap_or(0))
    }

    async fn holds_left(&self, ids: &[TransferId]) -> Result<Vec<Option<i64>>, StoreError> {
        self.values(reads::HOLDS_LEFT, ids).await
    }

    async fn all_reversed(&self, ids: &[TransferId]) -> Result<Vec<i64>, StoreError> {
        self.values(reads::ALL_REVERSED, ids).await
    }

    async fn claim(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.value(reads::CLAIM, name.to_owned()).await
    }

    async fn counter(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.value(reads::COUNTER, name.to_owned()).await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<i64, StoreError> {
        let key: Vec<Param> = vec![Box::new(window.subject.clone()), Box::new(window.start_ms)];
        let rows = self.rows(reads::USAGE, key).await?;
        let used = rows.first().map(|row| reads::value(row, 0)).transpose()?;
        Ok(used.unwrap_or(0))
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<EventRecord>, StoreError> {
        let rows = self.rows(reads::EVENTS, page(after, limit)).await?;
        rows.iter().map(reads::event).collect()
    }

    async fn event_after(&self, position: i64) -> Result<(), StoreError> {
        let _waiting = self.shared.watch.wait();
        loop {
            // Listen first: a commit between the look and the wait must not be missed.
            let committed = self.shared.watch.committed.listen();
            if !self.events(position, 1).await?.is_empty() {
                return Ok(());
            }
            committed.await;
        }
    }

    async fn cursor(&self, name: &str) -> Result<i64, StoreError> {
        let position = self.value(reads::CURSOR, name.to_owned()).await?;
        Ok(position.unwrap_or(0))
    }

    async fn acknowledge(&self, name: &str, position: i64) -> Result<(), StoreError> {
        let params: Vec<Param> = vec![Box::new(name.to_owned()), Box::new(position)];
        self.rows(reads::ACKNOWLEDGE, params).await.map(drop)
    }

    async fn lease_due(
        &self,
        due_by_ms: i64,
        lasts: Duration,
        except: &[&str],
        limit: usize,
    ) -> Result<Vec<DueJob>, StoreError> {
        let except: Vec<String> = except.iter().map(ToString::to_string).collect();
        let params: Vec<Param> = vec![
            Box::new(due_by_ms),
            Box::new(i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX)),
            Box::new(sql_limit(limit)),
            Box::new(except),
        ];
        let rows = self.rows(reads::LEASE_DUE, params).await?;
        let mut jobs: Vec<DueJob> = rows.iter().map(reads::job).collect::<Result<_, _>>()?;
        // The rows of RETURNING come in no particular order.
        jobs.sort_by(|left, right| {
            (left.due_at_ms, &left.kind, &left.object).cmp(&(
                right.due_at_ms,
                &right.kind,
                &right.object,
            ))
        });
        Ok(jobs)
    }

    fn trouble(&self) -> Option<StoreTrouble> {
        self.shared.health.trouble()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.shut();
        for writer in &self.shared.writers {
            writer.wait().await;
        }
        self.shared.watch.committed.notify(usize::MAX);
        self.shared.pool.close();
        self.shared.confirm.close();
        Ok(())
    }
}
