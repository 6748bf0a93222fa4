//! Promises about batches: whole or not at all, and each once.

use std::time::Duration;

use super::probe::{
    DAY_MS, Kept, Probe, advance, all_at_once, by_index, card, claim, due, event, merchant, put,
    usage, window,
};
use super::{FIRST_MS, FreshStore};
use crate::ids::TransferId;
use crate::ledger::{Account, CommandRecord, Refusal, Step};
use crate::ports::BoxFuture;
use crate::store::MAX_PAGE;

fn command(scope: &str, fingerprint: &str, answer: &str) -> Option<CommandRecord> {
    Some(CommandRecord {
        scope: scope.into(),
        fingerprint: fingerprint.into(),
        answer: serde_json::json!({ "answer": answer, "most": i64::MAX, "none": null }).into(),
    })
}

/// Everything that the steps of [`one_of_each`] change, as text.
pub(super) async fn picture(probe: &Probe<'_>, holds: &[TransferId]) -> Kept<String> {
    let store = probe.store();
    let mut seen = format!("{:?}", probe.read(store.balances(None, MAX_PAGE).await)?);
    let mut add = |part: String| {
        seen.push('\n');
        seen.push_str(&part);
    };
    for account in [card(1), card(2), merchant(), Account::node_channels()] {
        let rows = probe.read(store.transfers(&account, None, MAX_PAGE).await)?;
        add(format!("{rows:?}"));
    }
    for hold in holds {
        add(format!("{:?}", probe.read(store.hold(*hold).await)?));
    }
    for id in ["old", "new"] {
        add(format!(
            "{:?}",
            probe.read(store.document("thing", id).await)?
        ));
        add(format!("{:?}", probe.read(store.claim(id).await)?));
        add(format!("{:?}", probe.read(store.counter(id).await)?));
        add(probe.used(id).await?.to_string());
        add(format!("{:?}", probe.read(store.command(id).await)?));
    }
    for index in ["colour", "size"] {
        add(format!("{:?}", probe.ids(by_index(index, "", None)).await?));
    }
    add(format!(
        "{:?}",
        probe.read(store.events(0, MAX_PAGE).await)?
    ));
    add(format!("{:?}", probe.jobs().await?));
    Ok(seen)
}

/// A step of every kind, all of which can be done after the set-up of
/// [`refused_batch_leaves_nothing`].
pub(super) fn one_of_each(
    probe: &Probe<'_>,
    captured: TransferId,
    released: TransferId,
) -> Vec<Step> {
    vec![
        probe.fund(card(2), 7),
        probe.transfer(card(1), merchant(), 5),
        probe.hold(card(1), card(2), 4, None).1,
        probe.capture(captured, 3, false),
        Step::Release { hold: released },
        put("old", 1, &[("size", "large")]),
        put("new", 0, &[("colour", "red"), ("size", "small")]),
        Step::Require {
            collection: "thing",
            id: "old".into(),
            version: 2,
        },
        claim("new", "second"),
        advance("old", 9),
        advance("new", 1),
        usage("old", 2, 10),
        usage("new", 2, 10),
        Step::Unuse {
            window: window("old"),
            amount: 1,
        },
        event("second"),
        due("expire", "old", FIRST_MS + 5),
        due("expire", "new", FIRST_MS + 6),
        Step::Done {
            kind: "remind",
            object: "old".into(),
        },
    ]
}

/// A batch of which one step is refused changes nothing, whatever its other steps were; it may
/// be submitted again, under the same id and key.
///
/// # Errors
/// The promise is broken.
pub async fn refused_batch_leaves_nothing(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "refused_batch_leaves_nothing");
    let (captured, first) = probe.hold(card(1), merchant(), 30, None);
    let (released, second) = probe.hold(card(1), merchant(), 20, None);
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
    probe.commit(set_up).await?;
    let holds = [captured, released];
    let before = picture(&probe, &holds).await?;

    let steps = one_of_each(&probe, captured, released);
    let mut refused = steps.clone();
    refused.push(claim("old", "second"));
    let mut batch = probe.batch(command("new", "request", "done"), refused);
    let answer = probe.store().commit(batch.clone()).await;
    let code = "ledger.already_claimed";
    let refusal = probe.is_refusal("a claim that is taken", code, answer)?;
    let by = match refusal {
        Refusal::AlreadyClaimed { step, by, .. } => (step, by),
        _ => (0, String::new()),
    };
    let at_last = (steps.len(), "first".to_owned());
    probe.same("the step and whoever has the name", by, at_last)?;
    probe.same("the store", picture(&probe, &holds).await?, before.clone())?;

    // Every one of those steps could be done: what was undone above was not nothing.
    batch.steps = steps.into();
    let commit = probe.done(probe.store().commit(batch).await)?;
    probe.same("that it was done now", commit.replayed, false)?;
    let after = picture(&probe, &holds).await?;
    let unchanged = before.lines().zip(after.lines());
    let unchanged = unchanged.filter(|(before, after)| before == after).count();
    // The claim of "old" and the command that was never under that scope.
    probe.same("how much stayed as it was", unchanged, 2)
}

