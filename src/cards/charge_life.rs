//! The life of a charge after its tap: captured, released, refunded, or over.
//!
//! All of it goes by the charge's id and the merchant's credential: the customer may have left.

use super::charge_model::{
    CaptureCharge, Charge, ChargePosting, ChargeRecord, ChargeState, RefundCharge, ReleaseCharge,
};
use super::charge_rules::RefundIds;
use super::currency::{self, Back};
use super::{CHARGES, CardError, Cards, charge_rules, life, load, low_balance, programs};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, Loaded};
use crate::exchange::{self, Moves, RefundRate};
use crate::ids::{ChargeId, MerchantId, TransferId};
use crate::ledger::{Refusal, Step};
use crate::rewards::{self, Clawback, RewardedSale};
use crate::settlement;

/// How often a refund is decided again when the card's points are turned into money under it.
const MAX_REFUND_DECISIONS: usize = 8;

impl Cards {
    /// Takes what was authorised, or less of it: the rest is given back to the card and to its
    /// limits. The points are given for what is taken. A card that was frozen since is charged
    /// all the same: the merchant has delivered. A till of the merchant, or the issuer.
    ///
    /// # Errors
    /// `card.charge_not_found`, `card.charge_not_open`, `card.authorization_expired`,
    /// `card.capture_exceeds_hold`, `money.not_positive`, `command.*`, `access.*`; `rate.*` where what was
    /// set aside is in a currency and there is no fresh rate: it stands meanwhile.
    pub async fn capture(
        &self,
        credential: &Credential,
        command: CaptureCharge,
    ) -> Result<Answer<Charge>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let seen = cards.load_charge(command.charge).await?.value.charge;
                caller.require_seller(seen.merchant)?;
                let executed: Executed<Charge> = core
                    .execute(&caller, "cards.capture", &command.key, &command, || {
                        cards.decide_capture(&command)
                    })
                    .await
                    .map_err(|error| charge_rules::not_captured(error, &seen))?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_capture(&self, command: &CaptureCharge) -> Result<Decision<Charge>, Error> {
        let core = &self.core;
        let before = self.load_charge(command.charge).await?;
        let hold = charge_rules::open_hold(&before.value, core.commit_time_ms())?;
        let part = currency::part_of(&before.value.charge, command.amount, true)?;
        charge_rules::check_capture(part)?;
        let Charge { merchant, card, .. } = before.value.charge;
        let merchant = settlement::load_merchant(core, merchant).await?;
        let tapped = load(core, card).await?.value;
        let program = programs::of(core, &tapped).await?;
        let rules = programs::conversion(program.as_ref());
        let rate = match currency::needs_rate(&before.value.charge) {
            Some(unit) => Some(exchange::quote(core, unit, rules.charge_side).await?),
            None => None,
        };
        let (amount_msat, conversion) = currency::captured(&before.value.charge, part, rate)?;
        let (shared, line) = (programs::shared_reward(program.as_ref()), tapped.line());
        let reward = rewards::accrual(core, &merchant.value, shared, line, amount_msat).await?;
        let transfer = core.new_id(TransferId::from_parts)?;
        let mut after = before.value.clone();
        after.charge.state = ChargeState::Captured;
        after.charge.amount_msat = amount_msat;
        after.charge.conversion = conversion;
        after.charge.program = reward.as_ref().map(|reward| reward.program);
        after.charge.points = reward.as_ref().map_or(0, |reward| reward.points);
        let mut posting = after.posting.unwrap_or_default();
        posting.reward = reward.as_ref().and_then(|reward| reward.posting);
        posting.bitcoin = Some(core.new_id(TransferId::from_parts)?);
        posting.spread = Some(core.new_id(TransferId::from_parts)?);
        after.posting = Some(posting);
        let mut steps = charge_rules::capture(&before, &mut after, hold, transfer)?;
        steps.push(settlement::guard(&merchant));
        steps.extend(program.as_ref().map(programs::guard));
        steps.extend(low_balance::look(
            &tapped,
            after.charge.id,
            core.clock.now_ms(),
        ));
        steps.extend(life::onward_from_hold(core, hold).await?);
        if let Some(reward) = reward {
            steps.extend(reward.steps(&after.charge.id.to_string()));
        }
        let recovered = core.new_id(TransferId::from_parts)?;
        steps.extend(charge_rules::recover(&after.charge, recovered));
        Ok(Decision {
            steps,
            answer: after.charge,
        })
    }

