//! Pure decisions about payments that leave: no I/O, no clock.

use super::model::{Attempts, Change, Exchanged, Holds, Leaving, Outcome, Outgoing, Standing};
use crate::Error;
use crate::core::{CommandError, Loaded, emit, put};
use crate::ids::TransferId;
use crate::ledger::{Account, DueJob, NewHold, NewTransfer, Step, TransferKind};
use crate::lightning::{PaymentHash, PaymentState};
use crate::money::MoneyError;

/// `base + amount × bps / 10,000`, rounded up to the msat.
pub(crate) fn share(base_msat: i64, bps: u32, amount_msat: i64) -> Result<i64, MoneyError> {
    let part = (i128::from(amount_msat) * i128::from(bps) + 9_999) / 10_000;
    i64::try_from(i128::from(base_msat) + part).map_err(|_| MoneyError::Overflow)
}

/// The largest amount of whole sats that `available_msat` covers together with its share, and
/// that share. Zero when it covers nothing.
pub(crate) fn largest(
    base_msat: i64,
    bps: u32,
    available_msat: i64,
) -> Result<(i64, i64), MoneyError> {
    let for_both = i128::from(available_msat) - i128::from(base_msat);
    let upper = for_both * 10_000 / i128::from(10_000 + bps);
    let mut amount_msat = i64::try_from(upper.max(0)).map_err(|_| MoneyError::Overflow)?;
    amount_msat -= amount_msat % 1_000;
    // The share is rounded up, so the bound may be one step too high.
    while amount_msat > 0 {
        let share_msat = share(base_msat, bps, amount_msat)?;
        if amount_msat
            .checked_add(share_msat)
            .is_some_and(|needed| needed <= available_msat)
        {
            return Ok((amount_msat, share_msat));
        }
        amount_msat -= 1_000;
    }
    Ok((0, 0))
}

/// The name under which an invoice is taken by whoever pays it, once for ever. (It was first taken
/// by payouts alone, and the name is in the books.)
pub(crate) fn invoice_claim(payment_hash: PaymentHash) -> String {
    format!("payout/{payment_hash}")
}

fn hold(leaving: &Leaving<'_>, id: TransferId, kind: TransferKind, amount: i64) -> Step {
    let (debit, credit) = if kind == leaving.fee.0 {
        (leaving.payer, Account::fee_income())
    } else if kind == TransferKind::RoutingFee {
        let bearer = leaving.route_payer.unwrap_or(Account::routing_fees());
        (bearer, Account::node_channels())
    } else {
        (leaving.payer, Account::node_channels())
    };
    let transfer = NewTransfer {
        id,
        debit,
        credit,
        amount,
        kind,
        reference: leaving.id.clone(),
        credit_ceiling: None,
    };
    let usage = if debit == leaving.payer && leaving.exchanged.is_none() {
        leaving.usage.clone()
    } else {
        Vec::new()
    };
    // No timeout: only what became of the payment can end it.
    Step::Hold(NewHold {
        transfer,
        expires_at_ms: None,
        usage,
    })
}

fn hold_exchanged(leaving: &Leaving<'_>, id: TransferId, exchanged: Exchanged) -> Step {
    Step::Hold(NewHold {
        transfer: NewTransfer {
            id,
            debit: exchanged.payer,
            credit: Account::exchange(exchanged.payer.asset()),
            amount: exchanged.most,
            kind: leaving.kind,
            reference: leaving.id.clone(),
            credit_ceiling: None,
        },
        expires_at_ms: None,
        usage: leaving.usage.clone(),
    })
}

/// The keys under which a payment is found.
pub(crate) fn index_keys<P: Outgoing>(payment: &P) -> Vec<(&'static str, String)> {
    let leaving = payment.leaving();
    // What is set aside in the books is nothing that the node is asked about.
    let open = match (leaving.standing.is_final(), leaving.in_books) {
        (true, _) => "closed",
        (false, true) => "held",
        (false, false) => "open",
    };
    let mut keys = vec![
        ("payment_hash", leaving.payment_hash.to_string()),
        ("state", open.to_owned()),
    ];
    keys.extend(payment.owner_keys());
    keys
}

