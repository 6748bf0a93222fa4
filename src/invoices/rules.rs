//! Pure decisions about invoices: no I/O, no clock.

use super::model::{Invoice, InvoicePurpose, InvoiceState};
use super::{CHECK_JOB, EXPIRE_JOB, INVOICES, InvoiceError};
use crate::Error;
use crate::core::{Decision, Loaded, emit, put};
use crate::ids::TransferId;
use crate::ledger::{Account, DueJob, NewHold, NewTransfer, Step, TransferKind};
use crate::lightning::PaymentHash;
use crate::money::Quote;
use crate::treasury::suspend;

/// What to do with a payment that waits to be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Set the money aside, then claim.
    Accept,
    /// It was accepted before: claim (again).
    Claim,
    /// Give it back.
    Refuse(&'static str),
}

/// The fewest blocks that a payment must still be claimable for: a claim that comes too late is
/// no claim, and its sender has the money back.
const MIN_BLOCKS_LEFT: u32 = 3;

/// Decides about a payment while it costs nothing to give it back. Only the exact amount, in
/// time, to an invoice that waits, is accepted: whatever else there is gets no tolerance.
pub(super) fn incoming(
    invoice: &Invoice,
    amount_msat: i64,
    blocks_left: Option<u32>,
    now_ms: i64,
) -> Incoming {
    match invoice.state {
        InvoiceState::Processing if amount_msat == invoice.amount_msat => Incoming::Claim,
        InvoiceState::Processing => Incoming::Refuse("another payment is being taken"),
        InvoiceState::Settled | InvoiceState::Invalid => Incoming::Refuse("already paid"),
        InvoiceState::Expired => Incoming::Refuse("expired"),
        InvoiceState::New if now_ms >= invoice.expires_at_ms => Incoming::Refuse("expired"),
        InvoiceState::New if blocks_left.is_some_and(|blocks| blocks < MIN_BLOCKS_LEFT) => {
            Incoming::Refuse("too close to its deadline")
        }
        InvoiceState::New if amount_msat < invoice.amount_msat => Incoming::Refuse("too little"),
        InvoiceState::New if amount_msat > invoice.amount_msat => Incoming::Refuse("too much"),
        InvoiceState::New => Incoming::Accept,
    }
}

/// The name under which a payment hash is taken once for ever.
pub(crate) fn payment_claim(payment_hash: PaymentHash) -> String {
    format!("payment/{payment_hash}")
}

/// The keys under which an invoice is found.
pub(super) fn index_keys(invoice: &Invoice) -> Vec<(&'static str, String)> {
    vec![
        ("payment_hash", invoice.payment_hash.to_string()),
        ("owner", invoice.purpose.owner_id()),
        ("state", state_key(invoice.state).to_owned()),
    ]
}

pub(super) fn state_key(state: InvoiceState) -> &'static str {
    match state {
        InvoiceState::New => "new",
        InvoiceState::Processing => "processing",
        InvoiceState::Settled => "settled",
        InvoiceState::Expired => "expired",
        InvoiceState::Invalid => "invalid",
    }
}

fn write(
    invoice: &Loaded<Invoice>,
    after: &Invoice,
    event: &'static str,
) -> Result<[Step; 2], Error> {
    let id = after.id.to_string();
    Ok([
        put(
            INVOICES,
            id.clone(),
            invoice.version,
            after,
            index_keys(after),
        )?,
        emit(event, id, after)?,
    ])
}

/// How long an invoice can be paid: as asked, but not longer than the quote of its price holds.
pub(super) fn expiry(asked_seconds: u32, quote: Option<&Quote>, now_ms: i64) -> u32 {
    let Some(quote) = quote else {
        return asked_seconds;
    };
    let holds_seconds = quote.valid_until_ms.saturating_sub(now_ms) / 1_000;
    u32::try_from(holds_seconds.max(1)).map_or(asked_seconds, |holds| holds.min(asked_seconds))
}

/// The steps that make an invoice.
pub(super) fn create(invoice: &Invoice) -> Result<Vec<Step>, Error> {
    let id = invoice.id.to_string();
    Ok(vec![
        put(INVOICES, id.clone(), 0, invoice, index_keys(invoice))?,
        emit("invoice.created", id.clone(), invoice)?,
        Step::Due(DueJob {
            kind: EXPIRE_JOB.to_owned(),
            object: id,
            due_at_ms: invoice.expires_at_ms,
        }),
    ])
}

/// The steps before a claim: the hash is taken, and the money set aside until it has arrived.
pub(super) fn accept(
    invoice: &Loaded<Invoice>,
    hold: TransferId,
    (credit, credit_ceiling): (Account, Option<i64>),
    check_at_ms: i64,
) -> Result<Vec<Step>, Error> {
    let before = &invoice.value;
    let after = Invoice {
        state: InvoiceState::Processing,
        hold: Some(hold),
        ..before.clone()
    };
    let id = before.id.to_string();
    let transfer = NewTransfer {
        id: hold,
        debit: Account::node_channels(),
        credit,
        amount: before.amount_msat,
        kind: kind(before.purpose),
        reference: id.clone(),
        credit_ceiling,
    };
    let mut steps = vec![
        Step::Claim {
            name: payment_claim(before.payment_hash),
            by: id,
        },
        // No timeout: only what became of the claim can end it.
        Step::Hold(NewHold {
            transfer,
            expires_at_ms: None,
            usage: Vec::new(),
        }),
    ];
    steps.push(check_later(before, check_at_ms));
    steps.extend(write(invoice, &after, "invoice.processing")?);
    Ok(steps)
}

