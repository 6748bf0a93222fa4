//! Refunds of invoices and of charges, as the model knows them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::invoices::record;
use super::payments::{PayoutStanding, share_of};
use super::{Asked, Model, Truth, Wrong, hash_of, not_lawful, number, parse, text, wrong};
use crate::ids::{CardId, InvoiceId, MerchantId, ProgramId, RefundId};
use crate::ledger::{Account, EventRecord, Owner};
use crate::lightning::{PaymentDirection, PaymentHash, PaymentState};
use crate::testkit::simulator::tally::Transition;

/// Where a refund of an invoice goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefundWay {
    Card(CardId),
    /// Somebody's wallet.
    Wallet(PaymentHash),
    /// Another invoice of the engine's.
    Book(PaymentHash),
}

/// Who bears what the route costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bearer {
    Owner,
    Customer,
    Operator,
}

/// What was asked for under a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedRefund {
    pub(crate) invoice: InvoiceId,
    /// `None` is all that is left.
    pub(crate) amount_msat: Option<i64>,
    pub(crate) way: RefundWay,
    pub(crate) bearer: Bearer,
    /// The text says no amount: whole sats go.
    pub(crate) says_no_amount: bool,
}

/// Points that a sale earned.
#[derive(Debug, Clone, Copy)]
pub(super) struct SalePoints {
    pub(super) line: CardId,
    pub(super) program: ProgramId,
    pub(super) points: i64,
    pub(super) amount_msat: i64,
}

/// Points that go back with a refund.
#[derive(Debug, Clone, Copy)]
struct Back {
    hash: PaymentHash,
    sale: SalePoints,
    points: i64,
    at_hand: i64,
}

struct KnownRefund {
    standing: PayoutStanding,
    hash: PaymentHash,
    invoice: InvoiceId,
    payer: Account,
    /// Whose the route is.
    bears: Account,
    amount_msat: i64,
    sent_msat: i64,
    route_msat: i64,
    points: Vec<Back>,
}

#[derive(Default)]
pub(super) struct Refunds {
    of_invoices: BTreeMap<RefundId, KnownRefund>,
    /// Of payments of cards in the books.
    sales: BTreeMap<PaymentHash, SalePoints>,
    taken_back: BTreeMap<PaymentHash, i64>,
    resolved: BTreeSet<RefundId>,
    /// A refund pays an invoice of the engine's, which is told next: from whom, and how much.
    booking: Option<(PaymentHash, Account, i64)>,
}

fn payment_hash(body: &Value) -> PaymentHash {
    hash_of(body).unwrap_or(PaymentHash([0; 32]))
}

impl Model {
    /// A payment of a card in the books earned points.
    pub(super) fn note_sale_points(&mut self, hash: PaymentHash, earned: Option<SalePoints>) {
        if let Some(earned) = earned {
            self.refunds.sales.insert(hash, earned);
        }
    }

    /// What came for an invoice, and what of it went back or is on its way.
    fn refundable(&self, id: InvoiceId) -> (i64, i64) {
        let invoice = self.invoices.get(&id);
        let received_msat = invoice.map_or(0, |it| it.received_msat());
        let refunds = self.refunds.of_invoices.values();
        let live = refunds.filter(|it| it.invoice == id && it.standing != PayoutStanding::Failed);
        (received_msat, live.map(|it| it.amount_msat).sum())
    }

    /// Invoices that can be paid back, with what is left of each.
    pub(crate) fn to_refund(&self) -> Vec<(InvoiceId, i64, Account)> {
        let invoices = self.invoices.iter().filter(|(_, it)| it.is_refundable());
        let left = invoices.map(|(id, it)| {
            let (received_msat, gone_msat) = self.refundable(*id);
            (*id, received_msat - gone_msat, it.owner)
        });
        left.collect()
    }

    pub(crate) fn resolve_refund(&mut self, refund: RefundId) {
        self.refunds.resolved.insert(refund);
    }

