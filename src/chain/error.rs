//! What can go wrong when the chain is asked.

/// The chain could not be asked, or did not take a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The engine was built without a source. `chain.not_configured`.
    #[error("the engine has no source for the chain")]
    NotConfigured,
    /// Neither the merchant nor the operator has a wallet to be paid in. `chain.no_wallet`.
    #[error("there is no wallet to be paid in")]
    NoWallet,
    /// The server cannot be reached, or answers too late. `chain.unreachable`, retryable.
    #[error("the chain's server cannot be reached: {reason}")]
    Unreachable {
        /// Why, without the address.
        reason: String,
    },
    /// The server's answer is none of its kind. `chain.bad_answer`, retryable.
    #[error("the chain's server gave no proper answer to {question}")]
    BadAnswer {
        /// What it was asked.
        question: &'static str,
    },
    /// The chain changed while it was read. `chain.moved`, retryable.
    #[error("the chain changed while it was read")]
    Moved,
    /// The network does not take the transaction. `chain.transaction_refused`.
    #[error("the network does not take the transaction: {reason}")]
    TransactionRefused {
        /// What the server said.
        reason: String,
    },
    /// The server does not know what the next blocks cost. `chain.no_fee_rate`, retryable.
    #[error("the server has no estimate of fees")]
    NoFeeRate,
    /// The amount is below what the network relays. `chain.dust`.
    #[error("{amount_sat} sat is dust: such an output needs {minimum_sat} sat")]
    Dust {
        /// What was asked.
        amount_sat: u64,
        /// The least.
        minimum_sat: u64,
    },
}

impl ChainError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotConfigured => "chain.not_configured",
            Self::NoWallet => "chain.no_wallet",
            Self::Unreachable { .. } => "chain.unreachable",
            Self::BadAnswer { .. } => "chain.bad_answer",
            Self::Moved => "chain.moved",
            Self::TransactionRefused { .. } => "chain.transaction_refused",
            Self::NoFeeRate => "chain.no_fee_rate",
            Self::Dust { .. } => "chain.dust",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::BadAnswer { .. } | Self::Moved | Self::NoFeeRate
        )
    }
}
