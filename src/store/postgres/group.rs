//! The writer of the books: all that waits is one transaction.
//!
//! The batches are applied in memory, one after another, each upon those before it. While this
//! instance [knows](super::known) the rows and nobody else writes, a group is one round trip: begin,
//! lock the head, check what was taken for known, write what [`Group::decide`] made of the batches,
//! commit. Otherwise it is two:
//!
//! 1. Begin, lock the head, and load every row that the batches name.
//! 2. Write, and commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Pool};
use futures_channel::oneshot;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::connection::{
    Failed, Param, after_commit, connect_writer, in_one_round_trip, not_done, plain, prepared,
};
use super::known::{GUARD, Known};
use super::queue::Taker;
use super::schema::{SCHEMA_VERSION, version};
use super::snapshot::{Keys, LOAD, Snapshot};
use super::state::Loaded;
use super::watch::Watch;
use super::write::{CONFIRM, Head, LOCK_HEAD, SETTLE, Statement, statements};
use crate::ledger::{Batch, Changes, Commit, Group, LastPositions};
use crate::store::{CommitClock, CommitError, StoreError, WriteHealth};

/// The most batches in one transaction: bounds how long the first of them waits.
pub(super) const MAX_GROUP: usize = 1_024;
/// The most batches that may wait; further ones are refused as busy.
pub(super) const MAX_WAITING: usize = 65_536;

/// Rows are asked for before the commit's time is known: holds that end within this are among
/// them. Where the lock took longer, they are asked for again.
const LOOK_AHEAD_MS: i64 = 1_000;
/// Who is alone knows for so long which holds end, and then asks again.
const LOOK_AHEAD_ALONE_MS: i64 = 600_000;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type Answer = Result<Commit, CommitError>;

/// A batch that waits, and where its answer goes.
pub(super) struct CommitTask {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Answer>,
}

pub(super) struct GroupWriter {
    pub(super) pool: Pool,
    pub(super) taker: Taker<CommitTask>,
    pub(super) times: Arc<CommitClock>,
    pub(super) watch: Arc<Watch>,
    pub(super) health: Arc<WriteHealth>,
    /// For how long a group is tried while the database cannot be reached or does not answer.
    pub(super) patience: Duration,
    pub(super) connection: Option<ClientWrapper>,
    pub(super) known: Known,
    /// Set from when a commit is sent until it is answered.
    pub(super) is_committing: bool,
    /// Set while a group in one round trip may still come to the server: nothing holds the head for
    /// it, so that another answer could be given in the meantime and it be done after that.
    pub(super) is_unsettled: Arc<AtomicBool>,
}

impl GroupWriter {
    pub(super) async fn run(mut self) {
        while let Some(group) = self.taker.queue.take(MAX_GROUP).await {
            let (batches, senders): (Vec<_>, Vec<_>) = group
                .into_iter()
                .map(|task| (task.batch, task.answer))
                .unzip();
            let answers = self.commit(&batches).await;
            self.note(&answers);
            self.watch.committed.notify(usize::MAX);
            for (answer, sender) in answers.into_iter().zip(senders) {
                // A caller that went away finds its commit by asking again.
                drop(sender.send(answer));
            }
        }
        self.watch.committed.notify(usize::MAX);
    }

    fn note(&self, answers: &[Answer]) {
        let error = answers.iter().find_map(|answer| match answer {
            Err(CommitError::Store(error)) => Some(error),
            _ => None,
        });
        let wrote = |answer: &Answer| answer.as_ref().is_ok_and(|commit| !commit.replayed);
        // One that the database alone refuses is the batch's trouble, not the store's.
        if answers.iter().any(wrote) {
            self.health.wrote();
        } else if let Some(error) = error {
            self.health.failed(error.clone(), self.times.wall_ms());
        }
    }

    /// One answer a batch.
    async fn commit(&mut self, batches: &[Batch]) -> Vec<Answer> {
        let error = match self.persevere(batches).await {
            Ok(answers) => return answers,
            Err(Failed::NotDone(StoreError::Io { .. } | StoreError::Corrupt { .. }))
                if batches.len() > 1 =>
            {
                // One that the database cannot take, or that meets a damaged row, does not take
                // the others with it.
                let mut answers = Vec::new();
                for batch in batches {
                    let answer = self.persevere(std::slice::from_ref(batch)).await;
                    answers.extend(
                        answer.unwrap_or_else(|error| vec![Err(StoreError::from(error).into())]),
                    );
                }
                return answers;
            }
            Err(error) => StoreError::from(error),
        };
        batches.iter().map(|_| Err(error.clone().into())).collect()
    }

