//! Cards whose unit is a currency: what a price comes to on them, and at which rate it is settled.
//!
//! Roundings, each in one direction: bitcoin that is owed to a merchant is rounded up to the next
//! msat, what a card pays for a price in another unit up to the next minor unit. A price in the
//! card's own currency is paid exactly, and so is what is refunded or topped up; for an amount of bitcoin
//! that somebody sends to a card, what goes on it is rounded down.

use super::charge_model::{Charge, ChargeAmount, ChargeConversion};
use super::model::Card;
use super::{CardError, programs};
use crate::Error;
use crate::core::Core;
use crate::exchange::{self, ConversionRules, DriftBearer, share_down, share_up};
use crate::ids::CardId;
use crate::money::{Asset, Currency, MAX_MSAT, Price, Quote, Rounding, Spread, SpreadSide};
use crate::rates::price_in_msat;

/// What a price comes to on a card.
pub(super) struct Due {
    /// What it is in bitcoin, the operator's spread included.
    pub(super) amount_msat: i64,
    /// The rate of the price, where it is in a currency.
    pub(super) quote: Option<Quote>,
    /// What the card pays, where its unit is a currency.
    pub(super) conversion: Option<ChargeConversion>,
}

impl Due {
    /// What the card pays, in its unit.
    pub(super) fn on_card(&self) -> i64 {
        let paid = self.conversion.as_ref().map(|conversion| conversion.amount);
        paid.unwrap_or(self.amount_msat)
    }
}

/// What a price comes to on a card at the rates of now.
pub(super) async fn due(
    core: &Core,
    card: &Card,
    rules: &ConversionRules,
    price: &Price,
) -> Result<Due, Error> {
    price.validate()?;
    let spread = core.settings.rates.spread;
    let Asset::Fiat(unit) = card.unit else {
        let (amount_msat, quote) = in_bitcoin(core, price).await?;
        return Ok(Due {
            amount_msat,
            quote,
            conversion: None,
        });
    };
    let market = exchange::quote(core, unit, rules.charge_side).await?;
    let (amount, amount_msat, quote, card_quote) = match *price {
        Price::Fiat {
            currency,
            minor_units,
        } if currency == unit => {
            // The card pays the price exactly: nothing can be put on top of it.
            let borne = spread.filter(|spread| spread.side == SpreadSide::MerchantReceives);
            let quote = exchange::with_spread(market, borne)?;
            let amount_msat = in_msat(&quote, minor_units)?;
            (minor_units, amount_msat, Some(quote.clone()), quote)
        }
        Price::Bitcoin { amount_msat } => {
            let quote = exchange::with_spread(market, spread)?;
            let amount_msat = with_spread_on_top(amount_msat, spread)?;
            (on_card(&quote, amount_msat)?, amount_msat, None, quote)
        }
        Price::Fiat { .. } => {
            let (amount_msat, quote) = in_bitcoin(core, price).await?;
            (on_card(&market, amount_msat)?, amount_msat, quote, market)
        }
    };
    let conversion = ChargeConversion {
        currency: unit,
        amount,
        set_aside: None,
        refunded: 0,
        drift: rules.drift,
        quote: card_quote,
        settled_quote: None,
        refund_quote: None,
    };
    Ok(Due {
        amount_msat,
        quote,
        conversion: Some(conversion),
    })
}

async fn in_bitcoin(core: &Core, price: &Price) -> Result<(i64, Option<Quote>), Error> {
    let (rates, policy) = (core.rates.as_ref(), core.settings.rates);
    price_in_msat(rates, price, policy, core.clock.now_ms()).await
}

fn in_msat(quote: &Quote, minor_units: i64) -> Result<i64, Error> {
    let rate = quote.rate;
    Ok(rate.fiat_to_msat(quote.currency, minor_units, Rounding::Up)?)
}

pub(super) fn on_card(quote: &Quote, amount_msat: i64) -> Result<i64, Error> {
    let rate = quote.rate;
    Ok(rate.msat_to_fiat(quote.currency, amount_msat, Rounding::Up)?)
}

/// What a price in bitcoin comes to where the customer pays the spread.
pub(super) fn with_spread_on_top(amount_msat: i64, spread: Option<Spread>) -> Result<i64, Error> {
    let bps = match spread {
        Some(Spread {
            bps,
            side: SpreadSide::CustomerPays,
        }) => i64::from(bps),
        _ => 0,
    };
    let with = amount_msat.checked_add(share_down(amount_msat, bps, 10_000)?);
    let amount_msat = with.ok_or(crate::money::MoneyError::Overflow)?;
    Price::Bitcoin { amount_msat }.validate()?;
    Ok(amount_msat)
}

