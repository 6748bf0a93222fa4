//! Commands: one record with a key in, one record with a time out, exactly once.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use futures_channel::oneshot;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::fingerprint::Fingerprint;
use super::{Core, MAX_DECISIONS};
use crate::Error;
use crate::access::Role;
use crate::ids::{BatchId, CredentialId};
use crate::ledger::{Batch, CommandRecord, Commit, Json, Refusal, Step};
use crate::store::StoreError;

/// The caller's name for one attempt to do something, made and kept **before** the call, so that
/// a retry after a lost answer is the same command. 1 to 128 printable ASCII characters; unique
/// within a credential and an operation.
///
/// A command that is asked again before its first call was answered waits for that in the same
/// instance. Where several instances work on one database the second call may reach another one, and
/// be refused for a reason that the first one did not meet: a caller that was not answered asks again
/// until it is, or takes no refusal for the last word before the first call must have ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct IdempotencyKey(String);

const MAX_KEY_LENGTH: usize = 128;

impl FromStr for IdempotencyKey {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = !text.is_empty() && text.len() <= MAX_KEY_LENGTH;
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CommandError::BadKey)
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IdempotencyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a command or a query answers: the record, and as of when it is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// When the books were like this, milliseconds since the epoch: the commit's time for a
    /// command.
    pub as_of_ms: i64,
    /// The record.
    pub value: T,
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A command that cannot be carried out as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The key is empty, too long, or has other than printable ASCII characters.
    /// `command.bad_key`.
    #[error("an idempotency key is 1 to {MAX_KEY_LENGTH} printable ASCII characters")]
    BadKey,
    /// The key was used for another request. `command.key_reused`.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The command was done long ago, and its answer was forgotten since; nothing was done now.
    /// `command.answer_forgotten`.
    #[error("the command was done long ago, and its answer was forgotten since")]
    AnswerForgotten,
    /// A text or a number is out of its bounds. `command.out_of_bounds`.
    #[error("{field} is out of its bounds: {bounds}")]
    OutOfBounds {
        /// Which.
        field: &'static str,
        /// What they are.
        bounds: &'static str,
    },
    /// Too many others changed the same things. `command.contended`, retryable.
    #[error("too many others change the same things")]
    Contended,
    /// The engine was given no executor and opened outside of a tokio runtime.
    /// `command.no_executor`.
    #[error(
        "there is nothing to run the engine's work: open it in a tokio runtime, or give it an executor"
    )]
    NoExecutor,
    /// The work was given up because the engine stops; it is not known how far it got. Ask again
    /// with the same key. `command.interrupted`, retryable.
    #[error("the engine stopped in the middle of the command")]
    Interrupted,
}

impl CommandError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadKey => "command.bad_key",
            Self::KeyReused => "command.key_reused",
            Self::AnswerForgotten => "command.answer_forgotten",
            Self::OutOfBounds { .. } => "command.out_of_bounds",
            Self::Contended => "command.contended",
            Self::NoExecutor => "command.no_executor",
            Self::Interrupted => "command.interrupted",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Contended | Self::Interrupted)
    }
}

/// Who calls, as the store knows the credential.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) id: CredentialId,
    pub(crate) role: Role,
    /// Holds in the commit: a credential revoked in between stops the command.
    pub(crate) guard: Step,
}

/// What was decided: what is to be committed and what is then answered.
pub(crate) struct Decision<A> {
    pub(crate) steps: Vec<Step>,
    pub(crate) answer: A,
}

/// What came of a command.
pub(crate) struct Executed<A> {
    pub(crate) answer: Answer<A>,
    /// The command had been done before; nothing was done now.
    pub(crate) replayed: bool,
}

impl Core {
    /// Carries out a command exactly once. `decide` is called again when what it read changed; it
    /// may only read, because it is called for a command that was done before as well.
    pub(crate) async fn execute<C, A, F, Fut>(
        &self,
        caller: &Caller,
        operation: &'static str,
        key: &IdempotencyKey,
        command: &C,
        decide: F,
    ) -> Result<Executed<A>, Error>
    where
        C: Serialize,
        A: Serialize + DeserializeOwned,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decision<A>, Error>>,
    {
        let scope = scope(caller, operation, key);
        let fingerprint = self.fingerprint(operation, command)?;
        // One that is asked again before it was answered waits: what refuses the second call says
        // nothing of the first, which goes on and may still be done.
        let _turn = self.command_turns.take(&scope).await;
        self.execute_once(caller, &scope, &fingerprint, decide)
            .await
    }

