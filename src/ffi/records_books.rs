//! The books as a whole: transfers, capital, trial balance, audit, events and jobs.

use super::FlashError;
use super::transfer_kind::TransferKind;
use crate::ledger::{self, Balance, Side, TransferRow};
use crate::{Answer, Error, JobsRun, events, reports, treasury};

/// The side on which an account grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum LedgerSide {
    /// Assets and expenses.
    Debit,
    /// Liabilities, capital and income.
    Credit,
}

impl From<Side> for LedgerSide {
    fn from(side: Side) -> Self {
        match side {
            Side::Debit => Self::Debit,
            Side::Credit => Self::Credit,
        }
    }
}

/// A transfer as it stands in the books. An account is text: `kind/owner/asset`.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Transfer {
    /// Its place in the order of all transfers; asks for the page before it.
    pub position: i64,
    /// Its id.
    pub id: String,
    /// When it was committed, milliseconds since the epoch.
    pub at_ms: i64,
    /// The account debited.
    pub debit_account: String,
    /// The account credited.
    pub credit_account: String,
    /// More than zero, in the asset's unit: msat for bitcoin.
    pub amount: i64,
    /// Why.
    pub kind: TransferKind,
    /// The object it belongs to.
    pub reference: String,
    /// The balance of the debited account after it, towards that account's side.
    pub debit_balance_after: i64,
    /// The balance of the credited account after it, towards that account's side.
    pub credit_balance_after: i64,
}

impl From<TransferRow> for Transfer {
    fn from(row: TransferRow) -> Self {
        Self {
            position: row.position,
            id: row.id.to_string(),
            at_ms: row.at_ms,
            debit_account: row.debit.to_string(),
            credit_account: row.credit.to_string(),
            amount: row.amount,
            kind: row.kind.into(),
            reference: row.reference,
            debit_balance_after: row.debit_balance_after,
            credit_balance_after: row.credit_balance_after,
        }
    }
}

/// Transfers, newest first.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct TransferPage {
    /// The transfers; the last one's position asks for the next page.
    pub transfers: Vec<Transfer>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<Vec<TransferRow>>> for TransferPage {
    fn from(answer: Answer<Vec<TransferRow>>) -> Self {
        Self {
            transfers: answer.value.into_iter().map(Transfer::from).collect(),
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// Where the operator's money lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum CapitalAccount {
    /// In the node's channels.
    Channels,
    /// On chain in the node's wallet.
    Onchain,
    /// Still with the issuer that cards were taken over from.
    FormerIssuer,
}

impl From<CapitalAccount> for treasury::CapitalAccount {
    fn from(account: CapitalAccount) -> Self {
        match account {
            CapitalAccount::Channels => Self::Channels,
            CapitalAccount::Onchain => Self::Onchain,
            CapitalAccount::FormerIssuer => Self::FormerIssuer,
        }
    }
}

impl From<treasury::CapitalAccount> for CapitalAccount {
    fn from(account: treasury::CapitalAccount) -> Self {
        match account {
            treasury::CapitalAccount::Channels => Self::Channels,
            treasury::CapitalAccount::Onchain => Self::Onchain,
            treasury::CapitalAccount::FormerIssuer => Self::FormerIssuer,
        }
    }
}

/// Which way the operator's money went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum CapitalDirection {
    /// Put in.
    PutIn,
    /// Taken out, or used up by chain and channels.
    TakenOut,
}

impl From<CapitalDirection> for treasury::CapitalDirection {
    fn from(direction: CapitalDirection) -> Self {
        match direction {
            CapitalDirection::PutIn => Self::In,
            CapitalDirection::TakenOut => Self::Out,
        }
    }
}

impl From<treasury::CapitalDirection> for CapitalDirection {
    fn from(direction: treasury::CapitalDirection) -> Self {
        match direction {
            treasury::CapitalDirection::In => Self::PutIn,
            treasury::CapitalDirection::Out => Self::TakenOut,
        }
    }
}

/// Books money that the operator put into the node or took out of it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct BookCapitalRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// Where it lies.
    pub account: CapitalAccount,
    /// Which way it went.
    pub direction: CapitalDirection,
    /// How much.
    pub amount_msat: i64,
    /// Why, for whoever reads the books; at most 200 characters.
    pub reason: String,
}

impl TryFrom<BookCapitalRequest> for treasury::BookCapital {
    type Error = FlashError;

    fn try_from(request: BookCapitalRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            account: request.account.into(),
            direction: request.direction.into(),
            amount_msat: request.amount_msat,
            reason: request.reason,
        })
    }
}

