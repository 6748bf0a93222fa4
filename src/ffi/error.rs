//! Errors as an app catches them: by kind, with a code.

use crate::Error;
use crate::ids::ParseIdError;
use crate::ledger::ParseAccountError;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// What went wrong. The kind says what an app can do about it; `code` is stable and says
        /// exactly what it was; `detail` is for people; `retryable` is true when the same call,
        /// **with the same key**, may succeed later.
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
        #[uniffi::export(Display)]
        pub enum FlashError {$(
            $(#[$doc])*
            #[error("{code}: {detail}")]
            $kind {
                /// Stable and dotted: `card.tap_replayed`.
                code: String,
                /// For a person, in English.
                detail: String,
                /// True when the same call with the same key may succeed later.
                retryable: bool,
            },
        )*}

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind { $($kind,)* }

        impl FlashError {
            pub(super) fn new(kind: Kind, code: &str, detail: String, retryable: bool) -> Self {
                let code = code.to_owned();
                match kind { $(Kind::$kind => Self::$kind { code, detail, retryable },)* }
            }

            /// The stable code.
            pub fn code(&self) -> &str {
                match self { $(Self::$kind { code, .. } => code,)* }
            }
        }
    };
}

kinds! {
    /// What was asked cannot be understood or is out of its bounds: a mistake of the caller.
    InvalidInput,
    /// There is no such thing.
    NotFound,
    /// It collides with what was done before: a key used for something else, a name taken.
    Conflict,
    /// The money or the points do not suffice.
    InsufficientFunds,
    /// A rule says no: a credential, a frozen card, a used tap, a limit.
    Declined,
    /// Something that is needed is not there now: the node, a rate, the engine itself.
    Unavailable,
    /// The file with the books cannot be used.
    Storage,
    /// A mistake of this library, or of a listener of the app.
    Internal,
}

