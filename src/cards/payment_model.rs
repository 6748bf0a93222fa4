//! The records of a BOLT11 that is paid with the money of a card.

use serde::{Deserialize, Serialize};

use super::pin::Pin;
use super::programs::FeeBearer;
use crate::core::IdempotencyKey;
use crate::exchange::DriftBearer;
use crate::ids::{CardId, CardPaymentId, CredentialId, InvoiceId, MerchantId, ProgramId};
use crate::ledger::{Account, UsageWindow};
use crate::lightning::PaymentHash;
use crate::money::{Currency, Quote};
use crate::payments::{Attempts, Holds};
use crate::rewards::RewardPosting;
use crate::settlement::PaidByBook;

/// Pays a BOLT11 with a tapped card.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayWithCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What the chip gave: its whole URL.
    pub tap: String,
    /// What is to be paid, with an amount in it.
    pub bolt11: String,
    /// The card's PIN, where the amount needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

impl std::fmt::Debug for PayWithCard {
    // A tap that was not used yet can be: it does not belong in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PayWithCard")
            .field("key", &self.key)
            .field("bolt11", &self.bolt11)
            .finish_non_exhaustive()
    }
}

/// Sends what is on a card to its holder's own wallet. As JSON no field of another name is read over:
/// without an amount it is all that the card has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawFromCard {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
    /// An invoice of the holder's wallet.
    pub bolt11: String,
    /// How much, to an invoice without an amount in it; `None` is all that the card has, less
    /// what the route may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_msat: Option<i64>,
}

/// What can be withdrawn from a card now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawalQuote {
    /// The card.
    pub card: CardId,
    /// The most that an invoice may ask for: whole sats.
    pub amount_msat: i64,
    /// What is set aside for the route beside it; what the route does not cost comes back.
    pub max_route_fee_msat: i64,
}

/// Says what became of a payment that the node cannot tell about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveCardPayment {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The payment.
    pub payment: CardPaymentId,
    /// What became of it.
    pub outcome: CardPaymentOutcome,
    /// How that is known, for whoever reads the books; at most 200 characters.
    pub reason: String,
    /// Says `failed` although the node's own record says that it is on its way or arrived: only
    /// for a record that is known to be wrong.
    pub despite_record: bool,
}

impl ResolveCardPayment {
    /// True when what is said must not contradict the node's record.
    pub(super) fn asks_the_node(&self) -> bool {
        self.outcome == CardPaymentOutcome::Failed && !self.despite_record
    }
}

/// What became of a payment, as a person says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CardPaymentOutcome {
    /// It arrived.
    Succeeded {
        /// What the route cost, where that is known.
        route_fee_msat: Option<i64>,
    },
    /// It never left, or came back.
    Failed,
}

/// How a payment of a card stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardPaymentState {
    /// Its money is on hold and the node has been asked, or is about to be.
    Sending,
    /// Whether it was sent is not known. The money stays on hold and the node is asked again:
    /// whoever reads this as failed pays twice.
    Unknown,
    /// It arrived.
    Succeeded,
    /// It failed for good: nothing is in flight and the money is on the card again.
    Failed,
}

impl CardPaymentState {
    /// True when nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A BOLT11 that is paid with the money of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardPayment {
    /// Its id.
    pub id: CardPaymentId,
    /// The card.
    pub card: CardId,
    /// Whose till tapped it, or whose sale of this engine it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// The credential that asked; `None` of a tap that came alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<CredentialId>,
    /// What is sent.
    pub amount_msat: i64,
    /// What the route may cost.
    pub max_route_fee_msat: i64,
    /// What the route cost, once it succeeded and the node knows it.
    pub route_fee_msat: Option<i64>,
    /// Who bears what the route costs.
    pub fee_bearer: FeeBearer,
    /// What the payment is known by in both nodes.
    pub payment_hash: PaymentHash,
    /// The invoice that is paid.
    pub bolt11: String,
    /// How it stands.
    pub state: CardPaymentState,
    /// Why it failed, or what is not known, as the node said it.
    pub reason: Option<String>,
    /// When it was asked for, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// Of a card in a currency: what it pays in that, and at which rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<PaymentConversion>,
    /// For an invoice of this engine: it was paid in the books, at no fee, and nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_book: Option<PaidByBook>,
    /// The points program, where the merchant has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramId>,
    /// The points that the card got when it succeeded.
    #[serde(default)]
    pub points: i64,
    /// The points that its merchant would have given, and had no money here to back: one whose
    /// takings are elsewhere keeps some here, to give points of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub points_not_given: i64,
    /// What of the points went back, or is on its way back, with refunds of the sale.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub points_taken_back: i64,
    /// The hold invoice of this engine that its money is set aside for, in the books.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<InvoiceId>,
    /// What in the books is behind it.
    pub(crate) posting: CardPaymentPosting,
}

/// What a card in a currency pays for a BOLT11: the operator's bitcoin is what leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentConversion {
    /// In which currency.
    pub currency: Currency,
    /// What the card pays, in the currency's minor unit. While the payment is on its way, what all
    /// that its route may cost comes to at `quote`.
    pub amount: i64,
    /// The most that it can come to: this is set aside while the payment is on its way.
    pub set_aside: i64,
    /// Who bears what the rate moves until the payment arrives. Whoever is paid gets what the
    /// invoice says, so that it is the card or the operator.
    pub drift: DriftBearer,
    /// The rate when it was asked for.
    pub quote: Quote,
    /// The rate when it arrived, where the card bears the drift and there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_quote: Option<Quote>,
}

/// What in the books is behind a payment of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CardPaymentPosting {
    /// Whose balance it is: a family's cards have one.
    pub(crate) payer: Account,
    pub(crate) holds: Holds,
    pub(crate) attempts: Attempts,
    /// Where it was counted as used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) usage: Vec<UsageWindow>,
    /// Where it is counted while it is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_flight: Option<UsageWindow>,
    /// For how many blocks its route may lock the money up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_lock_blocks: Option<u32>,
    /// The merchant that bears its route had too little here, and owes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) route_is_owed: bool,
    /// The points that it earned, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<RewardPosting>,
}

fn is_zero(points: &i64) -> bool {
    *points == 0
}
