//! The records of the facade: flat, with ids as text and amounts with their unit in the name.

use crate::{cards, invoices, ledger, money, reports, rewards, settlement};

/// What something costs.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum Price {
    /// In bitcoin.
    Bitcoin {
        /// How much.
        amount_msat: i64,
    },
    /// In a national currency.
    Fiat {
        /// ISO 4217: `JMD`.
        currency: String,
        /// In the currency's minor unit: 150,000 for J$1,500.00.
        minor_units: i64,
    },
}

/// The rate at which a price was turned into bitcoin.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Quote {
    /// The price of one bitcoin, as exact decimal text.
    pub rate: String,
    /// ISO 4217.
    pub currency: String,
    /// Who said so.
    pub source: String,
    /// When the source observed it.
    pub observed_at_ms: i64,
    /// When it was used.
    pub quoted_at_ms: i64,
    /// Until when it holds.
    pub valid_until_ms: i64,
}

/// What an invoice is for.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum InvoicePurpose {
    /// A sale of a merchant.
    Sale {
        /// The merchant.
        merchant_id: String,
    },
    /// Money for a card.
    TopUp {
        /// The card.
        card_id: String,
    },
}

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum InvoiceState {
    /// Waits to be paid.
    New,
    /// Its payment is being taken.
    Processing,
    /// Paid and booked.
    Settled,
    /// Its time is over.
    Expired,
    /// Less arrived than was accepted.
    Invalid,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Invoice {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What was asked for.
    pub price: Price,
    /// What that is in bitcoin.
    pub amount_msat: i64,
    /// The rate, where the price is in a currency.
    pub quote: Option<Quote>,
    /// What the payer reads.
    pub description: String,
    /// 64 hex digits.
    pub payment_hash: String,
    /// The text to pay.
    pub bolt11: String,
    /// Where it stands.
    pub state: InvoiceState,
    /// When it was made.
    pub created_at_ms: i64,
    /// From when on it cannot be paid.
    pub expires_at_ms: i64,
    /// What was booked.
    pub received_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// A merchant.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Merchant {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its points program.
    pub program_id: Option<String>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// What a merchant's payouts cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct PayoutTerms {
    /// The fixed part of the operator's fee.
    #[uniffi(default = 0)]
    pub fee_base_msat: i64,
    /// The proportional part, in hundredths of a percent.
    #[uniffi(default = 100)]
    pub fee_bps: u32,
    /// The fixed part of what the route may cost the operator.
    #[uniffi(default = 10000)]
    pub route_base_msat: i64,
    /// The proportional part, in hundredths of a percent.
    #[uniffi(default = 50)]
    pub route_bps: u32,
}

/// A till that was paired.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PairedTill {
    /// The id of its credential.
    pub id: String,
    /// The merchant it sells for.
    pub merchant_id: String,
    /// Which till it is.
    pub label: String,
    /// The credential, to be kept on the till like a password.
    pub credential: String,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// What a merchant is owed.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct MerchantBalance {
    /// The merchant.
    pub merchant_id: String,
    /// What can be paid out.
    pub available_msat: i64,
    /// What is owed, payouts on their way included.
    pub owed_msat: i64,
    /// Sales that are being taken.
    pub pending_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// What a payout of everything comes to.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PayoutQuote {
    /// The merchant.
    pub merchant_id: String,
    /// What the merchant's own node should ask for.
    pub amount_msat: i64,
    /// What the operator keeps.
    pub fee_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// How a payout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum PayoutState {
    /// On its way, its money on hold.
    Sending,
    /// Whether it was sent is not known; it is asked again.
    Unknown,
    /// The merchant has it.
    PaidOut,
    /// It failed for good; the money is the merchant's again.
    Failed,
}

