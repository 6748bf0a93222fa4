//! What can be wrong with a wallet or a spend.

use super::label_lines::LabelFault;
use super::model::SpendState;
use crate::ids::{DrainId, SpendId, WalletId};
use crate::ledger::Account;
use crate::money::Asset;

/// A wallet could not be added or used. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    /// No such wallet. `wallet.not_found`.
    #[error("there is no wallet {wallet}")]
    NotFound {
        /// Which.
        wallet: WalletId,
    },
    /// The books have a wallet of the same addresses. `wallet.exists`.
    #[error("there is a wallet of the same addresses already")]
    Exists,
    /// The descriptor has a private key in it: it was not kept, and should be nowhere but in the
    /// wallet it is of. `wallet.private_key`.
    #[error("the descriptor has a private key in it; only public keys are wanted")]
    PrivateKey,
    /// The keys or the address are of another network. `wallet.wrong_network`.
    #[error("that is of another network: {network} is wanted")]
    WrongNetwork {
        /// The network of these books.
        network: String,
    },
    /// It is no descriptor, no extended public key, or none that gives addresses by number.
    /// `wallet.bad_descriptor`.
    #[error("no wallet can be made of that: {reason}")]
    BadDescriptor {
        /// Why, without what was given.
        reason: String,
    },
    /// It is no address. `wallet.bad_address`.
    #[error("that is no address")]
    BadAddress,
    /// The wallet has given out all the addresses that there are. `wallet.exhausted`.
    #[error("the wallet has no address left")]
    Exhausted,
    /// So many of its next addresses in a row have been paid already that no more were looked at:
    /// the next call goes on behind them. `wallet.addresses_used`.
    #[error("the next {passed} addresses of the wallet were used elsewhere")]
    AddressesUsed {
        /// How many.
        passed: usize,
    },
    /// There is not as much in the wallet, fees included. `wallet.insufficient_funds`.
    #[error("{needed_sat} sat are needed with fees, and {available_sat} sat can be spent")]
    InsufficientFunds {
        /// What it takes.
        needed_sat: u64,
        /// What can be spent.
        available_sat: u64,
    },
    /// The fee is out of all proportion. `wallet.fee_too_high`.
    #[error("a fee of {fee_sat} sat is too high")]
    FeeTooHigh {
        /// What it came to.
        fee_sat: u64,
    },
    /// No such spend. `wallet.spend_not_found`.
    #[error("there is no spend {spend}")]
    SpendNotFound {
        /// Which.
        spend: SpendId,
    },
    /// What is asked cannot be done with a spend that stands like this. `wallet.spend_state`.
    #[error("the spend {spend} is {state:?}")]
    SpendState {
        /// Which.
        spend: SpendId,
        /// How it stands.
        state: SpendState,
    },
    /// A replacement has to pay more than what it replaces. `wallet.fee_too_low`.
    #[error("a replacement has to pay at least {minimum_sat_per_kvb} sat for 1,000 vbytes")]
    FeeTooLow {
        /// The least.
        minimum_sat_per_kvb: u64,
    },
    /// It is no PSBT in base64. `wallet.bad_psbt`.
    #[error("that is no PSBT")]
    BadPsbt,
    /// It is a PSBT of another transaction. `wallet.foreign_psbt`.
    #[error("that is the PSBT of another transaction")]
    ForeignPsbt,
    /// Signatures are missing, or do not fit. `wallet.not_signed`.
    #[error("the PSBT is not fully signed: {reason}")]
    NotSigned {
        /// What is missing.
        reason: String,
    },
    /// The address is one of the node's own keys, which are to be emptied. `wallet.own_address`.
    #[error("that address is of the node's own keys")]
    OwnAddress,
    /// The node has what backs the balances of cards, merchants and rewards, and nobody said that it
    /// may go all the same. `wallet.owed`.
    #[error("{} are owed, and the node has what backs that", owed_text(.owed))]
    Owed {
        /// What is owed of each asset, in its unit.
        owed: Vec<(Asset, i64)>,
    },
    /// The books and the node do not say the same: what is missing or too much has to be booked
    /// first, or it would be lost among the fees. `wallet.books_differ`.
    #[error("the node has {difference_msat} msat more than the books say in {account}")]
    BooksDiffer {
        /// Where.
        account: Account,
        /// What the node has more; below zero less.
        difference_msat: i64,
    },
    /// The node is being emptied already, to another address. `wallet.draining`.
    #[error("the node is being emptied to another address by {drain}")]
    Draining {
        /// By which.
        drain: DrainId,
    },
    /// No such drain. `wallet.drain_not_found`.
    #[error("there is no drain {drain}")]
    DrainNotFound {
        /// Which.
        drain: DrainId,
    },
    /// Lines are no label records (BIP 329). `wallet.bad_label`.
    #[error("line {line} is no label record: {fault}; bad lines: {}", lines.len())]
    BadLabel {
        /// The first, from 1.
        line: usize,
        /// What is wrong with it.
        fault: LabelFault,
        /// All that are none.
        lines: Vec<usize>,
    },
    /// No more labels are kept for a wallet. `wallet.too_many_labels`.
    #[error("{most} labels are kept for a wallet at most")]
    TooManyLabels {
        /// How many.
        most: usize,
    },
}

impl WalletError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "wallet.not_found",
            Self::Exists => "wallet.exists",
            Self::PrivateKey => "wallet.private_key",
            Self::WrongNetwork { .. } => "wallet.wrong_network",
            Self::BadDescriptor { .. } => "wallet.bad_descriptor",
            Self::BadAddress => "wallet.bad_address",
            Self::Exhausted => "wallet.exhausted",
            Self::AddressesUsed { .. } => "wallet.addresses_used",
            Self::InsufficientFunds { .. } => "wallet.insufficient_funds",
            Self::FeeTooHigh { .. } => "wallet.fee_too_high",
            Self::SpendNotFound { .. } => "wallet.spend_not_found",
            Self::SpendState { .. } => "wallet.spend_state",
            Self::FeeTooLow { .. } => "wallet.fee_too_low",
            Self::BadPsbt => "wallet.bad_psbt",
            Self::ForeignPsbt => "wallet.foreign_psbt",
            Self::NotSigned { .. } => "wallet.not_signed",
            Self::OwnAddress => "wallet.own_address",
            Self::Owed { .. } => "wallet.owed",
            Self::BooksDiffer { .. } => "wallet.books_differ",
            Self::Draining { .. } => "wallet.draining",
            Self::DrainNotFound { .. } => "wallet.drain_not_found",
            Self::BadLabel { .. } => "wallet.bad_label",
            Self::TooManyLabels { .. } => "wallet.too_many_labels",
        }
    }
}

fn owed_text(owed: &[(Asset, i64)]) -> String {
    let owed = owed.iter().map(|(asset, amount)| match asset {
        Asset::Btc => format!("{amount} msat"),
        asset => format!("{amount} of {asset}'s smallest unit"),
    });
    owed.collect::<Vec<_>>().join(", ")
}
