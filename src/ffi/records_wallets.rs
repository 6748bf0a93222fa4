//! Records of wallets on chain.

use super::FlashError;
use crate::{Answer, wallets};

/// Whose a wallet is.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum WalletOwner {
    /// The operator's: what comes in is in the books.
    Operator,
    /// A merchant's own: what comes in is in no books here.
    Merchant {
        /// The merchant.
        merchant_id: String,
    },
}

impl TryFrom<WalletOwner> for wallets::WalletOwner {
    type Error = FlashError;

    fn try_from(owner: WalletOwner) -> Result<Self, FlashError> {
        Ok(match owner {
            WalletOwner::Operator => Self::Operator,
            WalletOwner::Merchant { merchant_id } => Self::Merchant {
                merchant: merchant_id.parse()?,
            },
        })
    }
}

impl From<wallets::WalletOwner> for WalletOwner {
    fn from(owner: wallets::WalletOwner) -> Self {
        match owner {
            wallets::WalletOwner::Operator => Self::Operator,
            wallets::WalletOwner::Merchant { merchant } => Self::Merchant {
                merchant_id: merchant.to_string(),
            },
        }
    }
}

/// The kind of the addresses of an extended public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum XpubKind {
    /// P2PKH (BIP 44).
    Legacy,
    /// P2SH-P2WPKH (BIP 49).
    NestedSegwit,
    /// P2WPKH (BIP 84).
    SegwitV0,
    /// P2TR (BIP 86).
    Taproot,
}

impl From<XpubKind> for wallets::XpubKind {
    fn from(kind: XpubKind) -> Self {
        match kind {
            XpubKind::Legacy => Self::Legacy,
            XpubKind::NestedSegwit => Self::NestedSegwit,
            XpubKind::SegwitV0 => Self::SegwitV0,
            XpubKind::Taproot => Self::Taproot,
        }
    }
}

/// Where a wallet's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum WalletSource {
    /// The node's seed, on an account of its own (BIP 84, account 21). The engine has its keys.
    Node,
    /// An extended public key: xpub, ypub, zpub or those of the test networks, with its origin
    /// (`[fingerprint/84h/0h/0h]`) where a hardware wallet is to sign.
    Xpub {
        /// The key.
        xpub: String,
        /// The kind of its addresses, where the key's prefix does not say it; P2WPKH if neither does.
        script: Option<XpubKind>,
    },
    /// A descriptor of public keys with a wildcard at its end, of several signers as well.
    Descriptor {
        /// For what is received; with `<0;1>` before the wildcard for change as well.
        external: String,
        /// For change; without one, change goes where everything goes.
        change: Option<String>,
    },
}

impl From<WalletSource> for wallets::WalletSource {
    fn from(source: WalletSource) -> Self {
        match source {
            WalletSource::Node => Self::Node,
            WalletSource::Xpub { xpub, script } => Self::Xpub {
                xpub,
                script: script.map(Into::into),
            },
            WalletSource::Descriptor { external, change } => Self::Descriptor { external, change },
        }
    }
}

/// Adds a wallet.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct AddWalletRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// Whose it is.
    pub owner: WalletOwner,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// Where its addresses come from.
    pub source: WalletSource,
    /// How many addresses it has given out elsewhere, at most 1,000: they are watched as well, and
    /// never given out again.
    #[uniffi(default = 0)]
    pub used_addresses: u32,
    /// The block from which on a source that reads blocks looks for what it received.
    #[uniffi(default = None)]
    pub birthday_height: Option<u32>,
}

impl TryFrom<AddWalletRequest> for wallets::AddWallet {
    type Error = FlashError;

    fn try_from(request: AddWalletRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            owner: request.owner.try_into()?,
            name: request.name,
            source: request.source.into(),
            used_addresses: request.used_addresses,
            birthday_height: request.birthday_height,
        })
    }
}

/// A wallet.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Wallet {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub owner: WalletOwner,
    /// What people call it.
    pub name: String,
    /// True where the engine has its keys.
    pub is_node: bool,
    /// The descriptor of what is received, with its checksum.
    pub external: String,
    /// The descriptor of change.
    pub change: String,
    /// The number of the first address that was not given out.
    pub next_external: u32,
    /// The same of change.
    pub next_change: u32,
    /// When it was added, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// The height of the best chain then: what a block up to there had came before.
    pub added_at_height: Option<u32>,
    /// As of when this is true, milliseconds since the epoch.
    pub as_of_ms: i64,
}

