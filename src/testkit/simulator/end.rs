//! How a simulation ends: everything that is open comes to its end, and all of it is compared.

use super::commands::{Slot, put_in, taken};
use super::executor::at_once;
use super::ground::Weather;
use super::model::{PayoutStanding, Wrong, wrong};
use super::world::World;
use crate::Error;
use crate::access::Credential;
use crate::ledger::{Account, Side};
use crate::ports::Executor;
use crate::reports::Reports;
use crate::store::Store;

/// How often everybody is given time to come to an end.
const ROUNDS: usize = 400;

impl World {
    /// No more faults, until nothing is open.
    pub(super) fn calm_down(&mut self) -> Result<(), Wrong> {
        self.ground.set_weather(Weather::Calm);
        for _ in 0..ROUNDS {
            if self.is_settled() {
                return Ok(());
            }
            self.settle_more()?;
        }
        let refused = self.chain.refused.as_deref().unwrap_or("none");
        let detail = format!("{}; the last fact refused: {refused}", self.what_is_open());
        wrong("everything ends", detail)
    }

    fn settle_more(&mut self) -> Result<(), Wrong> {
        self.shop.look();
        while !self.shop.arrived.is_empty() {
            self.shop.decide(0, true);
        }
        let open: Vec<usize> = self.open().collect();
        for at in open {
            self.send(at);
        }
        self.send_clerks();
        let mut invoices = self.model.invoices.values();
        if self.chain.waits() || invoices.any(|it| it.is_processing()) {
            self.find_block(true);
        }
        self.tell_chain(usize::MAX);
        if let Some(issuer) = self.process.as_ref().map(|it| it.issuer.clone()) {
            let tabs = self.close_tabs(&issuer)?;
            for (key, by, request) in tabs.into_iter().chain(self.end_holds(&issuer)?) {
                self.command(key, by, request);
            }
            let handed_in = self.hand_in(&issuer)?;
            let resolved = self.resolve(&issuer, true)?;
            let orders = [
                self.give_up(&issuer)?,
                self.assign(&issuer)?,
                handed_in,
                resolved,
            ];
            for (key, by, request) in orders.into_iter().flatten() {
                self.command(key, by, request);
            }
        }
        // Asked ever more rarely: so the clock is moved, and the jobs with it.
        self.ground.jump_clock(20_000);
        let until_ms = self.ground.executor.now_ms() + 1_500;
        let is_over = |world: &Self| world.ground.executor.now_ms() >= until_ms;
        self.run_until(3_000, is_over).map(drop)
    }

    fn is_settled(&self) -> bool {
        self.what_is_open().is_empty()
    }

    fn what_is_open(&self) -> String {
        let mut open = Vec::new();
        let mut count = |what: &str, many: usize| {
            if many > 0 {
                open.push(format!("{many} {what}"));
            }
        };
        count("process", usize::from(self.process.is_none()));
        count(
            "commands",
            self.commands
                .iter()
                .filter(|it| it.is_open() || !it.calls.is_empty())
                .count(),
        );
        count("clerks", self.clerks.len());
        count("events of the node", self.node.waiting());
        count("amounts in suspense", self.model.suspense.len());
        count("payments in the wallet", self.shop.arrived.len());
        let invoices = self.model.invoices.values();
        count("invoices", invoices.filter(|it| it.is_processing()).count());
        count("outputs untold", self.chain.untold());
        count("transactions", usize::from(self.chain.waits()));
        count("taps taken offline", self.taken_offline());
        count("tabs", self.model.open_tabs());
        count("refunds", self.model.open_refunds());
        count("payments of cards", self.model.open_card_payments());
        let payouts = self.model.payouts.values();
        count(
            "payouts",
            payouts.filter(|it| !it.standing.is_final()).count(),
        );
        open.join(", ")
    }

    /// All accounts, both ways; the node and the wallet; the journal.
    pub(super) fn compare_all(&mut self) -> Result<(), Wrong> {
        let accounts: Vec<Account> = self.model.books.accounts().copied().collect();
        for account in &accounts {
            self.compare(account)?;
        }
        let stored = at_once(self.disk.balances(None, crate::store::MAX_PAGE));
        for (account, _) in stored.and_then(Result::ok).unwrap_or_default() {
            self.compare(&account)?;
        }
        self.compare_node()?;
        self.compare_wallet()?;
        self.compare_chain()?;
        let (books, journal) = self.ask(|reports, issuer| async move {
            let books = reports.trial_balance(&issuer).await?.value;
            let journal = reports.verify_journal(&issuer, &[]).await?.value;
            Ok((books, journal))
        })?;
        if !books.is_balanced() {
            return wrong("money is conserved", "the trial balance");
        }
        if !journal.problems.is_empty() || !journal.unsettled.is_empty() {
            return wrong("the journal verifies", format!("{:?}", journal.problems));
        }
        // It reads the whole journal once more: now and then is enough.
        if self.random.chance(250) {
            self.compare_audit()?;
        }
        Ok(())
    }

