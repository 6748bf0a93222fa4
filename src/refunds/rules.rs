//! Pure decisions about refunds: no I/O, no clock.

use super::RefundError;
use super::model::{Refund, RefundAmount, RefundFeeBearer, RefundState};
use crate::Error;
use crate::exchange::{self, share_down, share_up};
use crate::invoices::{Invoice, InvoiceState, RefundEntry, Refundable};
use crate::ledger::{AccountKind, Refusal};
use crate::lightning::Bolt11Details;
use crate::money::{Asset, Currency, MoneyError, Price, Quote, Rounding};
use crate::payments::Standing;

impl From<RefundState> for Standing {
    fn from(state: RefundState) -> Self {
        match state {
            RefundState::Resolving | RefundState::Sending => Self::Sending,
            RefundState::Unknown => Self::Unknown,
            RefundState::Succeeded => Self::Succeeded,
            RefundState::Failed | RefundState::Cancelled => Self::Failed,
        }
    }
}

impl From<Standing> for RefundState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Sending => Self::Sending,
            Standing::Unknown => Self::Unknown,
            Standing::Succeeded => Self::Succeeded,
            Standing::Failed => Self::Failed,
        }
    }
}

/// What was paid of an invoice, and what of it went back or is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paid {
    /// What came, as far as it can be paid back.
    pub(super) received_msat: i64,
    /// What of it was beyond what was due.
    pub(super) surplus_msat: i64,
    /// What was sent or is being sent.
    pub(super) sent_msat: i64,
    /// What of the invoice that is, at the rate then.
    pub(super) covered_msat: i64,
}

/// What a refund comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) amount_msat: i64,
    pub(super) covers_msat: i64,
    pub(super) quote: Option<Quote>,
    /// What that was asked for as, in the currency of the quote.
    pub(super) minor_units: Option<i64>,
}

/// The currency whose rate of now is needed.
pub(super) fn needs_rate(
    invoice: &Invoice,
    asked: RefundAmount,
) -> Result<Option<Currency>, RefundError> {
    match asked {
        RefundAmount::RateNow { .. } => Ok(Some(price_of(invoice)?.0)),
        RefundAmount::Fiat { currency, .. } => Ok(Some(currency)),
        _ => Ok(None),
    }
}

fn price_of(invoice: &Invoice) -> Result<(Currency, i64), RefundError> {
    match invoice.price {
        Some(Price::Fiat {
            currency,
            minor_units,
        }) => Ok((currency, minor_units)),
        _ => Err(RefundError::NoRateThen {
            invoice: invoice.id,
        }),
    }
}

/// One that can still be paid is not paid back: what came would count towards it, and go back as
/// well.
pub(super) fn check_open(invoice: &Invoice) -> Result<(), RefundError> {
    match invoice.state {
        InvoiceState::New | InvoiceState::Processing => {
            let invoice = invoice.id;
            Err(RefundError::InvoiceOpen { invoice })
        }
        InvoiceState::Settled | InvoiceState::Expired | InvoiceState::Invalid => Ok(()),
    }
}

/// How much of what refunds of an invoice pay back is not there any more. What is still to be taken
/// out of suspense is nobody's before, and whoever the invoice is of has all the rest.
pub(super) fn missing_msat(invoice: &Invoice, came: &Refundable) -> Result<i64, MoneyError> {
    let flags = &invoice.flags;
    let covered_msat = flags.refund_covers_msat;
    let of_owners_msat = covered_msat.saturating_sub(flags.refund_to_take_msat);
    let received_msat = came.owners_msat.saturating_add(came.waiting_msat());
    let sent_msat = flags.refunded_msat.saturating_add(flags.refunding_msat);
    let most_msat = cap_msat(invoice, received_msat)?.max(received_msat);
    let missing = [
        of_owners_msat.saturating_sub(came.owners_msat),
        covered_msat.saturating_sub(received_msat),
        sent_msat.saturating_sub(most_msat),
    ];
    Ok(missing.into_iter().fold(0, i64::max))
}

/// What a refund comes to, and that it is no more than may go back.
pub(super) fn due(
    invoice: &Invoice,
    paid: &Paid,
    asked: RefundAmount,
    quote: Option<Quote>,
) -> Result<Due, Error> {
    let uncovered_msat = paid.received_msat.saturating_sub(paid.covered_msat);
    let unsent_msat = paid.received_msat.saturating_sub(paid.sent_msat);
    let left_msat = uncovered_msat.min(unsent_msat);
    // A refund at another rate is bounded by what of the invoice is left, and by the cap.
    let at_rate_now = quote.is_some();
    let bound_msat = if at_rate_now {
        uncovered_msat
    } else {
        left_msat
    };
    if bound_msat <= 0 {
        let invoice = invoice.id;
        return Err(RefundError::NothingLeft { invoice }.into());
    }
    let room = Room {
        left_msat,
        uncovered_msat,
        surplus_msat: paid.surplus_msat.saturating_sub(paid.covered_msat),
    };
    let (amount_msat, covers_msat, minor_units) = amounts(invoice, room, asked, &quote)?;
    Price::Bitcoin { amount_msat }.validate()?;
    if covers_msat > bound_msat {
        let (left_msat, asked_msat) = (bound_msat, covers_msat);
        return Err(RefundError::ExceedsPaid {
            left_msat,
            asked_msat,
        }
        .into());
    }
    if at_rate_now {
        check_cap(invoice, paid, amount_msat)?;
    }
    Ok(Due {
        amount_msat,
        covers_msat,
        quote,
        minor_units,
    })
}

