//! Why taps that were collected offline were refused.

/// An envelope, a key or a tap of a till that was offline was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The text is no key: 64 hex digits, or 32 bytes that are one. `offline.bad_key`.
    #[error("this is no key to sign with")]
    BadKey,
    /// The signature is not the key's. `offline.bad_signature`.
    #[error("the signature is not the till's")]
    BadSignature,
    /// The envelope is not what a till makes. `offline.malformed`.
    #[error("this is no envelope of a till: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A tap does not follow the one before it. `offline.chain_broken`.
    #[error("tap {sequence} does not follow the one before it")]
    ChainBroken {
        /// Its number.
        sequence: u64,
    },
    /// Another tap has this number. `offline.forked`.
    #[error("another tap of this till was number {sequence}")]
    Forked {
        /// The number.
        sequence: u64,
    },
    /// The till has not registered this key. `offline.unknown_key`.
    #[error("the till has not registered this key")]
    UnknownKey,
    /// Another till has registered this key. `offline.key_taken`.
    #[error("another till has registered this key")]
    KeyTaken,
    /// The till has registered too many keys. `offline.too_many_keys`.
    #[error("a till may register {most} keys")]
    TooManyKeys {
        /// How many it may.
        most: usize,
    },
    /// The merchant may not take taps offline. `offline.not_allowed`.
    #[error("the merchant may not take taps offline")]
    NotAllowed,
    /// The same tap was collected before by this till. `offline.tap_twice`.
    #[error("this tap was collected before")]
    TapTwice,
    /// More than one tap may come to. `offline.over_tap_limit`.
    #[error("a tap may come to {limit_msat} msat offline")]
    OverTapLimit {
        /// The limit.
        limit_msat: i64,
    },
    /// More than a day may come to. `offline.over_day_limit`.
    #[error("a day may come to {limit_msat} msat offline")]
    OverDayLimit {
        /// The limit.
        limit_msat: i64,
    },
    /// The tap came too late. `offline.too_late`.
    #[error("the tap could be replayed until {until_ms}")]
    TooLate {
        /// Until when it could, milliseconds since the epoch.
        until_ms: i64,
    },
    /// The card's program takes no taps offline. `offline.card_takes_none`.
    #[error("the card takes no taps offline")]
    CardTakesNone,
    /// The tap was taken after the till had registered another key. `offline.key_retired`.
    #[error("the till's key was replaced at {retired_at_ms}")]
    KeyRetired {
        /// When, milliseconds since the epoch.
        retired_at_ms: i64,
    },
}

impl OfflineError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadKey => "offline.bad_key",
            Self::BadSignature => "offline.bad_signature",
            Self::Malformed { .. } => "offline.malformed",
            Self::ChainBroken { .. } => "offline.chain_broken",
            Self::Forked { .. } => "offline.forked",
            Self::UnknownKey => "offline.unknown_key",
            Self::KeyTaken => "offline.key_taken",
            Self::TooManyKeys { .. } => "offline.too_many_keys",
            Self::NotAllowed => "offline.not_allowed",
            Self::TapTwice => "offline.tap_twice",
            Self::OverTapLimit { .. } => "offline.over_tap_limit",
            Self::OverDayLimit { .. } => "offline.over_day_limit",
            Self::TooLate { .. } => "offline.too_late",
            Self::CardTakesNone => "offline.card_takes_none",
            Self::KeyRetired { .. } => "offline.key_retired",
        }
    }
}
