//! Promises about what was written down: the chain of commits, the past, and what is undone.

use super::probe::{DAY_MS, Kept, Probe, card, merchant, usage, window};
use super::{FIRST_MS, FreshStore};
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, ChainHash, ChainHead, CommandRecord, CommitDigest, CommitRow, HoldChange,
    NewEvent, NewHold, NewReversal, Shortfall, Step,
};

/// A hold that has ended gives its money back in the first commit that needs it, and its usage
/// with it, whether or not a job has run; until then it is told by `standing`.
///
/// # Errors
/// The promise is broken.
pub async fn ended_holds_give_back_what_is_needed(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "ended_holds_give_back_what_is_needed");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let end_ms = FIRST_MS + 1_000;
    let ends = NewHold {
        transfer: probe.new_transfer(card(1), merchant(), 60),
        expires_at_ms: Some(end_ms),
        usage: vec![window("spent")],
    };
    let id = ends.transfer.id;
    let (_, lasts) = probe.hold(card(1), merchant(), 30, None);
    probe
        .commit(vec![usage("spent", 60, 100), Step::Hold(ends), lasts])
        .await?;
    let due = async |at_ms: i64| {
        let standing = probe.store().standing(&card(1), at_ms, &[]).await;
        Kept::Ok(probe.read(standing)?.ended)
    };
    probe.same("due before its end", due(end_ms - 1).await?.len(), 0)?;
    stands_with_what_has_ended(&probe, end_ms, id).await?;

    probe.set_clock(end_ms - 1);
    let step = probe.transfer(card(1), merchant(), 70);
    let code = "ledger.insufficient_funds";
    probe.refused("before its end", code, vec![step]).await?;
    probe.set_clock(end_ms);
    let step = probe.transfer(card(1), merchant(), 71);
    probe
        .refused("more than is left then", code, vec![step])
        .await?;
    probe.same("a refusal gives nothing back", due(end_ms).await?.len(), 1)?;
    let step = probe.transfer(card(1), merchant(), 70);
    probe.commit(vec![step]).await?;
    probe.same("due after it", due(end_ms).await?.len(), 0)?;
    probe.same("what is left", probe.available(card(1)).await?, 0)?;
    probe.same("usage given back", probe.used("spent").await?, 0)?;
    let step = probe.capture(id, 1, true);
    let code = "ledger.hold_not_open";
    probe
        .refused("a capture after it", code, vec![step])
        .await?;
    let changes = probe.read(probe.store().hold_changes(0, 10).await)?;
    let changes: Vec<_> = changes
        .iter()
        .map(|row| (row.position, row.change, row.amount, row.remaining))
        .collect();
    let expected = vec![
        (1, HoldChange::Held, 60, 60),
        (2, HoldChange::Held, 30, 30),
        (3, HoldChange::Expired, 60, 0),
    ];
    probe.same("what was written of holds", changes, expected)
}

/// 90 of a card's money are on hold, and the hold `id` of 60 has ended.
async fn stands_with_what_has_ended(probe: &Probe<'_>, end_ms: i64, id: TransferId) -> Kept {
    let windows = [window("other"), window("spent")];
    let standing = async |account: Account, at_ms: i64| {
        probe.read(probe.store().standing(&account, at_ms, &windows).await)
    };
    let found = standing(card(1), end_ms).await?;
    let ended: Vec<_> = found
        .ended
        .iter()
        .map(|hold| hold.hold.transfer.id)
        .collect();
    probe.same("due at its end", ended, vec![id])?;
    probe.same("with it on hold", found.balance.debits_pending, 90)?;
    probe.same("with what was used", found.used.clone(), vec![0, 60])?;
    let (balance, used) = found.given_back(&card(1), &windows);
    let back = (balance.debits_pending, used);
    probe.same("with it given back", back, (30, vec![0, 0]))?;
    let other = standing(merchant(), end_ms).await?;
    probe.same("due for who is credited", other.ended.len(), 1)?;
    let unused = standing(card(9), end_ms).await?;
    let nothing = (Balance::default(), 0, vec![0, 60]);
    let found = (unused.balance, unused.ended.len(), unused.used);
    probe.same("an account that was never used", found, nothing)
}

/// What of a hold is not captured, and what of a transfer is undone, is given back to the windows
/// it was counted in.
///
/// # Errors
/// The promise is broken.
pub async fn released_holds_give_usage_back(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "released_holds_give_usage_back");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let hold = |amount| NewHold {
        transfer: probe.new_transfer(card(1), merchant(), amount),
        expires_at_ms: None,
        usage: vec![window("spent")],
    };
    let (captured, released) = (hold(50), hold(30));
    let (first, second) = (captured.transfer.id, released.transfer.id);
    let steps = vec![
        usage("spent", 80, 100),
        Step::Hold(captured),
        Step::Hold(released),
    ];
    probe.commit(steps).await?;
    probe.commit(vec![probe.capture(first, 20, true)]).await?;
    probe.same("after a part", probe.used("spent").await?, 50)?;
    probe.commit(vec![Step::Release { hold: second }]).await?;
    probe.same("after a release", probe.used("spent").await?, 20)?;
    let transfer = probe.new_transfer(card(1), merchant(), 15);
    let of = transfer.id;
    let spent = vec![usage("spent", 15, 100), Step::Transfer(transfer)];
    probe.commit(spent).await?;
    let undo = Step::Reverse(NewReversal {
        id: probe.id(),
        of,
        amount: 10,
        shortfall: None,
        usage: vec![window("spent")],
    });
    probe.commit(vec![undo]).await?;
    probe.same("after a reversal", probe.used("spent").await?, 25)
}

