//! Taps that were looked at: each can be charged for a while, and a later one takes its place.
//!
//! A tap is a text that anybody who has seen it can use: a screen, a log, a browser's history. So
//! the first look at one is written down, and it grows old. A tap that nobody has looked at is as
//! old as the chip's next one: when the chip shows a higher counter, lower ones are void.

use serde::{Deserialize, Serialize};

use super::charging::VerifiedTap;
use super::model::Card;
use super::{CardError, life, rules};
use crate::Error;
use crate::core::{Core, Loaded, put};
use crate::ledger::{Step, UsageWindow};

const SEEN: &str = "tap_seen";

/// The highest counter that was looked at: one document a card and version of its keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TapSeen {
    counter: i64,
    /// When it was looked at first.
    first_seen_ms: i64,
}

impl TapSeen {
    /// True when `counter` was looked at before and is still good.
    fn knows(&self, counter: i64, at_ms: i64, valid_ms: i64) -> Result<bool, CardError> {
        if counter < self.counter {
            return Err(CardError::TapSuperseded {
                counter,
                seen: self.counter,
            });
        }
        if counter > self.counter {
            return Ok(false);
        }
        let until_ms = self.first_seen_ms.saturating_add(valid_ms);
        if at_ms >= until_ms {
            return Err(CardError::TapStale { until_ms });
        }
        Ok(true)
    }
}

async fn load(core: &Core, card: &Card) -> Result<Option<Loaded<TapSeen>>, Error> {
    core.load(SEEN, &rules::counter_name(card)).await
}

/// The highest counter of a card that was looked at.
pub(super) async fn last_seen(core: &Core, card: &Card) -> Result<Option<i64>, Error> {
    let found = load(core, card).await?;
    Ok(found.map(|found| found.value.counter))
}

/// How long a tap is good: as the card's program says, or the engine's settings.
fn valid_ms(core: &Core, tap: &VerifiedTap) -> i64 {
    let own = tap.terms().and_then(|terms| terms.tap_valid_ms);
    own.unwrap_or(core.settings.tap_valid_ms)
}

/// Refuses a tap that was used before.
pub(super) async fn require_unused(core: &Core, tap: &VerifiedTap) -> Result<(), Error> {
    let counter = tap.counter;
    let name = rules::counter_name(&tap.card.value);
    let last = core.store.counter(&name).await?;
    match last.filter(|last| counter <= *last) {
        Some(last) => Err(CardError::TapReplayed { counter, last }.into()),
        None => Ok(()),
    }
}

/// Writes down that a tap was looked at, the first time.
pub(super) async fn see(core: &Core, tap: &VerifiedTap) -> Result<(), Error> {
    let VerifiedTap { card, counter, .. } = tap;
    let valid_ms = valid_ms(core, tap);
    core.settle(|| async {
        let found = load(core, &card.value).await?;
        let at_ms = core.commit_time_ms();
        let version = match &found {
            Some(Loaded { version, value }) => {
                if value.knows(*counter, at_ms, valid_ms)? {
                    return Ok(None);
                }
                *version
            }
            None => 0,
        };
        let seen = TapSeen {
            counter: *counter,
            first_seen_ms: at_ms,
        };
        let id = rules::counter_name(&card.value);
        Ok(Some(vec![put(SEEN, id, version, &seen, Vec::new())?]))
    })
    .await
    .map(drop)
}

/// Refuses a tap that is too old, or behind a later one. The steps hold in the commit: nobody has
/// looked at a later one in between, and it does not come too late, whatever the clock shows here.
pub(super) async fn guard(core: &Core, tap: &VerifiedTap) -> Result<Vec<Step>, Error> {
    let VerifiedTap { card, counter, .. } = tap;
    let found = load(core, &card.value).await?;
    let id = rules::counter_name(&card.value);
    let mut steps = Vec::new();
    if let Some(Loaded { value, .. }) = &found {
        let (at_ms, valid_ms) = (core.commit_time_ms(), valid_ms(core, tap));
        if value.knows(*counter, at_ms, valid_ms)? {
            steps.push(Step::Use {
                window: UsageWindow {
                    subject: format!("{id}/looked_at"),
                    start_ms: 0,
                    end_ms: value.first_seen_ms.saturating_add(valid_ms),
                },
                amount: 1,
                limit: i64::MAX,
            });
        }
    }
    steps.extend(life::code_was_right(core, &card.value).await?);
    steps.push(Step::Require {
        collection: SEEN,
        id,
        version: found.map_or(0, |found| found.version),
    });
    Ok(steps)
}
