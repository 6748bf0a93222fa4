//! A payment of a card as a payment that leaves, and the pure decisions about it.

use async_trait::async_trait;

use super::error::CardError;
use super::life::LifeError;
use super::model::{Card, CardState};
use super::payment_error::CardPaymentError;
use super::payment_model::{CardPayment, CardPaymentOutcome, CardPaymentState};
use super::programs::{self, CardProgram, FeeBearer};
use super::rules;
use crate::Error;
use crate::core::{Core, emit};
use crate::ids::{CardId, TransferId};
use crate::ledger::{Account, AccountKind, Refusal, Step, TransferKind, UsageWindow};
use crate::lightning::{Bolt11Details, LightningError};
use crate::money::Asset;
use crate::payments::{Exchanged, Leaving, Outcome, Outgoing, Standing, Written};
use crate::settlement::Merchant;
use crate::store::StoreError;
use crate::{rewards, settlement};

pub(crate) const PAYMENTS: &str = "card_payment";
/// The job that asks what became of a payment of a card.
pub(crate) const CHECK_JOB: &str = "card_payment.check";

impl From<CardPaymentState> for Standing {
    fn from(state: CardPaymentState) -> Self {
        match state {
            CardPaymentState::Sending => Self::Sending,
            CardPaymentState::Unknown => Self::Unknown,
            CardPaymentState::Succeeded => Self::Succeeded,
            CardPaymentState::Failed => Self::Failed,
        }
    }
}

impl From<Standing> for CardPaymentState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Sending => Self::Sending,
            Standing::Unknown => Self::Unknown,
            Standing::Succeeded => Self::Succeeded,
            Standing::Failed => Self::Failed,
        }
    }
}

impl From<CardPaymentOutcome> for Outcome {
    fn from(outcome: CardPaymentOutcome) -> Self {
        match outcome {
            CardPaymentOutcome::Succeeded { route_fee_msat } => Self::Succeeded { route_fee_msat },
            CardPaymentOutcome::Failed => Self::Failed,
        }
    }
}

#[async_trait]
impl Outgoing for CardPayment {
    const COLLECTION: &'static str = PAYMENTS;
    const CHECK_JOB: &'static str = CHECK_JOB;

    fn leaving(&self) -> Leaving<'_> {
        Leaving {
            id: self.id.to_string(),
            payment_hash: self.payment_hash,
            bolt11: &self.bolt11,
            payer: self.source(),
            exchanged: self.conversion.as_ref().map(|conversion| Exchanged {
                payer: self.posting.payer,
                most: conversion.set_aside,
            }),
            kind: TransferKind::CardPayment,
            amount_msat: self.amount_msat,
            fee: (TransferKind::PayoutFee, 0),
            max_route_fee_msat: self.max_route_fee_msat,
            route_payer: match (self.fee_bearer, self.merchant) {
                (FeeBearer::Card, _) => Some(self.source()),
                (FeeBearer::Merchant, Some(merchant)) if self.posting.route_is_owed => {
                    Some(Account::merchant_receivable(merchant))
                }
                (FeeBearer::Merchant, Some(merchant)) => Some(Account::merchant_payable(merchant)),
                (FeeBearer::Merchant, None) | (FeeBearer::Operator, _) => None,
            },
            max_lock_blocks: self.posting.max_lock_blocks,
            usage: self.posting.usage.clone(),
            created_at_ms: self.created_at_ms,
            standing: self.state.into(),
            in_books: self.held_for.is_some(),
            attempts: self.posting.attempts,
            holds: self.posting.holds,
        }
    }

    fn written(&mut self) -> Written<'_> {
        Written {
            reason: &mut self.reason,
            route_fee_msat: &mut self.route_fee_msat,
            attempts: &mut self.posting.attempts,
            by_book: &mut self.by_book,
        }
    }

    fn stands(&mut self, standing: Standing) {
        self.state = standing.into();
    }

    fn owner_keys(&self) -> Vec<(&'static str, String)> {
        let merchant = self.merchant.map(|id| ("merchant", id.to_string()));
        let card = ("card", self.card.to_string());
        std::iter::once(card).chain(merchant).collect()
    }

    fn event(&self) -> (&'static str, String) {
        let kind = match self.state {
            CardPaymentState::Sending => "card.payment_sending",
            CardPaymentState::Unknown => "card.payment_unknown",
            CardPaymentState::Succeeded => "card.payment_succeeded",
            CardPaymentState::Failed => "card.payment_failed",
        };
        (kind, self.card.to_string())
    }

    fn missing(id: &str) -> Error {
        match id.parse() {
            Ok(payment) => CardPaymentError::PaymentNotFound { payment }.into(),
            Err(_) => StoreError::Corrupt {
                reason: format!("no payment {id}"),
            }
            .into(),
        }
    }

    fn has_ended(&self) -> Error {
        CardPaymentError::PaymentFinal { payment: self.id }.into()
    }

    fn is_in_flight(&self) -> Error {
        CardPaymentError::PaymentInFlight { payment: self.id }.into()
    }

    /// What a card in a currency pays of it.
    async fn exchanged(mut self, core: &Core) -> Result<(Self, Vec<Step>), Error> {
        let Some((conversion, hold)) = self.conversion.as_ref().zip(self.posting.holds.exchanged)
        else {
            return Ok((self, Vec::new()));
        };
        let settled = conversion.settle(core, self.paid_msat()).await?;
        let mut steps = vec![Step::Capture {
            hold,
            id: core.new_id(TransferId::from_parts)?,
            amount: settled.conversion.amount,
            release_rest: true,
        }];
        steps.extend(settled.spread(core, self.id)?);
        self.conversion = Some(settled.conversion);
        Ok((self, steps))
    }

    /// The points of the merchant whose till it was.
    async fn when_succeeded(self, core: &Core) -> Result<(Self, Vec<Step>), Error> {
        with_points(self, core).await
    }

    async fn left_out(self, core: &Core) -> Result<(Self, Vec<Step>), Error> {
        without_points(self, core).await
    }

    /// It is no more on its way; what comes back to a card that was replaced meanwhile goes on to
    /// the one in its place; and what did not come back may leave the card low.
    async fn when_ended(&self, core: &Core, _standing: Standing) -> Result<Vec<Step>, Error> {
        let in_flight = self.posting.in_flight.clone();
        let back = in_flight.map(|window| Step::Unuse { window, amount: 1 });
        let mut steps: Vec<Step> = back.into_iter().collect();
        steps.extend(super::onward(core, self.posting.payer).await?);
        steps.extend(super::look_at_balance(core, self.posting.payer, self.id).await?);
        Ok(steps)
    }
}

