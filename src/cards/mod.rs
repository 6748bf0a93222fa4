//! Prepaid cards: NTAG 424 DNA chips whose taps spend a balance in the books.
//!
//! A tap is verified before anything changes; its counter moves in the commit that moves the
//! money. Looking at a card never uses up a tap.

pub mod boltcard;
mod error;
mod model;
pub mod programming;
mod rules;

use std::sync::Arc;

use crate::Error;
use crate::access::{Credential, Role};
use crate::core::{Answer, Caller, Core, Decision, Executed, Loaded, check_text, emit};
use crate::ids::{CardId, ChargeId, CredentialId, TransferId};
use crate::invoices::{CreateInvoice, Invoice, InvoicePurpose, Invoices};
use crate::ledger::{Account, Balance, Step, TransferRow};
use crate::rates::price_in_msat;
use crate::{rewards, settlement};

use boltcard::{BoltcardKeys, IssuerKey, KeyDerivation, TapUrl};
pub use error::CardError;
pub use model::{
    ActivateCard, Activation, Card, CardLimits, CardSnapshot, CardState, Charge, ChargeCard,
    ExistingChip, FreezeCard, IssueCard, ProgrammingKeys, RenewHolder, TopUpCard,
};

pub(crate) const CARDS: &str = "card";
pub(crate) const CHARGES: &str = "charge";
const TOP_UP_EXPIRY_SECONDS: u32 = 3_600;
const FIRST_VERSION: u32 = 1;

/// The handle for cards.
#[derive(Clone)]
pub struct Cards {
    core: Arc<Core>,
    issuer_key: Arc<IssuerKey>,
}

/// A tap whose signature is right.
struct VerifiedTap {
    card: Loaded<Card>,
    counter: i64,
}

impl Cards {
    pub(crate) fn new(core: Arc<Core>, issuer_key: Arc<IssuerKey>) -> Self {
        Self { core, issuer_key }
    }

