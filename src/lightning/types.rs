//! The records that cross the Lightning port.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::LightningError;
use crate::store::StoreError;

/// A name of 32 bytes that others made, as 64 hex digits.
macro_rules! hex_name {
    ($(#[$meta:meta])* $name:ident, $error:ident, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        /// The text is not 64 hex digits.
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error("{} is 64 hex digits", $what)]
        pub struct $error;

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| $error)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_name! {
    /// What a Lightning payment is known by: the SHA-256 of its preimage (BOLT 2). As text 64 hex
    /// digits.
    PaymentHash, ParsePaymentHashError, "a payment hash"
}

hex_name! {
    /// What an offer is known by (BOLT 12): the root of the Merkle tree of what it says. As text
    /// 64 hex digits.
    OfferId, ParseOfferIdError, "an offer's id"
}

/// The secret that settles a payment. Whoever knows it can claim the money on its way, so it has
/// no `Display`, its `Debug` says nothing, and it is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Preimage([u8; 32]);

impl Preimage {
    /// Takes the 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the node.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash under which this preimage is paid.
    pub fn payment_hash(&self) -> PaymentHash {
        PaymentHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for Preimage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preimage(redacted)")
    }
}

impl Drop for Preimage {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// An invoice to be made by the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceRequest {
    /// The engine's payment hash; the node does not know the preimage.
    pub payment_hash: PaymentHash,
    /// The amount, or `None` for an invoice whose payer chooses.
    pub amount_msat: Option<i64>,
    /// The text the payer reads.
    pub description: String,
    /// SHA-256 of what the payer was shown, in the place of the text (LUD-06).
    pub description_hash: Option<[u8; 32]>,
    /// How long the invoice can be paid.
    pub expiry_seconds: u32,
}

/// An offer to be made by the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferRequest {
    /// The amount, or `None` for an offer whose payer chooses.
    pub amount_msat: Option<i64>,
    /// The text the payer reads.
    pub description: String,
    /// How long invoices can be asked for by it.
    pub expiry_seconds: u32,
}

/// An offer that the node made (BOLT 12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What its payments are known by.
    pub id: OfferId,
    /// The text to pay: `lno1…`.
    pub text: String,
}

/// A payment to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRequest {
    /// The invoice.
    pub bolt11: String,
    /// The amount, for an invoice without one in it.
    pub amount_msat: Option<i64>,
    /// The most that the route may cost; the node never spends more.
    pub max_fee_msat: i64,
    /// For how many blocks the whole route may lock the money up, the last hop counted: who is
    /// paid can leave it waiting that long. `None` for what the node allows.
    pub max_lock_blocks: Option<u32>,
}

/// What became of a request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dispatch {
    /// The node took it. The outcome arrives as an event.
    Accepted,
    /// The node knows this payment already, pending or succeeded. Nothing was sent by this call.
    AlreadyKnown,
    /// Nothing was sent **by this call**. That says nothing of an earlier one.
    Refused {
        /// What the node said.
        reason: String,
    },
}

/// Which way a payment went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentDirection {
    /// To us.
    Inbound,
    /// From us.
    Outbound,
}

/// What the node's record says of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// On its way, or an invoice that waits.
    Pending,
    /// Paid.
    Succeeded,
    /// Refused or given up.
    Failed,
}

/// The node's own record of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRecord {
    /// What the payment is known by.
    pub payment_hash: PaymentHash,
    /// Which way it went.
    pub direction: PaymentDirection,
    /// How it stands.
    pub state: PaymentState,
    /// The amount without fees, where the node knows it.
    pub amount_msat: Option<i64>,
    /// The routing fee, for a payment of ours that succeeded.
    pub fee_msat: Option<i64>,
}

/// What the node holds, to compare with the control accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBalances {
    /// Ours in all open channels, reserves included, payments in flight taken out.
    pub channels_msat: i64,
    /// Ours on chain in the node's wallet, unconfirmed change included.
    pub onchain_msat: i64,
    /// Ours in channels that are closing, until the money is on chain.
    pub closing_msat: i64,
    /// What the peers could send us now.
    pub inbound_capacity_msat: i64,
    /// What we could send now.
    pub outbound_capacity_msat: i64,
}