/// Every code there is, and its kind. A code that is not here is `Internal`; a test finds it.
#[rustfmt::skip]
const CODES: &[(&str, Kind)] = &[
    ("access.wrong_host_key", Kind::Declined),
    ("access.seal_broken", Kind::Internal),
    ("access.not_sealed", Kind::Declined),
    ("access.not_allowed", Kind::Declined),
    ("access.other_network", Kind::Declined),
    ("access.other_secret", Kind::Declined),
    ("access.revoked", Kind::Declined),
    ("access.unknown", Kind::Declined),
    ("card.already_issued", Kind::Conflict),
    ("card.amount_not_within_bounds", Kind::InvalidInput),
    ("card.full", Kind::Declined),
    ("card.invoice_expired", Kind::Declined),
    ("card.invoice_used", Kind::Conflict),
    ("card.locks_too_long", Kind::Declined),
    ("card.no_amount", Kind::InvalidInput),
    ("card.other_amount", Kind::InvalidInput),
    ("card.own_invoice", Kind::Declined),
    ("card.other_unit", Kind::Declined),
    ("card.payee_not_known", Kind::Declined),
    ("card.route_not_covered", Kind::InsufficientFunds),
    ("card.payment_final", Kind::Conflict),
    ("card.payment_in_flight", Kind::Declined),
    ("card.payment_not_found", Kind::NotFound),
    ("card.too_many_in_flight", Kind::Declined),
    ("card.top_up_address_revoked", Kind::Declined),
    ("card.top_up_address_unknown", Kind::NotFound),
    ("card.authorization_expired", Kind::Declined),
    ("card.bad_card_number", Kind::InvalidInput),
    ("card.bad_pin", Kind::InvalidInput),
    ("card.bad_recovery_code", Kind::InvalidInput),
    ("card.bad_uid", Kind::InvalidInput),
    ("card.bearer", Kind::Declined),
    ("card.breakage_by_rule", Kind::Declined),
    ("card.capture_exceeds_hold", Kind::Declined),
    ("card.category_not_allowed", Kind::Declined),
    ("card.charge_not_captured", Kind::Conflict),
    ("card.charge_not_found", Kind::NotFound),
    ("card.charge_not_open", Kind::Conflict),
    ("card.charge_not_refundable", Kind::Declined),
    ("card.receipt_not_found", Kind::NotFound),
    ("card.code_locked", Kind::Declined),
    ("card.expired", Kind::Declined),
    ("card.family_full", Kind::Declined),
    ("card.family_of_family", Kind::Declined),
    ("card.frozen", Kind::Declined),
    ("card.has_family", Kind::Conflict),
    ("card.lost", Kind::Declined),
    ("card.not_blank", Kind::Conflict),
    ("card.not_virtual", Kind::Declined),
    ("card.replaced_too_often", Kind::Declined),
    ("card.too_many_wrong_codes", Kind::Declined),
    ("card.wrong_code", Kind::Declined),
    ("card.wrong_recovery_code", Kind::Declined),
    ("card.import_not_found", Kind::NotFound),
    ("card.insufficient_funds", Kind::InsufficientFunds),
    ("card.issuer_key_missing", Kind::Unavailable),
    ("card.keys_withheld", Kind::Declined),
    ("card.limit_exceeded", Kind::Declined),
    ("card.merchant_not_allowed", Kind::Declined),
    ("card.old_issuer_not_frozen", Kind::Declined),
    ("card.program_not_found", Kind::NotFound),
    ("card.program_unit_fixed", Kind::Conflict),
    ("card.too_many_bad_taps", Kind::Declined),
    ("card.too_many_taps", Kind::Declined),
    ("card.zone_changed_lately", Kind::Declined),
    ("card.no_host_key", Kind::Unavailable),
    ("card.not_active", Kind::Declined),
    ("card.not_found", Kind::NotFound),
    ("card.pin_locked", Kind::Declined),
    ("card.pin_not_set", Kind::Declined),
    ("card.pin_required", Kind::Declined),
    ("card.refund_exceeds_charge", Kind::Declined),
    ("card.refund_not_covered", Kind::InsufficientFunds),
    ("card.tap_malformed", Kind::InvalidInput),
    ("card.tap_not_ours", Kind::Declined),
    ("card.tap_replayed", Kind::Declined),
    ("card.tap_stale", Kind::Declined),
    ("card.tap_superseded", Kind::Declined),
    ("card.tap_wrong_mac", Kind::Declined),
    ("card.unit_mismatch", Kind::InvalidInput),
    ("card.unknown_time_zone", Kind::InvalidInput),
    ("card.wrong_pin", Kind::Declined),
    ("command.answer_forgotten", Kind::Conflict),
    ("command.bad_key", Kind::InvalidInput),
    ("command.contended", Kind::Unavailable),
    ("command.interrupted", Kind::Unavailable),
    ("command.key_reused", Kind::Conflict),
    ("command.no_executor", Kind::Internal),
    ("command.out_of_bounds", Kind::InvalidInput),
    ("entropy.failed", Kind::Unavailable),
    ("chain.dust", Kind::InvalidInput),
    ("invoice.lines_do_not_add_up", Kind::InvalidInput),
    ("invoice.capture_too_late", Kind::Conflict),
    ("invoice.not_authorized", Kind::Conflict),
    ("invoice.not_found", Kind::NotFound),
    ("invoice.not_payable", Kind::Declined),
    ("invoice.bad_address", Kind::InvalidInput),
    ("invoice.bad_description_hash", Kind::InvalidInput),
    ("invoice.not_markable", Kind::Conflict),
    ("invoice.not_processing", Kind::Conflict),
    ("invoice.wrong_network", Kind::InvalidInput),
    // The two sides are the engine's own choice, as are ids.
    ("ledger.accounts_do_not_fit", Kind::Internal),
    ("ledger.already_claimed", Kind::Conflict),
    ("ledger.ceiling_reached", Kind::Declined),
    ("ledger.conflict", Kind::Conflict),
    ("ledger.counter_not_advanced", Kind::Declined),
    ("ledger.duplicate_id", Kind::Internal),
    ("ledger.hold_exceeded", Kind::Conflict),
    ("ledger.hold_expired", Kind::Conflict),
    ("ledger.hold_not_open", Kind::Conflict),
    ("ledger.insufficient_funds", Kind::InsufficientFunds),
    ("ledger.key_reused", Kind::Conflict),
    ("ledger.not_positive", Kind::InvalidInput),
    ("ledger.outside_window", Kind::Conflict),
    ("ledger.out_of_bounds", Kind::Declined),
    ("ledger.overflow", Kind::InvalidInput),
    ("ledger.reversal_exceeded", Kind::Conflict),
    ("ledger.transfer_not_found", Kind::NotFound),
    ("ledger.usage_exceeded", Kind::Declined),
    ("lightning.bad_invoice", Kind::InvalidInput),
    ("lightning.displaced", Kind::Unavailable),
    ("lightning.held_elsewhere", Kind::Unavailable),
    ("lightning.no_node", Kind::Unavailable),
    ("lightning.not_running", Kind::Unavailable),
    ("lightning.no_inbound_capacity", Kind::Unavailable),
    ("lightning.no_liquidity_provider", Kind::Unavailable),
    ("lightning.refused", Kind::Declined),
    ("lightning.stale_state", Kind::Storage),
    ("lightning.start_failed", Kind::Unavailable),
    ("lightning.unknown", Kind::Unavailable),
    ("lightning.unsupported", Kind::Declined),
    ("lightning.draining", Kind::Unavailable),
    ("lightning.wrong_network", Kind::InvalidInput),
    ("money.above_cap", Kind::InvalidInput),
    ("money.bad_number", Kind::InvalidInput),
    ("money.not_positive", Kind::InvalidInput),
    ("money.overflow", Kind::InvalidInput),
    ("money.unknown_asset", Kind::InvalidInput),
    ("money.unknown_currency", Kind::InvalidInput),
    ("offline.bad_key", Kind::InvalidInput),
    ("offline.bad_signature", Kind::Declined),
    ("offline.card_takes_none", Kind::Declined),
    ("offline.chain_broken", Kind::Declined),
    ("offline.forked", Kind::Conflict),
    ("offline.key_retired", Kind::Declined),
    ("offline.key_taken", Kind::Conflict),
    ("offline.malformed", Kind::InvalidInput),
    ("offline.not_allowed", Kind::Declined),
    ("offline.over_day_limit", Kind::Declined),
    ("offline.over_tap_limit", Kind::Declined),
    ("offline.tap_twice", Kind::Conflict),
    ("offline.too_late", Kind::Declined),
    ("offline.too_many_keys", Kind::Declined),
    ("offline.unknown_key", Kind::Declined),
    ("rate.answer_too_large", Kind::Unavailable),
    ("rate.http_status", Kind::Unavailable),
    ("rate.inexact", Kind::Unavailable),
    ("rate.malformed_answer", Kind::Unavailable),
    ("rate.misconfigured", Kind::Unavailable),
    ("rate.no_quorum", Kind::Unavailable),
    ("rate.other_side", Kind::Unavailable),
    ("rate.position_cap_reached", Kind::Declined),
    ("rate.stale", Kind::Unavailable),
    ("rate.timed_out", Kind::Unavailable),
    ("rate.unavailable", Kind::Unavailable),
    ("rate.unknown_currency", Kind::Unavailable),
    ("rate.unknown_pair", Kind::Unavailable),
    ("checkout.address_closed", Kind::Declined),
    ("checkout.address_unknown", Kind::NotFound),
    ("checkout.amount_not_within_bounds", Kind::InvalidInput),
    ("checkout.bad_payer_data", Kind::InvalidInput),
    ("checkout.bad_style", Kind::InvalidInput),
    ("checkout.comment_too_long", Kind::InvalidInput),
    ("checkout.name_taken", Kind::Conflict),
    ("checkout.terms_changed", Kind::Conflict),
    ("checkout.too_many_requests", Kind::Unavailable),
    ("receipt.no_key", Kind::Internal),
    ("receipt.not_found", Kind::NotFound),
    ("receipt.not_in_chain", Kind::Declined),
    ("receipt.not_settled", Kind::Declined),
    ("receipt.unknown_time_zone", Kind::InvalidInput),
    ("report.bad_period", Kind::InvalidInput),
    ("report.bad_signature", Kind::Declined),
    ("reward.insufficient_points", Kind::InsufficientFunds),
    ("reward.merchant_has_program", Kind::Conflict),
    ("reward.program_not_found", Kind::NotFound),
    ("settlement.bad_category", Kind::InvalidInput),
    ("settlement.insufficient_balance", Kind::InsufficientFunds),
    ("settlement.invoice_expired", Kind::Declined),
    ("settlement.invoice_used", Kind::Conflict),
    ("settlement.locks_too_long", Kind::Declined),
    ("settlement.merchant_not_found", Kind::NotFound),
    ("settlement.no_amount", Kind::InvalidInput),
    ("settlement.own_invoice", Kind::Declined),
    ("settlement.payout_final", Kind::Conflict),
    ("settlement.payout_in_flight", Kind::Conflict),
    ("settlement.payout_not_found", Kind::NotFound),
    ("settlement.till_not_found", Kind::NotFound),
    ("store.busy", Kind::Unavailable),
    ("store.closed", Kind::Unavailable),
    ("store.corrupt", Kind::Storage),
    ("store.fenced", Kind::Unavailable),
    ("store.full", Kind::Storage),
    ("store.in_use", Kind::Unavailable),
    ("store.lease_held", Kind::Unavailable),
    ("store.lease_ran_out", Kind::Unavailable),
    ("store.io", Kind::Storage),
    ("store.locked", Kind::Storage),
    ("store.misconfigured", Kind::InvalidInput),
    ("store.moved", Kind::Storage),
    ("store.newer_schema", Kind::Storage),
    ("store.outcome_unknown", Kind::Unavailable),
    ("store.read_only", Kind::Storage),
    ("store.node_handed_over", Kind::Storage),
    ("store.handed_over", Kind::Storage),
    ("store.stale_node_state", Kind::Storage),
    ("treasury.suspense_assigned", Kind::Conflict),
    ("treasury.suspense_not_found", Kind::NotFound),
    ("chain.not_configured", Kind::Unavailable),
    ("chain.no_wallet", Kind::Declined),
    ("chain.unreachable", Kind::Unavailable),
    ("chain.bad_answer", Kind::Unavailable),
    ("chain.moved", Kind::Unavailable),
    ("chain.transaction_refused", Kind::Declined),
    ("chain.no_fee_rate", Kind::Unavailable),
    ("wallet.not_found", Kind::NotFound),
    ("wallet.exists", Kind::Conflict),
    ("wallet.private_key", Kind::InvalidInput),
    ("wallet.wrong_network", Kind::InvalidInput),
    ("wallet.bad_descriptor", Kind::InvalidInput),
    ("wallet.bad_address", Kind::InvalidInput),
    ("wallet.exhausted", Kind::Declined),
    ("wallet.addresses_used", Kind::Declined),
    ("wallet.insufficient_funds", Kind::InsufficientFunds),
    ("wallet.fee_too_high", Kind::Declined),
    ("wallet.spend_not_found", Kind::NotFound),
    ("wallet.spend_state", Kind::Conflict),
    ("wallet.fee_too_low", Kind::InvalidInput),
    ("wallet.bad_psbt", Kind::InvalidInput),
    ("wallet.foreign_psbt", Kind::InvalidInput),
    ("wallet.not_signed", Kind::InvalidInput),
    ("wallet.bad_label", Kind::InvalidInput),
    ("wallet.too_many_labels", Kind::Declined),
    ("wallet.own_address", Kind::InvalidInput),
    ("wallet.owed", Kind::Declined),
    ("wallet.books_differ", Kind::Declined),
    ("wallet.draining", Kind::Conflict),
    ("wallet.drain_not_found", Kind::NotFound),
];

