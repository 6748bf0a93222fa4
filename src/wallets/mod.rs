//! Wallets on chain: whose keys are elsewhere, or the node's, and what their scripts receive.
//!
//! A wallet is two descriptors of public keys and two counters. Every address it ever gave out is
//! watched by its script for ever, so that no gap limit can hide a payment from us; the gap limit
//! that *another* wallet needs to find all of it from the keys alone is said by
//! [`Wallets::balance`]. What arrives is told to the invoices; what leaves is a PSBT that the
//! wallet's signers sign, committed before it is broadcast.

mod addresses;
mod claims;
mod descriptor;
mod drain_end;
mod drain_model;
mod drain_rounds;
mod drain_rules;
mod draining;
mod error;
mod following;
mod fresh;
mod label_lines;
mod labels;
mod looking;
mod model;
mod problems;
mod psbt;
mod refunding;
mod rules;
mod sending;
mod spends;
mod tips;
mod watching;
mod withdrawing;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::core::{
    Answer, Caller, CommandError, Core, Decision, Executed, Loaded, check_text, emit,
};
use crate::ids::WalletId;
use crate::invoices::Invoices;
use crate::ledger::Refusal;
use crate::settlement;

use descriptor::Descriptors;
pub use drain_model::{
    ChannelEnd, DrainNode, DrainSend, DrainState, DrainWait, DrainedChannel, EndDrain, NodeDrain,
};
pub use error::WalletError;
pub use model::{
    AddWallet, BumpSpend, CancelSpend, Coin, ImportLabels, Keychain, LabelsImported, NewAddress,
    NodeFunds, PrepareSpend, Spend, SpendOutput, SpendState, SpendTarget, SpentBy, SubmitSpend,
    Wallet, WalletAddress, WalletBalance, WalletOwner, WalletSource, WatchProblem, WatchRound,
    WithdrawEverything, Withdrawal, XpubKind,
};

pub use descriptor::WalletPreview;
pub use label_lines::{LabelFault, LabelRecord};
pub use psbt::signed_transaction;
pub(crate) use refunding::RefundSpend;

pub(crate) const WALLETS: &str = "wallet";
const ADDRESSES: &str = "wallet_address";
const COINS: &str = "wallet_coin";
const TRANSACTIONS: &str = "wallet_transaction";
const SPENDS: &str = "wallet_spend";

const MAX_USED: u32 = 1_000;

/// The handle for wallets.
#[derive(Clone)]
pub struct Wallets {
    core: Arc<Core>,
    invoices: Invoices,
}

impl Wallets {
    pub(crate) fn new(core: Arc<Core>, invoices: Invoices) -> Self {
        Self { core, invoices }
    }

