//! The records of an invoice.

use serde::{Deserialize, Serialize};

use super::options::{DEFAULT_MONITORING_SECONDS, InvoiceOptions};
use super::payment::{
    InvoiceFlags, InvoicePayment, InvoicePaymentState, PaymentEntries, Rail, is_false, is_zero,
};
use crate::core::IdempotencyKey;
use crate::ids::{CardId, InvoiceId, MerchantId, TransferId};
use crate::ledger::{Account, TransferKind};
use crate::lightning::{OfferId, PaymentHash};
use crate::money::{Price, Quote};

/// What an invoice is for, and so whose money its payment becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum InvoicePurpose {
    /// A sale of a merchant.
    Sale {
        /// The merchant.
        merchant: MerchantId,
    },
    /// Money for a card.
    TopUp {
        /// The card.
        card: CardId,
    },
    /// A contribution to a merchant, for which nothing is sold.
    Contribution {
        /// The merchant.
        merchant: MerchantId,
    },
    /// The operator's own: no merchant's and no card's.
    Plain,
}

impl InvoicePurpose {
    /// The account that the payment is credited to.
    pub fn account(&self) -> Account {
        match *self {
            Self::Sale { merchant } | Self::Contribution { merchant } => {
                Account::merchant_payable(merchant)
            }
            Self::TopUp { card } => Account::card_balance(card),
            Self::Plain => Account::operator_capital(),
        }
    }

    /// The merchant whose money its payment becomes.
    pub fn merchant(&self) -> Option<MerchantId> {
        match *self {
            Self::Sale { merchant } | Self::Contribution { merchant } => Some(merchant),
            Self::TopUp { .. } | Self::Plain => None,
        }
    }

    pub(crate) fn transfer_kind(&self) -> TransferKind {
        match self {
            Self::Sale { .. } => TransferKind::Sale,
            Self::TopUp { .. } => TransferKind::TopUp,
            Self::Contribution { .. } => TransferKind::Contribution,
            Self::Plain => TransferKind::OperatorReceipt,
        }
    }

    /// The id of whose money it becomes.
    pub fn owner_id(&self) -> String {
        self.account().owner().to_string()
    }
}

/// Makes an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateInvoice {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What is to be paid. A price in a currency is turned into bitcoin at the rate of now,
    /// which is recorded. Where it is left out, whoever pays chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What the payer reads; at most 200 characters, and 639 bytes (BOLT 11).
    pub description: String,
    /// How long it can be paid: 60 seconds to 7 days. With a price in a currency never longer
    /// than its quote holds.
    pub expiry_seconds: u32,
    /// What else there is to say of it.
    #[serde(default, skip_serializing_if = "InvoiceOptions::is_default")]
    pub options: InvoiceOptions,
}

/// Where an invoice stands. What stands out about it is said by its [flags](InvoiceFlags).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceState {
    /// Waits to be paid, or for the rest.
    New,
    /// Enough was paid, and not all of it is booked yet: it is being taken, set aside, or waits
    /// for confirmations.
    Processing,
    /// Paid, and the money is booked.
    Settled,
    /// Its time is over, and not enough was paid.
    Expired,
    /// What arrived is less than what was accepted; or it was not confirmed in time; or a person
    /// said so. Whatever is booked stays booked, and a person should look.
    Invalid,
}

/// A BOLT11 text of an invoice. There is more than one where a part was paid and the rest was
/// asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightningRail {
    /// What its payment is known by in both nodes.
    pub payment_hash: PaymentHash,
    /// The text to pay.
    pub bolt11: String,
    /// What it asks for; `None` where whoever pays chooses.
    pub amount_msat: Option<i64>,
    /// No channel could take it in when it was made: one is opened when it is paid (LSPS2).
    #[serde(default, skip_serializing_if = "is_false")]
    pub just_in_time: bool,
}

/// A BOLT12 offer of an invoice. Whoever has it can pay it any number of times until the invoice's
/// time is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferRail {
    /// What its payments are known by in the node.
    pub id: OfferId,
    /// The text to pay: `lno1…`.
    pub text: String,
    /// What it asks for; `None` where whoever pays chooses.
    pub amount_msat: Option<i64>,
}

/// Who has the keys of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Custody {
    /// The node's wallet: what arrives is owed to whoever the invoice is of.
    Operator,
    /// A wallet of the merchant's own. What arrives was never the operator's, so that it stands
    /// in no account.
    Merchant,
}

/// An address of an invoice, never used for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnChainRail {
    /// The address.
    pub address: String,
    /// Who has its keys.
    pub custody: Custody,
    /// What was asked for when it was made, rounded up to whole sats; `None` where whoever pays
    /// chooses.
    pub amount_sat: Option<i64>,
    /// The chain's height when it was given out, where our own watching knew it: what a block had
    /// well before that was paid for something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_at_height: Option<u32>,
}

