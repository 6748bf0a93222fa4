//! Cards, merchants and points, as the model knows them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::refunds::SalePoints;
use super::{Asked, Model, PinSeen, Wrong, not_lawful, number, parse, text, wrong};
use crate::ids::{CardId, ChargeId, MerchantId, ProgramId};
use crate::ledger::{Account, EventRecord};
use crate::testkit::simulator::commands::Seen;
use crate::testkit::simulator::tally::Transition;

const DAY_MS: i64 = 24 * 3_600_000;
const HOUR_MS: i64 = 3_600_000;

/// What a card may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CardRules {
    pub(crate) per_tap_msat: i64,
    pub(crate) per_day_msat: i64,
    pub(crate) taps_per_hour: i64,
    pub(crate) max_balance_msat: i64,
    /// What a tap may spend without the PIN.
    pub(crate) pin_above_msat: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CardStanding {
    Issued,
    Active,
    Frozen,
    Replaced,
}

pub(crate) struct KnownCard {
    pub(crate) standing: CardStanding,
    pub(super) rules: CardRules,
    pub(super) counter: i64,
    /// The taps that were used.
    used: BTreeSet<i64>,
    pub(super) replaced_by: Option<CardId>,
    /// Since when it is out of use.
    pub(super) stopped_at_ms: Option<i64>,
    pub(super) line: CardId,
    pub(crate) family_of: Option<CardId>,
}

/// By day and by hour since the epoch.
#[derive(Default)]
pub(super) struct Usage {
    spent: BTreeMap<i64, i64>,
    taps: BTreeMap<i64, i64>,
}

#[derive(Default)]
pub(crate) struct KnownMerchant {
    pub(crate) program: Option<ProgramId>,
}

pub(crate) struct KnownProgram {
    earn_bps: i64,
    point_value_msat: i64,
}

impl KnownProgram {
    pub(super) fn value_msat(&self) -> i64 {
        self.point_value_msat
    }

    pub(super) fn points_for(&self, amount_msat: i64) -> i64 {
        let earned = i128::from(amount_msat) * i128::from(self.earn_bps) / 10_000;
        i64::try_from(earned / i128::from(self.point_value_msat)).unwrap_or(0)
    }
}

impl Model {
    pub(super) fn read_shop(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let (object, body) = (event.object.as_str(), &event.body);
        match event.kind.as_str() {
            "capital.booked" => self.capital(text(body, "reason")?),
            "merchant.created" => {
                self.take(text(body, "name")?)?;
                self.merchants
                    .insert(parse(object)?, KnownMerchant::default());
                self.fire(Transition::MerchantCreated);
                Ok(())
            }
            "till.paired" => {
                self.take(text(body, "label")?)?;
                self.fire(Transition::TillPaired);
                Ok(())
            }
            "till.revoked" => {
                self.fire(Transition::TillRevoked);
                Ok(())
            }
            "program.created" => self.program(object, text(body, "name")?),
            "card.issued" => self.issued(object, body),
            "card.charged" => self.charged(event),
            "card.authorized"
            | "card.captured"
            | "card.released"
            | "card.authorization_expired" => self.read_tab(event),
            "card.points_given" | "card.points_refunded" => Ok(()),
            "card.refunded" => self.charge_refunded(event),
            "card.pin_set" | "card.pin_wrong" | "card.pin_locked" | "card.pin_unlocked" => {
                self.read_pin(event)
            }
            "card.auto_top_up_set" => self.rule_set(event),
            "card.topped_up" | "card.top_up_wanted" | "card.top_up_failed" => self.ran_low(event),
            "points.redeemed" => self.redeemed(body),
            _ => self.card_changed(event),
        }
    }

    fn capital(&mut self, name: &str) -> Result<(), Wrong> {
        let Asked::Capital(amount) = self.take(name)? else {
            return wrong("nothing happens that nobody asked for", name);
        };
        self.books
            .post(Account::node_onchain(), Account::operator_capital(), amount);
        self.capital_msat += amount;
        self.fire(Transition::CapitalBooked);
        Ok(())
    }

