//! What tills do with cards: they look, charge, and keep tabs; and cards that are filled up.

use super::commands::{Request, key};
use super::model::card_payments::route_msat;
use super::model::{Asked, TabStanding, Wrong};
use super::orders::{Order, order};
use super::pins::typed;
use super::tally::Fault;
use super::world::World;
use crate::access::Credential;
use crate::cards::{
    AuthorizeCard, AutoTopUp, CaptureCharge, ChargeAmount, ChargeCard, PayWithCard, ReleaseCharge,
    SetAutoTopUp, TopUpSource,
};
use crate::ids::{CardId, ChargeId, MerchantId};
use crate::lightning::{PaymentHash, Preimage};
use crate::money::{Asset, Price};

/// A card at a till.
struct Sale {
    card: CardId,
    till: Credential,
    merchant: MerchantId,
    tap: String,
    counter: i64,
    amount_msat: i64,
    pin: Option<u32>,
}

impl World {
    fn sale(&mut self) -> Option<Sale> {
        let at = self.held()?;
        let revoked = self.random.chance(40);
        let till = match self.shop.revoked.as_ref().filter(|_| revoked) {
            Some(till) => Some(till),
            None => self.random.pick(&self.shop.tills),
        };
        let (till, merchant) = till.map(|it| (it.credential.clone(), it.merchant))?;
        let shown = self.random.pick(&self.shop.cards[at].shown).cloned();
        let replays = self.random.chance(80);
        let looked_at = self.random.chance(150);
        let amount_msat = match self.random.below(20) {
            0 => self.random.between(2_000_000, 40_000_000),
            _ => self.random.between(100, 1_800) * 1_000,
        };
        let card = &mut self.shop.cards[at];
        let (Some(id), Some(chip)) = (card.id, card.chip.as_mut()) else {
            return None;
        };
        let (tap, counter) = match shown.filter(|_| replays) {
            Some(shown) => {
                self.ground.struck(Fault::TapReplayed);
                shown
            }
            None => match card.peeked.pop().filter(|_| looked_at) {
                Some(looked_at) => {
                    self.ground.struck(Fault::TapLate);
                    looked_at
                }
                None => (chip.tap(), i64::from(chip.counter())),
            },
        };
        card.shown.push((tap.clone(), counter));
        let pin = self.pin_for(id, amount_msat);
        Some(Sale {
            card: id,
            till,
            merchant,
            tap,
            counter,
            amount_msat,
            pin,
        })
    }

    fn guess(&mut self, sale: &Sale, name: &str) {
        if sale.pin.is_some() {
            self.model.ask_guess(sale.card, name);
        }
    }

    pub(super) fn charge(&mut self) -> Result<Option<Order>, Wrong> {
        if self.random.chance(120) {
            return self.peek();
        }
        let Some(sale) = self.sale() else {
            return Ok(None);
        };
        let name = self.name();
        let asked = Asked::Charge {
            card: sale.card,
            merchant: sale.merchant,
            counter: sale.counter,
            amount_msat: sale.amount_msat,
            pin: sale.pin,
            since_ms: self.model.last_ms,
        };
        self.model.ask(&name, asked);
        self.guess(&sale, &name);
        let command = ChargeCard {
            key: key(&name)?,
            tap: sale.tap,
            price: Price::Bitcoin {
                amount_msat: sale.amount_msat,
            },
            reference: name.clone(),
            pin: typed(sale.pin),
        };
        order(name, &sale.till, Request::Charge(command))
    }

    /// Somebody looks at a tap, that is charged later or never.
    fn peek(&mut self) -> Result<Option<Order>, Wrong> {
        let Some(at) = self.held() else {
            return Ok(None);
        };
        let name = self.name();
        let card = &mut self.shop.cards[at];
        let (Some(id), Some(chip)) = (card.id, card.chip.as_mut()) else {
            return Ok(None);
        };
        let (tap, counter) = (chip.tap(), i64::from(chip.counter()));
        card.peeked.push((tap.clone(), counter));
        self.model.ask(&name, Asked::Peek { card: id, counter });
        // Anybody may who has the tap.
        let Some(holder) = card.holder.clone() else {
            return Ok(None);
        };
        order(name, &holder, Request::Peek(tap))
    }

    /// A card pays an invoice: of somebody's wallet, or of the engine's own.
    pub(super) fn pay_with_card(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let Some(sale) = self.sale() else {
            return Ok(None);
        };
        let own = self.random.chance(450);
        let (bolt11, hash, needs_msat) = if own {
            let invoices = self.model.invoices.values();
            let holds = self.random.chance(600);
            let fits = invoices.filter(|it| it.is_payable(2_500_000));
            let fits = fits.filter(|it| !holds || it.is_hold());
            let fits: Vec<_> = fits.map(|it| (it.bolt11.clone(), it.hash)).collect();
            let Some((bolt11, hash)) = self.random.pick(&fits).cloned() else {
                return Ok(None);
            };
            (bolt11, hash, i64::MAX)
        } else if let Some(used) = self.used_invoice() {
            used
        } else {
            let amount_msat = sale.amount_msat.min(2_000_000);
            let mut bytes = [0; 32];
            for byte in &mut bytes {
                *byte = self.random.next().to_le_bytes()[0];
            }
            let preimage = Preimage::new(bytes);
            let wanted = self
                .shop
                .wallet_invoice(sale.merchant, amount_msat, preimage)?;
            // Nobody's payout.
            self.shop.wanted.pop();
            let needs_msat = amount_msat + route_msat(amount_msat);
            let paid = (wanted.0.bolt11, wanted.1, needs_msat);
            self.shop.paid.push(paid.clone());
            paid
        };
        let paid = format!("cardpay/{hash}/{}", sale.card);
        if self.model.is_asked(&paid) {
            return Ok(None);
        }
        let asked = Asked::CardPay {
            card: sale.card,
            counter: sale.counter,
            needs_msat,
            pin: sale.pin,
            since_ms: self.model.last_ms,
        };
        let name = self.name();
        self.model.ask(&paid, asked.clone());
        self.model.ask(&name, asked);
        self.guess(&sale, &name);
        let command = PayWithCard {
            key: key(&name)?,
            tap: sale.tap,
            bolt11,
            pin: typed(sale.pin),
        };
        // A tap that comes with no till gets no points of the merchant whose till it is.
        let by = if own { &sale.till } else { by };
        order(name, by, Request::Pay(command))
    }

