//! Where money goes that comes to a card which is out of use.

use crate::Error;
use crate::cards::{Card, CardError, guard, load};
use crate::core::{Core, Loaded};
use crate::ids::{CardId, TransferId};
use crate::ledger::{Account, AccountKind, NewTransfer, Owner, Step, TransferKind};
use crate::money::MAX_MSAT;

use super::model::RetireTo;

/// So often a line of cards can be replaced, and so far is it followed.
pub(super) const MAX_REPLACEMENTS: u32 = 100;

/// The card in whose place others came: itself, or the last one that replaced it.
pub(crate) async fn current(core: &Core, card: CardId) -> Result<Loaded<Card>, Error> {
    let mut found = load(core, card).await?;
    for _ in 0..MAX_REPLACEMENTS {
        match found.value.replaced_by {
            Some(next) => found = load(core, next).await?,
            None => break,
        }
    }
    Ok(found)
}

/// The account in whose place another came, where `account` is a card's and the card was replaced.
pub(crate) async fn account_now(core: &Core, account: Account) -> Result<Account, Error> {
    match (account.kind(), account.owner()) {
        (AccountKind::CardBalance, Owner::Card(card)) => {
            Ok(current(core, card).await?.value.balance_account())
        }
        _ => Ok(account),
    }
}

/// Where what comes to the account of `card` belongs, if not there, and what then holds in the
/// commit.
async fn destination(core: &Core, card: &Card) -> Result<Option<(Account, Option<Step>)>, Error> {
    let mut at = card.clone();
    let mut guarded = None;
    // A card's money goes to one that was in use when it went out of use: there is no circle.
    for _ in 0..3 * MAX_REPLACEMENTS {
        let next = match (at.replaced_by, at.retired_to) {
            (Some(next), _) | (None, Some(RetireTo::Card { card: next })) => next,
            (None, Some(RetireTo::Merchant { merchant })) => {
                return Ok(Some((Account::merchant_payable(merchant), guarded)));
            }
            (None, Some(RetireTo::Breakage)) => {
                return Ok(Some((Account::breakage(card.unit), guarded)));
            }
            (None, Some(RetireTo::FormerIssuer)) => {
                return Ok(Some((Account::former_issuer(), guarded)));
            }
            // Of a family, the money is the main card's.
            (None, None) => match at.family_of {
                Some(main) => main,
                None => break,
            },
        };
        let found = load(core, next).await?;
        guarded = Some(guard(&found));
        at = found.value;
    }
    let account = at.balance_account();
    Ok((at.id != card.id).then_some((account, guarded)))
}

/// All that can be taken from an account.
pub(super) fn all_of(
    from: Account,
    to: Account,
    id: TransferId,
    kind: TransferKind,
    reference: CardId,
) -> Step {
    Step::TransferUpTo(NewTransfer {
        id,
        debit: from,
        credit: to,
        amount: MAX_MSAT,
        kind,
        reference: reference.to_string(),
        credit_ceiling: None,
    })
}

/// The steps after money came to an account, or came back to it: where it is that of a card which
/// is out of use by now, it goes on to where the card's money went. They hold the card as it was
/// read, so that nothing is left behind on one that goes out of use at the same moment.
pub(crate) async fn onward(core: &Core, account: Account) -> Result<Vec<Step>, Error> {
    let Owner::Card(id) = account.owner() else {
        return Ok(Vec::new());
    };
    let card = match load(core, id).await {
        Ok(card) => card,
        // An account without a card: nobody is in its place.
        Err(Error::Card(CardError::NotFound)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut steps = vec![guard(&card)];
    if let Some((to, guarded)) = destination(core, &card.value).await? {
        let kind = match card.value.replaced_by {
            Some(_) => TransferKind::Replacement,
            None => TransferKind::Retirement,
        };
        let transfer = core.new_id(TransferId::from_parts)?;
        steps.extend(guarded);
        steps.push(all_of(account, to, transfer, kind, id));
    }
    Ok(steps)
}

/// Before a credit is undone: what must hold of the card it went to, and where that card was
/// replaced since, the step that brings back as much of it as the card in its place has.
pub(crate) async fn back_from(
    core: &Core,
    undone: TransferId,
) -> Result<(Vec<Step>, Option<Step>), Error> {
    let none = (Vec::new(), None);
    let Some(credit) = core.store.transfer(undone).await? else {
        return Ok(none);
    };
    let to = credit.credit;
    let (AccountKind::CardBalance, Owner::Card(card)) = (to.kind(), to.owner()) else {
        return Ok(none);
    };
    let found = current(core, card).await?;
    let from = found.value.balance_account();
    let held = vec![guard(&found)];
    if from == to {
        return Ok((held, None));
    }
    let back = Step::TransferUpTo(NewTransfer {
        id: core.new_id(TransferId::from_parts)?,
        debit: from,
        credit: to,
        amount: credit.amount,
        kind: TransferKind::Replacement,
        reference: card.to_string(),
        credit_ceiling: None,
    });
    Ok((held, Some(back)))
}

/// As [`onward`], after money that a hold had set aside came back to where it was taken from.
pub(crate) async fn onward_from_hold(core: &Core, hold: TransferId) -> Result<Vec<Step>, Error> {
    match core.store.hold(hold).await? {
        Some(found) => onward(core, found.hold.transfer.debit).await,
        None => Ok(Vec::new()),
    }
}

/// As [`onward`], after money that a hold had set aside arrived.
pub(crate) async fn onward_to_hold(core: &Core, hold: TransferId) -> Result<Vec<Step>, Error> {
    match core.store.hold(hold).await? {
        Some(found) => onward(core, found.hold.transfer.credit).await,
        None => Ok(Vec::new()),
    }
}

/// As [`onward`], after a transfer was undone.
pub(crate) async fn onward_from(core: &Core, undone: TransferId) -> Result<Vec<Step>, Error> {
    match core.store.transfer(undone).await? {
        Some(found) => onward(core, found.debit).await,
        None => Ok(Vec::new()),
    }
}
