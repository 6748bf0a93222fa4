//! What callers ask for, by chance.

use super::commands::{Request, key};
use super::executor::at_once;
use super::model::{Asked, CardRules, OnChainTerms, PayoutStanding, Wrong};
use super::shopper::{Fate, HeldCard, limits};
use super::tally::Fault;
use super::world::World;
use crate::access::Credential;
use crate::cards::{ActivateCard, FreezeCard, IssueCard, RenewHolder, SetCardLimits};
use crate::ids::{CardId, MerchantId, TransferId};
use crate::invoices::{
    ConfirmationTier, CreateInvoice, Custody, GiveUpInvoice, GivenAddress, InvoiceOptions,
    InvoicePurpose, PaymentRules, Rail, SurplusTo,
};
use crate::ledger::Account;
use crate::lightning::{PaymentRecord, PaymentState, Preimage};
use crate::money::Price;
use crate::rewards::{CreateProgram, RedeemPoints};
use crate::settlement::{
    CreateMerchant, PairTill, PayoutOutcome, PayoutTerms, RequestPayout, ResolvePayout, RevokeTill,
};
use crate::store::{DocumentQuery, Store};
use crate::testkit::chain::nobodys_address;
use crate::treasury::{
    AssignSuspense, BookCapital, CapitalAccount, CapitalDirection, SuspenseTarget,
};

pub(super) type Order = (String, Credential, Request);

