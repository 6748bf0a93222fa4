//! Tills that are offline now and then, and cards that are placed: in the place of others, or in a
//! family.

use super::commands::{Request, key};
use super::model::offline::{PER_DAY_MSAT, PER_TAP_MSAT, WINDOW_MS};
use super::model::{Asked, TakenOffline, Wrong, wrong};
use super::orders::{Order, order};
use super::shopper::{Fate, Till, limits};
use super::tally::Fault;
use super::world::World;
use crate::access::Credential;
use crate::cards::{
    AddFamilyCard, LossBearer, OfflineBook, OfflineEnvelope, OfflineKey, OfflineTerms, ReplaceCard,
    SetOfflineTerms, StoppedCard,
};
use crate::ids::{CardId, MerchantId};
use crate::ports::Clock;

impl World {
    /// The merchant bears what a card cannot pay; of the first one, the operator does.
    fn bears(&self, merchant: MerchantId) -> bool {
        self.shop.merchants.first() != Some(&merchant)
    }

    pub(super) fn offline_terms(
        &mut self,
        by: &Credential,
        merchant: MerchantId,
    ) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        let loss = if self.bears(merchant) {
            LossBearer::Merchant
        } else {
            LossBearer::Operator
        };
        let command = SetOfflineTerms {
            key: key(&name)?,
            merchant,
            till: None,
            terms: Some(OfflineTerms {
                per_tap_msat: PER_TAP_MSAT,
                per_day_msat: PER_DAY_MSAT,
                window_ms: WINDOW_MS,
                loss,
                stopped_card: StoppedCard::Loss,
            }),
        };
        order(name, by, Request::OfflineTerms(command))
    }

    /// A till that has no key yet registers one.
    pub(super) fn enroll(&mut self) -> Result<Option<Order>, Wrong> {
        let Some(at) = self.shop.tills.iter().position(|it| it.key.is_none()) else {
            return Ok(None);
        };
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            *byte = self.random.next().to_le_bytes()[0];
        }
        let name = self.name();
        let till = &mut self.shop.tills[at];
        let made = OfflineKey::new(bytes);
        let Some(command) = made.ok().and_then(|made| {
            let command = made.enroll(till.id, key(&name).ok()?).ok();
            till.key = Some(made);
            command
        }) else {
            return wrong("the simulation itself is right", "no key");
        };
        order(name, &till.credential, Request::Enroll(command))
    }

    /// A till without a connection takes a tap; now and then another one takes the same.
    pub(super) fn take_offline(&mut self) {
        let Some(at) = self.held() else { return };
        let shown = self.random.pick(&self.shop.cards[at].shown).cloned();
        let replays = self.random.chance(120);
        let card = &mut self.shop.cards[at];
        let (Some(id), Some(chip)) = (card.id, card.chip.as_mut()) else {
            return;
        };
        let (tap, counter) = match shown.filter(|_| replays) {
            Some(shown) => shown,
            None => (chip.tap(), i64::from(chip.counter())),
        };
        card.shown.push((tap.clone(), counter));
        let tills = if self.random.chance(250) { 2 } else { 1 };
        if replays || tills == 2 {
            self.ground.struck(Fault::TapTakenTwice);
        }
        for _ in 0..tills {
            let amount_msat = self.random.between(50, 2_300) * 1_000;
            self.take_at_a_till(id, (&tap, counter), amount_msat);
        }
    }

    fn take_at_a_till(&mut self, card: CardId, (tap, counter): (&str, i64), amount_msat: i64) {
        let name = self.name();
        let now_ms = self.ground.now_ms();
        let at = self.random.below(self.shop.tills.len());
        let Some(merchant) = self.shop.tills.get(at).map(|it| it.merchant) else {
            return;
        };
        let merchant_bears = self.bears(merchant);
        let Some(book) = self.shop.tills.get_mut(at).and_then(|it| it.book.as_mut()) else {
            return;
        };
        // It keeps to its own limits, and takes no tap twice.
        let Ok(taken) = book.accept(tap, amount_msat, &name, now_ms) else {
            return;
        };
        let asked = Asked::Offline(TakenOffline {
            card,
            merchant,
            counter,
            amount_msat,
            at_ms: taken.at_ms,
            merchant_bears,
        });
        self.model.ask(&name, asked);
        self.ground.struck(Fault::TakenOffline);
    }

    /// Some of what a till took is handed in, whichever; by the till, or by the issuer.
    pub(super) fn hand_in(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let tills = self.shop.tills.iter().chain(&self.shop.revoked);
        let tills: Vec<&Till> = tills.filter(|it| waiting(it) > 0).collect();
        let Some(till) = self.random.pick(&tills).copied() else {
            return Ok(None);
        };
        let from = self.random.below(waiting(till));
        let taps = self.random.below(5) + 1;
        let is_revoked = self.shop.revoked.as_ref().map(|it| it.id) == Some(till.id);
        let by = if is_revoked || self.random.chance(300) {
            by.clone()
        } else {
            till.credential.clone()
        };
        let Some(envelope) = envelope(till, from, taps) else {
            return wrong("the simulation itself is right", "no envelope");
        };
        let name = self.name();
        order(name, &by, Request::Replay(envelope))
    }

    /// How many taps wait to be handed in.
    pub(super) fn taken_offline(&self) -> usize {
        let tills = self.shop.tills.iter().chain(&self.shop.revoked);
        tills.map(waiting).sum()
    }

    /// Most often one with something open: money set aside, on its way, or owed.
    fn choose_replaced(&mut self) -> Option<CardId> {
        let held = self.held()?;
        let mut chosen = self.shop.cards[held].id;
        for _ in 0..8 {
            if chosen.is_some_and(|card| self.model.has_something_open(card)) {
                break;
            }
            let held = self.held()?;
            chosen = self.shop.cards[held].id;
        }
        chosen
    }

    /// A written card is placed, if it is to be and was not refused before.
    pub(super) fn place(&mut self, at: usize, new: CardId) -> Result<Option<Order>, Wrong> {
        let fate = self.shop.cards[at].fate;
        let Some(other) = self.choose_replaced() else {
            return Ok(None);
        };
        let main = self.model.cards.get(&other).and_then(|it| it.family_of);
        let owner = main.unwrap_or(other);
        let mut cards = self.shop.cards.iter();
        let owner = cards.find(|it| it.id == Some(owner));
        let Some(owner) = owner.and_then(|it| it.holder.clone()) else {
            return Ok(None);
        };
        let rules = self.card_rules();
        let Some(chip) = self.shop.cards[at].chip.as_mut() else {
            return Ok(None);
        };
        let (tap, counter) = (chip.tap(), i64::from(chip.counter()));
        let name = format!("placed-{}", self.shop.cards[at].uid);
        let placed = format!("placed/{new}");
        if fate == Fate::InFamilyOf {
            let main = main.unwrap_or(other);
            let asked = Asked::Family {
                main,
                counter,
                rules,
            };
            self.model.ask(&placed, asked);
            let command = AddFamilyCard {
                key: key(&name)?,
                main,
                tap,
                limits: limits(rules),
            };
            return order(name, &owner, Request::Family(command));
        }
        let old = other;
        self.model.ask(&placed, Asked::Replacement { old, counter });
        let command = ReplaceCard {
            key: key(&name)?,
            card: old,
            tap,
        };
        order(name, &owner, Request::Replace(command))
    }
}

fn waiting(till: &Till) -> usize {
    till.book.as_ref().map_or(0, |book| book.waiting().len())
}

/// An envelope of some taps that follow each other, from wherever.
fn envelope(till: &Till, from: usize, taps: usize) -> Option<OfflineEnvelope> {
    let (key, book) = (till.key.as_ref()?, till.book.as_ref()?);
    let mut part = serde_json::to_value(book).ok()?;
    let waiting = part.get_mut("waiting")?.as_array_mut()?;
    waiting.drain(..from);
    waiting.truncate(taps);
    let part: OfflineBook = serde_json::from_value(part).ok()?;
    part.envelope(key).ok()?
}
