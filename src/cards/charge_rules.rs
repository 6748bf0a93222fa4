//! Pure decisions about charges: no I/O, no clock.

use super::charge_model::{Charge, ChargePosting, ChargeRecord, ChargeState, RefundPosting};
use super::currency::Back;
use super::error::CardError;
use super::{CHARGES, rules};
use crate::Error;
use crate::core::{Loaded, emit, put};
use crate::exchange::{self, share_down};
use crate::ids::TransferId;
use crate::ledger::{
    Account, AccountKind, DueJob, NewHold, NewReversal, NewTransfer, Refusal, Step, TransferKind,
    UsageWindow,
};
use crate::money::{Asset, MoneyError};
use crate::rewards::Clawback;
use crate::settlement;

/// The job that ends an authorisation which nobody captured.
pub(crate) const EXPIRE_JOB: &str = "charge.expire";

/// The step that writes a charge.
fn write(record: &ChargeRecord, read_version: i64) -> Result<Step, Error> {
    let keys = vec![
        ("card", record.charge.card.to_string()),
        ("merchant", record.charge.merchant.to_string()),
    ];
    let id = record.charge.id.to_string();
    put(CHARGES, id, read_version, record, keys)
}

fn tell(kind: &'static str, charge: &Charge) -> Result<Step, Error> {
    emit(kind, charge.card.to_string(), charge)
}

/// What the card pays: in bitcoin to the merchant, in a currency to the operator.
fn money(charge: &Charge, from: Account, id: TransferId, amount: i64) -> NewTransfer {
    let credit = match charge.unit() {
        Asset::Btc => Account::merchant_payable(charge.merchant),
        unit => Account::exchange(unit),
    };
    NewTransfer {
        id,
        debit: from,
        credit,
        amount,
        kind: TransferKind::Charge,
        reference: charge.id.to_string(),
        credit_ceiling: None,
    }
}

/// What comes after the card has paid, in the same commit: where that was in a currency the
/// operator pays the merchant, and what the operator keeps of it is booked.
fn after_money(charge: &Charge, posting: &mut ChargePosting) -> Result<Vec<Step>, Error> {
    let payable = Account::merchant_payable(charge.merchant);
    let reference = charge.id.to_string();
    let mut steps = Vec::new();
    if charge.conversion.is_none() {
        posting.bitcoin = None;
    }
    if let Some(id) = posting.bitcoin {
        steps.push(Step::Transfer(NewTransfer {
            id,
            debit: Account::exchange(Asset::Btc),
            credit: payable,
            amount: charge.amount_msat,
            kind: TransferKind::Charge,
            reference: reference.clone(),
            credit_ceiling: None,
        }));
    }
    let kept_msat = exchange::spread(charge.spread_quote(), charge.amount_msat)?;
    let spread = posting
        .spread
        .and_then(|id| exchange::take_spread(payable, kept_msat, id, &reference));
    if spread.is_none() {
        posting.spread = None;
    }
    steps.extend(spread);
    Ok(steps)
}

/// What the merchant owes is taken out of what the charge has brought, as far as both reach; after
/// the points, which are the merchant's to give of it.
pub(super) fn recover(charge: &Charge, id: TransferId) -> Option<Step> {
    settlement::recover(
        charge.merchant,
        charge.amount_msat,
        id,
        charge.id.to_string(),
    )
}

fn expire_job(charge: &Charge) -> (String, String) {
    (EXPIRE_JOB.to_owned(), charge.id.to_string())
}

fn no_more_job(charge: &Charge) -> Step {
    Step::Done {
        kind: EXPIRE_JOB,
        object: charge.id.to_string(),
    }
}

/// The steps of a charge that is paid at once. Those that use the tap up come before them, and the
/// reward's own after them.
pub(super) fn pay(
    charge: &Charge,
    from: Account,
    mut posting: ChargePosting,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    if let Some(transfer) = posting.transfer {
        let paid = money(charge, from, transfer, charge.on_card());
        steps.push(Step::Transfer(paid));
        steps.extend(after_money(charge, &mut posting)?);
    }
    let record = ChargeRecord {
        charge: charge.clone(),
        posting: Some(posting),
    };
    steps.push(write(&record, 0)?);
    steps.push(tell("card.charged", charge)?);
    Ok(steps)
}

