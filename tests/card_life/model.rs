//! Any life of any cards, against a model of their own that knows ids and amounts alone: what the
//! engine allows is what the model allows, and the money is where the model has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{
    AuthorizeCard, CaptureCharge, CardLimits, ChargeCard, RefundCharge, ReleaseCharge, RetireTo,
};
use flashkit::ids::{CardId, ChargeId};
use flashkit::ledger::Account;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::virtual_card::VirtualCard;

use crate::hands::{add, blank, freeze, fund, has, lose, on_card, replace, retire, unfreeze};
use crate::support::key;
use crate::support::scene::{DAY, NOON, told};
use crate::support::shop::{self, Merchant, SAT, sat};

/// Numbers that look random: Knuth's MMIX generator, its upper bits.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Where money can be: on a card, or at the shop.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    Card(usize),
    Shop,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    InUse,
    Stopped,
    Lost,
    Replaced(usize),
    Retired(Option<Place>),
}

/// A card of the model.
struct Paper {
    life: Life,
    main: Option<usize>,
    sats: i64,
}

/// What was set aside or paid: from which card's money, and how much of it is left.
#[derive(Clone, Copy)]
struct Sale {
    from: usize,
    sats: i64,
}

#[derive(Default)]
struct Model {
    cards: Vec<Paper>,
    shop: i64,
    tabs: BTreeMap<usize, Sale>,
    paid: BTreeMap<usize, Sale>,
}

impl Model {
    fn purse(&self, card: usize) -> usize {
        self.cards[card].main.unwrap_or(card)
    }

    /// Where what comes to a card's money ends up.
    fn end(&self, card: usize) -> Place {
        match (self.cards[card].life, self.cards[card].main) {
            (Life::Replaced(next), _) => self.end(next),
            (Life::Retired(Some(Place::Card(next))), _) => self.end(next),
            (Life::Retired(Some(Place::Shop)), _) => Place::Shop,
            (_, Some(main)) => self.end(main),
            _ => Place::Card(card),
        }
    }

    fn give(&mut self, card: usize, sats: i64) {
        match self.end(card) {
            Place::Card(card) => self.cards[card].sats += sats,
            Place::Shop => self.shop += sats,
        }
    }

    fn can_pay(&self, card: usize, sats: i64) -> bool {
        self.cards[card].life == Life::InUse && self.cards[self.purse(card)].sats >= sats
    }

    fn can_end(&self, card: usize) -> bool {
        matches!(
            self.cards[card].life,
            Life::InUse | Life::Stopped | Life::Lost
        )
    }

    fn family(&self, main: usize) -> Vec<usize> {
        let of = |card: &usize| {
            self.cards[*card].main == Some(main)
                && !matches!(self.cards[*card].life, Life::Replaced(_) | Life::Retired(_))
        };
        (0..self.cards.len()).filter(of).collect()
    }

    fn new_card(&mut self, main: Option<usize>, sats: i64) -> usize {
        self.cards.push(Paper {
            life: Life::InUse,
            main,
            sats,
        });
        self.cards.len() - 1
    }

    fn replace(&mut self, card: usize) -> bool {
        if !self.can_end(card) {
            return false;
        }
        let main = self.cards[card].main;
        let sats = if main.is_none() {
            std::mem::take(&mut self.cards[card].sats)
        } else {
            0
        };
        let family = self.family(card);
        let new = self.new_card(main, sats);
        for member in family {
            self.cards[member].main = Some(new);
        }
        self.cards[card].life = Life::Replaced(new);
        true
    }

    /// The card whose turn it is where this one was.
    fn now(&self, card: usize) -> usize {
        match self.cards[card].life {
            Life::Replaced(next) => self.now(next),
            _ => card,
        }
    }

    fn retire(&mut self, card: usize, to: Place) -> bool {
        let is_member = self.cards[card].main.is_some();
        let to = match to {
            Place::Card(other) => {
                let other = self.now(other);
                if self.cards[other].life != Life::InUse {
                    return false;
                }
                if !is_member && self.purse(other) == card {
                    return false;
                }
                Place::Card(other)
            }
            Place::Shop => Place::Shop,
        };
        if !self.can_end(card) || !self.family(card).is_empty() {
            return false;
        }
        if is_member {
            self.cards[card].life = Life::Retired(None);
            return true;
        }
        let sats = std::mem::take(&mut self.cards[card].sats);
        self.cards[card].life = Life::Retired(Some(to));
        self.give(card, sats);
        true
    }
}

/// What people have in their hands.
struct Hands {
    id: CardId,
    chip: VirtualCard,
    holder: Credential,
}

