//! Taps: verified, and charged.

use super::boltcard::{self, BoltcardKeys, KeyDerivation, TapUrl};
use super::model::{Card, Charge, ChargeCard};
use super::{CARDS, CardError, Cards, rules};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Caller, Decision, Executed, Loaded, check_text};
use crate::ids::{ChargeId, TransferId};
use crate::rates::price_in_msat;
use crate::{rewards, settlement};

/// A tap whose signature is right.
pub(super) struct VerifiedTap {
    pub(super) card: Loaded<Card>,
    pub(super) counter: i64,
}

impl Cards {
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
    pub(super) async fn verify(&self, tap: &str) -> Result<VerifiedTap, Error> {
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

    pub(super) async fn by_chip(&self, uid: &[u8; 7]) -> Result<Loaded<Card>, Error> {
        let chip = hex::encode(self.issuer_key.card_id_hash(uid));
        self.core
            .find(CARDS, "chip", &chip)
            .await?
            .ok_or(CardError::NotFound.into())
    }

    pub(super) fn keys(&self, card: &Card, uid: &[u8; 7]) -> BoltcardKeys {
        let derivation = match &card.pull_payment_id {
            Some(id) => KeyDerivation::BtcPay {
                pull_payment_id: id.clone(),
            },
            None => KeyDerivation::Standard,
        };
        self.issuer_key.card_keys(uid, card.version, &derivation)
    }
}
