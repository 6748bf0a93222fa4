//! Promises about what is read: lists, events, jobs, and the end.

use std::time::Duration;

use futures_timer::Delay;

use super::node_state::{LONG, PAUSE, SHORT};
use super::probe::{
    Kept, Probe, advance, all_at_once, by_index, card, due, event, is_pending, merchant, put,
    window,
};
use super::{FIRST_MS, FreshStore};
use crate::ledger::{Account, EventRecord};
use crate::ports::{BoxFuture, Clock};
use crate::store::{CommitError, DocumentPosition, DocumentQuery, MAX_PAGE, StoreError};

/// An account's transfers come newest first, in pages, each with both balances after it.
///
/// # Errors
/// The promise is broken.
pub async fn transfers_are_paged_newest_first(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "transfers_are_paged_newest_first");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    for amount in 1..=4 {
        let there = probe.transfer(card(1), merchant(), 10 * amount);
        let elsewhere = probe.fund(card(2), 1);
        let back = probe.transfer(merchant(), card(1), amount);
        probe.commit(vec![there, elsewhere, back]).await?;
    }
    let all = probe.read(probe.store().transfers(&card(1), None, MAX_PAGE).await)?;
    let seen: Vec<_> = all
        .iter()
        .rev()
        .map(|row| match row.debit == card(1) {
            true => (
                -row.amount,
                row.debit_balance_after,
                row.credit_balance_after,
            ),
            false => (
                row.amount,
                row.credit_balance_after,
                row.debit_balance_after,
            ),
        })
        .collect();
    let expected = vec![
        (100, 100, 100),
        (-10, 90, 10),
        (1, 91, 9),
        (-20, 71, 29),
        (2, 73, 27),
        (-30, 43, 57),
        (3, 46, 54),
        (-40, 6, 94),
        (4, 10, 90),
    ];
    probe.same("amounts and both balances after", seen, expected)?;
    let falling = all.is_sorted_by(|newer, older| newer.position > older.position);
    probe.same("that positions fall", falling, true)?;
    let mut paged = Vec::new();
    loop {
        let before = paged
            .last()
            .map(|row: &crate::ledger::TransferRow| row.position);
        let page = probe.read(probe.store().transfers(&card(1), before, 2).await)?;
        probe.same("that a page keeps its limit", page.len() <= 2, true)?;
        if page.is_empty() {
            break;
        }
        probe.same("that pages end", paged.len() < MAX_PAGE, true)?;
        paged.extend(page);
    }
    probe.same("page by page", paged, all)?;
    let none = probe.read(probe.store().transfers(&card(3), None, 10).await)?;
    probe.same("an account that was never used", none, vec![])
}

/// All accounts that were ever used are listed in the order of their text, in pages.
///
/// # Errors
/// The promise is broken.
pub async fn balances_are_paged_in_order(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "balances_are_paged_in_order");
    let mut steps: Vec<_> = (1..=5).map(|number| probe.fund(card(number), 10)).collect();
    // A hold makes an account a used one, and so does money that has left again.
    steps.push(probe.hold(card(1), merchant(), 5, None).1);
    steps.push(probe.transfer(card(2), card(3), 10));
    probe.commit(steps).await?;
    let mut accounts: Vec<Account> = (1..=5).map(card).collect();
    accounts.extend([merchant(), Account::node_channels()]);
    accounts.sort_by_key(ToString::to_string);
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|(account, _)| *account);
        let page = probe.read(probe.store().balances(after, 2).await)?;
        probe.same("that a page keeps its limit", page.len() <= 2, true)?;
        if page.is_empty() {
            break;
        }
        probe.same("that pages end", paged.len() < MAX_PAGE, true)?;
        paged.extend(page);
    }
    let listed: Vec<_> = paged.iter().map(|(account, _)| *account).collect();
    probe.same("the accounts", listed, accounts.clone())?;
    for (account, balance) in paged {
        probe.same("the balance", probe.balance(account).await?, balance)?;
    }
    let unused = probe.balance(card(6)).await?;
    probe.same("an account that was never used", unused, Default::default())?;
    // One call can answer more than a page of anything else: all accounts, of one moment.
    let funds: Vec<_> = (11..=1_100)
        .map(|number| probe.fund(card(number), 1))
        .collect();
    let many = accounts.len() + funds.len();
    probe.commit(funds).await?;
    let all = probe.read(probe.store().balances(None, usize::MAX).await)?;
    probe.same("all accounts", all.len(), many)
}

