//! What a refund of an invoice puts on a card whose unit is a currency.
//!
//! The merchant gives the bitcoin that the refund comes to, the operator takes it and gives the
//! currency. An amount that was asked for in the card's currency goes on it exactly. Everything else
//! is converted, rounded down: at the rate at which the card itself paid the sale, where its program
//! has refunds at the rate of the charge, so that the operator bears what the rate has moved since;
//! or at the rate of now, so that the card bears it. The operator's spread stays the operator's.

use super::model::Card;
use super::payment_model::CardPayment;
use super::payment_rules::PAYMENTS;
use super::{load, programs};
use crate::Error;
use crate::core::{Core, Loaded};
use crate::exchange::{self, RefundRate};
use crate::invoices::{Invoice, InvoicePaymentState};
use crate::money::{Asset, Currency, Quote, Rounding};

/// What comes on a card, and at which rate.
pub(crate) struct OnCard {
    pub(crate) currency: Currency,
    /// In its minor unit.
    pub(crate) amount: i64,
    pub(crate) quote: Quote,
}

/// What `sent_msat` of an invoice that are paid back come to on a card; `None` of a card in bitcoin.
/// `asked` is what was asked for in a currency at the rate of now.
pub(crate) async fn refund_on_card(
    core: &Core,
    card: &Card,
    invoice: &Invoice,
    sent_msat: i64,
    asked: Option<(i64, Quote)>,
) -> Result<Option<OnCard>, Error> {
    let Asset::Fiat(currency) = card.unit else {
        return Ok(None);
    };
    if let Some((amount, quote)) = asked.filter(|(_, quote)| quote.currency == currency) {
        return Ok(Some(OnCard {
            currency,
            amount,
            quote,
        }));
    }
    let program = programs::of(core, card).await?;
    let rules = programs::conversion(program.as_ref());
    let then = match rules.refund_at {
        RefundRate::Charge => rate_then(core, card, invoice).await?,
        RefundRate::Now => None,
    };
    let quote = match then {
        Some(then) => then,
        None => exchange::quote(core, currency, rules.top_up_side).await?,
    };
    let rate = quote.rate;
    Ok(Some(OnCard {
        currency,
        amount: rate.msat_to_fiat(currency, sent_msat, Rounding::Down)?,
        quote,
    }))
}

/// The rate at which a card paid an invoice, where nobody else paid: of several payments nobody
/// could say which of them goes back.
async fn rate_then(core: &Core, card: &Card, invoice: &Invoice) -> Result<Option<Quote>, Error> {
    let payments = invoice.payments.iter();
    let mut settled = payments.filter(|paid| paid.state == InvoicePaymentState::Settled);
    let (Some(only), None) = (settled.next(), settled.next()) else {
        return Ok(None);
    };
    let Some(hash) = only.booked_hash() else {
        return Ok(None);
    };
    let key = hash.to_string();
    let found: Option<Loaded<CardPayment>> = core.find(PAYMENTS, "payment_hash", &key).await?;
    let Some(paid) = found.map(|found| found.value) else {
        return Ok(None);
    };
    // A card in the place of a lost one is the same.
    let line = load(core, paid.card).await?.value.line();
    let conversion = paid.conversion.filter(|_| line == card.line());
    Ok(conversion.map(|conversion| conversion.settled_quote.unwrap_or(conversion.quote)))
}
