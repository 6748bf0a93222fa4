//! What goes back: charges to their cards, invoices to a card, a wallet, or another invoice.

use super::commands::{Request, key};
use super::model::{Asked, AskedRefund, Bearer, RefundWay, Wrong};
use super::orders::{Order, order};
use super::world::World;
use crate::access::Credential;
use crate::cards::{ChargeAmount, RefundCharge};
use crate::ledger::Owner;
use crate::lightning::{Bolt11Details, Preimage};
use crate::refunds::{
    CreateRefund, RefundAmount, RefundFeeBearer, RefundOutcome, RefundTo, ResolveRefund,
};

impl World {
    pub(super) fn refund(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        match self.random.chance(400) {
            true => self.refund_charge(by),
            false => self.refund_invoice(by),
        }
    }

    /// All of it, some, or more than there is.
    fn part_of(&mut self, whole_msat: i64) -> i64 {
        match self.random.below(10) {
            0..4 => whole_msat,
            4..9 => self.random.between(1, whole_msat.max(1)),
            _ => whole_msat + self.random.between(1, 1_000),
        }
    }

    fn refund_charge(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let charges = self.model.charges_to_refund();
        let Some((charge, merchant, standing_msat)) = self.random.pick(&charges).copied() else {
            return Ok(None);
        };
        let mut tills = self.shop.tills.iter().filter(|it| it.merchant == merchant);
        let till = tills.next().map(|it| it.credential.clone());
        let by = till
            .filter(|_| self.random.chance(500))
            .unwrap_or(by.clone());
        let amount_msat = self.part_of(standing_msat);
        self.model.ask_charge_refund(charge, amount_msat);
        let name = self.name();
        let command = RefundCharge {
            key: key(&name)?,
            charge,
            amount: ChargeAmount::Bitcoin { amount_msat },
        };
        order(name, &by, Request::RefundCharge(command))
    }

    fn refund_invoice(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let any = self.random.chance(100);
        let mut invoices = self.model.to_refund();
        invoices.retain(|(_, left_msat, _)| any || *left_msat > 0);
        let Some((invoice, left_msat, owner)) = self.random.pick(&invoices).copied() else {
            return Ok(None);
        };
        let mut amount_msat = (!self.random.chance(350)).then(|| self.part_of(left_msat));
        let bearer = match self.random.below(3) {
            0 => Bearer::Owner,
            1 => Bearer::Customer,
            _ => Bearer::Operator,
        };
        let by_book = match self.random.below(10) {
            0..2 => self.fits_a_refund(left_msat, owner.owner()),
            _ => None,
        };
        let (to, way) = if let Some((target, due_msat)) = by_book {
            amount_msat = Some(due_msat);
            target
        } else if self.random.chance(400) {
            let Some((card, _)) = self.held_id() else {
                return Ok(None);
            };
            (RefundTo::Card { card }, RefundWay::Card(card))
        } else {
            self.wallet_for(amount_msat.unwrap_or(left_msat), bearer)?
        };
        let asked = AskedRefund {
            invoice,
            amount_msat,
            way,
            bearer,
            says_no_amount: match &to {
                RefundTo::Bolt11 { bolt11 } => says_no_amount(bolt11),
                _ => false,
            },
        };
        self.send_refund(asked, to, by)
    }

    fn send_refund(
        &mut self,
        asked: AskedRefund,
        to: RefundTo,
        by: &Credential,
    ) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        self.model.ask(&name, Asked::Refund(asked));
        let command = CreateRefund {
            key: key(&name)?,
            invoice: asked.invoice,
            to,
            amount: match asked.amount_msat {
                Some(amount_msat) => RefundAmount::Bitcoin { amount_msat },
                None => RefundAmount::Everything,
            },
            fee_bearer: match asked.bearer {
                Bearer::Owner => RefundFeeBearer::Merchant,
                Bearer::Customer => RefundFeeBearer::Customer,
                Bearer::Operator => RefundFeeBearer::Operator,
            },
            reason: name.clone(),
        };
        order(name, by, Request::Refund(command))
    }

    /// An invoice of the engine's that asks for no more than is left, of somebody else.
    fn fits_a_refund(
        &mut self,
        left_msat: i64,
        but: Owner,
    ) -> Option<((RefundTo, RefundWay), i64)> {
        let invoices = self.model.invoices.values();
        let fits = invoices
            .filter(|it| it.is_payable(left_msat) && !it.is_hold() && !it.is_of(but))
            .map(|it| (it.bolt11.clone(), it.hash, it.due_msat()));
        let fits: Vec<_> = fits.collect();
        let (bolt11, hash, due_msat) = self.random.pick(&fits).cloned()?;
        Some((
            (RefundTo::Bolt11 { bolt11 }, RefundWay::Book(hash)),
            due_msat,
        ))
    }

    /// A text of a wallet: for what will be sent, or without an amount.
    fn wallet_for(
        &mut self,
        amount_msat: i64,
        bearer: Bearer,
    ) -> Result<(RefundTo, RefundWay), Wrong> {
        let borne_msat = match bearer {
            Bearer::Customer => super::model::card_payments::route_msat(amount_msat),
            Bearer::Owner | Bearer::Operator => 0,
        };
        let sent_msat = (amount_msat - borne_msat).max(1);
        let asks = self.random.chance(400).then_some(sent_msat);
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            *byte = self.random.next().to_le_bytes()[0];
        }
        let (bolt11, hash) = self.shop.wallet_text(asks, Preimage::new(bytes))?;
        Ok((RefundTo::Bolt11 { bolt11 }, RefundWay::Wallet(hash)))
    }

    /// A person says of a refund whose outcome is unknown that it failed.
    pub(super) fn resolve_refund(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let unknown = self.model.unknown_refunds();
        let Some(refund) = self.random.pick(&unknown).copied() else {
            return Ok(None);
        };
        let name = self.name();
        self.model.resolve_refund(refund);
        let command = ResolveRefund {
            key: key(&name)?,
            refund,
            outcome: RefundOutcome::Failed,
            reason: "the customer says so".to_owned(),
            despite_record: false,
        };
        order(name, by, Request::ResolveRefund(command))
    }
}

fn says_no_amount(bolt11: &str) -> bool {
    let said = bolt11.parse::<Bolt11Details>();
    said.is_ok_and(|said| said.amount_msat.is_none())
}