/// What is left of an invoice.
#[derive(Clone, Copy)]
struct Room {
    left_msat: i64,
    uncovered_msat: i64,
    surplus_msat: i64,
}

/// What goes, what of the invoice that is, and what it was asked for as at the rate of now.
fn amounts(
    invoice: &Invoice,
    room: Room,
    asked: RefundAmount,
    quote: &Option<Quote>,
) -> Result<(i64, i64, Option<i64>), Error> {
    let Room {
        left_msat,
        uncovered_msat,
        surplus_msat,
    } = room;
    let same = |amount_msat: i64| (amount_msat, amount_msat, None);
    Ok(match asked {
        RefundAmount::Everything => same(left_msat),
        RefundAmount::Surplus if surplus_msat <= 0 => {
            let invoice = invoice.id;
            return Err(RefundError::NothingLeft { invoice }.into());
        }
        RefundAmount::Surplus => same(surplus_msat.min(left_msat)),
        RefundAmount::Bitcoin { amount_msat } => same(amount_msat),
        RefundAmount::RateThen { minor_units } => {
            let (_, price) = price_of(invoice)?;
            same(share_down(
                invoice.amount_msat,
                positive(minor_units)?,
                price,
            )?)
        }
        RefundAmount::RateNow { minor_units } => {
            let (currency, price) = price_of(invoice)?;
            let (minor_units, covers_msat) = match minor_units {
                Some(minor) => {
                    let covers_msat = share_up(invoice.amount_msat, positive(minor)?, price)?;
                    (minor, covers_msat)
                }
                None => {
                    let all = share_down(price, uncovered_msat, invoice.amount_msat)?;
                    (all, uncovered_msat)
                }
            };
            let amount_msat = now(quote, currency, minor_units)?;
            (amount_msat, covers_msat, Some(minor_units))
        }
        RefundAmount::Fiat {
            currency,
            minor_units,
        } => {
            let amount_msat = now(quote, currency, positive(minor_units)?)?;
            let covers_msat = match price_of(invoice) {
                Ok((own, price)) if own == currency => {
                    share_up(invoice.amount_msat, minor_units, price)?
                }
                // There was no rate then: it is as much of the invoice as it is now.
                _ => amount_msat.min(uncovered_msat),
            };
            (amount_msat, covers_msat, Some(minor_units))
        }
    })
}

fn positive(minor: i64) -> Result<i64, MoneyError> {
    match minor {
        1.. => Ok(minor),
        _ => Err(MoneyError::NotPositive { minor }),
    }
}

fn now(quote: &Option<Quote>, currency: Currency, minor_units: i64) -> Result<i64, MoneyError> {
    let rate = quote.as_ref().map(|quote| quote.rate);
    let rate = rate.ok_or(MoneyError::NotPositive { minor: 0 })?;
    // Down, so that whoever pays back never pays more than it said.
    rate.fiat_to_msat(currency, minor_units, Rounding::Down)
}

/// Under the rate of now the merchant says how much may go; never more than was paid where it says
/// nothing.
fn check_cap(invoice: &Invoice, paid: &Paid, amount_msat: i64) -> Result<(), Error> {
    let cap_msat = cap_msat(invoice, paid.received_msat)?;
    let left_msat = cap_msat.saturating_sub(paid.sent_msat).max(0);
    if amount_msat > left_msat {
        let asked_msat = amount_msat;
        return Err(RefundError::ExceedsCap {
            left_msat,
            asked_msat,
        }
        .into());
    }
    Ok(())
}

fn cap_msat(invoice: &Invoice, received_msat: i64) -> Result<i64, MoneyError> {
    let per_mille = invoice.rules().refund_up_to_per_mille.unwrap_or(1_000);
    share_down(received_msat, i64::from(per_mille), 1_000)
}

