//! What callers ask for, by chance.

use super::commands::{Request, key};
use super::executor::at_once;
use super::model::{Asked, CardRules, InvoiceStanding, PayoutStanding, Wrong};
use super::shopper::{HeldCard, limits};
use super::tally::Fault;
use super::world::World;
use crate::access::Credential;
use crate::cards::{ActivateCard, ChargeCard, FreezeCard, IssueCard, RenewHolder, SetCardLimits};
use crate::ids::{CardId, MerchantId, TransferId};
use crate::invoices::{CreateInvoice, GiveUpInvoice, InvoiceOptions, InvoicePurpose};
use crate::ledger::Account;
use crate::lightning::{PaymentState, Preimage};
use crate::money::Price;
use crate::rewards::{CreateProgram, RedeemPoints};
use crate::settlement::{
    CreateMerchant, PairTill, PayoutOutcome, PayoutTerms, RequestPayout, ResolvePayout, RevokeTill,
};
use crate::store::{DocumentQuery, Store};
use crate::treasury::{
    AssignSuspense, BookCapital, CapitalAccount, CapitalDirection, SuspenseTarget,
};

type Order = (String, Credential, Request);

fn order(name: String, by: &Credential, request: Request) -> Result<Option<Order>, Wrong> {
    Ok(Some((name, by.clone(), request)))
}

impl World {
    /// A command by chance, unless there is nothing to ask for.
    pub(super) fn order(&mut self) -> Result<Option<Order>, Wrong> {
        let Some(process) = &self.process else {
            return Ok(None);
        };
        let issuer = process.issuer.clone();
        if let Some(order) = self.finish_card(&issuer)? {
            return Ok(Some(order));
        }
        match self.random.below(100) {
            0..40 => self.charge(),
            40..62 => self.invoice(&issuer),
            62..66 => self.redeem(&issuer),
            66..77 => self.payout(&issuer),
            77..86 => self.freeze(&issuer),
            86..88 => self.set_limits(),
            88 => self.renew(&issuer),
            89 => self.pair(&issuer),
            90 => self.revoke(&issuer),
            91 => self.capital(&issuer, 1_000_000_000),
            92..94 => self.give_up(&issuer),
            94..96 => self.resolve(&issuer),
            96..99 => self.assign(&issuer),
            _ => self.issue(&issuer),
        }
    }