pub(super) fn write<P: Outgoing>(after: &P, read_version: i64) -> Result<[Step; 2], Error> {
    let id = after.leaving().id;
    let (event, object) = after.event();
    Ok([
        put(P::COLLECTION, id, read_version, after, index_keys(after))?,
        emit(event, object, after)?,
    ])
}

fn check_later<P: Outgoing>(id: String, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: P::CHECK_JOB.to_owned(),
        object: id,
        due_at_ms,
    })
}

pub(super) fn check_no_more<P: Outgoing>(id: String) -> Step {
    Step::Done {
        kind: P::CHECK_JOB,
        object: id,
    }
}

/// The intent: written, and all its money on hold, before the node is asked.
pub(crate) fn intend<P: Outgoing>(payment: &P, check_at_ms: i64) -> Result<Vec<Step>, Error> {
    let leaving = payment.leaving();
    let Holds {
        amount, fee, route, ..
    } = leaving.holds;
    let id = leaving.id.clone();
    let mut steps = vec![Step::Claim {
        name: invoice_claim(leaving.payment_hash),
        by: id.clone(),
    }];
    let exchanged = leaving.holds.exchanged.zip(leaving.exchanged);
    steps.extend(exchanged.map(|(hold, exchanged)| hold_exchanged(&leaving, hold, exchanged)));
    steps.push(hold(&leaving, amount, leaving.kind, leaving.amount_msat));
    let (fee_kind, fee_msat) = leaving.fee;
    steps.extend(fee.map(|fee| hold(&leaving, fee, fee_kind, fee_msat)));
    let most = leaving.max_route_fee_msat;
    steps.extend(route.map(|route| hold(&leaving, route, TransferKind::RoutingFee, most)));
    steps.push(check_later::<P>(id, check_at_ms));
    steps.extend(write(payment, 0)?);
    Ok(steps)
}

/// One that was paid in the books, or set aside there: written as it is. The hash stays taken for ever.
pub(crate) fn paid_by_book<P: Outgoing>(payment: &P) -> Result<Vec<Step>, Error> {
    let leaving = payment.leaving();
    let mut steps = vec![Step::Claim {
        name: invoice_claim(leaving.payment_hash),
        by: leaving.id,
    }];
    steps.extend(write(payment, 0)?);
    Ok(steps)
}

/// What a failure that the node tells of means for the payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// The payment failed.
    Failed,
    /// A later attempt is on its way: its own outcome will come.
    OnItsWay,
    /// A later attempt may be on its way.
    Doubt,
    /// The node's record is later than the failure.
    Succeeded,
}

/// A failure ends an attempt. When only one was ever made it ends the payment, whatever the
/// node's record says: a node writes its record after it has handed the payment over, so that the
/// failure can come first. With several the record tells which of them failed, unless the answer
/// to the last one was lost.
pub(super) fn after_failure(attempts: Attempts, record: Option<PaymentState>) -> AfterFailure {
    match record {
        Some(PaymentState::Succeeded) => AfterFailure::Succeeded,
        _ if attempts.begun <= 1 => AfterFailure::Failed,
        _ if attempts.in_doubt => AfterFailure::Doubt,
        Some(PaymentState::Pending) => AfterFailure::OnItsWay,
        Some(PaymentState::Failed) | None => AfterFailure::Failed,
    }
}

/// How often the node was asked is written down, where nobody else has done so. No event: nothing
/// changed for anybody.
pub(super) fn note_attempts<P: Outgoing>(
    payment: &Loaded<P>,
    from: Attempts,
    to: Attempts,
) -> Result<Option<Vec<Step>>, Error> {
    let before = payment.value.leaving();
    if before.standing.is_final() || before.attempts != from || from == to {
        return Ok(None);
    }
    let after = payment.value.with_attempts(to);
    let keys = index_keys(&after);
    let step = put(P::COLLECTION, before.id, payment.version, &after, keys)?;
    Ok(Some(vec![step]))
}