/// What arrives of an amount.
pub(super) fn sent_msat(
    amount_msat: i64,
    withheld_msat: i64,
    bearer: RefundFeeBearer,
    max_fee_msat: i64,
) -> Result<i64, RefundError> {
    let fee_msat = match bearer {
        RefundFeeBearer::Customer => max_fee_msat,
        RefundFeeBearer::Merchant | RefundFeeBearer::Operator => 0,
    };
    let off_msat = fee_msat.saturating_add(withheld_msat);
    match amount_msat.saturating_sub(off_msat) {
        sent_msat @ 1.. => Ok(sent_msat),
        _ => Err(RefundError::FeeTakesAll {
            amount_msat,
            fee_msat: off_msat,
        }),
    }
}

/// What goes where only whole sats are taken: rounded down, so that nobody pays more than was said.
pub(super) fn whole_sats(sent_msat: i64) -> Result<i64, RefundError> {
    match sent_msat / 1_000 * 1_000 {
        whole_msat @ 1.. => Ok(whole_msat),
        _ => Err(RefundError::FeeTakesAll {
            amount_msat: sent_msat,
            fee_msat: 0,
        }),
    }
}

/// What the invoice to be paid says, if it can be paid here at all and asks for just that.
pub(super) fn payable(
    invoice: &Bolt11Details,
    sent_msat: i64,
    now_ms: i64,
) -> Result<(), RefundError> {
    if now_ms >= invoice.expires_at_ms {
        let expired_at_ms = invoice.expires_at_ms;
        return Err(RefundError::InvoiceExpired { expired_at_ms });
    }
    match invoice.amount_msat {
        Some(asked_msat) if asked_msat != sent_msat => Err(RefundError::OtherAmount {
            asked_msat,
            sent_msat,
        }),
        _ => Ok(()),
    }
}

/// An invoice whose last hop alone locks the money up for longer than may be has no route.
pub(super) fn check_lock(invoice: &Bolt11Details, most_blocks: u32) -> Result<(), RefundError> {
    let blocks = invoice.min_final_lock_blocks;
    if blocks > most_blocks {
        return Err(RefundError::LocksTooLong {
            blocks,
            most_blocks,
        });
    }
    Ok(())
}

/// What a refund changes of its invoice when it is asked for: one in the books is paid at once.
pub(super) fn begun(refund: &Refund, is_paid: bool) -> RefundEntry {
    let (amount_msat, covers_msat) = (refund.amount_msat, refund.covers_msat);
    let (refunding_msat, refunded_msat) = match is_paid {
        true => (0, amount_msat),
        false => (amount_msat, 0),
    };
    RefundEntry {
        refunding_msat,
        refunded_msat,
        covers_msat,
        uncounted_msat: refund.posting.uncounted_msat,
        to_take_msat: refund.posting.to_take_msat,
    }
}

/// What of a refund was to count towards the price of an invoice that is not settled: what is paid
/// back is the surplus first.
pub(super) fn uncounted(invoice: &Invoice, surplus_msat: i64, covers_msat: i64) -> i64 {
    if invoice.state == InvoiceState::Settled {
        return 0;
    }
    let all_msat = invoice.flags.refund_covers_msat.saturating_add(covers_msat);
    all_msat
        .saturating_sub(surplus_msat)
        .clamp(0, covers_msat.max(0))
}

/// What it changes when it ends.
pub(super) fn ended(refund: &Refund, is_paid: bool) -> RefundEntry {
    let refunding_msat = -refund.amount_msat;
    let to_take_msat = -refund.posting.to_take_msat;
    match is_paid {
        true => RefundEntry {
            refunding_msat,
            refunded_msat: refund.amount_msat,
            to_take_msat,
            ..RefundEntry::default()
        },
        false => RefundEntry {
            refunding_msat,
            covers_msat: -refund.covers_msat,
            uncounted_msat: -refund.posting.uncounted_msat,
            to_take_msat,
            ..RefundEntry::default()
        },
    }
}

/// What a refusal of the ledger means for a refund.
pub(super) fn refused(error: Error) -> Error {
    match error {
        Error::Ledger(Refusal::InsufficientFunds {
            account,
            available,
            needed,
            ..
        }) if matches!(
            account.kind(),
            AccountKind::MerchantPayable | AccountKind::CardBalance
        ) =>
        {
            match account.asset() {
                Asset::Btc => RefundError::InsufficientBalance {
                    available_msat: available,
                    needed_msat: needed,
                },
                unit => RefundError::InsufficientOnCard {
                    unit,
                    available,
                    needed,
                },
            }
            .into()
        }
        Error::Ledger(Refusal::AlreadyClaimed { name, by, .. })
            if name.starts_with("payout/") || name.starts_with("payment/") =>
        {
            RefundError::InvoiceUsed { by }.into()
        }
        other => exchange::refused(other),
    }
}

/// True when the points were turned into money since the refund was decided.
pub(super) fn points_went(error: &Error) -> bool {
    matches!(error, Error::Ledger(Refusal::InsufficientFunds { account, .. })
        if account.kind() == AccountKind::PointsBalance)
}
