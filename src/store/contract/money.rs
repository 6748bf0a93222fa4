//! Promises about money.

use super::probe::{DAY_MS, Kept, Probe, card, merchant, points};
use super::{FIRST_MS, FreshStore};
use crate::ledger::{Account, NewHold, NewTransfer, Refusal, Step};

/// An amount is more than zero, the two accounts differ and have one asset.
///
/// # Errors
/// The promise is broken.
pub async fn amounts_and_accounts_must_fit(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "amounts_and_accounts_must_fit");
    let (from, to) = (Account::node_channels(), card(1));
    for amount in [0, -1, i64::MIN] {
        let step = probe.transfer(from, to, amount);
        probe
            .refused("no positive amount", "ledger.not_positive", vec![step])
            .await?;
        let (_, step) = probe.hold(from, to, amount, None);
        probe
            .refused("no positive hold", "ledger.not_positive", vec![step])
            .await?;
    }
    for to in [from, points(1)] {
        let step = probe.transfer(from, to, 1);
        let code = "ledger.accounts_do_not_fit";
        probe
            .refused("accounts that do not fit", code, vec![step])
            .await?;
    }
    probe.same(
        "accounts used",
        probe.read(probe.store().balances(None, 10).await)?,
        vec![],
    )
}

/// A transfer and a hold each have an id that no other has.
///
/// # Errors
/// The promise is broken.
pub async fn transfer_ids_are_used_once(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "transfer_ids_are_used_once");
    let first = probe.new_transfer(Account::node_channels(), card(1), 10);
    probe.commit(vec![Step::Transfer(first.clone())]).await?;
    let (hold, step) = probe.hold(card(1), merchant(), 5, None);
    probe.commit(vec![step.clone()]).await?;
    let code = "ledger.duplicate_id";
    let as_hold = Step::Hold(NewHold {
        transfer: first.clone(),
        expires_at_ms: None,
        usage: Vec::new(),
    });
    let of_hold = NewTransfer {
        id: hold,
        ..first.clone()
    };
    let capture = Step::Capture {
        hold,
        id: first.id,
        amount: 1,
        release_rest: false,
    };
    for (what, step) in [
        ("a transfer's id for a transfer", Step::Transfer(first)),
        ("a transfer's id for a hold", as_hold),
        ("a hold's id for a transfer", Step::Transfer(of_hold)),
        ("a hold's id for a hold", step),
        ("a transfer's id for a capture", capture),
    ] {
        probe.refused(what, code, vec![step]).await?;
    }
    Ok(())
}

/// An account with a floor is never brought below it, holds counted, by a transfer or a hold.
///
/// # Errors
/// The promise is broken.
pub async fn floor_counts_holds(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "floor_counts_holds");
    let code = "ledger.insufficient_funds";
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let (_, hold) = probe.hold(card(1), merchant(), 60, None);
    probe.commit(vec![hold]).await?;
    let step = probe.transfer(card(1), merchant(), 41);
    let refusal = probe.refused("a transfer of 41", code, vec![step]).await?;
    probe.same(
        "what the refusal says",
        matches!(
            refusal,
            Refusal::InsufficientFunds { step: 0, account, available: 40, needed: 41 }
                if account == card(1)
        ),
        true,
    )?;
    let (_, hold) = probe.hold(card(1), merchant(), 41, None);
    probe.refused("a hold of 41", code, vec![hold]).await?;
    // Money that is on its way to an account cannot be spent there.
    let step = probe.transfer(merchant(), card(1), 1);
    probe.refused("money on its way", code, vec![step]).await?;
    probe
        .commit(vec![probe.transfer(card(1), merchant(), 40)])
        .await?;
    probe.same("what is left", probe.available(card(1)).await?, 0)
}

/// A transfer's ceiling for the credited account counts what is on hold towards it.
///
/// # Errors
/// The promise is broken.
pub async fn ceiling_counts_holds(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "ceiling_counts_holds");
    let code = "ledger.ceiling_reached";
    let hold = NewHold {
        transfer: probe.capped(card(1), 60, 100),
        expires_at_ms: None,
        usage: Vec::new(),
    };
    probe.commit(vec![Step::Hold(hold)]).await?;
    let step = Step::Transfer(probe.capped(card(1), 41, 100));
    probe.refused("a transfer of 41", code, vec![step]).await?;
    let hold = NewHold {
        transfer: probe.capped(card(1), 41, 100),
        expires_at_ms: None,
        usage: Vec::new(),
    };
    probe
        .refused("a hold of 41", code, vec![Step::Hold(hold)])
        .await?;
    let step = Step::Transfer(probe.capped(card(1), 40, 100));
    probe.commit(vec![step]).await?;
    // Without a ceiling only the range of an amount is the limit.
    probe.commit(vec![probe.fund(card(1), 1)]).await?;
    let step = probe.fund(card(1), i64::MAX);
    probe
        .refused("more than fits", "ledger.overflow", vec![step])
        .await
        .map(drop)
}