fn listed(code: &str) -> Option<Kind> {
    let found = CODES.iter().find(|(known, _)| *known == code);
    found.map(|(_, kind)| *kind)
}

impl FlashError {
    /// The text names nothing of this kind, or a setting is of the wrong size.
    pub(super) fn invalid(code: &str, detail: String) -> Self {
        Self::new(Kind::InvalidInput, code, detail, false)
    }

    /// A mistake that is nobody's input.
    pub(super) fn internal(code: &str, detail: String) -> Self {
        Self::new(Kind::Internal, code, detail, false)
    }
}

impl From<Error> for FlashError {
    fn from(error: Error) -> Self {
        let kind = listed(error.code()).unwrap_or(Kind::Internal);
        Self::new(kind, error.code(), error.detail(), error.is_retryable())
    }
}

macro_rules! from_module_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for FlashError {
            fn from(error: $error) -> Self {
                Error::from(error).into()
            }
        }
    )*};
}

from_module_errors!(
    crate::CommandError,
    crate::access::AccessError,
    crate::cards::CardError,
    crate::chain::ChainError,
    crate::lightning::LightningError,
    crate::money::MoneyError,
    crate::store::StoreError
);

impl From<ParseIdError> for FlashError {
    fn from(error: ParseIdError) -> Self {
        Self::invalid("id.malformed", error.to_string())
    }
}