    async fn execute_once<A, F, Fut>(
        &self,
        caller: &Caller,
        scope: &str,
        fingerprint: &Fingerprint,
        decide: F,
    ) -> Result<Executed<A>, Error>
    where
        A: Serialize + DeserializeOwned,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decision<A>, Error>>,
    {
        let refusal = match self
            .decide_and_commit(caller, scope, fingerprint, decide)
            .await
        {
            Ok(executed) => return Ok(executed),
            // That it can be read does not make it durable: what was written last may be in a
            // file that nobody can open any more.
            Err(error @ Error::Store(StoreError::OutcomeUnknown | StoreError::Moved { .. })) => {
                return Err(error);
            }
            Err(error) => error,
        };
        // A retry must get its answer although the card is empty, the tap used or the invoice
        // expired by now: because of the first time, it may be.
        let known = match refusal {
            // That it is to be asked again is no last word, and nothing more is made to wait.
            Error::Store(StoreError::Busy { .. }) => self.store.known_command(scope).await?,
            _ => self.store.command(scope).await?,
        };
        match self.done_before(known, fingerprint)? {
            Some(done) => Ok(done),
            None => Err(refusal),
        }
    }

    /// As [`execute`](Self::execute), for a command of which `decide` does more than read: it is
    /// not called for one that was done before. Two at the same time at two instances are both decided:
    /// the one that finds nothing left to do is answered what the other has done.
    pub(crate) async fn execute_new<C, A, F, Fut>(
        &self,
        caller: &Caller,
        operation: &'static str,
        key: &IdempotencyKey,
        command: &C,
        decide: F,
    ) -> Result<Executed<A>, Error>
    where
        C: Serialize,
        A: Serialize + DeserializeOwned,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decision<A>, Error>>,
    {
        let scope = scope(caller, operation, key);
        let fingerprint = self.fingerprint(operation, command)?;
        let _turn = self.command_turns.take(&scope).await;
        let known = self.store.known_command(&scope).await?;
        if let Some(done) = self.done_before(known, &fingerprint)? {
            return Ok(done);
        }
        self.execute_once(caller, &scope, &fingerprint, decide)
            .await
    }

    /// What came of a command, if it was done before.
    fn done_before<A: DeserializeOwned>(
        &self,
        known: Option<(String, Commit)>,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Executed<A>>, Error> {
        let Some((known, commit)) = known else {
            return Ok(None);
        };
        if !fingerprint.is(&known, &self.secrets) {
            return Err(CommandError::KeyReused.into());
        }
        executed(commit.answer, commit.at_ms, true).map(Some)
    }

    async fn decide_and_commit<A, F, Fut>(
        &self,
        caller: &Caller,
        scope: &str,
        fingerprint: &Fingerprint,
        decide: F,
    ) -> Result<Executed<A>, Error>
    where
        A: Serialize + DeserializeOwned,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decision<A>, Error>>,
    {
        let mut guard = caller.guard.clone();
        for _ in 1..MAX_DECISIONS {
            let Decision { mut steps, answer } = decide().await?;
            steps.insert(0, guard);
            let command = CommandRecord {
                scope: scope.to_owned(),
                fingerprint: fingerprint.kept.clone(),
                answer: Json::of(&answer).map_err(unreadable)?,
            };
            let id = self.new_id(BatchId::from_parts)?;
            match self
                .submit(Batch {
                    id,
                    command: Some(command),
                    steps: steps.into(),
                })
                .await
            {
                Ok(commit) => return executed(commit.answer, commit.at_ms, commit.replayed),
                Err(Error::Ledger(Refusal::KeyReused)) => {
                    return Err(CommandError::KeyReused.into());
                }
                Err(Error::Ledger(refusal)) if refusal.should_decide_again() => {
                    // It may be the credential that changed: a revoked one is refused as such.
                    guard = self.admit(caller.id).await?.guard;
                }
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended.into())
    }

    /// Runs `work` to its end although the caller goes away. It begins when what is answered here
    /// is first polled.
    pub(crate) fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        // Put where it stays at once: all of a command is tens of kilobytes, and would be copied
        // with every future that it is handed through.
        let work = Box::pin(work);
        async move {
            let (answer, answered) = oneshot::channel();
            self.executor.spawn(Box::pin(async move {
                drop(answer.send(work.await));
            }));
            answered
                .await
                .unwrap_or(Err(CommandError::Interrupted.into()))
        }
    }
}

impl Core {
    /// Runs what keeps a thread busy where that holds up nobody else.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.executor
            .spawn_blocking(Box::new(move || drop(answer.send(work()))));
        answered.await.map_err(|_| CommandError::Interrupted.into())
    }
}

fn scope(caller: &Caller, operation: &str, key: &IdempotencyKey) -> String {
    format!("{}/{operation}/{key}", caller.id)
}

fn executed<A: DeserializeOwned>(
    answer: Option<Json>,
    as_of_ms: i64,
    replayed: bool,
) -> Result<Executed<A>, Error> {
    let answer = answer.ok_or(CommandError::AnswerForgotten)?;
    let value = answer.read().map_err(unreadable)?;
    Ok(Executed {
        answer: Answer { as_of_ms, value },
        replayed,
    })
}

pub(crate) fn unreadable(error: serde_json::Error) -> Error {
    StoreError::Corrupt {
        reason: error.to_string(),
    }
    .into()
}

/// Checks the length of a text that a caller gives, in characters.
pub(crate) fn check_text(
    field: &'static str,
    text: &str,
    most: usize,
    bounds: &'static str,
) -> Result<(), CommandError> {
    if text.chars().count() > most || text.chars().any(char::is_control) {
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(())
}
