//! Payments of an invoice, and what stands out about it.

use serde::{Deserialize, Serialize};

use crate::ids::TransferId;
use crate::lightning::PaymentHash;

/// A way by which an invoice can be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rail {
    /// A BOLT11 text.
    Lightning,
    /// A Bitcoin address.
    OnChain,
    /// Within these books: whoever pays has a card or an account here.
    Book,
    /// A BOLT12 offer.
    Bolt12,
}

/// How one payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoicePaymentState {
    /// Seen or accepted, and not the invoice's yet: it is being claimed, or has too few
    /// confirmations.
    Pending,
    /// Set aside until a person captures it or gives it back: a hold invoice.
    Authorized,
    /// On its way back to its sender; it is not known yet that it got there.
    Returning,
    /// The money is booked.
    Settled,
    /// It came to nothing: given back, replaced, double-spent or given up.
    Void,
}

/// One payment of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoicePayment {
    /// How it came.
    pub rail: Rail,
    /// What it is known by, once for ever: its payment hash, or its outpoint `txid:vout`.
    pub reference: String,
    /// What it has.
    pub amount_msat: i64,
    /// The part that counts towards the invoice; the rest is surplus, or all of it in suspense.
    pub counted_msat: i64,
    /// How it stands.
    pub state: InvoicePaymentState,
    /// When it was first known, milliseconds since the epoch.
    pub at_ms: i64,
    /// It came after the invoice's time.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late: bool,
    /// No rule takes it: the money waits in suspense for a person.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspended: bool,
    /// How many blocks are upon it, itself counted; on chain only, and not followed beyond what
    /// matters.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub confirmations: u32,
    /// The block it is in, on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// That block's height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_height: Option<u32>,
    /// What took its place, where that is known: a transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// While it is in the mempool: it says that it may be replaced (BIP 125), so that it waits for
    /// a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaceable: Option<bool>,
    /// What of it arrived less than was accepted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub short_msat: i64,
    /// What a liquidity provider kept of it for the channel that it opened for it: paid by the
    /// payer, and the operator's cost.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skimmed_msat: i64,
    /// The block from which on it can no longer be claimed, for one that is authorized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_deadline_height: Option<u32>,
    /// When it goes back by itself, for one that is authorized by book: milliseconds since the
    /// epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until_ms: Option<i64>,
    /// What its merchant owes the operator for it, of one that went to the merchant's own wallet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub owed_fee_msat: i64,
    /// The holds of what counts and of the surplus, while it is being taken.
    #[serde(default, skip_serializing_if = "PaymentEntries::is_none")]
    pub(crate) holds: PaymentEntries,
    /// The transfers of what counts and of the surplus, once it is booked.
    #[serde(default, skip_serializing_if = "PaymentEntries::is_none")]
    pub(crate) transfers: PaymentEntries,
}

/// The entries of a payment in the books; the ones for nothing are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PaymentEntries {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counted: Option<TransferId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) surplus: Option<TransferId>,
    /// What goes on a card in a currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) currency: Option<TransferId>,
    /// What the operator keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spread: Option<TransferId>,
}

impl PaymentEntries {
    pub(crate) fn is_none(&self) -> bool {
        self.counted.is_none() && self.surplus.is_none()
    }
}

impl InvoicePayment {
    /// One of which nothing is known yet but what it has.
    pub(crate) fn new(
        rail: Rail,
        reference: String,
        amount_msat: i64,
        state: InvoicePaymentState,
        at_ms: i64,
    ) -> Self {
        Self {
            rail,
            reference,
            amount_msat,
            counted_msat: 0,
            state,
            at_ms,
            late: false,
            suspended: false,
            confirmations: 0,
            block: None,
            block_height: None,
            replaced_by: None,
            replaceable: None,
            short_msat: 0,
            skimmed_msat: 0,
            claim_deadline_height: None,
            held_until_ms: None,
            owed_fee_msat: 0,
            holds: PaymentEntries::default(),
            transfers: PaymentEntries::default(),
        }
    }

    /// What of it is beyond what was due; all of one in suspense.
    pub fn surplus_msat(&self) -> i64 {
        self.amount_msat.saturating_sub(self.counted_msat)
    }

    /// What of it reaches the node.
    pub(crate) fn claimable_msat(&self) -> i64 {
        self.amount_msat.saturating_sub(self.skimmed_msat)
    }

    /// The hash it is known by in the node, where the node is to say what becomes of it.
    pub(crate) fn lightning_hash(&self) -> Option<PaymentHash> {
        let is_lightning = self.rail == Rail::Lightning;
        self.reference.parse().ok().filter(|_| is_lightning)
    }

    /// The hash of one that was paid from an account of this engine.
    pub(crate) fn booked_hash(&self) -> Option<PaymentHash> {
        let is_booked = self.rail == Rail::Book && self.state == InvoicePaymentState::Settled;
        self.reference.parse().ok().filter(|_| is_booked)
    }

    /// True while the node is to be asked what becomes of it.
    pub(crate) fn waits(&self) -> bool {
        use InvoicePaymentState::{Authorized, Pending, Returning};
        self.rail == Rail::Lightning && matches!(self.state, Pending | Authorized | Returning)
    }

    /// True when it may still come to something, or has.
    pub fn is_live(&self) -> bool {
        use InvoicePaymentState::{Authorized, Pending, Settled};
        matches!(self.state, Pending | Authorized | Settled)
    }

    /// It is in no block (any more).
    pub(crate) fn leave_block(&mut self) {
        (self.confirmations, self.block, self.block_height) = (0, None, None);
    }
}

/// What stands out about an invoice, whatever its state: each on its own, by its amount. None of
/// them takes another's place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceFlags {
    /// What is missing, once something was paid.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub underpaid_msat: i64,
    /// What was paid beyond what was due. Less than a sat that is only there because a payment is
    /// of whole sats is not that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overpaid_msat: i64,
    /// What came after the invoice's time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late_msat: i64,
    /// What was paid back, of the bitcoin that came.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refunded_msat: i64,
    /// What is being paid back: set aside, on its way, or not known to have arrived.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refunding_msat: i64,
    /// What of the invoice the two pay back at the rate it was made at. It differs from their sum
    /// where the rate of a later time was asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refund_covers_msat: i64,
    /// What of that was paid back, or is, before the invoice was settled: it counts no more, and the
    /// price is due again by as much.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted_msat: i64,
    /// What refunds are to take of the surplus that waits in suspense, which wait for their
    /// Lightning addresses: while there is any, none of it counts towards the price.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refund_to_take_msat: i64,
    /// What was booked once and was then taken away by the chain; it stays counted although the
    /// payment comes back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reorged_msat: i64,
    /// What a person said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked: Option<InvoiceMark>,
}

impl InvoiceFlags {
    /// True when nothing stands out.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a person said an invoice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkedAs {
    /// Paid: in cash, or by a payment that is known from elsewhere. No money moves here.
    Settled,
    /// Not to be delivered, whatever was paid.
    Invalid,
    /// Not to be paid any more.
    Cancelled,
    /// Its payment was being taken and never arrived.
    GivenUp,
}

/// What a person said of an invoice, and what it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceMark {
    /// What it is said to be.
    pub as_state: MarkedAs,
    /// How that is known, for whoever reads it.
    pub reason: String,
    /// What was missing then.
    pub missing_msat: i64,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
}

pub(crate) fn is_false(flag: &bool) -> bool {
    !flag
}

pub(crate) fn is_zero(amount: &i64) -> bool {
    *amount == 0
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}