impl From<ParseAccountError> for FlashError {
    fn from(error: ParseAccountError) -> Self {
        Self::invalid("account.malformed", error.to_string())
    }
}

/// A listener of the app threw something that is no `FlashError`.
impl From<uniffi::UnexpectedUniFFICallbackError> for FlashError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::internal("ffi.callback", error.reason)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Wherever the crate gives a code.
    const SOURCES: &[&str] = &[
        include_str!("../error.rs"),
        include_str!("../access/error.rs"),
        include_str!("../cards/error.rs"),
        include_str!("../cards/boltcard.rs"),
        include_str!("../cards/life/error.rs"),
        include_str!("../cards/offline/error.rs"),
        include_str!("../cards/payment_error.rs"),
        include_str!("../chain/error.rs"),
        include_str!("../checkout/error.rs"),
        include_str!("../core/command.rs"),
        include_str!("../invoices/error.rs"),
        include_str!("../ledger/refusal.rs"),
        include_str!("../lightning/error.rs"),
        include_str!("../money/error.rs"),
        include_str!("../rates/error.rs"),
        include_str!("../receipts/error.rs"),
        include_str!("../reports/error.rs"),
        include_str!("../rewards/error.rs"),
        include_str!("../settlement/error.rs"),
        include_str!("../store/error.rs"),
        include_str!("../treasury/error.rs"),
        include_str!("../wallets/error.rs"),
    ];

    /// The codes in the arms of the crate's `code()` functions.
    fn given() -> BTreeSet<&'static str> {
        let arms = SOURCES
            .iter()
            .flat_map(|source| source.split("=> \"").skip(1));
        arms.filter_map(|rest| rest.split('"').next())
            .filter(|code| code.contains('.'))
            .collect()
    }

    #[test]
    fn every_code_has_a_kind_and_every_entry_a_code() {
        let listed: BTreeSet<_> = CODES.iter().map(|(code, _)| *code).collect();
        assert_eq!(listed.len(), CODES.len(), "a code stands twice");
        assert_eq!(listed, given());
        assert!(given().len() > 70, "the sources are not read");
    }

    #[test]
    fn fields_and_kind_cross() {
        let error: FlashError = crate::store::StoreError::Busy { waiting: 3 }.into();
        let expected = FlashError::Unavailable {
            code: "store.busy".to_owned(),
            detail: "3 changes are waiting to be written".to_owned(),
            retryable: true,
        };
        assert_eq!(error, expected);
        assert_eq!(
            error.to_string(),
            "store.busy: 3 changes are waiting to be written"
        );
    }
}
