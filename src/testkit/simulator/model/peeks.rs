//! Looks at taps, and cards that are filled up by rule, as the model knows them.

use serde_json::Value;

use super::shop::CardStanding;
use super::{Model, Wrong, not_lawful, number, parse, wrong};
use crate::ids::CardId;
use crate::ledger::EventRecord;
use crate::testkit::simulator::tally::Transition;

/// How long a tap is good once it was looked at.
const VALID_MS: i64 = 120_000;
const DAY_MS: i64 = 24 * 3_600_000;

/// The highest tap of a card that was looked at, as whoever looked was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peeked {
    counter: i64,
    /// It was written down by then.
    by_ms: i64,
}

/// How a card is filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TopUpRule {
    below_msat: i64,
    to_msat: i64,
    times_per_day: i64,
    /// The card it comes from; `None` from outside.
    from: Option<CardId>,
    day: i64,
    times: i64,
}

impl TopUpRule {
    /// As another card has it from now on.
    pub(super) fn anew(self) -> Self {
        let (day, times) = (0, 0);
        Self { day, times, ..self }
    }
}

impl Model {
    /// Somebody was told of a look at a tap. A look makes no event: it was made by the latest time
    /// that there ever was.
    pub(crate) fn peeked(&mut self, card: CardId, counter: i64, latest_ms: i64) {
        let by_ms = self.last_ms.max(latest_ms);
        let known = self.peeks.entry(card).or_insert(Peeked { counter, by_ms });
        if counter > known.counter {
            *known = Peeked { counter, by_ms };
        }
    }

    /// A tap is neither behind one that was looked at, nor too old.
    pub(super) fn require_fresh(
        &self,
        card: CardId,
        counter: i64,
        since_ms: i64,
    ) -> Result<(), Wrong> {
        let Some(Peeked {
            counter: seen,
            by_ms,
        }) = self.peeks.get(&card).copied()
        else {
            return Ok(());
        };
        if counter < seen {
            return not_lawful(format!("tap {counter}, and {seen} was looked at"));
        }
        // Nobody can have decided about it before it was asked for.
        if counter == seen && since_ms >= by_ms + VALID_MS {
            return not_lawful("a tap that is too old");
        }
        Ok(())
    }

    pub(super) fn rule_set(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let card: CardId = parse(&event.object)?;
        let rule = event.body.get("auto_top_up").filter(|it| !it.is_null());
        self.fire(Transition::TopUpRuleSet);
        let Some(rule) = rule else {
            self.top_ups.remove(&card);
            return Ok(());
        };
        let from = rule.get("from").and_then(|from| from.get("card"));
        let from = from.and_then(Value::as_str).map(parse).transpose()?;
        let before = self.top_ups.get(&card);
        let rule = TopUpRule {
            below_msat: number(rule, "below_msat")?,
            to_msat: number(rule, "to_msat")?,
            times_per_day: number(rule, "times_per_day")?,
            from,
            day: before.map_or(0, |it| it.day),
            times: before.map_or(0, |it| it.times),
        };
        self.top_ups.insert(card, rule);
        Ok(())
    }

    /// A card ran low.
    pub(super) fn ran_low(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let card: CardId = parse(&event.object)?;
        let Some(known) = self.cards.get(&card) else {
            return not_lawful("a card of nobody");
        };
        if known.standing != CardStanding::Active {
            return not_lawful("a card that is not in use");
        }
        let most_msat = known.rules.max_balance_msat;
        let Some(rule) = self.top_ups.get_mut(&card) else {
            return not_lawful("no rule");
        };
        let day = event.at_ms.div_euclid(DAY_MS);
        if rule.day != day {
            (rule.day, rule.times) = (day, 0);
        }
        rule.times += 1;
        if rule.times > rule.times_per_day {
            return not_lawful("more often than it may be");
        }
        let rule = *rule;
        let wanted_msat = number(&event.body, "amount_msat")?;
        if number(&event.body, "balance_msat")? >= rule.below_msat {
            return not_lawful("it was not low");
        }
        let (to, fired) = (self.balance_of(card), event.kind.as_str());
        let Some(from) = rule.from.filter(|_| fired == "card.topped_up") else {
            let is_failed = fired == "card.top_up_failed";
            self.fire(match is_failed {
                true => Transition::TopUpFailed,
                false => Transition::TopUpWanted,
            });
            return Ok(());
        };
        let source = self.now(from);
        let is_active = |it: &super::KnownCard| it.standing == CardStanding::Active;
        if !self.cards.get(&source).is_some_and(is_active) {
            return not_lawful("from a card that is not in use");
        }
        let from = self.balance_of(source);
        let ceiling = i128::from(rule.to_msat.min(most_msat));
        let room = i64::try_from(ceiling - self.books.highest(&to)).unwrap_or(0);
        let moved = wanted_msat.min(room).min(self.books.to_give(&from));
        if moved > 0 && from != to {
            self.books.post(from, to, moved);
        }
        self.fire(Transition::ToppedUp);
        Ok(())
    }

    /// What a look at a tap tells of the card's balance was so meanwhile.
    pub(crate) fn told_balance(
        &self,
        answer: &Value,
        card: CardId,
        (least, most): (i64, i64),
        latest_ms: i64,
    ) -> Result<(), Wrong> {
        let told = number(answer, "balance_msat")?;
        // One in whose place another came shows nothing of its money.
        let standing = self.cards.get(&card).map(|known| known.standing);
        if standing == Some(CardStanding::Replaced) && told == 0 {
            return Ok(());
        }
        // What is over by the clock counts as there, before a commit has said so.
        let most = most + self.due_msat(&self.balance_of(card), latest_ms);
        if told < least || told > most {
            let detail = format!("{told} msat told, {least} to {most} msat there");
            return wrong("a till is told what is so", detail);
        }
        Ok(())
    }
}
