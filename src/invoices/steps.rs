//! From what a fact comes to, to the steps of a batch.

use super::model::{Custody, Invoice, InvoicePurpose, InvoiceState};
use super::moved::Moved;
use super::payment::{InvoicePayment, PaymentEntries, Rail};
use super::rules::{Move, Outcome, claim_name, state_key};
use super::{CHECK_JOB, EXPIRE_JOB, HOLD_JOB, INVOICES, MONITOR_JOB, RAIL_JOB, own_wallet, search};
use crate::Error;
use crate::core::{Loaded, emit, put};
use crate::exchange;
use crate::ids::TransferId;
use crate::ledger::{
    Account, DueJob, NewHold, NewReversal, NewTransfer, Owner, Shortfall, Step, TransferKind,
};
use crate::money::{Asset, Price};
use crate::settlement;
use crate::store::StoreError;
use crate::treasury::{suspend, suspend_on_chain};

/// What the steps need beside the outcome.
pub(super) struct Context<'a> {
    pub(super) new_id: &'a dyn Fn() -> Result<TransferId, Error>,
    pub(super) now_ms: i64,
    /// When the node is asked about a payment that is being taken.
    pub(super) check_at_ms: i64,
    /// The account that what counts goes to.
    pub(super) credit: Account,
    /// The account that a surplus goes to.
    pub(super) surplus: Account,
    pub(super) ceilings: Ceilings,
    /// Whose account a payment by book comes from.
    pub(super) payer: Option<Account>,
    /// What the operator keeps of what goes to the merchant's own wallet.
    pub(super) own_wallet_bps: u32,
    /// Whose debt it is when the chain takes back what was credited, as it stands now.
    pub(super) owes: Option<Account>,
    /// The steps that bring back what went on from the account that it is to be taken back from.
    pub(super) brought_back: Vec<Step>,
}

/// The most that the cards may come to which money that can still go back goes on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ceilings {
    /// That of what counts.
    pub(super) counted: Option<i64>,
    /// That of a surplus, by rule.
    pub(super) surplus: Option<i64>,
}

impl Context<'_> {
    fn ceiling_of(&self, account: Account) -> Option<i64> {
        match account {
            own if own == self.credit => self.ceilings.counted,
            other if other == self.surplus => self.ceilings.surplus,
            _ => None,
        }
    }
}

/// What whoever has an account owes the operator.
pub(super) fn owed_by(account: Account) -> Option<Account> {
    match account.owner() {
        Owner::Card(card) => Some(Account::card_receivable(card)),
        Owner::Merchant(merchant) => Some(Account::merchant_receivable(merchant)),
        Owner::Operator | Owner::Program(_) => None,
    }
}

/// The keys under which an invoice is found.
pub(super) fn index_keys(invoice: &Invoice) -> Vec<(&'static str, String)> {
    let mut keys = vec![
        ("payment_hash", invoice.payment_hash.to_string()),
        ("owner", invoice.purpose.owner_id()),
        ("state", state_key(invoice.state).to_owned()),
    ];
    let later = invoice.lightning.iter().map(|rail| rail.payment_hash);
    for hash in later.filter(|hash| *hash != invoice.payment_hash) {
        keys.push(("payment_hash", hash.to_string()));
    }
    if let Some(rail) = &invoice.on_chain {
        keys.push(("address", rail.address.clone()));
    }
    if let Some(offer) = &invoice.offer {
        keys.push(("offer", offer.id.to_string()));
    }
    keys.extend(search::keys(invoice));
    keys
}

/// The steps that make an invoice.
pub(super) fn create(invoice: &Invoice) -> Result<Vec<Step>, Error> {
    let id = invoice.id.to_string();
    let mut steps = vec![
        put(INVOICES, id.clone(), 0, invoice, index_keys(invoice))?,
        emit("invoice.created", id, invoice)?,
        later(EXPIRE_JOB, invoice, invoice.expires_at_ms),
    ];
    if let Some(rail) = &invoice.on_chain {
        // Never used for another.
        steps.push(Step::Claim {
            name: format!("address/{}", rail.address),
            by: invoice.id.to_string(),
        });
        steps.push(later(MONITOR_JOB, invoice, invoice.monitored_until_ms()));
    }
    Ok(steps)
}

/// The step that has something done with an invoice at a time.
pub(super) fn later(kind: &'static str, invoice: &Invoice, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: kind.to_owned(),
        object: invoice.id.to_string(),
        due_at_ms,
    })
}

/// The step that ends it.
pub(super) fn no_more(kind: &'static str, invoice: &Invoice) -> Step {
    Step::Done {
        kind,
        object: invoice.id.to_string(),
    }
}

