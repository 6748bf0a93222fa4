//! What the books must come to: bookkeeping of its own, that takes nothing of the engine but ids,
//! names of accounts and amounts.
//!
//! It is told what was asked for, and reads the events as they stand on the disk, one after the
//! other. What an event means for money it knows by itself; whether the event was lawful at its
//! moment it judges by itself.

mod books;
pub(super) mod card_payments;
mod charges;
mod clerk;
mod holding;
mod invoices;
mod line;
pub(super) mod offline;
mod on_chain;
mod payments;
mod peeks;
mod pins;
mod refunds;
mod shop;
mod tabs;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub(super) use self::books::Books;
pub(super) use self::clerk::{ClerkBooks, ClerkStep, Move, Window};
pub(super) use self::invoices::{InvoiceStanding, KnownInvoice, OnChainTerms};
pub(super) use self::payments::{KnownPayout, PayoutStanding};
pub(super) use self::pins::PinSeen;
pub(super) use self::refunds::{AskedRefund, Bearer, RefundWay};
pub(super) use self::shop::{CardRules, CardStanding, KnownCard, KnownMerchant};
pub(super) use self::tabs::{KnownTab, TabStanding};
use super::chain::Chain;
use super::node::FaultyNode;
use super::tally::Transition;
use crate::ids::{
    CardId, CardPaymentId, ChargeId, InvoiceId, MerchantId, PayoutId, ProgramId, TransferId,
};
use crate::ledger::{Account, EventRecord};
use crate::lightning::PaymentHash;
use crate::lightning::simulated::SimulatedNode;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What noticed it.
    pub(super) check: &'static str,
    pub(super) detail: String,
}

pub(super) fn wrong<T>(check: &'static str, detail: impl Into<String>) -> Result<T, Wrong> {
    let detail = detail.into();
    Err(Wrong { check, detail })
}

/// What was asked for, by the name that it carries.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Capital(i64),
    Merchant,
    Till,
    Program {
        merchant: MerchantId,
        earn_bps: i64,
        point_value_msat: i64,
    },
    Invoice {
        owner: Account,
        amount_msat: i64,
        on_chain: Option<OnChainTerms>,
        is_hold: bool,
    },
    Charge {
        card: CardId,
        merchant: MerchantId,
        counter: i64,
        amount_msat: i64,
        pin: Option<u32>,
        /// No commit before it was asked for is later than this.
        since_ms: i64,
    },
    /// The same, to be set aside.
    Tab {
        card: CardId,
        merchant: MerchantId,
        counter: i64,
        amount_msat: i64,
        pin: Option<u32>,
        since_ms: i64,
    },
    /// Known by the invoice and the card.
    CardPay {
        card: CardId,
        counter: i64,
        /// What the card must have; nobody knows where the invoice is the engine's.
        needs_msat: i64,
        pin: Option<u32>,
        since_ms: i64,
    },
    /// A look at a tap.
    Peek {
        card: CardId,
        counter: i64,
    },
    Offline(TakenOffline),
    /// Known by the card that is placed.
    Replacement {
        old: CardId,
        counter: i64,
    },
    Family {
        main: CardId,
        counter: i64,
        rules: CardRules,
    },
    /// Known by its hash.
    Payout {
        merchant: MerchantId,
        amount_msat: i64,
    },
    /// Known by the largest balance of the card, which no other has.
    Card(CardRules),
    Limits(CardId, CardRules),
    Clerk(Vec<ClerkStep>),
    /// Known by its reason.
    Refund(AskedRefund),
}

/// A tap that a till took offline.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakenOffline {
    pub(super) card: CardId,
    pub(super) merchant: MerchantId,
    pub(super) counter: i64,
    pub(super) amount_msat: i64,
    pub(super) at_ms: i64,
    /// The merchant bears what a card cannot pay.
    pub(super) merchant_bears: bool,
}

/// The independent model.
#[derive(Default)]
pub(super) struct Model {
    pub(super) books: Books,
    asked: BTreeMap<String, Asked>,
    done: BTreeSet<String>,
    /// Points that may be redeemed: how often it was asked, by card and points.
    redeeming: BTreeMap<(CardId, i64), i64>,
    /// Invoices that may be ended.
    cancelling: BTreeSet<InvoiceId>,
    /// What a person said of a payout.
    resolved: BTreeSet<PayoutId>,
    pub(super) cards: BTreeMap<CardId, KnownCard>,
    /// What was used by the first card of each row of replacements.
    usage: BTreeMap<CardId, shop::Usage>,
    pub(super) tabs: BTreeMap<ChargeId, KnownTab>,
    pins: pins::Pins,
    refunds: refunds::Refunds,
    charges: BTreeMap<ChargeId, charges::KnownCharge>,
    card_payments: BTreeMap<CardPaymentId, card_payments::KnownCardPayment>,
    /// An invoice that was paid in the books, until it is told by whom.
    booking: Option<card_payments::Booking>,
    peeks: BTreeMap<CardId, peeks::Peeked>,
    top_ups: BTreeMap<CardId, peeks::TopUpRule>,
    /// What cards paid of taps that were taken offline, until the till is told.
    paid_offline: BTreeMap<String, i64>,
    pub(super) merchants: BTreeMap<MerchantId, KnownMerchant>,
    pub(super) programs: BTreeMap<ProgramId, shop::KnownProgram>,
    pub(super) invoices: BTreeMap<InvoiceId, KnownInvoice>,
    pub(super) payouts: BTreeMap<PayoutId, KnownPayout>,
    /// What the operator put into the wallet.
    pub(super) capital_msat: i64,
    /// What waits in suspense, by payment.
    pub(super) suspense: BTreeMap<String, i64>,
    /// What of it was assigned.
    assigned: BTreeMap<String, i64>,
    /// What of a payment on chain is nobody's, until that is told.
    surplus: BTreeMap<String, i64>,
    /// What is to come out of what came in for whom, once all of an event is posted.
    debts: Vec<(Account, Account, i64)>,
    pub(super) clerk: ClerkBooks,
    pub(super) position: i64,
    pub(super) last_ms: i64,
    fired: Vec<Transition>,
}

