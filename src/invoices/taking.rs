//! Taking payments: decide, commit, claim, book.

use super::model::{Custody, Invoice, InvoicePurpose, InvoiceState};
use super::moved::{Moved, brought_back, captured};
use super::options::SurplusTo;
use super::payment::{InvoicePayment, InvoicePaymentState, Rail};
use super::rules::{self, Arrival, Fact, Moment, Offer, Outcome, Verdict};
use super::steps::{self, Ceilings, Context};
use super::{CHECK_JOB, EXPIRE_JOB, INVOICES, Invoices, MONITOR_JOB, by_book, guard, upgraded};
use crate::Error;
use crate::cards;
use crate::core::{Core, Loaded, emit};
use crate::ids::{InvoiceId, TransferId};
use crate::ledger::{Account, Refusal, Step};
use crate::lightning::{LightningError, OfferId, PaymentDirection, PaymentHash, PaymentState};
use crate::rates::price_in_msat;
use crate::receipts;
use crate::settlement;
use crate::treasury;

/// When a fact is judged. The rate is asked only where a rule needs it; one that is not known
/// takes nothing.
pub(super) async fn moment(core: &Core, invoice: &Invoice) -> Moment {
    let now_ms = core.clock.now_ms();
    let needs_rate = invoice.rules().accept_late_within_per_mille.is_some()
        && now_ms >= invoice.expires_at_ms
        && invoice.quote.is_some();
    let mut rate_moved_per_mille = None;
    if let Some(price) = invoice.price.as_ref().filter(|_| needs_rate) {
        let (rates, policy) = (core.rates.as_ref(), core.settings.rates);
        if let Ok((now_msat, _)) = price_in_msat(rates, price, policy, now_ms).await {
            rate_moved_per_mille = moved_per_mille(invoice.amount_msat, now_msat);
        }
    }
    Moment {
        now_ms,
        books_ms: core.commit_time_ms(),
        rate_moved_per_mille,
    }
}

/// By how many thousandths of the first the second is another, rounded up.
fn moved_per_mille(then_msat: i64, now_msat: i64) -> Option<u32> {
    let (then, now) = (i128::from(then_msat), i128::from(now_msat));
    let moved = ((now - then).abs() * 1_000 + then - 1).checked_div(then)?;
    Some(u32::try_from(moved).unwrap_or(u32::MAX))
}

/// The steps of what a fact comes to, with the guards of whoever gets the money.
pub(super) async fn decide(
    core: &Core,
    invoice: &Loaded<Invoice>,
    outcome: Outcome,
    new_id: &(dyn Fn() -> Result<TransferId, Error> + Send + Sync),
) -> Result<(Invoice, Vec<Step>), Error> {
    let (after, moved) = decide_of(core, invoice, outcome, None, new_id).await?;
    Ok((after, moved.all()))
}

/// The same, where `payer` pays by book, and its debts apart.
pub(super) async fn decide_of(
    core: &Core,
    invoice: &Loaded<Invoice>,
    outcome: Outcome,
    payer: Option<Account>,
    new_id: &(dyn Fn() -> Result<TransferId, Error> + Send + Sync),
) -> Result<(Invoice, Moved), Error> {
    let now_ms = core.clock.now_ms();
    let mut moves = outcome.moves.iter();
    let takes = moves.any(|step| matches!(step, rules::Move::Hold(_) | rules::Move::Book(_)));
    let mut moves = outcome.moves.iter();
    let refusable = payer.is_some() || moves.any(|step| matches!(step, rules::Move::Hold(_)));
    let (mut ceilings, mut guards, mut onward) = (Ceilings::default(), Vec::new(), Vec::new());
    // What has arrived on chain is booked, whatever the card is by now.
    if takes && refusable {
        (ceilings, guards) = admitted(core, &invoice.value, &outcome, payer).await?;
    }
    let mut credit = cards::account_now(core, invoice.value.purpose.account()).await?;
    let owes = steps::owed_by(credit);
    let surplus = cards::account_now(core, invoice.value.surplus_account()).await?;
    // What comes to a card that went out of use meanwhile goes on from there.
    for at in captured(&outcome) {
        let holds = &invoice.value.payments[at].holds;
        // What is taken of it is taken where it comes, before it goes on.
        if let (Some(hold), None) = (holds.counted, holds.currency)
            && let Some(found) = core.store.hold(hold).await?
        {
            credit = found.hold.transfer.credit;
        }
        for hold in [holds.counted, holds.surplus, holds.currency]
            .into_iter()
            .flatten()
        {
            onward.extend(cards::onward_to_hold(core, hold).await?);
        }
    }
    if takes {
        onward.extend(cards::onward(core, credit).await?);
        onward.extend(cards::onward(core, surplus).await?);
    }
    let brought_back = brought_back(core, invoice, &outcome, &mut guards, &mut onward).await?;
    let receipt = receipts::owed(core, &invoice.value, &outcome.after).await?;
    let payers = by_book::payers_end(core, &invoice.value, &outcome.moves).await?;
    let lows = looks(core, &invoice.value, &outcome.moves).await?;
    let own_wallet_bps = own_wallet_bps(core, &invoice.value, takes).await?;
    let context = Context {
        new_id,
        credit,
        surplus,
        now_ms,
        check_at_ms: core.ask_again_at(now_ms),
        ceilings,
        payer,
        owes,
        brought_back,
        own_wallet_bps,
    };
    let (after, mut moved) = steps::steps(invoice, outcome, &context)?;
    moved.steps.extend(receipt);
    for more in [guards, onward, payers, lows] {
        moved.steps.extend(more);
    }
    Ok((after, moved))
}