/// The steps that write an invoice with its event.
pub(super) fn write(
    before: &Loaded<Invoice>,
    after: &mut Invoice,
    event: &'static str,
) -> Result<[Step; 2], Error> {
    after.sequence = before.value.sequence.saturating_add(1);
    let (id, version) = (after.id.to_string(), before.version);
    Ok([
        put(INVOICES, id.clone(), version, after, index_keys(after))?,
        emit(event, id, after)?,
    ])
}

/// What an outcome moves, and the invoice as it is written; no steps where nothing changes.
pub(super) fn steps(
    invoice: &Loaded<Invoice>,
    outcome: Outcome,
    context: &Context<'_>,
) -> Result<(Invoice, Moved), Error> {
    let Outcome {
        mut after, moves, ..
    } = outcome;
    let before = &invoice.value;
    if after == *before && moves.is_empty() {
        return Ok((after, Moved::default()));
    }
    let mut moved = Moved {
        steps: context.brought_back.clone(),
        debts: Vec::new(),
    };
    for step in moves {
        carry_out(step, &mut after, context, &mut moved)?;
    }
    let event = after.event(before);
    // Written first: whoever lost a race is to read again, and not to find the hold gone.
    let mut steps = write(invoice, &mut after, event)?.to_vec();
    steps.append(&mut moved.steps);
    steps.extend(jobs(before, &after, context));
    moved.steps = steps;
    Ok((after, moved))
}

/// When what is set aside by book goes back.
fn held_until_ms(invoice: &Invoice) -> Option<i64> {
    let held = invoice.payments.iter().filter(|paid| paid.is_authorized());
    held.filter_map(|paid| paid.held_until_ms).min()
}

/// What is to be asked of the node, and when.
fn jobs(before: &Invoice, after: &Invoice, context: &Context<'_>) -> Vec<Step> {
    let waits = |invoice: &Invoice| invoice.payments.iter().any(InvoicePayment::waits);
    let mut jobs = Vec::new();
    match (waits(before), waits(after)) {
        (false, true) => jobs.push(later(CHECK_JOB, after, context.check_at_ms)),
        (true, false) => jobs.push(no_more(CHECK_JOB, after)),
        _ => {}
    }
    match (held_until_ms(before), held_until_ms(after)) {
        (None, Some(until_ms)) => jobs.push(later(HOLD_JOB, after, until_ms)),
        (Some(_), None) => jobs.push(no_more(HOLD_JOB, after)),
        _ => {}
    }
    if after.state == InvoiceState::Settled && after.on_chain.is_none() {
        jobs.push(no_more(EXPIRE_JOB, after));
    }
    let wants_rest = after.state == InvoiceState::New && after.wants_lightning();
    if wants_rest && after.payable_rail().is_none() {
        jobs.push(later(RAIL_JOB, after, context.now_ms));
    }
    jobs
}

/// Where the money of a payment comes from, for the books; `None` where it was never in them.
fn source(invoice: &Invoice, rail: Rail, context: &Context<'_>) -> Option<Account> {
    match rail {
        Rail::Lightning | Rail::Bolt12 => Some(Account::node_channels()),
        Rail::OnChain => {
            let custody = invoice.on_chain.as_ref().map(|rail| rail.custody);
            (custody != Some(Custody::Merchant)).then(Account::node_onchain)
        }
        Rail::Book => context.payer,
    }
}

fn carry_out(
    step: Move,
    after: &mut Invoice,
    context: &Context<'_>,
    moved: &mut Moved,
) -> Result<(), Error> {
    let steps = &mut moved.steps;
    match step {
        Move::Claim(at) => steps.push(Step::Claim {
            name: claim_name(after.payments[at].rail, &after.payments[at].reference),
            by: after.id.to_string(),
        }),
        Move::Hold(at) => {
            let parts = parts(after, at, context)?;
            after.payments[at].holds = parts.entries;
            // No timeout: only what became of the claim can end it.
            steps.extend(parts.transfers.into_iter().map(|transfer| {
                Step::Hold(NewHold {
                    transfer,
                    expires_at_ms: None,
                    usage: Vec::new(),
                })
            }));
        }
        Move::Capture(at) => capture(after, at, context, moved)?,
        Move::Release(at) => {
            let holds = std::mem::take(&mut after.payments[at].holds);
            let holds = [holds.counted, holds.surplus, holds.currency];
            let holds = holds.into_iter().flatten();
            steps.extend(holds.map(|hold| Step::Release { hold }));
        }
        Move::Book(at) => book(after, at, context, moved)?,
        Move::Undo(at, booked) => undo(after, at, booked, context, moved)?,
        Move::Suspend(at, amount_msat) => {
            if let Ok(hash) = after.payments[at].reference.parse() {
                let id = (context.new_id)()?;
                steps.extend(suspend(id, amount_msat, hash, context.now_ms)?);
            }
        }
    }
    Ok(())
}

struct Parts {
    entries: PaymentEntries,
    transfers: Vec<NewTransfer>,
}

