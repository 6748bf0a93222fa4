//! A simulation from its first step to its last.

use super::commands::Request;
use super::executor::at_once;
use super::model::{InvoiceStanding, Wrong, wrong};
use super::tally::Fault;
use super::world::World;
use crate::ids::InvoiceId;
use crate::lightning::{LightningNode, PaymentHash, PaymentRequest, PaymentState};

/// So often the scheduler is asked, at most, before something is called stuck.
const PATIENCE: usize = 60_000;

impl World {
    /// The shop opens, in calm weather.
    pub(super) fn set_up(&mut self) -> Result<(), Wrong> {
        self.boot();
        if !self.run_until(PATIENCE, |world| world.process.is_some())? {
            return wrong("everything ends", "the first start");
        }
        let Some(issuer) = self.process.as_ref().map(|it| it.issuer.clone()) else {
            return Ok(());
        };
        let capital = self.capital(&issuer, 5_000_000_000)?;
        self.must(capital)?;
        for _ in 0..2 {
            let merchant = self.merchant(&issuer)?;
            self.must(merchant)?;
        }
        for _ in 0..3 {
            let till = self.pair(&issuer)?;
            self.must(till)?;
        }
        for merchant in self.shop.merchants.clone() {
            let terms = self.offline_terms(&issuer, merchant)?;
            self.must(terms)?;
        }
        if let Some(merchant) = self.shop.merchants.first().copied() {
            let program = self.program(&issuer, merchant)?;
            self.must(program)?;
        }
        // The operator's node has something to pay with.
        if let Ok(bolt11) = self.true_node.wallet_invoice(5_000_000_000, "capital") {
            self.shop_capital(&bolt11)?;
        }
        for _ in 0..3 {
            let card = self.issue(&issuer)?;
            self.must(card)?;
            while let Some(next) = self.finish_card(&issuer)? {
                self.must(Some(next))?;
            }
        }
        self.change_weather();
        Ok(())
    }

    /// What is paid in without an invoice of the engine's goes to suspense, and is assigned: the
    /// capital that the books already have.
    fn shop_capital(&mut self, bolt11: &str) -> Result<(), Wrong> {
        self.pay(bolt11);
        let arrived = |world: &Self| world.node.waiting() == 0 && !world.model.suspense.is_empty();
        if self.run_until(PATIENCE, arrived)? {
            return Ok(());
        }
        wrong("everything ends", "capital that arrives")
    }

    fn must(
        &mut self,
        order: Option<(String, crate::access::Credential, Request)>,
    ) -> Result<(), Wrong> {
        let Some((key, by, request)) = order else {
            return wrong("the simulation itself is right", "no order");
        };
        let at = self.command(key.clone(), by, request);
        for _ in 0..20 {
            self.run_until(500, |world| {
                world.commands[at].answer.is_some() || world.commands[at].calls.is_empty()
            })?;
            if self.commands[at].answer.is_some() {
                return Ok(());
            }
            self.send(at);
        }
        wrong("everything ends", key)
    }

    /// One step: something happens, and the engine gets a few polls.
    pub(super) fn step(&mut self) -> Result<(), Wrong> {
        if self.process.is_none() && self.random.chance(15) {
            self.crash();
        }
        match self.random.below(1_000) {
            0..180 => self.begin()?,
            180..182 => self.rush()?,
            182..260 => self.clerk()?,
            260..350 => self.somebody_pays(),
            350..430 => self.wallets_decide(),
            430..500 => self.send_again(),
            500..518 => self.send_twice(),
            518..528 => self.repeat(),
            528..531 => self.abuse()?,
            583..600 => self.take_offline(),
            600..625 => self.somebody_sends(),
            625..650 => self.find_block(false),
            650..657 => self.reorganise(),
            657..664 => self.replace_one(),
            664..668 => self.bring_back(),
            668..740 => self.tell_chain(2),
            531..534 => self.donate(),
            534..538 => self.time_out(),
            538..550 => self.let_time_pass()?,
            550..565 => self.jump(),
            565..577 => self.change_weather(),
            577..582 => self.crash(),
            582..583 => self.stop(),
            // The engine goes on, and the world does not.
            _ => {}
        }
        let polls = self.random.below(9);
        self.run(polls)
    }

    fn begin(&mut self) -> Result<(), Wrong> {
        if let Some((key, by, request)) = self.order()? {
            self.command(key, by, request);
        }
        Ok(())
    }

    /// Many come at once.
    fn rush(&mut self) -> Result<(), Wrong> {
        for _ in 0..8 {
            self.begin()?;
            self.clerk()?;
        }
        Ok(())
    }

    /// A customer pays an invoice; sometimes one that is over or paid.
    fn somebody_pays(&mut self) {
        let any = self.random.chance(80);
        let open: Vec<&InvoiceId> = self
            .model
            .invoices
            .iter()
            .filter(|(_, it)| !it.bolt11.is_empty())
            .filter(|(_, it)| any || it.standing == InvoiceStanding::New && self.is_unpaid(it.hash))
            .map(|(id, _)| id)
            .collect();
        let chosen = self.random.pick(&open).copied();
        if let Some(invoice) = chosen.and_then(|id| self.model.invoices.get(id)) {
            let bolt11 = invoice.bolt11.clone();
            self.pay(&bolt11);
        }
    }

