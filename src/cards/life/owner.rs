//! Whose a card is: who decides about it, who may stop it, and who may read it.
//!
//! Each question is put to the card that the decision has read and that its commit requires: a
//! card that changes hands in between is decided about again, by whoever then asks in vain.

use crate::Error;
use crate::access::{AccessError, Role};
use crate::cards::{Card, CardState, Cards, load};
use crate::core::{Caller, Core};
use crate::ids::CardId;

use super::onward::{MAX_REPLACEMENTS, current};

fn not_allowed() -> AccessError {
    AccessError::NotAllowed {
        needs: "holder of the card, or of the main card of its family",
    }
}

/// Whoever decides about a card: its holder; about a family card, the main card's.
pub(in crate::cards) fn owns(caller: &Caller, card: &Card) -> Result<(), AccessError> {
    match caller.role {
        Role::Holder { card: own } if card.family_of.unwrap_or(card.id) == own => Ok(()),
        _ => Err(not_allowed()),
    }
}

/// Whoever decides about a card, or the issuer.
pub(in crate::cards) fn owns_or_issued(caller: &Caller, card: &Card) -> Result<(), AccessError> {
    caller.require_issuer().or_else(|_| owns(caller, card))
}

/// Whoever may stop a card: its holder, of a family card the main card's as well, or the issuer.
pub(in crate::cards) fn may_stop(caller: &Caller, card: &Card) -> Result<(), AccessError> {
    let holds = caller.require_issuer_or_holder(card.id);
    holds.or_else(|_| owns(caller, card))
}

/// True of a card whose credential reads nothing of money any more: that is now the business of
/// whoever holds the card in its place, or of the family that it was of.
pub(in crate::cards) fn reads_nothing(card: &Card) -> bool {
    use CardState::{Replaced, Retired, Wiped};

    let is_out = matches!(card.state, Replaced | Retired | Wiped);
    is_out && (card.replaced_by.is_some() || card.family_of.is_some())
}

/// Refuses whoever may not see what moved on a card: that may its holder, the holder of a card
/// that came in its place, or the issuer. Of cards that came in each other's place the last one's
/// holder alone.
pub(in crate::cards) async fn require_reader(
    core: &Core,
    caller: &Caller,
    card: CardId,
) -> Result<(), Error> {
    let own = match caller.role {
        Role::Issuer => return Ok(()),
        Role::Holder { card: own } => load(core, own).await?.value,
        _ => return Err(not_a_reader().into()),
    };
    if reads_nothing(&own) {
        return Err(not_a_reader().into());
    }
    let mut at = own;
    for _ in 0..=MAX_REPLACEMENTS {
        match at.replaces {
            _ if at.id == card => return Ok(()),
            Some(before) => at = load(core, before).await?.value,
            None => break,
        }
    }
    Err(not_a_reader().into())
}

/// As [`require_reader`]; of a family card the main card's holder as well, who may send from it.
pub(in crate::cards) async fn require_reader_or_main(
    core: &Core,
    caller: &Caller,
    card: CardId,
) -> Result<(), Error> {
    let Err(refused) = require_reader(core, caller, card).await else {
        return Ok(());
    };
    let Some(main) = load(core, card).await?.value.family_of else {
        return Err(refused);
    };
    match caller.role {
        Role::Holder { card: own } if current(core, main).await?.value.id == own => Ok(()),
        _ => Err(refused),
    }
}

fn not_a_reader() -> AccessError {
    AccessError::NotAllowed {
        needs: "issuer, or holder of the card or of the one in its place",
    }
}

impl Cards {
    /// As [`owns`], of the card as it is now: for what is costly to begin in vain. Whoever decides
    /// asks again.
    pub(in crate::cards) async fn require_owner(
        &self,
        caller: &Caller,
        card: CardId,
    ) -> Result<(), Error> {
        Ok(owns(caller, &load(&self.core, card).await?.value)?)
    }
}