/// Documents are found by a range of keys, in the order of the keys' bytes and then of the ids,
/// in pages.
///
/// # Errors
/// The promise is broken.
pub async fn documents_are_found_by_index_range(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "documents_are_found_by_index_range");
    probe
        .commit(vec![
            put("d", 0, &[("colour", "b")]),
            put("c", 0, &[("colour", "b"), ("colour", "é"), ("size", "b")]),
            put("a", 0, &[("colour", "z")]),
            put("b", 0, &[("colour", "a"), ("colour", "B")]),
            put("e", 0, &[]),
        ])
        .await?;
    let at = |key: &str, id: &str| DocumentPosition {
        key: key.into(),
        id: id.into(),
    };
    let expected = vec![
        at("B", "b"),
        at("a", "b"),
        at("b", "c"),
        at("b", "d"),
        at("z", "a"),
        at("é", "c"),
    ];
    let all = probe.positions(by_index("colour", "", None)).await?;
    probe.same("all", all, expected.clone())?;
    for (from, to, ids) in [
        ("b", Some("z"), vec!["c", "d"]),
        ("b", Some("b"), vec![]),
        ("b", Some("b\u{1}"), vec!["c", "d"]),
        ("c", None, vec!["a", "c"]),
        ("é\u{1}", None, vec![]),
        ("", Some("b"), vec!["b", "b"]),
    ] {
        let found = probe.ids(by_index("colour", from, to)).await?;
        probe.same(
            "a range",
            found,
            ids.into_iter().map(String::from).collect(),
        )?;
    }
    let mut paged = Vec::new();
    loop {
        let query = DocumentQuery {
            after: paged.last().cloned(),
            limit: 2,
            ..by_index("colour", "", None)
        };
        let page = probe.positions(query).await?;
        probe.same("that a page keeps its limit", page.len() <= 2, true)?;
        if page.is_empty() {
            break;
        }
        probe.same("that pages end", paged.len() < MAX_PAGE, true)?;
        paged.extend(page);
    }
    probe.same("page by page", paged, expected)?;
    let before_range = DocumentQuery {
        after: Some(at("a", "b")),
        ..by_index("colour", "z", None)
    };
    let found = probe.ids(before_range).await?;
    probe.same(
        "after a place before the range",
        found,
        vec!["a".into(), "c".into()],
    )
}

/// A document is found under the keys of its last version alone.
///
/// # Errors
/// The promise is broken.
pub async fn documents_leave_the_keys_of_older_versions(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "documents_leave_the_keys_of_older_versions");
    let first = put("c", 0, &[("colour", "b"), ("colour", "é"), ("size", "b")]);
    let other = put("d", 0, &[("colour", "b")]);
    probe.commit(vec![first, other]).await?;
    probe.commit(vec![put("c", 1, &[("colour", "c")])]).await?;
    let found = probe.ids(by_index("colour", "b", Some("z"))).await?;
    probe.same("after a new version", found, vec!["d".into(), "c".into()])?;
    let found = probe.ids(by_index("size", "", None)).await?;
    probe.same("in the index it left", found, vec![])?;
    let found = probe.read(
        probe
            .store()
            .documents(by_index("colour", "c", Some("d")))
            .await,
    )?;
    let found: Vec<_> = found
        .into_iter()
        .map(|(_, document)| (document.version, document.body))
        .collect();
    let body = serde_json::json!({ "id": "c", "written": 2 }).into();
    probe.same("what is found", found, vec![(2, body)])
}

