//! What callers know and have: tills, cards in their hands, wallets.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::commands::Request;
use super::executor::at_once;
use super::model::{CardRules, Wrong, wrong};
use crate::access::Credential;
use crate::cards::{
    CardLimits, OfflineBook, OfflineEnrolment, OfflineKey, OfflineOutcome, ProgrammingKeys,
};
use crate::ids::{CardId, ChargeId, CredentialId, MerchantId, ProgramId};
use crate::lightning::simulated::SimulatedNode;
use crate::lightning::{
    InvoiceRequest, LightningEvent, LightningNode, PaymentHash, PaymentState, Preimage,
};
use crate::testkit::virtual_card::VirtualCard;

/// A till, for as long as it may sell.
pub(super) struct Till {
    pub(super) id: CredentialId,
    pub(super) credential: Credential,
    pub(super) merchant: MerchantId,
    pub(super) key: Option<OfflineKey>,
    /// What it took offline.
    pub(super) book: Option<OfflineBook>,
}

/// What is to become of a card that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Activated,
    InThePlaceOf,
    InFamilyOf,
}

/// A chip, and what became of it.
pub(super) struct HeldCard {
    pub(super) uid: String,
    pub(super) id: Option<CardId>,
    pub(super) chip: Option<VirtualCard>,
    pub(super) holder: Option<Credential>,
    /// Taps that were shown before, with what they were shown for.
    pub(super) shown: Vec<(String, i64)>,
    /// Taps that were looked at and not charged.
    pub(super) peeked: Vec<(String, i64)>,
    pub(super) fate: Fate,
    /// Another one came in its place.
    pub(super) is_over: bool,
}

/// An invoice of a merchant's own wallet.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) merchant: MerchantId,
    pub(super) bolt11: String,
}

/// What all callers know together.
pub(super) struct Shop {
    /// The merchants' wallet: it takes what arrives, or not, when the world says so.
    pub(super) wallet: SimulatedNode,
    preimages: BTreeMap<PaymentHash, Preimage>,
    /// What arrived and waits.
    pub(super) arrived: Vec<(PaymentHash, i64)>,
    pub(super) merchants: Vec<MerchantId>,
    pub(super) programs: Vec<ProgramId>,
    pub(super) tills: Vec<Till>,
    /// The one whose credential was taken away last.
    pub(super) revoked: Option<Till>,
    pub(super) cards: Vec<HeldCard>,
    pub(super) wanted: Vec<Wanted>,
    pub(super) tabs: Vec<ChargeId>,
    /// Invoices of the wallet that cards were to pay, and what they need for it.
    pub(super) paid: Vec<(String, PaymentHash, i64)>,
}

impl Shop {
    pub(super) fn new(wallet: SimulatedNode) -> Self {
        Self {
            wallet,
            preimages: BTreeMap::new(),
            arrived: Vec::new(),
            merchants: Vec::new(),
            programs: Vec::new(),
            tills: Vec::new(),
            revoked: None,
            cards: Vec::new(),
            wanted: Vec::new(),
            tabs: Vec::new(),
            paid: Vec::new(),
        }
    }

    /// Remembers what an answer told.
    pub(super) fn learn(&mut self, request: &Request, answer: &Value) -> Result<(), Wrong> {
        match request {
            Request::Merchant(_) => self.merchants.push(field(answer, "id")?),
            Request::Program(_) => self.programs.push(field(answer, "id")?),
            Request::Pair(command) => self.tills.push(Till {
                id: field(answer.get("till").unwrap_or(answer), "id")?,
                credential: field(answer, "credential")?,
                merchant: command.merchant,
                key: None,
                book: None,
            }),
            Request::Issue(command) => {
                let id = Some(field(answer, "id")?);
                if let Some(card) = self.cards.iter_mut().find(|it| it.uid == command.uid) {
                    card.id = id;
                }
            }
            Request::Keys(uid) => {
                let keys: ProgrammingKeys = read(answer)?;
                if let Some(card) = self.cards.iter_mut().find(|it| it.uid == *uid) {
                    card.chip = VirtualCard::program(uid, &keys).ok();
                }
            }
            Request::Activate(command) => self.hold(command.card, answer)?,
            Request::Replace(command) => {
                let new = answer.get("card").unwrap_or(answer);
                self.hold(field(new, "id")?, answer)?;
                let mut cards = self.cards.iter_mut();
                if let Some(old) = cards.find(|it| it.id == Some(command.card)) {
                    old.is_over = true;
                }
            }
            Request::Family(_) => {
                let new = answer.get("card").unwrap_or(answer);
                self.hold(field(new, "id")?, answer)?;
            }
            Request::Authorize(_) => self.tabs.push(field(answer, "id")?),
            Request::Enroll(command) => {
                let enrolment: OfflineEnrolment = read(answer)?;
                let mut tills = self.tills.iter_mut().chain(&mut self.revoked);
                if let Some(till) = tills.find(|it| it.id == enrolment.till)
                    && enrolment.public_key == command.public_key
                {
                    till.book = OfflineBook::new(&enrolment).ok();
                }
            }
            Request::Replay(envelope) => {
                let outcomes: Vec<OfflineOutcome> = read(answer)?;
                let mut tills = self.tills.iter_mut().chain(&mut self.revoked);
                if let Some(till) = tills.find(|it| it.id == envelope.till)
                    && let Some(book) = &mut till.book
                {
                    book.settled(&outcomes);
                }
            }
            Request::Renew(command) => self.hold(command.card, answer)?,
            _ => {}
        }
        Ok(())
    }

