//! Prepaid cards: NTAG 424 DNA chips whose taps spend a balance in the books.
//!
//! A tap is verified before anything changes; its counter moves in the commit that moves the
//! money. Looking at a card never uses up a tap.

mod bad_taps;
pub mod boltcard;
mod charge_life;
mod charge_model;
mod charge_rules;
mod charging;
mod currency;
mod currency_payment;
mod error;
mod imports;
mod issuer_keys;
mod issuing;
mod life;
pub mod lnurl;
mod low_balance;
mod model;
mod offline;
mod paid;
mod paying;
mod payment_error;
mod payment_model;
mod payment_rules;
mod pin;
mod programmer;
pub mod programming;
pub(crate) mod programs;
mod refunded_points;
mod rules;
mod statement;
mod taps;
mod top_up_address;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Loaded};
use crate::exchange;
use crate::ids::CardId;
use crate::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, Invoices};
use crate::ledger::{Balance, Step, TransferRow};
use crate::money::{Asset, Currency, Quote, Rounding};
use crate::payments::Payments;

pub use charge_model::{
    AuthorizeCard, CaptureCharge, Charge, ChargeAmount, ChargeCard, ChargeConversion, ChargeState,
    RefundCharge, ReleaseCharge,
};
pub(crate) use charge_rules::EXPIRE_JOB;
pub(crate) use currency::top_up as top_up_in_currency;
pub use error::CardError;
pub use imports::{
    CardCounter, CardImport, CardImports, CounterReport, CreateCardImport, CutOver, ExportedCard,
    ImportReport, ImportedCard, MovedCounter, RefusedRow, RowRefusal, SyncCounters,
};
pub(crate) use issuer_keys::IssuerKeys;
pub use issuer_keys::{ImportIssuerKey, IssuerKeyInfo, IssuerKeyOrigin, RotateIssuerKey};
use issuing::FIRST_VERSION;
pub(crate) use life::{
    AUTO_TOP_UP_JOB, BREAKAGE_JOB, EXPIRE_CARD_JOB, account_now, back_from, current, onward,
    onward_to_hold,
};
pub use life::{
    AddFamilyCard, AutoTopUp, BearerUnit, CardKind, CardNoteSet, CardNumber, IssueVirtualCard,
    LifeError, MakeRecoveryCode, RecoverHolder, Recovered, Recovery, RecoveryCode, RecoveryNumber,
    RegisterBearerCard, ReplaceCard, ReportLost, RetireCard, RetireTo, SetAutoTopUp, SetCardExpiry,
    SetCardNote, TopUpSource, TopUpWanted, UnlockCardCode, VirtualCardDetails, VirtualTap,
    WipeCard,
};
pub(crate) use low_balance::LOW_BALANCE_JOB;
pub use model::{
    ActivateCard, Activation, Card, CardLimits, CardSnapshot, CardState, CurrencyBalance,
    ExistingChip, FreezeCard, IssueCard, IssueCards, LimitKind, LimitUsage, LowBalance,
    ProgrammingKeys, RenewHolder, SetCardLimits, TopUpCard, ZoneBefore,
};

pub use programmer::{program_link, reset_link};

pub use offline::{
    AcceptedOffline, EnrollOfflineKey, LossBearer, OFFLINE_ENVELOPE_TAPS, OfflineBook,
    OfflineEnrolment, OfflineEnvelope, OfflineError, OfflineKey, OfflineOutcome, OfflineState,
    OfflineTap, OfflineTerms, SetOfflineTerms, StoppedCard,
};
pub use payment_error::CardPaymentError;
pub use payment_model::{
    CardPayment, CardPaymentOutcome, CardPaymentState, PayWithCard, PaymentConversion,
    ResolveCardPayment, WithdrawFromCard, WithdrawalQuote,
};
pub(crate) use payment_rules::CHECK_JOB;
pub use pin::{Pin, PinStatus, SetCardPin, UnlockCardPin};
pub use programs::{
    CardProgram, CardProgramTerms, CardPrograms, CreateCardProgram, FeeBearer, PinRules,
    UpdateCardProgram,
};
pub(crate) use refunded_points::{Left, give_points_again, set_points_aside};
pub use statement::CardStatementQuery;
pub(crate) use top_up_address::admit_top_up;
pub use top_up_address::{RenewTopUpAddress, TopUpAddress};

pub(crate) const CARDS: &str = "card";
pub(crate) const CHARGES: &str = "charge";
/// How much of its history a card shows at once.
const SNAPSHOT_HISTORY: usize = 20;
const TOP_UP_EXPIRY_SECONDS: u32 = 3_600;

/// The handle for cards.
#[derive(Clone)]
pub struct Cards {
    core: Arc<Core>,
    issuer_keys: Arc<IssuerKeys>,
    payments: Payments,
    pins: pin::PinLanes,
    bad_taps: bad_taps::BadTaps,
    bad_codes: bad_taps::BadTaps,
    source: Option<Arc<str>>,
}

impl Cards {
    pub(crate) fn new(core: Arc<Core>, issuer_keys: Arc<IssuerKeys>, payments: Payments) -> Self {
        let pins = pin::PinLanes::default();
        Self {
            core,
            issuer_keys,
            payments,
            pins,
            bad_taps: bad_taps::BadTaps::default(),
            bad_codes: bad_taps::BadTaps::default(),
            source: None,
        }
    }

