//! Why a chip was not written.

use super::ntag424::Instruction;
use super::transport::TransportError;
use crate::ports::EntropyError;

/// A chip was not written to the end. Whatever the cause, no key on it is one that was not given:
/// the same operation can be run again with the same arguments.
///
/// No variant holds a key, a tap or a cryptogram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChipError {
    /// No answer; the codes are those of [`TransportError`].
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// No randomness for the authentication. `card.chip_no_entropy`.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The keys given are not five times 32 hex digits. `card.chip_bad_keys`.
    #[error("a chip's keys are five times 32 hex digits")]
    BadKeys,
    /// The number given is not 14 hex digits. `card.bad_uid`.
    #[error("a chip's number is 14 hex digits")]
    BadUid,
    /// The URL cannot be put on a chip. `card.chip_bad_url`.
    #[error("this URL cannot be put on a chip: {reason}")]
    BadUrl {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More sets of keys than may be tried at one chip, which slows down and locks after many
    /// failures. `card.chip_too_many_keys`.
    #[error("at most {limit} sets of keys are tried at one chip")]
    TooManyKeys {
        /// The most that are tried.
        limit: usize,
    },
    /// The chip is not an NTAG 424 DNA. `card.chip_not_supported`.
    #[error("this chip is not an NTAG 424 DNA")]
    NotSupported,
    /// The keys were made for another chip; nothing was written. `card.chip_other_card`.
    #[error("the keys were made for another chip")]
    OtherCard,
    /// None of the master keys given is the chip's; nothing was written. Each was tried once.
    /// `card.chip_keys_refused`.
    #[error("none of the {tried} master keys given is the chip's")]
    KeysRefused {
        /// How many failed authentications that cost.
        tried: usize,
    },
    /// The master key is right, but none of the sets given holds the chip's key of this number.
    /// Run again with the older sets as well. `card.chip_key_unknown`.
    #[error("none of the keys given is the chip's key {number}")]
    KeyUnknown {
        /// The number of the key, 1 to 4.
        number: u8,
    },
    /// After many failed authentications the chip makes the next one wait; it is to be tried again
    /// until it answers. `card.chip_delayed`.
    #[error("the chip makes the next authentication wait")]
    Delayed,
    /// The chip holds these keys already, with another URL. Changing that would start its counter
    /// again at 0, below the taps already used: keys of a new version go with a new URL.
    /// `card.chip_url_differs`.
    #[error("the chip holds these keys with another URL")]
    UrlDiffers,
    /// The chip was written, but its tap does not verify with the keys it was given.
    /// `card.chip_check_failed`.
    #[error("the tap of the programmed chip does not verify")]
    CheckFailed,
    /// A command needs an authentication that is not there. `card.chip_not_authenticated`.
    #[error("{command:?} needs an authenticated session")]
    NotAuthenticated {
        /// The command.
        command: Instruction,
    },
    /// The chip refused a command. `card.chip_refused`.
    #[error("the chip answered {command:?} with {status:#06x}")]
    Refused {
        /// The command.
        command: Instruction,
        /// SW1 and SW2, as the data sheet lists them for the command.
        status: u16,
    },
    /// An answer has another form than the data sheet gives it. `card.chip_answer_malformed`.
    #[error("the chip's answer to {command:?} cannot be read: {reason}")]
    Malformed {
        /// The command.
        command: Instruction,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An answer was not made by the chip that was authenticated. `card.chip_answer_forged`.
    #[error("the answer to {command:?} is not the chip's")]
    Forged {
        /// The command.
        command: Instruction,
    },
}

impl ChipError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Transport(TransportError::Lost) => "card.chip_lost",
            Self::Transport(TransportError::ReaderFailed) => "card.chip_reader_failed",
            Self::Entropy(_) => "card.chip_no_entropy",
            Self::BadKeys => "card.chip_bad_keys",
            Self::BadUid => "card.bad_uid",
            Self::BadUrl { .. } => "card.chip_bad_url",
            Self::TooManyKeys { .. } => "card.chip_too_many_keys",
            Self::NotSupported => "card.chip_not_supported",
            Self::OtherCard => "card.chip_other_card",
            Self::KeysRefused { .. } => "card.chip_keys_refused",
            Self::KeyUnknown { .. } => "card.chip_key_unknown",
            Self::Delayed => "card.chip_delayed",
            Self::UrlDiffers => "card.chip_url_differs",
            Self::CheckFailed => "card.chip_check_failed",
            Self::NotAuthenticated { .. } => "card.chip_not_authenticated",
            Self::Refused { .. } => "card.chip_refused",
            Self::Malformed { .. } => "card.chip_answer_malformed",
            Self::Forged { .. } => "card.chip_answer_forged",
        }
    }

    /// Whether the same call may succeed when the card is held to the reader again.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Transport(_)
                | Self::Entropy(_)
                | Self::Delayed
                | Self::Malformed { .. }
                | Self::Forged { .. }
        )
    }
}