struct World {
    engine: Engine,
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    shop: Merchant,
    hands: Vec<Hands>,
    charges: Vec<ChargeId>,
    model: Model,
    chips: usize,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOON));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let builder = Engine::builder(store.clone(), shop::master()).clock(clock.clone());
        let engine = builder.network("regtest").open().await.unwrap();
        let shop = shop::merchant(&engine, "Cookshop").await;
        let mut world = Self {
            engine,
            store,
            clock,
            shop,
            hands: Vec::new(),
            charges: Vec::new(),
            model: Model::default(),
            chips: 0,
        };
        for number in 0..3 {
            world.chips += 1;
            let chip = crate::hands::uid(world.chips);
            let card = shop::card(&world.engine, &chip, CardLimits::default()).await;
            fund(&*world.store, number, card.id, 1_000).await;
            world.hands.push(Hands {
                id: card.id,
                chip: card.chip,
                holder: card.holder,
            });
            world.model.new_card(None, 1_000);
        }
        world
    }

    /// The credential of whoever decides about a card.
    fn owner(&self, card: usize) -> Credential {
        self.hands[self.model.purse(card)].holder.clone()
    }

    async fn pay(&mut self, card: usize, sats: i64, name: &str, now: bool) -> (bool, bool) {
        let lawful = self.model.can_pay(card, sats);
        let tap = self.hands[card].chip.tap();
        let till = self.shop.till.clone();
        let purse = self.model.purse(card);
        let (cards, key, price) = (self.engine.cards(), key(name), sat(sats));
        let (reference, pin, number) = (name.to_owned(), None, self.charges.len());
        let answer = if now {
            let command = ChargeCard {
                key,
                tap,
                price,
                reference,
                pin,
            };
            cards.charge(&till, command).await
        } else {
            let command = AuthorizeCard {
                key,
                tap,
                price,
                reference,
                pin,
            };
            cards.authorize(&till, command).await
        };
        let done = answer.map(|charge| self.charges.push(charge.id)).is_ok();
        if lawful {
            self.model.cards[purse].sats -= sats;
            let sale = Sale { from: purse, sats };
            if now {
                self.model.shop += sats;
                self.model.paid.insert(number, sale);
            } else {
                self.model.tabs.insert(number, sale);
            }
        }
        (lawful, done)
    }

    async fn close(&mut self, number: usize, sats: i64, name: &str) -> (bool, bool) {
        let (cards, till) = (self.engine.cards(), self.shop.till.clone());
        let (charge, key) = (self.charges[number], key(name));
        let tab = self.model.tabs.get(&number).copied();
        let lawful = tab.is_some_and(|tab| sats <= tab.sats);
        let done = if sats == 0 {
            cards
                .release(&till, ReleaseCharge { key, charge })
                .await
                .is_ok()
        } else {
            let amount_msat = sats * SAT;
            cards
                .capture(
                    &till,
                    CaptureCharge {
                        key,
                        charge,
                        amount: flashkit::cards::ChargeAmount::Bitcoin { amount_msat },
                    },
                )
                .await
                .is_ok()
        };
        if lawful && let Some(tab) = self.model.tabs.remove(&number) {
            self.model.shop += sats;
            self.model.give(tab.from, tab.sats - sats);
            if sats > 0 {
                self.model.paid.insert(
                    number,
                    Sale {
                        from: tab.from,
                        sats,
                    },
                );
            }
        }
        (lawful, done)
    }

    async fn refund(&mut self, number: usize, sats: i64, name: &str) -> (bool, bool) {
        let paid = self.model.paid.get(&number).copied();
        let lawful = paid.is_some_and(|paid| sats <= paid.sats) && sats <= self.model.shop;
        let (charge, amount_msat) = (self.charges[number], sats * SAT);
        let command = RefundCharge {
            key: key(name),
            charge,
            amount: flashkit::cards::ChargeAmount::Bitcoin { amount_msat },
        };
        let answer = self.engine.cards().refund(&self.shop.till, command).await;
        let done = answer.is_ok();
        if lawful && !done {
            println!("{name}: {answer:?}");
        }
        if lawful && let Some(paid) = self.model.paid.get_mut(&number) {
            paid.sats -= sats;
            let from = paid.from;
            self.model.shop -= sats;
            self.model.give(from, sats);
        }
        (lawful, done)
    }

    async fn replace(&mut self, card: usize, name: &str) -> (bool, bool) {
        self.chips += 1;
        let (id, mut chip) = blank(&self.engine, self.chips).await;
        let (owner, tap) = (self.owner(card), chip.tap());
        let answer = replace(&self.engine, &owner, name, self.hands[card].id, &tap).await;
        let again = replace(&self.engine, &owner, name, self.hands[card].id, &tap).await;
        assert_eq!(told(answer.clone()), told(again), "{name}");
        let lawful = self.model.replace(card);
        let done = answer.is_ok();
        if let Ok(answer) = answer {
            self.hands.push(Hands {
                id,
                chip,
                holder: answer.holder.clone(),
            });
        }
        (lawful, done)
    }

    async fn join(&mut self, main: usize, name: &str) -> (bool, bool) {
        self.chips += 1;
        let (id, mut chip) = blank(&self.engine, self.chips).await;
        let (by, tap) = (self.hands[main].holder.clone(), chip.tap());
        let limits = CardLimits::default();
        let answer = add(&self.engine, &by, name, self.hands[main].id, &tap, limits).await;
        let paper = &self.model.cards[main];
        let lawful = paper.life == Life::InUse && paper.main.is_none();
        let done = answer.is_ok();
        if lawful {
            self.model.new_card(Some(main), 0);
        }
        if let Ok(answer) = answer {
            self.hands.push(Hands {
                id,
                chip,
                holder: answer.holder.clone(),
            });
        }
        (lawful, done)
    }

    async fn stop(&mut self, card: usize, what: usize, name: &str) -> (bool, bool) {
        let (owner, id) = (self.owner(card), self.hands[card].id);
        let before = self.model.cards[card].life;
        let (lawful, after, done) = match what {
            0 => (
                before == Life::InUse,
                Life::Stopped,
                freeze(&self.engine, &owner, name, id).await,
            ),
            1 => (
                before == Life::Stopped,
                Life::InUse,
                unfreeze(&self.engine, &owner, name, id).await,
            ),
            _ => (
                matches!(before, Life::InUse | Life::Stopped),
                Life::Lost,
                lose(&self.engine, &owner, name, id).await,
            ),
        };
        if lawful {
            self.model.cards[card].life = after;
        }
        (lawful, done.is_ok())
    }

    async fn retire(&mut self, card: usize, to: Place, name: &str) -> (bool, bool) {
        let asked = match to {
            Place::Card(other) => RetireTo::Card {
                card: self.hands[other].id,
            },
            Place::Shop => RetireTo::Merchant {
                merchant: self.shop.id,
            },
        };
        let owner = self.owner(card);
        let done = retire(&self.engine, &owner, name, self.hands[card].id, asked).await;
        let lawful = self.model.retire(card, to);
        (lawful, done.is_ok())
    }

    /// A day goes by: what nobody captured comes back.
    async fn sleep(&mut self) -> (bool, bool) {
        self.clock.advance(DAY);
        let run = self.engine.run_due_jobs().await.unwrap();
        assert_eq!(run.failed, []);
        for (_, tab) in std::mem::take(&mut self.model.tabs) {
            self.model.give(tab.from, tab.sats);
        }
        (true, true)
    }

    async fn step(&mut self, chance: &mut Chance, name: &str) -> (&'static str, (bool, bool)) {
        let (card, sats) = (
            chance.below(self.hands.len()),
            i64::try_from(chance.below(400) + 1).unwrap(),
        );
        let number = chance.below(self.charges.len().max(1));
        let any = !self.charges.is_empty();
        match chance.below(32) {
            0..6 => ("charge", self.pay(card, sats, name, true).await),
            6..11 => ("authorize", self.pay(card, sats, name, false).await),
            11..14 if any => ("capture", self.close(number, sats, name).await),
            14..16 if any => ("release", self.close(number, 0, name).await),
            16..19 if any => ("refund", self.refund(number, sats, name).await),
            19..21 => ("freeze", self.stop(card, 0, name).await),
            21..24 => ("unfreeze", self.stop(card, 1, name).await),
            24 => ("lose", self.stop(card, 2, name).await),
            25..28 => ("replace", self.replace(card, name).await),
            28 => ("retire", self.retire(card, Place::Shop, name).await),
            29 => {
                let to = Place::Card(chance.below(self.hands.len()));
                ("retire to a card", self.retire(card, to, name).await)
            }
            30 => ("join", self.join(card, name).await),
            _ => ("sleep", self.sleep().await),
        }
    }

    async fn compare(&self, step: &str) {
        let shop = has(&*self.store, Account::merchant_payable(self.shop.id)).await;
        assert_eq!(shop, self.model.shop, "the shop after {step}");
        for (card, hands) in self.hands.iter().enumerate() {
            let sats = on_card(&*self.store, hands.id).await;
            assert_eq!(
                sats, self.model.cards[card].sats,
                "card {card} after {step}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_life_is_as_the_model_has_it() {
    let mut fired: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    let mut forwarded = 0;
    for seed in 0..24 {
        let (mut world, mut chance) = (World::new().await, Chance(seed));
        for number in 0..70 {
            let name = format!("{seed}/{number}");
            let (what, (lawful, done)) = world.step(&mut chance, &name).await;
            assert_eq!(done, lawful, "{what} in {name}");
            world.compare(&format!("{what} in {name}")).await;
            let count = fired.entry(what).or_default();
            if done { count.0 += 1 } else { count.1 += 1 }
        }
        let out = |card: &&Paper| matches!(card.life, Life::Replaced(_) | Life::Retired(_));
        for card in world.model.cards.iter().filter(out) {
            assert_eq!(card.sats, 0);
            forwarded += 1;
        }
        let all: i64 = world.model.cards.iter().map(|card| card.sats).sum();
        let aside: i64 = world.model.tabs.values().map(|tab| tab.sats).sum();
        assert_eq!(all + aside + world.model.shop, 3_000);
        crate::support::books::expect_sound(&world.engine, "any life").await;
        world.engine.stop().await.unwrap();
    }
    println!("done and refused: {fired:?}; {forwarded} cards out of use");
    for (what, (done, refused)) in fired {
        assert!(
            done > 0 && (refused > 0 || what == "sleep"),
            "{what}: {done} {refused}"
        );
    }
}
