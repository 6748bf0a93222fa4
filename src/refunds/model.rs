//! The records of refunds.

use serde::{Deserialize, Serialize};

use crate::core::IdempotencyKey;
use crate::ids::{CardId, InvoiceId, RefundId, SpendId, TransferId};
use crate::invoices::InvoicePurpose;
use crate::ledger::Account;
use crate::lightning::PaymentHash;
use crate::money::{Currency, Quote};
use crate::payments::{Attempts, Holds};
use crate::rewards::PointsBack;
use crate::settlement::PaidByBook;

/// Whereto money is paid back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RefundTo {
    /// A BOLT11: for exactly what the refund comes to, or without an amount. One of this engine is
    /// paid in the books.
    Bolt11 {
        /// The text.
        bolt11: String,
    },
    /// A Lightning address (LUD-16). The library asks nobody: the refund says what address is to
    /// be fetched, and takes the answer by [`Refunds::answer`](super::Refunds::answer).
    LightningAddress {
        /// `name@host`.
        address: String,
    },
    /// An address on chain, from the operator's newest wallet: in whole sats. The node's wallet
    /// signs by itself; of any other the spend waits for its signers.
    OnChain {
        /// The address.
        address: String,
        /// The fee, in satoshis for 1,000 virtual bytes; what the chain's server says for the next
        /// hour where it is left out. Above what it says for the next two blocks it is the issuer's
        /// to say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fee_sat_per_kvb: Option<u64>,
    },
    /// A card of this engine. On one in a currency goes what was asked for in that currency, or else
    /// what the bitcoin comes to: at the rate at which the card had paid where its program has it
    /// so and nobody else paid, at the rate of now otherwise.
    Card {
        /// The card.
        card: CardId,
    },
}

/// How much is paid back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RefundAmount {
    /// All of the bitcoin that came and was not paid back: the rate then.
    Everything,
    /// What was paid beyond what was due, and was not paid back.
    Surplus,
    /// So much of the bitcoin that came.
    Bitcoin {
        /// How much.
        amount_msat: i64,
    },
    /// So much of the price, at the rate that the invoice was made at.
    RateThen {
        /// In the minor unit of the price's currency.
        minor_units: i64,
    },
    /// So much of the price, at the rate of now.
    RateNow {
        /// In the minor unit of the price's currency; all of what was not paid back where it is
        /// left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minor_units: Option<i64>,
    },
    /// An amount in any currency, at the rate of now.
    Fiat {
        /// The currency.
        currency: Currency,
        /// How much, in its minor unit.
        minor_units: i64,
    },
}

/// Who bears what it costs to pay back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundFeeBearer {
    /// Whoever the invoice is of: the fee is set aside beside the amount.
    #[default]
    Merchant,
    /// Whoever is paid back: the most that it may cost is taken from the amount.
    Customer,
    /// The operator, which the issuer alone can say.
    Operator,
}

impl RefundFeeBearer {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Pays an invoice back, in whole or in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRefund {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The invoice.
    pub invoice: InvoiceId,
    /// Whereto.
    pub to: RefundTo,
    /// How much.
    pub amount: RefundAmount,
    /// Who bears what it costs.
    #[serde(default, skip_serializing_if = "RefundFeeBearer::is_default")]
    pub fee_bearer: RefundFeeBearer,
    /// Why, for whoever reads the books; at most 200 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What the host fetched from the address that a refund asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRefund {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The refund.
    pub refund: RefundId,
    /// The address that was asked, as [`Refund::ask`] had it.
    pub asked: String,
    /// What it answered, whole: at most 65,536 bytes of JSON.
    pub body: String,
}

/// Gives up a refund to a Lightning address that was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRefund {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The refund.
    pub refund: RefundId,
}

/// Says what became of a refund that the node cannot tell about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveRefund {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The refund.
    pub refund: RefundId,
    /// What became of it.
    pub outcome: RefundOutcome,
    /// How that is known, for whoever reads the books; at most 200 characters.
    pub reason: String,
    /// Says `failed` although the node's own record says that it is on its way or arrived: only
    /// for a record that is known to be wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub despite_record: bool,
}

impl ResolveRefund {
    /// True when what is said must not contradict the node's record.
    pub(super) fn asks_the_node(&self) -> bool {
        self.outcome == RefundOutcome::Failed && !self.despite_record
    }
}

/// What became of a refund, as a person says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RefundOutcome {
    /// It arrived.
    Succeeded {
        /// What the route cost, where that is known.
        fee_msat: Option<i64>,
    },
    /// It never left, or came back.
    Failed,
}

/// How a refund stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// The host is to fetch what [`Refund::ask`] says. It counts against what may be paid back,
    /// and no money is set aside yet. That has no end of its own: while nobody answers, nothing else
    /// can be paid back in its place, and the surplus that it is to take does not count for a price
    /// that vanishes, until a person [cancels](super::Refunds::cancel) it.
    Resolving,
    /// Its money is on hold, and it is on its way or about to be.
    Sending,
    /// Whether it was sent is not known. The money stays on hold and the node is asked again.
    Unknown,
    /// It arrived.
    Succeeded,
    /// It failed for good: nothing is in flight, and the money is its payer's again.
    Failed,
    /// Given up before it was sent.
    Cancelled,
}

