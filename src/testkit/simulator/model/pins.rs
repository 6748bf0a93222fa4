//! PINs of cards, as the model knows them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Model, Wrong, not_lawful, number, parse, wrong};
use crate::ids::CardId;
use crate::ledger::EventRecord;
use crate::testkit::simulator::tally::Transition;

/// So many wrong ones lock a PIN.
const MOST_WRONG: i64 = 3;

#[derive(Debug, Clone, Copy, Default)]
struct KnownPin {
    /// `None` until one is set.
    pin: Option<u32>,
    /// The wrong ones since it was last right.
    wrong: i64,
}

/// What is asked of PINs, and what was told of them.
#[derive(Default)]
pub(super) struct Pins {
    cards: BTreeMap<CardId, KnownPin>,
    /// The PIN that a card is to have, and how often it was asked for one.
    asked: BTreeMap<CardId, (u32, i64)>,
    unlocks: BTreeMap<CardId, i64>,
    /// The commands that brought a PIN.
    guesses: BTreeMap<CardId, BTreeSet<String>>,
    /// How many wrong ones were counted in all.
    counted: BTreeMap<CardId, usize>,
    /// The commands that were told that their PIN is wrong.
    told: BTreeMap<CardId, BTreeSet<String>>,
}

/// How the PIN of a card stood while a command that needs it was on its way.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::testkit::simulator) struct PinSeen {
    /// What the command brings.
    pub(super) given: Option<u32>,
    was_needed: bool,
    was_unset: bool,
    was_wrong: bool,
    was_locked: bool,
}

impl PinSeen {
    pub(super) fn of(given: Option<u32>) -> Self {
        Self {
            given,
            ..Self::default()
        }
    }

    /// Whether a refusal has its reason.
    pub(in crate::testkit::simulator) fn explains(&self, code: &str) -> bool {
        match code {
            "card.pin_required" => self.was_needed && self.given.is_none(),
            "card.pin_not_set" => self.was_unset && (self.was_needed || self.given.is_some()),
            "card.wrong_pin" => self.was_wrong,
            "card.pin_locked" => self.was_locked,
            _ => true,
        }
    }
}

impl Model {
    pub(crate) fn ask_pin(&mut self, card: CardId, pin: u32) {
        let (last, times) = self.pins.asked.entry(card).or_default();
        (*last, *times) = (pin, *times + 1);
    }

    pub(crate) fn ask_unlock(&mut self, card: CardId) {
        *self.pins.unlocks.entry(card).or_default() += 1;
    }

    /// A command brings a PIN of a card.
    pub(crate) fn ask_guess(&mut self, card: CardId, name: &str) {
        let guesses = self.pins.guesses.entry(card).or_default();
        guesses.insert(name.to_owned());
    }

    pub(crate) fn pin_of(&self, card: CardId) -> Option<u32> {
        self.pins.cards.get(&card).and_then(|known| known.pin)
    }

    /// How many wrong ones in a row were counted.
    pub(crate) fn wrong_pins(&self, card: CardId) -> i64 {
        self.pins.cards.get(&card).map_or(0, |known| known.wrong)
    }

    pub(crate) fn locked_pins(&self) -> impl Iterator<Item = CardId> {
        let cards = self.pins.cards.iter();
        let locked = cards.filter(|(_, known)| known.wrong >= MOST_WRONG);
        locked.map(|(card, _)| *card)
    }

    pub(crate) fn needs_pin(&self, card: CardId, amount_msat: i64) -> bool {
        let above = self.cards.get(&card).and_then(|it| it.rules.pin_above_msat);
        above.is_some_and(|above| amount_msat > above)
    }

    /// A tap spends what needs the PIN, or brings one.
    pub(super) fn require_pin(
        &mut self,
        card: CardId,
        given: Option<u32>,
        amount_msat: i64,
    ) -> Result<(), Wrong> {
        if given.is_none() && !self.needs_pin(card, amount_msat) {
            return Ok(());
        }
        let known = self.pins.cards.entry(card).or_default();
        if given.is_none() || known.pin != given {
            return not_lawful(format!("{amount_msat} msat without the PIN"));
        }
        if known.wrong >= MOST_WRONG {
            return not_lawful("a PIN that is locked");
        }
        known.wrong = 0;
        self.fire(Transition::PinRight);
        Ok(())
    }

    pub(super) fn look_at_pin(&self, seen: &mut PinSeen, card: CardId, amount_msat: i64) {
        let known = self.pins.cards.get(&card).copied().unwrap_or_default();
        seen.was_needed |= self.needs_pin(card, amount_msat);
        seen.was_unset |= known.pin.is_none();
        seen.was_wrong |= seen.given.is_some() && known.pin != seen.given;
        seen.was_locked |= known.wrong >= MOST_WRONG;
    }

    pub(super) fn read_pin(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let card: CardId = parse(&event.object)?;
        let pins = &mut self.pins;
        let known = pins.cards.entry(card).or_default();
        let transition = match event.kind.as_str() {
            "card.pin_set" => {
                let (pin, times) = pins.asked.entry(card).or_default();
                *times -= 1;
                if *times < 0 {
                    return wrong("nothing is done twice", "a PIN was set");
                }
                *known = KnownPin {
                    pin: Some(*pin),
                    wrong: 0,
                };
                Transition::PinSet
            }
            "card.pin_unlocked" => {
                let times = pins.unlocks.entry(card).or_default();
                *times -= 1;
                if *times < 0 {
                    return wrong("nothing is done twice", "a PIN was unlocked");
                }
                known.wrong = 0;
                Transition::PinUnlocked
            }
            "card.pin_locked" if known.wrong == MOST_WRONG => Transition::PinLocked,
            "card.pin_wrong" => {
                known.wrong += 1;
                let guesses = pins.guesses.get(&card).map_or(0, BTreeSet::len);
                if known.wrong > i64::try_from(guesses).unwrap_or(i64::MAX) {
                    return wrong("nothing happens that nobody asked for", "a wrong PIN");
                }
                *pins.counted.entry(card).or_default() += 1;
                Transition::PinWrong
            }
            other => return not_lawful(other),
        };
        let (left, is_locked) = (MOST_WRONG - known.wrong, known.wrong >= MOST_WRONG);
        let told = event.body.get("is_locked").and_then(Value::as_bool);
        if left < 0 || number(&event.body, "attempts_left")? != left || told != Some(is_locked) {
            return not_lawful(format!("{left} attempts were left"));
        }
        self.fire(transition);
        Ok(())
    }

    /// A command was told that its PIN is wrong: it was counted before. Of two instances one may
    /// have looked at it while the last wrong one was counted by the other.
    pub(crate) fn told_wrong_pin(&mut self, card: CardId, name: &str) -> Result<(), Wrong> {
        let told = self.pins.told.entry(card).or_default();
        told.insert(name.to_owned());
        let counted = self.pins.counted.get(&card).copied().unwrap_or(0);
        let at_the_lock = counted / usize::try_from(MOST_WRONG).unwrap_or(1);
        if told.len() > counted + at_the_lock {
            let detail = format!("{} told, {counted} counted of {card}", told.len());
            return wrong("a wrong PIN is counted before anybody is told", detail);
        }
        Ok(())
    }

    /// The card in the place of another one has its PIN, and the wrong ones.
    pub(super) fn carry_pin(&mut self, old: CardId, new: CardId) {
        if let Some(known) = self.pins.cards.get(&old).copied() {
            self.pins.cards.insert(new, known);
            let guesses = self.pins.guesses.get(&old).cloned().unwrap_or_default();
            self.pins.guesses.entry(new).or_default().extend(guesses);
        }
    }
}
