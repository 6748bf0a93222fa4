//! The records of a card's receipts: typed, and in no language.

use serde::{Deserialize, Serialize};

use crate::ids::{CardId, CardPaymentId, ChargeId, MerchantId, TransferId};
use crate::money::{Asset, Price, Quote};

/// What a receipt is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CardReceiptOf {
    /// A sale that was paid with a card.
    Charge {
        /// The charge.
        charge: ChargeId,
    },
    /// One of the refunds of a charge.
    Refund {
        /// The charge.
        charge: ChargeId,
        /// Which of its refunds, from 1.
        number: u32,
    },
    /// A BOLT11 that was paid with a card, and that arrived.
    Payment {
        /// The payment.
        payment: CardPaymentId,
    },
    /// Anything else that moved on a card, a top-up for one: a row of its history.
    Transfer {
        /// The card.
        card: CardId,
        /// The transfer.
        transfer: TransferId,
    },
}

/// What a receipt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardReceiptKind {
    /// A sale.
    Charge,
    /// Money of a sale that came back.
    Refund,
    /// A BOLT11 that was paid.
    Payment,
    /// Money that came on the card.
    TopUp,
    /// Money that went elsewhere.
    Withdrawal,
}

/// A line of a receipt. Amounts are in the unit that stands beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "line")]
pub enum CardReceiptLine {
    /// What was asked for.
    Price {
        /// How much.
        price: Price,
    },
    /// The rate between the price, or the card's currency, and bitcoin.
    Rate {
        /// The rate, with its source and time.
        quote: Quote,
    },
    /// What the card paid.
    Paid {
        /// In what.
        asset: Asset,
        /// How much.
        amount: i64,
    },
    /// What the route to somebody else's node cost the card.
    RouteFee {
        /// How much.
        amount_msat: i64,
    },
    /// What came on the card.
    Received {
        /// In what.
        asset: Asset,
        /// How much.
        amount: i64,
    },
    /// What of a refund did not come back, because the points of the sale were turned into money
    /// before.
    Withheld {
        /// How much.
        amount_msat: i64,
    },
    /// Points that the card got, or, below zero, that were taken back.
    Points {
        /// How many.
        points: i64,
    },
    /// What was on the card afterwards, what was set aside for other sales included.
    Balance {
        /// In what.
        asset: Asset,
        /// How much.
        amount: i64,
    },
}

/// A receipt with the card's balance. It is made of what was written when it happened: printed
/// again it says the same, whatever became of the sale, the card or its program since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardReceipt {
    /// Its number: the charge's id, that and the number of a refund, or the id of a payment or a
    /// transfer.
    pub number: String,
    /// What it is for.
    pub kind: CardReceiptKind,
    /// The card that was tapped, or that the money came to.
    pub card: CardId,
    /// The merchant, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
    /// When it was booked, milliseconds since the epoch.
    pub at_ms: i64,
    /// The merchant's own name for the sale, or the object that the money belonged to.
    pub reference: String,
    /// What it says, the balance last; a refund of which nothing came on the card has none.
    pub lines: Vec<CardReceiptLine>,
}

impl CardReceipt {
    /// What was on the card afterwards, in its unit; `None` where nothing moved on it.
    pub fn balance(&self) -> Option<(Asset, i64)> {
        self.lines.iter().rev().find_map(|line| match line {
            CardReceiptLine::Balance { asset, amount } => Some((*asset, *amount)),
            _ => None,
        })
    }
}
