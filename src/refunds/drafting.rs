//! From what is asked for to what a refund comes to, whatever way it goes.

use super::model::{
    CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundPosting, RefundState, RefundTo,
};
use super::rules::{self, Due, Paid};
use super::{RefundError, Refunds, off_card};
use crate::Error;
use crate::cards::{self, Left};
use crate::core::{Caller, Core, Loaded};
use crate::ids::RefundId;
use crate::invoices::{self, Invoice, InvoicePurpose, Refundable};
use crate::ledger::Step;
use crate::money::Quote;
use crate::payments::{Holds, rules::share};
use crate::rates::{self, RatePolicy};
use crate::rewards::PointsBack;
use crate::{settlement, treasury};

/// A refund that goes nowhere yet, and what its commit brings besides.
pub(super) struct Draft {
    pub(super) refund: Refund,
    pub(super) invoice: Loaded<Invoice>,
    /// What was asked for in a currency at the rate of now.
    pub(super) asked: Option<(i64, Quote)>,
    /// Guards, suspense that is given to its owner, points that are set aside.
    pub(super) steps: Vec<Step>,
}

/// What an invoice's refund would take, before it goes anywhere.
pub(super) struct Reckoned {
    pub(super) came: Refundable,
    /// What of all that came was beyond what was due, whoever may pay it back.
    pub(super) surplus_msat: i64,
    pub(super) paid: Paid,
    pub(super) due: Due,
}

/// Whoever may sell for the merchant; of what is on a card or the operator's own, the issuer.
pub(super) fn admit(caller: &Caller, purpose: InvoicePurpose) -> Result<(), Error> {
    match purpose.merchant() {
        Some(merchant) => caller.require_seller(merchant)?,
        None => caller.require_issuer()?,
    }
    Ok(())
}

/// Whoever sells does not say what the operator's money is spent on.
fn admit_asked(
    caller: &Caller,
    purpose: InvoicePurpose,
    bearer: RefundFeeBearer,
) -> Result<(), Error> {
    admit(caller, purpose)?;
    if bearer == RefundFeeBearer::Operator {
        caller.require_issuer()?;
    }
    Ok(())
}

/// Whoever may ask for a refund that is known: what is the issuer's alone to pay back, is the
/// issuer's alone to say where to.
pub(super) fn admit_known(caller: &Caller, refund: &Refund) -> Result<(), Error> {
    admit_asked(caller, refund.purpose, refund.fee_bearer)?;
    if refund.posting.to_take_msat > 0 {
        caller.require_issuer()?;
    }
    Ok(())
}

impl Refunds {
    /// What is asked for comes to so much. What waits in suspense is given out by the issuer
    /// alone, so that for a till it is not there.
    pub(super) async fn reckon(
        &self,
        caller: &Caller,
        invoice: &Invoice,
        asked: RefundAmount,
    ) -> Result<Reckoned, Error> {
        let core = &self.core;
        rules::check_open(invoice)?;
        let mut came = invoices::refundable(core, invoice).await?;
        let surplus_msat = came.surplus_msat;
        if caller.require_issuer().is_err() {
            came.surplus_msat = came.surplus_msat.saturating_sub(came.waiting_msat());
            came.waiting.clear();
        }
        let flags = &invoice.flags;
        let paid = Paid {
            received_msat: came.owners_msat.saturating_add(came.waiting_msat()),
            surplus_msat: came.surplus_msat,
            sent_msat: flags.refunded_msat.saturating_add(flags.refunding_msat),
            covered_msat: flags.refund_covers_msat,
        };
        let quote = self.rate_now(invoice, asked).await?;
        let due = rules::due(invoice, &paid, asked, quote)?;
        Ok(Reckoned {
            came,
            surplus_msat,
            paid,
            due,
        })
    }

    async fn rate_now(
        &self,
        invoice: &Invoice,
        asked: RefundAmount,
    ) -> Result<Option<Quote>, Error> {
        let core = &self.core;
        let Some(currency) = rules::needs_rate(invoice, asked)? else {
            return Ok(None);
        };
        // Nobody earns by a refund.
        let policy = RatePolicy {
            spread: None,
            ..core.settings.rates
        };
        let seen = core.rates.rate(currency).await?;
        Ok(Some(rates::quote(
            currency,
            seen,
            policy,
            core.clock.now_ms(),
        )?))
    }

    /// The most that the route of `sent_msat` may cost, by the terms of whoever pays it.
    pub(super) async fn max_fee_msat(
        &self,
        purpose: InvoicePurpose,
        sent_msat: i64,
    ) -> Result<i64, Error> {
        let core = &self.core;
        Ok(match purpose.merchant() {
            Some(merchant) => {
                let merchant = settlement::load_merchant(core, merchant).await?;
                settlement::max_route_fee(&merchant.value.terms, sent_msat)?
            }
            None => {
                let terms = core.settings.card_payments;
                share(terms.route_base_msat, terms.route_bps, sent_msat)?
            }
        })
    }

