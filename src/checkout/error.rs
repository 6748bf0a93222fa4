//! What can be wrong with an address, a link or a button.

/// It could not be set or made. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckoutError {
    /// A colour, a radius or a title is out of its bounds. `checkout.bad_style`.
    #[error("the button cannot look like that: {reason}")]
    BadStyle {
        /// What is wrong.
        reason: &'static str,
    },
    /// The name is another seller's. `checkout.name_taken`.
    #[error("the name {name} is another seller's")]
    NameTaken {
        /// Which.
        name: String,
    },
    /// Nobody has this address. `checkout.address_unknown`.
    #[error("nobody has this address")]
    AddressUnknown,
    /// The address takes nothing now. `checkout.address_closed`.
    #[error("the address takes no payments now")]
    AddressClosed,
    /// The amount is not within the bounds of the address. `checkout.amount_not_within_bounds`.
    #[error("the amount is not within bounds: {min_msat} to {max_msat} msat")]
    AmountNotWithinBounds {
        /// The least.
        min_msat: i64,
        /// The most.
        max_msat: i64,
    },
    /// The terms were set anew since the payer was shown them. `checkout.terms_changed`.
    #[error("the terms of the address have changed: look at them again")]
    TermsChanged,
    /// The comment is longer than the address takes. `checkout.comment_too_long`.
    #[error("a comment has at most {most} characters here")]
    CommentTooLong {
        /// The most characters.
        most: u32,
    },
    /// What the payer says of itself is not what was asked for. `checkout.bad_payer_data`.
    #[error("the payer's data are not what was asked for: {reason}")]
    BadPayerData {
        /// What is wrong.
        reason: &'static str,
    },
    /// The address asks for invoices faster than it may. `checkout.too_many_requests`, retryable.
    #[error("too many invoices were asked for at this address: try again later")]
    TooManyRequests,
}

impl CheckoutError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadStyle { .. } => "checkout.bad_style",
            Self::NameTaken { .. } => "checkout.name_taken",
            Self::AddressUnknown => "checkout.address_unknown",
            Self::AddressClosed => "checkout.address_closed",
            Self::AmountNotWithinBounds { .. } => "checkout.amount_not_within_bounds",
            Self::TermsChanged => "checkout.terms_changed",
            Self::CommentTooLong { .. } => "checkout.comment_too_long",
            Self::BadPayerData { .. } => "checkout.bad_payer_data",
            Self::TooManyRequests => "checkout.too_many_requests",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TooManyRequests)
    }
}