    /// The same handle for taps that come from a source: whatever the host tells apart, an address
    /// or a device. From one that forges taps none is taken for a while
    /// (`card.too_many_bad_taps`). Without a source, a till's taps are its credential's, and
    /// looks are not counted.
    #[must_use]
    pub fn from_source(&self, source: &str) -> Self {
        Self {
            source: Some(source.into()),
            ..self.clone()
        }
    }

    /// Cards that are taken over from another issuer.
    pub fn imports(&self) -> CardImports {
        CardImports::new(self.clone())
    }

    /// The programs that cards can be of.
    pub fn programs(&self) -> CardPrograms {
        CardPrograms::new(self.core.clone())
    }

    /// An invoice whose payment goes on the card: see [`Invoices::create`]. For a card in a currency
    /// the price is in it, and goes on the card exactly; the rate holds for as long as the invoice
    /// can be paid.
    ///
    /// # Errors
    /// `card.unit_mismatch`, and as for [`Invoices::create`].
    pub async fn top_up(
        &self,
        credential: &Credential,
        command: TopUpCard,
    ) -> Result<Answer<Invoice>, Error> {
        let command = CreateInvoice {
            key: command.key,
            purpose: InvoicePurpose::TopUp { card: command.card },
            price: Some(command.price),
            description: "Card top-up".to_owned(),
            expiry_seconds: TOP_UP_EXPIRY_SECONDS,
            options: InvoiceOptions::default(),
        };
        Invoices::new(self.core.clone())
            .create(credential, command)
            .await
    }

    /// What a tap shows: the card as it stands, its limits with what is used of them, and what
    /// moved last. The same tap can be charged afterwards, for
    /// [`Settings::tap_valid_ms`](crate::Settings::tap_valid_ms) after it was first looked at;
    /// and a tap with a lower counter cannot be used any more. No money moves, and no counter.
    ///
    /// # Errors
    /// `card.tap_*`, `card.too_many_bad_taps`, `card.not_found`.
    pub async fn peek(&self, tap: &str) -> Result<Answer<CardSnapshot>, Error> {
        let as_of_ms = self.core.clock.now_ms();
        let text = tap;
        let tap = match self.verify_from(self.source.as_deref(), tap).await {
            Err(error) => return Err(self.count_if_wrong_code(text, error).await?),
            tap => tap?,
        };
        taps::require_unused(&self.core, &tap).await?;
        taps::see(&self.core, &tap).await?;
        let value = self.snapshot_of(tap.card.value).await?;
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
    /// 1,000). Its holder or that of a card that came in its place, or the issuer. A family card
    /// shows what moved on the balance that it spends.
    ///
    /// # Errors
    /// `card.not_found`, `access.*`.
    pub async fn history(
        &self,
        credential: &Credential,
        card: CardId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Answer<Vec<TransferRow>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        self.require_reader(&caller, card).await?;
        let as_of_ms = self.core.clock.now_ms();
        let account = load(&self.core, card).await?.value.balance_account();
        let value = self.core.store.transfers(&account, before, limit).await?;
        Ok(Answer { as_of_ms, value })
    }

    /// What is on a card in a currency, with what it is worth where there is a fresh rate.
    async fn worth(&self, currency: Currency, balance: i64, pending: i64) -> CurrencyBalance {
        let quote = exchange::quote(&self.core, currency, None).await.ok();
        let value = |quote: &Quote| {
            let rate = quote.rate;
            rate.fiat_to_msat(currency, balance, Rounding::Down).ok()
        };
        CurrencyBalance {
            currency,
            balance,
            pending,
            value_msat: quote.as_ref().and_then(value),
            quote,
        }
    }

    async fn snapshot_of(&self, card: Card) -> Result<CardSnapshot, Error> {
        let account = card.balance_account();
        let side = account.kind().side();
        let balance: Balance = self.core.balance(&account).await?;
        let mut usage = Vec::new();
        for limit in rules::usage_limits(&card, self.core.commit_time_ms())? {
            usage.push(LimitUsage {
                kind: limit.kind,
                limit: limit.limit,
                used: self.core.store.usage(&limit.window).await?,
                renews_at_ms: limit.window.end_ms,
            });
        }
        let history = self.core.store.transfers(&account, None, SNAPSHOT_HISTORY);
        let history = history.await?;
        let (balance, pending) = (
            i64::try_from(balance.available(side)).unwrap_or(i64::MAX),
            balance.incoming(side),
        );
        let money = match card.unit {
            Asset::Fiat(currency) => Some(self.worth(currency, balance, pending).await),
            _ => None,
        };
        let in_msat = |amount| if money.is_none() { amount } else { 0 };
        Ok(CardSnapshot {
            card: card.id,
            state: card.state,
            kind: card.kind,
            balance_msat: in_msat(balance),
            pending_msat: in_msat(pending),
            money,
            limits: card.limits,
            usage,
            history,
        })
    }
}

pub(crate) fn parse_uid(text: &str) -> Result<[u8; 7], CardError> {
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
    rules::require_active(&card.value, core.commit_time_ms())?;
    Ok(card)
}

/// A card that money in bitcoin can go on as it is.
pub(crate) fn require_bitcoin(card: &Card) -> Result<(), CardError> {
    match card.unit {
        Asset::Btc => Ok(()),
        unit => Err(CardError::UnitMismatch {
            card: card.id,
            unit,
        }),
    }
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