    fn program(&mut self, object: &str, name: &str) -> Result<(), Wrong> {
        let Asked::Program {
            merchant,
            earn_bps,
            point_value_msat,
        } = self.take(name)?
        else {
            return wrong("nothing happens that nobody asked for", name);
        };
        let id: ProgramId = parse(object)?;
        let Some(owner) = self.merchants.get_mut(&merchant) else {
            return not_lawful("a program of nobody");
        };
        if owner.program.replace(id).is_some() {
            return not_lawful("a second program");
        }
        let known = KnownProgram {
            earn_bps,
            point_value_msat,
        };
        self.programs.insert(id, known);
        self.fire(Transition::ProgramCreated);
        Ok(())
    }

    /// The name of what was asked is in the one limit that no two have in common.
    fn rules_in(&mut self, body: &Value) -> Result<Asked, Wrong> {
        let limits = body.get("limits").unwrap_or(body);
        let name = format!("limits/{}", number(limits, "max_balance")?);
        self.take(&name)
    }

    fn issued(&mut self, object: &str, body: &Value) -> Result<(), Wrong> {
        let Asked::Card(rules) = self.rules_in(body)? else {
            return wrong("nothing happens that nobody asked for", object);
        };
        let id = parse(object)?;
        let known = KnownCard {
            standing: CardStanding::Issued,
            rules,
            counter: 0,
            used: BTreeSet::new(),
            replaced_by: None,
            stopped_at_ms: None,
            line: id,
            family_of: None,
        };
        self.cards.insert(id, known);
        self.fire(Transition::CardIssued);
        Ok(())
    }

    fn card_changed(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        use CardStanding::{Active, Frozen, Issued};
        let id: CardId = parse(&event.object)?;
        let (from, to, transition) = match event.kind.as_str() {
            "card.replaced" => return self.replaced(id, &event.body),
            "card.activated" => {
                let is_placed = |name| event.body.get(name).is_some_and(Value::is_string);
                if is_placed("replaces") || is_placed("family_of") {
                    self.placed(id, &event.body)?;
                }
                (Issued, Active, Transition::CardActivated)
            }
            "card.frozen" => (Active, Frozen, Transition::CardFrozen),
            "card.unfrozen" => (Frozen, Active, Transition::CardUnfrozen),
            "card.holder_renewed" => {
                self.fire(Transition::HolderRenewed);
                return Ok(());
            }
            "card.limits_set" => {
                let Asked::Limits(card, rules) = self.rules_in(&event.body)? else {
                    return wrong("nothing happens that nobody asked for", &event.object);
                };
                let known = self.cards.get_mut(&card).filter(|_| card == id);
                let Some(known) = known else {
                    return not_lawful("limits of another card");
                };
                known.rules = rules;
                self.fire(Transition::LimitsSet);
                return Ok(());
            }
            _ => return wrong("every event can be dealt with", format!("{event:?}")),
        };
        match self.cards.get_mut(&id) {
            Some(card) if card.standing == from => {
                card.standing = to;
                card.stopped_at_ms = stopped_at(&event.body);
            }
            _ => return not_lawful("from another state"),
        }
        self.fire(transition);
        Ok(())
    }

    fn charged(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let name = text(&event.body, "reference")?;
        let id: ChargeId = parse(text(&event.body, "id")?)?;
        let (card, merchant, amount_msat, is_offline) = match self.take(name)? {
            Asked::Charge {
                card,
                merchant,
                counter,
                amount_msat,
                pin,
                since_ms,
            } => {
                self.require_fresh(card, counter, since_ms)?;
                self.require_pin(card, pin, amount_msat)?;
                self.use_next_tap(card, counter, amount_msat, event.at_ms)?;
                (card, merchant, amount_msat, false)
            }
            Asked::Offline(taken) => {
                let paid_msat = number(&event.body, "amount_msat")?;
                if paid_msat > taken.amount_msat {
                    return not_lawful("more than the sale");
                }
                if self.needs_pin(taken.card, paid_msat) {
                    return not_lawful("without the PIN");
                }
                self.paid_offline.insert(name.to_owned(), paid_msat);
                self.use_tap(taken.card, taken.counter, paid_msat, event.at_ms)?;
                (taken.card, taken.merchant, paid_msat, true)
            }
            _ => return wrong("nothing happens that nobody asked for", name),
        };
        let (from, earned) = self.pay(card, merchant, amount_msat)?;
        if !is_offline {
            let whose = (card, merchant);
            self.note_charge((id, from), whose, amount_msat, event.at_ms, earned);
        }
        self.fire(Transition::Charged);
        Ok(())
    }

