//! What can be wrong with a report.

/// A report could not be made or checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The signature is not this key's, or what was signed is not this. `report.bad_signature`.
    #[error("the signature does not fit")]
    BadSignature,
    /// The period ends before it begins, or names no day there is. `report.bad_period`.
    #[error("this is no period of time")]
    BadPeriod,
}

impl ReportError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadSignature => "report.bad_signature",
            Self::BadPeriod => "report.bad_period",
        }
    }
}