/// A payout.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Payout {
    /// Its id.
    pub id: String,
    /// The merchant.
    pub merchant_id: String,
    /// What is sent.
    pub amount_msat: i64,
    /// What the operator keeps.
    pub fee_msat: i64,
    /// What the route may cost.
    pub max_route_fee_msat: i64,
    /// What the route cost.
    pub route_fee_msat: Option<i64>,
    /// 64 hex digits.
    pub payment_hash: String,
    /// How it stands.
    pub state: PayoutState,
    /// Why it failed, or what is not known.
    pub reason: Option<String>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// What a card may do.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CardLimits {
    /// The most that one tap may spend.
    #[uniffi(default = None)]
    pub per_tap_msat: Option<i64>,
    /// The most that one calendar day may spend.
    #[uniffi(default = None)]
    pub per_day_msat: Option<i64>,
    /// The most that may be on the card.
    #[uniffi(default = None)]
    pub max_balance_msat: Option<i64>,
    /// Where the day begins: an IANA name.
    #[uniffi(default = "UTC")]
    pub time_zone: String,
}

/// What an older server wrote on a chip.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ExistingChip {
    /// The id that its keys were derived with.
    pub pull_payment_id: Option<String>,
    /// The version of its keys.
    pub version: u32,
    /// The last counter that was used.
    pub counter: u32,
}

/// How a card stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum CardState {
    /// Made, not handed over.
    Issued,
    /// In use.
    Active,
    /// Stopped.
    Frozen,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Card {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub state: CardState,
    /// What it may do.
    pub limits: CardLimits,
    /// When it was made.
    pub created_at_ms: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// A card that was handed over.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Activation {
    /// The card.
    pub card: Card,
    /// The credential of whoever holds it, to be kept like a password.
    pub holder_credential: String,
}

/// What a card programmer writes on a chip. Secret.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct ProgrammingKeys {
    /// The URL without its parameters.
    pub lnurlw: String,
    /// The version of the keys.
    pub version: u32,
    /// 32 hex digits, like the others.
    pub k0: String,
    /// Key 1.
    pub k1: String,
    /// Key 2.
    pub k2: String,
    /// Key 3.
    pub k3: String,
    /// Key 4.
    pub k4: String,
}

/// What a tap shows without using it up.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CardSnapshot {
    /// The card.
    pub card_id: String,
    /// How it stands.
    pub state: CardState,
    /// What it can spend.
    pub balance_msat: i64,
    /// Money on its way to it.
    pub pending_msat: i64,
    /// What it may do.
    pub limits: CardLimits,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// A sale that was paid with a card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Charge {
    /// Its id.
    pub id: String,
    /// The card.
    pub card_id: String,
    /// The merchant.
    pub merchant_id: String,
    /// What was paid.
    pub amount_msat: i64,
    /// The rate, where the price is in a currency.
    pub quote: Option<Quote>,
    /// The merchant's own name for the sale.
    pub reference: String,
    /// The points program.
    pub program_id: Option<String>,
    /// The points that the card got.
    pub points: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// A points program.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Program {
    /// Its id.
    pub id: String,
    /// Whose sales earn the points.
    pub merchant_id: String,
    /// What people call it.
    pub name: String,
    /// How much of a sale goes into points, in hundredths of a percent.
    pub earn_bps: u32,
    /// What a point is worth.
    pub point_value_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// The points on a card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct PointsBalance {
    /// How many.
    pub points: i64,
    /// What they are worth.
    pub value_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// Points that became money on the card.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Redemption {
    /// Its id.
    pub id: String,
    /// How many points.
    pub points: i64,
    /// What they were worth.
    pub amount_msat: i64,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// A transfer on an account.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Transfer {
    /// Its place in the order of all transfers.
    pub position: i64,
    /// When it was committed.
    pub at_ms: i64,
    /// The account debited.
    pub debit: String,
    /// The account credited.
    pub credit: String,
    /// More than zero, in the asset's unit.
    pub amount: i64,
    /// The object it belongs to.
    pub reference: String,
}

/// One line of the trial balance.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct TrialBalanceLine {
    /// The account: `kind/owner/asset`.
    pub account: String,
    /// Its balance towards its side, as decimal text: lifetime totals can outgrow 64 bits.
    pub balance: String,
}

