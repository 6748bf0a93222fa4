//! Ending a drain as it stands.

use super::drain_model::{ChannelEnd, DrainState, EndDrain, NodeDrain};
use super::drain_rounds::done;
use super::drain_rules;
use super::draining::{Stored, write_drain};
use super::{WalletError, Wallets};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Decision, Executed, draining, emit};
use crate::ids::DrainId;
use crate::ledger::Account;

impl Wallets {
    /// Ends a drain as it stands, where what it waits for will not come: what blocks have is booked,
    /// with what that cost; what it had on hold is given back, and rails over Lightning are made
    /// again where there are channels. Channels that are closed stay closed. What it has sent and no
    /// block has is not booked: if one gets it, that is for
    /// [`book_capital`](crate::treasury::Treasury::book_capital) to say, and until then it is a
    /// difference in the audit. Spends of the operator's wallets go on by themselves. Tells
    /// `node.drain_ended`; one that is done already is answered as it is. Issuer only, where the
    /// node runs.
    ///
    /// # Errors
    /// `wallet.drain_not_found`, `lightning.not_running`, `lightning.no_node`, `command.*`,
    /// `access.*`.
    pub async fn end_drain(
        &self,
        credential: &Credential,
        command: EndDrain,
    ) -> Result<Answer<NodeDrain>, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = wallets.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                // A round that is under way may be sending.
                let _turn = wallets.core.drain_turns.take().await;
                let (name, id) = ("wallets.end_drain", command.drain);
                let executed: Executed<NodeDrain> = wallets
                    .core
                    .execute_new(&caller, name, &command.key, &command, || {
                        wallets.decide_end(id)
                    })
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_end(&self, id: DrainId) -> Result<Decision<NodeDrain>, Error> {
        let found = self.load_drain(id).await?;
        let mut after = found.value;
        if after.drain.state == DrainState::Done {
            return Ok(Decision {
                steps: Vec::new(),
                answer: after.drain,
            });
        }
        let running = self.core.draining().await?;
        if running.value != Some(id) {
            return Err(WalletError::DrainNotFound { drain: id }.into());
        }
        let (out_msat, left_msat) = self.as_it_stands(&mut after).await?;
        let mut steps = self.booked(&mut after, out_msat, left_msat)?;
        after.drain.is_ended = true;
        steps.push(draining(None, running.version)?);
        steps.push(done(id));
        steps.push(write_drain(&after, found.version)?);
        steps.push(emit("node.drain_ended", id.to_string(), &after.drain)?);
        Ok(Decision {
            steps,
            answer: after.drain,
        })
    }

    /// What of the channels is there no more, and what the node has beside them, with what is on its
    /// way: that is in the books until a block has it.
    async fn as_it_stands(&self, stored: &mut Stored) -> Result<(i64, i64), Error> {
        let node = self.core.node()?;
        // Whatever the chain's server does: what was last known of the sends will do.
        if let Ok(wallet) = node.onchain_wallet().await {
            let (known, now_ms) = (&stored.drain.sends, self.core.clock.now_ms());
            let mut sends = drain_rules::sends(known, &stored.earlier, &wallet.sends, now_ms);
            self.mark_gone(stored, &mut sends, &wallet).await?;
            stored.drain.sends = sends;
        }
        let has = node.balances().await?;
        let out_msat = self.out_of_channels(stored, has.channels_msat).await?;
        let drain = &mut stored.drain;
        (drain.channels_msat, drain.closing_msat) = (has.channels_msat, has.closing_msat);
        drain.onchain_msat = has.onchain_msat;
        let left_msat = has.onchain_msat.saturating_add(has.closing_msat);
        let all_msat = stored.had_msat.saturating_add(out_msat);
        let under_way_msat = drain_rules::under_way(&drain.sends, all_msat, left_msat);
        Ok((out_msat, left_msat.saturating_add(under_way_msat)))
    }

    async fn out_of_channels(&self, stored: &Stored, there_msat: i64) -> Result<i64, Error> {
        let is_closed = |end| end == ChannelEnd::Closed;
        let mut channels = stored.drain.channels.iter();
        if !channels.any(|channel| is_closed(channel.end)) {
            return Ok(0);
        }
        let balance = self.core.balance(&Account::node_channels()).await?;
        let held_msat = stored.out_of_channels.map_or(0, |held| held.amount_msat);
        // What others have on hold leaves by what they do.
        let others_msat = balance.credits_pending.saturating_sub(held_msat).max(0);
        let out_msat = self.in_channels_msat().await?.saturating_sub(there_msat);
        Ok(out_msat.saturating_sub(others_msat).max(0))
    }
}
