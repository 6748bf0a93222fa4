//! What waits in suspense for an invoice and goes back by its refunds: only what a refund sends, and
//! only while it is sent. The rest waits, and what did not arrive waits again.

use super::suspense::{SUSPENSE, SuspenseItem, SuspensePart, moved, receivable, write};
use crate::Error;
use crate::core::{Core, Loaded, emit};
use crate::ids::{RefundId, TransferId};
use crate::ledger::{Account, NewReversal, Shortfall, Step, TransferKind};

/// The steps that give `amount_msat` of what waits to `payer`, who pays it back with a refund.
pub(crate) fn give_part(
    core: &Core,
    found: &Loaded<SuspenseItem>,
    refund: RefundId,
    amount_msat: i64,
    payer: Account,
) -> Result<Vec<Step>, Error> {
    let transfer = core.new_id(TransferId::from_parts)?;
    let mut after = found.value.clone();
    after.refunds.push(SuspensePart {
        refund,
        amount_msat,
        transfer,
    });
    let (way, item) = ((Account::suspense(), payer), after.id.to_string());
    let kind = TransferKind::Assigned;
    Ok(vec![
        moved(transfer, way, amount_msat, kind, item.clone()),
        write(&after, found.version)?,
        emit("suspense.refunded", item, &after)?,
    ])
}

/// The steps by which what a refund took waits again, since it came to nothing.
pub(crate) async fn put_back(
    core: &Core,
    items: &[TransferId],
    refund: RefundId,
    payer: Account,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for item in items {
        let found: Option<Loaded<SuspenseItem>> = core.load(SUSPENSE, &item.to_string()).await?;
        let Some(found) = found else { continue };
        let mut after = found.value;
        let (back, kept) = after
            .refunds
            .into_iter()
            .partition(|part| part.refund == refund);
        after.refunds = kept;
        let back: Vec<SuspensePart> = back;
        if back.is_empty() {
            continue;
        }
        steps.extend(undone(core, &back, payer)?);
        steps.push(write(&after, found.version)?);
        steps.push(emit("suspense.refund_ended", item.to_string(), &after)?);
    }
    Ok(steps)
}

/// What refunds took comes back from whoever got it to pay it back, as far as it is there; the
/// rest is owed.
pub(super) async fn taken_back(core: &Core, parts: &[SuspensePart]) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for part in parts {
        if let Some(row) = core.store.transfer(part.transfer).await? {
            steps.extend(undone(core, std::slice::from_ref(part), row.credit)?);
        }
    }
    Ok(steps)
}

fn undone(core: &Core, parts: &[SuspensePart], payer: Account) -> Result<Vec<Step>, Error> {
    let new_id = || core.new_id(TransferId::from_parts);
    let mut steps = Vec::new();
    for part in parts {
        let shortfall = match receivable(&payer) {
            Some(receivable) => Some(Shortfall {
                id: new_id()?,
                receivable,
            }),
            None => None,
        };
        steps.push(Step::Reverse(NewReversal {
            id: new_id()?,
            of: part.transfer,
            amount: part.amount_msat,
            shortfall,
            usage: Vec::new(),
        }));
    }
    Ok(steps)
}