/// A bound on where an account stands holds within the commit, after the steps before it: what is
/// set aside counts as gone for the lower bound and as arrived for the upper one, and what has
/// ended by then as neither.
///
/// # Errors
/// The promise is broken.
pub async fn accounts_stand_within_bounds(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "accounts_stand_within_bounds");
    let code = "ledger.out_of_bounds";
    let within = |account, lowest, highest| Step::Within {
        account,
        lowest,
        highest,
    };
    // One that never moved stands at nothing.
    probe
        .commit(vec![within(card(2), Some(0), Some(0))])
        .await?;
    let end_ms = FIRST_MS + DAY_MS;
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let (_, hold) = probe.hold(card(1), merchant(), 60, Some(end_ms));
    probe.commit(vec![hold]).await?;
    for (what, account, lowest, highest) in [
        ("less than it must keep", card(1), Some(41), None),
        ("more than it may come to", card(1), None, Some(99)),
        ("what may arrive", merchant(), None, Some(59)),
        ("what may not arrive", merchant(), Some(1), None),
    ] {
        let steps = vec![probe.fund(card(2), 1), within(account, lowest, highest)];
        let refusal = probe.refused(what, code, steps).await?;
        let is_it = matches!(refusal, Refusal::OutOfBounds { step: 1, account: named, .. }
            if named == account);
        probe.same("what the refusal says", is_it, true)?;
    }
    probe.same("what was left behind", probe.available(card(2)).await?, 0)?;
    let sound = [
        within(card(1), Some(40), Some(100)),
        within(merchant(), Some(0), Some(60)),
    ];
    probe.commit(sound.to_vec()).await?;
    // The steps before it count, also against a bound that held until then.
    let steps = vec![
        probe.transfer(card(1), card(2), 1),
        within(card(1), Some(40), None),
    ];
    probe
        .refused("what a step before took", code, steps)
        .await?;
    probe.set_clock(end_ms);
    let steps = vec![
        within(merchant(), None, Some(0)),
        within(card(1), Some(100), Some(100)),
    ];
    probe.commit(steps).await?;
    probe.same("given back", probe.available(card(1)).await?, 100)
}

/// The transfers of a batch are made all or not at all, and each sees those before it.
///
/// # Errors
/// The promise is broken.
pub async fn linked_transfers_go_together(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "linked_transfers_go_together");
    let steps = vec![
        probe.fund(card(1), 100),
        probe.transfer(card(1), card(2), 70),
        probe.transfer(card(2), merchant(), 71),
    ];
    let code = "ledger.insufficient_funds";
    let refusal = probe.refused("the third of three", code, steps).await?;
    let at_third = matches!(refusal, Refusal::InsufficientFunds { step: 2, .. });
    probe.same("the step that was refused", at_third, true)?;
    for account in [card(1), card(2), merchant(), Account::node_channels()] {
        let balance = probe.balance(account).await?;
        probe.same("what was left behind", balance, Default::default())?;
        let rows = probe.read(probe.store().transfers(&account, None, 10).await)?;
        probe.same("rows left behind", rows, vec![])?;
    }
    let steps = vec![
        probe.fund(card(1), 100),
        probe.transfer(card(1), card(2), 70),
        probe.transfer(card(2), merchant(), 70),
    ];
    probe.commit(steps).await?;
    probe.same("the first", probe.available(card(1)).await?, 30)?;
    probe.same("the second", probe.available(card(2)).await?, 0)?;
    probe.same("the third", probe.available(merchant()).await?, 70)
}

