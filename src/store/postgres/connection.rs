//! Connections, and what their failures mean.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError,
    RecyclingMethod, Runtime, TimeoutType,
};
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::config::PostgresConfig;
use super::notices::Connects;
use super::tls;
use crate::ports::BoxFuture;
use crate::store::StoreError;

/// A value that is sent with a statement.
pub(super) type Param = Box<dyn ToSql + Sync + Send>;

/// How something failed.
#[derive(Debug, Clone)]
pub(super) enum Failed {
    /// The connection is gone, or the database asks to try again: nothing was changed, and the
    /// same may succeed at once.
    Again(StoreError),
    /// It was refused, and nothing was changed.
    NotDone(StoreError),
    /// The answer to the commit was lost.
    Unknown,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::NotDone(error)
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Again(error) | Failed::NotDone(error) => error,
            Failed::Unknown => Self::OutcomeUnknown,
        }
    }
}

/// Makes the pool; opens no connection yet.
pub(super) fn pool(config: &PostgresConfig) -> Result<Pool, StoreError> {
    let target = config.parse()?;
    let tls = tls::connector(&target)?;
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_connect(target.config, Connects(tls), recycling);
    let settings = settings(config);
    Pool::builder(manager)
        .max_size(config.connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(config.patience))
        .create_timeout(Some(config.patience))
        .post_create(Hook::async_fn(move |client, _| {
            let settings = settings.clone();
            Box::pin(async move {
                let set = client.execute(SET, &[&settings.0, &settings.1]).await;
                set.map(drop).map_err(HookError::Backend)
            })
        }))
        .build()
        .map_err(|error| StoreError::Misconfigured {
            reason: error.to_string(),
        })
}

/// Sets what this server knows of the settings, and never makes a commit less durable than its
/// own setting does.
const SET: &str = "
SELECT set_config(wanted.name, wanted.value, false)
FROM unnest($1::text[], $2::text[]) AS wanted (name, value)
     JOIN pg_settings ON pg_settings.name = wanted.name
WHERE wanted.name <> 'synchronous_commit' OR pg_settings.setting = 'off'";

fn settings(config: &PostgresConfig) -> (Vec<String>, Vec<String>) {
    let settings = [
        ("search_path", config.schema.clone()),
        ("synchronous_commit", "on".to_owned()),
        ("idle_in_transaction_session_timeout", millis(config.stall)),
        ("lock_timeout", millis(config.patience)),
        // Every statement has an index for it, also where statistics say nothing yet.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        ("enable_seqscan", "off".to_owned()),
        // Small statements: compiling them costs more than it gains.
        ("jit", "off".to_owned()),
    ];
    settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .unzip()
}

fn millis(duration: Duration) -> String {
    // Zero would mean for ever.
    duration.as_millis().max(1).to_string()
}

pub(super) async fn connect(pool: &Pool) -> Result<Object, Failed> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            not_done(error)
        }
        PoolError::Closed => Failed::NotDone(StoreError::Closed),
        PoolError::Timeout(TimeoutType::Wait) => {
            let waiting = pool.status().waiting;
            Failed::NotDone(StoreError::Busy { waiting })
        }
        other => Failed::Again(StoreError::Io {
            reason: other.to_string(),
        }),
    })
}

/// A connection for one writer: it never goes back to the pool, and ends when it is dropped,
/// whatever was going on.
pub(super) async fn connect_writer(pool: &Pool) -> Result<ClientWrapper, Failed> {
    connect(pool).await.map(Object::take)
}

type Answer = Result<Vec<Row>, tokio_postgres::Error>;

/// Sends all statements before it waits for the first answer: one round trip. Each is answered
/// by itself.
///
/// # Errors
/// A statement could not be sent, and none of those after it was.
pub(super) async fn in_one_round_trip(
    mut statements: Vec<BoxFuture<'_, Answer>>,
) -> Result<Vec<Answer>, tokio_postgres::Error> {
    let mut answers: Vec<Option<Answer>> = statements.iter().map(|_| None).collect();
    let mut all_sent = false;
    poll_fn(|context| {
        // In their order: the first poll of a statement sends it.
        for (statement, answer) in statements.iter_mut().zip(&mut answers) {
            if answer.is_some() {
                continue;
            }
            match statement.as_mut().poll(context) {
                // One that the database refuses was sent, and may be answered before the last is.
                Poll::Ready(Err(error)) if !all_sent && error.as_db_error().is_none() => {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(ready) => *answer = Some(ready),
                Poll::Pending => {}
            }
        }
        all_sent = true;
        if answers.iter().all(Option::is_some) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await?;
    Ok(answers.into_iter().flatten().collect())
}

/// A prepared statement of [`in_one_round_trip`].
pub(super) fn prepared<'a>(
    connection: &'a ClientWrapper,
    statement: Statement,
    params: &'a [Param],
) -> BoxFuture<'a, Answer> {
    Box::pin(async move {
        let params: Vec<&(dyn ToSql + Sync)> =
            params.iter().map(|param| param.as_ref() as _).collect();
        connection.query(&statement, &params).await
    })
}

/// A statement of [`in_one_round_trip`].
pub(super) fn plain<'a>(connection: &'a ClientWrapper, sql: &'static str) -> BoxFuture<'a, Answer> {
    Box::pin(async move {
        connection.batch_execute(sql).await?;
        Ok(Vec::new())
    })
}

/// A failure of anything but a commit.
pub(super) fn not_done(error: tokio_postgres::Error) -> Failed {
    let store_error = sql_error(&error);
    let again = match error.as_db_error() {
        Some(refused) => is_passing(refused.code()),
        // Whatever was not answered by the database was not done by it: there is no commit yet.
        None => matches!(store_error, StoreError::Io { .. }),
    };
    if again {
        Failed::Again(store_error)
    } else {
        Failed::NotDone(store_error)
    }
}

/// A failure of the commit itself.
pub(super) fn after_commit(error: tokio_postgres::Error) -> Failed {
    match error.as_db_error() {
        // A session that is ended at this point may have committed already.
        Some(refused) if !ends_session(refused) => not_done(error),
        _ => Failed::Unknown,
    }
}

fn ends_session(error: &DbError) -> bool {
    error.parsed_severity() != Some(Severity::Error)
}

/// The database is restarting, or undid the transaction for reasons of its own.
fn is_passing(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    ["08", "40", "57"].contains(&class) && *code != SqlState::QUERY_CANCELED
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        || *code == SqlState::TOO_MANY_CONNECTIONS
}

/// What a failure of the database means to a caller.
pub(super) fn sql_error(error: &tokio_postgres::Error) -> StoreError {
    let Some(refused) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let reason = match cause {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        return StoreError::Io { reason };
    };
    let code = refused.code().code();
    let reason = format!("{} ({code})", refused.message());
    match code {
        "53100" => StoreError::Full,
        "25006" | "42501" => StoreError::ReadOnly { reason },
        // No such table or column, or a damaged one.
        "42P01" | "42703" | "XX001" | "XX002" => StoreError::Corrupt { reason },
        // Who may come in, and to which database.
        _ if code.starts_with("28") || code.starts_with("3D") => {
            StoreError::Misconfigured { reason }
        }
        _ => StoreError::Io { reason },
    }
}