    pub(super) fn capital(
        &mut self,
        by: &Credential,
        amount_msat: i64,
    ) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        self.model.ask(&name, Asked::Capital(amount_msat));
        let command = BookCapital {
            key: key(&name)?,
            account: CapitalAccount::Onchain,
            direction: CapitalDirection::In,
            amount_msat,
            reason: name.clone(),
        };
        order(name, by, Request::Capital(command))
    }

    pub(super) fn merchant(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        self.model.ask(&name, Asked::Merchant);
        let command = CreateMerchant {
            key: key(&name)?,
            name: name.clone(),
            terms: PayoutTerms::default(),
            category: None,
        };
        order(name, by, Request::Merchant(command))
    }

    pub(super) fn pair(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let Some(merchant) = self.random.pick(&self.shop.merchants).copied() else {
            return Ok(None);
        };
        let name = self.name();
        self.model.ask(&name, Asked::Till);
        let command = PairTill {
            key: key(&name)?,
            merchant,
            label: name.clone(),
        };
        order(name, by, Request::Pair(command))
    }

    fn revoke(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        if self.shop.tills.len() < 3 {
            return Ok(None);
        }
        let name = self.name();
        let at = self.random.below(self.shop.tills.len());
        let till = self.shop.tills.remove(at);
        let command = RevokeTill {
            key: key(&name)?,
            till: till.id,
        };
        self.shop.revoked = Some(till);
        order(name, by, Request::Revoke(command))
    }

    pub(super) fn program(
        &mut self,
        by: &Credential,
        merchant: MerchantId,
    ) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        let (earn_bps, point_value_msat) = (500, 10_000);
        let asked = Asked::Program {
            merchant,
            earn_bps,
            point_value_msat,
        };
        self.model.ask(&name, asked);
        let command = CreateProgram {
            key: key(&name)?,
            merchant,
            name: name.clone(),
            earn_bps: 500,
            point_value_msat,
        };
        order(name, by, Request::Program(command))
    }

    fn card_rules(&mut self) -> CardRules {
        self.made += 1;
        CardRules {
            per_tap_msat: self.random.between(15, 25) * 100_000,
            per_day_msat: self.random.between(8, 14) * 1_000_000,
            taps_per_hour: self.random.between(7, 12),
            max_balance_msat: 20_000_000 + self.made,
        }
    }

    pub(super) fn issue(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        let rules = self.card_rules();
        let asked = Asked::Card(rules);
        self.model
            .ask(&format!("limits/{}", rules.max_balance_msat), asked);
        let uid = format!("04{:012x}", self.made);
        self.shop.cards.push(HeldCard {
            uid: uid.clone(),
            id: None,
            chip: None,
            holder: None,
            shown: Vec::new(),
        });
        let command = IssueCard {
            key: key(&name)?,
            uid,
            existing_chip: None,
            limits: limits(rules),
            program: None,
        };
        order(name, by, Request::Issue(command))
    }

    /// A card that is not in use yet: written, and handed over. One thing at a time.
    pub(super) fn finish_card(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let waiting = self.shop.cards.iter().find(|card| card.holder.is_none());
        let Some((uid, id, written)) =
            waiting.map(|card| (card.uid.clone(), card.id, card.chip.is_some()))
        else {
            return Ok(None);
        };
        let Some(card) = id else { return Ok(None) };
        if !written {
            let name = format!("keys/{uid}");
            if self
                .commands
                .iter()
                .any(|it| it.key == name && it.is_open())
            {
                return Ok(None);
            }
            return order(name, by, Request::Keys(uid));
        }
        let name = format!("activate-{uid}");
        if self.commands.iter().any(|it| it.key == name) {
            return Ok(None);
        }
        let command = ActivateCard {
            key: key(&name)?,
            card,
        };
        order(name, by, Request::Activate(command))
    }

    fn held(&mut self) -> Option<usize> {
        let held: Vec<usize> = (0..self.shop.cards.len())
            .filter(|at| self.shop.cards[*at].holder.is_some())
            .collect();
        self.random.pick(&held).copied()
    }

    fn held_id(&mut self) -> Option<(CardId, Credential)> {
        let at = self.held()?;
        let card = &self.shop.cards[at];
        Some((card.id?, card.holder.clone()?))
    }

    fn charge(&mut self) -> Result<Option<Order>, Wrong> {
        let Some(at) = self.held() else {
            return Ok(None);
        };
        let revoked = self.random.chance(40);
        let till = match self.shop.revoked.as_ref().filter(|_| revoked) {
            Some(till) => Some(till),
            None => self.random.pick(&self.shop.tills),
        };
        let Some((till, merchant)) = till.map(|it| (it.credential.clone(), it.merchant)) else {
            return Ok(None);
        };
        let shown = self.random.pick(&self.shop.cards[at].shown).cloned();
        let replays = self.random.chance(80);
        let amount_msat = match self.random.below(20) {
            0 => self.random.between(2_000_000, 40_000_000),
            _ => self.random.between(100, 1_800) * 1_000,
        };
        let name = self.name();
        let card = &mut self.shop.cards[at];
        let (Some(id), Some(chip)) = (card.id, card.chip.as_mut()) else {
            return Ok(None);
        };
        let (tap, counter) = match shown.filter(|_| replays) {
            Some(shown) => {
                self.ground.struck(Fault::TapReplayed);
                shown
            }
            None => {
                let tap = chip.tap();
                (tap, i64::from(chip.counter()))
            }
        };
        card.shown.push((tap.clone(), counter));
        let asked = Asked::Charge {
            card: id,
            merchant,
            counter,
            amount_msat,
        };
        self.model.ask(&name, asked);
        let command = ChargeCard {
            key: key(&name)?,
            tap,
            price: Price::Bitcoin { amount_msat },
            reference: name.clone(),
            pin: None,
        };
        order(name, &till, Request::Charge(command))
    }

    fn invoice(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let purpose = if self.random.chance(650) {
            let Some((card, _)) = self.held_id() else {
                return Ok(None);
            };
            InvoicePurpose::TopUp { card }
        } else {
            let Some(merchant) = self.random.pick(&self.shop.merchants).copied() else {
                return Ok(None);
            };
            InvoicePurpose::Sale { merchant }
        };
        let owner = purpose.account();
        let amount_msat = self.random.between(1_000, 9_000) * 1_000;
        let name = self.name();
        self.model.ask(&name, Asked::Invoice { owner, amount_msat });
        let command = CreateInvoice {
            key: key(&name)?,
            purpose,
            price: Some(Price::Bitcoin { amount_msat }),
            description: name.clone(),
            expiry_seconds: u32::try_from(self.random.between(60, 7_200)).unwrap_or(60),
            options: InvoiceOptions::default(),
        };
        order(name, by, Request::Invoice(command))
    }

    fn redeem(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let (card, program) = (
            self.held_id(),
            self.random.pick(&self.shop.programs).copied(),
        );
        let (Some((card, _)), Some(program)) = (card, program) else {
            return Ok(None);
        };
        let has = self
            .model
            .books
            .to_give(&Account::points_balance(card, program));
        let points = self.random.between(1, has.max(1) + 2);
        let name = self.name();
        self.model.ask_redemption(card, points);
        let command = RedeemPoints {
            key: key(&name)?,
            card,
            program,
            points,
        };
        order(name, by, Request::Redeem(command))
    }

    fn payout(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        let used = self.random.pick(&self.shop.wanted).cloned();
        let again = self.random.chance(150);
        let wanted = match used.filter(|_| again) {
            Some(used) => {
                self.ground.struck(Fault::InvoiceReused);
                used
            }
            None => {
                let Some(merchant) = self.random.pick(&self.shop.merchants).copied() else {
                    return Ok(None);
                };
                let owed = self
                    .model
                    .books
                    .to_give(&Account::merchant_payable(merchant));
                let most = if self.random.chance(80) {
                    owed.saturating_mul(2)
                } else {
                    owed.min(4_000_000) * 9 / 10
                };
                let amount_msat = self.random.between(20_000, most.max(30_000));
                let mut bytes = [0; 32];
                for byte in &mut bytes {
                    *byte = self.random.next().to_le_bytes()[0];
                }
                let preimage = Preimage::new(bytes);
                let (wanted, hash) = self.shop.wallet_invoice(merchant, amount_msat, preimage)?;
                let asked = Asked::Payout {
                    merchant,
                    amount_msat,
                };
                self.model.ask(&format!("payout/{hash}"), asked);
                wanted
            }
        };
        let command = RequestPayout {
            key: key(&name)?,
            merchant: wanted.merchant,
            bolt11: wanted.bolt11,
        };
        order(name, by, Request::Payout(command))
    }

    fn freeze(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let Some((card, holder)) = self.held_id() else {
            return Ok(None);
        };
        let name = self.name();
        let is_frozen = self
            .model
            .cards
            .get(&card)
            .is_some_and(|known| known.standing == super::model::CardStanding::Frozen);
        let command = FreezeCard {
            key: key(&name)?,
            card,
        };
        if is_frozen {
            return order(name, &holder, Request::Unfreeze(command));
        }
        if self.random.chance(700) {
            return Ok(None);
        }
        order(name, by, Request::Freeze(command))
    }

    fn set_limits(&mut self) -> Result<Option<Order>, Wrong> {
        let Some((card, holder)) = self.held_id() else {
            return Ok(None);
        };
        let name = self.name();
        let rules = self.card_rules();
        let asked = Asked::Limits(card, rules);
        self.model
            .ask(&format!("limits/{}", rules.max_balance_msat), asked);
        let command = SetCardLimits {
            key: key(&name)?,
            card,
            limits: limits(rules),
        };
        order(name, &holder, Request::Limits(command))
    }

    fn renew(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let Some((card, _)) = self.held_id() else {
            return Ok(None);
        };
        let name = self.name();
        let command = RenewHolder {
            key: key(&name)?,
            card,
        };
        order(name, by, Request::Renew(command))
    }

    /// Gives up on a payment that does not arrive; now and then on one that does.
    pub(super) fn give_up(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let anyway = self.random.chance(150);
        let stuck: Vec<_> = self
            .model
            .invoices
            .iter()
            .filter(|(_, it)| it.standing == InvoiceStanding::Processing)
            .filter(|(_, it)| {
                let record = self.true_node.record(it.hash);
                anyway || record.is_some_and(|record| record.state == PaymentState::Failed)
            })
            .map(|(id, _)| *id)
            .collect();
        let Some(invoice) = self.random.pick(&stuck).copied() else {
            return Ok(None);
        };
        let name = self.name();
        let command = GiveUpInvoice {
            key: key(&name)?,
            invoice,
            reason: "it went back".to_owned(),
        };
        order(name, by, Request::GiveUp(command))
    }

    /// A person says of a payout whose outcome is unknown that it failed.
    pub(super) fn resolve(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let unknown: Vec<_> = self
            .model
            .payouts
            .iter()
            .filter(|(_, it)| it.standing == PayoutStanding::Unknown)
            .map(|(id, _)| *id)
            .collect();
        let Some(payout) = self.random.pick(&unknown).copied() else {
            return Ok(None);
        };
        let name = self.name();
        self.model.resolve(payout);
        let command = ResolvePayout {
            key: key(&name)?,
            payout,
            outcome: PayoutOutcome::Failed,
            reason: "the merchant says so".to_owned(),
            despite_record: false,
        };
        order(name, by, Request::Resolve(command))
    }

    /// What waits in suspense is the operator's own.
    pub(super) fn assign(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let query = DocumentQuery::under("suspense", "state", "open", 20);
        let open = at_once(self.disk.documents(query)).and_then(Result::ok);
        let open: Vec<TransferId> = open
            .unwrap_or_default()
            .iter()
            .filter_map(|(_, document)| document.id.parse().ok())
            .collect();
        let Some(item) = self.random.pick(&open).copied() else {
            return Ok(None);
        };
        let name = self.name();
        let command = AssignSuspense {
            key: key(&name)?,
            item,
            to: SuspenseTarget::Operator,
            reason: "nobody's".to_owned(),
        };
        order(name, by, Request::Assign(command))
    }
}
