//! Pure decisions about taps that were taken offline: no I/O, no clock.

use serde::{Deserialize, Serialize};

use super::model::{
    LossBearer, OfflineOutcome, OfflineState, OfflineTap, OfflineTerms, StoppedCard,
};
use super::{DAY_MS, OfflineError, TAPS, Terms, TillKey, envelope};
use crate::Error;
use crate::cards::charge_model::{Charge, ChargeState};
use crate::cards::charging::VerifiedTap;
use crate::cards::model::{Card, CardState};
use crate::cards::{CardError, CardProgram, guard, rules};
use crate::core::{CommandError, Loaded, emit, put};
use crate::ids::TransferId;
use crate::ledger::{Account, NewTransfer, Refusal, Step, TransferKind, UsageWindow};
use crate::money::MAX_MSAT;
use crate::settlement::Merchant;

/// The longest time after which a tap can be replayed: a month.
const MAX_WINDOW_MS: i64 = 31 * DAY_MS;

/// A tap that was settled: what came of it, and its place in the till's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TapRecord {
    pub(super) outcome: OfflineOutcome,
    pub(super) digest: String,
    pub(super) before: String,
}

/// The place of a tap, in the order of numbers.
pub(super) fn place(public_key: &str, sequence: u64) -> String {
    format!("{public_key}/{sequence:020}")
}