    /// Makes a card for a chip. Issuer only.
    ///
    /// # Errors
    /// `card.bad_uid`, `card.already_issued`, `card.unknown_time_zone`, `command.*`, `access.*`.
    pub async fn issue(
        &self,
        credential: &Credential,
        command: IssueCard,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let uid = parse_uid(&command.uid)?;
                rules::check_limits(&command.limits)?;
                rules::check_existing_chip(command.existing_chip.as_ref())?;
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, "cards.issue", &command.key, &command, || async {
                        cards.decide_issue(&command, &uid)
                    })
                    .await
                    .map_err(rules::refused)?;
                Ok(executed.answer)
            })
            .await
    }

    fn decide_issue(&self, command: &IssueCard, uid: &[u8; 7]) -> Result<Decision<Card>, Error> {
        let existing = command.existing_chip.as_ref();
        let card = Card {
            id: self.core.new_id(CardId::from_parts)?,
            chip: hex::encode(self.issuer_key.card_id_hash(uid)),
            version: existing.map_or(FIRST_VERSION, |chip| chip.version),
            pull_payment_id: existing.and_then(|chip| chip.pull_payment_id.clone()),
            state: CardState::Issued,
            limits: command.limits.clone(),
            created_at_ms: self.core.clock.now_ms(),
            holder: None,
        };
        let mut steps = vec![
            Step::Claim {
                name: format!("chip/{}", card.chip),
                by: card.id.to_string(),
            },
            rules::write(&card, 0)?,
            emit("card.issued", card.id.to_string(), &card)?,
        ];
        if let Some(chip) = existing.filter(|chip| chip.counter > 0) {
            steps.push(Step::Advance {
                counter: rules::counter_name(&card),
                to: chip.counter.into(),
            });
        }
        Ok(Decision {
            steps,
            answer: card,
        })
    }

    /// The keys that a card programmer writes on the chip with this number: derived, never kept.
    /// Issuer only, and only until the card is activated.
    ///
    /// # Errors
    /// `card.not_found`, `card.keys_withheld`, `card.bad_uid`, `access.*`.
    pub async fn programming_keys(
        &self,
        credential: &Credential,
        uid: &str,
    ) -> Result<ProgrammingKeys, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        let uid = parse_uid(uid)?;
        let card = self.by_chip(&uid).await?;
        if card.value.state != CardState::Issued {
            return Err(CardError::KeysWithheld {
                card: card.value.id,
            }
            .into());
        }
        let keys = self.keys(&card.value, &uid);
        Ok(ProgrammingKeys {
            lnurlw: format!("lnurlw://{}", self.core.settings.tap_url),
            version: card.value.version,
            k0: keys.k0.to_hex(),
            k1: keys.k1.to_hex(),
            k2: keys.k2.to_hex(),
            k3: keys.k3.to_hex(),
            k4: keys.k4.to_hex(),
        })
    }

    /// Hands a card over: it can be used from now on, and its holder gets a credential. Issuer
    /// only.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active` when it was activated before, `access.*`.
    pub async fn activate(
        &self,
        credential: &Credential,
        command: ActivateCard,
    ) -> Result<Answer<Activation>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, "cards.activate", &command.key, &command, || {
                        cards.decide_activate(&command)
                    })
                    .await?;
                cards.activation(executed.answer)
            })
            .await
    }

    /// The answer with the holder's credential, which is derived and never kept.
    fn activation(&self, answer: Answer<Card>) -> Result<Answer<Activation>, Error> {
        let Answer {
            as_of_ms,
            value: card,
        } = answer;
        let id = card.holder.ok_or(CardError::NotFound)?;
        let holder = self.core.token(id);
        Ok(Answer {
            as_of_ms,
            value: Activation { card, holder },
        })
    }

    async fn decide_activate(&self, command: &ActivateCard) -> Result<Decision<Card>, Error> {
        let card = load(&self.core, command.card).await?;
        let state = card.value.state;
        if state != CardState::Issued {
            return Err(CardError::NotActive {
                card: card.value.id,
                state,
            }
            .into());
        }
        let holder = self.core.new_id(CredentialId::from_parts)?;
        let after = Card {
            state: CardState::Active,
            holder: Some(holder),
            ..card.value
        };
        let role = Role::Holder { card: after.id };
        let steps = vec![
            rules::write(&after, card.version)?,
            self.core.new_credential(holder, role, "holder")?,
            emit("card.activated", after.id.to_string(), &after)?,
        ];
        Ok(Decision {
            steps,
            answer: after,
        })
    }

    /// For a holder whose phone is lost: the old credential is refused from now on, and a new one
    /// is made. Issuer only, who must know whom it gives it to.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active` when it was never activated, `access.*`.
    pub async fn renew_holder(
        &self,
        credential: &Credential,
        command: RenewHolder,
    ) -> Result<Answer<Activation>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                let executed: Executed<Card> = cards
                    .core
                    .execute(
                        &caller,
                        "cards.renew_holder",
                        &command.key,
                        &command,
                        || cards.decide_renew(&command),
                    )
                    .await?;
                cards.activation(executed.answer)
            })
            .await
    }

    async fn decide_renew(&self, command: &RenewHolder) -> Result<Decision<Card>, Error> {
        let card = load(&self.core, command.card).await?;
        let Some(old) = card.value.holder else {
            let (card, state) = (card.value.id, card.value.state);
            return Err(CardError::NotActive { card, state }.into());
        };
        let holder = self.core.new_id(CredentialId::from_parts)?;
        let after = Card {
            holder: Some(holder),
            ..card.value
        };
        let role = Role::Holder { card: after.id };
        let steps = vec![
            self.core.revoke(old).await?,
            rules::write(&after, card.version)?,
            self.core.new_credential(holder, role, "holder")?,
            emit("card.holder_renewed", after.id.to_string(), &after)?,
        ];
        Ok(Decision {
            steps,
            answer: after,
        })
    }

    /// Stops a card at once. Its holder, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active`, `card.frozen` when it is already, `access.*`.
    pub async fn freeze(
        &self,
        credential: &Credential,
        command: FreezeCard,
    ) -> Result<Answer<Card>, Error> {
        let (from, to) = (CardState::Active, CardState::Frozen);
        self.change_state(credential, command, "cards.freeze", from, to, "card.frozen")
            .await
    }

    /// Lets a frozen card be used again. Its holder alone.
    ///
    /// # Errors
    /// `card.not_found`, `card.not_active`, `access.*`.
    pub async fn unfreeze(
        &self,
        credential: &Credential,
        command: FreezeCard,
    ) -> Result<Answer<Card>, Error> {
        let (from, to) = (CardState::Frozen, CardState::Active);
        self.change_state(
            credential,
            command,
            "cards.unfreeze",
            from,
            to,
            "card.unfrozen",
        )
        .await
    }

    async fn change_state(
        &self,
        credential: &Credential,
        command: FreezeCard,
        operation: &'static str,
        from: CardState,
        to: CardState,
        event: &'static str,
    ) -> Result<Answer<Card>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                match to {
                    CardState::Frozen => caller.require_issuer_or_holder(command.card)?,
                    _ => caller.require_holder(command.card)?,
                }
                let decide = || async {
                    let card = load(&cards.core, command.card).await?;
                    if card.value.state != from {
                        let (card, state) = (card.value.id, card.value.state);
                        return Err(CardError::NotActive { card, state }.into());
                    }
                    let after = Card {
                        state: to,
                        ..card.value
                    };
                    let steps = vec![
                        rules::write(&after, card.version)?,
                        emit(event, after.id.to_string(), &after)?,
                    ];
                    Ok(Decision {
                        steps,
                        answer: after,
                    })
                };
                let executed: Executed<Card> = cards
                    .core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// An invoice whose payment goes on the card: see [`Invoices::create`].
    ///
    /// # Errors
    /// As for [`Invoices::create`].
    pub async fn top_up(
        &self,
        credential: &Credential,
        command: TopUpCard,
    ) -> Result<Answer<Invoice>, Error> {
        let command = CreateInvoice {
            key: command.key,
            purpose: InvoicePurpose::TopUp { card: command.card },
            price: command.price,
            description: "Card top-up".to_owned(),
            expiry_seconds: TOP_UP_EXPIRY_SECONDS,
        };
        Invoices::new(self.core.clone())
            .create(credential, command)
            .await
    }

    /// What a tap shows. It changes nothing: the same tap can be charged afterwards.
    ///
    /// # Errors
    /// `card.tap_*`, `card.not_found`.
    pub async fn peek(&self, tap: &str) -> Result<Answer<CardSnapshot>, Error> {
        let as_of_ms = self.core.clock.now_ms();
        let VerifiedTap {
            card: Loaded { value: card, .. },
            counter,
        } = self.verify(tap).await?;
        let last = self.core.store.counter(&rules::counter_name(&card)).await?;
        if let Some(last) = last.filter(|last| counter <= *last) {
            return Err(CardError::TapReplayed { counter, last }.into());
        }
        let value = self.snapshot_of(card).await?;
        Ok(Answer { as_of_ms, value })
    }

    /// A card as it stands now. Its holder, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        card: CardId,
    ) -> Result<Answer<CardSnapshot>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer_or_holder(card)?;
        let as_of_ms = self.core.clock.now_ms();
        let value = self
            .snapshot_of(load(&self.core, card).await?.value)
            .await?;
        Ok(Answer { as_of_ms, value })
    }

    /// What moved on a card, newest first, before the position `before`; at most `limit` (1 to
    /// 1,000). Its holder, or the issuer.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn history(
        &self,
        credential: &Credential,
        card: CardId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Answer<Vec<TransferRow>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer_or_holder(card)?;
        let as_of_ms = self.core.clock.now_ms();
        let account = Account::card_balance(card);
        let value = self.core.store.transfers(&account, before, limit).await?;
        Ok(Answer { as_of_ms, value })
    }

    async fn snapshot_of(&self, card: Card) -> Result<CardSnapshot, Error> {
        let account = Account::card_balance(card.id);
        let side = account.kind().side();
        let balance: Balance = self.core.store.balance(&account).await?;
        Ok(CardSnapshot {
            card: card.id,
            state: card.state,
            balance_msat: i64::try_from(balance.available(side)).unwrap_or(i64::MAX),
            pending_msat: balance.incoming(side),
            limits: card.limits,
        })
    }

    /// Pays a sale with a tapped card: the card is debited, the merchant credited and the points
    /// given in one commit, which uses the tap up. Tills only; the merchant is the till's.
    ///
    /// # Errors
    /// `card.tap_malformed`, `card.tap_not_ours`, `card.tap_wrong_mac`, `card.tap_replayed`,
    /// `card.frozen`, `card.not_active`, `card.insufficient_funds`, `card.limit_exceeded`,
    /// `money.*`, `rate.*`, `command.*`, `access.*`.
    pub async fn charge(
        &self,
        credential: &Credential,
        command: ChargeCard,
    ) -> Result<Answer<Charge>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                caller.require_till()?;
                check_text("reference", &command.reference, 100, "100 characters")?;
                let executed: Executed<Charge> = cards
                    .core
                    .execute(&caller, "cards.charge", &command.key, &command, || {
                        cards.decide_charge(&caller, &command)
                    })
                    .await
                    .map_err(rules::refused)?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_charge(
        &self,
        caller: &Caller,
        command: &ChargeCard,
    ) -> Result<Decision<Charge>, Error> {
        let core = &self.core;
        let VerifiedTap { card, counter } = self.verify(&command.tap).await?;
        rules::require_active(&card.value)?;
        let merchant = settlement::load_merchant(core, caller.require_till()?).await?;
        let now_ms = core.clock.now_ms();
        let (amount_msat, quote) = price_in_msat(
            core.rates.as_ref(),
            &command.price,
            core.settings.rates,
            now_ms,
        )
        .await?;
        let reward = rewards::accrual(core, &merchant.value, card.value.id, amount_msat).await?;
        let charge = Charge {
            id: core.new_id(ChargeId::from_parts)?,
            card: card.value.id,
            merchant: merchant.value.id,
            till: caller.id,
            price: command.price,
            amount_msat,
            quote,
            reference: command.reference.clone(),
            program: reward.as_ref().map(|reward| reward.program),
            points: reward.as_ref().map_or(0, |reward| reward.points),
        };
        let transfer = core.new_id(TransferId::from_parts)?;
        let commit_ms = core.commit_time_ms();
        let mut steps = rules::charge(&card, &charge, counter, transfer, commit_ms)?;
        steps.push(settlement::guard(&merchant));
        if let Some(reward) = reward {
            steps.extend(reward.steps(core, &charge.id.to_string())?);
        }
        Ok(Decision {
            steps,
            answer: charge,
        })
    }

    /// Finds the card of a tap and checks the chip's signature.
    async fn verify(&self, tap: &str) -> Result<VerifiedTap, Error> {
        let tap = TapUrl::parse(tap).map_err(CardError::from)?;
        let picc = boltcard::decrypt_picc(&self.issuer_key, tap.p()).map_err(CardError::from)?;
        let card = self.by_chip(&picc.uid).await?;
        let keys = self.keys(&card.value, &picc.uid);
        boltcard::verify_mac(&keys, &picc, tap.c()).map_err(CardError::from)?;
        Ok(VerifiedTap {
            card,
            counter: i64::from(picc.counter),
        })
    }

    async fn by_chip(&self, uid: &[u8; 7]) -> Result<Loaded<Card>, Error> {
        let chip = hex::encode(self.issuer_key.card_id_hash(uid));
        self.core
            .find(CARDS, "chip", &chip)
            .await?
            .ok_or(CardError::NotFound.into())
    }

    fn keys(&self, card: &Card, uid: &[u8; 7]) -> BoltcardKeys {
        let derivation = match &card.pull_payment_id {
            Some(id) => KeyDerivation::BtcPay {
                pull_payment_id: id.clone(),
            },
            None => KeyDerivation::Standard,
        };
        self.issuer_key.card_keys(uid, card.version, &derivation)
    }
}

fn parse_uid(text: &str) -> Result<[u8; 7], CardError> {
    let mut uid = [0; 7];
    hex::decode_to_slice(text, &mut uid).map_err(|_| CardError::BadUid)?;
    Ok(uid)
}

pub(crate) async fn load(core: &Core, card: CardId) -> Result<Loaded<Card>, Error> {
    core.load(CARDS, &card.to_string())
        .await?
        .ok_or(CardError::NotFound.into())
}

/// The card, if it can be used.
pub(crate) async fn load_active(core: &Core, card: CardId) -> Result<Loaded<Card>, Error> {
    let card = load(core, card).await?;
    rules::require_active(&card.value)?;
    Ok(card)
}

/// Holds in the commit: the card is as it was read.
pub(crate) fn guard(card: &Loaded<Card>) -> Step {
    Step::Require {
        collection: CARDS,
        id: card.value.id.to_string(),
        version: card.version,
    }
}

/// Holds in the commit: the card can be used.
pub(crate) async fn guard_active(core: &Core, card: CardId) -> Result<Step, Error> {
    Ok(guard(&load_active(core, card).await?))
}
