//! Invoices that are paid with a tapped card: sent by the node under a hold, or paid in the books.

use super::invoices::record;
use super::{Asked, Model, Truth, Wrong, hash_of, not_lawful, number, parse, text, wrong};
use crate::ids::{CardId, CardPaymentId, MerchantId};
use crate::ledger::{Account, EventRecord};
use crate::lightning::{PaymentDirection, PaymentHash, PaymentState};
use crate::testkit::simulator::tally::Transition;

/// How many payments of a card may be on their way.
const MOST_IN_FLIGHT: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Sending,
    Unknown,
    Succeeded,
    Failed,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct KnownCardPayment {
    standing: Standing,
    hash: PaymentHash,
    card: CardId,
    /// Whose balance it is.
    payer: Account,
    amount_msat: i64,
    route_msat: i64,
    at_ms: i64,
    /// It is set aside in the books, for a hold invoice of the engine's.
    is_held: bool,
}

/// An invoice of the engine's was paid in the books; by whom is told next.
#[derive(Debug, Clone)]
pub(super) struct Booking {
    pub(super) reference: String,
    pub(super) amount_msat: i64,
    pub(super) counted_msat: i64,
    pub(super) owner: Account,
    pub(super) credit: Account,
}

/// 0.5 % with 10 sat: what a route may cost.
pub(crate) fn route_msat(amount_msat: i64) -> i64 {
    let share = amount_msat * 50;
    10_000 + share.div_euclid(10_000) + i64::from(share % 10_000 > 0)
}

impl Model {
    pub(super) fn read_card_payment(
        &mut self,
        event: &EventRecord,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        use Standing::{Failed, Sending, Succeeded, Unknown};
        let body = &event.body;
        let id: CardPaymentId = parse(text(body, "id")?)?;
        if self.card_payments.get(&id).is_some_and(|it| it.is_held) {
            return self.end_held(id, event);
        }
        if body.get("by_book").is_some_and(|it| !it.is_null()) {
            return self.paid_by_book(id, event);
        }
        if body.get("held_for").is_some_and(|it| !it.is_null()) {
            return self.held_by_book(id, event);
        }
        if event.kind == "card.payment_sending" {
            return self.card_pays(id, event);
        }
        let Some(payment) = self.card_payments.get_mut(&id) else {
            return not_lawful("a payment of nobody");
        };
        let (to, transition) = match (event.kind.as_str(), payment.standing) {
            ("card.payment_unknown", Sending) => (Unknown, Transition::CardPaymentUnknown),
            ("card.payment_succeeded", Sending | Unknown) => {
                (Succeeded, Transition::CardPaymentSucceeded)
            }
            ("card.payment_failed", Sending | Unknown) => (Failed, Transition::CardPaymentFailed),
            (_, before) => return not_lawful(format!("from {before:?}")),
        };
        payment.standing = to;
        let payment = *payment;
        let left = record(truth, payment.hash, PaymentDirection::Outbound);
        let state = left.as_ref().map(|record| record.state);
        let may_have_left = matches!(state, Some(PaymentState::Succeeded | PaymentState::Pending));
        if to == Succeeded && state != Some(PaymentState::Succeeded) {
            return wrong("only what left is booked", "a payment of a card");
        }
        if to == Failed && may_have_left {
            return wrong("unknown is never read as failed", format!("{state:?}"));
        }
        if to != Unknown {
            let cost = left.and_then(|record| record.fee_msat).unwrap_or(0);
            self.end_card_payment(payment, (to == Succeeded).then_some(cost));
        }
        self.fire(transition);
        Ok(())
    }

    /// `cost` is what the route cost, where it arrived.
    fn end_card_payment(&mut self, payment: KnownCardPayment, cost: Option<i64>) {
        let KnownCardPayment {
            payer,
            amount_msat,
            route_msat,
            card,
            at_ms,
            ..
        } = payment;
        let (node, held_msat) = (Account::node_channels(), amount_msat + route_msat);
        self.books.pend(payer, node, -held_msat);
        let gone_msat = cost.map_or(0, |cost| amount_msat + cost);
        self.books.post(payer, node, gone_msat);
        self.give_back_usage(card, at_ms, held_msat - gone_msat);
        self.go_on(payer);
    }

    fn card_pays(&mut self, id: CardPaymentId, event: &EventRecord) -> Result<(), Wrong> {
        let hash = hash_of(&event.body)?;
        let card: CardId = parse(text(&event.body, "card")?)?;
        let amount_msat = number(&event.body, "amount_msat")?;
        let route_msat = route_msat(amount_msat);
        let amounts = (amount_msat, amount_msat + route_msat);
        let payer = self.ask_of_card(hash, card, amounts, event.at_ms)?;
        if self.books.to_give(&payer) < amount_msat + route_msat {
            return not_lawful("more than the card has");
        }
        let line = self.line(card);
        let in_flight = self.card_payments.values().filter(|it| {
            matches!(it.standing, Standing::Sending | Standing::Unknown)
                && !it.is_held
                && self.line(it.card) == line
        });
        if in_flight.count() >= MOST_IN_FLIGHT {
            return not_lawful("more on their way than may be");
        }
        if !self.done.insert(format!("paid/{hash}")) {
            return wrong("nothing is done twice", "a payment of an invoice");
        }
        let node = Account::node_channels();
        self.books.pend(payer, node, amount_msat + route_msat);
        let payment = KnownCardPayment {
            standing: Standing::Sending,
            hash,
            card,
            payer,
            amount_msat,
            route_msat,
            at_ms: event.at_ms,
            is_held: false,
        };
        self.card_payments.insert(id, payment);
        self.fire(Transition::CardPaymentSending);
        Ok(())
    }

