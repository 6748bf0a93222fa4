//! Emptying the node: one round of it, again and again until nothing is left.
//!
//! A round closes what can be closed, sends what can be sent, and looks at what is left. It may be
//! cut off anywhere and done again: a channel is closed once, and what was sent is not there to be
//! sent. What was sent and not written down is among the node's own records.

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Transaction, Txid};

use super::drain_model::{DrainSend, DrainState, DrainWait, NodeDrain};
use super::drain_rules::{self, Ask, Asked, Left};
use super::draining::{Stored, again, write_drain};
use super::model::{Keychain, Spend, SpendState, SubmitSpend, Wallet, WithdrawEverything};
use super::watching::corrupt;
use super::withdrawing::is_nothing;
use super::{WALLETS, WalletError, WalletOwner, Wallets, rules};
use crate::Error;
use crate::chain::DRAIN_JOB;
use crate::core::{Loaded, draining, emit};
use crate::ids::{DrainId, TransferId, WalletId};
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::lightning::{LightningError, LightningNode, OnchainWallet, OpenChannel};

/// Nothing must be left as often in a row: a node may have seen a block with one eye only.
const QUIET_ROUNDS: u32 = 2;

/// What the node's own wallet said in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Swept {
    sends: Vec<DrainSend>,
    refusal: Option<String>,
    total_msat: i64,
    spendable_msat: i64,
    has_closings: bool,
    /// What was sent came back.
    came_back: bool,
}

/// What the operator's wallets of the node's seed still have, or have on its way.
struct Waiting {
    /// Spends that are in no block.
    spends: usize,
    /// Why the network does not take one of them.
    refusal: Option<String>,
    /// Coins that wait for a block.
    has_coins: bool,
    /// Coins that a label keeps back.
    frozen: Vec<String>,
}