/// A rail that was asked for and could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnavailableRail {
    /// Which.
    pub rail: Rail,
    /// The stable code of why: `lightning.no_inbound_capacity`, `chain.dust`.
    pub code: String,
    /// The same for a person.
    pub detail: String,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// Its id.
    pub id: InvoiceId,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What was asked for; `None` where whoever pays chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What that is in bitcoin; zero where whoever pays chooses.
    pub amount_msat: i64,
    /// The rate it was made at, where the price is in a currency.
    pub quote: Option<Quote>,
    /// What the payer reads.
    pub description: String,
    /// What its first Lightning payment is known by in both nodes; a payment by book as well.
    pub payment_hash: PaymentHash,
    /// The text to pay: BOLT11, for all that is due now. Empty where it has no Lightning rail.
    pub bolt11: String,
    /// Where it stands.
    pub state: InvoiceState,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// From when on it cannot be paid.
    pub expires_at_ms: i64,
    /// What was booked for it, surplus and what is in suspense left out.
    pub received_msat: i64,
    /// The address of the card that it was asked for at, if it was: once that is taken away, what
    /// is paid goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_up_address: Option<String>,
    /// The seller's address that it was asked for at, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pay_address: Option<String>,
    /// SHA-256 of what the payer was shown in the place of the description (LUD-06): 64 hex
    /// digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description_hash: Option<String>,
    /// What else was said when it was made; its rules are those of that time.
    #[serde(default, skip_serializing_if = "InvoiceOptions::is_default")]
    pub options: InvoiceOptions,
    /// What stands out about it.
    #[serde(default, skip_serializing_if = "InvoiceFlags::is_none")]
    pub flags: InvoiceFlags,
    /// Its payments, in the order in which they were first known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payments: Vec<InvoicePayment>,
    /// All its BOLT11 texts, in the order in which they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lightning: Vec<LightningRail>,
    /// Its BOLT12 offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<OfferRail>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_chain: Option<OnChainRail>,
    /// The rails that could not be made. Lightning that had no room is made once there is room for the
    /// rest, after a part was paid by another rail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<UnavailableRail>,
    /// What of its surplus is to be paid back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refund_due_msat: i64,
    /// Grows by one with every event of this invoice: a reader sees whether it missed one.
    #[serde(default)]
    pub sequence: u64,
    /// The hold of the payment that is being taken, in a row of before payments were records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold: Option<TransferId>,
}

impl Invoice {
    /// Until when payments on chain are followed.
    pub fn monitored_until_ms(&self) -> i64 {
        let seconds = self.options.monitoring_seconds;
        let seconds = seconds.unwrap_or(DEFAULT_MONITORING_SECONDS);
        self.expires_at_ms
            .saturating_add(i64::from(seconds) * 1_000)
    }

    /// True where whoever pays chooses how much.
    pub fn is_open_amount(&self) -> bool {
        self.amount_msat == 0
    }

    /// What counts of the payments that came or are coming, less what was paid back before the
    /// invoice was settled.
    pub fn counted_msat(&self) -> i64 {
        let live = self.payments.iter().filter(|payment| payment.is_live());
        let came = live.fold(0_i64, |sum, payment| {
            sum.saturating_add(payment.counted_msat)
        });
        self.kept(came)
    }

    /// What is left of what came once it is known what goes back.
    pub(super) fn kept(&self, came_msat: i64) -> i64 {
        let uncounted_msat = self.flags.uncounted_msat;
        came_msat.saturating_sub(uncounted_msat).max(0)
    }

    /// What is still to be paid; zero where whoever pays chooses.
    pub fn due_msat(&self) -> i64 {
        self.amount_msat.saturating_sub(self.counted_msat()).max(0)
    }

    /// The text that asks for everything that is due, by every rail there is: BIP 21, with the
    /// Lightning texts as its parameters (BIP 321: `lightning`, `lno`). `None` where it has no
    /// address, unless an offer is all that it can be paid by.
    pub fn bip21(&self) -> Option<String> {
        let asked = (!self.is_open_amount()).then(|| self.due_msat());
        let offer = self.offer.as_ref();
        let offer = offer.filter(|offer| offer.amount_msat == asked);
        let address = self.on_chain.as_ref().map(|rail| rail.address.as_str());
        let is_offer_alone = offer.is_some() && self.payable_rail().is_none();
        if address.is_none() && !is_offer_alone {
            return None;
        }
        let due_sat = self.due_msat().saturating_add(999) / 1_000;
        let mut parts = Vec::new();
        if due_sat > 0 {
            let (whole, rest) = (due_sat / 100_000_000, due_sat % 100_000_000);
            parts.push(format!("amount={whole}.{rest:08}"));
        }
        // A text of before a part was paid asks for too much.
        if let Some(rail) = self.payable_rail() {
            parts.push(format!("lightning={}", rail.bolt11));
        }
        if let Some(offer) = offer {
            parts.push(format!("lno={}", offer.text));
        }
        let query = parts.join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let address = address.unwrap_or_default();
        Some(format!("bitcoin:{address}{mark}{query}"))
    }

    /// A row of before payments were records, as it would be written now.
    pub(crate) fn upgraded(mut self) -> Self {
        if self.lightning.is_empty() && !self.bolt11.is_empty() {
            self.lightning.push(LightningRail {
                payment_hash: self.payment_hash,
                bolt11: self.bolt11.clone(),
                amount_msat: (self.amount_msat > 0).then_some(self.amount_msat),
                just_in_time: false,
            });
        }
        use InvoicePaymentState::{Pending, Settled, Void};
        let state = match (self.hold, self.state) {
            (Some(_), _) => Some(Pending),
            (None, _) if self.received_msat > 0 => Some(Settled),
            // It was given up, and its name is taken.
            (None, InvoiceState::Invalid) => Some(Void),
            _ => None,
        };
        if let Some(state) = state.filter(|_| self.payments.is_empty()) {
            let amount_msat = if state == Settled {
                self.received_msat
            } else {
                self.amount_msat
            };
            let reference = self.payment_hash.to_string();
            let at_ms = self.created_at_ms;
            let holds = PaymentEntries {
                counted: self.hold.take(),
                ..PaymentEntries::default()
            };
            self.payments.push(InvoicePayment {
                counted_msat: amount_msat,
                short_msat: self.amount_msat.saturating_sub(amount_msat),
                holds,
                ..InvoicePayment::new(Rail::Lightning, reference, amount_msat, state, at_ms)
            });
        }
        self
    }
}
