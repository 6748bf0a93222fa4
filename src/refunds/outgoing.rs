//! A refund as a payment that leaves.

use async_trait::async_trait;

use super::model::{Refund, RefundFeeBearer, RefundOutcome, RefundPosting, RefundState};
use super::{CHECK_JOB, REFUNDS, RefundError, rules};
use crate::Error;
use crate::cards;
use crate::core::Core;
use crate::invoices::{self, RefundEntry};
use crate::ledger::{Step, TransferKind};
use crate::lightning::PaymentHash;
use crate::payments::{Exchanged, Leaving, Outcome, Outgoing, Standing, Written};
use crate::receipts;
use crate::rewards;
use crate::store::StoreError;
use crate::treasury;

impl From<RefundOutcome> for Outcome {
    fn from(outcome: RefundOutcome) -> Self {
        match outcome {
            RefundOutcome::Succeeded { fee_msat } => Self::Succeeded {
                route_fee_msat: fee_msat,
            },
            RefundOutcome::Failed => Self::Failed,
        }
    }
}

impl Refund {
    /// The keys under which it is found besides those of every payment.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        let merchant = self.purpose.merchant();
        let merchant = merchant.map(|id| ("merchant", id.to_string()));
        let invoice = ("invoice", self.invoice.to_string());
        std::iter::once(invoice).chain(merchant).collect()
    }

    /// The event that says how it stands.
    pub(super) fn event_kind(&self) -> &'static str {
        match self.state {
            RefundState::Resolving => "refund.resolving",
            RefundState::Sending => "refund.sending",
            RefundState::Unknown => "refund.unknown",
            RefundState::Succeeded => "refund.succeeded",
            RefundState::Failed => "refund.failed",
            RefundState::Cancelled => "refund.cancelled",
        }
    }

    /// The points of the sale go back, and what was set aside for them is the merchant's again.
    pub(super) fn points_go_back(&self, core: &Core) -> Result<Vec<Step>, Error> {
        let (mut steps, reference) = (Vec::new(), self.id.to_string());
        if let Some(merchant) = self.purpose.merchant() {
            for back in &self.points {
                steps.extend(rewards::taken_back(core, back, merchant, &reference)?);
            }
        }
        Ok(steps)
    }

    /// It came to nothing: what it took from suspense waits there again.
    pub(super) async fn put_back(&self, core: &Core) -> Result<Vec<Step>, Error> {
        let RefundPosting {
            suspense, payer, ..
        } = &self.posting;
        treasury::put_back(core, suspense, self.id, *payer).await
    }

    /// What is posted when one that waited has taken what it was to take: it is on its way, or was
    /// paid at once.
    pub(super) async fn takes(
        &self,
        core: &Core,
        taken_msat: i64,
        is_paid: bool,
    ) -> Result<Vec<Step>, Error> {
        if is_paid {
            let entry = RefundEntry {
                to_take_msat: -taken_msat,
                ..rules::ended(self, true)
            };
            return self.ends_so(core, true, entry).await;
        }
        if taken_msat == 0 {
            return Ok(Vec::new());
        }
        let entry = RefundEntry {
            to_take_msat: -taken_msat,
            ..RefundEntry::default()
        };
        let invoice = invoices::load(core, self.invoice).await?;
        Ok(invoices::with_refund(&invoice, entry, core.clock.now_ms())?.to_vec())
    }

    /// What is posted when it ends: the invoice says so, and the points of the sale go back or
    /// stay.
    pub(super) async fn ends(&self, core: &Core, is_paid: bool) -> Result<Vec<Step>, Error> {
        self.ends_so(core, is_paid, rules::ended(self, is_paid))
            .await
    }

    async fn ends_so(
        &self,
        core: &Core,
        is_paid: bool,
        entry: RefundEntry,
    ) -> Result<Vec<Step>, Error> {
        let invoice = invoices::load(core, self.invoice).await?;
        let mut steps = match self.state {
            // It has taken nothing, and others may.
            RefundState::Cancelled => invoices::without_refund(core, &invoice, entry).await?,
            _ => invoices::with_refund(&invoice, entry, core.clock.now_ms())?.to_vec(),
        };
        if is_paid {
            steps.extend(self.points_go_back(core)?);
            steps.extend(receipts::owed_now(core, &invoice.value).await?);
        } else {
            for back in &self.points {
                steps.extend(cards::give_points_again(core, back).await?);
            }
            steps.extend(self.put_back(core).await?);
            if entry.uncounted_msat != 0 {
                steps.extend(receipts::owed_now(core, &invoice.value).await?);
            }
        }
        // What comes back to a card that went out of use meanwhile goes on from there: all of it,
        // or what the route did not cost.
        let off_card = self.off_card.as_ref().map(|off_card| off_card.account);
        let payer = off_card.unwrap_or(self.posting.payer);
        steps.extend(cards::onward(core, payer).await?);
        Ok(steps)
    }
}

#[async_trait]
impl Outgoing for Refund {
    const COLLECTION: &'static str = REFUNDS;
    const CHECK_JOB: &'static str = CHECK_JOB;

    fn leaving(&self) -> Leaving<'_> {
        Leaving {
            id: self.id.to_string(),
            // One that has none is asked of nobody.
            payment_hash: self.payment_hash.unwrap_or(PaymentHash([0; 32])),
            bolt11: &self.bolt11,
            payer: self.posting.payer,
            exchanged: self.off_card.as_ref().map(|off_card| Exchanged {
                payer: off_card.account,
                most: off_card.amount,
            }),
            kind: TransferKind::Refund,
            amount_msat: self.sent_msat,
            fee: (TransferKind::PayoutFee, 0),
            max_route_fee_msat: self.max_fee_msat,
            route_payer: match self.fee_bearer {
                RefundFeeBearer::Merchant | RefundFeeBearer::Customer => Some(self.posting.payer),
                RefundFeeBearer::Operator => None,
            },
            max_lock_blocks: self.posting.max_lock_blocks,
            usage: Vec::new(),
            created_at_ms: self.created_at_ms,
            standing: self.state.into(),
            in_books: self.payment_hash.is_none() || self.held_for.is_some(),
            attempts: self.posting.attempts,
            holds: self.posting.holds,
        }
    }

    fn written(&mut self) -> Written<'_> {
        Written {
            reason: &mut self.detail,
            route_fee_msat: &mut self.fee_msat,
            attempts: &mut self.posting.attempts,
            by_book: &mut self.by_book,
        }
    }

    fn stands(&mut self, standing: Standing) {
        self.state = standing.into();
    }

    fn owner_keys(&self) -> Vec<(&'static str, String)> {
        self.keys()
    }

    fn event(&self) -> (&'static str, String) {
        (self.event_kind(), self.id.to_string())
    }

    fn missing(id: &str) -> Error {
        match id.parse() {
            Ok(refund) => RefundError::NotFound { refund }.into(),
            Err(_) => StoreError::Corrupt {
                reason: format!("no refund {id}"),
            }
            .into(),
        }
    }

    fn has_ended(&self) -> Error {
        let (refund, state) = (self.id, self.state);
        RefundError::WrongState { refund, state }.into()
    }

    fn is_in_flight(&self) -> Error {
        RefundError::InFlight { refund: self.id }.into()
    }

    async fn exchanged(self, core: &Core) -> Result<(Self, Vec<Step>), Error> {
        self.paid_off_card(core)
    }

    async fn when_ended(&self, core: &Core, standing: Standing) -> Result<Vec<Step>, Error> {
        self.ends(core, standing == Standing::Succeeded).await
    }
}
