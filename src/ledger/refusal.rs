//! Why a batch was not committed.

use super::account::Account;
use crate::ids::TransferId;

/// The first guard of a batch that did not hold. Nothing of the batch was done.
///
/// The list is closed and ordered: it is the first step that cannot be done, and of that step the
/// first guard in the order of [`ORDER`](Self::ORDER), on every store. `step` is the place of the
/// step in the batch, from zero; `account` the account the guard is about, where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The idempotency key was used for another request. `ledger.key_reused`.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// A document changed since it was read; decide again. `ledger.conflict`.
    #[error("{collection} {id} changed since it was read")]
    Conflict {
        /// The place of the step.
        step: usize,
        /// The collection.
        collection: &'static str,
        /// The document.
        id: String,
    },
    /// A transfer of zero or less. `ledger.not_positive`.
    #[error("an amount of {amount} cannot be moved")]
    NotPositive {
        /// The place of the step.
        step: usize,
        /// The account that was to be debited, where it is known.
        account: Option<Account>,
        /// What was asked.
        amount: i64,
    },
    /// The two accounts are one, or their assets differ. `ledger.accounts_do_not_fit`.
    #[error("{debit} and {credit} cannot stand in one transfer")]
    AccountsDoNotFit {
        /// The place of the step.
        step: usize,
        /// The account to debit.
        debit: Account,
        /// The account to credit.
        credit: Account,
    },
    /// The id stands in the books already. `ledger.duplicate_id`.
    #[error("{id} stands in the books already")]
    DuplicateId {
        /// The place of the step.
        step: usize,
        /// The account that was to be debited, where it is known.
        account: Option<Account>,
        /// The transfer or hold.
        id: TransferId,
    },
    /// The account would go below its floor. `ledger.insufficient_funds`.
    #[error("{account} has {available} to spend, {needed} is needed")]
    InsufficientFunds {
        /// The place of the step.
        step: usize,
        /// The account.
        account: Account,
        /// What it can spend, holds counted.
        available: i64,
        /// What was asked.
        needed: i64,
    },
    /// The account would go above its ceiling. `ledger.ceiling_reached`.
    #[error("{account} may come to {ceiling} at most")]
    CeilingReached {
        /// The place of the step.
        step: usize,
        /// The account.
        account: Account,
        /// The most it may come to.
        ceiling: i64,
    },
    /// The account would stand where it must not. `ledger.out_of_bounds`.
    #[error("{account} would not stand between {lowest:?} and {highest:?}")]
    OutOfBounds {
        /// The place of the step.
        step: usize,
        /// The account.
        account: Account,
        /// What it must keep.
        lowest: Option<i64>,
        /// What it may come to.
        highest: Option<i64>,
    },
    /// A total would leave the range of an amount. `ledger.overflow`.
    #[error("{account} would overflow")]
    Overflow {
        /// The place of the step.
        step: usize,
        /// The account.
        account: Account,
    },
    /// No such hold, or it was captured or released. `ledger.hold_not_open`.
    #[error("the hold {id} is not open")]
    HoldNotOpen {
        /// The place of the step.
        step: usize,
        /// The account that the hold debits, where there is one.
        account: Option<Account>,
        /// The hold.
        id: TransferId,
    },
    /// There is no such transfer to undo. `ledger.transfer_not_found`.
    #[error("there is no transfer {id}")]
    TransferNotFound {
        /// The place of the step.
        step: usize,
        /// The transfer.
        id: TransferId,
    },
    /// More than what of the transfer still stands. `ledger.reversal_exceeded`.
    #[error("of {id} {standing} still stands, {asked} was to be undone")]
    ReversalExceeded {
        /// The place of the step.
        step: usize,
        /// The account that would give it back.
        account: Account,
        /// The transfer to be undone.
        id: TransferId,
        /// What was not undone yet.
        standing: i64,
        /// What was asked.
        asked: i64,
    },
    /// The hold ended before this commit. `ledger.hold_expired`.
    #[error("the hold {id} ended at {expired_at_ms}")]
    HoldExpired {
        /// The place of the step.
        step: usize,
        /// The account that the hold debits.
        account: Account,
        /// The hold.
        id: TransferId,
        /// When it ended.
        expired_at_ms: i64,
    },
    /// More than what is left of the hold. `ledger.hold_exceeded`.
    #[error("the hold {id} has {remaining} left, {asked} was asked")]
    HoldExceeded {
        /// The place of the step.
        step: usize,
        /// The account that the hold debits.
        account: Account,
        /// The hold.
        id: TransferId,
        /// What is left of it.
        remaining: i64,
        /// What was asked.
        asked: i64,
    },
    /// The name is taken, for ever. `ledger.already_claimed`.
    #[error("{name} was claimed by {by}")]
    AlreadyClaimed {
        /// The place of the step.
        step: usize,
        /// The name.
        name: String,
        /// Whoever has it.
        by: String,
    },
    /// The counter is not above the last one. `ledger.counter_not_advanced`.
    #[error("the counter {counter} stands at {current}, {given} is not above it")]
    CounterNotAdvanced {
        /// The place of the step.
        step: usize,
        /// The counter.
        counter: String,
        /// Where it stands.
        current: i64,
        /// What was given.
        given: i64,
    },
    /// A limit within a window of time is used up. `ledger.usage_exceeded`.
    #[error("{subject}: {used} of {limit} is used, {asked} more was asked")]
    UsageExceeded {
        /// The place of the step.
        step: usize,
        /// What is limited.
        subject: String,
        /// The limit.
        limit: i64,
        /// What was used before.
        used: i64,
        /// What was asked.
        asked: i64,
    },
    /// The commit fell outside the window it was decided for; decide again.
    /// `ledger.outside_window`.
    #[error("{subject}: {at_ms} is not within the window")]
    OutsideWindow {
        /// The place of the step.
        step: usize,
        /// What is limited.
        subject: String,
        /// When the commit would have been.
        at_ms: i64,
    },
}