    pub(super) async fn draft(
        &self,
        caller: &Caller,
        command: &CreateRefund,
    ) -> Result<Draft, Error> {
        let core = &self.core;
        let invoice = invoices::load(core, command.invoice).await?;
        let purpose = invoice.value.purpose;
        admit_asked(caller, purpose, command.fee_bearer)?;
        let payer = cards::account_now(core, purpose.account()).await?;
        let Reckoned {
            came,
            surplus_msat,
            paid,
            due,
        } = self.reckon(caller, &invoice.value, command.amount).await?;
        let id = core.new_id(RefundId::from_parts)?;
        let from_suspense_msat = match command.amount {
            // What waits there is what is to go back.
            RefundAmount::Everything | RefundAmount::Surplus => due.covers_msat,
            _ => paid.covered_msat + due.covers_msat - came.owners_msat,
        };
        let (payer, off_card) = off_card::source(&invoice.value, payer, &due, &command.to)?;
        let mut posting = RefundPosting::new(payer, Holds::new(core, 0, 0)?);
        posting.from_suspense_msat = from_suspense_msat.max(0);
        posting.uncounted_msat = rules::uncounted(&invoice.value, surplus_msat, due.covers_msat);
        let mut steps = match &command.to {
            // It goes when it is known where to.
            RefundTo::LightningAddress { .. } => {
                posting.to_take_msat = posting.from_suspense_msat.min(came.waiting_msat());
                Vec::new()
            }
            _ => given_out(core, &came, id, &mut posting)?,
        };
        let left = Left {
            part_msat: paid.received_msat - paid.covered_msat - due.covers_msat,
            whole_msat: paid.received_msat,
        };
        let (points, set_aside) = points_back(core, &invoice.value, left, id).await?;
        steps.extend(set_aside);
        let redeemed = points.iter().map(|back| back.redeemed_msat);
        let withheld_msat = redeemed.fold(0, i64::saturating_add);
        let max_fee_msat = match &command.to {
            // On chain it is known once the coins are chosen.
            RefundTo::Card { .. } | RefundTo::OnChain { .. } => 0,
            _ => self.max_fee_msat(purpose, due.amount_msat).await?,
        };
        let bearer = command.fee_bearer;
        posting.holds = Holds::new(core, 0, max_fee_msat)?;
        let sent_msat = rules::sent_msat(due.amount_msat, withheld_msat, bearer, max_fee_msat)?;
        let sent_msat = match &command.to {
            RefundTo::LightningAddress { .. } => rules::whole_sats(sent_msat)?,
            _ => sent_msat,
        };
        let asked = due.minor_units.zip(due.quote.clone());
        let refund = Refund {
            sent_msat,
            max_fee_msat,
            points,
            withheld_msat,
            off_card,
            ..new(command, (id, purpose), due, posting, core.clock.now_ms())
        };
        Ok(Draft {
            refund,
            invoice,
            asked,
            steps,
        })
    }
}

/// A refund that goes nowhere yet, at no cost.
fn new(
    command: &CreateRefund,
    (id, purpose): (RefundId, InvoicePurpose),
    due: Due,
    posting: RefundPosting,
    now_ms: i64,
) -> Refund {
    Refund {
        id,
        invoice: command.invoice,
        purpose,
        to: command.to.clone(),
        asked: command.amount,
        amount_msat: due.amount_msat,
        sent_msat: due.amount_msat,
        covers_msat: due.covers_msat,
        quote: due.quote,
        fee_bearer: command.fee_bearer,
        max_fee_msat: 0,
        fee_msat: None,
        payment_hash: None,
        bolt11: String::new(),
        ask: None,
        state: RefundState::Sending,
        reason: command.reason.clone(),
        detail: None,
        created_at_ms: now_ms,
        by_book: None,
        held_for: None,
        spend: None,
        on_card: None,
        off_card: None,
        points: Vec::new(),
        withheld_msat: 0,
        posting,
    }
}

/// As much of what waits in suspense as is needed goes to whoever the invoice is of, who pays it
/// back.
pub(super) fn given_out(
    core: &Core,
    came: &Refundable,
    id: RefundId,
    posting: &mut RefundPosting,
) -> Result<Vec<Step>, Error> {
    let (mut steps, mut needed_msat) = (Vec::new(), posting.from_suspense_msat);
    for item in &came.waiting {
        let part_msat = item.value.waiting_msat().min(needed_msat);
        if part_msat <= 0 {
            break;
        }
        needed_msat = needed_msat.saturating_sub(part_msat);
        posting.suspense.push(item.value.id);
        let payer = posting.payer;
        steps.extend(treasury::give_part(core, item, id, part_msat, payer)?);
    }
    Ok(steps)
}

/// The points that go back with a refund nobody counted on, once `covered_msat` of the invoice is
/// paid back.
#[cfg(feature = "chain")]
pub(super) async fn points_of(
    core: &Core,
    invoice: &Invoice,
    covered_msat: i64,
    id: RefundId,
) -> Result<(Vec<PointsBack>, Vec<Step>), Error> {
    let came = invoices::refundable(core, invoice).await?;
    let whole_msat = came.owners_msat.saturating_add(came.waiting_msat());
    if whole_msat <= 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let part_msat = whole_msat.saturating_sub(covered_msat).max(0);
    let left = Left {
        part_msat,
        whole_msat,
    };
    points_back(core, invoice, left, id).await
}

/// The points that go back of what cards of this engine paid, and the steps that set them aside.
async fn points_back(
    core: &Core,
    invoice: &Invoice,
    left: Left,
    id: RefundId,
) -> Result<(Vec<PointsBack>, Vec<Step>), Error> {
    let (mut points, mut steps) = (Vec::new(), Vec::new());
    for hash in invoice
        .payments
        .iter()
        .filter_map(|paid| paid.booked_hash())
    {
        let back = cards::set_points_aside(core, hash, left, &points, &id.to_string()).await?;
        if let Some((back, set_aside)) = back {
            points.push(back);
            steps.extend(set_aside);
        }
    }
    Ok((points, steps))
}

/// Taken by the amount alone, where whoever is paid back bears the fee.
pub(super) fn sent_of(
    due: &Due,
    bearer: RefundFeeBearer,
    max_fee_msat: i64,
) -> Result<i64, RefundError> {
    rules::sent_msat(due.amount_msat, 0, bearer, max_fee_msat)
}
