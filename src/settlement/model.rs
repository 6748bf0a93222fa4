//! The records of merchants and payouts.

use serde::{Deserialize, Serialize};

use super::MerchantCategory;
use crate::access::Credential;
use crate::core::IdempotencyKey;
use crate::ids::{CredentialId, InvoiceId, MerchantId, PayoutId, ProgramId};
use crate::lightning::PaymentHash;
use crate::payments::{Attempts, Holds};

/// What a payout costs the merchant, and what its route may cost the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutTerms {
    /// The fixed part of the operator's fee.
    pub fee_base_msat: i64,
    /// The proportional part, in hundredths of a percent of what is paid out; 0 to 10,000.
    pub fee_bps: u32,
    /// The fixed part of what the route may cost. The operator pays the route out of its fee.
    pub route_base_msat: i64,
    /// The proportional part, in hundredths of a percent; 0 to 10,000.
    pub route_bps: u32,
    /// What the operator keeps of a sale that is paid straight to a wallet of the merchant's own,
    /// in hundredths of a percent; 0 to 10,000. It never has that money: the merchant owes it, and
    /// it is taken out of what comes in for the merchant. Where it is left out, as much as the
    /// proportional part of a payout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_wallet_bps: Option<u32>,
}

impl PayoutTerms {
    /// What the operator keeps of a sale that is paid straight to a wallet of the merchant's own.
    pub fn own_wallet_bps(&self) -> u32 {
        self.own_wallet_bps.unwrap_or(self.fee_bps)
    }
}

impl Default for PayoutTerms {
    /// 1 % for the operator; at most 0.5 % and 10 sat for the route.
    fn default() -> Self {
        Self {
            fee_base_msat: 0,
            fee_bps: 100,
            route_base_msat: 10_000,
            route_bps: 50,
            own_wallet_bps: None,
        }
    }
}

/// Takes a merchant in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateMerchant {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// What its payouts cost.
    pub terms: PayoutTerms,
    /// What kind of shop it is, for cards that pay only in some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<MerchantCategory>,
}

/// Says what kind of shop a merchant is from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMerchantCategory {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The merchant.
    pub merchant: MerchantId,
    /// What kind of shop it is; `None` for none that is named.
    pub category: Option<MerchantCategory>,
}

/// A merchant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merchant {
    /// Its id.
    pub id: MerchantId,
    /// What people call it.
    pub name: String,
    /// What its payouts cost.
    pub terms: PayoutTerms,
    /// Its points program, if it has one.
    pub program: Option<ProgramId>,
    /// What kind of shop it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<MerchantCategory>,
    /// When it was taken in, milliseconds since the epoch.
    pub created_at_ms: i64,
}

/// Gives a till its credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTill {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The merchant it sells for.
    pub merchant: MerchantId,
    /// Which till it is; at most 100 characters.
    pub label: String,
}

/// Takes a till's credential away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeTill {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The till.
    pub till: CredentialId,
}

/// A till, without its credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Till {
    /// The id of its credential.
    pub id: CredentialId,
    /// The merchant it sells for.
    pub merchant: MerchantId,
    /// Which till it is.
    pub label: String,
    /// True once its credential was taken away.
    pub revoked: bool,
}

/// A till that was paired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairedTill {
    /// The till.
    pub till: Till,
    /// Its credential, to be kept on the till.
    pub credential: Credential,
}

/// What a merchant is owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerchantBalance {
    /// The merchant.
    pub merchant: MerchantId,
    /// What can be paid out.
    pub available_msat: i64,
    /// What is owed, payouts on their way included.
    pub owed_msat: i64,
    /// Sales that are being taken.
    pub pending_msat: i64,
    /// What the merchant owes the operator: it is taken out of what comes in next.
    #[serde(default)]
    pub receivable_msat: i64,
}

/// What a payout of everything comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutQuote {
    /// The merchant.
    pub merchant: MerchantId,
    /// What the merchant's own node should ask for, in its invoice.
    pub amount_msat: i64,
    /// What the operator keeps.
    pub fee_msat: i64,
}

/// Pays a merchant out to its own node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestPayout {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The merchant.
    pub merchant: MerchantId,
    /// An invoice of the merchant's own node, with an amount in it.
    pub bolt11: String,
}

/// Says what became of a payout that the node cannot tell about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvePayout {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The payout.
    pub payout: PayoutId,
    /// What became of it.
    pub outcome: PayoutOutcome,
    /// How that is known, for whoever reads the books; at most 200 characters.
    pub reason: String,
    /// Says `failed` although the node's own record says that it is on its way or arrived: only
    /// for a record that is known to be wrong.
    pub despite_record: bool,
}

impl ResolvePayout {
    /// True when what is said must not contradict the node's record.
    pub(super) fn asks_the_node(&self) -> bool {
        self.outcome == PayoutOutcome::Failed && !self.despite_record
    }
}

/// What became of a payout, as a person says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PayoutOutcome {
    /// The merchant has it.
    PaidOut {
        /// What the route cost, where that is known.
        route_fee_msat: Option<i64>,
    },
    /// It never left, or came back.
    Failed,
}

/// How a payout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayoutState {
    /// Its money is on hold and the node has been asked, or is about to be.
    Sending,
    /// Whether it was sent is not known. The money stays on hold and the node is asked again.
    Unknown,
    /// The merchant has it.
    PaidOut,
    /// It failed for good: nothing is in flight and the money is the merchant's again.
    Failed,
}

impl PayoutState {
    /// True when nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::PaidOut | Self::Failed)
    }
}

/// A payout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// Its id.
    pub id: PayoutId,
    /// The merchant.
    pub merchant: MerchantId,
    /// What is sent.
    pub amount_msat: i64,
    /// What the operator keeps.
    pub fee_msat: i64,
    /// What the route may cost.
    pub max_route_fee_msat: i64,
    /// What the route cost, once it was paid out and the node knows it.
    pub route_fee_msat: Option<i64>,
    /// What the payment is known by in both nodes.
    pub payment_hash: PaymentHash,
    /// The invoice that is paid.
    pub bolt11: String,
    /// How it stands.
    pub state: PayoutState,
    /// Why it failed, or what is not known, as the node said it.
    pub reason: Option<String>,
    /// When it was asked for, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// For an invoice of this engine: it was paid in the books, at no fee, and nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_book: Option<PaidByBook>,
    /// The hold invoice of this engine that its money is set aside for, in the books.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<InvoiceId>,
    /// Its holds: what is sent, the operator's fee, the route.
    pub(crate) holds: Holds,
    /// How often the node was asked to send it.
    pub(crate) attempts: Attempts,
    /// For how many blocks its money may be locked up; `None` for one of before there was a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_lock_blocks: Option<u32>,
}

/// An invoice of this engine that was paid from an account of this engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaidByBook {
    /// The invoice.
    pub invoice: InvoiceId,
    /// What proves that it was paid: 64 hex digits.
    pub preimage: String,
}