/// The steps of an authorisation, after those that use the tap up.
pub(super) fn authorize(
    charge: &Charge,
    from: Account,
    hold: TransferId,
    usage: Vec<UsageWindow>,
) -> Result<Vec<Step>, Error> {
    let mut steps = vec![Step::Hold(NewHold {
        transfer: money(charge, from, hold, charge.set_aside()),
        expires_at_ms: charge.expires_at_ms,
        usage: usage.clone(),
    })];
    if let Some(due_at_ms) = charge.expires_at_ms {
        let (kind, object) = expire_job(charge);
        steps.push(Step::Due(DueJob {
            kind,
            object,
            due_at_ms,
        }));
    }
    let record = ChargeRecord {
        charge: charge.clone(),
        posting: Some(ChargePosting {
            hold: Some(hold),
            usage,
            ..ChargePosting::default()
        }),
    };
    steps.push(write(&record, 0)?);
    steps.push(tell("card.authorized", charge)?);
    Ok(steps)
}

/// The hold behind a charge that can still be captured or released.
pub(super) fn open_hold(record: &ChargeRecord, at_ms: i64) -> Result<TransferId, CardError> {
    let Charge {
        id,
        state,
        expires_at_ms,
        ..
    } = record.charge;
    let hold = record.posting.as_ref().and_then(|posting| posting.hold);
    match (state, hold, expires_at_ms) {
        (ChargeState::Authorized, Some(hold), Some(until_ms)) if at_ms < until_ms => Ok(hold),
        (ChargeState::Authorized | ChargeState::Expired, _, Some(expired_at_ms)) => {
            Err(CardError::AuthorizationExpired {
                charge: id,
                expired_at_ms,
            })
        }
        _ => Err(CardError::ChargeNotOpen { charge: id, state }),
    }
}

/// Checks what is to be captured of what was asked for.
pub(super) fn check_capture((part, whole): (i64, i64)) -> Result<(), Error> {
    positive(part)?;
    if part > whole {
        let (held, asked) = (whole, part);
        return Err(CardError::CaptureExceedsHold { held, asked }.into());
    }
    Ok(())
}

pub(super) fn positive(amount_msat: i64) -> Result<(), MoneyError> {
    match amount_msat {
        1.. => Ok(()),
        minor => Err(MoneyError::NotPositive { minor }),
    }
}

/// The steps of a capture; the reward's own come after them. The charge is written before its
/// hold ends, so that whoever loses a race reads it again.
pub(super) fn capture(
    before: &Loaded<ChargeRecord>,
    after: &mut ChargeRecord,
    hold: TransferId,
    transfer: TransferId,
) -> Result<Vec<Step>, Error> {
    let mut posting = after.posting.take().unwrap_or_default();
    posting.transfer = Some(transfer);
    let paid = after_money(&after.charge, &mut posting)?;
    after.posting = Some(posting);
    let mut steps = vec![
        write(after, before.version)?,
        Step::Capture {
            hold,
            id: transfer,
            amount: after.charge.on_card(),
            release_rest: true,
        },
    ];
    steps.extend(paid);
    steps.push(no_more_job(&after.charge));
    steps.push(tell("card.captured", &after.charge)?);
    Ok(steps)
}

/// What is left of a charge whose money was given back.
fn ended(before: &ChargeRecord, state: ChargeState) -> ChargeRecord {
    let mut after = before.clone();
    after.charge.state = state;
    after.charge.amount_msat = 0;
    if let Some(conversion) = &mut after.charge.conversion {
        conversion.amount = 0;
    }
    after
}