impl Refusal {
    /// The stable code of this refusal.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyReused => "ledger.key_reused",
            Self::Conflict { .. } => "ledger.conflict",
            Self::NotPositive { .. } => "ledger.not_positive",
            Self::AccountsDoNotFit { .. } => "ledger.accounts_do_not_fit",
            Self::DuplicateId { .. } => "ledger.duplicate_id",
            Self::InsufficientFunds { .. } => "ledger.insufficient_funds",
            Self::CeilingReached { .. } => "ledger.ceiling_reached",
            Self::OutOfBounds { .. } => "ledger.out_of_bounds",
            Self::Overflow { .. } => "ledger.overflow",
            Self::HoldNotOpen { .. } => "ledger.hold_not_open",
            Self::TransferNotFound { .. } => "ledger.transfer_not_found",
            Self::ReversalExceeded { .. } => "ledger.reversal_exceeded",
            Self::HoldExpired { .. } => "ledger.hold_expired",
            Self::HoldExceeded { .. } => "ledger.hold_exceeded",
            Self::AlreadyClaimed { .. } => "ledger.already_claimed",
            Self::CounterNotAdvanced { .. } => "ledger.counter_not_advanced",
            Self::UsageExceeded { .. } => "ledger.usage_exceeded",
            Self::OutsideWindow { .. } => "ledger.outside_window",
        }
    }

    /// The codes in the order in which guards are looked at: of the batch first, then of each
    /// step in turn.
    pub const ORDER: &'static [&'static str] = &[
        "ledger.key_reused",
        "ledger.not_positive",
        "ledger.accounts_do_not_fit",
        "ledger.duplicate_id",
        "ledger.transfer_not_found",
        "ledger.reversal_exceeded",
        "ledger.hold_not_open",
        "ledger.hold_expired",
        "ledger.hold_exceeded",
        "ledger.insufficient_funds",
        "ledger.ceiling_reached",
        "ledger.overflow",
        "ledger.out_of_bounds",
        "ledger.conflict",
        "ledger.already_claimed",
        "ledger.counter_not_advanced",
        "ledger.outside_window",
        "ledger.usage_exceeded",
    ];

    /// The place of the step that cannot be done; `None` where it is the whole batch.
    pub fn step(&self) -> Option<usize> {
        match self {
            Self::KeyReused => None,
            Self::Conflict { step, .. }
            | Self::NotPositive { step, .. }
            | Self::AccountsDoNotFit { step, .. }
            | Self::DuplicateId { step, .. }
            | Self::InsufficientFunds { step, .. }
            | Self::CeilingReached { step, .. }
            | Self::OutOfBounds { step, .. }
            | Self::Overflow { step, .. }
            | Self::HoldNotOpen { step, .. }
            | Self::TransferNotFound { step, .. }
            | Self::ReversalExceeded { step, .. }
            | Self::HoldExpired { step, .. }
            | Self::HoldExceeded { step, .. }
            | Self::AlreadyClaimed { step, .. }
            | Self::CounterNotAdvanced { step, .. }
            | Self::UsageExceeded { step, .. }
            | Self::OutsideWindow { step, .. } => Some(*step),
        }
    }

    /// The account that the guard is about; where two do not fit, the one to be debited. `None`
    /// where it is about none, or none is known.
    pub fn account(&self) -> Option<Account> {
        match self {
            Self::NotPositive { account, .. }
            | Self::DuplicateId { account, .. }
            | Self::HoldNotOpen { account, .. } => *account,
            Self::AccountsDoNotFit { debit, .. } => Some(*debit),
            Self::InsufficientFunds { account, .. }
            | Self::CeilingReached { account, .. }
            | Self::OutOfBounds { account, .. }
            | Self::Overflow { account, .. }
            | Self::ReversalExceeded { account, .. }
            | Self::HoldExpired { account, .. }
            | Self::HoldExceeded { account, .. } => Some(*account),
            Self::KeyReused
            | Self::Conflict { .. }
            | Self::TransferNotFound { .. }
            | Self::AlreadyClaimed { .. }
            | Self::CounterNotAdvanced { .. }
            | Self::UsageExceeded { .. }
            | Self::OutsideWindow { .. } => None,
        }
    }

    /// True when what was read has changed and the same command should be decided again.
    pub fn should_decide_again(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::OutsideWindow { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal that has no place in the order fails to compile in [`Refusal::code`]; one that is
    /// not in the list fails here.
    #[test]
    fn every_code_has_one_place_in_the_order() {
        let source = include_str!("refusal.rs");
        let codes = source.split("=> \"ledger.").skip(1);
        let mut seen = 0;
        for code in codes {
            let code = code.split('"').next().unwrap_or_default();
            let code = format!("ledger.{code}");
            let places = Refusal::ORDER.iter().filter(|other| **other == code);
            assert_eq!(places.count(), 1, "{code}");
            seen += 1;
        }
        assert_eq!(seen, Refusal::ORDER.len());
    }
}