/// What the node tells the engine; delivered at least once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LightningEvent {
    /// An incoming payment waits for the engine's decision. `amount_msat` is what arrived.
    Claimable {
        /// The hash of the invoice.
        payment_hash: PaymentHash,
        /// What arrived.
        amount_msat: i64,
        /// How many blocks it can still be claimed for; `None` when the node does not say.
        blocks_left: Option<u32>,
    },
    /// Money is ours: a claim went through, or (no invoice of ours) the node took a payment by
    /// itself.
    Received {
        /// The hash of the payment.
        payment_hash: PaymentHash,
        /// What arrived.
        amount_msat: i64,
    },
    /// A payment by an offer of the node's: the node took it by itself, because it answers whoever
    /// asks for an invoice by an offer, and draws its preimage.
    OfferPaid {
        /// The offer.
        offer: OfferId,
        /// The hash of the payment.
        payment_hash: PaymentHash,
        /// What arrived.
        amount_msat: i64,
    },
    /// A payment of ours arrived.
    Sent {
        /// The hash of the payment.
        payment_hash: PaymentHash,
        /// What the route cost; `None` when the node does not know.
        fee_msat: Option<i64>,
    },
    /// A payment of ours failed for good: nothing of it is in flight.
    SendFailed {
        /// The hash of the payment.
        payment_hash: PaymentHash,
        /// Why, as the node says it.
        reason: String,
    },
    /// Something about a channel changed; balances may have moved between channels and chain.
    ChannelChanged {
        /// `pending`, `ready` or `closed`, for a person.
        change: String,
        /// The channel.
        channel_id: String,
    },
    /// An event the engine has no rule for; it is acknowledged and otherwise ignored.
    Other {
        /// Its name.
        kind: String,
    },
}

/// What a BOLT11 text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bolt11Details {
    /// The hash that is paid.
    pub payment_hash: PaymentHash,
    /// The amount in it, or `None` when the payer chooses.
    pub amount_msat: Option<i64>,
    /// When it can no longer be paid, milliseconds since the epoch.
    pub expires_at_ms: i64,
    /// The network: `bitcoin`, `testnet`, `signet`, `regtest` or `simnet`.
    pub network: String,
    /// The node that is paid, 66 hex digits.
    pub payee_node_id: String,
    /// For how many blocks its last hop can lock the money up.
    pub min_final_lock_blocks: u32,
}

/// The longest BOLT11 text that is looked at; real ones are under 2,000 characters.
const MAX_BOLT11_LENGTH: usize = 7_089;

impl FromStr for Bolt11Details {
    type Err = LightningError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_BOLT11_LENGTH {
            return Err(LightningError::BadInvoice {
                reason: format!("{} characters, at most {MAX_BOLT11_LENGTH}", text.len()),
            });
        }
        let invoice = lightning_invoice::Bolt11Invoice::from_str(text.trim()).map_err(|error| {
            LightningError::BadInvoice {
                reason: error.to_string(),
            }
        })?;
        let amount_msat = invoice
            .amount_milli_satoshis()
            .map(i64::try_from)
            .transpose()
            .map_err(|_| LightningError::BadInvoice {
                reason: "the amount is absurd".into(),
            })?;
        let expires_at_ms = invoice
            .expires_at()
            .and_then(|time| i64::try_from(time.as_millis()).ok())
            .unwrap_or(i64::MAX);
        let network = match invoice.currency() {
            lightning_invoice::Currency::Bitcoin => "bitcoin",
            lightning_invoice::Currency::BitcoinTestnet => "testnet",
            lightning_invoice::Currency::Regtest => "regtest",
            lightning_invoice::Currency::Simnet => "simnet",
            lightning_invoice::Currency::Signet => "signet",
        };
        let hash: &[u8] = invoice.payment_hash().as_ref();
        let mut payment_hash = [0; 32];
        payment_hash.copy_from_slice(hash);
        Ok(Self {
            payment_hash: PaymentHash(payment_hash),
            amount_msat,
            expires_at_ms,
            network: network.into(),
            payee_node_id: invoice.get_payee_pub_key().to_string(),
            min_final_lock_blocks: u32::try_from(invoice.min_final_cltv_expiry_delta())
                .unwrap_or(u32::MAX),
        })
    }
}

/// The node's state cannot be written. Its writes wait and are tried again, and the channels that
/// they belong to wait with them; or it lost its place for good, as `error` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTrouble {
    /// What the store said last.
    pub error: StoreError,
    /// Since when, milliseconds since the epoch; `None` where it is for good.
    pub since_ms: Option<i64>,
    /// How many writes wait.
    pub writes_waiting: usize,
}
