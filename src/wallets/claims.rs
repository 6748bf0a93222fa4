//! The names by which a wallet is known to be added: the first script of each of its chains.
//!
//! Wallets were once known by the first script that is paid alone. Those are claimed the rest before
//! anything that goes by it.

use bitcoin::ScriptBuf;
use serde::{Deserialize, Serialize};

use super::descriptor::Descriptors;
use super::model::{Keychain, Wallet};
use super::{WALLETS, WalletError, Wallets};
use crate::Error;
use crate::core::{Loaded, emit, put};
use crate::ledger::{Refusal, Step};
use crate::store::{DocumentPosition, DocumentQuery, MAX_PAGE};

const CLAIMED: &str = "wallet_claims";
const ALL: &str = "all";

/// That every wallet from before has claimed both its chains.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Claimed {
    chains: bool,
}

/// The first address says which wallet it is, however its keys are written. That of the change as
/// well: to be paid on one's own change, or on somebody's, is two wallets in one.
pub(super) fn claims(descriptors: &Descriptors, id: &str) -> Result<Vec<Step>, WalletError> {
    let change = descriptors.script(Keychain::Change, 0)?;
    let mut first = vec![descriptors.script(Keychain::External, 0)?, change];
    first.dedup();
    let claim = |script: ScriptBuf| Step::Claim {
        name: format!("wallet/{}", script.to_hex_string()),
        by: id.to_owned(),
    };
    Ok(first.into_iter().map(claim).collect())
}

impl Wallets {
    /// Has wallets that were added before changes were claimed claim them; done once for good.
    pub(crate) async fn claim_chains(&self) -> Result<(), Error> {
        let done: Option<Loaded<Claimed>> = self.core.load(CLAIMED, ALL).await?;
        if done.is_some() {
            return Ok(());
        }
        let mut after: Option<DocumentPosition> = None;
        loop {
            let query = DocumentQuery {
                collection: WALLETS,
                index: "owner",
                from: String::new(),
                to: None,
                after,
                limit: MAX_PAGE,
            };
            let page = self.core.store.documents(query).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (_, document) in page {
                let wallet = document.body.read().map_err(crate::core::unreadable)?;
                self.claim_of(&wallet).await?;
            }
        }
        let claimed = Claimed { chains: true };
        let step = put(CLAIMED, ALL.to_owned(), 0, &claimed, Vec::new())?;
        match self.core.commit(vec![step]).await {
            // Another instance was at it as well.
            Err(Error::Ledger(refusal)) if refusal.should_decide_again() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn claim_of(&self, wallet: &Wallet) -> Result<(), Error> {
        // One that cannot be read any more gives out no addresses either.
        let Ok(descriptors) = self.descriptors(wallet) else {
            return Ok(());
        };
        for claim in claims(&descriptors, &wallet.id.to_string())? {
            let Step::Claim { name, by } = &claim else {
                continue;
            };
            let known = self.core.store.claim(name).await?;
            if known.as_ref() == Some(by) {
                continue;
            }
            let lost = match known {
                Some(_) => true,
                None => match self.core.commit(vec![claim.clone()]).await {
                    Err(Error::Ledger(Refusal::AlreadyClaimed { by: other, .. })) => other != *by,
                    other => other.map(|_| false)?,
                },
            };
            if lost {
                // Two are one already: a person has to know.
                let id = wallet.id.to_string();
                let told = emit("wallet.addresses_shared", id, wallet)?;
                self.core.commit(vec![told]).await?;
            }
        }
        Ok(())
    }
}
