//! What a BOLT11 comes to on a card whose unit is a currency.
//!
//! Whoever is paid gets the bitcoin that the invoice says, out of what the operator has; the card
//! pays the operator. The rate is that of the moment when the money is set aside. Where the card's
//! program lets the card bear the drift it is that of the arrival, up to what was set aside, and
//! what is beyond that is the operator's. What the card pays is rounded up to the next minor unit.
//!
//! The top-up of another card in the same currency is paid by its price: no bitcoin moves, and no rate
//! is asked for.

use super::currency::{affords, on_card, with_spread_on_top};
use super::payment_model::{CardPayment, PaymentConversion};
use super::programs::{self, CardProgram};
use crate::Error;
use crate::cards::{Card, account_now};
use crate::core::{Core, Loaded};
use crate::exchange::{self, DriftBearer, Moves, share_down, share_up};
use crate::ids::{CardPaymentId, TransferId};
use crate::invoices::{self, Invoice};
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::lightning::Bolt11Details;
use crate::money::{Asset, Currency, Price, Quote, Spread, SpreadSide};

/// How a card in a currency pays bitcoin now.
pub(super) struct PaymentTerms {
    pub(super) unit: Currency,
    quote: Quote,
    /// What the operator keeps on top.
    spread: Option<Spread>,
    drift: DriftBearer,
    margin_bps: u32,
    /// Whoever is paid has the same currency, and asks for so much of it: nothing is exchanged, and
    /// the rate is the one that the invoice was made at.
    price: Option<i64>,
}

/// How a card pays an invoice; `None` of one that has bitcoin.
pub(super) async fn terms_of(
    core: &Core,
    card: &Card,
    program: Option<&Loaded<CardProgram>>,
    (invoice, amount_msat): (&Bolt11Details, i64),
) -> Result<Option<PaymentTerms>, Error> {
    if let Asset::Fiat(unit) = card.unit
        && let Some(own) = invoices::own_invoice(core, invoice.payment_hash).await?
    {
        let payee = account_now(core, own.value.purpose.account()).await?;
        let is_same = payee.asset() == card.unit && !own.value.options.hold;
        let priced = priced(&own.value, amount_msat).filter(|_| is_same);
        if let Some((price, quote)) = priced {
            return Ok(Some(PaymentTerms {
                unit,
                quote,
                spread: None,
                drift: DriftBearer::Operator,
                margin_bps: 0,
                price: Some(price),
            }));
        }
    }
    terms(core, card, program).await
}

/// The price of an invoice that is paid in full, in its currency, and the rate that it was made at.
fn priced(invoice: &Invoice, amount_msat: i64) -> Option<(i64, Quote)> {
    let Some(Price::Fiat { minor_units, .. }) = invoice.price else {
        return None;
    };
    let is_all = amount_msat == invoice.amount_msat;
    let quote = invoice.quote.clone().filter(|_| is_all)?;
    Some((minor_units, quote))
}

/// How a card pays bitcoin at the rate of now; `None` of one that has bitcoin.
pub(super) async fn terms(
    core: &Core,
    card: &Card,
    program: Option<&Loaded<CardProgram>>,
) -> Result<Option<PaymentTerms>, Error> {
    let Asset::Fiat(unit) = card.unit else {
        return Ok(None);
    };
    let rules = programs::conversion(program);
    let market = exchange::quote(core, unit, rules.charge_side).await?;
    // Who is paid gets all of the invoice: a spread can only be put on top.
    let spread = core.settings.rates.spread;
    let spread = spread.filter(|spread| spread.side == SpreadSide::CustomerPays);
    let drift = match rules.drift {
        DriftBearer::Card => DriftBearer::Card,
        // An invoice's amount is fixed: a merchant can bear none of it.
        DriftBearer::Operator | DriftBearer::Merchant => DriftBearer::Operator,
    };
    Ok(Some(PaymentTerms {
        unit,
        quote: exchange::with_spread(market, spread)?,
        spread,
        margin_bps: match drift {
            DriftBearer::Card => rules.hold_margin_bps,
            DriftBearer::Operator | DriftBearer::Merchant => 0,
        },
        drift,
        price: None,
    }))
}

impl PaymentTerms {
    /// Whoever is paid has what the card pays in.
    pub(super) fn can_pay(&self, payee: Asset, is_held: bool) -> bool {
        let takes = match self.price {
            Some(_) => Asset::Fiat(self.unit),
            None => Asset::Btc,
        };
        payee == takes && !is_held
    }

