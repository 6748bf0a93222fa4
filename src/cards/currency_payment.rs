//! What a BOLT11 comes to on a card whose unit is a currency.
//!
//! Whoever is paid gets the bitcoin that the invoice says, out of what the operator has; the card
//! pays the operator. The rate is that of the moment when the money is set aside. Where the card's
//! program lets the card bear the drift it is that of the arrival, up to what was set aside, and
//! what is beyond that is the operator's. What the card pays is rounded up to the next minor unit.

use super::currency::{affords, on_card, with_spread_on_top};
use super::payment_model::PaymentConversion;
use super::programs::{self, CardProgram};
use crate::Error;
use crate::cards::Card;
use crate::core::{Core, Loaded};
use crate::exchange::{self, DriftBearer, share_down, share_up};
use crate::ids::{CardPaymentId, TransferId};
use crate::ledger::{Account, Step};
use crate::money::{Asset, Currency, Quote, Spread, SpreadSide};

/// How a card in a currency pays bitcoin now.
pub(super) struct PaymentTerms {
    pub(super) unit: Currency,
    quote: Quote,
    /// What the operator keeps on top.
    spread: Option<Spread>,
    drift: DriftBearer,
    margin_bps: u32,
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
    }))
}

impl PaymentTerms {
    /// What the card pays for `amount_msat`.
    pub(super) fn on_card(&self, amount_msat: i64) -> Result<i64, Error> {
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
