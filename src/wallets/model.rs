//! The records of wallets, their addresses and their coins.

use serde::{Deserialize, Serialize};

use crate::chain::{BlockId, Standing};
use crate::core::IdempotencyKey;
use crate::ids::{InvoiceId, MerchantId, RefundId, SpendId, TransferId, WalletId};

/// Whose wallet it is, and so whose money arrives in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum WalletOwner {
    /// The operator's: what arrives for a merchant or a card is owed to them.
    Operator,
    /// A merchant's own: what arrives is the merchant's at once, and never in the books.
    Merchant {
        /// Which.
        merchant: MerchantId,
    },
}

/// The kind of addresses of an extended public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// Where a wallet's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum WalletSource {
    /// The node's seed, on an account of its own (BIP 84, account 21). The engine has its keys.
    Node,
    /// An extended public key: xpub, ypub, zpub or those of the test networks, with its origin
    /// (`[fingerprint/84h/0h/0h]`) where a hardware wallet is to sign.
    Xpub {
        /// The key.
        xpub: String,
        /// The kind of its addresses, where the key's prefix does not say it; P2WPKH if neither
        /// does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script: Option<XpubKind>,
    },
    /// A descriptor of public keys that ends in `/*`, of several signers as well.
    Descriptor {
        /// For what is received; with `/<0;1>/*` for change as well.
        external: String,
        /// For change; without one, change goes where everything goes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        change: Option<String>,
    },
}

/// Which of a wallet's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keychain {
    /// Given to others, to be paid.
    External,
    /// For what is left of a spend.
    Change,
}

/// Adds a wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddWallet {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Whose it is.
    pub owner: WalletOwner,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// Where its addresses come from.
    pub source: WalletSource,
    /// How many addresses it has given out elsewhere, at most 1,000: they are watched as well,
    /// and never given out again. Those that were paid are found and passed over without it, where
    /// the chain's source has an index by script; this is for those that were shown to somebody and
    /// not paid yet, and for a source that reads blocks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub used_addresses: u32,
    /// The block from which on a source that reads blocks looks for what it received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birthday_height: Option<u32>,
}

/// A wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallet {
    /// Its id.
    pub id: WalletId,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_at_height: Option<u32>,
}

/// Asks for an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAddress {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Of which wallet.
    pub wallet: WalletId,
    /// What it is for; at most 200 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// An address of a wallet. It is watched for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletAddress {
    /// The address.
    pub address: String,
    /// Its script, in hex.
    pub script: String,
    /// Of which wallet.
    pub wallet: WalletId,
    /// Which of its addresses.
    pub keychain: Keychain,
    /// Its number.
    pub index: u32,
    /// The invoice it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoice: Option<InvoiceId>,
    /// What people say of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// True once something was paid to it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_used: bool,
    /// It is looked at often until then, milliseconds since the epoch.
    pub hot_until_ms: i64,
}

/// What spends a coin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentBy {
    /// The transaction, in hex.
    pub txid: String,
    /// The block that has it; `None` while it waits in the mempool.
    pub block: Option<BlockId>,
}

/// An output that pays to a wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coin {
    /// `txid:vout`.
    pub outpoint: String,
    /// The wallet.
    pub wallet: WalletId,
    /// The address.
    pub address: String,
    /// Its script, in hex.
    pub script: String,
    /// Which of the wallet's addresses.
    pub keychain: Keychain,
    /// The address's number.
    pub index: u32,
    /// What it is worth.
    pub amount_sat: u64,
    /// How its transaction stands.
    #[serde(flatten)]
    pub standing: Standing,
    /// How many blocks confirm it, counted up to 100.
    pub confirmations: u32,
    /// Its transaction says that it may be replaced (BIP 125), or spends what waits itself and may be
    /// replaced or not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub replaceable: bool,
    /// What spends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent_by: Option<SpentBy>,
    /// The spend that it is set aside for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_by: Option<SpendId>,
    /// What people say of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// When it was first seen, milliseconds since the epoch.
    pub first_seen_ms: i64,
    /// It came before the wallet was added, or a block had it spent before it was first seen: at an
    /// address that is no invoice's it is no receipt of these books. What of it is still there is
    /// booked as capital, if it is to be in them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub predates: bool,
    /// It could not be put to the invoices yet, and is put to them again in every round.
    #[serde(default, skip_serializing_if = "is_false")]
    pub untold: bool,
}

impl Coin {
    /// True when it is there and nothing is known to spend it.
    pub fn is_unspent(&self) -> bool {
        self.spent_by.is_none() && !matches!(self.standing, Standing::Gone { .. })
    }
}

/// What a wallet has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletBalance {
    /// The wallet.
    pub wallet: WalletId,
    /// In blocks.
    pub confirmed_sat: u64,
    /// In the mempool.
    pub waiting_sat: u64,
    /// What of the two is set aside for spends.
    pub reserved_sat: u64,
    /// How many coins that is.
    pub coins: usize,
    /// The gap limit that a wallet needs to find all of it from its keys: one more than the
    /// longest row of addresses before the last used one that received nothing. Most begin with
    /// 20; set it to this, or to more.
    pub gap_limit: u32,
    /// The number of the last address that was given out and those before it, all counted.
    pub addresses: u32,
}

/// Where a spend goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SpendTarget {
    /// So much to each.
    Pay {
        /// To whom; at most 100.
        outputs: Vec<SpendOutput>,
    },
    /// Everything that the wallet has, less the fee.
    Everything {
        /// Where to.
        address: String,
    },
}