    /// An invoice of somebody's that a card was to pay before.
    fn used_invoice(&mut self) -> Option<(String, PaymentHash, i64)> {
        let used = self.random.pick(&self.shop.paid).cloned();
        used.filter(|_| self.random.chance(200))
    }

    pub(super) fn tab(&mut self) -> Result<Option<Order>, Wrong> {
        let Some(sale) = self.sale() else {
            return Ok(None);
        };
        let name = self.name();
        let asked = Asked::Tab {
            card: sale.card,
            merchant: sale.merchant,
            counter: sale.counter,
            amount_msat: sale.amount_msat,
            pin: sale.pin,
            since_ms: self.model.last_ms,
        };
        self.model.ask(&name, asked);
        self.guess(&sale, &name);
        let command = AuthorizeCard {
            key: key(&name)?,
            tap: sale.tap,
            price: Price::Bitcoin {
                amount_msat: sale.amount_msat,
            },
            reference: name.clone(),
            pin: typed(sale.pin),
        };
        order(name, &sale.till, Request::Authorize(command))
    }

    /// A tab is taken, or some of it, or given back; now and then one that was ended before.
    pub(super) fn end_a_tab(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let any = self.random.chance(100);
        let open = |id: &&ChargeId| {
            let known = self.model.tabs.get(id);
            any || known.is_some_and(|it| it.standing == TabStanding::Open)
        };
        let tabs: Vec<ChargeId> = self.shop.tabs.iter().filter(open).copied().collect();
        let Some(tab) = self.random.pick(&tabs).copied() else {
            return Ok(None);
        };
        let Some((amount_msat, merchant)) = self
            .model
            .tabs
            .get(&tab)
            .map(|it| (it.amount_msat, it.merchant))
        else {
            return Ok(None);
        };
        let mut tills = self.shop.tills.iter().filter(|it| it.merchant == merchant);
        let till = tills.next().map(|it| it.credential.clone());
        let by = till
            .filter(|_| self.random.chance(700))
            .unwrap_or(by.clone());
        let name = self.name();
        let taken_msat = match self.random.below(10) {
            0..3 => {
                return order(
                    name.clone(),
                    &by,
                    Request::Release(ReleaseCharge {
                        key: key(&name)?,
                        charge: tab,
                    }),
                );
            }
            3..6 => amount_msat,
            6..9 => self.random.between(1, amount_msat),
            _ => amount_msat + self.random.between(1, 1_000),
        };
        self.model.ask_capture(tab, taken_msat);
        let command = CaptureCharge {
            key: key(&name)?,
            charge: tab,
            amount: ChargeAmount::Bitcoin {
                amount_msat: taken_msat,
            },
        };
        order(name, &by, Request::Capture(command))
    }

    /// Gives back every tab that is still open.
    pub(super) fn close_tabs(&mut self, by: &Credential) -> Result<Vec<Order>, Wrong> {
        let tabs: Vec<ChargeId> = self
            .model
            .tabs
            .iter()
            .filter(|(_, it)| it.standing == TabStanding::Open)
            .map(|(id, _)| *id)
            .collect();
        let mut orders = Vec::new();
        for charge in tabs {
            let name = format!("close-{charge}");
            if self.commands.iter().any(|it| it.key == name) {
                continue;
            }
            let key = key(&name)?;
            let command = ReleaseCharge { key, charge };
            orders.extend(order(name, by, Request::Release(command))?);
        }
        Ok(orders)
    }

    /// A card is to be filled up from another one, or by somebody, or no more.
    pub(super) fn auto_top_up(&mut self) -> Result<Option<Order>, Wrong> {
        let (Some((card, holder)), Some((source, agrees))) = (self.held_id(), self.held_id())
        else {
            return Ok(None);
        };
        let below_msat = self.random.between(500, 6_000) * 1_000;
        let to_msat = below_msat + self.random.between(0, 3_000) * 1_000;
        let from = match self.random.below(4) {
            0 => TopUpSource::Outside,
            _ => TopUpSource::Card { card: source },
        };
        let rule = AutoTopUp {
            unit: Asset::Btc,
            below: below_msat,
            to: to_msat,
            times_per_day: self.random.between(1, 3),
            from,
        };
        let name = self.name();
        let command = SetAutoTopUp {
            key: key(&name)?,
            card,
            rule: self.random.chance(850).then_some(rule),
            source: Some(agrees),
        };
        order(name, &holder, Request::AutoTopUp(command))
    }
}
