//! PINs: set, brought to a till, guessed, unlocked.

use super::commands::{Request, key};
use super::model::Wrong;
use super::orders::{Order, order};
use super::tally::Fault;
use super::world::World;
use crate::access::Credential;
use crate::cards::{Pin, SetCardPin, UnlockCardPin};
use crate::ids::CardId;

/// As a person types it in.
pub(super) fn typed(pin: Option<u32>) -> Option<Pin> {
    pin.and_then(|pin| format!("{pin:04}").parse().ok())
}

impl World {
    /// What is typed in at a till: nothing where nothing is needed, mostly; else the PIN of the
    /// card, none, or a guess. Whoever guessed wrong guesses again.
    pub(super) fn pin_for(&mut self, card: CardId, amount_msat: i64) -> Option<u32> {
        let (is_needed, anyway) = (
            self.model.needs_pin(card, amount_msat),
            self.random.chance(40),
        );
        if !is_needed && !anyway {
            return None;
        }
        let guesses = match self.model.wrong_pins(card) {
            0 => 250,
            _ => 600,
        };
        if self.random.chance(guesses) {
            self.ground.struck(Fault::PinGuessed);
            return u32::try_from(self.random.between(0, 9_999)).ok();
        }
        let known = self.model.pin_of(card);
        known.filter(|_| !self.random.chance(50))
    }

    /// A PIN is set or unlocked.
    pub(super) fn pin(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let locked: Vec<CardId> = self.model.locked_pins().collect();
        let unlocks = self.random.chance(600);
        match self.random.pick(&locked).copied().filter(|_| unlocks) {
            Some(card) => self.unlock_pin(card, by),
            None => self.set_pin(),
        }
    }

    fn unlock_pin(&mut self, card: CardId, by: &Credential) -> Result<Option<Order>, Wrong> {
        let mut cards = self.shop.cards.iter();
        let held = cards.find(|it| it.id == Some(card));
        let holder = held.and_then(|it| it.holder.clone());
        let by = holder
            .filter(|_| self.random.chance(500))
            .unwrap_or(by.clone());
        let name = self.name();
        self.model.ask_unlock(card);
        let key = key(&name)?;
        order(name, &by, Request::UnlockPin(UnlockCardPin { key, card }))
    }

    /// Of a card that needs one and has none, first.
    fn set_pin(&mut self) -> Result<Option<Order>, Wrong> {
        let is_asked = |card: CardId| {
            let mut commands = self.commands.iter();
            commands.any(|it| match &it.request {
                Request::SetPin(set) => set.card == card && (it.is_open() || !it.calls.is_empty()),
                _ => false,
            })
        };
        let lacks = |card: CardId| {
            self.model.pin_of(card).is_none() && self.model.needs_pin(card, i64::MAX)
        };
        let is_main =
            |card: &CardId| (self.model.cards.get(card)).is_some_and(|it| it.family_of.is_none());
        let cards = self.shop.cards.iter().filter(|it| !it.is_over);
        let held = cards.filter_map(|it| Some((it.id?, it.holder.clone()?)));
        let may: Vec<_> = held
            .filter(|(card, _)| is_main(card) && !is_asked(*card))
            .collect();
        let first: Vec<_> = may.iter().filter(|(card, _)| lacks(*card)).collect();
        let picked = match first.first() {
            Some(first) => Some((*first).clone()),
            None => self.random.pick(&may).cloned(),
        };
        let Some((card, holder)) = picked else {
            return Ok(None);
        };
        let name = self.name();
        let pin = u32::try_from(self.random.between(0, 9_999)).unwrap_or(0);
        let Some(typed) = typed(Some(pin)) else {
            return Ok(None);
        };
        self.model.ask_pin(card, pin);
        let command = SetCardPin {
            key: key(&name)?,
            card,
            pin: typed,
        };
        order(name, &holder, Request::SetPin(command))
    }
}
