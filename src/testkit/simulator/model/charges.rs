//! Charges that are undone, in whole or in part, as the model knows them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::refunds::SalePoints;
use super::{Model, Wrong, not_lawful, number, parse, text, wrong};
use crate::ids::{CardId, ChargeId, MerchantId};
use crate::ledger::{Account, EventRecord};
use crate::testkit::simulator::tally::Transition;

/// A charge that was paid.
pub(super) struct KnownCharge {
    card: CardId,
    merchant: MerchantId,
    /// The account that paid.
    from: Account,
    amount_msat: i64,
    refunded_msat: i64,
    withheld_msat: i64,
    /// What could not be withheld yet.
    to_withhold_msat: i64,
    at_ms: i64,
    points: Option<SalePoints>,
    taken_back: i64,
    /// What was asked to go back of it, and how often.
    asked: BTreeMap<i64, i64>,
}

impl Model {
    pub(super) fn note_charge(
        &mut self,
        (id, from): (ChargeId, Account),
        (card, merchant): (CardId, MerchantId),
        amount_msat: i64,
        at_ms: i64,
        points: Option<SalePoints>,
    ) {
        let charge = KnownCharge {
            card,
            merchant,
            from,
            amount_msat,
            refunded_msat: 0,
            withheld_msat: 0,
            to_withhold_msat: 0,
            at_ms,
            points,
            taken_back: 0,
            asked: BTreeMap::new(),
        };
        self.charges.insert(id, charge);
    }

    /// Charges of which something stands, with their merchants and what it is.
    pub(crate) fn charges_to_refund(&self) -> Vec<(ChargeId, MerchantId, i64)> {
        let charges = self.charges.iter();
        charges
            .map(|(id, it)| (*id, it.merchant, it.amount_msat - it.refunded_msat))
            .filter(|(.., standing_msat)| *standing_msat > 0)
            .collect()
    }

    pub(crate) fn ask_charge_refund(&mut self, charge: ChargeId, amount_msat: i64) {
        if let Some(charge) = self.charges.get_mut(&charge) {
            *charge.asked.entry(amount_msat).or_default() += 1;
        }
    }

    pub(super) fn charge_refunded(&mut self, event: &EventRecord) -> Result<(), Wrong> {
        let body = &event.body;
        let id: ChargeId = parse(text(body, "id")?)?;
        let Some(mut charge) = self.charges.remove(&id) else {
            return not_lawful("a charge of nobody");
        };
        let amount_msat = number(body, "refunded_msat")? - charge.refunded_msat;
        let withheld_msat = number(body, "withheld_msat")? - charge.withheld_msat;
        match charge.asked.get_mut(&amount_msat) {
            Some(times) if *times > 0 => *times -= 1,
            _ => return wrong("nothing is done twice", "a refund of a charge"),
        }
        charge.refunded_msat += amount_msat;
        charge.withheld_msat += withheld_msat;
        let standing_msat = charge.amount_msat - charge.refunded_msat;
        if standing_msat < 0 {
            return not_lawful("more than was charged");
        }
        let redeemed_msat = self.charge_points(&mut charge, body, (amount_msat, withheld_msat))?;
        let owed_msat = charge.to_withhold_msat + redeemed_msat;
        if withheld_msat != owed_msat.min(amount_msat) {
            return not_lawful(format!("{owed_msat} msat were to be withheld"));
        }
        charge.to_withhold_msat = owed_msat - withheld_msat;
        let paid_msat = amount_msat - withheld_msat;
        let payable = Account::merchant_payable(charge.merchant);
        if self.books.to_give(&payable) < paid_msat {
            return not_lawful("more than the merchant is owed");
        }
        self.books.post(payable, charge.from, paid_msat);
        self.give_back_usage(charge.card, charge.at_ms, amount_msat);
        self.go_on(charge.from);
        self.fire(match standing_msat {
            0 => Transition::ChargeRefunded,
            _ => Transition::ChargeRefundedInPart,
        });
        self.charges.insert(id, charge);
        Ok(())
    }

    /// The points that go back with it. Answers what those are worth that the card had turned into
    /// money: what is withheld says so, as long as the refund is more than that.
    fn charge_points(
        &mut self,
        charge: &mut KnownCharge,
        body: &Value,
        (amount_msat, withheld_msat): (i64, i64),
    ) -> Result<i64, Wrong> {
        let standing_msat = charge.amount_msat - charge.refunded_msat;
        let told = number(body, "points_taken_back")? - charge.taken_back;
        let Some(sale) = charge.points else {
            return match told {
                0 => Ok(0),
                _ => not_lawful("points of nobody"),
            };
        };
        let earned = self.earned(sale.program, standing_msat);
        let points = (sale.points - charge.taken_back - earned).max(0);
        if told != points {
            return not_lawful(format!("{points} points were to go back"));
        }
        charge.taken_back += points;
        let account = Account::points_balance(sale.line, sale.program);
        let (value_msat, has) = (self.value_of(sale.program), self.books.to_give(&account));
        let redeemed_msat = match withheld_msat < amount_msat {
            true => withheld_msat - charge.to_withhold_msat,
            false => (points - points.min(has)) * value_msat,
        };
        let at_hand = points - redeemed_msat / value_msat.max(1);
        if at_hand < 0 || at_hand > has.min(points) {
            return not_lawful(format!("{at_hand} of {has} points taken back"));
        }
        self.return_points((sale.line, sale.program), at_hand, charge.merchant);
        Ok(redeemed_msat)
    }
}