pub(super) fn order(
    name: String,
    by: &Credential,
    request: Request,
) -> Result<Option<Order>, Wrong> {
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
        if let Some(order) = self.enroll()? {
            return Ok(Some(order));
        }
        match self.random.below(100) {
            0..20 => self.charge(),
            20..27 => self.pay_with_card(&issuer),
            27..30 => self.tab(),
            30..33 => self.end_a_tab(&issuer),
            33..40 => self.hand_in(&issuer),
            40..57 => self.invoice(&issuer),
            57 => self.pin(&issuer),
            58..61 => self.end_a_hold(&issuer),
            61 => self.issue(&issuer),
            62..65 => self.redeem(&issuer),
            65..69 => self.refund(&issuer),
            69..77 => self.payout(&issuer),
            77..86 => self.freeze(&issuer),
            86 => self.set_limits(),
            87 => self.pin(&issuer),
            88 => self.auto_top_up(),
            89 => self.pair(&issuer),
            90 => self.revoke(&issuer),
            91 if self.random.chance(500) => self.capital(&issuer, 1_000_000_000),
            91 => self.renew(&issuer),
            92 => self.give_up(&issuer),
            93 => self.end_a_hold(&issuer),
            94 => self.resolve(&issuer, false),
            95 => self.resolve_refund(&issuer),
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

    pub(super) fn card_rules(&mut self) -> CardRules {
        self.made += 1;
        CardRules {
            per_tap_msat: self.random.between(15, 25) * 100_000,
            per_day_msat: self.random.between(8, 14) * 1_000_000,
            taps_per_hour: self.random.between(7, 12),
            max_balance_msat: 20_000_000 + self.made,
            pin_above_msat: match self.random.chance(300) {
                true => Some(self.random.between(300, 1_500) * 1_000),
                false => None,
            },
        }
    }

    pub(super) fn issue(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let name = self.name();
        let rules = self.card_rules();
        let asked = Asked::Card(rules);
        self.model
            .ask(&format!("limits/{}", rules.max_balance_msat), asked);
        let uid = format!("04{:012x}", self.made);
        let fate = match self.random.below(10) {
            _ if self.shop.cards.len() < 3 => Fate::Activated,
            0..3 => Fate::Activated,
            3..7 => Fate::InThePlaceOf,
            _ => Fate::InFamilyOf,
        };
        self.shop.cards.push(HeldCard {
            fate,
            peeked: Vec::new(),
            is_over: false,
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
        let mut cards = self.shop.cards.iter();
        let Some(at) = cards.position(|card| card.holder.is_none()) else {
            return Ok(None);
        };
        let card = &self.shop.cards[at];
        let (uid, id, written) = (card.uid.clone(), card.id, card.chip.is_some());
        let is_placed = card.fate != Fate::Activated;
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
        if is_placed {
            let name = format!("placed-{uid}");
            match self.commands.iter().find(|it| it.key == name) {
                None => return self.place(at, card),
                Some(placed) if placed.is_open() => return Ok(None),
                // Refused: it is handed over by itself.
                Some(_) => {}
            }
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

    pub(super) fn held(&mut self) -> Option<usize> {
        let any = self.random.chance(50);
        let held: Vec<usize> = (0..self.shop.cards.len())
            .filter(|at| self.shop.cards[*at].holder.is_some())
            .filter(|at| any || !self.shop.cards[*at].is_over)
            .collect();
        self.random.pick(&held).copied()
    }

    pub(super) fn held_id(&mut self) -> Option<(CardId, Credential)> {
        let at = self.held()?;
        let card = &self.shop.cards[at];
        Some((card.id?, card.holder.clone()?))
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
        let name = self.name();
        let (mut options, on_chain) = self.invoice_options(&name, purpose);
        options.hold = on_chain.is_none() && self.random.chance(350);
        // What a tap can pay is held in the books as well.
        let amount_msat = match options.hold {
            true => self.random.between(200, 1_500) * 1_000,
            false => self.random.between(1_000, 9_000) * 1_000,
        };
        let asked = Asked::Invoice {
            owner,
            amount_msat,
            on_chain,
            is_hold: options.hold,
        };
        self.model.ask(&name, asked);
        let command = CreateInvoice {
            key: key(&name)?,
            purpose,
            price: Some(Price::Bitcoin { amount_msat }),
            description: name.clone(),
            expiry_seconds: u32::try_from(self.random.between(60, 7_200)).unwrap_or(60),
            options,
        };
        order(name, by, Request::Invoice(command))
    }

    /// Half of the invoices can be paid on chain: some of them there alone, some into the wallet of
    /// the merchant.
    fn invoice_options(
        &mut self,
        name: &str,
        purpose: InvoicePurpose,
    ) -> (InvoiceOptions, Option<OnChainTerms>) {
        if self.random.chance(500) {
            return (InvoiceOptions::default(), None);
        }
        let is_sale = matches!(purpose, InvoicePurpose::Sale { .. });
        let terms = OnChainTerms {
            address: nobodys_address(name),
            is_operators: !is_sale || self.random.chance(700),
            confirmations: u32::try_from(self.random.below(3)).unwrap_or(1),
            tips: self.random.chance(300),
        };
        let rules = PaymentRules {
            surplus: terms.tips.then_some(SurplusTo::Tip),
            confirmations: vec![ConfirmationTier {
                up_to_msat: 1_000_000_000,
                confirmations: terms.confirmations,
            }],
            ..PaymentRules::NONE
        };
        let custody = if terms.is_operators {
            Custody::Operator
        } else {
            Custody::Merchant
        };
        let mut rails = vec![Rail::OnChain];
        if self.random.chance(400) {
            rails.push(Rail::Lightning);
        }
        let options = InvoiceOptions {
            rails,
            address: Some(GivenAddress {
                address: terms.address.clone(),
                custody,
            }),
            rules: Some(rules),
            ..InvoiceOptions::default()
        };
        (options, Some(terms))
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
            .to_give(&Account::points_balance(self.model.line(card), program));
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
            .filter(|(_, it)| {
                let record = it.being_claimed().map(|hash| self.true_node.record(hash));
                let failed = |it: &PaymentRecord| it.state == PaymentState::Failed;
                record.is_some_and(|it| anyway || it.as_ref().is_some_and(failed))
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

    /// A person says of a payout whose outcome is unknown that it failed: any one, or one that never
    /// left, of which the node says nothing and that its invoice's end keeps from being sent again.
    pub(super) fn resolve(
        &mut self,
        by: &Credential,
        never_left: bool,
    ) -> Result<Option<Order>, Wrong> {
        let unknown: Vec<_> = self
            .model
            .payouts
            .iter()
            .filter(|(_, it)| it.standing == PayoutStanding::Unknown)
            .filter(|(_, it)| !never_left || self.true_node.record(it.hash).is_none())
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