/// A batch submitted again under its id answers what it answered, and does nothing.
///
/// # Errors
/// The promise is broken.
pub async fn batch_is_done_once_under_its_id(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "batch_is_done_once_under_its_id");
    let without_key = probe.batch(None, vec![probe.fund(card(1), 10)]);
    let steps = vec![probe.fund(card(1), 10)];
    let with_key = probe.batch(command("scope", "request", "first"), steps);
    // A store may keep what sales bring in a place of its own.
    let sale = command("till/cards.charge/1", "request", "sold");
    let sale = probe.batch(sale, vec![probe.fund(card(1), 10)]);
    for batch in [without_key, with_key, sale] {
        let first = probe.done(probe.store().commit(batch.clone()).await)?;
        probe.same("replayed at first", first.replayed, false)?;
        probe.set_clock(FIRST_MS + DAY_MS);
        let again = probe.done(probe.store().commit(batch).await)?;
        probe.same("replayed", again.replayed, true)?;
        let (was, is) = (
            (first.at_ms, first.answer.clone()),
            (again.at_ms, again.answer),
        );
        probe.same("the answer", is, was)?;
    }
    probe.same("what was moved", probe.available(card(1)).await?, 30)
}

/// A command submitted again, in another batch, answers what it answered and does nothing; its
/// key with another request is refused.
///
/// # Errors
/// The promise is broken.
pub async fn command_is_done_once(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "command_is_done_once");
    let submit = |fingerprint: &str, answer: &str| {
        let command = command("till/cards.charge/1", fingerprint, answer);
        let batch = probe.batch(command, vec![probe.fund(card(1), 10)]);
        probe.store().commit(batch)
    };
    let first = probe.done(submit("request", "first").await)?;
    probe.set_clock(FIRST_MS + 1);
    let again = probe.done(submit("request", "second").await)?;
    let expected = command("", "", "first").map(|command| command.answer);
    probe.same("the first answer", first.answer.clone(), expected)?;
    probe.same("the second answer", again.answer, first.answer.clone())?;
    probe.same("its time", again.at_ms, first.at_ms)?;
    let replayed = (first.replayed, again.replayed);
    probe.same("whether replayed", replayed, (false, true))?;
    let answer = submit("another request", "third").await;
    probe.is_refusal("another request", "ledger.key_reused", answer)?;

    let (fingerprint, kept) =
        match probe.read(probe.store().command("till/cards.charge/1").await)? {
            Some((fingerprint, commit)) => (fingerprint, (commit.at_ms, commit.answer)),
            None => (String::new(), (0, None)),
        };
    probe.same("the fingerprint", fingerprint.as_str(), "request")?;
    probe.same("what is kept", kept, (first.at_ms, first.answer))?;
    let unknown = probe.read(probe.store().command("till/cards.charge/2").await)?;
    probe.same("another scope", unknown, None)?;
    probe.same("what was moved", probe.available(card(1)).await?, 10)?;

    // An answer of nothing is an answer, and not one that was forgotten.
    let nothing = CommandRecord {
        scope: "till/charge/3".into(),
        fingerprint: "request".into(),
        answer: serde_json::Value::Null.into(),
    };
    for replayed in [false, true] {
        let batch = probe.batch(Some(nothing.clone()), vec![]);
        let commit = probe.done(probe.store().commit(batch).await)?;
        let answer = Some(serde_json::Value::Null.into());
        let answered = (commit.answer, commit.replayed);
        probe.same("an answer of null", answered, (answer.clone(), replayed))?;
        let kept = probe.read(probe.store().command(&nothing.scope).await)?;
        let kept = kept.and_then(|(_, commit)| commit.answer);
        probe.same("an answer of null that was kept", kept, answer)?;
    }
    Ok(())
}

