//! Commands as a caller makes them: kept before they are sent, and sent again with the same key
//! until they are answered.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;

use super::model::{PinSeen, Wrong, wrong};
use super::tally::Transition;
use crate::access::Credential;
use crate::cards::{
    ActivateCard, AddFamilyCard, AuthorizeCard, CaptureCharge, ChargeCard, EnrollOfflineKey,
    FreezeCard, IssueCard, OfflineEnvelope, PayWithCard, RefundCharge, ReleaseCharge, RenewHolder,
    ReplaceCard, SetAutoTopUp, SetCardLimits, SetCardPin, SetOfflineTerms, UnlockCardPin,
};
use crate::core::CommandError;
use crate::ids::CardId;
use crate::invoices::{CancelInvoice, CaptureInvoice, CreateInvoice, GiveUpInvoice};
use crate::refunds::{CreateRefund, ResolveRefund};
use crate::rewards::{CreateProgram, RedeemPoints};
use crate::settlement::{CreateMerchant, PairTill, RequestPayout, ResolvePayout, RevokeTill};
use crate::store::StoreError;
use crate::treasury::{AssignSuspense, BookCapital};
use crate::{Answer, Engine, Error, IdempotencyKey};

/// What is asked of the engine.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Capital(BookCapital),
    Merchant(CreateMerchant),
    Pair(PairTill),
    Revoke(RevokeTill),
    Program(CreateProgram),
    Issue(IssueCard),
    /// A question without a key.
    Keys(String),
    Activate(ActivateCard),
    Renew(RenewHolder),
    Limits(SetCardLimits),
    Freeze(FreezeCard),
    Unfreeze(FreezeCard),
    Invoice(CreateInvoice),
    GiveUp(GiveUpInvoice),
    Charge(ChargeCard),
    Redeem(RedeemPoints),
    Payout(RequestPayout),
    Resolve(ResolvePayout),
    Assign(AssignSuspense),
    Replace(ReplaceCard),
    Family(AddFamilyCard),
    OfflineTerms(SetOfflineTerms),
    Enroll(EnrollOfflineKey),
    /// Settled once by what is in it, without a key.
    Replay(OfflineEnvelope),
    Authorize(AuthorizeCard),
    Capture(CaptureCharge),
    Release(ReleaseCharge),
    AutoTopUp(SetAutoTopUp),
    Pay(PayWithCard),
    SetPin(SetCardPin),
    UnlockPin(UnlockCardPin),
    Refund(CreateRefund),
    RefundCharge(RefundCharge),
    ResolveRefund(ResolveRefund),
    CaptureInvoice(CaptureInvoice),
    CancelInvoice(CancelInvoice),
    /// A look at a tap: another answer each time.
    Peek(String),
}

impl Request {
    /// Its answer tells how something stands at the time.
    pub(super) fn is_of_now(&self) -> bool {
        matches!(
            self,
            Self::Keys(_) | Self::Payout(_) | Self::Pay(_) | Self::Peek(_) | Self::Refund(_)
        )
    }

    /// The same, and nothing stands in the books by it.
    pub(super) fn is_of_now_alone(&self) -> bool {
        matches!(self, Self::Keys(_) | Self::Peek(_))
    }

    fn has_key(&self) -> bool {
        !matches!(self, Self::Keys(_) | Self::Replay(_) | Self::Peek(_))
    }
}

fn shown<T: Serialize>(answer: Answer<T>) -> Result<Value, Error> {
    as_value(&answer.value)
}

fn as_value<T: Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|error| {
        let reason = error.to_string();
        StoreError::Corrupt { reason }.into()
    })
}

