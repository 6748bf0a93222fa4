//! The larger requests, as records. The key is made by the caller before the call.

use super::{CardLimits, ExistingChip, FlashError, InvoicePurpose, Price, parse_id};
use crate::cards::{ChargeCard, IssueCard};
use crate::invoices::CreateInvoice;
use crate::rewards::CreateProgram;
use crate::treasury::{BookCapital, CapitalAccount, CapitalDirection};

/// Makes an invoice.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CreateInvoiceRequest {
    /// Made by the caller before the call.
    pub key: String,
    /// What it is for.
    pub purpose: InvoicePurpose,
    /// What is to be paid.
    pub price: Price,
    /// What the payer reads.
    pub description: String,
    /// How long it can be paid: 60 seconds to 7 days.
    pub expiry_seconds: u32,
}

/// Makes a card for a chip.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct IssueCardRequest {
    /// Made by the caller before the call.
    pub key: String,
    /// The chip's own number: 14 hex digits.
    pub uid: String,
    /// What it may do.
    pub limits: CardLimits,
    /// For a chip that an older server wrote.
    #[uniffi(default = None)]
    pub existing_chip: Option<ExistingChip>,
}

/// Pays a sale with a tapped card.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct ChargeCardRequest {
    /// Made by the caller before the call.
    pub key: String,
    /// What the chip gave: its whole URL.
    pub tap: String,
    /// What is to be paid.
    pub price: Price,
    /// The merchant's own name for the sale.
    pub reference: String,
}

/// Makes a points program.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct CreateProgramRequest {
    /// Made by the caller before the call.
    pub key: String,
    /// Whose sales earn the points, and who pays for them.
    pub merchant_id: String,
    /// What people call it.
    pub name: String,
    /// How much of a sale goes into points, in hundredths of a percent.
    pub earn_bps: u32,
    /// What a point is worth.
    pub point_value_msat: i64,
}

/// Books money that the operator put in or took out.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct BookCapitalRequest {
    /// Made by the caller before the call.
    pub key: String,
    /// On chain, or else in the channels.
    pub onchain: bool,
    /// Taken out, or else put in.
    pub taken_out: bool,
    /// How much.
    pub amount_msat: i64,
    /// Why.
    pub reason: String,
}

impl TryFrom<CreateInvoiceRequest> for CreateInvoice {
    type Error = FlashError;

    fn try_from(request: CreateInvoiceRequest) -> Result<Self, Self::Error> {
        Ok(Self {
            key: super::key(&request.key)?,
            purpose: request.purpose.try_into()?,
            price: request.price.try_into()?,
            description: request.description,
            expiry_seconds: request.expiry_seconds,
        })
    }
}

impl TryFrom<IssueCardRequest> for IssueCard {
    type Error = FlashError;

    fn try_from(request: IssueCardRequest) -> Result<Self, Self::Error> {
        Ok(Self {
            key: super::key(&request.key)?,
            uid: request.uid,
            existing_chip: request.existing_chip.map(Into::into),
            limits: request.limits.into(),
        })
    }
}

impl TryFrom<ChargeCardRequest> for ChargeCard {
    type Error = FlashError;

    fn try_from(request: ChargeCardRequest) -> Result<Self, Self::Error> {
        Ok(Self {
            key: super::key(&request.key)?,
            tap: request.tap,
            price: request.price.try_into()?,
            reference: request.reference,
        })
    }
}

impl TryFrom<CreateProgramRequest> for CreateProgram {
    type Error = FlashError;

    fn try_from(request: CreateProgramRequest) -> Result<Self, Self::Error> {
        Ok(Self {
            key: super::key(&request.key)?,
            merchant: parse_id(&request.merchant_id)?,
            name: request.name,
            earn_bps: request.earn_bps,
            point_value_msat: request.point_value_msat,
        })
    }
}

impl TryFrom<BookCapitalRequest> for BookCapital {
    type Error = FlashError;

    fn try_from(request: BookCapitalRequest) -> Result<Self, Self::Error> {
        let (onchain, out) = (request.onchain, request.taken_out);
        Ok(Self {
            key: super::key(&request.key)?,
            account: if onchain {
                CapitalAccount::Onchain
            } else {
                CapitalAccount::Channels
            },
            direction: if out {
                CapitalDirection::Out
            } else {
                CapitalDirection::In
            },
            amount_msat: request.amount_msat,
            reason: request.reason,
        })
    }
}
