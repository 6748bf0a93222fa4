//! Pure decisions about payouts: no I/O, no clock.

use super::model::{
    Payout, PayoutAttempts, PayoutHolds, PayoutOutcome, PayoutState, PayoutTerms, ResolvePayout,
};
use super::{CHECK_JOB, PAYOUTS, SettlementError};
use crate::Error;
use crate::core::{CommandError, Decision, Loaded, emit, put};
use crate::ids::TransferId;
use crate::ledger::{Account, DueJob, NewHold, NewTransfer, Step, TransferKind};
use crate::lightning::PaymentState;
use crate::money::{MAX_MSAT, MoneyError};

const MAX_BPS: u32 = 10_000;

/// Terms that make sense.
pub(super) fn check_terms(terms: &PayoutTerms) -> Result<(), CommandError> {
    for (field, bps) in [("fee_bps", terms.fee_bps), ("route_bps", terms.route_bps)] {
        if bps > MAX_BPS {
            return Err(CommandError::OutOfBounds {
                field,
                bounds: "0 to 10,000",
            });
        }
    }
    for (field, msat) in [
        ("fee_base_msat", terms.fee_base_msat),
        ("route_base_msat", terms.route_base_msat),
    ] {
        if !(0..=MAX_MSAT).contains(&msat) {
            let bounds = "0 msat to 21 million bitcoin";
            return Err(CommandError::OutOfBounds { field, bounds });
        }
    }
    Ok(())
}

/// `base + amount × bps / 10,000`, rounded up to the msat.
fn share(base_msat: i64, bps: u32, amount_msat: i64) -> Result<i64, MoneyError> {
    let part = (i128::from(amount_msat) * i128::from(bps) + 9_999) / 10_000;
    i64::try_from(i128::from(base_msat) + part).map_err(|_| MoneyError::Overflow)
}

/// What the operator keeps of a payout.
pub(super) fn fee(terms: &PayoutTerms, amount_msat: i64) -> Result<i64, MoneyError> {
    share(terms.fee_base_msat, terms.fee_bps, amount_msat)
}

/// What the route of a payout may cost.
pub(super) fn max_route_fee(terms: &PayoutTerms, amount_msat: i64) -> Result<i64, MoneyError> {
    share(terms.route_base_msat, terms.route_bps, amount_msat)
}

/// The most that can be paid out of a balance, and its fee: the largest amount of whole sats
/// that the balance covers together with the fee. Zero when it covers nothing.
pub(super) fn largest_payout(
    terms: &PayoutTerms,
    available_msat: i64,
) -> Result<(i64, i64), MoneyError> {
    let for_both = i128::from(available_msat) - i128::from(terms.fee_base_msat);
    let upper = for_both * 10_000 / i128::from(10_000 + terms.fee_bps);
    let mut amount_msat = i64::try_from(upper.max(0)).map_err(|_| MoneyError::Overflow)?;
    amount_msat -= amount_msat % 1_000;
    // The fee is rounded up, so the bound may be one step too high.
    while amount_msat > 0 {
        let fee_msat = fee(terms, amount_msat)?;
        if amount_msat
            .checked_add(fee_msat)
            .is_some_and(|needed| needed <= available_msat)
        {
            return Ok((amount_msat, fee_msat));
        }
        amount_msat -= 1_000;
    }
    Ok((0, 0))
}

fn hold(id: TransferId, payout: &Payout, kind: TransferKind, amount: i64) -> Step {
    let payable = Account::merchant_payable(payout.merchant);
    let (debit, credit) = match kind {
        TransferKind::PayoutFee => (payable, Account::fee_income()),
        TransferKind::RoutingFee => (Account::routing_fees(), Account::node_channels()),
        _ => (payable, Account::node_channels()),
    };
    let reference = payout.id.to_string();
    let transfer = NewTransfer {
        id,
        debit,
        credit,
        amount,
        kind,
        reference,
        credit_ceiling: None,
    };
    // No timeout: only what became of the payment can end it.
    Step::Hold(NewHold {
        transfer,
        expires_at_ms: None,
        usage: Vec::new(),
    })
}