/// Capital that was booked.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Capital {
    /// Its id.
    pub id: String,
    /// Where it lies.
    pub account: CapitalAccount,
    /// Which way it went.
    pub direction: CapitalDirection,
    /// How much.
    pub amount_msat: i64,
    /// Why.
    pub reason: String,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<treasury::Capital>> for Capital {
    fn from(answer: Answer<treasury::Capital>) -> Self {
        let Answer {
            as_of_ms,
            value: capital,
        } = answer;
        Self {
            id: capital.id.to_string(),
            account: capital.account.into(),
            direction: capital.direction.into(),
            amount_msat: capital.amount_msat,
            reason: capital.reason,
            as_of_ms,
        }
    }
}

/// The totals of one account, in its asset's unit. Posted totals outgrow 64 bits in time: they
/// are decimal text.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct AccountBalance {
    /// `kind/owner/asset`.
    pub account: String,
    /// The side on which it grows.
    pub side: LedgerSide,
    /// Its balance, counted towards that side.
    pub balance: String,
    /// All debits that were posted.
    pub debits_posted: String,
    /// All credits that were posted.
    pub credits_posted: String,
    /// Debits on hold.
    pub debits_pending: i64,
    /// Credits on hold.
    pub credits_pending: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl AccountBalance {
    pub(super) fn new(account: ledger::Account, answer: Answer<Balance>) -> Self {
        let (side, totals) = (account.kind().side(), answer.value);
        Self {
            account: account.to_string(),
            side: side.into(),
            balance: totals.posted(side).to_string(),
            debits_posted: totals.debits_posted.to_string(),
            credits_posted: totals.credits_posted.to_string(),
            debits_pending: totals.debits_pending,
            credits_pending: totals.credits_pending,
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// One line of the trial balance, in the unit of the account's asset; posted totals are decimal
/// text.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct TrialBalanceLine {
    /// `kind/owner/asset`.
    pub account: String,
    /// The side on which it grows.
    pub side: LedgerSide,
    /// Its balance, counted towards that side.
    pub balance: String,
    /// All debits that were posted.
    pub debits_posted: String,
    /// All credits that were posted.
    pub credits_posted: String,
    /// Debits on hold.
    pub debits_pending: i64,
    /// Credits on hold.
    pub credits_pending: i64,
}

impl From<reports::TrialBalanceLine> for TrialBalanceLine {
    fn from(line: reports::TrialBalanceLine) -> Self {
        Self {
            account: line.account.to_string(),
            side: line.side.into(),
            balance: line.balance.to_string(),
            debits_posted: line.totals.debits_posted.to_string(),
            credits_posted: line.totals.credits_posted.to_string(),
            debits_pending: line.totals.debits_pending,
            credits_pending: line.totals.credits_pending,
        }
    }
}

/// The totals of one asset, as decimal text in its unit.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct AssetTotals {
    /// `BTC`, an ISO 4217 code, or the points of a program.
    pub asset: String,
    /// All debits that were posted.
    pub debits: String,
    /// All credits that were posted.
    pub credits: String,
    /// All debits on hold.
    pub debits_pending: String,
    /// All credits on hold.
    pub credits_pending: String,
}

/// Every account that was ever used, and the totals of each asset.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct TrialBalance {
    /// Debits equal credits for every asset, posted and on hold.
    pub is_balanced: bool,
    /// The accounts, in the order of their text.
    pub lines: Vec<TrialBalanceLine>,
    /// The totals by asset.
    pub totals: Vec<AssetTotals>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<reports::TrialBalance>> for TrialBalance {
    fn from(answer: Answer<reports::TrialBalance>) -> Self {
        let is_balanced = answer.is_balanced();
        let totals = answer.value.totals.into_iter();
        let totals = totals.map(|(asset, totals)| AssetTotals {
            asset: asset.to_string(),
            debits: totals.debits.to_string(),
            credits: totals.credits.to_string(),
            debits_pending: totals.debits_pending.to_string(),
            credits_pending: totals.credits_pending.to_string(),
        });
        let lines = answer.value.lines.into_iter();
        Self {
            is_balanced,
            lines: lines.map(TrialBalanceLine::from).collect(),
            totals: totals.collect(),
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// A control account beside what it mirrors.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Control {
    /// `kind/owner/asset`.
    pub account: String,
    /// What the books say.
    pub booked_msat: i64,
    /// What is on hold and would raise it.
    pub incoming_msat: i64,
    /// What is on hold and would lower it.
    pub outgoing_msat: i64,
    /// What the node says.
    pub actual_msat: i64,
    /// The node's figure less the books'.
    pub difference_msat: i64,
    /// True when nothing but what is on its way can be the difference; else a person should look.
    pub is_explained: bool,
    /// The first audit that saw a difference that nothing explains, without a break up to now.
    pub since_ms: Option<i64>,
}

/// A control account that could not be compared: what it mirrors could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct UntiedControl {
    /// `kind/owner/asset`.
    pub account: String,
    /// What the books say.
    pub booked_msat: i64,
    /// What is on hold and would raise it.
    pub incoming_msat: i64,
    /// What is on hold and would lower it.
    pub outgoing_msat: i64,
    /// What of the real figure is known all the same.
    pub known_msat: i64,
    /// Why, as a stable code: `lightning.held_elsewhere` where another instance has the node.
    pub code: String,
    /// The first audit that saw a difference which no audit has seen gone.
    pub since_ms: Option<i64>,
}

/// An account whose totals are not the sum of what moved.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct BooksDifference {
    /// `kind/owner/asset`.
    pub account: String,
    /// Since when: the first transfer that does not fit, or the first audit that saw it.
    pub since_ms: i64,
    /// What stands in the store, towards the account's side; text, because totals can be wider
    /// than 64 bits.
    pub stored: String,
    /// What its transfers come to.
    pub computed: String,
}

/// The books beside the world.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Audit {
    /// Debits equal credits for every asset.
    pub is_balanced: bool,
    /// The control accounts that could be compared with what they mirror.
    pub controls: Vec<Control>,
    /// Those that could not: of them nothing is shown to be right.
    pub untied: Vec<UntiedControl>,
    /// Accounts that are not the sum of what moved: none in honest books.
    pub differences: Vec<BooksDifference>,
    /// Accounts of which it is not known, because money moved on them at every look: `kind/owner/asset`.
    pub unsettled: Vec<String>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

impl From<Answer<reports::Audit>> for Audit {
    fn from(answer: Answer<reports::Audit>) -> Self {
        let controls = answer.value.controls.into_iter();
        let controls = controls.map(|control| Control {
            is_explained: control.is_explained(),
            account: control.account.to_string(),
            booked_msat: control.booked_msat,
            incoming_msat: control.incoming_msat,
            outgoing_msat: control.outgoing_msat,
            actual_msat: control.actual_msat,
            difference_msat: control.difference_msat,
            since_ms: control.since_ms,
        });
        let untied = answer.value.untied.into_iter();
        let untied = untied.map(|untied| UntiedControl {
            account: untied.account.to_string(),
            booked_msat: untied.booked_msat,
            incoming_msat: untied.incoming_msat,
            outgoing_msat: untied.outgoing_msat,
            known_msat: untied.known_msat,
            code: untied.code,
            since_ms: untied.since_ms,
        });
        let differences = answer.value.differences.into_iter().map(|difference| {
            let side = difference.account.kind().side();
            BooksDifference {
                account: difference.account.to_string(),
                since_ms: difference.since_ms,
                stored: difference.stored.posted(side).to_string(),
                computed: difference.computed.posted(side).to_string(),
            }
        });
        Self {
            is_balanced: answer.value.is_balanced,
            controls: controls.collect(),
            untied: untied.collect(),
            differences: differences.collect(),
            unsettled: answer
                .value
                .unsettled
                .iter()
                .map(ToString::to_string)
                .collect(),
            as_of_ms: answer.as_of_ms,
        }
    }
}

/// An event, as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct EngineEvent {
    /// Its place in the order of all events; what is acknowledged.
    pub position: i64,
    /// When it was committed, milliseconds since the epoch.
    pub at_ms: i64,
    /// What happened: `invoice.settled`.
    pub kind: String,
    /// The object it happened to.
    pub object_id: String,
    /// The object as it stood after it, as JSON.
    pub body_json: String,
}

impl From<events::Event> for EngineEvent {
    fn from(event: events::Event) -> Self {
        Self {
            position: event.position,
            at_ms: event.at_ms,
            kind: event.kind,
            object_id: event.object,
            body_json: event.body.to_string(),
        }
    }
}

/// Something that went wrong out of sight.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Problem {
    /// The stable code.
    pub code: String,
    /// For a person, in English.
    pub detail: String,
    /// True when it may pass by itself.
    pub retryable: bool,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            code: error.code().to_owned(),
            detail: error.detail(),
            retryable: error.is_retryable(),
        }
    }
}

/// A job that failed; it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct JobFailure {
    /// The job and its object.
    pub job: String,
    /// Why it failed.
    pub problem: Problem,
}

/// What came of the jobs that were due.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct JobsReport {
    /// How many were done.
    pub done: u64,
    /// Which failed.
    pub failed: Vec<JobFailure>,
}

impl From<JobsRun> for JobsReport {
    fn from(run: JobsRun) -> Self {
        let failed = run.failed.into_iter().map(|(job, error)| JobFailure {
            job,
            problem: error.into(),
        });
        Self {
            done: u64::try_from(run.done).unwrap_or(u64::MAX),
            failed: failed.collect(),
        }
    }
}
