//! Envelopes that are handed in: each tap is settled once, in a commit of its own.

use super::model::{LossBearer, OfflineEnvelope, OfflineOutcome, OfflineState, OfflineTap};
use super::rules::{self as offline, CounterRead, Learnt, TapRecord};
use super::{OfflineError, TAPS, TILLS, Terms, TillKey, TillKeys, envelope, load_terms};
use crate::access::{AccessError, Credential, Role};
use crate::cards::boltcard::TapError;
use crate::cards::charge_model::{Charge, ChargePosting, ChargeState};
use crate::cards::charging::VerifiedTap;
use crate::cards::currency::{self, Due};
use crate::cards::life::VirtualTap;
use crate::cards::{
    Card, CardError, Cards, charge_rules, guard, life, load, low_balance, programs, rules,
};
use crate::core::{Answer, Caller, Loaded};
use crate::exchange::{self, Moves};
use crate::ids::{ChargeId, CredentialId, MerchantId, TransferId};
use crate::ledger::Step;
use crate::money::Price;
use crate::settlement::Merchant;
use crate::{CommandError, Error, rewards, settlement};

/// How often a tap is decided again while others change the same card.
const MAX_DECISIONS: usize = 256;

/// The till whose envelope it is.
struct Replay {
    caller: Caller,
    till: CredentialId,
    merchant: MerchantId,
    key: TillKey,
}

/// What is to be committed of a tap, and what came of it.
struct Settled {
    steps: Vec<Step>,
    outcome: OfflineOutcome,
}

