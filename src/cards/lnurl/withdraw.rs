//! LNURL-withdraw: what a tap can spend, and spending it.

use serde::Serialize;

use super::{LnurlReply, LnurlRequest, base};
use crate::Error;
use crate::cards::boltcard::{TapError, TapUrl};
use crate::cards::error::CardError;
use crate::cards::model::{CardSnapshot, LimitKind};
use crate::cards::payment_error::CardPaymentError;
use crate::cards::payment_model::{CardPayment, CardPaymentState, PayWithCard};
use crate::cards::pin::Pin;
use crate::cards::{Cards, currency_payment, load, payment_rules, programs, rules, top_up_address};
use crate::core::{Caller, CommandError, IdempotencyKey};
use crate::lightning::{Bolt11Details, PaymentHash};
use crate::lnurl::LnurlQuery;

/// LUD-03, with what LUD-14 and LUD-19 add, and the limit above which a PIN is asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithdrawRequest<'a> {
    tag: &'a str,
    callback: &'a str,
    k1: String,
    min_withdrawable: i64,
    max_withdrawable: i64,
    current_balance: i64,
    balance_check: &'a str,
    pay_link: String,
    default_description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin_limit: Option<i64>,
}

/// What can be withdrawn at least, if anything can.
const MIN_WITHDRAWABLE_MSAT: i64 = 1_000;
/// How often it is looked what became of a payment, at first and at last, in milliseconds.
const FIRST_LOOK_MS: u64 = 10;
const RAREST_LOOK_MS: u64 = 250;

impl Cards {
    pub(super) async fn answer_withdraw(
        &self,
        request: &LnurlRequest,
        query: &LnurlQuery,
    ) -> LnurlReply {
        let (pr, pin) = match (query.one("pr"), query.one("pin")) {
            (Ok(pr), Ok(pin)) => (pr, pin),
            (Err(malformed), _) | (_, Err(malformed)) => {
                return LnurlReply::error(&malformed.to_string());
            }
        };
        match pr {
            None => match self.offer(query, request.till.is_some()).await {
                Ok(reply) => reply,
                Err(error) => LnurlReply::refused(&error),
            },
            Some(pr) => self.withdraw_by_tap(request, query, pr, pin).await,
        }
    }

    /// What the tap can spend. It is looked at, and not used up.
    async fn offer(&self, query: &LnurlQuery, is_at_a_till: bool) -> Result<LnurlReply, Error> {
        let tap = query.tap();
        let (p, c) = spelled(&tap)?;
        let snapshot = self.peek(&tap).await?.value;
        let card = load(&self.core, snapshot.card).await?.value;
        rules::require_active(&card, self.core.commit_time_ms())?;
        let program = programs::of(&self.core, &card).await?;
        let terms = currency_payment::terms(&self.core, &card, program.as_ref()).await?;
        let callback = format!("{}?p={p}&c={c}", base(&self.core.settings.tap_url));
        let left: Vec<i64> = left_of_limits(&snapshot).collect();
        let balance = snapshot.money.as_ref().map(|money| money.balance);
        let balance = balance.unwrap_or(snapshot.balance_msat);
        let most = payment_rules::most_of_a_tap(&card, balance, &left);
        let (max_withdrawable, _) =
            self.largest_payment(program.as_ref(), is_at_a_till, terms.as_ref(), most)?;
        let current_balance = match &terms {
            Some(terms) => terms.affords(balance)?,
            None => balance,
        };
        let own = card.limits.pin_above;
        let pin_above = match &program {
            Some(program) => program.value.pin_above(own),
            None => own,
        };
        // A wallet asks from this amount on; the card does above its limit.
        let pin_limit = match (&terms, pin_above) {
            (Some(terms), Some(above)) => Some(terms.more_than(above)?),
            (_, above) => above.map(|above| above.saturating_add(1)),
        };
        let address = top_up_address::of_card(&self.core, card.id).await?;
        let pay_link = match address.url.split_once("://") {
            Some((_, rest)) => format!("lnurlp://{rest}"),
            None => address.url,
        };
        Ok(LnurlReply::json(
            200,
            &WithdrawRequest {
                tag: "withdrawRequest",
                callback: &callback,
                k1: format!("{p}-{c}"),
                min_withdrawable: MIN_WITHDRAWABLE_MSAT.min(max_withdrawable),
                max_withdrawable,
                current_balance,
                balance_check: &callback,
                pay_link,
                default_description: "Card payment",
                pin_limit,
            },
        ))
    }

    async fn withdraw_by_tap(
        &self,
        request: &LnurlRequest,
        query: &LnurlQuery,
        pr: &str,
        pin: Option<&str>,
    ) -> LnurlReply {
        let invoice: Bolt11Details = match pr.parse() {
            Ok(invoice) => invoice,
            Err(error) => return LnurlReply::refused(&Error::from(error)),
        };
        let (tap, hash) = (query.tap(), invoice.payment_hash);
        // First, and before anything can be refused: what is on its way is not refused any more.
        match self.known(&tap, hash).await {
            Ok(None) => {}
            Ok(Some(payment)) => return self.soon(payment).await,
            Err(error) => return doubtful(&error),
        }
        let (cards, till) = (self.clone(), request.till.clone());
        let (bolt11, pin) = (pr.to_owned(), pin.map(str::to_owned));
        let begun = {
            let tap = tap.clone();
            self.core.detached(async move {
                let caller = cards.whoever_asks(till.as_ref()).await?;
                let key = cards.key_of(&caller, &tap, hash).await?;
                let pin = pin.map(|pin| pin.parse::<Pin>()).transpose()?;
                let command = PayWithCard {
                    key,
                    tap,
                    bolt11,
                    pin,
                };
                Ok(cards.pay_by_tap(&caller, command).await?.value)
            })
        };
        match begun.await {
            Ok(payment) => self.soon(payment).await,
            // Somebody else may have begun the same meanwhile.
            Err(error) => match self.known(&tap, hash).await {
                Ok(Some(payment)) => self.soon(payment).await,
                Ok(None) => doubtful(&error),
                Err(unread) => doubtful(&unread),
            },
        }
    }