/// The charge and the steps of a release.
pub(super) fn release(
    before: &Loaded<ChargeRecord>,
    hold: TransferId,
) -> Result<(Charge, Vec<Step>), Error> {
    let after = ended(&before.value, ChargeState::Released);
    let steps = vec![
        write(&after, before.version)?,
        Step::Release { hold },
        no_more_job(&after.charge),
        tell("card.released", &after.charge)?,
    ];
    Ok((after.charge, steps))
}

/// The steps of the job that ends an authorisation. `hold` is set where its money was not given
/// back yet by whoever needed it.
pub(super) fn expire(
    before: &Loaded<ChargeRecord>,
    hold: Option<TransferId>,
    now_ms: i64,
) -> Result<Vec<Step>, Error> {
    let Charge {
        state,
        expires_at_ms,
        ..
    } = before.value.charge;
    let Some(due_at_ms) = expires_at_ms.filter(|_| state == ChargeState::Authorized) else {
        return Ok(vec![no_more_job(&before.value.charge)]);
    };
    if now_ms < due_at_ms {
        let (kind, object) = expire_job(&before.value.charge);
        return Ok(vec![Step::Due(DueJob {
            kind,
            object,
            due_at_ms,
        })]);
    }
    let after = ended(&before.value, ChargeState::Expired);
    let mut steps = vec![write(&after, before.version)?];
    steps.extend(hold.map(|hold| Step::Release { hold }));
    steps.push(no_more_job(&after.charge));
    steps.push(tell("card.authorization_expired", &after.charge)?);
    Ok(steps)
}

/// A charge as it is shown at a time: one whose time is up has expired, whether or not its job
/// has run.
pub(super) fn shown(record: ChargeRecord, at_ms: i64) -> Charge {
    let is_over = |until_ms| at_ms >= until_ms;
    let charge = &record.charge;
    if charge.state == ChargeState::Authorized && charge.expires_at_ms.is_some_and(is_over) {
        return ended(&record, ChargeState::Expired).charge;
    }
    record.charge
}

/// The payment behind a charge of which `asked` is to be refunded, in the unit of the card.
pub(super) fn refundable(
    record: &ChargeRecord,
    asked: i64,
) -> Result<(TransferId, &ChargePosting), Error> {
    positive(asked)?;
    let charge = &record.charge;
    let (id, state) = (charge.id, charge.state);
    if state != ChargeState::Captured {
        return Err(CardError::ChargeNotCaptured { charge: id, state }.into());
    }
    let refunded = match &charge.conversion {
        Some(conversion) => conversion.refunded,
        None => charge.refunded_msat,
    };
    let standing = charge.on_card().saturating_sub(refunded);
    if asked > standing {
        return Err(CardError::RefundExceedsCharge { standing, asked }.into());
    }
    let posting = record.posting.as_ref();
    let found = posting.and_then(|posting| Some((posting.transfer?, posting)));
    Ok(found.ok_or(CardError::ChargeNotRefundable { charge: id })?)
}