    pub(crate) fn unknown_refunds(&self) -> Vec<RefundId> {
        let refunds = self.refunds.of_invoices.iter();
        let unknown = refunds.filter(|(_, it)| it.standing == PayoutStanding::Unknown);
        unknown.map(|(id, _)| *id).collect()
    }

    pub(crate) fn open_refunds(&self) -> usize {
        let refunds = self.refunds.of_invoices.values();
        refunds.filter(|it| !it.standing.is_final()).count()
    }

    /// Refunds that were sent, by their hashes: the amount, and whether the books say that it
    /// arrived.
    pub(crate) fn sent_refunds(&self) -> Vec<(PaymentHash, i64, bool)> {
        let refunds = self.refunds.of_invoices.values();
        let sent = refunds.filter(|it| it.route_msat > 0);
        sent.map(|it| {
            let arrived = it.standing == PayoutStanding::PaidOut;
            (it.hash, it.sent_msat, arrived)
        })
        .collect()
    }

    pub(super) fn read_refund(
        &mut self,
        event: &EventRecord,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        use PayoutStanding::{Failed, PaidOut, Sending, Unknown};
        let id: RefundId = parse(&event.object)?;
        let Some(refund) = self.refunds.of_invoices.get_mut(&id) else {
            return self.refund_begins(id, event);
        };
        let (to, transition) = match (event.kind.as_str(), refund.standing) {
            ("refund.unknown", Sending) => (Unknown, Transition::RefundUnknown),
            ("refund.succeeded", Sending | Unknown) => (PaidOut, Transition::RefundArrived),
            ("refund.failed", Sending | Unknown) => (Failed, Transition::RefundFailed),
            (_, before) => return not_lawful(format!("from {before:?}")),
        };
        refund.standing = to;
        let left = record(truth, refund.hash, PaymentDirection::Outbound);
        let state = left.as_ref().map(|record| record.state);
        if to == PaidOut && state != Some(PaymentState::Succeeded) {
            return wrong("only what left is booked", "a refund, and it did not leave");
        }
        let may_have_left = matches!(state, Some(PaymentState::Succeeded | PaymentState::Pending));
        if to == Failed && may_have_left && !self.refunds.resolved.contains(&id) {
            return wrong("unknown is never read as failed", format!("{state:?}"));
        }
        let cost = left.and_then(|record| record.fee_msat).unwrap_or(0);
        if to.is_final() {
            self.refund_ends(id, cost);
        }
        self.fire(transition);
        Ok(())
    }

    fn refund_begins(&mut self, id: RefundId, event: &EventRecord) -> Result<(), Wrong> {
        let body = &event.body;
        let name = text(body, "reason")?;
        let Asked::Refund(asked) = self.take(name)? else {
            return wrong("nothing happens that nobody asked for", name);
        };
        let refund = self.draft(asked, body)?;
        let (payer, bears) = (refund.payer, refund.bears);
        let (sent_msat, route_msat) = (refund.sent_msat, refund.route_msat);
        self.set_points_aside(&refund, 1);
        self.refunds.of_invoices.insert(id, refund);
        match (asked.way, event.kind.as_str()) {
            (RefundWay::Card(card), "refund.succeeded") => self.refund_to_card(id, card),
            (RefundWay::Wallet(hash), "refund.sending") if hash == payment_hash(body) => {
                let node = Account::node_channels();
                self.books.pend(payer, node, sent_msat);
                self.books.pend(bears, node, route_msat);
                self.fire(Transition::RefundSending);
                Ok(())
            }
            (RefundWay::Book(hash), "refund.succeeded") if hash == payment_hash(body) => {
                self.refunds.booking = Some((hash, payer, sent_msat));
                self.refund_in_books(id);
                self.fire(Transition::RefundedByBook);
                Ok(())
            }
            (way, kind) => not_lawful(format!("{kind} of {way:?}")),
        }
    }