    fn hold(&mut self, card: CardId, answer: &Value) -> Result<(), Wrong> {
        let holder = Some(field(answer, "holder")?);
        if let Some(card) = self.cards.iter_mut().find(|it| it.id == Some(card)) {
            card.holder = holder;
        }
        Ok(())
    }

    /// An invoice of the merchants' wallet.
    pub(super) fn wallet_invoice(
        &mut self,
        merchant: MerchantId,
        amount_msat: i64,
        preimage: Preimage,
    ) -> Result<(Wanted, PaymentHash), Wrong> {
        let (bolt11, hash) = self.wallet_text(Some(amount_msat), preimage)?;
        let wanted = Wanted { merchant, bolt11 };
        self.wanted.push(wanted.clone());
        Ok((wanted, hash))
    }

    /// A text of the wallet's; whoever pays one without an amount says how much.
    pub(super) fn wallet_text(
        &mut self,
        amount_msat: Option<i64>,
        preimage: Preimage,
    ) -> Result<(String, PaymentHash), Wrong> {
        let hash = preimage.payment_hash();
        self.preimages.insert(hash, preimage);
        let request = InvoiceRequest {
            payment_hash: hash,
            amount_msat,
            description: "payout".to_owned(),
            description_hash: None,
            expiry_seconds: 24 * 3_600,
        };
        match at_once(self.wallet.create_invoice(request)) {
            Some(Ok(bolt11)) => Ok((bolt11, hash)),
            _ => wrong("the simulation itself is right", "no invoice"),
        }
    }

    /// What came to the wallet since the last time.
    pub(super) fn look(&mut self) {
        while let Some(Ok(event)) = at_once(self.wallet.next_event()) {
            drop(at_once(self.wallet.acknowledge()));
            if let LightningEvent::Claimable {
                payment_hash,
                amount_msat,
                ..
            } = event
            {
                self.arrived.push((payment_hash, amount_msat));
            }
        }
    }

    /// Takes what arrived, or gives it back.
    pub(super) fn decide(&mut self, at: usize, takes: bool) {
        if at >= self.arrived.len() {
            return;
        }
        let (hash, amount_msat) = self.arrived.remove(at);
        match self.preimages.get(&hash).filter(|_| takes) {
            Some(preimage) => drop(at_once(self.wallet.claim(
                hash,
                preimage.clone(),
                amount_msat,
            ))),
            None => drop(at_once(self.wallet.fail(hash))),
        }
    }

    /// Whether the wallet has what its invoice was for.
    pub(super) fn has_received(&self, hash: PaymentHash) -> bool {
        let record = self.wallet.record(hash);
        record.is_some_and(|record| record.state == PaymentState::Succeeded)
    }

    /// What the wallet has under all invoices of its own.
    pub(super) fn received_msat(&self) -> i64 {
        let records = self
            .preimages
            .keys()
            .filter_map(|hash| self.wallet.record(*hash));
        records
            .filter(|record| record.state == PaymentState::Succeeded)
            .filter_map(|record| record.amount_msat)
            .sum()
    }
}

/// The rules as the engine takes them.
pub(super) fn limits(rules: CardRules) -> CardLimits {
    CardLimits {
        per_tap: Some(rules.per_tap_msat),
        per_day: Some(rules.per_day_msat),
        taps_per_hour: Some(rules.taps_per_hour),
        max_balance: Some(rules.max_balance_msat),
        pin_above: rules.pin_above_msat,
        ..CardLimits::default()
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Wrong> {
    match serde_json::from_value(value.clone()) {
        Ok(read) => Ok(read),
        Err(error) => wrong("every answer can be read", error.to_string()),
    }
}

fn field<T: DeserializeOwned>(value: &Value, name: &str) -> Result<T, Wrong> {
    read(value.get(name).unwrap_or(&Value::Null))
}
