//! Why points were refused.

use crate::ids::ProgramId;

/// Points were refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// No such program. `reward.program_not_found`.
    #[error("there is no points program {program}")]
    ProgramNotFound {
        /// Which.
        program: ProgramId,
    },
    /// The merchant has a program already. `reward.merchant_has_program`.
    #[error("the merchant has the points program {program} already")]
    MerchantHasProgram {
        /// Which.
        program: ProgramId,
    },
    /// Not enough points. `reward.insufficient_points`.
    #[error("the card has {available} points, {needed} are needed")]
    InsufficientPoints {
        /// What it has.
        available: i64,
        /// What was asked.
        needed: i64,
    },
}

impl RewardError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ProgramNotFound { .. } => "reward.program_not_found",
            Self::MerchantHasProgram { .. } => "reward.merchant_has_program",
            Self::InsufficientPoints { .. } => "reward.insufficient_points",
        }
    }
}