impl CardPayment {
    /// Where the bitcoin comes from: of a card in a currency, from the operator.
    fn source(&self) -> Account {
        match &self.conversion {
            Some(_) => Account::exchange(Asset::Btc),
            None => self.posting.payer,
        }
    }

    fn with_route(&self, route_msat: i64) -> i64 {
        match self.fee_bearer {
            FeeBearer::Card => self.amount_msat.saturating_add(route_msat),
            FeeBearer::Merchant | FeeBearer::Operator => self.amount_msat,
        }
    }

    /// The most that the card has to pay for.
    pub(super) fn most_msat(&self) -> i64 {
        self.with_route(self.max_route_fee_msat)
    }

    /// What the card has to pay for, of one that arrived.
    fn paid_msat(&self) -> i64 {
        let route_msat = self.route_fee_msat.unwrap_or(0);
        self.with_route(route_msat.min(self.max_route_fee_msat))
    }

    /// What the card pays of one that was paid in the books, in its unit.
    pub(super) fn on_card(&self) -> i64 {
        let paid = self.conversion.as_ref().map(|conversion| conversion.amount);
        paid.unwrap_or(self.amount_msat)
    }
}

/// The payment with the points that its merchant gives for it, and the steps that give them. They
/// are paid out of what the merchant has here, as those of a charge are.
pub(super) async fn with_points(
    mut payment: CardPayment,
    core: &Core,
) -> Result<(CardPayment, Vec<Step>), Error> {
    let Some(merchant) = payment.merchant else {
        return Ok((payment, Vec::new()));
    };
    let merchant = settlement::load_merchant(core, merchant).await?;
    let amount_msat = payment.amount_msat;
    let card = super::load(core, payment.card).await?.value;
    let shared = programs::shared_reward(programs::of(core, &card).await?.as_ref());
    let reward = rewards::accrual(core, &merchant.value, shared, card.line(), amount_msat).await?;
    let Some(mut reward) = reward else {
        return Ok((payment, Vec::new()));
    };
    if payment.by_book.is_none() && payment.held_for.is_none() {
        reward = rewards::of_a_sale_elsewhere(core, reward).await?;
    }
    payment.program = Some(reward.program);
    payment.points = reward.points;
    payment.posting.reward = reward.posting;
    let mut steps = vec![settlement::guard(&merchant)];
    steps.extend(reward.steps(&payment.id.to_string()));
    if payment.points > 0 {
        let (kind, object) = ("card.points_given", payment.card.to_string());
        steps.push(emit(kind, object, &payment)?);
    }
    Ok((payment, steps))
}

/// The payment without the points that its merchant would give, and had nothing here to give them
/// of: whoever asks why there are none is told.
async fn without_points(
    mut payment: CardPayment,
    core: &Core,
) -> Result<(CardPayment, Vec<Step>), Error> {
    let mut of = None;
    payment.points_not_given = match with_points(payment.clone(), core).await {
        Ok((given, _)) => {
            of = given.merchant.zip(given.program);
            given.points
        }
        Err(error @ Error::Store(_)) => return Err(error),
        // That it arrived is true, whatever is wrong with the points.
        Err(_) => 0,
    };
    if payment.points_not_given == 0 {
        return Ok((payment, Vec::new()));
    }
    let (kind, object) = ("card.points_not_given", payment.card.to_string());
    let mut told = vec![emit(kind, object, &payment)?];
    if let Some((merchant, program)) = of
        && rewards::is_empty(core, merchant, program, payment.points_not_given).await?
    {
        // The merchant can do something about it.
        told.push(emit("reward_budget.empty", merchant.to_string(), &payment)?);
    }
    Ok((payment, told))
}

