//! A refund of what is on a card in a currency: the card pays the operator in its unit, and the
//! operator's bitcoin goes back.
//!
//! What the card pays has one rate for all of it, its part of the fee included: the price of the
//! invoice for the bitcoin that it was, or where the rate of now was asked for in the card's
//! currency, what was asked for. It is rounded up, and set aside before anything leaves.

use super::model::{Refund, RefundFeeBearer, RefundOffCard, RefundTo};
use super::rules::Due;
use super::{RefundError, Refunds};
use crate::Error;
use crate::cards;
use crate::core::Core;
use crate::exchange::{self, Moves, share_up};
use crate::ids::TransferId;
use crate::invoices::Invoice;
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::money::{Asset, Price};

/// Where the bitcoin of a refund comes from, and what a card in a currency pays for it, whose
/// account is `payer`.
pub(super) fn source(
    invoice: &Invoice,
    payer: Account,
    due: &Due,
    to: &RefundTo,
) -> Result<(Account, Option<RefundOffCard>), Error> {
    let Asset::Fiat(currency) = payer.asset() else {
        return Ok((payer, None));
    };
    let at_now = due
        .quote
        .as_ref()
        .is_some_and(|now| now.currency == currency);
    let refused = RefundError::CardInCurrency {
        invoice: invoice.id,
    };
    // What another currency comes to now is no part of what the card had for it then.
    if due.quote.is_some() && !at_now {
        return Err(refused.into());
    }
    let whole = match (invoice.price, due.minor_units.filter(|_| at_now), to) {
        // A block may take it back, when nobody can say at which rate.
        (_, _, RefundTo::OnChain { .. }) | (None | Some(Price::Bitcoin { .. }), None, _) => {
            return Err(refused.into());
        }
        (_, Some(minor_units), _) => minor_units,
        (Some(Price::Fiat { minor_units, .. }), None, _) => {
            share_up(minor_units, due.covers_msat, invoice.amount_msat)?
        }
    };
    let off_card = RefundOffCard {
        currency,
        whole,
        amount: 0,
        account: payer,
    };
    Ok((Account::exchange(Asset::Btc), Some(off_card)))
}

impl Refund {
    /// What the card pays once the way costs `fee_msat`.
    pub(super) fn off_card_at(&self, fee_msat: i64) -> Result<i64, Error> {
        let Some(off_card) = &self.off_card else {
            return Ok(0);
        };
        let borne_msat = match self.fee_bearer {
            RefundFeeBearer::Merchant | RefundFeeBearer::Customer => fee_msat,
            RefundFeeBearer::Operator => 0,
        };
        let leaves_msat = self.sent_msat.saturating_add(borne_msat);
        Ok(share_up(off_card.whole, leaves_msat, self.amount_msat)?)
    }

    /// Of one that arrived: the card pays what it came to.
    pub(super) fn paid_off_card(mut self, core: &Core) -> Result<(Self, Vec<Step>), Error> {
        let fee_msat = self.fee_msat.unwrap_or(0).min(self.max_fee_msat);
        let paid = self.off_card_at(fee_msat)?;
        let (Some(off_card), Some(hold)) = (&mut self.off_card, self.posting.holds.exchanged)
        else {
            return Ok((self, Vec::new()));
        };
        off_card.amount = paid.min(off_card.amount);
        let capture = Step::Capture {
            hold,
            id: core.new_id(TransferId::from_parts)?,
            amount: off_card.amount,
            release_rest: true,
        };
        Ok((self, vec![capture]))
    }
}

impl Refunds {
    /// The most that the card may have to pay is set aside of it with the rest; and what holds in
    /// the commit after that.
    pub(super) async fn set_aside_off_card(&self, refund: &mut Refund) -> Result<Vec<Step>, Error> {
        let most = refund.off_card_at(refund.max_fee_msat)?;
        let Some(off_card) = &mut refund.off_card else {
            return Ok(Vec::new());
        };
        off_card.amount = most;
        let currency = off_card.currency;
        refund.posting.holds.exchanged = Some(self.core.new_id(TransferId::from_parts)?);
        let cap = exchange::within_cap(&self.core, currency, Moves::Up).await?;
        Ok(cap.to_vec())
    }

    /// From one currency into another nobody has said at which rates; nor at which rate what is
    /// set aside for a hold invoice would come back.
    pub(super) async fn check_in_books(&self, refund: &Refund, own: &Invoice) -> Result<(), Error> {
        let payee = cards::account_now(&self.core, own.purpose.account()).await?;
        if refund.off_card.is_some() && (own.options.hold || payee.asset() != Asset::Btc) {
            let invoice = refund.invoice;
            return Err(RefundError::CardInCurrency { invoice }.into());
        }
        Ok(())
    }

    /// Of one that stays in the books: the card pays at once, before the bitcoin goes.
    pub(super) async fn pay_off_card(&self, refund: &mut Refund) -> Result<Vec<Step>, Error> {
        let amount = refund.off_card_at(0)?;
        let Some(off_card) = &mut refund.off_card else {
            return Ok(Vec::new());
        };
        off_card.amount = amount;
        let (account, currency) = (off_card.account, off_card.currency);
        let mut steps = vec![Step::Transfer(NewTransfer {
            id: self.core.new_id(TransferId::from_parts)?,
            debit: account,
            credit: Account::exchange(Asset::Fiat(currency)),
            amount,
            kind: TransferKind::Refund,
            reference: refund.id.to_string(),
            credit_ceiling: None,
        })];
        steps.extend(exchange::within_cap(&self.core, currency, Moves::Up).await?);
        Ok(steps)
    }
}