/// The transfers of a payment: what counts of it to whoever the invoice is of, and the surplus to
/// where the rules say.
fn parts(invoice: &Invoice, at: usize, context: &Context<'_>) -> Result<Parts, Error> {
    let payment = &invoice.payments[at];
    let (mut entries, mut transfers) = (PaymentEntries::default(), Vec::new());
    let Some(debit) = source(invoice, payment.rail, context) else {
        return Ok(Parts { entries, transfers });
    };
    let mut transfer = |debit: Account, credit: Account, amount: i64, kind: TransferKind| {
        let id = (context.new_id)()?;
        transfers.push(NewTransfer {
            id,
            debit,
            credit,
            amount,
            kind,
            reference: invoice.id.to_string(),
            credit_ceiling: context.ceiling_of(credit),
        });
        Ok::<_, Error>(id)
    };
    if payment.counted_msat > 0 {
        let (counted_msat, kind) = (payment.counted_msat, invoice.purpose.transfer_kind());
        let own = context.credit;
        match own.asset() {
            Asset::Btc => entries.counted = Some(transfer(debit, own, counted_msat, kind)?),
            // A card in the same currency pays the price itself: nothing is exchanged.
            unit if debit.asset() == unit => {
                let amount = in_currency(invoice, counted_msat)?;
                entries.currency = Some(transfer(debit, own, amount, kind)?);
            }
            // The operator takes the bitcoin, and puts the price on the card.
            unit => {
                let bitcoin = Account::exchange(Asset::Btc);
                entries.counted = Some(transfer(debit, bitcoin, counted_msat, kind)?);
                let amount = in_currency(invoice, counted_msat)?;
                entries.currency = Some(transfer(Account::exchange(unit), own, amount, kind)?);
            }
        }
    }
    let surplus_msat = payment.surplus_msat();
    let credit = context.surplus;
    if surplus_msat > 0 && credit != Account::suspense() && !payment.suspended {
        let surplus = transfer(debit, credit, surplus_msat, TransferKind::Surplus)?;
        entries.surplus = Some(surplus);
    }
    Ok(Parts { entries, transfers })
}

fn capture(
    after: &mut Invoice,
    at: usize,
    context: &Context<'_>,
    moved: &mut Moved,
) -> Result<(), Error> {
    let holds = std::mem::take(&mut after.payments[at].holds);
    let payment = &after.payments[at];
    let on_card = match holds.currency {
        Some(_) => in_currency(after, payment.counted_msat)?,
        None => 0,
    };
    let amounts = [
        (holds.counted, payment.counted_msat),
        (holds.surplus, payment.surplus_msat()),
        (holds.currency, on_card),
    ];
    let mut entries = [None, None, None];
    for (entry, (hold, amount)) in entries.iter_mut().zip(amounts) {
        let Some(hold) = hold else { continue };
        if amount <= 0 {
            moved.steps.push(Step::Release { hold });
            continue;
        }
        let id = (context.new_id)()?;
        *entry = Some(id);
        moved.steps.push(Step::Capture {
            hold,
            id,
            amount,
            release_rest: true,
        });
    }
    let skimmed_msat = after.payments[at].skimmed_msat;
    if skimmed_msat > 0 {
        moved.steps.push(Step::Transfer(NewTransfer {
            id: (context.new_id)()?,
            debit: Account::routing_fees(),
            credit: Account::node_channels(),
            amount: skimmed_msat,
            kind: TransferKind::LiquidityFee,
            reference: after.id.to_string(),
            credit_ceiling: None,
        }));
    }
    let [counted, surplus, currency] = entries;
    let mut entries = PaymentEntries {
        counted,
        surplus,
        currency,
        spread: None,
    };
    take_shares(after, at, &mut entries, context, moved)?;
    after.payments[at].transfers = entries;
    Ok(())
}

/// What goes on a card in a currency for what counts of a payment: all of the price for all of it.
fn in_currency(invoice: &Invoice, counted_msat: i64) -> Result<i64, Error> {
    let Some(Price::Fiat { minor_units, .. }) = invoice.price else {
        return Ok(0);
    };
    Ok(exchange::share_down(
        minor_units,
        counted_msat,
        invoice.amount_msat,
    )?)
}