/// The step that has the node asked about a payment that is being taken.
pub(super) fn check_later(invoice: &Invoice, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: CHECK_JOB.to_owned(),
        object: invoice.id.to_string(),
        due_at_ms,
    })
}

/// The step that ends the asking.
pub(super) fn check_no_more(invoice: &Invoice) -> Step {
    Step::Done {
        kind: CHECK_JOB,
        object: invoice.id.to_string(),
    }
}

/// What money that arrives for an invoice is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    /// What was accepted: it is booked.
    Accepted,
    /// Told a second time.
    Known,
    /// No invoice waits for it. It is taken once, under this name.
    Unmatched {
        /// The name to claim.
        claim: String,
    },
}

/// Judges money that is ours by now.
pub(super) fn arrival(hash: PaymentHash, invoice: Option<&Invoice>) -> Arrival {
    let claim = payment_claim(hash);
    match invoice.map(|invoice| (invoice.state, invoice.received_msat)) {
        Some((InvoiceState::Processing, _)) => Arrival::Accepted,
        Some((InvoiceState::Settled, _)) => Arrival::Known,
        Some((InvoiceState::Invalid, received_msat)) if received_msat > 0 => Arrival::Known,
        // It was given up; the name of its payment is the invoice's own.
        Some((InvoiceState::Invalid, _)) => Arrival::Unmatched {
            claim: format!("{claim}/given-up"),
        },
        Some((InvoiceState::New | InvoiceState::Expired, _)) | None => Arrival::Unmatched { claim },
    }
}

/// A person gives up on a payment that is being taken and never arrived: the hold ends.
pub(super) fn give_up(invoice: &Loaded<Invoice>) -> Result<Decision<Invoice>, Error> {
    let before = &invoice.value;
    let (InvoiceState::Processing, Some(hold)) = (before.state, before.hold) else {
        let (invoice, state) = (before.id, before.state);
        return Err(InvoiceError::NotProcessing { invoice, state }.into());
    };
    let after = Invoice {
        state: InvoiceState::Invalid,
        hold: None,
        ..before.clone()
    };
    // Written first: whoever lost a race is to read again, and not to find the hold gone.
    let mut steps = write(invoice, &after, "invoice.given_up")?.to_vec();
    steps.extend([Step::Release { hold }, check_no_more(before)]);
    Ok(Decision {
        steps,
        answer: after,
    })
}

fn kind(purpose: InvoicePurpose) -> TransferKind {
    match purpose {
        InvoicePurpose::Sale { .. } => TransferKind::Sale,
        InvoicePurpose::TopUp { .. } => TransferKind::TopUp,
    }
}

/// The steps after the money arrived. `None` when they were made before.
pub(super) fn received(
    invoice: &Loaded<Invoice>,
    amount_msat: i64,
    id: TransferId,
    surplus_id: TransferId,
    now_ms: i64,
) -> Result<Option<Vec<Step>>, Error> {
    let before = &invoice.value;
    let (InvoiceState::Processing, Some(hold)) = (before.state, before.hold) else {
        return Ok(None);
    };
    let booked = amount_msat.min(before.amount_msat);
    let state = if booked == before.amount_msat {
        InvoiceState::Settled
    } else {
        InvoiceState::Invalid
    };
    let after = Invoice {
        state,
        received_msat: booked,
        hold: None,
        ..before.clone()
    };
    let event = match state {
        InvoiceState::Settled => "invoice.settled",
        _ => "invoice.invalid",
    };
    // Written first: the event and the job that asks may both see the money arrive, and whoever
    // is second is to read again, and not to find the hold gone.
    let mut steps = write(invoice, &after, event)?.to_vec();
    steps.extend([
        Step::Capture {
            hold,
            id,
            amount: booked,
            release_rest: true,
        },
        Step::Done {
            kind: EXPIRE_JOB,
            object: before.id.to_string(),
        },
        check_no_more(before),
    ]);
    if amount_msat > booked {
        let surplus = amount_msat.saturating_sub(booked);
        steps.extend(suspend(surplus_id, surplus, before.payment_hash, now_ms)?);
    }
    Ok(Some(steps))
}

/// The steps when its time is over. A payment that is being taken is taken to its end.
pub(super) fn expire(invoice: &Loaded<Invoice>, now_ms: i64) -> Result<Vec<Step>, Error> {
    let before = &invoice.value;
    let id = before.id.to_string();
    if before.state == InvoiceState::New && now_ms < before.expires_at_ms {
        let due_at_ms = before.expires_at_ms;
        return Ok(vec![Step::Due(DueJob {
            kind: EXPIRE_JOB.to_owned(),
            object: id,
            due_at_ms,
        })]);
    }
    let mut steps = vec![Step::Done {
        kind: EXPIRE_JOB,
        object: id,
    }];
    if before.state == InvoiceState::New {
        let after = Invoice {
            state: InvoiceState::Expired,
            ..before.clone()
        };
        steps.extend(write(invoice, &after, "invoice.expired")?);
    }
    Ok(steps)
}
