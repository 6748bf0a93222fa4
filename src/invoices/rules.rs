//! Pure decisions about invoices: no I/O, no clock.

use super::model::{Invoice, InvoicePurpose, InvoiceState};
use super::{EXPIRE_JOB, INVOICES};
use crate::Error;
use crate::core::{Loaded, emit, put};
use crate::ids::TransferId;
use crate::ledger::{Account, DueJob, NewHold, NewTransfer, Step, TransferKind};
use crate::lightning::PaymentHash;

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

/// Decides about a payment while it costs nothing to give it back. Only the exact amount, in
/// time, to an invoice that waits, is accepted: whatever else there is gets no tolerance.
pub(super) fn incoming(invoice: &Invoice, amount_msat: i64, now_ms: i64) -> Incoming {
    match invoice.state {
        InvoiceState::Processing => Incoming::Claim,
        InvoiceState::Settled | InvoiceState::Invalid => Incoming::Refuse("already paid"),
        InvoiceState::Expired => Incoming::Refuse("expired"),
        InvoiceState::New if now_ms >= invoice.expires_at_ms => Incoming::Refuse("expired"),
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
    credit_ceiling: Option<i64>,
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
        credit: before.purpose.account(),
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
    steps.extend(write(invoice, &after, "invoice.processing")?);
    Ok(steps)
}

fn kind(purpose: InvoicePurpose) -> TransferKind {
    match purpose {
        InvoicePurpose::Sale { .. } => TransferKind::Sale,
        InvoicePurpose::TopUp { .. } => TransferKind::TopUp,
    }
}

/// True when a payment of this invoice was ever accepted, so that money which arrives is its.
pub(super) fn was_accepted(invoice: &Invoice) -> bool {
    !matches!(invoice.state, InvoiceState::New | InvoiceState::Expired)
}

/// The steps after the money arrived. `None` when they were made before.
pub(super) fn received(
    invoice: &Loaded<Invoice>,
    amount_msat: i64,
    id: TransferId,
    surplus_id: TransferId,
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
    let mut steps = vec![
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
    ];
    if amount_msat > booked {
        steps.push(unmatched(
            surplus_id,
            amount_msat - booked,
            before.id.to_string(),
        ));
    }
    let event = match state {
        InvoiceState::Settled => "invoice.settled",
        _ => "invoice.invalid",
    };
    steps.extend(write(invoice, &after, event)?);
    Ok(Some(steps))
}

/// Money that is ours and matches nothing waits in suspense for a person.
pub(super) fn unmatched(id: TransferId, amount: i64, reference: String) -> Step {
    Step::Transfer(NewTransfer {
        id,
        debit: Account::node_channels(),
        credit: Account::suspense(),
        amount,
        kind: TransferKind::Unmatched,
        reference,
        credit_ceiling: None,
    })
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