/// The largest price in bitcoin that `available` on a card pays for.
pub(super) fn affords(quote: &Quote, spread: Option<Spread>, available: i64) -> Result<i64, Error> {
    let whole_msat = quote
        .rate
        .fiat_to_msat(quote.currency, available.max(0), Rounding::Down)?;
    let bps = match spread {
        Some(Spread {
            bps,
            side: SpreadSide::CustomerPays,
        }) => i64::from(bps),
        _ => 0,
    };
    Ok(share_down(whole_msat, 10_000, bps.saturating_add(10_000))?)
}

/// What a top-up comes to in bitcoin, of a card in a currency; `None` of one in bitcoin. The price
/// is in the card's unit, and goes on it exactly.
pub(crate) async fn top_up(
    core: &Core,
    card: CardId,
    price: Option<&Price>,
) -> Result<Option<(i64, Quote)>, Error> {
    let card = super::load(core, card).await?.value;
    let Asset::Fiat(unit) = card.unit else {
        return Ok(None);
    };
    let Some(Price::Fiat {
        currency,
        minor_units,
    }) = price.filter(|price| is_in(price, unit))
    else {
        let (card, unit) = (card.id, card.unit);
        return Err(CardError::UnitMismatch { card, unit }.into());
    };
    Price::Fiat {
        currency: *currency,
        minor_units: *minor_units,
    }
    .validate()?;
    let terms = TopUpTerms::of(core, &card, unit).await?;
    Ok(Some((terms.amount_msat(*minor_units)?, terms.quote)))
}

/// How bitcoin goes on a card in a currency now.
pub(super) struct TopUpTerms {
    quote: Quote,
    spread: Option<Spread>,
}

impl TopUpTerms {
    pub(super) async fn of(core: &Core, card: &Card, unit: Currency) -> Result<Self, Error> {
        let program = programs::of(core, card).await?;
        let side = programs::conversion(program.as_ref()).top_up_side;
        let market = exchange::quote(core, unit, side).await?;
        // What goes on the card is the price: a spread can only be put on top.
        let spread = core.settings.rates.spread;
        let spread = spread.filter(|spread| spread.side == SpreadSide::CustomerPays);
        let quote = exchange::with_spread(market, spread)?;
        Ok(Self { quote, spread })
    }

    /// What has to be paid for so much on the card.
    pub(super) fn amount_msat(&self, minor_units: i64) -> Result<i64, Error> {
        with_spread_on_top(in_msat(&self.quote, minor_units)?, self.spread)
    }

    /// The most that can be paid and puts no more than so much on the card.
    pub(super) fn most_msat(&self, minor_units: i64) -> Result<i64, Error> {
        let (rate, unit) = (self.quote.rate, self.quote.currency);
        let whole_msat = rate.fiat_to_msat(unit, minor_units.max(0), Rounding::Down);
        // There is not as much bitcoin.
        let whole_msat = whole_msat.unwrap_or(MAX_MSAT).min(MAX_MSAT);
        let bps = self.spread.map_or(0, |spread| i64::from(spread.bps));
        let with = whole_msat.saturating_add(share_down(whole_msat, bps, 10_000)?);
        Ok(with.min(MAX_MSAT))
    }

    /// What goes on the card for an amount, rounded down to its minor unit; and the rate. Not beyond the
    /// operator's cap.
    pub(super) async fn price_of(
        self,
        core: &Core,
        amount_msat: i64,
    ) -> Result<(Price, Quote), Error> {
        let (rate, currency) = (self.quote.rate, self.quote.currency);
        let rest_msat = self.quote.split(amount_msat)?.merchant_msat;
        let minor_units = rate.msat_to_fiat(currency, rest_msat, Rounding::Down)?;
        let price = Price::Fiat {
            currency,
            minor_units,
        };
        price.validate()?;
        exchange::require_left(core, currency, minor_units).await?;
        let rounding = Rounding::Down;
        let quote = Quote {
            rounding,
            ..self.quote
        };
        Ok((price, quote))
    }
}

