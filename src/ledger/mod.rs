//! The double-entry ledger: accounts, transfers, and the batch that changes them.
//!
//! A decision is a [`Batch`]: everything that one command changes, with every guard that must
//! hold at the moment of the commit. [`apply`] is the only code that carries one out; a store
//! calls it on its own [`State`], inside one atomic commit.
//!
//! Balances are running totals. For every asset the debits of all accounts equal their credits,
//! because a transfer adds one amount to both sides and nothing else touches a balance.

mod account;
mod apply;
mod balance;
mod batch;
mod calendar;
mod changes;
mod chart_of_accounts;
mod journal;
mod journal_check;
mod json;
mod postings;
mod refusal;
mod state;
mod transfer;

pub use account::{Account, Owner, ParseAccountError};
pub use apply::{ApplyError, apply};
pub use balance::{Balance, MOST_DUE_RELEASES, Standing};
pub use batch::{
    Batch, CommandRecord, Commit, Document, DueJob, EventRecord, NewDocument, NewEvent, Step,
    UsageWindow,
};
pub use calendar::{CalendarError, CalendarPeriod, CalendarZone};
pub use changes::{Changes, Group, LastPositions};
pub use chart_of_accounts::{AccountKind, OwnerKind, Side};
pub use journal::{
    ChainHash, ChainHead, CommitDigest, CommitPlace, CommitRow, ParseChainHashError,
};
pub use journal_check::{JournalCheck, JournalProblem};
pub use json::Json;
pub use refusal::Refusal;
pub use state::{Rows, State};
pub use transfer::{
    HoldChange, HoldChangeRow, HoldState, NewHold, NewReversal, NewTransfer, Shortfall,
    TransferKind, TransferRow,
};
