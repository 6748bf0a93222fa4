//! The promise about what outlives a store: it is opened twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batches::{one_of_each, picture};
use super::probe::{
    DAY_MS, Kept, Probe, advance, card, claim, due, event, merchant, put, usage, window,
};
use super::{ContractViolation, FIRST_MS, FreshStore};
use crate::ids::TransferId;
use crate::ledger::{Batch, CommandRecord, Json, Step};
use crate::store::{KeyPath, KeyValueWrite, MAX_PAGE, StoreError};
use crate::testkit::clock::ManualClock;

const PROMISE: &str = "everything_outlives_the_store";
/// When the first one is closed.
const LAST_MS: i64 = FIRST_MS + 500;

async fn opened<F, Fut>(open: &F, now_ms: i64) -> Kept<FreshStore>
where
    F: Fn(Arc<ManualClock>) -> Fut,
    Fut: Future<Output = Result<FreshStore, StoreError>>,
{
    let opening = open(Arc::new(ManualClock::at(now_ms))).await;
    opening.map_err(|error| ContractViolation::Failed {
        promise: PROMISE,
        error,
    })
}

fn command(scope: &str) -> Option<CommandRecord> {
    Some(CommandRecord {
        scope: scope.into(),
        fingerprint: "request".into(),
        answer: serde_json::json!({ "most": i64::MAX }).into(),
    })
}

fn written(value: &[u8]) -> KeyValueWrite {
    let value = value.to_vec();
    KeyValueWrite::Put {
        path: path(),
        value,
    }
}

fn path() -> KeyPath {
    KeyPath {
        primary: "monitors".into(),
        secondary: String::new(),
        key: "0000".into(),
    }
}

/// What a store had in it when it was closed.
struct Before {
    holds: [TransferId; 2],
    picture: String,
    journal: String,
    /// Batches, and what they were answered.
    answered: [(Batch, Option<Json>); 2],
    epoch: u64,
}

/// Everything that was answered is there when the store was closed and is opened again: every row,
/// each command's answer and those that were forgotten, the places of readers, the node's values
/// and its fence; and no commit is earlier than one before it, although the clock stepped back.
///
/// `open` opens **the same place** each time, which is empty at first; the store that it gave
/// before is closed by then.
///
/// # Errors
/// The promise is broken.
pub async fn check_reopening<F, Fut>(open: F) -> Result<(), ContractViolation>
where
    F: Fn(Arc<ManualClock>) -> Fut,
    Fut: Future<Output = Result<FreshStore, StoreError>>,
{
    let first = opened(&open, FIRST_MS).await?;
    let probe = Probe::new(&first, PROMISE);
    let before = fill(&probe).await?;
    probe.read(probe.store().close().await)?;

    let again = opened(&open, FIRST_MS).await?;
    // Its ids go on where those of the first one are not.
    again.last_id.store(1 << 32, Ordering::SeqCst);
    let probe = Probe::new(&again, PROMISE);
    everything_is_there(&probe, before).await?;
    guards_still_hold(&probe).await?;
    probe.read(probe.store().close().await)
}

async fn fill(probe: &Probe<'_>) -> Kept<Before> {
    let (captured, first) = probe.hold(card(1), merchant(), 30, None);
    let (released, second) = probe.hold(card(1), merchant(), 20, Some(FIRST_MS + DAY_MS));
    let set_up = vec![
        probe.fund(card(1), 100),
        first,
        second,
        put("old", 0, &[("colour", "blue"), ("size", "small")]),
        claim("old", "first"),
        advance("old", 5),
        usage("old", 3, 10),
        event("first"),
        due("expire", "old", FIRST_MS + 1),
        due("remind", "old", FIRST_MS + 2),
    ];
    let forgotten = probe.batch(command("old"), set_up);
    probe.done(probe.store().commit(forgotten.clone()).await)?;
    probe.set_clock(LAST_MS);
    let last = probe.batch(command("new"), one_of_each(probe, captured, released));
    let committed = probe.done(probe.store().commit(last.clone()).await)?;
    let forgets = probe.store().forget_answers(FIRST_MS + 1, 10).await;
    probe.same("how many answers were forgotten", probe.read(forgets)?, 1)?;
    probe.read(probe.store().acknowledge("reader", 2).await)?;
    let epoch = probe.read(probe.node().begin_epoch().await)?;
    probe.read(probe.node().write(epoch, written(b"value")).await)?;
    let holds = [captured, released];
    Ok(Before {
        holds,
        picture: picture(probe, &holds).await?,
        journal: rows(probe).await?,
        answered: [(forgotten, None), (last, committed.answer)],
        epoch,
    })
}

async fn everything_is_there(probe: &Probe<'_>, before: Before) -> Kept {
    let seen = picture(probe, &before.holds).await?;
    probe.same("the store", seen, before.picture)?;
    probe.same("the journal", rows(probe).await?, before.journal)?;
    let cursor = probe.read(probe.store().cursor("reader").await)?;
    probe.same("where a reader stands", cursor, 2)?;
    for (batch, answer) in before.answered {
        let commit = probe.done(probe.store().commit(batch).await)?;
        let answered = (commit.replayed, commit.answer);
        probe.same("a batch again", answered, (true, answer))?;
    }
    let forgets = probe.store().forget_answers(FIRST_MS + 1, 10).await;
    probe.same("what is left to forget", probe.read(forgets)?, 0)?;
    let found = probe.read(probe.node().read(path()).await)?;
    probe.same("the node's value", found, Some(b"value".to_vec()))?;
    let (given, current) = (before.epoch, probe.read(probe.node().begin_epoch().await)?);
    probe.same("that epochs grow", current > given, true)?;
    let stale = probe.node().write(given, written(b"stale")).await;
    let fenced = Err(StoreError::Fenced { given, current });
    probe.same("a write of an older epoch", stale, fenced)
}

/// Against what was there before; and the clock has stepped back.
async fn guards_still_hold(probe: &Probe<'_>) -> Kept {
    let code = "ledger.counter_not_advanced";
    let step = advance("old", 9);
    probe
        .refused("a counter that stands", code, vec![step])
        .await?;
    let step = Step::Unuse {
        window: window("old"),
        amount: 1,
    };
    let commit = probe.commit(vec![step, probe.fund(card(1), 1)]).await?;
    probe.same("the time", commit.at_ms, LAST_MS)
}

/// All that is in order, as text.
async fn rows(probe: &Probe<'_>) -> Kept<String> {
    let store = probe.store();
    let heads = probe.read(store.chain_heads().await)?;
    let commits = probe.read(store.commits(0, MAX_PAGE).await)?;
    let transfers = probe.read(store.journal(0, MAX_PAGE).await)?;
    let changes = probe.read(store.hold_changes(0, MAX_PAGE).await)?;
    let at = probe.read(store.balance_at(&card(1), FIRST_MS).await)?;
    Ok(format!(
        "{heads:?}\n{commits:?}\n{transfers:?}\n{changes:?}\n{at}"
    ))
}
