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
mod receipt_model;
mod receipts;
mod refunded_points;
mod refunded_to;
mod rules;
mod snapshot;
mod statement;
mod taps;
mod top_up_address;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Core, Loaded};
use crate::ids::CardId;
use crate::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, Invoices};
use crate::ledger::{Step, TransferRow};
use crate::money::Asset;
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
    ImportReport, ImportedCard, KeptCard, KeptReason, MovedCounter, RefusedRow, RollBack,
    RollBackReport, RowRefusal, SyncCounters,
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
pub(crate) use low_balance::{LOW_BALANCE_JOB, look_at as look_at_balance};
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
    BreakageRule, CardProgram, CardProgramTerms, CardPrograms, CreateCardProgram, FeeBearer,
    PinRules, UpdateCardProgram,
};
pub use receipt_model::{CardReceipt, CardReceiptKind, CardReceiptLine, CardReceiptOf};
pub(crate) use refunded_points::{Left, give_points_again, set_points_aside};
pub(crate) use refunded_to::refund_on_card;
pub use statement::CardStatementQuery;
pub(crate) use top_up_address::admit_top_up;
pub use top_up_address::{RenewTopUpAddress, TopUpAddress};

pub(crate) const CARDS: &str = "card";
pub(crate) const CHARGES: &str = "charge";
const TOP_UP_EXPIRY_SECONDS: u32 = 3_600;

/// The handle for cards.
#[derive(Clone)]
pub struct Cards {
    core: Arc<Core>,
    issuer_keys: Arc<IssuerKeys>,
    payments: Payments,
    pins: pin::PinLanes,
    looks: life::LookLanes,
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
            looks: life::LookLanes::default(),
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
    /// `card.tap_*`, `card.too_many_bad_taps`, `card.not_found`; of a virtual card `card.wrong_code`,
    /// and, after ten of those in an hour, `card.too_many_wrong_codes`: they lock nothing else; and
    /// `command.contended` where many look at once.
    pub async fn peek(&self, tap: &str) -> Result<Answer<CardSnapshot>, Error> {
        let as_of_ms = self.core.clock.now_ms();
        let text = tap;
        let _turn = self.turn_to_look(self.source.as_deref(), tap).await?;
        let tap = match self.verify_from(self.source.as_deref(), tap).await {
            Err(error) => return Err(self.count_if_wrong_look(text, error).await?),
            tap => tap?,
        };
        taps::require_unused(&self.core, &tap).await?;
        taps::see(&self.core, &tap).await?;
        // Whoever has found a card that was lost learns what it is, and not what it has.
        let card = tap.card.value;
        let shows_money = card.state != CardState::Lost;
        if shows_money && !life::reads_nothing(&card) {
            top_up_address::of_card(&self.core, card.id).await?;
        }
        let value = self.snapshot_of(card, shows_money).await?;
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
            .snapshot_of(load(&self.core, card).await?.value, true)
            .await?;
        Ok(Answer { as_of_ms, value })
    }

    /// What moved on a card, newest first, before the position `before`; at most `limit` (1 to
    /// 1,000). Its holder or that of a card that came in its place, or the issuer; the holder of
    /// one that was replaced not any more. A family card shows what moved on the balance that it
    /// spends, as long as it is of the family.
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
        life::require_reader(&self.core, &caller, card).await?;
        let as_of_ms = self.core.clock.now_ms();
        let account = load(&self.core, card).await?.value.balance_account();
        let value = self.core.store.transfers(&account, before, limit).await?;
        Ok(Answer { as_of_ms, value })
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