/// What the network knows for sure.
pub(super) struct Truth<'a> {
    pub(super) node: &'a SimulatedNode,
    pub(super) chain: &'a Chain,
    /// The latest time that the clock ever showed.
    pub(super) latest_ms: i64,
    /// The engine's node, and the best block it knows.
    pub(super) port: &'a FaultyNode,
    pub(super) height: u32,
}

impl Model {
    /// From now on this may happen, once.
    pub(super) fn ask(&mut self, name: &str, asked: Asked) {
        self.asked.insert(name.to_owned(), asked);
    }

    pub(super) fn ask_redemption(&mut self, card: CardId, points: i64) {
        *self.redeeming.entry((card, points)).or_insert(0) += 1;
    }

    pub(super) fn resolve(&mut self, payout: PayoutId) {
        self.resolved.insert(payout);
    }

    pub(super) fn is_asked(&self, name: &str) -> bool {
        self.asked.contains_key(name)
    }

    pub(super) fn is_done(&self, name: &str) -> bool {
        self.done.contains(name)
    }

    pub(super) fn fired(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.fired)
    }

    /// Reads the next event.
    pub(super) fn read(&mut self, event: &EventRecord, truth: &Truth<'_>) -> Result<(), Wrong> {
        if event.position != self.position + 1 {
            let detail = format!("{} after {}", event.position, self.position);
            return wrong("events have no gap", detail);
        }
        if event.at_ms < self.last_ms {
            let detail = format!("{} ms after {} ms", event.at_ms, self.last_ms);
            return wrong("commit times never decrease", detail);
        }
        self.position = event.position;
        self.last_ms = event.at_ms;
        self.end_holds();
        let kind = event.kind.as_str();
        let read = match kind.split('.').next().unwrap_or(kind) {
            "card" if kind.starts_with("card.payment_") => self.read_card_payment(event, truth),
            "capital" | "merchant" | "till" | "program" | "card" | "points" => {
                self.read_shop(event)
            }
            "invoice" => self.read_invoice(event, truth),
            "offline" => self.read_offline(event, truth),
            "payment" | "suspense" => self.read_suspense(event, truth),
            "payout" => self.read_payout(event, truth),
            "refund" => self.read_refund(event, truth),
            "clerk" => self.read_clerk(event),
            "store" | "node" | "audit" => Ok(()),
            _ => wrong("every event can be dealt with", format!("{event:?}")),
        };
        // What ended before it began counts for nothing from now on.
        self.end_holds();
        read.map_err(|wrong| Wrong {
            detail: format!(
                "{} ({kind} {} at {})",
                wrong.detail, event.object, event.at_ms
            ),
            ..wrong
        })
    }

    fn end_holds(&mut self) {
        self.end_tabs();
        for _ in 0..self.clerk.end_holds(&mut self.books, self.last_ms) {
            self.fire(Transition::HoldExpired);
        }
    }

    /// What was asked under the name, which is done now and never again.
    fn take(&mut self, name: &str) -> Result<Asked, Wrong> {
        let Some(asked) = self.asked.get(name).cloned() else {
            return wrong("nothing happens that nobody asked for", name);
        };
        if !self.done.insert(name.to_owned()) {
            return wrong("nothing is done twice", name);
        }
        Ok(asked)
    }

    fn fire(&mut self, transition: Transition) {
        self.fired.push(transition);
    }

    fn read_clerk(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let Asked::Clerk(steps) = self.take(&event.object)? else {
            return wrong("nothing happens that nobody asked for", &event.object);
        };
        let fired = self.clerk.carry_out(&mut self.books, &steps, event.at_ms)?;
        self.fired.extend(fired);
        Ok(())
    }
}

fn not_lawful<T>(detail: impl Into<String>) -> Result<T, Wrong> {
    wrong("every step is lawful at its moment", detail)
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Wrong> {
    match text.parse() {
        Ok(value) => Ok(value),
        Err(_) => wrong("every event can be read", text),
    }
}

fn text<'a>(body: &'a Value, field: &str) -> Result<&'a str, Wrong> {
    match body.get(field).and_then(Value::as_str) {
        Some(text) => Ok(text),
        None => wrong("every event can be read", format!("{field} in {body}")),
    }
}

fn number(body: &Value, field: &str) -> Result<i64, Wrong> {
    match body.get(field).and_then(Value::as_i64) {
        Some(number) => Ok(number),
        None => wrong("every event can be read", format!("{field} in {body}")),
    }
}

fn hash_of(body: &Value) -> Result<PaymentHash, Wrong> {
    parse(text(body, "payment_hash")?)
}

fn transfer_id(text: &str) -> Result<TransferId, Wrong> {
    parse(text)
}