    /// Gives back all that was authorised, to the card and to its limits. A till of the merchant,
    /// or the issuer.
    ///
    /// # Errors
    /// `card.charge_not_found`, `card.charge_not_open`, `card.authorization_expired`,
    /// `command.*`, `access.*`.
    pub async fn release(
        &self,
        credential: &Credential,
        command: ReleaseCharge,
    ) -> Result<Answer<Charge>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let seen = cards.load_charge(command.charge).await?.value.charge;
                caller.require_seller(seen.merchant)?;
                let decide = || async {
                    let before = cards.load_charge(command.charge).await?;
                    let hold = charge_rules::open_hold(&before.value, core.commit_time_ms())?;
                    let (answer, mut steps) = charge_rules::release(&before, hold)?;
                    steps.extend(life::onward_from_hold(core, hold).await?);
                    Ok(Decision { steps, answer })
                };
                let executed: Executed<Charge> = core
                    .execute(&caller, "cards.release", &command.key, &command, decide)
                    .await
                    .map_err(|error| charge_rules::not_captured(error, &seen))?;
                Ok(executed.answer)
            })
            .await
    }

    /// Undoes a charge or a part of it: the merchant's payable gives the money back to the card,
    /// frozen or not, and the limits get it back in the days in which it was counted. The points
    /// that what is left would not have earned go back as well; where the card has turned them
    /// into money by now, that money is withheld from the refund. A till of the merchant, or the
    /// issuer.
    ///
    /// # Errors
    /// `card.charge_not_found`, `card.charge_not_captured`, `card.refund_exceeds_charge`,
    /// `card.refund_not_covered` when the merchant was paid out since,
    /// `card.charge_not_refundable` of a charge that was made by an earlier version,
    /// `money.not_positive`, `command.*`, `access.*`.
    pub async fn refund(
        &self,
        credential: &Credential,
        command: RefundCharge,
    ) -> Result<Answer<Charge>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let seen = cards.load_charge(command.charge).await?.value.charge;
                caller.require_seller(seen.merchant)?;
                let mut tries = MAX_REFUND_DECISIONS;
                loop {
                    tries -= 1;
                    let executed: Result<Executed<Charge>, Error> = core
                        .execute(&caller, "cards.refund", &command.key, &command, || {
                            cards.decide_refund(&command)
                        })
                        .await;
                    match executed {
                        Ok(executed) => return Ok(executed.answer),
                        Err(error) if tries > 0 && charge_rules::points_went(&error) => {}
                        Err(error) => return Err(charge_rules::not_refunded(error)),
                    }
                }
            })
            .await
    }

    async fn decide_refund(&self, command: &RefundCharge) -> Result<Decision<Charge>, Error> {
        let core = &self.core;
        let before = self.load_charge(command.charge).await?;
        let charge = &before.value.charge;
        let (asked, _) = currency::part_of(charge, command.amount, false)?;
        let (of, posting) = charge_rules::refundable(&before.value, asked)?;
        let (back, guards) = self.what_goes_back(charge, posting, asked).await?;
        let points = match (charge.program, posting.reward) {
            (Some(program), Some(posting)) => {
                let sale = RewardedSale {
                    program,
                    card: load(core, charge.card).await?.value.line(),
                    posting,
                    standing_msat: back.standing_msat,
                    standing_points: charge.points - charge.points_taken_back,
                };
                rewards::clawback(core, &sale).await?
            }
            _ => (Clawback::default(), Vec::new()),
        };
        let ids = RefundIds {
            on_card: core.new_id(TransferId::from_parts)?,
            bitcoin: core.new_id(TransferId::from_parts)?,
            spread: core.new_id(TransferId::from_parts)?,
        };
        let (answer, mut steps) =
            charge_rules::refund(&before, back, of, ids, points, core.clock.now_ms())?;
        steps.extend(life::onward_from(core, of).await?);
        steps.extend(guards);
        Ok(Decision { steps, answer })
    }

    /// What goes back with a refund of `asked`, and what must hold after it: what goes back on a
    /// card in a currency, the operator owes again.
    async fn what_goes_back(
        &self,
        charge: &Charge,
        posting: &ChargePosting,
        asked: i64,
    ) -> Result<(Back, Vec<Step>), Error> {
        let core = &self.core;
        let (mut rate, mut guards) = (None, Vec::new());
        if let Some(conversion) = &charge.conversion {
            let card = load(core, charge.card).await?.value;
            let program = programs::of(core, &card).await?;
            let rules = programs::conversion(program.as_ref());
            let unit = conversion.currency;
            if rules.refund_at == RefundRate::Now {
                rate = Some(exchange::quote(core, unit, rules.charge_side).await?);
            }
            guards.extend(exchange::within_cap(core, unit, Moves::Down).await?);
            guards.extend(program.as_ref().map(programs::guard));
        }
        let kept_msat = match posting.spread {
            Some(_) => exchange::spread(charge.spread_quote(), charge.amount_msat)?,
            None => 0,
        };
        Ok((currency::back(charge, asked, kept_msat, rate)?, guards))
    }

    /// A charge as it stands now. A till of its merchant; the card's holder or that of a card in its
    /// place, of a family card the main card's as well; or the issuer.
    ///
    /// # Errors
    /// `card.charge_not_found`, `access.*`.
    pub async fn get_charge(
        &self,
        credential: &Credential,
        charge: ChargeId,
    ) -> Result<Answer<Charge>, Error> {
        let caller = self.core.authenticate(credential).await?;
        let as_of_ms = self.core.clock.now_ms();
        let record = self.load_charge(charge).await?.value;
        let (merchant, card) = (record.charge.merchant, record.charge.card);
        if caller.require_seller(merchant).is_err() {
            life::require_reader_or_main(&self.core, &caller, card).await?;
        }
        let value = charge_rules::shown(record, self.core.commit_time_ms());
        Ok(Answer { as_of_ms, value })
    }

    /// The charges of a merchant, oldest first, after the charge `after`; at most `limit` (1 to
    /// 1,000). A till of the merchant, or the issuer.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list_charges(
        &self,
        credential: &Credential,
        merchant: MerchantId,
        after: Option<ChargeId>,
        limit: usize,
    ) -> Result<Answer<Vec<Charge>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_seller(merchant)?;
        let as_of_ms = self.core.clock.now_ms();
        let (key, after) = (merchant.to_string(), after.map(|id| id.to_string()));
        let records: Vec<ChargeRecord> = self
            .core
            .list(CHARGES, "merchant", &key, after, limit)
            .await?;
        let at_ms = self.core.commit_time_ms();
        let charges = records.into_iter();
        let value = charges
            .map(|record| charge_rules::shown(record, at_ms))
            .collect();
        Ok(Answer { as_of_ms, value })
    }

    /// The job that ends an authorisation which nobody captured.
    pub(crate) async fn expire_charge(&self, id: ChargeId) -> Result<(), Error> {
        let decide = || async {
            let now_ms = self.core.commit_time_ms();
            let before = self.load_charge(id).await?;
            let id = before.value.posting.as_ref().and_then(|found| found.hold);
            let (hold, onward) = match id {
                Some(id) => (
                    self.core.store.hold(id).await?,
                    life::onward_from_hold(&self.core, id).await?,
                ),
                None => (None, Vec::new()),
            };
            // Whoever needed the money may have given it back already.
            let open = hold
                .filter(|state| state.remaining > 0)
                .map(|state| state.hold.transfer.id);
            let mut steps = charge_rules::expire(&before, open, now_ms)?;
            steps.extend(onward);
            Ok(Some(steps))
        };
        match self.core.settle(decide).await {
            // It was given back since it was looked at.
            Err(Error::Ledger(Refusal::HoldNotOpen { .. })) => {
                self.core.settle(decide).await.map(drop)
            }
            // Nothing can be made of it later either.
            Err(Error::Card(CardError::ChargeNotFound { .. })) => {
                let (kind, object) = (charge_rules::EXPIRE_JOB, id.to_string());
                let done = Step::Done { kind, object };
                self.core.commit(vec![done]).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    pub(super) async fn load_charge(
        &self,
        charge: ChargeId,
    ) -> Result<Loaded<ChargeRecord>, Error> {
        self.core
            .load(CHARGES, &charge.to_string())
            .await?
            .ok_or(CardError::ChargeNotFound { charge }.into())
    }
}