/// Every account that was ever used.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct TrialBalance {
    /// Debits equal credits for every asset.
    pub is_balanced: bool,
    /// The accounts.
    pub lines: Vec<TrialBalanceLine>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// A control account beside what the node says.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Control {
    /// The account.
    pub account: String,
    /// What the books say.
    pub booked_msat: i64,
    /// What the node says.
    pub actual_msat: i64,
    /// The node's figure less the books'.
    pub difference_msat: i64,
    /// Nothing but what is on its way can be the difference.
    pub is_explained: bool,
}

/// The books beside the world.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Audit {
    /// Debits equal credits for every asset.
    pub is_balanced: bool,
    /// The control accounts.
    pub controls: Vec<Control>,
    /// When the books were like this.
    pub as_of_ms: i64,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct FlashEvent {
    /// Its place in the order of all events.
    pub position: i64,
    /// When it was committed.
    pub at_ms: i64,
    /// What happened: `invoice.settled`.
    pub kind: String,
    /// The object it happened to, by its id.
    pub object_id: String,
    /// The object as it stood after it, as JSON.
    pub body_json: String,
}

impl TryFrom<Price> for money::Price {
    type Error = super::FlashError;

    fn try_from(price: Price) -> Result<Self, Self::Error> {
        Ok(match price {
            Price::Bitcoin { amount_msat } => Self::Bitcoin { amount_msat },
            Price::Fiat {
                currency,
                minor_units,
            } => Self::Fiat {
                currency: money::Currency::from_code(&currency)?,
                minor_units,
            },
        })
    }
}

impl From<money::Price> for Price {
    fn from(price: money::Price) -> Self {
        match price {
            money::Price::Bitcoin { amount_msat } => Self::Bitcoin { amount_msat },
            money::Price::Fiat {
                currency,
                minor_units,
            } => Self::Fiat {
                currency: currency.to_string(),
                minor_units,
            },
        }
    }
}

impl From<money::Quote> for Quote {
    fn from(quote: money::Quote) -> Self {
        Self {
            rate: quote.rate.to_string(),
            currency: quote.currency.to_string(),
            source: quote.source,
            observed_at_ms: quote.observed_at_ms,
            quoted_at_ms: quote.quoted_at_ms,
            valid_until_ms: quote.valid_until_ms,
        }
    }
}

impl TryFrom<InvoicePurpose> for invoices::InvoicePurpose {
    type Error = super::FlashError;

    fn try_from(purpose: InvoicePurpose) -> Result<Self, Self::Error> {
        Ok(match purpose {
            InvoicePurpose::Sale { merchant_id } => Self::Sale {
                merchant: super::parse_id(&merchant_id)?,
            },
            InvoicePurpose::TopUp { card_id } => Self::TopUp {
                card: super::parse_id(&card_id)?,
            },
        })
    }
}

impl From<invoices::InvoicePurpose> for InvoicePurpose {
    fn from(purpose: invoices::InvoicePurpose) -> Self {
        match purpose {
            invoices::InvoicePurpose::Sale { merchant } => Self::Sale {
                merchant_id: merchant.to_string(),
            },
            invoices::InvoicePurpose::TopUp { card } => Self::TopUp {
                card_id: card.to_string(),
            },
        }
    }
}

impl From<crate::Answer<invoices::Invoice>> for Invoice {
    fn from(answer: crate::Answer<invoices::Invoice>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            id: value.id.to_string(),
            purpose: value.purpose.into(),
            price: value.price.into(),
            amount_msat: value.amount_msat,
            quote: value.quote.map(Into::into),
            description: value.description,
            payment_hash: value.payment_hash.to_string(),
            bolt11: value.bolt11,
            state: match value.state {
                invoices::InvoiceState::New => InvoiceState::New,
                invoices::InvoiceState::Processing => InvoiceState::Processing,
                invoices::InvoiceState::Settled => InvoiceState::Settled,
                invoices::InvoiceState::Expired => InvoiceState::Expired,
                invoices::InvoiceState::Invalid => InvoiceState::Invalid,
            },
            created_at_ms: value.created_at_ms,
            expires_at_ms: value.expires_at_ms,
            received_msat: value.received_msat,
            as_of_ms,
        }
    }
}