impl Cards {
    /// Settles what a till took offline, tap by tap: each (card, version, counter) is charged
    /// once, whether it was used online or off, in whatever order envelopes come; the first claim
    /// wins. What a card does not pay is posted to a loss account by the merchant's terms, and the
    /// merchant is told, by the event `offline.unpaid`. An envelope that comes again changes
    /// nothing and gets the same answer; where one was handed in by half, the rest is settled.
    /// A tap that is dated later than now is judged as if it were of now: a clock that was wrong once
    /// keeps no genuine tap waiting.
    /// The till itself, or the issuer, also for a till that was revoked.
    ///
    /// # Errors
    /// Of the envelope as a whole, and nothing was changed: `offline.malformed`,
    /// `offline.bad_key`, `offline.bad_signature`, `offline.unknown_key`, `offline.chain_broken`,
    /// `offline.not_allowed`, `money.*`, `command.*`, `access.*`.
    /// Also `offline.forked` and `card.too_many_bad_taps`, after which the taps before it stay
    /// settled; and `rate.*` where a card in a currency cannot be charged now, or only beyond the
    /// operator's cap: its taps are not settled, all others are, and the envelope is handed in
    /// again.
    pub async fn replay_offline(
        &self,
        credential: &Credential,
        envelope: OfflineEnvelope,
    ) -> Result<Answer<Vec<OfflineOutcome>>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let merchant = super::merchant_of(core, envelope.till).await?;
                if caller.role != Role::Issuer && caller.id != envelope.till {
                    let needs = "issuer, or the till itself";
                    return Err(AccessError::NotAllowed { needs }.into());
                }
                envelope::check(&envelope)?;
                let key = cards.offline_key(&envelope).await?;
                let replay = Replay {
                    caller,
                    till: envelope.till,
                    merchant,
                    key,
                };
                cards.check_chain(&envelope).await?;
                let as_of_ms = core.clock.now_ms();
                if load_terms(core, merchant, replay.till).await?.is_none() {
                    return Err(envelope::refused(OfflineError::NotAllowed));
                }
                let (mut value, mut waits) = (Vec::new(), None);
                for tap in &envelope.taps {
                    match cards.replay_tap(&replay, tap).await {
                        Ok(outcome) => value.push(outcome),
                        // Nobody's fault, and not for ever: it waits, and keeps no other waiting.
                        Err(Error::Rate(error)) => waits = waits.or(Some(error)),
                        Err(error) => return Err(error),
                    }
                }
                match waits {
                    Some(error) => Err(error.into()),
                    None => Ok(Answer { as_of_ms, value }),
                }
            })
            .await
    }

    async fn offline_key(&self, envelope: &OfflineEnvelope) -> Result<TillKey, Error> {
        let till = envelope.till.to_string();
        let keys: Option<Loaded<TillKeys>> = self.core.load(TILLS, &till).await?;
        let keys = keys.map(|keys| keys.value.keys).unwrap_or_default();
        let mut keys = keys.into_iter();
        keys.find(|key| key.public_key == envelope.public_key)
            .ok_or(envelope::refused(OfflineError::UnknownKey))
    }

    /// The envelope follows what was handed in before it, and goes before what was handed in
    /// after it, as far as that is there.
    async fn check_chain(&self, envelope: &OfflineEnvelope) -> Result<(), Error> {
        let broken = |sequence| envelope::refused(OfflineError::ChainBroken { sequence });
        if let Some(first) = envelope.taps.first() {
            let before = match first.sequence.checked_sub(1) {
                Some(0) | None => Some(envelope::genesis(envelope.till, &envelope.public_key)),
                Some(before) => {
                    let found = self.offline_tap(envelope, before).await?;
                    found.map(|record| record.digest)
                }
            };
            if before.is_some_and(|before| before != first.before) {
                return Err(broken(first.sequence));
            }
        }
        if let Some(last) = envelope.taps.last() {
            let next = last.sequence.saturating_add(1);
            let after = self.offline_tap(envelope, next).await?;
            if after.is_some_and(|after| after.before != envelope::digest(last)) {
                return Err(broken(next));
            }
        }
        Ok(())
    }

    async fn offline_tap(
        &self,
        envelope: &OfflineEnvelope,
        sequence: u64,
    ) -> Result<Option<TapRecord>, Error> {
        let id = offline::place(&envelope.public_key, sequence);
        let found: Option<Loaded<TapRecord>> = self.core.load(TAPS, &id).await?;
        Ok(found.map(|found| found.value))
    }

    async fn replay_tap(&self, replay: &Replay, tap: &OfflineTap) -> Result<OfflineOutcome, Error> {
        let id = offline::place(&replay.key.public_key, tap.sequence);
        let mut learnt = Learnt::default();
        let mut verified = None;
        for _ in 0..MAX_DECISIONS {
            let known: Option<Loaded<TapRecord>> = self.core.load(TAPS, &id).await?;
            if let Some(Loaded { value, .. }) = known {
                if value.digest != envelope::digest(tap) {
                    let sequence = tap.sequence;
                    return Err(envelope::refused(OfflineError::Forked { sequence }));
                }
                return Ok(value.outcome);
            }
            // What a till may date as it likes it gains nothing by dating later.
            let judged = OfflineTap {
                at_ms: tap.at_ms.min(self.core.commit_time_ms()),
                ..tap.clone()
            };
            let Settled { mut steps, outcome } = self
                .decide_offline(replay, &judged, &learnt, &mut verified)
                .await?;
            let loss = self.core.new_id(TransferId::from_parts)?;
            steps.extend(offline::write(&outcome, tap, loss)?);
            let caller = self.core.admit(replay.caller.id).await?;
            steps.insert(0, caller.guard);
            match self.core.commit(steps).await {
                Ok(_) => return Ok(outcome),
                Err(Error::Ledger(refusal)) => learnt.take(refusal)?,
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended.into())
    }

    /// `was_verified` is set once the tap was looked at: a forged one is counted once.
    async fn decide_offline(
        &self,
        replay: &Replay,
        tap: &OfflineTap,
        learnt: &Learnt,
        was_verified: &mut Option<CardError>,
    ) -> Result<Settled, Error> {
        let core = &self.core;
        let terms = load_terms(core, replay.merchant, replay.till).await?;
        let terms = terms.ok_or(envelope::refused(OfflineError::NotAllowed))?;
        let waiting = waiting(replay, tap);
        if let Some(error) = was_verified {
            return Ok(breach(waiting, error.code(), Vec::new()));
        }
        let tapped = match self.tapped_offline(replay, tap).await? {
            Ok(tapped) => tapped,
            Err(error) => {
                let decided = breach(waiting, error.code(), Vec::new());
                *was_verified = Some(error);
                return Ok(decided);
            }
        };
        let waiting = OfflineOutcome {
            card: Some(tapped.card.value.id),
            ..waiting
        };
        let counted = self.counted_as(&tapped).await?;
        let read = self.read_counter(&counted.value, tapped.counter).await?;
        let by = waiting.id.clone();
        let mut claimed = match offline::claim(&counted, tapped.counter, &read, by)? {
            Ok(steps) => steps,
            Err(error) => {
                let waiting = self.with_charge(waiting, read.claimed_by).await?;
                return Ok(breach(waiting, error.code(), Vec::new()));
            }
        };
        let wrong = offline::breach(tap, &terms, &replay.key, core.commit_time_ms());
        if let Some(wrong) = wrong.or(learnt.breach.clone()) {
            return Ok(breach(waiting, wrong.code(), claimed));
        }
        let tapped = match offline::pays_in_its_place(&tapped.card.value, tap, terms.of_till()) {
            false => tapped,
            true => {
                claimed.push(guard(&tapped.card));
                self.in_its_place(tapped).await?
            }
        };
        self.decide_genuine(waiting, tap, tapped, &terms, learnt, claimed)
            .await
    }

    /// The card of a tap and its counter, or what is wrong with it for good. A virtual card's code can
    /// be checked by nobody who is offline and is too old afterwards: no till takes one, and whoever
    /// puts one into an envelope all the same does not learn whether it is right.
    async fn tapped_offline(
        &self,
        replay: &Replay,
        tap: &OfflineTap,
    ) -> Result<Result<VerifiedTap, CardError>, Error> {
        if VirtualTap::parse(&tap.tap).is_some() {
            let reason = "a virtual card is charged online alone";
            return Ok(Err(TapError::Malformed { reason }.into()));
        }
        match self.verify_late(&replay.till.to_string(), &tap.tap).await {
            Ok(tapped) => Ok(Ok(tapped)),
            Err(Error::Card(
                error @ (CardError::Tap(_) | CardError::NotFound | CardError::Life(_)),
            )) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// The card that has the money of a replaced one.
    async fn in_its_place(&self, tapped: VerifiedTap) -> Result<VerifiedTap, Error> {
        let card = life::current(&self.core, tapped.card.value.id).await?;
        let program = programs::of(&self.core, &card.value).await?;
        Ok(VerifiedTap {
            card,
            program,
            ..tapped
        })
    }

    /// A till whose answer was lost takes the tap offline that it has charged: the sale is paid.
    async fn with_charge(
        &self,
        waiting: OfflineOutcome,
        claimed_by: Option<String>,
    ) -> Result<OfflineOutcome, Error> {
        let Some(Ok(charge)) = claimed_by.map(|by| by.parse()) else {
            return Ok(waiting);
        };
        let charge = self.load_charge(charge).await?.value.charge;
        Ok(offline::with_charge(waiting, &charge))
    }

    /// The card that a use of the chip is claimed for, once. A card that came over a second time has
    /// another id, and begins where the server stopped that had it meanwhile: what the chip had done
    /// before it went back is that of the card before it, and no use of that server's.
    async fn counted_as(&self, tapped: &VerifiedTap) -> Result<Loaded<Card>, Error> {
        let (core, mut card) = (&self.core, tapped.card.clone());
        while let Some(before) = card.value.replaces {
            let read = self.read_counter(&card.value, tapped.counter).await?;
            let before = load(core, before).await?;
            let is_same =
                before.value.chip == card.value.chip && before.value.version == card.value.version;
            let begins_later = read.claimed_from.is_some_and(|from| tapped.counter <= from);
            if !is_same || !begins_later {
                break;
            }
            let read = self.read_counter(&before.value, tapped.counter).await?;
            if read.last.is_none_or(|last| tapped.counter > last) {
                break;
            }
            card = before;
        }
        Ok(card)
    }

    async fn read_counter(&self, card: &Card, counter: i64) -> Result<CounterRead, Error> {
        let store = &self.core.store;
        let last = store.counter(&rules::counter_name(card)).await?;
        Ok(CounterRead {
            last: last.map(|last| last.saturating_sub(rules::ahead(card))),
            claimed_from: store.counter(&rules::claimed_from_name(card)).await?,
            claimed_by: store.claim(&rules::tap_name(card, counter)).await?,
        })
    }

    async fn decide_genuine(
        &self,
        waiting: OfflineOutcome,
        tap: &OfflineTap,
        tapped: VerifiedTap,
        terms: &Terms,
        learnt: &Learnt,
        claimed: Vec<Step>,
    ) -> Result<Settled, Error> {
        let core = &self.core;
        let merchant = settlement::load_merchant(core, waiting.merchant).await?;
        let (of_till, at_ms) = (terms.of_till(), core.commit_time_ms());
        let by_rule = |error| (error, of_till.loss);
        let (mut paid_msat, mut not_paid, mut due) = (0, None, None);
        if let Err(refused) = offline::may_pay(&tapped, &merchant.value, tap, of_till, at_ms) {
            not_paid = Some((refused.error, refused.borne_by));
        } else {
            let whole = self.due_offline(&tapped, tap.amount_msat).await?;
            let (needed, available) = (whole.on_card(), learnt.available.unwrap_or(i64::MAX));
            if let Err(error) = offline::holder_allows(&tapped, needed) {
                not_paid = Some(by_rule(error));
            } else if let Some(error) = &learnt.not_paid {
                not_paid = Some(by_rule(error.clone()));
            } else if available < needed {
                let unit = tapped.card.value.unit;
                not_paid = Some(by_rule(CardError::InsufficientFunds {
                    available,
                    needed,
                    unit,
                }));
                paid_msat = self.affords(&whole, available)?;
                due = match paid_msat {
                    0 => None,
                    part_msat => Some(self.due_offline(&tapped, part_msat).await?),
                };
            } else {
                (paid_msat, due) = (tap.amount_msat, Some(whole));
            }
        }
        let not_paid = not_paid.map(|(error, borne_by)| (error.code().to_owned(), borne_by));
        let mut outcome = offline::settled(waiting, paid_msat, not_paid);
        let mut steps = vec![guard(&tapped.card), settlement::guard(&merchant)];
        steps.extend(tapped.program.as_ref().map(programs::guard));
        steps.extend(terms.guards.iter().cloned());
        steps.extend(claimed);
        steps.extend(offline::count_day(tap, &outcome, terms));
        if let Some(due) = due {
            let (charge, paying) = self
                .offline_charge(&outcome, &tapped, &merchant.value, due)
                .await?;
            outcome.charge = Some(charge);
            steps.extend(paying);
        }
        Ok(Settled { steps, outcome })
    }

    /// What an amount comes to on the card: at the rate of now where its unit is a currency.
    async fn due_offline(&self, tapped: &VerifiedTap, amount_msat: i64) -> Result<Due, Error> {
        let rules = programs::conversion(tapped.program.as_ref());
        let price = Price::Bitcoin { amount_msat };
        currency::due(&self.core, &tapped.card.value, &rules, &price).await
    }

    /// How much of what is due `available` on the card pays for.
    fn affords(&self, whole: &Due, available: i64) -> Result<i64, Error> {
        match &whole.conversion {
            Some(conversion) => {
                let spread = self.core.settings.rates.spread;
                currency::affords(&conversion.quote, spread, available)
            }
            None => Ok(available),
        }
    }

    /// The charge of what the card pays, as if it were tapped now: its limits count it, and it
    /// earns points.
    async fn offline_charge(
        &self,
        outcome: &OfflineOutcome,
        tapped: &VerifiedTap,
        merchant: &Merchant,
        due: Due,
    ) -> Result<(ChargeId, Vec<Step>), Error> {
        let (core, card) = (&self.core, &tapped.card.value);
        let amount_msat = due.amount_msat;
        let shared = programs::shared_reward(tapped.program.as_ref());
        let reward = rewards::accrual(core, merchant, shared, card.line(), amount_msat).await?;
        let charge = Charge {
            id: core.new_id(ChargeId::from_parts)?,
            card: card.id,
            merchant: outcome.merchant,
            till: outcome.till,
            state: ChargeState::Captured,
            price: Price::Bitcoin {
                amount_msat: outcome.amount_msat,
            },
            amount_msat,
            authorized_msat: None,
            expires_at_ms: None,
            refunded_msat: 0,
            withheld_msat: 0,
            quote: None,
            reference: outcome.reference.clone(),
            program: reward.as_ref().map(|reward| reward.program),
            points: reward.as_ref().map_or(0, |reward| reward.points),
            points_taken_back: 0,
            conversion: due.conversion,
        };
        let limits = rules::usage_limits(card, core.commit_time_ms())?;
        let posting = ChargePosting {
            transfer: Some(core.new_id(TransferId::from_parts)?),
            bitcoin: Some(core.new_id(TransferId::from_parts)?),
            spread: Some(core.new_id(TransferId::from_parts)?),
            usage: rules::amount_windows(&limits),
            reward: reward.as_ref().and_then(|reward| reward.posting),
            ..ChargePosting::default()
        };
        let mut steps: Vec<Step> = rules::count_usage(limits, charge.on_card()).collect();
        steps.extend(charge_rules::pay(&charge, card.balance_account(), posting)?);
        steps.extend(low_balance::looks(core, card, charge.id));
        if let Some(conversion) = &charge.conversion {
            let unit = conversion.currency;
            steps.extend(exchange::within_cap(core, unit, Moves::Up).await?);
        }
        if let Some(reward) = reward {
            steps.extend(reward.steps(&charge.id.to_string()));
        }
        let recovered = core.new_id(TransferId::from_parts)?;
        steps.extend(charge_rules::recover(&charge, recovered));
        Ok((charge.id, steps))
    }
}

/// What a till did wrong is its merchant's. A genuine tap is used up all the same.
fn breach(waiting: OfflineOutcome, code: &str, claimed: Vec<Step>) -> Settled {
    let outcome = match waiting.charge {
        Some(_) => offline::settled(waiting.clone(), waiting.amount_msat, None),
        None => {
            let not_paid = Some((code.to_owned(), LossBearer::Merchant));
            offline::settled(waiting, 0, not_paid)
        }
    };
    let steps = claimed;
    Settled { steps, outcome }
}

fn waiting(replay: &Replay, tap: &OfflineTap) -> OfflineOutcome {
    OfflineOutcome {
        id: offline::place(&replay.key.public_key, tap.sequence),
        till: replay.till,
        merchant: replay.merchant,
        sequence: tap.sequence,
        at_ms: tap.at_ms,
        reference: tap.reference.clone(),
        amount_msat: tap.amount_msat,
        state: OfflineState::AcceptedNotPaid,
        card: None,
        charge: None,
        paid_msat: 0,
        loss_msat: 0,
        borne_by: None,
        reason: None,
    }
}