    /// What the card pays for `amount_msat`.
    pub(super) fn on_card(&self, amount_msat: i64) -> Result<i64, Error> {
        if let Some(price) = self.price {
            return Ok(price);
        }
        on_card(&self.quote, with_spread_on_top(amount_msat, self.spread)?)
    }

    /// The conversion of a payment that can come to `most_msat`.
    pub(super) fn convert(&self, most_msat: i64) -> Result<PaymentConversion, Error> {
        let amount = self.on_card(most_msat)?;
        let whole = i64::from(self.margin_bps).saturating_add(10_000);
        Ok(PaymentConversion {
            currency: self.unit,
            amount,
            set_aside: share_up(amount, whole, 10_000)?,
            drift: self.drift,
            quote: self.quote.clone(),
            settled_quote: None,
        })
    }

    /// Where the money of a payment in the books comes from, and the steps by which the card `payer`
    /// pays the operator for it.
    pub(super) async fn pay_by_book(
        &self,
        core: &Core,
        payer: Account,
        payment: &mut CardPayment,
    ) -> Result<(Vec<Step>, Account), Error> {
        let mut conversion = self.convert(payment.amount_msat)?;
        // It is paid now: nothing drifts.
        conversion.set_aside = conversion.amount;
        if self.price.is_some() {
            payment.conversion = Some(conversion);
            return Ok((Vec::new(), payer));
        }
        let settled = conversion.settle(core, payment.amount_msat).await?;
        let mut steps = vec![Step::Transfer(NewTransfer {
            id: core.new_id(TransferId::from_parts)?,
            debit: payer,
            credit: Account::exchange(Asset::Fiat(self.unit)),
            amount: conversion.amount,
            kind: TransferKind::CardPayment,
            reference: payment.id.to_string(),
            credit_ceiling: None,
        })];
        steps.extend(settled.spread(core, payment.id)?);
        steps.extend(exchange::within_cap(core, self.unit, Moves::Up).await?);
        payment.conversion = Some(conversion);
        Ok((steps, Account::exchange(Asset::Btc)))
    }

    /// The most bitcoin that `available` on the card pays for.
    pub(super) fn affords(&self, available: i64) -> Result<i64, Error> {
        let whole = i64::from(self.margin_bps).saturating_add(10_000);
        let amount = share_down(available.max(0), 10_000, whole)?;
        affords(&self.quote, self.spread, amount)
    }

    /// From how much bitcoin on the card pays more than `amount`; never too high.
    pub(super) fn more_than(&self, amount: i64) -> Result<i64, Error> {
        let most = affords(&self.quote, self.spread, amount)?;
        Ok(most.saturating_add(1))
    }
}

/// What a card pays of a payment that arrived.
pub(super) struct Settled {
    pub(super) conversion: PaymentConversion,
    spread_msat: i64,
}

impl Settled {
    /// The step that books what the operator keeps.
    pub(super) fn spread(
        &self,
        core: &Core,
        payment: CardPaymentId,
    ) -> Result<Option<Step>, Error> {
        let id = core.new_id(TransferId::from_parts)?;
        let from = Account::exchange(Asset::Btc);
        let reference = payment.to_string();
        Ok(exchange::take_spread(
            from,
            self.spread_msat,
            id,
            &reference,
        ))
    }
}

impl PaymentConversion {
    /// What the card pays now that `paid_msat` has left. That it has is true whatever the market
    /// says: where there is no rate, that of before holds.
    pub(super) async fn settle(&self, core: &Core, paid_msat: i64) -> Result<Settled, Error> {
        let now = match self.drift {
            DriftBearer::Card => {
                let side = Some(self.quote.side);
                exchange::quote(core, self.currency, side).await.ok()
            }
            DriftBearer::Operator | DriftBearer::Merchant => None,
        };
        let spread = self.quote.spread;
        let on_top = spread.map(|spread| Spread {
            bps: spread.bps,
            side: spread.side,
        });
        let with_msat = with_spread_on_top(paid_msat, on_top)?;
        let amount = on_card(now.as_ref().unwrap_or(&self.quote), with_msat)?;
        Ok(Settled {
            conversion: Self {
                amount: amount.min(self.set_aside),
                settled_quote: now.map(|now| Quote { spread, ..now }),
                ..self.clone()
            },
            spread_msat: with_msat.saturating_sub(paid_msat),
        })
    }
}