impl From<crate::Answer<settlement::Merchant>> for Merchant {
    fn from(answer: crate::Answer<settlement::Merchant>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        let program_id = value.program.map(|program| program.to_string());
        Self {
            id: value.id.to_string(),
            name: value.name,
            program_id,
            as_of_ms,
        }
    }
}

impl From<PayoutTerms> for settlement::PayoutTerms {
    fn from(terms: PayoutTerms) -> Self {
        let PayoutTerms {
            fee_base_msat,
            fee_bps,
            route_base_msat,
            route_bps,
        } = terms;
        Self {
            fee_base_msat,
            fee_bps,
            route_base_msat,
            route_bps,
        }
    }
}

impl From<crate::Answer<settlement::PairedTill>> for PairedTill {
    fn from(answer: crate::Answer<settlement::PairedTill>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            id: value.till.id.to_string(),
            merchant_id: value.till.merchant.to_string(),
            label: value.till.label,
            credential: value.credential.reveal().to_owned(),
            as_of_ms,
        }
    }
}

impl From<crate::Answer<settlement::MerchantBalance>> for MerchantBalance {
    fn from(answer: crate::Answer<settlement::MerchantBalance>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            merchant_id: value.merchant.to_string(),
            available_msat: value.available_msat,
            owed_msat: value.owed_msat,
            pending_msat: value.pending_msat,
            as_of_ms,
        }
    }
}

impl From<crate::Answer<settlement::PayoutQuote>> for PayoutQuote {
    fn from(answer: crate::Answer<settlement::PayoutQuote>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        let settlement::PayoutQuote {
            merchant,
            amount_msat,
            fee_msat,
        } = value;
        Self {
            merchant_id: merchant.to_string(),
            amount_msat,
            fee_msat,
            as_of_ms,
        }
    }
}

impl From<crate::Answer<settlement::Payout>> for Payout {
    fn from(answer: crate::Answer<settlement::Payout>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            id: value.id.to_string(),
            merchant_id: value.merchant.to_string(),
            amount_msat: value.amount_msat,
            fee_msat: value.fee_msat,
            max_route_fee_msat: value.max_route_fee_msat,
            route_fee_msat: value.route_fee_msat,
            payment_hash: value.payment_hash.to_string(),
            state: match value.state {
                settlement::PayoutState::Sending => PayoutState::Sending,
                settlement::PayoutState::Unknown => PayoutState::Unknown,
                settlement::PayoutState::PaidOut => PayoutState::PaidOut,
                settlement::PayoutState::Failed => PayoutState::Failed,
            },
            reason: value.reason,
            as_of_ms,
        }
    }
}

impl From<CardLimits> for cards::CardLimits {
    fn from(limits: CardLimits) -> Self {
        let CardLimits {
            per_tap_msat,
            per_day_msat,
            max_balance_msat,
            time_zone,
        } = limits;
        Self {
            per_tap_msat,
            per_day_msat,
            max_balance_msat,
            time_zone,
        }
    }
}

impl From<cards::CardLimits> for CardLimits {
    fn from(limits: cards::CardLimits) -> Self {
        let cards::CardLimits {
            per_tap_msat,
            per_day_msat,
            max_balance_msat,
            time_zone,
        } = limits;
        Self {
            per_tap_msat,
            per_day_msat,
            max_balance_msat,
            time_zone,
        }
    }
}

impl From<ExistingChip> for cards::ExistingChip {
    fn from(chip: ExistingChip) -> Self {
        let ExistingChip {
            pull_payment_id,
            version,
            counter,
        } = chip;
        Self {
            pull_payment_id,
            version,
            counter,
        }
    }
}

impl From<cards::CardState> for CardState {
    fn from(state: cards::CardState) -> Self {
        match state {
            cards::CardState::Issued => Self::Issued,
            cards::CardState::Active => Self::Active,
            cards::CardState::Frozen => Self::Frozen,
        }
    }
}

impl From<crate::Answer<cards::Card>> for Card {
    fn from(answer: crate::Answer<cards::Card>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            id: value.id.to_string(),
            state: value.state.into(),
            limits: value.limits.into(),
            created_at_ms: value.created_at_ms,
            as_of_ms,
        }
    }
}

