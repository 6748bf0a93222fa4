//! Money in suspense that the chain takes away, and gives back.
//!
//! What a person assigned is taken back from whose it is, as far as it is still there; the rest is
//! owed. When the chain gives it back it waits for a person again, as a new item: so that however
//! often its block comes and goes, nobody is credited twice.

use super::paid_back;
use super::suspense::{SUSPENSE, SuspenseItem, receivable, suspend_on_chain, write};
use crate::Error;
use crate::core::{Core, Loaded, emit};
use crate::ids::TransferId;
use crate::invoices::Outpoint;
use crate::ledger::{Account, NewReversal, Shortfall, Step, TransferKind};
use crate::store::MAX_PAGE;

/// The steps for an item whose transfer is undone in the same commit; none where it is no item, or
/// was taken away before.
pub(crate) async fn withdraw(core: &Core, item: TransferId) -> Result<Vec<Step>, Error> {
    let found: Option<Loaded<SuspenseItem>> = core.load(SUSPENSE, &item.to_string()).await?;
    match found.filter(|found| !found.value.withdrawn) {
        Some(found) => taken_away(core, found).await,
        None => Ok(Vec::new()),
    }
}

async fn taken_away(core: &Core, found: Loaded<SuspenseItem>) -> Result<Vec<Step>, Error> {
    let before = &found.value;
    let after = SuspenseItem {
        withdrawn: true,
        refunds: Vec::new(),
        ..before.clone()
    };
    let mut steps = vec![write(&after, found.version)?];
    if after.assigned_to.is_some() || !before.refunds.is_empty() {
        steps.push(emit("suspense.withdrawn", after.id.to_string(), &after)?);
    }
    if after.assigned_to.is_some() {
        steps.extend(taken_back(core, before).await?);
    }
    steps.extend(paid_back::taken_back(core, &before.refunds).await?);
    Ok(steps)
}

/// What was assigned comes back as far as its owner has it.
async fn taken_back(core: &Core, item: &SuspenseItem) -> Result<Option<Step>, Error> {
    let assignment = match item.assignment {
        Some(assignment) => Some(assignment),
        None => assignment_of(core, item.id).await?,
    };
    let Some(of) = assignment else {
        return Ok(None);
    };
    let row = core.store.transfer(of).await?;
    let owed = row.as_ref().and_then(|row| receivable(&row.credit));
    let shortfall = match owed {
        Some(receivable) => Some(Shortfall {
            id: core.new_id(TransferId::from_parts)?,
            receivable,
        }),
        None => None,
    };
    Ok(Some(Step::Reverse(NewReversal {
        id: core.new_id(TransferId::from_parts)?,
        of,
        amount: item.rest_msat(),
        shortfall,
        usage: Vec::new(),
    })))
}

/// The assignment of an item that was written when items did not name it.
async fn assignment_of(core: &Core, item: TransferId) -> Result<Option<TransferId>, Error> {
    let (item, mut before) = (item.to_string(), None);
    loop {
        let suspense = Account::suspense();
        let page = core.store.transfers(&suspense, before, MAX_PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        before = Some(last.position);
        let mut rows = page.iter();
        let is_it = |kind, reference: &str| kind == TransferKind::Assigned && reference == item;
        if let Some(row) = rows.find(|row| is_it(row.kind, &row.reference)) {
            return Ok(Some(row.id));
        }
    }
}

/// Money on chain that matches nothing and was in suspense before, first as the item `first`: in
/// a block it is there, elsewhere it is not. No steps where that is so already.
pub(crate) async fn follow(
    core: &Core,
    first: TransferId,
    outpoint: Outpoint,
    is_here: bool,
) -> Result<Vec<Step>, Error> {
    let mut id = first;
    let last = loop {
        let found: Option<Loaded<SuspenseItem>> = core.load(SUSPENSE, &id.to_string()).await?;
        let Some(found) = found else {
            return Ok(Vec::new());
        };
        match found.value.returned_as {
            Some(next) => id = next,
            None => break found,
        }
    };
    let amount_msat = last.value.amount_msat;
    match (last.value.withdrawn, is_here) {
        (false, false) => {
            let mut steps = taken_away(core, last).await?;
            steps.push(Step::Reverse(NewReversal {
                id: core.new_id(TransferId::from_parts)?,
                of: id,
                amount: amount_msat,
                shortfall: None,
                usage: Vec::new(),
            }));
            Ok(steps)
        }
        (true, true) => {
            let id = core.new_id(TransferId::from_parts)?;
            let before = SuspenseItem {
                returned_as: Some(id),
                ..last.value
            };
            let mut steps = vec![
                write(&before, last.version)?,
                emit("payment.unmatched", outpoint.to_string(), &amount_msat)?,
            ];
            let now_ms = core.clock.now_ms();
            steps.extend(suspend_on_chain(id, amount_msat, outpoint, now_ms)?);
            Ok(steps)
        }
        _ => Ok(Vec::new()),
    }
}