/// Books what the operator keeps of what was just booked, where the quote says so, and what the
/// owner owes. What is paid to the operator itself is all its own.
fn take_shares(
    invoice: &Invoice,
    at: usize,
    entries: &mut PaymentEntries,
    context: &Context<'_>,
    moved: &mut Moved,
) -> Result<(), Error> {
    if entries.counted.is_none() || invoice.purpose == InvoicePurpose::Plain {
        return Ok(());
    }
    let counted_msat = invoice.payments[at].counted_msat;
    let kept_msat = exchange::spread(invoice.quote.as_ref(), counted_msat)?;
    let from = match entries.currency {
        Some(_) => Account::exchange(Asset::Btc),
        None => context.credit,
    };
    let id = (context.new_id)()?;
    let kept = exchange::take_spread(from, kept_msat, id, &invoice.id.to_string());
    entries.spread = kept.as_ref().map(|_| id);
    moved.steps.extend(kept);
    // A surplus that is the owner's has come in as well: where what was spent of it vanished and
    // counts anew, it is owed, and not there to be spent a second time.
    let payment = &invoice.payments[at];
    let is_owners = entries.surplus.is_some() && context.surplus == context.credit;
    let surplus_msat = if is_owners { payment.surplus_msat() } else { 0 };
    recover(
        invoice,
        counted_msat.saturating_add(surplus_msat),
        context,
        moved,
    )
}

fn book(
    after: &mut Invoice,
    at: usize,
    context: &Context<'_>,
    moved: &mut Moved,
) -> Result<(), Error> {
    let Parts {
        mut entries,
        transfers,
    } = parts(after, at, context)?;
    moved
        .steps
        .extend(transfers.into_iter().map(Step::Transfer));
    take_shares(after, at, &mut entries, context, moved)?;
    if source(after, after.payments[at].rail, context).is_none() {
        moved.steps.extend(own_wallet::owe(after, at, context)?);
    }
    let payment = &after.payments[at];
    let surplus_msat = payment.surplus_msat();
    let is_ours = source(after, payment.rail, context).is_some();
    // Where no rule takes it, a person has to; what is in a merchant's own wallet is the
    // merchant's to give back.
    let reference = payment.reference.as_str();
    if surplus_msat > 0 && entries.surplus.is_none() && is_ours {
        let (id, now_ms) = ((context.new_id)()?, context.now_ms);
        let suspended = match (reference.parse(), reference.parse()) {
            (Ok(outpoint), _) => suspend_on_chain(id, surplus_msat, outpoint, now_ms),
            (_, Ok(hash)) => suspend(id, surplus_msat, hash, now_ms),
            _ => {
                let reason = format!("{reference} is no payment");
                return Err(StoreError::Corrupt { reason }.into());
            }
        };
        moved.steps.extend(suspended?);
        moved.steps.push(emit(
            "payment.unmatched",
            payment.reference.clone(),
            &surplus_msat,
        )?);
        entries.surplus = Some(id);
    }
    after.payments[at].transfers = entries;
    Ok(())
}

/// What the owner owes for a credit that vanished is taken out of what comes in, as far as both
/// reach.
fn recover(
    invoice: &Invoice,
    amount_msat: i64,
    context: &Context<'_>,
    moved: &mut Moved,
) -> Result<(), Error> {
    let id = (context.new_id)()?;
    let reference = invoice.id.to_string();
    if let Some(merchant) = invoice.purpose.merchant() {
        let debt = settlement::recover(merchant, amount_msat, id, reference);
        moved.debts.extend(debt);
        return Ok(());
    }
    let is_bitcoin = context.credit.asset() == Asset::Btc;
    if let Some(owed) = context.owes.filter(|_| is_bitcoin && amount_msat > 0) {
        // Before what is left goes on, where the card is out of use.
        moved.steps.push(Step::TransferUpTo(NewTransfer {
            id,
            debit: context.credit,
            credit: owed,
            amount: amount_msat,
            kind: TransferKind::Recovered,
            reference,
            credit_ceiling: None,
        }));
    }
    Ok(())
}

/// What the chain took away is taken back as far as its owner still has it; the rest is owed.
fn undo(
    after: &mut Invoice,
    at: usize,
    booked: [i64; 2],
    context: &Context<'_>,
    moved: &mut Moved,
) -> Result<(), Error> {
    let PaymentEntries {
        counted,
        surplus,
        spread,
        ..
    } = std::mem::take(&mut after.payments[at].transfers);
    own_wallet::forgive(after, at, booked[0], context, moved)?;
    let kept_msat = exchange::spread(after.quote.as_ref(), booked[0])?;
    let surplus_owner = match after.payments[at].suspended {
        true => None,
        false => owed_by(context.surplus),
    };
    let undone = [
        // First, so that its owner has it for what follows.
        (spread, kept_msat, None),
        (counted, booked[0], context.owes),
        (surplus, booked[1], surplus_owner),
    ];
    for (of, amount, receivable) in undone {
        let (Some(of), true) = (of, amount > 0) else {
            continue;
        };
        let shortfall = match receivable {
            Some(receivable) => Some(Shortfall {
                id: (context.new_id)()?,
                receivable,
            }),
            None => None,
        };
        moved.steps.push(Step::Reverse(NewReversal {
            id: (context.new_id)()?,
            of,
            amount,
            shortfall,
            usage: Vec::new(),
        }));
    }
    Ok(())
}