/// A capture moves part of a hold; the rest stays on hold or is given back, as asked.
///
/// # Errors
/// The promise is broken.
pub async fn capture_takes_part_of_a_hold(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "capture_takes_part_of_a_hold");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let (hold, step) = probe.hold(card(1), merchant(), 80, None);
    probe.commit(vec![step]).await?;
    probe.same("posted", probe.balance(card(1)).await?.debits_posted, 0)?;
    let pending = probe.balance(merchant()).await?.credits_pending;
    probe.same("on its way", pending, 80)?;

    probe.commit(vec![probe.capture(hold, 30, false)]).await?;
    let balance = probe.balance(card(1)).await?;
    let totals = (balance.debits_posted, balance.debits_pending);
    probe.same("after a part", totals, (30, 50))?;
    let remaining = probe.read(probe.store().hold(hold).await)?;
    probe.same(
        "what remains of the hold",
        remaining.map(|state| state.remaining),
        Some(50),
    )?;
    let step = probe.capture(hold, 51, false);
    let code = "ledger.hold_exceeded";
    probe.refused("more than remains", code, vec![step]).await?;
    let step = probe.capture(hold, 0, true);
    probe
        .refused("a capture of nothing", "ledger.not_positive", vec![step])
        .await?;

    probe.commit(vec![probe.capture(hold, 20, true)]).await?;
    let state = probe.read(probe.store().hold(hold).await)?;
    let remaining = state.map(|state| state.remaining);
    probe.same("what remains after that", remaining, Some(0))?;
    let (open, step) = probe.hold(card(1), merchant(), 5, None);
    probe.commit(vec![step]).await?;
    let asked = [open, probe.id(), hold];
    let left = probe.read(probe.store().holds_left(&asked).await)?;
    probe.same("what is left of each", left, vec![Some(5), None, Some(0)])?;
    probe.commit(vec![Step::Release { hold: open }]).await?;
    let balance = probe.balance(card(1)).await?;
    let totals = (balance.debits_posted, balance.debits_pending);
    probe.same("after the rest was given back", totals, (50, 0))?;
    let balance = probe.balance(merchant()).await?;
    let totals = (balance.credits_posted, balance.credits_pending);
    probe.same("at the other account", totals, (50, 0))
}

/// A release gives back all that is left of a hold, and posts nothing.
///
/// # Errors
/// The promise is broken.
pub async fn release_gives_back(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "release_gives_back");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let before = probe.balance(card(1)).await?;
    let (hold, step) = probe.hold(card(1), merchant(), 80, None);
    probe.commit(vec![step]).await?;
    probe.commit(vec![Step::Release { hold }]).await?;
    probe.same("the debited", probe.balance(card(1)).await?, before)?;
    let other = probe.balance(merchant()).await?;
    probe.same("the credited", other, Default::default())?;
    let rows = probe.read(probe.store().transfers(&merchant(), None, 10).await)?;
    probe.same("rows", rows, vec![])
}

/// A hold that was used up, given back or never made can be neither captured nor released.
///
/// # Errors
/// The promise is broken.
pub async fn hold_ends_once(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "hold_ends_once");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let (captured, first) = probe.hold(card(1), merchant(), 10, None);
    let (released, second) = probe.hold(card(1), merchant(), 10, None);
    let third = probe.capture(captured, 10, false);
    let fourth = Step::Release { hold: released };
    probe.commit(vec![first, second, third, fourth]).await?;
    for hold in [captured, released, probe.id()] {
        let code = "ledger.hold_not_open";
        let capture = probe.capture(hold, 1, true);
        probe.refused("a capture", code, vec![capture]).await?;
        let release = Step::Release { hold };
        probe.refused("a release", code, vec![release]).await?;
    }
    probe.same("what is left", probe.available(card(1)).await?, 90)
}

/// From the moment a hold ends it cannot be captured; its money comes back by a release.
///
/// # Errors
/// The promise is broken.
pub async fn expired_hold_can_only_be_released(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "expired_hold_can_only_be_released");
    probe.commit(vec![probe.fund(card(1), 100)]).await?;
    let end_ms = FIRST_MS + DAY_MS;
    let (hold, step) = probe.hold(card(1), merchant(), 60, Some(end_ms));
    probe.commit(vec![step]).await?;
    probe.set_clock(end_ms - 1);
    probe.commit(vec![probe.capture(hold, 10, false)]).await?;
    probe.set_clock(end_ms);
    let step = probe.capture(hold, 10, false);
    probe
        .refused("a late capture", "ledger.hold_expired", vec![step])
        .await?;
    probe.same("still on hold", probe.available(card(1)).await?, 40)?;
    probe.commit(vec![Step::Release { hold }]).await?;
    probe.same("given back", probe.available(card(1)).await?, 90)
}

/// The totals of an account's whole life may be more than fits into an amount.
///
/// # Errors
/// The promise is broken.
pub async fn lifetime_totals_outgrow_an_amount(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "lifetime_totals_outgrow_an_amount");
    for _ in 0..3 {
        let there = probe.fund(card(1), i64::MAX);
        let back = probe.transfer(card(1), Account::node_channels(), i64::MAX);
        probe.commit(vec![there, back]).await?;
    }
    let balance = probe.balance(card(1)).await?;
    let total = 3 * i128::from(i64::MAX);
    let totals = (balance.debits_posted, balance.credits_posted);
    probe.same("the totals", totals, (total, total))
}
