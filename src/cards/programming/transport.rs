//! The way to a chip, which the host gives.

use async_trait::async_trait;

/// The reader could not bring an answer. What was sent may or may not have reached the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The chip left the field, or stopped answering. `card.chip_lost`.
    #[error("the chip left the field")]
    Lost,
    /// The reader itself refused: switched off, not allowed, or busy. `card.chip_reader_failed`.
    #[error("the reader does not work")]
    ReaderFailed,
}

/// Brings commands to a chip and its answers back: a phone's NFC, or a reader on a cable.
///
/// Asynchronous, because that is what iOS and React Native offer; a blocking reader just answers.
/// One call is one frame: an ISO 7816-4 command, answered with data, SW1 and SW2.
#[async_trait]
pub trait CardTransport: Send + Sync {
    /// Sends `command` and brings back the whole answer, SW1 and SW2 at its end.
    ///
    /// # Errors
    /// When no answer came. The command may or may not have reached the chip.
    async fn transceive(&self, command: Vec<u8>) -> Result<Vec<u8>, TransportError>;
}
