//! How a card stood that an earlier version gave back to its former issuer, and did not write down.
//!
//! Since when a card is out of use was written: of one that was in use until it went back, the moment
//! at which it went; of a frozen or a lost one, when it was stopped. The event of that moment says which;
//! but one that was frozen first and given up later keeps the moment at which it was frozen, so what
//! came after that is read as well. Where that is too much it comes over as it was first: frozen.

use crate::Error;
use crate::cards::model::{Card, CardState};
use crate::core::Core;
use crate::ledger::EventRecord;

/// The moment is that of the decision, by the clock of whoever made it; the event's is that of its
/// commit.
const APART_MS: i64 = 60_000;
const PAGE: usize = 200;
/// How many pages are read for one card behind the one in which it was frozen.
const MOST_PAGES: usize = 50;

/// How the card stood: as one that was stopped, where nothing says that it was in use.
pub(super) async fn stood(core: &Core, card: &Card) -> Result<CardState, Error> {
    let Some(stopped_at_ms) = card.stopped_at_ms else {
        return Ok(CardState::Active);
    };
    if card.expires_at_ms == Some(stopped_at_ms) {
        return Ok(CardState::Expired);
    }
    let id = card.id.to_string();
    let mut after = before(core, stopped_at_ms.saturating_sub(APART_MS)).await?;
    let (mut state, mut was_frozen, mut pages_left) = (CardState::Frozen, false, MOST_PAGES);
    while pages_left > 0 {
        let page = core.store.events(after, PAGE).await?;
        for event in &page {
            if event.at_ms > stopped_at_ms.saturating_add(APART_MS) && !was_frozen {
                return Ok(state);
            }
            if event.object != id || stopped_at(event) != Some(stopped_at_ms) {
                continue;
            }
            match event.kind.as_str() {
                "card.lost" => return Ok(CardState::Lost),
                // It went back as it was.
                "card.retired" if was_frozen => return Ok(CardState::Frozen),
                "card.retired" => state = CardState::Active,
                _ => (state, was_frozen) = (CardState::Frozen, true),
            }
        }
        match page.last() {
            Some(last) => after = last.position,
            None => return Ok(state),
        }
        pages_left -= usize::from(was_frozen);
    }
    Ok(CardState::Frozen)
}

fn stopped_at(event: &EventRecord) -> Option<i64> {
    event.body.get("stopped_at_ms")?.as_i64()
}

/// A position behind which come all events from `at_ms` on, found by halves: times never go back from
/// one event to the next.
async fn before(core: &Core, at_ms: i64) -> Result<i64, Error> {
    let is_early = async |after: i64| {
        let next = core.store.events(after, 1).await?;
        Ok::<_, Error>(next.first().is_some_and(|event| event.at_ms < at_ms))
    };
    if !is_early(0).await? {
        return Ok(0);
    }
    let (mut early, mut late) = (0, 1);
    while is_early(late).await? {
        (early, late) = (late, late.saturating_mul(2));
    }
    while late - early > 1 {
        let middle = early + (late - early) / 2;
        match is_early(middle).await? {
            true => early = middle,
            false => late = middle,
        }
    }
    Ok(early)
}