    fn is_unpaid(&self, hash: PaymentHash) -> bool {
        let record = self.customer.record(hash);
        record.is_none_or(|record| record.state == PaymentState::Failed)
    }

    fn pay(&mut self, bolt11: &str) {
        let request = PaymentRequest {
            bolt11: bolt11.to_owned(),
            amount_msat: None,
            max_fee_msat: 50_000,
            max_lock_blocks: None,
        };
        drop(at_once(self.customer.pay(request)));
        while let Some(Ok(_)) = at_once(self.customer.next_event()) {
            drop(at_once(self.customer.acknowledge()));
        }
        self.ground.trace("paid", self.made.unsigned_abs());
    }

    fn wallets_decide(&mut self) {
        self.shop.look();
        if self.shop.arrived.is_empty() || self.random.chance(200) {
            return;
        }
        let (at, takes) = (
            self.random.below(self.shop.arrived.len()),
            self.random.chance(750),
        );
        self.shop.decide(at, takes);
    }

    /// Whoever got no answer asks again, with the same key.
    pub(super) fn send_again(&mut self) {
        self.send_clerks();
        if self.process.is_none() {
            return;
        }
        let open: Vec<usize> = self.open().take(2).collect();
        for at in open {
            self.ground.struck(Fault::Retried);
            self.send(at);
        }
    }

    /// The commands that are neither answered nor on their way.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        let open = self.commands.iter().enumerate();
        open.filter(|(_, it)| it.is_open() && it.calls.is_empty())
            .map(|(at, _)| at)
    }

    /// Whoever is impatient asks twice at once.
    fn send_twice(&mut self) {
        let flying: Vec<usize> = (0..self.commands.len())
            .rev()
            .take(40)
            .filter(|at| self.commands[*at].calls.len() == 1)
            .collect();
        if let Some(at) = self.random.pick(&flying).copied()
            && self.process.is_some()
        {
            self.ground.struck(Fault::SentTwice);
            self.send(at);
        }
    }

    /// Whoever had an answer asks once more.
    fn repeat(&mut self) {
        let done: Vec<usize> = (0..self.commands.len())
            .filter(|at| {
                let command = &self.commands[*at];
                command.answer.is_some() && !command.request.is_of_now_alone()
            })
            .collect();
        if let Some(at) = self.random.pick(&done).copied()
            && self.process.is_some()
        {
            self.ground.struck(Fault::RepeatedLater);
            self.send(at);
        }
    }

    /// A key is used for another request: it must be refused.
    fn abuse(&mut self) -> Result<(), Wrong> {
        let done: Vec<usize> = (0..self.commands.len())
            .filter(|at| {
                let command = &self.commands[*at];
                command.answer.is_some() && matches!(command.request, Request::Charge(_))
            })
            .collect();
        let Some(at) = self.random.pick(&done).copied() else {
            return Ok(());
        };
        let command = &self.commands[at];
        let (key, by, request) = (
            command.key.clone(),
            command.by.clone(),
            command.request.clone(),
        );
        let Request::Charge(mut charge) = request else {
            return Ok(());
        };
        charge.reference = self.name();
        self.ground.struck(Fault::KeyReused);
        let at = self.command(key, by, Request::Charge(charge));
        self.commands[at].is_abuse = true;
        Ok(())
    }

    /// Somebody pays the operator's node without an invoice of the engine's.
    fn donate(&mut self) {
        let amount_msat = self.random.between(1_000, 900_000);
        if let Ok(bolt11) = self.true_node.wallet_invoice(amount_msat, "a gift") {
            self.pay(&bolt11);
        }
    }

    /// A payment goes back to its sender before it is claimed.
    fn time_out(&mut self) {
        let pending: Vec<_> = self
            .model
            .invoices
            .values()
            .filter(|it| {
                let record = self.true_node.record(it.hash);
                record.is_some_and(|record| record.state == PaymentState::Pending)
            })
            .map(|it| it.hash)
            .collect();
        if let Some(hash) = self.random.pick(&pending).copied()
            && at_once(self.true_node.fail(hash)).is_some_and(|failed| failed.is_ok())
        {
            self.ground.struck(Fault::TimedOut);
        }
    }

    fn let_time_pass(&mut self) -> Result<(), Wrong> {
        let ms = self.random.between(200, 4_000).unsigned_abs();
        let until_ms = self.ground.executor.now_ms() + ms;
        let is_over = |world: &Self| world.ground.executor.now_ms() >= until_ms;
        self.run_until(150, is_over).map(drop)
    }

    fn jump(&mut self) {
        let by_ms = match self.random.below(10) {
            0 => self.random.between(1, 14) * 3_600_000,
            1..4 => self.random.between(5, 90) * 60_000,
            4..7 => self.random.between(1_000, 60_000),
            7..9 => -self.random.between(1_000, 40_000),
            _ => -self.random.between(1, 40) * 60_000,
        };
        self.ground.struck(if by_ms > 0 {
            Fault::ClockForward
        } else {
            Fault::ClockBack
        });
        self.ground.jump_clock(by_ms);
    }
}