/// Batches that are submitted at once are carried out one after another: a guard holds against
/// all that were before, and a refusal of one does not touch the others.
///
/// # Errors
/// The promise is broken.
pub async fn concurrent_batches_see_each_other(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "concurrent_batches_see_each_other");
    probe.commit(vec![probe.fund(card(1), 160)]).await?;
    let commits: Vec<BoxFuture<'_, _>> = (0..64)
        .map(|turn| {
            let steps = match turn % 2 {
                0 => vec![probe.transfer(card(1), merchant(), 10)],
                _ => vec![put("contended", 0, &[]), claim(&turn.to_string(), "turn")],
            };
            probe.store().commit(probe.batch(None, steps))
        })
        .collect();
    let answers = all_at_once(commits).await;
    let (mut moved, mut written) = (0, 0);
    for (turn, answer) in answers.into_iter().enumerate() {
        match (turn % 2, answer.is_ok()) {
            (0, true) => moved += 1,
            (0, false) => {
                let code = "ledger.insufficient_funds";
                probe.is_refusal("a transfer", code, answer)?;
            }
            (_, true) => written += 1,
            (_, false) => {
                probe.is_refusal("a document", "ledger.conflict", answer)?;
                let name = turn.to_string();
                let claimed = probe.read(probe.store().claim(&name).await)?;
                probe.same("the claim beside the conflict", claimed, None)?;
            }
        }
    }
    probe.same(
        "transfers made and documents written",
        (moved, written),
        (16, 1),
    )?;
    let balances = (
        probe.available(card(1)).await?,
        probe.available(merchant()).await?,
    );
    probe.same("the balances", balances, (0, 160))
}

/// The time of a commit is the clock's, but never less than that of a commit before it.
///
/// # Errors
/// The promise is broken.
pub async fn commit_time_never_decreases(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "commit_time_never_decreases");
    let mut times = Vec::new();
    for now_ms in [
        FIRST_MS,
        FIRST_MS + 500,
        FIRST_MS - DAY_MS,
        0,
        FIRST_MS + 501,
    ] {
        fresh.clock.jump(now_ms);
        let steps = vec![probe.fund(card(1), 1), event("time")];
        times.push(probe.commit(steps).await?.at_ms);
    }
    let expected = [0, 500, 500, 500, 501].map(|after| FIRST_MS + after);
    probe.same("the times", times, expected.to_vec())?;
    // A batch that is refused has no time: those after it are not held to it.
    fresh.clock.jump(FIRST_MS + 900);
    let step = probe.transfer(card(1), merchant(), 1_000);
    let code = "ledger.insufficient_funds";
    probe
        .refused("more than there is", code, vec![step])
        .await?;
    fresh.clock.jump(FIRST_MS);
    let steps = vec![probe.fund(card(2), 1)];
    let at_ms = probe.commit(steps).await?.at_ms;
    probe.same("after a refusal", at_ms, FIRST_MS + 501)?;
    // Time goes on while the clock is behind, an eighth slower.
    fresh.clock.jump(FIRST_MS - DAY_MS);
    fresh.clock.advance(Duration::from_secs(8));
    let told_ms = probe.store().commit_time_ms();
    let at_ms = probe.commit(vec![probe.fund(card(2), 1)]).await?.at_ms;
    let expected_ms = FIRST_MS + 7_501;
    let both = (told_ms, at_ms);
    probe.same("behind, as it was told", both, (expected_ms, expected_ms))?;
    let rows = probe.read(probe.store().transfers(&card(1), None, 10).await)?;
    let times: Vec<_> = rows.iter().rev().map(|row| row.at_ms).collect();
    probe.same("the transfers' times", times, expected.to_vec())?;
    let events = probe.read(probe.store().events(0, 10).await)?;
    let times: Vec<_> = events.iter().map(|event| event.at_ms).collect();
    probe.same("the events' times", times, expected.to_vec())
}

/// A document is written, or relied upon, only at the version that was read. Versions grow by
/// one, from 1.
///
/// # Errors
/// The promise is broken.
pub async fn documents_change_only_at_the_version_read(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "documents_change_only_at_the_version_read");
    let require = |id: &str, version| Step::Require {
        collection: "thing",
        id: id.into(),
        version,
    };
    let missing = probe.read(probe.store().document("thing", "a").await)?;
    probe.same("before it was written", missing, None)?;
    probe
        .commit(vec![require("a", 0), put("a", 0, &[])])
        .await?;
    for (what, step) in [
        ("writing it as a new one", put("a", 0, &[])),
        ("writing at a later version", put("a", 2, &[])),
        ("requiring that there is none", require("a", 0)),
        ("requiring a later version", require("a", 2)),
        ("requiring another that is missing", require("b", 1)),
        ("writing another that is missing", put("b", 1, &[])),
    ] {
        probe.refused(what, "ledger.conflict", vec![step]).await?;
    }
    probe
        .commit(vec![require("a", 1), put("a", 1, &[])])
        .await?;
    let found = probe.read(probe.store().document("thing", "a").await)?;
    let found = found.map(|document| (document.id, document.version, document.body));
    let body = serde_json::json!({ "id": "a", "written": 2 }).into();
    probe.same("the document", found, Some(("a".into(), 2, body)))?;
    let elsewhere = probe.read(probe.store().document("other", "a").await)?;
    probe.same("in another collection", elsewhere, None)
}