impl From<crate::Answer<cards::Activation>> for Activation {
    fn from(answer: crate::Answer<cards::Activation>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        let holder_credential = value.holder.reveal().to_owned();
        Self {
            card: crate::Answer {
                as_of_ms,
                value: value.card,
            }
            .into(),
            holder_credential,
        }
    }
}

impl From<cards::ProgrammingKeys> for ProgrammingKeys {
    fn from(keys: cards::ProgrammingKeys) -> Self {
        let cards::ProgrammingKeys {
            lnurlw,
            version,
            k0,
            k1,
            k2,
            k3,
            k4,
        } = keys;
        Self {
            lnurlw,
            version,
            k0,
            k1,
            k2,
            k3,
            k4,
        }
    }
}

impl From<crate::Answer<cards::CardSnapshot>> for CardSnapshot {
    fn from(answer: crate::Answer<cards::CardSnapshot>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            card_id: value.card.to_string(),
            state: value.state.into(),
            balance_msat: value.balance_msat,
            pending_msat: value.pending_msat,
            limits: value.limits.into(),
            as_of_ms,
        }
    }
}

impl From<crate::Answer<cards::Charge>> for Charge {
    fn from(answer: crate::Answer<cards::Charge>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            id: value.id.to_string(),
            card_id: value.card.to_string(),
            merchant_id: value.merchant.to_string(),
            amount_msat: value.amount_msat,
            quote: value.quote.map(Into::into),
            reference: value.reference,
            program_id: value.program.map(|program| program.to_string()),
            points: value.points,
            as_of_ms,
        }
    }
}

impl From<crate::Answer<rewards::Program>> for Program {
    fn from(answer: crate::Answer<rewards::Program>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            id: value.id.to_string(),
            merchant_id: value.merchant.to_string(),
            name: value.name,
            earn_bps: value.earn_bps,
            point_value_msat: value.point_value_msat,
            as_of_ms,
        }
    }
}

impl From<crate::Answer<rewards::PointsBalance>> for PointsBalance {
    fn from(answer: crate::Answer<rewards::PointsBalance>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        Self {
            points: value.points,
            value_msat: value.value_msat,
            as_of_ms,
        }
    }
}

impl From<crate::Answer<rewards::Redemption>> for Redemption {
    fn from(answer: crate::Answer<rewards::Redemption>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        let (points, amount_msat) = (value.points, value.amount_msat);
        Self {
            id: value.id.to_string(),
            points,
            amount_msat,
            as_of_ms,
        }
    }
}

impl From<ledger::TransferRow> for Transfer {
    fn from(row: ledger::TransferRow) -> Self {
        Self {
            position: row.position,
            at_ms: row.at_ms,
            debit: row.debit.to_string(),
            credit: row.credit.to_string(),
            amount: row.amount,
            reference: row.reference,
        }
    }
}

impl From<crate::Answer<reports::TrialBalance>> for TrialBalance {
    fn from(answer: crate::Answer<reports::TrialBalance>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        let is_balanced = value.is_balanced();
        let line = |line: reports::TrialBalanceLine| TrialBalanceLine {
            account: line.account.to_string(),
            balance: line.balance.to_string(),
        };
        Self {
            is_balanced,
            lines: value.lines.into_iter().map(line).collect(),
            as_of_ms,
        }
    }
}

impl From<crate::Answer<reports::Audit>> for Audit {
    fn from(answer: crate::Answer<reports::Audit>) -> Self {
        let crate::Answer { as_of_ms, value } = answer;
        let control = |control: reports::Control| Control {
            account: control.account.to_string(),
            booked_msat: control.booked_msat,
            actual_msat: control.actual_msat,
            difference_msat: control.difference_msat,
            is_explained: control.is_explained(),
        };
        let controls = value.controls.into_iter().map(control).collect();
        Self {
            is_balanced: value.is_balanced,
            controls,
            as_of_ms,
        }
    }
}

impl From<ledger::EventRecord> for FlashEvent {
    fn from(event: ledger::EventRecord) -> Self {
        Self {
            position: event.position,
            at_ms: event.at_ms,
            kind: event.kind,
            object_id: event.object,
            body_json: event.body.to_string(),
        }
    }
}