/// Carries a request out.
pub(super) async fn call(engine: Engine, by: Credential, request: Request) -> Result<Value, Error> {
    let (cards, settlement) = (engine.cards(), engine.settlement());
    match request {
        Request::Capital(command) => shown(engine.treasury().book_capital(&by, command).await?),
        Request::Merchant(command) => shown(settlement.create(&by, command).await?),
        Request::Pair(command) => shown(settlement.pair_till(&by, command).await?),
        Request::Revoke(command) => shown(settlement.revoke_till(&by, command).await?),
        Request::Program(command) => shown(engine.rewards().create(&by, command).await?),
        Request::Issue(command) => shown(cards.issue(&by, command).await?),
        Request::Keys(uid) => as_value(&cards.programming_keys(&by, &uid).await?),
        Request::Activate(command) => shown(cards.activate(&by, command).await?),
        Request::Renew(command) => shown(cards.renew_holder(&by, command).await?),
        Request::Limits(command) => shown(cards.set_limits(&by, command).await?),
        Request::Freeze(command) => shown(cards.freeze(&by, command).await?),
        Request::Unfreeze(command) => shown(cards.unfreeze(&by, command).await?),
        Request::Invoice(command) => shown(engine.invoices().create(&by, command).await?),
        Request::GiveUp(command) => shown(engine.invoices().give_up(&by, command).await?),
        Request::Charge(command) => shown(cards.charge(&by, command).await?),
        Request::Redeem(command) => shown(engine.rewards().redeem(&by, command).await?),
        Request::Payout(command) => shown(settlement.request_payout(&by, command).await?),
        Request::Resolve(command) => shown(settlement.resolve_payout(&by, command).await?),
        Request::Replace(command) => shown(cards.replace(&by, command).await?),
        Request::Family(command) => shown(cards.add_to_family(&by, command).await?),
        Request::OfflineTerms(command) => shown(cards.set_offline_terms(&by, command).await?),
        Request::Enroll(command) => shown(cards.enroll_offline_key(&by, command).await?),
        Request::Authorize(command) => shown(cards.authorize(&by, command).await?),
        Request::Capture(command) => shown(cards.capture(&by, command).await?),
        Request::Release(command) => shown(cards.release(&by, command).await?),
        Request::AutoTopUp(command) => shown(cards.set_auto_top_up(&by, command).await?),
        Request::CaptureInvoice(command) => shown(engine.invoices().capture(&by, command).await?),
        Request::CancelInvoice(command) => shown(engine.invoices().cancel(&by, command).await?),
        Request::Refund(command) => shown(engine.refunds().create(&by, command).await?),
        Request::RefundCharge(command) => shown(cards.refund(&by, command).await?),
        Request::ResolveRefund(command) => shown(engine.refunds().resolve(&by, command).await?),
        Request::SetPin(command) => shown(cards.set_pin(&by, command).await?),
        Request::UnlockPin(command) => shown(cards.unlock_pin(&by, command).await?),
        Request::Pay(command) => shown(cards.pay(&by, command).await?),
        Request::Peek(tap) => shown(cards.peek(&tap).await?),
        Request::Replay(envelope) => shown(cards.replay_offline(&by, envelope).await?),
        Request::Assign(command) => shown(engine.treasury().assign_suspense(&by, command).await?),
    }
}

/// A key.
pub(super) fn key(text: &str) -> Result<IdempotencyKey, Wrong> {
    match text.parse() {
        Ok(key) => Ok(key),
        Err(CommandError::BadKey) => wrong("the simulation itself is right", text),
        Err(error) => wrong("the simulation itself is right", error.to_string()),
    }
}

/// Where an answer arrives.
pub(super) type Slot<T> = Arc<Mutex<Option<T>>>;

pub(super) fn taken<T>(slot: &Slot<T>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

pub(super) fn put_in<T>(slot: &Slot<T>, value: T) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

/// One call on its way.
pub(super) struct Call {
    pub(super) slot: Slot<Result<Value, Error>>,
    /// The command stood in the books before this call was made.
    pub(super) was_done: bool,
    /// For a charge: how the card stood meanwhile.
    pub(super) seen: Option<Seen>,
}

/// How a card stood while a charge of it was on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) card: CardId,
    pub(super) counter: i64,
    pub(super) amount_msat: i64,
    /// The least that it had to spend.
    pub(super) least_msat: i64,
    /// The most.
    pub(super) most_msat: i64,
    /// It could not be used for a while.
    pub(super) was_stopped: bool,
    /// The last tap that was used.
    pub(super) last_counter: i64,
    /// How its PIN stood.
    pub(super) pin: PinSeen,
}