impl From<Answer<wallets::Wallet>> for Wallet {
    fn from(answer: Answer<wallets::Wallet>) -> Self {
        let Answer { as_of_ms, value } = answer;
        Self {
            id: value.id.to_string(),
            owner: value.owner.into(),
            name: value.name,
            is_node: value.is_node,
            external: value.external,
            change: value.change,
            next_external: value.next_external,
            next_change: value.next_change,
            created_at_ms: value.created_at_ms,
            added_at_height: value.added_at_height,
            as_of_ms,
        }
    }
}

/// Wallets, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct WalletPage {
    /// The wallets; the last one's id asks for the next page.
    pub wallets: Vec<Wallet>,
    /// When it was like this.
    pub as_of_ms: i64,
}

impl From<Answer<Vec<wallets::Wallet>>> for WalletPage {
    fn from(answer: Answer<Vec<wallets::Wallet>>) -> Self {
        let as_of_ms = answer.as_of_ms;
        let wallets = answer.value.into_iter();
        let wallets = wallets.map(|value| Answer { as_of_ms, value }.into());
        Self {
            wallets: wallets.collect(),
            as_of_ms,
        }
    }
}

/// What a wallet has.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct WalletBalance {
    /// The wallet.
    pub wallet_id: String,
    /// In blocks.
    pub confirmed_sat: u64,
    /// In the mempool.
    pub waiting_sat: u64,
    /// What of the two is set aside for spends.
    pub reserved_sat: u64,
    /// How many coins that is.
    pub coins: u64,
    /// The gap limit that a wallet needs to find all of it from its keys.
    pub gap_limit: u32,
    /// The number of the last address that was given out and those before it, all counted.
    pub addresses: u32,
    /// As of when this is true, milliseconds since the epoch.
    pub as_of_ms: i64,
}

impl From<Answer<wallets::WalletBalance>> for WalletBalance {
    fn from(answer: Answer<wallets::WalletBalance>) -> Self {
        let Answer { as_of_ms, value } = answer;
        Self {
            wallet_id: value.wallet.to_string(),
            confirmed_sat: value.confirmed_sat,
            waiting_sat: value.waiting_sat,
            reserved_sat: value.reserved_sat,
            coins: u64::try_from(value.coins).unwrap_or(u64::MAX),
            gap_limit: value.gap_limit,
            addresses: value.addresses,
            as_of_ms,
        }
    }
}

/// Asks for an address.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct NewAddressRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// Of which wallet.
    pub wallet_id: String,
    /// What it is for; at most 200 characters.
    #[uniffi(default = "")]
    pub label: String,
}

impl TryFrom<NewAddressRequest> for wallets::NewAddress {
    type Error = FlashError;

    fn try_from(request: NewAddressRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            wallet: request.wallet_id.parse()?,
            label: request.label,
        })
    }
}

/// An address of a wallet. It is watched for ever.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct WalletAddress {
    /// The address.
    pub address: String,
    /// Of which wallet.
    pub wallet_id: String,
    /// Its number.
    pub index: u32,
    /// What people say of it.
    pub label: String,
    /// True once something was paid to it.
    pub is_used: bool,
}

impl From<wallets::WalletAddress> for WalletAddress {
    fn from(address: wallets::WalletAddress) -> Self {
        Self {
            address: address.address,
            wallet_id: address.wallet.to_string(),
            index: address.index,
            label: address.label,
            is_used: address.is_used,
        }
    }
}

/// Takes labels in from another wallet (BIP 329).
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ImportLabelsRequest {
    /// Made and kept by the caller before the call: 1 to 128 printable ASCII characters.
    pub idempotency_key: String,
    /// The wallet.
    pub wallet_id: String,
    /// Records of BIP 329, one a line; at most 1,000.
    pub lines: String,
}

impl TryFrom<ImportLabelsRequest> for wallets::ImportLabels {
    type Error = FlashError;

    fn try_from(request: ImportLabelsRequest) -> Result<Self, FlashError> {
        Ok(Self {
            key: request.idempotency_key.parse()?,
            wallet: request.wallet_id.parse()?,
            lines: request.lines,
        })
    }
}

/// Labels that were taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct LabelsImported {
    /// Of how many addresses and coins of the wallet something was said.
    pub taken: u64,
    /// Of how many things that it does not have, or of other types: that is kept, and given out again.
    pub ignored: u64,
}

impl From<wallets::LabelsImported> for LabelsImported {
    fn from(imported: wallets::LabelsImported) -> Self {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self {
            taken: count(imported.taken),
            ignored: count(imported.ignored),
        }
    }
}
