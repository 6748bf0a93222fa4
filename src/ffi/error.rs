//! Errors as apps see them: a handful of kinds, each with the same fields.

use crate::Error;

/// What went wrong. The kind says what an app can do about it; `code` is stable and says exactly
/// what it was; `detail` is for people, in English; with `retryable` the same call, with the same
/// key, may succeed later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
#[uniffi::export(Display)]
pub enum FlashError {
    /// The request cannot be carried out as it is.
    #[error("{code}: {detail}")]
    InvalidInput {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
    /// What it names is not there.
    #[error("{code}: {detail}")]
    NotFound {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
    /// It was done already, or something else was done in its place.
    #[error("{code}: {detail}")]
    Conflict {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
    /// There is not enough money or there are not enough points.
    #[error("{code}: {detail}")]
    InsufficientFunds {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
    /// It is not allowed: by a credential, a card's state or a limit.
    #[error("{code}: {detail}")]
    Declined {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
    /// Something that is needed is not there now: the node, a rate, the engine itself.
    #[error("{code}: {detail}")]
    Unavailable {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
    /// The store failed or is not ours.
    #[error("{code}: {detail}")]
    Storage {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
    /// A bug, here or in the listener that was called.
    #[error("{code}: {detail}")]
    Internal {
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
        /// Whether it may succeed later.
        retryable: bool,
    },
}

/// The kinds of [`FlashError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    InvalidInput,
    NotFound,
    Conflict,
    InsufficientFunds,
    Declined,
    Unavailable,
    Storage,
    Internal,
}

/// Every code there is, and its kind. A code that is not here is a bug of ours.
const KINDS: &[(&str, Kind)] = &[
    ("access.not_allowed", Kind::Declined),
    ("access.other_network", Kind::Declined),
    ("access.other_secret", Kind::Declined),
    ("access.revoked", Kind::Declined),
    ("access.unknown", Kind::Declined),
    ("card.already_issued", Kind::Conflict),
    ("card.bad_uid", Kind::InvalidInput),
    ("card.frozen", Kind::Declined),
    ("card.insufficient_funds", Kind::InsufficientFunds),
    ("card.keys_withheld", Kind::Declined),
    ("card.limit_exceeded", Kind::Declined),
    ("card.not_active", Kind::Declined),
    ("card.not_found", Kind::NotFound),
    ("card.tap_malformed", Kind::InvalidInput),
    ("card.tap_not_ours", Kind::Declined),
    ("card.tap_replayed", Kind::Declined),
    ("card.tap_wrong_mac", Kind::Declined),
    ("card.unknown_time_zone", Kind::InvalidInput),
    ("command.bad_key", Kind::InvalidInput),
    ("command.contended", Kind::Unavailable),
    ("command.interrupted", Kind::Unavailable),
    ("command.key_reused", Kind::Conflict),
    ("command.out_of_bounds", Kind::InvalidInput),
    ("entropy.failed", Kind::Unavailable),
    ("input.bad_id", Kind::InvalidInput),
    ("input.bad_secret", Kind::InvalidInput),
    ("invoice.not_found", Kind::NotFound),
    ("ledger.accounts_do_not_fit", Kind::Internal),
    ("ledger.already_claimed", Kind::Conflict),
    ("ledger.ceiling_reached", Kind::Declined),
    ("ledger.conflict", Kind::Conflict),
    ("ledger.counter_not_advanced", Kind::Conflict),
    ("ledger.duplicate_id", Kind::Internal),
    ("ledger.hold_exceeded", Kind::Internal),
    ("ledger.hold_expired", Kind::Conflict),
    ("ledger.hold_not_open", Kind::Conflict),
    ("ledger.insufficient_funds", Kind::InsufficientFunds),
    ("ledger.key_reused", Kind::Conflict),
    ("ledger.not_positive", Kind::InvalidInput),
    ("ledger.outside_window", Kind::Conflict),
    ("ledger.overflow", Kind::Internal),
    ("ledger.usage_exceeded", Kind::Declined),
    ("lightning.bad_invoice", Kind::InvalidInput),
    ("lightning.no_node", Kind::Unavailable),
    ("lightning.not_running", Kind::Unavailable),
    ("lightning.refused", Kind::Declined),
    ("lightning.start_failed", Kind::Unavailable),
    ("lightning.unknown", Kind::Unavailable),
    ("lightning.wrong_network", Kind::InvalidInput),
    ("listener.failed", Kind::Internal),
    ("money.above_cap", Kind::InvalidInput),
    ("money.bad_number", Kind::InvalidInput),
    ("money.not_positive", Kind::InvalidInput),
    ("money.overflow", Kind::InvalidInput),
    ("money.unknown_asset", Kind::InvalidInput),
    ("money.unknown_currency", Kind::InvalidInput),
    ("rate.stale", Kind::Unavailable),
    ("rate.unavailable", Kind::Unavailable),
    ("rate.unknown_currency", Kind::Unavailable),
    ("reward.insufficient_points", Kind::InsufficientFunds),
    ("reward.merchant_has_program", Kind::Conflict),
    ("reward.program_not_found", Kind::NotFound),
    ("runtime.failed", Kind::Unavailable),
    ("settlement.insufficient_balance", Kind::InsufficientFunds),
    ("settlement.invoice_expired", Kind::InvalidInput),
    ("settlement.invoice_used", Kind::Conflict),
    ("settlement.merchant_not_found", Kind::NotFound),
    ("settlement.no_amount", Kind::InvalidInput),
    ("settlement.own_invoice", Kind::InvalidInput),
    ("settlement.payout_not_found", Kind::NotFound),
    ("settlement.till_not_found", Kind::NotFound),
    ("store.busy", Kind::Unavailable),
    ("store.closed", Kind::Unavailable),
    ("store.corrupt", Kind::Storage),
    ("store.fenced", Kind::Storage),
    ("store.full", Kind::Storage),
    ("store.in_use", Kind::Storage),
    ("store.io", Kind::Storage),
    ("store.newer_schema", Kind::Storage),
    ("store.outcome_unknown", Kind::Storage),
    ("store.read_only", Kind::Storage),
];

impl FlashError {
    /// The error of a code.
    pub(super) fn new(code: &str, detail: String, retryable: bool) -> Self {
        let known = KINDS.binary_search_by_key(&code, |(known, _)| known);
        let kind = known
            .ok()
            .and_then(|place| KINDS.get(place))
            .map(|(_, kind)| *kind);
        let code = code.to_owned();
        match kind.unwrap_or(Kind::Internal) {
            Kind::InvalidInput => Self::InvalidInput {
                code,
                detail,
                retryable,
            },
            Kind::NotFound => Self::NotFound {
                code,
                detail,
                retryable,
            },
            Kind::Conflict => Self::Conflict {
                code,
                detail,
                retryable,
            },
            Kind::InsufficientFunds => Self::InsufficientFunds {
                code,
                detail,
                retryable,
            },
            Kind::Declined => Self::Declined {
                code,
                detail,
                retryable,
            },
            Kind::Unavailable => Self::Unavailable {
                code,
                detail,
                retryable,
            },
            Kind::Storage => Self::Storage {
                code,
                detail,
                retryable,
            },
            Kind::Internal => Self::Internal {
                code,
                detail,
                retryable,
            },
        }
    }
}

impl<E: Into<Error>> From<E> for FlashError {
    fn from(error: E) -> Self {
        let error: Error = error.into();
        Self::new(error.code(), error.detail(), error.is_retryable())
    }
}

/// What a listener of the app's may throw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
pub enum ListenerError {
    /// The listener could not deal with the event: it gets it again.
    #[error("the listener failed: {detail}")]
    Failed {
        /// Why.
        detail: String,
    },
}

impl From<uniffi::UnexpectedUniFFICallbackError> for ListenerError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Failed {
            detail: error.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::KINDS;

    #[test]
    fn the_table_is_in_order_and_has_every_code() {
        assert!(KINDS.is_sorted_by(|left, right| left.0 < right.0));
        // Every code that an error enum of the crate can answer stands in its source.
        let sources = [
            include_str!("../access/error.rs"),
            include_str!("../cards/error.rs"),
            include_str!("../cards/boltcard.rs"),
            include_str!("../core/command.rs"),
            include_str!("../error.rs"),
            include_str!("../invoices/error.rs"),
            include_str!("../ledger/refusal.rs"),
            include_str!("../lightning/error.rs"),
            include_str!("../money/error.rs"),
            include_str!("../rates/error.rs"),
            include_str!("../rewards/error.rs"),
            include_str!("../settlement/error.rs"),
            include_str!("../store/error.rs"),
        ];
        let mut found = 0;
        for line in sources.iter().flat_map(|source| source.lines()) {
            let Some((_, code)) = line.split_once("=> \"") else {
                continue;
            };
            let Some((code, _)) = code.split_once('"') else {
                continue;
            };
            if code.contains('.') {
                found += 1;
                assert!(KINDS.iter().any(|(known, _)| *known == code), "{code}");
            }
        }
        assert!(found > 60, "only {found} codes were found");
    }
}