impl Seen {
    /// Whether a refusal of the charge has its reason.
    fn explains(&self, code: &str) -> bool {
        match code {
            "card.insufficient_funds" => self.least_msat < self.amount_msat,
            // Of an invoice of the engine's, whoever is to be paid can be out of use as well.
            "card.frozen" | "card.not_active" => self.was_stopped || self.amount_msat == i64::MAX,
            "card.tap_replayed" => self.counter <= self.last_counter,
            _ => self.pin.explains(code),
        }
    }
}

impl Call {
    pub(super) fn has_arrived(&self) -> bool {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.is_some()
    }
}

/// A command of a caller.
pub(super) struct Command {
    pub(super) key: String,
    pub(super) by: Credential,
    pub(super) request: Request,
    pub(super) calls: Vec<Call>,
    pub(super) answer: Option<Value>,
    /// Refused for good, or its answer was forgotten: nothing more to be had.
    pub(super) is_over: bool,
    /// The caller was told for good that it was not done, with this code.
    pub(super) refused: Option<&'static str>,
    /// Not to be answered well: its key belongs to another one.
    pub(super) is_abuse: bool,
}

/// What an answer means for whoever asked.
pub(super) enum Meaning {
    /// The first answer.
    First(Value),
    /// The same answer again.
    Again,
    /// Refused, with this code.
    Refused(&'static str),
    /// It is not known; ask again.
    Unknown,
}

impl Command {
    pub(super) fn is_open(&self) -> bool {
        self.answer.is_none() && !self.is_over
    }

    /// Takes an answer. `is_done` says whether the key stands in the books.
    pub(super) fn answered(
        &mut self,
        answer: Result<Value, Error>,
        call: &Call,
        is_done: bool,
    ) -> Result<Meaning, Wrong> {
        let key = &self.key;
        match answer {
            Ok(_) if self.is_abuse => wrong("a key is for one request", key),
            Ok(_) if !is_done && self.request.has_key() => {
                wrong("no acknowledged commit is lost", key)
            }
            Ok(value) => match &self.answer {
                None => {
                    self.answer = Some(value.clone());
                    Ok(Meaning::First(value))
                }
                // A payout goes on: its answer is how it stands now.
                Some(before) if *before == value || self.request.is_of_now() => Ok(Meaning::Again),
                Some(before) => wrong(
                    "the same key gets the same answer",
                    format!("{key}: {value} after {before}"),
                ),
            },
            Err(error) if is_passing(&error) => Ok(Meaning::Unknown),
            Err(error) => {
                let code = error.code();
                // A credential that was revoked since is refused before anything is looked at.
                let may_be = matches!(
                    code,
                    "command.answer_forgotten" | "access.revoked" | "command.key_reused"
                );
                if call.was_done && !may_be {
                    let detail = format!("{key}: {code} ({error})");
                    return wrong("the same key gets the same answer", detail);
                }
                if code == "command.answer_forgotten" && !is_done {
                    return wrong("no acknowledged commit is lost", key);
                }
                if call
                    .seen
                    .is_some_and(|seen| !self.is_abuse && !seen.explains(code))
                {
                    let detail = format!("{key}: {code} ({error}), and {:?}", call.seen);
                    return wrong("nothing is refused without a reason", detail);
                }
                self.is_over = true;
                // Another call that is under way may meet what this one did not.
                let is_last = self.calls.is_empty();
                let is_another = self.is_abuse || code == "command.key_reused";
                if is_last && !is_done && !is_another {
                    self.refused = Some(code);
                }
                Ok(Meaning::Refused(code))
            }
        }
    }
}

/// It may be otherwise the next time, and it may have been done.
fn is_passing(error: &Error) -> bool {
    error.is_retryable() || matches!(error, Error::Store(_) | Error::Lightning(_))
}

/// The transition that a refusal is.
pub(super) fn transition_of(code: &str) -> Option<Transition> {
    Transition::ALL
        .iter()
        .copied()
        .find(|transition| transition.as_str() == code)
}