    /// What a refund comes to, and that it may be.
    fn draft(&self, asked: AskedRefund, body: &Value) -> Result<KnownRefund, Wrong> {
        let Some(invoice) = self.invoices.get(&asked.invoice) else {
            return not_lawful("of no invoice");
        };
        let (owner, is_open) = (invoice.owner, invoice.is_open());
        let payer = self.account_now(owner);
        let (received_msat, gone_msat) = self.refundable(asked.invoice);
        let left_msat = received_msat - gone_msat;
        let amount_msat = asked.amount_msat.unwrap_or(left_msat);
        if is_open || amount_msat > left_msat || amount_msat <= 0 {
            return not_lawful(format!("{amount_msat} msat of {left_msat} msat"));
        }
        let standing_msat = left_msat - amount_msat;
        let points = self.points_back(asked.invoice, (standing_msat, received_msat), body)?;
        let withheld_msat: i64 = points
            .iter()
            .map(|back| (back.points - back.at_hand) * self.value_of(back.sale.program))
            .sum();
        let is_sent = matches!(asked.way, RefundWay::Wallet(_));
        let most_msat = share_of(amount_msat, 10_000, 50);
        let route_msat = if is_sent { most_msat } else { 0 };
        let borne_msat = match asked.bearer {
            Bearer::Customer => route_msat,
            Bearer::Owner | Bearer::Operator => 0,
        };
        let mut sent_msat = amount_msat - withheld_msat - borne_msat;
        if asked.says_no_amount {
            sent_msat -= sent_msat % 1_000;
        }
        if sent_msat <= 0 || number(body, "sent_msat")? != sent_msat {
            return not_lawful(format!("{sent_msat} msat were to be sent"));
        }
        let bears = match asked.bearer {
            Bearer::Owner | Bearer::Customer => payer,
            Bearer::Operator => Account::routing_fees(),
        };
        let needs_msat = sent_msat + if bears == payer { route_msat } else { 0 };
        if self.books.to_give(&payer) < needs_msat {
            return not_lawful("more than its owner has");
        }
        Ok(KnownRefund {
            standing: PayoutStanding::Sending,
            hash: payment_hash(body),
            invoice: asked.invoice,
            payer,
            bears,
            amount_msat,
            sent_msat,
            route_msat,
            points,
        })
    }

    fn refund_to_card(&mut self, id: RefundId, card: CardId) -> Result<(), Wrong> {
        let card = self.now(card);
        let to = self.balance_of(card);
        let Some((payer, sent_msat)) = self.refund_in_books(id) else {
            return not_lawful("a refund of nobody");
        };
        let most = self.cards.get(&card).map(|it| it.rules.max_balance_msat);
        let highest = self.books.highest(&to) + i128::from(sent_msat);
        if to == payer || most.is_none_or(|most| highest > i128::from(most)) {
            return not_lawful("more than the card may have");
        }
        self.books.post(payer, to, sent_msat);
        self.fire(Transition::RefundedToCard);
        Ok(())
    }

    /// One that is done at once: its points go back with it.
    fn refund_in_books(&mut self, id: RefundId) -> Option<(Account, i64)> {
        let mut refund = self.refunds.of_invoices.remove(&id)?;
        refund.standing = PayoutStanding::PaidOut;
        self.take_points(&refund);
        let paid = (refund.payer, refund.sent_msat);
        self.refunds.of_invoices.insert(id, refund);
        Some(paid)
    }

    /// An invoice of the engine's is paid by a refund; false where it is not.
    pub(super) fn is_paid_by_refund(
        &mut self,
        reference: &str,
        (credit, amount_msat): (Account, i64),
    ) -> Result<bool, Wrong> {
        let Some((hash, payer, sent_msat)) = self.refunds.booking.take() else {
            return Ok(false);
        };
        if reference != hash.to_string() || amount_msat != sent_msat {
            return not_lawful("another invoice");
        }
        self.books.post(payer, credit, amount_msat);
        Ok(true)
    }