pub(super) fn payout_claim(payout: &Payout) -> String {
    format!("payout/{}", payout.payment_hash)
}

fn index_keys(payout: &Payout) -> Vec<(&'static str, String)> {
    let open = if payout.state.is_final() {
        "closed"
    } else {
        "open"
    };
    vec![
        ("payment_hash", payout.payment_hash.to_string()),
        ("merchant", payout.merchant.to_string()),
        ("state", open.to_owned()),
    ]
}

fn write(after: &Payout, read_version: i64, event: &'static str) -> Result<[Step; 2], Error> {
    let id = after.id.to_string();
    Ok([
        put(PAYOUTS, id.clone(), read_version, after, index_keys(after))?,
        emit(event, id, after)?,
    ])
}

fn check_later(payout: &Payout, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: CHECK_JOB.to_owned(),
        object: payout.id.to_string(),
        due_at_ms,
    })
}

/// The intent: written, and all its money on hold, before the node is asked.
pub(super) fn intend(payout: &Payout, check_at_ms: i64) -> Result<Vec<Step>, Error> {
    let PayoutHolds { amount, fee, route } = payout.holds;
    let mut steps = vec![
        Step::Claim {
            name: payout_claim(payout),
            by: payout.id.to_string(),
        },
        hold(amount, payout, TransferKind::Payout, payout.amount_msat),
    ];
    if let Some(fee) = fee {
        steps.push(hold(fee, payout, TransferKind::PayoutFee, payout.fee_msat));
    }
    if let Some(route) = route {
        steps.push(hold(
            route,
            payout,
            TransferKind::RoutingFee,
            payout.max_route_fee_msat,
        ));
    }
    steps.push(check_later(payout, check_at_ms));
    steps.extend(write(payout, 0, "payout.sending")?);
    Ok(steps)
}

/// A payout that was paid in the books: written as it is. The hash stays taken for ever.
pub(super) fn paid_by_book(payout: &Payout) -> Result<Vec<Step>, Error> {
    let mut steps = vec![Step::Claim {
        name: payout_claim(payout),
        by: payout.id.to_string(),
    }];
    steps.extend(write(payout, 0, "payout.paid_out")?);
    Ok(steps)
}

/// What a failure that the node tells of means for the payout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// The payout failed.
    Failed,
    /// A later attempt is on its way: its own outcome will come.
    OnItsWay,
    /// A later attempt may be on its way.
    Doubt,
    /// The node's record is later than the failure.
    Succeeded,
}

/// A failure ends an attempt. When only one was ever made it ends the payout, whatever the
/// node's record says: a node writes its record after it has handed the payment over, so that the
/// failure can come first. With several the record tells which of them failed, unless the answer
/// to the last one was lost.
pub(super) fn after_failure(
    attempts: PayoutAttempts,
    record: Option<PaymentState>,
) -> AfterFailure {
    match record {
        Some(PaymentState::Succeeded) => AfterFailure::Succeeded,
        _ if attempts.begun <= 1 => AfterFailure::Failed,
        _ if attempts.in_doubt => AfterFailure::Doubt,
        Some(PaymentState::Pending) => AfterFailure::OnItsWay,
        Some(PaymentState::Failed) | None => AfterFailure::Failed,
    }
}

/// How often the node was asked is written down. No event: nothing changed for anybody.
pub(super) fn note_attempts(
    payout: &Loaded<Payout>,
    attempts: PayoutAttempts,
) -> Result<Option<Vec<Step>>, Error> {
    let before = &payout.value;
    if before.state.is_final() || before.attempts == attempts {
        return Ok(None);
    }
    let after = Payout {
        attempts,
        ..before.clone()
    };
    let id = after.id.to_string();
    let step = put(PAYOUTS, id, payout.version, &after, index_keys(&after))?;
    Ok(Some(vec![step]))
}