/// What has vanished may leave a card low.
async fn looks(core: &Core, invoice: &Invoice, moves: &[rules::Move]) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    if moves.iter().any(|it| matches!(it, rules::Move::Undo(..))) {
        let own = invoice.purpose.account();
        for account in [own, cards::account_now(core, own).await?] {
            steps.extend(cards::look_at_balance(core, account, invoice.id).await?);
        }
    }
    Ok(steps)
}

/// Whoever gets the money can: the most that may come to the cards, and what holds in the commit. The
/// card of a surplus is asked where there is one: what is exact comes whatever became of that card.
async fn admitted(
    core: &Core,
    invoice: &Invoice,
    outcome: &Outcome,
    payer: Option<Account>,
) -> Result<(Ceilings, Vec<Step>), Error> {
    let (mut ceilings, mut guards) = (Ceilings::default(), Vec::new());
    if let InvoicePurpose::TopUp { card } = invoice.purpose {
        let address = invoice.top_up_address.as_deref();
        (ceilings.counted, guards) = cards::admit_top_up(core, card, address, payer).await?;
    }
    if let Some(SurplusTo::Card { card }) = invoice.rules().surplus
        && has_surplus(outcome)
    {
        let card = cards::current(core, card).await?.value.id;
        let card = cards::load_active(core, card).await?;
        cards::require_bitcoin(&card.value)?;
        let (ceiling, held) = cards::programs::ceiling(core, &card.value).await?;
        ceilings.surplus = ceiling;
        guards.push(cards::guard(&card));
        guards.extend(held);
    }
    Ok((ceilings, guards))
}

/// True where a rule says whereto something of what is taken goes that was not asked for.
fn has_surplus(outcome: &Outcome) -> bool {
    outcome.moves.iter().any(|step| match step {
        rules::Move::Hold(at) | rules::Move::Book(at) => {
            let paid = &outcome.after.payments[*at];
            paid.surplus_msat() > 0 && !paid.suspended
        }
        _ => false,
    })
}

/// What the operator keeps of what is paid to the wallet of the invoice's merchant, as its terms
/// are when it arrives.
async fn own_wallet_bps(core: &Core, invoice: &Invoice, takes: bool) -> Result<u32, Error> {
    let custody = invoice.on_chain.as_ref().map(|rail| rail.custody);
    match invoice.purpose.merchant() {
        Some(merchant) if takes && custody == Some(Custody::Merchant) => {
            let merchant = settlement::load_merchant(core, merchant).await?;
            Ok(merchant.value.terms.own_wallet_bps())
        }
        _ => Ok(0),
    }
}

/// The steps that end the job which asks about an invoice's payments, where none waits: they hold
/// the invoice as it was read.
fn asks_no_more(id: InvoiceId, invoice: Option<&Loaded<Invoice>>) -> Option<Vec<Step>> {
    let mut payments = invoice.iter().flat_map(|found| &found.value.payments);
    if payments.any(InvoicePayment::waits) {
        return None;
    }
    let mut steps: Vec<Step> = invoice.map(guard).into_iter().collect();
    let (kind, object) = (CHECK_JOB, id.to_string());
    steps.push(Step::Done { kind, object });
    Some(steps)
}