    /// Tries again, after pauses, while nothing can have been changed.
    async fn persevere(&mut self, batches: &[Batch]) -> Result<Vec<Answer>, Failed> {
        let patience = self.patience;
        let mut last = Failed::Again(StoreError::Io {
            reason: "the database did not answer in time".to_owned(),
        });
        let tries = async {
            let mut pause = FIRST_PAUSE;
            loop {
                match self.attempt(batches).await {
                    Err(Failed::Again(error)) => last = Failed::Again(error),
                    other => return other,
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        match tokio::time::timeout(patience, tries).await {
            Ok(answers) => answers,
            Err(_) if self.is_committing => Err(Failed::Unknown),
            Err(_) => Err(last),
        }
    }

    async fn attempt(&mut self, batches: &[Batch]) -> Result<Vec<Answer>, Failed> {
        self.is_committing = false;
        let connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => connect_writer(&self.pool).await?,
        };
        // Whatever fails on the way takes the connection with it, and so its transaction. What is
        // known is put back by whoever knows how it ended.
        let known = std::mem::take(&mut self.known);
        let answers = self.transact(&connection, batches, known).await?;
        self.connection = Some(connection);
        Ok(answers)
    }

    async fn transact(
        &mut self,
        connection: &ClientWrapper,
        batches: &[Batch],
        mut known: Known,
    ) -> Result<Vec<Answer>, Failed> {
        let look_ahead_ms = if known.is_alone() {
            LOOK_AHEAD_ALONE_MS
        } else {
            LOOK_AHEAD_MS
        };
        let mut keys = Keys {
            due_until_ms: self.times.now_ms().saturating_add(look_ahead_ms),
            ..Keys::default()
        };
        for batch in batches {
            keys.add_batch(batch);
        }
        let at_once = self.at_once(connection, batches, &keys, &mut known).await?;
        if let Some(answers) = at_once {
            self.known = known;
            return Ok(answers);
        }
        let mut snapshot = Snapshot::default();
        let head = begin(connection, &keys, &mut snapshot).await?;
        let (found, is_handed_over) = version(head.schema_version);
        if is_handed_over {
            return Err(StoreError::HandedOver.into());
        }
        if found > SCHEMA_VERSION {
            let known = SCHEMA_VERSION;
            return Err(StoreError::NewerSchema { found, known }.into());
        }
        // Taken under the lock, so that it is not less than that of any commit before.
        self.times.seen(head.last_commit_ms);
        let at_ms = self.times.next_ms();
        let (answers, changes) = loop {
            match decide(batches, &head, &snapshot, at_ms) {
                Ok(decided) => break decided,
                Err(missing) => load(connection, &missing, &mut snapshot).await?,
            }
        };
        if changes.is_empty() {
            let is_moved = self.answer(connection, &answers).await?;
            known.loaded(&head, snapshot);
            if is_moved {
                known.settled();
            }
        } else {
            let written = statements(&changes, &snapshot, &head, at_ms)?;
            self.write(connection, None, &written.statements).await?;
            self.times.written(at_ms, true);
            known.loaded(&head, snapshot);
            known.written(&changes, &written);
        }
        // The head has moved, or nothing was on its way.
        self.is_unsettled.store(false, Ordering::SeqCst);
        self.known = known;
        Ok(answers)
    }

    /// Ends a transaction in which nothing is written. True when it moved the head.
    async fn answer(&self, connection: &ClientWrapper, answers: &[Answer]) -> Result<bool, Failed> {
        // What was done before may stand in no standby yet: nothing is acknowledged out of it
        // before a commit that waits for them.
        let has_replays = answers.iter().flatten().any(|commit| commit.replayed);
        let is_unsettled = self.is_unsettled.load(Ordering::SeqCst);
        let first = if is_unsettled {
            Some(SETTLE)
        } else {
            has_replays.then_some(CONFIRM)
        };
        if let Some(sql) = first {
            connection.batch_execute(sql).await.map_err(not_done)?;
        }
        let end = first.map_or("ROLLBACK", |_| "COMMIT");
        connection.batch_execute(end).await.map_err(not_done)?;
        Ok(is_unsettled)
    }

    /// The whole group in one round trip, upon what is known. `None` when it must be loaded: what
    /// was guessed is not so, or nothing was changed, and what a refusal says must be so now.
    async fn at_once(
        &mut self,
        connection: &ClientWrapper,
        batches: &[Batch],
        keys: &Keys,
        known: &mut Known,
    ) -> Result<Option<Vec<Answer>>, Failed> {
        let Some(guess) = known.guess(batches, keys) else {
            return Ok(None);
        };
        // Nobody has committed since, which the guard makes sure of.
        self.times.seen(guess.head.last_commit_ms);
        let at_ms = self.times.next_ms();
        let decided = decide(batches, guess.head, guess.rows, at_ms);
        let Some((answers, changes)) = decided.ok().filter(|(_, changes)| !changes.is_empty())
        else {
            known.forget_guesses();
            return Ok(None);
        };
        let written = statements(&changes, guess.rows, guess.head, at_ms)?;
        let guard = guess.params(keys);
        if self
            .write(connection, Some(&guard), &written.statements)
            .await?
        {
            self.times.written(at_ms, true);
            known.written(&changes, &written);
            return Ok(Some(answers));
        }
        known.forget();
        Ok(None)
    }

    /// Writes and commits, within the transaction that was begun or, given values for [`GUARD`],
    /// in one of its own. False when the guard was not kept, and nothing was done.
    async fn write(
        &mut self,
        connection: &ClientWrapper,
        guard: Option<&Vec<Param>>,
        statements: &[Statement],
    ) -> Result<bool, Failed> {
        let prepare = async |sql| connection.prepare_cached(sql).await.map_err(not_done);
        let mut sent = Vec::new();
        if let Some(params) = guard {
            let (lock, check) = (prepare(LOCK_HEAD).await?, prepare(GUARD).await?);
            sent.push(plain(connection, BEGIN));
            sent.push(prepared(connection, lock, &[]));
            // A statement of its own: what it sees is what there is once the lock was given.
            sent.push(prepared(connection, check, params));
        }
        for statement in statements {
            let sql = prepare(statement.sql).await?;
            sent.push(prepared(connection, sql, &statement.params));
        }
        sent.push(plain(connection, "COMMIT"));
        self.is_committing = true;
        if guard.is_some() {
            self.is_unsettled.store(true, Ordering::SeqCst);
        }
        // What was not sent in full has no commit at its end.
        let answers = in_one_round_trip(sent).await.map_err(not_done);
        self.is_committing = false;
        let answers = answers?;
        let kept = guard.is_none() || answers.get(2).is_none_or(|check| !is_refuted(check));
        if kept {
            outcome(answers)?;
        }
        self.is_unsettled.store(false, Ordering::SeqCst);
        Ok(kept)
    }
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Whether [`GUARD`] found something else than it was told. The commit that was sent behind it
/// then ends the transaction without anything done.
fn is_refuted(check: &Result<Vec<Row>, tokio_postgres::Error>) -> bool {
    let code = check.as_ref().err().and_then(tokio_postgres::Error::code);
    code == Some(&SqlState::DIVISION_BY_ZERO)
}

/// Whether the transaction was committed. Its last statement is the commit, which does nothing
/// when one before it was refused.
fn outcome(mut answers: Vec<Result<Vec<Row>, tokio_postgres::Error>>) -> Result<(), Failed> {
    let Some(commit) = answers.pop() else {
        return Err(Failed::Unknown);
    };
    for answer in answers {
        match answer {
            Ok(_) => {}
            Err(error) if error.as_db_error().is_some() => return Err(not_done(error)),
            // The connection is gone, and the commit was on its way.
            Err(_) => return Err(Failed::Unknown),
        }
    }
    commit.map(drop).map_err(after_commit)
}

async fn begin(
    connection: &ClientWrapper,
    keys: &Keys,
    snapshot: &mut Snapshot,
) -> Result<Head, Failed> {
    let lock = connection
        .prepare_cached(LOCK_HEAD)
        .await
        .map_err(not_done)?;
    let load = connection.prepare_cached(LOAD).await.map_err(not_done)?;
    let params = keys.params();
    let sent = vec![
        plain(connection, BEGIN),
        prepared(connection, lock, &[]),
        // A statement of its own: what it sees is what there is once the lock was given.
        prepared(connection, load, &params),
    ];
    let mut answers = in_one_round_trip(sent).await.map_err(not_done)?.into_iter();
    let mut rows = Vec::new();
    for answer in answers.by_ref() {
        rows.push(answer.map_err(not_done)?.into_iter().next());
    }
    match rows.as_slice() {
        [_, Some(head), Some(row)] => {
            snapshot.add(keys, row)?;
            Head::from_row(head).map_err(Failed::from)
        }
        _ => Err(StoreError::Corrupt {
            reason: "the table head has no row".to_owned(),
        }
        .into()),
    }
}

/// Loads further rows within the transaction.
async fn load(
    connection: &ClientWrapper,
    keys: &Keys,
    snapshot: &mut Snapshot,
) -> Result<(), Failed> {
    let load = connection.prepare_cached(LOAD).await.map_err(not_done)?;
    let params = keys.params();
    let rows = prepared(connection, load, &params)
        .await
        .map_err(not_done)?;
    for row in &rows {
        snapshot.add(keys, row)?;
    }
    Ok(())
}

/// Applies every batch in turn. Answers what must be loaded first, if anything must.
fn decide(
    batches: &[Batch],
    head: &Head,
    snapshot: &Snapshot,
    at_ms: i64,
) -> Result<(Vec<Answer>, Changes), Box<Keys>> {
    let last = LastPositions {
        transfer: head.transfer_position,
        hold_change: head.hold_change_position,
    };
    let mut state = Group::new(Loaded::new(head, snapshot), last);
    let mut answers = Vec::new();
    for batch in batches {
        // What is not loaded yet is told by the rows, once every batch has named its own.
        if let Ok(answer) = state.decide(batch, at_ms) {
            answers.push(answer.map_err(Into::into));
        }
    }
    let (changes, loaded) = state.finish();
    let missing = loaded.into_missing();
    if missing.is_empty() {
        Ok((answers, changes))
    } else {
        Err(Box::new(missing))
    }
}
