//! Chips that are written: by the published examples byte for byte, and against a simulated chip
//! that shares no code with the driver, is torn away after any frame, and is lied to.

mod bench;
mod operations;
mod power_loss;
mod published;
mod recorded;
mod refusals;
mod tampering;