impl Invoices {
    /// A fact becomes a commit, decided again when the invoice changed meanwhile.
    pub(super) async fn happen(&self, id: InvoiceId, fact: &Fact<'_>) -> Result<(), Error> {
        let core = &self.core;
        let decided = core.settle(|| async move {
            let Some(invoice) = self.load(id).await? else {
                return Ok(None);
            };
            let moment = moment(core, &invoice.value).await;
            let outcome = rules::transition(&invoice.value, fact, moment);
            let new_id = || core.new_id(TransferId::from_parts);
            let (_, batch) = decide(core, &invoice, outcome, &new_id).await?;
            Ok((!batch.is_empty()).then_some(batch))
        });
        decided.await.map(drop)
    }

    /// A payment waits: decide, commit, then claim or give it back. Called again for the same
    /// payment, it comes to the same end.
    pub(crate) async fn claimable(
        &self,
        hash: PaymentHash,
        amount_msat: i64,
        blocks_left: Option<u32>,
    ) -> Result<(), Error> {
        if let Some(invoice) = self.by_hash(hash).await? {
            let deadline_height = match blocks_left.filter(|_| invoice.value.options.hold) {
                Some(blocks) => {
                    let height = self.core.node()?.best_block_height().await?;
                    height.map(|height| height.saturating_add(blocks))
                }
                None => None,
            };
            let mut rails = invoice.value.lightning.iter();
            let skimmed_msat = match rails.find(|rail| rail.payment_hash == hash) {
                Some(rail) if rail.just_in_time => self.core.node()?.skimmed_fee_msat(hash).await?,
                _ => 0,
            };
            let offer = Fact::Offered(Offer {
                rail: Rail::Lightning,
                reference: hash.to_string(),
                amount_msat: amount_msat.saturating_add(skimmed_msat),
                blocks_left,
                deadline_height,
                skimmed_msat,
                held_until_ms: None,
            });
            match self.happen(invoice.value.id, &offer).await {
                Ok(()) => {}
                // A guard said no (the card is full, the hash is taken by book): it goes back.
                Err(Error::Ledger(refusal)) if !refusal.should_decide_again() => {}
                Err(Error::Card(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.answer(hash, amount_msat).await
    }

    /// What stands in the books now says what is done with the payment.
    async fn answer(&self, hash: PaymentHash, amount_msat: i64) -> Result<(), Error> {
        let node = self.core.node()?;
        let invoice = self.by_hash(hash).await?.map(|found| found.value);
        let known = invoice.as_ref().and_then(|invoice| {
            let payment = invoice.payment(&hash.to_string())?;
            let same = payment.rail == Rail::Lightning && payment.claimable_msat() == amount_msat;
            same.then_some((invoice, payment.state))
        });
        match known {
            Some((invoice, InvoicePaymentState::Pending)) => {
                let preimage = self.preimage_of(invoice, hash);
                Ok(node.claim(hash, preimage, amount_msat).await?)
            }
            Some((_, InvoicePaymentState::Authorized)) => Ok(()),
            Some((invoice, InvoicePaymentState::Returning)) => {
                self.give_back(invoice.id, hash).await
            }
            _ => self.fail(hash).await,
        }
    }

    async fn fail(&self, hash: PaymentHash) -> Result<(), Error> {
        match self.core.node()?.fail(hash).await {
            // The node knows nothing of it: there is nothing to give back.
            Ok(()) | Err(LightningError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A payment that was set aside goes back to its sender, and is then written off.
    pub(super) async fn give_back(&self, id: InvoiceId, hash: PaymentHash) -> Result<(), Error> {
        self.fail(hash).await?;
        let reference = hash.to_string();
        self.happen(id, &Fact::Returned { reference }).await
    }

    /// Money arrived: book it where it belongs, or in suspense.
    pub(crate) async fn received(&self, hash: PaymentHash, amount_msat: i64) -> Result<(), Error> {
        let core = &self.core;
        let booked = core.settle(|| async move {
            let invoice = self.by_hash(hash).await?;
            let arrival = rules::arrival(hash, invoice.as_ref().map(|invoice| &invoice.value));
            match (arrival, invoice) {
                (Arrival::Unmatched { claim }, _) => self.unmatched(hash, amount_msat, claim),
                (Arrival::Accepted, Some(invoice)) => {
                    let fact = Fact::Arrived {
                        reference: hash.to_string(),
                        amount_msat,
                    };
                    let moment = moment(core, &invoice.value).await;
                    let outcome = rules::transition(&invoice.value, &fact, moment);
                    let new_id = || core.new_id(TransferId::from_parts);
                    let (_, batch) = decide(core, &invoice, outcome, &new_id).await?;
                    Ok(Some(batch))
                }
                _ => Ok(None),
            }
        });
        match booked.await {
            // Told a second time.
            Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Money came by an offer: the node took it by itself, so that it is booked as it is, like
    /// money on chain. What no rule takes is in suspense.
    pub(crate) async fn offer_paid(
        &self,
        offer: OfferId,
        hash: PaymentHash,
        amount_msat: i64,
    ) -> Result<(), Error> {
        let core = &self.core;
        let booked = core.settle(|| async move {
            let key = offer.to_string();
            let found = core.find::<Invoice>(INVOICES, "offer", &key).await?;
            let Some(invoice) = found.map(upgraded) else {
                return self.unmatched(hash, amount_msat, rules::payment_claim(hash));
            };
            let fact = Fact::PaidByOffer {
                reference: hash.to_string(),
                amount_msat,
            };
            let moment = moment(core, &invoice.value).await;
            let outcome = rules::transition(&invoice.value, &fact, moment);
            if let Verdict::Refused(_) = outcome.verdict {
                return self.unmatched(hash, amount_msat, rules::payment_claim(hash));
            }
            let new_id = || core.new_id(TransferId::from_parts);
            let (_, batch) = decide(core, &invoice, outcome, &new_id).await?;
            Ok((!batch.is_empty()).then_some(batch))
        });
        match booked.await {
            // Told a second time.
            Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => Ok(()),
            other => other.map(drop),
        }
    }

    fn unmatched(
        &self,
        hash: PaymentHash,
        amount_msat: i64,
        claim: String,
    ) -> Result<Option<Vec<Step>>, Error> {
        let id = self.core.new_id(TransferId::from_parts)?;
        let now_ms = self.core.clock.now_ms();
        let mut batch = vec![
            Step::Claim {
                name: claim,
                by: id.to_string(),
            },
            emit("payment.unmatched", hash.to_string(), &amount_msat)?,
        ];
        batch.extend(treasury::suspend(id, amount_msat, hash, now_ms)?);
        Ok(Some(batch))
    }

    /// The job that ends an invoice's time.
    pub(crate) async fn expire(&self, id: InvoiceId) -> Result<(), Error> {
        self.time_over(id, EXPIRE_JOB, |invoice| invoice.expires_at_ms)
            .await
    }

    /// The job that ends the time in which an invoice's payments are followed.
    pub(crate) async fn stop_monitoring(&self, id: InvoiceId) -> Result<(), Error> {
        self.time_over(id, MONITOR_JOB, Invoice::monitored_until_ms)
            .await
    }

    async fn time_over(
        &self,
        id: InvoiceId,
        kind: &'static str,
        when: fn(&Invoice) -> i64,
    ) -> Result<(), Error> {
        let core = &self.core;
        let decided = core.settle(|| async move {
            let done = Step::Done {
                kind,
                object: id.to_string(),
            };
            let Some(invoice) = self.load(id).await? else {
                return Ok(Some(vec![done]));
            };
            let now_ms = core.clock.now_ms();
            let due_at_ms = when(&invoice.value);
            if now_ms < due_at_ms {
                return Ok(Some(vec![steps::later(kind, &invoice.value, due_at_ms)]));
            }
            let moment = Moment {
                now_ms,
                books_ms: core.commit_time_ms(),
                rate_moved_per_mille: None,
            };
            let outcome = rules::transition(&invoice.value, &Fact::TimeOver, moment);
            let new_id = || core.new_id(TransferId::from_parts);
            let (_, mut batch) = decide(core, &invoice, outcome, &new_id).await?;
            batch.push(done);
            Ok(Some(batch))
        });
        decided.await.map(drop)
    }

    /// The job that asks what became of payments that are being taken or set aside.
    pub(crate) async fn check(&self, id: InvoiceId) -> Result<(), Error> {
        // A payment may come while this is decided, and its job is this one.
        let ended = self
            .core
            .settle(|| async move { Ok(asks_no_more(id, self.load(id).await?.as_ref())) });
        if ended.await?.is_some() {
            return Ok(());
        }
        self.core.node()?;
        let invoice = self.require(id).await?.value;
        let at_ms = self.core.ask_again_at(invoice.created_at_ms);
        let later = steps::later(CHECK_JOB, &invoice, at_ms);
        self.core.commit(vec![later]).await?;
        self.take_again(&invoice).await
    }

    /// Claims payments once more, or books them if the node has them; those that were set aside go
    /// back when their deadline comes near.
    async fn take_again(&self, invoice: &Invoice) -> Result<(), Error> {
        self.book_if_arrived(invoice).await?;
        let Some(invoice) = self.load(invoice.id).await?.map(|found| found.value) else {
            return Ok(());
        };
        for payment in &invoice.payments {
            let Some(hash) = payment.lightning_hash() else {
                continue;
            };
            match payment.state {
                InvoicePaymentState::Pending => {
                    let preimage = self.preimage_of(&invoice, hash);
                    let node = self.core.node()?;
                    node.claim(hash, preimage, payment.claimable_msat()).await?;
                }
                InvoicePaymentState::Authorized => {
                    self.look_at_deadline(&invoice).await?;
                }
                InvoicePaymentState::Returning => self.give_back(invoice.id, hash).await?,
                InvoicePaymentState::Settled | InvoicePaymentState::Void => {}
            }
        }
        Ok(())
    }

    /// Books payments that the node's record says have arrived.
    pub(super) async fn book_if_arrived(&self, invoice: &Invoice) -> Result<(), Error> {
        for payment in invoice.payments.iter().filter(|payment| payment.waits()) {
            let Some(hash) = payment.lightning_hash() else {
                continue;
            };
            let record = self.core.node()?.payment(hash).await?;
            let arrived = record.filter(|record| {
                let inbound = record.direction == PaymentDirection::Inbound;
                inbound && record.state == PaymentState::Succeeded
            });
            // Without an amount in the record, the event that waits in the queue has it.
            if let Some(Some(amount_msat)) = arrived.map(|record| record.amount_msat) {
                self.received(hash, amount_msat).await?;
            }
        }
        Ok(())
    }

    /// After a start: payments that were being taken are taken again; a part of one that waits for
    /// the rest has its job. Events that wait in the
    /// node's queue say the same; whichever comes second changes nothing. One that cannot be
    /// dealt with does not keep the others waiting; its job stays and tries again.
    pub(crate) async fn reconcile(&self) -> Result<Option<Error>, Error> {
        let (mut after, mut problem) = (None, None);
        loop {
            let state = rules::state_key(InvoiceState::Processing);
            let page = self
                .core
                .list_each::<Invoice>(INVOICES, "state", state, after, 100)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(problem);
            };
            after = Some(last.clone());
            for (_, invoice) in page {
                let taken = match invoice {
                    Ok(invoice) => self.take_again(&invoice.upgraded()).await,
                    Err(unreadable) => Err(unreadable),
                };
                problem = taken.err().or(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_of_an_invoice_ends_only_as_long_as_nothing_came_meanwhile() {
        let id = InvoiceId::from_parts(1, [0; 10]);
        let value: Invoice = serde_json::from_value(serde_json::json!({
            "id": id, "purpose": {"kind": "plain"}, "amount_msat": 1_000, "quote": null,
            "description": "", "payment_hash": "00".repeat(32), "bolt11": "", "state": "new",
            "created_at_ms": 0, "expires_at_ms": 1_000, "received_msat": 0,
        }))
        .unwrap();
        let mut found = Loaded { version: 7, value };
        let steps = asks_no_more(id, Some(&found)).unwrap();
        assert!(
            matches!(
                &steps[..],
                [Step::Require { version: 7, .. }, Step::Done { .. }]
            ),
            "{steps:?}"
        );
        let state = InvoicePaymentState::Pending;
        let paid = InvoicePayment::new(Rail::Lightning, "one".to_owned(), 1, state, 0);
        found.value.payments.push(paid);
        assert_eq!(asks_no_more(id, Some(&found)), None);
    }
}