    /// The tap that was to pay is used, and its card's account is whose money goes.
    fn ask_of_card(
        &mut self,
        hash: PaymentHash,
        card: CardId,
        (amount_msat, counted_msat): (i64, i64),
        at_ms: i64,
    ) -> Result<Account, Wrong> {
        let name = format!("cardpay/{hash}/{card}");
        let Asked::CardPay {
            counter,
            pin,
            since_ms,
            ..
        } = self.take(&name)?
        else {
            return wrong("nothing happens that nobody asked for", name);
        };
        self.require_fresh(card, counter, since_ms)?;
        self.require_pin(card, pin, amount_msat)?;
        self.use_next_tap(card, counter, counted_msat, at_ms)?;
        Ok(self.balance_of(card))
    }

    /// Whose money is set aside for a hold invoice.
    pub(super) fn payer_of(&self, hash: PaymentHash) -> Result<Account, Wrong> {
        let mut payments = self.card_payments.values();
        match payments.find(|it| it.is_held && it.hash == hash) {
            Some(payment) => Ok(payment.payer),
            None => not_lawful("a payment of nobody"),
        }
    }

    fn held_by_book(&mut self, id: CardPaymentId, event: &EventRecord) -> Result<(), Wrong> {
        let hash = hash_of(&event.body)?;
        let card: CardId = parse(text(&event.body, "card")?)?;
        let booking = self.booking.take();
        let Some(booking) = booking.filter(|it| it.reference == hash.to_string()) else {
            return not_lawful(format!("{id} is of no invoice"));
        };
        let amount_msat = booking.amount_msat;
        let payer = self.ask_of_card(hash, card, (amount_msat, amount_msat), event.at_ms)?;
        if self.books.to_give(&payer) < amount_msat {
            return not_lawful("more than the card has");
        }
        self.books.pend(payer, booking.credit, amount_msat);
        let payment = KnownCardPayment {
            standing: Standing::Sending,
            hash,
            card,
            payer,
            amount_msat,
            route_msat: 0,
            at_ms: event.at_ms,
            is_held: true,
        };
        self.card_payments.insert(id, payment);
        Ok(())
    }

    /// What was set aside in the books was taken or given back, as its invoice has just told.
    fn end_held(&mut self, id: CardPaymentId, event: &EventRecord) -> Result<(), Wrong> {
        let Some(payment) = self.card_payments.get_mut(&id) else {
            return not_lawful("a payment of nobody");
        };
        let to = match (event.kind.as_str(), payment.standing) {
            ("card.payment_succeeded", Standing::Sending) => Standing::Succeeded,
            ("card.payment_failed", Standing::Sending) => Standing::Failed,
            (_, before) => return not_lawful(format!("from {before:?}")),
        };
        payment.standing = to;
        let payment = *payment;
        if to == Standing::Failed {
            self.give_back_usage(payment.card, payment.at_ms, payment.amount_msat);
            self.go_on(payment.payer);
        } else if let Ok(merchant) = text(&event.body, "merchant") {
            let merchant: MerchantId = parse(merchant)?;
            let earned = self.give_points(payment.card, merchant, payment.amount_msat);
            self.note_sale_points(payment.hash, earned);
        }
        Ok(())
    }

    fn paid_by_book(&mut self, id: CardPaymentId, event: &EventRecord) -> Result<(), Wrong> {
        let hash = hash_of(&event.body)?;
        let card: CardId = parse(text(&event.body, "card")?)?;
        let Some(booking) = self.booking.take() else {
            return not_lawful(format!("{id} is of no invoice"));
        };
        if booking.reference != hash.to_string() {
            return not_lawful("another invoice");
        }
        let amount_msat = booking.amount_msat;
        let payer = self.ask_of_card(hash, card, (amount_msat, amount_msat), event.at_ms)?;
        if self.books.to_give(&payer) < amount_msat {
            return not_lawful("more than the card has");
        }
        self.books.post(payer, booking.credit, amount_msat);
        self.net(booking.owner, booking.credit, booking.counted_msat);
        if let Ok(merchant) = text(&event.body, "merchant") {
            let merchant: MerchantId = parse(merchant)?;
            let earned = self.give_points(card, merchant, amount_msat);
            self.note_sale_points(hash, earned);
        }
        self.fire(Transition::CardPaidByBook);
        Ok(())
    }

    /// Payments of cards that have not come to their end.
    pub(crate) fn open_card_payments(&self) -> usize {
        let payments = self.card_payments.values();
        let open =
            |it: &&KnownCardPayment| matches!(it.standing, Standing::Sending | Standing::Unknown);
        payments.filter(open).count()
    }

    /// What cards have paid to others.
    pub(crate) fn sent_by_cards(&self) -> i64 {
        let payments = self.card_payments.values();
        let sent = payments.filter(|it| it.standing == Standing::Succeeded && !it.is_held);
        sent.map(|it| it.amount_msat).sum()
    }
}