    /// A card pays a merchant, who gives points for it.
    fn pay(
        &mut self,
        card: CardId,
        merchant: MerchantId,
        amount_msat: i64,
    ) -> Result<(Account, Option<SalePoints>), Wrong> {
        let balance = self.balance_of(card);
        let to_give = self.books.to_give(&balance);
        if to_give < amount_msat {
            return not_lawful(format!("{amount_msat} msat of {to_give} msat"));
        }
        let payable = Account::merchant_payable(merchant);
        self.books.post(balance, payable, amount_msat);
        let earned = self.give_points(card, merchant, amount_msat);
        self.net(payable, payable, amount_msat);
        Ok((balance, earned))
    }

    pub(super) fn give_points(
        &mut self,
        card: CardId,
        merchant: MerchantId,
        amount_msat: i64,
    ) -> Option<SalePoints> {
        let payable = Account::merchant_payable(merchant);
        let line = self.line(card);
        let program = self.merchants.get(&merchant)?.program?;
        let known = self.programs.get(&program)?;
        let points = known.points_for(amount_msat);
        let value_msat = points * known.point_value_msat;
        if points == 0 {
            return None;
        }
        self.books
            .post(payable, Account::reward_fund(program), value_msat);
        let (issued, given) = (
            Account::points_issued(program),
            Account::points_balance(line, program),
        );
        self.books.post(issued, given, points);
        self.fire(Transition::PointsGiven);
        Some(SalePoints {
            line,
            program,
            points,
            amount_msat,
        })
    }

    fn redeemed(&mut self, body: &Value) -> Result<(), Wrong> {
        let (card, points) = (parse(text(body, "card")?)?, number(body, "points")?);
        let id: ProgramId = parse(text(body, "program")?)?;
        match self.redeeming.get_mut(&(card, points)) {
            Some(times) if *times > 0 => *times -= 1,
            _ => return wrong("nothing is done twice", "a redemption"),
        }
        let given = Account::points_balance(self.line(card), id);
        let fund = Account::reward_fund(id);
        let Some(program) = self.programs.get(&id) else {
            return not_lawful("points of no program");
        };
        let value_msat = points * program.point_value_msat;
        if self.books.to_give(&given) < points || self.books.to_give(&fund) < value_msat {
            return not_lawful("points that are not there");
        }
        let balance = self.balance_of(card);
        self.require_room(card, value_msat)?;
        self.books.post(given, Account::points_issued(id), points);
        self.books.post(fund, balance, value_msat);
        self.fire(Transition::PointsRedeemed);
        Ok(())
    }

    /// How the card of a charge stands.
    pub(crate) fn seen(&self, name: &str) -> Option<Seen> {
        let (card, counter, amount_msat, pin) = match self.asked.get(name)? {
            Asked::Charge {
                card,
                counter,
                amount_msat,
                pin,
                ..
            }
            | Asked::Tab {
                card,
                counter,
                amount_msat,
                pin,
                ..
            } => (card, counter, amount_msat, *pin),
            Asked::CardPay {
                card,
                counter,
                needs_msat,
                pin,
                ..
            } => (card, counter, needs_msat, *pin),
            Asked::Peek { card, counter } => (card, counter, &0, None),
            _ => return None,
        };
        let mut seen = Seen {
            card: *card,
            counter: *counter,
            amount_msat: *amount_msat,
            least_msat: i64::MAX,
            most_msat: i64::MIN,
            was_stopped: false,
            last_counter: 0,
            pin: PinSeen::of(pin),
        };
        self.look_again(&mut seen);
        Some(seen)
    }