    /// A till, or the tap alone: that is taken for the issuer's own, whose host brings it.
    async fn whoever_asks(
        &self,
        till: Option<&crate::access::Credential>,
    ) -> Result<Caller, Error> {
        let Some(till) = till else {
            return self.core.admit(self.core.issuer).await;
        };
        let caller = self.core.authenticate(till).await?;
        caller.require_till()?;
        Ok(caller)
    }

    /// One tap pays one invoice once, however often it is asked.
    async fn key_of(
        &self,
        caller: &Caller,
        tap: &str,
        hash: PaymentHash,
    ) -> Result<IdempotencyKey, Error> {
        let till = caller.require_till().ok().map(|_| caller.id.to_string());
        let source = self.source.as_deref().or(till.as_deref());
        let found = self.verify_from(source, tap).await?;
        let (card, counter) = (rules::counter_name(&found.card.value), found.counter);
        let digest = hash.to_string();
        let short = digest.get(..32).unwrap_or(&digest);
        let key = format!("{card}/{counter}/{short}");
        key.parse::<IdempotencyKey>().map_err(Error::from)
    }

    /// The payment of this invoice by a card, if there is one, for whoever has a tap of ours. The
    /// tap is not used up, and may be: the till that read nothing asks again with another one.
    async fn known(&self, tap: &str, hash: PaymentHash) -> Result<Option<CardPayment>, Error> {
        let Some(payment) = self.payments.by_hash::<CardPayment>(hash).await? else {
            return Ok(None);
        };
        let payment = payment.value;
        let tap = match self.verify_from(self.source.as_deref(), tap).await {
            // Nobody has looked at it: that says nothing of the payment.
            Err(Error::Card(CardError::TooManyBadTaps { .. })) => {
                return Err(CommandError::Interrupted.into());
            }
            // The chip was wiped or written again since it paid: the payment is out all the same, or
            // has arrived.
            Err(Error::Card(error)) if may_have_paid(payment.state, &error) => {
                return Err(CommandError::Interrupted.into());
            }
            found => found?,
        };
        // To the holder's own wallet: that is nobody else's business.
        let is_by_holder = payment.asked_by.is_some() && payment.merchant.is_none();
        if is_by_holder && tap.card.value.id != payment.card {
            return Ok(None);
        }
        Ok(Some(payment))
    }

    /// How a payment stands, after a while if it stands nowhere yet.
    async fn soon(&self, payment: CardPayment) -> LnurlReply {
        let wait_ms = self.core.settings.card_payments.wait_ms;
        let (mut payment, mut waited_ms, mut pause_ms) = (payment, 0, FIRST_LOOK_MS);
        while !payment.state.is_final() && waited_ms < wait_ms {
            let pause = std::time::Duration::from_millis(pause_ms.min(wait_ms - waited_ms));
            self.core.executor.sleep(pause).await;
            waited_ms += pause_ms;
            pause_ms = (pause_ms * 2).min(RAREST_LOOK_MS);
            let id = payment.id.to_string();
            match self.payments.load::<CardPayment>(&id).await {
                Ok(found) => payment = found.value,
                Err(_) => return LnurlReply::pending(),
            }
        }
        match payment.state {
            CardPaymentState::Succeeded => LnurlReply::ok(),
            CardPaymentState::Sending | CardPaymentState::Unknown => LnurlReply::pending(),
            CardPaymentState::Failed => {
                let reason = payment.reason.as_deref().unwrap_or("it failed");
                LnurlReply::error(&format!("the invoice could not be paid: {reason}"))
            }
        }
    }
}

/// Whether a payment that stands so may be that of a tap which is no card's any more.
fn may_have_paid(state: CardPaymentState, error: &CardError) -> bool {
    match state {
        CardPaymentState::Sending | CardPaymentState::Unknown => true,
        CardPaymentState::Succeeded => matches!(
            error,
            CardError::Tap(TapError::WrongMac | TapError::NotOurs) | CardError::NotFound
        ),
        CardPaymentState::Failed => false,
    }
}

/// What is said of an error: `ERROR` only of one by which nothing was committed.
fn doubtful(error: &Error) -> LnurlReply {
    match error {
        Error::Store(_) | Error::Command(CommandError::Interrupted) => LnurlReply::pending(),
        // By whom, and how that stands, is not this tap's business.
        Error::Card(CardError::Payment(CardPaymentError::InvoiceUsed { .. })) => {
            LnurlReply::pending()
        }
        error => LnurlReply::refused(error),
    }
}

/// The two parameters of a tap as the chip spells them.
fn spelled(tap: &str) -> Result<(String, String), CardError> {
    let tap = TapUrl::parse(tap)?;
    let spell = |bytes: &[u8]| hex::encode_upper(bytes);
    Ok((spell(tap.p()), spell(tap.c())))
}

/// What each of the limits on amounts leaves.
fn left_of_limits(snapshot: &CardSnapshot) -> impl Iterator<Item = i64> + '_ {
    let of_amounts = snapshot
        .usage
        .iter()
        .filter(|usage| usage.kind != LimitKind::TapsPerHour);
    of_amounts.map(|usage| usage.limit.saturating_sub(usage.used))
}