/// A name is given away once, for ever.
///
/// # Errors
/// The promise is broken.
pub async fn claims_are_given_once(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "claims_are_given_once");
    probe.commit(vec![claim("outpoint", "first")]).await?;
    let code = "ledger.already_claimed";
    // Not even to whoever has it: a duplicate must be seen to be one.
    for by in ["second", "first"] {
        let step = claim("outpoint", by);
        probe.refused("the name again", code, vec![step]).await?;
    }
    let twice = vec![claim("other", "first"), claim("other", "first")];
    probe.refused("twice in one batch", code, twice).await?;
    let holder = probe.read(probe.store().claim("outpoint").await)?;
    probe.same("whoever has it", holder, Some("first".into()))?;
    let nobody = probe.read(probe.store().claim("other").await)?;
    probe.same("whoever has the other", nobody, None)
}

/// A counter moves strictly upwards, by any distance; the first value may be any.
///
/// # Errors
/// The promise is broken.
pub async fn counters_only_go_up(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "counters_only_go_up");
    let first = probe.read(probe.store().counter("chip").await)?;
    probe.same("before", first, None)?;
    for to in [0, 1, 1_000] {
        probe.commit(vec![advance("chip", to)]).await?;
        for back in [to, to - 1] {
            let code = "ledger.counter_not_advanced";
            probe
                .refused("not above", code, vec![advance("chip", back)])
                .await?;
        }
        let stands = probe.read(probe.store().counter("chip").await)?;
        probe.same("where it stands", stands, Some(to))?;
    }
    let other = probe.read(probe.store().counter("another chip").await)?;
    probe.same("another counter", other, None)
}

/// Usage stays within its limit and the commit within the window; what is given back goes back
/// to the window it came from, even when that is over.
///
/// # Errors
/// The promise is broken.
pub async fn usage_stays_within_its_window(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "usage_stays_within_its_window");
    let (code, day) = ("ledger.usage_exceeded", window("day"));
    let read = || probe.store().usage(&day);
    probe.same("nothing used", probe.read(read().await)?, 0)?;
    probe.commit(vec![usage("day", 6, 10)]).await?;
    probe.same("used", probe.read(read().await)?, 6)?;
    probe
        .refused("5 more", code, vec![usage("day", 5, 10)])
        .await?;
    probe.commit(vec![usage("day", 4, 10)]).await?;
    probe
        .refused("1 more", code, vec![usage("day", 1, 10)])
        .await?;
    for amount in [0, -1] {
        let step = usage("day", amount, 10);
        let code = "ledger.not_positive";
        probe.refused("no positive usage", code, vec![step]).await?;
    }
    let back = |subject: &str, amount| Step::Unuse {
        window: window(subject),
        amount,
    };
    probe.commit(vec![back("day", 3)]).await?;
    probe.same("after 3 came back", probe.used("day").await?, 7)?;
    probe
        .commit(vec![usage("other", 1, 10), back("other", 5)])
        .await?;
    probe.same("never below zero", probe.used("other").await?, 0)?;

    let code = "ledger.outside_window";
    for now_ms in [FIRST_MS + DAY_MS, FIRST_MS + DAY_MS + 1] {
        probe.set_clock(now_ms);
        let step = usage("day", 1, 10);
        probe.refused("after the window", code, vec![step]).await?;
    }
    let mut next = window("day");
    (next.start_ms, next.end_ms) = (next.end_ms, next.end_ms + DAY_MS);
    let in_next = |amount| Step::Use {
        window: next.clone(),
        amount,
        limit: 10,
    };
    probe.commit(vec![in_next(10), back("day", 7)]).await?;
    let step = in_next(1);
    let code = "ledger.usage_exceeded";
    probe
        .refused("another day's usage", code, vec![step])
        .await?;
    let mut later = next.clone();
    (later.start_ms, later.end_ms) = (later.end_ms, later.end_ms + DAY_MS);
    let early = Step::Use {
        window: later,
        amount: 1,
        limit: 10,
    };
    let code = "ledger.outside_window";
    probe
        .refused("before the window", code, vec![early])
        .await
        .map(drop)
}
