//! One id type per entity: a UUID in time order (version 7, RFC 9562), printed with a prefix.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The text is no id of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no {prefix} id: expected {prefix}_ and 32 lower-case hex digits")]
pub struct ParseIdError {
    /// What the id should begin with.
    pub prefix: &'static str,
}

macro_rules! entity_ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes the id of an entity that begins at `unix_ms`. Ids made later sort later.
            pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.as_simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse(text, concat!($prefix, "_")).map(Self).ok_or(ParseIdError { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

/// One spelling an id, so that an id is also its key in a store.
fn parse(text: &str, prefix: &str) -> Option<Uuid> {
    let digits = text.strip_prefix(prefix)?;
    let lower = digits
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() == 32 && lower {
        Uuid::try_parse(digits).ok()
    } else {
        None
    }
}

entity_ids! {
    /// An invoice.
    InvoiceId = "inv";
    /// A card.
    CardId = "card";
    /// The rules that many cards have in common.
    CardProgramId = "cprog";
    /// Cards that are taken over from another issuer.
    CardImportId = "cimp";
    /// A sale paid with a card.
    ChargeId = "chg";
    /// A merchant.
    MerchantId = "mer";
    /// A points program.
    ProgramId = "prog";
    /// A BOLT11 that is paid with the money of a card.
    CardPaymentId = "cpay";
    /// A refund of an invoice.
    RefundId = "rfd";
    /// A payout.
    PayoutId = "pay";
    /// A credential.
    CredentialId = "cred";
    /// A transfer or a hold.
    TransferId = "tr";
    /// A batch.
    BatchId = "bat";
    /// Points that were redeemed.
    RedemptionId = "red";
    /// A wallet on chain.
    WalletId = "wal";
    /// A spend of a wallet.
    SpendId = "spd";
    /// All that the node has on its way to somebody's own wallet.
    DrainId = "drain";
    /// Capital that the operator moved.
    CapitalId = "cap";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_sorts_by_time() {
        let early = InvoiceId::from_parts(1_700_000_000_000, [255; 10]);
        let late = InvoiceId::from_parts(1_700_000_000_001, [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!(
            early
                .to_string()
                .to_uppercase()
                .parse::<InvoiceId>()
                .is_err()
        );
        assert!(early.to_string().parse::<CardId>().is_err());
        assert!(
            format!("inv_{}", "é".repeat(16))
                .parse::<InvoiceId>()
                .is_err()
        );
    }
}