/// A page has at least one row, where there is one, and at most [`MAX_PAGE`], whatever was asked
/// for.
///
/// # Errors
/// The promise is broken.
pub async fn pages_have_one_row_at_least_and_a_most(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "pages_have_one_row_at_least_and_a_most");
    let store = probe.store();
    let mut steps = vec![probe.fund(card(1), i64::from(u16::MAX))];
    for number in 0..=MAX_PAGE {
        let name = number.to_string();
        steps.push(put(&name, 0, &[("colour", "blue")]));
        steps.push(event(&name));
        steps.push(due("expire", &name, FIRST_MS));
        steps.push(probe.transfer(card(1), merchant(), 1));
    }
    probe.commit(steps).await?;
    // A lease longer than the one that is asked for does not count, so all can be taken again.
    for (limit, expected, lasts) in [(0, 1, LONG), (usize::MAX, MAX_PAGE, Duration::ZERO)] {
        let documents = DocumentQuery {
            limit,
            ..by_index("colour", "", None)
        };
        let pages = [
            probe.read(store.documents(documents).await)?.len(),
            probe.read(store.events(0, limit).await)?.len(),
            probe.read(store.journal(0, limit).await)?.len(),
            probe
                .read(store.transfers(&card(1), None, limit).await)?
                .len(),
            probe
                .read(store.lease_due(FIRST_MS, lasts, &[], limit).await)?
                .len(),
        ];
        probe.same("the rows of five pages", pages, [expected; 5])?;
    }
    let accounts = probe.read(store.balances(None, 0).await)?.len();
    let commits = probe.read(store.commits(0, 0).await)?.len();
    probe.same("accounts and commits", (accounts, commits), (1, 1))
}

/// Positions of events grow with the commits. A reader that goes on from the last position it
/// saw gets every event, although others commit meanwhile.
///
/// # Errors
/// The promise is broken.
pub async fn events_are_in_order_without_late_gaps(fresh: &FreshStore) -> Kept {
    const WRITERS: usize = 100;
    let probe = Probe::new(fresh, "events_are_in_order_without_late_gaps");
    let probe = &probe;
    let store = probe.store();
    let read_all = async move {
        let mut seen: Vec<EventRecord> = Vec::new();
        while seen.len() < 2 * WRITERS {
            let after = seen.last().map_or(0, |event| event.position);
            probe.read(store.event_after(after).await)?;
            seen.extend(probe.read(store.events(after, 7).await)?);
        }
        Ok(seen)
    };
    let mut work: Vec<BoxFuture<'_, Kept<Vec<EventRecord>>>> = vec![Box::pin(read_all)];
    for writer in 0..WRITERS {
        work.push(Box::pin(async move {
            let name = format!("{writer}");
            // Some batches are refused on the way and must not leave a gap that fills later.
            let refused = vec![event("refused"), advance(&name, 0), advance(&name, 0)];
            let code = "ledger.counter_not_advanced";
            probe
                .refused("a counter that stands", code, refused)
                .await?;
            let steps = vec![event(&name), event(&format!("{writer} again"))];
            probe.commit(steps).await.map(|_| Vec::new())
        }));
    }
    let mut seen = Vec::new();
    for done in all_at_once(work).await {
        seen.extend(done?);
    }
    let rising = seen.is_sorted_by(|older, newer| older.position < newer.position);
    probe.same("that positions grow", rising, true)?;
    let together = seen
        .chunks(2)
        .filter(|pair| matches!(pair, [first, second] if second.object == format!("{} again", first.object)))
        .count();
    probe.same("pairs that stayed together", together, WRITERS)?;
    let listed = probe.read(store.events(0, MAX_PAGE).await)?;
    probe.same("what the reader saw", seen, listed)?;
    let first = probe.read(store.events(0, 1).await)?;
    let body = first.first().map(|event| event.body["object"].clone());
    let object = first.first().map(|event| event.object.clone().into());
    probe.same("the body", body, object)
}

