//! Credentials: who may do what.
//!
//! Three kinds act on an engine: the **issuer** (the operator), a **till** (of one merchant,
//! paired once, revocable) and a **holder** (of one card, made at activation). A tap proves that
//! a card is present, never who holds it.

mod error;
mod sealed_secret;
mod token;

use serde::{Deserialize, Serialize};

pub use error::AccessError;
pub use sealed_secret::{HostKey, HostKeys};
pub use token::Credential;

use crate::Error;
use crate::core::{Caller, Core, Loaded, put};
use crate::ids::{CardId, CredentialId, MerchantId};
use crate::ledger::Step;

pub(crate) const CREDENTIALS: &str = "credential";
const ENGINE: &str = "engine";
const IDENTITY: &str = "identity";

/// What a credential may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Role {
    /// Everything that the operator may do.
    Issuer,
    /// Sells for one merchant: invoices, charges.
    Till {
        /// The merchant.
        merchant: MerchantId,
    },
    /// Holds one card: unfreezes it, redeems its points.
    Holder {
        /// The card.
        card: CardId,
    },
    /// A printed code: gets the credential of the card's holder back, once.
    Recovery {
        /// The card.
        card: CardId,
    },
}

/// A credential as it is kept. The token itself is not: it is derived from the master secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CredentialRecord {
    pub(crate) id: CredentialId,
    pub(crate) role: Role,
    pub(crate) label: String,
    pub(crate) revoked: bool,
}

/// What books belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// Derived from the master secret, and of no use for anything else.
    secret_check: String,
    network: String,
}

impl Identity {
    fn matches(&self, given: &Self) -> Result<(), Error> {
        if self.secret_check != given.secret_check {
            return Err(AccessError::OtherSecret.into());
        }
        if self.network != given.network {
            let (found, given) = (self.network.clone(), given.network.clone());
            return Err(AccessError::OtherNetwork { found, given }.into());
        }
        Ok(())
    }
}

impl Core {
    /// Checks a credential, and that it has not been revoked.
    pub(crate) async fn authenticate(&self, credential: &Credential) -> Result<Caller, Error> {
        let (id, secret) = credential.parts().ok_or(AccessError::Unknown)?;
        if !token::same(&secret, &self.secrets.credential(id)) {
            return Err(AccessError::Unknown.into());
        }
        self.admit(id).await
    }

    /// Whoever has this credential, as the books know it now.
    pub(crate) async fn admit(&self, id: CredentialId) -> Result<Caller, Error> {
        let Loaded { version, value } = self.standing(id).await?;
        let guard = Step::Require {
            collection: CREDENTIALS,
            id: id.to_string(),
            version,
        };
        Ok(Caller {
            id,
            role: value.role,
            guard,
        })
    }

    /// As [`admit`](Self::admit), one that was revoked as well: what it did before still has its
    /// answer. That it was revoked is then for the command to see.
    pub(crate) async fn admit_even_revoked(&self, id: CredentialId) -> Result<Caller, Error> {
        let found: Loaded<CredentialRecord> = self
            .load(CREDENTIALS, &id.to_string())
            .await?
            .ok_or(AccessError::Unknown)?;
        let guard = Step::Require {
            collection: CREDENTIALS,
            id: id.to_string(),
            version: found.version,
        };
        let role = found.value.role;
        Ok(Caller { id, role, guard })
    }

    /// A credential that was not revoked.
    async fn standing(&self, id: CredentialId) -> Result<Loaded<CredentialRecord>, Error> {
        let found: Loaded<CredentialRecord> = self
            .load(CREDENTIALS, &id.to_string())
            .await?
            .ok_or(AccessError::Unknown)?;
        if found.value.revoked {
            return Err(AccessError::Revoked { credential: id }.into());
        }
        Ok(found)
    }

    /// The token of a credential; made again whenever it is asked for.
    pub(crate) fn token(&self, id: CredentialId) -> Credential {
        Credential::new(id, &self.secrets.credential(id))
    }

    /// The step that makes a credential.
    pub(crate) fn new_credential(
        &self,
        id: CredentialId,
        role: Role,
        label: &str,
    ) -> Result<Step, Error> {
        let record = CredentialRecord {
            id,
            role,
            label: label.to_owned(),
            revoked: false,
        };
        put(CREDENTIALS, id.to_string(), 0, &record, Vec::new())
    }

    /// The step that takes a credential away.
    pub(crate) async fn revoke(&self, id: CredentialId) -> Result<Step, Error> {
        let Loaded { version, value } = self.standing(id).await?;
        let after = CredentialRecord {
            revoked: true,
            ..value
        };
        put(CREDENTIALS, id.to_string(), version, &after, Vec::new())
    }

    /// Books belong to one master secret and one network: with another secret their preimages
    /// and credentials would be lost, on another network their money would be nobody's.
    pub(crate) async fn check_identity(&self) -> Result<(), Error> {
        let given = Identity {
            secret_check: self.secrets.check(),
            network: self.network.clone(),
        };
        let (id, wanted) = (IDENTITY, &given);
        self.settle(|| async move {
            match self.load::<Identity>(ENGINE, id).await? {
                None => Ok(Some(vec![put(
                    ENGINE,
                    id.to_owned(),
                    0,
                    wanted,
                    Vec::new(),
                )?])),
                Some(found) => found.value.matches(wanted).map(|()| None),
            }
        })
        .await?;
        Ok(())
    }

    /// Makes the issuer's credential in new books; does nothing in old ones.
    pub(crate) async fn ensure_issuer(&self) -> Result<(), Error> {
        let id = self.issuer;
        self.settle(|| async move {
            if self
                .store
                .document(CREDENTIALS, &id.to_string())
                .await?
                .is_some()
            {
                return Ok(None);
            }
            Ok(Some(vec![self.new_credential(
                id,
                Role::Issuer,
                "issuer",
            )?]))
        })
        .await?;
        Ok(())
    }
}

impl Caller {
    pub(crate) fn require_issuer(&self) -> Result<(), AccessError> {
        match self.role {
            Role::Issuer => Ok(()),
            _ => Err(AccessError::NotAllowed { needs: "issuer" }),
        }
    }

    /// The issuer, or a till of this merchant.
    pub(crate) fn require_seller(&self, merchant: MerchantId) -> Result<(), AccessError> {
        match self.role {
            Role::Issuer => Ok(()),
            Role::Till { merchant: own } if own == merchant => Ok(()),
            _ => Err(AccessError::NotAllowed {
                needs: "issuer, or till of the merchant",
            }),
        }
    }

    /// The till, and its merchant.
    pub(crate) fn require_till(&self) -> Result<MerchantId, AccessError> {
        match self.role {
            Role::Till { merchant } => Ok(merchant),
            _ => Err(AccessError::NotAllowed { needs: "till" }),
        }
    }

    pub(crate) fn require_holder(&self, card: CardId) -> Result<(), AccessError> {
        match self.role {
            Role::Holder { card: own } if own == card => Ok(()),
            _ => Err(AccessError::NotAllowed {
                needs: "holder of the card",
            }),
        }
    }

    pub(crate) fn require_issuer_or_holder(&self, card: CardId) -> Result<(), AccessError> {
        self.require_issuer()
            .or_else(|_| self.require_holder(card))
            .map_err(|_| AccessError::NotAllowed {
                needs: "issuer, or holder of the card",
            })
    }
}
