//! Why a credential was not enough.

use crate::ids::CredentialId;

/// The credential does not allow the call. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// No such credential in these books. `access.unknown`.
    #[error("this credential is not known here")]
    Unknown,
    /// The credential was revoked. `access.revoked`.
    #[error("the credential {credential} was revoked")]
    Revoked {
        /// Which.
        credential: CredentialId,
    },
    /// The books were made with another master secret. `access.other_secret`.
    #[error("these books were made with another master secret")]
    OtherSecret,
    /// The books are of another network. `access.other_network`.
    #[error("these books are of {found}, not of {given}")]
    OtherNetwork {
        /// The network of the books.
        found: String,
        /// The network they were opened with.
        given: String,
    },
    /// The master secret is sealed in these books with another key of the host's.
    /// `access.wrong_host_key`.
    #[error("the master secret is sealed with the host key {sealed_with}, which was not given")]
    WrongHostKey {
        /// The name of the key it is sealed with, by [`HostKey::name`](crate::access::HostKey::name).
        sealed_with: String,
    },
    /// What the host's key should open is not what was sealed. `access.seal_broken`.
    #[error("the sealed master secret is not as it was sealed")]
    SealBroken,
    /// The books were made with a master secret that the host keeps: seal that one.
    /// `access.not_sealed`.
    #[error("these books were made with a master secret that is not sealed in them")]
    NotSealed,
    /// Another credential is needed. `access.not_allowed`.
    #[error("this needs another credential: {needs}")]
    NotAllowed {
        /// Which would do.
        needs: &'static str,
    },
}

impl AccessError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "access.unknown",
            Self::Revoked { .. } => "access.revoked",
            Self::OtherSecret => "access.other_secret",
            Self::OtherNetwork { .. } => "access.other_network",
            Self::WrongHostKey { .. } => "access.wrong_host_key",
            Self::SealBroken => "access.seal_broken",
            Self::NotSealed => "access.not_sealed",
            Self::NotAllowed { .. } => "access.not_allowed",
        }
    }
}