/// Whether a person may say what became of it; `record` is what the node's record says, where
/// that must not be contradicted.
pub(super) fn check_resolve<P: Outgoing>(
    payment: &P,
    outcome: Outcome,
    record: Option<PaymentState>,
) -> Result<(), Error> {
    let leaving = payment.leaving();
    if leaving.standing.is_final() {
        return Err(payment.has_ended());
    }
    if leaving.in_books || record.is_some_and(|state| state != PaymentState::Failed) {
        return Err(payment.is_in_flight());
    }
    if let Outcome::Succeeded {
        route_fee_msat: Some(fee),
    } = outcome
        && !(0..=leaving.max_route_fee_msat).contains(&fee)
    {
        let (field, bounds) = ("route_fee_msat", "0 to the most that the route may cost");
        return Err(CommandError::OutOfBounds { field, bounds }.into());
    }
    Ok(())
}

/// It arrived: the holds become transfers. `after` is the record of that, and `besides` what else
/// is posted.
pub(super) fn arrived<P: Outgoing>(
    payment: &Loaded<P>,
    after: &P,
    route_fee_msat: Option<i64>,
    besides: Vec<Step>,
    new_id: impl Fn() -> Result<TransferId, Error>,
) -> Result<Vec<Step>, Error> {
    let before = payment.value.leaving();
    let capture = |hold, amount| -> Result<Step, Error> {
        Ok(Step::Capture {
            hold,
            id: new_id()?,
            amount,
            release_rest: true,
        })
    };
    // Written first: the event and the job that asks may both see it arrive, and whoever is
    // second is to read again, and not to find the hold gone.
    let mut steps = write(after, payment.version)?.to_vec();
    steps.push(capture(before.holds.amount, before.amount_msat)?);
    if let Some(fee) = before.holds.fee {
        steps.push(capture(fee, before.fee.1)?);
    }
    if let Some(route) = before.holds.route {
        // What the route cost and nobody knows is found by the audit; it is not made up here.
        let cost = route_fee_msat.unwrap_or(0).min(before.max_route_fee_msat);
        steps.push(if cost > 0 {
            capture(route, cost)?
        } else {
            Step::Release { hold: route }
        });
    }
    steps.extend(besides);
    steps.push(check_no_more::<P>(before.id));
    Ok(steps)
}

/// It failed for good: the money is its payer's again. The record of that, and the steps.
pub(super) fn came_back<P: Outgoing>(
    payment: &Loaded<P>,
    reason: Option<String>,
    besides: Vec<Step>,
) -> Result<(P, Vec<Step>), Error> {
    let before = payment.value.leaving();
    let after = payment.value.changed(Change {
        standing: Standing::Failed,
        reason,
        route_fee_msat: None,
    });
    let Holds {
        amount,
        fee,
        route,
        exchanged,
    } = before.holds;
    let holds = [Some(amount), fee, route, exchanged].into_iter().flatten();
    let mut steps = write(&after, payment.version)?.to_vec();
    steps.extend(holds.map(|hold| Step::Release { hold }));
    steps.extend(besides);
    steps.push(check_no_more::<P>(before.id));
    Ok((after, steps))
}

/// It failed for good, unless it has ended.
pub(super) fn failed<P: Outgoing>(
    payment: &Loaded<P>,
    reason: &str,
    besides: Vec<Step>,
) -> Result<Option<Vec<Step>>, Error> {
    if payment.value.leaving().standing.is_final() {
        return Ok(None);
    }
    came_back(payment, Some(reason.to_owned()), besides).map(|(_, steps)| Some(steps))
}

/// It is not known whether it was sent: the money stays on hold, and the node is asked again.
pub(super) fn unknown<P: Outgoing>(
    payment: &Loaded<P>,
    reason: &str,
    check_at_ms: i64,
) -> Result<Option<Vec<Step>>, Error> {
    let before = payment.value.leaving();
    if before.standing.is_final() {
        return Ok(None);
    }
    let mut steps = vec![check_later::<P>(before.id, check_at_ms)];
    if before.standing != Standing::Unknown {
        let after = payment.value.changed(Change {
            standing: Standing::Unknown,
            reason: Some(reason.to_owned()),
            route_fee_msat: None,
        });
        steps.extend(write(&after, payment.version)?);
    }
    Ok(Some(steps))
}