/// The charge and the steps of a refund; `back` takes the points back, before the merchant's money
/// goes. The part of it that the card has had as points goes to nobody: the merchant has given it
/// before, and the card has it. A point is taken back whole, so that this part can be more than a
/// small refund: what is too much is withheld from the next one.
pub(super) fn refund(
    before: &Loaded<ChargeRecord>,
    back: Back,
    of: TransferId,
    ids: RefundIds,
    (clawback, points): (Clawback, Vec<Step>),
    at_ms: i64,
) -> Result<(Charge, Vec<Step>), Error> {
    let mut after = before.value.clone();
    let amount_msat = back.amount_msat;
    let mut posting = after.posting.unwrap_or_default();
    let owed_msat = posting
        .to_withhold_msat
        .saturating_add(clawback.redeemed_msat);
    let withheld_msat = owed_msat.min(amount_msat);
    posting.to_withhold_msat = owed_msat - withheld_msat;
    let usage = posting.usage.clone();
    let paid_msat = amount_msat.saturating_sub(withheld_msat);
    let withheld = share_down(back.on_card, withheld_msat, amount_msat)?;
    let merchant = merchant_back(&after.charge, &posting, &back, paid_msat, ids);
    posting.refunds.push(RefundPosting {
        transfer: (back.on_card > withheld).then_some(ids.on_card),
        withheld_msat,
        points: clawback.points,
        quote: back.quote.clone(),
        refunded_at_ms: at_ms,
    });
    after.posting = Some(posting);
    after.charge.refunded_msat += amount_msat;
    after.charge.withheld_msat += withheld_msat;
    after.charge.points_taken_back += clawback.points;
    if let Some(conversion) = &mut after.charge.conversion {
        conversion.refunded += back.on_card;
        conversion.refund_quote = back.quote;
    }
    let mut steps = vec![write(&after, before.version)?];
    steps.extend(points);
    steps.extend(merchant);
    if withheld > 0 {
        steps.extend(usage.iter().map(|window| Step::Unuse {
            window: window.clone(),
            amount: withheld,
        }));
    }
    if back.on_card > withheld {
        steps.push(Step::Reverse(NewReversal {
            id: ids.on_card,
            of,
            amount: back.on_card - withheld,
            shortfall: None,
            usage,
        }));
    }
    steps.push(tell("card.refunded", &after.charge)?);
    Ok((after.charge, steps))
}

/// New ids for the transfers of a refund.
#[derive(Clone, Copy)]
pub(super) struct RefundIds {
    pub(super) on_card: TransferId,
    pub(super) bitcoin: TransferId,
    pub(super) spread: TransferId,
}

/// What the merchant gets back of the operator's spread, and what it gives the operator for what
/// goes back on a card in a currency. Of one in bitcoin the card has it from the merchant itself.
fn merchant_back(
    charge: &Charge,
    posting: &ChargePosting,
    back: &Back,
    paid_msat: i64,
    ids: RefundIds,
) -> Vec<Step> {
    let reversal = |id, of, amount| {
        Step::Reverse(NewReversal {
            id,
            of,
            amount,
            shortfall: None,
            usage: Vec::new(),
        })
    };
    let mut steps = Vec::new();
    if let Some(of) = posting.spread.filter(|_| back.spread_msat > 0) {
        steps.push(reversal(ids.spread, of, back.spread_msat));
    }
    if let Some(of) = posting.bitcoin.filter(|_| paid_msat > 0) {
        steps.push(match back.quote {
            None => reversal(ids.bitcoin, of, paid_msat),
            Some(_) => Step::Transfer(NewTransfer {
                id: ids.bitcoin,
                debit: Account::merchant_payable(charge.merchant),
                credit: Account::exchange(Asset::Btc),
                amount: paid_msat,
                kind: TransferKind::Refund,
                reference: charge.id.to_string(),
                credit_ceiling: None,
            }),
        });
    }
    steps
}

/// What a refusal of the ledger means for a charge that was authorised.
pub(super) fn not_captured(error: Error, charge: &Charge) -> Error {
    match error {
        // The charge is written first: had somebody else captured or released it, that would have
        // been the refusal. What is left is that its time was up.
        Error::Ledger(Refusal::HoldExpired { .. } | Refusal::HoldNotOpen { .. }) => {
            CardError::AuthorizationExpired {
                charge: charge.id,
                expired_at_ms: charge.expires_at_ms.unwrap_or(0),
            }
            .into()
        }
        other => rules::refused(other),
    }
}

/// What a refusal of the ledger means for a refund.
pub(super) fn not_refunded(error: Error) -> Error {
    match error {
        Error::Ledger(Refusal::InsufficientFunds {
            account,
            available,
            needed,
            ..
        }) if account.kind() == AccountKind::MerchantPayable => CardError::RefundNotCovered {
            available_msat: available,
            needed_msat: needed,
        }
        .into(),
        other => rules::refused(other),
    }
}

/// True when the points were turned into money since the refund was decided.
pub(super) fn points_went(error: &Error) -> bool {
    matches!(error, Error::Ledger(Refusal::InsufficientFunds { account, .. })
        if account.kind() == AccountKind::PointsBalance)
}