    /// How it stands since then.
    pub(crate) fn look_again(&self, seen: &mut Seen) {
        let to_spend = self.books.to_give(&self.balance_of(seen.card));
        seen.least_msat = seen.least_msat.min(to_spend);
        seen.most_msat = seen.most_msat.max(to_spend);
        if let Some(known) = self.cards.get(&seen.card) {
            seen.was_stopped |= known.standing != CardStanding::Active;
            seen.last_counter = known.counter;
        }
        self.look_at_pin(&mut seen.pin, seen.card, seen.amount_msat);
    }

    /// The card is in use, and this much more fits on it.
    pub(super) fn require_room(&self, card: CardId, amount_msat: i64) -> Result<(), Wrong> {
        let card = self.now(card);
        let Some(known) = self.cards.get(&card) else {
            return not_lawful("a card of nobody");
        };
        if known.standing != CardStanding::Active {
            return not_lawful("a card that is not in use");
        }
        let highest = self.books.highest(&self.balance_of(card)) + i128::from(amount_msat);
        if highest > i128::from(known.rules.max_balance_msat) {
            return not_lawful("more than the card may have");
        }
        Ok(())
    }
}

pub(super) fn stopped_at(body: &Value) -> Option<i64> {
    body.get("stopped_at_ms").and_then(Value::as_i64)
}

impl KnownCard {
    pub(super) fn is_used(&self, counter: i64) -> bool {
        self.used.contains(&counter)
    }

    /// A tap is used once.
    pub(super) fn claim(&mut self, counter: i64) -> Result<(), Wrong> {
        if !self.used.insert(counter) {
            return not_lawful(format!("tap {counter} a second time"));
        }
        self.counter = self.counter.max(counter);
        Ok(())
    }
}

impl Model {
    /// A tap at a till with a connection is later than all that were used.
    pub(super) fn use_next_tap(
        &mut self,
        card: CardId,
        counter: i64,
        amount_msat: i64,
        at_ms: i64,
    ) -> Result<(), Wrong> {
        let known = self.cards.get(&card);
        if known.is_none_or(|it| counter <= it.counter) {
            return not_lawful(format!("tap {counter} after another one"));
        }
        self.use_tap(card, counter, amount_msat, at_ms)
    }

    /// What was counted at a time counts no more.
    pub(super) fn give_back_usage(&mut self, card: CardId, at_ms: i64, amount_msat: i64) {
        let usage = self.usage.entry(self.line(card)).or_default();
        *usage.spent.entry(at_ms.div_euclid(DAY_MS)).or_default() -= amount_msat;
    }

    pub(super) fn use_tap(
        &mut self,
        card: CardId,
        counter: i64,
        amount_msat: i64,
        at_ms: i64,
    ) -> Result<(), Wrong> {
        let Some(known) = self.cards.get_mut(&card) else {
            return not_lawful("a card of nobody");
        };
        if known.standing != CardStanding::Active {
            return not_lawful("a card that is not in use");
        }
        known.claim(counter)?;
        let (rules, line) = (known.rules, known.line);
        if amount_msat > rules.per_tap_msat {
            return not_lawful("more than a tap may spend");
        }
        let usage = self.usage.entry(line).or_default();
        let spent = usage.spent.entry(at_ms.div_euclid(DAY_MS)).or_default();
        *spent += amount_msat;
        let taps = usage.taps.entry(at_ms.div_euclid(HOUR_MS)).or_default();
        *taps += 1;
        if *spent > rules.per_day_msat {
            return not_lawful("more than a day may spend");
        }
        if *taps > rules.taps_per_hour {
            return not_lawful("more taps than an hour may have");
        }
        Ok(())
    }
}
