//! Taps: verified, and charged.

use super::boltcard::{BoltcardKeys, KeyDerivation, Opened, PiccData, RingKey, TapError, TapUrl};
use super::charge_model::{AuthorizeCard, Charge, ChargeCard, ChargePosting, ChargeState};
use super::currency::{self, Due};
use super::life::{self, VirtualTap};
use super::model::Card;
use super::pin::{self, Pin};
use super::programs::{self, CardProgram, CardProgramTerms};
use super::{CARDS, CardError, Cards, charge_rules, low_balance, rules, taps};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Caller, Core, Decision, Executed, IdempotencyKey, Loaded, check_text};
use crate::exchange::{self, Moves};
use crate::ids::{ChargeId, TransferId};
use crate::ledger::Step;
use crate::money::Price;
use crate::settlement::Merchant;
use crate::{rewards, settlement};

/// A tap whose signature is right.
pub(super) struct VerifiedTap {
    pub(super) card: Loaded<Card>,
    /// What the card is of, if it is of one.
    pub(super) program: Option<Loaded<CardProgram>>,
    pub(super) counter: i64,
}

impl VerifiedTap {
    /// The program's own, if the card is of one.
    pub(super) fn terms(&self) -> Option<&CardProgramTerms> {
        self.program.as_ref().map(|program| &program.value.terms)
    }
}

/// How a tap pays a sale.
#[derive(Clone, Copy)]
enum Taking {
    AtOnce,
    SetAside,
}

impl Taking {
    fn operation(self) -> &'static str {
        match self {
            Self::AtOnce => "cards.charge",
            Self::SetAside => "cards.authorize",
        }
    }
}

/// A sale that a tap is to pay.
struct Sale {
    card: Loaded<Card>,
    program: Option<Loaded<CardProgram>>,
    counter: i64,
    /// What holds in the commit besides.
    guards: Vec<Step>,
    merchant: Loaded<Merchant>,
    due: Due,
}

impl Sale {
    /// A new charge for it, paid and without points.
    fn charge(
        &self,
        core: &Core,
        caller: &Caller,
        price: &Price,
        reference: &str,
    ) -> Result<Charge, Error> {
        Ok(Charge {
            id: core.new_id(ChargeId::from_parts)?,
            card: self.card.value.id,
            merchant: self.merchant.value.id,
            till: caller.id,
            state: ChargeState::Captured,
            price: *price,
            amount_msat: self.due.amount_msat,
            authorized_msat: None,
            expires_at_ms: None,
            refunded_msat: 0,
            withheld_msat: 0,
            quote: self.due.quote.clone(),
            reference: reference.to_owned(),
            program: None,
            points: 0,
            points_taken_back: 0,
            conversion: self.due.conversion.clone(),
        })
    }
}

/// The name of a command and its PIN: however often it is sent, it is one attempt.
pub(super) fn attempt(
    caller: &Caller,
    operation: &str,
    key: &IdempotencyKey,
    blinded: Option<&Pin>,
) -> String {
    let caller = caller.id;
    let blinded = blinded.map(|pin| pin.text());
    format!("{caller}/{operation}/{key}/{}", blinded.unwrap_or_default())
}

impl Cards {
    /// Pays a sale with a tapped card: the card is debited, the merchant credited and the points
    /// given in one commit, which uses the tap up. Tills only; the merchant is the till's.
    ///
    /// # Errors
    /// `card.tap_malformed`, `card.tap_not_ours`, `card.tap_wrong_mac`, `card.tap_replayed`,
    /// `card.tap_stale`, `card.tap_superseded`, `card.too_many_bad_taps`,
    /// `card.frozen`, `card.not_active`, `card.insufficient_funds`, `card.limit_exceeded`,
    /// `card.pin_required`, `card.pin_not_set`, `card.wrong_pin`, `card.pin_locked`, `money.*`, `rate.*`, `command.*`, `access.*`.
    pub async fn charge(
        &self,
        credential: &Credential,
        command: ChargeCard,
    ) -> Result<Answer<Charge>, Error> {
        self.take(credential, Taking::AtOnce, command).await
    }

