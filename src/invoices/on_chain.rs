//! Payments on chain: what the chain's watcher tells, put to the invoices.

use super::facts::{OnChainFact, OnChainPlace};
use super::given_address;
use super::model::{Custody, Invoice};
use super::payment::InvoicePaymentState;
use super::refunded::surplus_gone_on;
use super::rules::{self, Fact, Move, Outcome, Verdict};
use super::taking::{decide, moment};
use super::{INVOICES, Invoices};
use crate::Error;
use crate::access::Credential;
use crate::core::{Core, Loaded, SeenTip, emit};
use crate::ids::TransferId;
use crate::ledger::{Refusal, Step};
use crate::money::Price;
use crate::treasury;

impl Invoices {
    /// Tells what is true now of an output to an address of an invoice, for a host that watches
    /// the chain itself. Told twice it comes to the same, and so it does in any order: what is
    /// surplus beside another payment counts in its place when that one vanishes. But what somebody
    /// did meanwhile stays done: surplus that was assigned, was paid back (or is
    /// about to be, once its Lightning address has answered) or went on a card by rule is not taken
    /// from there, and the invoice stands unpaid with its `overpaid_msat` beside
    /// `reorged_msat`; and what had the confirmations that it needed stays settled when more comes
    /// and all of it together needs more. What was known more than a day before the invoice was made,
    /// or where the chain's height was known when its address was given out, what was in a block well
    /// below that, did not pay it: it is money at any other address, or, at one of the merchant's own,
    /// nothing of these books. True when the address is an invoice's; money at any other
    /// waits in suspense while a block has it. Issuer only.
    ///
    /// # Errors
    /// `access.*`, `money.not_positive`, `money.above_cap`, `invoice.bad_address`,
    /// `invoice.wrong_network`.
    pub async fn observe_on_chain(
        &self,
        credential: &Credential,
        address: &str,
        fact: &OnChainFact,
    ) -> Result<bool, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        let amount_msat = fact.amount_sat.saturating_mul(1_000);
        Price::Bitcoin { amount_msat }.validate()?;
        let address = given_address::canonical(address, &self.core.network)?;
        let (invoices, fact) = (self.clone(), fact.clone());
        self.core
            .detached(async move { invoices.seen_on_chain(&address, &fact, None).await })
            .await
    }

    /// What is true now of an output to an address. Told twice, or in any order, it comes to the
    /// same; true when the address is an invoice's. Money at an address of ours that is no
    /// invoice's, or of more payments than an invoice has, waits in suspense while a block has it.
    /// Guard: where it was seen at a tip, nobody has seen another one since.
    pub(crate) async fn seen_on_chain(
        &self,
        address: &str,
        fact: &OnChainFact,
        at: Option<SeenTip>,
    ) -> Result<bool, Error> {
        let core = &self.core;
        let found = self.by_address(address).await?;
        let mine = found.is_some();
        let decided = core.settle(|| async move {
            let still = match at {
                Some(tip) => Some(core.still_at(tip).await?),
                None => None,
            };
            let steps = self.decide_seen(address, fact).await?;
            Ok(steps.map(|steps| still.into_iter().chain(steps).collect()))
        });
        match decided.await {
            // Told a second time, and not an invoice's.
            Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => Ok(mine),
            other => other.map(|_| mine),
        }
    }

    async fn decide_seen(
        &self,
        address: &str,
        fact: &OnChainFact,
    ) -> Result<Option<Vec<Step>>, Error> {
        let core = &self.core;
        let Some(invoice) = self.by_address(address).await? else {
            return self.unmatched_on_chain(fact).await;
        };
        let moment = moment(core, &invoice.value).await;
        let mut gone_on = self.gone_on(&invoice.value, fact).await?;
        let (outcome, withdrawn) = loop {
            let told = Fact::OnChain(fact, &gone_on);
            let outcome = rules::transition(&invoice.value, &told, moment);
            if matches!(outcome.verdict, Verdict::Refused(_)) {
                let custody = invoice.value.on_chain.as_ref().map(|rail| rail.custody);
                if custody == Some(Custody::Merchant) {
                    return Ok(None);
                }
                return self.unmatched_on_chain(fact).await;
            }
            let withdrawn = withdrawn(core, &invoice.value, &outcome).await?;
            if withdrawn.is_empty() {
                break (outcome, withdrawn);
            }
            // What was given to somebody between the two looks is not taken from there.
            let now = self.gone_on(&invoice.value, fact).await?;
            if now == gone_on {
                break (outcome, withdrawn);
            }
            gone_on = now;
        };
        let new_id = || core.new_id(TransferId::from_parts);
        let (_, mut batch) = decide(core, &invoice, outcome, &new_id).await?;
        batch.extend(withdrawn);
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Whose surplus is not there to count, where a settled payment may vanish by this fact.
    async fn gone_on(&self, invoice: &Invoice, fact: &OnChainFact) -> Result<Vec<usize>, Error> {
        let known = invoice.payment(&fact.outpoint.to_string());
        match known.map(|payment| payment.state) {
            Some(InvoicePaymentState::Settled) => surplus_gone_on(&self.core, invoice).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn by_address(&self, address: &str) -> Result<Option<Loaded<Invoice>>, Error> {
        let found = self.core.find(INVOICES, "address", address).await?;
        Ok(found.map(super::upgraded))
    }

    /// Money that is no invoice's is in suspense as long as a block has it.
    async fn unmatched_on_chain(&self, fact: &OnChainFact) -> Result<Option<Vec<Step>>, Error> {
        let is_here = matches!(fact.place, OnChainPlace::Block { .. });
        let core = &self.core;
        let name = rules::claim_name(super::Rail::OnChain, &fact.outpoint.to_string());
        if let Some(by) = core.store.claim(&name).await? {
            // Whose an invoice's is, is the invoice's to say.
            let Ok(first) = by.parse() else {
                return Ok(None);
            };
            let steps = treasury::follow(core, first, fact.outpoint, is_here).await?;
            return Ok((!steps.is_empty()).then_some(steps));
        }
        if !is_here {
            return Ok(None);
        }
        let amount_msat = fact.amount_sat.saturating_mul(1_000);
        let id = core.new_id(TransferId::from_parts)?;
        let mut batch = vec![
            Step::Claim {
                name,
                by: id.to_string(),
            },
            emit("payment.unmatched", fact.outpoint.to_string(), &amount_msat)?,
        ];
        let now_ms = core.clock.now_ms();
        let suspended = treasury::suspend_on_chain(id, amount_msat, fact.outpoint, now_ms)?;
        batch.extend(suspended);
        Ok(Some(batch))
    }
}

/// Suspense of what the chain took away, or what counts by now, is nobody's to assign any more.
pub(super) async fn withdrawn(
    core: &Core,
    before: &Invoice,
    outcome: &Outcome,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for moved in &outcome.moves {
        if let Move::Undo(at, _) = moved
            && let Some(item) = before.payments[*at].transfers.surplus
        {
            steps.extend(treasury::withdraw(core, item).await?);
        }
    }
    Ok(steps)
}