/// Whoever waits for an event is woken by the commit that writes it, and by the end of the store.
///
/// # Errors
/// The promise is broken.
pub async fn events_wake_waiters(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "events_wake_waiters");
    let mut waits = probe.store().event_after(0);
    probe.same("waiting", is_pending(&mut waits).await, true)?;
    let (woken, written) = {
        let commit = probe
            .store()
            .commit(probe.batch(None, vec![event("first")]));
        let written = probe.done(commit.await);
        (waits.await, written)
    };
    written?;
    probe.read(woken)?;
    // One that is there already is not waited for.
    probe.read(probe.store().event_after(0).await)?;
    let last = probe.read(probe.store().events(0, 10).await)?;
    let position = last.last().map_or(0, |event| event.position);
    let mut waits = probe.store().event_after(position);
    probe.same("waiting again", is_pending(&mut waits).await, true)?;
    probe.read(probe.store().close().await)?;
    probe.same("at the end", waits.await, Err(StoreError::Closed))
}

/// A named reader moves forward only, and each has its own place.
///
/// # Errors
/// The promise is broken.
pub async fn cursors_never_step_back(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "cursors_never_step_back");
    let store = probe.store();
    probe.commit((0..5).map(|_| event("any")).collect()).await?;
    let new = probe.read(store.cursor("printer").await)?;
    probe.same("a new reader", new, 0)?;
    for (position, stands) in [(2, 2), (1, 2), (0, 2), (2, 2), (5, 5)] {
        probe.read(store.acknowledge("printer", position).await)?;
        let cursor = probe.read(store.cursor("printer").await)?;
        probe.same("where it stands", cursor, stands)?;
    }
    let other = probe.read(store.cursor("webhook").await)?;
    probe.same("another reader", other, 0)
}

/// A job that is due goes to one taker until its lease ends; the earliest go first. A job that
/// is set again loses its lease, and one that is done is gone.
///
/// # Errors
/// The promise is broken.
pub async fn jobs_are_leased_once(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "jobs_are_leased_once");
    let (now, later) = (FIRST_MS, FIRST_MS + 1_000);
    let steps = vec![
        due("expire", "c", now + 1),
        due("expire", "b", now),
        due("expire", "a", now),
        due("expire", "d", now - 5),
    ];
    probe.commit(steps).await?;
    let store = probe.store();
    let take = async |due_by_ms, lasts, limit| {
        let jobs = probe.read(store.lease_due(due_by_ms, lasts, &[], limit).await)?;
        Kept::Ok(jobs.into_iter().map(|job| job.object).collect::<Vec<_>>())
    };
    let taken = take(now, LONG, 2).await?;
    probe.same("the earliest two", taken, vec!["d".into(), "a".into()])?;
    let taken = take(now, LONG, 10).await?;
    probe.same("what is left and due", taken, vec!["b".into()])?;
    let taken = take(later, LONG, 10).await?;
    probe.same("while the leases last", taken, vec!["c".into()])?;
    leases_end_by_the_stores_clock(fresh, &probe, later).await?;

    let done = crate::ledger::Step::Done {
        kind: "expire",
        object: "d".into(),
    };
    let missing = crate::ledger::Step::Done {
        kind: "expire",
        object: "nothing".into(),
    };
    let again = due("expire", "a", later + 5);
    probe.commit(vec![done, missing, again]).await?;
    let jobs = probe.read(store.lease_due(later + 5, LONG, &[], 10).await)?;
    let taken: Vec<_> = jobs
        .into_iter()
        .map(|job| (job.object, job.due_at_ms))
        .collect();
    probe.same("what was set again", taken, vec![("a".into(), later + 5)])?;
    let objects = |jobs: Vec<crate::ledger::DueJob>| -> Vec<String> {
        jobs.into_iter().map(|job| job.object).collect()
    };
    let left = objects(probe.jobs().await?);
    let expected = ["b", "c", "a"].map(String::from).to_vec();
    probe.same("the jobs that are left", left, expected)?;

    // Those of some kinds are left to others, however many of them come first.
    let (send, look) = (due("send", "e", now), due("look", "f", now + 1));
    probe.commit(vec![send, look]).await?;
    let without = |except: &'static [&'static str]| store.lease_due(later, LONG, except, 1);
    let taken = objects(probe.read(without(&["send", "expire"]).await)?);
    probe.same("without two kinds", taken, vec!["f".into()])?;
    let taken = objects(probe.read(without(&["expire"]).await)?);
    probe.same("what was left", taken, vec!["e".into()])
}