/// What is set aside for an amount on the card: with a margin where the card bears the drift.
pub(super) fn set_aside(
    conversion: &ChargeConversion,
    price: &Price,
    rules: &ConversionRules,
) -> Result<i64, Error> {
    let drifts = conversion.drift == DriftBearer::Card && !is_in(price, conversion.currency);
    let margin_bps = if drifts { rules.hold_margin_bps } else { 0 };
    let whole = i64::from(margin_bps).saturating_add(10_000);
    Ok(share_up(conversion.amount, whole, 10_000)?)
}

fn is_in(price: &Price, unit: Currency) -> bool {
    matches!(price, Price::Fiat { currency, .. } if *currency == unit)
}

/// How much of a charge is meant, as a part of a whole: in the card's unit, or, of one that is only
/// set aside, in what its price is in.
pub(super) fn part_of(
    charge: &Charge,
    asked: ChargeAmount,
    may_be_price: bool,
) -> Result<(i64, i64), Error> {
    let price = ChargeAmount::from(charge.price);
    match &charge.conversion {
        None => {
            if let ChargeAmount::Bitcoin { amount_msat } = asked {
                return Ok((amount_msat, charge.amount_msat));
            }
        }
        Some(conversion) if asked.asset() == Asset::Fiat(conversion.currency) => {
            return Ok((asked.units(), conversion.amount));
        }
        Some(_) if may_be_price && asked.asset() == price.asset() => {
            return Ok((asked.units(), price.units()));
        }
        Some(_) => {}
    }
    Err(CardError::UnitMismatch {
        card: charge.card,
        unit: charge.unit(),
    }
    .into())
}

/// Whether a capture needs the rate of now.
pub(super) fn needs_rate(charge: &Charge) -> Option<Currency> {
    let conversion = charge.conversion.as_ref()?;
    (conversion.drift != DriftBearer::Operator).then_some(conversion.currency)
}

/// What a capture of `part` of `whole` comes to: in bitcoin, and on the card.
pub(super) fn captured(
    charge: &Charge,
    (part, whole): (i64, i64),
    now: Option<Quote>,
) -> Result<(i64, Option<ChargeConversion>), Error> {
    let mut amount_msat = share_up(charge.amount_msat, part, whole)?;
    let Some(before) = &charge.conversion else {
        return Ok((amount_msat, None));
    };
    let mut after = before.clone();
    after.amount = share_up(before.amount, part, whole)?;
    if let Some(now) = now {
        if before.drift == DriftBearer::Card && !is_in(&charge.price, before.currency) {
            let most = before.set_aside.unwrap_or(before.amount);
            after.amount = on_card(&now, amount_msat)?.min(most);
        } else {
            amount_msat = in_msat(&now, after.amount)?;
        }
        // What of it is the operator's was agreed when it was set aside.
        let spread = before.quote.spread;
        after.settled_quote = Some(Quote { spread, ..now });
    }
    Ok((amount_msat, Some(after)))
}

/// What goes back with a refund.
pub(super) struct Back {
    /// On the card, in its unit.
    pub(super) on_card: i64,
    /// From the merchant, what is withheld included.
    pub(super) amount_msat: i64,
    /// Of the operator's spread, to the merchant.
    pub(super) spread_msat: i64,
    /// What is then left of the sale.
    pub(super) standing_msat: i64,
    /// The rate, where it is that of now.
    pub(super) quote: Option<Quote>,
}

/// What goes back with a refund of `asked` on the card. Shares are worked out of all that was
/// refunded so far, so that they come to the whole in however many parts.
pub(super) fn back(
    charge: &Charge,
    asked: i64,
    spread_msat: i64,
    now: Option<Quote>,
) -> Result<Back, Error> {
    let (paid, before) = match &charge.conversion {
        Some(conversion) => (conversion.amount, conversion.refunded),
        None => (charge.amount_msat, charge.refunded_msat),
    };
    let after = before.saturating_add(asked);
    let grown = |whole: i64| -> Result<i64, Error> {
        Ok(share_up(whole, after, paid)? - share_up(whole, before, paid)?)
    };
    let amount_msat = match &now {
        Some(now) => in_msat(now, asked)?,
        None => grown(charge.amount_msat)?,
    };
    Ok(Back {
        on_card: asked,
        amount_msat,
        spread_msat: share_down(spread_msat, after, paid)? - share_down(spread_msat, before, paid)?,
        standing_msat: share_down(charge.amount_msat, paid.saturating_sub(after), paid)?,
        quote: now,
    })
}
