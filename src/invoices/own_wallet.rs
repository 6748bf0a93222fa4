//! What is paid straight to a merchant's own wallet: the operator never had it, so that it stands
//! in no account; what the operator keeps of it, the merchant owes.

use super::model::Invoice;
use super::moved::Moved;
use super::steps::Context;
use crate::Error;
use crate::exchange;
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::payments::rules::share;
use crate::settlement;

/// The merchant owes the operator's fee and spread of what counts of a payment.
pub(super) fn owe(
    after: &mut Invoice,
    at: usize,
    context: &Context<'_>,
) -> Result<Vec<Step>, Error> {
    let counted_msat = after.payments[at].counted_msat;
    let Some(merchant) = after.purpose.merchant().filter(|_| counted_msat > 0) else {
        return Ok(Vec::new());
    };
    let spread_msat = exchange::spread(after.quote.as_ref(), counted_msat)?;
    let fee_msat = share(0, context.own_wallet_bps, counted_msat)?;
    let receivable = Account::merchant_receivable(merchant);
    let mut steps = Vec::new();
    for (credit, amount, kind) in shares(fee_msat, spread_msat) {
        steps.push(moved(after, context, (receivable, credit), amount, kind)?);
    }
    after.payments[at].owed_fee_msat = fee_msat.saturating_add(spread_msat);
    Ok(steps)
}

/// The chain took the payment away: what was owed for it is given back. Where the merchant has
/// paid it by now, that is its own again; where it has not, it owes so much less.
pub(super) fn forgive(
    after: &mut Invoice,
    at: usize,
    booked_msat: i64,
    context: &Context<'_>,
    out: &mut Moved,
) -> Result<(), Error> {
    let owed_msat = std::mem::take(&mut after.payments[at].owed_fee_msat);
    let Some(merchant) = after.purpose.merchant().filter(|_| owed_msat > 0) else {
        return Ok(());
    };
    let spread_msat = exchange::spread(after.quote.as_ref(), booked_msat)?.min(owed_msat);
    let payable = Account::merchant_payable(merchant);
    for (income, amount, kind) in shares(owed_msat - spread_msat, spread_msat) {
        out.steps
            .push(moved(after, context, (income, payable), amount, kind)?);
    }
    let id = (context.new_id)()?;
    let reference = after.id.to_string();
    let debt = settlement::recover(merchant, owed_msat, id, reference);
    out.debts.extend(debt);
    Ok(())
}

fn shares(fee_msat: i64, spread_msat: i64) -> impl Iterator<Item = (Account, i64, TransferKind)> {
    let fee = (Account::fee_income(), fee_msat, TransferKind::OwnWalletFee);
    let spread = (Account::spread_income(), spread_msat, TransferKind::Spread);
    [fee, spread].into_iter().filter(|share| share.1 > 0)
}

fn moved(
    invoice: &Invoice,
    context: &Context<'_>,
    (debit, credit): (Account, Account),
    amount: i64,
    kind: TransferKind,
) -> Result<Step, Error> {
    Ok(Step::Transfer(NewTransfer {
        id: (context.new_id)()?,
        debit,
        credit,
        amount,
        kind,
        reference: invoice.id.to_string(),
        credit_ceiling: None,
    }))
}