    /// Adds a wallet: a merchant's own, or the operator's. Issuer only. What it was paid before is
    /// no receipt of these books. Where the chain's source has an index by script, addresses that
    /// were paid before are looked for at once, up to the first that was not, and never given out; a
    /// server that is away then keeps no wallet from being added, but the first one of a source that
    /// reads blocks, which has to know from where on.
    ///
    /// # Errors
    /// `wallet.private_key`, `wallet.wrong_network`, `wallet.bad_descriptor`, `wallet.exists`,
    /// `settlement.merchant_not_found`, `chain.*`, `command.*`, `access.*`.
    pub async fn add(
        &self,
        credential: &Credential,
        command: AddWallet,
    ) -> Result<Answer<Wallet>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = wallets.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_text("name", &command.name, 100, "100 characters")?;
                if command.used_addresses > MAX_USED {
                    let (field, bounds) = ("used_addresses", "0 to 1,000");
                    return Err(CommandError::OutOfBounds { field, bounds }.into());
                }
                wallets.claim_chains().await?;
                let added: Result<Executed<Wallet>, Error> = wallets
                    .core
                    .execute(&caller, "wallets.add", &command.key, &command, || {
                        wallets.decide_add(&command)
                    })
                    .await;
                match added {
                    Ok(executed) => {
                        // It costs whoever adds it the time, and not the first sale. What is not
                        // found now is then.
                        drop(wallets.fresh(executed.answer.id).await);
                        Ok(executed.answer)
                    }
                    Err(Error::Ledger(Refusal::AlreadyClaimed { .. })) => {
                        Err(WalletError::Exists.into())
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn decide_add(&self, command: &AddWallet) -> Result<Decision<Wallet>, Error> {
        let core = &self.core;
        let network = self.network()?;
        let is_node = command.source == WalletSource::Node;
        let descriptors = if is_node {
            Descriptors::of_seed(&core.secrets.node_entropy(), network)?
        } else {
            Descriptors::read(&command.source, network)?
        };
        let owner = match command.owner {
            WalletOwner::Merchant { .. } if is_node => {
                let reason = "the node's keys are the operator's".to_owned();
                return Err(WalletError::BadDescriptor { reason }.into());
            }
            WalletOwner::Merchant { merchant } => {
                Some(settlement::guard_merchant(core, merchant).await?)
            }
            WalletOwner::Operator => None,
        };
        let (external, change) = descriptors.texts();
        let wallet = Wallet {
            id: core.new_id(WalletId::from_parts)?,
            owner: command.owner,
            name: command.name.clone(),
            is_node,
            external,
            change,
            next_external: command.used_addresses,
            next_change: command.used_addresses,
            created_at_ms: core.clock.now_ms(),
            added_at_height: self.height_now().await?,
        };
        let id = wallet.id.to_string();
        let mut steps = claims::claims(&descriptors, &id)?;
        steps.extend(owner);
        steps.push(rules::write_wallet(&wallet, 0)?);
        for index in 0..command.used_addresses {
            for keychain in [Keychain::External, Keychain::Change] {
                if keychain == Keychain::Change && wallet.external == wallet.change {
                    continue;
                }
                let address = self.derive(&wallet, &descriptors, keychain, index)?;
                steps.push(rules::write_address(&address, 0, wallet.created_at_ms)?);
            }
        }
        steps.push(emit("wallet.added", id, &wallet)?);
        steps.extend(self.begin_watching(command.birthday_height).await?);
        Ok(Decision {
            steps,
            answer: wallet,
        })
    }

    /// A wallet. The issuer, and whoever sells for its merchant.
    ///
    /// # Errors
    /// `wallet.not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        wallet: WalletId,
    ) -> Result<Answer<Wallet>, Error> {
        let (_, found) = self.admitted(credential, wallet).await?;
        let as_of_ms = self.core.clock.now_ms();
        let value = found.value;
        Ok(Answer { as_of_ms, value })
    }

    /// The wallets of one owner, oldest first, after the wallet `after`; at most `limit` (1 to
    /// 1,000).
    ///
    /// # Errors
    /// `access.*`.
    pub async fn list(
        &self,
        credential: &Credential,
        owner: WalletOwner,
        after: Option<WalletId>,
        limit: usize,
    ) -> Result<Answer<Vec<Wallet>>, Error> {
        let caller = self.core.authenticate(credential).await?;
        admit(&caller, owner)?;
        let as_of_ms = self.core.clock.now_ms();
        let after = after.map(|id| id.to_string());
        let value = self
            .core
            .list(WALLETS, "owner", &rules::owner_key(owner), after, limit)
            .await?;
        Ok(Answer { as_of_ms, value })
    }

    fn network(&self) -> Result<bitcoin::Network, WalletError> {
        descriptor::network_of(&self.core.network)
    }

    async fn load(&self, wallet: WalletId) -> Result<Loaded<Wallet>, Error> {
        let found = self.core.load(WALLETS, &wallet.to_string()).await?;
        Ok(found.ok_or(WalletError::NotFound { wallet })?)
    }

    async fn admitted(
        &self,
        credential: &Credential,
        wallet: WalletId,
    ) -> Result<(Caller, Loaded<Wallet>), Error> {
        let caller = self.core.authenticate(credential).await?;
        let found = self.load(wallet).await?;
        admit(&caller, found.value.owner)?;
        Ok((caller, found))
    }
}

/// The issuer, and whoever sells for the wallet's merchant.
fn admit(caller: &Caller, owner: WalletOwner) -> Result<(), Error> {
    match owner {
        WalletOwner::Operator => Ok(caller.require_issuer()?),
        WalletOwner::Merchant { merchant } => Ok(caller.require_seller(merchant)?),
    }
}

impl Core {
    /// The newest of an owner's wallets: the one that invoices take their addresses from.
    pub(crate) async fn newest_wallet(
        &self,
        owner: WalletOwner,
    ) -> Result<Option<Loaded<Wallet>>, Error> {
        let (key, mut after, mut newest) = (rules::owner_key(owner), None, None);
        loop {
            let page: Vec<Wallet> = self.list(WALLETS, "owner", &key, after, 100).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.to_string());
            newest = Some(last.id);
        }
        match newest {
            Some(id) => self.load(WALLETS, &id.to_string()).await,
            None => Ok(None),
        }
    }
}
