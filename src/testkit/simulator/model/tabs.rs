//! Tabs: what is set aside on a card by a tap, and taken, given back or over later.

use std::collections::BTreeSet;

use super::{Asked, Model, Wrong, not_lawful, number, parse, text, wrong};
use crate::ids::{CardId, ChargeId, MerchantId};
use crate::ledger::{Account, EventRecord};
use crate::testkit::simulator::tally::Transition;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TabStanding {
    Open,
    /// Its time is up, whether or not the engine has said so.
    Over,
    Ended,
}

pub(crate) struct KnownTab {
    pub(crate) standing: TabStanding,
    pub(crate) merchant: MerchantId,
    pub(crate) amount_msat: i64,
    card: CardId,
    /// The account that it was set aside on.
    from: Account,
    expires_at_ms: i64,
    /// When it was counted towards the card's limits.
    at_ms: i64,
    captures: BTreeSet<i64>,
    was_told: bool,
}

impl Model {
    /// So much of a tab may be taken from now on.
    pub(crate) fn ask_capture(&mut self, tab: ChargeId, amount_msat: i64) {
        if let Some(tab) = self.tabs.get_mut(&tab) {
            tab.captures.insert(amount_msat);
        }
    }

    pub(super) fn read_tab(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let id: ChargeId = parse(text(&event.body, "id")?)?;
        if event.kind == "card.authorized" {
            return self.authorized(id, event);
        }
        let Some(tab) = self.tabs.get_mut(&id) else {
            return not_lawful("a tab of nobody");
        };
        let KnownTab {
            standing,
            amount_msat,
            card,
            from,
            merchant,
            at_ms,
            ..
        } = *tab;
        let payable = Account::merchant_payable(merchant);
        match (event.kind.as_str(), standing) {
            ("card.authorization_expired", TabStanding::Over) if !tab.was_told => {
                tab.was_told = true;
                self.fire(Transition::TabExpired);
            }
            // Decided in time, and committed when it was over: it has the money back already.
            ("card.released", TabStanding::Over) if !tab.was_told => {
                tab.standing = TabStanding::Ended;
                self.fire(Transition::TabReleased);
            }
            ("card.captured", TabStanding::Open) => {
                let taken_msat = number(&event.body, "amount_msat")?;
                if !tab.captures.contains(&taken_msat) || taken_msat > amount_msat {
                    return wrong("nothing happens that nobody asked for", "a capture");
                }
                tab.standing = TabStanding::Ended;
                self.books.pend(from, payable, -amount_msat);
                self.books.post(from, payable, taken_msat);
                self.give_back_usage(card, at_ms, amount_msat - taken_msat);
                let earned = self.give_points(card, merchant, taken_msat);
                self.net(payable, payable, taken_msat);
                self.note_charge((id, from), (card, merchant), taken_msat, at_ms, earned);
                self.fire(if taken_msat < amount_msat {
                    Transition::TabCapturedInPart
                } else {
                    Transition::TabCaptured
                });
            }
            ("card.released", TabStanding::Open) => {
                tab.standing = TabStanding::Ended;
                self.books.pend(from, payable, -amount_msat);
                self.give_back_usage(card, at_ms, amount_msat);
                self.fire(Transition::TabReleased);
            }
            _ => return not_lawful(format!("from {standing:?}")),
        }
        self.go_on(from);
        Ok(())
    }

    fn authorized(&mut self, id: ChargeId, event: &EventRecord) -> Result<(), Wrong> {
        let name = text(&event.body, "reference")?;
        let Asked::Tab {
            card,
            merchant,
            counter,
            amount_msat,
            pin,
            since_ms,
        } = self.take(name)?
        else {
            return wrong("nothing happens that nobody asked for", name);
        };
        self.require_fresh(card, counter, since_ms)?;
        self.require_pin(card, pin, amount_msat)?;
        self.use_next_tap(card, counter, amount_msat, event.at_ms)?;
        let from = self.balance_of(card);
        if self.books.to_give(&from) < amount_msat {
            return not_lawful("more than the card has");
        }
        let payable = Account::merchant_payable(merchant);
        self.books.pend(from, payable, amount_msat);
        let tab = KnownTab {
            standing: TabStanding::Open,
            merchant,
            amount_msat,
            card,
            from,
            expires_at_ms: number(&event.body, "expires_at_ms")?,
            at_ms: event.at_ms,
            captures: BTreeSet::new(),
            was_told: false,
        };
        self.tabs.insert(id, tab);
        self.fire(Transition::TabOpened);
        Ok(())
    }

    /// Tabs whose time is up by now: what they held is there again.
    pub(super) fn end_tabs(&mut self) {
        let now_ms = self.last_ms;
        let mut ended = Vec::new();
        for tab in self.tabs.values_mut() {
            if tab.standing == TabStanding::Open && tab.expires_at_ms <= now_ms {
                tab.standing = TabStanding::Over;
                ended.push((tab.from, tab.merchant, tab.card, tab.at_ms, tab.amount_msat));
            }
        }
        for (from, merchant, card, at_ms, amount_msat) in ended {
            let payable = Account::merchant_payable(merchant);
            self.books.pend(from, payable, -amount_msat);
            self.give_back_usage(card, at_ms, amount_msat);
        }
    }

    /// What tabs hold of an account that are over at a time.
    pub(super) fn due_msat(&self, from: &Account, at_ms: i64) -> i64 {
        let due = self.tabs.values().filter(|it| it.from == *from);
        let due = due.filter(|it| it.standing == TabStanding::Open && it.expires_at_ms <= at_ms);
        due.map(|it| it.amount_msat).sum()
    }

    /// Tabs that nobody has ended yet.
    pub(crate) fn open_tabs(&self) -> usize {
        let open = self.tabs.values();
        open.filter(|it| match it.standing {
            TabStanding::Open => true,
            TabStanding::Over => !it.was_told,
            TabStanding::Ended => false,
        })
        .count()
    }
}