/// An output of a spend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendOutput {
    /// Where to.
    pub address: String,
    /// How much.
    pub amount_sat: u64,
}

/// Prepares a spend: chooses coins, sets them aside, and makes the PSBT for its signers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareSpend {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The wallet.
    pub wallet: WalletId,
    /// Where to.
    pub target: SpendTarget,
    /// The fee, in satoshis for 1,000 virtual bytes; what the chain's server says for the next
    /// hour where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_sat_per_kvb: Option<u64>,
}

/// Makes a spend again with a higher fee: the same coins to the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BumpSpend {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The spend, which was broadcast and is in no block.
    pub spend: SpendId,
    /// The new fee, in satoshis for 1,000 virtual bytes.
    pub fee_sat_per_kvb: u64,
}

/// Gives a signed PSBT back: it is checked, kept, and broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitSpend {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The spend.
    pub spend: SpendId,
    /// The signed PSBT in base64. Left out for the node's wallet, whose keys the engine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psbt: Option<String>,
}

/// Gives up a spend that was not signed, or that the network does not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelSpend {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The spend.
    pub spend: SpendId,
}

/// Sends everything that a wallet has to one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawEverything {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The wallet.
    pub wallet: WalletId,
    /// Where to.
    pub address: String,
    /// The fee, in satoshis for 1,000 virtual bytes; what the chain's server says for the next
    /// hour where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_sat_per_kvb: Option<u64>,
    /// The most coins in one transaction, for signers that take no more: 1 to 500, which is what
    /// it is where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_coins: Option<u32>,
}

/// What became of a withdrawal of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The wallet.
    pub wallet: WalletId,
    /// Where it goes.
    pub address: String,
    /// Its spends, in the order in which they were made: the largest coins are in the first.
    pub spends: Vec<SpendId>,
    /// What they send together.
    pub amount_sat: u64,
    /// What they cost together.
    pub fee_sat: u64,
    /// What the wallet still has: not in a block yet, set aside for other spends, or worth less
    /// than it costs to send.
    pub left_sat: u64,
    /// Of the node's wallet: what the node has beside it, which is not sent by this. `None` where
    /// no node is running here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeFunds>,
}

/// What a node has that is in none of the wallets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFunds {
    /// In its open channels; they are closed for it to come out.
    pub channels_msat: i64,
    /// On its way out of channels that are closed.
    pub closing_msat: i64,
    /// In the wallet that it opens channels from.
    pub onchain_msat: i64,
}

/// How a spend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpendState {
    /// Its coins are set aside, and its PSBT waits to be signed.
    Prepared,
    /// Signed and kept; it is being broadcast, as often as it takes.
    Broadcasting,
    /// The network has it.
    Broadcast,
    /// A block has it.
    Confirmed,
    /// The network does not take it. It can be submitted again, or cancelled; that of a refund is
    /// broadcast again by itself.
    Refused,
    /// Something else spends its coins, in a block. It is followed all the same, and so is one
    /// that was cancelled: whoever has a signed transaction can broadcast it.
    Replaced,
    /// Given up before the network took it.
    Cancelled,
}

/// A spend of a wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    /// Its id.
    pub id: SpendId,
    /// The wallet.
    pub wallet: WalletId,
    /// How it stands.
    pub state: SpendState,
    /// What is to be signed: a PSBT (BIP 174) in base64.
    pub psbt: String,
    /// Where it goes, change left out.
    pub outputs: Vec<SpendOutput>,
    /// True where everything goes to the one output.
    pub is_everything: bool,
    /// What comes back to the wallet.
    pub change_sat: u64,
    /// The fee.
    pub fee_sat: u64,
    /// The fee that was asked for, in satoshis for 1,000 virtual bytes.
    pub fee_sat_per_kvb: u64,
    /// The coins it spends, `txid:vout`.
    pub coins: Vec<String>,
    /// The number of its change address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_index: Option<u32>,
    /// The spend it takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<SpendId>,
    /// Its transaction's id, once it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<String>,
    /// Its transaction in hex, once it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// Why the network does not take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The hold of what leaves the books by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<TransferId>,
    /// The transfer of what left the books by it, while a block has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booked: Option<TransferId>,
    /// The refund of an invoice that it pays: that one has its money on hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<RefundId>,
    /// When it was prepared, milliseconds since the epoch.
    pub created_at_ms: i64,
}

/// Takes labels in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportLabels {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The wallet.
    pub wallet: WalletId,
    /// Records of BIP 329, one a line; at most 1,000.
    pub lines: String,
}

/// Labels that were taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelsImported {
    /// Of how many addresses and coins of the wallet something was said.
    pub taken: usize,
    /// Of how many things that it does not have, or of other types: that is kept, and given out
    /// again.
    pub ignored: usize,
}

/// What one round over the scripts did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRound {
    /// How many scripts were looked at.
    pub scripts: usize,
    /// To how many coins something happened.
    pub changed: usize,
    /// False where blocks are left to be read: another round goes on.
    pub is_complete: bool,
    /// What could not be looked at or put to the invoices, the first 20 of it: everything else was.
    /// It is tried again when its turn comes, and is in [`Health`](crate::Health) until it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<WatchProblem>,
    /// How many scripts were not asked for any more, because the chain's server stopped answering:
    /// the next round begins with them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub left_out: usize,
}

/// What a round could not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchProblem {
    /// The address; `None` where it is what waits in the mempool that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The code of the error.
    pub code: String,
    /// For a person, in English.
    pub detail: String,
}

fn is_none(number: &usize) -> bool {
    *number == 0
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}