pub(super) fn check_terms(terms: Option<&OfflineTerms>) -> Result<(), CommandError> {
    let Some(terms) = terms else { return Ok(()) };
    for (field, amount) in [
        ("per_tap_msat", terms.per_tap_msat),
        ("per_day_msat", terms.per_day_msat),
    ] {
        if !(1..=MAX_MSAT).contains(&amount) {
            let bounds = "1 msat to 21 million bitcoin";
            return Err(CommandError::OutOfBounds { field, bounds });
        }
    }
    if !(1..=MAX_WINDOW_MS).contains(&terms.window_ms) {
        let (field, bounds) = ("window_ms", "1 ms to 31 days");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(())
}

/// Where the counter of a genuine tap stands in the books.
#[derive(Debug, Clone)]
pub(super) struct CounterRead {
    /// The highest that was used.
    pub(super) last: Option<i64>,
    /// Every use of a higher one than this is claimed by its name; `None` where that is not known.
    pub(super) claimed_from: Option<i64>,
    /// What this very one has paid.
    pub(super) claimed_by: Option<String>,
}

/// The steps that claim a tap; the counter moves only upwards, and stays where a later tap has
/// brought it. The card is as it was read, and one that went back to the issuer that had it before is
/// written: where it comes over again at that moment, it begins behind this.
///
/// A lower counter than the last can be claimed where the books would know of its use. A card
/// that was charged before uses were claimed by name has taps of which they do not: for them a
/// tap must be later than the last.
pub(super) fn claim(
    card: &Loaded<Card>,
    counter: i64,
    read: &CounterRead,
    by: String,
) -> Result<Result<Vec<Step>, CardError>, Error> {
    let is_behind = read.last.is_some_and(|last| counter <= last);
    let may_be_used = read.claimed_from.is_none_or(|from| counter <= from);
    if read.claimed_by.is_some() || (is_behind && may_be_used) {
        let last = read.last.unwrap_or(counter).max(counter);
        return Ok(Err(CardError::TapReplayed { counter, last }));
    }
    let held = match card.value.is_with_former_issuer() {
        true => rules::write(&card.value, card.version)?,
        false => guard(card),
    };
    let card = &card.value;
    let mut steps = vec![held, rules::claim_tap(card, counter, by)];
    if !is_behind {
        steps.push(rules::advance(card, counter + rules::ahead(card)));
    }
    if read.claimed_from.is_none() {
        let from = read.last.unwrap_or(rules::NO_COUNTER);
        steps.push(rules::claimed_from(card, from));
    }
    Ok(Ok(steps))
}

/// What a till did wrong with a tap, by its time, its amount and its key.
pub(super) fn breach(
    tap: &OfflineTap,
    terms: &Terms,
    key: &TillKey,
    at_ms: i64,
) -> Option<OfflineError> {
    let limits = [terms.merchant, terms.of_till()];
    let windows_ms = limits.map(|terms| terms.window_ms);
    let window_ms = windows_ms.into_iter().min();
    let until_ms = tap.at_ms.saturating_add(window_ms.unwrap_or(0));
    if at_ms > until_ms {
        return Some(OfflineError::TooLate { until_ms });
    }
    if let Some(retired_at_ms) = key.retired_at_ms
        && tap.at_ms >= retired_at_ms
    {
        return Some(OfflineError::KeyRetired { retired_at_ms });
    }
    let [of_merchant, of_till] = limits.map(|terms| terms.per_tap_msat);
    let limit_msat = of_merchant.min(of_till);
    (tap.amount_msat > limit_msat).then_some(OfflineError::OverTapLimit { limit_msat })
}

/// The steps that count a tap towards the days of its merchant and its till, by the till's time:
/// a till hands in what it took days ago.
pub(super) fn count_day(tap: &OfflineTap, outcome: &OfflineOutcome, terms: &Terms) -> Vec<Step> {
    let day = tap.at_ms - tap.at_ms.rem_euclid(DAY_MS);
    let count = |who: String, limit: i64| Step::Use {
        window: UsageWindow {
            subject: format!("offline/{who}"),
            start_ms: day,
            end_ms: i64::MAX,
        },
        amount: tap.amount_msat,
        limit,
    };
    let mut steps = vec![count(
        outcome.merchant.to_string(),
        terms.merchant.per_day_msat,
    )];
    steps.extend(
        terms
            .till
            .map(|terms| count(outcome.till.to_string(), terms.per_day_msat)),
    );
    steps
}

/// Why a card pays nothing of a genuine tap, and who bears it.
pub(super) struct NotPaid {
    pub(super) error: CardError,
    pub(super) borne_by: LossBearer,
}

/// Whether the card pays a tap, as its state and its program allow it.
pub(super) fn may_pay(
    tapped: &VerifiedTap,
    merchant: &Merchant,
    tap: &OfflineTap,
    terms: OfflineTerms,
    at_ms: i64,
) -> Result<(), NotPaid> {
    let (card, program) = (&as_of(&tapped.card.value, at_ms), tapped.program.as_ref());
    let by_rule = |error| NotPaid {
        error,
        borne_by: terms.loss,
    };
    if let Some(mut not_paid) = stopped(card, tap, terms).map(by_rule) {
        let known_from_ms = card.stopped_at_ms.map(|at_ms| at_ms + terms.window_ms);
        // By then the till must have heard of it.
        if known_from_ms.is_some_and(|known_ms| tap.at_ms >= known_ms) {
            not_paid.borne_by = LossBearer::Merchant;
        }
        return Err(not_paid);
    }
    if let Some(program) = program {
        program.value.check_merchant(merchant).map_err(by_rule)?;
        in_window(&program.value, tap, at_ms).map_err(by_rule)?;
    }
    Ok(())
}

/// Whether its holder lets the card pay that much at once, in its unit. Its limits by the calendar
/// and its balance are the commit's to check.
pub(super) fn holder_allows(tapped: &VerifiedTap, amount: i64) -> Result<(), CardError> {
    let (card, program) = (&tapped.card.value, tapped.program.as_ref());
    let own = card.limits.pin_above;
    let pin_above = match program {
        Some(program) => program.value.pin_above(own),
        None => own,
    };
    if let Some(above) = pin_above
        && amount > above
    {
        return Err(CardError::PinRequired { above });
    }
    if let Some(allowed) = card.limits.per_tap
        && amount > allowed
    {
        return Err(CardError::LimitExceeded {
            limit: "per_tap",
            allowed,
            used: 0,
        });
    }
    Ok(())
}

/// The window of the card's program, of which a till knows nothing.
fn in_window(program: &CardProgram, tap: &OfflineTap, at_ms: i64) -> Result<(), CardError> {
    let window_ms = program.terms.offline_window_ms;
    let window_ms = window_ms.ok_or(OfflineError::CardTakesNone)?;
    let until_ms = tap.at_ms.saturating_add(window_ms);
    if at_ms > until_ms {
        return Err(OfflineError::TooLate { until_ms }.into());
    }
    Ok(())
}

/// Whether a card that was replaced since, and perhaps wiped then, pays with what the card in its place
/// has: its holder has the money there, and the goods.
pub(super) fn pays_in_its_place(card: &Card, tap: &OfflineTap, terms: OfflineTerms) -> bool {
    let was_before = card.stopped_at_ms.is_some_and(|at_ms| tap.at_ms < at_ms);
    let is_out = matches!(card.state, CardState::Replaced | CardState::Wiped);
    let is_replaced = is_out && card.replaced_by.is_some();
    is_replaced && was_before && terms.stopped_card == StoppedCard::Pays
}

/// The card as it stands at `at_ms`, whether or not a job has told by then that it has expired.
fn as_of(card: &Card, at_ms: i64) -> Card {
    let is_held = matches!(card.state, CardState::Active | CardState::Frozen);
    match card.expires_at_ms {
        Some(expired_at_ms) if is_held && expired_at_ms <= at_ms => Card {
            state: CardState::Expired,
            stopped_at_ms: card.stopped_at_ms.or(Some(expired_at_ms)),
            ..card.clone()
        },
        _ => card.clone(),
    }
}

fn stopped(card: &Card, tap: &OfflineTap, terms: OfflineTerms) -> Option<CardError> {
    let error = rules::require_active(card, tap.at_ms).err()?;
    let is_stopped = matches!(
        card.state,
        CardState::Frozen | CardState::Lost | CardState::Expired
    );
    let was_stopped_after = is_stopped && card.stopped_at_ms.is_some_and(|at_ms| tap.at_ms < at_ms);
    (terms.stopped_card == StoppedCard::Loss || !was_stopped_after).then_some(error)
}

/// With the charge that the tap has paid already: the same tap at the same till, for the same
/// sale.
pub(super) fn with_charge(waiting: OfflineOutcome, charge: &Charge) -> OfflineOutcome {
    let is_it = charge.till == waiting.till
        && charge.state == ChargeState::Captured
        && charge.amount_msat == waiting.amount_msat
        && charge.reference == waiting.reference;
    OfflineOutcome {
        charge: is_it.then_some(charge.id),
        ..waiting
    }
}

/// The outcome of a tap of which the card pays `paid_msat`.
pub(super) fn settled(
    waiting: OfflineOutcome,
    paid_msat: i64,
    not_paid: Option<(String, LossBearer)>,
) -> OfflineOutcome {
    let (reason, borne_by) = not_paid.unzip();
    let loss_msat = waiting.amount_msat - paid_msat;
    OfflineOutcome {
        state: match (paid_msat, loss_msat) {
            (_, 0) => OfflineState::Paid,
            (0, _) => OfflineState::Unpaid,
            _ => OfflineState::PaidInPart,
        },
        paid_msat,
        loss_msat,
        borne_by,
        reason,
        ..waiting
    }
}

/// The steps of every outcome: it is written down once, its loss is posted, and its merchant is
/// told.
pub(super) fn write(
    outcome: &OfflineOutcome,
    tap: &OfflineTap,
    loss: TransferId,
) -> Result<Vec<Step>, Error> {
    let record = TapRecord {
        outcome: outcome.clone(),
        digest: envelope::digest(tap),
        before: tap.before.clone(),
    };
    let merchant = outcome.merchant.to_string();
    let keys = vec![("merchant", merchant.clone())];
    let mut steps = vec![put(TAPS, outcome.id.clone(), 0, &record, keys)?];
    if let Some(borne_by) = outcome.borne_by {
        steps.push(Step::Transfer(lost(outcome, borne_by, loss)));
    }
    let kind = match outcome.state {
        OfflineState::Paid => "offline.paid",
        _ => "offline.unpaid",
    };
    steps.push(emit(kind, merchant, outcome)?);
    Ok(steps)
}

fn lost(outcome: &OfflineOutcome, borne_by: LossBearer, id: TransferId) -> NewTransfer {
    let merchant = outcome.merchant;
    let (debit, credit) = match borne_by {
        LossBearer::Operator => (Account::offline_loss(), Account::merchant_payable(merchant)),
        LossBearer::Merchant => (
            Account::merchant_offline_loss(merchant),
            Account::unpaid_sales(merchant),
        ),
    };
    NewTransfer {
        id,
        debit,
        credit,
        amount: outcome.loss_msat,
        kind: TransferKind::OfflineLoss,
        reference: outcome.id.clone(),
        credit_ceiling: None,
    }
}

/// What a commit has told that was not known when it was decided.
#[derive(Debug, Clone, Default)]
pub(super) struct Learnt {
    /// All that the card has, in its unit.
    pub(super) available: Option<i64>,
    /// Why the card pays nothing.
    pub(super) not_paid: Option<CardError>,
    /// What the till did wrong.
    pub(super) breach: Option<OfflineError>,
}

impl Learnt {
    /// Takes a refusal in; `Err` where it is to be told to the caller.
    pub(super) fn take(&mut self, refusal: Refusal) -> Result<(), Error> {
        match refusal {
            // Somebody else has used a tap of the card, or handed in this one.
            Refusal::AlreadyClaimed { .. } | Refusal::CounterNotAdvanced { .. } => Ok(()),
            again if again.should_decide_again() => Ok(()),
            Refusal::UsageExceeded { subject, limit, .. } if subject.starts_with("offline/") => {
                let limit_msat = limit;
                self.breach = Some(OfflineError::OverDayLimit { limit_msat });
                Ok(())
            }
            other => match rules::refused(other.into()) {
                Error::Card(CardError::InsufficientFunds { available, .. }) => {
                    self.available = Some(available.max(0));
                    Ok(())
                }
                Error::Card(
                    limit @ (CardError::LimitExceeded { .. } | CardError::TooManyTaps { .. }),
                ) => {
                    self.not_paid = Some(limit);
                    Ok(())
                }
                other => Err(other),
            },
        }
    }
}