    /// What is the same of every sale that a till has a tap pay.
    async fn take(
        &self,
        credential: &Credential,
        taking: Taking,
        command: ChargeCard,
    ) -> Result<Answer<Charge>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_till()?;
                check_text("reference", &command.reference, 100, "100 characters")?;
                let operation = taking.operation();
                let pin = command.pin.as_ref();
                let asked = ChargeCard {
                    pin: pin.map(|pin| pin.blinded(core)),
                    ..command.clone()
                };
                let _turn = cards.pin_turn(&command.tap, pin).await;
                let decide = || cards.decide_taking(&caller, taking, &command);
                let executed: Result<Executed<Charge>, Error> = core
                    .execute(&caller, operation, &command.key, &asked, decide)
                    .await;
                let attempt = attempt(&caller, operation, &command.key, asked.pin.as_ref());
                let executed = cards.count_if_wrong(&attempt, executed).await;
                Ok(executed.map_err(rules::refused)?.answer)
            })
            .await
    }

    async fn decide_taking(
        &self,
        caller: &Caller,
        taking: Taking,
        command: &ChargeCard,
    ) -> Result<Decision<Charge>, Error> {
        match taking {
            Taking::AtOnce => self.decide_charge(caller, command).await,
            Taking::SetAside => self.decide_authorize(caller, command).await,
        }
    }

    async fn decide_charge(
        &self,
        caller: &Caller,
        command: &ChargeCard,
    ) -> Result<Decision<Charge>, Error> {
        let core = &self.core;
        let sale = self
            .sale(caller, &command.tap, &command.price, command.pin.as_ref())
            .await?;
        let (card, amount_msat) = (sale.card.value.line(), sale.due.amount_msat);
        let merchant = &sale.merchant.value;
        let shared = programs::shared_reward(sale.program.as_ref());
        let reward = rewards::accrual(core, merchant, shared, card, amount_msat).await?;
        let charge = Charge {
            program: reward.as_ref().map(|reward| reward.program),
            points: reward.as_ref().map_or(0, |reward| reward.points),
            ..sale.charge(core, caller, &command.price, &command.reference)?
        };
        let limits = rules::usage_limits(&sale.card.value, core.commit_time_ms())?;
        let posting = ChargePosting {
            transfer: Some(core.new_id(TransferId::from_parts)?),
            usage: rules::amount_windows(&limits),
            bitcoin: Some(core.new_id(TransferId::from_parts)?),
            spread: Some(core.new_id(TransferId::from_parts)?),
            reward: reward.as_ref().and_then(|reward| reward.posting),
            ..ChargePosting::default()
        };
        let mut steps = rules::use_tap(
            &sale.card,
            sale.counter,
            charge.id.to_string(),
            charge.on_card(),
            limits,
        )?;
        let from = sale.card.value.balance_account();
        steps.extend(charge_rules::pay(&charge, from, posting)?);
        steps.extend(low_balance::looks(core, &sale.card.value, charge.id));
        steps.extend(sale.guards);
        if let Some(reward) = reward {
            steps.extend(reward.steps(&charge.id.to_string()));
        }
        let recovered = core.new_id(TransferId::from_parts)?;
        steps.extend(charge_rules::recover(&charge, recovered));
        Ok(Decision {
            steps,
            answer: charge,
        })
    }

    /// Sets money of a tapped card aside for a sale that is not done yet, and uses the tap up. It
    /// is captured or released by the charge's id, and comes back by itself after
    /// its program's time, or [`Settings::authorization_ms`](crate::Settings::authorization_ms). Limits are counted as by
    /// a charge. Tills only; the merchant is the till's.
    ///
    /// # Errors
    /// As for [`charge`](Self::charge).
    pub async fn authorize(
        &self,
        credential: &Credential,
        command: AuthorizeCard,
    ) -> Result<Answer<Charge>, Error> {
        self.take(credential, Taking::SetAside, command.into())
            .await
    }

    async fn decide_authorize(
        &self,
        caller: &Caller,
        command: &ChargeCard,
    ) -> Result<Decision<Charge>, Error> {
        let core = &self.core;
        let sale = self
            .sale(caller, &command.tap, &command.price, command.pin.as_ref())
            .await?;
        let at_ms = core.commit_time_ms();
        let terms = sale.program.as_ref().map(|program| &program.value.terms);
        let own_ms = terms.and_then(|terms| terms.authorization_ms);
        let authorization_ms = own_ms.unwrap_or(core.settings.authorization_ms);
        let expires_at_ms = at_ms.saturating_add(authorization_ms);
        let mut charge = Charge {
            state: ChargeState::Authorized,
            authorized_msat: Some(sale.due.amount_msat),
            expires_at_ms: Some(expires_at_ms),
            ..sale.charge(core, caller, &command.price, &command.reference)?
        };
        if let Some(conversion) = &mut charge.conversion {
            let rules = programs::conversion(sale.program.as_ref());
            let set_aside = currency::set_aside(conversion, &command.price, &rules)?;
            conversion.set_aside = Some(set_aside);
        }
        let limits = rules::usage_limits(&sale.card.value, at_ms)?;
        let usage = rules::amount_windows(&limits);
        let hold = core.new_id(TransferId::from_parts)?;
        let mut steps = rules::use_tap(
            &sale.card,
            sale.counter,
            charge.id.to_string(),
            charge.set_aside(),
            limits,
        )?;
        let from = sale.card.value.balance_account();
        steps.extend(charge_rules::authorize(&charge, from, hold, usage)?);
        steps.extend(life::look_for_top_up(&sale.card.value, core.clock.now_ms()));
        steps.extend(sale.guards);
        Ok(Decision {
            steps,
            answer: charge,
        })
    }

    /// What a tap at a till is to pay.
    async fn sale(
        &self,
        caller: &Caller,
        tap: &str,
        price: &Price,
        pin: Option<&Pin>,
    ) -> Result<Sale, Error> {
        let core = &self.core;
        let till = caller.id.to_string();
        let source = self.source.as_deref().unwrap_or(&till);
        let tap = self.verify_from(Some(source), tap).await?;
        rules::require_active(&tap.card.value, core.commit_time_ms())?;
        let mut guards = taps::guard(core, &tap).await?;
        let merchant = settlement::load_merchant(core, caller.require_till()?).await?;
        if let Some(program) = &tap.program {
            program.value.check_merchant(&merchant.value)?;
            guards.push(programs::guard(program));
        }
        let rules = programs::conversion(tap.program.as_ref());
        let due = currency::due(core, &tap.card.value, &rules, price).await?;
        guards.extend(pin::check(core, &tap, due.on_card(), pin).await?);
        guards.push(settlement::guard(&merchant));
        if let Some(conversion) = &due.conversion {
            let unit = conversion.currency;
            guards.extend(exchange::within_cap(core, unit, Moves::Up).await?);
        }
        let VerifiedTap {
            card,
            program,
            counter,
        } = tap;
        Ok(Sale {
            card,
            program,
            counter,
            guards,
            merchant,
            due,
        })
    }

    /// As [`verify`](Self::verify), unless too many forged taps came from the source.
    pub(super) async fn verify_from(
        &self,
        source: Option<&str>,
        tap: &str,
    ) -> Result<VerifiedTap, Error> {
        let Some(source) = source else {
            return self.verify(tap).await;
        };
        let now_ms = self.core.clock.now_ms();
        self.bad_taps.admit(source, now_ms)?;
        let verified = self.verify(tap).await;
        self.bad_taps.count_if_bad(source, now_ms, &verified);
        verified
    }

    /// As [`verify_from`](Self::verify_from), of a tap that was made a while ago: its chip may have been
    /// wiped since, be another card by now, or be with the issuer again that had it before. It is forged
    /// only where no key that was ever on the chip has signed it.
    pub(super) async fn verify_late(&self, source: &str, tap: &str) -> Result<VerifiedTap, Error> {
        let now_ms = self.core.clock.now_ms();
        self.bad_taps.admit(source, now_ms)?;
        let mut verified = self.verify(tap).await;
        if let Err(Error::Card(CardError::NotFound | CardError::Tap(TapError::WrongMac))) = verified
            && let Some((card, picc)) = self.signed_before(tap).await?
        {
            verified = self.of_card(card, picc).await;
        }
        self.bad_taps.count_if_bad(source, now_ms, &verified);
        verified
    }

    /// Finds the card of a tap and checks the chip's signature.
    pub(super) async fn verify(&self, tap: &str) -> Result<VerifiedTap, Error> {
        if let Some(tap) = VirtualTap::parse(tap) {
            return self.verify_virtual(&tap?).await;
        }
        if let Some(public_key) = life::bearer(tap) {
            return Err(self.refuse_bearer(public_key).await);
        }
        let tap = TapUrl::parse(tap).map_err(CardError::from)?;
        let is_signed = |opened: &Opened<'_>, card: &Card| {
            let form = card.pull_payment_id.as_deref();
            let verified = opened.key.verify(&opened.picc, card.version, form, &tap);
            verified.map_err(CardError::from)
        };
        let (card, picc) = self.card_of(tap.p(), is_signed).await?;
        self.of_card(card, picc).await
    }

    async fn of_card(&self, card: Loaded<Card>, picc: PiccData) -> Result<VerifiedTap, Error> {
        let program = programs::of(&self.core, &card.value).await?;
        Ok(VerifiedTap {
            card,
            program,
            counter: i64::from(picc.counter),
        })
    }

    /// The card that a `p` is of, as far as `is_right` says so of what came out of it.
    pub(super) async fn card_of(
        &self,
        p: &[u8; 16],
        is_right: impl Fn(&Opened<'_>, &Card) -> Result<(), CardError>,
    ) -> Result<(Loaded<Card>, PiccData), Error> {
        let unknown = CardError::Tap(TapError::NotOurs);
        let is_unknown = |error: &Error| match error {
            Error::Card(error) => *error == unknown || *error == CardError::NotFound,
            _ => false,
        };
        match self.card_in_ring(p, &is_right).await {
            // It may be of a key that another instance has taken in.
            Err(error) if is_unknown(&error) && self.issuer_keys.refresh(&self.core).await? => {
                self.card_in_ring(p, &is_right).await
            }
            found => found,
        }
    }

    async fn card_in_ring(
        &self,
        p: &[u8; 16],
        is_right: impl Fn(&Opened<'_>, &Card) -> Result<(), CardError>,
    ) -> Result<(Loaded<Card>, PiccData), Error> {
        let issuer_keys = self.issuer_keys.state();
        let mut refused = CardError::Tap(TapError::NotOurs);
        for opened in issuer_keys.ring.open(p) {
            let chip = hex::encode(opened.key.card_id_hash(&opened.picc.uid));
            let Some(card) = self.core.find::<Card>(CARDS, "chip", &chip).await? else {
                refused = CardError::NotFound;
                continue;
            };
            is_right(&opened, &card.value)?;
            return Ok((card, opened.picc));
        }
        Err(refused.into())
    }

    /// The card that was made last for a chip's number, of whatever issuer key.
    pub(super) async fn by_chip(&self, uid: &[u8; 7]) -> Result<Loaded<Card>, Error> {
        let issuer_keys = self.issuer_keys.state();
        let mut last: Option<Loaded<Card>> = None;
        for key in issuer_keys.ring.keys() {
            let chip = hex::encode(key.card_id_hash(uid));
            let found: Option<Loaded<Card>> = self.core.find(CARDS, "chip", &chip).await?;
            if let Some(found) = found
                && last
                    .as_ref()
                    .is_none_or(|last| last.value.id < found.value.id)
            {
                last = Some(found);
            }
        }
        last.ok_or(CardError::NotFound.into())
    }

    /// The keys of a card's chip, whose number is `uid`.
    pub(super) fn keys(&self, card: &Card, uid: &[u8; 7]) -> Result<BoltcardKeys, CardError> {
        let derivation = match &card.pull_payment_id {
            Some(id) => KeyDerivation::BtcPay {
                pull_payment_id: id.clone(),
            },
            None => KeyDerivation::Standard,
        };
        let issuer_keys = self.issuer_keys.state();
        // The hash is the key's own, and says so also of cards that name no key.
        let is_of = |key: &&RingKey| hex::encode(key.card_id_hash(uid)) == card.chip;
        let key = issuer_keys.ring.keys().iter().find(is_of);
        let key = key.ok_or(CardError::NotFound)?.key();
        Ok(key.card_keys(uid, card.version, &derivation))
    }
}
