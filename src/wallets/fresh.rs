//! Fresh addresses: nothing was ever paid to what is given out.
//!
//! The same keys may be in another program, or were in these books before they were restored from a
//! backup. What is paid already would be taken for the payment of whoever is shown the address next.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bitcoin::ScriptBuf;

use super::model::{Keychain, Wallet, WalletAddress};
use super::watching::corrupt;
use super::{WalletError, Wallets, rules};
use crate::Error;
use crate::chain::ChainError;
use crate::core::{Loaded, emit};
use crate::ids::WalletId;
use crate::ports::Executor;

/// The most addresses that are passed over in one go.
const MOST_PASSED: usize = 1_000;
/// How long the chain's server may take to say whether an address was paid: somebody waits.
const ANSWER_TIME: Duration = Duration::from_secs(10);

impl Wallets {
    /// The next address of a wallet that nothing was ever paid to, by the chain's source. Used ones
    /// are marked as such and watched, and the wallet's number goes on behind each. A source without
    /// an index by script cannot say: there the next number is the one.
    pub(super) async fn fresh(
        &self,
        wallet: WalletId,
    ) -> Result<(Loaded<Wallet>, WalletAddress), Error> {
        for _ in 0..MOST_PASSED {
            let found = self.load(wallet).await?;
            let (address, _) = self.next(&found, Keychain::External)?;
            if !self.was_paid(&address).await? {
                return Ok((found, address));
            }
            self.pass_over(&found, address).await?;
        }
        let passed = MOST_PASSED;
        Err(WalletError::AddressesUsed { passed }.into())
    }

    async fn was_paid(&self, address: &WalletAddress) -> Result<bool, Error> {
        let Some(source) = &self.core.chain else {
            return Ok(false);
        };
        let script = ScriptBuf::from_hex(&address.script).map_err(|_| corrupt("a script"))?;
        let said = in_time(&*self.core.executor, source.was_paid(&script)).await?;
        Ok(said.unwrap_or(false))
    }

    /// The chain's height: as it is, by a source that could not say what was paid before, or as it was
    /// at the last look.
    pub(crate) async fn height(&self) -> Result<Option<u32>, Error> {
        let source = self.core.chain.as_ref();
        if source.is_some_and(|source| source.reads_blocks()) {
            return self.height_now().await;
        }
        let looked_at = self.cursor().await?.value.through;
        Ok(looked_at.map(|block| block.height))
    }

    /// The chain's height as it is, or as it was at the last look where its server is away.
    pub(super) async fn height_now(&self) -> Result<Option<u32>, Error> {
        let Some(source) = &self.core.chain else {
            return Ok(None);
        };
        if let Ok(tip) = in_time(&*self.core.executor, source.tip()).await {
            return Ok(Some(tip.height));
        }
        let looked_at = self.cursor().await?.value.through;
        Ok(looked_at.map(|block| block.height))
    }

    async fn pass_over(
        &self,
        wallet: &Loaded<Wallet>,
        mut used: WalletAddress,
    ) -> Result<(), Error> {
        used.is_used = true;
        let after = rules::after_giving_out(&wallet.value, &used)?;
        let steps = vec![
            rules::write_wallet(&after, wallet.version)?,
            rules::write_address(&used, 0, self.core.clock.now_ms())?,
            emit("wallet.address_passed_over", used.wallet.to_string(), &used)?,
        ];
        match self.core.commit(steps).await {
            // Somebody else was quicker: it is looked at again from there.
            Err(Error::Ledger(refusal)) if refusal.should_decide_again() => Ok(()),
            other => other.map(drop),
        }
    }
}

/// The answer of `work`, or that there was none in time.
async fn in_time<T>(
    executor: &dyn Executor,
    work: impl Future<Output = Result<T, ChainError>> + Send,
) -> Result<T, ChainError> {
    let (mut work, mut alarm) = (Box::pin(work), executor.sleep(ANSWER_TIME));
    poll_fn(move |context| {
        if let Poll::Ready(answer) = work.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        let over = alarm.as_mut().poll(context);
        over.map(|()| {
            let reason = "it did not answer in time".to_owned();
            Err(ChainError::Unreachable { reason })
        })
    })
    .await
}