/// Four jobs that are due by `later`, with leases that end, or that a wrong clock gave.
async fn leases_end_by_the_stores_clock(fresh: &FreshStore, probe: &Probe<'_>, later: i64) -> Kept {
    let take = async |lasts| {
        let jobs = probe.store().lease_due(later, lasts, &[], 10).await;
        let jobs = probe.read(jobs)?.into_iter().map(|job| job.object);
        Kept::Ok(jobs.collect::<Vec<_>>())
    };
    let all = ["a", "b", "c", "d"].map(String::from).to_vec();
    let again = all.iter().map(|object| due("expire", object, FIRST_MS));
    probe.commit(again.collect()).await?;
    let taken = take(SHORT).await?;
    probe.same("set again", taken, all.clone())?;
    fresh.clock.advance(SHORT);
    // By the store's clock, which may be another one than the test's.
    let in_the_end = async || {
        for _ in 0..100 {
            let taken = take(LONG).await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
            Delay::new(PAUSE).await;
        }
        Kept::Ok(Vec::new())
    };
    let taken = in_the_end().await?;
    probe.same("after the leases ended", taken, all.clone())?;

    // A lease from a clock that was a day ahead and was set right.
    let before_ms = fresh.clock.now_ms();
    fresh.clock.jump(before_ms + super::probe::DAY_MS);
    let taken = take(SHORT).await?;
    probe.same("a day ahead", taken, all.clone())?;
    fresh.clock.jump(before_ms);
    let taken = in_the_end().await?;
    probe.same("after the clock was set back", taken, all)
}

/// Everything that was submitted before the end is done; what comes after it is refused as
/// closed. To close twice is no error.
///
/// # Errors
/// The promise is broken.
pub async fn closed_store_refuses(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "closed_store_refuses");
    let (store, node) = (probe.store(), probe.node());
    let epoch = probe.read(node.begin_epoch().await)?;
    let work: Vec<BoxFuture<'_, _>> = (0..20)
        .map(|_| store.commit(probe.batch(None, vec![probe.fund(card(1), 1)])))
        .chain([Box::pin(async {
            // Polled last: all of the above were submitted by then.
            match store.close().await {
                Ok(()) => store.commit(probe.batch(None, vec![event("late")])).await,
                Err(error) => Err(error.into()),
            }
        }) as BoxFuture<'_, _>])
        .collect();
    let mut answers = all_at_once(work).await;
    let late = answers.pop();
    let closed = Err(CommitError::Store(StoreError::Closed));
    probe.same("a commit after the end", late, Some(closed))?;
    for answer in answers {
        probe.done(answer)?;
    }
    let path = crate::store::KeyPath {
        primary: String::new(),
        secondary: String::new(),
        key: "manager".into(),
    };
    let removed = crate::store::KeyValueWrite::Remove { path: path.clone() };
    let answers = [
        store.command("scope").await.err(),
        store.document("thing", "a").await.err(),
        store.documents(by_index("colour", "", None)).await.err(),
        store.balance(&card(1)).await.err(),
        store.balances(None, 1).await.err(),
        store.standing(&card(1), 0, &[]).await.err(),
        store.transfers(&card(1), None, 1).await.err(),
        store.hold(probe.id()).await.err(),
        store.reversed(probe.id()).await.err(),
        store.claim("name").await.err(),
        store.counter("name").await.err(),
        store.usage(&window("day")).await.err(),
        store.events(0, 1).await.err(),
        store.event_after(0).await.err(),
        store.cursor("name").await.err(),
        store.acknowledge("name", 1).await.err(),
        store.lease_due(0, Duration::ZERO, &[], 1).await.err(),
        node.begin_epoch().await.err(),
        node.write(epoch, removed).await.err(),
        node.read(path).await.err(),
        node.list(String::new(), String::new()).await.err(),
        node.take_lease(crate::store::NodeHolder(1), std::time::Duration::ZERO)
            .await
            .err(),
        node.renew_lease(epoch, std::time::Duration::ZERO)
            .await
            .err(),
        node.release_lease(epoch).await.err(),
    ];
    for answer in answers {
        probe.same("a call after the end", answer, Some(StoreError::Closed))?;
    }
    probe.read(store.close().await)
}
