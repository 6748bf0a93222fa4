//! What stands in the way of a card's life.

use crate::Error;
use crate::cards::{CardError, CardState};
use crate::ids::CardId;

/// A step of a card's life was refused. Nothing was changed, but that a wrong code is counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LifeError {
    /// The card's time is over. `card.expired`.
    #[error("the card {card} could be used until {expired_at_ms}")]
    Expired {
        /// The card.
        card: CardId,
        /// From when on it could not, milliseconds since the epoch.
        expired_at_ms: i64,
    },
    /// The card carries its money itself: it is not in these books. `card.bearer`.
    #[error("the card {card} carries its money itself")]
    Bearer {
        /// The card.
        card: CardId,
    },
    /// The card that should be handed over was before. `card.not_blank`.
    #[error("the card {card} is not new: {state:?}")]
    NotBlank {
        /// The card.
        card: CardId,
        /// How it stands.
        state: CardState,
    },
    /// A hundred cards came in each other's place. `card.replaced_too_often`.
    #[error("the card {card} cannot be replaced any more: retire it to a new one")]
    ReplacedTooOften {
        /// The card.
        card: CardId,
    },
    /// Other cards spend the balance of this one. `card.has_family`.
    #[error("other cards spend the balance of the card {card}: retire them first")]
    HasFamily {
        /// The card.
        card: CardId,
    },
    /// The card is a family card itself. `card.family_of_family`.
    #[error("the card {card} spends another one's balance itself")]
    FamilyOfFamily {
        /// The card.
        card: CardId,
    },
    /// As many cards spend the balance of this one as can. `card.family_full`.
    #[error("no more cards can spend the balance of the card {card}")]
    FamilyFull {
        /// The card.
        card: CardId,
    },
    /// The money of a card becomes the operator's by rule, and not because somebody asks for it.
    /// `card.breakage_by_rule`.
    #[error("a card's money becomes the operator's by rule alone")]
    BreakageByRule,
    /// The text is no recovery code: it was mistyped. `card.bad_recovery_code`.
    #[error("this is no recovery code: is it typed as it is printed?")]
    BadRecoveryCode,
    /// No such recovery code, or it was used. `card.wrong_recovery_code`.
    #[error("this recovery code is not good, or not any more")]
    WrongRecoveryCode,
    /// Too many wrong recovery codes came from this source, or too many looks at this virtual card
    /// had a wrong code. `card.too_many_wrong_codes`, retryable.
    #[error("too many wrong codes were tried; {retry_after_ms} ms to wait")]
    TooManyWrongCodes {
        /// When codes are looked at again, in milliseconds.
        retry_after_ms: i64,
    },
    /// The text is no number of a virtual card: it was mistyped. `card.bad_card_number`.
    #[error("this is no number of a virtual card: is it typed as it is shown?")]
    BadCardNumber,
    /// The card is no virtual one. `card.not_virtual`.
    #[error("the card {card} has no number")]
    NotVirtual {
        /// The card.
        card: CardId,
    },
    /// The code is wrong or too old, and that was counted. `card.wrong_code`.
    #[error("the code of the card {card} is another one by now; {attempts_left} more attempts")]
    WrongCode {
        /// The card.
        card: CardId,
        /// How many more wrong ones there may be.
        attempts_left: u32,
    },
    /// The code was wrong too often; the holder unlocks it. `card.code_locked`.
    #[error("the code of the card {card} was wrong too often")]
    CodeLocked {
        /// The card.
        card: CardId,
    },
}

impl LifeError {
    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TooManyWrongCodes { .. })
    }

    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "card.expired",
            Self::Bearer { .. } => "card.bearer",
            Self::NotBlank { .. } => "card.not_blank",
            Self::ReplacedTooOften { .. } => "card.replaced_too_often",
            Self::HasFamily { .. } => "card.has_family",
            Self::FamilyOfFamily { .. } => "card.family_of_family",
            Self::FamilyFull { .. } => "card.family_full",
            Self::BreakageByRule => "card.breakage_by_rule",
            Self::BadRecoveryCode => "card.bad_recovery_code",
            Self::WrongRecoveryCode => "card.wrong_recovery_code",
            Self::TooManyWrongCodes { .. } => "card.too_many_wrong_codes",
            Self::BadCardNumber => "card.bad_card_number",
            Self::NotVirtual { .. } => "card.not_virtual",
            Self::WrongCode { .. } => "card.wrong_code",
            Self::CodeLocked { .. } => "card.code_locked",
        }
    }
}

impl From<LifeError> for Error {
    fn from(error: LifeError) -> Self {
        CardError::from(error).into()
    }
}