/// A transfer of up to an amount moves what floor and ceiling allow, and nothing when that is
/// nothing.
///
/// # Errors
/// The promise is broken.
pub async fn transfers_up_to_an_amount_take_what_there_is(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "transfers_up_to_an_amount_take_what_there_is");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    for (asked, moved) in [(30, 30), (90, 70), (1, 0)] {
        let transfer = probe.new_transfer(card(1), merchant(), asked);
        let id = transfer.id;
        probe.commit(vec![Step::TransferUpTo(transfer)]).await?;
        let row = probe.read(probe.store().transfer(id).await)?;
        probe.same("what moved", row.map_or(0, |row| row.amount), moved)?;
    }
    let transfer = probe.capped(card(2), 50, 40);
    probe.commit(vec![Step::TransferUpTo(transfer)]).await?;
    probe.same("up to a ceiling", probe.available(card(2)).await?, 40)
}

/// A transfer is undone once at most, in parts or whole; what the account has spent by now is
/// booked to a receivable where one is named.
///
/// # Errors
/// The promise is broken.
pub async fn transfers_are_undone_once(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "transfers_are_undone_once");
    let credit = probe.new_transfer(Account::node_channels(), merchant(), 100);
    let of = credit.id;
    probe.commit(vec![Step::Transfer(credit)]).await?;
    let undo = |of, amount, shortfall| {
        Step::Reverse(NewReversal {
            id: probe.id(),
            of,
            amount,
            shortfall,
            usage: Vec::new(),
        })
    };
    let code = "ledger.transfer_not_found";
    let step = undo(probe.id(), 1, None);
    probe
        .refused("a transfer that is none", code, vec![step])
        .await?;
    probe.commit(vec![undo(of, 30, None)]).await?;
    let code = "ledger.reversal_exceeded";
    probe
        .refused("more than still stands", code, vec![undo(of, 71, None)])
        .await?;
    // 60 of the 70 that are left are spent.
    let step = probe.transfer(merchant(), card(1), 60);
    probe.commit(vec![step]).await?;
    let code = "ledger.insufficient_funds";
    probe
        .refused("what was spent", code, vec![undo(of, 70, None)])
        .await?;
    let receivable = match merchant().owner() {
        crate::ledger::Owner::Merchant(id) => Account::merchant_receivable(id),
        _ => Account::routing_fees(),
    };
    let rest = probe.id();
    let shortfall = Shortfall {
        id: rest,
        receivable,
    };
    probe.commit(vec![undo(of, 70, Some(shortfall))]).await?;
    probe.same("the account", probe.available(merchant()).await?, 0)?;
    probe.same("the receivable", probe.available(receivable).await?, 60)?;
    let row = probe.read(probe.store().transfer(rest).await)?;
    let points_at = row.map(|row| (row.follows, row.amount));
    probe.same("what it points at", points_at, Some((Some(of), 60)))?;
    let reversed = probe.read(probe.store().reversed(of).await)?;
    probe.same("how much was undone", reversed, 100)?;
    let reversed = probe.read(probe.store().reversed(rest).await)?;
    probe.same("how much of what was not undone", reversed, 0)?;
    let reversed = probe.read(probe.store().all_reversed(&[rest, of]).await)?;
    probe.same("how much of each", reversed, vec![0, 100])?;
    let code = "ledger.reversal_exceeded";
    probe
        .refused("a second time", code, vec![undo(of, 1, None)])
        .await
        .map(drop)
}

/// The balance of any account at any time in the past is what it was then.
///
/// # Errors
/// The promise is broken.
pub async fn the_past_can_be_asked(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "the_past_can_be_asked");
    let at = async |at_ms: i64| probe.read(probe.store().balance_at(&card(1), at_ms).await);
    probe.same("before there was anything", at(FIRST_MS).await?, 0)?;
    for number in 0..20 {
        probe.set_clock(FIRST_MS + number * DAY_MS);
        let (here, there) = (probe.fund(card(1), 10), probe.fund(card(2), 1));
        probe.commit(vec![here, there]).await?;
        let back = probe.transfer(card(1), merchant(), 3);
        probe.commit(vec![back]).await?;
    }
    probe.same("before the first", at(FIRST_MS - 1).await?, 0)?;
    for number in 0..20 {
        let time_ms = FIRST_MS + number * DAY_MS;
        probe.same("on a day", at(time_ms).await?, 7 * (number + 1))?;
        probe.same("after it", at(time_ms + 1).await?, 7 * (number + 1))?;
        probe.same("before it", at(time_ms - 1).await?, 7 * number)?;
    }
    probe.same("long after", at(i64::MAX).await?, 140)
}