/// What an invoice asks for, if it can be paid here at all.
pub(super) fn payable(bolt11: &str, network: &str, now_ms: i64) -> Result<Bolt11Details, Error> {
    let invoice: Bolt11Details = bolt11.parse()?;
    if invoice.network != network {
        let (expected, found) = (network.to_owned(), invoice.network);
        return Err(LightningError::WrongNetwork { expected, found }.into());
    }
    if now_ms >= invoice.expires_at_ms {
        let expired_at_ms = invoice.expires_at_ms;
        return Err(CardPaymentError::InvoiceExpired { expired_at_ms }.into());
    }
    Ok(invoice)
}

/// An invoice whose last hop alone locks the money up for longer than allowed has no route.
pub(super) fn check_lock(
    invoice: &Bolt11Details,
    most_blocks: u32,
) -> Result<(), CardPaymentError> {
    let blocks = invoice.min_final_lock_blocks;
    if blocks > most_blocks {
        return Err(CardPaymentError::LocksTooLong {
            blocks,
            most_blocks,
        });
    }
    Ok(())
}

/// Where a card's payments are counted while they are on their way: no calendar ends it.
pub(super) fn in_flight_window(card: CardId) -> UsageWindow {
    UsageWindow {
        subject: format!("{card}/payments/in_flight"),
        start_ms: 0,
        end_ms: i64::MAX,
    }
}

/// A card whose holder can send its money to a wallet of their own: one in use, and one that is lost or
/// has expired, whose money waits. That of a family card is the main card's, and waits for nobody.
pub(super) fn require_withdrawable(card: &Card, at_ms: i64) -> Result<(), CardError> {
    use CardState::{Expired, Lost};

    match rules::require_active(card, at_ms) {
        Err(
            CardError::Life(LifeError::Expired { .. })
            | CardError::NotActive {
                state: Lost | Expired,
                ..
            },
        ) if card.family_of.is_none() => Ok(()),
        other => other,
    }
}

/// The largest amount that a tap of the card can spend at once, limits seen, in the card's unit:
/// `available` is on the card, and `left` is what each limit leaves.
pub(super) fn most_of_a_tap(card: &Card, available: i64, left: &[i64]) -> i64 {
    let per_tap = card.limits.per_tap;
    let limits = left.iter().copied().chain(per_tap);
    limits.fold(available, i64::min).max(0)
}

/// Who bears the route to somebody else's till: as the card's program says, or else the engine's
/// settings. Without a till nobody but the card's holder says what the route may cost, and a hop of it
/// may be the holder's own: then it is the card.
pub(super) fn fee_bearer(
    program: Option<&CardProgram>,
    is_at_a_till: bool,
    card_bears_route: bool,
) -> FeeBearer {
    if !is_at_a_till {
        return FeeBearer::Card;
    }
    match program.and_then(|program| program.terms.fee_bearer) {
        Some(bearer) => bearer,
        None if card_bears_route => FeeBearer::Card,
        None => FeeBearer::Operator,
    }
}

/// What a refusal of the ledger means for a payment of a card.
pub(super) fn refused(error: Error) -> Error {
    match error {
        Error::Ledger(Refusal::AlreadyClaimed { name, by, .. })
            if name.starts_with("payout/") || name.starts_with("payment/") =>
        {
            CardPaymentError::InvoiceUsed { by }.into()
        }
        Error::Ledger(Refusal::UsageExceeded { subject, limit, .. })
            if subject.ends_with("/payments/in_flight") =>
        {
            CardPaymentError::TooManyInFlight { limit }.into()
        }
        Error::Ledger(Refusal::InsufficientFunds {
            account,
            available,
            needed,
            ..
        }) if account.kind() == AccountKind::MerchantPayable => CardPaymentError::RouteNotCovered {
            available_msat: available,
            needed_msat: needed,
        }
        .into(),
        other => rules::refused(other),
    }
}

/// Whether the rules of a card's program let it pay an invoice of this merchant, or of somebody
/// who is not known here.
pub(super) fn check_program(
    program: Option<&CardProgram>,
    merchant: Option<&Merchant>,
) -> Result<(), Error> {
    let Some(program) = program else {
        return Ok(());
    };
    match merchant {
        Some(merchant) => Ok(program.check_merchant(merchant)?),
        None if program.terms.merchants.is_empty() && program.terms.categories.is_empty() => Ok(()),
        None => Err(CardPaymentError::PayeeNotKnown.into()),
    }
}