impl RefundState {
    /// True when nothing will change any more, but by the chain: a refund on chain is on its way
    /// again when its block is gone, and one that was given up has arrived when a block has it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// A refund of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Its id.
    pub id: RefundId,
    /// The invoice that is paid back.
    pub invoice: InvoiceId,
    /// What the invoice is for, and so whose money it is.
    pub purpose: InvoicePurpose,
    /// Whereto.
    pub to: RefundTo,
    /// How much was asked for.
    pub asked: RefundAmount,
    /// What is paid back of the bitcoin that came.
    pub amount_msat: i64,
    /// What arrives: the amount, less what the customer bears of the fee and what is withheld.
    pub sent_msat: i64,
    /// What of the invoice is paid back by it, at the rate then. The two differ where the rate of
    /// now was asked for.
    pub covers_msat: i64,
    /// The rate of now, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
    /// Who bears what it costs.
    pub fee_bearer: RefundFeeBearer,
    /// The most that it may cost.
    pub max_fee_msat: i64,
    /// What it cost, once it succeeded and the node knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_msat: Option<i64>,
    /// What the payment is known by in both nodes, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_hash: Option<PaymentHash>,
    /// The BOLT11 that is paid; empty where there is none, or none yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bolt11: String,
    /// What the host is to fetch, by GET, and answer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
    /// How it stands.
    pub state: RefundState,
    /// Why it was asked for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why it failed, or what is not known, as the node or a person said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it was asked for, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// For a BOLT11 of this engine: it was paid in the books, and nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_book: Option<PaidByBook>,
    /// The hold invoice of this engine that its money is set aside for, in the books.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<InvoiceId>,
    /// The spend of a wallet that it goes by, on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<SpendId>,
    /// What it put on a card whose unit is a currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_card: Option<RefundOnCard>,
    /// What it takes off the card that the invoice was for, where that card's unit is a currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_card: Option<RefundOffCard>,
    /// The points of the sale that go back with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<PointsBack>,
    /// What of the amount is not sent, since the card has had it as points already.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub withheld_msat: i64,
    /// What in the books is behind it.
    pub(crate) posting: RefundPosting,
}

/// What a refund put on a card whose unit is a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundOnCard {
    /// Which currency.
    pub currency: Currency,
    /// How much, in its minor unit.
    pub amount: i64,
    /// The rate: that of now, or that at which the card had paid.
    pub quote: Quote,
}

/// What a refund takes off a card whose unit is a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundOffCard {
    /// Which currency.
    pub currency: Currency,
    /// What all of the refund's amount is in its minor unit: the rate of what is taken.
    pub whole: i64,
    /// What is taken, in its minor unit: with the part of the fee that the card bears, and before
    /// the refund has ended the most that it may be. Zero before anything is set aside.
    pub amount: i64,
    /// The card's account.
    pub(crate) account: Account,
}

/// What in the books is behind a refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefundPosting {
    /// Where the money comes from.
    pub(crate) payer: Account,
    pub(crate) holds: Holds,
    pub(crate) attempts: Attempts,
    /// The transfer of one that stayed in the books.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transfer: Option<TransferId>,
    /// What of it was to count towards the price of an invoice that was not settled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) uncounted_msat: i64,
    /// What of it is taken from what waits in suspense.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) from_suspense_msat: i64,
    /// What of that is still to be taken, while it waits for its Lightning address.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) to_take_msat: i64,
    /// The items in suspense of which it has taken something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) suspense: Vec<TransferId>,
    /// What stands in the books of one while a block has its transaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) booked: Vec<ChainEntry>,
    /// What its payer owes since a block had it after it had failed, and goes on owing while the
    /// chain takes it away: netted against what comes back should it fail again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) owed_msat: i64,
    /// What was booked of the points that went back with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) points_booked: Vec<ChainEntry>,
    /// For how many blocks its money may be locked up; `None` for one of before there was a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_lock_blocks: Option<u32>,
}

/// A transfer that is undone where the chain takes away what it was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainEntry {
    pub(crate) id: TransferId,
    /// In the unit of what it moved.
    pub(crate) amount: i64,
}

impl RefundPosting {
    /// Of one that was not sent.
    pub(super) fn new(payer: Account, holds: Holds) -> Self {
        Self {
            payer,
            holds,
            attempts: Attempts::default(),
            transfer: None,
            uncounted_msat: 0,
            from_suspense_msat: 0,
            to_take_msat: 0,
            suspense: Vec::new(),
            booked: Vec::new(),
            owed_msat: 0,
            points_booked: Vec::new(),
            max_lock_blocks: None,
        }
    }
}

/// What a refund would come to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundQuote {
    /// The invoice.
    pub invoice: InvoiceId,
    /// What was paid, as far as it can be paid back.
    pub received_msat: i64,
    /// What of it was paid back, or is on its way.
    pub refunded_msat: i64,
    /// What of it was paid back, or is on its way, at the rate then.
    pub covered_msat: i64,
    /// What the refund would take of it.
    pub amount_msat: i64,
    /// What would arrive: what a BOLT11 for it must ask for. What is withheld for points that
    /// were redeemed comes off as well.
    pub sent_msat: i64,
    /// The most that it may cost over Lightning.
    pub max_fee_msat: i64,
    /// The rate of now, where it was asked for.
    pub quote: Option<Quote>,
}

fn is_zero(amount: &i64) -> bool {
    *amount == 0
}