    fn refund_ends(&mut self, id: RefundId, cost: i64) {
        let Some(refund) = self.refunds.of_invoices.remove(&id) else {
            return;
        };
        let node = Account::node_channels();
        self.books.pend(refund.payer, node, -refund.sent_msat);
        self.books.pend(refund.bears, node, -refund.route_msat);
        if refund.standing == PayoutStanding::PaidOut {
            self.books.post(refund.payer, node, refund.sent_msat);
            if cost > 0 {
                self.books.post(refund.bears, node, cost);
            }
            self.take_points(&refund);
        } else {
            self.set_points_aside(&refund, -1);
        }
        self.go_on(refund.payer);
        self.refunds.of_invoices.insert(id, refund);
    }

    pub(super) fn value_of(&self, program: ProgramId) -> i64 {
        self.programs.get(&program).map_or(0, |it| it.value_msat())
    }

    pub(super) fn earned(&self, program: ProgramId, amount_msat: i64) -> i64 {
        let program = self.programs.get(&program);
        program.map_or(0, |it| it.points_for(amount_msat))
    }

    /// The points of the sale that go back: as many as what stands of it would not have earned. How
    /// many of them the card still had is told, and is no more than it has.
    fn points_back(
        &self,
        invoice: InvoiceId,
        (standing_msat, whole_msat): (i64, i64),
        body: &Value,
    ) -> Result<Vec<Back>, Wrong> {
        let told = body.get("points").and_then(Value::as_array);
        let mut told = told.map(Vec::as_slice).unwrap_or_default().iter();
        let invoice = self.invoices.get(&invoice);
        let mut points = Vec::new();
        for hash in invoice.map(|it| it.booked()).unwrap_or_default() {
            let Some(sale) = self.refunds.sales.get(&hash).copied() else {
                continue;
            };
            let taken = self.refunds.taken_back.get(&hash).copied().unwrap_or(0);
            let part = i128::from(sale.amount_msat) * i128::from(standing_msat);
            let part = i64::try_from(part / i128::from(whole_msat.max(1))).unwrap_or(0);
            let back = (sale.points - taken - self.earned(sale.program, part)).max(0);
            if back == 0 {
                continue;
            }
            let none = Value::Null;
            let told = told.next().unwrap_or(&none);
            let at_hand = number(told, "at_hand")?;
            let account = Account::points_balance(sale.line, sale.program);
            let has = self.books.to_give(&account);
            if number(told, "points")? != back || at_hand > back.min(has) || at_hand < 0 {
                return not_lawful(format!("{back} points were to go back, {has} there"));
            }
            points.push(Back {
                hash,
                sale,
                points: back,
                at_hand,
            });
        }
        match told.next() {
            None => Ok(points),
            Some(more) => not_lawful(format!("more points: {more}")),
        }
    }

    /// Points are set aside; with −1 they are the card's again.
    fn set_points_aside(&mut self, refund: &KnownRefund, times: i64) {
        for back in &refund.points {
            let SalePoints { line, program, .. } = back.sale;
            let (given, issued) = (
                Account::points_balance(line, program),
                Account::points_issued(program),
            );
            self.books.pend(given, issued, times * back.at_hand);
            *self.refunds.taken_back.entry(back.hash).or_default() += times * back.points;
        }
    }

    /// What was set aside is taken, and what it is worth is the merchant's again.
    fn take_points(&mut self, refund: &KnownRefund) {
        let Owner::Merchant(merchant) = refund.payer.owner() else {
            return;
        };
        for back in &refund.points {
            let SalePoints { line, program, .. } = back.sale;
            let (given, issued) = (
                Account::points_balance(line, program),
                Account::points_issued(program),
            );
            self.books.pend(given, issued, -back.at_hand);
            self.return_points((line, program), back.at_hand, merchant);
        }
    }

    pub(super) fn return_points(
        &mut self,
        (line, program): (CardId, ProgramId),
        points: i64,
        to: MerchantId,
    ) {
        if points == 0 {
            return;
        }
        let value_msat = points * self.value_of(program);
        self.books.post(
            Account::points_balance(line, program),
            Account::points_issued(program),
            points,
        );
        let (fund, payable) = (Account::reward_fund(program), Account::merchant_payable(to));
        self.books.post(fund, payable, value_msat);
        self.fire(Transition::PointsTakenBack);
    }
}
