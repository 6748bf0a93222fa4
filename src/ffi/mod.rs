//! The UniFFI facade: what Kotlin, TypeScript, Swift and Python see of the engine.
//!
//! Conversion only. Every method takes a credential and one record, hands the core's own command
//! to the core's own handle, and turns the answer into a flat record. Ids and credentials cross
//! as text, amounts as whole numbers with their unit in the name, totals that can outgrow 64 bits
//! as decimal text, times in milliseconds since the epoch, errors as [`FlashError`]: a handful of
//! kinds with a stable `code` each.
#![allow(
    unsafe_code,
    reason = "uniffi's macros write `unsafe impl` and `no_mangle` for every exported item"
)]

mod calls_books;
mod calls_by_hand;
mod calls_cards;
mod calls_charges;
#[cfg(feature = "chain")]
mod calls_drains;
mod calls_invoices;
mod calls_merchants;
mod calls_standing;
#[cfg(feature = "chain")]
mod calls_wallets;
mod config;
mod error;
mod listener;
#[cfg(feature = "ldk")]
mod node;
mod object;
mod records_books;
mod records_by_hand;
mod records_cards;
mod records_charges;
#[cfg(feature = "chain")]
mod records_drains;
mod records_invoices;
mod records_merchants;
mod records_money;
mod records_standing;
#[cfg(feature = "chain")]
mod records_wallets;
mod runtime;
mod scaffolding;
#[cfg(feature = "testkit")]
mod simulated;
mod transfer_kind;

#[doc(hidden)]
pub use scaffolding::UniFfiTag;

pub use config::{FixedRate, FlashkitConfig, LightningConfig, Network};
pub use error::FlashError;
pub use listener::EventListener;
#[cfg(feature = "ldk")]
pub use node::{ChainSource, NodeChannel};
pub use object::{Flashkit, flashkit_version};
pub use records_books::{
    AccountBalance, AssetTotals, Audit, BookCapitalRequest, BooksDifference, Capital,
    CapitalAccount, CapitalDirection, Control, EngineEvent, JobFailure, JobsReport, LedgerSide,
    Problem, Transfer, TransferPage, TrialBalance, TrialBalanceLine, UntiedControl,
};
pub use records_by_hand::{
    AssignSuspenseRequest, GiveUpInvoiceRequest, PayoutOutcome, RenewHolderRequest,
    ResolvePayoutRequest, SuspenseItem, SuspenseTarget,
};
pub use records_cards::{
    ActivateCardRequest, Activation, Card, CardLimits, CardSnapshot, CardState, ExistingChip,
    FreezeCardRequest, IssueCardRequest, LimitKind, LimitUsage, ProgrammingKeys,
    SetCardLimitsRequest, TopUpCardRequest,
};
pub use records_charges::{
    AuthorizeCardRequest, CaptureChargeRequest, CardPinStatus, Charge, ChargeCardRequest,
    ChargePage, ChargeState, RefundChargeRequest, ReleaseChargeRequest, SetCardPinRequest,
    UnlockCardPinRequest,
};
#[cfg(feature = "chain")]
pub use records_drains::{
    ChannelEnd, DrainNodeRequest, DrainPage, DrainSend, DrainState, DrainWait, DrainedChannel,
    EndDrainRequest, NodeDrain,
};
pub use records_invoices::{
    CreateInvoiceRequest, Invoice, InvoicePage, InvoicePurpose, InvoiceState,
};
pub use records_merchants::{
    CreateMerchantRequest, CreatePointsProgramRequest, Merchant, MerchantBalance, PairTillRequest,
    PairedTill, Payout, PayoutPage, PayoutQuote, PayoutState, PayoutTerms, PointsBalance,
    PointsProgram, RedeemPointsRequest, Redemption, RequestPayoutRequest, RevokeTillRequest, Till,
};
pub use records_money::{Price, Quote, QuoteSide, Rounding};
pub use records_standing::{Health, LostChannel, NodeStatus, Trouble};
#[cfg(feature = "chain")]
pub use records_wallets::{
    AddWalletRequest, ImportLabelsRequest, LabelsImported, NewAddressRequest, Wallet,
    WalletAddress, WalletBalance, WalletOwner, WalletPage, WalletSource, XpubKind,
};
#[cfg(feature = "testkit")]
pub use simulated::{SimulatedLightning, SimulatedWallet, VirtualBoltCard};
pub use transfer_kind::TransferKind;