/// Commits are a chain: each one's hash covers the transfers and holds it made, and the commit
/// before it; what was refused is not in it.
///
/// # Errors
/// The promise is broken.
pub async fn commits_are_a_chain(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "commits_are_a_chain");
    let heads = async || probe.read(probe.store().chain_heads().await);
    probe.same("the heads of an empty store", heads().await?, vec![])?;
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let (hold, step) = probe.hold(card(1), merchant(), 60, None);
    let command = CommandRecord {
        scope: "somebody/charge/1".into(),
        fingerprint: "f".into(),
        answer: serde_json::json!(1).into(),
    };
    let batch = probe.batch(Some(command), vec![step]);
    probe.done(probe.store().commit(batch).await)?;
    let step = probe.transfer(card(1), merchant(), 41);
    let code = "ledger.insufficient_funds";
    probe.refused("too much", code, vec![step]).await?;
    probe.commit(vec![probe.capture(hold, 50, true)]).await?;

    let commits = probe.read(probe.store().commits(0, 10).await)?;
    let transfers = probe.read(probe.store().journal(0, 10).await)?;
    let changes = probe.read(probe.store().hold_changes(0, 10).await)?;
    probe.same("how many commits", commits.len(), 3)?;
    probe.same("how many transfers", transfers.len(), 2)?;
    let mut head = ChainHead {
        writer: String::new(),
        sequence: 0,
        hash: ChainHash::GENESIS,
    };
    for commit in commits {
        probe.same("the place", commit.sequence, head.sequence + 1)?;
        let mut digest = CommitDigest::default();
        let own = transfers.iter().filter(|row| row.commit == commit.position);
        own.for_each(|row| digest.transfer(row));
        let own = changes.iter().filter(|row| row.commit == commit.position);
        own.for_each(|row| digest.hold_change(row));
        probe.same("the hash", commit.hash, digest.seal(head.hash, &commit))?;
        let CommitRow {
            writer,
            sequence,
            hash,
            ..
        } = commit;
        head = ChainHead {
            writer,
            sequence,
            hash,
        };
    }
    probe.same("the heads", heads().await?, vec![head])
}

/// Old answers can be forgotten; their keys stay taken, and nothing is done a second time.
///
/// # Errors
/// The promise is broken.
pub async fn answers_are_forgotten_and_keys_are_not(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "answers_are_forgotten_and_keys_are_not");
    let command = |number: i64| CommandRecord {
        scope: match number {
            1 => "somebody/cards.charge/1".into(),
            _ => format!("somebody/fund/{number}"),
        },
        fingerprint: "f".into(),
        answer: serde_json::json!(number).into(),
    };
    for number in 0..3 {
        probe.set_clock(FIRST_MS + number * DAY_MS);
        // Where an event says the same, it goes on saying it.
        let said = (number > 0).then(|| {
            Step::Emit(NewEvent {
                kind: "contract.checked",
                object: "somebody".into(),
                body: command(number).answer,
            })
        });
        let steps = said.into_iter().chain([probe.fund(card(1), 1)]);
        let batch = probe.batch(Some(command(number)), steps.collect());
        probe.done(probe.store().commit(batch).await)?;
    }
    let forget = async |before_ms: i64, limit: usize| {
        probe.read(probe.store().forget_answers(before_ms, limit).await)
    };
    probe.same("before the first", forget(FIRST_MS, 10).await?, 0)?;
    probe.same("one of two", forget(FIRST_MS + 2 * DAY_MS, 1).await?, 1)?;
    probe.same("the other", forget(FIRST_MS + 2 * DAY_MS, 10).await?, 1)?;
    probe.same("again", forget(FIRST_MS + 2 * DAY_MS, 10).await?, 0)?;
    for (number, answer) in [(0, None), (1, None), (2, Some(serde_json::json!(2).into()))] {
        let known = probe.store().command(&command(number).scope).await;
        let known = probe.read(known)?;
        let found = known.map(|(fingerprint, commit)| (fingerprint, commit.answer));
        let expected = Some(("f".to_owned(), answer.clone()));
        probe.same("what is known", found, expected)?;
        let batch = probe.batch(Some(command(number)), vec![probe.fund(card(1), 1)]);
        let commit = probe.done(probe.store().commit(batch).await)?;
        probe.same("done before", commit.replayed, true)?;
        probe.same("what it is answered", commit.answer, answer)?;
    }
    let events = probe.read(probe.store().events(0, 10).await)?;
    let said: Vec<_> = events.into_iter().map(|event| event.body).collect();
    let expected = vec![serde_json::json!(1), serde_json::json!(2)];
    probe.same("what the events say", said, expected)?;
    probe.same("what was done", probe.available(card(1)).await?, 3)
}
