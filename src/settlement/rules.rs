//! Pure decisions about merchants and payouts: no I/O, no clock.

use super::SettlementError;
use super::model::PayoutTerms;
use crate::core::CommandError;
use crate::ids::{MerchantId, TransferId};
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::lightning::Bolt11Details;
use crate::money::{MAX_MSAT, MoneyError};
use crate::payments::rules;

const MAX_BPS: u32 = 10_000;

/// Terms that make sense.
pub(super) fn check_terms(terms: &PayoutTerms) -> Result<(), CommandError> {
    for (field, bps) in [
        ("fee_bps", terms.fee_bps),
        ("route_bps", terms.route_bps),
        ("own_wallet_bps", terms.own_wallet_bps()),
    ] {
        if bps > MAX_BPS {
            return Err(CommandError::OutOfBounds {
                field,
                bounds: "0 to 10,000",
            });
        }
    }
    for (field, msat) in [
        ("fee_base_msat", terms.fee_base_msat),
        ("route_base_msat", terms.route_base_msat),
    ] {
        if !(0..=MAX_MSAT).contains(&msat) {
            let bounds = "0 msat to 21 million bitcoin";
            return Err(CommandError::OutOfBounds { field, bounds });
        }
    }
    Ok(())
}

/// An invoice whose last hop alone locks the money up for longer than may be has no route.
pub(super) fn check_lock(invoice: &Bolt11Details, most_blocks: u32) -> Result<(), SettlementError> {
    let blocks = invoice.min_final_lock_blocks;
    if blocks > most_blocks {
        return Err(SettlementError::LocksTooLong {
            blocks,
            most_blocks,
        });
    }
    Ok(())
}

/// What the operator keeps of a payout.
pub(super) fn fee(terms: &PayoutTerms, amount_msat: i64) -> Result<i64, MoneyError> {
    rules::share(terms.fee_base_msat, terms.fee_bps, amount_msat)
}

/// What the route of a payout may cost.
pub(crate) fn max_route_fee(terms: &PayoutTerms, amount_msat: i64) -> Result<i64, MoneyError> {
    rules::share(terms.route_base_msat, terms.route_bps, amount_msat)
}

/// What a merchant owes is taken out of what has just come in for it, as far as both reach. Where
/// nothing is owed, nothing is written.
pub(crate) fn recover(
    merchant: MerchantId,
    amount_msat: i64,
    id: TransferId,
    reference: String,
) -> Option<Step> {
    let transfer = NewTransfer {
        id,
        debit: Account::merchant_payable(merchant),
        credit: Account::merchant_receivable(merchant),
        amount: amount_msat,
        kind: TransferKind::Recovered,
        reference,
        credit_ceiling: None,
    };
    (amount_msat > 0).then_some(Step::TransferUpTo(transfer))
}

/// The most that can be paid out of a balance, and its fee: the largest amount of whole sats
/// that the balance covers together with the fee. Zero when it covers nothing.
pub(super) fn largest_payout(
    terms: &PayoutTerms,
    available_msat: i64,
) -> Result<(i64, i64), MoneyError> {
    rules::largest(terms.fee_base_msat, terms.fee_bps, available_msat)
}
