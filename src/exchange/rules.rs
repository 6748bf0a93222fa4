//! Pure decisions about conversions: no I/O, no clock.

use crate::ids::TransferId;
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::money::{Currency, MoneyError, Quote, QuoteSpread, Rate, Rounding, Spread};
use crate::rates::RateError;

pub(super) fn narrow(amount: i128) -> Result<i64, MoneyError> {
    i64::try_from(amount).map_err(|_| MoneyError::Overflow)
}

/// What a position is worth, rounded towards zero.
pub(super) fn value_msat(rate: Rate, currency: Currency, amount: i64) -> Result<i64, MoneyError> {
    let size = amount.checked_abs().ok_or(MoneyError::Overflow)?;
    let value = rate.fiat_to_msat(currency, size, Rounding::Down)?;
    Ok(if amount < 0 { -value } else { value })
}

/// `amount * part / whole`, rounded up; nothing of nothing.
pub(crate) fn share_up(amount: i64, part: i64, whole: i64) -> Result<i64, MoneyError> {
    share(amount, part, whole, whole.saturating_sub(1))
}

/// `amount * part / whole`, rounded down; nothing of nothing.
pub(crate) fn share_down(amount: i64, part: i64, whole: i64) -> Result<i64, MoneyError> {
    share(amount, part, whole, 0)
}

fn share(amount: i64, part: i64, whole: i64, more: i64) -> Result<i64, MoneyError> {
    let product = i128::from(amount) * i128::from(part) + i128::from(more.max(0));
    narrow(product.checked_div(i128::from(whole)).unwrap_or(0))
}

/// The quote with a spread that is taken from what it comes to. Its rate stays the market's.
pub(crate) fn with_spread(quote: Quote, spread: Option<Spread>) -> Result<Quote, RateError> {
    let Some(Spread { bps, side }) = spread.filter(|spread| spread.bps > 0) else {
        return Ok(quote);
    };
    if bps >= 10_000 {
        let reason = "a spread is less than 10,000 basis points";
        return Err(RateError::Misconfigured { reason });
    }
    let market_rate = quote.rate;
    Ok(Quote {
        spread: Some(QuoteSpread {
            bps,
            side,
            market_rate,
        }),
        ..quote
    })
}

/// What the operator keeps of `amount_msat` that was made with a quote.
pub(crate) fn spread(quote: Option<&Quote>, amount_msat: i64) -> Result<i64, MoneyError> {
    let split = quote.map(|quote| quote.split(amount_msat)).transpose()?;
    Ok(split.map_or(0, |split| split.spread_msat))
}

/// The step that books what the operator keeps, out of what `from` has just got; none of nothing.
pub(crate) fn take_spread(
    from: Account,
    spread_msat: i64,
    id: TransferId,
    reference: &str,
) -> Option<Step> {
    (spread_msat > 0).then(|| {
        Step::Transfer(NewTransfer {
            id,
            debit: from,
            credit: Account::spread_income(),
            amount: spread_msat,
            kind: TransferKind::Spread,
            reference: reference.to_owned(),
            credit_ceiling: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_the_way_they_say() {
        assert_eq!((share_up(10, 1, 3), share_down(10, 1, 3)), (Ok(4), Ok(3)));
        assert_eq!((share_up(9, 1, 3), share_down(9, 1, 3)), (Ok(3), Ok(3)));
        assert_eq!((share_up(5, 0, 3), share_up(5, 3, 0)), (Ok(0), Ok(0)));
        let most = i64::MAX;
        assert_eq!(
            (share_up(most, most, most), share_up(most, 2, 1)),
            (Ok(most), Err(MoneyError::Overflow))
        );
    }
}
