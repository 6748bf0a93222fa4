//! Cards in the place of others, cards that share a balance, and where money goes that comes to
//! one that is out of use.

use serde_json::Value;

use super::shop::{CardStanding, stopped_at};
use super::{Asked, Model, Wrong, not_lawful, parse, text, wrong};
use crate::ids::CardId;
use crate::ledger::{Account, AccountKind, Owner};
use crate::testkit::simulator::tally::Transition;

impl Model {
    /// The card that is in the place of this one by now.
    pub(crate) fn now(&self, card: CardId) -> CardId {
        let mut at = card;
        while let Some(next) = self.cards.get(&at).and_then(|it| it.replaced_by) {
            at = next;
        }
        at
    }

    /// The first one of a row of replacements: what was used and given is counted there.
    pub(crate) fn line(&self, card: CardId) -> CardId {
        self.cards.get(&card).map_or(card, |it| it.line)
    }

    /// The account that a card spends from.
    pub(crate) fn balance_of(&self, card: CardId) -> Account {
        let main = self.cards.get(&card).and_then(|it| it.family_of);
        Account::card_balance(main.unwrap_or(card))
    }

    /// Something of its balance is set aside, on its way, or owed.
    pub(crate) fn has_something_open(&self, card: CardId) -> bool {
        let balance = self.books.sum(&Account::card_balance(card));
        let owed = self.books.sum(&Account::card_receivable(card)).net;
        balance.debits_pending > 0 || balance.credits_pending > 0 || owed > 0
    }

    /// The account in whose place another one came.
    pub(crate) fn account_now(&self, account: Account) -> Account {
        match (account.kind(), account.owner()) {
            (AccountKind::CardBalance, Owner::Card(card)) => self.balance_of(self.now(card)),
            _ => account,
        }
    }

    /// What comes to a card that was replaced goes on at once.
    pub(super) fn go_on(&mut self, account: Account) {
        let to = self.account_now(account);
        let amount = self.books.to_give(&account);
        if to != account && amount > 0 {
            self.books.post(account, to, amount);
            self.fire(Transition::WentOn);
        }
    }

    /// Every account has its money where it belongs: nothing stays behind on one out of use.
    pub(super) fn replaced(&mut self, old: CardId, body: &Value) -> Result<(), Wrong> {
        let new: CardId = parse(text(body, "replaced_by")?)?;
        let Asked::Replacement { old: asked, .. } = self.take(&format!("placed/{new}"))? else {
            return wrong("nothing happens that nobody asked for", "a replacement");
        };
        let Some(known) = self.cards.get_mut(&old).filter(|_| asked == old) else {
            return not_lawful("a card that nobody wanted to be replaced");
        };
        if !matches!(known.standing, CardStanding::Active | CardStanding::Frozen) {
            return not_lawful("a card that is over");
        }
        known.standing = CardStanding::Replaced;
        known.replaced_by = Some(new);
        known.stopped_at_ms = stopped_at(body);
        let (rules, line, family_of) = (known.rules, known.line, known.family_of);
        match self.cards.get_mut(&new) {
            Some(new) if new.standing == CardStanding::Issued => {
                (new.rules, new.line, new.family_of) = (rules, line, family_of);
            }
            _ => return not_lawful("a card that is in use takes the place of another"),
        }
        self.fire(Transition::CardReplaced);
        self.carry_pin(old, new);
        if let Some(rule) = self.top_ups.remove(&old) {
            self.top_ups.insert(new, rule.anew());
        }
        if family_of.is_some() {
            return Ok(());
        }
        for member in self.cards.values_mut() {
            if member.family_of == Some(old) {
                member.family_of = Some(new);
            }
        }
        let [from, to] = [old, new].map(Account::card_balance);
        let amount = self.books.to_give(&from).max(0);
        self.books.post(from, to, amount);
        let [owed, owes] = [old, new].map(Account::card_receivable);
        let amount = i64::try_from(self.books.sum(&owed).net).unwrap_or(0);
        if amount > 0 {
            self.books.post(owes, owed, amount);
            self.fire(Transition::DebtWentOn);
        }
        Ok(())
    }

    /// A card that was handed over in the place of another one, or into a family.
    pub(super) fn placed(&mut self, id: CardId, body: &Value) -> Result<(), Wrong> {
        let counter = match self.asked.get(&format!("placed/{id}")) {
            Some(Asked::Replacement { counter, .. }) => *counter,
            Some(Asked::Family { .. }) => {
                let Asked::Family {
                    main,
                    counter,
                    rules,
                } = self.take(&format!("placed/{id}"))?
                else {
                    return Ok(());
                };
                let is_main = text(body, "family_of")? == main.to_string();
                let is_active = |it: &super::KnownCard| it.standing == CardStanding::Active;
                if !is_main || !self.cards.get(&main).is_some_and(is_active) {
                    return not_lawful("a family of a card that is not in use");
                }
                if let Some(known) = self.cards.get_mut(&id) {
                    (known.family_of, known.rules) = (Some(main), rules);
                }
                self.fire(Transition::FamilyGrew);
                counter
            }
            _ => return wrong("nothing happens that nobody asked for", "a card in a place"),
        };
        match self.cards.get_mut(&id) {
            Some(card) => card.claim(counter),
            None => not_lawful("a card of nobody"),
        }
    }
}