/// A person says what became of it; `record` is what the node's record says, where it was asked.
pub(super) fn resolve(
    payout: &Loaded<Payout>,
    command: &ResolvePayout,
    record: Option<PaymentState>,
    new_id: impl Fn() -> Result<TransferId, Error>,
) -> Result<Decision<Payout>, Error> {
    if payout.value.state.is_final() {
        let payout = payout.value.id;
        return Err(SettlementError::PayoutFinal { payout }.into());
    }
    if command.asks_the_node() && record.is_some_and(|state| state != PaymentState::Failed) {
        let payout = payout.value.id;
        return Err(SettlementError::PayoutInFlight { payout }.into());
    }
    let reason = Some(command.reason.clone());
    let (answer, steps) = match command.outcome {
        PayoutOutcome::PaidOut { route_fee_msat } => {
            let most = payout.value.max_route_fee_msat;
            if route_fee_msat.is_some_and(|fee| !(0..=most).contains(&fee)) {
                let (field, bounds) = ("route_fee_msat", "0 to the most that the route may cost");
                return Err(CommandError::OutOfBounds { field, bounds }.into());
            }
            arrived(payout, route_fee_msat, reason, new_id)?
        }
        PayoutOutcome::Failed => came_back(payout, reason)?,
    };
    Ok(Decision { steps, answer })
}

/// The merchant has it: the holds become transfers.
pub(super) fn paid_out(
    payout: &Loaded<Payout>,
    route_fee_msat: Option<i64>,
    new_id: impl Fn() -> Result<TransferId, Error>,
) -> Result<Option<Vec<Step>>, Error> {
    if payout.value.state.is_final() {
        return Ok(None);
    }
    arrived(payout, route_fee_msat, None, new_id).map(|(_, steps)| Some(steps))
}

fn arrived(
    payout: &Loaded<Payout>,
    route_fee_msat: Option<i64>,
    reason: Option<String>,
    new_id: impl Fn() -> Result<TransferId, Error>,
) -> Result<(Payout, Vec<Step>), Error> {
    let before = &payout.value;
    let after = Payout {
        state: PayoutState::PaidOut,
        route_fee_msat,
        reason,
        ..before.clone()
    };
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
    let mut steps = write(&after, payout.version, "payout.paid_out")?.to_vec();
    steps.push(capture(before.holds.amount, before.amount_msat)?);
    if let Some(fee) = before.holds.fee {
        steps.push(capture(fee, before.fee_msat)?);
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
    steps.push(Step::Done {
        kind: CHECK_JOB,
        object: before.id.to_string(),
    });
    Ok((after, steps))
}

/// It failed for good: the money is the merchant's again.
pub(super) fn failed(payout: &Loaded<Payout>, reason: &str) -> Result<Option<Vec<Step>>, Error> {
    if payout.value.state.is_final() {
        return Ok(None);
    }
    came_back(payout, Some(reason.to_owned())).map(|(_, steps)| Some(steps))
}

fn came_back(
    payout: &Loaded<Payout>,
    reason: Option<String>,
) -> Result<(Payout, Vec<Step>), Error> {
    let before = &payout.value;
    let after = Payout {
        state: PayoutState::Failed,
        reason,
        ..before.clone()
    };
    let PayoutHolds { amount, fee, route } = before.holds;
    let holds = [Some(amount), fee, route].into_iter().flatten();
    let mut steps = write(&after, payout.version, "payout.failed")?.to_vec();
    steps.extend(holds.map(|hold| Step::Release { hold }));
    steps.push(Step::Done {
        kind: CHECK_JOB,
        object: before.id.to_string(),
    });
    Ok((after, steps))
}

/// It is not known whether it was sent: the money stays on hold, and the node is asked again.
pub(super) fn unknown(
    payout: &Loaded<Payout>,
    reason: &str,
    check_at_ms: i64,
) -> Result<Option<Vec<Step>>, Error> {
    let before = &payout.value;
    if before.state.is_final() {
        return Ok(None);
    }
    let check = check_later(before, check_at_ms);
    if before.state == PayoutState::Unknown {
        return Ok(Some(vec![check]));
    }
    let after = Payout {
        state: PayoutState::Unknown,
        reason: Some(reason.to_owned()),
        ..before.clone()
    };
    let mut steps = vec![check];
    steps.extend(write(&after, payout.version, "payout.unknown")?);
    Ok(Some(steps))
}