    fn compare_node(&self) -> Result<(), Wrong> {
        let booked = at_once(self.disk.balance(&Account::node_channels()));
        let booked = booked.and_then(Result::ok).unwrap_or_default();
        let (booked, actual) = (booked.posted(Side::Debit), self.true_node.balance_msat());
        if booked == i128::from(actual) {
            return Ok(());
        }
        let detail = format!("{booked} msat in the books, {actual} msat at the node");
        wrong("the books and the node agree", detail)
    }

    /// What the books have on chain is what was put in, and what is in blocks.
    fn compare_chain(&self) -> Result<(), Wrong> {
        let booked = at_once(self.disk.balance(&Account::node_onchain()));
        let booked = booked.and_then(Result::ok).unwrap_or_default();
        let receipts = self.chain.receipts.values();
        let there: i64 = receipts
            .filter(|it| it.is_operators && it.is_in_block())
            .map(|it| it.amount_sat * 1_000)
            .sum();
        let actual = i128::from(self.model.capital_msat) + i128::from(there);
        let booked = booked.posted(Side::Debit);
        if booked == actual {
            return Ok(());
        }
        let detail = format!("{booked} msat in the books, {actual} msat in the wallet");
        wrong("the books and the chain agree", detail)
    }

    fn compare_audit(&mut self) -> Result<(), Wrong> {
        let audit =
            self.ask(|reports, issuer| async move { Ok(reports.audit(&issuer).await?.value) })?;
        let channels = Account::node_channels();
        let control = audit.controls.iter().find(|it| it.account == channels);
        let agrees = control.is_some_and(|control| control.difference_msat == 0);
        if audit.is_balanced && audit.differences.is_empty() && agrees {
            return Ok(());
        }
        wrong("the audit finds nothing", format!("{audit:?}"))
    }

    /// What was paid out is in the wallet, once.
    fn compare_wallet(&self) -> Result<(), Wrong> {
        let payouts = self.model.payouts.values();
        let paid_out: i64 = payouts
            .filter(|it| it.standing == PayoutStanding::PaidOut)
            .map(|it| it.amount_msat)
            .sum();
        // What arrived although a person had said that it failed is in the books as such.
        let unexpected: i64 = self.unexpected_msat();
        let (received, sent) = (self.shop.received_msat(), self.model.sent_by_cards());
        let refunds = self.model.sent_refunds();
        let refunded: i64 = refunds
            .iter()
            .filter(|(.., arrived)| *arrived)
            .map(|(_, sent_msat, _)| sent_msat)
            .sum();
        let paid_out = paid_out + sent + refunded;
        if paid_out + unexpected == received {
            return Ok(());
        }
        let detail = format!("{paid_out} + {unexpected} msat in the books, {received} msat there");
        wrong("everybody is paid out once", detail)
    }

    fn unexpected_msat(&self) -> i64 {
        let payouts = self.model.payouts.values();
        let failed = payouts.filter(|it| it.standing == PayoutStanding::Failed);
        let payouts: i64 = failed
            .filter(|it| self.shop.has_received(it.hash))
            .map(|it| it.amount_msat)
            .sum();
        let refunds = self.model.sent_refunds().into_iter();
        let refunds = refunds.filter(|(hash, _, arrived)| {
            // Its record came after a person had said so.
            !arrived && self.shop.has_received(*hash)
        });
        payouts + refunds.map(|(_, sent_msat, _)| sent_msat).sum::<i64>()
    }

    /// Asks the engine for a report.
    fn ask<T, F>(&mut self, question: impl FnOnce(Reports, Credential) -> F) -> Result<T, Wrong>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let Some(process) = self.process.clone() else {
            return wrong("everything ends", "no process");
        };
        let slot: Slot<Result<T, Error>> = Slot::default();
        let (answer, asked) = (
            slot.clone(),
            question(process.engine.reports(), process.issuer),
        );
        self.ground.executor.spawn(Box::pin(async move {
            put_in(&answer, asked.await);
        }));
        for _ in 0..20_000 {
            self.poll()?;
            match taken(&slot) {
                Some(Ok(said)) => return Ok(said),
                Some(Err(error)) => return wrong("the reports answer", error.to_string()),
                None => {}
            }
        }
        wrong("everything ends", "the reports")
    }
}
