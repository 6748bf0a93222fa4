//! Looks at virtual cards. Whoever knows a number needs nothing else to try a code with it: there are
//! few tries, they are counted for the card itself, and nobody who pays waits behind them.

use std::sync::Arc;

use super::LifeError;
use super::presented::VirtualTap;
use super::virtual_card::{CODES, found_by, load_code};
use crate::Error;
use crate::cards::{CARDS, Card, CardError, Cards};
use crate::core::{CommandError, Loaded, Turn, Turns, emit, put};
use crate::ids::CardId;

const LANES: usize = 32;
/// How many wait for one of them; further ones are told to come again.
const MOST_WAITING: usize = 64;

/// Those who look at virtual cards, at each one after another, so that nobody tries many codes at once
/// before the first is counted.
#[derive(Clone, Default)]
pub(in crate::cards) struct LookLanes(Arc<[Turns; LANES]>);

impl LookLanes {
    /// By the keyed hash that the card is found by: nobody chooses whom to wait with.
    async fn take(&self, chip: &str) -> Result<Turn, CommandError> {
        let lane = chip.bytes().map(usize::from).sum::<usize>() % LANES;
        let [first, ..] = &*self.0;
        let turns = self.0.get(lane).unwrap_or(first);
        turns
            .take_unless_behind(MOST_WAITING)
            .await
            .ok_or(CommandError::Contended)
    }
}

impl Cards {
    /// Has those who look at one virtual card do so one after the other, and none of them after
    /// too many wrong codes.
    pub(in crate::cards) async fn turn_to_look(
        &self,
        source: Option<&str>,
        tap: &str,
    ) -> Result<Option<Turn>, Error> {
        let Some(Ok(tap)) = VirtualTap::parse(tap) else {
            return Ok(None);
        };
        let core = &self.core;
        if let Some(source) = source {
            self.bad_taps.admit(source, core.clock.now_ms())?;
        }
        let chip = found_by(core, &tap.number.to_string());
        let Some(card) = core.find::<Card>(CARDS, "chip", &chip).await? else {
            return Ok(None);
        };
        // Nobody waits for what is refused anyway.
        self.require_looks(card.value.id).await?;
        let turn = self.looks.take(&chip).await?;
        self.require_looks(card.value.id).await?;
        Ok(Some(turn))
    }

    async fn require_looks(&self, card: CardId) -> Result<(), Error> {
        let core = &self.core;
        let record = load_code(core, card).await?.value;
        let retry_after_ms = record.looks_last_ms(core.clock.now_ms());
        if record.looks_left() == 0 && retry_after_ms > 0 {
            return Err(LifeError::TooManyWrongCodes { retry_after_ms }.into());
        }
        Ok(())
    }

    /// Counts a wrong code of a look, and answers what is then told.
    pub(in crate::cards) async fn count_if_wrong_look(
        &self,
        attempt: &str,
        error: Error,
    ) -> Result<Error, Error> {
        match error {
            Error::Card(CardError::Life(LifeError::WrongCode { card, .. })) => {
                self.count_wrong_look(card, attempt).await
            }
            other => Ok(other),
        }
    }

    /// Counts a wrong code of whoever only looked, in a commit of its own, before anybody learns that it
    /// was wrong.
    async fn count_wrong_look(&self, card: CardId, attempt: &str) -> Result<Error, Error> {
        let core = &self.core;
        let attempt = &core.secrets.blind(attempt);
        core.settle(|| async move {
            let Loaded { version, mut value } = load_code(core, card).await?;
            if !value.count_look(attempt, core.clock.now_ms()) {
                return Ok(None);
            }
            let (id, left) = (card.to_string(), value.looks_left());
            let mut steps = vec![put(CODES, id.clone(), version, &value, Vec::new())?];
            if left == 0 {
                steps.push(emit("card.looks_refused", id, &value.looks_since_ms)?);
            }
            Ok(Some(steps))
        })
        .await?;
        let attempts_left = load_code(core, card).await?.value.looks_left();
        Ok(LifeError::WrongCode {
            card,
            attempts_left,
        }
        .into())
    }
}
