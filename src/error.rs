//! The one error of the crate.

use crate::access::AccessError;
use crate::cards::CardError;
use crate::chain::ChainError;
use crate::checkout::CheckoutError;
use crate::core::CommandError;
use crate::invoices::InvoiceError;
use crate::ledger::Refusal;
use crate::lightning::LightningError;
use crate::money::MoneyError;
use crate::ports::EntropyError;
use crate::rates::RateError;
use crate::receipts::ReceiptError;
use crate::refunds::RefundError;
use crate::reports::ReportError;
use crate::rewards::RewardError;
use crate::settlement::SettlementError;
use crate::store::{CommitError, StoreError};
use crate::treasury::TreasuryError;
#[cfg(feature = "chain")]
use crate::wallets::WalletError;

/// Whatever went wrong, as its module's own error. The text (`Display`) is for people;
/// [`code`](Self::code) is stable and for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An amount, a rate or a currency.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// The command itself: its key, or its shape.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The ledger refused.
    #[error(transparent)]
    Ledger(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node refused or failed.
    #[error(transparent)]
    Lightning(#[from] LightningError),
    /// The chain could not be asked, or did not take a transaction.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// There is no rate.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// The credential does not allow it.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An invoice.
    #[error(transparent)]
    Invoice(#[from] InvoiceError),
    /// A card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A points program.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// A merchant or a payout.
    #[error(transparent)]
    Settlement(#[from] SettlementError),
    /// A refund of an invoice.
    #[error(transparent)]
    Refund(#[from] RefundError),
    /// The operator's own money, or what waits in suspense.
    #[error(transparent)]
    Treasury(#[from] TreasuryError),
    /// A wallet on chain, or a spend of one.
    #[cfg(feature = "chain")]
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// A link, a button or an address to be paid by.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// A receipt.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// A report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The machine gave no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl Error {
    /// The stable, dotted code: `card.frozen`, `ledger.insufficient_funds`. Never changes its
    /// meaning once published.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Money(error) => error.code(),
            Self::Command(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Lightning(error) => error.code(),
            Self::Chain(error) => error.code(),
            Self::Rate(error) => error.code(),
            Self::Access(error) => error.code(),
            Self::Invoice(error) => error.code(),
            Self::Card(error) => error.code(),
            Self::Reward(error) => error.code(),
            Self::Settlement(error) => error.code(),
            Self::Refund(error) => error.code(),
            Self::Treasury(error) => error.code(),
            #[cfg(feature = "chain")]
            Self::Wallet(error) => error.code(),
            Self::Checkout(error) => error.code(),
            Self::Receipt(error) => error.code(),
            Self::Report(error) => error.code(),
            Self::Entropy(_) => "entropy.failed",
        }
    }

    /// True when the same call, **with the same key**, may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Lightning(error) => error.is_retryable(),
            Self::Chain(error) => error.is_retryable(),
            Self::Rate(error) => error.is_retryable(),
            Self::Ledger(refusal) => refusal.should_decide_again(),
            Self::Command(error) => error.is_retryable(),
            Self::Card(error) => error.is_retryable(),
            Self::Refund(error) => error.is_retryable(),
            Self::Checkout(error) => error.is_retryable(),
            Self::Entropy(_) => true,
            _ => false,
        }
    }

    /// The text for a person, in English.
    pub fn detail(&self) -> String {
        self.to_string()
    }

    /// The text for a person who asks without a credential: of what the node, the chain, the rates and the books
    /// have, no more than the code. How much the channels can take in is nobody's business there.
    pub(crate) fn for_a_stranger(&self) -> String {
        use LightningError::{BadInvoice, WrongNetwork};
        let is_ours = match self {
            // Of what was given.
            Self::Lightning(BadInvoice { .. } | WrongNetwork { .. }) => false,
            Self::Lightning(_) | Self::Ledger(_) | Self::Chain(_) | Self::Entropy(_) => true,
            Self::Rate(_) | Self::Store(_) => true,
            #[cfg(feature = "chain")]
            Self::Wallet(_) => true,
            _ => false,
        };
        match is_ours {
            true => format!("that cannot be done now ({})", self.code()),
            false => self.detail(),
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Refused(refusal) => refusal.into(),
            CommitError::Store(error) => error.into(),
        }
    }
}