impl Wallets {
    /// The job that goes on with a drain until it is done: one round at a time.
    pub(crate) async fn go_on_draining(&self, id: DrainId) -> Result<(), Error> {
        let _turn = self.core.drain_turns.take().await;
        if self.load_drain(id).await?.value.drain.state == DrainState::Done {
            return self.core.commit(vec![done(id)]).await.map(drop);
        }
        self.close_channels(id).await?;
        let problem = self.empty_wallets(id).await.err();
        let swept = self.sweep(id).await?;
        self.look_at_what_is_left(id, &swept, problem.as_ref())
            .await?;
        match problem {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn close_channels(&self, id: DrainId) -> Result<(), Error> {
        let node = self.core.node()?;
        let drain = self.load_drain(id).await?.value.drain;
        let now_ms = self.core.clock.now_ms();
        let mut open = Vec::new();
        for channel in node.open_channels().await? {
            let mut known = drain.channels.iter();
            let known = known.find(|known| known.channel == channel.channel);
            let ask = drain_rules::ask(known, &channel, drain.force, now_ms);
            let asked = close(node.as_ref(), &channel, ask, drain.force).await?;
            open.push((channel, asked));
        }
        self.drain_changed(id, |drain| {
            drain.channels = drain_rules::channels(&drain.channels, &open, now_ms);
        })
        .await
    }

    /// Writes down what has changed, if anything has.
    async fn drain_changed(
        &self,
        id: DrainId,
        change: impl Fn(&mut NodeDrain) + Send + Sync,
    ) -> Result<(), Error> {
        let decide = || async {
            let found = self.load_drain(id).await?;
            let mut after = found.value.clone();
            change(&mut after.drain);
            if after == found.value {
                return Ok(None);
            }
            Ok(Some(vec![
                write_drain(&after, found.version)?,
                emit("node.drain_changed", id.to_string(), &after.drain)?,
            ]))
        };
        self.core.settle(decide).await.map(drop)
    }

    /// Empties the operator's wallets of the node's seed: each spend is written down with the
    /// drain, then signed.
    async fn empty_wallets(&self, id: DrainId) -> Result<(), Error> {
        // Without a chain nothing can be sent from there: it is told what stays.
        if self.core.chain.is_none() {
            return Ok(());
        }
        self.give_up_refused(id).await?;
        for wallet in self.node_wallets().await? {
            while self.empty_wallet(id, wallet).await? {}
        }
        let drain = self.load_drain(id).await?.value.drain;
        for spend in drain.spends {
            let found = self.load_spend(spend).await?.value;
            let is_wanted = match found.state {
                SpendState::Prepared => true,
                SpendState::Refused => self.is_taken_now(&found).await?,
                _ => false,
            };
            if !is_wanted {
                continue;
            }
            let submit = SubmitSpend {
                key: id.to_string().parse()?,
                spend,
                psbt: None,
            };
            let decide = || async {
                match self.load_spend(spend).await?.value.state {
                    SpendState::Prepared | SpendState::Refused => {
                        Ok(Some(self.decide_submit(&submit).await?.steps))
                    }
                    _ => Ok(None),
                }
            };
            self.core.settle(decide).await?;
            // It is kept: what goes wrong now is tried again by its job.
            drop(self.broadcast(spend).await);
        }
        Ok(())
    }

    /// What the network refused is made anew where another fee was asked for since.
    async fn give_up_refused(&self, id: DrainId) -> Result<(), Error> {
        let drain = self.load_drain(id).await?.value.drain;
        let Some(fee) = drain.fee_sat_per_kvb else {
            return Ok(());
        };
        for spend in drain.spends {
            let decide = || async {
                let found = self.load_spend(spend).await?.value;
                let is_other = found.fee_sat_per_kvb != fee;
                match found.state == SpendState::Refused && is_other {
                    true => Ok(Some(self.decide_cancel(spend).await?.steps)),
                    false => Ok(None),
                }
            };
            self.core.settle(decide).await?;
        }
        Ok(())
    }

    /// Whether the network takes what it refused before. Nothing is written down before it does: it
    /// is asked in every round.
    async fn is_taken_now(&self, spend: &Spend) -> Result<bool, Error> {
        let transaction = spend.transaction.as_ref();
        let transaction = transaction.ok_or_else(|| corrupt("a transaction"))?;
        let transaction: Transaction =
            deserialize_hex(transaction).map_err(|_| corrupt("a transaction"))?;
        Ok(self.core.chain()?.broadcast(&transaction).await.is_ok())
    }

    async fn node_wallets(&self) -> Result<Vec<WalletId>, Error> {
        let key = rules::owner_key(WalletOwner::Operator);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<Wallet> = self
                .core
                .list(WALLETS, "owner", &key, after, crate::store::MAX_PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = Some(last.id.to_string());
            let of_node = page.iter().filter(|wallet| wallet.is_node);
            found.extend(of_node.map(|wallet| wallet.id));
        }
    }

    /// One transaction of a wallet's coins; false where there is nothing that is worth sending.
    async fn empty_wallet(&self, id: DrainId, wallet: WalletId) -> Result<bool, Error> {
        let decide = || async {
            let found = self.load_drain(id).await?;
            let all = WithdrawEverything {
                key: id.to_string().parse()?,
                wallet,
                address: found.value.drain.address.clone(),
                fee_sat_per_kvb: found.value.drain.fee_sat_per_kvb,
                max_coins: None,
            };
            let decision = match self.decide_part(&all).await {
                Ok(decision) => decision,
                Err(error) if is_nothing(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut after = found.value;
            after.drain.spends.push(decision.answer.id);
            let mut steps = decision.steps;
            steps.push(write_drain(&after, found.version)?);
            Ok(Some(steps))
        };
        Ok(self.core.settle(decide).await?.is_some())
    }

    /// Sends what the node's own wallet has.
    async fn sweep(&self, id: DrainId) -> Result<Swept, Error> {
        let node = self.core.node()?;
        let found = self.load_drain(id).await?.value;
        let wallet = node.onchain_wallet().await?;
        let now_ms = self.core.clock.now_ms();
        let known = &found.drain.sends;
        let mut swept = Swept {
            sends: drain_rules::sends(known, &found.earlier, &wallet.sends, now_ms),
            refusal: None,
            total_msat: wallet.total_msat,
            spendable_msat: wallet.spendable_msat,
            has_closings: wallet.has_closings,
            came_back: false,
        };
        swept.came_back = drain_rules::came_back(&swept.sends, &wallet.sends);
        self.mark_gone(&found, &mut swept.sends, &wallet).await?;
        let channels = &found.drain.channels;
        if swept.came_back {
            let own = WalletError::OwnAddress;
            swept.refusal = Some(format!("{}: {own}", own.code()));
        } else if drain_rules::sends_now(channels, &swept.sends, &wallet, now_ms) {
            let (address, fee) = (&found.drain.address, found.drain.fee_sat_per_kvb);
            match node.send_all_onchain(address, fee).await {
                // The same again, broadcast once more.
                Ok(txid) if swept.sends.iter().any(|send| send.txid == txid) => {}
                Ok(txid) => swept.sends.push(DrainSend {
                    txid,
                    of_msat: wallet.spendable_msat,
                    amount_msat: None,
                    fee_msat: None,
                    is_confirmed: false,
                    is_gone: false,
                    sent_at_ms: now_ms,
                }),
                Err(LightningError::Refused { reason }) => swept.refusal = Some(reason),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(swept)
    }

    /// Marks what was sent and will be in no block: what was replaced, or fell out of the mempools
    /// and was sent again. What the chain's server still has is waited for.
    pub(super) async fn mark_gone(
        &self,
        found: &Stored,
        sends: &mut [DrainSend],
        wallet: &OnchainWallet,
    ) -> Result<(), Error> {
        let now_ms = self.core.clock.now_ms();
        let all_msat = self.in_channels_msat().await?;
        let all_msat = all_msat.saturating_add(found.had_msat);
        let known = sends.to_vec();
        for send in sends {
            if drain_rules::is_gone(send, &known, all_msat, wallet, now_ms) {
                send.is_gone = !self.is_known_to_the_chain(&send.txid).await;
            }
        }
        Ok(())
    }

    /// A server that does not say is taken to know it.
    async fn is_known_to_the_chain(&self, txid: &str) -> bool {
        let (Ok(chain), Ok(txid)) = (self.core.chain(), txid.parse::<Txid>()) else {
            return false;
        };
        !matches!(chain.transaction(txid, None).await, Ok(None))
    }

    /// What the node has in its channels by the books.
    pub(super) async fn in_channels_msat(&self) -> Result<i64, Error> {
        let channels = Account::node_channels();
        let balance = self.core.store.balance(&channels).await?;
        let booked_msat = i64::try_from(balance.posted(channels.kind().side()));
        Ok(booked_msat.unwrap_or(i64::MAX).max(0))
    }

    async fn look_at_what_is_left(
        &self,
        id: DrainId,
        swept: &Swept,
        problem: Option<&Error>,
    ) -> Result<(), Error> {
        let has = self.core.node()?.balances().await?;
        let worth_nothing_msat = self.worth_nothing_msat(id, swept).await?;
        self.core
            .settle(|| async {
                let found = self.load_drain(id).await?;
                let mut after = found.value.clone();
                let drain = &mut after.drain;
                (drain.channels_msat, drain.closing_msat) = (has.channels_msat, has.closing_msat);
                drain.onchain_msat = swept.total_msat;
                drain.sends = drain_rules::merged(&drain.sends, &swept.sends);
                let waiting = self.waiting(drain).await?;
                drain.refusal = problem
                    .map(Error::detail)
                    .or_else(|| swept.refusal.clone())
                    .or(waiting.refusal);
                drain.frozen = waiting.frozen;
                let left = Left {
                    total_msat: swept.total_msat,
                    spendable_msat: swept.spendable_msat,
                    worth_nothing_msat,
                    has_closings: swept.has_closings,
                    came_back: swept.came_back,
                    has_waiting_coins: waiting.has_coins,
                    spends: waiting.spends + usize::from(problem.is_some()),
                    has_payments: self.has_payments(&after).await?,
                };
                let drain = &mut after.drain;
                drain.waits_for = drain_rules::waits_for(drain, left);
                drain.state = drain_rules::state(&drain.waits_for);
                after.quiet_rounds = match drain.state {
                    DrainState::Settling => found.value.quiet_rounds.saturating_add(1),
                    _ => 0,
                };
                after.quiet_rounds = after.quiet_rounds.min(QUIET_ROUNDS);
                self.round_over(&found, after).await.map(Some)
            })
            .await
            .map(drop)
    }

    /// What the node may refuse to send and leave behind: by the fee that was asked for, or that the
    /// chain's server says.
    async fn worth_nothing_msat(&self, id: DrainId, swept: &Swept) -> Result<i64, Error> {
        let mut fee = None;
        if swept.refusal.is_some() {
            let asked = self.load_drain(id).await?.value.drain.fee_sat_per_kvb;
            fee = self.fee_or_usual(asked).await.ok();
        }
        Ok(drain_rules::worth_nothing(fee))
    }

    /// The steps that end a round, and the drain with it where nothing is left.
    async fn round_over(
        &self,
        found: &Loaded<Stored>,
        mut after: Stored,
    ) -> Result<Vec<Step>, Error> {
        let (id, now_ms) = (after.drain.id, self.core.clock.now_ms());
        let is_over = after.quiet_rounds >= QUIET_ROUNDS
            && !after.drain.waits_for.contains(&DrainWait::Payments);
        let mut steps = Vec::new();
        let event = if is_over {
            let (all_msat, left_msat) = (self.in_channels_msat().await?, after.drain.onchain_msat);
            steps.extend(self.booked(&mut after, all_msat, left_msat)?);
            steps.push(draining(None, self.core.draining().await?.version)?);
            steps.push(done(id));
            "node.drain_done"
        } else {
            steps.extend(self.held(&mut after).await?);
            let at_ms = now_ms.saturating_add(self.core.settings.chain_poll_ms.max(0));
            steps.push(again(id, at_ms));
            "node.drain_changed"
        };
        if after != found.value {
            steps.push(write_drain(&after, found.version)?);
        }
        if after.drain != found.value.drain {
            steps.push(emit(event, id.to_string(), &after.drain)?);
        }
        Ok(steps)
    }

    async fn waiting(&self, drain: &NodeDrain) -> Result<Waiting, Error> {
        use SpendState::{Broadcast, Broadcasting, Prepared, Refused};
        let mut waiting = Waiting {
            spends: 0,
            refusal: None,
            has_coins: false,
            frozen: Vec::new(),
        };
        let not_configured = self.core.chain().err().map(Error::from);
        for spend in &drain.spends {
            let spend = self.load_spend(*spend).await?.value;
            let is_open = matches!(spend.state, Prepared | Broadcasting | Broadcast | Refused);
            // Without a chain nobody sees what becomes of them, or ever will.
            waiting.spends += usize::from(is_open && not_configured.is_none());
            waiting.refusal = waiting.refusal.or(spend.refusal.filter(|_| is_open));
        }
        for wallet in self.node_wallets().await? {
            let frozen = self.frozen(wallet).await?;
            for (_, coin) in self.core.unspent(wallet).await? {
                if let Some(error) = &not_configured {
                    let says = || format!("{}: {error}", error.code());
                    waiting.refusal.get_or_insert_with(says);
                } else if frozen.contains(&coin.outpoint) {
                    waiting.frozen.push(coin.outpoint);
                } else if coin.confirmations == 0 && coin.keychain == Keychain::External {
                    waiting.has_coins |= coin.reserved_by.is_none();
                }
            }
        }
        Ok(waiting)
    }

    /// Others than the drain have money of the channels on hold.
    async fn has_payments(&self, stored: &Stored) -> Result<bool, Error> {
        let balance = self.core.balance(&Account::node_channels()).await?;
        let ours_msat = stored.out_of_channels.map_or(0, |held| held.amount_msat);
        Ok(balance.credits_pending > ours_msat || balance.debits_pending > 0)
    }

    /// The steps that book what has left, in the place of what was on hold for it: `out_msat` of what
    /// the channels had by the books is there no more, and the node has `left_msat` beside them.
    pub(super) fn booked(
        &self,
        stored: &mut Stored,
        out_msat: i64,
        left_msat: i64,
    ) -> Result<Vec<Step>, Error> {
        let [channels, onchain] = [Account::node_channels(), Account::node_onchain()];
        let had_msat = stored.had_msat;
        let drain = &mut stored.drain;
        let settled = drain_rules::settled(drain, out_msat, had_msat, left_msat);
        (drain.state, drain.done_at_ms) = (DrainState::Done, Some(self.core.clock.now_ms()));
        drain.closing_fees_msat = Some(settled.closing_fees_msat);
        let holds = [stored.out_of_channels.take(), stored.out_of_books.take()];
        let holds = holds.into_iter().flatten();
        let mut steps: Vec<Step> = holds
            .map(|held| Step::Release { hold: held.hold })
            .collect();
        let (capital, drain) = (Account::operator_capital(), &stored.drain);
        let fee = TransferKind::ChainFee;
        for (debit, credit, amount, kind) in [
            (
                onchain,
                channels,
                settled.came_msat,
                TransferKind::ChannelClosed,
            ),
            (capital, channels, settled.closing_fees_msat, fee),
            (capital, onchain, drain.sent_msat(), TransferKind::Capital),
            (capital, onchain, drain.fees_msat(), fee),
            (capital, onchain, settled.wallet_fees_msat, fee),
        ] {
            if amount > 0 {
                steps.push(Step::Transfer(NewTransfer {
                    id: self.core.new_id(TransferId::from_parts)?,
                    debit,
                    credit,
                    amount,
                    kind,
                    reference: drain.id.to_string(),
                    credit_ceiling: None,
                }));
            }
        }
        Ok(steps)
    }
}

async fn close(
    node: &dyn LightningNode,
    channel: &OpenChannel,
    ask: Ask,
    force: bool,
) -> Result<Asked, Error> {
    let name = channel.channel.as_str();
    let (asked, is_forced) = match ask {
        Ask::Nothing => return Ok(Asked::Nothing),
        Ask::Alone => (node.close_open_channel(name, true).await, true),
        Ask::Together => match node.close_open_channel(name, false).await {
            Err(LightningError::Refused { .. }) if force => {
                (node.close_open_channel(name, true).await, true)
            }
            asked => (asked, false),
        },
    };
    match asked {
        Ok(()) if is_forced => Ok(Asked::Alone),
        Ok(()) => Ok(Asked::Agreed),
        Err(LightningError::Refused { reason }) => Ok(Asked::Refused(reason)),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn done(id: DrainId) -> Step {
    let (kind, object) = (DRAIN_JOB, id.to_string());
    Step::Done { kind, object }
}
