//! What can be wrong with the operator's own money.

use crate::ids::TransferId;

/// An amount in suspense could not be assigned. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreasuryError {
    /// No such amount in suspense. `treasury.suspense_not_found`.
    #[error("there is no amount {item} in suspense")]
    SuspenseNotFound {
        /// Which.
        item: TransferId,
    },
    /// It was assigned before. `treasury.suspense_assigned`.
    #[error("the amount {item} was assigned before")]
    SuspenseAssigned {
        /// Which.
        item: TransferId,
    },
}

impl TreasuryError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SuspenseNotFound { .. } => "treasury.suspense_not_found",
            Self::SuspenseAssigned { .. } => "treasury.suspense_assigned",
        }
    }
}
